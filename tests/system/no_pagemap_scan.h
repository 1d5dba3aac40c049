/* SPDX-License-Identifier: MIT */
/* Takes PAGEMAP_SCAN away, as kernels before 6.7 have it: so that the roads for those are walked
 * here, too. */
#ifndef TESTS_SYSTEM_NO_PAGEMAP_SCAN_H
#define TESTS_SYSTEM_NO_PAGEMAP_SCAN_H

/* For the calling thread and what it starts; not to be taken back. Negative errno where this user
 * may not filter its own system calls. */
int no_pagemap_scan(void);

#endif
