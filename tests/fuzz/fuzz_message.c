/* SPDX-License-Identifier: MIT */
/*
 * Messages: heads of every type but PAGES. Input: the type's low byte, then heads, each behind its
 * length as u16 (the last may be short). The heads of STATE go into one state, one after the other.
 *
 * What holds: a message that decodes can be encoded, in one frame or several; these decode, and
 * what came out of them, encoded again, gives the same bytes.
 */
#include <string.h>
#include "base/le.h"
#include "proto/message.h"
#include "tests/fuzz/fuzz.h"

/* Did it decode? Each failure has its words. */
static bool decodes(int r, const struct tide_error *err)
{
	FUZZ_HOLDS(r <= 0);
	FUZZ_HOLDS(r == 0 || (r == err->code && err->text[0]));
	return r == 0;
}

static struct frame frame_of(const struct frame_buffer *b)
{
	struct frame f;
	FUZZ_HOLDS(frame_decode(b->data, b->data + FRAME_HEADER_BYTES, &f, NULL) == 0);
	FUZZ_HOLDS(f.head_bytes <= HEAD_BYTES_LEAST && f.payload_bytes == 0);
	return f;
}

static void expect_same(const struct frame_buffer *a, const struct frame_buffer *b)
{
	FUZZ_HOLDS(a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0);
}

static void released(void *m)
{
	(void)m;
}

static void process_info_release(struct process_info **m)
{
	free(*m);
}

/* x_there_and_back() for a message of one frame. `...`: what its encoder takes before the frame. */
#define THERE_AND_BACK(x, type, release, ...)                      \
	static void x##_there_and_back(const struct frame *f)      \
	{                                                          \
		struct frame_buffer first = {0}, second = {0};     \
		struct tide_error err;                             \
		type m;                                            \
		if (!decodes(x##_decode(f, &m, &err), &err))       \
			return;                                    \
		FUZZ_HOLDS(x##_encode(__VA_ARGS__, &first) == 0);  \
		release(&m);                                       \
		struct frame again = frame_of(&first);             \
		FUZZ_HOLDS(x##_decode(&again, &m, &err) == 0);     \
		FUZZ_HOLDS(x##_encode(__VA_ARGS__, &second) == 0); \
		release(&m);                                       \
		expect_same(&first, &second);                      \
		frame_buffer_release(&first);                      \
		frame_buffer_release(&second);                     \
	}

THERE_AND_BACK(hello, struct hello, released, &m)
THERE_AND_BACK(auth, struct auth, released, &m)
THERE_AND_BACK(open_request, struct open_request, released, &m)
THERE_AND_BACK(open_reply, struct open_reply, released, &m)
THERE_AND_BACK(join_request, struct join_request, released, &m)
THERE_AND_BACK(join_reply, struct join_reply, released, &m)
THERE_AND_BACK(error_message, struct error_message, released, &m)
THERE_AND_BACK(round_ack, struct round_ack, released, &m)
THERE_AND_BACK(committed, struct committed, released, &m)
THERE_AND_BACK(stream_header, struct stream_header, released, &m)
THERE_AND_BACK(commit, struct commit, released, &m)
THERE_AND_BACK(process_info, struct process_info *, process_info_release, f->process, m)
THERE_AND_BACK(round_header, struct round_header, released, f->process, &m)
THERE_AND_BACK(round_end, struct round_end, released, f->process, &m)

static void hello_try(const struct frame *f)
{
	struct hello ours, theirs;
	struct agreement agreed;
	struct tide_error err;

	hello_there_and_back(f);
	if (hello_decode(f, &theirs, NULL) < 0)
		return;
	FUZZ_HOLDS(hello_init(&ours, &err) == 0);
	if (!decodes(hello_agree(&ours, &theirs, &agreed, &err), &err))
		return;
	FUZZ_HOLDS((agreed.features & ~FEATURES_KNOWN) == 0);
	FUZZ_HOLDS(agreed.limits.head_bytes <= FRAME_HEAD_MAX);
	FUZZ_HOLDS(agreed.limits.payload_bytes <= FRAME_PAYLOAD_MAX);
}

static void mappings_try(const struct frame *f)
{
	struct mappings_message m, part;
	struct mappings_cursor at = {0}, sum = {0};
	struct frame_buffer b = {0};
	struct tide_error err;

	if (!decodes(mappings_decode(f, &m, &err), &err))
		return;
	while (at.removed < m.diff.removed.len || at.added < m.diff.added.len) {
		FUZZ_HOLDS(mappings_encode(f->process, &m, &at, &b) == 0);
		struct frame again = frame_of(&b);
		FUZZ_HOLDS(mappings_decode(&again, &part, &err) == 0);
		FUZZ_HOLDS(part.diff.removed.len + part.diff.added.len > 0);
		for (size_t i = 0; i < part.diff.added.len; i++)
			FUZZ_HOLDS(mapping_equal(
				&part.diff.added.v[i], &m.diff.added.v[sum.added + i]));
		if (part.diff.removed.len)
			FUZZ_HOLDS(memcmp(part.diff.removed.runs, m.diff.removed.runs + sum.removed,
					   part.diff.removed.len * sizeof(struct page_run)) == 0);
		sum.removed += part.diff.removed.len;
		sum.added += part.diff.added.len;
		FUZZ_HOLDS(sum.removed == at.removed && sum.added == at.added);
		mappings_release(&part);
	}
	mappings_release(&m);
	frame_buffer_release(&b);
}

static void drops_try(const struct frame *f)
{
	struct drops_message m, part;
	struct frame_buffer b = {0};
	struct tide_error err;

	if (!decodes(drops_decode(f, &m, &err), &err))
		return;
	for (size_t at = 0, sum = 0; at < m.ndrops;) {
		FUZZ_HOLDS(drops_encode(f->process, &m, &at, &b) == 0);
		struct frame again = frame_of(&b);
		FUZZ_HOLDS(drops_decode(&again, &part, &err) == 0);
		FUZZ_HOLDS(part.ndrops > 0 && sum + part.ndrops == at);
		for (size_t i = 0; i < part.ndrops; i++, sum++)
			FUZZ_HOLDS(part.drops[i].space == m.drops[sum].space &&
				   part.drops[i].run.start == m.drops[sum].run.start &&
				   part.drops[i].run.end == m.drops[sum].run.end &&
				   part.drops[i].kind == m.drops[sum].kind);
		drops_release(&part);
	}
	drops_release(&m);
	frame_buffer_release(&b);
}

/* What a decoded state gives is compared by its frames: those of the state that they give must be
 * the same. */
static void state_expect_same(const struct process_state *s)
{
	struct frame_buffer first[8] = {0}, second = {0};
	struct process_state again = {0};
	struct tide_error err;
	size_t n = 0;

	for (size_t at = 0; at < s->nthreads; n++) {
		FUZZ_HOLDS(n < 8);
		FUZZ_HOLDS(state_encode(1, s, &at, &first[n]) == 0);
		struct frame f = frame_of(&first[n]);
		FUZZ_HOLDS(state_decode(&f, &again, &err) == 0);
	}
	FUZZ_HOLDS(process_state_complete(&again));
	for (size_t at = 0, i = 0; at < again.nthreads; i++) {
		FUZZ_HOLDS(i < n);
		FUZZ_HOLDS(state_encode(1, &again, &at, &second) == 0);
		expect_same(&first[i], &second);
	}
	process_state_release(&again);
	frame_buffer_release(&second);
	for (size_t i = 0; i < n; i++)
		frame_buffer_release(&first[i]);
}

static struct process_state state;

static void state_try(const struct frame *f)
{
	struct tide_error err;
	size_t before = state.nthreads;
	if (decodes(state_decode(f, &state, &err), &err))
		FUZZ_HOLDS(state.nthreads <= state.threads_total);
	else
		FUZZ_HOLDS(state.nthreads == before);
}

static const struct {
	enum frame_type type;
	void (*run)(const struct frame *f);
} targets[] = {
	{FRAME_HELLO, hello_try},
	{FRAME_AUTH, auth_there_and_back},
	{FRAME_OPEN, open_request_there_and_back},
	{FRAME_OPENED, open_reply_there_and_back},
	{FRAME_ERROR, error_message_there_and_back},
	{FRAME_ACK, round_ack_there_and_back},
	{FRAME_COMMITTED, committed_there_and_back},
	{FRAME_JOIN, join_request_there_and_back},
	{FRAME_JOINED, join_reply_there_and_back},
	{FRAME_STREAM, stream_header_there_and_back},
	{FRAME_PROCESS, process_info_there_and_back},
	{FRAME_ROUND, round_header_there_and_back},
	{FRAME_MAPPINGS, mappings_try},
	{FRAME_DROPS, drops_try},
	{FRAME_ROUND_END, round_end_there_and_back},
	{FRAME_STATE, state_try},
	{FRAME_COMMIT, commit_there_and_back},
};

/* Of the session, or of process 1? */
static uint32_t process_of(enum frame_type type)
{
	return type >= FRAME_PROCESS && type != FRAME_COMMIT;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	if (bytes == 0 || bytes > FRAME_HEAD_MAX)
		return 0;
	/* Any byte is some type, so that none is lost. */
	size_t target = data[0] % (sizeof(targets) / sizeof(targets[0]));
	for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++)
		if (targets[i].type == data[0])
			target = i;
	data++;
	bytes--;

	state = (struct process_state){0};
	while (bytes >= 2) {
		size_t n = le16_get(data);
		data += 2;
		bytes -= 2;
		if (n > bytes)
			n = bytes;
		/* Of exactly that size, so that a sanitizer sees a byte beyond. */
		uint8_t *head = malloc(n ? n : 1);
		FUZZ_HOLDS(head);
		memcpy(head, data, n);
		struct frame f = {
			.type = (uint16_t)targets[target].type,
			.process = process_of(targets[target].type),
			.head = head,
			.head_bytes = (uint32_t)n,
		};
		targets[target].run(&f);
		free(head);
		data += n;
		bytes -= n;
	}
	if (state.nthreads && process_state_complete(&state))
		state_expect_same(&state);
	process_state_release(&state);
	return 0;
}
