/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/units.h"
#include "cli/command.h"
#include "cli/output.h"
#include "proto/codec.h"
#include "proto/message.h"
#include "tidemark/send.h"
#include "tracker/source.h"

enum { PROGRESS_MS = 200 };

struct send_options {
	pid_t pid;
	struct tide_address address;
	bool has_address;
	struct tide_process_source_options source;
	char name[NAME_MAX_BYTES + 1];
	bool json;
	struct tide_send_options send;
};

struct sending {
	struct send_options options;
	char address[TIDE_ADDRESS_TEXT];
	char comm[64];
	uv_loop_t loop;
	uv_signal_t on_int, on_term;
	uv_timer_t progress_timer;
	struct tide_send *send;
	struct table *rounds;
	FILE *out; /* standard output, unless the stream goes there */
	bool progress_shown;
	int status;
};

enum {
	OPTION_BACKEND = 256,
	OPTION_COMPRESS,
	OPTION_DELTA_CACHE,
	OPTION_FREEZE_TIMEOUT,
	OPTION_IF_DIVERGING,
	OPTION_INSECURE_NO_AUTH,
	OPTION_KEY_FILE,
	OPTION_KILL,
	OPTION_LEAVE_RUNNING,
	OPTION_LEAVE_STOPPED,
	OPTION_MAX_BANDWIDTH,
	OPTION_MAX_DOWNTIME,
	OPTION_MAX_ROUNDS,
	OPTION_NAME,
	OPTION_STREAMS,
	OPTION_THREADS,
	OPTION_TIMEOUT,
	OPTION_VERIFY_WRITES,
};

static const struct argp_option option_table[] = {
	{NULL, 0, NULL, 0,
		"What becomes of the process once everything is held at the other end:", 1},
	{"leave-running", OPTION_LEAVE_RUNNING, NULL, 0,
		"It goes on as if nobody had looked (default)", 1},
	{"leave-stopped", OPTION_LEAVE_STOPPED, NULL, 0,
		"It is stopped, as by SIGSTOP, without having run one instruction more", 1},
	{"kill", OPTION_KILL, NULL, 0, "It is killed", 1},
	{NULL, 0, NULL, 0, "When to freeze:", 2},
	{"max-downtime", OPTION_MAX_DOWNTIME, "TIME", 0,
		"Freeze once what is left takes this long (default 100ms)", 2},
	{"max-rounds", OPTION_MAX_ROUNDS, "N", 0, "... or after this many rounds (default 30)", 2},
	{"if-diverging", OPTION_IF_DIVERGING, "WHAT", 0,
		"Where rounds stop shrinking: freeze (default); throttle the process first; or "
		"abort",
		2},
	{"freeze-timeout", OPTION_FREEZE_TIMEOUT, "TIME", 0,
		"Give up, and let the process go on, when the freeze takes longer (default 1s)", 2},
	{NULL, 0, NULL, 0, "How:", 3},
	{"name", OPTION_NAME, "NAME", 0, "The image's name at the agent (default: COMMAND-PID)", 3},
	{"backend", OPTION_BACKEND, "NAME", 0,
		"How writes are tracked: auto (default), uffd-wp, soft-dirty", 3},
	{"verify-writes", OPTION_VERIFY_WRITES, NULL, 0,
		"Compare all of memory in the freeze, where devices write it unseen", 3},
	{"compress", OPTION_COMPRESS, "CODEC", 0, "auto (default), none, lz4 or zstd", 3},
	{"delta-cache", OPTION_DELTA_CACHE, "SIZE", 0,
		"Memory for pages that are written often, of which only what changed is sent "
		"(default 64M; 0: off)",
		3},
	{"max-bandwidth", OPTION_MAX_BANDWIDTH, "RATE", 0,
		"Send no faster than this, but for the freeze: 200M (bytes a second), 1Gbit", 3},
	{"threads", OPTION_THREADS, "N", 0,
		"Workers that read and compress (default: one a processor)", 3},
	{"streams", OPTION_STREAMS, "N", 0,
		"Connections to the agent that share the pages (default 1, at most 64)", 3},
	{"timeout", OPTION_TIMEOUT, "TIME", 0,
		"A peer that is silent for this long is dead (default 30s)", 3},
	{"key-file", OPTION_KEY_FILE, "FILE", 0, "The key that a TCP agent wants", 3},
	{"insecure-no-auth", OPTION_INSECURE_NO_AUTH, NULL, 0,
		"Send to an agent that asks for no key", 3},
	OPTION_JSON,
	{0},
};

static enum tide_if_diverging parse_if_diverging(const struct argp_state *state, const char *arg)
{
	static const char *const names[] = {[TIDE_DIVERGING_FREEZE] = "freeze",
		[TIDE_DIVERGING_THROTTLE] = "throttle",
		[TIDE_DIVERGING_ABORT] = "abort"};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(arg, names[i]) == 0)
			return (enum tide_if_diverging)i;
	}
	argp_error(state, "--if-diverging takes freeze, throttle or abort, not '%s'", arg);
	return TIDE_DIVERGING_FREEZE;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct send_options *o = state->input;
	struct tide_error err;
	switch (key) {
	case OPTION_LEAVE_RUNNING:
		o->send.after = TIDE_AFTER_RUN;
		return 0;
	case OPTION_LEAVE_STOPPED:
		o->send.after = TIDE_AFTER_STOP;
		return 0;
	case OPTION_KILL:
		o->send.after = TIDE_AFTER_KILL;
		return 0;
	case OPTION_MAX_DOWNTIME:
		o->send.max_downtime_ns = option_ns(state, "--max-downtime", arg);
		return 0;
	case OPTION_MAX_ROUNDS:
		o->send.max_rounds = option_count(state, "--max-rounds", arg, 1, 1000000);
		return 0;
	case OPTION_IF_DIVERGING:
		o->send.if_diverging = parse_if_diverging(state, arg);
		return 0;
	case OPTION_MAX_BANDWIDTH:
		o->send.max_bytes_per_second = option_rate(state, "--max-bandwidth", arg);
		return 0;
	case OPTION_FREEZE_TIMEOUT:
		o->send.freeze_timeout_ns = option_ns(state, "--freeze-timeout", arg);
		return 0;
	case OPTION_NAME:
		if (!image_name_valid(arg))
			argp_error(state,
				"an image's name is a letter or digit, then up to 127 letters, "
				"digits, '.', '_' or '-'; "
				"not '%s'",
				arg);
		strncpy(o->name, arg, NAME_MAX_BYTES);
		return 0;
	case OPTION_BACKEND:
		o->source.backend = arg;
		return 0;
	case OPTION_VERIFY_WRITES:
		o->source.verify_writes = 1;
		return 0;
	case OPTION_COMPRESS:
		if (strcmp(arg, "auto") != 0 && !codec_by_name(arg))
			argp_error(
				state, "--compress takes auto, none, lz4 or zstd, not '%s'", arg);
		o->send.codec = arg;
		return 0;
	case OPTION_DELTA_CACHE:
		o->send.delta_cache_bytes = option_bytes(state, "--delta-cache", arg);
		o->send.no_delta = o->send.delta_cache_bytes == 0;
		return 0;
	case OPTION_THREADS:
		o->send.threads = (unsigned)option_count(state, "--threads", arg, 1, 256);
		return 0;
	case OPTION_STREAMS:
		o->send.streams = (unsigned)option_count(state, "--streams", arg, 1, 64);
		return 0;
	case OPTION_TIMEOUT:
		o->send.timeout_ns = option_ns(state, "--timeout", arg);
		return 0;
	case OPTION_KEY_FILE:
		o->send.key_file = arg;
		return 0;
	case OPTION_INSECURE_NO_AUTH:
		o->send.insecure_no_auth = 1;
		return 0;
	case 'j':
		o->json = true;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num == 0) {
			o->pid = option_pid(state, arg);
		} else if (state->arg_num == 1) {
			if (tide_address_parse(arg, &o->address, &err) < 0)
				argp_error(state, "%s", err.text);
			o->has_address = true;
		} else {
			argp_error(state, "'%s' is one argument too many", arg);
		}
		return 0;
	case ARGP_KEY_END:
		if (!o->has_address)
			argp_error(state, "a process number and an address are needed");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = option_table,
	.parser = parse_option,
	.args_doc = "PID ADDRESS",
	.doc = "Send the memory of a live process while it runs: in rounds, each holding what was "
	       "written during the one "
	       "before; then it is frozen for a moment for the last one.\v"
	       "ADDRESS is tcp://HOST:PORT or unix:PATH, where an agent listens; the path of a "
	       "file, which is created; "
	       "or - for standard output.\n\n"
	       "Ctrl-C lets go of the process and ends.\n\n"
	       "Exit status: 0 done, 1 failed (the process goes on, unharmed), 2 wrong usage, 3 "
	       "the process "
	       "went away, 4 this kernel or user cannot follow it.",
};

/* --- what the user sees
 * --------------------------------------------------------------------------- */

static bool goes_to_agent(const struct tide_address *address)
{
	return address->kind == TIDE_ADDRESS_TCP || address->kind == TIDE_ADDRESS_UNIX;
}

enum {
	ROUND,
	PAGES,
	BYTES,
	WIRE,
	CODEC,
	TIME,
	RATE,
	SAME,
	DROPPED,
	REREAD,
	REMAINING,
	THROTTLED,
	FINAL,
	WHY
};
static const struct column round_columns[] = {
	[ROUND] = {"round", "ROUND", CELL_COUNT, 5},
	[PAGES] = {"pages", "PAGES", CELL_COUNT, 9},
	[BYTES] = {"bytes", "SIZE", CELL_BYTES, 9},
	[WIRE] = {"wire_bytes", "ON WIRE", CELL_BYTES, 9},
	[CODEC] = {"codec", "CODEC", CELL_TEXT, 5},
	[TIME] = {"time_ms", "TIME", CELL_NS, 8},
	[RATE] = {"dirty_bytes_per_second", "DIRTY RATE", CELL_RATE, 11},
	[SAME] = {"unchanged_pages", "UNCHANGED", CELL_COUNT, 9},
	[DROPPED] = {"dropped_pages", NULL, CELL_COUNT, 0},
	[REREAD] = {"reread_pages", NULL, CELL_COUNT, 0},
	[REMAINING] = {"remaining_ms", NULL, CELL_NS, 0},
	[THROTTLED] = {"throttle_percent", NULL, CELL_COUNT, 0},
	[FINAL] = {"final", NULL, CELL_FLAG, 0},
	[WHY] = {"why", "NEXT", CELL_TEXT, 0},
};

static void clear_progress(struct sending *s)
{
	if (s->progress_shown)
		fputs("\r\033[K", stderr);
	s->progress_shown = false;
}

static void on_progress(uv_timer_t *timer)
{
	struct sending *s = timer->data;
	struct tide_send_progress p;
	char done[UNITS_TEXT], all[UNITS_TEXT], rate[UNITS_TEXT], left[UNITS_TEXT];
	tide_send_progress(s->send, &p);
	/* The terminal's other end may be the frozen process. */
	if (p.frozen || p.round_pages == 0)
		return;
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	double seconds = (double)(clock_now_ns() - p.round_started_ns) / 1e9;
	double speed = (double)(p.round_pages_done * page) / seconds;
	units_format_bytes(done, p.round_pages_done * page);
	units_format_bytes(all, p.round_pages * page);
	units_format_rate(rate, speed);
	uint64_t missing = (p.round_pages - p.round_pages_done) * page;
	units_format_ns(left, speed > 0 ? (uint64_t)((double)missing / speed * 1e9) : 0);
	fprintf(stderr, "\r\033[Kround %" PRIu64 ": %s of %s, %s, %s left", p.round, done, all,
		rate, left);
	s->progress_shown = true;
}

static void on_round(void *arg, const struct tide_send_round *r)
{
	struct sending *s = arg;
	clear_progress(s);
	table_number(s->rounds, ROUND, r->number);
	table_number(s->rounds, PAGES, r->pages);
	table_number(s->rounds, BYTES, r->pages * (uint64_t)sysconf(_SC_PAGESIZE));
	table_number(s->rounds, WIRE, r->wire_bytes);
	table_text(s->rounds, CODEC, r->codec);
	table_number(s->rounds, TIME, r->duration_ns);
	if (r->interval_ns)
		table_real(s->rounds, RATE, r->dirty_bytes_per_second);
	table_number(s->rounds, SAME, r->unchanged_pages);
	table_number(s->rounds, DROPPED, r->dropped_pages);
	table_number(s->rounds, REREAD, r->reread_pages);
	if (r->remaining_ns)
		table_number(s->rounds, REMAINING, r->remaining_ns);
	table_number(s->rounds, THROTTLED, r->throttle_percent);
	table_number(s->rounds, FINAL, r->final);
	table_text(s->rounds, WHY, r->why[0] ? r->why : "done");
	table_row(s->rounds);
}

enum {
	SUM_PID,
	SUM_NAME,
	SUM_ADDRESS,
	SUM_ROUNDS,
	SUM_TOTAL,
	SUM_DOWNTIME,
	SUM_THREADS,
	SUM_HELD,
	SUM_PAGES,
	SUM_BYTES,
	SUM_WIRE,
	SUM_STORED,
	SUM_RATIO,
	SUM_RAW,
	SUM_ZERO,
	SUM_LZ4,
	SUM_ZSTD,
	SUM_DELTA,
	SUM_ZERO_SAVED,
	SUM_LZ4_SAVED,
	SUM_ZSTD_SAVED,
	SUM_DELTA_SAVED,
	SUM_UNCHANGED,
	SUM_THROTTLE,
	SUM_COMPRESS,
	SUM_BACKEND,
};
static const struct column summary_columns[] = {
	[SUM_PID] = {"pid", NULL, CELL_COUNT, 0},
	[SUM_NAME] = {"name", NULL, CELL_TEXT, 0},
	[SUM_ADDRESS] = {"address", NULL, CELL_TEXT, 0},
	[SUM_ROUNDS] = {"rounds", NULL, CELL_COUNT, 0},
	[SUM_TOTAL] = {"total_ms", NULL, CELL_NS, 0},
	[SUM_DOWNTIME] = {"downtime_ms", NULL, CELL_NS, 0},
	[SUM_THREADS] = {"threads", NULL, CELL_COUNT, 0},
	[SUM_HELD] = {"held_pages", NULL, CELL_COUNT, 0},
	[SUM_PAGES] = {"pages", NULL, CELL_COUNT, 0},
	[SUM_BYTES] = {"bytes", NULL, CELL_BYTES, 0},
	[SUM_WIRE] = {"wire_bytes", NULL, CELL_BYTES, 0},
	[SUM_STORED] = {"stored_bytes", NULL, CELL_BYTES, 0},
	[SUM_RATIO] = {"ratio", NULL, CELL_RATIO, 0},
	[SUM_RAW] = {"raw_pages", NULL, CELL_COUNT, 0},
	[SUM_ZERO] = {"zero_pages", NULL, CELL_COUNT, 0},
	[SUM_LZ4] = {"lz4_pages", NULL, CELL_COUNT, 0},
	[SUM_ZSTD] = {"zstd_pages", NULL, CELL_COUNT, 0},
	[SUM_DELTA] = {"delta_pages", NULL, CELL_COUNT, 0},
	[SUM_ZERO_SAVED] = {"zero_saved_bytes", NULL, CELL_BYTES, 0},
	[SUM_LZ4_SAVED] = {"lz4_saved_bytes", NULL, CELL_BYTES, 0},
	[SUM_ZSTD_SAVED] = {"zstd_saved_bytes", NULL, CELL_BYTES, 0},
	[SUM_DELTA_SAVED] = {"delta_saved_bytes", NULL, CELL_BYTES, 0},
	[SUM_UNCHANGED] = {"unchanged_pages", NULL, CELL_COUNT, 0},
	[SUM_THROTTLE] = {"throttle_percent", NULL, CELL_COUNT, 0},
	[SUM_COMPRESS] = {"compress", NULL, CELL_TEXT, 0},
	[SUM_BACKEND] = {"backend", NULL, CELL_TEXT, 0},
};

static double ratio_of(const struct tide_send_result *r)
{
	return r->wire_bytes ? (double)(r->pages_sent * r->page_bytes) / (double)r->wire_bytes : 0;
}

static void print_summary_json(struct sending *s, const struct tide_send_result *r)
{
	struct table *t = table_new(s->out, summary_columns,
		sizeof(summary_columns) / sizeof(summary_columns[0]), true, "summary");
	table_number(t, SUM_PID, (uint64_t)s->options.pid);
	if (goes_to_agent(&s->options.address))
		table_text(t, SUM_NAME, s->options.name);
	table_text(t, SUM_ADDRESS, s->address);
	table_number(t, SUM_ROUNDS, r->rounds);
	table_number(t, SUM_TOTAL, r->total_ns);
	table_number(t, SUM_DOWNTIME, r->downtime_ns);
	table_number(t, SUM_THREADS, r->threads);
	table_number(t, SUM_HELD, r->held_pages);
	table_number(t, SUM_PAGES, r->pages_sent);
	table_number(t, SUM_BYTES, r->pages_sent * r->page_bytes);
	table_number(t, SUM_WIRE, r->wire_bytes);
	if (r->stored_bytes)
		table_number(t, SUM_STORED, r->stored_bytes);
	table_real(t, SUM_RATIO, ratio_of(r));
	table_number(t, SUM_RAW, r->raw.pages);
	table_number(t, SUM_ZERO, r->zero.pages);
	table_number(t, SUM_LZ4, r->lz4.pages);
	table_number(t, SUM_ZSTD, r->zstd.pages);
	table_number(t, SUM_DELTA, r->delta.pages);
	table_number(t, SUM_ZERO_SAVED, r->zero.saved_bytes);
	table_number(t, SUM_LZ4_SAVED, r->lz4.saved_bytes);
	table_number(t, SUM_ZSTD_SAVED, r->zstd.saved_bytes);
	table_number(t, SUM_DELTA_SAVED, r->delta.saved_bytes);
	table_number(t, SUM_UNCHANGED, r->unchanged_pages);
	table_number(t, SUM_THROTTLE, r->throttle_percent);
	table_text(t, SUM_COMPRESS, s->options.send.codec ? s->options.send.codec : "auto");
	table_text(t, SUM_BACKEND, s->options.source.backend);
	table_row(t);
	table_free(t);
}

/* "sent as: 20 zero (saved 80.0 KiB), 300 lz4 (saved 800 KiB), 5 raw" */
static void print_forms(FILE *out, const struct tide_send_result *r)
{
	const struct {
		const char *name;
		const struct tide_send_form *form;
	} forms[] = {{"zero", &r->zero}, {"delta", &r->delta}, {"zstd", &r->zstd}, {"lz4", &r->lz4},
		{"raw", &r->raw}};
	const char *between = "sent as: ";
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		const struct tide_send_form *form = forms[i].form;
		char saved[UNITS_TEXT];
		if (form->pages == 0)
			continue;
		fprintf(out, "%s%" PRIu64 " %s", between, form->pages, forms[i].name);
		if (form->saved_bytes)
			fprintf(out, " (saved %s)", units_format_bytes(saved, form->saved_bytes));
		between = ", ";
	}
	fputs("\n", out);
}

static void print_summary(struct sending *s, const struct tide_send_result *r)
{
	static const char *const fates[] = {[TIDE_AFTER_RUN] = "goes on",
		[TIDE_AFTER_STOP] = "is stopped",
		[TIDE_AFTER_KILL] = "was killed"};
	char total[UNITS_TEXT], down[UNITS_TEXT], held[UNITS_TEXT], sent[UNITS_TEXT],
		wire[UNITS_TEXT], limit[UNITS_TEXT];
	units_format_ns(total, r->total_ns);
	units_format_ns(down, r->downtime_ns);
	units_format_ns(limit, s->options.send.max_downtime_ns);
	units_format_bytes(held, r->held_pages * r->page_bytes);
	units_format_bytes(sent, r->pages_sent * r->page_bytes);
	units_format_bytes(wire, r->wire_bytes);

	bool named = goes_to_agent(&s->options.address);
	fprintf(s->out, "\nprocess %d (%s, %" PRIu64 " threads) is held at %s%s%s and %s\n",
		s->options.pid, s->comm, r->threads, s->address, named ? " as " : "",
		named ? s->options.name : "", fates[s->options.send.after]);
	fprintf(s->out, "total %s, downtime %s (limit %s), %" PRIu64 " rounds\n", total, down,
		limit, r->rounds);
	fprintf(s->out,
		"holds %" PRIu64 " pages (%s); sent %" PRIu64
		" pages (%s), %s on the wire, ratio %.2f\n",
		r->held_pages, held, r->pages_sent, sent, wire, ratio_of(r));
	print_forms(s->out, r);
	if (r->unchanged_pages)
		fprintf(s->out,
			"%" PRIu64 " pages were read again and not sent, as they were unchanged\n",
			r->unchanged_pages);
	if (r->throttle_percent)
		fprintf(s->out, "the process was slowed by up to %u %%\n", r->throttle_percent);
}

/* --- the course of it
 * ----------------------------------------------------------------------------- */

static void on_done(void *arg, const struct tide_send_result *result, const struct tide_error *err)
{
	struct sending *s = arg;
	clear_progress(s);
	if (err)
		s->status = command_fail(err);
	else if (s->options.json)
		print_summary_json(s, result);
	else
		print_summary(s, result);
	uv_close((uv_handle_t *)&s->on_int, NULL);
	uv_close((uv_handle_t *)&s->on_term, NULL);
	uv_close((uv_handle_t *)&s->progress_timer, NULL);
}

static void on_signal(uv_signal_t *handle, int signal)
{
	struct sending *s = handle->data;
	(void)signal;
	tide_send_cancel(s->send);
}

/* "redis-server-1234": what of the command's name an image's name may hold, and the process number.
 */
static void name_by_default(struct send_options *o, const char *comm)
{
	char *to = o->name;
	for (const char *c = comm; *c; c++) {
		if (isalnum((unsigned char)*c) || (to > o->name && strchr("._-", *c)))
			*to++ = *c;
	}
	snprintf(to, 32, "%s%d", to > o->name ? "-" : "", o->pid);
}

static int open_source(struct sending *s, struct tide_source **ret, struct tide_error *err)
{
	struct process_info info;
	s->options.source.purpose = "tidemark send";
	int r = tide_process_source_open(s->options.pid, &s->options.source, ret, err);
	if (r < 0)
		return r;
	struct page_source *source = page_source_of(*ret);
	r = source->ops->describe(source, &info, err);
	if (r < 0) {
		tide_source_close(*ret);
		return r;
	}
	s->options.source.backend = process_source_backend(source);
	snprintf(s->comm, sizeof(s->comm), "%s", info.comm);
	if (!s->options.name[0])
		name_by_default(&s->options, info.comm);
	s->options.send.name = s->options.name;
	return 0;
}

static void start_handles(struct sending *s)
{
	uv_signal_init(&s->loop, &s->on_int);
	uv_signal_init(&s->loop, &s->on_term);
	uv_timer_init(&s->loop, &s->progress_timer);
	s->on_int.data = s->on_term.data = s->progress_timer.data = s;
	uv_signal_start(&s->on_int, on_signal, SIGINT);
	uv_signal_start(&s->on_term, on_signal, SIGTERM);
	if (isatty(STDERR_FILENO) && !s->options.json)
		uv_timer_start(&s->progress_timer, on_progress, PROGRESS_MS, PROGRESS_MS);
}

int command_send(int argc, char **argv)
{
	static const struct tide_send_callbacks callbacks = {.round = on_round, .done = on_done};
	struct tide_error err = {0};
	struct tide_source *source;
	auto_free struct sending *s = calloc(1, sizeof(*s));
	if (!s)
		return EXIT_FAILED;
	s->options.send.max_downtime_ns = 100 * NS_PER_MS;
	command_parse(&argp, argc, argv, &s->options);
	tide_address_format(&s->options.address, s->address);
	if (open_source(s, &source, &err) < 0)
		return command_fail(&err);

	s->out = s->options.address.kind == TIDE_ADDRESS_STANDARD ? stderr : stdout;
	s->rounds = table_new(s->out, round_columns,
		sizeof(round_columns) / sizeof(round_columns[0]), s->options.json, "round");
	uv_loop_init(&s->loop);
	if (tide_send_start(&s->loop, source, &s->options.address, &s->options.send, &callbacks, s,
		    &s->send, &err) < 0) {
		s->status = command_fail(&err);
	} else {
		start_handles(s);
	}
	uv_run(&s->loop, UV_RUN_DEFAULT);
	uv_loop_close(&s->loop);
	tide_send_free(s->send);
	table_free(s->rounds);
	return s->status;
}
