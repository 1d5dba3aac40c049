/* SPDX-License-Identifier: MIT */
/* Byte streams without a kernel behind them, for tests: a bounded ring each way, moved a step at a
 * time. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/guard.h"
#include "transport/byte_stream.h"

struct request {
	struct request *next;
	byte_stream_write_fn done;
	void *arg;
	bool is_shutdown;
	unsigned nbufs, at; /* nbufs 0: flush or shutdown */
	size_t offset;      /* in bufs[at] */
	uv_buf_t bufs[BYTE_STREAM_BUFS];
};

struct stream_memory {
	struct byte_stream base;
	struct stream_memory *other; /* NULL once it is closed */
	size_t step;

	/* Active while something can move. */
	uv_idle_t idle;
	bool closing;
	byte_stream_close_fn closed;
	void *closed_arg;

	/* What the other end wrote and this one has not read. */
	uint8_t *ring;
	size_t capacity, head, fill;
	bool other_shut_down;

	byte_stream_space_fn space;
	byte_stream_read_fn read;
	void *read_arg;
	bool is_reading, at_end;

	struct request *first, **last;
	bool is_shut_down;
};

static struct stream_memory *stream_of(const struct byte_stream *s)
{
	return (struct stream_memory *)s;
}

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

static void on_idle(uv_idle_t *idle);

static void kick(struct stream_memory *s)
{
	if (s && !s->closing)
		uv_idle_start(&s->idle, on_idle);
}

static void request_finish(struct stream_memory *s, int status)
{
	struct request *r = s->first;
	s->first = r->next;
	if (!s->first)
		s->last = &s->first;
	byte_stream_write_fn done = r->done;
	void *arg = r->arg;
	free(r);
	done(arg, status);
}

static size_t ring_put(struct stream_memory *s, const char *bytes, size_t len)
{
	size_t at = (s->head + s->fill) % s->capacity;
	len = least(least(len, s->capacity - s->fill), s->capacity - at);
	memcpy(s->ring + at, bytes, len);
	s->fill += len;
	return len;
}

static size_t ring_get(struct stream_memory *s, uint8_t *bytes, size_t len)
{
	len = least(least(len, s->fill), s->capacity - s->head);
	memcpy(bytes, s->ring + s->head, len);
	s->head = (s->head + len) % s->capacity;
	s->fill -= len;
	return len;
}

/* Moves one step of what is written. True when it did something. */
static bool write_step(struct stream_memory *s)
{
	struct request *r = s->first;
	if (!r)
		return false;
	if (!s->other || s->is_shut_down) {
		request_finish(s, -EPIPE);
		return true;
	}

	while (r->at < r->nbufs && r->offset == r->bufs[r->at].len) {
		r->at++;
		r->offset = 0;
	}
	if (r->at == r->nbufs) {
		if (r->is_shutdown) {
			s->is_shut_down = true;
			s->other->other_shut_down = true;
			kick(s->other);
		}
		request_finish(s, 0);
		return true;
	}

	uv_buf_t *buf = &r->bufs[r->at];
	size_t bytes = least(buf->len - r->offset, s->step);
	bytes = ring_put(s->other, buf->base + r->offset, bytes);
	r->offset += bytes;
	if (bytes)
		kick(s->other);
	return bytes > 0;
}

static void read_end(struct stream_memory *s, ssize_t result)
{
	s->is_reading = false;
	s->at_end = true;
	s->read(s->read_arg, result);
}

static bool read_step(struct stream_memory *s)
{
	if (!s->is_reading)
		return false;
	if (s->fill == 0) {
		if (s->other && !s->other_shut_down)
			return false;
		read_end(s, 0);
		return true;
	}

	uint8_t *space = NULL;
	size_t bytes = 0;
	s->space(s->read_arg, &space, &bytes);
	if (bytes == 0) {
		read_end(s, -ENOBUFS);
		return true;
	}
	bytes = ring_get(s, space, least(bytes, s->step));
	kick(s->other); /* there is room now */
	s->read(s->read_arg, (ssize_t)bytes);
	return true;
}

static void on_idle(uv_idle_t *idle)
{
	struct stream_memory *s = idle->data;
	bool moved = write_step(s);
	if (!s->closing && read_step(s))
		moved = true;
	if (!moved && !s->closing)
		uv_idle_stop(idle);
}

static int stream_memory_read_start(
	struct byte_stream *base, byte_stream_space_fn space, byte_stream_read_fn read, void *arg)
{
	struct stream_memory *s = stream_of(base);
	if (s->at_end)
		return -ENODATA;
	s->space = space;
	s->read = read;
	s->read_arg = arg;
	s->is_reading = true;
	kick(s);
	return 0;
}

static void stream_memory_read_stop(struct byte_stream *base)
{
	stream_of(base)->is_reading = false;
}

static int request_add(struct stream_memory *s, bool is_shutdown, const uv_buf_t *bufs,
	unsigned nbufs, byte_stream_write_fn done, void *arg)
{
	struct request *r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->is_shutdown = is_shutdown;
	r->done = done;
	r->arg = arg;
	for (unsigned i = 0; i < nbufs; i++)
		r->bufs[r->nbufs++] = bufs[i];
	*s->last = r;
	s->last = &r->next;
	kick(s);
	return 0;
}

static int stream_memory_write(struct byte_stream *base, const uv_buf_t *bufs, unsigned nbufs,
	byte_stream_write_fn done, void *arg)
{
	return request_add(stream_of(base), false, bufs, nbufs, done, arg);
}

static int stream_memory_flush(struct byte_stream *base, byte_stream_write_fn done, void *arg)
{
	return request_add(stream_of(base), false, NULL, 0, done, arg);
}

static int stream_memory_shutdown(struct byte_stream *base, byte_stream_write_fn done, void *arg)
{
	return request_add(stream_of(base), true, NULL, 0, done, arg);
}

static size_t stream_memory_pending_bytes(const struct byte_stream *base)
{
	size_t bytes = 0;
	for (const struct request *r = stream_of(base)->first; r; r = r->next)
		for (unsigned i = r->at; i < r->nbufs; i++)
			bytes += r->bufs[i].len - (i == r->at ? r->offset : 0);
	return bytes;
}

static void on_closed(uv_handle_t *handle)
{
	struct stream_memory *s = handle->data;
	while (s->first)
		request_finish(s, -ECANCELED);
	byte_stream_close_fn closed = s->closed;
	void *arg = s->closed_arg;
	free(s->ring);
	free(s);
	if (closed)
		closed(arg);
}

static void stream_memory_close(struct byte_stream *base, byte_stream_close_fn done, void *arg)
{
	struct stream_memory *s = stream_of(base);
	s->closing = true;
	s->closed = done;
	s->closed_arg = arg;
	if (s->other) {
		s->other->other = NULL;
		kick(s->other);
	}
	uv_close((uv_handle_t *)&s->idle, on_closed);
}

static const struct byte_stream_ops stream_memory_ops = {
	.read_start = stream_memory_read_start,
	.read_stop = stream_memory_read_stop,
	.write = stream_memory_write,
	.pending_bytes = stream_memory_pending_bytes,
	.flush = stream_memory_flush,
	.shutdown = stream_memory_shutdown,
	.close = stream_memory_close,
};

static void stream_memory_free(struct stream_memory *s)
{
	if (!s)
		return;
	free(s->ring);
	free(s);
}
DEFINE_GUARD(struct stream_memory, stream_memory_free)

static struct stream_memory *stream_memory_new(size_t capacity, size_t step)
{
	auto_(stream_memory_freep) struct stream_memory *s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->ring = malloc(capacity);
	if (!s->ring)
		return NULL;
	s->base.ops = &stream_memory_ops;
	s->base.peer.is_two_way = 1;
	snprintf(s->base.peer.name, sizeof(s->base.peer.name), "memory");
	s->capacity = capacity;
	s->step = step ? step : SIZE_MAX;
	s->last = &s->first;
	s->idle.data = s;
	return take(s);
}

int byte_stream_memory_pair(
	uv_loop_t *loop, size_t capacity_bytes, size_t step_bytes, struct byte_stream *ret[2])
{
	auto_(stream_memory_freep) struct stream_memory *a =
		stream_memory_new(capacity_bytes, step_bytes);
	auto_(stream_memory_freep) struct stream_memory *b =
		stream_memory_new(capacity_bytes, step_bytes);
	if (!a || !b)
		return -ENOMEM;
	uv_idle_init(loop, &a->idle); /* cannot fail */
	uv_idle_init(loop, &b->idle);
	a->other = b;
	b->other = a;
	ret[0] = &take(a)->base;
	ret[1] = &take(b)->base;
	return 0;
}
