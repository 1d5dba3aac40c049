/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "agent/session.h"
#include "base/error.h"
#include "cli/command.h"
#include "cli/output.h"

struct apply_options {
	const char *file;
	const char *store;
	char name[NAME_MAX_BYTES + 1];
	bool json;
};

static const struct argp_option option_table[] = {
	{"store", 's', "DIR", 0, "The store; made where it is missing", 0},
	{"name", 'n', "NAME", 0, "The image's name (default: the file's)", 0},
	OPTION_JSON,
	{0},
};

/* The file's own name, where that can be an image's. */
static bool name_after_file(struct apply_options *o)
{
	const char *slash = strrchr(o->file, '/');
	const char *base = slash ? slash + 1 : o->file;
	size_t len = strlen(base);
	if (len > strlen(IMAGE_SUFFIX) &&
		strcmp(base + len - strlen(IMAGE_SUFFIX), IMAGE_SUFFIX) == 0)
		len -= strlen(IMAGE_SUFFIX);
	if (len > NAME_MAX_BYTES)
		return false;
	memcpy(o->name, base, len);
	o->name[len] = '\0';
	return image_name_valid(o->name);
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct apply_options *o = state->input;
	switch (key) {
	case 's':
		o->store = arg;
		return 0;
	case 'n':
		if (!image_name_valid(arg))
			argp_error(state,
				"an image's name is a letter or digit, then up to 127 letters, "
				"digits, '.', '_' or '-'; "
				"not '%s'",
				arg);
		strncpy(o->name, arg, NAME_MAX_BYTES);
		return 0;
	case 'j':
		o->json = true;
		return 0;
	case ARGP_KEY_ARG:
		o->file = option_only(state, o->file, arg);
		return 0;
	case ARGP_KEY_END:
		if (!o->file || !o->store) {
			argp_error(state, "a recorded stream and --store are needed");
			return EINVAL;
		}
		if (!o->name[0] && !name_after_file(o))
			argp_error(state, "--name is needed: the image cannot be called '%s'",
				o->file);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_table,
	.parser = parse_option,
	.args_doc = "FILE --store DIR",
	.doc = "Put a recorded stream, as `tidemark send PID FILE` writes it, or a copy of an "
	       "image's file, into a store. "
	       "FILE is - for standard input. All of it is checked; where anything is wrong, "
	       "nothing is stored.",
};

static int apply(const struct apply_options *o, struct committed *ret, struct tide_error *err)
{
	auto_(store_closep) struct store *store = NULL;
	auto_(session_freep) struct session *session = NULL;
	bool standard = strcmp(o->file, "-") == 0;
	auto_close int fd =
		standard ? dup(STDIN_FILENO) : open(o->file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return tide_fail(err, -errno, "open %s", standard ? "standard input" : o->file);
	int r = store_open(o->store, STORE_WRITE, &store, err);
	if (r < 0)
		return r;
	struct session_options options = {.store = store, .from_file = true};
	struct open_request request = {.sink = SINK_IMAGE};
	memcpy(request.name, o->name, sizeof(request.name));
	r = session_new(&options, &session, err);
	if (r == 0)
		r = session_open(session, &request, err);
	if (r == 0)
		r = session_run_file(session, fd, standard ? "standard input" : o->file, err);
	if (r == 0 && !session_committed(session, ret))
		r = tide_say(err, "%s was read and not stored", o->file);
	return r;
}

int command_apply(int argc, char **argv)
{
	enum { NAME, STORE, STORED };
	static const struct column columns[] = {
		[NAME] = {"name", NULL, CELL_TEXT, 0},
		[STORE] = {"store", NULL, CELL_TEXT, 0},
		[STORED] = {"stored_bytes", NULL, CELL_BYTES, 0},
	};
	struct apply_options o = {0};
	struct committed done = {0};
	struct tide_error err = {0};
	command_parse(&argp, argc, argv, &o);
	if (apply(&o, &done, &err) < 0)
		return command_fail(&err);
	if (!o.json) {
		printf("%s/%s\n", o.store, done.name);
		return EXIT_DONE;
	}
	struct table *t =
		table_new(stdout, columns, sizeof(columns) / sizeof(columns[0]), true, NULL);
	table_text(t, NAME, done.name);
	table_text(t, STORE, o.store);
	table_number(t, STORED, done.stored_bytes);
	table_row(t);
	table_free(t);
	return EXIT_DONE;
}
