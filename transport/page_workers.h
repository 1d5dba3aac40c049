/* SPDX-License-Identifier: MIT */
/*
 * Threads that read, encode and queue the pages of a round, side by side: each batch is the work of
 * one of them. They wait for room in the connection, and for nothing else.
 *
 * One thread, the driver, calls begin, queue, wait, arrived, in this order, for each round; while
 * it is between a begin and its wait, the page source, the hashes and the deltas are theirs.
 */
#ifndef TRANSPORT_PAGE_WORKERS_H
#define TRANSPORT_PAGE_WORKERS_H

#include <stdint.h>
#include "base/guard.h"
#include "proto/batch.h"
#include "proto/page_source.h"
#include "transport/connection.h"
#include "transport/delta_cache.h"
#include "transport/page_hashes.h"

/* Today a session is about one process. */
#define PROCESS_NUMBER 1

struct page_workers;

/* All is borrowed until page_workers_free(). */
struct page_workers_options {
	struct page_source *source;
	struct page_hashes *hashes;
	struct delta_cache *deltas;      /* NULL: pages travel whole */
	struct connection *const *conns; /* pages go by any of them */
	unsigned nconns;                 /* at least 1 */
	const struct codec *codec;       /* NULL: none */
	uint64_t choose_from; /* features of codecs, among which one is chosen by what is measured
				 (codec_choice.h); 0: always `codec` */
	struct frame_limits limits; /* that the peer agreed to */
	uint64_t page_bytes;
	unsigned threads; /* at least 1 */
	bool paced;       /* all rounds but the final one are held up by a limit; then the workers
			     yield the processors in those, where they may come back (background.h) */
	/* Any of the threads, when it fails; also before page_workers_new() has returned. What is
	 * queued is passed over from then on. */
	void (*failed)(void *arg, const struct tide_error *err);
	void *arg;
};

struct page_sums {
	uint64_t pages; /* sent */
	uint64_t frames;
	uint64_t wire_bytes;      /* of those frames */
	uint64_t unchanged_pages; /* read, and not sent */
	uint64_t rewritten_pages; /* of those: written for sure, with the bytes they had */
	uint64_t look_ns;         /* all workers' time for reading and comparing */
	struct batch_stats stats;
};

/* -EMSGSIZE where the limits leave no room for a page, -ENOMEM, or what pthread_create() says. */
int page_workers_new(const struct page_workers_options *options, struct page_workers **ret);

/* A round begins: its sums are zero. In the final one no codec is tried out. */
void page_workers_begin(struct page_workers *w, uint64_t round, bool final);

/* Queues what was written, what was written in the round before, too, behind the rest
 * (send_order.h), cut into batches; waits while too many are queued. 0, or -ECANCELED after a
 * failure or page_workers_cancel(). */
int page_workers_queue(struct page_workers *w, const struct change_set *changes);

/* Until nobody works: all was read and its frames are queued in the connection, or passed over.
 * The same errors. */
int page_workers_wait(struct page_workers *w);

/* All of the round has arrived at the other end. */
void page_workers_arrived(struct page_workers *w);

/* Any thread. What is queued is passed over, now and later. Whoever waits in a connection must be
 * freed by its failure. */
void page_workers_cancel(struct page_workers *w);

/* Any thread. The codec that is used now, or the best so far where one is chosen: "none", ... */
const char *page_workers_codec(struct page_workers *w);

/* Any thread. Of the round that runs or ran last, and of all rounds; either may be NULL. */
void page_workers_sums(
	struct page_workers *w, struct page_sums *ret_round, struct page_sums *ret_all);

/* The driver's: ends the threads, which pass over what is queued. The sums remain. */
void page_workers_end(struct page_workers *w);

/* Ends them too. NULL is fine. */
void page_workers_free(struct page_workers *w);
DEFINE_GUARD(struct page_workers, page_workers_free)

#endif
