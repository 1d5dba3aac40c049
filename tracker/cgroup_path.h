/* SPDX-License-Identifier: MIT */
/* The names of memory cgroups, which the kernel tells by inode. */
#ifndef TRACKER_CGROUP_PATH_H
#define TRACKER_CGROUP_PATH_H

#include <stddef.h>
#include <stdint.h>

/* "/user.slice/x.service", below the place where the hierarchy of the memory controller is mounted;
 * by inode. All zero is empty. */
struct cgroup_paths {
	struct {
		uint64_t inode;
		char *path;
	} * v;
	size_t len, cap;
};

void cgroup_paths_release(struct cgroup_paths *c);

/* Reads the folders of the hierarchy as it is seen here: of a container, its own part. Where
 * nothing is mounted it stays empty. 0 or -ENOMEM. */
int cgroup_paths_read(struct cgroup_paths *ret);

/* The path, or NULL where it cannot be seen from here, or is gone. */
const char *cgroup_paths_find(const struct cgroup_paths *c, uint64_t inode);

/* The mount point of the memory controller's hierarchy, from the text of a mounts file (pure): that
 * of version 1 where there is one, else that of version 2. "" where there is none. */
void cgroup_find_mount(const char *mounts, char *ret, size_t cap);

#endif
