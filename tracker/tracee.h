/* SPDX-License-Identifier: MIT */
/*
 * One thread of the process under ptrace. All of this is for the thread that attached; whatever it
 * still holds when it ends, the kernel lets go, and only that frees a thread that never came to a
 * stop.
 */
#ifndef TRACKER_TRACEE_H
#define TRACKER_TRACEE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>
#include "tidemark/error.h"

struct process;

enum tracee_stop {
	TRACEE_RUNS,    /* or sleeps; not in a ptrace stop */
	TRACEE_TRAPPED, /* because we asked, or because all of the process is stopped (SIGSTOP) */
	TRACEE_SIGNAL,  /* before it takes `signal` */
	TRACEE_SYSCALL, /* at the entry or the exit of a system call, after
			   tracee_resume_to_syscall() */
	TRACEE_GONE,
};

struct tracee {
	const struct process *process; /* borrowed */
	pid_t tid;
	enum tracee_stop stop;
	int signal;
};

/* -EPERM, with the name of the tracer, where a thread has one already. */
int tracee_check_untraced(const struct process *p, pid_t tid, struct tide_error *err);

/*
 * Attaches to a thread without stopping it, with `options` (PTRACE_O_*) beside
 * PTRACE_O_TRACESYSGOOD. Errors: -EPERM somebody else traces it, or we may not; -ESRCH it has ended
 * (a zombie too).
 */
int tracee_seize(struct tracee *t, const struct process *p, pid_t tid, unsigned long options,
	struct tide_error *err);

/* Asks for a TRACEE_TRAPPED stop. It comes after those of signals that are on their way. */
void tracee_interrupt(struct tracee *t);

/*
 * Waits until the thread is in a stop, or gone, and fills in t->stop. -ETIMEDOUT after
 * `deadline_ns` (CLOCK_MONOTONIC), with t->stop TRACEE_RUNS.
 */
int tracee_wait(struct tracee *t, uint64_t deadline_ns);

/* Lets the thread go on from the stop that tracee_wait() found; at a TRACEE_SIGNAL stop it takes
 * the signal. */
void tracee_resume(struct tracee *t);
void tracee_resume_to_syscall(struct tracee *t);

/* Lets go of the thread; a stopped process stays stopped. Where no stop was found (TRACEE_RUNS)
 * this does nothing, and the end of the calling thread does it. -ESRCH where it was killed in its
 * stop. */
int tracee_detach(struct tracee *t);

/*
 * Clears away a thread that ended while it was ours: until then the process could not end. The
 * leader is left to whoever is its parent.
 */
void tracee_reap(struct tracee *t);

int tracee_get_regs(const struct tracee *t, struct user_regs_struct *ret);

/* Sets all of them in one step: a thread has the old registers or the new, wherever we are killed.
 */
int tracee_set_regs(const struct tracee *t, const struct user_regs_struct *regs);

/* Is the system call that the thread is in one of the native kind, whose numbers we know? */
bool tracee_call_is_native(const struct tracee *t);

/* Where the thread will go on instead of `pc`, because that is within a restartable sequence (rseq)
 * that a stop ends; 0 where it is not. */
uint64_t tracee_rseq_abort(const struct tracee *t, uint64_t pc);

#endif
