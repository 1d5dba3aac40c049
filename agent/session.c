/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "agent/session.h"
#include "agent/sink_image.h"
#include "base/error.h"

/* Today a session carries one process. */
#define PROCESS_ONLY 1u

struct session {
	struct session_options options;
	enum session_phase phase;
	struct session_stats stats;
	char name[NAME_MAX_BYTES + 1];
	struct sink *sink;

	bool has_header;
	struct stream_header header;
	atomic_bool takes_pages; /* header and sink are there, and stay */
	struct address_space process;

	struct round_header round; /* under way, or the last one */
	uint64_t round_pages;      /* of its PAGES frames */
	uint64_t round_frames;
	uint64_t round_hollow; /* frames whose pages are not known any more */

	struct session_pages pages; /* where one thread does all */
	uint8_t *former;            /* BLOCK_PAGES_MAX of them, that a delta builds on */
	bool has_trailer, has_index;
	struct committed committed;
	bool is_committed;
};

/* The frame in hand. */
struct input {
	const struct frame *frame;
	const struct frame_buffer *raw;
	uint64_t offset;
	struct session_pages *pages;
};

static int out_of_memory(struct tide_error *err)
{
	return tide_fail(err, -ENOMEM, "follow the stream");
}

int session_new(const struct session_options *options, struct session **ret, struct tide_error *err)
{
	struct session *s = calloc(1, sizeof(*s));
	if (!s)
		return out_of_memory(err);
	s->options = *options;
	if (!s->options.features)
		s->options.features = options->from_file ? FEATURES_STORED : FEATURES_KNOWN;
	s->phase = SESSION_OPEN;
	*ret = s;
	return 0;
}

void session_free(struct session *s)
{
	if (!s)
		return;
	session_pages_release(s, &s->pages);
	if (s->sink)
		s->sink->ops->close(s->sink);
	address_space_release(&s->process);
	free(s->former);
	free(s);
}

/* --- opening ------------------------------------------------------------------------------ */

static int open_image(struct session *s, const struct open_request *request, struct sink **ret,
	struct tide_error *err)
{
	static const uint8_t none[ID_BYTES];
	if (memcmp(request->base_id, none, ID_BYTES) != 0)
		return tide_say(err, "an image cannot build on another one");
	return sink_image_open(s->options.store, request->name, ret, err);
}

static const struct {
	enum sink_kind kind;
	const char *name;
	/* NULL: not yet in this version. */
	int (*open)(struct session *s, const struct open_request *request, struct sink **ret,
		struct tide_error *err);
} sinks[] = {
	{SINK_IMAGE, "image", open_image},
	{SINK_SNAPSHOT, "snapshot", NULL},
	{SINK_SHELL, "shell", NULL},
};

int session_open_sink(struct session *s, struct sink *sink, struct tide_error *err)
{
	assert(s->phase == SESSION_OPEN);
	s->sink = sink;
	s->phase = SESSION_STREAM;
	return 0;
}

int session_open(struct session *s, const struct open_request *request, struct tide_error *err)
{
	assert(s->phase == SESSION_OPEN);
	for (size_t i = 0; i < sizeof(sinks) / sizeof(sinks[0]); i++) {
		if (sinks[i].kind != request->sink)
			continue;
		if (!sinks[i].open)
			return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -ECANCELED,
				"this agent has no %s sink", sinks[i].name);
		struct sink *sink;
		int r = sinks[i].open(s, request, &sink, err);
		if (r < 0)
			return r;
		snprintf(s->name, sizeof(s->name), "%s", request->name);
		return session_open_sink(s, sink, err);
	}
	return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -ECANCELED,
		"this agent has no sink of kind %d", (int)request->sink);
}

/* --- replies ------------------------------------------------------------------------------ */

static int reply(struct session *s, int encoded, struct frame_buffer *b, struct tide_error *err)
{
	if (encoded < 0)
		return tide_fail(err, encoded, "reply");
	return s->options.reply(s->options.arg, b, err);
}

static int reply_opened(
	struct session *s, const struct open_request *request, struct tide_error *err)
{
	if (!s->options.reply)
		return 0;
	struct open_reply m = {0};
	memcpy(m.session_id, request->session_id, ID_BYTES);
	memcpy(m.name, request->name, sizeof(m.name));
	auto_(frame_buffer_release) struct frame_buffer b = {0};
	return reply(s, open_reply_encode(&m, &b), &b, err);
}

static int reply_ack(struct session *s, const struct input *in, struct tide_error *err)
{
	if (!s->options.reply)
		return 0;
	struct round_ack m = {.round = s->round.number, .bytes = in->offset + in->raw->bytes};
	auto_(frame_buffer_release) struct frame_buffer b = {0};
	return reply(s, round_ack_encode(&m, &b), &b, err);
}

static int reply_committed(struct session *s, struct tide_error *err)
{
	if (!s->options.reply)
		return 0;
	auto_(frame_buffer_release) struct frame_buffer b = {0};
	return reply(s, committed_encode(&s->committed, &b), &b, err);
}

/* --- one frame after the other ------------------------------------------------------------ */

static int give(
	struct session *s, const struct input *in, struct sink_input *given, struct tide_error *err)
{
	given->frame = in->frame;
	given->raw = in->raw;
	return s->sink->ops->frame(s->sink, given, err);
}

static int on_open(struct session *s, const struct input *in, struct tide_error *err)
{
	struct open_request m;
	int r = open_request_decode(in->frame, &m, err);
	if (r == 0)
		r = session_open(s, &m, err);
	if (r == 0)
		r = reply_opened(s, &m, err);
	return r;
}

static int on_stream(struct session *s, const struct input *in, struct tide_error *err)
{
	static const uint8_t none[ID_BYTES];
	int r = stream_header_decode(in->frame, &s->header, err);
	if (r < 0)
		return r;
	const struct stream_header *h = &s->header;
	if (h->features & ~s->options.features)
		return tide_bad(err,
			"a stream that needs features (%#" PRIx64
			") that are not known here or were not agreed on",
			h->features & ~s->options.features);
	if (h->page_bytes < BATCH_PAGE_BYTES_MIN || h->page_bytes > BATCH_PAGE_BYTES_MAX ||
		(h->page_bytes & (h->page_bytes - 1)))
		return tide_bad(err, "a stream of pages of %" PRIu32 " bytes", h->page_bytes);
	if (memcmp(h->base_id, none, ID_BYTES) != 0)
		return tide_bad(
			err, "a stream that builds on another one, which is not possible yet");

	if (h->features & FEATURE_DELTA && !s->sink->ops->former)
		return tide_bad(err, "a stream with deltas, to a place that keeps no pages");

	s->former = malloc((size_t)BLOCK_PAGES_MAX * h->page_bytes);
	if (!s->former)
		return out_of_memory(err);
	s->has_header = true;
	s->phase = SESSION_PROCESS;
	r = give(s, in, &(struct sink_input){.stream = h}, err);
	atomic_store(&s->takes_pages, r == 0);
	return r;
}

static int on_process(struct session *s, const struct input *in, struct tide_error *err)
{
	if (in->frame->process != PROCESS_ONLY)
		return tide_bad(err,
			"a stream of process number %" PRIu32
			", where only one process, number %u, is possible yet",
			in->frame->process, PROCESS_ONLY);
	int r = process_info_decode(in->frame, &s->process.info, err);
	if (r < 0)
		return r;
	s->process.process = PROCESS_ONLY;
	s->process.page_bytes = s->header.page_bytes;
	s->phase = SESSION_ROUND;
	return give(s, in, &(struct sink_input){.process = &s->process}, err);
}

static int on_round(struct session *s, const struct input *in, struct tide_error *err)
{
	struct round_header m;
	int r = round_header_decode(in->frame, &m, err);
	if (r < 0)
		return r;
	if (m.number != s->stats.rounds)
		return tide_bad(err, "round %" PRIu64 ", where round %" PRIu64 " was to come",
			m.number, s->stats.rounds);
	s->round = m;
	s->round_pages = s->round_frames = s->round_hollow = 0;
	s->phase = SESSION_MAPPINGS;
	return give(s, in, &(struct sink_input){.round = &m, .process = &s->process}, err);
}

static int check_round(const struct session *s, uint64_t round, struct tide_error *err)
{
	if (round == s->round.number)
		return 0;
	return tide_bad(err, "it is of round %" PRIu64 ", in the middle of round %" PRIu64, round,
		s->round.number);
}

static int on_mappings(struct session *s, const struct input *in, struct tide_error *err)
{
	auto_(mappings_release) struct mappings_message m = {0};
	int r = mappings_decode(in->frame, &m, err);
	if (r == 0)
		r = check_round(s, m.round, err);
	if (r == 0)
		r = address_space_map(&s->process, &m.diff, err);
	if (r < 0)
		return r;
	return give(s, in, &(struct sink_input){.mappings = &m, .process = &s->process}, err);
}

static int on_drops(struct session *s, const struct input *in, struct tide_error *err)
{
	auto_(drops_release) struct drops_message m = {0};
	int r = drops_decode(in->frame, &m, err);
	if (r == 0)
		r = check_round(s, m.round, err);
	if (r == 0)
		r = address_space_drop(&s->process, m.drops, m.ndrops, err);
	if (r < 0)
		return r;
	s->phase = SESSION_DROPS;
	return give(s, in, &(struct sink_input){.drops = &m, .process = &s->process}, err);
}

/* What is held of the pages of a delta block, one behind the other; *ret NULL for other blocks. */
static int former_of(struct session *s, const struct batch *b, uint32_t block, const uint8_t **ret,
	struct tide_error *err)
{
	*ret = NULL;
	if (b->blocks[block].codec != CODEC_DELTA)
		return 0;
	struct page_run runs[BLOCK_PAGES_MAX];
	uint32_t n = batch_block_runs(b, block, runs);
	uint8_t *to = s->former;
	for (uint32_t i = 0; i < n; i++) {
		int r = s->sink->ops->former(s->sink, PROCESS_ONLY, b->space, runs[i], to, err);
		if (r < 0)
			return r;
		to += runs[i].end - runs[i].start;
	}
	*ret = s->former;
	return 0;
}

void session_pages_release(struct session *s, struct session_pages *p)
{
	if (s->sink && p->work)
		s->sink->ops->work_free(p->work);
	free(p->space);
	*p = (struct session_pages){0};
}

/* What is needed for the first frame, and then kept. */
static int pages_reserve(struct session *s, struct session_pages *p)
{
	if (!p->space)
		p->space = malloc((size_t)BATCH_PAGES_MAX * s->header.page_bytes);
	if (!p->space)
		return -ENOMEM;
	return p->work || !s->sink->ops->work_new ? 0 : s->sink->ops->work_new(s->sink, &p->work);
}

/* The pages of the batch, one behind the other. Where they lie like that in the frame itself,
 * because none is compressed, they are not copied. */
static int decode_pages(
	struct session *s, struct session_pages *p, const struct frame *f, struct tide_error *err)
{
	const struct batch *b = &p->batch;
	if (f->payload_bytes == (size_t)b->npages * b->page_bytes) {
		p->pages = f->payload;
		return 0;
	}
	uint8_t *to = p->space;
	for (uint32_t i = 0; i < b->nblocks; i++) {
		const uint8_t *former;
		int r = former_of(s, b, i, &former, err);
		if (r == 0)
			r = batch_block_read(b, i, f->payload, former, to, err);
		if (r < 0)
			return r;
		to += (size_t)b->blocks[i].pages * b->page_bytes;
	}
	p->pages = p->space;
	return 0;
}

static void pages_made(struct session *s, struct session_pages *p, const struct frame *frame,
	const struct frame_buffer *raw)
{
	p->frame = frame;
	p->given = (struct sink_input){
		.frame = frame, .raw = raw, .batch = &p->batch, .pages = p->pages, .work = p->work};
	if (s->sink->ops->prepare)
		s->sink->ops->prepare(s->sink, &p->given);
}

/* What is wrong with it is found again, and told, in its turn; and what a delta builds on is only
 * known then. */
void session_prepare(struct session *s, const struct frame *frame, const struct frame_buffer *raw,
	struct session_pages *p)
{
	p->frame = NULL;
	if (frame->type != FRAME_PAGES || !atomic_load(&s->takes_pages))
		return;
	if (pages_reserve(s, p) < 0 ||
		batch_decode(frame, s->header.page_bytes, s->header.features, &p->batch, NULL) <
			0 ||
		batch_has_delta(&p->batch) || decode_pages(s, p, frame, NULL) < 0)
		return;
	pages_made(s, p, frame, raw);
}

static int on_pages(struct session *s, const struct input *in, struct tide_error *err)
{
	struct session_pages *p = in->pages;
	bool is_made = p->frame == in->frame;
	int r = 0;
	if (!is_made && pages_reserve(s, p) < 0)
		return out_of_memory(err);
	if (!is_made)
		r = batch_decode(
			in->frame, s->header.page_bytes, s->header.features, &p->batch, err);
	if (r == 0)
		r = check_round(s, p->batch.round, err);
	if (r == 0)
		r = address_space_hold(&s->process, &p->batch, err);
	if (r == 0 && !is_made) {
		r = decode_pages(s, p, in->frame, err);
		if (r == 0)
			pages_made(s, p, in->frame, in->raw);
	}
	if (r < 0)
		return r;
	s->round_pages += p->batch.npages;
	s->round_frames++;
	s->stats.pages += p->batch.npages;
	s->phase = SESSION_PAGES;
	struct sink_input given = p->given;
	given.process = &s->process;
	return give(s, in, &given, err);
}

int session_finish(struct session *s, struct session_pages *p, struct tide_error *err)
{
	return s->sink->ops->finish(s->sink, &p->given, err);
}

static int on_hollow(struct session *s, const struct input *in, struct tide_error *err)
{
	s->round_hollow++;
	s->phase = SESSION_PAGES;
	return give(s, in, &(struct sink_input){.process = &s->process}, err);
}

static int on_round_end(struct session *s, const struct input *in, struct tide_error *err)
{
	struct round_end m;
	int r = round_end_decode(in->frame, &m, err);
	if (r == 0)
		r = check_round(s, m.number, err);
	if (r < 0)
		return r;

	/* A hollow frame had one page at least. */
	uint64_t hollow = s->round_hollow;
	if (m.frames != s->round_frames + hollow || m.pages < s->round_pages + hollow ||
		m.pages - s->round_pages > hollow * BATCH_PAGES_MAX)
		return tide_bad(err,
			"round %" PRIu64 " was to have %" PRIu64 " pages in %" PRIu64
			" frames, and %" PRIu64 " in %" PRIu64 " came",
			m.number, m.pages, m.frames, s->round_pages, s->round_frames + hollow);

	r = address_space_round_end(&s->process, err);
	if (r == 0)
		r = give(s, in, &(struct sink_input){.round_end = &m, .process = &s->process}, err);
	if (r == 0)
		r = reply_ack(s, in, err);
	if (r == 0)
		r = s->sink->ops->round_end(s->sink, m.number, err);
	s->stats.rounds++;
	s->phase = s->round.final ? SESSION_STATE : SESSION_ROUND;
	return r;
}

static int on_state(struct session *s, const struct input *in, struct tide_error *err)
{
	int r = state_decode(in->frame, &s->process.state, err);
	if (r < 0)
		return r;
	return give(s, in, &(struct sink_input){.state = &s->process.state, .process = &s->process},
		err);
}

static int sink_commit(struct session *s, struct tide_error *err)
{
	memcpy(s->committed.stream_id, s->header.stream_id, ID_BYTES);
	int r = s->sink->ops->commit(s->sink, &s->committed, err);
	s->is_committed = r == 0;
	return r;
}

static int on_commit(struct session *s, const struct input *in, struct tide_error *err)
{
	struct commit m;
	int r = commit_decode(in->frame, &m, err);
	if (r < 0)
		return r;
	if (!process_state_complete(&s->process.state))
		return tide_bad(err, "a commit before the whole state of process %u", PROCESS_ONLY);
	if (memcmp(m.stream_id, s->header.stream_id, ID_BYTES) != 0)
		return tide_bad(err, "a commit of another stream");
	if (m.rounds != s->stats.rounds)
		return tide_bad(err, "a commit of %" PRIu64 " rounds, where %" PRIu64 " came",
			m.rounds, s->stats.rounds);
	uint64_t held = address_space_held_pages(&s->process);
	if (m.held_pages != held)
		return tide_bad(err, "a commit of %" PRIu64 " pages, where %" PRIu64 " are held",
			m.held_pages, held);
	r = address_space_check(&s->process, err);
	if (r == 0)
		r = give(s, in, &(struct sink_input){.commit = &m}, err);
	if (r < 0)
		return r;

	s->phase = SESSION_DONE;
	if (s->options.from_file)
		return 0;
	r = sink_commit(s, err);
	return r < 0 ? r : reply_committed(s, err);
}

static int on_error(struct session *s, const struct input *in, struct tide_error *err)
{
	struct error_message m;
	int r = error_message_decode(in->frame, &m, err);
	if (r < 0)
		return r;
	return tide_fail_kind(err, m.kind, -ECANCELED, "the sender gave up: %.400s", m.text);
}

static int skip(struct session *s, const struct input *in, struct tide_error *err)
{
	return 0;
}

static int on_index(struct session *s, const struct input *in, struct tide_error *err)
{
	s->has_index = true;
	return 0;
}

static int on_trailer(struct session *s, const struct input *in, struct tide_error *err)
{
	s->has_trailer = true;
	return 0;
}

/* A later version's: one that matters would have been refused. What belongs to the stream is kept
 * for whoever knows it. */
static int on_unknown(struct session *s, const struct input *in, struct tide_error *err)
{
	bool is_stream = in->frame->type >= FRAME_STREAM && in->frame->type < FRAME_HOLLOW;
	if (!is_stream || s->phase < SESSION_ROUND || s->phase > SESSION_STATE)
		return 0;
	return give(s, in, &(struct sink_input){.frame = NULL}, err);
}

/* In the order of their first places in a stream. */
static const struct frame_rule {
	uint16_t type;
	enum session_phase from, to; /* phases in which it may come */
	bool file_only;
	bool of_process; /* else of none */
	int (*handle)(struct session *s, const struct input *in, struct tide_error *err);
} rules[] = {
	{FRAME_OPEN, SESSION_OPEN, SESSION_OPEN, false, false, on_open},
	{FRAME_STREAM, SESSION_STREAM, SESSION_STREAM, false, false, on_stream},
	{FRAME_PROCESS, SESSION_PROCESS, SESSION_PROCESS, false, true, on_process},
	{FRAME_ROUND, SESSION_ROUND, SESSION_ROUND, false, true, on_round},
	{FRAME_MAPPINGS, SESSION_MAPPINGS, SESSION_MAPPINGS, false, true, on_mappings},
	{FRAME_DROPS, SESSION_MAPPINGS, SESSION_DROPS, false, true, on_drops},
	{FRAME_PAGES, SESSION_MAPPINGS, SESSION_PAGES, false, true, on_pages},
	{FRAME_HOLLOW, SESSION_MAPPINGS, SESSION_PAGES, true, true, on_hollow},
	{FRAME_ROUND_END, SESSION_MAPPINGS, SESSION_PAGES, false, true, on_round_end},
	{FRAME_STATE, SESSION_STATE, SESSION_STATE, false, true, on_state},
	{FRAME_COMMIT, SESSION_STATE, SESSION_STATE, false, false, on_commit},
	{FRAME_ERROR, SESSION_OPEN, SESSION_STATE, false, false, on_error},
	{FRAME_HASHES, SESSION_PAGES, SESSION_PAGES, true, true, skip},
	{FRAME_INDEX, SESSION_DONE, SESSION_DONE, true, false, on_index},
	{FRAME_TRAILER, SESSION_DONE, SESSION_DONE, true, false, on_trailer},
};

static const char *const phase_wants[] = {
	[SESSION_OPEN] = "OPEN",
	[SESSION_STREAM] = "STREAM",
	[SESSION_PROCESS] = "PROCESS",
	[SESSION_ROUND] = "ROUND",
	[SESSION_MAPPINGS] = "MAPPINGS, DROPS, PAGES or ROUND_END",
	[SESSION_DROPS] = "DROPS, PAGES or ROUND_END",
	[SESSION_PAGES] = "PAGES or ROUND_END",
	[SESSION_STATE] = "STATE or COMMIT",
	[SESSION_DONE] = "nothing more",
	[SESSION_FAILED] = "nothing more",
};

static int on_frame(struct session *s, const struct input *in, struct tide_error *err)
{
	const struct frame_rule *rule = rules, *end = rules + sizeof(rules) / sizeof(rules[0]);
	while (rule < end && rule->type != in->frame->type)
		rule++;

	char name[16];
	const char *type = frame_type_name(in->frame->type, name);
	if (rule == end && type == name)
		return on_unknown(s, in, err);
	if (rule == end || (rule->file_only && !s->options.from_file))
		return tide_bad(err, "%s has no place in a stream", type);
	if (s->phase < rule->from || s->phase > rule->to || s->has_trailer)
		return tide_bad(err, "%s where %s was to come", type, phase_wants[s->phase]);
	if (rule->of_process ? in->frame->process == 0 : in->frame->process != 0) {
		/* The index tells of processes, each frame of one or of none. */
		if (in->frame->type != FRAME_INDEX)
			return tide_bad(err, "it says process %" PRIu32, in->frame->process);
	}
	if (s->phase > SESSION_PROCESS && in->frame->process > PROCESS_ONLY)
		return tide_bad(err, "it speaks of process %" PRIu32 ", which was not announced",
			in->frame->process);
	return rule->handle(s, in, err);
}

/* Says where, for what is wrong in the stream itself. */
static int locate(const struct input *in, int r, struct tide_error *err)
{
	if (!err || r != -EBADMSG)
		return r;
	char name[16], whole[32];
	const char *type = frame_type_name(in->frame->type, name);
	snprintf(whole, sizeof(whole), "%s frame", type);
	/* The decoders' words often name the frame already. */
	if (strstr(err->text, whole))
		return tide_prefix(err, r, "at byte %" PRIu64 ": ", in->offset);
	return tide_prefix(err, r, "%s at byte %" PRIu64 ": ", whole, in->offset);
}

static void session_fail(struct session *s)
{
	s->phase = SESSION_FAILED;
	if (s->options.shared)
		return;
	session_pages_release(s, &s->pages);
	if (s->sink)
		s->sink->ops->close(s->sink);
	s->sink = NULL;
}

int session_frame_prepared(struct session *s, const struct frame *frame,
	const struct frame_buffer *raw, uint64_t offset, struct session_pages *p,
	struct tide_error *err)
{
	struct input in = {.frame = frame, .raw = raw, .offset = offset, .pages = p};
	if (s->phase == SESSION_FAILED)
		return tide_say(err, "the session has failed before");
	int r = on_frame(s, &in, err);
	if (r < 0) {
		session_fail(s);
		return locate(&in, r, err);
	}
	s->stats.frames++;
	s->stats.bytes += raw->bytes;
	return r;
}

int session_frame(struct session *s, const struct frame *frame, const struct frame_buffer *raw,
	uint64_t offset, struct tide_error *err)
{
	s->pages.frame = NULL;
	int r = session_frame_prepared(s, frame, raw, offset, &s->pages, err);
	if (r <= 0)
		return r;
	r = session_finish(s, &s->pages, err);
	if (r < 0)
		session_fail(s);
	return r;
}

int session_end(struct session *s, struct tide_error *err)
{
	int r = 0;
	if (s->phase == SESSION_FAILED)
		return tide_say(err, "the session has failed before");
	if (s->phase != SESSION_DONE)
		r = tide_bad(err, "the stream ends where %s was to come", phase_wants[s->phase]);
	else if (s->has_index && !s->has_trailer)
		r = tide_bad(err, "the image ends before its trailer");
	else if (!s->is_committed)
		r = sink_commit(s, err);
	if (r < 0)
		session_fail(s);
	return r;
}

bool session_committed(const struct session *s, struct committed *ret)
{
	if (s->is_committed)
		*ret = s->committed;
	return s->is_committed;
}

struct session_stats session_stats(const struct session *s)
{
	struct session_stats stats = s->stats;
	stats.phase = s->phase;
	return stats;
}

const char *session_name(const struct session *s)
{
	return s->name;
}

const struct stream_header *session_header(const struct session *s)
{
	return s->has_header ? &s->header : NULL;
}

const struct address_space *session_process(const struct session *s, uint32_t process)
{
	return s->process.process && s->process.process == process ? &s->process : NULL;
}

/* --- files -------------------------------------------------------------------------------- */

static int run_frames(
	struct session *s, int fd, struct frame_reader *reader, struct tide_error *err)
{
	for (;;) {
		uint8_t *to;
		size_t room;
		int r = frame_reader_space(reader, &to, &room, err);
		if (r < 0)
			return r;
		ssize_t n = read(fd, to, room);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return tide_fail(err, -errno, "read");
		if (n == 0)
			return frame_reader_end(reader, err);

		bool complete;
		struct frame frame;
		r = frame_reader_fed(reader, (size_t)n, &complete, &frame, err);
		if (r < 0)
			return r;
		if (!complete)
			continue;
		auto_(frame_buffer_release) struct frame_buffer raw = {0};
		frame_reader_take(reader, &raw);
		r = session_frame(s, &frame, &raw, frame_reader_frame_offset(reader), err);
		if (r < 0)
			return r;
	}
}

int session_run_file(struct session *s, int fd, const char *what, struct tide_error *err)
{
	assert(s->options.from_file);
	auto_(frame_reader_freep) struct frame_reader *reader = NULL;
	int r = frame_reader_new(true, &reader, err);
	if (r == 0)
		r = run_frames(s, fd, reader, err);
	bool in_sink = s->phase == SESSION_FAILED && r != -EBADMSG;
	if (r < 0 && s->phase != SESSION_FAILED)
		session_fail(s);
	if (r == 0) {
		r = session_end(s, err);
		in_sink = r != -EBADMSG;
	}
	/* What went wrong in the store names the store. */
	return r == 0 || in_sink ? r : tide_prefix(err, r, "%s: ", what);
}
