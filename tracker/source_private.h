/* SPDX-License-Identifier: MIT */
/*
 * The three parts of a process source: source.c is its life and what the sender calls,
 * source_look.c looks at the process, source_account.c makes pages of objects and of private memory
 * of what was seen, held and written.
 */
#ifndef TRACKER_SOURCE_PRIVATE_H
#define TRACKER_SOURCE_PRIVATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include "proto/page_source.h"
#include "tracker/backend.h"
#include "tracker/changes.h"
#include "tracker/hidden_writes.h"
#include "tracker/objects.h"

struct track_lock;
struct process;
struct tracer;
struct throttle;

struct process_source {
	struct page_source base;
	struct track_lock *lock;
	struct process *process;
	struct tracer *tracer;
	struct backend *backend;
	struct hidden_writes *hidden;
	struct throttle *throttle; /* NULL until it is asked for */
	uint64_t page_bytes;
	struct process_info *info;
	struct process_state state;

	struct objects objects;

	struct baseline settled;
	struct baseline staged;
	struct mapping_table last_maps; /* that the last collect went by */
	struct written written;         /* found by the last collect; not settled yet */
	struct holdings owed;           /* written once, and never acknowledged */
	pthread_mutex_t skipped_lock;
	struct holdings skipped; /* could not be read since the last collect */
	struct change_set changes;

	uint64_t collected_at_ns;
	bool frozen;
	bool verify_writes;
	bool start_over; /* all that is held counts as written at the next collect */
};

/* A look at the process: its mappings, its objects, and what the backend finds. */
struct look {
	struct mapping_table maps; /* as the kernel has them */
	struct watch_list watches;
	struct backend_found found;
	const struct hidden_report *hidden;
	uint64_t at_ns, stopped_ns;
};

void look_release(struct look *l);

/* Looks; arms what it finds, unless in the freeze. On failure too, release it. */
int source_look(struct process_source *s, struct look *ret, struct tide_error *err);

/* What is to be watched of these mappings. Objects must have been looked at. */
int source_make_watches(
	const struct objects *objects, const struct mapping_table *maps, struct watch_list *ret);

/* What a look means: which pages are held now, and which of them count as written since the last
 * settled baseline, by space. 0 or -errno; release both in any case. */
int source_account(struct process_source *s, const struct look *look, struct baseline *ret,
	struct written *ret_written);

/* How many pages the freeze would read again, and this look does not. */
uint64_t source_to_reread(
	const struct process_source *s, const struct baseline *b, const struct written *w);

#endif
