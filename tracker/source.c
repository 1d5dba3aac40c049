/* SPDX-License-Identifier: MIT */
#include <elf.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/error.h"
#include "tidemark/send.h"
#include "tracker/backend.h"
#include "tracker/changes.h"
#include "tracker/hidden_writes.h"
#include "tracker/inspect.h"
#include "tracker/lock.h"
#include "tracker/maps.h"
#include "tracker/objects.h"
#include "tracker/process.h"
#include "tracker/reader.h"
#include "tracker/source.h"
#include "tracker/state.h"
#include "tracker/tracer.h"

/* How long a backend may have the process stand still for a round. Nobody waits for a disk or a
 * peer meanwhile, so that it is there only for what goes wrong. */
#define STAND_STILL_NS (5 * NS_PER_S)

/* How long the freeze waits for I/O that was begun before it. */
#define DRAIN_NS (500 * NS_PER_MS)

struct process_source {
	struct page_source base;
	struct track_lock *lock;
	struct process *process;
	struct tracer *tracer;
	struct backend *backend;
	struct hidden_writes *hidden;
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

/* What is to be watched of these mappings. Objects must have been looked at. */
static int make_watches(
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

/*
 * The first page of a mapped ELF file travels though it is the file's: it holds the build-id's
 * place, without which a core file says nothing of the libraries it was made with. It counts as
 * held while it is not copied.
 */
static int pin_elf_headers(struct process_source *s, struct baseline *b, struct pageset *written)
{
	struct pageset *held = &b->held.v[0];
	for (size_t i = 0; i < b->maps.len; i++) {
		const struct mapping *m = &b->maps.v[i];
		struct page_run page = {m->start, m->start + s->page_bytes};
		if (m->kind != MAPPING_FILE_PRIVATE || m->offset != 0 ||
			m->flags & MAPPING_HUGETLB || pageset_covers(held, page))
			continue;
		const struct mapping *was = mapping_table_find(&s->settled.maps, m->start);
		bool known =
			pageset_covers(&s->settled.pinned, page) && was && mapping_equal(was, m);
		if (!known) {
			char magic[SELFMAG];
			uint64_t bytes = 0;
			struct iovec at = {
				.iov_base = (void *)(uintptr_t)m->start, .iov_len = SELFMAG};
			int r = reader_read(s->process, &at, 1, magic, &bytes, NULL);
			if (r < 0)
				return r;
			if (bytes != SELFMAG || memcmp(magic, ELFMAG, SELFMAG) != 0)
				continue;
		}
		int r = pageset_add(held, page);
		if (r == 0)
			r = pageset_add(&b->pinned, page);
		if (r == 0 && !known)
			r = pageset_add(written, page);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The vDSO cannot be written by the process: it travels once. */
static int take_vdso(struct process_source *s, struct baseline *b, struct pageset *written)
{
	for (size_t i = 0; i < b->maps.len; i++) {
		const struct mapping *m = &b->maps.v[i];
		struct page_run run = {m->start, m->end};
		if (m->kind != MAPPING_VDSO)
			continue;
		int r = pageset_add(&b->held.v[0], run);
		if (r == 0 && !(s->settled.held.len && pageset_covers(&s->settled.held.v[0], run)))
			r = pageset_add(written, run);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Adds the part of `found` (by address) that lies in one stretch of an object to the object's set.
 */
static int sort_into_object(const struct pageset *found, const struct watch *w,
	const struct mapping *m, struct pageset *ret)
{
	int r = 0;
	for (size_t k = pageset_find(found, w->start);
		r == 0 && k < found->len && found->runs[k].start < w->end; k++) {
		struct page_run part = found->runs[k];
		if (part.start < w->start)
			part.start = w->start;
		if (part.end > w->end)
			part.end = w->end;
		r = pageset_add(ret, in_object(m, part));
	}
	return r;
}

/* Sorts what was found by address into the spaces that the pages belong to. */
static int sort_by_space(struct process_source *s, const struct mapping_table *maps,
	const struct watch_list *watches, const struct backend_found *found, struct baseline *b,
	struct written *w)
{
	size_t spaces = s->objects.len + 1;
	int r = holdings_grow(&b->held, spaces);
	if (r == 0)
		r = holdings_grow(&w->pages, spaces);
	if (r == 0)
		r = holdings_grow(&w->doubtful, spaces);
	if (r == 0)
		r = pageset_merge(&b->held.v[SPACE_PRIVATE], &found->held);
	if (r == 0)
		r = pageset_merge(&w->zero, &found->zero);

	/* Pages of shared stretches move to the object's space; what remains is private. */
	struct pageset shared = {0};
	for (size_t i = 0; r == 0 && i < watches->len; i++) {
		const struct watch *watch = &watches->v[i];
		const struct mapping *m = &maps->v[watch->mapping];
		if (watch->kind != WATCH_SHARED)
			continue;
		struct page_run run = {watch->start, watch->end};
		r = pageset_add(&shared, run);
		if (r == 0)
			r = pageset_add(&b->held.v[m->object], in_object(m, run));
		if (r == 0)
			r = sort_into_object(&found->written, watch, m, &w->pages.v[m->object]);
		/* What was seen to be written is not doubtful, unless the backend says so. */
		if (r == 0)
			r = sort_into_object(&found->doubtful, watch, m, &w->doubtful.v[m->object]);
	}
	if (r == 0)
		r = pageset_subtract(&found->written, &shared, &w->pages.v[SPACE_PRIVATE]);
	if (r == 0)
		r = pageset_subtract(&found->doubtful, &shared, &w->doubtful.v[SPACE_PRIVATE]);
	pageset_release(&shared);
	return r;
}

/* Pages that are read again although nothing was seen to write them. */
static int add_doubtful(struct written *w, space_id space, const struct pageset *pages)
{
	struct pageset unseen = {0};
	int r = pageset_subtract(pages, &w->pages.v[space], &unseen);
	if (r == 0)
		r = pageset_merge(&w->doubtful.v[space], &unseen);
	if (r == 0)
		r = pageset_merge(&w->pages.v[space], &unseen);
	pageset_release(&unseen);
	return r;
}

/* Pages, by address, that may have been written past the page tables. */
static int add_hidden(const struct pageset *hidden, const struct mapping_table *maps,
	const struct baseline *b, struct written *w)
{
	struct pageset held = {0}, part = {0};
	int r = pageset_intersect(hidden, &b->held.v[SPACE_PRIVATE], &held);
	if (r == 0)
		r = add_doubtful(w, SPACE_PRIVATE, &held);
	for (size_t i = 0; r == 0 && i < maps->len; i++) {
		const struct mapping *m = &maps->v[i];
		const struct watch all = {.start = m->start, .end = m->end};
		if (m->kind != MAPPING_OBJECT)
			continue;
		pageset_clear(&part);
		r = sort_into_object(hidden, &all, m, &part);
		if (r == 0)
			r = pageset_intersect(&part, &b->held.v[m->object], &held);
		if (r == 0)
			r = add_doubtful(w, m->object, &held);
	}
	pageset_release(&held);
	pageset_release(&part);
	return r;
}

/*
 * Objects that may have been written in a way that the page tables do not show are read whole. In
 * the freeze that is all of them: who maps an object between two looks, writes it and unmaps it (a
 * child; the process itself, by mremap with an old size of 0) leaves no trace anywhere.
 */
static int add_unseen(struct process_source *s, const struct baseline *b, struct written *w)
{
	int r = 0;
	for (space_id space = 0; r == 0 && space < b->held.len; space++) {
		bool is_object = space != SPACE_PRIVATE;
		if ((s->frozen && (is_object || s->verify_writes)) ||
			(is_object && objects_doubtful(&s->objects, space)))
			r = add_doubtful(w, space, &b->held.v[space]);
	}
	return r;
}

/* How many pages the freeze would read again, and this look does not. */
static uint64_t to_reread(
	const struct process_source *s, const struct baseline *b, const struct written *w)
{
	uint64_t all = 0, now = 0;
	for (space_id space = 0; !s->frozen && space < b->held.len; space++) {
		if (space == SPACE_PRIVATE && !s->verify_writes)
			continue;
		all += pageset_bytes(&b->held.v[space]);
		now += pageset_bytes(&w->doubtful.v[space]);
	}
	return all > now ? (all - now) / s->page_bytes : 0;
}

/* What was never acknowledged is still owed, where it is still held. */
static int add_owed(struct process_source *s, const struct holdings *held, struct holdings *written)
{
	int r = 0;
	struct pageset still = {0};
	for (size_t i = 0; r == 0 && i < s->owed.len && i < held->len; i++) {
		r = pageset_intersect(&s->owed.v[i], &held->v[i], &still);
		if (r == 0)
			r = pageset_merge(&written->v[i], &still);
	}
	pageset_release(&still);
	return r;
}

/* What is held and was not before is written, whatever the backend made of it. */
static int add_new(struct process_source *s, const struct holdings *held, struct holdings *written)
{
	static const struct pageset nothing;
	int r = 0;
	struct pageset fresh = {0};
	for (size_t i = 0; r == 0 && i < held->len; i++) {
		bool was = i < s->settled.held.len && !s->start_over;
		r = pageset_subtract(&held->v[i], was ? &s->settled.held.v[i] : &nothing, &fresh);
		if (r == 0)
			r = pageset_merge(&written->v[i], &fresh);
	}
	pageset_release(&fresh);
	return r;
}

/* All that is held where the last collect, acknowledged or not, went by other mappings. */
static int add_replaced(
	struct process_source *s, const struct baseline *b, struct holdings *written)
{
	struct holdings replaced = {0};
	struct pageset part = {0};
	int r = replaced_find(&s->last_maps, &b->maps, b->held.len, &replaced);
	for (size_t i = 0; r == 0 && i < replaced.len; i++) {
		r = pageset_intersect(&replaced.v[i], &b->held.v[i], &part);
		if (r == 0)
			r = pageset_merge(&written->v[i], &part);
	}
	pageset_release(&part);
	holdings_release(&replaced);
	return r;
}

/* Completes what the backend found with what it cannot know. */
static int complete(struct process_source *s, struct baseline *b, struct written *w)
{
	int r = add_unseen(s, b, w);
	if (r == 0)
		r = add_owed(s, &b->held, &w->pages);
	if (r == 0)
		r = add_replaced(s, b, &w->pages);
	if (r == 0)
		r = take_vdso(s, b, &w->pages.v[SPACE_PRIVATE]);
	if (r == 0)
		r = pin_elf_headers(s, b, &w->pages.v[SPACE_PRIVATE]);
	if (r == 0)
		r = add_new(s, &b->held, &w->pages);
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

/* A look at the process: its mappings, its objects, and what the backend finds. */
struct look {
	struct mapping_table maps; /* as the kernel has them */
	struct watch_list watches;
	struct backend_found found;
	const struct hidden_report *hidden;
	uint64_t at_ns, stopped_ns;
};

static void look_release(struct look *l)
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

static int take_look(struct process_source *s, struct look *l, struct tide_error *err)
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
	if (r == 0 && (r = make_watches(&s->objects, &l->maps, &l->watches)) < 0)
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

/* What the round's line should say besides the figures. */
static void make_note(const struct look *l, const struct written *w, char *ret, size_t size)
{
	size_t at = 0;
	uint64_t shared =
		holdings_bytes(&w->doubtful) - pageset_bytes(&w->doubtful.v[SPACE_PRIVATE]);
	ret[0] = '\0';
	if (l->stopped_ns)
		at += (size_t)snprintf(
			ret, size, "stood still %.1f ms", (double)l->stopped_ns / NS_PER_MS);
	if (shared && at < size)
		at += (size_t)snprintf(
			ret + at, size - at, "%sshared memory re-read", at ? ", " : "");
	char hidden[HIDDEN_NOTE];
	hidden_report_note(l->hidden, hidden);
	/* What has no room is left out. */
	if (hidden[0] && at + 2 < size)
		snprintf(ret + at, size - at, "%s%.*s", at ? ", " : "", (int)(size - at - 3),
			hidden);
}

static int source_collect(
	struct page_source *base, const struct change_set **ret, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	uint64_t before = clock_now_ns();
	struct baseline b = {0};
	struct look look = {0};

	change_set_release(&s->changes);
	written_release(&s->written);
	baseline_release(&s->staged);

	int r = take_look(s, &look, err);
	if (r < 0)
		goto out;
	r = sort_by_space(s, &look.maps, &look.watches, &look.found, &b, &s->written);
	if (r == 0)
		r = add_hidden(&look.hidden->doubtful, &look.maps, &b, &s->written);
	/* b.maps: as they travel */
	if (r == 0)
		r = mapping_table_copy(&look.maps, &b.maps);
	mapping_table_merge(&b.maps);
	if (r == 0)
		r = complete(s, &b, &s->written);
	if (r == 0)
		r = change_set_make(&s->settled, &b, &s->written, s->page_bytes, &s->changes);
	if (r < 0) {
		tide_fail(err, r, "note what process %d wrote", s->process->pid);
		goto out;
	}
	make_note(&look, &s->written, s->changes.note, sizeof(s->changes.note));
	s->changes.to_reread_pages = to_reread(s, &b, &s->written);
	s->changes.doubts_to_come = s->verify_writes;
	s->changes.interval_ns = s->collected_at_ns ? look.at_ns - s->collected_at_ns : 0;
	s->changes.collect_ns = clock_now_ns() - before;
	s->collected_at_ns = look.at_ns;
	mapping_table_release(&s->last_maps);
	s->last_maps = look.maps;
	look.maps = (struct mapping_table){0};
	s->staged = b;
	b = (struct baseline){0};
	*ret = &s->changes;
out:
	/* What a failed collect armed would never show again. */
	s->start_over = r < 0;
	baseline_release(&b);
	look_release(&look);
	return r;
}

static int source_pending(struct page_source *base, uint64_t *ret_pages, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	const struct mapping_table *maps = &s->settled.maps;
	struct watch_list watches = {0};
	uint64_t pages = 0, doubtful = 0;
	int r = make_watches(&s->objects, maps, &watches);
	/* What will be read whole, as it was last time, need not be asked for. */
	size_t asked = 0;
	for (size_t i = 0; r == 0 && i < watches.len; i++) {
		const struct watch w = watches.v[i];
		if (w.kind == WATCH_SHARED &&
			objects_doubtful(&s->objects, maps->v[w.mapping].object))
			doubtful += (w.end - w.start) / s->page_bytes;
		else
			watches.v[asked++] = w;
	}
	watches.len = asked;
	if (r < 0)
		tide_fail(err, r, "note the mappings of process %d", s->process->pid);
	if (r == 0)
		r = s->backend->ops->pending(s->backend, maps, &watches, &pages, err);
	watch_list_release(&watches);
	if (r == 0)
		*ret_pages = pages + doubtful;
	return r;
}

/*
 * What is left of the span in which a read ended is owed, should it still be held when we look
 * again. All of it, not only the page that could not be read: where a mapping went, every page of
 * it would fail on its own.
 */
static int source_skip(struct process_source *s, const struct page_span *spans, uint64_t got,
	struct tide_error *err)
{
	while (got >= spans->bytes)
		got -= spans++->bytes;
	struct page_run rest = {spans->at + got, spans->at + spans->bytes};
	pthread_mutex_lock(&s->skipped_lock);
	int r = holdings_grow(&s->skipped, spans->space + 1);
	if (r == 0)
		r = pageset_add(&s->skipped.v[spans->space], rest);
	pthread_mutex_unlock(&s->skipped_lock);
	return r < 0 ? tide_fail(err, r, "keep in mind what process %d wrote", s->process->pid) : 0;
}

static int source_read(struct page_source *base, const struct page_span *spans, size_t nspans,
	void *buf, uint64_t *ret_bytes, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	enum { SOME = 256 };
	struct iovec remote[SOME];
	uint64_t bytes = 0;
	for (size_t i = 0; i < nspans; i += SOME) {
		size_t n = nspans - i < SOME ? nspans - i : SOME;
		uint64_t wanted = 0, got = 0;
		for (size_t k = 0; k < n; k++) {
			remote[k].iov_base = (void *)(uintptr_t)spans[i + k].address;
			remote[k].iov_len = spans[i + k].bytes;
			wanted += spans[i + k].bytes;
		}
		int r = reader_read(s->process, remote, n, (uint8_t *)buf + bytes, &got, err);
		if (r < 0)
			return r;
		/* Half a page is no page. */
		got -= got % s->page_bytes;
		bytes += got;
		if (got < wanted && s->frozen) {
			if (!tracer_is_frozen(s->tracer))
				return tide_fail(err, -ETIMEDOUT,
					"hold process %d: it was let go in time", s->process->pid);
			uint64_t left = got;
			size_t k = 0;
			for (; left >= remote[k].iov_len; k++)
				left -= remote[k].iov_len;
			const struct mapping *m =
				mapping_table_find(&s->staged.maps, spans[i + k].address);
			return tide_say(err, "the page at %#llx (%s) of process %d cannot be read",
				(unsigned long long)(spans[i + k].address + left),
				m && m->name[0] ? m->name : "anonymous memory", s->process->pid);
		}
		if (got < wanted) {
			*ret_bytes = bytes;
			return source_skip(s, &spans[i], got, err);
		}
	}
	*ret_bytes = bytes;
	return 0;
}

static int source_settle(struct page_source *base, bool acknowledged, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	if (acknowledged) {
		holdings_release(&s->owed);
		s->owed = s->skipped;
		s->skipped = (struct holdings){0};
		baseline_release(&s->settled);
		s->settled = s->staged;
		s->staged = (struct baseline){0};
	} else {
		int r = holdings_merge(&s->owed, &s->written.pages);
		if (r < 0)
			return tide_fail(
				err, r, "keep in mind what process %d wrote", s->process->pid);
		baseline_release(&s->staged);
	}
	written_release(&s->written);
	return 0;
}

static int source_describe(
	struct page_source *base, struct process_info *ret, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	if (!s->info) {
		int r = process_describe(s->process, &s->info, err);
		if (r < 0)
			return r;
	}
	*ret = *s->info;
	return 0;
}

static int source_freeze(struct page_source *base, uint64_t timeout_ns, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	struct freeze_report report;
	/* What has its number by now is not stopped even for a moment. */
	int r = process_check(s->process, err);
	if (r == 0)
		r = tracer_freeze(s->tracer, timeout_ns, &report, err);
	s->frozen = r == 0;
	return r;
}

static int source_freeze_keep(struct page_source *base, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	return tracer_freeze_keep(s->tracer, err);
}

static int source_state(
	struct page_source *base, const struct process_state **ret, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	process_state_release(&s->state);
	int r = process_capture(s->process, s->tracer, &s->state, err);
	if (r == 0)
		*ret = &s->state;
	return r;
}

static int source_thaw(struct page_source *base, enum thaw_mode mode, struct tide_error *err)
{
	static const enum tracer_thaw_mode modes[] = {
		[THAW_RUN] = TRACER_RUN, [THAW_STOP] = TRACER_STOP, [THAW_KILL] = TRACER_KILL};
	struct process_source *s = (struct process_source *)base;
	s->frozen = false;
	return tracer_thaw(s->tracer, modes[mode], err);
}

static void source_release(struct page_source *base)
{
	struct process_source *s = (struct process_source *)base;
	if (s->frozen)
		(void)source_thaw(base, THAW_RUN, NULL);
	if (s->backend)
		s->backend->ops->release(s->backend);
	tracer_stop(s->tracer);
	hidden_writes_close(s->hidden);
	process_close(s->process);
	track_lock_drop(s->lock);
	free(s->info);
	process_state_release(&s->state);
	objects_release(&s->objects);
	baseline_release(&s->settled);
	baseline_release(&s->staged);
	mapping_table_release(&s->last_maps);
	written_release(&s->written);
	holdings_release(&s->owed);
	holdings_release(&s->skipped);
	pthread_mutex_destroy(&s->skipped_lock);
	change_set_release(&s->changes);
	free(s);
}

static const struct page_source_ops process_source_ops = {
	.describe = source_describe,
	.collect = source_collect,
	.pending = source_pending,
	.read = source_read,
	.settle = source_settle,
	.freeze = source_freeze,
	.freeze_keep = source_freeze_keep,
	.state = source_state,
	.thaw = source_thaw,
	.release = source_release,
};

/* What `tidemark check` says cannot be followed is not. */
static int refuse(pid_t pid, bool verify_writes, struct tide_error *err)
{
	struct inspection found;
	int r = process_inspect(pid, &found, err);
	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < found.nfindings; i++) {
		const struct finding *f = &found.findings[i];
		if (f->refused && !(f->verifiable && verify_writes))
			r = tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -ECANCELED,
				"process %d cannot be followed: %s", pid, f->text);
	}
	inspection_release(&found);
	return r;
}

int process_source_open(pid_t pid, const struct process_source_options *options,
	struct page_source **ret, struct tide_error *err)
{
	const struct backend_ops *backend;
	int r = backend_choose(options->backend, &backend, err);
	if (r < 0)
		return r;
	struct process_source *s = calloc(1, sizeof(*s));
	if (!s)
		return tide_fail(err, -ENOMEM, "follow process %d", pid);
	s->base.ops = &process_source_ops;
	s->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	s->verify_writes = options->verify_writes;
	pthread_mutex_init(&s->skipped_lock, NULL);

	r = refuse(pid, options->verify_writes, err);
	if (r == 0)
		r = process_open(pid, &s->process, err);
	if (r == 0)
		r = hidden_writes_open(s->process, &s->hidden, err);
	if (r == 0)
		r = track_lock_take(pid, s->process->start_time, options->purpose, &s->lock, err);
	if (r == 0)
		r = tracer_start(s->process, &s->tracer, err);
	if (r == 0)
		r = backend->attach(s->process, s->tracer, &s->backend, err);
	if (r < 0) {
		source_release(&s->base);
		return r;
	}
	*ret = &s->base;
	return 0;
}

const char *process_source_backend(const struct page_source *base)
{
	return ((const struct process_source *)base)->backend->ops->name;
}

int tide_process_source_open(pid_t pid, const struct tide_process_source_options *options,
	struct tide_source **ret, struct tide_error *err)
{
	struct page_source *source;
	struct process_source_options o = {.purpose = program_invocation_short_name};
	if (options) {
		o.backend = options->backend;
		o.verify_writes = options->verify_writes;
		if (options->purpose)
			o.purpose = options->purpose;
	}
	int r = process_source_open(pid, &o, &source, err);
	if (r == 0)
		*ret = (struct tide_source *)(void *)source;
	return r;
}
