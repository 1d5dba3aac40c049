/* SPDX-License-Identifier: MIT */
/* Soft-dirty bits (CONFIG_MEM_SOFT_DIRTY, x86 and few others): 4 into clear_refs, bit 55 of
 * pagemap. */
#ifndef TRACKER_BACKEND_SOFT_DIRTY_H
#define TRACKER_BACKEND_SOFT_DIRTY_H

#include "tracker/backend.h"

extern const struct backend_ops backend_soft_dirty;

#endif
