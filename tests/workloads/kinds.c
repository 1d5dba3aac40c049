/* SPDX-License-Identifier: MIT */
/*
 * Makes memory of many kinds, a known number of pages of each, and stands still.
 *
 *     kinds
 *
 * Prints a line "NAME ADDRESS PAGES" for each: PAGES are those that it made so; 0 where this kernel
 * or user cannot. Then "ready". Each number on standard input makes it write as many of the pages
 * of "armed" that it has not written yet; "written" is the answer. Ends when its input does.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, ROOM = 64, HUGE_BYTES = 2 << 20 };

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#define FEATURE_WP_ASYNC (1u << 15) /* younger than the headers of Debian 12 */
#define USER_MODE_ONLY 1

static void tell(const char *name, const void *start, int pages)
{
	printf("%s %lx %d\n", name, (unsigned long)(uintptr_t)start, pages);
}

/* A mapping that merges with no neighbour: a page without access lies on either side. */
static uint8_t *map_bytes(size_t bytes, int flags, int fd)
{
	uint8_t *outer = mmap(NULL, bytes + 2 * HUGE_BYTES, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *at = (uint8_t *)(((uintptr_t)outer + PAGE + HUGE_BYTES - 1) &
				  ~(uintptr_t)(HUGE_BYTES - 1));
	uint8_t *made = mmap(at, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
	if (outer == MAP_FAILED || made == MAP_FAILED) {
		perror("kinds: mmap");
		exit(1);
	}
	madvise(made, bytes, MADV_NOHUGEPAGE);
	/* The child of "inherited" is to have nothing else. */
	madvise(made, bytes, MADV_DONTFORK);
	return made;
}

static uint8_t *map_private(void)
{
	return map_bytes(ROOM * PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static void write_pages(uint8_t *start, int pages)
{
	for (int i = 0; i < pages; i++)
		memset(start + i * PAGE, 1 + i, PAGE);
}

static void make_written_and_read(void)
{
	uint8_t *p = map_private();
	write_pages(p, 10);
	tell("written", p, 10);
	p = map_private();
	for (int i = 0; i < 20; i++)
		(void)*(volatile uint8_t *)(p + i * PAGE);
	write_pages(p + 30 * PAGE, 5);
	tell("read", p, 20);
}

static void make_huge(void)
{
	uint8_t *p = map_bytes(2 * HUGE_BYTES, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	madvise(p, 2 * HUGE_BYTES, MADV_HUGEPAGE);
	*p = 1;
	tell("huge", p, HUGE_BYTES / PAGE);
	p = map_bytes(2 * HUGE_BYTES, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	madvise(p, 2 * HUGE_BYTES, MADV_HUGEPAGE);
	(void)*(volatile uint8_t *)p;
	tell("huge-read", p, HUGE_BYTES / PAGE);
	p = mmap(NULL, HUGE_BYTES, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (p != MAP_FAILED) {
		madvise(p, HUGE_BYTES, MADV_DONTFORK);
		*p = 1;
	}
	tell("hugetlb", p == MAP_FAILED ? NULL : p, p == MAP_FAILED ? 0 : HUGE_BYTES / PAGE);
}

static void make_guarded(void)
{
	uint8_t *p = map_private();
	write_pages(p, 20);
	tell("guarded", p, madvise(p + 4 * PAGE, 7 * PAGE, MADV_GUARD_INSTALL) == 0 ? 7 : 0);
}

static void make_shared(void)
{
	int fd = memfd_create("kinds", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, ROOM * PAGE) < 0)
		exit(1);
	uint8_t *p = map_bytes(ROOM * PAGE, MAP_SHARED, fd);
	write_pages(p, 12);
	tell("memfd", p, 12);
	uint8_t *twice = map_bytes(ROOM * PAGE, MAP_SHARED, fd);
	(void)*(volatile uint8_t *)twice;
	/* The kernel maps what is around as well, so how many these are is not known. */
	tell("memfd-again", twice, 0);
	uint8_t *copies = map_bytes(ROOM * PAGE, MAP_PRIVATE, fd);
	write_pages(copies, 3);
	tell("memfd-copied", copies, 3);
}

static void make_locked_and_given_up(void)
{
	uint8_t *p = map_private();
	tell("locked", p, mlock(p, 3 * PAGE) == 0 ? 3 : 0);
	p = map_private();
	write_pages(p, ROOM);
	tell("given-up", p, madvise(p, 60 * PAGE, MADV_FREE) == 0 ? 60 : 0);
	p = map_private();
	for (int i = 0; i < ROOM; i++)
		memset(p + i * PAGE, 0x5a, PAGE);
	tell("mergeable", p, madvise(p, ROOM * PAGE, MADV_MERGEABLE) == 0 ? ROOM : 0);
}

/* Pages that a child has too. */
static pid_t make_inherited(void)
{
	uint8_t *p = map_private();
	madvise(p, ROOM * PAGE, MADV_DOFORK);
	write_pages(p, 6);
	pid_t parent = getpid(), child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent)
			pause();
		_exit(0);
	}
	write_pages(p, 2);
	tell("inherited", p, 4);
	return child;
}

static uint8_t *make_armed(void)
{
	enum { ARMED = 32 };
	uint8_t *p = map_private();
	write_pages(p, ARMED);
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY);
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_WP_ASYNC};
	struct uffdio_register r = {
		.range = {(uintptr_t)p, ARMED * PAGE}, .mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect wp = {
		.range = {(uintptr_t)p, ARMED * PAGE}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	/* The descriptor stays open: closing it would take the protection away. */
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &r) < 0 ||
		ioctl(fd, UFFDIO_WRITEPROTECT, &wp) < 0) {
		tell("armed", p, 0);
		return NULL;
	}
	tell("armed", p, ARMED);
	return p;
}

int main(void)
{
	make_written_and_read();
	make_huge();
	make_guarded();
	make_shared();
	make_locked_and_given_up();
	uint8_t *armed = make_armed();
	/* The line must not be in the child's buffer, too. */
	fflush(stdout);
	pid_t child = make_inherited();
	printf("ready\n");
	fflush(stdout);

	char line[32];
	while (fgets(line, sizeof(line), stdin)) {
		for (int n = atoi(line); armed && n > 0; n--, armed += PAGE)
			*armed = 0xff;
		printf("written\n");
		fflush(stdout);
	}
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return 0;
}
