/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include "agent/image_format.h"
#include "base/error.h"
#include "base/le.h"

static const uint8_t trailer_magic[8] = {0x89, 't', 'i', 'd', 'e', 'e', 'n', 'd'};

/* --- HASHES ------------------------------------------------------------------------------- */

size_t hashes_encode(uint32_t process, const uint8_t secret_id[ID_BYTES],
	const uint8_t (*hashes)[HASH_BYTES], uint32_t npages, uint8_t buf[HASHES_BYTES_MAX])
{
	assert(npages <= BATCH_PAGES_MAX);
	struct frame f = {
		.type = FRAME_HASHES,
		.process = process,
		.head = buf + FRAME_HEADER_BYTES,
		.head_bytes = HASHES_HEAD_BYTES,
		.payload = buf + FRAME_HEADER_BYTES + HASHES_HEAD_BYTES,
		.payload_bytes = npages * HASH_BYTES,
	};
	memcpy(buf + FRAME_HEADER_BYTES, secret_id, ID_BYTES);
	memcpy(buf + FRAME_HEADER_BYTES + HASHES_HEAD_BYTES, hashes, f.payload_bytes);
	frame_header_encode(&f, buf);
	return FRAME_HEADER_BYTES + f.head_bytes + f.payload_bytes;
}

int hashes_decode(const struct frame *f, const uint8_t **ret_secret_id,
	const uint8_t (**ret)[HASH_BYTES], struct tide_error *err)
{
	if (f->head_bytes != HASHES_HEAD_BYTES || f->payload_bytes == 0 ||
		f->payload_bytes % HASH_BYTES || f->payload_bytes > BATCH_PAGES_MAX * HASH_BYTES)
		return tide_bad(err,
			"a HASHES frame with a head of %" PRIu32 " and a payload of %" PRIu32
			" bytes",
			f->head_bytes, f->payload_bytes);
	*ret_secret_id = f->head;
	*ret = (const uint8_t(*)[HASH_BYTES])f->payload;
	return (int)(f->payload_bytes / HASH_BYTES);
}

/* --- INDEX -------------------------------------------------------------------------------- */

/* 0 for an unknown kind. */
static uint32_t entry_bytes(uint32_t kind)
{
	switch (kind) {
	case INDEX_EXTENTS:
		return INDEX_EXTENT_BYTES;
	case INDEX_FRAMES:
		return INDEX_FRAME_BYTES;
	case INDEX_SUMMARY:
		return INDEX_SUMMARY_BYTES;
	default:
		return 0;
	}
}

void index_extent_encode(const struct index_extent *x, uint8_t buf[INDEX_EXTENT_BYTES])
{
	le64_put(buf, x->place);
	le64_put(buf + 8, x->frame_offset);
	le32_put(buf + 16, x->first);
	le32_put(buf + 20, x->pages);
}

void index_extent_decode(const uint8_t buf[INDEX_EXTENT_BYTES], struct index_extent *ret)
{
	*ret = (struct index_extent){
		.place = le64_get(buf),
		.frame_offset = le64_get(buf + 8),
		.first = le32_get(buf + 16),
		.pages = le32_get(buf + 20),
	};
}

void index_frame_encode(const struct index_frame *x, uint8_t buf[INDEX_FRAME_BYTES])
{
	le64_put(buf, x->frame_offset);
	le16_put(buf + 8, x->type);
	le16_put(buf + 10, 0);
	le32_put(buf + 12, x->process);
}

int index_frame_decode(
	const uint8_t buf[INDEX_FRAME_BYTES], struct index_frame *ret, struct tide_error *err)
{
	if (le16_get(buf + 10) != 0)
		return tide_bad(err, "an INDEX entry whose reserved bytes are not zero");
	*ret = (struct index_frame){
		.frame_offset = le64_get(buf),
		.type = le16_get(buf + 8),
		.process = le32_get(buf + 12),
	};
	return 0;
}

void index_summary_encode(const struct index_summary *x, uint8_t buf[INDEX_SUMMARY_BYTES])
{
	memcpy(buf, x->preamble, PREAMBLE_BYTES);
	memcpy(buf + 16, x->stream_id, ID_BYTES);
	le32_put(buf + 32, x->page_bytes);
	le32_put(buf + 36, 0);
	le64_put(buf + 40, x->rounds);
	le64_put(buf + 48, x->held_pages);
	le64_put(buf + 56, x->extents);
	le64_put(buf + 64, x->frames);
	le64_put(buf + 72, x->index_offset);
	le64_put(buf + 80, x->index_frames);
}

int index_summary_decode(
	const uint8_t buf[INDEX_SUMMARY_BYTES], struct index_summary *ret, struct tide_error *err)
{
	struct index_summary x = {
		.page_bytes = le32_get(buf + 32),
		.rounds = le64_get(buf + 40),
		.held_pages = le64_get(buf + 48),
		.extents = le64_get(buf + 56),
		.frames = le64_get(buf + 64),
		.index_offset = le64_get(buf + 72),
		.index_frames = le64_get(buf + 80),
	};
	memcpy(x.preamble, buf, PREAMBLE_BYTES);
	memcpy(x.stream_id, buf + 16, ID_BYTES);
	if (le32_get(buf + 36) != 0)
		return tide_bad(err, "an INDEX summary whose reserved bytes are not zero");
	*ret = x;
	return 0;
}

int index_encode(uint32_t process, const struct index_head *head, const uint8_t *entries,
	struct frame_buffer *ret)
{
	uint8_t buf[INDEX_HEAD_BYTES];
	uint32_t each = entry_bytes(head->kind);
	assert(each && head->entries <= INDEX_ENTRIES_MAX);

	le32_put(buf, INDEX_VERSION);
	le32_put(buf + 4, head->kind);
	le64_put(buf + 8, head->number);
	le64_put(buf + 16, head->space);
	le32_put(buf + 24, head->entries);
	le32_put(buf + 28, each);
	struct frame f = {
		.type = FRAME_INDEX,
		.process = process,
		.head = buf,
		.head_bytes = sizeof(buf),
		.payload = entries,
		.payload_bytes = head->entries * each,
	};
	return frame_buffer_encode(ret, &f);
}

int index_decode(const struct frame *f, struct index_head *ret, struct tide_error *err)
{
	if (f->type != FRAME_INDEX) {
		char name[16];
		return tide_bad(err, "a %s frame in the place of an INDEX frame",
			frame_type_name(f->type, name));
	}
	if (f->head_bytes != INDEX_HEAD_BYTES)
		return tide_bad(
			err, "an INDEX frame with a head of %" PRIu32 " bytes", f->head_bytes);
	uint32_t version = le32_get(f->head), kind = le32_get(f->head + 4);
	if (version != INDEX_VERSION)
		return tide_bad(err,
			"an INDEX frame of version %" PRIu32
			", of which only version %d is known here",
			version, INDEX_VERSION);

	struct index_head h = {
		.kind = (enum index_kind)kind,
		.number = le64_get(f->head + 8),
		.space = le64_get(f->head + 16),
		.entries = le32_get(f->head + 24),
	};
	uint32_t each = entry_bytes(kind);
	if (each == 0)
		return tide_bad(err, "an INDEX frame of the unknown kind %" PRIu32, kind);
	if (le32_get(f->head + 28) != each || h.entries == 0 || h.entries > INDEX_ENTRIES_MAX ||
		f->payload_bytes != h.entries * each || (kind == INDEX_SUMMARY && h.entries != 1))
		return tide_bad(err,
			"an INDEX frame of %" PRIu32 " entries of %" PRIu32 " bytes in %" PRIu32
			" bytes",
			h.entries, le32_get(f->head + 28), f->payload_bytes);
	*ret = h;
	return 0;
}

/* --- TRAILER ------------------------------------------------------------------------------ */

void trailer_encode(const struct trailer *t, uint8_t buf[TRAILER_BYTES])
{
	uint8_t *head = buf + FRAME_HEADER_BYTES;
	le64_put(head, t->summary_offset);
	le64_put(head + 8, t->file_bytes);
	memcpy(head + 16, trailer_magic, sizeof(trailer_magic));
	struct frame f = {
		.type = FRAME_TRAILER,
		.head = head,
		.head_bytes = TRAILER_HEAD_BYTES,
	};
	frame_header_encode(&f, buf);
}

int trailer_decode(const uint8_t buf[TRAILER_BYTES], uint64_t file_bytes, struct trailer *ret,
	struct tide_error *err)
{
	static const struct frame_limits limits = {.head_bytes = TRAILER_HEAD_BYTES};
	const uint8_t *head = buf + FRAME_HEADER_BYTES;
	struct frame_header h;
	struct frame f;

	/* A file that was cut has anything here; only the magic tells that a trailer was damaged.
	 */
	if (memcmp(head + 16, trailer_magic, sizeof(trailer_magic)) != 0)
		return tide_bad(
			err, "it does not end with an image's trailer: cut short, or no image");
	if (frame_header_decode(buf, &limits, &h, NULL) < 0 || h.type != FRAME_TRAILER ||
		h.head_bytes != TRAILER_HEAD_BYTES || frame_decode(buf, head, &f, NULL) < 0)
		return tide_bad(err, "its trailer is damaged");

	struct trailer t = {.summary_offset = le64_get(head), .file_bytes = le64_get(head + 8)};
	if (t.file_bytes != file_bytes)
		return tide_bad(err, "it has %" PRIu64 " bytes, where its trailer says %" PRIu64,
			file_bytes, t.file_bytes);
	if (t.summary_offset < PREAMBLE_BYTES || file_bytes < TRAILER_BYTES ||
		t.summary_offset > file_bytes - TRAILER_BYTES)
		return tide_bad(err, "its trailer points outside of it");
	*ret = t;
	return 0;
}
