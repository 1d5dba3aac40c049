/* SPDX-License-Identifier: MIT */
/*
 * What is asked of the page tables of a process that is followed by uffd-wp, and what the answers
 * mean, by kind of memory. docs/kernel.md tells why the scans ask as they do.
 */
#ifndef TRACKER_UFFD_SCAN_H
#define TRACKER_UFFD_SCAN_H

#include "tracker/backend.h"
#include "tracker/stretch.h"

struct uffd_registration;

/* One scan, while it runs. Where nothing is protected several may scan at once, each with a copy
 * and a `found` of its own. */
struct uffd_scan {
	struct uffd_registration *registration; /* where it protects, shared_armed grows */
	const struct pageset *held;  /* by the last scan: tells which way to ask is cheaper */
	struct backend_found *found; /* NULL: what was written is only counted */
	bool protect;                /* arm what is found */
	bool unpaused;               /* the process stands still */
	bool swap_in_use; /* the machine has swap: a swapped entry may be a swapped page */
	uint64_t counted_bytes;

	/* Of the stretch in hand. */
	enum watch_kind kind;
	bool hugetlb;
	bool tracked;   /* else every held page counts as written */
	uint64_t known; /* up to here it is known what is present */
};

/* Is any swap in use on this machine? Without it, a swapped entry of a file mapping can only be a
 * marker that the kernel leaves where an armed page was taken out of the page table. */
bool uffd_scan_swap_in_use(void);

/* Adds what there is in one stretch to `found`. 0 or a negative errno, -ESRCH where the memory is
 * gone. */
int uffd_scan_stretch(struct uffd_scan *c, const struct stretch *s);

#endif
