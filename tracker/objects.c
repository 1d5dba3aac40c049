/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "tracker/maps.h"
#include "tracker/object_data.h"
#include "tracker/objects.h"
#include "tracker/process.h"
#include "tracker/scan.h"
#include "tracker/sharers.h"

/* Files are stamped with the time of the last timer tick: 10 ms at the longest, and some. */
#define STAMP_GRAIN_NS (20 * NS_PER_MS)

void objects_release(struct objects *o)
{
	for (size_t i = 0; i < o->len; i++)
		pageset_release(&o->v[i].data);
	free(o->v);
	sharers_free(o->sharers);
	*o = (struct objects){0};
}

static bool is_sysv(const struct mapping *m)
{
	return strncmp(m->name, "/SYSV", 5) == 0;
}

static int number_object(struct objects *o, struct mapping *m)
{
	for (size_t i = 0; i < o->len && m->object == 0; i++) {
		const struct object *known = &o->v[i];
		if (known->inode == m->inode && known->dev_major == m->dev_major &&
			known->dev_minor == m->dev_minor && known->sysv == is_sysv(m))
			m->object = i + 1;
	}
	if (m->object)
		return 0;

	struct object *v = reallocarray(o->v, o->len + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	o->v = v;
	v[o->len++] = (struct object){.dev_major = m->dev_major,
		.dev_minor = m->dev_minor,
		.inode = m->inode,
		.sysv = is_sysv(m)};
	m->object = o->len;
	return 0;
}

static uint64_t nanoseconds(struct timespec t)
{
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t realtime_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return nanoseconds(now);
}

/*
 * write(2) and its kin change an object's time stamp before the first byte; so does the first store
 * into an armed page, which is why the stamp tells something only where it has not moved. Stamps
 * are coarse: one that was young when last looked at may stand for a write that came after the
 * look.
 */
static void look_at_stamp(struct object *o, const struct stat *st)
{
	uint64_t changed = nanoseconds(st->st_mtim), now = realtime_now_ns();
	bool moved = changed != o->changed_realtime_ns;
	bool young = o->looked_realtime_ns < changed + STAMP_GRAIN_NS;
	o->changed = o->looked_realtime_ns && (moved || young);
	o->changed_realtime_ns = changed;
	o->looked_realtime_ns = now;
}

struct seen {
	struct pageset *data;
	const struct mapping *mapping;
};

static int note_seen(void *arg, const struct uapi_page_region *region)
{
	struct seen *seen = arg;
	uint64_t shift = seen->mapping->offset - seen->mapping->start;
	return pageset_add(
		seen->data, (struct page_run){region->start + shift, region->end + shift});
}

/* Where the object behind a mapping has data, and its time stamp. */
static int look_at_object(
	struct object *o, const struct process *p, const struct mapping *m, bool unpaused)
{
	auto_close int fd = maps_open_file(p, m);
	struct stat st;
	if (fd >= 0) {
		/* Dropped data shows only here; the first mapping of the object starts anew. */
		if (!o->asked) {
			pageset_clear(&o->data);
			bool known = fstat(fd, &st) == 0;
			/* A SysV segment has no link and yet a key that anybody may attach by. */
			o->named = o->sysv || (known && st.st_nlink > 0);
			if (!known || o->named)
				o->others = true;
			else
				look_at_stamp(o, &st);
			/* Punching a hole leaves no stamp on hugetlbfs, and what is read there
			 * comes up armed. */
			o->hugetlb = known && m->flags & MAPPING_HUGETLB;
			o->changed |= o->hugetlb;
			o->allocated_bytes = o->hugetlb ? (uint64_t)st.st_blocks * 512 : 0;
			o->size_bytes = o->hugetlb ? (uint64_t)st.st_size : 0;
		}
		o->asked = true;
		/* hugetlbfs calls all of a file data, and to read a hole takes a huge page from the
		 * pool. */
		int r = m->flags & MAPPING_HUGETLB
				? -EOPNOTSUPP
				: object_data_ask(fd, m, (uint64_t)sysconf(_SC_PAGESIZE), &o->data);
		if (r != -EOPNOTSUPP)
			return r;
	} else {
		o->others = true;
	}
	struct seen seen = {&o->data, m};
	struct scan_query q = {
		.pagemap_fd = p->pagemap_fd,
		.unpaused = unpaused,
		/* hugetlbfs is not swapped: there, an entry that is not present is a marker. */
		.anyof = UAPI_PAGE_IS_PRESENT | (o->hugetlb ? 0 : UAPI_PAGE_IS_SWAPPED),
		.returned = UAPI_PAGE_IS_PRESENT,
	};
	return scan_range(&q, m->start, m->end, note_seen, &seen);
}

/*
 * Objects of hugetlbfs do not say where they have data, but how much. Where the process has all of
 * that in its page tables, these tell; else all that is mapped may hold something.
 */
static int complete_hugetlb(struct objects *o, const struct mapping_table *maps)
{
	for (size_t i = 0; i < o->len; i++)
		o->v[i].hugetlb &= pageset_bytes(&o->v[i].data) != o->v[i].allocated_bytes;
	for (size_t i = 0; i < maps->len; i++) {
		const struct mapping *m = &maps->v[i];
		if (m->kind != MAPPING_OBJECT || !o->v[m->object - 1].hugetlb)
			continue;
		struct object *object = &o->v[m->object - 1];
		struct page_run run = {m->offset, m->offset + (m->end - m->start)};
		if (run.end > object->size_bytes)
			run.end = object->size_bytes;
		int r = run.start < run.end ? pageset_add(&object->data, run) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static bool doubtful(const struct object *o)
{
	return o->others || (o->changed && (o->own_descriptor || o->own_descriptor_then));
}

void objects_begin_look(struct objects *o)
{
	for (size_t i = 0; i < o->len; i++) {
		struct object *object = &o->v[i];
		object->doubtful_then = doubtful(object);
		object->own_descriptor_then = object->own_descriptor;
		object->asked = object->others = object->changed = object->own_descriptor = false;
		object->by = 0;
	}
}

int objects_look(
	struct objects *o, const struct process *p, struct mapping_table *maps, bool unpaused)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < maps->len; i++) {
		struct mapping *m = &maps->v[i];
		if (m->kind != MAPPING_OBJECT)
			continue;
		r = number_object(o, m);
		if (r == 0)
			r = look_at_object(&o->v[m->object - 1], p, m, unpaused);
	}
	return r == 0 ? complete_hugetlb(o, maps) : r;
}

static struct sharer_query query_for(const struct mapping *m)
{
	return (struct sharer_query){.dev_major = m->dev_major,
		.dev_minor = m->dev_minor,
		.inode = m->inode,
		.name = m->name};
}

int objects_look_for_others(struct objects *o, const struct process *p,
	const struct mapping_table *maps, uint64_t deadline_ns)
{
	if (o->len == 0)
		return 0;
	auto_free struct sharer_query *queries = calloc(o->len, sizeof(*queries));
	auto_free struct object **of = calloc(o->len, sizeof(struct object *));
	if (!queries || !of)
		return -ENOMEM;
	size_t n = 0;
	for (size_t i = 0; i < maps->len; i++) {
		const struct mapping *m = &maps->v[i];
		struct object *object = m->kind == MAPPING_OBJECT ? &o->v[m->object - 1] : NULL;
		size_t k = 0;
		while (k < n && of[k] != object)
			k++;
		if (!object || object->others || k < n)
			continue;
		of[n] = object;
		queries[n++] = query_for(m);
	}
	bool unseen = false;
	int r = n && !o->sharers ? sharers_new(p->pid, &o->sharers) : 0;
	if (r == 0 && n)
		r = sharers_look(o->sharers, queries, n, deadline_ns, &unseen);
	for (size_t k = 0; r == 0 && k < n; k++) {
		of[k]->by = queries[k].by;
		of[k]->own_descriptor = queries[k].own_descriptor;
		of[k]->others = queries[k].by || unseen;
	}
	return r;
}

int objects_watch(const struct objects *o, const struct mapping *m, uint32_t index,
	struct watch_list *watches)
{
	const struct pageset *data = &o->v[m->object - 1].data;
	uint64_t from = m->offset, to = m->offset + (m->end - m->start);
	for (size_t i = pageset_find(data, from); i < data->len && data->runs[i].start < to; i++) {
		uint64_t start = data->runs[i].start > from ? data->runs[i].start : from;
		uint64_t end = data->runs[i].end < to ? data->runs[i].end : to;
		int r = watch_list_add(watches, (struct watch){.start = m->start + (start - from),
							.end = m->start + (end - from),
							.kind = WATCH_SHARED,
							.mapping = index});
		if (r < 0)
			return r;
	}
	return 0;
}

bool objects_doubtful(const struct objects *o, space_id object)
{
	const struct object *known = &o->v[object - 1];
	return doubtful(known) || known->doubtful_then;
}

bool objects_others_write(const struct objects *o, space_id object)
{
	return o->v[object - 1].others;
}
