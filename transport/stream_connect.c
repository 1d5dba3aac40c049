/* SPDX-License-Identifier: MIT */
/* Connecting to an address, and opening one that is a file, a pipe or a standard stream. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/guard.h"
#include "transport/address.h"
#include "transport/stream_file.h"
#include "transport/stream_uv.h"

/* A pipe's default of 64 KiB means a switch of processes for every sixteen pages. */
#define PIPE_BYTES (1 << 20)

struct byte_stream_attempt {
	uv_loop_t *loop;
	struct tide_address address;
	char name[TIDE_ADDRESS_TEXT];
	byte_stream_open_fn done; /* NULL once it was called */
	void *arg;

	uv_timer_t timer;
	uv_getaddrinfo_t lookup;
	uv_connect_t connect;
	unsigned pending; /* requests and handles that will still call back: it is freed after the
			     last */
	bool is_cancelled;

	struct addrinfo *found;
	const struct addrinfo *next;
	struct stream_uv *stream; /* being connected */
	int last_error;
};

static void connect_next(struct byte_stream_attempt *a);

static void attempt_unref(struct byte_stream_attempt *a)
{
	if (--a->pending > 0)
		return;
	if (a->found)
		uv_freeaddrinfo(a->found);
	free(a);
}

static void on_timer_closed(uv_handle_t *handle)
{
	attempt_unref(handle->data);
}

/* Says how it went, once, and lets go of what is still under way. */
static void attempt_finish(struct byte_stream_attempt *a, const struct tide_error *err)
{
	byte_stream_open_fn done = a->done;
	if (!done)
		return;
	a->done = NULL;
	struct stream_uv *stream = take(a->stream);
	if (err && stream)
		byte_stream_close(&stream->base, NULL, NULL);
	uv_cancel((uv_req_t *)&a->lookup); /* harmless where it is not under way */
	void *arg = a->arg;
	uv_close((uv_handle_t *)&a->timer, on_timer_closed);
	done(arg, err ? NULL : &stream->base, err);
}

static void attempt_fail(struct byte_stream_attempt *a, int code)
{
	struct tide_error err = {0};
	tide_fail_kind(&err, TIDE_ERROR_FAILED, code, "connect to %.400s", a->name);
	attempt_finish(a, &err);
}

static void on_timer(uv_timer_t *timer)
{
	struct byte_stream_attempt *a = timer->data;
	attempt_fail(a, a->is_cancelled ? -ECANCELED : -ETIMEDOUT);
}

static void on_connected(uv_connect_t *connect, int status)
{
	struct byte_stream_attempt *a = connect->data;
	if (a->done) {
		if (status == 0)
			status = stream_uv_connected(a->stream, a->name);
		if (status == 0) {
			attempt_finish(a, NULL);
		} else {
			byte_stream_close(&take(a->stream)->base, NULL, NULL);
			a->last_error = status;
			connect_next(a);
		}
	}
	attempt_unref(a);
}

static int connect_tcp(struct byte_stream_attempt *a, const struct sockaddr *sa)
{
	int r = stream_uv_new(a->loop, STREAM_UV_TCP, &a->stream);
	if (r < 0)
		return r;
	a->connect.data = a;
	r = uv_tcp_connect(&a->connect, &a->stream->uv.tcp, sa, on_connected);
	if (r < 0) {
		byte_stream_close(&take(a->stream)->base, NULL, NULL);
		return r;
	}
	a->pending++;
	return 0;
}

/* Tries the addresses that are left, each when the one before has failed. From callbacks only. */
static void connect_next(struct byte_stream_attempt *a)
{
	while (a->next) {
		const struct addrinfo *ai = a->next;
		a->next = ai->ai_next;
		a->last_error = connect_tcp(a, ai->ai_addr);
		if (a->last_error == 0)
			return;
	}
	attempt_fail(a, a->last_error);
}

static void on_found(uv_getaddrinfo_t *lookup, int status, struct addrinfo *found)
{
	struct byte_stream_attempt *a = lookup->data;
	a->found = found;
	a->next = found;
	if (!a->done) {
		/* given up meanwhile */
	} else if (status < 0) {
		struct tide_error err = {0};
		tide_say(&err, "connect to %.200s: the host is not found (%s)", a->name,
			uv_strerror(status));
		attempt_finish(a, &err);
	} else {
		connect_next(a);
	}
	attempt_unref(a);
}

static int attempt_start(struct byte_stream_attempt *a)
{
	if (a->address.kind == TIDE_ADDRESS_UNIX) {
		int r = stream_uv_new(a->loop, STREAM_UV_UNIX, &a->stream);
		if (r < 0)
			return r;
		a->connect.data = a;
		uv_pipe_connect(&a->connect, &a->stream->uv.pipe, a->address.path, on_connected);
		a->pending++;
		return 0;
	}

	char port[8];
	snprintf(port, sizeof(port), "%u", a->address.port);
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
	a->lookup.data = a;
	int r = uv_getaddrinfo(a->loop, &a->lookup, on_found, a->address.host, port, &hints);
	if (r == 0)
		a->pending++;
	return r;
}

int byte_stream_connect(uv_loop_t *loop, const struct tide_address *address, uint64_t timeout_ns,
	byte_stream_open_fn done, void *arg, struct byte_stream_attempt **ret,
	struct tide_error *err)
{
	char name[TIDE_ADDRESS_TEXT];
	tide_address_format(address, name);
	if (!address_is_socket(address))
		return tide_fail(err, -EINVAL, "connect to %.400s", name);
	if (address->kind == TIDE_ADDRESS_TCP && address->port == 0)
		return tide_fail_kind(err, TIDE_ERROR_USAGE, -EINVAL,
			"connect to %.400s, whose port 0 is for listening", name);

	struct byte_stream_attempt *a = calloc(1, sizeof(*a));
	if (!a)
		return tide_fail(err, -ENOMEM, "connect to %.400s", name);
	a->loop = loop;
	a->address = *address;
	memcpy(a->name, name, sizeof(name));
	a->done = done;
	a->arg = arg;
	a->timer.data = a;
	uv_timer_init(loop, &a->timer); /* cannot fail */
	a->pending = 1;

	uv_update_time(loop); /* a loop that has been busy, or not run yet, has an old one */
	uint64_t timeout_ms = (timeout_ns + NS_PER_MS - 1) / NS_PER_MS;
	int r = uv_timer_start(&a->timer, on_timer, timeout_ms, 0);
	if (r == 0)
		r = attempt_start(a);
	if (r < 0) {
		uv_close((uv_handle_t *)&a->timer, on_timer_closed);
		return tide_fail(err, r, "connect to %.400s", name);
	}
	if (ret)
		*ret = a;
	return 0;
}

void byte_stream_connect_cancel(struct byte_stream_attempt *a)
{
	a->is_cancelled = true;
	uv_timer_start(&a->timer, on_timer, 0, 0);
}

static int open_fd(uv_loop_t *loop, int *fd, const char *name, struct byte_stream **ret)
{
	struct stat st;
	if (fstat(*fd, &st) < 0)
		return -errno;

	struct stream_uv *s;
	int r;
	if (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)) {
		if (S_ISFIFO(st.st_mode))
			fcntl(*fd, F_SETPIPE_SZ,
				PIPE_BYTES); /* refused beyond the user's limit: slower */
		r = stream_uv_open(loop, *fd, S_ISSOCK(st.st_mode), name, &s);
		if (r == 0)
			*ret = &s->base;
	} else if (S_ISDIR(st.st_mode)) {
		r = -EISDIR;
	} else {
		r = stream_file_open(loop, *fd, name, ret);
	}
	if (r == 0)
		take_fd(fd);
	return r;
}

/*
 * A descriptor for our use alone. Being non-blocking belongs to what several descriptors, also of
 * other programs, share, so a pipe is opened anew; a file is not, since its place in it is to stay
 * shared (`(tidemark send ...; echo) > file`). A socket cannot be: its flags are given back at the
 * end.
 */
static int standard_fd(int fd, enum byte_stream_mode mode)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	int own = -1;
	if (S_ISFIFO(st.st_mode)) {
		char path[32];
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		own = open(path, (mode == BYTE_STREAM_READ ? O_RDONLY : O_WRONLY) | O_CLOEXEC);
	}
	if (own < 0)
		own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return own < 0 ? -errno : own;
}

static int open_standard(uv_loop_t *loop, enum byte_stream_mode mode, struct byte_stream **ret,
	struct tide_error *err)
{
	int standard = mode == BYTE_STREAM_READ ? STDIN_FILENO : STDOUT_FILENO;
	const char *name = mode == BYTE_STREAM_READ ? "standard input" : "standard output";
	if (isatty(standard))
		return tide_fail_kind(err, TIDE_ERROR_USAGE, -ECANCELED,
			"%s is a terminal: use a pipe or a file", name);

	auto_close int fd = standard_fd(standard, mode);
	int r = fd < 0 ? fd : open_fd(loop, &fd, name, ret);
	return r < 0 ? tide_fail(err, r, "open %s", name) : 0;
}

static int open_path(uv_loop_t *loop, const char *path, enum byte_stream_mode mode,
	struct byte_stream **ret, struct tide_error *err)
{
	char name[sizeof((*ret)->peer.name)];
	snprintf(name, sizeof(name), "file %.200s", path);

	if (mode == BYTE_STREAM_WRITE) {
		struct stat st;
		if (stat(path, &st) < 0 || S_ISREG(st.st_mode)) {
			int r = stream_file_create(loop, path, false, ret);
			return r < 0 ? tide_fail(err, r, "create %.400s", path) : 0;
		}
	}

	/* Without O_NONBLOCK a FIFO's open would wait for its other end, and the whole loop with
	 * it. */
	int flags = (mode == BYTE_STREAM_READ ? O_RDONLY : O_WRONLY) | O_NONBLOCK | O_NOCTTY |
		    O_CLOEXEC;
	auto_close int fd = open(path, flags);
	if (fd < 0 && errno == ENXIO && mode == BYTE_STREAM_WRITE)
		return tide_say(err, "write to the pipe %.400s: nobody reads it", path);
	if (fd < 0)
		return tide_fail(err, -errno, "open %.400s", path);
	if (isatty(fd))
		return tide_fail_kind(err, TIDE_ERROR_USAGE, -ECANCELED,
			"%.400s is a terminal: use a pipe or a file", path);
	int r = open_fd(loop, &fd, name, ret);
	return r < 0 ? tide_fail(err, r, "open %.400s", path) : 0;
}

int byte_stream_open(uv_loop_t *loop, const struct tide_address *address,
	enum byte_stream_mode mode, struct byte_stream **ret, struct tide_error *err)
{
	switch (address->kind) {
	case TIDE_ADDRESS_STANDARD:
		return open_standard(loop, mode, ret, err);
	case TIDE_ADDRESS_FILE:
		return open_path(loop, address->path, mode, ret, err);
	default: {
		char name[TIDE_ADDRESS_TEXT];
		return tide_fail(
			err, -EINVAL, "open %.400s as a file", tide_address_format(address, name));
	}
	}
}
