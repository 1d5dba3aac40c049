/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/error.h"
#include "tracker/process.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

/* From the kernel's include/linux/sched.h; the flags field of stat shows it. */
#define PF_KTHREAD 0x00200000u
#define PF_EXITING 0x00000004u

/* No user address is this high on any architecture, so reading there never touches a page. */
#define NO_ADDRESS ((off_t)1 << 62)

#define READ_FIRST_BYTES 16384u

/* What we want of /proc/PID/stat. */
struct stat_line {
	char state;
	unsigned flags;
	long nthreads;
	uint64_t start_time;
};

static int stat_read(int dir_fd, const char *path, struct stat_line *ret)
{
	auto_close int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	char line[1024];
	ssize_t len = read(fd, line, sizeof(line) - 1);
	if (len < 0)
		return -errno;
	line[len] = '\0';

	/* The name is in brackets and may hold anything, brackets included: the last one ends it.
	 */
	const char *rest = strrchr(line, ')');
	if (!rest)
		return -ESRCH;
	struct stat_line s;
	if (sscanf(rest + 1,
		    " %c %*d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld %*d "
		    "%" SCNu64,
		    &s.state, &s.flags, &s.nthreads, &s.start_time) != 4)
		return -ESRCH;
	*ret = s;
	return 0;
}

static bool state_is_dead(char state)
{
	return state == 0 || state == 'Z' || state == 'X' || state == 'x';
}

int process_read_status(
	const struct process *p, pid_t tid, const char *field, char *ret, size_t cap)
{
	char path[32], text[8192];
	snprintf(path, sizeof(path), "task/%d/status", tid);
	auto_close int fd = openat(p->proc_fd, path, O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (len < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	text[len] = '\0';

	char key[32];
	snprintf(key, sizeof(key), "\n%s:", field);
	const char *line = strstr(text, key);
	if (!line)
		return -ENOENT;
	line += strlen(key);
	line += strspn(line, " \t");
	snprintf(ret, cap, "%.*s", (int)strcspn(line, "\n"), line);
	return 0;
}

char process_thread_state(const struct process *p, pid_t tid)
{
	char path[32];
	snprintf(path, sizeof(path), "task/%d/stat", tid);
	struct stat_line s;
	return stat_read(p->proc_fd, path, &s) ? 0 : s.state;
}

bool process_thread_lives(const struct process *p, pid_t tid)
{
	return !state_is_dead(process_thread_state(p, tid));
}

pid_t process_find_thread(const struct process *p)
{
	if (process_thread_lives(p, p->pid))
		return p->pid;

	int fd = openat(p->proc_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	auto_closedir DIR *dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return 0;
	}
	for (struct dirent *e; (e = readdir(dir));) {
		pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
		if (tid > 0 && process_thread_lives(p, tid))
			return tid;
	}
	return 0;
}

/*
 * A leader that has exited shows no memory any more, although its threads go on with it; theirs do,
 * in task/TID.
 */
static int process_open_file(const struct process *p, pid_t tid, const char *name, int flags)
{
	if (tid == p->pid)
		return openat(p->proc_fd, name, flags | O_CLOEXEC);
	char path[64];
	snprintf(path, sizeof(path), "task/%d/%s", tid, name);
	return openat(p->proc_fd, path, flags | O_CLOEXEC);
}

static int fd_read_all(int fd, char **ret, size_t *ret_len)
{
	size_t cap = READ_FIRST_BYTES, len = 0;
	auto_free char *buf = malloc(cap);
	if (!buf)
		return -ENOMEM;
	for (;;) {
		if (cap - len < 4096) {
			cap *= 2;
			char *more = realloc(buf, cap);
			if (!more)
				return -ENOMEM;
			buf = more;
		}
		ssize_t n = read(fd, buf + len, cap - len - 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		len += (size_t)n;
	}
	buf[len] = '\0';
	*ret = take(buf);
	*ret_len = len;
	return 0;
}

static int process_read_thread_file(
	const struct process *p, pid_t tid, const char *name, char **ret, size_t *ret_len)
{
	auto_close int fd = process_open_file(p, tid, name, O_RDONLY);
	if (fd < 0)
		return -errno;
	return fd_read_all(fd, ret, ret_len);
}

int process_read_file(const struct process *p, const char *name, char **ret, size_t *ret_len,
	struct tide_error *err)
{
	char *text = NULL;
	size_t len = 0;
	int r = process_read_thread_file(p, p->pid, name, &text, &len);
	if (r == -ENOENT && !process_thread_lives(p, p->pid) && process_find_thread(p) == 0)
		r = -ESRCH;
	if (r < 0)
		return tide_fail(err, r, "read %s of process %d", name, p->pid);

	/* Nothing in it: perhaps there is nothing, perhaps it is the leader that is dead. */
	if (len == 0) {
		pid_t tid = process_find_thread(p);
		char *theirs = NULL;
		if (tid != 0 && tid != p->pid &&
			process_read_thread_file(p, tid, name, &theirs, &len) == 0) {
			free(text);
			text = theirs;
		}
	}
	*ret = text;
	*ret_len = len;
	return 0;
}

static bool process_has_memory(const struct process *p)
{
	char byte;
	uint64_t entry;
	ssize_t n;
	do
		n = p->mem_fd >= 0 ? pread(p->mem_fd, &byte, 1, NO_ADDRESS)
				   : pread(p->pagemap_fd, &entry, sizeof(entry), 0);
	while (n < 0 && errno == EINTR);
	/* An address space that is gone reads as the end of a file; of a living one the memory says
	 * EIO here, and the pagemap that nothing is there. */
	return n != 0;
}

int process_check(const struct process *p, struct tide_error *err)
{
	/* The process may be gone while a sibling made with CLONE_VM keeps its memory alive. */
	struct pollfd exited = {.fd = p->pid_fd, .events = POLLIN};
	if (poll(&exited, 1, 0) > 0 && (exited.revents & POLLIN))
		return tide_fail(err, -ESRCH, "follow process %d, which has ended", p->pid);
	if (process_has_memory(p))
		return 0;
	/* One that is ending gives up its memory some time before it is a zombie. */
	struct stat_line s;
	bool ending = stat_read(p->proc_fd, "stat", &s) < 0 || s.flags & PF_EXITING;
	if (ending || process_find_thread(p) == 0)
		return tide_fail(err, -ESRCH, "follow process %d, which has ended", p->pid);
	return tide_fail(
		err, -ESRCH, "follow process %d, which has become another program (exec)", p->pid);
}

static struct process *process_new(pid_t pid)
{
	struct process *p = malloc(sizeof(*p));
	if (p)
		*p = (struct process){
			.pid = pid, .pid_fd = -1, .proc_fd = -1, .mem_fd = -1, .pagemap_fd = -1};
	return p;
}

void process_close(struct process *p)
{
	if (!p)
		return;
	guard_closep(&p->pagemap_fd);
	guard_closep(&p->mem_fd);
	guard_closep(&p->pid_fd);
	guard_closep(&p->proc_fd);
	free(p);
}

/* Who it is, and that it is something with memory of its own that a user started. */
static int process_identify(struct process *p, struct tide_error *err)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/%d", p->pid);
	p->proc_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (p->proc_fd < 0)
		return tide_fail(
			err, errno == ENOENT ? -ESRCH : -errno, "follow process %d", p->pid);

	/* /proc/TID of a thread can be opened too, though no listing shows it. */
	char leader[16] = "";
	process_read_status(p, p->pid, "Tgid", leader, sizeof(leader));
	if (leader[0] && strtol(leader, NULL, 10) != p->pid)
		return tide_fail(
			err, -EINVAL, "follow %d, which is a thread of process %s", p->pid, leader);

	struct stat_line s;
	int r = stat_read(p->proc_fd, "stat", &s);
	if (r < 0)
		return tide_fail(err, r == -ENOENT ? -ESRCH : r, "follow process %d", p->pid);
	if (s.flags & PF_KTHREAD)
		return tide_fail(err, -EOPNOTSUPP, "follow process %d, a kernel thread", p->pid);
	if (process_find_thread(p) == 0)
		return tide_fail(err, -ESRCH,
			"follow process %d, a zombie (it has ended and waits for its parent)",
			p->pid);
	p->start_time = s.start_time;
	return 0;
}

static int open_process(pid_t pid, bool with_memory, struct process **ret, struct tide_error *err)
{
	if (pid <= 0)
		return tide_fail(err, -EINVAL, "follow process %d", pid);
	if (pid == getpid())
		return tide_fail_kind(err, TIDE_ERROR_USAGE, -EINVAL,
			"follow process %d, which is ourselves", pid);

	auto_(process_closep) struct process *p = process_new(pid);
	if (!p)
		return tide_fail(err, -ENOMEM, "follow process %d", pid);
	int r = process_identify(p, err);
	if (r < 0)
		return r;

	p->pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (p->pid_fd < 0)
		return tide_fail(err, -errno, "open a pidfd of process %d", pid);
	pid_t tid = process_find_thread(p);
	if (with_memory)
		p->mem_fd = process_open_file(p, tid, "mem", O_RDWR);
	if (with_memory && p->mem_fd < 0)
		return tide_fail(err, errno == ENOENT ? -ESRCH : -errno,
			"open the memory of process %d", pid);
	p->pagemap_fd = process_open_file(p, tid, "pagemap", O_RDONLY);
	if (p->pagemap_fd < 0)
		return tide_fail(err, errno == ENOENT ? -ESRCH : -errno,
			"open the pagemap of process %d", pid);

	/*
	 * proc_fd is bound to the process, not to its number, so all but the pidfd are of one
	 * process; if that one still lives, the number was its own all the while and the pidfd is
	 * right too. And if the memory opened first still lives, no exec came between the two.
	 */
	struct stat_line now;
	if (stat_read(p->proc_fd, "stat", &now) < 0 || now.start_time != p->start_time)
		return tide_fail(err, -ESRCH, "follow process %d, which has ended", pid);
	r = process_check(p, err);
	if (r < 0)
		return r;

	*ret = take(p);
	return 0;
}

int process_open(pid_t pid, struct process **ret, struct tide_error *err)
{
	return open_process(pid, true, ret, err);
}

int process_open_to_look(pid_t pid, struct process **ret, struct tide_error *err)
{
	return open_process(pid, false, ret, err);
}
