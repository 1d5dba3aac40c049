/* SPDX-License-Identifier: MIT */
/* What every CUnit binary of ours shares: a main loop that runs a table of tests, and skipping. */
#ifndef TESTS_HARNESS_H
#define TESTS_HARNESS_H

#include <stdbool.h>
#include <CUnit/CUnit.h>

/* A static analyzer cannot know that a _FATAL assertion does not return where it fails. */
#ifdef __clang_analyzer__
#include <stdlib.h>
#define CU_assertImplementation(value, line, text, file, function, fatal) \
	((value) || !(fatal) ? (void)0 : abort())
#endif

struct test {
	const char *name;
	void (*fn)(void);
};

/* clang-format off */
#define TEST(fn) {#fn, fn}
/* clang-format on */

/*
 * Runs `tests` (ended by {NULL, NULL}) as one suite; `setup` and `teardown` may be NULL and run
 * around each test. Resources belong to them: a _FATAL assertion leaves the test by longjmp.
 * argv[1], where given, picks the tests whose name contains it. Returns main's exit status: 0; 1
 * when a test failed; 77 when every test that ran was skipped.
 */
int harness_main(int argc, char **argv, const char *suite, const struct test *tests,
	void (*setup)(void), void (*teardown)(void));

/* Ends the running test as skipped: the reason is printed here and again at the suite's end. Does
 * not return. */
_Noreturn void harness_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Whether this machine is emulated, and 20 times slower (tests/vm): what is timed there says
 * nothing, and what is repeated may be repeated less. */
bool harness_is_emulated(void);

/* For loops that wait for something to happen in another thread or process: others have the
 * processor meanwhile. */
void harness_pause(void);

#endif
