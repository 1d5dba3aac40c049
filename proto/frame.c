/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include "base/error.h"
#include "base/le.h"
#include "base/xxh3.h"
#include "proto/frame.h"

/* What the checksum covers of the header: all that stands before it. */
#define CHECKED_BYTES 16

const struct frame_limits frame_limits_max = {FRAME_HEAD_MAX, FRAME_PAYLOAD_MAX};

/* Like PNG's: a byte that is no text, then both kinds of line end and the one that stops a text, so
 * that a copy that meddles with text shows at once. */
static const uint8_t magic[8] = {0x89, 'T', 'I', 'D', 'E', '\r', '\n', 0x1a};

/* --- preamble ----------------------------------------------------------------------------- */

void preamble_encode(uint8_t buf[PREAMBLE_BYTES])
{
	memcpy(buf, magic, sizeof(magic));
	le16_put(buf + 8, FORMAT_MAJOR);
	le16_put(buf + 10, FORMAT_MINOR);
	le32_put(buf + 12, 0);
}

/* Do the first `len` bytes of a stream agree with the magic, as far as they go? */
static bool magic_matches(const uint8_t *buf, size_t len)
{
	return memcmp(buf, magic, len < sizeof(magic) ? len : sizeof(magic)) == 0;
}

/* Says what begins with these bytes instead. */
static int magic_refuse(const uint8_t *buf, size_t len, struct tide_error *err)
{
	size_t compared = len < sizeof(magic) ? len : sizeof(magic);
	size_t equal = 0;
	for (size_t i = 0; i < compared; i++)
		equal += buf[i] == magic[i];
	if (2 * equal >= compared)
		return tide_bad(err, "the first bytes of the stream are damaged");

	/* They are a stranger's: what a terminal might obey is not shown as it is. */
	char text[4 * PREAMBLE_BYTES + 1];
	char *at = text;
	for (size_t i = 0; i < len; i++) {
		bool plain = buf[i] >= ' ' && buf[i] <= '~' && buf[i] != '"' && buf[i] != '\\';
		at += sprintf(at, plain ? "%c" : "\\x%02x", buf[i]);
	}
	return tide_bad(err, "this is no Tidemark stream: it begins with \"%s\"", text);
}

int preamble_decode(const uint8_t buf[PREAMBLE_BYTES], uint16_t *ret_minor, struct tide_error *err)
{
	if (!magic_matches(buf, PREAMBLE_BYTES))
		return magic_refuse(buf, PREAMBLE_BYTES, err);

	uint16_t major = le16_get(buf + 8);
	if (major != FORMAT_MAJOR)
		return tide_bad(err, "the stream has format version %u, and this program reads %u",
			major, FORMAT_MAJOR);
	if (le32_get(buf + 12) != 0)
		return tide_bad(err, "the preamble of the stream is damaged: its reserved bytes "
				     "are not zero");

	*ret_minor = le16_get(buf + 10);
	return 0;
}

/* --- frames ------------------------------------------------------------------------------- */

#define TYPE_NAME(type)    \
	case FRAME_##type: \
		return #type

/* NULL where the type is not known. No default: the compiler names a type that is missing here. */
static const char *type_name(uint16_t type)
{
	switch ((enum frame_type)type) {
		TYPE_NAME(HELLO);
		TYPE_NAME(AUTH);
		TYPE_NAME(OPEN);
		TYPE_NAME(OPENED);
		TYPE_NAME(PING);
		TYPE_NAME(PONG);
		TYPE_NAME(ERROR);
		TYPE_NAME(ACK);
		TYPE_NAME(COMMITTED);
		TYPE_NAME(JOIN);
		TYPE_NAME(JOINED);
		TYPE_NAME(STREAM);
		TYPE_NAME(PROCESS);
		TYPE_NAME(ROUND);
		TYPE_NAME(MAPPINGS);
		TYPE_NAME(DROPS);
		TYPE_NAME(PAGES);
		TYPE_NAME(ROUND_END);
		TYPE_NAME(STATE);
		TYPE_NAME(COMMIT);
		TYPE_NAME(HOLLOW);
		TYPE_NAME(INDEX);
		TYPE_NAME(HASHES);
		TYPE_NAME(TRAILER);
	}
	return NULL;
}

const char *frame_type_name(uint16_t type, char buf[16])
{
	const char *name = type_name(type);
	if (name)
		return name;
	snprintf(buf, 16, "type %u", type);
	return buf;
}

static uint64_t checksum_of(const uint8_t header[FRAME_HEADER_BYTES], const uint8_t *head,
	size_t head_bytes, const uint8_t *payload, size_t payload_bytes)
{
	if (le16_get(header + 8) == FRAME_HOLLOW)
		return XXH3_64bits(header, CHECKED_BYTES);

	union xxh3_state x;
	XXH3_64bits_reset(&x.state);
	XXH3_64bits_update(&x.state, header, CHECKED_BYTES);
	if (head_bytes)
		XXH3_64bits_update(&x.state, head, head_bytes);
	if (payload_bytes)
		XXH3_64bits_update(&x.state, payload, payload_bytes);
	return XXH3_64bits_digest(&x.state);
}

void frame_header_encode(const struct frame *frame, uint8_t buf[FRAME_HEADER_BYTES])
{
	assert(frame->head_bytes <= FRAME_HEAD_MAX && frame->payload_bytes <= FRAME_PAYLOAD_MAX);
	le32_put(buf, frame->head_bytes);
	le32_put(buf + 4, frame->payload_bytes);
	le16_put(buf + 8, frame->type);
	le16_put(buf + 10, frame->flags);
	le32_put(buf + 12, frame->process);
	le64_put(buf + 16, checksum_of(buf, frame->head, frame->head_bytes, frame->payload,
				   frame->payload_bytes));
}

int frame_header_decode(const uint8_t buf[FRAME_HEADER_BYTES], const struct frame_limits *limits,
	struct frame_header *ret, struct tide_error *err)
{
	struct frame_header h = {
		.head_bytes = le32_get(buf),
		.payload_bytes = le32_get(buf + 4),
		.type = le16_get(buf + 8),
		.flags = le16_get(buf + 10),
		.process = le32_get(buf + 12),
		.checksum = le64_get(buf + 16),
	};
	char name[16];

	/* The checksum stands over the body as well, so damage to a header shows here first, as
	 * something that this version does not know. */
	if (!type_name(h.type) && h.flags & FRAME_CRITICAL)
		return tide_bad(err,
			"a frame of %s, which must be understood and is not known here: it is "
			"damaged, or of a newer version",
			frame_type_name(h.type, name));
	if (h.flags & FRAME_FLAGS_STRICT & ~FRAME_FLAGS_KNOWN)
		return tide_bad(err,
			"a %s frame with flags 0x%04x, which are not known here: it is damaged, or "
			"of a newer version",
			frame_type_name(h.type, name), h.flags);
	if (h.head_bytes > limits->head_bytes)
		return tide_bad(err,
			"a %s frame with a head of %" PRIu32 " bytes, above the limit of %" PRIu32,
			frame_type_name(h.type, name), h.head_bytes, limits->head_bytes);
	if (h.payload_bytes > limits->payload_bytes)
		return tide_bad(err,
			"a %s frame with a payload of %" PRIu32
			" bytes, above the limit of %" PRIu32,
			frame_type_name(h.type, name), h.payload_bytes, limits->payload_bytes);

	*ret = h;
	return 0;
}

int frame_decode(const uint8_t header[FRAME_HEADER_BYTES], const uint8_t *body, struct frame *ret,
	struct tide_error *err)
{
	struct frame_header h;
	int r = frame_header_decode(header, &frame_limits_max, &h, err);
	if (r < 0)
		return r;

	const uint8_t *payload = body + h.head_bytes;
	if (checksum_of(header, body, h.head_bytes, payload, h.payload_bytes) != h.checksum) {
		char name[16];
		return tide_bad(err, "a %s frame is damaged: its checksum does not match",
			frame_type_name(h.type, name));
	}

	*ret = (struct frame){
		.type = h.type,
		.flags = h.flags,
		.process = h.process,
		.head = body,
		.head_bytes = h.head_bytes,
		.payload = payload,
		.payload_bytes = h.payload_bytes,
	};
	return 0;
}

/* --- buffers ------------------------------------------------------------------------------ */

void frame_buffer_release(struct frame_buffer *b)
{
	free(b->storage);
	*b = (struct frame_buffer){0};
}

int frame_buffer_reserve(struct frame_buffer *b, size_t cap)
{
	b->bytes = 0;
	b->data = b->storage;
	if (b->cap >= cap)
		return 0;

	/* Not realloc: nothing in there is worth a copy. */
	uint8_t *storage = malloc(cap);
	if (!storage)
		return -ENOMEM;
	free(b->storage);
	b->data = b->storage = storage;
	b->cap = cap;
	return 0;
}

int frame_buffer_encode(struct frame_buffer *b, const struct frame *frame)
{
	b->bytes = 0;
	if (frame->head_bytes > FRAME_HEAD_MAX || frame->payload_bytes > FRAME_PAYLOAD_MAX)
		return -EMSGSIZE;

	size_t bytes = (size_t)FRAME_HEADER_BYTES + frame->head_bytes + frame->payload_bytes;
	int r = frame_buffer_reserve(b, bytes);
	if (r < 0)
		return r;

	uint8_t *body = b->data + FRAME_HEADER_BYTES;
	if (frame->head_bytes)
		memcpy(body, frame->head, frame->head_bytes);
	if (frame->payload_bytes)
		memcpy(body + frame->head_bytes, frame->payload, frame->payload_bytes);
	frame_header_encode(frame, b->data);
	b->bytes = bytes;
	return 0;
}

/* --- reader ------------------------------------------------------------------------------- */

enum reader_stage {
	READER_PREAMBLE,
	READER_HEADER,
	READER_BODY,
	READER_COMPLETE,
	READER_REFUSED,
};

struct frame_reader {
	enum reader_stage stage;
	struct frame_limits limits;
	uint64_t offset;       /* bytes of the stream so far */
	uint64_t frame_offset; /* of them before the frame */

	/* The preamble or a header, as it comes in: until it is checked there is no telling how
	 * much memory the frame is worth. */
	uint8_t start[FRAME_HEADER_BYTES];
	struct frame_header header; /* from READER_BODY on */
	struct frame_buffer buffer; /* the frame, from READER_BODY on */
	struct frame_buffer spare;  /* storage for one to come */
	size_t filled, wanted;      /* of `start` or of `buffer` */
};
_Static_assert(PREAMBLE_BYTES <= FRAME_HEADER_BYTES, "the preamble fits where headers come in");

static void reader_expect_header(struct frame_reader *r)
{
	r->stage = READER_HEADER;
	r->filled = 0;
	r->wanted = FRAME_HEADER_BYTES;
	r->frame_offset = r->offset;
	r->buffer.bytes = 0;
}

int frame_reader_new(bool with_preamble, struct frame_reader **ret, struct tide_error *err)
{
	struct frame_reader *r = calloc(1, sizeof(*r));
	if (!r)
		return tide_fail(err, -ENOMEM, "read a stream");

	r->limits = frame_limits_max;
	reader_expect_header(r);
	if (with_preamble) {
		r->stage = READER_PREAMBLE;
		r->wanted = PREAMBLE_BYTES;
	}
	*ret = r;
	return 0;
}

void frame_reader_free(struct frame_reader *r)
{
	if (!r)
		return;
	frame_buffer_release(&r->buffer);
	frame_buffer_release(&r->spare);
	free(r);
}

void frame_reader_spare(struct frame_reader *r, struct frame_buffer *b)
{
	if (b->cap > r->spare.cap) {
		struct frame_buffer worse = r->spare;
		r->spare = *b;
		*b = worse;
	}
	frame_buffer_release(b);
}

void frame_reader_limit(struct frame_reader *r, struct frame_limits limits)
{
	r->limits = limits;
	if (r->limits.head_bytes > FRAME_HEAD_MAX)
		r->limits.head_bytes = FRAME_HEAD_MAX;
	if (r->limits.payload_bytes > FRAME_PAYLOAD_MAX)
		r->limits.payload_bytes = FRAME_PAYLOAD_MAX;
}

static int reader_refused(struct tide_error *err)
{
	return tide_bad(err, "the stream was refused before");
}

int frame_reader_space(
	struct frame_reader *r, uint8_t **ret, size_t *ret_bytes, struct tide_error *err)
{
	if (r->stage == READER_REFUSED)
		return reader_refused(err);
	if (r->stage == READER_COMPLETE)
		reader_expect_header(r);

	uint8_t *into = r->stage == READER_BODY ? r->buffer.data : r->start;
	*ret = into + r->filled;
	*ret_bytes = r->wanted - r->filled;
	return 0;
}

/* Some of the preamble is there. A stranger may send less than that and wait for an answer, so it
 * is told by its first bytes. */
static int reader_preamble(struct frame_reader *r, struct tide_error *err)
{
	if (!magic_matches(r->start, r->filled))
		return magic_refuse(r->start, r->filled, err);
	if (r->filled < r->wanted)
		return 0;

	uint16_t minor;
	int e = preamble_decode(r->start, &minor, err);
	if (e < 0)
		return e;
	reader_expect_header(r);
	return 0;
}

/* A header is there: checks it and makes room for the frame. */
static int reader_header(struct frame_reader *r, struct tide_error *err)
{
	int e = frame_header_decode(r->start, &r->limits, &r->header, err);
	if (e < 0)
		return tide_prefix(err, e, "at byte %" PRIu64 " of the stream: ", r->frame_offset);

	size_t bytes = (size_t)FRAME_HEADER_BYTES + r->header.head_bytes + r->header.payload_bytes;
	/* Whoever takes a frame over counts its bytes: no small one may come with the storage of a
	 * large one before it. */
	if (r->buffer.cap / 2 > bytes)
		frame_buffer_release(&r->buffer);
	if (r->buffer.cap < bytes && r->spare.cap >= bytes && r->spare.cap / 2 <= bytes) {
		frame_buffer_release(&r->buffer);
		r->buffer = r->spare;
		r->spare = (struct frame_buffer){0};
	}
	e = frame_buffer_reserve(&r->buffer, bytes);
	if (e < 0)
		return tide_fail(err, e, "read a frame of %zu bytes", bytes);

	assert(r->buffer.data);
	memcpy(r->buffer.data, r->start, FRAME_HEADER_BYTES);
	r->wanted = bytes;
	r->stage = READER_BODY;
	return 0;
}

/* The whole frame is there. */
static int reader_body(struct frame_reader *r, struct frame *frame, struct tide_error *err)
{
	int e = frame_decode(r->buffer.data, r->buffer.data + FRAME_HEADER_BYTES, frame, err);
	if (e < 0)
		return tide_prefix(err, e, "at byte %" PRIu64 " of the stream: ", r->frame_offset);

	r->buffer.bytes = r->wanted;
	r->stage = READER_COMPLETE;
	return 0;
}

int frame_reader_fed(struct frame_reader *r, size_t bytes, bool *ret, struct frame *frame,
	struct tide_error *err)
{
	if (r->stage == READER_REFUSED)
		return reader_refused(err);
	assert(r->stage != READER_COMPLETE && bytes <= r->wanted - r->filled);
	r->filled += bytes;
	r->offset += bytes;

	int e = 0;
	if (r->stage == READER_PREAMBLE)
		e = reader_preamble(r, err);
	else if (r->stage == READER_HEADER && r->filled == r->wanted)
		e = reader_header(r, err);
	if (e == 0 && r->stage == READER_BODY && r->filled == r->wanted)
		e = reader_body(r, frame, err);
	if (e < 0) {
		r->stage = READER_REFUSED;
		return e;
	}

	*ret = r->stage == READER_COMPLETE;
	return 0;
}

void frame_reader_take(struct frame_reader *r, struct frame_buffer *ret)
{
	assert(r->stage == READER_COMPLETE && r->buffer.bytes);
	*ret = r->buffer;
	r->buffer = (struct frame_buffer){0};
}

int frame_reader_end(const struct frame_reader *r, struct tide_error *err)
{
	char name[16];

	switch (r->stage) {
	case READER_PREAMBLE:
		if (r->filled == 0)
			return tide_bad(err, "the stream is empty");
		return tide_bad(err,
			"the stream ends after %zu bytes, in the middle of its preamble",
			r->filled);
	case READER_HEADER:
		if (r->filled == 0)
			return 0;
		return tide_bad(err,
			"the stream ends in the middle of a frame's header that begins at byte "
			"%" PRIu64,
			r->frame_offset);
	case READER_BODY:
		return tide_bad(err,
			"the stream ends in the middle of a %s frame that begins at byte %" PRIu64
			", after %zu of its %zu bytes",
			frame_type_name(r->header.type, name), r->frame_offset, r->filled,
			r->wanted);
	case READER_COMPLETE:
		return 0;
	case READER_REFUSED:
		break;
	}
	return reader_refused(err);
}

uint64_t frame_reader_offset(const struct frame_reader *r)
{
	return r->offset;
}

uint64_t frame_reader_frame_offset(const struct frame_reader *r)
{
	return r->frame_offset;
}
