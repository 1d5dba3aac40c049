/* SPDX-License-Identifier: MIT */
/*
 * Ways to write the pages of a field of memory, one after the other; and the truth about what was
 * written, kept beside it. A new pattern is a function and a line in the table.
 */
#ifndef BENCH_WORKLOADS_PATTERNS_H
#define BENCH_WORKLOADS_PATTERNS_H

#include <stdbool.h>
#include <stdint.h>
#include "bench/workloads/content.h"

struct pattern;

/* Bits by page. */
struct page_bits {
	uint64_t *words;
};

struct field {
	const struct content *content;
	const struct pattern *pattern;
	uint8_t *memory;
	uint64_t npages;
	bool is_shared;     /* nothing of it can be given back */
	uint64_t hot_pages; /* that the pattern writes: so many, ... */
	uint64_t every;     /* ... each `every`-th of the memory */
	uint64_t seed;
	unsigned half_bits; /* of the numbers that are permuted */
	uint64_t written;   /* pages, since the start; some more than once */
	uint64_t writes_at_mark;
	struct page_bits is_written;        /* since the mark */
	struct page_bits is_held, was_held; /* now, and at the mark */
};

/* What happened since the mark, in pages. */
struct truth {
	uint64_t writes;
	uint64_t written; /* at least once, and held now */
	uint64_t fresh;   /* held now, and not at the mark */
	uint64_t dropped; /* the other way round */
	uint64_t held;
};

/* NULL for a name that there is not. */
const struct pattern *pattern_by_name(const char *name);

/* For --help, a line each. */
void patterns_tell(char *ret, unsigned size);

/* Fills what the pattern wants to be there at the start, and marks. `f` has all but what is counted
 * and noted. false: no memory, or a pattern that this memory is not for. */
bool field_begin(struct field *f);

void field_write_next(struct field *f);

/* Tells, and marks. */
struct truth field_mark(struct field *f);

#endif
