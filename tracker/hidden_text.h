/* SPDX-License-Identifier: MIT */
/* What the kernel's texts say of writes that page tables do not show (pure; hidden_writes.c reads
 * the files). */
#ifndef TRACKER_HIDDEN_TEXT_H
#define TRACKER_HIDDEN_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "proto/pageset.h"

/* A ring of io_uring, as /proc/PID/fdinfo/FD has it. */
struct ring_text {
	uint64_t inode;
	/* The list of buffers is there. It is not where the ring's lock was held just then: Linux
	 * up to 6.15 leaves out the lines, later ones leave out all that is the ring's. */
	bool whole;
	size_t nbuffers; /* of the process's memory; slots that are empty do not count */
	uint64_t buffer_bytes;
	struct pageset buffers;
	size_t nfiles;                 /* registered files that may be files on a disk */
	uint32_t submitted, completed; /* requests, completions: both wrap */
	size_t npolls;                 /* requests that wait for a file to become ready */
};

/* Returns 0, -EBADMSG where the text makes no sense, or -ENOMEM. */
int ring_text_parse(const char *text, uint64_t page_bytes, struct ring_text *ret);
void ring_text_release(struct ring_text *r);

/* The open flags in any descriptor's fdinfo; 0 where they are missing. */
unsigned fdinfo_flags(const char *text);

/* /proc/PID/task/TID/syscall. */
struct call_text {
	bool running; /* it was, so nothing is known */
	long nr;      /* -1: it waits outside a system call */
	uint64_t args[6];
};

/* Returns 0 or -EBADMSG. */
int call_text_parse(const char *text, struct call_text *ret);

/* A system call that reads a file into memory. */
struct read_call {
	int fd;
	uint64_t address; /* where to, or of the struct iovec array that tells */
	uint64_t length;  /* bytes, or elements */
	bool vector;
};

/* Is it one? */
bool read_call_of(const struct call_text *call, struct read_call *ret);

/* Adds [address, address + bytes), widened to whole pages. What cannot be memory of a process is
 * passed over. 0 or -ENOMEM. */
int hidden_add(struct pageset *set, uint64_t address, uint64_t bytes, uint64_t page_bytes);

#endif
