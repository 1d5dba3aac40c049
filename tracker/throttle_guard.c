/* SPDX-License-Identifier: MIT */
/*
 * The guard is forked from a program with threads, so it does system calls and nothing else: any
 * lock of the C library may be held for ever in its copy.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/guard.h"
#include "tracker/process.h"
#include "tracker/throttle_guard.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* Long enough that the stops themselves cost little, short enough that nobody sees them. */
#define PERIOD_NS (10 * NS_PER_MS)
#define RUN_LEAST_NS (NS_PER_MS / 5)
/* Where somebody else had the processor the process may have run for long; that is made up for in
 * several stops. */
#define STOP_MOST_NS (50 * NS_PER_MS)
#define DEBT_MOST_NS ((int64_t)(500 * NS_PER_MS))
/* What was not used is not saved for a burst. */
#define CREDIT_MOST_NS ((int64_t)PERIOD_NS)

#define ANSWER_MS 2000

uint64_t throttle_run_ns(unsigned percent)
{
	uint64_t ns = PERIOD_NS * (100 - percent) / 100;
	return ns > RUN_LEAST_NS ? ns : RUN_LEAST_NS;
}

/* Of all time it shall have its part of the processors that it would have. On a busy machine that
 * is not its part of the time: who was stopped comes first afterwards. */
int64_t throttle_stop_ns(struct throttle_word word, uint64_t ns, uint64_t used_ns)
{
	double part = word.cpus * (100 - word.percent) / 100;
	double stop_ns = part > 0 ? (double)used_ns / part - (double)ns : 0;
	return stop_ns < (double)DEBT_MOST_NS ? (int64_t)stop_ns : DEBT_MOST_NS;
}

/* --- in the guard
 * --------------------------------------------------------------------------------------- */

struct guard {
	pid_t pid;
	int pid_fd, proc_fd;
	int tracker_fd; /* a pidfd of the tracker: the socket's other end may be held by another */
	int socket;
	const struct throttle_cgroup *cgroup;
	struct guard_shared *shared;
	struct throttle_word word;
	int64_t debt_ns; /* that it is still to be stopped, by what is known of the time before
			    at_ns */
	uint64_t at_ns, used_ns;
	bool is_asked; /* the tracker waits for an answer */
	bool is_over;
};

static int send_signal(int pid_fd, int signal)
{
	return (int)syscall(SYS_pidfd_send_signal, pid_fd, signal, NULL, 0);
}

static void close_others(const int *kept, size_t n)
{
	struct rlimit limit = {.rlim_cur = 1 << 16};
	unsigned from = 0;
	for (;;) {
		/* The next one that is kept, from here on. */
		unsigned next = ~0u;
		for (size_t i = 0; i < n; i++) {
			if (kept[i] >= 0 && (unsigned)kept[i] >= from && (unsigned)kept[i] < next)
				next = (unsigned)kept[i];
		}
		if (from < next &&
			syscall(SYS_close_range, from, next == ~0u ? ~0u : next - 1, 0) < 0) {
			getrlimit(RLIMIT_NOFILE, &limit);
			for (unsigned fd = from; fd < next && fd < limit.rlim_cur; fd++)
				close((int)fd);
		}
		if (next == ~0u)
			return;
		from = next + 1;
	}
}

/* Handlers are the tracker's; all signals have been blocked since before the fork. */
static void ignore_signals(void)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	for (int signal = 1; signal < NSIG; signal++)
		(void)sigaction(signal, &ignore, NULL);
}

static void settle_down(struct guard *g)
{
	const struct throttle_cgroup *c = g->cgroup;
	const int kept[] = {g->pid_fd, g->proc_fd, g->tracker_fd, g->socket, c ? c->folder_fd : -1,
		c ? c->procs_fd : -1, c ? c->max_fd : -1, c ? c->child_procs_fd : -1};
	setsid();
	ignore_signals();
	close_others(kept, sizeof(kept) / sizeof(kept[0]));
	prctl(PR_SET_NAME, "tidemark-guard");
	prctl(PR_SET_TIMERSLACK, 1000);
	/* Not where the tracker stood: that may be to be unmounted. */
	(void)!chdir("/");
}

/* Until the tracker says something, the tracker or the process ends, or the time is over. */
static bool wait_for_word(struct guard *g, const struct timespec *timeout)
{
	struct pollfd fds[] = {{.fd = g->socket, .events = POLLIN},
		{.fd = g->tracker_fd, .events = POLLIN}, {.fd = g->pid_fd, .events = POLLIN}};
	int n = ppoll(fds, 3, timeout, NULL);
	if (n <= 0)
		return false;
	struct throttle_word word;
	g->is_over = true;
	if (fds[1].revents == 0 && fds[2].revents == 0 &&
		recv(g->socket, &word, sizeof(word), MSG_DONTWAIT) == sizeof(word)) {
		g->is_over = false;
		g->is_asked = true;
		g->word = word;
	}
	return true;
}

static bool wait_ns(struct guard *g, uint64_t ns)
{
	struct timespec timeout = clock_timespec(ns);
	return wait_for_word(g, &timeout);
}

static void answer(struct guard *g)
{
	g->is_asked = false;
	(void)send(g->socket, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void let_run(struct guard_shared *shared, int pid_fd)
{
	if (!atomic_load(&shared->is_stopped))
		return;
	(void)send_signal(pid_fd, SIGCONT);
	atomic_store(&shared->is_stopped, false);
}

/* Somebody else's stop is not ours to end: such a process is left alone for as long as it stands.
 */
static bool is_stopped_by_another(const struct guard *g)
{
	char text[512];
	int fd = openat(g->proc_fd, "stat", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	guard_closep(&fd);
	for (ssize_t i = n - 3; i >= 0; i--) {
		/* The last bracket ends the name; the state is behind it. */
		if (text[i] == ')')
			return text[i + 2] == 'T' || text[i + 2] == 't';
	}
	return false;
}

/* CPU time of the whole process; a process that is gone used none. The kernel makes the number of
 * the clock of the number of the process (include/linux/posix-timers.h, CPUCLOCK_SCHED). */
static uint64_t read_used_ns(const struct guard *g)
{
	struct timespec t = {0};
	clockid_t clock = (clockid_t)((~(unsigned)g->pid << 3) | 2u);
	return clock_gettime(clock, &t) < 0 ? 0
					    : (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void stop_for_a_while(struct guard *g)
{
	uint64_t ns = (uint64_t)g->debt_ns < STOP_MOST_NS ? (uint64_t)g->debt_ns : STOP_MOST_NS;
	/* Noted first: who is killed between the two leaves a SIGCONT too many, and no stop. */
	atomic_store(&g->shared->is_stopped, true);
	if (send_signal(g->pid_fd, SIGSTOP) < 0)
		g->is_over = true;
	else
		(void)wait_ns(g, ns);
	let_run(g->shared, g->pid_fd);
}

/* From here on it has its part. */
static void begin_account(struct guard *g)
{
	g->debt_ns = 0;
	g->at_ns = clock_now_ns();
	g->used_ns = read_used_ns(g);
}

/* All time counts, also that of the stop and that until it came into force. */
static void account(struct guard *g)
{
	uint64_t now_ns = clock_now_ns(), used_ns = read_used_ns(g);
	g->debt_ns += throttle_stop_ns(g->word, now_ns - g->at_ns, used_ns - g->used_ns);
	if (g->debt_ns > DEBT_MOST_NS)
		g->debt_ns = DEBT_MOST_NS;
	if (g->debt_ns < -CREDIT_MOST_NS)
		g->debt_ns = -CREDIT_MOST_NS;
	g->at_ns = now_ns;
	g->used_ns = used_ns;
}

/* Lets it run, then stops it for what it had too much. One that waits is not stopped: that would
 * only end the call that it waits in. */
static void one_period(struct guard *g)
{
	if (wait_ns(g, throttle_run_ns(g->word.percent)))
		return;
	account(g);
	if (is_stopped_by_another(g))
		begin_account(g);
	if (g->debt_ns > 0)
		stop_for_a_while(g);
}

_Noreturn static void guard_main(struct guard *g)
{
	settle_down(g);
	answer(g);
	while (!g->is_over) {
		if (g->word.percent)
			one_period(g);
		else
			(void)wait_for_word(g, NULL);
		/* It runs by now. */
		if (g->is_asked) {
			begin_account(g);
			answer(g);
		}
	}
	let_run(g->shared, g->pid_fd);
	if (g->cgroup && atomic_load(&g->shared->is_in_cgroup))
		throttle_cgroup_restore(g->cgroup);
	if (g->cgroup)
		throttle_cgroup_remove(g->cgroup);
	_exit(0);
}

/* --- in the tracker
 * --------------------------------------------------------------------------------------- */

/* By hand: no exit signal, so that a program whose library we are finds no child that it did not
 * make, and no handlers of fork(). */
static pid_t fork_quietly(int *ret_pid_fd)
{
	return (pid_t)syscall(SYS_clone, CLONE_PIDFD, NULL, ret_pid_fd, NULL, NULL);
}

static int wait_for_answer(int socket)
{
	struct pollfd p = {.fd = socket, .events = POLLIN};
	char word;
	int n;
	do
		n = poll(&p, 1, ANSWER_MS);
	while (n < 0 && errno == EINTR);
	if (n == 0)
		return -ETIMEDOUT;
	return recv(socket, &word, 1, 0) == 1 ? 0 : -EPIPE;
}

static void reap(struct throttle_guard *g)
{
	siginfo_t info;
	while (waitid((idtype_t)P_PIDFD, (id_t)g->pid_fd, &info, WEXITED | __WALL) < 0 &&
		errno == EINTR)
		;
}

static int fork_guard(struct guard *inside, struct throttle_guard *g)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	g->pid = fork_quietly(&g->pid_fd);
	int r = g->pid < 0 ? -errno : 0;
	if (g->pid == 0)
		guard_main(inside);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

int throttle_guard_start(
	const struct process *p, const struct throttle_cgroup *cgroup, struct throttle_guard *ret)
{
	int ends[2];
	auto_close int tracker_fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (tracker_fd < 0)
		return -errno;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	auto_close int inner = ends[1];
	struct throttle_guard g = {.pid_fd = -1, .socket = ends[0], .target_fd = p->pid_fd};
	g.shared = mmap(
		NULL, sizeof(*g.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct guard inside = {.pid = p->pid,
		.pid_fd = p->pid_fd,
		.proc_fd = p->proc_fd,
		.tracker_fd = tracker_fd,
		.socket = inner,
		.cgroup = cgroup,
		.shared = g.shared};
	int r = g.shared == MAP_FAILED ? -ENOMEM : fork_guard(&inside, &g);
	if (r == 0) {
		r = wait_for_answer(g.socket);
		if (r == 0) {
			*ret = g;
			return 0;
		}
		throttle_guard_stop(&g);
		return r;
	}
	close(g.socket);
	if (g.shared != MAP_FAILED)
		munmap(g.shared, sizeof(*g.shared));
	return r;
}

int throttle_guard_set(struct throttle_guard *g, struct throttle_word word)
{
	/* An answer that came too late is not the one to this. */
	char late;
	while (recv(g->socket, &late, 1, MSG_DONTWAIT) == 1)
		;
	if (send(g->socket, &word, sizeof(word), MSG_NOSIGNAL) != sizeof(word))
		return -EPIPE;
	return wait_for_answer(g->socket);
}

void throttle_guard_let_run(struct throttle_guard *g)
{
	let_run(g->shared, g->target_fd);
}

void throttle_guard_stop(struct throttle_guard *g)
{
	struct pollfd p = {.fd = g->pid_fd, .events = POLLIN};
	close(g->socket);
	/* One that was stopped by somebody does not end by itself. */
	if (poll(&p, 1, ANSWER_MS) <= 0)
		(void)send_signal(g->pid_fd, SIGKILL);
	reap(g);
	throttle_guard_let_run(g);
	close(g->pid_fd);
	munmap(g->shared, sizeof(*g->shared));
	*g = (struct throttle_guard){.pid_fd = -1, .socket = -1};
}
