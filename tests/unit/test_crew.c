/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "agent/crew.h"
#include "base/error.h"
#include "tests/harness.h"
#include "tests/unit/world.h"

enum { ROUNDS = 8 };

/* What one thread has in hand; the test looks that it is one thread's. */
struct sink_work {
	atomic_int users;
	const struct frame *frame;
	uint64_t sum; /* of the pages, made by prepare() */
};

/* Notes what comes, in order. */
struct fake_sink {
	struct sink base;
	atomic_int in_order; /* threads in a call that needs order */
	atomic_int placed, finished, works;
	unsigned early; /* ends of rounds with pages that were not finished */
	atomic_uint clashes;
	uint64_t frames, pages;
	int fail_at; /* this frame's finish() fails; 0: none */
	bool committed, closed;
};

static struct fake_sink sink;
static struct session *session;
static struct inbox inbox;
static struct world world;
static struct tide_error err;

static struct fake_sink *fake(struct sink *s)
{
	return (struct fake_sink *)s;
}

static int fake_work_new(struct sink *s, struct sink_work **ret)
{
	fake(s)->works++;
	*ret = calloc(1, sizeof(**ret));
	return 0;
}

static void fake_work_free(struct sink_work *w)
{
	sink.works--;
	free(w);
}

static uint64_t sum_of(const struct sink_input *in)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < (size_t)in->batch->npages * WORLD_PAGE; i++)
		sum = sum * 31 + in->pages[i];
	return sum;
}

static void fake_prepare(struct sink *s, const struct sink_input *in)
{
	fake(s)->clashes += in->work->users++ != 0;
	in->work->frame = in->frame;
	in->work->sum = sum_of(in);
	in->work->users--;
}

static int fake_frame(struct sink *base, const struct sink_input *in, struct tide_error *e)
{
	struct fake_sink *s = fake(base);
	s->clashes += s->in_order++ != 0;
	s->frames++;
	int r = 0;
	if (in->frame->type == FRAME_ROUND_END || in->frame->type == FRAME_COMMIT)
		s->early += s->placed != s->finished;
	if (in->frame->type == FRAME_PAGES) {
		s->clashes += in->work->frame != in->frame;
		s->pages += in->batch->npages;
		s->placed++;
		r = 1;
	}
	sched_yield();
	s->in_order--;
	return r;
}

static int fake_finish(struct sink *base, const struct sink_input *in, struct tide_error *e)
{
	struct fake_sink *s = fake(base);
	s->clashes += in->work->users++ != 0;
	for (int i = 0; i < 50; i++)
		sched_yield();
	s->clashes += in->work->sum != sum_of(in);
	in->work->users--;
	int n = ++s->finished;
	return n == s->fail_at ? tide_fail(e, -ENOSPC, "write what a test wants") : 0;
}

static int fake_round_end(struct sink *s, uint64_t round, struct tide_error *e)
{
	fake(s)->early += fake(s)->placed != fake(s)->finished;
	return 0;
}

static int fake_commit(struct sink *s, struct committed *ret, struct tide_error *e)
{
	fake(s)->early += fake(s)->placed != fake(s)->finished;
	fake(s)->committed = true;
	return 0;
}

static void fake_close(struct sink *s)
{
	fake(s)->closed = true;
}

static const struct sink_ops fake_ops = {
	.work_new = fake_work_new,
	.work_free = fake_work_free,
	.prepare = fake_prepare,
	.finish = fake_finish,
	.frame = fake_frame,
	.round_end = fake_round_end,
	.commit = fake_commit,
	.close = fake_close,
};

static void no_room(void *arg, unsigned lane)
{
}

static void setup(void)
{
	sink = (struct fake_sink){.base.ops = &fake_ops};
	struct session_options options = {.shared = true};
	CU_ASSERT_EQUAL_FATAL(session_new(&options, &session, &err), 0);
	CU_ASSERT_EQUAL_FATAL(session_open_sink(session, &sink.base, &err), 0);
	CU_ASSERT_EQUAL_FATAL(inbox_init(&inbox, 1 << 30, no_room, NULL), 0);
	world_init(&world, 5);
	world_send(&world, ROUNDS);
}

static void teardown(void)
{
	session_free(session);
	CU_ASSERT_TRUE(sink.closed);
	CU_ASSERT_EQUAL(sink.works, 0);
	inbox_release(&inbox);
	world_release(&world);
}

/* All frames of the stream but the last `but`. */
static void fill_inbox(size_t but)
{
	for (size_t i = 0; i + but < world.stream.frames; i++) {
		struct frame f;
		struct frame_buffer raw;
		struct waiting *w = calloc(1, sizeof(*w));
		stream_frame(&world.stream, i, &f, &raw);
		CU_ASSERT_EQUAL_FATAL(frame_buffer_encode(&w->raw, &f), 0);
		CU_ASSERT_EQUAL_FATAL(frame_decode(w->raw.data, w->raw.data + FRAME_HEADER_BYTES,
					      &w->frame, &err),
			0);
		inbox_put(&inbox, w);
	}
	inbox_close(&inbox, false);
}

static void run_with(unsigned threads)
{
	fill_inbox(0);
	CU_ASSERT_EQUAL(crew_run(session, &inbox, threads, &err), CREW_DONE);
	CU_ASSERT_TRUE(sink.committed);
	CU_ASSERT_EQUAL(sink.frames, world.stream.frames);
	CU_ASSERT_TRUE(sink.placed > ROUNDS);
	CU_ASSERT_EQUAL(sink.placed, sink.finished);
	CU_ASSERT_EQUAL(sink.early, 0);
	CU_ASSERT_EQUAL(sink.clashes, 0);
	CU_ASSERT_EQUAL(session_stats(session).pages, sink.pages);
}

static void test_one_thread_does_all(void)
{
	run_with(1);
}

static void test_several_threads_do_the_same(void)
{
	run_with(4);
}

static void test_what_fails_behind_its_turn_ends_the_session(void)
{
	sink.fail_at = 3;
	fill_inbox(0);
	CU_ASSERT_EQUAL(crew_run(session, &inbox, 3, &err), CREW_FAILED);
	CU_ASSERT_EQUAL(err.code, -ENOSPC);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "what a test wants"));
	CU_ASSERT_FALSE(sink.committed);
	CU_ASSERT_EQUAL(sink.early, 0);
	CU_ASSERT_TRUE(sink.frames < world.stream.frames);
}

static void test_what_makes_no_sense_is_named(void)
{
	struct frame_buffer none = {0};
	stream_replace(&world.stream, 4, &none);
	fill_inbox(0);
	CU_ASSERT_EQUAL(crew_run(session, &inbox, 4, &err), CREW_FAILED);
	CU_ASSERT_EQUAL(err.code, -EBADMSG);
	CU_ASSERT_FALSE(sink.committed);
}

static void test_a_stream_that_stops_is_not_done(void)
{
	fill_inbox(1);
	CU_ASSERT_EQUAL(crew_run(session, &inbox, 4, &err), CREW_NO_MORE);
	CU_ASSERT_FALSE(sink.committed);
	CU_ASSERT_EQUAL(session_stats(session).phase, SESSION_STATE);
}

static const struct test tests[] = {
	TEST(test_one_thread_does_all),
	TEST(test_several_threads_do_the_same),
	TEST(test_what_fails_behind_its_turn_ends_the_session),
	TEST(test_what_makes_no_sense_is_named),
	TEST(test_a_stream_that_stops_is_not_done),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "crew", tests, setup, teardown);
}
