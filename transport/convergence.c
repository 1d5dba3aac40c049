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

/* What a freeze at a local minimum may leave, times the least that was ever left; and how many
 * rounds one waits for that. */
#define NEAR_MINIMUM 1.5
#define MINIMUM_ROUNDS 3

/* A freeze that is short enough is put off for a round that makes it shorter by this factor, and by
 * so much: such a round takes hardly longer than the freeze that it spares. */
#define SHORTER 0.8
#define SHORTER_NS (1 * NS_PER_MS)

/* After a throttle, so many rounds without an effect are enough. */
#define THROTTLE_ROUNDS 2

/* A round that was held up for a larger part of its time says nothing of the speed without it. */
#define PACED_SHARE 0.1

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

static bool is_paced(const struct round_record *r)
{
	return (double)r->paced_ns > (double)r->duration_ns * PACED_SHARE;
}

static bool knows_speed(const struct convergence *c)
{
	return c->sent_per_second > 0 || c->paced_per_second > 0 || c->unchanged_per_second > 0;
}

/* To read a page and find it unchanged takes a fraction of what it takes to send one, and a link's
 * speed says nothing of it: the two speeds are told apart. A round tells of what most of it was. */
static void learn_speeds(struct convergence *c, const struct round_record *r)
{
	uint64_t pages = r->pages + r->unchanged_pages;
	double seconds = (double)r->duration_ns / 1e9;
	bool is_first = !knows_speed(c);
	double *sent_per_second = is_paced(r) ? &c->paced_per_second : &c->sent_per_second;
	if (r->duration_ns == 0 || (pages < TELLING_PAGES && !is_first))
		return;
	if (r->look_ns && pages >= c->looked_pages) {
		c->looked_per_second = (double)pages * 1e9 / (double)r->look_ns;
		c->looked_pages = pages;
	}
	if (r->pages >= r->unchanged_pages)
		*sent_per_second = (double)r->pages / seconds_beside(seconds, r->unchanged_pages,
							      c->unchanged_per_second);
	else
		c->unchanged_per_second = (double)r->unchanged_pages /
					  seconds_beside(seconds, r->pages, *sent_per_second);
	c->was_paced = is_paced(r);
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

/* What is still to be done. */
struct pages_left {
	double sent;
	double unchanged;   /* only read, in each round */
	double freeze_only; /* only read, and that in the freeze alone */
};

/* How long reading and sending takes, at a speed of sending. */
static double expected_ns(
	const struct convergence *c, struct pages_left left, double sent_per_second)
{
	double unchanged_per_second = c->unchanged_per_second, ns = 0;
	/* Where no round was made of such pages: to look at one is what both sorts have in common,
	 * and at least it is no slower than to send it. */
	if (unchanged_per_second == 0)
		unchanged_per_second = c->looked_per_second;
	if (unchanged_per_second == 0)
		unchanged_per_second = sent_per_second;
	if (sent_per_second == 0)
		sent_per_second = unchanged_per_second;
	if (left.sent > 0 && sent_per_second > 0)
		ns += left.sent / sent_per_second * 1e9;
	if (left.unchanged > 0 && unchanged_per_second > 0)
		ns += left.unchanged / unchanged_per_second * 1e9;
	return ns;
}

static uint64_t whole_ns(double ns)
{
	return ns < 9e18 ? (uint64_t)ns : UINT64_MAX / 2;
}

/* The freeze is not paced; but where no round went without pacing, nothing better is known. */
static uint64_t expected_downtime(const struct convergence *c, struct pages_left left)
{
	double speed = c->sent_per_second > 0 ? c->sent_per_second : c->paced_per_second;
	left.unchanged += left.freeze_only;
	return whole_ns(FREEZE_FIXED_NS + (double)c->last.collect_ns + expected_ns(c, left, speed));
}

/* As the last round that told went. */
static double round_speed(const struct convergence *c)
{
	if (c->was_paced || c->sent_per_second == 0)
		return c->paced_per_second;
	return c->sent_per_second;
}

/* What is left behind one more round: what is written while it lasts. */
static struct pages_left after_a_round(const struct convergence *c, struct pages_left left,
	double written_per_second, double *ret_round_ns)
{
	*ret_round_ns = (double)c->last.collect_ns + expected_ns(c, left, round_speed(c));
	left.sent = written_per_second * *ret_round_ns / 1e9;
	return left;
}

/* The freeze would be short enough. Would it be much shorter behind one more round? */
static bool is_worth_a_round(const struct convergence *c, uint64_t rounds, struct pages_left left,
	double written_per_second, uint64_t *ret_downtime_ns)
{
	double round_ns;
	uint64_t now_ns = expected_downtime(c, left);
	left = after_a_round(c, left, written_per_second, &round_ns);
	*ret_downtime_ns = expected_downtime(c, left);
	return rounds < c->limits.max_rounds && now_ns >= *ret_downtime_ns + SHORTER_NS &&
	       (double)*ret_downtime_ns <= (double)now_ns * SHORTER;
}

/*
 * Plays the rounds to come: what one leaves is what is written while it lasts. *ret_ns is the time
 * to the end of the freeze. False where they do not shrink, or there are too many of them.
 */
static bool foresee(const struct convergence *c, struct pages_left left, double written_per_second,
	double *ret_ns)
{
	*ret_ns = 0;
	for (uint64_t rounds = c->rounds;; rounds++) {
		double round_ns;
		uint64_t downtime_ns = expected_downtime(c, left), shorter_ns;
		struct pages_left next = after_a_round(c, left, written_per_second, &round_ns);
		bool fits = downtime_ns <= c->limits.max_downtime_ns;
		bool shrinks = next.sent <= left.sent * STALL_SHRINK;
		if (fits && !(shrinks && is_worth_a_round(c, rounds, left, written_per_second,
						 &shorter_ns))) {
			*ret_ns += (double)downtime_ns;
			return true;
		}
		if (!fits && (rounds >= c->limits.max_rounds || !shrinks))
			return false;
		*ret_ns += round_ns;
		left = next;
	}
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

/* Counts the rounds in a row that left no less than the best before. What is read again and again
 * does not shrink: what is left to send shall. Who throttles wants more than that: that the rounds
 * that are allowed are enough. */
static void count_stalled(struct convergence *c, uint64_t sent, bool converges)
{
	bool shrank =
		sent < c->fewest_left && (double)sent <= (double)c->fewest_left * STALL_SHRINK;
	if (c->throttle_percent && c->throttle_percent < THROTTLE_MOST && !converges)
		shrank = false;
	c->stalled = shrank ? 0 : c->stalled + 1;
	if (sent < c->fewest_left)
		c->fewest_left = sent;
}

/* Whether a freeze now is about as short as it ever could have been. */
static bool is_near_minimum(const struct convergence *c, uint64_t sent)
{
	return (double)sent <= (double)c->fewest_left * NEAR_MINIMUM ||
	       c->stalled >= STALL_ROUNDS + MINIMUM_ROUNDS;
}

static void throttle_harder(struct convergence *c, uint64_t sent)
{
	c->throttle_percent =
		c->throttle_percent ? c->throttle_percent + THROTTLE_STEP : THROTTLE_FIRST;
	if (c->throttle_percent > THROTTLE_MOST)
		c->throttle_percent = THROTTLE_MOST;
	/* Its effect is measured by what is left now: what was left in a quiet moment before says
	 * nothing of it. */
	c->fewest_left = sent;
	c->stalled = STALL_ROUNDS - THROTTLE_ROUNDS;
}

static enum convergence_action decide(
	struct convergence *c, bool fits, bool is_worth_more, uint64_t sent)
{
	if (fits)
		return is_worth_more && c->stalled == 0 ? CONVERGENCE_GO_ON : CONVERGENCE_FREEZE;
	bool stalled = c->stalled >= STALL_ROUNDS;
	bool too_many = c->rounds >= c->limits.max_rounds;
	if (!stalled && !too_many)
		return CONVERGENCE_GO_ON;
	if (c->limits.if_diverging == DIVERGING_ABORT)
		return CONVERGENCE_ABORT;
	if (too_many)
		return CONVERGENCE_FREEZE;
	if (c->limits.if_diverging == DIVERGING_THROTTLE && c->throttle_percent < THROTTLE_MOST) {
		throttle_harder(c, sent);
		return CONVERGENCE_THROTTLE;
	}
	return is_near_minimum(c, sent) ? CONVERGENCE_FREEZE : CONVERGENCE_GO_ON;
}

/* The figures of a verdict as text. */
struct figures {
	char left[LEFT_TEXT];
	char expected[UNITS_TEXT], limit[UNITS_TEXT]; /* of the downtime */
	char shorter[UNITS_TEXT];                     /* behind one more round */
	char written[UNITS_TEXT], sent[UNITS_TEXT];   /* a second */
	char prospect[2 * UNITS_TEXT + 40];
};

/* "about 4.2 s to go", or why there is no end to be seen. */
static void format_prospect(struct figures *f, const struct convergence_verdict *v)
{
	char remaining[UNITS_TEXT];
	units_format_ns(remaining, v->remaining_ns);
	if (v->converges)
		snprintf(f->prospect, sizeof(f->prospect), "about %s to go", remaining);
	else
		snprintf(f->prospect, sizeof(f->prospect),
			"no end in sight: written at %s, sent at %s", f->written, f->sent);
}

static void format_figures(struct figures *f, const struct convergence *c,
	const struct convergence_verdict *v, struct pages_left left)
{
	double page_bytes = (double)c->limits.page_bytes;
	format_left(f->left, (uint64_t)(left.sent * page_bytes),
		(uint64_t)((left.unchanged + left.freeze_only) * page_bytes));
	units_format_ns(f->expected, v->expected_downtime_ns);
	units_format_ns(f->limit, c->limits.max_downtime_ns);
	units_format_rate(f->written, v->dirty_bytes_per_second);
	units_format_rate(f->sent, v->sent_bytes_per_second);
	format_prospect(f, v);
}

static void explain_freeze(
	const struct convergence *c, const struct figures *f, struct convergence_verdict *v)
{
	if (v->fits)
		snprintf(v->why, sizeof(v->why), "freeze: %s fit in %s (limit %s)", f->left,
			f->expected, f->limit);
	else if (c->rounds >= c->limits.max_rounds)
		snprintf(v->why, sizeof(v->why), "freeze: %llu rounds are the limit, %s (about %s)",
			(unsigned long long)c->limits.max_rounds, f->left, f->expected);
	else
		snprintf(v->why, sizeof(v->why),
			"freeze: rounds do not shrink any more, %s (about %s)", f->left,
			f->expected);
}

static void explain(
	const struct convergence *c, const struct figures *f, struct convergence_verdict *v)
{
	char throttled[28] = "";
	switch (v->action) {
	case CONVERGENCE_GO_ON:
		if (v->fits) {
			snprintf(v->why, sizeof(v->why),
				"go on: %s would fit in %s (limit %s), and behind one more round "
				"in about %s",
				f->left, f->expected, f->limit, f->shorter);
			break;
		}
		if (v->throttle_percent)
			snprintf(throttled, sizeof(throttled), ", throttled by %u %%",
				v->throttle_percent);
		snprintf(v->why, sizeof(v->why), "go on%s: %s would take %s (limit %s), %s",
			throttled, f->left, f->expected, f->limit, f->prospect);
		break;
	case CONVERGENCE_THROTTLE:
		snprintf(v->why, sizeof(v->why),
			"throttle by %u %%: %s would take %s (limit %s), %s", v->throttle_percent,
			f->left, f->expected, f->limit, f->prospect);
		break;
	case CONVERGENCE_ABORT:
		snprintf(v->why, sizeof(v->why),
			"it does not converge: %s is written and %s is sent; after %llu rounds %s "
			"would take %s (limit %s)",
			f->written, f->sent, (unsigned long long)c->rounds, f->left, f->expected,
			f->limit);
		break;
	case CONVERGENCE_FREEZE:
		explain_freeze(c, f, v);
		break;
	}
}

void convergence_round(struct convergence *c, const struct round_record *round, uint64_t pending,
	struct convergence_verdict *ret)
{
	c->last = *round;
	c->rounds++;
	learn_speeds(c, round);

	uint64_t unchanged = expected_unchanged(round, pending), sent = pending - unchanged;
	/* What of these is pending as well counts twice. */
	struct pages_left left = {(double)sent, (double)unchanged, (double)round->to_reread_pages};
	double written_per_second =
		round->duration_ns ? (double)sent * 1e9 / (double)round->duration_ns : 0;
	double page_bytes = (double)c->limits.page_bytes, remaining_ns;
	*ret = (struct convergence_verdict){
		.expected_downtime_ns = expected_downtime(c, left),
		.dirty_bytes_per_second = written_per_second * page_bytes,
		.sent_bytes_per_second = round_speed(c) * page_bytes,
	};
	ret->fits = ret->expected_downtime_ns <= c->limits.max_downtime_ns;
	ret->converges = foresee(c, left, written_per_second, &remaining_ns);
	count_stalled(c, sent, ret->converges);
	uint64_t shorter_ns;
	bool is_worth_more = is_worth_a_round(c, c->rounds, left, written_per_second, &shorter_ns);
	ret->action = decide(c, ret->fits, is_worth_more, sent);
	if (ret->action == CONVERGENCE_FREEZE)
		ret->remaining_ns = ret->expected_downtime_ns;
	else if (ret->converges)
		ret->remaining_ns = whole_ns(remaining_ns);
	ret->throttle_percent = c->throttle_percent;

	struct figures figures;
	format_figures(&figures, c, ret, left);
	units_format_ns(figures.shorter, shorter_ns);
	explain(c, &figures, ret);
}

void convergence_cannot_throttle(
	struct convergence *c, const char *reason, struct convergence_verdict *v)
{
	char expected[UNITS_TEXT];
	units_format_ns(expected, v->expected_downtime_ns);
	c->limits.if_diverging = DIVERGING_FREEZE;
	c->throttle_percent = 0;
	v->throttle_percent = 0;
	v->action = CONVERGENCE_FREEZE;
	snprintf(v->why, sizeof(v->why),
		"freeze: rounds do not shrink any more (about %s), and it cannot be throttled: %s",
		expected, reason);
}
