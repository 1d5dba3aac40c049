/* SPDX-License-Identifier: MIT */
/* The exported core, as gdb sees it. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "tests/harness.h"
#include "tests/system/fixture.h"

static void expect_text(const char *text, const char *words)
{
	CU_ASSERT_PTR_NOT_NULL(strstr(text, words));
	if (!strstr(text, words))
		printf("no '%s' in:\n%s\n", words, text);
}

static void test_gdb_shows_every_thread_where_it_was(void)
{
	struct child *gdb = child_start("gdb", "--version", NULL);
	if (child_finish(gdb) != 0)
		harness_skip("gdb is not installed");

	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *threads = child_start(fixture_workload("threads"), NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(threads, "ready"));
	char pid[16], image[512];
	snprintf(pid, sizeof(pid), "%d", threads->pid);
	snprintf(image, sizeof(image), "%s/threads", agent.store);
	const char *core = fixture_path("core");
	child_run(0, fixture_tidemark(), "send", pid, agent.address, "--name", "threads", NULL);
	child_run(0, fixture_tidemark(), "core", image, "-o", core, NULL);
	struct stat st;
	CU_ASSERT_EQUAL_FATAL(stat(core, &st), 0);
	CU_ASSERT_EQUAL(st.st_mode & 0777, 0600);

	gdb = child_run(0, "gdb", "--batch", "--nx", "-iex", "set debuginfod enabled off", "-ex",
		"thread apply all backtrace", "-ex", "print/x known_value", "-ex",
		"print known_text", "-ex", "info threads", "-ex", "info proc mappings", "-ex",
		"info sharedlibrary", "-ex", "info auxv", "-ex", "print $xmm0",
		fixture_workload("threads"), core, NULL);
	static const char *const words[] = {"wait_for_the_end", "main", "count_waves",
		"tide_counter", "sleep_on_the_shore", "tide_sleeper", "watch_the_moon",
		"tide_watcher", "0x7469646d61726b", "how long is the coast", "libc.so.6",
		"AT_SYSINFO_EHDR", "v4_float"};
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		expect_text(gdb->text, words[i]);
	CU_ASSERT_PTR_NULL(strstr(gdb->text, "Cannot access memory"));
	CU_ASSERT_PTR_NULL(strstr(gdb->errors, "is not at the expected address"));
	CU_ASSERT_PTR_NULL(strstr(gdb->errors, "truncated"));

	/* An existing file is never overwritten. */
	child_run(1, fixture_tidemark(), "core", image, "-o", core, NULL);
	child_close_input(threads);
	CU_ASSERT_EQUAL(child_finish(threads), 0);
}

static void test_readelf_finds_nothing_wrong(void)
{
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	struct child *mapper = child_start(fixture_workload("mapper"), "16", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(mapper, "ready"));
	char pid[16], image[512];
	snprintf(pid, sizeof(pid), "%d", mapper->pid);
	snprintf(image, sizeof(image), "%s/mapper", agent.store);
	child_run(0, fixture_tidemark(), "send", pid, agent.address, "--name", "mapper", NULL);
	child_run(0, fixture_tidemark(), "core", image, "-o", fixture_path("core"), NULL);
	struct child *readelf =
		child_run(0, "readelf", "--notes", "--segments", fixture_path("core"), NULL);
	CU_ASSERT_PTR_NULL(strstr(readelf->errors, "Warning"));
	unsigned threads = 0;
	for (const char *at = readelf->text; (at = strstr(at, "NT_PRSTATUS")); at++)
		threads++;
	CU_ASSERT_EQUAL(threads, 17);
	expect_text(readelf->text, "NT_PRPSINFO");
	expect_text(readelf->text, "NT_FILE");
	expect_text(readelf->text, "NT_X86_XSTATE");
	child_signal(mapper, SIGTERM);
	CU_ASSERT_EQUAL(child_finish(mapper), 0);
}

static const struct test tests[] = {
	TEST(test_gdb_shows_every_thread_where_it_was),
	TEST(test_readelf_finds_nothing_wrong),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "core", tests, fixture_setup, fixture_teardown);
}
