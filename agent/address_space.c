/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "agent/address_space.h"
#include "base/error.h"

void address_space_release(struct address_space *a)
{
	free(a->info);
	mapping_table_release(&a->mappings);
	for (size_t i = 0; i < a->nspaces; i++) {
		pageset_release(&a->spaces[i].held);
		pageset_release(&a->spaces[i].round);
		pageset_release(&a->spaces[i].fresh);
	}
	free(a->spaces);
	process_state_release(&a->state);
	*a = (struct address_space){0};
}

static int out_of_memory(const struct address_space *a, struct tide_error *err)
{
	return tide_fail(err, -ENOMEM, "keep the address space of process %" PRIu32, a->process);
}

/* "the private address space", "object 7". */
static const char *space_name(space_id space, char buf[40])
{
	if (space == SPACE_PRIVATE)
		return "the private address space";
	snprintf(buf, 40, "object %" PRIu64, space);
	return buf;
}

/* The index of the first space from `space` on. */
static size_t space_find(const struct address_space *a, space_id space)
{
	size_t lo = 0, hi = a->nspaces;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (a->spaces[mid].space < space)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct space_pages *space_known(const struct address_space *a, space_id space)
{
	size_t i = space_find(a, space);
	return i < a->nspaces && a->spaces[i].space == space ? &a->spaces[i] : NULL;
}

static int space_get(
	struct address_space *a, space_id space, struct space_pages **ret, struct tide_error *err)
{
	struct space_pages *known = space_known(a, space);
	if (known) {
		*ret = known;
		return 0;
	}
	if (a->nspaces == ADDRESS_SPACE_SPACES_MAX)
		return tide_bad(err, "process %" PRIu32 " has more than %zu shared objects",
			a->process, ADDRESS_SPACE_SPACES_MAX - 1);
	if (a->nspaces == a->cap_spaces) {
		size_t cap = a->cap_spaces ? a->cap_spaces * 2 : 4;
		struct space_pages *spaces = reallocarray(a->spaces, cap, sizeof(*spaces));
		if (!spaces)
			return out_of_memory(a, err);
		a->spaces = spaces;
		a->cap_spaces = cap;
	}
	size_t i = space_find(a, space);
	memmove(a->spaces + i + 1, a->spaces + i, (a->nspaces - i) * sizeof(*a->spaces));
	a->spaces[i] = (struct space_pages){.space = space};
	a->nspaces++;
	*ret = &a->spaces[i];
	return 0;
}

static size_t space_runs(const struct space_pages *s)
{
	return s->held.len + s->round.len + s->fresh.len;
}

/* `before` runs of a space have become space_runs(). */
static int runs_count(
	struct address_space *a, const struct space_pages *s, size_t before, struct tide_error *err)
{
	a->runs += space_runs(s);
	a->runs -= before;
	if (a->runs > ADDRESS_SPACE_RUNS_MAX)
		return tide_bad(err, "the pages of process %" PRIu32 " are in more than %zu pieces",
			a->process, ADDRESS_SPACE_RUNS_MAX);
	return 0;
}

/* Messages come in multiples of the smallest page size that there is. */
static bool run_is_whole(const struct address_space *a, uint64_t start, uint64_t end)
{
	return ((start | end) & (a->page_bytes - 1)) == 0;
}

static int not_whole(
	const struct address_space *a, const char *what, uint64_t start, struct tide_error *err)
{
	return tide_bad(err,
		"%s at %#" PRIx64 " of process %" PRIu32 " is not of whole pages (of %" PRIu32
		" bytes)",
		what, start, a->process, a->page_bytes);
}

int address_space_map(struct address_space *a, const struct mapping_diff *d, struct tide_error *err)
{
	for (size_t i = 0; i < d->removed.len; i++) {
		const struct page_run *run = &d->removed.runs[i];
		if (!run_is_whole(a, run->start, run->end))
			return not_whole(a, "a place without mappings", run->start, err);
	}
	for (size_t i = 0; i < d->added.len; i++) {
		const struct mapping *m = &d->added.v[i];
		if (!run_is_whole(a, m->start, m->end) ||
			(m->kind == MAPPING_OBJECT && !run_is_whole(a, m->offset, 0)))
			return not_whole(a, "a mapping", m->start, err);
	}

	int r = mapping_table_apply(&a->mappings, d);
	if (r == -EINVAL)
		return tide_bad(err,
			"a mapping of process %" PRIu32 " is added over one that is there",
			a->process);
	if (r < 0)
		return out_of_memory(a, err);

	if (a->mappings.len > ADDRESS_SPACE_MAPPINGS_MAX)
		return tide_bad(err, "process %" PRIu32 " has more than %zu mappings", a->process,
			ADDRESS_SPACE_MAPPINGS_MAX);
	size_t text = 0;
	for (size_t i = 0; i < a->mappings.len; i++) {
		const struct mapping *m = &a->mappings.v[i];
		text += strlen(m->name) + (m->why ? strlen(m->why) : 0);
	}
	if (text > ADDRESS_SPACE_TEXT_MAX)
		return tide_bad(err,
			"the names of the mappings of process %" PRIu32
			" are longer than %zu bytes",
			a->process, ADDRESS_SPACE_TEXT_MAX);
	return 0;
}

int address_space_drop(struct address_space *a, const struct page_drop *drops, size_t ndrops,
	struct tide_error *err)
{
	/* Taken out by the space at once: one by one each would move all runs behind it. */
	for (size_t i = 0; i < ndrops;) {
		space_id space = drops[i].space;
		auto_(pageset_release) struct pageset gone = {0};
		for (; i < ndrops && drops[i].space == space; i++) {
			if (!run_is_whole(a, drops[i].run.start, drops[i].run.end))
				return not_whole(a, "a drop", drops[i].run.start, err);
			if (pageset_add(&gone, drops[i].run) < 0)
				return out_of_memory(a, err);
		}

		struct space_pages *s = space_known(a, space);
		if (!s)
			continue;
		size_t before = space_runs(s);
		auto_(pageset_release) struct pageset left = {0};
		if (pageset_subtract(&s->held, &gone, &left) < 0)
			return out_of_memory(a, err);
		pageset_swap(&s->held, &left);
		int r = runs_count(a, s, before, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int address_space_hold(struct address_space *a, const struct batch *b, struct tide_error *err)
{
	struct space_pages *s = NULL;
	int r = space_get(a, b->space, &s, err);
	if (r < 0)
		return r;

	size_t before = space_runs(s);
	for (uint32_t i = 0; i < b->nruns; i++) {
		struct page_run run = b->runs[i];
		size_t at = pageset_find(&s->round, run.start);
		if (at < s->round.len && s->round.runs[at].start < run.end) {
			char name[40];
			uint64_t twice = s->round.runs[at].start > run.start
						 ? s->round.runs[at].start
						 : run.start;
			return tide_bad(err,
				"the page at %#" PRIx64 " of %s comes twice in a round", twice,
				space_name(b->space, name));
		}
		if (pageset_add(&s->round, run) < 0)
			return out_of_memory(a, err);
		if (!pageset_covers(&s->held, run) && pageset_add(&s->fresh, run) < 0)
			return out_of_memory(a, err);
	}
	return runs_count(a, s, before, err);
}

int address_space_round_end(struct address_space *a, struct tide_error *err)
{
	for (size_t i = 0; i < a->nspaces; i++) {
		struct space_pages *s = &a->spaces[i];
		size_t before = space_runs(s);
		if (s->fresh.len) {
			auto_(pageset_release) struct pageset all = {0};
			if (pageset_union(&s->held, &s->fresh, &all) < 0)
				return out_of_memory(a, err);
			pageset_swap(&s->held, &all);
		}
		pageset_clear(&s->fresh);
		pageset_clear(&s->round);
		int r = runs_count(a, s, before, err);
		if (r < 0)
			return r;
	}
	return 0;
}

const struct pageset *address_space_held(const struct address_space *a, space_id space)
{
	const struct space_pages *s = space_known(a, space);
	return s ? &s->held : NULL;
}

uint64_t address_space_held_pages(const struct address_space *a)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < a->nspaces; i++)
		bytes += pageset_bytes(&a->spaces[i].held);
	return a->page_bytes ? bytes / a->page_bytes : 0;
}

/* A part of a space that may hold pages. */
struct room {
	space_id space;
	struct page_run run;
};

static int room_compare(const void *a, const void *b)
{
	const struct room *x = a, *y = b;
	if (x->space != y->space)
		return x->space < y->space ? -1 : 1;
	if (x->run.start != y->run.start)
		return x->run.start < y->run.start ? -1 : 1;
	return 0;
}

/* The part of a space that a mapping gives its pages; false where it gives none. */
static bool mapping_room(const struct mapping *m, struct room *ret)
{
	switch (m->kind) {
	case MAPPING_ANON:
	case MAPPING_FILE_PRIVATE:
	case MAPPING_VDSO:
		*ret = (struct room){SPACE_PRIVATE, {m->start, m->end}};
		return true;
	case MAPPING_OBJECT:
		*ret = (struct room){m->object, {m->offset, m->offset + (m->end - m->start)}};
		return m->object != SPACE_PRIVATE && ret->run.end > ret->run.start;
	case MAPPING_FILE_SHARED:
	case MAPPING_OPAQUE:
		break;
	}
	return false;
}

static int check_space(const struct address_space *a, const struct space_pages *s,
	const struct room *rooms, size_t nrooms, struct tide_error *err)
{
	size_t k = 0;
	for (size_t i = 0; i < s->held.len; i++) {
		uint64_t at = s->held.runs[i].start;
		while (at < s->held.runs[i].end) {
			while (k < nrooms && rooms[k].run.end <= at)
				k++;
			if (k == nrooms || rooms[k].run.start > at) {
				char name[40];
				return tide_bad(err,
					"process %" PRIu32 " holds a page at %#" PRIx64
					" of %s that no mapping has room for",
					a->process, at, space_name(s->space, name));
			}
			at = rooms[k].run.end;
		}
	}
	return 0;
}

int address_space_check(const struct address_space *a, struct tide_error *err)
{
	auto_free struct room *rooms = calloc(a->mappings.len + 1, sizeof(*rooms));
	if (!rooms)
		return out_of_memory(a, err);
	size_t n = 0;
	for (size_t i = 0; i < a->mappings.len; i++) {
		if (mapping_room(&a->mappings.v[i], &rooms[n]))
			n++;
	}
	qsort(rooms, n, sizeof(*rooms), room_compare);

	size_t from = 0;
	for (size_t i = 0; i < a->nspaces; i++) {
		while (from < n && rooms[from].space < a->spaces[i].space)
			from++;
		size_t to = from;
		while (to < n && rooms[to].space == a->spaces[i].space)
			to++;
		int r = check_space(a, &a->spaces[i], rooms + from, to - from, err);
		if (r < 0)
			return r;
		from = to;
	}
	return 0;
}
