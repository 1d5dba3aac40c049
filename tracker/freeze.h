/* SPDX-License-Identifier: MIT */
/* Holding all threads of a process. For the thread that attaches; tracer.h is what others use. */
#ifndef TRACKER_FREEZE_H
#define TRACKER_FREEZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/user.h>
#include "tidemark/error.h"
#include "tracker/slots.h"
#include "tracker/tracee.h"
#include "tracker/tracer.h"

struct process;

struct held_thread {
	struct tracee tracee;
	struct user_regs_struct regs; /* what it will go on with */
	bool mended;                  /* by restart_mend() */
	uint64_t seen_ns;             /* when it stood; it may have begun its call just before */
};

struct freeze {
	const struct process *process;
	const struct slots *slots; /* where a killed tracer's stub may still run; borrowed */
	struct held_thread *threads;
	size_t n, cap;
	size_t nsorted; /* the first ones are in order of tid */
	uint64_t deadline_ns;
	bool keep_time; /* let calls that are begun again wait for no more than is left of their
			   time */
};

/*
 * Stops all threads, within `timeout_ns` of the first. On success f->deadline_ns is when the hold
 * should end. Errors: -ETIMEDOUT, -ESRCH, -EPERM, -EOPNOTSUPP, -ENOMEM; then freeze_let_go() is
 * due, and the end of the calling thread, which alone frees a thread that did not stop.
 */
int freeze_hold(
	struct freeze *f, uint64_t timeout_ns, struct freeze_report *ret, struct tide_error *err);

/* Ends it. -ESRCH where the process is gone. */
int freeze_let_go(struct freeze *f, enum tracer_thaw_mode mode);

int freeze_states(
	const struct freeze *f, struct thread_state **ret, size_t *ret_n, struct tide_error *err);

/* Frees the list, not the threads. */
void freeze_release(struct freeze *f);

#endif
