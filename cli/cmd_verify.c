/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "agent/image.h"
#include "cli/command.h"
#include "cli/output.h"

struct verify_options {
	char *path;
	bool json;
};

static const struct argp_option option_table[] = {
	OPTION_JSON,
	{0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct verify_options *o = state->input;
	switch (key) {
	case 'j':
		o->json = true;
		return 0;
	case ARGP_KEY_ARG:
		o->path = option_only(state, o->path, arg);
		return 0;
	case ARGP_KEY_END:
		if (!o->path)
			argp_error(state, "a store or an image is needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_table,
	.parser = parse_option,
	.args_doc = "STORE[/IMAGE]",
	.doc = "Read every byte of an image, or of all images of a store, and check it: checksums, "
	       "contents against their "
	       "hashes, the index against what is there. Exit status 1 where anything is damaged.",
};

enum { NAME, SOUND, PAGES, LOST, FRAMES, BYTES, HASHED };
static const struct column columns[] = {
	[NAME] = {"name", "NAME", CELL_TEXT, 0},
	[SOUND] = {"sound", "SOUND", CELL_FLAG, 0},
	[PAGES] = {"held_pages", "PAGES", CELL_COUNT, 0},
	[LOST] = {"lost_pages", "LOST", CELL_COUNT, 0},
	[FRAMES] = {"frames", NULL, CELL_COUNT, 0},
	[BYTES] = {"bytes_read", "READ", CELL_BYTES, 0},
	[HASHED] = {"hashes_checked", "HASHES", CELL_FLAG, 0},
};

struct reporting {
	const char *name;
	bool json;
};

static void report(void *arg, const struct image_damage *damage)
{
	enum { DAMAGED, OFFSET, WHAT, HITS };
	static const struct column damage_columns[] = {
		[DAMAGED] = {"name", NULL, CELL_TEXT, 0},
		[OFFSET] = {"offset", NULL, CELL_COUNT, 0},
		[WHAT] = {"what", NULL, CELL_TEXT, 0},
		[HITS] = {"lost_pages", NULL, CELL_COUNT, 0},
	};
	const struct reporting *r = arg;
	if (!r->json) {
		auto_free char *what = printable(damage->what);
		fprintf(stderr, "tidemark: %s: byte %" PRIu64 ": %s\n", r->name, damage->offset,
			what);
		return;
	}
	struct table *t = table_new(stdout, damage_columns, 4, true, "damage");
	table_text(t, DAMAGED, r->name);
	table_number(t, OFFSET, damage->offset);
	table_text(t, WHAT, damage->what);
	table_number(t, HITS, damage->pages);
	table_row(t);
	table_free(t);
}

static int verify_one(struct store *store, const char *name, bool json, struct table *t)
{
	struct reporting reporting = {.name = name, .json = json};
	struct image_verdict v = {0};
	struct tide_error err = {0};
	if (image_verify(store, name, report, &reporting, &v, &err) < 0)
		return command_fail(&err);
	table_text(t, NAME, name);
	table_number(t, SOUND, v.damages == 0);
	table_number(t, PAGES, v.held_pages);
	table_number(t, LOST, v.lost_pages);
	table_number(t, FRAMES, v.frames);
	table_number(t, BYTES, v.bytes_read);
	table_number(t, HASHED, v.hashes_checked);
	table_row(t);
	return v.damages == 0 ? EXIT_DONE : EXIT_FAILED;
}

/* "STORE/IMAGE": cuts the path there and returns the image's name; NULL for a store. */
static char *split_image(char *path)
{
	struct stat st;
	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		return NULL;
	char *slash = strrchr(path, '/');
	if (!slash)
		return NULL;
	*slash = '\0';
	char *name = slash + 1;
	size_t len = strlen(name), suffix = strlen(IMAGE_SUFFIX);
	if (len > suffix && strcmp(name + len - suffix, IMAGE_SUFFIX) == 0)
		name[len - suffix] = '\0';
	return name;
}

int command_verify(int argc, char **argv)
{
	struct verify_options o = {0};
	struct tide_error err = {0};
	auto_(store_closep) struct store *store = NULL;
	auto_free struct store_entry *entries = NULL;
	size_t n = 0;
	command_parse(&argp, argc, argv, &o);
	const char *name = split_image(o.path);
	if (store_open(o.path[0] ? o.path : "/", STORE_READ, &store, &err) < 0 ||
		(!name && store_list(store, &entries, &n, &err) < 0))
		return command_fail(&err);

	int status = EXIT_DONE;
	struct table *t =
		table_new(stdout, columns, sizeof(columns) / sizeof(columns[0]), o.json, "verdict");
	if (name)
		status = verify_one(store, name, o.json, t);
	for (size_t i = 0; i < n; i++) {
		int one = verify_one(store, entries[i].name, o.json, t);
		if (one != EXIT_DONE)
			status = one;
	}
	table_free(t);
	return status;
}
