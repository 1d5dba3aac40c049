/* SPDX-License-Identifier: MIT */
/*
 * Which memory a process uses: its referenced bits are cleared, and looked at again later. The bits
 * are one set for all: page reclaim goes by them, and two who measure at once see too little each.
 * What tells of writes (soft-dirty, userfaultfd) is not touched, so no lock is taken, and a tracker
 * may work meanwhile.
 */
#ifndef TRACKER_WORKING_SET_H
#define TRACKER_WORKING_SET_H

#include <stdint.h>
#include "tidemark/error.h"
#include "tracker/smaps.h"

/* The numbers are what /proc/PID/clear_refs takes. */
enum working_set_kind {
	WORKING_SET_ALL = 1,
	WORKING_SET_ANONYMOUS = 2, /* mappings without a file */
	WORKING_SET_FILE = 3,      /* mappings of files, shared anonymous memory included */
};

struct working_set {
	uint64_t rss_bytes, referenced_bytes;
	uint64_t anonymous_bytes, file_bytes; /* of the referenced ones, by mapping */
};

/* Is the mapping one of those whose bits are cleared (pure)? */
bool working_set_has(enum working_set_kind kind, const struct smaps_entry *e);

/* Sums up what belongs to `kind` (pure). */
void working_set_sum(const struct smaps *s, enum working_set_kind kind, struct working_set *ret);

struct process;

/* Clears the referenced bits. The process's page faults and mmap calls wait for it meanwhile:
 * docs/kernel.md has the figures. -ESRCH it is gone; -EACCES, -EPERM not ours. */
int working_set_clear(const struct process *p, enum working_set_kind kind, struct tide_error *err);

/* VmHWM, the most that was resident, begins anew with what is resident now. Same errors. */
int peak_reset(const struct process *p, struct tide_error *err);
int peak_read(const struct process *p, uint64_t *ret_bytes, struct tide_error *err);

#endif
