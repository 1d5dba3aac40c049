/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include "agent/store.h"
#include "base/error.h"

#define VERSION_FILE ".tidemark"
#define SECRET_FILE ".secret"
#define TEMP_PREFIX ".tmp-"
#define VERSION_TEXT "tidemark store "

struct store {
	char *path;
	int dir;
	bool has_secret;
	struct page_secret secret;
};

/* --- files under temporary names ---------------------------------------------------------- */

/* Is the open file still the one of that name? */
static bool file_is(int dir, const char *name, int fd)
{
	struct stat a, b;
	return fstat(fd, &a) == 0 && fstatat(dir, name, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Makes ".tmp-NAME-ID", locked, and writes its name to `temp`. Returns its descriptor or -errno. */
static int temp_create(int dir, const char *name, char *temp, size_t temp_bytes)
{
	for (;;) {
		uint64_t id;
		if (getrandom(&id, sizeof(id), 0) != sizeof(id))
			return -errno;
		int len = snprintf(temp, temp_bytes, TEMP_PREFIX "%s-%016" PRIx64, name, id);
		if (len < 0 || (size_t)len >= temp_bytes)
			return -ENAMETOOLONG;

		auto_close int fd =
			openat(dir, temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd < 0 && errno == EEXIST)
			continue;
		if (fd < 0)
			return -errno;

		/* Between the two a sweep may have taken it for a dead writer's: then once more. */
		if (flock(fd, LOCK_EX | LOCK_NB) == 0 && file_is(dir, temp, fd))
			return take_fd(&fd);
	}
}

/* Gives a temporary file its name unless something has it: 0, -EEXIST, -errno. */
static int temp_publish(int dir, const char *temp, const char *name)
{
	if (renameat2(dir, temp, dir, name, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;

	/* A file system that cannot promise not to replace: a link never replaces. */
	if (linkat(dir, temp, dir, name, 0) < 0)
		return -errno;
	unlinkat(dir, temp, 0);
	return 0;
}

/* Writes a small file as a whole or not at all; one that is there already stays as it is. */
static int small_file_make(int dir, const char *name, const void *data, size_t bytes)
{
	char temp[64];
	auto_close int fd = temp_create(dir, name, temp, sizeof(temp));
	if (fd < 0)
		return fd;

	int r = 0;
	ssize_t n = write(fd, data, bytes);
	if (n < 0 || fsync(fd) < 0)
		r = -errno;
	else if ((size_t)n != bytes)
		r = -ENOSPC;
	else
		r = temp_publish(dir, temp, name);
	if (r < 0)
		unlinkat(dir, temp, 0);
	return r == -EEXIST ? 0 : r;
}

/* Reads a small file; returns its length (at most `cap`) or -errno. */
static ssize_t small_file_read(int dir, const char *name, void *buf, size_t cap)
{
	auto_close int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	ssize_t n = read(fd, buf, cap);
	return n < 0 ? -errno : n;
}

/* --- opening ------------------------------------------------------------------------------ */

/* May this become a store: nothing in it but what an opening that was interrupted left? */
static int dir_is_empty(int dir, bool *ret)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	auto_closedir DIR *d = fdopendir(fd);
	if (!d) {
		close(fd);
		return -ENOMEM;
	}

	*ret = true;
	for (struct dirent *e; *ret && (e = readdir(d));)
		*ret = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		       strcmp(e->d_name, SECRET_FILE) == 0 ||
		       strncmp(e->d_name, TEMP_PREFIX, strlen(TEMP_PREFIX)) == 0;
	return 0;
}

/* Nobody else may put files into a store or read the memory that it holds. */
static int dir_check_private(int dir, const char *path, struct tide_error *err)
{
	struct stat st;
	if (fstat(dir, &st) < 0)
		return tide_fail(err, -errno, "look at the store %s", path);
	if (st.st_uid != geteuid())
		return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -ECANCELED,
			"the store %s belongs to another user (%u)", path, st.st_uid);
	if (st.st_mode & 077)
		return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -ECANCELED,
			"the store %s is open to others (mode %04o): it must be 0700", path,
			st.st_mode & 07777);
	return 0;
}

/* Makes a store of a new or empty folder. */
static int dir_init(int dir, const char *path, struct tide_error *err)
{
	bool empty = false;
	int r = dir_is_empty(dir, &empty);
	if (r < 0)
		return tide_fail(err, r, "look into the folder %s", path);
	if (!empty) {
		/* Unless somebody made a store of it in this very moment. */
		if (faccessat(dir, VERSION_FILE, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			return 0;
		return tide_bad(err, "the folder %s is not a store, nor empty", path);
	}

	struct stat st;
	if (fstat(dir, &st) < 0 || (st.st_uid == geteuid() && fchmod(dir, 0700) < 0))
		return tide_fail(err, -errno, "make the folder %s private", path);
	r = dir_check_private(dir, path, err);
	if (r < 0)
		return r;

	char text[64];
	int len = snprintf(text, sizeof(text), VERSION_TEXT "%d\n", STORE_VERSION);
	r = small_file_make(dir, VERSION_FILE, text, (size_t)len);
	if (r < 0)
		return tide_fail(err, r, "write %s in the store %s", VERSION_FILE, path);

	/* The folder may be new too: its own name must last. */
	auto_close int parent = openat(dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fsync(dir) < 0 || (parent >= 0 && fsync(parent) < 0))
		return tide_fail(err, -errno, "sync the store %s", path);
	return 0;
}

static int version_check(struct store *s, enum store_mode mode, struct tide_error *err)
{
	char text[64];
	ssize_t n = small_file_read(s->dir, VERSION_FILE, text, sizeof(text) - 1);
	if (n == -ENOENT && mode == STORE_WRITE) {
		int r = dir_init(s->dir, s->path, err);
		if (r < 0)
			return r;
		n = small_file_read(s->dir, VERSION_FILE, text, sizeof(text) - 1);
	}
	if (n == -ENOENT)
		return tide_bad(err, "the folder %s is not a store", s->path);
	if (n < 0)
		return tide_fail(err, (int)n, "read %s in the store %s", VERSION_FILE, s->path);

	text[n] = '\0';
	int version;
	char end;
	if (sscanf(text, VERSION_TEXT "%d%c", &version, &end) != 2 || end != '\n')
		return tide_bad(err, "%s in the store %s is damaged", VERSION_FILE, s->path);
	if (version != STORE_VERSION)
		return tide_bad(err,
			"the store %s is of version %d, of which only %d is known here", s->path,
			version, STORE_VERSION);
	return 0;
}

/* A store that is written to gets a secret where it has none; one that is only read does without.
 */
static int secret_read(struct store *s, enum store_mode mode, struct tide_error *err)
{
	uint8_t buf[PAGE_SECRET_FILE_BYTES + 1];
	ssize_t n = small_file_read(s->dir, SECRET_FILE, buf, sizeof(buf));
	if (n == -ENOENT && mode == STORE_WRITE) {
		struct page_secret made;
		int r = page_secret_make(&made);
		if (r == 0) {
			page_secret_encode(&made, buf);
			r = small_file_make(s->dir, SECRET_FILE, buf, PAGE_SECRET_FILE_BYTES);
		}
		if (r < 0)
			return tide_fail(err, r, "make %s in the store %s", SECRET_FILE, s->path);
		n = small_file_read(s->dir, SECRET_FILE, buf, sizeof(buf));
	}

	s->has_secret = n == PAGE_SECRET_FILE_BYTES && page_secret_decode(buf, &s->secret) == 0;
	if (s->has_secret || mode == STORE_READ)
		return 0;
	if (n < 0)
		return tide_fail(err, (int)n, "read %s in the store %s", SECRET_FILE, s->path);
	return tide_bad(err,
		"%s in the store %s is damaged; without the file a new one is made, and the hashes "
		"of older images cannot be checked any more",
		SECRET_FILE, s->path);
}

int store_open(const char *path, enum store_mode mode, struct store **ret, struct tide_error *err)
{
	auto_(store_closep) struct store *s = calloc(1, sizeof(*s));
	if (!s)
		return tide_fail(err, -ENOMEM, "open the store %s", path);
	s->dir = -1;
	s->path = strdup(path);
	if (!s->path)
		return tide_fail(err, -ENOMEM, "open the store %s", path);

	if (mode == STORE_WRITE && mkdir(path, 0700) < 0 && errno != EEXIST)
		return tide_fail(err, -errno, "make the store %s", path);
	s->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->dir < 0)
		return tide_fail(err, -errno, "open the store %s", path);

	int r = version_check(s, mode, err);
	if (r == 0 && mode == STORE_WRITE)
		r = dir_check_private(s->dir, s->path, err);
	if (r == 0)
		r = secret_read(s, mode, err);
	if (r < 0)
		return r;
	*ret = take(s);
	return 0;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	if (s->dir >= 0)
		close(s->dir);
	explicit_bzero(&s->secret, sizeof(s->secret));
	free(s->path);
	free(s);
}

const char *store_path(const struct store *s)
{
	return s->path;
}

const struct page_secret *store_secret(const struct store *s)
{
	return s->has_secret ? &s->secret : NULL;
}

int store_sweep(struct store *s, size_t *ret_removed, struct tide_error *err)
{
	int list = openat(s->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (list < 0)
		return tide_fail(err, -errno, "list the store %s", s->path);
	auto_closedir DIR *d = fdopendir(list);
	if (!d) {
		close(list);
		return tide_fail(err, -ENOMEM, "list the store %s", s->path);
	}

	size_t removed = 0;
	errno = 0;
	for (struct dirent *e; (e = readdir(d)); errno = 0) {
		if (strncmp(e->d_name, TEMP_PREFIX, strlen(TEMP_PREFIX)) != 0)
			continue;
		auto_close int fd =
			openat(s->dir, e->d_name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
		if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
			continue;
		/* Its writer may have given it its name since it was opened. */
		if (!file_is(s->dir, e->d_name, fd))
			continue;
		if (unlinkat(s->dir, e->d_name, 0) < 0)
			return tide_fail(
				err, -errno, "remove %s from the store %s", e->d_name, s->path);
		removed++;
	}
	if (errno)
		return tide_fail(err, -errno, "list the store %s", s->path);
	if (ret_removed)
		*ret_removed = removed;
	return 0;
}

/* --- images ------------------------------------------------------------------------------- */

static int name_check(const char *name, struct tide_error *err)
{
	if (image_name_valid(name))
		return 0;
	return tide_fail_kind(err, TIDE_ERROR_USAGE, -ECANCELED,
		"'%.200s' cannot name an image: a letter or digit, then at most %d letters, "
		"digits, "
		"'.', '_' and '-'",
		name, NAME_MAX_BYTES - 1);
}

#define FILE_NAME_BYTES (NAME_MAX_BYTES + sizeof(IMAGE_SUFFIX))

static const char *file_name(const char *name, char buf[FILE_NAME_BYTES])
{
	snprintf(buf, FILE_NAME_BYTES, "%s" IMAGE_SUFFIX, name);
	return buf;
}

int store_file_create(
	struct store *s, const char *name, struct store_file *ret, struct tide_error *err)
{
	int r = name_check(name, err);
	if (r < 0)
		return r;

	char file[FILE_NAME_BYTES];
	struct stat st;
	if (fstatat(s->dir, file_name(name, file), &st, AT_SYMLINK_NOFOLLOW) == 0)
		return tide_fail(err, -EEXIST, "add the image '%s' to the store %s", name, s->path);

	struct store_file f = {.store = s};
	snprintf(f.name, sizeof(f.name), "%s", name);
	f.fd = temp_create(s->dir, name, f.temp, sizeof(f.temp));
	if (f.fd < 0)
		return tide_fail(err, f.fd, "add the image '%s' to the store %s", name, s->path);
	*ret = f;
	return 0;
}

int store_file_commit(struct store_file *f, struct tide_error *err)
{
	struct store *s = f->store;
	if (fsync(f->fd) < 0)
		return tide_fail(
			err, -errno, "sync the image '%s' of the store %s", f->name, s->path);

	char file[FILE_NAME_BYTES];
	int r = temp_publish(s->dir, f->temp, file_name(f->name, file));
	if (r < 0)
		return tide_fail(err, r, "add the image '%s' to the store %s", f->name, s->path);

	/* An image whose name may not last was not added. */
	if (fsync(s->dir) < 0) {
		r = tide_fail(err, -errno, "sync the store %s", s->path);
		if (file_is(s->dir, file, f->fd))
			unlinkat(s->dir, file, 0);
	}
	close(take_fd(&f->fd));
	return r;
}

void store_file_abandon(struct store_file *f)
{
	if (f->fd < 0)
		return;
	/* The lock goes last, so that no sweep comes in between. */
	unlinkat(f->store->dir, f->temp, 0);
	close(take_fd(&f->fd));
}

int store_file_open(struct store *s, const char *name, int *ret_fd, struct tide_error *err)
{
	int r = name_check(name, err);
	if (r < 0)
		return r;
	char file[FILE_NAME_BYTES];
	int fd = openat(s->dir, file_name(name, file),
		O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return tide_fail(err, -errno, "open the image '%s' of the store %s", name, s->path);
	*ret_fd = fd;
	return 0;
}

int store_remove(struct store *s, const char *name, struct tide_error *err)
{
	int r = name_check(name, err);
	if (r < 0)
		return r;
	char file[FILE_NAME_BYTES];
	if (unlinkat(s->dir, file_name(name, file), 0) < 0 || fsync(s->dir) < 0)
		return tide_fail(
			err, -errno, "remove the image '%s' of the store %s", name, s->path);
	return 0;
}

static int name_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

void store_names_free(char **names)
{
	for (char **n = names; n && *n; n++)
		free(*n);
	free(names);
}

int store_names(struct store *s, char ***ret, size_t *ret_len, struct tide_error *err)
{
	int list = openat(s->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (list < 0)
		return tide_fail(err, -errno, "list the store %s", s->path);
	auto_closedir DIR *d = fdopendir(list);
	if (!d) {
		close(list);
		return tide_fail(err, -ENOMEM, "list the store %s", s->path);
	}

	auto_(store_names_freep) char **names = NULL;
	size_t len = 0, cap = 0;
	errno = 0;
	for (struct dirent *e; (e = readdir(d)); errno = 0) {
		size_t bytes = strlen(e->d_name), suffix = strlen(IMAGE_SUFFIX);
		if (bytes <= suffix || strcmp(e->d_name + bytes - suffix, IMAGE_SUFFIX) != 0)
			continue;
		e->d_name[bytes - suffix] = '\0';
		if (!image_name_valid(e->d_name))
			continue;
		if (len + 1 >= cap) {
			cap = cap ? cap * 2 : 32;
			char **more = reallocarray(names, cap, sizeof(*names));
			if (!more)
				return tide_fail(err, -ENOMEM, "list the store %s", s->path);
			names = more;
		}
		names[len] = strdup(e->d_name);
		if (!names[len])
			return tide_fail(err, -ENOMEM, "list the store %s", s->path);
		names[++len] = NULL;
	}
	if (errno)
		return tide_fail(err, -errno, "list the store %s", s->path);
	if (names)
		qsort(names, len, sizeof(*names), name_compare);
	*ret = take(names);
	*ret_len = len;
	return 0;
}
