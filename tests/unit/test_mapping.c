/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "proto/mapping.h"
#include "tests/harness.h"

static struct mapping_table from, to;
static struct mapping_diff diff;

static void setup(void)
{
	from = to = (struct mapping_table){0};
	diff = (struct mapping_diff){0};
}

static void teardown(void)
{
	mapping_table_release(&from);
	mapping_table_release(&to);
	mapping_diff_release(&diff);
}

static int add(struct mapping_table *t, uint64_t start, uint64_t end, const char *name)
{
	struct mapping m = {.start = start * 4096,
		.end = end * 4096,
		.prot = 3,
		.kind = MAPPING_ANON,
		.offset = start * 4096,
		.name = strdup(name)};
	int r = mapping_table_append(t, &m);
	mapping_release(&m);
	return r;
}

static void expect_equal(const struct mapping_table *x, const struct mapping_table *y)
{
	CU_ASSERT_EQUAL_FATAL(x->len, y->len);
	for (size_t i = 0; i < x->len; i++)
		CU_ASSERT_TRUE(mapping_equal(&x->v[i], &y->v[i]));
}

static void test_a_table_is_in_order(void)
{
	CU_ASSERT_EQUAL(add(&from, 4, 8, ""), 0);
	CU_ASSERT_EQUAL(add(&from, 7, 9, ""), -EINVAL);
	CU_ASSERT_EQUAL(add(&from, 9, 9, ""), -EINVAL);
	CU_ASSERT_EQUAL(add(&from, 8, 9, "x"), 0);
	CU_ASSERT_PTR_NULL(mapping_table_find(&from, 3 * 4096));
	CU_ASSERT_STRING_EQUAL(mapping_table_find(&from, 8 * 4096)->name, "x");
	CU_ASSERT_PTR_NULL(mapping_table_find(&from, 9 * 4096));
}

static void test_equal_tables_differ_in_nothing(void)
{
	add(&from, 1, 2, "a");
	add(&to, 1, 2, "a");
	CU_ASSERT_EQUAL(mapping_diff_make(&from, &to, &diff), 0);
	CU_ASSERT_EQUAL(diff.removed.len, 0);
	CU_ASSERT_EQUAL(diff.added.len, 0);
}

static void test_a_removed_place_cuts_what_it_meets(void)
{
	add(&from, 0, 10, "a");
	pageset_add(&diff.removed, (struct page_run){3 * 4096, 5 * 4096});
	CU_ASSERT_EQUAL(mapping_table_apply(&from, &diff), 0);
	CU_ASSERT_EQUAL_FATAL(from.len, 2);
	CU_ASSERT_EQUAL(from.v[0].end, 3 * 4096);
	CU_ASSERT_EQUAL(from.v[1].start, 5 * 4096);
	CU_ASSERT_EQUAL(from.v[1].offset, 5 * 4096);
}

static void test_adding_over_a_mapping_is_refused(void)
{
	add(&from, 0, 10, "a");
	add(&diff.added, 9, 12, "b");
	CU_ASSERT_EQUAL(mapping_table_apply(&from, &diff), -EINVAL);
}

static void test_a_difference_applied_gives_the_other_table(void)
{
	unsigned seed = 11;
	for (int round = 0; round < 2000; round++) {
		mapping_table_release(&to);
		for (uint64_t at = rand_r(&seed) % 4; at < 60;) {
			uint64_t end = at + 1 + rand_r(&seed) % 6;
			static const char *const names[] = {"", "[heap]", "/bin/x"};
			CU_ASSERT_EQUAL_FATAL(add(&to, at, end, names[rand_r(&seed) % 3]), 0);
			at = end + (rand_r(&seed) % 3 ? 0 : rand_r(&seed) % 5);
		}
		mapping_diff_release(&diff);
		diff = (struct mapping_diff){0};
		CU_ASSERT_EQUAL_FATAL(mapping_diff_make(&from, &to, &diff), 0);
		CU_ASSERT_EQUAL_FATAL(mapping_table_apply(&from, &diff), 0);
		expect_equal(&from, &to);
	}
}

static void test_neighbours_that_are_one_are_merged(void)
{
	add(&from, 0, 2, "");
	add(&from, 2, 5, "");
	add(&from, 5, 6, "[heap]");
	add(&from, 7, 8, "[heap]");
	add(&from, 8, 9, "[heap]");
	from.v[4].prot = 1;
	mapping_table_merge(&from);
	CU_ASSERT_EQUAL_FATAL(from.len, 4);
	CU_ASSERT_EQUAL(from.v[0].start, 0);
	CU_ASSERT_EQUAL(from.v[0].end, 5 * 4096);
	CU_ASSERT_EQUAL(from.v[3].start, 8 * 4096);
}

static void test_neighbours_of_a_file_are_merged_where_it_goes_on(void)
{
	add(&from, 0, 2, "/file");
	add(&from, 2, 4, "/file");
	add(&from, 4, 5, "/file");
	for (size_t i = 0; i < 3; i++)
		from.v[i].kind = MAPPING_FILE_PRIVATE;
	from.v[2].offset += 4096;
	mapping_table_merge(&from);
	CU_ASSERT_EQUAL_FATAL(from.len, 2);
	CU_ASSERT_EQUAL(from.v[0].end, 4 * 4096);
}

static const struct test tests[] = {
	TEST(test_neighbours_that_are_one_are_merged),
	TEST(test_neighbours_of_a_file_are_merged_where_it_goes_on),
	TEST(test_a_table_is_in_order),
	TEST(test_equal_tables_differ_in_nothing),
	TEST(test_a_removed_place_cuts_what_it_meets),
	TEST(test_adding_over_a_mapping_is_refused),
	TEST(test_a_difference_applied_gives_the_other_table),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "mapping", tests, setup, teardown);
}
