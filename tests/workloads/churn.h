/* SPDX-License-Identifier: MIT */
/*
 * The parts of churn. Every thread owns slots, windows of the address space that it does what it
 * likes with, and knows of each page what must be there (the model). Some memory is written by all
 * threads and by the helper process: nobody but a tracker's test knows what is right there.
 */
#ifndef TESTS_WORKLOADS_CHURN_H
#define TESTS_WORKLOADS_CHURN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include "tests/workloads/churn_log.h"

#define PAGE 4096ul
#define HUGE (2ul << 20)

/* Windows lie where the kernel puts nothing of its own accord, at the same places in every run. */
#define WORLD 0x100000000000ul
#define THREAD_ROOM (256ul << 30)
#define SLOT_ROOM (256ul << 20)
#define EXTRA_ROOM (128ul << 30) /* in a thread's room: behind it, what is no slot */
#define OBJECT_HOMES (WORLD + 60 * THREAD_ROOM)
#define ARENA (WORLD + 61 * THREAD_ROOM)

enum { THREADS_MAX = 16, SLOTS_MAX = 16, OPEN_MAX = 16 };

/* What a page of a slot is. */
enum kind {
	NOTHING,
	ANON,    /* private anonymous */
	PRIVATE, /* private, of an object's file */
	SHARED,  /* an object's */
	SECRET,  /* memfd_secret */
};

enum page_flag {
	GUARD = 1,
	LAZY = 2, /* MADV_FREE: what was there, or zero */
	LOCKED = 4,
	UNKNOWN = 8, /* an operation failed half-way: anything may be there */
};

struct page {
	uint8_t kind, prot, object, flags;
	uint32_t at;    /* page in the object */
	uint64_t value; /* the first and last words; 0: zero, or the file's */
};

struct slot {
	uint8_t *base;
	struct page *pages;
};

enum object_type { MEMFD, TMPFS, DISK, SHARED_ANON, SYSV };

struct object {
	enum object_type type;
	int fd; /* -1: SHARED_ANON, SYSV */
	int shmid;
	uint8_t number;
	bool raced;     /* written by all threads and by the helper: its size never changes */
	uint8_t *home;  /* where all of it is mapped; NULL: nowhere */
	uint32_t pages; /* its size now */
	uint32_t pages_max;
	bool cut;         /* its last page is not whole */
	uint64_t *values; /* of its pages; raced ones have none */
	bool *unknown;
};

struct thread {
	uint8_t number;
	uint64_t random;
	struct slot slots[SLOTS_MAX];
	struct object *own[6];
	unsigned nown;
	struct churn_record *open[OPEN_MAX]; /* records of the operation under way */
	unsigned nopen;
	uint8_t op;
	uint64_t ops;
	uint8_t *scratch; /* a page, and a memfd of a page, to carry contents about */
	int scratch_fd;
	int uffd;
	uint8_t *sparse;
	uint8_t *beside;
	uint8_t *huge;
	bool huge_is_shared;
};

struct churn {
	uint64_t seed;
	unsigned threads, slots, pages; /* pages: of a slot's window */
	unsigned pace_us;
	double seconds;
	bool has_helper;
	bool locks; /* memory */
	const char *dir;
	const char *log_path;
	struct churn_log *log;
	struct object objects[CHURN_OBJECTS_MAX];
	unsigned nobjects, nraced; /* the raced ones come first */
	uint8_t *arena;            /* private, written by all threads */
	unsigned arena_pages;
	atomic_int *stop; /* also for the helper */
	atomic_ullong ops, wrong;
	atomic_uint op_counts[CHURN_OPS_MAX];
};
extern struct churn churn;

/* --- random numbers, by thread ------------------------------------------------------------- */
uint64_t draw(struct thread *t, uint64_t below);
static inline bool chance(struct thread *t, unsigned percent)
{
	return draw(t, 100) < percent;
}

/* --- the log ------------------------------------------------------------------------------- */
/* Notes that the operation is about to do something there. At the end of the operation all its
 * records are ended. */
struct churn_record *note(struct thread *t, const void *address, uint64_t bytes);
struct churn_record *note_object(
	struct thread *t, const struct object *o, uint64_t page, uint64_t n);
void note_end(struct thread *t);

/* --- objects ------------------------------------------------------------------------------- */
bool objects_make(void);
bool objects_make_own(struct thread *t);
/* The helper process: writes raced objects through mappings and descriptors of its own. */
_Noreturn void helper_run(void);

/* --- slots --------------------------------------------------------------------------------- */
struct run {
	struct slot *slot;
	unsigned first, n; /* n 0: none was found */
};
uint8_t *run_start(struct run r);
struct page *run_pages(struct run r);

/* Any stretch of a slot of this thread, mapped or not. */
struct run draw_stretch(struct thread *t, unsigned max);
/* Pages that are one mapping as far as we know: of one kind, protection, object, lock, in order.
 * `kinds` is a mask (1 << ANON | ...), 0 for any. */
struct run draw_run(struct thread *t, unsigned kinds, unsigned max);

bool page_is_writable(const struct page *p);
bool page_is_readable(const struct page *p);
/* Stores into a page so that its first and last words are `value`; `style` says what else. */
void page_fill(struct thread *t, uint8_t *page, uint64_t value, unsigned style);
/* What the model is to know of a store. */
void model_stored(struct page *p, uint64_t value);
void model_clear(struct run r);   /* unmapped */
void model_dropped(struct run r); /* private contents are gone */
void model_unknown(struct run r);
void model_object_dropped(struct object *o, unsigned page, unsigned n);
/* Gives up a stretch of which nothing is known any more. */
void run_give_up(struct run r);
/* Holds a slot's memory against the model. */
void slot_check(struct thread *t, struct slot *s);

/* --- operations ---------------------------------------------------------------------------- */
struct op {
	const char *name;
	unsigned weight; /* 0: only when named by --only */
	void (*run)(struct thread *t);
};
extern const struct op ops[];
extern const unsigned nops;
/* What must be undone at the end of a thread. */
void ops_end(struct thread *t);

#endif
