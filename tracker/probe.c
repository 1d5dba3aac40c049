/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "base/error.h"
#include "base/guard.h"
#include "tracker/backend.h"
#include "tracker/probe.h"
#include "tracker/scan.h"

static bool yes(char *detail, size_t size, const char *text)
{
	snprintf(detail, size, "%s", text);
	return true;
}

static bool no(char *detail, size_t size, const char *text, int error)
{
	snprintf(detail, size, "%s%s%s", text, error ? ": " : "",
		error ? strerrordesc_np(error) : "");
	return false;
}

static bool ask_backend(const char *name, char *detail, size_t size)
{
	for (size_t i = 0; backends[i]; i++) {
		struct tide_error why = {0};
		if (strcmp(backends[i]->name, name) != 0)
			continue;
		if (backends[i]->probe(&why) == 0)
			return yes(detail, size, backends[i]->about);
		return no(detail, size, why.text, 0);
	}
	return no(detail, size, "not built in", 0);
}

static bool ask_tracking(char *detail, size_t size)
{
	const struct backend_ops *backend;
	if (backend_choose("auto", &backend, NULL) < 0)
		return no(detail, size, "by none of the ways below", 0);
	snprintf(detail, size, "by %s, where --backend does not say otherwise", backend->name);
	return true;
}

static bool ask_uffd_wp(char *detail, size_t size)
{
	return ask_backend("uffd-wp", detail, size);
}

static int note_categories(void *arg, const struct uapi_page_region *region)
{
	*(uint64_t *)arg |= region->categories;
	return 0;
}

static bool ask_guard(char *detail, size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	auto_close int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	void *memory = mmap(NULL, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fd < 0 || memory == MAP_FAILED)
		return no(detail, size, "look at a page of its own", errno);
	struct scan_query q = {.pagemap_fd = fd,
		.unpaused = true,
		.anyof = UAPI_PAGE_IS_PRESENT | UAPI_PAGE_IS_SWAPPED,
		.returned = UAPI_PAGE_IS_GUARD};
	uint64_t is = 0, at = (uintptr_t)memory;
	bool there = madvise(memory, page, UAPI_MADV_GUARD_INSTALL) == 0;
	int r = scan_range(&q, at, at + page, note_categories, &is);
	munmap(memory, page);
	if (!there)
		return no(detail, size, "this kernel has none", 0);
	if (r == 0 && is & UAPI_PAGE_IS_GUARD)
		return yes(detail, size, "guard pages are told from swapped ones");
	return no(detail, size, "guard pages look like swapped ones", 0);
}

static bool ask_soft_dirty(char *detail, size_t size)
{
	return ask_backend("soft-dirty", detail, size);
}

static bool ask_vm_readv(char *detail, size_t size)
{
	int here = 42, there = 0;
	struct iovec local = {&there, sizeof(there)}, remote = {&here, sizeof(here)};
	if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == sizeof(there) && there == 42)
		return yes(detail, size, "the fast road for readable pages");
	return no(detail, size, "pages are read through /proc/PID/mem alone", errno);
}

/* A child of ours, stopped and let go: whether *other* processes may be is for `check PID` to say.
 */
static bool ask_ptrace(char *detail, size_t size)
{
	pid_t child = fork();
	if (child == 0) {
		for (;;)
			pause();
	}
	if (child < 0)
		return no(detail, size, "fork", errno);
	int error = ptrace(PTRACE_SEIZE, child, 0, 0) < 0 ? errno : 0;
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	if (error)
		return no(detail, size, "not even of its own children", error);
	int scope = 0;
	auto_fclose FILE *f = fopen("/proc/sys/kernel/yama/ptrace_scope", "re");
	if (f && fscanf(f, "%d", &scope) == 1 && scope > 0 && geteuid() != 0)
		return yes(detail, size, "of children only (kernel.yama.ptrace_scope)");
	return yes(
		detail, size, geteuid() == 0 ? "of any process" : "of processes of the same user");
}

static bool ask_map_files(char *detail, size_t size)
{
	char name[96];
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uint8_t *memory = mmap(NULL, page, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return no(detail, size, "map a page", errno);
	snprintf(name, sizeof(name), "/proc/self/map_files/%" PRIxPTR "-%" PRIxPTR,
		(uintptr_t)memory, (uintptr_t)memory + page);
	auto_close int fd = open(name, O_RDONLY | O_CLOEXEC);
	int error = errno;
	munmap(memory, page);
	if (fd >= 0)
		return yes(detail, size, "shared memory that only others touched is seen");
	return no(detail, size,
		"of shared memory only what the process itself touched is seen "
		"(CAP_CHECKPOINT_RESTORE)",
		error);
}

static bool ask_suspend_seccomp(char *detail, size_t size)
{
	auto_fclose FILE *f = fopen("/proc/self/status", "re");
	char line[128];
	uint64_t caps = 0;
	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "CapEff: %" SCNx64, &caps);
	if (caps >> CAP_SYS_ADMIN & 1)
		return yes(detail, size,
			"a filter that forbids userfaultfd is suspended for the moment it takes");
	return no(detail, size, "needs CAP_SYS_ADMIN", 0);
}

const struct probe probes[] = {
	{"tracking", "Can writes be tracked at all?", true, ask_tracking},
	{"uffd-wp", "Can writes be tracked by userfaultfd?", false, ask_uffd_wp},
	{"soft-dirty", "Can writes be tracked by soft-dirty bits?", false, ask_soft_dirty},
	{"guard-pages", "Are guard pages reported?", false, ask_guard},
	{"ptrace", "May processes be stopped?", true, ask_ptrace},
	{"process_vm_readv", "May memory be read in bulk?", false, ask_vm_readv},
	{"map_files", "May shared objects be asked for their data?", false, ask_map_files},
	{"seccomp", "May processes under a seccomp filter be followed?", false,
		ask_suspend_seccomp},
	{NULL, NULL, false, NULL},
};
