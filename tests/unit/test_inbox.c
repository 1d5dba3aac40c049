/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "agent/inbox.h"
#include "proto/message.h"
#include "tests/harness.h"

enum { BOUND = 64 << 10 };

static struct inbox box;
static uint64_t lanes_with_room;

static void on_room(void *arg, unsigned lane)
{
	(void)arg;
	lanes_with_room |= UINT64_C(1) << lane;
}

static void setup(void)
{
	lanes_with_room = 0;
	CU_ASSERT_EQUAL_FATAL(inbox_init(&box, BOUND, on_room, NULL), 0);
}

static void teardown(void)
{
	inbox_release(&box);
}

/* `offset` is what the frame is known by. */
static bool put_buffer(unsigned lane, struct frame_buffer *b, uint64_t offset)
{
	struct waiting *w = calloc(1, sizeof(*w));
	struct tide_error err;
	w->raw = *b;
	w->lane = lane;
	w->offset = offset;
	CU_ASSERT_EQUAL_FATAL(
		frame_decode(b->data, b->data + FRAME_HEADER_BYTES, &w->frame, &err), 0);
	return inbox_put(&box, w);
}

static bool put(unsigned lane, enum frame_type type, size_t bytes, uint64_t offset)
{
	struct frame_buffer b = {0};
	struct frame f = {.type = (uint16_t)type, .flags = FRAME_CRITICAL, .process = 1};
	uint8_t *body = calloc(1, bytes + 1);
	f.payload = body;
	f.payload_bytes = (uint32_t)bytes;
	CU_ASSERT_EQUAL_FATAL(frame_buffer_encode(&b, &f), 0);
	free(body);
	return put_buffer(lane, &b, offset);
}

static void put_round_end(uint64_t frames, uint64_t offset)
{
	struct frame_buffer b = {0};
	struct round_end m = {.number = 0, .pages = frames, .frames = frames};
	CU_ASSERT_EQUAL_FATAL(round_end_encode(1, &m, &b), 0);
	put_buffer(0, &b, offset);
}

/* What was taken, by its offset; 0: nothing more. */
static uint64_t taken(void)
{
	struct waiting *w = inbox_take(&box);
	uint64_t offset = w ? w->offset : 0;
	waiting_free(w);
	return offset;
}

static void test_one_lane_is_a_queue(void)
{
	put(0, FRAME_ROUND, 0, 1);
	put(0, FRAME_MAPPINGS, 0, 2);
	put(0, FRAME_PAGES, 10, 3);
	/* More frames than came: with one lane that is for the session to find. */
	put_round_end(2, 4);
	inbox_close(&box, false);
	for (uint64_t i = 1; i <= 4; i++)
		CU_ASSERT_EQUAL(taken(), i);
	CU_ASSERT_EQUAL(taken(), 0);
}

static void test_pages_wait_for_what_comes_before_them(void)
{
	CU_ASSERT_EQUAL(inbox_add_lane(&box), 1);
	CU_ASSERT_EQUAL(inbox_add_lane(&box), 2);
	put(1, FRAME_PAGES, 10, 11);
	put(2, FRAME_PAGES, 10, 21);
	put(0, FRAME_ROUND, 0, 1);
	put(0, FRAME_MAPPINGS, 0, 2);
	put(0, FRAME_DROPS, 0, 3);
	put_round_end(3, 4);
	put(1, FRAME_PAGES, 10, 12);
	inbox_close(&box, false);
	CU_ASSERT_EQUAL(taken(), 1);
	CU_ASSERT_EQUAL(taken(), 2);
	CU_ASSERT_EQUAL(taken(), 3);
	CU_ASSERT_EQUAL(taken(), 11);
	CU_ASSERT_EQUAL(taken(), 21);
	CU_ASSERT_EQUAL(taken(), 12);
	CU_ASSERT_EQUAL(taken(), 4);
	CU_ASSERT_EQUAL(taken(), 0);
}

static void test_the_next_round_waits_for_the_end_of_this_one(void)
{
	inbox_add_lane(&box);
	put(0, FRAME_ROUND, 0, 1);
	put(0, FRAME_PAGES, 10, 2);
	put(1, FRAME_PAGES, 10, 11);
	put_round_end(2, 3);
	put(0, FRAME_ROUND, 0, 4);
	CU_ASSERT_EQUAL(taken(), 1);
	CU_ASSERT_EQUAL(taken(), 2);
	CU_ASSERT_EQUAL(taken(), 11);
	CU_ASSERT_EQUAL(taken(), 3);
	/* Of the round that has begun, but whose drops may still come. */
	put(1, FRAME_PAGES, 10, 12);
	CU_ASSERT_EQUAL(taken(), 4);
	put(0, FRAME_DROPS, 0, 5);
	put_round_end(1, 6);
	inbox_close(&box, false);
	CU_ASSERT_EQUAL(taken(), 5);
	CU_ASSERT_EQUAL(taken(), 12);
	CU_ASSERT_EQUAL(taken(), 6);
}

static void test_a_round_whose_pages_never_come_ends_in_nothing(void)
{
	inbox_add_lane(&box);
	put(0, FRAME_ROUND, 0, 1);
	put_round_end(1, 2);
	inbox_close(&box, false);
	CU_ASSERT_EQUAL(taken(), 1);
	CU_ASSERT_EQUAL(taken(), 0);
}

static void test_a_full_lane_does_not_hold_the_others(void)
{
	inbox_add_lane(&box);
	CU_ASSERT_TRUE(put(1, FRAME_PAGES, BOUND / 2, 11));
	CU_ASSERT_FALSE(put(0, FRAME_ROUND, 0, 1));
	CU_ASSERT_FALSE(put(0, FRAME_PAGES, 0, 2));
	CU_ASSERT_EQUAL(taken(), 1);
	CU_ASSERT_EQUAL(lanes_with_room, 0);
	CU_ASSERT_EQUAL(taken(), 11);
	CU_ASSERT_EQUAL(lanes_with_room, 2);
	CU_ASSERT_EQUAL(taken(), 2);
	CU_ASSERT_EQUAL(lanes_with_room, 2);
}

static void *take_until_end(void *arg)
{
	uint64_t *n = arg;
	while (taken())
		++*n;
	return NULL;
}

static void test_who_waits_is_woken(void)
{
	uint64_t n = 0;
	pthread_t thread;
	CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, take_until_end, &n), 0);
	for (uint64_t i = 1; i <= 100; i++)
		put(0, FRAME_ROUND, 0, i);
	inbox_close(&box, false);
	pthread_join(thread, NULL);
	CU_ASSERT_EQUAL(n, 100);
}

static void test_an_abort_gives_nothing_out(void)
{
	put(0, FRAME_ROUND, 0, 1);
	inbox_close(&box, true);
	CU_ASSERT_EQUAL(taken(), 0);
}

static void test_lanes_have_a_limit(void)
{
	for (int i = 1; i < INBOX_LANES_MAX; i++)
		CU_ASSERT_EQUAL(inbox_add_lane(&box), i);
	CU_ASSERT_EQUAL(inbox_add_lane(&box), -EMFILE);
}

static const struct test tests[] = {
	TEST(test_one_lane_is_a_queue),
	TEST(test_pages_wait_for_what_comes_before_them),
	TEST(test_the_next_round_waits_for_the_end_of_this_one),
	TEST(test_a_round_whose_pages_never_come_ends_in_nothing),
	TEST(test_a_full_lane_does_not_hold_the_others),
	TEST(test_who_waits_is_woken),
	TEST(test_an_abort_gives_nothing_out),
	TEST(test_lanes_have_a_limit),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "inbox", tests, setup, teardown);
}
