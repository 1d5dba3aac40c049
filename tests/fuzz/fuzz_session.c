/* SPDX-License-Identifier: MIT */
/*
 * A session, from its first frame to its end. Input: one byte of options, then frames; their
 * checksums are made right first.
 *
 *   bit 0  the stream is a file's, and may be an image
 *
 * What holds: a failure has words; a session that failed takes nothing more; where a stream is
 * committed, the pages that the session holds are those that the index of an image would have.
 */
#include "agent/image_index.h"
#include "agent/session.h"
#include "base/error.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/mend.h"

#define FROM_FILE 1

static struct {
	struct sink base;
	struct image_index *index;
	uint64_t at;
	uint32_t page_bytes;
	uint64_t rounds;
	uint64_t sum; /* of all bytes of all pages: they can be read */
	bool from_file, is_committed, is_closed;
} keeper;

static int keeper_frame(struct sink *s, const struct sink_input *in, struct tide_error *err)
{
	FUZZ_HOLDS(!keeper.is_committed);
	if (in->stream)
		keeper.page_bytes = in->stream->page_bytes;
	/* What comes from a file holds all of its pages. */
	for (uint32_t i = 0; in->batch && i < in->batch->nblocks; i++)
		FUZZ_HOLDS(in->batch->blocks[i].codec != CODEC_DELTA || !keeper.from_file);
	FUZZ_HOLDS((in->frame->type == FRAME_PAGES) == (in->batch != NULL));
	for (size_t i = 0; in->batch && i < (size_t)in->batch->npages * in->batch->page_bytes; i++)
		keeper.sum += in->pages[i];
	return image_index_frame(keeper.index, keeper.at, in, err);
}

/* All that is held is zero to a delta; whether it is held, the index knows. */
static int keeper_former(struct sink *s, uint32_t process, space_id space, struct page_run run,
	uint8_t *dst, struct tide_error *err)
{
	FUZZ_HOLDS(process == 1 && run.start < run.end);
	memset(dst, 0, run.end - run.start);
	for (struct index_extent e; run.start < run.end;
		run.start += (uint64_t)e.pages * keeper.page_bytes) {
		if (!image_index_find(keeper.index, space, run.start, &e))
			return tide_bad(err, "a page that is not held");
		FUZZ_HOLDS(e.pages > 0 && e.place == run.start && e.frame_offset < keeper.at);
	}
	return 0;
}

static int keeper_round_end(struct sink *s, uint64_t round, struct tide_error *err)
{
	uint64_t dead;
	FUZZ_HOLDS(round == keeper.rounds++);
	while (image_index_dead(keeper.index, &dead))
		FUZZ_HOLDS(dead < keeper.at);
	return 0;
}

static int keeper_commit(struct sink *s, struct committed *ret, struct tide_error *err)
{
	keeper.is_committed = true;
	return 0;
}

static void keeper_close(struct sink *s)
{
	FUZZ_HOLDS(!keeper.is_closed);
	keeper.is_closed = true;
}

static const struct sink_ops keeper_ops = {
	.frame = keeper_frame,
	.former = keeper_former,
	.round_end = keeper_round_end,
	.commit = keeper_commit,
	.close = keeper_close,
};

static int reply(void *arg, struct frame_buffer *b, struct tide_error *err)
{
	struct frame f;
	FUZZ_HOLDS(frame_decode(b->data, b->data + FRAME_HEADER_BYTES, &f, NULL) == 0);
	FUZZ_HOLDS(f.type == FRAME_ACK || f.type == FRAME_COMMITTED);
	return 0;
}

static int write_nowhere(void *arg, const void *data, size_t bytes, struct tide_error *err)
{
	*(uint64_t *)arg += bytes;
	return 0;
}

/* What the session and the index say of the pages, by roads of their own. */
static void expect_agreement(const struct session *s)
{
	const struct address_space *a = session_process(s, 1);
	uint64_t bytes = 0;
	FUZZ_HOLDS(a && address_space_held_pages(a) == image_index_held_pages(keeper.index));
	FUZZ_HOLDS(session_stats(s).rounds == keeper.rounds && keeper.rounds > 0);
	FUZZ_HOLDS(address_space_check(a, NULL) == 0);
	FUZZ_HOLDS(image_index_write(keeper.index, keeper.at, write_nowhere, &bytes, NULL) == 0);
	FUZZ_HOLDS(bytes > TRAILER_BYTES);
}

static int run(struct session *s, const uint8_t *data, size_t bytes, struct tide_error *err)
{
	size_t at = 0, next = 0;
	/* The input is the fuzzer's; mending wants one to write to. */
	auto_free uint8_t *copy = malloc(bytes + 1);
	FUZZ_HOLDS(copy);
	memcpy(copy, data, bytes);
	for (; checksum_mend(copy, bytes, &next); at = next) {
		struct frame_header h;
		struct frame f;
		if (frame_header_decode(copy + at, &frame_limits_max, &h, NULL) < 0)
			return 0;
		FUZZ_HOLDS(frame_decode(copy + at, copy + at + FRAME_HEADER_BYTES, &f, NULL) == 0);
		/* Frames of their own, so that a sanitizer sees a byte beyond. */
		struct frame_buffer raw = {0};
		FUZZ_HOLDS(frame_buffer_encode(&raw, &f) == 0);
		FUZZ_HOLDS(frame_decode(raw.data, raw.data + FRAME_HEADER_BYTES, &f, NULL) == 0);
		keeper.at = PREAMBLE_BYTES + at;
		int r = session_frame(s, &f, &raw, at, err);
		frame_buffer_release(&raw);
		if (r < 0)
			return r;
	}
	keeper.at = PREAMBLE_BYTES + at;
	return session_end(s, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	uint8_t preamble[PREAMBLE_BYTES];
	struct tide_error err = {0};
	struct session *s;
	if (bytes == 0)
		return 0;

	memset(&keeper, 0, sizeof(keeper));
	keeper.base.ops = &keeper_ops;
	preamble_encode(preamble);
	FUZZ_HOLDS(image_index_new(preamble, &keeper.index) == 0);
	keeper.from_file = data[0] & FROM_FILE;
	struct session_options options = {.reply = reply, .from_file = data[0] & FROM_FILE};
	FUZZ_HOLDS(session_new(&options, &s, &err) == 0);
	FUZZ_HOLDS(session_open_sink(s, &keeper.base, &err) == 0);

	int r = run(s, data + 1, bytes - 1, &err);
	if (r < 0) {
		FUZZ_HOLDS(r == err.code && err.text[0]);
		FUZZ_HOLDS(session_end(s, NULL) < 0);
	} else if (keeper.is_committed) {
		expect_agreement(s);
	}
	session_free(s);
	FUZZ_HOLDS(keeper.is_closed);
	image_index_free(keeper.index);
	return 0;
}
