/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/harness.h"
#include "tracker/process.h"

static pid_t child;
static int ready[2], go[2];
static struct process *process;
static struct tide_error err;

static void setup(void)
{
	CU_ASSERT_EQUAL_FATAL(pipe(ready), 0);
	CU_ASSERT_EQUAL_FATAL(pipe(go), 0);
	child = 0;
	process = NULL;
	err = (struct tide_error){0};
}

static void teardown(void)
{
	process_close(process);
	if (child > 0) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	for (unsigned i = 0; i < 2; i++) {
		close(ready[i]);
		close(go[i]);
	}
}

static void child_say_ready(void)
{
	if (write(ready[1], "r", 1) != 1)
		_exit(1);
}

static void child_await_go(void)
{
	char byte;
	if (read(go[0], &byte, 1) != 1)
		_exit(1);
}

static void child_start(void (*fn)(void))
{
	fflush(NULL);
	child = fork();
	CU_ASSERT_FATAL(child >= 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn();
		_exit(0);
	}
}

static void await_ready(void)
{
	char byte;
	CU_ASSERT_EQUAL_FATAL(read(ready[0], &byte, 1), 1);
}

static void child_wait(void)
{
	child_say_ready();
	child_await_go();
	child_await_go();
}

static void child_exec(void)
{
	child_say_ready();
	child_await_go();
	dup2(go[0], STDIN_FILENO);
	dup2(ready[1], STDOUT_FILENO);
	execlp("cat", "cat", (char *)NULL);
}

static void *thread_wait(void *arg)
{
	/* The leader is dead once its state says so; it exits at about the same time as this runs.
	 */
	(void)arg;
	child_say_ready();
	child_await_go();
	return NULL;
}

static void child_without_leader(void)
{
	pthread_t thread;
	pthread_create(&thread, NULL, thread_wait, NULL);
	pthread_exit(NULL);
}

static void test_a_process_opens_and_reads(void)
{
	child_start(child_wait);
	await_ready();
	CU_ASSERT_EQUAL_FATAL(process_open(child, &process, &err), 0);
	CU_ASSERT_EQUAL(process->pid, child);
	CU_ASSERT(process->start_time > 0);
	CU_ASSERT_EQUAL(process_check(process, &err), 0);
	CU_ASSERT_EQUAL(process_find_thread(process), child);

	pid_t pid;
	CU_ASSERT_EQUAL(pread(process->mem_fd, &pid, sizeof(pid), (off_t)(uintptr_t)&child), 4);
	CU_ASSERT_EQUAL(pid, 0); /* the child's own copy, from before fork() answered */

	auto_free char *maps = NULL;
	size_t len = 0;
	CU_ASSERT_EQUAL_FATAL(process_read_file(process, "maps", &maps, &len, &err), 0);
	CU_ASSERT_EQUAL(strlen(maps), len);
	CU_ASSERT_PTR_NOT_NULL(strstr(maps, "[stack]"));
}

static void test_files_longer_than_the_first_buffer_are_read_whole(void)
{
	child_start(child_wait);
	await_ready();
	CU_ASSERT_EQUAL_FATAL(process_open(child, &process, &err), 0);
	char *smaps = NULL;
	size_t len = 0;
	CU_ASSERT_EQUAL_FATAL(process_read_file(process, "smaps", &smaps, &len, &err), 0);
	CU_ASSERT(len > 16384);
	CU_ASSERT_EQUAL(strlen(smaps), len);
	CU_ASSERT_PTR_NOT_NULL(strstr(smaps, "[stack]"));
	free(smaps);
}

static void test_a_process_that_ended_is_gone(void)
{
	child_start(child_wait);
	await_ready();
	CU_ASSERT_EQUAL_FATAL(process_open(child, &process, &err), 0);
	kill(child, SIGKILL);
	struct pollfd exited = {.fd = process->pid_fd, .events = POLLIN};
	CU_ASSERT_EQUAL_FATAL(poll(&exited, 1, -1), 1);

	CU_ASSERT_EQUAL(process_check(process, &err), -ESRCH);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "has ended"));
	CU_ASSERT_EQUAL(process_thread_state(process, child), 'Z');
	CU_ASSERT_EQUAL(process_find_thread(process), 0);

	struct process *again = NULL;
	CU_ASSERT_EQUAL(process_open(child, &again, &err), -ESRCH);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "zombie"));
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_TARGET_GONE);

	pid_t gone = child;
	child = 0;
	waitpid(gone, NULL, 0);
	CU_ASSERT_EQUAL(process_thread_state(process, gone), 0);
	char *maps = NULL;
	size_t len = 0;
	CU_ASSERT_EQUAL(process_read_file(process, "maps", &maps, &len, &err), -ESRCH);
	CU_ASSERT_EQUAL(process_check(process, &err), -ESRCH);
}

static void test_an_exec_makes_another_process_of_it(void)
{
	child_start(child_exec);
	await_ready();
	CU_ASSERT_EQUAL_FATAL(process_open(child, &process, &err), 0);
	CU_ASSERT_EQUAL_FATAL(write(go[1], "gx", 2), 2);
	await_ready(); /* cat has copied the x: the exec is over */
	CU_ASSERT_EQUAL(process_check(process, &err), -ESRCH);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "exec"));
}

static void test_the_threads_of_a_dead_leader_are_followed(void)
{
	child_start(child_without_leader);
	await_ready();
	siginfo_t info;
	/* A leader with threads left does not report, so its end is seen in its state alone. */
	CU_ASSERT_EQUAL(waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT), 0);
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/stat", child);
	for (char state = 0; state != 'Z';) {
		auto_fclose FILE *f = fopen(path, "re");
		CU_ASSERT_EQUAL_FATAL(fscanf(f, "%*d %*s %c", &state), 1);
	}

	CU_ASSERT_EQUAL_FATAL(process_open(child, &process, &err), 0);
	CU_ASSERT_EQUAL(process_check(process, &err), 0);
	CU_ASSERT_NOT_EQUAL(process_find_thread(process), child);
	CU_ASSERT_NOT_EQUAL(process_find_thread(process), 0);
	pid_t pid;
	CU_ASSERT_EQUAL(pread(process->mem_fd, &pid, sizeof(pid), (off_t)(uintptr_t)&child), 4);
	auto_free char *maps = NULL;
	size_t len = 0;
	CU_ASSERT_EQUAL(process_read_file(process, "maps", &maps, &len, &err), 0);
	CU_ASSERT(len > 0);
}

static void *thread_show_tid(void *arg)
{
	*(pid_t *)arg = (pid_t)syscall(SYS_gettid);
	child_say_ready();
	child_await_go();
	return NULL;
}

static void test_what_cannot_be_followed_is_refused_in_words(void)
{
	CU_ASSERT_EQUAL(process_open(getpid(), &process, &err), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "ourselves"));
	CU_ASSERT_EQUAL(process_open(0, &process, &err), -EINVAL);
	CU_ASSERT_EQUAL(process_open(-3, &process, &err), -EINVAL);

	pid_t tid = 0;
	pthread_t thread;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, thread_show_tid, &tid), 0);
	await_ready();
	CU_ASSERT_EQUAL(process_open(tid, &process, &err), -EINVAL);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "a thread of process"));
	CU_ASSERT_EQUAL(write(go[1], "g", 1), 1);
	pthread_join(thread, NULL);
	CU_ASSERT_PTR_NULL(process);
}

static void test_a_kernel_thread_is_refused(void)
{
	char comm[32] = "";
	auto_fclose FILE *f = fopen("/proc/2/comm", "re");
	if (!f || !fgets(comm, sizeof(comm), f) || strcmp(comm, "kthreadd\n") != 0)
		harness_skip("no kernel threads are to be seen in this pid namespace");
	CU_ASSERT_EQUAL(process_open(2, &process, &err), -EOPNOTSUPP);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "kernel thread"));
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_UNSUPPORTED);
}

static void child_open_parent(void)
{
	/* 65534 is nobody; the parent runs as somebody else. */
	if (setresuid(65534, 65534, 65534) != 0)
		_exit(77);
	struct process *p = NULL;
	int r = process_open(getppid(), &p, &err);
	_exit(r == -EACCES || r == -EPERM ? 0 : 1);
}

static void test_somebody_elses_process_is_refused(void)
{
	if (geteuid() != 0)
		harness_skip("only root can become somebody else");
	child_start(child_open_parent);
	int status = 0;
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	child = 0;
	CU_ASSERT(WIFEXITED(status));
	CU_ASSERT_EQUAL(WEXITSTATUS(status), 0);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_a_process_opens_and_reads),
		TEST(test_files_longer_than_the_first_buffer_are_read_whole),
		TEST(test_a_process_that_ended_is_gone),
		TEST(test_an_exec_makes_another_process_of_it),
		TEST(test_the_threads_of_a_dead_leader_are_followed),
		TEST(test_what_cannot_be_followed_is_refused_in_words),
		TEST(test_a_kernel_thread_is_refused),
		TEST(test_somebody_elses_process_is_refused),
		{NULL, NULL},
	};
	return harness_main(argc, argv, "process", tests, setup, teardown);
}
