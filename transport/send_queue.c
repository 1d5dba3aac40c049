/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "transport/send_queue.h"

/* Smaller ones cost less to allocate than to keep. */
#define POOL_BUFFER_MIN ((size_t)64 << 10)

static size_t storage_of(const struct frame_buffer *b)
{
	return b->cap > b->bytes ? b->cap : b->bytes;
}

int send_queue_init(struct send_queue *q, size_t bound_bytes, void (*wake)(void *arg), void *arg)
{
	*q = (struct send_queue){.bound_bytes = bound_bytes, .wake = wake, .arg = arg};
	int r = pthread_mutex_init(&q->lock, NULL);
	if (r != 0)
		return -r;
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	r = pthread_cond_init(&q->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	if (r != 0)
		pthread_mutex_destroy(&q->lock);
	return -r;
}

void send_queue_pace(struct send_queue *q, struct shared_pacing *pacing)
{
	q->pacing = pacing;
}

static void pool_shrink(struct send_queue *q, size_t max_bytes)
{
	while (q->npool > 0 && q->pool_bytes > max_bytes) {
		struct frame_buffer *b = &q->pool[--q->npool];
		q->pool_bytes -= b->cap;
		frame_buffer_release(b);
	}
}

void send_queue_release(struct send_queue *q)
{
	pool_shrink(q, 0);
	free(q->v);
	pthread_cond_destroy(&q->changed);
	pthread_mutex_destroy(&q->lock);
}

static int over(const struct send_queue *q, struct tide_error *err)
{
	if (err)
		*err = q->error;
	return -EPIPE;
}

/* The i-th from the front. */
static struct send_item *item_at(struct send_queue *q, size_t i)
{
	return &q->v[(q->head + i) & (q->cap - 1)]; /* cap is a power of two */
}

static int reserve(struct send_queue *q)
{
	if (q->len < q->cap)
		return 0;
	size_t cap = q->cap ? q->cap * 2 : 64;
	struct send_item *v = calloc(cap, sizeof(*v));
	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < q->len; i++)
		v[i] = *item_at(q, i);
	free(q->v);
	q->v = v;
	q->head = 0;
	q->cap = cap;
	return 0;
}

/* With the lock held, and room reserved. */
static void append(struct send_queue *q, struct send_item item)
{
	*item_at(q, q->len++) = item;
	if (q->is_writer_busy)
		return;
	q->is_writer_busy = true;
	q->wake(q->arg);
}

static struct send_item remove_first(struct send_queue *q)
{
	struct send_item item = *item_at(q, 0);
	q->head++;
	q->len--;
	return item;
}

/* A frame that alone exceeds the bound goes when nothing else is there. */
static bool has_room(const struct send_queue *q, size_t bytes)
{
	return q->held_bytes == 0 || q->held_bytes + bytes <= q->bound_bytes;
}

/* With the lock held. Until then, or until it is over. */
static void wait_for_turn(struct send_queue *q, uint64_t go_ns)
{
	struct timespec go = clock_timespec(go_ns);
	uint64_t began_ns = clock_now_ns(), now_ns = began_ns;
	for (; !q->is_over && now_ns < go_ns; now_ns = clock_now_ns())
		pthread_cond_timedwait(&q->changed, &q->lock, &go);
	shared_pacing_note_held(q->pacing, now_ns - began_ns);
}

/* With the lock held. */
static int put(
	struct send_queue *q, struct frame_buffer *b, enum send_mode mode, struct tide_error *err)
{
	size_t bytes = storage_of(b);
	while (!q->is_over && mode != SEND_FORCE && !has_room(q, bytes)) {
		if (mode == SEND_TRY)
			return -EAGAIN;
		pthread_cond_wait(&q->changed, &q->lock);
	}
	if (q->is_over)
		return over(q, err);
	int r = reserve(q);
	if (r < 0)
		return tide_fail(err, r, "queue a frame");

	q->held_bytes += bytes;
	q->data_bytes += b->bytes;
	pool_shrink(q, q->held_bytes < q->bound_bytes ? q->bound_bytes - q->held_bytes : 0);
	append(q, (struct send_item){.kind = SEND_FRAMES, .buffer = *b});
	*b = (struct frame_buffer){0};
	return 0;
}

int send_queue_put(
	struct send_queue *q, struct frame_buffer *b, enum send_mode mode, struct tide_error *err)
{
	uint64_t go_ns =
		q->pacing && mode == SEND_WAIT ? shared_pacing_take(q->pacing, b->bytes) : 0;
	pthread_mutex_lock(&q->lock);
	if (go_ns)
		wait_for_turn(q, go_ns);
	int r = put(q, b, mode, err);
	pthread_mutex_unlock(&q->lock);
	if (r != -EAGAIN)
		frame_buffer_release(b); /* empty where it was taken in */
	return r;
}

int send_queue_put_flush(struct send_queue *q, struct send_flush *f, struct tide_error *err)
{
	pthread_mutex_lock(&q->lock);
	int r = q->is_over ? over(q, err) : reserve(q);
	if (r == 0)
		append(q, (struct send_item){.kind = SEND_FLUSH, .flush = f});
	pthread_mutex_unlock(&q->lock);
	return r == -ENOMEM ? tide_fail(err, r, "queue a flush") : r;
}

int send_queue_wait(struct send_queue *q, struct send_flush *f, struct tide_error *err)
{
	pthread_mutex_lock(&q->lock);
	while (!f->is_done)
		pthread_cond_wait(&q->changed, &q->lock);
	int r = f->is_failed ? over(q, err) : 0;
	pthread_mutex_unlock(&q->lock);
	return r;
}

/* With the lock held. */
static void refuse_from_now_on(struct send_queue *q, const struct tide_error *err)
{
	q->is_over = true;
	q->error = *err;
	pthread_cond_broadcast(&q->changed);
}

int send_queue_put_shutdown(struct send_queue *q, const struct tide_error *why)
{
	pthread_mutex_lock(&q->lock);
	int r = q->is_over ? -EPIPE : reserve(q);
	if (r == 0) {
		append(q, (struct send_item){.kind = SEND_SHUTDOWN});
		refuse_from_now_on(q, why);
	}
	pthread_mutex_unlock(&q->lock);
	return r;
}

void send_queue_pool_get(struct send_queue *q, struct frame_buffer *ret)
{
	*ret = (struct frame_buffer){0};
	pthread_mutex_lock(&q->lock);
	if (q->npool > 0) {
		*ret = q->pool[--q->npool];
		q->pool_bytes -= ret->cap;
		ret->data = ret->storage;
		ret->bytes = 0;
	}
	pthread_mutex_unlock(&q->lock);
}

/* With the lock held. Empties `b` where it is kept. */
static void pool_keep(struct send_queue *q, struct frame_buffer *b)
{
	if (q->is_over || q->npool == SEND_POOL_MAX || b->cap < POOL_BUFFER_MIN ||
		q->held_bytes + q->pool_bytes + b->cap > q->bound_bytes)
		return;
	q->pool[q->npool++] = *b;
	q->pool_bytes += b->cap;
	*b = (struct frame_buffer){0};
}

void send_queue_pool_put(struct send_queue *q, struct frame_buffer *b)
{
	pthread_mutex_lock(&q->lock);
	pool_keep(q, b);
	pthread_mutex_unlock(&q->lock);
	frame_buffer_release(b);
}

enum send_kind send_queue_take(struct send_queue *q, struct frame_buffer *bufs, unsigned max,
	unsigned *ret_n, struct send_flush **ret_flush)
{
	unsigned n = 0;
	pthread_mutex_lock(&q->lock);
	enum send_kind kind = q->len ? item_at(q, 0)->kind : SEND_NOTHING;
	if (kind == SEND_FRAMES)
		while (n < max && q->len > 0 && item_at(q, 0)->kind == SEND_FRAMES)
			bufs[n++] = remove_first(q).buffer;
	else if (kind != SEND_NOTHING)
		*ret_flush = remove_first(q).flush;
	q->is_writer_busy = kind != SEND_NOTHING;
	pthread_mutex_unlock(&q->lock);
	*ret_n = n;
	return kind;
}

void send_queue_give_back(struct send_queue *q, struct frame_buffer *bufs, unsigned n)
{
	pthread_mutex_lock(&q->lock);
	for (unsigned i = 0; i < n; i++) {
		q->held_bytes -= storage_of(&bufs[i]);
		q->data_bytes -= bufs[i].bytes;
		pool_keep(q, &bufs[i]);
	}
	pthread_cond_broadcast(&q->changed);
	pthread_mutex_unlock(&q->lock);
	for (unsigned i = 0; i < n; i++)
		frame_buffer_release(&bufs[i]);
}

void send_queue_flush_done(struct send_queue *q, struct send_flush *f, bool is_failed)
{
	pthread_mutex_lock(&q->lock);
	f->is_failed = is_failed;
	f->is_done = true;
	pthread_cond_broadcast(&q->changed);
	pthread_mutex_unlock(&q->lock);
}

struct send_flush *send_queue_end(struct send_queue *q, const struct tide_error *err)
{
	struct send_flush *dropped = NULL, **last = &dropped;
	pthread_mutex_lock(&q->lock);
	if (!q->is_over)
		refuse_from_now_on(q, err);
	while (q->len > 0) {
		struct send_item item = remove_first(q);
		if (item.kind == SEND_FRAMES) {
			q->held_bytes -= storage_of(&item.buffer);
			q->data_bytes -= item.buffer.bytes;
			frame_buffer_release(&item.buffer);
		} else if (item.kind == SEND_FLUSH && item.flush->done) {
			*last = item.flush;
			last = &item.flush->next;
		} else if (item.kind == SEND_FLUSH) {
			item.flush->is_failed = true;
			item.flush->is_done = true;
		}
	}
	*last = NULL;
	pool_shrink(q, 0);
	pthread_cond_broadcast(&q->changed);
	pthread_mutex_unlock(&q->lock);
	return dropped;
}

uint64_t send_queue_data_bytes(struct send_queue *q)
{
	pthread_mutex_lock(&q->lock);
	uint64_t bytes = q->data_bytes;
	pthread_mutex_unlock(&q->lock);
	return bytes;
}

void send_queue_error(struct send_queue *q, struct tide_error *ret)
{
	pthread_mutex_lock(&q->lock);
	*ret = q->error;
	pthread_mutex_unlock(&q->lock);
}
