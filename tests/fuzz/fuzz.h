/* SPDX-License-Identifier: MIT */
/*
 * A fuzz target is one file fuzz_NAME.c that defines this function, a folder corpus/NAME and a line
 * in CMakeLists.txt. It holds properties, not only the sanitizers: FUZZ_HOLDS aborts where one
 * fails.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Returns 0. The name and the shape are libFuzzer's. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Not assert, which release builds leave out. */
#define FUZZ_HOLDS(what)                                                                          \
	do {                                                                                      \
		if (!(what)) {                                                                    \
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                                  \
		}                                                                                 \
	} while (0)

#endif
