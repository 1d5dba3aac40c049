/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "agent/image.h"
#include "agent/image_file.h"
#include "base/error.h"

/* Today an image has one process. */
#define PROCESS_ONLY 1u

/* Frames that are kept in memory once they were read: with pages of several rounds side by side,
 * reading in the order of addresses goes through one frame of each round at a time. */
#define CACHE_FRAMES 32
#define CACHE_BYTES ((size_t)64 << 20)

struct space_list {
	space_id space;
	struct image_extent *extents;
	size_t len, cap;
};

/* A PAGES frame, checked, and those of its blocks that were decompressed. */
struct cached {
	uint64_t offset; /* 0: empty */
	uint64_t used;   /* the higher, the later */
	struct frame_buffer raw;
	struct frame frame;
	struct batch batch;
	uint8_t *pages; /* where blocks are decompressed to; NULL until the first */
	bool decoded[BATCH_PAGES_MAX];
	size_t bytes;
};

struct image {
	char *path, *name;
	struct image_file file;
	struct index_summary summary;
	struct stream_header header;
	struct address_space process;
	struct space_list *spaces; /* by number */
	size_t nspaces, cap_spaces;

	pthread_mutex_t lock; /* of what follows */
	struct cached cache[CACHE_FRAMES];
	uint64_t clock;
};

static int out_of_memory(struct tide_error *err)
{
	return tide_fail(err, -ENOMEM, "open the image");
}

/* Says where in which image, for what is wrong in it. */
static int locate(const struct image *image, uint64_t offset, int r, struct tide_error *err)
{
	return r < 0 ? tide_prefix(err, r, "%s at byte %" PRIu64 ": ", image->path, offset) : r;
}

/* --- opening: the index ------------------------------------------------------------------- */

static int read_trailer(struct image *image, struct trailer *ret, struct tide_error *err)
{
	uint8_t buf[TRAILER_BYTES];
	if (image->file.bytes < PREAMBLE_BYTES + TRAILER_BYTES)
		return tide_bad(err, "%s is no image: it has %" PRIu64 " bytes", image->path,
			image->file.bytes);
	uint64_t offset = image->file.bytes - TRAILER_BYTES;
	int r = image_file_read(&image->file, offset, buf, sizeof(buf), err);
	if (r == 0)
		r = trailer_decode(buf, image->file.bytes, ret, err);
	return locate(image, offset, r, err);
}

static int read_preamble(struct image *image, struct tide_error *err)
{
	uint8_t buf[PREAMBLE_BYTES];
	uint16_t minor;
	int r = image_file_read(&image->file, 0, buf, sizeof(buf), err);
	if (r == 0)
		r = preamble_decode(buf, &minor, err);
	if (r == 0 && memcmp(buf, image->summary.preamble, sizeof(buf)) != 0)
		r = tide_bad(err, "the preamble is not the one that the index says");
	return locate(image, 0, r, err);
}

static int read_summary(struct image *image, uint64_t offset, struct tide_error *err)
{
	auto_(frame_buffer_release) struct frame_buffer raw = {0};
	uint64_t end = image->file.bytes - TRAILER_BYTES;
	struct index_head head;
	struct frame f;
	int r = image_file_frame(&image->file, offset, end, &raw, &f, err);
	if (r == 0)
		r = index_decode(&f, &head, err);
	if (r == 0 && (head.kind != INDEX_SUMMARY || offset + raw.bytes != end))
		r = tide_bad(err, "not the summary of the index");
	if (r == 0)
		r = index_summary_decode(f.payload, &image->summary, err);
	if (r < 0)
		return r;

	const struct index_summary *s = &image->summary;
	if (s->index_offset < PREAMBLE_BYTES || s->index_offset > offset ||
		s->page_bytes < BATCH_PAGE_BYTES_MIN || s->page_bytes > BATCH_PAGE_BYTES_MAX ||
		(s->page_bytes & (s->page_bytes - 1)) || head.number + 1 != s->index_frames)
		return tide_bad(err, "a summary of the index that cannot be right");
	return 0;
}

/* The list of a space, which comes behind all others where it is new. */
static int space_append(
	struct image *image, space_id space, struct space_list **ret, struct tide_error *err)
{
	struct space_list *last = image->nspaces ? &image->spaces[image->nspaces - 1] : NULL;
	if (last && space < last->space)
		return tide_bad(err, "an index whose spaces are out of order");
	if (!last || space > last->space) {
		if (image->nspaces == ADDRESS_SPACE_SPACES_MAX)
			return tide_bad(err, "an index of too many spaces");
		if (image->nspaces == image->cap_spaces) {
			size_t cap = image->cap_spaces ? image->cap_spaces * 2 : 4;
			struct space_list *v = reallocarray(image->spaces, cap, sizeof(*v));
			if (!v)
				return out_of_memory(err);
			image->spaces = v;
			image->cap_spaces = cap;
		}
		assert(image->spaces);
		image->spaces[image->nspaces++] = (struct space_list){.space = space};
		last = &image->spaces[image->nspaces - 1];
	}
	*ret = last;
	return 0;
}

static int extent_append(const struct image *image, struct space_list *list,
	const struct index_extent *e, struct tide_error *err)
{
	const struct index_summary *s = &image->summary;
	uint64_t end =
		list->len ? list->extents[list->len - 1].place +
				    (uint64_t)list->extents[list->len - 1].pages * s->page_bytes
			  : 0;
	if (e->place % s->page_bytes || e->place < end || e->pages == 0 ||
		e->pages > BATCH_PAGES_MAX || e->first > BATCH_PAGES_MAX - e->pages ||
		(uint64_t)e->pages * s->page_bytes > UINT64_MAX - e->place ||
		e->frame_offset < PREAMBLE_BYTES || e->frame_offset >= s->index_offset)
		return tide_bad(
			err, "an extent of the index, at %#" PRIx64 ", cannot be right", e->place);
	if (list->len == list->cap) {
		size_t cap = list->cap ? list->cap * 2 : 64;
		struct image_extent *v = reallocarray(list->extents, cap, sizeof(*v));
		if (!v)
			return out_of_memory(err);
		list->extents = v;
		list->cap = cap;
	}
	list->extents[list->len++] = (struct image_extent){
		.place = e->place,
		.frame_offset = e->frame_offset,
		.first = e->first,
		.pages = e->pages,
	};
	return 0;
}

static int take_extents(struct image *image, const struct frame *f, const struct index_head *head,
	uint64_t *nextents, struct tide_error *err)
{
	struct space_list *list = NULL;
	if (f->process != PROCESS_ONLY)
		return tide_bad(err, "an index of process %" PRIu32, f->process);
	int r = space_append(image, head->space, &list, err);
	for (uint32_t i = 0; r == 0 && i < head->entries; i++) {
		struct index_extent e;
		index_extent_decode(f->payload + (size_t)i * INDEX_EXTENT_BYTES, &e);
		r = extent_append(image, list, &e, err);
	}
	*nextents += head->entries;
	return r;
}

/* --- opening: the frames that are listed -------------------------------------------------- */

static int take_mappings(struct image *image, const struct frame *f, struct tide_error *err)
{
	auto_(mappings_release) struct mappings_message m = {0};
	int r = mappings_decode(f, &m, err);
	return r < 0 ? r : address_space_map(&image->process, &m.diff, err);
}

static int take_commit(struct image *image, const struct frame *f, struct tide_error *err)
{
	const struct index_summary *s = &image->summary;
	struct commit m;
	int r = commit_decode(f, &m, err);
	if (r < 0)
		return r;
	if (memcmp(m.stream_id, image->header.stream_id, ID_BYTES) != 0 || m.rounds != s->rounds ||
		m.held_pages != s->held_pages)
		return tide_bad(err, "the commit says other than the index");
	return 0;
}

static int take_stream(struct image *image, const struct frame *f, struct tide_error *err)
{
	const struct index_summary *s = &image->summary;
	int r = stream_header_decode(f, &image->header, err);
	if (r < 0)
		return r;
	if (image->header.features & ~FEATURES_STORED)
		return tide_bad(err, "an image of deltas, whose pages are not all in it");
	if (image->header.page_bytes != s->page_bytes ||
		memcmp(image->header.stream_id, s->stream_id, ID_BYTES) != 0)
		return tide_bad(err, "the stream is not the one that the index is of");
	return 0;
}

static int take_process(struct image *image, const struct frame *f, struct tide_error *err)
{
	image->process.process = f->process;
	image->process.page_bytes = image->summary.page_bytes;
	return process_info_decode(f, &image->process.info, err);
}

static int take_state(struct image *image, const struct frame *f, struct tide_error *err)
{
	return state_decode(f, &image->process.state, err);
}

/* In this order they are listed. */
static const struct listed {
	uint16_t type;
	uint32_t process;
	bool may_lack, may_repeat;
	int (*apply)(struct image *image, const struct frame *f, struct tide_error *err);
} listed[] = {
	{FRAME_STREAM, 0, false, false, take_stream},
	{FRAME_PROCESS, PROCESS_ONLY, false, false, take_process},
	{FRAME_MAPPINGS, PROCESS_ONLY, true, true, take_mappings},
	{FRAME_STATE, PROCESS_ONLY, false, true, take_state},
	{FRAME_COMMIT, 0, false, false, take_commit},
};
#define LISTED_END (listed + sizeof(listed) / sizeof(listed[0]))

/* How far the list has come. */
struct list_reader {
	const struct listed *at; /* the kind of the last frame; NULL before the first */
	uint64_t offset;         /* of the last frame */
	uint64_t entries;
};

/* The kind of `type`, if it may come now; else NULL. */
static const struct listed *listed_next(const struct list_reader *l, uint16_t type)
{
	const struct listed *k = l->at ? l->at : listed;
	if (l->at && k->type == type)
		return k->may_repeat ? k : NULL;
	if (l->at)
		k++;
	while (k < LISTED_END && k->type != type && k->may_lack)
		k++;
	return k < LISTED_END && k->type == type ? k : NULL;
}

static int take_listed(struct image *image, struct list_reader *l, const struct index_frame *e,
	struct tide_error *err)
{
	char name[16];
	const struct listed *kind = listed_next(l, e->type);
	if (!kind || e->process != kind->process || e->frame_offset <= l->offset)
		return tide_bad(err, "the index lists a %s frame at byte %" PRIu64 " out of order",
			frame_type_name(e->type, name), e->frame_offset);
	l->at = kind;
	l->offset = e->frame_offset;

	auto_(frame_buffer_release) struct frame_buffer raw = {0};
	struct frame f;
	int r = image_file_frame(
		&image->file, e->frame_offset, image->summary.index_offset, &raw, &f, err);
	if (r == 0 && (f.type != e->type || f.process != e->process))
		r = tide_bad(err, "not the %s frame that the index lists",
			frame_type_name(e->type, name));
	if (r == 0)
		r = kind->apply(image, &f, err);
	if (r < 0)
		tide_prefix(err, r, "at byte %" PRIu64 ": ", e->frame_offset);
	return r;
}

static int take_frames(struct image *image, struct list_reader *l, const struct frame *f,
	const struct index_head *head, struct tide_error *err)
{
	int r = 0;
	for (uint32_t i = 0; r == 0 && i < head->entries; i++) {
		struct index_frame e;
		r = index_frame_decode(f->payload + (size_t)i * INDEX_FRAME_BYTES, &e, err);
		if (r == 0)
			r = take_listed(image, l, &e, err);
	}
	l->entries += head->entries;
	return r;
}

/* --- opening: all of it ------------------------------------------------------------------- */

/* All INDEX frames but the summary, one behind the other. */
static int read_index(struct image *image, uint64_t summary_offset, struct tide_error *err)
{
	const struct index_summary *s = &image->summary;
	auto_(frame_buffer_release) struct frame_buffer raw = {0};
	struct list_reader list = {.at = NULL};
	uint64_t at = s->index_offset, number = 0, nextents = 0;

	for (; at < summary_offset; number++, at += raw.bytes) {
		struct index_head head;
		struct frame f;
		int r = image_file_frame(&image->file, at, summary_offset, &raw, &f, err);
		if (r == 0)
			r = index_decode(&f, &head, err);
		if (r == 0 && head.number != number)
			r = tide_bad(err, "INDEX frames out of order");
		if (r == 0 && head.kind == INDEX_EXTENTS && !list.at)
			r = take_extents(image, &f, &head, &nextents, err);
		else if (r == 0 && head.kind == INDEX_FRAMES)
			r = take_frames(image, &list, &f, &head, err);
		else if (r == 0)
			r = tide_bad(err, "an INDEX frame out of order");
		if (r < 0)
			return locate(image, at, r, err);
	}

	if (list.at != LISTED_END - 1 || list.entries != s->frames || nextents != s->extents ||
		number + 1 != s->index_frames)
		return tide_bad(err, "%s: the index has other entries than it says", image->path);
	return 0;
}

/* What the extents say is held, and whether that can be. */
static int hold_extents(struct image *image, struct tide_error *err)
{
	struct address_space *a = &image->process;
	a->spaces = calloc(image->nspaces + 1, sizeof(*a->spaces));
	if (!a->spaces)
		return out_of_memory(err);
	a->cap_spaces = image->nspaces + 1;
	for (size_t i = 0; i < image->nspaces; i++) {
		const struct space_list *list = &image->spaces[i];
		struct space_pages *held = &a->spaces[a->nspaces++];
		held->space = list->space;
		for (size_t k = 0; k < list->len; k++) {
			const struct image_extent *e = &list->extents[k];
			uint64_t bytes = (uint64_t)e->pages * a->page_bytes;
			if (pageset_add(&held->held, (struct page_run){e->place, e->place + bytes}))
				return out_of_memory(err);
		}
	}

	if (address_space_held_pages(a) != image->summary.held_pages)
		return tide_bad(err, "%s: the index has other pages than it says", image->path);
	if (!process_state_complete(&a->state))
		return tide_bad(err, "%s: the state of the process is not whole", image->path);
	int r = address_space_check(a, err);
	return r < 0 ? tide_prefix(err, r, "%s: ", image->path) : 0;
}

static int image_load(struct image *image, struct tide_error *err)
{
	struct trailer trailer;
	int r = read_trailer(image, &trailer, err);
	if (r < 0)
		return r;
	r = read_summary(image, trailer.summary_offset, err);
	if (r < 0)
		return locate(image, trailer.summary_offset, r, err);
	r = read_preamble(image, err);
	if (r == 0)
		r = read_index(image, trailer.summary_offset, err);
	if (r == 0)
		r = hold_extents(image, err);
	return r;
}

int image_open(struct store *store, const char *name, struct image **ret, struct tide_error *err)
{
	int fd;
	int r = store_file_open(store, name, &fd, err);
	if (r < 0)
		return r;

	auto_(image_closep) struct image *image = calloc(1, sizeof(*image));
	if (!image) {
		close(fd);
		return out_of_memory(err);
	}
	image->file.fd = -1;
	pthread_mutex_init(&image->lock, NULL);
	r = image_file_init(&image->file, fd, err);
	image->name = strdup(name);
	if (asprintf(&image->path, "%s/%s", store_path(store), name) < 0)
		image->path = NULL;
	if (!image->name || !image->path)
		return out_of_memory(err);
	if (r < 0)
		return tide_prefix(err, r, "%s: ", image->path);

	r = image_load(image, err);
	if (r < 0)
		return r;
	*ret = take(image);
	return 0;
}

int image_open_path(const char *path, struct image **ret, struct tide_error *err)
{
	auto_free char *copy = strdup(path);
	if (!copy)
		return out_of_memory(err);
	size_t len = strlen(copy), suffix = strlen(IMAGE_SUFFIX);
	if (len > suffix && strcmp(copy + len - suffix, IMAGE_SUFFIX) == 0)
		copy[len - suffix] = '\0';
	char *slash = strrchr(copy, '/');
	if (!slash)
		return tide_fail_kind(err, TIDE_ERROR_USAGE, -ECANCELED,
			"'%s' does not name an image: STORE/NAME does", path);

	/* "/NAME" is in the root folder. */
	const char *name = slash + 1, *folder = slash == copy ? "/" : copy;
	if (slash != copy)
		*slash = '\0';
	auto_(store_closep) struct store *store = NULL;
	int r = store_open(folder, STORE_READ, &store, err);
	return r < 0 ? r : image_open(store, name, ret, err);
}

static void cached_release(struct cached *c)
{
	frame_buffer_release(&c->raw);
	free(c->pages);
	*c = (struct cached){0};
}

void image_close(struct image *image)
{
	if (!image)
		return;
	for (size_t i = 0; i < CACHE_FRAMES; i++)
		cached_release(&image->cache[i]);
	pthread_mutex_destroy(&image->lock);
	image_file_release(&image->file);
	address_space_release(&image->process);
	for (size_t i = 0; i < image->nspaces; i++)
		free(image->spaces[i].extents);
	free(image->spaces);
	free(image->path);
	free(image->name);
	free(image);
}

/* --- what it holds ------------------------------------------------------------------------ */

const char *image_path(const struct image *image)
{
	return image->path;
}

const char *image_name(const struct image *image)
{
	return image->name;
}

const struct stream_header *image_header(const struct image *image)
{
	return &image->header;
}

const struct address_space *image_process(const struct image *image, uint32_t process)
{
	return process == PROCESS_ONLY ? &image->process : NULL;
}

struct image_info image_info(const struct image *image)
{
	return (struct image_info){
		.file_bytes = image->file.bytes,
		.stored_bytes = image->file.stored_bytes,
		.held_pages = image->summary.held_pages,
		.rounds = image->summary.rounds,
		.extents = image->summary.extents,
		.index_offset = image->summary.index_offset,
	};
}

static const struct space_list *space_find(
	const struct image *image, uint32_t process, space_id space)
{
	size_t lo = 0, hi = process == PROCESS_ONLY ? image->nspaces : 0;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (image->spaces[mid].space == space)
			return &image->spaces[mid];
		if (image->spaces[mid].space < space)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

const struct image_extent *image_extents(
	const struct image *image, uint32_t process, space_id space, size_t *ret_len)
{
	const struct space_list *list = space_find(image, process, space);
	*ret_len = list ? list->len : 0;
	return list ? list->extents : NULL;
}

static void find_in_mapping(
	const struct image *image, const struct mapping *m, struct image_piece *piece)
{
	uint64_t offset = m->offset + (piece->address - m->start);
	enum image_content unheld = IMAGE_ZERO;

	switch (m->kind) {
	case MAPPING_ANON:
		break;
	case MAPPING_FILE_PRIVATE:
		unheld = IMAGE_FILE;
		break;
	case MAPPING_OBJECT:
		piece->space = m->object;
		break;
	case MAPPING_FILE_SHARED:
		piece->content = IMAGE_FILE;
		piece->file_offset = offset;
		return;
	case MAPPING_VDSO:
		unheld = IMAGE_ABSENT;
		break;
	case MAPPING_OPAQUE:
		piece->content = IMAGE_ABSENT;
		return;
	}

	piece->at = m->kind == MAPPING_OBJECT ? offset : piece->address;
	const struct pageset *held = address_space_held(&image->process, piece->space);
	size_t i = held ? pageset_find(held, piece->at) : 0;
	uint64_t stop = UINT64_MAX;
	if (held && i < held->len && held->runs[i].start <= piece->at) {
		piece->content = IMAGE_HELD;
		stop = held->runs[i].end;
	} else {
		piece->content = unheld;
		if (held && i < held->len)
			stop = held->runs[i].start;
	}
	if (piece->content == IMAGE_FILE)
		piece->file_offset = offset;
	if (stop - piece->at < piece->bytes)
		piece->bytes = stop - piece->at;
}

/* Where the first mapping behind `address`, which is in none, begins. */
static uint64_t next_mapping(const struct mapping_table *t, uint64_t address)
{
	size_t lo = 0, hi = t->len;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (t->v[mid].start <= address)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < t->len ? t->v[lo].start : UINT64_MAX;
}

void image_find(const struct image *image, uint32_t process, uint64_t address, uint64_t end,
	struct image_piece *ret)
{
	static const struct mapping_table nothing;
	const struct mapping_table *t =
		process == PROCESS_ONLY ? &image->process.mappings : &nothing;
	assert(address < end);

	struct image_piece piece = {.address = address, .bytes = end - address};
	piece.mapping = mapping_table_find(t, address);
	if (!piece.mapping) {
		piece.content = IMAGE_UNMAPPED;
		uint64_t next = next_mapping(t, address);
		if (next < end)
			piece.bytes = next - address;
	} else {
		if (piece.mapping->end < end)
			piece.bytes = piece.mapping->end - address;
		find_in_mapping(image, piece.mapping, &piece);
	}
	*ret = piece;
}

/* --- reading pages ------------------------------------------------------------------------ */

/* The one that was not used for longest: an empty one if there is one. */
static struct cached *cache_oldest(struct image *image, bool full)
{
	struct cached *oldest = NULL;
	for (size_t i = 0; i < CACHE_FRAMES; i++) {
		struct cached *c = &image->cache[i];
		if ((c->offset || !full) && (!oldest || c->used < oldest->used))
			oldest = c;
	}
	return oldest;
}

static struct cached *cache_find(struct image *image, uint64_t offset)
{
	for (size_t i = 0; i < CACHE_FRAMES; i++) {
		if (image->cache[i].offset == offset)
			return &image->cache[i];
	}
	return NULL;
}

static size_t cache_bytes(const struct image *image)
{
	size_t bytes = 0;
	for (size_t i = 0; i < CACHE_FRAMES; i++)
		bytes += image->cache[i].bytes;
	return bytes;
}

static int cache_get(
	struct image *image, uint64_t offset, struct cached **ret, struct tide_error *err)
{
	struct cached *c = cache_find(image, offset);
	if (!c) {
		auto_(cached_release) struct cached made = {.offset = offset};
		int r = image_file_frame(&image->file, offset, image->summary.index_offset,
			&made.raw, &made.frame, err);
		if (r == 0 && made.frame.type != FRAME_PAGES)
			r = tide_bad(err, "not the PAGES frame that the index says");
		if (r == 0)
			r = batch_decode(&made.frame, image->summary.page_bytes,
				image->header.features, &made.batch, err);
		if (r < 0)
			return r;
		made.bytes = made.raw.cap;
		while (cache_bytes(image) > CACHE_BYTES)
			cached_release(cache_oldest(image, true));
		c = cache_oldest(image, false);
		cached_release(c);
		*c = made;
		made = (struct cached){0};
	}
	c->used = ++image->clock;
	*ret = c;
	return 0;
}

/* The pages of a block, decompressed. */
static int block_get(struct image *image, struct cached *c, uint32_t block, uint32_t first,
	const uint8_t **ret, struct tide_error *err)
{
	const struct batch_block *b = &c->batch.blocks[block];
	if (b->codec == CODEC_RAW) {
		*ret = c->frame.payload + b->offset;
		return 0;
	}
	if (!c->pages) {
		size_t bytes = (size_t)c->batch.npages * c->batch.page_bytes;
		c->pages = malloc(bytes);
		if (!c->pages)
			return tide_fail(err, -ENOMEM, "read pages");
		c->bytes += bytes;
	}
	uint8_t *to = c->pages + (size_t)first * c->batch.page_bytes;
	if (!c->decoded[block]) {
		int r = batch_block_read(&c->batch, block, c->frame.payload, NULL, to, err);
		if (r < 0)
			return r;
		c->decoded[block] = true;
	}
	*ret = to;
	return 0;
}

/* Are pages first .. first + pages - 1 of the batch those of `place`? Its runs never touch, so they
 * lie in one. */
static bool batch_has(const struct batch *b, uint32_t first, uint32_t pages, uint64_t place)
{
	for (uint32_t i = 0; i < b->nruns; i++) {
		uint64_t n = (b->runs[i].end - b->runs[i].start) / b->page_bytes;
		if (first < n)
			return pages <= n - first &&
			       place == b->runs[i].start + (uint64_t)first * b->page_bytes;
		first -= (uint32_t)n;
	}
	return false;
}

/* `bytes` from `skip` on in an extent. */
static int extent_read(struct image *image, uint32_t process, space_id space,
	const struct image_extent *e, uint64_t skip, uint8_t *buf, size_t bytes,
	struct tide_error *err)
{
	struct cached *c;
	int r = cache_get(image, e->frame_offset, &c, err);
	if (r < 0)
		return r;
	const struct batch *b = &c->batch;
	if (c->frame.process != process || b->space != space ||
		!batch_has(b, e->first, e->pages, e->place))
		return tide_bad(
			err, "not the pages from %#" PRIx64 " on that the index says", e->place);

	/* Bytes are counted from the frame's first page on. */
	uint64_t at = (uint64_t)e->first * b->page_bytes + skip;
	uint32_t first = 0;
	for (uint32_t i = 0; i < b->nblocks && bytes; first += b->blocks[i++].pages) {
		uint64_t start = (uint64_t)first * b->page_bytes;
		uint64_t end = start + (uint64_t)b->blocks[i].pages * b->page_bytes;
		if (at >= end)
			continue;
		size_t n = end - at < bytes ? (size_t)(end - at) : bytes;
		if (b->blocks[i].codec == CODEC_ZERO) {
			memset(buf, 0, n);
		} else {
			const uint8_t *pages = NULL;
			r = block_get(image, c, i, first, &pages, err);
			if (r < 0)
				return r;
			memcpy(buf, pages + (at - start), n);
		}
		buf += n;
		at += n;
		bytes -= n;
	}
	return 0;
}

/* The index of the first extent that ends behind `at`. */
static size_t extent_find(const struct image *image, const struct space_list *list, uint64_t at)
{
	size_t lo = 0, hi = list ? list->len : 0;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct image_extent *e = &list->extents[mid];
		if (at - e->place >= (uint64_t)e->pages * image->summary.page_bytes &&
			at >= e->place)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int read_locked(struct image *image, uint32_t process, space_id space, uint64_t at,
	uint8_t *buf, size_t bytes, struct tide_error *err)
{
	const struct space_list *list = space_find(image, process, space);
	size_t i = extent_find(image, list, at);
	while (bytes) {
		const struct image_extent *e = list && i < list->len ? &list->extents[i] : NULL;
		if (!e || e->place > at) {
			size_t n = e && e->place - at < bytes ? (size_t)(e->place - at) : bytes;
			memset(buf, 0, n);
			buf += n;
			at += n;
			bytes -= n;
			continue;
		}
		uint64_t skip = at - e->place;
		uint64_t left = (uint64_t)e->pages * image->summary.page_bytes - skip;
		size_t n = left < bytes ? (size_t)left : bytes;
		int r = extent_read(image, process, space, e, skip, buf, n, err);
		if (r < 0)
			return locate(image, e->frame_offset, r, err);
		buf += n;
		at += n;
		bytes -= n;
		i++;
	}
	return 0;
}

int image_read(struct image *image, uint32_t process, space_id space, uint64_t at, void *buf,
	size_t bytes, struct tide_error *err)
{
	if (bytes > UINT64_MAX - at)
		return tide_fail(err, -EINVAL, "read beyond the end of an address space");
	pthread_mutex_lock(&image->lock);
	int r = read_locked(image, process, space, at, buf, bytes, err);
	pthread_mutex_unlock(&image->lock);
	return r;
}
