/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agent/image.h"
#include "base/error.h"
#include "cli/command.h"
#include "cli/mapping_text.h"
#include "cli/output.h"
#include "tracker/maps.h"
#include "tracker/populated.h"
#include "tracker/process.h"
#include "tracker/reader.h"

#define STEP_BYTES (1u << 20)

struct compare_options {
	const char *path;
	pid_t pid;
	bool json;
	uint64_t show;
};

enum { OPTION_SHOW = 256 };

static const struct argp_option option_table[] = {
	{"show", OPTION_SHOW, "N", 0, "Name the first N differences (default 10)", 0},
	OPTION_JSON,
	{0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct compare_options *o = state->input;
	switch (key) {
	case OPTION_SHOW:
		o->show = option_count(state, "--show", arg, 0, UINT64_MAX);
		return 0;
	case 'j':
		o->json = true;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num == 0)
			o->path = arg;
		else if (state->arg_num == 1)
			o->pid = option_pid(state, arg);
		else
			argp_error(state, "'%s' is one argument too many", arg);
		return 0;
	case ARGP_KEY_END:
		if (!o->pid)
			argp_error(state, "an image and a process number are needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_table,
	.parser = parse_option,
	.args_doc = "STORE/IMAGE PID",
	.doc = "Compare an image with a stopped process (kill -STOP), page by page: mappings, the "
	       "pages that the image holds, and "
	       "that the process holds no others.\vExit status: 0 they are the same, 1 they "
	       "differ, 3 the process went away.",
};

enum { WHAT, ADDRESS, OFFSET, IMAGE_BYTE, PROCESS_BYTE, NAME };
static const struct column columns[] = {
	[WHAT] = {"what", "DIFFERENT", CELL_TEXT, 0},
	[ADDRESS] = {"address", "PAGE", CELL_ADDRESS, 0},
	[OFFSET] = {"offset", "BYTE", CELL_COUNT, 0},
	[IMAGE_BYTE] = {"image", "IMAGE", CELL_COUNT, 0},
	[PROCESS_BYTE] = {"process", "PROCESS", CELL_COUNT, 0},
	[NAME] = {"mapping", "MAPPING", CELL_TEXT, 0},
};

struct comparing {
	const struct compare_options *options;
	struct image *image;
	struct process *process;
	struct mapping_table maps;
	uint64_t page_bytes;
	uint8_t *here, *there; /* STEP_BYTES each: the image's bytes, the process's */
	struct table *table;
	uint64_t pages, different_pages, different_mappings;
};

static bool may_show(struct comparing *c)
{
	return c->different_pages + c->different_mappings <= c->options->show;
}

static void note_mapping(struct comparing *c, const struct mapping *m, const char *what)
{
	c->different_mappings++;
	if (!may_show(c))
		return;
	table_text(c->table, WHAT, what);
	table_number(c->table, ADDRESS, m->start);
	table_text(c->table, NAME, m->name);
	table_row(c->table);
}

static void note_page(struct comparing *c, uint64_t address, const struct mapping *m,
	const uint8_t *here, const uint8_t *there)
{
	uint64_t at = 0;
	while (at < c->page_bytes && here[at] == there[at])
		at++;
	c->different_pages++;
	if (!may_show(c))
		return;
	table_text(c->table, WHAT, "contents");
	table_number(c->table, ADDRESS, address);
	table_number(c->table, OFFSET, at);
	table_number(c->table, IMAGE_BYTE, here[at]);
	table_number(c->table, PROCESS_BYTE, there[at]);
	table_text(c->table, NAME, m->name);
	table_row(c->table);
}

static void compare_mappings(struct comparing *c, const struct mapping_table *image)
{
	const struct mapping_table *process = &c->maps;
	for (size_t i = 0, k = 0; i < image->len || k < process->len;) {
		const struct mapping *a = i < image->len ? &image->v[i] : NULL;
		const struct mapping *b = k < process->len ? &process->v[k] : NULL;
		assert(a || b);
		/* Objects are numbered by each sender as it meets them. */
		bool same = a && b && a->start == b->start && a->end == b->end &&
			    a->prot == b->prot && ((a->flags ^ b->flags) & MAPPING_SHARED) == 0 &&
			    strcmp(a->name, b->name) == 0;
		if (same) {
			i++;
			k++;
		} else if (!b || (a && a->start <= b->start)) {
			note_mapping(c, a, "mapping only in the image");
			i++;
		} else {
			note_mapping(c, b, "mapping only in the process");
			k++;
		}
	}
}

/* What the image says of [address, address + bytes), within one piece, into c->here. */
static int read_image(struct comparing *c, const struct image_piece *piece, uint64_t address,
	uint64_t bytes, int file, struct tide_error *err)
{
	uint64_t into = address - piece->address;
	if (piece->content == IMAGE_HELD)
		return image_read(c->image, 1, piece->space, piece->at + into, c->here, bytes, err);
	memset(c->here, 0, bytes);
	if (piece->content == IMAGE_FILE &&
		(file < 0 || pread(file, c->here, bytes, (off_t)(piece->file_offset + into)) < 0))
		return tide_fail(
			err, file < 0 ? file : -errno, "read the file %s", piece->mapping->name);
	return 0;
}

static int compare_run(struct comparing *c, const struct image_piece *piece, struct page_run run,
	int file, struct tide_error *err)
{
	for (uint64_t at = run.start; at < run.end;) {
		uint64_t bytes = run.end - at < STEP_BYTES ? run.end - at : STEP_BYTES, got = 0;
		struct iovec remote = {.iov_base = (void *)(uintptr_t)at, .iov_len = bytes};
		int r = read_image(c, piece, at, bytes, file, err);
		if (r == 0)
			r = reader_read(c->process, &remote, 1, c->there, &got, err);
		if (r < 0)
			return r;
		if (got < c->page_bytes)
			return tide_say(err,
				"the page at %#" PRIx64 " of process %d cannot be read", at + got,
				c->process->pid);
		got &= ~(c->page_bytes - 1);
		for (uint64_t k = 0; k < got; k += c->page_bytes) {
			c->pages++;
			if (memcmp(c->here + k, c->there + k, c->page_bytes) != 0)
				note_page(c, at + k, piece->mapping, c->here + k, c->there + k);
		}
		at += got;
	}
	return 0;
}

static int compare_piece(struct comparing *c, const struct mapping *m,
	const struct image_piece *piece, struct tide_error *err)
{
	struct page_run all = {piece->address, piece->address + piece->bytes};
	if (piece->content == IMAGE_HELD)
		return compare_run(c, piece, all, -1, err);
	if (piece->content != IMAGE_ZERO && piece->content != IMAGE_FILE)
		return 0;

	/* Of what the image does not hold only what the process has of its own can differ. */
	struct pageset own = {0};
	auto_close int file = piece->content == IMAGE_FILE ? maps_open_file(c->process, m) : -1;
	int r = m->kind == MAPPING_FILE_SHARED
			? 0
			: populated_find(c->process, m, all.start, all.end, &own, err);
	for (size_t i = 0; r == 0 && i < own.len; i++)
		r = compare_run(c, piece, own.runs[i], file, err);
	pageset_release(&own);
	return r;
}

static int compare_pages(struct comparing *c, struct tide_error *err)
{
	for (size_t i = 0; i < c->maps.len; i++) {
		const struct mapping *m = &c->maps.v[i];
		if (m->kind == MAPPING_OPAQUE)
			continue;
		for (uint64_t at = m->start; at < m->end;) {
			struct image_piece piece;
			image_find(c->image, 1, at, m->end, &piece);
			int r = compare_piece(c, m, &piece, err);
			if (r < 0)
				return r;
			at = piece.address + piece.bytes;
		}
	}
	return 0;
}

static int prepare(struct comparing *c, struct tide_error *err)
{
	const struct compare_options *o = c->options;
	int r = image_open_path(o->path, &c->image, err);
	if (r == 0)
		r = process_open(o->pid, &c->process, err);
	if (r < 0)
		return r;
	char state = process_thread_state(c->process, process_find_thread(c->process));
	if (state != 'T' && state != 't')
		return tide_fail_kind(err, TIDE_ERROR_USAGE, -ECANCELED,
			"process %d is running: what it writes meanwhile would differ; stop it "
			"first (kill -STOP %d)",
			o->pid, o->pid);
	c->page_bytes = image_header(c->image)->page_bytes;
	c->here = malloc(STEP_BYTES);
	c->there = malloc(STEP_BYTES);
	if (!c->here || !c->there)
		return tide_fail(err, -ENOMEM, "compare process %d", o->pid);
	r = maps_read(c->process, NULL, &c->maps, err);
	if (r == 0)
		mapping_table_merge(&c->maps);
	return r;
}

static void finish(struct comparing *c)
{
	table_free(c->table);
	c->table = NULL;
	image_close(c->image);
	process_close(c->process);
	mapping_table_release(&c->maps);
	free(c->here);
	free(c->there);
}

static void print_sum(const struct comparing *c)
{
	enum { PAGES, DIFFERENT, MAPPINGS };
	static const struct column sum_columns[] = {
		[PAGES] = {"pages", NULL, CELL_COUNT, 0},
		[DIFFERENT] = {"different_pages", NULL, CELL_COUNT, 0},
		[MAPPINGS] = {"different_mappings", NULL, CELL_COUNT, 0},
	};
	if (!c->options->json) {
		printf("%" PRIu64 " pages compared, %" PRIu64 " differ; %" PRIu64
		       " mappings differ\n",
			c->pages, c->different_pages, c->different_mappings);
		return;
	}
	struct table *t = table_new(stdout, sum_columns, 3, true, "summary");
	table_number(t, PAGES, c->pages);
	table_number(t, DIFFERENT, c->different_pages);
	table_number(t, MAPPINGS, c->different_mappings);
	table_row(t);
	table_free(t);
}

int command_compare(int argc, char **argv)
{
	struct compare_options o = {.show = 10};
	struct tide_error err = {0};
	command_parse(&argp, argc, argv, &o);
	struct comparing c = {.options = &o};
	int r = prepare(&c, &err);
	if (r == 0) {
		c.table = table_new(stdout, columns, sizeof(columns) / sizeof(columns[0]), o.json,
			"difference");
		compare_mappings(&c, &image_process(c.image, 1)->mappings);
		r = compare_pages(&c, &err);
		table_free(c.table);
		c.table = NULL;
	}
	if (r == 0)
		print_sum(&c);
	bool differ = c.different_pages || c.different_mappings;
	finish(&c);
	if (r < 0)
		return command_fail(&err);
	return differ ? EXIT_FAILED : EXIT_DONE;
}
