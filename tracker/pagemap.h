/* SPDX-License-Identifier: MIT */
/* Plain reads of /proc/PID/pagemap, eight bytes a page: what a scan is made of on kernels that have
 * no PAGEMAP_SCAN, and what no scan tells. */
#ifndef TRACKER_PAGEMAP_H
#define TRACKER_PAGEMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/pageset.h"
#include "tracker/page_bits.h"
#include "tracker/scan.h"

#define PAGEMAP_PRESENT (1ull << PAGEMAP_BIT_PRESENT)
#define PAGEMAP_SWAPPED (1ull << PAGEMAP_BIT_SWAPPED)
#define PAGEMAP_FILE (1ull << PAGEMAP_BIT_FILE)
#define PAGEMAP_GUARD (1ull << PAGEMAP_BIT_GUARD)
#define PAGEMAP_EXCLUSIVE (1ull << PAGEMAP_BIT_EXCLUSIVE)
#define PAGEMAP_SOFT_DIRTY (1ull << PAGEMAP_BIT_SOFT_DIRTY)
#define PAGEMAP_WRITE_PROTECTED (1ull << PAGEMAP_BIT_WRITE_PROTECTED)

/*
 * Reads the entries of `n` pages from `start` (bytes). Returns how many there were, at least one,
 * or a negative errno: -ESRCH the memory is gone (exec, exit).
 */
ptrdiff_t pagemap_read(int pagemap_fd, uint64_t start, uint64_t *ret, size_t n);

/* The entry of one page. Non-zero ends the walk with that result. */
typedef int (*pagemap_entry_fn)(void *arg, struct page_run page, uint64_t entry);

/* Calls `fn` for each page of a run. 0, what it returned, or a negative errno as above. */
int pagemap_each(int pagemap_fd, struct page_run run, pagemap_entry_fn fn, void *arg);

/* This user is not shown frame numbers and swap entries (CAP_SYS_ADMIN). Of an entry that has one.
 */
static inline bool pagemap_is_hidden(uint64_t entry)
{
	return !(entry & PAGEMAP_FRAME);
}

/* Of an entry that is not present: no page at all, but a mark that the kernel keeps in its place.
 */
static inline bool pagemap_is_marker(uint64_t entry)
{
	return !pagemap_is_hidden(entry) && (entry & PAGEMAP_SWAP_TYPE) == SWAP_TYPE_MARKER;
}

/*
 * scan_range() by these reads. Cost grows with the addresses, holes included: about 14 ms a GiB.
 * Knows PRESENT, SWAPPED, FILE, GUARD, SOFT_DIRTY and SCAN_MAYBE_ZERO; anything else, and
 * protecting: -EOPNOTSUPP.
 */
int pagemap_scan(
	const struct scan_query *q, uint64_t start, uint64_t end, scan_region_fn fn, void *arg);

#endif
