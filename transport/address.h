/* SPDX-License-Identifier: MIT */
/* What transport itself needs of addresses, on top of the public header. */
#ifndef TRANSPORT_ADDRESS_H
#define TRANSPORT_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>
#include "tidemark/address.h"

/* A connection is made to it (TCP, unix), as opposed to something that is opened. */
static inline bool address_is_socket(const struct tide_address *a)
{
	return a->kind == TIDE_ADDRESS_TCP || a->kind == TIDE_ADDRESS_UNIX;
}

/* The TCP address of an IPv4 or IPv6 socket address; an IPv4 address mapped into IPv6 becomes plain
 * IPv4. 0 or -EAFNOSUPPORT. */
int address_from_sockaddr(const struct sockaddr *sa, struct tide_address *ret);

/* 127.0.0.0/8, ::1, also mapped. */
bool sockaddr_is_loopback(const struct sockaddr *sa);

#endif
