/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <uv.h>
#include "base/units.h"
#include "cli/command.h"
#include "cli/output.h"
#include "tidemark/agent.h"

struct agent_options {
	struct tide_agent_options agent;
	bool has_address;
	bool once;
	bool json;
};

struct serving {
	struct agent_options options;
	uv_loop_t loop;
	uv_signal_t on_int, on_term;
	struct tide_agent *agent;
	int status;
};

enum {
	OPTION_INSECURE_LISTEN = 256,
	OPTION_INSECURE_NO_AUTH,
	OPTION_KEY_FILE,
	OPTION_ONCE,
	OPTION_THREADS,
	OPTION_TIMEOUT,
};

static const struct argp_option option_table[] = {
	{"listen", 'l', "ADDRESS", 0, "tcp://HOST:PORT (port 0 picks one) or unix:PATH", 1},
	{"store", 's', "DIR", 0, "Where images are kept; made where it is missing", 1},
	{"once", OPTION_ONCE, NULL, 0, "End after one session; exit status 1 where it failed", 1},
	{"threads", OPTION_THREADS, "N", 0,
		"Threads of each session, which decode and store (default: one a processor)", 1},
	{"timeout", OPTION_TIMEOUT, "TIME", 0,
		"A client that is silent for this long is dead (default 30s)", 1},
	{NULL, 0, NULL, 0, "Who may send:", 2},
	{"key-file", OPTION_KEY_FILE, "FILE", 0,
		"The key that TCP clients must hold: 64 hexadecimal digits, readable by its owner "
		"alone. Without it an "
		"agent on loopback makes one, which a `tidemark send` of the same user finds by "
		"itself",
		2},
	{"insecure-listen", OPTION_INSECURE_LISTEN, NULL, 0,
		"Listen beyond loopback: what is sent is neither sealed nor hidden on its way", 2},
	{"insecure-no-auth", OPTION_INSECURE_NO_AUTH, NULL, 0, "Let in whoever comes by TCP", 2},
	OPTION_JSON,
	{0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct agent_options *o = state->input;
	struct tide_error err;
	switch (key) {
	case 'l':
		if (tide_address_parse(arg, &o->agent.listen, &err) < 0)
			argp_error(state, "%s", err.text);
		o->has_address = true;
		return 0;
	case 's':
		o->agent.store = arg;
		return 0;
	case OPTION_ONCE:
		o->once = true;
		return 0;
	case OPTION_THREADS:
		o->agent.threads = (unsigned)option_count(state, "--threads", arg, 1, 64);
		return 0;
	case OPTION_TIMEOUT:
		o->agent.timeout_ns = option_ns(state, "--timeout", arg);
		return 0;
	case OPTION_KEY_FILE:
		o->agent.key_file = arg;
		return 0;
	case OPTION_INSECURE_LISTEN:
		o->agent.insecure_listen = 1;
		return 0;
	case OPTION_INSECURE_NO_AUTH:
		o->agent.insecure_no_auth = 1;
		return 0;
	case 'j':
		o->json = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "'%s' is one argument too many", arg);
		return 0;
	case ARGP_KEY_END:
		if (!o->has_address || !o->agent.store)
			argp_error(state, "--listen and --store are needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_table,
	.parser = parse_option,
	.args_doc = "--listen ADDRESS --store DIR",
	.doc = "Receive processes from `tidemark send` and keep them as images. Prints `listening "
	       "on ADDRESS` once it does, "
	       "and a line for each session. SIGTERM and Ctrl-C end it; sessions that run then "
	       "leave nothing behind.",
};

static void close_agent(struct serving *s)
{
	if (!s->agent)
		return;
	tide_agent_close(s->agent, NULL, NULL);
	s->agent = NULL;
	uv_close((uv_handle_t *)&s->on_int, NULL);
	uv_close((uv_handle_t *)&s->on_term, NULL);
}

static void on_signal(uv_signal_t *handle, int signal)
{
	(void)signal;
	close_agent(handle->data);
}

static void print_session(struct serving *s, const struct tide_agent_session *e)
{
	enum { NAME, PEER, STORED, ROUNDS, PAGES, RECEIVED };
	static const struct column columns[] = {
		[NAME] = {"name", NULL, CELL_TEXT, 0},
		[PEER] = {"peer", NULL, CELL_TEXT, 0},
		[STORED] = {"stored_bytes", NULL, CELL_BYTES, 0},
		[ROUNDS] = {"rounds", NULL, CELL_COUNT, 0},
		[PAGES] = {"pages", NULL, CELL_COUNT, 0},
		[RECEIVED] = {"received_bytes", NULL, CELL_BYTES, 0},
	};
	if (!s->options.json) {
		char stored[UNITS_TEXT];
		printf("%s: %s, %" PRIu64 " rounds, from %s\n", e->name,
			units_format_bytes(stored, e->stored_bytes), e->rounds, e->peer);
		fflush(stdout);
		return;
	}
	struct table *t =
		table_new(stdout, columns, sizeof(columns) / sizeof(columns[0]), true, "session");
	table_text(t, NAME, e->name);
	table_text(t, PEER, e->peer);
	table_number(t, STORED, e->stored_bytes);
	table_number(t, ROUNDS, e->rounds);
	table_number(t, PAGES, e->pages);
	table_number(t, RECEIVED, e->bytes);
	table_row(t);
	table_free(t);
}

static void on_session_ended(
	void *arg, const struct tide_agent_session *session, const struct tide_error *err)
{
	struct serving *s = arg;
	int status = EXIT_DONE;
	if (err)
		status = command_fail(err);
	else
		print_session(s, session);
	if (s->options.once) {
		s->status = status;
		close_agent(s);
	}
}

static void on_trouble(void *arg, const struct tide_error *err)
{
	(void)arg;
	command_fail(err);
}

static void announce(struct serving *s)
{
	enum { ADDRESS, STORE, KEY };
	static const struct column columns[] = {
		[ADDRESS] = {"address", NULL, CELL_TEXT, 0},
		[STORE] = {"store", NULL, CELL_TEXT, 0},
		[KEY] = {"key_file", NULL, CELL_TEXT, 0},
	};
	const char *key = tide_agent_key_path(s->agent);
	if (!s->options.json) {
		printf("listening on %s\n", tide_agent_address(s->agent));
		if (key)
			printf("key in %s\n", key);
		fflush(stdout);
		return;
	}
	struct table *t =
		table_new(stdout, columns, sizeof(columns) / sizeof(columns[0]), true, "listening");
	table_text(t, ADDRESS, tide_agent_address(s->agent));
	table_text(t, STORE, s->options.agent.store);
	if (key)
		table_text(t, KEY, key);
	table_row(t);
	table_free(t);
}

int command_agent(int argc, char **argv)
{
	static const struct tide_agent_callbacks callbacks = {
		.session_ended = on_session_ended, .trouble = on_trouble};
	struct tide_error err = {0};
	auto_free struct serving *s = calloc(1, sizeof(*s));
	if (!s)
		return EXIT_FAILED;
	command_parse(&argp, argc, argv, &s->options);

	uv_loop_init(&s->loop);
	if (tide_agent_start(&s->loop, &s->options.agent, &callbacks, s, &s->agent, &err) < 0) {
		s->status = command_fail(&err);
	} else {
		uv_signal_init(&s->loop, &s->on_int);
		uv_signal_init(&s->loop, &s->on_term);
		s->on_int.data = s->on_term.data = s;
		uv_signal_start(&s->on_int, on_signal, SIGINT);
		uv_signal_start(&s->on_term, on_signal, SIGTERM);
		announce(s);
	}
	uv_run(&s->loop, UV_RUN_DEFAULT);
	uv_loop_close(&s->loop);
	return s->status;
}
