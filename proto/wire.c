/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "base/error.h"
#include "proto/wire.h"

/* --- memory ------------------------------------------------------------------------------- */

/*
 * Two bytes on the wire make a member of some hundred bytes in memory. What honest messages need
 * (their structs for as many members as the limits allow, and eight bytes for each number of a
 * packed list) stays well below this; what asks for more is refused.
 */
#define BUDGET_BYTES ((size_t)1 << 20)
#define BUDGET_PER_HEAD_BYTE 12

#define CHUNK_BYTES ((size_t)64 << 10)
#define ALIGNMENT alignof(max_align_t)

struct wire_chunk {
	struct wire_chunk *next;
	alignas(max_align_t) uint8_t data[];
};

static size_t budget_bytes(size_t head_bytes)
{
	return BUDGET_BYTES + BUDGET_PER_HEAD_BYTE * head_bytes;
}

static void arena_init(struct wire_arena *a, size_t head_bytes)
{
	a->chunks = NULL;
	a->at = a->first;
	a->left_bytes = sizeof(a->first);
	a->budget_bytes = budget_bytes(head_bytes);
	a->over_budget = a->out_of_memory = false;
}

void wire_arena_release(struct wire_arena *a)
{
	while (a->chunks) {
		struct wire_chunk *next = a->chunks->next;
		free(a->chunks);
		a->chunks = next;
	}
}

static void *arena_alloc(void *arg, size_t bytes)
{
	struct wire_arena *a = arg;
	if (bytes > a->budget_bytes || a->budget_bytes - bytes < ALIGNMENT) {
		a->over_budget = true;
		return NULL;
	}
	bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
	a->budget_bytes -= bytes;

	if (bytes > a->left_bytes) {
		size_t chunk_bytes = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
		struct wire_chunk *c = malloc(sizeof(*c) + chunk_bytes);
		if (!c) {
			a->out_of_memory = true;
			return NULL;
		}
		c->next = a->chunks;
		a->chunks = c;
		a->at = c->data;
		a->left_bytes = chunk_bytes;
	}
	void *given = a->at;
	a->at += bytes;
	a->left_bytes -= bytes;
	return given;
}

/* Everything goes with the arena. */
static void arena_free(void *arg, void *p)
{
}

/* --- frames ------------------------------------------------------------------------------- */

int wire_encode(
	enum frame_type type, uint32_t process, const ProtobufCMessage *m, struct frame_buffer *ret)
{
	size_t head_bytes = m ? protobuf_c_message_get_packed_size(m) : 0;
	ret->bytes = 0;
	if (head_bytes > FRAME_HEAD_MAX)
		return -EMSGSIZE;
	int r = frame_buffer_reserve(ret, FRAME_HEADER_BYTES + head_bytes);
	if (r < 0)
		return r;

	uint8_t *head = ret->data + FRAME_HEADER_BYTES;
	if (m)
		protobuf_c_message_pack(m, head);
	struct frame f = {
		.type = type,
		/* A reader loses nothing with a PING; all else it must understand. */
		.flags = type == FRAME_PING || type == FRAME_PONG ? 0 : FRAME_CRITICAL,
		.process = process,
		.head = head,
		.head_bytes = (uint32_t)head_bytes,
	};
	frame_header_encode(&f, ret->data);
	ret->bytes = FRAME_HEADER_BYTES + head_bytes;
	return 0;
}

int wire_bad(struct tide_error *err, enum frame_type type, const char *fmt, ...)
{
	char name_buf[16], text[sizeof(err->text)];
	const char *name = frame_type_name(type, name_buf);
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	return tide_bad(err, "%s %s frame %s", strchr("AEIO", name[0]) ? "an" : "a", name, text);
}

int wire_out_of_memory(struct tide_error *err, enum frame_type type)
{
	char name[16];
	return tide_fail(err, -ENOMEM, "decode the frame %s", frame_type_name(type, name));
}

int wire_decode(const struct frame *f, enum frame_type type, bool of_process,
	const ProtobufCMessageDescriptor *descriptor, struct wire_arena *a, ProtobufCMessage **ret,
	struct tide_error *err)
{
	char want[16];

	arena_init(a, f->head_bytes);
	if (f->type != type)
		return wire_bad(err, f->type, "where %s should be", frame_type_name(type, want));
	if (f->head_bytes > FRAME_HEAD_MAX)
		return wire_bad(err, type, "with a head of %u bytes", f->head_bytes);
	if (f->payload_bytes)
		return wire_bad(err, type, "with a payload");
	if (of_process && f->process == 0)
		return wire_bad(err, type, "that names no process");
	if (!of_process && f->process != 0)
		return wire_bad(err, type, "that names a process, number %u", f->process);

	ProtobufCAllocator allocator = {arena_alloc, arena_free, a};
	ProtobufCMessage *m =
		protobuf_c_message_unpack(descriptor, &allocator, f->head_bytes, f->head);
	if (!m && a->out_of_memory)
		return wire_out_of_memory(err, type);
	if (!m && a->over_budget)
		return wire_bad(err, type,
			"whose head of %u bytes would take more than %zu bytes of memory",
			f->head_bytes, budget_bytes(f->head_bytes));
	if (!m)
		return wire_bad(err, type, "whose head is no such message");
	*ret = m;
	return 0;
}

size_t wire_member_bytes(const ProtobufCMessage *m)
{
	size_t bytes = protobuf_c_message_get_packed_size(m);
	size_t prefix = 2;
	for (size_t rest = bytes; rest >= 0x80; rest >>= 7)
		prefix++;
	return prefix + bytes;
}

/* --- fields ------------------------------------------------------------------------------- */

static bool is_control(char c)
{
	return (unsigned char)c < 0x20 || c == 0x7f;
}

static int text_too_long(enum frame_type type, const char *what, size_t len, size_t cap_bytes,
	struct tide_error *err)
{
	return wire_bad(err, type, "with %s of %zu bytes, above the limit of %zu", what, len,
		cap_bytes - 1);
}

static int text_byte_refused(
	enum frame_type type, const char *what, char byte, struct tide_error *err)
{
	return wire_bad(err, type, "with %s that holds the byte 0x%02x", what, (unsigned char)byte);
}

int wire_text_check(enum frame_type type, const char *what, const char *text, size_t cap_bytes,
	unsigned rules, struct tide_error *err)
{
	size_t len = strnlen(text, cap_bytes);

	if (len == cap_bytes)
		return text_too_long(type, what, len, cap_bytes, err);
	if (len == 0 && !(rules & TEXT_EMPTY))
		return wire_bad(err, type, "without %s", what);
	for (size_t i = 0; i < len && !(rules & TEXT_RAW); i++) {
		if (is_control(text[i]))
			return text_byte_refused(type, what, text[i], err);
	}
	return 0;
}

static int text_fits(enum frame_type type, const char *what, const ProtobufCBinaryData *from,
	size_t cap_bytes, struct tide_error *err)
{
	if (from->len >= cap_bytes)
		return text_too_long(type, what, from->len, cap_bytes, err);
	if (from->len && memchr(from->data, '\0', from->len))
		return text_byte_refused(type, what, '\0', err);
	return 0;
}

static void text_copy(const ProtobufCBinaryData *from, char *dst)
{
	if (from->len)
		memcpy(dst, from->data, from->len);
	dst[from->len] = '\0';
}

int wire_text_take(enum frame_type type, const char *what, const ProtobufCBinaryData *from,
	char *dst, size_t cap_bytes, struct tide_error *err)
{
	int r = text_fits(type, what, from, cap_bytes, err);
	if (r == 0)
		text_copy(from, dst);
	return r;
}

int wire_text_dup(enum frame_type type, const char *what, const ProtobufCBinaryData *from,
	size_t cap_bytes, char **ret, struct tide_error *err)
{
	int r = text_fits(type, what, from, cap_bytes, err);
	if (r < 0)
		return r;
	char *text = malloc(from->len + 1);
	if (!text)
		return wire_out_of_memory(err, type);
	text_copy(from, text);
	*ret = text;
	return 0;
}

void wire_text_clean(const char *text, char *dst, size_t cap_bytes)
{
	size_t len = strnlen(text, cap_bytes - 1);
	for (size_t i = 0; i < len; i++)
		dst[i] = is_control(text[i]) ? '?' : text[i];
	dst[len] = '\0';
}

int wire_bytes_take(enum frame_type type, const char *what, const ProtobufCBinaryData *from,
	bool optional, uint8_t *dst, size_t len, struct tide_error *err)
{
	if (from->len == 0 && optional) {
		memset(dst, 0, len);
		return 0;
	}
	if (from->len != len) {
		return wire_bad(err, type, "with %s of %zu bytes, which should be %zu", what,
			from->len, len);
	}
	memcpy(dst, from->data, len);
	return 0;
}

bool wire_bytes_zero(const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (bytes[i])
			return false;
	}
	return true;
}
