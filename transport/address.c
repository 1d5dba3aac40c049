/* SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <ctype.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include "base/error.h"
#include "base/units.h"
#include "transport/address.h"

#define UNIX_PATH_MAX (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)

#define usage(err, ...) tide_fail_kind(err, TIDE_ERROR_USAGE, -ECANCELED, __VA_ARGS__)

static bool host_is_ipv6(const char *host)
{
	char plain[TIDE_ADDRESS_HOST_MAX + 1];
	snprintf(plain, sizeof(plain), "%s", host);
	char *scope = strchr(plain, '%');
	if (scope)
		*scope = '\0';
	struct in6_addr ignored;
	return inet_pton(AF_INET6, plain, &ignored) == 1 && (!scope || scope[1]);
}

static bool host_is_name_or_ipv4(const char *host)
{
	for (const char *c = host; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("-._", *c))
			return false;
	return true;
}

static int parse_tcp(
	const char *text, const char *rest, struct tide_address *ret, struct tide_error *err)
{
	bool in_brackets = rest[0] == '[';
	const char *host = in_brackets ? rest + 1 : rest;
	const char *end = in_brackets ? strchr(host, ']') : strrchr(host, ':');
	if (in_brackets && !end)
		return usage(err, "the closing bracket is missing in %s", text);
	if (!end)
		end = host + strlen(host);

	size_t host_bytes = (size_t)(end - host);
	if (host_bytes == 0)
		return usage(err, "the host is missing in %s", text);
	if (host_bytes > TIDE_ADDRESS_HOST_MAX)
		return usage(err, "the host in %.64s... is too long", text);
	memcpy(ret->host, host, host_bytes);
	ret->host[host_bytes] = '\0';

	if (!in_brackets && strchr(ret->host, ':'))
		return usage(err, "write the IPv6 address in brackets, tcp://[ADDRESS]:PORT, in %s",
			text);
	if (in_brackets && !host_is_ipv6(ret->host))
		return usage(err, "'%s' is not an IPv6 address, in %s", ret->host, text);
	if (!in_brackets && !host_is_name_or_ipv4(ret->host))
		return usage(err, "'%s' is not a host's name, in %s", ret->host, text);

	if (in_brackets)
		end++;
	if (*end == '\0' || (*end == ':' && end[1] == '\0'))
		return usage(err, "the port is missing in %s", text);
	uint64_t port;
	if (*end != ':' || units_parse_count(end + 1, 0, UINT16_MAX, &port) < 0)
		return usage(err, "the port in %s is not a number up to 65535", text);
	ret->port = (uint16_t)port;
	return 0;
}

/* "http://x": letters, then "://". */
static bool has_scheme(const char *text)
{
	size_t letters = 0;
	while (isalnum((unsigned char)text[letters]) ||
		(letters && strchr("+-.", text[letters]) && text[letters]))
		letters++;
	return letters > 0 && strncmp(text + letters, "://", 3) == 0;
}

/* "10.0.0.1:4711", "[::1]:4711", "host:4711". */
static bool looks_like_host_and_port(const char *text)
{
	const char *colon = strrchr(text, ':');
	uint64_t port;
	return colon && colon > text && !strchr(text, '/') &&
	       units_parse_count(colon + 1, 0, UINT16_MAX, &port) == 0;
}

static int parse_path(const char *text, const char *path, size_t max, const char *what,
	struct tide_address *ret, struct tide_error *err)
{
	size_t bytes = strlen(path);
	if (bytes == 0)
		return usage(err, "the path is missing in '%s'", text);
	if (bytes > max)
		return usage(err, "the path of %s '%.64s...' has %zu bytes, more than %zu", what,
			path, bytes, max);
	memcpy(ret->path, path, bytes + 1);
	return 0;
}

int tide_address_parse(const char *text, struct tide_address *ret, struct tide_error *err)
{
	struct tide_address a = {0};
	int r;
	if (strcmp(text, "-") == 0) {
		a.kind = TIDE_ADDRESS_STANDARD;
		r = 0;
	} else if (strncmp(text, "tcp:", 4) == 0) {
		a.kind = TIDE_ADDRESS_TCP;
		if (strncmp(text, "tcp://", 6) != 0)
			return usage(err, "write tcp://HOST:PORT instead of %s", text);
		r = parse_tcp(text, text + 6, &a, err);
	} else if (strncmp(text, "unix:", 5) == 0) {
		a.kind = TIDE_ADDRESS_UNIX;
		/* unix:///run/x, as some programs write it, is the same path with more slashes. */
		r = parse_path(text, text + 5, UNIX_PATH_MAX, "the unix socket", &a, err);
	} else if (has_scheme(text)) {
		return usage(err,
			"'%s' is none of tcp://HOST:PORT, unix:PATH, a file's path (./%s) and -",
			text, text);
	} else if (looks_like_host_and_port(text)) {
		return usage(err, "write tcp://%s, or ./%s for a file of that name", text, text);
	} else {
		a.kind = TIDE_ADDRESS_FILE;
		r = parse_path(text, text, TIDE_ADDRESS_PATH_MAX, "the file", &a, err);
	}
	if (r < 0)
		return r;
	*ret = a;
	return 0;
}

char *tide_address_format(const struct tide_address *a, char *buf)
{
	switch (a->kind) {
	case TIDE_ADDRESS_TCP:
		snprintf(buf, TIDE_ADDRESS_TEXT,
			strchr(a->host, ':') ? "tcp://[%s]:%u" : "tcp://%s:%u", a->host, a->port);
		break;
	case TIDE_ADDRESS_UNIX:
		snprintf(buf, TIDE_ADDRESS_TEXT, "unix:%s", a->path);
		break;
	case TIDE_ADDRESS_FILE:
		snprintf(buf, TIDE_ADDRESS_TEXT, "%s", a->path);
		break;
	case TIDE_ADDRESS_STANDARD:
		snprintf(buf, TIDE_ADDRESS_TEXT, "-");
		break;
	}
	return buf;
}

int tide_address_is_loopback(const struct tide_address *a)
{
	if (a->kind == TIDE_ADDRESS_UNIX)
		return 1;
	if (a->kind != TIDE_ADDRESS_TCP)
		return 0;

	struct sockaddr_in v4 = {.sin_family = AF_INET};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
	if (inet_pton(AF_INET, a->host, &v4.sin_addr) == 1)
		return sockaddr_is_loopback((struct sockaddr *)&v4);
	if (inet_pton(AF_INET6, a->host, &v6.sin6_addr) == 1)
		return sockaddr_is_loopback((struct sockaddr *)&v6);
	return strcasecmp(a->host, "localhost") == 0;
}

/* The IPv4 address in a socket address of either family. */
static bool sockaddr_ipv4(const struct sockaddr *sa, struct in_addr *ret)
{
	if (sa->sa_family == AF_INET) {
		*ret = ((const struct sockaddr_in *)(const void *)sa)->sin_addr;
		return true;
	}
	if (sa->sa_family != AF_INET6)
		return false;
	const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr;
	if (!IN6_IS_ADDR_V4MAPPED(v6))
		return false;
	memcpy(ret, v6->s6_addr + 12, sizeof(*ret));
	return true;
}

bool sockaddr_is_loopback(const struct sockaddr *sa)
{
	struct in_addr v4;
	if (sockaddr_ipv4(sa, &v4))
		return ntohl(v4.s_addr) >> 24 == 127;
	return sa->sa_family == AF_INET6 &&
	       IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr);
}

int address_from_sockaddr(const struct sockaddr *sa, struct tide_address *ret)
{
	struct tide_address a = {.kind = TIDE_ADDRESS_TCP};
	struct in_addr v4;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)sa;
	if (sockaddr_ipv4(sa, &v4)) {
		inet_ntop(AF_INET, &v4, a.host, sizeof(a.host));
		/* The port lies at the same place in both families. */
		a.port = ntohs(((const struct sockaddr_in *)(const void *)sa)->sin_port);
	} else if (sa->sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &v6->sin6_addr, a.host, sizeof(a.host));
		char interface[IF_NAMESIZE];
		size_t at = strlen(a.host);
		if (v6->sin6_scope_id && if_indextoname(v6->sin6_scope_id, interface))
			snprintf(a.host + at, sizeof(a.host) - at, "%%%s", interface);
		a.port = ntohs(v6->sin6_port);
	} else {
		return -EAFNOSUPPORT;
	}
	*ret = a;
	return 0;
}
