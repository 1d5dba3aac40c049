/* SPDX-License-Identifier: MIT */
/*
 * The shared objects that a process maps (shared anonymous memory, memfd, SysV, tmpfs files): where
 * they have data, and whether the process's page tables are enough to know who writes them.
 */
#ifndef TRACKER_OBJECTS_H
#define TRACKER_OBJECTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/mapping.h"
#include "proto/pageset.h"
#include "tracker/backend.h"

struct process;

/*
 * Known by device and inode while we follow the process, and whether it is a SysV segment: the
 * kernel gives those the number of the segment for an inode, on the device that has all memory
 * without a name, where another object may have it, too. Its number is its place in the list + 1.
 */
struct object {
	uint32_t dev_major, dev_minor;
	uint64_t inode;
	bool sysv;
	/* Where the object has data, by offset. Without the right to ask the object itself: what
	 * was ever seen in the process's page tables (absence from them says nothing). */
	struct pageset data;
	bool asked; /* `data` was brought up to date in this look */
	bool hugetlb;
	uint64_t size_bytes, allocated_bytes; /* hugetlbfs: its length, how much of it is there */

	/* When the object was last changed, CLOCK_REALTIME; 0 unknown. Stores count, too. */
	uint64_t changed_realtime_ns;
	uint64_t looked_realtime_ns; /* when we last asked that */
	bool changed;                /* ... and it was, since, or may have been */
	bool own_descriptor;         /* the process itself has it open for writing */
	bool own_descriptor_then;
	bool named;         /* it has a name or key that anybody may open it by */
	bool others;        /* others can write it */
	bool doubtful_then; /* either of these, at the look before */
	pid_t by;           /* one of the others, where known; else 0 */
};

struct sharers;

struct objects {
	struct object *v;
	size_t len;
	struct sharers *sharers; /* started when it is first needed */
};

void objects_release(struct objects *o);

/*
 * One look, before the backend arms: begin, and then the other two, in any order. They return 0 or
 * a negative errno.
 */
void objects_begin_look(struct objects *o);
/* Numbers the objects of `maps`, and brings up to date where they have data. */
int objects_look(
	struct objects *o, const struct process *p, struct mapping_table *maps, bool unpaused);
/*
 * Asks the machine who else has them; `maps` must be numbered. Takes about 0.1 ms for each of its
 * processes, where there is an object that is not known yet to be in other hands, and at most until
 * the deadline (CLOCK_MONOTONIC): what is not known by then is taken to be in other hands.
 */
int objects_look_for_others(struct objects *o, const struct process *p,
	const struct mapping_table *maps, uint64_t deadline_ns);

/* Appends the stretches of one mapping of an object that have data, by address. */
int objects_watch(const struct objects *o, const struct mapping *m, uint32_t index,
	struct watch_list *watches);

/*
 * May this object have been written since the last look without the page tables showing it? So it
 * is where others can write it, where it was written by write(2), and where that cannot be known.
 */
bool objects_doubtful(const struct objects *o, space_id object);

/* Can others write it: does another process have it mapped, or open for writing, or can anybody
 * open it by name? Also true where that cannot be known. */
bool objects_others_write(const struct objects *o, space_id object);

#endif
