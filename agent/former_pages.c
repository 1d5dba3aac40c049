/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agent/former_pages.h"
#include "base/error.h"

/* Decoded heads of frames that pages were read from lately, by where they lie: pages that are
 * written again and again are spread over the frames of some rounds. About 1 MiB. */
#define HEADS 128

struct head {
	uint64_t offset;  /* of the frame; 0: none */
	uint64_t payload; /* where it begins */
	struct batch batch;
};

struct former_pages {
	uint32_t page_bytes;
	struct head *heads[HEADS];
	uint8_t *head;   /* BATCH_HEAD_MAX */
	uint8_t *packed; /* a block as it lies in the file */
	uint8_t *block;  /* the pages of the last block of several, ... */
	uint64_t of;     /* ... which begins here; 0: none */
};

int former_pages_new(uint32_t page_bytes, struct former_pages **ret)
{
	auto_(former_pages_freep) struct former_pages *f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	size_t block_bytes = (size_t)BLOCK_PAGES_MAX * page_bytes;
	f->page_bytes = page_bytes;
	f->head = malloc(BATCH_HEAD_MAX);
	f->packed = malloc(block_bytes);
	f->block = malloc(block_bytes);
	if (!f->head || !f->packed || !f->block)
		return -ENOMEM;
	*ret = take(f);
	return 0;
}

void former_pages_free(struct former_pages *f)
{
	if (!f)
		return;
	for (size_t i = 0; i < HEADS; i++)
		free(f->heads[i]);
	free(f->head);
	free(f->packed);
	free(f->block);
	free(f);
}

static int read_all(int fd, uint64_t offset, void *buf, size_t bytes, struct tide_error *err)
{
	uint8_t *to = buf;
	while (bytes) {
		ssize_t n = pread(fd, to, bytes, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return tide_fail(err, n < 0 ? -errno : -EIO, "read back pages");
		to += n;
		offset += (uint64_t)n;
		bytes -= (size_t)n;
	}
	return 0;
}

/* What was read is not what was written: that is no fault of the stream. */
static int broken(struct tide_error *err, int r)
{
	return tide_fail(err, r == -ENOMEM ? r : -EIO, "read back pages");
}

/* --- heads -------------------------------------------------------------------------------- */

/* Without its checksum, for which all of the frame would have to be read: a delta has a hash of the
 * pages that it makes. */
static int head_read(
	struct former_pages *f, int fd, uint64_t offset, struct head *ret, struct tide_error *err)
{
	uint8_t buf[FRAME_HEADER_BYTES];
	struct frame_header h;
	int r = read_all(fd, offset, buf, sizeof(buf), err);
	if (r < 0)
		return r;
	r = frame_header_decode(buf, &frame_limits_max, &h, NULL);
	if (r < 0 || h.type != FRAME_PAGES || h.head_bytes > BATCH_HEAD_MAX)
		return broken(err, -EBADMSG);
	r = read_all(fd, offset + sizeof(buf), f->head, h.head_bytes, err);
	if (r < 0)
		return r;
	struct frame frame = {.type = FRAME_PAGES,
		.head = f->head,
		.head_bytes = h.head_bytes,
		.payload_bytes = h.payload_bytes};
	r = batch_decode(&frame, f->page_bytes, FEATURES_STORED, &ret->batch, NULL);
	if (r < 0)
		return broken(err, r);
	ret->offset = offset;
	ret->payload = offset + sizeof(buf) + h.head_bytes;
	return 0;
}

static int head_get(struct former_pages *f, int fd, uint64_t offset, const struct head **ret,
	struct tide_error *err)
{
	/* Frames lie some thousand bytes apart at least, mostly. */
	struct head **slot = &f->heads[(offset * UINT64_C(0x9e3779b97f4a7c15) >> 32) % HEADS];
	if (!*slot && !(*slot = calloc(1, sizeof(**slot))))
		return tide_fail(err, -ENOMEM, "read back pages");
	if ((*slot)->offset != offset) {
		(*slot)->offset = 0;
		int r = head_read(f, fd, offset, *slot, err);
		if (r < 0)
			return r;
	}
	*ret = *slot;
	return 0;
}

/* --- blocks ------------------------------------------------------------------------------- */

/* The pages of a block, at `to`. */
static int block_decode(struct former_pages *f, int fd, const struct head *h, uint32_t index,
	uint8_t *to, struct tide_error *err)
{
	const struct batch_block *b = &h->batch.blocks[index];
	int r = read_all(fd, h->payload + b->offset, f->packed, b->bytes, err);
	if (r < 0)
		return r;
	r = codec_find(b->codec)->decompress(
		f->packed, b->bytes, to, (size_t)b->pages * f->page_bytes);
	return r < 0 ? broken(err, r) : 0;
}

/* Pages first .. first + n - 1 of a block. */
static int block_read(struct former_pages *f, int fd, const struct head *h, uint32_t index,
	uint32_t first, uint32_t n, uint8_t *dst, struct tide_error *err)
{
	const struct batch_block *b = &h->batch.blocks[index];
	size_t skip = (size_t)first * f->page_bytes, bytes = (size_t)n * f->page_bytes;
	uint64_t at = h->payload + b->offset;
	if (b->codec == CODEC_ZERO) {
		memset(dst, 0, bytes);
		return 0;
	}
	if (b->codec == CODEC_RAW)
		return read_all(fd, at + skip, dst, bytes, err);
	if (n == b->pages)
		return block_decode(f, fd, h, index, dst, err);
	if (f->of != at) {
		f->of = 0;
		int r = block_decode(f, fd, h, index, f->block, err);
		if (r < 0)
			return r;
		f->of = at;
	}
	memcpy(dst, f->block + skip, bytes);
	return 0;
}

/* Pages first .. first + n - 1 of a frame. */
static int frame_read(struct former_pages *f, int fd, const struct index_extent *e, uint32_t n,
	uint8_t *dst, struct tide_error *err)
{
	const struct head *h = NULL;
	int r = head_get(f, fd, e->frame_offset, &h, err);
	if (r < 0)
		return r;
	uint32_t first = e->first, left = n;
	for (uint32_t i = 0; i < h->batch.nblocks && left; i++) {
		uint32_t pages = h->batch.blocks[i].pages;
		if (first >= pages) {
			first -= pages;
			continue;
		}
		uint32_t some = pages - first < left ? pages - first : left;
		r = block_read(f, fd, h, i, first, some, dst, err);
		if (r < 0)
			return r;
		dst += (size_t)some * f->page_bytes;
		left -= some;
		first = 0;
	}
	return left ? broken(err, -EBADMSG) : 0;
}

int former_pages_read(struct former_pages *f, int fd, const struct image_index *index,
	space_id space, struct page_run run, uint8_t *dst, struct tide_error *err)
{
	while (run.start < run.end) {
		struct index_extent e;
		if (!image_index_find(index, space, run.start, &e))
			return tide_bad(err,
				"the page at 0x%" PRIx64 " (space %" PRIu64
				") has changed, says the sender, and it is not held",
				run.start, space);
		uint64_t wanted = (run.end - run.start) / f->page_bytes;
		uint32_t n = e.pages < wanted ? e.pages : (uint32_t)wanted;
		int r = frame_read(f, fd, &e, n, dst, err);
		if (r < 0)
			return r;
		dst += (size_t)n * f->page_bytes;
		run.start += (uint64_t)n * f->page_bytes;
	}
	return 0;
}
