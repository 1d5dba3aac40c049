/* SPDX-License-Identifier: MIT */
/*
 * Where the sender gets pages from. The tracker implements it for a live process; an embedder may
 * implement it for something else, and tests do for a piece of memory.
 *
 * One thread, the driver, calls everything but read(), in this order:
 *     describe, { collect, read..., settle, throttle }..., freeze, { collect, read..., state,
 * settle }, thaw, release read() is called by several threads at once, only between a collect and
 * its settle.
 */
#ifndef PROTO_PAGE_SOURCE_H
#define PROTO_PAGE_SOURCE_H

#include <stdbool.h>
#include <stdint.h>
#include "proto/mapping.h"
#include "proto/state.h"
#include "tidemark/error.h"

/* Consecutive pages of one space that were written and hold something now. */
struct page_span {
	space_id space;
	uint64_t at;      /* place in the space, bytes */
	uint64_t address; /* where the process has it mapped, bytes; equals `at` in SPACE_PRIVATE */
	uint64_t bytes;
	bool zero;     /* known to be zero: need not be read */
	bool doubtful; /* nothing shows that it was written, nor that it was not: it need not travel
			  where it still holds what the receiver has */
};

/* The numbers travel. */
enum drop_kind {
	DROP_GONE = 1,         /* reads as zero, or is not mapped any more */
	DROP_BACK_TO_FILE = 2, /* a private copy was dropped: reads as the file again */
};

struct page_drop {
	space_id space;
	struct page_run run; /* in the space */
	enum drop_kind kind;
};

/* What changed since the last settled collect. Owned by the source, valid until the next call of
 * collect or release. */
struct change_set {
	struct mapping_diff mappings;
	struct page_drop *drops; /* by space, then by place, without overlap */
	size_t ndrops;
	struct page_span *written; /* by space, then by place */
	size_t nwritten;
	uint64_t written_pages;
	uint64_t held_pages; /* that a receiver of everything so far holds, over all spaces */
	uint64_t dropped_pages;
	uint64_t reread_pages;    /* of the written ones: doubtful */
	uint64_t to_reread_pages; /* not doubtful now, and will be in the freeze */
	bool doubts_to_come;      /* sooner or later every page will be doubtful */
	uint64_t collect_ns;      /* how long finding all this took */
	uint64_t interval_ns;     /* since the collect before; 0 for the first */
	char note[160];           /* for the round's line, or "" ("1 registered buffer re-read") */
};

enum thaw_mode {
	THAW_RUN,  /* go on as if nobody had looked */
	THAW_STOP, /* stopped as by SIGSTOP, without having run an instruction */
	THAW_KILL,
};

struct page_source;

struct page_source_ops {
	/* Fills in who is read. Strings are owned by the source. */
	int (*describe)(struct page_source *s, struct process_info *ret, struct tide_error *err);

	/* Finds what changed and, in the same step, starts to watch for what changes next. The
	 * first finds everything. In the freeze nothing is armed again. */
	int (*collect)(
		struct page_source *s, const struct change_set **ret, struct tide_error *err);

	/* About how many pages the next collect would find. Changes nothing. */
	int (*pending)(struct page_source *s, uint64_t *ret_pages, struct tide_error *err);

	/*
	 * Reads the pages of `spans`, back to back, into `buf`. *ret_bytes is how many bytes from
	 * the start could be read; fewer than asked for where the page behind them is gone by now.
	 * What is left of that span is then passed over: the source keeps in mind that it is owed,
	 * where it is still there, and the caller goes on with the next span. Returns 0 also then.
	 * -ESRCH where the process is gone or is another program by now; in the freeze a page that
	 * cannot be read is an error, named.
	 */
	int (*read)(struct page_source *s, const struct page_span *spans, size_t nspans, void *buf,
		uint64_t *ret_bytes, struct tide_error *err);

	/* The receiver holds (or never will hold) what the last collect found. What was not
	 * acknowledged is found again by the next collect. */
	int (*settle)(struct page_source *s, bool acknowledged, struct tide_error *err);

	/* Stops every thread for at most `timeout_ns`. */
	int (*freeze)(struct page_source *s, uint64_t timeout_ns, struct tide_error *err);
	/* From here on the timeout of freeze no longer applies. -ETIMEDOUT where it is already
	 * over. */
	int (*freeze_keep)(struct page_source *s, struct tide_error *err);
	/* How the process stands, in the freeze. Owned by the source, until release. */
	int (*state)(
		struct page_source *s, const struct process_state **ret, struct tide_error *err);
	/* -ETIMEDOUT where the timeout had ended the freeze: then what was read since is not of one
	 * instant. */
	int (*thaw)(struct page_source *s, enum thaw_mode mode, struct tide_error *err);

	/*
	 * Takes `percent` (1 to 99) of its time from the process until told otherwise; 0 lets go of
	 * it, and, the first time, begins to watch what it does when it is left alone. Optional:
	 * NULL where nothing can be slowed. On failure nothing is slowed. freeze and release let
	 * go, too.
	 */
	int (*throttle)(struct page_source *s, unsigned percent, struct tide_error *err);

	/* Lets go without a trace; also in the middle of anything, and thaws (THAW_RUN) what is
	 * frozen. */
	void (*release)(struct page_source *s);
};

struct page_source {
	const struct page_source_ops *ops;
};

/* The public name of a page source, whose inside embedders need not know. */
struct tide_source;

static inline struct page_source *page_source_of(struct tide_source *source)
{
	return (struct page_source *)(void *)source;
}

#endif
