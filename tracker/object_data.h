/* SPDX-License-Identifier: MIT */
/* Where the object behind a shared mapping has data. */
#ifndef TRACKER_OBJECT_DATA_H
#define TRACKER_OBJECT_DATA_H

#include "proto/mapping.h"

/*
 * Adds the stretches, by offset in the object, of the part that mapping `m` shows, asking the
 * object by SEEK_DATA through `fd`. 0, -ENOMEM, or -EOPNOTSUPP for an object that does not know.
 */
int object_data_ask(int fd, const struct mapping *m, uint64_t page_bytes, struct pageset *ret);

#endif
