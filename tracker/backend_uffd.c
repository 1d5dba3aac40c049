/* SPDX-License-Identifier: MIT */
/*
 * The userfaultfd is created inside the target (tracker/inject.c) and belongs to its memory; all
 * else is done from outside. A page is armed by setting its write-protect bit; the kernel resolves
 * the first write into it by itself, without anybody being asked, and clears the bit. So "written"
 * is a bit in the page table that a scan reads and sets again in one atomic step.
 *
 * docs/kernel.md tells what each kind of memory answers, and why the scans below ask as they do.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include "base/error.h"
#include "base/guard.h"
#include "base/parallel.h"
#include "tracker/backend_uffd.h"
#include "tracker/pagemap.h"
#include "tracker/process.h"
#include "tracker/scan.h"
#include "tracker/stretch.h"
#include "tracker/tracer.h"
#include "tracker/uffd_registration.h"

#define FEATURES                                                         \
	(UAPI_UFFD_FEATURE_WP_ASYNC | UAPI_UFFD_FEATURE_WP_UNPOPULATED | \
		UAPI_UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
#define HUGE_PAGE (2ull << 20)
#define POPULATED (UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED)

struct uffd_backend {
	struct backend base;
	struct uffd_registration registration;
	struct pageset held; /* by the last collect: tells which way to ask is the cheaper one */
};

/* One collect, while it runs. */
struct collecting {
	struct uffd_backend *b;
	struct backend_found *found;
	enum watch_kind kind;
	bool hugetlb;
	bool tracked;     /* else every held page counts as written */
	bool protect;     /* arm what is found */
	bool unpaused;    /* the process stands still */
	bool swap_in_use; /* the machine has swap: a swapped entry may be a swapped page */
	uint64_t pages;   /* counting only (found is NULL) */
	uint64_t known;   /* scan_absent(): up to here */
};

static int api(int uffd)
{
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
	return ioctl(uffd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

static int count_written(void *arg, const struct uapi_page_region *region)
{
	*(uint64_t *)arg += region->end - region->start;
	return 0;
}

/*
 * Arms two pages of our own, writes one and looks: nothing less tells that the kernel does it. A
 * version or a return code does not (a kernel may know the ioctl and not the feature, or be
 * forbidden to us).
 */
static int uffd_probe(struct tide_error *err)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	auto_close int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		return tide_fail(err, -errno, "cannot open its own pagemap");
	auto_close int uffd =
		(int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UAPI_UFFD_USER_MODE_ONLY);
	if (uffd < 0)
		return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -errno,
			"userfaultfd is not to be had (%s)", strerrordesc_np(errno));
	if (api(uffd) < 0)
		return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -EOPNOTSUPP,
			"userfaultfd lacks asynchronous write-protect (Linux 6.7 has it)");

	uint8_t *memory =
		mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return tide_fail(err, -errno, "map two pages");
	uint64_t start = (uintptr_t)memory, end = start + 2 * page, written = 0;
	memset(memory, 1, 2 * page);

	struct scan_query arm = {.pagemap_fd = pagemap,
		.protect = true,
		.unpaused = true,
		.mask = UAPI_PAGE_IS_WRITTEN,
		.anyof = POPULATED,
		.returned = UAPI_PAGE_IS_WRITTEN};
	struct scan_query look = arm;
	look.protect = false;
	int r = uffd_register(uffd, start, end);
	if (r == 0)
		r = scan_range(&arm, start, end, NULL, NULL);
	if (r == 0) {
		*(volatile uint8_t *)memory = 2;
		r = scan_range(&look, start, end, count_written, &written);
	}
	munmap(memory, 2 * page);
	if (r == -EOPNOTSUPP)
		return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -EOPNOTSUPP,
			"no PAGEMAP_SCAN (Linux 6.7 has it)");
	if (r < 0)
		return tide_fail(err, r, "arming a page of its own fails");
	if (written != page)
		return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -EOPNOTSUPP,
			"an armed page that was written does not show");
	return 0;
}

static int uffd_attach(
	const struct process *p, struct tracer *t, struct backend **ret, struct tide_error *err)
{
	struct uffd_backend *b = calloc(1, sizeof(*b));
	if (!b)
		return tide_fail(err, -ENOMEM, "follow process %d", p->pid);
	b->base.ops = &backend_uffd_wp;
	b->registration = (struct uffd_registration){.process = p, .tracer = t, .uffd = -1};

	int r = tracer_inject_userfaultfd(t, &b->registration.uffd, err);
	if (r == 0) {
		r = api(b->registration.uffd);
		if (r < 0)
			tide_fail(err, r, "set up write tracking of process %d", p->pid);
	}
	if (r < 0) {
		backend_uffd_wp.release(&b->base);
		return r;
	}
	*ret = &b->base;
	return 0;
}

/*
 * Is any swap in use on this machine? Without it, a swapped entry of a file mapping can only be a
 * marker that the kernel leaves where an armed page was taken out of the page table.
 */
static bool machine_has_swap(void)
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
	struct collecting *c, const struct uapi_page_region *region, bool written, bool doubtful)
{
	struct page_run run = {region->start, region->end};
	uint64_t is = region->categories;
	if (!c->found) {
		if (written)
			c->pages += run.end - run.start;
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
static int found_hugetlb(struct collecting *c, const struct uapi_page_region *region)
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
		ssize_t n = pread(c->b->registration.process->mem_fd, head, HEAD, (off_t)at);
		struct uapi_page_region part = {at, end, region->categories};
		int r = note_region(c, &part, false, n != HEAD || !memcmp(head, zeros, HEAD));
		if (r < 0)
			return r;
	}
	return 0;
}

/* To be taken away, where it is ours: what another userfaultfd watches has that one's markers. */
static int note_marker(
	struct collecting *c, const struct uapi_page_region *region, struct page_run run)
{
	bool ours = c->tracked && region->categories & UAPI_PAGE_IS_WPALLOWED;
	return c->found && ours ? pageset_add(&c->found->markers, run) : 0;
}

/* A region whose entries are asked for one by one. */
struct entries {
	struct collecting *c;
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
static int found_entries(struct collecting *c, const struct uapi_page_region *region, bool written)
{
	if (!c->swap_in_use)
		return note_marker(c, region, (struct page_run){region->start, region->end});
	struct entries e = {.c = c, .region = region, .written = written};
	return pagemap_each(c->b->registration.process->pagemap_fd,
		(struct page_run){region->start, region->end}, note_entry, &e);
}

static int found_private(void *arg, const struct uapi_page_region *region)
{
	struct collecting *c = arg;
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
	struct collecting *c = arg;
	struct page_run run = {region->start, region->end};
	if (!c->found) {
		c->pages += run.end - run.start;
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
static int scan_populated(struct collecting *c, uint64_t start, uint64_t end)
{
	bool pass_over_files = c->kind == WATCH_PRIVATE_FILE && !c->hugetlb;
	struct scan_query q = {
		.pagemap_fd = c->b->registration.process->pagemap_fd,
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
static int note_present(struct collecting *c, uint64_t until)
{
	struct page_run run = {c->known, until};
	return run.start < run.end ? pageset_add(&c->found->held, run) : 0;
}

static int found_absent(void *arg, const struct uapi_page_region *region)
{
	struct collecting *c = arg;
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
static int scan_absent(struct collecting *c, uint64_t start, uint64_t end)
{
	struct scan_query q = {
		.pagemap_fd = c->b->registration.process->pagemap_fd,
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
static int scan_dense(struct collecting *c, uint64_t start, uint64_t end)
{
	int r = c->found ? scan_absent(c, start, end) : 0;
	struct scan_query q = {
		.pagemap_fd = c->b->registration.process->pagemap_fd,
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
static bool is_dense(const struct collecting *c, uint64_t start, uint64_t end)
{
	const struct pageset *held = &c->b->held;
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

static int scan_private(struct collecting *c, uint64_t start, uint64_t end)
{
	return is_dense(c, start, end) ? scan_dense(c, start, end) : scan_populated(c, start, end);
}

/*
 * Shared memory: a page may be written and then leave the page table (reclaim) before we look, so
 * that holes count: the scan asks for "written" alone (older kernels report holes only if exactly
 * that is asked) and takes it that arming leaves markers in holes.
 */
static int scan_shared(struct collecting *c, uint64_t start, uint64_t end)
{
	struct page_run run = {start, end};
	if (!c->tracked || !pageset_covers(&c->b->registration.shared_armed, run)) {
		struct uapi_page_region all = {.start = start, .end = end};
		int r = found_shared(c, &all);
		if (r < 0 || !c->tracked || !c->protect)
			return r;
	}
	struct scan_query q = {
		.pagemap_fd = c->b->registration.process->pagemap_fd,
		.protect = c->protect,
		.unpaused = c->unpaused,
		.mask = UAPI_PAGE_IS_WRITTEN,
		.returned = UAPI_PAGE_IS_WRITTEN,
	};
	int r = scan_range(&q, start, end, found_shared, c);
	return r == 0 && c->protect ? pageset_add(&c->b->registration.shared_armed, run) : r;
}

static int scan_as(struct collecting *c, const struct stretch *s)
{
	c->kind = s->kind;
	c->hugetlb = s->hugetlb;
	c->tracked = s->tracked;
	return s->kind == WATCH_SHARED ? scan_shared(c, s->start, s->end)
				       : scan_private(c, s->start, s->end);
}

/* Several at once, in the freeze. */
static int scan_stretch(void *arg, const struct stretch *s, struct backend_found *found)
{
	struct collecting c = *(const struct collecting *)arg;
	c.found = found;
	return scan_as(&c, s);
}

static int count_stretch(void *arg, const struct stretch *s, struct backend_found *found)
{
	(void)found;
	return scan_as(arg, s);
}

static bool is_covered(void *arg, const struct watch *w)
{
	return uffd_registration_covers(arg, w);
}

static int make_stretches(struct uffd_backend *b, const struct mapping_table *maps,
	const struct watch_list *watches, struct stretch_list *ret, struct tide_error *err)
{
	int r = stretch_list_make(maps, watches, is_covered, &b->registration, ret);
	return r < 0 ? tide_fail(err, r, "note the mappings of process %d",
			       b->registration.process->pid)
		     : 0;
}

/* All that is held where we registered anew. */
static int add_fresh(const struct uffd_backend *b, struct backend_found *found)
{
	struct pageset held = {0};
	int r = pageset_intersect(&found->held, &b->registration.fresh, &held);
	if (r == 0)
		r = pageset_merge(&found->written, &held);
	pageset_release(&held);
	return r;
}

static int uffd_collect(struct backend *base, const struct mapping_table *maps,
	const struct watch_list *watches, bool frozen, struct backend_found *ret,
	struct tide_error *err)
{
	struct uffd_backend *b = (struct uffd_backend *)base;
	const struct process *p = b->registration.process;
	struct backend_found found = {0};
	struct stretch_list stretches = {0};
	struct collecting c = {
		.b = b, .protect = !frozen, .unpaused = frozen, .swap_in_use = machine_has_swap()};

	int r = uffd_registration_update(&b->registration, maps, watches, frozen, err);
	if (r == 0)
		r = make_stretches(b, maps, watches, &stretches, err);
	/* While it runs, one thread: more would hold back its own mmap calls for longer. */
	if (r == 0)
		r = stretch_list_scan(&stretches, p, frozen ? parallel_processors() : 1,
			scan_stretch, &c, &found, err);
	stretch_list_release(&stretches);
	uffd_registration_take_markers_away(&b->registration, &found.markers);
	if (r == 0 && (r = add_fresh(b, &found)) < 0)
		tide_fail(err, r, "note what process %d wrote", p->pid);
	if (r == 0)
		r = pageset_merge(&found.refused, &b->registration.refused);
	pageset_clear(&b->held);
	if (r == 0 && (r = pageset_merge(&b->held, &found.held)) < 0)
		tide_fail(err, r, "note what process %d holds", p->pid);
	if (r < 0) {
		backend_found_release(&found);
		return r;
	}
	*ret = found;
	return 0;
}

static int uffd_pending(struct backend *base, const struct mapping_table *maps,
	const struct watch_list *watches, uint64_t *ret_pages, struct tide_error *err)
{
	struct uffd_backend *b = (struct uffd_backend *)base;
	struct stretch_list stretches = {0};
	struct collecting c = {.b = b, .swap_in_use = machine_has_swap()};
	int r = make_stretches(b, maps, watches, &stretches, err);
	if (r == 0)
		r = stretch_list_scan(
			&stretches, b->registration.process, 1, count_stretch, &c, NULL, err);
	stretch_list_release(&stretches);
	if (r == 0)
		*ret_pages = c.pages / (uint64_t)sysconf(_SC_PAGESIZE);
	return r;
}

static void uffd_release(struct backend *base)
{
	struct uffd_backend *b = (struct uffd_backend *)base;
	uffd_registration_release(&b->registration);
	pageset_release(&b->held);
	free(b);
}

const struct backend_ops backend_uffd_wp = {
	.name = "uffd-wp",
	.about = "userfaultfd asynchronous write-protect, PAGEMAP_SCAN",
	.probe = uffd_probe,
	.attach = uffd_attach,
	.collect = uffd_collect,
	.pending = uffd_pending,
	.release = uffd_release,
};
