/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/background.h"
#include "base/clock.h"
#include "base/error.h"
#include "transport/codec_choice.h"
#include "transport/page_workers.h"
#include "transport/send_order.h"

/* A worker's jobs wait in a short queue: what waits longer was read too early. */
#define JOBS_PER_WORKER 2

/* None, LZ4, zstd. */
#define LADDER_MAX 3
#define LEVEL_FAST 1

/* A batch of one round: pages of one space, all known to be zero or all to be read. */
struct job {
	struct page_span *spans; /* BATCH_PAGES_MAX */
	size_t nspans;
	uint64_t pages;
	bool zero;
	uint64_t looked_at_ns; /* when a worker began to read it */
};

struct page_workers {
	struct page_workers_options options;
	uint64_t batch_pages; /* that fit into one frame */
	pthread_t *threads;
	unsigned nthreads;
	bool may_yield; /* they are in the background while the process runs, and come back */
	int own_nice;
	struct send_order order;                /* the driver's */
	const struct codec *ladder[LADDER_MAX]; /* to choose from, from sparing to dense */
	unsigned nladder;

	/* All below is guarded by `lock`; `changed` is signalled whenever something of it changes.
	 */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct job *jobs; /* a ring */
	size_t njobs, first_job, queued_jobs, busy;
	bool is_cancelled, is_ending;
	bool yields; /* are in the background now */
	pid_t *tids;
	unsigned ntids;
	uint64_t round;
	struct page_sums of_round, of_all;
	struct codec_choice choice;
};

/* What one thread works with. */
struct worker {
	struct page_workers *w;
	uint64_t round;
	unsigned level;        /* of the ladder, for the job in hand */
	uint64_t cpu_began_ns; /* of its own time on processors, at looked_at_ns */
	unsigned turn;         /* where to begin to look for a connection */
	struct connection *conn;
	struct frame_buffer frame; /* in the making, for `conn` */
	uint8_t *space;            /* BATCH_PAGES_MAX pages */
	uint8_t *pages;            /* are read to: there, or to their place in the frame */
	struct batch *batch;
	struct page_span spans[BATCH_PAGES_MAX]; /* of the job in hand */
};

static void sums_add(struct page_sums *to, const struct page_sums *more)
{
	to->pages += more->pages;
	to->frames += more->frames;
	to->wire_bytes += more->wire_bytes;
	to->unchanged_pages += more->unchanged_pages;
	to->rewritten_pages += more->rewritten_pages;
	to->look_ns += more->look_ns;
	batch_stats_add(&to->stats, &more->stats);
}

static void account(struct page_workers *w, const struct page_sums *more)
{
	pthread_mutex_lock(&w->lock);
	sums_add(&w->of_round, more);
	sums_add(&w->of_all, more);
	pthread_mutex_unlock(&w->lock);
}

/* --- the codec ------------------------------------------------------------------------------- */

static void ladder_make(struct page_workers *w)
{
	const struct codec *const all[] = {&codec_raw, &codec_lz4, &codec_zstd};
	const struct page_workers_options *o = &w->options;
	if (!o->choose_from)
		w->ladder[w->nladder++] = o->codec ? o->codec : &codec_raw;
	for (size_t i = 0; o->choose_from && i < sizeof(all) / sizeof(all[0]); i++) {
		if (!(all[i]->feature & ~o->choose_from))
			w->ladder[w->nladder++] = all[i];
	}
	codec_choice_init(&w->choice, w->nladder, w->nladder > 1);
}

/* A change of a page costs both ends more than the page itself: it pays where the link is the
 * limit, as compressing does. */
static bool deltas_pay(const struct worker *k)
{
	return k->level > 0 || k->w->nladder == 1;
}

/* A batch was read and encoded, and is queued now. */
static void note_work(struct worker *k, const struct batch_stats *stats, uint64_t looked_at_ns)
{
	struct page_workers *w = k->w;
	uint64_t now_ns = clock_now_ns(), took_ns = now_ns - looked_at_ns;
	uint64_t busy_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - k->cpu_began_ns;
	if (busy_ns > took_ns)
		busy_ns = took_ns;
	uint64_t zero_bytes = stats->form[CODEC_ZERO].pages * w->options.page_bytes;
	struct codec_choice_work work = {
		.bytes = stats->bytes_in - zero_bytes,
		.wire_bytes = stats->bytes_out,
		.busy_ns = busy_ns,
		.wait_ns = took_ns - busy_ns,
	};
	uint64_t queued_bytes = 0;
	for (unsigned i = 0; i < w->options.nconns; i++)
		queued_bytes += connection_stats(w->options.conns[i]).queued_bytes;
	pthread_mutex_lock(&w->lock);
	codec_choice_note(&w->choice, now_ns, &work, queued_bytes);
	pthread_mutex_unlock(&w->lock);
}

const char *page_workers_codec(struct page_workers *w)
{
	pthread_mutex_lock(&w->lock);
	const char *name = w->ladder[w->choice.home]->name;
	pthread_mutex_unlock(&w->lock);
	return name;
}

/* --- one batch ------------------------------------------------------------------------------- */

/* A page that travels: its contents go behind those of the others before it. */
static void keep_page(
	struct batch *b, uint64_t page_bytes, uint64_t at, const uint8_t *contents, uint8_t **to)
{
	if (*to != contents)
		memcpy(*to, contents, page_bytes);
	*to += page_bytes;
	if (b->nruns && b->runs[b->nruns - 1].end == at)
		b->runs[b->nruns - 1].end += page_bytes;
	else
		b->runs[b->nruns++] = (struct page_run){at, at + page_bytes};
}

/*
 * Of the first `bytes` of the spans, whose contents were read: those that the receiver does not
 * hold yet are moved together, and listed in batch->runs. Returns their bytes.
 */
static uint64_t keep_changed(
	struct worker *k, const struct job *job, const struct page_span *spans, uint64_t bytes)
{
	const struct page_workers_options *o = &k->w->options;
	bool travels[BATCH_PAGES_MAX];
	struct page_sums sums = {0};
	const uint8_t *from = k->pages;
	uint8_t *to = k->pages;
	k->batch->nruns = 0;
	for (uint64_t left = bytes; left; spans++) {
		struct page_span part = *spans;
		if (part.bytes > left)
			part.bytes = left;
		left -= part.bytes;
		page_hashes_take(o->hashes, &part, from, travels);
		for (uint64_t at = part.at, i = 0; at < part.at + part.bytes; i++) {
			if (travels[i])
				keep_page(k->batch, o->page_bytes, at, from, &to);
			sums.unchanged_pages += !travels[i];
			sums.rewritten_pages += !travels[i] && !part.doubtful;
			from += o->page_bytes;
			at += o->page_bytes;
		}
	}
	sums.look_ns = clock_now_ns() - job->looked_at_ns;
	account(k->w, &sums);
	return (uint64_t)(to - k->pages);
}

/* The connection with the least to do; in turn, where that is equal. */
static struct connection *pick_connection(struct worker *k)
{
	const struct page_workers_options *o = &k->w->options;
	struct connection *best = NULL;
	uint64_t least = UINT64_MAX;
	k->turn++;
	for (unsigned i = 0; o->nconns > 1 && i < o->nconns; i++) {
		struct connection *c = o->conns[(k->turn + i) % o->nconns];
		uint64_t queued = connection_stats(c).queued_bytes;
		if (queued < least) {
			best = c;
			least = queued;
		}
	}
	return best ? best : o->conns[0];
}

/* What the receiver holds of the pages of the batch; NULL for one of which that is not known. */
static void take_former(struct delta_cache *deltas, const struct batch *b, const uint8_t **ret)
{
	for (uint32_t i = 0; i < b->nruns; i++) {
		for (uint64_t at = b->runs[i].start; at < b->runs[i].end; at += b->page_bytes)
			*ret++ = delta_cache_take(deltas, b->space, at);
	}
}

static void keep_sent(struct delta_cache *deltas, const struct batch *b, const uint8_t *pages)
{
	for (uint32_t i = 0; i < b->nruns; i++) {
		for (uint64_t at = b->runs[i].start; at < b->runs[i].end; at += b->page_bytes) {
			delta_cache_keep(deltas, b->space, at, pages);
			pages += b->page_bytes;
		}
	}
}

/* Begins a frame. Where nothing is made of pages but a frame, they are read to their place in it.
 */
static void begin_frame(struct worker *k)
{
	const struct page_workers_options *o = &k->w->options;
	bool stay_raw = !k->w->ladder[k->level]->compress && !(o->deltas && deltas_pay(k));
	k->conn = pick_connection(k);
	connection_buffer_get(k->conn, &k->frame);
	k->pages = stay_raw ? batch_pages_place(&k->frame, (uint32_t)o->page_bytes) : NULL;
	if (!k->pages)
		k->pages = k->space;
}

static int encode_pages(struct worker *k, struct batch_stats *stats)
{
	const struct page_workers_options *o = &k->w->options;
	const uint8_t *former[BATCH_PAGES_MAX];
	struct batch_encoding how = {.codec = k->w->ladder[k->level]};
	if (o->deltas) {
		take_former(o->deltas, k->batch, former);
		how.former = deltas_pay(k) ? former : NULL;
	}
	/* Where differences are made, what is sent takes the place of what they are made to. */
	if (o->deltas && !how.former)
		keep_sent(o->deltas, k->batch, k->pages);
	int r = batch_encode(PROCESS_NUMBER, k->batch, k->pages, &how, &k->frame, stats);
	if (r == 0 && how.former)
		keep_sent(o->deltas, k->batch, k->pages);
	return r;
}

/* Encodes and queues the pages of batch->runs. */
static int send_pages(
	struct worker *k, const struct job *job, uint64_t bytes, struct tide_error *err)
{
	const struct page_workers_options *o = &k->w->options;
	k->batch->round = k->round;
	k->batch->space = job->spans->space;
	k->batch->page_bytes = (uint32_t)o->page_bytes;

	struct page_sums sums = {.pages = bytes / o->page_bytes, .frames = 1};
	int r = encode_pages(k, &sums.stats);
	if (r < 0)
		return tide_fail(err, r, "encode pages");
	sums.wire_bytes = k->frame.bytes;
	r = connection_send(k->conn, &k->frame, err);
	if (r < 0)
		return r;
	note_work(k, &sums.stats, job->looked_at_ns);
	account(k->w, &sums);
	return 0;
}

/* The same for what the receiver does not hold yet of the first `bytes` of the spans, which were
 * read. Ends the frame. */
static int send_changed(struct worker *k, const struct job *job, const struct page_span *spans,
	uint64_t bytes, struct tide_error *err)
{
	uint64_t kept = keep_changed(k, job, spans, bytes);
	int r = kept ? send_pages(k, job, kept, err) : 0;
	connection_buffer_put(k->conn, &k->frame); /* empty where it was sent */
	return r;
}

/*
 * A read ended after the first `bytes` of the spans. Passes over what is left of the span where
 * that was, which the source keeps in mind; returns how many spans are dealt with.
 */
static size_t skip_rest(const struct page_workers_options *o, const struct page_span *spans,
	size_t n, uint64_t bytes)
{
	size_t done = 0;
	while (done < n && bytes >= spans[done].bytes)
		bytes -= spans[done++].bytes;
	if (done == n)
		return n;
	struct page_span rest = spans[done];
	rest.at += bytes;
	rest.address += bytes;
	rest.bytes -= bytes;
	page_hashes_skip(o->hashes, &rest);
	if (o->deltas)
		delta_cache_skip(o->deltas, &rest);
	return done + 1;
}

static void begin_look(struct worker *k, struct job *job)
{
	job->looked_at_ns = clock_now_ns();
	k->cpu_began_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
}

static int do_job(struct worker *k, struct job *job, struct tide_error *err)
{
	const struct page_workers_options *o = &k->w->options;
	struct page_span *spans = job->spans;
	size_t n = job->nspans;
	begin_look(k, job);
	if (job->zero) {
		uint64_t bytes = job->pages * o->page_bytes;
		begin_frame(k);
		memset(k->pages, 0, bytes);
		return send_changed(k, job, spans, bytes, err);
	}
	while (n) {
		uint64_t got = 0;
		begin_frame(k);
		int r = o->source->ops->read(o->source, spans, n, k->pages, &got, err);
		if (r == 0)
			r = send_changed(k, job, spans, got, err);
		if (r < 0) {
			frame_buffer_release(&k->frame);
			return r;
		}
		size_t done = skip_rest(o, spans, n, got);
		spans += done;
		n -= done;
		begin_look(k, job);
	}
	return 0;
}

/* --- the threads ----------------------------------------------------------------------------- */

/* Waits for a job. False: there will be none. */
static bool next_job(struct worker *k, struct job *ret)
{
	struct page_workers *w = k->w;
	while (w->queued_jobs == 0 && !w->is_ending)
		pthread_cond_wait(&w->changed, &w->lock);
	if (w->queued_jobs == 0)
		return false;
	*ret = w->jobs[w->first_job];
	memcpy(k->spans, ret->spans, ret->nspans * sizeof(*k->spans));
	ret->spans = k->spans;
	k->round = w->round;
	k->level = w->choice.level;
	w->first_job = (w->first_job + 1) % w->njobs;
	w->queued_jobs--;
	w->busy++;
	pthread_cond_broadcast(&w->changed);
	return true;
}

static void work_on(struct worker *k, struct job *job)
{
	struct tide_error err;
	if (do_job(k, job, &err) < 0) {
		k->w->options.failed(k->w->options.arg, &err);
		page_workers_cancel(k->w);
	}
}

static void *work(void *arg)
{
	struct page_workers *w = arg;
	struct worker k = {.w = w};
	struct tide_error err;
	k.space = malloc(BATCH_PAGES_MAX * w->options.page_bytes);
	k.batch = malloc(sizeof(*k.batch));
	if (!k.space || !k.batch) {
		tide_fail(&err, -ENOMEM, "start a worker");
		w->options.failed(w->options.arg, &err);
		page_workers_cancel(w);
	}

	pthread_mutex_lock(&w->lock);
	w->tids[w->ntids] = (pid_t)syscall(SYS_gettid);
	background_set(w->tids[w->ntids++], w->own_nice, w->yields);
	for (struct job job; next_job(&k, &job);) {
		bool skip = w->is_cancelled || !k.space || !k.batch;
		pthread_mutex_unlock(&w->lock);
		if (!skip)
			work_on(&k, &job);
		pthread_mutex_lock(&w->lock);
		w->busy--;
		pthread_cond_broadcast(&w->changed);
	}
	pthread_mutex_unlock(&w->lock);
	free(k.space);
	free(k.batch);
	return NULL;
}

/* --- the driver's side ----------------------------------------------------------------------- */

void page_workers_begin(struct page_workers *w, uint64_t round, bool final)
{
	pthread_mutex_lock(&w->lock);
	codec_choice_begin(&w->choice, clock_now_ns());
	/* The freeze is not paced: what was the best behind a limit may be what holds it up. */
	if (final)
		codec_choice_end(&w->choice, w->options.paced ? LEVEL_FAST : w->nladder);
	w->round = round;
	w->of_round = (struct page_sums){0};
	w->yields = w->may_yield && !final;
	for (unsigned i = 0; w->may_yield && i < w->ntids; i++)
		background_set(w->tids[i], w->own_nice, w->yields);
	pthread_mutex_unlock(&w->lock);
}

static int queue_job(struct page_workers *w, const struct job *job)
{
	pthread_mutex_lock(&w->lock);
	while (w->queued_jobs == w->njobs && !w->is_cancelled)
		pthread_cond_wait(&w->changed, &w->lock);
	int r = w->is_cancelled ? -ECANCELED : 0;
	if (r == 0) {
		struct job *slot = &w->jobs[(w->first_job + w->queued_jobs) % w->njobs];
		struct page_span *spans = slot->spans;
		*slot = *job;
		slot->spans = spans;
		memcpy(spans, job->spans, job->nspans * sizeof(*spans));
		w->queued_jobs++;
		pthread_cond_broadcast(&w->changed);
	}
	pthread_mutex_unlock(&w->lock);
	return r;
}

/* A batch holds pages of one space in order, all known to be zero or all to be read. */
static bool fits(const struct page_workers *w, const struct job *job, const struct page_span *span)
{
	if (job->nspans == 0)
		return true;
	const struct page_span *last = &job->spans[job->nspans - 1];
	return last->space == span->space && job->zero == span->zero &&
	       job->pages < w->batch_pages && last->at + last->bytes <= span->at;
}

static int queue_spans(struct page_workers *w, const struct page_span *written, size_t nwritten)
{
	struct page_span spans[BATCH_PAGES_MAX];
	struct job job = {.spans = spans};
	for (size_t i = 0; i < nwritten; i++) {
		struct page_span left = written[i];
		while (left.bytes) {
			if (!fits(w, &job, &left)) {
				int r = queue_job(w, &job);
				if (r < 0)
					return r;
				job.nspans = 0;
				job.pages = 0;
			}
			uint64_t room = (w->batch_pages - job.pages) * w->options.page_bytes;
			struct page_span part = left;
			if (part.bytes > room)
				part.bytes = room;
			job.zero = part.zero;
			job.pages += part.bytes / w->options.page_bytes;
			spans[job.nspans++] = part;
			left.at += part.bytes;
			left.address += part.bytes;
			left.bytes -= part.bytes;
		}
	}
	return job.nspans ? queue_job(w, &job) : 0;
}

int page_workers_queue(struct page_workers *w, const struct change_set *c)
{
	if (send_order_make(&w->order, c, w->options.page_bytes) < 0)
		return queue_spans(w, c->written, c->nwritten);
	return queue_spans(w, w->order.spans, w->order.nspans);
}

int page_workers_wait(struct page_workers *w)
{
	pthread_mutex_lock(&w->lock);
	while (w->queued_jobs || w->busy)
		pthread_cond_wait(&w->changed, &w->lock);
	int r = w->is_cancelled ? -ECANCELED : 0;
	pthread_mutex_unlock(&w->lock);
	return r;
}

void page_workers_arrived(struct page_workers *w)
{
	pthread_mutex_lock(&w->lock);
	codec_choice_arrived(&w->choice, clock_now_ns(), w->nthreads);
	pthread_mutex_unlock(&w->lock);
}

void page_workers_cancel(struct page_workers *w)
{
	pthread_mutex_lock(&w->lock);
	w->is_cancelled = true;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
}

void page_workers_sums(
	struct page_workers *w, struct page_sums *ret_round, struct page_sums *ret_all)
{
	pthread_mutex_lock(&w->lock);
	if (ret_round)
		*ret_round = w->of_round;
	if (ret_all)
		*ret_all = w->of_all;
	pthread_mutex_unlock(&w->lock);
}

void page_workers_end(struct page_workers *w)
{
	pthread_mutex_lock(&w->lock);
	w->is_ending = w->is_cancelled = true;
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
	for (; w->nthreads; w->nthreads--)
		pthread_join(w->threads[w->nthreads - 1], NULL);
}

void page_workers_free(struct page_workers *w)
{
	if (!w)
		return;
	page_workers_end(w);
	for (size_t i = 0; w->jobs && i < w->njobs; i++)
		free(w->jobs[i].spans);
	free(w->jobs);
	free(w->threads);
	free(w->tids);
	send_order_release(&w->order);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->changed);
	free(w);
}

static int allocate(struct page_workers *w)
{
	w->threads = calloc(w->options.threads, sizeof(*w->threads));
	w->njobs = (size_t)w->options.threads * JOBS_PER_WORKER;
	w->jobs = calloc(w->njobs, sizeof(*w->jobs));
	w->tids = calloc(w->options.threads, sizeof(*w->tids));
	if (!w->threads || !w->jobs || !w->tids)
		return -ENOMEM;
	for (size_t i = 0; i < w->njobs; i++) {
		w->jobs[i].spans = calloc(BATCH_PAGES_MAX, sizeof(struct page_span));
		if (!w->jobs[i].spans)
			return -ENOMEM;
	}
	return 0;
}

/* The threads inherit a mask that keeps the signals for the program whose library we are. */
static int start_threads(struct page_workers *w)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = 0;
	while (r == 0 && w->nthreads < w->options.threads) {
		r = -pthread_create(&w->threads[w->nthreads], NULL, work, w);
		if (r == 0)
			w->nthreads++;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

int page_workers_new(const struct page_workers_options *options, struct page_workers **ret)
{
	auto_(page_workers_freep) struct page_workers *w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	w->options = *options;
	w->may_yield = options->paced && background_ends();
	w->own_nice = getpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid));
	w->batch_pages = batch_pages_fit((uint32_t)options->page_bytes, &options->limits);
	ladder_make(w);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->changed, NULL);
	int r = w->batch_pages ? allocate(w) : -EMSGSIZE;
	if (r == 0)
		r = start_threads(w);
	if (r < 0)
		return r;
	*ret = take(w);
	return 0;
}
