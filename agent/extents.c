/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "agent/extents.h"

struct chunk_run {
	uint32_t frame;
	uint16_t start; /* in the chunk */
	uint16_t pages;
	uint16_t first; /* in the frame */
};

struct extents_chunk {
	uint64_t number; /* of the chunk: page / EXTENTS_CHUNK_PAGES */
	struct chunk_run *runs;
	uint16_t len, cap;
};

void extents_release(struct extents *e)
{
	for (size_t i = 0; i < e->len; i++)
		free(e->chunks[i].runs);
	free(e->chunks);
	*e = (struct extents){0};
}

static unsigned run_end(const struct chunk_run *r)
{
	return (unsigned)r->start + r->pages;
}

/* The index of the first chunk from `number` on. */
static size_t chunk_find(const struct extents *e, uint64_t number)
{
	/* Pages mostly come in order: behind the last one, or in it. */
	if (e->len == 0 || e->chunks[e->len - 1].number < number)
		return e->len;
	if (e->chunks[e->len - 1].number == number)
		return e->len - 1;

	size_t lo = 0, hi = e->len;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (e->chunks[mid].number < number)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The index of the chunk, made where it is missing. */
static int chunk_get(struct extents *e, uint64_t number, size_t *ret)
{
	size_t i = chunk_find(e, number);
	if (i < e->len && e->chunks[i].number == number) {
		*ret = i;
		return 0;
	}
	if (e->len == e->cap) {
		size_t cap = e->cap ? e->cap * 2 : 16;
		struct extents_chunk *chunks = reallocarray(e->chunks, cap, sizeof(*chunks));
		if (!chunks)
			return -ENOMEM;
		e->chunks = chunks;
		e->cap = cap;
	}
	memmove(e->chunks + i + 1, e->chunks + i, (e->len - i) * sizeof(*e->chunks));
	e->chunks[i] = (struct extents_chunk){.number = number};
	e->len++;
	*ret = i;
	return 0;
}

static int chunk_reserve(struct extents_chunk *c, unsigned len)
{
	if (len <= c->cap)
		return 0;

	unsigned cap = c->cap ? c->cap * 2u : 4u;
	if (cap < len)
		cap = len;
	struct chunk_run *runs = reallocarray(c->runs, cap, sizeof(*runs));
	if (!runs)
		return -ENOMEM;
	c->runs = runs;
	c->cap = (uint16_t)cap;
	return 0;
}

/* The index of the first run that ends behind `at`. */
static unsigned run_behind(const struct extents_chunk *c, unsigned at)
{
	unsigned lo = 0, hi = c->len;
	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;
		if (run_end(&c->runs[mid]) <= at)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Puts `with` (NULL: nothing) in the place of [start, end) of the chunk. */
static int chunk_replace(struct extents *e, struct extents_chunk *c, unsigned start, unsigned end,
	const struct chunk_run *with, extents_gone_fn gone, void *arg)
{
	unsigned from = run_behind(c, start), to = from;
	while (to < c->len && c->runs[to].start < end)
		to++;

	/* What is left of the first run, the new one, what is left of the last. */
	struct chunk_run put[3];
	unsigned n = 0;
	if (from < to && c->runs[from].start < start) {
		put[n] = c->runs[from];
		put[n].pages = (uint16_t)(start - put[n].start);
		n++;
	}
	if (with)
		put[n++] = *with;
	if (from < to && run_end(&c->runs[to - 1]) > end) {
		unsigned cut = end - c->runs[to - 1].start;
		put[n] = c->runs[to - 1];
		put[n].start = (uint16_t)end;
		put[n].pages = (uint16_t)(put[n].pages - cut);
		put[n].first = (uint16_t)(put[n].first + cut);
		n++;
	}

	unsigned len = c->len - (to - from) + n;
	int r = chunk_reserve(c, len);
	if (r < 0)
		return r;

	for (unsigned i = from; i < to; i++) {
		unsigned a = c->runs[i].start < start ? start : c->runs[i].start;
		unsigned b = run_end(&c->runs[i]) > end ? end : run_end(&c->runs[i]);
		gone(arg, c->runs[i].frame, b - a);
	}
	if (from + n != to)
		memmove(c->runs + from + n, c->runs + to, (c->len - to) * sizeof(*c->runs));
	for (unsigned i = 0; i < n; i++)
		c->runs[from + i] = put[i];
	e->runs += len;
	e->runs -= c->len;
	c->len = (uint16_t)len;
	return 0;
}

int extents_put(struct extents *e, struct extent x, extents_gone_fn gone, void *arg)
{
	assert(x.pages > 0 && (uint64_t)x.first + x.pages <= 65536);
	while (x.pages > 0) {
		unsigned start = (unsigned)(x.page % EXTENTS_CHUNK_PAGES);
		unsigned n = EXTENTS_CHUNK_PAGES - start;
		if (n > x.pages)
			n = x.pages;

		size_t i;
		int r = chunk_get(e, x.page / EXTENTS_CHUNK_PAGES, &i);
		if (r < 0)
			return r;
		struct chunk_run run = {.frame = x.frame,
			.start = (uint16_t)start,
			.pages = (uint16_t)n,
			.first = (uint16_t)x.first};
		r = chunk_replace(e, &e->chunks[i], start, start + n, &run, gone, arg);
		if (r < 0)
			return r;
		x.page += n;
		x.first += n;
		x.pages -= n;
	}
	return 0;
}

int extents_remove(
	struct extents *e, uint64_t page, uint64_t pages, extents_gone_fn gone, void *arg)
{
	uint64_t end = page + pages;
	assert(end >= page);

	/* Walks the chunks that there are, so that dropping a terabyte costs by what it held. */
	size_t from = chunk_find(e, page / EXTENTS_CHUNK_PAGES), kept = from, i = from;
	int r = 0;
	for (; i < e->len && e->chunks[i].number * EXTENTS_CHUNK_PAGES < end; i++) {
		struct extents_chunk *c = &e->chunks[i];
		uint64_t base = c->number * EXTENTS_CHUNK_PAGES;
		unsigned a = page > base ? (unsigned)(page - base) : 0;
		unsigned b = end - base < EXTENTS_CHUNK_PAGES ? (unsigned)(end - base)
							      : EXTENTS_CHUNK_PAGES;
		if (r == 0)
			r = chunk_replace(e, c, a, b, NULL, gone, arg);
		if (c->len == 0)
			free(c->runs);
		else
			e->chunks[kept++] = *c;
	}
	if (kept != i) {
		memmove(e->chunks + kept, e->chunks + i, (e->len - i) * sizeof(*e->chunks));
		e->len -= i - kept;
	}
	return r;
}

bool extents_find(const struct extents *e, uint64_t page, struct extent *ret)
{
	uint64_t number = page / EXTENTS_CHUNK_PAGES;
	size_t i = chunk_find(e, number);
	if (i == e->len || e->chunks[i].number != number)
		return false;
	const struct extents_chunk *c = &e->chunks[i];
	unsigned at = page % EXTENTS_CHUNK_PAGES, lo = run_behind(c, at);
	if (lo == c->len || c->runs[lo].start > at)
		return false;
	const struct chunk_run *r = &c->runs[lo];
	*ret = (struct extent){.page = page,
		.pages = run_end(r) - at,
		.frame = r->frame,
		.first = r->first + (at - r->start)};
	return true;
}

bool extents_next(const struct extents *e, struct extents_cursor *at, struct extent *ret)
{
	bool any = false;
	for (; at->chunk < e->len; at->chunk++, at->run = 0) {
		const struct extents_chunk *c = &e->chunks[at->chunk];
		for (; at->run < c->len; at->run++) {
			const struct chunk_run *r = &c->runs[at->run];
			uint64_t page = c->number * EXTENTS_CHUNK_PAGES + r->start;
			if (!any) {
				*ret = (struct extent){.page = page,
					.pages = r->pages,
					.frame = r->frame,
					.first = r->first};
				any = true;
			} else if (page == ret->page + ret->pages && r->frame == ret->frame &&
				   r->first == ret->first + ret->pages) {
				ret->pages += r->pages;
			} else {
				return true;
			}
		}
	}
	return any;
}
