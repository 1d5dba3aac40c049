/* SPDX-License-Identifier: MIT */
/* Does any system call notice that its process was frozen, or that a descriptor was created in it?
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "tests/harness.h"
#include "tests/system/calls.h"
#include "tracker/process.h"
#include "tracker/tracer.h"

#define ROUNDS 10

static struct shared {
	volatile unsigned begun, done;
	volatile int answer; /* the first that was wrong */
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
		shared->begun++;
		int answer = c->run();
		if (answer && !shared->answer)
			shared->answer = answer;
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
		sched_yield();
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
		sched_yield();
}

static void await_done(unsigned done)
{
	while (shared->done == done)
		sched_yield();
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
	for (unsigned round = 0; round < ROUNDS; round++) {
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

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_no_call_notices_a_freeze),
		TEST(test_no_call_notices_an_injection),
		{NULL, NULL},
	};
	return harness_main(argc, argv, "restart", tests, setup, teardown);
}
