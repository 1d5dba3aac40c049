/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/error.h"
#include "tracker/process.h"
#include "tracker/throttle.h"
#include "tracker/throttle_guard.h"

/* How long to watch it unthrottled, at least; and what it used then, at least: one that happened to
 * wait is not held down to that. */
#define MEASURE_NS (100 * NS_PER_MS)
#define CPUS_LEAST 0.1

struct throttle {
	const struct process *process;
	bool has_cgroup;
	struct throttle_cgroup cgroup;
	struct throttle_guard guard;
	unsigned wanted;  /* percent, as it was said last */
	unsigned percent; /* that is in force, but for pauses */
	struct {
		double cpu_ns, ns;           /* in all time that it was left alone so far */
		double cpu_from_ns, from_ns; /* since when it is now; 0: it is not */
	} alone;

	/* Waits for the guard's end. */
	pthread_t watcher;
	bool is_watched;
	int end_fd; /* an eventfd: the watcher is to end */

	pthread_mutex_t lock; /* of what follows, and of what the cgroup is set to */
	bool guard_is_dead;
};

static double process_cpu_ns(pid_t pid)
{
	clockid_t clock;
	struct timespec t = {0};
	if (clock_getcpuclockid(pid, &clock) == 0)
		(void)clock_gettime(clock, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void begin_alone(struct throttle *t)
{
	t->alone.from_ns = (double)clock_now_ns();
	t->alone.cpu_from_ns = process_cpu_ns(t->process->pid);
}

static void end_alone(struct throttle *t)
{
	if (t->alone.from_ns == 0)
		return;
	double ns = (double)clock_now_ns() - t->alone.from_ns;
	if (t->alone.ns + ns < (double)MEASURE_NS) {
		struct timespec wait = clock_timespec(MEASURE_NS - (uint64_t)(t->alone.ns + ns));
		nanosleep(&wait, NULL);
	}
	t->alone.ns += (double)clock_now_ns() - t->alone.from_ns;
	t->alone.cpu_ns += process_cpu_ns(t->process->pid) - t->alone.cpu_from_ns;
	t->alone.from_ns = 0;
}

/* How many processors it keeps busy when it is left alone. */
static double cpus_alone(const struct throttle *t)
{
	double cpus = t->alone.ns > 0 ? t->alone.cpu_ns / t->alone.ns : 0;
	return cpus > CPUS_LEAST ? cpus : CPUS_LEAST;
}

static void restore_cgroup(struct throttle *t)
{
	if (!t->has_cgroup || !atomic_load(&t->guard.shared->is_in_cgroup))
		return;
	throttle_cgroup_restore(&t->cgroup);
	atomic_store(&t->guard.shared->is_in_cgroup, false);
}

static void *watch_guard(void *arg)
{
	struct throttle *t = arg;
	struct pollfd fds[] = {
		{.fd = t->guard.pid_fd, .events = POLLIN}, {.fd = t->end_fd, .events = POLLIN}};
	while (poll(fds, 2, -1) < 0 && errno == EINTR)
		;
	if (fds[1].revents == 0) {
		pthread_mutex_lock(&t->lock);
		t->guard_is_dead = true;
		throttle_guard_let_run(&t->guard);
		restore_cgroup(t);
		pthread_mutex_unlock(&t->lock);
	}
	return NULL;
}

/* Signals are for the program whose library we are. */
static int start_watcher(struct throttle *t)
{
	sigset_t all, before;
	t->end_fd = eventfd(0, EFD_CLOEXEC);
	if (t->end_fd < 0)
		return -errno;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = -pthread_create(&t->watcher, NULL, watch_guard, t);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	t->is_watched = r == 0;
	return r;
}

int throttle_new(const struct process *p, struct throttle **ret, struct tide_error *err)
{
	struct throttle *t = calloc(1, sizeof(*t));
	if (!t)
		return tide_fail(err, -ENOMEM, "throttle process %d", p->pid);
	t->process = p;
	t->end_fd = -1;
	pthread_mutex_init(&t->lock, NULL);
	begin_alone(t);
	*ret = t;
	return 0;
}

/* As if it had never been slowed. */
static void end(struct throttle *t)
{
	if (t->is_watched) {
		(void)eventfd_write(t->end_fd, 1);
		pthread_join(t->watcher, NULL);
		t->is_watched = false;
	}
	if (t->guard.shared) {
		restore_cgroup(t);
		throttle_guard_stop(&t->guard);
	}
	if (t->has_cgroup)
		throttle_cgroup_close(&t->cgroup);
	t->has_cgroup = false;
	guard_closep(&t->end_fd);
}

/* The first time that it is to be slowed. */
static int begin(struct throttle *t, struct tide_error *err)
{
	const struct process *p = t->process;
	char state = process_thread_state(p, process_find_thread(p));
	if (state == 'T' || state == 't')
		return tide_say(err, "process %d is stopped by somebody else", p->pid);
	t->has_cgroup = throttle_cgroup_open(p, &t->cgroup) == 0;
	int r = throttle_guard_start(p, t->has_cgroup ? &t->cgroup : NULL, &t->guard);
	if (r == 0)
		r = start_watcher(t);
	if (r == 0)
		return 0;
	end(t);
	return tide_fail(err, r, "throttle process %d", p->pid);
}

void throttle_free(struct throttle *t)
{
	if (!t)
		return;
	end(t);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static int set_cgroup(struct throttle *t, unsigned percent)
{
	if (percent == 0) {
		restore_cgroup(t);
		return 0;
	}
	/* Noted first: who comes to restore what is not set does no harm. */
	atomic_store(&t->guard.shared->is_in_cgroup, true);
	return throttle_cgroup_set(&t->cgroup, cpus_alone(t), percent);
}

/* Where it may not be moved after all (a veto, what the group's limits do not allow), it is
 * stopped. */
static void give_up_cgroup(struct throttle *t)
{
	restore_cgroup(t);
	throttle_cgroup_close(&t->cgroup);
	t->has_cgroup = false;
}

static int set(struct throttle *t, unsigned percent)
{
	pthread_mutex_lock(&t->lock);
	int r = t->guard_is_dead && percent ? -EPIPE : 0;
	if (r == 0 && t->has_cgroup && set_cgroup(t, percent) < 0)
		give_up_cgroup(t);
	bool stops = r == 0 && !t->has_cgroup;
	pthread_mutex_unlock(&t->lock);
	struct throttle_word word = {.percent = percent, .cpus = cpus_alone(t)};
	return stops ? throttle_guard_set(&t->guard, word) : r;
}

/* A guard that does not answer is ended; what it did is then undone by the watcher. */
static void end_guard(struct throttle *t)
{
	if (!t->is_watched)
		return;
	(void)kill(t->guard.pid, SIGKILL);
	pthread_join(t->watcher, NULL);
	t->is_watched = false;
}

/* To let go never fails: where the guard does not do it, its end does. */
static int set_surely(struct throttle *t, unsigned percent)
{
	int r = set(t, percent);
	if (r == -ETIMEDOUT || (r < 0 && percent == 0))
		end_guard(t);
	return percent == 0 ? 0 : r;
}

int throttle_set(struct throttle *t, unsigned percent, struct tide_error *err)
{
	if (percent == 0 && !t->guard.shared)
		return 0;
	int r = percent && !t->guard.shared ? begin(t, err) : 0;
	if (r < 0)
		return r;
	t->wanted = percent;
	if (percent)
		end_alone(t);
	r = set_surely(t, percent);
	if (r < 0)
		tide_fail(err, r, "throttle process %d", t->process->pid);
	t->percent = r < 0 ? 0 : percent;
	if (t->percent == 0 && t->alone.from_ns == 0)
		begin_alone(t);
	return r;
}

/* Meanwhile it may be held by another means, so that nothing is learnt of it. */
void throttle_pause(struct throttle *t)
{
	if (t->percent)
		(void)set_surely(t, 0);
}

void throttle_resume(struct throttle *t)
{
	if (t->percent && set_surely(t, t->percent) < 0)
		t->percent = 0;
}

bool throttle_is_lost(const struct throttle *t)
{
	if (!t)
		return false;
	struct throttle *lockable = (struct throttle *)t;
	pthread_mutex_lock(&lockable->lock);
	bool is = t->guard_is_dead;
	pthread_mutex_unlock(&lockable->lock);
	return is || (t->wanted && !t->percent);
}

const char *throttle_means(const struct throttle *t)
{
	return t->has_cgroup ? "cpu.max" : "short stops";
}

pid_t throttle_guard_pid(const struct throttle *t)
{
	return t->guard.pid;
}
