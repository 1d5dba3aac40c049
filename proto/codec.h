/* SPDX-License-Identifier: MIT */
/* Page codecs: a new one is a new file and a line in the table in codec.c. */
#ifndef PROTO_CODEC_H
#define PROTO_CODEC_H

#include <stddef.h>
#include <stdint.h>

/* The numbers travel: never change or reuse one. */
enum codec_id {
	CODEC_RAW = 0,
	CODEC_ZERO = 1,  /* no bytes: all pages of the block are zero */
	CODEC_LZ4 = 2,   /* one LZ4 block, as lz4's block format has it */
	CODEC_ZSTD = 3,  /* one zstd frame without its magic number, content size and checksum */
	CODEC_DELTA = 4, /* what changed since the receiver got the pages: proto/codec_delta.h */
};

#define CODEC_COUNT 5

/* A stateless compressor of blocks of pages. Both functions are called by several threads at once.
 */
struct codec {
	enum codec_id id;
	const char *name; /* as --compress takes it */
	uint64_t feature; /* enum message_feature that both sides must know, or 0 */

	/* At most `cap` bytes into dst; returns the length, or 0 where it does not fit (then raw is
	 * used). NULL: compresses nothing. */
	size_t (*compress)(const uint8_t *src, size_t bytes, uint8_t *dst, size_t cap);
	/* Must give exactly `bytes`. 0, -EBADMSG or -ENOMEM; never writes beyond dst + bytes,
	 * whatever src holds. */
	int (*decompress)(const uint8_t *src, size_t src_bytes, uint8_t *dst, size_t bytes);
};

/* NULL where unknown. */
const struct codec *codec_find(enum codec_id id);
/* Of those in codecs[]; NULL where unknown. */
const struct codec *codec_by_name(const char *name);
/* Those that a user can choose, "none" among them, ended by NULL; for help texts. */
extern const struct codec *const codecs[];

/* What the table holds, one file each; go through the functions above. */
extern const struct codec codec_raw, codec_zero, codec_lz4, codec_zstd, codec_delta;

#endif
