/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "proto/mapping.h"

void mapping_release(struct mapping *m)
{
	free(m->name);
	free(m->why);
	m->name = m->why = NULL;
}

int mapping_copy(const struct mapping *m, struct mapping *ret)
{
	struct mapping copy = *m;
	copy.name = strdup(m->name ? m->name : "");
	copy.why = m->why ? strdup(m->why) : NULL;
	if (!copy.name || (m->why && !copy.why)) {
		mapping_release(&copy);
		return -ENOMEM;
	}
	*ret = copy;
	return 0;
}

bool mapping_equal(const struct mapping *a, const struct mapping *b)
{
	return a->start == b->start && a->end == b->end && a->prot == b->prot &&
	       a->flags == b->flags && a->kind == b->kind && a->object == b->object &&
	       a->offset == b->offset && a->dev_major == b->dev_major &&
	       a->dev_minor == b->dev_minor && a->inode == b->inode &&
	       strcmp(a->name, b->name) == 0;
}

void mapping_table_release(struct mapping_table *t)
{
	for (size_t i = 0; i < t->len; i++)
		mapping_release(&t->v[i]);
	free(t->v);
	*t = (struct mapping_table){0};
}

int mapping_table_append(struct mapping_table *t, struct mapping *m)
{
	if (m->start >= m->end || (t->len && m->start < t->v[t->len - 1].end))
		return -EINVAL;
	if (t->len == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 32;
		struct mapping *v = reallocarray(t->v, cap, sizeof(*v));
		if (!v)
			return -ENOMEM;
		t->v = v;
		t->cap = cap;
	}
	t->v[t->len++] = *m;
	m->name = m->why = NULL;
	return 0;
}

static bool continues(const struct mapping *a, const struct mapping *b)
{
	if (a->end != b->start || a->kind != b->kind || a->prot != b->prot ||
		a->flags != b->flags || a->object != b->object || a->inode != b->inode ||
		a->dev_major != b->dev_major || a->dev_minor != b->dev_minor ||
		strcmp(a->name, b->name) != 0)
		return false;
	if (a->kind == MAPPING_ANON)
		return true;
	return a->kind != MAPPING_OPAQUE && a->kind != MAPPING_VDSO &&
	       b->offset == a->offset + (a->end - a->start);
}

void mapping_table_merge(struct mapping_table *t)
{
	size_t kept = 0;
	for (size_t i = 0; i < t->len; i++) {
		if (kept && continues(&t->v[kept - 1], &t->v[i])) {
			t->v[kept - 1].end = t->v[i].end;
			mapping_release(&t->v[i]);
		} else {
			t->v[kept++] = t->v[i];
		}
	}
	t->len = kept;
}

/* The index of the first mapping that ends behind `address`. */
static size_t first_behind(const struct mapping_table *t, uint64_t address)
{
	size_t lo = 0, hi = t->len;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (t->v[mid].end <= address)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct mapping *mapping_table_find(const struct mapping_table *t, uint64_t address)
{
	size_t i = first_behind(t, address);
	return i < t->len && t->v[i].start <= address ? &t->v[i] : NULL;
}

const struct mapping *mapping_table_next(const struct mapping_table *t, uint64_t address)
{
	size_t i = first_behind(t, address);
	return i < t->len ? &t->v[i] : NULL;
}

void mapping_diff_release(struct mapping_diff *d)
{
	pageset_release(&d->removed);
	mapping_table_release(&d->added);
}

static int append_copy(struct mapping_table *t, const struct mapping *m)
{
	struct mapping copy;
	int r = mapping_copy(m, &copy);
	if (r < 0)
		return r;
	r = mapping_table_append(t, &copy);
	mapping_release(&copy);
	return r;
}

int mapping_table_copy(const struct mapping_table *t, struct mapping_table *ret)
{
	struct mapping_table made = {0};
	int r = 0;
	for (size_t i = 0; r == 0 && i < t->len; i++)
		r = append_copy(&made, &t->v[i]);
	if (r < 0) {
		mapping_table_release(&made);
		return r;
	}
	*ret = made;
	return 0;
}

int mapping_diff_make(
	const struct mapping_table *from, const struct mapping_table *to, struct mapping_diff *ret)
{
	struct mapping_diff made = {0};
	int r = 0;
	for (size_t i = 0, j = 0; r == 0 && (i < from->len || j < to->len);) {
		const struct mapping *a = i < from->len ? &from->v[i] : NULL;
		const struct mapping *b = j < to->len ? &to->v[j] : NULL;
		assert(a || b);
		if (a && b && mapping_equal(a, b)) {
			i++;
			j++;
		} else if (!b || (a && a->start <= b->start)) {
			r = pageset_add(&made.removed, (struct page_run){a->start, a->end});
			i++;
		} else {
			r = append_copy(&made.added, b);
			j++;
		}
	}
	if (r < 0) {
		mapping_diff_release(&made);
		return r;
	}
	*ret = made;
	return 0;
}

/* Appends what is left of `m` outside `removed`, cut at its edges. */
static int append_rest(
	struct mapping_table *t, const struct mapping *m, const struct pageset *removed)
{
	uint64_t start = m->start;
	for (size_t k = pageset_find(removed, m->start); start < m->end; k++) {
		bool cut = k < removed->len && removed->runs[k].start < m->end;
		uint64_t end = cut ? removed->runs[k].start : m->end;
		if (start < end) {
			struct mapping piece = *m;
			piece.start = start;
			piece.end = end;
			piece.offset = m->offset + (start - m->start);
			int r = append_copy(t, &piece);
			if (r < 0)
				return r;
		}
		if (!cut)
			break;
		start = removed->runs[k].end;
	}
	return 0;
}

int mapping_table_apply(struct mapping_table *t, const struct mapping_diff *d)
{
	if (d->removed.len == 0 && d->added.len == 0)
		return 0;

	struct mapping_table rest = {0}, made = {0};
	int r = 0;
	for (size_t i = 0; r == 0 && i < t->len; i++)
		r = append_rest(&rest, &t->v[i], &d->removed);

	for (size_t i = 0, j = 0; r == 0 && (i < rest.len || j < d->added.len);) {
		if (j == d->added.len || (i < rest.len && rest.v[i].start < d->added.v[j].start))
			r = mapping_table_append(&made, &rest.v[i++]);
		else
			r = append_copy(&made, &d->added.v[j++]);
	}
	mapping_table_release(&rest);
	if (r < 0) {
		mapping_table_release(&made);
		return r;
	}
	mapping_table_release(t);
	*t = made;
	return 0;
}
