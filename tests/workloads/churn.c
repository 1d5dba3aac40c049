/* SPDX-License-Identifier: MIT */
/*
 * Does to its memory everything that a program can, at random.
 *
 *     churn [--seed N] [--threads T] [--slots S] [--memory MIB] [--pace US] [--seconds S]
 *           [--only OP,OP...] [--without OP,OP...] [--no-helper] [--dir DIR] [--log FILE] [--list]
 *
 * Prints "ready HELPER-PID" when all threads are about; goes on until SIGTERM, or for so long; then
 * holds its memory against what it knows of it and ends with "N operations, M wrong". What a thread
 * decides follows from the seed; when it happens does not.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "tests/workloads/churn.h"

struct churn churn = {
	.threads = 3, .slots = 8, .pages = 1024, .pace_us = 300, .has_helper = true, .dir = "/tmp"};

static unsigned memory_mib = 96;
static unsigned weights[CHURN_OPS_MAX], weight_sum;
static atomic_uint about;

static void die(const char *what)
{
	fprintf(stderr, "churn: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* --- threads ------------------------------------------------------------------------------- */

static void do_one(struct thread *t)
{
	unsigned at = (unsigned)draw(t, weight_sum), i = 0;
	while (at >= weights[i])
		at -= weights[i++];
	t->op = (uint8_t)i;
	ops[i].run(t);
	note_end(t);
	t->ops++;
	atomic_fetch_add_explicit(&churn.op_counts[i], 1, memory_order_relaxed);
}

static void *thread_run(void *arg)
{
	struct thread *t = arg;
	atomic_fetch_add(&about, 1);
	while (!atomic_load_explicit(churn.stop, memory_order_relaxed)) {
		do_one(t);
		if (churn.pace_us && chance(t, 50))
			usleep((useconds_t)draw(t, 4 * churn.pace_us + 1));
	}
	for (unsigned i = 0; i < churn.slots; i++)
		slot_check(t, &t->slots[i]);
	ops_end(t);
	atomic_fetch_add(&churn.ops, t->ops);
	return NULL;
}

static void thread_init(struct thread *t, unsigned number)
{
	t->number = (uint8_t)number;
	t->random = churn.seed * 1000003 + number;
	t->uffd = -1;
	for (unsigned i = 0; i < churn.slots; i++) {
		t->slots[i].base = (uint8_t *)(WORLD + number * THREAD_ROOM + i * SLOT_ROOM);
		t->slots[i].pages = calloc(churn.pages, sizeof(struct page));
		if (!t->slots[i].pages)
			die("calloc");
	}
	t->scratch = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	t->scratch_fd = (int)syscall(SYS_memfd_create, "scratch", 1 /* MFD_CLOEXEC */);
	if (t->scratch == MAP_FAILED || t->scratch_fd < 0 || !objects_make_own(t))
		die("cannot prepare a thread");
}

/* --- the whole ----------------------------------------------------------------------------- */

static void log_open(void)
{
	int fd = -1, flags = MAP_SHARED;
	if (churn.log_path) {
		fd = open(churn.log_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0 || ftruncate(fd, sizeof(*churn.log)) < 0)
			die(churn.log_path);
	} else {
		flags |= MAP_ANONYMOUS;
	}
	churn.log = mmap(NULL, sizeof(*churn.log), PROT_READ | PROT_WRITE, flags, fd, 0);
	if (churn.log == MAP_FAILED)
		die("map the log");
	if (fd >= 0)
		close(fd);
	memcpy(churn.log->magic, "churnlog", 8);
	churn.log->seed = churn.seed;
	for (unsigned i = 0; i < nops; i++)
		snprintf(churn.log->ops[i], sizeof(churn.log->ops[i]), "%s", ops[i].name);
}

static int op_find(const char *name)
{
	for (unsigned i = 0; i < nops; i++) {
		if (strcmp(ops[i].name, name) == 0)
			return (int)i;
	}
	fprintf(stderr, "churn: no operation is called %s (--list)\n", name);
	exit(2);
}

static void choose_ops(char *only, char *without)
{
	for (unsigned i = 0; i < nops; i++)
		weights[i] = only ? 0 : ops[i].weight;
	/* A child has all of our shared memory, too; where there never is one, some of it is ours
	 * alone. */
	if (churn.seed % 2)
		weights[op_find("fork")] = 0;
	/* A process that locks memory is followed in another way. */
	churn.locks = churn.seed % 4 == 0;
	if (!churn.locks)
		weights[op_find("lock")] = weights[op_find("lock-file")] = 0;
	for (char *name = only ? strtok(only, ",") : NULL; name; name = strtok(NULL, ",")) {
		int i = op_find(name);
		weights[i] = ops[i].weight ? ops[i].weight : 5;
	}
	for (char *name = without ? strtok(without, ",") : NULL; name; name = strtok(NULL, ","))
		weights[op_find(name)] = 0;
	for (unsigned i = 0; i < nops; i++)
		weight_sum += weights[i];
	if (weight_sum == 0) {
		fprintf(stderr, "churn: nothing is left to do\n");
		exit(2);
	}
}

static void on_term(int signal)
{
	(void)signal;
	atomic_store(churn.stop, 1);
}

/* Only on our own mistake, or where somebody changed our memory. */
static void on_crash(int signal, siginfo_t *info, void *context)
{
	char text[512];
	(void)context;
	uint64_t last = churn.log->next;
	int n = snprintf(text, sizeof(text),
		"churn: signal %d at %p; the last operations there:", signal, info->si_addr);
	uint64_t where = (uintptr_t)info->si_addr, first = last > 3000 ? last - 3000 : 1;
	for (uint64_t at = last; at >= first && n < 400; at--) {
		const struct churn_record *r = &churn.log->records[at % CHURN_RECORDS];
		if (where < r->address || where >= r->address + r->bytes)
			continue;
		n += snprintf(text + n, sizeof(text) - (size_t)n, " %u:%s %#llx+%#llx", r->thread,
			ops[r->op].name, (unsigned long long)r->address,
			(unsigned long long)r->bytes);
	}
	text[n++] = '\n';
	if (write(2, text, (size_t)n) < 0)
		_exit(4);
	_exit(3);
}

static pid_t helper_start(void)
{
	if (!churn.has_helper)
		return 0;
	pid_t pid = fork();
	if (pid == 0)
		helper_run();
	if (pid < 0)
		die("fork");
	return pid;
}

static _Noreturn void usage(int status)
{
	fprintf(status ? stderr : stdout,
		"usage: churn [--seed N] [--threads T] [--slots S] [--memory MIB] [--pace US]\n"
		"             [--seconds S] [--only OP,..] [--without OP,..] [--no-helper] [--dir "
		"DIR]\n"
		"             [--log FILE] [--list]\n");
	exit(status);
}

static void list_ops(void)
{
	for (unsigned i = 0; i < nops; i++)
		printf("%-14s %u\n", ops[i].name, ops[i].weight);
	exit(0);
}

static void parse(int argc, char **argv)
{
	enum {
		SEED = 256,
		THREADS,
		SLOTS,
		MEMORY,
		PACE,
		SECONDS,
		ONLY,
		WITHOUT,
		NO_HELPER,
		DIR,
		LOG,
		LIST
	};
	static const struct option options[] = {{"seed", 1, NULL, SEED},
		{"threads", 1, NULL, THREADS}, {"slots", 1, NULL, SLOTS},
		{"memory", 1, NULL, MEMORY}, {"pace", 1, NULL, PACE}, {"seconds", 1, NULL, SECONDS},
		{"only", 1, NULL, ONLY}, {"without", 1, NULL, WITHOUT},
		{"no-helper", 0, NULL, NO_HELPER}, {"dir", 1, NULL, DIR}, {"log", 1, NULL, LOG},
		{"list", 0, NULL, LIST}, {NULL, 0, NULL, 0}};
	char *only = NULL, *without = NULL;
	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (c) {
		case SEED:
			churn.seed = strtoull(optarg, NULL, 0);
			break;
		case THREADS:
			churn.threads = (unsigned)atoi(optarg);
			break;
		case SLOTS:
			churn.slots = (unsigned)atoi(optarg);
			break;
		case MEMORY:
			memory_mib = (unsigned)atoi(optarg);
			break;
		case PACE:
			churn.pace_us = (unsigned)atoi(optarg);
			break;
		case SECONDS:
			churn.seconds = atof(optarg);
			break;
		case ONLY:
			only = optarg;
			break;
		case WITHOUT:
			without = optarg;
			break;
		case NO_HELPER:
			churn.has_helper = false;
			break;
		case DIR:
			churn.dir = optarg;
			break;
		case LOG:
			churn.log_path = optarg;
			break;
		case LIST:
			list_ops();
			break;
		default:
			usage(2);
		}
	}
	if (optind != argc || churn.threads < 1 || churn.threads > THREADS_MAX || churn.slots < 1 ||
		churn.slots > SLOTS_MAX)
		usage(2);
	/* Objects take about half as much again as the slots. */
	unsigned long pages = ((unsigned long)memory_mib << 20) / PAGE * 2 / 3;
	churn.pages = (unsigned)(pages / (churn.threads * churn.slots) / 64 * 64);
	if (churn.pages < 64)
		churn.pages = 64;
	choose_ops(only, without);
}

int main(int argc, char **argv)
{
	static struct thread threads[THREADS_MAX];
	pthread_t ids[THREADS_MAX];
	parse(argc, argv);

	/* brk moves about above what malloc has, which must neither grow nor shrink from here on.
	 */
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	mallopt(M_TOP_PAD, 4 << 20);
	free(malloc(1 << 20));

	churn.stop = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (churn.stop == MAP_FAILED)
		die("mmap");
	log_open();
	churn.arena_pages = 512;
	churn.arena = mmap((void *)ARENA, churn.arena_pages * PAGE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (churn.arena == MAP_FAILED || !objects_make())
		die("cannot prepare");
	/* From the start: in a process that locks a file mapping before the tracker has seen that
	 * it locks anything, a marker may be there (docs/correctness.md). */
	if (churn.locks && mlock(churn.arena, PAGE) < 0)
		die("mlock");
	pid_t helper = helper_start();
	for (unsigned i = 0; i < churn.threads; i++)
		thread_init(&threads[i], i);

	/* The first thread is this one, which has a stack that grows. The signals are for it alone.
	 */
	sigset_t ending;
	sigemptyset(&ending);
	sigaddset(&ending, SIGTERM);
	sigaddset(&ending, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &ending, NULL);
	struct sigaction sa = {.sa_handler = on_term, .sa_flags = SA_RESTART};
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGALRM, &sa, NULL);
	struct sigaction crash = {.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO};
	sigaction(SIGSEGV, &crash, NULL);
	sigaction(SIGBUS, &crash, NULL);
	for (unsigned i = 1; i < churn.threads; i++) {
		if ((errno = pthread_create(&ids[i], NULL, thread_run, &threads[i])))
			die("pthread_create");
	}
	pthread_sigmask(SIG_UNBLOCK, &ending, NULL);
	while (atomic_load(&about) < churn.threads - 1)
		usleep(1000);
	printf("ready %d\n", helper);
	fflush(stdout);
	struct itimerval after = {
		.it_value = {.tv_sec = (time_t)churn.seconds,
			.tv_usec = (suseconds_t)((churn.seconds - (double)(time_t)churn.seconds) *
						 1e6)}};
	setitimer(ITIMER_REAL, &after, NULL);
	thread_run(&threads[0]);
	for (unsigned i = 1; i < churn.threads; i++)
		pthread_join(ids[i], NULL);
	if (helper) {
		int status;
		waitpid(helper, &status, 0);
	}
	unsigned done = 0;
	for (unsigned i = 0; i < nops; i++)
		done += atomic_load(&churn.op_counts[i]) > 0;
	printf("%llu operations of %u kinds, %llu wrong\n", atomic_load(&churn.ops), done,
		atomic_load(&churn.wrong));
	return atomic_load(&churn.wrong) != 0;
}
