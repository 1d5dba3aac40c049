/* SPDX-License-Identifier: MIT */
/* Userfaultfd with asynchronous write-protect, read and re-armed by PAGEMAP_SCAN (Linux 6.7 and
 * later). */
#ifndef TRACKER_BACKEND_UFFD_H
#define TRACKER_BACKEND_UFFD_H

#include "tracker/backend.h"

extern const struct backend_ops backend_uffd_wp;

#endif
