/* SPDX-License-Identifier: MIT */
/* Guards for locals: what is declared with one is released when the scope is left. */
#ifndef BASE_GUARD_H
#define BASE_GUARD_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define auto_(fn) __attribute__((cleanup(fn)))

static inline void guard_freep(void *p)
{
	free(*(void **)p);
}

static inline void guard_closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void guard_fclosep(FILE **f)
{
	if (*f)
		fclose(*f);
}

static inline void guard_closedirp(DIR **d)
{
	if (*d)
		closedir(*d);
}

#define auto_free auto_(guard_freep)
#define auto_close auto_(guard_closep)
#define auto_fclose auto_(guard_fclosep)
#define auto_closedir auto_(guard_closedirp)

/* Hands over a guarded pointer: its value, with NULL left behind. */
#define take(p)                             \
	({                                  \
		__typeof__(p) taken_ = (p); \
		(p) = NULL;                 \
		taken_;                     \
	})

/* The same for a descriptor, with -1 left behind. */
static inline int take_fd(int *fd)
{
	int taken = *fd;
	*fd = -1;
	return taken;
}

/* Defines x_freep() beside x_free(), for auto_(x_freep). The closer must accept NULL. */
#define DEFINE_GUARD(type, fn)             \
	static inline void fn##p(type **p) \
	{                                  \
		fn(*p);                    \
	}

#endif
