/* SPDX-License-Identifier: MIT */
/*
 * A batch: up to BATCH_PAGES_MAX pages of one space that travel in one PAGES frame. Its head lists the runs of pages (in the
 * space, in order) and the blocks that hold them (codec, pages, bytes); the payload is the blocks, back to back. The k-th page of
 * the runs is the k-th page of the blocks; a block may span runs.
 */
#ifndef PROTO_BATCH_H
#define PROTO_BATCH_H

#include "proto/codec.h"
#include "proto/frame.h"
#include "proto/mapping.h"

#define BATCH_PAGES_MAX 256
#define BLOCK_PAGES_MAX 16 /* pages compressed together: to read one page, its block is decompressed */

struct batch_block {
	enum codec_id codec;
	uint32_t pages;
	uint32_t bytes;  /* in the payload */
	uint32_t offset; /* in the payload: sum of the bytes before */
};

/* A PAGES head, decoded and checked: pages of runs and of blocks agree, bytes add up to the payload. */
struct batch {
	uint64_t round;
	space_id space;
	uint32_t page_bytes;
	uint32_t npages;
	uint32_t nruns;
	uint32_t nblocks;
	struct page_run runs[BATCH_PAGES_MAX];
	struct batch_block blocks[BATCH_PAGES_MAX];
};

/* How many pages went in which form, for the summary. */
struct batch_stats {
	uint64_t pages_raw, pages_zero, pages_compressed;
	uint64_t bytes_in, bytes_out;
};

/*
 * Encodes the pages at `pages` (npages * page_bytes of them, in the order of the runs) into one frame in `ret`. Blocks of zero
 * pages, compressible ones and the rest are told apart; what does not shrink goes raw. `codec` NULL: no compression (zero
 * pages are still found). Only process, round, space, page_bytes, runs and nruns of `b` are read. `stats` is added to. Thread-safe.
 * 0, -ENOMEM, -EINVAL.
 */
int batch_encode(uint32_t process, const struct batch *b, const uint8_t *pages, const struct codec *codec,
	struct frame_buffer *ret, struct batch_stats *stats);

/* Decodes and checks the head of a PAGES frame against its payload. */
int batch_decode(const struct frame *f, uint32_t page_bytes, struct batch *ret, struct tide_error *err);

/* Decompresses block `index` of the frame's payload into `dst` (pages * page_bytes). -EBADMSG names the codec and the first page. */
int batch_block_read(const struct batch *b, uint32_t index, const uint8_t *payload, uint8_t *dst,
	struct tide_error *err);

#endif
