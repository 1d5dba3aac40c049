/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "agent/extents.h"
#include "agent/image_index.h"
#include "base/error.h"

/* Frames that are listed one by one; a peer could send small ones forever. */
#define LISTED_FRAMES_MAX ((size_t)1 << 20)

#define NO_SLOT UINT32_MAX

/* A PAGES frame. A slot whose frame is dead and was taken off the list is used again. */
struct slot {
	uint64_t offset;
	uint32_t live; /* pages of it that nothing has superseded; or the next free slot */
};

struct space_extents {
	space_id space;
	struct extents map;
};

struct image_index {
	uint8_t preamble[PREAMBLE_BYTES];
	uint32_t process;
	uint32_t page_bytes;
	uint8_t stream_id[ID_BYTES];
	uint64_t rounds;
	uint64_t held_pages;

	struct slot *slots;
	size_t nslots, cap_slots;
	uint32_t free_slot;
	uint32_t *dead;
	size_t ndead, cap_dead;

	struct space_extents *spaces; /* by number */
	size_t nspaces, cap_spaces;

	struct index_frame *frames;
	size_t nframes, cap_frames;
};

int image_index_new(const uint8_t preamble[PREAMBLE_BYTES], struct image_index **ret)
{
	struct image_index *x = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	x->free_slot = NO_SLOT;
	memcpy(x->preamble, preamble, PREAMBLE_BYTES);
	*ret = x;
	return 0;
}

void image_index_free(struct image_index *x)
{
	if (!x)
		return;
	for (size_t i = 0; i < x->nspaces; i++)
		extents_release(&x->spaces[i].map);
	free(x->spaces);
	free(x->slots);
	free(x->dead);
	free(x->frames);
	free(x);
}

static int out_of_memory(struct tide_error *err)
{
	return tide_fail(err, -ENOMEM, "keep track of the pages of an image");
}

/* Room for one more in the array at `v`, whose elements have `size` bytes. */
static int grow(void *v, size_t len, size_t *cap, size_t size)
{
	if (len < *cap)
		return 0;
	size_t more = *cap ? *cap * 2 : 64;
	void *old;
	memcpy(&old, v, sizeof(old));
	void *grown = reallocarray(old, more, size);
	if (!grown)
		return -ENOMEM;
	memcpy(v, &grown, sizeof(grown));
	*cap = more;
	return 0;
}

/* --- pages -------------------------------------------------------------------------------- */

static int slot_get(struct image_index *x, uint64_t offset, uint32_t live, uint32_t *ret)
{
	uint32_t i = x->free_slot;
	if (i != NO_SLOT) {
		x->free_slot = x->slots[i].live;
	} else {
		if (x->nslots == NO_SLOT ||
			grow(&x->slots, x->nslots, &x->cap_slots, sizeof(*x->slots)) < 0)
			return -ENOMEM;
		i = (uint32_t)x->nslots++;
	}
	x->slots[i] = (struct slot){.offset = offset, .live = live};
	*ret = i;
	return 0;
}

/* Pages of a frame were superseded or dropped. */
static void slot_lose(void *arg, uint32_t slot, uint32_t pages)
{
	struct image_index *x = arg;
	assert(x->slots[slot].live >= pages);
	x->slots[slot].live -= pages;
	x->held_pages -= pages;
	/* Without memory for the list it stays as it is: a frame that takes room in the file. */
	if (x->slots[slot].live == 0 &&
		grow(&x->dead, x->ndead, &x->cap_dead, sizeof(*x->dead)) == 0)
		x->dead[x->ndead++] = slot;
}

bool image_index_dead(struct image_index *x, uint64_t *ret)
{
	if (x->ndead == 0)
		return false;
	uint32_t slot = x->dead[--x->ndead];
	*ret = x->slots[slot].offset;
	x->slots[slot].live = x->free_slot;
	x->free_slot = slot;
	return true;
}

/* The index of the first space from `space` on. */
static size_t space_find(const struct image_index *x, space_id space)
{
	size_t lo = 0, hi = x->nspaces;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (x->spaces[mid].space < space)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* NULL where nothing was ever held. */
static struct extents *space_known(const struct image_index *x, space_id space)
{
	size_t i = space_find(x, space);
	return i < x->nspaces && x->spaces[i].space == space ? &x->spaces[i].map : NULL;
}

/* NULL without memory. */
static struct extents *space_get(struct image_index *x, space_id space)
{
	struct extents *known = space_known(x, space);
	if (known || grow(&x->spaces, x->nspaces, &x->cap_spaces, sizeof(*x->spaces)) < 0)
		return known;
	size_t i = space_find(x, space);
	memmove(x->spaces + i + 1, x->spaces + i, (x->nspaces - i) * sizeof(*x->spaces));
	x->spaces[i] = (struct space_extents){.space = space};
	x->nspaces++;
	return &x->spaces[i].map;
}

bool image_index_find(
	const struct image_index *x, space_id space, uint64_t at, struct index_extent *ret)
{
	const struct extents *map = space_known(x, space);
	struct extent e;
	if (!map || !extents_find(map, at / x->page_bytes, &e))
		return false;
	*ret = (struct index_extent){.place = at,
		.frame_offset = x->slots[e.frame].offset,
		.first = e.first,
		.pages = e.pages};
	return true;
}

static int put_pages(
	struct image_index *x, uint64_t offset, const struct batch *b, struct tide_error *err)
{
	struct extents *map = space_get(x, b->space);
	uint32_t slot;
	if (!map || slot_get(x, offset, b->npages, &slot) < 0)
		return out_of_memory(err);
	x->held_pages += b->npages;

	uint32_t first = 0;
	for (uint32_t i = 0; i < b->nruns; i++) {
		struct extent e = {
			.page = b->runs[i].start / b->page_bytes,
			.pages = (uint32_t)((b->runs[i].end - b->runs[i].start) / b->page_bytes),
			.frame = slot,
			.first = first,
		};
		if (extents_put(map, e, slot_lose, x) < 0)
			return out_of_memory(err);
		first += e.pages;
	}
	return 0;
}

static int drop_pages(struct image_index *x, const struct drops_message *m, struct tide_error *err)
{
	for (size_t i = 0; i < m->ndrops; i++) {
		const struct page_drop *d = &m->drops[i];
		struct extents *map = space_known(x, d->space);
		uint64_t page = d->run.start / x->page_bytes, end = d->run.end / x->page_bytes;
		if (map && extents_remove(map, page, end - page, slot_lose, x) < 0)
			return out_of_memory(err);
	}
	return 0;
}

/* --- frames ------------------------------------------------------------------------------- */

/* Notes where a frame lies that whoever opens the image wants to find. */
static int list_frame(
	struct image_index *x, uint64_t offset, const struct frame *f, struct tide_error *err)
{
	if (x->nframes == LISTED_FRAMES_MAX)
		return tide_bad(err, "a stream of more than %zu frames beside those of pages",
			LISTED_FRAMES_MAX);
	if (grow(&x->frames, x->nframes, &x->cap_frames, sizeof(*x->frames)) < 0)
		return out_of_memory(err);
	x->frames[x->nframes++] = (struct index_frame){
		.frame_offset = offset, .type = f->type, .process = f->process};
	return 0;
}

int image_index_frame(
	struct image_index *x, uint64_t offset, const struct sink_input *in, struct tide_error *err)
{
	switch (in->frame->type) {
	case FRAME_PAGES:
		return put_pages(x, offset, in->batch, err);
	case FRAME_DROPS:
		return drop_pages(x, in->drops, err);
	case FRAME_ROUND_END:
		x->rounds++;
		return 0;
	case FRAME_STREAM:
		x->page_bytes = in->stream->page_bytes;
		memcpy(x->stream_id, in->stream->stream_id, ID_BYTES);
		return list_frame(x, offset, in->frame, err);
	case FRAME_PROCESS:
		x->process = in->frame->process;
		return list_frame(x, offset, in->frame, err);
	case FRAME_MAPPINGS:
	case FRAME_STATE:
	case FRAME_COMMIT:
		return list_frame(x, offset, in->frame, err);
	default:
		return 0;
	}
}

uint64_t image_index_held_pages(const struct image_index *x)
{
	return x->held_pages;
}

/* --- writing ------------------------------------------------------------------------------ */

/* INDEX frames in the making. */
struct writer {
	const struct image_index *index;
	image_index_out_fn out;
	void *arg;
	uint64_t start; /* of the first INDEX frame in the file */
	uint64_t end;   /* of what was given out */
	uint64_t number;
	uint32_t process;
	struct index_head head;
	uint8_t *entries;
	struct frame_buffer frame;
};

static void writer_release(struct writer *w)
{
	free(w->entries);
	frame_buffer_release(&w->frame);
}

static int writer_out(struct writer *w, const void *data, size_t bytes, struct tide_error *err)
{
	w->end += bytes;
	return w->out(w->arg, data, bytes, err);
}

static int writer_flush(struct writer *w, struct tide_error *err)
{
	if (w->head.entries == 0)
		return 0;
	w->head.number = w->number++;
	if (index_encode(w->process, &w->head, w->entries, &w->frame) < 0)
		return out_of_memory(err);
	w->head.entries = 0;
	return writer_out(w, w->frame.data, w->frame.bytes, err);
}

/* Where the next entry goes; *ret is good until the next call. */
static int writer_entry(struct writer *w, size_t bytes, uint8_t **ret, struct tide_error *err)
{
	if (w->head.entries == INDEX_ENTRIES_MAX) {
		int r = writer_flush(w, err);
		if (r < 0)
			return r;
	}
	*ret = w->entries + w->head.entries++ * bytes;
	return 0;
}

static int write_extents(struct writer *w, const struct space_extents *space, uint64_t *extents,
	struct tide_error *err)
{
	const struct image_index *x = w->index;
	struct extents_cursor at = {0};
	struct extent e;

	w->process = x->process;
	w->head = (struct index_head){.kind = INDEX_EXTENTS, .space = space->space};
	while (extents_next(&space->map, &at, &e)) {
		struct index_extent entry = {
			.place = e.page * x->page_bytes,
			.frame_offset = x->slots[e.frame].offset,
			.first = e.first,
			.pages = e.pages,
		};
		uint8_t *to;
		int r = writer_entry(w, INDEX_EXTENT_BYTES, &to, err);
		if (r < 0)
			return r;
		index_extent_encode(&entry, to);
		++*extents;
	}
	return writer_flush(w, err);
}

static int write_frames(struct writer *w, struct tide_error *err)
{
	const struct image_index *x = w->index;

	w->process = 0;
	w->head = (struct index_head){.kind = INDEX_FRAMES};
	for (size_t i = 0; i < x->nframes; i++) {
		uint8_t *to;
		int r = writer_entry(w, INDEX_FRAME_BYTES, &to, err);
		if (r < 0)
			return r;
		index_frame_encode(&x->frames[i], to);
	}
	return writer_flush(w, err);
}

static int write_summary(struct writer *w, uint64_t extents, struct tide_error *err)
{
	const struct image_index *x = w->index;
	struct index_summary summary = {
		.page_bytes = x->page_bytes,
		.rounds = x->rounds,
		.held_pages = x->held_pages,
		.extents = extents,
		.frames = x->nframes,
		.index_offset = w->start,
		.index_frames = w->number + 1,
	};
	memcpy(summary.preamble, x->preamble, PREAMBLE_BYTES);
	memcpy(summary.stream_id, x->stream_id, ID_BYTES);

	w->process = 0;
	w->head = (struct index_head){.kind = INDEX_SUMMARY};
	uint8_t *to;
	int r = writer_entry(w, INDEX_SUMMARY_BYTES, &to, err);
	if (r < 0)
		return r;
	index_summary_encode(&summary, to);
	return writer_flush(w, err);
}

int image_index_write(struct image_index *x, uint64_t offset, image_index_out_fn out, void *arg,
	struct tide_error *err)
{
	auto_(writer_release) struct writer w = {
		.index = x,
		.out = out,
		.arg = arg,
		.start = offset,
		.end = offset,
		.entries = malloc((size_t)INDEX_ENTRIES_MAX * INDEX_EXTENT_BYTES),
	};
	if (!w.entries)
		return out_of_memory(err);

	uint64_t extents = 0;
	int r = 0;
	for (size_t i = 0; r == 0 && i < x->nspaces; i++)
		r = write_extents(&w, &x->spaces[i], &extents, err);
	if (r == 0)
		r = write_frames(&w, err);
	struct trailer trailer = {.summary_offset = w.end};
	if (r == 0)
		r = write_summary(&w, extents, err);
	if (r < 0)
		return r;

	uint8_t buf[TRAILER_BYTES];
	trailer.file_bytes = w.end + sizeof(buf);
	trailer_encode(&trailer, buf);
	return writer_out(&w, buf, sizeof(buf), err);
}
