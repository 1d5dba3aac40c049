/* SPDX-License-Identifier: MIT */
/*
 * One tracker a process: the kernel keeps one soft-dirty bit for all, and a scan by one eats what
 * another waits for. The lock is a file named by pid and start time, whatever the backend.
 */
#ifndef TRACKER_LOCK_H
#define TRACKER_LOCK_H

#include <stdint.h>
#include <sys/types.h>
#include "base/guard.h"
#include "tidemark/error.h"

struct track_lock;

/* `purpose` ("tidemark send") is what a second one is told. -EBUSY, kind UNSUPPORTED, names the
 * holder. */
int track_lock_take(pid_t pid, uint64_t start_time, const char *purpose, struct track_lock **ret,
	struct tide_error *err);
/* Accepts NULL. The lock also ends with its process. */
void track_lock_drop(struct track_lock *l);
DEFINE_GUARD(struct track_lock, track_lock_drop)

#endif
