/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include "proto/state.h"

void process_state_release(struct process_state *s)
{
	for (size_t i = 0; i < s->nthreads; i++) {
		for (size_t k = 0; k < s->threads[i].nregsets; k++)
			free(s->threads[i].regsets[k].data);
		free(s->threads[i].regsets);
	}
	free(s->threads);
	free(s->auxv);
	*s = (struct process_state){0};
}
