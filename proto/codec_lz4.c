/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <limits.h>
#include <lz4.h>
#include "proto/codec.h"
#include "proto/message.h"

static size_t compress(const uint8_t *src, size_t bytes, uint8_t *dst, size_t cap)
{
	if (bytes > LZ4_MAX_INPUT_SIZE)
		return 0;
	if (cap > INT_MAX)
		cap = INT_MAX;
	int n = LZ4_compress_default((const char *)src, (char *)dst, (int)bytes, (int)cap);
	return n > 0 ? (size_t)n : 0;
}

static int decompress(const uint8_t *src, size_t src_bytes, uint8_t *dst, size_t bytes)
{
	if (src_bytes > INT_MAX || bytes > INT_MAX)
		return -EBADMSG;
	int n = LZ4_decompress_safe((const char *)src, (char *)dst, (int)src_bytes, (int)bytes);
	return n >= 0 && (size_t)n == bytes ? 0 : -EBADMSG;
}

const struct codec codec_lz4 = {
	.id = CODEC_LZ4,
	.name = "lz4",
	.feature = FEATURE_LZ4,
	.compress = compress,
	.decompress = decompress,
};
