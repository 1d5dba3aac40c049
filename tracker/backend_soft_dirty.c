/* SPDX-License-Identifier: MIT */
/*
 * Writing 4 to clear_refs makes every page of the process clean and write-protects it; the first
 * write into one sets its soft-dirty bit. Reading the bits and clearing them are two steps, and
 * what is written between the two is lost (measured: 140,000 pages in 15 s). So the process stands
 * still for both: `stands_still` below asks the source to see to it.
 *
 * Pages whose bit does not tell are `doubtful`, and read every time:
 *   - a page that was dropped and then read is the zero page, and nothing marks it;
 *   - shared memory: a written page that was reclaimed comes back clean;
 *   - huge pages of hugetlbfs are never cleared, and some kernels never mark them;
 *   - a page that the kernel is moving while bits are cleared: see clear_all().
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/error.h"
#include "base/parallel.h"
#include "tracker/backend_soft_dirty.h"
#include "tracker/pagemap.h"
#include "tracker/process.h"
#include "tracker/scan.h"
#include "tracker/stretch.h"

#define POPULATED (UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED)
/* What plain reads do not tell; SCAN_MAYBE_ZERO is what they have instead. */
#define OF_THE_SCAN (UAPI_PAGE_IS_PFNZERO | UAPI_PAGE_IS_HUGE)
#define HUGE_PAGE (2ull << 20)

struct soft_dirty_backend {
	struct backend base;
	const struct process *process;
	uint64_t page_bytes;
	bool has_scan;         /* PAGEMAP_SCAN is there */
	bool cleared;          /* before the first clearing the bits say nothing */
	struct pageset moving; /* by address, of private memory: at the last clearing */
};

/* One collect, while it runs. */
struct collecting {
	struct soft_dirty_backend *b;
	struct backend_found *found;
	enum watch_kind kind;
	bool hugetlb;
	uint64_t pages; /* counting only (found is NULL) */
};

/* Clears the bits of all pages but those that are being moved. */
static int clear(int proc_fd)
{
	auto_close int fd = openat(proc_fd, "clear_refs", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return write(fd, "4", 1) == 1 ? 0 : -errno;
}

/*
 * Written 4, clear_refs says nothing even on a kernel that cannot track soft-dirty; it then never
 * marks a page. So dirty a page and look.
 */
static int soft_dirty_probe(struct tide_error *err)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	auto_close int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	auto_close int proc = open("/proc/self", O_PATH | O_CLOEXEC);
	if (pagemap < 0 || proc < 0)
		return tide_fail(err, -errno, "cannot open its own pagemap");
	volatile uint8_t *memory =
		mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return tide_fail(err, -errno, "map a page");
	uint64_t at = (uintptr_t)memory, cleared = UINT64_MAX, written = 0;
	memory[0] = 1;
	int r = clear(proc);
	if (r == 0 && pagemap_read(pagemap, at, &cleared, 1) == 1) {
		memory[0] = 2;
		(void)pagemap_read(pagemap, at, &written, 1);
	}
	munmap((void *)(uintptr_t)memory, page);
	if (r < 0)
		return tide_fail(err, r, "cannot clear its own soft-dirty bits");
	if (cleared & PAGEMAP_SOFT_DIRTY || !(written & PAGEMAP_SOFT_DIRTY))
		return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -EOPNOTSUPP,
			"this kernel accepts the clearing of soft-dirty bits and has none "
			"(CONFIG_MEM_SOFT_DIRTY)");
	return 0;
}

static int soft_dirty_attach(
	const struct process *p, struct tracer *t, struct backend **ret, struct tide_error *err)
{
	(void)t;
	struct soft_dirty_backend *b = calloc(1, sizeof(*b));
	if (!b)
		return tide_fail(err, -ENOMEM, "follow process %d", p->pid);
	b->base.ops = &backend_soft_dirty;
	b->process = p;
	b->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	if (faccessat(p->proc_fd, "clear_refs", W_OK, AT_EACCESS) < 0) {
		int r = tide_fail(err, -errno, "clear the soft-dirty bits of process %d", p->pid);
		free(b);
		return r;
	}
	/* Any address will do: whether it can be answered is seen before the walk. */
	struct scan_query q = {.pagemap_fd = p->pagemap_fd,
		.unpaused = true,
		.anyof = POPULATED,
		.returned = OF_THE_SCAN};
	b->has_scan = scan_range(&q, 0, b->page_bytes, NULL, NULL) != -EOPNOTSUPP;
	*ret = &b->base;
	return 0;
}

static int note_run(struct collecting *c, struct page_run run, bool written, bool doubtful)
{
	if (!c->found) {
		c->pages += written || doubtful ? (run.end - run.start) / c->b->page_bytes : 0;
		return 0;
	}
	int r = pageset_add(&c->found->held, run);
	if (r == 0 && (written || doubtful))
		r = pageset_add(&c->found->written, run);
	if (r == 0 && doubtful)
		r = pageset_add(&c->found->doubtful, run);
	return r;
}

/*
 * Is one of these huge pages the zero page? PAGEMAP_SCAN tells it of small ones alone. What nobody
 * else maps is not; what others map may be.
 */
static int note_huge(struct collecting *c, struct page_run run)
{
	for (uint64_t at = run.start, end; at < run.end; at = end) {
		uint64_t entry;
		end = (at & ~(HUGE_PAGE - 1)) + HUGE_PAGE;
		if (end > run.end)
			end = run.end;
		ptrdiff_t got = pagemap_read(c->b->process->pagemap_fd, at, &entry, 1);
		if (got < 0)
			return (int)got;
		int r = note_run(
			c, (struct page_run){at, end}, false, !(entry & PAGEMAP_EXCLUSIVE));
		if (r < 0)
			return r;
	}
	return 0;
}

/*
 * One that is not present and that a userfaultfd of the process's own has write-protected: a
 * swapped page, or only the mark of that, in a place where there is no page. What cannot be told
 * apart is read, which gives what the process would see.
 */
static int note_protected(void *arg, struct page_run page, uint64_t entry)
{
	struct collecting *c = arg;
	bool written = !c->b->cleared || entry & PAGEMAP_SOFT_DIRTY;
	return pagemap_is_marker(entry) ? 0 : note_run(c, page, written, pagemap_is_hidden(entry));
}

static int found_private(void *arg, const struct uapi_page_region *region)
{
	struct collecting *c = arg;
	uint64_t is = region->categories;
	struct page_run run = {region->start, region->end};

	if (is & UAPI_PAGE_IS_GUARD)
		return c->found ? pageset_add(&c->found->unreadable, run) : 0;
	/* The file's own page: page cache that was merely read. */
	if (c->kind == WATCH_PRIVATE_FILE && is & UAPI_PAGE_IS_PRESENT && is & UAPI_PAGE_IS_FILE)
		return 0;
	bool written = !c->b->cleared || is & UAPI_PAGE_IS_SOFT_DIRTY;
	if (!(is & (UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_WRITTEN)) && !c->hugetlb)
		return pagemap_each(c->b->process->pagemap_fd, run, note_protected, c);
	if (written)
		return note_run(c, run, true, false);
	if (c->hugetlb || is & (UAPI_PAGE_IS_PFNZERO | SCAN_MAYBE_ZERO))
		return note_run(c, run, false, true);
	if (is & UAPI_PAGE_IS_HUGE)
		return note_huge(c, run);
	return note_run(c, run, false, false);
}

static int scan_private(struct collecting *c, uint64_t start, uint64_t end, bool unpaused)
{
	struct scan_query q = {
		.pagemap_fd = c->b->process->pagemap_fd,
		.unpaused = unpaused,
		.anyof = POPULATED,
		.returned = POPULATED | UAPI_PAGE_IS_SOFT_DIRTY | UAPI_PAGE_IS_WRITTEN |
			    UAPI_PAGE_IS_GUARD | SCAN_MAYBE_ZERO |
			    (c->b->has_scan ? OF_THE_SCAN : 0) |
			    (c->kind == WATCH_PRIVATE_FILE ? UAPI_PAGE_IS_FILE : 0),
	};
	return scan_range(&q, start, end, found_private, c);
}

static int scan_shared(struct collecting *c, struct page_run run)
{
	if (!c->found) {
		c->pages += (run.end - run.start) / c->b->page_bytes;
		return 0;
	}
	int r = pageset_add(&c->found->written, run);
	return r < 0 ? r : pageset_add(&c->found->doubtful, run);
}

static int scan_stretch(struct collecting *c, const struct stretch *s, bool unpaused)
{
	c->kind = s->kind;
	c->hugetlb = s->hugetlb;
	return s->kind == WATCH_SHARED ? scan_shared(c, (struct page_run){s->start, s->end})
				       : scan_private(c, s->start, s->end, unpaused);
}

static int scan_still(void *arg, const struct stretch *s, struct backend_found *found)
{
	struct collecting c = {.b = arg, .found = found};
	return scan_stretch(&c, s, true);
}

/* Pauses, so that the process's own calls do not wait. */
static int count_stretch(void *arg, const struct stretch *s, struct backend_found *found)
{
	(void)found;
	return scan_stretch(arg, s, false);
}

static int note_moving(void *arg, struct page_run page, uint64_t entry)
{
	struct soft_dirty_backend *b = arg;
	bool is_swapped =
		!pagemap_is_hidden(entry) && (entry & PAGEMAP_SWAP_TYPE) < SWAP_TYPE_FIRST_OTHER;
	/* One that is present again has moved. */
	bool is_at_rest = !(entry & PAGEMAP_PRESENT) && (is_swapped || pagemap_is_marker(entry));
	return is_at_rest ? 0 : pageset_add(&b->moving, page);
}

static int found_not_present(void *arg, const struct uapi_page_region *region)
{
	struct soft_dirty_backend *b = arg;
	return pagemap_each(b->process->pagemap_fd, (struct page_run){region->start, region->end},
		note_moving, b);
}

/*
 * Linux (6.1, 6.12) clears the bit of a page that it is just moving to another frame (compaction,
 * between nodes), but leaves it writable: it comes back as it was, clean, and what is written then
 * never shows. Of 16,384 pages under compaction 1,506 were lost so in 170 clearings. So the bits
 * are cleared twice, and what was being moved in between is read next time. A page would have to be
 * moved twice, each time just when bits are cleared, to be missed.
 */
static int clear_all(struct soft_dirty_backend *b, const struct watch_list *watches)
{
	struct scan_query q = {.pagemap_fd = b->process->pagemap_fd,
		.unpaused = true,
		.inverted = UAPI_PAGE_IS_PRESENT,
		.mask = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED,
		.returned = UAPI_PAGE_IS_SWAPPED};
	struct pageset places = {0};
	int r = 0;
	for (size_t i = 0; r == 0 && i < watches->len; i++) {
		const struct watch *w = &watches->v[i];
		if (w->kind != WATCH_SHARED)
			r = pageset_add(&places, (struct page_run){w->start, w->end});
	}
	if (r == 0)
		r = clear(b->process->proc_fd);
	pageset_clear(&b->moving);
	for (size_t i = 0; r == 0 && i < places.len; i++)
		r = scan_range(&q, places.runs[i].start, places.runs[i].end, found_not_present, b);
	if (r == 0)
		r = clear(b->process->proc_fd);
	pageset_release(&places);
	return r;
}

/* What was being moved when the bits were cleared, where it is still held. */
static int add_moved(struct soft_dirty_backend *b, struct backend_found *found)
{
	struct pageset moved = {0}, unseen = {0};
	int r = pageset_intersect(&b->moving, &found->held, &moved);
	if (r == 0)
		r = pageset_subtract(&moved, &found->written, &unseen);
	if (r == 0)
		r = pageset_merge(&found->written, &unseen);
	if (r == 0)
		r = pageset_merge(&found->doubtful, &unseen);
	pageset_release(&moved);
	pageset_release(&unseen);
	return r;
}

static int soft_dirty_collect(struct backend *base, const struct mapping_table *maps,
	const struct watch_list *watches, bool frozen, struct backend_found *ret,
	struct tide_error *err)
{
	struct soft_dirty_backend *b = (struct soft_dirty_backend *)base;
	struct backend_found found = {0};
	struct stretch_list stretches = {0};

	int r = stretch_list_make(maps, watches, NULL, NULL, &stretches);
	if (r < 0)
		tide_fail(err, r, "note the mappings of process %d", b->process->pid);
	if (r == 0)
		r = stretch_list_scan(
			&stretches, b->process, parallel_processors(), scan_still, b, &found, err);
	stretch_list_release(&stretches);
	if (r == 0 && (r = add_moved(b, &found)) < 0)
		tide_fail(err, r, "note what process %d wrote", b->process->pid);
	if (r == 0 && !frozen) {
		r = clear_all(b, watches);
		if (r < 0)
			tide_fail(
				err, r, "clear the soft-dirty bits of process %d", b->process->pid);
		b->cleared = r == 0;
	}
	if (r < 0) {
		backend_found_release(&found);
		return r;
	}
	*ret = found;
	return 0;
}

static int soft_dirty_pending(struct backend *base, const struct mapping_table *maps,
	const struct watch_list *watches, uint64_t *ret_pages, struct tide_error *err)
{
	struct soft_dirty_backend *b = (struct soft_dirty_backend *)base;
	struct collecting c = {.b = b};
	struct stretch_list stretches = {0};
	int r = stretch_list_make(maps, watches, NULL, NULL, &stretches);
	if (r < 0)
		tide_fail(err, r, "note the mappings of process %d", b->process->pid);
	if (r == 0)
		r = stretch_list_scan(&stretches, b->process, 1, count_stretch, &c, NULL, err);
	stretch_list_release(&stretches);
	if (r == 0)
		*ret_pages = c.pages;
	return r;
}

/* The bits stay as the last clearing left them; nobody but another tracker looks at them. */
static void soft_dirty_release(struct backend *base)
{
	struct soft_dirty_backend *b = (struct soft_dirty_backend *)base;
	pageset_release(&b->moving);
	free(b);
}

const struct backend_ops backend_soft_dirty = {
	.name = "soft-dirty",
	.about = "soft-dirty bits, cleared through clear_refs",
	.stands_still = true,
	.probe = soft_dirty_probe,
	.attach = soft_dirty_attach,
	.collect = soft_dirty_collect,
	.pending = soft_dirty_pending,
	.release = soft_dirty_release,
};
