/* SPDX-License-Identifier: MIT */
/* The agent as embedders see it. */
#include <errno.h>
#include <stdlib.h>
#include "agent/agent.h"
#include "base/error.h"
#include "tidemark/agent.h"

struct tide_agent {
	struct agent *agent;
	char address[TIDE_ADDRESS_TEXT];
	struct tide_agent_callbacks callbacks;
	void *arg;
	tide_agent_closed_fn closed;
	void *closed_arg;
};

static void on_ended(void *arg, const struct agent_session *session, const struct tide_error *err)
{
	struct tide_agent *a = arg;
	struct tide_agent_session s = {
		.peer = session->peer,
		.name = session->name,
		.committed = session->is_committed,
		.stored_bytes = session->committed.stored_bytes,
		.rounds = session->stats.rounds,
		.pages = session->stats.pages,
		.bytes = session->stats.bytes,
	};
	if (a->callbacks.session_ended)
		a->callbacks.session_ended(a->arg, &s, err);
}

static void on_refused(void *arg, const struct tide_error *err)
{
	struct tide_agent *a = arg;
	if (a->callbacks.trouble)
		a->callbacks.trouble(a->arg, err);
}

static void on_stopped(void *arg)
{
	struct tide_agent *a = arg;
	tide_agent_closed_fn closed = a->closed;
	void *closed_arg = a->closed_arg;
	agent_free(a->agent);
	free(a);
	if (closed)
		closed(closed_arg);
}

int tide_agent_start(uv_loop_t *loop, const struct tide_agent_options *o,
	const struct tide_agent_callbacks *callbacks, void *arg, struct tide_agent **ret,
	struct tide_error *err)
{
	struct auth_key key;
	struct tide_agent *a = calloc(1, sizeof(*a));
	if (!a)
		return tide_fail(err, -ENOMEM, "start an agent");
	a->callbacks = *callbacks;
	a->arg = arg;
	struct agent_options options = {
		.store = o->store,
		.key = o->key_file ? &key : NULL,
		.insecure_listen = o->insecure_listen,
		.insecure_no_auth = o->insecure_no_auth,
		.queue_bytes = o->queue_bytes,
		.timeout_ns = o->timeout_ns,
	};
	struct agent_callbacks inner = {
		.ended = on_ended, .refused = on_refused, .stopped = on_stopped};
	int r = o->key_file ? auth_key_read(o->key_file, &key, err) : 0;
	if (r == 0)
		r = agent_start(loop, &o->listen, &options, &inner, a, &a->agent, err);
	if (o->key_file)
		auth_key_clear(&key);
	if (r < 0) {
		free(a);
		return r;
	}
	tide_address_format(agent_address(a->agent), a->address);
	*ret = a;
	return 0;
}

const char *tide_agent_address(const struct tide_agent *a)
{
	return a->address;
}

const char *tide_agent_key_path(const struct tide_agent *a)
{
	return agent_key_path(a->agent);
}

void tide_agent_close(struct tide_agent *a, tide_agent_closed_fn done, void *arg)
{
	a->closed = done;
	a->closed_arg = arg;
	agent_stop(a->agent);
}
