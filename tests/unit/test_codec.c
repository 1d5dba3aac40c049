/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "proto/codec.h"
#include "proto/codec_delta.h"
#include "proto/message.h"
#include "tests/harness.h"

#define BYTES (16u * 4096)

/* Of exactly the size, so that a sanitizer sees a byte beyond. */
static uint8_t *pages, *packed, *back;

static void setup(void)
{
	pages = malloc(BYTES);
	packed = malloc(BYTES);
	back = malloc(BYTES);
	for (size_t i = 0; i < BYTES; i++)
		pages[i] = (uint8_t)(i / 3 % 251);
}

static void teardown(void)
{
	free(pages);
	free(packed);
	free(back);
}

static void test_names_and_numbers_find_each_other(void)
{
	for (const struct codec *const *c = codecs; *c; c++) {
		CU_ASSERT_PTR_EQUAL(codec_by_name((*c)->name), *c);
		CU_ASSERT_PTR_EQUAL(codec_find((*c)->id), *c);
		CU_ASSERT_EQUAL((*c)->feature & ~FEATURES_KNOWN, 0);
	}
	CU_ASSERT_EQUAL(codec_by_name("none")->id, CODEC_RAW);
	CU_ASSERT_EQUAL(codec_by_name("lz4")->id, CODEC_LZ4);
	CU_ASSERT_EQUAL(codec_by_name("zstd")->id, CODEC_ZSTD);
	CU_ASSERT_EQUAL(codec_find(CODEC_ZERO)->id, CODEC_ZERO);
}

static void test_unknown_ones_are_not_found(void)
{
	CU_ASSERT_PTR_NULL(codec_find((enum codec_id)99));
	CU_ASSERT_PTR_NULL(codec_find((enum codec_id)UINT32_MAX));
	CU_ASSERT_PTR_NULL(codec_by_name("zip"));
	CU_ASSERT_PTR_NULL(codec_by_name(""));
	/* Zero pages are found whatever is asked for. */
	CU_ASSERT_PTR_NULL(codec_by_name("zero"));
	/* What changed is sent on top of any of them. */
	CU_ASSERT_PTR_NULL(codec_by_name("delta"));
}

static void test_what_was_compressed_comes_back(void)
{
	for (const struct codec *const *c = codecs; *c; c++) {
		if (!(*c)->compress)
			continue;
		size_t n = (*c)->compress(pages, BYTES, packed, BYTES);
		CU_ASSERT_FATAL(n > 0 && n < BYTES / 2);
		memset(back, 0xaa, BYTES);
		CU_ASSERT_EQUAL((*c)->decompress(packed, n, back, BYTES), 0);
		CU_ASSERT(memcmp(back, pages, BYTES) == 0);
	}
}

static void test_too_little_room_is_no_result(void)
{
	for (const struct codec *const *c = codecs; *c; c++) {
		if (!(*c)->compress)
			continue;
		size_t n = (*c)->compress(pages, BYTES, packed, BYTES);
		uint8_t *small = malloc(n - 1);
		CU_ASSERT_EQUAL((*c)->compress(pages, BYTES, small, n - 1), 0);
		free(small);
	}
}

static void test_only_the_exact_length_is_taken(void)
{
	for (const struct codec *const *c = codecs; *c; c++) {
		if (!(*c)->compress)
			continue;
		size_t n = (*c)->compress(pages, BYTES, packed, BYTES);
		CU_ASSERT_EQUAL((*c)->decompress(packed, n - 1, back, BYTES), -EBADMSG);
		uint8_t *small = malloc(BYTES - 1), *large = malloc(BYTES + 1);
		CU_ASSERT_EQUAL((*c)->decompress(packed, n, small, BYTES - 1), -EBADMSG);
		CU_ASSERT_EQUAL((*c)->decompress(packed, n, large, BYTES + 1), -EBADMSG);
		free(small);
		free(large);
	}
	CU_ASSERT_EQUAL(codec_raw.decompress(pages, BYTES - 1, back, BYTES), -EBADMSG);
	CU_ASSERT_EQUAL(codec_zero.decompress(pages, 1, back, BYTES), -EBADMSG);
}

static void test_altered_bytes_do_no_harm(void)
{
	srand(1);
	for (const struct codec *const *c = codecs; *c; c++) {
		if (!(*c)->compress)
			continue;
		for (int round = 0; round < 2000; round++) {
			size_t n = (*c)->compress(pages, BYTES, packed, BYTES);
			uint8_t *altered = malloc(n);
			memcpy(altered, packed, n);
			for (int i = 0; i < 1 + round % 4; i++)
				altered[(size_t)rand() % n] = (uint8_t)rand();
			/* It may even succeed, with other bytes: checksums are the frame's. */
			(*c)->decompress(altered, n, back, BYTES);
			free(altered);
		}
	}
}

/* --- deltas ------------------------------------------------------------------------------- */

static void test_a_delta_gives_back_the_pages(void)
{
	uint8_t *former = malloc(BYTES), *difference = malloc(BYTES);
	for (size_t i = 0; i < BYTES; i++)
		former[i] = (uint8_t)rand();
	memcpy(pages, former, BYTES);
	for (size_t i = 0; i < BYTES; i += 1000)
		pages[i]++;
	CU_ASSERT_TRUE(delta_is_likely(pages, former, BYTES));
	delta_xor(pages, former, difference, BYTES);
	size_t n = delta_encode(pages, difference, BYTES, packed, BYTES);
	CU_ASSERT_FATAL(n > DELTA_HASH_BYTES && n < 1000);
	CU_ASSERT_EQUAL(delta_decode(packed, n, former, back, BYTES), 0);
	CU_ASSERT(memcmp(back, pages, BYTES) == 0);

	/* Too little room, to write and to read. */
	for (size_t cap = 0; cap < n; cap++)
		CU_ASSERT_EQUAL(delta_encode(pages, difference, BYTES, back, cap), 0);
	for (size_t less = 0; less < n; less++) {
		uint8_t *exact = malloc(less + 1);
		memcpy(exact, packed, less);
		CU_ASSERT(delta_decode(exact, less, former, back, BYTES) < 0);
		free(exact);
	}

	/* Other former pages, another hash. */
	former[BYTES - 1] ^= 1;
	CU_ASSERT_EQUAL(delta_decode(packed, n, former, back, BYTES), -ESTALE);
	former[BYTES - 1] ^= 1;
	packed[3] ^= 1;
	CU_ASSERT_EQUAL(delta_decode(packed, n, former, back, BYTES), -ESTALE);

	for (size_t i = 0; i < BYTES; i += 8)
		pages[i]++;
	CU_ASSERT_FALSE(delta_is_likely(pages, former, BYTES));
	free(former);
	free(difference);
}

static void test_altered_deltas_never_give_wrong_pages(void)
{
	uint8_t *former = malloc(BYTES), *difference = malloc(BYTES);
	memset(former, 7, BYTES);
	delta_xor(pages, former, difference, BYTES);
	srand(2);
	for (int round = 0; round < 2000; round++) {
		size_t n = delta_encode(pages, difference, BYTES, packed, BYTES);
		uint8_t *altered = malloc(n);
		memcpy(altered, packed, n);
		for (int i = 0; i < 1 + round % 4; i++)
			altered[(size_t)rand() % n] = (uint8_t)rand();
		if (delta_decode(altered, n, former, back, BYTES) == 0)
			CU_ASSERT(memcmp(back, pages, BYTES) == 0);
		free(altered);
	}
	free(former);
	free(difference);
}

/* --- zstd --------------------------------------------------------------------------------- */

/* A frame of ours: a descriptor, a window descriptor, blocks of 3 bytes of header. */
static size_t zstd_bytes(void)
{
	size_t n = codec_zstd.compress(pages, BYTES, packed, BYTES);
	CU_ASSERT_FATAL(n > 5 && n < BYTES / 2);
	CU_ASSERT_EQUAL(packed[0], 0);
	CU_ASSERT_EQUAL_FATAL(codec_zstd.decompress(packed, n, back, BYTES), 0);
	return n;
}

static void test_zstd_asks_for_no_larger_window_than_a_block(void)
{
	size_t n = zstd_bytes();
	/* As small as it is, a reader that keeps a window keeps no more than the pages. */
	CU_ASSERT((UINT64_C(1) << (10 + (packed[1] >> 3))) <= BYTES);
	/* 1 MiB is the most; the next larger is an eighth more. */
	packed[1] = 10 << 3;
	CU_ASSERT_EQUAL(codec_zstd.decompress(packed, n, back, BYTES), 0);
	for (unsigned window = (10 << 3) + 1; window < 256; window++) {
		packed[1] = (uint8_t)window;
		CU_ASSERT_EQUAL(codec_zstd.decompress(packed, n, back, BYTES), -EBADMSG);
	}
}

static void test_zstd_takes_no_other_descriptor(void)
{
	size_t n = zstd_bytes();
	for (unsigned descriptor = 1; descriptor < 256; descriptor++) {
		packed[0] = (uint8_t)descriptor;
		CU_ASSERT_EQUAL(codec_zstd.decompress(packed, n, back, BYTES), -EBADMSG);
	}
}

static void test_zstd_takes_one_frame_and_no_more(void)
{
	/* Two halves, each a frame of its own: the library would join them. */
	size_t first = codec_zstd.compress(pages, BYTES / 2, packed, BYTES / 2);
	CU_ASSERT_FATAL(first > 0);
	size_t second =
		codec_zstd.compress(pages + BYTES / 2, BYTES / 2, packed + first, BYTES / 2);
	CU_ASSERT_FATAL(second > 0);
	CU_ASSERT_EQUAL(codec_zstd.decompress(packed, first + second, back, BYTES), -EBADMSG);
	/* One that is to be skipped, before and behind. */
	static const uint8_t skipped[] = {0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0};
	size_t n = zstd_bytes();
	memcpy(packed + n, skipped, sizeof(skipped));
	CU_ASSERT_EQUAL(codec_zstd.decompress(packed, n + sizeof(skipped), back, BYTES), -EBADMSG);
	memmove(packed + sizeof(skipped), packed, n);
	memcpy(packed, skipped, sizeof(skipped));
	CU_ASSERT_EQUAL(codec_zstd.decompress(packed, n + sizeof(skipped), back, BYTES), -EBADMSG);
}

/* Its contexts are its own, and gone with it: the leak checker looks. */
static void *compress_and_end(void *arg)
{
	uint8_t *to = malloc(BYTES), *again = malloc(BYTES);
	size_t n = codec_zstd.compress(pages, BYTES, to, BYTES);
	bool same = n && codec_zstd.decompress(to, n, again, BYTES) == 0 &&
		    memcmp(again, pages, BYTES) == 0;
	free(to);
	free(again);
	return same ? arg : NULL;
}

static void test_threads_compress_side_by_side(void)
{
	pthread_t threads[8];
	for (size_t i = 0; i < 8; i++)
		CU_ASSERT_EQUAL_FATAL(
			pthread_create(&threads[i], NULL, compress_and_end, pages), 0);
	for (size_t i = 0; i < 8; i++) {
		void *same = NULL;
		pthread_join(threads[i], &same);
		CU_ASSERT_PTR_NOT_NULL(same);
	}
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_names_and_numbers_find_each_other),
		TEST(test_unknown_ones_are_not_found),
		TEST(test_what_was_compressed_comes_back),
		TEST(test_too_little_room_is_no_result),
		TEST(test_only_the_exact_length_is_taken),
		TEST(test_altered_bytes_do_no_harm),
		TEST(test_a_delta_gives_back_the_pages),
		TEST(test_altered_deltas_never_give_wrong_pages),
		TEST(test_zstd_asks_for_no_larger_window_than_a_block),
		TEST(test_zstd_takes_no_other_descriptor),
		TEST(test_zstd_takes_one_frame_and_no_more),
		TEST(test_threads_compress_side_by_side),
		{NULL, NULL},
	};
	return harness_main(argc, argv, "codec", tests, setup, teardown);
}
