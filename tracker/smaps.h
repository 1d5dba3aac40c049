/* SPDX-License-Identifier: MIT */
/* /proc/PID/smaps as a table: what the kernel itself counts of each mapping. */
#ifndef TRACKER_SMAPS_H
#define TRACKER_SMAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/mapping.h"
#include "tidemark/error.h"

/* Bytes, by the names they have in the file. A field that this kernel does not write is 0. */
struct smaps_bytes {
	uint64_t rss;
	uint64_t shared_clean, shared_dirty, private_clean, private_dirty;
	uint64_t referenced;
	uint64_t anonymous;
	uint64_t lazy_free, ksm;
	uint64_t anon_huge, shmem_huge, file_huge; /* AnonHugePages, Shmem- and FilePmdMapped */
	uint64_t shared_hugetlb, private_hugetlb;
	uint64_t swap;
};

struct smaps_entry {
	struct mapping mapping; /* as maps_parse() makes it of the line */
	struct smaps_bytes bytes;
	bool has_file;  /* what clear_refs 3 means by file-mapped: also shared anonymous memory */
	bool is_direct; /* may hold frames that are no pages of the kernel's (VmFlags pf, mm) */
	bool is_hugetlb;
};

/* In address order. Owns the entries. All zero is the empty table. */
struct smaps {
	struct smaps_entry *v;
	size_t len, cap;
};

void smaps_release(struct smaps *s);

/* Parses the text of a smaps file (pure). What it does not know it leaves out; -EBADMSG names a
 * line that begins a mapping and makes no sense, or a count that is none. */
int smaps_parse(const char *text, size_t len, struct smaps *ret, struct tide_error *err);

/* Adds b to sum. */
void smaps_bytes_add(struct smaps_bytes *sum, const struct smaps_bytes *b);

struct process;

/* Reads it as it is now. Costs a walk over the page tables; the process is not disturbed. */
int smaps_read(const struct process *p, struct smaps *ret, struct tide_error *err);

#endif
