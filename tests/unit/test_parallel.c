/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include "base/parallel.h"
#include "tests/harness.h"

enum { N = 1000 };

static atomic_int done[N];
static pthread_barrier_t meeting;

static void setup(void)
{
	for (size_t i = 0; i < N; i++)
		done[i] = 0;
}

static int note(void *arg, size_t i)
{
	(void)arg;
	done[i]++;
	return 0;
}

static void test_each_is_done_once(void)
{
	static const unsigned threads[] = {1, 2, 7, 1000};
	for (size_t t = 0; t < sizeof(threads) / sizeof(threads[0]); t++) {
		setup();
		CU_ASSERT_EQUAL(parallel_for(threads[t], N, note, NULL), 0);
		int wrong = 0;
		for (size_t i = 0; i < N; i++)
			wrong += done[i] != 1;
		CU_ASSERT_EQUAL(wrong, 0);
	}
	CU_ASSERT_EQUAL(parallel_for(4, 0, note, NULL), 0);
}

static int meet(void *arg, size_t i)
{
	(void)arg;
	(void)i;
	pthread_barrier_wait(&meeting);
	return 0;
}

static void test_they_work_at_the_same_time(void)
{
	/* Would wait for ever where one thread did one after the other. */
	pthread_barrier_init(&meeting, NULL, 3);
	CU_ASSERT_EQUAL(parallel_for(3, 3, meet, NULL), 0);
	pthread_barrier_destroy(&meeting);
}

static int fail_some(void *arg, size_t i)
{
	(void)arg;
	done[i]++;
	return i == 10 ? -EIO : i > 10 ? -ENOMEM : 0;
}

static void test_the_first_failure_is_told_and_ends_it(void)
{
	CU_ASSERT_EQUAL(parallel_for(1, N, fail_some, NULL), -EIO);
	CU_ASSERT_EQUAL(done[10], 1);
	CU_ASSERT_EQUAL(done[11], 0);
	for (int k = 0; k < 100; k++) {
		setup();
		CU_ASSERT_EQUAL(parallel_for(4, N, fail_some, NULL), -EIO);
		CU_ASSERT_EQUAL(done[N - 1], 0);
	}
}

static int look_at_mask(void *arg, size_t i)
{
	(void)i;
	pthread_barrier_wait(&meeting);
	sigset_t mask;
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	if (sigismember(&mask, SIGUSR1))
		atomic_fetch_add((atomic_int *)arg, 1);
	return 0;
}

static void test_signals_stay_with_the_caller(void)
{
	atomic_int blocked = 0;
	pthread_barrier_init(&meeting, NULL, 2);
	CU_ASSERT_EQUAL(parallel_for(2, 2, look_at_mask, &blocked), 0);
	pthread_barrier_destroy(&meeting);
	CU_ASSERT_EQUAL(blocked, 1);
}

static const struct test tests[] = {
	TEST(test_each_is_done_once),
	TEST(test_they_work_at_the_same_time),
	TEST(test_the_first_failure_is_told_and_ends_it),
	TEST(test_signals_stay_with_the_caller),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "parallel", tests, setup, NULL);
}
