/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include "proto/state.h"

void state_thread_release(struct state_thread *t)
{
	for (size_t i = 0; i < t->nregsets; i++)
		free(t->regsets[i].data);
	free(t->regsets);
	t->regsets = NULL;
	t->nregsets = 0;
}

void process_state_release(struct process_state *s)
{
	for (size_t i = 0; i < s->nthreads; i++)
		state_thread_release(&s->threads[i]);
	free(s->threads);
	free(s->auxv);
	*s = (struct process_state){0};
}

bool process_state_complete(const struct process_state *s)
{
	return s->nthreads && s->nthreads == s->threads_total;
}
