/* SPDX-License-Identifier: MIT */
/*
 * Counts: in each of many pages some words change and all others stay, as in a table of statistics
 * or an index of a database. What stays cannot be compressed. Checks itself all the while, and at
 * the end.
 *
 *     counters SIZE RATE [same]     (MiB, thousand pages a second; RATE 0 counts nothing)
 *
 * With "same" it counts by nothing: it writes what is there.
 *
 * Prints "ready" when all memory is filled. Ends on SIGTERM with a line "checked N pages, M wrong";
 * exit 1 when M > 0.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { PAGE = 4096, WORDS = PAGE / 8, STEP = WORDS / 4 };

static volatile sig_atomic_t ended;
static uint64_t checked, wrong;

static void on_term(int signal)
{
	(void)signal;
	ended = 1;
}

static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

/* Every STEP-th word counts, and they are all alike. */
static void page_fill(uint64_t *page, uint64_t index)
{
	for (unsigned i = 0; i < WORDS; i++)
		page[i] = i % STEP ? mix(index * WORDS + i) : 0;
}

static void page_count(volatile uint64_t *page, uint64_t step)
{
	for (unsigned i = 0; i < WORDS; i += STEP)
		page[i] += step;
}

static void page_check(const uint64_t *page, uint64_t index)
{
	checked++;
	for (unsigned i = 0; i < WORDS; i++) {
		if (page[i] == (i % STEP ? mix(index * WORDS + i) : page[0]))
			continue;
		fprintf(stderr, "counters: word %u of page %llu is wrong\n", i,
			(unsigned long long)index);
		wrong++;
		return;
	}
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: counters MIB THOUSAND_PAGES_PER_SECOND [same]\n");
		return 2;
	}
	uint64_t npages = strtoull(argv[1], NULL, 10) << 8, counted = 0;
	double rate = strtod(argv[2], NULL) * 1000;
	uint64_t(*pages)[WORDS] = mmap(
		NULL, npages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pages == MAP_FAILED || npages == 0) {
		perror("counters: mmap");
		return 1;
	}
	struct sigaction term = {.sa_handler = on_term};
	sigaction(SIGTERM, &term, NULL);
	for (uint64_t i = 0; i < npages; i++)
		page_fill(pages[i], i);
	printf("ready\n");
	fflush(stdout);

	double began = now();
	while (!ended) {
		uint64_t due = (uint64_t)((now() - began) * rate);
		/* What was due while the process stood still is not made up for. */
		if (due > counted + 65536)
			began = now() - (double)counted / rate;
		for (; counted < due && !ended; counted++) {
			uint64_t index = counted * 7919 % npages;
			if (counted % 64 == 0)
				page_check(pages[index], index);
			page_count(pages[index], argc == 3);
		}
		struct timespec pause = {.tv_nsec = 200000};
		nanosleep(&pause, NULL);
	}
	for (uint64_t i = 0; i < npages; i++)
		page_check(pages[i], i);
	printf("checked %llu pages, %llu wrong\n", (unsigned long long)checked,
		(unsigned long long)wrong);
	return wrong != 0;
}
