/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/error.h"
#include "cli/command.h"
#include "cli/mapping_text.h"
#include "cli/output.h"
#include "tracker/cgroup_path.h"
#include "tracker/page_info.h"
#include "tracker/process.h"

enum what {
	SHOW_START,
	SHOW_END,
	SHOW_PROTECTION,
	SHOW_MEMORY,
	SHOW_COUNT,
	SHOW_PSS,
	SHOW_CGROUP,
	SHOW_NODES,
	SHOW_LAST_NAME,
	SHOW_NAME,
};

struct page_column {
	const char *key, *title;
	enum what what;
	enum page_count count; /* SHOW_COUNT */
};

/* In this order they are shown where all are. */
static const struct page_column page_columns[] = {
	{"start", "START", SHOW_START, 0},
	{"end", "END", SHOW_END, 0},
	{"protection", "PROT", SHOW_PROTECTION, 0},
	{"memory", "KIND", SHOW_MEMORY, 0},
	{"mapped_pages", "MAPPED", SHOW_COUNT, PAGES_MAPPED},
	{"present_pages", "PRESENT", SHOW_COUNT, PAGES_PRESENT},
	{"resident_pages", "RSS", SHOW_COUNT, PAGES_RESIDENT},
	{"swapped_pages", "SWAP", SHOW_COUNT, PAGES_SWAPPED},
	{"anonymous_pages", "ANON", SHOW_COUNT, PAGES_ANONYMOUS},
	{"file_pages", "FILE", SHOW_COUNT, PAGES_FILE},
	{"zero_pages", "ZERO", SHOW_COUNT, PAGES_ZERO},
	{"exclusive_pages", "EXCL", SHOW_COUNT, PAGES_EXCLUSIVE},
	{"shared_pages", "SHARED", SHOW_COUNT, PAGES_SHARED},
	{"pss_bytes", "PSS", SHOW_PSS, 0},
	{"huge_pages", "HUGE", SHOW_COUNT, PAGES_HUGE},
	{"anonymous_huge_pages", "ANONHUGE", SHOW_COUNT, PAGES_ANONYMOUS_HUGE},
	{"hugetlb_pages", "HUGETLB", SHOW_COUNT, PAGES_HUGETLB},
	{"hugetlb_exclusive_pages", "HUGETLBEXCL", SHOW_COUNT, PAGES_HUGETLB_EXCLUSIVE},
	{"direct_pages", "DIRECT", SHOW_COUNT, PAGES_DIRECT},
	{"guard_pages", "GUARD", SHOW_COUNT, PAGES_GUARD},
	{"write_protected_pages", "WRPROT", SHOW_COUNT, PAGES_WRITE_PROTECTED},
	{"soft_dirty_pages", "SOFTDIRTY", SHOW_COUNT, PAGES_SOFT_DIRTY},
	{"ksm_pages", "KSM", SHOW_COUNT, PAGES_KSM},
	{"dirty_pages", "DIRTY", SHOW_COUNT, PAGES_DIRTY},
	{"referenced_pages", "REF", SHOW_COUNT, PAGES_REFERENCED},
	{"active_pages", "ACTIVE", SHOW_COUNT, PAGES_ACTIVE},
	{"unevictable_pages", "UNEVICT", SHOW_COUNT, PAGES_UNEVICTABLE},
	{"mlocked_pages", "MLOCKED", SHOW_COUNT, PAGES_MLOCKED},
	{"writeback_pages", "WRITEBACK", SHOW_COUNT, PAGES_WRITEBACK},
	{"locked_pages", "LOCKED", SHOW_COUNT, PAGES_LOCKED},
	{"lazy_free_pages", "LAZYFREE", SHOW_COUNT, PAGES_LAZY_FREE},
	{"swap_cache_pages", "SWAPCACHE", SHOW_COUNT, PAGES_SWAP_CACHE},
	{"idle_pages", "IDLE", SHOW_COUNT, PAGES_IDLE},
	{"poisoned_pages", "POISONED", SHOW_COUNT, PAGES_POISONED},
	{"nodes", "NODES", SHOW_NODES, 0},
	{"cgroup", "CGROUP", SHOW_CGROUP, 0},
	{"name", "NAME", SHOW_LAST_NAME, 0},
	{NULL, "PATH", SHOW_NAME, 0},
};
#define NCOLUMNS (sizeof(page_columns) / sizeof(page_columns[0]))

static const char *const usual_titles[] = {"START", "PROT", "MAPPED", "PRESENT", "SWAP", "ANON",
	"FILE", "ZERO", "EXCL", "HUGE", "NAME"};
#define NUSUAL (sizeof(usual_titles) / sizeof(usual_titles[0]))

struct pages_options {
	pid_t pid;
	bool json;
	bool count_pages;
	bool populated;
	const char *chosen;
};

enum { OPTION_PAGES = 0x100 };
static const struct argp_option option_table[] = {
	{"columns", 'o', "LIST", 0,
		"Show these columns, with commas between; +LIST adds to the usual ones; 'all'; "
		"'help' lists them",
		0},
	{"pages", OPTION_PAGES, NULL, 0, "Count pages instead of printing sizes", 0},
	{"populated", 'p', NULL, 0, "Leave out mappings that have no page at all", 0},
	OPTION_JSON,
	{0},
};

/* Short names of what the counts mean, for --columns help and nothing else. */
static const char *about(const struct page_column *c)
{
	static const char *const texts[PAGE_COUNTS] = {
		[PAGES_MAPPED] = "size of the mapping",
		[PAGES_PRESENT] = "in memory, the zero page and all huge pages included",
		[PAGES_RESIDENT] = "in memory as smaps counts it: without ZERO, HUGETLB and DIRECT",
		[PAGES_ZERO] = "the zero page: read, never written",
		[PAGES_HUGETLB] = "explicit huge pages",
		[PAGES_DIRECT] = "frames of a device or of the kernel itself",
		[PAGES_ANONYMOUS] = "of RSS: anonymous memory",
		[PAGES_FILE] = "of RSS: pages of files and of shared memory",
		[PAGES_EXCLUSIVE] = "of RSS: mapped by this process alone, and once",
		[PAGES_HUGE] = "of RSS: mapped by transparent huge pages",
		[PAGES_ANONYMOUS_HUGE] = "of HUGE: anonymous",
		[PAGES_HUGETLB_EXCLUSIVE] = "of HUGETLB: mapped by this process alone",
		[PAGES_SWAPPED] = "swapped out",
		[PAGES_GUARD] = "guard pages (MADV_GUARD_INSTALL)",
		[PAGES_WRITE_PROTECTED] = "write-protected by a userfaultfd",
		[PAGES_SOFT_DIRTY] = "written since soft-dirty was cleared, or new since",
		[PAGES_SHARED] = "of RSS: mapped more than once",
		[PAGES_KSM] = "of RSS: merged by KSM",
		[PAGES_DIRTY] = "flag: to be written back, or not the swap's contents",
		[PAGES_REFERENCED] = "flag: used since reclaim last looked",
		[PAGES_ACTIVE] = "flag: on the active list",
		[PAGES_UNEVICTABLE] = "flag: cannot be reclaimed",
		[PAGES_MLOCKED] = "flag: locked by mlock",
		[PAGES_WRITEBACK] = "flag: being written to disk",
		[PAGES_LOCKED] = "flag: locked by the kernel for the moment",
		[PAGES_LAZY_FREE] =
			"given up by MADV_FREE, and not written back since by the kernel",
		[PAGES_SWAP_CACHE] = "flag: has a place in swap as well",
		[PAGES_IDLE] = "flag: not used since it was marked idle",
		[PAGES_POISONED] = "flag: broken memory",
	};
	switch (c->what) {
	case SHOW_COUNT:
		return texts[c->count];
	case SHOW_PSS:
		return "share of RSS, each page divided by how often it is mapped (bytes)";
	case SHOW_CGROUP:
		return "memory cgroup that most of RSS is charged to";
	case SHOW_NODES:
		return "pages on each NUMA node";
	case SHOW_LAST_NAME:
		return "last part of the name; in JSON all of it";
	case SHOW_NAME:
		return "all of the name";
	case SHOW_START:
	case SHOW_END:
		return "address";
	case SHOW_PROTECTION:
		return "as in maps";
	case SHOW_MEMORY:
		return "kind of memory";
	}
	return "";
}

static void print_columns(void)
{
	for (size_t i = 0; i < NCOLUMNS; i++) {
		const struct page_column *c = &page_columns[i];
		printf("%-12s %-24s %s\n", c->title, c->key ? c->key : "", about(c));
	}
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct pages_options *o = state->input;
	switch (key) {
	case 'o':
		o->chosen = arg;
		return 0;
	case OPTION_PAGES:
		o->count_pages = true;
		return 0;
	case 'p':
		o->populated = true;
		return 0;
	case 'j':
		o->json = true;
		return 0;
	case ARGP_KEY_ARG:
		o->pid = option_only_pid(state, o->pid, arg);
		return 0;
	case ARGP_KEY_END:
		if (!o->pid && !(o->chosen && strcmp(o->chosen, "help") == 0))
			argp_error(state, "the number of a process is needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_table,
	.parser = parse_option,
	.args_doc = "PID",
	.doc = "Tell what the pages of a process are: a line for each mapping, and the totals. "
	       "Only "
	       "looks; nothing changes in the process.\v"
	       "Exit status: 0 done, 2 wrong usage, 3 the process went away, 4 this user may not "
	       "look at it.",
};

/* The columns that are shown, and what must be asked for them. */
struct choice {
	struct column columns[NCOLUMNS];
	size_t usual[NUSUAL + 1];
	size_t order[NCOLUMNS];
	size_t len;
};

static enum cell_type cell_type_of(const struct page_column *c, const struct pages_options *o)
{
	switch (c->what) {
	case SHOW_START:
	case SHOW_END:
		return CELL_ADDRESS;
	case SHOW_COUNT:
		return o->json || o->count_pages ? CELL_COUNT : CELL_SHORT;
	case SHOW_PSS:
		return CELL_SHORT;
	default:
		return CELL_TEXT;
	}
}

static int choose(struct choice *c, const struct pages_options *o)
{
	for (size_t i = 0; i < NCOLUMNS; i++)
		c->columns[i] = (struct column){page_columns[i].key, page_columns[i].title,
			cell_type_of(&page_columns[i], o), 0};
	for (size_t i = 0, k = 0; i < NCOLUMNS && k < NUSUAL; i++) {
		if (strcmp(page_columns[i].title, usual_titles[k]) == 0)
			c->usual[k++] = i;
	}
	c->usual[NUSUAL] = SIZE_MAX;

	char wrong[64];
	const char *text = o->chosen ? o->chosen : o->json ? "all" : "+NAME";
	c->len = columns_choose(c->columns, NCOLUMNS, c->usual, text, c->order, wrong);
	if (c->len == 0)
		fprintf(stderr,
			"tidemark: there is no column '%s'; --columns help lists them all\n",
			wrong);
	return c->len ? 0 : -EINVAL;
}

static bool is_frame_flag(const struct page_column *c)
{
	return c->what == SHOW_COUNT && c->count > PAGES_SHARED;
}

static struct page_table_options ask_for(const struct choice *c)
{
	struct page_table_options ask = {0};
	for (size_t i = 0; i < c->len; i++) {
		const struct page_column *column = &page_columns[c->order[i]];
		ask.flags |= is_frame_flag(column);
		ask.maps_counted |= column->what == SHOW_PSS ||
				    (column->what == SHOW_COUNT && column->count == PAGES_SHARED);
		ask.cgroups |= column->what == SHOW_CGROUP;
		ask.nodes |= column->what == SHOW_NODES;
	}
	return ask;
}

/* Tells, by groups with one reason each, which of the chosen columns could not be filled. */
static bool is_of_group(const struct page_column *c, unsigned group)
{
	bool counted = c->what == SHOW_COUNT;
	switch (group) {
	case 0:
		return is_frame_flag(c);
	case 1:
		return c->what == SHOW_PSS || (counted && c->count == PAGES_SHARED);
	case 2:
		return c->what == SHOW_CGROUP;
	case 3:
		return c->what == SHOW_NODES;
	case 4:
		return counted && c->count == PAGES_SOFT_DIRTY;
	case 5:
		return counted && c->count == PAGES_GUARD;
	case 6:
		return counted && c->count == PAGES_ZERO;
	case 7:
		return counted && c->count == PAGES_IDLE;
	}
	return false;
}

static void tell_what_is_left_out(const struct choice *c, const struct page_table *t)
{
	char reasons[8][160] = {0};
	static const char *const files[] = {
		"/proc/kpageflags", "/proc/kpagecount", "/proc/kpagecgroup", "numa_maps"};
	const int errors[] = {t->flags_error, t->count_error, t->cgroups_error, t->nodes_error};
	for (size_t i = 0; i < 4; i++) {
		if (!errors[i])
			continue;
		if (!t->sources.frames && i < 3)
			snprintf(reasons[i], sizeof(reasons[i]),
				"takes page frame numbers and %s (CAP_SYS_ADMIN, and root's "
				"files)",
				files[i]);
		else
			snprintf(reasons[i], sizeof(reasons[i]), "%s: %s", files[i],
				strerrordesc_np(-errors[i]));
	}
	if (!t->sources.soft_dirty)
		snprintf(reasons[4], sizeof(reasons[4]), "this kernel does not track soft-dirty");
	if (!t->sources.guard)
		snprintf(reasons[5], sizeof(reasons[5]),
			"this kernel shows guard pages like swapped ones, and SWAP has them");
	if (!page_count_is_known(&t->sources, PAGES_ZERO))
		snprintf(reasons[6], sizeof(reasons[6]),
			"takes PAGEMAP_SCAN or page frame numbers (CAP_SYS_ADMIN); ANON and RSS "
			"have the zero page");
	if (t->sources.flags && !t->sources.idle)
		snprintf(reasons[7], sizeof(reasons[7]), "this kernel has no idle page tracking");

	for (unsigned group = 0; group < 8; group++) {
		char names[256] = "";
		size_t len = 0;
		for (size_t i = 0; reasons[group][0] && i < c->len; i++) {
			const struct page_column *column = &page_columns[c->order[i]];
			if (is_of_group(column, group) && len < sizeof(names) - 1)
				len += (size_t)snprintf(names + len, sizeof(names) - len, "%s%s",
					len ? ", " : "", column->title);
		}
		if (names[0])
			fprintf(stderr, "tidemark: left out: %s: %s\n", names, reasons[group]);
	}
}

/* "0:120 1:4" */
static void set_nodes(struct table *t, size_t column, const struct node_pages *n)
{
	char text[512] = "";
	for (size_t i = 0, len = 0; i < n->len && len < sizeof(text) - 32; i++) {
		if (n->pages[i])
			len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%zu:%" PRIu64,
				len ? " " : "", i, n->pages[i]);
	}
	if (text[0])
		table_text(t, column, text);
}

/* The one with most pages; " +N" where there are N others. */
static void set_cgroup(struct table *t, size_t column, const struct cgroup_pages *c,
	const struct cgroup_paths *paths)
{
	uint64_t most = 0, inode = 0;
	for (size_t i = 0; i < c->len; i++) {
		if (c->v[i].pages > most) {
			most = c->v[i].pages;
			inode = c->v[i].inode;
		}
	}
	if (!most)
		return;
	char number[40], more[24] = "";
	const char *path = inode ? cgroup_paths_find(paths, inode) : "none";
	snprintf(number, sizeof(number), "inode %" PRIu64, inode);
	if (c->len > 1)
		snprintf(more, sizeof(more), " +%zu", c->len - 1);
	auto_free char *text = NULL;
	if (asprintf(&text, "%s%s", path ? path : number, more) >= 0)
		table_text(t, column, text);
}

static const char *last_part(const char *name)
{
	const char *slash = name[0] == '/' ? strrchr(name, '/') : NULL;
	return slash && slash[1] ? slash + 1 : name;
}

struct output {
	const struct pages_options *o;
	const struct page_table *pages;
	struct cgroup_paths paths;
};

static void set_count(
	struct table *t, const struct output *out, size_t column, const struct page_counts *counts)
{
	enum page_count count = page_columns[column].count;
	bool in_bytes = cell_type_of(&page_columns[column], out->o) == CELL_SHORT;
	if (page_count_is_known(&out->pages->sources, count))
		table_number(t, column,
			counts->of[count] * (in_bytes ? out->pages->sources.page_bytes : 1));
}

/* `info` is of a mapping, or the total. */
static void set_row(struct table *t, const struct output *out, const struct page_info *info)
{
	const struct mapping *m = &info->mapping;
	bool is_total = info == &out->pages->total;
	char prot[5];
	for (size_t i = 0; i < NCOLUMNS; i++) {
		switch (page_columns[i].what) {
		case SHOW_COUNT:
			set_count(t, out, i, &info->counts);
			break;
		case SHOW_PSS:
			if (out->pages->sources.maps_counted)
				table_number(t, i, info->counts.pss_fixed >> 12);
			break;
		case SHOW_CGROUP:
			if (out->pages->cgroups)
				set_cgroup(t, i, &info->cgroups, &out->paths);
			break;
		case SHOW_NODES:
			if (out->pages->nodes)
				set_nodes(t, i, &info->nodes);
			break;
		case SHOW_START:
			if (!is_total)
				table_number(t, i, m->start);
			break;
		case SHOW_END:
			if (!is_total)
				table_number(t, i, m->end);
			break;
		case SHOW_PROTECTION:
			if (!is_total)
				table_text(t, i, mapping_protection(m, prot));
			break;
		case SHOW_MEMORY:
			if (!is_total)
				table_text(t, i, mapping_kind_text(m));
			break;
		case SHOW_LAST_NAME:
			if (!out->o->json)
				table_text(t, i, is_total ? "(total)" : last_part(m->name));
			else if (!is_total)
				table_text(t, i, m->name);
			break;
		case SHOW_NAME:
			if (!is_total)
				table_text(t, i, m->name);
			break;
		}
	}
	table_row(t);
}

static bool is_empty(const struct page_info *info)
{
	return !info->counts.of[PAGES_PRESENT] && !info->counts.of[PAGES_SWAPPED] &&
	       !info->counts.of[PAGES_GUARD];
}

static void print_mappings(const struct output *out, const struct choice *c)
{
	const struct page_table *pages = out->pages;
	struct table *t = table_new(stdout, c->columns, NCOLUMNS, out->o->json, "mapping");
	table_order(t, c->order, c->len);
	for (size_t i = 0; i < pages->len; i++) {
		if (!out->o->populated || !is_empty(&pages->v[i]))
			set_row(t, out, &pages->v[i]);
	}
	/* In text the total is the last row; in JSON an object of another kind. */
	if (out->o->json) {
		table_free(t);
		t = table_new(stdout, c->columns, NCOLUMNS, true, "total");
		table_order(t, c->order, c->len);
	}
	set_row(t, out, &pages->total);
	table_free(t);
}

static void print_head(const struct output *out, const struct process *p)
{
	auto_free char *comm = NULL;
	size_t len;
	if (process_read_file(p, "comm", &comm, &len, NULL) == 0)
		comm[strcspn(comm, "\n")] = '\0';
	auto_free char *name = printable(comm ? comm : "?");
	if (out->o->count_pages)
		printf("process %d (%s), in pages of %" PRIu64 " KiB\n\n", p->pid, name,
			out->pages->sources.page_bytes >> 10);
	else
		printf("process %d (%s), sizes in bytes (K, M, G: powers of 1024)\n\n", p->pid,
			name);
}

int command_pages(int argc, char **argv)
{
	struct pages_options o = {0};
	struct tide_error err = {0};
	struct choice c;
	command_parse(&argp, argc, argv, &o);
	if (o.chosen && strcmp(o.chosen, "help") == 0) {
		print_columns();
		return EXIT_DONE;
	}
	if (choose(&c, &o) < 0)
		return EXIT_USAGE;

	auto_(process_closep) struct process *p = NULL;
	auto_(page_table_release) struct page_table pages = {0};
	struct page_table_options ask = ask_for(&c);
	if (process_open_to_look(o.pid, &p, &err) < 0 || page_table_read(p, &ask, &pages, &err) < 0)
		return command_fail(&err);

	struct output out = {.o = &o, .pages = &pages};
	if (pages.cgroups && cgroup_paths_read(&out.paths) < 0) {
		tide_fail(&err, -ENOMEM, "read the names of cgroups");
		return command_fail(&err);
	}
	if (!o.json)
		print_head(&out, p);
	print_mappings(&out, &c);
	tell_what_is_left_out(&c, &pages);
	cgroup_paths_release(&out.paths);
	return EXIT_DONE;
}
