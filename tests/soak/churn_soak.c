/* SPDX-License-Identifier: MIT */
/*
 * Many seeds of churn, several at a time, and a ledger of those that were run.
 *
 *     churn_soak [--seeds A-B] [--seconds S] [--backend B] [--jobs J] [--ledger FILE] [--commit ID]
 *                [--only OP,..] [--without OP,..] [--memory MIB] [--threads T] [--pace US] [--dir
 * DIR]
 *                [--churn PROGRAM] [--verbose] [--summary]
 *
 * A line of the ledger, all fields by name:
 *     commit=ID kernel=R backend=B seed=N seconds=S sends=N rounds=N pages=N different=N mappings=N
 *     result=same|differs|trouble|hung
 * A seed that has passed with this commit, kernel and backend, for as long or longer, is not run
 * again. Exit status: 0; 1 where a seed differs or was trouble; 77 where the kernel cannot.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/guard.h"
#include "tests/system/churn_run.h"

enum { JOBS_MAX = 64 };

struct options {
	uint64_t first, last;
	unsigned jobs;
	const char *ledger, *commit;
	bool summary;
	struct churn_options churn;
	char kernel[80];
};

struct job {
	pid_t pid;
	uint64_t seed;
	uint64_t began_ns;
	int result; /* what the child writes its struct churn_result to */
};

struct counts {
	uint64_t same, differ, trouble, skipped;
	uint64_t sends, rounds, pages;
};

static const char *backend_name(const struct options *o)
{
	return o->churn.backend ? o->churn.backend : "auto";
}

/* --- the ledger ---------------------------------------------------------------------------- */

struct entry {
	char commit[64], kernel[80], backend[32], result[16];
	double seconds;
	uint64_t seed, sends, rounds, pages, different, mappings;
};

static bool entry_parse(const char *line, struct entry *ret)
{
	*ret = (struct entry){0};
	return sscanf(line,
		       "commit=%63s kernel=%79s backend=%31s seed=%" SCNu64
		       " seconds=%lf sends=%" SCNu64 " rounds=%" SCNu64 " pages=%" SCNu64
		       " different=%" SCNu64 " mappings=%" SCNu64 " result=%15s",
		       ret->commit, ret->kernel, ret->backend, &ret->seed, &ret->seconds,
		       &ret->sends, &ret->rounds, &ret->pages, &ret->different, &ret->mappings,
		       ret->result) == 11;
}

static bool entry_is_ours(const struct entry *e, const struct options *o)
{
	return strcmp(e->commit, o->commit) == 0 && strcmp(e->kernel, o->kernel) == 0 &&
	       (!o->churn.backend || strcmp(e->backend, o->churn.backend) == 0);
}

static bool ledger_has(const struct options *o, uint64_t seed)
{
	char line[512];
	struct entry e;
	auto_fclose FILE *f = o->ledger ? fopen(o->ledger, "re") : NULL;
	while (f && fgets(line, sizeof(line), f)) {
		if (entry_parse(line, &e) && entry_is_ours(&e, o) && e.seed == seed &&
			e.seconds >= o->churn.seconds && strcmp(e.result, "same") == 0)
			return true;
	}
	return false;
}

static void ledger_add(
	const struct options *o, uint64_t seed, const char *result, const struct churn_result *r)
{
	char line[512];
	int n = snprintf(line, sizeof(line),
		"commit=%s kernel=%s backend=%s seed=%" PRIu64 " seconds=%g sends=%" PRIu64
		" rounds=%" PRIu64 " pages=%" PRIu64 " different=%" PRIu64 " mappings=%" PRIu64
		" result=%s\n",
		o->commit, o->kernel, r->backend[0] ? r->backend : backend_name(o), seed,
		o->churn.seconds, r->sends, r->rounds, r->compared_pages, r->different_pages,
		r->different_mappings, result);
	if (!o->ledger)
		return;
	auto_close int fd = open(o->ledger, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, line, (size_t)n) != n)
		fprintf(stderr, "churn_soak: %s: %s\n", o->ledger, strerror(errno));
}

static int print_summary(const struct options *o)
{
	enum { GROUPS = 64 };
	static struct {
		struct entry key;
		struct counts c;
	} groups[GROUPS];
	size_t n = 0;
	char line[512];
	struct entry e;
	auto_fclose FILE *f = o->ledger ? fopen(o->ledger, "re") : NULL;
	if (!f) {
		fprintf(stderr, "churn_soak: no ledger\n");
		return 1;
	}
	while (fgets(line, sizeof(line), f)) {
		size_t i = 0;
		if (!entry_parse(line, &e))
			continue;
		while (i < n && (strcmp(groups[i].key.commit, e.commit) != 0 ||
					strcmp(groups[i].key.kernel, e.kernel) != 0 ||
					strcmp(groups[i].key.backend, e.backend) != 0 ||
					groups[i].key.seconds != e.seconds))
			i++;
		if (i == GROUPS)
			continue;
		if (i == n)
			groups[n++].key = e;
		struct counts *c = &groups[i].c;
		c->same += strcmp(e.result, "same") == 0;
		c->differ += strcmp(e.result, "differs") == 0;
		c->trouble += strcmp(e.result, "trouble") == 0 || strcmp(e.result, "hung") == 0;
		c->sends += e.sends;
		c->rounds += e.rounds;
		c->pages += e.pages;
	}
	printf("%-14s %-28s %-10s %7s %6s %7s %7s %7s %8s %12s\n", "commit", "kernel", "backend",
		"seconds", "same", "differ", "trouble", "sends", "rounds", "pages");
	for (size_t i = 0; i < n; i++) {
		const struct entry *k = &groups[i].key;
		const struct counts *c = &groups[i].c;
		printf("%-14s %-28s %-10s %7g %6" PRIu64 " %7" PRIu64 " %7" PRIu64 " %7" PRIu64
		       " %8" PRIu64 " %12" PRIu64 "\n",
			k->commit, k->kernel, k->backend, k->seconds, c->same, c->differ,
			c->trouble, c->sends, c->rounds, c->pages);
	}
	return 0;
}

/* --- jobs ---------------------------------------------------------------------------------- */

static bool job_start(struct job *j, const struct options *o, uint64_t seed)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return false;
	fflush(NULL);
	pid_t parent = getpid();
	*j = (struct job){
		.pid = fork(), .seed = seed, .began_ns = clock_now_ns(), .result = ends[0]};
	if (j->pid != 0) {
		close(ends[1]);
		return j->pid > 0;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(CHURN_TROUBLE);
	struct churn_options churn = o->churn;
	struct churn_result result;
	churn.seed = seed;
	enum churn_verdict v = churn_run(&churn, &result);
	fflush(NULL);
	ssize_t n = write(ends[1], &result, sizeof(result));
	_exit(n == sizeof(result) ? (int)v : CHURN_TROUBLE);
}

/* What a seed came to, noted and counted. */
static void job_end(struct job *j, const struct options *o, int status, bool hung, struct counts *c)
{
	struct churn_result r = {0};
	if (read(j->result, &r, sizeof(r)) != sizeof(r) && !hung)
		snprintf(r.trouble, sizeof(r.trouble), "it died: %s %d",
			WIFSIGNALED(status) ? "signal" : "status",
			WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	close(j->result);
	if (hung)
		snprintf(r.trouble, sizeof(r.trouble), "it took too long");
	int v = WIFEXITED(status) ? WEXITSTATUS(status) : CHURN_TROUBLE;
	const char *name = hung                 ? "hung"
			   : v == CHURN_SAME    ? "same"
			   : v == CHURN_DIFFERS ? "differs"
						: "trouble";
	c->sends += r.sends;
	c->rounds += r.rounds;
	c->pages += r.compared_pages;
	if (v == CHURN_CANNOT && !hung) {
		c->skipped++;
		printf("skipped churn: %s\n", r.trouble);
		return;
	}
	if (v == CHURN_SAME && !hung)
		c->same++;
	else if (v == CHURN_DIFFERS)
		c->differ++;
	else
		c->trouble++;
	printf("seed %" PRIu64 " %s: %s: %" PRIu64 " sends (%" PRIu64 " cancelled), %" PRIu64
	       " rounds (%" PRIu64 " refused), %" PRIu64 " pages sent, %" PRIu64
	       " dropped, %" PRIu64 " doubtful, %" PRIu64 " spans gone; %" PRIu64
	       " pages compared, %" PRIu64 " differ, %" PRIu64 " mappings differ, %" PRIu64
	       " lazily freed; %s%s%s\n",
		j->seed, r.backend, name, r.sends, r.cancelled, r.rounds, r.refused_rounds,
		r.sent_pages, r.dropped_pages, r.reread_pages, r.unread_spans, r.compared_pages,
		r.different_pages, r.different_mappings, r.lazy_pages, r.last_words,
		r.trouble[0] ? "; " : "", r.trouble);
	fflush(stdout);
	ledger_add(o, j->seed, name, &r);
}

/* Far more than it can take, on a machine with many other things to do. */
static uint64_t hang_ns(const struct options *o)
{
	return (uint64_t)(o->churn.seconds * 4e9) + 300 * NS_PER_S;
}

static void run_all(const struct options *o, struct counts *c)
{
	struct job jobs[JOBS_MAX] = {0};
	uint64_t next = o->first;
	unsigned running = 0;
	while (next <= o->last || running) {
		for (unsigned i = 0; i < o->jobs; i++) {
			while (!jobs[i].pid && next <= o->last && ledger_has(o, next))
				next++;
			if (!jobs[i].pid && next <= o->last) {
				if (!job_start(&jobs[i], o, next))
					return;
				next++;
				running++;
			}
			if (!jobs[i].pid)
				continue;
			bool hung = clock_now_ns() - jobs[i].began_ns > hang_ns(o);
			int status;
			if (hung)
				kill(jobs[i].pid, SIGKILL);
			if (waitpid(jobs[i].pid, &status, hung ? 0 : WNOHANG) == jobs[i].pid) {
				job_end(&jobs[i], o, status, hung, c);
				jobs[i].pid = 0;
				running--;
			}
		}
		usleep(20000);
	}
}

/* --- options ------------------------------------------------------------------------------- */

static _Noreturn void usage(int status)
{
	fprintf(status ? stderr : stdout,
		"usage: churn_soak [--seeds A-B] [--seconds S] [--backend B] [--jobs J] [--ledger "
		"FILE]\n"
		"                  [--commit ID] [--only OP,..] [--without OP,..] [--memory MIB]\n"
		"                  [--threads T] [--pace US] [--no-helper] [--dir DIR] [--churn "
		"PROGRAM]\n"
		"                  [--verbose] [--summary]\n");
	exit(status);
}

static void parse(struct options *o, int argc, char **argv)
{
	enum {
		SEEDS = 256,
		SECONDS,
		BACKEND,
		JOBS,
		LEDGER,
		COMMIT,
		ONLY,
		WITHOUT,
		MEMORY,
		THREADS,
		PACE,
		NO_HELPER,
		DIRECTORY,
		CHURN,
		VERBOSE,
		SUMMARY,
		HELP
	};
	static const struct option options[] = {{"seeds", 1, NULL, SEEDS},
		{"seconds", 1, NULL, SECONDS}, {"backend", 1, NULL, BACKEND},
		{"jobs", 1, NULL, JOBS}, {"ledger", 1, NULL, LEDGER}, {"commit", 1, NULL, COMMIT},
		{"only", 1, NULL, ONLY}, {"without", 1, NULL, WITHOUT}, {"memory", 1, NULL, MEMORY},
		{"threads", 1, NULL, THREADS}, {"pace", 1, NULL, PACE},
		{"no-helper", 0, NULL, NO_HELPER}, {"dir", 1, NULL, DIRECTORY},
		{"churn", 1, NULL, CHURN}, {"verbose", 0, NULL, VERBOSE},
		{"summary", 0, NULL, SUMMARY}, {"help", 0, NULL, HELP}, {NULL, 0, NULL, 0}};
	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		char *end;
		switch (c) {
		case SEEDS:
			o->first = o->last = strtoull(optarg, &end, 10);
			if (*end == '-')
				o->last = strtoull(end + 1, &end, 10);
			if (*end || o->last < o->first)
				usage(2);
			break;
		case SECONDS:
			o->churn.seconds = atof(optarg);
			break;
		case BACKEND:
			o->churn.backend = optarg;
			break;
		case JOBS:
			o->jobs = (unsigned)atoi(optarg);
			break;
		case LEDGER:
			o->ledger = optarg;
			break;
		case COMMIT:
			o->commit = optarg;
			break;
		case ONLY:
			o->churn.only = optarg;
			break;
		case WITHOUT:
			o->churn.without = optarg;
			break;
		case MEMORY:
			o->churn.memory_mib = (unsigned)atoi(optarg);
			break;
		case THREADS:
			o->churn.threads = (unsigned)atoi(optarg);
			break;
		case PACE:
			o->churn.pace_us = (unsigned)atoi(optarg);
			break;
		case NO_HELPER:
			o->churn.no_helper = true;
			break;
		case DIRECTORY:
			o->churn.dir = optarg;
			break;
		case CHURN:
			o->churn.program = optarg;
			break;
		case VERBOSE:
			o->churn.verbose = true;
			break;
		case SUMMARY:
			o->summary = true;
			break;
		case HELP:
			usage(0);
		default:
			usage(2);
		}
	}
	if (optind != argc || o->jobs < 1 || o->jobs > JOBS_MAX)
		usage(2);
}

int main(int argc, char **argv)
{
	struct options o = {.first = 1,
		.last = 10,
		.jobs = 4,
		.commit = "unknown",
		.churn = {.program = CHURN_PROGRAM, .seconds = 30}};
	struct utsname u;
	struct counts c = {0};
	parse(&o, argc, argv);
	if (uname(&u) == 0)
		snprintf(o.kernel, sizeof(o.kernel), "%.79s", u.release);
	if (o.summary)
		return print_summary(&o);
	setvbuf(stdout, NULL, _IOLBF, 0);
	run_all(&o, &c);
	printf("%" PRIu64 " seeds are the same, %" PRIu64 " differ, %" PRIu64
	       " were trouble; %" PRIu64 " sends, %" PRIu64 " rounds, %" PRIu64 " pages compared\n",
		c.same, c.differ, c.trouble, c.sends, c.rounds, c.pages);
	if (c.differ || c.trouble)
		return 1;
	return c.skipped && !c.same ? 77 : 0;
}
