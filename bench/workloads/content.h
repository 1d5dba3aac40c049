/* SPDX-License-Identifier: MIT */
/* What the memory of a benchmark's process holds. The same seed gives the same bytes. */
#ifndef BENCH_WORKLOADS_CONTENT_H
#define BENCH_WORKLOADS_CONTENT_H

#include <stdint.h>

enum { CONTENT_PAGE = 4096 };

struct content {
	const char *name;
	/* Fills page `index` as it is after `generation` writes. */
	void (*fill)(uint8_t *page, uint64_t index, uint64_t generation);
};

/* NULL for a name that there is not. */
const struct content *content_by_name(const char *name);

/* "zero, text, ..." */
const char *content_names(void);

void content_seed(uint64_t seed);

/* A number of 64 bits that depends on every bit of `x`. */
uint64_t content_mix(uint64_t x);

#endif
