/* SPDX-License-Identifier: MIT */
/*
 * Threads that map, fill, check, re-protect, drop and unmap memory all the time.
 *
 *     mapper THREADS
 *
 * Prints "ready" when every thread has been around once; ends on SIGTERM with "N rounds, M wrong".
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, SLOTS = 8, PAGES_MAX = 200 };

static atomic_ullong rounds, wrong;
static atomic_int ended, around;

struct slot {
	uint64_t *words;
	size_t pages,
		kept; /* the first `kept` pages still hold the pattern, the others read as zero */
	uint64_t pattern;
};

static void slot_fill(struct slot *s, unsigned *seed)
{
	s->pages = s->kept = 1 + (size_t)rand_r(seed) % PAGES_MAX;
	s->pattern = (uint64_t)rand_r(seed) << 32 | (uint64_t)rand_r(seed);
	s->words = mmap(
		NULL, s->pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s->words == MAP_FAILED) {
		perror("mapper: mmap");
		exit(1);
	}
	for (size_t i = 0; i < s->pages * PAGE / 8; i += 64)
		s->words[i] = s->pattern ^ i;
}

static void slot_check(const struct slot *s)
{
	for (size_t i = 0; i < s->pages * PAGE / 8; i += 64) {
		uint64_t want = i < s->kept * PAGE / 8 ? s->pattern ^ i : 0;
		if (s->words[i] != want)
			atomic_fetch_add(&wrong, 1);
	}
}

static void slot_change(struct slot *s, unsigned *seed)
{
	switch (rand_r(seed) % 4) {
	case 0:
		mprotect(s->words, s->pages * PAGE, PROT_READ);
		slot_check(s);
		mprotect(s->words, s->pages * PAGE, PROT_READ | PROT_WRITE);
		break;
	case 1: {
		size_t keep = (size_t)rand_r(seed) % (s->kept + 1);
		if (keep < s->pages)
			madvise((char *)s->words + keep * PAGE, (s->pages - keep) * PAGE,
				MADV_DONTNEED);
		s->kept = keep;
		break;
	}
	case 2: {
		void *moved =
			mremap(s->words, s->pages * PAGE, (s->pages + 3) * PAGE, MREMAP_MAYMOVE);
		if (moved != MAP_FAILED) {
			s->words = moved;
			s->pages += 3;
		}
		break;
	}
	default:
		munmap(s->words, s->pages * PAGE);
		slot_fill(s, seed);
	}
}

static void *run(void *arg)
{
	struct slot slots[SLOTS];
	unsigned seed = (unsigned)(uintptr_t)arg * 2654435761u;
	for (int i = 0; i < SLOTS; i++)
		slot_fill(&slots[i], &seed);
	atomic_fetch_add(&around, 1);
	while (!atomic_load(&ended)) {
		struct slot *s = &slots[rand_r(&seed) % SLOTS];
		slot_check(s);
		slot_change(s, &seed);
		atomic_fetch_add(&rounds, 1);
		/* Threads that never rest would only fight for two processors. */
		usleep((useconds_t)rand_r(&seed) % 2000);
	}
	for (int i = 0; i < SLOTS; i++)
		slot_check(&slots[i]);
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argc > 1 ? atoi(argv[1]) : 64;
	pthread_t *ids = calloc((size_t)threads, sizeof(*ids));
	sigset_t term;
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &term, NULL);
	for (int i = 0; i < threads; i++) {
		if (pthread_create(&ids[i], NULL, run, (void *)(uintptr_t)(i + 1)) != 0)
			return 1;
	}
	while (atomic_load(&around) < threads)
		usleep(1000);
	printf("ready\n");
	fflush(stdout);
	int signal;
	sigwait(&term, &signal);
	atomic_store(&ended, 1);
	for (int i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
	free(ids);
	printf("%llu rounds, %llu wrong\n", atomic_load(&rounds), atomic_load(&wrong));
	return atomic_load(&wrong) != 0;
}
