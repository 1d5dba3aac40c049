/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "tracker/changes.h"

void holdings_release(struct holdings *h)
{
	for (size_t i = 0; i < h->len; i++)
		pageset_release(&h->v[i]);
	free(h->v);
	*h = (struct holdings){0};
}

int holdings_grow(struct holdings *h, size_t len)
{
	if (h->len >= len)
		return 0;
	struct pageset *v = reallocarray(h->v, len, sizeof(*v));
	if (!v)
		return -ENOMEM;
	memset(v + h->len, 0, (len - h->len) * sizeof(*v));
	h->v = v;
	h->len = len;
	return 0;
}

int holdings_merge(struct holdings *h, const struct holdings *more)
{
	int r = holdings_grow(h, more->len);
	for (size_t i = 0; r == 0 && i < more->len; i++)
		r = pageset_merge(&h->v[i], &more->v[i]);
	return r;
}

uint64_t holdings_bytes(const struct holdings *h)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < h->len; i++)
		bytes += pageset_bytes(&h->v[i]);
	return bytes;
}

void baseline_release(struct baseline *b)
{
	mapping_table_release(&b->maps);
	holdings_release(&b->held);
	pageset_release(&b->pinned);
}

void written_release(struct written *w)
{
	holdings_release(&w->pages);
	holdings_release(&w->doubtful);
	pageset_release(&w->zero);
}

void change_set_release(struct change_set *c)
{
	mapping_diff_release(&c->mappings);
	free(c->drops);
	free(c->written);
	*c = (struct change_set){0};
}

struct page_run in_object(const struct mapping *m, struct page_run run)
{
	uint64_t shift = m->offset - m->start;
	return (struct page_run){run.start + shift, run.end + shift};
}

/* Do two mappings show the same memory at an address that both have? */
static bool same_memory(const struct mapping *a, const struct mapping *b, uint64_t at)
{
	if (a->kind != b->kind || a->object != b->object || a->inode != b->inode ||
		a->dev_major != b->dev_major || a->dev_minor != b->dev_minor)
		return false;
	return a->kind == MAPPING_ANON ||
	       a->offset + (at - a->start) == b->offset + (at - b->start);
}

/* Adds [run.start, run.end) of a mapping to the space that it shows there. */
static int add_shown(const struct mapping *m, struct page_run run, struct holdings *ret)
{
	switch (m->kind) {
	case MAPPING_OBJECT:
		return pageset_add(&ret->v[m->object], in_object(m, run));
	case MAPPING_ANON:
	case MAPPING_FILE_PRIVATE:
		return pageset_add(&ret->v[SPACE_PRIVATE], run);
	default:
		return 0;
	}
}

/* Adds what `m` shows where `other` does not show the same; with `only_over`, only where that has a
 * mapping of other memory. */
static int add_differing(const struct mapping *m, const struct mapping_table *other, bool only_over,
	struct holdings *ret)
{
	int r = 0;
	for (uint64_t at = m->start; r == 0 && at < m->end;) {
		uint64_t end = m->end;
		const struct mapping *o = mapping_table_next(other, at);
		bool there = o && o->start <= at;
		if (o && (there ? o->end : o->start) < end)
			end = there ? o->end : o->start;
		if (there ? !same_memory(m, o, at) : !only_over)
			r = add_shown(m, (struct page_run){at, end}, ret);
		at = end;
	}
	return r;
}

int replaced_find(const struct mapping_table *last, const struct mapping_table *now, size_t spaces,
	struct holdings *ret)
{
	int r = holdings_grow(ret, spaces);
	for (size_t i = 0; r == 0 && i < last->len; i++) {
		if (last->v[i].kind == MAPPING_OBJECT)
			r = add_differing(&last->v[i], now, false, ret);
	}
	for (size_t i = 0; r == 0 && i < now->len; i++)
		r = add_differing(&now->v[i], last, true, ret);
	return r;
}

static int add_drop(
	struct change_set *c, space_id space, struct page_run run, enum drop_kind kind, size_t *cap)
{
	if (c->ndrops == *cap) {
		*cap = *cap ? *cap * 2 : 64;
		struct page_drop *v = reallocarray(c->drops, *cap, sizeof(*v));
		if (!v)
			return -ENOMEM;
		c->drops = v;
	}
	c->drops[c->ndrops++] = (struct page_drop){.space = space, .run = run, .kind = kind};
	return 0;
}

static int compare_drops(const void *a, const void *b)
{
	const struct page_drop *x = a, *y = b;
	if (x->space != y->space)
		return x->space < y->space ? -1 : 1;
	return x->run.start < y->run.start ? -1 : x->run.start > y->run.start;
}

/* Held before, and not any more. */
static int find_drops(const struct baseline *from, const struct baseline *to, uint64_t page_bytes,
	struct change_set *c)
{
	struct pageset gone = {0}, files = {0}, part = {0};
	size_t cap = 0;
	int r = 0;
	for (size_t i = 0; r == 0 && i < to->maps.len; i++) {
		const struct mapping *m = &to->maps.v[i];
		if (m->kind == MAPPING_FILE_PRIVATE)
			r = pageset_add(&files, (struct page_run){m->start, m->end});
	}
	for (size_t space = 0; r == 0 && space < from->held.len; space++) {
		r = pageset_subtract(&from->held.v[space], &to->held.v[space], &gone);
		if (r < 0)
			break;
		c->dropped_pages += pageset_bytes(&gone) / page_bytes;
		if (space == SPACE_PRIVATE) {
			r = pageset_intersect(&gone, &files, &part);
			for (size_t i = 0; r == 0 && i < part.len; i++)
				r = add_drop(c, space, part.runs[i], DROP_BACK_TO_FILE, &cap);
			if (r == 0)
				r = pageset_subtract(&gone, &files, &part);
		} else {
			pageset_swap(&gone, &part);
		}
		for (size_t i = 0; r == 0 && i < part.len; i++)
			r = add_drop(c, space, part.runs[i], DROP_GONE, &cap);
	}
	if (c->ndrops)
		qsort(c->drops, c->ndrops, sizeof(*c->drops), compare_drops);
	pageset_release(&gone);
	pageset_release(&files);
	pageset_release(&part);
	return r;
}

/* A set that is walked along with increasing places. */
struct cursor {
	const struct pageset *set;
	size_t i;
};

/* Is `at` in the set? Cuts *end where that changes. */
static bool is_in(struct cursor *c, uint64_t at, uint64_t *end)
{
	while (c->i < c->set->len && c->set->runs[c->i].end <= at)
		c->i++;
	if (c->i == c->set->len)
		return false;
	const struct page_run *run = &c->set->runs[c->i];
	uint64_t border = run->start <= at ? run->end : run->start;
	if (border < *end)
		*end = border;
	return run->start <= at;
}

/* Adds [run.start, run.end), cut where an attribute changes. */
static int add_spans(struct change_set *c, struct page_span whole, struct cursor *zero,
	struct cursor *doubtful, size_t *cap)
{
	for (uint64_t at = whole.at, stop = whole.at + whole.bytes, end; at < stop; at = end) {
		end = stop;
		bool is_zero = is_in(zero, at, &end);
		bool is_doubtful = is_in(doubtful, at, &end);
		if (c->nwritten == *cap) {
			*cap = *cap ? *cap * 2 : 256;
			struct page_span *v = reallocarray(c->written, *cap, sizeof(*v));
			if (!v)
				return -ENOMEM;
			c->written = v;
		}
		c->written[c->nwritten++] = (struct page_span){.space = whole.space,
			.at = at,
			.address = whole.address + (at - whole.at),
			.bytes = end - at,
			.zero = is_zero,
			.doubtful = is_doubtful};
	}
	return 0;
}

static const struct pageset nothing;

static int add_private_spans(struct change_set *c, const struct written *w, size_t *cap)
{
	const struct pageset *pages = &w->pages.v[SPACE_PRIVATE];
	struct cursor zero = {.set = &w->zero};
	struct cursor doubtful = {
		.set = w->doubtful.len ? &w->doubtful.v[SPACE_PRIVATE] : &nothing};
	int r = 0;
	for (size_t i = 0; r == 0 && i < pages->len; i++) {
		struct page_run run = pages->runs[i];
		r = add_spans(c,
			(struct page_span){.space = SPACE_PRIVATE,
				.at = run.start,
				.address = run.start,
				.bytes = run.end - run.start},
			&zero, &doubtful, cap);
	}
	return r;
}

/* Where the process has an object's pages mapped: the first mapping that shows them will do, they
 * are the same pages. */
static int add_object_spans(struct change_set *c, const struct mapping_table *maps, space_id object,
	const struct written *w, size_t *cap)
{
	struct pageset left = {0}, part = {0}, shown = {0}, rest = {0};
	int r = pageset_union(&w->pages.v[object], &part, &left);
	size_t first = c->nwritten;
	for (size_t i = 0; r == 0 && i < maps->len && left.len; i++) {
		const struct mapping *m = &maps->v[i];
		if (m->kind != MAPPING_OBJECT || m->object != object)
			continue;
		pageset_clear(&shown);
		r = pageset_add(
			&shown, (struct page_run){m->offset, m->offset + (m->end - m->start)});
		if (r == 0)
			r = pageset_intersect(&left, &shown, &part);
		struct cursor zero = {.set = &nothing};
		struct cursor doubtful = {
			.set = object < w->doubtful.len ? &w->doubtful.v[object] : &nothing};
		for (size_t k = 0; r == 0 && k < part.len; k++)
			r = add_spans(c,
				(struct page_span){.space = object,
					.at = part.runs[k].start,
					.address = part.runs[k].start - m->offset + m->start,
					.bytes = part.runs[k].end - part.runs[k].start},
				&zero, &doubtful, cap);
		if (r == 0)
			r = pageset_subtract(&left, &shown, &rest);
		pageset_swap(&left, &rest);
	}
	/* By place again: mappings need not show an object in order. Few, and nearly sorted. */
	for (size_t i = first + 1; i < c->nwritten; i++) {
		struct page_span span = c->written[i];
		size_t k = i;
		for (; k > first && c->written[k - 1].at > span.at; k--)
			c->written[k] = c->written[k - 1];
		c->written[k] = span;
	}
	pageset_release(&left);
	pageset_release(&part);
	pageset_release(&shown);
	pageset_release(&rest);
	return r;
}

static int make_spans(const struct baseline *to, const struct written *w, uint64_t page_bytes,
	struct change_set *c)
{
	size_t cap = 0;
	int r = w->pages.len ? add_private_spans(c, w, &cap) : 0;
	for (space_id object = 1; r == 0 && object < w->pages.len; object++)
		r = add_object_spans(c, &to->maps, object, w, &cap);
	for (size_t i = 0; i < c->nwritten; i++) {
		uint64_t pages = c->written[i].bytes / page_bytes;
		c->written_pages += pages;
		c->reread_pages += c->written[i].doubtful ? pages : 0;
	}
	return r;
}

int change_set_make(const struct baseline *from, const struct baseline *to,
	const struct written *written, uint64_t page_bytes, struct change_set *ret)
{
	int r = mapping_diff_make(&from->maps, &to->maps, &ret->mappings);
	if (r == 0)
		r = find_drops(from, to, page_bytes, ret);
	if (r == 0)
		r = make_spans(to, written, page_bytes, ret);
	ret->held_pages = holdings_bytes(&to->held) / page_bytes;
	return r;
}
