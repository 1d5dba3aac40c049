/* SPDX-License-Identifier: MIT */
#include <math.h>
#include "base/clock.h"
#include "tests/harness.h"
#include "transport/forecast.h"

#define PAGE 4096.0
#define GIGABIT 125e6

/* Uniform writes of `rate` pages a second to `hot` pages: of those the share 1 - exp(-rate t / hot)
 * is written within t. */
enum { POINTS = 8 };
static struct dirty_point curve[POINTS];

static void make_curve(double rate, double hot)
{
	uint64_t ns = NS_PER_MS;
	for (int i = 0; i < POINTS; i++, ns *= 5) {
		double pages = hot * (1 - exp(-rate * (double)ns / 1e9 / hot));
		curve[i] = (struct dirty_point){ns, pages};
	}
}

/* A process of 1 GiB that is not compressed, on a link of 1 Gbit/s that costs nothing besides. */
static struct forecast_input gigabyte(void)
{
	return (struct forecast_input){.held_pages = 262144,
		.curve = curve,
		.npoints = POINTS,
		.wire_bytes_per_page = PAGE,
		.link_bytes_per_second = GIGABIT,
		.limits = {.max_downtime_ns = 100 * NS_PER_MS,
			.max_rounds = 30,
			.page_bytes = (uint64_t)PAGE}};
}

static void test_the_curve_is_straight_between_its_points(void)
{
	static const struct dirty_point points[] = {{1000, 10}, {2000, 30}, {4000, 40}, {5000, 35}};
	struct forecast_input in = {.held_pages = 100, .curve = points, .npoints = 3};
	static const struct {
		double ns, pages;
	} cases[] = {{0, 0}, {500, 5}, {1000, 10}, {1500, 20}, {3000, 35}, {4000, 40}, {6000, 50},
		{1e9, 100}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		CU_ASSERT_DOUBLE_EQUAL(
			forecast_dirty_pages(&in, cases[i].ns), cases[i].pages, 1e-9);
	/* Longer is never less. */
	in.npoints = 4;
	CU_ASSERT_DOUBLE_EQUAL(forecast_dirty_pages(&in, 4500), 40, 1e-9);
	CU_ASSERT_DOUBLE_EQUAL(forecast_dirty_pages(&in, 1e9), 40, 1e-9);
}

static void test_a_process_that_does_not_write_is_sent_once(void)
{
	make_curve(0, 1000);
	struct forecast_input in = gigabyte();
	in.freeze_ns = 3 * NS_PER_MS;
	struct forecast f = forecast_make(&in, 0);
	CU_ASSERT_TRUE(f.fits);
	CU_ASSERT_EQUAL(f.rounds, 2);
	CU_ASSERT_EQUAL(f.downtime_ns, 3 * NS_PER_MS);
	CU_ASSERT_DOUBLE_EQUAL(f.wire_bytes, 262144 * PAGE, 1);
	CU_ASSERT_DOUBLE_EQUAL((double)f.total_ns / 1e9, 262144 * PAGE / GIGABIT + 0.003, 1e-3);
	CU_ASSERT_EQUAL(forecast_throttle(&in), 0);
}

/* With pages that are never written twice round n has M r^n pages, r = D / B. */
static void test_rounds_shrink_by_the_ratio_of_the_rates(void)
{
	static const struct dirty_point line[] = {{NS_PER_S, 0.2 * GIGABIT / PAGE}};
	struct forecast_input in = gigabyte();
	in.curve = line;
	in.npoints = 1;
	in.limits.max_downtime_ns = 5 * NS_PER_MS;
	struct forecast f = forecast_make(&in, 0);
	double last = 262144 * pow(0.2, (double)f.rounds - 1);
	CU_ASSERT_TRUE(f.fits);
	CU_ASSERT_DOUBLE_EQUAL(f.last_pages, last, last * 1e-3);
	CU_ASSERT_DOUBLE_EQUAL(f.wire_bytes, 262144 * PAGE / (1 - 0.2), 262144 * PAGE * 1e-3);
	CU_ASSERT_DOUBLE_EQUAL(
		(double)f.downtime_ns / 1e9, last * PAGE / GIGABIT, last * PAGE / GIGABIT * 1e-2);
}

static void test_what_is_written_faster_than_sent_does_not_fit(void)
{
	make_curve(2 * GIGABIT / PAGE, 100000);
	struct forecast_input in = gigabyte();
	struct forecast f = forecast_make(&in, 0);
	CU_ASSERT_FALSE(f.fits);
	CU_ASSERT_TRUE(f.rounds <= in.limits.max_rounds + 1);
	CU_ASSERT_TRUE(f.downtime_ns > in.limits.max_downtime_ns);
}

static void test_the_least_throttle_is_found(void)
{
	make_curve(2 * GIGABIT / PAGE, 100000);
	struct forecast_input in = gigabyte();
	unsigned percent = forecast_throttle(&in);
	CU_ASSERT_TRUE(percent > 20 && percent < 100);
	CU_ASSERT_TRUE(forecast_make(&in, percent).fits);
	CU_ASSERT_FALSE(forecast_make(&in, percent - 1).fits);
	/* The freeze alone is too long. */
	in.freeze_ns = 200 * NS_PER_MS;
	CU_ASSERT_EQUAL(forecast_throttle(&in), 100);
}

/* Few pages that are written over and over cost as much as they are, not as often as it is. */
static void test_a_small_working_set_fits_at_any_rate(void)
{
	make_curve(1e7, 2000);
	struct forecast_input in = gigabyte();
	struct forecast f = forecast_make(&in, 0);
	CU_ASSERT_TRUE(f.fits);
	CU_ASSERT_DOUBLE_EQUAL(f.last_pages, 2000, 1);
}

static void test_the_slowest_part_counts(void)
{
	make_curve(0, 1000);
	struct forecast_input in = gigabyte();
	uint64_t by_link = forecast_make(&in, 0).total_ns;
	in.source_pages_per_second = GIGABIT / PAGE / 4;
	uint64_t by_source = forecast_make(&in, 0).total_ns;
	CU_ASSERT_DOUBLE_EQUAL((double)by_source / (double)by_link, 4, 0.01);
	/* What shrinks by half goes twice as fast through the link, not through the source. */
	in.wire_bytes_per_page = PAGE / 2;
	CU_ASSERT_EQUAL(forecast_make(&in, 0).total_ns, by_source);
	in.source_pages_per_second = 0;
	CU_ASSERT_DOUBLE_EQUAL((double)forecast_make(&in, 0).total_ns / (double)by_link, 0.5, 0.01);
}

static const struct test tests[] = {
	TEST(test_the_curve_is_straight_between_its_points),
	TEST(test_a_process_that_does_not_write_is_sent_once),
	TEST(test_rounds_shrink_by_the_ratio_of_the_rates),
	TEST(test_what_is_written_faster_than_sent_does_not_fit),
	TEST(test_the_least_throttle_is_found),
	TEST(test_a_small_working_set_fits_at_any_rate),
	TEST(test_the_slowest_part_counts),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "forecast", tests, NULL, NULL);
}
