/* SPDX-License-Identifier: MIT */
/*
 * Everything that is done by ptrace, on one thread of its own: ptrace belongs to the thread that
 * attached, and this one never waits for a disk, a peer or a lock that somebody else may hold. So
 * it can always let go in time.
 */
#ifndef TRACKER_TRACER_H
#define TRACKER_TRACER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/guard.h"
#include "tidemark/error.h"

struct process;
struct tracer;

/*
 * `process` is borrowed until tracer_stop(). Calls for one tracer come from one thread at a time;
 * tracer_is_frozen() may come from any. No handler is installed and no signal's disposition
 * matters; but each stop of a thread is a SIGCHLD for the calling program, as the kernel has it,
 * and where that waits for any child (waitpid(-1)) it finds stops among the reports.
 */
int tracer_start(const struct process *process, struct tracer **ret, struct tide_error *err);

/* Lets go of whatever is held, as tracer_thaw(TRACER_RUN) would, and ends the thread. Accepts NULL.
 */
void tracer_stop(struct tracer *t);
DEFINE_GUARD(struct tracer, tracer_stop)

/*
 * What holds the process by other means (throttle.h) would wait for its threads while they are held
 * by ptrace, and the other way round: `before` is called before each stop, `after` when nothing is
 * attached any more. By the thread that asks for the stop and for its end; NULL, NULL for none.
 */
void tracer_around_stops(
	struct tracer *t, void (*before)(void *arg), void (*after)(void *arg), void *arg);

/*
 * Has the process create a userfaultfd (O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY) and takes a
 * duplicate of it; in the process itself it is closed again before it runs on. Nothing the process
 * can observe changes, whatever instruction the tracer is killed at (tracker/inject.c says how).
 * Not while frozen. Errors: -EPERM already traced, seccomp strict; -EOPNOTSUPP no vDSO, shadow
 * stacks, system call user dispatch, 32-bit code where it cannot be done; -EMFILE the process is
 * out of descriptors; -ETIMEDOUT it does not stop; -ESRCH.
 */
int tracer_inject_userfaultfd(struct tracer *t, int *ret_fd, struct tide_error *err);

/* One register set of a thread, as PTRACE_GETREGSET gives it. */
struct thread_regset {
	uint32_t note_type; /* NT_PRSTATUS, NT_PRFPREG, NT_X86_XSTATE, ... */
	uint32_t size_bytes;
	void *data;
};

/*
 * A thread as it stands in the freeze. The general registers (NT_PRSTATUS: a struct
 * user_regs_struct, always the first set) are those that it will go on with, in the kernel's way of
 * saying so: a thread out of an interrupted system call has that call in orig_rax and -ERESTART* in
 * rax, and whoever sets both in a stopped thread has the kernel begin the call again.
 * -ERESTART_RESTARTBLOCK means nothing elsewhere: make it -EINTR there.
 */
struct thread_state {
	pid_t tid;
	char name[16];
	uint64_t signal_mask;
	int32_t pending_signal; /* NT_PRSTATUS pr_cursig; 0 */
	struct thread_regset *regsets;
	size_t nregsets;
};

struct freeze_report {
	uint64_t stopped_at_ns;  /* CLOCK_MONOTONIC: the first thread was asked to stop */
	uint64_t all_stopped_ns; /* ... the last one stood */
	size_t nthreads;
	size_t eintr_rewritten; /* threads whose call would have shown a bare EINTR */
};

/*
 * Stops every thread, until no new one appears, so that none runs an instruction until
 * tracer_thaw(). From the first stop on `timeout_ns` runs: when it is over the tracer thaws
 * (TRACER_RUN) by itself, whoever is blocked, and tracer_thaw() then returns -ETIMEDOUT. A process
 * that is already stopped (SIGSTOP) stays so afterwards. Errors as above; on failure nothing is
 * held.
 */
int tracer_freeze(
	struct tracer *t, uint64_t timeout_ns, struct freeze_report *ret, struct tide_error *err);

/* Still frozen by tracer_freeze()? False once the timeout has let it go. */
bool tracer_is_frozen(struct tracer *t);

/* From here on the timeout no longer applies (a decision was taken that must be carried out).
 * -ETIMEDOUT where it has already let go. */
int tracer_freeze_keep(struct tracer *t, struct tide_error *err);

/* The threads in the freeze, the leader first. The caller frees with thread_states_free(). */
int tracer_thread_states(
	struct tracer *t, struct thread_state **ret, size_t *ret_n, struct tide_error *err);
void thread_states_free(struct thread_state *states, size_t n);

enum tracer_thaw_mode {
	TRACER_RUN,  /* go on as if nobody had looked */
	TRACER_STOP, /* SIGSTOP is pending before the first thread is let go: not one instruction
			runs */
	TRACER_KILL, /* SIGKILL: not one instruction runs */
};

/* Ends the freeze. -ETIMEDOUT where the timeout has already ended it (`mode` was not applied then),
 * -ESRCH where the process is gone. */
int tracer_thaw(struct tracer *t, enum tracer_thaw_mode mode, struct tide_error *err);

#endif
