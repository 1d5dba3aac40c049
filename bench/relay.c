/* SPDX-License-Identifier: MIT */
/*
 * bench_relay DELAY_MS TO_HOST:PORT
 *
 * Takes connections on a port of its own choice ("listening on PORT"), on all addresses, carries
 * them on, and lets every byte arrive DELAY_MS later, in either direction. It does not limit the
 * rate. What is under way is bounded (WINDOW_BYTES a direction), as by the window of a connection;
 * where that is full, the sender waits. A thread carries one direction of one connection.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { WINDOW_BYTES = 16 << 20, CHUNKS = 4096, CHUNK_MAX = 64 << 10 };

static uint64_t delay_ns;
static struct sockaddr_in destination;

/* Bytes that were read together, to be written from `due_ns` on. */
struct chunk {
	uint64_t due_ns;
	size_t bytes;
};

/* Bytes under way in one direction: rings of what they are, and of when they arrive. Indices only
 * grow. */
struct way {
	int from, to;
	bool ended; /* nothing more will come */
	uint64_t first_chunk, last_chunk;
	uint64_t head, tail; /* bytes read and written since the start */
	struct chunk chunks[CHUNKS];
	uint8_t bytes[WINDOW_BYTES];
};

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool is_empty(const struct way *w)
{
	return w->first_chunk == w->last_chunk;
}

static bool has_room(const struct way *w)
{
	return w->last_chunk - w->first_chunk < CHUNKS && w->head - w->tail < WINDOW_BYTES;
}

/* How many of `most` bytes lie in the ring from `at` on without a break. */
static size_t unbroken(uint64_t at, uint64_t most)
{
	uint64_t to_end = WINDOW_BYTES - at % WINDOW_BYTES;
	return (size_t)(most < to_end ? most : to_end);
}

static void way_read(struct way *w)
{
	size_t room = unbroken(w->head, WINDOW_BYTES - (w->head - w->tail));
	ssize_t n = recv(w->from, w->bytes + w->head % WINDOW_BYTES,
		room < CHUNK_MAX ? room : CHUNK_MAX, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		w->ended = true;
		return;
	}
	w->chunks[w->last_chunk++ % CHUNKS] = (struct chunk){now_ns() + delay_ns, (size_t)n};
	w->head += (uint64_t)n;
}

/* Returns false when nobody takes the bytes any more. */
static bool way_write(struct way *w)
{
	struct chunk *chunk = &w->chunks[w->first_chunk % CHUNKS];
	ssize_t n = send(w->to, w->bytes + w->tail % WINDOW_BYTES, unbroken(w->tail, chunk->bytes),
		MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	w->tail += (uint64_t)n;
	chunk->bytes -= (size_t)n;
	w->first_chunk += chunk->bytes == 0;
	return true;
}

/* Waits until something can be done. */
static void way_wait(struct way *w, struct pollfd polled[2])
{
	uint64_t now = now_ns(), due = is_empty(w) ? 0 : w->chunks[w->first_chunk % CHUNKS].due_ns;
	bool arrived = due != 0 && due <= now;
	uint64_t wait = due > now ? due - now : 0;
	struct timespec timeout = {(time_t)(wait / 1000000000u), (long)(wait % 1000000000u)};
	polled[0] =
		(struct pollfd){.fd = !w->ended && has_room(w) ? w->from : -1, .events = POLLIN};
	polled[1] = (struct pollfd){.fd = arrived ? w->to : -1, .events = POLLOUT};
	ppoll(polled, 2, wait > 0 ? &timeout : NULL, NULL);
}

static void *way_run(void *arg)
{
	struct way *w = arg;
	bool taken = true;
	prctl(PR_SET_TIMERSLACK, 1);
	while (taken && !(w->ended && is_empty(w))) {
		struct pollfd polled[2];
		way_wait(w, polled);
		if (polled[0].revents)
			way_read(w);
		if (polled[1].revents)
			taken = way_write(w);
	}
	/* The other direction goes on unless this one broke; then both ends are to know. */
	shutdown(w->to, SHUT_WR);
	shutdown(w->from, taken ? SHUT_RD : SHUT_RDWR);
	close(w->from);
	close(w->to);
	free(w);
	return NULL;
}

/* Takes both over, as duplicates of which each direction closes its own. */
static void way_start(int from, int to)
{
	pthread_t thread;
	struct way *w = calloc(1, sizeof(*w));
	if (!w) {
		perror("relay: get memory");
		exit(1);
	}
	w->from = fcntl(from, F_DUPFD_CLOEXEC, 0);
	w->to = fcntl(to, F_DUPFD_CLOEXEC, 0);
	if (w->from < 0 || w->to < 0 || pthread_create(&thread, NULL, way_run, w) != 0) {
		perror("relay: start a direction");
		exit(1);
	}
	pthread_detach(thread);
}

static void relay_connection(int taken)
{
	int one = 1, onward = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (onward >= 0 &&
		connect(onward, (struct sockaddr *)&destination, sizeof(destination)) == 0) {
		setsockopt(taken, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		setsockopt(onward, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		way_start(taken, onward);
		way_start(onward, taken);
	} else {
		perror("relay: connect");
	}
	if (onward >= 0)
		close(onward);
	close(taken);
}

static bool parse(int argc, char **argv)
{
	char *colon = argc == 3 ? strrchr(argv[2], ':') : NULL;
	if (!colon)
		return false;
	*colon = '\0';
	delay_ns = (uint64_t)(strtod(argv[1], NULL) * 1e6);
	destination.sin_family = AF_INET;
	destination.sin_port = htons((uint16_t)atoi(colon + 1));
	return inet_pton(AF_INET, argv[2], &destination.sin_addr) == 1;
}

int main(int argc, char **argv)
{
	if (!parse(argc, argv)) {
		fprintf(stderr, "usage: bench_relay DELAY_MS TO_HOST:PORT\n");
		return 2;
	}
	struct sockaddr_in own = {.sin_family = AF_INET};
	socklen_t len = sizeof(own);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&own, sizeof(own)) < 0 ||
		listen(listener, 16) < 0 ||
		getsockname(listener, (struct sockaddr *)&own, &len) < 0) {
		perror("relay: listen");
		return 1;
	}
	printf("listening on %d\n", ntohs(own.sin_port));
	fflush(stdout);
	for (;;) {
		int taken = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (taken >= 0)
			relay_connection(taken);
	}
}
