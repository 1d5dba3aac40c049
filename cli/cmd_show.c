/* SPDX-License-Identifier: MIT */
#include "agent/image.h"
#include "cli/command.h"
#include "cli/mapping_text.h"
#include "cli/output.h"

struct show_options {
	const char *path;
	bool json;
};

static const struct argp_option option_table[] = {
	OPTION_JSON,
	{0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct show_options *o = state->input;
	switch (key) {
	case 'j':
		o->json = true;
		return 0;
	case ARGP_KEY_ARG:
		o->path = option_only(state, o->path, arg);
		return 0;
	case ARGP_KEY_END:
		if (!o->path)
			argp_error(state, "an image is needed, as STORE/IMAGE");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_table,
	.parser = parse_option,
	.args_doc = "STORE/IMAGE",
	.doc = "Show what an image holds: the process, its threads, its mappings and how many "
	       "pages of each are held.",
};

static char *hex(const uint8_t *bytes, size_t len, char *buf)
{
	for (size_t i = 0; i < len; i++)
		sprintf(buf + 2 * i, "%02x", bytes[i]);
	buf[2 * len] = '\0';
	return buf;
}

enum {
	NAME,
	ID,
	CREATED,
	HOST,
	SOFTWARE,
	ARCH,
	PAGE,
	PID,
	UID,
	COMMAND,
	EXE,
	LINE,
	BUILD_ID,
	THREADS,
	ROUNDS,
	PAGES,
	HELD,
	OTHERS,
	STORED
};
static const struct column image_columns[] = {
	[NAME] = {"name", "name", CELL_TEXT, 0},
	[ID] = {"id", "id", CELL_TEXT, 0},
	[CREATED] = {"created", "created", CELL_TIME, 0},
	[HOST] = {"host", "host", CELL_TEXT, 0},
	[SOFTWARE] = {"software", "software", CELL_TEXT, 0},
	[ARCH] = {"architecture", "architecture", CELL_TEXT, 0},
	[PAGE] = {"page_bytes", "page size", CELL_BYTES, 0},
	[PID] = {"pid", "process", CELL_COUNT, 0},
	[UID] = {"uid", "user", CELL_COUNT, 0},
	[COMMAND] = {"command", "command", CELL_TEXT, 0},
	[EXE] = {"exe", "program", CELL_TEXT, 0},
	[LINE] = {"command_line", "command line", CELL_TEXT, 0},
	[BUILD_ID] = {"build_id", "build id", CELL_TEXT, 0},
	[THREADS] = {"threads", "threads", CELL_COUNT, 0},
	[ROUNDS] = {"rounds", "rounds", CELL_COUNT, 0},
	[PAGES] = {"held_pages", "pages held", CELL_COUNT, 0},
	[HELD] = {"held_bytes", "bytes held", CELL_BYTES, 0},
	[OTHERS] = {"others_write_bytes", "others write", CELL_BYTES, 0},
	[STORED] = {"stored_bytes", "on disk", CELL_BYTES, 0},
};

static uint64_t held_within(const struct address_space *a, const struct mapping *m)
{
	bool object = m->kind == MAPPING_OBJECT;
	uint64_t start = object ? m->offset : m->start, end = start + (m->end - m->start),
		 bytes = 0;
	const struct pageset *held = address_space_held(a, object ? m->object : SPACE_PRIVATE);
	for (size_t i = held ? pageset_find(held, start) : 0;
		held && i < held->len && held->runs[i].start < end; i++) {
		uint64_t from = held->runs[i].start > start ? held->runs[i].start : start;
		uint64_t to = held->runs[i].end < end ? held->runs[i].end : end;
		bytes += to - from;
	}
	return bytes;
}

/* What other processes could write, and so may not be of the same instant as the rest. */
static uint64_t others_write(const struct address_space *a)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < a->mappings.len; i++) {
		const struct mapping *m = &a->mappings.v[i];
		bytes += m->flags & MAPPING_OTHERS_WRITE ? held_within(a, m) : 0;
	}
	return bytes;
}

static void show_image(struct image *image, bool json)
{
	char text[2 * 32 + 1];
	const struct stream_header *h = image_header(image);
	const struct address_space *a = image_process(image, 1);
	struct image_info info = image_info(image);
	struct table *t = table_new(stdout, image_columns,
		sizeof(image_columns) / sizeof(image_columns[0]), json, json ? "image" : NULL);
	table_turn(t);
	table_text(t, NAME, image_name(image));
	table_text(t, ID, hex(h->stream_id, ID_BYTES, text));
	table_number(t, CREATED, h->created_realtime_ns);
	table_text(t, HOST, h->host);
	table_text(t, SOFTWARE, h->software);
	table_text(t, ARCH, h->architecture);
	table_number(t, PAGE, h->page_bytes);
	table_number(t, PID, (uint64_t)a->info->pid);
	table_number(t, UID, a->info->uid);
	table_text(t, COMMAND, a->info->comm);
	table_text(t, EXE, a->info->exe);
	table_text(t, LINE, a->info->command_line);
	if (a->info->build_id_len)
		table_text(t, BUILD_ID, hex(a->info->build_id, a->info->build_id_len, text));
	table_number(t, THREADS, a->state.nthreads);
	table_number(t, ROUNDS, info.rounds);
	table_number(t, PAGES, info.held_pages);
	table_number(t, HELD, info.held_pages * h->page_bytes);
	if (others_write(a))
		table_number(t, OTHERS, others_write(a));
	table_number(t, STORED, info.stored_bytes);
	table_row(t);
	table_free(t);
}

static void show_mappings(const struct address_space *a, bool json)
{
	enum { START, END, PROT, KIND, HELD_BYTES, OFFSET, MAP_NAME, WHY };
	static const struct column columns[] = {
		[START] = {"start", "START", CELL_ADDRESS, 0},
		[END] = {"end", "END", CELL_ADDRESS, 0},
		[PROT] = {"protection", "PROT", CELL_TEXT, 0},
		[KIND] = {"memory", "KIND", CELL_TEXT, 0},
		[HELD_BYTES] = {"held_bytes", "HELD", CELL_BYTES, 0},
		[OFFSET] = {"offset", NULL, CELL_ADDRESS, 0},
		[MAP_NAME] = {"name", "NAME", CELL_TEXT, 0},
		[WHY] = {"why_not_held", NULL, CELL_TEXT, 0},
	};
	struct table *t =
		table_new(stdout, columns, sizeof(columns) / sizeof(columns[0]), json, "mapping");
	for (size_t i = 0; i < a->mappings.len; i++) {
		const struct mapping *m = &a->mappings.v[i];
		char prot[5];
		table_number(t, START, m->start);
		table_number(t, END, m->end);
		table_text(t, PROT, mapping_protection(m, prot));
		table_text(t, KIND, mapping_kind_text(m));
		table_number(t, HELD_BYTES, held_within(a, m));
		table_number(t, OFFSET, m->offset);
		table_text(t, MAP_NAME, m->name);
		if (m->why)
			table_text(t, WHY, m->why);
		table_row(t);
	}
	table_free(t);
}

static void show_threads(const struct address_space *a, bool json)
{
	enum { TID, THREAD_NAME };
	static const struct column columns[] = {
		[TID] = {"tid", "THREAD", CELL_COUNT, 0},
		[THREAD_NAME] = {"name", "NAME", CELL_TEXT, 0},
	};
	struct table *t = table_new(stdout, columns, 2, json, "thread");
	for (size_t i = 0; i < a->state.nthreads; i++) {
		table_number(t, TID, (uint64_t)a->state.threads[i].tid);
		table_text(t, THREAD_NAME, a->state.threads[i].name);
		table_row(t);
	}
	table_free(t);
}

int command_show(int argc, char **argv)
{
	struct show_options o = {0};
	struct tide_error err = {0};
	auto_(image_closep) struct image *image = NULL;
	command_parse(&argp, argc, argv, &o);
	if (image_open_path(o.path, &image, &err) < 0)
		return command_fail(&err);

	const struct address_space *a = image_process(image, 1);
	show_image(image, o.json);
	if (!o.json)
		putchar('\n');
	show_threads(a, o.json);
	if (!o.json)
		putchar('\n');
	show_mappings(a, o.json);
	return EXIT_DONE;
}
