/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/le.h"
#include "proto/frame.h"
#include "tests/harness.h"

static struct frame_reader *reader;
static struct frame_buffer buffer, taken;
static uint8_t *stream;
static size_t stream_bytes;
static struct tide_error err;

static void setup(void)
{
	reader = NULL;
	buffer = taken = (struct frame_buffer){0};
	stream = NULL;
	stream_bytes = 0;
	err = (struct tide_error){0};
}

static void teardown(void)
{
	frame_reader_free(reader);
	frame_buffer_release(&buffer);
	frame_buffer_release(&taken);
	free(stream);
}

static const uint8_t head_text[] = "head", payload_text[] = "the payload";

static struct frame some_frame(void)
{
	return (struct frame){
		.type = FRAME_PAGES,
		.flags = FRAME_CRITICAL,
		.process = 7,
		.head = head_text,
		.head_bytes = 4,
		.payload = payload_text,
		.payload_bytes = 11,
	};
}

static void stream_add(const void *data, size_t bytes)
{
	uint8_t *larger = realloc(stream, stream_bytes + bytes);
	if (!larger)
		abort();
	stream = larger;
	memcpy(stream + stream_bytes, data, bytes);
	stream_bytes += bytes;
}

static void stream_add_preamble(void)
{
	uint8_t preamble[PREAMBLE_BYTES];
	preamble_encode(preamble);
	stream_add(preamble, sizeof(preamble));
}

static void stream_add_frame(const struct frame *f)
{
	CU_ASSERT_EQUAL_FATAL(frame_buffer_encode(&buffer, f), 0);
	stream_add(buffer.data, buffer.bytes);
}

/* Three frames of several sizes, one without a body. Where each begins. */
static void stream_make(size_t begins[4])
{
	static uint8_t large[10000];
	for (size_t i = 0; i < sizeof(large); i++)
		large[i] = (uint8_t)(i * 7);

	struct frame f = some_frame();
	stream_add_preamble();
	begins[0] = stream_bytes;
	stream_add_frame(&f);
	begins[1] = stream_bytes;
	stream_add_frame(&(struct frame){.type = FRAME_PING});
	begins[2] = stream_bytes;
	f.payload = large;
	f.payload_bytes = sizeof(large);
	stream_add_frame(&f);
	begins[3] = stream_bytes;
}

/* Feeds `bytes` in pieces of at most `step`, until an error or the end. Frames are counted, and
 * compared with where they stand in the stream. */
static int feed(const uint8_t *data, size_t bytes, size_t step, size_t *ret_frames)
{
	size_t at = 0, frames = 0;
	int r = 0;

	while (r == 0 && at < bytes) {
		uint8_t *space;
		size_t room;
		r = frame_reader_space(reader, &space, &room, &err);
		if (r < 0)
			break;
		CU_ASSERT_FATAL(room > 0);
		size_t piece = bytes - at < step ? bytes - at : step;
		if (piece > room)
			piece = room;
		memcpy(space, data + at, piece);
		at += piece;

		bool complete = false;
		struct frame f;
		r = frame_reader_fed(reader, piece, &complete, &f, &err);
		CU_ASSERT_EQUAL(frame_reader_offset(reader), at);
		if (r < 0 || !complete)
			continue;
		frames++;
		size_t begin = frame_reader_frame_offset(reader);
		CU_ASSERT_EQUAL(begin + FRAME_HEADER_BYTES + f.head_bytes + f.payload_bytes, at);
		CU_ASSERT(memcmp(f.head, data + begin + FRAME_HEADER_BYTES, f.head_bytes) == 0);
		CU_ASSERT(memcmp(f.payload, data + at - f.payload_bytes, f.payload_bytes) == 0);
	}
	if (ret_frames)
		*ret_frames = frames;
	return r;
}

static int feed_new(const uint8_t *data, size_t bytes, size_t step, size_t *ret_frames)
{
	frame_reader_free(reader);
	reader = NULL;
	CU_ASSERT_EQUAL_FATAL(frame_reader_new(true, &reader, NULL), 0);
	return feed(data, bytes, step, ret_frames);
}

#define SAYS(words) CU_ASSERT_PTR_NOT_NULL(strstr(err.text, words))

/* --- preamble ----------------------------------------------------------------------------- */

static void test_the_preamble_is_read_back(void)
{
	uint8_t buf[PREAMBLE_BYTES];
	uint16_t minor = 99;
	preamble_encode(buf);
	CU_ASSERT(memcmp(buf, "\x89TIDE\r\n\x1a\x01\0\0\0\0\0\0\0", 16) == 0);
	CU_ASSERT_EQUAL(preamble_decode(buf, &minor, &err), 0);
	CU_ASSERT_EQUAL(minor, FORMAT_MINOR);
}

static void test_a_higher_minor_version_is_read(void)
{
	uint8_t buf[PREAMBLE_BYTES];
	uint16_t minor;
	preamble_encode(buf);
	le16_put(buf + 10, 513);
	CU_ASSERT_EQUAL(preamble_decode(buf, &minor, &err), 0);
	CU_ASSERT_EQUAL(minor, 513);
}

static void test_another_major_version_is_refused_by_number(void)
{
	uint8_t buf[PREAMBLE_BYTES];
	uint16_t minor;
	preamble_encode(buf);
	le16_put(buf + 8, 2);
	CU_ASSERT_EQUAL(preamble_decode(buf, &minor, &err), -EBADMSG);
	SAYS("version 2");
	SAYS("reads 1");
}

static void test_reserved_bytes_must_be_zero(void)
{
	uint8_t buf[PREAMBLE_BYTES];
	uint16_t minor;
	preamble_encode(buf);
	buf[14] = 1;
	CU_ASSERT_EQUAL(preamble_decode(buf, &minor, &err), -EBADMSG);
	SAYS("reserved");
}

static void test_another_protocol_is_quoted(void)
{
	uint16_t minor;
	CU_ASSERT_EQUAL(
		preamble_decode((const uint8_t *)"HTTP/1.1 400 Bad", &minor, &err), -EBADMSG);
	SAYS("no Tidemark stream");
	SAYS("\"HTTP/1.1 400 Bad\"");
	CU_ASSERT_STRING_EQUAL(tide_error_reason(&err), "");
}

static void test_what_a_terminal_obeys_is_not_quoted(void)
{
	uint16_t minor;
	CU_ASSERT_EQUAL(preamble_decode((const uint8_t *)"\x1b[2J\"\\\xff\n--------", &minor, &err),
		-EBADMSG);
	SAYS("\"\\x1b[2J\\x22\\x5c\\xff\\x0a--------\"");
}

static void test_a_damaged_magic_is_told_from_another_protocol(void)
{
	uint8_t buf[PREAMBLE_BYTES];
	uint16_t minor;
	preamble_encode(buf);
	/* What a copy does that takes \r\n for the end of a line. */
	memmove(buf + 5, buf + 6, PREAMBLE_BYTES - 6);
	CU_ASSERT_EQUAL(preamble_decode(buf, &minor, &err), -EBADMSG);
	SAYS("damaged");
}

/* --- frames ------------------------------------------------------------------------------- */

static void test_a_frame_stands_in_these_bytes(void)
{
	static const uint8_t expected[] = {0x04, 0, 0, 0, /* head */
		0x0b, 0, 0, 0,                            /* payload */
		21, 0, 1, 0, 7, 0, 0, 0,                  /* type, flags, process */
		0, 0, 0, 0, 0, 0, 0, 0,                   /* checksum, below */
		'h', 'e', 'a', 'd', 't', 'h', 'e', ' ', 'p', 'a', 'y', 'l', 'o', 'a', 'd'};
	struct frame f = some_frame();
	CU_ASSERT_EQUAL_FATAL(frame_buffer_encode(&buffer, &f), 0);
	CU_ASSERT_EQUAL_FATAL(buffer.bytes, sizeof(expected));
	CU_ASSERT(memcmp(buffer.data, expected, 16) == 0);
	CU_ASSERT(memcmp(buffer.data + 24, expected + 24, sizeof(expected) - 24) == 0);
	/* XXH3-64 of what stands before and behind it. */
	CU_ASSERT_EQUAL(le64_get(buffer.data + 16), UINT64_C(0x5920876c818fdd92));
}

static void test_a_frame_is_read_back(void)
{
	struct frame f = some_frame(), got;
	CU_ASSERT_EQUAL_FATAL(frame_buffer_encode(&buffer, &f), 0);
	CU_ASSERT_EQUAL_FATAL(
		frame_decode(buffer.data, buffer.data + FRAME_HEADER_BYTES, &got, &err), 0);
	CU_ASSERT_EQUAL(got.type, FRAME_PAGES);
	CU_ASSERT_EQUAL(got.flags, FRAME_CRITICAL);
	CU_ASSERT_EQUAL(got.process, 7);
	CU_ASSERT_EQUAL(got.head_bytes, 4);
	CU_ASSERT_EQUAL(got.payload_bytes, 11);
	CU_ASSERT(memcmp(got.head, "head", 4) == 0);
	CU_ASSERT(memcmp(got.payload, "the payload", 11) == 0);
}

static void test_a_hollow_frame_has_any_body(void)
{
	struct frame f = some_frame(), got;
	f.type = FRAME_HOLLOW;
	CU_ASSERT_EQUAL_FATAL(frame_buffer_encode(&buffer, &f), 0);
	memset(buffer.data + FRAME_HEADER_BYTES, 0, 15);
	CU_ASSERT_EQUAL(frame_decode(buffer.data, buffer.data + FRAME_HEADER_BYTES, &got, &err), 0);
	CU_ASSERT_EQUAL(got.payload_bytes, 11);

	buffer.data[0]--;
	CU_ASSERT_EQUAL(
		frame_decode(buffer.data, buffer.data + FRAME_HEADER_BYTES, &got, &err), -EBADMSG);
}

static void test_lengths_above_the_limits_are_not_encoded(void)
{
	struct frame f = some_frame();
	f.head_bytes = FRAME_HEAD_MAX + 1;
	CU_ASSERT_EQUAL(frame_buffer_encode(&buffer, &f), -EMSGSIZE);
	f = some_frame();
	f.payload_bytes = FRAME_PAYLOAD_MAX + 1;
	CU_ASSERT_EQUAL(frame_buffer_encode(&buffer, &f), -EMSGSIZE);
	CU_ASSERT_EQUAL(buffer.bytes, 0);
}

static void test_a_buffer_keeps_its_storage(void)
{
	struct frame f = some_frame();
	CU_ASSERT_EQUAL_FATAL(frame_buffer_reserve(&buffer, 1000), 0);
	uint8_t *storage = buffer.storage;
	CU_ASSERT_EQUAL_FATAL(frame_buffer_encode(&buffer, &f), 0);
	CU_ASSERT_PTR_EQUAL(buffer.storage, storage);
	CU_ASSERT_PTR_EQUAL(buffer.data, storage);
	CU_ASSERT_EQUAL(buffer.cap, 1000);
}

static int header_decode(uint16_t type, uint16_t flags)
{
	uint8_t buf[FRAME_HEADER_BYTES];
	struct frame_header h;
	struct frame f = {.type = type, .flags = flags};
	frame_header_encode(&f, buf);
	return frame_header_decode(buf, &frame_limits_max, &h, &err);
}

static void test_an_unknown_type_is_refused_only_if_critical(void)
{
	CU_ASSERT_EQUAL(header_decode(99, 0), 0);
	CU_ASSERT_EQUAL(header_decode(99, FRAME_CRITICAL), -EBADMSG);
	SAYS("type 99");
	CU_ASSERT_EQUAL(header_decode(65535, FRAME_CRITICAL), -EBADMSG);
	CU_ASSERT_EQUAL(header_decode(0, FRAME_CRITICAL), -EBADMSG);
	/* Between two that are known. */
	CU_ASSERT_EQUAL(header_decode(12, FRAME_CRITICAL), -EBADMSG);
}

static void test_unknown_flags_are_refused_if_strict_and_ignored_if_hints(void)
{
	for (unsigned bit = 0; bit < 16; bit++) {
		uint16_t flags = (uint16_t)(1u << bit);
		bool refused = bit > 0 && bit < 8;
		CU_ASSERT_EQUAL(header_decode(FRAME_PAGES, flags), refused ? -EBADMSG : 0);
		CU_ASSERT_EQUAL(header_decode(99, flags & ~FRAME_CRITICAL), refused ? -EBADMSG : 0);
	}
}

static void test_types_have_names(void)
{
	char buf[16];
	CU_ASSERT_STRING_EQUAL(frame_type_name(FRAME_ROUND_END, buf), "ROUND_END");
	CU_ASSERT_STRING_EQUAL(frame_type_name(FRAME_TRAILER, buf), "TRAILER");
	CU_ASSERT_STRING_EQUAL(frame_type_name(65535, buf), "type 65535");
	CU_ASSERT_STRING_EQUAL(frame_type_name(0, buf), "type 0");
}

/* --- reader ------------------------------------------------------------------------------- */

static void test_pieces_of_any_size_give_the_same_frames(void)
{
	static const size_t steps[] = {1, 2, 3, 15, 16, 17, 23, 24, 25, 40, 4096, 1u << 20};
	size_t begins[4], frames;
	stream_make(begins);
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		CU_ASSERT_EQUAL(feed_new(stream, stream_bytes, steps[i], &frames), 0);
		CU_ASSERT_EQUAL(frames, 3);
		CU_ASSERT_EQUAL(frame_reader_end(reader, &err), 0);
	}
}

static void test_a_stream_may_come_without_preamble(void)
{
	size_t frames;
	struct frame f = some_frame();
	stream_add_frame(&f);
	CU_ASSERT_EQUAL_FATAL(frame_reader_new(false, &reader, NULL), 0);
	CU_ASSERT_EQUAL(feed(stream, stream_bytes, 5, &frames), 0);
	CU_ASSERT_EQUAL(frames, 1);
}

static void test_an_end_within_a_frame_is_told(void)
{
	size_t begins[4], frames;
	stream_make(begins);
	for (size_t end = 0; end <= stream_bytes; end += end < 200 ? 1 : 997) {
		CU_ASSERT_EQUAL_FATAL(feed_new(stream, end, 64, &frames), 0);
		bool between = end == begins[0] || end == begins[1] || end == begins[2] ||
			       end == begins[3];
		CU_ASSERT_EQUAL(frame_reader_end(reader, &err), between ? 0 : -EBADMSG);
	}
	CU_ASSERT_EQUAL_FATAL(feed_new(stream, 0, 64, NULL), 0);
	frame_reader_end(reader, &err);
	SAYS("empty");
	CU_ASSERT_EQUAL_FATAL(feed_new(stream, 10, 64, NULL), 0);
	frame_reader_end(reader, &err);
	SAYS("preamble");
	CU_ASSERT_EQUAL_FATAL(feed_new(stream, begins[1] + 3, 64, NULL), 0);
	frame_reader_end(reader, &err);
	SAYS("header that begins at byte 55");
	CU_ASSERT_EQUAL_FATAL(feed_new(stream, begins[2] + 30, 64, NULL), 0);
	frame_reader_end(reader, &err);
	SAYS("ends in the middle of a PAGES frame that begins at byte 79, after 30 of its 10028");
}

static void test_no_flipped_bit_goes_unnoticed(void)
{
	size_t begins[4], frames;
	stream_make(begins);
	for (size_t bit = 0; bit < 8 * begins[2]; bit++) {
		/* A minor version may be any; it stands in the preamble alone. */
		if (bit / 8 == 10 || bit / 8 == 11)
			continue;
		stream[bit / 8] ^= (uint8_t)(1 << bit % 8);
		int r = feed_new(stream, begins[2], 4096, &frames);
		/* A length that grew makes the frame wait for what never comes. */
		if (r == 0)
			r = frame_reader_end(reader, &err);
		CU_ASSERT_EQUAL(r, -EBADMSG);
		CU_ASSERT(frames == (bit / 8 >= begins[1]));
		stream[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
}

static void test_errors_name_the_place(void)
{
	size_t begins[4], frames;
	stream_make(begins);
	stream[begins[2] + 5000] ^= 1;
	CU_ASSERT_EQUAL(feed_new(stream, stream_bytes, 4096, &frames), -EBADMSG);
	CU_ASSERT_EQUAL(frames, 2);
	SAYS("at byte 79 of the stream: a PAGES frame is damaged");

	stream[begins[1] + 7] = 1;
	CU_ASSERT_EQUAL(feed_new(stream, stream_bytes, 4096, &frames), -EBADMSG);
	SAYS("at byte 55 of the stream: a PING frame with a payload of 16777216 bytes");
}

static void test_a_refused_stream_stays_refused(void)
{
	size_t begins[4];
	uint8_t *space;
	size_t room;
	bool complete;
	struct frame f;
	stream_make(begins);
	stream[begins[1] - 1] ^= 1;
	CU_ASSERT_EQUAL(feed_new(stream, stream_bytes, 4096, NULL), -EBADMSG);
	CU_ASSERT_EQUAL(frame_reader_space(reader, &space, &room, &err), -EBADMSG);
	CU_ASSERT_EQUAL(frame_reader_fed(reader, 0, &complete, &f, &err), -EBADMSG);
	CU_ASSERT_EQUAL(frame_reader_end(reader, &err), -EBADMSG);
}

static void test_a_stranger_is_told_by_its_first_bytes(void)
{
	CU_ASSERT_EQUAL(feed_new((const uint8_t *)"-ERR\r\n", 6, 64, NULL), -EBADMSG);
	SAYS("it begins with \"-ERR\\x0d\\x0a\"");
	CU_ASSERT_EQUAL(feed_new((const uint8_t *)"S", 1, 64, NULL), -EBADMSG);
	SAYS("\"S\"");
	CU_ASSERT_EQUAL(feed_new((const uint8_t *)"\x89PNG\r\n\x1a\n", 8, 64, NULL), -EBADMSG);
	SAYS("no Tidemark stream");
}

static void test_limits_hold_from_the_next_header_on(void)
{
	size_t begins[4], frames;
	stream_make(begins);
	CU_ASSERT_EQUAL_FATAL(feed_new(stream, begins[0] + 30, 64, NULL), 0);
	frame_reader_limit(reader, (struct frame_limits){4, 10});
	/* The first was under way. */
	CU_ASSERT_EQUAL(feed_new(stream, begins[1], 64, &frames), 0);
	CU_ASSERT_EQUAL(frames, 1);
	frame_reader_limit(reader, (struct frame_limits){4, 9999});
	uint8_t *space;
	size_t room;
	bool complete;
	struct frame f;
	int r = 0;
	for (size_t at = begins[1]; r == 0 && at < stream_bytes; at += room) {
		CU_ASSERT_EQUAL_FATAL(frame_reader_space(reader, &space, &room, &err), 0);
		memcpy(space, stream + at, room);
		r = frame_reader_fed(reader, room, &complete, &f, &err);
	}
	CU_ASSERT_EQUAL(r, -EBADMSG);
	SAYS("payload of 10000 bytes, above the limit of 9999");
}

static void test_limits_cannot_be_raised(void)
{
	CU_ASSERT_EQUAL_FATAL(frame_reader_new(false, &reader, NULL), 0);
	frame_reader_limit(reader, (struct frame_limits){UINT32_MAX, UINT32_MAX});
	uint8_t header[FRAME_HEADER_BYTES] = {0};
	le32_put(header, FRAME_HEAD_MAX + 1);
	CU_ASSERT_EQUAL(feed(header, sizeof(header), 64, NULL), -EBADMSG);
}

static void test_unknown_frames_are_given(void)
{
	size_t frames;
	struct frame f = some_frame();
	f.type = 99;
	f.flags = 0x8000;
	stream_add_preamble();
	stream_add_frame(&f);
	CU_ASSERT_EQUAL(feed_new(stream, stream_bytes, 64, &frames), 0);
	CU_ASSERT_EQUAL(frames, 1);
}

/* Feeds exactly one frame. */
static struct frame feed_one(const uint8_t *data, size_t bytes)
{
	struct frame f = {0};
	bool complete = false;
	for (size_t at = 0; at < bytes;) {
		uint8_t *space;
		size_t room;
		CU_ASSERT_EQUAL_FATAL(frame_reader_space(reader, &space, &room, &err), 0);
		if (room > bytes - at)
			room = bytes - at;
		memcpy(space, data + at, room);
		at += room;
		CU_ASSERT_EQUAL_FATAL(frame_reader_fed(reader, room, &complete, &f, &err), 0);
	}
	CU_ASSERT_FATAL(complete);
	return f;
}

static void test_a_taken_frame_stays_where_it_is(void)
{
	struct frame f = some_frame();
	stream_add_frame(&f);
	CU_ASSERT_EQUAL_FATAL(frame_reader_new(false, &reader, NULL), 0);
	f = feed_one(stream, stream_bytes);
	frame_reader_take(reader, &taken);
	feed_one(stream, stream_bytes);
	CU_ASSERT_EQUAL(taken.bytes, stream_bytes);
	CU_ASSERT(memcmp(taken.data, stream, stream_bytes) == 0);
	CU_ASSERT_PTR_EQUAL(f.head, taken.data + FRAME_HEADER_BYTES);
	CU_ASSERT(memcmp(f.payload, "the payload", 11) == 0);
}

static void test_a_frame_without_body_can_be_taken(void)
{
	struct frame f = {.type = FRAME_PING};
	stream_add_frame(&f);
	CU_ASSERT_EQUAL_FATAL(frame_reader_new(false, &reader, NULL), 0);
	f = feed_one(stream, stream_bytes);
	CU_ASSERT_EQUAL(f.type, FRAME_PING);
	frame_reader_take(reader, &taken);
	CU_ASSERT_EQUAL(taken.bytes, FRAME_HEADER_BYTES);
}

static void test_a_small_frame_does_not_cost_what_the_one_before_did(void)
{
	static uint8_t large[1u << 20];
	struct frame f = some_frame();
	f.payload = large;
	f.payload_bytes = sizeof(large);
	CU_ASSERT_EQUAL_FATAL(frame_reader_new(false, &reader, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(frame_buffer_encode(&buffer, &f), 0);
	feed_one(buffer.data, buffer.bytes);
	f = some_frame();
	CU_ASSERT_EQUAL_FATAL(frame_buffer_encode(&buffer, &f), 0);
	feed_one(buffer.data, buffer.bytes);
	frame_reader_take(reader, &taken);
	CU_ASSERT(taken.cap <= 2 * taken.bytes + 1);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_the_preamble_is_read_back),
		TEST(test_a_higher_minor_version_is_read),
		TEST(test_another_major_version_is_refused_by_number),
		TEST(test_reserved_bytes_must_be_zero),
		TEST(test_another_protocol_is_quoted),
		TEST(test_what_a_terminal_obeys_is_not_quoted),
		TEST(test_a_damaged_magic_is_told_from_another_protocol),
		TEST(test_a_frame_stands_in_these_bytes),
		TEST(test_a_frame_is_read_back),
		TEST(test_a_hollow_frame_has_any_body),
		TEST(test_lengths_above_the_limits_are_not_encoded),
		TEST(test_a_buffer_keeps_its_storage),
		TEST(test_an_unknown_type_is_refused_only_if_critical),
		TEST(test_unknown_flags_are_refused_if_strict_and_ignored_if_hints),
		TEST(test_types_have_names),
		TEST(test_pieces_of_any_size_give_the_same_frames),
		TEST(test_a_stream_may_come_without_preamble),
		TEST(test_an_end_within_a_frame_is_told),
		TEST(test_no_flipped_bit_goes_unnoticed),
		TEST(test_errors_name_the_place),
		TEST(test_a_refused_stream_stays_refused),
		TEST(test_a_stranger_is_told_by_its_first_bytes),
		TEST(test_limits_hold_from_the_next_header_on),
		TEST(test_limits_cannot_be_raised),
		TEST(test_unknown_frames_are_given),
		TEST(test_a_taken_frame_stays_where_it_is),
		TEST(test_a_frame_without_body_can_be_taken),
		TEST(test_a_small_frame_does_not_cost_what_the_one_before_did),
		{NULL, NULL},
	};
	return harness_main(argc, argv, "frame", tests, setup, teardown);
}
