/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/harness.h"
#include "tests/system/fixture.h"

enum { CHILDREN_MAX = 64, PATHS_MAX = 128, ARGS_MAX = 48 };

static struct child *children[CHILDREN_MAX];
static size_t nchildren;
static char *paths[PATHS_MAX];
static size_t npaths;
static char folder[128];
static const char *mounted;

void fixture_setup(void)
{
	/* A peer that went away is an errno for a test, not its end. */
	signal(SIGPIPE, SIG_IGN);
	nchildren = npaths = 0;
	snprintf(folder, sizeof(folder), "%s/tidemark-test-XXXXXX",
		getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!mkdtemp(folder))
		CU_FAIL_FATAL("cannot make a folder");
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)ftw;
	(void)type;
	return remove(path) < 0 && errno != ENOENT ? -1 : 0;
}

void fixture_teardown(void)
{
	for (size_t i = 0; i < nchildren; i++) {
		struct child *c = children[i];
		if (c->status < 0) {
			kill(c->pid, SIGKILL);
			waitpid(c->pid, NULL, 0);
		}
		if (c->in >= 0)
			close(c->in);
		if (c->out >= 0)
			close(c->out);
		free(c->text);
		free(c->errors);
		free(c);
	}
	if (mounted)
		umount2(mounted, MNT_DETACH);
	mounted = NULL;
	for (size_t i = 0; i < npaths; i++)
		free(paths[i]);
	nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	nchildren = npaths = 0;
}

const char *fixture_folder(void)
{
	return folder;
}

static const char *keep_path(char *path)
{
	if (npaths == PATHS_MAX)
		CU_FAIL_FATAL("too many paths in one test");
	return paths[npaths++] = path;
}

const char *fixture_path(const char *name)
{
	char *path;
	if (asprintf(&path, "%s/%s", folder, name) < 0)
		CU_FAIL_FATAL("out of memory");
	return keep_path(path);
}

const char *fixture_small_disk(const char *name, unsigned mib)
{
	const char *path = fixture_path(name);
	char options[64];
	snprintf(options, sizeof(options), "size=%um,mode=700", mib);
	if (mkdir(path, 0700) < 0 || mount("tmpfs", path, "tmpfs", 0, options) < 0)
		harness_skip("no right to mount a small file system");
	return mounted = path;
}

const char *fixture_tidemark(void)
{
	return TIDEMARK_PROGRAM;
}

const char *fixture_workload(const char *name)
{
	char *path;
	if (asprintf(&path, "%s/workload_%s", WORKLOAD_FOLDER, name) < 0)
		CU_FAIL_FATAL("out of memory");
	return keep_path(path);
}

static void become(const char *const *argv, int in, int out, const char *error_path)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_DFL);
	dup2(in, 0);
	dup2(out, 1);
	int errors = open(error_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (errors >= 0)
		dup2(errors, 2);
	close_range(3, ~0u, 0);
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	dprintf(2, "cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

struct child *child_startv(const char *const *argv)
{
	int in[2], out[2];
	if (nchildren == CHILDREN_MAX)
		CU_FAIL_FATAL("too many children in one test");
	struct child *c = calloc(1, sizeof(*c));
	if (!c || !argv[0] || pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
		CU_FAIL_FATAL("cannot start a child");
	snprintf(c->error_path, sizeof(c->error_path), "%s/stderr-%zu", folder, nchildren);
	c->pid = fork();
	if (c->pid < 0)
		CU_FAIL_FATAL("cannot fork");
	if (c->pid == 0)
		become(argv, in[0], out[1], c->error_path);
	close(in[0]);
	close(out[1]);
	c->in = in[1];
	c->out = out[0];
	c->status = -1;
	children[nchildren++] = c;
	return c;
}

#define COLLECT_ARGS(argv, program)                                                              \
	do {                                                                                     \
		va_list args;                                                                    \
		va_start(args, program);                                                         \
		size_t n = 0;                                                                    \
		for (const char *a = program; a && n < ARGS_MAX; a = va_arg(args, const char *)) \
			argv[n++] = a;                                                           \
		argv[n] = NULL;                                                                  \
		va_end(args);                                                                    \
	} while (0)

struct child *child_start(const char *program, ...)
{
	const char *argv[ARGS_MAX + 1];
	COLLECT_ARGS(argv, program);
	return child_startv(argv);
}

/* One more piece of output; false at its end. */
static bool read_more(struct child *c)
{
	char *text = realloc(c->text, c->len + 4097);
	if (!text)
		CU_FAIL_FATAL("out of memory");
	c->text = text;
	ssize_t n;
	do {
		n = read(c->out, c->text + c->len, 4096);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		n = 0;
	c->len += (size_t)n;
	c->text[c->len] = '\0';
	return n > 0;
}

const char *child_wait_line(struct child *c, const char *text)
{
	static char line[4096];
	size_t from = 0;
	for (;;) {
		while (c->text) {
			char *end = memchr(c->text + from, '\n', c->len - from);
			if (!end)
				break;
			size_t len = (size_t)(end - (c->text + from));
			snprintf(line, sizeof(line), "%.*s", (int)len, c->text + from);
			from += len + 1;
			if (strstr(line, text)) {
				/* What was waited for is not found again. */
				c->len -= from;
				memmove(c->text, c->text + from, c->len + 1);
				return line;
			}
		}
		if (!read_more(c))
			return NULL;
	}
}

static char *read_whole(const char *path)
{
	FILE *f = fopen(path, "re");
	char *text = calloc(1, 65537);
	if (!text)
		CU_FAIL_FATAL("out of memory");
	if (f) {
		text[fread(text, 1, 65536, f)] = '\0';
		fclose(f);
	}
	return text;
}

int child_finish(struct child *c)
{
	int status;
	if (c->status >= 0)
		return c->status;
	child_close_input(c);
	while (read_more(c))
		;
	while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
		;
	c->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	c->errors = read_whole(c->error_path);
	return c->status;
}

void child_close_input(struct child *c)
{
	if (c->in >= 0)
		close(c->in);
	c->in = -1;
}

void child_signal(struct child *c, int signal)
{
	kill(c->pid, signal);
}

pid_t fixture_spawn(const char *command)
{
	pid_t pid = fork();
	if (pid < 0)
		CU_FAIL_FATAL("cannot fork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close_range(3, ~0u, 0);
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	return pid;
}

struct child *child_run(int expected_status, const char *program, ...)
{
	const char *argv[ARGS_MAX + 1];
	COLLECT_ARGS(argv, program);
	struct child *c = child_startv(argv);
	int status = child_finish(c);
	CU_ASSERT_EQUAL(status, expected_status);
	if (status != expected_status) {
		printf("exit code %d, not %d, of:", status, expected_status);
		for (size_t i = 0; argv[i]; i++)
			printf(" %s", argv[i]);
		printf("\n%s%s", c->text, c->errors);
	}
	return c;
}

struct fixture_agent fixture_agent_start(const char *name, const char *address)
{
	struct fixture_agent a = {0};
	char unix_address[300];
	a.store = fixture_path(name);
	if (!address) {
		snprintf(unix_address, sizeof(unix_address), "unix:%s.sock", a.store);
		address = unix_address;
	}
	a.child = child_start(
		fixture_tidemark(), "agent", "--listen", address, "--store", a.store, NULL);
	const char *line = child_wait_line(a.child, "listening on ");
	if (!line) {
		child_finish(a.child);
		printf("agent: %s\n", a.child->errors);
		CU_FAIL_FATAL("the agent does not listen");
	}
	snprintf(a.address, sizeof(a.address), "%s",
		strstr(line, "listening on ") + strlen("listening on "));
	return a;
}

char process_state_letter(pid_t pid)
{
	char path[64], text[512] = "";
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	FILE *f = fopen(path, "re");
	if (!f)
		return 0;
	size_t n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = '\0';
	char *end = strrchr(text, ')');
	return end ? end[2] : 0;
}

/* A group stop is reached when the parent is told; ours are children. */
void wait_until_stopped(pid_t pid)
{
	siginfo_t info;
	while (waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOWAIT) < 0 && errno == EINTR)
		;
}

int count_userfaultfds(pid_t pid)
{
	char path[64], target[256];
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	DIR *dir = opendir(path);
	int count = 0;
	for (struct dirent *e; dir && (e = readdir(dir));) {
		ssize_t n = readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1);
		if (n > 0) {
			target[n] = '\0';
			count += strstr(target, "userfaultfd") != NULL;
		}
	}
	if (dir)
		closedir(dir);
	return count;
}

bool is_registered(pid_t pid)
{
	char path[64], line[512];
	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	FILE *f = fopen(path, "re");
	bool found = false;
	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, "VmFlags:", 8) == 0)
			found |= strstr(line, " uw") || strstr(line, " um") || strstr(line, " ui");
	}
	if (f)
		fclose(f);
	return found;
}
