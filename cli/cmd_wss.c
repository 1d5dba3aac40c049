/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include "base/clock.h"
#include "base/error.h"
#include "cli/command.h"
#include "cli/mapping_text.h"
#include "cli/output.h"
#include "tracker/process.h"
#include "tracker/working_set.h"

struct wss_options {
	pid_t pid;
	uint64_t interval_ns;
	uint64_t count; /* 0: until somebody ends it */
	enum working_set_kind kind;
	uint64_t mappings; /* to list in each interval */
	bool reset_peak;
	bool json;
};

enum { OPTION_KIND = 0x100, OPTION_RESET_PEAK };
static const struct argp_option option_table[] = {
	{"interval", 'i', "TIME", 0, "Measure over this long each time (1s)", 0},
	{"count", 'n', "N", 0, "End after N intervals, instead of at Ctrl-C", 0},
	{"kind", OPTION_KIND, "KIND", 0, "Which mappings: all (usual), anonymous or file", 0},
	{"mappings", 'm', "N", OPTION_ARG_OPTIONAL,
		"Also list the N mappings (10) of which most was used", 0},
	{"reset-peak", OPTION_RESET_PEAK, NULL, 0,
		"Let the peak of resident memory (VmHWM) begin anew with each interval, and show "
		"it",
		0},
	OPTION_JSON,
	{0},
};

static enum working_set_kind parse_kind(const struct argp_state *state, const char *text)
{
	static const struct {
		const char *name;
		enum working_set_kind kind;
	} kinds[] = {
		{"all", WORKING_SET_ALL},
		{"anonymous", WORKING_SET_ANONYMOUS},
		{"file", WORKING_SET_FILE},
	};
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(kinds[i].name, text) == 0)
			return kinds[i].kind;
	}
	argp_error(state, "--kind is all, anonymous or file, not '%s'", text);
	return WORKING_SET_ALL;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	enum { MAPPINGS_USUAL = 10, MANY = 1000000 };
	struct wss_options *o = state->input;
	switch (key) {
	case 'i':
		o->interval_ns = option_ns(state, "--interval", arg);
		if (o->interval_ns < NS_PER_MS)
			argp_error(state, "--interval is at least 1ms");
		return 0;
	case 'n':
		o->count = option_count(state, "--count", arg, 1, UINT64_MAX);
		return 0;
	case OPTION_KIND:
		o->kind = parse_kind(state, arg);
		return 0;
	case 'm':
		o->mappings =
			arg ? option_count(state, "--mappings", arg, 1, MANY) : MAPPINGS_USUAL;
		return 0;
	case OPTION_RESET_PEAK:
		o->reset_peak = true;
		return 0;
	case 'j':
		o->json = true;
		return 0;
	case ARGP_KEY_ARG:
		o->pid = option_only_pid(state, o->pid, arg);
		return 0;
	case ARGP_KEY_END:
		if (!o->pid)
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
	.doc = "Measure the working set of a process: how much of its memory it uses in an "
	       "interval. To see that, the referenced bits of its pages are reset, which page "
	       "reclaim also looks at: under memory pressure the kernel takes pages for unused "
	       "that "
	       "are not. The process is not stopped.\v"
	       "Exit status: 0 done, 1 interrupted before --count intervals, 2 wrong usage, 3 the "
	       "process went away, 4 this user may not.",
};

struct interval {
	uint64_t number; /* from 1 */
	uint64_t ns;     /* from when the bits were cleared to when they were read */
	struct smaps maps;
	struct working_set set;
	uint64_t peak_bytes;
};

enum { NUMBER, TIME, RSS, REFERENCED, SHARE, ANONYMOUS, FILES, PEAK, NCOLUMNS };
static const struct column columns[NCOLUMNS] = {
	[NUMBER] = {"interval", NULL, CELL_COUNT, 0},
	[TIME] = {"interval_ms", "INTERVAL", CELL_NS, 9},
	[RSS] = {"rss_bytes", "RSS", CELL_BYTES, 9},
	[REFERENCED] = {"referenced_bytes", "REFERENCED", CELL_BYTES, 10},
	[SHARE] = {"share", "OF RSS", CELL_RATIO, 6},
	[ANONYMOUS] = {"anonymous_bytes", "ANON", CELL_BYTES, 9},
	[FILES] = {"file_bytes", "FILE", CELL_BYTES, 9},
	[PEAK] = {"peak_bytes", "PEAK", CELL_BYTES, 9},
};

static struct table *new_table(const struct wss_options *o)
{
	static const size_t all[NCOLUMNS] = {
		NUMBER, TIME, RSS, REFERENCED, SHARE, ANONYMOUS, FILES, PEAK};
	struct table *t = table_new(stdout, columns, NCOLUMNS, o->json, "interval");
	table_order(t, all, o->reset_peak || o->json ? NCOLUMNS : PEAK);
	return t;
}

static void print_interval(struct table *t, const struct wss_options *o, const struct interval *i)
{
	table_number(t, NUMBER, i->number);
	table_number(t, TIME, i->ns);
	table_number(t, RSS, i->set.rss_bytes);
	table_number(t, REFERENCED, i->set.referenced_bytes);
	if (i->set.rss_bytes)
		table_real(t, SHARE, (double)i->set.referenced_bytes / (double)i->set.rss_bytes);
	if (o->kind != WORKING_SET_FILE)
		table_number(t, ANONYMOUS, i->set.anonymous_bytes);
	if (o->kind != WORKING_SET_ANONYMOUS)
		table_number(t, FILES, i->set.file_bytes);
	if (o->reset_peak)
		table_number(t, PEAK, i->peak_bytes);
	table_row(t);
}

static int by_referenced(const void *a, const void *b)
{
	const struct smaps_entry *x = a, *y = b;
	if (x->bytes.referenced != y->bytes.referenced)
		return x->bytes.referenced < y->bytes.referenced ? 1 : -1;
	return x->mapping.start < y->mapping.start ? -1 : 1;
}

static void print_mappings(const struct wss_options *o, struct interval *i)
{
	enum { OF, START, END, PROT, USED, PRESENT, NAME };
	static const struct column of_mapping[] = {
		[OF] = {"interval", NULL, CELL_COUNT, 0},
		[START] = {"start", "START", CELL_ADDRESS, 0},
		[END] = {"end", NULL, CELL_ADDRESS, 0},
		[PROT] = {"protection", "PROT", CELL_TEXT, 0},
		[USED] = {"referenced_bytes", "REFERENCED", CELL_BYTES, 0},
		[PRESENT] = {"rss_bytes", "RSS", CELL_BYTES, 0},
		[NAME] = {"name", "NAME", CELL_TEXT, 0},
	};
	struct smaps *s = &i->maps;
	qsort(s->v, s->len, sizeof(s->v[0]), by_referenced);
	struct table *t = table_new(
		stdout, of_mapping, sizeof(of_mapping) / sizeof(of_mapping[0]), o->json, "mapping");
	uint64_t listed = 0;
	for (size_t k = 0; k < s->len && listed < o->mappings; k++) {
		const struct smaps_entry *e = &s->v[k];
		char prot[5];
		if (!e->bytes.referenced || !working_set_has(o->kind, e))
			continue;
		listed++;
		table_number(t, OF, i->number);
		table_number(t, START, e->mapping.start);
		table_number(t, END, e->mapping.end);
		table_text(t, PROT, mapping_protection(&e->mapping, prot));
		table_number(t, USED, e->bytes.referenced);
		table_number(t, PRESENT, e->bytes.rss);
		table_text(t, NAME, e->mapping.name);
		table_row(t);
	}
	table_free(t);
	if (!o->json)
		putchar('\n');
	fflush(stdout);
}

/* Waits until `deadline` (monotonic). -EINTR: a person ends it; -ESRCH: the process did. */
static int wait_until(uint64_t deadline_ns, int signal_fd, int pid_fd)
{
	for (;;) {
		uint64_t now = clock_now_ns();
		struct timespec left = clock_timespec(now < deadline_ns ? deadline_ns - now : 0);
		struct pollfd fds[] = {
			{.fd = signal_fd, .events = POLLIN}, {.fd = pid_fd, .events = POLLIN}};
		int n = ppoll(fds, 2, &left, NULL);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0 && fds[0].revents)
			return -EINTR;
		if (n > 0)
			return -ESRCH;
		if (n == 0)
			return 0;
	}
}

static int take_measures(const struct wss_options *o, const struct process *p, int signal_fd,
	struct interval *i, struct tide_error *err)
{
	int r = i->number == 1 && o->reset_peak ? peak_reset(p, err) : 0;
	if (r == 0)
		r = working_set_clear(p, o->kind, err);
	if (r < 0)
		return r;
	uint64_t began = clock_now_ns();
	r = wait_until(began + o->interval_ns, signal_fd, p->pid_fd);
	if (r < 0)
		return tide_fail(err, r, "wait for process %d", p->pid);
	i->ns = clock_now_ns() - began;
	r = smaps_read(p, &i->maps, err);
	/* Close together, so that no peak falls in between: printing may take long. */
	if (r == 0 && o->reset_peak)
		r = peak_read(p, &i->peak_bytes, err);
	if (r == 0 && o->reset_peak)
		r = peak_reset(p, err);
	return r;
}

/* -EINTR: somebody ends it. */
static int measure(const struct wss_options *o, const struct process *p, int signal_fd,
	struct interval *i, struct tide_error *err)
{
	int r = take_measures(o, p, signal_fd, i, err);
	if (r == -EINTR)
		return r;
	/* What went away shows no memory, and what became another program shows that one's: then
	 * the reason is this, whatever failed first. */
	int gone = process_check(p, err);
	if (gone < 0 || r < 0)
		return gone < 0 ? gone : r;
	working_set_sum(&i->maps, o->kind, &i->set);
	return 0;
}

static int run(const struct wss_options *o, const struct process *p, int signal_fd)
{
	struct tide_error err = {0};
	struct table *t = new_table(o);
	int r = 0;
	uint64_t done = 0;
	while (r == 0 && (o->count == 0 || done < o->count)) {
		struct interval i = {.number = done + 1};
		r = measure(o, p, signal_fd, &i, &err);
		if (r == 0) {
			done++;
			print_interval(t, o, &i);
			if (o->mappings) {
				if (!o->json)
					putchar('\n');
				print_mappings(o, &i);
				/* The next line gets a head of its own. */
				table_free(t);
				t = new_table(o);
			}
			/* Nobody reads any more: `wss | head`. */
			if (ferror(stdout))
				r = -EPIPE;
		}
		smaps_release(&i.maps);
	}
	table_free(t);
	if (r == -EPIPE && ferror(stdout))
		return EXIT_FAILED;
	if (r == -EINTR && o->count)
		fprintf(stderr, "tidemark: interrupted after %llu of %llu intervals\n",
			(unsigned long long)done, (unsigned long long)o->count);
	if (r == -EINTR)
		return o->count ? EXIT_FAILED : EXIT_DONE;
	return r < 0 ? command_fail(&err) : EXIT_DONE;
}

int command_wss(int argc, char **argv)
{
	struct wss_options o = {.interval_ns = NS_PER_S, .kind = WORKING_SET_ALL};
	struct tide_error err = {0};
	command_parse(&argp, argc, argv, &o);

	sigset_t ends;
	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	sigprocmask(SIG_BLOCK, &ends, NULL);
	auto_close int signal_fd = signalfd(-1, &ends, SFD_CLOEXEC);
	if (signal_fd < 0) {
		tide_fail(&err, -errno, "watch for signals");
		return command_fail(&err);
	}

	auto_(process_closep) struct process *p = NULL;
	if (process_open_to_look(o.pid, &p, &err) < 0)
		return command_fail(&err);
	fprintf(stderr,
		"tidemark: note: this resets the referenced bits of process %d, which page reclaim "
		"also looks at%s\n",
		o.pid, o.reset_peak ? ", and its peak memory (VmHWM)" : "");
	return run(&o, p, signal_fd);
}
