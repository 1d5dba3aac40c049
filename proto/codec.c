/* SPDX-License-Identifier: MIT */
#include <string.h>
#include "proto/codec.h"

static const struct codec *const all[CODEC_COUNT] = {
	[CODEC_RAW] = &codec_raw,
	[CODEC_ZERO] = &codec_zero,
	[CODEC_LZ4] = &codec_lz4,
	[CODEC_ZSTD] = &codec_zstd,
	[CODEC_DELTA] = &codec_delta,
};

/* Zero pages are found whatever is chosen. */
const struct codec *const codecs[] = {&codec_raw, &codec_lz4, &codec_zstd, NULL};

const struct codec *codec_find(enum codec_id id)
{
	/* The number may come from a peer, which enums do not hold to their names. */
	size_t i = (size_t)id;
	return i < sizeof(all) / sizeof(all[0]) ? all[i] : NULL;
}

const struct codec *codec_by_name(const char *name)
{
	for (const struct codec *const *c = codecs; *c; c++)
		if (strcmp((*c)->name, name) == 0)
			return *c;
	return NULL;
}
