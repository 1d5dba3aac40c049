/* SPDX-License-Identifier: MIT */
/* Does any system call notice that its process was frozen, or that a descriptor was created in it?
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "tests/harness.h"
#include "tests/system/calls.h"
#include "tracker/process.h"
#include "tracker/tracer.h"

#define ROUNDS 10
#define ROUNDS_EMULATED 1
#define CALL_MS 5
#define CALL_MS_EMULATED 100

static struct shared {
	volatile unsigned begun, done;
	volatile int answer; /* the first that was wrong */
	volatile uint64_t longest_ns, shortest_ns;
	volatile unsigned handled;
} * shared;
static pid_t child;
static struct process *process;
static struct tracer *tracer;
static struct tide_error err;

static void setup(void)
{
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CU_ASSERT_NOT_EQUAL_FATAL(shared, MAP_FAILED);
	child = 0;
	process = NULL;
	tracer = NULL;
	/* A freeze must come before the call is over. */
	calls_set_timeout(harness_is_emulated() ? CALL_MS_EMULATED : CALL_MS);
}

static void child_end(void)
{
	tracer_stop(tracer);
	tracer = NULL;
	process_close(process);
	process = NULL;
	if (child > 0) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	child = 0;
}

static void teardown(void)
{
	child_end();
	munmap(shared, 4096);
}

static void child_call(const struct call *c)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (c->prepare)
		c->prepare();
	for (;;) {
		uint64_t before = clock_now_ns();
		shared->begun++;
		int answer = c->run();
		uint64_t took = clock_now_ns() - before;
		if (answer && !shared->answer)
			shared->answer = answer;
		if (took > shared->longest_ns)
			shared->longest_ns = took;
		if (shared->shortest_ns == 0 || took < shared->shortest_ns)
			shared->shortest_ns = took;
		shared->done++;
	}
}

/* False where this system lacks the call. */
static bool child_start(const struct call *c)
{
	*shared = (struct shared){0};
	fflush(NULL);
	child = fork();
	CU_ASSERT_FATAL(child >= 0);
	if (child == 0)
		child_call(c);
	while (shared->begun == 0) {
		siginfo_t info = {0};
		if (waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG) == 0 &&
			info.si_pid == child) {
			child = 0;
			return false;
		}
		harness_pause();
	}
	CU_ASSERT_EQUAL_FATAL(process_open(child, &process, &err), 0);
	CU_ASSERT_EQUAL_FATAL(tracer_start(process, &tracer, &err), 0);
	return true;
}

/* Returns once the child waits in its call, or has had one answered since. */
static void await_call(unsigned done)
{
	while (shared->done == done &&
		(shared->begun == done || process_thread_state(process, child) != 'S'))
		harness_pause();
}

static void await_done(unsigned done)
{
	while (shared->done == done)
		harness_pause();
}

static void freeze_and_thaw(size_t *rewritten)
{
	struct freeze_report report;
	CU_ASSERT_EQUAL_FATAL(tracer_freeze(tracer, NS_PER_S, &report, &err), 0);
	CU_ASSERT_EQUAL_FATAL(tracer_thaw(tracer, TRACER_RUN, &err), 0);
	*rewritten += report.eintr_rewritten;
}

static void inject(size_t *rewritten)
{
	(void)rewritten;
	int fd = -1;
	CU_ASSERT_EQUAL_FATAL(tracer_inject_userfaultfd(tracer, &fd, &err), 0);
	close(fd);
}

static size_t disturb(const struct call *c, void (*how)(size_t *))
{
	size_t rewritten = 0;
	const unsigned rounds = harness_is_emulated() ? ROUNDS_EMULATED : ROUNDS;
	for (unsigned round = 0; round < rounds; round++) {
		unsigned done = shared->done;
		await_call(done);
		for (unsigned i = 0; i < 3; i++)
			how(&rewritten);
		await_done(done);
	}
	if (shared->answer)
		printf("\n  %s: %s", c->name, strerrordesc_np(shared->answer));
	CU_ASSERT_EQUAL(shared->answer, 0);
	return rewritten;
}

static void test_no_call_notices_a_freeze(void)
{
	for (unsigned i = 0; i < ncalls; i++) {
		if (!child_start(&calls[i])) {
			printf("\n  %s: not on this system", calls[i].name);
			continue;
		}
		size_t rewritten = disturb(&calls[i], freeze_and_thaw);
		/* An entry of the table that this kernel never needs would be one to argue about.
		 */
		if ((rewritten > 0) != (calls[i].kind == CALL_MENDED))
			printf("\n  %s: mended %zu times", calls[i].name, rewritten);
		CU_ASSERT_EQUAL(rewritten > 0, calls[i].kind == CALL_MENDED);
		child_end();
	}
}

static void test_no_call_notices_an_injection(void)
{
	for (unsigned i = 0; i < ncalls; i++) {
		if (!child_start(&calls[i]))
			continue;
		disturb(&calls[i], inject);
		child_end();
	}
}

#define TIMEOUT_MS 300
#define PERIOD_NS (30 * NS_PER_MS)

/* Freezes the child every so often until its calls have come to an end. */
static void freeze_while_it_waits(unsigned ncalls_to_end)
{
	size_t rewritten = 0;
	freeze_and_thaw(&rewritten); /* the first freeze does not know that there will be more */
	await_call(shared->done);
	unsigned done = shared->done;
	while (shared->done < done + ncalls_to_end) {
		freeze_and_thaw(&rewritten);
		struct timespec pause = clock_timespec(PERIOD_NS);
		nanosleep(&pause, NULL);
	}
}

static void test_freezes_do_not_make_timeouts_late(void)
{
	if (harness_is_emulated())
		harness_skip("an emulated machine is late without being frozen");
	calls_set_timeout(TIMEOUT_MS);
	for (unsigned i = 0; i < ncalls; i++) {
		if (!calls[i].timed || !child_start(&calls[i]))
			continue;
		freeze_while_it_waits(1);
		/* That one may have been lengthened by the first freeze: up to twice. */
		shared->longest_ns = 0;
		freeze_while_it_waits(1);
		if (shared->longest_ns > 3 * TIMEOUT_MS * NS_PER_MS / 2 ||
			shared->shortest_ns < TIMEOUT_MS * NS_PER_MS)
			printf("\n  %s: from %.1f to %.1f ms", calls[i].name,
				(double)shared->shortest_ns / NS_PER_MS,
				(double)shared->longest_ns / NS_PER_MS);
		CU_ASSERT(shared->longest_ns <= 3 * TIMEOUT_MS * NS_PER_MS / 2);
		CU_ASSERT(shared->shortest_ns >= TIMEOUT_MS * NS_PER_MS);
		CU_ASSERT_EQUAL(shared->answer, 0);
		child_end();
	}
}

#ifdef __x86_64__
static int wait_fd;

/* Several freezes must fit in. */
static long bare_timeout_ms(void)
{
	return harness_is_emulated() ? 8 * TIMEOUT_MS : TIMEOUT_MS;
}

static void on_signal(int signal)
{
	(void)signal;
	shared->handled++;
}

/* epoll_wait(), and what it does to the registers. */
static int run_bare(void)
{
	struct epoll_event event;
	const int epoll_fd = wait_fd;
	const long timeout_ms = bare_timeout_ms();
	register long nr __asm__("rax") = SYS_epoll_wait;
	register long fd __asm__("rdi") = epoll_fd;
	register void *events __asm__("rsi") = &event;
	register long max __asm__("rdx") = 1;
	register long timeout __asm__("r10") = timeout_ms;
	register long r8 __asm__("r8") = 0x8888;
	register long r9 __asm__("r9") = 0x9999;
	__asm__ volatile(
		"syscall"
		: "+r"(nr), "+r"(fd), "+r"(events), "+r"(max), "+r"(timeout), "+r"(r8), "+r"(r9)
		:
		: "rcx", "r11", "memory");
	if (fd != epoll_fd || events != &event || max != 1 || timeout != timeout_ms ||
		r8 != 0x8888 || r9 != 0x9999)
		return EPROTO;
	return nr < 0 ? (int)-nr : 0;
}

static void prepare_bare(void)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	sigaction(SIGUSR1, &action, NULL);
	wait_fd = epoll_create1(0);
}

static const struct call bare = {"epoll_wait", CALL_MENDED, prepare_bare, run_bare, true};

static struct user_regs_struct child_regs(void)
{
	struct freeze_report report;
	struct thread_state *states;
	size_t n;
	struct user_regs_struct regs;
	CU_ASSERT_EQUAL_FATAL(tracer_freeze(tracer, NS_PER_S, &report, &err), 0);
	CU_ASSERT_EQUAL_FATAL(tracer_thread_states(tracer, &states, &n, &err), 0);
	memcpy(&regs, states[0].regsets[0].data, sizeof(regs));
	thread_states_free(states, n);
	CU_ASSERT_EQUAL_FATAL(tracer_thaw(tracer, TRACER_RUN, &err), 0);
	return regs;
}

static void test_a_wait_that_is_shortened_looks_like_the_programs_own(void)
{
	CU_ASSERT_TRUE_FATAL(child_start(&bare));
	await_call(0);
	struct user_regs_struct first = child_regs();
	CU_ASSERT_EQUAL(first.r10, bare_timeout_ms());
	for (unsigned i = 0; i < 5; i++) {
		struct user_regs_struct next = child_regs();
		CU_ASSERT_EQUAL(memcmp(&first, &next, sizeof(first)), 0);
		size_t rewritten = 0;
		inject(&rewritten);
	}
	await_done(0);
	CU_ASSERT_EQUAL(shared->answer, 0);
}

static void test_a_handler_ends_a_wait_that_was_shortened(void)
{
	CU_ASSERT_TRUE_FATAL(child_start(&bare));
	for (unsigned round = 0; round < 5; round++) {
		unsigned done = shared->done;
		await_call(done);
		child_regs();
		child_regs();
		/* One that comes between the stop and the call that is begun again finds no call
		 * to end, as after any stop. */
		await_call(done);
		kill(child, SIGUSR1);
		await_done(done);
		CU_ASSERT_EQUAL(shared->handled, round + 1);
		CU_ASSERT_EQUAL(shared->answer, EINTR);
		shared->answer = 0;
	}
	CU_ASSERT(shared->shortest_ns < (uint64_t)bare_timeout_ms() * NS_PER_MS);
}

/* More threads wait than there are slots; those without one are unharmed, and an injection still
 * finds one. */
static void *wait_bare(void *arg)
{
	for (;;)
		if (run_bare() != 0)
			__atomic_store_n(&shared->answer, EPROTO, __ATOMIC_RELAXED);
	return arg;
}

static void prepare_many(void)
{
	prepare_bare();
	pthread_t thread;
	for (unsigned i = 0; i < 40; i++)
		pthread_create(&thread, NULL, wait_bare, NULL);
}

static const struct call many = {"epoll_wait", CALL_MENDED, prepare_many, run_bare, true};

static void test_more_waits_than_slots_do_no_harm(void)
{
	CU_ASSERT_TRUE_FATAL(child_start(&many));
	size_t rewritten = 0;
	for (unsigned i = 0; i < 20; i++) {
		freeze_and_thaw(&rewritten);
		inject(&rewritten);
	}
	await_done(shared->done);
	CU_ASSERT_EQUAL(shared->answer, 0);
	CU_ASSERT(rewritten > 0);
}
#endif

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_no_call_notices_a_freeze),
		TEST(test_no_call_notices_an_injection),
		TEST(test_freezes_do_not_make_timeouts_late),
#ifdef __x86_64__
		TEST(test_a_wait_that_is_shortened_looks_like_the_programs_own),
		TEST(test_a_handler_ends_a_wait_that_was_shortened),
		TEST(test_more_waits_than_slots_do_no_harm),
#endif
		{NULL, NULL},
	};
	return harness_main(argc, argv, "restart", tests, setup, teardown);
}
