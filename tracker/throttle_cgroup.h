/* SPDX-License-Identifier: MIT */
/*
 * Less of the processors for one process, by cpu.max of cgroup v2 (Documentation/admin-guide/
 * cgroup-v2.rst, "CPU Interface Files"). Either the process is alone in its group, whose cpu.max is
 * written and then put back; or the group lets its children have limits, and then the process, and
 * nobody else, is moved into a child made for it, and back. Moved it is only downwards, so that all
 * limits that it had still hold.
 */
#ifndef TRACKER_THROTTLE_CGROUP_H
#define TRACKER_THROTTLE_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define CPU_MAX_TEXT 64

struct process;

struct throttle_cgroup {
	pid_t pid;
	int pid_fd;    /* borrowed from the process */
	int folder_fd; /* of the group that the process was found in */
	int procs_fd;  /* its cgroup.procs; only where there is a child */
	int max_fd;    /* the cpu.max that is written */
	int child_procs_fd;
	char child[64];            /* the folder that was made; "" where the group itself will do */
	char before[CPU_MAX_TEXT]; /* the group's cpu.max as it was found; "" with a child */
};

/* Finds the way, changes nothing that is in force. -EOPNOTSUPP where there is none here, or what
 * the kernel says (-EACCES). Close it after 0. */
int throttle_cgroup_open(const struct process *p, struct throttle_cgroup *ret);

/* Closes, and removes the folder; restore before. */
void throttle_cgroup_close(struct throttle_cgroup *c);

/* Leaves the process 100 - percent of the `cpus` that it used. 0, -ESRCH where it has ended, or
 * what the kernel says; restore also then. */
int throttle_cgroup_set(struct throttle_cgroup *c, double cpus, unsigned percent);

/* As it was found. May be called at any time, by anybody who has the descriptors, also after a
 * fork: does nothing but system calls. */
void throttle_cgroup_restore(const struct throttle_cgroup *c);
/* Removes the folder that was made. As above. */
void throttle_cgroup_remove(const struct throttle_cgroup *c);

/* Pure. What to write into cpu.max ("80000 100000"), where `before` is what it holds ("max
 * 100000"), whose limit is kept where it is the lower one. */
void throttle_cpu_max(double cpus, unsigned percent, const char *before, char ret[CPU_MAX_TEXT]);

/* Pure. Where the folder of a group is seen: `mounts` is the text of a mountinfo file, `groups`
 * that of /proc/PID/cgroup. False where there is no version 2 or it cannot be seen. */
bool throttle_cgroup_place(const char *mounts, const char *groups, char *ret, size_t cap);

#endif
