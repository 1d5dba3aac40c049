/* SPDX-License-Identifier: MIT */
/*
 * What all messages share on their way to and from a frame's head. Private to proto: protobuf-c
 * shows here.
 */
#ifndef PROTO_WIRE_H
#define PROTO_WIRE_H

#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <protobuf-c/protobuf-c.h>
#include "base/guard.h"
#include "proto/frame.h"

/* What a decoded message lies in: all of it goes at once, and it cannot grow out of proportion to
 * the head that it comes from. */
struct wire_arena {
	struct wire_chunk *chunks; /* beyond `first` */
	uint8_t *at;
	size_t left_bytes;   /* behind `at` */
	size_t budget_bytes; /* that may still be asked for */
	bool over_budget, out_of_memory;
	alignas(max_align_t) uint8_t first[2048]; /* enough for most messages */
};
void wire_arena_release(struct wire_arena *a);
#define auto_arena auto_(wire_arena_release)

/* Packs `m` into the head of a whole frame in `ret`. 0, -ENOMEM, or -EMSGSIZE above FRAME_HEAD_MAX;
 * on failure `ret` is empty. */
int wire_encode(enum frame_type type, uint32_t process, const ProtobufCMessage *m,
	struct frame_buffer *ret);

/*
 * Checks that the frame has this type, no payload, and a process number (`of_process`) or none, and
 * unpacks its head. *ret lies in `a`, which this sets up, also on failure. -EBADMSG or -ENOMEM.
 */
int wire_decode(const struct frame *f, enum frame_type type, bool of_process,
	const ProtobufCMessageDescriptor *descriptor, struct wire_arena *a, ProtobufCMessage **ret,
	struct tide_error *err);

/* tide_bad() with "a HELLO frame " in front: "with a payload". */
int wire_bad(struct tide_error *err, enum frame_type type, const char *fmt, ...) TIDE_PRINTF(3, 4);
int wire_out_of_memory(struct tide_error *err, enum frame_type type);

/* Bytes that `m` takes as a member of a repeated field whose number is below 16. */
size_t wire_member_bytes(const ProtobufCMessage *m);

static inline ProtobufCBinaryData wire_bytes(const void *data, size_t len)
{
	return (ProtobufCBinaryData){.len = len, .data = (uint8_t *)data};
}

enum wire_text_rule {
	TEXT_EMPTY = 1 << 0, /* may be empty */
	TEXT_RAW = 1 << 1,   /* may hold control characters: a path, or what a process says */
};

/*
 * `type` and `what` ("a name") are for the words: "a HELLO frame with a name ...". `cap_bytes` is
 * what a text may take in memory, its ending zero included. All return 0 or -EBADMSG, the last also
 * -ENOMEM.
 */
int wire_text_check(enum frame_type type, const char *what, const char *text, size_t cap_bytes,
	unsigned rules, struct tide_error *err);
/* Checks that it fits and holds no zero byte, and copies; the rules are for the check of the whole
 * message. */
int wire_text_take(enum frame_type type, const char *what, const ProtobufCBinaryData *from,
	char *dst, size_t cap_bytes, struct tide_error *err);
/* The same into memory of its own. */
int wire_text_dup(enum frame_type type, const char *what, const ProtobufCBinaryData *from,
	size_t cap_bytes, char **ret, struct tide_error *err);
/* Copies what fits, with control characters replaced by '?'. */
void wire_text_clean(const char *text, char *dst, size_t cap_bytes);

/* Takes exactly `len` bytes; none at all are zeros where `optional`. 0 or -EBADMSG. */
int wire_bytes_take(enum frame_type type, const char *what, const ProtobufCBinaryData *from,
	bool optional, uint8_t *dst, size_t len, struct tide_error *err);
bool wire_bytes_zero(const uint8_t *bytes, size_t len);

#endif
