/* SPDX-License-Identifier: MIT */
/*
 * Who lets go of a throttled process when its tracker cannot any more. A process of its own, forked
 * from the tracker, in its own session, deaf to every signal but SIGKILL, that holds nothing but
 * what it needs; it ends when the tracker ends, in whatever way. Where the throttle is one of short
 * stops it makes these, too: a tracker that is killed must not leave one unended.
 *
 * What the tracker holds in memory the guard shares until one of them changes it (fork(2)).
 */
#ifndef TRACKER_THROTTLE_GUARD_H
#define TRACKER_THROTTLE_GUARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "tracker/throttle_cgroup.h"

struct process;

/* In memory that both have. */
struct guard_shared {
	atomic_bool is_stopped;   /* by the guard: whoever outlives it is to send SIGCONT */
	atomic_bool is_in_cgroup; /* whoever outlives the tracker is to restore it */
};

struct throttle_guard {
	pid_t pid;
	int pid_fd;    /* readable when it has ended */
	int socket;    /* to it */
	int target_fd; /* the process's pidfd: borrowed */
	struct guard_shared *shared;
};

/* `cgroup` is NULL for short stops. 0 or -errno. */
int throttle_guard_start(
	const struct process *p, const struct throttle_cgroup *cgroup, struct throttle_guard *ret);

/* What the guard is told. */
struct throttle_word {
	unsigned percent;
	double cpus; /* that the process keeps busy when it is left alone */
};

/* Short stops: takes so much of its time from the process from now on; 0 percent: it runs when this
 * returns. -EPIPE where the guard is gone, -ETIMEDOUT where it does not answer. */
int throttle_guard_set(struct throttle_guard *g, struct throttle_word word);

/* The guard is dead: ends the stop that it left, if it left one. */
void throttle_guard_let_run(struct throttle_guard *g);

/* Ends it and waits for that; no stop of its is in force then. */
void throttle_guard_stop(struct throttle_guard *g);

/* Pure: how long to let it run at once; and how long it is to be stopped beyond a time of ns, in
 * which it had a processor for used_ns, all threads together. Negative where it used less than its
 * part. */
uint64_t throttle_run_ns(unsigned percent);
int64_t throttle_stop_ns(struct throttle_word word, uint64_t ns, uint64_t used_ns);

#endif
