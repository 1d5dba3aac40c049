/* SPDX-License-Identifier: MIT */
/* /proc/PID/maps, read into a mapping table, and what each mapping is to us. */
#ifndef TRACKER_MAPS_H
#define TRACKER_MAPS_H

#include "proto/mapping.h"
#include "tidemark/error.h"

struct process;

/*
 * Parses the text of a maps file (pure). `kind` is set by what the line alone tells: which of the
 * files are memory, devices or real files is refined by maps_inspect(). -EBADMSG names the line.
 */
int maps_parse(const char *text, size_t len, struct mapping_table *ret, struct tide_error *err);

/*
 * Reads the process's mappings as they are now. `known` (may be NULL) is an earlier table of the
 * same process: what it says of a mapping that has not changed is taken over instead of being asked
 * for again. `object` of a mapping that is not in it is 0: numbering objects is the caller's.
 */
int maps_read(const struct process *p, const struct mapping_table *known, struct mapping_table *ret,
	struct tide_error *err);

/*
 * A descriptor on the object behind a mapping, for SEEK_DATA and reading, by /proc/PID/map_files.
 * Negative errno: -EPERM where this user may not (it takes CAP_SYS_ADMIN or
 * CAP_CHECKPOINT_RESTORE), -ENOENT where the mapping is gone.
 */
int maps_open_file(const struct process *p, const struct mapping *m);

/* Is it memfd_secret's: readable for the process alone? */
bool maps_is_secret(const struct mapping *m);

#endif
