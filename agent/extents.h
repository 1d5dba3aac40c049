/* SPDX-License-Identifier: MIT */
/*
 * Which frame of a file holds each page of one space. Pages are named by number here (address or
 * offset divided by the page size), frames by a number that the owner gives.
 *
 * Runs are kept in chunks of EXTENTS_CHUNK_PAGES: putting a run into the middle of a million others
 * moves a few hundred entries, not the million. Memory grows by runs, 12 bytes each, and by touched
 * chunks.
 */
#ifndef AGENT_EXTENTS_H
#define AGENT_EXTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXTENTS_CHUNK_PAGES 512

/* Pages page .. page + pages - 1 are pages first .. first + pages - 1 of the frame. */
struct extent {
	uint64_t page;
	uint32_t pages;
	uint32_t frame;
	uint32_t first;
};

/* All zero is the empty map. */
struct extents {
	struct extents_chunk *chunks; /* by place; none is empty */
	size_t len, cap;
	size_t runs; /* in all chunks: at least the number of extents */
};

void extents_release(struct extents *e);

/* `pages` pages of `frame` are not needed any more. */
typedef void (*extents_gone_fn)(void *arg, uint32_t frame, uint32_t pages);

/*
 * Puts an extent over whatever was there; `gone` is called for each piece that it replaces.
 * Its pages' numbers end below 2^52, and first + pages is at most 65536. 0, or -ENOMEM: the map can
 * then only be released.
 */
int extents_put(struct extents *e, struct extent x, extents_gone_fn gone, void *arg);

/* Takes [page, page + pages) out. The same errors. */
int extents_remove(
	struct extents *e, uint64_t page, uint64_t pages, extents_gone_fn gone, void *arg);

/* The run that has the page, from that page on. False where none has. */
bool extents_find(const struct extents *e, uint64_t page, struct extent *ret);

/* Walks the map in order: what continues the run before it (in place and in the frame) is one
 * extent with it, so equal maps give equal walks. All zero is the beginning. */
struct extents_cursor {
	size_t chunk, run;
};
bool extents_next(const struct extents *e, struct extents_cursor *at, struct extent *ret);

#endif
