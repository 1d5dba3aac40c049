/* SPDX-License-Identifier: MIT */
/*
 * Who else can write a shared object? What another process writes, through a mapping of its own or
 * with write(2), does not show in the page tables of the process that is followed.
 */
#ifndef TRACKER_SHARERS_H
#define TRACKER_SHARERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* One object that is asked about, by device and inode. */
struct sharer_query {
	uint32_t dev_major, dev_minor;
	uint64_t inode;
	const char *name; /* as in /proc/PID/maps; borrowed */

	/* The answers: another process that maps it shared, or has it open for writing (0: none);
	 * and whether the process itself has it open for writing. */
	pid_t by;
	bool own_descriptor;
};

/*
 * Looks at every process, `pid` and the calling one among them. *ret_unseen: some could not be
 * looked into, as this user may not, so that an answer of "none" is not certain. Returns 0 or
 * -ENOMEM, or the negative errno of reading /proc. Cost grows with the mappings and descriptors of
 * the machine: about 0.1 ms a process. May wait for a lock of any of these processes, for as long
 * as it is held.
 */
int sharers_find(pid_t pid, struct sharer_query *queries, size_t n, bool *ret_unseen);

struct sharers;

/*
 * The same on a thread of its own, and waited for until the deadline alone: what is not known by
 * then is unseen, and so is everything while the thread is still at an earlier look.
 * 0 or a negative errno; the thread is started by the first look.
 */
int sharers_new(pid_t pid, struct sharers **ret);
int sharers_look(struct sharers *s, struct sharer_query *queries, size_t n, uint64_t deadline_ns,
	bool *ret_unseen);
/* Does not wait for the thread. Accepts NULL. */
void sharers_free(struct sharers *s);

#endif
