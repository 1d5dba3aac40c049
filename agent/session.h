/* SPDX-License-Identifier: MIT */
/*
 * One stream of page sets, from its first frame to its commit: checks that it makes sense as a
 * whole and gives it to a sink.
 *
 *   [OPEN] STREAM PROCESS { ROUND MAPPINGS* DROPS* PAGES* ROUND_END }+ STATE+ COMMIT
 *
 * where the last ROUND and no other is final. Knows nothing of sockets or loops: whole frames come
 * in, replies go out through a callback. A session belongs to one thread at a time and blocks where
 * its sink does (disks).
 *
 * What it refuses (-EBADMSG, the words name the frame and its byte in the stream): frames out of
 * order, of a process that was not announced (today process 1 and no other), rounds that do not
 * follow, sums of ROUND_END or COMMIT that do not agree with what came, a page that comes twice in
 * a round, blocks that do not decode, mappings over others, held pages outside the mappings. A
 * session that failed refuses everything that comes later.
 */
#ifndef AGENT_SESSION_H
#define AGENT_SESSION_H

#include <stdbool.h>
#include "agent/address_space.h"
#include "agent/sink.h"
#include "agent/store.h"

struct session;

/* Takes over the reply's bytes, whatever it returns. A failure ends the session. */
typedef int (*session_reply_fn)(void *arg, struct frame_buffer *reply, struct tide_error *err);

/* Copied; what is pointed to must outlive the session. */
struct session_options {
	struct store *store;    /* where image sinks write */
	session_reply_fn reply; /* OPENED, ACK, COMMITTED; NULL where nobody listens */
	void *arg;
	/*
	 * The stream is a file's: it may be an image (HOLLOW, HASHES, INDEX and TRAILER frames),
	 * and it is committed by session_end(), when the whole of it has proved to be sound,
	 * instead of by its COMMIT frame.
	 */
	bool from_file;
	uint64_t features; /* that were agreed on; 0: FEATURES_KNOWN, of a file FEATURES_STORED */
	/* Several threads work on it, as agent/crew.h does: where it fails, its sink is not closed
	 * before session_free(). */
	bool shared;
};

enum session_phase {
	SESSION_OPEN = 1, /* waits for OPEN, or for session_open() */
	SESSION_STREAM,
	SESSION_PROCESS,
	SESSION_ROUND,    /* between two rounds */
	SESSION_MAPPINGS, /* in a round: these may follow, and the later ones */
	SESSION_DROPS,
	SESSION_PAGES,
	SESSION_STATE, /* the final round has ended */
	SESSION_DONE,  /* COMMIT came; from a socket: and is committed */
	SESSION_FAILED,
};

/* What has come so far. */
struct session_stats {
	enum session_phase phase;
	uint64_t rounds; /* that ended */
	uint64_t frames;
	uint64_t pages; /* in all rounds, those superseded later included */
	uint64_t bytes; /* of the frames */
};

int session_new(
	const struct session_options *options, struct session **ret, struct tide_error *err);

/* Leaves nothing behind of what was not committed. NULL is fine. */
void session_free(struct session *s);
DEFINE_GUARD(struct session, session_free)

/* What an OPEN frame does: picks the sink and opens it. -EEXIST, named, where the store has the
 * image already. Nothing is replied. */
int session_open(struct session *s, const struct open_request *request, struct tide_error *err);

/* The same with a sink of the caller's, taken over also on failure. For tests, and for looking at a
 * stream without storing it. */
int session_open_sink(struct session *s, struct sink *sink, struct tide_error *err);

/*
 * The next frame, whose checksum has been checked. `raw` are its bytes as they came, `frame`
 * borrows them, `offset` is where it begins in the stream (for the words of errors). Both stay the
 * caller's.
 */
int session_frame(struct session *s, const struct frame *frame, const struct frame_buffer *raw,
	uint64_t offset, struct tide_error *err);

/*
 * The same in three steps, of which only the second wants the order of the frames. Several threads
 * may be in the first and the last while one is in the second, each with a `pages` of its own, all
 * zero at first:
 *   session_prepare         decodes a PAGES frame ahead of its turn, where that is possible
 *   session_frame_prepared  as session_frame(); returns 1 where the last step is to follow
 *   session_finish          0 or a negative errno, which ends the session
 * `frame` and `raw` are borrowed from the first to the last.
 */
struct session_pages {
	const struct frame *frame; /* that was decoded, or NULL */
	struct batch batch;
	uint8_t *space;       /* for BATCH_PAGES_MAX pages */
	const uint8_t *pages; /* decoded: there, or in the frame itself */
	struct sink_work *work;
	struct sink_input given; /* what the sink got */
};
void session_pages_release(struct session *s, struct session_pages *p);
void session_prepare(struct session *s, const struct frame *frame, const struct frame_buffer *raw,
	struct session_pages *p);
int session_frame_prepared(struct session *s, const struct frame *frame,
	const struct frame_buffer *raw, uint64_t offset, struct session_pages *p,
	struct tide_error *err);
int session_finish(struct session *s, struct session_pages *p, struct tide_error *err);

/* The stream ended here. -EBADMSG unless it was complete. With `from_file` this is where the sink
 * commits. */
int session_end(struct session *s, struct tide_error *err);

/* Sets *ret where the sink has committed; else false. */
bool session_committed(const struct session *s, struct committed *ret);

struct session_stats session_stats(const struct session *s);

/* "" until OPEN. */
const char *session_name(const struct session *s);

/* NULL until STREAM, PROCESS came. Borrowed from the session. */
const struct stream_header *session_header(const struct session *s);
const struct address_space *session_process(const struct session *s, uint32_t process);

/*
 * Reads a recorded stream or an image from `fd` to its end, blocking, and commits it. The session
 * is one of `from_file` that was opened. `what` names the source in errors ("standard input", a
 * path).
 */
int session_run_file(struct session *s, int fd, const char *what, struct tide_error *err);

#endif
