/* SPDX-License-Identifier: MIT */
/* The same work on several things, on several threads at once. */
#ifndef BASE_PARALLEL_H
#define BASE_PARALLEL_H

#include <stddef.h>

/* Processors that are online, at least 1. */
unsigned parallel_processors(void);

/*
 * Calls fn(arg, i) for each i below `n`, in ascending order on each of up to `threads` threads,
 * this one among them; returns when all are back. Where a thread cannot be had the others do its
 * share. Returns 0, or the negative errno that the lowest i gave which failed; after a failure no
 * new i is begun. The threads block all signals.
 */
int parallel_for(unsigned threads, size_t n, int (*fn)(void *arg, size_t i), void *arg);

#endif
