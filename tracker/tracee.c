/* SPDX-License-Identifier: MIT */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/guard.h"
#include "tracker/arch.h"
#include "tracker/phase.h"
#include "tracker/process.h"
#include "tracker/tracee.h"

#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif

/* How a system call's stop says what it is, with PTRACE_O_TRACESYSGOOD. */
#define SYSCALL_STOP (SIGTRAP | 0x80)

/* glibc before 2.33 and musl have these under other names or not at all. */
#define GET_SYSCALL_INFO 0x420e
#define GET_RSEQ_CONFIGURATION 0x420f

/* A stop is some microseconds away: a target that runs takes an interrupt, one that sleeps is
 * woken. */
#define WAIT_YIELDS 64
#define WAIT_SLEEP_MIN_NS (20 * NS_PER_US)
#define WAIT_SLEEP_MAX_NS (1 * NS_PER_MS)

volatile int *tracer_phase;

int tracee_check_untraced(const struct process *p, pid_t tid, struct tide_error *err)
{
	char number[16] = "0";
	process_read_status(p, tid, "TracerPid", number, sizeof(number));
	pid_t tracer = (pid_t)strtol(number, NULL, 10);
	if (tracer == 0)
		return 0;
	char path[32], name[32] = "?";
	snprintf(path, sizeof(path), "/proc/%d/comm", tracer);
	auto_fclose FILE *f = fopen(path, "re");
	if (f && fgets(name, sizeof(name), f))
		name[strcspn(name, "\n")] = '\0';
	return tide_fail(err, -EPERM, "attach to process %d, which process %d (%s) traces already",
		p->pid, tracer, name);
}

static int tracee_seize_failed(const struct process *p, pid_t tid, int code, struct tide_error *err)
{
	/* A zombie says EPERM too. */
	if (!process_thread_lives(p, tid))
		code = -ESRCH;
	else if (tracee_check_untraced(p, tid, err) < 0)
		return -EPERM;
	return tide_fail(err, code, "attach to thread %d of process %d", tid, p->pid);
}

int tracee_seize(struct tracee *t, const struct process *p, pid_t tid, unsigned long options,
	struct tide_error *err)
{
	/*
	 * TRACESYSGOOD comes with the attachment itself: without it a system call's stop is a
	 * SIGTRAP, and if we died there it would be delivered, and kill. With it the code is no
	 * valid signal, and the kernel drops it. For the same reason there are no single steps and
	 * no breakpoints, ever; and no EXITKILL.
	 */
	if (ptrace(PTRACE_SEIZE, tid, NULL, (void *)(PTRACE_O_TRACESYSGOOD | options)) != 0)
		return tracee_seize_failed(p, tid, -errno, err);
	*t = (struct tracee){.process = p, .tid = tid, .stop = TRACEE_RUNS};
	return 0;
}

void tracee_interrupt(struct tracee *t)
{
	ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
}

static void tracee_stopped(struct tracee *t, int code)
{
	t->signal = 0;
	if (code >> 8 == PTRACE_EVENT_STOP) {
		t->stop = TRACEE_TRAPPED;
	} else if (code == SYSCALL_STOP) {
		t->stop = TRACEE_SYSCALL;
	} else {
		t->stop = TRACEE_SIGNAL;
		t->signal = code;
	}
}

/* Looks once. */
static bool tracee_look(struct tracee *t)
{
	/*
	 * Only ever a peek. Taking the report clears the code that the stop goes on with, and if we
	 * died between that and handing the signal on, the signal would be lost; as it is, the
	 * kernel delivers it when we are gone.
	 */
	siginfo_t info = {0};
	int r = waitid(P_PID, (id_t)t->tid, &info,
		WSTOPPED | WEXITED | WNOHANG | WNOWAIT | __WALL | __WNOTHREAD);
	if (r == 0 && info.si_pid == t->tid) {
		if (info.si_code == CLD_TRAPPED || info.si_code == CLD_STOPPED)
			tracee_stopped(t, info.si_status);
		else
			t->stop = TRACEE_GONE;
		return true;
	}
	if (r < 0 && errno == ECHILD) {
		t->stop = TRACEE_GONE;
		return true;
	}

	/*
	 * The program that we are part of may wait for children of its own with waitpid(-1), and
	 * take our reports with theirs. The stop itself can be asked about all the same.
	 */
	if (ptrace(PTRACE_GETSIGINFO, t->tid, NULL, &info) == 0) {
		bool ours = info.si_signo == SIGTRAP && info.si_code == SYSCALL_STOP;
		bool event = info.si_code > 0 && info.si_code >> 8 == PTRACE_EVENT_STOP;
		tracee_stopped(t, ours || event ? info.si_code : info.si_signo);
		return true;
	}
	return false;
}

/* A leader that ended before its threads is reported when the last of them has ended, not before.
 */
static bool tracee_is_dead_leader(struct tracee *t)
{
	if (t->tid != t->process->pid || process_thread_lives(t->process, t->tid))
		return false;
	t->stop = TRACEE_GONE;
	return true;
}

int tracee_wait(struct tracee *t, uint64_t deadline_ns)
{
	t->stop = TRACEE_RUNS;
	t->signal = 0;
	/*
	 * Nothing blocks until a tracee stops *or* a time comes, short of a signal handler, which a
	 * library must not have. So: give way to whoever must run to get there, then sleep in small
	 * and growing pieces.
	 */
	uint64_t sleep_ns = WAIT_SLEEP_MIN_NS;
	for (unsigned turn = 0; !tracee_look(t); turn++) {
		if (clock_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
		if (turn < WAIT_YIELDS) {
			sched_yield();
			continue;
		}
		if (tracee_is_dead_leader(t))
			return 0;
		struct timespec pause = clock_timespec(sleep_ns);
		clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
		if (sleep_ns < WAIT_SLEEP_MAX_NS)
			sleep_ns += sleep_ns / 8;
	}
	return 0;
}

/* Goes on from the stop that was waited for, with the signal that it was for. */
static int tracee_leave_stop(struct tracee *t, enum __ptrace_request how)
{
	long r = ptrace(how, t->tid, NULL, (void *)(long)t->signal);
	t->stop = TRACEE_RUNS;
	t->signal = 0;
	return r == 0 ? 0 : -errno;
}

void tracee_resume(struct tracee *t)
{
	tracee_leave_stop(t, PTRACE_CONT);
}

void tracee_resume_to_syscall(struct tracee *t)
{
	tracee_leave_stop(t, PTRACE_SYSCALL);
}

int tracee_detach(struct tracee *t)
{
	/* It may have come to a stop since we looked, at a signal that we do not know and that
	 * detaching now would swallow. When we end the kernel delivers it. */
	if (t->stop == TRACEE_RUNS || t->stop == TRACEE_GONE)
		return 0;
	return tracee_leave_stop(t, PTRACE_DETACH);
}

void tracee_reap(struct tracee *t)
{
	/*
	 * Other threads report to nobody but us. The leader's report is its parent's, who may be
	 * the program that we are part of: taking it would rob that of its child's exit status.
	 */
	if (t->tid != t->process->pid)
		waitid(P_PID, (id_t)t->tid, &(siginfo_t){0},
			WEXITED | WNOHANG | __WALL | __WNOTHREAD);
}

int tracee_get_regs(const struct tracee *t, struct user_regs_struct *ret)
{
	struct iovec regs = {.iov_base = ret, .iov_len = sizeof(*ret)};
	if (ptrace(PTRACE_GETREGSET, t->tid, (void *)(long)NT_PRSTATUS, &regs) != 0)
		return -errno;
	/* A 32-bit thread has fewer. */
	return regs.iov_len == sizeof(*ret) ? 0 : -EOPNOTSUPP;
}

int tracee_set_regs(const struct tracee *t, const struct user_regs_struct *regs)
{
	struct iovec set = {.iov_base = (void *)(uintptr_t)regs, .iov_len = sizeof(*regs)};
	return ptrace(PTRACE_SETREGSET, t->tid, (void *)(long)NT_PRSTATUS, &set) == 0 ? 0 : -errno;
}

bool tracee_call_is_native(const struct tracee *t)
{
	/* The head of the kernel's struct ptrace_syscall_info, which is given in every stop. */
	struct {
		uint8_t op, pad[3];
		uint32_t arch;
		uint64_t pc, sp;
	} info = {0};
	long n = ptrace(
		(enum __ptrace_request)GET_SYSCALL_INFO, t->tid, (void *)sizeof(info), &info);
	return n >= 8 && info.arch == arch_audit;
}

uint64_t tracee_rseq_abort(const struct tracee *t, uint64_t pc)
{
	struct {
		uint64_t address;
		uint32_t size, signature, flags, pad;
	} config = {0};
	long n = ptrace((enum __ptrace_request)GET_RSEQ_CONFIGURATION, t->tid,
		(void *)sizeof(config), &config);
	if (n <= 0 || config.address == 0)
		return 0;

	/* struct rseq and struct rseq_cs of linux/rseq.h */
	uint64_t section = 0;
	const uint64_t section_offset = 8;
	if (pread(t->process->mem_fd, &section, sizeof(section),
		    (off_t)(config.address + section_offset)) != sizeof(section) ||
		section == 0)
		return 0;
	struct {
		uint32_t version, flags;
		uint64_t start, len, abort;
	} cs;
	if (pread(t->process->mem_fd, &cs, sizeof(cs), (off_t)section) != sizeof(cs))
		return 0;
	return pc - cs.start < cs.len ? cs.abort : 0;
}
