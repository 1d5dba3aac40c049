/* SPDX-License-Identifier: MIT */
/*
 * Every attachment has a thread of its own, a session: it attaches, does what is to be done, lets
 * go and ends. The end is what can be relied on: a process whose thread does not come to a stop (a
 * vfork parent, a disk's wait) cannot be detached from, but when the thread that attached is gone,
 * so is the attachment.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/error.h"
#include "tracker/freeze.h"
#include "tracker/inject.h"
#include "tracker/process.h"
#include "tracker/slots.h"
#include "tracker/tracee.h"
#include "tracker/tracer.h"

/* A thread that was joined has a few microseconds to go before the kernel has let go of what it
 * traced. */
#define SESSION_END_NS NS_PER_S

enum session_state {
	SESSION_NONE,
	SESSION_STARTS,
	SESSION_FROZEN,
	SESSION_OVER,
	SESSION_TIMED_OUT,
};

/* What the one who holds the process is asked to do. Lives on the asker's stack. */
struct request {
	enum { REQUEST_STATES, REQUEST_THAW } kind;
	enum tracer_thaw_mode mode;
	struct thread_state *states;
	size_t nstates;
	struct tide_error *err;
	int result;
	bool done;
};

struct tracer {
	const struct process *process;
	struct slots slots;

	pthread_t thread;
	pid_t thread_tid;

	void (*before_stop)(void *arg);
	void (*after_stop)(void *arg);
	void *stops_arg;

	/* Held only for moments, and never while anything is waited for. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum session_state state;
	struct request *request;
	bool keep; /* beyond the timeout */
	unsigned nfreezes;

	/* How the session begins, and how that went. */
	uint64_t timeout_ns;
	struct freeze_report report;
	int fd;
	int result;
	struct tide_error error;
};

static void session_begin(struct tracer *t)
{
	t->thread_tid = (pid_t)syscall(SYS_gettid);
	/* The process waits for us whenever we do not run. Where it is not allowed, so be it. */
	setpriority(PRIO_PROCESS, (id_t)t->thread_tid, -20);
	/* Waits for a stop are some tens of microseconds; the default slack adds 50 to each. */
	prctl(PR_SET_TIMERSLACK, 1);
	prctl(PR_SET_NAME, "tidemark-ptrace");
}

static void session_is_over(struct tracer *t)
{
	t->state = SESSION_NONE;
	if (t->after_stop)
		t->after_stop(t->stops_arg);
}

static int session_start(struct tracer *t, void *(*main)(void *), struct tide_error *err)
{
	if (t->before_stop)
		t->before_stop(t->stops_arg);
	t->state = SESSION_STARTS;
	t->request = NULL;
	t->keep = false;
	t->error = (struct tide_error){0};

	/* None of the program's handlers should run on it. */
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = pthread_create(&t->thread, NULL, main, t);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r != 0) {
		session_is_over(t);
		return tide_fail(err, -r, "start a thread to trace process %d", t->process->pid);
	}
	return 0;
}

/* Waits for the session's end. From then on nothing is attached. */
static void session_join(struct tracer *t)
{
	pthread_join(t->thread, NULL);
	uint64_t deadline = clock_now_ns() + SESSION_END_NS;
	while (syscall(SYS_tgkill, getpid(), t->thread_tid, 0) == 0 && clock_now_ns() < deadline)
		sched_yield();
	session_is_over(t);
}

static int tracer_fail(const struct tracer *t, int code, struct tide_error *err)
{
	if (err)
		*err = t->error;
	return code;
}

static enum session_state tracer_state(struct tracer *t)
{
	pthread_mutex_lock(&t->lock);
	enum session_state state = t->state;
	pthread_mutex_unlock(&t->lock);
	return state;
}

int tracer_start(const struct process *process, struct tracer **ret, struct tide_error *err)
{
	struct tracer *t = calloc(1, sizeof(*t));
	if (!t)
		return tide_fail(err, -ENOMEM, "trace process %d", process->pid);
	t->process = process;
	/* Where there is no room, there is no stub to be found in it either. */
	slots_find(process, &t->slots, NULL);
	pthread_mutex_init(&t->lock, NULL);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&t->changed, &attr);
	pthread_condattr_destroy(&attr);
	*ret = t;
	return 0;
}

void tracer_stop(struct tracer *t)
{
	if (!t)
		return;
	tracer_thaw(t, TRACER_RUN, NULL);
	pthread_cond_destroy(&t->changed);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

void tracer_around_stops(
	struct tracer *t, void (*before)(void *arg), void (*after)(void *arg), void *arg)
{
	t->before_stop = before;
	t->after_stop = after;
	t->stops_arg = arg;
}

static void *inject_main(void *arg)
{
	struct tracer *t = arg;
	session_begin(t);
	t->result = inject_userfaultfd(t->process, &t->fd, &t->error);
	return NULL;
}

int tracer_inject_userfaultfd(struct tracer *t, int *ret_fd, struct tide_error *err)
{
	if (tracer_state(t) != SESSION_NONE)
		return tide_fail(err, -EBUSY,
			"have a userfaultfd created by process %d, which is frozen",
			t->process->pid);
	int r = session_start(t, inject_main, err);
	if (r < 0)
		return r;
	session_join(t);
	if (t->result < 0)
		return tracer_fail(t, t->result, err);
	*ret_fd = t->fd;
	return 0;
}

static void session_answer(struct tracer *t, int result)
{
	t->request->result = result;
	t->request->done = true;
	t->request = NULL;
	pthread_cond_broadcast(&t->changed);
}

/* Called with the lock held; gives it up while the threads are read. */
static void session_serve(struct tracer *t, struct freeze *f)
{
	struct request *q = t->request;
	if (q->kind == REQUEST_THAW) {
		t->state = SESSION_OVER;
		session_answer(t, freeze_let_go(f, q->mode));
		return;
	}
	pthread_mutex_unlock(&t->lock);
	int r = freeze_states(f, &q->states, &q->nstates, q->err);
	pthread_mutex_lock(&t->lock);
	session_answer(t, r);
}

static void session_wait(struct tracer *t, uint64_t deadline_ns)
{
	struct timespec until = clock_timespec(deadline_ns);
	if (t->keep)
		pthread_cond_wait(&t->changed, &t->lock);
	else
		pthread_cond_timedwait(&t->changed, &t->lock, &until);
}

static void *freeze_main(void *arg)
{
	struct tracer *t = arg;
	session_begin(t);
	/* One freeze may make a call's timeout late. Who freezes twice will freeze more often. */
	auto_(freeze_release) struct freeze f = {
		.process = t->process, .slots = &t->slots, .keep_time = t->nfreezes++ > 0};
	int r = freeze_hold(&f, t->timeout_ns, &t->report, &t->error);
	if (r < 0)
		freeze_let_go(&f, TRACER_RUN);

	pthread_mutex_lock(&t->lock);
	t->result = r;
	t->state = r < 0 ? SESSION_OVER : SESSION_FROZEN;
	pthread_cond_broadcast(&t->changed);
	while (t->state == SESSION_FROZEN) {
		if (t->request) {
			session_serve(t, &f);
		} else if (!t->keep && clock_now_ns() >= f.deadline_ns) {
			freeze_let_go(&f, TRACER_RUN);
			t->state = SESSION_TIMED_OUT;
		} else {
			session_wait(t, f.deadline_ns);
		}
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

int tracer_freeze(
	struct tracer *t, uint64_t timeout_ns, struct freeze_report *ret, struct tide_error *err)
{
	if (tracer_state(t) != SESSION_NONE)
		return tide_fail(
			err, -EBUSY, "freeze process %d, which is frozen", t->process->pid);
	/* Refused while nothing is touched, as far as it shows from outside. */
	int r = tracee_check_untraced(t->process, process_find_thread(t->process), err);
	if (r < 0)
		return r;
	if (t->slots.is_32_bit)
		return slots_refuse_32_bit(t->process, err);
	t->timeout_ns = timeout_ns;
	r = session_start(t, freeze_main, err);
	if (r < 0)
		return r;

	pthread_mutex_lock(&t->lock);
	while (t->state == SESSION_STARTS)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
	if (t->result < 0) {
		session_join(t);
		return tracer_fail(t, t->result, err);
	}
	*ret = t->report;
	return 0;
}

bool tracer_is_frozen(struct tracer *t)
{
	return tracer_state(t) == SESSION_FROZEN;
}

static int tracer_not_frozen(const struct tracer *t, struct tide_error *err)
{
	if (t->state == SESSION_TIMED_OUT)
		return tide_fail(err, -ETIMEDOUT,
			"hold process %d: it was let go after %.0f ms, the longest freeze allowed",
			t->process->pid, (double)t->timeout_ns / NS_PER_MS);
	return tide_fail(err, -EINVAL, "hold process %d, which is not frozen", t->process->pid);
}

int tracer_freeze_keep(struct tracer *t, struct tide_error *err)
{
	pthread_mutex_lock(&t->lock);
	int r = 0;
	if (t->state == SESSION_FROZEN)
		t->keep = true;
	else
		r = tracer_not_frozen(t, err);
	pthread_mutex_unlock(&t->lock);
	return r;
}

/* Has the session do it, and waits. */
static int tracer_ask(struct tracer *t, struct request *q, struct tide_error *err)
{
	pthread_mutex_lock(&t->lock);
	int r = 0;
	if (t->state == SESSION_FROZEN) {
		t->request = q;
		pthread_cond_broadcast(&t->changed);
		while (!q->done)
			pthread_cond_wait(&t->changed, &t->lock);
		r = q->result;
	} else {
		r = tracer_not_frozen(t, err);
	}
	pthread_mutex_unlock(&t->lock);
	return r;
}

int tracer_thread_states(
	struct tracer *t, struct thread_state **ret, size_t *ret_n, struct tide_error *err)
{
	struct request q = {.kind = REQUEST_STATES, .err = err};
	int r = tracer_ask(t, &q, err);
	if (r < 0)
		return r;
	*ret = q.states;
	*ret_n = q.nstates;
	return 0;
}

int tracer_thaw(struct tracer *t, enum tracer_thaw_mode mode, struct tide_error *err)
{
	struct request q = {.kind = REQUEST_THAW, .mode = mode};
	bool was_frozen = tracer_is_frozen(t);
	int r = tracer_ask(t, &q, err);
	if (tracer_state(t) != SESSION_NONE)
		session_join(t);
	if (r == -ESRCH && was_frozen)
		return tide_fail(err, r, "thaw process %d, which has ended", t->process->pid);
	return r;
}
