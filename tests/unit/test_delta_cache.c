/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "tests/harness.h"
#include "transport/delta_cache.h"

#define PAGE 4096u
#define MIB (UINT64_C(1) << 20)
#define SPANS 4096

static struct delta_cache *cache;
static struct change_set changes;
static struct page_span spans[SPANS];
static struct page_drop drops[8];
static struct page_run removed[8];
static uint64_t version; /* what pages hold: of the round */

static void setup(void)
{
	cache = NULL;
	memset(&changes, 0, sizeof(changes));
	changes.written = spans;
	changes.drops = drops;
	changes.mappings.removed.runs = removed;
	version = 0;
}

static void teardown(void)
{
	delta_cache_free(cache);
}

static void make(uint64_t bytes_max)
{
	struct delta_cache_options o = {.page_bytes = PAGE, .bytes_max = bytes_max};
	CU_ASSERT_EQUAL_FATAL(delta_cache_new(&o, &cache), 0);
	CU_ASSERT(delta_cache_bytes(cache) <= bytes_max || delta_cache_pages(cache) == 0);
}

/* --- rounds ------------------------------------------------------------------------------- */

static void add(space_id space, uint64_t page, uint64_t n)
{
	CU_ASSERT_FATAL(changes.nwritten < SPANS);
	spans[changes.nwritten++] = (struct page_span){
		.space = space, .at = page * PAGE, .address = page * PAGE, .bytes = n * PAGE};
}

/* What a page holds after round `v`. */
static void fill(uint8_t *page, space_id space, uint64_t at, uint64_t v)
{
	for (size_t i = 0; i < PAGE; i += 8) {
		uint64_t x = space * 1000003 + at / PAGE * 31 + v * 7919 + i;
		memcpy(page + i, &x, 8);
	}
}

static bool holds(const uint8_t *page, space_id space, uint64_t at, uint64_t v)
{
	uint8_t expected[PAGE];
	fill(expected, space, at, v);
	return memcmp(page, expected, PAGE) == 0;
}

static const uint8_t *former_of(space_id space, uint64_t page)
{
	return delta_cache_take(cache, space, page * PAGE);
}

static void keep(space_id space, uint64_t page)
{
	uint8_t bytes[PAGE];
	fill(bytes, space, page * PAGE, version);
	delta_cache_keep(cache, space, page * PAGE, bytes);
}

static void begin(void)
{
	version++;
	delta_cache_begin(cache, &changes, false);
}

static void settle(bool acknowledged)
{
	delta_cache_settle(cache, acknowledged);
	changes.nwritten = changes.ndrops = 0;
	changes.mappings.removed.len = 0;
}

/* The round of the spans that were added, sent whole. Returns how many pages had former bytes;
 * all of those must be what the round before `age` rounds sent. */
static size_t send_all_of(uint64_t age)
{
	size_t hits = 0;
	for (size_t i = 0; i < changes.nwritten; i++) {
		const struct page_span *s = &spans[i];
		for (uint64_t at = s->at; at < s->at + s->bytes; at += PAGE) {
			const uint8_t *former = former_of(s->space, at / PAGE);
			if (former) {
				hits++;
				CU_ASSERT(holds(former, s->space, at, version - age));
			}
			keep(s->space, at / PAGE);
		}
	}
	return hits;
}

static size_t run_round(void)
{
	begin();
	size_t hits = send_all_of(1);
	settle(true);
	return hits;
}

/* --- what is held ------------------------------------------------------------------------- */

static void test_what_was_acknowledged_is_known(void)
{
	make(MIB);
	add(0, 5, 3);
	CU_ASSERT_EQUAL(run_round(), 0);
	add(0, 5, 3);
	CU_ASSERT_EQUAL(run_round(), 3);
	/* Spaces are apart. */
	add(1, 5, 3);
	CU_ASSERT_EQUAL(run_round(), 0);
}

static void test_what_was_not_acknowledged_is_not(void)
{
	make(MIB);
	add(0, 5, 4);
	run_round();
	add(0, 5, 2);
	begin();
	CU_ASSERT_PTR_NOT_NULL(former_of(0, 5));
	keep(0, 5);
	/* Page 6 was to be sent, too, but nothing came of it. */
	settle(false);

	add(0, 5, 4);
	begin();
	CU_ASSERT_PTR_NULL(former_of(0, 5));
	/* Not sent in the round that failed: what was held is held. */
	const uint8_t *former = former_of(0, 6);
	CU_ASSERT_PTR_NOT_NULL_FATAL(former);
	CU_ASSERT(holds(former, 0, 6 * PAGE, 1));
	former = former_of(0, 7);
	CU_ASSERT_PTR_NOT_NULL_FATAL(former);
	CU_ASSERT(holds(former, 0, 7 * PAGE, 1));
}

static void test_what_was_taken_and_not_kept_is_not_known(void)
{
	make(MIB);
	add(0, 5, 1);
	run_round();
	add(0, 5, 1);
	begin();
	CU_ASSERT_PTR_NOT_NULL(former_of(0, 5));
	settle(true);
	add(0, 5, 1);
	begin();
	CU_ASSERT_PTR_NULL(former_of(0, 5));
}

/* Found unchanged, it is not sent: the receiver has what it had. */
static void test_what_is_not_sent_stays_known(void)
{
	make(MIB);
	add(0, 5, 1);
	run_round();
	for (int i = 0; i < 3; i++) {
		add(0, 5, 1);
		begin();
		settle(true);
	}
	add(0, 5, 1);
	begin();
	CU_ASSERT_EQUAL(send_all_of(4), 1);
}

static void test_what_cannot_be_read_is_forgotten(void)
{
	make(MIB);
	add(0, 5, 3);
	run_round();
	add(0, 5, 3);
	begin();
	delta_cache_skip(cache, &(struct page_span){.at = 6 * PAGE, .bytes = PAGE});
	settle(true);
	add(0, 5, 3);
	begin();
	CU_ASSERT_PTR_NOT_NULL(former_of(0, 5));
	CU_ASSERT_PTR_NULL(former_of(0, 6));
	CU_ASSERT_PTR_NOT_NULL(former_of(0, 7));
}

static void test_what_is_dropped_or_unmapped_is_forgotten(void)
{
	make(MIB);
	add(0, 0, 40);
	add(7, 0, 40);
	run_round();
	removed[0] = (struct page_run){2 * PAGE, 4 * PAGE};
	removed[1] = (struct page_run){30 * PAGE, UINT64_C(1) << 50};
	changes.mappings.removed.len = 2;
	drops[0] = (struct page_drop){0, {8 * PAGE, 9 * PAGE}, DROP_GONE};
	drops[1] = (struct page_drop){0, {10 * PAGE, 12 * PAGE}, DROP_BACK_TO_FILE};
	drops[2] = (struct page_drop){7, {0, PAGE}, DROP_GONE};
	changes.ndrops = 3;
	add(0, 0, 40);
	add(7, 0, 40);
	begin();
	for (uint64_t i = 0; i < 40; i++) {
		bool gone = i == 2 || i == 3 || i >= 30 || i == 8 || i == 10 || i == 11;
		CU_ASSERT_EQUAL(former_of(0, i) == NULL, gone);
		CU_ASSERT_EQUAL(former_of(7, i) == NULL, i == 0);
	}
}

static void test_the_final_round_uses_and_keeps_nothing(void)
{
	make(MIB);
	add(0, 5, 3);
	run_round();
	drops[0] = (struct page_drop){0, {6 * PAGE, 7 * PAGE}, DROP_GONE};
	changes.ndrops = 1;
	add(0, 5, 4);
	version++;
	delta_cache_begin(cache, &changes, true);
	CU_ASSERT_EQUAL(send_all_of(1), 2);
	settle(true);
}

/* --- which pages are kept ----------------------------------------------------------------- */

static void test_memory_is_bounded(void)
{
	static const uint64_t sizes[] = {0, 1, 4096, 8192, 65536, MIB, 3 * MIB + 5, 64 * MIB};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		make(sizes[i]);
		/* Most of it is for pages. */
		size_t pages = delta_cache_pages(cache);
		if (sizes[i] >= 65536)
			CU_ASSERT(pages * PAGE >= sizes[i] * 8 / 10);
		for (int round = 0; round < 3; round++) {
			add(0, 0, 50000);
			CU_ASSERT(run_round() <= pages);
		}
		delta_cache_free(cache);
		cache = NULL;
	}
}

static void test_without_room_nothing_is_known(void)
{
	make(1000);
	CU_ASSERT_EQUAL(delta_cache_pages(cache), 0);
	for (int round = 0; round < 3; round++) {
		add(0, 5, 3);
		drops[0] = (struct page_drop){0, {0, PAGE}, DROP_GONE};
		changes.ndrops = 1;
		CU_ASSERT_EQUAL(run_round(), 0);
	}
	delta_cache_skip(cache, &(struct page_span){.at = 6 * PAGE, .bytes = PAGE});
}

/* The least recently used going first would hit none of these. */
static void test_of_more_than_fit_some_stay(void)
{
	make(MIB);
	size_t room = delta_cache_pages(cache);
	for (int round = 0; round < 20; round++) {
		add(0, 1000, 4 * room);
		size_t hits = run_round();
		CU_ASSERT_EQUAL(hits, round ? room : 0);
	}
}

/* Each is written in every fourth round: when one comes it has a lead over those that do not. */
static void test_taking_turns_does_not_push_each_other_out(void)
{
	make(MIB);
	size_t room = delta_cache_pages(cache), hits = 0;
	add(0, 1 << 20, 2 * room);
	run_round();
	for (int round = 0; round < 40; round++) {
		add(0, (uint64_t)(round % 4) * 2 * room, 2 * room);
		begin();
		size_t now = 0;
		for (uint64_t i = 0; i < 2 * room; i++) {
			uint64_t page = (uint64_t)(round % 4) * 2 * room + i;
			now += former_of(0, page) != NULL;
			keep(0, page);
		}
		settle(true);
		if (round >= 20)
			hits += now;
	}
	/* All of the room is hit once in four rounds. */
	CU_ASSERT(hits >= 5 * room * 8 / 10);
}

static void test_pages_that_are_written_often_come_in(void)
{
	make(MIB);
	size_t room = delta_cache_pages(cache);
	add(0, 0, 10 * room); /* all of memory */
	run_round();
	/* The last ones are written in every round, beside a wave of others. */
	uint64_t hot = 9 * room;
	for (int round = 0; round < 12; round++) {
		add(0, (uint64_t)round % 8 * room, room);
		add(0, hot, room / 2);
		begin();
		size_t hits = 0;
		for (uint64_t i = 0; i < room / 2; i++) {
			hits += former_of(0, hot + i) != NULL;
			keep(0, hot + i);
		}
		for (uint64_t i = 0; i < room; i++) {
			former_of(0, (uint64_t)round % 8 * room + i);
			keep(0, (uint64_t)round % 8 * room + i);
		}
		settle(true);
		if (round >= 5)
			CU_ASSERT_EQUAL(hits, room / 2);
	}
}

static void test_what_is_not_written_any_more_makes_way(void)
{
	make(MIB);
	size_t room = delta_cache_pages(cache), hits = 0;
	for (int round = 0; round < 20; round++) {
		add(0, 0, room);
		run_round();
	}
	int rounds = 0;
	for (; hits < room && rounds < 30; rounds++) {
		add(0, 100 * room, room);
		hits = run_round();
	}
	CU_ASSERT_EQUAL(hits, room);
	CU_ASSERT(rounds <= 10);
}

/* Shared memory is read in every round, and is mostly as it was. */
static void test_doubt_is_no_writing(void)
{
	make(MIB);
	size_t room = delta_cache_pages(cache);
	add(0, 0, 1);
	run_round();
	for (int round = 0; round < 10; round++) {
		add(0, 500 * room, room);
		add(3, 0, room);
		spans[1].doubtful = true;
		begin();
		size_t hits = 0;
		for (uint64_t i = 0; i < room; i++) {
			hits += former_of(0, 500 * room + i) != NULL;
			keep(0, 500 * room + i);
		}
		settle(true);
		if (round >= 4)
			CU_ASSERT(hits >= room - 1);
	}
	/* Those that had to be sent count. */
	for (int round = 0; round < 10; round++) {
		add(3, 0, room);
		spans[0].doubtful = true;
		size_t hits = run_round();
		if (round == 9)
			CU_ASSERT_EQUAL(hits, room);
	}
}

static void test_random_rounds_never_give_stale_bytes(void)
{
	enum { PLACES = 600 };
	static uint64_t held[PLACES]; /* the version at the receiver, acknowledged; 0: unknown */
	static uint64_t sent[PLACES];
	memset(held, 0, sizeof(held));
	make(MIB / 2);
	srand(7);
	size_t hits = 0;
	for (int round = 0; round < 400; round++) {
		memset(sent, 0, sizeof(sent));
		uint64_t at = 0;
		while ((at += (uint64_t)rand() % 20 + 1) < PLACES) {
			uint64_t n = (uint64_t)rand() % 12 + 1;
			if (n > PLACES - at)
				n = PLACES - at;
			add(2, at, n);
			spans[changes.nwritten - 1].doubtful = rand() % 4 == 0;
			at += n;
		}
		uint64_t gone = (uint64_t)rand() % PLACES;
		drops[0] = (struct page_drop){2, {gone * PAGE, (gone + 3) * PAGE}, DROP_GONE};
		changes.ndrops = 1;
		for (uint64_t i = gone; i < gone + 3 && i < PLACES; i++)
			held[i] = 0;
		begin();
		for (size_t i = 0; i < changes.nwritten; i++) {
			for (uint64_t p = spans[i].at / PAGE;
				p < (spans[i].at + spans[i].bytes) / PAGE; p++) {
				int what = rand() % 8;
				if (what == 0) {
					struct page_span one = {
						.space = 2, .at = p * PAGE, .bytes = PAGE};
					delta_cache_skip(cache, &one);
					held[p] = 0;
				} else if (what > 1) {
					const uint8_t *former = former_of(2, p);
					CU_ASSERT(!former || held[p]);
					CU_ASSERT(!former || holds(former, 2, p * PAGE, held[p]));
					hits += former != NULL;
					keep(2, p);
					sent[p] = version;
				}
			}
		}
		bool acknowledged = rand() % 10 != 0;
		for (size_t i = 0; i < PLACES; i++)
			held[i] = sent[i] ? (acknowledged ? sent[i] : 0) : held[i];
		settle(acknowledged);
	}
	CU_ASSERT(hits > 1000);
}

/* --- threads ------------------------------------------------------------------------------ */

static void *send_part(void *arg)
{
	uint64_t first = *(uint64_t *)arg;
	for (uint64_t p = first; p < first + 50; p++) {
		const uint8_t *former = former_of(0, p);
		if (former && !holds(former, 0, p * PAGE, version - 1))
			return NULL;
		keep(0, p);
	}
	return arg;
}

static void test_threads_take_side_by_side(void)
{
	make(MIB);
	for (int round = 0; round < 10; round++) {
		pthread_t threads[4];
		uint64_t first[4];
		add(0, 0, 200);
		begin();
		for (size_t i = 0; i < 4; i++) {
			first[i] = 50 * i;
			CU_ASSERT_EQUAL_FATAL(
				pthread_create(&threads[i], NULL, send_part, &first[i]), 0);
		}
		for (size_t i = 0; i < 4; i++) {
			void *right;
			pthread_join(threads[i], &right);
			CU_ASSERT_PTR_NOT_NULL(right);
		}
		settle(true);
	}
	add(0, 0, 200);
	CU_ASSERT_EQUAL(run_round(), 200);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_what_was_acknowledged_is_known),
		TEST(test_what_was_not_acknowledged_is_not),
		TEST(test_what_was_taken_and_not_kept_is_not_known),
		TEST(test_what_is_not_sent_stays_known),
		TEST(test_what_cannot_be_read_is_forgotten),
		TEST(test_what_is_dropped_or_unmapped_is_forgotten),
		TEST(test_the_final_round_uses_and_keeps_nothing),
		TEST(test_memory_is_bounded),
		TEST(test_without_room_nothing_is_known),
		TEST(test_of_more_than_fit_some_stay),
		TEST(test_taking_turns_does_not_push_each_other_out),
		TEST(test_pages_that_are_written_often_come_in),
		TEST(test_what_is_not_written_any_more_makes_way),
		TEST(test_doubt_is_no_writing),
		TEST(test_random_rounds_never_give_stale_bytes),
		TEST(test_threads_take_side_by_side),
		{NULL, NULL},
	};
	return harness_main(argc, argv, "delta_cache", tests, setup, teardown);
}
