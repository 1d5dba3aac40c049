/* SPDX-License-Identifier: MIT */
/*
 * Writes pages of a piece of memory at a set rate and checks itself all the while: every page
 * carries what it should hold, so a page that lost a write, or was changed by anybody else, is
 * found at its next turn. Half of each page can be compressed.
 *
 *     writer SIZE RATE     (MiB, MiB a second; RATE 0 writes nothing)
 *
 * Prints "ready" when all memory is filled. Ends on SIGTERM with a line "checked N pages, M wrong";
 * exit 1 when M > 0. SIGUSR1 makes it print "pass N" after it has gone on for at least one more
 * page.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, RANDOM_WORDS = WORDS / 2 };

struct page {
	uint64_t index, generation, check;
	uint64_t words[WORDS - 3];
};

static volatile sig_atomic_t ended, asked;
static uint64_t checked, wrong;

static void on_term(int signal)
{
	(void)signal;
	ended = 1;
}

static void on_usr1(int signal)
{
	(void)signal;
	asked = 1;
}

static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static uint64_t expected_word(uint64_t index, uint64_t generation, unsigned i)
{
	return i < RANDOM_WORDS ? mix(index << 32 ^ generation << 10 ^ i) : generation;
}

static void page_write(struct page *p, uint64_t index, uint64_t generation)
{
	p->index = index;
	p->generation = generation;
	uint64_t check = index ^ generation;
	for (unsigned i = 0; i < WORDS - 3; i++) {
		p->words[i] = expected_word(index, generation, i);
		check = (check ^ p->words[i]) * 0x100000001b3ull;
	}
	p->check = check;
}

static int page_is_right(const struct page *p, uint64_t index)
{
	uint64_t check = index ^ p->generation;
	for (unsigned i = 0; i < WORDS - 3; i++) {
		if (p->words[i] != expected_word(index, p->generation, i))
			return 0;
		check = (check ^ p->words[i]) * 0x100000001b3ull;
	}
	return p->index == index && p->check == check;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void check_page(const struct page *p, uint64_t index)
{
	checked++;
	if (!page_is_right(p, index)) {
		wrong++;
		fprintf(stderr, "writer: page %llu is wrong (it says page %llu, generation %llu)\n",
			(unsigned long long)index, (unsigned long long)p->index,
			(unsigned long long)p->generation);
	}
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: writer MIB MIB_PER_SECOND\n");
		return 2;
	}
	uint64_t npages = strtoull(argv[1], NULL, 10) << 8;
	double rate = strtod(argv[2], NULL) * 256;
	struct page *pages = mmap(
		NULL, npages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pages == MAP_FAILED || npages == 0) {
		perror("writer: mmap");
		return 1;
	}
	struct sigaction term = {.sa_handler = on_term}, usr1 = {.sa_handler = on_usr1};
	sigaction(SIGTERM, &term, NULL);
	sigaction(SIGUSR1, &usr1, NULL);

	for (uint64_t i = 0; i < npages; i++)
		page_write(&pages[i], i, 1);
	printf("ready\n");
	fflush(stdout);

	uint64_t seed = 88172645463325252ull, generation = 1, written = 0;
	double began = now();
	while (!ended) {
		if (asked) {
			asked = 0;
			printf("pass %llu\n", (unsigned long long)written);
			fflush(stdout);
		}
		uint64_t due = (uint64_t)((now() - began) * rate);
		/* What was due while the process stood still is not made up for. */
		if (due > written + 65536)
			began = now() - (double)written / rate;
		while (written < due && !ended && !asked) {
			seed = mix(seed + 1);
			uint64_t index = seed % npages;
			check_page(&pages[index], index);
			page_write(&pages[index], index, ++generation);
			written++;
		}
		struct timespec pause = {.tv_nsec = 200000};
		nanosleep(&pause, NULL);
	}
	for (uint64_t i = 0; i < npages; i++)
		check_page(&pages[i], i);
	printf("checked %llu pages, %llu wrong\n", (unsigned long long)checked,
		(unsigned long long)wrong);
	return wrong != 0;
}
