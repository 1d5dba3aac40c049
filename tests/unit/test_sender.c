/* SPDX-License-Identifier: MIT */
/*
 * The sender between a page source made of plain memory and a peer that keeps what comes: what
 * arrives, in which order, and what happens to the source when anything goes wrong.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/clock.h"
#include "proto/batch.h"
#include "proto/message.h"
#include "tests/harness.h"
#include "transport/sender.h"

enum { PAGE = 4096, PAGES = 1200, BASE = 0x10000000 };

/* --- a page source whose process is an array
 * ------------------------------------------------------- */

static struct {
	struct page_source base;
	uint8_t memory[PAGES][PAGE];
	bool dirty[PAGES], known[PAGES], present[PAGES], unreadable[PAGES];
	bool doubtful[PAGES]; /* found by every collect; others may write it without a sign */
	bool says_zero;       /* what is zero is found to be, and not read */
	space_id space;       /* that the array is */
	struct change_set changes;
	int collects, settles, freezes, thaws, releases;
	enum thaw_mode mode;
	_Atomic bool frozen; /* the loop asks too */
	int freeze_result, thaw_result, collect_fails_at;
	int dirty_each_round; /* pages that are written before every collect, for ever */
	void (*before_collect)(int number); /* the first is 1 */
	unsigned throttled[32];             /* what was asked for, in order; 100 for the freeze */
	int nthrottled;
	bool cannot_throttle;
	bool committed_before_thaw; /* the peer had said COMMITTED when the source was let go */
} fake;

static int fake_describe(struct page_source *s, struct process_info *ret, struct tide_error *err)
{
	(void)s;
	(void)err;
	*ret = (struct process_info){
		.pid = 42, .start_time = 7, .comm = "fake", .exe = "", .command_line = "fake it"};
	return 0;
}

static void fake_write(int page, uint8_t value)
{
	memset(fake.memory[page], value, PAGE);
	fake.memory[page][page % PAGE] ^= 0x55;
	fake.dirty[page] = fake.present[page] = true;
}

static void fake_changes_release(void)
{
	mapping_diff_release(&fake.changes.mappings);
	free(fake.changes.drops);
	free(fake.changes.written);
	fake.changes = (struct change_set){0};
}

static void fake_add_page(struct change_set *c, int page)
{
	uint64_t at = BASE + (uint64_t)page * PAGE;
	static const uint8_t zero[PAGE];
	struct page_span *last = c->nwritten ? &c->written[c->nwritten - 1] : NULL;
	bool is_zero = fake.says_zero && memcmp(fake.memory[page], zero, PAGE) == 0;
	bool doubtful = fake.doubtful[page] && !fake.dirty[page];
	if (last && last->at + last->bytes == at && last->zero == is_zero &&
		last->doubtful == doubtful)
		last->bytes += PAGE;
	else if (c->written)
		c->written[c->nwritten++] = (struct page_span){.space = fake.space,
			.at = at,
			.address = at,
			.bytes = PAGE,
			.zero = is_zero,
			.doubtful = doubtful};
	c->written_pages++;
	c->reread_pages += doubtful;
}

static int fake_collect(
	struct page_source *s, const struct change_set **ret, struct tide_error *err)
{
	(void)s;
	struct change_set *c = &fake.changes;
	if (++fake.collects == fake.collect_fails_at) {
		err->code = -ESRCH;
		err->kind = TIDE_ERROR_TARGET_GONE;
		strcpy(err->text, "the array ended");
		return -ESRCH;
	}
	fake_changes_release();
	if (fake.collects == 1) {
		struct mapping m = {.start = BASE,
			.end = BASE + PAGES * PAGE,
			.prot = PROT_READ | PROT_WRITE,
			.kind = MAPPING_ANON,
			.name = strdup("")};
		mapping_table_append(&c->mappings.added, &m);
		mapping_release(&m);
	}
	if (fake.before_collect)
		fake.before_collect(fake.collects);
	for (int i = 0; !fake.frozen && i < fake.dirty_each_round; i++)
		fake_write(i, (uint8_t)fake.collects);
	c->drops = calloc(PAGES, sizeof(*c->drops));
	c->written = calloc(PAGES, sizeof(*c->written));
	for (int i = 0; i < PAGES; i++) {
		uint64_t at = BASE + (uint64_t)i * PAGE;
		if (fake.known[i] && !fake.present[i])
			c->drops[c->ndrops++] = (struct page_drop){
				.space = fake.space, .run = {at, at + PAGE}, .kind = DROP_GONE};
		if (fake.present[i] && (fake.dirty[i] || fake.doubtful[i]))
			fake_add_page(c, i);
		c->held_pages += fake.present[i];
		fake.known[i] = fake.present[i];
		fake.dirty[i] = false;
	}
	c->interval_ns = 1000000;
	*ret = c;
	return 0;
}

static int fake_pending(struct page_source *s, uint64_t *ret, struct tide_error *err)
{
	(void)s;
	(void)err;
	*ret = (uint64_t)fake.dirty_each_round;
	return 0;
}

/* As the contract has it: what is left of the span behind a page that cannot be read is owed. */
static int fake_read(struct page_source *s, const struct page_span *spans, size_t n, void *buf,
	uint64_t *ret_bytes, struct tide_error *err)
{
	(void)s;
	(void)err;
	*ret_bytes = 0;
	for (size_t i = 0; i < n; i++) {
		for (uint64_t k = 0; k < spans[i].bytes; k += PAGE) {
			size_t page = (spans[i].address + k - BASE) / PAGE;
			if (fake.unreadable[page] && !fake.frozen) {
				for (; k < spans[i].bytes; k += PAGE)
					fake.dirty[page++] = true;
				return 0;
			}
			memcpy((uint8_t *)buf + *ret_bytes, fake.memory[page], PAGE);
			*ret_bytes += PAGE;
		}
	}
	return 0;
}

static int fake_settle(struct page_source *s, bool acknowledged, struct tide_error *err)
{
	(void)s;
	(void)err;
	CU_ASSERT_TRUE(acknowledged);
	fake.settles++;
	return 0;
}

static int fake_freeze(struct page_source *s, uint64_t timeout_ns, struct tide_error *err)
{
	(void)s;
	(void)timeout_ns;
	fake.freezes++;
	if (fake.freeze_result < 0) {
		*err = (struct tide_error){.code = fake.freeze_result,
			.kind = TIDE_ERROR_FAILED,
			.text = "it does not stop"};
		return fake.freeze_result;
	}
	fake.frozen = true;
	fake.throttled[fake.nthrottled++] = 100;
	/* What was written before it stood still, and was not collected yet. */
	for (int i = 0; i < 20; i++)
		fake_write(i * 7, 0xee);
	return 0;
}

static int fake_freeze_keep(struct page_source *s, struct tide_error *err)
{
	(void)s;
	(void)err;
	return 0;
}

static int fake_state(
	struct page_source *s, const struct process_state **ret, struct tide_error *err)
{
	static struct state_thread thread = {.tid = 42, .name = "fake"};
	static struct process_state state = {
		.version = STATE_VERSION, .state = 'R', .threads = &thread, .nthreads = 1};
	(void)s;
	(void)err;
	CU_ASSERT_TRUE(fake.frozen);
	*ret = &state;
	return 0;
}

/* --- the peer
 * -------------------------------------------------------------------------------------- */

static struct {
	struct connection *conn;
	uint8_t memory[PAGES][PAGE];
	bool held[PAGES];
	int came[PAGES];             /* how often */
	uint64_t turn[PAGES], turns; /* when it came last, of all pages that came */
	bool committed;
	uint64_t rounds;
	/* Further connections of the session, and what came over each. */
	struct connection *lanes[2];
	uint64_t lane_frames[2];
	struct round_end end; /* came before all of its pages */
	bool has_end, has_commit;
	struct commit commit;
	uint64_t pages, round_pages;
	uint64_t features;
	int fails_at_round; /* answers ERROR to the end of that round; -1: never */
	int goes_at_round;  /* closes there */
	enum { PEER_TAKES = 0, PEER_GOES, PEER_CANCELS } at_first_pages;
	bool is_over; /* it failed, or went: what still comes does not matter */
} peer;

static int fake_thaw(struct page_source *s, enum thaw_mode mode, struct tide_error *err)
{
	(void)s;
	fake.thaws++;
	fake.mode = mode;
	fake.frozen = false;
	fake.committed_before_thaw = __atomic_load_n(&peer.committed, __ATOMIC_SEQ_CST);
	if (fake.thaw_result < 0)
		*err = (struct tide_error){.code = fake.thaw_result,
			.kind = TIDE_ERROR_FAILED,
			.text = "the freeze took too long"};
	return fake.thaw_result;
}

static int fake_throttle(struct page_source *s, unsigned percent, struct tide_error *err)
{
	(void)s;
	CU_ASSERT_TRUE_FATAL(fake.nthrottled < 31);
	fake.throttled[fake.nthrottled++] = percent;
	if (percent == 0 || !fake.cannot_throttle)
		return 0;
	*err = (struct tide_error){
		.code = -ECANCELED, .kind = TIDE_ERROR_FAILED, .text = "the array does not care"};
	return -ECANCELED;
}

static void fake_release(struct page_source *s)
{
	(void)s;
	fake.frozen = false;
	fake.releases++;
}

static const struct page_source_ops fake_ops = {
	.describe = fake_describe,
	.collect = fake_collect,
	.pending = fake_pending,
	.read = fake_read,
	.settle = fake_settle,
	.freeze = fake_freeze,
	.freeze_keep = fake_freeze_keep,
	.state = fake_state,
	.thaw = fake_thaw,
	.throttle = fake_throttle,
	.release = fake_release,
};

static void peer_send(int encoded, struct frame_buffer *b)
{
	struct tide_error err;
	CU_ASSERT_EQUAL(encoded, 0);
	/* A sender that has given up may be gone by now. */
	int r = connection_send(peer.conn, b, &err);
	CU_ASSERT_TRUE(r == 0 || r == -EPIPE);
}

/* What it holds of the pages of a delta block: they must be held. */
static const uint8_t *peer_former(const struct batch *b, uint32_t block)
{
	static uint8_t former[BLOCK_PAGES_MAX * PAGE];
	struct page_run runs[BLOCK_PAGES_MAX];
	uint8_t *to = former;
	uint32_t n = batch_block_runs(b, block, runs);
	for (uint32_t i = 0; i < n; i++) {
		for (uint64_t at = runs[i].start; at < runs[i].end; at += PAGE, to += PAGE) {
			CU_ASSERT_TRUE(peer.held[(at - BASE) / PAGE]);
			memcpy(to, peer.memory[(at - BASE) / PAGE], PAGE);
		}
	}
	return former;
}

static void peer_take_pages(const struct frame *f)
{
	static struct batch b;
	static uint8_t pages[BATCH_PAGES_MAX * PAGE];
	struct tide_error err;
	CU_ASSERT_EQUAL_FATAL(batch_decode(f, PAGE, peer.features, &b, &err), 0);
	uint8_t *to = pages;
	for (uint32_t i = 0; i < b.nblocks; i++) {
		const uint8_t *former =
			b.blocks[i].codec == CODEC_DELTA ? peer_former(&b, i) : NULL;
		CU_ASSERT_EQUAL(batch_block_read(&b, i, f->payload, former, to, &err), 0);
		to += (size_t)b.blocks[i].pages * PAGE;
	}
	const uint8_t *from = pages;
	for (uint32_t i = 0; i < b.nruns; i++) {
		for (uint64_t at = b.runs[i].start; at < b.runs[i].end; at += PAGE, from += PAGE) {
			memcpy(peer.memory[(at - BASE) / PAGE], from, PAGE);
			peer.held[(at - BASE) / PAGE] = true;
			peer.came[(at - BASE) / PAGE]++;
			peer.turn[(at - BASE) / PAGE] = ++peer.turns;
			peer.round_pages++;
		}
	}
}

static void peer_drop(const struct frame *f)
{
	struct drops_message m;
	struct tide_error err;
	CU_ASSERT_EQUAL_FATAL(drops_decode(f, &m, &err), 0);
	for (size_t i = 0; i < m.ndrops; i++) {
		for (uint64_t at = m.drops[i].run.start; at < m.drops[i].run.end; at += PAGE)
			peer.held[(at - BASE) / PAGE] = false;
	}
	drops_release(&m);
}

static struct {
	bool done, failed;
	struct sender_result result;
	struct tide_error error;
	int rounds;
	uint64_t pages, unchanged_pages; /* as the rounds say, added up */
	struct sender *sender;
	int cancel_at_round;
	struct sender_round last; /* before the freeze */
} sending;

static void peer_end_round(struct connection *c, const struct round_end *end)
{
	struct frame_buffer out = {0};
	CU_ASSERT_EQUAL(end->number, peer.rounds);
	CU_ASSERT_EQUAL(end->pages, peer.round_pages);
	peer.rounds++;
	peer.pages += peer.round_pages;
	peer.round_pages = 0;
	peer.is_over =
		(int)end->number == peer.fails_at_round || (int)end->number == peer.goes_at_round;
	if ((int)end->number == peer.fails_at_round) {
		struct error_message m = {.kind = TIDE_ERROR_FAILED, .text = "the disk is full"};
		peer_send(error_message_encode(&m, &out), &out);
	} else if ((int)end->number == peer.goes_at_round) {
		connection_shutdown(c);
	} else {
		peer_send(round_ack_encode(&(struct round_ack){.round = end->number}, &out), &out);
	}
}

static void peer_commit(const struct commit *commit)
{
	struct frame_buffer out = {0};
	struct committed done = {.name = "test", .stored_bytes = 99};
	memcpy(done.stream_id, commit->stream_id, ID_BYTES);
	__atomic_store_n(&peer.committed, true, __ATOMIC_SEQ_CST);
	peer_send(committed_encode(&done, &out), &out);
}

/* What waited for the pages of other connections. */
static void peer_go_on(void)
{
	if (peer.has_end && peer.end.pages == peer.round_pages) {
		peer.has_end = false;
		peer_end_round(peer.conn, &peer.end);
	}
	if (peer.has_end || !peer.has_commit)
		return;
	/* Their end is nothing that the sender may take for a failure now. */
	for (int i = 0; i < 2; i++)
		if (peer.lanes[i])
			connection_shutdown(peer.lanes[i]);
	peer.has_commit = peer.lanes[0] || peer.lanes[1];
	if (!peer.has_commit)
		peer_commit(&peer.commit);
}

static void lane_frame(void *arg, struct connection *c, const struct frame *f)
{
	uint64_t *frames = arg;
	struct join_request request;
	struct join_reply reply;
	struct frame_buffer out = {0};
	struct tide_error err;
	if (f->type == FRAME_JOIN) {
		CU_ASSERT_EQUAL(join_request_decode(f, &request, &err), 0);
		memcpy(reply.session_id, request.session_id, ID_BYTES);
		CU_ASSERT_EQUAL(join_reply_encode(&reply, &out), 0);
		CU_ASSERT_EQUAL(connection_send(c, &out, &err), 0);
		return;
	}
	CU_ASSERT_EQUAL_FATAL(f->type, FRAME_PAGES);
	++*frames;
	peer_take_pages(f);
	peer_go_on();
}

static void lane_ended(void *arg, struct connection *c, const struct tide_error *err)
{
	(void)err;
	size_t i = (size_t)((uint64_t *)arg - peer.lane_frames);
	connection_close(c, NULL, NULL);
	peer.lanes[i] = NULL;
	peer_go_on();
}

static void peer_frame(void *arg, struct connection *c, const struct frame *f)
{
	(void)arg;
	struct frame_buffer out = {0};
	struct tide_error err;
	struct open_request request;
	struct round_end end;
	struct commit commit;
	struct stream_header stream;
	if (peer.is_over)
		return;
	switch (f->type) {
	case FRAME_OPEN: {
		CU_ASSERT_EQUAL(open_request_decode(f, &request, &err), 0);
		CU_ASSERT_STRING_EQUAL(request.name, "test");
		struct open_reply reply = {.name = "test"};
		memcpy(reply.session_id, request.session_id, ID_BYTES);
		peer_send(open_reply_encode(&reply, &out), &out);
		break;
	}
	case FRAME_STREAM:
		CU_ASSERT_EQUAL(stream_header_decode(f, &stream, &err), 0);
		peer.features = stream.features;
		break;
	case FRAME_PAGES:
		peer_take_pages(f);
		peer.is_over = peer.at_first_pages != PEER_TAKES;
		if (peer.at_first_pages == PEER_GOES)
			connection_shutdown(c);
		if (peer.at_first_pages == PEER_CANCELS)
			sender_cancel(sending.sender);
		break;
	case FRAME_DROPS:
		peer_drop(f);
		break;
	case FRAME_ROUND_END:
		CU_ASSERT_EQUAL(round_end_decode(f, &end, &err), 0);
		if (end.pages > peer.round_pages && peer.lanes[0]) {
			peer.end = end;
			peer.has_end = true;
			break;
		}
		peer_end_round(c, &end);
		break;
	case FRAME_COMMIT:
		CU_ASSERT_EQUAL(commit_decode(f, &commit, &err), 0);
		peer.commit = commit;
		peer.has_commit = true;
		peer_go_on();
		break;
	default:
		break;
	}
}

static void peer_ended(void *arg, struct connection *c, const struct tide_error *err)
{
	(void)arg;
	(void)err;
	connection_close(c, NULL, NULL);
	peer.conn = NULL;
}

/* --- one send
 * -------------------------------------------------------------------------------------- */

static void on_round(void *arg, const struct sender_round *r)
{
	(void)arg;
	sending.pages += r->record.pages;
	sending.unchanged_pages += r->record.unchanged_pages;
	if (!r->final)
		sending.last = *r;
	/* Who prints now may print to the frozen process. */
	CU_ASSERT_FALSE(fake.frozen);
	if (++sending.rounds == sending.cancel_at_round)
		sender_cancel(sending.sender);
}

static void on_done(void *arg, const struct sender_result *result, const struct tide_error *err)
{
	(void)arg;
	sending.done = true;
	sending.failed = err != NULL;
	if (err)
		sending.error = *err;
	else
		sending.result = *result;
	if (peer.conn)
		connection_shutdown(peer.conn);
}

static void setup(void)
{
	memset(&fake, 0, sizeof(fake));
	memset(&peer, 0, sizeof(peer));
	memset(&sending, 0, sizeof(sending));
	fake.base.ops = &fake_ops;
	peer.fails_at_round = peer.goes_at_round = -1;
}

static void teardown(void)
{
	fake_changes_release();
}

static void run_over(struct sender_options options, unsigned nlanes)
{
	static const struct sender_callbacks callbacks = {.round = on_round, .done = on_done};
	uv_loop_t loop;
	struct byte_stream *ends[2];
	struct connection *conns[3];
	struct tide_error err;
	uv_loop_init(&loop);
	CU_ASSERT_EQUAL_FATAL(byte_stream_memory_pair(&loop, 1 << 20, 0, ends), 0);
	struct connection_options defaults = {0};
	struct connection_handler handler = {.frame = peer_frame, .ended = peer_ended};
	CU_ASSERT_EQUAL_FATAL(
		connection_open(&loop, ends[1], &defaults, &handler, &peer.conn, &err), 0);
	CU_ASSERT_EQUAL_FATAL(
		connection_open(&loop, ends[0], &defaults, &handler, &conns[0], &err), 0);
	for (unsigned i = 0; i < nlanes; i++) {
		struct connection_handler lane = {
			.frame = lane_frame, .ended = lane_ended, .arg = &peer.lane_frames[i]};
		CU_ASSERT_EQUAL_FATAL(byte_stream_memory_pair(&loop, 1 << 20, 0, ends), 0);
		CU_ASSERT_EQUAL_FATAL(
			connection_open(&loop, ends[1], &defaults, &lane, &peer.lanes[i], &err), 0);
		CU_ASSERT_EQUAL_FATAL(
			connection_open(&loop, ends[0], &defaults, &handler, &conns[i + 1], &err),
			0);
	}
	options.name = "test";
	options.sink = SINK_IMAGE;
	options.limits = frame_limits_max;
	if (!options.threads)
		options.threads = 2;
	if (!options.max_rounds)
		options.max_rounds = 10;
	if (!options.max_downtime_ns)
		options.max_downtime_ns = 1000000000;
	options.freeze_timeout_ns = 1000000000;
	CU_ASSERT_EQUAL_FATAL(sender_start(&loop, conns, nlanes + 1, &fake.base, &options,
				      &callbacks, NULL, &sending.sender, &err),
		0);
	uv_run(&loop, UV_RUN_DEFAULT);
	CU_ASSERT_EQUAL(uv_loop_close(&loop), 0);
	CU_ASSERT_TRUE(sending.done);
	CU_ASSERT_EQUAL(fake.releases, 1);
	sender_free(sending.sender);
}

static void run(struct sender_options options)
{
	run_over(options, 0);
}

static void expect_equal(void)
{
	CU_ASSERT_FALSE(sending.failed);
	if (sending.failed)
		printf("%s\n", sending.error.text);
	for (int i = 0; i < PAGES; i++) {
		CU_ASSERT_EQUAL_FATAL(peer.held[i], fake.present[i]);
		if (peer.held[i])
			CU_ASSERT_EQUAL_FATAL(memcmp(peer.memory[i], fake.memory[i], PAGE), 0);
	}
	CU_ASSERT_EQUAL(sending.result.pages_sent, peer.pages);
	CU_ASSERT_EQUAL(sending.pages, peer.pages);
	CU_ASSERT_EQUAL(sending.unchanged_pages, sending.result.unchanged_pages);
}

static void fill(void)
{
	for (int i = 0; i < PAGES; i++) {
		if (i % 13 != 5)
			fake_write(i, (uint8_t)i);
	}
}

static void test_pages_go_by_all_connections(void)
{
	fill();
	fake.dirty_each_round = 1000;
	run_over((struct sender_options){.max_downtime_ns = 1, .max_rounds = 5}, 2);
	expect_equal();
	CU_ASSERT_TRUE(peer.lane_frames[0] > 0);
	CU_ASSERT_TRUE(peer.lane_frames[1] > 0);
}

static void test_everything_arrives(void)
{
	fill();
	run((struct sender_options){.codec = codec_by_name("lz4")});
	expect_equal();
	CU_ASSERT_EQUAL(sending.result.rounds, 2);
	CU_ASSERT_EQUAL(sending.rounds, 2);
	CU_ASSERT_EQUAL(sending.result.stored_bytes, 99);
	CU_ASSERT_EQUAL(fake.settles, 1);
	CU_ASSERT_EQUAL(fake.thaws, 1);
	CU_ASSERT_EQUAL(fake.mode, THAW_RUN);
}

static void test_dropped_pages_are_dropped_there(void)
{
	fill();
	fake.dirty_each_round = 3;
	fake.known[5] = true; /* held once, and not any more */
	peer.held[5] = true;
	run((struct sender_options){.codec = NULL});
	expect_equal();
}

static void test_pages_that_cannot_be_read_do_not_stop_the_others(void)
{
	fill();
	fake.unreadable[100] = fake.unreadable[101] = fake.unreadable[700] = true;
	run((struct sender_options){0});
	expect_equal();
	/* Most came in the first round. */
	CU_ASSERT_TRUE(sending.result.pages_sent < PAGES + BATCH_PAGES_MAX);
}

static void test_a_process_that_goes_on_does_not_wait_for_the_peer(void)
{
	fill();
	run((struct sender_options){.after = THAW_RUN});
	expect_equal();
	CU_ASSERT_FALSE(fake.committed_before_thaw);
}

static void test_a_process_that_ends_does_so_after_the_commit(void)
{
	fill();
	run((struct sender_options){.after = THAW_KILL});
	expect_equal();
	CU_ASSERT_EQUAL(fake.mode, THAW_KILL);
	CU_ASSERT_TRUE(fake.committed_before_thaw);
}

static void expect_throttles(const unsigned *percents, int n)
{
	CU_ASSERT_EQUAL_FATAL(fake.nthrottled, n);
	for (int i = 0; i < n; i++)
		CU_ASSERT_EQUAL(fake.throttled[i], percents[i]);
}

static void test_who_writes_too_fast_is_throttled_harder_and_harder(void)
{
	static const unsigned course[] = {0, 20, 30, 40, 50, 60, 70, 80, 90, 99, 100};
	fill();
	fake.dirty_each_round = 1000;
	run((struct sender_options){
		.max_downtime_ns = 1, .max_rounds = 30, .if_diverging = DIVERGING_THROTTLE});
	expect_equal();
	expect_throttles(course, 11);
	CU_ASSERT_EQUAL(sending.result.throttle_percent, 99);
	CU_ASSERT_EQUAL(sending.last.throttle_percent, 99);
	CU_ASSERT_EQUAL(sending.rounds, 4 + 9 * 2 + 1);
}

static void test_who_cannot_be_throttled_is_frozen(void)
{
	static const unsigned course[] = {0, 20, 100};
	fill();
	fake.dirty_each_round = 1000;
	fake.cannot_throttle = true;
	run((struct sender_options){
		.max_downtime_ns = 1, .max_rounds = 30, .if_diverging = DIVERGING_THROTTLE});
	expect_equal();
	expect_throttles(course, 3);
	CU_ASSERT_PTR_NOT_NULL(strstr(sending.last.why, "the array does not care"));
	CU_ASSERT_EQUAL(sending.result.throttle_percent, 0);
}

static void test_who_diverges_goes_on_where_that_was_asked_for(void)
{
	fill();
	fake.dirty_each_round = 1000;
	run((struct sender_options){
		.max_downtime_ns = 1, .max_rounds = 30, .if_diverging = DIVERGING_ABORT});
	CU_ASSERT_TRUE(sending.failed);
	CU_ASSERT_EQUAL(sending.error.code, -ECANCELED);
	CU_ASSERT_EQUAL(sending.error.kind, TIDE_ERROR_FAILED);
	CU_ASSERT_PTR_NOT_NULL(strstr(sending.error.text, "is written and"));
	CU_ASSERT_EQUAL(fake.freezes, 0);
	CU_ASSERT_EQUAL(fake.nthrottled, 0);
	CU_ASSERT_FALSE(peer.committed);
	/* The round that decided it is told, too. */
	CU_ASSERT_EQUAL(sending.rounds, 4);
}

static uint64_t elapsed_ns(struct sender_options options)
{
	uint64_t began_ns = clock_now_ns();
	run(options);
	return clock_now_ns() - began_ns;
}

static void test_a_limit_of_bandwidth_is_kept(void)
{
	fill();
	/* 1,107 pages of 4 KiB, not one of them compressed. */
	uint64_t took_ns = elapsed_ns((struct sender_options){.max_bytes_per_second = 20000000});
	expect_equal();
	/* But for the first frame and what may be saved. */
	CU_ASSERT_TRUE(took_ns > (1107 - 256) * 4096ull * NS_PER_S / 20000000 - PACING_BURST_NS);
}

static void write_everything(int collect)
{
	for (int i = 0; i < PAGES && fake.frozen && collect == 2; i++)
		fake_write(i, 9);
}

static void test_the_freeze_is_not_paced(void)
{
	fake_write(1, 1);
	fake.before_collect = write_everything;
	/* Paced it would take 49 s. */
	run((struct sender_options){.max_bytes_per_second = 100000});
	expect_equal();
	CU_ASSERT_EQUAL(sending.result.rounds, 2);
	CU_ASSERT_TRUE(sending.result.downtime_ns < 20 * NS_PER_S);
}

static void test_who_waits_for_his_turn_hears_of_the_end(void)
{
	/* The first frame goes at once, the next an hour later. */
	struct sender_options slow = {.max_bytes_per_second = 300};
	fill();
	peer.at_first_pages = PEER_GOES;
	run(slow);
	CU_ASSERT_TRUE(sending.failed);

	teardown();
	setup();
	fill();
	peer.at_first_pages = PEER_CANCELS;
	run(slow);
	CU_ASSERT_TRUE(sending.failed);
	CU_ASSERT_EQUAL(sending.error.code, -ECANCELED);
}

static void write_hot_pages(int collect)
{
	for (int i = 0; i < 100 && collect == 2; i++)
		fake_write(300 + i, 2);
	for (int i = 0; i < 600 && collect == 3; i++)
		fake_write(100 + i, 3);
}

static void test_pages_that_are_written_often_go_last(void)
{
	fill();
	fake.before_collect = write_hot_pages;
	run((struct sender_options){.max_rounds = 3, .max_downtime_ns = 1, .threads = 1});
	expect_equal();
	/* Up to page 133 the freeze writes, too. */
	for (int cold = 140; cold < 700; cold++) {
		if (cold < 300 || cold >= 400)
			CU_ASSERT_TRUE(peer.turn[cold] < peer.turn[300]);
	}
	CU_ASSERT_EQUAL(peer.came[350], 3);
}

static void test_rounds_that_never_shrink_end(void)
{
	fill();
	fake.dirty_each_round = 1000;
	run((struct sender_options){.max_downtime_ns = 1, .max_rounds = 6});
	expect_equal();
	CU_ASSERT_TRUE(sending.result.rounds <= 7);
	CU_ASSERT_FALSE(sending.result.fits);
}

static void test_a_peer_that_fails_is_quoted(void)
{
	fill();
	peer.fails_at_round = 0;
	run((struct sender_options){0});
	CU_ASSERT_TRUE(sending.failed);
	CU_ASSERT_PTR_NOT_NULL(strstr(sending.error.text, "the disk is full"));
	CU_ASSERT_EQUAL(fake.freezes, 0);
}

static void test_a_peer_that_fails_in_the_freeze_lets_the_process_go_on(void)
{
	fill();
	peer.fails_at_round = 1;
	run((struct sender_options){.after = THAW_KILL});
	CU_ASSERT_TRUE(sending.failed);
	CU_ASSERT_EQUAL(fake.thaws, 0); /* by its release */
	CU_ASSERT_FALSE(fake.frozen);
}

static void test_a_peer_that_goes_is_noticed(void)
{
	fill();
	peer.goes_at_round = 0;
	run((struct sender_options){0});
	CU_ASSERT_TRUE(sending.failed);
	CU_ASSERT_PTR_NOT_NULL(strstr(sending.error.text, "closed the connection"));
}

static void test_a_freeze_that_took_too_long_commits_nothing(void)
{
	fill();
	fake.thaw_result = -ETIMEDOUT;
	run((struct sender_options){.after = THAW_RUN});
	CU_ASSERT_TRUE(sending.failed);
	CU_ASSERT_FALSE(peer.committed);
	CU_ASSERT_EQUAL(sending.error.code, -ETIMEDOUT);
}

static void test_a_process_that_does_not_stop_is_left_alone(void)
{
	fill();
	fake.freeze_result = -ETIMEDOUT;
	run((struct sender_options){0});
	CU_ASSERT_TRUE(sending.failed);
	CU_ASSERT_FALSE(peer.committed);
}

static void test_a_process_that_ends_is_named_with_its_round(void)
{
	fill();
	fake.dirty_each_round = 1000;
	fake.collect_fails_at = 3;
	run((struct sender_options){.max_downtime_ns = 1});
	CU_ASSERT_TRUE(sending.failed);
	CU_ASSERT_EQUAL(sending.error.kind, TIDE_ERROR_TARGET_GONE);
	CU_ASSERT_PTR_NOT_NULL(strstr(sending.error.text, "round 2: the array ended"));
}

static void test_a_cancelled_send_lets_go(void)
{
	fill();
	fake.dirty_each_round = 1000;
	sending.cancel_at_round = 2;
	run((struct sender_options){.max_downtime_ns = 1, .max_rounds = 1000000});
	CU_ASSERT_TRUE(sending.failed);
	CU_ASSERT_EQUAL(sending.error.code, -ECANCELED);
	CU_ASSERT_FALSE(peer.committed);
}

/* --- pages that need not travel
 * -------------------------------------------------------------------------------------- */

/* They lie over the ends of batches, and not all of them hold something. */
enum { DOUBTFUL_FIRST = 200, DOUBTFUL_END = 900, ROUNDS = 5 };

static int doubtful_pages(void)
{
	int n = 0;
	fake.space = 7;
	for (int i = DOUBTFUL_FIRST; i < DOUBTFUL_END; i++) {
		fake.doubtful[i] = true;
		n += fake.present[i];
	}
	return n;
}

/* Rounds beside a process that writes a few other pages in each, and the last one. */
static void run_rounds(struct sender_options options)
{
	fake.dirty_each_round = 10;
	options.max_downtime_ns = 1;
	options.max_rounds = ROUNDS - 1;
	run(options);
	if (!sending.failed)
		CU_ASSERT_EQUAL(sending.result.rounds, ROUNDS);
}

/* How often each of these pages came. */
static void expect_came(int first, int end, int times)
{
	for (int i = first; i < end; i++) {
		if (fake.present[i])
			CU_ASSERT_EQUAL(peer.came[i], times);
	}
}

static void test_doubtful_pages_that_did_not_change_travel_once(void)
{
	fill();
	uint64_t n = (uint64_t)doubtful_pages();
	run_rounds((struct sender_options){.codec = codec_by_name("lz4")});
	expect_equal();
	expect_came(DOUBTFUL_FIRST, DOUBTFUL_END, 1);
	CU_ASSERT_EQUAL(sending.result.unchanged_pages, n * (ROUNDS - 1));
}

static void test_private_pages_travel_once_more_when_they_become_doubtful(void)
{
	fill();
	doubtful_pages();
	fake.space = SPACE_PRIVATE;
	run_rounds((struct sender_options){0});
	expect_equal();
	expect_came(DOUBTFUL_FIRST, DOUBTFUL_END, 2);
}

/* A few bytes of many pages; some go, come back, and cannot be read for a while. */
static void change_a_little(int number)
{
	for (int i = 0; i < PAGES; i++) {
		if ((i + number) % 3 == 0 && fake.present[i]) {
			fake.memory[i][(i * 31 + number) % PAGE]++;
			fake.memory[i][(i * 17 + number * 7) % PAGE] ^= 0x81;
			fake.dirty[i] = true;
		}
		if ((i * 7 + number) % 101 == 0)
			fake.present[i] = false;
		else if ((i * 7 + number) % 101 == 1)
			fake_write(i, (uint8_t)number);
		fake.unreadable[i] = (i * 5 + number) % 97 == 0;
	}
}

static void test_what_changed_a_little_travels_as_that(void)
{
	static const uint64_t sizes[] = {16u << 20, 1u << 20, 100000, 3000};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		if (i) {
			teardown();
			setup();
		}
		fill();
		fake.before_collect = change_a_little;
		run_rounds((struct sender_options){.codec = codec_by_name(i % 2 ? "lz4" : "none"),
			.delta_cache_bytes = sizes[i],
			.compare_all = i % 2,
			.threads = 4});
		expect_equal();
		uint64_t deltas = sending.result.stats.form[CODEC_DELTA].pages;
		CU_ASSERT_EQUAL(deltas > 0, sizes[i] > 10000);
		if (i == 0)
			CU_ASSERT_TRUE(deltas > 500);
	}
}

/* What each peer gets that knows these features. */
static void test_an_older_peer_gets_what_it_knows(void)
{
	static const struct {
		uint64_t knows;
		const char *codec;
		uint64_t announced;
		enum codec_id form;
	} cases[] = {
		{FEATURES_KNOWN, "zstd", FEATURE_ZSTD | FEATURE_DELTA, CODEC_ZSTD},
		{FEATURE_LZ4 | FEATURE_ZSTD, "zstd", FEATURE_ZSTD, CODEC_ZSTD},
		{FEATURE_LZ4, "zstd", FEATURE_LZ4, CODEC_LZ4},
		{0, "zstd", 0, CODEC_RAW},
		{0, "lz4", 0, CODEC_RAW},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (i) {
			teardown();
			setup();
		}
		fill();
		fake.before_collect = change_a_little;
		struct sender_options o = {
			.codec = codec_by_name(cases[i].codec), .delta_cache_bytes = 1u << 20};
		struct agreement agreement = {
			.features = cases[i].knows, .limits = frame_limits_max};
		sender_options_agree(&o, &agreement);
		run_rounds(o);
		expect_equal();
		CU_ASSERT_EQUAL(peer.features, cases[i].announced);
		CU_ASSERT_TRUE(sending.result.stats.form[cases[i].form].pages > 0);
	}
}

/* What may come of a choice is announced: of what both know. */
static void test_a_choice_is_of_what_the_peer_knows(void)
{
	static const uint64_t knows[] = {
		FEATURES_KNOWN, FEATURE_LZ4 | FEATURE_DELTA, FEATURE_ZSTD, 0};
	for (size_t i = 0; i < sizeof(knows) / sizeof(knows[0]); i++) {
		if (i) {
			teardown();
			setup();
		}
		fill();
		fake.before_collect = change_a_little;
		struct sender_options o = {.choose_from = FEATURES_STORED,
			.delta_cache_bytes = 1u << 20,
			.threads = 3};
		struct agreement agreement = {.features = knows[i], .limits = frame_limits_max};
		sender_options_agree(&o, &agreement);
		run_rounds(o);
		expect_equal();
		CU_ASSERT_EQUAL(peer.features, knows[i] & (FEATURES_STORED | FEATURE_DELTA));
	}
}

static void test_without_a_cache_no_deltas_travel(void)
{
	fill();
	fake.before_collect = change_a_little;
	run_rounds((struct sender_options){.codec = codec_by_name("lz4")});
	expect_equal();
	CU_ASSERT_EQUAL(sending.result.stats.form[CODEC_DELTA].pages, 0);
	CU_ASSERT_EQUAL(peer.features, FEATURE_LZ4);
}

static int changed_page;
static int changed_bytes;

static void change_before_the_third(int number)
{
	if (number == 3) {
		for (int i = 0; i < changed_bytes; i++)
			fake.memory[changed_page + i / 2][i * 1999 % PAGE] ^= 1;
	}
}

static void test_a_byte_that_changed_without_a_sign_travels(void)
{
	fill();
	doubtful_pages();
	changed_page = 500;
	changed_bytes = 1;
	fake.before_collect = change_before_the_third;
	run_rounds((struct sender_options){0});
	expect_equal();
	expect_came(500, 501, 2);
	expect_came(DOUBTFUL_FIRST, 500, 1);
	expect_came(501, DOUBTFUL_END, 1);
}

static void test_many_pages_that_changed_travel(void)
{
	fill();
	doubtful_pages();
	changed_page = 300;
	changed_bytes = 1000;
	fake.before_collect = change_before_the_third;
	run_rounds((struct sender_options){.codec = codec_by_name("lz4"), .threads = 4});
	expect_equal();
	expect_came(300, 800, 2);
}

static void change_now_and_then(int number)
{
	for (int i = DOUBTFUL_FIRST; i < DOUBTFUL_END; i++) {
		if ((i * 7 + number * 3) % 5 == 0)
			fake.memory[i][(i * 31 + number) % PAGE]++;
	}
}

static void test_pages_that_change_between_others_that_do_not_arrive(void)
{
	fill();
	doubtful_pages();
	fake.before_collect = change_now_and_then;
	run_rounds((struct sender_options){.codec = codec_by_name("lz4"), .threads = 4});
	expect_equal();
	CU_ASSERT_TRUE(sending.result.unchanged_pages > 0);
}

static void write_for_sure_before_the_third(int number)
{
	for (int i = 400; i < 500; i++) {
		if (number == 3)
			fake_write(i, (uint8_t)(i + 1));
		else if (number == 4) /* and what it was before, without a sign */
			fake_write(i, (uint8_t)i), fake.dirty[i] = false;
	}
}

static void test_what_was_written_for_sure_is_what_is_compared_with(void)
{
	for (int i = 0; i < PAGES; i++)
		fake_write(i, (uint8_t)i);
	doubtful_pages();
	fake.before_collect = write_for_sure_before_the_third;
	run_rounds((struct sender_options){0});
	expect_equal();
	/* At first, as written, as changed back; not in the rounds between and after. */
	expect_came(400, 500, 3);
}

static void drop_before_the_second_and_bring_back(int number)
{
	for (int i = 600; i < 620; i++)
		fake.present[i] = number != 2;
}

static void test_dropped_pages_that_come_back_the_same_travel(void)
{
	for (int i = 0; i < PAGES; i++)
		fake_write(i, (uint8_t)i);
	doubtful_pages();
	fake.before_collect = drop_before_the_second_and_bring_back;
	run_rounds((struct sender_options){0});
	expect_equal();
	expect_came(600, 620, 2);
	expect_came(620, DOUBTFUL_END, 1);
}

static void clear_before_the_second(int number)
{
	for (int i = 300; number == 2 && i < 600; i++)
		memset(fake.memory[i], 0, PAGE);
}

static void test_pages_that_became_zero_travel_once(void)
{
	for (int says_zero = 0; says_zero < 2; says_zero++) {
		setup();
		fill();
		doubtful_pages();
		fake.says_zero = says_zero;
		fake.before_collect = clear_before_the_second;
		run_rounds((struct sender_options){0});
		expect_equal();
		expect_came(300, 600, 2);
		expect_came(600, DOUBTFUL_END, 1);
		teardown();
	}
}

static void test_doubtful_pages_that_cannot_be_read_for_a_while_arrive(void)
{
	fill();
	doubtful_pages();
	fake.unreadable[400] = fake.unreadable[700] = true;
	run_rounds((struct sender_options){0});
	expect_equal();
}

static void test_beyond_the_limit_of_hashes_all_travel(void)
{
	fill();
	doubtful_pages();
	run_rounds((struct sender_options){.hash_bytes_max = 1});
	expect_equal();
	expect_came(DOUBTFUL_FIRST, DOUBTFUL_END, ROUNDS);
	CU_ASSERT_EQUAL(sending.result.unchanged_pages, 0);
}

static void test_an_unacknowledged_round_is_no_ground_to_leave_pages_out(void)
{
	fill();
	doubtful_pages();
	peer.fails_at_round = 2;
	run_rounds((struct sender_options){0});
	CU_ASSERT_TRUE(sending.failed);

	/* Another session: its peer has nothing, or has forgotten what it had. */
	memset(&peer, 0, sizeof(peer));
	memset(&sending, 0, sizeof(sending));
	peer.fails_at_round = peer.goes_at_round = -1;
	fake.collects = fake.releases = 0;
	memset(fake.known, 0, sizeof(fake.known));
	memcpy(fake.dirty, fake.present, sizeof(fake.dirty));
	run_rounds((struct sender_options){0});
	expect_equal();
	expect_came(DOUBTFUL_FIRST, DOUBTFUL_END, 1);
}

static void write_the_same(int number)
{
	for (int i = 1000; i < 1100; i++)
		fake.dirty[i] = fake.present[i];
}

static void write_the_same_everywhere(int number)
{
	for (int i = 0; i < PAGES; i++)
		fake.dirty[i] = fake.present[i];
}

static void test_written_pages_with_the_same_bytes_travel_unless_all_are_compared(void)
{
	for (int all = 0; all < 2; all++) {
		setup();
		for (int i = 0; i < PAGES; i++)
			fake_write(i, (uint8_t)i);
		fake.before_collect = write_the_same;
		run_rounds((struct sender_options){.compare_all = all});
		expect_equal();
		expect_came(1000, 1100, all ? 1 : ROUNDS);
		CU_ASSERT_EQUAL(sending.result.unchanged_pages > 0, all);
		teardown();
	}
}

/* The table has room for some of the pages: those that it does not know travel every time. */
static void test_what_the_hashes_have_no_room_for_travels(void)
{
	static const uint64_t sizes[] = {1, 10000, 20000};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		setup();
		for (int k = 0; k < PAGES; k++)
			fake_write(k, (uint8_t)k);
		fake.before_collect = write_the_same_everywhere;
		run_rounds((struct sender_options){
			.compare_all = true, .hash_bytes_max = sizes[i], .threads = 3});
		expect_equal();
		int once = 0, always = 0;
		for (int k = 10; k < PAGES; k++) {
			once += peer.came[k] == 1;
			always += peer.came[k] >= ROUNDS;
		}
		CU_ASSERT_EQUAL(once > 400, sizes[i] > 1);
		CU_ASSERT_TRUE(always > 0);
		teardown();
	}
}

static const struct test tests[] = {
	TEST(test_everything_arrives),
	TEST(test_pages_go_by_all_connections),
	TEST(test_dropped_pages_are_dropped_there),
	TEST(test_pages_that_cannot_be_read_do_not_stop_the_others),
	TEST(test_a_process_that_goes_on_does_not_wait_for_the_peer),
	TEST(test_a_process_that_ends_does_so_after_the_commit),
	TEST(test_pages_that_are_written_often_go_last),
	TEST(test_who_writes_too_fast_is_throttled_harder_and_harder),
	TEST(test_who_cannot_be_throttled_is_frozen),
	TEST(test_who_diverges_goes_on_where_that_was_asked_for),
	TEST(test_a_limit_of_bandwidth_is_kept),
	TEST(test_the_freeze_is_not_paced),
	TEST(test_who_waits_for_his_turn_hears_of_the_end),

	TEST(test_rounds_that_never_shrink_end),
	TEST(test_a_peer_that_fails_is_quoted),
	TEST(test_a_peer_that_fails_in_the_freeze_lets_the_process_go_on),
	TEST(test_a_peer_that_goes_is_noticed),
	TEST(test_a_freeze_that_took_too_long_commits_nothing),
	TEST(test_a_process_that_does_not_stop_is_left_alone),
	TEST(test_a_process_that_ends_is_named_with_its_round),
	TEST(test_a_cancelled_send_lets_go),
	TEST(test_doubtful_pages_that_did_not_change_travel_once),
	TEST(test_private_pages_travel_once_more_when_they_become_doubtful),
	TEST(test_what_changed_a_little_travels_as_that),
	TEST(test_an_older_peer_gets_what_it_knows),
	TEST(test_a_choice_is_of_what_the_peer_knows),
	TEST(test_without_a_cache_no_deltas_travel),
	TEST(test_a_byte_that_changed_without_a_sign_travels),
	TEST(test_many_pages_that_changed_travel),
	TEST(test_pages_that_change_between_others_that_do_not_arrive),
	TEST(test_what_was_written_for_sure_is_what_is_compared_with),
	TEST(test_dropped_pages_that_come_back_the_same_travel),
	TEST(test_pages_that_became_zero_travel_once),
	TEST(test_doubtful_pages_that_cannot_be_read_for_a_while_arrive),
	TEST(test_beyond_the_limit_of_hashes_all_travel),
	TEST(test_an_unacknowledged_round_is_no_ground_to_leave_pages_out),
	TEST(test_written_pages_with_the_same_bytes_travel_unless_all_are_compared),
	TEST(test_what_the_hashes_have_no_room_for_travels),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "sender", tests, setup, teardown);
}
