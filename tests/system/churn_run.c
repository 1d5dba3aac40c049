/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>
#include "base/clock.h"
#include "base/guard.h"
#include "proto/page_source.h"
#include "proto/pageset.h"
#include "tests/system/churn_run.h"
#include "tests/system/oracle.h"
#include "tests/workloads/churn_log.h"
#include "tidemark/agent.h"
#include "tidemark/send.h"
#include "tracker/backend.h"
#include "tracker/source.h"

enum { PAGE = 4096, SHOWN_DIFFERENCES = 4, SHOWN_RECORDS = 24 };

/* What became of pages in a round. */
enum event_kind { SENT, SENT_ZERO, DOUBTFUL, UNREADABLE, DROPPED, BACK_TO_FILE, LOST, COLLECT };
static const char *const event_names[] = {"sent", "sent as zero", "sent if it differs",
	"could not be read, owed", "dropped", "dropped: the file's again", "LOST ON PURPOSE",
	"looked"};

struct event {
	enum event_kind kind;
	uint32_t round; /* counts refused ones */
	space_id space;
	uint64_t start, end;
	uint64_t ns;
};

struct run {
	const struct churn_options *options;
	struct churn_result *result;
	uint64_t random;
	char folder[128]; /* of churn's files */
	char store[160];  /* in memory where there is some: disks are not the subject */
	uv_loop_t loop;
	struct tide_agent *agent;
	bool agent_closed;
	pid_t pid, helper;
	int out; /* of churn */
	const struct churn_log *log;

	/* of the send under way */
	struct tide_send *send;
	bool done;
	struct tide_error error;
	uint64_t cancel_after; /* rounds; UINT64_MAX */
	uint64_t frozen_ns;
	pthread_mutex_t lock;
	struct event *events;
	size_t nevents, cap_events;
	unsigned shown;
	struct pageset populated; /* private memory without a file that had pages at the freeze */
};

static uint64_t draw(struct run *run, uint64_t below)
{
	uint64_t z = run->random += 0x9e3779b97f4a7c15ull;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	z ^= z >> 31;
	return below ? z % below : z;
}

static bool chance(struct run *run, unsigned percent)
{
	return draw(run, 100) < percent;
}

static enum churn_verdict trouble(struct run *run, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
static enum churn_verdict trouble(struct run *run, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	/* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): one line above */
	vsnprintf(run->result->trouble, sizeof(run->result->trouble), fmt, args);
	va_end(args);
	return CHURN_TROUBLE;
}

static void note_event(struct run *run, enum event_kind kind, uint32_t round, space_id space,
	uint64_t start, uint64_t end)
{
	pthread_mutex_lock(&run->lock);
	if (run->nevents == run->cap_events) {
		size_t cap = run->cap_events ? run->cap_events * 2 : 4096;
		struct event *v = reallocarray(run->events, cap, sizeof(*v));
		if (!v)
			abort();
		run->events = v;
		run->cap_events = cap;
	}
	run->events[run->nevents++] =
		(struct event){kind, round, space, start, end, clock_now_ns()};
	pthread_mutex_unlock(&run->lock);
}

/* --- processes ----------------------------------------------------------------------------- */

static char state_letter(pid_t pid)
{
	char path[64], text[512];
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	auto_fclose FILE *f = fopen(path, "re");
	size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
	text[n] = '\0';
	const char *end = strrchr(text, ')');
	return end ? end[2] : 0;
}

/* It has written its last when it is stopped, not when it is asked to. */
static void stop_helper(struct run *run)
{
	if (run->helper <= 0)
		return;
	kill(run->helper, SIGSTOP);
	for (char c; (c = state_letter(run->helper)) && c != 'T' && c != 't' && c != 'Z';)
		usleep(200);
}

static void let_helper_go(struct run *run)
{
	if (run->helper > 0)
		kill(run->helper, SIGCONT);
}

static void become_churn(struct run *run, int out)
{
	const struct churn_options *o = run->options;
	char seed[32], memory[16], threads[16], pace[16], log[160];
	const char *argv[24];
	int n = 0;
	snprintf(seed, sizeof(seed), "%" PRIu64, o->seed);
	snprintf(memory, sizeof(memory), "%u", o->memory_mib);
	snprintf(threads, sizeof(threads), "%u", o->threads);
	snprintf(pace, sizeof(pace), "%u", o->pace_us);
	snprintf(log, sizeof(log), "%s/log", run->folder);
	const char *const options[][2] = {{"--seed", seed}, {"--log", log}, {"--dir", run->folder},
		{"--memory", o->memory_mib ? memory : NULL},
		{"--threads", o->threads ? threads : NULL}, {"--pace", o->pace_us ? pace : NULL},
		{"--only", o->only}, {"--without", o->without}};
	argv[n++] = o->program;
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		if (options[i][1]) {
			argv[n++] = options[i][0];
			argv[n++] = options[i][1];
		}
	}
	if (o->no_helper)
		argv[n++] = "--no-helper";
	argv[n] = NULL;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(out, 1);
	close_range(3, ~0u, 0);
	execv(o->program, (char *const *)(uintptr_t)argv);
	dprintf(2, "cannot run %s: %s\n", o->program, strerror(errno));
	_exit(127);
}

/* The next line that churn says, without its end; false where it says no more. */
static bool read_line(struct run *run, char *buf, size_t size)
{
	size_t n = 0;
	for (char c; n + 1 < size && read(run->out, &c, 1) == 1 && c != '\n';)
		buf[n++] = c;
	buf[n] = '\0';
	return n > 0;
}

static enum churn_verdict start_churn(struct run *run)
{
	int out[2];
	char line[64], path[160];
	if (pipe2(out, O_CLOEXEC) < 0)
		return trouble(run, "pipe: %s", strerror(errno));
	fflush(NULL);
	run->pid = fork();
	if (run->pid == 0)
		become_churn(run, out[1]);
	close(out[1]);
	run->out = out[0];
	if (run->pid < 0 || !read_line(run, line, sizeof(line)) ||
		sscanf(line, "ready %d", &run->helper) != 1)
		return trouble(run, "churn does not start");

	snprintf(path, sizeof(path), "%s/log", run->folder);
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *log =
		fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*run->log), PROT_READ, MAP_SHARED, fd, 0);
	if (log == MAP_FAILED)
		return trouble(run, "churn's log: %s", strerror(errno));
	run->log = log;
	return CHURN_SAME;
}

/* Where churn ended of itself it is not the sender that has something to say. */
static enum churn_verdict churn_ended(struct run *run, int status)
{
	run->pid = 0;
	return trouble(run, "churn was harmed: %s %d: %s",
		WIFSIGNALED(status) ? "signal" : "status",
		WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
		run->result->last_words);
}

static enum churn_verdict end_churn(struct run *run)
{
	char line[sizeof(run->result->last_words)];
	let_helper_go(run);
	kill(run->pid, SIGTERM);
	kill(run->pid, SIGCONT);
	while (read_line(run, line, sizeof(line)))
		snprintf(run->result->last_words, sizeof(run->result->last_words), "%s", line);
	int status = 0;
	while (waitpid(run->pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return churn_ended(run, status);
	run->pid = 0;
	return CHURN_SAME;
}

/* --- the one between source and sender ----------------------------------------------------- */

struct between {
	struct page_source base;
	struct page_source *inner;
	struct run *run;
	struct change_set handed; /* the source's, of which some may have been left out */
	struct page_drop *drops;
	struct page_span *written;
	uint32_t round;
	uint64_t stop_helper_at; /* the round before which it is stopped */
	uint64_t pending;
	bool frozen;
};

static struct between *between(struct page_source *s)
{
	return (struct between *)s;
}

static void nap(struct run *run, uint64_t max_us)
{
	usleep((useconds_t)draw(run, max_us + 1));
}

/* Does the other end hold all of it, for sure? Then it does not notice that it is not sent again.
 */
static bool is_there(const struct run *run, const struct page_span *s)
{
	bool there = false;
	for (size_t i = 0; i < run->nevents; i++) {
		const struct event *e = &run->events[i];
		if (e->kind == COLLECT || e->space != s->space || e->end <= s->at ||
			s->at + s->bytes <= e->start)
			continue;
		bool all = e->start <= s->at && s->at + s->bytes <= e->end;
		there = e->kind == SENT ? there || all : there && e->kind == SENT_ZERO;
	}
	return there;
}

static void lose_written(struct between *b)
{
	size_t kept = 0;
	for (size_t i = 0; i < b->handed.nwritten; i++) {
		const struct page_span *s = &b->handed.written[i];
		if (!s->doubtful && is_there(b->run, s)) {
			note_event(b->run, LOST, b->round, s->space, s->at, s->at + s->bytes);
			b->handed.written_pages -= s->bytes / PAGE;
			continue;
		}
		b->written[kept++] = *s;
	}
	b->handed.written = b->written;
	b->handed.nwritten = kept;
}

static void lose_drops(struct between *b)
{
	for (size_t i = 0; i < b->handed.ndrops; i++) {
		const struct page_drop *d = &b->handed.drops[i];
		/* Those of mappings that went would not fit anywhere. */
		note_event(b->run, LOST, b->round, d->space, d->run.start, d->run.end);
		b->handed.held_pages += (d->run.end - d->run.start) / PAGE;
	}
	b->handed.ndrops = 0;
}

static void remember(struct between *b)
{
	const struct change_set *c = &b->handed;
	for (size_t i = 0; i < c->nwritten; i++) {
		const struct page_span *s = &c->written[i];
		note_event(b->run,
			s->zero       ? SENT_ZERO
			: s->doubtful ? DOUBTFUL
				      : SENT,
			b->round, s->space, s->at, s->at + s->bytes);
	}
	for (size_t i = 0; i < c->ndrops; i++) {
		const struct page_drop *d = &c->drops[i];
		note_event(b->run, d->kind == DROP_GONE ? DROPPED : BACK_TO_FILE, b->round,
			d->space, d->run.start, d->run.end);
	}
	b->run->result->dropped_pages += c->dropped_pages;
	b->run->result->reread_pages += c->reread_pages;
}

static int between_collect(
	struct page_source *base, const struct change_set **ret, struct tide_error *err)
{
	struct between *b = between(base);
	struct run *run = b->run;
	const struct change_set *c;
	if (!b->frozen && b->round)
		nap(run, chance(run, 30) ? 60000 : 4000);
	if (!b->frozen && b->round >= b->stop_helper_at)
		stop_helper(run);
	uint64_t began_ns = clock_now_ns();
	int r = b->inner->ops->collect(b->inner, &c, err);
	note_event(run, COLLECT, b->round, 0, began_ns, clock_now_ns());
	/* A round that is never acknowledged: all of it is owed. */
	if (r == 0 && chance(run, 12)) {
		nap(run, 2000);
		run->result->refused_rounds++;
		b->round++;
		r = b->inner->ops->settle(b->inner, false, err);
		began_ns = clock_now_ns();
		if (r == 0)
			r = b->inner->ops->collect(b->inner, &c, err);
		note_event(run, COLLECT, b->round, 0, began_ns, clock_now_ns());
	}
	if (r < 0)
		return r;

	b->handed = *c;
	if (b->frozen && run->options->fault) {
		b->written = reallocarray(b->written, c->nwritten + 1, sizeof(*b->written));
		if (!b->written)
			abort();
		if (run->options->fault == CHURN_FAULT_LOSE_WRITTEN)
			lose_written(b);
		if (run->options->fault == CHURN_FAULT_LOSE_DROPS)
			lose_drops(b);
		if (run->options->fault == CHURN_FAULT_LOSE_MAPPINGS)
			b->handed.mappings = (struct mapping_diff){0};
	}
	remember(b);
	b->round++;
	run->result->rounds++;
	/* What is found may be gone, moved or other memory when it is read. */
	if (!b->frozen && chance(run, 50))
		nap(run, 10000);
	*ret = &b->handed;
	return 0;
}

/* The sender is to go on for as many rounds as the seed has it: shrinking, and never small enough.
 */
static int between_pending(struct page_source *base, uint64_t *ret_pages, struct tide_error *err)
{
	struct between *b = between(base);
	uint64_t pages;
	int r = b->inner->ops->pending(b->inner, &pages, err);
	b->pending = b->pending / 10 * 7;
	*ret_pages = b->pending;
	return r;
}

static int between_read(struct page_source *base, const struct page_span *spans, size_t nspans,
	void *buf, uint64_t *ret_bytes, struct tide_error *err)
{
	struct between *b = between(base);
	uint64_t wanted = 0;
	for (size_t i = 0; i < nspans; i++)
		wanted += spans[i].bytes;
	int r = b->inner->ops->read(b->inner, spans, nspans, buf, ret_bytes, err);
	if (r == 0 && *ret_bytes < wanted) {
		uint64_t got = *ret_bytes;
		while (got >= spans->bytes)
			got -= spans++->bytes;
		note_event(b->run, UNREADABLE, b->round - 1, spans->space, spans->at + got,
			spans->at + spans->bytes);
		__atomic_add_fetch(&b->run->result->unread_spans, 1, __ATOMIC_RELAXED);
	}
	return r;
}

static int between_settle(struct page_source *base, bool acknowledged, struct tide_error *err)
{
	struct between *b = between(base);
	return b->inner->ops->settle(b->inner, acknowledged, err);
}

static int between_describe(
	struct page_source *base, struct process_info *ret, struct tide_error *err)
{
	struct between *b = between(base);
	return b->inner->ops->describe(b->inner, ret, err);
}

static void note_entries(struct run *run, int pagemap_fd, struct page_run all)
{
	enum { ENTRIES = 4096, ENTRY = sizeof(uint64_t) };
	uint64_t entries[ENTRIES];
	for (uint64_t at = all.start; at < all.end; at += ENTRIES * PAGE) {
		uint64_t n = (all.end - at) / PAGE < ENTRIES ? (all.end - at) / PAGE : ENTRIES;
		if (pread(pagemap_fd, entries, n * ENTRY, (off_t)(at / PAGE * ENTRY)) !=
			(ssize_t)(n * ENTRY))
			return;
		for (uint64_t i = 0; i < n; i++) {
			bool is_there = entries[i] >> 62; /* present or swapped */
			uint64_t page = at + i * PAGE;
			if (is_there)
				pageset_add(&run->populated, (struct page_run){page, page + PAGE});
		}
	}
}

/* By a reading of its own, right behind the freeze. */
static void note_populated(struct run *run)
{
	char path[64], line[4096];
	pageset_clear(&run->populated);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", run->pid);
	auto_close int pagemap = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/maps", run->pid);
	auto_fclose FILE *maps = fopen(path, "re");
	while (maps && pagemap >= 0 && fgets(line, sizeof(line), maps)) {
		struct page_run all;
		unsigned long inode;
		char perms[5];
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*x %*s %lu", &all.start, &all.end,
			    perms, &inode) == 4 &&
			perms[3] == 'p' && inode == 0 && !strstr(line, "[v"))
			note_entries(run, pagemap, all);
	}
}

static int between_freeze(struct page_source *base, uint64_t timeout_ns, struct tide_error *err)
{
	struct between *b = between(base);
	nap(b->run, 5000);
	/* Others may write until here, and no longer: what is of one instant is ours alone. */
	stop_helper(b->run);
	int r = b->inner->ops->freeze(b->inner, timeout_ns, err);
	b->frozen = r == 0;
	b->run->frozen_ns = clock_now_ns();
	if (r == 0)
		note_populated(b->run);
	return r;
}

static int between_freeze_keep(struct page_source *base, struct tide_error *err)
{
	struct between *b = between(base);
	return b->inner->ops->freeze_keep(b->inner, err);
}

static int between_state(
	struct page_source *base, const struct process_state **ret, struct tide_error *err)
{
	struct between *b = between(base);
	return b->inner->ops->state(b->inner, ret, err);
}

static int between_thaw(struct page_source *base, enum thaw_mode mode, struct tide_error *err)
{
	struct between *b = between(base);
	b->frozen = false;
	return b->inner->ops->thaw(b->inner, mode, err);
}

static void between_release(struct page_source *base)
{
	struct between *b = between(base);
	b->inner->ops->release(b->inner);
	free(b->drops);
	free(b->written);
	free(b);
}

static const struct page_source_ops between_ops = {
	.describe = between_describe,
	.collect = between_collect,
	.pending = between_pending,
	.read = between_read,
	.settle = between_settle,
	.freeze = between_freeze,
	.freeze_keep = between_freeze_keep,
	.state = between_state,
	.thaw = between_thaw,
	.release = between_release,
};

/* --- what is said of a page that differs --------------------------------------------------- */

static void print_time(const struct run *run, uint64_t ns)
{
	printf("    %+12.6f s ", ((double)ns - (double)run->frozen_ns) / 1e9);
}

static void print_events(const struct run *run, const struct oracle_difference *d)
{
	printf("  what the tracker said of it (seconds from the freeze):\n");
	for (size_t i = 0; i < run->nevents; i++) {
		const struct event *e = &run->events[i];
		if (e->kind == COLLECT) {
			print_time(run, e->start);
			printf("round %u: looked, for %.1f ms\n", e->round,
				(double)(e->end - e->start) / 1e6);
		}
		if (e->kind == COLLECT || e->space != d->space || d->at < e->start ||
			d->at >= e->end)
			continue;
		print_time(run, e->ns);
		printf("round %u: %s (%#" PRIx64 "-%#" PRIx64 ")\n", e->round, event_names[e->kind],
			e->start, e->end);
	}
}

static int find_object(const struct churn_log *log, uint64_t inode)
{
	for (int i = 0; inode && i < CHURN_OBJECTS_MAX; i++) {
		if (log->objects[i].name[0] && log->objects[i].inode == inode)
			return i;
	}
	return -1;
}

static bool record_touches(
	const struct churn_record *r, const struct oracle_difference *d, int object)
{
	if (r->number == 0)
		return false;
	if (r->bytes && d->address < r->address + r->bytes && r->address < d->address + d->bytes)
		return true;
	return object >= 0 && r->object == object && d->is_page && d->file_offset >= r->at &&
	       d->file_offset < r->at + r->bytes;
}

static void print_records(const struct run *run, const struct oracle_difference *d)
{
	const struct churn_log *log = run->log;
	int object = find_object(log, d->inode);
	uint64_t last = log->next, first = last > CHURN_RECORDS ? last - CHURN_RECORDS + 1 : 1;
	const struct churn_record *found[SHOWN_RECORDS];
	size_t n = 0;
	for (uint64_t at = last; at >= first && at && n < SHOWN_RECORDS; at--) {
		const struct churn_record *r = &log->records[at % CHURN_RECORDS];
		if (r->number == at && record_touches(r, d, object))
			found[n++] = r;
	}
	printf("  what churn did there%s%s:\n", object >= 0 ? ", and to object " : "",
		object >= 0 ? log->objects[object].name : "");
	while (n-- > 0) {
		const struct churn_record *r = found[n];
		print_time(run, r->began_ns);
		if (r->ended_ns)
			printf("for %8.1f us ", (double)(r->ended_ns - r->began_ns) / 1e3);
		else
			printf("STILL UNDER WAY ");
		printf("thread %3u %s%s ", r->thread, log->ops[r->op],
			r->failed ? " (failed)" : "");
		if (r->address)
			printf("%#" PRIx64 "+%#" PRIx64 " ", r->address, r->bytes);
		if (r->object != CHURN_NO_OBJECT)
			printf("object %u (%s) %#" PRIx64 "+%#" PRIx64 " ", r->object,
				log->objects[r->object].name, r->at, r->bytes);
		printf("[%u]\n", r->value);
	}
}

/*
 * After MADV_FREE the kernel may take a page at any time, also while the process stands still and
 * after it was sent. True where the page was there at the freeze, and nothing happened to it since
 * it was freed but what leaves it so: a store would have, and the page would not be full of zeros.
 */
static bool is_lazily_freed(const struct run *run, const struct oracle_difference *d)
{
	static const char *const harmless[] = {"read", "check", "fork-advice", "name", "protect",
		"write", "write-some", "poke", "mergeable", NULL};
	const struct churn_log *log = run->log;
	uint64_t last = log->next, first = last > CHURN_RECORDS ? last - CHURN_RECORDS + 1 : 1;
	if (!d->is_page || !d->process_is_zero || d->inode ||
		!pageset_covers(
			&run->populated, (struct page_run){d->address, d->address + d->bytes}))
		return false;
	for (uint64_t at = last; at >= first && at; at--) {
		const struct churn_record *r = &log->records[at % CHURN_RECORDS];
		if (r->number != at || !record_touches(r, d, -1))
			continue;
		const char *op = log->ops[r->op];
		bool skip = r->failed && strcmp("collapse", op) == 0;
		for (size_t i = 0; harmless[i]; i++)
			skip |= strcmp(harmless[i], op) == 0;
		if (!skip)
			return strcmp(op, "free") == 0 && r->value == 0;
	}
	return false;
}

static bool on_difference(void *arg, const struct oracle_difference *d)
{
	struct run *run = arg;
	if (is_lazily_freed(run, d)) {
		run->result->lazy_pages++;
		return false;
	}
	if (run->options->fault || run->shown++ >= SHOWN_DIFFERENCES)
		return true;
	printf("DIFFERENT: seed %" PRIu64 ", backend %s, send %" PRIu64 ", %s %#" PRIx64
	       "+%#" PRIx64 " of %s: %s\n",
		run->options->seed, run->result->backend, run->result->sends,
		d->is_page ? "page" : "mapping", d->address, d->bytes, d->mapping, d->what);
	if (d->offset >= 0)
		printf("  from byte %d on: %#x in the image, %#x in the process\n", d->offset,
			d->image_byte, d->process_byte);
	if (d->is_page)
		print_events(run, d);
	print_records(run, d);
	fflush(stdout);
	return true;
}

/* --- sends --------------------------------------------------------------------------------- */

static void on_round(void *arg, const struct tide_send_round *round)
{
	struct run *run = arg;
	run->result->sent_pages += round->pages;
	if (round->number + 1 >= run->cancel_after && !round->final)
		tide_send_cancel(run->send);
}

static void on_done(void *arg, const struct tide_send_result *result, const struct tide_error *err)
{
	struct run *run = arg;
	(void)result;
	if (err)
		run->error = *err;
	run->done = true;
}

static enum churn_verdict open_between(struct run *run, uint64_t rounds, struct between **ret)
{
	struct tide_error err = {0};
	struct between *b = calloc(1, sizeof(*b));
	struct process_source_options options = {
		.backend = run->options->backend, .purpose = "churn's test"};
	if (!b)
		return trouble(run, "out of memory");
	if (process_source_open(run->pid, &options, &b->inner, &err) < 0) {
		free(b);
		trouble(run, "follow: %s: %s", err.text, tide_error_reason(&err));
		return CHURN_TROUBLE;
	}
	snprintf(run->result->backend, sizeof(run->result->backend), "%s",
		process_source_backend(b->inner));
	b->base.ops = &between_ops;
	b->run = run;
	b->pending = 1ull << 40;
	b->stop_helper_at = draw(run, rounds + 2);
	*ret = b;
	return CHURN_SAME;
}

static enum churn_verdict send_once(struct run *run, const char *name)
{
	static const struct tide_send_callbacks callbacks = {.round = on_round, .done = on_done};
	struct tide_error err = {0};
	struct tide_address address;
	struct between *b = NULL;
	uint64_t rounds = 1 + draw(run, 6);
	struct tide_send_options options = {.name = name,
		.codec = chance(run, 80) ? "lz4" : "none",
		.after = TIDE_AFTER_STOP,
		.threads = 1 + (unsigned)draw(run, 3),
		.max_downtime_ns = 1,
		.max_rounds = rounds,
		.freeze_timeout_ns = 120 * NS_PER_S,
		.timeout_ns = 240 * NS_PER_S};
	run->nevents = 0;
	run->done = false;
	run->error = (struct tide_error){0};
	run->cancel_after = chance(run, 5) ? draw(run, rounds) : UINT64_MAX;
	enum churn_verdict v = open_between(run, rounds, &b);
	if (v != CHURN_SAME)
		return v;
	if (tide_address_parse(tide_agent_address(run->agent), &address, &err) < 0 ||
		tide_send_start(&run->loop, (struct tide_source *)(void *)&b->base, &address,
			&options, &callbacks, run, &run->send, &err) < 0)
		return trouble(run, "send: %s: %s", err.text, tide_error_reason(&err));
	while (!run->done)
		uv_run(&run->loop, UV_RUN_ONCE);
	tide_send_free(run->send);
	run->send = NULL;
	return CHURN_SAME;
}

static void wait_until_stopped(struct run *run)
{
	siginfo_t info;
	while (waitid(P_PID, (id_t)run->pid, &info, WSTOPPED | WEXITED | WNOWAIT) < 0 &&
		errno == EINTR)
		;
}

static enum churn_verdict compare(struct run *run, const char *name)
{
	char path[320];
	struct oracle_result found;
	snprintf(path, sizeof(path), "%s/%s.tide", run->store, name);
	wait_until_stopped(run);
	run->shown = 0;
	if (oracle_compare_each(run->store, name, run->pid, on_difference, run, &found) < 0)
		return trouble(run, "the image cannot be held against the process");
	unlink(path);
	struct churn_result *r = run->result;
	r->compared_pages += found.compared_pages;
	r->different_pages += found.different_pages;
	r->different_mappings += found.different_mappings;
	r->mappings = found.mappings;
	if (run->options->verbose)
		printf("seed %" PRIu64 " %s: %" PRIu64 " rounds so far, %" PRIu64
		       " pages compared, %" PRIu64 " differ, %" PRIu64 " of %" PRIu64
		       " mappings differ\n",
			run->options->seed, name, r->rounds, found.compared_pages,
			found.different_pages, found.different_mappings, found.mappings);
	return found.different_pages || found.different_mappings ? CHURN_DIFFERS : CHURN_SAME;
}

/* One send and one comparison, and churn goes on. */
static enum churn_verdict go_around(struct run *run)
{
	char name[32];
	snprintf(name, sizeof(name), "send-%" PRIu64, run->result->sends);
	enum churn_verdict v = send_once(run, name);
	if (v != CHURN_SAME)
		return v;
	if (run->error.code == -ECANCELED && run->cancel_after != UINT64_MAX) {
		run->result->cancelled++;
	} else if (run->error.code) {
		int status;
		if (waitpid(run->pid, &status, WNOHANG) == run->pid)
			return churn_ended(run, status);
		return trouble(run, "send %" PRIu64 ": %s: %s", run->result->sends, run->error.text,
			tide_error_reason(&run->error));
	} else {
		v = compare(run, name);
		run->result->sends++;
	}
	let_helper_go(run);
	kill(run->pid, SIGCONT);
	return v;
}

/* --- the whole ----------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	remove(path);
	return 0;
}

static void on_agent_closed(void *arg)
{
	((struct run *)arg)->agent_closed = true;
}

static enum churn_verdict prepare(struct run *run)
{
	const struct churn_options *o = run->options;
	const struct backend_ops *backend;
	struct tide_error err = {0};
	const char *dir = o->dir ? o->dir : getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
	if (backend_choose(o->backend, &backend, &err) < 0) {
		trouble(run, "%s", err.text);
		return CHURN_CANNOT;
	}
	snprintf(run->result->backend, sizeof(run->result->backend), "%s", backend->name);
	snprintf(run->folder, sizeof(run->folder), "%.100s/churn-XXXXXX", dir);
	if (!mkdtemp(run->folder)) {
		run->folder[0] = '\0';
		return trouble(run, "make a folder in %s: %s", dir, strerror(errno));
	}
	char address[192];
	snprintf(address, sizeof(address), "unix:%s/socket", run->folder);
	snprintf(run->store, sizeof(run->store), "/dev/shm/churn-XXXXXX");
	if (!mkdtemp(run->store))
		snprintf(run->store, sizeof(run->store), "%s/store", run->folder);
	struct tide_agent_options options = {.store = run->store, .timeout_ns = 240 * NS_PER_S};
	static const struct tide_agent_callbacks callbacks;
	if (tide_address_parse(address, &options.listen, &err) < 0 ||
		tide_agent_start(&run->loop, &options, &callbacks, NULL, &run->agent, &err) < 0)
		return trouble(run, "%s: %s", err.text, tide_error_reason(&err));
	return start_churn(run);
}

static void clean_up(struct run *run)
{
	if (run->pid > 0) {
		kill(run->pid, SIGKILL);
		if (run->helper > 0)
			kill(run->helper, SIGKILL);
		while (waitpid(run->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (run->out >= 0)
		close(run->out);
	if (run->agent) {
		tide_agent_close(run->agent, on_agent_closed, run);
		while (!run->agent_closed)
			uv_run(&run->loop, UV_RUN_ONCE);
	}
	uv_run(&run->loop, UV_RUN_DEFAULT);
	uv_loop_close(&run->loop);
	if (run->log)
		munmap((void *)(uintptr_t)run->log, sizeof(*run->log));
	if (run->store[0])
		nftw(run->store, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	if (run->folder[0])
		nftw(run->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	pageset_release(&run->populated);
	free(run->events);
	pthread_mutex_destroy(&run->lock);
}

enum churn_verdict churn_run(const struct churn_options *options, struct churn_result *ret)
{
	*ret = (struct churn_result){0};
	struct run run = {.options = options,
		.result = ret,
		.random = options->seed * 7919 + 17,
		.out = -1,
		.lock = PTHREAD_MUTEX_INITIALIZER};
	uv_loop_init(&run.loop);
	signal(SIGPIPE, SIG_IGN);
	uint64_t until = clock_now_ns() + (uint64_t)(options->seconds * 1e9);
	enum churn_verdict v = prepare(&run);
	while (v == CHURN_SAME && (clock_now_ns() < until || ret->sends == 0))
		v = go_around(&run);
	if (v == CHURN_SAME)
		v = end_churn(&run);
	clean_up(&run);
	return v;
}
