/* SPDX-License-Identifier: MIT */
/*
 * Messages as plain structs, to and from a frame's head. What comes out of a decoder is checked:
 * enumerations known, counts and lengths within limits, texts without control characters, runs
 * aligned, in order and without overlap, nothing that wraps around. What it cannot check (does this
 * round follow?) is the session's.
 *
 * Texts that a process chooses (paths, names of mappings and threads, command lines) may hold any
 * byte but zero: who prints them escapes them.
 *
 * Encoders append nothing: they fill `ret` with a whole frame, keeping its storage where that is
 * large enough. They return 0, -ENOMEM, or -EINVAL for a message that no decoder would take; on
 * failure `ret` is empty. Their heads are at most HEAD_BYTES_LEAST, so that they fit whatever was
 * agreed.
 *
 * Decoders return 0, -EBADMSG or -ENOMEM, and say which frame has what. `ret` is written on success
 * only and owned by the caller until x_release(). A frame of another type, with a payload, or with
 * a process number where none belongs (or the reverse) is refused like any other that is wrong.
 * What they need while they run is bounded by the head: about 1 MiB and 12 bytes for each of its
 * bytes.
 */
#ifndef PROTO_MESSAGE_H
#define PROTO_MESSAGE_H

#include "proto/frame.h"
#include "proto/mapping.h"
#include "proto/page_source.h"
#include "proto/state.h"

#define ID_BYTES 16
#define NONCE_BYTES 32
#define PROOF_BYTES 32
#define NAME_MAX_BYTES 128
#define ERROR_TEXT_MAX 1024  /* the ending zero included, as in all arrays here */
#define PATH_MAX_BYTES 16384 /* of mappings' names and executables, without the ending zero */
#define COMMAND_LINE_MAX 32768
#define RUNS_MAX 65536    /* in one message; more travel in several */
#define MAPPINGS_MAX 4096 /* in one message */

/* Places are multiples of the unit, whatever the page size is. */
#define PLACE_UNIT_BYTES 4096u
#define PAGE_BYTES_MAX 65536u
/* Where places end: in the private space, and in objects and files. Only what is not followed
 * (MAPPING_OPAQUE: x86's vsyscall page) may lie behind. */
#define ADDRESS_END (UINT64_C(1) << 57)
#define OFFSET_END (UINT64_C(1) << 63)

#define THREADS_PER_FRAME_MAX 4096
#define THREADS_MAX 1000000
#define REGSETS_MAX 16 /* of a thread */
#define REGSET_BYTES_MAX (64u << 10)
#define THREAD_BYTES_MAX (128u << 10)       /* of all regsets of a thread */
#define STATE_BYTES_MAX ((size_t)128 << 20) /* of all threads, in memory */
#define AUXV_BYTES_MAX (64u << 10)

/* What a side must be able to take, at least. */
#define HEAD_BYTES_LEAST (256u << 10)
#define PAYLOAD_BYTES_LEAST (256u << 10)

enum message_feature {
	FEATURE_LZ4 = 1 << 0,
	FEATURE_ZSTD = 1 << 1,
	FEATURE_DELTA = 1 << 2,
	FEATURE_STREAMS = 1 << 3, /* JOIN; says nothing of the stream itself */
};
#define FEATURES_KNOWN (FEATURES_STORED | FEATURE_DELTA | FEATURE_STREAMS)
/* Those of streams that say all by themselves: of recorded ones and of images. */
#define FEATURES_STORED ((uint64_t)(FEATURE_LZ4 | FEATURE_ZSTD))

/* The numbers travel. */
enum sink_kind {
	SINK_IMAGE = 1,
	SINK_SNAPSHOT = 2,
	SINK_SHELL = 3,
};

struct hello {
	uint16_t version_min, version_max; /* of FORMAT_MAJOR */
	uint64_t features;                 /* unknown ones are fine */
	char architecture[32];             /* "x86_64", as uname says */
	char byte_order[16];               /* "little" or "big" */
	uint32_t page_bytes;
	struct frame_limits limits;
	uint8_t nonce[NONCE_BYTES];
	char software[64]; /* "tidemark 0.1.0" */
	bool wants_auth;   /* agent: a key is needed */
};

struct auth {
	uint8_t proof[PROOF_BYTES];
};

struct open_request {
	uint8_t session_id[ID_BYTES]; /* not zero; random, so that it is also what joins further
					 connections to the session */
	enum sink_kind sink;
	char name[NAME_MAX_BYTES + 1];
	uint8_t base_id[ID_BYTES]; /* snapshot: the committed stream that this one builds on; else
				      zero */
};

struct open_reply {
	uint8_t session_id[ID_BYTES];
	char name[NAME_MAX_BYTES + 1];
};

/* This connection is one more of a session that was opened on another. */
struct join_request {
	uint8_t session_id[ID_BYTES];
};

struct join_reply {
	uint8_t session_id[ID_BYTES];
};

struct error_message {
	enum tide_error_kind kind;
	char text[ERROR_TEXT_MAX]; /* the encoder replaces control characters by '?' */
};

struct round_ack {
	uint64_t round;
	uint64_t bytes; /* of the stream received so far, on this connection */
};

struct committed {
	uint8_t stream_id[ID_BYTES];
	char name[NAME_MAX_BYTES + 1];
	uint64_t stored_bytes;
};

/* The first frame of what is kept. */
struct stream_header {
	uint8_t stream_id[ID_BYTES]; /* the image's id; not zero */
	uint8_t base_id[ID_BYTES];   /* zero: needs no other */
	char architecture[32];
	char byte_order[16];
	uint32_t page_bytes;
	uint64_t features; /* that a reader must know: the decoder refuses others */
	uint64_t created_realtime_ns;
	char software[64];
	char host[65];
};

/* A name for an image: [A-Za-z0-9][A-Za-z0-9._-]{0,127} */
bool image_name_valid(const char *name);

struct round_header {
	uint64_t number; /* from 0, each one more than the last */
	bool final;      /* found in the freeze */
};

struct mappings_message {
	uint64_t round;
	struct mapping_diff diff; /* one of possibly several of a round: apply in order */
};

struct drops_message {
	uint64_t round;
	struct page_drop *drops; /* by space, then by place, without overlap */
	size_t ndrops;
};

/* Sums over the round, against which the receiver checks what came. */
struct round_end {
	uint64_t number;
	uint64_t pages;  /* in all PAGES frames */
	uint64_t frames; /* PAGES frames */
};

struct commit {
	uint8_t stream_id[ID_BYTES];
	uint64_t rounds;
	uint64_t held_pages; /* that the image must have in the end, over all spaces */
};

int hello_encode(const struct hello *m, struct frame_buffer *ret);
int hello_decode(const struct frame *f, struct hello *ret, struct tide_error *err);
/* Sets this machine's values; the nonce is random. */
int hello_init(struct hello *m, struct tide_error *err);
/*
 * What both know: the common version, features and limits. -EBADMSG with words where they cannot
 * work together (no common version, another architecture, byte order or page size).
 */
struct agreement {
	uint16_t version;
	uint64_t features;
	struct frame_limits limits;
};
int hello_agree(const struct hello *ours, const struct hello *theirs, struct agreement *ret,
	struct tide_error *err);

int auth_encode(const struct auth *m, struct frame_buffer *ret);
int auth_decode(const struct frame *f, struct auth *ret, struct tide_error *err);
int open_request_encode(const struct open_request *m, struct frame_buffer *ret);
int open_request_decode(const struct frame *f, struct open_request *ret, struct tide_error *err);
int open_reply_encode(const struct open_reply *m, struct frame_buffer *ret);
int open_reply_decode(const struct frame *f, struct open_reply *ret, struct tide_error *err);
int join_request_encode(const struct join_request *m, struct frame_buffer *ret);
int join_request_decode(const struct frame *f, struct join_request *ret, struct tide_error *err);
int join_reply_encode(const struct join_reply *m, struct frame_buffer *ret);
int join_reply_decode(const struct frame *f, struct join_reply *ret, struct tide_error *err);
int error_message_encode(const struct error_message *m, struct frame_buffer *ret);
int error_message_decode(const struct frame *f, struct error_message *ret, struct tide_error *err);
int round_ack_encode(const struct round_ack *m, struct frame_buffer *ret);
int round_ack_decode(const struct frame *f, struct round_ack *ret, struct tide_error *err);
int committed_encode(const struct committed *m, struct frame_buffer *ret);
int committed_decode(const struct frame *f, struct committed *ret, struct tide_error *err);
/* PING and PONG: no head, no payload. */
int ping_encode(bool pong, struct frame_buffer *ret);

int stream_header_encode(const struct stream_header *m, struct frame_buffer *ret);
int stream_header_decode(const struct frame *f, struct stream_header *ret, struct tide_error *err);
int commit_encode(const struct commit *m, struct frame_buffer *ret);
int commit_decode(const struct frame *f, struct commit *ret, struct tide_error *err);

/* From here on `process` is the frame's process number, from 1. */

/* A command line longer than COMMAND_LINE_MAX is cut there: it is for people to read. */
int process_info_encode(uint32_t process, const struct process_info *m, struct frame_buffer *ret);
/* One allocation: free() *ret. */
int process_info_decode(const struct frame *f, struct process_info **ret, struct tide_error *err);
int round_header_encode(uint32_t process, const struct round_header *m, struct frame_buffer *ret);
int round_header_decode(const struct frame *f, struct round_header *ret, struct tide_error *err);

/*
 * One frame a call, of at most MAPPINGS_MAX mappings and RUNS_MAX places, from *at on, which is
 * moved; done when it stands at the end of both. All removals travel before the first addition.
 * Control characters in `why` are replaced by '?'.
 */
struct mappings_cursor {
	size_t removed, added;
};
int mappings_encode(uint32_t process, const struct mappings_message *m, struct mappings_cursor *at,
	struct frame_buffer *ret);
int mappings_decode(const struct frame *f, struct mappings_message *ret, struct tide_error *err);
void mappings_release(struct mappings_message *m);

/* One frame a call, of at most RUNS_MAX drops, from *at on, which is moved; done when it stands at
 * the end. -EINVAL also where they are not in order. */
int drops_encode(
	uint32_t process, const struct drops_message *m, size_t *at, struct frame_buffer *ret);
int drops_decode(const struct frame *f, struct drops_message *ret, struct tide_error *err);
void drops_release(struct drops_message *m);

int round_end_encode(uint32_t process, const struct round_end *m, struct frame_buffer *ret);
int round_end_decode(const struct frame *f, struct round_end *ret, struct tide_error *err);

/*
 * One frame a call, of threads from *at on, which is moved; done when it stands at the end.
 * -EMSGSIZE for more threads or bytes than the format takes.
 */
int state_encode(
	uint32_t process, const struct process_state *m, size_t *at, struct frame_buffer *ret);
/* Appends to `ret`, which is all zero before the first; process_state_complete() after the last. On
 * failure `ret` is as it was. */
int state_decode(const struct frame *f, struct process_state *ret, struct tide_error *err);

#endif
