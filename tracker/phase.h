/* SPDX-License-Identifier: MIT */
/*
 * Where the tracer is, for tests that kill it there: they point tracer_phase at memory that
 * outlives it. NULL, and no more than a test of a pointer, everywhere else.
 */
#ifndef TRACKER_PHASE_H
#define TRACKER_PHASE_H

#include <stddef.h>

enum tracer_phase {
	PHASE_IDLE,
	PHASE_ATTACH,        /* before the thread is seized */
	PHASE_INTERRUPT,     /* asked to stop, until EINTR results are made right: the one window */
	PHASE_STOPPED,       /* stands, and would go on as if nobody had looked */
	PHASE_STUB_WRITTEN,  /* the stub is in memory and nothing leads to it */
	PHASE_COMMITTED,     /* the thread is in the stub */
	PHASE_FIRST_ENTRY,   /* at the entry of the first system call */
	PHASE_FIRST_CHANGED, /* it is a userfaultfd() now */
	PHASE_FD_OPEN,       /* the process has the descriptor */
	PHASE_FD_TAKEN,      /* and so have we */
	PHASE_CLOSING,       /* at the entry of the second */
	PHASE_CLOSED,
	PHASE_RESTORED,         /* registers as they were */
	PHASE_FREEZE_ATTACH,    /* the same for a freeze: before the first thread is seized */
	PHASE_FREEZE_INTERRUPT, /* from the first seized until all stand: the one window again */
	PHASE_FROZEN,
	PHASE_SHORTEN, /* timeouts are being cut to what is left of them */
	PHASE_THAW,    /* some threads run */
	PHASE_COUNT,
};

extern volatile int *tracer_phase;

static inline void phase_set(enum tracer_phase phase)
{
	if (tracer_phase)
		*tracer_phase = (int)phase;
}

#endif
