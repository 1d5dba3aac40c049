/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/background.h"
#include "tests/harness.h"

static int own(void)
{
	return getpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid));
}

/* In a process of its own: there may be no way back. */
static int in_child(int (*body)(void))
{
	int status = 0;
	pid_t pid = fork();
	CU_ASSERT_TRUE_FATAL(pid >= 0);
	if (pid == 0)
		_exit(body());
	CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int goes_and_returns(void)
{
	pid_t tid = (pid_t)syscall(SYS_gettid);
	int before = own();
	background_set(tid, before, true);
	if (own() <= before)
		return 1;
	background_set(tid, before, false);
	return own() == before ? 0 : 2;
}

static void test_a_thread_goes_and_returns(void)
{
	if (!background_ends())
		harness_skip("needs CAP_SYS_NICE");
	CU_ASSERT_EQUAL(in_child(goes_and_returns), 0);
}

static int finds_no_way_back(void)
{
	const struct rlimit none = {0};
	int before = own();
	if (setrlimit(RLIMIT_NICE, &none) < 0 || (geteuid() == 0 && setuid(65534) < 0))
		return 1;
	if (background_ends())
		return 2;
	/* To ask has not moved anybody who asked. */
	return own() == before ? 0 : 3;
}

static void test_it_is_known_where_there_is_no_way_back(void)
{
	CU_ASSERT_EQUAL(in_child(finds_no_way_back), 0);
}

static int is_as_nice_as_can_be(void)
{
	pid_t tid = (pid_t)syscall(SYS_gettid);
	if (setpriority(PRIO_PROCESS, (id_t)tid, 15) < 0)
		return 1;
	background_set(tid, 15, true);
	return own() == 19 ? 0 : 2;
}

static void test_nobody_goes_beyond_the_last(void)
{
	CU_ASSERT_EQUAL(in_child(is_as_nice_as_can_be), 0);
}

static const struct test tests[] = {
	TEST(test_a_thread_goes_and_returns),
	TEST(test_it_is_known_where_there_is_no_way_back),
	TEST(test_nobody_goes_beyond_the_last),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "background", tests, NULL, NULL);
}
