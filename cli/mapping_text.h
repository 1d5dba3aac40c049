/* SPDX-License-Identifier: MIT */
/* Mappings as people read them. */
#ifndef CLI_MAPPING_TEXT_H
#define CLI_MAPPING_TEXT_H

#include "proto/mapping.h"

/* "rwxp", as in /proc/PID/maps; `buf` holds 5 bytes, and is returned. */
char *mapping_protection(const struct mapping *m, char buf[5]);

/* "anonymous", "private file", "shared memory, others write", ... */
const char *mapping_kind_text(const struct mapping *m);

#endif
