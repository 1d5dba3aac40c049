/* SPDX-License-Identifier: MIT */
/*
 * A userfaultfd belongs to the memory of the process that creates it, so the process must do it, in
 * a thread that is in the middle of something else, and must go on unharmed if we are killed at any
 * instruction. How:
 *
 * 1. The thread is stopped, and a stub is written to where nothing leads (slots.h). Killed here:
 * the thread goes on.
 * 2. One PTRACE_SETREGSET sends the thread into the stub. This is the only step that changes what
 * the thread does, and it either has happened or has not. Killed after it: the stub makes two
 * close() calls that fail, and goes back to where the thread was, with all registers as they were.
 * It needs nobody.
 * 3. At the entry of the first close() we make it a userfaultfd(), at its exit we take the
 * descriptor. Killed here: the stub's second close() is close(what the first call returned).
 * 4. At the exit of the second the thread gets its own registers back, at once, and is let go.
 *
 * arch_*.c has the stub and says how a system call that was waiting is begun again.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/guard.h"
#include "tracker/arch.h"
#include "tracker/inject.h"
#include "tracker/phase.h"
#include "tracker/process.h"
#include "tracker/restart.h"
#include "tracker/slots.h"
#include "tracker/tracee.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#define PIDFD_THREAD_FLAG O_EXCL /* PIDFD_THREAD, Linux 6.9 */

/* The check for the right to create one without this flag would be made against the target. */
#define UFFD_USER_MODE_ONLY_FLAG 1

#define OPTION_SUSPEND_SECCOMP (1ul << 21) /* PTRACE_O_SUSPEND_SECCOMP */
#define GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211

/* From one stop to the next, with a handler of the process on top of the stub perhaps. */
#define STOP_TIMEOUT_NS (2 * NS_PER_S)
/* The same for a thread that only has to get a processor, and waits for a hundred others to have
 * theirs. */
#define PROCESSOR_TIMEOUT_NS (30 * NS_PER_S)
/* A thread that has something else on its hands (a signal, an older stub) is left alone and asked
 * again. */
#define ATTEMPTS 50
#define ATTEMPT_PAUSE_NS (200 * NS_PER_US)

struct injection {
	const struct process *process;
	struct slots slots;
	struct tracee tracee;
	unsigned long options;
	int pid_fd; /* of the very thread: its descriptors need not be its leader's */
	struct user_regs_struct regs; /* what the thread is to go on with */
	struct arch_stub stub;
	int fd; /* our duplicate, once we have it */
	struct tide_error *err;
};

static int injection_fail(struct injection *in, int code, const char *doing)
{
	return tide_fail(in->err, code, "%s process %d", doing, in->process->pid);
}

static int injection_check_seccomp(struct injection *in, pid_t tid)
{
	char mode[16] = "0";
	process_read_status(in->process, tid, "Seccomp", mode, sizeof(mode));
	switch (strtol(mode, NULL, 10)) {
	case 0:
		return 0;
	case 1:
		return injection_fail(
			in, -EPERM, "have a userfaultfd created by (seccomp strict mode)");
	default:
		/*
		 * The filter sees what we make of the call, and may kill for it; so it is
		 * suspended, which ends with us. A tracer killed between the change and the
		 * kernel's look at it leaves the process to its filter.
		 */
		in->options |= OPTION_SUSPEND_SECCOMP;
		return 0;
	}
}

/* What can be told from outside is refused before the process is touched. */
static int injection_check(struct injection *in, pid_t tid)
{
	int r = slots_find(in->process, &in->slots, in->err);
	if (r < 0)
		return r;
	r = tracee_check_untraced(in->process, tid, in->err);
	if (r < 0)
		return r;
	r = injection_check_seccomp(in, tid);
	if (r < 0)
		return r;

	char features[64] = "";
	process_read_status(in->process, tid, "x86_Thread_features", features, sizeof(features));
	if (strstr(features, "shstk"))
		return injection_fail(
			in, -EOPNOTSUPP, "have a userfaultfd created by (user shadow stacks)");
	return 0;
}

/* A thread that a stop reaches at once, where there is one. In 'D' it may be a while. */
static pid_t injection_find_thread(const struct process *p)
{
	char leader = process_thread_state(p, p->pid);
	if (leader && strchr("RSTt", leader))
		return p->pid;

	int fd = openat(p->proc_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	auto_closedir DIR *dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return 0;
	}
	for (struct dirent *e; (e = readdir(dir));) {
		pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
		char state = tid > 0 ? process_thread_state(p, tid) : 0;
		if (state && strchr("RSTt", state))
			return tid;
	}
	return process_find_thread(p);
}

/*
 * Before 6.9 there are pidfds of leaders only. What a thread opens is the leader's as well, while
 * that lives and unless one of the two has gone its own way (unshare).
 */
static bool leader_has_its_files(const struct injection *in, pid_t tid)
{
	pid_t pid = in->process->pid;
	return tid == pid || syscall(SYS_kcmp, pid, tid, KCMP_FILES, 0, 0) == 0;
}

static int injection_open_pidfd(struct injection *in, pid_t tid)
{
	in->pid_fd = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD_FLAG);
	if (in->pid_fd < 0 && errno == EINVAL) {
		if (!leader_has_its_files(in, tid))
			return injection_fail(in, -EOPNOTSUPP, "open a pidfd of a thread of");
		in->pid_fd = fcntl(in->process->pid_fd, F_DUPFD_CLOEXEC, 0);
	}
	return in->pid_fd < 0 ? injection_fail(in, -errno, "open a pidfd of") : 0;
}

/* Waits for the next stop. The thread is not held meanwhile, so patience costs it nothing; it is of
 * no use once we have the descriptor. */
static int injection_wait(struct injection *in, uint64_t deadline_ns)
{
	uint64_t latest = clock_now_ns() + PROCESSOR_TIMEOUT_NS;
	int r = tracee_wait(&in->tracee, deadline_ns);
	while (r == -ETIMEDOUT && in->fd < 0 && clock_now_ns() < latest &&
		process_thread_state(in->process, in->tracee.tid) == 'R')
		r = tracee_wait(&in->tracee, clock_now_ns() + STOP_TIMEOUT_NS / 100);
	return r;
}

/*
 * Attaches and brings the thread to a stop of our own. Signals on their way come first: each is
 * handed on and the stop follows. On -ETIMEDOUT the thread is still attached, and freed when we
 * end.
 */
static int injection_stop(struct injection *in, pid_t tid)
{
	phase_set(PHASE_ATTACH);
	int r = tracee_seize(&in->tracee, in->process, tid, in->options, in->err);
	if (r == -EPERM && (in->options & OPTION_SUSPEND_SECCOMP))
		return injection_fail(
			in, r, "suspend the seccomp filter (it takes CAP_SYS_ADMIN) of");
	if (r < 0)
		return r;

	phase_set(PHASE_INTERRUPT);
	tracee_interrupt(&in->tracee);
	uint64_t deadline = clock_now_ns() + STOP_TIMEOUT_NS;
	for (;;) {
		if (injection_wait(in, deadline) < 0)
			return injection_fail(in, -ETIMEDOUT,
				"stop a thread (in vfork or waiting for a disk?) of");
		if (in->tracee.stop == TRACEE_GONE)
			return injection_fail(in, -ESRCH, "stop a thread of");
		r = tracee_get_regs(&in->tracee, &in->regs);
		if (r == 0)
			r = restart_mend(&in->tracee, &in->regs);
		if (r < 0) {
			tracee_detach(&in->tracee);
			return injection_fail(in, r, "read the registers of");
		}
		if (in->tracee.stop == TRACEE_TRAPPED)
			break;
		tracee_resume(&in->tracee);
	}
	phase_set(PHASE_STOPPED);
	return 0;
}

/* What shows only in the stop. -EAGAIN: later. */
static int injection_check_stopped(struct injection *in)
{
	struct {
		uint64_t mode, selector, offset, len;
	} dispatch = {0};
	if (ptrace((enum __ptrace_request)GET_SYSCALL_USER_DISPATCH_CONFIG, in->tracee.tid,
		    (void *)sizeof(dispatch), &dispatch) == 0 &&
		dispatch.mode != 0)
		return injection_fail(in, -EOPNOTSUPP,
			"have a userfaultfd created by (system call user dispatch)");

	int r = arch_check(&in->regs);
	if (r == -EOPNOTSUPP)
		return injection_fail(in, r, "have a userfaultfd created by (32-bit code)");
	if (r < 0)
		return injection_fail(
			in, -EAGAIN, "have a userfaultfd created by (it steps through itself)");
	if (arch_syscall(&in->regs) >= 0 && !tracee_call_is_native(&in->tracee))
		return injection_fail(
			in, -EAGAIN, "have a userfaultfd created by (in a 32-bit system call)");
	/* The stub of a tracer that was killed: a few microseconds, and it is done. A wait goes on
	 * for longer, and can be interrupted like any. */
	uint64_t address;
	enum slot_kind kind;
	uint8_t code[ARCH_STUB_BYTES];
	if (slots_contain(&in->slots, arch_pc(&in->regs)) &&
		(slots_read_at(&in->slots, in->process, arch_pc(&in->regs), &address, &kind, code) <
				0 ||
			kind != SLOT_WAIT))
		return injection_fail(in, -EAGAIN, "have a userfaultfd created by (in a stub)");
	return 0;
}

static const struct user_regs_struct *injection_regs_of(const void *context, pid_t tid)
{
	const struct injection *in = context;
	return tid == in->tracee.tid ? &in->regs : NULL;
}

/* Writes the stub and sends the thread into it. On failure it is as it was. */
static int injection_commit(struct injection *in)
{
	/* A stop ends a restartable sequence; leaving it by the stub would hide from the kernel
	 * that it must. */
	uint64_t abort = arch_syscall(&in->regs) < 0
				 ? tracee_rseq_abort(&in->tracee, arch_pc(&in->regs))
				 : 0;
	if (abort)
		arch_set_pc(&in->regs, abort);

	uint64_t address;
	struct slot_threads threads = {.regs_of = injection_regs_of, .context = in};
	int r = slots_choose(&in->slots, in->process, SLOT_INJECTION, &threads, &address);
	if (r < 0)
		return injection_fail(in, r, "find a free slot for the stub in");
	arch_stub_build(&in->stub, address, &in->regs);
	r = slot_fill(&in->tracee, address, SLOT_INJECTION, arch_sp(&in->regs), in->stub.code);
	if (r < 0)
		return injection_fail(in, r, "write the stub into");
	phase_set(PHASE_STUB_WRITTEN);
	r = tracee_set_regs(&in->tracee, &in->stub.commit);
	if (r < 0)
		return injection_fail(in, r, "set the registers of");
	phase_set(PHASE_COMMITTED);
	return 0;
}

/* Gives the thread its registers back and frees the slot. */
static int injection_restore(struct injection *in)
{
	int r = tracee_set_regs(&in->tracee, &in->regs);
	if (r < 0)
		return r;
	phase_set(PHASE_RESTORED);
	return slot_clear(&in->tracee, in->stub.address);
}

static int injection_take_fd(struct injection *in, long result)
{
	if (result < 0)
		return injection_fail(in, (int)result, "create a userfaultfd in");
	in->fd = (int)syscall(SYS_pidfd_getfd, in->pid_fd, (int)result, 0);
	if (in->fd < 0)
		return injection_fail(in, -errno, "take the userfaultfd of");
	return 0;
}

/* The stops on the way through the stub, in order. */
enum step { FIRST_ENTRY, FIRST_EXIT, SECOND_ENTRY, SECOND_EXIT, DONE };

/* At a system call stop: does what is due there and moves on. Stops that are not the stub's are a
 * handler's. */
static int injection_step(struct injection *in, enum step *step, bool *ret_ours)
{
	struct user_regs_struct regs;
	int r = tracee_get_regs(&in->tracee, &regs);
	if (r < 0)
		return r;
	uint64_t pc = arch_pc(&regs);
	*ret_ours = pc == (*step <= FIRST_EXIT ? in->stub.after_first : in->stub.after_second);
	if (!*ret_ours)
		return 0;

	switch (*step) {
	case FIRST_ENTRY:
		phase_set(PHASE_FIRST_ENTRY);
		arch_set_syscall(&regs, SYS_userfaultfd,
			(uint64_t)(O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY_FLAG));
		r = tracee_set_regs(&in->tracee, &regs);
		phase_set(PHASE_FIRST_CHANGED);
		break;
	case FIRST_EXIT:
		phase_set(PHASE_FD_OPEN);
		/* A failure here is no reason to leave the stub: it closes what there is to close.
		 */
		injection_take_fd(in, arch_result(&regs));
		phase_set(PHASE_FD_TAKEN);
		break;
	case SECOND_ENTRY:
		phase_set(PHASE_CLOSING);
		break;
	case SECOND_EXIT:
		phase_set(PHASE_CLOSED);
		r = injection_restore(in);
		break;
	case DONE:
		break;
	}
	(*step)++;
	return r;
}

/* A signal that comes before the stub has begun: all is put back and it is delivered to the thread
 * as it was. */
static bool injection_undo_for_signal(struct injection *in)
{
	struct user_regs_struct regs;
	if (tracee_get_regs(&in->tracee, &regs) < 0 || !arch_stub_not_begun(&in->stub, &regs))
		return false;
	injection_restore(in);
	return true;
}

/*
 * Follows the thread through the stub. Returns with the thread in a stop, or gone. A handler of the
 * process may run on top of the stub, and run for long: then the thread is left to it, and the slot
 * stays busy. -EAGAIN: nothing came of it.
 */
static int injection_follow(struct injection *in)
{
	uint64_t deadline = clock_now_ns() + STOP_TIMEOUT_NS;
	enum step step = FIRST_ENTRY;
	while (step != DONE) {
		tracee_resume_to_syscall(&in->tracee);
		if (injection_wait(in, deadline) < 0)
			return -ETIMEDOUT;

		bool ours = false;
		int r = 0;
		switch (in->tracee.stop) {
		case TRACEE_SYSCALL:
			r = injection_step(in, &step, &ours);
			break;
		case TRACEE_SIGNAL:
			if (step == FIRST_ENTRY && injection_undo_for_signal(in))
				return -EAGAIN;
			break;
		case TRACEE_TRAPPED: /* SIGSTOP: the stub first, the stop is made up for when we let
					go */
			break;
		case TRACEE_GONE:
		case TRACEE_RUNS:
			return -ESRCH;
		}
		if (r < 0)
			return r;
		if (ours)
			deadline = clock_now_ns() + STOP_TIMEOUT_NS;
		else if (clock_now_ns() >= deadline)
			return -ETIMEDOUT;
	}
	return 0;
}

/* One attempt with thread `tid`. -EAGAIN: another may do. */
static int injection_attempt(struct injection *in, pid_t tid)
{
	int r = injection_stop(in, tid);
	if (r < 0)
		return r;
	r = injection_check_stopped(in);
	if (r == 0)
		r = injection_commit(in);
	if (r == 0)
		r = injection_follow(in);
	/* Where it did not get to a stop, this does nothing and our end does it. */
	tracee_detach(&in->tracee);
	phase_set(PHASE_IDLE);
	return r;
}

static void injection_release(struct injection *in)
{
	guard_closep(&in->pid_fd);
	guard_closep(&in->fd);
}

/* Chooses a thread, sees that it may be done, and opens what it takes. */
static int injection_prepare(struct injection *in, pid_t *ret_tid)
{
	int r = process_check(in->process, in->err);
	if (r < 0)
		return r;
	pid_t tid = injection_find_thread(in->process);
	if (tid == 0)
		return injection_fail(in, -ESRCH, "have a userfaultfd created by");
	r = injection_check(in, tid);
	if (r < 0)
		return r;
	*ret_tid = tid;
	guard_closep(&in->pid_fd);
	return injection_open_pidfd(in, tid);
}

int inject_userfaultfd(const struct process *p, int *ret_fd, struct tide_error *err)
{
	struct tide_error aside;
	auto_(injection_release) struct injection in = {
		.process = p, .pid_fd = -1, .fd = -1, .err = err ? err : &aside};
	pid_t tid = 0;
	int r = injection_prepare(&in, &tid);
	if (r < 0)
		return r;

	for (unsigned attempt = 0; attempt < ATTEMPTS; attempt++) {
		in.err->code = 0;
		r = injection_attempt(&in, tid);
		/* What came after the descriptor is no matter: we have it, and the process closes
		 * its own. */
		if (in.fd >= 0) {
			*ret_fd = take_fd(&in.fd);
			return 0;
		}
		if (r == -ESRCH) { /* the thread ended, the process perhaps not */
			r = injection_prepare(&in, &tid);
			if (r < 0)
				return r;
			continue;
		}
		if (r != -EAGAIN)
			break;
		struct timespec pause = clock_timespec(ATTEMPT_PAUSE_NS);
		clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
	}
	if (in.err->code == 0)
		return injection_fail(&in, r == 0 ? -ESRCH : r, "have a userfaultfd created by");
	return in.err->code;
}
