/* SPDX-License-Identifier: MIT */
/* Plain reads of /proc/PID/pagemap, eight bytes a page: what a scan is made of on kernels that have
 * no PAGEMAP_SCAN, and what no scan tells. */
#ifndef TRACKER_PAGEMAP_H
#define TRACKER_PAGEMAP_H

#include <stddef.h>
#include <stdint.h>
#include "tracker/scan.h"

/* Entries: Documentation/admin-guide/mm/pagemap.rst. */
#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)
#define PAGEMAP_FILE (1ull << 61)      /* page of a file, or shared anonymous; Linux 3.5 */
#define PAGEMAP_GUARD (1ull << 58)     /* Linux 6.15 */
#define PAGEMAP_EXCLUSIVE (1ull << 56) /* mapped here and nowhere else; Linux 4.2 */
#define PAGEMAP_SOFT_DIRTY (1ull << 55)

/*
 * Reads the entries of `n` pages from `start` (bytes). Returns how many there were, at least one,
 * or a negative errno: -ESRCH the memory is gone (exec, exit).
 */
ptrdiff_t pagemap_read(int pagemap_fd, uint64_t start, uint64_t *ret, size_t n);

/*
 * scan_range() by these reads. Cost grows with the addresses, holes included: about 14 ms a GiB.
 * Knows PRESENT, SWAPPED, FILE, GUARD, SOFT_DIRTY and SCAN_MAYBE_ZERO; anything else, and
 * protecting: -EOPNOTSUPP.
 */
int pagemap_scan(
	const struct scan_query *q, uint64_t start, uint64_t end, scan_region_fn fn, void *arg);

#endif
