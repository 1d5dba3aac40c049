/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>
#include "base/clock.h"
#include "base/units.h"
#include "transport/convergence.h"

/* What a freeze costs besides the pages: stopping, the registers, the last message's way. Measured:
 * well below. */
#define FREEZE_FIXED_NS (2 * NS_PER_MS)

/* A round of fewer pages says nothing of the speed: its time is that of the messages. */
#define TELLING_PAGES 256

/* A round must leave a tenth less than the best before it, or it counts as standing still. */
#define STALL_SHRINK 0.9
#define STALL_ROUNDS 3

void convergence_init(struct convergence *c, struct convergence_limits limits)
{
	*c = (struct convergence){.limits = limits, .fewest_pending = UINT64_MAX};
}

double round_dirty_bytes_per_second(const struct round_record *r, uint64_t page_bytes)
{
	if (r->interval_ns == 0)
		return 0;
	return (double)(r->pages * page_bytes) * 1e9 / (double)r->interval_ns;
}

static uint64_t expected_downtime(const struct convergence *c, uint64_t pending)
{
	double ns = FREEZE_FIXED_NS + (double)c->last.collect_ns;
	if (pending && c->pages_per_second > 0)
		ns += (double)pending / c->pages_per_second * 1e9;
	return ns < 9e18 ? (uint64_t)ns : UINT64_MAX / 2;
}

void convergence_round(struct convergence *c, const struct round_record *round, uint64_t pending,
	struct convergence_verdict *ret)
{
	c->last = *round;
	c->rounds++;
	if (round->duration_ns && (round->pages >= TELLING_PAGES || c->pages_per_second == 0))
		c->pages_per_second = (double)round->pages * 1e9 / (double)round->duration_ns;

	bool shrank = c->fewest_pending == UINT64_MAX ||
		      (double)pending <= (double)c->fewest_pending * STALL_SHRINK;
	c->stalled = shrank ? 0 : c->stalled + 1;
	if (pending < c->fewest_pending)
		c->fewest_pending = pending;

	ret->expected_downtime_ns = expected_downtime(c, pending);
	ret->fits = ret->expected_downtime_ns <= c->limits.max_downtime_ns;
	char expected[UNITS_TEXT], limit[UNITS_TEXT], left[UNITS_TEXT];
	units_format_ns(expected, ret->expected_downtime_ns);
	units_format_ns(limit, c->limits.max_downtime_ns);
	units_format_bytes(left, pending * c->limits.page_bytes);

	if (ret->fits) {
		ret->freeze = true;
		snprintf(ret->why, sizeof(ret->why), "freeze: %s left fit in %s (limit %s)", left,
			expected, limit);
	} else if (c->rounds >= c->limits.max_rounds) {
		ret->freeze = true;
		snprintf(ret->why, sizeof(ret->why),
			"freeze: %llu rounds are the limit, %s left (about %s)",
			(unsigned long long)c->limits.max_rounds, left, expected);
	} else if (c->stalled >= STALL_ROUNDS) {
		ret->freeze = true;
		snprintf(ret->why, sizeof(ret->why),
			"freeze: rounds do not shrink any more, %s left (about %s)", left,
			expected);
	} else {
		ret->freeze = false;
		snprintf(ret->why, sizeof(ret->why), "go on: %s left would take %s (limit %s)",
			left, expected, limit);
	}
}
