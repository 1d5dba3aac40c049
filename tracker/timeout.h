/* SPDX-License-Identifier: MIT */
/*
 * Calls that restart.h begins again begin with their whole timeout again. A process that is frozen
 * more often than that would wait for ever: epoll_wait(300 ms), frozen every 200 ms, never ended.
 * So from the second freeze on they get what is left. Their timeout is an argument, and the program
 * finds its arguments unchanged when the call is over; so the call is begun again from a slot
 * (slots.h), which gives it another and puts the program's own back behind it. That a thread is in
 * the slot is also what tells the same call from the next one like it.
 */
#ifndef TRACKER_TIMEOUT_H
#define TRACKER_TIMEOUT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/user.h>
#include "tracker/slots.h"

struct tracee;

/*
 * For a thread in a TRACEE_TRAPPED stop that is about to be let go, with `regs` as restart_mend()
 * left them: lets it wait no longer than its timeout from `seen_ns` (CLOCK_MONOTONIC), when it was
 * found to stand. `mended` says whether restart_mend() had to do something. *regs follows what is
 * set. -EBUSY where there was no slot: it begins with its whole timeout. With NULL for `threads`
 * none is looked for. 0 otherwise, whether there was something to do or not.
 */
int timeout_shorten(const struct tracee *t, struct user_regs_struct *regs, bool mended,
	uint64_t seen_ns, const struct slots *slots, const struct slot_threads *threads);

/* Registers of a thread that waits in a slot, as they would be at the program's own call. Others
 * are left alone. */
void timeout_translate(
	const struct tracee *t, struct user_regs_struct *regs, const struct slots *slots);

#endif
