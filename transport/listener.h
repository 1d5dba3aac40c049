/* SPDX-License-Identifier: MIT */
/* Waits on an address and gives a byte stream for everyone who connects. Loop thread only. */
#ifndef TRANSPORT_LISTENER_H
#define TRANSPORT_LISTENER_H

#include <stdbool.h>
#include <uv.h>
#include "tidemark/address.h"
#include "transport/byte_stream.h"

struct listener;

struct listener_options {
	/* TCP beyond loopback is refused without it. */
	bool insecure_listen;
	int backlog; /* 0: 128 */
};

/*
 * Someone came: the stream is the callee's. Or nobody could be let in (out of descriptors, out of
 * memory): `stream` is NULL, `err` says why, and the listener goes on.
 */
typedef void (*listener_accept_fn)(
	void *arg, struct byte_stream *stream, const struct tide_error *err);
typedef void (*listener_close_fn)(void *arg);

/*
 * Listens when it returns. A host name is looked up within the call, and the first address it has
 * is taken. A unix socket's file is 0600 from its birth; one that was left behind is replaced only
 * if nobody answers there. While the socket lives, PATH.lock beside it is held.
 *
 * A failure may leave a handle on the loop that is closing: it is gone when the loop has run.
 *
 * 0; -ECANCELED (kind USAGE) for an address that needs insecure_listen or cannot be listened on;
 * -EADDRINUSE where somebody is there; what bind and listen say.
 */
int listener_open(uv_loop_t *loop, const struct tide_address *address,
	const struct listener_options *options, listener_accept_fn accept, void *arg,
	struct listener **ret, struct tide_error *err);

/* Where it really listens: port and host are those that were bound. */
const struct tide_address *listener_address(const struct listener *l);

/* Lets nobody in any more and removes the socket's file. `done` may be NULL. Streams that were
 * given away are not touched. NULL is fine. */
void listener_close(struct listener *l, listener_close_fn done, void *arg);

#endif
