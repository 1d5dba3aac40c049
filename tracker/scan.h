/* SPDX-License-Identifier: MIT */
/*
 * PAGEMAP_SCAN over long ranges: in pieces, so that the target's own mmap calls do not wait for us.
 * On a kernel that has none (before 6.7), plain reads of pagemap answer what they can.
 */
#ifndef TRACKER_SCAN_H
#define TRACKER_SCAN_H

#include <stdbool.h>
#include <stdint.h>
#include "tidemark/error.h"
#include "tracker/uapi.h"

/* Of plain reads alone: present, and nothing shows that it is not the zero page. */
#define SCAN_MAYBE_ZERO (1ull << 63)

struct scan_query {
	int pagemap_fd;
	bool protect;  /* write-protect what matches, in the same atomic step (PM_SCAN_WP_MATCHING)
			*/
	bool unpaused; /* nobody waits for the address space's lock (the target is frozen): no
			  pauses */
	uint64_t inverted; /* categories whose absence is asked for in the masks below */
	uint64_t mask;     /* categories that a page must have all of */
	uint64_t anyof;    /* ... and one of these */
	uint64_t returned; /* categories to report */
};

/* One region of pages with the same categories (of those asked for). Non-zero ends the scan with
 * that result. */
typedef int (*scan_region_fn)(void *arg, const struct uapi_page_region *region);

/*
 * Scans [start, end) (bytes, page-aligned). `fn` may be NULL. Returns 0, what it
 * returned, or a negative errno:
 * -ESRCH the memory is gone (exec, exit), -EINVAL a category that this kernel does not know,
 * -EOPNOTSUPP no PAGEMAP_SCAN, and plain reads cannot answer it. That SCAN_MAYBE_ZERO and
 * UAPI_PAGE_IS_GUARD be returned may be asked everywhere; where they are not known they never are.
 */
int scan_range(
	const struct scan_query *q, uint64_t start, uint64_t end, scan_region_fn fn, void *arg);

#endif
