/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "tracker/hidden_writes.h"
#include "tracker/inspect.h"
#include "base/units.h"
#include "tracker/maps.h"
#include "tracker/objects.h"
#include "tracker/populated.h"
#include "tracker/process.h"

static int add_finding(struct inspection *in, bool refused, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static int add_finding(struct inspection *in, bool refused, const char *fmt, ...)
{
	struct finding *v = reallocarray(in->findings, in->nfindings + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	in->findings = v;
	struct finding *f = &v[in->nfindings++];
	f->refused = refused;
	f->verifiable = false;
	va_list args;
	va_start(args, fmt);
	vsnprintf(f->text, sizeof(f->text), fmt, args);
	va_end(args);
	return 0;
}

static long status_number(const char *status, const char *key)
{
	const char *at = strstr(status, key);
	return at ? strtol(at + strlen(key), NULL, 10) : 0;
}

static int inspect_status(const struct process *p, struct inspection *in, struct tide_error *err)
{
	auto_free char *status = NULL;
	size_t len;
	int r = process_read_file(p, "status", &status, &len, err);
	if (r < 0)
		return r;
	sscanf(status, "Name: %63[^\n]", in->comm);
	in->nthreads = (size_t)status_number(status, "\nThreads:");

	long tracer = status_number(status, "\nTracerPid:");
	if (tracer)
		r = add_finding(in, true, "it is being traced already, by process %ld", tracer);
	long seccomp = status_number(status, "\nSeccomp:");
	if (r == 0 && seccomp == 1)
		r = add_finding(in, true,
			"it is in seccomp's strict mode, where it may make no system call");
	if (r == 0 && seccomp == 2)
		r = add_finding(in, geteuid() != 0,
			"a seccomp filter is in force; it is suspended while the process is "
			"prepared%s",
			geteuid() != 0 ? ", which takes CAP_SYS_ADMIN" : "");
	return r;
}

/* Writers that page tables do not show. */
static int inspect_hidden_writes(
	const struct process *p, struct inspection *in, struct tide_error *err)
{
	auto_(hidden_writes_closep) struct hidden_writes *h = NULL;
	const struct hidden_report *report = NULL;
	int r = hidden_writes_open(p, &h, err);
	if (r == 0)
		r = hidden_writes_find(h, &in->maps, false, &report, err);
	if (r == 0 && report->unplaced_rings) {
		/* Perhaps it was mapped since the mappings were read. */
		struct mapping_table now = {0};
		r = maps_read(p, &in->maps, &now, err);
		if (r == 0)
			r = hidden_writes_find(h, &now, false, &report, err);
		mapping_table_release(&now);
	}
	if (r < 0)
		return r;
	struct hidden_word words[HIDDEN_WORDS_MAX];
	size_t n = hidden_report_words(report, words);
	for (size_t i = 0; r == 0 && i < n; i++) {
		r = add_finding(in, words[i].refused, "%s", words[i].text);
		if (r == 0)
			in->findings[in->nfindings - 1].verifiable = words[i].refused;
	}
	return r;
}

int inspect_secret(const struct process *p, const struct mapping *m, uint64_t *ret_bytes,
	struct tide_error *err)
{
	struct pageset held = {0};
	int r = maps_is_secret(m) ? populated_find(p, m, m->start, m->end, &held, err) : 0;
	if (r == 0)
		*ret_bytes = pageset_bytes(&held);
	pageset_release(&held);
	return r;
}

/* Memory that nobody but the process can read cannot travel; where there is something in it, what
 * would be made without it would not be the process. */
static int inspect_secrets(const struct process *p, struct inspection *in, struct tide_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < in->maps.len; i++) {
		const struct mapping *m = &in->maps.v[i];
		uint64_t bytes = 0;
		r = inspect_secret(p, m, &bytes, err);
		if (r == 0 && bytes)
			r = add_finding(in, true,
				"memfd_secret memory at %#llx holds %llu KiB that nobody else may "
				"read",
				(unsigned long long)m->start, (unsigned long long)bytes >> 10);
	}
	return r;
}

/* "by process 123", "by anybody who knows its name", ... */
static void say_who(const struct object *o, char *ret, size_t size)
{
	if (o->by)
		snprintf(ret, size, "by process %d", o->by);
	else if (o->named)
		snprintf(ret, size, "by whoever opens it by its name");
	else
		snprintf(ret, size, "perhaps: not every process here may be looked into");
}

/* Shared memory is followed, and yet read whole: how often depends on who has it. */
static int inspect_objects(const struct process *p, struct inspection *in)
{
	struct objects objects = {0};
	objects_begin_look(&objects);
	int r = objects_look(&objects, p, &in->maps, false);
	if (r == 0)
		r = objects_look_for_others(&objects, p, &in->maps, clock_now_ns() + 2 * NS_PER_S);
	for (size_t i = 0; r == 0 && i < objects.len; i++) {
		const struct object *o = &objects.v[i];
		char size[UNITS_TEXT], who[80];
		const char *name = "";
		for (size_t k = 0; k < in->maps.len && !*name; k++) {
			if (in->maps.v[k].kind == MAPPING_OBJECT && in->maps.v[k].object == i + 1)
				name = in->maps.v[k].name;
		}
		units_format_bytes(size, pageset_bytes(&o->data));
		say_who(o, who, sizeof(who));
		if (o->others)
			r = add_finding(in, false,
				"%s of shared memory (%.80s) can be written by others (%s): read "
				"again in every round and in the freeze, and perhaps of another "
				"instant",
				size, name, who);
		else if (pageset_bytes(&o->data))
			r = add_finding(in, false,
				"%s of shared memory (%.80s), which nobody else has now: read "
				"again in the freeze, since who comes and goes between two rounds "
				"leaves no trace",
				size, name);
	}
	objects_release(&objects);
	return r;
}

int process_inspect(pid_t pid, struct inspection *ret, struct tide_error *err)
{
	auto_(process_closep) struct process *p = NULL;
	int r = process_open(pid, &p, err);
	if (r < 0)
		return r;
	struct inspection in = {0};
	r = maps_read(p, NULL, &in.maps, err);
	if (r == 0)
		r = inspect_status(p, &in, err);
	if (r == 0)
		r = inspect_hidden_writes(p, &in, err);
	if (r == 0)
		r = inspect_secrets(p, &in, err);
	if (r == 0)
		r = inspect_objects(p, &in);
	if (r == -ENOMEM)
		tide_fail(err, r, "look at process %d", pid);
	if (r < 0) {
		inspection_release(&in);
		return r;
	}
	*ret = in;
	return 0;
}

void inspection_release(struct inspection *in)
{
	mapping_table_release(&in->maps);
	free(in->findings);
	*in = (struct inspection){0};
}
