/* SPDX-License-Identifier: MIT */
/*
 * The beginning of a session, on top of a connection, for both sides:
 *
 *   client → agent   HELLO
 *   agent  → client  HELLO, or ERROR
 *   client → agent   AUTH      only where the agent wants a key
 *   agent  → client  AUTH
 *
 * Until it is done the peer may send frames of a few KiB only. PING and PONG are the connection's.
 */
#ifndef TRANSPORT_HANDSHAKE_H
#define TRANSPORT_HANDSHAKE_H

#include "proto/message.h"
#include "transport/auth.h"
#include "transport/connection.h"

/* All zero is the strictest. Copied. */
struct handshake_options {
	/*
	 * The key for TCP, or NULL. A client without one looks for the key that an agent of the
	 * same user made, where the peer is on this machine's loopback.
	 */
	const struct auth_key *key;
	/*
	 * Agent: lets in whoever comes, where there is no key. Client: sends to an agent that asks
	 * for none, and to a unix socket of another user.
	 */
	bool insecure_no_auth;
	uint64_t features;   /* to offer; 0: FEATURES_KNOWN */
	uint64_t timeout_ns; /* for all of it; 0: CONNECTION_TIMEOUT_NS */
};

struct handshake_result {
	struct hello peer; /* what it said of itself */
	struct agreement agreement;
};

/*
 * `err` is NULL on success: the limits are agreed, reading is paused, and the connection is to get
 * its handler, now or later, and then connection_resume(). On failure the peer has been told (where
 * it is one of ours, and not the one who said so) and the connection is to be closed. `c` stays its
 * owner's in either case.
 */
typedef void (*handshake_fn)(void *arg, struct connection *c, const struct handshake_result *result,
	const struct tide_error *err);

/*
 * Take the place of the connection's handler. `done` comes once, later, unless the connection is
 * closed or gets another handler before. 0 or -ENOMEM, or what keeps it from beginning.
 */
int handshake_client_start(struct connection *c, const struct handshake_options *options,
	handshake_fn done, void *arg, struct tide_error *err);
int handshake_agent_start(struct connection *c, const struct handshake_options *options,
	handshake_fn done, void *arg, struct tide_error *err);

/* Makes an error of a peer's ERROR frame: "the agent at tcp://... says: no space left". Returns
 * -ECANCELED, or -EBADMSG where the frame itself is wrong. `who`: "agent" or "client". */
int handshake_peer_error(const struct connection *c, const char *who, const struct frame *frame,
	struct tide_error *err);

#endif
