/* SPDX-License-Identifier: MIT */
/*
 * Holds an image against a stopped process by a road that shares no code with the tracker: its own
 * reading of maps and pagemap, and of the memory by PTRACE_PEEKDATA's interface (/proc/PID/mem)
 * page by page.
 */
#ifndef TESTS_SYSTEM_ORACLE_H
#define TESTS_SYSTEM_ORACLE_H

#include <stdint.h>
#include <sys/types.h>

struct oracle_result {
	uint64_t compared_pages;
	uint64_t different_pages;
	uint64_t different_mappings;
	char first[1024]; /* the first difference, in words */
};

/* 0, or -1 where the image cannot be read (said on stdout). */
int oracle_compare(const char *store, const char *name, pid_t pid, struct oracle_result *ret);

#endif
