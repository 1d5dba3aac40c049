/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include "agent/crew.h"
#include "base/error.h"

enum { CREW_MAX = 64 };

struct crew {
	struct session *session;
	struct inbox *inbox;

	pthread_mutex_t taking; /* held while the next frame is waited for */
	uint64_t next_turn;

	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t changed;
	uint64_t turn;       /* whose it is to use the session */
	unsigned unfinished; /* frames whose work goes on behind their turn */
	bool is_over;        /* `end` and `err` tell how */
	enum crew_end end;
	struct tide_error err;
};

/* With the lock held. The first end is the one that counts. */
static void over(struct crew *c, enum crew_end end, const struct tide_error *err)
{
	if (!c->is_over) {
		c->is_over = true;
		c->end = end;
		if (err)
			c->err = *err;
	}
	inbox_close(c->inbox, true);
	pthread_cond_broadcast(&c->changed);
}

static struct waiting *take_frame(struct crew *c, uint64_t *ret_turn)
{
	pthread_mutex_lock(&c->taking);
	struct waiting *w = inbox_take(c->inbox);
	*ret_turn = c->next_turn++;
	pthread_mutex_unlock(&c->taking);
	return w;
}

/* False where it is over before. What is no page waits until all pages before it are in place. */
static bool wait_for_turn(struct crew *c, uint64_t turn, const struct waiting *w)
{
	pthread_mutex_lock(&c->lock);
	while (c->turn != turn ||
		(w && w->frame.type != FRAME_PAGES && c->unfinished && !c->is_over))
		pthread_cond_wait(&c->changed, &c->lock);
	bool goes_on = !c->is_over;
	pthread_mutex_unlock(&c->lock);
	return goes_on;
}

/* In its turn. 1: session_finish() is to follow. */
static int apply(struct crew *c, const struct waiting *w, struct session_pages *pages)
{
	struct tide_error err = {0};
	int r = 0;
	if (w)
		r = session_frame_prepared(c->session, &w->frame, &w->raw, w->offset, pages, &err);
	pthread_mutex_lock(&c->lock);
	if (r < 0)
		over(c, CREW_FAILED, &err);
	else if (!w)
		over(c, CREW_NO_MORE, NULL);
	else if (session_stats(c->session).phase == SESSION_DONE)
		over(c, CREW_DONE, NULL);
	c->unfinished += r > 0;
	pthread_mutex_unlock(&c->lock);
	return r;
}

static void end_turn(struct crew *c)
{
	pthread_mutex_lock(&c->lock);
	c->turn++;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

static void finish(struct crew *c, struct session_pages *pages)
{
	struct tide_error err = {0};
	int r = session_finish(c->session, pages, &err);
	pthread_mutex_lock(&c->lock);
	c->unfinished--;
	if (r < 0)
		over(c, CREW_FAILED, &err);
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

static void *work(void *arg)
{
	struct crew *c = arg;
	struct session_pages pages = {0};
	for (bool goes_on = true; goes_on;) {
		uint64_t turn;
		struct waiting *w = take_frame(c, &turn);
		if (w)
			session_prepare(c->session, &w->frame, &w->raw, &pages);
		int r = 0;
		goes_on = wait_for_turn(c, turn, w);
		if (goes_on)
			r = apply(c, w, &pages);
		end_turn(c);
		if (r > 0)
			finish(c, &pages);
		goes_on &= w != NULL;
		inbox_done(c->inbox, w);
	}
	session_pages_release(c->session, &pages);
	return NULL;
}

enum crew_end crew_run(
	struct session *s, struct inbox *inbox, unsigned threads, struct tide_error *err)
{
	struct crew c = {.session = s,
		.inbox = inbox,
		.taking = PTHREAD_MUTEX_INITIALIZER,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.changed = PTHREAD_COND_INITIALIZER};
	pthread_t others[CREW_MAX];
	unsigned nothers = 0;

	/* They inherit a mask in which the program whose library we are keeps its signals: that of
	 * this thread. One that cannot be had is done without. */
	while (nothers + 1 < threads && nothers < CREW_MAX &&
		pthread_create(&others[nothers], NULL, work, &c) == 0)
		nothers++;
	work(&c);
	while (nothers)
		pthread_join(others[--nothers], NULL);
	pthread_cond_destroy(&c.changed);
	pthread_mutex_destroy(&c.lock);
	pthread_mutex_destroy(&c.taking);
	if (c.end == CREW_FAILED)
		*err = c.err;
	return c.end;
}
