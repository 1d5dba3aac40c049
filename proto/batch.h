/* SPDX-License-Identifier: MIT */
/*
 * A batch: up to BATCH_PAGES_MAX pages of one space that travel in one PAGES frame. Its head
 * (proto/pages.proto) lists the runs of pages (in the space, in order) and the blocks that hold
 * them (codec, pages, bytes); the payload is the blocks, back to back. The k-th page of the runs is
 * the k-th page of the blocks; a block may span runs.
 *
 * What a reader refuses: a head above BATCH_HEAD_MAX, or that is no such message; lists of unequal
 * or no length; no or more than BATCH_PAGES_MAX pages; runs that touch, or that reach beyond
 * 2^64 - 1; a codec that is unknown, or whose feature the stream does not have; a block of no
 * pages, or, zero pages apart, of more than BLOCK_PAGES_MAX; a length that is not of the codec
 * (raw: that of its pages, zero: 0, others: more than 0 and less than raw); blocks that have other
 * pages than the runs or other bytes than the payload. Unknown fields are passed over, up to some
 * thousand bytes of them.
 */
#ifndef PROTO_BATCH_H
#define PROTO_BATCH_H

#include "proto/codec.h"
#include "proto/frame.h"
#include "proto/mapping.h"

#define BATCH_PAGES_MAX 256
#define BATCH_HEAD_MAX (16u << 10)
#define BLOCK_PAGES_MAX 16 /* pages held together: to read one page, its block is decompressed */

/* Page sizes that there are; powers of two. */
#define BATCH_PAGE_BYTES_MIN 4096u
#define BATCH_PAGE_BYTES_MAX 65536u

struct batch_block {
	enum codec_id codec;
	uint32_t pages;
	uint32_t bytes;  /* in the payload */
	uint32_t offset; /* in the payload: sum of the bytes before */
};

/* A PAGES head, decoded and checked: pages of runs and of blocks agree, bytes add up to the
 * payload. Decoded runs never touch. */
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

/* How many pages went in which form, and what became of their bytes, for the summary. */
struct batch_stats {
	struct {
		uint64_t pages;
		uint64_t bytes; /* of the blocks */
	} form[CODEC_COUNT];    /* by codec */
	uint64_t bytes_in;      /* of the pages */
	uint64_t bytes_out;     /* of the frames, headers and heads included */
};

void batch_stats_add(struct batch_stats *to, const struct batch_stats *stats);

/* How many pages of this size always fit into one frame within `limits`: at most BATCH_PAGES_MAX, 0
 * where not even one does. */
uint32_t batch_pages_fit(uint32_t page_bytes, const struct frame_limits *limits);

/* How pages are to be encoded. All zero: nothing is compressed, zero pages are still found. */
struct batch_encoding {
	const struct codec *codec; /* NULL: none */
	/*
	 * What the receiver holds of each page (NULL: not known), in the order of the runs; NULL
	 * where it knows no deltas. A page goes as its difference where that is smaller.
	 */
	const uint8_t *const *former;
	uint32_t block_pages; /* at most so many in a block; 0: BLOCK_PAGES_MAX */
};

/*
 * Where in `b` pages may be put for a batch_encode() into it that compresses nothing and makes no
 * differences: then those that are not zero are in their place, and not copied. Room for
 * BATCH_PAGES_MAX of them; NULL without memory. Good until then, or until `b` is used otherwise.
 */
uint8_t *batch_pages_place(struct frame_buffer *b, uint32_t page_bytes);

/*
 * Encodes the pages at `pages` (page_bytes each, in the order of the runs) into one frame in `ret`,
 * keeping its storage where that is large enough; they may be at batch_pages_place(), and are moved
 * then. Blocks of zero pages, compressible ones and the rest are told apart; what does not shrink
 * by a sixteenth goes raw. Only round, space, page_bytes, runs and nruns of `b` are read; runs may
 * touch. `stats` is added to. Thread-safe. 0; -ENOMEM; -EINVAL for runs that are empty, unaligned,
 * out of order or more than BATCH_PAGES_MAX, of pages or of runs; -EMSGSIZE for more pages than
 * batch_pages_fit() says for frame_limits_max. On failure `ret` is empty and keeps its storage.
 */
int batch_encode(uint32_t process, const struct batch *b, const uint8_t *pages,
	const struct batch_encoding *how, struct frame_buffer *ret, struct batch_stats *stats);

/* Decodes and checks the head of a PAGES frame against its payload. -EBADMSG; `ret` is undefined
 * then. `page_bytes` and `features` are what STREAM said, checked before. */
int batch_decode(const struct frame *f, uint32_t page_bytes, uint64_t features, struct batch *ret,
	struct tide_error *err);

/*
 * Decompresses block `index` of the frame's payload into `dst` (pages * page_bytes). `former` is
 * what is held of its pages, back to back; only delta blocks want it, which are refused where it is
 * NULL. -EBADMSG names the codec and the first page; -ENOMEM. `dst` is undefined then.
 */
int batch_block_read(const struct batch *b, uint32_t index, const uint8_t *payload,
	const uint8_t *former, uint8_t *dst, struct tide_error *err);

/* Is there a block that needs what was held before? */
bool batch_has_delta(const struct batch *b);

/* The runs of the pages of block `index`, at most as many as it has pages, into `ret`. Returns how
 * many there are. */
uint32_t batch_block_runs(const struct batch *b, uint32_t index, struct page_run *ret);

#endif
