/* SPDX-License-Identifier: MIT */
/*
 * bench_limits PID STORE [--every N] ROAD...
 *
 * Takes each road once and prints a JSON object a line: road, bytes, seconds, cpu_seconds. Who
 * calls it lets it take turns with what is measured, so that a change of the machine's speed hits
 * both, and leaves out the first time. STORE is a folder for the file that is written, and removed.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include "bench/limits/limits.h"

enum { STRETCHES_MAX = 4096, LARGE = 1 << 20 };

void limits_die(const char *what)
{
	perror(what);
	exit(1);
}

double limits_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double seconds_of(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

static double cpu_now(void)
{
	struct rusage self, children;
	getrusage(RUSAGE_SELF, &self);
	getrusage(RUSAGE_CHILDREN, &children);
	return seconds_of(self.ru_utime) + seconds_of(self.ru_stime) +
	       seconds_of(children.ru_utime) + seconds_of(children.ru_stime);
}

void took_begin(struct took *took)
{
	took->cpu_began = cpu_now();
	took->began = limits_now();
}

void took_end(struct took *took)
{
	took->seconds = limits_now() - took->began;
	took->cpu_seconds = cpu_now() - took->cpu_began;
}

static void find_stretches(struct memory *m)
{
	char path[64], line[4096], perms[5];
	uint64_t start, end;
	snprintf(path, sizeof(path), "/proc/%d/maps", m->pid);
	FILE *f = fopen(path, "re");
	if (!f)
		limits_die(path);
	m->stretches = calloc(STRETCHES_MAX, sizeof(*m->stretches));
	while (m->stretches && m->nstretches < STRETCHES_MAX && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &start, &end, perms) != 3 ||
			strcmp(perms, "rw-p") != 0 || end - start < LARGE)
			continue;
		m->stretches[m->nstretches++] =
			(struct iovec){(void *)(uintptr_t)start, end - start};
	}
	fclose(f);
}

static struct step *step_add(struct memory *m)
{
	struct step *s = &m->steps[m->nsteps++];
	s->runs = calloc(STEP_BYTES / LIMITS_PAGE, sizeof(*s->runs));
	if (!s->runs)
		limits_die("get memory");
	return s;
}

static void step_take(struct memory *m, uint8_t *at, size_t bytes)
{
	struct step *s = m->nsteps ? &m->steps[m->nsteps - 1] : NULL;
	if (!s || s->bytes + bytes > STEP_BYTES)
		s = step_add(m);
	s->runs[s->nruns++] = (struct iovec){at, bytes};
	s->bytes += bytes;
	m->bytes += bytes;
}

static void cut_into_steps(struct memory *m, unsigned every)
{
	size_t bytes = every > 1 ? LIMITS_PAGE : STEP_BYTES, most = 1;
	for (size_t i = 0; i < m->nstretches; i++)
		most += m->stretches[i].iov_len / (bytes * every) + 1;
	m->steps = calloc(most, sizeof(*m->steps));
	if (!m->steps)
		limits_die("get memory");
	for (size_t i = 0; i < m->nstretches; i++) {
		uint8_t *start = m->stretches[i].iov_base;
		size_t len = m->stretches[i].iov_len;
		for (size_t at = 0; at < len; at += bytes * every)
			step_take(m, start + at, len - at < bytes ? len - at : bytes);
	}
}

void memory_open(struct memory *m, pid_t pid, unsigned every, const char *store)
{
	char path[64];
	*m = (struct memory){.pid = pid, .store = store};
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	m->mem_fd = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	m->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (m->mem_fd < 0 || m->pagemap_fd < 0)
		limits_die(path);
	find_stretches(m);
	cut_into_steps(m, every);
}

size_t memory_read(const struct memory *m, size_t step, uint8_t *buffer)
{
	const struct step *s = &m->steps[step];
	struct iovec local = {buffer, s->bytes};
	ssize_t n = process_vm_readv(m->pid, &local, 1, s->runs, s->nruns, 0);
	if (n < 0 && errno == ESRCH)
		limits_die("read the process");
	return n > 0 ? (size_t)n : 0;
}

static const struct road {
	const char *name;
	int (*run)(const struct memory *m, struct took *took);
} roads[] = {
	{"process_vm_readv", road_vm_readv},
	{"proc_mem", road_proc_mem},
	{"memcpy", road_memcpy},
	{"tcp", road_tcp},
	{"store", road_store},
	{"pipe", road_pipe},
	{"pipe_2_threads", road_pipe_two},
	{"scan", road_scan},
	{"first_write", road_first_write},
};

static const struct road *road_by_name(const char *name)
{
	for (size_t i = 0; i < sizeof(roads) / sizeof(roads[0]); i++) {
		if (strcmp(roads[i].name, name) == 0)
			return &roads[i];
	}
	fprintf(stderr, "limits: there is no road '%s'\n", name);
	exit(2);
}

static void take_road(const struct road *road, const struct memory *m)
{
	struct took took = {.bytes = m->bytes};
	took_begin(&took);
	if (road->run(m, &took) < 0)
		return;
	if (took.seconds == 0)
		took_end(&took);
	printf("{\"road\": \"%s\", \"bytes\": %" PRIu64
	       ", \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n",
		road->name, took.bytes, took.seconds, took.cpu_seconds);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct memory memory;
	unsigned every = 1;
	int first = 3;
	if (argc > 4 && strcmp(argv[3], "--every") == 0) {
		every = (unsigned)atoi(argv[4]);
		first = 5;
	}
	if (argc <= first || every == 0) {
		fprintf(stderr, "usage: bench_limits PID STORE [--every N] ROAD...\n");
		return 2;
	}
	memory_open(&memory, atoi(argv[1]), every, argv[2]);
	for (int i = first; i < argc; i++)
		take_road(road_by_name(argv[i]), &memory);
	return 0;
}
