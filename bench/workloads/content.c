/* SPDX-License-Identifier: MIT */
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include "bench/workloads/content.h"

enum {
	WORDS_PER_PAGE = CONTENT_PAGE / 8,
	TEXT_BYTES = 8 << 20, /* pages of text begin anywhere in so much of it */
	VOCABULARY = 2048,
	SUCCESSORS = 6,
	WORD_MAX = 16,
};

static uint64_t seed = 1;

uint64_t content_mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static uint64_t page_seed(uint64_t index, uint64_t generation)
{
	return content_mix(seed ^ content_mix(index << 24 ^ generation));
}

static void fill_words(uint8_t *to, unsigned words, uint64_t state)
{
	for (unsigned i = 0; i < words; i++) {
		uint64_t word = content_mix(state += 0x9e3779b97f4a7c15ull);
		memcpy(to + (size_t)i * 8, &word, 8);
	}
}

static void fill_random(uint8_t *page, uint64_t index, uint64_t generation)
{
	fill_words(page, WORDS_PER_PAGE, page_seed(index, generation));
}

/* One half random, the other a record that repeats: what a heap of keys and structures is like. */
static void fill_half(uint8_t *page, uint64_t index, uint64_t generation)
{
	uint64_t state = page_seed(index, generation);
	uint64_t record[4] = {index, generation, 0x100000000, state};
	fill_words(page, WORDS_PER_PAGE / 2, state);
	for (size_t at = CONTENT_PAGE / 2; at < CONTENT_PAGE; at += sizeof(record))
		memcpy(page + at, record, sizeof(record));
}

/* Nine pages of ten are zero, and the tenth is half compressible. */
static void fill_zero(uint8_t *page, uint64_t index, uint64_t generation)
{
	if (content_mix(seed ^ index) % 10 == 0)
		fill_half(page, index, generation);
	else
		memset(page, 0, CONTENT_PAGE);
}

/* --- text
 * ---------------------------------------------------------------------------------------- */

/* Small numbers are much more frequent, as ranks of words are. */
static unsigned rank(uint64_t *state, unsigned below)
{
	uint64_t r = *state = content_mix(*state + 0x9e3779b97f4a7c15ull);
	unsigned range = 2;
	while (range < below && r % 4 != 0) {
		range *= 2;
		r /= 4;
	}
	return (unsigned)((r >> 32) % (range < below ? range : below));
}

static size_t word_make(char *word, unsigned number)
{
	static const char *const syllables[] = {"ta", "ri", "no", "de", "ment", "so", "lu", "per",
		"ka", "in", "est", "mo", "vi", "con", "er", "pa"};
	uint64_t r = content_mix(seed + number);
	size_t len = 0;
	/* Frequent words are short. */
	for (unsigned left = 1 + (number > 16) + r % 2; left > 0; left--) {
		r = content_mix(r);
		const char *syllable = syllables[r % 16];
		len = (size_t)(stpcpy(word + len, syllable) - word);
	}
	word[len++] = r >> 32 & 15 ? ' ' : '\n';
	return len;
}

/* Words follow on each other as in a language: mostly one of a few that went with the last one
 * before. LZ4 makes it about a third. */
static void text_make(uint8_t *text)
{
	static char words[VOCABULARY][WORD_MAX];
	static size_t lengths[VOCABULARY];
	static unsigned next[VOCABULARY][SUCCESSORS];
	uint64_t state = seed;
	for (unsigned i = 0; i < VOCABULARY; i++) {
		lengths[i] = word_make(words[i], i);
		for (unsigned k = 0; k < SUCCESSORS; k++)
			next[i][k] = rank(&state, VOCABULARY);
	}
	unsigned word = 0;
	for (size_t at = 0; at < TEXT_BYTES;) {
		size_t room = TEXT_BYTES - at;
		size_t len = lengths[word] < room ? lengths[word] : room;
		memcpy(text + at, words[word], len);
		at += len;
		bool follows = content_mix(state++) % 16 < 15;
		word = follows ? next[word][rank(&state, SUCCESSORS)] : rank(&state, VOCABULARY);
	}
}

static void fill_text(uint8_t *page, uint64_t index, uint64_t generation)
{
	static uint8_t *text;
	if (!text) {
		text = malloc(TEXT_BYTES);
		if (!text)
			abort();
		text_make(text);
	}
	uint64_t from = page_seed(index, generation) % (TEXT_BYTES - CONTENT_PAGE);
	memcpy(page, text + from, CONTENT_PAGE);
}

static const struct content contents[] = {
	{"zero", fill_zero}, {"text", fill_text}, {"half", fill_half}, {"random", fill_random}};

const struct content *content_by_name(const char *name)
{
	for (size_t i = 0; i < sizeof(contents) / sizeof(contents[0]); i++) {
		if (strcmp(contents[i].name, name) == 0)
			return &contents[i];
	}
	return NULL;
}

const char *content_names(void)
{
	return "zero, text, half, random";
}

void content_seed(uint64_t value)
{
	seed = content_mix(value + 1);
}
