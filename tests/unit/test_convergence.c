/* SPDX-License-Identifier: MIT */
#include <string.h>
#include "base/clock.h"
#include "tests/harness.h"
#include "transport/convergence.h"

static struct convergence c;
static struct convergence_verdict v;

static void setup(void)
{
	convergence_init(&c,
		(struct convergence_limits){
			.max_downtime_ns = 100 * NS_PER_MS, .max_rounds = 10, .page_bytes = 4096});
}

static void round_of(uint64_t pages, uint64_t ms, uint64_t pending)
{
	convergence_round(&c,
		&(struct round_record){.pages = pages,
			.duration_ns = ms * NS_PER_MS,
			.collect_ns = NS_PER_MS,
			.interval_ns = ms * NS_PER_MS},
		pending, &v);
}

static void test_what_fits_in_the_limit_is_frozen(void)
{
	/* 100,000 pages a second: 5,000 take 50 ms, in which 4,600 more would be written. */
	round_of(5500, 55, 5000);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);
	CU_ASSERT_TRUE(v.fits);
	CU_ASSERT_EQUAL(v.expected_downtime_ns, 53 * NS_PER_MS);
}

static void test_what_does_not_fit_goes_on(void)
{
	round_of(100000, 1000, 50000);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
	round_of(50000, 500, 25000);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
	round_of(25000, 250, 12500);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
	CU_ASSERT_FALSE(v.fits);
}

static void test_a_round_that_spares_much_of_the_freeze_is_worth_it(void)
{
	/* 9,000 would take 93 ms, and what is written meanwhile 36 ms. */
	round_of(25000, 250, 9000);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
	CU_ASSERT_TRUE(v.fits);
	CU_ASSERT_PTR_NOT_NULL(strstr(v.why, "behind one more round"));
	round_of(9000, 91, 3300);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
	round_of(3300, 34, 1200);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
	round_of(1200, 13, 440);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
	/* 5.2 ms, and 4.4 ms behind one more. */
	round_of(440, 5, 190);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);
	CU_ASSERT_TRUE(v.expected_downtime_ns < 6 * NS_PER_MS);
}

static void test_a_round_that_spared_nothing_is_the_last(void)
{
	/* 100 ms of each round are the link's: no round is as short as its pages would let it be.
	 */
	c.limits.max_rounds = 1000;
	uint64_t left = 2560;
	unsigned rounds = 0;
	do {
		uint64_t ms = 100 + left * 4 / 10;
		uint64_t next = 900 * ms / 1000;
		round_of(left, ms, next);
		left = next;
	} while (v.action == CONVERGENCE_GO_ON && ++rounds < 100);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);
	CU_ASSERT_TRUE(v.fits);
	CU_ASSERT_TRUE(rounds < 10);
}

static void test_the_limit_of_rounds_holds_for_those_too(void)
{
	c.limits.max_rounds = 2;
	round_of(25000, 250, 9000);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
	round_of(9000, 91, 3300);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);
	CU_ASSERT_TRUE(v.fits);
}

static void test_rounds_that_stand_still_end_in_a_freeze(void)
{
	/* As recorded of a writer at the link's speed: each round leaves as much as the last. */
	round_of(100000, 1000, 50000);
	for (int i = 0; i < 2; i++) {
		round_of(50000, 500, 49000 + i);
		CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
	}
	round_of(50000, 500, 50000);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);
	CU_ASSERT_FALSE(v.fits);
	CU_ASSERT_PTR_NOT_NULL(strstr(v.why, "do not shrink"));
}

static void test_a_pause_in_shrinking_is_forgiven(void)
{
	round_of(100000, 1000, 50000);
	round_of(50000, 500, 50000);
	round_of(50000, 500, 50000);
	round_of(50000, 500, 30000);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
	round_of(30000, 300, 29000);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
}

static void test_the_number_of_rounds_is_a_limit(void)
{
	uint64_t left = 100000;
	for (int i = 0; i < 9; i++) {
		round_of(100000, 1000, left);
		CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
		left = left * 85 / 100;
	}
	round_of(100000, 1000, left);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);
	CU_ASSERT_PTR_NOT_NULL(strstr(v.why, "10 rounds are the limit"));
}

static void test_a_tiny_round_does_not_spoil_the_measured_speed(void)
{
	round_of(100000, 1000, 50000);
	/* Three pages that took 10 ms, all of it latency. */
	round_of(3, 10, 4000);
	CU_ASSERT_TRUE(v.fits);
}

static void test_the_dirty_rate_is_over_the_interval(void)
{
	struct round_record r = {.pages = 25600, .interval_ns = NS_PER_S / 2};
	CU_ASSERT_DOUBLE_EQUAL(round_dirty_bytes_per_second(&r, 4096), 209715200.0, 1);
	r.interval_ns = 0;
	CU_ASSERT_DOUBLE_EQUAL(round_dirty_bytes_per_second(&r, 4096), 0, 0);
}

/* So many pages sent, and so many found unchanged, of which so many had been written. */
static void mixed_round(
	uint64_t sent, uint64_t unchanged, uint64_t rewritten, uint64_t ms, uint64_t pending)
{
	convergence_round(&c,
		&(struct round_record){.pages = sent,
			.unchanged_pages = unchanged,
			.rewritten_pages = rewritten,
			.duration_ns = ms * NS_PER_MS,
			.collect_ns = NS_PER_MS,
			.interval_ns = ms * NS_PER_MS},
		pending, &v);
}

static void expect_ms(uint64_t least, uint64_t most)
{
	CU_ASSERT_TRUE(v.expected_downtime_ns >= least * NS_PER_MS);
	CU_ASSERT_TRUE(v.expected_downtime_ns <= most * NS_PER_MS);
}

static void test_pages_that_are_only_read_do_not_make_sending_look_fast(void)
{
	/* 100,000 pages a second are sent, a million read. */
	mixed_round(100000, 0, 0, 1000, 60000);
	mixed_round(5000, 50000, 0, 100, 60000);
	/* The freeze reads 50,000 again, and sends 10,000: 50 and 100 ms. At 55,000 in 100 ms it
	 * would look like 109. */
	expect_ms(140, 160);
	CU_ASSERT_FALSE(v.fits);
	CU_ASSERT_PTR_NOT_NULL(strstr(v.why, "195 MiB to look through"));
}

static void test_pages_that_are_only_read_are_not_counted_as_sent(void)
{
	mixed_round(100000, 0, 0, 1000, 60000);
	mixed_round(1000, 50000, 0, 60, 52000);
	expect_ms(70, 80);
	CU_ASSERT_TRUE(v.fits);
	/* Until it was seen that they are unchanged, they are. */
	setup();
	mixed_round(100000, 0, 0, 1000, 50000);
	expect_ms(500, 510);
}

static void test_pages_that_only_the_freeze_reads_count(void)
{
	/* 100,000 pages a second are sent; to read and compare them took 200 ms of that second. */
	struct round_record r = {.pages = 100000,
		.to_reread_pages = 100000,
		.look_ns = 200 * NS_PER_MS,
		.duration_ns = NS_PER_S,
		.interval_ns = NS_PER_S};
	convergence_round(&c, &r, 1000, &v);
	expect_ms(210, 213);
	CU_ASSERT_PTR_NOT_NULL(strstr(v.why, "391 MiB to look through"));
	/* Not told what that takes, they count as if they were sent. */
	setup();
	r.look_ns = 0;
	convergence_round(&c, &r, 1000, &v);
	expect_ms(1010, 1013);
	/* Once a round was made of such pages, their speed is known. */
	mixed_round(0, 100000, 0, 100, 100000);
	expect_ms(101, 104);
}

static void test_a_slow_link_stays_slow_whatever_is_read(void)
{
	/* 1,000 pages a second. Many rounds that send next to nothing say nothing of it. */
	mixed_round(3000, 0, 0, 3000, 100000);
	for (int i = 0; i < 5; i++)
		mixed_round(i, 100000, 0, 100, 100500);
	expect_ms(590, 620);
}

static void test_a_link_that_became_faster_makes_no_nonsense(void)
{
	mixed_round(100000, 0, 0, 1000, 100000);
	/* What was sent would have taken 400 ms at the speed known. */
	mixed_round(40000, 50000, 0, 300, 50000);
	expect_ms(150, 310);
}

static void test_what_is_read_in_every_round_does_not_hide_that_rounds_shrink(void)
{
	/* A million doubtful pages, of which none changes. */
	mixed_round(1000000, 0, 0, 10000, 1400000);
	uint64_t left = 300000;
	for (int i = 0; i < 5; i++) {
		mixed_round(left, 1000000, 0, 1000 + left / 100, 1000000 + left * 3 / 4);
		CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
		left = left * 3 / 4;
	}
}

static void test_what_takes_too_long_to_read_does_not_go_on_for_ever(void)
{
	mixed_round(1000000, 0, 0, 10000, 1000000);
	int rounds = 0;
	for (; v.action == CONVERGENCE_GO_ON && rounds < 8; rounds++)
		mixed_round(0, 1000000, 0, 1000, 1000000);
	CU_ASSERT_TRUE(rounds < 6);
	CU_ASSERT_FALSE(v.fits);
	CU_ASSERT_PTR_NOT_NULL(strstr(v.why, "do not shrink"));
}

static void test_of_written_pages_the_same_share_is_unchanged(void)
{
	mixed_round(100000, 0, 0, 1000, 50000);
	/* 45,000 of 50,000 were written with the bytes they had: 50 ms for the others, 60 for them.
	 * Of 5,000 it will be 4,500. */
	mixed_round(5000, 45000, 45000, 110, 5000);
	expect_ms(13, 15);
	CU_ASSERT_TRUE(v.fits);
}

static void test_doubtful_pages_that_did_not_change_are_not_dirty(void)
{
	struct round_record r = {.pages = 10,
		.unchanged_pages = 1000,
		.rewritten_pages = 15,
		.interval_ns = NS_PER_S};
	CU_ASSERT_DOUBLE_EQUAL(round_dirty_bytes_per_second(&r, 4096), 25 * 4096, 1);
}

/* --- what was recorded: rounds of real sends, without what the series is not about
 * ----------------------------------------------------------------------------------------- */

struct recorded {
	uint64_t pages, duration_us, pending;
};

/* Plays rounds until the module has had enough of them; returns how many it took. */
static unsigned play(const struct recorded *rounds, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		convergence_round(&c,
			&(struct round_record){.number = i,
				.pages = rounds[i].pages,
				.duration_ns = rounds[i].duration_us * NS_PER_US,
				.collect_ns = NS_PER_MS,
				.interval_ns = i ? rounds[i - 1].duration_us * NS_PER_US : 0},
			rounds[i].pending, &v);
		if (v.action != CONVERGENCE_GO_ON)
			return i + 1;
	}
	return n;
}

#define PLAY(rounds) play(rounds, sizeof(rounds) / sizeof((rounds)[0]))

static void setup_if(enum if_diverging what, uint64_t max_downtime_ms)
{
	convergence_init(
		&c, (struct convergence_limits){.max_downtime_ns = max_downtime_ms * NS_PER_MS,
			    .max_rounds = 30,
			    .page_bytes = 4096,
			    .if_diverging = what});
}

/* 128 MiB, written at 40 MiB/s, read from a pipe at 120 MB/s on a busy machine. */
static const struct recorded converging[] = {{32798, 4727810, 25334}, {25342, 1716490, 13635},
	{13571, 1418793, 12068}, {11809, 682801, 5080}, {4804, 316244, 4823}, {4661, 289030, 2840},
	{2840, 151104, 1707}, {1522, 53405, 569}, {545, 20511, 218}};

/* 128 MiB, written at 200 MiB/s, read at 100 MB/s. */
static const struct recorded diverging[] = {{1139, 3302037, 29406}, {29406, 3203721, 32419},
	{32421, 1911509, 30485}, {30485, 2200664, 28402}};

/* 48 MiB of 48, over and over: a round can be as short as it likes, all of it is written again. */
static const struct recorded whole_set[] = {{12319, 3849143, 12291}, {12291, 1085402, 12235},
	{12235, 1464315, 12274}, {12274, 1099623, 11711}};

/* 192 MiB at 160 MiB/s, stopped and continued from outside, read at 100 MB/s. */
static const struct recorded bursty[] = {{49183, 7068875, 58607}, {47995, 2782014, 40124},
	{40155, 1915416, 39376}, {39129, 2649936, 43181}, {42953, 3363154, 39716}};

/* 32 MiB at 60 MiB/s, stopped for longer than a round takes. */
static const struct recorded lull[] = {
	{8222, 3146875, 8174}, {8174, 1198116, 1356}, {1356, 40863, 0}};

static void test_a_recorded_send_that_converges_ends_in_the_limit(void)
{
	for (int what = DIVERGING_FREEZE; what <= DIVERGING_ABORT; what++) {
		setup_if((enum if_diverging)what, 20);
		CU_ASSERT_EQUAL(PLAY(converging), 9);
		CU_ASSERT_TRUE(v.fits);
		/* There it was frozen; in the same way on, three rounds more spare two thirds. */
		for (uint64_t left = 218; v.action == CONVERGENCE_GO_ON && left > 8;
			left = left * 3 / 8)
			round_of(left, left / 25, left * 3 / 8);
		CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);
		CU_ASSERT_TRUE(v.expected_downtime_ns < 5 * NS_PER_MS);
		CU_ASSERT_EQUAL(v.throttle_percent, 0);
	}
}

static void test_a_recorded_send_that_diverges_does_what_was_asked_for(void)
{
	setup_if(DIVERGING_FREEZE, 20);
	CU_ASSERT_EQUAL(PLAY(diverging), 4);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);
	CU_ASSERT_FALSE(v.fits);

	setup_if(DIVERGING_THROTTLE, 20);
	CU_ASSERT_EQUAL(PLAY(diverging), 4);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_THROTTLE);
	CU_ASSERT_EQUAL(v.throttle_percent, THROTTLE_FIRST);
	CU_ASSERT_PTR_NOT_NULL(strstr(v.why, "throttle by 20 %"));

	setup_if(DIVERGING_ABORT, 20);
	CU_ASSERT_EQUAL(PLAY(diverging), 4);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_ABORT);
	/* 28,402 pages in 2.2 s, and 30,485. */
	CU_ASSERT_PTR_NOT_NULL(strstr(v.why, "52.9 MB/s is written and 56.7 MB/s is sent"));
}

static void test_a_working_set_that_is_written_all_the_time_stalls(void)
{
	setup_if(DIVERGING_FREEZE, 20);
	CU_ASSERT_EQUAL(PLAY(whole_set), 4);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);
	CU_ASSERT_PTR_NOT_NULL(strstr(v.why, "do not shrink"));
	/* Where it fits in the limit, nobody minds. */
	setup_if(DIVERGING_ABORT, 2000);
	(void)PLAY(whole_set);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);
	CU_ASSERT_TRUE(v.fits);
}

static void test_a_recorded_writer_of_bursts_is_given_its_time(void)
{
	setup_if(DIVERGING_FREEZE, 20);
	CU_ASSERT_EQUAL(PLAY(bursty), 5);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);
	setup_if(DIVERGING_ABORT, 5);
	CU_ASSERT_EQUAL(PLAY(lull), 3);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);
	CU_ASSERT_TRUE(v.fits);
}

/* A local minimum that has passed: it comes again, or it does not. */
static void test_a_stall_far_from_the_minimum_waits_for_it(void)
{
	setup_if(DIVERGING_FREEZE, 20);
	round_of(100000, 1000, 50000);
	round_of(50000, 500, 20000);
	for (int i = 0; i < 3; i++) {
		round_of(50000, 500, 50000);
		CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
	}
	round_of(50000, 500, 25000);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);

	setup_if(DIVERGING_FREEZE, 20);
	round_of(100000, 1000, 50000);
	round_of(50000, 500, 20000);
	for (int i = 0; i < 5; i++) {
		round_of(50000, 500, 50000);
		CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
	}
	round_of(50000, 500, 50000);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);
}

/* --- throttling
 * ----------------------------------------------------------------------------------------- */

/* Pages a second that a process with nothing in its way writes, over and over its working set, and
 * that the link takes. Plays rounds until it is frozen; returns how many. */
static unsigned run_writer(double written, double sent, double working_set, unsigned *ret_steps)
{
	double left = working_set;
	unsigned rounds = 0, before = 0;
	*ret_steps = 0;
	v.throttle_percent = 0;
	do {
		double seconds = left / sent;
		double wrote = written * (100 - v.throttle_percent) / 100 * seconds;
		double next = wrote < working_set ? wrote : working_set;
		convergence_round(&c,
			&(struct round_record){.pages = (uint64_t)left,
				.duration_ns = (uint64_t)(seconds * 1e9) + 1},
			(uint64_t)next, &v);
		left = next;
		rounds++;
		if (v.throttle_percent == before)
			continue;
		CU_ASSERT_TRUE(
			v.throttle_percent == (before ? before + THROTTLE_STEP : THROTTLE_FIRST) ||
			v.throttle_percent == THROTTLE_MOST);
		before = v.throttle_percent;
		++*ret_steps;
	} while (v.action != CONVERGENCE_FREEZE && rounds < 100);
	return rounds;
}

static void test_throttling_becomes_harder_until_rounds_shrink(void)
{
	unsigned steps;
	setup_if(DIVERGING_THROTTLE, 20);
	/* Twice what the link takes: a little more than half is enough. */
	(void)run_writer(200000, 100000, 100000, &steps);
	CU_ASSERT_TRUE(v.fits);
	CU_ASSERT_TRUE(v.throttle_percent >= 60 && v.throttle_percent <= 70);
	CU_ASSERT_EQUAL(steps, v.throttle_percent / 10 - 1);
}

static void test_throttling_is_no_harder_than_needed(void)
{
	unsigned steps;
	setup_if(DIVERGING_THROTTLE, 20);
	(void)run_writer(105000, 100000, 100000, &steps);
	CU_ASSERT_TRUE(v.fits);
	CU_ASSERT_EQUAL(v.throttle_percent, THROTTLE_FIRST);
}

static void test_the_hardest_throttle_that_does_not_help_ends_in_a_freeze(void)
{
	unsigned steps;
	setup_if(DIVERGING_THROTTLE, 20);
	unsigned rounds = run_writer(100e6, 100000, 100000, &steps);
	CU_ASSERT_EQUAL(v.throttle_percent, THROTTLE_MOST);
	CU_ASSERT_EQUAL(steps, 9);
	CU_ASSERT_FALSE(v.fits);
	/* Four rounds at first, two a step. */
	CU_ASSERT_EQUAL(rounds, 4 + 2 * 9);
}

static void test_who_writes_slowly_is_not_throttled(void)
{
	unsigned steps;
	setup_if(DIVERGING_THROTTLE, 20);
	(void)run_writer(50000, 100000, 100000, &steps);
	CU_ASSERT_EQUAL(steps, 0);
	CU_ASSERT_TRUE(v.fits);
}

static void test_who_cannot_be_throttled_is_frozen(void)
{
	setup_if(DIVERGING_THROTTLE, 20);
	(void)PLAY(diverging);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_THROTTLE);
	convergence_cannot_throttle(&c, "process 7 is stopped", &v);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_FREEZE);
	CU_ASSERT_EQUAL(v.throttle_percent, 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(v.why, "process 7 is stopped"));
}

static void test_too_many_rounds_are_a_reason_to_abort(void)
{
	setup_if(DIVERGING_ABORT, 1);
	c.limits.max_rounds = 3;
	round_of(100000, 1000, 80000);
	round_of(80000, 800, 60000);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_GO_ON);
	round_of(60000, 600, 40000);
	CU_ASSERT_EQUAL(v.action, CONVERGENCE_ABORT);
}

/* --- what is foreseen
 * ----------------------------------------------------------------------------------------- */

static void test_the_remaining_time_is_that_of_all_rounds_to_come(void)
{
	/* 100,000 pages a second, and half as many are written: 0.5 s, 0.25, ... */
	round_of(100000, 1000, 50000);
	CU_ASSERT_TRUE(v.converges);
	CU_ASSERT_TRUE(v.remaining_ns > 980 * NS_PER_MS && v.remaining_ns < 1020 * NS_PER_MS);
	CU_ASSERT_PTR_NOT_NULL(strstr(v.why, "to go"));
	CU_ASSERT_DOUBLE_EQUAL(v.dirty_bytes_per_second, 50000 * 4096.0, 1);
	CU_ASSERT_DOUBLE_EQUAL(v.sent_bytes_per_second, 100000 * 4096.0, 1);
	/* It was right. */
	uint64_t foreseen_ns = v.remaining_ns, took_ns = 0;
	for (uint64_t left = 50000; v.action == CONVERGENCE_GO_ON; left /= 2) {
		took_ns += left / 100 * NS_PER_MS;
		round_of(left, left / 100, left / 2);
	}
	took_ns += v.remaining_ns;
	CU_ASSERT_TRUE(v.fits);
	CU_ASSERT_DOUBLE_EQUAL((double)foreseen_ns, (double)took_ns, 20e6);
}

static void test_no_end_is_foreseen_where_there_is_none(void)
{
	round_of(100000, 1000, 95000);
	CU_ASSERT_FALSE(v.converges);
	CU_ASSERT_EQUAL(v.remaining_ns, 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(v.why, "no end in sight"));
	/* Nor where the rounds that are allowed are too few. */
	setup();
	c.limits.max_rounds = 2;
	round_of(100000, 1000, 80000);
	CU_ASSERT_FALSE(v.converges);
}

static void test_the_freeze_is_not_paced(void)
{
	struct round_record r = {.pages = 100000,
		.duration_ns = NS_PER_S,
		.collect_ns = NS_PER_MS,
		.paced_ns = NS_PER_S / 100};
	/* A hundredth of its time is nothing: 100,000 a second without a limit. */
	convergence_round(&c, &r, 60000, &v);
	expect_ms(603, 604);
	/* With the limit 10,000 a second. The freeze goes at the other speed, rounds at this. */
	r.pages = 10000;
	r.paced_ns = NS_PER_S * 9 / 10;
	convergence_round(&c, &r, 40000, &v);
	expect_ms(403, 404);
	CU_ASSERT_DOUBLE_EQUAL(v.sent_bytes_per_second, 10000 * 4096.0, 1);
	/* Where nothing else was measured, what was measured is all there is. */
	setup();
	convergence_round(&c, &r, 5000, &v);
	expect_ms(503, 504);
}

static const struct test tests[] = {
	TEST(test_what_fits_in_the_limit_is_frozen),
	TEST(test_what_does_not_fit_goes_on),
	TEST(test_a_round_that_spares_much_of_the_freeze_is_worth_it),
	TEST(test_a_round_that_spared_nothing_is_the_last),
	TEST(test_the_limit_of_rounds_holds_for_those_too),
	TEST(test_rounds_that_stand_still_end_in_a_freeze),
	TEST(test_a_pause_in_shrinking_is_forgiven),
	TEST(test_the_number_of_rounds_is_a_limit),
	TEST(test_a_tiny_round_does_not_spoil_the_measured_speed),
	TEST(test_the_dirty_rate_is_over_the_interval),
	TEST(test_pages_that_are_only_read_do_not_make_sending_look_fast),
	TEST(test_pages_that_are_only_read_are_not_counted_as_sent),
	TEST(test_pages_that_only_the_freeze_reads_count),
	TEST(test_a_slow_link_stays_slow_whatever_is_read),
	TEST(test_a_link_that_became_faster_makes_no_nonsense),
	TEST(test_what_is_read_in_every_round_does_not_hide_that_rounds_shrink),
	TEST(test_what_takes_too_long_to_read_does_not_go_on_for_ever),
	TEST(test_of_written_pages_the_same_share_is_unchanged),
	TEST(test_doubtful_pages_that_did_not_change_are_not_dirty),
	TEST(test_a_recorded_send_that_converges_ends_in_the_limit),
	TEST(test_a_recorded_send_that_diverges_does_what_was_asked_for),
	TEST(test_a_working_set_that_is_written_all_the_time_stalls),
	TEST(test_a_recorded_writer_of_bursts_is_given_its_time),
	TEST(test_a_stall_far_from_the_minimum_waits_for_it),
	TEST(test_throttling_becomes_harder_until_rounds_shrink),
	TEST(test_throttling_is_no_harder_than_needed),
	TEST(test_the_hardest_throttle_that_does_not_help_ends_in_a_freeze),
	TEST(test_who_writes_slowly_is_not_throttled),
	TEST(test_who_cannot_be_throttled_is_frozen),
	TEST(test_too_many_rounds_are_a_reason_to_abort),
	TEST(test_the_remaining_time_is_that_of_all_rounds_to_come),
	TEST(test_no_end_is_foreseen_where_there_is_none),
	TEST(test_the_freeze_is_not_paced),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "convergence", tests, setup, NULL);
}
