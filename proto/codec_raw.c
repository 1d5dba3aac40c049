/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include "proto/codec.h"

static int decompress(const uint8_t *src, size_t src_bytes, uint8_t *dst, size_t bytes)
{
	if (src_bytes != bytes)
		return -EBADMSG;
	memcpy(dst, src, bytes);
	return 0;
}

const struct codec codec_raw = {
	.id = CODEC_RAW,
	.name = "none",
	.decompress = decompress,
};
