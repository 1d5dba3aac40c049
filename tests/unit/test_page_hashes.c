/* SPDX-License-Identifier: MIT */
/* What need not travel, round by round: the table alone, over pages that are a byte each. */
#include <stdlib.h>
#include <string.h>
#include "tests/harness.h"
#include "transport/page_hashes.h"

enum { PAGE = 4096, CHUNK = 512, SPANS = 64 };
#define PAGES_AT(n) ((uint64_t)(n)*PAGE)
#define PLENTY (64u << 20)

static struct page_hashes *t;
static struct page_span spans[SPANS];
static struct page_drop drops[8];
static struct change_set changes;

static void use(uint64_t bytes_max, bool compare_all)
{
	struct page_hashes_options o = {
		.page_bytes = PAGE, .bytes_max = bytes_max, .compare_all = compare_all};
	for (size_t i = 0; i < sizeof(o.secret); i++)
		o.secret[i] = (uint8_t)(i * 151 + 7);
	page_hashes_free(t);
	CU_ASSERT_EQUAL_FATAL(page_hashes_new(&o, &t), 0);
}

static void setup(void)
{
	changes = (struct change_set){.written = spans, .drops = drops};
	use(PLENTY, false);
}

static void teardown(void)
{
	mapping_diff_release(&changes.mappings);
	page_hashes_free(take(t));
}

/* --- one round ---------------------------------------------------------------------------- */

static struct page_span span_of(space_id space, uint64_t first, uint64_t pages, bool doubtful)
{
	return (struct page_span){.space = space,
		.at = PAGES_AT(first),
		.address = PAGES_AT(first),
		.bytes = PAGES_AT(pages),
		.doubtful = doubtful};
}

static void written(space_id space, uint64_t first, uint64_t pages, bool doubtful)
{
	CU_ASSERT_FATAL(changes.nwritten < SPANS);
	spans[changes.nwritten++] = span_of(space, first, pages, doubtful);
}

static void dropped(space_id space, uint64_t first, uint64_t pages)
{
	drops[changes.ndrops++] = (struct page_drop){.space = space,
		.run = {PAGES_AT(first), PAGES_AT(first + pages)},
		.kind = DROP_GONE};
}

static void unmapped(uint64_t first, uint64_t pages)
{
	CU_ASSERT_EQUAL(pageset_add(&changes.mappings.removed,
				(struct page_run){PAGES_AT(first), PAGES_AT(first + pages)}),
		0);
}

static void begin(void)
{
	page_hashes_begin(t, &changes);
}

/* How many of the span's pages, each full of `value`, travel. */
static size_t travel(struct page_span span, uint8_t value)
{
	size_t n = span.bytes / PAGE, travels = 0;
	uint8_t *contents = malloc(span.bytes);
	bool *each = calloc(n, sizeof(*each));
	CU_ASSERT_FATAL(contents && each);
	memset(contents, value, span.bytes);
	page_hashes_take(t, &span, contents, each);
	for (size_t i = 0; i < n; i++)
		travels += each[i];
	free(contents);
	free(each);
	return travels;
}

static void settle(bool acknowledged)
{
	page_hashes_settle(t, acknowledged);
	changes.nwritten = changes.ndrops = 0;
	pageset_clear(&changes.mappings.removed);
}

/* A whole acknowledged round of one span; how many of its pages travel. */
static size_t round_of(space_id space, uint64_t first, uint64_t pages, bool doubtful, uint8_t value)
{
	written(space, first, pages, doubtful);
	begin();
	size_t n = travel(span_of(space, first, pages, doubtful), value);
	settle(true);
	return n;
}

static size_t doubtful_round(uint64_t first, uint64_t pages, uint8_t value)
{
	return round_of(SPACE_PRIVATE, first, pages, true, value);
}

/* --- what the tests say ------------------------------------------------------------------- */

static void test_a_doubtful_page_travels_once(void)
{
	CU_ASSERT_EQUAL(doubtful_round(1000, 300, 1), 300);
	CU_ASSERT_EQUAL(doubtful_round(1000, 300, 1), 0);
	CU_ASSERT_EQUAL(doubtful_round(1000, 300, 2), 300);
	CU_ASSERT_EQUAL(doubtful_round(1000, 300, 2), 0);
	/* Not "what was ever sent": what is held now. */
	CU_ASSERT_EQUAL(doubtful_round(1000, 300, 1), 300);
}

static void test_one_byte_is_a_change(void)
{
	static uint8_t contents[3][PAGE];
	bool each[3];
	struct page_span span = span_of(SPACE_PRIVATE, 7, 3, true);
	doubtful_round(7, 3, 0);
	for (int byte = 0; byte < PAGE; byte += 97) {
		contents[1][byte] ^= 0x80;
		written(SPACE_PRIVATE, 7, 3, true);
		begin();
		page_hashes_take(t, &span, contents[0], each);
		settle(true);
		CU_ASSERT_TRUE(!each[0] && each[1] && !each[2]);
	}
}

static void test_written_pages_travel_and_are_remembered_beside_doubtful_ones(void)
{
	doubtful_round(10, 5, 1);
	/* Written for sure: not compared. But what was known of it is not true any more. */
	CU_ASSERT_EQUAL(round_of(SPACE_PRIVATE, 12, 1, false, 1), 1);
	CU_ASSERT_EQUAL(round_of(SPACE_PRIVATE, 12, 1, false, 9), 1);
	CU_ASSERT_EQUAL(doubtful_round(10, 5, 1), 1);
	CU_ASSERT_EQUAL(doubtful_round(10, 5, 1), 0);
}

static void test_private_pages_that_are_never_doubtful_cost_nothing(void)
{
	CU_ASSERT_EQUAL(round_of(SPACE_PRIVATE, 0, 2000, false, 1), 2000);
	CU_ASSERT_EQUAL(page_hashes_bytes(t), 0);
	/* So the first time that they are doubtful they travel. */
	CU_ASSERT_EQUAL(doubtful_round(0, 2000, 1), 2000);
}

static void test_pages_of_objects_are_known_before_they_are_doubtful(void)
{
	CU_ASSERT_EQUAL(round_of(3, 100, 1000, false, 1), 1000);
	CU_ASSERT_EQUAL(round_of(3, 100, 1000, true, 1), 0);
}

static void test_all_are_compared_where_that_is_asked_for(void)
{
	use(PLENTY, true);
	CU_ASSERT_EQUAL(round_of(SPACE_PRIVATE, 0, 100, false, 1), 100);
	CU_ASSERT_EQUAL(round_of(SPACE_PRIVATE, 0, 100, false, 1), 0);
	CU_ASSERT_EQUAL(round_of(SPACE_PRIVATE, 0, 100, false, 2), 100);
}

static void test_spaces_are_apart(void)
{
	round_of(1, 0, 10, true, 1);
	CU_ASSERT_EQUAL(round_of(2, 0, 10, true, 1), 10);
	CU_ASSERT_EQUAL(doubtful_round(0, 10, 1), 10);
	CU_ASSERT_EQUAL(round_of(1, 0, 10, true, 1), 0);
	CU_ASSERT_EQUAL(round_of(2, 0, 10, true, 2), 10);
	CU_ASSERT_EQUAL(round_of(1, 0, 10, true, 1), 0);
}

static void test_the_same_page_at_another_place_travels(void)
{
	doubtful_round(0, 10, 1);
	CU_ASSERT_EQUAL(doubtful_round(10, 10, 1), 10);
	CU_ASSERT_EQUAL(doubtful_round(CHUNK, 10, 1), 10);
}

static void test_dropped_pages_are_forgotten(void)
{
	doubtful_round(500, 100, 1); /* over the end of a chunk */
	dropped(SPACE_PRIVATE, 510, 4);
	dropped(1, 0, 5000); /* of another space */
	begin();
	settle(true);
	CU_ASSERT_EQUAL(doubtful_round(500, 100, 1), 4);

	/* Dropped and there again within one round: drops apply first. */
	dropped(SPACE_PRIVATE, 500, 100);
	CU_ASSERT_EQUAL(doubtful_round(500, 100, 1), 100);
}

static void test_unmapped_pages_are_forgotten(void)
{
	doubtful_round(500, 100, 1);
	round_of(1, 500, 100, true, 1);
	unmapped(590, 10);
	CU_ASSERT_EQUAL(doubtful_round(500, 100, 1), 10);
	CU_ASSERT_EQUAL(round_of(1, 500, 100, true, 1), 0);
}

static void test_huge_drops_are_cheap_and_free_the_room(void)
{
	for (uint64_t i = 0; i < 20; i++)
		doubtful_round(i * 1000000, 1, 1);
	CU_ASSERT_TRUE(page_hashes_bytes(t) > 0);
	drops[changes.ndrops++] = (struct page_drop){.run = {0, UINT64_MAX - PAGE + 1}};
	begin();
	settle(true);
	CU_ASSERT_EQUAL(page_hashes_bytes(t), 0);
}

static void test_room_is_free_again_when_the_last_page_of_many_goes(void)
{
	doubtful_round(0, CHUNK, 1);
	for (uint64_t i = 0; i < CHUNK; i++) {
		CU_ASSERT_TRUE(page_hashes_bytes(t) > 0);
		dropped(SPACE_PRIVATE, (i * 5) % CHUNK, 1);
		begin();
		settle(true);
	}
	CU_ASSERT_EQUAL(page_hashes_bytes(t), 0);
}

static void test_what_was_sent_in_a_failed_round_is_unknown(void)
{
	doubtful_round(0, 10, 1);
	written(SPACE_PRIVATE, 0, 10, true);
	begin();
	CU_ASSERT_EQUAL(travel(span_of(SPACE_PRIVATE, 0, 4, true), 2), 4);
	CU_ASSERT_EQUAL(travel(span_of(SPACE_PRIVATE, 4, 6, true), 1), 0);
	settle(false);
	/* The receiver may have either: neither the old bytes nor the new ones. Of pages that did
	 * not travel it has what it had. */
	written(SPACE_PRIVATE, 0, 10, true);
	begin();
	CU_ASSERT_EQUAL(travel(span_of(SPACE_PRIVATE, 0, 2, true), 1), 2);
	CU_ASSERT_EQUAL(travel(span_of(SPACE_PRIVATE, 2, 2, true), 2), 2);
	CU_ASSERT_EQUAL(travel(span_of(SPACE_PRIVATE, 4, 6, true), 1), 0);
	settle(true);
	CU_ASSERT_EQUAL(doubtful_round(0, 2, 1), 0);
	CU_ASSERT_EQUAL(doubtful_round(2, 2, 2), 0);
}

static void test_a_failed_round_does_not_hang_over_the_next(void)
{
	/* Sent in a round that was acknowledged, not in the one that failed. */
	doubtful_round(0, 10, 1);
	written(SPACE_PRIVATE, 0, 10, true);
	begin();
	settle(false);
	CU_ASSERT_EQUAL(doubtful_round(0, 10, 1), 0);
}

static void test_drops_of_a_failed_round_are_forgotten(void)
{
	doubtful_round(0, 10, 1);
	dropped(SPACE_PRIVATE, 0, 10);
	begin();
	settle(false);
	CU_ASSERT_EQUAL(doubtful_round(0, 10, 1), 10);
}

static void test_pages_that_could_not_be_read_are_unknown(void)
{
	doubtful_round(0, 1000, 1);
	written(SPACE_PRIVATE, 0, 1000, true);
	begin();
	struct page_span rest = span_of(SPACE_PRIVATE, 400, 200, true);
	page_hashes_skip(t, &rest);
	settle(true);
	CU_ASSERT_EQUAL(doubtful_round(0, 1000, 1), 200);
}

static void test_zero_is_a_content_like_any_other(void)
{
	CU_ASSERT_EQUAL(doubtful_round(0, 10, 0), 10);
	CU_ASSERT_EQUAL(doubtful_round(0, 10, 0), 0);
	CU_ASSERT_EQUAL(doubtful_round(0, 10, 5), 10);
	CU_ASSERT_EQUAL(doubtful_round(0, 10, 0), 10);
}

static void test_beyond_the_limit_pages_travel(void)
{
	use(20000, false); /* two chunks */
	CU_ASSERT_EQUAL(doubtful_round(0, 4 * CHUNK, 1), 4 * CHUNK);
	CU_ASSERT_TRUE(page_hashes_bytes(t) > 0 && page_hashes_bytes(t) <= 20000);
	CU_ASSERT_EQUAL(doubtful_round(0, 4 * CHUNK, 1), 2 * CHUNK);
	CU_ASSERT_EQUAL(doubtful_round(0, 4 * CHUNK, 2), 4 * CHUNK);
	/* What goes makes room. */
	dropped(SPACE_PRIVATE, 0, CHUNK);
	CU_ASSERT_EQUAL(doubtful_round(3 * CHUNK, CHUNK, 2), CHUNK);
	CU_ASSERT_EQUAL(doubtful_round(3 * CHUNK, CHUNK, 2), 0);

	use(0, false);
	CU_ASSERT_EQUAL(doubtful_round(0, 10, 1), 10);
	CU_ASSERT_EQUAL(doubtful_round(0, 10, 1), 10);
}

static void test_spans_come_in_any_order_of_rounds(void)
{
	/* From the back to the front, so that each chunk is put before all others. */
	for (uint64_t i = 50; i-- > 0;)
		CU_ASSERT_EQUAL(doubtful_round(i * CHUNK, 3, (uint8_t)i), 3);
	for (uint64_t i = 0; i < 50; i++)
		CU_ASSERT_EQUAL(doubtful_round(i * CHUNK, 3, (uint8_t)i), 0);
	/* And between them, many in one round. */
	for (uint64_t i = 0; i < 49; i++)
		written(i % 3, i / 3 * CHUNK * 2 + CHUNK / 2, CHUNK, true);
	begin();
	for (uint64_t i = 0; i < 49; i++)
		CU_ASSERT_EQUAL(travel(spans[i], 77), CHUNK);
	for (uint64_t i = 0; i < 49; i++)
		CU_ASSERT_EQUAL(travel(spans[i], 77), 0);
	settle(true);
}

/* --- against a model ---------------------------------------------------------------------- */

enum { MODEL_PAGES = 3 * CHUNK, MODEL_SPACES = 2 };

static uint32_t random_next(void)
{
	static uint64_t x = 88172645463325252u;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return (uint32_t)(x >> 16);
}

/*
 * A receiver that applies what travels; with a round that fails it applies some of it. Whenever a
 * page is found unchanged, the receiver must hold those bytes.
 */
static void test_what_does_not_travel_is_always_held(void)
{
	static uint8_t held[MODEL_SPACES][MODEL_PAGES]; /* 0: not held */
	static uint8_t contents[MODEL_PAGES][PAGE];
	bool each[MODEL_PAGES];
	uint64_t unchanged = 0;
	use(4 * 8800, false); /* four chunks of six */
	for (int round = 0; round < 3000; round++) {
		bool acknowledged = random_next() % 8 != 0;
		if (random_next() % 4 == 0) {
			space_id space = random_next() % MODEL_SPACES;
			uint32_t first = random_next() % MODEL_PAGES;
			uint32_t n = 1 + random_next() % (MODEL_PAGES - first);
			dropped(space, first, n);
			if (acknowledged || random_next() % 2)
				memset(&held[space][first], 0, n);
		}
		for (space_id space = 0; space < MODEL_SPACES; space++) {
			for (uint32_t at = random_next() % 600; at < MODEL_PAGES;) {
				uint32_t n = 1 + random_next() % 100;
				if (n > MODEL_PAGES - at)
					n = MODEL_PAGES - at;
				if (changes.nwritten < SPANS)
					written(space, at, n, random_next() % 2);
				at += n + random_next() % 600;
			}
		}
		begin();
		for (size_t i = 0; i < changes.nwritten; i++) {
			const struct page_span *span = &spans[i];
			size_t first = span->at / PAGE, n = span->bytes / PAGE;
			if (random_next() % 16 == 0) {
				page_hashes_skip(t, span);
				continue;
			}
			for (size_t k = 0; k < n; k++)
				contents[k][5] = (uint8_t)(1 + random_next() % 3);
			page_hashes_take(t, span, contents[0], each);
			for (size_t k = 0; k < n; k++) {
				uint8_t *there = &held[span->space][first + k];
				if (!each[k])
					CU_ASSERT_EQUAL_FATAL(*there, contents[k][5]);
				if (each[k] && (acknowledged || random_next() % 2))
					*there = contents[k][5];
				unchanged += !each[k];
			}
		}
		settle(acknowledged);
	}
	CU_ASSERT_TRUE(unchanged > 10000);
}

static const struct test tests[] = {
	TEST(test_a_doubtful_page_travels_once),
	TEST(test_one_byte_is_a_change),
	TEST(test_written_pages_travel_and_are_remembered_beside_doubtful_ones),
	TEST(test_private_pages_that_are_never_doubtful_cost_nothing),
	TEST(test_pages_of_objects_are_known_before_they_are_doubtful),
	TEST(test_all_are_compared_where_that_is_asked_for),
	TEST(test_spaces_are_apart),
	TEST(test_the_same_page_at_another_place_travels),
	TEST(test_dropped_pages_are_forgotten),
	TEST(test_unmapped_pages_are_forgotten),
	TEST(test_huge_drops_are_cheap_and_free_the_room),
	TEST(test_room_is_free_again_when_the_last_page_of_many_goes),
	TEST(test_what_was_sent_in_a_failed_round_is_unknown),
	TEST(test_a_failed_round_does_not_hang_over_the_next),
	TEST(test_drops_of_a_failed_round_are_forgotten),
	TEST(test_pages_that_could_not_be_read_are_unknown),
	TEST(test_zero_is_a_content_like_any_other),
	TEST(test_beyond_the_limit_pages_travel),
	TEST(test_spans_come_in_any_order_of_rounds),
	TEST(test_what_does_not_travel_is_always_held),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "page_hashes", tests, setup, teardown);
}
