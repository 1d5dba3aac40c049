/* SPDX-License-Identifier: MIT */
/*
 * Threads that leave the processors to others for a while, by their nice value (sched(7), "The nice
 * value": on Linux each thread has its own).
 */
#ifndef BASE_BACKGROUND_H
#define BASE_BACKGROUND_H

#include <stdbool.h>
#include <sys/types.h>

/* Whether a thread that went to the background may come back: CAP_SYS_NICE, or RLIMIT_NICE. Tried
 * with a thread of its own, which is gone when this returns. */
bool background_ends(void);

/* A thread of this program goes to the background or comes back to `own`, the nice value that it
 * had. It stays where it is if the kernel does not let it. */
void background_set(pid_t tid, int own, bool background);

#endif
