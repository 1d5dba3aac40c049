/* SPDX-License-Identifier: MIT */
/*
 * Places for stubs in the memory of a process: the vDSO is mapped executable into every process, in
 * whole pages, and behind its ELF image the last page has room that is zero and that nothing ever
 * jumps to.
 */
#ifndef TRACKER_SLOTS_H
#define TRACKER_SLOTS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/user.h>
#include "tidemark/error.h"
#include "tracker/arch.h"

struct process;
struct tracee;

#define SLOT_BYTES 128u
#define SLOTS_MAX 16u

struct slots {
	uint64_t start; /* of the first; SLOT_BYTES each */
	unsigned n;
	bool is_32_bit; /* none, since the process runs 32-bit code */
};

/* Finds the room. -EOPNOTSUPP where there is no vDSO, none for 64-bit code, or no room in it; then
 * *ret has no slots but can be used all the same. */
int slots_find(const struct process *p, struct slots *ret, struct tide_error *err);

/* Says so. */
int slots_refuse_32_bit(const struct process *p, struct tide_error *err);

bool slots_contain(const struct slots *s, uint64_t address);

/*
 * Chooses a slot for a stub of thread `t`, which stands in a stop with `regs`. A slot is busy from
 * before anything can lead into it until slot_clear(); one that a killed tracer left behind is
 * taken only when no thread can come back to it. -EBUSY where none is to be had now.
 */
int slots_choose(const struct slots *s, const struct tracee *t, const struct user_regs_struct *regs,
	uint64_t *ret);

/* Writes the stub and who it is for. */
int slot_fill(
	const struct tracee *t, const struct user_regs_struct *regs, const struct arch_stub *stub);

/* Zeroes the slot again. Only when the thread it was for is out of it for good. */
int slot_clear(const struct tracee *t, uint64_t address);

#endif
