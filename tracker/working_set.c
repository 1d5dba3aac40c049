/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>
#include "base/error.h"
#include "tracker/process.h"
#include "tracker/working_set.h"

enum { CLEAR_PEAK = 5 };

bool working_set_has(enum working_set_kind kind, const struct smaps_entry *e)
{
	switch (kind) {
	case WORKING_SET_ALL:
		return true;
	case WORKING_SET_ANONYMOUS:
		return !e->has_file;
	case WORKING_SET_FILE:
		return e->has_file;
	}
	return false;
}

void working_set_sum(const struct smaps *s, enum working_set_kind kind, struct working_set *ret)
{
	struct working_set sum = {0};
	for (size_t i = 0; i < s->len; i++) {
		const struct smaps_entry *e = &s->v[i];
		if (!working_set_has(kind, e))
			continue;
		sum.rss_bytes += e->bytes.rss;
		sum.referenced_bytes += e->bytes.referenced;
		if (e->has_file)
			sum.file_bytes += e->bytes.referenced;
		else
			sum.anonymous_bytes += e->bytes.referenced;
	}
	*ret = sum;
}

/* By a thread that lives: with a leader that has exited the write succeeds and does nothing. */
static int write_clear_refs(const struct process *p, int what, struct tide_error *err)
{
	char path[48], number[16];
	pid_t tid = process_find_thread(p);
	snprintf(path, sizeof(path), "task/%d/clear_refs", tid);
	auto_close int fd = tid ? openat(p->proc_fd, path, O_WRONLY | O_CLOEXEC) : -1;
	int n = snprintf(number, sizeof(number), "%d", what);
	if (fd >= 0 && write(fd, number, (size_t)n) == n)
		return 0;
	int r = !tid || errno == ENOENT ? -ESRCH : -errno;
	return tide_fail(err, r, "clear the referenced bits of process %d", p->pid);
}

int working_set_clear(const struct process *p, enum working_set_kind kind, struct tide_error *err)
{
	return write_clear_refs(p, (int)kind, err);
}

int peak_reset(const struct process *p, struct tide_error *err)
{
	return write_clear_refs(p, CLEAR_PEAK, err);
}

int peak_read(const struct process *p, uint64_t *ret_bytes, struct tide_error *err)
{
	char text[64];
	uint64_t kib;
	pid_t tid = process_find_thread(p);
	int r = tid ? process_read_status(p, tid, "VmHWM", text, sizeof(text)) : -ESRCH;
	if (r == 0 && sscanf(text, "%" SCNu64, &kib) != 1)
		r = -EBADMSG;
	if (r < 0)
		return tide_fail(err, r, "read the peak memory of process %d", p->pid);
	*ret_bytes = kib << 10;
	return 0;
}
