/* SPDX-License-Identifier: MIT */
/*
 * Frames: how messages and payloads lie in a stream, byte by byte. docs/stream-format.md is the
 * specification; this is it in C.
 *
 *   stream   := preamble frame*
 *   preamble := magic[8] u16 major u16 minor u32 reserved(0)
 *   magic    := 89 'T' 'I' 'D' 'E' 0d 0a 1a
 *   frame    := header[24] head[head_bytes] payload[payload_bytes]
 *   header   := u32 head_bytes u32 payload_bytes u16 type u16 flags u32 process u64 checksum
 *
 * All integers are little-endian.
 *
 * What a reader refuses: another magic or major version (a higher minor is fine), reserved bytes
 * that are not zero, a length above the limits, an unknown type with FRAME_CRITICAL, an unknown
 * flag among the lower eight, a checksum that does not match, an end within a frame.
 * What it passes over: frames of unknown types without FRAME_CRITICAL, unknown flags among the
 * upper eight. Type 0 is never given out.
 */
#ifndef PROTO_FRAME_H
#define PROTO_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/guard.h"
#include "tidemark/error.h"

#define PREAMBLE_BYTES 16
#define FRAME_HEADER_BYTES 24

#define FORMAT_MAJOR 1 /* differs: not readable */
#define FORMAT_MINOR 0 /* higher: has things that an older reader may skip */

/* What no frame exceeds; the hello may agree on less, never on more. */
#define FRAME_HEAD_MAX (1u << 20)
#define FRAME_PAYLOAD_MAX (4u << 20)

/* The numbers travel: never change or reuse one. */
enum frame_type {
	FRAME_HELLO = 1,
	FRAME_AUTH = 2,
	FRAME_OPEN = 3,
	FRAME_OPENED = 4,
	FRAME_PING = 5,
	FRAME_PONG = 6,
	FRAME_ERROR = 7,
	FRAME_ACK = 8,       /* agent: round n is held */
	FRAME_COMMITTED = 9, /* agent: everything is held, under its final name */
	FRAME_JOIN = 10,     /* client: this connection is one more of a session */
	FRAME_JOINED = 11,

	FRAME_STREAM = 16, /* from here on: what an image or a recorded stream is made of */
	FRAME_PROCESS = 17,
	FRAME_ROUND = 18,
	FRAME_MAPPINGS = 19,
	FRAME_DROPS = 20,
	FRAME_PAGES = 21,
	FRAME_ROUND_END = 22,
	FRAME_STATE = 23,
	FRAME_COMMIT = 24,

	FRAME_HOLLOW = 32,  /* files only: was a PAGES frame (and the HASHES behind it) whose pages
			     * were  all superseded; its body is zero bytes, usually a hole */
	FRAME_INDEX = 33,   /* files only: where everything is */
	FRAME_HASHES = 34,  /* files only: of the pages in the PAGES frame before it */
	FRAME_TRAILER = 35, /* files only: the last frame, of a fixed size; finds the index */
};

/* The lower eight change what a frame means: a reader refuses one that it does not know. The upper
 * eight are hints: an unknown one is ignored. */
enum frame_flag {
	/* A reader that does not know the type must refuse the stream; without it, it skips the
	 * frame. */
	FRAME_CRITICAL = 1 << 0,
};
#define FRAME_FLAGS_KNOWN ((uint16_t)FRAME_CRITICAL)
#define FRAME_FLAGS_STRICT 0x00ff

struct frame_header {
	uint32_t head_bytes;
	uint32_t payload_bytes;
	uint16_t type;
	uint16_t flags;
	uint32_t process;  /* which process of the session it speaks of, from 1; 0: the session
			      itself */
	uint64_t checksum; /* XXH3-64 (seed 0) of the header's first 16 bytes, the head and the
			    * payload; of FRAME_HOLLOW: of the header's first 16 bytes alone */
};

/* A whole frame in memory. Borrows head and payload. */
struct frame {
	uint16_t type;
	uint16_t flags;
	uint32_t process;
	const uint8_t *head;
	uint32_t head_bytes;
	const uint8_t *payload;
	uint32_t payload_bytes;
};

struct frame_limits {
	uint32_t head_bytes, payload_bytes;
};
extern const struct frame_limits frame_limits_max;

void preamble_encode(uint8_t buf[PREAMBLE_BYTES]);
/* -EBADMSG with words that tell another protocol, a damaged magic and another major version
 * apart. */
int preamble_decode(const uint8_t buf[PREAMBLE_BYTES], uint16_t *ret_minor, struct tide_error *err);

/* Computes the checksum and writes the header. The lengths must be within frame_limits_max. */
void frame_header_encode(const struct frame *frame, uint8_t buf[FRAME_HEADER_BYTES]);
/* Checks what can be checked without the body: lengths within `limits`, type and flags by the rules
 * above. -EBADMSG. */
int frame_header_decode(const uint8_t buf[FRAME_HEADER_BYTES], const struct frame_limits *limits,
	struct frame_header *ret, struct tide_error *err);
/* Checks the header, and the body (head, then payload, back to back) against it. -EBADMSG. `ret`
 * borrows the body. The body of FRAME_HOLLOW is not looked at and may hold anything. */
int frame_decode(const uint8_t header[FRAME_HEADER_BYTES], const uint8_t *body, struct frame *ret,
	struct tide_error *err);

/* "PAGES", "type 99"; a static string or `buf`. */
const char *frame_type_name(uint16_t type, char buf[16]);

/*
 * A frame that owns its bytes: what the encoders make and queues carry. One allocation. All zero is
 * an empty one. The frame need not begin where the storage does: a head whose length is known only
 * after the payload has been made is put right before it.
 */
struct frame_buffer {
	uint8_t *data; /* header, head, payload, within `storage` */
	size_t bytes;
	uint8_t *storage;
	size_t cap; /* of storage: what it costs, however short the frame */
};
void frame_buffer_release(struct frame_buffer *b);
/* Makes it empty, with storage of at least `cap` bytes and `data` at its start; what it had is kept
 * if that is enough. 0 or -ENOMEM (then it is empty, storage kept). */
int frame_buffer_reserve(struct frame_buffer *b, size_t cap);
/* Header + head + payload into one buffer (the payload is copied: for small frames). Neither may
 * lie in the buffer itself. 0, -ENOMEM, -EMSGSIZE above frame_limits_max; on failure it is empty.
 */
int frame_buffer_encode(struct frame_buffer *b, const struct frame *frame);

/*
 * Takes a stream in pieces of any size and gives whole, checked frames. Holds at most one frame,
 * and memory for it only once its header is checked. Frames of unknown types that are not critical
 * are given too: the caller skips them, or keeps them where it keeps all. After an error only
 * frame_reader_free() makes sense; all else fails the same way.
 */
struct frame_reader;

/* `with_preamble`: the stream begins with one. */
int frame_reader_new(bool with_preamble, struct frame_reader **ret, struct tide_error *err);
void frame_reader_free(struct frame_reader *r);
DEFINE_GUARD(struct frame_reader, frame_reader_free)
/* Lower limits, once the hello has agreed on them; for the frames whose header is still to come.
 * What is above frame_limits_max counts as that. */
void frame_reader_limit(struct frame_reader *r, struct frame_limits limits);

/* Where the next bytes of the stream should be put: at most *ret_bytes at *ret, never 0. The space
 * stays until bytes were put there. */
int frame_reader_space(
	struct frame_reader *r, uint8_t **ret, size_t *ret_bytes, struct tide_error *err);
/*
 * `bytes` were put there. *ret is true when a frame is complete: then `frame` borrows it until the
 * next frame_reader_space(). -EBADMSG names the byte of the stream where the offending frame
 * begins; -ENOMEM.
 */
int frame_reader_fed(struct frame_reader *r, size_t bytes, bool *ret, struct frame *frame,
	struct tide_error *err);
/* Takes over the complete frame's bytes (header, head, payload), e.g. to queue or to store them
 * verbatim. They stay where they are: `frame` is valid as long as `ret`. Its storage is at most
 * about twice the frame. Only while a frame is complete, once. */
void frame_reader_take(struct frame_reader *r, struct frame_buffer *ret);
/* Storage of a frame that was taken before, for one to come; `b` is empty afterwards. Large frames
 * then cost no allocation, whose fresh memory costs more than to fill it. */
void frame_reader_spare(struct frame_reader *r, struct frame_buffer *b);
/* The stream ended here: 0 between frames, else -EBADMSG "ends in the middle of a PAGES frame that
 * begins at byte N". */
int frame_reader_end(const struct frame_reader *r, struct tide_error *err);
/* Bytes of the stream seen so far, preamble included. */
uint64_t frame_reader_offset(const struct frame_reader *r);
/* Where the complete frame, or the one that is coming, begins. */
uint64_t frame_reader_frame_offset(const struct frame_reader *r);

#endif
