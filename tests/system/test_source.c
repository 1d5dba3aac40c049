/* SPDX-License-Identifier: MIT */
/*
 * A live process as a page source: what it did to its memory between two collects is what the
 * collect says. The target is a child that runs the steps it is told, on a piece of memory whose
 * address both sides know.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "proto/page_source.h"
#include "tests/harness.h"
#include "tracker/backend.h"
#include "tracker/source.h"

enum { PAGE = 4096, PAGES = 64 };

/* The arena: mapped before the fork, so that it lies at the same place in the child. */
static uint8_t *arena;
static char file_path[] = "/tmp/tidemark-source-XXXXXX";
static int file_fd;

static pid_t child;
static int to_child, from_child;
static struct page_source *source;
static const struct change_set *changes;

/* What a receiver of everything so far holds of the arena. */
static uint8_t held[PAGES];
static uint8_t contents[PAGES][PAGE];

static void run_steps(int in, int out)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	void (*step)(void);
	while (read(in, &step, sizeof(step)) == sizeof(step)) {
		step();
		if (write(out, "k", 1) != 1)
			break;
	}
	_exit(0);
}

/* The child runs `fn`; back when it has. */
static void step(void (*fn)(void))
{
	char done;
	CU_ASSERT_EQUAL_FATAL(write(to_child, &fn, sizeof(fn)), sizeof(fn));
	CU_ASSERT_EQUAL_FATAL(read(from_child, &done, 1), 1);
}

static void setup(void)
{
	int in[2], out[2];
	memset(held, 0, sizeof(held));
	source = NULL;
	child = 0;
	arena = mmap(
		NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	strcpy(file_path + strlen(file_path) - 6, "XXXXXX");
	file_fd = mkostemp(file_path, O_CLOEXEC);
	for (int i = 0; i < PAGES; i++) {
		char page[PAGE];
		memset(page, 'A' + i % 26, PAGE);
		if (write(file_fd, page, PAGE) != PAGE)
			return;
	}
	fflush(stdout);
	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0)
		return;
	child = fork();
	if (child == 0)
		run_steps(in[0], out[1]);
	close(in[0]);
	close(out[1]);
	to_child = in[1];
	from_child = out[0];
}

static void teardown(void)
{
	if (source)
		source->ops->release(source);
	if (child > 0) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	close(to_child);
	close(from_child);
	close(file_fd);
	unlink(file_path);
	munmap(arena, PAGES * PAGE);
}

static const struct backend_ops *backend;

static void follow(void)
{
	struct tide_error err = {0};
	struct process_source_options options = {.purpose = "test_source"};
	if (backend_choose(NULL, &backend, &err) < 0)
		harness_skip("%s", err.text);
	if (process_source_open(child, &options, &source, &err) < 0) {
		printf("%s\n", err.text);
		CU_FAIL_FATAL("cannot follow the child");
	}
}

static int arena_page(uint64_t address)
{
	uint64_t start = (uintptr_t)arena;
	return address >= start && address < start + PAGES * PAGE ? (int)((address - start) / PAGE)
								  : -1;
}

/* A run may reach beyond the arena, where memory lies beside it. False where nothing is left. */
static bool cut_to_arena(struct page_span *span)
{
	uint64_t start = (uintptr_t)arena, end = start + PAGES * PAGE;
	if (span->space != SPACE_PRIVATE || span->address >= end ||
		span->address + span->bytes <= start)
		return false;
	if (span->address + span->bytes > end)
		span->bytes = end - span->address;
	if (span->address < start) {
		span->bytes -= start - span->address;
		span->at = span->address = start;
	}
	return true;
}

/* Collects, reads and acknowledges, as a sender and its receiver would. */
static void collect(void)
{
	struct tide_error err = {0};
	if (source->ops->collect(source, &changes, &err) < 0) {
		printf("%s\n", err.text);
		CU_FAIL_FATAL("collect failed");
	}
	for (size_t i = 0; i < changes->ndrops; i++) {
		const struct page_drop *d = &changes->drops[i];
		for (uint64_t at = d->run.start; at < d->run.end; at += PAGE) {
			if (d->space == SPACE_PRIVATE && arena_page(at) >= 0)
				held[arena_page(at)] = 0;
		}
	}
	for (size_t i = 0; i < changes->nwritten; i++) {
		struct page_span span = changes->written[i];
		if (!cut_to_arena(&span))
			continue;
		int first = arena_page(span.address);
		uint64_t got = 0;
		CU_ASSERT_EQUAL(
			source->ops->read(source, &span, 1, contents[first], &got, &err), 0);
		memset(held + first, 1, got / PAGE);
		for (uint64_t k = 0; span.zero && k < got; k++)
			CU_ASSERT_EQUAL_FATAL(contents[first + (int)(k / PAGE)][k % PAGE], 0);
	}
	CU_ASSERT_EQUAL(source->ops->settle(source, true, &err), 0);
}

/* "0-3,7" */
static void pages_of(const char *list, uint8_t *want)
{
	for (const char *at = list; *at;) {
		char *end;
		long first = strtol(at, &end, 10), last = first;
		if (*end == '-')
			last = strtol(end + 1, &end, 10);
		memset(want + first, 1, (size_t)(last - first + 1));
		at = *end ? end + 1 : end;
	}
}

/* Were exactly these pages of the arena written? */
static void expect_pages(const uint8_t *is, const char *list, const char *what)
{
	uint8_t want[PAGES] = {0};
	pages_of(list, want);
	CU_ASSERT_EQUAL(memcmp(is, want, PAGES), 0);
	if (memcmp(is, want, PAGES) == 0)
		return;
	printf("%s: wanted %s, got", what, list);
	for (int i = 0; i < PAGES; i++) {
		if (is[i])
			printf(" %d", i);
	}
	printf("\n");
}

/* Seen to be written; what is merely doubtful does not count. */
static void expect_written(const char *list)
{
	uint8_t is[PAGES] = {0};
	for (size_t i = 0; i < changes->nwritten; i++) {
		const struct page_span *s = &changes->written[i];
		for (uint64_t at = s->address; at < s->address + s->bytes; at += PAGE) {
			if (arena_page(at) >= 0 && !s->doubtful)
				is[arena_page(at)] = 1;
		}
	}
	expect_pages(is, list, "written");
}

/* Are these pages of the arena among those that are read? How sure a backend is differs. */
static void expect_read(const char *list)
{
	uint8_t is[PAGES] = {0}, want[PAGES] = {0};
	pages_of(list, want);
	for (size_t i = 0; i < changes->nwritten; i++) {
		const struct page_span *s = &changes->written[i];
		for (uint64_t at = s->address; at < s->address + s->bytes; at += PAGE) {
			if (arena_page(at) >= 0 && want[arena_page(at)])
				is[arena_page(at)] = 1;
		}
	}
	expect_pages(is, list, "read");
}

static void expect_dropped(const char *list, enum drop_kind kind)
{
	uint8_t is[PAGES] = {0};
	for (size_t i = 0; i < changes->ndrops; i++) {
		const struct page_drop *d = &changes->drops[i];
		for (uint64_t at = d->run.start; at < d->run.end; at += PAGE) {
			if (d->kind == kind && d->space == SPACE_PRIVATE && arena_page(at) >= 0)
				is[arena_page(at)] = 1;
		}
	}
	expect_pages(is, list, kind == DROP_GONE ? "dropped" : "back to the file");
}

/* Freezes, collects a last time, and holds what a receiver has against the memory itself. */
static void freeze_and_compare(bool backed_by_file)
{
	struct tide_error err = {0};
	CU_ASSERT_EQUAL_FATAL(source->ops->freeze(source, 5000000000ull, &err), 0);
	collect();
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/mem", child);
	int mem = open(path, O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < PAGES; i++) {
		uint8_t there[PAGE], here[PAGE] = {0};
		if (pread(mem, there, PAGE, (off_t)(uintptr_t)(arena + i * PAGE)) != PAGE) {
			CU_ASSERT_FALSE(held[i]);
			continue;
		}
		if (held[i])
			memcpy(here, contents[i], PAGE);
		else if (backed_by_file)
			CU_ASSERT_EQUAL(pread(file_fd, here, PAGE, i * PAGE), PAGE);
		CU_ASSERT_EQUAL(memcmp(there, here, PAGE), 0);
	}
	close(mem);
	CU_ASSERT_EQUAL(source->ops->thaw(source, THAW_RUN, &err), 0);
	CU_ASSERT_EQUAL(kill(child, 0), 0);
}

static void write_0_to_9(void)
{
	for (int i = 0; i < 10; i++)
		memset(arena + i * PAGE, i + 1, PAGE);
}

static void write_3_and_20(void)
{
	arena[3 * PAGE + 17] ^= 0xff;
	arena[20 * PAGE] = 1;
}

static void drop_2_to_5(void)
{
	madvise(arena + 2 * PAGE, 4 * PAGE, MADV_DONTNEED);
}

static void read_4(void)
{
	*(volatile uint8_t *)(arena + 4 * PAGE);
}

static void unmap_0_to_1(void)
{
	munmap(arena, 2 * PAGE);
}

static void replace_6_to_9(void)
{
	if (mmap(arena + 6 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		_exit(1);
	arena[8 * PAGE] = 99;
}

static void forbid_7(void)
{
	mprotect(arena + 7 * PAGE, PAGE, PROT_NONE);
}

static void move_0_to_40(void)
{
	if (mremap(arena, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, arena + 40 * PAGE) ==
		MAP_FAILED)
		_exit(1);
}

static void map_the_file(void)
{
	if (mmap(arena, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file_fd,
		    0) == MAP_FAILED)
		_exit(1);
}

static void read_all(void)
{
	for (int i = 0; i < PAGES; i++)
		*(volatile uint8_t *)(arena + i * PAGE);
}

static void map_shared(void)
{
	if (mmap(arena, PAGES * PAGE, PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		_exit(1);
}

static void punch_2_to_5(void)
{
	madvise(arena + 2 * PAGE, 4 * PAGE, MADV_REMOVE);
}

static void write_3(void)
{
	arena[3 * PAGE + 17] ^= 0xff;
}

/* The first ten pages with contents, and a mapping that nobody has touched. */
static void make_room(void)
{
	munmap(arena + 10 * PAGE, 30 * PAGE);
	write_0_to_9();
}

/* The kernel makes one mapping of the two, if it can. */
static void move_the_untouched_beside(void)
{
	if (mremap(arena + 40 * PAGE, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		    arena + 10 * PAGE) == MAP_FAILED)
		_exit(1);
}

static void test_the_first_collect_finds_everything(void)
{
	step(write_0_to_9);
	follow();
	collect();
	expect_written("0-9");
	CU_ASSERT_TRUE(changes->mappings.added.len > 5);
	CU_ASSERT_TRUE(changes->held_pages >= 10);
	freeze_and_compare(false);
}

static void test_later_ones_find_what_was_written_since(void)
{
	step(write_0_to_9);
	follow();
	collect();
	collect();
	expect_written("");
	step(write_3_and_20);
	collect();
	expect_written("3,20");
	CU_ASSERT_TRUE(changes->interval_ns > 0);
	collect();
	expect_written("");
	freeze_and_compare(false);
}

static void test_pending_counts_and_changes_nothing(void)
{
	struct tide_error err = {0};
	uint64_t before = 0, after = 0;
	step(write_0_to_9);
	follow();
	collect();
	source->ops->pending(source, &before, &err);
	step(write_3_and_20);
	source->ops->pending(source, &after, &err);
	CU_ASSERT_TRUE(after >= 2);
	collect();
	expect_written("3,20");
}

static void test_dropped_pages_are_dropped(void)
{
	step(write_0_to_9);
	follow();
	collect();
	step(drop_2_to_5);
	collect();
	expect_dropped("2-5", DROP_GONE);
	expect_written("");
	step(read_4);
	collect();
	expect_read("4");
	freeze_and_compare(false);
}

static void test_dropped_and_written_again_is_written(void)
{
	step(write_0_to_9);
	follow();
	collect();
	step(drop_2_to_5);
	step(write_3_and_20);
	collect();
	expect_dropped("2,4-5", DROP_GONE);
	expect_written("3,20");
	freeze_and_compare(false);
}

static void test_unmapped_pages_are_dropped(void)
{
	step(write_0_to_9);
	follow();
	collect();
	step(unmap_0_to_1);
	collect();
	expect_dropped("0-1", DROP_GONE);
	CU_ASSERT_TRUE(changes->mappings.removed.len > 0);
	freeze_and_compare(false);
}

static void test_a_mapping_in_the_place_of_another_is_new(void)
{
	step(write_0_to_9);
	follow();
	collect();
	step(replace_6_to_9);
	collect();
	expect_dropped("6-7,9", DROP_GONE);
	expect_written("8");
	step(write_0_to_9);
	collect();
	expect_written("0-9");
	collect();
	expect_written("");
	freeze_and_compare(false);
}

static void test_pages_that_nobody_may_read_are_read(void)
{
	step(write_0_to_9);
	step(forbid_7);
	follow();
	collect();
	expect_written("0-9");
	freeze_and_compare(false);
}

static void test_a_moved_mapping_is_written_where_it_went(void)
{
	step(write_0_to_9);
	follow();
	collect();
	step(move_0_to_40);
	collect();
	expect_dropped("0-3", DROP_GONE);
	expect_written("40-43");
	freeze_and_compare(false);
}

/* Then the kernel takes the registration from both, and leaves the write-protect bits. */
static void test_memory_beside_which_other_memory_is_moved_is_still_followed(void)
{
	step(make_room);
	follow();
	collect();
	step(move_the_untouched_beside);
	step(write_3);
	collect();
	CU_ASSERT_TRUE(changes->written_pages > 0);
	freeze_and_compare(false);
	step(write_3);
	collect();
	step(write_3);
	collect();
	expect_written("3");
	freeze_and_compare(false);
}

static void test_what_an_earlier_tracker_left_behind_does_no_harm(void)
{
	step(make_room);
	follow();
	collect();
	step(move_the_untouched_beside);
	step(write_3);
	source->ops->release(source);
	source = NULL;
	follow();
	collect();
	expect_written("0-9");
	step(write_3);
	collect();
	expect_written("3");
	freeze_and_compare(false);
}

static void test_of_a_private_file_only_copies_travel(void)
{
	step(map_the_file);
	step(read_all);
	follow();
	collect();
	expect_written("");
	step(write_3_and_20);
	collect();
	expect_written("3,20");
	step(drop_2_to_5);
	collect();
	expect_dropped("3", DROP_BACK_TO_FILE);
	step(read_all);
	collect();
	expect_written("");
	freeze_and_compare(true);
}

/* The file's pages are not in memory then; page 3 is the first to be read. */
static void punch_and_lock_3(void)
{
	fallocate(file_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGES * PAGE);
	if (mlock(arena + 3 * PAGE, PAGE) < 0)
		_exit(1);
}

/* A marker of write-protection in a page table would have the kernel go round in circles. */
static void test_memory_that_we_followed_can_be_locked(void)
{
	void (*fn)(void) = punch_and_lock_3;
	char done;
	step(map_the_file);
	step(read_all);
	follow();
	step(write_3_and_20);
	collect();
	step(drop_2_to_5);
	collect();
	CU_ASSERT_EQUAL_FATAL(write(to_child, &fn, sizeof(fn)), sizeof(fn));
	struct pollfd answer = {.fd = from_child, .events = POLLIN};
	bool answered = poll(&answer, 1, 20000) == 1;
	/* Nothing else ends it then, and who lets go of it would wait for it. */
	if (!answered)
		kill(child, SIGKILL);
	CU_ASSERT_TRUE_FATAL(answered);
	CU_ASSERT_EQUAL(read(from_child, &done, 1), 1);
	freeze_and_compare(true);
}

static void test_a_dropped_copy_that_is_read_is_the_file_again(void)
{
	step(map_the_file);
	follow();
	step(write_3_and_20);
	collect();
	expect_written("3,20");
	step(drop_2_to_5);
	step(read_all);
	collect();
	expect_dropped("3", DROP_BACK_TO_FILE);
	freeze_and_compare(true);
}

static const struct page_span *find_object_span(uint64_t at)
{
	for (size_t i = 0; i < changes->nwritten; i++) {
		const struct page_span *s = &changes->written[i];
		if (s->space != SPACE_PRIVATE && s->at <= at && at < s->at + s->bytes)
			return s;
	}
	return NULL;
}

static void test_shared_memory_travels_as_an_object(void)
{
	step(map_shared);
	step(write_0_to_9);
	follow();
	collect();
	CU_ASSERT_PTR_NOT_NULL_FATAL(find_object_span(0));
	space_id space = find_object_span(0)->space;
	CU_ASSERT_PTR_NOT_NULL(find_object_span(9 * PAGE));
	CU_ASSERT_PTR_NULL(find_object_span(10 * PAGE));
	CU_ASSERT_EQUAL(find_object_span(9 * PAGE)->address + 9 * PAGE -
				find_object_span(9 * PAGE)->at - (uintptr_t)arena,
		9 * PAGE);
	step(write_3_and_20);
	collect();
	expect_read("3,20");
	CU_ASSERT_EQUAL(find_object_span(20 * PAGE)->space, space);
}

static void test_a_hole_punched_into_shared_memory_is_dropped(void)
{
	step(map_shared);
	step(write_0_to_9);
	follow();
	collect();
	step(punch_2_to_5);
	collect();
	uint64_t dropped = 0;
	for (size_t i = 0; i < changes->ndrops; i++) {
		if (changes->drops[i].space != SPACE_PRIVATE)
			dropped += (changes->drops[i].run.end - changes->drops[i].run.start) / PAGE;
	}
	CU_ASSERT_EQUAL(dropped, 4);
}

static void test_what_was_not_acknowledged_is_found_again(void)
{
	struct tide_error err = {0};
	step(write_0_to_9);
	follow();
	CU_ASSERT_EQUAL_FATAL(source->ops->collect(source, &changes, &err), 0);
	expect_written("0-9");
	CU_ASSERT_EQUAL(source->ops->settle(source, false, &err), 0);
	collect();
	expect_written("0-9");
	step(write_3_and_20);
	CU_ASSERT_EQUAL_FATAL(source->ops->collect(source, &changes, &err), 0);
	CU_ASSERT_EQUAL(source->ops->settle(source, false, &err), 0);
	step(drop_2_to_5);
	collect();
	expect_written("20");
	expect_dropped("2-5", DROP_GONE);
	freeze_and_compare(false);
}

static void test_a_second_tracker_is_told_who_holds_it(void)
{
	struct tide_error err = {0};
	struct page_source *second = NULL;
	struct process_source_options options = {.purpose = "the second"};
	follow();
	CU_ASSERT_TRUE(process_source_open(child, &options, &second, &err) < 0);
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_UNSUPPORTED);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "test_source"));
	source->ops->release(source);
	source = NULL;
	CU_ASSERT_EQUAL(process_source_open(child, &options, &source, &err), 0);
}

static void test_a_process_that_ended_is_named(void)
{
	struct tide_error err = {0};
	follow();
	collect();
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	child = 0;
	CU_ASSERT_TRUE(source->ops->collect(source, &changes, &err) < 0);
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_TARGET_GONE);
}

static void exec_another(void)
{
	close(from_child);
	execl("/bin/sleep", "sleep", "60", NULL);
	_exit(1);
}

static void test_a_process_that_became_another_program_is_named(void)
{
	struct tide_error err = {0};
	void (*fn)(void) = exec_another;
	char byte;
	step(write_0_to_9);
	follow();
	collect();
	CU_ASSERT_EQUAL_FATAL(write(to_child, &fn, sizeof(fn)), sizeof(fn));
	/* The pipe's other end is closed by the exec. */
	CU_ASSERT_EQUAL(read(from_child, &byte, 1), 0);
	struct page_span span = {
		.at = (uintptr_t)arena, .address = (uintptr_t)arena, .bytes = PAGE};
	uint8_t page[PAGE];
	uint64_t got = 0;
	CU_ASSERT_TRUE(source->ops->read(source, &span, 1, page, &got, &err) < 0);
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_TARGET_GONE);
	CU_ASSERT_TRUE(source->ops->collect(source, &changes, &err) < 0);
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_TARGET_GONE);
}

static const struct test tests[] = {
	TEST(test_the_first_collect_finds_everything),
	TEST(test_later_ones_find_what_was_written_since),
	TEST(test_pending_counts_and_changes_nothing),
	TEST(test_dropped_pages_are_dropped),
	TEST(test_dropped_and_written_again_is_written),
	TEST(test_unmapped_pages_are_dropped),
	TEST(test_a_mapping_in_the_place_of_another_is_new),
	TEST(test_pages_that_nobody_may_read_are_read),
	TEST(test_a_moved_mapping_is_written_where_it_went),
	TEST(test_memory_beside_which_other_memory_is_moved_is_still_followed),
	TEST(test_what_an_earlier_tracker_left_behind_does_no_harm),
	TEST(test_of_a_private_file_only_copies_travel),
	TEST(test_memory_that_we_followed_can_be_locked),
	TEST(test_a_dropped_copy_that_is_read_is_the_file_again),
	TEST(test_shared_memory_travels_as_an_object),
	TEST(test_a_hole_punched_into_shared_memory_is_dropped),
	TEST(test_what_was_not_acknowledged_is_found_again),
	TEST(test_a_second_tracker_is_told_who_holds_it),
	TEST(test_a_process_that_ended_is_named),
	TEST(test_a_process_that_became_another_program_is_named),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "source", tests, setup, teardown);
}
