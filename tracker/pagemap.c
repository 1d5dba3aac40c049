/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/guard.h"
#include "tracker/pagemap.h"

/* What can be asked for; and what can be said of a page that is there. */
#define KNOWN                                                                                   \
	(UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED | UAPI_PAGE_IS_FILE | UAPI_PAGE_IS_GUARD | \
		UAPI_PAGE_IS_SOFT_DIRTY | SCAN_MAYBE_ZERO)
#define TOLD (KNOWN | UAPI_PAGE_IS_WRITTEN)

ptrdiff_t pagemap_read(int pagemap_fd, uint64_t start, uint64_t *ret, size_t n)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	ssize_t got;
	do {
		got = pread(
			pagemap_fd, ret, n * sizeof(*ret), (off_t)(start / page * sizeof(*ret)));
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	return got < (ssize_t)sizeof(*ret) ? -ESRCH : got / (ssize_t)sizeof(*ret);
}

int pagemap_each(int pagemap_fd, struct page_run run, pagemap_entry_fn fn, void *arg)
{
	enum { SOME = 512 };
	uint64_t entries[SOME], page = (uint64_t)sysconf(_SC_PAGESIZE);
	for (uint64_t at = run.start; at < run.end;) {
		uint64_t left = (run.end - at) / page;
		ptrdiff_t n =
			pagemap_read(pagemap_fd, at, entries, left < SOME ? (size_t)left : SOME);
		if (n < 0)
			return (int)n;
		for (ptrdiff_t i = 0; i < n; i++, at += page) {
			int r = fn(arg, (struct page_run){at, at + page}, entries[i]);
			if (r != 0)
				return r;
		}
	}
	return 0;
}

static uint64_t categories(uint64_t entry)
{
	uint64_t is = 0;
	if (entry & PAGEMAP_PRESENT)
		is |= UAPI_PAGE_IS_PRESENT;
	if (entry & PAGEMAP_SWAPPED)
		is |= UAPI_PAGE_IS_SWAPPED;
	if (entry & PAGEMAP_FILE)
		is |= UAPI_PAGE_IS_FILE;
	if (entry & PAGEMAP_GUARD)
		is |= UAPI_PAGE_IS_GUARD;
	if (!(entry & PAGEMAP_WRITE_PROTECTED))
		is |= UAPI_PAGE_IS_WRITTEN;
	if (entry & PAGEMAP_SOFT_DIRTY)
		is |= UAPI_PAGE_IS_SOFT_DIRTY;
	if (entry & PAGEMAP_PRESENT && !(entry & (PAGEMAP_FILE | PAGEMAP_EXCLUSIVE)))
		is |= SCAN_MAYBE_ZERO;
	return is;
}

int pagemap_scan(
	const struct scan_query *q, uint64_t start, uint64_t end, scan_region_fn fn, void *arg)
{
	enum { ENTRIES = 8192 };
	if (q->protect || (q->inverted | q->mask | q->anyof) & ~(uint64_t)KNOWN ||
		q->returned & ~(uint64_t)TOLD)
		return -EOPNOTSUPP;
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	auto_free uint64_t *entries = malloc(ENTRIES * sizeof(*entries));
	if (!entries)
		return -ENOMEM;

	struct uapi_page_region region = {0};
	for (uint64_t at = start; at < end;) {
		size_t n = (end - at) / page < ENTRIES ? (size_t)((end - at) / page) : ENTRIES;
		ptrdiff_t got = pagemap_read(q->pagemap_fd, at, entries, n);
		if (got < 0)
			return (int)got;
		for (ptrdiff_t i = 0; i < got; i++, at += page) {
			/* As the ioctl does: an absence that is asked for is a category. */
			uint64_t is = categories(entries[i]) ^ q->inverted;
			if ((is & q->mask) != q->mask || (q->anyof && !(is & q->anyof)))
				continue;
			is = (is ^ q->inverted) & q->returned;
			if (region.end == at && region.end > region.start &&
				region.categories == is) {
				region.end = at + page;
				continue;
			}
			int r = region.end > region.start && fn ? fn(arg, &region) : 0;
			if (r != 0)
				return r;
			region = (struct uapi_page_region){
				.start = at, .end = at + page, .categories = is};
		}
	}
	return region.end > region.start && fn ? fn(arg, &region) : 0;
}
