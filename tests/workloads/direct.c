/* SPDX-License-Identifier: MIT */
/*
 * Memory that is written past the page tables, on command: by io_uring into registered buffers, by
 * O_DIRECT reads, by AIO.
 *
 *     direct FILE
 *
 * FILE is read with O_DIRECT. Each line of the standard input is a command; each is answered by one
 * line, what it began ends with a line of its own ("ended WHAT RESULT"):
 *
 *     ring             a ring, mapped
 *     unmapped         a ring whose memory is the program's own (IORING_SETUP_NO_MMAP)
 *     register N       N buffers of 64 KiB are registered with the newest ring
 *     huge             a buffer of 8 KiB inside a huge page is registered with the newest ring
 *     move             the registered buffers are moved to another address (mremap)
 *     lock             a thread registers a buffer that FILE backs: until that is read the ring is
 * locked hide             the newest ring is known to its thread alone: its descriptor is closed
 *     pipe             one registered buffer is read into from a pipe that is empty as yet
 *     feed             the pipe is filled with 'P'
 *     pread | preadv   a thread reads FILE into 64 KiB, or into two pieces of 4 KiB
 *     aio              an AIO context, and an AIO read of FILE into 64 KiB
 *     spin             a thread that runs all the time
 *     plain            FILE is closed, and opened again without O_DIRECT
 *     open N           N descriptors of FILE more, without O_DIRECT
 *     direct           one more with it
 *     shut             the newest one is closed
 *
 * "ok ADDRESS BYTES" is the answer where memory is going to be written.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef IORING_SETUP_NO_MMAP
#define IORING_SETUP_NO_MMAP (1u << 14)
#endif

enum { PAGE = 4096, BUFFER_BYTES = 64 << 10, BUFFERS_MAX = 64, ENTRIES = 8 };

static int file = -1;
static const char *file_path;

/* The newest ring. */
static int ring = -1;
static struct io_uring_params params;
static char *sq, *cq;
static struct io_uring_sqe *sqes;
static char *buffers;
static int pipe_fds[2] = {-1, -1};

static void *memory(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED) {
		perror("direct: mmap");
		exit(1);
	}
	memset(p, '-', bytes);
	return p;
}

static void say(const char *what, long result)
{
	/* One write, so that lines of several threads do not mix. */
	dprintf(1, "ended %s %ld\n", what, result < 0 ? -errno : result);
}

static void answer(const void *at, size_t bytes)
{
	dprintf(1, "ok %#lx %zu\n", (unsigned long)(uintptr_t)at, bytes);
}

static void start(void *(*fn)(void *), void *arg)
{
	pthread_t id;
	if (pthread_create(&id, NULL, fn, arg) != 0)
		exit(1);
	pthread_detach(id);
}

static void make_ring(void)
{
	memset(&params, 0, sizeof(params));
	ring = (int)syscall(SYS_io_uring_setup, ENTRIES, &params);
	if (ring < 0) {
		dprintf(1, "cannot make a ring: %s\n", strerror(errno));
		return;
	}
	sq = mmap(NULL, params.sq_off.array + ENTRIES * sizeof(uint32_t), PROT_READ | PROT_WRITE,
		MAP_SHARED, ring, IORING_OFF_SQ_RING);
	cq = mmap(NULL, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
		PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
	sqes = mmap(NULL, ENTRIES * sizeof(*sqes), PROT_READ | PROT_WRITE, MAP_SHARED, ring,
		IORING_OFF_SQES);
	answer(sq, 0);
}

/* The last field of both structures, which older headers have as a reserved one. */
static void set_user_address(void *offsets, size_t bytes, const void *at)
{
	uint64_t address = (uint64_t)(uintptr_t)at;
	memcpy((char *)offsets + bytes - sizeof(address), &address, sizeof(address));
}

static void make_unmapped_ring(void)
{
	char *own = memory(2 * PAGE);
	memset(own, 0, 2 * PAGE);
	memset(&params, 0, sizeof(params));
	params.flags = IORING_SETUP_NO_MMAP;
	set_user_address(&params.cq_off, sizeof(params.cq_off), own);
	set_user_address(&params.sq_off, sizeof(params.sq_off), own + PAGE);
	ring = (int)syscall(SYS_io_uring_setup, ENTRIES, &params);
	if (ring < 0)
		dprintf(1, "cannot make a ring: %s\n", strerror(errno));
	else
		answer(own, 2 * PAGE);
}

static void register_buffers(int n)
{
	struct iovec v[BUFFERS_MAX];
	if (n < 1 || n > BUFFERS_MAX)
		exit(2);
	buffers = memory((size_t)n * BUFFER_BYTES);
	for (int i = 0; i < n; i++) {
		v[i].iov_base = buffers + (size_t)i * BUFFER_BYTES;
		v[i].iov_len = BUFFER_BYTES;
	}
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, v, n) < 0)
		dprintf(1, "cannot register buffers: %s\n", strerror(errno));
	else
		answer(buffers, (size_t)n * BUFFER_BYTES);
}

static void register_huge(void)
{
	size_t huge = 2 << 20;
	uintptr_t at = (uintptr_t)mmap(
		NULL, 2 * huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *page = (char *)((at + huge - 1) & ~(huge - 1));
	madvise(page, huge, MADV_HUGEPAGE);
	memset(page, '-', huge);
	struct iovec v = {.iov_base = page + PAGE, .iov_len = 2 * PAGE};
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &v, 1) < 0)
		dprintf(1, "cannot register a buffer: %s\n", strerror(errno));
	else
		answer(v.iov_base, v.iov_len);
}

static void move_buffers(void)
{
	void *to = memory(BUFFER_BYTES);
	to = mremap(buffers, BUFFER_BYTES, BUFFER_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	answer(to, BUFFER_BYTES);
}

static void *register_file(void *arg)
{
	struct iovec v = {.iov_base = arg, .iov_len = PAGE};
	say("lock", syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &v, 1));
	return NULL;
}

static void lock_ring(void)
{
	void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	answer(at, PAGE);
	start(register_file, at);
}

static void hide_ring(void)
{
	struct io_uring_rsrc_update u = {.offset = ~0u, .data = (uint64_t)ring};
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_RING_FDS, &u, 1) != 1)
		dprintf(1, "cannot register the ring: %s\n", strerror(errno));
	else
		answer(NULL, (size_t)close(ring));
}

static void *wait_completion(void *arg)
{
	(void)arg;
	syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	uint32_t *head = (uint32_t *)(void *)(cq + params.cq_off.head);
	struct io_uring_cqe *cqes = (struct io_uring_cqe *)(void *)(cq + params.cq_off.cqes);
	errno = -cqes[*head & (params.cq_entries - 1)].res;
	long result = cqes[*head & (params.cq_entries - 1)].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	say("pipe", result);
	return NULL;
}

static void read_pipe(void)
{
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		exit(1);
	uint32_t *tail = (uint32_t *)(void *)(sq + params.sq_off.tail);
	uint32_t *array = (uint32_t *)(void *)(sq + params.sq_off.array);
	uint32_t index = *tail & (ENTRIES - 1);
	sqes[index] = (struct io_uring_sqe){.opcode = IORING_OP_READ_FIXED,
		.fd = pipe_fds[0],
		.addr = (uint64_t)(uintptr_t)buffers,
		.len = BUFFER_BYTES,
		.off = (uint64_t)-1};
	array[index] = index;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 0, 0, NULL, 0) != 1) {
		dprintf(1, "cannot submit: %s\n", strerror(errno));
		return;
	}
	answer(buffers, BUFFER_BYTES);
	start(wait_completion, NULL);
}

static void feed_pipe(void)
{
	static char text[BUFFER_BYTES];
	memset(text, 'P', sizeof(text));
	/* First, as the end of what it sets off is told by another thread. */
	answer(NULL, 0);
	if (write(pipe_fds[1], text, sizeof(text)) != sizeof(text))
		exit(1);
}

static void *run_pread(void *arg)
{
	say("pread", pread(file, arg, BUFFER_BYTES, 0));
	return NULL;
}

static void *run_preadv(void *arg)
{
	struct iovec v[] = {{.iov_base = arg, .iov_len = PAGE},
		{.iov_base = (char *)arg + 8 * PAGE, .iov_len = PAGE}};
	say("preadv", preadv(file, v, 2, 0));
	return NULL;
}

struct aio_read {
	aio_context_t context;
	struct iocb request;
};

static void *wait_aio(void *arg)
{
	struct aio_read *a = arg;
	struct io_event event = {0};
	syscall(SYS_io_getevents, a->context, 1, 1, &event, NULL);
	errno = (int)-event.res;
	say("aio", (long)event.res);
	return NULL;
}

static void read_aio(void)
{
	struct aio_read *a = calloc(1, sizeof(*a));
	struct iocb *list[] = {&a->request};
	char *at = memory(BUFFER_BYTES);
	a->request = (struct iocb){.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = (uint32_t)file,
		.aio_buf = (uint64_t)(uintptr_t)at,
		.aio_nbytes = BUFFER_BYTES};
	if (syscall(SYS_io_setup, 8, &a->context) < 0 ||
		syscall(SYS_io_submit, a->context, 1, list) != 1) {
		dprintf(1, "cannot read by AIO: %s\n", strerror(errno));
		return;
	}
	answer(at, BUFFER_BYTES);
	start(wait_aio, a);
}

static void *spin(void *arg)
{
	volatile unsigned *n = arg;
	for (;;)
		(*n)++;
	return NULL;
}

static void open_file(int flags)
{
	if (file >= 0)
		close(file);
	file = open(file_path, O_RDONLY | O_CLOEXEC | flags);
	if (file < 0) {
		perror(file_path);
		exit(1);
	}
}

static int newest;

static void open_more(int n, int flags)
{
	for (int i = 0; i < n; i++) {
		newest = open(file_path, O_RDONLY | O_CLOEXEC | flags);
		if (newest < 0) {
			dprintf(1, "cannot open more files: %s\n", strerror(errno));
			return;
		}
	}
	answer(NULL, 0);
}

static void obey(const char *line)
{
	static unsigned count;
	char *at;
	if (strcmp(line, "ring") == 0) {
		make_ring();
	} else if (strcmp(line, "unmapped") == 0) {
		make_unmapped_ring();
	} else if (strncmp(line, "register ", 9) == 0) {
		register_buffers(atoi(line + 9));
	} else if (strcmp(line, "huge") == 0) {
		register_huge();
	} else if (strcmp(line, "move") == 0) {
		move_buffers();
	} else if (strcmp(line, "lock") == 0) {
		lock_ring();
	} else if (strcmp(line, "hide") == 0) {
		hide_ring();
	} else if (strcmp(line, "pipe") == 0) {
		read_pipe();
	} else if (strcmp(line, "feed") == 0) {
		feed_pipe();
	} else if (strcmp(line, "pread") == 0 || strcmp(line, "preadv") == 0) {
		at = memory(BUFFER_BYTES);
		answer(at, BUFFER_BYTES);
		start(line[5] ? run_preadv : run_pread, at);
	} else if (strcmp(line, "aio") == 0) {
		read_aio();
	} else if (strcmp(line, "spin") == 0) {
		start(spin, &count);
		answer(&count, 0);
	} else if (strncmp(line, "open ", 5) == 0) {
		open_more(atoi(line + 5), 0);
	} else if (strcmp(line, "direct") == 0) {
		open_more(1, O_DIRECT);
	} else if (strcmp(line, "shut") == 0) {
		answer(NULL, (size_t)close(newest));
	} else if (strcmp(line, "plain") == 0) {
		open_file(0);
		answer(NULL, 0);
	} else {
		fprintf(stderr, "direct: what is '%s'?\n", line);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	char line[64];
	if (argc != 2)
		return 2;
	file_path = argv[1];
	open_file(O_DIRECT);
	dprintf(1, "ready\n");
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		obey(line);
	}
	return 0;
}
