/* SPDX-License-Identifier: MIT */
/*
 * Kills the tracer, over and over, at random instants and at chosen ones, and sees whether the
 * process that it was at work on takes any notice: dies, hangs, computes something wrong, keeps a
 * descriptor, has a call fail with EINTR. Only the last may happen, and only where docs/kernel.md
 * says so.
 */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/guard.h"
#include "tests/soak/targets.h"
#include "tracker/phase.h"
#include "tracker/process.h"
#include "tracker/tracer.h"

#define RANDOM_LIFE_MAX_NS (2 * NS_PER_MS)
#define PHASE_WAIT_MAX_NS (5 * NS_PER_MS)
#define PHASE_OFFSET_MAX_NS (12 * NS_PER_US)
/* Each thread of a target does a round in a few milliseconds at most, on a machine that has other
 * things to do. */
#define HANG_NS (10 * NS_PER_S)
#define ROUNDS_AFTER_KILL 2

static const char *const phase_names[PHASE_COUNT] = {
	[PHASE_IDLE] = "idle",
	[PHASE_ATTACH] = "attach",
	[PHASE_INTERRUPT] = "interrupt",
	[PHASE_STOPPED] = "stopped",
	[PHASE_STUB_WRITTEN] = "stub_written",
	[PHASE_COMMITTED] = "committed",
	[PHASE_FIRST_ENTRY] = "first_entry",
	[PHASE_FIRST_CHANGED] = "first_changed",
	[PHASE_FD_OPEN] = "fd_open",
	[PHASE_FD_TAKEN] = "fd_taken",
	[PHASE_CLOSING] = "closing",
	[PHASE_CLOSED] = "closed",
	[PHASE_RESTORED] = "restored",
	[PHASE_FREEZE_ATTACH] = "freeze_attach",
	[PHASE_FREEZE_INTERRUPT] = "freeze_interrupt",
	[PHASE_FROZEN] = "frozen",
	[PHASE_SHORTEN] = "shorten",
	[PHASE_THAW] = "thaw",
};

/* A time, as long as it takes on this machine: an emulated one (tests/vm) needs more. */
static uint64_t here(uint64_t ns)
{
	return getenv("TIDEMARK_EMULATED") ? 30 * ns : ns;
}

/* In memory shared with the tracer that is going to be killed. */
struct tracer_report {
	volatile int phase;
	volatile uint64_t injected, frozen, refused;
	volatile uint64_t stops, stopped_ns, stopped_max_ns;
	char refusal[sizeof((struct tide_error){0}.text) + 64];
};

struct tally {
	uint64_t kills, injected, frozen, refused;
	uint64_t deaths, hangs, wrong, leaks;
	uint64_t eintr_window, eintr_elsewhere;
	uint64_t filter_deaths; /* where the target's own filter may kill it */
	uint64_t by_phase[PHASE_COUNT], eintr_by_phase[PHASE_COUNT];
	uint64_t stops, stopped_ns,
		stopped_max_ns; /* asked to stop until all stand, sum and worst */
	char words[640];
};

struct options {
	uint64_t kills, seed;
	const char *kind;
	bool json;
};

struct target {
	const struct target_kind *kind;
	pid_t pid;
	uint64_t eintr_seen;
	unsigned descriptors; /* userfaultfds that it had when it began */
};

static struct target_report *target_report;
static struct tracer_report *tracer_report;
static uint64_t random_state;

static uint64_t random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static void spin_until(uint64_t ns)
{
	while (clock_now_ns() < ns)
		;
}

/* Gives way all the while: with the target and the tracer we are three, and there may be two
 * processors. */
static void tracer_await_phase(int phase, bool until_it_is)
{
	uint64_t deadline = clock_now_ns() + here(PHASE_WAIT_MAX_NS);
	while ((tracer_report->phase == phase) != until_it_is && clock_now_ns() < deadline)
		sched_yield();
}

/* What a phase promises about EINTR. */
static bool phase_is_window(int phase)
{
	return phase == PHASE_INTERRUPT || phase == PHASE_FREEZE_INTERRUPT;
}

/* Where a filter that kills on userfaultfd() sees the changed call. */
static bool phase_shows_filter(int phase)
{
	return phase == PHASE_FIRST_ENTRY || phase == PHASE_FIRST_CHANGED;
}

static void refused(const struct tide_error *err)
{
	tracer_report->refused++;
	snprintf(tracer_report->refusal, sizeof(tracer_report->refusal), "%s: %s", err->text,
		tide_error_reason(err));
}

static void freeze_once(struct tracer *t)
{
	struct tide_error err;
	struct freeze_report report;
	if (tracer_freeze(t, NS_PER_S, &report, &err) < 0) {
		refused(&err);
		return;
	}
	uint64_t ns = report.all_stopped_ns - report.stopped_at_ns;
	tracer_report->stops++;
	tracer_report->stopped_ns += ns;
	if (ns > tracer_report->stopped_max_ns)
		tracer_report->stopped_max_ns = ns;
	struct thread_state *states;
	size_t n;
	if (tracer_thread_states(t, &states, &n, &err) == 0)
		thread_states_free(states, n);
	else
		refused(&err);
	if (tracer_thaw(t, TRACER_RUN, &err) < 0)
		refused(&err);
	else
		tracer_report->frozen++;
}

static void inject_once(struct tracer *t)
{
	struct tide_error err;
	int fd;
	if (tracer_inject_userfaultfd(t, &fd, &err) < 0) {
		refused(&err);
		return;
	}
	close(fd);
	tracer_report->injected++;
}

/* The one that is killed. */
static void tracer_run(pid_t target)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	tracer_phase = &tracer_report->phase;
	for (;;) {
		struct tide_error err;
		struct process *p;
		struct tracer *t;
		if (process_open(target, &p, &err) < 0) {
			refused(&err);
			continue;
		}
		if (tracer_start(p, &t, &err) < 0)
			_exit(1);
		for (unsigned i = 0; i < 4; i++) {
			/* The second freeze of a tracer does more than the first. */
			freeze_once(t);
			inject_once(t);
			freeze_once(t);
		}
		tracer_stop(t);
		process_close(p);
	}
}

static unsigned target_count_userfaultfds(const struct target *t)
{
	struct process *p;
	if (process_open(t->pid, &p, NULL) < 0)
		return 0;
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/task/%d/fd", t->pid, process_find_thread(p));
	process_close(p);
	auto_closedir DIR *dir = opendir(path);
	unsigned n = 0;
	for (struct dirent *e; dir && (e = readdir(dir));) {
		char target[64];
		ssize_t len = readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1);
		if (len <= 0)
			continue;
		target[len] = '\0';
		n += strcmp(target, "anon_inode:[userfaultfd]") == 0;
	}
	return n;
}

enum outcome { OUTCOME_FINE, OUTCOME_DIED, OUTCOME_HANGS, OUTCOME_WRONG };

/* Waits until each thread has done some rounds from now on. */
static enum outcome target_await_rounds(struct target *t)
{
	uint64_t before[TARGET_THREADS_MAX];
	for (unsigned i = 0; i < t->kind->nthreads; i++)
		before[i] = target_report->progress[i];
	uint64_t deadline = clock_now_ns() + here(HANG_NS);
	for (unsigned i = 0; i < t->kind->nthreads;) {
		if (target_report->wrong)
			return OUTCOME_WRONG;
		if (target_report->progress[i] >= before[i] + ROUNDS_AFTER_KILL) {
			i++;
			continue;
		}
		siginfo_t info = {0};
		if (waitid(P_PID, (id_t)t->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
			info.si_pid == t->pid)
			return OUTCOME_DIED;
		if (clock_now_ns() >= deadline)
			return OUTCOME_HANGS;
		usleep(100);
	}
	return OUTCOME_FINE;
}

static void target_end(struct target *t)
{
	kill(t->pid, SIGKILL);
	waitpid(t->pid, NULL, 0);
}

/* False where it cannot run here. */
static bool target_start(struct target *t)
{
	memset((void *)target_report, 0, sizeof(*target_report));
	fflush(NULL);
	t->pid = fork();
	if (t->pid < 0)
		return false;
	if (t->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* A tracer's short life should go by in tracing, not in waiting for a processor. */
		setpriority(PRIO_PROCESS, 0, 10);
		t->kind->run(target_report);
		_exit(1);
	}
	if (target_await_rounds(t) != OUTCOME_FINE) {
		target_end(t);
		return false;
	}
	t->eintr_seen = target_report->eintr;
	t->descriptors = target_count_userfaultfds(t);
	return true;
}

/* Lets a tracer work and kills it, half the time wherever it is, half in or just after a chosen
 * phase. */
static int tracer_kill_one(pid_t target)
{
	uint64_t chosen = random_next(), offset = random_next();
	tracer_report->phase = PHASE_IDLE;
	fflush(NULL);
	pid_t pid = fork();
	if (pid < 0)
		return -1;
	if (pid == 0)
		tracer_run(target);

	tracer_await_phase(PHASE_IDLE, false);
	if (chosen & 1) {
		usleep((useconds_t)(offset % here(RANDOM_LIFE_MAX_NS) / NS_PER_US));
	} else {
		tracer_await_phase((int)((chosen >> 1) % PHASE_COUNT), true);
		spin_until(clock_now_ns() + offset % PHASE_OFFSET_MAX_NS);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return tracer_report->phase;
}

static void tally_note(struct tally *y, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void tally_note(struct tally *y, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	vsnprintf(y->words, sizeof(y->words), fmt, args);
	va_end(args);
}

static void tally_eintr(struct tally *y, struct target *t, int phase)
{
	uint64_t seen = target_report->eintr, n = seen - t->eintr_seen;
	t->eintr_seen = seen;
	y->eintr_by_phase[phase] += n;
	if (phase_is_window(phase)) {
		y->eintr_window += n;
	} else if (n > 0) {
		y->eintr_elsewhere += n;
		tally_note(y, "EINTR after a kill in phase %s", phase_names[phase]);
	}
}

static void tally_death(struct tally *y, const struct target *t, int phase)
{
	siginfo_t info = {0};
	waitid(P_PID, (id_t)t->pid, &info, WEXITED | WNOHANG | WNOWAIT);
	if (t->kind->filter_kills && phase_shows_filter(phase) && info.si_status == SIGSYS) {
		y->filter_deaths++;
		return;
	}
	y->deaths++;
	tally_note(y, "died after a kill in phase %s: %s %d", phase_names[phase],
		info.si_code == CLD_EXITED ? "exit" : "signal", info.si_status);
}

/* Sees how the target fares after a kill. False where it is no good any more. */
static bool tally_outcome(struct tally *y, struct target *t, int phase)
{
	switch (target_await_rounds(t)) {
	case OUTCOME_FINE:
		break;
	case OUTCOME_DIED:
		tally_death(y, t, phase);
		return false;
	case OUTCOME_HANGS:
		y->hangs++;
		tally_note(y, "hangs after a kill in phase %s", phase_names[phase]);
		return false;
	case OUTCOME_WRONG:
		y->wrong++;
		tally_note(y, "phase %s: %s", phase_names[phase], target_report->message);
		return false;
	}
	tally_eintr(y, t, phase);

	unsigned now = target_count_userfaultfds(t);
	if (now > t->descriptors) {
		y->leaks += now - t->descriptors;
		t->descriptors = now;
		tally_note(y, "a descriptor stayed after a kill in phase %s", phase_names[phase]);
	}
	return true;
}

/* False where the kind cannot run here. */
static bool kind_run(const struct target_kind *kind, uint64_t kills, struct tally *y)
{
	memset((void *)tracer_report, 0, sizeof(*tracer_report));
	struct target t = {.kind = kind};
	if (!target_start(&t))
		return false;
	bool up = true;
	while (y->kills < kills && up) {
		int phase = tracer_kill_one(t.pid);
		if (phase < 0) {
			tally_note(y, "fork: %s", strerror(errno));
			break;
		}
		y->kills++;
		y->by_phase[phase]++;
		if (!tally_outcome(y, &t, phase)) {
			target_end(&t);
			up = target_start(&t);
		}
	}
	if (up)
		target_end(&t);
	y->injected = tracer_report->injected;
	y->frozen = tracer_report->frozen;
	y->refused = tracer_report->refused;
	y->stops = tracer_report->stops;
	y->stopped_ns = tracer_report->stopped_ns;
	y->stopped_max_ns = tracer_report->stopped_max_ns;
	if (y->refused && !y->words[0])
		tally_note(y, "refused: %s", tracer_report->refusal);
	return true;
}

static bool tally_is_good(const struct tally *y)
{
	return y->deaths == 0 && y->hangs == 0 && y->wrong == 0 && y->leaks == 0 &&
	       y->eintr_elsewhere == 0;
}

static void tally_add(struct tally *sum, const struct tally *y)
{
	sum->kills += y->kills;
	sum->injected += y->injected;
	sum->frozen += y->frozen;
	sum->refused += y->refused;
	sum->deaths += y->deaths;
	sum->hangs += y->hangs;
	sum->wrong += y->wrong;
	sum->leaks += y->leaks;
	sum->eintr_window += y->eintr_window;
	sum->eintr_elsewhere += y->eintr_elsewhere;
	sum->filter_deaths += y->filter_deaths;
	for (unsigned i = 0; i < PHASE_COUNT; i++) {
		sum->by_phase[i] += y->by_phase[i];
		sum->eintr_by_phase[i] += y->eintr_by_phase[i];
	}
}

#define COUNTS(F)   \
	F(kills)    \
	F(injected) \
	F(frozen)   \
	F(refused)  \
	F(deaths) F(hangs) F(wrong) F(leaks) F(eintr_window) F(eintr_elsewhere) F(filter_deaths)

static void tally_print_json(const char *kind, const struct tally *y)
{
	printf("{\"kind\": \"%s\"", kind);
#define PRINT(field) printf(", \"" #field "\": %llu", (unsigned long long)y->field);
	COUNTS(PRINT)
#undef PRINT
	printf(", \"phases\": {");
	for (unsigned i = 0; i < PHASE_COUNT; i++)
		printf("%s\"%s\": %llu", i ? ", " : "", phase_names[i],
			(unsigned long long)y->by_phase[i]);
	printf("}}\n");
}

static void tally_print_head(void)
{
	printf("%-11s %6s %8s %7s %7s %6s %5s %5s %5s %12s %10s %9s\n", "kind", "kills", "injected",
		"frozen", "refused", "deaths", "hangs", "wrong", "leaks", "EINTR in/out", "filter",
		"stop us");
}

static void tally_print(const char *kind, const struct tally *y)
{
	uint64_t mean = y->stops ? y->stopped_ns / y->stops : 0;
	printf("%-11s %6llu %8llu %7llu %7llu %6llu %5llu %5llu %5llu %9llu/%-2llu %10llu "
	       "%4llu/%-4llu "
	       "%s\n",
		kind, (unsigned long long)y->kills, (unsigned long long)y->injected,
		(unsigned long long)y->frozen, (unsigned long long)y->refused,
		(unsigned long long)y->deaths, (unsigned long long)y->hangs,
		(unsigned long long)y->wrong, (unsigned long long)y->leaks,
		(unsigned long long)y->eintr_window, (unsigned long long)y->eintr_elsewhere,
		(unsigned long long)y->filter_deaths, (unsigned long long)(mean / NS_PER_US),
		(unsigned long long)(y->stopped_max_ns / NS_PER_US), y->words);
}

static void phases_print(const struct tally *y)
{
	printf("kills by phase (EINTR):");
	for (unsigned i = 0; i < PHASE_COUNT; i++) {
		printf(" %s %llu", phase_names[i], (unsigned long long)y->by_phase[i]);
		if (y->eintr_by_phase[i])
			printf(" (%llu)", (unsigned long long)y->eintr_by_phase[i]);
	}
	printf("\n");
}

static int usage(FILE *to)
{
	fprintf(to, "usage: kill_harness [--kills N] [--seed S] [--kind K] [--json]\n\nkinds:\n");
	for (unsigned i = 0; i < ntarget_kinds; i++)
		fprintf(to, "  %-11s %s\n", target_kinds[i].name, target_kinds[i].description);
	return to == stderr ? 2 : 0;
}

static int options_parse(struct options *o, int argc, char **argv)
{
	static const struct option long_options[] = {
		{"kills", required_argument, NULL, 'k'},
		{"seed", required_argument, NULL, 's'},
		{"kind", required_argument, NULL, 'K'},
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	for (int c; (c = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
		switch (c) {
		case 'k':
			o->kills = strtoull(optarg, NULL, 0);
			break;
		case 's':
			o->seed = strtoull(optarg, NULL, 0);
			break;
		case 'K':
			o->kind = optarg;
			break;
		case 'j':
			o->json = true;
			break;
		case 'h':
			exit(usage(stdout));
		default:
			return usage(stderr);
		}
	}
	return optind == argc ? 0 : usage(stderr);
}

static void *shared_new(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

int main(int argc, char **argv)
{
	struct options o = {.kills = 1000, .seed = (uint64_t)getpid() * NS_PER_S + clock_now_ns()};
	int r = options_parse(&o, argc, argv);
	if (r != 0)
		return r;
	random_state = o.seed ? o.seed : 1;
	target_report = shared_new(sizeof(*target_report));
	tracer_report = shared_new(sizeof(*tracer_report));
	if (!target_report || !tracer_report)
		return 1;
	setvbuf(stdout, NULL, _IOLBF, 0);

	unsigned nkinds = 0;
	for (unsigned i = 0; i < ntarget_kinds; i++)
		nkinds += !o.kind || strcmp(o.kind, target_kinds[i].name) == 0;
	if (nkinds == 0)
		return usage(stderr);
	if (!o.json) {
		printf("seed %llu\n", (unsigned long long)o.seed);
		tally_print_head();
	}

	uint64_t share = o.kills / nkinds, rest = o.kills % nkinds;
	struct tally sum = {0};
	bool good = true;
	for (unsigned i = 0, nth = 0; i < ntarget_kinds; i++) {
		const struct target_kind *kind = &target_kinds[i];
		if (o.kind && strcmp(o.kind, kind->name) != 0)
			continue;
		/* What does not divide goes to the first ones. */
		uint64_t kills = share + (nth++ < rest);
		struct tally y = {0};
		if (!kind_run(kind, kills, &y)) {
			fprintf(stderr, "%s: cannot run here\n", kind->name);
			o.kills -= kills;
			continue;
		}
		good &= tally_is_good(&y);
		tally_add(&sum, &y);
		if (o.json)
			tally_print_json(kind->name, &y);
		else
			tally_print(kind->name, &y);
	}
	if (o.json) {
		tally_print_json("all", &sum);
	} else {
		tally_print("all", &sum);
		phases_print(&sum);
	}
	/* A tracer that never got to do anything was not tested. */
	bool tested = o.kills < 100 || (sum.injected > 0 && sum.frozen > 0);
	return good && tested && sum.kills == o.kills ? 0 : 1;
}
