/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/guard.h"
#include "transport/stream_file.h"

enum request_kind {
	REQUEST_WRITE,
	REQUEST_FLUSH,
	REQUEST_SHUTDOWN,
};

struct request {
	struct request *next;
	enum request_kind kind;
	byte_stream_write_fn done;
	void *arg;
	unsigned nbufs;
	uv_buf_t bufs[BYTE_STREAM_BUFS]; /* what is left to write */
};

/* Where a file that is being created will appear. */
struct target {
	int dir_fd; /* -1: it was not created by us, and has its name */
	char name[NAME_MAX + 1];
	char temporary[64]; /* "": it has no name yet */
};

struct stream_file {
	struct byte_stream base;
	uv_loop_t *loop;
	int fd;
	struct target target;
	bool closing;
	byte_stream_close_fn closed;
	void *closed_arg;

	/* Delivers, later, what was read while nobody wanted it. Also what keeps the stream until
	 * its last callback. */
	uv_timer_t deliver;

	byte_stream_space_fn space;
	byte_stream_read_fn read;
	void *read_arg;
	bool is_reading; /* between read_start and read_stop */
	bool read_busy;  /* a read is with the threads */
	bool has_result; /* one came back after read_stop */
	bool at_end;
	ssize_t result;
	uv_fs_t read_fs;

	struct request *first, **last;
	bool write_busy; /* `first` is with the threads */
	union {
		uv_fs_t fs;
		uv_work_t work;
	} write_req;
	int sync_status;
};

static struct stream_file *stream_of(const struct byte_stream *s)
{
	return (struct stream_file *)s;
}

static void read_next(struct stream_file *s);
static void write_next(struct stream_file *s);
static void close_when_idle(struct stream_file *s);

static void read_deliver(struct stream_file *s, ssize_t result)
{
	if (result <= 0) {
		s->at_end = true;
		s->is_reading = false;
	}
	s->read(s->read_arg, result);
	if (!s->closing && s->is_reading && !s->read_busy && !s->has_result)
		read_next(s);
}

static void on_read(uv_fs_t *fs)
{
	struct stream_file *s = fs->data;
	ssize_t result = fs->result;
	uv_fs_req_cleanup(fs);
	s->read_busy = false;
	if (s->closing) {
		close_when_idle(s);
	} else if (s->is_reading) {
		read_deliver(s, result);
	} else {
		s->has_result = true;
		s->result = result;
	}
}

static void on_deliver(uv_timer_t *timer)
{
	struct stream_file *s = timer->data;
	if (s->closing || !s->is_reading)
		return;
	if (s->has_result) {
		s->has_result = false;
		read_deliver(s, s->result);
	} else if (!s->read_busy) {
		read_next(s);
	}
}

/* Only from callbacks: what fails here is delivered at once. */
static void read_next(struct stream_file *s)
{
	uint8_t *space = NULL;
	size_t bytes = 0;
	s->space(s->read_arg, &space, &bytes);
	if (bytes == 0) {
		read_deliver(s, -ENOBUFS);
		return;
	}

	uv_buf_t buf = uv_buf_init((char *)space, bytes > UINT_MAX ? UINT_MAX : (unsigned)bytes);
	s->read_fs.data = s;
	int r = uv_fs_read(s->loop, &s->read_fs, s->fd, &buf, 1, -1, on_read);
	if (r < 0)
		read_deliver(s, r);
	else
		s->read_busy = true;
}

static int stream_file_read_start(
	struct byte_stream *base, byte_stream_space_fn space, byte_stream_read_fn read, void *arg)
{
	struct stream_file *s = stream_of(base);
	s->space = space;
	s->read = read;
	s->read_arg = arg;
	if (s->at_end)
		return -ENODATA;
	s->is_reading = true;
	return uv_timer_start(&s->deliver, on_deliver, 0, 0);
}

static void stream_file_read_stop(struct byte_stream *base)
{
	stream_of(base)->is_reading = false;
}

/* Takes the first request out and reports on it. */
static void request_finish(struct stream_file *s, int status)
{
	struct request *r = s->first;
	s->first = r->next;
	if (!s->first)
		s->last = &s->first;
	byte_stream_write_fn done = r->done;
	void *arg = r->arg;
	free(r);
	done(arg, status);
}

static void write_done(struct stream_file *s, int status)
{
	s->write_busy = false;
	request_finish(s, status);
	if (s->closing)
		close_when_idle(s);
	else
		write_next(s);
}

/* Drops what was written from the front; true when nothing is left. */
static bool request_advance(struct request *r, size_t bytes)
{
	unsigned i = 0;
	while (i < r->nbufs && bytes >= r->bufs[i].len)
		bytes -= r->bufs[i++].len;
	r->nbufs -= i;
	memmove(r->bufs, r->bufs + i, r->nbufs * sizeof(r->bufs[0]));
	if (r->nbufs == 0)
		return true;
	r->bufs[0].base += bytes;
	r->bufs[0].len -= bytes;
	return false;
}

static void on_written(uv_fs_t *fs)
{
	struct stream_file *s = fs->data;
	ssize_t result = fs->result;
	uv_fs_req_cleanup(fs);
	if (result < 0 || request_advance(s->first, (size_t)result)) {
		write_done(s, result < 0 ? (int)result : 0);
		return;
	}
	/* A write of nothing that does not fail would never end. */
	if (result == 0) {
		write_done(s, -EIO);
		return;
	}
	s->write_busy = false;
	if (s->closing)
		close_when_idle(s);
	else
		write_next(s);
}

static int sync_fd(int fd)
{
	/* /dev/null, pipes and the like have nothing to sync. */
	if (fsync(fd) < 0 && errno != EINVAL && errno != EROFS && errno != ENOTSUP)
		return -errno;
	return 0;
}

static int target_publish(const struct target *t, int fd)
{
	if (!t->temporary[0]) {
		char path[64];
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		return linkat(AT_FDCWD, path, t->dir_fd, t->name, AT_SYMLINK_FOLLOW) < 0 ? -errno
											 : 0;
	}
	if (renameat2(t->dir_fd, t->temporary, t->dir_fd, t->name, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL)
		return -errno;
	/* File systems that cannot refuse by themselves (NFS): look, then rename. */
	if (faccessat(t->dir_fd, t->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return -EEXIST;
	return renameat(t->dir_fd, t->temporary, t->dir_fd, t->name) < 0 ? -errno : 0;
}

/* On one of libuv's threads. */
static void sync_work(uv_work_t *work)
{
	struct stream_file *s = work->data;
	s->sync_status = sync_fd(s->fd);
	if (s->sync_status < 0 || s->first->kind != REQUEST_SHUTDOWN || s->target.dir_fd < 0)
		return;
	s->sync_status = target_publish(&s->target, s->fd);
	if (s->sync_status == 0)
		s->sync_status = sync_fd(s->target.dir_fd);
}

/* Leaves nothing of a file that did not get its name. */
static void target_release(struct target *t)
{
	if (t->dir_fd < 0)
		return;
	if (t->temporary[0])
		unlinkat(t->dir_fd, t->temporary, 0);
	close(t->dir_fd);
	t->dir_fd = -1;
}

static void on_synced(uv_work_t *work, int cancelled)
{
	struct stream_file *s = work->data;
	int status = cancelled < 0 ? cancelled : s->sync_status;
	if (status == 0 && s->first->kind == REQUEST_SHUTDOWN)
		s->target.temporary[0] = '\0'; /* it has its name now */
	write_done(s, status);
}

/* Hands the first request to the threads. */
static int write_start(struct stream_file *s, struct request *r)
{
	int error;
	if (r->kind == REQUEST_WRITE) {
		s->write_req.fs.data = s;
		error = uv_fs_write(
			s->loop, &s->write_req.fs, s->fd, r->bufs, r->nbufs, -1, on_written);
	} else {
		s->write_req.work.data = s;
		error = uv_queue_work(s->loop, &s->write_req.work, sync_work, on_synced);
	}
	s->write_busy = error == 0;
	return error;
}

/* Only from callbacks: what fails here is reported at once. */
static void write_next(struct stream_file *s)
{
	int error = 0;
	while (s->first && !s->write_busy && !s->closing && (error = write_start(s, s->first)) < 0)
		request_finish(s, error);
}

static int request_add(struct stream_file *s, enum request_kind kind, const uv_buf_t *bufs,
	unsigned nbufs, byte_stream_write_fn done, void *arg)
{
	auto_free struct request *r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->kind = kind;
	r->done = done;
	r->arg = arg;
	for (unsigned i = 0; i < nbufs; i++)
		r->bufs[r->nbufs++] = bufs[i];

	/* Inside the callback of the one before, nothing is with the threads and others may be
	 * waiting: write_done() starts them. */
	bool is_first = !s->first;
	*s->last = r;
	s->last = &r->next;
	if (is_first && !s->write_busy) {
		int error = write_start(s, r);
		if (error < 0) {
			s->first = NULL;
			s->last = &s->first;
			return error;
		}
	}
	take(r);
	return 0;
}

static int stream_file_write(struct byte_stream *base, const uv_buf_t *bufs, unsigned nbufs,
	byte_stream_write_fn done, void *arg)
{
	return request_add(stream_of(base), REQUEST_WRITE, bufs, nbufs, done, arg);
}

static int stream_file_flush(struct byte_stream *base, byte_stream_write_fn done, void *arg)
{
	return request_add(stream_of(base), REQUEST_FLUSH, NULL, 0, done, arg);
}

static int stream_file_shutdown(struct byte_stream *base, byte_stream_write_fn done, void *arg)
{
	return request_add(stream_of(base), REQUEST_SHUTDOWN, NULL, 0, done, arg);
}

static size_t stream_file_pending_bytes(const struct byte_stream *base)
{
	size_t bytes = 0;
	for (const struct request *r = stream_of(base)->first; r; r = r->next)
		for (unsigned i = 0; i < r->nbufs; i++)
			bytes += r->bufs[i].len;
	return bytes;
}

static void on_closed(uv_handle_t *handle)
{
	struct stream_file *s = handle->data;
	while (s->first)
		request_finish(s, -ECANCELED);
	target_release(&s->target);
	close(s->fd);

	byte_stream_close_fn closed = s->closed;
	void *arg = s->closed_arg;
	free(s);
	if (closed)
		closed(arg);
}

static void close_when_idle(struct stream_file *s)
{
	if (!s->read_busy && !s->write_busy && !uv_is_closing((uv_handle_t *)&s->deliver))
		uv_close((uv_handle_t *)&s->deliver, on_closed);
}

static void stream_file_close(struct byte_stream *base, byte_stream_close_fn done, void *arg)
{
	struct stream_file *s = stream_of(base);
	s->closing = true;
	s->closed = done;
	s->closed_arg = arg;
	/* Where it waits for a thread it need not; where it runs, it is waited for. */
	if (s->read_busy)
		uv_cancel((uv_req_t *)&s->read_fs);
	if (s->write_busy)
		uv_cancel((uv_req_t *)&s->write_req);
	close_when_idle(s);
}

static const struct byte_stream_ops stream_file_ops = {
	.read_start = stream_file_read_start,
	.read_stop = stream_file_read_stop,
	.write = stream_file_write,
	.pending_bytes = stream_file_pending_bytes,
	.flush = stream_file_flush,
	.shutdown = stream_file_shutdown,
	.close = stream_file_close,
};

int stream_file_open(uv_loop_t *loop, int fd, const char *name, struct byte_stream **ret)
{
	auto_free struct stream_file *s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->base.ops = &stream_file_ops;
	snprintf(s->base.peer.name, sizeof(s->base.peer.name), "%s", name);
	s->loop = loop;
	s->fd = fd;
	s->target.dir_fd = -1;
	s->last = &s->first;
	int r = uv_timer_init(loop, &s->deliver);
	if (r < 0)
		return r;
	s->deliver.data = s;
	*ret = &take(s)->base;
	return 0;
}

/* Opens the folder that `path` is in, and splits the file's name off. */
static int target_open(const char *path, struct target *ret)
{
	char copy[PATH_MAX];
	if (strlen(path) >= sizeof(copy))
		return -ENAMETOOLONG;
	strcpy(copy, path);
	char *slash = strrchr(copy, '/');
	const char *name = slash ? slash + 1 : copy;
	if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return -EISDIR;
	if (strlen(name) > NAME_MAX)
		return -ENAMETOOLONG;
	strcpy(ret->name, name);

	if (slash)
		slash[slash == copy ? 1 : 0] = '\0';
	ret->dir_fd = open(slash ? copy : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (ret->dir_fd < 0)
		return -errno;
	if (faccessat(ret->dir_fd, ret->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return -EEXIST;
	return 0;
}

static int target_create(struct target *t, bool with_temporary_name)
{
	t->temporary[0] = '\0';
	if (!with_temporary_name) {
		int fd = openat(t->dir_fd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
		if (fd >= 0)
			return fd;
		if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL && errno != ENOENT)
			return -errno;
	}

	uint64_t random;
	if (getrandom(&random, sizeof(random), 0) != sizeof(random))
		return -errno;
	snprintf(t->temporary, sizeof(t->temporary), ".tidemark-%016llx.part",
		(unsigned long long)random);
	int fd = openat(t->dir_fd, t->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		t->temporary[0] = '\0';
	return fd < 0 ? -errno : fd;
}

int stream_file_create(
	uv_loop_t *loop, const char *path, bool with_temporary_name, struct byte_stream **ret)
{
	auto_(target_release) struct target target = {.dir_fd = -1};
	int r = target_open(path, &target);
	if (r < 0)
		return r;
	auto_close int fd = target_create(&target, with_temporary_name);
	if (fd < 0)
		return fd;

	char name[sizeof((*ret)->peer.name)];
	snprintf(name, sizeof(name), "file %.200s", path);
	r = stream_file_open(loop, fd, name, ret);
	if (r < 0)
		return r;
	stream_of(*ret)->target = target;
	target.dir_fd = -1;
	take_fd(&fd);
	return 0;
}
