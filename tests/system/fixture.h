/* SPDX-License-Identifier: MIT */
/*
 * Processes, folders and the command line, for tests of the whole. Everything that a test starts or
 * makes here is ended and removed by fixture_teardown(), whatever way the test was left.
 */
#ifndef TESTS_SYSTEM_FIXTURE_H
#define TESTS_SYSTEM_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct child {
	pid_t pid;
	int in;     /* its standard input, a pipe; -1 once closed */
	int out;    /* its standard output, read here */
	char *text; /* standard output so far */
	size_t len;
	char *errors; /* standard error, once it ended */
	char error_path[256];
	int status; /* exit code, 128 + signal; -1 while it runs */
};

void fixture_setup(void);
void fixture_teardown(void);

/* A folder of this test's own, on disk; and one in memory. */
const char *fixture_folder(void);

/* "FOLDER/name", kept until the teardown. */
const char *fixture_path(const char *name);

/* A file system of `mib` MiB in a folder of that name (one a test), or the test is skipped. */
const char *fixture_small_disk(const char *name, unsigned mib);

/* Built programs: the command under test, and a workload by name. */
const char *fixture_tidemark(void);
const char *fixture_workload(const char *name);

/* Starts a program (ended by NULL). It dies with the test. Fails the test where it cannot. */
struct child *child_start(const char *program, ...) __attribute__((sentinel));
struct child *child_startv(const char *const *argv);
/* Reads its output until a line contains `text`; that line, kept until the next wait, or NULL where
 * the output ended first. */
const char *child_wait_line(struct child *c, const char *text);
/* Waits for its end; the exit code, or 128 + signal. All output is in c->text, c->errors then. */
int child_finish(struct child *c);
void child_close_input(struct child *c);
void child_signal(struct child *c, int signal);

/* Starts a shell command whose output nobody reads; it dies with the test. The caller waits for it.
 */
pid_t fixture_spawn(const char *command);

/* Starts, waits, and prints its output where the exit code is not the expected one. */
struct child *child_run(int expected_status, const char *program, ...) __attribute__((sentinel));

/* An agent over a store folder of the test's own, on a unix socket unless `address` says otherwise.
 */
struct fixture_agent {
	struct child *child;
	char address[256]; /* as printed */
	const char *store;
};
struct fixture_agent fixture_agent_start(const char *name, const char *address);

/* The state letter of a process's leader, and waiting until every thread is stopped. */
char process_state_letter(pid_t pid);
void wait_until_stopped(pid_t pid);

/* How many descriptors of a process are userfaultfds; whether any mapping is registered with one
 * ("um", "uw" in VmFlags). */
int count_userfaultfds(pid_t pid);
bool is_registered(pid_t pid);

#endif
