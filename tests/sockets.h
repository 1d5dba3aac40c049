/* SPDX-License-Identifier: MIT */
/* Connected sockets for the tests, without a listener's detour. */
#ifndef TESTS_SOCKETS_H
#define TESTS_SOCKETS_H

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include "tests/loop.h"
#include "transport/stream_uv.h"

/* Two ends of a TCP connection over loopback. */
static inline void tcp_pair(int fds[2])
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t bytes = sizeof(sa);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CU_ASSERT_EQUAL_FATAL(bind(l, (struct sockaddr *)&sa, sizeof(sa)), 0);
	CU_ASSERT_EQUAL_FATAL(listen(l, 1), 0);
	CU_ASSERT_EQUAL_FATAL(getsockname(l, (struct sockaddr *)&sa, &bytes), 0);
	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CU_ASSERT_EQUAL_FATAL(connect(fds[0], (struct sockaddr *)&sa, sizeof(sa)), 0);
	fds[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	CU_ASSERT_TRUE_FATAL(fds[1] >= 0);
	close(l);
}

/* A stream over one of them, which it takes over. */
static inline struct byte_stream *stream_over(int fd, enum stream_uv_kind kind)
{
	struct stream_uv *s;
	CU_ASSERT_EQUAL_FATAL(stream_uv_new(&loop, kind, &s), 0);
	int r = kind == STREAM_UV_TCP ? uv_tcp_open(&s->uv.tcp, fd) : uv_pipe_open(&s->uv.pipe, fd);
	CU_ASSERT_EQUAL_FATAL(r, 0);
	r = stream_uv_connected(s, kind == STREAM_UV_TCP ? NULL : "unix:/run/tide");
	CU_ASSERT_EQUAL_FATAL(r, 0);
	return &s->base;
}

#endif
