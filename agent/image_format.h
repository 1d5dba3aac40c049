/* SPDX-License-Identifier: MIT */
/*
 * What an image file has beside the frames of a stream, byte by byte; docs/stream-format.md is the
 * specification. All integers are little-endian.
 *
 *   image    := preamble { frame | PAGES HASHES | HOLLOW }* INDEX+ TRAILER
 *
 *   HASHES   head: u8 secret_id[16];  payload: u8 hash[16] for each page of the PAGES frame before
 * it INDEX    head: u32 version u32 kind u64 number u64 space u32 entries u32 entry_bytes payload:
 * the entries, by kind: EXTENTS  u64 place u64 frame_offset u32 first u32 pages FRAMES   u64
 * frame_offset u16 type u16 0 u32 process SUMMARY  one: u8 preamble[16] u8 stream_id[16] u32
 * page_bytes u32 0 u64 rounds u64 held_pages u64 extents u64 frames u64 index_offset u64
 * index_frames TRAILER  head: u64 summary_offset u64 file_bytes u8 magic[8]
 */
#ifndef AGENT_IMAGE_FORMAT_H
#define AGENT_IMAGE_FORMAT_H

#include "agent/page_hash.h"
#include "proto/batch.h"
#include "proto/message.h"

#define HASHES_HEAD_BYTES ID_BYTES
#define HASHES_BYTES_MAX (FRAME_HEADER_BYTES + HASHES_HEAD_BYTES + BATCH_PAGES_MAX * HASH_BYTES)

/* Writes a whole HASHES frame of `npages` hashes to `buf`; returns its length. */
size_t hashes_encode(uint32_t process, const uint8_t secret_id[ID_BYTES],
	const uint8_t (*hashes)[HASH_BYTES], uint32_t npages, uint8_t buf[HASHES_BYTES_MAX]);
/* `ret_secret_id` and the hashes are borrowed from the frame; their number is returned. -EBADMSG.
 */
int hashes_decode(const struct frame *f, const uint8_t **ret_secret_id,
	const uint8_t (**ret)[HASH_BYTES], struct tide_error *err);

#define INDEX_VERSION 1
#define INDEX_HEAD_BYTES 32
#define INDEX_ENTRIES_MAX 32768u /* in one frame, of any kind */

enum index_kind {
	INDEX_EXTENTS = 1, /* of one space of the frame's process, in order of place */
	INDEX_FRAMES = 2,  /* where the frames are that tell of anything but pages, in order */
	INDEX_SUMMARY = 3, /* the last one */
};

struct index_head {
	enum index_kind kind;
	uint64_t number; /* of this INDEX frame, from 0 */
	space_id space;  /* INDEX_EXTENTS; else 0 */
	uint32_t entries;
};

struct index_extent {
	uint64_t place;        /* bytes */
	uint64_t frame_offset; /* of a PAGES frame */
	uint32_t first;        /* which page of the frame */
	uint32_t pages;
};
#define INDEX_EXTENT_BYTES 24

struct index_frame {
	uint64_t frame_offset;
	uint16_t type;
	uint32_t process;
};
#define INDEX_FRAME_BYTES 16

struct index_summary {
	uint8_t preamble[PREAMBLE_BYTES]; /* as at the beginning of the file */
	uint8_t stream_id[ID_BYTES];
	uint32_t page_bytes;
	uint64_t rounds;
	uint64_t held_pages;
	uint64_t extents;      /* in all INDEX frames */
	uint64_t frames;       /* entries of INDEX_FRAMES */
	uint64_t index_offset; /* of the first INDEX frame */
	uint64_t index_frames; /* this one included */
};
#define INDEX_SUMMARY_BYTES (PREAMBLE_BYTES + ID_BYTES + 8 + 6 * 8)

void index_extent_encode(const struct index_extent *x, uint8_t buf[INDEX_EXTENT_BYTES]);
void index_frame_encode(const struct index_frame *x, uint8_t buf[INDEX_FRAME_BYTES]);
void index_summary_encode(const struct index_summary *x, uint8_t buf[INDEX_SUMMARY_BYTES]);

/* A whole INDEX frame of encoded entries. 0, -ENOMEM. */
int index_encode(uint32_t process, const struct index_head *head, const uint8_t *entries,
	struct frame_buffer *ret);

/* Checks the version, the kind, and that the payload is as many entries as it says. -EBADMSG. */
int index_decode(const struct frame *f, struct index_head *ret, struct tide_error *err);
void index_extent_decode(const uint8_t buf[INDEX_EXTENT_BYTES], struct index_extent *ret);
/* -EBADMSG where the reserved bytes are not zero. */
int index_frame_decode(
	const uint8_t buf[INDEX_FRAME_BYTES], struct index_frame *ret, struct tide_error *err);
int index_summary_decode(
	const uint8_t buf[INDEX_SUMMARY_BYTES], struct index_summary *ret, struct tide_error *err);

struct trailer {
	uint64_t summary_offset;
	uint64_t file_bytes;
};
#define TRAILER_HEAD_BYTES 24
#define TRAILER_BYTES (FRAME_HEADER_BYTES + TRAILER_HEAD_BYTES)

/* A whole TRAILER frame. */
void trailer_encode(const struct trailer *t, uint8_t buf[TRAILER_BYTES]);
/* Checks all of it against the file's length. -EBADMSG: cut short, or no image at all. */
int trailer_decode(const uint8_t buf[TRAILER_BYTES], uint64_t file_bytes, struct trailer *ret,
	struct tide_error *err);

#endif
