/* SPDX-License-Identifier: MIT */
/* Memory and files that can be mapped more than once, and by more than one process. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "tests/workloads/churn.h"

static const char *const type_names[] = {[MEMFD] = "memfd",
	[TMPFS] = "tmpfs",
	[DISK] = "disk",
	[SHARED_ANON] = "anon",
	[SYSV] = "sysv"};

/* The inode as maps shows it, which is also what names memory that has no descriptor. */
static uint64_t find_inode(const void *address)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[4400];
	unsigned long start, end, inode, found = 0;
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx %*s %*s %*s %lu", &start, &end, &inode) == 3 &&
			start <= (uintptr_t)address && (uintptr_t)address < end)
			found = inode;
	}
	if (f)
		fclose(f);
	return found;
}

static int open_unnamed(const char *dir, unsigned number)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/churn-%d-%u", dir, getpid(), number);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0)
		unlink(path);
	return fd;
}

static bool object_open(struct object *o)
{
	void *at = (void *)(OBJECT_HOMES + o->number * SLOT_ROOM);
	size_t bytes = o->pages_max * PAGE;
	int flags = MAP_SHARED | MAP_FIXED;
	o->fd = o->shmid = -1;
	switch (o->type) {
	case MEMFD:
		o->fd = (int)syscall(SYS_memfd_create, "churn", 1 /* MFD_CLOEXEC */);
		break;
	case TMPFS:
		o->fd = open_unnamed("/dev/shm", o->number);
		break;
	case DISK:
		o->fd = open_unnamed(churn.dir, o->number);
		break;
	case SHARED_ANON:
		flags |= MAP_ANONYMOUS;
		break;
	case SYSV:
		o->shmid = shmget(IPC_PRIVATE, bytes, IPC_CREAT | 0600);
		o->home = o->shmid < 0 ? NULL : shmat(o->shmid, at, 0);
		/* It goes with the last of us. */
		if (o->shmid >= 0)
			shmctl(o->shmid, IPC_RMID, NULL);
		return o->home && o->home != (void *)-1;
	}
	if (o->fd < 0 && o->type != SHARED_ANON)
		return false;
	if (o->fd >= 0 && ftruncate(o->fd, (off_t)bytes) < 0)
		return false;
	/* Of those with a descriptor one in two is always mapped, one is as its slots have it. */
	if (o->fd >= 0 && !o->raced)
		return true;
	o->home = mmap(at, bytes, PROT_READ | PROT_WRITE, flags, o->fd, 0);
	return o->home != MAP_FAILED;
}

static struct object *object_make(enum object_type type, unsigned pages, bool raced)
{
	struct object *o = &churn.objects[churn.nobjects];
	*o = (struct object){.type = type,
		.number = (uint8_t)churn.nobjects,
		.raced = raced,
		.pages = pages,
		.pages_max = pages};
	if (!object_open(o)) {
		fprintf(stderr, "churn: no %s object: %s\n", type_names[type], strerror(errno));
		return NULL;
	}
	if (!raced) {
		o->values = calloc(pages, sizeof(*o->values));
		o->unknown = calloc(pages, sizeof(*o->unknown));
	}
	struct churn_object_name *name = &churn.log->objects[o->number];
	struct stat st;
	snprintf(name->name, sizeof(name->name), "%s%s", raced ? "raced-" : "", type_names[type]);
	if (o->home)
		name->inode = find_inode(o->home);
	else if (fstat(o->fd, &st) == 0)
		name->inode = st.st_ino;
	churn.nobjects++;
	return o;
}

bool objects_make(void)
{
	static const enum object_type raced[] = {MEMFD, TMPFS, SHARED_ANON, SYSV, DISK};
	for (unsigned i = 0; i < sizeof(raced) / sizeof(raced[0]); i++) {
		if (!object_make(raced[i], churn.pages / 4, true))
			return false;
	}
	churn.nraced = churn.nobjects;
	return true;
}

bool objects_make_own(struct thread *t)
{
	static const enum object_type own[] = {MEMFD, TMPFS, DISK, SHARED_ANON, SYSV, SHARED_ANON};
	for (unsigned i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
		t->own[t->nown] = object_make(own[i], churn.pages / 3, false);
		if (!t->own[t->nown++])
			return false;
	}
	return true;
}

/* --- the helper ---------------------------------------------------------------------------- */

static void helper_write(struct thread *t, struct object *o)
{
	unsigned n = 1 + (unsigned)draw(t, 8), first = (unsigned)draw(t, o->pages - n + 1);
	t->op = 0;
	note_object(t, o, first, n)->value = 1;
	for (unsigned i = first; i < first + n; i++) {
		uint64_t value = draw(t, 0) | 1;
		if (o->fd >= 0 && chance(t, 50)) {
			page_fill(t, t->scratch, value, (unsigned)value >> 8);
			if (pwrite(o->fd, t->scratch, PAGE, (off_t)(i * PAGE)) < 0)
				return;
		} else if (chance(t, 30)) {
			((volatile uint64_t *)(o->home + i * PAGE))[draw(t, 512)] = value;
		} else {
			page_fill(t, o->home + i * PAGE, value, (unsigned)value >> 8);
		}
	}
}

static void helper_punch(struct thread *t, struct object *o)
{
	unsigned n = 1 + (unsigned)draw(t, 16), first = (unsigned)draw(t, o->pages - n + 1);
	note_object(t, o, first, n)->value = 2;
	if (o->fd >= 0 && chance(t, 50))
		fallocate(o->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(first * PAGE),
			(off_t)(n * PAGE));
	else
		madvise(o->home + first * PAGE, n * PAGE, MADV_REMOVE);
}

void helper_run(void)
{
	struct thread t = {.number = 255, .random = churn.seed ^ 0x68656c706572ull};
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	t.scratch = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	while (!atomic_load(churn.stop)) {
		struct object *o = &churn.objects[draw(&t, churn.nraced)];
		if (chance(&t, 90))
			helper_write(&t, o);
		else
			helper_punch(&t, o);
		note_end(&t);
		usleep((useconds_t)draw(&t, 2 * churn.pace_us + 1));
	}
	_exit(0);
}
