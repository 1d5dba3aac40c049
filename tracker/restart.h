/* SPDX-License-Identifier: MIT */
/*
 * System calls that a ptrace stop would make fail with EINTR, although no handler ran. Most calls
 * that wait are begun again by the kernel after a stop; some answer a bare -EINTR instead, and for
 * those we say what the kernel says for the others: -ERESTARTNOHAND, "begin again, unless a handler
 * runs". docs/kernel.md has the table with its reasons.
 */
#ifndef TRACKER_RESTART_H
#define TRACKER_RESTART_H

#include <sys/user.h>

struct tracee;

/* For a thread in a TRACEE_TRAPPED or TRACEE_SIGNAL stop: mends its result where that is needed, in
 * the thread and in *regs. Returns 1 if so, 0 if there was nothing to mend, or a negative errno
 * (-ESRCH it died). */
int restart_mend(const struct tracee *t, struct user_regs_struct *regs);

#endif
