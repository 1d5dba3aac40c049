/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/error.h"
#include "transport/delta_cache.h"
#include "transport/handshake.h"
#include "transport/page_hashes.h"
#include "transport/page_workers.h"
#include "transport/sender.h"

#define HASH_BYTES_MAX (256ull << 20)

struct report {
	struct report *next;
	struct sender_round round;
};

struct sender {
	uv_async_t wake;
	struct connection **conns; /* the first one says what the session does; pages go by all */
	unsigned nconns;
	struct page_source *source;
	struct sender_options options;
	char name[NAME_MAX_BYTES + 1];
	struct sender_callbacks callbacks;
	void *arg;
	uint64_t page_bytes;
	struct shared_pacing pacing;
	uint64_t paced_before_ns; /* the driver's: before the running round */

	/* Of the driver between rounds, of the workers in one: each page is in one job. */
	struct page_hashes *hashes;
	struct delta_cache *deltas; /* NULL: none are sent */

	pthread_t driver;
	struct page_workers *workers; /* the driver's, to its end; `lock` is taken inside its own */

	/* All below is guarded by `lock`; `changed` is signalled whenever something of it changes.
	 */
	pthread_mutex_t lock;
	pthread_cond_t changed;

	/* What the peer said, and how it went. The first error stays. */
	bool ended; /* the connection, in whatever way */
	bool opened;
	unsigned njoined;    /* of the connections behind the first */
	int64_t acked_round; /* -1: none */
	bool is_commit_sent;
	bool is_committed;
	struct committed committed;
	bool failed;
	struct tide_error error;

	/* Of frames that hold no pages: in the running round, and over all. */
	uint64_t round_message_bytes, message_bytes;
	struct sender_progress progress; /* but for what the workers know */

	/* For the loop. */
	struct report *reports, **last_report;
	bool reporting; /* a callback runs */
	bool done;
	struct sender_result result;
	int closing; /* what is still to be closed before the caller hears of the end */
};

static void fail_locked(struct sender *s, const struct tide_error *err)
{
	if (!s->failed && !s->done) {
		s->failed = true;
		s->error = *err;
	}
	if (s->workers)
		page_workers_cancel(s->workers);
	pthread_cond_broadcast(&s->changed);
}

static void fail(struct sender *s, const struct tide_error *err)
{
	pthread_mutex_lock(&s->lock);
	fail_locked(s, err);
	pthread_mutex_unlock(&s->lock);
}

/* --- the driver
 * ----------------------------------------------------------------------------------- */

static int send_frame(
	struct sender *s, int encoded, struct frame_buffer *frame, struct tide_error *err)
{
	if (encoded < 0) {
		frame_buffer_release(frame);
		return tide_fail(err, encoded, "encode a message");
	}
	pthread_mutex_lock(&s->lock);
	s->round_message_bytes += frame->bytes;
	s->message_bytes += frame->bytes;
	pthread_mutex_unlock(&s->lock);
	return connection_send(s->conns[0], frame, err);
}

#define SEND(s, encode, err)                        \
	({                                          \
		struct frame_buffer out = {0};      \
		int encoded_ = (encode);            \
		send_frame(s, encoded_, &out, err); \
	})

static int send_mappings(
	struct sender *s, uint64_t round, const struct mapping_diff *diff, struct tide_error *err)
{
	struct mappings_message m = {.round = round, .diff = *diff};
	struct mappings_cursor at = {0};
	while (at.removed < diff->removed.len || at.added < diff->added.len) {
		int r = SEND(s, mappings_encode(PROCESS_NUMBER, &m, &at, &out), err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int send_drops(
	struct sender *s, uint64_t round, const struct change_set *c, struct tide_error *err)
{
	struct drops_message m = {.round = round, .drops = c->drops, .ndrops = c->ndrops};
	for (size_t at = 0; at < m.ndrops;) {
		int r = SEND(s, drops_encode(PROCESS_NUMBER, &m, &at, &out), err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Why it failed, for those who were told that it did. */
static int failure(struct sender *s, struct tide_error *err)
{
	pthread_mutex_lock(&s->lock);
	*err = s->error;
	pthread_mutex_unlock(&s->lock);
	return err->code;
}

static int send_pages(struct sender *s, const struct change_set *c, struct tide_error *err)
{
	int r = page_workers_queue(s->workers, c);
	/* Also after a failure: the workers read from the source, which is released next. */
	int waited = page_workers_wait(s->workers);
	return r < 0 || waited < 0 ? failure(s, err) : 0;
}

/* Everything of one change set, up to its end; returns once the last page was read and its frame
 * queued. */
static int send_round(struct sender *s, uint64_t number, bool final, const struct change_set *c,
	struct tide_error *err)
{
	pthread_mutex_lock(&s->lock);
	s->round_message_bytes = 0;
	s->progress.round = number;
	s->progress.round_pages = c->written_pages;
	s->progress.round_started_ns = clock_now_ns();
	page_workers_begin(s->workers, number, final);
	pthread_mutex_unlock(&s->lock);

	s->paced_before_ns = shared_pacing_held(&s->pacing);
	page_hashes_begin(s->hashes, c);
	if (s->deltas)
		delta_cache_begin(s->deltas, c, final);
	struct round_header head = {.number = number, .final = final};
	int r = SEND(s, round_header_encode(PROCESS_NUMBER, &head, &out), err);
	if (r == 0)
		r = send_mappings(s, number, &c->mappings, err);
	if (r == 0)
		r = send_drops(s, number, c, err);
	if (r == 0)
		r = send_pages(s, c, err);
	if (r < 0)
		return r;

	struct page_sums sums;
	page_workers_sums(s->workers, &sums, NULL);
	struct round_end end = {.number = number, .pages = sums.pages, .frames = sums.frames};
	return SEND(s, round_end_encode(PROCESS_NUMBER, &end, &out), err);
}

static int wait_for_ack(struct sender *s, uint64_t round, struct tide_error *err)
{
	if (!connection_peer(s->conns[0])->is_two_way)
		return connection_flush(s->conns[0], err);

	pthread_mutex_lock(&s->lock);
	while (s->acked_round < (int64_t)round && !s->failed)
		pthread_cond_wait(&s->changed, &s->lock);
	int r = s->failed ? s->error.code : 0;
	if (r < 0)
		*err = s->error;
	pthread_mutex_unlock(&s->lock);
	return r;
}

static void report_round(struct sender *s, const struct sender_round *round)
{
	struct report *report = calloc(1, sizeof(*report));
	if (!report)
		return;
	report->round = *round;
	pthread_mutex_lock(&s->lock);
	*s->last_report = report;
	s->last_report = &report->next;
	pthread_mutex_unlock(&s->lock);
	uv_async_send(&s->wake);
}

static struct sender_round describe_round(
	struct sender *s, const struct round_record *record, const struct change_set *c)
{
	struct sender_round round = {.record = *record};
	round.codec = page_workers_codec(s->workers);
	round.dirty_bytes_per_second = round_dirty_bytes_per_second(record, s->page_bytes);
	memcpy(round.note, c->note, sizeof(round.note));
	return round;
}

/*
 * What the caller does with a report may wait for whoever reads it, and that may be the process
 * that is about to be frozen. So all of them are through before; and none comes until the process
 * goes on.
 */
static int wait_for_reports(struct sender *s, struct tide_error *err)
{
	pthread_mutex_lock(&s->lock);
	while ((s->reports || s->reporting) && !s->failed)
		pthread_cond_wait(&s->changed, &s->lock);
	int r = s->failed ? s->error.code : 0;
	if (r < 0)
		*err = s->error;
	else
		s->progress.frozen = true;
	pthread_mutex_unlock(&s->lock);
	return r;
}

static struct round_record record_of(
	struct sender *s, uint64_t number, const struct change_set *c, uint64_t began_ns)
{
	struct page_sums sums;
	page_workers_sums(s->workers, &sums, NULL);
	return (struct round_record){
		.number = number,
		.pages = sums.pages,
		.unchanged_pages = sums.unchanged_pages,
		.rewritten_pages = sums.rewritten_pages,
		.wire_bytes = sums.wire_bytes + s->round_message_bytes,
		.dropped_pages = c->dropped_pages,
		.reread_pages = c->reread_pages,
		.to_reread_pages = c->to_reread_pages,
		.look_ns = sums.look_ns / s->options.threads,
		.duration_ns = clock_now_ns() - began_ns,
		.collect_ns = c->collect_ns,
		.interval_ns = c->interval_ns,
		/* Workers wait side by side. */
		.paced_ns =
			(shared_pacing_held(&s->pacing) - s->paced_before_ns) / s->options.threads,
	};
}

/* Makes the other connections a part of the session. */
static int join_others(struct sender *s, const uint8_t session_id[ID_BYTES], struct tide_error *err)
{
	struct join_request request;
	memcpy(request.session_id, session_id, ID_BYTES);
	for (unsigned i = 1; i < s->nconns; i++) {
		struct frame_buffer out = {0};
		int r = join_request_encode(&request, &out);
		r = r < 0 ? tide_fail(err, r, "encode a message")
			  : connection_send(s->conns[i], &out, err);
		if (r < 0)
			return r;
	}
	pthread_mutex_lock(&s->lock);
	while (s->njoined + 1 < s->nconns && !s->failed)
		pthread_cond_wait(&s->changed, &s->lock);
	int r = s->failed ? s->error.code : 0;
	if (r < 0)
		*err = s->error;
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int open_session(struct sender *s, struct tide_error *err)
{
	if (!connection_peer(s->conns[0])->is_two_way)
		return 0;
	struct open_request request = {.sink = s->options.sink};
	memcpy(request.name, s->name, sizeof(request.name));
	if (getrandom(request.session_id, sizeof(request.session_id), 0) !=
		sizeof(request.session_id))
		return tide_fail(err, -errno, "draw a session number");
	int r = SEND(s, open_request_encode(&request, &out), err);
	if (r < 0)
		return r;

	pthread_mutex_lock(&s->lock);
	while (!s->opened && !s->failed)
		pthread_cond_wait(&s->changed, &s->lock);
	r = s->failed ? s->error.code : 0;
	if (r < 0)
		*err = s->error;
	pthread_mutex_unlock(&s->lock);
	return r < 0 ? r : join_others(s, request.session_id, err);
}

static int begin_stream(struct sender *s, struct tide_error *err)
{
	struct hello here;
	struct utsname u;
	struct stream_header head = {.created_realtime_ns = clock_read_ns(CLOCK_REALTIME)};
	int r = hello_init(&here, err);
	if (r < 0)
		return r;
	memcpy(head.architecture, here.architecture, sizeof(head.architecture));
	memcpy(head.byte_order, here.byte_order, sizeof(head.byte_order));
	memcpy(head.software, here.software, sizeof(head.software));
	head.page_bytes = (uint32_t)s->page_bytes;
	if (s->options.codec)
		head.features |= s->options.codec->feature;
	head.features |= s->options.choose_from;
	if (s->deltas)
		head.features |= FEATURE_DELTA;
	if (uname(&u) == 0)
		snprintf(head.host, sizeof(head.host), "%.64s", u.nodename);
	if (getrandom(head.stream_id, sizeof(head.stream_id), 0) != sizeof(head.stream_id))
		return tide_fail(err, -errno, "draw an image's number");
	memcpy(s->result.stream_id, head.stream_id, sizeof(head.stream_id));
	s->result.page_bytes = s->page_bytes;
	r = SEND(s, stream_header_encode(&head, &out), err);
	if (r < 0)
		return r;

	struct process_info info;
	r = s->source->ops->describe(s->source, &info, err);
	return r < 0 ? r : SEND(s, process_info_encode(PROCESS_NUMBER, &info, &out), err);
}

/* One round while the process runs, until the peer has it and we know what is left. */
static int send_running_round(struct sender *s, uint64_t number, struct sender_round *ret,
	uint64_t *ret_pending, struct tide_error *err)
{
	uint64_t began_ns = clock_now_ns();
	const struct change_set *c;
	int r = s->source->ops->collect(s->source, &c, err);
	if (r == 0)
		r = send_round(s, number, false, c, err);
	if (r == 0)
		r = wait_for_ack(s, number, err);
	if (r == 0) {
		struct round_record record = record_of(s, number, c, began_ns);
		page_workers_arrived(s->workers);
		*ret = describe_round(s, &record, c);
		page_hashes_settle(s->hashes, true);
		if (s->deltas)
			delta_cache_settle(s->deltas, true);
		r = s->source->ops->settle(s->source, true, err);
	}
	if (r == 0)
		r = s->source->ops->pending(s->source, ret_pending, err);
	return r < 0 ? tide_prefix(err, r, "round %llu: ", (unsigned long long)number) : 0;
}

/* What cannot be throttled is no reason to fail: the verdict says what then. */
static void throttle(
	struct sender *s, struct convergence *convergence, struct convergence_verdict *verdict)
{
	struct tide_error err = {.text = "this source cannot be slowed"};
	int (*op)(struct page_source *, unsigned, struct tide_error *) = s->source->ops->throttle;
	if (op && op(s->source, verdict->throttle_percent, &err) == 0) {
		s->result.throttle_percent = verdict->throttle_percent;
		return;
	}
	char reason[sizeof(err.text) + 64];
	if (err.code && err.code != -ECANCELED)
		snprintf(reason, sizeof(reason), "%s: %s", err.text, strerror(-err.code));
	else
		snprintf(reason, sizeof(reason), "%s", err.text);
	convergence_cannot_throttle(convergence, reason, verdict);
}

/* Rounds while the process runs. *ret_next is the number of the one that comes in the freeze. */
static int send_rounds(struct sender *s, uint64_t *ret_next, struct tide_error *err)
{
	struct convergence convergence;
	struct convergence_verdict verdict = {0};
	convergence_init(&convergence,
		(struct convergence_limits){.max_downtime_ns = s->options.max_downtime_ns,
			.max_rounds = s->options.max_rounds,
			.page_bytes = s->page_bytes,
			.if_diverging = s->options.if_diverging});
	/* So that it is known what the process does when it is left alone. */
	if (s->options.if_diverging == DIVERGING_THROTTLE && s->source->ops->throttle)
		(void)s->source->ops->throttle(s->source, 0, NULL);

	for (uint64_t number = 0;; number++) {
		struct sender_round round;
		uint64_t pending;
		int r = send_running_round(s, number, &round, &pending, err);
		if (r < 0)
			return r;
		round.throttle_percent = verdict.throttle_percent;
		convergence_round(&convergence, &round.record, pending, &verdict);
		if (verdict.action == CONVERGENCE_THROTTLE)
			throttle(s, &convergence, &verdict);
		round.remaining_ns = verdict.remaining_ns;
		memcpy(round.why, verdict.why, sizeof(round.why));
		report_round(s, &round);
		if (verdict.action == CONVERGENCE_ABORT)
			return tide_say(err, "%s", verdict.why);
		if (verdict.action == CONVERGENCE_FREEZE) {
			s->result.fits = verdict.fits;
			*ret_next = number + 1;
			return 0;
		}
	}
}

static int send_state(struct sender *s, struct tide_error *err)
{
	const struct process_state *state;
	int r = s->source->ops->state(s->source, &state, err);
	if (r < 0)
		return r;
	s->result.nthreads = state->nthreads;
	for (size_t at = 0; at < state->nthreads || at == 0;) {
		r = SEND(s, state_encode(PROCESS_NUMBER, state, &at, &out), err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int commit(struct sender *s, uint64_t rounds, uint64_t held_pages, struct tide_error *err)
{
	struct commit m = {.rounds = rounds, .held_pages = held_pages};
	memcpy(m.stream_id, s->result.stream_id, sizeof(m.stream_id));
	pthread_mutex_lock(&s->lock);
	s->is_commit_sent = true;
	pthread_mutex_unlock(&s->lock);
	return SEND(s, commit_encode(&m, &out), err);
}

/* A recording is held once it has ended in order: then its file is synced and has its name. */
static int wait_for_commit(struct sender *s, struct tide_error *err)
{
	bool two_way = connection_peer(s->conns[0])->is_two_way;
	if (!two_way)
		connection_shutdown(s->conns[0]);

	pthread_mutex_lock(&s->lock);
	while (!(two_way ? s->is_committed : s->ended) && !s->failed)
		pthread_cond_wait(&s->changed, &s->lock);
	/* What went wrong after the other end said that it holds everything concerns nobody. */
	int r = s->is_committed || !s->failed ? 0 : s->error.code;
	if (r < 0)
		*err = s->error;
	else
		s->result.stored_bytes = s->committed.stored_bytes;
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int thaw(struct sender *s, uint64_t stopped_at_ns, struct tide_error *err)
{
	int r = s->source->ops->thaw(s->source, s->options.after, err);
	s->result.downtime_ns = clock_now_ns() - stopped_at_ns;
	pthread_mutex_lock(&s->lock);
	s->progress.frozen = false;
	pthread_mutex_unlock(&s->lock);
	return r;
}

/*
 * The last round. A process that goes on is let go as soon as its pages are copied out: before the
 * stream is complete, and before anybody waits for the other end. One that shall not go on stands
 * still until the other end holds everything.
 */
static int send_final_round(struct sender *s, uint64_t number, struct tide_error *err)
{
	int r = wait_for_reports(s, err);
	if (r < 0)
		return r;
	/* The limit is for the sake of others on the link; it is not worth a longer downtime. */
	shared_pacing_set(&s->pacing, 0);
	uint64_t began_ns = clock_now_ns();
	r = s->source->ops->freeze(s->source, s->options.freeze_timeout_ns, err);
	if (r < 0)
		return r;

	const struct change_set *c;
	r = s->source->ops->collect(s->source, &c, err);
	if (r == 0)
		r = send_round(s, number, true, c, err);
	if (r == 0)
		r = send_state(s, err);
	bool goes_on = s->options.after == THAW_RUN;
	if (r == 0 && goes_on)
		r = thaw(s, began_ns, err);
	if (r == 0) {
		s->result.held_pages = c->held_pages;
		r = commit(s, number + 1, c->held_pages, err);
	}
	if (r == 0)
		r = wait_for_commit(s, err);
	if (r == 0 && !goes_on)
		r = s->source->ops->freeze_keep(s->source, err);
	if (r == 0 && !goes_on)
		r = thaw(s, began_ns, err);
	if (r < 0)
		return r;

	struct round_record record = record_of(s, number, c, began_ns);
	struct sender_round round = describe_round(s, &record, c);
	round.final = true;
	report_round(s, &round);
	return 0;
}

static int run_session(struct sender *s, struct tide_error *err)
{
	uint64_t final_round = 0;
	int r = open_session(s, err);
	if (r == 0)
		r = begin_stream(s, err);
	if (r == 0)
		r = send_rounds(s, &final_round, err);
	if (r == 0)
		r = send_final_round(s, final_round, err);
	if (r == 0)
		s->result.rounds = final_round + 1;
	return r;
}

static void *drive(void *arg)
{
	struct sender *s = arg;
	uint64_t began_ns = clock_now_ns();
	struct tide_error err = {0};
	int r = run_session(s, &err);
	if (r < 0)
		fail(s, &err);

	/* The process comes first: it is free before anybody is told anything. */
	struct page_sums sums;
	page_workers_end(s->workers);
	page_workers_sums(s->workers, NULL, &sums);
	s->source->ops->release(s->source);

	pthread_mutex_lock(&s->lock);
	s->result.total_ns = clock_now_ns() - began_ns;
	s->result.pages_sent = sums.pages;
	s->result.unchanged_pages = sums.unchanged_pages;
	s->result.wire_bytes = sums.wire_bytes + s->message_bytes;
	s->result.stats = sums.stats;
	s->failed = r < 0;
	if (r < 0)
		s->error = s->error.code ? s->error : err;
	s->done = true;
	pthread_mutex_unlock(&s->lock);
	uv_async_send(&s->wake);
	return NULL;
}

/* --- the loop
 * ------------------------------------------------------------------------------------- */

static void on_frame(void *arg, struct connection *conn, const struct frame *f)
{
	struct sender *s = arg;
	struct tide_error err;
	struct round_ack ack;
	struct open_reply reply;
	struct join_reply joined;
	struct committed committed;
	char name[16];
	int r = 0;

	/* What the session does is said on the first connection alone. */
	bool in_place = (conn == s->conns[0]) != (f->type == FRAME_JOINED);
	switch (in_place || f->type == FRAME_ERROR ? f->type : 0) {
	case FRAME_OPENED:
		r = open_reply_decode(f, &reply, &err);
		break;
	case FRAME_JOINED:
		r = join_reply_decode(f, &joined, &err);
		break;
	case FRAME_ACK:
		r = round_ack_decode(f, &ack, &err);
		break;
	case FRAME_COMMITTED:
		r = committed_decode(f, &committed, &err);
		if (r == 0 && memcmp(committed.stream_id, s->result.stream_id, ID_BYTES) != 0)
			r = tide_bad(
				&err, "%s committed another stream", connection_peer(conn)->name);
		break;
	case FRAME_ERROR:
		r = handshake_peer_error(conn, "agent", f, &err);
		break;
	default:
		if (!(f->flags & FRAME_CRITICAL))
			return;
		r = tide_bad(&err, "%s sent a %s frame in the middle of a session",
			connection_peer(conn)->name, frame_type_name(f->type, name));
	}

	pthread_mutex_lock(&s->lock);
	if (r < 0) {
		fail_locked(s, &err);
	} else if (f->type == FRAME_OPENED) {
		s->opened = true;
	} else if (f->type == FRAME_JOINED) {
		s->njoined++;
	} else if (f->type == FRAME_ACK) {
		s->acked_round = (int64_t)ack.round;
	} else {
		s->committed = committed;
		s->is_committed = true;
	}
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

static void on_ended(void *arg, struct connection *conn, const struct tide_error *err)
{
	struct sender *s = arg;
	struct tide_error gone;
	if (!err && connection_peer(conn)->is_two_way) {
		tide_say(&gone, "%s closed the connection before it had everything",
			connection_peer(conn)->name);
		err = &gone;
	}
	pthread_mutex_lock(&s->lock);
	/* The others are closed once everything is held, and nothing says that we hear of that
	 * first. Whether it is held, the first connection tells. */
	if (err == &gone && conn != s->conns[0] && s->is_commit_sent) {
		pthread_mutex_unlock(&s->lock);
		return;
	}
	s->ended = true;
	bool is_committed = s->is_committed;
	if (err)
		fail_locked(s, err);
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	/* A session is as good as the worst of its connections: whoever waits in another one is
	 * freed. */
	for (unsigned i = 0; err && !is_committed && i < s->nconns; i++)
		if (s->conns[i] != conn)
			connection_fail(s->conns[i], err);
}

static void on_everything_closed(struct sender *s)
{
	if (--s->closing > 0)
		return;
	pthread_join(s->driver, NULL);
	s->callbacks.done(s->arg, s->failed ? NULL : &s->result, s->failed ? &s->error : NULL);
}

static void on_connection_gone(void *arg)
{
	on_everything_closed(arg);
}

static void on_wake_closed(uv_handle_t *handle)
{
	on_everything_closed(handle->data);
}

static void on_wake(uv_async_t *wake)
{
	struct sender *s = wake->data;
	pthread_mutex_lock(&s->lock);
	struct report *reports = s->reports;
	s->reports = NULL;
	s->last_report = &s->reports;
	s->reporting = reports != NULL;
	bool done = s->done;
	pthread_mutex_unlock(&s->lock);

	while (reports) {
		struct report *next = reports->next;
		s->callbacks.round(s->arg, &reports->round);
		free(reports);
		reports = next;
	}
	pthread_mutex_lock(&s->lock);
	s->reporting = false;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	if (!done || s->closing)
		return;
	s->closing = (int)s->nconns + 1;
	for (unsigned i = 0; i < s->nconns; i++)
		connection_close(s->conns[i], on_connection_gone, s);
	uv_close((uv_handle_t *)&s->wake, on_wake_closed);
}

void sender_cancel(struct sender *s)
{
	struct tide_error err;
	tide_fail_kind(&err, TIDE_ERROR_FAILED, -ECANCELED, "interrupted");
	fail(s, &err);
	/* Frees those who wait for room in their queues. */
	for (unsigned i = 0; i < s->nconns; i++)
		connection_fail(s->conns[i], &err);
}

void sender_progress(struct sender *s, struct sender_progress *ret)
{
	struct page_sums of_round, of_all;
	pthread_mutex_lock(&s->lock);
	*ret = s->progress;
	ret->wire_bytes = s->message_bytes;
	page_workers_sums(s->workers, &of_round, &of_all);
	pthread_mutex_unlock(&s->lock);
	ret->round_pages_done = of_round.pages + of_round.unchanged_pages;
	ret->pages_sent = of_all.pages;
	ret->wire_bytes += of_all.wire_bytes;
}

void sender_free(struct sender *s)
{
	if (!s)
		return;
	page_workers_free(s->workers);
	free(s->conns);
	page_hashes_free(s->hashes);
	delta_cache_free(s->deltas);
	shared_pacing_release(&s->pacing);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->changed);
	free(s);
}

/* For this session alone: what an earlier one sent may have ended anywhere. */
static int make_deltas(struct sender *s)
{
	struct delta_cache_options o = {
		.page_bytes = s->page_bytes, .bytes_max = s->options.delta_cache_bytes};
	return o.bytes_max ? delta_cache_new(&o, &s->deltas) : 0;
}

static int make_hashes(struct sender *s)
{
	struct page_hashes_options o = {
		.page_bytes = s->page_bytes,
		.bytes_max = s->options.hash_bytes_max ? s->options.hash_bytes_max : HASH_BYTES_MAX,
		.compare_all = s->options.compare_all,
	};
	int r = 0;
	if (getrandom(o.secret, sizeof(o.secret), 0) != sizeof(o.secret))
		r = -errno;
	if (r == 0)
		r = page_hashes_new(&o, &s->hashes);
	explicit_bzero(&o, sizeof(o));
	return r;
}

static void on_worker_failed(void *arg, const struct tide_error *err)
{
	struct sender *s = arg;
	fail(s, err);
	/* Other workers may wait for room, and the process for them. */
	for (unsigned i = 0; i < s->nconns; i++)
		connection_fail(s->conns[i], err);
}

static int start_workers(struct sender *s)
{
	return page_workers_new(
		&(struct page_workers_options){
			.source = s->source,
			.hashes = s->hashes,
			.conns = s->conns,
			.nconns = s->nconns,
			.deltas = s->deltas,
			.codec = s->options.codec,
			.choose_from = s->options.choose_from,
			.limits = s->options.limits,
			.page_bytes = s->page_bytes,
			.threads = s->options.threads,
			.paced = s->options.max_bytes_per_second != 0,
			.failed = on_worker_failed,
			.arg = s,
		},
		&s->workers);
}

/* It inherits a mask that keeps the signals for the program whose library we are. */
static int start_driver(struct sender *s)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = -pthread_create(&s->driver, NULL, drive, s);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

void sender_options_agree(struct sender_options *options, const struct agreement *agreement)
{
	const struct codec *codec = options->codec;
	if (codec && codec->feature & ~agreement->features)
		codec = &codec_lz4;
	if (codec && codec->feature & ~agreement->features)
		codec = NULL;
	options->codec = codec;
	options->choose_from &= agreement->features;
	if (!(agreement->features & FEATURE_DELTA))
		options->delta_cache_bytes = 0;
	options->limits = agreement->limits;
}

static void on_wake_closed_early(uv_handle_t *handle)
{
	sender_free(handle->data);
}

int sender_start(uv_loop_t *loop, struct connection *const *conns, unsigned nconns,
	struct page_source *source, const struct sender_options *options,
	const struct sender_callbacks *callbacks, void *arg, struct sender **ret,
	struct tide_error *err)
{
	bool woken = false;
	struct sender *s = calloc(1, sizeof(*s));
	int r = s ? 0 : -ENOMEM;
	if (r == 0) {
		s->conns = calloc(nconns, sizeof(struct connection *));
		s->nconns = nconns;
		s->source = source;
		s->options = *options;
		if (options->name)
			strncpy(s->name, options->name, NAME_MAX_BYTES);
		s->callbacks = *callbacks;
		s->arg = arg;
		s->acked_round = -1;
		s->last_report = &s->reports;
		s->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
		pthread_mutex_init(&s->lock, NULL);
		pthread_cond_init(&s->changed, NULL);
		shared_pacing_init(&s->pacing);
		r = s->conns ? make_hashes(s) : -ENOMEM;
		if (r == 0)
			r = make_deltas(s);
	}
	if (r == 0)
		memcpy(s->conns, conns, nconns * sizeof(struct connection *));
	if (r == 0)
		r = start_workers(s);
	if (r == 0) {
		r = uv_async_init(loop, &s->wake, on_wake);
		s->wake.data = s;
		woken = r == 0;
	}
	if (r == 0) {
		shared_pacing_set(&s->pacing, options->max_bytes_per_second);
		struct connection_handler handler = {
			.frame = on_frame, .ended = on_ended, .arg = s};
		for (unsigned i = 0; i < nconns; i++) {
			connection_pace(conns[i], &s->pacing);
			connection_set_handler(conns[i], &handler);
			connection_resume(conns[i]);
		}
		r = start_driver(s);
	}
	if (r == 0) {
		*ret = s;
		return 0;
	}

	source->ops->release(source);
	for (unsigned i = 0; i < nconns; i++)
		connection_close(conns[i], NULL, NULL);
	if (woken)
		uv_close((uv_handle_t *)&s->wake, on_wake_closed_early);
	else
		sender_free(s);
	return tide_fail(err, r, "start sending");
}
