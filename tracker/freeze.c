/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/guard.h"
#include "tracker/arch.h"
#include "tracker/freeze.h"
#include "tracker/phase.h"
#include "tracker/process.h"
#include "tracker/restart.h"
#include "tracker/timeout.h"

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

/* A killed tracer's stub takes some microseconds to get done. */
#define STUB_PAUSE_NS (50 * NS_PER_US)

#define REGSET_FIRST_BYTES 4096u
#define KERNEL_SIGSET_BYTES 8u

static int compare_threads(const void *a, const void *b)
{
	pid_t x = ((const struct held_thread *)a)->tracee.tid;
	pid_t y = ((const struct held_thread *)b)->tracee.tid;
	return (x > y) - (x < y);
}

static bool freeze_knows(const struct freeze *f, pid_t tid)
{
	struct held_thread key = {.tracee = {.tid = tid}};
	return f->nsorted > 0 &&
	       bsearch(&key, f->threads, f->nsorted, sizeof(key), compare_threads) != NULL;
}

static int freeze_reserve(struct freeze *f)
{
	if (f->n < f->cap)
		return 0;
	size_t cap = f->cap ? 2 * f->cap : 64;
	struct held_thread *more = realloc(f->threads, cap * sizeof(*more));
	if (!more)
		return -ENOMEM;
	f->threads = more;
	f->cap = cap;
	return 0;
}

/* Attaches to all threads that are not held yet and asks them to stop; they get there while we go
 * on. */
static int freeze_seize_new(struct freeze *f, size_t *ret_new, struct tide_error *err)
{
	int fd = openat(f->process->proc_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_closedir DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		int r = errno == ENOENT ? -ESRCH : -errno;
		guard_closep(&fd);
		return tide_fail(err, r, "list the threads of process %d", f->process->pid);
	}

	size_t before = f->n;
	for (struct dirent *e; (e = readdir(dir));) {
		pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
		if (tid <= 0 || freeze_knows(f, tid))
			continue;
		int r = freeze_reserve(f);
		if (r < 0)
			return tide_fail(err, r, "freeze process %d", f->process->pid);
		struct tracee *t = &f->threads[f->n].tracee;
		struct tide_error why;
		r = tracee_seize(t, f->process, tid, 0, &why);
		if (r == -ESRCH) /* ended in the meantime, or the dead leader of others */
			continue;
		if (r < 0) {
			if (err)
				*err = why;
			return r;
		}
		f->n++;
		tracee_interrupt(t);
	}
	*ret_new = f->n - before;
	return 0;
}

static bool held_is_in_stub(const struct held_thread *h, const struct slots *slots)
{
	uint64_t pc = arch_pc(&h->regs), address;
	enum slot_kind kind;
	uint8_t code[ARCH_STUB_BYTES];
	return slots_contain(slots, pc) &&
	       (slots_read_at(slots, h->tracee.process, pc, &address, &kind, code) < 0 ||
		       kind != SLOT_WAIT);
}

/* A thread in a killed tracer's stub is not where it wants to be: its registers are half the
 * stub's. */
static void held_leave_stub(struct held_thread *h)
{
	tracee_resume(&h->tracee);
	struct timespec pause = clock_timespec(STUB_PAUSE_NS);
	clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
	tracee_interrupt(&h->tracee);
}

/* Waits for the thread's stop, or its end. */
static int freeze_await(struct freeze *f, struct held_thread *h, struct freeze_report *report,
	struct tide_error *err)
{
	struct tracee *t = &h->tracee;
	for (;;) {
		if (tracee_wait(t, f->deadline_ns) < 0)
			return tide_fail(err, -ETIMEDOUT, "stop thread %d of process %d (state %c)",
				t->tid, f->process->pid, process_thread_state(f->process, t->tid));
		if (t->stop == TRACEE_GONE) {
			tracee_reap(t);
			return 0;
		}

		h->seen_ns = clock_now_ns();
		int r = tracee_get_regs(t, &h->regs);
		if (r == 0)
			r = restart_mend(t, &h->regs);
		if (r == -ESRCH) /* killed in its stop: wait for its end */
			continue;
		if (r < 0)
			return tide_fail(err, r, "read the registers of thread %d of process %d",
				t->tid, f->process->pid);
		h->mended = r > 0;
		report->eintr_rewritten += h->mended;

		/* A signal on its way is delivered first, so that it is part of what is frozen; our
		 * stop follows. */
		if (t->stop == TRACEE_SIGNAL)
			tracee_resume(t);
		else if (held_is_in_stub(h, f->slots))
			held_leave_stub(h);
		else
			return 0;
	}
}

static void freeze_forget_gone(struct freeze *f)
{
	size_t n = 0;
	for (size_t i = 0; i < f->n; i++)
		if (f->threads[i].tracee.stop != TRACEE_GONE)
			f->threads[n++] = f->threads[i];
	f->n = n;
	if (n > 0)
		qsort(f->threads, n, sizeof(f->threads[0]), compare_threads);
	f->nsorted = n;
}

/*
 * Listing threads while some end can miss others, so the kernel's own count decides, which is in
 * the number of links of the folder. A dead leader is counted and cannot be held.
 */
static bool freeze_is_whole(const struct freeze *f)
{
	struct stat s;
	if (fstatat(f->process->proc_fd, "task", &s, 0) != 0 || s.st_nlink < 2)
		return f->n == 0;
	size_t live = (size_t)s.st_nlink - 2;
	return f->n == live ||
	       (f->n + 1 == live && !process_thread_lives(f->process, f->process->pid));
}

int freeze_hold(
	struct freeze *f, uint64_t timeout_ns, struct freeze_report *ret, struct tide_error *err)
{
	struct freeze_report report = {.stopped_at_ns = clock_now_ns()};
	f->deadline_ns = report.stopped_at_ns + timeout_ns;
	phase_set(PHASE_FREEZE_ATTACH);
	phase_set(PHASE_FREEZE_INTERRUPT);
	for (;;) {
		size_t nnew = 0;
		int r = freeze_seize_new(f, &nnew, err);
		if (r < 0)
			return r;
		/* Nobody held can start a thread: once a pass over all finds none, there is none.
		 */
		if (nnew == 0 && freeze_is_whole(f))
			break;
		for (size_t i = f->n - nnew; i < f->n; i++) {
			r = freeze_await(f, &f->threads[i], &report, err);
			if (r < 0)
				return r;
		}
		freeze_forget_gone(f);

		if (clock_now_ns() >= f->deadline_ns)
			return tide_fail(
				err, -ETIMEDOUT, "stop all threads of process %d", f->process->pid);
		if (nnew == 0)
			sched_yield();
	}
	if (f->n == 0)
		return tide_fail(
			err, -ESRCH, "freeze process %d, which has ended", f->process->pid);
	phase_set(PHASE_FROZEN);
	report.all_stopped_ns = clock_now_ns();
	report.nthreads = f->n;

	/* It may have become another program on the way. */
	int r = process_check(f->process, err);
	if (r < 0)
		return r;
	*ret = report;
	return 0;
}

/* Threads that were asked to stop and not waited for: those that stand are left as the others are.
 */
static void freeze_look_after_rest(struct freeze *f)
{
	for (size_t i = 0; i < f->n; i++) {
		struct held_thread *h = &f->threads[i];
		if (h->tracee.stop != TRACEE_RUNS || tracee_wait(&h->tracee, 0) < 0)
			continue;
		if (tracee_get_regs(&h->tracee, &h->regs) == 0)
			restart_mend(&h->tracee, &h->regs);
	}
}

static const struct user_regs_struct *freeze_regs_of(const void *context, pid_t tid)
{
	const struct freeze *f = context;
	struct held_thread key = {.tracee = {.tid = tid}};
	const struct held_thread *h = f->nsorted == 0 ? NULL
						      : bsearch(&key, f->threads, f->nsorted,
								sizeof(key), compare_threads);
	return h ? &h->regs : NULL;
}

static void freeze_shorten_timeouts(struct freeze *f)
{
	const struct slot_threads all = {.regs_of = freeze_regs_of, .context = f};
	const struct slot_threads *threads = &all;
	for (size_t i = 0; i < f->n; i++) {
		struct held_thread *h = &f->threads[i];
		/* To find that there is no slot takes a while, and the next thread would find no
		 * more. */
		if (h->tracee.stop == TRACEE_TRAPPED &&
			timeout_shorten(&h->tracee, &h->regs, h->mended, h->seen_ns, f->slots,
				threads) == -EBUSY)
			threads = NULL;
	}
}

/*
 * While threads are let go one by one, those that run already compete with us for the processors,
 * and the rest waits for us: with 64 busy threads on 2 processors that took 50 ms, and takes 0.2 ms
 * so. To be in front while *stopping* them would keep them from getting there. The calling thread
 * ends soon; where this is not allowed, so be it.
 */
static void hurry(void)
{
	struct sched_param lowest = {.sched_priority = sched_get_priority_min(SCHED_FIFO)};
	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &lowest);
}

int freeze_let_go(struct freeze *f, enum tracer_thaw_mode mode)
{
	freeze_look_after_rest(f);
	if (mode != TRACER_RUN) {
		/* By pidfd: the number may be another's by now. Before the first thread is let go,
		 * so that each finds it. */
		int signal = mode == TRACER_STOP ? SIGSTOP : SIGKILL;
		syscall(SYS_pidfd_send_signal, f->process->pid_fd, signal, NULL, 0);
	} else if (f->keep_time) {
		phase_set(PHASE_SHORTEN);
		freeze_shorten_timeouts(f);
	}
	phase_set(PHASE_THAW);
	hurry();
	int r = 0;
	for (size_t i = 0; i < f->n; i++)
		if (tracee_detach(&f->threads[i].tracee) < 0)
			r = -ESRCH; /* somebody killed it: one thread alone cannot be */
	f->n = f->nsorted = 0;
	phase_set(PHASE_IDLE);
	return mode == TRACER_KILL ? 0 : r;
}

void freeze_release(struct freeze *f)
{
	free(f->threads);
	f->threads = NULL;
}

static int regset_read(pid_t tid, uint32_t type, struct thread_regset *ret)
{
	for (size_t cap = REGSET_FIRST_BYTES;; cap *= 2) {
		auto_free void *data = malloc(cap);
		if (!data)
			return -ENOMEM;
		struct iovec set = {.iov_base = data, .iov_len = cap};
		if (ptrace(PTRACE_GETREGSET, tid, (void *)(long)type, &set) != 0)
			return -errno;
		if (set.iov_len == cap) /* there may be more */
			continue;
		ret->note_type = type;
		ret->size_bytes = (uint32_t)set.iov_len;
		ret->data = take(data);
		return 0;
	}
}

static void thread_state_read_name(struct thread_state *s, const struct process *p)
{
	char path[32];
	snprintf(path, sizeof(path), "task/%d/comm", s->tid);
	auto_close int fd = openat(p->proc_fd, path, O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? 0 : read(fd, s->name, sizeof(s->name) - 1);
	s->name[len > 0 ? len : 0] = '\0';
	s->name[strcspn(s->name, "\n")] = '\0';
}

static int thread_state_read(
	struct thread_state *s, const struct held_thread *h, const struct slots *slots)
{
	const struct tracee *t = &h->tracee;
	s->tid = t->tid;
	thread_state_read_name(s, t->process);
	if (ptrace(PTRACE_GETSIGMASK, t->tid, (void *)(long)KERNEL_SIGSET_BYTES, &s->signal_mask) !=
		0)
		return -errno;

	size_t n = 0;
	while (arch_regsets[n])
		n++;
	s->regsets = calloc(n, sizeof(s->regsets[0]));
	if (!s->regsets)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		int r = regset_read(t->tid, arch_regsets[i], &s->regsets[s->nregsets]);
		if (r == -ENODEV || r == -EINVAL) /* a processor without it */
			continue;
		if (r < 0)
			return r;
		s->nregsets++;
	}

	/* What waits in a slot waits at the program's own call as far as anybody else is concerned.
	 */
	struct user_regs_struct *regs = s->regsets[0].data;
	timeout_translate(t, regs, slots);

	/* The kernel will send it to the abort address when it runs again, as after any stop; who
	 * restores the thread elsewhere must, too. */
	uint64_t abort = arch_syscall(regs) < 0 ? tracee_rseq_abort(t, arch_pc(regs)) : 0;
	if (abort)
		arch_set_pc(regs, abort);
	return 0;
}

int freeze_states(
	const struct freeze *f, struct thread_state **ret, size_t *ret_n, struct tide_error *err)
{
	struct thread_state *states = calloc(f->n, sizeof(*states));
	if (!states)
		return tide_fail(err, -ENOMEM, "read the threads of process %d", f->process->pid);

	/* The leader first, wherever its number stands among the others. */
	size_t n = 0;
	for (int leader = 1; leader >= 0; leader--) {
		for (size_t i = 0; i < f->n; i++) {
			const struct held_thread *h = &f->threads[i];
			if ((h->tracee.tid == f->process->pid) != leader)
				continue;
			int r = thread_state_read(&states[n++], h, f->slots);
			if (r < 0) {
				thread_states_free(states, n);
				return tide_fail(err, r,
					"read the state of thread %d of process %d", h->tracee.tid,
					f->process->pid);
			}
		}
	}
	*ret = states;
	*ret_n = n;
	return 0;
}

void thread_states_free(struct thread_state *states, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		for (size_t k = 0; k < states[i].nregsets; k++)
			free(states[i].regsets[k].data);
		free(states[i].regsets);
	}
	free(states);
}
