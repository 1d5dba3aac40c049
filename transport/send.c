/* SPDX-License-Identifier: MIT */
/* A send from its address to its end: connects, greets, and leaves the rest to the sender. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/parallel.h"
#include "proto/page_source.h"
#include "tidemark/send.h"
#include "transport/address.h"
#include "transport/handshake.h"
#include "transport/sender.h"

#define MAX_DOWNTIME_NS (100 * NS_PER_MS)
#define FREEZE_TIMEOUT_NS (1 * NS_PER_S)
#define MAX_ROUNDS 30
#define STREAMS_MAX 64
#define DELTA_CACHE_BYTES ((uint64_t)64 << 20)

struct tide_send {
	uv_loop_t *loop;
	struct tide_address address;
	struct sender_options sender_options;
	char name[NAME_MAX_BYTES + 1];
	uint64_t timeout_ns;
	bool insecure_no_auth;
	bool has_key;
	struct auth_key key;
	struct tide_send_callbacks callbacks;
	void *arg;

	/* Whichever of these is there says how far it is. */
	struct byte_stream_attempt *attempt;
	struct connection **conns; /* `streams` of them, `nconns` are there */
	unsigned nconns, streams;
	struct sender *sender;
	struct page_source *source; /* until the sender has it */
	struct tide_error error;    /* before there was a sender */
	bool ended;                 /* nothing is started any more */
};

/* --- before there is a sender
 * ---------------------------------------------------------------------- */

static void on_given_up(void *arg)
{
	struct tide_send *s = arg;
	if (s->nconns > 0)
		s->nconns--;
	if (s->nconns == 0)
		s->callbacks.done(s->arg, NULL, &s->error);
}

/* The process first, then the connection; then the caller hears of it. */
static void give_up(struct tide_send *s, const struct tide_error *err)
{
	if (s->ended)
		return;
	s->ended = true;
	s->error = *err;
	if (s->source)
		s->source->ops->release(s->source);
	s->source = NULL;
	if (s->nconns == 0)
		on_given_up(s);
	for (unsigned i = 0, n = s->nconns; i < n; i++)
		connection_close(s->conns[i], on_given_up, s);
}

static void on_round(void *arg, const struct sender_round *r)
{
	struct tide_send *s = arg;
	if (!s->callbacks.round)
		return;
	struct tide_send_round round = {
		.number = r->record.number,
		.codec = r->codec,
		.final = r->final,
		.pages = r->record.pages,
		.dropped_pages = r->record.dropped_pages,
		.reread_pages = r->record.reread_pages,
		.unchanged_pages = r->record.unchanged_pages,
		.wire_bytes = r->record.wire_bytes,
		.duration_ns = r->record.duration_ns,
		.interval_ns = r->record.interval_ns,
		.dirty_bytes_per_second = r->dirty_bytes_per_second,
		.remaining_ns = r->remaining_ns,
		.throttle_percent = r->throttle_percent,
	};
	snprintf(round.why, sizeof(round.why), "%s%s%s", r->why,
		r->why[0] && r->note[0] ? "; " : "", r->note);
	s->callbacks.round(s->arg, &round);
}

static struct tide_send_form form_of(const struct sender_result *r, enum codec_id codec)
{
	uint64_t pages = r->stats.form[codec].pages;
	return (struct tide_send_form){
		.pages = pages,
		.saved_bytes = pages * r->page_bytes - r->stats.form[codec].bytes,
	};
}

static void on_done(void *arg, const struct sender_result *r, const struct tide_error *err)
{
	struct tide_send *s = arg;
	if (err) {
		s->callbacks.done(s->arg, NULL, err);
		return;
	}
	struct tide_send_result result = {
		.rounds = r->rounds,
		.total_ns = r->total_ns,
		.downtime_ns = r->downtime_ns,
		.pages_sent = r->pages_sent,
		.raw = form_of(r, CODEC_RAW),
		.zero = form_of(r, CODEC_ZERO),
		.lz4 = form_of(r, CODEC_LZ4),
		.zstd = form_of(r, CODEC_ZSTD),
		.delta = form_of(r, CODEC_DELTA),
		.unchanged_pages = r->unchanged_pages,
		.held_pages = r->held_pages,
		.page_bytes = r->page_bytes,
		.wire_bytes = r->wire_bytes,
		.stored_bytes = r->stored_bytes,
		.threads = r->nthreads,
		.throttle_percent = r->throttle_percent,
	};
	memcpy(result.id, r->stream_id, sizeof(result.id));
	s->callbacks.done(s->arg, &result, NULL);
}

static void start_sender(struct tide_send *s)
{
	static const struct sender_callbacks callbacks = {.round = on_round, .done = on_done};
	struct tide_error err;
	unsigned n = s->nconns;
	s->nconns = 0; /* the sender's */
	if (sender_start(s->loop, s->conns, n, take(s->source), &s->sender_options, &callbacks, s,
		    &s->sender, &err) < 0)
		give_up(s, &err);
}

static void on_stream(void *arg, struct byte_stream *stream, const struct tide_error *failed);

static void connect_next(struct tide_send *s)
{
	struct tide_error err;
	if (byte_stream_connect(
		    s->loop, &s->address, s->timeout_ns, on_stream, s, &s->attempt, &err) < 0)
		give_up(s, &err);
}

static void on_handshake(void *arg, struct connection *conn, const struct handshake_result *result,
	const struct tide_error *err)
{
	struct tide_send *s = arg;
	(void)conn;
	if (err) {
		give_up(s, err);
		return;
	}
	sender_options_agree(&s->sender_options, &result->agreement);
	/* Nor gets more than one connection who does not know what to make of them. */
	if (!(result->agreement.features & FEATURE_STREAMS))
		s->streams = 1;
	if (s->nconns < s->streams)
		connect_next(s);
	else
		start_sender(s);
}

/* Until the handshake takes the connection over, which it does at once. */
static void ignore_frame(void *arg, struct connection *conn, const struct frame *frame)
{
	(void)arg;
	(void)conn;
	(void)frame;
}

static void ignore_end(void *arg, struct connection *conn, const struct tide_error *err)
{
	(void)arg;
	(void)conn;
	(void)err;
}

static int open_connection(struct tide_send *s, struct byte_stream *stream, struct tide_error *err)
{
	struct connection_options options = {
		.direction = stream->peer.is_two_way ? CONNECTION_BOTH : CONNECTION_SEND,
		.queue_bytes = CONNECTION_QUEUE_BYTES / s->streams,
		.timeout_ns = s->timeout_ns,
	};
	struct connection_handler handler = {.frame = ignore_frame, .ended = ignore_end};
	int r = connection_open(s->loop, stream, &options, &handler, &s->conns[s->nconns], err);
	s->nconns += r == 0;
	return r;
}

static void on_stream(void *arg, struct byte_stream *stream, const struct tide_error *failed)
{
	struct tide_send *s = arg;
	struct tide_error err;
	s->attempt = NULL;
	if (failed) {
		give_up(s, failed);
		return;
	}
	struct handshake_options options = {
		.key = s->has_key ? &s->key : NULL,
		.insecure_no_auth = s->insecure_no_auth,
		.timeout_ns = s->timeout_ns,
	};
	if (open_connection(s, stream, &err) < 0 || handshake_client_start(s->conns[s->nconns - 1],
							    &options, on_handshake, s, &err) < 0)
		give_up(s, &err);
}

/* --- the public side
 * ------------------------------------------------------------------------------- */

static int take_options(
	struct tide_send *s, const struct tide_send_options *o, struct tide_error *err)
{
	static const enum thaw_mode modes[] = {[TIDE_AFTER_RUN] = THAW_RUN,
		[TIDE_AFTER_STOP] = THAW_STOP,
		[TIDE_AFTER_KILL] = THAW_KILL};
	static const enum if_diverging diverging[] = {[TIDE_DIVERGING_FREEZE] = DIVERGING_FREEZE,
		[TIDE_DIVERGING_THROTTLE] = DIVERGING_THROTTLE,
		[TIDE_DIVERGING_ABORT] = DIVERGING_ABORT};
	const char *codec = o->codec ? o->codec : "auto";
	bool is_auto = strcmp(codec, "auto") == 0;
	if (o->name && !image_name_valid(o->name))
		return tide_fail_kind(
			err, TIDE_ERROR_USAGE, -EINVAL, "an image cannot be called '%s'", o->name);
	snprintf(s->name, sizeof(s->name), "%s", o->name ? o->name : "");
	s->sender_options = (struct sender_options){
		.name = s->name,
		.sink = SINK_IMAGE,
		.codec = is_auto ? NULL : codec_by_name(codec),
		.choose_from = is_auto ? FEATURES_STORED : 0,
		.threads = o->threads ? o->threads : parallel_processors(),
		.max_downtime_ns = o->max_downtime_ns ? o->max_downtime_ns : MAX_DOWNTIME_NS,
		.max_rounds = o->max_rounds ? o->max_rounds : MAX_ROUNDS,
		.freeze_timeout_ns =
			o->freeze_timeout_ns ? o->freeze_timeout_ns : FREEZE_TIMEOUT_NS,
		.after = modes[o->after],
		.compare_all = true,
		.delta_cache_bytes =
			o->delta_cache_bytes ? o->delta_cache_bytes : DELTA_CACHE_BYTES,
		.max_bytes_per_second = o->max_bytes_per_second,
		.if_diverging = diverging[o->if_diverging],
		.limits = frame_limits_max,
	};
	if (o->no_delta)
		s->sender_options.delta_cache_bytes = 0;
	if (!s->sender_options.codec && !is_auto)
		return tide_fail_kind(
			err, TIDE_ERROR_USAGE, -EINVAL, "no codec is called '%s'", codec);
	s->streams = o->streams ? o->streams : 1;
	if (s->streams > STREAMS_MAX)
		return tide_fail_kind(err, TIDE_ERROR_USAGE, -EINVAL,
			"at most %d connections are possible", STREAMS_MAX);
	s->conns = calloc(s->streams, sizeof(struct connection *));
	if (!s->conns)
		return tide_fail(err, -ENOMEM, "start to send");
	s->timeout_ns = o->timeout_ns ? o->timeout_ns : CONNECTION_TIMEOUT_NS;
	s->insecure_no_auth = o->insecure_no_auth;
	s->has_key = o->key_file != NULL;
	return s->has_key ? auth_key_read(o->key_file, &s->key, err) : 0;
}

static int begin(struct tide_send *s, const struct tide_address *address, struct tide_error *err)
{
	struct byte_stream *stream;
	if (address_is_socket(address)) {
		if (!s->name[0])
			return tide_fail_kind(err, TIDE_ERROR_USAGE, -EINVAL,
				"an agent wants a name for the image");
		s->address = *address;
		return byte_stream_connect(
			s->loop, address, s->timeout_ns, on_stream, s, &s->attempt, err);
	}
	s->streams = 1;
	int r = byte_stream_open(s->loop, address, BYTE_STREAM_WRITE, &stream, err);
	if (r == 0)
		r = open_connection(s, stream, err);
	if (r < 0)
		return r;
	/* Whoever reads a recording holds no pages. */
	s->sender_options.delta_cache_bytes = 0;
	static const struct sender_callbacks callbacks = {.round = on_round, .done = on_done};
	unsigned n = s->nconns;
	s->nconns = 0; /* the sender's */
	return sender_start(s->loop, s->conns, n, take(s->source), &s->sender_options, &callbacks,
		s, &s->sender, err);
}

int tide_send_start(uv_loop_t *loop, struct tide_source *source, const struct tide_address *address,
	const struct tide_send_options *options, const struct tide_send_callbacks *callbacks,
	void *arg, struct tide_send **ret, struct tide_error *err)
{
	struct page_source *pages = page_source_of(source);
	struct tide_send *s = calloc(1, sizeof(*s));
	if (!s) {
		pages->ops->release(pages);
		return tide_fail(err, -ENOMEM, "start to send");
	}
	s->loop = loop;
	s->source = pages;
	s->callbacks = *callbacks;
	s->arg = arg;
	int r = take_options(s, options, err);
	if (r == 0)
		r = begin(s, address, err);
	if (r < 0) {
		if (s->source)
			s->source->ops->release(s->source);
		tide_send_free(s);
		return r;
	}
	*ret = s;
	return 0;
}

void tide_send_cancel(struct tide_send *s)
{
	struct tide_error err;
	if (s->sender) {
		sender_cancel(s->sender);
	} else if (s->attempt) {
		byte_stream_connect_cancel(s->attempt);
	} else {
		tide_fail_kind(&err, TIDE_ERROR_FAILED, -ECANCELED, "interrupted");
		give_up(s, &err);
	}
}

void tide_send_progress(struct tide_send *s, struct tide_send_progress *ret)
{
	struct sender_progress p = {0};
	if (s->sender)
		sender_progress(s->sender, &p);
	*ret = (struct tide_send_progress){
		.round = p.round,
		.frozen = p.frozen,
		.round_pages = p.round_pages,
		.round_pages_done = p.round_pages_done,
		.round_started_ns = p.round_started_ns,
		.pages_sent = p.pages_sent,
		.wire_bytes = p.wire_bytes,
	};
}

void tide_send_free(struct tide_send *s)
{
	if (!s)
		return;
	sender_free(s->sender);
	free(s->conns);
	auth_key_clear(&s->key);
	free(s);
}

void tide_source_close(struct tide_source *source)
{
	struct page_source *pages = page_source_of(source);
	if (pages)
		pages->ops->release(pages);
}
