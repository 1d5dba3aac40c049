/* SPDX-License-Identifier: MIT */
/*
 * The bytes that the receiver holds of pages that are written often, so that what changed in them
 * can be sent instead of the whole. Bounded: a page gets in while there is room, and then in the
 * place of one that is written less than half as often; of more pages than fit, all written alike,
 * some stay in and the others stay out.
 *
 * How often a page is written is counted in rounds, those long ago counting less; also for pages
 * that are not in, as far as there is room to count them.
 *
 * One thread, the driver, calls everything but take(), keep() and skip(), in this order:
 *     { begin, { take, keep | skip }..., settle }...
 * Those three are called by several threads at once, each page by one of them in a round; how they
 * hear of a begin, and the driver of their end, is up to the caller (a lock, say). Nothing in here
 * waits.
 */
#ifndef TRANSPORT_DELTA_CACHE_H
#define TRANSPORT_DELTA_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/guard.h"
#include "proto/page_source.h"

struct delta_cache_options {
	uint64_t page_bytes; /* a power of two */
	uint64_t bytes_max;  /* memory for all of it. Too little for one page: nothing is kept. */
};

struct delta_cache;

/* Nothing is known. `options` is copied. 0 or -ENOMEM. */
int delta_cache_new(const struct delta_cache_options *options, struct delta_cache **ret);
void delta_cache_free(struct delta_cache *t);
DEFINE_GUARD(struct delta_cache, delta_cache_free)

/*
 * A round begins: what it drops, and what was unmapped, is not known any more. Decides which of the
 * pages that it may send are kept. `final`: no round follows, so nothing is kept any more.
 */
void delta_cache_begin(struct delta_cache *t, const struct change_set *c, bool final);

/*
 * The page is sent in this round. What the receiver holds of it, or NULL where that is not known;
 * good until keep() of the page or the end of the round. What it will hold is not known until
 * keep() says so.
 */
const uint8_t *delta_cache_take(struct delta_cache *t, space_id space, uint64_t at);

/* The page, of which take() was called, was sent with these bytes. */
void delta_cache_keep(struct delta_cache *t, space_id space, uint64_t at, const uint8_t *contents);

/* The pages of the span could not be read: nothing is known of them any more. */
void delta_cache_skip(struct delta_cache *t, const struct page_span *span);

/*
 * The round is over. Where it was acknowledged, what was kept is what the receiver holds. Where not
 * nobody knows what it holds of the pages that were sent.
 */
void delta_cache_settle(struct delta_cache *t, bool acknowledged);

/* How many pages it has room for. */
size_t delta_cache_pages(const struct delta_cache *t);

/* All that it takes, when it is full: at most bytes_max. */
uint64_t delta_cache_bytes(const struct delta_cache *t);

#endif
