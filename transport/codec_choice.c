/* SPDX-License-Identifier: MIT */
#include <string.h>
#include "base/clock.h"
#include "transport/codec_choice.h"

/* A window: long enough, and with enough in it; of less only when it was very long. */
#define WINDOW_NS (100 * NS_PER_MS)
#define WINDOW_BYTES (16u << 20)
#define WINDOW_LONG_NS (400 * NS_PER_MS)
#define WINDOW_LONG_BYTES (2u << 20)

/* Windows differ by so much without a reason. */
#define NOISE 0.04

/* A try that is so much worse is given up as soon as that can be said at all. */
#define MUCH_WORSE 0.75
#define SOON_NS (20 * NS_PER_MS)
#define SOON_BYTES (4u << 20)

#define PAUSE_FIRST_NS (1 * NS_PER_S)
#define PAUSE_MAX_NS (64 * NS_PER_S)

/* Workers that wait for so little or so much of their time know what the limit is. */
#define SHARE_NEVER_UP 0.15
#define SHARE_NEVER_DOWN 0.75

/* ... and that the link is full. What it carried then is known for so long. */
#define SHARE_FULL 0.75
#define LINK_KNOWN_NS (20 * NS_PER_S)

void codec_choice_init(struct codec_choice *c, unsigned levels, unsigned level)
{
	*c = (struct codec_choice){
		.levels = levels, .level = level, .home = level, .is_settling = true};
}

static void window_begin(struct codec_choice *c)
{
	c->active_ns = 0;
	c->work = (struct codec_choice_work){0};
	c->queued_at_begin = c->queued_bytes;
}

void codec_choice_begin(struct codec_choice *c, uint64_t now_ns)
{
	c->last_ns = now_ns;
	/* From the second on pages can go as what changed: what the first has shown says little. */
	if (++c->rounds == 2)
		memset(c->tries, 0, sizeof(c->tries));
}

void codec_choice_arrived(struct codec_choice *c, uint64_t now_ns, unsigned workers)
{
	uint64_t passed = now_ns > c->last_ns ? now_ns - c->last_ns : 0;
	struct codec_choice_work work = {.wait_ns = passed * workers};
	codec_choice_note(c, now_ns, &work, 0);
}

void codec_choice_end(struct codec_choice *c, unsigned most)
{
	if (c->home > most)
		c->home = most;
	c->level = c->home;
	c->way = 0;
	c->is_over = true;
}

/* How much the link took of what came. All, where the queue shrinks: then the workers are the
 * limit, and what was queued at another level is not theirs. */
static double window_through(const struct codec_choice *c)
{
	double came = (double)c->work.wire_bytes;
	double went = came + (double)c->queued_at_begin - (double)c->queued_bytes;
	if (went <= 0)
		return 0;
	return went < came ? went / came : 1;
}

static double window_rate(const struct codec_choice *c)
{
	return (double)c->work.bytes * window_through(c) * 1e9 / (double)c->active_ns;
}

/* How much of their time the workers waited, or would if the queue were full. */
static double window_share(const struct codec_choice *c)
{
	double through = window_through(c), busy = (double)c->work.busy_ns;
	double all = busy + (double)c->work.wait_ns;
	return all > 0 ? 1 - busy / all * through : 0;
}

/* --- trying ------------------------------------------------------------------------------- */

static bool is_open(const struct codec_choice *c, unsigned from, int way)
{
	bool is_there = way > 0 ? from + 1 < c->levels : from > 0;
	return is_there && c->clock_ns >= c->tries[way > 0].not_before_ns;
}

/* Notes what the link carries, when it is full. */
static void note_link(struct codec_choice *c, double share)
{
	if (share < SHARE_FULL)
		return;
	double went =
		(double)c->work.wire_bytes + (double)c->queued_at_begin - (double)c->queued_bytes;
	c->link_rate = went * 1e9 / (double)c->active_ns;
	c->link_ns = c->clock_ns;
}

/* Would the link carry what gets through now if it were not compressed at all? Unless it is known
 * not to. */
static bool may_carry_whole(const struct codec_choice *c)
{
	return c->link_ns == 0 || c->clock_ns - c->link_ns > LINK_KNOWN_NS ||
	       c->link_rate > c->home_rate;
}

/* Which way is worth a try from home; 0: none now. */
static int way_to_try(const struct codec_choice *c, double share)
{
	bool up = share > SHARE_NEVER_UP && is_open(c, c->home, 1);
	bool down = share < SHARE_NEVER_DOWN && is_open(c, c->home, -1) &&
		    (c->home > 1 || may_carry_whole(c));
	if (up && down)
		return share > 0.5 ? 1 : -1;
	return up ? 1 : down ? -1 : 0;
}

/* What is queued leaves first. */
static void settle(struct codec_choice *c)
{
	c->is_settling = true;
	c->to_leave_bytes = c->queued_bytes;
}

static void step(struct codec_choice *c, int way)
{
	c->way = way;
	c->level = way > 0 ? c->level + 1 : c->level - 1;
	settle(c);
}

/* Not that way again for a while; longer each time. */
static void close_way(struct codec_choice *c, int way)
{
	uint64_t pause = c->tries[way > 0].pause_ns * 2;
	if (pause < PAUSE_FIRST_NS)
		pause = PAUSE_FIRST_NS;
	if (pause > PAUSE_MAX_NS)
		pause = PAUSE_MAX_NS;
	c->tries[way > 0].pause_ns = pause;
	c->tries[way > 0].not_before_ns = c->clock_ns + pause;
}

static void go_home(struct codec_choice *c)
{
	close_way(c, c->way);
	c->level = c->home;
	c->way = 0;
	settle(c);
}

/* It got more through: this is home now. What lies beyond is new; what lies behind was worse. */
static void settle_down(struct codec_choice *c, double rate)
{
	int way = c->way;
	memset(c->tries, 0, sizeof(c->tries));
	close_way(c, -way);
	c->home = c->level;
	c->home_rate = rate;
	c->way = 0;
}

/* No difference: the level behind may make one. Only where the workers' time still says so. */
static bool is_worth_going_on(const struct codec_choice *c, double rate, double share)
{
	bool is_there = c->way > 0 ? c->level + 1 < c->levels : c->level > 0;
	bool says_so = c->way > 0 ? share > 0.5 : share < 0.5;
	return is_there && says_so && rate > c->home_rate * (1 - NOISE);
}

static void judge(struct codec_choice *c, double rate, double share)
{
	if (rate > c->home_rate * (1 + NOISE))
		settle_down(c, rate);
	else if (is_worth_going_on(c, rate, share))
		step(c, c->way);
	else
		go_home(c);
}

/* So much that it can tell at all. */
static bool is_soon(const struct codec_choice *c)
{
	return c->active_ns >= SOON_NS && c->work.bytes >= SOON_BYTES;
}

static bool is_much_worse(const struct codec_choice *c)
{
	return c->way && is_soon(c) && window_rate(c) < c->home_rate * MUCH_WORSE;
}

static bool is_window_full(const struct codec_choice *c)
{
	if (c->is_settling)
		return is_soon(c) && c->to_leave_bytes == 0;
	return (c->active_ns >= WINDOW_NS && c->work.bytes >= WINDOW_BYTES) ||
	       (c->active_ns >= WINDOW_LONG_NS && c->work.bytes >= WINDOW_LONG_BYTES);
}

static void close_window(struct codec_choice *c)
{
	double rate = window_rate(c), share = window_share(c);
	note_link(c, share);
	window_begin(c);
	if (c->is_settling) {
		c->is_settling = false;
		return;
	}
	if (c->way) {
		judge(c, rate, share);
		return;
	}
	c->home_rate = rate;
	int way = way_to_try(c, share);
	if (way)
		step(c, way);
}

void codec_choice_note(struct codec_choice *c, uint64_t now_ns,
	const struct codec_choice_work *work, uint64_t queued_bytes)
{
	if (c->is_over)
		return;
	uint64_t passed = now_ns > c->last_ns ? now_ns - c->last_ns : 0;
	c->last_ns += passed;
	c->active_ns += passed;
	c->clock_ns += passed;
	uint64_t came = c->queued_bytes + work->wire_bytes;
	uint64_t left = came > queued_bytes ? came - queued_bytes : 0;
	c->to_leave_bytes -= left < c->to_leave_bytes ? left : c->to_leave_bytes;
	c->work.bytes += work->bytes;
	c->work.wire_bytes += work->wire_bytes;
	c->queued_bytes = queued_bytes;
	c->work.busy_ns += work->busy_ns;
	c->work.wait_ns += work->wait_ns;
	if (is_much_worse(c)) {
		go_home(c);
		window_begin(c);
	} else if (is_window_full(c)) {
		close_window(c);
	}
}
