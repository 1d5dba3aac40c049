/* SPDX-License-Identifier: MIT */
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <CUnit/CUnit.h>
#include "tests/scratch.h"

void scratch_make(char path[SCRATCH_PATH_MAX])
{
	const char *base = getenv("TMPDIR");
	snprintf(path, SCRATCH_PATH_MAX, "%s/tidemark-test-XXXXXX", base && *base ? base : "/tmp");
	CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(path));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

void scratch_remove(char path[SCRATCH_PATH_MAX])
{
	if (!path[0])
		return;
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	path[0] = '\0';
}
