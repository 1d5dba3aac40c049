/* SPDX-License-Identifier: MIT */
/*
 * A process, as an ELF core file that can be read at any place without being written first: the
 * headers and notes are made once and kept, the segments are read from where the pages are. The
 * command copies it into a file; a file system can serve it as it is.
 */
#ifndef AGENT_CORE_H
#define AGENT_CORE_H

#include "base/guard.h"
#include "proto/mapping.h"
#include "proto/state.h"
#include "tidemark/error.h"

/* Where the core's contents come from. All is borrowed until core_free(). */
struct core_source {
	const struct process_info *info;
	const struct process_state *state;
	const struct mapping_table *maps;
	uint64_t page_bytes;
	/* The pages held of a space; NULL where none are. */
	const struct pageset *(*held)(void *arg, space_id space);
	/* Reads held pages: all `bytes` of them, or fails. */
	int (*read)(void *arg, space_id space, uint64_t at, void *buf, size_t bytes,
		struct tide_error *err);
	void *arg;
};

struct core;

/* x86-64 alone today. -EOPNOTSUPP for another machine's image, -ENOMEM. */
int core_new(const struct core_source *source, struct core **ret, struct tide_error *err);
void core_free(struct core *c);
DEFINE_GUARD(struct core, core_free)

/* The file's length; large parts of it are holes. */
uint64_t core_bytes(const struct core *c);

/* Reads `bytes` at `offset`, all within core_bytes(). */
int core_read(struct core *c, uint64_t offset, void *buf, size_t bytes, struct tide_error *err);

/* The next stretch at or behind `offset` that is not a hole: false where there is none. For writing
 * sparse files. */
bool core_next_data(const struct core *c, uint64_t offset, uint64_t *ret_start, uint64_t *ret_end);

/* Writes all of it to a seekable descriptor, leaving holes. */
int core_write(struct core *c, int fd, struct tide_error *err);

#endif
