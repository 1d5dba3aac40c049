/* SPDX-License-Identifier: MIT */
/*
 * How writes are found. A new way is a new file and a line in the table in backend.c. Backends know
 * addresses alone: what a page is part of is the tracker's.
 */
#ifndef TRACKER_BACKEND_H
#define TRACKER_BACKEND_H

#include <stdbool.h>
#include "base/guard.h"
#include "proto/mapping.h"
#include "proto/pageset.h"
#include "tidemark/error.h"

struct backend;
struct process;
struct tracer;

/* What a stretch of addresses is, which decides what the kernel's answers about it mean. */
enum watch_kind {
	WATCH_PRIVATE,      /* anonymous: what is populated is held */
	WATCH_PRIVATE_FILE, /* only pages that were copied are held */
	WATCH_SHARED, /* a stretch of a shared object that has data: absence from the page tables
			 means nothing */
};

struct watch {
	uint64_t start, end; /* within one mapping */
	enum watch_kind kind;
	uint32_t mapping; /* its index in the table that was given along */
};

/* In address order. */
struct watch_list {
	struct watch *v;
	size_t len, cap;
};
void watch_list_release(struct watch_list *l);
int watch_list_add(struct watch_list *l, struct watch w);

/* What a collect found, by address. Release with backend_found_release(). */
struct backend_found {
	struct pageset held; /* private pages with contents of the process's own, at this instant */
	struct pageset written;  /* written since the last collect, or not known not to be; includes
				    shared pages */
	struct pageset zero;     /* of the written ones: hold the zero page */
	struct pageset doubtful; /* of the written ones: not seen to be, but nothing shows that
				    they were not (what cannot be watched) */
	struct pageset refused;  /* stretches that another userfaultfd watches */
	struct pageset unreadable; /* populated, but nothing can be read there (guard pages) */
	struct pageset markers;    /* for the backend itself: places without a page where a mark of
				      its own was left */
};
void backend_found_release(struct backend_found *f);
/* Adds what was found elsewhere; cheap where that is at higher addresses. 0 or -ENOMEM. */
int backend_found_merge(struct backend_found *f, const struct backend_found *more);

struct backend_ops {
	const char *name;  /* as --backend takes it */
	const char *about; /* one line for `tidemark check` */
	bool stands_still; /* collect wants the process not to run meanwhile: the caller stops it,
			      before it reads the mappings, and lets it go right afterwards */

	/* Can this kernel do it? By behaviour, tried on ourselves. 0, or -EOPNOTSUPP/-EPERM with
	 * the reason in words. */
	int (*probe)(struct tide_error *err);

	/* Prepares for a process; nothing is watched yet. Both are borrowed until release. */
	int (*attach)(const struct process *p, struct tracer *t, struct backend **ret,
		struct tide_error *err);

	/*
	 * Finds what was written in `watches` since the last collect, and what is held. Unless
	 * `frozen`, watches from the same instant on for what comes next; a stretch seen for the
	 * first time is written whole. `maps` are the mappings the watches were made from.
	 */
	int (*collect)(struct backend *b, const struct mapping_table *maps,
		const struct watch_list *watches, bool frozen, struct backend_found *ret,
		struct tide_error *err);

	/* About how many pages collect would find written. Changes nothing. */
	int (*pending)(struct backend *b, const struct mapping_table *maps,
		const struct watch_list *watches, uint64_t *ret_pages, struct tide_error *err);

	/* Nothing is watched any more; leaves no trace. */
	void (*release)(struct backend *b);
};

struct backend {
	const struct backend_ops *ops;
};

/* All of them, the preferred ones first, ended by NULL. */
extern const struct backend_ops *const backends[];

/* The one with that name; "auto" or NULL: the first that this kernel can. -EINVAL unknown (USAGE);
 * -EOPNOTSUPP with the reasons. */
int backend_choose(const char *name, const struct backend_ops **ret, struct tide_error *err);

#endif
