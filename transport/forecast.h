/* SPDX-License-Identifier: MIT */
/*
 * What a pre-copy would take that nobody has begun: rounds of M, then of what is written while the
 * round before lasts, at a bandwidth B, until the rules of a real send (convergence.h) freeze the
 * process. How much is written in a time is not its rate times the time: pages that are written
 * again count once. So a measured curve is asked.
 *
 * Pure: what was measured in, what is foreseen out.
 */
#ifndef TRANSPORT_FORECAST_H
#define TRANSPORT_FORECAST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "transport/convergence.h"

/* So many unique pages were written in an interval of so long, on average. */
struct dirty_point {
	uint64_t ns;
	double pages;
};

struct forecast_input {
	uint64_t held_pages;
	const struct dirty_point *curve; /* by time, increasing; at least one */
	size_t npoints;
	double wire_bytes_per_page;     /* after compression, with what frames it */
	double link_bytes_per_second;   /* that the link carries */
	double source_pages_per_second; /* that this machine reads and compresses; 0: no limit */
	uint64_t collect_ns;            /* a scan for what was written, while the process runs */
	uint64_t freeze_ns;     /* what a freeze takes without any page: stop, scan, registers */
	uint64_t round_trip_ns; /* of the link */
	struct convergence_limits
		limits; /* as for a send; max_rounds ends what does not converge */
};

struct forecast {
	bool fits;       /* the freeze is within the limit */
	uint64_t rounds; /* with the last one, in the freeze */
	uint64_t total_ns;
	uint64_t downtime_ns;
	double wire_bytes;
	double last_pages; /* sent in the freeze */
};

/* Unique pages written within `ns`, by the curve: straight between its points and from zero to the
 * first; behind the last as from the last but one to it. At most `held_pages`. */
double forecast_dirty_pages(const struct forecast_input *in, double ns);

/* With the process slowed by `throttle_percent` all the while (0: not). */
struct forecast forecast_make(const struct forecast_input *in, unsigned throttle_percent);

/* The least throttle in percent with which the freeze fits: 0 none is needed, 100 none helps. */
unsigned forecast_throttle(const struct forecast_input *in);

#endif
