/* SPDX-License-Identifier: MIT */
/*
 * A process whose memory is known and which writes it at a set pace, page after page, each once
 * before any is written again. `bench_writer --help` tells how; phases.h tells the commands. It
 * adds
 *
 *     write COUNT   write so many pages at once, and print "wrote COUNT"
 *     truth         print what happened to pages since it was asked last, or since "ready", as one
 *                   JSON object on a line: writes, written_pages, new_pages, dropped_pages,
 *                   held_pages (patterns.h)
 *     rate RATE     as --rate
 *
 * The load is open: a write that could not begin when it was due counts from when it was due, so
 * that a process that stands still shows in the latencies. What is due for longer than a second is
 * given up and counted as missed; else a long stop would be followed by a storm.
 */
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>
#include "bench/workloads/content.h"
#include "bench/workloads/patterns.h"
#include "bench/workloads/phases.h"

enum { PAGE = CONTENT_PAGE, LOOK_EVERY = 64 };

#define GIVE_UP_NS UINT64_C(1000000000)
#define AS_FAST_AS_POSSIBLE INFINITY

struct writer {
	struct field field;
	double pages_per_second;
	uint64_t paced_since_ns, paced; /* pages due since then that were written or missed */
	struct phases phases;
	bool ended;
};

/* --- when
 * ---------------------------------------------------------------------------------------- */

static void pace(struct writer *w, double megabytes_per_second)
{
	w->pages_per_second = megabytes_per_second * 1e6 / PAGE;
	w->paced_since_ns = phases_now_ns();
	w->paced = 0;
}

static uint64_t due_ns(const struct writer *w)
{
	return w->paced_since_ns + (uint64_t)((double)w->paced / w->pages_per_second * 1e9);
}

static void give_up(struct writer *w, uint64_t now)
{
	uint64_t due = (uint64_t)((double)(now - w->paced_since_ns) / 1e9 * w->pages_per_second);
	phases_missed(&w->phases, due - w->paced);
	w->paced = due;
}

/* Writes what is due, at most LOOK_EVERY pages. Returns when the next is due. */
static uint64_t write_due(struct writer *w)
{
	uint64_t now = phases_now_ns(), due = due_ns(w);
	if (now > due + GIVE_UP_NS)
		give_up(w, now);
	for (unsigned i = 0; i < LOOK_EVERY && (due = due_ns(w)) <= now; i++) {
		size_t phase = phases_due(&w->phases);
		field_write_next(&w->field);
		w->paced++;
		now = phases_now_ns();
		phases_done(&w->phases, phase, now - due);
	}
	return due;
}

static void write_at_once(struct writer *w)
{
	uint64_t before = phases_now_ns();
	for (unsigned i = 0; i < LOOK_EVERY; i++) {
		size_t phase = phases_due(&w->phases);
		field_write_next(&w->field);
		uint64_t now = phases_now_ns();
		phases_done(&w->phases, phase, now - before);
		before = now;
	}
}

/* Returns until when there is nothing to do. */
static uint64_t write_some(struct writer *w)
{
	if (w->pages_per_second == 0)
		return phases_now_ns() + GIVE_UP_NS;
	if (isfinite(w->pages_per_second))
		return write_due(w);
	write_at_once(w);
	return 0;
}

/* --- commands
 * ------------------------------------------------------------------------------------ */

static double parse_rate(const char *text)
{
	return strcmp(text, "max") == 0 ? AS_FAST_AS_POSSIBLE : strtod(text, NULL);
}

static void print_truth(struct field *f)
{
	struct truth t = field_mark(f);
	printf("{\"writes\": %" PRIu64 ", \"written_pages\": %" PRIu64 ", \"new_pages\": %" PRIu64
	       ", \"dropped_pages\": %" PRIu64 ", \"held_pages\": %" PRIu64 "}\n",
		t.writes, t.written, t.fresh, t.dropped, t.held);
	fflush(stdout);
}

static void obey(struct writer *w, const char *command)
{
	if (phases_obey(&w->phases, command, &w->ended))
		return;
	if (strncmp(command, "rate ", 5) == 0) {
		pace(w, parse_rate(command + 5));
	} else if (strncmp(command, "write ", 6) == 0) {
		uint64_t count = strtoull(command + 6, NULL, 10);
		for (uint64_t i = 0; i < count; i++)
			field_write_next(&w->field);
		printf("wrote %" PRIu64 "\n", count);
		fflush(stdout);
	} else if (strcmp(command, "truth") == 0) {
		print_truth(&w->field);
	} else {
		fprintf(stderr, "writer: what is '%s'?\n", command);
	}
}

static void usage(FILE *to)
{
	char patterns[1024];
	patterns_tell(patterns, sizeof(patterns));
	fprintf(to,
		"usage: bench_writer --size MIB [--content NAME] [--pattern NAME] [--rate "
		"MB/S|max]\n"
		"                    [--hot MIB | --every N] [--seed N] [--deadline MS] [--file "
		"FILE]\n"
		"Fills its memory, prints \"ready\" and writes pages at a pace (0: none), in "
		"megabytes of\n"
		"pages a second. Commands come on standard input: phase NAME, report, write COUNT, "
		"truth,\n"
		"rate RATE, quit.\n"
		"  content: %s (default half)\n"
		"  pattern: uniform (default), or another of\n%s"
		"  hot:     only the first so many MiB are written\n"
		"  every:   only every so many-th page is\n"
		"  file:    the memory is this file, shared, made anew; for programs that want "
		"one\n",
		content_names(), patterns);
}

static int parse(struct writer *w, int argc, char **argv, const char **file)
{
	static const struct option options[] = {{"size", required_argument, NULL, 's'},
		{"content", required_argument, NULL, 'c'},
		{"pattern", required_argument, NULL, 'p'}, {"rate", required_argument, NULL, 'r'},
		{"hot", required_argument, NULL, 'h'}, {"seed", required_argument, NULL, 'e'},
		{"deadline", required_argument, NULL, 'd'}, {"every", required_argument, NULL, 'n'},
		{"file", required_argument, NULL, 'f'}, {"help", no_argument, NULL, '?'}, {0}};
	struct field *f = &w->field;
	double rate = 0;
	int option;
	f->pattern = pattern_by_name("uniform");
	f->content = content_by_name("half");
	f->every = 1;
	w->phases.deadline_ns = 10 * UINT64_C(1000000);
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			f->npages = strtoull(optarg, NULL, 10) << 8;
			break;
		case 'c':
			f->content = content_by_name(optarg);
			break;
		case 'p':
			f->pattern = pattern_by_name(optarg);
			break;
		case 'r':
			rate = parse_rate(optarg);
			break;
		case 'h':
			f->hot_pages = strtoull(optarg, NULL, 10) << 8;
			break;
		case 'n':
			f->every = strtoull(optarg, NULL, 10);
			break;
		case 'e':
			f->seed = strtoull(optarg, NULL, 10);
			content_seed(f->seed);
			break;
		case 'd':
			w->phases.deadline_ns = (uint64_t)(strtod(optarg, NULL) * 1e6);
			break;
		case 'f':
			*file = optarg;
			break;
		default:
			return -1;
		}
	}
	if (!f->content || !f->pattern || f->every == 0 || f->npages < f->every || optind != argc)
		return -1;
	if (f->hot_pages == 0 || f->hot_pages > f->npages / f->every)
		f->hot_pages = f->npages / f->every;
	pace(w, rate);
	return 0;
}

static uint8_t *memory_make(uint64_t bytes, const char *file)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS, fd = -1;
	if (file) {
		flags = MAP_SHARED;
		fd = open(file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
			return NULL;
	}
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (fd >= 0)
		close(fd);
	return memory == MAP_FAILED ? NULL : memory;
}

int main(int argc, char **argv)
{
	static struct writer w;
	const char *file = NULL;
	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		usage(stdout);
		return 0;
	}
	if (parse(&w, argc, argv, &file) < 0) {
		usage(stderr);
		return 2;
	}
	w.field.memory = memory_make(w.field.npages * PAGE, file);
	w.field.is_shared = file != NULL;
	if (!w.field.memory) {
		perror("writer: get memory");
		return 1;
	}
	if (!field_begin(&w.field)) {
		fprintf(stderr, "writer: this pattern gives memory back, which goes with neither "
				"--file nor --every\n");
		return 2;
	}
	/* Timers are 50 us late unless told. */
	prctl(PR_SET_TIMERSLACK, 1);
	phases_begin(&w.phases, "start");
	printf("ready\n");
	fflush(stdout);

	pace(&w, w.pages_per_second * PAGE / 1e6);
	while (!w.ended) {
		uint64_t until = write_some(&w);
		const char *command = phases_command(until);
		if (command)
			obey(&w, command);
	}
	return 0;
}
