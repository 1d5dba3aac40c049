/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "tests/harness.h"
#include "tracker/process.h"
#include "tracker/stretch.h"

#define MIB (1ull << 20)
#define PAGE 4096ull

static struct mapping mappings[8];
static struct mapping_table maps = {.v = mappings};
static struct watch_list watches;
static struct stretch_list list;
static struct backend_found found;
static const struct process process = {.pid = 42};

static void setup(void)
{
	memset(mappings, 0, sizeof(mappings));
	maps.len = 0;
}

static void teardown(void)
{
	watch_list_release(&watches);
	stretch_list_release(&list);
	backend_found_release(&found);
	found = (struct backend_found){0};
}

static void watch(uint64_t start, uint64_t end, enum watch_kind kind, uint32_t flags)
{
	mappings[maps.len] = (struct mapping){.start = start, .end = end, .flags = flags};
	watch_list_add(&watches, (struct watch){start, end, kind, (uint32_t)maps.len});
	maps.len++;
}

static bool below_8_mib(void *arg, const struct watch *w)
{
	(void)arg;
	return w->start < 8 * MIB;
}

static void test_what_means_the_same_side_by_side_is_one(void)
{
	watch(0, 2 * MIB, WATCH_PRIVATE, 0);
	watch(2 * MIB, 4 * MIB, WATCH_PRIVATE, 0);
	watch(4 * MIB, 6 * MIB, WATCH_PRIVATE_FILE, 0); /* another kind */
	watch(6 * MIB, 8 * MIB, WATCH_PRIVATE_FILE, MAPPING_HUGETLB);
	watch(8 * MIB, 9 * MIB, WATCH_PRIVATE_FILE, MAPPING_HUGETLB); /* not tracked */
	watch(10 * MIB, 11 * MIB, WATCH_SHARED, 0);
	watch(11 * MIB, 12 * MIB, WATCH_SHARED, 0); /* shared: one by one */
	watch(13 * MIB, 14 * MIB, WATCH_SHARED, 0); /* behind a gap */
	CU_ASSERT_EQUAL_FATAL(stretch_list_make(&maps, &watches, below_8_mib, NULL, &list), 0);
	CU_ASSERT_EQUAL_FATAL(list.len, 7);
	CU_ASSERT_EQUAL(list.v[0].end, 4 * MIB);
	CU_ASSERT_TRUE(list.v[0].tracked && list.v[2].tracked && !list.v[3].tracked);
	CU_ASSERT_TRUE(!list.v[1].hugetlb && list.v[2].hugetlb);
	CU_ASSERT_EQUAL(list.v[6].start, 13 * MIB);
}

/* Finds every third page written; a stretch that would tear a huge page apart is an error. */
static int find_some(void *arg, const struct stretch *s, struct backend_found *ret)
{
	const uint64_t *whole_end = arg;
	if (s->end % (2 * MIB) && s->end != *whole_end)
		return -EINVAL;
	int r = pageset_add(&ret->held, (struct page_run){s->start, s->end});
	for (uint64_t at = s->start; r == 0 && at < s->end; at += PAGE)
		if (at / PAGE % 3 == 0)
			r = pageset_add(&ret->written, (struct page_run){at, at + PAGE});
	return r;
}

static void test_several_threads_find_what_one_does(void)
{
	struct backend_found one = {0};
	uint64_t end = 1000 * MIB + 3 * PAGE;
	watch(PAGE, end, WATCH_PRIVATE, 0);
	watch(end + PAGE, end + 2 * PAGE, WATCH_PRIVATE, 0);
	CU_ASSERT_EQUAL(stretch_list_make(&maps, &watches, NULL, NULL, &list), 0);
	list.len = 1;
	CU_ASSERT_EQUAL(stretch_list_scan(&list, &process, 1, find_some, &end, &one, NULL), 0);
	CU_ASSERT_EQUAL(list.len, 1);
	CU_ASSERT_EQUAL(stretch_list_scan(&list, &process, 4, find_some, &end, &found, NULL), 0);
	CU_ASSERT_TRUE(list.len > 4);
	CU_ASSERT_EQUAL(found.held.len, 1);
	CU_ASSERT_EQUAL_FATAL(found.written.len, one.written.len);
	CU_ASSERT_EQUAL(memcmp(found.written.runs, one.written.runs,
				one.written.len * sizeof(*one.written.runs)),
		0);
	backend_found_release(&one);
}

static int find_nothing(void *arg, const struct stretch *s, struct backend_found *ret)
{
	(void)arg;
	(void)s;
	(void)ret;
	return 0;
}

static void test_a_sparse_mapping_makes_no_endless_list(void)
{
	watch(0, 1ull << 46, WATCH_PRIVATE, 0);
	CU_ASSERT_EQUAL(stretch_list_make(&maps, &watches, NULL, NULL, &list), 0);
	CU_ASSERT_EQUAL(stretch_list_scan(&list, &process, 2, find_nothing, NULL, &found, NULL), 0);
	CU_ASSERT_TRUE(list.len <= 4097);
	CU_ASSERT_EQUAL(list.v[list.len - 1].end, 1ull << 46);
}

static int fail_behind(void *arg, const struct stretch *s, struct backend_found *ret)
{
	const uint64_t *at = arg;
	(void)ret;
	return s->start >= *at ? -EIO : 0;
}

static void test_a_failure_names_the_place(void)
{
	struct tide_error err = {0};
	uint64_t at = 512 * MIB;
	watch(0, 1024 * MIB, WATCH_PRIVATE, 0);
	CU_ASSERT_EQUAL(stretch_list_make(&maps, &watches, NULL, NULL, &list), 0);
	CU_ASSERT_EQUAL(
		stretch_list_scan(&list, &process, 3, fail_behind, &at, &found, &err), -EIO);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "process 42 from 0x20000000 to"));
	at = 0;
	err = (struct tide_error){0};
	CU_ASSERT_EQUAL(
		stretch_list_scan(&list, &process, 1, fail_behind, &at, &found, &err), -EIO);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "process 42 from 0 to"));
}

static const struct test tests[] = {
	TEST(test_what_means_the_same_side_by_side_is_one),
	TEST(test_several_threads_find_what_one_does),
	TEST(test_a_sparse_mapping_makes_no_endless_list),
	TEST(test_a_failure_names_the_place),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "stretch", tests, setup, teardown);
}
