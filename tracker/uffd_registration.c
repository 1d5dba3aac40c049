/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/guard.h"
#include "tracker/maps.h"
#include "tracker/process.h"
#include "tracker/scan.h"
#include "tracker/stretch.h"
#include "tracker/tracer.h"
#include "tracker/uapi.h"
#include "tracker/uffd_registration.h"

#define STAND_STILL_NS (5 * NS_PER_S)
/* No stack grows by more between two looks. */
#define STACK_GROWTH_MAX (64ull << 20)
#define POPULATED (UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED)

int uffd_register(int uffd, uint64_t start, uint64_t end)
{
	struct uffdio_register reg = {
		.range = {.start = start, .len = end - start},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	return ioctl(uffd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

static bool has_userfaultfd(const struct process *p)
{
	int fds = openat(p->proc_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_closedir DIR *dir = fds >= 0 ? fdopendir(fds) : NULL;
	for (struct dirent *e; dir && (e = readdir(dir));) {
		char target[64];
		ssize_t n = readlinkat(fds, e->d_name, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		if (strcmp(target, "anon_inode:[userfaultfd]") == 0)
			return true;
	}
	return false;
}

/* Could a marker in there, of a page that is locked, hang the process
 * (uffd_registration_take_markers_away)? */
static bool is_dangerous(const struct mapping *m)
{
	return (m->kind == MAPPING_FILE_PRIVATE || m->kind == MAPPING_FILE_SHARED) &&
	       !(m->flags & MAPPING_HUGETLB);
}

/* How far down a stack can have grown, as far as one can tell: nothing else was there. */
static uint64_t stack_may_begin(const struct mapping_table *maps, uint32_t index)
{
	uint64_t start = maps->v[index].start;
	uint64_t behind = index ? maps->v[index - 1].end : 0;
	return start - behind > STACK_GROWTH_MAX ? start - STACK_GROWTH_MAX : behind;
}

static int unprotect(int uffd, struct page_run run)
{
	struct uffdio_writeprotect wp = {.range = {.start = run.start, .len = run.end - run.start}};
	while (ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) < 0) {
		if (errno != EAGAIN)
			return -errno;
	}
	return 0;
}

void uffd_registration_take_markers_away(struct uffd_registration *g, const struct pageset *markers)
{
	/* Fails where the mapping is gone, and its markers with it. */
	for (size_t i = 0; i < markers->len; i++)
		(void)unprotect(g->uffd, markers->runs[i]);
}

static bool has_locked_memory(const struct process *p)
{
	char text[64];
	pid_t tid = process_find_thread(p);
	int r = tid ? process_read_status(p, tid, "VmLck", text, sizeof(text)) : -ESRCH;
	return r == 0 && strtoull(text, NULL, 10) > 0;
}

/* From the first look on that finds locked memory, copied pages of its file mappings are read each
 * time; they are few. What is not registered is passed over. */
static void disarm_files(struct uffd_registration *g, const struct mapping_table *maps)
{
	if (g->locks || !has_locked_memory(g->process))
		return;
	g->locks = true;
	for (size_t i = 0; i < maps->len; i++) {
		struct page_run run = {maps->v[i].start, maps->v[i].end};
		if (is_dangerous(&maps->v[i]))
			(void)unprotect(g->uffd, run);
	}
}

/*
 * Where nothing may be armed. The mappings that we go by may have changed by now, and one that was
 * of anonymous or shared memory when we registered what is there be of a file. So they are read
 * again behind our last registration: a file mapping that comes up later is not registered, and no
 * scan arms it.
 */
static int find_files(
	struct uffd_registration *g, const struct mapping_table *known, struct tide_error *err)
{
	auto_(mapping_table_release) struct mapping_table now = {0};
	int r = maps_read(g->process, known, &now, err);
	pageset_clear(&g->files);
	for (size_t i = 0; r == 0 && i < now.len; i++) {
		const struct mapping *m = &now.v[i];
		if (is_dangerous(m) && pageset_add(&g->files, (struct page_run){m->start, m->end}))
			r = tide_fail(
				err, -ENOMEM, "note the mappings of process %d", g->process->pid);
	}
	return r;
}

static int note_run(void *arg, const struct uapi_page_region *region)
{
	return pageset_add(arg, (struct page_run){region->start, region->end});
}

/*
 * Write-protect bits can be there already, from a registration that the kernel took away without
 * taking them along (recover_lost), ours or an earlier tracker's. Such a page counts as not
 * written, so that a protecting scan leaves it as it is, and it may be writable: nothing would ever
 * show again. They are taken away, and the scan finds the page written and protects it.
 */
static int clear_stale(struct uffd_registration *g, uint64_t start, uint64_t end)
{
	struct pageset stale = {0};
	struct scan_query q = {
		.pagemap_fd = g->process->pagemap_fd,
		.inverted = UAPI_PAGE_IS_WRITTEN,
		.mask = UAPI_PAGE_IS_WRITTEN,
		.anyof = POPULATED,
		.returned = UAPI_PAGE_IS_PRESENT,
	};
	int r = scan_range(&q, start, end, note_run, &stale);
	for (size_t i = 0; r == 0 && i < stale.len; i++)
		r = unprotect(g->uffd, stale.runs[i]);
	pageset_release(&stale);
	return r;
}

/*
 * Registers a part of one mapping, and takes it as written whole: only the kernel knows what
 * happened there before. Not being able to is no failure: the mapping is then read whole each time.
 */
static int register_run(struct uffd_registration *g, const struct mapping_table *maps,
	uint32_t index, struct page_run run)
{
	const struct mapping *m = &maps->v[index];
	uint64_t start = run.start;
	/*
	 * The stack may have grown since it was looked at. To register less than all of it would
	 * cut it in two, and the part that grew would not be called a stack any more.
	 */
	if (m->flags & MAPPING_GROWSDOWN && start == m->start)
		start = stack_may_begin(maps, index);
	int r = uffd_register(g->uffd, start, run.end);
	if (r == -EBUSY)
		return pageset_add(&g->refused, run);
	/* ENOMEM is also what a userfaultfd says whose memory is gone; the scan that follows tells.
	 * EINVAL: the mapping went meanwhile, or is of a kind that cannot be; EPERM: shared and
	 * never writable. */
	if (r < 0)
		return 0;
	r = clear_stale(g, start, run.end);
	if (r == -ENOMEM)
		return r;
	/* The memory is gone, which is for the scan to say; or already not registered any more. */
	if (r < 0)
		return 0;
	r = pageset_add(&g->registered, run);
	if (r == 0)
		r = pageset_add(&g->fresh, run);
	return r == 0 ? pageset_remove(&g->shared_armed, run) : r;
}

/* Registers what is not registered of a mapping; what is stays untouched, for where the kernel let
 * go of it that must be seen (recover_lost). */
static int register_rest(
	struct uffd_registration *g, const struct mapping_table *maps, uint32_t index)
{
	const struct mapping *m = &maps->v[index];
	int r = 0;
	for (uint64_t at = m->start, end; r == 0 && at < m->end; at = end) {
		size_t i = pageset_find(&g->registered, at);
		const struct page_run *run = i < g->registered.len ? &g->registered.runs[i] : NULL;
		bool there = run && run->start <= at;
		end = run ? (there ? run->end : run->start) : m->end;
		if (end > m->end)
			end = m->end;
		if (!there)
			r = register_run(g, maps, index, (struct page_run){at, end});
	}
	return r;
}

/* Registers what is watched and not registered yet, and forgets what is not watched any more. */
static int register_new(struct uffd_registration *g, const struct mapping_table *maps,
	const struct watch_list *watches)
{
	struct pageset places = {0}, kept = {0};
	int r = 0;
	for (size_t i = 0; r == 0 && i < watches->len; i++) {
		const struct mapping *m = &maps->v[watches->v[i].mapping];
		r = pageset_add(&places, (struct page_run){m->start, m->end});
	}
	if (r == 0)
		r = pageset_intersect(&g->registered, &places, &kept);
	if (r == 0)
		pageset_swap(&g->registered, &kept);
	if (r == 0)
		r = pageset_intersect(&g->shared_armed, &places, &kept);
	if (r == 0)
		pageset_swap(&g->shared_armed, &kept);
	pageset_release(&places);
	pageset_release(&kept);

	pageset_clear(&g->refused);
	pageset_clear(&g->fresh);
	for (size_t i = 0; r == 0 && i < watches->len; i++) {
		const struct watch *w = &watches->v[i];
		if (i > 0 && watches->v[i - 1].mapping == w->mapping)
			continue;
		r = register_rest(g, maps, w->mapping);
	}
	return r;
}

/*
 * Places of mappings that are not registered, though we registered what was there. Registered
 * mappings are passed over as a whole: it costs by mappings, not by pages. Holes count: what was
 * written to shared memory is there, also where the new mapping does not show it yet.
 */
static int find_lost(
	struct uffd_registration *g, bool unpaused, struct pageset *ret, struct tide_error *err)
{
	struct scan_query q = {
		.pagemap_fd = g->process->pagemap_fd,
		.unpaused = unpaused,
		.inverted = UAPI_PAGE_IS_WPALLOWED,
		.mask = UAPI_PAGE_IS_WPALLOWED,
		.returned = UAPI_PAGE_IS_PRESENT,
	};
	for (size_t i = 0; i < g->registered.len; i++) {
		struct page_run run = g->registered.runs[i];
		int r = scan_range(&q, run.start, run.end, note_run, ret);
		if (r < 0)
			return stretch_failed(g->process, r, run.start, run.end, err);
	}
	return 0;
}

/*
 * A mapping that took the place of a registered one may be registered, too: with a userfaultfd of
 * the process's own. Its marks are not ours to read or to set. Registering again what is ours
 * already costs little and changes nothing; where something is not ours, it says so. But where a
 * registration is lost just now, this would hide that: so the process must stand still between
 * find_lost() and this.
 */
static int find_foreign(struct uffd_registration *g, struct pageset *ret)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < g->registered.len; i++) {
		struct page_run run = g->registered.runs[i];
		if (uffd_register(g->uffd, run.start, run.end) < 0)
			r = pageset_add(ret, run);
	}
	return r;
}

/* Begins anew with the mappings that touch `places`. */
static int register_again(struct uffd_registration *g, const struct mapping_table *maps,
	const struct watch_list *watches, const struct pageset *places)
{
	int r = 0;
	for (size_t i = 0; r == 0 && places->len && i < watches->len; i++) {
		const struct mapping *m = &maps->v[watches->v[i].mapping];
		size_t k = pageset_find(places, m->start);
		if (k == places->len || places->runs[k].start >= m->end ||
			(i > 0 && watches->v[i - 1].mapping == watches->v[i].mapping))
			continue;
		struct page_run run = {m->start, m->end};
		r = pageset_remove(&g->registered, run);
		if (r == 0)
			r = pageset_remove(&g->shared_armed, run);
		if (r == 0)
			r = register_run(g, maps, watches->v[i].mapping, run);
	}
	return r;
}

/*
 * A mapping that took the place of a registered one (mmap over it, mremap's destination) may look
 * the same in maps but is not registered, and a protecting scan silently passes it over. What comes
 * up between this look and the scan counts as dropped until the next collect finds it here.
 *
 * A mapping can also lose its registration where it lies: mremap of registered memory to a place
 * right beside it makes one mapping of the two, and the kernel takes the registration away from the
 * whole of that. Its pages keep the write-protect bit, and writes to them no longer take it away.
 * So nothing that the page tables say of writes is believed where we register anew.
 */
static int recover_lost(struct uffd_registration *g, const struct mapping_table *maps,
	const struct watch_list *watches, bool standing, struct tide_error *err)
{
	struct pageset lost = {0}, foreign = {0};
	int r = find_lost(g, standing, &lost, err);
	if (r == 0) {
		r = register_again(g, maps, watches, &lost);
		if (r == 0 && standing)
			r = find_foreign(g, &foreign);
		if (r == 0)
			r = register_again(g, maps, watches, &foreign);
		if (r < 0)
			tide_fail(err, r, "note the mappings of process %d", g->process->pid);
	}
	pageset_release(&lost);
	pageset_release(&foreign);
	return r;
}

/* For a process that has a userfaultfd: it stands still for this, a fraction of a millisecond. */
static int recover_standing(struct uffd_registration *g, const struct mapping_table *maps,
	const struct watch_list *watches, struct tide_error *err)
{
	struct freeze_report report;
	int r = tracer_freeze(g->tracer, STAND_STILL_NS, &report, err);
	if (r < 0)
		return r;
	r = recover_lost(g, maps, watches, true, err);
	int thawed = tracer_thaw(g->tracer, TRACER_RUN, r == 0 ? err : NULL);
	return r == 0 ? thawed : r;
}

int uffd_registration_update(struct uffd_registration *g, const struct mapping_table *maps,
	const struct watch_list *watches, bool frozen, struct tide_error *err)
{
	/* Before each arming: what it watches itself is not ours to arm. */
	if (!frozen && !g->has_own)
		g->has_own = has_userfaultfd(g->process);
	if (!frozen)
		disarm_files(g, maps);

	/* Also in the freeze, where nothing is armed any more: of a mapping that grew, only what
	 * is new or was written is found then. */
	int r = register_new(g, maps, watches);
	if (r < 0)
		return tide_fail(err, r, "note the mappings of process %d", g->process->pid);
	r = g->has_own && !frozen ? recover_standing(g, maps, watches, err)
				  : recover_lost(g, maps, watches, frozen, err);
	return r == 0 && g->locks && !frozen ? find_files(g, maps, err) : r;
}

bool uffd_registration_covers(const struct uffd_registration *g, const struct watch *w)
{
	size_t i = pageset_find(&g->files, w->start);
	bool has_file = i < g->files.len && g->files.runs[i].start < w->end;
	return !has_file && pageset_covers(&g->registered, (struct page_run){w->start, w->end});
}

/*
 * Closing the descriptor would unregister everything at once, and the target's mmap calls would
 * wait for all of it (39 ms for 4 GiB armed). So it goes piece by piece; the worst wait is then
 * that of one piece. As in a scan, what counts is time.
 */
#define RELEASE_PIECE (16ull << 20)
#define RELEASE_PIECE_MAX (16ull << 30)
#define RELEASE_LONG_NS (150 * NS_PER_US)

static void unregister_run(int uffd, struct page_run run)
{
	uint64_t piece = RELEASE_PIECE;
	for (uint64_t at = run.start; at < run.end;) {
		uint64_t end = run.end - at > piece ? at + piece : run.end;
		struct uffdio_range range = {.start = at, .len = end - at};
		uint64_t before = clock_now_ns();
		/* Fails where the mapping is gone, which is as good. */
		(void)ioctl(uffd, UFFDIO_UNREGISTER, &range);
		uint64_t took = clock_now_ns() - before;
		at = end;
		if (took > RELEASE_LONG_NS) {
			struct timespec pause = clock_timespec(50 * NS_PER_US);
			nanosleep(&pause, NULL);
			piece = RELEASE_PIECE;
		} else if (piece < RELEASE_PIECE_MAX && took < 20 * NS_PER_US) {
			piece *= 2;
		}
	}
}

/*
 * What may be unregistered in pieces: anonymous memory, memfd, tmpfs. The rest is left to close().
 * Where a mapping is told of its end (a close() in its vm_ops: files on FUSE, SysV segments), Linux
 * 6.12 comes upon it a second time after UFFDIO_UNREGISTER could not merge it with the unregistered
 * one before it, finds a file that cannot be registered, and BUGs: the caller dies with the
 * target's memory locked for ever. The mappings of now are asked, since others may have come since
 * the last collect; those that come from here on are not registered, and such a piece is just
 * refused.
 */
static int find_pieces(const struct uffd_registration *g, struct pageset *ret)
{
	auto_free char *text = NULL;
	auto_(mapping_table_release) struct mapping_table maps = {0};
	struct pageset may = {0};
	size_t len = 0;
	int r = process_read_file(g->process, "maps", &text, &len, NULL);
	if (r == 0)
		r = maps_parse(text, len, &maps, NULL);
	for (size_t i = 0; r == 0 && i < maps.len; i++) {
		const struct mapping *m = &maps.v[i];
		if (m->kind == MAPPING_ANON ||
			(m->kind == MAPPING_OBJECT && strncmp(m->name, "/SYSV", 5) != 0))
			r = pageset_add(&may, (struct page_run){m->start, m->end});
	}
	if (r == 0)
		r = pageset_intersect(&g->registered, &may, ret);
	pageset_release(&may);
	return r;
}

void uffd_registration_release(struct uffd_registration *g)
{
	struct pageset pieces = {0};
	if (g->uffd >= 0 && find_pieces(g, &pieces) == 0)
		for (size_t i = 0; i < pieces.len; i++)
			unregister_run(g->uffd, pieces.runs[i]);
	pageset_release(&pieces);
	if (g->uffd >= 0)
		close(g->uffd);
	g->uffd = -1;
	pageset_release(&g->registered);
	pageset_release(&g->fresh);
	pageset_release(&g->refused);
	pageset_release(&g->shared_armed);
	pageset_release(&g->files);
}
