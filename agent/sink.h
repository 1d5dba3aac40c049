/* SPDX-License-Identifier: MIT */
/*
 * Where pages go at the agent. A new sink is a new file and a line in the table in session.c. Calls
 * may block, and come one after the other, but for those of a PAGES frame that need no order:
 * several threads call prepare() and finish(), each with a work of its own, while another one may
 * be in any call. What comes here has been checked by the session: order of the frames, lengths,
 * checksums, and that blocks decode.
 */
#ifndef AGENT_SINK_H
#define AGENT_SINK_H

#include "agent/address_space.h"
#include "proto/batch.h"
#include "proto/message.h"

struct sink;

/* What one thread has in hand of a PAGES frame, from prepare() to finish(). The sink's. */
struct sink_work;

/* A frame and what the session made of it. All is borrowed for the call; what does not belong to
 * the frame's type is NULL. */
struct sink_input {
	const struct frame *frame;      /* borrows `raw` */
	const struct frame_buffer *raw; /* as it came, byte by byte */

	const struct stream_header *stream;      /* STREAM */
	const struct round_header *round;        /* ROUND */
	const struct mappings_message *mappings; /* MAPPINGS */
	const struct drops_message *drops;       /* DROPS */
	const struct batch *batch;               /* PAGES: the decoded head, */
	const uint8_t *pages;                    /* and the pages, in the order of the runs */
	struct sink_work *work;                  /* what prepare() made of them */
	const struct round_end *round_end;       /* ROUND_END */
	const struct process_state *state;       /* STATE */
	const struct commit *commit;             /* COMMIT */

	/* The process that it speaks of, this frame applied. NULL for STREAM and COMMIT. */
	const struct address_space *process;
};

struct sink_ops {
	/* Of a thread; once STREAM was given. Freed before the sink is closed. 0 or -ENOMEM. NULL
	 * where prepare and finish are. */
	int (*work_new)(struct sink *s, struct sink_work **ret);
	void (*work_free)(struct sink_work *w);
	/* PAGES: what can be made of it before its turn. */
	void (*prepare)(struct sink *s, const struct sink_input *in);
	/* ... and what is left to do behind it, where frame() returned 1. `in` is what frame() got,
	 * without the process. */
	int (*finish)(struct sink *s, const struct sink_input *in, struct tide_error *err);

	/* Every frame from STREAM to COMMIT, in order; also HOLLOW ones where an image is read, and
	 * those of types from 16 to 31 that nobody knows yet and that are not critical. */
	int (*frame)(struct sink *s, const struct sink_input *in, struct tide_error *err);
	/*
	 * What it holds of the pages of `run` from earlier rounds, into `dst`. Comes before the
	 * frame in which they are sent. -EBADMSG names a page that it does not hold. NULL where it
	 * cannot say: then no stream with deltas is taken.
	 */
	int (*former)(struct sink *s, uint32_t process, space_id space, struct page_run run,
		uint8_t *dst, struct tide_error *err);
	/* All frames of the round were given, and the round has been acknowledged: time to tidy up
	 * what the peer need not wait for. */
	int (*round_end)(struct sink *s, uint64_t round, struct tide_error *err);
	/* Makes it last and gives it its name: fsync, rename, fsync of the folder. The stream's id
	 * in `ret` is filled in already. */
	int (*commit)(struct sink *s, struct committed *ret, struct tide_error *err);
	/* Leaves nothing behind of what was not committed; frees the sink. */
	void (*close)(struct sink *s);
};

struct sink {
	const struct sink_ops *ops;
};

#endif
