/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include "transport/send_order.h"

static void release_hot(struct send_order *o)
{
	for (size_t i = 0; i < o->nhot; i++)
		pageset_release(&o->hot[i].pages);
	free(o->hot);
	o->hot = NULL;
	o->nhot = 0;
}

static int by_space(const void *key, const void *member)
{
	space_id space = *(const space_id *)key;
	const struct hot_space *hot = member;
	return space < hot->space ? -1 : space > hot->space;
}

static const struct pageset *find_hot(const struct send_order *o, space_id space)
{
	static const struct pageset none;
	const struct hot_space *hot =
		o->nhot ? bsearch(&space, o->hot, o->nhot, sizeof(*o->hot), by_space) : NULL;
	return hot ? &hot->pages : &none;
}

void send_order_release(struct send_order *o)
{
	release_hot(o);
	free(o->spans);
	*o = (struct send_order){0};
}

static int append(struct send_order *o, struct page_span span)
{
	if (o->nspans == o->cap) {
		size_t cap = o->cap ? 2 * o->cap : 256;
		void *v = reallocarray(o->spans, cap, sizeof(*o->spans));
		if (!v)
			return -ENOMEM;
		o->spans = v;
		o->cap = cap;
	}
	o->spans[o->nspans++] = span;
	return 0;
}

/* The part of `span` in [start, end), which is inside it. */
static struct page_span cut(const struct page_span *span, uint64_t start, uint64_t end)
{
	struct page_span part = *span;
	part.at = start;
	part.address += start - span->at;
	part.bytes = end - start;
	return part;
}

/* Appends what of a span is hot, or what is not. */
static int append_parts(struct send_order *o, const struct page_span *span, bool hot)
{
	const struct pageset *set = find_hot(o, span->space);
	uint64_t at = span->at, end = span->at + span->bytes;
	int r = 0;
	for (size_t i = pageset_find(set, at); r == 0 && at < end; i++) {
		uint64_t hot_start =
			i < set->len && set->runs[i].start < end ? set->runs[i].start : end;
		uint64_t hot_end = i < set->len && set->runs[i].end < end ? set->runs[i].end : end;
		if (hot_start < at)
			hot_start = at;
		if (!hot && hot_start > at)
			r = append(o, cut(span, at, hot_start));
		if (hot && hot_end > hot_start)
			r = append(o, cut(span, hot_start, hot_end));
		at = hot_end;
	}
	return r;
}

static size_t count_spaces(const struct change_set *c)
{
	size_t n = 0;
	for (size_t i = 0; i < c->nwritten; i++)
		n += i == 0 || c->written[i].space != c->written[i - 1].space;
	return n;
}

/* Doubtful pages come in every round, written or not: they say nothing of writing. */
static int keep_written(struct send_order *o, const struct change_set *c)
{
	release_hot(o);
	if (c->nwritten == 0)
		return 0;
	o->hot = calloc(count_spaces(c), sizeof(*o->hot));
	if (!o->hot)
		return -ENOMEM;
	int r = 0;
	for (size_t i = 0; r == 0 && i < c->nwritten; i++) {
		const struct page_span *s = &c->written[i];
		if (i == 0 || s->space != s[-1].space)
			o->hot[o->nhot++].space = s->space;
		if (!s->doubtful)
			r = pageset_add(&o->hot[o->nhot - 1].pages,
				(struct page_run){s->at, s->at + s->bytes});
	}
	return r;
}

int send_order_make(struct send_order *o, const struct change_set *c, uint64_t page_bytes)
{
	int r = 0;
	o->nspans = 0;
	o->hot_pages = 0;
	for (size_t i = 0; r == 0 && i < c->nwritten; i++)
		r = append_parts(o, &c->written[i], false);
	size_t first_hot = o->nspans;
	for (size_t i = 0; r == 0 && o->nhot && i < c->nwritten; i++)
		r = append_parts(o, &c->written[i], true);
	for (size_t i = first_hot; r == 0 && i < o->nspans; i++)
		o->hot_pages += o->spans[i].bytes / page_bytes;

	if (o->has_round && keep_written(o, c) < 0)
		release_hot(o);
	o->has_round = true;
	if (r < 0)
		o->nspans = 0;
	return r;
}
