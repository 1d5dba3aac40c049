/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "base/guard.h"
#include "transport/address.h"
#include "transport/stream_uv.h"

struct write_request {
	union {
		uv_write_t write;
		uv_shutdown_t shutdown;
	} uv;
	byte_stream_write_fn done;
	void *arg;
};

static struct stream_uv *stream_of(const struct byte_stream *s)
{
	return (struct stream_uv *)s;
}

/* libuv's errors are negative errnos, with the end of the stream and a few of getaddrinfo's beside.
 */
static void on_space(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
	struct stream_uv *s = handle->data;
	uint8_t *space = NULL;
	size_t bytes = 0;
	s->space(s->read_arg, &space, &bytes);
	ret->base = (char *)space;
	ret->len = bytes;
}

static void on_read(uv_stream_t *stream, ssize_t bytes, const uv_buf_t *buf)
{
	struct stream_uv *s = stream->data;
	if (bytes == 0) /* nothing there after all; libuv tries again */
		return;
	if (bytes < 0)
		uv_read_stop(stream);
	s->read(s->read_arg, bytes == UV_EOF ? 0 : bytes);
}

static int stream_uv_read_start(
	struct byte_stream *base, byte_stream_space_fn space, byte_stream_read_fn read, void *arg)
{
	struct stream_uv *s = stream_of(base);
	s->space = space;
	s->read = read;
	s->read_arg = arg;
	return uv_read_start(&s->uv.stream, on_space, on_read);
}

static void stream_uv_read_stop(struct byte_stream *base)
{
	uv_read_stop(&stream_of(base)->uv.stream);
}

static void on_written(uv_write_t *write, int status)
{
	struct write_request *r = write->data;
	byte_stream_write_fn done = r->done;
	void *arg = r->arg;
	free(r);
	done(arg, status);
}

static int stream_uv_write(struct byte_stream *base, const uv_buf_t *bufs, unsigned nbufs,
	byte_stream_write_fn done, void *arg)
{
	struct stream_uv *s = stream_of(base);
	auto_free struct write_request *r = malloc(sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->done = done;
	r->arg = arg;
	r->uv.write.data = r;

	int error = uv_write(&r->uv.write, &s->uv.stream, bufs, nbufs, on_written);
	if (error < 0)
		return error;
	take(r);
	return 0;
}

static size_t stream_uv_pending_bytes(const struct byte_stream *base)
{
	return uv_stream_get_write_queue_size(&stream_of(base)->uv.stream);
}

/* An empty write comes back when all before it have been handed over. */
static int stream_uv_flush(struct byte_stream *base, byte_stream_write_fn done, void *arg)
{
	static char nothing;
	uv_buf_t empty = uv_buf_init(&nothing, 0);
	return stream_uv_write(base, &empty, 1, done, arg);
}

static void on_shutdown(uv_shutdown_t *shutdown, int status)
{
	struct write_request *r = shutdown->data;
	byte_stream_write_fn done = r->done;
	void *arg = r->arg;
	free(r);
	/* The peer may have gone first. It has nothing left to read the end by, and what was
	 * written before told its own fate. */
	done(arg, status == UV_ENOTCONN ? 0 : status);
}

static int stream_uv_shutdown(struct byte_stream *base, byte_stream_write_fn done, void *arg)
{
	struct stream_uv *s = stream_of(base);
	/* A pipe has no half to close; its reader sees the end when it is closed. */
	if (s->kind == STREAM_UV_PIPE)
		return stream_uv_flush(base, done, arg);

	auto_free struct write_request *r = malloc(sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->done = done;
	r->arg = arg;
	r->uv.shutdown.data = r;
	int error = uv_shutdown(&r->uv.shutdown, &s->uv.stream, on_shutdown);
	if (error < 0)
		return error;
	take(r);
	return 0;
}

static void on_closed(uv_handle_t *handle)
{
	struct stream_uv *s = handle->data;
	byte_stream_close_fn closed = s->closed;
	void *arg = s->closed_arg;
	free(s);
	if (closed)
		closed(arg);
}

static void stream_uv_close(struct byte_stream *base, byte_stream_close_fn done, void *arg)
{
	struct stream_uv *s = stream_of(base);
	s->closed = done;
	s->closed_arg = arg;

	uv_os_fd_t fd;
	if (s->saved_flags >= 0 && uv_fileno(&s->uv.handle, &fd) == 0)
		fcntl(fd, F_SETFL, s->saved_flags);
	uv_close(&s->uv.handle, on_closed);
}

static const struct byte_stream_ops stream_uv_ops = {
	.read_start = stream_uv_read_start,
	.read_stop = stream_uv_read_stop,
	.write = stream_uv_write,
	.pending_bytes = stream_uv_pending_bytes,
	.flush = stream_uv_flush,
	.shutdown = stream_uv_shutdown,
	.close = stream_uv_close,
};

int stream_uv_new(uv_loop_t *loop, enum stream_uv_kind kind, struct stream_uv **ret)
{
	auto_free struct stream_uv *s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->base.ops = &stream_uv_ops;
	s->kind = kind;
	s->saved_flags = -1;

	int r = kind == STREAM_UV_TCP ? uv_tcp_init(loop, &s->uv.tcp)
				      : uv_pipe_init(loop, &s->uv.pipe, 0);
	if (r < 0)
		return r;
	s->uv.handle.data = s;
	*ret = take(s);
	return 0;
}

static int learn_tcp_peer(struct stream_uv *s, const char *name)
{
	struct sockaddr_storage peer = {0}, self = {0};
	int peer_bytes = sizeof(peer), self_bytes = sizeof(self);
	int r = uv_tcp_getpeername(&s->uv.tcp, (struct sockaddr *)&peer, &peer_bytes);
	if (r == 0)
		r = uv_tcp_getsockname(&s->uv.tcp, (struct sockaddr *)&self, &self_bytes);
	if (r < 0)
		return r;

	/*
	 * Connecting to a port of this machine that nobody listens on can, when the kernel picks
	 * that very port for our end, connect the socket to itself. We would then talk to
	 * ourselves.
	 */
	if (peer_bytes == self_bytes && memcmp(&peer, &self, (size_t)peer_bytes) == 0)
		return -ECONNREFUSED;

	struct tide_address address;
	r = address_from_sockaddr((struct sockaddr *)&peer, &address);
	if (r < 0)
		return r;
	char text[TIDE_ADDRESS_TEXT];
	snprintf(s->base.peer.name, sizeof(s->base.peer.name), "%s",
		name ? name : tide_address_format(&address, text));
	s->base.peer.port = address.port;
	s->base.peer.is_loopback = sockaddr_is_loopback((struct sockaddr *)&peer) &&
				   sockaddr_is_loopback((struct sockaddr *)&self);

	/* Acknowledgements are small, and somebody waits for each. */
	return uv_tcp_nodelay(&s->uv.tcp, 1);
}

static int learn_unix_peer(struct stream_uv *s, const char *name)
{
	uv_os_fd_t fd;
	int r = uv_fileno(&s->uv.handle, &fd);
	if (r < 0)
		return r;
	struct ucred cred;
	socklen_t bytes = sizeof(cred);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &bytes) < 0)
		return -errno;
	s->base.peer.has_uid = 1;
	s->base.peer.uid = cred.uid;
	snprintf(s->base.peer.name, sizeof(s->base.peer.name), "%s", name);
	return 0;
}

int stream_uv_connected(struct stream_uv *s, const char *name)
{
	s->base.peer.is_two_way = 1;
	return s->kind == STREAM_UV_TCP ? learn_tcp_peer(s, name) : learn_unix_peer(s, name);
}

int stream_uv_open(
	uv_loop_t *loop, int fd, bool is_socket, const char *name, struct stream_uv **ret)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return -errno;

	struct stream_uv *s;
	int r = stream_uv_new(loop, is_socket ? STREAM_UV_UNIX : STREAM_UV_PIPE, &s);
	if (r < 0)
		return r;
	r = uv_pipe_open(&s->uv.pipe, fd);
	if (r < 0) {
		byte_stream_close(&s->base, NULL, NULL);
		return r;
	}
	if (!(flags & O_NONBLOCK))
		s->saved_flags = flags;
	snprintf(s->base.peer.name, sizeof(s->base.peer.name), "%s", name);
	*ret = s;
	return 0;
}
