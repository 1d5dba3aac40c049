/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/error.h"
#include "base/guard.h"
#include "transport/address.h"
#include "transport/listener.h"
#include "transport/stream_uv.h"

#define BACKLOG 128
#define LOCK_SUFFIX ".lock"

struct listener {
	uv_loop_t *loop;
	struct tide_address address;
	listener_accept_fn accept;
	void *arg;
	union {
		uv_handle_t handle;
		uv_stream_t stream;
		uv_tcp_t tcp;
		uv_pipe_t pipe;
	} uv;
	bool has_handle;
	listener_close_fn closed;
	void *closed_arg;

	/* unix sockets */
	int lock_fd; /* -1: not held */
	bool is_bound;
	dev_t dev; /* of the socket's file: another one under its name is not ours to remove */
	ino_t ino;
};

static void lock_path(const struct listener *l, char buf[TIDE_ADDRESS_TEXT])
{
	snprintf(buf, TIDE_ADDRESS_TEXT, "%s" LOCK_SUFFIX, l->address.path);
}

static int unix_sockaddr(const struct listener *l, struct sockaddr_un *ret)
{
	size_t bytes = strlen(l->address.path);
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (bytes >= sizeof(ret->sun_path))
		return -ENAMETOOLONG;
	memcpy(ret->sun_path, l->address.path, bytes);
	return 0;
}

/*
 * Between bind and listen a socket refuses connections as a dead one does. So that two agents that
 * start at once do not take each other for dead, whoever looks or binds holds this lock, and keeps
 * it while it lives.
 */
static int unix_lock(struct listener *l)
{
	char path[TIDE_ADDRESS_TEXT];
	lock_path(l, path);
	for (;;) {
		auto_close int fd =
			open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
		if (fd < 0)
			return -errno;
		if (flock(fd, LOCK_EX | LOCK_NB) < 0)
			return errno == EWOULDBLOCK ? -EADDRINUSE : -errno;

		/* The one before removes the file as it leaves: a lock on what has no name any more
		 * locks nobody out. */
		struct stat held, named;
		if (fstat(fd, &held) < 0)
			return -errno;
		if (lstat(path, &named) == 0 && held.st_dev == named.st_dev &&
			held.st_ino == named.st_ino) {
			l->lock_fd = take_fd(&fd);
			return 0;
		}
	}
}

/* Removes what a dead listener left. -EADDRINUSE where somebody answers, -EEXIST where it is no
 * socket at all. */
static int unix_clear_stale(const struct listener *l)
{
	struct stat st;
	if (lstat(l->address.path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;

	auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	struct sockaddr_un sa;
	int r = unix_sockaddr(l, &sa);
	if (r < 0)
		return r;
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0)
		return -EADDRINUSE;
	switch (errno) {
	case ECONNREFUSED:
		return unlink(l->address.path) < 0 && errno != ENOENT ? -errno : 0;
	case ENOENT:
		return 0;
	case EACCES:
	case EPERM:
		return -errno;
	default: /* too busy to answer, or a socket of another type: alive */
		return -EADDRINUSE;
	}
}

static int unix_bind(struct listener *l)
{
	auto_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* On Linux the file that bind makes has the mode that the socket has before: there is no
	 * moment at which others could connect. */
	if (fchmod(fd, 0600) < 0)
		return -errno;
	struct sockaddr_un sa;
	int r = unix_sockaddr(l, &sa);
	if (r < 0)
		return r;
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return -errno;

	struct stat st;
	if (lstat(l->address.path, &st) < 0)
		return -errno;
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	l->is_bound = true;

	r = uv_pipe_open(&l->uv.pipe, fd);
	if (r == 0)
		take_fd(&fd);
	return r;
}

static int listen_unix(struct listener *l, struct tide_error *err)
{
	uv_pipe_init(l->loop, &l->uv.pipe, 0); /* cannot fail */
	l->has_handle = true;
	int r = unix_lock(l);
	if (r == 0)
		r = unix_clear_stale(l);
	if (r == 0)
		r = unix_bind(l);
	return r < 0 ? tide_fail_kind(
			       err, TIDE_ERROR_FAILED, r, "listen on unix:%s", l->address.path)
		     : 0;
}

static void unix_remove(struct listener *l)
{
	struct stat st;
	if (l->is_bound && lstat(l->address.path, &st) == 0 && st.st_dev == l->dev &&
		st.st_ino == l->ino)
		unlink(l->address.path);
	if (l->lock_fd < 0)
		return;
	char path[TIDE_ADDRESS_TEXT];
	lock_path(l, path);
	unlink(path);
	close(take_fd(&l->lock_fd));
}

/* The first address that the host has. 0 or one of libuv's errors. */
static int tcp_lookup(struct listener *l, struct sockaddr_storage *ret)
{
	char port[8];
	snprintf(port, sizeof(port), "%u", l->address.port);
	struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_PASSIVE};
	uv_getaddrinfo_t lookup;
	int r = uv_getaddrinfo(l->loop, &lookup, NULL, l->address.host, port, &hints);
	if (r < 0)
		return r;
	*ret = (struct sockaddr_storage){0};
	memcpy(ret, lookup.addrinfo->ai_addr, lookup.addrinfo->ai_addrlen);
	uv_freeaddrinfo(lookup.addrinfo);
	return 0;
}

static int listen_tcp(struct listener *l, bool insecure, const char *name, struct tide_error *err)
{
	struct sockaddr_storage sa;
	int r = tcp_lookup(l, &sa);
	if (r < 0)
		return tide_say(
			err, "listen on %.200s: the host is not found (%s)", name, uv_strerror(r));
	if (!insecure && !sockaddr_is_loopback((struct sockaddr *)&sa))
		return tide_fail_kind(err, TIDE_ERROR_USAGE, -ECANCELED,
			"listen on %.200s: other machines could connect there, which "
			"--insecure-listen allows",
			name);

	r = uv_tcp_init(l->loop, &l->uv.tcp);
	if (r < 0)
		return tide_fail(err, r, "listen on %.200s", name);
	l->has_handle = true;
	r = uv_tcp_bind(&l->uv.tcp, (struct sockaddr *)&sa, 0);
	return r < 0 ? tide_fail_kind(err, TIDE_ERROR_FAILED, r, "listen on %.200s", name) : 0;
}

static int learn_tcp_address(struct listener *l)
{
	struct sockaddr_storage sa = {0};
	int bytes = sizeof(sa);
	int r = uv_tcp_getsockname(&l->uv.tcp, (struct sockaddr *)&sa, &bytes);
	return r < 0 ? r : address_from_sockaddr((struct sockaddr *)&sa, &l->address);
}

static int accept_one(struct listener *l, struct stream_uv **ret)
{
	bool is_tcp = l->address.kind == TIDE_ADDRESS_TCP;
	struct stream_uv *s;
	int r = stream_uv_new(l->loop, is_tcp ? STREAM_UV_TCP : STREAM_UV_UNIX, &s);
	if (r < 0)
		return r;
	r = uv_accept(&l->uv.stream, &s->uv.stream);
	char name[TIDE_ADDRESS_TEXT];
	if (r == 0)
		r = stream_uv_connected(s, is_tcp ? NULL : tide_address_format(&l->address, name));
	if (r < 0) {
		byte_stream_close(&s->base, NULL, NULL);
		return r;
	}
	*ret = s;
	return 0;
}

static void on_connection(uv_stream_t *server, int status)
{
	struct listener *l = server->data;
	struct stream_uv *s = NULL;
	if (status == 0)
		status = accept_one(l, &s);
	if (status == 0) {
		l->accept(l->arg, &s->base, NULL);
		return;
	}
	char name[TIDE_ADDRESS_TEXT];
	struct tide_error err = {0};
	tide_fail_kind(&err, TIDE_ERROR_FAILED, status, "let in a connection to %.400s",
		tide_address_format(&l->address, name));
	l->accept(l->arg, NULL, &err);
}

int listener_open(uv_loop_t *loop, const struct tide_address *address,
	const struct listener_options *options, listener_accept_fn accept, void *arg,
	struct listener **ret, struct tide_error *err)
{
	char name[TIDE_ADDRESS_TEXT];
	tide_address_format(address, name);
	if (!address_is_socket(address))
		return tide_fail_kind(err, TIDE_ERROR_USAGE, -ECANCELED,
			"listen on '%.200s': it is neither tcp://HOST:PORT nor unix:PATH", name);

	struct listener *l = calloc(1, sizeof(*l));
	if (!l)
		return tide_fail(err, -ENOMEM, "listen on %.400s", name);
	l->loop = loop;
	l->address = *address;
	l->accept = accept;
	l->arg = arg;
	l->lock_fd = -1;

	bool is_tcp = address->kind == TIDE_ADDRESS_TCP;
	int r = is_tcp ? listen_tcp(l, options->insecure_listen, name, err) : listen_unix(l, err);
	if (r == 0) {
		l->uv.handle.data = l;
		r = uv_listen(&l->uv.stream, options->backlog ? options->backlog : BACKLOG,
			on_connection);
		if (r == 0 && is_tcp)
			r = learn_tcp_address(l);
		if (r < 0)
			tide_fail_kind(err, TIDE_ERROR_FAILED, r, "listen on %.400s", name);
	}
	if (r < 0) {
		listener_close(l, NULL, NULL);
		return r;
	}
	*ret = l;
	return 0;
}

const struct tide_address *listener_address(const struct listener *l)
{
	return &l->address;
}

static void on_closed(uv_handle_t *handle)
{
	struct listener *l = handle->data;
	listener_close_fn closed = l->closed;
	void *arg = l->closed_arg;
	free(l);
	if (closed)
		closed(arg);
}

void listener_close(struct listener *l, listener_close_fn done, void *arg)
{
	if (!l)
		return;
	unix_remove(l);
	l->closed = done;
	l->closed_arg = arg;
	if (!l->has_handle) { /* it never got that far, and nobody else knows of it */
		free(l);
		return;
	}
	l->uv.handle.data = l;
	uv_close(&l->uv.handle, on_closed);
}
