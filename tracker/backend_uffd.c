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
#include <time.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/guard.h"
#include "tracker/backend_uffd.h"
#include "tracker/maps.h"
#include "tracker/pagemap.h"
#include "tracker/process.h"
#include "tracker/scan.h"
#include "tracker/tracer.h"

#define FEATURES                                                         \
	(UAPI_UFFD_FEATURE_WP_ASYNC | UAPI_UFFD_FEATURE_WP_UNPOPULATED | \
		UAPI_UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
#define HUGE_PAGE (2ull << 20)
#define STAND_STILL_NS (5 * NS_PER_S)
/* No stack grows by more between two looks. */
#define STACK_GROWTH_MAX (64ull << 20)
#define POPULATED (UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED)

struct uffd_backend {
	struct backend base;
	const struct process *process;
	struct tracer *tracer;
	int uffd;
	bool has_own; /* the process has had a userfaultfd at a look */
	bool locks;   /* ... or locked memory: its file mappings are not armed */
	struct pageset registered;
	struct pageset fresh;        /* of these, by this collect */
	struct pageset refused;      /* another userfaultfd's */
	struct pageset shared_armed; /* stretches of shared objects that were armed in an earlier
					collect */
};

/* One collect, while it runs. */
struct collecting {
	struct uffd_backend *b;
	struct backend_found *found;
	enum watch_kind kind;
	bool hugetlb;
	bool tracked;           /* else every held page counts as written */
	bool swap_in_use;       /* the machine has swap: a swapped entry may be a swapped page */
	struct pageset markers; /* of private file mappings */
	uint64_t pages;         /* counting only (found is NULL) */
};

static int api(int uffd)
{
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
	return ioctl(uffd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

static int protect_range(int uffd, uint64_t start, uint64_t end)
{
	struct uffdio_register reg = {
		.range = {.start = start, .len = end - start},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	return ioctl(uffd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
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
	int r = protect_range(uffd, start, end);
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

static bool has_userfaultfd(const struct process *p)
{
	int fds = openat(p->proc_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_closedir DIR *dir = fds >= 0 ? fdopendir(fds) : NULL;
	for (struct dirent *e; dir && (e = readdir(dir));) {
		char target[64];
		ssize_t n = readlinkat(fds, e->d_name, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		if (strcmp(target, "anon_inode:[userfaultfd]") == 0)
			return true;
	}
	return false;
}

static int uffd_attach(
	const struct process *p, struct tracer *t, struct backend **ret, struct tide_error *err)
{
	struct uffd_backend *b = calloc(1, sizeof(*b));
	if (!b)
		return tide_fail(err, -ENOMEM, "follow process %d", p->pid);
	b->base.ops = &backend_uffd_wp;
	b->process = p;
	b->tracer = t;
	b->uffd = -1;
	b->has_own = has_userfaultfd(p);

	int r = tracer_inject_userfaultfd(t, &b->uffd, err);
	if (r == 0) {
		r = api(b->uffd);
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
		ssize_t n = pread(c->b->process->mem_fd, head, HEAD, (off_t)at);
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
	return c->found && ours ? pageset_add(&c->markers, run) : 0;
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
	enum { SOME = 512 };
	uint64_t entries[SOME], page = (uint64_t)sysconf(_SC_PAGESIZE);
	if (!c->swap_in_use)
		return note_marker(c, region, (struct page_run){region->start, region->end});
	for (uint64_t at = region->start; at < region->end;) {
		uint64_t left = (region->end - at) / page;
		ptrdiff_t n = pagemap_read(
			c->b->process->pagemap_fd, at, entries, left < SOME ? (size_t)left : SOME);
		if (n < 0)
			return (int)n;
		for (ptrdiff_t i = 0; i < n; i++, at += page) {
			struct uapi_page_region one = {at, at + page, region->categories};
			bool hidden = !(entries[i] & PAGEMAP_FRAME);
			bool marker =
				!hidden && (entries[i] & PAGEMAP_SWAP_TYPE) == SWAP_TYPE_MARKER;
			int r = marker ? note_marker(c, region, (struct page_run){at, at + page})
				       : note_region(c, &one, written, hidden);
			if (r < 0)
				return r;
		}
	}
	return 0;
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
 * Of file mappings it passes over the file's own pages: they are nothing to us, a copy of one comes
 * up written, and an armed one leaves a marker where it goes (take_markers_away).
 */
static int scan_private(
	struct collecting *c, uint64_t start, uint64_t end, bool protect, bool unpaused)
{
	bool pass_over_files = c->kind == WATCH_PRIVATE_FILE && !c->hugetlb;
	struct scan_query q = {
		.pagemap_fd = c->b->process->pagemap_fd,
		.protect = protect && c->tracked,
		.unpaused = unpaused,
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

/*
 * Shared memory: a page may be written and then leave the page table (reclaim) before we look, so
 * that holes count: the scan asks for "written" alone (older kernels report holes only if exactly
 * that is asked) and takes it that arming leaves markers in holes.
 */
static int scan_shared(
	struct collecting *c, uint64_t start, uint64_t end, bool protect, bool unpaused)
{
	struct page_run run = {start, end};
	if (!c->tracked || !pageset_covers(&c->b->shared_armed, run)) {
		struct uapi_page_region all = {.start = start, .end = end};
		int r = found_shared(c, &all);
		if (r < 0 || !c->tracked || !protect)
			return r;
	}
	struct scan_query q = {
		.pagemap_fd = c->b->process->pagemap_fd,
		.protect = protect,
		.unpaused = unpaused,
		.mask = UAPI_PAGE_IS_WRITTEN,
		.returned = UAPI_PAGE_IS_WRITTEN,
	};
	int r = scan_range(&q, start, end, found_shared, c);
	return r == 0 && protect ? pageset_add(&c->b->shared_armed, run) : r;
}

static int scan_stretch(
	struct collecting *c, uint64_t start, uint64_t end, bool protect, bool unpaused)
{
	if (c->kind == WATCH_SHARED)
		return scan_shared(c, start, end, protect, unpaused);
	return scan_private(c, start, end, protect, unpaused);
}

static int scan_failed(
	const struct uffd_backend *b, int r, uint64_t start, uint64_t end, struct tide_error *err)
{
	if (r == -ESRCH)
		return tide_fail_kind(err, TIDE_ERROR_TARGET_GONE, -ECANCELED,
			"process %d ended, or became another program", b->process->pid);
	return tide_fail(err, r, "scan the pages of process %d from %#llx to %#llx",
		b->process->pid, (unsigned long long)start, (unsigned long long)end);
}

static bool is_hugetlb(const struct mapping_table *maps, const struct watch *w)
{
	return maps->v[w->mapping].flags & MAPPING_HUGETLB;
}

/* Could a marker in there, of a page that is locked, hang the process (take_markers_away)? */
static bool is_dangerous(const struct mapping_table *maps, const struct watch *w)
{
	return w->kind == WATCH_PRIVATE_FILE && !is_hugetlb(maps, w);
}

static bool is_tracked(
	const struct uffd_backend *b, const struct mapping_table *maps, const struct watch *w)
{
	return pageset_covers(&b->registered, (struct page_run){w->start, w->end}) &&
	       !(b->locks && is_dangerous(maps, w));
}

/* Watches that lie side by side and mean the same are scanned by one call. */
static int scan_all(struct collecting *c, const struct mapping_table *maps,
	const struct watch_list *watches, bool protect, bool unpaused, struct tide_error *err)
{
	for (size_t i = 0, next; i < watches->len; i = next) {
		const struct watch *w = &watches->v[i];
		c->kind = w->kind;
		c->hugetlb = is_hugetlb(maps, w);
		c->tracked = is_tracked(c->b, maps, w);
		uint64_t end = w->end;
		for (next = i + 1; next < watches->len && w->kind != WATCH_SHARED; next++) {
			const struct watch *n = &watches->v[next];
			if (n->start != end || n->kind != w->kind ||
				is_hugetlb(maps, n) != c->hugetlb ||
				is_tracked(c->b, maps, n) != c->tracked)
				break;
			end = n->end;
		}
		int r = scan_stretch(c, w->start, end, protect, unpaused);
		if (r < 0)
			return scan_failed(c->b, r, w->start, end, err);
	}
	return 0;
}

/* How far down a stack can have grown, as far as one can tell: nothing else was there. */
static uint64_t stack_may_begin(const struct mapping_table *maps, uint32_t index)
{
	uint64_t start = maps->v[index].start;
	uint64_t behind = index ? maps->v[index - 1].end : 0;
	return start - behind > STACK_GROWTH_MAX ? start - STACK_GROWTH_MAX : behind;
}

static int unprotect(int uffd, struct page_run run)
{
	struct uffdio_writeprotect wp = {.range = {.start = run.start, .len = run.end - run.start}};
	while (ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) < 0) {
		if (errno != EAGAIN)
			return -errno;
	}
	return 0;
}

/*
 * A page of a locked mapping (mlock) that has a marker, and is not in the page cache, is a fault
 * that the kernel never gets done with: the process hangs, with the lock of its address space held
 * in the case of mlock() itself (Linux 6.18, filemap_fault_recheck_pte_none()). So no marker stays
 * in a file mapping for longer than until we see it; and none comes up in a process that locks
 * memory, for nothing is armed there (disarm_files).
 */
static void take_markers_away(struct uffd_backend *b, const struct pageset *markers)
{
	/* Fails where the mapping is gone, and its markers with it. */
	for (size_t i = 0; i < markers->len; i++)
		(void)unprotect(b->uffd, markers->runs[i]);
}

static bool has_locked_memory(const struct process *p)
{
	char text[64];
	pid_t tid = process_find_thread(p);
	int r = tid ? process_read_status(p, tid, "VmLck", text, sizeof(text)) : -ESRCH;
	return r == 0 && strtoull(text, NULL, 10) > 0;
}

/* From the first look on that finds locked memory, copied pages of its file mappings are read each
 * time; they are few. */
static void disarm_files(
	struct uffd_backend *b, const struct mapping_table *maps, const struct watch_list *watches)
{
	if (b->locks || !has_locked_memory(b->process))
		return;
	b->locks = true;
	for (size_t i = 0; i < watches->len; i++) {
		const struct watch *w = &watches->v[i];
		struct pageset file = {.runs = &(struct page_run){w->start, w->end}, .len = 1};
		if (is_dangerous(maps, w))
			take_markers_away(b, &file);
	}
}

static int note_run(void *arg, const struct uapi_page_region *region)
{
	return pageset_add(arg, (struct page_run){region->start, region->end});
}

/*
 * Write-protect bits can be there already, from a registration that the kernel took away without
 * taking them along (recover_lost), ours or an earlier tracker's. Such a page counts as not
 * written, so that a protecting scan leaves it as it is, and it may be writable: nothing would ever
 * show again. They are taken away, and the scan finds the page written and protects it.
 */
static int clear_stale(struct uffd_backend *b, uint64_t start, uint64_t end)
{
	struct pageset stale = {0};
	struct scan_query q = {
		.pagemap_fd = b->process->pagemap_fd,
		.inverted = UAPI_PAGE_IS_WRITTEN,
		.mask = UAPI_PAGE_IS_WRITTEN,
		.anyof = POPULATED,
		.returned = UAPI_PAGE_IS_PRESENT,
	};
	int r = scan_range(&q, start, end, note_run, &stale);
	for (size_t i = 0; r == 0 && i < stale.len; i++)
		r = unprotect(b->uffd, stale.runs[i]);
	pageset_release(&stale);
	return r;
}

/*
 * Registers a part of one mapping, and takes it as written whole: only the kernel knows what
 * happened there before. Not being able to is no failure: the mapping is then read whole each time.
 */
static int register_run(struct uffd_backend *b, const struct mapping_table *maps, uint32_t index,
	struct page_run run)
{
	const struct mapping *m = &maps->v[index];
	uint64_t start = run.start;
	/*
	 * The stack may have grown since it was looked at. To register less than all of it would
	 * cut it in two, and the part that grew would not be called a stack any more.
	 */
	if (m->flags & MAPPING_GROWSDOWN && start == m->start)
		start = stack_may_begin(maps, index);
	int r = protect_range(b->uffd, start, run.end);
	if (r == -EBUSY)
		return pageset_add(&b->refused, run);
	/* ENOMEM is also what a userfaultfd says whose memory is gone; the scan that follows tells.
	 * EINVAL: the mapping went meanwhile, or is of a kind that cannot be; EPERM: shared and
	 * never writable. */
	if (r < 0)
		return 0;
	r = clear_stale(b, start, run.end);
	if (r == -ENOMEM)
		return r;
	/* The memory is gone, which is for the scan to say; or already not registered any more. */
	if (r < 0)
		return 0;
	r = pageset_add(&b->registered, run);
	if (r == 0)
		r = pageset_add(&b->fresh, run);
	return r == 0 ? pageset_remove(&b->shared_armed, run) : r;
}

/* Registers what is not registered of a mapping; what is stays untouched, for where the kernel let
 * go of it that must be seen (recover_lost). */
static int register_rest(struct uffd_backend *b, const struct mapping_table *maps, uint32_t index)
{
	const struct mapping *m = &maps->v[index];
	int r = 0;
	for (uint64_t at = m->start, end; r == 0 && at < m->end; at = end) {
		size_t i = pageset_find(&b->registered, at);
		const struct page_run *run = i < b->registered.len ? &b->registered.runs[i] : NULL;
		bool there = run && run->start <= at;
		end = run ? (there ? run->end : run->start) : m->end;
		if (end > m->end)
			end = m->end;
		if (!there)
			r = register_run(b, maps, index, (struct page_run){at, end});
	}
	return r;
}

/* Registers what is watched and not registered yet, and forgets what is not watched any more. */
static int register_new(
	struct uffd_backend *b, const struct mapping_table *maps, const struct watch_list *watches)
{
	struct pageset places = {0}, kept = {0};
	int r = 0;
	for (size_t i = 0; r == 0 && i < watches->len; i++) {
		const struct mapping *m = &maps->v[watches->v[i].mapping];
		r = pageset_add(&places, (struct page_run){m->start, m->end});
	}
	if (r == 0)
		r = pageset_intersect(&b->registered, &places, &kept);
	if (r == 0)
		pageset_swap(&b->registered, &kept);
	if (r == 0)
		r = pageset_intersect(&b->shared_armed, &places, &kept);
	if (r == 0)
		pageset_swap(&b->shared_armed, &kept);
	pageset_release(&places);
	pageset_release(&kept);

	pageset_clear(&b->refused);
	pageset_clear(&b->fresh);
	for (size_t i = 0; r == 0 && i < watches->len; i++) {
		const struct watch *w = &watches->v[i];
		if (i > 0 && watches->v[i - 1].mapping == w->mapping)
			continue;
		r = register_rest(b, maps, w->mapping);
	}
	return r;
}

/*
 * Places of mappings that are not registered, though we registered what was there. Registered
 * mappings are passed over as a whole: it costs by mappings, not by pages. Holes count: what was
 * written to shared memory is there, also where the new mapping does not show it yet.
 */
static int find_lost(
	struct uffd_backend *b, bool unpaused, struct pageset *ret, struct tide_error *err)
{
	struct scan_query q = {
		.pagemap_fd = b->process->pagemap_fd,
		.unpaused = unpaused,
		.inverted = UAPI_PAGE_IS_WPALLOWED,
		.mask = UAPI_PAGE_IS_WPALLOWED,
		.returned = UAPI_PAGE_IS_PRESENT,
	};
	for (size_t i = 0; i < b->registered.len; i++) {
		struct page_run run = b->registered.runs[i];
		int r = scan_range(&q, run.start, run.end, note_run, ret);
		if (r < 0)
			return scan_failed(b, r, run.start, run.end, err);
	}
	return 0;
}

/*
 * A mapping that took the place of a registered one may be registered, too: with a userfaultfd of
 * the process's own. Its marks are not ours to read or to set. Registering again what is ours
 * already costs little and changes nothing; where something is not ours, it says so. But where a
 * registration is lost just now, this would hide that: so the process must stand still between
 * find_lost() and this.
 */
static int find_foreign(struct uffd_backend *b, struct pageset *ret)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < b->registered.len; i++) {
		struct page_run run = b->registered.runs[i];
		if (protect_range(b->uffd, run.start, run.end) < 0)
			r = pageset_add(ret, run);
	}
	return r;
}

/* Begins anew with the mappings that touch `places`. */
static int register_again(struct uffd_backend *b, const struct mapping_table *maps,
	const struct watch_list *watches, const struct pageset *places)
{
	int r = 0;
	for (size_t i = 0; r == 0 && places->len && i < watches->len; i++) {
		const struct mapping *m = &maps->v[watches->v[i].mapping];
		size_t k = pageset_find(places, m->start);
		if (k == places->len || places->runs[k].start >= m->end ||
			(i > 0 && watches->v[i - 1].mapping == watches->v[i].mapping))
			continue;
		struct page_run run = {m->start, m->end};
		r = pageset_remove(&b->registered, run);
		if (r == 0)
			r = pageset_remove(&b->shared_armed, run);
		if (r == 0)
			r = register_run(b, maps, watches->v[i].mapping, run);
	}
	return r;
}

/*
 * A mapping that took the place of a registered one (mmap over it, mremap's destination) may look
 * the same in maps but is not registered, and a protecting scan silently passes it over. What comes
 * up between this look and the scan counts as dropped until the next collect finds it here.
 *
 * A mapping can also lose its registration where it lies: mremap of registered memory to a place
 * right beside it makes one mapping of the two, and the kernel takes the registration away from the
 * whole of that. Its pages keep the write-protect bit, and writes to them no longer take it away.
 * So nothing that the page tables say of writes is believed where we register anew.
 */
static int recover_lost(struct uffd_backend *b, const struct mapping_table *maps,
	const struct watch_list *watches, bool standing, struct tide_error *err)
{
	struct pageset lost = {0}, foreign = {0};
	int r = find_lost(b, standing, &lost, err);
	if (r == 0) {
		r = register_again(b, maps, watches, &lost);
		if (r == 0 && standing)
			r = find_foreign(b, &foreign);
		if (r == 0)
			r = register_again(b, maps, watches, &foreign);
		if (r < 0)
			tide_fail(err, r, "note the mappings of process %d", b->process->pid);
	}
	pageset_release(&lost);
	pageset_release(&foreign);
	return r;
}

/* For a process that has a userfaultfd: it stands still for this, a fraction of a millisecond. */
static int recover_standing(struct uffd_backend *b, const struct mapping_table *maps,
	const struct watch_list *watches, struct tide_error *err)
{
	struct freeze_report report;
	int r = tracer_freeze(b->tracer, STAND_STILL_NS, &report, err);
	if (r < 0)
		return r;
	r = recover_lost(b, maps, watches, true, err);
	int thawed = tracer_thaw(b->tracer, TRACER_RUN, r == 0 ? err : NULL);
	return r == 0 ? thawed : r;
}

/* All that is held where we registered anew. */
static int add_fresh(const struct uffd_backend *b, struct backend_found *found)
{
	struct pageset held = {0}, both = {0};
	int r = pageset_intersect(&found->held, &b->fresh, &held);
	if (r == 0)
		r = pageset_union(&found->written, &held, &both);
	if (r == 0)
		pageset_swap(&found->written, &both);
	pageset_release(&held);
	pageset_release(&both);
	return r;
}

static int uffd_collect(struct backend *base, const struct mapping_table *maps,
	const struct watch_list *watches, bool frozen, struct backend_found *ret,
	struct tide_error *err)
{
	struct uffd_backend *b = (struct uffd_backend *)base;
	struct backend_found found = {0};
	struct collecting c = {.b = b, .found = &found, .swap_in_use = machine_has_swap()};

	/* Before each arming: what it watches itself is not ours to arm. */
	if (!frozen && !b->has_own)
		b->has_own = has_userfaultfd(b->process);
	if (!frozen)
		disarm_files(b, maps, watches);

	/* Also in the freeze, where nothing is armed any more: of a mapping that grew, only what
	 * is new or was written is found then. */
	int r = register_new(b, maps, watches);
	if (r < 0)
		tide_fail(err, r, "note the mappings of process %d", b->process->pid);
	if (r == 0)
		r = b->has_own && !frozen ? recover_standing(b, maps, watches, err)
					  : recover_lost(b, maps, watches, frozen, err);
	if (r == 0)
		r = scan_all(&c, maps, watches, !frozen, frozen, err);
	take_markers_away(b, &c.markers);
	pageset_release(&c.markers);
	if (r == 0 && (r = add_fresh(b, &found)) < 0)
		tide_fail(err, r, "note what process %d wrote", b->process->pid);
	if (r == 0)
		r = pageset_union(&b->refused, &(struct pageset){0}, &found.refused);
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
	struct collecting c = {.b = b, .swap_in_use = machine_has_swap()};
	int r = scan_all(&c, maps, watches, false, false, err);
	if (r == 0)
		*ret_pages = c.pages / (uint64_t)sysconf(_SC_PAGESIZE);
	return r;
}

/*
 * Closing the descriptor would unregister everything at once, and the target's mmap calls would
 * wait for all of it (39 ms for 4 GiB armed). So it goes piece by piece; the worst wait is then
 * that of one piece. As in a scan, what counts is time.
 */
#define RELEASE_PIECE (16ull << 20)
#define RELEASE_PIECE_MAX (16ull << 30)
#define RELEASE_LONG_NS (150 * NS_PER_US)

static void unregister_run(int uffd, struct page_run run)
{
	uint64_t piece = RELEASE_PIECE;
	for (uint64_t at = run.start; at < run.end;) {
		uint64_t end = run.end - at > piece ? at + piece : run.end;
		struct uffdio_range range = {.start = at, .len = end - at};
		uint64_t before = clock_now_ns();
		/* Fails where the mapping is gone, which is as good. */
		(void)ioctl(uffd, UFFDIO_UNREGISTER, &range);
		uint64_t took = clock_now_ns() - before;
		at = end;
		if (took > RELEASE_LONG_NS) {
			struct timespec pause = clock_timespec(50 * NS_PER_US);
			nanosleep(&pause, NULL);
			piece = RELEASE_PIECE;
		} else if (piece < RELEASE_PIECE_MAX && took < 20 * NS_PER_US) {
			piece *= 2;
		}
	}
}

/*
 * What may be unregistered in pieces: anonymous memory, memfd, tmpfs. The rest is left to close().
 * Where a mapping is told of its end (a close() in its vm_ops: files on FUSE, SysV segments), Linux
 * 6.12 comes upon it a second time after UFFDIO_UNREGISTER could not merge it with the unregistered
 * one before it, finds a file that cannot be registered, and BUGs: the caller dies with the
 * target's memory locked for ever. The mappings of now are asked, since others may have come since
 * the last collect; those that come from here on are not registered, and such a piece is just
 * refused.
 */
static int find_pieces(const struct uffd_backend *b, struct pageset *ret)
{
	auto_free char *text = NULL;
	auto_(mapping_table_release) struct mapping_table maps = {0};
	struct pageset may = {0};
	size_t len = 0;
	int r = process_read_file(b->process, "maps", &text, &len, NULL);
	if (r == 0)
		r = maps_parse(text, len, &maps, NULL);
	for (size_t i = 0; r == 0 && i < maps.len; i++) {
		const struct mapping *m = &maps.v[i];
		if (m->kind == MAPPING_ANON ||
			(m->kind == MAPPING_OBJECT && strncmp(m->name, "/SYSV", 5) != 0))
			r = pageset_add(&may, (struct page_run){m->start, m->end});
	}
	if (r == 0)
		r = pageset_intersect(&b->registered, &may, ret);
	pageset_release(&may);
	return r;
}

static void uffd_release(struct backend *base)
{
	struct uffd_backend *b = (struct uffd_backend *)base;
	struct pageset pieces = {0};
	if (find_pieces(b, &pieces) == 0)
		for (size_t i = 0; i < pieces.len; i++)
			unregister_run(b->uffd, pieces.runs[i]);
	pageset_release(&pieces);
	if (b->uffd >= 0)
		close(b->uffd);
	pageset_release(&b->registered);
	pageset_release(&b->fresh);
	pageset_release(&b->refused);
	pageset_release(&b->shared_armed);
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
