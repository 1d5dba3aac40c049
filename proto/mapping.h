/* SPDX-License-Identifier: MIT */
/* What an address space is made of, as it travels: mappings, tables, their differences. */
#ifndef PROTO_MAPPING_H
#define PROTO_MAPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/guard.h"
#include "proto/pageset.h"

/*
 * Where a page's contents belong. Space 0 is the process's own (private) address space and a page
 * there is named by its address. Any other number is a shared object of the process (shared
 * anonymous memory, memfd, SysV, tmpfs file) and a page there is named by its offset in the object,
 * however often and wherever it is mapped.
 */
typedef uint64_t space_id;
#define SPACE_PRIVATE ((space_id)0)

/* The numbers travel: never change one. */
enum mapping_kind {
	MAPPING_ANON = 1,         /* private anonymous, heap, stacks */
	MAPPING_FILE_PRIVATE = 2, /* private file: copied pages travel, the rest is the file's */
	MAPPING_OBJECT = 3,      /* shared memory not of a disk file: travels in `object`'s space */
	MAPPING_FILE_SHARED = 4, /* shared regular file: a reference, its pages do not travel */
	MAPPING_VDSO = 5,        /* read whole, cannot be written by the process */
	MAPPING_OPAQUE = 6,      /* not followed: device, vvar, perf, ring, ... `why` says so */
};

enum mapping_flag {
	MAPPING_SHARED = 1 << 0,    /* MAP_SHARED */
	MAPPING_GROWSDOWN = 1 << 1, /* the initial stack */
	MAPPING_HUGETLB = 1 << 2,
	/* MAPPING_OBJECT: other processes can write it, so that its pages may be of an instant of
	 * their own, up to the freeze and in it. */
	MAPPING_OTHERS_WRITE = 1 << 3,
};

struct mapping {
	uint64_t start, end; /* bytes, page-aligned */
	uint32_t prot;       /* PROT_READ | PROT_WRITE | PROT_EXEC */
	uint32_t flags;      /* enum mapping_flag */
	enum mapping_kind kind;
	space_id object; /* MAPPING_OBJECT: which; else 0 */
	uint64_t offset; /* of `start` in the file or object, in bytes */
	uint32_t dev_major, dev_minor;
	uint64_t inode;
	uint64_t file_size; /* of the file, bytes, and its time of last change: only for files */
	uint64_t file_mtime_ns;
	char *name; /* as in /proc/PID/maps: path, "[heap]", "[anon:x]", ""; never NULL in a table
		     */
	char *why;  /* MAPPING_OPAQUE: the reason; else NULL */
};

/* Mappings in address order, none overlapping. Owns the strings. All zero is the empty table. */
struct mapping_table {
	struct mapping *v;
	size_t len, cap;
};

void mapping_release(struct mapping *m);
/* Deep copy. 0 or -ENOMEM. */
int mapping_copy(const struct mapping *m, struct mapping *ret);
/* Same place, kind, protection, flags, file and name? (`file_size` and `file_mtime_ns` do not
 * count.) */
bool mapping_equal(const struct mapping *a, const struct mapping *b);

void mapping_table_release(struct mapping_table *t);
/* Appends, taking over m's strings on success. 0, -ENOMEM, or -EINVAL where it is not behind the
 * last one. */
int mapping_table_append(struct mapping_table *t, struct mapping *m);
/*
 * Makes one of neighbours that are one mapping in all that this table tells. The kernel keeps them
 * apart for reasons of its own, such as being registered with a userfaultfd, which come and go
 * while a process is followed.
 */
void mapping_table_merge(struct mapping_table *t);
/* The mapping that holds `address`, or NULL. */
const struct mapping *mapping_table_find(const struct mapping_table *t, uint64_t address);
/* The first mapping that ends behind `address`, or NULL. */
const struct mapping *mapping_table_next(const struct mapping_table *t, uint64_t address);
/* Deep copy. 0 or -ENOMEM (ret unchanged). */
int mapping_table_copy(const struct mapping_table *t, struct mapping_table *ret);

/* What turns one table into another: first the places that went, then the mappings that came. A
 * mapping that changed in any way is in both. */
struct mapping_diff {
	struct pageset removed;
	struct mapping_table added;
};

void mapping_diff_release(struct mapping_diff *d);
/* 0 or -ENOMEM (ret unchanged). */
int mapping_diff_make(
	const struct mapping_table *from, const struct mapping_table *to, struct mapping_diff *ret);
/* Applies to `t`, in place: mappings cut by a removed place keep what is left of them. 0, -ENOMEM,
 * or -EINVAL where an added mapping lies over one that is still there (t is then undefined but can
 * be released). */
int mapping_table_apply(struct mapping_table *t, const struct mapping_diff *d);

#endif
