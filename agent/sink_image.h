/* SPDX-License-Identifier: MIT */
/*
 * The image sink: frames go into a file of a store as they came, one behind the other; pages that a
 * later round sends again are punched out of it, frame by frame; an index at the end says where
 * what is left lies. The memory that it takes grows by runs of pages that lie together, never by
 * pages.
 */
#ifndef AGENT_SINK_IMAGE_H
#define AGENT_SINK_IMAGE_H

#include "agent/sink.h"
#include "agent/store.h"

/* Borrows the store. -EEXIST where the store has the image. */
int sink_image_open(
	struct store *store, const char *name, struct sink **ret, struct tide_error *err);

#endif
