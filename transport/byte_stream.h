/* SPDX-License-Identifier: MIT */
/*
 * The seam under the frames: bytes in, bytes out, close. TCP, unix sockets, pipes, files and (in
 * tests) memory implement it; TLS can slip in between by implementing it over another one.
 *
 * Everything here is called on the loop's thread and calls back there, never from inside the call
 * itself.
 */
#ifndef TRANSPORT_BYTE_STREAM_H
#define TRANSPORT_BYTE_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <uv.h>
#include "tidemark/address.h"
#include "tidemark/error.h"

struct byte_stream;

/*
 * Asks where to put the next bytes; sets *ret_bytes to 0 to refuse (the stream then fails with
 * -ENOBUFS). The space stays given, also over a read_stop, until `read` comes or the stream is
 * closed.
 */
typedef void (*byte_stream_space_fn)(void *arg, uint8_t **ret, size_t *ret_bytes);
/* `bytes` > 0: they lie where space said. 0: the end of the stream. < 0: negative errno, nothing
 * more comes. */
typedef void (*byte_stream_read_fn)(void *arg, ssize_t bytes);
/* `status`: 0 or negative errno. The buffers are free again. */
typedef void (*byte_stream_write_fn)(void *arg, int status);
typedef void (*byte_stream_close_fn)(void *arg);

struct byte_stream_ops {
	/* 0, or negative errno where it cannot be read at all. Not while it is started already. */
	int (*read_start)(struct byte_stream *s, byte_stream_space_fn space,
		byte_stream_read_fn read, void *arg);
	/* `read` does not come any more until read_start(), also where bytes are on their way. */
	void (*read_stop)(struct byte_stream *s);
	/* Whole buffers, in the order of the calls. They stay the caller's and must stay valid
	 * until `done`. At most BYTE_STREAM_BUFS of them; the array itself is copied. */
	int (*write)(struct byte_stream *s, const uv_buf_t *bufs, unsigned nbufs,
		byte_stream_write_fn done, void *arg);
	/* Bytes of the writes so far that are still ours: not with the kernel yet. Tells a peer
	 * that takes what it is sent from one that does not. */
	size_t (*pending_bytes)(const struct byte_stream *s);
	/* Everything written so far is on its way (sockets) or on the disk (files: fsync). */
	int (*flush)(struct byte_stream *s, byte_stream_write_fn done, void *arg);
	/* The orderly end of writing, behind everything written so far: the peer reads the end of
	 * the stream; a file that was created is synced and gets its name. Nothing is written
	 * afterwards; reading goes on. Once. */
	int (*shutdown)(struct byte_stream *s, byte_stream_write_fn done, void *arg);
	/* Pending writes are called back with -ECANCELED first; a file that was created and not
	 * shut down is removed. The stream is freed before `done`, which may be NULL. */
	void (*close)(struct byte_stream *s, byte_stream_close_fn done, void *arg);
};

#define BYTE_STREAM_BUFS 8

/* What is known of the other end, for authentication and messages. */
struct byte_stream_peer {
	char name[256]; /* "tcp://127.0.0.1:4711", "unix:/run/x", "file /tmp/y", "standard output"
			 */
	int has_uid;    /* a unix socket: SO_PEERCRED */
	uint32_t uid;
	int is_loopback; /* TCP from and to this machine */
	uint16_t port;   /* TCP: the peer's; else 0 */
	int is_two_way;  /* answers can come back */
};

struct byte_stream {
	const struct byte_stream_ops *ops;
	struct byte_stream_peer peer;
};

static inline void byte_stream_close(struct byte_stream *s, byte_stream_close_fn done, void *arg)
{
	s->ops->close(s, done, arg);
}

/*
 * Writing to a socket or pipe whose reader is gone raises SIGPIPE where it is not ignored: a
 * program that uses what follows ignores it.
 */

/* `s` is the callee's, or NULL with `err`, whose words name the address. */
typedef void (*byte_stream_open_fn)(void *arg, struct byte_stream *s, const struct tide_error *err);

/* A connection attempt under way; gone when its callback returns. */
struct byte_stream_attempt;

/*
 * Connects to a TCP or unix address. The addresses of a name are tried in turn; `timeout_ns` is for
 * all of it. `done` comes once unless this fails: 0, -EINVAL for another kind of address or port 0,
 * -ENOMEM. `ret` may be NULL.
 */
int byte_stream_connect(uv_loop_t *loop, const struct tide_address *address, uint64_t timeout_ns,
	byte_stream_open_fn done, void *arg, struct byte_stream_attempt **ret,
	struct tide_error *err);
/* Gives up: `done` comes, later, with -ECANCELED. */
void byte_stream_connect_cancel(struct byte_stream_attempt *a);

enum byte_stream_mode {
	BYTE_STREAM_READ = 1,
	/*
	 * A regular file is created, 0600, under a temporary name beside its own, which it gets at
	 * shutdown(); an existing one is refused with -EEXIST. A FIFO or a device is written to as
	 * it is.
	 */
	BYTE_STREAM_WRITE = 2,
};

/*
 * Opens a file or a FIFO, or standard input or output by `mode`, for an address of kind FILE or
 * STANDARD. A terminal is refused. Pipes become non-blocking without that showing in other programs
 * that have them.
 */
int byte_stream_open(uv_loop_t *loop, const struct tide_address *address,
	enum byte_stream_mode mode, struct byte_stream **ret, struct tide_error *err);

/*
 * Two streams that are each other's other end, `capacity_bytes` of room each way, for tests. At
 * most `step_bytes` move at a time (0: any number).
 */
int byte_stream_memory_pair(
	uv_loop_t *loop, size_t capacity_bytes, size_t step_bytes, struct byte_stream *ret[2]);

#endif
