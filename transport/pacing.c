/* SPDX-License-Identifier: MIT */
#include "transport/pacing.h"

void pacing_set(struct pacing *p, uint64_t bytes_per_second)
{
	p->bytes_per_second = bytes_per_second;
}

uint64_t pacing_take(struct pacing *p, uint64_t bytes, uint64_t now_ns)
{
	if (p->bytes_per_second == 0)
		return now_ns;
	uint64_t oldest_ns = now_ns > PACING_BURST_NS ? now_ns - PACING_BURST_NS : 0;
	uint64_t go_ns = p->next_ns > oldest_ns ? p->next_ns : oldest_ns;
	/* Rounded up, or very many small grants would be free. */
	double takes_ns = (double)bytes * 1e9 / (double)p->bytes_per_second + 1;
	/* An absurd limit is a long time, and not a wrap. */
	p->next_ns = go_ns + (takes_ns < 0x1p60 ? (uint64_t)takes_ns : 1ull << 60);
	return go_ns;
}

void shared_pacing_init(struct shared_pacing *p)
{
	*p = (struct shared_pacing){0};
	pthread_mutex_init(&p->lock, NULL);
}

void shared_pacing_release(struct shared_pacing *p)
{
	pthread_mutex_destroy(&p->lock);
}

void shared_pacing_set(struct shared_pacing *p, uint64_t bytes_per_second)
{
	pthread_mutex_lock(&p->lock);
	pacing_set(&p->pacing, bytes_per_second);
	pthread_mutex_unlock(&p->lock);
}

uint64_t shared_pacing_take(struct shared_pacing *p, uint64_t bytes)
{
	pthread_mutex_lock(&p->lock);
	uint64_t go_ns = pacing_take(&p->pacing, bytes, clock_now_ns());
	pthread_mutex_unlock(&p->lock);
	return go_ns;
}

void shared_pacing_note_held(struct shared_pacing *p, uint64_t ns)
{
	pthread_mutex_lock(&p->lock);
	p->held_ns += ns;
	pthread_mutex_unlock(&p->lock);
}

uint64_t shared_pacing_held(struct shared_pacing *p)
{
	pthread_mutex_lock(&p->lock);
	uint64_t ns = p->held_ns;
	pthread_mutex_unlock(&p->lock);
	return ns;
}
