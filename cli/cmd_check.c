/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>
#include <sys/utsname.h>
#include "cli/command.h"
#include "cli/mapping_text.h"
#include "cli/output.h"
#include "proto/mapping.h"
#include "tracker/inspect.h"
#include "tracker/probe.h"

struct check_options {
	pid_t pid; /* 0: only the kernel */
	bool json;
	bool all;
};

static const struct argp_option option_table[] = {
	{"all", 'a', NULL, 0, "List every mapping, not only a line for each kind", 0},
	OPTION_JSON,
	{0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct check_options *o = state->input;
	switch (key) {
	case 'a':
		o->all = true;
		return 0;
	case 'j':
		o->json = true;
		return 0;
	case ARGP_KEY_ARG:
		o->pid = option_only_pid(state, o->pid, arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_table,
	.parser = parse_option,
	.args_doc = "[PID]",
	.doc = "Tell what this kernel and this user can do; with PID, what of that process would "
	       "be followed and "
	       "what not, with the reasons. Nothing is changed: the process is not even stopped.\v"
	       "Exit status: 0 it can be followed, 2 wrong usage, 3 there is no such process, 4 "
	       "this kernel or user cannot.",
};

static bool check_kernel(bool json)
{
	enum { NAME, ANSWER, NEEDED, QUESTION, DETAIL };
	static const struct column columns[] = {
		[NAME] = {"name", "FEATURE", CELL_TEXT, 0},
		[ANSWER] = {"available", "HERE", CELL_FLAG, 0},
		[NEEDED] = {"needed", "NEEDED", CELL_FLAG, 0},
		[QUESTION] = {"question", NULL, CELL_TEXT, 0},
		[DETAIL] = {"detail", "DETAIL", CELL_TEXT, 0},
	};
	struct utsname u;
	uname(&u);
	if (!json)
		printf("%s %s, %s\n\n", u.sysname, u.release, u.machine);
	struct table *t =
		table_new(stdout, columns, sizeof(columns) / sizeof(columns[0]), json, "feature");
	bool ok = true;
	for (const struct probe *p = probes; p->name; p++) {
		char detail[128] = "";
		bool answer = p->ask(detail, sizeof(detail));
		table_text(t, NAME, p->name);
		table_number(t, ANSWER, answer);
		table_number(t, NEEDED, p->needed);
		table_text(t, QUESTION, p->question);
		table_text(t, DETAIL, detail);
		table_row(t);
		ok &= answer || !p->needed;
	}
	table_free(t);
	return ok;
}

static const char *treatment(const struct mapping *m)
{
	switch (m->kind) {
	case MAPPING_ANON:
		return "followed";
	case MAPPING_FILE_PRIVATE:
		return "followed: pages that were copied; the rest is the file's";
	case MAPPING_OBJECT:
		return "followed; read whole in the freeze, since others may write it too";
	case MAPPING_FILE_SHARED:
		return "not followed: a reference to the file, whose contents stay where they are";
	case MAPPING_VDSO:
		return "read once";
	case MAPPING_OPAQUE:
		return m->why;
	}
	return "";
}

static bool is_followed(const struct mapping *m)
{
	return m->kind != MAPPING_OPAQUE && m->kind != MAPPING_FILE_SHARED;
}

static void list_mappings(const struct mapping_table *maps, bool json)
{
	enum { START, END, PROT, KIND, FOLLOWED, NAME, HOW };
	static const struct column columns[] = {
		[START] = {"start", "START", CELL_ADDRESS, 0},
		[END] = {"end", "END", CELL_ADDRESS, 0},
		[PROT] = {"protection", "PROT", CELL_TEXT, 0},
		[KIND] = {"memory", "KIND", CELL_TEXT, 0},
		[FOLLOWED] = {"followed", "FOLLOWED", CELL_FLAG, 0},
		[NAME] = {"name", "NAME", CELL_TEXT, 0},
		[HOW] = {"how", NULL, CELL_TEXT, 0},
	};
	struct table *t =
		table_new(stdout, columns, sizeof(columns) / sizeof(columns[0]), json, "mapping");
	for (size_t i = 0; i < maps->len; i++) {
		const struct mapping *m = &maps->v[i];
		char prot[5];
		table_number(t, START, m->start);
		table_number(t, END, m->end);
		table_text(t, PROT, mapping_protection(m, prot));
		table_text(t, KIND, mapping_kind_text(m));
		table_number(t, FOLLOWED, is_followed(m));
		table_text(t, NAME, m->name);
		table_text(t, HOW, treatment(m));
		table_row(t);
	}
	table_free(t);
}

/* A line for each kind and reason. */
static void sum_mappings(const struct mapping_table *maps)
{
	enum { KIND, COUNT, SIZE, HOW };
	static const struct column columns[] = {
		[KIND] = {"memory", "KIND", CELL_TEXT, 0},
		[COUNT] = {"mappings", "MAPPINGS", CELL_COUNT, 0},
		[SIZE] = {"bytes", "MAPPED", CELL_BYTES, 0},
		[HOW] = {"how", "HOW IT TRAVELS", CELL_TEXT, 0},
	};
	struct table *t =
		table_new(stdout, columns, sizeof(columns) / sizeof(columns[0]), false, NULL);
	for (size_t i = 0; i < maps->len; i++) {
		const struct mapping *m = &maps->v[i];
		uint64_t count = 0, bytes = 0;
		bool first = true;
		for (size_t k = 0; k < maps->len; k++) {
			const struct mapping *other = &maps->v[k];
			if (other->kind != m->kind || strcmp(treatment(other), treatment(m)) != 0)
				continue;
			first &= k >= i;
			count++;
			bytes += other->end - other->start;
		}
		if (!first)
			continue;
		table_text(t, KIND, mapping_kind_text(m));
		table_number(t, COUNT, count);
		table_number(t, SIZE, bytes);
		table_text(t, HOW, treatment(m));
		table_row(t);
	}
	table_free(t);
}

static void list_findings(const struct inspection *found, bool json)
{
	enum { WHAT, SERIOUS };
	static const struct column columns[] = {
		[WHAT] = {"what", NULL, CELL_TEXT, 0},
		[SERIOUS] = {"refused", NULL, CELL_FLAG, 0},
	};
	if (!json && found->nfindings)
		printf("\nTo know:\n");
	struct table *t = table_new(stdout, columns, 2, true, "finding");
	for (size_t i = 0; i < found->nfindings; i++) {
		if (!json) {
			printf("  %s%s\n", found->findings[i].refused ? "refused: " : "",
				found->findings[i].text);
			continue;
		}
		table_text(t, WHAT, found->findings[i].text);
		table_number(t, SERIOUS, found->findings[i].refused);
		table_row(t);
	}
	table_free(t);
}

static int check_process(const struct check_options *o)
{
	struct tide_error err = {0};
	struct inspection found = {0};
	if (process_inspect(o->pid, &found, &err) < 0)
		return command_fail(&err);

	if (!o->json)
		printf("\nprocess %d (%s), %zu threads\n\n", o->pid, found.comm, found.nthreads);
	if (o->json || o->all)
		list_mappings(&found.maps, o->json);
	else
		sum_mappings(&found.maps);
	list_findings(&found, o->json);

	bool refused = false;
	for (size_t i = 0; i < found.nfindings; i++)
		refused |= found.findings[i].refused;
	inspection_release(&found);
	return refused ? EXIT_UNSUPPORTED : EXIT_DONE;
}

int command_check(int argc, char **argv)
{
	struct check_options o = {0};
	command_parse(&argp, argc, argv, &o);
	int status = check_kernel(o.json) ? EXIT_DONE : EXIT_UNSUPPORTED;
	if (o.pid) {
		int of_process = check_process(&o);
		status = of_process ? of_process : status;
	}
	return status;
}
