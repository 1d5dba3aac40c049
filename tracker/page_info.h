/* SPDX-License-Identifier: MIT */
/*
 * What the pages of a process are: pagemap, PAGEMAP_SCAN, /proc/kpageflags and their like, put
 * together and counted. Only looks; nothing changes in the process, not even a referenced bit.
 */
#ifndef TRACKER_PAGE_INFO_H
#define TRACKER_PAGE_INFO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/mapping.h"
#include "tidemark/error.h"

/* What is counted, each in pages of the base size, huge ones included with all that they span. */
enum page_count {
	/* By the page tables. */
	PAGES_MAPPED,
	PAGES_PRESENT,  /* each is one of the next four: */
	PAGES_RESIDENT, /* smaps: Rss */
	PAGES_ZERO,     /* the zero page: read, never written */
	PAGES_HUGETLB,  /* smaps: Shared_Hugetlb + Private_Hugetlb */
	PAGES_DIRECT,   /* frames that are no pages of the kernel's: vvar, device memory */
	/* Of the resident ones. */
	PAGES_ANONYMOUS, /* smaps: Anonymous */
	PAGES_FILE,      /* of files and of shared memory; resident = anonymous + file */
	PAGES_EXCLUSIVE, /* mapped here only; smaps: Private_Clean + Private_Dirty */
	PAGES_HUGE,      /* mapped by transparent huge pages: by the scan, or else as smaps says */
	PAGES_ANONYMOUS_HUGE, /* smaps: AnonHugePages */
	/* Others by the page tables. */
	PAGES_HUGETLB_EXCLUSIVE, /* smaps: Private_Hugetlb */
	PAGES_SWAPPED,           /* smaps: Swap */
	PAGES_GUARD,
	PAGES_WRITE_PROTECTED, /* by a userfaultfd, populated or not */
	PAGES_SOFT_DIRTY,      /* of the populated ones */
	/* Of the resident ones, by the kernel's table of page frames. */
	PAGES_SHARED, /* mapped more than once; smaps: Shared_Clean + Shared_Dirty */
	PAGES_KSM,
	PAGES_DIRTY, /* this and the rest: flags of the page, not of its mapping */
	PAGES_REFERENCED,
	PAGES_ACTIVE,
	PAGES_UNEVICTABLE,
	PAGES_MLOCKED,
	PAGES_WRITEBACK,
	PAGES_LOCKED,
	PAGES_LAZY_FREE, /* MADV_FREE; some may have been written again since */
	PAGES_SWAP_CACHE,
	PAGES_IDLE,
	PAGES_POISONED,
	PAGE_COUNTS,
};

struct page_counts {
	uint64_t of[PAGE_COUNTS];
	/* The proportional share in bytes, times 2^12, rounded down for each page as the kernel
	 * does. smaps: Pss. */
	uint64_t pss_fixed;
};

/* What can be told here: of the kernel, of this user, and of what was asked for. */
struct page_sources {
	uint64_t page_bytes;
	bool scan;         /* PAGEMAP_SCAN: zero and huge pages */
	bool frames;       /* pagemap tells page frame numbers */
	bool flags;        /* ... and /proc/kpageflags may be read */
	bool ksm_flag;     /* ... and its KSM flag is of merged pages alone */
	bool maps_counted; /* ... and /proc/kpagecount */
	bool idle;         /* ... where the kernel has idle page tracking */
	bool soft_dirty;   /* the kernel tracks it */
	bool guard;        /* guard pages are told from swapped ones */
};

/* A page, as each source tells of it; 0 where there is no such source. */
struct page_seen {
	uint64_t pagemap;
	uint64_t categories; /* of PAGEMAP_SCAN */
	uint64_t flags;      /* of /proc/kpageflags */
	uint64_t mapped;     /* of /proc/kpagecount */
};

/* What its mapping says about a page. */
struct page_place {
	bool hugetlb;
	bool direct; /* VmFlags pf or mm */
	bool shared; /* MAP_SHARED: nothing in its page tables is swapped memory */
};

/* Counts one populated page (pure). PAGES_MAPPED is not its matter. */
void page_counts_add_page(struct page_counts *c, const struct page_sources *s,
	const struct page_place *where, const struct page_seen *page);

/* Is the page in smaps' Rss, as far as these sources tell (pure)? */
bool page_is_resident(
	const struct page_sources *s, const struct page_place *where, const struct page_seen *page);

/* Adds b to sum. */
void page_counts_add(struct page_counts *sum, const struct page_counts *b);

/* Do these sources tell this count, so that 0 means none? */
bool page_count_is_known(const struct page_sources *s, enum page_count count);

/* Pages a node, in the order of nodes. All zero is none. */
struct node_pages {
	uint64_t *pages; /* of node i */
	size_t len;
};

void node_pages_release(struct node_pages *n);
/* Parses one line of numa_maps (pure); pages are of `page_bytes`, whatever size the line counts
 * in. 0, -ENOMEM or -EBADMSG. */
int node_pages_parse(const char *line, size_t len, uint64_t page_bytes, uint64_t *ret_address,
	struct node_pages *ret);
int node_pages_add(struct node_pages *sum, const struct node_pages *n);

/* Resident pages by the memory cgroup that they are charged to: (inode, pages). */
struct cgroup_pages {
	struct {
		uint64_t inode; /* of the cgroup's folder; 0: charged to none */
		uint64_t pages;
	} * v;
	size_t len;
};

struct page_info {
	struct mapping mapping;
	struct page_counts counts;
	struct cgroup_pages cgroups;
	struct node_pages nodes;
};

struct page_table_options {
	bool flags, maps_counted, cgroups, nodes; /* what is asked for beyond the page tables */
};

struct page_table {
	struct page_info *v; /* in address order */
	size_t len;
	struct page_info total; /* its mapping is empty */
	struct page_sources sources;
	bool cgroups, nodes; /* known */
	/* Why what was asked for is not known: negative errno; -EPERM also where frame numbers are
	 * not shown. */
	int flags_error, count_error, cgroups_error, nodes_error;
};

struct process;

/*
 * Looks at every page of the process. It need not stand still; what changes meanwhile is seen as it
 * was before or after. Errors: -ESRCH it is gone; -ENOMEM.
 */
int page_table_read(const struct process *p, const struct page_table_options *o,
	struct page_table *ret, struct tide_error *err);
void page_table_release(struct page_table *t);

#endif
