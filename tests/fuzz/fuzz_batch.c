/* SPDX-License-Identifier: MIT */
/*
 * A PAGES frame with a right checksum: its head is decoded and every block read. Input: one byte
 * that picks the page size (modulo 5) and the features that the stream lacks (divided by 8), u16
 * head_bytes, the head, the payload.
 *
 * What holds: no block is of a codec that the stream does not have; runs are in order, apart, and
 * have the pages that they say; the blocks cover the pages and the payload, each once; a batch that
 * decodes, encoded again, has the same runs and pages.
 */
#include <string.h>
#include "base/le.h"
#include "proto/batch.h"
#include "proto/message.h"
#include "tests/fuzz/fuzz.h"

static struct batch batch, again;

static void batch_check(const struct batch *b, const struct frame *f, uint64_t features)
{
	uint64_t pages = 0;
	FUZZ_HOLDS(b->npages > 0 && b->npages <= BATCH_PAGES_MAX);
	for (uint32_t i = 0; i < b->nruns; i++) {
		FUZZ_HOLDS(b->runs[i].start < b->runs[i].end);
		FUZZ_HOLDS((b->runs[i].start | b->runs[i].end) % b->page_bytes == 0);
		FUZZ_HOLDS(i == 0 || b->runs[i - 1].end < b->runs[i].start);
		pages += (b->runs[i].end - b->runs[i].start) / b->page_bytes;
	}
	FUZZ_HOLDS(pages == b->npages);

	uint64_t bytes = 0;
	pages = 0;
	for (uint32_t i = 0; i < b->nblocks; i++) {
		FUZZ_HOLDS(b->blocks[i].pages > 0);
		FUZZ_HOLDS((codec_find(b->blocks[i].codec)->feature & ~features) == 0);
		FUZZ_HOLDS(b->blocks[i].offset == bytes);
		pages += b->blocks[i].pages;
		bytes += b->blocks[i].bytes;
	}
	FUZZ_HOLDS(pages == b->npages && bytes == f->payload_bytes);
}

/* Reads all blocks into `dst`, deltas as those of zero pages. False where one does not decompress.
 */
static bool batch_read(const struct batch *b, const struct frame *f, uint8_t *dst)
{
	struct tide_error err;
	for (uint32_t i = 0; i < b->nblocks; i++) {
		size_t bytes = (size_t)b->blocks[i].pages * b->page_bytes;
		/* Aside, so that a sanitizer sees a byte beyond. */
		uint8_t *block = malloc(bytes), *former = calloc(1, bytes);
		FUZZ_HOLDS(block && former);
		int r = batch_block_read(b, i, f->payload, former, block, &err);
		FUZZ_HOLDS(r == 0 || (r == err.code && err.text[0]));
		if (r == 0)
			memcpy(dst, block, bytes);
		free(block);
		free(former);
		if (r < 0)
			return false;
		dst += bytes;
	}
	return true;
}

static void batch_again(
	const struct batch *b, const uint8_t *pages, uint8_t *back, const struct codec *codec)
{
	struct frame_buffer buffer = {0};
	struct batch_stats stats = {0};
	struct frame f;

	FUZZ_HOLDS(batch_encode(1, b, pages, &(struct batch_encoding){.codec = codec}, &buffer,
			   &stats) == 0);
	FUZZ_HOLDS(frame_decode(buffer.data, buffer.data + FRAME_HEADER_BYTES, &f, NULL) == 0);
	FUZZ_HOLDS(batch_decode(&f, b->page_bytes, FEATURES_KNOWN, &again, NULL) == 0);
	FUZZ_HOLDS(again.round == b->round && again.space == b->space);
	FUZZ_HOLDS(again.nruns == b->nruns);
	FUZZ_HOLDS(memcmp(again.runs, b->runs, b->nruns * sizeof(b->runs[0])) == 0);
	FUZZ_HOLDS(batch_read(&again, &f, back));
	FUZZ_HOLDS(memcmp(back, pages, (size_t)b->npages * b->page_bytes) == 0);
	frame_buffer_release(&buffer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	if (bytes < 3 || bytes - 3 > FRAME_PAYLOAD_MAX)
		return 0;
	uint32_t page_bytes = BATCH_PAGE_BYTES_MIN << data[0] % 5;
	uint64_t features = FEATURES_KNOWN & ~(uint64_t)(data[0] >> 3);
	size_t head_bytes = le16_get(data + 1);
	data += 3;
	bytes -= 3;
	if (head_bytes > bytes)
		head_bytes = bytes;

	/* Apart from each other, so that a sanitizer sees a byte beyond. */
	uint8_t *head = malloc(head_bytes ? head_bytes : 1);
	FUZZ_HOLDS(head);
	memcpy(head, data, head_bytes);
	struct frame f = {
		.type = FRAME_PAGES,
		.process = 1,
		.head = head,
		.head_bytes = (uint32_t)head_bytes,
		.payload = data + head_bytes,
		.payload_bytes = (uint32_t)(bytes - head_bytes),
	};

	struct tide_error err;
	int r = batch_decode(&f, page_bytes, features, &batch, &err);
	FUZZ_HOLDS(r == 0 || (r == err.code && err.text[0]));
	if (r == 0) {
		batch_check(&batch, &f, features);
		size_t total = (size_t)batch.npages * page_bytes;
		uint8_t *pages = malloc(total), *back = malloc(total);
		FUZZ_HOLDS(pages && back);
		if (batch_read(&batch, &f, pages) &&
			batch.npages <= batch_pages_fit(page_bytes, &frame_limits_max)) {
			for (const struct codec *const *c = codecs; *c; c++)
				batch_again(&batch, pages, back, *c);
		}
		free(pages);
		free(back);
	}
	free(head);
	return 0;
}
