/* SPDX-License-Identifier: MIT */
/* The roads of one piece: read, copy, look, write. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "bench/limits/limits.h"
#include "tracker/uapi.h"

enum { PLAIN_BYTES = 256 << 20, WRITTEN_BYTES = 256 << 20 };

/* Touched, so that no road pays for its own first use. */
static uint8_t *memory_of_our_own(size_t bytes)
{
	uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		limits_die("get memory");
	memset(p, 7, bytes);
	return p;
}

int road_vm_readv(const struct memory *m, struct took *took)
{
	uint8_t *buffer = memory_of_our_own(STEP_BYTES);
	took->bytes = 0;
	for (size_t i = 0; i < m->nsteps; i++)
		took->bytes += memory_read(m, i, buffer);
	munmap(buffer, STEP_BYTES);
	return 0;
}

int road_proc_mem(const struct memory *m, struct took *took)
{
	uint8_t *buffer = memory_of_our_own(STEP_BYTES);
	took->bytes = 0;
	for (size_t i = 0; i < m->nsteps; i++) {
		for (size_t k = 0; k < m->steps[i].nruns; k++) {
			struct iovec run = m->steps[i].runs[k];
			ssize_t n = pread(
				m->mem_fd, buffer, run.iov_len, (off_t)(uintptr_t)run.iov_base);
			took->bytes += n > 0 ? (uint64_t)n : 0;
		}
	}
	munmap(buffer, STEP_BYTES);
	return 0;
}

/* As many bytes, from memory that is larger than any cache. */
int road_memcpy(const struct memory *m, struct took *took)
{
	uint8_t *plain = memory_of_our_own(PLAIN_BYTES), *buffer = memory_of_our_own(STEP_BYTES);
	took_begin(took);
	for (uint64_t at = 0; at < m->bytes; at += STEP_BYTES) {
		memcpy(buffer, plain + at % PLAIN_BYTES, STEP_BYTES);
		__asm__ volatile("" : : "r"(buffer) : "memory");
	}
	took_end(took);
	munmap(plain, PLAIN_BYTES);
	munmap(buffer, STEP_BYTES);
	return 0;
}

static int store_file(const struct memory *m, char path[static 4096])
{
	snprintf(path, 4096, "%s/limits-%d", m->store, getpid());
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		limits_die(path);
	return fd;
}

int road_store(const struct memory *m, struct took *took)
{
	char path[4096];
	uint8_t *buffer = memory_of_our_own(STEP_BYTES);
	int fd = store_file(m, path);
	uint64_t at = 0;
	took_begin(took);
	for (size_t i = 0; i < m->nsteps; i++) {
		if (pwrite(fd, buffer, m->steps[i].bytes, (off_t)at) < 0)
			limits_die(path);
		at += m->steps[i].bytes;
	}
	took_end(took);
	close(fd);
	unlink(path);
	munmap(buffer, STEP_BYTES);
	return 0;
}

/* What is asked of the kernel about every page in each round. */
int road_scan(const struct memory *m, struct took *took)
{
	struct uapi_page_region regions[512];
	took->bytes = 0;
	for (size_t i = 0; i < m->nstretches; i++) {
		uint64_t start = (uint64_t)(uintptr_t)m->stretches[i].iov_base;
		struct uapi_pm_scan_arg arg = {.size = sizeof(arg),
			.start = start,
			.end = start + m->stretches[i].iov_len,
			.vec = (uint64_t)(uintptr_t)regions,
			.vec_len = sizeof(regions) / sizeof(regions[0]),
			.category_anyof_mask = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED,
			.return_mask = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_WRITTEN};
		while (arg.start < arg.end) {
			if (ioctl(m->pagemap_fd, UAPI_PAGEMAP_SCAN, &arg) < 0)
				return -1;
			arg.start = arg.walk_end;
		}
		took->bytes += m->stretches[i].iov_len;
	}
	return 0;
}

static int watch_and_protect(uint8_t *memory, size_t bytes)
{
	struct uffdio_api api = {.api = UFFD_API,
		.features = UAPI_UFFD_FEATURE_WP_ASYNC | UAPI_UFFD_FEATURE_WP_UNPOPULATED};
	struct uffdio_range range = {(uint64_t)(uintptr_t)memory, bytes};
	struct uffdio_register watched = {.range = range, .mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect protect = {range, UFFDIO_WRITEPROTECT_MODE_WP};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UAPI_UFFD_USER_MODE_ONLY);
	if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0 &&
		ioctl(fd, UFFDIO_REGISTER, &watched) == 0 &&
		ioctl(fd, UFFDIO_WRITEPROTECT, &protect) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static double touch_each_page(uint8_t *memory, size_t bytes)
{
	double began = limits_now();
	for (size_t at = 0; at < bytes; at += LIMITS_PAGE)
		((volatile uint8_t *)memory)[at]++;
	return limits_now() - began;
}

int road_first_write(const struct memory *m, struct took *took)
{
	(void)m;
	uint8_t *memory = memory_of_our_own(WRITTEN_BYTES);
	double plain = touch_each_page(memory, WRITTEN_BYTES);
	int watch = watch_and_protect(memory, WRITTEN_BYTES);
	if (watch >= 0) {
		took->bytes = WRITTEN_BYTES;
		took_begin(took);
		touch_each_page(memory, WRITTEN_BYTES);
		took_end(took);
		took->seconds -= plain;
		close(watch);
	}
	munmap(memory, WRITTEN_BYTES);
	return watch < 0 ? -1 : 0;
}
