/* SPDX-License-Identifier: MIT */
/*
 * What every byte stream promises, as one list of expectations run over every implementation; then
 * what is special to connecting, listening and files.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/error.h"
#include "tests/loop.h"
#include "transport/address.h"
#include "transport/listener.h"
#include "transport/stream_file.h"
#include "transport/stream_uv.h"

#define TIMEOUT_NS (20 * NS_PER_S)

/* --- making pairs ------------------------------------------------------------------------------
 */

struct opened {
	bool done;
	struct byte_stream *s;
	struct tide_error err;
};

static void on_opened(void *arg, struct byte_stream *s, const struct tide_error *err)
{
	struct opened *o = arg;
	o->s = s;
	if (err)
		o->err = *err;
	o->done = true;
}

static void path_in_folder(char *buf, const char *name)
{
	snprintf(buf, PATH_MAX, "%s/%s", folder, name);
}

static struct tide_address address_of(const char *scheme, const char *name)
{
	struct tide_address a;
	char text[PATH_MAX];
	snprintf(text, sizeof(text), "%s%s/%s", scheme, folder, name);
	CU_ASSERT_EQUAL_FATAL(tide_address_parse(text, &a, NULL), 0);
	return a;
}

static void make_by_listening(const struct tide_address *at, struct byte_stream *ends[2])
{
	struct opened accepted = {0}, connected = {0};
	struct listener *l;
	struct listener_options options = {0};
	CU_ASSERT_EQUAL_FATAL(
		listener_open(&loop, at, &options, on_opened, &accepted, &l, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(byte_stream_connect(&loop, listener_address(l), TIMEOUT_NS, on_opened,
				      &connected, NULL, NULL),
		0);
	loop_until(&accepted.done);
	loop_until(&connected.done);
	listener_close(l, NULL, NULL);
	ends[0] = connected.s;
	ends[1] = accepted.s;
}

static void make_tcp(struct byte_stream *ends[2])
{
	struct tide_address any = {.kind = TIDE_ADDRESS_TCP, .host = "127.0.0.1", .port = 0};
	make_by_listening(&any, ends);
}

static void make_unix(struct byte_stream *ends[2])
{
	struct tide_address at = address_of("unix:", "socket");
	make_by_listening(&at, ends);
}

static void make_fifo(struct byte_stream *ends[2])
{
	struct tide_address at = address_of("", "fifo");
	CU_ASSERT_EQUAL_FATAL(mkfifo(at.path, 0600), 0);
	CU_ASSERT_EQUAL_FATAL(byte_stream_open(&loop, &at, BYTE_STREAM_READ, &ends[1], NULL), 0);
	CU_ASSERT_EQUAL_FATAL(byte_stream_open(&loop, &at, BYTE_STREAM_WRITE, &ends[0], NULL), 0);
}

static void make_file(struct byte_stream *ends[2])
{
	struct tide_address at = address_of("", "file");
	CU_ASSERT_EQUAL_FATAL(byte_stream_open(&loop, &at, BYTE_STREAM_WRITE, &ends[0], NULL), 0);
	ends[1] = NULL;
}

static void make_named_file(struct byte_stream *ends[2])
{
	char path[PATH_MAX];
	path_in_folder(path, "file");
	CU_ASSERT_EQUAL_FATAL(stream_file_create(&loop, path, true, &ends[0]), 0);
	ends[1] = NULL;
}

static void make_memory(struct byte_stream *ends[2])
{
	CU_ASSERT_EQUAL_FATAL(byte_stream_memory_pair(&loop, 65536, 0, ends), 0);
}

static void make_memory_in_small_steps(struct byte_stream *ends[2])
{
	CU_ASSERT_EQUAL_FATAL(byte_stream_memory_pair(&loop, 4099, 997, ends), 0);
}

static const struct kind {
	const char *name;
	void (*make)(struct byte_stream *ends[2]); /* [0] writes, [1] reads */
	bool is_two_way;
	bool is_stored; /* [1] is opened when [0] was shut down: it neither waits nor vanishes */
} kinds[] = {
	{"tcp", make_tcp, true, false},
	{"unix", make_unix, true, false},
	{"fifo", make_fifo, false, false},
	{"file", make_file, false, true},
	{"file under a temporary name", make_named_file, false, true},
	{"memory", make_memory, true, false},
	{"memory in small steps", make_memory_in_small_steps, true, false},
};

#define each_kind(k) \
	for (const struct kind *k = kinds; k < kinds + sizeof(kinds) / sizeof(kinds[0]); k++)

/* --- using them ------------------------------------------------------------------------------ */

static bool in_call; /* a callback while this is set came from inside the call */

struct reader {
	struct byte_stream *s;
	uint8_t *data;
	size_t fill, cap;
	size_t space_max; /* offered at a time */
	size_t stop_at;   /* read_stop there, once */
	bool is_stopped, ended;
	ssize_t status;
};

static void on_space(void *arg, uint8_t **ret, size_t *ret_bytes)
{
	struct reader *r = arg;
	CU_ASSERT_FALSE(in_call);
	size_t left = r->cap - r->fill;
	*ret = r->data + r->fill;
	*ret_bytes = left < r->space_max ? left : r->space_max;
}

static void on_read(void *arg, ssize_t bytes)
{
	struct reader *r = arg;
	CU_ASSERT_FALSE(in_call);
	CU_ASSERT_FALSE(r->is_stopped);
	CU_ASSERT_FALSE(r->ended);
	if (bytes <= 0) {
		r->ended = true;
		r->status = bytes;
		return;
	}
	r->fill += (size_t)bytes;
	if (r->stop_at && r->fill >= r->stop_at) {
		r->stop_at = 0;
		r->is_stopped = true;
		r->s->ops->read_stop(r->s);
	}
}

static void reader_start(struct reader *r)
{
	r->is_stopped = false;
	in_call = true;
	CU_ASSERT_EQUAL(r->s->ops->read_start(r->s, on_space, on_read, r), 0);
	in_call = false;
}

struct result {
	bool done;
	int status;
	unsigned order; /* counted over all results */
};
static unsigned order;

static void on_result(void *arg, int status)
{
	struct result *r = arg;
	CU_ASSERT_FALSE(in_call);
	CU_ASSERT_FALSE(r->done);
	r->done = true;
	r->status = status;
	r->order = ++order;
}

static void write_bytes(
	struct byte_stream *s, const uint8_t *data, size_t bytes, struct result *ret)
{
	uv_buf_t buf = uv_buf_init((char *)data, (unsigned)bytes);
	in_call = true;
	CU_ASSERT_EQUAL(s->ops->write(s, &buf, 1, on_result, ret), 0);
	in_call = false;
}

static void close_both(struct byte_stream *ends[2])
{
	bool closed[2] = {false, false};
	for (int i = 0; i < 2; i++) {
		if (!ends[i])
			continue;
		in_call = true;
		byte_stream_close(ends[i], loop_set_flag, &closed[i]);
		in_call = false;
		loop_until(&closed[i]);
	}
	char path[PATH_MAX];
	path_in_folder(path, "file");
	unlink(path);
	path_in_folder(path, "fifo");
	unlink(path);
}

/* The end that reads, which a stored kind has only now. */
static struct byte_stream *reading_end(const struct kind *k, struct byte_stream *ends[2])
{
	if (!ends[1]) {
		struct tide_address at = address_of("", "file");
		CU_ASSERT_EQUAL_FATAL(
			byte_stream_open(&loop, &at, BYTE_STREAM_READ, &ends[1], NULL), 0);
	}
	return ends[1];
}

static uint8_t *pattern(size_t bytes)
{
	uint8_t *p = malloc(bytes);
	uint64_t x = 0x9e3779b97f4a7c15;
	for (size_t i = 0; i < bytes; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = (uint8_t)x;
	}
	return p;
}

/* --- what each of them promises --------------------------------------------------------------- */

#define TRANSFER_BYTES ((size_t)3 << 20)

static void check_bytes_arrive_as_they_were_written(const struct kind *k)
{
	struct byte_stream *ends[2];
	k->make(ends);
	uint8_t *data = pattern(TRANSFER_BYTES);
	struct reader r = {
		.data = malloc(TRANSFER_BYTES + 1), .cap = TRANSFER_BYTES + 1, .space_max = 70001};
	if (!k->is_stored) {
		r.s = ends[1];
		reader_start(&r);
	}

	/* Several writes at once, each of as many buffers as there may be, of odd lengths, one of
	 * them empty. */
	enum { WRITES = 4 };
	struct result results[WRITES] = {0}, shutdown = {0};
	size_t at = 0;
	in_call = true;
	for (unsigned w = 0; w < WRITES; w++) {
		uv_buf_t bufs[BYTE_STREAM_BUFS];
		for (unsigned i = 0; i < BYTE_STREAM_BUFS; i++) {
			size_t bytes = i == 2 ? 0 : 1 + (w * 131 + i * 17011) % 90000;
			if (w == WRITES - 1 && i == BYTE_STREAM_BUFS - 1)
				bytes = TRANSFER_BYTES - at;
			bufs[i] = uv_buf_init((char *)data + at, (unsigned)bytes);
			at += bytes;
		}
		CU_ASSERT_EQUAL(ends[0]->ops->write(
					ends[0], bufs, BYTE_STREAM_BUFS, on_result, &results[w]),
			0);
		memset(bufs, 0xff, sizeof(bufs)); /* the array was ours */
	}
	CU_ASSERT_EQUAL(ends[0]->ops->shutdown(ends[0], on_result, &shutdown), 0);
	in_call = false;

	loop_until(&shutdown.done);
	CU_ASSERT_EQUAL(shutdown.status, 0);
	for (unsigned w = 0; w < WRITES; w++) {
		CU_ASSERT_TRUE(results[w].done);
		CU_ASSERT_EQUAL(results[w].status, 0);
		CU_ASSERT_TRUE(results[w].order <
			       (w + 1 < WRITES ? results[w + 1].order : shutdown.order));
	}
	CU_ASSERT_EQUAL(ends[0]->ops->pending_bytes(ends[0]), 0);

	if (k->is_stored) {
		r.s = reading_end(k, ends);
		reader_start(&r);
	}
	if (!k->is_two_way) { /* a pipe's end comes when it is closed */
		byte_stream_close(ends[0], NULL, NULL);
		ends[0] = NULL;
	}
	loop_until(&r.ended);
	CU_ASSERT_EQUAL(r.status, 0);
	CU_ASSERT_EQUAL(r.fill, TRANSFER_BYTES);
	CU_ASSERT_EQUAL(memcmp(r.data, data, TRANSFER_BYTES), 0);
	close_both(ends);
	free(data);
	free(r.data);
}

static void check_reading_stops_at_once_and_loses_nothing(const struct kind *k)
{
	struct byte_stream *ends[2];
	k->make(ends);
	size_t bytes = 200000;
	uint8_t *data = pattern(bytes);
	struct reader r = {.data = malloc(bytes), .cap = bytes, .space_max = 1000, .stop_at = 5000};
	struct result written = {0}, shutdown = {0};
	write_bytes(ends[0], data, bytes, &written);
	ends[0]->ops->shutdown(ends[0], on_result, &shutdown);
	if (k->is_stored)
		loop_until(&shutdown.done);

	r.s = reading_end(k, ends);
	reader_start(&r);
	loop_until(&r.is_stopped);
	size_t fill = r.fill;
	loop_settle();
	CU_ASSERT_EQUAL(r.fill, fill);

	/* Stopped while bytes are on their way, several times. */
	for (int i = 0; i < 20; i++) {
		reader_start(&r);
		uv_run(&loop, UV_RUN_NOWAIT);
		if (r.fill == bytes)
			break;
		r.s->ops->read_stop(r.s);
		r.is_stopped = true;
		uv_run(&loop, UV_RUN_NOWAIT);
	}
	if (r.is_stopped)
		reader_start(&r);
	bool all = false;
	while (!all && uv_run(&loop, UV_RUN_ONCE))
		all = r.fill == bytes;
	CU_ASSERT_EQUAL(r.fill, bytes);
	CU_ASSERT_EQUAL(memcmp(r.data, data, bytes), 0);
	r.s->ops->read_stop(r.s);
	close_both(ends);
	free(data);
	free(r.data);
}

static void check_a_flush_comes_after_the_writes_before_it(const struct kind *k)
{
	struct byte_stream *ends[2];
	k->make(ends);
	uint8_t *data = pattern(3000);
	struct result written = {0}, flushed = {0};
	write_bytes(ends[0], data, 3000, &written);
	in_call = true;
	CU_ASSERT_EQUAL(ends[0]->ops->flush(ends[0], on_result, &flushed), 0);
	in_call = false;
	loop_until(&flushed.done);
	CU_ASSERT_EQUAL(flushed.status, 0);
	CU_ASSERT_TRUE(written.done && written.order < flushed.order);

	/* With nothing before it, too. */
	struct result again = {0};
	in_call = true;
	CU_ASSERT_EQUAL(ends[0]->ops->flush(ends[0], on_result, &again), 0);
	in_call = false;
	loop_until(&again.done);
	CU_ASSERT_EQUAL(again.status, 0);
	close_both(ends);
	free(data);
}

static void check_close_calls_back_what_is_pending(const struct kind *k)
{
	struct byte_stream *ends[2];
	k->make(ends);
	size_t bytes = (size_t)32 << 20; /* more than a kernel's buffers hold */
	uint8_t *data = pattern(bytes);
	struct result written[2] = {{0}};
	bool closed = false;
	write_bytes(ends[0], data, bytes, &written[0]);
	write_bytes(ends[0], data, bytes, &written[1]);
	if (!k->is_stored) {
		loop_settle();
		CU_ASSERT_FALSE(written[0].done);
		CU_ASSERT_TRUE(ends[0]->ops->pending_bytes(ends[0]) > bytes);
	}
	in_call = true;
	byte_stream_close(ends[0], loop_set_flag, &closed);
	in_call = false;
	ends[0] = NULL;
	loop_until(&closed);
	CU_ASSERT_TRUE(written[0].done && written[1].done);
	CU_ASSERT_TRUE(written[0].order < written[1].order);
	CU_ASSERT_EQUAL(written[1].status, -ECANCELED);
	if (!k->is_stored)
		CU_ASSERT_EQUAL(written[0].status, -ECANCELED);
	close_both(ends);
	free(data);
}

static void check_refused_space_ends_it(const struct kind *k)
{
	struct byte_stream *ends[2];
	k->make(ends);
	uint8_t byte = 1;
	struct result shutdown = {0}, written = {0};
	write_bytes(ends[0], &byte, 1, &written);
	ends[0]->ops->shutdown(ends[0], on_result, &shutdown);
	loop_until(&shutdown.done);
	struct reader r = {.s = reading_end(k, ends), .data = &byte, .cap = 0};
	reader_start(&r);
	loop_until(&r.ended);
	CU_ASSERT_EQUAL(r.status, -ENOBUFS);
	close_both(ends);
}

static void check_writing_fails_when_the_peer_is_gone(const struct kind *k)
{
	if (k->is_stored)
		return;
	struct byte_stream *ends[2];
	k->make(ends);
	size_t bytes = (size_t)32 << 20;
	uint8_t *data = pattern(bytes);
	struct result written = {0};
	write_bytes(ends[0], data, bytes, &written);
	loop_settle();
	CU_ASSERT_FALSE(written.done);
	byte_stream_close(ends[1], NULL, NULL);
	ends[1] = NULL;
	loop_until(&written.done);
	CU_ASSERT_TRUE(written.status == -EPIPE || written.status == -ECONNRESET);
	close_both(ends);
	free(data);
}

static void check_both_directions_work_at_once(const struct kind *k)
{
	if (!k->is_two_way)
		return;
	struct byte_stream *ends[2];
	k->make(ends);
	CU_ASSERT_TRUE(ends[0]->peer.is_two_way && ends[1]->peer.is_two_way);
	size_t bytes = (size_t)1 << 20;
	uint8_t *data = pattern(bytes);
	struct reader r[2];
	struct result written[2] = {{0}}, shutdown[2] = {{0}};
	for (int i = 0; i < 2; i++) {
		r[i] = (struct reader){.s = ends[i],
			.data = malloc(bytes + 1),
			.cap = bytes + 1,
			.space_max = 65536};
		reader_start(&r[i]);
		write_bytes(ends[i], data, bytes, &written[i]);
		ends[i]->ops->shutdown(ends[i], on_result, &shutdown[i]);
	}
	for (int i = 0; i < 2; i++) {
		loop_until(&r[i].ended);
		CU_ASSERT_EQUAL(r[i].status, 0);
		CU_ASSERT_EQUAL(r[i].fill, bytes);
		CU_ASSERT_EQUAL(memcmp(r[i].data, data, bytes), 0);
		loop_until(&shutdown[i].done);
		free(r[i].data);
	}
	close_both(ends);
	free(data);
}

static void run_over_all(void (*expect)(const struct kind *k))
{
	each_kind(k)
	{
		unsigned before = CU_get_number_of_failures();
		expect(k);
		if (CU_get_number_of_failures() != before)
			printf("  with a byte stream of the kind: %s\n", k->name);
	}
}

/* One test an expectation. */
#define OVER_ALL(name)                      \
	static void test_##name(void)       \
	{                                   \
		run_over_all(check_##name); \
	}
OVER_ALL(bytes_arrive_as_they_were_written)
OVER_ALL(reading_stops_at_once_and_loses_nothing)
OVER_ALL(a_flush_comes_after_the_writes_before_it)
OVER_ALL(close_calls_back_what_is_pending)
OVER_ALL(refused_space_ends_it)
OVER_ALL(writing_fails_when_the_peer_is_gone)
OVER_ALL(both_directions_work_at_once)

/* --- who is there --------------------------------------------------------------- */

static void test_a_tcp_peer_is_named_and_known_to_be_local(void)
{
	struct byte_stream *ends[2];
	make_tcp(ends);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_TRUE(ends[i]->peer.is_loopback);
		CU_ASSERT_FALSE(ends[i]->peer.has_uid);
		char expected[64];
		snprintf(expected, sizeof(expected), "tcp://127.0.0.1:%u", ends[i]->peer.port);
		CU_ASSERT_STRING_EQUAL(ends[i]->peer.name, expected);

		uv_os_fd_t fd;
		int on = 0;
		socklen_t bytes = sizeof(on);
		uv_fileno(&((struct stream_uv *)ends[i])->uv.handle, &fd);
		CU_ASSERT_EQUAL(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &bytes), 0);
		CU_ASSERT_TRUE(on);
	}
	close_both(ends);
}

static void test_ipv6_works_like_ipv4(void)
{
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	int r = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&sa, sizeof(sa));
	if (fd >= 0)
		close(fd);
	if (r < 0)
		harness_skip("this machine has no IPv6 loopback");

	struct byte_stream *ends[2];
	struct tide_address any = {.kind = TIDE_ADDRESS_TCP, .host = "::1"};
	make_by_listening(&any, ends);
	CU_ASSERT_TRUE(ends[0]->peer.is_loopback && ends[1]->peer.is_loopback);
	CU_ASSERT_EQUAL(strncmp(ends[1]->peer.name, "tcp://[::1]:", 12), 0);
	close_both(ends);
}

static void test_a_unix_peer_is_known_by_its_user(void)
{
	struct byte_stream *ends[2];
	make_unix(ends);
	for (int i = 0; i < 2; i++) {
		CU_ASSERT_TRUE(ends[i]->peer.has_uid);
		CU_ASSERT_EQUAL(ends[i]->peer.uid, geteuid());
		CU_ASSERT_EQUAL(strncmp(ends[i]->peer.name, "unix:/", 6), 0);
	}
	close_both(ends);
}

/* --- connecting --------------------------------------------------------------- */

static void connect_and_fail(const struct tide_address *at, uint64_t timeout_ns, struct opened *ret)
{
	memset(ret, 0, sizeof(*ret));
	CU_ASSERT_EQUAL_FATAL(
		byte_stream_connect(&loop, at, timeout_ns, on_opened, ret, NULL, NULL), 0);
	loop_until(&ret->done);
	CU_ASSERT_PTR_NULL(ret->s);
}

static void test_a_refused_connection_names_the_address(void)
{
	/* Bound and not listening: nobody else gets this port meanwhile. */
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t bytes = sizeof(sa);
	CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	getsockname(fd, (struct sockaddr *)&sa, &bytes);
	struct tide_address at;
	address_from_sockaddr((struct sockaddr *)&sa, &at);

	struct opened o;
	char expected[64];
	connect_and_fail(&at, TIMEOUT_NS, &o);
	snprintf(expected, sizeof(expected), "connect to tcp://127.0.0.1:%u", at.port);
	CU_ASSERT_STRING_EQUAL(o.err.text, expected);
	CU_ASSERT_EQUAL(o.err.code, -ECONNREFUSED);
	close(fd);

	at = address_of("unix:", "nobody");
	connect_and_fail(&at, TIMEOUT_NS, &o);
	CU_ASSERT_EQUAL(o.err.code, -ENOENT);
	CU_ASSERT_EQUAL(strncmp(o.err.text, "connect to unix:/", 17), 0);
}

/* A listener with a full backlog leaves a connection waiting, as a host that is not there does. */
static struct tide_address make_deaf(int fds[3])
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t bytes = sizeof(sa);
	fds[0] = socket(AF_INET, SOCK_STREAM, 0);
	CU_ASSERT_EQUAL_FATAL(bind(fds[0], (struct sockaddr *)&sa, sizeof(sa)), 0);
	getsockname(fds[0], (struct sockaddr *)&sa, &bytes);
	listen(fds[0], 0);
	for (int i = 1; i < 3; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		CU_ASSERT_TRUE(connect(fds[i], (struct sockaddr *)&sa, sizeof(sa)) == 0 ||
			       errno == EINPROGRESS);
	}
	struct tide_address at;
	address_from_sockaddr((struct sockaddr *)&sa, &at);
	return at;
}

static void test_a_connection_that_is_not_answered_times_out(void)
{
	int fds[3];
	struct tide_address at = make_deaf(fds);
	struct opened o;
	connect_and_fail(&at, 30 * NS_PER_MS, &o);
	CU_ASSERT_EQUAL(o.err.code, -ETIMEDOUT);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
}

static void test_connecting_can_be_given_up(void)
{
	int fds[3];
	struct tide_address at = make_deaf(fds);
	struct byte_stream_attempt *attempt;
	struct opened o = {0};
	CU_ASSERT_EQUAL_FATAL(
		byte_stream_connect(&loop, &at, TIMEOUT_NS, on_opened, &o, &attempt, NULL), 0);
	loop_settle();
	CU_ASSERT_FALSE(o.done);
	byte_stream_connect_cancel(attempt);
	CU_ASSERT_FALSE(o.done);
	loop_until(&o.done);
	CU_ASSERT_EQUAL(o.err.code, -ECANCELED);

	/* Also before anything has happened at all. */
	memset(&o, 0, sizeof(o));
	CU_ASSERT_EQUAL_FATAL(
		byte_stream_connect(&loop, &at, TIMEOUT_NS, on_opened, &o, &attempt, NULL), 0);
	byte_stream_connect_cancel(attempt);
	loop_until(&o.done);
	CU_ASSERT_EQUAL(o.err.code, -ECANCELED);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
}

static void test_what_cannot_be_connected_to_is_refused(void)
{
	struct tide_error err = {0};
	struct tide_address port_0 = {.kind = TIDE_ADDRESS_TCP, .host = "127.0.0.1"};
	struct tide_address file = address_of("", "file");
	CU_ASSERT_EQUAL(
		byte_stream_connect(&loop, &port_0, 1, on_opened, NULL, NULL, &err), -EINVAL);
	CU_ASSERT_STRING_EQUAL(
		err.text, "connect to tcp://127.0.0.1:0, whose port 0 is for listening");
	CU_ASSERT_EQUAL(byte_stream_connect(&loop, &file, 1, on_opened, NULL, NULL, &err), -EINVAL);
}

/* --- listening --------------------------------------------------------------- */

static int try_listen(
	const struct tide_address *at, bool insecure, struct listener **ret, struct tide_error *err)
{
	static struct opened ignored;
	struct listener_options options = {.insecure_listen = insecure};
	return listener_open(&loop, at, &options, on_opened, &ignored, ret, err);
}

static void test_only_this_machine_is_listened_to_unless_asked_for(void)
{
	struct tide_address any = {.kind = TIDE_ADDRESS_TCP, .host = "0.0.0.0"};
	struct tide_error err = {0};
	struct listener *l;
	CU_ASSERT_EQUAL(try_listen(&any, false, &l, &err), -ECANCELED);
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_USAGE);
	CU_ASSERT_STRING_EQUAL(err.text, "listen on tcp://0.0.0.0:0: other machines could connect "
					 "there, which --insecure-listen allows");
	CU_ASSERT_EQUAL_FATAL(try_listen(&any, true, &l, &err), 0);
	CU_ASSERT_NOT_EQUAL(listener_address(l)->port, 0);

	/* One that is taken. */
	struct tide_address taken = *listener_address(l);
	struct listener *other;
	CU_ASSERT_EQUAL(try_listen(&taken, true, &other, &err), -EADDRINUSE);
	listener_close(l, NULL, NULL);

	struct tide_address name = {.kind = TIDE_ADDRESS_TCP, .host = "localhost"};
	CU_ASSERT_EQUAL_FATAL(try_listen(&name, false, &l, &err), 0);
	CU_ASSERT_TRUE(tide_address_is_loopback(listener_address(l)));
	listener_close(l, NULL, NULL);

	struct tide_address file = address_of("", "file");
	CU_ASSERT_EQUAL(try_listen(&file, true, &l, &err), -ECANCELED);
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_USAGE);
}

static void test_a_unix_socket_is_private_and_leaves_nothing(void)
{
	struct tide_address at = address_of("unix:", "socket");
	struct tide_error err = {0};
	struct listener *l, *other;
	mode_t before = umask(0);
	CU_ASSERT_EQUAL_FATAL(try_listen(&at, false, &l, &err), 0);
	umask(before);
	struct stat st;
	CU_ASSERT_EQUAL_FATAL(stat(at.path, &st), 0);
	CU_ASSERT_EQUAL(st.st_mode & 07777, 0600);

	CU_ASSERT_EQUAL(try_listen(&at, false, &other, &err), -EADDRINUSE);
	bool closed = false;
	listener_close(l, loop_set_flag, &closed);
	CU_ASSERT_EQUAL(access(at.path, F_OK), -1);
	char lock[PATH_MAX];
	path_in_folder(lock, "socket.lock");
	CU_ASSERT_EQUAL(access(lock, F_OK), -1);
	loop_until(&closed);
}

static void test_a_dead_socket_is_replaced_a_live_one_and_a_file_are_not(void)
{
	struct tide_address at = address_of("unix:", "socket");
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%.100s", at.path);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CU_ASSERT_EQUAL_FATAL(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	listen(fd, 1);

	/* Somebody else's, without our lock. */
	struct listener *l;
	struct tide_error err = {0};
	CU_ASSERT_EQUAL(try_listen(&at, false, &l, &err), -EADDRINUSE);
	CU_ASSERT_EQUAL(access(at.path, F_OK), 0);
	close(fd);
	CU_ASSERT_EQUAL_FATAL(try_listen(&at, false, &l, &err), 0);
	listener_close(l, NULL, NULL);

	close(open(at.path, O_CREAT | O_WRONLY, 0600));
	CU_ASSERT_EQUAL(try_listen(&at, false, &l, &err), -EEXIST);
	CU_ASSERT_EQUAL(access(at.path, F_OK), 0);
}

static void test_another_socket_under_our_name_is_not_removed(void)
{
	struct tide_address at = address_of("unix:", "socket");
	struct listener *l;
	CU_ASSERT_EQUAL_FATAL(try_listen(&at, false, &l, NULL), 0);
	unlink(at.path);
	close(open(at.path, O_CREAT | O_WRONLY, 0600));
	listener_close(l, NULL, NULL);
	CU_ASSERT_EQUAL(access(at.path, F_OK), 0);
}

/* --- files and standard streams -------------------------------------------------------------- */

static unsigned entries_in_folder(void)
{
	unsigned n = 0;
	DIR *d = opendir(folder);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void test_a_file_appears_when_it_is_whole_and_never_over_another(void)
{
	static const uint8_t data[] = "tide";
	for (int named = 0; named < 2; named++) {
		char path[PATH_MAX];
		path_in_folder(path, "file");
		struct byte_stream *first, *second, *third;
		CU_ASSERT_EQUAL_FATAL(stream_file_create(&loop, path, named, &first), 0);
		CU_ASSERT_EQUAL_FATAL(stream_file_create(&loop, path, named, &second), 0);
		struct result written = {0}, flushed = {0}, shutdown = {0}, late = {0};
		write_bytes(first, data, 4, &written);
		first->ops->flush(first, on_result, &flushed);
		loop_until(&flushed.done);
		CU_ASSERT_EQUAL(access(path, F_OK), -1);
		first->ops->shutdown(first, on_result, &shutdown);
		loop_until(&shutdown.done);
		CU_ASSERT_EQUAL(shutdown.status, 0);

		struct stat st;
		CU_ASSERT_EQUAL_FATAL(stat(path, &st), 0);
		CU_ASSERT_EQUAL(st.st_mode & 07777, 0600);
		CU_ASSERT_EQUAL(st.st_size, 4);

		/* Two at once: the later one has lost, and so has one that comes afterwards. */
		second->ops->shutdown(second, on_result, &late);
		loop_until(&late.done);
		CU_ASSERT_EQUAL(late.status, -EEXIST);
		CU_ASSERT_EQUAL(stream_file_create(&loop, path, named, &third), -EEXIST);
		stat(path, &st);
		CU_ASSERT_EQUAL(st.st_size, 4);

		bool closed[2] = {false, false};
		byte_stream_close(first, loop_set_flag, &closed[0]);
		byte_stream_close(second, loop_set_flag, &closed[1]);
		loop_until(&closed[0]);
		loop_until(&closed[1]);
		CU_ASSERT_EQUAL(entries_in_folder(), 1);
		unlink(path);
	}
}

static void test_a_file_that_was_not_finished_leaves_nothing(void)
{
	static const uint8_t data[] = "tide";
	for (int named = 0; named < 2; named++) {
		char path[PATH_MAX];
		path_in_folder(path, "file");
		struct byte_stream *s;
		CU_ASSERT_EQUAL_FATAL(stream_file_create(&loop, path, named, &s), 0);
		struct result written = {0};
		write_bytes(s, data, 4, &written);
		loop_until(&written.done);
		CU_ASSERT_EQUAL(entries_in_folder(), named ? 1u : 0u);
		bool closed = false;
		byte_stream_close(s, loop_set_flag, &closed);
		loop_until(&closed);
		CU_ASSERT_EQUAL(entries_in_folder(), 0);
	}
}

static void test_a_full_disk_fails_the_write(void)
{
	struct tide_address full = {.kind = TIDE_ADDRESS_FILE, .path = "/dev/full"};
	struct byte_stream *s;
	CU_ASSERT_EQUAL_FATAL(byte_stream_open(&loop, &full, BYTE_STREAM_WRITE, &s, NULL), 0);
	static const uint8_t data[] = "tide";
	struct result written = {0};
	write_bytes(s, data, 4, &written);
	loop_until(&written.done);
	CU_ASSERT_EQUAL(written.status, -ENOSPC);
	byte_stream_close(s, NULL, NULL);
}

static void test_what_cannot_be_opened_is_named(void)
{
	struct tide_address missing = address_of("", "missing");
	struct tide_error err = {0};
	struct byte_stream *s;
	CU_ASSERT_EQUAL(byte_stream_open(&loop, &missing, BYTE_STREAM_READ, &s, &err), -ENOENT);
	CU_ASSERT_EQUAL(strncmp(err.text, "open /tmp/", 10), 0);

	struct tide_address dir = {.kind = TIDE_ADDRESS_FILE};
	snprintf(dir.path, sizeof(dir.path), "%s", folder);
	CU_ASSERT_EQUAL(byte_stream_open(&loop, &dir, BYTE_STREAM_READ, &s, &err), -EISDIR);
	CU_ASSERT_EQUAL(byte_stream_open(&loop, &dir, BYTE_STREAM_WRITE, &s, &err), -EISDIR);

	struct tide_address no_dir = address_of("", "missing/file");
	CU_ASSERT_EQUAL(byte_stream_open(&loop, &no_dir, BYTE_STREAM_WRITE, &s, &err), -ENOENT);

	struct tide_address fifo = address_of("", "fifo");
	mkfifo(fifo.path, 0600);
	CU_ASSERT_EQUAL(byte_stream_open(&loop, &fifo, BYTE_STREAM_WRITE, &s, &err), -ECANCELED);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "nobody reads it"));
}

/* `fd` stands in for standard input or output while the stream is opened. */
static struct byte_stream *open_standard_as(int fd, enum byte_stream_mode mode)
{
	int standard = mode == BYTE_STREAM_READ ? STDIN_FILENO : STDOUT_FILENO;
	fflush(stdout);
	int saved = dup(standard);
	dup2(fd, standard);
	struct tide_address at = {.kind = TIDE_ADDRESS_STANDARD};
	struct byte_stream *s = NULL;
	int r = byte_stream_open(&loop, &at, mode, &s, NULL);
	dup2(saved, standard);
	close(saved);
	CU_ASSERT_EQUAL_FATAL(r, 0);
	return s;
}

static void test_standard_pipes_work_and_stay_blocking_for_others(void)
{
	int fds[2];
	CU_ASSERT_EQUAL_FATAL(pipe2(fds, O_CLOEXEC), 0);
	struct byte_stream *ends[2] = {open_standard_as(fds[1], BYTE_STREAM_WRITE),
		open_standard_as(fds[0], BYTE_STREAM_READ)};
	CU_ASSERT_STRING_EQUAL(ends[0]->peer.name, "standard output");
	CU_ASSERT_STRING_EQUAL(ends[1]->peer.name, "standard input");
	CU_ASSERT_FALSE(fcntl(fds[0], F_GETFL) & O_NONBLOCK);
	CU_ASSERT_FALSE(fcntl(fds[1], F_GETFL) & O_NONBLOCK);
	close(fds[1]);

	uint8_t data[4] = "tide", got[8];
	struct reader r = {.s = ends[1], .data = got, .cap = 8, .space_max = 8};
	struct result written = {0};
	reader_start(&r);
	write_bytes(ends[0], data, 4, &written);
	loop_until(&written.done);
	byte_stream_close(ends[0], NULL, NULL);
	ends[0] = NULL;
	loop_until(&r.ended);
	CU_ASSERT_EQUAL(r.fill, 4);
	close(fds[0]);
	close_both(ends);
}

static void test_a_standard_socket_gets_its_flags_back(void)
{
	int fds[2];
	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	struct byte_stream *s = open_standard_as(fds[0], BYTE_STREAM_WRITE);
	CU_ASSERT_TRUE(fcntl(fds[0], F_GETFL) & O_NONBLOCK);
	bool closed = false;
	byte_stream_close(s, loop_set_flag, &closed);
	loop_until(&closed);
	CU_ASSERT_FALSE(fcntl(fds[0], F_GETFL) & O_NONBLOCK);
	close(fds[0]);
	close(fds[1]);
}

static void test_a_standard_file_is_written_where_it_stands(void)
{
	char path[PATH_MAX], got[16] = "";
	path_in_folder(path, "file");
	int fd = open(path, O_CREAT | O_RDWR, 0600);
	CU_ASSERT_EQUAL(write(fd, "high ", 5), 5);
	struct byte_stream *s = open_standard_as(fd, BYTE_STREAM_WRITE);
	uint8_t data[4] = "tide";
	struct result shutdown = {0}, written = {0};
	write_bytes(s, data, 4, &written);
	s->ops->shutdown(s, on_result, &shutdown);
	loop_until(&shutdown.done);
	CU_ASSERT_EQUAL(shutdown.status, 0);
	CU_ASSERT_EQUAL(write(fd, "!", 1), 1);
	CU_ASSERT_EQUAL(pread(fd, got, 16, 0), 10);
	CU_ASSERT_STRING_EQUAL(got, "high tide!");
	byte_stream_close(s, NULL, NULL);
	close(fd);
}

static const struct test tests[] = {
	TEST(test_bytes_arrive_as_they_were_written),
	TEST(test_reading_stops_at_once_and_loses_nothing),
	TEST(test_a_flush_comes_after_the_writes_before_it),
	TEST(test_close_calls_back_what_is_pending),
	TEST(test_refused_space_ends_it),
	TEST(test_writing_fails_when_the_peer_is_gone),
	TEST(test_both_directions_work_at_once),
	TEST(test_a_tcp_peer_is_named_and_known_to_be_local),
	TEST(test_ipv6_works_like_ipv4),
	TEST(test_a_unix_peer_is_known_by_its_user),
	TEST(test_a_refused_connection_names_the_address),
	TEST(test_a_connection_that_is_not_answered_times_out),
	TEST(test_connecting_can_be_given_up),
	TEST(test_what_cannot_be_connected_to_is_refused),
	TEST(test_only_this_machine_is_listened_to_unless_asked_for),
	TEST(test_a_unix_socket_is_private_and_leaves_nothing),
	TEST(test_a_dead_socket_is_replaced_a_live_one_and_a_file_are_not),
	TEST(test_another_socket_under_our_name_is_not_removed),
	TEST(test_a_file_appears_when_it_is_whole_and_never_over_another),
	TEST(test_a_file_that_was_not_finished_leaves_nothing),
	TEST(test_a_full_disk_fails_the_write),
	TEST(test_what_cannot_be_opened_is_named),
	TEST(test_standard_pipes_work_and_stay_blocking_for_others),
	TEST(test_a_standard_socket_gets_its_flags_back),
	TEST(test_a_standard_file_is_written_where_it_stands),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "byte_stream", tests, loop_setup, loop_teardown);
}
