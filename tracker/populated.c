/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/error.h"
#include "tracker/maps.h"
#include "tracker/object_data.h"
#include "tracker/populated.h"
#include "tracker/process.h"
#include "tracker/scan.h"

struct finding_populated {
	bool file; /* pages of the file itself do not count */
	struct pageset *ret;
};

static int note_region(void *arg, const struct uapi_page_region *region)
{
	struct finding_populated *f = arg;
	uint64_t is = region->categories;
	if (is & UAPI_PAGE_IS_GUARD ||
		(f->file && is & UAPI_PAGE_IS_FILE && is & UAPI_PAGE_IS_PRESENT))
		return 0;
	return pageset_add(f->ret, (struct page_run){region->start, region->end});
}

static int find_private(const struct process *p, const struct mapping *m, uint64_t start,
	uint64_t end, struct pageset *ret)
{
	struct finding_populated f = {.file = m->kind == MAPPING_FILE_PRIVATE, .ret = ret};
	struct scan_query q = {
		.pagemap_fd = p->pagemap_fd,
		.anyof = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED,
		.returned = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_FILE | UAPI_PAGE_IS_GUARD,
	};
	return scan_range(&q, start, end, note_region, &f);
}

static int find_shared(const struct process *p, const struct mapping *m, uint64_t start,
	uint64_t end, uint64_t page, struct pageset *ret)
{
	struct pageset data = {0};
	auto_close int fd = maps_open_file(p, m);
	int r = fd < 0 ? fd : object_data_ask(fd, m, page, &data);
	/* Without the right to ask, all of it may hold something. */
	if (r < 0 && r != -ENOMEM)
		r = pageset_add(
			&data, (struct page_run){m->offset, m->offset + (m->end - m->start)});
	for (size_t i = 0; r == 0 && i < data.len; i++) {
		struct page_run run = {data.runs[i].start - m->offset + m->start,
			data.runs[i].end - m->offset + m->start};
		if (run.start < start)
			run.start = start;
		if (run.end > end)
			run.end = end;
		if (run.start < run.end)
			r = pageset_add(ret, run);
	}
	pageset_release(&data);
	return r;
}

int populated_find(const struct process *p, const struct mapping *m, uint64_t start, uint64_t end,
	struct pageset *ret, struct tide_error *err)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	int r = m->kind == MAPPING_OBJECT ? find_shared(p, m, start, end, page, ret)
					  : find_private(p, m, start, end, ret);
	return r < 0 ? tide_fail(err, r, "look at the pages of process %d", p->pid) : 0;
}
