/* SPDX-License-Identifier: MIT */
/* What this kernel lets this user do: asked by trying, never by version. */
#ifndef TRACKER_PROBE_H
#define TRACKER_PROBE_H

#include <stdbool.h>
#include <stddef.h>

struct probe {
	const char *name;
	const char *question; /* "Can ...?" */
	bool needed;          /* nothing works without */
	/* True for yes; `detail` (128 bytes) says how, or why not. */
	bool (*ask)(char *detail, size_t size);
};

/* Ended by a NULL name. The answers do not change while a program runs; asking costs about a
 * millisecond each. */
extern const struct probe probes[];

#endif
