/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "agent/agent.h"
#include "base/clock.h"
#include "base/error.h"
#include "transport/connection.h"
#include "transport/handshake.h"
#include "transport/listener.h"

/* Replies are small. */
#define REPLY_QUEUE_BYTES ((size_t)1 << 20)

/* A frame that waits for its session. */
struct waiting {
	struct waiting *next;
	struct frame_buffer raw;
	struct frame frame; /* borrows `raw` */
	uint64_t offset;
	size_t cost_bytes;
};

/*
 * A sender. The loop owns it and its connection; its thread, once there is one, runs the session.
 * It is freed when the connection is closed and the thread has been joined.
 */
struct client {
	struct agent *agent;
	struct client *prev, *next;
	struct connection *conn; /* NULL once it is being closed */
	struct agent_session report;
	uint64_t began_ns;
	uint64_t features;  /* that were agreed on */
	uint64_t at;        /* where the next frame begins, the first one at 0 */
	bool is_paused;     /* the queue is full, and nothing is read */
	bool is_closed;     /* the connection is */
	bool was_announced; /* `opened` was called */

	pthread_t thread;
	bool has_thread;                /* until it is joined */
	struct connection *thread_conn; /* the thread's reference */

	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t changed;
	struct waiting *first, **last;
	size_t waiting_bytes;
	bool has_ended;  /* nothing more comes */
	bool is_aborted; /* nothing more is to be done */
	bool wants_room; /* the loop waits for the queue to become shorter */
	bool has_room;   /* it did */
	bool is_opened;
	bool is_finished;   /* the thread is at its end */
	bool has_end_error; /* why the connection ended */
	struct tide_error end_error;
	bool has_error; /* why the session failed */
	struct tide_error error;
};

struct agent {
	uv_loop_t *loop;
	struct agent_options options;
	struct auth_key key;
	bool has_key;
	struct auth_key_file *key_file;
	struct agent_callbacks callbacks;
	void *arg;

	struct store *store;
	size_t swept;
	struct listener *listener; /* NULL once it is being closed */
	struct tide_address address;
	bool is_listener_closed;
	bool is_stopping, is_stopped;

	struct client *clients;
	unsigned nclients;
	uint64_t next_number;
	uint64_t the_one; /* with `once`: the first session that was opened; else 0 */
	uv_async_t wake;  /* a thread has something for the loop */
};

static void agent_check_stopped(struct agent *a);

/* --- clients ------------------------------------------------------------------------------ */

static struct client *client_new(struct agent *a)
{
	struct client *c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->agent = a;
	c->last = &c->first;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->changed, NULL);
	c->next = a->clients;
	if (c->next)
		c->next->prev = c;
	a->clients = c;
	a->nclients++;
	return c;
}

static void waiting_free(struct waiting *w)
{
	if (w)
		frame_buffer_release(&w->raw);
	free(w);
}
DEFINE_GUARD(struct waiting, waiting_free)

static void client_free_when_done(struct client *c)
{
	struct agent *a = c->agent;
	if (!c->is_closed || c->has_thread)
		return;
	if (c->prev)
		c->prev->next = c->next;
	else
		a->clients = c->next;
	if (c->next)
		c->next->prev = c->prev;
	a->nclients--;

	while (c->first) {
		struct waiting *w = c->first;
		c->first = w->next;
		waiting_free(w);
	}
	pthread_cond_destroy(&c->changed);
	pthread_mutex_destroy(&c->lock);
	free(c);
	agent_check_stopped(a);
}

static void on_closed(void *arg)
{
	struct client *c = arg;
	c->is_closed = true;
	client_free_when_done(c);
}

static void client_close(struct client *c)
{
	if (!c->conn)
		return;
	struct connection *conn = c->conn;
	c->conn = NULL;
	connection_close(conn, on_closed, c);
}

/* --- the session's thread ----------------------------------------------------------------- */

/* Asks the loop to look at the client. With the lock held or not. */
static void client_wake_loop(struct client *c)
{
	uv_async_send(&c->agent->wake);
}

/* The next frame, or NULL where there will be none. */
static struct waiting *client_next(struct client *c)
{
	pthread_mutex_lock(&c->lock);
	while (!c->first && !c->has_ended && !c->is_aborted)
		pthread_cond_wait(&c->changed, &c->lock);
	struct waiting *w = c->is_aborted ? NULL : c->first;
	if (w) {
		c->first = w->next;
		if (!c->first)
			c->last = &c->first;
		c->waiting_bytes -= w->cost_bytes;
		if (c->wants_room && c->waiting_bytes <= c->agent->options.queue_bytes / 2) {
			c->wants_room = false;
			c->has_room = true;
			client_wake_loop(c);
		}
	}
	pthread_mutex_unlock(&c->lock);
	return w;
}

static int client_reply(void *arg, struct frame_buffer *reply, struct tide_error *err)
{
	struct client *c = arg;
	return connection_send(c->thread_conn, reply, err);
}

/* The stream ended before its commit, or we do. */
static int client_explain_end(struct client *c, struct session *s, struct tide_error *err)
{
	pthread_mutex_lock(&c->lock);
	bool has_error = c->has_end_error;
	struct tide_error why = c->end_error;
	pthread_mutex_unlock(&c->lock);
	if (has_error) {
		*err = why;
		return why.code;
	}
	int r = session_end(s, err);
	return tide_prefix(err, r, "%s closed the connection: ", c->report.peer);
}

static void client_note(struct client *c, const struct session *s)
{
	bool is_new = false;
	pthread_mutex_lock(&c->lock);
	c->report.stats = session_stats(s);
	if (!c->is_opened && c->report.stats.phase > SESSION_OPEN &&
		c->report.stats.phase != SESSION_FAILED) {
		c->is_opened = is_new = true;
		snprintf(c->report.name, sizeof(c->report.name), "%s", session_name(s));
	}
	pthread_mutex_unlock(&c->lock);
	if (is_new)
		client_wake_loop(c);
}

static int client_run_session(struct client *c, struct session *s, struct tide_error *err)
{
	while (session_stats(s).phase != SESSION_DONE) {
		auto_(waiting_freep) struct waiting *w = client_next(c);
		if (!w)
			return client_explain_end(c, s, err);
		int r = session_frame(s, &w->frame, &w->raw, w->offset, err);
		client_note(c, s);
		if (r < 0)
			return r;
	}
	return 0;
}

static void *client_thread(void *arg)
{
	struct client *c = arg;
	struct tide_error err = {0};
	struct session_options options = {
		.store = c->agent->store,
		.reply = client_reply,
		.arg = c,
		.features = c->features,
	};
	struct session *s = NULL;
	int r = session_new(&options, &s, &err);
	if (r == 0)
		r = client_run_session(c, s, &err);

	struct committed committed;
	bool is_committed = s && session_committed(s, &committed);
	/* What was not committed is gone before the sender hears of it. */
	session_free(s);
	if (r < 0)
		connection_fail(c->thread_conn, &err);
	else
		connection_shutdown(c->thread_conn);

	pthread_mutex_lock(&c->lock);
	c->report.is_committed = is_committed;
	if (is_committed)
		c->report.committed = committed;
	c->has_error = r < 0;
	c->error = err;
	c->is_finished = true;
	client_wake_loop(c);
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

/* --- the loop's side of a session --------------------------------------------------------- */

static void client_end(struct client *c, const struct tide_error *err, bool abort)
{
	pthread_mutex_lock(&c->lock);
	if (err && !c->has_ended) {
		c->end_error = *err;
		c->has_end_error = true;
	}
	c->has_ended = true;
	c->is_aborted |= abort;
	pthread_cond_signal(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

static void on_frame(void *arg, struct connection *conn, const struct frame *frame)
{
	struct client *c = arg;
	struct waiting *w = calloc(1, sizeof(*w));
	if (!w) {
		struct tide_error err = {0};
		tide_fail(&err, -ENOMEM, "take a frame of %s", c->report.peer);
		connection_fail(conn, &err);
		return;
	}
	connection_take(conn, &w->raw);
	w->frame = *frame;
	w->offset = c->at;
	w->cost_bytes = sizeof(*w) + w->raw.cap;
	c->at += w->raw.bytes;

	pthread_mutex_lock(&c->lock);
	*c->last = w;
	c->last = &w->next;
	c->waiting_bytes += w->cost_bytes;
	c->is_paused = c->wants_room = c->waiting_bytes >= c->agent->options.queue_bytes;
	pthread_cond_signal(&c->changed);
	pthread_mutex_unlock(&c->lock);
	if (c->is_paused)
		connection_pause(conn);
}

static void on_ended(void *arg, struct connection *conn, const struct tide_error *err)
{
	struct client *c = arg;
	client_end(c, err, false);
	client_close(c);
}

/* Ends a session that is not wanted any more, whatever it is at. */
static void client_abort(struct client *c, const char *why)
{
	struct tide_error err = {0};
	tide_say(&err, "%s", why);
	client_end(c, &err, true);
	if (c->conn)
		connection_fail(c->conn, &err);
}

static void on_listener_closed(void *arg)
{
	struct agent *a = arg;
	a->is_listener_closed = true;
	agent_check_stopped(a);
}

static void agent_close_listener(struct agent *a)
{
	struct listener *listener = a->listener;
	a->listener = NULL;
	if (listener)
		listener_close(listener, on_listener_closed, a);
}

/* `once`: this session, and no other. */
static void agent_take_only(struct agent *a, struct client *only)
{
	a->the_one = only->report.number;
	agent_close_listener(a);
	for (struct client *c = a->clients; c; c = c->next) {
		if (c != only)
			client_abort(c, "this agent takes one session, and has it");
	}
}

static void client_announce(struct client *c)
{
	struct agent *a = c->agent;
	pthread_mutex_lock(&c->lock);
	bool is_new = c->is_opened && !c->was_announced;
	struct agent_session report = c->report;
	pthread_mutex_unlock(&c->lock);
	if (!is_new)
		return;
	c->was_announced = true;
	if (a->options.once && !a->the_one)
		agent_take_only(a, c);
	if (a->callbacks.opened)
		a->callbacks.opened(a->arg, &report);
}

static void client_finish(struct client *c)
{
	struct agent *a = c->agent;
	pthread_join(c->thread, NULL);
	c->has_thread = false;
	connection_unref(c->thread_conn);
	c->thread_conn = NULL;
	c->report.duration_ns = clock_now_ns() - c->began_ns;
	if (a->callbacks.ended)
		a->callbacks.ended(a->arg, &c->report, c->has_error ? &c->error : NULL);
	if (a->the_one == c->report.number)
		agent_stop(a);
	client_free_when_done(c);
}

/* A thread has something to tell. */
static void on_wake(uv_async_t *wake)
{
	struct agent *a = wake->data;
	for (struct client *c = a->clients, *next; c; c = next) {
		next = c->next;
		client_announce(c);
		pthread_mutex_lock(&c->lock);
		bool has_room = c->has_room, is_finished = c->is_finished;
		c->has_room = false;
		pthread_mutex_unlock(&c->lock);
		if (has_room && c->is_paused && c->conn) {
			c->is_paused = false;
			connection_resume(c->conn);
		}
		if (is_finished && c->has_thread)
			client_finish(c);
	}
	agent_check_stopped(a);
}

/* --- letting in --------------------------------------------------------------------------- */

static void agent_refuse(struct agent *a, const struct tide_error *err)
{
	if (a->callbacks.refused)
		a->callbacks.refused(a->arg, err);
}

static void on_handshake(void *arg, struct connection *conn, const struct handshake_result *result,
	const struct tide_error *err)
{
	struct client *c = arg;
	struct agent *a = c->agent;
	if (err) {
		agent_refuse(a, err);
		client_close(c);
		return;
	}

	struct connection_handler handler = {.frame = on_frame, .ended = on_ended, .arg = c};
	connection_set_handler(conn, &handler);
	c->features = result->agreement.features;
	c->began_ns = clock_now_ns();
	c->thread_conn = connection_ref(conn);
	int r = pthread_create(&c->thread, NULL, client_thread, c);
	if (r) {
		struct tide_error why = {0};
		tide_fail(&why, -r, "start a session for %s", c->report.peer);
		connection_unref(c->thread_conn);
		c->thread_conn = NULL;
		connection_fail(conn, &why);
		agent_refuse(a, &why);
	} else {
		c->has_thread = true;
	}
	connection_resume(conn);
}

/* Before the handshake nothing comes here. */
static void ignore_frame(void *arg, struct connection *conn, const struct frame *frame)
{
}

static void on_accept(void *arg, struct byte_stream *stream, const struct tide_error *accept_error)
{
	struct agent *a = arg;
	struct tide_error err = {0};
	if (!stream) {
		agent_refuse(a, accept_error);
		return;
	}
	if (a->nclients >= a->options.clients_max) {
		tide_say(&err, "refused %s: %u others are connected", stream->peer.name,
			a->nclients);
		byte_stream_close(stream, NULL, NULL);
		agent_refuse(a, &err);
		return;
	}

	struct client *c = client_new(a);
	if (!c) {
		tide_fail(&err, -ENOMEM, "let in %s", stream->peer.name);
		byte_stream_close(stream, NULL, NULL);
		agent_refuse(a, &err);
		return;
	}
	c->report.number = a->next_number++;
	snprintf(c->report.peer, sizeof(c->report.peer), "%s", stream->peer.name);

	struct connection_options options = {
		.queue_bytes = REPLY_QUEUE_BYTES, .timeout_ns = a->options.timeout_ns};
	struct connection_handler handler = {.frame = ignore_frame, .ended = on_ended, .arg = c};
	struct handshake_options greeting = {
		.key = a->has_key ? &a->key : NULL,
		.insecure_no_auth = a->options.insecure_no_auth,
		.timeout_ns = a->options.timeout_ns,
	};
	int r = connection_open(a->loop, stream, &options, &handler, &c->conn, &err);
	if (r < 0) {
		c->is_closed = true;
		agent_refuse(a, &err);
		client_free_when_done(c);
		return;
	}
	r = handshake_agent_start(c->conn, &greeting, on_handshake, c, &err);
	if (r < 0) {
		agent_refuse(a, &err);
		client_close(c);
	}
}

/* --- beginning and end -------------------------------------------------------------------- */

/* TCP needs a key, unless the user wants none; on loopback one is made. */
static int agent_find_key(
	struct agent *a, const struct tide_address *address, struct tide_error *err)
{
	if (a->options.key) {
		a->key = *a->options.key;
		a->has_key = true;
	}
	a->options.key = NULL;
	if (address->kind != TIDE_ADDRESS_TCP || a->has_key || a->options.insecure_no_auth ||
		tide_address_is_loopback(address))
		return 0;
	return tide_fail_kind(err, TIDE_ERROR_USAGE, -ECANCELED,
		"listening beyond this machine needs a key (--key-file), or --insecure-no-auth");
}

static int agent_make_key(struct agent *a, struct tide_error *err)
{
	if (a->address.kind != TIDE_ADDRESS_TCP || a->has_key || a->options.insecure_no_auth)
		return 0;
	int r = auth_key_file_make(a->address.port, &a->key_file, err);
	if (r < 0)
		return r;
	a->key = *auth_key_file_key(a->key_file);
	a->has_key = true;
	return 0;
}

static void agent_release(struct agent *a)
{
	auth_key_file_close(a->key_file);
	a->key_file = NULL;
	auth_key_clear(&a->key);
	store_close(a->store);
	a->store = NULL;
}

void agent_free(struct agent *a)
{
	if (!a)
		return;
	assert(a->is_stopped);
	agent_release(a);
	free(a);
}

static void agent_discard(struct agent *a)
{
	if (!a)
		return;
	listener_close(a->listener, NULL, NULL);
	agent_release(a);
	free(a);
}
DEFINE_GUARD(struct agent, agent_discard)

int agent_start(uv_loop_t *loop, const struct tide_address *address,
	const struct agent_options *options, const struct agent_callbacks *callbacks, void *arg,
	struct agent **ret, struct tide_error *err)
{
	auto_(agent_discardp) struct agent *a = calloc(1, sizeof(*a));
	if (!a)
		return tide_fail(err, -ENOMEM, "start the agent");
	a->loop = loop;
	a->options = *options;
	a->callbacks = *callbacks;
	a->arg = arg;
	a->next_number = 1;
	if (!a->options.queue_bytes)
		a->options.queue_bytes = AGENT_QUEUE_BYTES;
	if (!a->options.clients_max)
		a->options.clients_max = AGENT_CLIENTS_MAX;

	int r = agent_find_key(a, address, err);
	if (r == 0)
		r = store_open(options->store, STORE_WRITE, &a->store, err);
	a->options.store = NULL;
	if (r == 0)
		r = store_sweep(a->store, &a->swept, err);
	if (r < 0)
		return r;

	struct listener_options listening = {.insecure_listen = options->insecure_listen};
	r = listener_open(loop, address, &listening, on_accept, a, &a->listener, err);
	if (r < 0)
		return r;
	a->address = *listener_address(a->listener);
	r = agent_make_key(a, err);
	if (r < 0)
		return r;
	r = uv_async_init(loop, &a->wake, on_wake);
	if (r < 0)
		return tide_fail(err, r, "start the agent");
	a->wake.data = a;
	*ret = take(a);
	return 0;
}

const struct tide_address *agent_address(const struct agent *a)
{
	return &a->address;
}

const char *agent_key_path(const struct agent *a)
{
	return a->key_file ? auth_key_file_path(a->key_file) : NULL;
}

size_t agent_swept(const struct agent *a)
{
	return a->swept;
}

static void on_wake_closed(uv_handle_t *handle)
{
	struct agent *a = handle->data;
	a->is_stopped = true;
	agent_release(a);
	if (a->callbacks.stopped)
		a->callbacks.stopped(a->arg);
}

static void agent_check_stopped(struct agent *a)
{
	if (!a->is_stopping || a->clients || !a->is_listener_closed ||
		uv_is_closing((uv_handle_t *)&a->wake))
		return;
	uv_close((uv_handle_t *)&a->wake, on_wake_closed);
}

void agent_stop(struct agent *a)
{
	if (a->is_stopping)
		return;
	a->is_stopping = true;
	for (struct client *c = a->clients; c; c = c->next)
		client_abort(c, "the agent is being stopped");
	agent_close_listener(a);
	/* There may be nothing left that would close and call back. */
	uv_async_send(&a->wake);
}
