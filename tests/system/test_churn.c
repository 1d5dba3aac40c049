/* SPDX-License-Identifier: MIT */
/*
 * A taste of churn in every run: a few seeds, a few seconds each; tests/soak/churn_soak runs many.
 * And the oracle is put to the test: what is left out on purpose is found.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/harness.h"
#include "tests/system/churn_run.h"

enum { AT_ONCE = 3 };

static struct churn_options options_of(uint64_t seed, double seconds)
{
	return (struct churn_options){.program = CHURN_PROGRAM,
		.seed = seed,
		.seconds = seconds,
		.memory_mib = harness_is_emulated() ? 16 : 48};
}

/* What this kernel or user cannot do is known before anything is started. */
static void skip_where_it_cannot(enum churn_verdict v, const struct churn_result *r)
{
	if (v == CHURN_CANNOT)
		harness_skip("%s", r->trouble);
}

/* Seeds side by side, each in a process of its own. Fewer, shorter and smaller where processors are
 * emulated; what is compared there counts in the soaks. */
static void run_seeds(uint64_t first, double seconds, const char *only, const char *without)
{
	pid_t pids[AT_ONCE];
	const int at_once = harness_is_emulated() ? AT_ONCE - 1 : AT_ONCE;
	if (harness_is_emulated())
		seconds /= 2;
	fflush(NULL);
	for (int i = 0; i < at_once; i++) {
		pids[i] = fork();
		if (pids[i] != 0)
			continue;
		struct churn_options o = options_of(first + (uint64_t)i, seconds);
		struct churn_result r;
		o.only = only;
		o.without = without;
		enum churn_verdict v = churn_run(&o, &r);
		printf("seed %llu: %llu sends, %llu rounds, %llu pages compared, %llu differ, %llu "
		       "mappings differ; %s %s\n",
			(unsigned long long)o.seed, (unsigned long long)r.sends,
			(unsigned long long)r.rounds, (unsigned long long)r.compared_pages,
			(unsigned long long)r.different_pages,
			(unsigned long long)r.different_mappings, r.last_words, r.trouble);
		fflush(NULL);
		_exit(v);
	}
	bool cannot = false;
	for (int i = 0; i < at_once; i++) {
		int status = -1;
		waitpid(pids[i], &status, 0);
		cannot |= WIFEXITED(status) && WEXITSTATUS(status) == CHURN_CANNOT;
		if (!cannot)
			CU_ASSERT_EQUAL(status, 0);
	}
	if (cannot)
		harness_skip("this kernel or user cannot track writes");
}

static void test_what_churns_is_sent_exactly(void)
{
	/* Huge pages come from one pool for all, which other tests fill and empty: without them. */
	run_seeds(1, 4, NULL, "hugetlb");
}

static void test_mappings_that_come_and_go_are_sent_exactly(void)
{
	run_seeds(101, 2.5,
		"map-anon,map-shared,map-private,move,move-leaving,grow,shrink,unmap,protect,write,"
		"poke,"
		"dontneed",
		NULL);
}

static void test_shared_memory_is_sent_exactly(void)
{
	run_seeds(201, 2.5,
		"map-shared,race,race-drop,remove,punch,truncate,pwrite,allocate,write,write-some,"
		"read,"
		"dontneed,pageout",
		NULL);
}

/* Until the fault has had something to leave out, which is nearly always the first time. */
static void leave_out(enum churn_fault fault, enum churn_verdict *ret, struct churn_result *r)
{
	struct churn_options o = options_of(301, 1);
	o.fault = fault;
	*ret = CHURN_SAME;
	for (int i = 0; i < 5 && *ret == CHURN_SAME; i++, o.seed++)
		*ret = churn_run(&o, r);
	skip_where_it_cannot(*ret, r);
}

static void test_a_write_that_is_left_out_is_found_out(void)
{
	enum churn_verdict v;
	struct churn_result r;
	leave_out(CHURN_FAULT_LOSE_WRITTEN, &v, &r);
	CU_ASSERT_EQUAL(v, CHURN_DIFFERS);
	CU_ASSERT_TRUE(r.different_pages > 0);
	printf("%s\n", r.trouble);
}

/* By the other end already, where that comes to count other pages than the source. */
static void test_a_drop_that_is_left_out_is_found_out(void)
{
	enum churn_verdict v;
	struct churn_result r;
	leave_out(CHURN_FAULT_LOSE_DROPS, &v, &r);
	CU_ASSERT_TRUE(
		v == CHURN_DIFFERS || (v == CHURN_TROUBLE && strstr(r.trouble, "COMMIT frame")));
	printf("%s\n", r.trouble);
}

static void test_a_mapping_that_is_left_out_is_found_out(void)
{
	enum churn_verdict v;
	struct churn_result r;
	leave_out(CHURN_FAULT_LOSE_MAPPINGS, &v, &r);
	CU_ASSERT_TRUE(
		v == CHURN_DIFFERS || (v == CHURN_TROUBLE && strstr(r.trouble, "COMMIT frame")));
	printf("%s\n", r.trouble);
}

static const struct test tests[] = {
	TEST(test_what_churns_is_sent_exactly),
	TEST(test_mappings_that_come_and_go_are_sent_exactly),
	TEST(test_shared_memory_is_sent_exactly),
	TEST(test_a_write_that_is_left_out_is_found_out),
	TEST(test_a_drop_that_is_left_out_is_found_out),
	TEST(test_a_mapping_that_is_left_out_is_found_out),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "churn", tests, NULL, NULL);
}
