/* SPDX-License-Identifier: MIT */
/*
 * How fast batches of pages are encoded and decoded, by one thread, for memory of several kinds,
 * and memcpy of the same bytes beside it. `bench_codec [--json]`; figures are medians of 7 passes
 * over 64 MiB, which no cache holds.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/guard.h"
#include "proto/batch.h"
#include "proto/message.h"

#define PAGE 4096u
#define BATCH_BYTES ((size_t)BATCH_PAGES_MAX * PAGE)
#define BATCHES 64
#define PASSES 7

static uint64_t random_next(void)
{
	static uint64_t x = 88172645463325252u;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

static void fill_random(uint8_t *p, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += 8) {
		uint64_t v = random_next();
		memcpy(p + i, &v, 8);
	}
}

/* Words of a small vocabulary, the short ones more often. */
static void fill_text(uint8_t *p, size_t bytes)
{
	static const char *const words[] = {"the ", "page ", "of ", "a ", "process ", "is ",
		"written ", "and ", "sent ", "in ", "rounds ", "until ", "little ", "remains, ",
		"which ", "freezes.\n"};
	for (size_t i = 0; i < bytes;) {
		uint64_t r = random_next();
		const char *word = words[r & r >> 4 & 15];
		for (; *word && i < bytes; word++)
			p[i++] = (uint8_t)*word;
	}
}

static void page_zero(uint8_t *page)
{
	memset(page, 0, PAGE);
}

static void page_random(uint8_t *page)
{
	fill_random(page, PAGE);
}

static void page_text(uint8_t *page)
{
	fill_text(page, PAGE);
}

static void page_half(uint8_t *page)
{
	fill_random(page, PAGE / 2);
	memset(page + PAGE / 2, 0, PAGE / 2);
}

/* Like a heap: pointers that share their high bytes, small numbers, zeros. */
static void page_heap(uint8_t *page)
{
	for (size_t i = 0; i < PAGE; i += 8) {
		uint64_t kind = random_next() % 4, v = 0;
		if (kind == 0)
			v = 0x7f3a12000000u + random_next() % (1u << 24) / 16 * 16;
		else if (kind == 1)
			v = random_next() % 1000;
		memcpy(page + i, &v, 8);
	}
}

static const struct kind {
	const char *name;
	void (*fill)(uint8_t *page);
} kinds[] = {
	{"zero", page_zero},
	{"random", page_random},
	{"text", page_text},
	{"half-compressible", page_half},
	{"heap", page_heap},
};

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

/* Megabytes of pages a second, of the median pass. */
static double rate(uint64_t ns[PASSES])
{
	qsort(ns, PASSES, sizeof(*ns), compare);
	uint64_t median = ns[PASSES / 2];
	return (double)(BATCHES * BATCH_BYTES) * 1e3 / (double)median;
}

struct bench {
	uint8_t *pages, *back;
	struct frame_buffer frames[BATCHES];
	struct batch batch, decoded;
};

static int encode(struct bench *b, const struct codec *codec, struct batch_stats *stats)
{
	for (size_t i = 0; i < BATCHES; i++) {
		b->batch.runs[0].start = i * BATCH_BYTES;
		b->batch.runs[0].end = (i + 1) * BATCH_BYTES;
		int r = batch_encode(1, &b->batch, b->pages + i * BATCH_BYTES,
			&(struct batch_encoding){.codec = codec}, &b->frames[i], stats);
		if (r < 0)
			return r;
	}
	return 0;
}

/* As a receiver does: checksum, head, blocks. */
static int decode(struct bench *b)
{
	for (size_t i = 0; i < BATCHES; i++) {
		struct frame f;
		const uint8_t *data = b->frames[i].data;
		uint8_t *to = b->back + i * BATCH_BYTES;
		int r = frame_decode(data, data + FRAME_HEADER_BYTES, &f, NULL);
		if (r == 0)
			r = batch_decode(&f, PAGE, FEATURES_KNOWN, &b->decoded, NULL);
		for (uint32_t k = 0; r == 0 && k < b->decoded.nblocks; k++) {
			r = batch_block_read(&b->decoded, k, f.payload, NULL, to, NULL);
			to += (size_t)b->decoded.blocks[k].pages * PAGE;
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static int run(struct bench *b, const struct kind *kind, const struct codec *codec, bool json)
{
	uint64_t encode_ns[PASSES], decode_ns[PASSES], memcpy_ns[PASSES];
	struct batch_stats stats = {0};

	/* Once before, so that no pass pays for new memory. */
	int r = encode(b, codec, &stats);
	for (int i = 0; r == 0 && i < PASSES; i++) {
		stats = (struct batch_stats){0};
		uint64_t start = clock_now_ns();
		r = encode(b, codec, &stats);
		encode_ns[i] = clock_now_ns() - start;

		start = clock_now_ns();
		if (r == 0)
			r = decode(b);
		decode_ns[i] = clock_now_ns() - start;
		if (r == 0 && memcmp(b->back, b->pages, BATCHES * BATCH_BYTES) != 0)
			r = -1;

		start = clock_now_ns();
		memcpy(b->back, b->pages, BATCHES * BATCH_BYTES);
		memcpy_ns[i] = clock_now_ns() - start;
	}
	if (r < 0)
		return r;

	double ratio = (double)stats.bytes_in / (double)stats.bytes_out;
	printf(json ? "{\"memory\": \"%s\", \"codec\": \"%s\", \"encode_mb_per_second\": %.0f, "
		      "\"decode_mb_per_second\": %.0f, \"memcpy_mb_per_second\": %.0f, "
		      "\"ratio\": %.2f}\n"
		    : "%-18s %-6s %9.0f %9.0f %9.0f %9.2f\n",
		kind->name, codec->name, rate(encode_ns), rate(decode_ns), rate(memcpy_ns), ratio);
	return 0;
}

int main(int argc, char **argv)
{
	bool json = argc > 1 && strcmp(argv[1], "--json") == 0;
	if (argc > 1 + json) {
		fprintf(stderr, "usage: %s [--json]\n", argv[0]);
		return 2;
	}

	static struct bench b;
	b.pages = malloc(BATCHES * BATCH_BYTES);
	b.back = malloc(BATCHES * BATCH_BYTES);
	if (!b.pages || !b.back) {
		fprintf(stderr, "%s: out of memory\n", argv[0]);
		return 1;
	}
	b.batch.page_bytes = PAGE;
	b.batch.nruns = 1;

	if (!json)
		printf("%-18s %-6s %9s %9s %9s %9s\n", "memory", "codec", "encode", "decode",
			"memcpy", "ratio");
	int r = 0;
	for (size_t k = 0; r == 0 && k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		for (size_t i = 0; i < BATCHES * BATCH_PAGES_MAX; i++)
			kinds[k].fill(b.pages + i * PAGE);
		for (const struct codec *const *c = codecs; r == 0 && *c; c++)
			r = run(&b, &kinds[k], *c, json);
	}
	if (r == 0 && !json)
		printf("(MB/s of pages, one thread; ratio: bytes of pages to bytes on the wire)\n");
	if (r < 0)
		fprintf(stderr, "%s: a batch did not come back\n", argv[0]);

	for (size_t i = 0; i < BATCHES; i++)
		frame_buffer_release(&b.frames[i]);
	free(b.pages);
	free(b.back);
	return r < 0;
}
