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
	/* 100,000 pages a second: 5,000 take 50 ms. */
	round_of(100000, 1000, 5000);
	CU_ASSERT_TRUE(v.freeze);
	CU_ASSERT_TRUE(v.fits);
	CU_ASSERT_EQUAL(v.expected_downtime_ns, 53 * NS_PER_MS);
}

static void test_what_does_not_fit_goes_on(void)
{
	round_of(100000, 1000, 50000);
	CU_ASSERT_FALSE(v.freeze);
	round_of(50000, 500, 25000);
	CU_ASSERT_FALSE(v.freeze);
	round_of(25000, 250, 9000);
	CU_ASSERT_TRUE(v.freeze);
}

static void test_rounds_that_stand_still_end_in_a_freeze(void)
{
	/* As recorded of a writer at the link's speed: each round leaves as much as the last. */
	round_of(100000, 1000, 50000);
	for (int i = 0; i < 2; i++) {
		round_of(50000, 500, 49000 + i);
		CU_ASSERT_FALSE(v.freeze);
	}
	round_of(50000, 500, 50000);
	CU_ASSERT_TRUE(v.freeze);
	CU_ASSERT_FALSE(v.fits);
	CU_ASSERT_PTR_NOT_NULL(strstr(v.why, "do not shrink"));
}

static void test_a_pause_in_shrinking_is_forgiven(void)
{
	round_of(100000, 1000, 50000);
	round_of(50000, 500, 50000);
	round_of(50000, 500, 50000);
	round_of(50000, 500, 30000);
	CU_ASSERT_FALSE(v.freeze);
	round_of(30000, 300, 29000);
	CU_ASSERT_FALSE(v.freeze);
}

static void test_the_number_of_rounds_is_a_limit(void)
{
	uint64_t left = 100000;
	for (int i = 0; i < 9; i++) {
		round_of(100000, 1000, left);
		CU_ASSERT_FALSE(v.freeze);
		left = left * 85 / 100;
	}
	round_of(100000, 1000, left);
	CU_ASSERT_TRUE(v.freeze);
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
		CU_ASSERT_FALSE(v.freeze);
		left = left * 3 / 4;
	}
}

static void test_what_takes_too_long_to_read_does_not_go_on_for_ever(void)
{
	mixed_round(1000000, 0, 0, 10000, 1000000);
	int rounds = 0;
	for (; !v.freeze && rounds < 8; rounds++)
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

static const struct test tests[] = {
	TEST(test_what_fits_in_the_limit_is_frozen),
	TEST(test_what_does_not_fit_goes_on),
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
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "convergence", tests, setup, NULL);
}
