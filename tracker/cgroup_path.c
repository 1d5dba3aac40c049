/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "base/guard.h"
#include "tracker/cgroup_path.h"

void cgroup_paths_release(struct cgroup_paths *c)
{
	for (size_t i = 0; i < c->len; i++)
		free(c->v[i].path);
	free(c->v);
	*c = (struct cgroup_paths){0};
}

/* Each hierarchy of version 1 numbers its folders by itself, so only the right one will do. */
void cgroup_find_mount(const char *mounts, char *ret, size_t cap)
{
	ret[0] = '\0';
	for (const char *at = mounts; *at;) {
		size_t len = strcspn(at, "\n");
		char line[PATH_MAX + 256];
		snprintf(line, sizeof(line), "%.*s", (int)len, at);
		at += len + (at[len] == '\n');

		char *save = NULL;
		strtok_r(line, " ", &save);
		const char *place = strtok_r(NULL, " ", &save), *type = strtok_r(NULL, " ", &save);
		char *options = strtok_r(NULL, " ", &save);
		if (!place || !type || !options)
			continue;
		if (strcmp(type, "cgroup2") == 0 && !ret[0])
			snprintf(ret, cap, "%s", place);
		if (strcmp(type, "cgroup") != 0)
			continue;
		for (char *o = strtok_r(options, ",", &save); o; o = strtok_r(NULL, ",", &save)) {
			if (strcmp(o, "memory") == 0) {
				snprintf(ret, cap, "%s", place);
				return;
			}
		}
	}
}

static int append(struct cgroup_paths *c, uint64_t inode, const char *path)
{
	if (c->len == c->cap) {
		size_t cap = c->cap ? 2 * c->cap : 64;
		void *v = reallocarray(c->v, cap, sizeof(*c->v));
		if (!v)
			return -ENOMEM;
		c->v = v;
		c->cap = cap;
	}
	c->v[c->len].inode = inode;
	c->v[c->len].path = strdup(*path ? path : "/");
	return c->v[c->len].path ? (c->len++, 0) : -ENOMEM;
}

static void read_mounts(char *text, size_t cap)
{
	auto_fclose FILE *f = fopen("/proc/self/mounts", "re");
	text[f ? fread(text, 1, cap - 1, f) : 0] = '\0';
}

int cgroup_paths_read(struct cgroup_paths *ret)
{
	enum { MOUNTS_BYTES = 1 << 20 };
	char place[PATH_MAX];
	auto_free char *mounts = malloc(MOUNTS_BYTES);
	if (!mounts)
		return -ENOMEM;
	read_mounts(mounts, MOUNTS_BYTES);
	cgroup_find_mount(mounts, place, sizeof(place));
	if (!place[0])
		return 0;

	FTS *tree = fts_open((char *const[]){place, NULL}, FTS_PHYSICAL | FTS_XDEV, NULL);
	if (!tree)
		return errno == ENOMEM ? -ENOMEM : 0;
	int r = 0;
	struct cgroup_paths made = {0};
	for (FTSENT *e; r == 0 && (e = fts_read(tree));) {
		if (e->fts_info == FTS_D)
			r = append(&made, e->fts_statp->st_ino, e->fts_path + strlen(place));
	}
	fts_close(tree);
	if (r < 0) {
		cgroup_paths_release(&made);
		return r;
	}
	*ret = made;
	return 0;
}

const char *cgroup_paths_find(const struct cgroup_paths *c, uint64_t inode)
{
	for (size_t i = 0; i < c->len; i++) {
		if (c->v[i].inode == inode)
			return c->v[i].path;
	}
	return NULL;
}
