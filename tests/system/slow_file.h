/* SPDX-License-Identifier: MIT */
/*
 * A file whose reads wait until the test lets them end: a FUSE file system of one file, served by a
 * thread of the test. What is read is put into the reader's pages by the kernel, past its page
 * tables, as a disk would do it.
 */
#ifndef TESTS_SYSTEM_SLOW_FILE_H
#define TESTS_SYSTEM_SLOW_FILE_H

#include <stddef.h>

enum { SLOW_FILE_BYTES = 1 << 20 };

/* Mounts it on a new folder inside `folder`, or skips the test where that is not allowed. Its path,
 * until slow_file_stop(). */
const char *slow_file_start(const char *folder);

/* Back when so many reads wait. */
void slow_file_wait(size_t reads);

/* Ends all that wait: every byte that they read is `byte`. */
void slow_file_answer(unsigned char byte);

/* Ends all that wait with an error, and unmounts. Nothing where it was not started. */
void slow_file_stop(void);

#endif
