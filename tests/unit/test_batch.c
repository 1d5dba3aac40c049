/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "proto/batch.h"
#include "proto/message.h"
#include "proto/pages.pb-c.h"
#include "tests/harness.h"

#define PAGE 4096u

static struct batch in, out;
static struct frame_buffer buffer;
static struct frame frame;
static struct batch_stats stats;
static uint8_t *pages;
static struct tide_error err;
static uint64_t features; /* of the stream */
static uint8_t *before;   /* what pages held at the other end */

static void setup(void)
{
	memset(&in, 0, sizeof(in));
	in.round = 3;
	in.space = 5;
	in.page_bytes = PAGE;
	buffer = (struct frame_buffer){0};
	stats = (struct batch_stats){0};
	err = (struct tide_error){0};
	features = FEATURES_KNOWN;
	pages = calloc(BATCH_PAGES_MAX, BATCH_PAGE_BYTES_MAX);
}

static void teardown(void)
{
	frame_buffer_release(&buffer);
	free(pages);
	free(before);
	before = NULL;
}

#define SAYS(words) CU_ASSERT_PTR_NOT_NULL(strstr(err.text, words))

/* --- what pages hold ---------------------------------------------------------------------- */

static uint64_t seed = 1;

static uint64_t random_next(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static void fill_zero(uint8_t *page)
{
	memset(page, 0, PAGE);
}

static void fill_random(uint8_t *page)
{
	for (size_t i = 0; i < PAGE; i += 8) {
		uint64_t v = random_next();
		memcpy(page + i, &v, 8);
	}
}

static void fill_text(uint8_t *page)
{
	for (size_t i = 0; i < PAGE; i++)
		page[i] = (uint8_t) "what a page may hold "[i % 21];
	page[random_next() % PAGE] = (uint8_t)random_next();
}

/* All but one byte is zero. */
static void fill_speck(uint8_t *page)
{
	memset(page, 0, PAGE);
	page[random_next() % PAGE] = 1;
}

/* --- there and back ----------------------------------------------------------------------- */

static void add_run(uint64_t first_page, uint64_t n)
{
	in.runs[in.nruns++] = (struct page_run){first_page * PAGE, (first_page + n) * PAGE};
}

static void encode(const struct codec *codec)
{
	CU_ASSERT_EQUAL_FATAL(batch_encode(9, &in, pages, &(struct batch_encoding){.codec = codec},
				      &buffer, &stats),
		0);
	CU_ASSERT_EQUAL_FATAL(
		frame_decode(buffer.data, buffer.data + FRAME_HEADER_BYTES, &frame, &err), 0);
	CU_ASSERT_EQUAL(FRAME_HEADER_BYTES + frame.head_bytes + frame.payload_bytes, buffer.bytes);
}

/* Decodes, and compares every page with what went in. */
static void expect_same(void)
{
	CU_ASSERT_EQUAL_FATAL(batch_decode(&frame, in.page_bytes, FEATURES_KNOWN, &out, &err), 0);
	CU_ASSERT_EQUAL(out.round, in.round);
	CU_ASSERT_EQUAL(out.space, in.space);
	CU_ASSERT_EQUAL(out.page_bytes, in.page_bytes);

	const uint8_t *at = pages;
	uint32_t npages = 0;
	for (uint32_t i = 0; i < out.nblocks; i++) {
		size_t bytes = (size_t)out.blocks[i].pages * in.page_bytes;
		uint8_t *back = malloc(bytes);
		memset(back, 0x55, bytes);
		CU_ASSERT_EQUAL(batch_block_read(&out, i, frame.payload, NULL, back, &err), 0);
		CU_ASSERT(memcmp(back, at, bytes) == 0);
		free(back);
		at += bytes;
		npages += out.blocks[i].pages;
	}
	CU_ASSERT_EQUAL(npages, out.npages);
}

static void expect_block(uint32_t i, enum codec_id codec, uint32_t npages)
{
	CU_ASSERT_FATAL(i < out.nblocks);
	CU_ASSERT_EQUAL(out.blocks[i].codec, codec);
	CU_ASSERT_EQUAL(out.blocks[i].pages, npages);
}

static void test_zero_pages_take_no_bytes(void)
{
	add_run(10, 256);
	encode(&codec_lz4);
	expect_same();
	CU_ASSERT_EQUAL(out.nblocks, 1);
	expect_block(0, CODEC_ZERO, 256);
	CU_ASSERT_EQUAL(frame.payload_bytes, 0);
	CU_ASSERT_EQUAL(stats.form[CODEC_ZERO].pages, 256);
	CU_ASSERT_EQUAL(stats.bytes_in, 256 * PAGE);
	CU_ASSERT_EQUAL(stats.bytes_out, buffer.bytes);
	CU_ASSERT(buffer.bytes < 64);
	/* Nor memory. */
	CU_ASSERT(buffer.cap < 4096);
}

static void test_each_kind_of_page_gets_its_form(void)
{
	add_run(0, 2);
	add_run(7, 40);
	for (unsigned i = 0; i < 42; i++)
		(i < 20 ? fill_text : i < 23 ? fill_zero : fill_random)(pages + i * PAGE);
	encode(&codec_lz4);
	expect_same();
	CU_ASSERT_EQUAL(out.nblocks, 5);
	/* Over the end of the first run. */
	expect_block(0, CODEC_LZ4, 16);
	expect_block(1, CODEC_LZ4, 4);
	expect_block(2, CODEC_ZERO, 3);
	expect_block(3, CODEC_RAW, 16);
	expect_block(4, CODEC_RAW, 3);
	CU_ASSERT_EQUAL(stats.form[CODEC_LZ4].pages, 20);
	CU_ASSERT_EQUAL(stats.form[CODEC_ZERO].pages, 3);
	CU_ASSERT_EQUAL(stats.form[CODEC_RAW].pages, 19);
	CU_ASSERT_EQUAL(frame.type, FRAME_PAGES);
	CU_ASSERT_EQUAL(frame.flags, FRAME_CRITICAL);
	CU_ASSERT_EQUAL(frame.process, 9);
}

/* Decompressing has its price too. */
static void test_what_shrinks_by_less_than_a_sixteenth_goes_raw(void)
{
	add_run(0, 1);
	fill_random(pages);
	memset(pages, 'x', PAGE / 20);
	encode(&codec_lz4);
	expect_same();
	expect_block(0, CODEC_RAW, 1);
	memset(pages, 'x', PAGE / 8);
	encode(&codec_lz4);
	expect_same();
	expect_block(0, CODEC_LZ4, 1);
}

static void test_each_codec_takes_what_shrinks(void)
{
	add_run(3, 20);
	for (unsigned i = 0; i < 20; i++)
		(i < 18 ? fill_text : fill_random)(pages + i * PAGE);
	for (const struct codec *const *c = codecs; *c; c++) {
		if (!(*c)->compress)
			continue;
		encode(*c);
		expect_same();
		expect_block(0, (*c)->id, 16);
	}
}

static void test_without_codec_zero_pages_are_still_found(void)
{
	const struct codec *const none[] = {NULL, codec_by_name("none")};
	add_run(0, 3);
	fill_text(pages);
	fill_text(pages + 2 * PAGE);
	for (int i = 0; i < 2; i++) {
		encode(none[i]);
		expect_same();
		CU_ASSERT_EQUAL(out.nblocks, 3);
		expect_block(0, CODEC_RAW, 1);
		expect_block(1, CODEC_ZERO, 1);
		expect_block(2, CODEC_RAW, 1);
	}
}

static void test_pages_in_their_place_are_not_copied(void)
{
	static const struct batch_encoding how = {.codec = &codec_raw};
	for (int zeros = 0; zeros < 2; zeros++) {
		uint8_t *place = batch_pages_place(&buffer, PAGE);
		CU_ASSERT_PTR_NOT_NULL_FATAL(place);
		in.nruns = 0;
		add_run(5, 3);
		add_run(100, 5);
		for (size_t i = 0; i < 8; i++) {
			bool is_zero = zeros && (i == 2 || i == 3 || i == 7);
			(is_zero ? fill_zero : fill_random)(pages + i * PAGE);
		}
		memcpy(place, pages, 8 * PAGE);
		CU_ASSERT_EQUAL_FATAL(batch_encode(1, &in, place, &how, &buffer, &stats), 0);
		CU_ASSERT_EQUAL_FATAL(
			frame_decode(buffer.data, buffer.data + FRAME_HEADER_BYTES, &frame, &err),
			0);
		CU_ASSERT_PTR_EQUAL(frame.payload, place);
		CU_ASSERT_EQUAL_FATAL(batch_decode(&frame, PAGE, features, &out, &err), 0);
		expect_same();
	}
}

static void test_a_single_byte_makes_a_page_not_zero(void)
{
	add_run(0, 1);
	for (size_t at = 0; at < PAGE; at++) {
		pages[at] = 0x80;
		encode(&codec_lz4);
		CU_ASSERT_EQUAL_FATAL(batch_decode(&frame, PAGE, FEATURES_KNOWN, &out, &err), 0);
		expect_block(0, CODEC_LZ4, 1);
		pages[at] = 0;
	}
}

static void test_random_batches_come_back(void)
{
	static void (*const fill[])(uint8_t *) = {fill_zero, fill_random, fill_text, fill_speck};
	for (int round = 0; round < 300; round++) {
		uint32_t npages = 0;
		uint64_t place = random_next() % (round % 2 ? 4 : UINT64_C(1) << 51);
		in.nruns = 0;
		in.round = random_next();
		in.space = random_next() >> random_next() % 64;
		while (npages < BATCH_PAGES_MAX && random_next() % 20) {
			uint64_t n = 1 + random_next() % (round % 3 ? 3 : 100);
			if (n > BATCH_PAGES_MAX - npages)
				n = BATCH_PAGES_MAX - npages;
			add_run(place, n);
			place += n + random_next() % 3;
			npages += (uint32_t)n;
		}
		if (npages == 0)
			continue;
		for (uint32_t i = 0, kind = 0; i < npages; i++) {
			if (random_next() % 4 == 0)
				kind = (uint32_t)(random_next() % 4);
			fill[kind](pages + (size_t)i * PAGE);
		}
		encode(round % 5 ? &codec_lz4 : NULL);
		expect_same();

		/* The runs are the same set. */
		struct pageset a = {0}, b = {0};
		for (uint32_t i = 0; i < in.nruns; i++)
			pageset_add(&a, in.runs[i]);
		for (uint32_t i = 0; i < out.nruns; i++)
			pageset_add(&b, out.runs[i]);
		CU_ASSERT_EQUAL_FATAL(a.len, b.len);
		CU_ASSERT_EQUAL(b.len, out.nruns);
		CU_ASSERT_FATAL(a.runs && b.runs);
		CU_ASSERT(memcmp(a.runs, b.runs, a.len * sizeof(*a.runs)) == 0);
		pageset_release(&a);
		pageset_release(&b);
	}
}

static void test_other_page_sizes_come_back(void)
{
	for (uint32_t page_bytes = 8192; page_bytes <= BATCH_PAGE_BYTES_MAX; page_bytes *= 2) {
		uint32_t n = batch_pages_fit(page_bytes, &frame_limits_max);
		in.page_bytes = page_bytes;
		in.nruns = 1;
		in.runs[0] = (struct page_run){page_bytes, (uint64_t)(n + 1) * page_bytes};
		for (size_t i = 0; i < (size_t)n * page_bytes / PAGE; i++)
			(i % 7 ? fill_text : fill_random)(pages + i * PAGE);
		encode(&codec_lz4);
		expect_same();
		CU_ASSERT_EQUAL(out.npages, n);
	}
}

static void test_runs_that_touch_become_one(void)
{
	add_run(4, 1);
	add_run(5, 2);
	add_run(8, 1);
	add_run(9, 1);
	encode(NULL);
	expect_same();
	CU_ASSERT_EQUAL(out.nruns, 2);
	CU_ASSERT_EQUAL(out.runs[0].start, 4 * PAGE);
	CU_ASSERT_EQUAL(out.runs[0].end, 7 * PAGE);
	CU_ASSERT_EQUAL(out.runs[1].start, 8 * PAGE);
	CU_ASSERT_EQUAL(out.runs[1].end, 10 * PAGE);
}

static void test_the_ends_of_the_space_can_be_named(void)
{
	in.nruns = 2;
	in.runs[0] = (struct page_run){0, PAGE};
	in.runs[1] = (struct page_run){-(uint64_t)2 * PAGE, -(uint64_t)PAGE};
	encode(NULL);
	expect_same();
	CU_ASSERT(memcmp(in.runs, out.runs, sizeof(in.runs[0]) * 2) == 0);
}

static void test_the_longest_head_fits(void)
{
	in.round = in.space = UINT64_MAX;
	for (uint32_t i = 0; i < BATCH_PAGES_MAX; i++) {
		add_run((uint64_t)i << 44, 1);
		if (i % 2)
			fill_random(pages + (size_t)i * PAGE);
	}
	encode(NULL);
	expect_same();
	CU_ASSERT_EQUAL(out.nruns, BATCH_PAGES_MAX);
	CU_ASSERT_EQUAL(out.nblocks, BATCH_PAGES_MAX);
}

static void test_storage_is_kept_for_the_next(void)
{
	add_run(0, 256);
	for (unsigned i = 0; i < 256; i++)
		fill_random(pages + i * PAGE);
	encode(&codec_lz4);
	uint8_t *storage = buffer.storage;
	size_t cap = buffer.cap;
	in.runs[0].end -= PAGE;
	encode(&codec_lz4);
	expect_same();
	CU_ASSERT_PTR_EQUAL(buffer.storage, storage);
	CU_ASSERT_EQUAL(buffer.cap, cap);
}

static void test_what_makes_no_sense_is_not_encoded(void)
{
	static const struct {
		uint32_t page_bytes, nruns;
		struct page_run runs[2];
		int expected;
	} cases[] = {
		{PAGE, 0, {{0, 0}}, -EINVAL},
		{PAGE, 1, {{PAGE, PAGE}}, -EINVAL},
		{PAGE, 1, {{2 * PAGE, PAGE}}, -EINVAL},
		{PAGE, 1, {{1, PAGE}}, -EINVAL},
		{PAGE, 1, {{0, PAGE - 1}}, -EINVAL},
		{PAGE, 1, {{0, 257 * PAGE}}, -EINVAL},
		{PAGE, 1, {{0, -(uint64_t)PAGE}}, -EINVAL},
		{PAGE, 2, {{0, 200 * PAGE}, {300 * PAGE, 357 * PAGE}}, -EINVAL},
		{PAGE, 2, {{PAGE, 2 * PAGE}, {0, PAGE}}, -EINVAL},
		{PAGE, 2, {{0, 2 * PAGE}, {PAGE, 3 * PAGE}}, -EINVAL},
		{PAGE, BATCH_PAGES_MAX + 1, {{0, PAGE}}, -EINVAL},
		{0, 1, {{0, PAGE}}, -EINVAL},
		{PAGE + 1, 1, {{0, PAGE + 1}}, -EINVAL},
		{2048, 1, {{0, 2048}}, -EINVAL},
		{131072, 1, {{0, 131072}}, -EINVAL},
		{65536, 1, {{0, 65 * 65536}}, -EMSGSIZE},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		in.page_bytes = cases[i].page_bytes;
		in.nruns = cases[i].nruns;
		memcpy(in.runs, cases[i].runs, sizeof(cases[i].runs));
		CU_ASSERT_EQUAL(batch_encode(1, &in, pages, &(struct batch_encoding){.codec = NULL},
					&buffer, &stats),
			cases[i].expected);
		CU_ASSERT_EQUAL(buffer.bytes, 0);
	}
	CU_ASSERT_EQUAL(stats.bytes_in, 0);
}

static void test_as_many_pages_fit_as_the_limits_let(void)
{
	CU_ASSERT_EQUAL(batch_pages_fit(PAGE, &frame_limits_max), 256);
	CU_ASSERT_EQUAL(batch_pages_fit(65536, &frame_limits_max), 64);
	CU_ASSERT_EQUAL(batch_pages_fit(PAGE, &(struct frame_limits){1u << 20, 3 * PAGE + 1}), 3);
	CU_ASSERT_EQUAL(batch_pages_fit(PAGE, &(struct frame_limits){1u << 20, PAGE - 1}), 0);
	CU_ASSERT_EQUAL(batch_pages_fit(PAGE, &(struct frame_limits){16, 1u << 20}), 0);

	struct frame_limits small = {200, 1u << 20};
	uint32_t n = batch_pages_fit(PAGE, &small);
	CU_ASSERT(n > 1 && n < 256);
	in.round = in.space = UINT64_MAX;
	for (uint32_t i = 0; i < n; i++)
		add_run((uint64_t)i << 44, 1);
	encode(NULL);
	CU_ASSERT(frame.head_bytes <= small.head_bytes);
}

/* --- what changed ------------------------------------------------------------------------- */

static const uint8_t *former[BATCH_PAGES_MAX];

/* All pages but these are known at the other end, as they are now; then words of each change. */
static void change(uint32_t npages, unsigned words, uint32_t unknown)
{
	before = realloc(before, (size_t)npages * PAGE);
	memcpy(before, pages, (size_t)npages * PAGE);
	for (uint32_t i = 0; i < npages; i++) {
		former[i] = i == unknown ? NULL : before + (size_t)i * PAGE;
		for (unsigned k = 0; k < words; k++)
			pages[(size_t)i * PAGE + random_next() % PAGE] ^= 1 + random_next() % 255;
	}
}

static void encode_changed(const struct codec *codec, uint32_t block_pages)
{
	struct batch_encoding how = {.codec = codec, .former = former, .block_pages = block_pages};
	CU_ASSERT_EQUAL_FATAL(batch_encode(9, &in, pages, &how, &buffer, &stats), 0);
	CU_ASSERT_EQUAL_FATAL(
		frame_decode(buffer.data, buffer.data + FRAME_HEADER_BYTES, &frame, &err), 0);
	CU_ASSERT_EQUAL_FATAL(batch_decode(&frame, PAGE, FEATURES_KNOWN, &out, &err), 0);
}

/* Every block comes back, from the former pages or without them. */
static void expect_changed(void)
{
	uint32_t first = 0;
	for (uint32_t i = 0; i < out.nblocks; first += out.blocks[i++].pages) {
		size_t bytes = (size_t)out.blocks[i].pages * PAGE, at = (size_t)first * PAGE;
		uint8_t *back = malloc(bytes), *base = malloc(bytes);
		memcpy(base, before + at, bytes);
		CU_ASSERT_EQUAL(batch_block_read(&out, i, frame.payload, base, back, &err), 0);
		CU_ASSERT(memcmp(back, pages + at, bytes) == 0);
		free(back);
		free(base);
	}
	CU_ASSERT_EQUAL(first, out.npages);
}

static void test_what_changed_a_little_goes_as_its_change(void)
{
	add_run(3, 20);
	for (unsigned i = 0; i < 20; i++)
		(i % 2 ? fill_text : fill_random)(pages + i * PAGE);
	fill_zero(pages + 18 * PAGE);
	change(20, 4, 10);
	fill_zero(pages + 19 * PAGE);
	encode_changed(&codec_lz4, 0);
	expect_changed();
	expect_block(0, CODEC_DELTA, 10);
	expect_block(1, CODEC_RAW, 1);
	expect_block(2, CODEC_DELTA, 8);
	expect_block(3, CODEC_ZERO, 1);
	CU_ASSERT_EQUAL(stats.form[CODEC_DELTA].pages, 18);
	CU_ASSERT_EQUAL(stats.form[CODEC_RAW].pages, 1);
	CU_ASSERT_EQUAL(stats.form[CODEC_RAW].bytes, PAGE);
	CU_ASSERT_EQUAL(stats.form[CODEC_ZERO].pages, 1);
	/* About 60 bytes a page. */
	CU_ASSERT(stats.form[CODEC_DELTA].bytes < 18 * 80);
	CU_ASSERT_EQUAL(stats.form[CODEC_DELTA].bytes + PAGE, frame.payload_bytes);
}

static void test_a_block_is_not_larger_than_without_deltas(void)
{
	static void (*const fill[])(uint8_t *) = {fill_zero, fill_random, fill_text, fill_speck};
	for (unsigned round = 0; round < 200; round++) {
		in.nruns = 0;
		add_run(100, 16);
		for (unsigned i = 0; i < 16; i++)
			fill[round % 4](pages + i * PAGE);
		/* From nothing to everything. */
		change(16, round * round / 8, UINT32_MAX);
		for (const struct codec *const *c = codecs; *c; c++) {
			encode(*c);
			uint32_t whole = frame.payload_bytes;
			encode_changed(*c, 0);
			expect_changed();
			/* Where a delta is small, nothing else is tried. */
			CU_ASSERT(frame.payload_bytes <= whole + 16 * PAGE / 32);
		}
	}
}

static void test_what_changed_altogether_is_not_tried(void)
{
	add_run(3, 16);
	for (unsigned i = 0; i < 16; i++)
		fill_random(pages + i * PAGE);
	change(16, 0, UINT32_MAX);
	for (unsigned i = 0; i < 16; i++)
		fill_text(pages + i * PAGE);
	encode_changed(&codec_lz4, 0);
	expect_block(0, CODEC_LZ4, 16);
	expect_changed();
	/* Nothing was set aside for it. */
	CU_ASSERT(buffer.cap < 17 * PAGE);
}

static void test_a_wrong_base_is_named(void)
{
	uint8_t *back = malloc(2 * PAGE), *base = malloc(2 * PAGE);
	add_run(2, 1);
	add_run(16, 3);
	for (unsigned i = 0; i < 4; i++)
		fill_random(pages + i * PAGE);
	change(4, 3, UINT32_MAX);
	former[2] = former[3] = NULL;
	encode_changed(NULL, 0);
	expect_block(0, CODEC_DELTA, 2);
	for (size_t at = 0; at < 2 * PAGE; at += 97) {
		memcpy(base, before, 2 * PAGE);
		base[at] ^= 0x10;
		CU_ASSERT_EQUAL(
			batch_block_read(&out, 0, frame.payload, base, back, &err), -EBADMSG);
		SAYS("the delta block of 2 pages from 0x2000 on (space 5) is a change of other "
		     "pages");
	}
	CU_ASSERT_EQUAL(batch_block_read(&out, 0, frame.payload, NULL, back, &err), -EBADMSG);

	struct page_run runs[2];
	CU_ASSERT_EQUAL(batch_block_runs(&out, 0, runs), 2);
	CU_ASSERT_EQUAL(runs[0].start, 2 * PAGE);
	CU_ASSERT_EQUAL(runs[0].end, 3 * PAGE);
	CU_ASSERT_EQUAL(runs[1].start, 16 * PAGE);
	CU_ASSERT_EQUAL(runs[1].end, 17 * PAGE);
	CU_ASSERT_EQUAL(batch_block_runs(&out, 1, runs), 1);
	CU_ASSERT_EQUAL(runs[0].start, 17 * PAGE);
	CU_ASSERT_EQUAL(runs[0].end, 19 * PAGE);
	free(back);
	free(base);
}

static void test_blocks_can_be_of_one_page(void)
{
	add_run(0, 9);
	for (unsigned i = 0; i < 9; i++)
		(i == 4 || i == 5 ? fill_zero : fill_text)(pages + i * PAGE);
	change(9, 0, UINT32_MAX);
	memset(former, 0, sizeof(former));
	encode_changed(&codec_lz4, 1);
	expect_changed();
	CU_ASSERT_EQUAL(out.nblocks, 8);
	expect_block(4, CODEC_ZERO, 2);
	expect_block(5, CODEC_LZ4, 1);
}

/* --- what a peer may say ------------------------------------------------------------------ */

/* A head as it should be: pages 4, 5 and 9; two of them raw, one zero. */
struct head {
	Tidemark__Pages m;
	uint64_t gap[300], run[300];
	uint32_t codec[300], count[300], bytes[300];
	uint32_t payload_bytes;
	uint8_t packed[BATCH_HEAD_MAX + 1];
	size_t packed_bytes;
};
static struct head h;

static void head_init(void)
{
	memset(&h, 0, sizeof(h));
	tidemark__pages__init(&h.m);
	h.m.run_gap_pages = h.gap;
	h.m.run_pages = h.run;
	h.m.block_codec = h.codec;
	h.m.block_pages = h.count;
	h.m.block_bytes = h.bytes;
	h.m.n_run_gap_pages = h.m.n_run_pages = 2;
	h.m.n_block_codec = h.m.n_block_pages = h.m.n_block_bytes = 2;
	h.gap[0] = 4, h.run[0] = 2;
	h.gap[1] = 3, h.run[1] = 1;
	h.codec[0] = CODEC_RAW, h.count[0] = 2, h.bytes[0] = 2 * PAGE;
	h.codec[1] = CODEC_ZERO, h.count[1] = 1, h.bytes[1] = 0;
	h.payload_bytes = 2 * PAGE;
}

static int head_decode_packed(void)
{
	/* Of exactly that size, for the sanitizers. */
	uint8_t *copy = malloc(h.packed_bytes ? h.packed_bytes : 1);
	memcpy(copy, h.packed, h.packed_bytes);
	frame = (struct frame){
		.type = FRAME_PAGES,
		.head = copy,
		.head_bytes = (uint32_t)h.packed_bytes,
		.payload = pages,
		.payload_bytes = h.payload_bytes,
	};
	err.text[0] = '\0';
	int r = batch_decode(&frame, PAGE, features, &out, &err);
	free(copy);
	return r;
}

static int head_decode(void)
{
	h.packed_bytes = tidemark__pages__pack(&h.m, h.packed);
	return head_decode_packed();
}

#define REFUSES(words)                                    \
	do {                                              \
		CU_ASSERT_EQUAL(head_decode(), -EBADMSG); \
		SAYS(words);                              \
		head_init();                              \
	} while (0)

static void test_the_head_as_it_should_be_is_decoded(void)
{
	head_init();
	CU_ASSERT_EQUAL(head_decode(), 0);
	CU_ASSERT_EQUAL(out.npages, 3);
	CU_ASSERT_EQUAL(out.runs[1].start, 9 * PAGE);
	CU_ASSERT_EQUAL(out.blocks[1].offset, 2 * PAGE);
}

static void test_lists_that_disagree_are_refused(void)
{
	head_init();
	h.m.n_run_gap_pages = 1;
	REFUSES("1 gaps for 2 runs");
	h.m.n_run_gap_pages = h.m.n_run_pages = 0;
	REFUSES("0 runs");
	h.m.n_block_codec = 1;
	REFUSES("1 codecs, 2 counts of pages and 2 lengths");
	h.m.n_block_pages = 1;
	REFUSES("1 counts of pages");
	h.m.n_block_bytes = 1;
	REFUSES("1 lengths");
	h.m.n_block_codec = h.m.n_block_pages = h.m.n_block_bytes = 0;
	REFUSES("whose blocks 0");
	h.m.n_block_codec = h.m.n_block_pages = h.m.n_block_bytes = 4;
	REFUSES("4 blocks for 3 pages");
	h.m.n_run_gap_pages = h.m.n_run_pages = 257;
	REFUSES("257 runs");
}

static void test_impossible_runs_are_refused(void)
{
	head_init();
	h.run[1] = 0;
	REFUSES("run 1 is empty");
	h.gap[1] = 0;
	REFUSES("run 1 is not apart");
	h.run[0] = 256;
	REFUSES("more than 256 pages");
	h.run[0] = UINT64_MAX;
	REFUSES("more than 256 pages");
	h.gap[0] = UINT64_MAX;
	REFUSES("run 0 reaches beyond");
	h.gap[0] = UINT64_MAX / PAGE - 1;
	REFUSES("run 0 reaches beyond");
	h.gap[0] = UINT64_MAX / PAGE - 2;
	REFUSES("run 1 reaches beyond");
	h.gap[1] = UINT64_MAX / PAGE - 6;
	REFUSES("run 1 reaches beyond");
	h.gap[1] = UINT64_MAX / PAGE - 7;
	CU_ASSERT_EQUAL(head_decode(), 0);
	CU_ASSERT_EQUAL(out.runs[1].end, -(uint64_t)PAGE);
}

static void test_impossible_blocks_are_refused(void)
{
	head_init();
	h.codec[0] = 99;
	REFUSES("codec 99");
	h.codec[0] = UINT32_MAX;
	REFUSES("codec 4294967295");
	h.count[0] = 0;
	REFUSES("block of 0 pages");
	h.count[0] = 4;
	REFUSES("block of 4 pages, of which 3");
	h.count[0] = UINT32_MAX;
	REFUSES("block of 4294967295 pages");
	h.count[0] = 1, h.bytes[0] = PAGE;
	REFUSES("have 3 pages and whose blocks 2");
	h.bytes[0]--;
	REFUSES("block of 8191 bytes");
	h.bytes[1] = 1;
	REFUSES("block of 1 bytes");
	h.codec[0] = CODEC_LZ4;
	REFUSES("block of 8192 bytes");
	h.codec[0] = CODEC_LZ4, h.bytes[0] = 0;
	REFUSES("block of 0 bytes");
	h.payload_bytes--;
	REFUSES("block of 8192 bytes");
	h.payload_bytes++;
	REFUSES("have 8192 bytes and whose payload 8193");
	h.run[0] = 17, h.count[0] = 17, h.bytes[0] = h.payload_bytes = 17 * PAGE;
	REFUSES("block of 17 pages");
	/* Zero blocks have no such limit. */
	h.run[0] = 17, h.count[0] = 17, h.bytes[0] = h.payload_bytes = 0, h.codec[0] = CODEC_ZERO;
	CU_ASSERT_EQUAL(head_decode(), 0);
}

static void test_codecs_that_the_stream_does_not_announce_are_refused(void)
{
	static const struct {
		enum codec_id codec;
		uint64_t feature;
		const char *words;
	} cases[] = {
		{CODEC_LZ4, FEATURE_LZ4, "a lz4 block, in a stream without that feature"},
		{CODEC_DELTA, FEATURE_DELTA, "a delta block, in a stream without that feature"},
		{CODEC_ZSTD, FEATURE_ZSTD, "a zstd block, in a stream without that feature"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (int announced = 0; announced < 2; announced++) {
			head_init();
			h.codec[0] = cases[i].codec;
			h.bytes[0] = h.payload_bytes = 100;
			features = FEATURES_KNOWN & ~cases[i].feature;
			if (announced)
				features = cases[i].feature;
			CU_ASSERT_EQUAL(head_decode(), announced ? 0 : -EBADMSG);
			if (!announced)
				SAYS(cases[i].words);
		}
	}
	head_init();
	features = 0;
	CU_ASSERT_EQUAL(head_decode(), 0);
}

static void test_what_is_no_head_is_refused(void)
{
	head_init();
	h.packed_bytes = 0;
	CU_ASSERT_EQUAL(head_decode_packed(), -EBADMSG);
	head_decode();
	for (size_t n = h.packed_bytes; n-- > 0;) {
		h.packed_bytes = n;
		CU_ASSERT_EQUAL(head_decode_packed(), -EBADMSG);
	}
	memset(h.packed, 0xff, sizeof(h.packed));
	h.packed_bytes = BATCH_HEAD_MAX;
	CU_ASSERT_EQUAL(head_decode_packed(), -EBADMSG);
	SAYS("cannot be decoded");
	h.packed_bytes = BATCH_HEAD_MAX + 1;
	CU_ASSERT_EQUAL(head_decode_packed(), -EBADMSG);
	SAYS("above the limit");
}

static void test_fields_of_later_versions_are_passed_over(void)
{
	head_init();
	head_decode();
	/* Field 99 of each wire type, then a list of bytes as long as one hash a page. */
	static const uint8_t unknown[] = {0x98, 0x06, 0xff, 0x01, 0x99, 0x06, 1, 2, 3, 4, 5, 6, 7,
		8, 0x9d, 0x06, 1, 2, 3, 4, 0x9a, 0x06, 0x80, 0x20};
	memcpy(h.packed + h.packed_bytes, unknown, sizeof(unknown));
	h.packed_bytes += sizeof(unknown) + 4096;
	CU_ASSERT_EQUAL(head_decode_packed(), 0);
	CU_ASSERT_EQUAL(out.npages, 3);
}

/* What would make a decoder without bounds take thirty times the head's size. */
static void test_a_head_of_many_fields_costs_no_memory(void)
{
	head_init();
	for (h.packed_bytes = 0; h.packed_bytes + 3 <= BATCH_HEAD_MAX; h.packed_bytes += 3)
		memcpy(h.packed + h.packed_bytes, "\x9a\x06\x00", 3);
	CU_ASSERT_EQUAL(head_decode_packed(), -EBADMSG);
	/* Unpacked numbers. */
	for (h.packed_bytes = 0; h.packed_bytes + 2 <= BATCH_HEAD_MAX; h.packed_bytes += 2)
		memcpy(h.packed + h.packed_bytes, "\x18\x01", 2);
	CU_ASSERT_EQUAL(head_decode_packed(), -EBADMSG);
}

static void test_a_block_that_does_not_decompress_is_named(void)
{
	add_run(2, 1);
	add_run(16, 2);
	fill_random(pages);
	fill_zero(pages + PAGE);
	fill_text(pages + 2 * PAGE);
	encode(&codec_lz4);
	CU_ASSERT_EQUAL_FATAL(batch_decode(&frame, PAGE, FEATURES_KNOWN, &out, &err), 0);
	CU_ASSERT_EQUAL_FATAL(out.nblocks, 3);
	memset(buffer.data + buffer.bytes - out.blocks[2].bytes, 0xff, out.blocks[2].bytes);
	uint8_t *back = malloc(PAGE);
	CU_ASSERT_EQUAL(batch_block_read(&out, 1, frame.payload, NULL, back, &err), 0);
	CU_ASSERT_EQUAL(batch_block_read(&out, 2, frame.payload, NULL, back, &err), -EBADMSG);
	SAYS("the lz4 block of 1 pages from 0x11000 on (space 5)");
	free(back);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_zero_pages_take_no_bytes),
		TEST(test_each_kind_of_page_gets_its_form),
		TEST(test_what_shrinks_by_less_than_a_sixteenth_goes_raw),
		TEST(test_each_codec_takes_what_shrinks),
		TEST(test_without_codec_zero_pages_are_still_found),
		TEST(test_pages_in_their_place_are_not_copied),
		TEST(test_a_single_byte_makes_a_page_not_zero),
		TEST(test_random_batches_come_back),
		TEST(test_other_page_sizes_come_back),
		TEST(test_runs_that_touch_become_one),
		TEST(test_the_ends_of_the_space_can_be_named),
		TEST(test_the_longest_head_fits),
		TEST(test_storage_is_kept_for_the_next),
		TEST(test_what_makes_no_sense_is_not_encoded),
		TEST(test_as_many_pages_fit_as_the_limits_let),
		TEST(test_what_changed_a_little_goes_as_its_change),
		TEST(test_a_block_is_not_larger_than_without_deltas),
		TEST(test_what_changed_altogether_is_not_tried),
		TEST(test_a_wrong_base_is_named),
		TEST(test_blocks_can_be_of_one_page),
		TEST(test_the_head_as_it_should_be_is_decoded),
		TEST(test_lists_that_disagree_are_refused),
		TEST(test_impossible_runs_are_refused),
		TEST(test_impossible_blocks_are_refused),
		TEST(test_codecs_that_the_stream_does_not_announce_are_refused),
		TEST(test_what_is_no_head_is_refused),
		TEST(test_fields_of_later_versions_are_passed_over),
		TEST(test_a_head_of_many_fields_costs_no_memory),
		TEST(test_a_block_that_does_not_decompress_is_named),
		{NULL, NULL},
	};
	return harness_main(argc, argv, "batch", tests, setup, teardown);
}
