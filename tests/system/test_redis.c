/* SPDX-License-Identifier: MIT */
/* redis-server with 500 MiB, sent while redis-benchmark writes: exact, answering, and frozen for a
 * small part of the time. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "tests/harness.h"
#include "tests/system/fixture.h"
#include "tests/system/oracle.h"

static char *answer_of(const char *socket, const char *const *words)
{
	const char *argv[16] = {"redis-cli", "-s", socket};
	for (size_t i = 0; words[i]; i++)
		argv[3 + i] = words[i];
	struct child *c = child_startv(argv);
	child_finish(c);
	return c->text ? c->text : "";
}

#define ANSWER(socket, ...) answer_of(socket, (const char *const[]){__VA_ARGS__, NULL})

static double number_after(const char *text, const char *key)
{
	const char *at = strstr(text, key);
	return at ? strtod(at + strlen(key), NULL) : -1;
}

static void test_redis_is_sent_while_it_serves(void)
{
	const char *socket = fixture_path("redis.sock");
	struct child *redis =
		child_start("redis-server", "--port", "0", "--unixsocket", socket, "--save", "",
			"--appendonly", "no", "--daemonize", "no", "--dir", fixture_folder(), NULL);
	if (!child_wait_line(redis, "eady to accept connections"))
		harness_skip("redis-server is not installed");

	/* 500 MiB of values that differ and half compress. */
	CU_ASSERT_PTR_NOT_NULL(strstr(ANSWER(socket, "EVAL",
					      "for i = 1, 128000 do redis.call('SET', 'key:' .. i, "
					      "string.rep(tostring(i * 7919) .. 'x', 256)"
					      " .. string.rep('tide', 512)) end return 'filled'",
					      "0"),
		"filled"));
	CU_ASSERT_TRUE(number_after(ANSWER(socket, "INFO", "memory"), "used_memory:") >=
		       500.0 * (1 << 20));

	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *load = child_start("redis-benchmark", "-s", socket, "-t", "set,incr,lpush",
		"-r", "100000", "-n", "100000000", "-c", "8", "-d", "400", "-q", NULL);
	char pid[16], image[512];
	snprintf(pid, sizeof(pid), "%d", redis->pid);

	/* It goes on. */
	struct child *send = child_run(0, fixture_tidemark(), "send", pid, agent.address, "--name",
		"running", "--json", NULL);
	CU_ASSERT_PTR_NOT_NULL(strstr(ANSWER(socket, "PING"), "PONG"));
	double total = number_after(send->text, "\"total_ms\": "),
	       down = number_after(send->text, "\"downtime_ms\": ");
	printf("total %.0f ms, downtime %.1f ms\n", total, down);
	CU_ASSERT_TRUE(total > 0 && down > 0 && down < total / 4);

	/* It is stopped, and the image held against it. */
	child_run(0, fixture_tidemark(), "send", pid, agent.address, "--name", "stopped",
		"--leave-stopped", NULL);
	wait_until_stopped(redis->pid);
	struct oracle_result result;
	CU_ASSERT_EQUAL(oracle_compare(agent.store, "stopped", redis->pid, &result), 0);
	CU_ASSERT_TRUE(result.compared_pages >= 500u << 8);
	CU_ASSERT_EQUAL(result.different_pages, 0);
	CU_ASSERT_EQUAL(result.different_mappings, 0);
	printf("%llu pages compared, %llu differ %s\n", (unsigned long long)result.compared_pages,
		(unsigned long long)result.different_pages, result.first);
	snprintf(image, sizeof(image), "%s/stopped", agent.store);
	child_run(0, fixture_tidemark(), "compare", image, pid, NULL);
	child_run(0, fixture_tidemark(), "verify", agent.store, NULL);

	child_signal(redis, SIGCONT);
	CU_ASSERT_PTR_NOT_NULL(strstr(ANSWER(socket, "GET", "key:128000"), "tidetide"));
	child_signal(load, SIGTERM);
	child_finish(load);
	CU_ASSERT_EQUAL(count_userfaultfds(redis->pid), 0);
	CU_ASSERT_FALSE(is_registered(redis->pid));
	child_signal(redis, SIGTERM);
	CU_ASSERT_EQUAL(child_finish(redis), 0);
}

static const struct test tests[] = {
	TEST(test_redis_is_sent_while_it_serves),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "redis", tests, fixture_setup, fixture_teardown);
}
