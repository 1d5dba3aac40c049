/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "tracker/inspect.h"
#include "tracker/maps.h"
#include "tracker/populated.h"
#include "tracker/process.h"

static int add_finding(struct inspection *in, bool refused, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static int add_finding(struct inspection *in, bool refused, const char *fmt, ...)
{
	struct finding *v = reallocarray(in->findings, in->nfindings + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	in->findings = v;
	struct finding *f = &v[in->nfindings++];
	f->refused = refused;
	va_list args;
	va_start(args, fmt);
	vsnprintf(f->text, sizeof(f->text), fmt, args);
	va_end(args);
	return 0;
}

static long status_number(const char *status, const char *key)
{
	const char *at = strstr(status, key);
	return at ? strtol(at + strlen(key), NULL, 10) : 0;
}

static int inspect_status(const struct process *p, struct inspection *in, struct tide_error *err)
{
	auto_free char *status = NULL;
	size_t len;
	int r = process_read_file(p, "status", &status, &len, err);
	if (r < 0)
		return r;
	sscanf(status, "Name: %63[^\n]", in->comm);
	in->nthreads = (size_t)status_number(status, "\nThreads:");

	long tracer = status_number(status, "\nTracerPid:");
	if (tracer)
		r = add_finding(in, true, "it is being traced already, by process %ld", tracer);
	long seccomp = status_number(status, "\nSeccomp:");
	if (r == 0 && seccomp == 1)
		r = add_finding(in, true,
			"it is in seccomp's strict mode, where it may make no system call");
	if (r == 0 && seccomp == 2)
		r = add_finding(in, geteuid() != 0,
			"a seccomp filter is in force; it is suspended while the process is "
			"prepared%s",
			geteuid() != 0 ? ", which takes CAP_SYS_ADMIN" : "");
	long pinned = status_number(status, "\nVmPin:");
	if (r == 0 && pinned)
		r = add_finding(in, false,
			"%ld KiB are pinned for devices or io_uring: what these write there does "
			"not show as written",
			pinned);
	return r;
}

static bool is_direct(const struct process *p, const char *fd)
{
	char name[300], line[128];
	snprintf(name, sizeof(name), "fdinfo/%s", fd);
	int info = openat(p->proc_fd, name, O_RDONLY | O_CLOEXEC);
	auto_fclose FILE *f = info >= 0 ? fdopen(info, "r") : NULL;
	unsigned flags = 0;
	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "flags: %o", &flags);
	return flags & O_DIRECT;
}

/* Writers that page tables do not show: an AIO context or an io_uring, together with O_DIRECT. */
static int inspect_descriptors(const struct process *p, struct inspection *in)
{
	size_t rings = 0, direct = 0;
	int fds = openat(p->proc_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_closedir DIR *dir = fds >= 0 ? fdopendir(fds) : NULL;
	for (struct dirent *e; dir && (e = readdir(dir));) {
		char target[64];
		ssize_t n = readlinkat(fds, e->d_name, target, sizeof(target) - 1);
		if (n <= 0)
			continue;
		target[n] = '\0';
		rings += strcmp(target, "anon_inode:[io_uring]") == 0;
		direct += target[0] == '/' && is_direct(p, e->d_name);
	}
	for (size_t i = 0; i < in->maps.len; i++)
		rings += strncmp(in->maps.v[i].name, "/[aio]", 6) == 0;
	if (rings && direct)
		return add_finding(in, true,
			"it has %zu AIO contexts or io_uring rings and %zu O_DIRECT descriptors: "
			"what a device writes "
			"into memory while it is followed may be missed",
			rings, direct);
	if (rings)
		return add_finding(in, false,
			"it has %zu AIO contexts or io_uring rings: writes into registered buffers "
			"may be missed",
			rings);
	return 0;
}

/* Memory that nobody but the process can read cannot travel; where there is something in it, what
 * would be made without it would not be the process. */
static int inspect_secrets(const struct process *p, struct inspection *in, struct tide_error *err)
{
	int r = 0;
	struct pageset held = {0};
	for (size_t i = 0; r == 0 && i < in->maps.len; i++) {
		const struct mapping *m = &in->maps.v[i];
		if (!maps_is_secret(m))
			continue;
		pageset_clear(&held);
		r = populated_find(p, m, m->start, m->end, &held, err);
		if (r == 0 && held.len)
			r = add_finding(in, true,
				"memfd_secret memory at %#llx holds %llu KiB that nobody else may "
				"read",
				(unsigned long long)m->start,
				(unsigned long long)pageset_bytes(&held) >> 10);
	}
	pageset_release(&held);
	return r;
}

int process_inspect(pid_t pid, struct inspection *ret, struct tide_error *err)
{
	auto_(process_closep) struct process *p = NULL;
	int r = process_open(pid, &p, err);
	if (r < 0)
		return r;
	struct inspection in = {0};
	r = maps_read(p, NULL, &in.maps, err);
	if (r == 0)
		r = inspect_status(p, &in, err);
	if (r == 0)
		r = inspect_descriptors(p, &in);
	if (r == 0)
		r = inspect_secrets(p, &in, err);
	if (r == -ENOMEM)
		tide_fail(err, r, "look at process %d", pid);
	if (r < 0) {
		inspection_release(&in);
		return r;
	}
	*ret = in;
	return 0;
}

void inspection_release(struct inspection *in)
{
	mapping_table_release(&in->maps);
	free(in->findings);
	*in = (struct inspection){0};
}
