/* SPDX-License-Identifier: MIT */
/* Memory that several mappings or processes may share, and memory that is none of ours. */
#include "tests/system/lifecycle.h"

#define MEMFD "memfd F 16; map a F 0 16 shared; fill a 0-9"
#define TMPFS "tmpfs F 16; map a F 0 16 shared; fill a 0-9"
#define ANON "anon a 16 shared; fill a 0-9"
#define SYSV "sysv a 16; fill a 0-9"
#define SHARED_WITH_ANOTHER "; ! adopt F; ! map a F 0 16 shared"
#define HUGE_MEMFD "memfd F 1024 hugetlb; map a F 0 1024 shared; poke a 5,700"
/* Where such an object has data is not to be had by asking it. */
#define HUGE_OBJECTS .flags = NEEDS_HUGETLB | UNSEEN
#define LENT_TO_ANOTHER "; ! borrow Z a; ! map a Z 0 16 shared"

/* clang-format off */
const struct row rows_shared[] = {
	{"shared anonymous, written", .before = ANON, .change = "poke a 3,12", .written = "a 3,12", .later = "poke a 4"},
	{"memfd, written", .before = MEMFD, .change = "poke a 3,12", .written = "a 3,12", .later = "poke a 4"},
	{"SysV, written", .before = SYSV, .change = "poke a 3,12", .written = "a 3,12", .later = "poke a 4"},
	{"tmpfs, written", .before = TMPFS, .change = "poke a 3,12", .written = "a 3,12", .later = "poke a 4"},
	{"/dev/zero, shared", .before = "device Z /dev/zero; map a Z 0 16 shared; fill a 0-9", .change = "poke a 3",
		.written = "a 3", .later = "poke a 4"},
	{"/dev/zero, private", .before = "device Z /dev/zero; map a Z 0 16 private; fill a 0-9", .change = "poke a 3",
		.written = "a 3", .later = "poke a 4"},
	{"shared, read where there was nothing", .before = ANON, .change = "read a 12", .more = "a 12", .later = "poke a 12-13"},
	{"shared, new", .before = "memfd F 16; pwrite F 0-5", .change = "map a F 0 16 shared; fill a 7", .written = "a 0-5,7",
		.later = "poke a 3"},
	{"shared, new and untouched", .before = "memfd F 16", .change = "map a F 0 16 shared", .later = "poke a 3"},
	{"shared, a part of the object", .before = "memfd F 32; map a F 8 16 shared; fill a 0-9", .change = "poke a 3,12",
		.written = "a 3,12", .later = "poke a 4"},
	{"shared, mapped twice", .before = MEMFD "; map b F 4 12 shared", .change = "poke b 3; poke a 2", .written = "a 2,7; b 3",
		.later = "poke a 4; poke b 4"},
	{"shared, one of two mappings goes", .before = MEMFD "; map b F 4 12 shared; read b 0-5", .change = "poke b 3; unmap b 0-11",
		.written = "a 7", .later = "poke a 4", .flags = UNSEEN},
	{"shared, unmapped in part", .before = MEMFD, .change = "unmap a 2-5", .gone = "a 2-5", .later = "poke a 1,6"},
	{"shared, unmapped", .before = MEMFD, .change = "unmap a 0-15", .gone = "a 0-9", .later = "map a F 0 16 shared; poke a 1"},
	{"shared, moved", .before = MEMFD, .change = "move a 0-3 b+0", .more = "a; b", .later = "poke b 1"},
	{"shared, MREMAP_DONTUNMAP", .before = MEMFD, .change = "move a 0-15 b+0 keep", .more = "a; b",
		.later = "poke b 1; poke a 2"},
	{"shared, split", .before = MEMFD, .change = "poke a 3; protect a 3-4 r", .written = "a 3", .coarse = "a",
		.later = "protect a 3-4 rw; poke a 3,9"},
	{"shared, PROT_NONE", .before = MEMFD, .change = "poke a 3; protect a 0-15 -", .written = "a 3", .coarse = "a",
		.later = "protect a 0-15 rw; poke a 4"},
	{"shared, grown", .before = MEMFD, .change = "truncate F 32; resize a 32; fill a 20", .written = "a 20", .more = "a",
		.coarse = "a", .later = "poke a 3,20"},
	{"shared, without a right to write", .before = "memfd F 16; reopen G F; map a G 0 16 shared ro; pwrite F 0-9",
		.change = "pwrite F 12", .written = "a 12", .again = "a", .later = "pwrite F 13"},
	{"shared, replaced by another", .before = MEMFD "; memfd G 16", .change = "map b G 0 16 shared at a+0; fill b 3",
		.written = "b 3", .gone = "a 0-9", .coarse = "a", .later = "poke b 3"},
	{"shared, replaced by itself", .before = MEMFD, .change = "map b F 0 16 shared at a+0; poke b 3", .written = "b 3",
		.more = "a", .coarse = "a", .later = "poke b 3"},
	{"shared, written and replaced by itself", .before = MEMFD, .change = "poke a 3; map b F 0 16 shared at a+0",
		.written = "a 3", .more = "a", .later = "poke b 3"},
	{"shared, replaced by another part of it", .before = "memfd F 32; map a F 0 16 shared; fill a 0-9",
		.change = "map b F 16 16 shared at a+0; fill b 3", .written = "b 3", .gone = "a 0-9", .later = "poke b 3"},
	{"shared, replaced by private memory", .before = MEMFD, .change = "anon b 16 at a+0; fill b 3", .written = "b 3",
		.gone = "a 0-9", .coarse = "a", .later = "poke b 3"},

	/* Dropped: by the object, never by absence from the page tables. */
	{"MADV_REMOVE", .before = MEMFD, .change = "madvise a 2-5 remove", .gone = "a 2-5", .later = "poke a 3"},
	{"MADV_REMOVE of shared anonymous memory", .before = ANON, .change = "madvise a 2-5 remove", .gone = "a 2-5",
		.later = "poke a 3"},
	{"MADV_REMOVE, written again", .before = MEMFD, .change = "madvise a 2-5 remove; poke a 3", .written = "a 3",
		.gone = "a 2,4-5", .later = "poke a 4"},
	{"MADV_REMOVE, read again", .before = MEMFD, .change = "madvise a 2-5 remove; read a 3", .written = "a 3",
		.gone = "a 2,4-5", .later = "poke a 3", .flags = UNSEEN},
	{"a hole punched by itself", .before = MEMFD, .change = "punch F 2-5", .gone = "a 2-5", .later = "poke a 3"},
	{"a hole punched by another", .before = MEMFD "; ! adopt F", .change = "! punch F 2-5", .gone = "a 2-5",
		.later = "poke a 3"},
	{"a hole punched and filled by another", .before = MEMFD SHARED_WITH_ANOTHER, .change = "! punch F 2-5; ! fill a 3",
		.written = "a 3", .gone = "a 2,4-5", .later = "poke a 3", .flags = UNSEEN},
	{"cut off", .before = MEMFD, .change = "truncate F 4", .gone = "a 4-9", .later = "poke a 3"},
	{"cut off and grown", .before = MEMFD, .change = "truncate F 4; truncate F 16", .gone = "a 4-9", .later = "poke a 5"},
	{"cut off, grown and written", .before = MEMFD, .change = "truncate F 4; truncate F 16; fill a 6", .written = "a 6",
		.gone = "a 4-5,7-9", .later = "poke a 5"},
	{"cut off, grown and read", .before = MEMFD, .change = "truncate F 4; truncate F 16; read a 6", .written = "a 6",
		.gone = "a 4-5,7-9", .later = "poke a 6", .flags = UNSEEN},
	{"cut off by another", .before = MEMFD "; ! adopt F", .change = "! truncate F 4", .gone = "a 4-9", .later = "poke a 3"},

	/* Not in the page tables, and there all the same. */
	{"shared, written and dropped from the page tables", .before = MEMFD, .change = "poke a 3; madvise a 0-15 dontneed",
		.written = "a 3", .later = "poke a 4"},
	{"shared anonymous, written and dropped from the page tables", .before = ANON,
		.change = "poke a 3; madvise a 0-15 dontneed", .written = "a 3", .later = "poke a 4"},
	{"shared, written, dropped from the page tables and read", .before = MEMFD,
		.change = "poke a 3; madvise a 0-15 dontneed; read a 0-9", .written = "a 3", .later = "poke a 4"},
	{"shared, dropped from the page tables, then written", .before = MEMFD "; madvise a 0-15 dontneed", .change = "poke a 3",
		.written = "a 3", .later = "poke a 4"},
	{"shared, written and swapped out", .before = MEMFD, .change = "poke a 3; pageout a 0-9", .written = "a 3",
		.later = "poke a 4", .flags = NEEDS_SWAP},
	{"shared, swapped out, then written", .before = MEMFD "; pageout a 0-9", .change = "poke a 3", .written = "a 3",
		.later = "poke a 4", .flags = NEEDS_SWAP},
	{"shared, never in the page tables", .before = "memfd F 16; pwrite F 0-9; map a F 0 16 shared", .change = "poke a 3",
		.written = "a 3", .later = "poke a 4"},
	{"shared, populated by another", .before = MEMFD SHARED_WITH_ANOTHER, .change = "! fill a 11-12", .written = "a 11-12",
		.later = "poke a 11"},
	{"shared, populated by write(2)", .before = MEMFD, .change = "pwrite F 11-12", .written = "a 11-12", .later = "poke a 11"},

	/* Written by others. */
	{"memfd, written by another", .before = MEMFD SHARED_WITH_ANOTHER, .change = "! poke a 3", .written = "a 3",
		.later = "! poke a 3-4", .flags = UNSEEN},
	{"tmpfs, written by another", .before = TMPFS SHARED_WITH_ANOTHER, .change = "! poke a 3", .written = "a 3",
		.later = "! poke a 3-4", .flags = UNSEEN},
	{"shared anonymous, written by another", .before = ANON LENT_TO_ANOTHER, .change = "! poke a 3", .written = "a 3",
		.later = "! poke a 3-4", .flags = UNSEEN},
	{"SysV, written by another", .before = SYSV LENT_TO_ANOTHER, .change = "! poke a 3", .written = "a 3",
		.later = "! poke a 3-4", .flags = UNSEEN},
	{"memfd, written by both", .before = MEMFD SHARED_WITH_ANOTHER, .change = "! poke a 3; poke a 3; ! poke a 3; ! poke a 4",
		.written = "a 3-4", .later = "! poke a 3-4", .flags = UNSEEN},
	{"memfd, written by write(2)", .before = MEMFD, .change = "pwrite F 3", .written = "a 3", .later = "pwrite F 4",
		.flags = UNSEEN},
	{"memfd, written by write(2) of another", .before = MEMFD "; ! adopt F", .change = "! pwrite F 3", .written = "a 3",
		.later = "! pwrite F 4", .flags = UNSEEN},
	{"tmpfs, written by write(2)", .before = TMPFS, .change = "pwrite F 3", .written = "a 3", .later = "pwrite F 4",
		.flags = UNSEEN},
	{"shared, written by another that has left", .before = MEMFD, .change = "! adopt F; ! map a F 0 16 shared; ! poke a 3; "
		"! unmap a 0-15", .written = "a 3", .later = "poke a 3", .flags = UNSEEN},
	{"a shared disk file, written by another", .before = "disk F 16; map a F 0 16 shared; fill a 0-9" SHARED_WITH_ANOTHER,
		.change = "! poke a 3", .later = "! poke a 4"},

	{"memfd of huge pages", .before = "memfd F 1024 hugetlb; map a F 0 1024 shared; poke a 5,700", .change = "poke a 5",
		.written = "a 0-511", .later = "poke a 700", .coarse_again = "a; b", .flags = NEEDS_HUGETLB},
	{"memfd of huge pages, punched", .before = HUGE_MEMFD, .change = "punch F 0-511", .gone = "a 0-511",
		.later = "poke a 700", HUGE_OBJECTS},
	{"memfd of huge pages, punched and read", .before = HUGE_MEMFD, .change = "punch F 0-511; read a 3",
		.written = "a 0-511", .later = "poke a 3", HUGE_OBJECTS},
	{"memfd of huge pages, not in the page tables", .before = HUGE_MEMFD "; madvise a 0-511 dontneed",
		.change = "poke a 700; madvise a 512-1023 dontneed", .written = "a 512-1023", .later = "poke a 3", .again = "a", HUGE_OBJECTS},
	{"memfd of huge pages, populated by another", .before = "memfd F 1024 hugetlb; map a F 0 1024 shared; poke a 5; "
		"! adopt F; ! map a F 0 1024 shared", .change = "! poke a 700", .written = "a 512-1023", .later = "! poke a 3",
		.again = "a", HUGE_OBJECTS},
	{"memfd of huge pages, written by another", .before = HUGE_MEMFD "; ! adopt F; ! map a F 0 1024 shared",
		.change = "! poke a 700", .written = "a 512-1023", .later = "! poke a 3", HUGE_OBJECTS},
	{0},
};

const struct row rows_special[] = {
	{"watched by a userfaultfd of its own", .before = "anon a 16; fill a 0-9; uffd a 0-15; anon b 16; fill b 0-9",
		.change = "poke a 3; poke b 3; rearm a 0-15", .written = "a 3; b 3", .again = "a",
		.later = "poke a 4; poke b 4; rearm a 0-15"},
	{"watched by its own userfaultfd later", .before = "anon a 16; fill a 0-9",
		.change = "anon b 16 at a+0; fill b 2; uffd b 0-15; poke b 3; rearm b 0-15", .written = "b 2-3",
		/* Its markers look like pages, which read as zeros. */
		.again = "a", .later = "poke b 2,4; rearm b 0-15"},
	{"MAP_DROPPABLE", .before = "anon a 16 droppable; fill a 0-9", .change = "poke a 3", .written = "a 3", .again = "a",
		.later = "poke a 4"},
	{"a ring of perf", .before = "ring a perf; anon b 16; fill b 0-9", .change = "poke b 3", .written = "b 3",
		.later = "poke b 4"},
	{"a ring of packets", .before = "ring a packet; anon b 16; fill b 0-9", .change = "poke b 3", .written = "b 3",
		.later = "poke b 4"},
	{"a ring of io_uring", .before = "ring a uring; anon b 16; fill b 0-9", .change = "poke b 3", .written = "b 3",
		.later = "poke b 4"},
	{"a ring of AIO", .before = "aio; anon b 16; fill b 0-9", .change = "poke b 3", .written = "b 3", .later = "poke b 4"},
	{"a device", .before = "device D /dev/mem; map a D 0 1 shared ro; anon b 16; fill b 0-9", .change = "poke b 3",
		.written = "b 3", .later = "poke b 4"},
	{0},
};
/* clang-format on */
