/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/guard.h"
#include "tracker/sharers.h"

struct looking {
	pid_t pid; /* whose objects they are */
	struct sharer_query *queries;
	size_t n, left; /* left: `by` not answered yet */
	bool unseen;
};

static void answer(struct looking *l, struct sharer_query *q, pid_t by)
{
	if (by == l->pid) {
		q->own_descriptor = true;
		return;
	}
	if (!q->by)
		l->left--;
	q->by = by;
}

static void look_at_maps(struct looking *l, pid_t pid, int dir)
{
	int fd = openat(dir, "maps", O_RDONLY | O_CLOEXEC);
	auto_fclose FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;
	if (!f) {
		l->unseen |= errno != ENOENT && errno != ESRCH;
		if (fd >= 0)
			close(fd);
		return;
	}
	auto_free char *line = NULL;
	size_t cap = 0;
	errno = 0;
	while (l->left && getline(&line, &cap, f) > 0) {
		char shared;
		uint32_t major, minor;
		uint64_t inode;
		if (sscanf(line, "%*x-%*x %*c%*c%*c%c %*x %" SCNx32 ":%" SCNx32 " %" SCNu64,
			    &shared, &major, &minor, &inode) != 4 ||
			shared != 's')
			continue;
		for (size_t i = 0; i < l->n; i++) {
			struct sharer_query *q = &l->queries[i];
			if (q->inode == inode && q->dev_major == major && q->dev_minor == minor)
				answer(l, q, pid);
		}
	}
	/* The right to look is checked as the file is read. */
	l->unseen |= ferror(f) && errno != ESRCH;
}

static bool open_for_writing(int dir, const char *fd)
{
	char name[300], line[128];
	snprintf(name, sizeof(name), "fdinfo/%s", fd);
	int info = openat(dir, name, O_RDONLY | O_CLOEXEC);
	auto_fclose FILE *f = info >= 0 ? fdopen(info, "r") : NULL;
	unsigned flags = 0;
	/* What cannot be read was closed meanwhile, or is taken for the worst. */
	if (!f)
		return errno != ENOENT;
	while (fgets(line, sizeof(line), f))
		sscanf(line, "flags: %o", &flags);
	return (flags & O_ACCMODE) != O_RDONLY;
}

static void look_at_descriptors(struct looking *l, pid_t pid, int dir)
{
	int fds = openat(dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_closedir DIR *d = fds >= 0 ? fdopendir(fds) : NULL;
	if (!d) {
		l->unseen |= errno != ENOENT && errno != ESRCH;
		if (fds >= 0)
			close(fds);
		return;
	}
	for (struct dirent *e; (e = readdir(d));) {
		char target[PATH_MAX];
		ssize_t len = readlinkat(fds, e->d_name, target, sizeof(target) - 1);
		if (len <= 0)
			continue;
		target[len] = '\0';
		for (size_t i = 0; i < l->n; i++) {
			struct sharer_query *q = &l->queries[i];
			struct stat st;
			/* Names come cheaper than inodes. */
			if ((q->by && pid != l->pid) || strcmp(target, q->name) != 0 ||
				fstatat(fds, e->d_name, &st, 0) < 0 || st.st_ino != q->inode ||
				major(st.st_dev) != q->dev_major ||
				minor(st.st_dev) != q->dev_minor)
				continue;
			if (open_for_writing(dir, e->d_name))
				answer(l, q, pid);
		}
	}
}

int sharers_find(pid_t pid, struct sharer_query *queries, size_t n, bool *ret_unseen)
{
	struct looking l = {.pid = pid, .queries = queries, .n = n, .left = n};
	for (size_t i = 0; i < n; i++) {
		queries[i].by = 0;
		queries[i].own_descriptor = false;
	}
	auto_closedir DIR *proc = opendir("/proc");
	if (!proc)
		return -errno;
	for (struct dirent *e; (e = readdir(proc));) {
		char *end;
		long other = strtol(e->d_name, &end, 10);
		if (*end || other <= 0 || (l.left == 0 && other != pid))
			continue;
		auto_close int dir = openat(dirfd(proc), e->d_name, O_PATH | O_CLOEXEC);
		if (dir < 0)
			continue;
		if (other != pid)
			look_at_maps(&l, (pid_t)other, dir);
		look_at_descriptors(&l, (pid_t)other, dir);
	}
	*ret_unseen = l.unseen;
	return 0;
}

/* --- on a thread of its own --------------------------------------------------------------- */

/* Shared by the thread and the caller; the last one frees it. */
struct sharers {
	pid_t pid;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool started, left;           /* left: the caller is gone, and so shall the thread be */
	bool asked;                   /* a look is wanted, or under way */
	struct sharer_query *queries; /* the thread's own copy; names owned */
	size_t n;
	bool unseen;
	int result;
};

static void queries_free(struct sharer_query *queries, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free((char *)(uintptr_t)queries[i].name);
	free(queries);
}

static struct sharer_query *queries_copy(const struct sharer_query *queries, size_t n)
{
	struct sharer_query *copy = calloc(n, sizeof(*copy));
	for (size_t i = 0; copy && i < n; i++) {
		copy[i] = queries[i];
		copy[i].name = strdup(queries[i].name);
		if (!copy[i].name) {
			queries_free(copy, i);
			return NULL;
		}
	}
	return copy;
}

static void destroy(struct sharers *s)
{
	queries_free(s->queries, s->n);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static void *look_run(void *arg)
{
	struct sharers *s = arg;
	pthread_mutex_lock(&s->lock);
	while (!s->left) {
		if (!s->asked) {
			pthread_cond_wait(&s->changed, &s->lock);
			continue;
		}
		bool unseen = false;
		pthread_mutex_unlock(&s->lock);
		int r = sharers_find(s->pid, s->queries, s->n, &unseen);
		pthread_mutex_lock(&s->lock);
		s->result = r;
		s->unseen = unseen;
		s->asked = false;
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
	destroy(s);
	return NULL;
}

int sharers_new(pid_t pid, struct sharers **ret)
{
	struct sharers *s = calloc(1, sizeof(*s));
	pthread_condattr_t monotonic;
	if (!s)
		return -ENOMEM;
	s->pid = pid;
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&s->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	*ret = s;
	return 0;
}

/* It inherits a mask that keeps the signals for the program whose library we are. */
static int start(struct sharers *s)
{
	pthread_t thread;
	pthread_attr_t attr;
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	int r = -pthread_create(&thread, &attr, look_run, s);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	s->started = r == 0;
	return r;
}

/* Is the thread done by then with what it was asked? */
static bool await_answer(struct sharers *s, const struct timespec *until)
{
	while (s->asked && pthread_cond_timedwait(&s->changed, &s->lock, until) != ETIMEDOUT)
		;
	return !s->asked;
}

static int ask(struct sharers *s, const struct sharer_query *queries, size_t n)
{
	queries_free(s->queries, s->n);
	s->queries = queries_copy(queries, n);
	s->n = s->queries ? n : 0;
	int r = s->queries ? 0 : -ENOMEM;
	if (r == 0 && !s->started)
		r = start(s);
	s->asked = r == 0;
	pthread_cond_broadcast(&s->changed);
	return r;
}

int sharers_look(struct sharers *s, struct sharer_query *queries, size_t n, uint64_t deadline_ns,
	bool *ret_unseen)
{
	int r = 0;
	struct timespec until = clock_timespec(deadline_ns);
	for (size_t i = 0; i < n; i++) {
		queries[i].by = 0;
		queries[i].own_descriptor = true;
	}
	*ret_unseen = true;
	pthread_mutex_lock(&s->lock);
	/* First what it may still be at since an earlier deadline, whose answers are old. */
	bool ours = await_answer(s, &until);
	if (ours)
		r = ask(s, queries, n);
	if (ours && r == 0 && await_answer(s, &until)) {
		r = s->result;
		for (size_t i = 0; r == 0 && i < s->n; i++) {
			queries[i].by = s->queries[i].by;
			queries[i].own_descriptor = s->queries[i].own_descriptor;
		}
		*ret_unseen = r < 0 || s->unseen;
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}

void sharers_free(struct sharers *s)
{
	if (!s)
		return;
	if (!s->started) {
		destroy(s);
		return;
	}
	pthread_mutex_lock(&s->lock);
	s->left = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}
