/* SPDX-License-Identifier: MIT */
/*
 * Slows a process that is followed, evenly, so that it writes less. By cpu.max of a cgroup where
 * that can be had (throttle_cgroup.h), else by short stops (SIGSTOP, SIGCONT), never by ptrace
 * stops. It always lets go again: when it is told to, when the tracker ends in whatever way, and
 * when the guard that sees to that (throttle_guard.h) ends itself. Only where tracker and guard are
 * both killed at once is nobody left.
 *
 * Short stops can be noticed: a parent that waits with WUNTRACED hears of them, a handler of
 * SIGCONT runs, some calls end with EINTR (signal(7), "Interruption of system calls and library
 * functions by stop signals"). A process that waits is not stopped.
 */
#ifndef TRACKER_THROTTLE_H
#define TRACKER_THROTTLE_H

#include <stdbool.h>
#include <sys/types.h>
#include "base/guard.h"
#include "tidemark/error.h"

struct process;
struct throttle;

/* Begins to watch what the process uses when it is left alone; nothing is slowed yet. `p` is kept,
 * and must outlive it. 0 or -ENOMEM. */
int throttle_new(const struct process *p, struct throttle **ret, struct tide_error *err);
/* Lets go. NULL is fine. */
void throttle_free(struct throttle *t);
DEFINE_GUARD(struct throttle, throttle_free)

/*
 * Takes so much of its processor time away, 1 to 99 percent of what it used when it was left alone
 * (watched for a tenth of a second at least, for which it waits); 0 lets go of it: it runs freely
 * when this returns, and that never fails. Else -ECANCELED where the process is stopped already, by
 * its user or a debugger: who stopped it will not see it go on by us. -EPIPE where the guard ended:
 * nothing is slowed any more, and will not be. Or what making the guard says; nothing is slowed
 * then. One thread.
 */
int throttle_set(struct throttle *t, unsigned percent, struct tide_error *err);

/* Lets go for a while, and takes it up again, where that can be. */
void throttle_pause(struct throttle *t);
void throttle_resume(struct throttle *t);

/* It was to be slowed and is not any more, because the guard ended or would not do it. NULL: no. */
bool throttle_is_lost(const struct throttle *t);

/* "cpu.max" or "short stops". */
const char *throttle_means(const struct throttle *t);
/* For tests. */
pid_t throttle_guard_pid(const struct throttle *t);

#endif
