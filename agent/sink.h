/* SPDX-License-Identifier: MIT */
/*
 * Where pages go at the agent. A new sink is a new file and a line in the table in session.c. All
 * calls come from one thread, the session's, and may block. What comes here has been checked by the
 * session: order of the frames, lengths, checksums, and that blocks decode.
 */
#ifndef AGENT_SINK_H
#define AGENT_SINK_H

#include "proto/batch.h"
#include "proto/message.h"

struct sink;

struct sink_ops {
	/* Every durable frame, in order, as it came: verbatim bytes are in `raw`, `frame` borrows
	 * them. For PAGES frames `batch` is its decoded head and `pages` the decoded pages in the
	 * order of the runs; else both are NULL. For MAPPINGS, DROPS, ... the session has decoded
	 * and applied the message to the struct address_space that it keeps, before this call. */
	int (*frame)(struct sink *s, const struct frame *frame, const struct frame_buffer *raw,
		const struct batch *batch, const uint8_t *pages, struct tide_error *err);
	/* All frames of the round were given. Its bytes begin their way to the disk, so that commit
	 * has only the last round to wait for. */
	int (*round_end)(struct sink *s, uint64_t round, struct tide_error *err);
	/* Makes it last and gives it its name: fsync, rename, fsync of the folder. */
	int (*commit)(struct sink *s, struct committed *ret, struct tide_error *err);
	/* Leaves nothing behind. Also the end after a commit; frees the sink. */
	void (*close)(struct sink *s);
};

struct sink {
	const struct sink_ops *ops;
};

#endif
