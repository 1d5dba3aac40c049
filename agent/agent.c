/* SPDX-License-Identifier: MIT */
/*
 * A listener, and sessions behind it. The loop moves bytes between connections and bounded queues;
 * each session has a thread, which may wait for the disk. Where a queue is full nothing is read, so
 * that the sender waits.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include "agent/crew.h"
#include "agent/inbox.h"
#include "agent/session.h"
#include "agent/store.h"
#include "base/error.h"
#include "base/parallel.h"
#include "tidemark/agent.h"
#include "transport/auth.h"
#include "transport/connection.h"
#include "transport/handshake.h"
#include "transport/listener.h"

/* What waits for a session, unless the options say another bound. */
#define QUEUE_BYTES ((uint64_t)32 << 20)

/* Replies are small. */
#define REPLY_QUEUE_BYTES ((size_t)1 << 20)

/* At a time, unless the options say another number. */
#define CLIENTS_MAX 64

/*
 * A sender's connection. The loop owns it; its first frame tells what it is for. OPEN begins a
 * session, which a thread of its own runs; JOIN makes it one more lane of such a session, whose
 * client is then its `owner`. It is freed when the connection is closed and the thread has been
 * joined.
 */
struct client {
	struct tide_agent *agent;
	struct client *prev, *next;
	struct connection *conn; /* NULL once it is being closed */
	struct byte_stream_peer peer;
	uint64_t features; /* that were agreed on */
	uint64_t at;       /* where the next frame begins, the first one at 0 */
	bool is_paused;    /* its lane is full, and nothing is read */
	bool is_closed;    /* the connection is */

	struct client *owner; /* itself, another one, or NULL: not known yet, or gone */
	unsigned lane;        /* in the owner's inbox */
	bool is_ended;        /* JOIN's owner is done with it: what still comes is nobody's */
	uint8_t session_id[ID_BYTES];

	pthread_t thread;
	bool has_thread;                /* until it is joined */
	struct connection *thread_conn; /* the thread's reference */

	struct inbox inbox;

	pthread_mutex_t lock;     /* of what follows */
	uint64_t lanes_with_room; /* bits; the loop has not looked at them yet */
	bool is_answered;         /* COMMITTED is on its way, or about to be */
	bool is_finished;         /* the thread is at its end */
	bool has_end_error;       /* why the connection ended */
	struct tide_error end_error;
	bool has_error; /* why the session failed */
	struct tide_error error;
	char name[NAME_MAX_BYTES + 1];
	bool is_committed;
	struct committed committed;
	struct session_stats stats;
};

struct tide_agent {
	uv_loop_t *loop;
	uint64_t queue_bytes;
	uint64_t timeout_ns;
	unsigned clients_max;
	unsigned threads; /* of each session */
	bool insecure_no_auth;
	struct auth_key key;
	bool has_key;
	struct auth_key_file *key_file;
	struct tide_agent_callbacks callbacks;
	void *arg;

	struct store *store;
	struct listener *listener; /* NULL once it is being closed */
	char address[TIDE_ADDRESS_TEXT];
	bool is_listener_closed;
	bool is_closing;
	tide_agent_closed_fn closed;
	void *closed_arg;

	struct client *clients;
	unsigned nclients;
	uv_async_t wake; /* a thread has something for the loop */
};

static void agent_check_closed(struct tide_agent *a);
static void client_has_room(void *arg, unsigned lane);

/* --- clients ------------------------------------------------------------------------------ */

static struct client *client_new(struct tide_agent *a)
{
	struct client *c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	if (inbox_init(&c->inbox, a->queue_bytes, client_has_room, c) < 0) {
		free(c);
		return NULL;
	}
	c->agent = a;
	pthread_mutex_init(&c->lock, NULL);
	c->next = a->clients;
	if (c->next)
		c->next->prev = c;
	a->clients = c;
	a->nclients++;
	return c;
}

/* The other connections of a session that is over. */
static void client_let_lanes_go(struct client *c)
{
	for (struct client *lane = c->agent->clients; lane; lane = lane->next) {
		if (lane->owner != c || lane == c)
			continue;
		lane->owner = NULL;
		lane->is_ended = true;
		if (!lane->conn)
			continue;
		if (c->has_error)
			connection_fail(lane->conn, &c->error);
		else
			connection_shutdown(lane->conn);
		if (lane->is_paused)
			connection_resume(lane->conn);
	}
}

static void client_free_when_done(struct client *c)
{
	struct tide_agent *a = c->agent;
	if (!c->is_closed || c->has_thread)
		return;
	client_let_lanes_go(c);
	if (c->prev)
		c->prev->next = c->next;
	else
		a->clients = c->next;
	if (c->next)
		c->next->prev = c->prev;
	a->nclients--;

	inbox_release(&c->inbox);
	pthread_mutex_destroy(&c->lock);
	free(c);
	agent_check_closed(a);
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

static void client_has_room(void *arg, unsigned lane)
{
	struct client *c = arg;
	pthread_mutex_lock(&c->lock);
	c->lanes_with_room |= UINT64_C(1) << lane;
	pthread_mutex_unlock(&c->lock);
	client_wake_loop(c);
}

static int client_reply(void *arg, struct frame_buffer *reply, struct tide_error *err)
{
	struct client *c = arg;
	struct frame_header h;
	if (frame_header_decode(reply->data, &frame_limits_max, &h, NULL) == 0 &&
		h.type == FRAME_COMMITTED) {
		pthread_mutex_lock(&c->lock);
		c->is_answered = true;
		pthread_mutex_unlock(&c->lock);
	}
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
	return tide_prefix(err, r, "%s closed the connection: ", c->peer.name);
}

static int client_run_session(struct client *c, struct session *s, struct tide_error *err)
{
	switch (crew_run(s, &c->inbox, c->agent->threads, err)) {
	case CREW_DONE:
		return 0;
	case CREW_NO_MORE:
		return client_explain_end(c, s, err);
	case CREW_FAILED:
		break;
	}
	return err->code;
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
		.shared = true,
	};
	struct session *s = NULL;
	int r = session_new(&options, &s, &err);
	if (r == 0)
		r = client_run_session(c, s, &err);

	/* Read by the loop once `is_finished`. */
	if (s) {
		c->is_committed = session_committed(s, &c->committed);
		c->stats = session_stats(s);
		snprintf(c->name, sizeof(c->name), "%s", session_name(s));
	}
	/* What was not committed is gone before the sender hears of it. */
	session_free(s);
	if (r < 0)
		connection_fail(c->thread_conn, &err);
	else
		connection_shutdown(c->thread_conn);

	pthread_mutex_lock(&c->lock);
	c->has_error = r < 0;
	c->error = err;
	c->is_finished = true;
	client_wake_loop(c);
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

/* --- the loop's side of a session --------------------------------------------------------- */

static void agent_trouble(struct tide_agent *a, const struct tide_error *err)
{
	if (a->callbacks.trouble)
		a->callbacks.trouble(a->arg, err);
}

/* The thread leaves the signals to the program whose library we are. */
static int client_start(struct client *c)
{
	sigset_t all, before;
	sigfillset(&all);
	c->thread_conn = connection_ref(c->conn);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = -pthread_create(&c->thread, NULL, client_thread, c);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	c->has_thread = r == 0;
	if (r < 0) {
		connection_unref(c->thread_conn);
		c->thread_conn = NULL;
	}
	return r;
}

static void client_end(struct client *c, const struct tide_error *err, bool abort)
{
	pthread_mutex_lock(&c->lock);
	if (err && !c->has_end_error) {
		c->end_error = *err;
		c->has_end_error = true;
	}
	pthread_mutex_unlock(&c->lock);
	inbox_close(&c->inbox, abort);
}

/* Nobody knows what to do with its bytes. */
static void client_refuse(struct client *c, const struct tide_error *err)
{
	agent_trouble(c->agent, err);
	connection_fail(c->conn, err);
	c->is_ended = true;
}

static struct client *find_session(struct tide_agent *a, const uint8_t id[ID_BYTES])
{
	for (struct client *c = a->clients; c; c = c->next) {
		if (c->owner == c && memcmp(c->session_id, id, ID_BYTES) == 0)
			return c;
	}
	return NULL;
}

/* The session's number is a secret of the client's; that both connections are the same user's was
 * checked where the kernel tells. */
static int find_owner(
	struct client *c, const struct frame *frame, struct client **ret, struct tide_error *err)
{
	struct join_request m;
	int r = join_request_decode(frame, &m, err);
	if (r < 0)
		return r;
	struct client *owner = find_session(c->agent, m.session_id);
	if (!owner || !owner->conn || !owner->has_thread ||
		owner->peer.has_uid != c->peer.has_uid || owner->peer.uid != c->peer.uid)
		return tide_say(
			err, "refused %s: there is no session that it could join", c->peer.name);
	if (!(owner->features & c->features & FEATURE_STREAMS))
		return tide_say(
			err, "refused %s: joining a session was not agreed on", c->peer.name);
	*ret = owner;
	return 0;
}

static void client_join(struct client *c, const struct frame *frame)
{
	struct tide_error err = {0};
	struct client *owner = NULL;
	auto_(frame_buffer_release) struct frame_buffer out = {0};
	int r = find_owner(c, frame, &owner, &err);
	int lane = r < 0 ? r : inbox_add_lane(&owner->inbox);
	if (lane == -EMFILE)
		tide_say(&err, "refused %s: its session has %d connections", c->peer.name,
			INBOX_LANES_MAX);
	if (lane < 0) {
		client_refuse(c, &err);
		return;
	}
	c->owner = owner;
	c->lane = (unsigned)lane;
	struct join_reply reply;
	memcpy(reply.session_id, owner->session_id, ID_BYTES);
	r = join_reply_encode(&reply, &out);
	if (r == 0)
		r = connection_send(c->conn, &out, &err);
	if (r < 0)
		client_refuse(c, &err);
}

/* OPEN, or what is wrong in its place: the session says so. */
static void client_open(struct client *c, const struct frame *frame)
{
	struct open_request m;
	struct tide_error err = {0};
	if (open_request_decode(frame, &m, NULL) == 0)
		memcpy(c->session_id, m.session_id, ID_BYTES);
	int r = client_start(c);
	if (r < 0) {
		tide_fail(&err, r, "start a session for %s", c->peer.name);
		client_refuse(c, &err);
		return;
	}
	c->owner = c;
}

/* Something else than pages in a lane beside the first. */
static void client_no_pages(struct client *c, const struct frame *frame)
{
	struct tide_error err = {0};
	char name[16];
	if (frame->type == FRAME_ERROR) {
		handshake_peer_error(c->conn, "client", frame, &err);
		client_end(c->owner, &err, false);
	} else if (frame->flags & FRAME_CRITICAL) {
		tide_bad(&err, "%s sent a %s frame where only pages travel", c->peer.name,
			frame_type_name(frame->type, name));
		connection_fail(c->conn, &err);
	}
	c->at += FRAME_HEADER_BYTES + frame->head_bytes + frame->payload_bytes;
}

static void on_frame(void *arg, struct connection *conn, const struct frame *frame)
{
	struct client *c = arg;
	if (!c->owner && !c->is_ended && frame->type == FRAME_JOIN) {
		c->at += FRAME_HEADER_BYTES + frame->head_bytes + frame->payload_bytes;
		client_join(c, frame);
		return;
	}
	if (!c->owner && !c->is_ended)
		client_open(c, frame);
	if (!c->owner)
		return;

	struct tide_error err = {0};
	if (c->owner != c && frame->type != FRAME_PAGES) {
		client_no_pages(c, frame);
		return;
	}
	struct waiting *w = calloc(1, sizeof(*w));
	if (!w) {
		tide_fail(&err, -ENOMEM, "take a frame of %s", c->peer.name);
		connection_fail(conn, &err);
		return;
	}
	struct frame_buffer spare;
	connection_take(conn, &w->raw);
	inbox_spare(&c->owner->inbox, &spare);
	connection_spare(conn, &spare);
	w->frame = *frame;
	w->offset = c->at;
	w->lane = c->lane;
	c->at += w->raw.bytes;
	c->is_paused = inbox_put(&c->owner->inbox, w);
	if (c->is_paused)
		connection_pause(conn);
}

static void on_ended(void *arg, struct connection *conn, const struct tide_error *err)
{
	struct client *c = arg;
	struct tide_error gone;
	if (c->owner && c->owner != c && !err) {
		tide_say(&gone, "%s closed one of its connections", c->peer.name);
		err = &gone;
	}
	if (!c->owner && !c->is_ended) {
		tide_say(&gone, "%s closed the connection before it said what for", c->peer.name);
		agent_trouble(c->agent, err ? err : &gone);
	}
	if (c->owner)
		client_end(c->owner, err, false);
	client_close(c);
}

/* Ends a session that is not wanted any more, whatever it is at. */
static void client_abort(struct client *c, const char *why)
{
	struct tide_error err = {0};
	tide_say(&err, "%s", why);
	client_end(c, &err, true);
	/* One that has committed is shutting down by itself: its last reply must not be lost. */
	struct client *session = c->owner ? c->owner : c;
	pthread_mutex_lock(&session->lock);
	bool is_done = session->is_answered || session->is_finished;
	pthread_mutex_unlock(&session->lock);
	if (c->conn && !is_done)
		connection_fail(c->conn, &err);
}

static void client_finish(struct client *c)
{
	struct tide_agent *a = c->agent;
	pthread_join(c->thread, NULL);
	c->has_thread = false;
	/* In good order only behind the first connection: what is said there last must come before
	 * their end. */
	if (c->has_error)
		client_let_lanes_go(c);
	connection_unref(c->thread_conn);
	c->thread_conn = NULL;

	struct tide_agent_session session = {
		.peer = c->peer.name,
		.name = c->name,
		.committed = c->is_committed,
		.stored_bytes = c->committed.stored_bytes,
		.rounds = c->stats.rounds,
		.pages = c->stats.pages,
		.bytes = c->stats.bytes,
	};
	/* A sender that does not hear of its commit concerns nobody here. */
	bool has_failed = c->has_error && !c->is_committed;
	if (a->callbacks.session_ended)
		a->callbacks.session_ended(a->arg, &session, has_failed ? &c->error : NULL);
	client_free_when_done(c);
}

static void client_read_on(struct client *c, uint64_t lanes)
{
	for (struct client *lane = c->agent->clients; lanes && lane; lane = lane->next) {
		if (lane->owner != c || !(lanes >> lane->lane & 1) || !lane->is_paused ||
			!lane->conn)
			continue;
		lane->is_paused = false;
		connection_resume(lane->conn);
	}
}

/* A thread has something to tell. */
static void on_wake(uv_async_t *wake)
{
	struct tide_agent *a = wake->data;
	for (struct client *c = a->clients, *next; c; c = next) {
		next = c->next;
		pthread_mutex_lock(&c->lock);
		uint64_t lanes = c->lanes_with_room;
		bool is_finished = c->is_finished;
		c->lanes_with_room = 0;
		pthread_mutex_unlock(&c->lock);
		client_read_on(c, lanes);
		if (is_finished && c->has_thread)
			client_finish(c);
	}
	agent_check_closed(a);
}

/* --- letting in --------------------------------------------------------------------------- */

static void on_handshake(void *arg, struct connection *conn, const struct handshake_result *result,
	const struct tide_error *err)
{
	struct client *c = arg;
	struct tide_agent *a = c->agent;
	if (err) {
		agent_trouble(a, err);
		client_close(c);
		return;
	}

	struct connection_handler handler = {.frame = on_frame, .ended = on_ended, .arg = c};
	connection_set_handler(conn, &handler);
	c->features = result->agreement.features;
	connection_resume(conn);
}

/* Before the handshake nothing comes here. */
static void ignore_frame(void *arg, struct connection *conn, const struct frame *frame)
{
}

static void on_accept(void *arg, struct byte_stream *stream, const struct tide_error *accept_error)
{
	struct tide_agent *a = arg;
	struct tide_error err = {0};
	if (!stream) {
		agent_trouble(a, accept_error);
		return;
	}
	if (a->nclients >= a->clients_max) {
		tide_say(&err, "refused %s: %u others are connected", stream->peer.name,
			a->nclients);
		byte_stream_close(stream, NULL, NULL);
		agent_trouble(a, &err);
		return;
	}

	struct client *c = client_new(a);
	if (!c) {
		tide_fail(&err, -ENOMEM, "let in %s", stream->peer.name);
		byte_stream_close(stream, NULL, NULL);
		agent_trouble(a, &err);
		return;
	}
	c->peer = stream->peer;

	struct connection_options options = {
		.queue_bytes = REPLY_QUEUE_BYTES, .timeout_ns = a->timeout_ns};
	struct connection_handler handler = {.frame = ignore_frame, .ended = on_ended, .arg = c};
	struct handshake_options greeting = {
		.key = a->has_key ? &a->key : NULL,
		.insecure_no_auth = a->insecure_no_auth,
		.timeout_ns = a->timeout_ns,
	};
	int r = connection_open(a->loop, stream, &options, &handler, &c->conn, &err);
	if (r < 0) {
		c->is_closed = true;
		agent_trouble(a, &err);
		client_free_when_done(c);
		return;
	}
	r = handshake_agent_start(c->conn, &greeting, on_handshake, c, &err);
	if (r < 0) {
		agent_trouble(a, &err);
		client_close(c);
	}
}

/* --- beginning and end -------------------------------------------------------------------- */

/* TCP needs a key, unless the user wants none; on loopback one is made. */
static int agent_find_key(
	struct tide_agent *a, const struct tide_agent_options *o, struct tide_error *err)
{
	const struct tide_address *address = listener_address(a->listener);
	if (o->key_file) {
		int r = auth_key_read(o->key_file, &a->key, err);
		a->has_key = r == 0;
		return r;
	}
	if (address->kind != TIDE_ADDRESS_TCP || a->insecure_no_auth)
		return 0;
	if (!tide_address_is_loopback(address))
		return tide_fail_kind(err, TIDE_ERROR_USAGE, -ECANCELED,
			"listening beyond loopback takes a key (--key-file), or "
			"--insecure-no-auth");
	int r = auth_key_file_make(address->port, &a->key_file, err);
	if (r < 0)
		return r;
	a->key = *auth_key_file_key(a->key_file);
	a->has_key = true;
	return 0;
}

/* What is left when the listener and all clients are gone, or never were. */
static void agent_free(struct tide_agent *a)
{
	if (!a)
		return;
	listener_close(a->listener, NULL, NULL);
	auth_key_file_close(a->key_file);
	auth_key_clear(&a->key);
	store_close(a->store);
	free(a);
}
DEFINE_GUARD(struct tide_agent, agent_free)

int tide_agent_start(uv_loop_t *loop, const struct tide_agent_options *options,
	const struct tide_agent_callbacks *callbacks, void *arg, struct tide_agent **ret,
	struct tide_error *err)
{
	auto_(agent_freep) struct tide_agent *a = calloc(1, sizeof(*a));
	if (!a)
		return tide_fail(err, -ENOMEM, "start an agent");
	a->loop = loop;
	a->queue_bytes = options->queue_bytes ? options->queue_bytes : QUEUE_BYTES;
	a->clients_max = options->clients_max ? options->clients_max : CLIENTS_MAX;
	a->threads = options->threads ? options->threads : parallel_processors();
	a->timeout_ns = options->timeout_ns;
	a->insecure_no_auth = options->insecure_no_auth;
	a->callbacks = *callbacks;
	a->arg = arg;

	struct listener_options listening = {.insecure_listen = options->insecure_listen};
	int r = store_open(options->store, STORE_WRITE, &a->store, err);
	if (r == 0)
		r = store_sweep(a->store, NULL, err);
	if (r == 0)
		r = listener_open(
			loop, &options->listen, &listening, on_accept, a, &a->listener, err);
	if (r == 0)
		r = agent_find_key(a, options, err);
	if (r < 0)
		return r;
	r = uv_async_init(loop, &a->wake, on_wake);
	if (r < 0)
		return tide_fail(err, r, "start an agent");
	a->wake.data = a;
	tide_address_format(listener_address(a->listener), a->address);
	*ret = take(a);
	return 0;
}

const char *tide_agent_address(const struct tide_agent *a)
{
	return a->address;
}

const char *tide_agent_key_path(const struct tide_agent *a)
{
	return a->key_file ? auth_key_file_path(a->key_file) : NULL;
}

static void on_listener_closed(void *arg)
{
	struct tide_agent *a = arg;
	a->is_listener_closed = true;
	agent_check_closed(a);
}

void tide_agent_stop_listening(struct tide_agent *a)
{
	if (a->listener)
		listener_close(take(a->listener), on_listener_closed, a);
}

static void on_wake_closed(uv_handle_t *handle)
{
	struct tide_agent *a = handle->data;
	tide_agent_closed_fn closed = a->closed;
	void *arg = a->closed_arg;
	agent_free(a);
	if (closed)
		closed(arg);
}

static void agent_check_closed(struct tide_agent *a)
{
	if (!a->is_closing || a->clients || !a->is_listener_closed ||
		uv_is_closing((uv_handle_t *)&a->wake))
		return;
	uv_close((uv_handle_t *)&a->wake, on_wake_closed);
}

void tide_agent_close(struct tide_agent *a, tide_agent_closed_fn done, void *arg)
{
	a->is_closing = true;
	a->closed = done;
	a->closed_arg = arg;
	for (struct client *c = a->clients; c; c = c->next)
		client_abort(c, "the agent ends");
	tide_agent_stop_listening(a);
	/* There may be nothing left that would close and call back. */
	uv_async_send(&a->wake);
}
