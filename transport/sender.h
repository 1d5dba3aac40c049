/* SPDX-License-Identifier: MIT */
/*
 * Sends a page source over a connection: rounds while it runs, the freeze, the last round, the
 * state, the commit.
 *
 * Threads: a driver runs the rounds from first to last, as one blocking story; workers
 * (page_workers.h) read and encode batches side by side; the loop moves the frames. What the peer
 * answers reaches the driver through a mailbox, what the driver reports reaches the caller on the
 * loop's thread.
 */
#ifndef TRANSPORT_SENDER_H
#define TRANSPORT_SENDER_H

#include <uv.h>
#include "proto/batch.h"
#include "proto/message.h"
#include "proto/page_source.h"
#include "transport/connection.h"
#include "transport/convergence.h"

struct sender;

struct sender_options {
	const char *name; /* of the image; two-way connections only */
	enum sink_kind sink;
	const struct codec *codec; /* NULL: none */
	uint64_t choose_from;      /* features of codecs, of which the best is found while it runs;
				      0: always `codec` */
	unsigned threads;          /* workers, at least 1 */
	uint64_t max_downtime_ns;
	uint64_t max_rounds;        /* while the process runs, at least 1 */
	uint64_t freeze_timeout_ns; /* a freeze that takes longer is given up, and the send with it
				     */
	struct frame_limits limits; /* that the peer agreed to */
	enum thaw_mode after;       /* once everything is held at the other end */
	uint64_t hash_bytes_max;    /* for hashes of pages that need not travel again; 0: 256 MiB,
				       which is enough for 60 GiB of memory that is compared */
	uint64_t delta_cache_bytes; /* for pages whose changes alone travel; 0: none do. The peer
				       must know FEATURE_DELTA. */
	uint64_t max_bytes_per_second; /* on the wire, while the process runs; 0: no limit */
	enum if_diverging if_diverging;
	bool compare_all; /* written pages do not travel either where they hold what they held */
};

/* Leaves out what the peer does not know: a codec gives way to LZ4, or to none. */
void sender_options_agree(struct sender_options *options, const struct agreement *agreement);

struct sender_round {
	struct round_record record;
	bool final;
	double dirty_bytes_per_second;
	uint64_t remaining_ns;     /* to the end of the freeze; 0: no end is in sight, or final */
	unsigned throttle_percent; /* that the process was slowed by in this round */
	char note[160];            /* from the source, or "" */
	const char *codec;         /* that it ended with: "none", ... */
	char why[CONVERGENCE_WHY]; /* why it went on, or did not */
};

struct sender_result {
	uint64_t rounds;
	uint64_t total_ns;
	uint64_t downtime_ns;
	uint64_t pages_sent;
	uint64_t unchanged_pages; /* read, and not sent: over all rounds */
	uint64_t held_pages;      /* of the process in the end */
	uint64_t page_bytes;
	uint64_t wire_bytes;
	uint64_t stored_bytes;     /* as the agent says; 0 for a recording */
	size_t nthreads;           /* of the process */
	unsigned throttle_percent; /* that the process was slowed by, at most */
	bool fits;                 /* the freeze was foreseen to keep to max_downtime */
	struct batch_stats stats;
	uint8_t stream_id[ID_BYTES];
};

/* How far the running round is. */
struct sender_progress {
	uint64_t round;
	bool frozen;
	uint64_t round_pages, round_pages_done; /* with those that need not travel */
	uint64_t wire_bytes;
	uint64_t pages_sent;
	uint64_t round_started_ns; /* CLOCK_MONOTONIC */
};

struct sender_callbacks {
	void (*round)(void *arg, const struct sender_round *round);
	/* The end, once: `err` NULL and everything is held, or what went wrong (-ECANCELED after
	 * sender_cancel()) and the process was let go unharmed. The sender may be freed from here
	 * on. */
	void (*done)(void *arg, const struct sender_result *result, const struct tide_error *err);
};

/*
 * Takes over `source` and the connections (connected, handshake done), also on failure. More than
 * one: to the same agent, which knows FEATURE_STREAMS; the session is opened on the first, the
 * others join it. `options` is copied; its codec must be known to the peer. Call on the loop's
 * thread.
 */
int sender_start(uv_loop_t *loop, struct connection *const *conns, unsigned nconns,
	struct page_source *source, const struct sender_options *options,
	const struct sender_callbacks *callbacks, void *arg, struct sender **ret,
	struct tide_error *err);

/* Lets go of the process and ends; done follows. Safe to call at any time until sender_free(). */
void sender_cancel(struct sender *s);

/* Only after done. */
void sender_free(struct sender *s);

/* Any thread. */
void sender_progress(struct sender *s, struct sender_progress *ret);

#endif
