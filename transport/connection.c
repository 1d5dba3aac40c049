/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/units.h"
#include "proto/message.h"
#include "transport/connection.h"
#include "transport/send_queue.h"

/* How long a peer may take to read our last words and close. */
#define LINGER_MAX_NS (5 * NS_PER_S)
#define DISCARD_BYTES ((size_t)64 << 10)

enum state {
	STATE_OPEN,
	/* The peer takes nothing any more; what it sent before that is still read. */
	STATE_DEAF,
	/* We have said, or are saying, our last words; what comes is discarded, until it closes. */
	STATE_LEAVING,
	STATE_ENDED,
	STATE_CLOSING,
};

struct connection {
	uv_loop_t *loop;
	pthread_t loop_thread;
	struct byte_stream *stream;
	struct byte_stream_peer peer;
	enum connection_direction direction;
	uint64_t timeout_ns;
	struct connection_handler handler;
	atomic_uint refs;

	enum state state;
	bool has_failure; /* what `ended` will be told; else NULL */
	struct tide_error failure;
	connection_close_fn closed;
	void *closed_arg;
	unsigned closing_parts; /* the stream and the handles that have not called back yet */

	uv_async_t wake;
	uv_timer_t timer;

	/* What other threads ask of the loop's besides sending. */
	struct {
		pthread_mutex_t lock;
		bool is_open; /* `wake` may be used */
		bool has_failure;
		struct tide_error failure;
	} gate;

	/* reading */
	struct frame_reader *reader;
	uint8_t *discard;
	bool is_reading, is_paused, is_read_ended;
	struct tide_error space_error;
	bool is_kindred; /* its preamble was right */

	/* writing */
	struct send_queue queue;
	struct frame_buffer writing[BYTE_STREAM_BUFS];
	unsigned nwriting;
	size_t writing_bytes; /* control frames included */
	struct send_flush *flushing;
	struct send_flush *dropped; /* flushes to be told that it is over */
	bool is_writing;            /* a write, flush or shutdown is with the stream */
	bool is_ping_due, is_pong_due, is_shutdown_begun;
	uint8_t preamble[PREAMBLE_BYTES];
	uint8_t ping[FRAME_HEADER_BYTES], pong[FRAME_HEADER_BYTES];
	struct frame_buffer last_words;

	/* keep-alive; all in CLOCK_MONOTONIC */
	uint64_t interval_ns, last_tick_ns;
	uint64_t last_sent_ns, last_received_ns, last_ping_ns;
	uint64_t last_taken_ns;       /* the peer was seen to take bytes, or had none to take */
	uint64_t last_moved_ns;       /* the peer was seen to take bytes that had to wait for it */
	size_t pending_bytes;         /* at the last tick */
	uint64_t writes, writes_seen; /* begun so far, now and at the last tick */

	atomic_uint_fast64_t bytes_sent, bytes_received;
};

static void pump(struct connection *c);
static void read_begin(struct connection *c);

/* --- its end --------------------------------------------------------------------------------- */

static bool is_over(const struct connection *c)
{
	return c->state >= STATE_ENDED;
}

/* From callbacks only, as all that may call back. */
static void flushes_drop(struct connection *c, struct send_flush *list)
{
	struct tide_error err;
	send_queue_error(&c->queue, &err);
	while (list) {
		struct send_flush *f = list;
		list = f->next;
		f->done(f->arg, &err);
		free(f);
	}
}

static void read_cease(struct connection *c)
{
	if (c->is_reading)
		c->stream->ops->read_stop(c->stream);
	c->is_reading = false;
}

/* Tells the owner, once. */
static void end(struct connection *c)
{
	if (is_over(c))
		return;
	c->state = STATE_ENDED;
	read_cease(c);
	uv_timer_stop(&c->timer);

	struct tide_error why;
	if (c->has_failure)
		why = c->failure;
	else
		tide_fail(&why, -EPIPE, "%s closed the connection", c->peer.name);
	struct send_flush *dropped = send_queue_end(&c->queue, &why);
	flushes_drop(c, dropped);
	if (c->state == STATE_ENDED)
		c->handler.ended(c->handler.arg, c, c->has_failure ? &c->failure : NULL);
}

static void on_linger_over(uv_timer_t *timer)
{
	end(timer->data);
}

static void linger(struct connection *c)
{
	uint64_t ns = c->timeout_ns < LINGER_MAX_NS ? c->timeout_ns : LINGER_MAX_NS;
	uv_update_time(c->loop); /* the time so far in this callback is not the peer's */
	uv_timer_start(&c->timer, on_linger_over, (ns + NS_PER_MS - 1) / NS_PER_MS, 0);
}

/* Nothing more can be sent. The first failure is the one that counts. */
static void fail_sends(struct connection *c, const struct tide_error *err)
{
	if (!c->has_failure) {
		c->failure = *err;
		c->has_failure = true;
	}
	flushes_drop(c, send_queue_end(&c->queue, err));
}

/* The peer is beyond reach: ends without a word. */
static void fail_mute(struct connection *c, const struct tide_error *err)
{
	if (is_over(c))
		return;
	if (c->state != STATE_LEAVING)
		fail_sends(c, err);
	end(c);
}

static int last_words_encode(struct frame_buffer *ret, const struct tide_error *err)
{
	const char *reason = tide_error_reason(err);
	struct error_message m = {.kind = err->kind};
	snprintf(m.text, sizeof(m.text), "%s%s%s", err->text, *reason ? ": " : "", reason);
	return error_message_encode(&m, ret);
}

/* Tells the peer why, then ends. */
static void fail(struct connection *c, const struct tide_error *err)
{
	if (c->state >= STATE_LEAVING)
		return;
	bool is_deaf = c->state == STATE_DEAF;
	fail_sends(c, err);
	if (is_over(c)) /* closed in a flush's callback */
		return;

	/* Whoever does not speak as we do would make nothing of our words. */
	bool is_worth_it = c->direction == CONNECTION_BOTH && c->is_kindred && !is_deaf;
	if (!is_worth_it || last_words_encode(&c->last_words, err) < 0) {
		end(c);
		return;
	}
	c->state = STATE_LEAVING;
	linger(c);
	read_begin(c);
	pump(c);
}

/* --- reading --------------------------------------------------------------------------------- */

static void on_space(void *arg, uint8_t **ret, size_t *ret_bytes)
{
	struct connection *c = arg;
	if (c->state == STATE_LEAVING) {
		if (!c->discard)
			c->discard = malloc(DISCARD_BYTES);
		*ret = c->discard;
		*ret_bytes = c->discard ? DISCARD_BYTES : 0;
	} else if (frame_reader_space(c->reader, ret, ret_bytes, &c->space_error) < 0) {
		*ret_bytes = 0;
	}
}

static void deliver(struct connection *c, const struct frame *frame)
{
	switch (frame->type) {
	case FRAME_PING:
		c->is_pong_due = c->direction == CONNECTION_BOTH;
		pump(c);
		break;
	case FRAME_PONG:
		break;
	default:
		c->handler.frame(c->handler.arg, c, frame);
	}
}

static void read_bytes(struct connection *c, size_t bytes)
{
	struct frame frame;
	bool is_whole = false;
	struct tide_error err = {0};
	int r = frame_reader_fed(c->reader, bytes, &is_whole, &frame, &err);
	if (r < 0) {
		tide_prefix(&err, r, "%s: ", c->peer.name);
		fail(c, &err);
		return;
	}
	c->is_kindred = frame_reader_offset(c->reader) >= PREAMBLE_BYTES;
	if (is_whole)
		deliver(c, &frame);
}

/* The stream says that nothing more comes. */
static void read_ended(struct connection *c, int status)
{
	c->is_read_ended = true;
	c->is_reading = false;
	if (c->state != STATE_OPEN) {
		/* Deaf or leaving: why is known, and the peer has gone too. */
		end(c);
		return;
	}

	struct tide_error err = {0};
	if (status == -ENOBUFS && c->space_error.code) {
		err = c->space_error;
		tide_prefix(&err, 0, "%s: ", c->peer.name);
	} else if (status < 0) {
		tide_fail_kind(&err, TIDE_ERROR_FAILED, status,
			c->direction == CONNECTION_BOTH ? "lost the connection to %s" : "read %s",
			c->peer.name);
	} else if (c->bytes_received == 0) {
		tide_bad(&err,
			c->direction == CONNECTION_BOTH ? "%s closed the connection without a word"
							: "%s is empty",
			c->peer.name);
	} else if (frame_reader_end(c->reader, &err) < 0) {
		tide_prefix(&err, 0, "%s: ", c->peer.name);
	} else {
		end(c);
		return;
	}
	fail_mute(c, &err);
}

static void on_read(void *arg, ssize_t bytes)
{
	struct connection *c = arg;
	if (bytes <= 0) {
		read_ended(c, (int)bytes);
		return;
	}
	c->last_received_ns = clock_now_ns();
	atomic_fetch_add_explicit(&c->bytes_received, (uint64_t)bytes, memory_order_relaxed);
	/* Leaving may have begun between the giving of the space and its filling: these are old
	 * bytes, not wanted either. */
	if (c->state != STATE_LEAVING)
		read_bytes(c, (size_t)bytes);
}

/* Reads, if it should and does not yet. */
static void read_begin(struct connection *c)
{
	if (c->is_reading || c->is_read_ended || is_over(c))
		return;
	if (c->direction == CONNECTION_SEND || (c->is_paused && c->state != STATE_LEAVING))
		return;
	int r = c->stream->ops->read_start(c->stream, on_space, on_read, c);
	if (r == 0) {
		c->is_reading = true;
		return;
	}
	struct tide_error err = {0};
	tide_fail_kind(&err, TIDE_ERROR_FAILED, r, "read from %s", c->peer.name);
	connection_fail(c, &err);
}

/* --- writing --------------------------------------------------------------------------------- */

static void write_failed(struct connection *c, int status)
{
	if (c->state >= STATE_LEAVING) {
		end(c);
		return;
	}
	struct tide_error err = {0};
	tide_fail_kind(&err, TIDE_ERROR_FAILED, status,
		c->direction == CONNECTION_BOTH ? "lost the connection to %s" : "write to %s",
		c->peer.name);
	if (c->direction == CONNECTION_SEND || c->is_read_ended) {
		fail_mute(c, &err);
		return;
	}
	/* The peer may have said why before it went, and that is still on its way. */
	c->state = STATE_DEAF;
	linger(c);
	fail_sends(c, &err);
}

static void writing_release(struct connection *c)
{
	unsigned n = c->nwriting;
	c->nwriting = 0;
	send_queue_give_back(&c->queue, c->writing, n);
}

static void on_written(void *arg, int status)
{
	struct connection *c = arg;
	c->is_writing = false;
	writing_release(c);
	if (c->state == STATE_CLOSING)
		return;
	if (status < 0) {
		write_failed(c, status);
		return;
	}
	atomic_fetch_add_explicit(&c->bytes_sent, c->writing_bytes, memory_order_relaxed);
	c->last_sent_ns = clock_now_ns();
	pump(c);
}

static void write_frames(struct connection *c, uv_buf_t *bufs, unsigned nbufs)
{
	c->writing_bytes = 0;
	for (unsigned i = 0; i < nbufs; i++)
		c->writing_bytes += bufs[i].len;
	c->is_writing = true;
	c->writes++;
	int r = c->stream->ops->write(c->stream, bufs, nbufs, on_written, c);
	if (r < 0)
		on_written(c, r);
}

static void on_flushed(void *arg, int status)
{
	struct connection *c = arg;
	struct send_flush *f = take(c->flushing);
	c->is_writing = false;
	bool is_closing = c->state == STATE_CLOSING;
	if (status < 0 && !is_closing)
		write_failed(c, status);

	if (!f->done) {
		send_queue_flush_done(&c->queue, f, status < 0);
	} else if (status < 0 || is_closing) {
		f->next = c->dropped; /* told when it is closed, or below */
		c->dropped = f;
	} else {
		f->done(f->arg, NULL);
		free(f);
	}
	if (c->state == STATE_CLOSING)
		return;
	flushes_drop(c, take(c->dropped));
	pump(c);
}

static void on_shutdown(void *arg, int status)
{
	struct connection *c = arg;
	c->is_writing = false;
	if (is_over(c))
		return;
	if (status < 0 && c->direction == CONNECTION_SEND) {
		/* A file that could not be synced, or whose name was taken meanwhile. */
		struct tide_error err = {0};
		tide_fail_kind(&err, TIDE_ERROR_FAILED, status, "finish %s", c->peer.name);
		fail_mute(c, &err);
	} else if (status < 0 || c->direction != CONNECTION_BOTH || c->is_read_ended) {
		end(c);
	} else if (c->state != STATE_LEAVING) {
		c->state = STATE_LEAVING;
		linger(c);
		read_begin(c);
	}
}

static void shutdown_begin(struct connection *c)
{
	c->is_shutdown_begun = true;
	c->is_writing = true;
	int r = c->stream->ops->shutdown(c->stream, on_shutdown, c);
	if (r < 0)
		on_shutdown(c, r);
}

static void flush_begin(struct connection *c, struct send_flush *f)
{
	c->flushing = f;
	c->is_writing = true;
	int r = c->stream->ops->flush(c->stream, on_flushed, c);
	if (r < 0)
		on_flushed(c, r);
}

/* PING and PONG overtake what is queued: behind 64 MiB they would be late. */
static unsigned control_frames(struct connection *c, uv_buf_t *bufs)
{
	unsigned n = 0;
	if (c->is_pong_due)
		bufs[n++] = uv_buf_init((char *)c->pong, sizeof(c->pong));
	if (c->is_ping_due)
		bufs[n++] = uv_buf_init((char *)c->ping, sizeof(c->ping));
	c->is_pong_due = c->is_ping_due = false;
	return n;
}

/* Gives the stream what is next, one thing at a time. */
static void pump(struct connection *c)
{
	if (c->is_writing || c->is_shutdown_begun || is_over(c) || c->state == STATE_DEAF)
		return;

	uv_buf_t bufs[BYTE_STREAM_BUFS];
	if (c->writes == 0 && c->direction != CONNECTION_RECEIVE) {
		bufs[0] = uv_buf_init((char *)c->preamble, sizeof(c->preamble));
		write_frames(c, bufs, 1);
		return;
	}
	if (c->has_failure) {
		/* The queue is over: our last words are all that is left. */
		if (c->last_words.bytes == 0) {
			shutdown_begin(c);
			return;
		}
		bufs[0] = uv_buf_init((char *)c->last_words.data, (unsigned)c->last_words.bytes);
		c->last_words.bytes = 0; /* the storage stays until we are freed */
		write_frames(c, bufs, 1);
		return;
	}

	unsigned ncontrol = control_frames(c, bufs);
	if (ncontrol > 0) {
		write_frames(c, bufs, ncontrol);
		return;
	}

	struct send_flush *flush = NULL;
	switch (send_queue_take(&c->queue, c->writing, BYTE_STREAM_BUFS, &c->nwriting, &flush)) {
	case SEND_FRAMES:
		for (unsigned i = 0; i < c->nwriting; i++)
			bufs[i] = uv_buf_init(
				(char *)c->writing[i].data, (unsigned)c->writing[i].bytes);
		write_frames(c, bufs, c->nwriting);
		break;
	case SEND_FLUSH:
		flush_begin(c, flush);
		break;
	case SEND_SHUTDOWN:
		shutdown_begin(c);
		break;
	case SEND_NOTHING:
		break;
	}
}

/* --- keep-alive --------------------------------------------------------------- */

static void timed_out(struct connection *c, const char *what)
{
	struct tide_error err = {0};
	char text[UNITS_TEXT];
	tide_fail(&err, -ETIMEDOUT, "%s %s for %s", c->peer.name, what,
		units_format_ns(text, c->timeout_ns));
	fail_mute(c, &err);
}

/* What the peer has done with our bytes since the last tick. Returns how many it has left waiting.
 */
static size_t note_taken(struct connection *c, uint64_t now)
{
	size_t pending = c->is_writing ? c->stream->ops->pending_bytes(c->stream) : 0;
	bool has_moved = c->writes != c->writes_seen || pending < c->pending_bytes;
	/* Bytes that went straight into the kernel's buffer say nothing of the peer; such as had to
	 * wait for room in it do. */
	if (has_moved && c->pending_bytes > 0)
		c->last_moved_ns = now;
	if (has_moved || pending == 0)
		c->last_taken_ns = now;
	c->writes_seen = c->writes;
	c->pending_bytes = pending;
	return pending;
}

static void on_tick(uv_timer_t *timer)
{
	struct connection *c = timer->data;
	uint64_t now = clock_now_ns();

	/* The time in which this thread did not run (a stopped process, a long callback) is not the
	 * peer's. */
	uint64_t passed = now - c->last_tick_ns;
	c->last_tick_ns = now;
	if (passed > 2 * c->interval_ns) {
		c->last_received_ns += passed - c->interval_ns;
		c->last_taken_ns += passed - c->interval_ns;
	}

	size_t pending = note_taken(c, now);
	uint64_t heard =
		c->last_received_ns > c->last_moved_ns ? c->last_received_ns : c->last_moved_ns;
	if (!c->is_paused && now > heard && now - heard > c->timeout_ns) {
		timed_out(c, "sent nothing");
		return;
	}
	if (pending > 0 && now > c->last_taken_ns && now - c->last_taken_ns > c->timeout_ns) {
		timed_out(c, "took nothing");
		return;
	}

	/* Ours keeps the peer from taking us for dead, and its answer keeps us from taking it for
	 * that. */
	uint64_t quiet = c->last_sent_ns < heard ? c->last_sent_ns : heard;
	if (now > quiet && now - quiet > c->timeout_ns / 3 &&
		now - c->last_ping_ns > c->timeout_ns / 3) {
		c->last_ping_ns = now;
		c->is_ping_due = true;
		pump(c);
	}
}

static int keep_alive_begin(struct connection *c)
{
	c->last_tick_ns = c->last_sent_ns = c->last_received_ns = c->last_ping_ns =
		c->last_taken_ns = clock_now_ns();
	if (c->direction != CONNECTION_BOTH)
		return 0;
	uint64_t interval_ms = c->timeout_ns / 6 / NS_PER_MS;
	if (interval_ms == 0)
		interval_ms = 1;
	c->interval_ns = interval_ms * NS_PER_MS;
	return uv_timer_start(&c->timer, on_tick, interval_ms, interval_ms);
}

/* --- the owner's --------------------------------------------------------------- */

static void on_wake(uv_async_t *wake)
{
	struct connection *c = wake->data;
	struct tide_error failure;
	pthread_mutex_lock(&c->gate.lock);
	bool has_failure = c->gate.has_failure;
	if (has_failure)
		failure = c->gate.failure;
	c->gate.has_failure = false;
	pthread_mutex_unlock(&c->gate.lock);

	if (has_failure)
		fail(c, &failure);
	else
		pump(c);
}

/* Any thread, also with the queue's lock held. */
static void wake_loop(void *arg)
{
	struct connection *c = arg;
	pthread_mutex_lock(&c->gate.lock);
	if (c->gate.is_open)
		uv_async_send(&c->wake);
	pthread_mutex_unlock(&c->gate.lock);
}

static void connection_free(struct connection *c)
{
	if (!c)
		return;
	frame_reader_free(c->reader);
	frame_buffer_release(&c->last_words);
	free(c->discard);
	send_queue_release(&c->queue);
	pthread_mutex_destroy(&c->gate.lock);
	free(c);
}
DEFINE_GUARD(struct connection, connection_free)

static struct connection *connection_new(uv_loop_t *loop, const struct connection_options *options)
{
	struct connection *c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	size_t bound = options->queue_bytes ? options->queue_bytes : CONNECTION_QUEUE_BYTES;
	if (send_queue_init(&c->queue, bound, wake_loop, c) < 0) {
		free(c);
		return NULL;
	}
	pthread_mutex_init(&c->gate.lock, NULL); /* cannot fail with the default kind */
	c->loop = loop;
	c->loop_thread = pthread_self();
	c->direction = options->direction;
	c->timeout_ns = options->timeout_ns ? options->timeout_ns : CONNECTION_TIMEOUT_NS;
	atomic_init(&c->refs, 1);
	return c;
}

static int open_parts(struct connection *c, struct tide_error *err)
{
	int r = frame_reader_new(true, &c->reader, err);
	if (r < 0)
		return r;
	preamble_encode(c->preamble);
	frame_header_encode(&(struct frame){.type = FRAME_PING}, c->ping);
	frame_header_encode(&(struct frame){.type = FRAME_PONG}, c->pong);
	r = uv_async_init(c->loop, &c->wake, on_wake);
	return r < 0 ? tide_fail(err, r, "talk to %s", c->peer.name) : 0;
}

int connection_open(uv_loop_t *loop, struct byte_stream *stream,
	const struct connection_options *options, const struct connection_handler *handler,
	struct connection **ret, struct tide_error *err)
{
	auto_(connection_freep) struct connection *c = connection_new(loop, options);
	int r = c ? 0 : tide_fail(err, -ENOMEM, "talk to %s", stream->peer.name);
	if (r == 0) {
		c->peer = stream->peer;
		r = open_parts(c, err);
	}
	if (r < 0) {
		byte_stream_close(stream, NULL, NULL);
		return r;
	}

	/* From here on there is a handle, and only connection_close() ends it. */
	c->stream = stream;
	c->handler = *handler;
	c->wake.data = c;
	c->gate.is_open = true;
	uv_timer_init(loop, &c->timer); /* cannot fail */
	c->timer.data = c;
	keep_alive_begin(c);
	read_begin(c);
	wake_loop(c); /* for the preamble */
	*ret = take(c);
	return 0;
}

static void on_part_closed(void *arg)
{
	struct connection *c = arg;
	if (--c->closing_parts > 0)
		return;
	flushes_drop(c, take(c->dropped));
	connection_close_fn closed = c->closed;
	void *closed_arg = c->closed_arg;
	connection_unref(c);
	if (closed)
		closed(closed_arg);
}

static void on_handle_closed(uv_handle_t *handle)
{
	on_part_closed(handle->data);
}

void connection_close(struct connection *c, connection_close_fn done, void *arg)
{
	if (!c)
		return;
	assert(c->state != STATE_CLOSING);
	c->state = STATE_CLOSING;
	c->closed = done;
	c->closed_arg = arg;

	struct tide_error err;
	tide_fail(&err, -EPIPE, "the connection to %s was closed", c->peer.name);
	struct send_flush *dropped = send_queue_end(&c->queue, &err);
	struct send_flush **last = &c->dropped;
	while (*last)
		last = &(*last)->next;
	*last = dropped;

	pthread_mutex_lock(&c->gate.lock);
	c->gate.is_open = false;
	pthread_mutex_unlock(&c->gate.lock);

	c->closing_parts = 3;
	byte_stream_close(take(c->stream), on_part_closed, c);
	uv_close((uv_handle_t *)&c->wake, on_handle_closed);
	uv_close((uv_handle_t *)&c->timer, on_handle_closed);
	if (c->handler.gone)
		c->handler.gone(c->handler.arg);
}

struct connection *connection_ref(struct connection *c)
{
	atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	return c;
}

void connection_unref(struct connection *c)
{
	if (c && atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) == 1)
		connection_free(c);
}

void connection_set_handler(struct connection *c, const struct connection_handler *handler)
{
	void (*gone)(void *arg) = c->handler.gone;
	void *arg = c->handler.arg;
	c->handler = *handler;
	if (gone)
		gone(arg);
}

const struct byte_stream_peer *connection_peer(const struct connection *c)
{
	return &c->peer;
}

uv_loop_t *connection_loop(const struct connection *c)
{
	return c->loop;
}

void connection_limit(struct connection *c, struct frame_limits limits)
{
	frame_reader_limit(c->reader, limits);
}

static bool on_loop_thread(const struct connection *c)
{
	return pthread_equal(c->loop_thread, pthread_self());
}

int connection_send(struct connection *c, struct frame_buffer *b, struct tide_error *err)
{
	return send_queue_put(&c->queue, b, on_loop_thread(c) ? SEND_FORCE : SEND_WAIT, err);
}

void connection_pace(struct connection *c, struct shared_pacing *pacing)
{
	send_queue_pace(&c->queue, pacing);
}

int connection_try_send(struct connection *c, struct frame_buffer *b, struct tide_error *err)
{
	return send_queue_put(&c->queue, b, SEND_TRY, err);
}

void connection_buffer_get(struct connection *c, struct frame_buffer *ret)
{
	send_queue_pool_get(&c->queue, ret);
}

void connection_buffer_put(struct connection *c, struct frame_buffer *b)
{
	send_queue_pool_put(&c->queue, b);
}

int connection_flush(struct connection *c, struct tide_error *err)
{
	assert(!on_loop_thread(c));
	struct send_flush f = {0};
	int r = send_queue_put_flush(&c->queue, &f, err);
	return r < 0 ? r : send_queue_wait(&c->queue, &f, err);
}

int connection_flush_then(struct connection *c, connection_flush_fn done, void *arg)
{
	auto_free struct send_flush *f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->done = done;
	f->arg = arg;
	int r = send_queue_put_flush(&c->queue, f, NULL);
	if (r == 0)
		take(f);
	return r;
}

void connection_shutdown(struct connection *c)
{
	struct tide_error why;
	tide_fail(&why, -EPIPE, "%s was shut down", c->peer.name);
	int r = send_queue_put_shutdown(&c->queue, &why);
	if (r == -ENOMEM) {
		tide_fail(&why, r, "shut down %s", c->peer.name);
		connection_fail(c, &why);
	}
}

void connection_fail(struct connection *c, const struct tide_error *err)
{
	pthread_mutex_lock(&c->gate.lock);
	if (c->gate.is_open && !c->gate.has_failure) {
		c->gate.has_failure = true;
		c->gate.failure = *err;
		uv_async_send(&c->wake);
	}
	pthread_mutex_unlock(&c->gate.lock);
}

void connection_pause(struct connection *c)
{
	c->is_paused = true;
	if (c->state == STATE_OPEN || c->state == STATE_DEAF)
		read_cease(c);
}

void connection_resume(struct connection *c)
{
	if (!c->is_paused)
		return;
	c->is_paused = false;
	c->last_received_ns = clock_now_ns();
	read_begin(c);
}

void connection_spare(struct connection *c, struct frame_buffer *b)
{
	frame_reader_spare(c->reader, b);
}

void connection_take(struct connection *c, struct frame_buffer *ret)
{
	frame_reader_take(c->reader, ret);
}

struct connection_stats connection_stats(struct connection *c)
{
	return (struct connection_stats){
		.bytes_sent = atomic_load_explicit(&c->bytes_sent, memory_order_relaxed),
		.bytes_received = atomic_load_explicit(&c->bytes_received, memory_order_relaxed),
		.queued_bytes = send_queue_data_bytes(&c->queue),
	};
}
