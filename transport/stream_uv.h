/* SPDX-License-Identifier: MIT */
/* Byte streams over libuv's own: TCP, unix sockets, pipes. For connecting, listening and opening;
 * others use byte_stream.h. */
#ifndef TRANSPORT_STREAM_UV_H
#define TRANSPORT_STREAM_UV_H

#include <stdbool.h>
#include <uv.h>
#include "transport/byte_stream.h"

enum stream_uv_kind {
	STREAM_UV_TCP,
	STREAM_UV_UNIX,
	STREAM_UV_PIPE, /* any descriptor that can be polled and is not a socket */
};

struct stream_uv {
	struct byte_stream base;
	union {
		uv_handle_t handle;
		uv_stream_t stream;
		uv_tcp_t tcp;
		uv_pipe_t pipe;
	} uv;
	enum stream_uv_kind kind;
	int saved_flags; /* of a shared descriptor, given back at close; -1: nothing to give back */
	bool closing;

	byte_stream_space_fn space;
	byte_stream_read_fn read;
	void *read_arg;
	byte_stream_close_fn closed;
	void *closed_arg;
};

/* An unconnected one: it is closed with byte_stream_close(), whatever becomes of it. 0, -ENOMEM or
 * what the kernel says. */
int stream_uv_new(uv_loop_t *loop, enum stream_uv_kind kind, struct stream_uv **ret);

/*
 * It is connected now: finds out who is there. `name` is what it was reached by, or NULL to name it
 * by its address. 0 or negative errno, e.g. -ECONNREFUSED for a socket that got connected to
 * itself.
 */
int stream_uv_connected(struct stream_uv *s, const char *name);

/* Over an open pipe, FIFO or connected socket, `fd`, which it takes over on success. 0 or negative
 * errno. */
int stream_uv_open(
	uv_loop_t *loop, int fd, bool is_socket, const char *name, struct stream_uv **ret);

#endif
