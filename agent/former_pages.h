/* SPDX-License-Identifier: MIT */
/*
 * Reads pages back out of an image that is being written: what a delta of them builds on. The file
 * is our own; where it is not as it was written the disk is at fault.
 */
#ifndef AGENT_FORMER_PAGES_H
#define AGENT_FORMER_PAGES_H

#include "agent/image_index.h"

struct former_pages;

/* For pages of this size. 0 or -ENOMEM. */
int former_pages_new(uint32_t page_bytes, struct former_pages **ret);
void former_pages_free(struct former_pages *f);
DEFINE_GUARD(struct former_pages, former_pages_free)

/*
 * The newest copies of the pages of `run` that the index knows, from the file of which it is, into
 * `dst`. -EBADMSG names the first page that is not held; -errno of pread, -EIO where they are not
 * what was written; -ENOMEM.
 */
int former_pages_read(struct former_pages *f, int fd, const struct image_index *index,
	space_id space, struct page_run run, uint8_t *dst, struct tide_error *err);

#endif
