/* SPDX-License-Identifier: MIT */
/*
 * How much to compress, found by trying while it runs: levels from 0 (not at all) on, each slower
 * and denser than the one before.
 *
 * What counts is how many bytes of pages get through a second: through the link, not into the queue
 * before it. Which way it is worth to try, the workers' time tells: where they wait for room in the
 * connection, or the queue grows, the link is the limit, and more compression may get more through;
 * where they do not, they are. A level that got less through is
 * left again, and tried again only after a pause that doubles each time.
 *
 * Pure: times and amounts are handed in. Times are of any clock that does not go back.
 */
#ifndef TRANSPORT_CODEC_CHOICE_H
#define TRANSPORT_CODEC_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

/* What one worker did since it said so last. */
struct codec_choice_work {
	uint64_t bytes; /* of pages that a codec was asked for; not zero ones, nor unchanged ones */
	uint64_t wire_bytes; /* what became of them */
	uint64_t busy_ns;    /* on a processor, reading and encoding */
	uint64_t wait_ns;    /* for room in the connection, or for a processor: where the link is
				this machine's own, it is what the others are busy with */
};

/* Fields are the module's, but for `level`. */
struct codec_choice {
	unsigned levels;
	unsigned level; /* to encode with now */

	/* The window under way. */
	uint64_t last_ns;   /* of what was noted, or of the begin */
	uint64_t active_ns; /* so long it is; the time between rounds does not count */
	struct codec_choice_work work;
	uint64_t queued_at_begin, queued_bytes; /* on the way to the link: then, and now */
	bool is_over;
	bool is_settling;        /* the last step is not through yet: it is not looked at */
	uint64_t to_leave_bytes; /* ... of what was queued at that step: it takes the room of what
				    is smaller */
	unsigned rounds;

	uint64_t clock_ns; /* all active time so far */
	unsigned home;     /* the best level so far */
	double home_rate;  /* bytes a second there, of its last window */
	double link_rate;  /* wire bytes a second when it was full last, ... */
	uint64_t link_ns;  /* ... in clock_ns; 0: never */
	int way;           /* +1, -1: a level that way from home is being tried; 0: none */
	struct {
		uint64_t not_before_ns; /* of clock_ns */
		uint64_t pause_ns;      /* the last; 0: none yet */
	} tries[2];                     /* that way: down, up */
};

/* `levels` at least 1; begins with `level`. */
void codec_choice_init(struct codec_choice *c, unsigned levels, unsigned level);

/* A round begins. */
void codec_choice_begin(struct codec_choice *c, uint64_t now_ns);

/*
 * All of the round has arrived: since they had nothing more to do, `workers` of them waited for the
 * link. Without it rounds that the queue has room for would seem to take no time on the link.
 */
void codec_choice_arrived(struct codec_choice *c, uint64_t now_ns, unsigned workers);

/* From now on the best level so far, but none above `most`, and nothing is tried: there is no time
 * for it. */
void codec_choice_end(struct codec_choice *c, unsigned most);

/* A worker has done something, and so much is queued now; may change c->level. */
void codec_choice_note(struct codec_choice *c, uint64_t now_ns,
	const struct codec_choice_work *work, uint64_t queued_bytes);

#endif
