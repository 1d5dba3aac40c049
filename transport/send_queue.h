/* SPDX-License-Identifier: MIT */
/*
 * What waits to be sent: frames, in order, bounded in bytes, from any number of threads to the one
 * that writes. It also keeps the storage of frames that were sent, for the next ones. Knows nothing
 * of loops and streams.
 */
#ifndef TRANSPORT_SEND_QUEUE_H
#define TRANSPORT_SEND_QUEUE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/frame.h"
#include "tidemark/error.h"
#include "transport/pacing.h"

/* Somebody who waits for all that was queued before. */
struct send_flush {
	void (*done)(
		void *arg, const struct tide_error *err); /* NULL: a thread waits for is_done */
	void *arg;
	struct send_flush *next; /* among those whose turn came */
	bool is_done;
	bool is_failed;
};

enum send_kind {
	SEND_NOTHING,
	SEND_FRAMES,
	SEND_FLUSH,
	SEND_SHUTDOWN,
};

struct send_item {
	enum send_kind kind;
	struct frame_buffer buffer;
	struct send_flush *flush;
};

#define SEND_POOL_MAX 32

struct send_queue {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* there is room, a flush is done, or it is over */

	/* Called with the lock held when there is something for a writer that had run out of work.
	 */
	void (*wake)(void *arg);
	void *arg;

	struct send_item *v; /* a ring; head counts on and is taken modulo cap */
	size_t head, len, cap;
	bool is_writer_busy; /* it looks again by itself */

	struct shared_pacing *pacing; /* borrowed; NULL: none */

	size_t bound_bytes;
	size_t held_bytes;   /* storage of what is queued or being written */
	uint64_t data_bytes; /* of that, what will travel */

	struct frame_buffer pool[SEND_POOL_MAX];
	unsigned npool;
	size_t pool_bytes;

	bool is_over; /* nothing is taken in any more, and `error` says why */
	struct tide_error error;
};

int send_queue_init(struct send_queue *q, size_t bound_bytes, void (*wake)(void *arg), void *arg);
/* Over, and nobody in it any more. */
void send_queue_release(struct send_queue *q);

/* What waits goes at the speed of `pacing` from now on, which must outlive the queue, or NULL.
 * Before others use the queue. */
void send_queue_pace(struct send_queue *q, struct shared_pacing *pacing);

enum send_mode {
	SEND_WAIT,  /* for its turn, where there is pacing, and until there is room */
	SEND_TRY,   /* -EAGAIN where there is none */
	SEND_FORCE, /* beyond the bound */
};

/* Any thread. Takes over the bytes of `b`, except with -EAGAIN. 0, -EAGAIN, -ENOMEM, or -EPIPE with
 * the queue's error. */
int send_queue_put(
	struct send_queue *q, struct frame_buffer *b, enum send_mode mode, struct tide_error *err);
/* Any thread. `f` must stay valid until it is done. 0, -ENOMEM, -EPIPE. */
int send_queue_put_flush(struct send_queue *q, struct send_flush *f, struct tide_error *err);
/* Any thread. Waits for one whose `done` is NULL. 0 or -EPIPE. */
int send_queue_wait(struct send_queue *q, struct send_flush *f, struct tide_error *err);
/* Any thread. Nothing is taken in after it: `why` tells those who try. 0, -ENOMEM, -EPIPE. */
int send_queue_put_shutdown(struct send_queue *q, const struct tide_error *why);

/* Any thread. Storage for the next frame, or an all-zero buffer. */
void send_queue_pool_get(struct send_queue *q, struct frame_buffer *ret);
void send_queue_pool_put(struct send_queue *q, struct frame_buffer *b);

/*
 * The writer's: what to do next. SEND_FRAMES fills up to `max` buffers, whose bytes count until
 * they are given back. Otherwise one flush or shutdown, for which everything before it was taken.
 * With SEND_NOTHING the writer is woken by the next put.
 */
enum send_kind send_queue_take(struct send_queue *q, struct frame_buffer *bufs, unsigned max,
	unsigned *ret_n, struct send_flush **ret_flush);
/* The buffers were written: their room is free, their storage is kept or freed. Also the writer's
 * end of an undertaking: it will take again, or be woken. */
void send_queue_give_back(struct send_queue *q, struct frame_buffer *bufs, unsigned n);
/* A thread that waits goes on. Those with `done` are the writer's to call. */
void send_queue_flush_done(struct send_queue *q, struct send_flush *f, bool is_failed);

/*
 * Nothing is taken in from now on, what is queued is dropped, who waits is woken, all with this
 * error; the first one stays. What was taken stays with the writer. Flushes with `done` that were
 * dropped come back as a list for the writer to call.
 */
struct send_flush *send_queue_end(struct send_queue *q, const struct tide_error *err);

/* Any thread. Of what is queued or being written. */
uint64_t send_queue_data_bytes(struct send_queue *q);

/* Why it is over. */
void send_queue_error(struct send_queue *q, struct tide_error *ret);

#endif
