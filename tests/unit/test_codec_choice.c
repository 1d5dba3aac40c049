/* SPDX-License-Identifier: MIT */
/*
 * The choice against a model of workers and a link: each worker takes a batch, reads and encodes
 * it, and puts it into a queue of bounded bytes, which the link empties at its rate. Speeds and
 * ratios are about those of bench_codec.
 */
#include <string.h>
#include "base/clock.h"
#include "tests/harness.h"
#include "transport/codec_choice.h"

#define LEVELS 3 /* none, LZ4, zstd */
#define WORKERS_MAX 4
#define BATCH (1u << 20)
/* A frame's memory is what its pages would take whole, however small it became. */
#define QUEUE_FRAMES 60

/* What a kind of memory costs, and becomes, at each level. */
struct content {
	const char *name;
	double bytes_per_batch; /* that are not zero */
	double ns_per_byte[LEVELS];
	double ratio[LEVELS]; /* what goes on the wire of each byte */
};

static const struct content contents[] = {
	{"zero-heavy", BATCH * 0.2, {0.5, 1.0, 2.5}, {1, 0.5, 0.45}},
	{"half-compressible", BATCH, {0.5, 0.8, 2.0}, {1, 0.5, 0.5}},
	{"text", BATCH, {0.5, 2.4, 5.0}, {1, 0.45, 0.2}},
	{"heap", BATCH, {0.5, 3.2, 5.8}, {1, 0.34, 0.24}},
	{"random", BATCH, {0.5, 0.7, 0.8}, {1, 1, 1}},
	{"for zstd alone", BATCH, {0.5, 0.9, 3.0}, {1, 1, 0.6}},
};

#define UNLIMITED 1e12
static const double links[] = {12.5e6, 125e6, 1.25e9, UNLIMITED};

static uint64_t seed;

/* From 1 - spread to 1 + spread. */
static double noise(double spread)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return 1 + spread * ((double)(seed % 2001) / 1000 - 1);
}

struct world {
	const struct content *content;
	double link; /* bytes a second */
	unsigned workers;
	double now_ns;
	double free_at_ns[WORKERS_MAX];  /* when a worker takes its next batch */
	double link_done_ns;             /* when the link has sent all that is queued */
	double sent_at_ns[QUEUE_FRAMES]; /* when it has sent each of the last frames: a ring */
	size_t frames;
	struct codec_choice choice;
	bool is_fixed;
	double done_bytes;
	double since_ns;
};

static void world_init(
	struct world *w, const struct content *content, double link, unsigned workers)
{
	*w = (struct world){.content = content, .link = link, .workers = workers};
	seed = 88172645463325252u;
	codec_choice_init(&w->choice, LEVELS, 1);
	codec_choice_begin(&w->choice, 0);
}

/* What the link has not taken yet. */
static uint64_t queued(const struct world *w)
{
	double left_ns = w->link_done_ns - w->now_ns;
	return left_ns > 0 ? (uint64_t)(left_ns * w->link / 1e9) : 0;
}

/* The worker that is free first does a batch. */
static void world_step(struct world *w)
{
	unsigned k = 0;
	for (unsigned i = 1; i < w->workers; i++) {
		if (w->free_at_ns[i] < w->free_at_ns[k])
			k = i;
	}
	const struct content *x = w->content;
	unsigned level = w->choice.level;
	double bytes = x->bytes_per_batch * noise(0.05);
	/* What is zero is looked at all the same. */
	double busy = (bytes * x->ns_per_byte[level] + (BATCH - bytes) * 0.1) * noise(0.1);
	double begun = w->free_at_ns[k], encoded = begun + busy;
	double out = bytes * x->ratio[level];
	double *sent_at = &w->sent_at_ns[w->frames++ % QUEUE_FRAMES];
	double put = *sent_at > encoded ? *sent_at : encoded;
	w->link_done_ns = (w->link_done_ns > put ? w->link_done_ns : put) + out * 1e9 / w->link;
	*sent_at = w->link_done_ns;
	w->free_at_ns[k] = put;
	w->done_bytes += bytes;
	if (put > w->now_ns)
		w->now_ns = put;
	struct codec_choice_work work = {.bytes = (uint64_t)bytes,
		.wire_bytes = (uint64_t)out,
		.busy_ns = (uint64_t)busy,
		.wait_ns = (uint64_t)(put - encoded)};
	if (!w->is_fixed)
		codec_choice_note(&w->choice, (uint64_t)w->now_ns, &work, queued(w));
}

static void world_run(struct world *w, double seconds)
{
	double end = w->now_ns + seconds * 1e9;
	w->since_ns = w->now_ns;
	w->done_bytes = 0;
	while (w->now_ns < end)
		world_step(w);
}

/* Bytes a second since world_run() began. */
static double world_rate(const struct world *w)
{
	return w->done_bytes * 1e9 / (w->now_ns - w->since_ns);
}

static double fixed_rate(
	const struct content *content, double link, unsigned workers, unsigned level)
{
	struct world w;
	world_init(&w, content, link, workers);
	w.is_fixed = true;
	w.choice.level = level;
	/* Until the queue is full. */
	world_run(&w, 3);
	world_run(&w, 5);
	return world_rate(&w);
}

static double best_rate(const struct content *content, double link, unsigned workers)
{
	double best = 0;
	for (unsigned level = 0; level < LEVELS; level++) {
		double rate = fixed_rate(content, link, workers, level);
		if (rate > best)
			best = rate;
	}
	return best;
}

static void expect_best(struct world *w, double seconds, double share)
{
	double best = best_rate(w->content, w->link, w->workers);
	world_run(w, seconds);
	double rate = world_rate(w);
	CU_ASSERT(rate >= best * share);
	if (rate < best * share)
		printf("%s, link %.0f MB/s, %u workers: %.0f MB/s of %.0f, level %u\n",
			w->content->name, w->link / 1e6, w->workers, rate / 1e6, best / 1e6,
			w->choice.level);
}

static void test_after_two_seconds_it_is_as_good_as_the_best(void)
{
	for (size_t c = 0; c < sizeof(contents) / sizeof(contents[0]); c++) {
		for (size_t l = 1; l < sizeof(links) / sizeof(links[0]); l++) {
			for (unsigned workers = 1; workers <= WORKERS_MAX; workers++) {
				struct world w;
				world_init(&w, &contents[c], links[l], workers);
				world_run(&w, 2);
				/* What it still tries now and then costs a little. */
				expect_best(&w, 5, 0.95);
			}
		}
	}
}

/* Of 100 Mbit/s a window is longer: what is queued takes most of a second to leave. */
static void test_slow_links_take_longer(void)
{
	for (size_t c = 0; c < sizeof(contents) / sizeof(contents[0]); c++) {
		struct world w;
		world_init(&w, &contents[c], links[0], 2);
		world_run(&w, 6);
		expect_best(&w, 10, 0.94);
	}
}

static void test_also_the_first_seconds_are_not_lost(void)
{
	for (size_t c = 0; c < sizeof(contents) / sizeof(contents[0]); c++) {
		for (size_t l = 1; l < sizeof(links) / sizeof(links[0]); l++) {
			struct world w;
			world_init(&w, &contents[c], links[l], 2);
			expect_best(&w, 2.5, 0.7);
		}
	}
}

static void test_where_the_link_is_no_limit_nothing_is_compressed(void)
{
	for (size_t c = 0; c < sizeof(contents) / sizeof(contents[0]); c++) {
		struct world w;
		world_init(&w, &contents[c], UNLIMITED, 2);
		world_run(&w, 2);
		CU_ASSERT_EQUAL(w.choice.home, 0);
	}
}

static void test_a_slow_link_gets_the_densest(void)
{
	struct world w;
	world_init(&w, &contents[2], 125e6, 2);
	world_run(&w, 2);
	CU_ASSERT_EQUAL(w.choice.home, 2);
}

/* The link changes, then the memory. */
static void test_it_follows_what_changes(void)
{
	struct world w;
	world_init(&w, &contents[2], UNLIMITED, 2);
	world_run(&w, 10);
	CU_ASSERT_EQUAL(w.choice.home, 0);
	w.link = 125e6;
	world_run(&w, 10);
	expect_best(&w, 5, 0.95);
	w.link = UNLIMITED;
	w.link_done_ns = w.now_ns;
	world_run(&w, 10);
	expect_best(&w, 5, 0.95);
}

static void test_tries_become_rarer(void)
{
	struct world w;
	unsigned steps[2] = {0};
	/* All get the same through, and the workers wait all the time: it could try for ever. */
	world_init(&w, &contents[4], 125e6, 2);
	for (int half = 0; half < 2; half++) {
		double end = w.now_ns + 60e9;
		for (unsigned level = w.choice.level; w.now_ns < end; level = w.choice.level) {
			world_step(&w);
			steps[half] += w.choice.level != level;
		}
	}
	CU_ASSERT(steps[0] > 0);
	CU_ASSERT(steps[1] <= 6);
	CU_ASSERT(steps[1] < steps[0]);
}

/* From nothing LZ4 makes no difference, and zstd does. */
static void test_a_level_that_makes_no_difference_is_no_end(void)
{
	struct world w;
	world_init(&w, &contents[5], 125e6, 2);
	codec_choice_init(&w.choice, LEVELS, 0);
	codec_choice_begin(&w.choice, 0);
	world_run(&w, 3);
	CU_ASSERT_EQUAL(w.choice.home, 2);
}

/* What the workers' time says is tried first. */
static unsigned first_try(const struct content *content, double link)
{
	struct world w;
	world_init(&w, content, link, 2);
	while (w.choice.level == 1)
		world_step(&w);
	return w.choice.level;
}

static void test_the_limit_tells_which_way_to_try(void)
{
	CU_ASSERT_EQUAL(first_try(&contents[2], 125e6), 2);
	CU_ASSERT_EQUAL(first_try(&contents[2], UNLIMITED), 0);
	/* The link takes a third of what the workers make: both are open. */
	CU_ASSERT_EQUAL(first_try(&contents[1], 0.4e9), 2);
	CU_ASSERT_EQUAL(first_try(&contents[1], 1e9), 0);
}

static void test_the_freeze_tries_nothing(void)
{
	struct world w;
	world_init(&w, &contents[2], 125e6, 2);
	while (w.choice.way == 0)
		world_step(&w);
	CU_ASSERT_NOT_EQUAL(w.choice.level, w.choice.home);
	codec_choice_end(&w.choice, LEVELS);
	for (int i = 0; i < 10000; i++) {
		CU_ASSERT_EQUAL(w.choice.level, 1);
		world_step(&w);
	}
}

static void test_the_freeze_is_not_held_up_by_what_a_limit_made_best(void)
{
	struct world w;
	world_init(&w, &contents[2], 125e6, 2);
	world_run(&w, 4);
	CU_ASSERT_EQUAL(w.choice.home, 2);
	codec_choice_end(&w.choice, 1);
	CU_ASSERT_EQUAL(w.choice.level, 1);
	CU_ASSERT_EQUAL(w.choice.home, 1);
}

/* Rounds that are shorter than a window count together, and the time between them not at all. */
static void test_short_rounds_count_together(void)
{
	struct codec_choice c;
	struct codec_choice_work work = {
		.bytes = 4 << 20, .wire_bytes = 4 << 20, .busy_ns = 10 * NS_PER_MS, .wait_ns = 0};
	uint64_t now = 0;
	codec_choice_init(&c, LEVELS, 1);
	for (int round = 0; round < 60 && c.home == 1; round++) {
		now += 5 * NS_PER_S;
		codec_choice_begin(&c, now);
		for (int i = 0; i < 2; i++) {
			/* The less is compressed, the faster. */
			now += (10 + 10 * c.level) * NS_PER_MS;
			codec_choice_note(&c, now, &work, 0);
		}
	}
	CU_ASSERT_EQUAL(c.home, 0);
	CU_ASSERT(c.clock_ns < 3 * NS_PER_S);
}

/* Pages that nothing can be made of, and then, a round later, of which little changed. */
static void test_what_the_first_round_shows_does_not_bind_the_second(void)
{
	static const struct content changes = {"changes", BATCH, {0.5, 1.0, 1.2}, {1, 0.01, 0.01}};
	for (unsigned level = 0; level < 2; level++) {
		struct world w;
		world_init(&w, &contents[4], 125e6, 2);
		codec_choice_init(&w.choice, LEVELS, level);
		codec_choice_begin(&w.choice, 0);
		world_run(&w, 20);
		w.content = &changes;
		codec_choice_begin(&w.choice, (uint64_t)w.now_ns);
		world_run(&w, 2);
		CU_ASSERT(w.choice.home > 0);
	}
}

/* Where changes alone travel the workers are the limit, and less work would be more bytes than the
 * link has just shown to carry. */
static void test_what_a_full_link_cannot_carry_is_not_tried(void)
{
	static const struct content changes = {"changes", BATCH, {0.5, 1.0, 1.2}, {1, 0.01, 0.01}};
	struct world w;
	world_init(&w, &contents[4], 125e6, 2);
	world_run(&w, 3);
	w.content = &changes;
	codec_choice_begin(&w.choice, (uint64_t)w.now_ns);
	world_run(&w, 2);
	for (double end = w.now_ns + 10e9; w.now_ns < end;) {
		world_step(&w);
		CU_ASSERT(w.choice.level > 0);
	}
}

/* Rounds that the queue has room for, until they took `seconds`; the bytes a second of those. What
 * tells of the link is only when a round has arrived. */
static double run_rounds(struct world *w, double seconds)
{
	double active_ns = 0;
	w->done_bytes = 0;
	while (active_ns < seconds * 1e9) {
		double begun = w->now_ns;
		codec_choice_begin(&w->choice, (uint64_t)begun);
		for (int i = 0; i < 6; i++)
			world_step(w);
		if (w->link_done_ns > w->now_ns)
			w->now_ns = w->link_done_ns;
		if (!w->is_fixed)
			codec_choice_arrived(&w->choice, (uint64_t)w->now_ns, w->workers);
		active_ns += w->now_ns - begun;
		/* The next one begins much later. */
		w->now_ns += 3e8;
		for (unsigned k = 0; k < w->workers; k++)
			w->free_at_ns[k] = w->now_ns;
	}
	return w->done_bytes * 1e9 / active_ns;
}

static void test_short_rounds_on_a_slow_link_are_compressed(void)
{
	for (size_t c = 0; c < sizeof(contents) / sizeof(contents[0]); c++) {
		double best = 0;
		for (unsigned level = 0; level < LEVELS; level++) {
			struct world w;
			world_init(&w, &contents[c], 125e6, 2);
			w.is_fixed = true;
			w.choice.level = level;
			double rate = run_rounds(&w, 3);
			best = rate > best ? rate : best;
		}
		struct world w;
		world_init(&w, &contents[c], 125e6, 2);
		run_rounds(&w, 3);
		double rate = run_rounds(&w, 3);
		CU_ASSERT(rate >= 0.95 * best);
		if (rate < 0.95 * best)
			printf("%s: %.0f MB/s of %.0f\n", contents[c].name, rate / 1e6, best / 1e6);
	}
}

static void test_one_level_is_no_choice(void)
{
	struct codec_choice c;
	struct codec_choice_work work = {
		.bytes = 64 << 20, .wire_bytes = 64 << 20, .busy_ns = 1, .wait_ns = 1};
	codec_choice_init(&c, 1, 0);
	codec_choice_begin(&c, 0);
	for (uint64_t now = 0; now < 20 * NS_PER_S; now += NS_PER_S / 4) {
		codec_choice_note(&c, now, &work, 0);
		CU_ASSERT_EQUAL(c.level, 0);
	}
}

static void test_without_pages_it_stays_where_it_is(void)
{
	struct codec_choice c;
	struct codec_choice_work work = {
		.bytes = 1000, .wire_bytes = 1000, .busy_ns = NS_PER_MS, .wait_ns = NS_PER_S};
	codec_choice_init(&c, LEVELS, 1);
	codec_choice_begin(&c, 0);
	for (uint64_t now = 0; now < 100 * NS_PER_S; now += NS_PER_S) {
		codec_choice_note(&c, now, &work, 0);
		CU_ASSERT_EQUAL(c.level, 1);
	}
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_after_two_seconds_it_is_as_good_as_the_best),
		TEST(test_slow_links_take_longer),
		TEST(test_also_the_first_seconds_are_not_lost),
		TEST(test_where_the_link_is_no_limit_nothing_is_compressed),
		TEST(test_a_slow_link_gets_the_densest),
		TEST(test_it_follows_what_changes),
		TEST(test_tries_become_rarer),
		TEST(test_a_level_that_makes_no_difference_is_no_end),
		TEST(test_the_limit_tells_which_way_to_try),
		TEST(test_the_freeze_tries_nothing),
		TEST(test_the_freeze_is_not_held_up_by_what_a_limit_made_best),
		TEST(test_short_rounds_count_together),
		TEST(test_what_the_first_round_shows_does_not_bind_the_second),
		TEST(test_what_a_full_link_cannot_carry_is_not_tried),
		TEST(test_short_rounds_on_a_slow_link_are_compressed),
		TEST(test_one_level_is_no_choice),
		TEST(test_without_pages_it_stays_where_it_is),
		{NULL, NULL},
	};
	return harness_main(argc, argv, "codec_choice", tests, NULL, NULL);
}
