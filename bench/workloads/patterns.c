/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "bench/workloads/patterns.h"

enum {
	PAGE = CONTENT_PAGE,
	WORDS = PAGE / 8,
	COUNTERS = 4,
	STRIDE = 16,      /* pages */
	BLOCK_PAGES = 64, /* are freed and allocated at once */
	WORD_BITS = 64,
};

struct pattern {
	const char *name, *about;
	void (*write)(struct field *f, uint64_t page);
	/* Which page is written as the i-th, counted within hot_pages. */
	uint64_t (*order)(struct field *f, uint64_t i);
	bool is_half_full; /* at the start */
	bool gives_back;   /* memory */
};

/* --- what there is
 * -------------------------------------------------------------------------------- */

static uint64_t word_count(const struct field *f)
{
	return (f->npages + WORD_BITS - 1) / WORD_BITS;
}

static void bit_set(struct page_bits *b, uint64_t page, bool value)
{
	uint64_t bit = UINT64_C(1) << page % WORD_BITS;
	if (value)
		b->words[page / WORD_BITS] |= bit;
	else
		b->words[page / WORD_BITS] &= ~bit;
}

static void note_written(struct field *f, uint64_t page)
{
	bit_set(&f->is_written, page, true);
	bit_set(&f->is_held, page, true);
}

/* The kernel takes the pages; they are zero and not there from then on. */
static void give_back(struct field *f, uint64_t page, uint64_t n)
{
	if (madvise(f->memory + page * PAGE, n * PAGE, MADV_DONTNEED) < 0) {
		perror("writer: give memory back");
		exit(1);
	}
	for (uint64_t i = page; i < page + n; i++) {
		bit_set(&f->is_written, i, false);
		bit_set(&f->is_held, i, false);
	}
}

struct truth field_mark(struct field *f)
{
	struct truth t = {.writes = f->written - f->writes_at_mark};
	for (uint64_t i = 0; i < word_count(f); i++) {
		uint64_t held = f->is_held.words[i], was = f->was_held.words[i];
		t.written += (uint64_t)__builtin_popcountll(f->is_written.words[i]);
		t.held += (uint64_t)__builtin_popcountll(held);
		t.fresh += (uint64_t)__builtin_popcountll(held & ~was);
		t.dropped += (uint64_t)__builtin_popcountll(was & ~held);
	}
	memset(f->is_written.words, 0, word_count(f) * sizeof(uint64_t));
	memcpy(f->was_held.words, f->is_held.words, word_count(f) * sizeof(uint64_t));
	f->writes_at_mark = f->written;
	return t;
}

/* --- which page is next
 * --------------------------------------------------------------------------- */

static uint64_t random_below(const struct field *f, uint64_t i, uint64_t n)
{
	return content_mix(i ^ f->seed << 32) % n;
}

static double random_share(const struct field *f, uint64_t i)
{
	return (double)(content_mix(i ^ f->seed << 32) >> 11) * 0x1p-53;
}

/* A Feistel network turns the numbers below a power of two around; those that fall outside are
 * turned again. */
static uint64_t permuted_by(const struct field *f, uint64_t at, uint64_t key)
{
	uint64_t mask = (UINT64_C(1) << f->half_bits) - 1;
	do {
		uint64_t left = at >> f->half_bits, right = at & mask;
		for (uint64_t round = 0; round < 4; round++) {
			uint64_t turned = left ^ (content_mix(right ^ key ^ round << 56) & mask);
			left = right;
			right = turned;
		}
		at = left << f->half_bits | right;
	} while (at >= f->hot_pages);
	return at;
}

/* Each once before any twice; each time through in an order of its own. */
static uint64_t uniform(struct field *f, uint64_t i)
{
	return permuted_by(f, i % f->hot_pages, content_mix(i / f->hot_pages + 77));
}

static uint64_t sequential(struct field *f, uint64_t i)
{
	return i % f->hot_pages;
}

/* Zipf's law with exponent 1: the rank's logarithm is even. Ranks lie anywhere. */
static uint64_t zipf(struct field *f, uint64_t i)
{
	uint64_t rank = (uint64_t)pow((double)f->hot_pages, random_share(f, i)) - 1;
	return permuted_by(f, rank < f->hot_pages ? rank : 0, 77);
}

/* Nine writes of ten go to a tenth of the pages. */
static uint64_t hot_and_cold(struct field *f, uint64_t i)
{
	uint64_t hot = f->hot_pages / 10 ? f->hot_pages / 10 : 1;
	bool is_cold = content_mix(i ^ 0x5eed) % 10 == 0;
	return random_below(f, i, is_cold ? f->hot_pages : hot);
}

static uint64_t strided(struct field *f, uint64_t i)
{
	uint64_t rows = (f->hot_pages + STRIDE - 1) / STRIDE, page;
	do
		page = i % rows * STRIDE + i / rows % STRIDE;
	while (page >= f->hot_pages && ++i);
	return page;
}

/* Behind what is there. When there is no room any more, what was appended is given back. */
static uint64_t append(struct field *f, uint64_t i)
{
	uint64_t from = f->hot_pages / 2, room = f->hot_pages - from;
	if (i > 0 && i % room == 0)
		give_back(f, from, room);
	return from + i % room;
}

/* Blocks are filled from the front to the back; each time one is begun, it, or rather what was
 * there, is freed and allocated anew. */
static uint64_t churn(struct field *f, uint64_t i)
{
	uint64_t blocks = f->hot_pages / BLOCK_PAGES ? f->hot_pages / BLOCK_PAGES : 1;
	uint64_t per = f->hot_pages < BLOCK_PAGES ? f->hot_pages : BLOCK_PAGES;
	uint64_t block = random_below(f, i / per, blocks) * per;
	if (i % per == 0)
		give_back(f, block, per);
	return block + i % per;
}

/* --- what is written there
 * ------------------------------------------------------------------------ */

static void write_fresh(struct field *f, uint64_t page)
{
	f->content->fill(f->memory + page * PAGE, page, f->written + 1);
}

static void write_counters(struct field *f, uint64_t page)
{
	uint64_t *words = (uint64_t *)(void *)(f->memory + page * PAGE);
	for (unsigned i = 0; i < COUNTERS; i++)
		words[(page * 13 + (uint64_t)i * WORDS / COUNTERS) % WORDS]++;
}

static void write_same(struct field *f, uint64_t page)
{
	volatile uint64_t *words = (uint64_t *)(void *)(f->memory + page * PAGE);
	for (unsigned i = 0; i < WORDS; i++) {
		uint64_t word = words[i];
		words[i] = word;
	}
}

static const struct pattern patterns[] = {
	{"uniform", "at random, each page once before any twice", write_fresh, uniform, 0, 0},
	{"zipf", "at random, few pages often and many seldom (Zipf's law)", write_fresh, zipf, 0,
		0},
	{"sequential", "one after the other", write_fresh, sequential, 0, 0},
	{"hot-and-cold", "nine writes of ten go to a tenth of the pages", write_fresh, hot_and_cold,
		0, 0},
	{"stride", "each 16th page, then those behind them", write_fresh, strided, 0, 0},
	{"counter", "as uniform, four words a page", write_counters, uniform, 0, 0},
	{"rewrite", "as uniform, the bytes that are there already", write_same, uniform, 0, 0},
	{"append", "new pages behind the first half; all given back at the end", write_fresh,
		append, true, true},
	{"churn", "blocks of 64 pages, freed and allocated anew", write_fresh, churn, false, true},
};

#define NPATTERNS (sizeof(patterns) / sizeof(patterns[0]))

const struct pattern *pattern_by_name(const char *name)
{
	for (size_t i = 0; i < NPATTERNS; i++) {
		if (strcmp(patterns[i].name, name) == 0)
			return &patterns[i];
	}
	return NULL;
}

void patterns_tell(char *ret, unsigned size)
{
	unsigned at = 0;
	for (size_t i = 0; i < NPATTERNS && at < size; i++)
		at += (unsigned)snprintf(ret + at, size - at, "           %-13s %s\n",
			patterns[i].name, patterns[i].about);
}

static bool bits_make(const struct field *f, struct page_bits *ret)
{
	ret->words = calloc(word_count(f), sizeof(uint64_t));
	return ret->words != NULL;
}

bool field_begin(struct field *f)
{
	if (f->pattern->gives_back && (f->is_shared || f->every > 1))
		return false;
	if (!bits_make(f, &f->is_written) || !bits_make(f, &f->is_held) ||
		!bits_make(f, &f->was_held))
		return false;
	while (UINT64_C(1) << 2 * f->half_bits < f->hot_pages)
		f->half_bits++;
	for (uint64_t i = 0; i < f->npages; i++) {
		if (f->pattern->is_half_full && i >= f->hot_pages / 2 && i < f->hot_pages)
			continue;
		f->content->fill(f->memory + i * PAGE, i, 0);
		note_written(f, i);
	}
	(void)field_mark(f);
	return true;
}

void field_write_next(struct field *f)
{
	uint64_t page = f->pattern->order(f, f->written) * f->every;
	f->pattern->write(f, page);
	note_written(f, page);
	f->written++;
}
