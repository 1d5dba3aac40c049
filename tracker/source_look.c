/* SPDX-License-Identifier: MIT */
/*
 * One look at a process: its mappings, who else has its shared memory, what the backend finds, and
 * what is written past the page tables, in the order in which nothing can be missed.
 */
#include <errno.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "tracker/inspect.h"
#include "tracker/maps.h"
#include "tracker/process.h"
#include "tracker/source_private.h"
#include "tracker/tracer.h"

/* How long a backend may have the process stand still for a round. Nobody waits for a disk or a
 * peer meanwhile, so that it is there only for what goes wrong. */
#define STAND_STILL_NS (5 * NS_PER_S)

/* How long the freeze waits for I/O that was begun before it. */
#define DRAIN_NS (500 * NS_PER_MS)

int source_make_watches(
	const struct objects *objects, const struct mapping_table *maps, struct watch_list *ret)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < maps->len; i++) {
		const struct mapping *m = &maps->v[i];
		struct watch w = {.start = m->start, .end = m->end, .mapping = (uint32_t)i};
		if (m->kind == MAPPING_OBJECT) {
			r = objects_watch(objects, m, (uint32_t)i, ret);
		} else if (m->kind == MAPPING_ANON || m->kind == MAPPING_FILE_PRIVATE) {
			w.kind = m->kind == MAPPING_ANON ? WATCH_PRIVATE : WATCH_PRIVATE_FILE;
			r = watch_list_add(ret, w);
		}
	}
	return r;
}

/* A backend that wants the process to stand still gets it so; else nothing is done. */
static int stand_still(
	struct process_source *s, bool *ret_stopped, uint64_t *ret_since_ns, struct tide_error *err)
{
	struct freeze_report report;
	*ret_stopped = false;
	if (!s->backend->ops->stands_still || s->frozen)
		return 0;
	int r = tracer_freeze(s->tracer, STAND_STILL_NS, &report, err);
	*ret_stopped = r == 0;
	*ret_since_ns = report.stopped_at_ns;
	return r;
}

void look_release(struct look *l)
{
	mapping_table_release(&l->maps);
	watch_list_release(&l->watches);
	backend_found_release(&l->found);
}

/*
 * How long the whole machine may be asked who else has an object. Where it takes longer, to read
 * the object is the lesser evil; and one process that holds a lock for ever must not hold us.
 */
static uint64_t others_ns(const struct process_source *s)
{
	return (s->frozen ? 20 : 2000) * NS_PER_MS;
}

static int look_at_objects(
	struct process_source *s, struct mapping_table *maps, bool others, struct tide_error *err)
{
	int r = objects_look(&s->objects, s->process, maps, s->frozen);
	if (r == 0 && others)
		r = objects_look_for_others(
			&s->objects, s->process, maps, clock_now_ns() + others_ns(s));
	for (size_t i = 0; r == 0 && i < maps->len; i++) {
		struct mapping *m = &maps->v[i];
		if (m->kind != MAPPING_OBJECT)
			continue;
		m->flags &= ~(uint32_t)MAPPING_OTHERS_WRITE;
		if (objects_others_write(&s->objects, m->object))
			m->flags |= MAPPING_OTHERS_WRITE;
	}
	return r < 0 ? tide_fail(err, r, "look at the shared memory of process %d", s->process->pid)
		     : 0;
}

/* What was begun while we followed it, and was not there when it was opened. */
static int refuse_hidden(
	struct process_source *s, const struct hidden_report *report, struct tide_error *err)
{
	struct hidden_word words[HIDDEN_WORDS_MAX];
	size_t n = s->verify_writes ? 0 : hidden_report_words(report, words);
	/* The kernel's own threads write while those of the process stand still. */
	if (!s->verify_writes && s->backend->ops->stands_still &&
		(report->rings || report->aio_contexts))
		return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -ECANCELED,
			"process %d cannot be followed by soft-dirty bits: it has %zu io_uring "
			"rings and %zu AIO contexts, whose writes between reading the bits and "
			"clearing them would be missed",
			s->process->pid, report->rings, report->aio_contexts);
	for (size_t i = 0; i < n; i++) {
		if (words[i].refused)
			return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -ECANCELED,
				"process %d cannot be followed any more: %s", s->process->pid,
				words[i].text);
	}
	return 0;
}

/* Waits in the freeze for what devices still write, and does not go on where that does not end. */
static int drain(struct process_source *s, struct tide_error *err)
{
	struct hidden_drain drain;
	int r = hidden_writes_drain(s->hidden, DRAIN_NS, &drain, err);
	if (r < 0 || drain.settled)
		return r;
	return tide_fail(err, -ETIMEDOUT,
		"wait for the I/O that process %d has begun (%llu requests, %llu pages pinned on "
		"this machine)",
		s->process->pid, (unsigned long long)drain.requests,
		(unsigned long long)drain.pinned_pages);
}

/* After arming, before reading: what is written past the page tables. */
static int look_for_hidden_writes(struct process_source *s, struct look *l, struct tide_error *err)
{
	int r = hidden_writes_find(s->hidden, &l->maps, s->frozen, &l->hidden, err);
	if (r == 0)
		r = refuse_hidden(s, l->hidden, err);
	/* A thread that stood has left the read that it may have been in; where all stood for the
	 * backend, it was before arming. */
	if (r == 0 && l->hidden->unsure_threads && !s->frozen && !l->stopped_ns) {
		struct freeze_report report;
		r = tracer_freeze(s->tracer, STAND_STILL_NS, &report, err);
		if (r == 0)
			r = tracer_thaw(s->tracer, TRACER_RUN, err);
		l->stopped_ns = clock_now_ns() - report.stopped_at_ns;
	}
	if (r == 0 && s->frozen && s->verify_writes)
		r = drain(s, err);
	return r;
}

/* Memory that nobody else may read may also come up while the process is followed. */
static int refuse_secrets(
	struct process_source *s, const struct mapping_table *maps, struct tide_error *err)
{
	for (size_t i = 0; i < maps->len; i++) {
		uint64_t bytes = 0;
		int r = inspect_secret(s->process, &maps->v[i], &bytes, err);
		if (r < 0)
			return r;
		if (bytes)
			return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -ECANCELED,
				"process %d has memfd_secret memory at %#llx by now: %llu KiB that "
				"nobody else may read",
				s->process->pid, (unsigned long long)maps->v[i].start,
				(unsigned long long)bytes >> 10);
	}
	return 0;
}

int source_look(struct process_source *s, struct look *l, struct tide_error *err)
{
	bool still = false;
	uint64_t since = 0;
	/* To ask the whole machine takes long, so it comes before the stop, about the objects that
	 * are known by then: new ones are read whole in any case. */
	bool ask_before = s->backend->ops->stands_still && !s->frozen;
	objects_begin_look(&s->objects);
	int r = ask_before ? objects_look_for_others(&s->objects, s->process, &s->settled.maps,
				     clock_now_ns() + others_ns(s))
			   : 0;
	if (r < 0)
		return tide_fail(
			err, r, "look at the shared memory of process %d", s->process->pid);

	r = process_check(s->process, err);
	if (r == 0)
		r = stand_still(s, &still, &since, err);
	if (r == 0 && still)
		r = process_check(s->process, err);
	if (r == 0)
		r = maps_read(s->process, &s->settled.maps, &l->maps, err);
	if (r == 0)
		r = refuse_secrets(s, &l->maps, err);
	if (r == 0)
		r = look_at_objects(s, &l->maps, !ask_before, err);
	if (r == 0 && (r = source_make_watches(&s->objects, &l->maps, &l->watches)) < 0)
		tide_fail(err, r, "note the mappings of process %d", s->process->pid);
	l->at_ns = clock_now_ns();
	if (r == 0)
		r = s->backend->ops->collect(
			s->backend, &l->maps, &l->watches, s->frozen, &l->found, err);
	if (still) {
		int thawed = tracer_thaw(s->tracer, TRACER_RUN, r == 0 ? err : NULL);
		l->stopped_ns = clock_now_ns() - since;
		if (r == 0)
			r = thawed;
	}
	if (r == 0)
		r = look_for_hidden_writes(s, l, err);
	return r;
}
