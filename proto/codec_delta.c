/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include "base/le.h"
#include "base/xxh3.h"
#include "proto/codec.h"
#include "proto/codec_delta.h"
#include "proto/message.h"

/* At a time, so that the compiler uses the widest registers. Page sizes are multiples of it. */
#define LINE_WORDS 8
#define LINE_BYTES (LINE_WORDS * sizeof(uint64_t))

bool delta_is_likely(const uint8_t *page, const uint8_t *former, size_t bytes)
{
	size_t changed = 0;
	for (size_t i = 0; i < bytes; i += LINE_BYTES) {
		uint64_t a[LINE_WORDS], b[LINE_WORDS];
		memcpy(a, page + i, sizeof(a));
		memcpy(b, former + i, sizeof(b));
		for (size_t k = 0; k < LINE_WORDS; k++)
			changed += a[k] != b[k];
	}
	/* Beyond that LZ4 finds little in the difference that it would not find in the page. */
	return changed <= bytes / sizeof(uint64_t) / 2;
}

void delta_xor(const uint8_t *a, const uint8_t *b, uint8_t *dst, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += LINE_BYTES) {
		uint64_t x[LINE_WORDS], y[LINE_WORDS];
		memcpy(x, a + i, sizeof(x));
		memcpy(y, b + i, sizeof(y));
		for (size_t k = 0; k < LINE_WORDS; k++)
			x[k] ^= y[k];
		memcpy(dst + i, x, sizeof(x));
	}
}

size_t delta_encode(
	const uint8_t *pages, const uint8_t *difference, size_t bytes, uint8_t *dst, size_t cap)
{
	if (cap <= DELTA_HASH_BYTES)
		return 0;
	size_t n = codec_lz4.compress(
		difference, bytes, dst + DELTA_HASH_BYTES, cap - DELTA_HASH_BYTES);
	if (n == 0)
		return 0;
	le64_put(dst, XXH3_64bits(pages, bytes));
	return DELTA_HASH_BYTES + n;
}

int delta_decode(
	const uint8_t *src, size_t src_bytes, const uint8_t *former, uint8_t *dst, size_t bytes)
{
	if (src_bytes <= DELTA_HASH_BYTES)
		return -EBADMSG;
	int r = codec_lz4.decompress(
		src + DELTA_HASH_BYTES, src_bytes - DELTA_HASH_BYTES, dst, bytes);
	if (r < 0)
		return r;
	delta_xor(dst, former, dst, bytes);
	return XXH3_64bits(dst, bytes) == le64_get(src) ? 0 : -ESTALE;
}

/* Without the former pages it says nothing. */
static int decompress(const uint8_t *src, size_t src_bytes, uint8_t *dst, size_t bytes)
{
	return -EBADMSG;
}

/* For its number and feature. */
const struct codec codec_delta = {
	.id = CODEC_DELTA,
	.name = "delta",
	.feature = FEATURE_DELTA,
	.decompress = decompress,
};
