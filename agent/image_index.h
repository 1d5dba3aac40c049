/* SPDX-License-Identifier: MIT */
/*
 * What the index of an image says, in the making: told of every frame and of the byte where it
 * lies, it knows where the newest copy of each page is and which frames hold none any more. Whoever
 * writes an image ends it with this; whoever verifies one compares.
 *
 * Memory grows by runs of pages that lie together, never by pages.
 */
#ifndef AGENT_IMAGE_INDEX_H
#define AGENT_IMAGE_INDEX_H

#include "agent/image_format.h"
#include "agent/sink.h"

struct image_index;

/* For a file that begins with `preamble`. */
int image_index_new(const uint8_t preamble[PREAMBLE_BYTES], struct image_index **ret);
void image_index_free(struct image_index *x);
DEFINE_GUARD(struct image_index, image_index_free)

/* The next frame of the stream lies at `offset`. 0, -ENOMEM, -EBADMSG where there are too many. */
int image_index_frame(struct image_index *x, uint64_t offset, const struct sink_input *in,
	struct tide_error *err);

/* Takes a PAGES frame that holds nothing any more off the list of such: *ret is its offset. False
 * where there is none. */
bool image_index_dead(struct image_index *x, uint64_t *ret);

/* Where the newest copy of the page at `at` of a space lies: `pages` from there on lie in the frame
 * one behind the other. False where it is not held. */
bool image_index_find(
	const struct image_index *x, space_id space, uint64_t at, struct index_extent *ret);

uint64_t image_index_held_pages(const struct image_index *x);

/* Bytes of the file, in order. What it returns below 0 ends the writing. */
typedef int (*image_index_out_fn)(
	void *arg, const void *data, size_t bytes, struct tide_error *err);

/* Gives all that lies behind the last frame of the stream, which ends at `offset`: INDEX frames and
 * the trailer. */
int image_index_write(struct image_index *x, uint64_t offset, image_index_out_fn out, void *arg,
	struct tide_error *err);

#endif
