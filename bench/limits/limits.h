/* SPDX-License-Identifier: MIT */
/*
 * What the machine gives: how fast the memory of a process can be copied, carried and kept at all.
 * A road is one way to do a part of that, or all of it, with nothing else done on the way.
 */
#ifndef BENCH_LIMITS_LIMITS_H
#define BENCH_LIMITS_LIMITS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { STEP_BYTES = 256 << 10, LIMITS_PAGE = 4096 };

/* What one system call reads. */
struct step {
	struct iovec *runs;
	size_t nruns;
	size_t bytes;
};

/* The memory that is carried: of a process, all that is private, writable and large. */
struct memory {
	pid_t pid;
	int mem_fd, pagemap_fd;
	struct iovec *stretches;
	size_t nstretches;
	struct step *steps;
	size_t nsteps;
	uint64_t bytes;    /* in all steps */
	const char *store; /* a folder */
};

/* One page of `every` is taken; 1: all of them. Ends the program where the process cannot be read.
 */
void memory_open(struct memory *m, pid_t pid, unsigned every, const char *store);

/* Reads a step into `buffer`, which has STEP_BYTES. Returns the bytes that could be read;
 * ends the program where the process is gone. */
size_t memory_read(const struct memory *m, size_t step, uint8_t *buffer);

struct took {
	uint64_t bytes;
	double began, cpu_began;
	double seconds;     /* 0: not ended yet */
	double cpu_seconds; /* of all threads and processes */
};

/* Each returns 0, or -1 where this machine has no such road. */
int road_vm_readv(const struct memory *m, struct took *took);
int road_proc_mem(const struct memory *m, struct took *took);
int road_memcpy(const struct memory *m, struct took *took);
int road_tcp(const struct memory *m, struct took *took);   /* loopback, to a second process */
int road_store(const struct memory *m, struct took *took); /* pwrite to a new file */
int road_pipe(const struct memory *m, struct took *took);  /* all of it, by a pair of processes */
int road_pipe_two(
	const struct memory *m, struct took *took);       /* two readers, connections, writers */
int road_scan(const struct memory *m, struct took *took); /* PAGEMAP_SCAN, from /proc/PID/maps on */
int road_first_write(
	const struct memory *m, struct took *took); /* what a protected page adds to a write */

/* For a road with something to do before or after that is not its own: only what lies between the
 * two counts. */
void took_begin(struct took *took);
void took_end(struct took *took);

double limits_now(void);
void limits_die(const char *what) __attribute__((noreturn));

#endif
