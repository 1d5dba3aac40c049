/* SPDX-License-Identifier: MIT */
/* Which pages of a stretch a process has, without disturbing it. */
#ifndef TRACKER_POPULATED_H
#define TRACKER_POPULATED_H

#include "proto/mapping.h"
#include "tidemark/error.h"

struct process;

/*
 * Adds to `ret` the pages of [start, end) within mapping `m` that may hold something else than what
 * the mapping's file (or, without one, zero) gives: of private mappings those that are populated
 * and not the file's own, of shared objects those where the object has data. Works on every kernel.
 */
int populated_find(const struct process *p, const struct mapping *m, uint64_t start, uint64_t end,
	struct pageset *ret, struct tide_error *err);

#endif
