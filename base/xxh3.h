/* SPDX-License-Identifier: MIT */
/*
 * XXH3 in the fastest form that the installed library has. Its ordinary functions are compiled for
 * the oldest CPU of the architecture; with the dispatcher the same calls pick AVX2 or AVX-512 at
 * run time (measured: 19 against 47 GB/s), without it they are inlined.
 */
#ifndef BASE_XXH3_H
#define BASE_XXH3_H

#ifdef TIDEMARK_XXH_DISPATCH
#define XXH_STATIC_LINKING_ONLY
#include <xxh_x86dispatch.h>
#else
#define XXH_INLINE_ALL
#include <xxhash.h>
#endif

/* A state on the stack. The library asks that its size be not relied on, as a later version may
 * have larger ones (576 bytes now): so there is room to grow. */
union xxh3_state {
	XXH3_state_t state;
	unsigned char room[1024];
};

#endif
