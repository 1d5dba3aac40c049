/* SPDX-License-Identifier: MIT */
/* A live process as a page source: what the backend finds by address becomes change sets. */
#ifndef TRACKER_SOURCE_H
#define TRACKER_SOURCE_H

#include <stdbool.h>
#include <sys/types.h>
#include "proto/page_source.h"

struct process_source_options {
	const char *backend; /* "auto" or NULL, or a backend's name */
	const char *purpose; /* told to a second tracker: "tidemark send" */
	/* What page tables alone cannot follow is not refused; in the freeze everything that is
	 * held is doubtful. */
	bool verify_writes;
};

/*
 * Begins to follow a process: takes the lock, opens it, attaches the backend. Nothing is read or
 * armed before the first collect. Errors as process_open(), track_lock_take(), backend_choose() and
 * tracer_inject_userfaultfd() give them.
 */
int process_source_open(pid_t pid, const struct process_source_options *options,
	struct page_source **ret, struct tide_error *err);

/* The backend's name, static. */
const char *process_source_backend(const struct page_source *s);

#endif
