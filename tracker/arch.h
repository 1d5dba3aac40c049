/* SPDX-License-Identifier: MIT */
/*
 * What the ptrace part must know about the processor: where a register is, and the code that a
 * thread is sent through to create a userfaultfd. One arch_*.c implements it; a new processor adds
 * a file.
 */
#ifndef TRACKER_ARCH_H
#define TRACKER_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/user.h>

/*
 * What a thread that a ptrace stop took out of a system call finds as its result. The kernel keeps
 * these to itself (include/linux/errno.h): it acts upon them on the way back to the program, after
 * the stop.
 */
#define ERESTARTSYS 512
#define ERESTARTNOINTR 513
#define ERESTARTNOHAND 514        /* EINTR if a handler runs, otherwise begin again */
#define ERESTART_RESTARTBLOCK 516 /* EINTR if a handler runs, otherwise restart_syscall() */

/* The linux/audit.h name of the calls that we understand. */
extern const uint32_t arch_audit;

uint64_t arch_pc(const struct user_regs_struct *regs);
void arch_set_pc(struct user_regs_struct *regs, uint64_t pc);
uint64_t arch_sp(const struct user_regs_struct *regs);

/* The system call that the thread is in, or comes out of; -1 where it was stopped in its own code.
 */
long arch_syscall(const struct user_regs_struct *regs);
long arch_result(const struct user_regs_struct *regs);
void arch_set_result(struct user_regs_struct *regs, long result);
uint64_t arch_argument(const struct user_regs_struct *regs, unsigned i);
void arch_set_argument(struct user_regs_struct *regs, unsigned i, uint64_t value);

/* Changes the call at a system call's entry stop. */
void arch_set_syscall(struct user_regs_struct *regs, long nr, uint64_t arg0);

/* 0 where the thread is in a state that a stub can be built for; -EOPNOTSUPP code of another width,
 * -EBUSY it is stepping through itself. */
int arch_check(const struct user_regs_struct *regs);

/* The register sets that make up a thread's state, NT_PRSTATUS first, ended by 0. */
extern const uint32_t arch_regsets[];

#define ARCH_STUB_BYTES 96

/*
 * Code that makes two system calls, close(-1) and close(of what the first one returned), and goes
 * on where the thread was. It stands alone: it needs nobody to finish, and leaves every register,
 * the flags and the stack as they would be had the thread never come by.
 */
struct arch_stub {
	uint8_t code[ARCH_STUB_BYTES];
	uint64_t address;     /* where it goes */
	uint64_t after_first; /* addresses behind the two system call instructions: there the thread
				 is */
	uint64_t after_second;          /* seen at their entry and exit stops */
	struct user_regs_struct commit; /* with these registers the thread enters the stub */
};

/* Builds the stub for a thread that stands in a ptrace stop with `regs`. */
void arch_stub_build(struct arch_stub *stub, uint64_t address, const struct user_regs_struct *regs);

/* Is a thread with these registers at the stub's door, with nothing of it executed? */
bool arch_stub_not_begun(const struct arch_stub *stub, const struct user_regs_struct *regs);

/*
 * Code that begins a system call again with another timeout than the program gave, and puts the
 * program's own argument back behind it. Beside it lies what it needs. It stands alone, too.
 */
struct arch_wait_stub {
	uint8_t code[32];
	struct {
		int64_t seconds, nanoseconds;
	} left;               /* what the call is given, where it takes a pointer */
	uint8_t extra[24];    /* a structure that points to `left`, where it takes that */
	uint64_t deadline_ns; /* CLOCK_MONOTONIC: for whoever stops it next */
	uint64_t argument;    /* the program's own */
	uint64_t pc;          /* behind the program's own system call instruction */
};
_Static_assert(sizeof(struct arch_wait_stub) == ARCH_STUB_BYTES, "it fits where the other does");

void arch_wait_stub_build(struct arch_wait_stub *stub, unsigned argument);

/* Moves a thread that is in the stub at `address` to where it would be in the program, but for the
 * argument. */
void arch_wait_stub_leave(
	const struct arch_wait_stub *stub, uint64_t address, struct user_regs_struct *regs);

/* The stub begins with the system call instruction, which has this many bytes; so has the
 * program's. */
extern const unsigned arch_syscall_bytes;

#endif
