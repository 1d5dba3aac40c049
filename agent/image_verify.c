/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "agent/image.h"
#include "agent/image_file.h"
#include "agent/image_index.h"
#include "agent/session.h"
#include "base/error.h"

/*
 * The file is read from front to end. Each frame is checked by itself: checksum, blocks, hashes. As
 * long as nothing was wrong the frames are also followed as a stream, by the same session that an
 * agent receives with; its sink here makes the index anew, and that must be the bytes of the one in
 * the file. The file's own index is used only to find the next frame behind one that is too damaged
 * to tell its length, and to name the pages that are hit.
 */

/* A frame that the file's index speaks of. */
struct known {
	uint64_t offset;
	space_id space;
	uint64_t place; /* of the first page in it that the image holds */
	uint64_t pages; /* in it that the image holds */
};

enum expected {
	HASHES_NONE,  /* the last frame was none of pages */
	HASHES_OF,    /* of these pages */
	HASHES_OTHER, /* of pages that could not be read */
};

struct verifier {
	struct sink sink; /* the session's */
	struct store *store;
	struct image_file file;
	struct image *image; /* NULL where it cannot be opened */
	image_damage_fn report;
	void *arg;
	struct image_verdict verdict;

	struct session *session;   /* NULL from the first damage on */
	struct image_index *index; /* made anew */
	uint64_t at;               /* where the frame in hand begins */
	uint64_t index_offset;     /* the first INDEX frame; 0 until it came */
	uint64_t file_index;       /* where the image that could be opened has it */

	uint32_t page_bytes; /* 0 until STREAM */
	uint64_t features;   /* of STREAM */
	uint8_t *pages;      /* BATCH_PAGES_MAX of them */
	struct {
		enum expected expected;
		struct batch batch;
		uint8_t hashes[BATCH_PAGES_MAX][HASH_BYTES];
	} last;

	struct known *known; /* by offset; made at the first damage */
	size_t nknown;
};

static void verifier_free(struct verifier *v)
{
	if (!v)
		return;
	session_free(v->session);
	image_index_free(v->index);
	image_close(v->image);
	image_file_release(&v->file);
	free(v->pages);
	free(v->known);
	free(v);
}
DEFINE_GUARD(struct verifier, verifier_free)

/* --- what the file's index knows ---------------------------------------------------------- */

static int known_compare(const void *a, const void *b)
{
	const struct known *x = a, *y = b;
	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	if (x->space != y->space)
		return x->space < y->space ? -1 : 1;
	return x->place < y->place ? -1 : x->place > y->place;
}

static void known_make(struct verifier *v)
{
	if (v->known || !v->image)
		return;
	struct known *known = calloc(image_info(v->image).extents + 1, sizeof(*known));
	if (!known)
		return; /* Then damage is told with less about it. */

	const struct address_space *a = image_process(v->image, 1);
	size_t n = 0;
	for (size_t i = 0; i < a->nspaces; i++) {
		size_t len;
		const struct image_extent *e = image_extents(v->image, 1, a->spaces[i].space, &len);
		for (size_t k = 0; k < len; k++)
			known[n++] = (struct known){.offset = e[k].frame_offset,
				.space = a->spaces[i].space,
				.place = e[k].place,
				.pages = e[k].pages};
	}
	qsort(known, n, sizeof(*known), known_compare);

	size_t m = 0;
	for (size_t i = 0; i < n; i++) {
		if (m && known[m - 1].offset == known[i].offset)
			known[m - 1].pages += known[i].pages;
		else
			known[m++] = known[i];
	}
	v->known = known;
	v->nknown = m;
}

/* The first known frame from `offset` on, or NULL. */
static const struct known *known_find(const struct verifier *v, uint64_t offset)
{
	size_t lo = 0, hi = v->nknown;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (v->known[mid].offset < offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < v->nknown ? &v->known[lo] : NULL;
}

/* --- damage ------------------------------------------------------------------------------- */

static void damage(struct verifier *v, uint64_t offset, const char *what)
{
	char text[700];
	known_make(v);
	const struct known *hit = known_find(v, offset);
	if (hit && hit->offset != offset)
		hit = NULL;
	if (hit) {
		char space[40] = "address";
		if (hit->space != SPACE_PRIVATE)
			snprintf(space, sizeof(space), "object %" PRIu64 ", offset", hit->space);
		snprintf(text, sizeof(text),
			"%s; it holds %" PRIu64 " pages, the first of %s %#" PRIx64, what,
			hit->pages, space, hit->place);
		what = text;
	}

	struct image_damage d = {.offset = offset, .what = what, .pages = hit ? hit->pages : 0};
	v->verdict.damages++;
	v->verdict.lost_pages += d.pages;
	if (v->report)
		v->report(v->arg, &d);

	/* What follows cannot be told from what this led to. */
	session_free(v->session);
	v->session = NULL;
	v->last.expected = HASHES_OTHER;
}

/* An error with its reason in one text. */
static void damage_error(struct verifier *v, uint64_t offset, const struct tide_error *err)
{
	char text[600];
	const char *reason = tide_error_reason(err);
	snprintf(text, sizeof(text), "%s%s%s", err->text, *reason ? ": " : "", reason);
	damage(v, offset, text);
}

/* --- the session's sink ------------------------------------------------------------------- */

/* Notes the hashes of pages, to be compared with the frame that follows. */
static void hash_pages(struct verifier *v, const struct batch *b, const uint8_t *pages)
{
	const struct page_secret *secret = store_secret(v->store);
	v->last.batch = *b;
	v->last.expected = HASHES_OF;
	for (uint32_t i = 0; secret && i < b->npages; i++)
		page_secret_hash(secret, pages + (size_t)i * b->page_bytes, b->page_bytes,
			v->last.hashes[i]);
}

static int sink_frame(struct sink *s, const struct sink_input *in, struct tide_error *err)
{
	struct verifier *v = (struct verifier *)s;
	if (in->batch)
		hash_pages(v, in->batch, in->pages);
	return image_index_frame(v->index, v->at, in, err);
}

static int sink_round_end(struct sink *s, uint64_t round, struct tide_error *err)
{
	return 0;
}

static int sink_commit(struct sink *s, struct committed *ret, struct tide_error *err)
{
	return 0;
}

static void sink_close(struct sink *s)
{
}

static const struct sink_ops sink_ops = {
	.frame = sink_frame,
	.round_end = sink_round_end,
	.commit = sink_commit,
	.close = sink_close,
};

/* --- frames ------------------------------------------------------------------------------- */

/* Pages that no session looks at any more. */
static int decode_pages(struct verifier *v, const struct frame *f, struct tide_error *err)
{
	struct batch b;
	if (v->page_bytes == 0) {
		v->last.expected = HASHES_OTHER;
		return 0;
	}
	int r = batch_decode(f, v->page_bytes, v->features, &b, err);
	uint8_t *to = v->pages;
	for (uint32_t i = 0; r == 0 && i < b.nblocks; i++) {
		r = batch_block_read(&b, i, f->payload, NULL, to, err);
		to += (size_t)b.blocks[i].pages * b.page_bytes;
	}
	if (r == 0)
		hash_pages(v, &b, v->pages);
	return r;
}

static int check_hashes(struct verifier *v, const struct frame *f, struct tide_error *err)
{
	const struct page_secret *secret = store_secret(v->store);
	const uint8_t(*hashes)[HASH_BYTES];
	const uint8_t *secret_id;
	int n = hashes_decode(f, &secret_id, &hashes, err);
	if (n < 0)
		return n;
	if (v->last.expected == HASHES_NONE)
		return tide_bad(err, "a HASHES frame that does not follow a PAGES frame");
	if (v->last.expected == HASHES_OTHER)
		return 0;
	if ((uint32_t)n != v->last.batch.npages)
		return tide_bad(err, "%d hashes for %" PRIu32 " pages", n, v->last.batch.npages);
	if (!secret || memcmp(secret->id, secret_id, ID_BYTES) != 0) {
		v->verdict.hashes_checked = false;
		return 0;
	}
	for (int i = 0; i < n; i++) {
		if (memcmp(hashes[i], v->last.hashes[i], HASH_BYTES) != 0)
			return tide_bad(
				err, "page %d of the PAGES frame before has another hash", i);
	}
	return 0;
}

static int check_hollow(const struct frame_buffer *raw, struct tide_error *err)
{
	for (size_t i = FRAME_HEADER_BYTES; i < raw->bytes; i++) {
		if (raw->data[i])
			return tide_bad(err, "byte %zu of a HOLLOW frame is not zero", i);
	}
	return 0;
}

static int note_stream(struct verifier *v, const struct frame *f, struct tide_error *err)
{
	struct stream_header h;
	int r = stream_header_decode(f, &h, err);
	if (r < 0)
		return r;
	uint8_t *pages = realloc(v->pages, (size_t)BATCH_PAGES_MAX * h.page_bytes);
	if (!pages)
		return tide_fail(err, -ENOMEM, "verify the image");
	v->pages = pages;
	v->page_bytes = h.page_bytes;
	v->features = h.features;
	return 0;
}

/* A frame whose checksum is right. */
static int check_frame(struct verifier *v, const struct frame *f, const struct frame_buffer *raw,
	struct tide_error *err)
{
	char name[16];
	int r = 0;

	if (v->last.expected == HASHES_OF && f->type != FRAME_HASHES)
		return tide_bad(err, "no HASHES frame behind a PAGES frame");
	if (v->session)
		r = session_frame(v->session, f, raw, v->at, err);
	if (r < 0)
		return r;

	switch (f->type) {
	case FRAME_STREAM:
		return note_stream(v, f, err);
	case FRAME_PAGES:
		return v->session ? 0 : decode_pages(v, f, err);
	case FRAME_HASHES:
		r = check_hashes(v, f, err);
		break;
	case FRAME_HOLLOW:
		r = check_hollow(raw, err);
		break;
	case FRAME_INDEX:
		if (v->index_offset == 0)
			v->index_offset = v->at;
		break;
	default:
		/* Of a later version, and kept: see session.c. */
		if (f->type >= FRAME_STREAM && f->type < FRAME_HOLLOW)
			break;
		if (frame_type_name(f->type, name) == name)
			r = tide_bad(err, "a frame of the unknown %s", name);
		break;
	}
	v->last.expected = HASHES_NONE;
	return r;
}

/* Where to go on behind the damaged frame at v->at; the file's length where that cannot be told. */
static int next_frame(struct verifier *v, uint64_t *ret, struct tide_error *err)
{
	const struct image_file *file = &v->file;
	auto_(frame_buffer_release) struct frame_buffer raw = {0};
	uint8_t header[FRAME_HEADER_BYTES];
	struct frame_header h;
	struct frame f;

	/* Its length may be right: then a whole frame follows. */
	if (file->bytes - v->at >= FRAME_HEADER_BYTES &&
		image_file_read(file, v->at, header, sizeof(header), NULL) == 0 &&
		frame_header_decode(header, &frame_limits_max, &h, NULL) == 0) {
		uint64_t next = v->at + FRAME_HEADER_BYTES + h.head_bytes + h.payload_bytes;
		int r = image_file_frame(file, next, file->bytes, &raw, &f, err);
		if (r == -ENOMEM)
			return r;
		if (r == 0 || next == file->bytes) {
			*ret = next;
			return 0;
		}
	}

	known_make(v);
	const struct known *known = known_find(v, v->at + 1);
	if (known)
		*ret = known->offset;
	else if (v->file_index > v->at)
		*ret = v->file_index;
	else
		*ret = file->bytes;
	return 0;
}

static int check_preamble(struct verifier *v, struct tide_error *err)
{
	struct tide_error what = {0};
	uint8_t preamble[PREAMBLE_BYTES];
	uint16_t minor;
	int r = image_file_read(&v->file, 0, preamble, sizeof(preamble), &what);
	if (r == 0)
		r = preamble_decode(preamble, &minor, &what);
	if (r < 0)
		damage_error(v, 0, &what);
	if (image_index_new(preamble, &v->index) < 0)
		return tide_fail(err, -ENOMEM, "verify the image");
	return 0;
}

static int check_frames(struct verifier *v, struct tide_error *err)
{
	auto_(frame_buffer_release) struct frame_buffer raw = {0};
	bool has_trailer = false;

	for (v->at = PREAMBLE_BYTES; v->at < v->file.bytes;) {
		struct tide_error what = {0};
		struct trailer trailer;
		struct frame f;
		bool is_frame = false;
		int r = image_file_frame(&v->file, v->at, v->file.bytes, &raw, &f, &what);
		if (r == 0) {
			is_frame = true;
			v->verdict.frames++;
			r = check_frame(v, &f, &raw, &what);
		}
		if (r == 0 && f.type == FRAME_TRAILER) {
			has_trailer = true;
			r = raw.bytes == TRAILER_BYTES
				    ? trailer_decode(raw.data, v->file.bytes, &trailer, &what)
				    : tide_bad(&what, "a TRAILER frame of %zu bytes", raw.bytes);
		}
		if (r == -ENOMEM)
			return tide_fail(err, r, "verify the image");
		if (r < 0)
			damage_error(v, v->at, &what);
		if (is_frame)
			v->at += raw.bytes;
		else
			r = next_frame(v, &v->at, err);
		if (!is_frame && r < 0)
			return r;
	}
	if (!has_trailer && v->verdict.damages == 0)
		damage(v, v->file.bytes, "the file ends before its trailer");
	return 0;
}

/* --- the index ---------------------------------------------------------------------------- */

struct comparison {
	struct verifier *verifier;
	uint64_t at;
};

static int compare_index(void *arg, const void *data, size_t bytes, struct tide_error *err)
{
	struct comparison *c = arg;
	auto_free uint8_t *buf = malloc(bytes);
	if (!buf)
		return tide_fail(err, -ENOMEM, "verify the image");
	int r = image_file_read(&c->verifier->file, c->at, buf, bytes, err);
	if (r == 0 && memcmp(buf, data, bytes) != 0)
		r = tide_bad(err, "the index is not the one of the frames before it");
	if (r == 0)
		c->at += bytes;
	return r;
}

/* The stream was whole: is this its index, and nothing else behind it? */
static int check_index(struct verifier *v, struct tide_error *err)
{
	struct tide_error what = {0};
	struct comparison c = {.verifier = v, .at = v->index_offset};
	int r = session_end(v->session, &what);
	if (r == 0)
		r = image_index_write(v->index, v->index_offset, compare_index, &c, &what);
	if (r == -ENOMEM)
		return tide_fail(err, r, "verify the image");
	if (r < 0)
		damage_error(v, c.at, &what);
	else if (c.at != v->file.bytes)
		damage(v, c.at, "something lies behind the index");
	return 0;
}

/* --- all of it ---------------------------------------------------------------------------- */

static int verifier_open(
	struct verifier *v, const char *name, struct tide_error *open_error, struct tide_error *err)
{
	int fd;
	int r = store_file_open(v->store, name, &fd, err);
	if (r == 0)
		r = image_file_init(&v->file, fd, err);
	if (r < 0)
		return r;
	r = image_open(v->store, name, &v->image, open_error);
	if (r == -ENOMEM)
		return tide_fail(err, r, "verify the image '%s'", name);

	v->sink.ops = &sink_ops;
	v->verdict.bytes_read = v->file.bytes;
	v->verdict.hashes_checked = true;
	if (v->image) {
		v->verdict.held_pages = image_info(v->image).held_pages;
		v->file_index = image_info(v->image).index_offset;
	}
	struct session_options options = {.from_file = true};
	r = session_new(&options, &v->session, err);
	return r < 0 ? r : session_open_sink(v->session, &v->sink, err);
}

int image_verify(struct store *store, const char *name, image_damage_fn report, void *arg,
	struct image_verdict *ret, struct tide_error *err)
{
	auto_(verifier_freep) struct verifier *v = calloc(1, sizeof(*v));
	if (!v)
		return tide_fail(err, -ENOMEM, "verify the image '%s'", name);
	v->store = store;
	v->file.fd = -1;
	v->report = report;
	v->arg = arg;

	struct tide_error open_error = {0};
	int r = verifier_open(v, name, &open_error, err);
	if (r == 0)
		r = check_preamble(v, err);
	if (r == 0)
		r = check_frames(v, err);
	if (r == 0 && v->session)
		r = check_index(v, err);
	if (r < 0)
		return r;
	/* Nothing was wrong but that: what an image must have, and no frame by itself. */
	if (!v->image && v->verdict.damages == 0)
		damage_error(v, 0, &open_error);
	*ret = v->verdict;
	return 0;
}
