/* SPDX-License-Identifier: MIT */
/*
 * Sessions behind a listener. The loop receives frames and queues them; a thread for each session
 * takes them out, checks and stores them, and replies. A session whose queue is full is not read
 * from until there is room: then the client waits.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/session.h"
#include "agent/store.h"
#include "base/error.h"
#include "tidemark/agent.h"
#include "transport/auth.h"
#include "transport/handshake.h"
#include "transport/listener.h"

#define QUEUE_BYTES ((uint64_t)32 << 20)

struct tide_agent {
	uv_loop_t *loop;
	struct store *store;
	struct listener *listener;
	char address[TIDE_ADDRESS_TEXT];
	struct auth_key_file *made_key;
	struct auth_key key;
	bool has_key;
	bool insecure_no_auth;
	uint64_t timeout_ns, queue_bytes;
	struct tide_agent_callbacks callbacks;
	void *arg;
	struct client *clients;
	bool closing, listener_closed;
	tide_agent_closed_fn closed;
	void *closed_arg;
};

/* A frame that waits to be stored; it owns its bytes. */
struct queued {
	struct queued *next;
	struct frame frame;
	struct frame_buffer raw;
	uint64_t offset;
};

/* Whoever connected, from the handshake to the end. */
struct client {
	struct client *next;
	struct tide_agent *agent;
	struct connection *conn;
	struct session *session; /* the thread's */
	struct {
		char name[NAME_MAX_BYTES + 1];
		bool committed;
		uint64_t stored_bytes;
		struct session_stats stats;
	} outcome;       /* written by the thread before it ends */
	uv_async_t wake; /* thread to loop: there is room, or it has ended */
	pthread_t thread;
	bool has_thread;
	uint64_t features;
	uint64_t received; /* of the session's stream, bytes */
	int to_close;      /* handles that are not closed yet */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Guarded by the lock. */
	struct queued *first, **last;
	uint64_t queued_bytes;
	bool paused;
	bool input_ended;
	bool thread_ended;
	bool failed;
	struct tide_error error; /* the first */
};

/* --- the session's thread
 * --------------------------------------------------------------------------- */

static void note_error(struct client *c, const struct tide_error *err)
{
	pthread_mutex_lock(&c->lock);
	if (!c->failed) {
		c->failed = true;
		c->error = *err;
	}
	pthread_mutex_unlock(&c->lock);
}

static int reply(void *arg, struct frame_buffer *frame, struct tide_error *err)
{
	struct client *c = arg;
	return connection_send(c->conn, frame, err);
}

/* The next frame, or NULL at the end of the input. */
static struct queued *next_frame(struct client *c)
{
	pthread_mutex_lock(&c->lock);
	while (!c->first && !c->input_ended)
		pthread_cond_wait(&c->changed, &c->lock);
	struct queued *q = c->first;
	if (q) {
		c->first = q->next;
		if (!c->first)
			c->last = &c->first;
		c->queued_bytes -= q->raw.bytes;
		if (c->paused && c->queued_bytes < c->agent->queue_bytes / 2)
			uv_async_send(&c->wake);
	}
	pthread_mutex_unlock(&c->lock);
	return q;
}

static void queued_free(struct queued *q)
{
	frame_buffer_release(&q->raw);
	free(q);
}

/* Frees the session, which takes what was not committed away from the disk: on this thread, because
 * that may take a while. */
static void finish_session(struct client *c)
{
	struct committed done = {0};
	c->outcome.committed = session_committed(c->session, &done);
	c->outcome.stored_bytes = done.stored_bytes;
	c->outcome.stats = session_stats(c->session);
	snprintf(c->outcome.name, sizeof(c->outcome.name), "%s", session_name(c->session));
	session_free(take(c->session));
}

static void *run_session(void *arg)
{
	struct client *c = arg;
	struct tide_error err;
	struct queued *q;
	bool failed = false;
	while ((q = next_frame(c))) {
		/* After a failure what still comes is thrown away: the client reads why, and ends.
		 */
		if (!failed && session_frame(c->session, &q->frame, &q->raw, q->offset, &err) < 0) {
			failed = true;
			note_error(c, &err);
			connection_fail(c->conn, &err);
		}
		queued_free(q);
	}
	if (!failed && session_end(c->session, &err) < 0)
		note_error(c, &err);
	finish_session(c);

	pthread_mutex_lock(&c->lock);
	c->thread_ended = true;
	pthread_mutex_unlock(&c->lock);
	uv_async_send(&c->wake);
	return NULL;
}

/* --- the loop
 * --------------------------------------------------------------------------------------- */

static void agent_free(struct tide_agent *a)
{
	if (!a->closing || !a->listener_closed || a->clients)
		return;
	tide_agent_closed_fn closed = a->closed;
	void *arg = a->closed_arg;
	auth_key_file_close(a->made_key);
	auth_key_clear(&a->key);
	store_close(a->store);
	free(a);
	if (closed)
		closed(arg);
}

static void report(struct client *c)
{
	struct tide_agent *a = c->agent;
	struct tide_agent_session s = {
		.peer = connection_peer(c->conn)->name,
		.name = c->outcome.name,
		.committed = c->outcome.committed,
		.stored_bytes = c->outcome.stored_bytes,
		.rounds = c->outcome.stats.rounds,
		.pages = c->outcome.stats.pages,
		.bytes = c->outcome.stats.bytes,
	};
	/* What happens to a connection after the commit concerns nobody. */
	bool failed = c->failed && !s.committed;
	if (a->callbacks.session_ended && !a->closing)
		a->callbacks.session_ended(a->arg, &s, failed ? &c->error : NULL);
}

static void client_closed(struct client *c)
{
	if (--c->to_close > 0)
		return;
	struct tide_agent *a = c->agent;
	struct client **at = &a->clients;
	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	pthread_mutex_destroy(&c->lock);
	pthread_cond_destroy(&c->changed);
	free(c);
	agent_free(a);
}

static void on_connection_closed(void *arg)
{
	client_closed(arg);
}

static void on_wake_closed(uv_handle_t *handle)
{
	client_closed(handle->data);
}

/* The thread has ended, or there never was one: the rest follows. */
static void client_close(struct client *c)
{
	if (c->has_thread)
		pthread_join(c->thread, NULL);
	report(c);
	c->to_close = 2;
	connection_close(take(c->conn), on_connection_closed, c);
	uv_close((uv_handle_t *)&c->wake, on_wake_closed);
}

static void on_wake(uv_async_t *wake)
{
	struct client *c = wake->data;
	pthread_mutex_lock(&c->lock);
	bool ended = c->thread_ended;
	bool resume = !ended && c->paused && c->queued_bytes < c->agent->queue_bytes / 2;
	if (resume)
		c->paused = false;
	pthread_mutex_unlock(&c->lock);
	if (resume)
		connection_resume(c->conn);
	if (ended && c->conn)
		client_close(c);
}

static void end_input(struct client *c, const struct tide_error *err)
{
	if (err)
		note_error(c, err);
	pthread_mutex_lock(&c->lock);
	c->input_ended = true;
	pthread_cond_signal(&c->changed);
	pthread_mutex_unlock(&c->lock);
	if (!c->has_thread)
		client_close(c);
}

static void on_frame(void *arg, struct connection *conn, const struct frame *frame)
{
	struct client *c = arg;
	struct queued *q = calloc(1, sizeof(*q));
	struct tide_error err;
	if (!q) {
		tide_fail(&err, -ENOMEM, "keep a frame");
		connection_fail(conn, &err);
		return;
	}
	q->frame = *frame;
	q->offset = c->received;
	connection_take(conn, &q->raw);
	c->received += q->raw.bytes;

	pthread_mutex_lock(&c->lock);
	*c->last = q;
	c->last = &q->next;
	c->queued_bytes += q->raw.bytes;
	bool full = c->queued_bytes > c->agent->queue_bytes;
	c->paused = full;
	pthread_cond_signal(&c->changed);
	pthread_mutex_unlock(&c->lock);
	if (full)
		connection_pause(conn);
}

static void on_ended(void *arg, struct connection *conn, const struct tide_error *err)
{
	(void)conn;
	end_input(arg, err);
}

/* The thread inherits a mask that leaves the signals to the program whose library we are. */
static int start_thread(struct client *c)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = -pthread_create(&c->thread, NULL, run_session, c);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	c->has_thread = r == 0;
	return r;
}

/* Before the handshake has the connection, and when nothing that comes matters any more. */
static void ignore_frame(void *arg, struct connection *conn, const struct frame *frame)
{
	(void)arg;
	(void)conn;
	(void)frame;
}

static void on_handshake(void *arg, struct connection *conn, const struct handshake_result *result,
	const struct tide_error *failed)
{
	struct client *c = arg;
	struct tide_error err;
	if (failed) {
		end_input(c, failed);
		return;
	}
	struct session_options options = {
		.store = c->agent->store,
		.reply = reply,
		.arg = c,
		.features = result->agreement.features,
	};
	int r = session_new(&options, &c->session, &err);
	if (r == 0) {
		r = start_thread(c);
		if (r < 0)
			tide_fail(&err, r, "start a session");
	}
	if (r < 0) {
		session_free(take(c->session));
		connection_set_handler(
			conn, &(struct connection_handler){
				      .frame = ignore_frame, .ended = on_ended, .arg = c});
		connection_fail(conn, &err);
		return;
	}
	connection_set_handler(
		conn, &(struct connection_handler){.frame = on_frame, .ended = on_ended, .arg = c});
	connection_resume(conn);
}

static void trouble(struct tide_agent *a, const struct tide_error *err)
{
	if (a->callbacks.trouble && !a->closing)
		a->callbacks.trouble(a->arg, err);
}

static int greet(struct client *c, struct byte_stream *stream, struct tide_error *err)
{
	struct tide_agent *a = c->agent;
	struct connection_options options = {.timeout_ns = a->timeout_ns};
	struct connection_handler handler = {.frame = ignore_frame, .ended = on_ended, .arg = c};
	struct handshake_options handshake = {
		.key = a->has_key    ? &a->key
		       : a->made_key ? auth_key_file_key(a->made_key)
				     : NULL,
		.insecure_no_auth = a->insecure_no_auth,
		.timeout_ns = a->timeout_ns,
	};
	int r = connection_open(a->loop, stream, &options, &handler, &c->conn, err);
	return r < 0 ? r : handshake_agent_start(c->conn, &handshake, on_handshake, c, err);
}

static void on_accept(void *arg, struct byte_stream *stream, const struct tide_error *failed)
{
	struct tide_agent *a = arg;
	struct tide_error err;
	if (failed) {
		trouble(a, failed);
		return;
	}
	struct client *c = calloc(1, sizeof(*c));
	if (!c || uv_async_init(a->loop, &c->wake, on_wake) < 0) {
		free(c);
		byte_stream_close(stream, NULL, NULL);
		tide_fail(&err, -ENOMEM, "let somebody in");
		trouble(a, &err);
		return;
	}
	c->wake.data = c;
	c->agent = a;
	c->last = &c->first;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->changed, NULL);
	c->next = a->clients;
	a->clients = c;
	if (greet(c, stream, &err) < 0) {
		trouble(a, &err);
		c->to_close = c->conn ? 2 : 1;
		if (c->conn)
			connection_close(take(c->conn), on_connection_closed, c);
		uv_close((uv_handle_t *)&c->wake, on_wake_closed);
	}
}

static void on_listener_closed(void *arg)
{
	struct tide_agent *a = arg;
	a->listener_closed = true;
	agent_free(a);
}

/* A key for TCP: the user's; on loopback one of our own; elsewhere there must be one, or a word
 * that there is none. */
static int prepare_key(
	struct tide_agent *a, const struct tide_agent_options *o, struct tide_error *err)
{
	if (o->key_file) {
		int r = auth_key_read(o->key_file, &a->key, err);
		a->has_key = r == 0;
		return r;
	}
	const struct tide_address *address = listener_address(a->listener);
	if (address->kind != TIDE_ADDRESS_TCP || o->insecure_no_auth)
		return 0;
	if (!tide_address_is_loopback(address))
		return tide_fail_kind(err, TIDE_ERROR_USAGE, -ECANCELED,
			"listening beyond loopback takes a key (--key-file), or "
			"--insecure-no-auth");
	return auth_key_file_make(address->port, &a->made_key, err);
}

static void agent_abandon(struct tide_agent *a)
{
	a->closing = true;
	if (a->listener) {
		listener_close(a->listener, on_listener_closed, a);
		return;
	}
	a->listener_closed = true;
	agent_free(a);
}

int tide_agent_start(uv_loop_t *loop, const struct tide_agent_options *options,
	const struct tide_agent_callbacks *callbacks, void *arg, struct tide_agent **ret,
	struct tide_error *err)
{
	struct tide_agent *a = calloc(1, sizeof(*a));
	if (!a)
		return tide_fail(err, -ENOMEM, "start an agent");
	a->loop = loop;
	a->insecure_no_auth = options->insecure_no_auth;
	a->timeout_ns = options->timeout_ns;
	a->queue_bytes = options->queue_bytes ? options->queue_bytes : QUEUE_BYTES;
	a->callbacks = *callbacks;
	a->arg = arg;

	struct listener_options listen = {.insecure_listen = options->insecure_listen};
	int r = store_open(options->store, STORE_WRITE, &a->store, err);
	if (r == 0)
		r = store_sweep(a->store, NULL, err);
	if (r == 0)
		r = listener_open(loop, &options->listen, &listen, on_accept, a, &a->listener, err);
	if (r == 0)
		r = prepare_key(a, options, err);
	if (r < 0) {
		agent_abandon(a);
		return r;
	}
	tide_address_format(listener_address(a->listener), a->address);
	*ret = a;
	return 0;
}

const char *tide_agent_address(const struct tide_agent *a)
{
	return a->address;
}

const char *tide_agent_key_path(const struct tide_agent *a)
{
	return a->made_key ? auth_key_file_path(a->made_key) : NULL;
}

void tide_agent_stop_listening(struct tide_agent *a)
{
	if (a->listener)
		listener_close(take(a->listener), on_listener_closed, a);
}

void tide_agent_close(struct tide_agent *a, tide_agent_closed_fn done, void *arg)
{
	struct tide_error err;
	a->closing = true;
	a->closed = done;
	a->closed_arg = arg;
	tide_fail_kind(&err, TIDE_ERROR_FAILED, -ECANCELED, "the agent ends");
	for (struct client *c = a->clients; c; c = c->next) {
		if (c->conn)
			connection_fail(c->conn, &err);
	}
	if (a->listener)
		tide_agent_stop_listening(a);
	else
		agent_free(a);
}
