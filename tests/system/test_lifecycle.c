/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "tests/harness.h"
#include "tests/system/address_model.h"
#include "tests/system/lifecycle.h"
#include "tracker/backend.h"
#include "tracker/source.h"

enum { PAGE = 4096, TESTS_MAX = 512 };

static const char *const backend_names[] = {"uffd-wp", "soft-dirty"};
static const struct row *const tables[] = {rows_private, rows_file, rows_shared, rows_special};

/* What a test is: a row or a function, with a backend. */
static struct {
	char name[96];
	const char *backend;
	const struct row *row;
	void (*fn)(const char *backend);
	char why[256]; /* the backend is not to be had */
} plan[TESTS_MAX];
static struct test tests[TESTS_MAX + 1];

struct child *life_target;
struct life_area life_areas[26];
struct page_source *life_source;
static struct child *other;
static struct address_model model;
static const struct change_set *changes;
static bool frozen;
static cpu_set_t processors;     /* that this test may use */
static uint64_t nwrong;          /* pages that are not as the row says, in one collect */
static const char *playing = ""; /* which row, and how, for messages */

/* A setting of the whole machine that is put back; the lock keeps a second run of this suite from
 * doing so meanwhile. */
static struct {
	const char *path;
	int fd;
	char before[32];
} setting = {.fd = -1};

/* Sets it to a value, or to what it is and `more`. */
static void change_setting(const char *path, const char *value, long more)
{
	char text[32];
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		harness_skip("%s cannot be set", path);
	for (int left = 3000; flock(fd, LOCK_EX | LOCK_NB) < 0; left--) {
		if (left == 0) {
			close(fd);
			harness_skip("%s is held by another test", path);
		}
		usleep(10000);
	}
	setting.fd = fd;
	setting.path = path;
	ssize_t n = pread(fd, setting.before, sizeof(setting.before) - 1, 0);
	setting.before[n > 0 ? n : 0] = '\0';
	snprintf(text, sizeof(text), "%ld", strtol(setting.before, NULL, 10) + more);
	if (!value)
		value = text;
	if (pwrite(fd, value, strlen(value), 0) < 0)
		harness_skip("%s cannot be set", path);
}

static void restore_setting(void)
{
	if (setting.fd < 0)
		return;
	(void)!pwrite(setting.fd, setting.before, strlen(setting.before), 0);
	close(setting.fd);
	setting.fd = -1;
}

void life_release(void)
{
	if (life_source)
		life_source->ops->release(life_source);
	life_source = NULL;
	frozen = false;
	model_release(&model);
}

void wait_until_in_call(pid_t pid, const char *call)
{
	char path[64], text[64];
	size_t len = strlen(call);
	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	for (ssize_t n = 1; n > 0;) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		n = fd < 0 ? 0 : read(fd, text, sizeof(text));
		close(fd);
		if (n > (ssize_t)len && strncmp(text, call, len) == 0)
			return;
		/* To yield would be to wait for all others that want the processor. */
		usleep(20);
	}
}

/* An answer is not yet the end of running: that it waits for the next command is. */
static void wait_until_still(pid_t pid)
{
	char reading[32];
	snprintf(reading, sizeof(reading), "%d 0x0 ", SYS_read);
	wait_until_in_call(pid, reading);
}

static void end(struct child **c)
{
	if (*c && (*c)->status < 0)
		child_finish(*c);
	*c = NULL;
}

void life_start(void)
{
	life_release();
	end(&life_target);
	end(&other);
	memset(life_areas, 0, sizeof(life_areas));
	life_target = child_start(fixture_workload("stages"), fixture_folder(), NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(life_target, "ready"));
	wait_until_still(life_target->pid);
}

static void setup(void)
{
	memset(life_areas, 0, sizeof(life_areas));
	life_target = other = NULL;
	sched_getaffinity(0, sizeof(processors), &processors);
	fixture_setup();
}

static void teardown(void)
{
	life_release();
	fixture_teardown();
	restore_setting();
	sched_setaffinity(0, sizeof(processors), &processors);
}

static const char *command(struct child *c, const char *text)
{
	dprintf(c->in, "%s\n", text);
	const char *line = child_wait_line(c, "");
	if (line)
		wait_until_still(c->pid);
	if (!line || strncmp(line, "failed", 6) == 0) {
		printf("%s: '%s': %s\n", playing, text, line ? line : "the process ended");
		CU_FAIL_FATAL("a command failed");
	}
	if (strncmp(line, "cannot", 6) == 0)
		harness_skip("%s", line);
	return line + strlen("ok ");
}

static void note_area(const char *line)
{
	char name;
	uint64_t start, pages;
	if (sscanf(line, "%c 0x%" SCNx64 " %" SCNu64, &name, &start, &pages) != 3)
		return;
	struct life_area *a = &life_areas[name - 'a'];
	a->start = start;
	if (pages > a->pages)
		a->pages = pages;
}

/* Another process, on the first command that it gets. "adopt F" and "borrow F a" take the target's
 * object of that letter, or what is mapped there. */
static void command_other(const char *text)
{
	char line[256], object, from;
	if (!other) {
		other = child_start(fixture_workload("stages"), fixture_folder(), NULL);
		CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(other, "ready"));
	}
	if (sscanf(text, "adopt %c", &object) == 1) {
		snprintf(line, sizeof(line), "adopt %c /proc/%d/fd/%d", object, life_target->pid,
			100 + object - 'A');
		text = line;
	} else if (sscanf(text, "borrow %c %c", &object, &from) == 2) {
		const struct life_area *a = &life_areas[from - 'a'];
		snprintf(line, sizeof(line), "adopt %c /proc/%d/map_files/%" PRIx64 "-%" PRIx64,
			object, life_target->pid, a->start, a->start + a->pages * PAGE);
		text = line;
	}
	command(other, text);
}

const char *life_run(const char *script)
{
	static char line[256];
	char piece[256];
	line[0] = '\0';
	for (const char *at = script; at && *at;) {
		size_t len = strcspn(at, ";");
		snprintf(piece, sizeof(piece), "%.*s", (int)len, at);
		if (piece[0] == '!') {
			command_other(piece + 2);
		} else {
			snprintf(line, sizeof(line), "%s", command(life_target, piece));
			note_area(line);
		}
		at += len;
		at += strspn(at, "; ");
	}
	return line;
}

void life_follow(const char *backend)
{
	struct tide_error err = {0};
	struct process_source_options options = {.backend = backend, .purpose = "test_lifecycle"};
	if (process_source_open(life_target->pid, &options, &life_source, &err) < 0) {
		printf("%s: %s\n", playing, err.text);
		CU_FAIL_FATAL("cannot follow the process");
	}
}

/* Is a page in a list such as "a 2-5,9; b 0"? An area without pages is all of it. */
static bool is_listed(const char *list, char area, uint64_t page)
{
	for (const char *at = list; at && *at;) {
		bool here = *at++ == area;
		if (here && (*at == ';' || !*at))
			return true;
		while (*at && *at != ';') {
			char *stop;
			uint64_t first = strtoul(at, &stop, 10), last = first;
			if (*stop == '-')
				last = strtoul(stop + 1, &stop, 10);
			if (here && page >= first && page <= last)
				return true;
			at = *stop == ',' ? stop + 1 : stop;
		}
		at += strspn(at, "; ");
	}
	return false;
}

/* The same for an address, which may be in several areas. */
static bool is_address_listed(const char *list, uint64_t address)
{
	for (int i = 0; i < 26; i++) {
		const struct life_area *a = &life_areas[i];
		if (address >= a->start && address < a->start + a->pages * PAGE &&
			is_listed(list, (char)('a' + i), (address - a->start) / PAGE))
			return true;
	}
	return false;
}

static const struct page_span *find_written(space_id space, uint64_t at)
{
	for (size_t i = 0; i < changes->nwritten; i++) {
		const struct page_span *s = &changes->written[i];
		if (s->space == space && at >= s->at && at < s->at + s->bytes)
			return s;
	}
	return NULL;
}

static enum drop_kind find_drop(space_id space, uint64_t at)
{
	for (size_t i = 0; i < changes->ndrops; i++) {
		const struct page_drop *d = &changes->drops[i];
		if (d->space == space && at >= d->run.start && at < d->run.end)
			return d->kind;
	}
	return 0;
}

/* The first of a collect in words. */
static void wrong(char area, uint64_t page, const char *what)
{
	if (nwrong++ == 0)
		printf("%s: page %c %" PRIu64 " %s\n", playing, area, page, what);
}

/* An object's page that is mapped in several places is listed at one of them. */
static bool is_page_listed(const char *list, uint64_t address, space_id space, uint64_t at)
{
	if (is_address_listed(list, address))
		return true;
	for (int i = 0; space && i < 26; i++) {
		for (uint64_t k = 0; k < life_areas[i].pages; k++) {
			space_id its_space;
			uint64_t its_at, other_address = life_areas[i].start + k * PAGE;
			model_resolve(&model.maps, other_address, &its_space, &its_at);
			if (its_space == space && its_at == at &&
				is_address_listed(list, other_address))
				return true;
		}
	}
	return false;
}

struct expected {
	const char *written, *gone, *back;
	const char *allowed[4];
	bool no_trace;
};

static void check_page(
	const struct expected *e, const struct mapping_table *before, char area, uint64_t page)
{
	uint64_t address = life_areas[area - 'a'].start + page * PAGE, at, old_at;
	space_id space, old_space;
	model_resolve(&model.maps, address, &space, &at);
	model_resolve(before, address, &old_space, &old_at);

	bool must = is_address_listed(e->written, address);
	const struct page_span *span = find_written(space, at);
	bool may = must || (span && span->doubtful) || (space && frozen);
	for (size_t i = 0; span && !may && i < sizeof(e->allowed) / sizeof(e->allowed[0]); i++)
		may |= is_page_listed(e->allowed[i], address, space, at);
	may = may || is_page_listed(e->written, address, space, at);
	if (must && !span && !(space && e->no_trace))
		wrong(area, page, "was written, and is not found");
	if (!may && span)
		wrong(area, page, "is found, and was not written");

	enum drop_kind kind = find_drop(old_space, old_at);
	enum drop_kind want = is_page_listed(e->gone, address, old_space, old_at) ? DROP_GONE
			      : is_address_listed(e->back, address) ? DROP_BACK_TO_FILE
								    : 0;
	if (kind != want)
		wrong(area, page,
			want == DROP_GONE ? "is gone, and is not dropped so"
			: want            ? "is the file's again, and is not dropped so"
					  : "is dropped, and should not be");
}

static bool maps_changed(const struct mapping_table *a, const struct mapping_table *b)
{
	bool same = a->len == b->len;
	for (size_t i = 0; same && i < a->len; i++)
		same = mapping_equal(&a->v[i], &b->v[i]);
	return !same;
}

/* What did not change is not in the difference of mappings. */
static void check_mappings(const struct mapping_table *before)
{
	const struct mapping_diff *d = &changes->mappings;
	for (size_t i = 0; i < d->added.len; i++) {
		const struct mapping *was = mapping_table_find(before, d->added.v[i].start);
		if (was && mapping_equal(was, &d->added.v[i])) {
			printf("%s: the mapping at %#" PRIx64 " did not change\n", playing,
				was->start);
			CU_FAIL("mappings that did not change travel");
		}
	}
	CU_ASSERT_EQUAL(maps_changed(before, &model.maps), d->added.len || d->removed.len);
}

static void compare(bool objects)
{
	struct model_difference difference;
	model_compare(&model, life_target->pid, objects, &difference);
	CU_ASSERT_EQUAL(difference.pages, 0);
	CU_ASSERT_EQUAL(difference.mappings, 0);
	if (difference.pages || difference.mappings)
		printf("%s: %" PRIu64 " pages and %" PRIu64 " mappings differ: %s\n", playing,
			difference.pages, difference.mappings, difference.first);
}

static void copy_maps(struct mapping_table *ret)
{
	*ret = (struct mapping_table){0};
	for (size_t i = 0; i < model.maps.len; i++) {
		struct mapping m;
		if (mapping_copy(&model.maps.v[i], &m) < 0 || mapping_table_append(ret, &m) < 0)
			CU_FAIL_FATAL("out of memory");
	}
}

/* Pages of objects: that are held, that are read now, and those of them that are doubtful. */
static void count_shared(uint64_t *ret_held, uint64_t *ret_read, uint64_t *ret_doubtful)
{
	*ret_held = *ret_read = *ret_doubtful = 0;
	for (size_t i = 0; i < MODEL_BUCKETS; i++)
		for (const struct model_page *p = model.buckets[i]; p; p = p->next)
			*ret_held += p->space != SPACE_PRIVATE;
	for (size_t i = 0; i < changes->nwritten; i++) {
		const struct page_span *span = &changes->written[i];
		if (span->space == SPACE_PRIVATE)
			continue;
		*ret_read += span->bytes / PAGE;
		*ret_doubtful += span->doubtful ? span->bytes / PAGE : 0;
	}
}

/* The forecast of the freeze: it reads all shared memory, and says before how much that is. */
static void check_what_the_freeze_reads(void)
{
	uint64_t held, read_now, doubtful;
	count_shared(&held, &read_now, &doubtful);
	CU_ASSERT_EQUAL(changes->to_reread_pages, frozen ? 0 : held - doubtful);
	if (frozen)
		CU_ASSERT_EQUAL(read_now, held);
}

/* Collects, holds it against `e` (NULL: anything), applies it, and holds that against the process.
 */
static void collect(const struct expected *e)
{
	struct tide_error err = {0};
	char why[600];
	if (life_source->ops->collect(life_source, &changes, &err) < 0) {
		printf("%s: %s\n", playing, err.text);
		CU_FAIL_FATAL("collect failed");
	}
	struct mapping_table before;
	copy_maps(&before);
	bool applied = model_apply(&model, life_source, changes, why, sizeof(why));
	if (!applied)
		printf("%s: %s\n", playing, why);
	CU_ASSERT_TRUE(applied);
	nwrong = 0;
	for (int i = 0; e && i < 26; i++) {
		for (uint64_t k = 0; k < life_areas[i].pages; k++)
			check_page(e, &before, (char)('a' + i), k);
	}
	CU_ASSERT_EQUAL(nwrong, 0);
	if (e)
		check_mappings(&before);
	check_what_the_freeze_reads();
	mapping_table_release(&before);
	compare(frozen || !e || !e->no_trace);
	CU_ASSERT_EQUAL(life_source->ops->settle(life_source, true, &err), 0);
}

static void freeze(void)
{
	struct tide_error err = {0};
	CU_ASSERT_EQUAL_FATAL(
		life_source->ops->freeze(life_source, 20ull * 1000 * 1000 * 1000, &err), 0);
	/* The comparison takes its time. */
	CU_ASSERT_EQUAL_FATAL(life_source->ops->freeze_keep(life_source, &err), 0);
	frozen = true;
}

static void thaw(void)
{
	struct tide_error err = {0};
	frozen = false;
	CU_ASSERT_EQUAL(life_source->ops->thaw(life_source, THAW_RUN, &err), 0);
	life_run("ping");
}

static struct expected expect_change(const struct row *row, const char *backend)
{
	bool coarse = strcmp(backend, "soft-dirty") == 0;
	return (struct expected){.written = row->written,
		.gone = row->gone,
		.back = row->back,
		.allowed = {row->more, row->again, coarse ? row->coarse : NULL,
			coarse ? row->coarse_again : NULL},
		.no_trace = row->flags & NO_TRACE};
}

static struct expected expect_nothing(const struct row *row, const char *backend)
{
	bool coarse = strcmp(backend, "soft-dirty") == 0;
	return (struct expected){.allowed = {row->again, coarse ? row->coarse_again : NULL},
		.no_trace = row->flags & NO_TRACE};
}

const struct change_set *life_collect(void)
{
	collect(NULL);
	return changes;
}

void life_finish(void)
{
	freeze();
	collect(NULL);
	thaw();
}

uint64_t life_written(char area)
{
	const struct life_area *a = &life_areas[area - 'a'];
	uint64_t start = a->start, end = a->start + a->pages * PAGE, pages = 0;
	for (size_t i = 0; i < changes->nwritten; i++) {
		if (changes->written[i].doubtful)
			continue;
		uint64_t from = changes->written[i].address, to = from + changes->written[i].bytes;
		from = from > start ? from : start;
		to = to < end ? to : end;
		pages += from < to ? (to - from) / PAGE : 0;
	}
	return pages;
}

/* Changes between two rounds, and what comes after them. */
static void play_rounds(const struct row *row, const char *backend)
{
	struct expected change = expect_change(row, backend),
			nothing = expect_nothing(row, backend);
	life_run(row->before);
	life_follow(backend);
	collect(NULL);
	collect(&nothing);
	life_run(row->change);
	collect(&change);
	collect(&nothing);
	life_run(row->later);
	struct expected later = {.no_trace = change.no_trace};
	collect(row->later && later.no_trace ? &later : NULL);
	life_finish();
}

/* Changes between the last round and the freeze. */
static void play_freeze(const struct row *row, const char *backend)
{
	struct expected change = expect_change(row, backend);
	change.no_trace = false;
	life_run(row->before);
	life_follow(backend);
	collect(NULL);
	life_run(row->change);
	freeze();
	collect(&change);
	thaw();
}

/* Changes before the first collect. */
static void play_first(const struct row *row, const char *backend)
{
	life_run(row->before);
	life_run(row->change);
	life_follow(backend);
	collect(NULL);
	life_run(row->later);
	life_finish();
}

/* The round that finds the change is never acknowledged. */
static void play_unacknowledged(const struct row *row, const char *backend)
{
	struct tide_error err = {0};
	life_run(row->before);
	life_follow(backend);
	collect(NULL);
	life_run(row->change);
	if (life_source->ops->collect(life_source, &changes, &err) < 0)
		CU_FAIL_FATAL("collect failed");
	CU_ASSERT_EQUAL(life_source->ops->settle(life_source, false, &err), 0);
	life_run(row->later);
	life_finish();
}

static void play_refused(const struct row *row, const char *backend)
{
	struct tide_error err = {0};
	life_run(row->before);
	life_follow(backend);
	CU_ASSERT_EQUAL(life_source->ops->collect(life_source, &changes, &err), -ECANCELED);
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_UNSUPPORTED);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "cannot be followed by soft-dirty bits"));
	life_release();
	life_run(row->change);
}

static bool has_swap(void)
{
	char line[256];
	int lines = 0;
	FILE *f = fopen("/proc/swaps", "re");
	while (f && fgets(line, sizeof(line), f))
		lines++;
	if (f)
		fclose(f);
	return lines > 1;
}

/*
 * A page that was just made or read waits in a list of the processor that did it, and cannot be
 * reclaimed by another. So all that want pages reclaimed happens on one.
 */
static void stay_here(void)
{
	cpu_set_t here;
	CPU_ZERO(&here);
	CPU_SET((size_t)sched_getcpu(), &here);
	sched_setaffinity(0, sizeof(here), &here);
}

/* `index` is the row's place among all tests. */
static void run_row(const struct row *row, const char *backend, size_t index)
{
	static const struct {
		const char *name;
		void (*fn)(const struct row *row, const char *backend);
	} ways[] = {
		{"in rounds", play_rounds},
		{"before the freeze", play_freeze},
		{"before the first collect", play_first},
		{"not acknowledged", play_unacknowledged},
	};
	static char text[256];
	if (row->to_come)
		harness_skip("to come: %s", row->to_come);
	if (row->flags & NEEDS_SWAP && !has_swap())
		harness_skip("no swap");
	if (row->flags & NEEDS_HUGETLB)
		change_setting("/proc/sys/vm/nr_hugepages", NULL, 8);
	/* Merging is the whole machine's, and undoing it walks every process that asked for it. */
	if (row->flags & NEEDS_KSM && !getenv("TIDEMARK_TEST_GUEST"))
		harness_skip("merging of pages (KSM) is turned on in guests alone (./dev vm)");
	if (row->flags & NEEDS_KSM)
		change_setting("/sys/kernel/mm/ksm/run", "1", 0);
	if (strstr(row->before, "pageout") || strstr(row->change, "pageout"))
		stay_here();
	if (row->flags & REFUSED_BY_SOFT_DIRTY && strcmp(backend, "soft-dirty") == 0) {
		life_start();
		play_refused(row, backend);
		return;
	}
	/* All ways of all rows would take four minutes there. */
	const size_t nways = sizeof(ways) / sizeof(ways[0]);
	const bool just_one = harness_is_emulated();
	for (size_t i = just_one ? index % nways : 0; i < nways; i += just_one ? nways : 1) {
		snprintf(text, sizeof(text), "%s, %s, %s", row->name, backend, ways[i].name);
		playing = text;
		life_start();
		ways[i].fn(row, backend);
	}
}

/* CUnit's functions have no argument: the test that runs is found by its name. */
static void run_plan(void)
{
	const char *name = CU_get_current_test()->pName;
	size_t i = 0;
	while (strcmp(plan[i].name, name) != 0)
		i++;
	playing = name;
	if (plan[i].why[0])
		harness_skip("%s", plan[i].why);
	if (plan[i].row)
		run_row(plan[i].row, plan[i].backend, i);
	else
		plan[i].fn(plan[i].backend);
}

static void add(const char *backend, const char *name, const struct row *row,
	void (*fn)(const char *), const char *why)
{
	static size_t n;
	if (n == TESTS_MAX)
		abort();
	snprintf(plan[n].name, sizeof(plan[n].name), "%s: %s", backend, name);
	snprintf(plan[n].why, sizeof(plan[n].why), "%s", why);
	plan[n].backend = backend;
	plan[n].row = row;
	plan[n].fn = fn;
	tests[n] = (struct test){plan[n].name, run_plan};
	n++;
}

int main(int argc, char **argv)
{
	/* Else the kernel writes the number of the processor into the memory of a process that it
	 * moves, also when it was stopped for a collect and goes on waiting. */
	setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0", 1);
	for (size_t b = 0; b < sizeof(backend_names) / sizeof(backend_names[0]); b++) {
		const struct backend_ops *ops;
		struct tide_error err = {0};
		if (backend_choose(backend_names[b], &ops, &err) < 0) {
			add(backend_names[b], "everything", NULL, NULL, err.text);
			continue;
		}
		for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++) {
			for (const struct row *row = tables[t]; row->name; row++)
				add(backend_names[b], row->name, row, NULL, "");
		}
		for (const struct life_test *t = life_tests; t->name; t++)
			add(backend_names[b], t->name, NULL, t->fn, "");
	}
	return harness_main(argc, argv, "lifecycle", tests, setup, teardown);
}
