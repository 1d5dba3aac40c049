/* SPDX-License-Identifier: MIT */
/* Scans of page tables: the ioctl and the plain reads that stand in for it say the same. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/harness.h"
#include "tests/system/no_pagemap_scan.h"
#include "tracker/backend.h"
#include "tracker/pagemap.h"
#include "tracker/scan.h"

#define PAGE 4096ul
#define PAGES 64
#define FILE_PAGES 8

static uint8_t *anon, *file;
static int pagemap, file_fd;

/* Written, merely read, untouched, dropped; and of a file: untouched, read, copied. */
static void setup(void)
{
	char path[] = "/tmp/tidemark-scan-XXXXXX";
	file_fd = mkstemp(path);
	CU_ASSERT_TRUE_FATAL(
		file_fd >= 0 && unlink(path) == 0 && ftruncate(file_fd, FILE_PAGES * PAGE) == 0);
	anon = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	file = mmap(NULL, FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file_fd, 0);
	pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	CU_ASSERT_TRUE_FATAL(anon != MAP_FAILED && file != MAP_FAILED && pagemap >= 0);
	madvise(anon, PAGES * PAGE, MADV_NOHUGEPAGE);
	madvise(file, FILE_PAGES * PAGE, MADV_RANDOM);
	memset(anon + 3 * PAGE, 1, 20 * PAGE);
	madvise(anon + 10 * PAGE, 4 * PAGE, MADV_DONTNEED);
	*(volatile uint8_t *)(anon + 12 * PAGE);
	*(volatile uint8_t *)(anon + 40 * PAGE);
	anon[63 * PAGE] = 1;
	*(volatile uint8_t *)(file + 2 * PAGE);
	file[5 * PAGE] = 1;
}

static void teardown(void)
{
	munmap(anon, PAGES * PAGE);
	munmap(file, FILE_PAGES * PAGE);
	close(pagemap);
	close(file_fd);
}

/* The categories of each page, as a scan tells them; 0xff: not told. */
static int note(void *arg, const struct uapi_page_region *region)
{
	uint8_t **at = arg;
	for (uint64_t page = region->start; page < region->end; page += PAGE)
		(*at)[(page - (uintptr_t)at[1]) / PAGE] = (uint8_t)region->categories;
	return 0;
}

static int scan(uint8_t *memory, size_t pages, struct scan_query q, uint8_t *ret)
{
	uint8_t *at[2] = {ret, memory};
	memset(ret, 0xff, pages);
	q.pagemap_fd = pagemap;
	return scan_range(&q, (uintptr_t)memory, (uintptr_t)memory + pages * PAGE, note, at);
}

/* Runs the scan again in a child of ours, which shares the pages' state but not the ioctl. */
static void expect_same_without_ioctl(uint8_t *memory, size_t pages, struct scan_query q)
{
	uint8_t is[PAGES], *without = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CU_ASSERT_TRUE_FATAL(without != MAP_FAILED);
	int r = scan(memory, pages, q, is);
	if (r == -EOPNOTSUPP)
		harness_skip("this kernel has no PAGEMAP_SCAN to compare with");
	CU_ASSERT_EQUAL(r, 0);
	pid_t child = fork();
	if (child == 0) {
		/* `pagemap` is the parent's: its pages are looked at, not ours. */
		r = no_pagemap_scan();
		_exit(r < 0 ? 77 : scan(memory, pages, q, without) != 0);
	}
	int status;
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	if (WEXITSTATUS(status) == 77) {
		munmap(without, PAGE);
		harness_skip("system calls cannot be filtered here");
	}
	CU_ASSERT_EQUAL(status, 0);
	CU_ASSERT_EQUAL(memcmp(is, without, pages), 0);
	for (size_t i = 0; i < pages; i++) {
		if (is[i] != without[i])
			printf("page %zu: %02x by the ioctl, %02x by reads\n", i, is[i],
				without[i]);
	}
	munmap(without, PAGE);
}

static void test_plain_reads_find_what_the_ioctl_finds(void)
{
	struct scan_query populated = {
		.anyof = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED,
		.returned = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED | UAPI_PAGE_IS_FILE |
			    UAPI_PAGE_IS_WRITTEN,
	};
	expect_same_without_ioctl(anon, PAGES, populated);
	expect_same_without_ioctl(file, FILE_PAGES, populated);
}

static void test_so_they_do_with_masks(void)
{
	struct scan_query all_of = {
		.mask = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_FILE, .returned = UAPI_PAGE_IS_FILE};
	struct scan_query absent = {.inverted = UAPI_PAGE_IS_PRESENT,
		.mask = UAPI_PAGE_IS_PRESENT,
		.returned = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_FILE};
	expect_same_without_ioctl(file, FILE_PAGES, all_of);
	expect_same_without_ioctl(anon, PAGES, absent);
}

static void test_what_plain_reads_cannot_tell_is_refused(void)
{
	uint8_t is[PAGES];
	pid_t child = fork();
	if (child == 0) {
		struct scan_query written = {
			.mask = UAPI_PAGE_IS_WRITTEN, .returned = UAPI_PAGE_IS_WRITTEN};
		struct scan_query protect = {.anyof = UAPI_PAGE_IS_PRESENT, .protect = true};
		if (no_pagemap_scan() < 0)
			_exit(77);
		_exit(scan(anon, PAGES, written, is) != -EOPNOTSUPP ||
			scan(anon, PAGES, protect, is) != -EOPNOTSUPP);
	}
	int status;
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	if (WEXITSTATUS(status) == 77)
		harness_skip("system calls cannot be filtered here");
	CU_ASSERT_EQUAL(status, 0);
}

/* A page that is not ours alone may be the zero page; one of our own is not. */
static void test_what_may_be_the_zero_page(void)
{
	uint64_t entries[PAGES];
	CU_ASSERT_EQUAL_FATAL(pagemap_read(pagemap, (uintptr_t)anon, entries, PAGES), PAGES);
	CU_ASSERT_TRUE((entries[3] & PAGEMAP_EXCLUSIVE) != 0);
	CU_ASSERT_TRUE((entries[12] & PAGEMAP_PRESENT) != 0);
	CU_ASSERT_TRUE((entries[12] & PAGEMAP_EXCLUSIVE) == 0);
	uint8_t is[PAGES] = {0}, *at[2] = {is, anon};
	struct scan_query q = {
		.pagemap_fd = pagemap, .anyof = SCAN_MAYBE_ZERO, .returned = UAPI_PAGE_IS_PRESENT};
	CU_ASSERT_EQUAL(
		pagemap_scan(&q, (uintptr_t)anon, (uintptr_t)anon + PAGES * PAGE, note, at), 0);
	for (size_t i = 0; i < PAGES; i++)
		CU_ASSERT_EQUAL(is[i] != 0, i == 12 || i == 40);
}

/* Which way there is to track writes is found out by trying. */
static void test_without_the_ioctl_uffd_wp_is_absent(void)
{
	pid_t child = fork();
	if (child == 0) {
		struct tide_error err = {0};
		const struct backend_ops *backend;
		if (no_pagemap_scan() < 0)
			_exit(77);
		int r = backend_choose("uffd-wp", &backend, &err);
		_exit(r == 0 || err.kind != TIDE_ERROR_UNSUPPORTED);
	}
	int status;
	CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
	if (WEXITSTATUS(status) == 77)
		harness_skip("system calls cannot be filtered here");
	CU_ASSERT_EQUAL(status, 0);
}

static const struct test tests[] = {
	TEST(test_plain_reads_find_what_the_ioctl_finds),
	TEST(test_so_they_do_with_masks),
	TEST(test_what_plain_reads_cannot_tell_is_refused),
	TEST(test_what_may_be_the_zero_page),
	TEST(test_without_the_ioctl_uffd_wp_is_absent),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "scan", tests, setup, teardown);
}
