/* SPDX-License-Identifier: MIT */
/*
 * Frames over one byte stream: a bounded queue out, whole checked frames in, keep-alive, and one
 * end.
 *
 * Life: connection_open() → frames both ways → `ended`, once → connection_close() → freed. The
 * owner may close at any time, also before the end; `ended` is not called any more then.
 *
 * Threads: what is not marked "any thread" is called on the loop's thread. Callbacks run there,
 * never from inside a call of this header. Another thread that sends holds a reference for as long
 * as it may: a connection that was closed under it refuses with -EPIPE, and wakes those that wait.
 *
 * Memory: what is queued, being written and kept for reuse together stays under `queue_bytes` plus
 * one frame; what comes in is one frame at a time, and whoever takes it over bounds it by pausing.
 */
#ifndef TRANSPORT_CONNECTION_H
#define TRANSPORT_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>
#include "base/clock.h"
#include "base/guard.h"
#include "proto/frame.h"
#include "tidemark/error.h"
#include "transport/byte_stream.h"
#include "transport/pacing.h"

struct connection;

#define CONNECTION_QUEUE_BYTES ((size_t)64 << 20)
#define CONNECTION_TIMEOUT_NS (30 * NS_PER_S)

enum connection_direction {
	CONNECTION_BOTH = 0, /* a peer that answers: keep-alive and timeout apply */
	CONNECTION_SEND,     /* recording: nothing comes back, and a reader may take its time */
	CONNECTION_RECEIVE,  /* reading a recording: nothing is sent, not even a preamble */
};

struct connection_handler {
	/*
	 * A whole frame, its checksum checked, in the order of the stream. It is valid until this
	 * returns, and connection_take() inside hands over its bytes. PING and PONG do not come
	 * here; types that nobody knows and that are not critical do, to be skipped or kept. May
	 * pause, close, set another handler.
	 */
	void (*frame)(void *arg, struct connection *c, const struct frame *frame);
	/*
	 * Nothing more comes and nothing more is sent: a peer that closes its half closes it all.
	 * `err` is NULL where the stream ended between two frames (or after connection_shutdown()),
	 * else what happened: the peer vanished, was silent, spoke wrong or another protocol; it
	 * names the peer. Frames that came before are delivered before. Sends fail with -EPIPE from
	 * here on.
	 */
	void (*ended)(void *arg, struct connection *c, const struct tide_error *err);
	/* Neither will be called any more: another handler was set, or the connection was closed.
	 * Comes from inside that call. May be NULL. */
	void (*gone)(void *arg);
	void *arg;
};

/* All zero means the defaults. */
struct connection_options {
	enum connection_direction direction;
	size_t queue_bytes;  /* bound of what is queued; 0: CONNECTION_QUEUE_BYTES */
	uint64_t timeout_ns; /* silence or refusal after which a peer is dead; 0:
				CONNECTION_TIMEOUT_NS */
};

/*
 * Takes over the stream (also on failure: it is closed then), sends the preamble, starts to read.
 * Handler and options are copied. 0, -ENOMEM, or what making a handle says.
 */
int connection_open(uv_loop_t *loop, struct byte_stream *stream,
	const struct connection_options *options, const struct connection_handler *handler,
	struct connection **ret, struct tide_error *err);

typedef void (*connection_close_fn)(void *arg);

/*
 * Closes at once, which a peer whose bytes are still unread sees as a reset; connection_shutdown()
 * is the end that tells it all is well. What is queued is dropped, who waits is woken with -EPIPE,
 * a file without connection_shutdown() does not appear under its name. `done` may be NULL; it comes
 * when the stream is closed. Drops the owner's reference. NULL is fine.
 */
void connection_close(struct connection *c, connection_close_fn done, void *arg);

/* Any thread. One more user; every reference is dropped with connection_unref(). Closing is the
 * owner's alone. */
struct connection *connection_ref(struct connection *c);
void connection_unref(struct connection *c);
DEFINE_GUARD(struct connection, connection_unref)

/* Frames go to another handler from the next one on (a handshake that is over). */
void connection_set_handler(struct connection *c, const struct connection_handler *handler);

/* Any thread. Who is at the other end; valid as long as the reference. */
const struct byte_stream_peer *connection_peer(const struct connection *c);

/* The loop that it lives on. */
uv_loop_t *connection_loop(const struct connection *c);

/* What may come in from now on; never more than frame_limits_max. */
void connection_limit(struct connection *c, struct frame_limits limits);

/*
 * Any thread. Queues a frame and takes over its bytes: `b` is empty afterwards, whatever is
 * returned. Where it is paced it waits for its turn, and while the queue is full, except on the
 * loop's thread, which must not and puts its frame over the bound (small replies only there).
 * Frames of one thread stay in order. 0, -ENOMEM, or -EPIPE with the connection's error once it has
 * ended or was shut down.
 */
int connection_send(struct connection *c, struct frame_buffer *b, struct tide_error *err);

/* Frames that wait go at the speed of `pacing` from now on, which several connections may share and
 * which must live until connection_close() and the last reference; NULL for none. Before other
 * threads send. */
void connection_pace(struct connection *c, struct shared_pacing *pacing);

/* Any thread. The same without waiting: -EAGAIN where the queue is full; `b` is then still the
 * caller's. */
int connection_try_send(struct connection *c, struct frame_buffer *b, struct tide_error *err);

/*
 * Any thread. An empty frame buffer to encode into, with the storage of one that was sent before
 * where there is such (cap > 0). Encoders keep storage that is large enough, so that large frames
 * cost no allocation each. Never fails; it goes back by connection_send() or
 * connection_buffer_put().
 */
void connection_buffer_get(struct connection *c, struct frame_buffer *ret);
void connection_buffer_put(struct connection *c, struct frame_buffer *b);

/* Any thread but the loop's. Waits until everything queued before is with the kernel (sockets,
 * pipes) or on the disk (files). 0, or -EPIPE with the connection's error. */
int connection_flush(struct connection *c, struct tide_error *err);

typedef void (*connection_flush_fn)(void *arg, const struct tide_error *err);

/* The same for the loop's thread: `done` comes later, with NULL or the connection's error. Also at
 * connection_close(). 0 or -ENOMEM. */
int connection_flush_then(struct connection *c, connection_flush_fn done, void *arg);

/*
 * Any thread. The orderly end: what is queued goes out, then the peer reads the end of the stream;
 * a file is synced and gets its name. What still comes in is discarded, so that the peer reads our
 * last words instead of a reset. `ended` comes with NULL once the peer has closed too (at once for
 * CONNECTION_SEND), or when it has not within the timeout, at most 5 s.
 */
void connection_shutdown(struct connection *c);

/*
 * Any thread. Ends it with an error of the caller's: what is queued is dropped, a peer that speaks
 * our protocol is told by an ERROR frame, what still comes in is discarded, sends fail with this
 * error; `ended` comes with it, later, as after connection_shutdown(). Ignored when it has ended.
 * What the connection itself finds wrong in what a peer sends ends in this way too.
 */
void connection_fail(struct connection *c, const struct tide_error *err);

/* Stops delivering frames, at once: not one more comes until connection_resume(). Then the kernel's
 * buffers fill and the peer waits. Time in between does not count as silence. Neither nests. */
void connection_pause(struct connection *c);
void connection_resume(struct connection *c);

/* Inside `frame` only: takes over the frame's bytes (header, head, payload), which stay where they
 * are: `frame` remains valid as long as `ret`. */
void connection_take(struct connection *c, struct frame_buffer *ret);

/* The loop's thread. Storage of a frame that was taken, for one to come. `b` is empty afterwards.
 */
void connection_spare(struct connection *c, struct frame_buffer *b);

/* Any thread. Sums since the start. */
struct connection_stats {
	uint64_t bytes_sent; /* with the kernel, preamble and keep-alive included */
	uint64_t bytes_received;
	uint64_t queued_bytes; /* now, being written included */
};
struct connection_stats connection_stats(struct connection *c);

#endif
