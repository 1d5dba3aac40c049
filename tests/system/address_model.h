/* SPDX-License-Identifier: MIT */
/*
 * What a receiver of everything so far holds of a process, and whether that is what the process
 * has. Change sets are applied as a receiver would; the comparison goes by /proc/PID/maps, pagemap,
 * mem and map_files, by means of this file's own, and reads nothing that would populate a page.
 */
#ifndef TESTS_SYSTEM_ADDRESS_MODEL_H
#define TESTS_SYSTEM_ADDRESS_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "proto/page_source.h"

struct model_page {
	space_id space;
	uint64_t at;
	uint8_t *bytes;
	struct model_page *next;
};

enum { MODEL_BUCKETS = 4096 };

struct address_model {
	struct mapping_table maps;
	struct model_page *buckets[MODEL_BUCKETS];
	size_t npages;
};

void model_release(struct address_model *m);

/* Applies a change set and reads its pages. A failure is a text in `why`, else "". */
bool model_apply(struct address_model *m, struct page_source *s, const struct change_set *c,
	char *why, size_t size);

/* What is at an address: the object that is mapped there and the offset in it, or the address. */
void model_resolve(
	const struct mapping_table *maps, uint64_t address, space_id *ret_space, uint64_t *ret_at);

struct model_difference {
	uint64_t pages, mappings;
	char first[512];
};

/* Holds the model against the process, which stands still. Contents of shared objects are left out
 * where `objects` is false. Mappings larger than 1 GiB are compared where the model holds
 * something, and by what pagemap says of the pages beside. */
void model_compare(
	const struct address_model *m, pid_t pid, bool objects, struct model_difference *ret);

#endif
