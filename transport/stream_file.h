/* SPDX-License-Identifier: MIT */
/* Byte streams over regular files and devices, which cannot be polled: libuv's threads wait for
 * them. */
#ifndef TRANSPORT_STREAM_FILE_H
#define TRANSPORT_STREAM_FILE_H

#include <stdbool.h>
#include <uv.h>
#include "transport/byte_stream.h"

/* Reads or writes `fd` from where it stands; takes it over on success. 0 or negative errno. */
int stream_file_open(uv_loop_t *loop, int fd, const char *name, struct byte_stream **ret);

/*
 * A new file at `path`, 0600, which appears there at shutdown(). -EEXIST where something is there
 * already, then or now. It is without a name until then, or under a temporary one where the file
 * system has no nameless files (or `with_temporary_name` asks for it, in tests).
 */
int stream_file_create(
	uv_loop_t *loop, const char *path, bool with_temporary_name, struct byte_stream **ret);

#endif
