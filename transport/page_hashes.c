/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/xxh3.h"
#include "transport/page_hashes.h"

#define CHUNK_PAGES 512

/*
 * The hashes of CHUNK_PAGES consecutive pages. All zero is unknown: a page that hashes to that is
 * merely sent each time.
 *
 * A hash is replaced as soon as its page is sent, not when that is acknowledged: nothing looks at
 * it in between, and whatever the old one said is no longer certain anyway. Threads write into one
 * chunk side by side, so what they mark is a byte each, never a bit.
 */
struct chunk {
	XXH128_hash_t hash[CHUNK_PAGES];
	bool sent[CHUNK_PAGES]; /* in this round */
	bool in_round;          /* the round may send pages of it */
	bool is_thinned;        /* something was forgotten: there may be nothing left */
};

struct entry {
	space_id space;
	uint64_t number; /* of the chunk: its first page's place, in sizes of a chunk */
	struct chunk *chunk;
};

struct page_hashes {
	struct page_hashes_options options;
	uint64_t chunk_bytes; /* of memory that a chunk tells of */

	/* By space and number. The last `nadded` of them are in order, but need not be behind the
	 * others: only begin() sees them so. */
	struct entry *entries;
	size_t len, cap, nadded;
};

int page_hashes_new(const struct page_hashes_options *options, struct page_hashes **ret)
{
	_Static_assert(PAGE_HASHES_SECRET_BYTES >= XXH3_SECRET_SIZE_MIN, "what the hash wants");
	struct page_hashes *t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->options = *options;
	t->chunk_bytes = CHUNK_PAGES * options->page_bytes;
	*ret = t;
	return 0;
}

void page_hashes_free(struct page_hashes *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->len; i++)
		free(t->entries[i].chunk);
	free(t->entries);
	explicit_bzero(&t->options, sizeof(t->options));
	free(t);
}

uint64_t page_hashes_bytes(const struct page_hashes *t)
{
	return t->len * (sizeof(struct chunk) + sizeof(struct entry));
}

/* --- entries ------------------------------------------------------------------------------ */

static bool entry_is_before(const struct entry *e, space_id space, uint64_t number)
{
	return e->space != space ? e->space < space : e->number < number;
}

/* The index of the first of `n` entries that is not before chunk `number`. */
static size_t entry_find(const struct entry *v, size_t n, space_id space, uint64_t number)
{
	size_t lo = 0, hi = n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (entry_is_before(&v[mid], space, number))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct chunk *chunk_at(
	const struct page_hashes *t, size_t index, space_id space, uint64_t number)
{
	if (index >= t->len || !t->entries)
		return NULL;
	const struct entry *e = &t->entries[index];
	return e->space == space && e->number == number ? e->chunk : NULL;
}

static int compare_entries(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;
	return entry_is_before(x, y->space, y->number)   ? -1
	       : entry_is_before(y, x->space, x->number) ? 1
							 : 0;
}

/* Puts what was added into its order. */
static void sort_added(struct page_hashes *t)
{
	size_t first = t->len - t->nadded;
	if (t->nadded && first && compare_entries(&t->entries[first - 1], &t->entries[first]) > 0)
		qsort(t->entries, t->len, sizeof(*t->entries), compare_entries);
	t->nadded = 0;
}

static bool has_room(struct page_hashes *t)
{
	if (page_hashes_bytes(t) + sizeof(struct chunk) + sizeof(struct entry) >
		t->options.bytes_max)
		return false;
	if (t->len < t->cap)
		return true;
	size_t cap = t->cap ? t->cap * 2 : 64;
	struct entry *v = reallocarray(t->entries, cap, sizeof(*v));
	if (!v)
		return false;
	t->entries = v;
	t->cap = cap;
	return true;
}

/* The chunk `number`; made where it was not there and `may_add`. NULL where there is none. */
static struct chunk *chunk_get(struct page_hashes *t, space_id space, uint64_t number, bool may_add)
{
	/* Spans come in order, so what was added last is mostly what is asked for, or before it. */
	struct entry *last = t->nadded ? &t->entries[t->len - 1] : NULL;
	if (last && !entry_is_before(last, space, number)) {
		if (last->space == space && last->number == number)
			return last->chunk;
		sort_added(t);
	}
	size_t index = entry_find(t->entries, t->len - t->nadded, space, number);
	struct chunk *chunk = chunk_at(t, index, space, number);
	if (chunk || !may_add || !has_room(t))
		return chunk;
	chunk = calloc(1, sizeof(*chunk));
	assert(t->entries); /* has_room() saw to it */
	if (chunk) {
		t->entries[t->len++] = (struct entry){space, number, chunk};
		t->nadded++;
	}
	return chunk;
}

/* --- forgetting --------------------------------------------------------------------------- */

static bool chunk_is_empty(const struct chunk *c)
{
	static const XXH128_hash_t unknown;
	for (size_t i = 0; i < CHUNK_PAGES; i++) {
		if (!XXH128_isEqual(c->hash[i], unknown))
			return false;
	}
	return true;
}

static void forget(struct page_hashes *t, space_id space, struct page_run run)
{
	size_t i = entry_find(t->entries, t->len, space, run.start / t->chunk_bytes);
	for (; i < t->len && t->entries[i].space == space; i++) {
		struct chunk *chunk = t->entries[i].chunk;
		uint64_t start = t->entries[i].number * t->chunk_bytes;
		if (start >= run.end)
			break;
		uint64_t from = run.start > start ? run.start - start : 0;
		uint64_t to = run.end - start < t->chunk_bytes ? run.end - start : t->chunk_bytes;
		size_t first = from / t->options.page_bytes, end = to / t->options.page_bytes;
		memset(&chunk->hash[first], 0, (end - first) * sizeof(chunk->hash[0]));
		chunk->is_thinned = true;
	}
}

static void free_empty_chunks(struct page_hashes *t)
{
	size_t left = 0;
	for (size_t i = 0; i < t->len; i++) {
		struct chunk *chunk = t->entries[i].chunk;
		if (chunk->is_thinned && chunk_is_empty(chunk)) {
			free(chunk);
			continue;
		}
		chunk->is_thinned = false;
		t->entries[left++] = t->entries[i];
	}
	t->len = left;
}

/* --- a round ------------------------------------------------------------------------------ */

/* Are hashes of its pages worth their room? */
static bool is_worth_it(
	const struct page_hashes *t, const struct change_set *c, const struct page_span *span)
{
	return t->options.compare_all || c->doubts_to_come || span->doubtful ||
	       span->space != SPACE_PRIVATE;
}

void page_hashes_begin(struct page_hashes *t, const struct change_set *c)
{
	for (size_t i = 0; i < c->mappings.removed.len; i++)
		forget(t, SPACE_PRIVATE, c->mappings.removed.runs[i]);
	for (size_t i = 0; i < c->ndrops; i++)
		forget(t, c->drops[i].space, c->drops[i].run);
	free_empty_chunks(t);

	for (size_t i = 0; i < c->nwritten; i++) {
		const struct page_span *span = &c->written[i];
		bool add = is_worth_it(t, c, span);
		if (t->len == 0 && !add)
			continue;
		uint64_t last = (span->at + span->bytes - 1) / t->chunk_bytes;
		for (uint64_t n = span->at / t->chunk_bytes; n <= last; n++) {
			struct chunk *chunk = chunk_get(t, span->space, n, add);
			if (chunk)
				chunk->in_round = true;
		}
	}
	sort_added(t);
}

/* The part of a span that one chunk tells of. */
struct part {
	struct chunk *chunk; /* NULL: nothing is known, nor will be */
	size_t first;        /* page of the chunk */
	size_t pages;
};

static struct part part_at(const struct page_hashes *t, const struct page_span *span, uint64_t done)
{
	uint64_t at = span->at + done, number = at / t->chunk_bytes;
	size_t index = entry_find(t->entries, t->len, span->space, number);
	size_t first = (at % t->chunk_bytes) / t->options.page_bytes;
	size_t left = (span->bytes - done) / t->options.page_bytes;
	return (struct part){
		.chunk = chunk_at(t, index, span->space, number),
		.first = first,
		.pages = left < CHUNK_PAGES - first ? left : CHUNK_PAGES - first,
	};
}

/* Is the page other than what the receiver is known to have? Then that is what it has next. */
static bool take_page(const struct page_hashes *t, struct chunk *chunk, size_t page, bool compare,
	const uint8_t *contents)
{
	static const XXH128_hash_t unknown;
	XXH128_hash_t now = XXH3_128bits_withSecret(
		contents, t->options.page_bytes, t->options.secret, sizeof(t->options.secret));
	XXH128_hash_t *held = &chunk->hash[page];
	if (compare && !XXH128_isEqual(*held, unknown) && XXH128_isEqual(*held, now))
		return false;
	*held = now;
	chunk->sent[page] = true;
	return true;
}

void page_hashes_take(struct page_hashes *t, const struct page_span *span, const uint8_t *contents,
	bool *ret_travels)
{
	bool compare = t->options.compare_all || span->doubtful;
	for (uint64_t done = 0; done < span->bytes;) {
		struct part part = part_at(t, span, done);
		for (size_t i = 0; i < part.pages; i++, done += t->options.page_bytes)
			*ret_travels++ = !part.chunk || take_page(t, part.chunk, part.first + i,
								compare, contents + done);
	}
}

void page_hashes_skip(struct page_hashes *t, const struct page_span *span)
{
	for (uint64_t done = 0; done < span->bytes;) {
		struct part part = part_at(t, span, done);
		if (part.chunk)
			memset(&part.chunk->hash[part.first], 0,
				part.pages * sizeof(part.chunk->hash[0]));
		done += part.pages * t->options.page_bytes;
	}
}

void page_hashes_settle(struct page_hashes *t, bool acknowledged)
{
	for (size_t i = 0; i < t->len; i++) {
		struct chunk *chunk = t->entries[i].chunk;
		if (!chunk->in_round)
			continue;
		for (size_t k = 0; !acknowledged && k < CHUNK_PAGES; k++) {
			if (chunk->sent[k])
				memset(&chunk->hash[k], 0, sizeof(chunk->hash[k]));
		}
		memset(chunk->sent, 0, sizeof(chunk->sent));
		chunk->in_round = false;
		chunk->is_thinned |= !acknowledged;
	}
}
