/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include "base/error.h"
#include "transport/auth.h"

#define KEY_TEXT_BYTES ((size_t)2 * AUTH_KEY_BYTES)

/* --- key files --------------------------------------------------------------- */

void auth_key_clear(struct auth_key *key)
{
	OPENSSL_cleanse(key, sizeof(*key));
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static int key_parse(const char *text, size_t bytes, struct auth_key *ret)
{
	if (bytes == KEY_TEXT_BYTES + 1 && text[KEY_TEXT_BYTES] == '\n')
		bytes--;
	if (bytes != KEY_TEXT_BYTES)
		return -EINVAL;

	struct auth_key key;
	for (size_t i = 0; i < AUTH_KEY_BYTES; i++) {
		int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
		if (high < 0 || low < 0)
			return -EINVAL;
		key.bytes[i] = (uint8_t)(high << 4 | low);
	}
	*ret = key;
	auth_key_clear(&key);
	return 0;
}

static void key_format(const struct auth_key *key, char text[KEY_TEXT_BYTES + 2])
{
	for (size_t i = 0; i < AUTH_KEY_BYTES; i++)
		sprintf(text + 2 * i, "%02x", key->bytes[i]);
	text[KEY_TEXT_BYTES] = '\n';
	text[KEY_TEXT_BYTES + 1] = '\0';
}

/* Reads up to `bytes`, also in pieces. Returns how many, or negative errno. */
static ssize_t read_all(int fd, char *buf, size_t bytes)
{
	size_t done = 0;
	while (done < bytes) {
		ssize_t n = read(fd, buf + done, bytes - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* A key that others may read, or could have written, proves nothing. The file is asked, not its
 * name. */
static int key_file_check(int fd, const char *path, struct tide_error *err)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return tide_fail(err, -errno, "look at the key file %s", path);
	if (!S_ISREG(st.st_mode))
		return tide_fail_kind(err, TIDE_ERROR_FAILED, -EACCES,
			"use the key file %s, which is no regular file", path);
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return tide_fail_kind(err, TIDE_ERROR_FAILED, -EACCES,
			"use the key file %s, which belongs to user %u", path, st.st_uid);
	if (st.st_mode & 077)
		return tide_fail_kind(err, TIDE_ERROR_FAILED, -EACCES,
			"use the key file %s, which others can get at (mode %04o; chmod 600 it)",
			path, st.st_mode & 07777u);
	return 0;
}

static int key_read_fd(int fd, const char *path, struct auth_key *ret, struct tide_error *err)
{
	int r = key_file_check(fd, path, err);
	if (r < 0)
		return r;
	char text[KEY_TEXT_BYTES + 2]; /* one more than may be there */
	ssize_t n = read_all(fd, text, sizeof(text));
	if (n < 0) {
		r = tide_fail(err, (int)n, "read the key file %s", path);
	} else {
		r = key_parse(text, (size_t)n, ret);
		if (r < 0)
			tide_fail(err, r,
				"read the key file %s, which does not hold %zu hexadecimal digits",
				path, KEY_TEXT_BYTES);
	}
	OPENSSL_cleanse(text, sizeof(text));
	return r;
}

int auth_key_read(const char *path, struct auth_key *ret, struct tide_error *err)
{
	/* Not to wait where it is a pipe, before that is known. */
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return tide_fail(err, -errno, "open the key file %s", path);
	return key_read_fd(fd, path, ret, err);
}

/* --- keys that agents make for themselves ---------------------------------------------------- */

struct auth_key_file {
	struct auth_key key;
	char path[PATH_MAX];
	char name[32]; /* in dir_fd */
	int dir_fd;
	int fd; /* holds the lock that tells a live agent from a dead one */
};

/* Root that was told of another user's folder (sudo -E) keeps its hands off it. */
static bool is_own_dir(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid();
}

static int runtime_path(char *buf, size_t bytes)
{
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	unsigned uid = geteuid();
	char run[64];
	snprintf(run, sizeof(run), "/run/user/%u", uid);
	int n;
	if (xdg && xdg[0] == '/' && is_own_dir(xdg))
		n = snprintf(buf, bytes, "%s/tidemark", xdg);
	else if (is_own_dir(run))
		n = snprintf(buf, bytes, "%s/tidemark", run);
	else
		n = snprintf(buf, bytes, "/tmp/tidemark-%u", uid);
	return n < 0 || (size_t)n >= bytes ? -ENAMETOOLONG : 0;
}

/*
 * Opens the user's runtime folder; where it is not there, makes it or returns -ENOENT. In /tmp
 * anybody could have made one of that name: one that is not this user's alone is refused.
 */
static int runtime_open(const char *path, bool make, struct tide_error *err)
{
	if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
		return tide_fail(err, -errno, "make the folder %s", path);
	auto_close int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return tide_fail(err, -errno, "open the folder %s", path);

	struct stat st;
	if (fstat(fd, &st) < 0)
		return tide_fail(err, -errno, "look at the folder %s", path);
	if (st.st_uid != geteuid())
		return tide_fail_kind(err, TIDE_ERROR_FAILED, -EACCES,
			"use the folder %s, which belongs to user %u", path, st.st_uid);
	if (st.st_mode & 077)
		return tide_fail_kind(err, TIDE_ERROR_FAILED, -EACCES,
			"use the folder %s, which others can get at (mode %04o; chmod 700 it)",
			path, st.st_mode & 07777u);
	return take_fd(&fd);
}

static int key_file_names(struct auth_key_file *f, uint16_t port, char dir[PATH_MAX])
{
	int r = runtime_path(dir, PATH_MAX);
	if (r < 0)
		return r;
	snprintf(f->name, sizeof(f->name), "tcp-%u.key", port);
	int n = snprintf(f->path, sizeof(f->path), "%s/%s", dir, f->name);
	return n < 0 || (size_t)n >= sizeof(f->path) ? -ENAMETOOLONG : 0;
}

static int write_all(int fd, const char *buf, size_t bytes)
{
	while (bytes > 0) {
		ssize_t n = write(fd, buf, bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		buf += n;
		bytes -= (size_t)n;
	}
	return 0;
}

/* Does a live agent hold the key file? One that does not belongs to a dead one. */
static bool key_file_is_held(int fd)
{
	return flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

static int key_file_is_free(const struct auth_key_file *f)
{
	auto_close int fd =
		openat(f->dir_fd, f->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	return key_file_is_held(fd) ? -EADDRINUSE : 0;
}

/* Written and locked under another name first: whoever finds it finds all of it. */
static int key_file_write(struct auth_key_file *f)
{
	char temporary[48], text[KEY_TEXT_BYTES + 2];
	snprintf(temporary, sizeof(temporary), ".%s.%d", f->name, (int)getpid());
	unlinkat(f->dir_fd, temporary, 0); /* of a dead process with our number */
	f->fd = openat(f->dir_fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (f->fd < 0)
		return -errno;
	int r = flock(f->fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
	if (r == 0) {
		key_format(&f->key, text);
		r = write_all(f->fd, text, KEY_TEXT_BYTES + 1);
		OPENSSL_cleanse(text, sizeof(text));
	}
	if (r == 0)
		r = key_file_is_free(f);
	if (r == 0 && renameat(f->dir_fd, temporary, f->dir_fd, f->name) < 0)
		r = -errno;
	if (r < 0)
		unlinkat(f->dir_fd, temporary, 0);
	return r;
}

int auth_key_file_make(uint16_t port, struct auth_key_file **ret, struct tide_error *err)
{
	auto_(auth_key_file_closep) struct auth_key_file *f = calloc(1, sizeof(*f));
	if (!f)
		return tide_fail(err, -ENOMEM, "make a key");
	f->dir_fd = f->fd = -1;
	char dir[PATH_MAX];
	int r = key_file_names(f, port, dir);
	if (r < 0)
		return tide_fail(err, r, "find a folder for the key");
	f->dir_fd = runtime_open(dir, true, err);
	if (f->dir_fd < 0)
		return f->dir_fd;
	if (getrandom(f->key.bytes, sizeof(f->key.bytes), 0) != sizeof(f->key.bytes))
		return tide_fail(err, -errno, "make a key");
	/* One at a time from the look at the old file to the new one in its place. The folder is
	 * this user's alone: nobody else can keep us waiting. */
	r = flock(f->dir_fd, LOCK_EX) < 0 ? -errno : key_file_write(f);
	flock(f->dir_fd, LOCK_UN);
	if (r < 0) {
		if (f->fd >= 0)
			close(take_fd(&f->fd)); /* not ours to remove */
		return tide_fail_kind(err, TIDE_ERROR_FAILED, r, "write the key file %s", f->path);
	}
	*ret = take(f);
	return 0;
}

const char *auth_key_file_path(const struct auth_key_file *f)
{
	return f->path;
}

const struct auth_key *auth_key_file_key(const struct auth_key_file *f)
{
	return &f->key;
}

void auth_key_file_close(struct auth_key_file *f)
{
	if (!f)
		return;
	struct stat ours, named;
	if (f->fd >= 0 && fstat(f->fd, &ours) == 0 &&
		fstatat(f->dir_fd, f->name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
		ours.st_dev == named.st_dev && ours.st_ino == named.st_ino)
		unlinkat(f->dir_fd, f->name, 0);
	if (f->fd >= 0)
		close(f->fd);
	if (f->dir_fd >= 0)
		close(f->dir_fd);
	auth_key_clear(&f->key);
	free(f);
}

int auth_key_find(uint16_t port, struct auth_key *ret, struct tide_error *err)
{
	struct auth_key_file f;
	char dir[PATH_MAX];
	int r = key_file_names(&f, port, dir);
	if (r < 0)
		return tide_fail(err, r, "find a folder for the key");
	auto_close int dir_fd = runtime_open(dir, false, err);
	if (dir_fd < 0)
		return dir_fd;
	auto_close int fd = openat(dir_fd, f.name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return tide_fail(err, -errno, "open the key file %s", f.path);
	if (!key_file_is_held(fd))
		return tide_fail(err, -ENOENT, "use the key file %s, whose agent is gone", f.path);
	return key_read_fd(fd, f.path, ret, err);
}

/* --- proofs --------------------------------------------------------------- */

static bool mac_part(EVP_MAC_CTX *ctx, const uint8_t *part, size_t bytes)
{
	uint8_t length[4] = {(uint8_t)bytes, (uint8_t)(bytes >> 8), (uint8_t)(bytes >> 16),
		(uint8_t)(bytes >> 24)};
	return EVP_MAC_update(ctx, length, sizeof(length)) && EVP_MAC_update(ctx, part, bytes);
}

static bool mac_compute(EVP_MAC_CTX *ctx, const struct auth_key *key, enum auth_role role,
	const struct auth_transcript *t, uint8_t ret[PROOF_BYTES])
{
	const char *label = role == AUTH_CLIENT ? "tidemark client 1" : "tidemark agent 1";
	char digest[] = "SHA256";
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
		OSSL_PARAM_construct_end(),
	};
	size_t bytes;
	return EVP_MAC_init(ctx, key->bytes, sizeof(key->bytes), params) &&
	       EVP_MAC_update(ctx, (const uint8_t *)label, strlen(label)) &&
	       mac_part(ctx, t->client, t->client_bytes) &&
	       mac_part(ctx, t->agent, t->agent_bytes) &&
	       EVP_MAC_final(ctx, ret, &bytes, PROOF_BYTES) && bytes == PROOF_BYTES;
}

int auth_prove(const struct auth_key *key, enum auth_role role, const struct auth_transcript *t,
	uint8_t ret[PROOF_BYTES], struct tide_error *err)
{
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	EVP_MAC_CTX *ctx = mac ? EVP_MAC_CTX_new(mac) : NULL;
	bool is_made = ctx && mac_compute(ctx, key, role, t, ret);
	EVP_MAC_CTX_free(ctx);
	EVP_MAC_free(mac);
	return is_made ? 0 : tide_fail(err, -ENOMEM, "compute an HMAC-SHA256");
}

bool auth_check(const struct auth_key *key, enum auth_role role, const struct auth_transcript *t,
	const uint8_t proof[PROOF_BYTES])
{
	uint8_t expected[PROOF_BYTES];
	if (auth_prove(key, role, t, expected, NULL) < 0)
		return false;
	return CRYPTO_memcmp(expected, proof, PROOF_BYTES) == 0;
}

bool auth_uid_is_trusted(uint32_t uid)
{
	return uid == geteuid() || uid == 0;
}
