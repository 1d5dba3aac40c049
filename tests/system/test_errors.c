/* SPDX-License-Identifier: MIT */
/* What goes wrong is said plainly, with the exit code that fits, and the target lives. */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/harness.h"
#include "tests/system/fixture.h"

static const char *number(long n)
{
	char buf[32];
	snprintf(buf, sizeof(buf), "%ld", n);
	return fixture_path(buf) + strlen(fixture_folder()) + 1;
}

static struct child *start_writer(const char *mib, const char *rate)
{
	struct child *writer = child_start(fixture_workload("writer"), mib, rate, NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	return writer;
}

static void expect_words(const struct child *c, const char *words)
{
	CU_ASSERT_PTR_NOT_NULL(strstr(c->errors, words));
	CU_ASSERT_PTR_NULL(strstr(c->errors, "Sanitizer"));
	if (!strstr(c->errors, words))
		printf("no '%s' in: %s\n", words, c->errors);
}

static void expect_alive(struct child *writer)
{
	child_signal(writer, SIGUSR1);
	CU_ASSERT_PTR_NOT_NULL(child_wait_line(writer, "pass "));
	CU_ASSERT_EQUAL(count_userfaultfds(writer->pid), 0);
	CU_ASSERT_FALSE(is_registered(writer->pid));
	child_signal(writer, SIGTERM);
	CU_ASSERT_EQUAL(child_finish(writer), 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(writer->text, " 0 wrong"));
}

/* A file that is sent to, and that must not be there when it failed. */
static struct child *send_to_file(int expected, const char *pid)
{
	const char *file = fixture_path("stream");
	struct child *send = child_run(expected, fixture_tidemark(), "send", pid, file, NULL);
	if (expected != 0)
		CU_ASSERT_EQUAL(access(file, F_OK), -1);
	return send;
}

static void test_no_such_process(void)
{
	/* The largest number a process can have is below this. */
	expect_words(send_to_file(3, "4194305"), "4194305");
}

static void test_a_kernel_thread(void)
{
	if (getpid() == 1 || access("/proc/2/exe", F_OK) == 0)
		harness_skip("process 2 is no kernel thread here");
	expect_words(send_to_file(4, "2"), "kernel thread");
}

static void test_a_zombie(void)
{
	pid_t zombie = fork();
	if (zombie == 0)
		_exit(0);
	siginfo_t info;
	waitid(P_PID, (id_t)zombie, &info, WEXITED | WNOWAIT);
	struct child *send = send_to_file(3, number(zombie));
	expect_words(send, "zombie");
	waitpid(zombie, NULL, 0);
}

static void test_a_process_of_another_user(void)
{
	if (geteuid() != 0)
		harness_skip("it takes root to become two users");
	struct child *writer = start_writer("4", "10");
	/* The program must be reachable for the other user; it is run from a copy in a folder that
	 * is. */
	char command[1024];
	const char *folder = fixture_path("open");
	snprintf(command, sizeof(command),
		"mkdir -m 755 '%s' && chmod 755 '%s' && cp '%s' '%s/tidemark' && cd / && exec "
		"setpriv --reuid 65534 --regid 65534 "
		"--clear-groups '%s/tidemark' send %d -",
		folder, fixture_folder(), fixture_tidemark(), folder, folder, writer->pid);
	struct child *send = child_run(4, "sh", "-c", command, NULL);
	expect_words(send, number(writer->pid));
	expect_alive(writer);
}

static void test_a_process_that_is_traced_already(void)
{
	struct child *writer = start_writer("4", "10");
	CU_ASSERT_EQUAL_FATAL(ptrace(PTRACE_SEIZE, writer->pid, 0, 0), 0);
	expect_words(send_to_file(4, number(writer->pid)), "traced");
	ptrace(PTRACE_INTERRUPT, writer->pid, 0, 0);
	waitpid(writer->pid, NULL, __WALL);
	ptrace(PTRACE_DETACH, writer->pid, 0, 0);
	expect_alive(writer);
}

static void test_itself(void)
{
	struct child *send =
		child_run(2, "sh", "-c", "exec \"$0\" send $$ -", fixture_tidemark(), NULL);
	CU_ASSERT_TRUE(strlen(send->errors) > 0);
}

static void test_a_process_that_ends_in_the_middle(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *writer = start_writer("256", "400");
	struct child *send = child_start(fixture_tidemark(), "send", number(writer->pid),
		agent.address, "--name", "ended", "--max-downtime", "1ns", "--max-rounds", "1000",
		"--json", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(send, "\"round\": 1"));
	child_signal(writer, SIGKILL);
	CU_ASSERT_EQUAL(child_finish(send), 3);
	expect_words(send, "ended");
	struct child *list = child_run(0, fixture_tidemark(), "list", agent.store, "--json", NULL);
	CU_ASSERT_EQUAL(list->len, 0);
}

static void test_a_process_that_becomes_another_in_the_middle(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	/* A shell that waits for a line, then becomes sleep. */
	struct child *shell = child_start("bash", "-c",
		"x=$(head -c 30000000 /dev/zero | tr '\\0' x); echo ready; read; exec sleep 60",
		NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(shell, "ready"));
	struct child *send = child_start(fixture_tidemark(), "send", number(shell->pid),
		agent.address, "--name", "became", "--max-downtime", "1ns", "--max-rounds",
		"1000000", "--json", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(send, "\"round\": 1"));
	CU_ASSERT_EQUAL(write(shell->in, "\n", 1), 1);
	int status = child_finish(send);
	/* Rounds that find nothing end by themselves; then the freeze may have come first. */
	CU_ASSERT_TRUE(status == 3 || status == 0);
	CU_ASSERT_EQUAL(kill(shell->pid, 0), 0);
	CU_ASSERT_NOT_EQUAL(process_state_letter(shell->pid), 'T');
	CU_ASSERT_NOT_EQUAL(process_state_letter(shell->pid), 't');
}

static void test_a_wrong_address(void)
{
	struct child *writer = start_writer("4", "10");
	char address[300];
	snprintf(address, sizeof(address), "unix:%s/nobody.sock", fixture_folder());
	struct child *send =
		child_run(1, fixture_tidemark(), "send", number(writer->pid), address, NULL);
	expect_words(send, "nobody.sock");
	/* Port 1 of loopback: nobody listens there. */
	send = child_run(
		1, fixture_tidemark(), "send", number(writer->pid), "tcp://127.0.0.1:1", NULL);
	expect_words(send, "127.0.0.1:1");
	send = child_run(
		2, fixture_tidemark(), "send", number(writer->pid), "tcp://127.0.0.1", NULL);
	expect_words(send, "port");
	expect_alive(writer);
}

static void test_a_port_with_another_protocol_behind_it(void)
{
	struct child *writer = start_writer("4", "10");
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof(a.sun_path), "%.90s/http", fixture_folder());
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CU_ASSERT_EQUAL_FATAL(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
	CU_ASSERT_EQUAL_FATAL(listen(listener, 1), 0);
	char address[300];
	snprintf(address, sizeof(address), "unix:%s", a.sun_path);
	struct child *send =
		child_start(fixture_tidemark(), "send", number(writer->pid), address, NULL);
	int peer = accept(listener, NULL, NULL);
	static const char answer[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
	CU_ASSERT_EQUAL(write(peer, answer, strlen(answer)), (ssize_t)strlen(answer));
	CU_ASSERT_EQUAL(child_finish(send), 1);
	expect_words(send, "no Tidemark stream");
	expect_words(send, "HTTP/1.1 400");
	close(peer);
	close(listener);
	expect_alive(writer);
}

static void test_an_agent_that_is_killed_in_the_middle(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *writer = start_writer("128", "400");
	struct child *send = child_start(fixture_tidemark(), "send", number(writer->pid),
		agent.address, "--name", "cut", "--max-downtime", "1ns", "--max-rounds", "1000",
		"--json", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(send, "\"round\": 1"));
	child_signal(agent.child, SIGKILL);
	child_finish(agent.child);
	CU_ASSERT_EQUAL(child_finish(send), 1);
	expect_alive(writer);

	/* What the dead one left is cleared by the next, which lists nothing. */
	struct fixture_agent next = fixture_agent_start("store", NULL);
	struct child *list = child_run(0, fixture_tidemark(), "list", next.store, "--json", NULL);
	CU_ASSERT_EQUAL(list->len, 0);
	struct child *left =
		child_run(0, "sh", "-c", "ls -A \"$0\" | grep -c tmp || true", next.store, NULL);
	CU_ASSERT_STRING_EQUAL(left->text, "0\n");
}

static void test_a_full_disk_at_the_agent(void)
{
	fixture_small_disk("disk", 8);
	struct fixture_agent agent = fixture_agent_start("disk/store", NULL);
	struct child *writer = start_writer("64", "20");
	struct child *send = child_run(1, fixture_tidemark(), "send", number(writer->pid),
		agent.address, "--name", "full", NULL);
	expect_words(send, "No space left");
	expect_alive(writer);
	struct child *list = child_run(0, fixture_tidemark(), "list", agent.store, "--json", NULL);
	CU_ASSERT_EQUAL(list->len, 0);
	child_signal(agent.child, SIGTERM);
	CU_ASSERT_EQUAL(child_finish(agent.child), 0);
}

static void test_a_full_disk_under_a_recording(void)
{
	fixture_small_disk("disk", 8);
	struct child *writer = start_writer("64", "20");
	struct child *send = child_run(1, fixture_tidemark(), "send", number(writer->pid),
		fixture_path("disk/stream"), NULL);
	expect_words(send, "No space left");
	expect_alive(writer);
}

/* Sends `len` bytes to the agent as a client of its own would, and waits for the agent to end it.
 */
static void send_bytes(const char *address, const uint8_t *bytes, size_t len)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof(a.sun_path), "%.100s", address + strlen("unix:"));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CU_ASSERT_EQUAL_FATAL(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	for (size_t at = 0; at < len;) {
		ssize_t n = write(fd, bytes + at, len - at);
		if (n <= 0)
			break;
		at += (size_t)n;
	}
	shutdown(fd, SHUT_WR);
	uint8_t answer[4096];
	while (read(fd, answer, sizeof(answer)) > 0)
		;
	close(fd);
}

/* Recorded streams are no greeting, and noise is nothing at all: each ends its own session, and the
 * one that runs is not disturbed. */
static void test_noise_at_the_agent_disturbs_nobody(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *writer = start_writer("64", "200");
	struct child *send = child_start(fixture_tidemark(), "send", number(writer->pid),
		agent.address, "--name", "undisturbed", "--max-downtime", "1ns", "--max-rounds",
		"12", "--json", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(send, "\"round\": 0"));

	const char *recorded = fixture_path("recorded");
	struct child *small = start_writer("1", "0");
	child_run(0, fixture_tidemark(), "send", number(small->pid), recorded, NULL);
	FILE *f = fopen(recorded, "re");
	static uint8_t bytes[1 << 16];
	size_t len = f ? fread(bytes, 1, sizeof(bytes), f) : 0;
	if (len < 1000) {
		CU_FAIL("a recording of another size than was thought");
		return;
	}
	fclose(f);
	unsigned seed = 5;
	for (int i = 0; i < 40; i++) {
		uint8_t altered[sizeof(bytes)];
		memcpy(altered, bytes, len);
		if (i % 4 == 0)
			send_bytes(agent.address, altered, (size_t)rand_r(&seed) % len);
		if (i % 4 == 1)
			altered[rand_r(&seed) % 200] ^= (uint8_t)(1 + rand_r(&seed) % 255);
		for (size_t k = 0; i % 4 == 2 && k < len; k++)
			altered[k] = (uint8_t)rand_r(&seed);
		if (i % 4)
			send_bytes(agent.address, altered, len);
	}
	CU_ASSERT_EQUAL(child_finish(send), 0);
	struct child *list = child_run(0, fixture_tidemark(), "list", agent.store, "--json", NULL);
	unsigned images = 0;
	for (const char *at = list->text; (at = strstr(at, "\"name\"")); at++)
		images++;
	CU_ASSERT_EQUAL(images, 1);
	child_run(0, fixture_tidemark(), "verify", agent.store, NULL);
	child_signal(agent.child, SIGTERM);
	CU_ASSERT_EQUAL(child_finish(agent.child), 0);
	CU_ASSERT_PTR_NULL(strstr(agent.child->errors, "Sanitizer"));
	expect_alive(writer);
}

/* A recorded stream, damaged at any place, gives no image. */
static void test_a_damaged_recording_gives_no_image(void)
{
	struct child *small = start_writer("1", "0");
	const char *recorded = fixture_path("recorded"), *store = fixture_path("store");
	child_run(0, fixture_tidemark(), "send", number(small->pid), recorded, NULL);
	FILE *f = fopen(recorded, "re");
	static uint8_t bytes[4 << 20];
	size_t len = f ? fread(bytes, 1, sizeof(bytes), f) : 0;
	if (len < 1000 || len == sizeof(bytes)) {
		CU_FAIL("a recording of another size than was thought");
		return;
	}
	fclose(f);
	unsigned seed = 9;
	for (int i = 0; i < 25; i++) {
		char name[32];
		snprintf(name, sizeof(name), "damaged-%d", i);
		const char *path = fixture_path(name);
		size_t at = (size_t)rand_r(&seed) % len, kept = i % 2 ? len : at;
		bytes[at] ^= 0x10;
		f = fopen(path, "we");
		CU_ASSERT_PTR_NOT_NULL_FATAL(f);
		CU_ASSERT_EQUAL(fwrite(bytes, 1, kept, f), kept);
		fclose(f);
		bytes[at] ^= 0x10;
		struct child *apply = child_run(1, fixture_tidemark(), "apply", path, "--store",
			store, "--name", name, NULL);
		CU_ASSERT_TRUE(strlen(apply->errors) > 10);
		CU_ASSERT_PTR_NULL(strstr(apply->errors, "Sanitizer"));
	}
	struct child *list = child_run(0, fixture_tidemark(), "list", store, "--json", NULL);
	CU_ASSERT_EQUAL(list->len, 0);
}

static void test_a_name_that_is_taken(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *writer = start_writer("4", "10");
	child_run(0, fixture_tidemark(), "send", number(writer->pid), agent.address, "--name",
		"twice", NULL);
	struct child *send = child_run(1, fixture_tidemark(), "send", number(writer->pid),
		agent.address, "--name", "twice", NULL);
	expect_words(send, "twice");
	send = child_run(2, fixture_tidemark(), "send", number(writer->pid), agent.address,
		"--name", "../x", NULL);
	expect_words(send, "name");
	expect_alive(writer);
}

static void test_ctrl_c_lets_go(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *writer = start_writer("128", "400");
	struct child *send = child_start(fixture_tidemark(), "send", number(writer->pid),
		agent.address, "--name", "cut", "--max-downtime", "1ns", "--max-rounds", "100000",
		"--json", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(send, "\"round\": 1"));
	child_signal(send, SIGINT);
	CU_ASSERT_EQUAL(child_finish(send), 1);
	expect_words(send, "interrupted");
	expect_alive(writer);
}

static void test_two_trackers_of_one_process(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *writer = start_writer("128", "400");
	struct child *first = child_start(fixture_tidemark(), "send", number(writer->pid),
		agent.address, "--name", "first", "--max-downtime", "1ns", "--max-rounds", "100000",
		"--json", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(first, "\"round\": 0"));
	struct child *second = child_run(4, fixture_tidemark(), "send", number(writer->pid),
		agent.address, "--name", "second", NULL);
	expect_words(second, number(first->pid));
	child_signal(first, SIGINT);
	child_finish(first);
	expect_alive(writer);
}

static void test_wrong_usage(void)
{
	child_run(2, fixture_tidemark(), NULL);
	child_run(2, fixture_tidemark(), "fly", NULL);
	child_run(2, fixture_tidemark(), "send", NULL);
	child_run(2, fixture_tidemark(), "send", "x", "-", NULL);
	child_run(2, fixture_tidemark(), "send", "1", "-", "--max-downtime", "soon", NULL);
	child_run(2, fixture_tidemark(), "send", "1", "-", "--backend", NULL);
	child_run(0, fixture_tidemark(), "--help", NULL);
	child_run(0, fixture_tidemark(), "--version", NULL);
	child_run(0, fixture_tidemark(), "send", "--help", NULL);
}

static void test_an_agent_beyond_loopback_wants_to_be_told(void)
{
	struct child *agent = child_run(2, fixture_tidemark(), "agent", "--listen",
		"tcp://0.0.0.0:0", "--store", fixture_path("store"), NULL);
	expect_words(agent, "--insecure-listen");
	agent = child_run(2, fixture_tidemark(), "agent", "--listen", "tcp://0.0.0.0:0", "--store",
		fixture_path("store"), "--insecure-listen", NULL);
	expect_words(agent, "--key-file");
}

static void test_an_image_that_is_not_there(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	char image[300];
	snprintf(image, sizeof(image), "%s/missing", agent.store);
	expect_words(child_run(1, fixture_tidemark(), "show", image, NULL), "missing");
	expect_words(child_run(1, fixture_tidemark(), "verify", image, NULL), "missing");
	expect_words(
		child_run(1, fixture_tidemark(), "core", image, "-o", fixture_path("core"), NULL),
		"missing");
}

static const struct test tests[] = {
	TEST(test_no_such_process),
	TEST(test_a_kernel_thread),
	TEST(test_a_zombie),
	TEST(test_a_process_of_another_user),
	TEST(test_a_process_that_is_traced_already),
	TEST(test_itself),
	TEST(test_a_process_that_ends_in_the_middle),
	TEST(test_a_process_that_becomes_another_in_the_middle),
	TEST(test_a_wrong_address),
	TEST(test_a_port_with_another_protocol_behind_it),
	TEST(test_an_agent_that_is_killed_in_the_middle),
	TEST(test_a_full_disk_at_the_agent),
	TEST(test_a_full_disk_under_a_recording),
	TEST(test_noise_at_the_agent_disturbs_nobody),
	TEST(test_a_damaged_recording_gives_no_image),
	TEST(test_a_name_that_is_taken),
	TEST(test_ctrl_c_lets_go),
	TEST(test_two_trackers_of_one_process),
	TEST(test_wrong_usage),
	TEST(test_an_agent_beyond_loopback_wants_to_be_told),
	TEST(test_an_image_that_is_not_there),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "errors", tests, fixture_setup, fixture_teardown);
}
