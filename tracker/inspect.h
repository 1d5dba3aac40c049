/* SPDX-License-Identifier: MIT */
/* What of a process would be followed, found out without touching it. */
#ifndef TRACKER_INSPECT_H
#define TRACKER_INSPECT_H

#include <stdbool.h>
#include <sys/types.h>
#include "proto/mapping.h"
#include "tidemark/error.h"

/* Something that a person should know before following the process. */
struct finding {
	bool refused;    /* it cannot be followed because of this */
	bool verifiable; /* ... unless all of its memory is compared (verify_writes) */
	char text[256];
};

struct inspection {
	char comm[64];
	size_t nthreads;
	struct mapping_table maps;
	struct finding *findings;
	size_t nfindings;
};

/* Errors as process_open() gives them. */
int process_inspect(pid_t pid, struct inspection *ret, struct tide_error *err);
void inspection_release(struct inspection *i);

struct process;
/* How much of a mapping's memory nobody but the process can read (memfd_secret); 0 for all other
 * mappings. */
int inspect_secret(const struct process *p, const struct mapping *m, uint64_t *ret_bytes,
	struct tide_error *err);

#endif
