/* SPDX-License-Identifier: MIT */
/*
 * What came for a session and waits for it: the frames of its connections, each connection's in
 * order. The loop puts in, the session's thread takes out.
 *
 * Lane 0 is the connection that opened the session; it says what the session does. The others carry
 * PAGES frames alone, and those belong to the round that lane 0 is in: they are taken when all that
 * comes before the round's pages has been, and ROUND_END is taken when as many have been as it
 * says. So a round is a barrier, whatever overtakes what on the way.
 */
#ifndef AGENT_INBOX_H
#define AGENT_INBOX_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/guard.h"
#include "proto/frame.h"

#define INBOX_LANES_MAX 64
#define INBOX_SPARES_MAX 8

/* A frame that waits. */
struct waiting {
	struct waiting *next;
	struct frame_buffer raw;
	struct frame frame; /* borrows `raw` */
	uint64_t offset;    /* in what came over its connection */
	unsigned lane;
	uint64_t number; /* in the order in which they came, over all lanes */
	size_t cost_bytes;
};

void waiting_free(struct waiting *w);
DEFINE_GUARD(struct waiting, waiting_free)

struct inbox_lane {
	struct waiting *first, **last;
	size_t bytes;
	bool wants_room;
};

struct inbox {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	size_t bound_bytes; /* for all lanes, each of which has its share: else those that wait for
			       lane 0 could keep it from being read */
	/* The taker's thread, with the lock held: a lane has room again after inbox_put() had said
	 * that it has none. */
	void (*room)(void *arg, unsigned lane);
	void *arg;

	struct inbox_lane lanes[INBOX_LANES_MAX];
	unsigned nlanes;
	uint64_t next_number;

	/* Storage of frames that are done with, for those to come. */
	struct frame_buffer spares[INBOX_SPARES_MAX];
	unsigned nspares;
	bool is_closed;  /* nothing more comes in; what is there can be taken */
	bool is_aborted; /* nothing more is given out */

	/* The taker's: the round that lane 0 is in. */
	bool in_pages; /* the last frame that was taken of lane 0 was a PAGES frame */
	uint64_t round_frames;
};

/* One lane. 0 or a negative errno. */
int inbox_init(
	struct inbox *b, size_t bound_bytes, void (*room)(void *arg, unsigned lane), void *arg);
void inbox_release(struct inbox *b);

/* The loop's. One more lane: its number, or -EMFILE. */
int inbox_add_lane(struct inbox *b);

/* The loop's. Takes over `w`, whose raw, frame, offset and lane are filled in. True where no more
 * should be put into that lane until it has room; what is put in all the same waits, too. */
bool inbox_put(struct inbox *b, struct waiting *w);

/* The taker's: waits for the next frame. The caller's then; NULL where there will be none. */
struct waiting *inbox_take(struct inbox *b);

/* Any thread: a frame that was taken is done with. Frees it, or keeps its storage. NULL is fine. */
void inbox_done(struct inbox *b, struct waiting *w);
/* The loop's. Storage for a frame to come, or an all-zero buffer; the caller's then. */
void inbox_spare(struct inbox *b, struct frame_buffer *ret);

/* Any thread. Nothing more comes in; with `abort` nothing more is given out either. */
void inbox_close(struct inbox *b, bool abort);

#endif
