/* SPDX-License-Identifier: MIT */
/*
 * The agent: listens at an address and stores what senders send. Each sender has a session of its
 * own, with a thread that may wait for the disk; the loop moves bytes between connections and
 * bounded queues. What goes wrong in one session ends that session, and its sender is told.
 *
 * Called on the loop's thread; callbacks come there, never from inside a call of this header.
 */
#ifndef AGENT_AGENT_H
#define AGENT_AGENT_H

#include <stdbool.h>
#include <uv.h>
#include "agent/session.h"
#include "agent/store.h"
#include "tidemark/address.h"
#include "transport/auth.h"

struct agent;

#define AGENT_QUEUE_BYTES ((size_t)32 << 20)
#define AGENT_CLIENTS_MAX 64

/* All zero but for `store` is the default. Copied. */
struct agent_options {
	const char *store;          /* the folder; made where it is missing */
	const struct auth_key *key; /* for TCP; NULL: an agent on loopback makes one for itself */
	bool insecure_listen;       /* TCP beyond this machine */
	bool insecure_no_auth;      /* lets in whoever comes */
	bool once;                  /* ends by itself when a session that was opened has ended */
	unsigned clients_max;       /* at a time; 0: AGENT_CLIENTS_MAX */
	size_t queue_bytes;  /* frames of one session that wait for it; 0: AGENT_QUEUE_BYTES */
	uint64_t timeout_ns; /* after which a silent sender is dead; 0: the connection's */
};

struct agent_session {
	uint64_t number; /* from 1, by arrival */
	char peer[256];
	char name[NAME_MAX_BYTES + 1]; /* "" until it is opened */
	bool is_committed;
	struct committed committed;
	struct session_stats stats;
	uint64_t duration_ns; /* since the handshake */
};

struct agent_callbacks {
	/* A sender named an image, and it is being stored. May be NULL, as the others. */
	void (*opened)(void *arg, const struct agent_session *session);
	/* `err` is NULL where all went well. What was committed stays so, whatever came later. */
	void (*ended)(void *arg, const struct agent_session *session, const struct tide_error *err);
	/* Somebody could not be let in. */
	void (*refused)(void *arg, const struct tide_error *err);
	/* Everything is closed; agent_free() may follow. After agent_stop(), or `once`. */
	void (*stopped)(void *arg);
};

/*
 * Opens the store, clears it of what dead writers left, and listens when it returns. What
 * store_open() and listener_open() say, and -ECANCELED (kind USAGE) for an address beyond this
 * machine without a key.
 */
int agent_start(uv_loop_t *loop, const struct tide_address *address,
	const struct agent_options *options, const struct agent_callbacks *callbacks, void *arg,
	struct agent **ret, struct tide_error *err);

/* Where it really listens. */
const struct tide_address *agent_address(const struct agent *a);

/* The file of the key that it made for itself, or NULL. */
const char *agent_key_path(const struct agent *a);

/* Images that dead writers had left half-written, and that were cleared. */
size_t agent_swept(const struct agent *a);

/* Ends all sessions, tells their senders, and then calls `stopped`. Once or more. */
void agent_stop(struct agent *a);

/* Only when it has stopped. NULL is fine. */
void agent_free(struct agent *a);

#endif
