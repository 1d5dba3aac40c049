/* SPDX-License-Identifier: MIT */
/*
 * What backends scan: watches that lie side by side and mean the same are one stretch, so that a
 * process of many mappings costs few calls; and long ones are cut where several threads scan at
 * once (the kernel takes the address space's lock for reading).
 */
#ifndef TRACKER_STRETCH_H
#define TRACKER_STRETCH_H

#include "tracker/backend.h"

struct stretch {
	uint64_t start, end;
	enum watch_kind kind;
	bool hugetlb; /* its pages are huge ones of the explicit kind */
	bool tracked; /* as is_tracked() said of all of its watches */
};

/* In address order. */
struct stretch_list {
	struct stretch *v;
	size_t len, cap;
};
void stretch_list_release(struct stretch_list *l);

/* `maps` are the mappings that the watches were made from; `is_tracked` may be NULL: none is. 0 or
 * -ENOMEM; release `ret` in any case. */
int stretch_list_make(const struct mapping_table *maps, const struct watch_list *watches,
	bool (*is_tracked)(void *arg, const struct watch *w), void *arg, struct stretch_list *ret);

/* Finds what there is in one stretch, for backend_ops.collect. 0 or a negative errno. */
typedef int (*stretch_scan_fn)(void *arg, const struct stretch *s, struct backend_found *found);

/*
 * Scans all of them and merges what was found into `ret`. While the process stands still, long
 * stretches are cut, at borders of huge pages, and `threads` scan side by side: `scan` is then
 * called by several at once, each with a `found` of its own. On failure the words name the process
 * and the place; what `ret` holds then is only to be released.
 */
int stretch_list_scan(struct stretch_list *l, const struct process *p, unsigned threads,
	stretch_scan_fn scan, void *arg, struct backend_found *ret, struct tide_error *err);

/* A scan of [start, end) failed with `r`. Returns what `err` says. */
int stretch_failed(
	const struct process *p, int r, uint64_t start, uint64_t end, struct tide_error *err);

#endif
