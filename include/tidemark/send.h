/* SPDX-License-Identifier: MIT */
/*
 * Sending a live process's memory while it runs. The caller owns the loop; nothing here blocks it,
 * and every callback comes on its thread.
 *
 *     tide_process_source_open(pid, NULL, &source, &err);
 *     tide_send_start(loop, source, &address, &options, &callbacks, arg, &send, &err);
 *     uv_run(loop, UV_RUN_DEFAULT);
 */
#ifndef TIDEMARK_SEND_H
#define TIDEMARK_SEND_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>
#include "tidemark/address.h"
#include "tidemark/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is sent: today a live process. Belongs to who opened it until it is handed to
 * tide_send_start(). */
struct tide_source;

/* All zero means the defaults. Strings are copied. */
struct tide_process_source_options {
	const char *backend; /* how writes are tracked: NULL: "auto"; "uffd-wp", "soft-dirty" */
	const char *purpose; /* names the caller to whoever else wants to follow the process
				meanwhile; NULL: the program's name */
	/* Devices may write memory of a process without its page tables showing it, and some of
	 * that cannot be found: such a process is not followed. If set it is, and in the freeze all
	 * of its memory is compared with what was sent, which takes longer. */
	int verify_writes;
};

/*
 * Begins to follow a process; `options` may be NULL. The process is prepared (a userfaultfd is made
 * in it, which takes it about 20 microseconds), not stopped. Errors, by kind: TARGET_GONE no such
 * process; UNSUPPORTED not ours, traced by somebody else, followed already, written by devices past
 * its page tables, a kernel thread, or this kernel cannot; USAGE an unknown backend.
 */
TIDE_API int tide_process_source_open(pid_t pid, const struct tide_process_source_options *options,
	struct tide_source **ret, struct tide_error *err);

/* Lets go without a trace. NULL is fine. */
TIDE_API void tide_source_close(struct tide_source *source);

/* What becomes of the process once everything is held at the other end. */
enum tide_after {
	TIDE_AFTER_RUN = 0, /* it goes on as if nobody had looked */
	TIDE_AFTER_STOP =
		1, /* it is stopped, as by SIGSTOP, without having run one instruction more */
	TIDE_AFTER_KILL = 2,
};

/* What to do where a process writes faster than its pages are sent: the rounds stop shrinking, or
 * there were max_rounds of them, and what is left still does not fit in max_downtime. */
enum tide_if_diverging {
	TIDE_DIVERGING_FREEZE = 0, /* it is frozen all the same, for longer */
	/* It is slowed, by 20 percent of its processor time and then harder, up to 99, until the
	 * rounds shrink. It is let go of before the freeze, and whatever happens to us. Where it
	 * cannot be slowed, where that does not help, and after max_rounds, it is frozen. */
	TIDE_DIVERGING_THROTTLE = 1,
	TIDE_DIVERGING_ABORT = 2, /* it goes on, and the send fails (code -ECANCELED) */
};

/* All zero means the defaults. Strings are copied. */
struct tide_send_options {
	const char *name;  /* of the image, at an agent; needed there */
	const char *codec; /* NULL: "auto", by what is measured; "none", "lz4", "zstd" */
	enum tide_after after;
	unsigned threads;         /* that read and compress; 0: one a processor */
	unsigned streams;         /* connections to the agent, at most 64; 0: 1 */
	uint64_t max_downtime_ns; /* freeze once what is left takes this long; 0: 100 ms */
	uint64_t max_rounds;      /* ... or after this many; 0: 30 */
	enum tide_if_diverging if_diverging;
	uint64_t max_bytes_per_second; /* on the wire, evenly, but not in the freeze; 0: no limit */
	uint64_t freeze_timeout_ns; /* a freeze that takes longer is given up, and the send with it;
				       0: 1 s */
	uint64_t timeout_ns;        /* a peer that is silent for this long is dead; 0: 30 s */
	const char *key_file;       /* that a TCP agent wants; NULL: found by itself on loopback */
	int insecure_no_auth;       /* send to an agent that asks for no key */
	uint64_t delta_cache_bytes; /* memory for pages that are written often, of which only what
				       changed is sent to an agent; 0: 64 MiB */
	int no_delta;               /* keep none, send pages whole */
};

/* A round that the other end has acknowledged. */
struct tide_send_round {
	uint64_t number;
	int final;         /* sent in the freeze */
	uint64_t pages;    /* sent */
	const char *codec; /* that it ended with: "none", "lz4", "zstd" */
	uint64_t dropped_pages;
	uint64_t reread_pages;    /* not seen to be written, but nothing shows that they were not:
				     read, and sent where they had changed */
	uint64_t unchanged_pages; /* read and not sent: the other end has them as they are */
	uint64_t wire_bytes;
	uint64_t duration_ns; /* from the beginning of its collect to its acknowledgement */
	uint64_t interval_ns; /* between its collect and the one before; 0 for the first */
	double dirty_bytes_per_second; /* unique pages written in that interval; 0 for the first */
	uint64_t remaining_ns; /* expected to the end of the freeze; 0: no end is in sight, or final
				*/
	unsigned throttle_percent; /* that the process was slowed by in this round; 0: it was not */
	char why[512];             /* why it went on, or did not; and what is to be known of it */
};

/* Pages that went in one form. */
struct tide_send_form {
	uint64_t pages;
	uint64_t saved_bytes; /* of those that the pages have */
};

struct tide_send_result {
	uint8_t id[16]; /* of the image */
	uint64_t rounds;
	uint64_t total_ns;
	uint64_t downtime_ns; /* from the first thread's stop to the last one's release */
	uint64_t pages_sent;
	struct tide_send_form raw, zero, lz4, zstd, delta; /* the forms of those */
	uint64_t unchanged_pages;                          /* read and not sent, over all rounds */
	uint64_t held_pages;                               /* of the process in the end */
	uint64_t page_bytes;
	uint64_t wire_bytes;
	uint64_t stored_bytes;     /* as the agent says; 0 for a recording */
	uint64_t threads;          /* of the process */
	unsigned throttle_percent; /* that the process was slowed by, at most */
};

/* How far the running round is. */
struct tide_send_progress {
	uint64_t round;
	int frozen; /* whoever prints now may print to the frozen process: better not */
	uint64_t round_pages, round_pages_done;
	uint64_t round_started_ns; /* CLOCK_MONOTONIC */
	uint64_t pages_sent, wire_bytes;
};

struct tide_send_callbacks {
	/* None comes while the process is frozen. May be NULL. */
	void (*round)(void *arg, const struct tide_send_round *round);
	/*
	 * The end, once: `err` is NULL and everything is held, or it says what went wrong (code
	 * -ECANCELED and "interrupted" after tide_send_cancel()) and the process goes on unharmed.
	 * tide_send_free() may be called from here on.
	 */
	void (*done)(
		void *arg, const struct tide_send_result *result, const struct tide_error *err);
};

struct tide_send;

/*
 * Connects to the address (an agent behind tcp or unix; a file that is created; standard output)
 * and sends. Takes over `source`, also on failure. A program that uses it ignores SIGPIPE. 0, or
 * -EINVAL (USAGE), -ENOMEM, what opening the file says; `done` does not come then.
 */
TIDE_API int tide_send_start(uv_loop_t *loop, struct tide_source *source,
	const struct tide_address *address, const struct tide_send_options *options,
	const struct tide_send_callbacks *callbacks, void *arg, struct tide_send **ret,
	struct tide_error *err);

/* Lets go of the process and ends: `done` follows. Loop thread. */
TIDE_API void tide_send_cancel(struct tide_send *send);

TIDE_API void tide_send_progress(struct tide_send *send, struct tide_send_progress *ret);

/* Only after `done`. NULL is fine. */
TIDE_API void tide_send_free(struct tide_send *send);

#ifdef __cplusplus
}
#endif
#endif
