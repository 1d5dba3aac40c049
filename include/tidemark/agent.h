/* SPDX-License-Identifier: MIT */
/* The receiving end: listens, and keeps what is sent to it as images in a store. The caller owns
 * the loop. */
#ifndef TIDEMARK_AGENT_H
#define TIDEMARK_AGENT_H

#include <stdint.h>
#include <uv.h>
#include "tidemark/address.h"
#include "tidemark/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All zero means the defaults. Strings are copied. */
struct tide_agent_options {
	struct tide_address listen; /* tcp (port 0 picks one) or unix */
	const char *store;          /* the folder; made where it is missing */
	const char *key_file;       /* that TCP clients must hold; NULL: on loopback one is made */
	int insecure_listen;        /* listen beyond loopback */
	int insecure_no_auth;       /* let in whoever comes by TCP */
	uint64_t timeout_ns;        /* a client that is silent for this long is dead; 0: 30 s */
	uint64_t queue_bytes;       /* of each session: received and not stored yet; 0: 32 MiB */
	unsigned clients_max;       /* at a time; others are turned away; 0: 64 */
	unsigned threads; /* of each session: decode and store pages; 0: one a processor */
};

/* The session of a client that was let in, when it has ended. */
struct tide_agent_session {
	const char *peer;
	const char *name; /* of the image; "" where it did not come to that */
	int committed;
	uint64_t stored_bytes; /* of a committed image */
	uint64_t rounds, pages, bytes;
};

struct tide_agent_callbacks {
	/* `err` is NULL where it was committed and ended in order. May be NULL. */
	void (*session_ended)(
		void *arg, const struct tide_agent_session *session, const struct tide_error *err);
	/* Somebody could not be let in: no session ever began. May be NULL. */
	void (*trouble)(void *arg, const struct tide_error *err);
};

struct tide_agent;

/* Listens when it returns. What dead sessions left in the store is removed. */
TIDE_API int tide_agent_start(uv_loop_t *loop, const struct tide_agent_options *options,
	const struct tide_agent_callbacks *callbacks, void *arg, struct tide_agent **ret,
	struct tide_error *err);

/* Where it listens, as a client writes it. */
TIDE_API const char *tide_agent_address(const struct tide_agent *agent);
/* The key file that it made for itself, or NULL. A client of the same user finds it by itself. */
TIDE_API const char *tide_agent_key_path(const struct tide_agent *agent);

/* Lets nobody in any more; sessions that run go on. */
TIDE_API void tide_agent_stop_listening(struct tide_agent *agent);

typedef void (*tide_agent_closed_fn)(void *arg);

/* Ends all sessions, which leave nothing behind and are reported like others, tells their clients,
 * and frees the agent; then `done` is called (it may be NULL). Clients that do not close their end
 * hold it up for 5 s at most. */
TIDE_API void tide_agent_close(struct tide_agent *agent, tide_agent_closed_fn done, void *arg);

#ifdef __cplusplus
}
#endif
#endif
