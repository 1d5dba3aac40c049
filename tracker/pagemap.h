/* SPDX-License-Identifier: MIT */
/* Plain reads of /proc/PID/pagemap, eight bytes a page: what a scan is made of on kernels that have
 * no PAGEMAP_SCAN, and what no scan tells. */
#ifndef TRACKER_PAGEMAP_H
#define TRACKER_PAGEMAP_H

#include <stddef.h>
#include <stdint.h>
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

/*
 * scan_range() by these reads. Cost grows with the addresses, holes included: about 14 ms a GiB.
 * Knows PRESENT, SWAPPED, FILE, GUARD, SOFT_DIRTY and SCAN_MAYBE_ZERO; anything else, and
 * protecting: -EOPNOTSUPP.
 */
int pagemap_scan(
	const struct scan_query *q, uint64_t start, uint64_t end, scan_region_fn fn, void *arg);

#endif
