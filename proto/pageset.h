/* SPDX-License-Identifier: MIT */
/* Sorted run-length sets of pages. Cost grows with the number of runs, never with the address
 * space. */
#ifndef PROTO_PAGESET_H
#define PROTO_PAGESET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/guard.h"

/* [start, end) in bytes, both multiples of the page size, start < end. */
struct page_run {
	uint64_t start, end;
};

/* Runs in address order; neighbours never touch or overlap. All zero is the empty set. */
struct pageset {
	struct page_run *runs;
	size_t len, cap;
};

void pageset_release(struct pageset *set);
void pageset_clear(struct pageset *set);

/* Adds [run.start, run.end), anywhere; cheap at the end, where runs usually come. Returns 0,
 * -EINVAL for an empty run, or -ENOMEM; on failure the set is unchanged. */
int pageset_add(struct pageset *set, struct page_run run);

/* Takes [run.start, run.end) out. Same errors. */
int pageset_remove(struct pageset *set, struct page_run run);

/* ret = a | b, a - b, a & b. `ret` is replaced and must not be a or b. Return 0 or -ENOMEM (ret
 * unchanged). */
int pageset_union(const struct pageset *a, const struct pageset *b, struct pageset *ret);
int pageset_subtract(const struct pageset *a, const struct pageset *b, struct pageset *ret);
int pageset_intersect(const struct pageset *a, const struct pageset *b, struct pageset *ret);

/* a = a | b; cheap where b lies behind a. 0 or -ENOMEM (a unchanged). */
int pageset_merge(struct pageset *a, const struct pageset *b);

/* Is [run.start, run.end) wholly inside? */
bool pageset_covers(const struct pageset *set, struct page_run run);

/* The index of the first run that ends behind `address`, or set->len. */
size_t pageset_find(const struct pageset *set, uint64_t address);

/* Sum of the runs' lengths in bytes. */
uint64_t pageset_bytes(const struct pageset *set);

void pageset_swap(struct pageset *a, struct pageset *b);

#endif
