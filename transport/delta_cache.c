/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "transport/delta_cache.h"

/* So much of the memory at most, one part in, is for counting. */
#define TABLE_SHARE 16

#define NO_SLOT UINT32_MAX

/*
 * How often a page is written, as a number that a round in which it is written raises by SCORE_STEP
 * and that loses an eighth each round: 255 for a page written in all rounds, half of that for one
 * written in every sixth or so.
 */
#define SCORE_STEP 32
#define SCORE_MAX 255

/* Not written for long. */
#define SCORE_FORGOTTEN 4

enum state {
	STATE_UNKNOWN, /* what the receiver holds */
	STATE_HELD,    /* it holds what the slot has */
	STATE_SENT,    /* in this round, with unknown bytes */
	STATE_KEPT,    /* in this round, with what the slot has */
};

/* A page that is counted; one with a slot is kept, too. Only its `state` is the workers'. */
struct entry {
	uint64_t at; /* place in the space */
	space_id space;
	uint32_t slot;
	bool used : 1;
	bool in_round : 1; /* the round may send it */
	bool counted : 1;  /* as written in this round */
	uint8_t score;
	uint8_t state;
};

struct delta_cache {
	uint64_t page_bytes;
	uint64_t rounds;
	bool final;

	/* Open addressing, by hash; a power of two of them, at most three quarters used. */
	struct entry *table;
	size_t cap, len;

	uint8_t *pages; /* of the slots */
	uint32_t *free_slots;
	size_t nslots, nfree;
};

/* --- the table ---------------------------------------------------------------------------- */

static size_t entry_home(const struct delta_cache *t, space_id space, uint64_t at)
{
	uint64_t x = (at / t->page_bytes) * UINT64_C(0x9e3779b97f4a7c15);
	x ^= (x >> 32) ^ space * UINT64_C(0xd6e8feb86659fd93);
	x *= UINT64_C(0x9e3779b97f4a7c15);
	return (size_t)(x >> 32) & (t->cap - 1);
}

/* Where the page is, or where it would go. */
static struct entry *entry_place(const struct delta_cache *t, space_id space, uint64_t at)
{
	size_t i = entry_home(t, space, at);
	while (t->table[i].used && (t->table[i].at != at || t->table[i].space != space))
		i = (i + 1) & (t->cap - 1);
	return &t->table[i];
}

/* NULL where it is not counted. */
static struct entry *entry_find(const struct delta_cache *t, space_id space, uint64_t at)
{
	if (t->len == 0)
		return NULL;
	struct entry *e = entry_place(t, space, at);
	return e->used ? e : NULL;
}

/* Takes an entry out, and moves those that follow to where they are found. */
static void entry_remove(struct delta_cache *t, size_t hole)
{
	if (t->table[hole].slot != NO_SLOT)
		t->free_slots[t->nfree++] = t->table[hole].slot;
	for (size_t i = (hole + 1) & (t->cap - 1); t->table[i].used; i = (i + 1) & (t->cap - 1)) {
		size_t home = entry_home(t, t->table[i].space, t->table[i].at);
		size_t way = (i - home) & (t->cap - 1);
		if (way < ((i - hole) & (t->cap - 1)))
			continue;
		t->table[hole] = t->table[i];
		hole = i;
	}
	t->table[hole].used = false;
	t->len--;
}

static size_t entries_max(const struct delta_cache *t)
{
	return t->cap - t->cap / 4;
}

static uint8_t *slot_bytes(const struct delta_cache *t, uint32_t slot)
{
	return t->pages + (size_t)slot * t->page_bytes;
}

/* --- making it ---------------------------------------------------------------------------- */

/* As many counted pages as their share of the memory has room for, and kept ones in the rest. */
static void size_up(struct delta_cache *t, uint64_t bytes_max)
{
	t->cap = 4;
	while (t->cap * 2 * sizeof(struct entry) <= bytes_max / TABLE_SHARE)
		t->cap *= 2;
	uint64_t table_bytes = t->cap * sizeof(struct entry) + sizeof(*t);
	uint64_t left = bytes_max > table_bytes ? bytes_max - table_bytes : 0;
	t->nslots = left / (t->page_bytes + sizeof(*t->free_slots));
	if (t->nslots > entries_max(t))
		t->nslots = entries_max(t);
}

int delta_cache_new(const struct delta_cache_options *options, struct delta_cache **ret)
{
	auto_(delta_cache_freep) struct delta_cache *t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->page_bytes = options->page_bytes;
	size_up(t, options->bytes_max);
	if (t->nslots) {
		/* What no page uses is never touched. */
		t->table = calloc(t->cap, sizeof(*t->table));
		t->pages = malloc(t->nslots * t->page_bytes);
		t->free_slots = calloc(t->nslots, sizeof(*t->free_slots));
		if (!t->table || !t->pages || !t->free_slots)
			return -ENOMEM;
		while (t->nfree < t->nslots) {
			t->free_slots[t->nfree] = (uint32_t)(t->nslots - 1 - t->nfree);
			t->nfree++;
		}
	}
	*ret = take(t);
	return 0;
}

void delta_cache_free(struct delta_cache *t)
{
	if (!t)
		return;
	free(t->pages);
	free(t->free_slots);
	free(t->table);
	free(t);
}

size_t delta_cache_pages(const struct delta_cache *t)
{
	return t->nslots;
}

uint64_t delta_cache_bytes(const struct delta_cache *t)
{
	if (t->nslots == 0)
		return sizeof(*t);
	return sizeof(*t) + t->cap * sizeof(*t->table) +
	       t->nslots * (t->page_bytes + sizeof(*t->free_slots));
}

/* --- a round begins ----------------------------------------------------------------------- */

static bool drops_have(const struct change_set *c, space_id space, uint64_t at)
{
	size_t lo = 0, hi = c->ndrops;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct page_drop *d = &c->drops[mid];
		if (d->space < space || (d->space == space && d->run.end <= at))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < c->ndrops && c->drops[lo].space == space && c->drops[lo].run.start <= at;
}

static bool is_gone(const struct delta_cache *t, const struct change_set *c, const struct entry *e)
{
	struct page_run page = {e->at, e->at + t->page_bytes};
	return (e->space == SPACE_PRIVATE && pageset_covers(&c->mappings.removed, page)) ||
	       drops_have(c, e->space, e->at);
}

/* Forgets what is gone, lets all others age, and forgets those that were not written for long; or,
 * where the table is full, those that were not in the last two rounds. */
static void age(struct delta_cache *t, const struct change_set *c)
{
	bool any_gone = c->ndrops || c->mappings.removed.len;
	unsigned least = t->len < entries_max(t) ? SCORE_FORGOTTEN : SCORE_STEP;
	for (size_t i = 0; t->len && i < t->cap;) {
		struct entry *e = &t->table[i];
		if (!e->used) {
			i++;
			continue;
		}
		if (!t->final)
			e->score = (uint8_t)(e->score - (e->score + 7) / 8);
		if ((any_gone && is_gone(t, c, e)) ||
			(e->slot == NO_SLOT && e->score < least && !t->final))
			entry_remove(t, i); /* the next one may be here now */
		else
			i++;
	}
}

static void count_write(struct entry *e)
{
	e->counted = true;
	e->score = (uint8_t)(e->score < SCORE_MAX - SCORE_STEP ? e->score + SCORE_STEP : SCORE_MAX);
}

static void count_page(struct delta_cache *t, const struct page_span *span, uint64_t at)
{
	struct entry *e = entry_place(t, span->space, at);
	if (!e->used) {
		if (t->len >= entries_max(t))
			return;
		*e = (struct entry){
			.at = at, .space = span->space, .slot = NO_SLOT, .used = true, .score = 1};
		t->len++;
	}
	e->in_round = true;
	if (t->rounds && !span->doubtful)
		count_write(e);
}

/* The first round has all pages, written or not: they fill the room, and make way for any that is
 * seen to be written. */
static bool is_counting_over(const struct delta_cache *t)
{
	return t->rounds == 0 && t->len >= t->nslots;
}

static void count_written(struct delta_cache *t, const struct change_set *c)
{
	for (size_t i = 0; i < c->nwritten; i++) {
		const struct page_span *span = &c->written[i];
		if (span->zero)
			continue;
		for (uint64_t at = span->at; at < span->at + span->bytes && !is_counting_over(t);
			at += t->page_bytes)
			count_page(t, span, at);
	}
}

/* --- who is kept -------------------------------------------------------------------------- */

static bool is_candidate(const struct entry *e)
{
	return e->used && e->slot == NO_SLOT && e->in_round;
}

static bool is_kept(const struct entry *e)
{
	return e->used && e->slot != NO_SLOT;
}

/* How many entries have each score. */
struct histogram {
	size_t n[SCORE_MAX + 1];
};

static void histogram_make(
	const struct delta_cache *t, bool (*counts)(const struct entry *), struct histogram *ret)
{
	memset(ret, 0, sizeof(*ret));
	for (size_t i = 0; i < t->cap; i++) {
		if (counts(&t->table[i]))
			ret->n[t->table[i].score]++;
	}
}

/* So many pages change places: the candidates of the highest scores get in, the kept ones of the
 * lowest go, as long as one is written more than twice as often as the other. */
static size_t count_changes(const struct delta_cache *t)
{
	struct histogram in, out;
	histogram_make(t, is_candidate, &in);
	histogram_make(t, is_kept, &out);
	size_t changes = 0, free_slots = t->nfree;
	int best = SCORE_MAX, least = 0;
	for (;;) {
		while (best >= 0 && in.n[best] == 0)
			best--;
		if (best < 0)
			return changes;
		if (free_slots) {
			free_slots--;
			in.n[best]--;
			continue;
		}
		while (least <= SCORE_MAX && out.n[least] == 0)
			least++;
		if (least > SCORE_MAX || best <= 2 * least)
			return changes;
		in.n[best]--;
		out.n[least]--;
		changes++;
	}
}

/* The score from which on, in the direction of `step`, `n` entries are found, and how many of that
 * score itself are among them. */
static int score_of_nth(const struct histogram *h, int from, int step, size_t n, size_t *ret_quota)
{
	int score = from;
	while (n > h->n[score]) {
		n -= h->n[score];
		score += step;
	}
	*ret_quota = n;
	return score;
}

static void put_out(struct delta_cache *t, size_t n)
{
	struct histogram out;
	size_t quota;
	histogram_make(t, is_kept, &out);
	int limit = score_of_nth(&out, 0, 1, n, &quota);
	for (size_t i = 0; i < t->cap; i++) {
		struct entry *e = &t->table[i];
		if (!is_kept(e) || e->score > limit || (e->score == limit && quota == 0))
			continue;
		quota -= e->score == limit;
		t->free_slots[t->nfree++] = e->slot;
		e->slot = NO_SLOT;
		e->state = STATE_UNKNOWN;
	}
}

static void let_in(struct delta_cache *t)
{
	struct histogram in;
	size_t n = 0, quota;
	histogram_make(t, is_candidate, &in);
	for (int i = 0; i <= SCORE_MAX; i++)
		n += in.n[i];
	if (n > t->nfree)
		n = t->nfree;
	if (n == 0)
		return;
	int limit = score_of_nth(&in, SCORE_MAX, -1, n, &quota);
	for (size_t i = 0; i < t->cap; i++) {
		struct entry *e = &t->table[i];
		if (!is_candidate(e) || e->score < limit || (e->score == limit && quota == 0))
			continue;
		quota -= e->score == limit;
		e->slot = t->free_slots[--t->nfree];
		e->state = STATE_UNKNOWN;
	}
}

void delta_cache_begin(struct delta_cache *t, const struct change_set *c, bool final)
{
	if (t->nslots == 0)
		return;
	t->final = final;
	/* The process stands still now, and no round follows for which something could be kept:
	 * what takes time is left out. */
	if (!final || c->ndrops || c->mappings.removed.len)
		age(t, c);
	if (final)
		return;
	count_written(t, c);
	size_t changes = count_changes(t);
	if (changes)
		put_out(t, changes);
	let_in(t);
}

/* --- the round ---------------------------------------------------------------------------- */

const uint8_t *delta_cache_take(struct delta_cache *t, space_id space, uint64_t at)
{
	struct entry *e = entry_find(t, space, at);
	if (!e)
		return NULL;
	bool is_held = e->slot != NO_SLOT && e->state == STATE_HELD;
	e->state = STATE_SENT;
	return is_held ? slot_bytes(t, e->slot) : NULL;
}

void delta_cache_keep(struct delta_cache *t, space_id space, uint64_t at, const uint8_t *contents)
{
	if (t->final)
		return;
	struct entry *e = entry_find(t, space, at);
	if (!e || e->slot == NO_SLOT)
		return;
	assert(e->state == STATE_SENT);
	memcpy(slot_bytes(t, e->slot), contents, t->page_bytes);
	e->state = STATE_KEPT;
}

void delta_cache_skip(struct delta_cache *t, const struct page_span *span)
{
	for (uint64_t at = span->at; at < span->at + span->bytes; at += t->page_bytes) {
		struct entry *e = entry_find(t, span->space, at);
		if (e)
			e->state = STATE_UNKNOWN;
	}
}

/* A doubtful page counts as written when it had to be sent; one that was found unchanged does not
 * count. */
static void settle_entry(const struct delta_cache *t, struct entry *e, bool acknowledged)
{
	bool was_sent = e->state == STATE_KEPT || e->state == STATE_SENT;
	if (was_sent && !e->counted && t->rounds)
		count_write(e);
	else if (e->counted && !was_sent)
		e->score = (uint8_t)(e->score > SCORE_STEP ? e->score - SCORE_STEP : 0);
	if (e->state == STATE_KEPT)
		e->state = acknowledged ? STATE_HELD : STATE_UNKNOWN;
	else if (e->state == STATE_SENT)
		e->state = STATE_UNKNOWN;
	e->in_round = e->counted = false;
}

void delta_cache_settle(struct delta_cache *t, bool acknowledged)
{
	for (size_t i = 0; t->len && i < t->cap; i++) {
		if (t->table[i].used)
			settle_entry(t, &t->table[i], acknowledged);
	}
	t->rounds++;
}
