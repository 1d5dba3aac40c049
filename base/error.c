/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#define BASE_ERROR_SOURCE
#include "base/error.h"

static enum tide_error_kind kind_of(int code)
{
	switch (-code) {
	case ESRCH:
		return TIDE_ERROR_TARGET_GONE;
	case EPERM:
	case EACCES:
	case ENOSYS:
	case EOPNOTSUPP:
		return TIDE_ERROR_UNSUPPORTED;
	default:
		return TIDE_ERROR_FAILED;
	}
}

TIDE_PRINTF(4, 0)
static int fill(
	struct tide_error *err, enum tide_error_kind kind, int code, const char *fmt, va_list args)
{
	if (!err)
		return code;

	/* Formatted aside first: an argument may be the old text. */
	char text[sizeof(err->text)];
	vsnprintf(text, sizeof(text), fmt, args);
	memcpy(err->text, text, sizeof(text));
	err->code = code;
	err->kind = kind;
	return code;
}

int tide_fail(struct tide_error *err, int code, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	fill(err, kind_of(code), code, fmt, args);
	va_end(args);
	return code;
}

int tide_fail_kind(
	struct tide_error *err, enum tide_error_kind kind, int code, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	fill(err, kind, code, fmt, args);
	va_end(args);
	return code;
}

int tide_say(struct tide_error *err, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	fill(err, TIDE_ERROR_FAILED, -ECANCELED, fmt, args);
	va_end(args);
	return -ECANCELED;
}

int tide_bad(struct tide_error *err, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	fill(err, TIDE_ERROR_FAILED, -EBADMSG, fmt, args);
	va_end(args);
	return -EBADMSG;
}

int tide_prefix(struct tide_error *err, int code, const char *fmt, ...)
{
	if (!err)
		return code;

	char text[sizeof(err->text)];
	va_list args;
	va_start(args, fmt);
	int len = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (len < 0 || (size_t)len >= sizeof(text))
		return err->code;
	snprintf(text + len, sizeof(text) - (size_t)len, "%s", err->text);
	memcpy(err->text, text, sizeof(text));
	return err->code;
}

const char *tide_error_reason(const struct tide_error *err)
{
	if (err->code == 0 || err->code == -ECANCELED || err->code == -EBADMSG)
		return "";
	return strerrordesc_np(-err->code) ? strerrordesc_np(-err->code) : "Unknown error";
}
