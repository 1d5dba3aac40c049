/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#include "base/parallel.h"

enum { THREADS_MAX = 64 };

struct share {
	int (*fn)(void *arg, size_t i);
	void *arg;
	size_t n;

	pthread_mutex_t lock; /* of what follows */
	size_t next, failed_at;
	int failure;
};

unsigned parallel_processors(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	return n > 0 ? (unsigned)n : 1;
}

static void *work(void *arg)
{
	struct share *s = arg;
	pthread_mutex_lock(&s->lock);
	while (s->next < s->n && s->failure == 0) {
		size_t i = s->next++;
		pthread_mutex_unlock(&s->lock);
		int r = s->fn(s->arg, i);
		pthread_mutex_lock(&s->lock);
		if (r < 0 && (s->failure == 0 || i < s->failed_at)) {
			s->failure = r;
			s->failed_at = i;
		}
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

int parallel_for(unsigned threads, size_t n, int (*fn)(void *arg, size_t i), void *arg)
{
	struct share s = {.fn = fn, .arg = arg, .n = n, .lock = PTHREAD_MUTEX_INITIALIZER};
	pthread_t others[THREADS_MAX];
	unsigned nothers = 0;
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (nothers + 1 < threads && nothers + 1 < n && nothers < THREADS_MAX &&
		pthread_create(&others[nothers], NULL, work, &s) == 0)
		nothers++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);

	work(&s);
	while (nothers)
		pthread_join(others[--nothers], NULL);
	pthread_mutex_destroy(&s.lock);
	return s.failure;
}
