/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include "agent/extents.h"
#include "tests/harness.h"

#define PAGES 4096u
#define FRAMES 4096u

/* What the map must say: for each page its frame and which page of it; and how many live pages a
 * frame has by what the map reported. */
static struct model {
	uint32_t frame[PAGES];
	uint32_t first[PAGES];
	bool held[PAGES];
	uint32_t live[FRAMES];
} model;
static struct extents map;

static void setup(void)
{
	memset(&model, 0, sizeof(model));
	map = (struct extents){0};
}

static void teardown(void)
{
	extents_release(&map);
}

static void gone(void *arg, uint32_t frame, uint32_t pages)
{
	CU_ASSERT_FATAL(frame < FRAMES && model.live[frame] >= pages);
	model.live[frame] -= pages;
}

static void put(uint64_t page, uint32_t pages, uint32_t frame, uint32_t first)
{
	model.live[frame] += pages;
	CU_ASSERT_EQUAL_FATAL(
		extents_put(&map,
			(struct extent){
				.page = page, .pages = pages, .frame = frame, .first = first},
			gone, NULL),
		0);
	for (uint32_t i = 0; i < pages; i++) {
		model.frame[page + i] = frame;
		model.first[page + i] = first + i;
		model.held[page + i] = true;
	}
}

static void drop(uint64_t page, uint64_t pages)
{
	CU_ASSERT_EQUAL_FATAL(extents_remove(&map, page, pages, gone, NULL), 0);
	for (uint64_t i = 0; i < pages; i++)
		model.held[page + i] = false;
}

/* Each held page is found by itself, and no other. */
static void check_each(void)
{
	struct extent x;
	for (uint64_t page = 0; page < PAGES + 600; page++) {
		bool held = page < PAGES && model.held[page];
		CU_ASSERT_EQUAL_FATAL(extents_find(&map, page, &x), held);
		if (!held)
			continue;
		CU_ASSERT_FATAL(x.page == page && x.pages > 0 && page + x.pages <= PAGES);
		for (uint32_t i = 0; i < x.pages; i++)
			CU_ASSERT_FATAL(model.held[page + i] && model.frame[page + i] == x.frame &&
					model.first[page + i] == x.first + i);
	}
}

/* The walk gives each held page once, in order, in the longest pieces there are. */
static void check(void)
{
	uint32_t live[FRAMES] = {0};
	struct extents_cursor at = {0};
	struct extent x, before = {0};
	uint64_t page = 0;
	while (extents_next(&map, &at, &x)) {
		CU_ASSERT_FATAL(x.pages > 0 && x.page >= page && x.page + x.pages <= PAGES);
		CU_ASSERT_FALSE(before.pages && before.page + before.pages == x.page &&
				before.frame == x.frame && before.first + before.pages == x.first);
		for (; page < x.page; page++)
			CU_ASSERT_FALSE_FATAL(model.held[page]);
		for (uint32_t i = 0; i < x.pages; i++, page++) {
			CU_ASSERT_FATAL(model.held[page]);
			CU_ASSERT_EQUAL_FATAL(model.frame[page], x.frame);
			CU_ASSERT_EQUAL_FATAL(model.first[page], x.first + i);
		}
		live[x.frame] += x.pages;
		before = x;
	}
	for (; page < PAGES; page++)
		CU_ASSERT_FALSE_FATAL(model.held[page]);
	check_each();
	CU_ASSERT_EQUAL(memcmp(live, model.live, sizeof(live)), 0);
}

static void test_pages_in_order_stay_one_extent_a_frame(void)
{
	struct extents_cursor at = {0};
	struct extent x;
	unsigned n = 0;
	for (uint32_t f = 0; f < PAGES / 256; f++)
		put((uint64_t)f * 256, 256, f, 0);
	check();
	while (extents_next(&map, &at, &x)) {
		CU_ASSERT_EQUAL(x.pages, 256);
		n++;
	}
	CU_ASSERT_EQUAL(n, PAGES / 256);
}

static void test_a_frame_across_chunks_is_one_extent(void)
{
	struct extents_cursor at = {0};
	struct extent x;
	put(EXTENTS_CHUNK_PAGES - 100, 200, 7, 3);
	CU_ASSERT_TRUE_FATAL(extents_next(&map, &at, &x));
	CU_ASSERT_EQUAL(x.page, EXTENTS_CHUNK_PAGES - 100);
	CU_ASSERT_EQUAL(x.pages, 200);
	CU_ASSERT_EQUAL(x.first, 3);
	CU_ASSERT_FALSE(extents_next(&map, &at, &x));
}

static void test_a_page_in_the_middle_splits_what_it_covers(void)
{
	put(0, 256, 0, 0);
	put(100, 1, 1, 0);
	check();
	CU_ASSERT_EQUAL(model.live[0], 255);
	put(99, 3, 2, 0);
	check();
	CU_ASSERT_EQUAL(model.live[1], 0);
}

static void test_dropping_everything_leaves_nothing(void)
{
	for (uint32_t f = 0; f < 16; f++)
		put((uint64_t)f * 256, 256, f, 0);
	drop(0, PAGES);
	check();
	CU_ASSERT_EQUAL(map.len, 0);
	CU_ASSERT_EQUAL(map.runs, 0);
}

static void test_a_huge_drop_costs_by_what_is_held(void)
{
	put(1, 1, 0, 0);
	CU_ASSERT_EQUAL_FATAL(
		extents_put(&map,
			(struct extent){.page = (UINT64_C(1) << 52) - 2, .pages = 1, .frame = 1},
			gone, NULL),
		0);
	model.live[1] = 1;
	CU_ASSERT_EQUAL(extents_remove(&map, 2, (UINT64_C(1) << 52) - 3, gone, NULL), 0);
	CU_ASSERT_EQUAL(model.live[1], 0);
	check();
}

static void test_random_puts_and_drops_match_a_plain_array(void)
{
	srand(1);
	for (unsigned i = 0; i < 20000; i++) {
		uint32_t pages = 1 + (uint32_t)rand() % ((rand() % 8) ? 8 : 256);
		uint64_t page = (uint64_t)rand() % (PAGES - pages);
		if (rand() % 5 == 0) {
			drop(page, (uint64_t)rand() % 3 ? pages : PAGES - page);
		} else {
			/* A frame's number comes back only when none of its pages is live, as in
			 * the sink. */
			uint32_t frame = (uint32_t)rand() % FRAMES;
			while (model.live[frame])
				frame = (frame + 1) % FRAMES;
			put(page, pages, frame, (uint32_t)rand() % 100);
		}
		if (i % 64 == 0)
			check();
	}
	check();
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_pages_in_order_stay_one_extent_a_frame),
		TEST(test_a_frame_across_chunks_is_one_extent),
		TEST(test_a_page_in_the_middle_splits_what_it_covers),
		TEST(test_dropping_everything_leaves_nothing),
		TEST(test_a_huge_drop_costs_by_what_is_held),
		TEST(test_random_puts_and_drops_match_a_plain_array),
		{NULL, NULL},
	};
	return harness_main(argc, argv, "extents", tests, setup, teardown);
}
