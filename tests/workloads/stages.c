/* SPDX-License-Identifier: MIT */
/*
 * Memory in known states, step by step on command.
 *
 *     stages FOLDER
 *
 * Reads a command a line, does it, and answers with one line: "ok ..."; "cannot ..." where this
 * kernel or user has not got it; "failed ...". While it waits for the next it changes nothing. Ends
 * with its input. Files are made in FOLDER.
 *
 * A piece of memory ("area") has a small letter and, unless told otherwise (`at b+3`), a home of
 * its own, far from the others; "ok a ADDRESS PAGES" tells where. What can be mapped has a capital
 * letter. Pages are listed as in "2-5,9".
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, ARGS_MAX = 16 };
enum result { DONE, CANNOT, FAILED };

/* What the C library's headers may not know yet. */
enum { ADVICE_COLLAPSE = 25, ADVICE_GUARD_INSTALL = 102, ADVICE_GUARD_REMOVE = 103 };
enum { MAPPING_DROPPABLE = 0x08, REMAP_KEEP = 4, UFFD_USER = 1, UFFD_ASYNC = 1 << 15 };

#define HOME_FIRST 0x100000000000ull
#define HOME_STEP 0x020000000000ull

struct area {
	uint8_t *at;
	size_t pages;
};

static struct area areas[26];
static int objects[26];
static char *args[ARGS_MAX + 1]; /* of the running command, without its name; then NULLs */
static const char *folder;
static char reply[256];
static uint64_t version; /* of contents: never the same twice */

static uint8_t *home(char name)
{
	return (uint8_t *)(uintptr_t)(HOME_FIRST + (uint64_t)(name - 'a') * HOME_STEP);
}

static struct area *area(const char *name)
{
	return &areas[name[0] - 'a'];
}

static int *object(const char *name)
{
	return &objects[name[0] - 'A'];
}

static size_t number(const char *text)
{
	return text ? strtoul(text, NULL, 10) : 0;
}

static int has(const char *option)
{
	for (int i = 0; args[i]; i++) {
		if (strcmp(args[i], option) == 0)
			return i + 1;
	}
	return 0;
}

/* "b+3" */
static uint8_t *place(const char *text)
{
	struct area *a = area(text);
	return (a->at ? a->at : home(text[0])) + number(text + 2) * PAGE;
}

/* The first run of pages in a list, which is moved on; 0 at its end. */
static size_t next_run(const char **list, const struct area *a, uint8_t **ret_at)
{
	char *end;
	if (!**list)
		return 0;
	size_t first = strtoul(*list, &end, 10), last = first;
	if (*end == '-')
		last = strtoul(end + 1, &end, 10);
	*list = *end == ',' ? end + 1 : end;
	*ret_at = a->at + first * PAGE;
	return last - first + 1;
}

static enum result tell(const char *name, void *at, size_t pages)
{
	if (at == MAP_FAILED)
		return FAILED;
	*area(name) = (struct area){at, pages};
	snprintf(reply, sizeof(reply), "%s %p %zu", name, at, pages);
	return DONE;
}

static void *map(const char *name, size_t pages, int prot, int flags, int fd, size_t first)
{
	int at = has("at");
	uint8_t *where = at ? place(args[at]) : home(name[0]);
	return mmap(where, pages * PAGE, prot, flags | (at ? MAP_FIXED : MAP_FIXED_NOREPLACE), fd,
		(off_t)(first * PAGE));
}

static int protection(const char *text)
{
	return (strchr(text, 'r') ? PROT_READ : 0) | (strchr(text, 'w') ? PROT_WRITE : 0) |
	       (strchr(text, 'x') ? PROT_EXEC : 0);
}

/* anon A PAGES [shared] [noreserve] [hugetlb] [droppable] [at B+N] */
static enum result do_anon(void)
{
	int flags = MAP_ANONYMOUS;
	flags |= has("shared") ? MAP_SHARED : has("droppable") ? MAPPING_DROPPABLE : MAP_PRIVATE;
	flags |= has("noreserve") ? MAP_NORESERVE : 0;
	flags |= has("hugetlb") ? MAP_HUGETLB : 0;
	void *at = map(args[0], number(args[1]), PROT_READ | PROT_WRITE, flags, -1, 0);
	if (at == MAP_FAILED && (has("hugetlb") || has("droppable")))
		return CANNOT;
	return tell(args[0], at, number(args[1]));
}

/* map A F FIRST PAGES private|shared [ro] [at B+N] */
static enum result do_map(void)
{
	void *at = map(args[0], number(args[3]), has("ro") ? PROT_READ : PROT_READ | PROT_WRITE,
		has("private") ? MAP_PRIVATE : MAP_SHARED, *object(args[1]), number(args[2]));
	if (at == MAP_FAILED && errno == ENOMEM) /* of huge pages */
		return CANNOT;
	return tell(args[0], at, number(args[3]));
}

/* Contents that tell the page, and when it was written. */
static void make_page(uint64_t *words, size_t page)
{
	for (size_t i = 0; i < WORDS; i++)
		words[i] = (version * 0x9e3779b97f4a7c15ull) ^ (page << 20) ^ i;
}

/* fill A PAGES: whole */
static enum result fill(uint8_t *at, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		make_page((uint64_t *)(void *)(at + i * PAGE), i);
	return DONE;
}

/* same A PAGES: pages that are all alike */
static enum result fill_same(uint8_t *at, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		make_page((uint64_t *)(void *)(at + i * PAGE), 0);
	return DONE;
}

/* poke A PAGES: a byte of each */
static enum result poke(uint8_t *at, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		((volatile uint8_t *)at)[i * PAGE + version * 61 % PAGE]++;
	return DONE;
}

/* zero A PAGES: written, with zeros */
static enum result zero(uint8_t *at, size_t pages)
{
	memset(at, 0, pages * PAGE);
	return DONE;
}

/* read A PAGES: a byte of each */
static enum result read_pages(uint8_t *at, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		(void)*(volatile uint8_t *)(at + i * PAGE);
	return DONE;
}

/* madvise A PAGES ADVICE. The advice that only some kernels know may be refused. */
static enum result advise(uint8_t *at, size_t pages)
{
	static const struct {
		const char *name;
		int advice, optional;
	} known[] = {
		{"dontneed", MADV_DONTNEED, 0},
		{"free", MADV_FREE, 0},
		{"remove", MADV_REMOVE, 0},
		{"huge", MADV_HUGEPAGE, 1},
		{"mergeable", MADV_MERGEABLE, 1},
		{"unmergeable", MADV_UNMERGEABLE, 1},
		{"guard", ADVICE_GUARD_INSTALL, 1},
		{"unguard", ADVICE_GUARD_REMOVE, 1},
	};
	size_t k = 0;
	while (strcmp(known[k].name, args[2]) != 0)
		k++;
	if (madvise(at, pages * PAGE, known[k].advice) == 0)
		return DONE;
	return known[k].optional ? CANNOT : FAILED;
}

/* small A PAGES: no huge pages, where there are such */
static enum result keep_small(uint8_t *at, size_t pages)
{
	(void)madvise(at, pages * PAGE, MADV_NOHUGEPAGE);
	return DONE;
}

/* collapse A PAGES: into a huge page, where the kernel will */
static enum result collapse(uint8_t *at, size_t pages)
{
	(void)madvise(at, pages * PAGE, ADVICE_COLLAPSE);
	return DONE;
}

static size_t count_entries(const uint8_t *at, size_t pages, uint64_t bits)
{
	size_t n = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	for (size_t i = 0; i < pages; i++) {
		uint64_t entry = 0;
		(void)!pread(fd, &entry, 8, (off_t)(((uintptr_t)at / PAGE + i) * 8));
		n += (entry & bits) != 0;
	}
	close(fd);
	return n;
}

/* pageout A PAGES: reclaimed, whatever it takes; a page just used may need to be asked for twice */
static enum result page_out(uint8_t *at, size_t pages)
{
	for (int left = 10; count_entries(at, pages, 1ull << 63); left--) {
		errno = EBUSY;
		if (left == 0)
			return CANNOT;
		madvise(at, pages * PAGE, MADV_PAGEOUT);
	}
	return DONE;
}

/* swapped A PAGES: are they? */
static enum result check_swapped(uint8_t *at, size_t pages)
{
	errno = ENOSPC;
	return count_entries(at, pages, 1ull << 62) == pages ? DONE : CANNOT;
}

static enum result unmap(uint8_t *at, size_t pages)
{
	return munmap(at, pages * PAGE) < 0 ? FAILED : DONE;
}

/* lock A PAGES */
static enum result lock(uint8_t *at, size_t pages)
{
	return mlock(at, pages * PAGE) < 0 ? CANNOT : DONE;
}

/* protect A PAGES rwx */
static enum result protect(uint8_t *at, size_t pages)
{
	return mprotect(at, pages * PAGE, protection(args[2])) < 0 ? FAILED : DONE;
}

/* move A PAGES B+N [keep]: the second area begins there now */
static enum result move(uint8_t *at, size_t pages)
{
	char name[2] = {args[2][0], 0};
	void *to = mremap(at, pages * PAGE, pages * PAGE,
		MREMAP_MAYMOVE | MREMAP_FIXED | (has("keep") ? REMAP_KEEP : 0), place(args[2]));
	if (to == MAP_FAILED)
		return FAILED;
	return area(name)->at ? DONE : tell(name, to, pages);
}

/* resize A PAGES: in place */
static enum result do_resize(void)
{
	struct area *a = area(args[0]);
	return tell(args[0], mremap(a->at, a->pages * PAGE, number(args[1]) * PAGE, 0),
		number(args[1]));
}

/* brk A PAGES: the heap is that long, from its first whole page */
static enum result do_brk(void)
{
	struct area *a = area(args[0]);
	if (!a->at)
		a->at = (uint8_t *)(((uintptr_t)sbrk(0) + PAGE - 1) & ~(uintptr_t)(PAGE - 1));
	if (brk(a->at + number(args[1]) * PAGE) < 0)
		return FAILED;
	return tell(args[0], a->at, number(args[1]));
}

/* Writes into stack that was never used. */
static __attribute__((noinline)) uintptr_t use_stack(size_t pages)
{
	volatile uint8_t piece[PAGE];
	memset((uint8_t *)(uintptr_t)piece, (int)(0x40 + pages), PAGE);
	return pages ? use_stack(pages - 1) + piece[7] : piece[9];
}

static enum result do_stack(void)
{
	use_stack(number(args[0]));
	return DONE;
}

static enum result keep(const char *name, int fd, size_t pages)
{
	if (fd < 0 || (pages && ftruncate(fd, (off_t)(pages * PAGE)) < 0))
		return FAILED;
	/* Out of the way of what comes and goes. */
	*object(name) = fcntl(fd, F_DUPFD_CLOEXEC, 100 + name[0] - 'A');
	close(fd);
	return *object(name) < 0 ? FAILED : DONE;
}

/* pwrite F PAGES: write(2), not a mapping */
static enum result do_pwrite(void)
{
	const struct area none = {0};
	uint8_t *at;
	uint64_t page[WORDS];
	size_t pages;
	version++;
	for (const char *list = args[1]; (pages = next_run(&list, &none, &at));) {
		for (size_t i = 0; i < pages; i++) {
			make_page(page, i);
			if (pwrite(*object(args[0]), page, PAGE,
				    (off_t)(uintptr_t)(at + i * PAGE)) != PAGE)
				return FAILED;
		}
	}
	return DONE;
}

static enum result make_file(const char *where, int kept)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/stages-%d-XXXXXX", where, getpid());
	int fd = mkstemp(path);
	if (fd >= 0 && !kept)
		unlink(path);
	return keep(args[0], fd, number(args[1]));
}

/* disk F PAGES: full of something */
static enum result do_disk(void)
{
	static char all[32];
	snprintf(all, sizeof(all), "0-%zu", number(args[1]) - 1);
	if (make_file(folder, 1) != DONE)
		return FAILED;
	args[1] = all;
	return do_pwrite();
}

/* tmpfs F PAGES: empty, without a name, so that nothing stays behind */
static enum result do_tmpfs(void)
{
	return make_file("/dev/shm", 0);
}

/* memfd F PAGES [hugetlb] */
static enum result do_memfd(void)
{
	int fd = memfd_create("stages", has("hugetlb") ? MFD_HUGETLB | MFD_CLOEXEC : MFD_CLOEXEC);
	if (fd < 0)
		return CANNOT;
	return keep(args[0], fd, number(args[1]));
}

/* device F PATH */
static enum result do_device(void)
{
	int fd = open(args[1], O_RDWR | O_CLOEXEC);
	return fd < 0 ? CANNOT : keep(args[0], fd, 0);
}

/* secret F PAGES */
static enum result do_secret(void)
{
	int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
	return fd < 0 ? CANNOT : keep(args[0], fd, number(args[1]));
}

/* sysv A PAGES */
static enum result do_sysv(void)
{
	int id = shmget(IPC_PRIVATE, number(args[1]) * PAGE, IPC_CREAT | 0600);
	if (id < 0)
		return CANNOT;
	void *at = shmat(id, home(args[0][0]), 0);
	shmctl(id, IPC_RMID, NULL);
	return tell(args[0], at, number(args[1]));
}

/* adopt F PATH: another process's, by its descriptor or mapping */
static enum result do_adopt(void)
{
	return keep(args[0], open(args[1], O_RDWR | O_CLOEXEC), 0);
}

/* reopen G F: for reading alone */
static enum result do_reopen(void)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", *object(args[1]));
	return keep(args[0], open(path, O_RDONLY | O_CLOEXEC), 0);
}

static enum result do_truncate(void)
{
	return ftruncate(*object(args[0]), (off_t)(number(args[1]) * PAGE)) < 0 ? FAILED : DONE;
}

/* punch F PAGES */
static enum result do_punch(void)
{
	const struct area none = {0};
	uint8_t *at;
	const char *list = args[1];
	size_t pages = next_run(&list, &none, &at);
	return fallocate(*object(args[0]), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		       (off_t)(uintptr_t)at, (off_t)(pages * PAGE)) < 0
		       ? FAILED
		       : DONE;
}

static int perf_open(void)
{
	struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.exclude_kernel = 1};
	return (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}

static int packet_open(void)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	struct tpacket_req ring = {.tp_block_size = 4 * PAGE,
		.tp_block_nr = 2,
		.tp_frame_size = 2048,
		.tp_frame_nr = 16};
	if (fd >= 0 && setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int uring_open(void)
{
	uint32_t params[30] = {0};
	return (int)syscall(SYS_io_uring_setup, 4, params);
}

/* ring A perf|packet|uring: memory that the kernel writes */
static enum result do_ring(void)
{
	int fd = has("perf") ? perf_open() : has("packet") ? packet_open() : uring_open();
	size_t pages = has("perf") ? 9 : has("packet") ? 8 : 1;
	if (fd < 0)
		return CANNOT;
	/* io_uring wants no say in where. */
	void *at = mmap(has("uring") ? NULL : home(args[0][0]), pages * PAGE,
		PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return at == MAP_FAILED ? CANNOT : tell(args[0], at, pages);
}

static enum result do_aio(void)
{
	uint64_t context = 0;
	return syscall(SYS_io_setup, 4, &context) < 0 ? CANNOT : DONE;
}

static int own_uffd = -1;

/* rearm A PAGES: its own userfaultfd forgets what was written */
static enum result rearm(uint8_t *at, size_t pages)
{
	struct uffdio_writeprotect wp = {.range = {.start = (uintptr_t)at, .len = pages * PAGE},
		.mode = UFFDIO_WRITEPROTECT_MODE_WP};
	return ioctl(own_uffd, UFFDIO_WRITEPROTECT, &wp) < 0 ? FAILED : DONE;
}

/* uffd A PAGES: watched by a userfaultfd of its own, kept open */
static enum result watch_own(uint8_t *at, size_t pages)
{
	own_uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER);
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_ASYNC};
	if (own_uffd < 0 || ioctl(own_uffd, UFFDIO_API, &api) < 0)
		return CANNOT;
	struct uffdio_register reg = {
		.range = {.start = (uintptr_t)at, .len = pages * PAGE},
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	return ioctl(own_uffd, UFFDIO_REGISTER, &reg) < 0 ? CANNOT : rearm(at, pages);
}

/* many A PAGES: each page of it becomes a mapping */
static enum result do_many(void)
{
	struct area *a = area(args[0]);
	for (size_t i = 0; i < a->pages; i += 2) {
		if (mprotect(a->at + i * PAGE, PAGE, PROT_READ) < 0)
			return FAILED;
	}
	return DONE;
}

/* A number that the kernel keeps of an area, or of the process, in kB. */
static long kept_number(const char *path, const char *key, const char *from)
{
	char line[512];
	long n = -1;
	FILE *f = fopen(path, "re");
	int seen = from[0] == '\0';
	while (f && n < 0 && fgets(line, sizeof(line), f)) {
		seen |= strncmp(line, from, strlen(from)) == 0;
		if (seen && strncmp(line, key, strlen(key)) == 0)
			n = strtol(line + strlen(key), NULL, 10);
	}
	if (f)
		fclose(f);
	return n;
}

/* is-huge A: has it a huge page? */
static enum result do_is_huge(void)
{
	char from[32];
	snprintf(from, sizeof(from), "%lx-", (unsigned long)(uintptr_t)area(args[0])->at);
	errno = ENOMEM;
	return kept_number("/proc/self/smaps", "AnonHugePages:", from) > 0 ? DONE : CANNOT;
}

/* await-ksm PAGES: until that many are merged */
static enum result do_await_ksm(void)
{
	for (int i = 0; i < 300; i++) {
		char text[32] = "";
		int fd = open("/proc/self/ksm_merging_pages", O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return CANNOT;
		(void)!read(fd, text, sizeof(text) - 1);
		close(fd);
		if (number(text) >= number(args[0]))
			return DONE;
		usleep(10000);
	}
	errno = ETIMEDOUT;
	return CANNOT;
}

/* fork: the child waits; "ok PID" */
static enum result do_fork(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	snprintf(reply, sizeof(reply), "%d", pid);
	return pid < 0 ? FAILED : DONE;
}

/* twin A B FIRST PAGES: maps what is shared in B once more, without a descriptor */
static enum result do_twin(void)
{
	void *at = mremap(area(args[1])->at + number(args[2]) * PAGE, 0, number(args[3]) * PAGE,
		MREMAP_MAYMOVE | MREMAP_FIXED, home(args[0][0]));
	return tell(args[0], at, number(args[3]));
}

static enum result run_words(const char *name);

/* child COMMAND...: a child does it, and is gone before the answer */
static enum result do_child(void)
{
	int status = 0;
	const char *name = args[0];
	pid_t pid = fork();
	if (pid == 0) {
		memmove(args, args + 1, sizeof(args) - sizeof(args[0]));
		_exit(run_words(name));
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return FAILED;
	return WIFEXITED(status) ? (enum result)WEXITSTATUS(status) : FAILED;
}

/* exec: another program, which is this one */
static enum result do_exec(void)
{
	execl("/proc/self/exe", "stages", folder, NULL);
	return FAILED;
}

static enum result do_exit(void)
{
	_exit(0);
}

static enum result do_ping(void)
{
	return DONE;
}

static const struct {
	const char *name;
	enum result (*fn)(void);
	enum result (*each)(uint8_t *at, size_t pages); /* for each run of pages: A PAGES ... */
} commands[] = {
	{"adopt", do_adopt, NULL},
	{"aio", do_aio, NULL},
	{"anon", do_anon, NULL},
	{"await-ksm", do_await_ksm, NULL},
	{"brk", do_brk, NULL},
	{"child", do_child, NULL},
	{"device", do_device, NULL},
	{"collapse", NULL, collapse},
	{"disk", do_disk, NULL},
	{"exec", do_exec, NULL},
	{"exit", do_exit, NULL},
	{"fill", NULL, fill},
	{"fork", do_fork, NULL},
	{"is-huge", do_is_huge, NULL},
	{"madvise", NULL, advise},
	{"lock", NULL, lock},
	{"many", do_many, NULL},
	{"map", do_map, NULL},
	{"memfd", do_memfd, NULL},
	{"move", NULL, move},
	{"pageout", NULL, page_out},
	{"ping", do_ping, NULL},
	{"poke", NULL, poke},
	{"protect", NULL, protect},
	{"punch", do_punch, NULL},
	{"pwrite", do_pwrite, NULL},
	{"read", NULL, read_pages},
	{"rearm", NULL, rearm},
	{"reopen", do_reopen, NULL},
	{"resize", do_resize, NULL},
	{"ring", do_ring, NULL},
	{"same", NULL, fill_same},
	{"secret", do_secret, NULL},
	{"small", NULL, keep_small},
	{"stack", do_stack, NULL},
	{"swapped", NULL, check_swapped},
	{"sysv", do_sysv, NULL},
	{"tmpfs", do_tmpfs, NULL},
	{"truncate", do_truncate, NULL},
	{"twin", do_twin, NULL},
	{"uffd", NULL, watch_own},
	{"unmap", NULL, unmap},
	{"zero", NULL, zero},
};

static enum result run_each(enum result (*each)(uint8_t *at, size_t pages))
{
	uint8_t *at;
	enum result r = DONE;
	size_t pages;
	version++;
	for (const char *list = args[1];
		r == DONE && (pages = next_run(&list, area(args[0]), &at));)
		r = each(at, pages);
	return r;
}

/* The command of that name, with what is in `args`. */
static enum result run_words(const char *name)
{
	for (size_t i = 0; name && i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(commands[i].name, name) == 0)
			return commands[i].fn ? commands[i].fn() : run_each(commands[i].each);
	}
	errno = ENOSYS;
	return FAILED;
}

static enum result run(char *line)
{
	char *words[ARGS_MAX + 1] = {0}, *rest;
	int n = 0;
	for (char *w = strtok_r(line, " ", &rest); w && n < ARGS_MAX;
		w = strtok_r(NULL, " ", &rest))
		words[n++] = w;
	memmove(args, words + 1, sizeof(args) - sizeof(args[0]));
	return run_words(words[0]);
}

int main(int argc, char **argv)
{
	static const char *const words[] = {"ok", "cannot", "failed"};
	char line[512], name[64];
	size_t len = 0;
	folder = argc > 1 ? argv[1] : "/tmp";
	dprintf(1, "ready\n");
	while (len < sizeof(line) && read(0, line + len, 1) == 1) {
		if (line[len++] != '\n')
			continue;
		line[len - 1] = '\0';
		len = 0;
		snprintf(name, sizeof(name), "%.60s", line);
		reply[0] = '\0';
		enum result r = run(line);
		if (r == DONE)
			dprintf(1, "ok %s\n", reply);
		else
			dprintf(1, "%s %s: %s\n", words[r], name, strerror(errno));
	}
	return 0;
}
