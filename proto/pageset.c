/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "proto/pageset.h"

void pageset_release(struct pageset *set)
{
	free(set->runs);
	*set = (struct pageset){0};
}

void pageset_clear(struct pageset *set)
{
	set->len = 0;
}

void pageset_swap(struct pageset *a, struct pageset *b)
{
	struct pageset tmp = *a;
	*a = *b;
	*b = tmp;
}

static int reserve(struct pageset *set, size_t len)
{
	if (len <= set->cap)
		return 0;

	size_t cap = set->cap ? set->cap * 2 : 16;
	if (cap < len)
		cap = len;
	struct page_run *runs = reallocarray(set->runs, cap, sizeof(*runs));
	if (!runs)
		return -ENOMEM;
	set->runs = runs;
	set->cap = cap;
	return 0;
}

size_t pageset_find(const struct pageset *set, uint64_t address)
{
	size_t lo = 0, hi = set->len;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (set->runs[mid].end <= address)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Puts `n` runs in the place of set->runs[from..to). */
static int replace(
	struct pageset *set, size_t from, size_t to, const struct page_run *runs, size_t n)
{
	size_t len = set->len - (to - from) + n;
	int r = reserve(set, len);
	if (r < 0)
		return r;
	memmove(set->runs + from + n, set->runs + to, (set->len - to) * sizeof(*set->runs));
	for (size_t i = 0; i < n; i++)
		set->runs[from + i] = runs[i];
	set->len = len;
	return 0;
}

int pageset_add(struct pageset *set, struct page_run run)
{
	if (run.start >= run.end)
		return -EINVAL;

	if (set->len == 0 || run.start > set->runs[set->len - 1].end) {
		int r = reserve(set, set->len + 1);
		if (r < 0)
			return r;
		set->runs[set->len++] = run;
		return 0;
	}

	/* Runs that overlap or touch the new one melt into it: the first ends at or behind its
	 * start. */
	size_t from = run.start ? pageset_find(set, run.start - 1) : 0;
	size_t to = from;
	while (to < set->len && set->runs[to].start <= run.end)
		to++;
	if (from < to) {
		if (set->runs[from].start < run.start)
			run.start = set->runs[from].start;
		if (set->runs[to - 1].end > run.end)
			run.end = set->runs[to - 1].end;
	}
	return replace(set, from, to, &run, 1);
}

int pageset_remove(struct pageset *set, struct page_run run)
{
	if (run.start >= run.end)
		return -EINVAL;

	size_t from = pageset_find(set, run.start);
	size_t to = from;
	while (to < set->len && set->runs[to].start < run.end)
		to++;
	if (from == to)
		return 0;

	struct page_run left[2];
	size_t n = 0;
	if (set->runs[from].start < run.start)
		left[n++] = (struct page_run){set->runs[from].start, run.start};
	if (set->runs[to - 1].end > run.end)
		left[n++] = (struct page_run){run.end, set->runs[to - 1].end};
	return replace(set, from, to, left, n);
}

/* Adds behind what is there; touching runs become one. */
static int append(struct pageset *set, uint64_t start, uint64_t end)
{
	if (set->len && set->runs[set->len - 1].end >= start) {
		if (set->runs[set->len - 1].end < end)
			set->runs[set->len - 1].end = end;
		return 0;
	}
	int r = reserve(set, set->len + 1);
	if (r < 0)
		return r;
	set->runs[set->len++] = (struct page_run){start, end};
	return 0;
}

static int finish(int r, struct pageset *made, struct pageset *ret)
{
	if (r == 0)
		pageset_swap(made, ret);
	pageset_release(made);
	return r;
}

int pageset_union(const struct pageset *a, const struct pageset *b, struct pageset *ret)
{
	struct pageset made = {0};
	int r = 0;
	for (size_t i = 0, j = 0; r == 0 && (i < a->len || j < b->len);) {
		bool from_a = j == b->len || (i < a->len && a->runs[i].start <= b->runs[j].start);
		const struct page_run *run = from_a ? &a->runs[i++] : &b->runs[j++];
		r = append(&made, run->start, run->end);
	}
	return finish(r, &made, ret);
}

int pageset_subtract(const struct pageset *a, const struct pageset *b, struct pageset *ret)
{
	struct pageset made = {0};
	int r = 0;
	for (size_t i = 0, j = 0; r == 0 && i < a->len; i++) {
		uint64_t start = a->runs[i].start, end = a->runs[i].end;
		while (j < b->len && b->runs[j].end <= start)
			j++;
		for (size_t k = j; r == 0 && start < end; k++) {
			if (k == b->len || b->runs[k].start >= end) {
				r = append(&made, start, end);
				break;
			}
			if (b->runs[k].start > start)
				r = append(&made, start, b->runs[k].start);
			start = b->runs[k].end;
		}
	}
	return finish(r, &made, ret);
}

int pageset_intersect(const struct pageset *a, const struct pageset *b, struct pageset *ret)
{
	struct pageset made = {0};
	int r = 0;
	for (size_t i = 0, j = 0; r == 0 && i < a->len && j < b->len;) {
		uint64_t start = a->runs[i].start, end = a->runs[i].end;
		if (start < b->runs[j].start)
			start = b->runs[j].start;
		if (end > b->runs[j].end)
			end = b->runs[j].end;
		if (start < end)
			r = append(&made, start, end);
		if (a->runs[i].end < b->runs[j].end)
			i++;
		else
			j++;
	}
	return finish(r, &made, ret);
}

int pageset_merge(struct pageset *a, const struct pageset *b)
{
	if (b->len == 0)
		return 0;
	if (a->len == 0 || a->runs[a->len - 1].end <= b->runs[0].start) {
		int r = reserve(a, a->len + b->len);
		for (size_t i = 0; r == 0 && i < b->len; i++)
			r = append(a, b->runs[i].start, b->runs[i].end);
		return r;
	}
	struct pageset both = {0};
	int r = pageset_union(a, b, &both);
	if (r == 0)
		pageset_swap(a, &both);
	pageset_release(&both);
	return r;
}

bool pageset_covers(const struct pageset *set, struct page_run run)
{
	size_t i = pageset_find(set, run.start);
	return i < set->len && set->runs[i].start <= run.start && run.end <= set->runs[i].end;
}

uint64_t pageset_bytes(const struct pageset *set)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < set->len; i++)
		bytes += set->runs[i].end - set->runs[i].start;
	return bytes;
}
