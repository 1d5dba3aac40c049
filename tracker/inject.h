/* SPDX-License-Identifier: MIT */
#ifndef TRACKER_INJECT_H
#define TRACKER_INJECT_H

#include "tidemark/error.h"

struct process;

/*
 * Has one thread of the process create a userfaultfd, and takes a duplicate of it; see
 * tracer_inject_userfaultfd(), which runs this on a thread that ends afterwards. That end is part
 * of it: a thread of the process that did not stop in time (-ETIMEDOUT) is let go by nothing else.
 */
int inject_userfaultfd(const struct process *p, int *ret_fd, struct tide_error *err);

#endif
