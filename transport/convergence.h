/* SPDX-License-Identifier: MIT */
/*
 * When to stop copying while the process runs, and freeze it; and what to do where it writes faster
 * than its pages are sent. Pure: recorded rounds in, a decision and its reason out.
 */
#ifndef TRANSPORT_CONVERGENCE_H
#define TRANSPORT_CONVERGENCE_H

#include <stdbool.h>
#include <stdint.h>

#define CONVERGENCE_WHY 320

/* A round that was acknowledged. */
struct round_record {
	uint64_t number;
	uint64_t pages;           /* sent */
	uint64_t unchanged_pages; /* read, and not sent: the receiver has them */
	uint64_t rewritten_pages; /* of those: written for sure, with the bytes they had */
	uint64_t dropped_pages;
	uint64_t reread_pages;
	uint64_t to_reread_pages; /* that were not, and will be in the freeze */
	uint64_t look_ns;         /* what reading and comparing all pages took of its time */
	uint64_t wire_bytes;
	uint64_t duration_ns; /* from the beginning of its collect to its acknowledgement */
	uint64_t collect_ns;
	uint64_t interval_ns; /* since the collect before; 0 for the first round */
	uint64_t paced_ns; /* of its duration, held up by a limit that the freeze does not have */
};

/* What to do where rounds do not shrink any more, or there were too many of them. */
enum if_diverging {
	DIVERGING_FREEZE = 0,
	DIVERGING_THROTTLE, /* slow the process, and harder while that does not help; freeze at last
			     */
	DIVERGING_ABORT,
};

/* The course of throttling, in percent. */
#define THROTTLE_FIRST 20
#define THROTTLE_STEP 10
#define THROTTLE_MOST 99

struct convergence_limits {
	uint64_t max_downtime_ns;
	uint64_t max_rounds; /* while the process runs; at least 1 */
	uint64_t page_bytes;
	enum if_diverging if_diverging;
};

struct convergence {
	struct convergence_limits limits;
	struct round_record last;
	uint64_t rounds;
	uint64_t fewest_left; /* the least that was left to send after a round since the last
				 throttle */
	unsigned stalled;     /* rounds in a row that left no less */
	unsigned throttle_percent;
	/* Pages, of the last round that told; 0: none did. */
	double sent_per_second;
	double paced_per_second;     /* sent, in rounds that were held up by the limit */
	bool was_paced;              /* the last round that told */
	double unchanged_per_second; /* read, and found to be held already */
	/* Read and compared, whatever came of it, in the round of most pages: fewer are dearer. */
	double looked_per_second;
	uint64_t looked_pages;
};

enum convergence_action {
	CONVERGENCE_GO_ON,
	CONVERGENCE_FREEZE,
	CONVERGENCE_THROTTLE, /* by throttle_percent from now on, and go on */
	CONVERGENCE_ABORT,
};

struct convergence_verdict {
	enum convergence_action action;
	bool fits; /* within the downtime limit, as far as can be foreseen */
	uint64_t expected_downtime_ns;
	/* Will it fit sooner or later, if everything stays as it was in this round? */
	bool converges;
	/* From now to the end of the freeze; 0 where it goes on and does not converge. */
	uint64_t remaining_ns;
	unsigned throttle_percent;     /* in force from now on; 0: none */
	double dirty_bytes_per_second; /* that will have to be sent; since this round's collect */
	double sent_bytes_per_second;  /* in this round or, if it told nothing, one before */
	char why[CONVERGENCE_WHY];     /* for the round's line; of an abort, the error's words */
};

void convergence_init(struct convergence *c, struct convergence_limits limits);

/*
 * A round ended, and the next one would read `pending_pages`: those written since its collect, and
 * those that are read in every round.
 *
 * A freeze that fits is put off as long as one more round makes it shorter by a fifth, and by a
 * millisecond.
 *
 * Rounds that leave no less than the best before, three in a row, do not shrink any more. Where the
 * process is to be frozen then, that is done in a round that leaves about as little as the best
 * did, for which it waits three rounds at most. Two more such rounds after a throttle make it
 * harder, and so do two that shrink too slowly for the number of rounds that is allowed.
 */
void convergence_round(struct convergence *c, const struct round_record *round,
	uint64_t pending_pages, struct convergence_verdict *ret);

/* The process cannot be throttled (any further), for a reason in few words: changes a verdict that
 * said so into another, and asks for it no more. */
void convergence_cannot_throttle(
	struct convergence *c, const char *reason, struct convergence_verdict *verdict);

/* Unique pages written a second, times their size, over the interval before the round's collect; 0
 * for the first. Doubtful pages count where they had changed. */
double round_dirty_bytes_per_second(const struct round_record *r, uint64_t page_bytes);

#endif
