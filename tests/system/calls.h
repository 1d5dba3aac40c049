/* SPDX-License-Identifier: MIT */
/* System calls that wait, each with the answer it must give when nobody but a tracer disturbs it.
 */
#ifndef TESTS_SYSTEM_CALLS_H
#define TESTS_SYSTEM_CALLS_H

#include <stdbool.h>

enum call_kind {
	CALL_RESTARTS, /* the kernel itself begins it again after a stop */
	CALL_MENDED,   /* answers EINTR to a stop unless the tracer mends it */
};

struct call {
	const char *name;
	enum call_kind kind;
	void (*prepare)(void); /* once, in the process that calls; exits with 77 if it cannot */
	int (*run)(void);      /* waits; 0 if that gave what it should, else an errno */
	bool timed;            /* ends when its timeout is over, frozen or not */
};

/* How long they wait: 5 ms unless this is called before any is prepared. */
void calls_set_timeout(unsigned ms);

extern const struct call calls[];
extern const unsigned ncalls;

#endif
