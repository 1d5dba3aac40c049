/* SPDX-License-Identifier: MIT */
/*
 * What the machine gives: how fast the memory of a process can be copied at all, by the roads that
 * there are.
 *
 *     limits PID RUNS      one JSON object a line: road, run, bytes, seconds
 *
 * The roads take turns, so that a change of the machine's speed hits them all; the first run is for
 * warming up and not printed.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { STEP = 256 << 10 };

static pid_t pid;
static int mem;
static uint8_t *buffer, *plain;
static size_t plain_bytes;

struct stretch {
	uint64_t start, end;
};
static struct stretch stretches[4096];
static size_t nstretches;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Large private mappings that can be written: where the data is. */
static void find_stretches(void)
{
	char path[64], line[4096], perms[5];
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f) && nstretches < 4096) {
		struct stretch s;
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &s.start, &s.end, perms) == 3 &&
			strcmp(perms, "rw-p") == 0 && s.end - s.start >= 1 << 20)
			stretches[nstretches++] = s;
	}
	if (f)
		fclose(f);
}

static uint64_t by_vm_readv(void)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < nstretches; i++) {
		for (uint64_t at = stretches[i].start; at < stretches[i].end; at += STEP) {
			uint64_t left = stretches[i].end - at;
			struct iovec local = {buffer, left < STEP ? left : STEP};
			struct iovec remote = {(void *)(uintptr_t)at, local.iov_len};
			ssize_t n = process_vm_readv(pid, &local, 1, &remote, 1, 0);
			bytes += n > 0 ? (uint64_t)n : 0;
		}
	}
	return bytes;
}

static uint64_t by_proc_mem(void)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < nstretches; i++) {
		for (uint64_t at = stretches[i].start; at < stretches[i].end; at += STEP) {
			uint64_t left = stretches[i].end - at;
			ssize_t n = pread(mem, buffer, left < STEP ? left : STEP, (off_t)at);
			bytes += n > 0 ? (uint64_t)n : 0;
		}
	}
	return bytes;
}

/* As many bytes, from memory of our own, larger than any cache. */
static uint64_t by_memcpy(void)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < nstretches; i++) {
		for (uint64_t at = stretches[i].start; at < stretches[i].end; at += STEP) {
			memcpy(buffer, plain + bytes % plain_bytes, STEP);
			bytes += STEP;
		}
	}
	return bytes;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		uint64_t (*run)(void);
	} roads[] = {{"process_vm_readv", by_vm_readv}, {"/proc/PID/mem", by_proc_mem},
		{"memcpy", by_memcpy}};
	if (argc != 3) {
		fprintf(stderr, "usage: limits PID RUNS\n");
		return 2;
	}
	char path[64];
	pid = atoi(argv[1]);
	int runs = atoi(argv[2]);
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	mem = open(path, O_RDONLY | O_CLOEXEC);
	buffer = aligned_alloc(4096, STEP);
	plain_bytes = 256u << 20;
	plain = mmap(NULL, plain_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem < 0 || !buffer || plain == MAP_FAILED) {
		perror("limits");
		return 1;
	}
	memset(plain, 7, plain_bytes);
	find_stretches();
	for (int run = 0; run <= runs; run++) {
		for (size_t i = 0; i < sizeof(roads) / sizeof(roads[0]); i++) {
			double began = now();
			uint64_t bytes = roads[i].run();
			double took = now() - began;
			if (run > 0)
				printf("{\"road\": \"%s\", \"run\": %d, \"bytes\": %" PRIu64
				       ", \"seconds\": %.6f}\n",
					roads[i].name, run, bytes, took);
		}
	}
	return 0;
}
