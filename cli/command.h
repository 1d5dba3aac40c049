/* SPDX-License-Identifier: MIT */
/* A subcommand is a file and a line in the table in main.c. */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "tidemark/error.h"

enum exit_code {
	EXIT_DONE = 0,
	EXIT_FAILED = 1, /* or what was compared differs */
	EXIT_USAGE = 2,
	EXIT_TARGET_GONE = 3,
	EXIT_UNSUPPORTED = 4, /* this kernel, or this user, cannot */
};

struct command {
	const char *name;
	const char *summary;
	/* argv[0] is "tidemark NAME". Returns an exit code. */
	int (*run)(int argc, char **argv);
};

int command_agent(int argc, char **argv);
int command_apply(int argc, char **argv);
int command_check(int argc, char **argv);
int command_compare(int argc, char **argv);
int command_core(int argc, char **argv);
int command_list(int argc, char **argv);
int command_pages(int argc, char **argv);
int command_send(int argc, char **argv);
int command_show(int argc, char **argv);
int command_verify(int argc, char **argv);
int command_wss(int argc, char **argv);

/* Prints "tidemark: text: reason" on stderr, once; the exit code for it. */
int command_fail(const struct tide_error *err);

/* What `--json` is called in every command, and what is told about it. */
#define OPTION_JSON                                                                     \
	{                                                                               \
		"json", 'j', NULL, 0, "Print one JSON object a line instead of text", 0 \
	}

/* Parse an argument or end with a usage error that names the option. */
uint64_t option_ns(const struct argp_state *state, const char *option, const char *text);
uint64_t option_rate(const struct argp_state *state, const char *option, const char *text);
uint64_t option_bytes(const struct argp_state *state, const char *option, const char *text);
uint64_t option_count(const struct argp_state *state, const char *option, const char *text,
	uint64_t min, uint64_t max);
pid_t option_pid(const struct argp_state *state, const char *text);

/* The one argument of a command that takes one; `given` is what was there before (NULL, 0:
 * nothing).
 */
char *option_only(const struct argp_state *state, const char *given, char *text);
pid_t option_only_pid(const struct argp_state *state, pid_t given, const char *text);

/* argp_parse() with our exit codes and version; on --help and on errors it ends the program. */
void command_parse(const struct argp *argp, int argc, char **argv, void *input);

#endif
