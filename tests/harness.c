/* SPDX-License-Identifier: MIT */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <CUnit/Basic.h>
#include "tests/harness.h"

#define SKIPS_MAX 64

static struct {
	const char *name;
	char reason[256];
} skips[SKIPS_MAX];
static unsigned nskips;

static const struct test *all_tests;
static void (*test_setup)(void), (*test_teardown)(void);
static jmp_buf skip_point;

/*
 * CUnit runs functions without an argument, so the one that runs is found by the name of the test
 * that CUnit says is current. A skip leaves by longjmp to here.
 */
static void run_current(void)
{
	const char *name = CU_get_current_test()->pName;
	const struct test *t = all_tests;
	while (strcmp(t->name, name) != 0)
		t++;
	if (setjmp(skip_point) == 0)
		t->fn();
}

_Noreturn void harness_skip(const char *fmt, ...)
{
	if (nskips < SKIPS_MAX) {
		skips[nskips].name = CU_get_current_test()->pName;
		va_list args;
		va_start(args, fmt);
		vsnprintf(skips[nskips].reason, sizeof(skips[nskips].reason), fmt, args);
		va_end(args);
		printf("skipped: %s\n", skips[nskips].reason);
		nskips++;
	}
	longjmp(skip_point, 1);
}

bool harness_is_emulated(void)
{
	return getenv("TIDEMARK_EMULATED") != NULL;
}

void harness_pause(void)
{
	/* An emulated processor that goes round in a loop takes its time from another. */
	if (harness_is_emulated())
		usleep(500);
	else
		sched_yield();
}

int harness_main(int argc, char **argv, const char *suite, const struct test *tests,
	void (*setup)(void), void (*teardown)(void))
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	all_tests = tests;
	test_setup = setup;
	test_teardown = teardown;
	if (CU_initialize_registry() != CUE_SUCCESS)
		return 1;

	CU_pSuite s = CU_add_suite_with_setup_and_teardown(suite, NULL, NULL, setup, teardown);
	unsigned added = 0;
	for (const struct test *t = tests; t->name; t++) {
		if (argc > 1 && !strstr(t->name, argv[1]))
			continue;
		if (!CU_add_test(s, t->name, run_current))
			return 1;
		added++;
	}
	if (added == 0) {
		fprintf(stderr, "%s: no test's name contains '%s'\n", suite, argv[1]);
		return 1;
	}

	CU_basic_set_mode(CU_BRM_VERBOSE);
	CU_basic_run_tests();
	unsigned failed = CU_get_number_of_failures();
	for (unsigned i = 0; i < nskips; i++)
		printf("skipped %s: %s\n", skips[i].name, skips[i].reason);
	/* The names are CUnit's, and go with it. */
	CU_cleanup_registry();

	if (failed)
		return 1;
	return nskips == added ? 77 : 0;
}
