/* SPDX-License-Identifier: MIT */
/*
 * What a page can go through, as tables of expectations that all backends share. A row says what a
 * process does to its memory (commands of tests/workloads/stages.c, "!" before those of another
 * process) and what a collect must make of it. Each row is played in several ways; whatever the row
 * says, what a receiver holds is compared with the process after each collect.
 */
#ifndef TESTS_SYSTEM_LIFECYCLE_H
#define TESTS_SYSTEM_LIFECYCLE_H

#include "proto/page_source.h"
#include "tests/system/fixture.h"

enum row_flag {
	/* A change of shared memory that leaves no trace between two looks: rounds may miss it, the
	 * freeze must not. */
	NO_TRACE = 1 << 0,
	/* Needs huge pages of the explicit kind, or KSM: set up for the row, and put back. */
	NEEDS_HUGETLB = 1 << 1,
	NEEDS_KSM = 1 << 2,
	/* Without swap there is nothing to see. */
	NEEDS_SWAP = 1 << 3,
	/* With soft-dirty the first look says that it cannot be followed. */
	REFUSED_BY_SOFT_DIRTY = 1 << 4,
};

/*
 * Lists of pages: "a 2-5,9; b 0". Areas overlap where a row maps one over another; what counts is
 * the place. A page of an area that is in no list is neither written nor dropped.
 */
struct row {
	const char *name;
	const char *before; /* before the first collect */
	const char *change; /* between two collects, or between the last round and the freeze */
	const char *later;  /* after that: is it still followed? */

	const char *written; /* must be found */
	const char *gone;    /* must be dropped: DROP_GONE */
	const char *back;    /* must be dropped: DROP_BACK_TO_FILE */

	const char *more;   /* may be found, too */
	const char *coarse; /* ... and with soft-dirty, which knows 2 MiB of a huge page and the
			       whole of a new mapping */
	const char *again;  /* cannot be watched: may be found in every round */
	const char *coarse_again; /* ... with soft-dirty */
	unsigned flags;
	const char *to_come; /* what is missing yet: the row is skipped */
};

/* Ended by a row without a name. */
extern const struct row rows_private[];
extern const struct row rows_file[];
extern const struct row rows_shared[];
extern const struct row rows_special[];

/* Tests that are no row, for each backend. Ended by a NULL name. */
struct life_test {
	const char *name;
	void (*fn)(const char *backend);
};
extern const struct life_test life_tests[];

/* The process that is followed, and its areas by letter, as it told them: bytes, pages. */
struct life_area {
	uint64_t start, pages;
};
extern struct child *life_target;
extern struct life_area life_areas[26];
extern struct page_source *life_source;

/* Starts the target anew; ends what was before. */
void life_start(void);
/* Runs commands ("; " between them); skips the test where the kernel has not got something. The
 * last answer, behind "ok ". */
/* Waits until a process is in a system call, or gone. `call` is how its line in /proc/PID/syscall
 * begins: the number, then arguments. */
void wait_until_in_call(pid_t pid, const char *call);
const char *life_run(const char *script);
/* Follows the target. */
void life_follow(const char *backend);
/* Collects, applies, holds what a receiver has against the process, settles. Valid until the next.
 */
const struct change_set *life_collect(void);
/* Freezes, does all that once more, and thaws; the process must go on. */
void life_finish(void);
/* How many pages of an area the last collect found to be written. */
uint64_t life_written(char area);
/* Lets go. */
void life_release(void);

#endif
