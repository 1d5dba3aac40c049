/* SPDX-License-Identifier: MIT */
#include <stdbool.h>
#include "tests/harness.h"
#include "transport/pacing.h"

#define MB 1000000ull
#define START_NS (1000 * NS_PER_S)

static struct pacing p;

static void setup(void)
{
	p = (struct pacing){0};
	pacing_set(&p, 200 * MB);
}

static void test_without_a_limit_everything_goes_at_once(void)
{
	pacing_set(&p, 0);
	for (int i = 0; i < 100; i++)
		CU_ASSERT_EQUAL(pacing_take(&p, 1000 * MB, START_NS), START_NS);
}

static void test_frames_follow_each_other_at_the_limit(void)
{
	CU_ASSERT_TRUE(pacing_take(&p, MB, START_NS) <= START_NS);
	uint64_t second_ns = pacing_take(&p, MB, START_NS);
	for (unsigned i = 1; i <= 10; i++) {
		/* 1 MB at 200 MB/s takes 5 ms. */
		uint64_t at_ns = pacing_take(&p, MB, START_NS);
		CU_ASSERT_TRUE(at_ns - second_ns >= i * 5 * NS_PER_MS);
		CU_ASSERT_TRUE(at_ns - second_ns <= i * 5 * NS_PER_MS + 100);
	}
}

/* A sender that waits for each grant, and then is late by some. Returns when the last one went. */
static uint64_t send_all(
	uint64_t total, uint64_t frame, uint64_t late_ns, uint64_t *ret_most_in_10_ms)
{
	enum { FRAMES_MAX = 20000 };
	static uint64_t went_ns[FRAMES_MAX];
	uint64_t now = START_NS, n = 0;
	*ret_most_in_10_ms = 0;
	for (uint64_t sent = 0; sent < total; sent += frame, n++) {
		uint64_t go = pacing_take(&p, frame, now);
		now = (go > now ? go : now) + late_ns;
		went_ns[n] = now;
	}
	for (uint64_t i = 0; i < n; i++) {
		uint64_t k = i;
		while (k < n && went_ns[k] - went_ns[i] < 10 * NS_PER_MS)
			k++;
		if ((k - i) * frame > *ret_most_in_10_ms)
			*ret_most_in_10_ms = (k - i) * frame;
	}
	return now;
}

static void test_it_is_neither_slower_nor_faster_in_the_long_run(void)
{
	uint64_t most;
	uint64_t end = send_all(1000 * MB, MB, 0, &most);
	CU_ASSERT_DOUBLE_EQUAL((double)(end - START_NS), 5e9, 10e6);
	/* 10 ms of it, what may be saved, and a frame. */
	CU_ASSERT_TRUE(most <= 2 * MB + 2 * MB / 5 + MB);
}

static void test_small_frames_go_as_evenly_as_large_ones(void)
{
	uint64_t most;
	uint64_t end = send_all(50 * MB, 4096, 0, &most);
	CU_ASSERT_DOUBLE_EQUAL((double)(end - START_NS), 250e6, 5e6);
	CU_ASSERT_TRUE(most <= 2 * MB + 2 * MB / 5 + 4096);
}

static void test_who_wakes_late_catches_up(void)
{
	uint64_t most;
	/* A millisecond late each time, where frames come every 5 ms. */
	uint64_t end = send_all(1000 * MB, MB, NS_PER_MS, &most);
	CU_ASSERT_DOUBLE_EQUAL((double)(end - START_NS), 5e9, 10e6);
}

static void test_idle_time_is_not_saved_for_a_burst(void)
{
	(void)pacing_take(&p, MB, START_NS);
	/* After a second of silence: what went at once. */
	uint64_t now = START_NS + NS_PER_S, at_once = 0;
	while (pacing_take(&p, 4096, now) <= now)
		at_once += 4096;
	CU_ASSERT_TRUE(at_once <= 200 * MB * PACING_BURST_NS / NS_PER_S + 2 * 4096);
	CU_ASSERT_TRUE(at_once >= 200 * MB * PACING_BURST_NS / NS_PER_S - 4096);
}

static void test_lifting_the_limit_frees_at_once(void)
{
	for (int i = 0; i < 100; i++)
		(void)pacing_take(&p, MB, START_NS);
	pacing_set(&p, 0);
	CU_ASSERT_EQUAL(pacing_take(&p, 100 * MB, START_NS), START_NS);
}

static void test_an_absurd_limit_does_not_wrap(void)
{
	pacing_set(&p, 1);
	(void)pacing_take(&p, UINT64_MAX, START_NS);
	CU_ASSERT_TRUE(pacing_take(&p, 1, START_NS) > START_NS + NS_PER_S);
}

static const struct test tests[] = {
	TEST(test_without_a_limit_everything_goes_at_once),
	TEST(test_frames_follow_each_other_at_the_limit),
	TEST(test_it_is_neither_slower_nor_faster_in_the_long_run),
	TEST(test_small_frames_go_as_evenly_as_large_ones),
	TEST(test_who_wakes_late_catches_up),
	TEST(test_idle_time_is_not_saved_for_a_burst),
	TEST(test_lifting_the_limit_frees_at_once),
	TEST(test_an_absurd_limit_does_not_wrap),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "pacing", tests, setup, NULL);
}
