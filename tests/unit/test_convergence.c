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

static const struct test tests[] = {
	TEST(test_what_fits_in_the_limit_is_frozen),
	TEST(test_what_does_not_fit_goes_on),
	TEST(test_rounds_that_stand_still_end_in_a_freeze),
	TEST(test_a_pause_in_shrinking_is_forgiven),
	TEST(test_the_number_of_rounds_is_a_limit),
	TEST(test_a_tiny_round_does_not_spoil_the_measured_speed),
	TEST(test_the_dirty_rate_is_over_the_interval),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "convergence", tests, setup, NULL);
}
