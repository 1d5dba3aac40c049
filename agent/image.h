/* SPDX-License-Identifier: MIT */
/*
 * Reads an image: opened by the index at its end, without reading the pages. Everything is checked
 * before it is used, for the file may be damaged or forged: -EBADMSG then, and the words name the
 * file, the byte and what is wrong there.
 *
 * An image is read by any number of threads at once; those that read pages take turns.
 */
#ifndef AGENT_IMAGE_H
#define AGENT_IMAGE_H

#include "agent/address_space.h"
#include "agent/store.h"

struct image;

int image_open(struct store *store, const char *name, struct image **ret, struct tide_error *err);
/* "STORE/NAME", with or without ".tide", as people name one on the command line. */
int image_open_path(const char *path, struct image **ret, struct tide_error *err);
void image_close(struct image *image);
DEFINE_GUARD(struct image, image_close)

/* "STORE/NAME", for messages. */
const char *image_path(const struct image *image);
const char *image_name(const struct image *image);
const struct stream_header *image_header(const struct image *image);

/* Information, mappings, held pages and state of a process, or NULL. Today an image has process 1
 * and no other. */
const struct address_space *image_process(const struct image *image, uint32_t process);

struct image_info {
	uint64_t file_bytes;
	uint64_t stored_bytes; /* on the disk: holes do not count */
	uint64_t held_pages;
	uint64_t rounds;
	uint64_t extents;
	uint64_t index_offset; /* where the stream's frames end in the file */
};
struct image_info image_info(const struct image *image);

/* Consecutive pages of a space that lie in one frame, one behind the other. */
struct image_extent {
	uint64_t place;        /* in the space, bytes */
	uint64_t frame_offset; /* of the PAGES frame in the file, bytes */
	uint32_t first;        /* which page of the frame is the first */
	uint32_t pages;
};

/* All of a space, in order, none overlapping; *ret_len of them. NULL where there are none. */
const struct image_extent *image_extents(
	const struct image *image, uint32_t process, space_id space, size_t *ret_len);

/*
 * Reads [at, at + bytes) of a space, any alignment. Pages that are not held read as zero: ask
 * image_find() where that matters. -EBADMSG where the image is damaged there.
 */
int image_read(struct image *image, uint32_t process, space_id space, uint64_t at, void *buf,
	size_t bytes, struct tide_error *err);

/* Whose bytes those at an address are. */
enum image_content {
	IMAGE_HELD = 1, /* the image's */
	IMAGE_ZERO,     /* zero: memory that nobody wrote */
	IMAGE_FILE,     /* the mapped file's, at the mapping's offset */
	IMAGE_ABSENT,   /* not known: a mapping that is not followed */
	IMAGE_UNMAPPED, /* nothing is there */
};

struct image_piece {
	uint64_t address, bytes;
	enum image_content content;
	const struct mapping *mapping; /* NULL for IMAGE_UNMAPPED */
	space_id space;                /* IMAGE_HELD, IMAGE_ZERO: what image_read() takes */
	uint64_t at;
	uint64_t file_offset; /* IMAGE_FILE */
};

/* What lies at `address` of the process: the longest piece of one kind in one mapping from there
 * on, cut at `end` (> address). */
void image_find(const struct image *image, uint32_t process, uint64_t address, uint64_t end,
	struct image_piece *ret);

/* One thing that is wrong in an image's file. */
struct image_damage {
	uint64_t offset;  /* of the frame, or of what is damaged outside of frames */
	const char *what; /* a sentence's worth: what is wrong there, and which pages it hits */
	uint64_t pages;   /* that the image holds and that cannot be trusted */
};
typedef void (*image_damage_fn)(void *arg, const struct image_damage *damage);

struct image_verdict {
	uint64_t damages; /* 0: the image is whole */
	uint64_t lost_pages;
	uint64_t held_pages;
	uint64_t frames;
	uint64_t bytes_read;
	bool hashes_checked; /* false where the store has lost its secret */
};

/*
 * Reads all of an image's file: every checksum, every block decodes, every hash agrees with its
 * page, the frames make sense as a stream, the index says what a reading from front to end says,
 * nothing lies in between. Calls `report` (may be NULL) for each damage. Returns 0 when the whole
 * file was looked at, damaged or not; negative where it could not be (no such image, no memory).
 */
int image_verify(struct store *store, const char *name, image_damage_fn report, void *arg,
	struct image_verdict *ret, struct tide_error *err);

#endif
