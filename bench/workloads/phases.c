/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "bench/workloads/phases.h"

#define NS_PER_S UINT64_C(1000000000)

uint64_t phases_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* Linear below HISTOGRAM_STEPS, then HISTOGRAM_STEPS to a doubling. */
static size_t bucket_of(uint64_t ns)
{
	if (ns < HISTOGRAM_STEPS)
		return ns;
	unsigned top = 63 - (unsigned)__builtin_clzll(ns);
	unsigned shift = top - 5;
	return (size_t)(shift + 1) * HISTOGRAM_STEPS + (ns >> shift) - HISTOGRAM_STEPS;
}

/* The middle of what falls into a bucket. */
static uint64_t bucket_ns(size_t bucket)
{
	if (bucket < HISTOGRAM_STEPS)
		return bucket;
	unsigned shift = (unsigned)(bucket / HISTOGRAM_STEPS) - 1;
	uint64_t low = (bucket % HISTOGRAM_STEPS + HISTOGRAM_STEPS) << shift;
	return low + (UINT64_C(1) << shift) / 2;
}

static size_t phase_named(const struct phases *p, const char *name)
{
	size_t i = 0;
	while (i < p->len && strcmp(p->phases[i].name, name) != 0)
		i++;
	return i < PHASES_MAX ? i : PHASES_MAX - 1;
}

void phases_begin(struct phases *p, const char *name)
{
	uint64_t now = phases_now_ns();
	p->phases[p->current].ended_ns = now;
	p->current = phase_named(p, name);
	if (p->current == p->len)
		p->len++;
	struct phase *current = &p->phases[p->current];
	*current = (struct phase){.began_ns = now};
	snprintf(current->name, sizeof(current->name), "%s", name);
}

size_t phases_due(struct phases *p)
{
	p->phases[p->current].due++;
	return p->current;
}

void phases_done(struct phases *p, size_t phase, uint64_t latency_ns)
{
	struct phase *of = &p->phases[phase];
	of->done++;
	of->in_time += latency_ns <= p->deadline_ns;
	if (latency_ns > of->max_ns)
		of->max_ns = latency_ns;
	of->buckets[bucket_of(latency_ns)]++;
}

void phases_missed(struct phases *p, uint64_t count)
{
	p->phases[p->current].due += count;
	p->phases[p->current].missed += count;
}

uint64_t phase_quantile_ns(const struct phase *p, double quantile)
{
	uint64_t below = (uint64_t)((double)p->done * quantile), seen = 0;
	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += p->buckets[i];
		if (p->buckets[i] && seen >= below)
			return bucket_ns(i) < p->max_ns ? bucket_ns(i) : p->max_ns;
	}
	return p->max_ns;
}

static void phase_print(const struct phase *p, uint64_t now)
{
	double seconds =
		(double)((p->ended_ns ? p->ended_ns : now) - p->began_ns) / (double)NS_PER_S;
	printf("{\"name\": \"%s\", \"seconds\": %.6f, \"due\": %" PRIu64 ", \"done\": %" PRIu64
	       ", \"in_time\": %" PRIu64 ", \"missed\": %" PRIu64
	       ", \"per_second\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}",
		p->name, seconds, p->due, p->done, p->in_time, p->missed,
		seconds > 0 ? (double)p->done / seconds : 0,
		(double)phase_quantile_ns(p, 0.5) / 1e3, (double)phase_quantile_ns(p, 0.99) / 1e3,
		(double)p->max_ns / 1e3);
}

void phases_print(const struct phases *p)
{
	uint64_t now = phases_now_ns();
	printf("{\"deadline_us\": %.1f, \"phases\": [", (double)p->deadline_ns / 1e3);
	for (size_t i = 0; i < p->len; i++) {
		printf("%s", i > 0 ? ", " : "");
		phase_print(&p->phases[i], now);
	}
	printf("]}\n");
	fflush(stdout);
}

static bool input_waits(uint64_t until_ns)
{
	uint64_t now = until_ns ? phases_now_ns() : 0;
	uint64_t wait = until_ns > now ? until_ns - now : 0;
	struct timespec timeout = {(time_t)(wait / NS_PER_S), (long)(wait % NS_PER_S)};
	struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
	return ppoll(&in, 1, &timeout, NULL) > 0;
}

const char *phases_command(uint64_t until_ns)
{
	static char line[512], command[512];
	static size_t len;
	char *end = memchr(line, '\n', len);
	if (!end) {
		if (!input_waits(until_ns))
			return NULL;
		ssize_t n = read(STDIN_FILENO, line + len, sizeof(line) - len);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			return NULL;
		/* Also where a line is longer than anything that is understood. */
		if (n <= 0)
			return "quit";
		len += (size_t)n;
		end = memchr(line, '\n', len);
		if (!end)
			return NULL;
	}
	size_t used = (size_t)(end - line);
	memcpy(command, line, used);
	command[used] = '\0';
	len -= used + 1;
	memmove(line, end + 1, len);
	return command;
}

bool phases_obey(struct phases *p, const char *command, bool *ended)
{
	if (strncmp(command, "phase ", 6) == 0) {
		phases_begin(p, command + 6);
		return true;
	}
	if (strcmp(command, "report") == 0) {
		phases_print(p);
		return true;
	}
	if (strcmp(command, "quit") == 0) {
		phases_print(p);
		*ended = true;
		return true;
	}
	return false;
}
