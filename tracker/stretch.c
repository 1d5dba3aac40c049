/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include "base/error.h"
#include "base/parallel.h"
#include "tracker/process.h"
#include "tracker/stretch.h"

#define HUGE_PAGE (2ull << 20)

/* So much of populated memory is scanned in about 60 us, which is what a thread costs; and so many
 * pieces at most are made, whatever the size of a sparse mapping. */
#define PIECE_MIN_BYTES (64ull << 20)
#define PIECES_MAX 4096

void stretch_list_release(struct stretch_list *l)
{
	free(l->v);
	*l = (struct stretch_list){0};
}

static int add(struct stretch_list *l, struct stretch s)
{
	if (l->len == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		struct stretch *v = reallocarray(l->v, cap, sizeof(*v));
		if (!v)
			return -ENOMEM;
		l->v = v;
		l->cap = cap;
	}
	l->v[l->len++] = s;
	return 0;
}

/* What is shared is asked for by each of its watches: its answers go by what was armed of it. */
static bool continues(const struct stretch *s, const struct stretch *next)
{
	return s->end == next->start && s->kind == next->kind && s->kind != WATCH_SHARED &&
	       s->hugetlb == next->hugetlb && s->tracked == next->tracked;
}

int stretch_list_make(const struct mapping_table *maps, const struct watch_list *watches,
	bool (*is_tracked)(void *arg, const struct watch *w), void *arg, struct stretch_list *ret)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < watches->len; i++) {
		const struct watch *w = &watches->v[i];
		struct stretch s = {
			.start = w->start,
			.end = w->end,
			.kind = w->kind,
			.hugetlb = maps->v[w->mapping].flags & MAPPING_HUGETLB,
			.tracked = is_tracked && is_tracked(arg, w),
		};
		if (ret->len && continues(&ret->v[ret->len - 1], &s))
			ret->v[ret->len - 1].end = s.end;
		else
			r = add(ret, s);
	}
	return r;
}

static int cut_long_ones(struct stretch_list *l)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < l->len; i++)
		bytes += l->v[i].end - l->v[i].start;
	uint64_t piece = bytes / PIECES_MAX & ~(HUGE_PAGE - 1);
	if (piece < PIECE_MIN_BYTES)
		piece = PIECE_MIN_BYTES;

	struct stretch_list cut = {0};
	int r = 0;
	for (size_t i = 0; r == 0 && i < l->len; i++) {
		struct stretch left = l->v[i];
		for (; r == 0 && left.end - left.start > piece;) {
			struct stretch part = left;
			part.end = left.start = (left.start + piece) & ~(HUGE_PAGE - 1);
			r = add(&cut, part);
		}
		if (r == 0)
			r = add(&cut, left);
	}
	if (r < 0) {
		stretch_list_release(&cut);
		return r;
	}
	stretch_list_release(l);
	*l = cut;
	return 0;
}

struct scanning {
	const struct stretch_list *list;
	const struct process *process;
	stretch_scan_fn scan;
	void *arg;
	struct part {
		struct backend_found found;
		struct tide_error err;
	} * parts; /* one a stretch */
};

static int scan_part(void *arg, size_t i)
{
	struct scanning *s = arg;
	const struct stretch *stretch = &s->list->v[i];
	int r = s->scan(s->arg, stretch, &s->parts[i].found);
	return r < 0 ? stretch_failed(s->process, r, stretch->start, stretch->end, &s->parts[i].err)
		     : 0;
}

static int scan_in_turn(const struct stretch_list *l, const struct process *p, stretch_scan_fn scan,
	void *arg, struct backend_found *ret, struct tide_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < l->len; i++) {
		r = scan(arg, &l->v[i], ret);
		if (r < 0)
			return stretch_failed(p, r, l->v[i].start, l->v[i].end, err);
	}
	return 0;
}

int stretch_list_scan(struct stretch_list *l, const struct process *p, unsigned threads,
	stretch_scan_fn scan, void *arg, struct backend_found *ret, struct tide_error *err)
{
	if (threads < 2)
		return scan_in_turn(l, p, scan, arg, ret, err);
	int r = cut_long_ones(l);
	auto_free struct part *parts = calloc(l->len + 1, sizeof(*parts));
	if (r < 0 || !parts)
		return tide_fail(err, -ENOMEM, "scan the pages of process %d", p->pid);

	struct scanning s = {.list = l, .process = p, .scan = scan, .arg = arg, .parts = parts};
	r = parallel_for(threads, l->len, scan_part, &s);
	for (size_t i = 0; i < l->len; i++) {
		if (r < 0 && parts[i].err.code) {
			if (err)
				*err = parts[i].err;
			err = NULL; /* the first is told */
		}
		if (r == 0 && (r = backend_found_merge(ret, &parts[i].found)) < 0)
			tide_fail(err, r, "scan the pages of process %d", p->pid);
		backend_found_release(&parts[i].found);
	}
	return r;
}

int stretch_failed(
	const struct process *p, int r, uint64_t start, uint64_t end, struct tide_error *err)
{
	if (r == -ESRCH)
		return tide_fail_kind(err, TIDE_ERROR_TARGET_GONE, -ECANCELED,
			"process %d ended, or became another program", p->pid);
	return tide_fail(err, r, "scan the pages of process %d from %#llx to %#llx", p->pid,
		(unsigned long long)start, (unsigned long long)end);
}
