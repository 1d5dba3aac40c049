/* SPDX-License-Identifier: MIT */
/*
 * A process whose memory is known and which writes it at a set pace, page after page, each once
 * before any is written again. `bench_writer --help` tells how; phases.h tells the commands. It
 * adds
 *
 *     write COUNT   write so many pages at once, and print "wrote COUNT"
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
#include "bench/workloads/phases.h"

enum { PAGE = CONTENT_PAGE, WORDS = PAGE / 8, COUNTERS = 4, LOOK_EVERY = 64 };

#define GIVE_UP_NS UINT64_C(1000000000)
#define AS_FAST_AS_POSSIBLE INFINITY

struct writer {
	const struct content *content;
	void (*write)(struct writer *w, uint64_t index);
	uint64_t (*order)(const struct writer *w, uint64_t i);
	uint8_t *memory;
	uint64_t npages;
	uint64_t hot_pages, every; /* the pages written: so many, each `every`-th of the memory */
	unsigned half_bits;        /* of the numbers that permuted() turns */
	double pages_per_second;
	uint64_t written;               /* pages, since the start */
	uint64_t paced_since_ns, paced; /* pages due since then that were written or missed */
	struct phases phases;
	bool ended;
};

/* --- which page is next
 * -------------------------------------------------------------------------- */

static uint64_t in_sequence(const struct writer *w, uint64_t i)
{
	return i % w->hot_pages;
}

/* A Feistel network turns the numbers below a power of two around; those that fall outside are
 * turned again. Each time through the pages has an order of its own. */
static uint64_t permuted(const struct writer *w, uint64_t i)
{
	uint64_t key = content_mix(i / w->hot_pages + 77), at = i % w->hot_pages;
	uint64_t mask = (UINT64_C(1) << w->half_bits) - 1;
	do {
		uint64_t left = at >> w->half_bits, right = at & mask;
		for (uint64_t round = 0; round < 4; round++) {
			uint64_t turned = left ^ (content_mix(right ^ key ^ round << 56) & mask);
			left = right;
			right = turned;
		}
		at = left << w->half_bits | right;
	} while (at >= w->hot_pages);
	return at;
}

/* --- what is written there
 * ----------------------------------------------------------------------- */

static void write_fresh(struct writer *w, uint64_t index)
{
	w->content->fill(w->memory + index * PAGE, index, w->written + 1);
}

static void write_counters(struct writer *w, uint64_t index)
{
	uint64_t *words = (uint64_t *)(void *)(w->memory + index * PAGE);
	for (unsigned i = 0; i < COUNTERS; i++)
		words[(index * 13 + (uint64_t)i * WORDS / COUNTERS) % WORDS]++;
}

static void write_same(struct writer *w, uint64_t index)
{
	volatile uint64_t *words = (uint64_t *)(void *)(w->memory + index * PAGE);
	for (unsigned i = 0; i < WORDS; i++) {
		uint64_t word = words[i];
		words[i] = word;
	}
}

static const struct pattern {
	const char *name;
	void (*write)(struct writer *w, uint64_t index);
	uint64_t (*order)(const struct writer *w, uint64_t i);
} patterns[] = {{"uniform", write_fresh, permuted}, {"sequential", write_fresh, in_sequence},
	{"counter", write_counters, permuted}, {"rewrite", write_same, permuted}};

static const struct pattern *pattern_by_name(const char *name)
{
	for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
		if (strcmp(patterns[i].name, name) == 0)
			return &patterns[i];
	}
	return NULL;
}

static void write_next(struct writer *w)
{
	w->write(w, w->order(w, w->written) * w->every);
	w->written++;
}

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
		write_next(w);
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
		write_next(w);
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

static void obey(struct writer *w, const char *command)
{
	if (phases_obey(&w->phases, command, &w->ended))
		return;
	if (strncmp(command, "rate ", 5) == 0) {
		pace(w, parse_rate(command + 5));
	} else if (strncmp(command, "write ", 6) == 0) {
		uint64_t count = strtoull(command + 6, NULL, 10);
		for (uint64_t i = 0; i < count; i++)
			write_next(w);
		printf("wrote %" PRIu64 "\n", count);
		fflush(stdout);
	} else {
		fprintf(stderr, "writer: what is '%s'?\n", command);
	}
}

static void usage(FILE *to)
{
	fprintf(to,
		"usage: bench_writer --size MIB [--content NAME] [--pattern NAME] [--rate "
		"MB/S|max]\n"
		"                    [--hot MIB | --every N] [--seed N] [--deadline MS] [--file "
		"FILE]\n"
		"Fills its memory, prints \"ready\" and writes pages at a pace (0: none), in "
		"megabytes of\n"
		"pages a second. Commands come on standard input: phase NAME, report, write COUNT, "
		"rate\n"
		"RATE, quit.\n"
		"  content: %s (default half)\n"
		"  pattern: uniform (default), sequential, counter (four words a page), rewrite "
		"(the same\n"
		"           bytes again)\n"
		"  hot:     only the first so many MiB are written\n"
		"  every:   only every so many-th page is\n"
		"  file:    the memory is this file, shared, made anew; for programs that want "
		"one\n",
		content_names());
}

static int parse(struct writer *w, int argc, char **argv, const char **file)
{
	static const struct option options[] = {{"size", required_argument, NULL, 's'},
		{"content", required_argument, NULL, 'c'},
		{"pattern", required_argument, NULL, 'p'}, {"rate", required_argument, NULL, 'r'},
		{"hot", required_argument, NULL, 'h'}, {"seed", required_argument, NULL, 'e'},
		{"deadline", required_argument, NULL, 'd'}, {"every", required_argument, NULL, 'n'},
		{"file", required_argument, NULL, 'f'}, {"help", no_argument, NULL, '?'}, {0}};
	const struct pattern *pattern = &patterns[0];
	double rate = 0;
	int option;
	w->content = content_by_name("half");
	w->every = 1;
	w->phases.deadline_ns = 10 * UINT64_C(1000000);
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			w->npages = strtoull(optarg, NULL, 10) << 8;
			break;
		case 'c':
			w->content = content_by_name(optarg);
			break;
		case 'p':
			pattern = pattern_by_name(optarg);
			break;
		case 'r':
			rate = parse_rate(optarg);
			break;
		case 'h':
			w->hot_pages = strtoull(optarg, NULL, 10) << 8;
			break;
		case 'n':
			w->every = strtoull(optarg, NULL, 10);
			break;
		case 'e':
			content_seed(strtoull(optarg, NULL, 10));
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
	if (!w->content || !pattern || w->every == 0 || w->npages < w->every || optind != argc)
		return -1;
	if (w->hot_pages == 0 || w->hot_pages > w->npages / w->every)
		w->hot_pages = w->npages / w->every;
	w->write = pattern->write;
	w->order = pattern->order;
	while (UINT64_C(1) << 2 * w->half_bits < w->hot_pages)
		w->half_bits++;
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
	w.memory = memory_make(w.npages * PAGE, file);
	if (!w.memory) {
		perror("writer: get memory");
		return 1;
	}
	for (uint64_t i = 0; i < w.npages; i++)
		w.content->fill(w.memory + i * PAGE, i, 0);
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
