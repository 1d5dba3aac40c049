/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <inttypes.h>
#include <stdalign.h>
#include <string.h>
#include "base/error.h"
#include "proto/batch.h"
#include "proto/codec_delta.h"
#include "proto/pages.pb-c.h"

/*
 * The longest head of so many runs and blocks: the two numbers, tag and length of the five lists, a
 * gap and a count of pages a run; codec, pages and bytes a block. Varints hold seven bits a byte;
 * the codec's number is below 128, counts below 2^14, bytes below 2^28.
 */
#define HEAD_BYTES(nruns, nblocks) \
	(2 * 11 + 5 * (1 + 5) + (nruns) * (10 + 2) + (nblocks) * (1 + 2 + 4))
_Static_assert(
	HEAD_BYTES(BATCH_PAGES_MAX, BATCH_PAGES_MAX) <= BATCH_HEAD_MAX, "what we write, we read");
_Static_assert(FRAME_PAYLOAD_MAX < 1u << 28 && BATCH_PAGES_MAX < 1u << 14, "as HEAD_BYTES counts");

static bool page_bytes_valid(uint32_t page_bytes)
{
	return page_bytes >= BATCH_PAGE_BYTES_MIN && page_bytes <= BATCH_PAGE_BYTES_MAX &&
	       (page_bytes & (page_bytes - 1)) == 0;
}

uint32_t batch_pages_fit(uint32_t page_bytes, const struct frame_limits *limits)
{
	uint32_t pages = limits->payload_bytes / page_bytes;
	if (pages > BATCH_PAGES_MAX)
		pages = BATCH_PAGES_MAX;
	while (pages && (uint32_t)HEAD_BYTES(pages, pages) > limits->head_bytes)
		pages--;
	return pages;
}

/* --- encoding ----------------------------------------------------------------------------- */

/* The lists of a head in the making. */
struct head_lists {
	uint64_t run_gap[BATCH_PAGES_MAX], run_pages[BATCH_PAGES_MAX];
	uint32_t block_codec[BATCH_PAGES_MAX], block_pages[BATCH_PAGES_MAX];
	uint32_t block_bytes[BATCH_PAGES_MAX];
	size_t nruns, nblocks;
	size_t npages;
};

/* Runs that touch become one. */
static int lists_add_runs(struct head_lists *l, const struct batch *b)
{
	uint64_t end = 0; /* of the run before */

	if (b->nruns == 0 || b->nruns > BATCH_PAGES_MAX)
		return -EINVAL;
	for (uint32_t i = 0; i < b->nruns; i++) {
		struct page_run run = b->runs[i];
		if (run.start < end || run.end <= run.start)
			return -EINVAL;
		if ((run.start | run.end) & (b->page_bytes - 1))
			return -EINVAL;

		uint64_t pages = (run.end - run.start) / b->page_bytes;
		if (pages > BATCH_PAGES_MAX - l->npages)
			return -EINVAL;
		if (l->nruns && run.start == end) {
			l->run_pages[l->nruns - 1] += pages;
		} else {
			l->run_gap[l->nruns] = (run.start - end) / b->page_bytes;
			l->run_pages[l->nruns++] = pages;
		}
		l->npages += pages;
		end = run.end;
	}
	return 0;
}

/*
 * A page is zero when it begins with zeros and equals itself moved on by them; memcmp is the loop
 * that the C library has tuned for this CPU. Most pages that are not zero show it at once.
 */
static bool page_is_zero(const uint8_t *page, size_t bytes)
{
	uint64_t first[4];
	memcpy(first, page, sizeof(first));
	return !(first[0] | first[1] | first[2] | first[3]) &&
	       memcmp(page, page + sizeof(first), bytes - sizeof(first)) == 0;
}

/* What kind of block a page goes into. */
enum page_kind {
	PAGE_ZERO,
	PAGE_CHANGED, /* little of it changed */
	PAGE_OTHER,
};

static enum page_kind page_kind(const uint8_t *page, const uint8_t *former, uint32_t page_bytes)
{
	if (page_is_zero(page, page_bytes))
		return PAGE_ZERO;
	return former && delta_is_likely(page, former, page_bytes) ? PAGE_CHANGED : PAGE_OTHER;
}

/* Pages of one kind that follow each other, in the making. */
struct block {
	enum page_kind kind;
	uint32_t pages;
	const uint8_t *src;
	size_t raw_bytes;
	const uint8_t *const *former; /* PAGE_CHANGED: of each */
	uint8_t *scratch;             /* PAGE_CHANGED: twice raw_bytes */
	enum codec_id id;             /* what it became */
	size_t bytes;
};

/* Worth it is what saves a sixteenth: decompressing has its price too. */
static size_t bytes_worth(size_t raw_bytes)
{
	return raw_bytes - raw_bytes / 16;
}

static void block_compress(struct block *b, const struct codec *codec, uint8_t *dst)
{
	if (codec && codec->compress) {
		b->id = codec->id;
		b->bytes = codec->compress(b->src, b->raw_bytes, dst, bytes_worth(b->raw_bytes));
	}
	if (b->bytes)
		return;
	b->id = CODEC_RAW;
	b->bytes = b->raw_bytes;
	if (dst != b->src)
		memmove(dst, b->src, b->raw_bytes);
}

/* The part of its pages up to which a delta is small: 128 bytes a page of 4 KiB. */
#define DELTA_SMALL 32

/* As a delta, where nothing else is smaller. A delta that is small enough is not beaten by much:
 * then nothing else is tried. */
static void block_compress_changed(struct block *b, const struct codec *codec, uint8_t *dst)
{
	size_t page_bytes = b->raw_bytes / b->pages;
	uint8_t *difference = b->scratch, *delta = b->scratch + b->raw_bytes;
	for (uint32_t i = 0; i < b->pages; i++)
		delta_xor(b->src + i * page_bytes, b->former[i], difference + i * page_bytes,
			page_bytes);
	size_t bytes =
		delta_encode(b->src, difference, b->raw_bytes, delta, bytes_worth(b->raw_bytes));
	if (bytes == 0 || bytes > b->raw_bytes / DELTA_SMALL)
		block_compress(b, codec, dst);
	if (bytes == 0 || (b->bytes && b->bytes <= bytes))
		return;
	b->id = CODEC_DELTA;
	b->bytes = bytes;
	memcpy(dst, delta, bytes);
}

/* Returns the end of what it wrote at `dst`: at most raw_bytes. */
static uint8_t *block_encode(struct block *b, const struct codec *codec, uint8_t *dst)
{
	switch (b->kind) {
	case PAGE_ZERO:
		b->id = CODEC_ZERO;
		break;
	case PAGE_CHANGED:
		block_compress_changed(b, codec, dst);
		break;
	case PAGE_OTHER:
		block_compress(b, codec, dst);
		break;
	}
	return dst + b->bytes;
}

static void lists_add_block(struct head_lists *l, const struct block *b, struct batch_stats *stats)
{
	l->block_codec[l->nblocks] = b->id;
	l->block_pages[l->nblocks] = b->pages;
	l->block_bytes[l->nblocks++] = (uint32_t)b->bytes;
	stats->form[b->id].pages += b->pages;
	stats->form[b->id].bytes += b->bytes;
}

void batch_stats_add(struct batch_stats *to, const struct batch_stats *stats)
{
	for (size_t i = 0; i < CODEC_COUNT; i++) {
		to->form[i].pages += stats->form[i].pages;
		to->form[i].bytes += stats->form[i].bytes;
	}
	to->bytes_in += stats->bytes_in;
	to->bytes_out += stats->bytes_out;
}

/* Room for the longest head, at a border of cache lines. */
#define PLACE_ROOM \
	((FRAME_HEADER_BYTES + HEAD_BYTES(BATCH_PAGES_MAX, BATCH_PAGES_MAX) + 63) & ~(size_t)63)

uint8_t *batch_pages_place(struct frame_buffer *b, uint32_t page_bytes)
{
	int r = frame_buffer_reserve(b, PLACE_ROOM + (size_t)BATCH_PAGES_MAX * page_bytes);
	return r < 0 ? NULL : b->storage + PLACE_ROOM;
}

/* Where the payload goes: behind room for the longest head, which is put right before it
 * afterwards. No block is longer than its pages. NULL without memory. */
static uint8_t *payload_reserve(
	struct frame_buffer *b, const uint8_t *pages, const struct head_lists *l, size_t bytes)
{
	if (b->storage && pages == b->storage + PLACE_ROOM)
		return b->storage + PLACE_ROOM;
	size_t room = FRAME_HEADER_BYTES + HEAD_BYTES(l->nruns, l->npages);
	return frame_buffer_reserve(b, room + bytes) < 0 ? NULL : b->storage + room;
}

int batch_encode(uint32_t process, const struct batch *b, const uint8_t *pages,
	const struct batch_encoding *how, struct frame_buffer *ret, struct batch_stats *stats)
{
	struct head_lists l;
	l.nruns = l.nblocks = l.npages = 0;

	frame_buffer_reserve(ret, 0);
	if (!page_bytes_valid(b->page_bytes))
		return -EINVAL;
	int r = lists_add_runs(&l, b);
	if (r < 0)
		return r;
	if (l.npages > batch_pages_fit(b->page_bytes, &frame_limits_max))
		return -EMSGSIZE;

	enum page_kind kind[BATCH_PAGES_MAX];
	size_t nonzero = 0, changed = 0;
	for (size_t i = 0; i < l.npages; i++) {
		kind[i] = page_kind(pages + i * b->page_bytes, how->former ? how->former[i] : NULL,
			b->page_bytes);
		nonzero += kind[i] != PAGE_ZERO;
		changed += kind[i] == PAGE_CHANGED;
	}

	size_t block_pages = how->block_pages ? how->block_pages : BLOCK_PAGES_MAX;
	size_t in_scratch = changed < block_pages ? changed : block_pages;
	uint8_t *payload =
		payload_reserve(ret, pages, &l, (nonzero + 2 * in_scratch) * b->page_bytes);
	if (!payload)
		return -ENOMEM;
	assert(payload != pages || (!how->former && !(how->codec && how->codec->compress)));

	struct batch_stats added = {.bytes_in = (uint64_t)l.npages * b->page_bytes};
	uint8_t *end = payload;
	for (size_t i = 0, next; i < l.npages; i = next) {
		for (next = i + 1; next < l.npages && kind[next] == kind[i]; next++)
			if (kind[i] != PAGE_ZERO && next - i == block_pages)
				break;
		struct block block = {
			.kind = kind[i],
			.pages = (uint32_t)(next - i),
			.src = pages + i * b->page_bytes,
			.raw_bytes = (next - i) * b->page_bytes,
			.former = how->former ? how->former + i : NULL,
			.scratch = payload + nonzero * b->page_bytes,
		};
		end = block_encode(&block, how->codec, end);
		lists_add_block(&l, &block, &added);
	}

	Tidemark__Pages m = TIDEMARK__PAGES__INIT;
	m.round = b->round;
	m.space = b->space;
	m.n_run_gap_pages = m.n_run_pages = l.nruns;
	m.run_gap_pages = l.run_gap;
	m.run_pages = l.run_pages;
	m.n_block_codec = m.n_block_pages = m.n_block_bytes = l.nblocks;
	m.block_codec = l.block_codec;
	m.block_pages = l.block_pages;
	m.block_bytes = l.block_bytes;
	size_t head_bytes = tidemark__pages__get_packed_size(&m);
	assert(head_bytes <= (size_t)(payload - ret->storage) - FRAME_HEADER_BYTES);
	uint8_t *head = payload - head_bytes;
	tidemark__pages__pack(&m, head);

	struct frame frame = {
		.type = FRAME_PAGES,
		.flags = FRAME_CRITICAL,
		.process = process,
		.head = head,
		.head_bytes = (uint32_t)head_bytes,
		.payload = payload,
		.payload_bytes = (uint32_t)(end - payload),
	};
	ret->data = head - FRAME_HEADER_BYTES;
	ret->bytes = (size_t)(end - ret->data);
	frame_header_encode(&frame, ret->data);

	added.bytes_out = ret->bytes;
	batch_stats_add(stats, &added);
	return 0;
}

/* --- decoding ----------------------------------------------------------------------------- */

/* What decoding a head may take, on the stack: our longest lists take 7 KiB, the rest is for fields
 * of later versions. A head that wants more is refused, so none costs more than this. */
struct arena {
	size_t used;
	alignas(max_align_t) uint8_t bytes[32u << 10];
};

static void *arena_alloc(void *data, size_t bytes)
{
	struct arena *a = data;
	size_t left = sizeof(a->bytes) - a->used;

	if (bytes > left)
		return NULL;
	void *p = a->bytes + a->used;
	/* Never beyond the end: its size is a multiple too. */
	a->used += (bytes + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
	return p;
}

static void arena_free(void *data, void *p)
{
	(void)data;
	(void)p;
}

static int decode_runs(const Tidemark__Pages *m, struct batch *b, struct tide_error *err)
{
	uint64_t last_page = UINT64_MAX / b->page_bytes; /* no run ends behind its start */
	uint64_t at = 0;                                 /* in pages */

	if (m->n_run_gap_pages != m->n_run_pages || m->n_run_pages == 0)
		return tide_bad(err, "a PAGES frame with %zu gaps for %zu runs of pages",
			m->n_run_gap_pages, m->n_run_pages);
	/* Each has a page, so this bounds the arrays. */
	if (m->n_run_pages > BATCH_PAGES_MAX)
		return tide_bad(err, "a PAGES frame with %zu runs of pages, above the limit of %u",
			m->n_run_pages, BATCH_PAGES_MAX);

	b->nruns = (uint32_t)m->n_run_pages;
	b->npages = 0;
	for (uint32_t i = 0; i < b->nruns; i++) {
		uint64_t gap = m->run_gap_pages[i], pages = m->run_pages[i];
		if (pages == 0 || (i > 0 && gap == 0))
			return tide_bad(err, "a PAGES frame whose run %" PRIu32 " is %s", i,
				pages ? "not apart from the one before" : "empty");
		if (pages > BATCH_PAGES_MAX - b->npages)
			return tide_bad(
				err, "a PAGES frame with more than %u pages", BATCH_PAGES_MAX);
		if (gap > last_page - at || pages > last_page - at - gap)
			return tide_bad(err,
				"a PAGES frame whose run %" PRIu32 " reaches beyond 2^64 bytes", i);

		b->runs[i].start = (at + gap) * b->page_bytes;
		b->runs[i].end = (at + gap + pages) * b->page_bytes;
		b->npages += (uint32_t)pages;
		at += gap + pages;
	}
	return 0;
}

/* Can `codec` have made `bytes` of these pages? */
static bool block_bytes_valid(enum codec_id codec, uint32_t bytes, uint32_t raw_bytes)
{
	switch (codec) {
	case CODEC_RAW:
		return bytes == raw_bytes;
	case CODEC_ZERO:
		return bytes == 0;
	default:
		return bytes > 0 && bytes < raw_bytes;
	}
}

/* Whoever took the stream looked at its features, and was right to expect no others. */
static int check_codec(uint32_t id, uint64_t features, struct tide_error *err)
{
	const struct codec *codec = codec_find((enum codec_id)id);
	if (!codec)
		return tide_bad(err,
			"a PAGES frame with a block of codec %" PRIu32 ", which is not known here",
			id);
	if (codec->feature & ~features)
		return tide_bad(err,
			"a PAGES frame with a %s block, in a stream without that feature",
			codec->name);
	return 0;
}

static int decode_blocks(const Tidemark__Pages *m, uint32_t payload_bytes, uint64_t features,
	struct batch *b, struct tide_error *err)
{
	if (m->n_block_codec != m->n_block_pages || m->n_block_codec != m->n_block_bytes)
		return tide_bad(err,
			"a PAGES frame with %zu codecs, %zu counts of pages and %zu lengths for "
			"its blocks",
			m->n_block_codec, m->n_block_pages, m->n_block_bytes);
	if (m->n_block_pages > b->npages)
		return tide_bad(err, "a PAGES frame with %zu blocks for %" PRIu32 " pages",
			m->n_block_pages, b->npages);

	uint32_t npages = 0, offset = 0;
	b->nblocks = (uint32_t)m->n_block_pages;
	for (uint32_t i = 0; i < b->nblocks; i++) {
		uint32_t codec = m->block_codec[i], pages = m->block_pages[i];
		uint32_t bytes = m->block_bytes[i];
		int r = check_codec(codec, features, err);
		if (r < 0)
			return r;
		if (pages == 0 || pages > b->npages - npages ||
			(codec != CODEC_ZERO && pages > BLOCK_PAGES_MAX))
			return tide_bad(err,
				"a PAGES frame with a block of %" PRIu32 " pages, of which "
				"%" PRIu32 " are left",
				pages, b->npages - npages);
		if (!block_bytes_valid((enum codec_id)codec, bytes, pages * b->page_bytes) ||
			bytes > payload_bytes - offset)
			return tide_bad(err,
				"a PAGES frame with a block of %" PRIu32 " bytes for %" PRIu32
				" pages of codec %" PRIu32,
				bytes, pages, codec);

		b->blocks[i] = (struct batch_block){
			.codec = (enum codec_id)codec,
			.pages = pages,
			.bytes = bytes,
			.offset = offset,
		};
		npages += pages;
		offset += bytes;
	}
	if (npages != b->npages)
		return tide_bad(err,
			"a PAGES frame whose runs have %" PRIu32 " pages and whose blocks %" PRIu32,
			b->npages, npages);
	if (offset != payload_bytes)
		return tide_bad(err,
			"a PAGES frame whose blocks have %" PRIu32 " bytes and whose payload "
			"%" PRIu32,
			offset, payload_bytes);
	return 0;
}

int batch_decode(const struct frame *f, uint32_t page_bytes, uint64_t features, struct batch *ret,
	struct tide_error *err)
{
	assert(f->type == FRAME_PAGES && page_bytes_valid(page_bytes));
	if (f->head_bytes > BATCH_HEAD_MAX)
		return tide_bad(err,
			"a PAGES frame with a head of %" PRIu32 " bytes, above the limit of %u",
			f->head_bytes, BATCH_HEAD_MAX);

	struct arena arena;
	arena.used = 0;
	ProtobufCAllocator allocator = {arena_alloc, arena_free, &arena};
	const Tidemark__Pages *m = tidemark__pages__unpack(&allocator, f->head_bytes, f->head);
	if (!m)
		return tide_bad(err, "a PAGES frame whose head cannot be decoded");

	ret->round = m->round;
	ret->space = m->space;
	ret->page_bytes = page_bytes;
	int r = decode_runs(m, ret, err);
	if (r < 0)
		return r;
	return decode_blocks(m, f->payload_bytes, features, ret, err);
}

/* Where the k-th page of the runs lies. */
static uint64_t batch_place(const struct batch *b, uint32_t page)
{
	uint64_t bytes = (uint64_t)page * b->page_bytes;
	const struct page_run *run = b->runs;
	for (; bytes >= run->end - run->start; run++)
		bytes -= run->end - run->start;
	return run->start + bytes;
}

/* The number of the first page of a block. */
static uint32_t block_first(const struct batch *b, uint32_t index)
{
	uint32_t first = 0;
	for (uint32_t i = 0; i < index; i++)
		first += b->blocks[i].pages;
	return first;
}

uint32_t batch_block_runs(const struct batch *b, uint32_t index, struct page_run *ret)
{
	assert(index < b->nblocks);
	uint64_t skip = (uint64_t)block_first(b, index) * b->page_bytes;
	uint64_t left = (uint64_t)b->blocks[index].pages * b->page_bytes;
	uint32_t n = 0;
	for (uint32_t i = 0; left; i++) {
		struct page_run run = b->runs[i];
		uint64_t bytes = run.end - run.start;
		if (skip >= bytes) {
			skip -= bytes;
			continue;
		}
		run.start += skip;
		skip = 0;
		if (run.end - run.start > left)
			run.end = run.start + left;
		left -= run.end - run.start;
		ret[n++] = run;
	}
	return n;
}

bool batch_has_delta(const struct batch *b)
{
	for (uint32_t i = 0; i < b->nblocks; i++) {
		if (b->blocks[i].codec == CODEC_DELTA)
			return true;
	}
	return false;
}

int batch_block_read(const struct batch *b, uint32_t index, const uint8_t *payload,
	const uint8_t *former, uint8_t *dst, struct tide_error *err)
{
	assert(index < b->nblocks);
	const struct batch_block *block = &b->blocks[index];
	const struct codec *codec = codec_find(block->codec);
	const uint8_t *src = payload + block->offset;
	size_t bytes = (size_t)block->pages * b->page_bytes;
	int r = block->codec == CODEC_DELTA && former
			? delta_decode(src, block->bytes, former, dst, bytes)
			: codec->decompress(src, block->bytes, dst, bytes);
	if (r == 0)
		return 0;
	if (r == -ENOMEM)
		return tide_fail(err, r, "decompress pages");

	return tide_bad(err,
		"the %s block of %" PRIu32 " pages from 0x%" PRIx64 " on (space %" PRIu64 ") %s",
		codec->name, block->pages, batch_place(b, block_first(b, index)), b->space,
		r == -ESTALE ? "is a change of other pages than those that are held"
			     : "does not decompress");
}
