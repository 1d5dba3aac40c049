/* SPDX-License-Identifier: MIT */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/units.h"
#include "cli/command.h"
#include "cli/output.h"

static const struct command commands[] = {
	{"check", "What this kernel and this user can do, and what of a process would be followed",
		command_check},
	{"send", "Send a live process's memory to an agent, a file or a pipe while it runs",
		command_send},
	{"agent", "Receive processes and keep them as images", command_agent},
	{"apply", "Put a recorded stream into a store", command_apply},
	{"list", "List the images of a store", command_list},
	{"show", "Show what an image holds", command_show},
	{"verify", "Check every byte of an image, or of all images of a store", command_verify},
	{"compare", "Compare an image with a stopped process, page by page", command_compare},
	{"pages", "Tell what the pages of a process are, mapping by mapping", command_pages},
	{"wss", "Measure how much of its memory a process uses", command_wss},
	{"core", "Export an image as an ELF core file, for gdb", command_core},
};
#define NCOMMANDS (sizeof(commands) / sizeof(commands[0]))

const char *argp_program_version = "tidemark " TIDEMARK_VERSION;

static void print_help(FILE *out)
{
	fputs("Usage: tidemark COMMAND [OPTION...] [ARGUMENT...]\n"
	      "Follows what a live process writes, page by page, and moves it.\n\n"
	      "Commands:\n",
		out);
	for (size_t i = 0; i < NCOMMANDS; i++)
		fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].summary);
	fputs("\n'tidemark COMMAND --help' tells the options of a command; tidemark(1) tells all.\n"
	      "Exit status: 0 done, 1 failed or differs, 2 wrong usage, 3 the process went away,\n"
	      "4 this kernel or user cannot.\n",
		out);
}

int command_fail(const struct tide_error *err)
{
	auto_free char *text = printable(err->text);
	const char *reason = tide_error_reason(err);
	fprintf(stderr, "tidemark: %s%s%s\n", text, reason[0] ? ": " : "", reason);
	return err->kind ? (int)err->kind : EXIT_FAILED;
}

void command_parse(const struct argp *argp, int argc, char **argv, void *input)
{
	argp_err_exit_status = EXIT_USAGE;
	if (argp_parse(argp, argc, argv, 0, NULL, input) != 0)
		exit(EXIT_USAGE);
}

uint64_t option_ns(const struct argp_state *state, const char *option, const char *text)
{
	uint64_t ns = 0;
	if (units_parse_ns(text, &ns) < 0)
		argp_error(
			state, "%s takes a time such as 100ms, 1.5s or 2m, not '%s'", option, text);
	return ns;
}

uint64_t option_rate(const struct argp_state *state, const char *option, const char *text)
{
	uint64_t rate = 0;
	if (units_parse_rate(text, &rate) < 0 || rate == 0)
		argp_error(state,
			"%s takes bytes a second such as 200M, or bits such as 1Gbit, not '%s'",
			option, text);
	return rate;
}

uint64_t option_bytes(const struct argp_state *state, const char *option, const char *text)
{
	uint64_t bytes = 0;
	if (units_parse_bytes(text, &bytes) < 0)
		argp_error(state, "%s takes a size such as 64M or 1.5GiB, not '%s'", option, text);
	return bytes;
}

uint64_t option_count(const struct argp_state *state, const char *option, const char *text,
	uint64_t min, uint64_t max)
{
	uint64_t count = 0;
	if (units_parse_count(text, min, max, &count) < 0)
		argp_error(state, "%s takes a number from %llu to %llu, not '%s'", option,
			(unsigned long long)min, (unsigned long long)max, text);
	return count;
}

pid_t option_pid(const struct argp_state *state, const char *text)
{
	uint64_t pid = 0;
	if (units_parse_count(text, 1, INT32_MAX, &pid) < 0)
		argp_error(state, "'%s' is no process number", text);
	return (pid_t)pid;
}

char *option_only(const struct argp_state *state, const char *given, char *text)
{
	if (given)
		argp_error(state, "'%s' is one argument too many", text);
	return text;
}

pid_t option_only_pid(const struct argp_state *state, pid_t given, const char *text)
{
	if (given)
		argp_error(state, "one process at a time");
	return option_pid(state, text);
}

static int run(const struct command *command, int argc, char **argv)
{
	/* argp speaks of argv[0] in its messages and its help. */
	char name[64];
	snprintf(name, sizeof(name), "tidemark %s", command->name);
	argv[0] = name;
	int status = command->run(argc, argv);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "tidemark: writing to standard output failed\n");
		return status ? status : EXIT_FAILED;
	}
	return status;
}

int main(int argc, char **argv)
{
	/* A reader that went away is an error like any other, not our end: a process may be frozen.
	 */
	signal(SIGPIPE, SIG_IGN);
	const char *word = argc > 1 ? argv[1] : "";
	for (size_t i = 0; i < NCOMMANDS; i++) {
		if (strcmp(word, commands[i].name) == 0)
			return run(&commands[i], argc - 1, argv + 1);
	}
	if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
		print_help(stdout);
		return EXIT_DONE;
	}
	if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
		puts(argp_program_version);
		return EXIT_DONE;
	}
	if (argc > 1)
		fprintf(stderr, "tidemark: there is no command '%s'\n\n", word);
	print_help(stderr);
	return EXIT_USAGE;
}
