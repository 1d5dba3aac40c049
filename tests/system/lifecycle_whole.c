/* SPDX-License-Identifier: MIT */
/* What a process can be as a whole, and what can become of it while it is followed. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/sched.h> /* struct clone_args */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "tests/harness.h"
#include "tests/system/lifecycle.h"
#include "tracker/source.h"
#include "tracker/uapi.h"

enum { PAGE = 4096 };

/* kB, or -1. */
static long status_number(pid_t pid, const char *key)
{
	char path[64], line[256];
	long n = -1;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	FILE *f = fopen(path, "re");
	while (f && n < 0 && fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, strlen(key)) == 0)
			n = strtol(line + strlen(key), NULL, 10);
	}
	if (f)
		fclose(f);
	return n;
}

static bool has_pagemap_scan(void)
{
	struct uapi_pm_scan_arg nothing = {.size = sizeof(nothing)};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	bool has = ioctl(fd, UAPI_PAGEMAP_SCAN, &nothing) == 0 || errno != ENOTTY;
	close(fd);
	return has;
}

/* Is the process as it was: not watched, not stopped, waiting as before? */
static void expect_unharmed(pid_t pid)
{
	/* What is asserted is what ended the waiting: a second look could find it running again. */
	char state;
	while (state = process_state_letter(pid), state == 'R' || state == 'D')
		usleep(100);
	CU_ASSERT_EQUAL(state, 'S');
	CU_ASSERT_FALSE(is_registered(pid));
	CU_ASSERT_EQUAL(count_userfaultfds(pid), 0);
}

/* Whoever was followed is no more: neither a collect nor a freeze takes another for it. */
static void expect_gone(void)
{
	struct tide_error err = {0};
	const struct change_set *changes;
	CU_ASSERT_TRUE(life_source->ops->collect(life_source, &changes, &err) < 0);
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_TARGET_GONE);
	err = (struct tide_error){0};
	CU_ASSERT_TRUE(life_source->ops->freeze(life_source, 5 * NS_PER_S, &err) < 0);
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_TARGET_GONE);
}

static void test_a_sparse_terabyte(const char *backend)
{
	/* Plain reads of pagemap walk every page. */
	bool whole = has_pagemap_scan();
	life_start();
	life_run(whole ? "anon a 268435456 noreserve; small a 0-268435455; fill a "
			 "0-1,1000,123456-123459,9999999,"
			 "200000000,268435455"
		       : "anon a 1048576 noreserve; small a 0-1048575; fill a "
			 "0-1,1000,123456-123459,999999,"
			 "1000000,1048575");
	life_follow(backend);
	life_collect();
	CU_ASSERT_EQUAL(life_written('a'), 10);
	long before = status_number(life_target->pid, "VmPTE:");
	uint64_t longest = 0;
	for (int i = 0; i < 5; i++) {
		life_run("poke a 1000,123457");
		const struct change_set *changes = life_collect();
		CU_ASSERT_EQUAL(life_written('a'), 2);
		if (changes->collect_ns > longest)
			longest = changes->collect_ns;
	}
	life_finish();
	long after = status_number(life_target->pid, "VmPTE:");
	printf("%s, %s: a round takes up to %.1f ms, VmPTE grew by %ld KiB ", backend,
		whole ? "1 TiB" : "4 GiB", (double)longest / NS_PER_MS, after - before);
	/* To arm the holes would cost 2 GiB of page tables; the time is only told. */
	CU_ASSERT_TRUE(after - before < 1024);
}

static void test_thirty_thousand_mappings(const char *backend)
{
	life_start();
	life_run("anon a 30000; small a 0-29999; fill a 0-999; many a 30000");
	life_follow(backend);
	const struct change_set *changes = life_collect();
	CU_ASSERT_EQUAL(life_written('a'), 1000);
	CU_ASSERT_TRUE(changes->mappings.added.len >= 30000);
	uint64_t first = changes->collect_ns;
	life_run("poke a 3,501,20001; anon b 4; fill b 1");
	changes = life_collect();
	CU_ASSERT_EQUAL(life_written('a'), 3);
	CU_ASSERT_EQUAL(life_written('b'), 1);
	CU_ASSERT_EQUAL(changes->mappings.added.len, 1);
	printf("%s: the first round takes %.1f ms, the second %.1f ms ", backend,
		(double)first / NS_PER_MS, (double)changes->collect_ns / NS_PER_MS);
	life_run("poke a 5,29999");
	life_finish();
}

static void test_fork_while_followed(const char *backend)
{
	uint8_t page[PAGE], in_child[PAGE];
	char path[64];
	life_start();
	life_run("anon a 16; fill a 0-9; memfd F 4; map f F 0 4 shared; fill f 0-3");
	life_follow(backend);
	life_collect();
	pid_t child = (pid_t)strtol(life_run("fork"), NULL, 10);
	CU_ASSERT_TRUE_FATAL(child > 0);
	long before = status_number(child, "VmPTE:");

	snprintf(path, sizeof(path), "/proc/%d/mem", child);
	int mem = open(path, O_RDONLY | O_CLOEXEC);
	off_t at = (off_t)(life_areas[0].start + 3 * PAGE);
	CU_ASSERT_EQUAL(pread(mem, page, PAGE, at), PAGE);
	life_run("poke a 3,12");
	life_collect();
	CU_ASSERT_EQUAL(life_written('a'), 2);
	life_run("poke a 4; poke f 1");
	life_collect();
	CU_ASSERT_EQUAL(life_written('a'), 1);

	struct tide_error err = {0};
	CU_ASSERT_EQUAL_FATAL(life_source->ops->freeze(life_source, 5 * NS_PER_S, &err), 0);
	expect_unharmed(child);
	CU_ASSERT_EQUAL(life_source->ops->thaw(life_source, THAW_RUN, &err), 0);
	life_run("poke a 5");
	life_finish();

	CU_ASSERT_EQUAL(pread(mem, in_child, PAGE, at), PAGE);
	close(mem);
	CU_ASSERT_EQUAL(memcmp(page, in_child, PAGE), 0);
	CU_ASSERT_EQUAL(status_number(child, "VmPTE:"), before);
	expect_unharmed(child);
}

static void test_exec_while_followed(const char *backend)
{
	struct tide_error err = {0};
	uint8_t page[PAGE];
	uint64_t got = 0;
	life_start();
	life_run("anon a 16; fill a 0-9");
	life_follow(backend);
	life_collect();
	dprintf(life_target->in, "exec\n");
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(life_target, "ready"));
	life_run("anon a 16; fill a 0-9");
	struct page_span span = {
		.at = life_areas[0].start, .address = life_areas[0].start, .bytes = PAGE};
	CU_ASSERT_TRUE(life_source->ops->read(life_source, &span, 1, page, &got, &err) < 0);
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_TARGET_GONE);
	expect_gone();
	expect_unharmed(life_target->pid);
	life_run("poke a 3");
	life_release();
	life_run("poke a 3");
	expect_unharmed(life_target->pid);
}

static void test_exit_while_followed(const char *backend)
{
	life_start();
	life_run("anon a 16; fill a 0-9");
	life_follow(backend);
	life_collect();
	CU_ASSERT_EQUAL(child_finish(life_target), 0);
	expect_gone();
}

/* Where this user may give a process a number. */
static pid_t start_numbered(pid_t pid)
{
	struct clone_args args = {
		.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&pid, .set_tid_size = 1};
	pid_t made = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (made == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close_range(0, ~0u, 0);
		for (;;)
			pause();
	}
	return made < 0 ? -errno : made;
}

static void test_its_number_is_given_to_another(const char *backend)
{
	life_start();
	life_run("anon a 16; fill a 0-9");
	life_follow(backend);
	life_collect();
	pid_t pid = life_target->pid;
	CU_ASSERT_EQUAL(child_finish(life_target), 0);
	pid_t made = start_numbered(pid);
	if (made < 0)
		harness_skip("cannot give a process a number: %s", strerror(-made));
	/* First it closes what it has of ours, and may sleep in between. */
	char pausing[32];
	snprintf(pausing, sizeof(pausing), "%d 0x", SYS_pause);
	wait_until_in_call(made, pausing);
	expect_gone();
	life_release();
	expect_unharmed(made);
	kill(made, SIGKILL);
	waitpid(made, NULL, 0);
}

/* What nobody else may read cannot be sent: said before anything begins, unless there is nothing
 * in it. */
static void test_secret_memory(const char *backend)
{
	struct tide_error err = {0};
	struct process_source_options options = {.backend = backend, .purpose = "test_lifecycle"};
	char pid[16];
	life_start();
	life_run("secret S 4; map s S 0 4 shared; anon a 4; fill a 0-3");
	life_follow(backend);
	life_collect();
	life_run("poke a 1");
	life_finish();

	const struct change_set *changes;
	life_run("fill s 1-2");
	CU_ASSERT_TRUE(life_source->ops->collect(life_source, &changes, &err) < 0);
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_UNSUPPORTED);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "memfd_secret"));
	life_release();
	CU_ASSERT_TRUE(process_source_open(life_target->pid, &options, &life_source, &err) < 0);
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_UNSUPPORTED);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "memfd_secret"));
	snprintf(pid, sizeof(pid), "%d", life_target->pid);
	struct child *check = child_run(4, fixture_tidemark(), "check", pid, NULL);
	CU_ASSERT_PTR_NOT_NULL(strstr(check->text, "refused: memfd_secret"));
	life_run("ping");
}

/* How many pages of an area are write-protected by a userfaultfd, markers included. */
static uint64_t count_armed(char area)
{
	const struct life_area *a = &life_areas[area - 'a'];
	uint64_t entry, armed = 0;
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/pagemap", life_target->pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	for (uint64_t i = 0; i < a->pages; i++) {
		off_t at = (off_t)((a->start / PAGE + i) * 8);
		CU_ASSERT_EQUAL(pread(fd, &entry, 8, at), 8);
		armed += entry >> 57 & 1;
	}
	close(fd);
	return armed;
}

/* A marker in a locked file mapping can hang the process in the kernel: there must be none. */
static void test_it_locks_memory(const char *backend)
{
	bool arms = strcmp(backend, "uffd-wp") == 0;
	life_start();
	life_run("disk F 16; map f F 0 16 private; fill f 0-9; anon a 16; fill a 0-9");
	life_follow(backend);
	life_collect();
	CU_ASSERT_EQUAL(count_armed('f'), arms ? 10 : 0);
	life_run("madvise f 2-3 dontneed; anon l 1; lock l 0; poke f 5");
	CU_ASSERT_EQUAL(count_armed('f'), arms ? 9 : 0);
	life_collect();
	CU_ASSERT_EQUAL(count_armed('f'), 0);
	CU_ASSERT_EQUAL(count_armed('a'), arms ? 10 : 0);
	life_run("map g F 0 16 private; fill g 3; poke f 6; poke a 3; madvise f 7 dontneed");
	life_collect();
	CU_ASSERT_EQUAL(count_armed('f') + count_armed('g'), 0);
	CU_ASSERT_EQUAL(life_written('a'), 1);
	life_run("poke f 8; poke g 3; lock f 0-15; lock g 0-15");
	life_finish();
}

/* What that leaves where there is no page looks like one that was swapped out. */
static void test_its_own_userfaultfd_arms_holes(const char *backend)
{
	life_start();
	life_run("anon a 16; small a 0-15; fill a 0-9; anon c 16; small c 0-15; fill c 0-9");
	life_follow(backend);
	life_collect();
	/* What our own watches is not to be had. */
	if (strcmp(backend, "soft-dirty") == 0) {
		life_run("madvise a 2-5 dontneed; uffd a 0-15");
		life_collect();
		life_run("poke a 3,8; rearm a 0-15");
		life_collect();
		life_run("madvise a 8 dontneed; rearm a 0-15");
		life_collect();
	}
	life_run("anon b 16 at c+0; fill b 2; poke b 3; uffd b 0-15; poke b 3");
	life_collect();
	life_run("poke b 2,4; rearm b 0-15");
	life_finish();
}

const struct life_test life_tests[] = {
	{"a sparse terabyte", test_a_sparse_terabyte},
	{"thirty thousand mappings", test_thirty_thousand_mappings},
	{"fork while followed", test_fork_while_followed},
	{"exec while followed", test_exec_while_followed},
	{"exit while followed", test_exit_while_followed},
	{"it locks memory", test_it_locks_memory},
	{"its own userfaultfd arms holes", test_its_own_userfaultfd_arms_holes},
	{"its number is given to another", test_its_number_is_given_to_another},
	{"secret memory", test_secret_memory},
	{NULL, NULL},
};
