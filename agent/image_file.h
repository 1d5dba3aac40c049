/* SPDX-License-Identifier: MIT */
/* The file of an image as a row of frames. For image.c and image_verify.c. */
#ifndef AGENT_IMAGE_FILE_H
#define AGENT_IMAGE_FILE_H

#include "agent/image_format.h"

struct image_file {
	int fd; /* owned; -1 when closed */
	uint64_t bytes;
	uint64_t stored_bytes; /* on the disk */
};

/* Takes over the descriptor, also on failure. -EBADMSG where it is no regular file. */
int image_file_init(struct image_file *f, int fd, struct tide_error *err);
void image_file_release(struct image_file *f);

/* Exactly `bytes` from `offset` on, or -EBADMSG where the file ends before, or what read says. */
int image_file_read(const struct image_file *f, uint64_t offset, void *buf, size_t bytes,
	struct tide_error *err);

/*
 * The frame at `offset`, which must end at `end` or before: its bytes into `raw`, `ret` borrows
 * them. Checked as frame_decode() does. -EBADMSG says what is wrong with it, not where.
 */
int image_file_frame(const struct image_file *f, uint64_t offset, uint64_t end,
	struct frame_buffer *raw, struct frame *ret, struct tide_error *err);

#endif
