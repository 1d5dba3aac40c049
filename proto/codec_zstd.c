/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
/* For frames without their magic number; the functions are all of the stable API. */
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>
#include "base/le.h"
#include "proto/batch.h"
#include "proto/codec.h"
#include "proto/message.h"

/* A page is compressed once and read once or twice: the level whose speed comes near that of a
 * link. */
#define LEVEL 1

#define WINDOW_MAX (BLOCK_PAGES_MAX * BATCH_PAGE_BYTES_MAX)

/* --- contexts: one of each a thread, freed when it ends ----------------------------------- */

/* A context takes longer to make than a block to compress. */
struct contexts {
	ZSTD_CCtx *compress;
	ZSTD_DCtx *decompress;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool has_key;

static void contexts_free(void *arg)
{
	struct contexts *c = arg;
	ZSTD_freeCCtx(c->compress);
	ZSTD_freeDCtx(c->decompress);
	free(c);
}

static void key_make(void)
{
	has_key = pthread_key_create(&key, contexts_free) == 0;
}

/* This thread's, or NULL without memory. */
static struct contexts *contexts_get(void)
{
	pthread_once(&once, key_make);
	if (!has_key)
		return NULL;
	struct contexts *c = pthread_getspecific(key);
	if (c)
		return c;
	c = calloc(1, sizeof(*c));
	if (c && pthread_setspecific(key, c) != 0) {
		free(c);
		return NULL;
	}
	return c;
}

static bool set(ZSTD_CCtx *c, ZSTD_cParameter parameter, int value)
{
	return !ZSTD_isError(ZSTD_CCtx_setParameter(c, parameter, value));
}

static ZSTD_CCtx *compressor_get(void)
{
	struct contexts *c = contexts_get();
	if (!c || c->compress)
		return c ? c->compress : NULL;
	ZSTD_CCtx *made = ZSTD_createCCtx();
	if (!made)
		return NULL;
	/* The frame around the block has the checksum, its head the lengths. */
	if (set(made, ZSTD_c_compressionLevel, LEVEL) && set(made, ZSTD_c_contentSizeFlag, 0) &&
		set(made, ZSTD_c_checksumFlag, 0) && set(made, ZSTD_c_dictIDFlag, 0) &&
		set(made, ZSTD_c_format, ZSTD_f_zstd1_magicless))
		return c->compress = made;
	ZSTD_freeCCtx(made);
	return NULL;
}

static ZSTD_DCtx *decompressor_get(void)
{
	struct contexts *c = contexts_get();
	if (!c || c->decompress)
		return c ? c->decompress : NULL;
	ZSTD_DCtx *made = ZSTD_createDCtx();
	if (!made)
		return NULL;
	if (!ZSTD_isError(ZSTD_DCtx_setParameter(made, ZSTD_d_format, ZSTD_f_zstd1_magicless)))
		return c->decompress = made;
	ZSTD_freeDCtx(made);
	return NULL;
}

/* --- the codec ---------------------------------------------------------------------------- */

static size_t compress(const uint8_t *src, size_t bytes, uint8_t *dst, size_t cap)
{
	ZSTD_CCtx *c = compressor_get();
	if (!c)
		return 0;
	size_t n = ZSTD_compress2(c, dst, cap, src, bytes);
	return ZSTD_isError(n) ? 0 : n;
}

/*
 * Is it one frame of the form that we write, and nothing behind it? RFC 8878, 3.1.1: a descriptor
 * of zero (no content size, checksum or dictionary), the window, then blocks of a 3-byte header:
 * bit 0 the last one, bits 1 and 2 the type, then the length. The library would also take several
 * frames in turn, those that are to be skipped, and those of its formats before 1.0.
 */
static bool is_our_frame(const uint8_t *src, size_t bytes)
{
	enum { RAW, RUN, COMPRESSED };
	if (bytes < 2 || src[0] != 0)
		return false;
	uint64_t base = UINT64_C(1) << (10 + (src[1] >> 3));
	if (base + base / 8 * (src[1] & 7) > WINDOW_MAX)
		return false;
	for (size_t at = 2; bytes - at >= 3;) {
		uint32_t header = le16_get(src + at) | (uint32_t)src[at + 2] << 16;
		uint32_t type = header >> 1 & 3, length = type == RUN ? 1 : header >> 3;
		at += 3;
		if (type > COMPRESSED || length > bytes - at)
			return false;
		at += length;
		if (header & 1)
			return at == bytes;
	}
	return false;
}

/* At once into dst: the library then takes no window, whatever the frame asks for. */
static int decompress(const uint8_t *src, size_t src_bytes, uint8_t *dst, size_t bytes)
{
	if (!is_our_frame(src, src_bytes))
		return -EBADMSG;
	ZSTD_DCtx *c = decompressor_get();
	if (!c)
		return -ENOMEM;
	size_t n = ZSTD_decompressDCtx(c, dst, bytes, src, src_bytes);
	return !ZSTD_isError(n) && n == bytes ? 0 : -EBADMSG;
}

const struct codec codec_zstd = {
	.id = CODEC_ZSTD,
	.name = "zstd",
	.feature = FEATURE_ZSTD,
	.compress = compress,
	.decompress = decompress,
};
