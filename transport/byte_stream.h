/* SPDX-License-Identifier: MIT */
/*
 * The seam under the frames: bytes in, bytes out, close. TCP, unix sockets, pipes, files and (in tests) memory implement it;
 * TLS can slip in between by implementing it over another one.
 *
 * Everything here is called on the loop's thread and calls back there, never from inside the call itself.
 */
#ifndef TRANSPORT_BYTE_STREAM_H
#define TRANSPORT_BYTE_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <uv.h>
#include "tidemark/error.h"

struct byte_stream;

/* Asks where to put the next bytes; sets *ret_bytes to 0 to refuse (the stream then fails with -ENOBUFS). */
typedef void (*byte_stream_space_fn)(void *arg, uint8_t **ret, size_t *ret_bytes);
/* `bytes` > 0: they lie where space said. 0: the end of the stream. < 0: negative errno, nothing more comes. */
typedef void (*byte_stream_read_fn)(void *arg, ssize_t bytes);
/* `status`: 0 or negative errno. The buffers are free again. */
typedef void (*byte_stream_write_fn)(void *arg, int status);
typedef void (*byte_stream_close_fn)(void *arg);

struct byte_stream_ops {
	int (*read_start)(struct byte_stream *s, byte_stream_space_fn space, byte_stream_read_fn read, void *arg);
	void (*read_stop)(struct byte_stream *s);
	/* Whole buffers, in the order of the calls. They stay the caller's and must stay valid until `done`. At most
	 * BYTE_STREAM_BUFS of them. */
	int (*write)(struct byte_stream *s, const uv_buf_t *bufs, unsigned nbufs, byte_stream_write_fn done, void *arg);
	/* Pending writes are called back with -ECANCELED first; a file is fsynced on request only. The stream is freed after `done`. */
	void (*close)(struct byte_stream *s, byte_stream_close_fn done, void *arg);
	/* Everything written so far is on its way (sockets) or on the disk (files: fsync). */
	int (*flush)(struct byte_stream *s, byte_stream_write_fn done, void *arg);
};

#define BYTE_STREAM_BUFS 8

/* What is known of the other end, for authentication and messages. */
struct byte_stream_peer {
	char name[256];    /* "tcp://127.0.0.1:4711", "unix:/run/x", "file /tmp/y", "standard output" */
	int has_uid;       /* a unix socket: SO_PEERCRED */
	uint32_t uid;
	int is_loopback;   /* TCP from and to this machine */
	int is_two_way;    /* answers can come back */
};

struct byte_stream {
	const struct byte_stream_ops *ops;
	struct byte_stream_peer peer;
};

#endif
