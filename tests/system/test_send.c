/* SPDX-License-Identifier: MIT */
/* The main job, end to end: real programs are sent while they write, and the image is held against
 * the stopped process. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/harness.h"
#include "tests/system/fixture.h"
#include "tests/system/oracle.h"

/* argv helper: numbers as text. */
static const char *text_of(long number)
{
	char buf[32];
	snprintf(buf, sizeof(buf), "%ld", number);
	return fixture_path(buf) + strlen(fixture_folder()) + 1;
}

/* Sends, leaving the process stopped, and holds the image against it by a road that shares no code
 * with the tracker. */
static void send_and_compare_over(const struct fixture_agent *agent, struct child *target,
	const char *name, const char *streams)
{
	const char *pid = text_of(target->pid);
	struct child *send = child_run(0, fixture_tidemark(), "send", pid, agent->address, "--name",
		name, "--leave-stopped", "--freeze-timeout", "60s", "--streams", streams, NULL);
	if (send->status != 0)
		CU_FAIL_FATAL("the send failed");
	wait_until_stopped(target->pid);
	CU_ASSERT_EQUAL(process_state_letter(target->pid), 'T');

	char image[512];
	snprintf(image, sizeof(image), "%s/%s", agent->store, name);
	struct oracle_result result;
	CU_ASSERT_EQUAL(oracle_compare(agent->store, name, target->pid, &result), 0);
	CU_ASSERT_EQUAL(result.different_pages, 0);
	CU_ASSERT_TRUE(result.compared_pages > 100);
	printf("%s: %llu pages compared, %llu differ\n", name,
		(unsigned long long)result.compared_pages,
		(unsigned long long)result.different_pages);
	if (result.different_pages)
		printf("%s\n", result.first);

	child_run(0, fixture_tidemark(), "compare", image, pid, NULL);
	child_run(0, fixture_tidemark(), "verify", image, NULL);
	CU_ASSERT_EQUAL(count_userfaultfds(target->pid), 0);
	CU_ASSERT_FALSE(is_registered(target->pid));
}

static void send_and_compare(
	const struct fixture_agent *agent, struct child *target, const char *name)
{
	send_and_compare_over(agent, target, name, "1");
}

static void finish_unharmed(struct child *target)
{
	child_signal(target, SIGCONT);
	child_signal(target, SIGTERM);
	CU_ASSERT_EQUAL(child_finish(target), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(target->text, " 0 wrong"));
	if (target->status)
		printf("%s%s", target->text, target->errors);
}

static void test_a_process_that_keeps_writing_is_sent_exactly(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *writer = child_start(fixture_workload("writer"), "128", "50", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	send_and_compare(&agent, writer, "writer");
	finish_unharmed(writer);
}

static void test_several_connections_carry_one_process(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *writer = child_start(fixture_workload("writer"), "128", "200", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	send_and_compare_over(&agent, writer, "writer", "4");
	finish_unharmed(writer);
}

static void test_many_threads_that_map_and_unmap_are_sent_exactly(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *mapper = child_start(fixture_workload("mapper"), "64", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(mapper, "ready"));
	for (int i = 0; i < 3; i++) {
		char name[16];
		snprintf(name, sizeof(name), "mapper-%d", i);
		send_and_compare(&agent, mapper, name);
		child_signal(mapper, SIGCONT);
	}
	finish_unharmed(mapper);
}

static void test_a_python_process_is_sent_exactly(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *python = child_start("python3", PYTHON_WORKLOAD, NULL);
	if (!child_wait_line(python, "ready"))
		harness_skip("python3 does not run here");
	send_and_compare(&agent, python, "python");
	finish_unharmed(python);
}

static void test_what_goes_on_is_unharmed(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *writer = child_start(fixture_workload("writer"), "64", "100", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	for (int i = 0; i < 3; i++) {
		char name[16];
		snprintf(name, sizeof(name), "again-%d", i);
		child_run(0, fixture_tidemark(), "send", text_of(writer->pid), agent.address,
			"--name", name, NULL);
		child_signal(writer, SIGUSR1);
		CU_ASSERT_PTR_NOT_NULL(child_wait_line(writer, "pass "));
		CU_ASSERT_EQUAL(count_userfaultfds(writer->pid), 0);
		CU_ASSERT_FALSE(is_registered(writer->pid));
	}
	finish_unharmed(writer);
}

static void test_a_killed_process_is_gone_when_its_image_is_there(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *writer = child_start(fixture_workload("writer"), "16", "10", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	child_run(0, fixture_tidemark(), "send", text_of(writer->pid), agent.address, "--name",
		"last", "--kill", NULL);
	CU_ASSERT_EQUAL(child_finish(writer), 128 + SIGKILL);
	struct child *list = child_run(0, fixture_tidemark(), "list", agent.store, "--json", NULL);
	CU_ASSERT_PTR_NOT_NULL(strstr(list->text, "\"name\": \"last\""));
}

static void test_a_recorded_stream_gives_the_same_image(void)
{
	struct child *writer = child_start(fixture_workload("writer"), "32", "20", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	const char *file = fixture_path("recorded"), *store = fixture_path("applied");
	struct child *send = child_run(0, fixture_tidemark(), "send", text_of(writer->pid), file,
		"--leave-stopped", "--freeze-timeout", "60s", NULL);
	if (send->status != 0)
		CU_FAIL_FATAL("the send failed");
	wait_until_stopped(writer->pid);
	child_run(0, fixture_tidemark(), "apply", file, "--store", store, "--name", "it", NULL);

	struct oracle_result result;
	CU_ASSERT_EQUAL(oracle_compare(store, "it", writer->pid, &result), 0);
	CU_ASSERT_EQUAL(result.different_pages, 0);
	finish_unharmed(writer);
}

/* A number of the summary of a send with --json. */
static long summary_number(const struct child *send, const char *name)
{
	char key[64];
	snprintf(key, sizeof(key), "\"%s\": ", name);
	const char *summary = strstr(send->text, "\"summary\"");
	CU_ASSERT_PTR_NOT_NULL_FATAL(summary);
	const char *at = strstr(summary, key);
	CU_ASSERT_PTR_NOT_NULL_FATAL(at);
	return strtol(at + strlen(key), NULL, 10);
}

/* How many pages went as what changed in them. */
static long delta_pages(const struct child *send)
{
	return summary_number(send, "delta_pages");
}

/* A process may write all its memory, and change nothing. */
static void test_pages_that_are_written_as_they_were_do_not_travel(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *counters =
		child_start(fixture_workload("counters"), "24", "50", "same", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(counters, "ready"));
	struct oracle_result result;
	struct child *send = child_run(0, fixture_tidemark(), "send", text_of(counters->pid),
		agent.address, "--name", "same", "--json", "--max-downtime", "1ns",
		"--leave-stopped", "--freeze-timeout", "60s", NULL);
	CU_ASSERT_EQUAL_FATAL(send->status, 0);
	wait_until_stopped(counters->pid);
	long sent = summary_number(send, "pages"), held = summary_number(send, "held_pages");
	long unchanged = summary_number(send, "unchanged_pages");
	printf("%ld pages held, %ld sent, %ld unchanged\n", held, sent, unchanged);
	CU_ASSERT_TRUE(unchanged > 0);
	/* Its stack, and what its libraries write. */
	CU_ASSERT_TRUE(sent - held < unchanged / 10);
	CU_ASSERT_EQUAL(oracle_compare(agent.store, "same", counters->pid, &result), 0);
	CU_ASSERT_EQUAL(result.different_pages, 0);
	finish_unharmed(counters);
}

/* Rounds of a process that counts, in more pages than the cache has room for and in fewer; then its
 * image, byte by byte. */
static void test_changes_of_pages_give_the_same_image(void)
{
	static const char *const caches[] = {"64M", "6M", "0"};
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *counters = child_start(fixture_workload("counters"), "24", "50", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(counters, "ready"));
	for (size_t i = 0; i < sizeof(caches) / sizeof(caches[0]); i++) {
		struct oracle_result result;
		char image[512];
		struct child *send = child_run(0, fixture_tidemark(), "send",
			text_of(counters->pid), agent.address, "--name", caches[i], "--json",
			"--max-downtime", "1ns", "--max-rounds", "6", "--compress",
			i == 1 ? "zstd" : "lz4", "--delta-cache", caches[i], "--leave-stopped",
			"--freeze-timeout", "60s", NULL);
		CU_ASSERT_EQUAL_FATAL(send->status, 0);
		wait_until_stopped(counters->pid);
		printf("--delta-cache %s: %ld pages as their changes\n", caches[i],
			delta_pages(send));
		CU_ASSERT_EQUAL(delta_pages(send) > 0, strcmp(caches[i], "0") != 0);

		CU_ASSERT_EQUAL(oracle_compare(agent.store, caches[i], counters->pid, &result), 0);
		CU_ASSERT_EQUAL(result.different_pages, 0);
		CU_ASSERT_TRUE(result.compared_pages > 24 * 256);
		snprintf(image, sizeof(image), "%s/%s", agent.store, caches[i]);
		child_run(0, fixture_tidemark(), "verify", image, NULL);
		child_signal(counters, SIGCONT);
	}
	finish_unharmed(counters);
}

/* Whatever it finds to be best, and however often it changes its mind. */
static void test_every_way_to_compress_gives_the_same_image(void)
{
	static const char *const codecs[] = {"auto", "none", "lz4", "zstd"};
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *writer = child_start(fixture_workload("writer"), "48", "30", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	for (size_t i = 0; i < sizeof(codecs) / sizeof(codecs[0]); i++) {
		struct oracle_result result;
		struct child *send = child_run(0, fixture_tidemark(), "send", text_of(writer->pid),
			agent.address, "--name", codecs[i], "--json", "--compress", codecs[i],
			"--leave-stopped", "--freeze-timeout", "60s", NULL);
		CU_ASSERT_EQUAL_FATAL(send->status, 0);
		wait_until_stopped(writer->pid);
		CU_ASSERT_EQUAL(oracle_compare(agent.store, codecs[i], writer->pid, &result), 0);
		CU_ASSERT_EQUAL(result.different_pages, 0);

		/* All that was sent went in some form, and in the one that was asked for. */
		long lz4 = summary_number(send, "lz4_pages"),
		     zstd = summary_number(send, "zstd_pages");
		long raw = summary_number(send, "raw_pages");
		CU_ASSERT_EQUAL(lz4 + zstd + raw + summary_number(send, "zero_pages") +
					summary_number(send, "delta_pages"),
			summary_number(send, "pages"));
		CU_ASSERT_TRUE(i == 0 || (lz4 > 0) == (strcmp(codecs[i], "lz4") == 0));
		CU_ASSERT_TRUE(i == 0 || (zstd > 0) == (strcmp(codecs[i], "zstd") == 0));
		CU_ASSERT_EQUAL(summary_number(send, "lz4_saved_bytes") > 0, lz4 > 0);
		child_signal(writer, SIGCONT);
	}
	finish_unharmed(writer);
}

/* Nobody who reads it later has the pages. */
static void test_a_recording_holds_no_changes_alone(void)
{
	struct child *counters = child_start(fixture_workload("counters"), "8", "50", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(counters, "ready"));
	struct child *send = child_run(0, fixture_tidemark(), "send", text_of(counters->pid),
		fixture_path("recorded"), "--json", "--max-downtime", "1ns", "--delta-cache", "64M",
		NULL);
	CU_ASSERT_EQUAL_FATAL(send->status, 0);
	CU_ASSERT_EQUAL(delta_pages(send), 0);
	child_run(0, fixture_tidemark(), "apply", fixture_path("recorded"), "--store",
		fixture_path("applied"), "--name", "it", NULL);
	finish_unharmed(counters);
}

/* tidemark send PID - | tidemark apply - */
static void test_a_stream_goes_through_a_pipe(void)
{
	struct child *writer = child_start(fixture_workload("writer"), "32", "20", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	const char *store = fixture_path("piped");
	char command[1024];
	snprintf(command, sizeof(command),
		"set -o pipefail; '%s' send %d - --leave-stopped | '%s' apply - --store '%s' "
		"--name it",
		fixture_tidemark(), writer->pid, fixture_tidemark(), store);
	child_run(0, "bash", "-c", command, NULL);
	wait_until_stopped(writer->pid);
	struct oracle_result result;
	CU_ASSERT_EQUAL(oracle_compare(store, "it", writer->pid, &result), 0);
	CU_ASSERT_EQUAL(result.different_pages, 0);
	finish_unharmed(writer);
}

static void test_a_changed_page_is_found_by_compare(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *writer = child_start(fixture_workload("writer"), "16", "20", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	send_and_compare(&agent, writer, "before");
	child_signal(writer, SIGCONT);
	child_signal(writer, SIGUSR1);
	CU_ASSERT_PTR_NOT_NULL(child_wait_line(writer, "pass "));
	child_signal(writer, SIGSTOP);
	wait_until_stopped(writer->pid);
	char image[512];
	snprintf(image, sizeof(image), "%s/before", agent.store);
	struct child *compare =
		child_run(1, fixture_tidemark(), "compare", image, text_of(writer->pid), NULL);
	CU_ASSERT_TRUE(compare->len > 0);
	finish_unharmed(writer);
}

static void test_the_program_behind_tcp_is_the_same(void)
{
	struct fixture_agent agent = fixture_agent_start("store", "tcp://127.0.0.1:0");
	struct child *writer = child_start(fixture_workload("writer"), "16", "20", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	send_and_compare(&agent, writer, "tcp");
	finish_unharmed(writer);
}

/*
 * The whole sender, killed wherever it is: preparing, arming, reading, freezing, letting go. Where
 * it dies is left to a fraction of a second that grows; the process must not notice.
 */
static void test_a_killed_send_leaves_the_process_unharmed(void)
{
	enum { KILLS = 60 };
	struct child *writer = child_start(fixture_workload("writer"), "32", "100", NULL);
	struct child *mapper = child_start(fixture_workload("mapper"), "8", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(mapper, "ready"));
	for (int i = 0; i < KILLS; i++) {
		struct child *target = i % 2 ? mapper : writer;
		char command[1024];
		snprintf(command, sizeof(command),
			"exec '%s' send %d - --max-downtime %s >/dev/null 2>&1", fixture_tidemark(),
			target->pid, i % 3 ? "1ns" : "10s");
		pid_t pid = fixture_spawn(command);
		usleep((useconds_t)(i * 1500));
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	child_signal(writer, SIGUSR1);
	CU_ASSERT_PTR_NOT_NULL(child_wait_line(writer, "pass "));
	CU_ASSERT_EQUAL(count_userfaultfds(writer->pid), 0);
	CU_ASSERT_FALSE(is_registered(writer->pid));
	finish_unharmed(writer);
	finish_unharmed(mapper);
}

/* Writes all of its memory several times a second, which is more than is sent. */
static struct child *start_fast_writer(void)
{
	struct child *target = child_start(fixture_workload("writer"), "16", "2000", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(target, "ready"));
	return target;
}

static void test_who_writes_too_fast_is_slowed_and_sent_exactly(void)
{
	struct fixture_agent agent = fixture_agent_start("agent", NULL);
	struct child *target = start_fast_writer();
	struct child *send = child_run(0, fixture_tidemark(), "send", text_of(target->pid),
		agent.address, "--name", "slowed", "--leave-stopped", "--max-bandwidth", "20MB/s",
		"--max-downtime", "10ms", "--if-diverging", "throttle", "--json",
		"--freeze-timeout", "60s", NULL);
	unsigned percent = 0;
	const char *summary = strstr(send->text, "\"downtime_ms\"");
	CU_ASSERT_PTR_NOT_NULL_FATAL(summary);
	const char *throttle = strstr(summary, "\"throttle_percent\"");
	CU_ASSERT_PTR_NOT_NULL_FATAL(throttle);
	CU_ASSERT_EQUAL(sscanf(throttle, "\"throttle_percent\": %u", &percent), 1);
	CU_ASSERT_TRUE(percent >= 20 && percent <= 99);
	printf("slowed by %u %% at most\n", percent);

	wait_until_stopped(target->pid);
	struct oracle_result result;
	CU_ASSERT_EQUAL(oracle_compare(agent.store, "slowed", target->pid, &result), 0);
	CU_ASSERT_EQUAL(result.different_pages, 0);
	finish_unharmed(target);
}

/* The process that a send keeps to let go of the other, or 0. */
static pid_t guard_of(pid_t sender)
{
	char path[300], text[256];
	pid_t found = 0;
	DIR *d = opendir("/proc");
	for (struct dirent *e; d && !found && (e = readdir(d));) {
		int pid = 0, parent = 0;
		char comm[32] = "", state = 0;
		snprintf(path, sizeof(path), "/proc/%s/stat", e->d_name);
		FILE *f = fopen(path, "re");
		if (f && fgets(text, sizeof(text), f) &&
			sscanf(text, "%d (%31[^)]) %c %d", &pid, comm, &state, &parent) == 4 &&
			strcmp(comm, "tidemark-guard") == 0 && parent == sender && state != 'Z')
			found = pid;
		if (f)
			fclose(f);
	}
	if (d)
		closedir(d);
	return found;
}

static void wait_until_gone(pid_t pid)
{
	char path[64], text[256], state;
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	for (;; harness_pause()) {
		FILE *f = fopen(path, "re");
		bool is_there = f && fgets(text, sizeof(text), f) &&
				sscanf(text, "%*d (%*[^)]) %c", &state) == 1 && state != 'Z';
		if (f)
			fclose(f);
		if (!is_there)
			return;
	}
}

static void test_a_killed_send_lets_go_of_a_slowed_process(void)
{
	struct fixture_agent agent = fixture_agent_start("agent", NULL);
	struct child *target = start_fast_writer();
	struct child *send = child_start(fixture_tidemark(), "send", text_of(target->pid),
		agent.address, "--max-bandwidth", "20MB/s", "--max-downtime", "1us", "--max-rounds",
		"100000", "--if-diverging", "throttle", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(send, "throttled by"));
	pid_t guard = guard_of(send->pid);
	CU_ASSERT_TRUE_FATAL(guard > 0);
	child_signal(send, SIGKILL);
	CU_ASSERT_EQUAL(child_finish(send), 128 + SIGKILL);
	wait_until_gone(guard);
	CU_ASSERT_NOT_EQUAL(process_state_letter(target->pid), 'T');
	child_signal(target, SIGUSR1);
	CU_ASSERT_PTR_NOT_NULL(child_wait_line(target, "pass"));
	child_signal(target, SIGTERM);
	CU_ASSERT_EQUAL(child_finish(target), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(target->text, " 0 wrong"));
}

static void test_a_send_that_does_not_converge_can_be_given_up(void)
{
	struct fixture_agent agent = fixture_agent_start("agent", NULL);
	struct child *target = start_fast_writer();
	struct child *send = child_run(1, fixture_tidemark(), "send", text_of(target->pid),
		agent.address, "--max-bandwidth", "20MB/s", "--max-downtime", "10ms",
		"--if-diverging", "abort", NULL);
	CU_ASSERT_PTR_NOT_NULL(strstr(send->errors, "does not converge"));
	CU_ASSERT_PTR_NOT_NULL(strstr(send->errors, "MB/s is written and"));
	CU_ASSERT_EQUAL(count_userfaultfds(target->pid), 0);
	CU_ASSERT_FALSE(is_registered(target->pid));
	child_signal(target, SIGUSR1);
	CU_ASSERT_PTR_NOT_NULL(child_wait_line(target, "pass"));
	child_signal(target, SIGTERM);
	CU_ASSERT_EQUAL(child_finish(target), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(target->text, " 0 wrong"));

	/* The agent ends its session on its own; then there is nothing. */
	child_signal(agent.child, SIGTERM);
	CU_ASSERT_EQUAL(child_finish(agent.child), 0);
	DIR *d = opendir(agent.store);
	CU_ASSERT_PTR_NOT_NULL_FATAL(d);
	for (struct dirent *e; (e = readdir(d));) {
		bool is_nothing = e->d_name[0] == '.' && !strstr(e->d_name, "writer");
		CU_ASSERT_TRUE(is_nothing);
		if (!is_nothing)
			printf("%s was left\n", e->d_name);
	}
	closedir(d);
}

static void test_several_sessions_at_once(void)
{
	enum { N = 3 };
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *writers[N], *sends[N];
	for (int i = 0; i < N; i++) {
		writers[i] = child_start(fixture_workload("writer"), "32", "20", NULL);
		CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writers[i], "ready"));
	}
	for (int i = 0; i < N; i++) {
		char name[16];
		snprintf(name, sizeof(name), "one-of-%d", i);
		sends[i] = child_start(fixture_tidemark(), "send", text_of(writers[i]->pid),
			agent.address, "--name", fixture_path(name) + strlen(fixture_folder()) + 1,
			"--leave-stopped", NULL);
	}
	for (int i = 0; i < N; i++) {
		char name[16];
		struct oracle_result result;
		snprintf(name, sizeof(name), "one-of-%d", i);
		CU_ASSERT_EQUAL(child_finish(sends[i]), 0);
		wait_until_stopped(writers[i]->pid);
		CU_ASSERT_EQUAL(oracle_compare(agent.store, name, writers[i]->pid, &result), 0);
		CU_ASSERT_EQUAL(result.different_pages, 0);
		finish_unharmed(writers[i]);
	}
}

static void test_once_ends_after_one_session(void)
{
	const char *store = fixture_path("store");
	char address[300];
	snprintf(address, sizeof(address), "unix:%s.sock", store);
	struct child *agent = child_start(
		fixture_tidemark(), "agent", "--listen", address, "--store", store, "--once", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(agent, "listening on "));
	struct child *writer = child_start(fixture_workload("writer"), "8", "10", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	child_run(0, fixture_tidemark(), "send", text_of(writer->pid), address, NULL);
	CU_ASSERT_EQUAL(child_finish(agent), 0);
	finish_unharmed(writer);
}

static void test_sigterm_ends_the_agent_cleanly(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	child_signal(agent.child, SIGTERM);
	CU_ASSERT_EQUAL(child_finish(agent.child), 0);
	CU_ASSERT_EQUAL(access(agent.address + strlen("unix:"), F_OK), -1);
}

static const struct test tests[] = {
	TEST(test_a_process_that_keeps_writing_is_sent_exactly),
	TEST(test_several_connections_carry_one_process),
	TEST(test_many_threads_that_map_and_unmap_are_sent_exactly),
	TEST(test_a_python_process_is_sent_exactly),
	TEST(test_what_goes_on_is_unharmed),
	TEST(test_a_killed_process_is_gone_when_its_image_is_there),
	TEST(test_a_recorded_stream_gives_the_same_image),
	TEST(test_pages_that_are_written_as_they_were_do_not_travel),
	TEST(test_changes_of_pages_give_the_same_image),
	TEST(test_every_way_to_compress_gives_the_same_image),
	TEST(test_a_recording_holds_no_changes_alone),
	TEST(test_a_stream_goes_through_a_pipe),
	TEST(test_a_changed_page_is_found_by_compare),
	TEST(test_the_program_behind_tcp_is_the_same),
	TEST(test_a_killed_send_leaves_the_process_unharmed),
	TEST(test_who_writes_too_fast_is_slowed_and_sent_exactly),
	TEST(test_a_killed_send_lets_go_of_a_slowed_process),
	TEST(test_a_send_that_does_not_converge_can_be_given_up),
	TEST(test_several_sessions_at_once),
	TEST(test_once_ends_after_one_session),
	TEST(test_sigterm_ends_the_agent_cleanly),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "send", tests, fixture_setup, fixture_teardown);
}
