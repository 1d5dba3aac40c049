/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include "agent/inbox.h"
#include "proto/message.h"

/* Smaller ones cost less to allocate than to keep. */
#define SPARE_BYTES_MIN ((size_t)64 << 10)

void waiting_free(struct waiting *w)
{
	if (w)
		frame_buffer_release(&w->raw);
	free(w);
}

static void lane_init(struct inbox_lane *l)
{
	*l = (struct inbox_lane){.last = &l->first};
}

int inbox_init(
	struct inbox *b, size_t bound_bytes, void (*room)(void *arg, unsigned lane), void *arg)
{
	*b = (struct inbox){.bound_bytes = bound_bytes, .room = room, .arg = arg, .nlanes = 1};
	lane_init(&b->lanes[0]);
	int r = pthread_mutex_init(&b->lock, NULL);
	if (r != 0)
		return -r;
	r = pthread_cond_init(&b->changed, NULL);
	if (r != 0)
		pthread_mutex_destroy(&b->lock);
	return -r;
}

void inbox_release(struct inbox *b)
{
	for (unsigned i = 0; i < b->nlanes; i++) {
		for (struct waiting *w = b->lanes[i].first, *next; w; w = next) {
			next = w->next;
			waiting_free(w);
		}
	}
	while (b->nspares)
		frame_buffer_release(&b->spares[--b->nspares]);
	pthread_cond_destroy(&b->changed);
	pthread_mutex_destroy(&b->lock);
}

int inbox_add_lane(struct inbox *b)
{
	pthread_mutex_lock(&b->lock);
	int lane = b->nlanes < INBOX_LANES_MAX ? (int)b->nlanes++ : -EMFILE;
	if (lane >= 0)
		lane_init(&b->lanes[lane]);
	pthread_mutex_unlock(&b->lock);
	return lane;
}

bool inbox_put(struct inbox *b, struct waiting *w)
{
	pthread_mutex_lock(&b->lock);
	w->next = NULL;
	w->number = b->next_number++;
	w->cost_bytes = sizeof(*w) + w->raw.cap;
	struct inbox_lane *lane = &b->lanes[w->lane];
	*lane->last = w;
	lane->last = &w->next;
	lane->bytes += w->cost_bytes;
	bool is_full = lane->bytes >= b->bound_bytes / b->nlanes;
	lane->wants_room |= is_full;
	pthread_cond_signal(&b->changed);
	pthread_mutex_unlock(&b->lock);
	return is_full;
}

/* May the lanes beside lane 0 go? */
static bool pages_are_open(const struct inbox *b)
{
	const struct waiting *head = b->lanes[0].first;
	return head ? head->frame.type == FRAME_PAGES || head->frame.type == FRAME_ROUND_END
		    : b->in_pages;
}

/* Does it end a round of which pages are still to come? What is no ROUND_END frame at all is for
 * the session to say. */
static bool is_early(const struct inbox *b, const struct waiting *w)
{
	struct round_end m;
	return b->nlanes > 1 && w->frame.type == FRAME_ROUND_END &&
	       round_end_decode(&w->frame, &m, NULL) == 0 && m.frames > b->round_frames;
}

/* The lane whose turn it is, or NULL: of those that may go the one whose frame came first. */
static struct inbox_lane *next_lane(struct inbox *b)
{
	struct inbox_lane *first = &b->lanes[0], *best = NULL;
	if (first->first && !is_early(b, first->first))
		best = first;
	if (!pages_are_open(b))
		return best;
	for (unsigned i = 1; i < b->nlanes; i++) {
		struct inbox_lane *l = &b->lanes[i];
		if (l->first && (!best || l->first->number < best->first->number))
			best = l;
	}
	return best;
}

static void account(struct inbox *b, const struct waiting *w)
{
	if (w->frame.type == FRAME_PAGES)
		b->round_frames++;
	else if (w->frame.type == FRAME_ROUND)
		b->round_frames = 0;
	if (w->lane == 0)
		b->in_pages = w->frame.type == FRAME_PAGES;

	struct inbox_lane *lane = &b->lanes[w->lane];
	lane->bytes -= w->cost_bytes;
	if (lane->wants_room && lane->bytes <= b->bound_bytes / b->nlanes / 2) {
		lane->wants_room = false;
		b->room(b->arg, w->lane);
	}
}

struct waiting *inbox_take(struct inbox *b)
{
	struct inbox_lane *lane = NULL;
	struct waiting *w = NULL;
	pthread_mutex_lock(&b->lock);
	while (!b->is_aborted && !(lane = next_lane(b)) && !b->is_closed)
		pthread_cond_wait(&b->changed, &b->lock);
	if (!b->is_aborted && lane) {
		w = lane->first;
		lane->first = w->next;
		if (!lane->first)
			lane->last = &lane->first;
		account(b, w);
	}
	pthread_mutex_unlock(&b->lock);
	return w;
}

void inbox_done(struct inbox *b, struct waiting *w)
{
	pthread_mutex_lock(&b->lock);
	if (w && w->raw.cap >= SPARE_BYTES_MIN && b->nspares < INBOX_SPARES_MAX) {
		b->spares[b->nspares++] = w->raw;
		w->raw = (struct frame_buffer){0};
	}
	pthread_mutex_unlock(&b->lock);
	waiting_free(w);
}

void inbox_spare(struct inbox *b, struct frame_buffer *ret)
{
	*ret = (struct frame_buffer){0};
	pthread_mutex_lock(&b->lock);
	if (b->nspares)
		*ret = b->spares[--b->nspares];
	pthread_mutex_unlock(&b->lock);
}

void inbox_close(struct inbox *b, bool abort)
{
	pthread_mutex_lock(&b->lock);
	b->is_closed = true;
	b->is_aborted |= abort;
	pthread_cond_broadcast(&b->changed);
	pthread_mutex_unlock(&b->lock);
}
