/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/units.h"
#include "transport/handshake.h"

/* HELLO, AUTH and ERROR are small; whoever has not said who it is gets no more of our memory. */
static const struct frame_limits handshake_limits = {.head_bytes = 16384, .payload_bytes = 0};

enum step {
	STEP_HELLO, /* waits for the peer's HELLO */
	STEP_AUTH,  /* waits for its AUTH */
	STEP_AGREED,
	STEP_OVER, /* `done` was called */
};

struct handshake {
	struct connection *c;
	enum auth_role role; /* ours */
	enum step step;
	struct auth_key key;
	bool has_key;
	bool insecure_no_auth;
	uint64_t timeout_ns;
	uv_timer_t timer;
	handshake_fn done;
	void *arg;

	struct hello ours;
	struct frame_buffer our_hello, their_hello; /* as they travelled */
	struct handshake_result result;
};

static enum auth_role other(enum auth_role role)
{
	return role == AUTH_CLIENT ? AUTH_AGENT : AUTH_CLIENT;
}

static const char *peer_name(const struct handshake *h)
{
	return connection_peer(h->c)->name;
}

/* --- its end --------------------------------------------------------------- */

static void on_timer_closed(uv_handle_t *timer)
{
	struct handshake *h = timer->data;
	auth_key_clear(&h->key);
	frame_buffer_release(&h->our_hello);
	frame_buffer_release(&h->their_hello);
	free(h);
}

static void on_gone(void *arg)
{
	struct handshake *h = arg;
	uv_close((uv_handle_t *)&h->timer, on_timer_closed);
}

/* The last thing that is done with `h`: its owner closes the connection, or sets another handler,
 * in `done`. */
static void finish(struct handshake *h, const struct tide_error *err)
{
	if (h->step == STEP_OVER)
		return;
	h->step = STEP_OVER;
	uv_timer_stop(&h->timer);
	h->done(h->arg, h->c, err ? NULL : &h->result, err);
}

static void succeed(struct handshake *h)
{
	connection_pause(h->c);
	connection_limit(h->c, h->result.agreement.limits);
	finish(h, NULL);
}

static void on_ended(void *arg, struct connection *c, const struct tide_error *err)
{
	struct handshake *h = arg;
	struct tide_error closed;
	if (!err)
		tide_say(&closed, "%s closed the connection during the handshake", peer_name(h));
	finish(h, err ? err : &closed);
}

static void on_timeout(uv_timer_t *timer)
{
	struct handshake *h = timer->data;
	struct tide_error err;
	char text[UNITS_TEXT];
	tide_fail(&err, -ETIMEDOUT, "finish the handshake with %s within %s", peer_name(h),
		units_format_ns(text, h->timeout_ns));
	connection_fail(h->c, &err);
}

/* --- who may talk to whom --------------------------------------------------------------- */

/* Over a unix socket the kernel says who is there, in either direction. */
static int check_user(const struct handshake *h, struct tide_error *err)
{
	uint32_t uid = connection_peer(h->c)->uid;
	if (auth_uid_is_trusted(uid) || h->insecure_no_auth)
		return 0;
	if (h->role == AUTH_AGENT)
		return tide_fail(err, -EACCES, "let in user %u, who is not the agent's", uid);
	return tide_fail(err, -EACCES,
		"talk to the agent at %s, which runs as user %u (--insecure-no-auth does)",
		peer_name(h), uid);
}

/* Must the client prove itself? */
static int agent_policy(const struct handshake *h, bool *ret_wants_auth, struct tide_error *err)
{
	*ret_wants_auth = false;
	if (connection_peer(h->c)->has_uid)
		return check_user(h, err);
	*ret_wants_auth = h->has_key;
	if (h->has_key || h->insecure_no_auth)
		return 0;
	return tide_fail(err, -EACCES, "let in %s without a key", peer_name(h));
}

/* The key that an agent of the same user on this machine made for itself. */
static int find_key(struct handshake *h, struct tide_error *err)
{
	if (h->has_key)
		return 0;
	const struct byte_stream_peer *peer = connection_peer(h->c);
	int r = peer->is_loopback ? auth_key_find(peer->port, &h->key, err) : -ENOENT;
	h->has_key = r == 0;
	if (r == -ENOENT)
		return tide_fail(err, -EACCES,
			"talk to the agent at %s, which wants a key (--key-file)", peer_name(h));
	return r;
}

static int client_policy(struct handshake *h, bool wants_auth, struct tide_error *err)
{
	bool has_uid = connection_peer(h->c)->has_uid;
	int r = has_uid ? check_user(h, err) : 0;
	if (r == 0 && wants_auth)
		r = find_key(h, err);
	if (r < 0 || wants_auth || has_uid || h->insecure_no_auth)
		return r;
	return tide_fail(err, -EACCES,
		"talk to the agent at %s, which asks for no key and could be anyone "
		"(--insecure-no-auth does)",
		peer_name(h));
}

/* --- what is said --------------------------------------------------------------- */

static struct auth_transcript transcript(const struct handshake *h)
{
	const struct frame_buffer *client =
		h->role == AUTH_CLIENT ? &h->our_hello : &h->their_hello;
	const struct frame_buffer *agent = h->role == AUTH_CLIENT ? &h->their_hello : &h->our_hello;
	return (struct auth_transcript){
		.client = client->data + FRAME_HEADER_BYTES,
		.client_bytes = client->bytes - FRAME_HEADER_BYTES,
		.agent = agent->data + FRAME_HEADER_BYTES,
		.agent_bytes = agent->bytes - FRAME_HEADER_BYTES,
	};
}

static int send_hello(struct handshake *h, bool wants_auth, struct tide_error *err)
{
	auto_(frame_buffer_release) struct frame_buffer copy = {0};
	h->ours.wants_auth = wants_auth;
	int r = hello_encode(&h->ours, &h->our_hello);
	if (r == 0)
		r = hello_encode(&h->ours, &copy);
	if (r < 0)
		return tide_fail(err, r, "greet %s", peer_name(h));
	return connection_send(h->c, &copy, err);
}

static int send_auth(struct handshake *h, struct tide_error *err)
{
	struct auth_transcript t = transcript(h);
	struct auth auth;
	int r = auth_prove(&h->key, h->role, &t, auth.proof, err);
	if (r < 0)
		return r;
	auto_(frame_buffer_release) struct frame_buffer b = {0};
	r = auth_encode(&auth, &b);
	if (r < 0)
		return tide_fail(err, r, "answer %s", peer_name(h));
	return connection_send(h->c, &b, err);
}

/* The agent greets after the client, and is done where it wants no key. */
static int agent_answer(struct handshake *h, struct tide_error *err)
{
	bool wants_auth;
	int r = agent_policy(h, &wants_auth, err);
	if (r == 0)
		r = send_hello(h, wants_auth, err);
	if (r == 0)
		h->step = wants_auth ? STEP_AUTH : STEP_AGREED;
	return r;
}

static int client_answer(struct handshake *h, struct tide_error *err)
{
	bool wants_auth = h->result.peer.wants_auth;
	int r = client_policy(h, wants_auth, err);
	if (r == 0 && wants_auth)
		r = send_auth(h, err);
	if (r == 0)
		h->step = wants_auth ? STEP_AUTH : STEP_AGREED;
	return r;
}

static int take_hello(struct handshake *h, const struct frame *f, struct tide_error *err)
{
	int r = hello_decode(f, &h->result.peer, err);
	if (r == 0)
		r = hello_agree(&h->ours, &h->result.peer, &h->result.agreement, err);
	if (r < 0)
		return r;
	connection_take(h->c, &h->their_hello);
	return h->role == AUTH_AGENT ? agent_answer(h, err) : client_answer(h, err);
}

static int take_auth(struct handshake *h, const struct frame *f, struct tide_error *err)
{
	struct auth auth;
	int r = auth_decode(f, &auth, err);
	if (r < 0)
		return r;
	struct auth_transcript t = transcript(h);
	if (!auth_check(&h->key, other(h->role), &t, auth.proof))
		return tide_fail(err, -EACCES,
			h->role == AUTH_AGENT ? "let in %s, whose key is not the agent's"
					      : "talk to the agent at %s, whose key is not ours",
			peer_name(h));
	if (h->role == AUTH_AGENT) {
		r = send_auth(h, err);
		if (r < 0)
			return r;
	}
	h->step = STEP_AGREED;
	return 0;
}

static int take_frame(struct handshake *h, const struct frame *f, struct tide_error *err)
{
	if (h->step == STEP_HELLO && f->type == FRAME_HELLO)
		return take_hello(h, f, err);
	if (h->step == STEP_AUTH && f->type == FRAME_AUTH)
		return take_auth(h, f, err);
	/* Of a later version, which says that it may be skipped. */
	if (!(f->flags & FRAME_CRITICAL) && f->type != FRAME_HELLO && f->type != FRAME_AUTH)
		return 0;
	char name[16];
	return tide_bad(err, "%s sent %s where %s was to come", peer_name(h),
		frame_type_name(f->type, name), h->step == STEP_HELLO ? "HELLO" : "AUTH");
}

static void on_frame(void *arg, struct connection *c, const struct frame *f)
{
	struct handshake *h = arg;
	struct tide_error err = {0};
	if (h->step == STEP_OVER)
		return;
	if (f->type == FRAME_ERROR) {
		handshake_peer_error(c, h->role == AUTH_CLIENT ? "agent" : "client", f, &err);
		finish(h, &err);
		return;
	}

	if (take_frame(h, f, &err) < 0)
		connection_fail(c, &err);
	else if (h->step == STEP_AGREED)
		succeed(h);
}

/* --- its beginning --------------------------------------------------------------- */

static int start(struct connection *c, enum auth_role role, const struct handshake_options *options,
	handshake_fn done, void *arg, struct tide_error *err)
{
	auto_free struct handshake *h = calloc(1, sizeof(*h));
	if (!h)
		return tide_fail(err, -ENOMEM, "greet %s", connection_peer(c)->name);
	h->c = c;
	h->role = role;
	h->insecure_no_auth = options->insecure_no_auth;
	h->timeout_ns = options->timeout_ns ? options->timeout_ns : CONNECTION_TIMEOUT_NS;
	h->done = done;
	h->arg = arg;
	h->has_key = options->key;
	if (options->key)
		h->key = *options->key;
	int r = hello_init(&h->ours, err);
	if (r < 0)
		return r;
	if (options->features)
		h->ours.features = options->features;
	if (role == AUTH_CLIENT)
		r = send_hello(h, false, err);
	if (r < 0) {
		frame_buffer_release(&h->our_hello);
		return r;
	}

	uv_timer_init(connection_loop(c), &h->timer); /* cannot fail */
	h->timer.data = h;
	uv_update_time(connection_loop(c));
	uv_timer_start(&h->timer, on_timeout, (h->timeout_ns + NS_PER_MS - 1) / NS_PER_MS, 0);
	connection_limit(c, handshake_limits);
	connection_set_handler(
		c, &(struct connection_handler){
			   .frame = on_frame, .ended = on_ended, .gone = on_gone, .arg = take(h)});
	return 0;
}

int handshake_client_start(struct connection *c, const struct handshake_options *options,
	handshake_fn done, void *arg, struct tide_error *err)
{
	return start(c, AUTH_CLIENT, options, done, arg, err);
}

int handshake_agent_start(struct connection *c, const struct handshake_options *options,
	handshake_fn done, void *arg, struct tide_error *err)
{
	return start(c, AUTH_AGENT, options, done, arg, err);
}

int handshake_peer_error(const struct connection *c, const char *who, const struct frame *frame,
	struct tide_error *err)
{
	struct error_message m;
	int r = error_message_decode(frame, &m, err);
	if (r < 0)
		return r;
	return tide_fail_kind(err, m.kind, -ECANCELED, "the %s at %s says: %s", who,
		connection_peer(c)->name, m.text);
}
