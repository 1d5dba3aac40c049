/* SPDX-License-Identifier: MIT */
/* Filling in a struct tide_error: the words are said once, where the attempt is known. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <errno.h>
#include "tidemark/error.h"

/* Notes what was attempted and returns `code` (a negative errno), so that a failure is one line:
 * `return tide_fail(err, -errno, "open the memory of process %d", pid);`. The kind follows from
 * the code: ESRCH is TARGET_GONE, EPERM/EACCES/ENOSYS/EOPNOTSUPP UNSUPPORTED, others FAILED. */
int tide_fail(struct tide_error *err, int code, const char *fmt, ...) TIDE_PRINTF(3, 4);

/* The same with the kind given. Use it where the whole reason is in the words: with -ECANCELED as
 * the code no reason is added when it is printed. */
int tide_fail_kind(struct tide_error *err, enum tide_error_kind kind, int code, const char *fmt,
	...) TIDE_PRINTF(4, 5);

/* The words say everything, reason included ("the image has 3 pages outside its mappings"). Returns
 * -ECANCELED, kind FAILED. For bad input use tide_bad(). */
int tide_say(struct tide_error *err, const char *fmt, ...) TIDE_PRINTF(2, 3);

/* Bytes from a peer or a file that cannot be right: names what and where. Returns -EBADMSG; no
 * reason is added when it is printed. */
int tide_bad(struct tide_error *err, const char *fmt, ...) TIDE_PRINTF(2, 3);

/* Puts words in front of an error that is there already ("round 3: ..."). Returns err's code, or
 * `code` if err is NULL. */
int tide_prefix(struct tide_error *err, int code, const char *fmt, ...) TIDE_PRINTF(3, 4);

/*
 * A static analyzer sees one file at a time: it would follow a failure as if 0 had been returned,
 * and find that every result is missing that is written on success only. So it is told what is
 * promised; errno is one value, because the analyzer cannot tell the sign of -errno from that of
 * errno.
 */
#if defined(__clang_analyzer__) && !defined(BASE_ERROR_SOURCE)
static inline int *analyzer_errno(void)
{
	int *code = __errno_location();
	*code = EIO;
	return code;
}
#undef errno
#define errno (*analyzer_errno())
#define tide_fail(err, code, ...) (tide_fail(err, code, __VA_ARGS__), -1)
#define tide_fail_kind(err, kind, code, ...) (tide_fail_kind(err, kind, code, __VA_ARGS__), -1)
#define tide_say(err, ...) (tide_say(err, __VA_ARGS__), -1)
#define tide_bad(err, ...) (tide_bad(err, __VA_ARGS__), -1)
#define tide_prefix(err, code, ...) (tide_prefix(err, code, __VA_ARGS__), -1)
#endif

#endif
