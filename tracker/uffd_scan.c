/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/guard.h"
#include "tracker/pagemap.h"
#include "tracker/process.h"
#include "tracker/scan.h"
#include "tracker/uffd_registration.h"
#include "tracker/uffd_scan.h"

#define HUGE_PAGE (2ull << 20)
#define POPULATED (UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED)

bool uffd_scan_swap_in_use(void)
{
	auto_fclose FILE *f = fopen("/proc/swaps", "re");
	if (!f)
		return true;
	int lines = 0;
	for (int c; (c = getc(f)) != EOF;)
		lines += c == '\n';
	return lines > 1;
}

static int note_region(
	struct uffd_scan *c, const struct uapi_page_region *region, bool written, bool doubtful)
{
	struct page_run run = {region->start, region->end};
	uint64_t is = region->categories;
	if (!c->found) {
		if (written)
			c->counted_bytes += run.end - run.start;
		return 0;
	}
	int r = pageset_add(&c->found->held, run);
	if (r == 0 && (written || doubtful))
		r = pageset_add(&c->found->written, run);
	if (r == 0 && (doubtful || (written && !c->tracked)))
		r = pageset_add(&c->found->doubtful, run);
	if (r == 0 && written && is & UAPI_PAGE_IS_PFNZERO)
		r = pageset_add(&c->found->zero, run);
	return r;
}

/*
 * Huge pages of private memory that nothing shows to be written. One that was dropped leaves a
 * marker, and one that is read after that comes up armed, full of zeros, as if nothing had
 * happened; so what begins with zeros is doubtful. There is no swap: an entry that is not present
 * is a marker, or a page that the kernel moves just now, which counts as new when it is back.
 */
static int found_hugetlb(struct uffd_scan *c, const struct uapi_page_region *region)
{
	enum { HEAD = 4096 };
	static const uint8_t zeros[HEAD];
	if (!c->found || !(region->categories & UAPI_PAGE_IS_PRESENT))
		return 0;
	for (uint64_t at = region->start, end; at < region->end; at = end) {
		uint8_t head[HEAD];
		end = (at & ~(HUGE_PAGE - 1)) + HUGE_PAGE;
		if (end > region->end)
			end = region->end;
		ssize_t n = pread(c->registration->process->mem_fd, head, HEAD, (off_t)at);
		struct uapi_page_region part = {at, end, region->categories};
		int r = note_region(c, &part, false, n != HEAD || !memcmp(head, zeros, HEAD));
		if (r < 0)
			return r;
	}
	return 0;
}

/* To be taken away, where it is ours: what another userfaultfd watches has that one's markers. */
static int note_marker(
	struct uffd_scan *c, const struct uapi_page_region *region, struct page_run run)
{
	bool ours = c->tracked && region->categories & UAPI_PAGE_IS_WPALLOWED;
	return c->found && ours ? pageset_add(&c->found->markers, run) : 0;
}

/* A region whose entries are asked for one by one. */
struct entries {
	struct uffd_scan *c;
	const struct uapi_page_region *region;
	bool written;
};

static int note_entry(void *arg, struct page_run page, uint64_t entry)
{
	const struct entries *e = arg;
	struct uapi_page_region one = {page.start, page.end, e->region->categories};
	return pagemap_is_marker(entry)
		       ? note_marker(e->c, e->region, page)
		       : note_region(e->c, &one, e->written, pagemap_is_hidden(entry));
}

/*
 * Pages of a private file mapping that are neither present nor written, and have an entry all the
 * same: copies that were swapped out, or the markers of pages that are the file's again
 * (MADV_DONTNEED of an armed copy leaves one, and so does cutting the file off). The kind of swap
 * entry tells, where we may see it. Else, with swap about, all are held and read each time; that
 * gives what the process would see.
 */
static int found_entries(struct uffd_scan *c, const struct uapi_page_region *region, bool written)
{
	if (!c->swap_in_use)
		return note_marker(c, region, (struct page_run){region->start, region->end});
	struct entries e = {.c = c, .region = region, .written = written};
	return pagemap_each(c->registration->process->pagemap_fd,
		(struct page_run){region->start, region->end}, note_entry, &e);
}

static int found_private(void *arg, const struct uapi_page_region *region)
{
	struct uffd_scan *c = arg;
	uint64_t is = region->categories;
	struct page_run run = {region->start, region->end};

	/* A guard page is an entry in the page table that nobody can read; where the kernel does
	 * not tell, it looks like a swapped page and is found out by the reader. */
	if (is & UAPI_PAGE_IS_GUARD)
		return c->found ? pageset_add(&c->found->unreadable, run) : 0;

	/* A stretch that lost its registration after recover_lost(). */
	bool unregistered = !(is & UAPI_PAGE_IS_WPALLOWED);
	bool written = !c->tracked || unregistered || is & UAPI_PAGE_IS_WRITTEN;

	if (c->kind == WATCH_PRIVATE_FILE) {
		bool present = is & UAPI_PAGE_IS_PRESENT;
		/* The file's own page: clean page cache, merely read, also where it counts as
		 * written. */
		if (present && is & UAPI_PAGE_IS_FILE)
			return 0;
		if (!present && !c->hugetlb && !(is & UAPI_PAGE_IS_WRITTEN))
			return found_entries(c, region, written);
	}
	if (c->hugetlb && !written)
		return found_hugetlb(c, region);
	return note_region(c, region, written, false);
}

static int found_shared(void *arg, const struct uapi_page_region *region)
{
	struct uffd_scan *c = arg;
	struct page_run run = {region->start, region->end};
	if (!c->found) {
		c->counted_bytes += run.end - run.start;
		return 0;
	}
	int r = pageset_add(&c->found->written, run);
	return r == 0 && !c->tracked ? pageset_add(&c->found->doubtful, run) : r;
}

/*
 * Private memory: one scan gives what is held and what was written, at the same instant, and arms.
 * Where little is held, or nothing is known yet.
 * Of file mappings it passes over the file's own pages: they are nothing to us, a copy of one comes
 * up written, and an armed one leaves a marker where it goes (uffd_registration_take_markers_away).
 */
static int scan_populated(struct uffd_scan *c, uint64_t start, uint64_t end)
{
	bool pass_over_files = c->kind == WATCH_PRIVATE_FILE && !c->hugetlb;
	struct scan_query q = {
		.pagemap_fd = c->registration->process->pagemap_fd,
		.protect = c->protect && c->tracked,
		.unpaused = c->unpaused,
		.inverted = pass_over_files ? UAPI_PAGE_IS_FILE : 0,
		.mask = pass_over_files ? UAPI_PAGE_IS_FILE : 0,
		.anyof = POPULATED,
		.returned = POPULATED | UAPI_PAGE_IS_WRITTEN | UAPI_PAGE_IS_WPALLOWED |
			    UAPI_PAGE_IS_PFNZERO | UAPI_PAGE_IS_GUARD |
			    /* Five times dearer, so only where it matters. */
			    (c->kind == WATCH_PRIVATE_FILE ? UAPI_PAGE_IS_FILE : 0),
	};
	return scan_range(&q, start, end, found_private, c);
}

/* From what is known on up to here, all is present. */
static int note_present(struct uffd_scan *c, uint64_t until)
{
	struct page_run run = {c->known, until};
	return run.start < run.end ? pageset_add(&c->found->held, run) : 0;
}

static int found_absent(void *arg, const struct uapi_page_region *region)
{
	struct uffd_scan *c = arg;
	struct page_run run = {region->start, region->end};
	bool is_guard = region->categories & UAPI_PAGE_IS_GUARD;
	/* Swapped: that is held, too. */
	if (region->categories & UAPI_PAGE_IS_SWAPPED && !is_guard)
		return 0;
	int r = note_present(c, run.start);
	if (r == 0 && is_guard)
		r = pageset_add(&c->found->unreadable, run);
	c->known = run.end;
	return r;
}

/* What is held, of dense memory: all but what is not there. */
static int scan_absent(struct uffd_scan *c, uint64_t start, uint64_t end)
{
	struct scan_query q = {
		.pagemap_fd = c->registration->process->pagemap_fd,
		.unpaused = c->unpaused,
		.inverted = UAPI_PAGE_IS_PRESENT,
		.mask = UAPI_PAGE_IS_PRESENT,
		.returned = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED | UAPI_PAGE_IS_GUARD,
	};
	c->known = start;
	int r = scan_range(&q, start, end, found_absent, c);
	return r == 0 ? note_present(c, end) : r;
}

/*
 * Dense private memory. What the kernel reports costs it 12 ns a page, what it passes over 3 ns: so
 * only what is exceptional is asked for, what is not there and what was written. Between the two
 * questions the process may run; what it does then is no worse than after both. A page that goes
 * counts as held until the next collect, which finds it gone. One that comes is written, since
 * nobody has armed it: where it took the place of one that was held, the next collect finds that,
 * and else source_account() does. In the freeze there is no between.
 */
static int scan_dense(struct uffd_scan *c, uint64_t start, uint64_t end)
{
	int r = c->found ? scan_absent(c, start, end) : 0;
	struct scan_query q = {
		.pagemap_fd = c->registration->process->pagemap_fd,
		.protect = c->protect,
		.unpaused = c->unpaused,
		.mask = UAPI_PAGE_IS_WRITTEN,
		.anyof = POPULATED,
		.returned = POPULATED | UAPI_PAGE_IS_WRITTEN | UAPI_PAGE_IS_WPALLOWED |
			    UAPI_PAGE_IS_PFNZERO | UAPI_PAGE_IS_GUARD,
	};
	if (r == 0)
		r = scan_range(&q, start, end, found_private, c);
	/* What lost its registration is written as a whole. The kernel passes over mappings that
	 * have one, page tables and all. */
	q.protect = false;
	q.inverted = q.mask = UAPI_PAGE_IS_WPALLOWED;
	return r == 0 ? scan_range(&q, start, end, found_private, c) : r;
}

/* Whether most of it was held last time. To count writes, nothing that is held need be asked for.
 */
static bool is_dense(const struct uffd_scan *c, uint64_t start, uint64_t end)
{
	const struct pageset *held = c->held;
	uint64_t bytes = 0;
	if (!c->tracked || c->kind != WATCH_PRIVATE || c->hugetlb)
		return false;
	if (!c->found)
		return true;
	for (size_t i = pageset_find(held, start); i < held->len && held->runs[i].start < end;
		i++) {
		const struct page_run *run = &held->runs[i];
		bytes += (run->end < end ? run->end : end) -
			 (run->start > start ? run->start : start);
	}
	return bytes > (end - start) / 2;
}

static int scan_private(struct uffd_scan *c, uint64_t start, uint64_t end)
{
	return is_dense(c, start, end) ? scan_dense(c, start, end) : scan_populated(c, start, end);
}

/*
 * Shared memory: a page may be written and then leave the page table (reclaim) before we look, so
 * that holes count: the scan asks for "written" alone (older kernels report holes only if exactly
 * that is asked) and takes it that arming leaves markers in holes.
 */
static int scan_shared(struct uffd_scan *c, uint64_t start, uint64_t end)
{
	struct page_run run = {start, end};
	if (!c->tracked || !pageset_covers(&c->registration->shared_armed, run)) {
		struct uapi_page_region all = {.start = start, .end = end};
		int r = found_shared(c, &all);
		if (r < 0 || !c->tracked || !c->protect)
			return r;
	}
	struct scan_query q = {
		.pagemap_fd = c->registration->process->pagemap_fd,
		.protect = c->protect,
		.unpaused = c->unpaused,
		.mask = UAPI_PAGE_IS_WRITTEN,
		.returned = UAPI_PAGE_IS_WRITTEN,
	};
	int r = scan_range(&q, start, end, found_shared, c);
	return r == 0 && c->protect ? pageset_add(&c->registration->shared_armed, run) : r;
}

int uffd_scan_stretch(struct uffd_scan *c, const struct stretch *s)
{
	c->kind = s->kind;
	c->hugetlb = s->hugetlb;
	c->tracked = s->tracked;
	return s->kind == WATCH_SHARED ? scan_shared(c, s->start, s->end)
				       : scan_private(c, s->start, s->end);
}
