/* SPDX-License-Identifier: MIT */
/* What churn does. A new operation is a function and a line in the table at the end. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/workloads/churn.h"

/* Younger than the headers of a supported distribution. */
#define X_MADV_COLD 20
#define X_MADV_PAGEOUT 21
#define X_MADV_POPULATE_READ 22
#define X_MADV_POPULATE_WRITE 23
#define X_MADV_DONTNEED_LOCKED 24
#define X_MADV_COLLAPSE 25
#define X_MADV_GUARD_INSTALL 102
#define X_MADV_GUARD_REMOVE 103
#define X_PR_SET_VMA 0x53564d41
#define X_UFFD_USER_MODE_ONLY 1
#define X_UFFD_FEATURE_WP_ASYNC (1u << 15)

#define ANY_PRIVATE (1u << ANON | 1u << PRIVATE)
#define ANY (ANY_PRIVATE | 1u << SHARED)

static struct churn_record *note_run(struct thread *t, struct run r)
{
	return note(t, run_start(r), r.n * PAGE);
}

static unsigned draw_prot(struct thread *t)
{
	static const unsigned prots[] = {PROT_NONE, PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE,
		PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE | PROT_EXEC};
	return prots[draw(t, sizeof(prots) / sizeof(prots[0]))];
}

/* --- stores -------------------------------------------------------------------------------- */

static void store_run(struct thread *t, struct run r, bool zero, unsigned style, unsigned percent)
{
	note_run(t, r)->value = (uint32_t)percent;
	for (unsigned i = 0; i < r.n; i++) {
		struct page *p = run_pages(r) + i;
		if (!page_is_writable(p) || !chance(t, percent))
			continue;
		uint64_t value = zero ? 0 : draw(t, 0) | 1;
		page_fill(t, run_start(r) + i * PAGE, value, style);
		model_stored(p, value);
	}
}

static void op_write(struct thread *t)
{
	struct run r = draw_run(t, 0, 64);
	if (r.n)
		store_run(t, r, false, (unsigned)draw(t, 4), 100);
}

static void op_write_some(struct thread *t)
{
	struct run r = draw_run(t, 0, 512);
	if (r.n)
		store_run(t, r, false, 0, 1 + (unsigned)draw(t, 10));
}

static void op_zero(struct thread *t)
{
	struct run r = draw_run(t, 0, 32);
	if (r.n)
		store_run(t, r, true, 0, 50);
}

/* One word in the middle: the smallest thing that a page can have been missed by. */
static void op_poke(struct thread *t)
{
	struct run r = draw_run(t, 0, 512);
	if (r.n == 0)
		return;
	note_run(t, r);
	for (int i = 0; i < 8; i++) {
		unsigned at = (unsigned)draw(t, r.n);
		if (page_is_writable(run_pages(r) + at))
			((volatile uint64_t *)(run_start(r) + at * PAGE))[1 + draw(t, 510)] =
				draw(t, 0);
	}
}

static void op_read(struct thread *t)
{
	struct run r = draw_run(t, 0, 128);
	if (r.n == 0)
		return;
	note_run(t, r);
	for (unsigned i = 0; i < r.n; i++) {
		if (page_is_readable(run_pages(r) + i))
			(void)*(volatile uint8_t *)(run_start(r) + i * PAGE + draw(t, PAGE));
	}
}

/* The kernel writes: read(2), and process_vm_writev. */
static void op_read_into(struct thread *t)
{
	struct run r = draw_run(t, 0, 8);
	if (r.n == 0)
		return;
	note_run(t, r);
	bool by_vm = chance(t, 50);
	for (unsigned i = 0; i < r.n; i++) {
		struct page *p = run_pages(r) + i;
		uint8_t *at = run_start(r) + i * PAGE;
		if (!page_is_writable(p))
			continue;
		uint64_t value = draw(t, 0) | 1;
		page_fill(t, t->scratch, value, (unsigned)draw(t, 4));
		ssize_t n;
		if (by_vm) {
			struct iovec here = {t->scratch, PAGE}, there = {at, PAGE};
			n = process_vm_writev(getpid(), &here, 1, &there, 1, 0);
		} else {
			n = pwrite(t->scratch_fd, t->scratch, PAGE, 0);
			if (n == (ssize_t)PAGE)
				n = pread(t->scratch_fd, at, PAGE, 0);
		}
		if (n == (ssize_t)PAGE)
			model_stored(p, value);
	}
}

static struct object *draw_raced(struct thread *t)
{
	return &churn.objects[draw(t, churn.nraced)];
}

/* Memory that all threads and the helper write. */
static void op_race(struct thread *t)
{
	if (chance(t, 50)) {
		unsigned n = 1 + (unsigned)draw(t, 16);
		unsigned first = (unsigned)draw(t, churn.arena_pages - n + 1);
		note(t, churn.arena + first * PAGE, n * PAGE);
		for (unsigned i = first; i < first + n; i++)
			((volatile uint64_t *)(churn.arena + i * PAGE))[draw(t, 512)] = draw(t, 0);
		return;
	}
	struct object *o = draw_raced(t);
	unsigned n = 1 + (unsigned)draw(t, 8), first = (unsigned)draw(t, o->pages - n + 1);
	note_object(t, o, first, n);
	for (unsigned i = first; i < first + n; i++) {
		if (o->fd >= 0 && chance(t, 40)) {
			page_fill(t, t->scratch, draw(t, 0) | 1, 1);
			if (pwrite(o->fd, t->scratch, PAGE, (off_t)(i * PAGE)) < 0)
				return;
		} else {
			((volatile uint64_t *)(o->home + i * PAGE))[draw(t, 512)] = draw(t, 0);
		}
	}
}

static void op_race_drop(struct thread *t)
{
	if (chance(t, 50)) {
		unsigned n = 1 + (unsigned)draw(t, 16);
		unsigned first = (unsigned)draw(t, churn.arena_pages - n + 1);
		note(t, churn.arena + first * PAGE, n * PAGE);
		madvise(churn.arena + first * PAGE, n * PAGE, MADV_DONTNEED);
		return;
	}
	struct object *o = draw_raced(t);
	unsigned n = 1 + (unsigned)draw(t, 16), first = (unsigned)draw(t, o->pages - n + 1);
	note_object(t, o, first, n);
	/* The first leaves the object's pages as they are, and only the page tables empty. */
	madvise(o->home + first * PAGE, n * PAGE, chance(t, 60) ? MADV_DONTNEED : MADV_REMOVE);
}

/* --- mappings come and go ------------------------------------------------------------------ */

static void map_result(struct thread *t, struct run r, void *got, const struct page *first)
{
	(void)t;
	/* What lay there is gone even where the mapping could not be made. */
	if (got == MAP_FAILED) {
		run_give_up(r);
		return;
	}
	for (unsigned i = 0; i < r.n; i++) {
		struct page *p = run_pages(r) + i;
		*p = *first;
		p->at += i;
	}
}

static void op_map_anon(struct thread *t)
{
	struct run r = draw_stretch(t, 512);
	struct page p = {.kind = ANON, .prot = PROT_READ | PROT_WRITE};
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	if (chance(t, 10))
		flags |= MAP_NORESERVE;
	if (chance(t, 10))
		flags |= MAP_POPULATE;
	note_run(t, r);
	map_result(t, r, mmap(run_start(r), r.n * PAGE, p.prot, flags, -1, 0), &p);
	if (chance(t, 70))
		store_run(t, r, false, (unsigned)draw(t, 4), chance(t, 50) ? 100 : 20);
}

/* An object of this thread's own, or a raced one. */
static struct object *draw_object(struct thread *t, bool with_fd)
{
	struct object *o;
	do {
		o = chance(t, 75) ? t->own[draw(t, t->nown)] : draw_raced(t);
	} while (with_fd && o->fd < 0);
	return o;
}

static void op_map_private(struct thread *t)
{
	struct object *o = draw_object(t, true);
	struct run r = draw_stretch(t, o->pages_max);
	struct page p = {.kind = PRIVATE,
		.prot = PROT_READ | PROT_WRITE,
		.object = o->number,
		.at = (uint32_t)draw(t, o->pages_max - r.n + 1)};
	note_run(t, r);
	map_result(t, r,
		mmap(run_start(r), r.n * PAGE, p.prot, MAP_PRIVATE | MAP_FIXED, o->fd,
			(off_t)(p.at * PAGE)),
		&p);
	if (chance(t, 60))
		store_run(t, r, false, (unsigned)draw(t, 4), 30);
}

static void *map_shared(struct object *o, uint8_t *to, unsigned at, unsigned n)
{
	if (o->fd >= 0)
		return mmap(to, n * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, o->fd,
			(off_t)(at * PAGE));
	/* A second mapping of what has no descriptor: an old length of 0 duplicates. */
	return mremap(o->home + at * PAGE, 0, n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
}

static void op_map_shared(struct thread *t)
{
	struct object *o = draw_object(t, false);
	struct run r = draw_stretch(t, o->pages_max);
	struct page p = {.kind = SHARED,
		.prot = PROT_READ | PROT_WRITE,
		.object = o->number,
		.at = (uint32_t)draw(t, o->pages_max - r.n + 1)};
	note_run(t, r);
	map_result(t, r, map_shared(o, run_start(r), p.at, r.n), &p);
	if (chance(t, 50) && !o->raced)
		store_run(t, r, false, (unsigned)draw(t, 4), 20);
}

static void op_map_secret(struct thread *t)
{
	struct run r = draw_stretch(t, 8);
	struct page p = {.kind = SECRET, .prot = PROT_READ | PROT_WRITE};
	int fd = (int)syscall(447 /* memfd_secret */, O_CLOEXEC);
	if (fd < 0)
		return;
	note_run(t, r);
	void *got = MAP_FAILED;
	if (ftruncate(fd, (off_t)(r.n * PAGE)) == 0)
		got = mmap(run_start(r), r.n * PAGE, p.prot, MAP_SHARED | MAP_FIXED, fd, 0);
	close(fd);
	map_result(t, r, got, &p);
	if (got != MAP_FAILED)
		store_run(t, r, false, 0, 100);
}

static void op_unmap(struct thread *t)
{
	struct run r = chance(t, 50) ? draw_run(t, 0, 64) : draw_stretch(t, 32);
	if (r.n == 0)
		return;
	note_run(t, r);
	run_give_up(r);
}

static void op_protect(struct thread *t)
{
	struct run r = draw_run(t, ANY, 128);
	if (r.n == 0)
		return;
	unsigned prot = draw_prot(t);
	note_run(t, r)->value = prot;
	if (mprotect(run_start(r), r.n * PAGE, (int)prot) < 0) {
		run_give_up(r);
		return;
	}
	for (unsigned i = 0; i < r.n; i++)
		run_pages(r)[i].prot = (uint8_t)prot;
}

/* All of a slot is one mapping again, as far as it is memory of ours. */
static void op_unprotect(struct thread *t)
{
	for (int tries = 0; tries < 4; tries++) {
		struct run r = draw_run(t, ANY, churn.pages);
		if (r.n == 0 || run_pages(r)->prot == (PROT_READ | PROT_WRITE))
			continue;
		note_run(t, r);
		if (mprotect(run_start(r), r.n * PAGE, PROT_READ | PROT_WRITE) < 0) {
			run_give_up(r);
			return;
		}
		for (unsigned i = 0; i < r.n; i++)
			run_pages(r)[i].prot = PROT_READ | PROT_WRITE;
	}
}

/* --- mremap -------------------------------------------------------------------------------- */

static bool overlap(struct run a, struct run b)
{
	return a.slot == b.slot && a.first < b.first + b.n && b.first < a.first + a.n;
}

/* A place for `n` pages in any of the thread's slots, whatever lies there. */
static struct run draw_place(struct thread *t, unsigned n, struct run not_here)
{
	struct run r = {.n = n};
	for (int tries = 0; tries < 8; tries++) {
		r.slot = &t->slots[draw(t, churn.slots)];
		r.first = (unsigned)draw(t, churn.pages - n + 1);
		if (!overlap(r, not_here))
			return r;
	}
	return (struct run){0};
}

static void moved(struct run from, struct run to, bool stays)
{
	memcpy(run_pages(to), run_pages(from), from.n * sizeof(struct page));
	for (unsigned i = from.n; i < to.n; i++) {
		struct page *p = run_pages(to) + i;
		*p = run_pages(from)[from.n - 1];
		p->at += i - from.n + 1;
		p->value = 0;
		p->flags &= LOCKED;
	}
	if (!stays) {
		model_clear(from);
		return;
	}
	for (unsigned i = 0; i < from.n; i++) {
		struct page *p = run_pages(from) + i;
		p->flags = 0;
		if (p->kind != SHARED)
			p->value = 0;
	}
}

static void op_move(struct thread *t)
{
	struct run from = draw_run(t, ANY, 256);
	if (from.n == 0)
		return;
	unsigned grown = chance(t, 25) ? 1 + (unsigned)draw(t, 16) : 0;
	const struct page *last = run_pages(from) + from.n - 1;
	if (from.n + grown > churn.pages ||
		(last->kind != ANON && last->at + grown >= churn.objects[last->object].pages_max))
		grown = 0;
	struct run to = draw_place(t, from.n + grown, from);
	if (to.n == 0)
		return;
	note_run(t, from)->value = 1;
	note_run(t, to)->value = 2;
	/* Source and destination both are lost where it fails half-way. */
	if (mremap(run_start(from), from.n * PAGE, to.n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		    run_start(to)) == MAP_FAILED) {
		run_give_up(from);
		run_give_up(to);
		return;
	}
	moved(from, to, false);
	note_run(t, to)->value = 3;
}

/* The pages go, the mapping stays behind empty. */
static void op_move_dontunmap(struct thread *t)
{
	struct run from = draw_run(t, 1u << ANON | 1u << SHARED, 128);
	struct run to = from.n ? draw_place(t, from.n, from) : from;
	if (to.n == 0)
		return;
	note_run(t, from)->value = 1;
	note_run(t, to)->value = 2;
	if (mremap(run_start(from), from.n * PAGE, to.n * PAGE,
		    MREMAP_MAYMOVE | MREMAP_FIXED | 4 /* MREMAP_DONTUNMAP */,
		    run_start(to)) == MAP_FAILED) {
		run_give_up(from);
		run_give_up(to);
		return;
	}
	moved(from, to, true);
}

static void op_grow(struct thread *t)
{
	struct run r = draw_run(t, ANY, churn.pages);
	unsigned grown = 1 + (unsigned)draw(t, 32);
	if (r.n == 0 || r.first + r.n + grown > churn.pages)
		return;
	const struct page *last = run_pages(r) + r.n - 1;
	if (last->kind != ANON && last->at + grown >= churn.objects[last->object].pages_max)
		return;
	for (unsigned i = 0; i < grown; i++) {
		if (last[1 + i].kind != NOTHING)
			return;
	}
	struct run to = r;
	to.n += grown;
	note_run(t, to);
	if (mremap(run_start(r), r.n * PAGE, to.n * PAGE, 0) == MAP_FAILED)
		return;
	struct run added = {.slot = r.slot, .first = r.first + r.n, .n = grown};
	for (unsigned i = 0; i < grown; i++) {
		struct page *p = run_pages(added) + i;
		*p = *last;
		p->at += i + 1;
		p->value = 0;
		p->flags &= LOCKED;
	}
	store_run(t, added, false, 0, 50);
}

static void op_shrink(struct thread *t)
{
	struct run r = draw_run(t, ANY, churn.pages);
	if (r.n < 2)
		return;
	unsigned kept = 1 + (unsigned)draw(t, r.n - 1);
	note_run(t, r)->value = kept;
	if (mremap(run_start(r), r.n * PAGE, kept * PAGE, 0) == MAP_FAILED)
		run_give_up(r);
	else
		model_clear((struct run){.slot = r.slot, .first = r.first + kept, .n = r.n - kept});
}

#define BESIDE_PAGES 8
/*
 * Memory that nobody has touched yet is moved to right behind other memory: the kernel makes one
 * mapping of them. It has lain about for a while by then, and may be followed.
 */
static void op_move_beside(struct thread *t)
{
	uint8_t *wait_at = (uint8_t *)(WORLD + t->number * THREAD_ROOM + EXTRA_ROOM + (32ul << 30));
	struct run r = draw_run(t, 1u << ANON, churn.pages);
	if (r.n && t->beside) {
		struct run end = r;
		const struct page *pages = r.slot->pages;
		while (end.first + end.n < churn.pages && pages[end.first + end.n].kind == ANON &&
			pages[end.first + end.n].prot == run_pages(r)->prot)
			end.n++;
		struct run to = {.slot = r.slot, .first = end.first + end.n, .n = BESIDE_PAGES};
		if (to.first + to.n > churn.pages || run_pages(r)->prot != (PROT_READ | PROT_WRITE))
			return;
		note_run(t, to);
		t->beside = NULL;
		if (mremap(wait_at, BESIDE_PAGES * PAGE, BESIDE_PAGES * PAGE,
			    MREMAP_MAYMOVE | MREMAP_FIXED, run_start(to)) == MAP_FAILED) {
			munmap(wait_at, BESIDE_PAGES * PAGE);
			run_give_up(to);
			return;
		}
		model_clear(to);
		for (unsigned i = 0; i < to.n; i++) {
			run_pages(to)[i].kind = ANON;
			run_pages(to)[i].prot = PROT_READ | PROT_WRITE;
		}
		store_run(t, end, false, 0, 10);
		return;
	}
	void *got = mmap(wait_at, BESIDE_PAGES * PAGE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	t->beside = got == MAP_FAILED ? NULL : got;
}

/* --- madvise ------------------------------------------------------------------------------- */

static void op_dontneed(struct thread *t)
{
	struct run r = draw_run(t, ANY, 128);
	if (r.n == 0)
		return;
	struct churn_record *record = note_run(t, r);
	int advice = run_pages(r)->flags & LOCKED ? X_MADV_DONTNEED_LOCKED : MADV_DONTNEED;
	if (madvise(run_start(r), r.n * PAGE, advice) < 0) {
		record->failed = 1;
		model_unknown(r);
	} else if (run_pages(r)->kind != SHARED) {
		model_dropped(r);
	}
	if (chance(t, 25))
		store_run(t, r, false, 0, 30);
}

/* Shared memory that is written and has left the page table again before anybody looks. */
static void op_write_drop(struct thread *t)
{
	struct run r = draw_run(t, 1u << SHARED, 64);
	if (r.n == 0 || run_pages(r)->flags & LOCKED)
		return;
	store_run(t, r, false, 0, 50);
	note_run(t, r);
	madvise(run_start(r), r.n * PAGE, MADV_DONTNEED);
}

static void op_free(struct thread *t)
{
	struct run r = draw_run(t, 1u << ANON, 64);
	if (r.n == 0 || run_pages(r)->flags & LOCKED)
		return;
	note_run(t, r);
	madvise(run_start(r), r.n * PAGE, MADV_FREE);
	for (unsigned i = 0; i < r.n; i++)
		run_pages(r)[i].flags |= LAZY;
	if (chance(t, 20))
		madvise(run_start(r), r.n * PAGE, X_MADV_PAGEOUT);
}

static void op_remove(struct thread *t)
{
	struct run r = draw_run(t, 1u << SHARED, 64);
	if (r.n == 0)
		return;
	struct page *p = run_pages(r);
	struct object *o = &churn.objects[p->object];
	if (p->at + r.n > o->pages)
		return;
	struct churn_record *record = note_run(t, r);
	if (madvise(run_start(r), r.n * PAGE, MADV_REMOVE) == 0) {
		model_object_dropped(o, p->at, r.n);
	} else {
		record->failed = 1;
		model_unknown(r);
	}
}

static void op_guard(struct thread *t)
{
	struct run r = draw_run(t, 1u << ANON, 16);
	if (r.n == 0 || run_pages(r)->flags & LOCKED)
		return;
	note_run(t, r);
	if (madvise(run_start(r), r.n * PAGE, X_MADV_GUARD_INSTALL) < 0) {
		/* Half of them may be there. */
		if (errno != EINVAL)
			run_give_up(r);
		else
			model_unknown(r);
		return;
	}
	model_dropped(r);
	for (unsigned i = 0; i < r.n; i++)
		run_pages(r)[i].flags |= GUARD;
}

static void op_unguard(struct thread *t)
{
	struct run r = draw_run(t, 1u << ANON, churn.pages);
	unsigned i = 0;
	while (i < r.n && !(run_pages(r)[i].flags & GUARD))
		i++;
	if (i == r.n)
		return;
	note_run(t, r);
	if (madvise(run_start(r), r.n * PAGE, X_MADV_GUARD_REMOVE) < 0) {
		run_give_up(r);
		return;
	}
	for (; i < r.n; i++)
		run_pages(r)[i].flags &= (uint8_t)~GUARD;
	if (chance(t, 50))
		store_run(t, r, false, 0, 50);
}

/* Advice that changes no contents, whatever it answers. */
static void advise(struct thread *t, unsigned kinds, unsigned max, int advice)
{
	struct run r = draw_run(t, kinds, max);
	if (r.n == 0)
		return;
	struct churn_record *record = note_run(t, r);
	record->failed = madvise(run_start(r), r.n * PAGE, advice) < 0;
}

static void op_hugepage(struct thread *t)
{
	unsigned huge = (unsigned)(HUGE / PAGE);
	if (churn.pages < huge || chance(t, 50)) {
		advise(t, ANY, churn.pages, MADV_HUGEPAGE);
		return;
	}
	/* A fresh one, written whole by the first store. */
	struct run r = {.slot = &t->slots[draw(t, churn.slots)],
		.first = (unsigned)draw(t, churn.pages / huge) * huge,
		.n = huge};
	struct page p = {.kind = ANON, .prot = PROT_READ | PROT_WRITE};
	note_run(t, r);
	map_result(t, r,
		mmap(run_start(r), HUGE, p.prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
		&p);
	madvise(run_start(r), HUGE, MADV_HUGEPAGE);
	store_run(t, r, false, 0, 5);
}

static void op_nohugepage(struct thread *t)
{
	advise(t, ANY, churn.pages, MADV_NOHUGEPAGE);
}

static void op_collapse(struct thread *t)
{
	advise(t, ANY, churn.pages, X_MADV_COLLAPSE);
}

static void op_cold(struct thread *t)
{
	advise(t, ANY, 256, X_MADV_COLD);
}

static void op_pageout(struct thread *t)
{
	advise(t, ANY, 256, X_MADV_PAGEOUT);
}

static void op_populate(struct thread *t)
{
	struct run r = draw_run(t, ANY, 64);
	if (r.n == 0)
		return;
	bool write = chance(t, 40);
	note_run(t, r)->value = write;
	madvise(run_start(r), r.n * PAGE, write ? X_MADV_POPULATE_WRITE : X_MADV_POPULATE_READ);
}

static void op_mergeable(struct thread *t)
{
	struct run r = draw_run(t, 1u << ANON, 128);
	if (r.n == 0)
		return;
	/* Some pages that are the same. */
	for (unsigned i = 0; i < r.n; i++) {
		struct page *p = run_pages(r) + i;
		if (page_is_writable(p) && chance(t, 50)) {
			page_fill(t, run_start(r) + i * PAGE, 0x4b534d, 3);
			model_stored(p, 0x4b534d);
		}
	}
	note_run(t, r);
	madvise(run_start(r), r.n * PAGE, chance(t, 80) ? MADV_MERGEABLE : MADV_UNMERGEABLE);
}

static void op_fork_advice(struct thread *t)
{
	static const int advice[] = {MADV_DONTFORK, MADV_DOFORK, MADV_WIPEONFORK, MADV_KEEPONFORK};
	advise(t, 1u << ANON, 64, advice[draw(t, 4)]);
}

static void lock(struct thread *t, struct run r)
{
	if (r.n == 0)
		return;
	note_run(t, r);
	bool lock = !(run_pages(r)->flags & LOCKED);
	int failed = lock ? mlock2(run_start(r), r.n * PAGE, chance(t, 30) ? MLOCK_ONFAULT : 0)
			  : munlock(run_start(r), r.n * PAGE);
	if (failed) {
		munlock(run_start(r), r.n * PAGE);
		lock = false;
	}
	for (unsigned i = 0; i < r.n; i++) {
		struct page *p = run_pages(r) + i;
		p->flags = (uint8_t)(lock ? p->flags | LOCKED : p->flags & ~LOCKED);
	}
}

static void op_lock(struct thread *t)
{
	lock(t, draw_run(t, 1u << ANON | 1u << SHARED, 32));
}

static void op_lock_file(struct thread *t)
{
	lock(t, draw_run(t, 1u << PRIVATE, 32));
}

static void op_name(struct thread *t)
{
	struct run r = draw_run(t, 1u << ANON, 64);
	if (r.n == 0)
		return;
	note_run(t, r);
	/* Where the kernel keeps no names it says so. */
	prctl(X_PR_SET_VMA, 0, run_start(r), r.n * PAGE, chance(t, 70) ? "churn" : NULL);
}

/* --- objects ------------------------------------------------------------------------------- */

static struct object *draw_own_file(struct thread *t)
{
	struct object *o;
	do {
		o = t->own[draw(t, t->nown)];
	} while (o->fd < 0);
	return o;
}

/* Behind the new end private copies go, too. */
static void truncated(struct thread *t, const struct object *o)
{
	for (unsigned s = 0; s < churn.slots; s++) {
		for (unsigned i = 0; i < churn.pages; i++) {
			struct page *p = &t->slots[s].pages[i];
			if (p->kind == PRIVATE && p->object == o->number && p->at >= o->pages) {
				p->value = 0;
				p->flags &= (uint8_t) ~(LAZY | UNKNOWN);
			}
		}
	}
}

static void op_truncate(struct thread *t)
{
	struct object *o = draw_own_file(t);
	unsigned pages = (unsigned)draw(t, o->pages_max + 1);
	/* Not often to nothing: little would be left to do. */
	if (pages < o->pages && chance(t, 50))
		pages = o->pages - (unsigned)draw(t, o->pages > 32 ? 32 : o->pages + 1);
	unsigned from = pages < o->pages ? pages : o->pages;
	note_object(t, o, from, (pages < o->pages ? o->pages : pages) - from)->value = pages;
	bool within_page = pages && chance(t, 20);
	off_t bytes = (off_t)(pages * PAGE) - (within_page ? 1000 : 0);
	/* Nobody may look behind the end while it comes nearer. */
	if (ftruncate(o->fd, bytes) < 0)
		return;
	if (pages < o->pages)
		model_object_dropped(o, pages, o->pages - pages);
	o->pages = pages;
	o->cut = within_page;
	truncated(t, o);
	if (within_page) {
		o->unknown[pages - 1] = true;
		/* A private copy of that page keeps what it has, or loses the end of it. */
		for (unsigned s = 0; s < churn.slots; s++) {
			for (unsigned i = 0; i < churn.pages; i++) {
				struct page *p = &t->slots[s].pages[i];
				if (p->kind == PRIVATE && p->object == o->number &&
					p->at == pages - 1)
					p->flags |= UNKNOWN;
			}
		}
	}
}

static void op_punch(struct thread *t)
{
	struct object *o = draw_own_file(t);
	if (o->pages == 0)
		return;
	unsigned n = 1 + (unsigned)draw(t, o->pages < 64 ? o->pages : 64);
	unsigned first = (unsigned)draw(t, o->pages - n + 1);
	note_object(t, o, first, n);
	if (fallocate(o->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(first * PAGE),
		    (off_t)(n * PAGE)) == 0)
		model_object_dropped(o, first, n);
}

static void op_allocate(struct thread *t)
{
	struct object *o = draw_own_file(t);
	if (o->pages == 0)
		return;
	unsigned n = 1 + (unsigned)draw(t, o->pages < 64 ? o->pages : 64);
	unsigned first = (unsigned)draw(t, o->pages - n + 1);
	note_object(t, o, first, n);
	fallocate(o->fd, FALLOC_FL_KEEP_SIZE, (off_t)(first * PAGE), (off_t)(n * PAGE));
}

static void op_pwrite(struct thread *t)
{
	struct object *o = draw_own_file(t);
	if (o->pages == 0)
		return;
	unsigned n = 1 + (unsigned)draw(t, o->pages < 8 ? o->pages : 8);
	unsigned first = (unsigned)draw(t, o->pages - n + 1);
	note_object(t, o, first, n);
	for (unsigned i = first; i < first + n; i++) {
		uint64_t value = draw(t, 0) | 1;
		page_fill(t, t->scratch, value, (unsigned)draw(t, 4));
		if (pwrite(o->fd, t->scratch, PAGE, (off_t)(i * PAGE)) != (ssize_t)PAGE)
			return;
		o->values[i] = value;
		o->unknown[i] = false;
		if (i == o->pages - 1)
			o->cut = false;
	}
}

/* --- the process itself -------------------------------------------------------------------- */

/* Only the first thread: brk is the process's. */
static void op_brk(struct thread *t)
{
	static uintptr_t base, now;
	if (t->number != 0)
		return;
	if (!base)
		base = now = ((uintptr_t)sbrk(0) + PAGE - 1) / PAGE * PAGE;
	uintptr_t to = base + draw(t, 512) * PAGE;
	note(t, (void *)(to < now ? to : now), to < now ? now - to : to - now)->value = to < now;
	if (brk((void *)to) < 0)
		return;
	for (uintptr_t at = now; at < to; at += PAGE)
		*(volatile uint64_t *)at = draw(t, 0);
	now = to;
	/* And something in what stays. */
	for (int i = 0; i < 8 && now > base; i++)
		*(volatile uint64_t *)(base + draw(t, (now - base) / 8) * 8) = draw(t, 0);
}

static __attribute__((noinline)) void dig(struct thread *t, unsigned depth)
{
	volatile uint8_t room[16384];
	room[draw(t, sizeof(room))] = (uint8_t)depth;
	room[0] = 1;
	if (depth)
		dig(t, depth - 1);
	room[1] = 2;
}

static void op_stack(struct thread *t)
{
	unsigned depth = (unsigned)draw(t, t->number == 0 ? 96 : 32);
	uint8_t here;
	note(t, &here - depth * 16384, (uint64_t)depth * 16384);
	dig(t, depth);
}

/* A child that writes its copies while we write ours. */
static void op_fork(struct thread *t)
{
	struct run r = draw_run(t, ANY_PRIVATE, 64);
	if (r.n == 0)
		return;
	unsigned nap = (unsigned)draw(t, 5000);
	note_run(t, r);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* Not all of it may be here (MADV_DONTFORK), and nobody minds how we end. */
		signal(SIGSEGV, SIG_DFL);
		for (unsigned i = 0; i < r.n; i += 2) {
			const struct page *p = run_pages(r) + i;
			if (page_is_writable(p) && p->kind == ANON)
				*(volatile uint64_t *)(run_start(r) + i * PAGE) = 0xdeadc0de;
		}
		usleep(nap);
		_exit(0);
	}
	if (pid < 0)
		return;
	store_run(t, r, false, 0, 60);
	int status;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	store_run(t, r, false, 0, 30);
}

struct visitor {
	struct thread *t;
	struct run r;
};

static void *visit(void *arg)
{
	struct visitor *v = arg;
	store_run(v->t, v->r, false, 0, 50);
	dig(v->t, 4);
	return NULL;
}

static void op_thread(struct thread *t)
{
	struct visitor v = {t, draw_run(t, 0, 32)};
	if (v.r.n == 0)
		return;
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	/* Of many sizes, so that the library does not keep just this one for the next. */
	pthread_attr_setstacksize(&attr, (1 + draw(t, 16)) * (128ul << 10));
	pthread_t id;
	if (pthread_create(&id, &attr, visit, &v) == 0)
		pthread_join(id, NULL);
	pthread_attr_destroy(&attr);
}

static uint8_t *extra(const struct thread *t, unsigned i)
{
	return (uint8_t *)(WORLD + t->number * THREAD_ROOM + EXTRA_ROOM + i * (8ul << 30));
}

#define SPARSE_BYTES (1ul << 30)
static void op_sparse(struct thread *t)
{
	uint8_t *at = extra(t, 0);
	note(t, at, SPARSE_BYTES);
	if (t->sparse && chance(t, 20)) {
		munmap(at, SPARSE_BYTES);
		t->sparse = NULL;
		return;
	}
	if (!t->sparse && mmap(at, SPARSE_BYTES, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
				  0) == MAP_FAILED)
		return;
	t->sparse = at;
	madvise(at, SPARSE_BYTES, MADV_NOHUGEPAGE);
	for (int i = 0; i < 10; i++)
		*(volatile uint64_t *)(at + draw(t, SPARSE_BYTES / 8) * 8) = draw(t, 0);
	if (chance(t, 50))
		madvise(at + draw(t, 512) * HUGE, HUGE, MADV_DONTNEED);
}

/* Nothing where the pool of huge pages is empty. */
static void huge_store(struct thread *t, bool may_drop_shared)
{
	uint8_t *at = extra(t, 1);
	if (t->huge && chance(t, 20)) {
		note(t, at, HUGE);
		munmap(at, HUGE);
		t->huge = NULL;
		return;
	}
	if (!t->huge) {
		int kind = chance(t, 50) ? MAP_PRIVATE : MAP_SHARED;
		t->huge_is_shared = kind == MAP_SHARED;
		void *got = mmap(at, HUGE, PROT_READ | PROT_WRITE,
			kind | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED, -1, 0);
		if (got == MAP_FAILED)
			return;
		t->huge = at;
	}
	note(t, at, HUGE);
	for (int i = 0; i < 4; i++)
		*(volatile uint64_t *)(at + draw(t, HUGE / 8) * 8) = draw(t, 0);
	if (chance(t, 20) && (may_drop_shared || !t->huge_is_shared))
		madvise(at, HUGE, MADV_DONTNEED);
}

static void op_hugetlb(struct thread *t)
{
	huge_store(t, false);
}

/* Data of hugetlbfs that no page table shows is not found (docs/correctness.md). */
static void op_hugetlb_drop(struct thread *t)
{
	huge_store(t, true);
}

/* A userfaultfd of its own: nobody else can follow those mappings by one. */
static void op_uffd(struct thread *t)
{
	if (t->uffd >= 0) {
		note(t, NULL, 0);
		close(t->uffd);
		t->uffd = -1;
		return;
	}
	/* With a file that it locks it would hang itself: docs/correctness.md. */
	struct run r = draw_run(t, churn.locks ? 1u << ANON : ANY, 128);
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | X_UFFD_USER_MODE_ONLY);
	struct uffdio_api api = {.api = UFFD_API, .features = X_UFFD_FEATURE_WP_ASYNC};
	if (fd < 0 || r.n == 0 || ioctl(fd, UFFDIO_API, &api) < 0) {
		if (fd >= 0)
			close(fd);
		return;
	}
	struct uffdio_register reg = {
		.range = {(uintptr_t)run_start(r), r.n * PAGE}, .mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect wp = {.range = reg.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	struct churn_record *record = note_run(t, r);
	record->failed = ioctl(fd, UFFDIO_REGISTER, &reg) < 0;
	if (!record->failed && chance(t, 50))
		ioctl(fd, UFFDIO_WRITEPROTECT, &wp);
	t->uffd = fd;
}

static void op_check(struct thread *t)
{
	slot_check(t, &t->slots[draw(t, churn.slots)]);
}

void ops_end(struct thread *t)
{
	if (t->uffd >= 0)
		close(t->uffd);
}

const struct op ops[] = {
	/* A process with secret memory is not followed at all, so map-secret only where it is asked
	 * for. The helper process's records say "helper", which must be the first. */
	{"helper", 0, op_read},
	{"write", 60, op_write},
	{"write-some", 60, op_write_some},
	{"poke", 60, op_poke},
	{"zero", 10, op_zero},
	{"read", 20, op_read},
	{"read-into", 20, op_read_into},
	{"race", 60, op_race},
	{"race-drop", 10, op_race_drop},
	{"map-anon", 30, op_map_anon},
	{"map-private", 15, op_map_private},
	{"map-shared", 15, op_map_shared},
	{"map-secret", 0, op_map_secret},
	{"unmap", 15, op_unmap},
	{"protect", 15, op_protect},
	{"unprotect", 20, op_unprotect},
	{"move", 15, op_move},
	{"move-leaving", 8, op_move_dontunmap},
	{"move-beside", 10, op_move_beside},
	{"grow", 8, op_grow},
	{"shrink", 5, op_shrink},
	{"dontneed", 25, op_dontneed},
	{"write-drop", 15, op_write_drop},
	{"free", 10, op_free},
	{"remove", 10, op_remove},
	{"guard", 6, op_guard},
	{"unguard", 5, op_unguard},
	{"hugepage", 8, op_hugepage},
	{"nohugepage", 3, op_nohugepage},
	{"collapse", 4, op_collapse},
	{"cold", 4, op_cold},
	{"pageout", 8, op_pageout},
	{"populate", 6, op_populate},
	{"mergeable", 3, op_mergeable},
	{"fork-advice", 3, op_fork_advice},
	{"lock", 6, op_lock},
	{"lock-file", 6, op_lock_file},
	{"name", 4, op_name},
	{"truncate", 10, op_truncate},
	{"punch", 10, op_punch},
	{"allocate", 4, op_allocate},
	{"pwrite", 20, op_pwrite},
	{"brk", 20, op_brk},
	{"stack", 8, op_stack},
	{"fork", 3, op_fork},
	{"thread", 6, op_thread},
	{"sparse", 4, op_sparse},
	{"hugetlb", 4, op_hugetlb},
	{"hugetlb-drop", 0, op_hugetlb_drop},
	{"uffd", 3, op_uffd},
	{"check", 3, op_check},
};
const unsigned nops = sizeof(ops) / sizeof(ops[0]);
