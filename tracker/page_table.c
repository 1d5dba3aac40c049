/* SPDX-License-Identifier: MIT */
/* The half with the system calls: asks every source about every populated page. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/error.h"
#include "tracker/pagemap.h"
#include "tracker/page_info.h"
#include "tracker/probe.h"
#include "tracker/process.h"
#include "tracker/scan.h"
#include "tracker/smaps.h"

enum {
	WINDOW_PAGES = 4096, /* read of pagemap at a time */
	/* Pages between two populated ones that are rather read with them than skipped: what one
	 * page of page tables holds. */
	WINDOW_GAP_PAGES = 512,
	/* The same for frames, where one more costs little and a call much. */
	FRAME_GAP = 16,
	FRAME_SPAN = 8192,
};

/* Of a sparse mapping this much is scanned before what was found is looked at. */
#define CHUNK_BYTES (16ull << 30)

/* The upper half is the kernel's: [vsyscall]. */
#define KERNEL_ADDRESS (1ull << 63)

struct frame {
	uint64_t number;
	size_t page; /* in the window */
};

/* A run of pages, of which what is populated is read in one go. */
struct window {
	uint64_t start;
	size_t len;
	uint64_t pagemap[WINDOW_PAGES];
	bool populated[WINDOW_PAGES]; /* as the scan found it */
	struct page_seen pages[WINDOW_PAGES];
	uint64_t cgroups[WINDOW_PAGES];
	struct frame frames[WINDOW_PAGES];
};

struct gathering {
	const struct process *p;
	struct page_table *t;
	uint64_t page;
	int flags_fd, count_fd, cgroup_fd; /* -1: not asked, or cannot */
	struct window *w;
	struct {
		struct uapi_page_region *v;
		size_t len, cap;
	} regions;
	uint64_t span[FRAME_SPAN];
};

static void page_info_release(struct page_info *i)
{
	mapping_release(&i->mapping);
	node_pages_release(&i->nodes);
	free(i->cgroups.v);
	*i = (struct page_info){0};
}

void page_table_release(struct page_table *t)
{
	for (size_t i = 0; i < t->len; i++)
		page_info_release(&t->v[i]);
	free(t->v);
	page_info_release(&t->total);
	*t = (struct page_table){0};
}

static int cgroup_pages_count(struct cgroup_pages *c, uint64_t inode, uint64_t pages)
{
	size_t i = 0;
	while (i < c->len && c->v[i].inode != inode)
		i++;
	if (i == c->len) {
		void *more = reallocarray(c->v, c->len + 1, sizeof(*c->v));
		if (!more)
			return -ENOMEM;
		c->v = more;
		c->v[c->len].inode = inode;
		c->v[c->len++].pages = 0;
	}
	c->v[i].pages += pages;
	return 0;
}

/* Is the number of a frame shown to us? Zero is, to those who may not know. */
static bool ask_frames(uint64_t page)
{
	auto_close int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;
	uint64_t at = (uintptr_t)&entry & ~(page - 1);
	return fd >= 0 && pagemap_read(fd, at, &entry, 1) == 1 && entry & PAGEMAP_FRAME;
}

/*
 * Guard pages are older than the bit that shows them; in between they look like swapped ones. So
 * make one, and look. Where none can be made, there are none to be told.
 */
static bool ask_guard(uint64_t page)
{
	uint64_t entry = 0;
	auto_close int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	void *memory = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fd < 0 || memory == MAP_FAILED)
		return false;
	bool made = madvise(memory, page, UAPI_MADV_GUARD_INSTALL) == 0;
	bool shown = pagemap_read(fd, (uintptr_t)memory, &entry, 1) == 1 && entry & PAGEMAP_GUARD;
	munmap(memory, page);
	return !made || shown;
}

/*
 * Linux 6.12 gives every anonymous page the flag of merged ones; 6.1 and 6.18 do not. So look at
 * one that was just made, which nobody can have merged yet.
 */
static bool ask_ksm_flag(int flags_fd, uint64_t page)
{
	uint64_t entry = 0, flags = 0;
	auto_close int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	void *memory = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fd < 0 || memory == MAP_FAILED)
		return false;
	*(volatile char *)memory = 1;
	bool told = pagemap_read(fd, (uintptr_t)memory, &entry, 1) == 1 && entry & PAGEMAP_FRAME &&
		    pread(flags_fd, &flags, 8, (off_t)((entry & PAGEMAP_FRAME) * 8)) == 8;
	munmap(memory, page);
	return told && !(flags >> KPF_KSM & 1);
}

static bool ask_probe(const char *name)
{
	char detail[128];
	for (const struct probe *p = probes; p->name; p++) {
		if (strcmp(p->name, name) == 0)
			return p->ask(detail, sizeof(detail));
	}
	return false;
}

static int scan(struct gathering *g, uint64_t start, uint64_t end, scan_region_fn fn)
{
	struct scan_query q = {
		.pagemap_fd = g->p->pagemap_fd,
		.anyof = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED,
		.returned = UAPI_PAGE_IS_PFNZERO | UAPI_PAGE_IS_HUGE,
	};
	return scan_range(&q, start, end, fn, g);
}

static int open_frames(const char *path, bool wanted, bool frames, int *ret_error)
{
	if (!wanted)
		return -1;
	int fd = frames ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	*ret_error = fd >= 0 ? 0 : frames ? -errno : -EPERM;
	return fd;
}

static void find_sources(struct gathering *g, const struct page_table_options *o)
{
	struct page_table *t = g->t;
	struct page_sources *s = &t->sources;
	s->page_bytes = g->page;
	s->scan = scan(g, 0, g->page, NULL) != -EOPNOTSUPP;
	s->frames = ask_frames(g->page);
	g->flags_fd = open_frames("/proc/kpageflags", o->flags, s->frames, &t->flags_error);
	g->count_fd = open_frames("/proc/kpagecount", o->maps_counted, s->frames, &t->count_error);
	g->cgroup_fd = open_frames("/proc/kpagecgroup", o->cgroups, s->frames, &t->cgroups_error);
	s->flags = g->flags_fd >= 0;
	s->ksm_flag = s->flags && ask_ksm_flag(g->flags_fd, g->page);
	s->maps_counted = g->count_fd >= 0;
	s->idle = access("/sys/kernel/mm/page_idle/bitmap", F_OK) == 0;
	t->cgroups = g->cgroup_fd >= 0;
	s->soft_dirty = ask_probe("soft-dirty");
	s->guard = s->frames || ask_guard(g->page);
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = ((const struct frame *)a)->number, y = ((const struct frame *)b)->number;
	return x < y ? -1 : x > y;
}

/* What the file says of frames [first, first + len); 0 of those that it does not know. */
static void read_span(struct gathering *g, int fd, uint64_t first, size_t len)
{
	ssize_t n = fd < 0 ? 0 : pread(fd, g->span, len * 8, (off_t)(first * 8));
	size_t got = n > 0 ? (size_t)n / 8 : 0;
	memset(g->span + got, 0, (len - got) * 8);
}

static void ask_span(struct gathering *g, size_t from, size_t to)
{
	struct window *w = g->w;
	uint64_t first = w->frames[from].number;
	size_t len = (size_t)(w->frames[to - 1].number - first) + 1;
	read_span(g, g->flags_fd, first, len);
	for (size_t i = from; i < to; i++)
		w->pages[w->frames[i].page].flags = g->span[w->frames[i].number - first];
	read_span(g, g->count_fd, first, len);
	for (size_t i = from; i < to; i++)
		w->pages[w->frames[i].page].mapped = g->span[w->frames[i].number - first];
	read_span(g, g->cgroup_fd, first, len);
	for (size_t i = from; i < to; i++)
		w->cgroups[w->frames[i].page] = g->span[w->frames[i].number - first];
}

/* Neighbours in memory are seldom neighbours in frames, but most frames have others of the same
 * process near: sorted, they are asked about in few calls. */
static void ask_frames_of_window(struct gathering *g)
{
	struct window *w = g->w;
	size_t n = 0;
	for (size_t i = 0; i < w->len; i++) {
		uint64_t number = w->pages[i].pagemap & PAGEMAP_FRAME;
		if (w->populated[i] && w->pages[i].pagemap >> PAGEMAP_BIT_PRESENT && number)
			w->frames[n++] = (struct frame){number, i};
	}
	qsort(w->frames, n, sizeof(w->frames[0]), by_number);
	for (size_t from = 0, to; from < n; from = to) {
		to = from + 1;
		while (to < n && w->frames[to].number - w->frames[to - 1].number <= FRAME_GAP &&
			w->frames[to].number - w->frames[from].number < FRAME_SPAN)
			to++;
		ask_span(g, from, to);
	}
}

static int read_window(struct gathering *g)
{
	struct window *w = g->w;
	size_t got = 0;
	while (got < w->len) {
		ptrdiff_t n = pagemap_read(
			g->p->pagemap_fd, w->start + got * g->page, w->pagemap + got, w->len - got);
		if (n < 0)
			return (int)n;
		got += (size_t)n;
	}
	for (size_t i = 0; i < w->len; i++)
		w->pages[i].pagemap = w->pagemap[i];
	if (g->flags_fd >= 0 || g->count_fd >= 0 || g->cgroup_fd >= 0)
		ask_frames_of_window(g);
	return 0;
}

static int look_at_window(
	struct gathering *g, const struct page_place *where, struct page_info *info)
{
	struct window *w = g->w;
	int r = read_window(g);
	for (size_t i = 0; r == 0 && i < w->len; i++) {
		if (!w->populated[i])
			continue;
		page_counts_add_page(&info->counts, &g->t->sources, where, &w->pages[i]);
		if (g->t->cgroups && page_is_resident(&g->t->sources, where, &w->pages[i]))
			r = cgroup_pages_count(&info->cgroups, w->cgroups[i], 1);
	}
	memset(w->populated, 0, w->len * sizeof(w->populated[0]));
	memset(w->pages, 0, w->len * sizeof(w->pages[0]));
	memset(w->cgroups, 0, w->len * sizeof(w->cgroups[0]));
	w->len = 0;
	return r;
}

static int note_region(void *arg, const struct uapi_page_region *region)
{
	struct gathering *g = arg;
	if (g->regions.len == g->regions.cap) {
		size_t cap = g->regions.cap ? 2 * g->regions.cap : 1024;
		struct uapi_page_region *v = reallocarray(g->regions.v, cap, sizeof(*v));
		if (!v)
			return -ENOMEM;
		g->regions.v = v;
		g->regions.cap = cap;
	}
	g->regions.v[g->regions.len++] = *region;
	return 0;
}

/* Looks at all regions, as many in one window as fit. */
static int look_at_regions(
	struct gathering *g, const struct page_place *where, struct page_info *info)
{
	struct window *w = g->w;
	for (size_t i = 0; i < g->regions.len; i++) {
		const struct uapi_page_region *region = &g->regions.v[i];
		for (uint64_t at = region->start; at < region->end; at += g->page) {
			uint64_t page = w->len ? (at - w->start) / g->page : 0;
			if (w->len && (page >= WINDOW_PAGES || page - w->len > WINDOW_GAP_PAGES)) {
				int r = look_at_window(g, where, info);
				if (r < 0)
					return r;
				page = 0;
			}
			if (w->len == 0)
				w->start = at;
			w->len = (size_t)page + 1;
			w->populated[page] = true;
			w->pages[page].categories = region->categories;
		}
	}
	return w->len ? look_at_window(g, where, info) : 0;
}

static int look_at_mapping(struct gathering *g, const struct smaps_entry *e, struct page_info *info)
{
	const struct mapping *m = &info->mapping;
	struct page_place where = {
		.hugetlb = e->is_hugetlb,
		.direct = e->is_direct,
		.shared = m->flags & MAPPING_SHARED,
	};
	info->counts.of[PAGES_MAPPED] = (m->end - m->start) / g->page;
	int r = 0;
	for (uint64_t at = m->start, next; r == 0 && at < m->end && at < KERNEL_ADDRESS;
		at = next) {
		next = m->end - at > CHUNK_BYTES ? at + CHUNK_BYTES : m->end;
		g->regions.len = 0;
		r = g->t->sources.scan ? scan(g, at, next, note_region)
				       : note_region(g, &(struct uapi_page_region){at, next, 0});
		if (r == 0)
			r = look_at_regions(g, &where, info);
	}

	/* What is not in this process's page tables, smaps alone knows: shared memory that is
	 * swapped; which pages are merged, where the flag does not tell; and without a scan, what
	 * is mapped huge. */
	const struct smaps_bytes *b = &e->bytes;
	if (e->has_file)
		info->counts.of[PAGES_SWAPPED] = b->swap / g->page;
	if (g->t->sources.flags && !g->t->sources.ksm_flag) {
		info->counts.of[PAGES_KSM] = b->ksm / g->page;
		info->counts.of[PAGES_LAZY_FREE] = b->lazy_free / g->page;
	}
	if (!g->t->sources.scan) {
		info->counts.of[PAGES_ANONYMOUS_HUGE] = b->anon_huge / g->page;
		info->counts.of[PAGES_HUGE] =
			(b->anon_huge + b->shmem_huge + b->file_huge) / g->page;
	}
	return r;
}

/* The lines of numa_maps and of smaps are of two moments: matched by address. */
static int read_nodes(struct gathering *g)
{
	auto_free char *text = NULL;
	size_t len, i = 0;
	struct page_table *t = g->t;
	t->nodes_error = process_read_file(g->p, "numa_maps", &text, &len, NULL);
	for (const char *at = text, *end = text + (text ? len : 0); at < end;) {
		const char *stop = memchr(at, '\n', (size_t)(end - at));
		size_t n = stop ? (size_t)(stop - at) : (size_t)(end - at);
		uint64_t address;
		struct node_pages nodes = {0};
		int r = node_pages_parse(at, n, g->page, &address, &nodes);
		while (r == 0 && i < t->len && t->v[i].mapping.start < address)
			i++;
		if (r == 0 && i < t->len && t->v[i].mapping.start == address) {
			t->v[i].nodes = nodes;
			nodes = (struct node_pages){0};
			r = node_pages_add(&t->total.nodes, &t->v[i].nodes);
		}
		node_pages_release(&nodes);
		if (r == -ENOMEM)
			return r;
		at += n + 1;
	}
	t->nodes = t->nodes_error == 0;
	return 0;
}

static int gather(struct gathering *g, struct smaps *maps)
{
	struct page_table *t = g->t;
	t->v = calloc(maps->len ? maps->len : 1, sizeof(*t->v));
	if (!t->v)
		return -ENOMEM;
	for (size_t i = 0; i < maps->len; i++) {
		struct page_info *info = &t->v[t->len++];
		info->mapping = maps->v[i].mapping;
		maps->v[i].mapping = (struct mapping){0};
		int r = look_at_mapping(g, &maps->v[i], info);
		page_counts_add(&t->total.counts, &info->counts);
		for (size_t k = 0; r == 0 && k < info->cgroups.len; k++)
			r = cgroup_pages_count(&t->total.cgroups, info->cgroups.v[k].inode,
				info->cgroups.v[k].pages);
		if (r < 0)
			return r;
	}
	return 0;
}

int page_table_read(const struct process *p, const struct page_table_options *o,
	struct page_table *ret, struct tide_error *err)
{
	auto_(smaps_release) struct smaps maps = {0};
	auto_(page_table_release) struct page_table made = {0};
	int r = smaps_read(p, &maps, err);
	if (r < 0)
		return r;

	auto_free struct gathering *g = calloc(1, sizeof(*g));
	auto_free struct window *w = calloc(1, sizeof(*w));
	if (!g || !w)
		return tide_fail(err, -ENOMEM, "look at the pages of process %d", p->pid);
	*g = (struct gathering){
		.p = p, .t = &made, .page = (uint64_t)sysconf(_SC_PAGESIZE), .w = w};
	find_sources(g, o);
	r = gather(g, &maps);
	if (r == 0 && o->nodes)
		r = read_nodes(g);
	guard_closep(&g->flags_fd);
	guard_closep(&g->count_fd);
	guard_closep(&g->cgroup_fd);
	free(g->regions.v);

	/* An exec in between would have shown the mappings of one program and the pages of
	 * another. */
	int gone = r == -ENOMEM ? 0 : process_check(p, err);
	if (gone < 0)
		return gone;
	if (r < 0)
		return tide_fail(err, r, "look at the pages of process %d", p->pid);
	*ret = made;
	made = (struct page_table){0};
	return 0;
}
