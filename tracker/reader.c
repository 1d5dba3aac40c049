/* SPDX-License-Identifier: MIT */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <limits.h>
#include <unistd.h>
#include "base/error.h"
#include "tracker/process.h"
#include "tracker/reader.h"

/*
 * process_vm_readv goes by number: after an exec it silently reads the new program. /proc/PID/mem,
 * opened before, belongs to the old memory and then reads nothing. So one byte by that road, after
 * the fast one, vouches for all that was read. (One that cannot be read gives an errno, which only
 * a living memory does.)
 */
static int vouch(const struct process *p, const struct iovec *remote, struct tide_error *err)
{
	uint8_t byte;
	ssize_t n = pread(p->mem_fd, &byte, 1, (off_t)(uintptr_t)remote->iov_base);
	if (n == 0)
		return tide_fail_kind(err, TIDE_ERROR_TARGET_GONE, -ESRCH,
			"process %d ended, or became another program", p->pid);
	return 0;
}

static int read_slowly(const struct process *p, const struct iovec *remote, size_t n, size_t skip,
	uint8_t *buf, uint64_t *bytes, struct tide_error *err)
{
	for (size_t i = 0; i < n; i++, skip = 0) {
		while (skip < remote[i].iov_len) {
			off_t at = (off_t)((uintptr_t)remote[i].iov_base + skip);
			ssize_t got = pread(p->mem_fd, buf + *bytes, remote[i].iov_len - skip, at);
			if (got < 0 && errno == EINTR)
				continue;
			if (got == 0)
				return vouch(p, &remote[i], err);
			if (got < 0)
				return 0;
			skip += (size_t)got;
			*bytes += (uint64_t)got;
		}
	}
	return 0;
}

int reader_read(const struct process *p, const struct iovec *remote, size_t n, void *buf,
	uint64_t *ret_bytes, struct tide_error *err)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < n;) {
		size_t some = n - i < IOV_MAX ? n - i : IOV_MAX;
		uint64_t wanted = 0;
		for (size_t k = 0; k < some; k++)
			wanted += remote[i + k].iov_len;

		struct iovec local = {.iov_base = (uint8_t *)buf + bytes, .iov_len = wanted};
		ssize_t got = process_vm_readv(p->pid, &local, 1, &remote[i], some, 0);
		uint64_t fast = got > 0 ? (uint64_t)got : 0;
		int r = vouch(p, &remote[i], err);
		if (r < 0)
			return r;
		bytes += fast;
		if (fast < wanted) {
			/* It refuses what the process itself may not read (PROT_NONE, write-only),
			 * and stops there; /proc/PID/mem does not. */
			uint64_t before = bytes - fast, skip = fast;
			size_t k = 0;
			for (; skip >= remote[i + k].iov_len; k++)
				skip -= remote[i + k].iov_len;
			r = read_slowly(
				p, &remote[i + k], some - k, (size_t)skip, buf, &bytes, err);
			if (r < 0)
				return r;
			if (bytes - before < wanted)
				break;
		}
		i += some;
	}
	*ret_bytes = bytes;
	return 0;
}
