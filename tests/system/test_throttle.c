/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "tests/harness.h"
#include "tracker/process.h"
#include "tracker/throttle.h"
#include "tracker/throttle_cgroup.h"
#include "tracker/throttle_guard.h"

/* The child counts for as long as it has a processor. */
static struct shared {
	volatile uint64_t count;
	volatile uint64_t continued; /* SIGCONTs that it was told of */
	volatile int ready;
	volatile pid_t guard;
} * shared;
static pid_t child, other;
static struct process *process;
static struct throttle *throttle;
static struct tide_error err;
static char group[PATH_MAX]; /* a cgroup of the test's own, or "" */
static bool lent_cpu;        /* the root group gave its children no part before the test */

#define HIERARCHY "/sys/fs/cgroup"

static void setup(void)
{
	shared = mmap(
		NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CU_ASSERT_NOT_EQUAL_FATAL(shared, MAP_FAILED);
	child = other = 0;
	process = NULL;
	throttle = NULL;
	group[0] = '\0';
	lent_cpu = false;
}

static bool put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	if (fd >= 0)
		close(fd);
	return done;
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
	throttle_free(throttle);
	process_close(process);
	end(&other);
	end(&child);
	if (group[0])
		rmdir(group);
	if (lent_cpu)
		put(HIERARCHY "/cgroup.subtree_control", "-cpu");
	munmap(shared, sizeof(*shared));
}

static void on_cont(int signal)
{
	(void)signal;
	shared->continued++;
}

static void count_for_ever(void)
{
	for (;;)
		shared->count++;
}

/* Waits in the kernel for ever, and notes what disturbs it. */
static void wait_for_ever(void)
{
	for (;;)
		pause();
}

static void start(void (*body)(void))
{
	child = fork();
	CU_ASSERT_TRUE_FATAL(child >= 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		struct sigaction note = {.sa_handler = on_cont};
		sigaction(SIGCONT, &note, NULL);
		shared->ready = 1;
		body();
	}
	while (!shared->ready)
		harness_pause();
	CU_ASSERT_EQUAL_FATAL(process_open(child, &process, &err), 0);
}

static void make_throttle(void)
{
	int r = throttle_new(process, &throttle, &err);
	if (r < 0)
		printf("%s\n", err.text);
	CU_ASSERT_EQUAL_FATAL(r, 0);
}

static double count_for_a_while(void)
{
	enum { TURN_US = 200000 };
	uint64_t began_ns = clock_now_ns(), count = shared->count;
	usleep(TURN_US);
	return (double)(shared->count - count) / (double)(clock_now_ns() - began_ns);
}

/* What is left of its speed; by turns. */
static double speed_left(unsigned percent)
{
	enum { TURNS = 6 };
	double free = 0, throttled = 0;
	for (int i = 0; i < TURNS; i++) {
		CU_ASSERT_EQUAL(throttle_set(throttle, 0, &err), 0);
		free += count_for_a_while();
		CU_ASSERT_EQUAL(throttle_set(throttle, percent, &err), 0);
		throttled += count_for_a_while();
	}
	return throttled / free;
}

static char state(void)
{
	return process_thread_state(process, child);
}

static void expect_running_on(void)
{
	uint64_t count = shared->count;
	while (shared->count < count + 1000)
		harness_pause();
	for (int i = 0; i < 100; i++)
		CU_ASSERT_EQUAL(state(), 'R');
}

static void wait_for_a_stop(void)
{
	while (state() != 'T')
		sched_yield();
}

/* For so many slices of the guard: it sleeps once in each at least. */
static uint64_t guard_slept(void)
{
	char path[64], line[128];
	unsigned long long times = 0;
	snprintf(path, sizeof(path), "/proc/%d/status", throttle_guard_pid(throttle));
	FILE *f = fopen(path, "re");
	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	while (fgets(line, sizeof(line), f))
		(void)sscanf(line, "voluntary_ctxt_switches: %llu", &times);
	fclose(f);
	return times;
}

static void pass_slices(unsigned n)
{
	uint64_t slept = guard_slept();
	while (guard_slept() < slept + n)
		harness_pause();
}

static bool guard_is_gone(pid_t guard)
{
	char path[64], text[256] = "";
	snprintf(path, sizeof(path), "/proc/%d/stat", guard);
	FILE *f = fopen(path, "re");
	if (!f)
		return true;
	size_t n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	return n == 0 || strstr(text, ") Z ") != NULL;
}

/* --- text
 * --------------------------------------------------------------------------------------- */

static void test_a_limit_is_part_of_what_was_used(void)
{
	static const struct {
		double cpus;
		unsigned percent;
		const char *before, *text;
	} cases[] = {
		{1, 20, "max 100000", "8000 10000"},
		{3.5, 50, "max 100000", "17500 10000"},
		/* The least quota is a millisecond, so that the period grows. */
		{1, 95, "max 100000", "1000 20000"},
		{1, 99, "", "1000 100000"},
		{0.1, 99, "", "1000 1000000"},
		/* A lower limit stays. */
		{1, 20, "50000 100000", "5000 10000"},
		{0, 50, "", "1000 1000000"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[CPU_MAX_TEXT];
		throttle_cpu_max(cases[i].cpus, cases[i].percent, cases[i].before, text);
		CU_ASSERT_STRING_EQUAL(text, cases[i].text);
	}
}

static void test_the_group_is_found_where_it_is_mounted(void)
{
	static const char mounts[] = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
				     "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
				     "41 31 0:38 /pod /sys/fs/cgroup/unified rw,relatime shared:4 "
				     "- cgroup2 cgroup2 rw\n";
	char place[256];
	CU_ASSERT_TRUE(
		throttle_cgroup_place(mounts, "2:cpu:/x\n0::/pod/a b\n", place, sizeof(place)));
	CU_ASSERT_STRING_EQUAL(place, "/sys/fs/cgroup/unified/a b");
	CU_ASSERT_TRUE(throttle_cgroup_place(mounts, "0::/pod\n", place, sizeof(place)));
	CU_ASSERT_STRING_EQUAL(place, "/sys/fs/cgroup/unified");
	/* Not what only begins like it, nor what is outside. */
	CU_ASSERT_FALSE(throttle_cgroup_place(mounts, "0::/podium\n", place, sizeof(place)));
	CU_ASSERT_FALSE(throttle_cgroup_place(mounts, "0::/../pod\n", place, sizeof(place)));
	CU_ASSERT_FALSE(throttle_cgroup_place(mounts, "2:cpu:/x\n", place, sizeof(place)));
	CU_ASSERT_FALSE(throttle_cgroup_place("", "0::/pod\n", place, sizeof(place)));
}

static void test_stops_are_in_proportion(void)
{
	for (unsigned percent = 1; percent <= 99; percent++) {
		struct throttle_word alone = {.percent = percent, .cpus = 1},
				     four = {.percent = percent, .cpus = 4},
				     busy = {.percent = percent, .cpus = 0.5};
		uint64_t ran = throttle_run_ns(percent);
		double stopped = (double)throttle_stop_ns(alone, ran, ran);
		CU_ASSERT_DOUBLE_EQUAL(stopped / ((double)ran + stopped), percent / 100.0, 0.001);
		CU_ASSERT_TRUE((double)ran + stopped <= 20.1 * NS_PER_MS);
		/* Of four threads four times as much is taken. */
		CU_ASSERT_EQUAL(throttle_stop_ns(four, ran, 4 * ran), (int64_t)stopped);
		/* Where it had half a processor, a whole one for half of the time is not less. */
		double longer = (double)throttle_stop_ns(busy, ran, ran);
		CU_ASSERT_DOUBLE_EQUAL(
			(double)ran / ((double)ran + longer), (100 - percent) / 200.0, 0.001);
	}
	struct throttle_word half = {.percent = 50, .cpus = 1};
	CU_ASSERT_TRUE(throttle_stop_ns(half, 1000000, 100000) < 0);
	CU_ASSERT_EQUAL(throttle_stop_ns(half, 1000000, 0), -1000000);
}

/* --- live
 * --------------------------------------------------------------------------------------- */

/* What others do on the machine changes from turn to turn, so that one measurement may be wrong;
 * not all of them are. */
static bool is_slowed_by(unsigned percent)
{
	enum { TRIES = 10 };
	double wanted = 1 - percent / 100.0;
	for (int i = 0; i < TRIES; i++) {
		double left = speed_left(percent);
		printf("%u %% leaves %.2f, ", percent, left);
		if (left >= wanted / 1.5 && left <= wanted * 1.5)
			return true;
	}
	return false;
}

static void test_a_process_is_slowed_by_so_much(void)
{
	static const unsigned percents[] = {50, 80, 95};
	if (harness_is_emulated())
		harness_skip("what is timed on an emulated processor says nothing");
	start(count_for_ever);
	make_throttle();
	CU_ASSERT_EQUAL(throttle_set(throttle, 1, &err), 0);
	printf("by %s: ", throttle_means(throttle));
	for (size_t i = 0; i < sizeof(percents) / sizeof(percents[0]); i++)
		CU_ASSERT_TRUE(is_slowed_by(percents[i]));
}

static void test_it_runs_when_the_throttle_was_let_go(void)
{
	start(count_for_ever);
	make_throttle();
	for (int i = 0; i < 20; i++) {
		CU_ASSERT_EQUAL(throttle_set(throttle, 90, &err), 0);
		pass_slices(1 + i % 3);
		CU_ASSERT_EQUAL(throttle_set(throttle, 0, &err), 0);
		CU_ASSERT_NOT_EQUAL(state(), 'T');
	}
	CU_ASSERT_EQUAL(throttle_set(throttle, 99, &err), 0);
	throttle_pause(throttle);
	expect_running_on();
	throttle_resume(throttle);
	wait_for_a_stop();
	throttle_free(throttle);
	throttle = NULL;
	expect_running_on();
}

static void test_a_process_that_waits_is_not_disturbed(void)
{
	start(wait_for_ever);
	make_throttle();
	CU_ASSERT_EQUAL(throttle_set(throttle, 50, &err), 0);
	pass_slices(30);
	CU_ASSERT_EQUAL(shared->continued, 0);
}

/* In a process of its own, which tells the guard's number, and is killed. */
static void throttle_and_wait(unsigned percent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (process_open(child, &process, &err) < 0 || throttle_new(process, &throttle, &err) < 0 ||
		throttle_set(throttle, percent, &err) < 0)
		_exit(1);
	shared->guard = throttle_guard_pid(throttle);
	pause();
}

static void test_it_is_let_go_when_the_tracker_is_killed(void)
{
	start(count_for_ever);
	for (int i = 0; i < 10; i++) {
		shared->guard = 0;
		other = fork();
		CU_ASSERT_TRUE_FATAL(other >= 0);
		if (other == 0)
			throttle_and_wait(95);
		while (!shared->guard)
			harness_pause();
		pid_t guard = shared->guard;
		wait_for_a_stop();
		end(&other);
		while (!guard_is_gone(guard))
			harness_pause();
		expect_running_on();
	}
}

static void test_it_is_let_go_when_the_guard_is_killed(void)
{
	start(count_for_ever);
	for (int i = 0; i < 10; i++) {
		make_throttle();
		CU_ASSERT_EQUAL(throttle_set(throttle, 95, &err), 0);
		wait_for_a_stop();
		CU_ASSERT_EQUAL(kill(throttle_guard_pid(throttle), SIGKILL), 0);
		/* One that the guard ended by itself is followed by none. */
		while (!guard_is_gone(throttle_guard_pid(throttle)) || state() == 'T')
			harness_pause();
		expect_running_on();
		throttle_pause(throttle);
		throttle_resume(throttle);
		CU_ASSERT_TRUE(throttle_is_lost(throttle));
		CU_ASSERT_EQUAL(throttle_set(throttle, 50, &err), -EPIPE);
		expect_running_on();
		CU_ASSERT_EQUAL(throttle_set(throttle, 0, &err), 0);
		throttle_free(throttle);
		throttle = NULL;
	}
}

static void test_a_guard_that_is_stopped_is_ended(void)
{
	start(count_for_ever);
	make_throttle();
	CU_ASSERT_EQUAL(throttle_set(throttle, 95, &err), 0);
	wait_for_a_stop();
	CU_ASSERT_EQUAL(kill(throttle_guard_pid(throttle), SIGSTOP), 0);
	CU_ASSERT_EQUAL(throttle_set(throttle, 0, &err), 0);
	expect_running_on();
}

static void test_the_guard_holds_little_and_hears_little(void)
{
	start(count_for_ever);
	int leaked = open("/dev/null", O_RDONLY);
	make_throttle();
	CU_ASSERT_EQUAL(throttle_set(throttle, 50, &err), 0);
	pid_t guard = throttle_guard_pid(throttle);
	CU_ASSERT_EQUAL(getsid(guard), guard);
	const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGUSR1, SIGQUIT, SIGRTMIN};
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		CU_ASSERT_EQUAL(kill(guard, signals[i]), 0);
	pass_slices(5);

	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/fd", guard);
	DIR *d = opendir(path);
	CU_ASSERT_PTR_NOT_NULL_FATAL(d);
	int held = 0;
	for (struct dirent *e; (e = readdir(d));) {
		if (e->d_name[0] == '.')
			continue;
		held++;
		CU_ASSERT_TRUE(strtol(e->d_name, NULL, 10) > 2);
		CU_ASSERT_TRUE(strtol(e->d_name, NULL, 10) != leaked);
	}
	closedir(d);
	close(leaked);
	CU_ASSERT_TRUE(held <= 8);
	/* Nobody finds a child that he did not make. */
	int status;
	CU_ASSERT_EQUAL(waitpid(guard, &status, WNOHANG), -1);
}

static rlim_t count_descriptors(void)
{
	rlim_t n = 0;
	DIR *d = opendir("/proc/self/fd");
	while (readdir(d))
		n++;
	closedir(d);
	return n - 3; /* ".", ".." and that of the folder */
}

static void test_what_could_not_begin_may_begin_later(void)
{
	struct rlimit before, none;
	start(count_for_ever);
	make_throttle();
	CU_ASSERT_EQUAL_FATAL(getrlimit(RLIMIT_NOFILE, &before), 0);
	rlim_t held = count_descriptors();
	/* From none to so many that it nearly begins. */
	for (rlim_t more = 0; more < 6; more++) {
		none = (struct rlimit){held + more, before.rlim_max};
		setrlimit(RLIMIT_NOFILE, &none);
		int r = throttle_set(throttle, 50, &err);
		setrlimit(RLIMIT_NOFILE, &before);
		if (r == 0)
			break;
		CU_ASSERT_TRUE(more < 5);
		CU_ASSERT_EQUAL(r, -EMFILE);
		CU_ASSERT_EQUAL(count_descriptors(), held);
		expect_running_on();
	}
	CU_ASSERT_EQUAL(throttle_set(throttle, 95, &err), 0);
	wait_for_a_stop();
	CU_ASSERT_FALSE(throttle_is_lost(throttle));
	throttle_free(throttle);
	throttle = NULL;
	CU_ASSERT_EQUAL(count_descriptors(), held);
}

static void test_a_stopped_process_is_left_alone(void)
{
	start(count_for_ever);
	CU_ASSERT_EQUAL(kill(child, SIGSTOP), 0);
	wait_for_a_stop();
	make_throttle();
	CU_ASSERT_EQUAL(throttle_set(throttle, 50, &err), -ECANCELED);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "stopped"));
	CU_ASSERT_EQUAL(state(), 'T');
	CU_ASSERT_EQUAL(shared->continued, 0);
}

/* A stop of its user that falls into one of ours is lost; any other stays. */
static void test_a_stop_of_its_user_stays(void)
{
	start(count_for_ever);
	make_throttle();
	CU_ASSERT_EQUAL(throttle_set(throttle, 10, &err), 0);
	bool stays = false;
	for (int tries = 0; !stays && tries < 100; tries++) {
		kill(child, SIGSTOP);
		pass_slices(10);
		uint64_t count = shared->count;
		pass_slices(20);
		stays = shared->count == count && state() == 'T';
	}
	CU_ASSERT_TRUE(stays);
	throttle_free(throttle);
	throttle = NULL;
	CU_ASSERT_EQUAL(state(), 'T');
}

static void test_the_end_of_the_process_ends_the_throttle(void)
{
	start(count_for_ever);
	make_throttle();
	CU_ASSERT_EQUAL(throttle_set(throttle, 95, &err), 0);
	wait_for_a_stop();
	end(&child);
	while (!guard_is_gone(throttle_guard_pid(throttle)))
		harness_pause();
	CU_ASSERT_EQUAL(throttle_set(throttle, 0, &err), 0);
}

/* --- cgroups
 * --------------------------------------------------------------------------------------- */

static void read_line(const char *path, char *ret, size_t cap)
{
	FILE *f = fopen(path, "re");
	ret[0] = '\0';
	if (f && fgets(ret, (int)cap, f))
		ret[strcspn(ret, "\n")] = '\0';
	if (f)
		fclose(f);
}

/* Where the root group's children have cpu.max, or can have it for a while. */
static void want_cpu_in_cgroups(void)
{
	char have[256], control[256];
	read_line(HIERARCHY "/cgroup.controllers", have, sizeof(have));
	if (!strstr(have, "cpu ") && !strstr(have, " cpu"))
		harness_skip("no cpu controller of cgroup version 2");
	read_line(HIERARCHY "/cgroup.subtree_control", control, sizeof(control));
	if (strstr(control, "cpu ") || strcmp(control, "cpu") == 0)
		return;
	if (!put(HIERARCHY "/cgroup.subtree_control", "+cpu"))
		harness_skip("the root cgroup gives no part of the processors");
	lent_cpu = true;
}

static void group_file(const char *name, char *ret, size_t cap)
{
	char path[PATH_MAX + 64];
	snprintf(path, sizeof(path), "%s/%s", group, name);
	read_line(path, ret, cap);
}

static void group_of_child(char *ret, size_t cap)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/cgroup", child);
	FILE *f = fopen(path, "re");
	char line[512];
	ret[0] = '\0';
	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "0::", 3) == 0)
			snprintf(ret, cap, "%.*s", (int)strcspn(line + 3, "\n"), line + 3);
	}
	if (f)
		fclose(f);
}

static void start_in_group(void)
{
	char path[PATH_MAX + 64], text[32];
	want_cpu_in_cgroups();
	start(count_for_ever);
	snprintf(group, sizeof(group), HIERARCHY "/tidemark-test-%d", child);
	if (mkdir(group, 0755) < 0)
		harness_skip("no cgroup can be made");
	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	snprintf(text, sizeof(text), "%d", child);
	CU_ASSERT_TRUE_FATAL(put(path, text));
}

static void wait_for_group_file(const char *name, const char *text)
{
	char is[256];
	do {
		harness_pause();
		group_file(name, is, sizeof(is));
	} while (strcmp(is, text) != 0);
}

static void test_a_process_alone_in_its_group_has_its_limit_set_and_put_back(void)
{
	char before[64] = "150000 100000", now[64], path[PATH_MAX + 64];
	start_in_group();
	snprintf(path, sizeof(path), "%s/cpu.max", group);
	CU_ASSERT_TRUE_FATAL(put(path, before));
	make_throttle();
	CU_ASSERT_EQUAL(throttle_set(throttle, 50, &err), 0);
	CU_ASSERT_STRING_EQUAL(throttle_means(throttle), "cpu.max");
	group_file("cpu.max", now, sizeof(now));
	CU_ASSERT_STRING_NOT_EQUAL(now, before);
	uint64_t count = shared->count;
	while (shared->count < count + 1000)
		harness_pause();
	CU_ASSERT_NOT_EQUAL(state(), 'T');
	CU_ASSERT_EQUAL(throttle_set(throttle, 0, &err), 0);
	group_file("cpu.max", now, sizeof(now));
	CU_ASSERT_STRING_EQUAL(now, before);

	/* The guard goes: the tracker puts it back. */
	CU_ASSERT_EQUAL(throttle_set(throttle, 90, &err), 0);
	kill(throttle_guard_pid(throttle), SIGKILL);
	wait_for_group_file("cpu.max", before);
	throttle_free(throttle);
	throttle = NULL;

	/* The tracker goes: the guard does. */
	process_close(process);
	process = NULL;
	other = fork();
	CU_ASSERT_TRUE_FATAL(other >= 0);
	if (other == 0)
		throttle_and_wait(90);
	while (!shared->guard)
		harness_pause();
	group_file("cpu.max", now, sizeof(now));
	CU_ASSERT_STRING_NOT_EQUAL(now, before);
	end(&other);
	wait_for_group_file("cpu.max", before);
}

static void wait_for_group_of_child(const char *wanted)
{
	char now[256];
	do {
		harness_pause();
		group_of_child(now, sizeof(now));
	} while (strcmp(now, wanted) != 0);
}

static void test_a_process_in_company_is_moved_and_moved_back(void)
{
	char before[256], now[256], folder[PATH_MAX];
	want_cpu_in_cgroups();
	start(count_for_ever);
	group_of_child(before, sizeof(before));
	if (strcmp(before, "/") != 0)
		harness_skip("the test is in a group whose children have no limits");
	snprintf(folder, sizeof(folder), HIERARCHY "/tidemark-throttle-%d", child);
	for (int killed = 0; killed < 3; killed++) {
		shared->guard = 0;
		other = fork();
		CU_ASSERT_TRUE_FATAL(other >= 0);
		if (other == 0)
			throttle_and_wait(80);
		while (!shared->guard)
			harness_pause();
		group_of_child(now, sizeof(now));
		CU_ASSERT_PTR_NOT_NULL(strstr(now, "tidemark-throttle"));
		CU_ASSERT_EQUAL(access(folder, F_OK), 0);
		if (killed == 1)
			kill(shared->guard, SIGKILL);
		else
			end(&other);
		wait_for_group_of_child(before);
		end(&other);
		while (!guard_is_gone(shared->guard))
			harness_pause();
	}
	/* With the tracker alone. */
	make_throttle();
	CU_ASSERT_EQUAL(throttle_set(throttle, 80, &err), 0);
	group_of_child(now, sizeof(now));
	CU_ASSERT_PTR_NOT_NULL(strstr(now, "tidemark-throttle"));
	throttle_free(throttle);
	throttle = NULL;
	group_of_child(now, sizeof(now));
	CU_ASSERT_STRING_EQUAL(now, before);
	CU_ASSERT_NOT_EQUAL(access(folder, F_OK), 0);
}

static const struct test tests[] = {
	TEST(test_a_limit_is_part_of_what_was_used),
	TEST(test_the_group_is_found_where_it_is_mounted),
	TEST(test_stops_are_in_proportion),
	TEST(test_a_process_is_slowed_by_so_much),
	TEST(test_it_runs_when_the_throttle_was_let_go),
	TEST(test_a_process_that_waits_is_not_disturbed),
	TEST(test_it_is_let_go_when_the_tracker_is_killed),
	TEST(test_it_is_let_go_when_the_guard_is_killed),
	TEST(test_a_guard_that_is_stopped_is_ended),
	TEST(test_the_guard_holds_little_and_hears_little),
	TEST(test_what_could_not_begin_may_begin_later),
	TEST(test_a_stopped_process_is_left_alone),
	TEST(test_a_stop_of_its_user_stays),
	TEST(test_the_end_of_the_process_ends_the_throttle),
	TEST(test_a_process_alone_in_its_group_has_its_limit_set_and_put_back),
	TEST(test_a_process_in_company_is_moved_and_moved_back),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "throttle", tests, setup, teardown);
}
