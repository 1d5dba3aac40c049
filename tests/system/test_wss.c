/* SPDX-License-Identifier: MIT */
/* `tidemark wss` sees the pages that were used, all of them and no others, and disturbs nothing
 * that tells of writes. */
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "tests/harness.h"
#include "tests/system/fixture.h"
#include "tests/system/oracle.h"
#include "tracker/page_info.h"
#include "tracker/process.h"

enum { PAGE = 4096, TOUCHER_PAGES = 6000, TRIES = 20 };

static char pid_text[16];
static char start_text[32]; /* of the toucher's memory, as JSON has it */

static const char *text_of(pid_t pid)
{
	snprintf(pid_text, sizeof(pid_text), "%d", pid);
	return pid_text;
}

static struct child *toucher_start(void)
{
	char pages[16];
	snprintf(pages, sizeof(pages), "%d", TOUCHER_PAGES);
	struct child *c = child_start(fixture_workload("toucher"), pages, NULL);
	const char *line = child_wait_line(c, "ready");
	CU_ASSERT_PTR_NOT_NULL_FATAL(line);
	snprintf(start_text, sizeof(start_text), "0x%" PRIx64, (uint64_t)strtoull(line, NULL, 16));
	return c;
}

static void use(struct child *toucher, unsigned pages)
{
	dprintf(toucher->in, "%u\n", pages);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(toucher, "using "));
}

/* Calls `fn` with each object that was printed. */
static void each_object(const char *text, void (*fn)(const json_t *object))
{
	for (const char *at = text; *at;) {
		size_t len = strcspn(at, "\n");
		json_t *object = json_loadb(at, len, 0, NULL);
		CU_ASSERT_PTR_NOT_NULL_FATAL(object);
		fn(object);
		json_decref(object);
		at += len + (at[len] == '\n');
	}
}

static int64_t number(const json_t *object, const char *key)
{
	const json_t *value = json_object_get(object, key);
	return json_is_null(value) ? -1 : (int64_t)json_number_value(value);
}

static struct {
	int64_t used, of_mapping, anonymous, file, rss, intervals, listed;
	double shortest_ms;
} seen;

static void note(const json_t *object)
{
	const char *kind = json_string_value(json_object_get(object, "kind"));
	if (strcmp(kind, "interval") == 0) {
		double ms = json_number_value(json_object_get(object, "interval_ms"));
		seen.intervals++;
		seen.used = number(object, "referenced_bytes");
		seen.anonymous = number(object, "anonymous_bytes");
		seen.file = number(object, "file_bytes");
		seen.rss = number(object, "rss_bytes");
		if (ms < seen.shortest_ms)
			seen.shortest_ms = ms;
		return;
	}
	CU_ASSERT_STRING_EQUAL(kind, "mapping");
	CU_ASSERT_EQUAL(number(object, "interval"), seen.intervals);
	seen.listed++;
	if (strcmp(json_string_value(json_object_get(object, "start")), start_text) == 0)
		seen.of_mapping = number(object, "referenced_bytes");
}

static void measure(struct child *target, const char *kind, const char *interval)
{
	memset(&seen, 0, sizeof(seen));
	seen.shortest_ms = 1e9;
	struct child *c = child_run(0, fixture_tidemark(), "wss", text_of(target->pid), "--count",
		"2", "--interval", interval, "--kind", kind, "--mappings=1000", "--json", NULL);
	each_object(c->text, note);
	CU_ASSERT_EQUAL(seen.intervals, 2);
	CU_ASSERT_PTR_NOT_NULL(strstr(c->errors, "page reclaim"));
}

/*
 * The toucher goes around its pages some hundred times in the interval, unless the machine lets it
 * wait; so too few can be seen now and then, but never too many.
 */
static void expect_used(struct child *toucher, unsigned pages)
{
	use(toucher, pages);
	for (int i = 0; i < TRIES; i++) {
		measure(toucher, "all", "200ms");
		CU_ASSERT_TRUE(seen.of_mapping <= (int64_t)pages * PAGE);
		if (seen.of_mapping == (int64_t)pages * PAGE)
			break;
	}
	CU_ASSERT_EQUAL(seen.of_mapping, (int64_t)pages * PAGE);
	CU_ASSERT_TRUE(seen.anonymous >= seen.of_mapping);
	CU_ASSERT_EQUAL(seen.used, seen.anonymous + seen.file);
	CU_ASSERT_TRUE(seen.used <= seen.rss);
	CU_ASSERT_TRUE(seen.rss >= TOUCHER_PAGES * PAGE);
}

static void test_exactly_the_used_pages_show(void)
{
	struct child *toucher = toucher_start();
	expect_used(toucher, 1234);
	expect_used(toucher, TOUCHER_PAGES);
	expect_used(toucher, 7);
	expect_used(toucher, 0);
}

static void test_kinds_are_measured_apart(void)
{
	struct child *toucher = toucher_start();
	use(toucher, 100);
	memset(&seen, 0, sizeof(seen));
	/* It may have to wait for the processor longer than an interval lasts. */
	for (int i = 0; i < TRIES && seen.file <= 0; i++)
		measure(toucher, "file", "50ms");
	CU_ASSERT_TRUE(seen.file > 0);
	CU_ASSERT_EQUAL(seen.file, seen.used);
	CU_ASSERT_EQUAL(seen.anonymous, -1);
	CU_ASSERT_EQUAL(seen.of_mapping, 0);
	CU_ASSERT_TRUE(seen.rss < TOUCHER_PAGES * PAGE);
	measure(toucher, "anonymous", "50ms");
	CU_ASSERT_EQUAL(seen.file, -1);
	CU_ASSERT_EQUAL(seen.used, seen.anonymous);
	CU_ASSERT_TRUE(seen.rss >= TOUCHER_PAGES * PAGE);
}

static void test_the_interval_is_as_long_as_it_was_asked_for(void)
{
	struct child *toucher = toucher_start();
	measure(toucher, "all", "150ms");
	CU_ASSERT_TRUE(seen.shortest_ms >= 150);
}

static uint64_t write_protected(pid_t pid)
{
	struct tide_error err = {0};
	struct process *p = NULL;
	struct page_table table = {0};
	struct page_table_options none = {0};
	int r = process_open_to_look(pid, &p, &err);
	if (r == 0)
		r = page_table_read(p, &none, &table, &err);
	uint64_t pages = table.total.counts.of[PAGES_WRITE_PROTECTED];
	page_table_release(&table);
	process_close(p);
	CU_ASSERT_EQUAL_FATAL(r, 0);
	return pages;
}

static void test_write_protection_stays_as_it_is(void)
{
	unsigned armed = 0;
	struct child *kinds = child_start(fixture_workload("kinds"), NULL);
	const char *line = child_wait_line(kinds, "armed ");
	CU_ASSERT_PTR_NOT_NULL_FATAL(line);
	sscanf(line, "armed %*x %u", &armed);
	if (armed == 0)
		harness_skip("this kernel or user has no asynchronous write-protection");
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(kinds, "ready"));
	CU_ASSERT_EQUAL(write_protected(kinds->pid), armed);
	for (unsigned written = 0; written < armed; written += 8) {
		measure(kinds, "all", "1ms");
		CU_ASSERT_EQUAL(write_protected(kinds->pid), armed - written);
		dprintf(kinds->in, "8\n");
		CU_ASSERT_PTR_NOT_NULL(child_wait_line(kinds, "written"));
		CU_ASSERT_EQUAL(write_protected(kinds->pid), armed - written - 8);
	}
}

/* Measured all the while it is sent: not one page is missed. */
static void test_a_process_that_is_measured_is_sent_exactly(void)
{
	struct child *writer = child_start(fixture_workload("writer"), "32", "50", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	char pid[16];
	snprintf(pid, sizeof(pid), "%d", writer->pid);
	struct child *check = child_start(fixture_tidemark(), "check", pid, NULL);
	if (child_finish(check) == 4)
		harness_skip("this kernel cannot track writes");
	struct child *wss =
		child_start(fixture_tidemark(), "wss", pid, "--interval", "3ms", "--json", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(wss, "interval"));
	struct fixture_agent agent = fixture_agent_start("store", NULL);
	child_run(0, fixture_tidemark(), "send", pid, agent.address, "--name", "it",
		"--leave-stopped", NULL);
	wait_until_stopped(writer->pid);
	child_signal(wss, SIGINT);
	CU_ASSERT_EQUAL(child_finish(wss), 0);
	struct oracle_result result;
	CU_ASSERT_EQUAL(oracle_compare(agent.store, "it", writer->pid, &result), 0);
	CU_ASSERT_TRUE(result.compared_pages > 32 << 8);
	CU_ASSERT_EQUAL(result.different_pages, 0);
}

static void test_the_peak_begins_anew(void)
{
	enum { PEAK_PAGES = 20000, WAITS = 50 };
	const int64_t much = (int64_t)PEAK_PAGES * PAGE * 3 / 4;
	struct child *toucher = toucher_start();
	measure(toucher, "all", "1ms");
	struct child *wss = child_start(fixture_tidemark(), "wss", text_of(toucher->pid),
		"--reset-peak", "--interval", "20ms", "--json", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(wss, "peak_bytes"));
	bool risen = false, fallen = false;
	for (int i = 0; i < WAITS && !fallen; i++) {
		if (!risen) {
			dprintf(toucher->in, "!%d\n", PEAK_PAGES);
			CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(toucher, "peaked"));
		}
		const char *line = child_wait_line(wss, "peak_bytes");
		CU_ASSERT_PTR_NOT_NULL_FATAL(line);
		json_t *object = json_loads(line, 0, NULL);
		int64_t peak = number(object, "peak_bytes");
		json_decref(object);
		CU_ASSERT_TRUE(peak > 0);
		fallen = risen && peak < seen.rss + much / 3;
		risen |= peak > seen.rss + much;
	}
	CU_ASSERT_TRUE(risen);
	CU_ASSERT_TRUE(fallen);
	child_signal(wss, SIGINT);
	CU_ASSERT_EQUAL(child_finish(wss), 0);
}

static struct child *wss_start(struct child *target, const char *count)
{
	struct child *c = child_start(fixture_tidemark(), "wss", text_of(target->pid), "--interval",
		"20ms", count ? "--count" : "--json", count ? count : NULL, NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(c, count ? "ms " : "interval"));
	return c;
}

static void test_the_process_ends_in_the_middle(void)
{
	struct child *toucher = toucher_start();
	struct child *wss = wss_start(toucher, NULL);
	child_close_input(toucher);
	CU_ASSERT_EQUAL(child_finish(wss), 3);
	CU_ASSERT_PTR_NOT_NULL(strstr(wss->errors, "has ended"));
	if (!strstr(wss->errors, "has ended"))
		printf("%s", wss->errors);
}

static void test_the_process_becomes_another_program(void)
{
	struct child *shell = child_start("bash", "-c", "echo ready; read; exec sleep 60", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(shell, "ready"));
	struct child *wss = wss_start(shell, NULL);
	dprintf(shell->in, "\n");
	CU_ASSERT_EQUAL(child_finish(wss), 3);
	CU_ASSERT_PTR_NOT_NULL(strstr(wss->errors, "another program"));
}

static void test_an_interrupt_ends_it_cleanly(void)
{
	struct child *toucher = toucher_start();
	struct child *wss = wss_start(toucher, NULL);
	child_signal(wss, SIGINT);
	CU_ASSERT_EQUAL(child_finish(wss), 0);
	wss = wss_start(toucher, "1000000");
	child_signal(wss, SIGTERM);
	CU_ASSERT_EQUAL(child_finish(wss), 1);
	CU_ASSERT_PTR_NOT_NULL(strstr(wss->errors, "interrupted after "));
	CU_ASSERT_EQUAL(process_state_letter(toucher->pid) == 'Z', 0);
}

static void test_wrong_usage_and_no_process(void)
{
	child_run(3, fixture_tidemark(), "wss", "4194305", NULL);
	child_run(2, fixture_tidemark(), "wss", NULL);
	child_run(2, fixture_tidemark(), "wss", "1", "--interval", "0", NULL);
	child_run(2, fixture_tidemark(), "wss", "1", "--count", "0", NULL);
	child_run(2, fixture_tidemark(), "wss", "1", "--kind", "anon", NULL);
}

static const struct test tests[] = {
	TEST(test_exactly_the_used_pages_show),
	TEST(test_kinds_are_measured_apart),
	TEST(test_the_interval_is_as_long_as_it_was_asked_for),
	TEST(test_write_protection_stays_as_it_is),
	TEST(test_a_process_that_is_measured_is_sent_exactly),
	TEST(test_the_peak_begins_anew),
	TEST(test_the_process_ends_in_the_middle),
	TEST(test_the_process_becomes_another_program),
	TEST(test_an_interrupt_ends_it_cleanly),
	TEST(test_wrong_usage_and_no_process),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "wss", tests, fixture_setup, fixture_teardown);
}
