/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "tests/system/calls.h"

#define ONE_MS_NS 1000000

static int semaphores = -1;
static int epoll_fd, ring_fd, listener, full_listener, idle_socket, full_socket, pipe_read;
static aio_context_t aio;
static sigset_t signals, no_signals;
static char byte, bulk[65536];
static struct sockaddr_un full_address;
static socklen_t full_address_len;

/* In memory that the kernel cannot write, so that it cannot note what is left of them. */
static struct {
	struct timeval tv;
	struct timespec ts;
} * const_time;

static unsigned wait_ms = 5;
static struct timespec wait_time = {.tv_nsec = 5 * ONE_MS_NS};
static struct timeval wait_timeval = {.tv_usec = 5000};

void calls_set_timeout(unsigned ms)
{
	wait_ms = ms;
	wait_time = (struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * ONE_MS_NS};
	wait_timeval = (struct timeval){.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
}

static void must(bool ok)
{
	if (!ok)
		_exit(77);
}

/* The answer of a call that should time out: returned 0 or failed with `code`. */
static int timed_out(long r, int code)
{
	if (r == 0 && code == 0)
		return 0;
	if (r < 0 && errno == code)
		return 0;
	return r < 0 ? errno : EPROTO;
}

static void prepare_epoll(void)
{
	int fds[2];
	epoll_fd = epoll_create1(0);
	must(epoll_fd >= 0 && pipe(fds) == 0);
	struct epoll_event event = {.events = EPOLLIN};
	must(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fds[0], &event) == 0);
}

static int run_epoll_wait(void)
{
	struct epoll_event event;
	return timed_out(epoll_wait(epoll_fd, &event, 1, (int)wait_ms), 0);
}

static int run_epoll_pwait(void)
{
	struct epoll_event event;
	return timed_out(epoll_pwait(epoll_fd, &event, 1, (int)wait_ms, &signals), 0);
}

static int run_epoll_pwait2(void)
{
	struct epoll_event event;
	return timed_out(syscall(441, epoll_fd, &event, 1, &wait_time, NULL, 8), 0);
}

static void prepare_signals(void)
{
	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR1);
	sigprocmask(SIG_BLOCK, &signals, NULL);
}

static int run_sigtimedwait(void)
{
	return timed_out(sigtimedwait(&signals, NULL, &wait_time), EAGAIN);
}

static void *post_semaphore(void *arg)
{
	/* A semop() has no timeout of its own; a thread that is frozen with it ends each. */
	for (;;) {
		nanosleep(&wait_time, NULL);
		struct sembuf op = {.sem_num = 1, .sem_op = 1};
		semop(semaphores, &op, 1);
	}
	return arg;
}

static void prepare_semaphores(void)
{
	if (semaphores >= 0)
		return;
	semaphores = semget(IPC_PRIVATE, 2, 0600);
	must(semaphores >= 0);
	/* They outlive whoever made them: a child waits for our end and removes them. */
	int fds[2];
	must(pipe(fds) == 0);
	pid_t child = fork();
	must(child >= 0);
	if (child == 0) {
		close(fds[1]);
		char end;
		while (read(fds[0], &end, 1) > 0)
			;
		semctl(semaphores, 0, IPC_RMID);
		_exit(0);
	}
	close(fds[0]);
}

static void prepare_semop(void)
{
	prepare_semaphores();
	pthread_t thread;
	must(pthread_create(&thread, NULL, post_semaphore, NULL) == 0);
}

static int run_semop(void)
{
	struct sembuf op = {.sem_num = 1, .sem_op = -1};
	return semop(semaphores, &op, 1) == 0 ? 0 : errno;
}

static int run_semtimedop(void)
{
	struct sembuf op = {.sem_num = 0, .sem_op = -1};
	return timed_out(semtimedop(semaphores, &op, 1, &wait_time), EAGAIN);
}

static void prepare_aio(void)
{
	must(syscall(SYS_io_setup, 4, &aio) == 0);
	sigemptyset(&no_signals);
}

static int run_io_getevents(void)
{
	struct io_event event;
	struct timespec t = wait_time;
	return timed_out(syscall(SYS_io_getevents, aio, 1, 1, &event, &t), 0);
}

static int run_io_pgetevents(void)
{
	struct io_event event;
	struct timespec t = wait_time;
	struct {
		const sigset_t *set;
		size_t size;
	} set = {&no_signals, 8};
	return timed_out(syscall(SYS_io_pgetevents, aio, 1, 1, &event, &t, &set), 0);
}

static void prepare_ring(void)
{
	struct io_uring_params params = {0};
	ring_fd = (int)syscall(SYS_io_uring_setup, 4, &params);
	must(ring_fd >= 0 && (params.features & IORING_FEAT_EXT_ARG));
}

static int run_io_uring_enter(void)
{
	struct io_uring_getevents_arg arg = {.ts = (uintptr_t)&wait_time};
	return timed_out(syscall(SYS_io_uring_enter, ring_fd, 0, 1,
				 IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg, sizeof(arg)),
		ETIME);
}

static void prepare_const_time(void)
{
	prepare_signals();
	const_time = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(const_time != MAP_FAILED);
	const_time->tv = wait_timeval;
	const_time->ts = wait_time;
	must(mprotect(const_time, 4096, PROT_READ) == 0);
}

static int run_select_const(void)
{
	return timed_out(syscall(SYS_select, 0, NULL, NULL, NULL, &const_time->tv), 0);
}

static int run_pselect_const(void)
{
	return timed_out(syscall(SYS_pselect6, 0, NULL, NULL, NULL, &const_time->ts, NULL), 0);
}

static int run_ppoll_const(void)
{
	return timed_out(syscall(SYS_ppoll, NULL, 0, &const_time->ts, NULL, 8), 0);
}

static int run_select(void)
{
	struct timeval tv = wait_timeval;
	return timed_out(select(0, NULL, NULL, NULL, &tv), 0);
}

static int run_poll(void)
{
	return timed_out(poll(NULL, 0, (int)wait_ms), 0);
}

static int run_ppoll(void)
{
	return timed_out(ppoll(NULL, 0, &wait_time, &signals), 0);
}

static int run_nanosleep(void)
{
	return timed_out(nanosleep(&wait_time, NULL), 0);
}

static int run_clock_nanosleep(void)
{
	return clock_nanosleep(CLOCK_MONOTONIC, 0, &wait_time, NULL);
}

static int run_futex(void)
{
	int word = 0;
	return timed_out(
		syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &wait_time, NULL, 0), ETIMEDOUT);
}

static void prepare_sockets(void)
{
	int idle[2], full[2];
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, idle) == 0);
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, full) == 0);
	idle_socket = idle[0];
	full_socket = full[0];
	must(setsockopt(idle_socket, SOL_SOCKET, SO_RCVTIMEO, &wait_timeval,
		     sizeof(wait_timeval)) == 0);
	must(setsockopt(full_socket, SOL_SOCKET, SO_SNDTIMEO, &wait_timeval,
		     sizeof(wait_timeval)) == 0);
	while (send(full_socket, bulk, sizeof(bulk), MSG_DONTWAIT) > 0)
		;
	while (send(full_socket, bulk, 1, MSG_DONTWAIT) > 0)
		;
}

static int run_recv(void)
{
	return timed_out(recv(idle_socket, &byte, 1, 0), EAGAIN);
}

static struct iovec one_byte = {&byte, 1};

static int run_recvmsg(void)
{
	struct msghdr m = {.msg_iov = &one_byte, .msg_iovlen = 1};
	return timed_out(recvmsg(idle_socket, &m, 0), EAGAIN);
}

static int run_recvmmsg(void)
{
	struct mmsghdr m = {.msg_hdr = {.msg_iov = &one_byte, .msg_iovlen = 1}};
	return timed_out(recvmmsg(idle_socket, &m, 1, 0, NULL), EAGAIN);
}

static int run_read(void)
{
	return timed_out(read(idle_socket, &byte, 1), EAGAIN);
}

static int run_readv(void)
{
	return timed_out(readv(idle_socket, &one_byte, 1), EAGAIN);
}

static int run_send(void)
{
	return timed_out(send(full_socket, &byte, 1, 0), EAGAIN);
}

static int run_sendmsg(void)
{
	struct msghdr m = {.msg_iov = &one_byte, .msg_iovlen = 1};
	return timed_out(sendmsg(full_socket, &m, 0), EAGAIN);
}

static int run_sendmmsg(void)
{
	struct mmsghdr m = {.msg_hdr = {.msg_iov = &one_byte, .msg_iovlen = 1}};
	return timed_out(sendmmsg(full_socket, &m, 1, 0), EAGAIN);
}

static int run_write(void)
{
	return timed_out(write(full_socket, &byte, 1), EAGAIN);
}

static int run_writev(void)
{
	return timed_out(writev(full_socket, &one_byte, 1), EAGAIN);
}

static int splice_fds[2], splice_file = -1;

static void prepare_splice(void)
{
	prepare_sockets();
	splice_file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	must(splice_file >= 0 && pipe(splice_fds) == 0);
}

static int run_splice(void)
{
	return timed_out(splice(idle_socket, NULL, splice_fds[1], NULL, 1, 0), EAGAIN);
}

static int run_sendfile(void)
{
	off_t at = 0;
	int r = timed_out(sendfile(full_socket, splice_file, &at, 1), EAGAIN);
	return r == 0 && at != 0 ? EPROTO : r;
}

/* Linux 6.1 finds room for it in a socket that is full. */
static void prepare_sendfile(void)
{
	prepare_splice();
	must(run_sendfile() == 0);
}

static int listen_somewhere(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	must(fd >= 0);
	/* Without a name the kernel chooses one. */
	struct sockaddr_un any = {.sun_family = AF_UNIX};
	must(bind(fd, (struct sockaddr *)&any, sizeof(sa_family_t)) == 0);
	must(listen(fd, 0) == 0);
	return fd;
}

static void prepare_listener(void)
{
	listener = listen_somewhere();
	must(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &wait_timeval, sizeof(wait_timeval)) ==
		0);
}

static int run_accept(void)
{
	return timed_out(accept(listener, NULL, NULL), EAGAIN);
}

static int run_accept4(void)
{
	return timed_out(accept4(listener, NULL, NULL, SOCK_CLOEXEC), EAGAIN);
}

static void prepare_connect(void)
{
	full_listener = listen_somewhere();
	full_address_len = sizeof(full_address);
	must(getsockname(full_listener, (struct sockaddr *)&full_address, &full_address_len) == 0);
	/* One waits in the queue, so the next must wait for a place in it. */
	int first = socket(AF_UNIX, SOCK_STREAM, 0);
	must(connect(first, (struct sockaddr *)&full_address, full_address_len) == 0);
}

static int run_connect(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait_timeval, sizeof(wait_timeval));
	int r = timed_out(connect(fd, (struct sockaddr *)&full_address, full_address_len), EAGAIN);
	close(fd);
	return r;
}

static void *feed_pipe(void *arg)
{
	int fd = *(int *)arg;
	for (;;) {
		nanosleep(&wait_time, NULL);
		if (write(fd, "x", 1) != 1)
			return NULL;
	}
}

static void prepare_pipe(void)
{
	static int fds[2];
	pthread_t thread;
	must(pipe(fds) == 0 && pthread_create(&thread, NULL, feed_pipe, &fds[1]) == 0);
	pipe_read = fds[0];
}

static int run_pipe_read(void)
{
	return read(pipe_read, &byte, 1) == 1 ? 0 : errno;
}

/* clang-format off */
const struct call calls[] = {
	{"epoll_wait", CALL_MENDED, prepare_epoll, run_epoll_wait, true},
	{"epoll_pwait", CALL_MENDED, prepare_epoll, run_epoll_pwait, true},
	{"epoll_pwait2", CALL_MENDED, prepare_epoll, run_epoll_pwait2, true},
	{"rt_sigtimedwait", CALL_MENDED, prepare_signals, run_sigtimedwait, true},
	{"semop", CALL_MENDED, prepare_semop, run_semop, false},
	{"semtimedop", CALL_MENDED, prepare_semaphores, run_semtimedop, true},
	{"io_getevents", CALL_MENDED, prepare_aio, run_io_getevents, true},
	{"io_uring_enter", CALL_MENDED, prepare_ring, run_io_uring_enter, true},
	{"select, timeout read-only", CALL_MENDED, prepare_const_time, run_select_const, true},
	{"pselect6, timeout read-only", CALL_MENDED, prepare_const_time, run_pselect_const, true},
	{"ppoll, timeout read-only", CALL_MENDED, prepare_const_time, run_ppoll_const, true},
	{"read, SO_RCVTIMEO", CALL_MENDED, prepare_sockets, run_read, false},
	{"readv, SO_RCVTIMEO", CALL_MENDED, prepare_sockets, run_readv, false},
	{"recvfrom, SO_RCVTIMEO", CALL_MENDED, prepare_sockets, run_recv, false},
	{"recvmsg, SO_RCVTIMEO", CALL_MENDED, prepare_sockets, run_recvmsg, false},
	{"recvmmsg, SO_RCVTIMEO", CALL_MENDED, prepare_sockets, run_recvmmsg, false},
	{"write, SO_SNDTIMEO", CALL_MENDED, prepare_sockets, run_write, false},
	{"writev, SO_SNDTIMEO", CALL_MENDED, prepare_sockets, run_writev, false},
	{"sendto, SO_SNDTIMEO", CALL_MENDED, prepare_sockets, run_send, false},
	{"sendmsg, SO_SNDTIMEO", CALL_MENDED, prepare_sockets, run_sendmsg, false},
	{"sendmmsg, SO_SNDTIMEO", CALL_MENDED, prepare_sockets, run_sendmmsg, false},
	{"accept, SO_RCVTIMEO", CALL_MENDED, prepare_listener, run_accept, false},
	{"accept4, SO_RCVTIMEO", CALL_MENDED, prepare_listener, run_accept4, false},
	{"connect, SO_SNDTIMEO", CALL_MENDED, prepare_connect, run_connect, false},
	{"splice, SO_RCVTIMEO", CALL_MENDED, prepare_splice, run_splice, false},
	{"sendfile, SO_SNDTIMEO", CALL_MENDED, prepare_sendfile, run_sendfile, false},
	{"nanosleep", CALL_RESTARTS, NULL, run_nanosleep, true},
	{"clock_nanosleep", CALL_RESTARTS, NULL, run_clock_nanosleep, true},
	{"futex", CALL_RESTARTS, NULL, run_futex, true},
	{"poll", CALL_RESTARTS, NULL, run_poll, true},
	{"ppoll", CALL_RESTARTS, prepare_signals, run_ppoll, true},
	{"select", CALL_RESTARTS, NULL, run_select, true},
	{"io_pgetevents", CALL_RESTARTS, prepare_aio, run_io_pgetevents, true},
	{"read of a pipe", CALL_RESTARTS, prepare_pipe, run_pipe_read, false},
};
/* clang-format on */

const unsigned ncalls = sizeof(calls) / sizeof(calls[0]);
