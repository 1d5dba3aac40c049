/* SPDX-License-Identifier: MIT */
/* What a look means: addresses become pages of private memory and of objects, and what the backend
 * cannot know is added. */
#include <elf.h>
#include <string.h>
#include "tracker/reader.h"
#include "tracker/source_private.h"

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

uint64_t source_to_reread(
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

int source_account(
	struct process_source *s, const struct look *look, struct baseline *b, struct written *w)
{
	int r = sort_by_space(s, &look->maps, &look->watches, &look->found, b, w);
	if (r == 0)
		r = add_hidden(&look->hidden->doubtful, &look->maps, b, w);
	/* From here on as they travel. */
	if (r == 0)
		r = mapping_table_copy(&look->maps, &b->maps);
	mapping_table_merge(&b->maps);
	return r == 0 ? complete(s, b, w) : r;
}
