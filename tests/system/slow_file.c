/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include "tests/harness.h"
#include "tests/system/slow_file.h"

enum { READS_MAX = 64, FILE_NODE = 2, REQUEST_BYTES = 256 << 10 };

static const char file_name[] = "slow";
static char mount_point[200], file_path[220];
static int fuse_fd = -1;
static pthread_t server;
static bool served;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct {
	uint64_t unique;
	uint32_t bytes;
} waiting[READS_MAX];
static size_t nwaiting;
static bool stopping;

static void reply(uint64_t unique, int error, const void *data, size_t bytes)
{
	struct fuse_out_header head = {
		.len = (uint32_t)(sizeof(head) + bytes), .error = error, .unique = unique};
	struct iovec parts[] = {{.iov_base = &head, .iov_len = sizeof(head)},
		{.iov_base = (void *)(uintptr_t)data, .iov_len = bytes}};
	/* ENOENT: whoever asked was interrupted and has gone. */
	if (writev(fuse_fd, parts, bytes ? 2 : 1) < 0 && errno != ENOENT)
		fprintf(stderr, "fuse: %s\n", strerror(errno));
}

static struct fuse_attr attributes(uint64_t node)
{
	return (struct fuse_attr){.ino = node,
		.size = node == FILE_NODE ? SLOW_FILE_BYTES : 0,
		.mode = node == FILE_NODE ? S_IFREG | 0666 : S_IFDIR | 0755,
		.nlink = 1,
		.blksize = 4096};
}

static void answer_lookup(const struct fuse_in_header *in, const char *name)
{
	struct fuse_entry_out out = {.nodeid = FILE_NODE,
		.generation = 1,
		.entry_valid = 1000,
		.attr_valid = 1000,
		.attr = attributes(FILE_NODE)};
	if (strcmp(name, file_name) == 0)
		reply(in->unique, 0, &out, sizeof(out));
	else
		reply(in->unique, -ENOENT, NULL, 0);
}

static void keep_read(const struct fuse_in_header *in, const struct fuse_read_in *read)
{
	pthread_mutex_lock(&lock);
	if (nwaiting < READS_MAX) {
		waiting[nwaiting].unique = in->unique;
		waiting[nwaiting++].bytes = read->size;
	}
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void serve_one(const struct fuse_in_header *in, const void *body)
{
	switch (in->opcode) {
	case FUSE_INIT: {
		const struct fuse_init_in *init = body;
		struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION,
			.minor = init->minor < FUSE_KERNEL_MINOR_VERSION
					 ? init->minor
					 : FUSE_KERNEL_MINOR_VERSION,
			.max_readahead = 0,
			.flags = init->flags & (FUSE_ASYNC_READ | FUSE_ASYNC_DIO),
			.max_background = 64,
			.congestion_threshold = 48,
			.max_write = 128 << 10};
		reply(in->unique, 0, &out, sizeof(out));
		return;
	}
	case FUSE_GETATTR: {
		struct fuse_attr_out out = {.attr_valid = 1000, .attr = attributes(in->nodeid)};
		reply(in->unique, 0, &out, sizeof(out));
		return;
	}
	case FUSE_LOOKUP:
		answer_lookup(in, body);
		return;
	case FUSE_OPEN: {
		struct fuse_open_out out = {.fh = 1};
		reply(in->unique, 0, &out, sizeof(out));
		return;
	}
	case FUSE_READ:
		keep_read(in, body);
		return;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		return;
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_DESTROY:
		reply(in->unique, 0, NULL, 0);
		return;
	default:
		reply(in->unique, -ENOSYS, NULL, 0);
	}
}

static void *serve(void *arg)
{
	static _Alignas(8) char request[REQUEST_BYTES];
	(void)arg;
	for (;;) {
		ssize_t n = read(fuse_fd, request, sizeof(request));
		if (n < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN))
			continue;
		/* ENODEV: unmounted. */
		if (n < (ssize_t)sizeof(struct fuse_in_header))
			return NULL;
		const struct fuse_in_header *in = (const struct fuse_in_header *)(void *)request;
		serve_one(in, request + sizeof(*in));
	}
}

const char *slow_file_start(const char *folder)
{
	char options[128];
	snprintf(mount_point, sizeof(mount_point), "%s/fuse", folder);
	snprintf(file_path, sizeof(file_path), "%s/%s", mount_point, file_name);
	nwaiting = 0;
	stopping = served = false;
	fuse_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fuse_fd < 0)
		harness_skip("no /dev/fuse to make a slow file with: %s", strerror(errno));
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=%u,group_id=%u", fuse_fd,
		getuid(), getgid());
	if (mkdir(mount_point, 0700) < 0 ||
		mount("tidemark-test", mount_point, "fuse", MS_NOSUID | MS_NODEV, options) < 0) {
		close(fuse_fd);
		fuse_fd = -1;
		harness_skip("no right to mount a slow file: %s", strerror(errno));
	}
	served = pthread_create(&server, NULL, serve, NULL) == 0;
	CU_ASSERT_TRUE_FATAL(served);
	return file_path;
}

void slow_file_wait(size_t reads)
{
	pthread_mutex_lock(&lock);
	while (nwaiting < reads && !stopping)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

static void end_reads(int error, unsigned char byte)
{
	static unsigned char data[REQUEST_BYTES];
	pthread_mutex_lock(&lock);
	memset(data, byte, sizeof(data));
	for (size_t i = 0; i < nwaiting; i++)
		reply(waiting[i].unique, error, data, error ? 0 : waiting[i].bytes);
	nwaiting = 0;
	pthread_mutex_unlock(&lock);
}

void slow_file_answer(unsigned char byte)
{
	end_reads(0, byte);
}

void slow_file_stop(void)
{
	if (fuse_fd < 0)
		return;
	end_reads(-EIO, 0);
	umount2(mount_point, MNT_DETACH);
	/* A reader that is still there keeps the mount, but not the connection. */
	if (served) {
		pthread_cancel(server);
		pthread_join(server, NULL);
	}
	close(fuse_fd);
	fuse_fd = -1;
	rmdir(mount_point);
}
