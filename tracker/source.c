/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/error.h"
#include "tidemark/send.h"
#include "tracker/inspect.h"
#include "tracker/lock.h"
#include "tracker/process.h"
#include "tracker/reader.h"
#include "tracker/source.h"
#include "tracker/source_private.h"
#include "tracker/state.h"
#include "tracker/throttle.h"
#include "tracker/tracer.h"

/* What the round's line should say besides the figures. */
static void make_note(const struct process_source *s, const struct look *l, char *ret, size_t size)
{
	const struct written *w = &s->written;
	size_t at = 0;
	uint64_t shared =
		holdings_bytes(&w->doubtful) - pageset_bytes(&w->doubtful.v[SPACE_PRIVATE]);
	ret[0] = '\0';
	if (l->stopped_ns)
		at += (size_t)snprintf(
			ret, size, "stood still %.1f ms", (double)l->stopped_ns / NS_PER_MS);
	if (shared && at < size)
		at += (size_t)snprintf(
			ret + at, size - at, "%sshared memory re-read", at ? ", " : "");
	if (throttle_is_lost(s->throttle) && at < size)
		at += (size_t)snprintf(
			ret + at, size - at, "%snot slowed any more", at ? ", " : "");
	char hidden[HIDDEN_NOTE];
	hidden_report_note(l->hidden, hidden);
	/* What has no room is left out. */
	if (hidden[0] && at + 2 < size)
		snprintf(ret + at, size - at, "%s%.*s", at ? ", " : "", (int)(size - at - 3),
			hidden);
}

static int source_collect(
	struct page_source *base, const struct change_set **ret, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	uint64_t before = clock_now_ns();
	struct baseline b = {0};
	struct look look = {0};

	change_set_release(&s->changes);
	written_release(&s->written);
	baseline_release(&s->staged);

	int r = source_look(s, &look, err);
	if (r < 0)
		goto out;
	r = source_account(s, &look, &b, &s->written);
	if (r == 0)
		r = change_set_make(&s->settled, &b, &s->written, s->page_bytes, &s->changes);
	if (r < 0) {
		tide_fail(err, r, "note what process %d wrote", s->process->pid);
		goto out;
	}
	make_note(s, &look, s->changes.note, sizeof(s->changes.note));
	s->changes.to_reread_pages = source_to_reread(s, &b, &s->written);
	s->changes.doubts_to_come = s->verify_writes;
	s->changes.interval_ns = s->collected_at_ns ? look.at_ns - s->collected_at_ns : 0;
	s->changes.collect_ns = clock_now_ns() - before;
	s->collected_at_ns = look.at_ns;
	mapping_table_release(&s->last_maps);
	s->last_maps = look.maps;
	look.maps = (struct mapping_table){0};
	s->staged = b;
	b = (struct baseline){0};
	*ret = &s->changes;
out:
	/* What a failed collect armed would never show again. */
	s->start_over = r < 0;
	baseline_release(&b);
	look_release(&look);
	return r;
}

static int source_pending(struct page_source *base, uint64_t *ret_pages, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	const struct mapping_table *maps = &s->settled.maps;
	struct watch_list watches = {0};
	uint64_t pages = 0, doubtful = 0;
	int r = source_make_watches(&s->objects, maps, &watches);
	/* What will be read whole, as it was last time, need not be asked for. */
	size_t asked = 0;
	for (size_t i = 0; r == 0 && i < watches.len; i++) {
		const struct watch w = watches.v[i];
		if (w.kind == WATCH_SHARED &&
			objects_doubtful(&s->objects, maps->v[w.mapping].object))
			doubtful += (w.end - w.start) / s->page_bytes;
		else
			watches.v[asked++] = w;
	}
	watches.len = asked;
	if (r < 0)
		tide_fail(err, r, "note the mappings of process %d", s->process->pid);
	if (r == 0)
		r = s->backend->ops->pending(s->backend, maps, &watches, &pages, err);
	watch_list_release(&watches);
	if (r == 0)
		*ret_pages = pages + doubtful;
	return r;
}

/*
 * What is left of the span in which a read ended is owed, should it still be held when we look
 * again. All of it, not only the page that could not be read: where a mapping went, every page of
 * it would fail on its own.
 */
static int source_skip(struct process_source *s, const struct page_span *spans, uint64_t got,
	struct tide_error *err)
{
	while (got >= spans->bytes)
		got -= spans++->bytes;
	struct page_run rest = {spans->at + got, spans->at + spans->bytes};
	pthread_mutex_lock(&s->skipped_lock);
	int r = holdings_grow(&s->skipped, spans->space + 1);
	if (r == 0)
		r = pageset_add(&s->skipped.v[spans->space], rest);
	pthread_mutex_unlock(&s->skipped_lock);
	return r < 0 ? tide_fail(err, r, "keep in mind what process %d wrote", s->process->pid) : 0;
}

static int source_read(struct page_source *base, const struct page_span *spans, size_t nspans,
	void *buf, uint64_t *ret_bytes, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	enum { SOME = 256 };
	struct iovec remote[SOME];
	uint64_t bytes = 0;
	for (size_t i = 0; i < nspans; i += SOME) {
		size_t n = nspans - i < SOME ? nspans - i : SOME;
		uint64_t wanted = 0, got = 0;
		for (size_t k = 0; k < n; k++) {
			remote[k].iov_base = (void *)(uintptr_t)spans[i + k].address;
			remote[k].iov_len = spans[i + k].bytes;
			wanted += spans[i + k].bytes;
		}
		int r = reader_read(s->process, remote, n, (uint8_t *)buf + bytes, &got, err);
		if (r < 0)
			return r;
		/* Half a page is no page. */
		got -= got % s->page_bytes;
		bytes += got;
		if (got < wanted && s->frozen) {
			if (!tracer_is_frozen(s->tracer))
				/* Not to be kept any more: it says why. */
				return tracer_freeze_keep(s->tracer, err);
			uint64_t left = got;
			size_t k = 0;
			for (; left >= remote[k].iov_len; k++)
				left -= remote[k].iov_len;
			const struct mapping *m =
				mapping_table_find(&s->staged.maps, spans[i + k].address);
			return tide_say(err, "the page at %#llx (%s) of process %d cannot be read",
				(unsigned long long)(spans[i + k].address + left),
				m && m->name[0] ? m->name : "anonymous memory", s->process->pid);
		}
		if (got < wanted) {
			*ret_bytes = bytes;
			return source_skip(s, &spans[i], got, err);
		}
	}
	*ret_bytes = bytes;
	return 0;
}

static int source_settle(struct page_source *base, bool acknowledged, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	if (acknowledged) {
		holdings_release(&s->owed);
		s->owed = s->skipped;
		s->skipped = (struct holdings){0};
		baseline_release(&s->settled);
		s->settled = s->staged;
		s->staged = (struct baseline){0};
	} else {
		int r = holdings_merge(&s->owed, &s->written.pages);
		if (r < 0)
			return tide_fail(
				err, r, "keep in mind what process %d wrote", s->process->pid);
		baseline_release(&s->staged);
	}
	written_release(&s->written);
	return 0;
}

static int source_describe(
	struct page_source *base, struct process_info *ret, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	if (!s->info) {
		int r = process_describe(s->process, &s->info, err);
		if (r < 0)
			return r;
	}
	*ret = *s->info;
	return 0;
}

static void pause_throttle(void *arg)
{
	throttle_pause(arg);
}

static void resume_throttle(void *arg)
{
	throttle_resume(arg);
}

static int source_throttle(struct page_source *base, unsigned percent, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	if (!s->throttle) {
		int r = throttle_new(s->process, &s->throttle, err);
		if (r < 0)
			return r;
		tracer_around_stops(s->tracer, pause_throttle, resume_throttle, s->throttle);
	}
	return throttle_set(s->throttle, percent, err);
}

static int source_freeze(struct page_source *base, uint64_t timeout_ns, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	struct freeze_report report;
	/* What has its number by now is not stopped even for a moment. */
	int r = process_check(s->process, err);
	if (r == 0 && s->throttle)
		r = throttle_set(s->throttle, 0, err);
	if (r == 0)
		r = tracer_freeze(s->tracer, timeout_ns, &report, err);
	s->frozen = r == 0;
	return r;
}

static int source_freeze_keep(struct page_source *base, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	return tracer_freeze_keep(s->tracer, err);
}

static int source_state(
	struct page_source *base, const struct process_state **ret, struct tide_error *err)
{
	struct process_source *s = (struct process_source *)base;
	process_state_release(&s->state);
	int r = process_capture(s->process, s->tracer, &s->state, err);
	if (r == 0)
		*ret = &s->state;
	return r;
}

static int source_thaw(struct page_source *base, enum thaw_mode mode, struct tide_error *err)
{
	static const enum tracer_thaw_mode modes[] = {
		[THAW_RUN] = TRACER_RUN, [THAW_STOP] = TRACER_STOP, [THAW_KILL] = TRACER_KILL};
	struct process_source *s = (struct process_source *)base;
	s->frozen = false;
	return tracer_thaw(s->tracer, modes[mode], err);
}

static void source_release(struct page_source *base)
{
	struct process_source *s = (struct process_source *)base;
	if (s->frozen)
		(void)source_thaw(base, THAW_RUN, NULL);
	if (s->throttle)
		tracer_around_stops(s->tracer, NULL, NULL, NULL);
	throttle_free(s->throttle);
	if (s->backend)
		s->backend->ops->release(s->backend);
	tracer_stop(s->tracer);
	hidden_writes_close(s->hidden);
	process_close(s->process);
	track_lock_drop(s->lock);
	free(s->info);
	process_state_release(&s->state);
	objects_release(&s->objects);
	baseline_release(&s->settled);
	baseline_release(&s->staged);
	mapping_table_release(&s->last_maps);
	written_release(&s->written);
	holdings_release(&s->owed);
	holdings_release(&s->skipped);
	pthread_mutex_destroy(&s->skipped_lock);
	change_set_release(&s->changes);
	free(s);
}

static const struct page_source_ops process_source_ops = {
	.describe = source_describe,
	.collect = source_collect,
	.pending = source_pending,
	.read = source_read,
	.settle = source_settle,
	.freeze = source_freeze,
	.freeze_keep = source_freeze_keep,
	.state = source_state,
	.thaw = source_thaw,
	.throttle = source_throttle,
	.release = source_release,
};

/* What `tidemark check` says cannot be followed is not. */
static int refuse(pid_t pid, bool verify_writes, struct tide_error *err)
{
	struct inspection found;
	int r = process_inspect(pid, &found, err);
	if (r < 0)
		return r;
	for (size_t i = 0; r == 0 && i < found.nfindings; i++) {
		const struct finding *f = &found.findings[i];
		if (f->refused && !(f->verifiable && verify_writes))
			r = tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -ECANCELED,
				"process %d cannot be followed: %s", pid, f->text);
	}
	inspection_release(&found);
	return r;
}

int process_source_open(pid_t pid, const struct process_source_options *options,
	struct page_source **ret, struct tide_error *err)
{
	const struct backend_ops *backend;
	int r = backend_choose(options->backend, &backend, err);
	if (r < 0)
		return r;
	struct process_source *s = calloc(1, sizeof(*s));
	if (!s)
		return tide_fail(err, -ENOMEM, "follow process %d", pid);
	s->base.ops = &process_source_ops;
	s->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	s->verify_writes = options->verify_writes;
	pthread_mutex_init(&s->skipped_lock, NULL);

	r = refuse(pid, options->verify_writes, err);
	if (r == 0)
		r = process_open(pid, &s->process, err);
	if (r == 0)
		r = hidden_writes_open(s->process, &s->hidden, err);
	if (r == 0)
		r = track_lock_take(pid, s->process->start_time, options->purpose, &s->lock, err);
	if (r == 0)
		r = tracer_start(s->process, &s->tracer, err);
	if (r == 0)
		r = backend->attach(s->process, s->tracer, &s->backend, err);
	if (r < 0) {
		source_release(&s->base);
		return r;
	}
	*ret = &s->base;
	return 0;
}

const char *process_source_backend(const struct page_source *base)
{
	return ((const struct process_source *)base)->backend->ops->name;
}

int tide_process_source_open(pid_t pid, const struct tide_process_source_options *options,
	struct tide_source **ret, struct tide_error *err)
{
	struct page_source *source;
	struct process_source_options o = {.purpose = program_invocation_short_name};
	if (options) {
		o.backend = options->backend;
		o.verify_writes = options->verify_writes;
		if (options->purpose)
			o.purpose = options->purpose;
	}
	int r = process_source_open(pid, &o, &source, err);
	if (r == 0)
		*ret = (struct tide_source *)(void *)source;
	return r;
}
