/* SPDX-License-Identifier: MIT */
/* Reading the pages of a process that may change and end meanwhile. */
#ifndef TRACKER_READER_H
#define TRACKER_READER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include "tidemark/error.h"

struct process;

/*
 * Reads `n` stretches of the process's memory, back to back, into `buf`. Returns 0 and in
 * *ret_bytes how many bytes from the start could be read; fewer than asked for where the next page
 * cannot be read (unmapped, guard page, beyond the end of its file). -ESRCH where the process ended
 * or became another program: nothing of the other program is ever returned. Thread-safe.
 */
int reader_read(const struct process *p, const struct iovec *remote, size_t n, void *buf,
	uint64_t *ret_bytes, struct tide_error *err);

#endif
