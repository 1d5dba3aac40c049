/* SPDX-License-Identifier: MIT */
/*
 * The roads through a connection: memory of a process is read, carried to another process by
 * loopback TCP, and written to a file there. A lane is a reader, a connection and a writer.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "bench/limits/limits.h"

enum { LANES_MAX = 2 };

struct lane {
	const struct memory *memory;
	atomic_size_t *next; /* step that nobody has taken yet; lanes share it */
	int socket;
	pid_t receiver;
	char path[4096]; /* empty: nothing is kept */
	uint64_t bytes;
	pthread_t thread;
};

static void connect_pair(int pair[2])
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || pair[0] < 0 ||
		bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
		listen(listener, 1) < 0 ||
		getsockname(listener, (struct sockaddr *)&address, &len) < 0 ||
		connect(pair[0], (struct sockaddr *)&address, sizeof(address)) < 0)
		limits_die("connect to loopback");
	pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (pair[1] < 0)
		limits_die("accept on loopback");
	close(listener);
}

static void receive_all(int from, const char *path)
{
	static uint8_t buffer[STEP_BYTES];
	int file = path[0] ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
	off_t at = 0;
	ssize_t n;
	if (path[0] && file < 0)
		limits_die(path);
	while ((n = read(from, buffer, sizeof(buffer))) > 0) {
		if (file >= 0 && pwrite(file, buffer, (size_t)n, at) != n)
			limits_die(path);
		at += n;
	}
	_exit(n < 0);
}

static void send_whole(int to, const uint8_t *buffer, size_t bytes)
{
	while (bytes > 0) {
		ssize_t n = send(to, buffer, bytes, MSG_NOSIGNAL);
		if (n < 0)
			limits_die("send by loopback");
		buffer += n;
		bytes -= (size_t)n;
	}
}

static void lane_start(struct lane *lane)
{
	int pair[2];
	connect_pair(pair);
	lane->receiver = fork();
	if (lane->receiver < 0)
		limits_die("fork");
	if (lane->receiver == 0) {
		close(pair[0]);
		receive_all(pair[1], lane->path);
	}
	close(pair[1]);
	lane->socket = pair[0];
}

/* The reader. Without a file there is no need to read anything either: that is the road of TCP. */
static void *lane_run(void *arg)
{
	struct lane *lane = arg;
	uint8_t *buffer = malloc(STEP_BYTES);
	if (!buffer)
		limits_die("get memory");
	memset(buffer, 7, STEP_BYTES);
	for (;;) {
		size_t step = atomic_fetch_add(lane->next, 1);
		if (step >= lane->memory->nsteps)
			break;
		size_t bytes = lane->path[0] ? memory_read(lane->memory, step, buffer)
					     : lane->memory->steps[step].bytes;
		send_whole(lane->socket, buffer, bytes);
		lane->bytes += bytes;
	}
	free(buffer);
	close(lane->socket);
	return NULL;
}

/* Until the last byte is written. */
static void lane_finish(struct lane *lane)
{
	int status;
	pthread_join(lane->thread, NULL);
	if (waitpid(lane->receiver, &status, 0) < 0 || status != 0)
		limits_die("receive by loopback");
}

static int run_lanes(const struct memory *m, unsigned lanes, int kept, struct took *took)
{
	static struct lane lane[LANES_MAX];
	atomic_size_t next = 0;
	took->bytes = 0;
	for (unsigned i = 0; i < lanes; i++) {
		lane[i] = (struct lane){.memory = m, .next = &next};
		if (kept)
			snprintf(lane[i].path, sizeof(lane[i].path), "%s/limits-%d-%u", m->store,
				getpid(), i);
		lane_start(&lane[i]);
	}
	took_begin(took);
	for (unsigned i = 0; i < lanes; i++) {
		if (pthread_create(&lane[i].thread, NULL, lane_run, &lane[i]) != 0)
			limits_die("start a thread");
	}
	for (unsigned i = 0; i < lanes; i++)
		lane_finish(&lane[i]);
	took_end(took);
	/* Outside of the time: a store keeps what it has. */
	for (unsigned i = 0; i < lanes; i++) {
		took->bytes += lane[i].bytes;
		if (kept)
			unlink(lane[i].path);
	}
	return 0;
}

int road_tcp(const struct memory *m, struct took *took)
{
	return run_lanes(m, 1, 0, took);
}

int road_pipe(const struct memory *m, struct took *took)
{
	return run_lanes(m, 1, 1, took);
}

int road_pipe_two(const struct memory *m, struct took *took)
{
	return run_lanes(m, 2, 1, took);
}
