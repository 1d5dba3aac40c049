/* SPDX-License-Identifier: MIT */
/*
 * Sends at an even speed: says when the next bytes may go. Pure: the time is handed in. What
 * several threads or connections share has a lock around it.
 */
#ifndef TRANSPORT_PACING_H
#define TRANSPORT_PACING_H

#include <pthread.h>
#include <stdint.h>
#include "base/clock.h"

/* What was not used is not saved for longer than this. */
#define PACING_BURST_NS (2 * NS_PER_MS)

/* All zero sets no limit. */
struct pacing {
	uint64_t bytes_per_second; /* 0: no limit */
	uint64_t next_ns;          /* when what was granted so far has had its time */
};

/* Sets the limit from now on; 0 for none. What was granted before stays granted. */
void pacing_set(struct pacing *p, uint64_t bytes_per_second);

/*
 * Grants `bytes`, which go as one: returns when, in the clock of `now_ns`; not later than `now_ns`
 * means at once. Who asks goes in the order of asking. In any time T no more than the limit times
 * T + PACING_BURST_NS goes, and one grant.
 */
uint64_t pacing_take(struct pacing *p, uint64_t bytes, uint64_t now_ns);

/* One limit of several. */
struct shared_pacing {
	pthread_mutex_t lock;
	struct pacing pacing;
	uint64_t held_ns; /* that threads waited for their turn, added up */
};

void shared_pacing_init(struct shared_pacing *p);
void shared_pacing_release(struct shared_pacing *p);
void shared_pacing_set(struct shared_pacing *p, uint64_t bytes_per_second);
/* As pacing_take(), now. */
uint64_t shared_pacing_take(struct shared_pacing *p, uint64_t bytes);
void shared_pacing_note_held(struct shared_pacing *p, uint64_t ns);
uint64_t shared_pacing_held(struct shared_pacing *p);

#endif
