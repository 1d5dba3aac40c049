/* SPDX-License-Identifier: MIT */
/* Who a process is, and how it stands in the freeze. */
#ifndef TRACKER_STATE_H
#define TRACKER_STATE_H

#include "proto/state.h"
#include "tidemark/error.h"

struct process;
struct tracer;

/* One allocation holds the strings too: free(). */
int process_describe(const struct process *p, struct process_info **ret, struct tide_error *err);

/* To be called in the freeze. Release with process_state_release(). */
int process_capture(const struct process *p, struct tracer *t, struct process_state *ret,
	struct tide_error *err);

void clocks_read(struct clocks *ret);

/* The GNU build-id of an ELF file, from its notes. Returns its length, at most `size`; 0 where it
 * has none. */
size_t elf_build_id(int fd, uint8_t *ret, size_t size);

#endif
