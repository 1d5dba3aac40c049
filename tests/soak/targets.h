/* SPDX-License-Identifier: MIT */
/* Processes that know what each thing they do must give, and notice if it does not. */
#ifndef TESTS_SOAK_TARGETS_H
#define TESTS_SOAK_TARGETS_H

#include <stdbool.h>
#include <stdint.h>

#define TARGET_THREADS_MAX 8

/* In memory shared with the harness. */
struct target_report {
	volatile uint64_t progress[TARGET_THREADS_MAX]; /* rounds that came out right */
	volatile uint64_t eintr; /* calls that said EINTR and should not have */
	volatile int wrong;
	char message[256];
};

struct target_kind {
	const char *name;
	const char *description;
	void (*run)(struct target_report
			*report); /* does not return; exits with 77 where it cannot run */
	unsigned nthreads;        /* that show progress */
	bool filter_kills;        /* its own seccomp filter may kill it, in the one place that
				     docs/kernel.md names */
};

extern const struct target_kind target_kinds[];
extern const unsigned ntarget_kinds;

#endif
