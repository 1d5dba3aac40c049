/* SPDX-License-Identifier: MIT */
/* The figures of the benchmarks' loads: what is counted in which phase, and quantiles. */
#include <string.h>
#include "bench/workloads/content.h"
#include "bench/workloads/phases.h"
#include "tests/harness.h"

static struct phases load;

static void set_up(void)
{
	memset(&load, 0, sizeof(load));
	load.deadline_ns = 1000;
	phases_begin(&load, "start");
}

static void one(uint64_t latency_ns)
{
	phases_done(&load, phases_due(&load), latency_ns);
}

static bool is_near(uint64_t value, uint64_t expected)
{
	uint64_t allowed = expected / 32 + 1;
	return value + allowed >= expected && value <= expected + allowed;
}

static void test_quantiles_are_right_to_three_percent(void)
{
	set_up();
	for (uint64_t ns = 1; ns <= 100000; ns++)
		one(ns * 37);
	const struct phase *p = &load.phases[0];
	CU_ASSERT_TRUE(is_near(phase_quantile_ns(p, 0.5), UINT64_C(50000) * 37));
	CU_ASSERT_TRUE(is_near(phase_quantile_ns(p, 0.99), UINT64_C(99000) * 37));
	CU_ASSERT_EQUAL(p->max_ns, UINT64_C(100000) * 37);
}

static void test_quantiles_of_every_size_of_time(void)
{
	for (unsigned shift = 0; shift < 64; shift++) {
		uint64_t ns = UINT64_C(1) << shift;
		set_up();
		one(ns);
		one(UINT64_MAX);
		CU_ASSERT_TRUE(is_near(phase_quantile_ns(&load.phases[0], 0.5), ns));
	}
}

static void test_one_slow_operation_of_a_thousand_shows_in_the_longest_alone(void)
{
	set_up();
	for (int i = 0; i < 999; i++)
		one(100);
	one(1000000);
	const struct phase *p = &load.phases[0];
	CU_ASSERT_TRUE(is_near(phase_quantile_ns(p, 0.99), 100));
	CU_ASSERT_EQUAL(p->max_ns, 1000000);
	CU_ASSERT_EQUAL(p->in_time, 999);
}

static void test_an_operation_counts_in_the_phase_in_which_it_was_due(void)
{
	set_up();
	size_t phase = phases_due(&load);
	phases_begin(&load, "during");
	one(5);
	phases_done(&load, phase, 2000);
	CU_ASSERT_EQUAL(load.phases[0].done, 1);
	CU_ASSERT_EQUAL(load.phases[0].in_time, 0);
	CU_ASSERT_EQUAL(load.phases[1].done, 1);
	CU_ASSERT_EQUAL(load.phases[1].in_time, 1);
	CU_ASSERT_NOT_EQUAL(load.phases[0].ended_ns, 0);
	CU_ASSERT_EQUAL(load.phases[1].ended_ns, 0);
}

static void test_what_was_given_up_was_due(void)
{
	set_up();
	one(5);
	phases_missed(&load, 9);
	CU_ASSERT_EQUAL(load.phases[0].due, 10);
	CU_ASSERT_EQUAL(load.phases[0].done, 1);
	CU_ASSERT_EQUAL(load.phases[0].missed, 9);
}

static void test_a_phase_that_begins_again_begins_at_zero(void)
{
	set_up();
	for (int i = 0; i < 100; i++) {
		phases_begin(&load, "during");
		one(5);
		phases_begin(&load, "after");
	}
	CU_ASSERT_EQUAL(load.len, 3);
	CU_ASSERT_EQUAL(load.phases[1].done, 1);
	CU_ASSERT_EQUAL(load.phases[2].done, 0);
}

static void test_commands_are_obeyed(void)
{
	bool ended = false;
	set_up();
	CU_ASSERT_TRUE(phases_obey(&load, "phase during", &ended));
	CU_ASSERT_STRING_EQUAL(load.phases[1].name, "during");
	CU_ASSERT_FALSE(phases_obey(&load, "rate 5", &ended));
	CU_ASSERT_FALSE(ended);
}

static size_t zero_bytes(const uint8_t *page)
{
	size_t zeros = 0;
	for (size_t i = 0; i < CONTENT_PAGE; i++)
		zeros += page[i] == 0;
	return zeros;
}

static void test_content_is_what_it_is_called(void)
{
	static uint8_t page[CONTENT_PAGE], again[CONTENT_PAGE], later[CONTENT_PAGE];
	unsigned zero_pages = 0;
	for (uint64_t i = 0; i < 1000; i++) {
		content_by_name("zero")->fill(page, i, 1);
		zero_pages += zero_bytes(page) == CONTENT_PAGE;
	}
	CU_ASSERT_TRUE(zero_pages > 850 && zero_pages < 950);

	static const char *const names[] = {"text", "half", "random"};
	for (size_t i = 0; i < 3; i++) {
		const struct content *content = content_by_name(names[i]);
		content->fill(page, 7, 1);
		content->fill(again, 7, 1);
		content->fill(later, 7, 2);
		CU_ASSERT_EQUAL(memcmp(page, again, CONTENT_PAGE), 0);
		CU_ASSERT_NOT_EQUAL(memcmp(page, later, CONTENT_PAGE), 0);
	}
	CU_ASSERT_PTR_NULL(content_by_name("nothing"));
}

static const struct test tests[] = {
	TEST(test_quantiles_are_right_to_three_percent),
	TEST(test_quantiles_of_every_size_of_time),
	TEST(test_one_slow_operation_of_a_thousand_shows_in_the_longest_alone),
	TEST(test_an_operation_counts_in_the_phase_in_which_it_was_due),
	TEST(test_what_was_given_up_was_due),
	TEST(test_a_phase_that_begins_again_begins_at_zero),
	TEST(test_commands_are_obeyed),
	TEST(test_content_is_what_it_is_called),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "load_phases", tests, NULL, NULL);
}
