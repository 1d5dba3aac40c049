/* SPDX-License-Identifier: MIT */
/*
 * Which memory of a process our userfaultfd watches. Mappings come and go while we look, and some
 * lose their registration where they lie; here it is kept up with them, from collect to collect.
 */
#ifndef TRACKER_UFFD_REGISTRATION_H
#define TRACKER_UFFD_REGISTRATION_H

#include <stdbool.h>
#include <stdint.h>
#include "proto/pageset.h"
#include "tracker/backend.h"

struct process;
struct tracer;

struct uffd_registration {
	const struct process *process;
	struct tracer *tracer;
	int uffd;             /* owned; -1: none yet */
	bool has_own;         /* the process has had a userfaultfd at a look */
	bool locks;           /* ... or locked memory: its file mappings are not armed */
	struct pageset files; /* with `locks`: where it has files on disks */
	struct pageset registered;
	struct pageset fresh;        /* of these, by the last update: all that is held there counts
					as written */
	struct pageset refused;      /* another userfaultfd's */
	struct pageset shared_armed; /* stretches of shared objects that were armed, and whose
					registration has not changed since */
};

/* Registers what is watched and not registered yet, finds what lost its registration, and forgets
 * what is gone. Before each scan, in the freeze as well. */
int uffd_registration_update(struct uffd_registration *g, const struct mapping_table *maps,
	const struct watch_list *watches, bool frozen, struct tide_error *err);

/* May what a scan says of written pages be believed there? */
bool uffd_registration_covers(const struct uffd_registration *g, const struct watch *w);

/*
 * A page of a locked mapping (mlock) that has a marker, and is not in the page cache, is a fault
 * that the kernel never gets done with: the process hangs, with the lock of its address space held
 * in the case of mlock() itself (Linux 6.18, filemap_fault_recheck_pte_none()). So no marker stays
 * in a file mapping for longer than until we see it; and none comes up in a process that is known
 * to lock memory, for nothing of a file is armed there.
 */
void uffd_registration_take_markers_away(
	struct uffd_registration *g, const struct pageset *markers);

/* Lets go of everything, so that nobody waits long, and closes the userfaultfd. */
void uffd_registration_release(struct uffd_registration *g);

/* Registers [start, end) for write-protection. 0 or -errno. */
int uffd_register(int uffd, uint64_t start, uint64_t end);

#endif
