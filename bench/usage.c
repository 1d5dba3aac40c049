/* SPDX-License-Identifier: MIT */
/*
 * bench_usage FILE PROGRAM [ARG...]
 *
 * Runs a program to its end and writes to FILE what it took: cpu_seconds, peak_bytes, status, as
 * one JSON object. Linux counts into a program's largest resident size what its parent had when it
 * began; this one is small, which Python is not. SIGTERM is passed on, and the program ends with
 * this one.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t program;

static void pass_on(int signal)
{
	kill(program, signal);
}

static double seconds_of(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

static int write_usage(const char *path, const struct rusage *used, int status)
{
	FILE *f = fopen(path, "we");
	if (!f)
		return -1;
	fprintf(f, "{\"cpu_seconds\": %.6f, \"peak_bytes\": %ld, \"status\": %d}\n",
		seconds_of(used->ru_utime) + seconds_of(used->ru_stime), used->ru_maxrss * 1024,
		status);
	return fclose(f);
}

int main(int argc, char **argv)
{
	struct sigaction on_term = {.sa_handler = pass_on};
	struct rusage used;
	int status;
	if (argc < 3) {
		fprintf(stderr, "usage: bench_usage FILE PROGRAM [ARG...]\n");
		return 2;
	}
	program = fork();
	if (program == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execvp(argv[2], argv + 2);
		perror(argv[2]);
		_exit(127);
	}
	sigaction(SIGTERM, &on_term, NULL);
	while (program > 0 && wait4(program, &status, 0, &used) < 0) {
		if (errno != EINTR)
			program = -1;
	}
	if (program < 0) {
		perror("usage");
		return 127;
	}
	status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	if (write_usage(argv[1], &used, status) < 0) {
		perror(argv[1]);
		return 127;
	}
	return status;
}
