/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "tests/harness.h"
#include "tracker/process.h"
#include "tracker/tracer.h"

#define COUNTERS 64
#define LONG_NS (10 * NS_PER_S)
#define SHORT_NS (20 * NS_PER_MS)
#define KEPT_NS (300 * NS_PER_MS) /* long enough to be kept in time on a busy machine */

static struct shared {
	volatile uint64_t count[COUNTERS];
	volatile int ready;
	volatile int leave;
	volatile pid_t tid;
	volatile uint64_t signals;
} * shared;
static char *private_page; /* anonymous; the child has one there, too */
static pid_t child, other;
static struct process *process;
static struct tracer *tracer;
static struct tide_error err;

static void setup(void)
{
	shared = mmap(
		NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CU_ASSERT_NOT_EQUAL_FATAL(shared, MAP_FAILED);
	private_page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CU_ASSERT_NOT_EQUAL_FATAL(private_page, MAP_FAILED);
	child = other = 0;
	process = NULL;
	tracer = NULL;
	err = (struct tide_error){0};
}

static void end(pid_t *pid)
{
	if (*pid > 0) {
		kill(*pid, SIGKILL);
		waitpid(*pid, NULL, 0);
	}
	*pid = 0;
}

static void teardown(void)
{
	tracer_stop(tracer);
	process_close(process);
	end(&other);
	end(&child);
	munmap(private_page, 4096);
	munmap(shared, sizeof(*shared));
}

static pid_t start(void (*fn)(void))
{
	fflush(NULL);
	pid_t pid = fork();
	CU_ASSERT_FATAL(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn();
		_exit(0);
	}
	return pid;
}

static char state_of(pid_t pid)
{
	char path[64], state = 0;
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	auto_fclose FILE *f = fopen(path, "re");
	return f && fscanf(f, "%*d %*s %c", &state) == 1 ? state : 0;
}

static void await_ready(void)
{
	while (!shared->ready)
		harness_pause();
}

static void await_state(pid_t pid, char state)
{
	while (state_of(pid) != state)
		harness_pause();
}

/* The target runs `fn` and has said that it is where it should be. */
static void follow(void (*fn)(void))
{
	child = start(fn);
	await_ready();
	CU_ASSERT_EQUAL_FATAL(process_open(child, &process, &err), 0);
	CU_ASSERT_EQUAL_FATAL(tracer_start(process, &tracer, &err), 0);
}

static void count_forever(unsigned i)
{
	__atomic_store_n(&shared->ready, 1, __ATOMIC_RELAXED);
	for (;;)
		shared->count[i]++;
}

static void target_count(void)
{
	count_forever(0);
}

static void target_pause(void)
{
	shared->ready = 1;
	for (;;)
		pause();
}

static void *thread_count(void *arg)
{
	count_forever((unsigned)(uintptr_t)arg);
	return NULL;
}

static void *thread_sleep(void *arg)
{
	const struct timespec t = {.tv_nsec = NS_PER_MS};
	for (;;) {
		nanosleep(&t, NULL);
		shared->count[(uintptr_t)arg]++;
	}
	return NULL;
}

/* Some run, most sleep and wake. */
static void target_threads(void)
{
	pthread_t thread;
	for (uintptr_t i = 1; i < COUNTERS; i++)
		pthread_create(&thread, NULL, i < 4 ? thread_count : thread_sleep, (void *)i);
	count_forever(0);
}

static void target_leaderless(void)
{
	pthread_t thread;
	pthread_create(&thread, NULL, thread_count, NULL);
	pthread_exit(NULL);
}

static void *thread_short(void *arg)
{
	__atomic_fetch_add(&shared->count[(uintptr_t)arg], 1, __ATOMIC_RELAXED);
	return NULL;
}

/* Starts and ends threads all the while, from several at once. */
static void *thread_churn(void *arg)
{
	for (;;) {
		pthread_t threads[8];
		unsigned n = 0;
		while (n < 8 && pthread_create(&threads[n], NULL, thread_short, arg) == 0)
			n++;
		while (n > 0)
			pthread_join(threads[--n], NULL);
		__atomic_store_n(&shared->ready, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void target_churn(void)
{
	pthread_t thread;
	for (uintptr_t i = 1; i < 8; i++)
		pthread_create(&thread, NULL, thread_churn, (void *)i);
	thread_churn(NULL);
}

static struct freeze_report freeze(void)
{
	struct freeze_report report = {0};
	int r = tracer_freeze(tracer, LONG_NS, &report, &err);
	if (r != 0)
		printf("\n  %s: %s", err.text, tide_error_reason(&err));
	CU_ASSERT_EQUAL_FATAL(r, 0);
	CU_ASSERT(report.all_stopped_ns >= report.stopped_at_ns);
	return report;
}

static void thaw(enum tracer_thaw_mode mode)
{
	CU_ASSERT_EQUAL_FATAL(tracer_thaw(tracer, mode, &err), 0);
}

/* Nothing of shared->count changes while some work goes on that takes longer than a count. */
static void assert_stands(void)
{
	struct shared before = *shared;
	for (unsigned i = 0; i < 200; i++)
		process_thread_state(process, child);
	CU_ASSERT_EQUAL(
		memcmp((void *)before.count, (void *)shared->count, sizeof(before.count)), 0);
}

static void await_count(unsigned i)
{
	uint64_t before = shared->count[i];
	while (shared->count[i] == before)
		harness_pause();
}

static unsigned count_userfaultfds(pid_t tid)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/task/%d/fd", child, tid);
	auto_closedir DIR *dir = opendir(path);
	unsigned n = 0;
	for (struct dirent *e; dir && (e = readdir(dir));) {
		char target[64] = "";
		if (readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1) > 0)
			n += strstr(target, "userfaultfd") != NULL;
	}
	return n;
}

/* Asynchronous write-protection (Linux 6.7), where this kernel has it, else 0. */
static uint64_t wp_async_here(void)
{
	auto_close int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = {.api = UFFD_API};
	CU_ASSERT_EQUAL_FATAL(ioctl(fd, UFFDIO_API, &api), 0);
	return api.features & 1ull << 15;
}

/* It is one, it takes the features that the tracker wants, and it is of the child's memory. */
static void assert_userfaultfd_works(int fd)
{
	const uint64_t wp_async = wp_async_here();
	struct uffdio_api api = {.api = UFFD_API, .features = wp_async};
	CU_ASSERT_EQUAL(ioctl(fd, UFFDIO_API, &api), 0);
	CU_ASSERT_EQUAL(api.features & wp_async, wp_async);
	struct uffdio_register r = {
		.range = {.start = (uintptr_t)private_page, .len = 4096},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	CU_ASSERT_EQUAL(ioctl(fd, UFFDIO_REGISTER, &r), 0);
}

static int inject(void)
{
	int fd = -1;
	int r = tracer_inject_userfaultfd(tracer, &fd, &err);
	if (r != 0)
		printf("\n  %s: %s", err.text, tide_error_reason(&err));
	CU_ASSERT_EQUAL_FATAL(r, 0);
	return fd;
}

static void inject_and_check(pid_t tid)
{
	auto_close int fd = inject();
	assert_userfaultfd_works(fd);
	CU_ASSERT_EQUAL(count_userfaultfds(tid), 0);
}

static void test_a_running_process_creates_a_userfaultfd(void)
{
	follow(target_count);
	for (unsigned i = 0; i < 20; i++) {
		inject_and_check(child);
		await_count(0);
	}
}

static void test_a_waiting_process_creates_a_userfaultfd(void)
{
	follow(target_pause);
	await_state(child, 'S');
	for (unsigned i = 0; i < 20; i++)
		inject_and_check(child);
	await_state(child, 'S');
}

static void test_a_process_of_many_threads_creates_a_userfaultfd(void)
{
	follow(target_threads);
	for (unsigned i = 0; i < 20; i++)
		inject_and_check(child);
	for (unsigned i = 0; i < COUNTERS; i++)
		await_count(i);
}

static void test_a_process_without_its_leader_creates_a_userfaultfd(void)
{
	/* PIDFD_THREAD is O_EXCL. */
	auto_close int pidfd = (int)syscall(SYS_pidfd_open, getpid(), O_EXCL);
	if (pidfd < 0)
		harness_skip("this kernel has no PIDFD_THREAD (Linux 6.9 has it)");
	child = start(target_leaderless);
	await_ready();
	await_state(child, 'Z');
	CU_ASSERT_EQUAL_FATAL(process_open(child, &process, &err), 0);
	CU_ASSERT_EQUAL_FATAL(tracer_start(process, &tracer, &err), 0);
	inject_and_check(process_find_thread(process));
	await_count(0);
}

static void test_a_stopped_process_creates_a_userfaultfd_and_stays_stopped(void)
{
	follow(target_count);
	kill(child, SIGSTOP);
	CU_ASSERT_EQUAL_FATAL(waitpid(child, NULL, WUNTRACED), child);
	inject_and_check(child);
	await_state(child, 'T');
	assert_stands();
	kill(child, SIGCONT);
	await_count(0);
}

/* The bytes of all mappings that are private to it, apart from the last vDSO page and the pages
 * that the kernel writes. */
static uint64_t memory_sum(void)
{
	auto_free char *maps = NULL;
	size_t len;
	CU_ASSERT_EQUAL_FATAL(process_read_file(process, "maps", &maps, &len, &err), 0);
	uint64_t sum = 14695981039346656037u;
	char *rest = NULL;
	for (char *line = strtok_r(maps, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		uint64_t first, last;
		char mode[5];
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &first, &last, mode) != 3)
			continue;
		/* Sanitizers have terabytes of shadow; the stack and the data are what matters. */
		if (mode[3] == 's' || strstr(line, "[vvar") || last - first > (64u << 20))
			continue;
		for (uint64_t at = first; at < last; at += 4096) {
			uint64_t words[512];
			if (pread(process->mem_fd, words, sizeof(words), (off_t)at) !=
				sizeof(words))
				continue;
			for (unsigned i = 0; i < 512; i++)
				sum = (sum ^ words[i]) * 1099511628211u;
		}
	}
	return sum;
}

static struct user_regs_struct leader_regs(void)
{
	struct thread_state *states;
	size_t n;
	struct user_regs_struct regs = {0};
	freeze();
	CU_ASSERT_EQUAL_FATAL(tracer_thread_states(tracer, &states, &n, &err), 0);
	memcpy(&regs, states[0].regsets[0].data, sizeof(regs));
	thread_states_free(states, n);
	thaw(TRACER_RUN);
	return regs;
}

/* The kernel notes in a thread's memory which processor it runs on. */
static void target_pause_on_one_cpu(void)
{
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET((unsigned)sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
	target_pause();
}

static void test_an_injection_changes_no_byte_and_no_register(void)
{
#ifdef __SANITIZE_THREAD__
	harness_skip("the thread sanitizer's own memory changes all the while");
#endif
	follow(target_pause_on_one_cpu);
	await_state(child, 'S');
	struct user_regs_struct before = leader_regs();
	uint64_t sum = memory_sum();
	close(inject());
	CU_ASSERT_EQUAL(memory_sum(), sum); /* the vDSO with it: the stub is gone again */
	await_state(child, 'S');
	struct user_regs_struct after = leader_regs();
	CU_ASSERT_EQUAL(memcmp(&before, &after, sizeof(before)), 0);
}

static unsigned count_threads(void)
{
	char n[16] = "0";
	process_read_status(process, child, "Threads", n, sizeof(n));
	return (unsigned)strtoul(n, NULL, 10);
}

static void test_a_freeze_holds_every_thread(void)
{
	follow(target_threads);
	for (unsigned i = 0; i < COUNTERS; i++)
		await_count(i);
	for (unsigned round = 0; round < 10; round++) {
		struct freeze_report report = freeze();
		CU_ASSERT(report.nthreads >= COUNTERS);
		CU_ASSERT_EQUAL(report.nthreads, count_threads());
		CU_ASSERT(tracer_is_frozen(tracer));
		assert_stands();
		thaw(TRACER_RUN);
		CU_ASSERT_FALSE(tracer_is_frozen(tracer));
		await_count(0);
		await_count(COUNTERS - 1);
	}
}

static void test_a_freeze_holds_threads_that_come_and_go(void)
{
	follow(target_churn);
	for (unsigned round = 0; round < 100; round++) {
		struct freeze_report report = freeze();
		CU_ASSERT_EQUAL(report.nthreads, count_threads());
		assert_stands();
		thaw(TRACER_RUN);
		await_count(round % 8);
	}
}

static void test_a_process_without_its_leader_is_held(void)
{
	child = start(target_leaderless);
	await_ready();
	await_state(child, 'Z');
	CU_ASSERT_EQUAL_FATAL(process_open(child, &process, &err), 0);
	CU_ASSERT_EQUAL_FATAL(tracer_start(process, &tracer, &err), 0);
	/* The dead leader is counted, and not held. */
	CU_ASSERT_EQUAL(freeze().nthreads, count_threads() - 1);
	assert_stands();
	thaw(TRACER_RUN);
	await_count(0);
}

static void test_a_stopped_process_stays_stopped_after_a_freeze(void)
{
	follow(target_threads);
	kill(child, SIGSTOP);
	CU_ASSERT_EQUAL_FATAL(waitpid(child, NULL, WUNTRACED), child);
	freeze();
	thaw(TRACER_RUN);
	await_state(child, 'T');
	assert_stands();
	kill(child, SIGCONT);
	await_count(0);
	await_count(COUNTERS - 1);
}

static void test_thawed_to_stop_it_runs_no_instruction(void)
{
	follow(target_threads);
	await_count(1);
	freeze();
	struct shared before = *shared;
	thaw(TRACER_STOP);
	int status = 0;
	CU_ASSERT_EQUAL_FATAL(waitpid(child, &status, WUNTRACED), child);
	CU_ASSERT(WIFSTOPPED(status));
	CU_ASSERT_EQUAL(WSTOPSIG(status), SIGSTOP);
	CU_ASSERT_EQUAL(
		memcmp((void *)before.count, (void *)shared->count, sizeof(before.count)), 0);
	kill(child, SIGCONT);
	await_count(0);
	await_count(COUNTERS - 1);
}

static void test_thawed_to_be_killed_it_runs_no_instruction(void)
{
	follow(target_threads);
	await_count(1);
	freeze();
	struct shared before = *shared;
	thaw(TRACER_KILL);
	int status = 0;
	CU_ASSERT_EQUAL_FATAL(waitpid(child, &status, 0), child);
	child = 0;
	CU_ASSERT(WIFSIGNALED(status));
	CU_ASSERT_EQUAL(WTERMSIG(status), SIGKILL);
	CU_ASSERT_EQUAL(
		memcmp((void *)before.count, (void *)shared->count, sizeof(before.count)), 0);
}

static void test_the_timeout_lets_go(void)
{
	const uint64_t timeout_ns = (harness_is_emulated() ? 2000 : 100) * NS_PER_MS;
	follow(target_threads);
	struct freeze_report report;
	CU_ASSERT_EQUAL_FATAL(tracer_freeze(tracer, timeout_ns, &report, &err), 0);
	assert_stands();
	/* Nobody does anything; it runs again all the same. */
	await_count(0);
	CU_ASSERT(clock_now_ns() - report.stopped_at_ns >= timeout_ns);
	await_count(COUNTERS - 1);
	while (tracer_is_frozen(tracer))
		harness_pause();
	CU_ASSERT_EQUAL(tracer_freeze_keep(tracer, &err), -ETIMEDOUT);
	struct thread_state *states;
	size_t n;
	CU_ASSERT_EQUAL(tracer_thread_states(tracer, &states, &n, &err), -ETIMEDOUT);
	CU_ASSERT_EQUAL(tracer_thaw(tracer, TRACER_KILL, &err), -ETIMEDOUT);
	await_count(0);
	/* And the next is as good as the first. */
	freeze();
	assert_stands();
	thaw(TRACER_RUN);
}

static void test_a_freeze_can_be_kept(void)
{
	follow(target_count);
	struct freeze_report report;
	CU_ASSERT_EQUAL_FATAL(tracer_freeze(tracer, KEPT_NS, &report, &err), 0);
	CU_ASSERT_EQUAL_FATAL(tracer_freeze_keep(tracer, &err), 0);
	while (clock_now_ns() < report.stopped_at_ns + 2 * KEPT_NS)
		assert_stands();
	CU_ASSERT(tracer_is_frozen(tracer));
	thaw(TRACER_RUN);
	await_count(0);
}

static void test_what_makes_no_sense_in_a_freeze_is_refused(void)
{
	follow(target_count);
	CU_ASSERT_EQUAL(tracer_thaw(tracer, TRACER_RUN, &err), -EINVAL);
	CU_ASSERT_EQUAL(tracer_freeze_keep(tracer, &err), -EINVAL);
	freeze();
	struct freeze_report report;
	int fd;
	CU_ASSERT_EQUAL(tracer_freeze(tracer, LONG_NS, &report, &err), -EBUSY);
	CU_ASSERT_EQUAL(tracer_inject_userfaultfd(tracer, &fd, &err), -EBUSY);
	thaw(TRACER_RUN);
	await_count(0);
}

/* Whether nothing was attached when it was told: before each stop, and after. */
struct told {
	unsigned before, after, attached;
};

static void note_told(struct told *t)
{
	char tracer_pid[16] = "";
	process_read_status(process, child, "TracerPid", tracer_pid, sizeof(tracer_pid));
	/* One that is gone is traced by nobody. */
	t->attached += tracer_pid[0] && atoi(tracer_pid) == getpid();
}

static void note_before(void *arg)
{
	struct told *t = arg;
	note_told(t);
	t->before++;
}

static void note_after(void *arg)
{
	struct told *t = arg;
	note_told(t);
	t->after++;
}

static void assert_told(const struct told *t, unsigned before, unsigned after)
{
	CU_ASSERT_EQUAL(t->before, before);
	CU_ASSERT_EQUAL(t->after, after);
	CU_ASSERT_EQUAL(t->attached, 0);
}

static void test_whoever_holds_it_too_is_told_of_every_stop(void)
{
	struct freeze_report report;
	struct told told = {0};
	follow(target_count);
	tracer_around_stops(tracer, note_before, note_after, &told);
	close(inject());
	assert_told(&told, 1, 1);
	freeze();
	assert_told(&told, 2, 1);
	/* Refused: nothing is stopped anew. */
	CU_ASSERT_EQUAL(tracer_freeze(tracer, LONG_NS, &report, &err), -EBUSY);
	assert_told(&told, 2, 1);
	thaw(TRACER_RUN);
	assert_told(&told, 2, 2);
	/* Over by itself. */
	CU_ASSERT_EQUAL_FATAL(tracer_freeze(tracer, SHORT_NS, &report, &err), 0);
	while (tracer_is_frozen(tracer))
		harness_pause();
	CU_ASSERT_EQUAL(tracer_thaw(tracer, TRACER_RUN, &err), -ETIMEDOUT);
	assert_told(&told, 3, 3);
	/* Not to be had: it is gone. */
	end(&child);
	CU_ASSERT_TRUE(tracer_freeze(tracer, LONG_NS, &report, &err) < 0);
	CU_ASSERT_EQUAL(told.before, told.after);
	CU_ASSERT_EQUAL(told.attached, 0);
	tracer_stop(tracer);
	tracer = NULL;
	CU_ASSERT_EQUAL(told.before, told.after);
}

static void test_stopping_the_tracer_lets_go(void)
{
	struct told told = {0};
	follow(target_threads);
	tracer_around_stops(tracer, note_before, note_after, &told);
	freeze();
	tracer_stop(tracer);
	assert_told(&told, 1, 1);
	tracer = NULL;
	await_count(0);
	await_count(COUNTERS - 1);
}

static void test_a_process_that_dies_frozen_is_gone(void)
{
	follow(target_threads);
	freeze();
	kill(child, SIGKILL);
	/* It cannot end before its threads are seen off, which is for whoever holds them. */
	CU_ASSERT_EQUAL(tracer_thaw(tracer, TRACER_RUN, &err), -ESRCH);
	int status = 0;
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	CU_ASSERT(WIFSIGNALED(status));
	child = 0;
}

static void on_count(int signal)
{
	(void)signal;
	shared->signals++;
}

static void target_signals(void)
{
	struct sigaction action = {.sa_handler = on_count};
	sigaction(SIGRTMIN, &action, NULL);
	count_forever(0);
}

static void test_no_signal_is_lost_and_none_comes_twice(void)
{
#ifdef __SANITIZE_THREAD__
	harness_skip("the thread sanitizer holds signals back, and merges them");
#endif
	follow(target_signals);
	uint64_t sent = 0;
	for (unsigned round = 0; round < 100; round++) {
		for (unsigned i = 0; i < 3; i++)
			sent += sigqueue(child, SIGRTMIN, (union sigval){0}) == 0;
		freeze();
		sent += sigqueue(child, SIGRTMIN, (union sigval){0}) == 0;
		thaw(TRACER_RUN);
		sent += sigqueue(child, SIGRTMIN, (union sigval){0}) == 0;
		close(inject());
	}
	while (shared->signals < sent)
		harness_pause();
	await_count(0);
	CU_ASSERT_EQUAL(shared->signals, sent);
}

/* A thread with values of its own in the registers. */
static void *thread_known(void *arg)
{
	(void)arg;
	prctl(PR_SET_NAME, "known");
	sigset_t mask;
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGUSR2);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	shared->tid = (pid_t)syscall(SYS_gettid);
	shared->ready = 1;
#ifdef __x86_64__
	__asm__ volatile("mov $0x1234567890, %%r12\n\t"
			 "mov $0x0987654321, %%r13\n\t"
			 "movq %%r12, %%xmm7\n"
			 "1:\tmovl $1, %0\n\t"
			 "jmp 1b"
			 : "=m"(shared->leave)
			 :
			 : "r12", "r13", "xmm7");
#endif
	return NULL;
}

static void target_known(void)
{
	pthread_t thread;
	pthread_create(&thread, NULL, thread_known, NULL);
	for (;;)
		pause();
}

static const struct thread_regset *regset_find(const struct thread_state *s, uint32_t type)
{
	for (size_t i = 0; i < s->nregsets; i++)
		if (s->regsets[i].note_type == type)
			return &s->regsets[i];
	return NULL;
}

static void test_thread_states_are_those_of_the_threads(void)
{
	follow(target_known);
	while (!shared->leave)
		harness_pause();
	freeze();
	struct thread_state *states = NULL;
	size_t n = 0;
	CU_ASSERT_EQUAL_FATAL(tracer_thread_states(tracer, &states, &n, &err), 0);
	CU_ASSERT_EQUAL_FATAL(n, 2);
	CU_ASSERT_EQUAL(states[0].tid, child);
	const struct thread_state *s = &states[1];
	CU_ASSERT_EQUAL(s->tid, shared->tid);
	CU_ASSERT_STRING_EQUAL(s->name, "known");
	CU_ASSERT_EQUAL(s->signal_mask, 1ull << (SIGUSR1 - 1) | 1ull << (SIGUSR2 - 1));

	const struct thread_regset *general = regset_find(s, NT_PRSTATUS);
	const struct thread_regset *fp = regset_find(s, NT_PRFPREG);
	CU_ASSERT_PTR_NOT_NULL_FATAL(general);
	CU_ASSERT_PTR_NOT_NULL_FATAL(fp);
	CU_ASSERT_PTR_EQUAL(general, &s->regsets[0]);
	CU_ASSERT_EQUAL(general->size_bytes, sizeof(struct user_regs_struct));
	CU_ASSERT_EQUAL(fp->size_bytes, sizeof(struct user_fpregs_struct));
#ifdef __x86_64__
	struct user_regs_struct regs;
	memcpy(&regs, general->data, sizeof(regs));
	CU_ASSERT_EQUAL(regs.r12, 0x1234567890);
	CU_ASSERT_EQUAL(regs.r13, 0x0987654321);
	uint64_t xmm7;
	memcpy(&xmm7, (char *)fp->data + offsetof(struct user_fpregs_struct, xmm_space) + 7 * 16,
		8);
	CU_ASSERT_EQUAL(xmm7, 0x1234567890);
	const struct thread_regset *xstate = regset_find(s, NT_X86_XSTATE);
	CU_ASSERT_PTR_NOT_NULL_FATAL(xstate);
	CU_ASSERT(xstate->size_bytes >= 576);
	CU_ASSERT_EQUAL(memcmp((char *)xstate->data + 160 + 7 * 16, &xmm7, 8), 0);
#endif
	thread_states_free(states, n);
	thaw(TRACER_RUN);
}

/* Refused in words that hold `text`, and neither attached to nor hurt. */
static void assert_injection_is_refused(int code, const char *text)
{
	int fd = -1;
	CU_ASSERT_EQUAL(tracer_inject_userfaultfd(tracer, &fd, &err), code);
	CU_ASSERT_EQUAL(fd, -1);
	if (!strstr(err.text, text))
		printf("\n  '%s' for '%s'", err.text, text);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, text));
	CU_ASSERT_EQUAL(err.code, code);
}

static void assert_not_traced(void)
{
	char tracer_pid[16] = "";
	process_read_status(process, child, "TracerPid", tracer_pid, sizeof(tracer_pid));
	CU_ASSERT_STRING_EQUAL(tracer_pid, "0");
}

static void trace_child(void)
{
	if (ptrace(PTRACE_SEIZE, child, NULL, NULL) != 0)
		_exit(1);
	prctl(PR_SET_NAME, "debugger");
	shared->ready = 2;
	for (;;)
		pause();
}

static void test_a_traced_process_is_left_to_its_tracer(void)
{
	follow(target_count);
	other = start(trace_child);
	while (shared->ready != 2)
		harness_pause();
	assert_injection_is_refused(-EPERM, "debugger");
	struct freeze_report report;
	CU_ASSERT_EQUAL(tracer_freeze(tracer, LONG_NS, &report, &err), -EPERM);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "debugger"));
	await_count(0);
}

static void target_strict(void)
{
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0)
		count_forever(0);
}

static void test_seccomp_strict_mode_is_refused(void)
{
	follow(target_strict);
	assert_injection_is_refused(-EPERM, "strict");
	assert_not_traced();
	await_count(0);
	/* A freeze makes no system call in it. */
	freeze();
	assert_stands();
	thaw(TRACER_RUN);
	await_count(0);
}

static void target_dispatch(void)
{
	static char selector;
	/* PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON */
	if (prctl(59, 1, 0, 0, &selector) == 0)
		count_forever(0);
	_exit(77);
}

/* PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG; a kernel that has it goes on to look at the size. */
static bool dispatch_shows(void)
{
	const long get_config = 0x4211;
	int status;
	if (syscall(SYS_ptrace, PTRACE_SEIZE, child, 0, 0) < 0 ||
		syscall(SYS_ptrace, PTRACE_INTERRUPT, child, 0, 0) < 0 ||
		waitpid(child, &status, __WALL) < 0)
		return true;
	struct {
		uint64_t words[4];
	} config;
	bool shows = syscall(SYS_ptrace, get_config, child, sizeof(config), &config) == 0;
	syscall(SYS_ptrace, PTRACE_DETACH, child, 0, 0);
	return shows;
}

static void test_system_call_user_dispatch_is_refused(void)
{
	follow(target_dispatch);
	if (!dispatch_shows())
		harness_skip("this kernel does not tell of system call user dispatch (6.4 does)");
	assert_injection_is_refused(-EOPNOTSUPP, "user dispatch");
	assert_not_traced();
	await_count(0);
}

static void target_without_vdso(void)
{
	auto_fclose FILE *f = fopen("/proc/self/maps", "re");
	char line[256];
	unsigned long first = 0, last = 0;
	while (fgets(line, sizeof(line), f))
		if (strstr(line, "[vdso]"))
			sscanf(line, "%lx-%lx", &first, &last);
	munmap((void *)first, last - first);
	count_forever(0);
}

static void test_a_process_without_vdso_is_refused(void)
{
	follow(target_without_vdso);
	assert_injection_is_refused(-EOPNOTSUPP, "vDSO");
	assert_not_traced();
	await_count(0);
	freeze();
	assert_stands();
	thaw(TRACER_RUN);
}

static void target_without_descriptors(void)
{
	struct rlimit none = {0};
	setrlimit(RLIMIT_NOFILE, &none);
	count_forever(0);
}

static void test_a_process_out_of_descriptors_is_unharmed(void)
{
	follow(target_without_descriptors);
	assert_injection_is_refused(-EMFILE, "create a userfaultfd");
	assert_not_traced();
	await_count(0);
}

static void target_vfork(void)
{
	pid_t pid = vfork();
	if (pid == 0) {
		shared->ready = 1;
		while (!shared->leave)
			;
		_exit(0);
	}
	count_forever(0);
}

static void test_a_process_that_does_not_stop_is_let_go(void)
{
	follow(target_vfork);
	await_state(child, 'D');
	assert_injection_is_refused(-ETIMEDOUT, "stop a thread");
	assert_not_traced();
	struct freeze_report report;
	CU_ASSERT_EQUAL(tracer_freeze(tracer, SHORT_NS, &report, &err), -ETIMEDOUT);
	assert_not_traced();
	shared->leave = 1;
	await_count(0);
	inject_and_check(child);
}

#ifdef __x86_64__
/* A 32-bit program: writes an x to descriptor 1, then waits for signals for ever. */
static const uint8_t program_32[] = {
	0x7f,
	'E',
	'L',
	'F',
	1,
	1,
	1,
	0,
	0,
	0,
	0,
	0,
	0,
	0,
	0,
	0, /* class, data, version */
	2,
	0,
	3,
	0,
	1,
	0,
	0,
	0, /* executable, i386 */
	0x54,
	0x80,
	0x04,
	0x08, /* entry */
	52,
	0,
	0,
	0,
	0,
	0,
	0,
	0,
	0,
	0,
	0,
	0, /* program headers, sections, flags */
	52,
	0,
	32,
	0,
	1,
	0,
	0,
	0,
	0,
	0,
	0,
	0, /* sizes and counts */
	1,
	0,
	0,
	0,
	0,
	0,
	0,
	0, /* PT_LOAD from offset 0 */
	0x00,
	0x80,
	0x04,
	0x08,
	0x00,
	0x80,
	0x04,
	0x08, /* at */
	0x80,
	0,
	0,
	0,
	0x80,
	0,
	0,
	0,
	5,
	0,
	0,
	0,
	0,
	0x10,
	0,
	0, /* length, r-x, alignment */
	0xb8,
	4,
	0,
	0,
	0, /* mov $write, %eax */
	0xbb,
	1,
	0,
	0,
	0, /* mov $1, %ebx */
	0xb9,
	0x01,
	0x80,
	0x04,
	0x08, /* mov $0x8048001, %ecx */
	0xba,
	1,
	0,
	0,
	0, /* mov $1, %edx */
	0xcd,
	0x80, /* int $0x80 */
	0xb8,
	29,
	0,
	0,
	0, /* mov $pause, %eax */
	0xcd,
	0x80, /* int $0x80 */
	0xeb,
	0xf7, /* jmp to the mov */
	0,
	0,
	0,
	0,
	0,
	0,
	0,
	0,
	0,
	0,
	0,
	0,
	0,
};
static int pipe_32[2];

static void target_32(void)
{
	int fd = memfd_create("program_32", MFD_CLOEXEC);
	if (write(fd, program_32, sizeof(program_32)) != sizeof(program_32))
		_exit(1);
	dup2(pipe_32[1], 1);
	fexecve(fd, (char *const[]){(char *)"program_32", NULL}, (char *const[]){NULL});
	_exit(77);
}

static void test_a_32_bit_process_is_refused_untouched(void)
{
	CU_ASSERT_EQUAL_FATAL(pipe(pipe_32), 0);
	child = start(target_32);
	close(pipe_32[1]);
	char byte = 0;
	ssize_t len = read(pipe_32[0], &byte, 1);
	close(pipe_32[0]);
	if (len != 1)
		harness_skip("this kernel runs no 32-bit programs");
	CU_ASSERT_EQUAL_FATAL(process_open(child, &process, &err), 0);
	CU_ASSERT_EQUAL_FATAL(tracer_start(process, &tracer, &err), 0);
	assert_injection_is_refused(-EOPNOTSUPP, "32-bit");
	struct freeze_report report;
	CU_ASSERT_EQUAL(tracer_freeze(tracer, LONG_NS, &report, &err), -EOPNOTSUPP);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "32-bit"));
	assert_not_traced();
	await_state(child, 'S');
}
#endif

static void target_exec(void)
{
	shared->ready = 1;
	while (!shared->leave)
		;
	execlp("sleep", "sleep", "1000", (char *)NULL);
}

static void test_a_process_that_became_another_is_let_go(void)
{
	follow(target_exec);
	shared->leave = 1;
	while (process_check(process, NULL) == 0)
		harness_pause();
	struct freeze_report report;
	CU_ASSERT_EQUAL(tracer_freeze(tracer, LONG_NS, &report, &err), -ESRCH);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "exec"));
	int fd;
	CU_ASSERT_EQUAL(tracer_inject_userfaultfd(tracer, &fd, &err), -ESRCH);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "exec"));
	await_state(child, 'S');
	assert_not_traced();
}

static void target_filtered(void)
{
	/* A filter that allows everything is a filter all the same. */
	struct sock_filter {
		uint16_t code;
		uint8_t jt, jf;
		uint32_t k;
	} allow = {0x06, 0, 0, SECCOMP_RET_ALLOW};
	struct {
		unsigned short len;
		struct sock_filter *filter;
	} program = {1, &allow};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0)
		count_forever(0);
}

static void test_a_filtered_process_creates_a_userfaultfd(void)
{
	follow(target_filtered);
	int fd = -1;
	int r = tracer_inject_userfaultfd(tracer, &fd, &err);
	if (geteuid() != 0) {
		CU_ASSERT_EQUAL(r, -EPERM);
		return;
	}
	CU_ASSERT_EQUAL_FATAL(r, 0);
	assert_userfaultfd_works(fd);
	close(fd);
	await_count(0);
}

/* A program of the old school: it takes whatever any child of its reports. */
static volatile sig_atomic_t reports_taken;

static void on_child(int signal)
{
	(void)signal;
	int saved = errno;
	while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
		reports_taken++;
	errno = saved;
}

static void test_a_host_that_takes_all_reports_does_no_harm(void)
{
	follow(target_threads);
	struct sigaction action = {.sa_handler = on_child, .sa_flags = SA_RESTART}, before;
	CU_ASSERT_EQUAL_FATAL(sigaction(SIGCHLD, &action, &before), 0);
	for (unsigned i = 0; i < 20; i++) {
		freeze();
		assert_stands();
		thaw(TRACER_RUN);
		inject_and_check(child);
	}
	sigaction(SIGCHLD, &before, NULL);
	CU_ASSERT(reports_taken > 0);
	for (unsigned i = 0; i < COUNTERS; i++)
		await_count(i);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_a_running_process_creates_a_userfaultfd),
		TEST(test_a_waiting_process_creates_a_userfaultfd),
		TEST(test_a_process_of_many_threads_creates_a_userfaultfd),
		TEST(test_a_process_without_its_leader_creates_a_userfaultfd),
		TEST(test_a_stopped_process_creates_a_userfaultfd_and_stays_stopped),
		TEST(test_a_filtered_process_creates_a_userfaultfd),
		TEST(test_an_injection_changes_no_byte_and_no_register),
		TEST(test_a_freeze_holds_every_thread),
		TEST(test_a_freeze_holds_threads_that_come_and_go),
		TEST(test_a_process_without_its_leader_is_held),
		TEST(test_a_stopped_process_stays_stopped_after_a_freeze),
		TEST(test_thawed_to_stop_it_runs_no_instruction),
		TEST(test_thawed_to_be_killed_it_runs_no_instruction),
		TEST(test_the_timeout_lets_go),
		TEST(test_a_freeze_can_be_kept),
		TEST(test_whoever_holds_it_too_is_told_of_every_stop),
		TEST(test_what_makes_no_sense_in_a_freeze_is_refused),
		TEST(test_stopping_the_tracer_lets_go),
		TEST(test_a_process_that_dies_frozen_is_gone),
		TEST(test_no_signal_is_lost_and_none_comes_twice),
		TEST(test_thread_states_are_those_of_the_threads),
		TEST(test_a_traced_process_is_left_to_its_tracer),
		TEST(test_seccomp_strict_mode_is_refused),
		TEST(test_system_call_user_dispatch_is_refused),
		TEST(test_a_process_without_vdso_is_refused),
		TEST(test_a_process_out_of_descriptors_is_unharmed),
		TEST(test_a_process_that_does_not_stop_is_let_go),
#ifdef __x86_64__
		TEST(test_a_32_bit_process_is_refused_untouched),
#endif
		TEST(test_a_process_that_became_another_is_let_go),
		TEST(test_a_host_that_takes_all_reports_does_no_harm),
		{NULL, NULL},
	};
	return harness_main(argc, argv, "tracer", tests, setup, teardown);
}
