/* SPDX-License-Identifier: MIT */
/*
 * The userfaultfd is created inside the target (tracker/inject.c) and belongs to its memory; all
 * else is done from outside. A page is armed by setting its write-protect bit; the kernel resolves
 * the first write into it by itself, without anybody being asked, and clears the bit. So "written"
 * is a bit in the page table that a scan reads and sets again in one atomic step.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include "base/error.h"
#include "base/guard.h"
#include "base/parallel.h"
#include "tracker/backend_uffd.h"
#include "tracker/process.h"
#include "tracker/scan.h"
#include "tracker/stretch.h"
#include "tracker/tracer.h"
#include "tracker/uffd_registration.h"
#include "tracker/uffd_scan.h"

#define FEATURES                                                         \
	(UAPI_UFFD_FEATURE_WP_ASYNC | UAPI_UFFD_FEATURE_WP_UNPOPULATED | \
		UAPI_UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
#define POPULATED (UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED)

struct uffd_backend {
	struct backend base;
	struct uffd_registration registration;
	struct pageset held; /* by the last collect: tells which way to ask is the cheaper one */
};

static int api(int uffd)
{
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURES};
	return ioctl(uffd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

static int count_written(void *arg, const struct uapi_page_region *region)
{
	*(uint64_t *)arg += region->end - region->start;
	return 0;
}

/*
 * Arms two pages of our own, writes one and looks: nothing less tells that the kernel does it. A
 * version or a return code does not (a kernel may know the ioctl and not the feature, or be
 * forbidden to us).
 */
static int uffd_probe(struct tide_error *err)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	auto_close int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		return tide_fail(err, -errno, "cannot open its own pagemap");
	auto_close int uffd =
		(int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UAPI_UFFD_USER_MODE_ONLY);
	if (uffd < 0)
		return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -errno,
			"userfaultfd is not to be had (%s)", strerrordesc_np(errno));
	if (api(uffd) < 0)
		return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -EOPNOTSUPP,
			"userfaultfd lacks asynchronous write-protect (Linux 6.7 has it)");

	uint8_t *memory =
		mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return tide_fail(err, -errno, "map two pages");
	uint64_t start = (uintptr_t)memory, end = start + 2 * page, written = 0;
	memset(memory, 1, 2 * page);

	struct scan_query arm = {.pagemap_fd = pagemap,
		.protect = true,
		.unpaused = true,
		.mask = UAPI_PAGE_IS_WRITTEN,
		.anyof = POPULATED,
		.returned = UAPI_PAGE_IS_WRITTEN};
	struct scan_query look = arm;
	look.protect = false;
	int r = uffd_register(uffd, start, end);
	if (r == 0)
		r = scan_range(&arm, start, end, NULL, NULL);
	if (r == 0) {
		*(volatile uint8_t *)memory = 2;
		r = scan_range(&look, start, end, count_written, &written);
	}
	munmap(memory, 2 * page);
	if (r == -EOPNOTSUPP)
		return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -EOPNOTSUPP,
			"no PAGEMAP_SCAN (Linux 6.7 has it)");
	if (r < 0)
		return tide_fail(err, r, "arming a page of its own fails");
	if (written != page)
		return tide_fail_kind(err, TIDE_ERROR_UNSUPPORTED, -EOPNOTSUPP,
			"an armed page that was written does not show");
	return 0;
}

static int uffd_attach(
	const struct process *p, struct tracer *t, struct backend **ret, struct tide_error *err)
{
	struct uffd_backend *b = calloc(1, sizeof(*b));
	if (!b)
		return tide_fail(err, -ENOMEM, "follow process %d", p->pid);
	b->base.ops = &backend_uffd_wp;
	b->registration = (struct uffd_registration){.process = p, .tracer = t, .uffd = -1};

	int r = tracer_inject_userfaultfd(t, &b->registration.uffd, err);
	if (r == 0) {
		r = api(b->registration.uffd);
		if (r < 0)
			tide_fail(err, r, "set up write tracking of process %d", p->pid);
	}
	if (r < 0) {
		backend_uffd_wp.release(&b->base);
		return r;
	}
	*ret = &b->base;
	return 0;
}

/* Several at once, in the freeze. */
static int scan_stretch(void *arg, const struct stretch *s, struct backend_found *found)
{
	struct uffd_scan c = *(const struct uffd_scan *)arg;
	c.found = found;
	return uffd_scan_stretch(&c, s);
}

static int count_stretch(void *arg, const struct stretch *s, struct backend_found *found)
{
	(void)found;
	return uffd_scan_stretch(arg, s);
}

static bool is_covered(void *arg, const struct watch *w)
{
	return uffd_registration_covers(arg, w);
}

static int make_stretches(struct uffd_backend *b, const struct mapping_table *maps,
	const struct watch_list *watches, struct stretch_list *ret, struct tide_error *err)
{
	int r = stretch_list_make(maps, watches, is_covered, &b->registration, ret);
	return r < 0 ? tide_fail(err, r, "note the mappings of process %d",
			       b->registration.process->pid)
		     : 0;
}

/* All that is held where we registered anew. */
static int add_fresh(const struct uffd_backend *b, struct backend_found *found)
{
	struct pageset held = {0};
	int r = pageset_intersect(&found->held, &b->registration.fresh, &held);
	if (r == 0)
		r = pageset_merge(&found->written, &held);
	pageset_release(&held);
	return r;
}

static int uffd_collect(struct backend *base, const struct mapping_table *maps,
	const struct watch_list *watches, bool frozen, struct backend_found *ret,
	struct tide_error *err)
{
	struct uffd_backend *b = (struct uffd_backend *)base;
	const struct process *p = b->registration.process;
	struct backend_found found = {0};
	struct stretch_list stretches = {0};
	struct uffd_scan c = {.registration = &b->registration,
		.held = &b->held,
		.protect = !frozen,
		.unpaused = frozen,
		.swap_in_use = uffd_scan_swap_in_use()};

	int r = uffd_registration_update(&b->registration, maps, watches, frozen, err);
	if (r == 0)
		r = make_stretches(b, maps, watches, &stretches, err);
	/* While it runs, one thread: more would hold back its own mmap calls for longer. */
	if (r == 0)
		r = stretch_list_scan(&stretches, p, frozen ? parallel_processors() : 1,
			scan_stretch, &c, &found, err);
	stretch_list_release(&stretches);
	uffd_registration_take_markers_away(&b->registration, &found.markers);
	if (r == 0 && (r = add_fresh(b, &found)) < 0)
		tide_fail(err, r, "note what process %d wrote", p->pid);
	if (r == 0)
		r = pageset_merge(&found.refused, &b->registration.refused);
	pageset_clear(&b->held);
	if (r == 0 && (r = pageset_merge(&b->held, &found.held)) < 0)
		tide_fail(err, r, "note what process %d holds", p->pid);
	if (r < 0) {
		backend_found_release(&found);
		return r;
	}
	*ret = found;
	return 0;
}

static int uffd_pending(struct backend *base, const struct mapping_table *maps,
	const struct watch_list *watches, uint64_t *ret_pages, struct tide_error *err)
{
	struct uffd_backend *b = (struct uffd_backend *)base;
	struct stretch_list stretches = {0};
	struct uffd_scan c = {.registration = &b->registration,
		.held = &b->held,
		.swap_in_use = uffd_scan_swap_in_use()};
	int r = make_stretches(b, maps, watches, &stretches, err);
	if (r == 0)
		r = stretch_list_scan(
			&stretches, b->registration.process, 1, count_stretch, &c, NULL, err);
	stretch_list_release(&stretches);
	if (r == 0)
		*ret_pages = c.counted_bytes / (uint64_t)sysconf(_SC_PAGESIZE);
	return r;
}

static void uffd_release(struct backend *base)
{
	struct uffd_backend *b = (struct uffd_backend *)base;
	uffd_registration_release(&b->registration);
	pageset_release(&b->held);
	free(b);
}

const struct backend_ops backend_uffd_wp = {
	.name = "uffd-wp",
	.about = "userfaultfd asynchronous write-protect, PAGEMAP_SCAN",
	.probe = uffd_probe,
	.attach = uffd_attach,
	.collect = uffd_collect,
	.pending = uffd_pending,
	.release = uffd_release,
};
