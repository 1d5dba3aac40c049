/* SPDX-License-Identifier: MIT */
/*
 * What `tidemark pages` counts is what /proc/PID/smaps counts, to the page, of processes that stand
 * still; and what smaps does not tell is as the process made it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/harness.h"
#include "tests/system/no_pagemap_scan.h"
#include "tests/system/fixture.h"
#include "tracker/page_info.h"
#include "tracker/process.h"
#include "tracker/uapi.h"

enum { PAGE = 4096, MAPPINGS_MAX = 4096 };

/* Fields of smaps that must agree, and by which counts. */
enum { SUM_MAX = 3 };
static const struct {
	const char *fields[SUM_MAX + 1];
	enum page_count count;
	bool frames; /* known to those alone who see page frame numbers */
	bool others; /* depends on what other processes map at the moment */
} pairs[] = {
	{{"Size"}, PAGES_MAPPED, false, false},
	{{"Rss"}, PAGES_RESIDENT, false, false},
	{{"Swap"}, PAGES_SWAPPED, false, false},
	{{"Anonymous"}, PAGES_ANONYMOUS, false, false},
	{{"AnonHugePages"}, PAGES_ANONYMOUS_HUGE, false, false},
	{{"AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"}, PAGES_HUGE, false, false},
	{{"Shared_Hugetlb", "Private_Hugetlb"}, PAGES_HUGETLB, false, false},
	{{"Private_Hugetlb"}, PAGES_HUGETLB_EXCLUSIVE, false, false},
	{{"KSM"}, PAGES_KSM, true, false},
	{{"Private_Clean", "Private_Dirty"}, PAGES_EXCLUSIVE, false, true},
	{{"Shared_Clean", "Shared_Dirty"}, PAGES_SHARED, true, true},
};
#define NPAIRS (sizeof(pairs) / sizeof(pairs[0]))
enum { PSS = NPAIRS, NVALUES, LAZY_FREE = NVALUES, NREAD };

/* smaps, read by a road of its own: in KiB. */
struct kernel_says {
	uint64_t start[MAPPINGS_MAX];
	uint64_t kib[MAPPINGS_MAX][NREAD];
	uint64_t locked_kib[MAPPINGS_MAX];
	size_t len;
	uint32_t told; /* which of `pairs` this kernel's smaps has, by bit */
};
static struct kernel_says before, after;

static void read_smaps(pid_t pid, struct kernel_says *ret)
{
	char path[64], line[4400], key[64];
	uint64_t start, end, kib;
	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	FILE *f = fopen(path, "re");
	CU_ASSERT_PTR_NOT_NULL_FATAL(f);
	memset(ret, 0, sizeof(*ret));
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2) {
			CU_ASSERT_TRUE_FATAL(ret->len < MAPPINGS_MAX);
			ret->start[ret->len++] = start;
		}
		if (sscanf(line, "%63[^:]: %" SCNu64 " kB", key, &kib) != 2 || ret->len == 0)
			continue;
		for (size_t i = 0; i < NPAIRS; i++) {
			for (size_t k = 0; pairs[i].fields[k]; k++) {
				if (strcmp(pairs[i].fields[k], key) != 0)
					continue;
				ret->kib[ret->len - 1][i] += kib;
				ret->told |= 1u << i;
			}
		}
		if (strcmp(key, "Pss") == 0)
			ret->kib[ret->len - 1][PSS] = kib;
		if (strcmp(key, "LazyFree") == 0)
			ret->kib[ret->len - 1][LAZY_FREE] = kib;
		if (strcmp(key, "Locked") == 0)
			ret->locked_kib[ret->len - 1] = kib;
	}
	fclose(f);
}

static struct process *target;
static struct page_table table;

static void setup(void)
{
	fixture_setup();
	target = NULL;
	table = (struct page_table){0};
}

static void restore_ksm(void);

static void teardown(void)
{
	page_table_release(&table);
	process_close(target);
	fixture_teardown();
	restore_ksm();
}

static void look_at(pid_t pid)
{
	struct tide_error err = {0};
	struct page_table_options all = {
		.flags = true, .maps_counted = true, .cgroups = true, .nodes = true};
	process_close(target);
	target = NULL;
	page_table_release(&table);
	if (process_open_to_look(pid, &target, &err) < 0 ||
		page_table_read(target, &all, &table, &err) < 0) {
		printf("%s\n", err.text);
		CU_FAIL_FATAL("cannot look at the process");
	}
}

static uint64_t count_of(const struct page_info *info, size_t value)
{
	return value == PSS ? info->counts.pss_fixed >> 22
			    : info->counts.of[pairs[value].count] * PAGE / 1024;
}

static bool is_known(size_t value)
{
	return value == PSS ? table.sources.maps_counted
			    : before.told >> value & 1 &&
				      page_count_is_known(&table.sources, pairs[value].count);
}

static bool depends_on_others(size_t value)
{
	return value == PSS || pairs[value].others;
}

static void tell_difference(size_t mapping, size_t value)
{
	printf("%" PRIx64 " %s %s: smaps %" PRIu64 " KiB, pages %" PRIu64 " KiB\n",
		before.start[mapping], table.v[mapping].mapping.name,
		value == PSS ? "Pss" : pairs[value].fields[0], before.kib[mapping][value],
		count_of(&table.v[mapping], value));
}

/*
 * What is compared is what smaps says before and after alike, and it is repeated until that was so
 * for each value of each mapping. How often a page of a library is mapped changes with every
 * process on the machine that begins or ends, also for a moment in between: these values must agree
 * once.
 */
static void compare_with_smaps(pid_t pid)
{
	enum { TRIES = 1000 };
	static bool agreed[MAPPINGS_MAX][NVALUES];
	size_t left = 1, wrong = 0;
	memset(agreed, 0, sizeof(agreed));
	for (int attempt = 1; left && attempt <= TRIES && !wrong; attempt++) {
		read_smaps(pid, &before);
		look_at(pid);
		read_smaps(pid, &after);
		CU_ASSERT_EQUAL_FATAL(before.len, after.len);
		CU_ASSERT_EQUAL_FATAL(before.len, table.len);
		left = 0;
		for (size_t i = 0; i < before.len; i++) {
			CU_ASSERT_EQUAL(before.start[i], table.v[i].mapping.start);
			for (size_t k = 0; k < NVALUES; k++) {
				bool still = before.kib[i][k] == after.kib[i][k];
				bool same = count_of(&table.v[i], k) == before.kib[i][k];
				if (!is_known(k) || agreed[i][k])
					continue;
				agreed[i][k] = still && same;
				left += !agreed[i][k];
				bool final = still && !depends_on_others(k);
				wrong += final && !same;
				if (!same && (final || attempt == TRIES))
					tell_difference(i, k);
			}
		}
	}
	CU_ASSERT_EQUAL(wrong, 0);
	CU_ASSERT_EQUAL(left, 0);
}

static json_t *total_of(pid_t pid)
{
	char number[16];
	snprintf(number, sizeof(number), "%d", pid);
	struct child *c = child_run(0, fixture_tidemark(), "pages", number, "--json", NULL);
	const char *last = strstr(c->text, "{\"kind\": \"total\"");
	CU_ASSERT_PTR_NOT_NULL_FATAL(last);
	json_t *total = json_loads(last, 0, NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(total);
	return total;
}

/* The command's totals, which it prints, against the sums of smaps. */
static void compare_totals(pid_t pid)
{
	static const char *const keys[NPAIRS] = {"mapped_pages", "resident_pages", "swapped_pages",
		"anonymous_pages", "anonymous_huge_pages", "huge_pages", "hugetlb_pages",
		"hugetlb_exclusive_pages", "ksm_pages", "exclusive_pages", "shared_pages"};
	json_t *total = total_of(pid);
	read_smaps(pid, &before);
	for (size_t k = 0; k < NPAIRS; k++) {
		uint64_t kib = 0;
		const json_t *value = json_object_get(total, keys[k]);
		for (size_t i = 0; i < before.len; i++)
			kib += before.kib[i][k];
		if (pairs[k].others || (pairs[k].frames && json_is_null(value)))
			continue;
		CU_ASSERT_TRUE(json_is_integer(value));
		CU_ASSERT_EQUAL(json_integer_value(value) * PAGE / 1024, (json_int_t)kib);
		printf("  %s: %" JSON_INTEGER_FORMAT " pages, smaps %" PRIu64 " KiB\n", keys[k],
			json_integer_value(value), kib);
	}
	json_decref(total);
}

static void stop(struct child *c)
{
	child_signal(c, SIGSTOP);
	wait_until_stopped(c->pid);
}

static void test_redis_agrees_with_smaps(void)
{
	const char *socket = fixture_path("redis.sock");
	struct child *redis =
		child_start("redis-server", "--port", "0", "--unixsocket", socket, "--save", "",
			"--appendonly", "no", "--daemonize", "no", "--dir", fixture_folder(), NULL);
	if (!child_wait_line(redis, "eady to accept connections"))
		harness_skip("redis-server is not installed");
	struct child *fill = child_start("redis-cli", "-s", socket, "EVAL",
		"for i = 1, 20000 do redis.call('SET', 'key:' .. i, string.rep('x', 1000)) end",
		"0", NULL);
	CU_ASSERT_EQUAL(child_finish(fill), 0);
	stop(redis);
	compare_with_smaps(redis->pid);
	compare_totals(redis->pid);
	CU_ASSERT_TRUE(table.total.counts.of[PAGES_ANONYMOUS] > 20000 / 5);
}

static void test_python_agrees_with_smaps(void)
{
	struct child *python = child_start("python3", PYTHON_WORKLOAD, NULL);
	if (!child_wait_line(python, "ready"))
		harness_skip("python3 does not run here");
	stop(python);
	compare_with_smaps(python->pid);
	compare_totals(python->pid);
}

/* What the workload `kinds` said of its pieces. */
enum { PIECES_MAX = 32 };
struct piece {
	char name[32];
	uint64_t start;
	uint64_t pages;
	size_t index; /* in the table, as it was looked at last */
	const struct page_counts *counts;
};
static struct piece pieces[PIECES_MAX];
static size_t npieces;

static struct child *kinds_start(void)
{
	struct child *kinds = child_start(fixture_workload("kinds"), NULL);
	const char *line = NULL;
	for (npieces = 0; npieces < PIECES_MAX; npieces++) {
		struct piece *p = &pieces[npieces];
		line = child_wait_line(kinds, "");
		CU_ASSERT_PTR_NOT_NULL_FATAL(line);
		if (strcmp(line, "ready") == 0)
			break;
		CU_ASSERT_EQUAL_FATAL(
			sscanf(line, "%31s %" SCNx64 " %" SCNu64, p->name, &p->start, &p->pages),
			3);
	}
	return kinds;
}

static struct piece piece_of(const char *name)
{
	struct piece p = {0};
	for (size_t i = 0; i < npieces; i++) {
		if (strcmp(pieces[i].name, name) == 0)
			p = pieces[i];
	}
	CU_ASSERT_STRING_EQUAL_FATAL(p.name, name);
	for (size_t i = 0; i < table.len; i++) {
		if (table.v[i].mapping.start == p.start) {
			p.counts = &table.v[i].counts;
			p.index = i;
		}
	}
	return p;
}

static uint64_t counted(const char *name, enum page_count count)
{
	struct piece p = piece_of(name);
	CU_ASSERT_PTR_NOT_NULL_FATAL(p.counts);
	return p.counts->of[count];
}

static void test_every_kind_agrees_with_smaps(void)
{
	struct child *kinds = kinds_start();
	stop(kinds);
	compare_with_smaps(kinds->pid);
	compare_totals(kinds->pid);
}

static void test_written_and_read_pages_are_told_apart(void)
{
	struct child *kinds = kinds_start();
	look_at(kinds->pid);
	CU_ASSERT_EQUAL(counted("written", PAGES_MAPPED), 64);
	CU_ASSERT_EQUAL(counted("written", PAGES_PRESENT), 10);
	CU_ASSERT_EQUAL(counted("written", PAGES_ANONYMOUS), 10);
	CU_ASSERT_EQUAL(counted("written", PAGES_ZERO), 0);
	CU_ASSERT_EQUAL(counted("read", PAGES_PRESENT), 25);
	CU_ASSERT_EQUAL(counted("read", PAGES_ANONYMOUS), 5);
	CU_ASSERT_EQUAL(counted("read", PAGES_EXCLUSIVE), 5);
	if (page_count_is_known(&table.sources, PAGES_ZERO))
		CU_ASSERT_EQUAL(counted("read", PAGES_ZERO), 20);
}

static void test_huge_pages_are_counted_by_their_pages(void)
{
	struct child *kinds = kinds_start();
	look_at(kinds->pid);
	read_smaps(kinds->pid, &before);
	size_t at = piece_of("huge").index;
	if (before.kib[at][4] == 0)
		harness_skip("no transparent huge page was to be had");
	CU_ASSERT_EQUAL(counted("huge", PAGES_HUGE), 512);
	CU_ASSERT_EQUAL(counted("huge", PAGES_ANONYMOUS_HUGE), 512);
	CU_ASSERT_EQUAL(counted("huge", PAGES_RESIDENT), 512);
	/* The huge zero page is as little resident as the small one. */
	CU_ASSERT_EQUAL(counted("huge-read", PAGES_RESIDENT), 0);
	CU_ASSERT_EQUAL(counted("huge-read", PAGES_HUGE), 0);
	CU_ASSERT_EQUAL(counted("huge-read", PAGES_ZERO), 512);
}

static void test_explicit_huge_pages_are_not_resident(void)
{
	struct child *kinds = kinds_start();
	look_at(kinds->pid);
	struct piece p = piece_of("hugetlb");
	if (p.pages == 0)
		harness_skip("no huge pages are reserved (/proc/sys/vm/nr_hugepages)");
	CU_ASSERT_EQUAL(p.counts->of[PAGES_HUGETLB], p.pages);
	CU_ASSERT_EQUAL(p.counts->of[PAGES_HUGETLB_EXCLUSIVE], p.pages);
	CU_ASSERT_EQUAL(p.counts->of[PAGES_PRESENT], p.pages);
	CU_ASSERT_EQUAL(p.counts->of[PAGES_RESIDENT], 0);
}

static void test_guard_pages_are_not_swapped_ones(void)
{
	struct child *kinds = kinds_start();
	look_at(kinds->pid);
	struct piece p = piece_of("guarded");
	if (p.pages == 0)
		harness_skip("this kernel has no guard pages");
	if (!table.sources.guard)
		harness_skip("this kernel shows guard pages like swapped ones");
	CU_ASSERT_EQUAL(p.counts->of[PAGES_GUARD], p.pages);
	CU_ASSERT_EQUAL(p.counts->of[PAGES_SWAPPED], 0);
	CU_ASSERT_EQUAL(p.counts->of[PAGES_PRESENT], 20 - p.pages);
}

static void test_sharing_shows(void)
{
	struct child *kinds = kinds_start();
	look_at(kinds->pid);
	/* Of the memfd's pages at least one is mapped twice. */
	CU_ASSERT_EQUAL(counted("memfd", PAGES_FILE), 12);
	CU_ASSERT_TRUE(counted("memfd-again", PAGES_FILE) >= 1);
	CU_ASSERT_EQUAL(counted("memfd-again", PAGES_EXCLUSIVE), 0);
	CU_ASSERT_EQUAL(counted("memfd-copied", PAGES_ANONYMOUS), 3);
	CU_ASSERT_EQUAL(counted("inherited", PAGES_ANONYMOUS), 6);
	CU_ASSERT_EQUAL(counted("inherited", PAGES_EXCLUSIVE), 2);
	if (!table.sources.maps_counted)
		harness_skip("how often a page is mapped takes CAP_SYS_ADMIN");
	CU_ASSERT_EQUAL(counted("inherited", PAGES_SHARED), 4);
	struct piece p = piece_of("inherited");
	CU_ASSERT_EQUAL(p.counts->pss_fixed >> 12, 2 * PAGE + 4 * PAGE / 2);
}

static void test_flags_of_pages_show(void)
{
	struct child *kinds = kinds_start();
	read_smaps(kinds->pid, &before);
	look_at(kinds->pid);
	if (!table.sources.flags)
		harness_skip("flags of pages take CAP_SYS_ADMIN");
	struct piece locked = piece_of("locked");
	CU_ASSERT_EQUAL(locked.counts->of[PAGES_MLOCKED], locked.pages);
	CU_ASSERT_TRUE(locked.counts->of[PAGES_UNEVICTABLE] <= locked.pages);
	/* smaps' Locked is a share, but these are nobody else's. */
	CU_ASSERT_EQUAL(before.locked_kib[locked.index], locked.pages * PAGE / 1024);
	struct piece given_up = piece_of("given-up");
	/* The kernel marks them some at a time, and the last ones when it gets to it. */
	uint64_t marked = given_up.counts->of[PAGES_LAZY_FREE];
	CU_ASSERT_TRUE(marked > 0 && marked <= given_up.pages);
	CU_ASSERT_TRUE(marked >= before.kib[given_up.index][LAZY_FREE] / 4);
	read_smaps(kinds->pid, &after);
	CU_ASSERT_TRUE(marked <= after.kib[given_up.index][LAZY_FREE] / 4);
	CU_ASSERT_EQUAL(counted("written", PAGES_LAZY_FREE), 0);
}

static void test_write_protected_pages_show(void)
{
	struct child *kinds = kinds_start();
	look_at(kinds->pid);
	struct piece p = piece_of("armed");
	if (p.pages == 0)
		harness_skip("this kernel or user has no asynchronous write-protection");
	CU_ASSERT_EQUAL(p.counts->of[PAGES_WRITE_PROTECTED], p.pages);
	CU_ASSERT_EQUAL(counted("written", PAGES_WRITE_PROTECTED), 0);
	dprintf(kinds->in, "5\n");
	CU_ASSERT_PTR_NOT_NULL(child_wait_line(kinds, "written"));
	look_at(kinds->pid);
	CU_ASSERT_EQUAL(counted("armed", PAGES_WRITE_PROTECTED), p.pages - 5);
}

/* Merging is off on most machines. It is one switch for all, so whoever needs it holds its file
 * locked. */
static int ksm_fd = -1;
static char ksm_was;

static void restore_ksm(void)
{
	if (ksm_fd < 0)
		return;
	if (pwrite(ksm_fd, &ksm_was, 1, 0) != 1)
		printf("cannot turn merging back to %c\n", ksm_was);
	close(ksm_fd);
	ksm_fd = -1;
}

static void turn_ksm_on(void)
{
	/* It is the whole machine's, and walks every process that asked for it. */
	if (!getenv("TIDEMARK_TEST_GUEST"))
		harness_skip("merging of pages (KSM) is turned on in guests alone (./dev vm)");
	int fd = open("/sys/kernel/mm/ksm/run", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		harness_skip("pages cannot be merged here (KSM)");
	flock(fd, LOCK_EX);
	if (pread(fd, &ksm_was, 1, 0) != 1 || pwrite(fd, "1", 1, 0) != 1) {
		close(fd);
		harness_skip("merging of pages cannot be turned on (KSM)");
	}
	ksm_fd = fd;
}

static uint64_t merged_pages(pid_t pid)
{
	char path[64];
	uint64_t pages = 0;
	snprintf(path, sizeof(path), "/proc/%d/ksm_merging_pages", pid);
	FILE *f = fopen(path, "re");
	if (!f)
		harness_skip("this kernel does not tell how many pages are merged (%s)", path);
	CU_ASSERT_EQUAL(fscanf(f, "%" SCNu64, &pages), 1);
	fclose(f);
	return pages;
}

static void test_merged_pages_show(void)
{
	enum { WAITS = 3000 };
	turn_ksm_on();
	struct child *kinds = kinds_start();
	look_at(kinds->pid);
	struct piece p = piece_of("mergeable");
	if (p.pages == 0)
		harness_skip("memory cannot be marked as mergeable");
	if (!table.sources.flags)
		harness_skip("flags of pages take CAP_SYS_ADMIN");
	/* ksmd is at work; nothing tells when it is done but its count, which smaps has not got
	 * before 6.8. */
	uint64_t merged = 0;
	for (int i = 0; i < WAITS && merged < p.pages; i++) {
		usleep(10000);
		merged = merged_pages(kinds->pid);
	}
	CU_ASSERT_EQUAL(merged, p.pages);
	stop(kinds);
	look_at(kinds->pid);
	CU_ASSERT_EQUAL(counted("mergeable", PAGES_KSM), p.pages);
	CU_ASSERT_EQUAL(counted("mergeable", PAGES_LAZY_FREE), 0);
	compare_with_smaps(kinds->pid);
}

static void test_nodes_and_cgroups_add_up(void)
{
	struct child *kinds = kinds_start();
	stop(kinds);
	look_at(kinds->pid);
	if (table.cgroups) {
		uint64_t charged = 0;
		for (size_t i = 0; i < table.total.cgroups.len; i++)
			charged += table.total.cgroups.v[i].pages;
		CU_ASSERT_EQUAL(charged, table.total.counts.of[PAGES_RESIDENT]);
	}
	if (!table.nodes)
		harness_skip("this kernel has no numa_maps");
	uint64_t on_nodes = 0;
	struct piece p = piece_of("written");
	for (size_t i = 0; i < table.v[p.index].nodes.len; i++)
		on_nodes += table.v[p.index].nodes.pages[i];
	CU_ASSERT_EQUAL(on_nodes, p.pages);
}

static void test_nothing_changes_in_the_process(void)
{
	struct child *kinds = kinds_start();
	stop(kinds);
	read_smaps(kinds->pid, &before);
	for (int i = 0; i < 3; i++)
		json_decref(total_of(kinds->pid));
	read_smaps(kinds->pid, &after);
	CU_ASSERT_EQUAL_FATAL(before.len, after.len);
	for (size_t i = 0; i < before.len; i++) {
		for (size_t k = 0; k < NPAIRS; k++)
			CU_ASSERT_TRUE(pairs[k].others || before.kib[i][k] == after.kib[i][k]);
	}
	CU_ASSERT_EQUAL(process_state_letter(kinds->pid), 'T');
}

static void test_columns_are_chosen(void)
{
	struct child *kinds = kinds_start();
	char pid[16];
	snprintf(pid, sizeof(pid), "%d", kinds->pid);
	struct child *c = child_run(
		0, fixture_tidemark(), "pages", pid, "-o", "anon,MAPPED_PAGES,path", NULL);
	CU_ASSERT_PTR_NOT_NULL(strstr(c->text, "ANON  MAPPED  PATH\n"));
	c = child_run(0, fixture_tidemark(), "pages", pid, "-o", "+zero,rss", "--pages", NULL);
	CU_ASSERT_PTR_NOT_NULL(strstr(c->text, "HUGE   RSS  NAME\n"));
	c = child_run(0, fixture_tidemark(), "pages", pid, "-o", "start,guard", "--json", NULL);
	CU_ASSERT_EQUAL(strncmp(c->text, "{\"kind\": \"mapping\", \"start\": \"0x", 31), 0);
	CU_ASSERT_PTR_NULL(strstr(c->text, "mapped_pages"));
	c = child_run(2, fixture_tidemark(), "pages", pid, "-o", "anon,nonsense", NULL);
	CU_ASSERT_PTR_NOT_NULL(strstr(c->errors, "nonsense"));
	c = child_run(0, fixture_tidemark(), "pages", "--columns", "help", NULL);
	CU_ASSERT_PTR_NOT_NULL(strstr(c->text, "MLOCKED"));
}

static void test_what_takes_more_rights_is_left_out_with_a_word(void)
{
	if (geteuid() != 0)
		harness_skip("only root can become a user without rights");
	/* An ordinary user, who looks at a process of his own. */
	char command[1024];
	snprintf(command, sizeof(command),
		"sleep 60 & '%s' pages $! -o +shared,ksm,cgroup --json; status=$?; kill $!; exit "
		"$status",
		fixture_tidemark());
	struct child *c = child_start("setpriv", "--reuid", "65534", "--regid", "65534",
		"--clear-groups", "--inh-caps", "-all", "bash", "-c", command, NULL);
	int status = child_finish(c);
	if (status == 127 || strstr(c->errors, "ermission denied\n"))
		harness_skip("an ordinary user cannot run the built program here");
	CU_ASSERT_EQUAL(status, 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(c->text, "\"shared_pages\": null, \"ksm_pages\": null"));
	CU_ASSERT_PTR_NOT_NULL(strstr(c->errors, "left out: KSM: "));
	CU_ASSERT_PTR_NOT_NULL(strstr(c->errors, "left out: SHARED: "));
	CU_ASSERT_PTR_NOT_NULL(strstr(c->errors, "CAP_SYS_ADMIN"));
	CU_ASSERT_PTR_NOT_NULL(strstr(c->text, "\"exclusive_pages\": "));
}

static void test_a_process_that_is_not_there(void)
{
	child_run(3, fixture_tidemark(), "pages", "4194305", NULL);
	child_run(2, fixture_tidemark(), "pages", NULL);
	child_run(2, fixture_tidemark(), "pages", "1x", NULL);
}

/* Without the scan everything is the same but what only it can tell; in a child, because a filter
 * cannot be taken away. */
static int compare_without_scan(void)
{
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		struct page_table old = {0};
		struct page_table_options all = {.flags = true, .maps_counted = true};
		struct tide_error why = {0};
		int wrong = 0;
		if (no_pagemap_scan() < 0)
			_exit(77);
		int r = page_table_read(target, &all, &old, &why);
		if (r < 0 || old.sources.scan || old.len != table.len) {
			printf("read: %d (%s), scan: %d, %zu mappings of %zu\n", r, why.text,
				old.sources.scan, old.len, table.len);
			fflush(stdout);
			_exit(1);
		}
		for (size_t i = 0; i < old.len; i++) {
			for (int k = 0; k < PAGE_COUNTS; k++) {
				uint64_t now = table.v[i].counts.of[k],
					 then = old.v[i].counts.of[k];
				/* Other processes have a hand in those of files, and reclaim in
				 * most flags. */
				if (now == then || table.v[i].mapping.kind != MAPPING_ANON ||
					(k > PAGES_KSM && k != PAGES_MLOCKED) ||
					!page_count_is_known(&old.sources, (enum page_count)k))
					continue;
				/* A page that is zero is taken for anonymous where nothing tells.
				 */
				if (!old.sources.flags &&
					(k == PAGES_RESIDENT || k == PAGES_ANONYMOUS ||
						k == PAGES_FILE))
					continue;
				printf("%s, count %d: %" PRIu64 ", without the scan %" PRIu64 "\n",
					table.v[i].mapping.name, k, now, then);
				wrong++;
			}
		}
		fflush(stdout);
		_exit(wrong ? 1 : 0);
	}
	int status = -1;
	CU_ASSERT_EQUAL(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Whether the counts have changed since the last look, of which that of anonymous memory. A stopped
 * process does not do that, but a child of its that ends makes shared pages its own. */
static bool has_changed(pid_t pid)
{
	size_t len = table.len;
	struct page_counts *earlier = calloc(len + 1, sizeof(*earlier));
	CU_ASSERT_PTR_NOT_NULL_FATAL(earlier);
	for (size_t i = 0; i < len; i++)
		earlier[i] = table.v[i].counts;
	look_at(pid);
	bool changed = table.len != len;
	for (size_t i = 0; !changed && i < len; i++)
		changed = table.v[i].mapping.kind == MAPPING_ANON &&
			  memcmp(earlier[i].of, table.v[i].counts.of, sizeof(earlier[i].of)) != 0;
	free(earlier);
	return changed;
}

static void test_an_older_kernel_gives_the_same_counts(void)
{
	enum { TRIES = 10 };
	struct child *kinds = kinds_start();
	stop(kinds);
	look_at(kinds->pid);
	int status = compare_without_scan();
	for (int i = 0; i < TRIES && status == 1 && has_changed(kinds->pid); i++)
		status = compare_without_scan();
	if (status == 77)
		harness_skip("no seccomp filter can be made here");
	CU_ASSERT_EQUAL(status, 0);
}

static const struct test tests[] = {
	TEST(test_redis_agrees_with_smaps),
	TEST(test_python_agrees_with_smaps),
	TEST(test_every_kind_agrees_with_smaps),
	TEST(test_written_and_read_pages_are_told_apart),
	TEST(test_huge_pages_are_counted_by_their_pages),
	TEST(test_explicit_huge_pages_are_not_resident),
	TEST(test_guard_pages_are_not_swapped_ones),
	TEST(test_sharing_shows),
	TEST(test_flags_of_pages_show),
	TEST(test_write_protected_pages_show),
	TEST(test_merged_pages_show),
	TEST(test_nodes_and_cgroups_add_up),
	TEST(test_nothing_changes_in_the_process),
	TEST(test_an_older_kernel_gives_the_same_counts),
	TEST(test_columns_are_chosen),
	TEST(test_what_takes_more_rights_is_left_out_with_a_word),
	TEST(test_a_process_that_is_not_there),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "pages", tests, setup, teardown);
}
