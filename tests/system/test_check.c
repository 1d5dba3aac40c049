/* SPDX-License-Identifier: MIT */
/* `tidemark check` tells what would be followed, touches nothing, and its exit code can be relied
 * upon. */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include "tests/harness.h"
#include "tests/system/fixture.h"

/* Calls `fn` with every line of the output, as JSON. */
static void each_object(const struct child *c, void (*fn)(json_t *object))
{
	for (const char *at = c->text; at && *at;) {
		const char *end = strchr(at, '\n');
		json_error_t error;
		json_t *object = json_loadb(at, (size_t)(end - at), 0, &error);
		CU_ASSERT_PTR_NOT_NULL_FATAL(object);
		fn(object);
		json_decref(object);
		at = end + 1;
	}
}

static unsigned features, mappings, heaps;

static void count(json_t *object)
{
	const char *kind = json_string_value(json_object_get(object, "kind"));
	CU_ASSERT_PTR_NOT_NULL_FATAL(kind);
	features += strcmp(kind, "feature") == 0;
	if (strcmp(kind, "mapping") == 0) {
		mappings++;
		CU_ASSERT_PTR_NOT_NULL(json_string_value(json_object_get(object, "start")));
		CU_ASSERT_EQUAL(
			strncmp(json_string_value(json_object_get(object, "start")), "0x", 2), 0);
		CU_ASSERT_TRUE(strlen(json_string_value(json_object_get(object, "how"))) > 0);
		const char *name = json_string_value(json_object_get(object, "name"));
		bool heap = strcmp(name, "[heap]") == 0;
		heaps += heap;
		if (heap)
			CU_ASSERT_TRUE(json_is_true(json_object_get(object, "followed")));
		if (strcmp(name, "[vvar]") == 0)
			CU_ASSERT_TRUE(json_is_false(json_object_get(object, "followed")));
	}
}

static void test_every_line_is_an_object(void)
{
	features = mappings = heaps = 0;
	struct child *writer = child_start(fixture_workload("writer"), "4", "10", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	char pid[16];
	snprintf(pid, sizeof(pid), "%d", writer->pid);
	struct child *check = child_start(fixture_tidemark(), "check", pid, "--json", NULL);
	int status = child_finish(check);
	if (status == 4 && strstr(check->text, "\"uffd-wp\", \"available\": false"))
		harness_skip("this kernel cannot track writes");
	CU_ASSERT_EQUAL(status, 0);
	each_object(check, count);
	CU_ASSERT_TRUE(features >= 5);
	CU_ASSERT_TRUE(mappings >= 10);
	CU_ASSERT_EQUAL(heaps, 1);
	CU_ASSERT_EQUAL(count_userfaultfds(writer->pid), 0);
}

static void test_text_sums_up_by_kind(void)
{
	struct child *writer = child_start(fixture_workload("writer"), "4", "10", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	char pid[16];
	snprintf(pid, sizeof(pid), "%d", writer->pid);
	struct child *check = child_start(fixture_tidemark(), "check", pid, NULL);
	child_finish(check);
	CU_ASSERT_PTR_NOT_NULL(strstr(check->text, "anonymous"));
	CU_ASSERT_PTR_NOT_NULL(strstr(check->text, "private file"));
	CU_ASSERT_PTR_NOT_NULL(strstr(check->text, "workload_write"));
}

static void test_what_refuses_is_named(void)
{
	struct child *writer = child_start(fixture_workload("writer"), "4", "10", NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(writer, "ready"));
	CU_ASSERT_EQUAL_FATAL(ptrace(PTRACE_SEIZE, writer->pid, 0, 0), 0);
	char pid[16];
	snprintf(pid, sizeof(pid), "%d", writer->pid);
	struct child *check = child_run(4, fixture_tidemark(), "check", pid, NULL);
	CU_ASSERT_PTR_NOT_NULL(strstr(check->text, "traced already"));
	ptrace(PTRACE_INTERRUPT, writer->pid, 0, 0);
	waitpid(writer->pid, NULL, __WALL);
	ptrace(PTRACE_DETACH, writer->pid, 0, 0);
}

static void test_a_process_that_is_not_there(void)
{
	child_run(3, fixture_tidemark(), "check", "4194305", NULL);
	child_run(2, fixture_tidemark(), "check", "pid", NULL);
}

static const struct test tests[] = {
	TEST(test_every_line_is_an_object),
	TEST(test_text_sums_up_by_kind),
	TEST(test_what_refuses_is_named),
	TEST(test_a_process_that_is_not_there),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "check", tests, fixture_setup, fixture_teardown);
}
