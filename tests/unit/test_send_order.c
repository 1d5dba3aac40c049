/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include "tests/harness.h"
#include "transport/send_order.h"

#define PAGE 4096ull

static struct send_order order;

static void setup(void)
{
	order = (struct send_order){0};
}

static void teardown(void)
{
	send_order_release(&order);
}

/* A round with these pages: "0:3-7" is space 0, pages 3 to 6; '?' behind it: doubtful, '0': zero.
 */
static void round_of(const char *text)
{
	struct page_span spans[64];
	struct change_set c = {.written = spans};
	char copy[512], *save;
	snprintf(copy, sizeof(copy), "%s", text);
	for (char *t = strtok_r(copy, " ", &save); t; t = strtok_r(NULL, " ", &save)) {
		unsigned long long space, first, behind;
		char mark = 0;
		CU_ASSERT_TRUE_FATAL(
			sscanf(t, "%llu:%llu-%llu%c", &space, &first, &behind, &mark) >= 3);
		spans[c.nwritten++] = (struct page_span){.space = space,
			.at = first * PAGE,
			.address = (first + 1000) * PAGE,
			.bytes = (behind - first) * PAGE,
			.doubtful = mark == '?',
			.zero = mark == 'z'};
	}
	CU_ASSERT_EQUAL_FATAL(send_order_make(&order, &c, PAGE), 0);
}

static void expect(const char *text)
{
	char made[512] = "";
	for (size_t i = 0; i < order.nspans; i++) {
		const struct page_span *s = &order.spans[i];
		size_t len = strlen(made);
		CU_ASSERT_EQUAL(s->address, s->at + 1000 * PAGE);
		snprintf(made + len, sizeof(made) - len, "%s%llu:%llu-%llu%s", i ? " " : "",
			(unsigned long long)s->space, (unsigned long long)(s->at / PAGE),
			(unsigned long long)((s->at + s->bytes) / PAGE),
			s->doubtful ? "?"
			: s->zero   ? "z"
				    : "");
	}
	CU_ASSERT_STRING_EQUAL(made, text);
}

static void test_the_first_rounds_go_by_place(void)
{
	round_of("0:0-100 7:5-9");
	expect("0:0-100 7:5-9");
	/* That everything was sent in the first says nothing of writing. */
	round_of("0:10-20 7:5-6");
	expect("0:10-20 7:5-6");
	CU_ASSERT_EQUAL(order.hot_pages, 0);
}

static void test_what_was_written_before_goes_last(void)
{
	round_of("0:0-100");
	round_of("0:10-20");
	round_of("0:5-30 0:40-50");
	expect("0:5-10 0:20-30 0:40-50 0:10-20");
	CU_ASSERT_EQUAL(order.hot_pages, 10);
}

static void test_each_space_has_its_own(void)
{
	round_of("0:0-100 3:0-100");
	round_of("0:10-12 3:20-22");
	round_of("0:10-12 0:20-22 2:10-12 3:10-12 3:20-22");
	expect("0:20-22 2:10-12 3:10-12 0:10-12 3:20-22");
}

static void test_a_span_is_cut_as_often_as_needed(void)
{
	round_of("0:0-100");
	round_of("0:0-2 0:4-6 0:8-10");
	round_of("0:1-9");
	expect("0:2-4 0:6-8 0:1-2 0:4-6 0:8-9");
}

static void test_only_the_round_before_counts(void)
{
	round_of("0:0-100");
	round_of("0:10-20");
	round_of("0:30-40");
	round_of("0:10-40");
	expect("0:10-30 0:30-40");
	round_of("");
	expect("");
	round_of("0:10-40");
	expect("0:10-40");
}

static void test_doubtful_pages_make_nothing_hot(void)
{
	round_of("0:0-100");
	round_of("0:0-10? 0:20-30");
	round_of("0:0-10? 0:20-30z 0:40-41");
	expect("0:0-10? 0:40-41 0:20-30z");
}

/* Whatever comes, each page goes once and keeps its marks. */
static void test_no_page_is_lost_or_doubled(void)
{
	enum { PAGES = 64, ROUNDS = 200 };
	srand(7);
	for (int round = 0; round < ROUNDS; round++) {
		struct page_span spans[2 * PAGES];
		struct change_set c = {.written = spans};
		int wanted[2][PAGES] = {0}, got[2][PAGES] = {0};
		for (uint64_t at = 0; at < 2 * PAGES; at++) {
			if (rand() % 3 == 0)
				continue;
			uint64_t page = at % PAGES;
			wanted[at / PAGES][page] = 1;
			spans[c.nwritten++] = (struct page_span){.space = at / PAGES,
				.at = page * PAGE,
				.address = page * PAGE,
				.bytes = PAGE,
				.zero = rand() % 2};
			if (page + 1 < PAGES && rand() % 2) {
				spans[c.nwritten - 1].bytes += PAGE;
				wanted[at / PAGES][page + 1] = 1;
				at++;
			}
		}
		CU_ASSERT_EQUAL_FATAL(send_order_make(&order, &c, PAGE), 0);
		for (size_t i = 0; i < order.nspans; i++) {
			for (uint64_t b = 0; b < order.spans[i].bytes; b += PAGE)
				got[order.spans[i].space][(order.spans[i].at + b) / PAGE]++;
		}
		CU_ASSERT_EQUAL(memcmp(wanted, got, sizeof(got)), 0);
	}
}

static const struct test tests[] = {
	TEST(test_the_first_rounds_go_by_place),
	TEST(test_what_was_written_before_goes_last),
	TEST(test_each_space_has_its_own),
	TEST(test_a_span_is_cut_as_often_as_needed),
	TEST(test_only_the_round_before_counts),
	TEST(test_doubtful_pages_make_nothing_hot),
	TEST(test_no_page_is_lost_or_doubled),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "send_order", tests, setup, teardown);
}
