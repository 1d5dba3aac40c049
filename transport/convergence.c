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
	*c = (struct convergence){.limits = limits, .fewest_left = UINT64_MAX};
}

double round_dirty_bytes_per_second(const struct round_record *r, uint64_t page_bytes)
{
	if (r->interval_ns == 0)
		return 0;
	return (double)((r->pages + r->rewritten_pages) * page_bytes) * 1e9 /
	       (double)r->interval_ns;
}

/*
 * The seconds of a round that are left when `pages` of another sort have had theirs. At least half:
 * it is what most pages of the round were that is asked for, and what is known of the others may
 * be old.
 */
static double seconds_beside(double seconds, uint64_t pages, double per_second)
{
	double rest = per_second > 0 ? seconds - (double)pages / per_second : seconds;
	return rest > seconds / 2 ? rest : seconds / 2;
}

/* To read a page and find it unchanged takes a fraction of what it takes to send one, and a link's
 * speed says nothing of it: the two speeds are told apart. A round tells of what most of it was. */
static void learn_speeds(struct convergence *c, const struct round_record *r)
{
	uint64_t pages = r->pages + r->unchanged_pages;
	double seconds = (double)r->duration_ns / 1e9;
	bool is_first = c->sent_per_second == 0 && c->unchanged_per_second == 0;
	if (r->duration_ns == 0 || (pages < TELLING_PAGES && !is_first))
		return;
	if (r->look_ns && pages >= c->looked_pages) {
		c->looked_per_second = (double)pages * 1e9 / (double)r->look_ns;
		c->looked_pages = pages;
	}
	if (r->pages >= r->unchanged_pages)
		c->sent_per_second = (double)r->pages / seconds_beside(seconds, r->unchanged_pages,
								c->unchanged_per_second);
	else
		c->unchanged_per_second = (double)r->unchanged_pages /
					  seconds_beside(seconds, r->pages, c->sent_per_second);
}

/* Of what is pending: doubtful pages are mostly the same in each round, so as many of them as in
 * the last one; and of written ones the same share. */
static uint64_t expected_unchanged(const struct round_record *last, uint64_t pending)
{
	uint64_t doubtful = last->unchanged_pages - last->rewritten_pages;
	if (doubtful >= pending)
		return pending;
	uint64_t written = last->pages + last->rewritten_pages;
	double share = written ? (double)last->rewritten_pages / (double)written : 0;
	return doubtful + (uint64_t)((double)(pending - doubtful) * share);
}

static uint64_t expected_downtime(const struct convergence *c, uint64_t sent, uint64_t unchanged)
{
	double ns = FREEZE_FIXED_NS + (double)c->last.collect_ns;
	double sent_per_second = c->sent_per_second, unchanged_per_second = c->unchanged_per_second;
	/* Where no round was made of such pages: to look at one is what both sorts have in common,
	 * and at least it is no slower than to send it. */
	if (unchanged_per_second == 0)
		unchanged_per_second = c->looked_per_second;
	if (unchanged_per_second == 0)
		unchanged_per_second = sent_per_second;
	if (sent_per_second == 0)
		sent_per_second = unchanged_per_second;
	if (sent && sent_per_second > 0)
		ns += (double)sent / sent_per_second * 1e9;
	if (unchanged && unchanged_per_second > 0)
		ns += (double)unchanged / unchanged_per_second * 1e9;
	return ns < 9e18 ? (uint64_t)ns : UINT64_MAX / 2;
}

#define LEFT_TEXT (2 * UNITS_TEXT + 32)

/* "2.0 MiB left", "2.0 MiB left and 1.0 GiB to look through". */
static void format_left(char ret[LEFT_TEXT], uint64_t sent_bytes, uint64_t unchanged_bytes)
{
	char sent[UNITS_TEXT], unchanged[UNITS_TEXT];
	units_format_bytes(sent, sent_bytes);
	units_format_bytes(unchanged, unchanged_bytes);
	if (unchanged_bytes)
		snprintf(ret, LEFT_TEXT, "%s left and %s to look through", sent, unchanged);
	else
		snprintf(ret, LEFT_TEXT, "%s left", sent);
}

void convergence_round(struct convergence *c, const struct round_record *round, uint64_t pending,
	struct convergence_verdict *ret)
{
	c->last = *round;
	c->rounds++;
	learn_speeds(c, round);

	/* What is read again and again does not shrink: what is left to send shall. */
	uint64_t unchanged = expected_unchanged(round, pending), sent = pending - unchanged;
	/* What of these is pending as well counts twice. */
	unchanged += round->to_reread_pages;
	bool shrank =
		sent < c->fewest_left && (double)sent <= (double)c->fewest_left * STALL_SHRINK;
	c->stalled = shrank ? 0 : c->stalled + 1;
	if (sent < c->fewest_left)
		c->fewest_left = sent;

	ret->expected_downtime_ns = expected_downtime(c, sent, unchanged);
	ret->fits = ret->expected_downtime_ns <= c->limits.max_downtime_ns;
	char expected[UNITS_TEXT], limit[UNITS_TEXT], left[LEFT_TEXT];
	units_format_ns(expected, ret->expected_downtime_ns);
	units_format_ns(limit, c->limits.max_downtime_ns);
	format_left(left, sent * c->limits.page_bytes, unchanged * c->limits.page_bytes);

	if (ret->fits) {
		ret->freeze = true;
		snprintf(ret->why, sizeof(ret->why), "freeze: %s fit in %s (limit %s)", left,
			expected, limit);
	} else if (c->rounds >= c->limits.max_rounds) {
		ret->freeze = true;
		snprintf(ret->why, sizeof(ret->why),
			"freeze: %llu rounds are the limit, %s (about %s)",
			(unsigned long long)c->limits.max_rounds, left, expected);
	} else if (c->stalled >= STALL_ROUNDS) {
		ret->freeze = true;
		snprintf(ret->why, sizeof(ret->why),
			"freeze: rounds do not shrink any more, %s (about %s)", left, expected);
	} else {
		ret->freeze = false;
		snprintf(ret->why, sizeof(ret->why), "go on: %s would take %s (limit %s)", left,
			expected, limit);
	}
}
