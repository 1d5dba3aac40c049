/* SPDX-License-Identifier: MIT */
#ifndef TIDEMARK_ERROR_H
#define TIDEMARK_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TIDE_API __attribute__((visibility("default")))
#define TIDE_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define TIDE_API
#define TIDE_PRINTF(fmt, args)
#endif

/* How a failure concerns the caller; the command line turns it into an exit code. */
enum tide_error_kind {
	TIDE_ERROR_FAILED = 1,      /* it went wrong, or what was compared differs */
	TIDE_ERROR_USAGE = 2,       /* the request itself makes no sense */
	TIDE_ERROR_TARGET_GONE = 3, /* the followed process ended or became another program */
	TIDE_ERROR_UNSUPPORTED = 4, /* this kernel, or this user, cannot */
};

/*
 * What went wrong, for a person. Lives on the caller's stack; every function that takes one
 * accepts NULL. Written on failure only. `code` is the negative errno that the function returned
 * and `text` names the attempt, without a full stop and without the reason that `code` gives.
 */
struct tide_error {
	int code;
	enum tide_error_kind kind;
	char text[512];
};

/* The reason in words ("Permission denied"), or "" where the text says it all (code -ECANCELED
 * or 0). The string is static. */
TIDE_API const char *tide_error_reason(const struct tide_error *err);

#ifdef __cplusplus
}
#endif
#endif
