/* SPDX-License-Identifier: MIT */
/*
 * An open load on a Redis server: requests are sent when they are due, whether or not the ones
 * before were answered, and an answer's latency counts from when its request was due.
 * (redis-benchmark waits for answers, so a server that stands still is asked nothing.)
 *
 *     bench_redis_load SOCKET [--keys N] [--value BYTES] [--connections N] [--rate PER_SECOND]
 *                      [--deadline MS]
 *
 * First sets every key, prints "ready", then sends half GET, half SET of keys at random, spread
 * over the connections. Commands: see phases.h, and `rate PER_SECOND`.
 */
#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "bench/workloads/content.h"
#include "bench/workloads/phases.h"

enum {
	CONNECTIONS_MAX = 64,
	VALUE_MAX = 64 << 10,
	INPUT_BYTES = 64 << 10,
	FILL_AHEAD = 64, /* requests a connection that are under way while keys are set */
	SEND_AT_ONCE = 64,
};

struct request {
	uint64_t due_ns;
	size_t phase;
};

/* Answers come in the order of the requests: a ring that grows. */
struct connection {
	int fd;
	struct request *requests;
	size_t cap;
	uint64_t sent, answered;
	uint8_t *out; /* what the socket did not take yet */
	size_t out_bytes, out_cap;
	char line[64]; /* of an answer, so far */
	size_t line_bytes;
	size_t skip; /* bytes of a value that are still to come, its end of line included */
};

struct load {
	struct connection connections[CONNECTIONS_MAX];
	struct pollfd polled[CONNECTIONS_MAX + 1]; /* standard input is the last */
	unsigned nconnections, next;
	uint64_t keys, state;
	size_t value_bytes;
	double rate;
	uint64_t paced_since_ns, paced;
	struct phases phases;
	bool ended;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void *grow(void *old, size_t bytes)
{
	void *p = realloc(old, bytes);
	if (!p)
		die("redis_load: get memory");
	return p;
}

/* --- a connection
 * -------------------------------------------------------------------------------- */

static void connection_open(struct connection *c, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		die(path);
	c->cap = FILL_AHEAD;
	c->requests = grow(NULL, c->cap * sizeof(*c->requests));
}

static void requests_grow(struct connection *c)
{
	assert(c->cap > 0);
	size_t cap = c->cap * 2;
	struct request *bigger = grow(NULL, cap * sizeof(*bigger));
	for (uint64_t i = c->answered; i < c->sent; i++)
		bigger[i % cap] = c->requests[i % c->cap];
	free(c->requests);
	c->requests = bigger;
	c->cap = cap;
}

static void connection_flush(struct connection *c)
{
	size_t done = 0;
	while (done < c->out_bytes) {
		ssize_t n = send(
			c->fd, c->out + done, c->out_bytes - done, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0 && errno != EINTR)
			die("redis_load: send");
		done += n > 0 ? (size_t)n : 0;
	}
	c->out_bytes -= done;
	memmove(c->out, c->out + done, c->out_bytes);
}

static void connection_put(struct connection *c, const void *bytes, size_t len)
{
	if (c->out_bytes + len > c->out_cap) {
		c->out_cap = (c->out_bytes + len) * 2;
		c->out = grow(c->out, c->out_cap);
	}
	memcpy(c->out + c->out_bytes, bytes, len);
	c->out_bytes += len;
}

static void connection_ask(struct connection *c, struct request request)
{
	if (c->sent - c->answered == c->cap)
		requests_grow(c);
	c->requests[c->sent++ % c->cap] = request;
}

/* --- requests
 * ------------------------------------------------------------------------------------ */

static uint64_t random_next(struct load *l)
{
	return content_mix(l->state += 0x9e3779b97f4a7c15ull);
}

static void put_get(struct connection *c, uint64_t key)
{
	char text[64];
	int len = snprintf(
		text, sizeof(text), "*2\r\n$3\r\nGET\r\n$12\r\nkey:%08u\r\n", (unsigned)key);
	connection_put(c, text, (size_t)len);
}

/* Half of a value repeats, as values do. */
static void put_set(struct load *l, struct connection *c, uint64_t key)
{
	static char value[VALUE_MAX + 2];
	char text[96];
	int len = snprintf(text, sizeof(text), "*3\r\n$3\r\nSET\r\n$12\r\nkey:%08u\r\n$%zu\r\n",
		(unsigned)key, l->value_bytes);
	memset(value, '=', l->value_bytes);
	for (size_t i = 0; i + 8 <= l->value_bytes / 2; i += 8) {
		uint64_t word = random_next(l);
		memcpy(value + i, &word, 8);
	}
	value[l->value_bytes] = '\r';
	value[l->value_bytes + 1] = '\n';
	connection_put(c, text, (size_t)len);
	connection_put(c, value, l->value_bytes + 2);
}

static uint64_t due_ns(const struct load *l)
{
	return l->paced_since_ns + (uint64_t)((double)l->paced / l->rate * 1e9);
}

static void pace(struct load *l, double rate)
{
	l->rate = rate;
	l->paced_since_ns = phases_now_ns();
	l->paced = 0;
}

static void send_due(struct load *l)
{
	uint64_t due, now = phases_now_ns();
	for (unsigned i = 0; l->rate > 0 && i < SEND_AT_ONCE && (due = due_ns(l)) <= now; i++) {
		struct connection *c = &l->connections[l->next++ % l->nconnections];
		uint64_t r = random_next(l), key = (r >> 8) % l->keys;
		connection_ask(c, (struct request){due, phases_due(&l->phases)});
		if (r & 1)
			put_get(c, key);
		else
			put_set(l, c, key);
		connection_flush(c);
		l->paced++;
	}
}

/* --- answers
 * ------------------------------------------------------------------------------------- */

static void answer_done(struct load *l, struct connection *c, uint64_t now)
{
	struct request *r = &c->requests[c->answered++ % c->cap];
	if (r->due_ns)
		phases_done(&l->phases, r->phase, now > r->due_ns ? now - r->due_ns : 0);
}

/* "+OK", "$LENGTH" with a value behind it, "$-1". */
static void line_done(struct load *l, struct connection *c, uint64_t now)
{
	c->line[c->line_bytes] = '\0';
	c->line_bytes = 0;
	long length = c->line[0] == '$' ? strtol(c->line + 1, NULL, 10) : -1;
	if (c->line[0] != '+' && c->line[0] != '$') {
		fprintf(stderr, "redis_load: the server says %s\n", c->line);
		exit(1);
	}
	if (length >= 0)
		c->skip = (size_t)length + 2;
	else
		answer_done(l, c, now);
}

static void take_bytes(struct load *l, struct connection *c, const char *at, size_t left)
{
	uint64_t now = phases_now_ns();
	while (left > 0) {
		if (c->skip > 0) {
			size_t n = left < c->skip ? left : c->skip;
			c->skip -= n;
			at += n;
			left -= n;
			if (c->skip == 0)
				answer_done(l, c, now);
			continue;
		}
		if (*at == '\n')
			line_done(l, c, now);
		else if (*at != '\r' && c->line_bytes < sizeof(c->line) - 1)
			c->line[c->line_bytes++] = *at;
		at++;
		left--;
	}
}

static void connection_read(struct load *l, struct connection *c)
{
	static char bytes[INPUT_BYTES];
	ssize_t n = recv(c->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	if (n > 0)
		take_bytes(l, c, bytes, (size_t)n);
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		die("redis_load: the server hung up");
}

/* --- the course of it
 * ---------------------------------------------------------------------------- */

static void wait_and_serve(struct load *l, uint64_t until_ns)
{
	uint64_t now = phases_now_ns(), wait = until_ns > now ? until_ns - now : 0;
	struct timespec timeout = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
	for (unsigned i = 0; i < l->nconnections; i++) {
		l->polled[i].events = (short)(POLLIN | (l->connections[i].out_bytes ? POLLOUT : 0));
	}
	if (ppoll(l->polled, l->nconnections + 1, &timeout, NULL) <= 0)
		return;
	for (unsigned i = 0; i < l->nconnections; i++) {
		if (l->polled[i].revents & POLLOUT)
			connection_flush(&l->connections[i]);
		if (l->polled[i].revents & (POLLIN | POLLHUP | POLLERR))
			connection_read(l, &l->connections[i]);
	}
}

static void set_every_key(struct load *l)
{
	uint64_t set = 0, answered = 0;
	while (answered < l->keys) {
		answered = 0;
		for (unsigned i = 0; i < l->nconnections; i++) {
			struct connection *c = &l->connections[i];
			while (set < l->keys && c->sent - c->answered < FILL_AHEAD) {
				connection_ask(c, (struct request){0});
				put_set(l, c, set++);
			}
			connection_flush(c);
			answered += c->answered;
		}
		wait_and_serve(l, phases_now_ns() + 100000000);
	}
}

static void obey(struct load *l, const char *command)
{
	if (phases_obey(&l->phases, command, &l->ended))
		return;
	if (strncmp(command, "rate ", 5) == 0)
		pace(l, strtod(command + 5, NULL));
	else
		fprintf(stderr, "redis_load: what is '%s'?\n", command);
}

static bool parse(struct load *l, int argc, char **argv)
{
	static const struct option options[] = {{"keys", required_argument, NULL, 'k'},
		{"value", required_argument, NULL, 'v'},
		{"connections", required_argument, NULL, 'c'},
		{"rate", required_argument, NULL, 'r'}, {"deadline", required_argument, NULL, 'd'},
		{0}};
	int option;
	*l = (struct load){.nconnections = 16, .keys = 100000, .value_bytes = 1024};
	l->phases.deadline_ns = 10 * UINT64_C(1000000);
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'k':
			l->keys = strtoull(optarg, NULL, 10);
			break;
		case 'v':
			l->value_bytes = strtoull(optarg, NULL, 10);
			break;
		case 'c':
			l->nconnections = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'r':
			l->rate = strtod(optarg, NULL);
			break;
		case 'd':
			l->phases.deadline_ns = (uint64_t)(strtod(optarg, NULL) * 1e6);
			break;
		default:
			return false;
		}
	}
	return optind == argc - 1 && l->keys > 0 && l->keys < 100000000 &&
	       l->value_bytes <= VALUE_MAX && l->nconnections > 0 &&
	       l->nconnections <= CONNECTIONS_MAX;
}

int main(int argc, char **argv)
{
	static struct load l;
	if (!parse(&l, argc, argv)) {
		fprintf(stderr, "usage: bench_redis_load SOCKET [--keys N] [--value BYTES] "
				"[--connections N]\n"
				"                        [--rate PER_SECOND] [--deadline MS]\n");
		return 2;
	}
	for (unsigned i = 0; i < l.nconnections; i++) {
		connection_open(&l.connections[i], argv[optind]);
		l.polled[i].fd = l.connections[i].fd;
	}
	l.polled[l.nconnections] = (struct pollfd){.fd = -1};
	prctl(PR_SET_TIMERSLACK, 1);
	set_every_key(&l);
	l.polled[l.nconnections] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
	phases_begin(&l.phases, "start");
	printf("ready\n");
	fflush(stdout);

	pace(&l, l.rate);
	while (!l.ended) {
		send_due(&l);
		wait_and_serve(&l, l.rate > 0 ? due_ns(&l) : phases_now_ns() + 100000000);
		const char *command = phases_command(0);
		if (command)
			obey(&l, command);
	}
	return 0;
}
