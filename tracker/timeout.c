/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <linux/io_uring.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/clock.h"
#include "tracker/arch.h"
#include "tracker/process.h"
#include "tracker/timeout.h"
#include "tracker/tracee.h"

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif
#define RING_ENTER_ABS_TIMER (1u << 5) /* IORING_ENTER_ABS_TIMER, Linux 6.12 */
#define RING_ENTER_ARG_REG (1u << 6)   /* IORING_ENTER_EXT_ARG_REG, Linux 6.13 */

/* How a call is told its timeout. */
enum timeout_form {
	MILLISECONDS, /* in the argument; negative is for ever */
	TIMESPEC,     /* at it; NULL is for ever */
	TIMEVAL,
	RING, /* struct io_uring_getevents_arg at it, which points to a timespec */
};

/* A socket's timeout is no argument, so calls on sockets are not among them. */
static const struct timed_call {
	long nr;
	unsigned argument;
	enum timeout_form form;
	bool only_mended; /* otherwise the kernel notes what is left */
} calls[] = {
#ifdef SYS_epoll_wait
	{SYS_epoll_wait, 3, MILLISECONDS, false},
#endif
	{SYS_epoll_pwait, 3, MILLISECONDS, false},
	{SYS_epoll_pwait2, 3, TIMESPEC, false},
	{SYS_rt_sigtimedwait, 2, TIMESPEC, false},
	{SYS_semtimedop, 3, TIMESPEC, false},
	{SYS_io_getevents, 4, TIMESPEC, false},
	{SYS_io_pgetevents, 4, TIMESPEC, false},
	{SYS_io_uring_enter, 4, RING, false},
/* Only where the kernel cannot note what is left. */
#ifdef SYS_select
	{SYS_select, 4, TIMEVAL, true},
#endif
	{SYS_pselect6, 4, TIMESPEC, true},
	{SYS_ppoll, 2, TIMESPEC, true},
};

static const struct timed_call *timed_call_find(long nr)
{
	for (unsigned i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (calls[i].nr == nr)
			return &calls[i];
	return NULL;
}

static bool memory_read(const struct tracee *t, uint64_t address, void *ret, size_t len)
{
	return pread(t->process->mem_fd, ret, len, (off_t)address) == (ssize_t)len;
}

static bool ring_argument_read(const struct tracee *t, const struct user_regs_struct *regs,
	uint64_t argument, struct io_uring_getevents_arg *ret)
{
	const unsigned flags_argument = 3, size_argument = 5;
	uint64_t flags = arch_argument(regs, flags_argument);
	return (flags & IORING_ENTER_EXT_ARG) &&
	       !(flags & (RING_ENTER_ABS_TIMER | RING_ENTER_ARG_REG)) &&
	       arch_argument(regs, size_argument) == sizeof(*ret) &&
	       memory_read(t, argument, ret, sizeof(*ret));
}

/* The timeout that the program gave, or false where it gave none. */
static bool timeout_read(const struct tracee *t, const struct timed_call *call,
	const struct user_regs_struct *regs, uint64_t argument, uint64_t *ret_ns)
{
	if (call->form == MILLISECONDS) {
		*ret_ns = (uint64_t)(int)argument * NS_PER_MS;
		return (int)argument >= 0;
	}
	struct io_uring_getevents_arg ring;
	if (call->form == RING) {
		if (!ring_argument_read(t, regs, argument, &ring))
			return false;
		argument = ring.ts;
	}
	struct {
		int64_t seconds, fraction;
	} time;
	if (argument == 0 || !memory_read(t, argument, &time, sizeof(time)))
		return false;
	/* What is that long ends by itself later than anybody freezes. */
	if (time.seconds < 0 || time.seconds > INT32_MAX || time.fraction < 0)
		return false;
	uint64_t unit = call->form == TIMEVAL ? NS_PER_US : 1;
	*ret_ns = (uint64_t)time.seconds * NS_PER_S + (uint64_t)time.fraction * unit;
	return true;
}

/* Notes what is left in the stub. Returns what the call's argument is to be. */
static uint64_t timeout_write(const struct tracee *t, const struct timed_call *call,
	const struct user_regs_struct *regs, struct arch_wait_stub *stub, uint64_t address,
	uint64_t left_ns)
{
	uint64_t left_at = address + offsetof(struct arch_wait_stub, left);
	/* Up: a call may end late, never early. */
	if (call->form == MILLISECONDS)
		return (left_ns + NS_PER_MS - 1) / NS_PER_MS;
	if (call->form == TIMEVAL)
		left_ns += NS_PER_US - 1;
	stub->left.seconds = (int64_t)(left_ns / NS_PER_S);
	stub->left.nanoseconds = (int64_t)(left_ns % NS_PER_S);
	if (call->form == TIMEVAL)
		stub->left.nanoseconds /= NS_PER_US;
	if (call->form != RING)
		return left_at;

	struct io_uring_getevents_arg ring;
	_Static_assert(sizeof(ring) <= sizeof(stub->extra), "it fits");
	if (!ring_argument_read(t, regs, stub->argument, &ring))
		return stub->argument;
	ring.ts = left_at;
	memcpy(stub->extra, &ring, sizeof(ring));
	return address + offsetof(struct arch_wait_stub, extra);
}

/* The slot that the thread waits in, if it does. */
static bool wait_slot_find(const struct tracee *t, const struct user_regs_struct *regs,
	const struct slots *slots, uint64_t *ret_address, struct arch_wait_stub *ret)
{
	enum slot_kind kind;
	return slots_read_at(slots, t->process, arch_pc(regs), ret_address, &kind, ret) == 0 &&
	       kind == SLOT_WAIT;
}

int timeout_shorten(const struct tracee *t, struct user_regs_struct *regs, bool mended,
	uint64_t seen_ns, const struct slots *slots, const struct slot_threads *threads)
{
	if (arch_syscall(regs) < 0 || arch_result(regs) != -ERESTARTNOHAND)
		return 0;
	const struct timed_call *call = timed_call_find(arch_syscall(regs));
	if (!call || !tracee_call_is_native(t))
		return 0;

	uint64_t address, timeout_ns;
	struct arch_wait_stub stub = {0};
	if (wait_slot_find(t, regs, slots, &address, &stub)) {
		if (!timeout_read(t, call, regs, stub.argument, &timeout_ns))
			return 0;
	} else {
		if (!threads || (call->only_mended && !mended))
			return 0;
		stub.argument = arch_argument(regs, call->argument);
		stub.pc = arch_pc(regs);
		if (!timeout_read(t, call, regs, stub.argument, &timeout_ns))
			return 0;
		stub.deadline_ns = seen_ns + timeout_ns;
		int r = slots_choose(slots, t->process, SLOT_WAIT, threads, &address);
		if (r < 0)
			return r;
	}

	uint64_t now = clock_now_ns();
	uint64_t left_ns = stub.deadline_ns > now ? stub.deadline_ns - now : 0;
	if (left_ns > timeout_ns) /* another's clock, perhaps */
		left_ns = timeout_ns;
	arch_wait_stub_build(&stub, call->argument);
	uint64_t argument = timeout_write(t, call, regs, &stub, address, left_ns);
	if (slot_fill(t, address, SLOT_WAIT, arch_sp(regs), &stub) < 0)
		return 0;

	/* Behind the stub's first instruction, which the kernel steps back to, as it would to the
	 * program's. Killed before this the thread begins with its whole timeout; after it, it
	 * needs nobody. */
	struct user_regs_struct shortened = *regs;
	arch_set_argument(&shortened, call->argument, argument);
	arch_set_pc(&shortened, address + arch_syscall_bytes);
	/* Known at once, lest the next thread find this slot deserted. */
	if (tracee_set_regs(t, &shortened) == 0)
		*regs = shortened;
	return 0;
}

void timeout_translate(
	const struct tracee *t, struct user_regs_struct *regs, const struct slots *slots)
{
	uint64_t address;
	struct arch_wait_stub stub;
	if (!wait_slot_find(t, regs, slots, &address, &stub))
		return;
	/* Before the call, where the kernel has just stepped back to; else in it or behind it. */
	bool before = arch_pc(regs) == address;
	long nr = before ? arch_result(regs) : arch_syscall(regs);
	const struct timed_call *call = timed_call_find(nr);
	arch_wait_stub_leave(&stub, address, regs);
	if (call)
		arch_set_argument(regs, call->argument, stub.argument);
}
