/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include "proto/codec.h"

static int decompress(const uint8_t *src, size_t src_bytes, uint8_t *dst, size_t bytes)
{
	if (src_bytes != 0)
		return -EBADMSG;
	memset(dst, 0, bytes);
	return 0;
}

const struct codec codec_zero = {
	.id = CODEC_ZERO,
	.name = "zero",
	.decompress = decompress,
};
