/* SPDX-License-Identifier: MIT */
/*
 * In which order the pages of a round go: those that were written in the round before, too, go
 * last. They are likely to be written again; the later they are read, the fewer of them are read
 * before that. Pure: change sets in, spans out.
 */
#ifndef TRANSPORT_SEND_ORDER_H
#define TRANSPORT_SEND_ORDER_H

#include <stdbool.h>
#include <stddef.h>
#include "proto/page_source.h"
#include "proto/pageset.h"

/* What was seen to be written in one space in the round before: what is hot. */
struct hot_space {
	space_id space;
	struct pageset pages;
};

/* All zero knows of no round. */
struct send_order {
	struct hot_space *hot; /* by space */
	size_t nhot;
	bool has_round; /* the first round holds everything, which says nothing of writing */

	struct page_span *spans; /* what the last call made */
	size_t nspans, cap;
	uint64_t hot_pages; /* of those, at their end */
};

void send_order_release(struct send_order *o);

/*
 * Puts the written spans of `c` into o->spans: first those that were not written in the round
 * before, then those that were; both by space, then by place, and each page once. Then keeps what
 * was written for the next call. The spans are the order's, until the next call. 0, or -ENOMEM:
 * then there are no spans, and the written ones are to be sent as they are.
 */
int send_order_make(struct send_order *o, const struct change_set *c, uint64_t page_bytes);

#endif
