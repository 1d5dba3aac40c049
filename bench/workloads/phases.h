/* SPDX-License-Identifier: MIT */
/*
 * What a load does in each phase of a benchmark: how many operations, and how long each took since
 * it was due. A load reads commands on its standard input, a line each:
 *
 *     phase NAME    what follows counts as NAME, from zero
 *     report        print all phases as one JSON object on a line
 *     quit          report and end, as the end of the input does
 *
 * and others that it adds itself. Times are in nanoseconds of CLOCK_MONOTONIC.
 */
#ifndef BENCH_WORKLOADS_PHASES_H
#define BENCH_WORKLOADS_PHASES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	PHASES_MAX = 16,
	HISTOGRAM_STEPS = 32, /* to a doubling: a quantile is right to 3 % */
	HISTOGRAM_BUCKETS = 64 * HISTOGRAM_STEPS,
};

struct phase {
	char name[32];
	uint64_t began_ns;
	uint64_t ended_ns; /* 0: not yet */
	uint64_t due;      /* operations that should have been done in it */
	uint64_t done;     /* of those */
	uint64_t in_time;  /* of those, within the deadline */
	uint64_t missed;   /* of those due: never begun, as the load had fallen too far behind */
	uint64_t max_ns;
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

struct phases {
	struct phase phases[PHASES_MAX];
	size_t len, current;
	uint64_t deadline_ns;
};

uint64_t phases_now_ns(void);

/* Ends the current phase and begins another. One of that name is forgotten; so is the last one
 * where there are PHASES_MAX. */
void phases_begin(struct phases *p, const char *name);

/* An operation is due now, in the current phase: its number, for phases_done(). */
size_t phases_due(struct phases *p);

/* An operation that was due in `phase` is done, `latency_ns` after it was due. */
void phases_done(struct phases *p, size_t phase, uint64_t latency_ns);

/* So many operations of the current phase were due and are given up. */
void phases_missed(struct phases *p, uint64_t count);

/* One JSON object on one line of standard output, flushed. */
void phases_print(const struct phases *p);

/* The latency that the share `quantile` (0 to 1) of the operations stayed below; 0 for none. */
uint64_t phase_quantile_ns(const struct phase *p, double quantile);

/* Waits for a command line on standard input until `until_ns` (0: does not wait). Returns the line
 * without its end, which stays valid until the next call; NULL where there is none yet. At the end
 * of the input that is "quit". */
const char *phases_command(uint64_t until_ns);

/* Does phase, report and quit, and sets *ended on the last; false: the command is another one. */
bool phases_obey(struct phases *p, const char *command, bool *ended);

#endif
