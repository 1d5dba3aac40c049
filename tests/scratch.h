/* SPDX-License-Identifier: MIT */
/* A folder of a test's own, under $TMPDIR or /tmp. */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H

#define SCRATCH_PATH_MAX 4096

/* Makes it, empty, and writes its path. A failure fails the test. */
void scratch_make(char path[SCRATCH_PATH_MAX]);

/* Removes it with everything in it. Nothing where path is "". */
void scratch_remove(char path[SCRATCH_PATH_MAX]);

#endif
