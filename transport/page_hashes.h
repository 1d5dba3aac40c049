/* SPDX-License-Identifier: MIT */
/*
 * What the receiver holds, told by 128-bit hashes of what it was sent: a page that still hashes to
 * the same need not travel. Equal hashes are taken for equal pages; nobody can make two such pages
 * who does not know the secret.
 *
 * One thread, the driver, calls everything but take() and skip(), in this order:
 *     { begin, { take | skip }..., settle }...
 * take() and skip() are called by several threads at once, each page by one of them in a round; how
 * they hear of a begin, and the driver of their end, is up to the caller (a lock, say). Nothing in
 * here waits.
 */
#ifndef TRANSPORT_PAGE_HASHES_H
#define TRANSPORT_PAGE_HASHES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/guard.h"
#include "proto/page_source.h"

#define PAGE_HASHES_SECRET_BYTES 192

struct page_hashes_options {
	uint64_t page_bytes; /* a power of two */
	uint64_t bytes_max;  /* memory for hashes: about 17 bytes a page. What it is too small for
				always travels. */
	bool compare_all;    /* also pages that were written for sure, not only doubtful ones */
	uint8_t secret[PAGE_HASHES_SECRET_BYTES]; /* random; of one session */
};

struct page_hashes;

/* Nothing is known. `options` is copied. 0 or -ENOMEM. */
int page_hashes_new(const struct page_hashes_options *options, struct page_hashes **ret);
void page_hashes_free(struct page_hashes *t);
DEFINE_GUARD(struct page_hashes, page_hashes_free)

/*
 * A round begins: what it drops, and what was unmapped, is not known any more. Makes room for the
 * hashes of what it may send: doubtful pages, pages of shared objects (which other processes may
 * write: they will be doubtful), and neighbours of either; everything with compare_all, or where
 * the source says that it will come to doubt everything. Where there is no room, pages travel.
 */
void page_hashes_begin(struct page_hashes *t, const struct change_set *c);

/*
 * Which pages of `span` have to travel: `contents` is what they hold now. Says so of each in
 * ret_travels; those count as sent in this round. All do of a span that is not to be compared. The
 * span is, or is part of, one that the round's change set has.
 */
void page_hashes_take(struct page_hashes *t, const struct page_span *span, const uint8_t *contents,
	bool *ret_travels);

/* The pages of the span could not be read: nothing is known of them any more. */
void page_hashes_skip(struct page_hashes *t, const struct page_span *span);

/*
 * The round is over. Where it was not acknowledged nobody knows whether the receiver has the pages
 * that were sent: they are not known any more. Those found unchanged remain.
 */
void page_hashes_settle(struct page_hashes *t, bool acknowledged);

/* What the hashes take now: at most bytes_max. */
uint64_t page_hashes_bytes(const struct page_hashes *t);

#endif
