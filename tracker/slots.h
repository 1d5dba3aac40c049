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

/* What a slot is used for. */
enum slot_kind {
	SLOT_INJECTION = 1, /* struct arch_stub: a thread passes through in microseconds */
	SLOT_WAIT = 2,      /* struct arch_wait_stub: it stays for as long as its call does */
};

/* The threads whose registers are known because they stand in a stop, for judging which slots are
 * in use. */
struct slot_threads {
	const struct user_regs_struct *(*regs_of)(
		const void *context, pid_t tid); /* NULL: not held */
	const void *context;
};

/*
 * Chooses a slot. One is busy from before anything can lead into it until slot_clear(); one that
 * was left behind is taken only when no thread can come back to it. Some are kept for injections.
 * -EBUSY where none is to be had now.
 */
int slots_choose(const struct slots *s, const struct process *p, enum slot_kind kind,
	const struct slot_threads *threads, uint64_t *ret);

/* Writes a stub (ARCH_STUB_BYTES) for thread `t`, which stands in a stop with stack pointer `sp`,
 * and whose it is. */
int slot_fill(const struct tracee *t, uint64_t address, enum slot_kind kind, uint64_t sp,
	const void *stub);

/* The slot that `pc` is in: its address, what it is for, and what it holds. -ENOENT where it is in
 * none that is this process's own. */
int slots_read_at(const struct slots *s, const struct process *p, uint64_t pc,
	uint64_t *ret_address, enum slot_kind *ret_kind, void *ret_stub);

/* Zeroes the slot again. Only when the thread it was for is out of it for good. */
int slot_clear(const struct tracee *t, uint64_t address);

#endif
