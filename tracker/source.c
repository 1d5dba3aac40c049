/* SPDX-License-Identifier: MIT */
#include <elf.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/error.h"
#include "tidemark/send.h"
#include "tracker/backend.h"
#include "tracker/inspect.h"
#include "tracker/lock.h"
#include "tracker/maps.h"
#include "tracker/object_data.h"
#include "tracker/process.h"
#include "tracker/reader.h"
#include "tracker/scan.h"
#include "tracker/source.h"
#include "tracker/state.h"
#include "tracker/tracer.h"

/* A shared object that the process maps, known by device and inode while we follow it. Its number
 * is its place in the list + 1. */
struct object {
	uint32_t dev_major, dev_minor;
	uint64_t inode;
	/* Where the object has data, by offset. Without the right to ask the object itself: what
	 * was ever seen in the process's page tables (absence from them says nothing). */
	struct pageset data;
	bool asked; /* `data` was brought up to date in this collect */
};

/* What is held in each space: [0] is SPACE_PRIVATE, [n] object n. */
struct holdings {
	struct pageset *v;
	size_t len;
};

/* The process at one collect, as the receiver will know it once it is acknowledged. */
struct baseline {
	struct mapping_table maps;
	struct holdings held;
	struct pageset pinned; /* ELF header pages that travel although they are the file's */
};

struct process_source {
	struct page_source base;
	struct track_lock *lock;
	struct process *process;
	struct tracer *tracer;
	struct backend *backend;
	uint64_t page_bytes;
	struct process_info *info;
	struct process_state state;

	struct object *objects;
	size_t nobjects;

	struct baseline settled;
	struct baseline staged;
	struct holdings written; /* by the last collect; not settled yet */
	struct holdings owed;    /* written once, and never acknowledged */
	pthread_mutex_t skipped_lock;
	struct holdings skipped; /* could not be read since the last collect */
	struct change_set changes;

	uint64_t collected_at_ns;
	bool frozen;
	bool start_over; /* all that is held counts as written at the next collect */
};

static void holdings_release(struct holdings *h)
{
	for (size_t i = 0; i < h->len; i++)
		pageset_release(&h->v[i]);
	free(h->v);
	*h = (struct holdings){0};
}

static int holdings_grow(struct holdings *h, size_t len)
{
	if (h->len >= len)
		return 0;
	struct pageset *v = reallocarray(h->v, len, sizeof(*v));
	if (!v)
		return -ENOMEM;
	memset(v + h->len, 0, (len - h->len) * sizeof(*v));
	h->v = v;
	h->len = len;
	return 0;
}

static void baseline_release(struct baseline *b)
{
	mapping_table_release(&b->maps);
	holdings_release(&b->held);
	pageset_release(&b->pinned);
}

static void change_set_release(struct change_set *c)
{
	mapping_diff_release(&c->mappings);
	free(c->drops);
	free(c->written);
	*c = (struct change_set){0};
}

/* a = a | b */
static int merge(struct pageset *a, const struct pageset *b)
{
	struct pageset both = {0};
	int r = pageset_union(a, b, &both);
	if (r == 0)
		pageset_swap(a, &both);
	pageset_release(&both);
	return r;
}

static int number_object(struct process_source *s, struct mapping *m)
{
	for (size_t i = 0; i < s->nobjects && m->object == 0; i++) {
		const struct object *o = &s->objects[i];
		if (o->inode == m->inode && o->dev_major == m->dev_major &&
			o->dev_minor == m->dev_minor)
			m->object = i + 1;
	}
	if (m->object)
		return 0;

	struct object *v = reallocarray(s->objects, s->nobjects + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	s->objects = v;
	v[s->nobjects++] = (struct object){
		.dev_major = m->dev_major, .dev_minor = m->dev_minor, .inode = m->inode};
	m->object = s->nobjects;
	return 0;
}

struct seen {
	struct pageset *data;
	const struct mapping *mapping;
};

static int note_seen(void *arg, const struct uapi_page_region *region)
{
	struct seen *seen = arg;
	uint64_t shift = seen->mapping->offset - seen->mapping->start;
	return pageset_add(
		seen->data, (struct page_run){region->start + shift, region->end + shift});
}

/* Brings up to date where the object behind a mapping has data. */
static int look_at_object(struct process_source *s, const struct mapping *m)
{
	struct object *o = &s->objects[m->object - 1];
	auto_close int fd = maps_open_file(s->process, m);
	if (fd >= 0) {
		/* Dropped data shows only here; the first mapping of the object starts anew. */
		if (!o->asked)
			pageset_clear(&o->data);
		o->asked = true;
		int r = object_data_ask(fd, m, s->page_bytes, &o->data);
		if (r != -EOPNOTSUPP)
			return r;
	}
	struct seen seen = {&o->data, m};
	struct scan_query q = {
		.pagemap_fd = s->process->pagemap_fd,
		.unpaused = s->frozen,
		.anyof = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED,
		.returned = UAPI_PAGE_IS_PRESENT,
	};
	return scan_range(&q, m->start, m->end, note_seen, &seen);
}

/* The stretches of a mapping of a shared object that have data, by address. */
static int watch_object(struct process_source *s, const struct mapping *m, uint32_t index,
	struct watch_list *watches)
{
	const struct pageset *data = &s->objects[m->object - 1].data;
	uint64_t from = m->offset, to = m->offset + (m->end - m->start);
	for (size_t i = pageset_find(data, from); i < data->len && data->runs[i].start < to; i++) {
		uint64_t start = data->runs[i].start > from ? data->runs[i].start : from;
		uint64_t end = data->runs[i].end < to ? data->runs[i].end : to;
		int r = watch_list_add(watches, (struct watch){.start = m->start + (start - from),
							.end = m->start + (end - from),
							.kind = WATCH_SHARED,
							.mapping = index});
		if (r < 0)
			return r;
	}
	return 0;
}

static int make_watches(
	struct process_source *s, struct mapping_table *maps, struct watch_list *ret)
{
	int r = 0;
	for (size_t i = 0; i < s->nobjects; i++)
		s->objects[i].asked = false;
	for (size_t i = 0; r == 0 && i < maps->len; i++) {
		struct mapping *m = &maps->v[i];
		if (m->kind != MAPPING_OBJECT)
			continue;
		r = number_object(s, m);
		if (r == 0)
			r = look_at_object(s, m);
	}
	for (size_t i = 0; r == 0 && i < maps->len; i++) {
		const struct mapping *m = &maps->v[i];
		struct watch w = {.start = m->start, .end = m->end, .mapping = (uint32_t)i};
		if (m->kind == MAPPING_OBJECT) {
			r = watch_object(s, m, (uint32_t)i, ret);
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
static int pin_elf_headers(struct process_source *s, struct baseline *b,
	const struct mapping_diff *diff, struct pageset *written)
{
	struct pageset *held = &b->held.v[0];
	for (size_t i = 0; i < b->maps.len; i++) {
		const struct mapping *m = &b->maps.v[i];
		struct page_run page = {m->start, m->start + s->page_bytes};
		if (m->kind != MAPPING_FILE_PRIVATE || m->offset != 0 ||
			m->flags & MAPPING_HUGETLB || pageset_covers(held, page))
			continue;
		bool known = pageset_covers(&s->settled.pinned, page) &&
			     !mapping_table_find(&diff->added, m->start);
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

/* Sorts what was found by address into the spaces that the pages belong to. */
static int sort_by_space(struct process_source *s, const struct mapping_table *maps,
	struct baseline *b, const struct backend_found *found, const struct watch_list *watches,
	struct holdings *written)
{
	int r = holdings_grow(&b->held, s->nobjects + 1);
	if (r == 0)
		r = holdings_grow(written, s->nobjects + 1);
	if (r == 0)
		r = merge(&b->held.v[0], &found->held);

	/* Written pages of shared stretches move to the object's space; what remains is private. */
	struct pageset shared = {0};
	for (size_t i = 0; r == 0 && i < watches->len; i++) {
		const struct watch *w = &watches->v[i];
		const struct mapping *m = &maps->v[w->mapping];
		if (w->kind != WATCH_SHARED)
			continue;
		struct page_run run = {w->start, w->end};
		uint64_t shift = m->offset - m->start;
		r = pageset_add(&shared, run);
		if (r == 0)
			r = pageset_add(&b->held.v[m->object],
				(struct page_run){run.start + shift, run.end + shift});
		if (s->frozen) {
			/*
			 * What another process wrote does not show in this one's page tables, and
			 * who else may write is not known; so the last round reads shared memory
			 * whole.
			 */
			if (r == 0)
				r = pageset_add(&written->v[m->object],
					(struct page_run){run.start + shift, run.end + shift});
			continue;
		}
		for (size_t k = pageset_find(&found->written, w->start);
			r == 0 && k < found->written.len && found->written.runs[k].start < w->end;
			k++) {
			struct page_run part = found->written.runs[k];
			if (part.start < w->start)
				part.start = w->start;
			if (part.end > w->end)
				part.end = w->end;
			r = pageset_add(&written->v[m->object],
				(struct page_run){part.start + shift, part.end + shift});
		}
	}
	if (r == 0)
		r = pageset_subtract(&found->written, &shared, &written->v[0]);
	pageset_release(&shared);
	return r;
}

/* What was never acknowledged is still owed, where it is still held. */
static int add_owed(struct process_source *s, const struct holdings *held, struct holdings *written)
{
	int r = 0;
	struct pageset still = {0};
	for (size_t i = 0; r == 0 && i < s->owed.len && i < held->len; i++) {
		if (s->owed.v[i].len == 0)
			continue;
		r = pageset_intersect(&s->owed.v[i], &held->v[i], &still);
		if (r == 0)
			r = merge(&written->v[i], &still);
	}
	pageset_release(&still);
	return r;
}

static int add_drop(
	struct change_set *c, space_id space, struct page_run run, enum drop_kind kind, size_t *cap)
{
	if (c->ndrops == *cap) {
		*cap = *cap ? *cap * 2 : 64;
		struct page_drop *v = reallocarray(c->drops, *cap, sizeof(*v));
		if (!v)
			return -ENOMEM;
		c->drops = v;
	}
	c->drops[c->ndrops++] = (struct page_drop){.space = space, .run = run, .kind = kind};
	return 0;
}

static int compare_drops(const void *a, const void *b)
{
	const struct page_drop *x = a, *y = b;
	if (x->space != y->space)
		return x->space < y->space ? -1 : 1;
	return x->run.start < y->run.start ? -1 : x->run.start > y->run.start;
}

/* Held before, and not any more. */
static int find_drops(struct process_source *s, const struct baseline *b, struct change_set *c)
{
	struct pageset gone = {0}, files = {0}, part = {0};
	size_t cap = 0;
	int r = 0;
	for (size_t i = 0; r == 0 && i < b->maps.len; i++) {
		const struct mapping *m = &b->maps.v[i];
		if (m->kind == MAPPING_FILE_PRIVATE)
			r = pageset_add(&files, (struct page_run){m->start, m->end});
	}
	for (size_t space = 0; r == 0 && space < s->settled.held.len; space++) {
		r = pageset_subtract(&s->settled.held.v[space], &b->held.v[space], &gone);
		if (r < 0)
			break;
		c->dropped_pages += pageset_bytes(&gone) / s->page_bytes;
		if (space == SPACE_PRIVATE) {
			r = pageset_intersect(&gone, &files, &part);
			for (size_t i = 0; r == 0 && i < part.len; i++)
				r = add_drop(c, space, part.runs[i], DROP_BACK_TO_FILE, &cap);
			if (r == 0)
				r = pageset_subtract(&gone, &files, &part);
		} else {
			pageset_swap(&gone, &part);
		}
		for (size_t i = 0; r == 0 && i < part.len; i++)
			r = add_drop(c, space, part.runs[i], DROP_GONE, &cap);
	}
	if (c->ndrops)
		qsort(c->drops, c->ndrops, sizeof(*c->drops), compare_drops);
	pageset_release(&gone);
	pageset_release(&files);
	pageset_release(&part);
	return r;
}

static int add_span(struct change_set *c, struct page_span span, size_t *cap)
{
	if (c->nwritten == *cap) {
		*cap = *cap ? *cap * 2 : 256;
		struct page_span *v = reallocarray(c->written, *cap, sizeof(*v));
		if (!v)
			return -ENOMEM;
		c->written = v;
	}
	c->written[c->nwritten++] = span;
	return 0;
}

static int add_private_spans(struct change_set *c, const struct pageset *written,
	const struct pageset *zero, size_t *cap)
{
	for (size_t i = 0; i < written->len; i++) {
		struct page_run run = written->runs[i];
		size_t z = pageset_find(zero, run.start);
		for (uint64_t at = run.start; at < run.end;) {
			bool is_zero = z < zero->len && zero->runs[z].start <= at;
			uint64_t end = run.end;
			if (is_zero && zero->runs[z].end < end)
				end = zero->runs[z].end;
			else if (!is_zero && z < zero->len && zero->runs[z].start < end)
				end = zero->runs[z].start;
			int r = add_span(c,
				(struct page_span){.space = SPACE_PRIVATE,
					.at = at,
					.address = at,
					.bytes = end - at,
					.zero = is_zero},
				cap);
			if (r < 0)
				return r;
			z += is_zero;
			at = end;
		}
	}
	return 0;
}

/* Where the process has an object's pages mapped: the first mapping that shows them will do, they
 * are the same pages. */
static int add_object_spans(struct change_set *c, const struct mapping_table *maps, space_id object,
	const struct pageset *written, size_t *cap)
{
	struct pageset left = {0}, part = {0}, shown = {0}, rest = {0};
	int r = pageset_union(written, &part, &left);
	size_t first = c->nwritten;
	for (size_t i = 0; r == 0 && i < maps->len && left.len; i++) {
		const struct mapping *m = &maps->v[i];
		if (m->kind != MAPPING_OBJECT || m->object != object)
			continue;
		pageset_clear(&shown);
		r = pageset_add(
			&shown, (struct page_run){m->offset, m->offset + (m->end - m->start)});
		if (r == 0)
			r = pageset_intersect(&left, &shown, &part);
		for (size_t k = 0; r == 0 && k < part.len; k++)
			r = add_span(c,
				(struct page_span){.space = object,
					.at = part.runs[k].start,
					.address = part.runs[k].start - m->offset + m->start,
					.bytes = part.runs[k].end - part.runs[k].start},
				cap);
		if (r == 0)
			r = pageset_subtract(&left, &shown, &rest);
		pageset_swap(&left, &rest);
	}
	/* By place again: mappings need not show an object in order. Few, and nearly sorted. */
	for (size_t i = first + 1; i < c->nwritten; i++) {
		struct page_span span = c->written[i];
		size_t k = i;
		for (; k > first && c->written[k - 1].at > span.at; k--)
			c->written[k] = c->written[k - 1];
		c->written[k] = span;
	}
	pageset_release(&left);
	pageset_release(&part);
	pageset_release(&shown);
	pageset_release(&rest);
	return r;
}

static int make_spans(struct process_source *s, const struct baseline *b,
	const struct pageset *zero, struct change_set *c)
{
	size_t cap = 0;
	int r = add_private_spans(c, &s->written.v[0], zero, &cap);
	for (space_id object = 1; r == 0 && object <= s->nobjects; object++)
		r = add_object_spans(c, &b->maps, object, &s->written.v[object], &cap);
	for (size_t i = 0; i < c->nwritten; i++)
		c->written_pages += c->written[i].bytes / s->page_bytes;
	return r;
}

/* All that a collect makes of the backend's answer. */
static int make_changes(struct process_source *s, struct baseline *b,
	const struct backend_found *found, struct change_set *c)
{
	int r = mapping_diff_make(&s->settled.maps, &b->maps, &c->mappings);
	if (r == 0)
		r = add_owed(s, &b->held, &s->written);
	if (r == 0)
		r = take_vdso(s, b, &s->written.v[0]);
	if (r == 0)
		r = pin_elf_headers(s, b, &c->mappings, &s->written.v[0]);
	for (size_t i = 0; r == 0 && s->start_over && i < b->held.len; i++)
		r = merge(&s->written.v[i], &b->held.v[i]);
	if (r == 0)
		r = find_drops(s, b, c);
	if (r == 0)
		r = make_spans(s, b, &found->zero, c);

	for (size_t i = 0; r == 0 && i < b->held.len; i++)
		c->held_pages += pageset_bytes(&b->held.v[i]) / s->page_bytes;

	struct pageset reread = {0};
	if (r == 0)
		r = pageset_intersect(&found->written, &found->untracked, &reread);
	if (r == 0)
		c->reread_pages = pageset_bytes(&reread) / s->page_bytes;
	for (size_t i = 1; r == 0 && s->frozen && i < s->written.len; i++)
		c->reread_pages += pageset_bytes(&s->written.v[i]) / s->page_bytes;
	pageset_release(&reread);
	return r;
}

static int source_collect(
	struct page_source *base, const struct change_set **ret, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	uint64_t before = clock_now_ns();
	struct baseline b = {0};
	struct mapping_table maps = {0}; /* as the kernel has them; b.maps: as they travel */
	struct watch_list watches = {0};
	struct backend_found found = {0};

	change_set_release(&s->changes);
	holdings_release(&s->written);
	baseline_release(&s->staged);

	int r = process_check(s->process, err);
	if (r == 0)
		r = maps_read(s->process, &s->settled.maps, &maps, err);
	if (r < 0)
		goto out;
	r = make_watches(s, &maps, &watches);
	if (r < 0) {
		tide_fail(err, r, "look at the shared memory of process %d", s->process->pid);
		goto out;
	}
	uint64_t at = clock_now_ns();
	r = s->backend->ops->collect(s->backend, &maps, &watches, s->frozen, &found, err);
	if (r < 0)
		goto out;
	r = sort_by_space(s, &maps, &b, &found, &watches, &s->written);
	b.maps = maps;
	maps = (struct mapping_table){0};
	mapping_table_merge(&b.maps);
	if (r == 0)
		r = make_changes(s, &b, &found, &s->changes);
	if (r < 0) {
		tide_fail(err, r, "note what process %d wrote", s->process->pid);
		goto out;
	}
	s->changes.interval_ns = s->collected_at_ns ? at - s->collected_at_ns : 0;
	s->changes.collect_ns = clock_now_ns() - before;
	s->collected_at_ns = at;
	s->staged = b;
	b = (struct baseline){0};
	*ret = &s->changes;
out:
	/* What a failed collect armed would never show again. */
	s->start_over = r < 0;
	baseline_release(&b);
	mapping_table_release(&maps);
	watch_list_release(&watches);
	backend_found_release(&found);
	return r;
}

static int source_pending(struct page_source *base, uint64_t *ret_pages, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	struct watch_list watches = {0};
	uint64_t pages = 0;
	int r = make_watches(s, &s->settled.maps, &watches);
	if (r < 0)
		tide_fail(err, r, "look at the shared memory of process %d", s->process->pid);
	if (r == 0)
		r = s->backend->ops->pending(s->backend, &watches, &pages, err);
	/* What the freeze will read whole. */
	for (size_t i = 0; r == 0 && i < watches.len; i++) {
		if (watches.v[i].kind == WATCH_SHARED)
			pages += (watches.v[i].end - watches.v[i].start) / s->page_bytes;
	}
	watch_list_release(&watches);
	if (r == 0)
		*ret_pages = pages;
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
		int r = holdings_grow(&s->owed, s->written.len);
		for (size_t i = 0; r == 0 && i < s->written.len; i++)
			r = merge(&s->owed.v[i], &s->written.v[i]);
		if (r < 0)
			return tide_fail(
				err, r, "keep in mind what process %d wrote", s->process->pid);
		baseline_release(&s->staged);
	}
	holdings_release(&s->written);
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
	int r = tracer_freeze(s->tracer, timeout_ns, &report, err);
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
	process_close(s->process);
	track_lock_drop(s->lock);
	free(s->info);
	process_state_release(&s->state);
	for (size_t i = 0; i < s->nobjects; i++)
		pageset_release(&s->objects[i].data);
	free(s->objects);
	baseline_release(&s->settled);
	baseline_release(&s->staged);
	holdings_release(&s->written);
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
static int refuse(pid_t pid, struct tide_error *err)
{
	struct inspection found;
	int r = process_inspect(pid, &found, err);
	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < found.nfindings; i++) {
		if (found.findings[i].refused)
			r = tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -ECANCELED,
				"process %d cannot be followed: %s", pid, found.findings[i].text);
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
	pthread_mutex_init(&s->skipped_lock, NULL);

	r = refuse(pid, err);
	if (r == 0)
		r = process_open(pid, &s->process, err);
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

int tide_process_source_open(pid_t pid, const char *backend, const char *purpose,
	struct tide_source **ret, struct tide_error *err)
{
	struct page_source *source;
	struct process_source_options options = {
		.backend = backend, .purpose = purpose ? purpose : program_invocation_short_name};
	int r = process_source_open(pid, &options, &source, err);
	if (r == 0)
		*ret = (struct tide_source *)(void *)source;
	return r;
}
