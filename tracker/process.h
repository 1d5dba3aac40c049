/* SPDX-License-Identifier: MIT */
/* A process that is looked at: its held descriptors, and whether it is still the one that was
 * opened. */
#ifndef TRACKER_PROCESS_H
#define TRACKER_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/guard.h"
#include "tidemark/error.h"

/*
 * The descriptors belong to the memory that the process had when it was opened. After exec or exit
 * mem_fd reads 0 bytes and PAGEMAP_SCAN on pagemap_fd says ESRCH: they never speak of another
 * program, while anything that goes by number (process_vm_readv, /proc/PID/maps) silently may.
 */
struct process {
	pid_t pid;           /* thread group id */
	uint64_t start_time; /* clock ticks since boot, field 22 of stat: pid + start_time name it
				for good */
	int pid_fd;          /* pidfd */
	int proc_fd;         /* O_PATH on /proc/PID */
	int mem_fd;          /* O_RDWR on /proc/PID/mem; -1 where it is only looked at */
	int pagemap_fd;      /* O_RDONLY */
};

/* Opens a process that can be followed. Errors: -ESRCH no such process, a zombie; -EPERM/-EACCES
 * not ours; -EOPNOTSUPP a kernel thread; -EINVAL ourselves, or the number of a thread that is no
 * process. The text says which. */
int process_open(pid_t pid, struct process **ret, struct tide_error *err);
/* The same for a process that is only looked at: mem_fd is -1, and to be allowed to read it
 * (PTRACE_MODE_READ) is enough where following takes the right to attach. */
int process_open_to_look(pid_t pid, struct process **ret, struct tide_error *err);
void process_close(struct process *p);
DEFINE_GUARD(struct process, process_close)

/* 0 while the memory that was opened is still that of the process; -ESRCH after exit or exec, with
 * the words for it in err. */
int process_check(const struct process *p, struct tide_error *err);

/* The state letter of /proc/PID/task/TID/stat ('R', 'S', 'D', 'T', 't', 'Z', 'X'), or 0 where there
 * is no such thread. */
char process_thread_state(const struct process *p, pid_t tid);

/* Has it a state at all, and not that of a thread that has ended? */
bool process_thread_lives(const struct process *p, pid_t tid);

/* A thread that still lives: the leader, or, where that has exited before its threads, one of them.
 * 0 where there is none. Its files are at task/TID under proc_fd; those of a dead leader show no
 * memory. */
pid_t process_find_thread(const struct process *p);

/* One field of /proc/PID/task/TID/status ("Seccomp") as text. -ENOENT where it has none, -ESRCH no
 * such thread. */
int process_read_status(
	const struct process *p, pid_t tid, const char *field, char *ret, size_t cap);

/* Reads a whole file under /proc/PID ("maps", "auxv") into memory, NUL-terminated behind its
 * length. Where the leader is dead it is that of a living thread. The caller frees *ret. */
int process_read_file(const struct process *p, const char *name, char **ret, size_t *ret_len,
	struct tide_error *err);

#endif
