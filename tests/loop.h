/* SPDX-License-Identifier: MIT */
/* What the tests of things around an event loop share: a loop a test, waiting for events, a folder
 * to leave things in. */
#ifndef TESTS_LOOP_H
#define TESTS_LOOP_H

#include <ftw.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>
#include "tests/harness.h"

static uv_loop_t loop;
static char folder[64]; /* 0700, removed after the test */

static inline void loop_setup(void)
{
	signal(SIGPIPE, SIG_IGN);
	CU_ASSERT_EQUAL_FATAL(uv_loop_init(&loop), 0);
	snprintf(folder, sizeof(folder), "/tmp/tidemark-test-XXXXXX");
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
}

static inline int loop_remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	return remove(path);
}

/* A test closes what it opened: a handle that is still there is a leak. */
static inline void loop_teardown(void)
{
	uv_run(&loop, UV_RUN_DEFAULT);
	CU_ASSERT_EQUAL(uv_loop_close(&loop), 0);
	nftw(folder, loop_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Runs the loop until *flag. Fails the test where nothing is left that could set it. */
static inline void loop_until(const bool *flag)
{
	while (!*flag && uv_run(&loop, UV_RUN_ONCE))
		;
	CU_ASSERT_TRUE(*flag);
}

/* Lets everything that is already due happen. */
static inline void loop_settle(void)
{
	for (int i = 0; i < 64; i++)
		uv_run(&loop, UV_RUN_NOWAIT);
}

static inline void loop_set_flag(void *flag)
{
	*(bool *)flag = true;
}

#endif
