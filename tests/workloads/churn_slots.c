/* SPDX-License-Identifier: MIT */
/* What churn knows of its own memory. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "tests/workloads/churn.h"

/* splitmix64: the decisions of a thread follow from the seed alone. */
uint64_t draw(struct thread *t, uint64_t below)
{
	uint64_t z = t->random += 0x9e3779b97f4a7c15ull;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	z ^= z >> 31;
	return below ? z % below : z;
}

/* --- the log ------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static struct churn_record *note_any(struct thread *t, struct churn_record with)
{
	struct churn_log *log = churn.log;
	uint64_t number = __atomic_add_fetch(&log->next, 1, __ATOMIC_RELAXED);
	struct churn_record *r = &log->records[number % CHURN_RECORDS];
	with.number = number;
	with.began_ns = now_ns();
	with.op = t->op;
	with.thread = t->number;
	*r = with;
	if (t->nopen < OPEN_MAX)
		t->open[t->nopen++] = r;
	return r;
}

struct churn_record *note(struct thread *t, const void *address, uint64_t bytes)
{
	struct churn_record with = {
		.address = (uintptr_t)address, .bytes = bytes, .object = CHURN_NO_OBJECT};
	/* Where it is an object's, the page has a history by its place in there. */
	for (unsigned i = 0; i < churn.slots; i++) {
		const struct slot *s = &t->slots[i];
		if ((uint8_t *)address < s->base ||
			(uint8_t *)address >= s->base + churn.pages * PAGE)
			continue;
		const struct page *p = &s->pages[((uint8_t *)address - s->base) / PAGE];
		if (p->kind == SHARED) {
			with.object = p->object;
			with.at = p->at * PAGE;
		}
	}
	return note_any(t, with);
}

struct churn_record *note_object(
	struct thread *t, const struct object *o, uint64_t page, uint64_t n)
{
	return note_any(t,
		(struct churn_record){.object = o->number, .at = page * PAGE, .bytes = n * PAGE});
}

void note_end(struct thread *t)
{
	uint64_t now = now_ns();
	for (unsigned i = 0; i < t->nopen; i++)
		t->open[i]->ended_ns = now;
	t->nopen = 0;
}

/* --- runs ---------------------------------------------------------------------------------- */

uint8_t *run_start(struct run r)
{
	return r.slot->base + r.first * PAGE;
}

struct page *run_pages(struct run r)
{
	return r.slot->pages + r.first;
}

/* Mostly few pages, sometimes all there are. */
static unsigned draw_length(struct thread *t, unsigned max)
{
	unsigned n = max;
	if (chance(t, 60))
		n = 16;
	else if (chance(t, 60))
		n = 128;
	return 1 + (unsigned)draw(t, n < max ? n : max);
}

struct run draw_stretch(struct thread *t, unsigned max)
{
	struct run r = {.slot = &t->slots[draw(t, churn.slots)]};
	r.n = draw_length(t, max < churn.pages ? max : churn.pages);
	r.first = (unsigned)draw(t, churn.pages - r.n + 1);
	/* Huge pages want to be mapped whole. */
	if (r.n > 64 && chance(t, 50)) {
		r.first = r.first / 512 * 512;
		if (r.first + 512 <= churn.pages && max >= 512)
			r.n = 512;
	}
	return r;
}

static bool follows(const struct page *a, const struct page *b)
{
	return a->kind == b->kind && a->prot == b->prot && a->object == b->object &&
	       ((a->flags ^ b->flags) & LOCKED) == 0 &&
	       (a->kind == ANON || a->kind == NOTHING || b->at == a->at + 1);
}

struct run draw_run(struct thread *t, unsigned kinds, unsigned max)
{
	struct run r = {.slot = &t->slots[draw(t, churn.slots)]};
	const struct page *pages = r.slot->pages;
	unsigned at = (unsigned)draw(t, churn.pages), tried = 0;
	unsigned allowed = kinds ? kinds : ~(1u << NOTHING);
	while (!(allowed >> pages[at].kind & 1)) {
		at = (at + 1) % churn.pages;
		if (++tried == churn.pages)
			return (struct run){0};
	}
	unsigned first = at, end = at + 1;
	while (first > 0 && follows(&pages[first - 1], &pages[first]))
		first--;
	while (end < churn.pages && follows(&pages[end - 1], &pages[end]))
		end++;

	/* Whole mappings now and then, and such that begin or end where a mapping does. */
	unsigned n = draw_length(t, end - first < max ? end - first : max);
	r.n = n;
	if (end - first <= max && chance(t, 15)) {
		r.first = first;
		r.n = end - first;
	} else if (chance(t, 25)) {
		r.first = first;
	} else if (chance(t, 25)) {
		r.first = end - n;
	} else {
		r.first = first + (unsigned)draw(t, end - first - n + 1);
	}
	return r;
}

/* --- contents ------------------------------------------------------------------------------ */

static bool is_in_file(const struct page *p)
{
	return (p->kind != PRIVATE && p->kind != SHARED) || p->at < churn.objects[p->object].pages;
}

bool page_is_writable(const struct page *p)
{
	return p->kind != NOTHING && p->prot & PROT_WRITE && !(p->flags & GUARD) && is_in_file(p);
}

bool page_is_readable(const struct page *p)
{
	return p->kind != NOTHING && p->prot & PROT_READ && !(p->flags & GUARD) && is_in_file(p);
}

void page_fill(struct thread *t, uint8_t *page, uint64_t value, unsigned style)
{
	uint64_t *words = (uint64_t *)page;
	if (value == 0) {
		memset(page, 0, PAGE);
		return;
	}
	switch (style % 4) {
	case 0:
		break;
	case 1:
		for (int i = 0; i < 3; i++)
			words[1 + draw(t, 510)] = draw(t, 0);
		break;
	case 2:
		for (int i = 1; i < 511; i++)
			words[i] = value * (2 * (uint64_t)i + 1);
		break;
	default:
		memset(page, (int)(value & 0xff), PAGE);
	}
	words[0] = value;
	words[511] = value;
}

void model_stored(struct page *p, uint64_t value)
{
	if (p->kind == SHARED) {
		struct object *o = &churn.objects[p->object];
		if (!o->raced) {
			o->values[p->at] = value;
			/* Behind the end of a file, what is stored does not last. */
			o->unknown[p->at] = o->cut && p->at == o->pages - 1;
		}
		return;
	}
	p->value = value;
	p->flags &= (uint8_t) ~(LAZY | UNKNOWN);
	/* A private copy that is zero cannot be told from the file's page by its value. */
	if (p->kind == PRIVATE && value == 0)
		p->flags |= UNKNOWN;
}

void model_clear(struct run r)
{
	memset(run_pages(r), 0, r.n * sizeof(struct page));
}

void model_dropped(struct run r)
{
	for (unsigned i = 0; i < r.n; i++) {
		struct page *p = run_pages(r) + i;
		p->value = 0;
		p->flags &= (uint8_t) ~(LAZY | UNKNOWN);
	}
}

void model_unknown(struct run r)
{
	for (unsigned i = 0; i < r.n; i++) {
		struct page *p = run_pages(r) + i;
		if (p->kind == SHARED && !churn.objects[p->object].raced)
			churn.objects[p->object].unknown[p->at] = true;
		p->flags |= UNKNOWN;
	}
}

void model_object_dropped(struct object *o, unsigned page, unsigned n)
{
	for (unsigned i = page; !o->raced && i < page + n; i++) {
		o->values[i] = 0;
		o->unknown[i] = false;
	}
}

void run_give_up(struct run r)
{
	munmap(run_start(r), r.n * PAGE);
	model_clear(r);
}

static void page_check(struct thread *t, const uint8_t *page, const struct page *p)
{
	uint64_t want = p->value;
	bool lazy = p->flags & LAZY;
	if (p->kind == SHARED) {
		const struct object *o = &churn.objects[p->object];
		if (o->raced || o->unknown[p->at])
			return;
		want = o->values[p->at];
		lazy = false;
	} else if (p->flags & UNKNOWN || (p->kind == PRIVATE && want == 0)) {
		return;
	}
	uint64_t first = *(const volatile uint64_t *)page;
	uint64_t last = *(const volatile uint64_t *)(page + PAGE - 8);
	if (first == want && last == want)
		return;
	if (lazy && first == 0 && last == 0)
		return;
	if (atomic_fetch_add(&churn.wrong, 1) < 20)
		fprintf(stderr,
			"churn: thread %u: page %p of kind %u at %u of object %u: %#llx and %#llx, "
			"not %#llx\n",
			t->number, (const void *)page, p->kind, p->at, p->object,
			(unsigned long long)first, (unsigned long long)last,
			(unsigned long long)want);
}

void slot_check(struct thread *t, struct slot *s)
{
	for (unsigned i = 0; i < churn.pages; i++) {
		if (page_is_readable(&s->pages[i]))
			page_check(t, s->base + i * PAGE, &s->pages[i]);
	}
}
