/* SPDX-License-Identifier: MIT */
/*
 * The bits of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst) and of /proc/kpageflags
 * (include/uapi/linux/kernel-page-flags.h), and what the kernel puts into entries of swapped pages.
 */
#ifndef TRACKER_PAGE_BITS_H
#define TRACKER_PAGE_BITS_H

#include <stdint.h>

#define PAGEMAP_BIT_SOFT_DIRTY 55
#define PAGEMAP_BIT_EXCLUSIVE 56
#define PAGEMAP_BIT_WRITE_PROTECTED 57 /* Linux 5.13 */
#define PAGEMAP_BIT_GUARD 58           /* Linux 6.15 */
#define PAGEMAP_BIT_FILE 61
#define PAGEMAP_BIT_SWAPPED 62
#define PAGEMAP_BIT_PRESENT 63

/* The frame number of a present page; of a swapped one the type and, above it, the offset. */
#define PAGEMAP_FRAME ((1ull << 55) - 1)
#define PAGEMAP_SWAP_TYPE_BITS 5
#define PAGEMAP_SWAP_TYPE 31u

/*
 * Types of swap entries (include/linux/swap.h): of the 32, the first are swap files, as many as
 * this kernel's configuration leaves (23 at least); then come frames on the way elsewhere, broken
 * ones, and device memory; the last one is a marker, whose offset holds the marks.
 */
#define SWAP_TYPE_FIRST_OTHER 23u
#define SWAP_TYPE_MARKER 31u
#define MARKER_GUARD (1ull << 2)

#define KPF_LOCKED 0
#define KPF_REFERENCED 2
#define KPF_DIRTY 4
#define KPF_ACTIVE 6
#define KPF_WRITEBACK 8
#define KPF_ANON 12
#define KPF_SWAPCACHE 13
#define KPF_SWAPBACKED 14
#define KPF_UNEVICTABLE 18
#define KPF_HWPOISON 19
#define KPF_KSM 21
#define KPF_ZERO_PAGE 24
#define KPF_IDLE 25
#define KPF_MLOCKED 33

#endif
