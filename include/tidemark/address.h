/* SPDX-License-Identifier: MIT */
/* Where a stream goes to or comes from, as a person writes it. */
#ifndef TIDEMARK_ADDRESS_H
#define TIDEMARK_ADDRESS_H

#include <stddef.h>
#include <stdint.h>
#include "tidemark/error.h"

#ifdef __cplusplus
extern "C" {
#endif

enum tide_address_kind {
	TIDE_ADDRESS_TCP = 1,  /* tcp://HOST:PORT; HOST is IPv4, IPv6 in brackets, or a name */
	TIDE_ADDRESS_UNIX,     /* unix:PATH */
	TIDE_ADDRESS_FILE,     /* any other text: the path of a file */
	TIDE_ADDRESS_STANDARD, /* "-": standard input or output, whichever the use wants */
};

#define TIDE_ADDRESS_HOST_MAX 255
#define TIDE_ADDRESS_PATH_MAX 4095

struct tide_address {
	enum tide_address_kind kind;
	char host[TIDE_ADDRESS_HOST_MAX + 1]; /* TCP: without the brackets; else "" */
	uint16_t port;                        /* TCP: 0 lets a listener pick one; else 0 */
	char path[TIDE_ADDRESS_PATH_MAX + 1]; /* UNIX, FILE: never empty; else "" */
};

/* Holds every formatted address, the ending zero included. */
#define TIDE_ADDRESS_TEXT (TIDE_ADDRESS_PATH_MAX + 16)

/*
 * Reads an address. Names are not looked up. Text that a person surely did not mean as a file's
 * path
 * ("http://x", "10.0.0.1:4711") is refused with a hint; "./" in front makes a path of anything.
 * Returns 0 or -ECANCELED (kind USAGE) with words that say what is wrong; `ret` is then unchanged.
 */
TIDE_API int tide_address_parse(const char *text, struct tide_address *ret, struct tide_error *err);

/* Writes the address as tide_address_parse() reads it, into `buf` of TIDE_ADDRESS_TEXT bytes;
 * returned. */
TIDE_API char *tide_address_format(const struct tide_address *address, char *buf);

/*
 * 1 where only this machine can be meant: 127.0.0.0/8, ::1, "localhost", a unix socket; else 0. A
 * name other than localhost counts as 0, whatever it would resolve to.
 */
TIDE_API int tide_address_is_loopback(const struct tide_address *address);

#ifdef __cplusplus
}
#endif
#endif
