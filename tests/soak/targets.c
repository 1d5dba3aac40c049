/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif
#include "base/clock.h"
#include "tests/soak/targets.h"
#include "tests/system/calls.h"

static struct target_report *report;

static void wrong(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void wrong(const char *fmt, ...)
{
	if (!report->wrong) {
		va_list args;
		va_start(args, fmt);
		vsnprintf(report->message, sizeof(report->message), fmt, args);
		va_end(args);
		report->wrong = 1;
	}
	for (;;)
		pause();
}

/* A call came back with something else than it should; EINTR is counted, the rest is wrong. */
static void wrong_answer(const char *what, long r, int code)
{
	if (code == EINTR)
		report->eintr++;
	else
		wrong("%s gave %ld, errno %d (%s)", what, r, code, strerrorname_np(code));
}

static void must(bool ok)
{
	if (!ok)
		_exit(77);
}

/*
 * Integer and floating point work with the carry flag carried across instructions, in a leaf
 * function, whose locals may lie in the red zone below the stack pointer.
 */
__attribute__((noinline)) static uint64_t compute(uint64_t x)
{
	uint64_t a[12];
	double f = 1.0, g = 3.0;
	for (unsigned i = 0; i < 12; i++)
		a[i] = x + i * 0x9e3779b97f4a7c15u;
	for (unsigned i = 0; i < 600; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		a[i % 12] ^= x >> 13;
		f = f * 1.0000001 + g;
		g = g * 0.999999 + f * 1e-9;
#ifdef __x86_64__
		uint8_t carry;
		__asm__ volatile("add $1, %0\n\tsetc %1\n\tadc $0, %0" : "+r"(x), "=q"(carry));
		a[(i + 5) % 12] += carry;
#endif
	}
	for (unsigned i = 0; i < 12; i++)
		x ^= a[i];
	uint64_t bits;
	memcpy(&bits, &f, sizeof(bits));
	return x ^ bits;
}

#ifdef __x86_64__
/* Some microseconds with something in every register that a stub or a system call could spoil.
 * False where one changed. */
__attribute__((noinline)) static bool keep_registers(void)
{
	uint64_t differ;
	__asm__ volatile("mov $0x1111, %%eax\n\t"
			 "mov $0x2222, %%ecx\n\t"
			 "mov $0x3333, %%edx\n\t"
			 "mov $0x4444, %%esi\n\t"
			 "mov $0x5555, %%edi\n\t"
			 "mov $0x6666, %%r9d\n\t"
			 "mov $0x7777, %%r10d\n\t"
			 "mov $0x8888, %%r11d\n\t"
			 "mov $20000, %%r8d\n\t"
			 "stc\n"
			 "1:\tdec %%r8\n\t" /* leaves the carry alone */
			 "jnz 1b\n\t"
			 "sbb %%r8, %%r8\n\t" /* -1 if it is still set */
			 "inc %%r8\n\t"
			 "xor $0x1111, %%rax\n\t"
			 "xor $0x2222, %%rcx\n\t"
			 "xor $0x3333, %%rdx\n\t"
			 "xor $0x4444, %%rsi\n\t"
			 "xor $0x5555, %%rdi\n\t"
			 "xor $0x6666, %%r9\n\t"
			 "xor $0x7777, %%r10\n\t"
			 "xor $0x8888, %%r11\n\t"
			 "or %%rcx, %%rax\n\t"
			 "or %%rdx, %%rax\n\t"
			 "or %%rsi, %%rax\n\t"
			 "or %%rdi, %%rax\n\t"
			 "or %%r8, %%rax\n\t"
			 "or %%r9, %%rax\n\t"
			 "or %%r10, %%rax\n\t"
			 "or %%r11, %%rax"
			 : "=&a"(differ)
			 :
			 : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "cc");
	return differ == 0;
}

__attribute__((noinline, target("avx"))) static uint64_t compute_avx(uint64_t seed)
{
	__m256d sum = _mm256_set1_pd((double)(seed % 1000));
	__m256d step = _mm256_set_pd(1.1, 2.2, 3.3, 4.4);
	for (unsigned i = 0; i < 600; i++) {
		sum = _mm256_add_pd(_mm256_mul_pd(sum, _mm256_set1_pd(0.99)), step);
		step = _mm256_permute_pd(step, 0x5);
	}
	double lanes[4];
	_mm256_storeu_pd(lanes, sum);
	uint64_t bits[4], x = 0;
	memcpy(bits, lanes, sizeof(bits));
	for (unsigned i = 0; i < 4; i++)
		x = x * 31 + bits[i];
	return x;
}
#else
static bool keep_registers(void)
{
	return true;
}

static uint64_t compute_avx(uint64_t seed)
{
	return seed;
}
#endif

static bool avx_is_there(void)
{
#ifdef __x86_64__
	return __builtin_cpu_supports("avx");
#else
	return false;
#endif
}

static void loop_compute(unsigned thread)
{
	bool avx = avx_is_there();
	uint64_t expected = compute(42), expected_avx = avx ? compute_avx(42) : 0;
	for (;; report->progress[thread]++) {
		if (compute(42) != expected)
			wrong("integer and floating point work came out wrong");
		if (avx && compute_avx(42) != expected_avx)
			wrong("vector work came out wrong");
		if (!keep_registers())
			wrong("a register or the carry flag changed");
	}
}

static void loop_syscalls(unsigned thread)
{
	int fds[2], file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	must(pipe(fds) == 0 && file >= 0);
	pid_t parent = getppid(), self = getpid();
	for (unsigned n = 1;; n++, report->progress[thread]++) {
		unsigned got = 0;
		if (syscall(SYS_getppid) != parent || syscall(SYS_getpid) != self)
			wrong("getpid or getppid came out wrong");
		long r = syscall(SYS_write, fds[1], &n, sizeof(n));
		if (r != sizeof(n))
			wrong("write gave %ld, errno %d", r, errno);
		r = syscall(SYS_read, fds[0], &got, sizeof(got));
		if (r != sizeof(got) || got != n)
			wrong("read gave %ld and %u for %u, errno %d", r, got, n, errno);
		r = lseek(file, n & 1023, SEEK_SET);
		if (r != (long)(n & 1023))
			wrong("lseek gave %ld for %u", r, n & 1023);
	}
}

static void loop_nanosleep(unsigned thread)
{
	const struct timespec t = {.tv_nsec = NS_PER_MS};
	for (;; report->progress[thread]++) {
		uint64_t before = clock_now_ns();
		long r = nanosleep(&t, NULL);
		if (r != 0)
			wrong("nanosleep gave %ld, errno %d", r, errno);
		if (clock_now_ns() - before < NS_PER_MS)
			wrong("nanosleep came back early");
	}
}

static void loop_futex(unsigned thread)
{
	int word = 0;
	const struct timespec t = {.tv_nsec = NS_PER_MS};
	for (;; report->progress[thread]++) {
		long r = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t, NULL, 0);
		if (r != -1 || errno != ETIMEDOUT)
			wrong("futex gave %ld, errno %d", r, errno);
	}
}

static void loop_epoll(unsigned thread)
{
	int fds[2], epoll_fd = epoll_create1(0);
	must(epoll_fd >= 0 && pipe(fds) == 0);
	struct epoll_event event = {.events = EPOLLIN};
	must(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fds[0], &event) == 0);
	for (;; report->progress[thread]++) {
		long r = epoll_wait(epoll_fd, &event, 1, 1);
		if (r != 0)
			wrong_answer("epoll_wait", r, errno);
	}
}

static void start_thread(void *(*fn)(void *), void *arg)
{
	pthread_t thread;
	must(pthread_create(&thread, NULL, fn, arg) == 0);
}

/* Several threads wait for longer than it is between two freezes, and not for a moment less than
 * they asked. */
static void loop_timeouts(unsigned thread)
{
	int epoll_fd = epoll_create1(0);
	struct epoll_event event;
	const struct timespec t = {.tv_nsec = 4 * NS_PER_MS};
	sigset_t signals;
	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	for (;; report->progress[thread]++) {
		uint64_t before = clock_now_ns();
		long r = epoll_wait(epoll_fd, &event, 1, 4);
		bool ended = r == 0;
		if (!ended)
			wrong_answer("epoll_wait", r, errno);
		if (ended && clock_now_ns() - before < 4 * NS_PER_MS)
			wrong("epoll_wait came back early");

		before = clock_now_ns();
		r = sigtimedwait(&signals, NULL, &t);
		ended = r == -1 && errno == EAGAIN;
		if (!ended)
			wrong_answer("sigtimedwait", r, errno);
		if (ended && clock_now_ns() - before < 4 * NS_PER_MS)
			wrong("sigtimedwait came back early");
	}
}

static void *timeouts_thread(void *arg)
{
	loop_timeouts((unsigned)(uintptr_t)arg);
	return NULL;
}

static void run_timeouts(struct target_report *r)
{
	report = r;
	for (uintptr_t i = 1; i < 4; i++)
		start_thread(timeouts_thread, (void *)i);
	loop_timeouts(0);
}

static void *feed(void *arg)
{
	const struct timespec t = {.tv_nsec = 700 * NS_PER_US};
	for (unsigned n = 1;; n++) {
		nanosleep(&t, NULL);
		if (write(*(int *)arg, &n, sizeof(n)) != sizeof(n))
			wrong("the pipe's writer failed");
	}
	return NULL;
}

static void run_pipe(struct target_report *r)
{
	static int fds[2];
	report = r;
	must(pipe(fds) == 0);
	start_thread(feed, &fds[1]);
	for (unsigned n = 1;; n++, report->progress[0]++) {
		unsigned got = 0;
		long len = syscall(SYS_read, fds[0], &got, sizeof(got));
		if (len != sizeof(got) || got != n)
			wrong("read of a pipe gave %ld and %u for %u, errno %d", len, got, n,
				errno);
	}
}

/* All the calls that wait, one after the other. */
static void run_calls(struct target_report *r)
{
	report = r;
	for (unsigned i = 0; i < ncalls; i++) {
		unsigned first = 0;
		while (calls[first].prepare != calls[i].prepare)
			first++;
		if (calls[i].prepare && first == i)
			calls[i].prepare();
	}
	assert(ncalls);
	for (unsigned i = 0;; i = (i + 1) % ncalls, report->progress[0]++) {
		int code = calls[i].run();
		if (code != 0)
			wrong_answer(calls[i].name, -1, code);
	}
}

static void *mixed(void *arg)
{
	switch ((uintptr_t)arg) {
	case 1:
		loop_syscalls(1);
		break;
	case 2:
		loop_nanosleep(2);
		break;
	case 3:
		loop_epoll(3);
		break;
	}
	return NULL;
}

static void run_threads(struct target_report *r)
{
	report = r;
	for (uintptr_t i = 1; i <= 3; i++)
		start_thread(mixed, (void *)i);
	loop_compute(0);
}

static void *end_at_once(void *arg)
{
	uint64_t expected = compute(1);
	if (compute(1) != expected)
		wrong("work in a short-lived thread came out wrong");
	return arg;
}

/* Threads begin and end all the while. */
static void run_churn(struct target_report *r)
{
	report = r;
	for (;; report->progress[0]++) {
		pthread_t threads[4];
		for (unsigned i = 0; i < 4; i++) {
			int code = pthread_create(&threads[i], NULL, end_at_once, report);
			if (code != 0)
				wrong("pthread_create: error %d", code);
		}
		for (unsigned i = 0; i < 4; i++) {
			void *result = NULL;
			if (pthread_join(threads[i], &result) != 0 || result != report)
				wrong("pthread_join came out wrong");
		}
	}
}

static volatile sig_atomic_t alarms;

static void on_alarm(int signal)
{
	(void)signal;
	alarms++;
}

static void alarms_start(long interval_us, bool repeat)
{
	struct itimerval t = {.it_value.tv_usec = interval_us};
	if (repeat)
		t.it_interval = t.it_value;
	setitimer(ITIMER_REAL, &t, NULL);
}

static void run_signals(struct target_report *r)
{
	report = r;
	struct sigaction action = {.sa_handler = on_alarm};
	sigaction(SIGALRM, &action, NULL);
	alarms_start(500, true);
	uint64_t expected = compute(7);
	for (;; report->progress[0]++)
		if (compute(7) != expected)
			wrong("work under signals came out wrong");
}

/* A signal that is lost, or a wait that ends without one, shows. */
static void run_sigsuspend(struct target_report *r)
{
	report = r;
	struct sigaction action = {.sa_handler = on_alarm};
	sigaction(SIGALRM, &action, NULL);
	sigset_t blocked, open;
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGALRM);
	sigprocmask(SIG_BLOCK, &blocked, &open);
	for (;; report->progress[0]++) {
		alarms = 0;
		alarms_start(300, false);
		while (!alarms) {
			int code = sigsuspend(&open);
			if (code != -1 || errno != EINTR)
				wrong("sigsuspend gave %d, errno %d", code, errno);
			if (!alarms)
				wrong("sigsuspend came back without a signal");
		}
	}
}

#ifdef __x86_64__
#define RSEQ_STEP 400u

static volatile uint64_t rseq_sum, rseq_commits[2];

/*
 * Two threads on one processor add to one sum, each in a restartable sequence that reads it at the
 * beginning and writes it at the end. A sequence that was interrupted and goes on all the same
 * undoes what the other added meanwhile.
 */
static void loop_rseq(unsigned thread)
{
	struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	for (;;) {
		__asm__ volatile goto(".pushsection __rseq_cs, \"aw\"\n\t"
				      ".balign 32\n"
				      "77:\t.long 0, 0\n\t"
				      ".quad 1f, (2f - 1f), 4f\n\t"
				      ".popsection\n\t"
				      "lea 77b(%%rip), %%rax\n\t"
				      "mov %%rax, %0\n"
				      "1:\tmov %1, %%rax\n\t"
				      "mov %2, %%ecx\n"
				      "3:\tadd $1, %%rax\n\t"
				      "dec %%ecx\n\t"
				      "jnz 3b\n\t"
				      "mov %%rax, %1\n"
				      "2:\tjmp %l[done]\n\t"
				      ".byte 0x0f, 0xb9, 0x3d\n\t"
				      ".long 0x53053053\n" /* the signature that glibc registers */
				      "4:\tjmp %l[aborted]"
				      :
				      : "m"(area->rseq_cs), "m"(rseq_sum), "i"(RSEQ_STEP)
				      : "rax", "rcx", "memory", "cc"
				      : done, aborted);
	done:
		rseq_commits[thread]++;
		report->progress[thread]++;
	aborted:
		area->rseq_cs = 0;
		/* Commits are counted after they are in the sum, so the sum may be ahead, never
		 * behind. */
		uint64_t least = (rseq_commits[0] + rseq_commits[1]) * RSEQ_STEP;
		if (rseq_sum < least)
			wrong("restartable sequences gave %llu, at least %llu are right",
				(unsigned long long)rseq_sum, (unsigned long long)least);
	}
}

static void *rseq_other(void *arg)
{
	loop_rseq(1);
	return arg;
}

static void run_rseq(struct target_report *r)
{
	report = r;
	must(__rseq_size > 0);
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET((unsigned)sched_getcpu(), &one);
	must(sched_setaffinity(0, sizeof(one), &one) == 0);
	start_thread(rseq_other, NULL);
	loop_rseq(0);
}
#else
static void run_rseq(struct target_report *r)
{
	(void)r;
	_exit(77);
}
#endif

static void *compute_alone(void *arg)
{
	loop_compute(0);
	return arg;
}

static void run_leaderless(struct target_report *r)
{
	report = r;
	start_thread(compute_alone, NULL);
	pthread_exit(NULL);
}

static void run_seccomp(struct target_report *r)
{
	report = r;
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	must(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
	loop_compute(0);
}

#define RUN_LOOP(name)                                  \
	static void run_##name(struct target_report *r) \
	{                                               \
		report = r;                             \
		loop_##name(0);                         \
	}

RUN_LOOP(compute)
RUN_LOOP(syscalls)
RUN_LOOP(nanosleep)
RUN_LOOP(futex)
RUN_LOOP(epoll)

/* clang-format off */
const struct target_kind target_kinds[] = {
	{"compute", "integers, floating point, vectors, flags, red zone", run_compute, 1, false},
	{"syscalls", "short system calls without a pause", run_syscalls, 1, false},
	{"nanosleep", "sleeps of 1 ms", run_nanosleep, 1, false},
	{"futex", "futex waits of 1 ms", run_futex, 1, false},
	{"epoll", "epoll_wait of 1 ms", run_epoll, 1, false},
	{"timeouts", "epoll_wait and sigtimedwait of 4 ms, four threads", run_timeouts, 4, false},
	{"pipe", "blocking reads from a pipe, two threads", run_pipe, 1, false},
	{"calls", "every call that waits, in turn", run_calls, 1, false},
	{"threads", "four threads: work, calls, sleep, epoll_wait", run_threads, 4, false},
	{"churn", "threads that begin and end", run_churn, 1, false},
	{"signals", "work under 2000 SIGALRM a second", run_signals, 1, false},
	{"sigsuspend", "sigsuspend until SIGALRM", run_sigsuspend, 1, false},
	{"rseq", "restartable sequences of two threads on one processor", run_rseq, 2, false},
	{"leaderless", "the leader has exited", run_leaderless, 1, false},
	{"seccomp", "a filter that kills on userfaultfd()", run_seccomp, 1, true},
};
/* clang-format on */

const unsigned ntarget_kinds = sizeof(target_kinds) / sizeof(target_kinds[0]);
