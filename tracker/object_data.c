/* SPDX-License-Identifier: MIT */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <unistd.h>
#include "tracker/object_data.h"

int object_data_ask(int fd, const struct mapping *m, uint64_t page_bytes, struct pageset *ret)
{
	uint64_t from = m->offset, to = m->offset + (m->end - m->start);
	for (uint64_t at = from; at < to;) {
		off_t start = lseek(fd, (off_t)at, SEEK_DATA);
		if (start < 0 && errno == ENXIO)
			return 0;
		if (start < 0)
			return -errno;
		off_t end = lseek(fd, start, SEEK_HOLE);
		/* Cut off since. */
		if (end < 0 && errno == ENXIO)
			return 0;
		if (end < 0)
			return -errno;
		/* /dev/zero answers 0 for ever. */
		if ((uint64_t)end <= at)
			return -EOPNOTSUPP;
		struct page_run run = {(uint64_t)start & ~(page_bytes - 1),
			((uint64_t)end + page_bytes - 1) & ~(page_bytes - 1)};
		if (run.start < from)
			run.start = from;
		if (run.end > to)
			run.end = to;
		if (run.start < run.end) {
			int r = pageset_add(ret, run);
			if (r < 0)
				return r;
		}
		at = (uint64_t)end;
	}
	return 0;
}
