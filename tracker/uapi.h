/* SPDX-License-Identifier: MIT */
/*
 * Kernel interfaces that the headers of a supported distribution do not know yet (Debian 12 ships
 * those of 6.1). Numbers are ABI and were taken from the kernel's documentation
 * (admin-guide/mm/pagemap.rst, userfaultfd.rst) and checked by experiment; see docs/kernel.md.
 * Whether a kernel has them is found out by trying (tracker/probe.c).
 */
#ifndef TRACKER_UAPI_H
#define TRACKER_UAPI_H

#include <linux/userfaultfd.h>
#include <stdint.h>
#include <sys/ioctl.h>

/* Linux 6.7 */
struct uapi_page_region {
	uint64_t start, end;
	uint64_t categories;
};

struct uapi_pm_scan_arg {
	uint64_t size;
	uint64_t flags;
	uint64_t start, end;
	uint64_t walk_end;
	uint64_t vec, vec_len;
	uint64_t max_pages;
	uint64_t category_inverted;
	uint64_t category_mask;
	uint64_t category_anyof_mask;
	uint64_t return_mask;
};

#define UAPI_PAGEMAP_SCAN _IOWR('f', 16, struct uapi_pm_scan_arg)

#define UAPI_PAGE_IS_WPALLOWED (1u << 0)
#define UAPI_PAGE_IS_WRITTEN (1u << 1)
#define UAPI_PAGE_IS_FILE (1u << 2)
#define UAPI_PAGE_IS_PRESENT (1u << 3)
#define UAPI_PAGE_IS_SWAPPED (1u << 4)
#define UAPI_PAGE_IS_PFNZERO (1u << 5)
#define UAPI_PAGE_IS_HUGE (1u << 6)
#define UAPI_PAGE_IS_SOFT_DIRTY (1u << 7)
#define UAPI_PAGE_IS_GUARD (1u << 8) /* later than the rest: EINVAL where unknown */

#define UAPI_PM_SCAN_WP_MATCHING (1u << 0)
#define UAPI_PM_SCAN_CHECK_WPASYNC (1u << 1)

/* Linux 6.13 */
#define UAPI_MADV_GUARD_INSTALL 102

#define UAPI_UFFD_USER_MODE_ONLY 1
#define UAPI_UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1u << 12)
#define UAPI_UFFD_FEATURE_WP_UNPOPULATED (1u << 13)
#define UAPI_UFFD_FEATURE_WP_ASYNC (1u << 15)

#endif
