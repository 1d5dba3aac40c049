/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "tracker/arch.h"
#include "tracker/process.h"
#include "tracker/restart.h"
#include "tracker/tracee.h"

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

/*
 * What they have in common, and what a call must have to be listed here: it answers EINTR only if
 * nothing was done. No event was taken off, no signal, no byte, no semaphore changed; had there
 * been any, its count would be the answer. So nothing is lost or done twice by beginning again.
 * tests/system/test_restart.c asks the running kernel about each.
 *
 * A real signal that comes with the stop loses nothing either: with a handler to run, the kernel
 * itself turns ERESTARTNOHAND into the EINTR that these calls promise for it, SA_RESTART or not;
 * without one, it should never have been noticed.
 */
static const struct {
	long nr;
	int fd_argument; /* only where this descriptor is a socket */
} calls[] = {
#ifdef SYS_epoll_wait
	{SYS_epoll_wait, -1},
#endif
	{SYS_epoll_pwait, -1},
	{SYS_epoll_pwait2, -1},
	{SYS_rt_sigtimedwait, -1},
	{SYS_semop, -1},
	{SYS_semtimedop, -1},
	{SYS_io_getevents, -1},
	/* Says how many requests it submitted before it waited, if any. */
	{SYS_io_uring_enter, -1},

/* Where the timeout lies in memory that cannot be written, the kernel could not note how much of it
 * is left, and so does not begin again. */
#ifdef SYS_select
	{SYS_select, -1},
#endif
	{SYS_pselect6, -1},
	{SYS_ppoll, -1},

	/*
	 * With SO_RCVTIMEO or SO_SNDTIMEO (the kernel's sock_intr_errno()); without, they are begun
	 * again anyway, so they can be. The same calls on other files may mean something else by
	 * EINTR, which is none of ours.
	 */
	{SYS_read, 0},
	{SYS_readv, 0},
	{SYS_recvfrom, 0},
	{SYS_recvmsg, 0},
	{SYS_recvmmsg, 0},
	{SYS_write, 0},
	{SYS_writev, 0},
	{SYS_sendto, 0},
	{SYS_sendmsg, 0},
	{SYS_sendmmsg, 0},
	{SYS_accept, 0},
	{SYS_accept4, 0},
	{SYS_connect, 0},
	{SYS_splice, 0},
	{SYS_splice, 2},
	{SYS_sendfile, 0},
};

static bool fd_is_socket(const struct tracee *t, int fd)
{
	char path[64], target[32];
	snprintf(path, sizeof(path), "task/%d/fd/%d", t->tid, fd);
	ssize_t len = readlinkat(t->process->proc_fd, path, target, sizeof(target));
	const char socket[] = "socket:";
	return len >= (ssize_t)sizeof(socket) && memcmp(target, socket, sizeof(socket) - 1) == 0;
}

static bool restart_is_wanted(const struct tracee *t, const struct user_regs_struct *regs)
{
	for (unsigned i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		if (calls[i].nr != arch_syscall(regs))
			continue;
		int argument = calls[i].fd_argument;
		if (argument < 0 || fd_is_socket(t, (int)arch_argument(regs, (unsigned)argument)))
			return true;
	}
	return false;
}

int restart_mend(const struct tracee *t, struct user_regs_struct *regs)
{
	if (arch_syscall(regs) < 0 || arch_result(regs) != -EINTR)
		return 0;
	if (!tracee_call_is_native(t) || !restart_is_wanted(t, regs))
		return 0;

	struct user_regs_struct mended = *regs;
	arch_set_result(&mended, -ERESTARTNOHAND);
	int r = tracee_set_regs(t, &mended);
	if (r < 0)
		return r;
	*regs = mended;
	return 1;
}
