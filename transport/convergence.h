/* SPDX-License-Identifier: MIT */
/*
 * When to stop copying while the process runs, and freeze it. Pure: recorded rounds in, a decision
 * and its reason out.
 */
#ifndef TRANSPORT_CONVERGENCE_H
#define TRANSPORT_CONVERGENCE_H

#include <stdbool.h>
#include <stdint.h>

#define CONVERGENCE_WHY 192

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
};

struct convergence_limits {
	uint64_t max_downtime_ns;
	uint64_t max_rounds; /* while the process runs; at least 1 */
	uint64_t page_bytes;
};

struct convergence {
	struct convergence_limits limits;
	struct round_record last;
	uint64_t rounds;
	uint64_t fewest_left; /* the least that was ever left to send after a round */
	unsigned stalled;     /* rounds in a row that left no less */
	/* Pages, of the last round that told; 0: none did. */
	double sent_per_second;
	double unchanged_per_second; /* read, and found to be held already */
	/* Read and compared, whatever came of it, in the round of most pages: fewer are dearer. */
	double looked_per_second;
	uint64_t looked_pages;
};

struct convergence_verdict {
	bool freeze;
	bool fits; /* within the downtime limit, as far as can be foreseen */
	uint64_t expected_downtime_ns;
	char why[CONVERGENCE_WHY]; /* for the round's line */
};

void convergence_init(struct convergence *c, struct convergence_limits limits);

/* A round ended, and the next one would read `pending_pages`: those written since its collect, and
 * those that are read in every round. */
void convergence_round(struct convergence *c, const struct round_record *round,
	uint64_t pending_pages, struct convergence_verdict *ret);

/* Unique pages written a second, times their size, over the interval before the round's collect; 0
 * for the first. Doubtful pages count where they had changed. */
double round_dirty_bytes_per_second(const struct round_record *r, uint64_t page_bytes);

#endif
