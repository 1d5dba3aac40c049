/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "proto/codec.h"
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
	CU_ASSERT_EQUAL(codec_find(CODEC_ZERO)->id, CODEC_ZERO);
}

static void test_unknown_ones_are_not_found(void)
{
	CU_ASSERT_PTR_NULL(codec_find((enum codec_id)3));
	CU_ASSERT_PTR_NULL(codec_find((enum codec_id)UINT32_MAX));
	CU_ASSERT_PTR_NULL(codec_by_name("zip"));
	CU_ASSERT_PTR_NULL(codec_by_name(""));
	/* Zero pages are found whatever is asked for. */
	CU_ASSERT_PTR_NULL(codec_by_name("zero"));
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

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_names_and_numbers_find_each_other),
		TEST(test_unknown_ones_are_not_found),
		TEST(test_what_was_compressed_comes_back),
		TEST(test_too_little_room_is_no_result),
		TEST(test_only_the_exact_length_is_taken),
		TEST(test_altered_bytes_do_no_harm),
		{NULL, NULL},
	};
	return harness_main(argc, argv, "codec", tests, setup, teardown);
}
