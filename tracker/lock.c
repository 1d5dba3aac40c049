/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include "base/error.h"
#include "tracker/lock.h"

struct track_lock {
	int fd;
	char path[96];
};

/* Every user's trackers must meet, so it is where everybody may write. */
static const char *const folders[] = {"/run/lock", "/tmp", NULL};

static const char *lock_folder(void)
{
	for (size_t i = 0; folders[i]; i++) {
		struct stat st;
		if (stat(folders[i], &st) == 0 && S_ISDIR(st.st_mode) && st.st_mode & S_IWOTH &&
			st.st_mode & S_ISVTX)
			return folders[i];
	}
	return "/tmp";
}

/*
 * The kernel (fs.protected_regular) refuses O_CREAT on somebody else's file in such a folder, and a
 * lock does not need to write; so a file that is there is opened for reading.
 */
static int open_lock(const char *path)
{
	for (int tries = 0; tries < 10; tries++) {
		int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
		if (fd >= 0 || errno != EEXIST)
			return fd < 0 ? -errno : fd;
		fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
		if (fd < 0 && errno == EACCES)
			fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fd >= 0 || errno != ENOENT)
			return fd < 0 ? -errno : fd;
	}
	return -EAGAIN;
}

/* The file may have been removed between opening and locking it: then the lock is on nothing. */
static bool still_there(int fd, const char *path)
{
	struct stat ours, there;
	return fstat(fd, &ours) == 0 && lstat(path, &there) == 0 && ours.st_ino == there.st_ino &&
	       ours.st_dev == there.st_dev && S_ISREG(ours.st_mode);
}

static int fail_held(int fd, pid_t pid, struct tide_error *err)
{
	char holder[128] = "";
	ssize_t n = pread(fd, holder, sizeof(holder) - 1, 0);
	holder[n > 0 ? n : 0] = '\0';
	for (char *c = holder; *c; c++) {
		if ((unsigned char)*c < ' ')
			*c = '\0';
	}
	return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -EBUSY,
		"process %d is followed already, by %s", pid,
		holder[0] ? holder : "another tracker");
}

int track_lock_take(pid_t pid, uint64_t start_time, const char *purpose, struct track_lock **ret,
	struct tide_error *err)
{
	struct track_lock *l = calloc(1, sizeof(*l));
	if (!l)
		return tide_fail(err, -ENOMEM, "lock process %d", pid);
	snprintf(l->path, sizeof(l->path), "%s/tidemark-%d-%" PRIu64 ".lock", lock_folder(), pid,
		start_time);

	for (;;) {
		l->fd = open_lock(l->path);
		if (l->fd < 0) {
			int r = tide_fail(err, l->fd, "open the lock %s", l->path);
			free(l);
			return r;
		}
		if (flock(l->fd, LOCK_EX | LOCK_NB) < 0) {
			int r = errno == EWOULDBLOCK ? fail_held(l->fd, pid, err)
						     : tide_fail(err, -errno, "lock %s", l->path);
			close(l->fd);
			free(l);
			return r;
		}
		if (still_there(l->fd, l->path))
			break;
		close(l->fd);
	}
	char holder[128];
	int n = snprintf(holder, sizeof(holder), "process %d (%s)\n", getpid(), purpose);
	/* For the message alone; the lock holds without. */
	if (ftruncate(l->fd, 0) == 0)
		(void)!pwrite(l->fd, holder, (size_t)n, 0);
	*ret = l;
	return 0;
}

void track_lock_drop(struct track_lock *l)
{
	if (!l)
		return;
	unlink(l->path);
	close(l->fd);
	free(l);
}
