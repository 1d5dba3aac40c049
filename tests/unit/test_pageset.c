/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "proto/pageset.h"
#include "tests/harness.h"

static struct pageset a, b, c;

static void setup(void)
{
	a = b = c = (struct pageset){0};
}

static void teardown(void)
{
	pageset_release(&a);
	pageset_release(&b);
	pageset_release(&c);
}

static struct page_run run(uint64_t start, uint64_t end)
{
	return (struct page_run){start * 4096, end * 4096};
}

static void expect(const struct pageset *set, size_t n, const uint64_t *edges)
{
	CU_ASSERT_EQUAL(set->len, n);
	for (size_t i = 0; i < n && i < set->len; i++) {
		CU_ASSERT_EQUAL(set->runs[i].start, edges[2 * i] * 4096);
		CU_ASSERT_EQUAL(set->runs[i].end, edges[2 * i + 1] * 4096);
	}
}
#define EXPECT(set, ...) \
	expect(set, sizeof((uint64_t[]){__VA_ARGS__}) / 16, (uint64_t[]){__VA_ARGS__})

static void test_touching_runs_become_one(void)
{
	pageset_add(&a, run(1, 3));
	pageset_add(&a, run(3, 4));
	pageset_add(&a, run(0, 1));
	EXPECT(&a, 0, 4);
}

static void test_a_run_over_others_swallows_them(void)
{
	pageset_add(&a, run(1, 2));
	pageset_add(&a, run(4, 5));
	pageset_add(&a, run(8, 9));
	pageset_add(&a, run(2, 8));
	EXPECT(&a, 1, 9);
}

static void test_empty_runs_are_refused(void)
{
	CU_ASSERT_EQUAL(pageset_add(&a, run(3, 3)), -EINVAL);
	CU_ASSERT_EQUAL(pageset_add(&a, run(4, 3)), -EINVAL);
	CU_ASSERT_EQUAL(pageset_remove(&a, run(4, 3)), -EINVAL);
	CU_ASSERT_EQUAL(a.len, 0);
}

static void test_removing_the_middle_splits(void)
{
	pageset_add(&a, run(0, 10));
	pageset_remove(&a, run(3, 5));
	EXPECT(&a, 0, 3, 5, 10);
	pageset_remove(&a, run(2, 20));
	EXPECT(&a, 0, 2);
}

static void test_set_operations(void)
{
	pageset_add(&a, run(0, 4));
	pageset_add(&a, run(6, 10));
	pageset_add(&b, run(2, 7));
	pageset_add(&b, run(9, 12));
	pageset_union(&a, &b, &c);
	EXPECT(&c, 0, 12);
	pageset_subtract(&a, &b, &c);
	EXPECT(&c, 0, 2, 7, 9);
	pageset_intersect(&a, &b, &c);
	EXPECT(&c, 2, 4, 6, 7, 9, 10);
	CU_ASSERT_TRUE(pageset_covers(&a, run(7, 10)));
	CU_ASSERT_FALSE(pageset_covers(&a, run(3, 5)));
	CU_ASSERT_FALSE(pageset_covers(&a, run(4, 5)));
	CU_ASSERT_EQUAL(pageset_bytes(&a), 8 * 4096);
}

/* Against a plain array of bits, with everything at random. */
static void test_agrees_with_a_bitmap(void)
{
	enum { PAGES = 200 };
	unsigned seed = 7;
	bool in_a[PAGES] = {0}, in_b[PAGES] = {0};
	for (int step = 0; step < 3000; step++) {
		uint64_t start = rand_r(&seed) % PAGES, end = start + 1 + rand_r(&seed) % 12;
		if (end > PAGES)
			end = PAGES;
		bool to_a = rand_r(&seed) % 2, add = rand_r(&seed) % 5 < 2;
		struct pageset *set = to_a ? &a : &b;
		int r = add ? pageset_add(set, run(start, end))
			    : pageset_remove(set, run(start, end));
		CU_ASSERT_EQUAL_FATAL(r, 0);
		memset((to_a ? in_a : in_b) + start, add, end - start);

		struct pageset *ops[] = {&a, &b, &c, &c, &c};
		for (int op = 0; op < 5; op++) {
			if (op == 2)
				pageset_union(&a, &b, &c);
			else if (op == 3)
				pageset_subtract(&a, &b, &c);
			else if (op == 4)
				pageset_intersect(&a, &b, &c);
			for (size_t i = 0; i + 1 < ops[op]->len; i++)
				CU_ASSERT_TRUE_FATAL(
					ops[op]->runs[i].end < ops[op]->runs[i + 1].start);
			for (uint64_t p = 0; p < PAGES; p++) {
				bool want[] = {in_a[p], in_b[p], in_a[p] || in_b[p],
					in_a[p] && !in_b[p], in_a[p] && in_b[p]};
				CU_ASSERT_EQUAL_FATAL(
					pageset_covers(ops[op], run(p, p + 1)), want[op]);
			}
		}
	}
}

static void test_merging_adds_what_lies_anywhere(void)
{
	pageset_add(&a, run(2, 4));
	pageset_add(&b, run(4, 6));
	pageset_add(&b, run(8, 9));
	CU_ASSERT_EQUAL(pageset_merge(&a, &b), 0); /* behind, touching */
	EXPECT(&a, 2, 6, 8, 9);
	pageset_clear(&b);
	pageset_add(&b, run(0, 1));
	pageset_add(&b, run(5, 8));
	CU_ASSERT_EQUAL(pageset_merge(&a, &b), 0); /* between */
	EXPECT(&a, 0, 1, 2, 9);
	CU_ASSERT_EQUAL(pageset_merge(&c, &a), 0); /* to nothing */
	EXPECT(&c, 0, 1, 2, 9);
	pageset_clear(&b);
	CU_ASSERT_EQUAL(pageset_merge(&c, &b), 0); /* nothing */
	EXPECT(&c, 0, 1, 2, 9);
}

static const struct test tests[] = {
	TEST(test_touching_runs_become_one),
	TEST(test_a_run_over_others_swallows_them),
	TEST(test_empty_runs_are_refused),
	TEST(test_removing_the_middle_splits),
	TEST(test_set_operations),
	TEST(test_merging_adds_what_lies_anywhere),
	TEST(test_agrees_with_a_bitmap),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "pageset", tests, setup, teardown);
}
