/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agent/image.h"
#include "agent/session.h"
#include "tests/harness.h"
#include "tests/scratch.h"
#include "tests/unit/world.h"

static char folder[SCRATCH_PATH_MAX];
static char store_folder[SCRATCH_PATH_MAX + 8];
static struct store *store;
static struct session *session;
static struct world world;
static struct tide_error err;

/* What was replied, in order. */
static uint16_t replies[64];
static size_t nreplies;
static struct round_ack last_ack;
static struct committed committed;
static int reply_result;

static int note_reply(void *arg, struct frame_buffer *reply, struct tide_error *e)
{
	struct frame f;
	CU_ASSERT_EQUAL_FATAL(
		frame_decode(reply->data, reply->data + FRAME_HEADER_BYTES, &f, e), 0);
	CU_ASSERT_FATAL(nreplies < 64);
	replies[nreplies++] = f.type;
	if (f.type == FRAME_ACK)
		CU_ASSERT_EQUAL(round_ack_decode(&f, &last_ack, e), 0);
	if (f.type == FRAME_COMMITTED)
		CU_ASSERT_EQUAL(committed_decode(&f, &committed, e), 0);
	frame_buffer_release(reply);
	*reply = (struct frame_buffer){0};
	return reply_result;
}

static struct session *new_session(bool from_file)
{
	struct session_options options = {
		.store = store, .reply = note_reply, .from_file = from_file};
	struct session *s;
	nreplies = 0;
	reply_result = 0;
	CU_ASSERT_EQUAL_FATAL(session_new(&options, &s, &err), 0);
	return s;
}

static void setup(void)
{
	memset(&world, 0, sizeof(world));
	store = NULL;
	session = NULL;
	scratch_make(folder);
	snprintf(store_folder, sizeof(store_folder), "%s/store", folder);
	CU_ASSERT_EQUAL_FATAL(store_open(store_folder, STORE_WRITE, &store, &err), 0);
	session = new_session(false);
	world_init(&world, 1);
}

static void teardown(void)
{
	session_free(session);
	store_close(store);
	world_release(&world);
	scratch_remove(folder);
}

static int open_as(const char *name)
{
	struct open_request m = {.session_id = {1}, .sink = SINK_IMAGE};
	snprintf(m.name, sizeof(m.name), "%s", name);
	struct frame_buffer b = {0};
	struct frame f;
	CU_ASSERT_EQUAL_FATAL(open_request_encode(&m, &b), 0);
	CU_ASSERT_EQUAL_FATAL(frame_decode(b.data, b.data + FRAME_HEADER_BYTES, &f, NULL), 0);
	int r = session_frame(session, &f, &b, 0, &err);
	frame_buffer_release(&b);
	return r;
}

static int feed(const struct stream *s, size_t i)
{
	struct frame f;
	struct frame_buffer raw;
	stream_frame(s, i, &f, &raw);
	return session_frame(session, &f, &raw, s->at[i], &err);
}

/* Feeds all frames; the first failure. */
static int feed_all(const struct stream *s)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < s->frames; i++)
		r = feed(s, i);
	return r;
}

static size_t images(void)
{
	char **names;
	size_t n;
	CU_ASSERT_EQUAL_FATAL(store_names(store, &names, &n, &err), 0);
	store_names_free(names);
	return n;
}

/* Nothing is left of a session that failed, under whatever name, even before it is freed. */
static void check_nothing_left(void)
{
	unsigned n = 0;
	DIR *d = opendir(store_folder);
	CU_ASSERT_PTR_NOT_NULL_FATAL(d);
	for (struct dirent *e; (e = readdir(d)); n++)
		;
	closedir(d);
	/* The store's own two, and two that every folder has. */
	CU_ASSERT_EQUAL(n, 4);
}

/* A new session for the next stream of a test. */
static void restart(uint64_t seed)
{
	session_free(session);
	session = new_session(false);
	world_release(&world);
	world_init(&world, seed);
}

static size_t find_frame(uint16_t type, size_t from)
{
	struct frame f;
	struct frame_buffer raw;
	for (size_t i = from; i < world.stream.frames; i++) {
		stream_frame(&world.stream, i, &f, &raw);
		if (f.type == type)
			return i;
	}
	CU_FAIL_FATAL("no such frame");
	return 0;
}

/* Feeds the world's stream to a session; it must be refused with these words. */
static void check_refused(const char *words)
{
	CU_ASSERT_EQUAL_FATAL(open_as("x"), 0);
	int r = feed_all(&world.stream);
	CU_ASSERT_EQUAL(r, -EBADMSG);
	if (!strstr(err.text, words))
		printf("expected '%s' in '%s'\n", words, err.text);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, words));
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "at byte "));
	check_nothing_left();
}

static void replace(size_t i, int encoded, struct frame_buffer *b)
{
	CU_ASSERT_EQUAL_FATAL(encoded, 0);
	stream_replace(&world.stream, i, b);
}

static void test_a_whole_stream_is_committed(void)
{
	world_send(&world, 4);
	CU_ASSERT_EQUAL_FATAL(open_as("whole"), 0);
	CU_ASSERT_EQUAL_FATAL(feed_all(&world.stream), 0);

	CU_ASSERT_EQUAL(nreplies, 6);
	CU_ASSERT_EQUAL(replies[0], FRAME_OPENED);
	for (int i = 1; i <= 4; i++)
		CU_ASSERT_EQUAL(replies[i], FRAME_ACK);
	CU_ASSERT_EQUAL(replies[5], FRAME_COMMITTED);
	CU_ASSERT_EQUAL(last_ack.round, 3);
	CU_ASSERT_EQUAL(last_ack.bytes, world.stream.at[find_frame(FRAME_STATE, 0)]);
	CU_ASSERT_STRING_EQUAL(committed.name, "whole");
	CU_ASSERT_EQUAL(memcmp(committed.stream_id, world.header.stream_id, ID_BYTES), 0);
	CU_ASSERT_TRUE(committed.stored_bytes > 0);
	CU_ASSERT_EQUAL(session_end(session, &err), 0);
	CU_ASSERT_EQUAL(images(), 1);

	struct session_stats stats = session_stats(session);
	CU_ASSERT_EQUAL(stats.rounds, 4);
	CU_ASSERT_EQUAL(stats.phase, SESSION_DONE);
	const struct address_space *a = session_process(session, 1);
	CU_ASSERT_EQUAL(address_space_held_pages(a), world_held_pages(&world));
	CU_ASSERT_STRING_EQUAL(a->info->comm, "made up");
	CU_ASSERT_PTR_NULL(session_process(session, 2));
}

static void test_a_stream_cut_at_any_frame_leaves_nothing(void)
{
	world_send(&world, 3);
	for (size_t cut = 0; cut < world.stream.frames; cut++) {
		session_free(session);
		session = new_session(false);
		CU_ASSERT_EQUAL_FATAL(open_as("cut"), 0);
		for (size_t i = 0; i < cut; i++)
			CU_ASSERT_EQUAL_FATAL(feed(&world.stream, i), 0);
		CU_ASSERT_EQUAL(session_end(session, &err), -EBADMSG);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "the stream ends where"));
		check_nothing_left();
	}
}

static void test_a_session_that_is_dropped_leaves_nothing(void)
{
	world_send(&world, 2);
	CU_ASSERT_EQUAL_FATAL(open_as("dropped"), 0);
	for (size_t i = 0; i + 1 < world.stream.frames; i++)
		CU_ASSERT_EQUAL_FATAL(feed(&world.stream, i), 0);
	session_free(session);
	session = NULL;
	check_nothing_left();
}

static void test_a_missing_frame_is_noticed(void)
{
	for (size_t i = 0;; i++) {
		restart(5);
		world_send_little(&world);
		if (i == world.stream.frames)
			break;
		struct frame f;
		struct frame_buffer raw, none = {0};
		stream_frame(&world.stream, i, &f, &raw);
		/* Drops whose pages all came again, or were not held, are not missed. */
		if (f.type == FRAME_DROPS)
			continue;
		stream_replace(&world.stream, i, &none);
		CU_ASSERT_EQUAL_FATAL(open_as("less"), 0);
		int r = feed_all(&world.stream);
		if (r == 0)
			r = session_end(session, &err);
		CU_ASSERT_EQUAL(r, -EBADMSG);
		check_nothing_left();
	}
}

static void test_a_frame_that_comes_twice_is_noticed(void)
{
	world_send(&world, 3);
	for (size_t i = 0; i < world.stream.frames; i++) {
		struct frame f;
		struct frame_buffer raw;
		stream_frame(&world.stream, i, &f, &raw);
		if (f.type == FRAME_DROPS)
			continue; /* means the same */
		session_free(session);
		session = new_session(false);
		CU_ASSERT_EQUAL_FATAL(open_as("twice"), 0);
		for (size_t k = 0; k <= i; k++)
			CU_ASSERT_EQUAL_FATAL(feed(&world.stream, k), 0);
		int r = feed(&world.stream, i);
		for (size_t k = i + 1; r == 0 && k < world.stream.frames; k++)
			r = feed(&world.stream, k);
		CU_ASSERT_EQUAL(r, -EBADMSG);
		/* That one came too late to matter. */
		if (f.type == FRAME_COMMIT)
			CU_ASSERT_EQUAL(store_remove(store, "twice", &err), 0);
		check_nothing_left();
	}
}

static void test_frames_out_of_order_are_refused(void)
{
	world_send(&world, 3);
	for (size_t i = 0; i + 1 < world.stream.frames; i++) {
		struct frame a, b;
		struct frame_buffer raw;
		stream_frame(&world.stream, i, &a, &raw);
		stream_frame(&world.stream, i + 1, &b, &raw);
		if (a.type == b.type)
			continue; /* the order of drops, or of pages, is free */
		session_free(session);
		session = new_session(false);
		CU_ASSERT_EQUAL_FATAL(open_as("swapped"), 0);
		for (size_t k = 0; k < i; k++)
			CU_ASSERT_EQUAL_FATAL(feed(&world.stream, k), 0);
		int r = feed(&world.stream, i + 1);
		if (r == 0)
			r = feed(&world.stream, i);
		CU_ASSERT_EQUAL(r, -EBADMSG);
		check_nothing_left();
	}
}

static void test_a_session_that_failed_refuses_everything(void)
{
	world_send(&world, 1);
	CU_ASSERT_EQUAL_FATAL(open_as("x"), 0);
	CU_ASSERT_EQUAL(feed(&world.stream, 1), -EBADMSG);
	CU_ASSERT_NOT_EQUAL(feed(&world.stream, 0), 0);
	CU_ASSERT_NOT_EQUAL(session_end(session, &err), 0);
	CU_ASSERT_EQUAL(session_stats(session).phase, SESSION_FAILED);
}

static void test_a_stream_needs_to_be_opened(void)
{
	world_send(&world, 1);
	CU_ASSERT_EQUAL(feed(&world.stream, 0), -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "STREAM where OPEN was to come"));
}

static void test_a_name_that_is_taken_is_refused_at_open(void)
{
	world_send(&world, 1);
	CU_ASSERT_EQUAL_FATAL(open_as("taken"), 0);
	CU_ASSERT_EQUAL_FATAL(feed_all(&world.stream), 0);
	session_free(session);
	session = new_session(false);
	CU_ASSERT_EQUAL(open_as("taken"), -EEXIST);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "taken"));
	CU_ASSERT_EQUAL(nreplies, 0);
}

static void test_of_two_sessions_with_one_name_the_first_wins(void)
{
	world_send(&world, 1);
	CU_ASSERT_EQUAL_FATAL(open_as("race"), 0);
	struct session *first = session;
	session = new_session(false);
	CU_ASSERT_EQUAL_FATAL(open_as("race"), 0);
	CU_ASSERT_EQUAL_FATAL(feed_all(&world.stream), 0);
	struct session *second = session;
	session = first;
	CU_ASSERT_EQUAL(feed_all(&world.stream), -EEXIST);
	session_free(second);
	CU_ASSERT_EQUAL(images(), 1);
}

static void test_sinks_that_are_not_there_are_refused_by_name(void)
{
	struct open_request m = {.session_id = {1}, .sink = SINK_SHELL, .name = "x"};
	CU_ASSERT_EQUAL(session_open(session, &m, &err), -ECANCELED);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "shell"));
	m.sink = SINK_SNAPSHOT;
	CU_ASSERT_EQUAL(session_open(session, &m, &err), -ECANCELED);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "snapshot"));
	m.sink = SINK_IMAGE;
	m.base_id[3] = 1;
	CU_ASSERT_EQUAL(session_open(session, &m, &err), -ECANCELED);
}

static void test_other_processes_are_refused(void)
{
	static const uint16_t types[] = {FRAME_PROCESS, FRAME_ROUND, FRAME_MAPPINGS, FRAME_PAGES,
		FRAME_ROUND_END, FRAME_STATE};
	for (size_t k = 0; k < sizeof(types) / sizeof(types[0]); k++) {
		for (uint32_t process = 0; process < 3; process += 2) {
			restart(2);
			world_send(&world, 1);
			size_t i = find_frame(types[k], 0);
			struct frame f;
			struct frame_buffer raw, b = {0};
			stream_frame(&world.stream, i, &f, &raw);
			f.process = process;
			replace(i, frame_buffer_encode(&b, &f), &b);
			check_refused("process");
		}
	}
}

static void test_streams_that_cannot_be_stored_are_refused(void)
{
	struct frame_buffer b = {0};
	world_send(&world, 1);
	struct stream_header h = world.header;
	h.base_id[0] = 1;
	replace(0, stream_header_encode(&h, &b), &b);
	check_refused("builds on another one");

	/* Features that both know, but that were not agreed on. */
	session_free(session);
	struct session_options options = {.store = store, .features = UINT64_C(1) << 63};
	CU_ASSERT_EQUAL_FATAL(session_new(&options, &session, &err), 0);
	h = world.header;
	h.features = FEATURE_LZ4;
	replace(0, stream_header_encode(&h, &b), &b);
	check_refused("features");
}

static void test_blocks_are_held_against_the_features_of_the_stream(void)
{
	struct frame_buffer b = {0};
	world_send(&world, 1);
	struct stream_header h = world.header;
	h.features = FEATURE_ZSTD;
	replace(0, stream_header_encode(&h, &b), &b);
	check_refused("lz4 block, in a stream without that feature");
}

static void test_rounds_follow_each_other(void)
{
	struct frame_buffer b = {0};
	world_send(&world, 3);
	size_t i = find_frame(FRAME_ROUND, find_frame(FRAME_ROUND, 0) + 1);
	struct round_header m = {.number = 2};
	replace(i, round_header_encode(1, &m, &b), &b);
	check_refused("round 2, where round 1 was to come");
}

static void test_nothing_but_the_state_follows_the_final_round(void)
{
	struct frame_buffer b = {0};
	world_send(&world, 3);
	size_t i = find_frame(FRAME_ROUND, find_frame(FRAME_ROUND, 0) + 1);
	struct round_header m = {.number = 1, .final = true};
	replace(i, round_header_encode(1, &m, &b), &b);
	check_refused("ROUND where STATE or COMMIT was to come");

	restart(1);
	world_send(&world, 2);
	i = find_frame(FRAME_ROUND, find_frame(FRAME_ROUND, 0) + 1);
	m = (struct round_header){.number = 1};
	replace(i, round_header_encode(1, &m, &b), &b);
	check_refused("STATE where ROUND was to come");
}

static void test_frames_of_another_round_are_refused(void)
{
	struct frame_buffer b = {0};
	world_begin(&world);
	world_round(&world, true);
	world.round = 1;
	world_mappings(&world);
	check_refused("round 1, in the middle of round 0");

	restart(1);
	world_begin(&world);
	world_round(&world, true);
	world_mappings(&world);
	world.round = 1;
	world_drop(&world, 0, 3, 4);
	check_refused("round 1, in the middle of round 0");

	restart(1);
	world_begin(&world);
	world_round(&world, true);
	world_mappings(&world);
	world.round = 1;
	world_write(&world, 0, 3, 4, 256);
	check_refused("round 1, in the middle of round 0");

	restart(1);
	world_begin(&world);
	world_round(&world, true);
	struct round_end end = {.number = 1};
	CU_ASSERT_EQUAL_FATAL(round_end_encode(1, &end, &b), 0);
	world_append(&world, &b);
	check_refused("round 1, in the middle of round 0");
}

static void test_sums_that_do_not_agree_are_refused(void)
{
	static const struct round_end wrong[] = {{0, 9, 1}, {0, 11, 1}, {0, 10, 3}, {0, 10, 2}};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct frame_buffer b = {0};
		restart(1);
		world_begin(&world);
		world_round(&world, true);
		world_mappings(&world);
		world_write(&world, 0, 0, 10, 256);
		CU_ASSERT_EQUAL_FATAL(round_end_encode(1, &wrong[i], &b), 0);
		world_append(&world, &b);
		check_refused("round 0 was to have");
	}
}

static void test_commits_that_do_not_agree_are_refused(void)
{
	for (int i = 0; i < 3; i++) {
		struct frame_buffer b = {0};
		restart(1);
		world_send(&world, 2);
		struct commit m = {.rounds = 2, .held_pages = world_held_pages(&world)};
		memcpy(m.stream_id, world.header.stream_id, ID_BYTES);
		if (i == 0)
			m.rounds++;
		else if (i == 1)
			m.held_pages--;
		else
			m.stream_id[0]++;
		replace(find_frame(FRAME_COMMIT, 0), commit_encode(&m, &b), &b);
		check_refused("a commit of");
	}
}

static void test_a_page_that_comes_twice_in_a_round_is_refused(void)
{
	world_begin(&world);
	world_round(&world, true);
	world_mappings(&world);
	world_write(&world, 0, 10, 100, 7);
	world_write(&world, 1, 10, 100, 7); /* another space */
	world_write(&world, 0, 0, 11, 256);
	check_refused("comes twice");
}

static void test_held_pages_outside_of_mappings_are_refused(void)
{
	struct frame_buffer b = {0};
	world_begin(&world);
	world_round(&world, true);
	world_write(&world, 0, 0, 1, 256);
	world_round_end(&world);
	world_state(&world);
	world_commit(&world);
	check_refused("no mapping has room for");

	/* An object is mapped up to its WORLD_PAGES-th page. */
	restart(1);
	world_begin(&world);
	world_round(&world, true);
	world_mappings(&world);
	static const uint8_t zeros[2 * WORLD_PAGE];
	struct batch batch = {.space = WORLD_OBJECT,
		.page_bytes = WORLD_PAGE,
		.nruns = 1,
		.runs = {{(WORLD_PAGES - 1) * WORLD_PAGE, (WORLD_PAGES + 1) * WORLD_PAGE}}};
	struct batch_stats stats = {0};
	CU_ASSERT_EQUAL_FATAL(
		batch_encode(1, &batch, zeros, &(struct batch_encoding){.codec = NULL}, &b, &stats),
		0);
	world_append(&world, &b);
	world.round_pages = 2;
	world.round_frames = 1;
	world_round_end(&world);
	world_state(&world);
	world.spaces[1].held[0] = world.spaces[1].held[1] = true; /* any two, for the commit */
	world_commit(&world);
	check_refused("of object 7 that no mapping has room for");
}

static void test_a_mapping_over_another_one_is_refused(void)
{
	world_begin(&world);
	world_round(&world, true);
	world_mappings(&world);
	world_mappings(&world);
	check_refused("added over one that is there");
}

static void test_a_commit_without_the_state_is_refused(void)
{
	struct frame_buffer none = {0};
	world_send(&world, 1);
	stream_replace(&world.stream, find_frame(FRAME_STATE, 0), &none);
	check_refused("state");
}

static void test_a_block_that_does_not_decode_is_refused(void)
{
	uint8_t pages[4 * WORLD_PAGE];
	memset(pages, 3, sizeof(pages));
	struct batch batch = {.page_bytes = WORLD_PAGE,
		.nruns = 1,
		.runs = {{WORLD_BASE, WORLD_BASE + sizeof(pages)}}};
	struct batch_stats stats = {0};
	struct frame_buffer b = {0};
	world_begin(&world);
	world_round(&world, true);
	world_mappings(&world);
	CU_ASSERT_EQUAL_FATAL(
		batch_encode(1, &batch, pages,
			&(struct batch_encoding){.codec = codec_by_name("lz4")}, &b, &stats),
		0);
	struct frame f;
	CU_ASSERT_EQUAL_FATAL(frame_decode(b.data, b.data + FRAME_HEADER_BYTES, &f, NULL), 0);
	CU_ASSERT_TRUE_FATAL(f.payload_bytes > 4);
	/* With a checksum that is right: only decoding tells. */
	memset(b.data + b.bytes - f.payload_bytes, 0xff, f.payload_bytes);
	frame_header_encode(&f, b.data);
	world_append(&world, &b);
	check_refused("does not decompress");
}

/* --- deltas ------------------------------------------------------------------------------- */

/* A stream up to its second round, where pages 0 to 3 are to change from what they hold. */
static void begin_deltas(void)
{
	world.header.features |= FEATURE_DELTA;
	world_begin(&world);
	world_round(&world, false);
	world_mappings(&world);
	world_write(&world, 0, 0, 4, 256);
	world_round_end(&world);
	world_round(&world, true);
}

/* A frame of these pages, which changed by a byte each from `former`. */
static void append_delta(uint64_t first_page, const uint8_t *from)
{
	uint8_t pages[4 * WORLD_PAGE];
	const uint8_t *former[4];
	memcpy(pages, from, sizeof(pages));
	for (size_t i = 0; i < 4; i++) {
		former[i] = from + i * WORLD_PAGE;
		pages[i * WORLD_PAGE + 100 * i + 5] ^= 0x55;
	}
	uint64_t start = WORLD_BASE + first_page * WORLD_PAGE;
	struct batch batch = {.round = world.round,
		.page_bytes = WORLD_PAGE,
		.nruns = 1,
		.runs = {{start, start + sizeof(pages)}}};
	struct batch_stats stats = {0};
	struct frame_buffer b = {0};
	CU_ASSERT_EQUAL_FATAL(batch_encode(1, &batch, pages,
				      &(struct batch_encoding){.former = former}, &b, &stats),
		0);
	CU_ASSERT_EQUAL(stats.form[CODEC_DELTA].pages, 4);
	world_append(&world, &b);
	world.round_pages += 4;
	world.round_frames++;
}

static void end_deltas(void)
{
	world_round_end(&world);
	world_state(&world);
	world_commit(&world);
}

static void test_a_delta_of_what_is_held_is_taken(void)
{
	begin_deltas();
	append_delta(0, world.spaces[0].pages);
	end_deltas();
	CU_ASSERT_EQUAL_FATAL(open_as("deltas"), 0);
	CU_ASSERT_EQUAL(feed_all(&world.stream), 0);
}

/* Never a wrong byte, whatever the sender believes. */
static void test_a_delta_of_other_pages_is_refused(void)
{
	begin_deltas();
	append_delta(0, world.spaces[0].pages + WORLD_PAGE);
	end_deltas();
	check_refused(
		"delta block of 4 pages from 0x7f0000100000 on (space 0) is a change of other");
}

static void test_a_delta_of_what_is_not_held_is_refused(void)
{
	begin_deltas();
	append_delta(1, world.spaces[0].pages);
	end_deltas();
	check_refused(
		"the page at 0x7f0000104000 (space 0) has changed, says the sender, and it is not");

	/* Not any more. */
	restart(1);
	begin_deltas();
	uint8_t before[4 * WORLD_PAGE];
	memcpy(before, world.spaces[0].pages, sizeof(before));
	world_drop(&world, 0, 2, 1);
	append_delta(0, before);
	end_deltas();
	check_refused("the page at 0x7f0000102000 (space 0) has changed");
}

static void test_deltas_that_were_not_agreed_on_are_refused(void)
{
	begin_deltas();
	session_free(session);
	struct session_options options = {
		.store = store, .features = FEATURES_KNOWN & ~(uint64_t)FEATURE_DELTA};
	CU_ASSERT_EQUAL_FATAL(session_new(&options, &session, &err), 0);
	check_refused("features");
}

/* Whoever reads one may not have the pages. */
static void test_a_recorded_stream_has_no_deltas(void)
{
	begin_deltas();
	append_delta(0, world.spaces[0].pages);
	end_deltas();
	session_free(session);
	session = new_session(true);
	check_refused("features");
	/* Nor unannounced. */
	restart(1);
	begin_deltas();
	append_delta(0, world.spaces[0].pages);
	end_deltas();
	session_free(session);
	session = new_session(true);
	struct stream_header h = world.header;
	struct frame_buffer b = {0};
	h.features = FEATURE_LZ4;
	replace(0, stream_header_encode(&h, &b), &b);
	check_refused("delta block, in a stream without that feature");
}

static void test_unknown_frames_are_passed_over(void)
{
	struct frame_buffer b = {0};
	struct frame unknown = {.type = 99, .head = (const uint8_t *)"hi", .head_bytes = 2};
	world_begin(&world);
	CU_ASSERT_EQUAL_FATAL(frame_buffer_encode(&b, &unknown), 0);
	world_append(&world, &b);
	world_round(&world, true);
	world_mappings(&world);
	CU_ASSERT_EQUAL_FATAL(frame_buffer_encode(&b, &unknown), 0);
	world_append(&world, &b);
	world_write(&world, 0, 0, 3, 256);
	world_round_end(&world);
	world_state(&world);
	world_commit(&world);
	CU_ASSERT_EQUAL_FATAL(open_as("later"), 0);
	CU_ASSERT_EQUAL(feed_all(&world.stream), 0);
}

static void test_frames_of_files_are_refused_from_a_socket(void)
{
	static const uint16_t types[] = {
		FRAME_HOLLOW, FRAME_INDEX, FRAME_HASHES, FRAME_TRAILER, FRAME_HELLO, FRAME_ACK};
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		struct frame_buffer b = {0};
		struct frame f = {.type = types[i], .process = 1};
		restart(1);
		world_begin(&world);
		world_round(&world, true);
		world_mappings(&world);
		world_write(&world, 0, 0, 3, 256);
		CU_ASSERT_EQUAL_FATAL(frame_buffer_encode(&b, &f), 0);
		world_append(&world, &b);
		check_refused("has no place in a stream");
	}
}

static void test_a_sender_that_gives_up_is_quoted(void)
{
	struct error_message m = {.kind = TIDE_ERROR_TARGET_GONE, .text = "process 7 ended"};
	struct frame_buffer b = {0};
	world_begin(&world);
	CU_ASSERT_EQUAL_FATAL(error_message_encode(&m, &b), 0);
	world_append(&world, &b);
	CU_ASSERT_EQUAL_FATAL(open_as("x"), 0);
	CU_ASSERT_EQUAL(feed_all(&world.stream), -ECANCELED);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "process 7 ended"));
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_TARGET_GONE);
	check_nothing_left();
}

static void test_a_peer_that_does_not_listen_ends_the_session(void)
{
	world_send(&world, 2);
	CU_ASSERT_EQUAL_FATAL(open_as("x"), 0);
	reply_result = -EPIPE;
	CU_ASSERT_EQUAL(feed_all(&world.stream), -EPIPE);
	check_nothing_left();
}

/* --- files -------------------------------------------------------------------------------- */

/* The first `bytes` of the stream as a file, read by a session. */
static int run_file(size_t bytes, const char *name)
{
	char path[SCRATCH_PATH_MAX + 8];
	snprintf(path, sizeof(path), "%s/file", folder);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL_FATAL(write(fd, world.stream.bytes, bytes), (ssize_t)bytes);
	CU_ASSERT_EQUAL_FATAL(lseek(fd, 0, SEEK_SET), 0);

	struct open_request m = {.session_id = {1}, .sink = SINK_IMAGE};
	snprintf(m.name, sizeof(m.name), "%s", name);
	session_free(session);
	session = new_session(true);
	CU_ASSERT_EQUAL_FATAL(session_open(session, &m, &err), 0);
	int r = session_run_file(session, fd, "the file", &err);
	close(fd);
	return r;
}

static void test_a_recorded_stream_is_stored(void)
{
	struct committed c;
	world_send(&world, 3);
	CU_ASSERT_EQUAL_FATAL(run_file(world.stream.len, "recorded"), 0);
	CU_ASSERT_TRUE(session_committed(session, &c));
	CU_ASSERT_STRING_EQUAL(c.name, "recorded");
	CU_ASSERT_EQUAL(images(), 1);
}

static void test_a_recorded_stream_cut_anywhere_is_refused(void)
{
	world_begin(&world);
	world_round(&world, true);
	world_mappings(&world);
	world_write(&world, 0, 0, 3, 256);
	world_round_end(&world);
	world_state(&world);
	world_commit(&world);
	for (size_t cut = 0; cut < world.stream.len; cut += cut < 300 ? 1 : 97) {
		CU_ASSERT_EQUAL(run_file(cut, "cut"), -EBADMSG);
		CU_ASSERT_EQUAL(strncmp(err.text, "the file: ", 10), 0);
		check_nothing_left();
	}
}

static void test_what_follows_a_commit_is_refused(void)
{
	struct committed c;
	world_send(&world, 1);
	size_t len = world.stream.len;
	struct frame_buffer b = {0};
	CU_ASSERT_EQUAL_FATAL(ping_encode(false, &b), 0);
	world_append(&world, &b);
	CU_ASSERT_EQUAL(run_file(world.stream.len, "more"), -EBADMSG);
	CU_ASSERT_FALSE(session_committed(session, &c));
	check_nothing_left();
	CU_ASSERT_EQUAL(run_file(len + 5, "more"), -EBADMSG);
	check_nothing_left();
}

static void test_noise_is_refused(void)
{
	world_send(&world, 1);
	for (int i = 0; i < 50; i++) {
		for (size_t k = i % 2 ? PREAMBLE_BYTES : 0; k < 1000; k++)
			world.stream.bytes[k] = (uint8_t)world_random(&world, 256);
		CU_ASSERT_EQUAL(run_file(1000, "noise"), -EBADMSG);
		check_nothing_left();
	}
}

/* Every class of bytes: whatever is changed, the words come and nothing stays. */
static void test_a_changed_byte_is_refused(void)
{
	world_send_little(&world);
	for (size_t i = 0; i < world.stream.frames; i++) {
		size_t at = world.stream.at[i], end = world.stream.at[i + 1];
		for (size_t k = at; k < end; k += k < at + 60 ? 1 : (end - at) / 5 + 1) {
			/* The upper flags are hints, but the checksum holds them too. */
			world.stream.bytes[k] ^= 1 << (k % 8);
			CU_ASSERT_EQUAL(run_file(world.stream.len, "changed"), -EBADMSG);
			world.stream.bytes[k] ^= 1 << (k % 8);
		}
		check_nothing_left();
	}
}

/* The same with checksums made right again: a session may take what makes sense, and must never
 * fall over. */
static void test_changed_frames_with_right_checksums_do_no_harm(void)
{
	world_send_little(&world);
	for (int n = 0; n < 500; n++) {
		size_t i = world_random(&world, world.stream.frames);
		struct frame f;
		struct frame_buffer raw;
		stream_frame(&world.stream, i, &f, &raw);
		size_t k = FRAME_HEADER_BYTES + world_random(&world, f.head_bytes + 8);
		if (k >= raw.bytes)
			continue;
		uint8_t header[FRAME_HEADER_BYTES], old = raw.data[k];
		memcpy(header, raw.data, sizeof(header));
		raw.data[k] = (uint8_t)world_random(&world, 256);
		frame_header_encode(&f, raw.data);

		session_free(session);
		session = new_session(false);
		CU_ASSERT_EQUAL_FATAL(open_as("odd"), 0);
		int r = feed_all(&world.stream);
		if (r == 0) {
			struct image_verdict verdict;
			CU_ASSERT_EQUAL(image_verify(store, "odd", NULL, NULL, &verdict, &err), 0);
			CU_ASSERT_EQUAL(verdict.damages, 0);
			CU_ASSERT_EQUAL_FATAL(store_remove(store, "odd", &err), 0);
		}
		check_nothing_left();
		raw.data[k] = old;
		memcpy(raw.data, header, sizeof(header));
	}
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_a_whole_stream_is_committed),
		TEST(test_a_stream_cut_at_any_frame_leaves_nothing),
		TEST(test_a_session_that_is_dropped_leaves_nothing),
		TEST(test_a_missing_frame_is_noticed),
		TEST(test_a_frame_that_comes_twice_is_noticed),
		TEST(test_frames_out_of_order_are_refused),
		TEST(test_a_session_that_failed_refuses_everything),
		TEST(test_a_stream_needs_to_be_opened),
		TEST(test_a_name_that_is_taken_is_refused_at_open),
		TEST(test_of_two_sessions_with_one_name_the_first_wins),
		TEST(test_sinks_that_are_not_there_are_refused_by_name),
		TEST(test_other_processes_are_refused),
		TEST(test_streams_that_cannot_be_stored_are_refused),
		TEST(test_blocks_are_held_against_the_features_of_the_stream),
		TEST(test_rounds_follow_each_other),
		TEST(test_nothing_but_the_state_follows_the_final_round),
		TEST(test_frames_of_another_round_are_refused),
		TEST(test_sums_that_do_not_agree_are_refused),
		TEST(test_commits_that_do_not_agree_are_refused),
		TEST(test_a_page_that_comes_twice_in_a_round_is_refused),
		TEST(test_held_pages_outside_of_mappings_are_refused),
		TEST(test_a_mapping_over_another_one_is_refused),
		TEST(test_a_commit_without_the_state_is_refused),
		TEST(test_a_block_that_does_not_decode_is_refused),
		TEST(test_a_delta_of_what_is_held_is_taken),
		TEST(test_a_delta_of_other_pages_is_refused),
		TEST(test_a_delta_of_what_is_not_held_is_refused),
		TEST(test_deltas_that_were_not_agreed_on_are_refused),
		TEST(test_a_recorded_stream_has_no_deltas),
		TEST(test_unknown_frames_are_passed_over),
		TEST(test_frames_of_files_are_refused_from_a_socket),
		TEST(test_a_sender_that_gives_up_is_quoted),
		TEST(test_a_peer_that_does_not_listen_ends_the_session),
		TEST(test_a_recorded_stream_is_stored),
		TEST(test_a_recorded_stream_cut_anywhere_is_refused),
		TEST(test_what_follows_a_commit_is_refused),
		TEST(test_noise_is_refused),
		TEST(test_a_changed_byte_is_refused),
		TEST(test_changed_frames_with_right_checksums_do_no_harm),
		{NULL, NULL},
	};
	return harness_main(argc, argv, "session", tests, setup, teardown);
}
