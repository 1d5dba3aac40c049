/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include "agent/core.h"
#include "agent/image.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/command.h"
#include "cli/output.h"

struct core_options {
	const char *path;
	const char *output;
	bool json;
};

static const struct argp_option option_table[] = {
	{"output", 'o', "FILE", 0, "The core file; it must not exist yet", 0},
	OPTION_JSON,
	{0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct core_options *o = state->input;
	switch (key) {
	case 'o':
		o->output = arg;
		return 0;
	case 'j':
		o->json = true;
		return 0;
	case ARGP_KEY_ARG:
		o->path = option_only(state, o->path, arg);
		return 0;
	case ARGP_KEY_END:
		if (!o->path || !o->output)
			argp_error(state, "an image and --output are needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_table,
	.parser = parse_option,
	.args_doc = "STORE/IMAGE -o FILE",
	.doc = "Export an image as an ELF core file, which gdb opens: gdb PROGRAM FILE. It holds "
	       "what the process wrote; pages "
	       "of files that were only mapped are read from the files, as with any core. The file "
	       "is sparse and "
	       "readable by its owner alone.",
};

static const struct pageset *held(void *arg, space_id space)
{
	return address_space_held(image_process(arg, 1), space);
}

static int read_pages(
	void *arg, space_id space, uint64_t at, void *buf, size_t bytes, struct tide_error *err)
{
	return image_read(arg, 1, space, at, buf, bytes, err);
}

static int export_core(const struct core_options *o, uint64_t *ret_bytes, struct tide_error *err)
{
	auto_(image_closep) struct image *image = NULL;
	auto_(core_freep) struct core *core = NULL;
	int r = image_open_path(o->path, &image, err);
	if (r < 0)
		return r;
	const struct address_space *a = image_process(image, 1);
	struct core_source source = {
		.info = a->info,
		.state = &a->state,
		.maps = &a->mappings,
		.page_bytes = a->page_bytes,
		.held = held,
		.read = read_pages,
		.arg = image,
	};
	r = core_new(&source, &core, err);
	if (r < 0)
		return r;

	auto_close int fd =
		open(o->output, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return tide_fail(err, -errno, "create %s", o->output);
	r = core_write(core, fd, err);
	if (r == 0 && fsync(fd) < 0)
		r = tide_fail(err, -errno, "write %s", o->output);
	if (r < 0) {
		tide_prefix(err, r, "%s: ", o->output);
		unlink(o->output);
		return r;
	}
	*ret_bytes = core_bytes(core);
	return 0;
}

int command_core(int argc, char **argv)
{
	enum { FILE_NAME, BYTES };
	static const struct column columns[] = {
		[FILE_NAME] = {"file", NULL, CELL_TEXT, 0},
		[BYTES] = {"bytes", NULL, CELL_BYTES, 0},
	};
	struct core_options o = {0};
	struct tide_error err = {0};
	uint64_t bytes = 0;
	command_parse(&argp, argc, argv, &o);
	if (export_core(&o, &bytes, &err) < 0)
		return command_fail(&err);
	if (!o.json) {
		char size[UNITS_TEXT];
		printf("%s: %s, sparse\n", o.output, units_format_bytes(size, bytes));
		return EXIT_DONE;
	}
	struct table *t = table_new(stdout, columns, 2, true, NULL);
	table_text(t, FILE_NAME, o.output);
	table_number(t, BYTES, bytes);
	table_row(t);
	table_free(t);
	return EXIT_DONE;
}
