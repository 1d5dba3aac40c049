/* SPDX-License-Identifier: MIT */
/*
 * The frame reader, fed in pieces. Input: one byte of options, then the stream.
 *
 *   bit 0     the stream begins with a preamble
 *   bit 1     checksums are made right first: a fuzzer does not find one, and what lies behind them
 *             must stand hostile frames with right ones
 *   bits 2-7  the size of the pieces, less 1
 *
 * What holds: pieces of any size give the same frames and the same end; every frame, encoded again,
 * gives the bytes that were read.
 */
#include <string.h>
#include "proto/frame.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/mend.h"

#define WITH_PREAMBLE 1
#define MEND 2

/* What came of a stream. */
struct outcome {
	int code;
	uint64_t frames;
	uint64_t last_offset;
};

static void frame_check(struct frame_reader *r, const struct frame *f, const uint8_t *data)
{
	struct frame_buffer taken, again = {0};
	uint64_t at = frame_reader_frame_offset(r);

	frame_reader_take(r, &taken);
	FUZZ_HOLDS(at + taken.bytes == frame_reader_offset(r));
	FUZZ_HOLDS(memcmp(taken.data, data + at, taken.bytes) == 0);
	FUZZ_HOLDS(taken.bytes == FRAME_HEADER_BYTES + f->head_bytes + f->payload_bytes);
	FUZZ_HOLDS(frame_buffer_encode(&again, f) == 0);
	FUZZ_HOLDS(again.bytes == taken.bytes);
	FUZZ_HOLDS(memcmp(again.data, taken.data, taken.bytes) == 0);
	frame_buffer_release(&again);
	frame_buffer_release(&taken);
}

static struct outcome feed(const uint8_t *data, size_t bytes, bool with_preamble, size_t step)
{
	struct frame_reader *r;
	struct tide_error err;
	struct outcome o = {0};

	FUZZ_HOLDS(frame_reader_new(with_preamble, &r, &err) == 0);
	for (size_t at = 0; o.code == 0 && at < bytes;) {
		uint8_t *space;
		size_t room;
		FUZZ_HOLDS(frame_reader_space(r, &space, &room, &err) == 0 && room > 0);
		if (room > bytes - at)
			room = bytes - at;
		if (room > step)
			room = step;
		memcpy(space, data + at, room);
		at += room;

		bool complete;
		struct frame f;
		o.code = frame_reader_fed(r, room, &complete, &f, &err);
		if (o.code == 0 && complete) {
			o.frames++;
			o.last_offset = frame_reader_frame_offset(r);
			frame_check(r, &f, data);
		}
	}
	if (o.code == 0)
		o.code = frame_reader_end(r, &err);
	if (o.code < 0)
		FUZZ_HOLDS(err.code == o.code && err.text[0]);
	frame_reader_free(r);
	return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	if (bytes == 0)
		return 0;
	bool with_preamble = data[0] & WITH_PREAMBLE, mend = data[0] & MEND;
	size_t step = (size_t)(data[0] >> 2) + 1;
	data++;
	bytes--;

	uint8_t *stream = malloc(bytes ? bytes : 1);
	FUZZ_HOLDS(stream);
	memcpy(stream, data, bytes);
	size_t begin = with_preamble ? PREAMBLE_BYTES : 0;
	if (mend && bytes > begin)
		checksums_mend(stream, bytes, begin);

	struct outcome whole = feed(stream, bytes, with_preamble, SIZE_MAX);
	struct outcome pieces = feed(stream, bytes, with_preamble, step);
	FUZZ_HOLDS(whole.code == pieces.code);
	FUZZ_HOLDS(whole.frames == pieces.frames && whole.last_offset == pieces.last_offset);
	free(stream);
	return 0;
}
