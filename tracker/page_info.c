/* SPDX-License-Identifier: MIT */
/* The pure half: what a page is, from what is told of it. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tracker/page_bits.h"
#include "tracker/page_info.h"
#include "tracker/uapi.h"

#define PSS_SHIFT 12 /* as in the kernel's fs/proc/task_mmu.c */

static bool has(uint64_t bits, unsigned bit)
{
	return bits >> bit & 1;
}

enum page_nature {
	NATURE_NONE, /* not populated, or a marker alone */
	NATURE_SWAPPED,
	NATURE_GUARD,
	NATURE_ZERO,
	NATURE_HUGETLB,
	NATURE_DIRECT,
	NATURE_RESIDENT,
};

/*
 * An entry that is not present, but not empty either: swapped memory, or one of the things that the
 * kernel keeps in the same form. What it is says the type of the swap entry, which is shown to
 * those alone who may see frame numbers.
 */
static enum page_nature nature_of_swap_entry(
	const struct page_sources *s, const struct page_place *where, uint64_t entry)
{
	unsigned type = entry & PAGEMAP_SWAP_TYPE;
	uint64_t marks = (entry & PAGEMAP_FRAME) >> PAGEMAP_SWAP_TYPE_BITS;
	if (has(entry, PAGEMAP_BIT_GUARD))
		return NATURE_GUARD;
	if (s->frames && type == SWAP_TYPE_MARKER)
		return marks & MARKER_GUARD ? NATURE_GUARD : NATURE_NONE;
	/* On its way from one frame to another: as much in memory as it was. */
	if (s->frames && type >= SWAP_TYPE_FIRST_OTHER)
		return NATURE_RESIDENT;
	/* Shared memory that is swapped leaves the page tables; only a write-protect marker stays.
	 */
	return where->shared ? NATURE_NONE : NATURE_SWAPPED;
}

static enum page_nature nature_of(
	const struct page_sources *s, const struct page_place *where, const struct page_seen *page)
{
	uint64_t entry = page->pagemap;
	if (!has(entry, PAGEMAP_BIT_PRESENT))
		return has(entry, PAGEMAP_BIT_SWAPPED) ? nature_of_swap_entry(s, where, entry)
						       : NATURE_NONE;
	if (where->hugetlb)
		return NATURE_HUGETLB;
	/* The scan and pagemap are two moments: only what was present in both is compared. */
	if (page->categories & UAPI_PAGE_IS_PFNZERO || has(page->flags, KPF_ZERO_PAGE))
		return NATURE_ZERO;
	/* Frames without a page: no file's, and not mapped exclusively as a copy would be, or,
	 * where the flags tell, not anonymous. */
	bool copy = s->flags ? has(page->flags, KPF_ANON) : has(entry, PAGEMAP_BIT_EXCLUSIVE);
	if (where->direct && !has(entry, PAGEMAP_BIT_FILE) && !copy)
		return NATURE_DIRECT;
	return NATURE_RESIDENT;
}

bool page_is_resident(
	const struct page_sources *s, const struct page_place *where, const struct page_seen *page)
{
	return nature_of(s, where, page) == NATURE_RESIDENT;
}

static const struct {
	enum page_count count;
	unsigned flag;
} flag_counts[] = {
	{PAGES_DIRTY, KPF_DIRTY},
	{PAGES_REFERENCED, KPF_REFERENCED},
	{PAGES_ACTIVE, KPF_ACTIVE},
	{PAGES_UNEVICTABLE, KPF_UNEVICTABLE},
	{PAGES_MLOCKED, KPF_MLOCKED},
	{PAGES_WRITEBACK, KPF_WRITEBACK},
	{PAGES_LOCKED, KPF_LOCKED},
	{PAGES_SWAP_CACHE, KPF_SWAPCACHE},
	{PAGES_IDLE, KPF_IDLE},
	{PAGES_POISONED, KPF_HWPOISON},
};
#define NFLAG_COUNTS (sizeof(flag_counts) / sizeof(flag_counts[0]))

static void add_resident(
	struct page_counts *c, const struct page_sources *s, const struct page_seen *page)
{
	bool file = has(page->pagemap, PAGEMAP_BIT_FILE);
	bool huge = page->categories & UAPI_PAGE_IS_HUGE;
	c->of[PAGES_RESIDENT]++;
	c->of[file ? PAGES_FILE : PAGES_ANONYMOUS]++;
	c->of[PAGES_EXCLUSIVE] += has(page->pagemap, PAGEMAP_BIT_EXCLUSIVE);
	c->of[PAGES_HUGE] += huge;
	c->of[PAGES_ANONYMOUS_HUGE] += huge && !file;
	/* One that is on its way has a swap entry, and no frame to ask about. */
	if (!has(page->pagemap, PAGEMAP_BIT_PRESENT))
		return;
	if (s->maps_counted) {
		uint64_t share = s->page_bytes << PSS_SHIFT;
		c->of[PAGES_SHARED] += page->mapped > 1;
		c->pss_fixed += page->mapped > 1 ? share / page->mapped : share;
	}
	if (!s->flags)
		return;
	for (size_t i = 0; i < NFLAG_COUNTS; i++)
		c->of[flag_counts[i].count] += has(page->flags, flag_counts[i].flag);
	if (s->ksm_flag) {
		bool ksm = has(page->flags, KPF_KSM);
		c->of[PAGES_KSM] += ksm;
		c->of[PAGES_LAZY_FREE] +=
			has(page->flags, KPF_ANON) && !ksm && !has(page->flags, KPF_SWAPBACKED);
	}
}

void page_counts_add_page(struct page_counts *c, const struct page_sources *s,
	const struct page_place *where, const struct page_seen *page)
{
	uint64_t entry = page->pagemap;
	enum page_nature nature = nature_of(s, where, page);
	c->of[PAGES_WRITE_PROTECTED] += has(entry, PAGEMAP_BIT_WRITE_PROTECTED);
	if (nature == NATURE_NONE)
		return;
	if (nature == NATURE_GUARD) {
		c->of[PAGES_GUARD]++;
		return;
	}
	c->of[PAGES_SOFT_DIRTY] += has(entry, PAGEMAP_BIT_SOFT_DIRTY);
	if (nature == NATURE_SWAPPED) {
		c->of[PAGES_SWAPPED]++;
		return;
	}
	c->of[PAGES_PRESENT]++;
	if (nature == NATURE_RESIDENT)
		add_resident(c, s, page);
	if (nature == NATURE_ZERO)
		c->of[PAGES_ZERO]++;
	if (nature == NATURE_DIRECT)
		c->of[PAGES_DIRECT]++;
	if (nature == NATURE_HUGETLB) {
		c->of[PAGES_HUGETLB]++;
		c->of[PAGES_HUGETLB_EXCLUSIVE] += has(entry, PAGEMAP_BIT_EXCLUSIVE);
	}
}

void page_counts_add(struct page_counts *sum, const struct page_counts *b)
{
	for (size_t i = 0; i < PAGE_COUNTS; i++)
		sum->of[i] += b->of[i];
	sum->pss_fixed += b->pss_fixed;
}

bool page_count_is_known(const struct page_sources *s, enum page_count count)
{
	switch (count) {
	case PAGES_ZERO:
		return s->scan || s->flags;
	case PAGES_SOFT_DIRTY:
		return s->soft_dirty;
	case PAGES_GUARD:
		return s->guard;
	case PAGES_SHARED:
		return s->maps_counted;
	case PAGES_IDLE:
		return s->flags && s->idle;
	default:
		return count < PAGES_SHARED || s->flags;
	}
}

void node_pages_release(struct node_pages *n)
{
	free(n->pages);
	*n = (struct node_pages){0};
}

static int node_pages_count(struct node_pages *n, size_t node, uint64_t pages)
{
	enum { NODES_MAX = 1 << 16 };
	if (node >= NODES_MAX)
		return -EBADMSG;
	if (node >= n->len) {
		uint64_t *more = reallocarray(n->pages, node + 1, sizeof(*more));
		if (!more)
			return -ENOMEM;
		memset(more + n->len, 0, (node + 1 - n->len) * sizeof(*more));
		n->pages = more;
		n->len = node + 1;
	}
	n->pages[node] += pages;
	return 0;
}

int node_pages_add(struct node_pages *sum, const struct node_pages *n)
{
	for (size_t i = 0; i < n->len; i++) {
		int r = node_pages_count(sum, i, n->pages[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

/* "7f00 default file=/lib/x mapped=2 N0=2 kernelpagesize_kB=4"; blanks in a file's name are
 * escaped. */
int node_pages_parse(const char *line, size_t len, uint64_t page_bytes, uint64_t *ret_address,
	struct node_pages *ret)
{
	auto_(node_pages_release) struct node_pages made = {0};
	auto_free char *text = strndup(line, len);
	if (!text)
		return -ENOMEM;
	uint64_t address, kib = page_bytes >> 10;
	int at = 0;
	if (sscanf(text, "%" SCNx64 "%n", &address, &at) != 1)
		return -EBADMSG;
	char *rest = text + at;
	for (char *save = NULL, *word; (word = strtok_r(rest, " ", &save)); rest = NULL) {
		size_t node;
		uint64_t pages;
		int r = 0;
		sscanf(word, "kernelpagesize_kB=%" SCNu64, &kib);
		if (sscanf(word, "N%zu=%" SCNu64, &node, &pages) == 2)
			r = node_pages_count(&made, node, pages);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < made.len; i++)
		made.pages[i] *= (kib << 10) / page_bytes;
	*ret_address = address;
	*ret = made;
	made = (struct node_pages){0};
	return 0;
}
