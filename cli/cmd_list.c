/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include "agent/store.h"
#include "cli/command.h"
#include "cli/output.h"

struct list_options {
	const char *store;
	bool json;
};

static const struct argp_option option_table[] = {
	OPTION_JSON,
	{0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct list_options *o = state->input;
	switch (key) {
	case 'j':
		o->json = true;
		return 0;
	case ARGP_KEY_ARG:
		o->store = option_only(state, o->store, arg);
		return 0;
	case ARGP_KEY_END:
		if (!o->store)
			argp_error(state, "a store is needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_table,
	.parser = parse_option,
	.args_doc = "STORE",
	.doc = "List the images of a store. One that cannot be opened is listed with the reason, "
	       "and the exit status is 1 then.",
};

enum { NAME, CREATED, PID, COMMAND, HOST, ROUNDS, PAGES, BYTES, STORED, ID, ERROR };
static const struct column columns[] = {
	[NAME] = {"name", "NAME", CELL_TEXT, 0},
	[CREATED] = {"created", "CREATED", CELL_TIME, 0},
	[PID] = {"pid", "PID", CELL_COUNT, 0},
	[COMMAND] = {"command", "COMMAND", CELL_TEXT, 0},
	[HOST] = {"host", "HOST", CELL_TEXT, 0},
	[ROUNDS] = {"rounds", NULL, CELL_COUNT, 0},
	[PAGES] = {"held_pages", NULL, CELL_COUNT, 0},
	[BYTES] = {"held_bytes", "HOLDS", CELL_BYTES, 0},
	[STORED] = {"stored_bytes", "ON DISK", CELL_BYTES, 0},
	[ID] = {"id", NULL, CELL_TEXT, 0},
	[ERROR] = {"error", NULL, CELL_TEXT, 0},
};

static void add_entry(struct table *t, const struct store_entry *e)
{
	table_text(t, NAME, e->name);
	table_number(t, STORED, e->stored_bytes);
	if (e->error.code) {
		table_text(t, ERROR, e->error.text);
		table_row(t);
		return;
	}
	char id[2 * ID_BYTES + 1];
	for (size_t i = 0; i < ID_BYTES; i++)
		snprintf(id + 2 * i, 3, "%02x", e->id[i]);
	table_number(t, CREATED, e->created_realtime_ns);
	table_number(t, PID, (uint64_t)e->pid);
	table_text(t, COMMAND, e->comm);
	table_text(t, HOST, e->host);
	table_number(t, ROUNDS, e->rounds);
	table_number(t, PAGES, e->held_pages);
	table_number(t, BYTES, e->held_pages * e->page_bytes);
	table_text(t, ID, id);
	table_row(t);
}

int command_list(int argc, char **argv)
{
	struct list_options o = {0};
	struct tide_error err = {0};
	auto_(store_closep) struct store *store = NULL;
	auto_free struct store_entry *entries = NULL;
	size_t n = 0;
	command_parse(&argp, argc, argv, &o);
	if (store_open(o.store, STORE_READ, &store, &err) < 0 ||
		store_list(store, &entries, &n, &err) < 0)
		return command_fail(&err);

	int status = EXIT_DONE;
	struct table *t =
		table_new(stdout, columns, sizeof(columns) / sizeof(columns[0]), o.json, NULL);
	for (size_t i = 0; i < n; i++)
		add_entry(t, &entries[i]);
	table_free(t);
	for (size_t i = 0; i < n; i++) {
		if (entries[i].error.code)
			status = command_fail(&entries[i].error);
	}
	return status;
}
