/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/guard.h"
#include "tracker/process.h"
#include "tracker/throttle_cgroup.h"

/* In microseconds. Short periods are even; the kernel takes no quota below QUOTA_LEAST, and no
 * period above PERIOD_MOST. */
#define PERIOD_US 10000.0
#define PERIOD_MOST_US 1000000.0
#define QUOTA_LEAST_US 1000.0

/* --- text
 * --------------------------------------------------------------------------------------- */

static double quota_before(const char *before)
{
	double quota, period;
	return sscanf(before, "%lf %lf", &quota, &period) == 2 && period > 0 ? quota / period
									     : INT_MAX;
}

void throttle_cpu_max(double cpus, unsigned percent, const char *before, char ret[CPU_MAX_TEXT])
{
	double share = cpus * (100 - percent) / 100;
	double limit = quota_before(before), period = PERIOD_US;
	if (share > limit)
		share = limit;
	if (share * period < QUOTA_LEAST_US)
		period = share > 0 ? QUOTA_LEAST_US / share : PERIOD_MOST_US;
	if (period > PERIOD_MOST_US)
		period = PERIOD_MOST_US;
	double quota = share * period > QUOTA_LEAST_US ? share * period : QUOTA_LEAST_US;
	snprintf(ret, CPU_MAX_TEXT, "%.0f %.0f", quota, period);
}

/* The line of version 2 begins with "0::". */
static bool group_of(const char *groups, char *ret, size_t cap)
{
	for (const char *at = groups; at && *at;
		at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL) {
		if (strncmp(at, "0::/", 4) != 0)
			continue;
		size_t len = strcspn(at + 3, "\n");
		snprintf(ret, cap, "%.*s", (int)len, at + 3);
		/* One that is outside of what we see is told by its way out. */
		return len < cap && !strstr(ret, "/..");
	}
	return false;
}

/* What of `path` is below `root`, or NULL: "/a/b" below "/a" is "/b". */
static const char *below(const char *path, const char *root)
{
	size_t len = strcmp(root, "/") == 0 ? 0 : strlen(root);
	bool inside = strncmp(path, root, len) == 0 && (path[len] == '/' || path[len] == '\0');
	return inside ? path + len : NULL;
}

bool throttle_cgroup_place(const char *mounts, const char *groups, char *ret, size_t cap)
{
	char group[PATH_MAX];
	if (!group_of(groups, group, sizeof(group)))
		return false;
	for (const char *at = mounts; *at;) {
		size_t len = strcspn(at, "\n");
		char line[2 * PATH_MAX], root[PATH_MAX], place[PATH_MAX];
		snprintf(line, sizeof(line), "%.*s", (int)len, at);
		at += len + (at[len] == '\n');
		/* Names with spaces are written with backslashes; nobody mounts it there. */
		const char *rest;
		if (!strstr(line, " - cgroup2 ") || strchr(line, '\\') ||
			sscanf(line, "%*d %*d %*s %4095s %4095s", root, place) != 2)
			continue;
		rest = below(group, root);
		if (rest)
			return (size_t)snprintf(ret, cap, "%s%s", place, rest) < cap;
	}
	return false;
}

/* --- the kernel
 * --------------------------------------------------------------------------------------- */

static int read_text(int folder_fd, const char *name, char *ret, size_t cap)
{
	auto_close int fd = openat(folder_fd, name, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, ret, cap - 1);
	if (n < 0)
		return -errno;
	ret[n] = '\0';
	return 0;
}

/* No other process is in the group, nor in one below it. */
static bool is_alone(const struct throttle_cgroup *c)
{
	char text[256];
	if (read_text(c->folder_fd, "cgroup.stat", text, sizeof(text)) < 0 ||
		!strstr(text, "nr_descendants 0\n"))
		return false;
	char *end;
	if (read_text(c->folder_fd, "cgroup.procs", text, sizeof(text)) < 0)
		return false;
	return strtol(text, &end, 10) == c->pid && strcmp(end, "\n") == 0;
}

static int take_group(struct throttle_cgroup *c)
{
	if (!is_alone(c))
		return -EOPNOTSUPP;
	int r = read_text(c->folder_fd, "cpu.max", c->before, sizeof(c->before));
	if (r < 0)
		return r;
	c->max_fd = openat(c->folder_fd, "cpu.max", O_WRONLY | O_CLOEXEC);
	return c->max_fd < 0 ? -errno : 0;
}

static int open_in_child(const struct throttle_cgroup *c, const char *name, int flags)
{
	char path[sizeof(c->child) + 32];
	snprintf(path, sizeof(path), "%s/%s", c->child, name);
	int fd = openat(c->folder_fd, path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Whether the group gives its children a part of the processors: "cpu memory". */
static bool has_children_with_limits(const struct throttle_cgroup *c)
{
	char text[256] = " ";
	if (read_text(c->folder_fd, "cgroup.subtree_control", text + 1, sizeof(text) - 1) < 0)
		return false;
	text[strcspn(text, "\n")] = ' ';
	return strstr(text, " cpu ") != NULL;
}

static int make_child(struct throttle_cgroup *c)
{
	if (!has_children_with_limits(c))
		return -EOPNOTSUPP;
	char name[sizeof(c->child)];
	snprintf(name, sizeof(name), "tidemark-throttle-%d", c->pid);
	/* The process is followed by one tracker alone: what has this name was left behind. */
	if (mkdirat(c->folder_fd, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	memcpy(c->child, name, sizeof(name));
	c->max_fd = open_in_child(c, "cpu.max", O_WRONLY);
	c->child_procs_fd = open_in_child(c, "cgroup.procs", O_RDWR);
	c->procs_fd = openat(c->folder_fd, "cgroup.procs", O_WRONLY | O_CLOEXEC);
	return c->max_fd < 0 || c->child_procs_fd < 0 || c->procs_fd < 0 ? -EOPNOTSUPP : 0;
}

static int find_group(const struct process *p, char *ret, size_t cap)
{
	auto_free char *groups = NULL, *mounts = malloc(1 << 20);
	size_t len;
	if (!mounts)
		return -ENOMEM;
	int r = process_read_file(p, "cgroup", &groups, &len, NULL);
	if (r == 0)
		r = read_text(AT_FDCWD, "/proc/self/mountinfo", mounts, 1 << 20);
	if (r < 0)
		return r;
	return throttle_cgroup_place(mounts, groups, ret, cap) ? 0 : -EOPNOTSUPP;
}

int throttle_cgroup_open(const struct process *p, struct throttle_cgroup *ret)
{
	struct throttle_cgroup c = {.pid = p->pid,
		.pid_fd = p->pid_fd,
		.folder_fd = -1,
		.procs_fd = -1,
		.max_fd = -1,
		.child_procs_fd = -1};
	char place[PATH_MAX];
	int r = find_group(p, place, sizeof(place));
	if (r < 0)
		return r;
	c.folder_fd = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (c.folder_fd < 0)
		return -errno;
	r = take_group(&c);
	if (r < 0)
		r = make_child(&c);
	if (r < 0) {
		throttle_cgroup_close(&c);
		return r;
	}
	*ret = c;
	return 0;
}

void throttle_cgroup_close(struct throttle_cgroup *c)
{
	throttle_cgroup_remove(c);
	guard_closep(&c->folder_fd);
	guard_closep(&c->procs_fd);
	guard_closep(&c->max_fd);
	guard_closep(&c->child_procs_fd);
}

static int write_text(int fd, const char *text)
{
	return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

static bool has_ended(const struct throttle_cgroup *c)
{
	struct pollfd p = {.fd = c->pid_fd, .events = POLLIN};
	return poll(&p, 1, 0) != 0;
}

/* A group takes numbers, not descriptors of processes. So it is asked before and after whether the
 * number is still that of the process: who came to have it in between is moved back by the restore
 * that follows -ESRCH. */
static int move_into_child(const struct throttle_cgroup *c)
{
	char text[32];
	if (has_ended(c))
		return -ESRCH;
	snprintf(text, sizeof(text), "%d", c->pid);
	int r = write_text(c->child_procs_fd, text);
	return r == 0 && has_ended(c) ? -ESRCH : r;
}

int throttle_cgroup_set(struct throttle_cgroup *c, double cpus, unsigned percent)
{
	char text[CPU_MAX_TEXT];
	throttle_cpu_max(cpus, percent, c->before, text);
	int r = write_text(c->max_fd, text);
	return r == 0 && c->child[0] ? move_into_child(c) : r;
}

/* Moves whoever is in the child back: also what the process forked in there. By number, for there
 * is no other way; the number is that of a member read a moment ago. */
static bool empty_child(const struct throttle_cgroup *c)
{
	char text[4096];
	ssize_t n = pread(c->child_procs_fd, text, sizeof(text), 0);
	ssize_t start = 0;
	for (ssize_t i = 0; i < n; i++) {
		if (text[i] != '\n')
			continue;
		(void)!write(c->procs_fd, text + start, (size_t)(i - start));
		start = i + 1;
	}
	return n <= 0;
}

void throttle_cgroup_restore(const struct throttle_cgroup *c)
{
	enum { TRIES = 1000 };
	if (!c->child[0]) {
		(void)!write(c->max_fd, c->before, strlen(c->before));
		return;
	}
	(void)!write(c->max_fd, "max", 3);
	for (int i = 0; i < TRIES && !empty_child(c); i++)
		;
}

void throttle_cgroup_remove(const struct throttle_cgroup *c)
{
	if (c->child[0])
		(void)unlinkat(c->folder_fd, c->child, AT_REMOVEDIR);
}
