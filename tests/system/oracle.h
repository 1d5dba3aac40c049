/* SPDX-License-Identifier: MIT */
/*
 * Holds an image against a stopped process by a road that shares no code with the tracker: its own
 * reading of maps and pagemap, and of the memory by /proc/PID/mem page by page.
 *
 * The same must be: where mappings lie, and of each its protection, kind, file or object, offset
 * and name; which of them show the same shared object; and every byte. A page that the image does
 * not hold must be one that reads as zero, or as the file.
 */
#ifndef TESTS_SYSTEM_ORACLE_H
#define TESTS_SYSTEM_ORACLE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* A page that differs, or a mapping (then `bytes` is its length, and not of a page). */
struct oracle_difference {
	const char *what;    /* in words */
	const char *mapping; /* the line of /proc/PID/maps, or "" */
	uint64_t address, bytes;
	bool is_page;
	uint64_t space, at;   /* of a page: where the image has it */
	uint64_t inode;       /* of the mapping's file or object; 0 */
	uint64_t file_offset; /* of the page, in that */
	/* The first byte that differs: its place in the page, what the image and the process have;
	 * -1 where there is none. */
	int offset, image_byte, process_byte;
	bool process_is_zero; /* all of the page */
};

/* Called for each difference. False: it may be, do not count it. */
typedef bool (*oracle_fn)(void *arg, const struct oracle_difference *d);

struct oracle_result {
	uint64_t compared_pages;
	uint64_t different_pages;
	uint64_t different_mappings;
	uint64_t mappings;
	char first[1024]; /* the first difference, in words */
};

/* 0, or -1 where the image or the process cannot be read (said on stdout). */
int oracle_compare(const char *store, const char *name, pid_t pid, struct oracle_result *ret);
int oracle_compare_each(const char *store, const char *name, pid_t pid, oracle_fn fn, void *arg,
	struct oracle_result *ret);

#endif
