/* SPDX-License-Identifier: MIT */
/*
 * Memory that is written past the page tables: the scan does not see it, and what
 * tracker/hidden_writes.c finds covers it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/clock.h"
#include "proto/page_source.h"
#include "tests/harness.h"
#include "tests/system/fixture.h"
#include "tests/system/slow_file.h"
#include "tracker/backend.h"
#include "tracker/hidden_writes.h"
#include "tracker/maps.h"
#include "tracker/process.h"
#include "tracker/source.h"

enum { PAGE = 4096 };

static struct child *program;
static pid_t forked;
static struct process *process;
static struct hidden_writes *hidden;
static struct mapping_table maps;
static const struct hidden_report *report;
static struct page_source *source;
static const struct change_set *changes;

static void setup(void)
{
	program = NULL;
	forked = 0;
	process = NULL;
	hidden = NULL;
	report = NULL;
	source = NULL;
	fixture_setup();
}

static void teardown(void)
{
	/* First of all nobody waits for a disk any more. */
	slow_file_stop();
	if (source)
		source->ops->release(source);
	hidden_writes_close(hidden);
	process_close(process);
	mapping_table_release(&maps);
	if (forked > 0) {
		kill(forked, SIGKILL);
		waitpid(forked, NULL, 0);
	}
	fixture_teardown();
}

/* --- the program, and what is found of it --- */

static void start_program(const char *file)
{
	program = child_start(fixture_workload("direct"), file, NULL);
	CU_ASSERT_PTR_NOT_NULL_FATAL(child_wait_line(program, "ready"));
}

static void start_on_plain_file(void)
{
	const char *path = fixture_path("file");
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	CU_ASSERT_EQUAL(ftruncate(fd, 1 << 20), 0);
	close(fd);
	start_program(path);
}

struct place {
	uint64_t start, end;
};

/* Has the program do something; where it says that memory is going to be written. */
static struct place tell(const char *command)
{
	struct place p;
	unsigned long at;
	size_t bytes;
	dprintf(program->in, "%s\n", command);
	const char *line = child_wait_line(program, "");
	CU_ASSERT_PTR_NOT_NULL_FATAL(line);
	if (strncmp(line, "cannot", 6) == 0)
		harness_skip("the program %s", line);
	CU_ASSERT_EQUAL_FATAL(sscanf(line, "ok %lx %zu", &at, &bytes), 2);
	p.start = at;
	p.end = at + bytes;
	return p;
}

static void wait_end(const char *what, long result)
{
	char wanted[64];
	snprintf(wanted, sizeof(wanted), "ended %s %ld", what, result);
	const char *line = child_wait_line(program, "ended ");
	CU_ASSERT_PTR_NOT_NULL_FATAL(line);
	CU_ASSERT_STRING_EQUAL(line, wanted);
}

static void look_at(pid_t pid, bool frozen)
{
	struct tide_error err = {0};
	if (!process)
		CU_ASSERT_EQUAL_FATAL(process_open(pid, &process, &err), 0);
	if (!hidden)
		CU_ASSERT_EQUAL_FATAL(hidden_writes_open(process, &hidden, &err), 0);
	mapping_table_release(&maps);
	CU_ASSERT_EQUAL_FATAL(maps_read(process, NULL, &maps, &err), 0);
	int r = hidden_writes_find(hidden, &maps, frozen, &report, &err);
	if (r < 0)
		printf("%s\n", err.text);
	CU_ASSERT_EQUAL_FATAL(r, 0);
}

static void look(void)
{
	look_at(program->pid, false);
}

static bool finds(struct place p)
{
	return pageset_covers(&report->doubtful, (struct page_run){p.start, p.end});
}

static bool is_refused(void)
{
	struct hidden_word words[HIDDEN_WORDS_MAX];
	size_t n = hidden_report_words(report, words);
	bool refused = false;
	for (size_t i = 0; i < n; i++) {
		refused |= words[i].refused;
		if (words[i].refused)
			CU_ASSERT_PTR_NOT_NULL(strstr(words[i].text, "--verify-writes"));
	}
	return refused;
}

/* --- what the page tables show --- */

static void collect(void)
{
	struct tide_error err = {0};
	int r = source->ops->collect(source, &changes, &err);
	if (r < 0)
		printf("%s\n", err.text);
	CU_ASSERT_EQUAL_FATAL(r, 0);
}

static void settle(void)
{
	CU_ASSERT_EQUAL_FATAL(source->ops->settle(source, true, NULL), 0);
}

static void follow(void)
{
	struct tide_error err = {0};
	struct process_source_options options = {.purpose = "test_direct"};
	const struct backend_ops *backend;
	if (backend_choose(NULL, &backend, &err) < 0)
		harness_skip("%s", err.text);
	int r = process_source_open(program->pid, &options, &source, &err);
	if (r < 0)
		printf("%s\n", err.text);
	CU_ASSERT_EQUAL_FATAL(r, 0);
	collect();
	settle();
}

/* Did the page tables show any page of it as written? */
static bool scan_shows(struct place p)
{
	bool shows = false;
	for (size_t i = 0; i < changes->nwritten; i++) {
		const struct page_span *s = &changes->written[i];
		shows |= !s->doubtful && s->address < p.end && s->address + s->bytes > p.start;
	}
	return shows;
}

/* Is all of it read again, in doubt? */
static bool is_doubtful(struct place p)
{
	struct pageset doubtful = {0};
	for (size_t i = 0; i < changes->nwritten; i++) {
		const struct page_span *s = &changes->written[i];
		if (s->doubtful)
			CU_ASSERT_EQUAL(pageset_add(&doubtful, (struct page_run){s->address,
								       s->address + s->bytes}),
				0);
	}
	bool covered = pageset_covers(&doubtful, (struct page_run){p.start, p.end});
	pageset_release(&doubtful);
	return covered;
}

static bool holds(struct place p, char byte)
{
	size_t bytes = p.end - p.start;
	char *data = malloc(bytes);
	CU_ASSERT_PTR_NOT_NULL_FATAL(data);
	bool same = pread(process->mem_fd, data, bytes, (off_t)p.start) == (ssize_t)bytes;
	for (size_t i = 0; same && i < bytes; i++)
		same = data[i] == byte;
	free(data);
	return same;
}

/* --- tests --- */

static void test_registered_buffers_are_found_where_the_scan_is_blind(void)
{
	start_on_plain_file();
	tell("plain");
	tell("ring");
	struct place buffers = tell("register 3");
	follow();
	look();
	CU_ASSERT_EQUAL(report->rings, 1);
	CU_ASSERT_EQUAL(report->unplaced_rings, 0);
	CU_ASSERT_EQUAL(report->buffers, 3);
	CU_ASSERT_EQUAL(report->buffer_bytes, buffers.end - buffers.start);
	CU_ASSERT_EQUAL(report->pinned_bytes, buffers.end - buffers.start);
	CU_ASSERT_EQUAL(report->unexplained_bytes, 0);
	CU_ASSERT_EQUAL(pageset_bytes(&report->doubtful), buffers.end - buffers.start);
	CU_ASSERT_TRUE(finds(buffers));
	CU_ASSERT_FALSE(is_refused());

	collect();
	settle();
	struct place first = tell("pipe");
	CU_ASSERT_TRUE(holds(first, '-'));
	tell("feed");
	wait_end("pipe", (long)(first.end - first.start));
	CU_ASSERT_TRUE(holds(first, 'P'));
	collect();
	CU_ASSERT_FALSE(scan_shows(first));
	CU_ASSERT_TRUE(is_doubtful(first));
	CU_ASSERT_PTR_NOT_NULL(strstr(changes->note, "3 registered buffers (192 KiB) re-read"));
	look();
	CU_ASSERT_TRUE(finds(first));
	char note[HIDDEN_NOTE];
	hidden_report_note(report, note);
	CU_ASSERT_STRING_EQUAL(note, "3 registered buffers (192 KiB) re-read");
}

static void test_a_read_in_flight_is_found_now_and_once_more(void)
{
	start_program(slow_file_start(fixture_folder()));
	look();
	CU_ASSERT_EQUAL(report->direct_descriptors, 1);
	CU_ASSERT_EQUAL(report->reads, 0);
	CU_ASSERT_EQUAL(report->doubtful.len, 0);
	CU_ASSERT_FALSE(is_refused());
	follow();

	struct place read = tell("pread");
	slow_file_wait(1);
	collect();
	settle();
	look();
	CU_ASSERT_EQUAL(report->reads, 1);
	CU_ASSERT_EQUAL(report->read_bytes, read.end - read.start);
	CU_ASSERT_EQUAL(pageset_bytes(&report->doubtful), read.end - read.start);
	CU_ASSERT_TRUE(finds(read));
	char note[HIDDEN_NOTE];
	hidden_report_note(report, note);
	CU_ASSERT_STRING_EQUAL(note, "1 file read in flight re-read");

	slow_file_answer('x');
	wait_end("pread", (long)(read.end - read.start));
	CU_ASSERT_TRUE(holds(read, 'x'));
	collect();
	CU_ASSERT_FALSE(scan_shows(read));
	CU_ASSERT_TRUE(is_doubtful(read));
	look();
	CU_ASSERT_EQUAL(report->reads, 0);
	CU_ASSERT_TRUE(finds(read));
	hidden_report_note(report, note);
	CU_ASSERT_STRING_EQUAL(note, "64.0 KiB in flight in the round before re-read");
	look();
	CU_ASSERT_EQUAL(report->doubtful.len, 0);
	hidden_report_note(report, note);
	CU_ASSERT_STRING_EQUAL(note, "");
}

static void test_a_read_issued_after_arming_is_seen_by_the_scan(void)
{
	start_program(slow_file_start(fixture_folder()));
	follow();
	struct place read = tell("pread");
	slow_file_wait(1);
	slow_file_answer('x');
	wait_end("pread", (long)(read.end - read.start));
	collect();
	CU_ASSERT_TRUE(scan_shows(read));
}

static void test_a_vector_is_found_piece_by_piece(void)
{
	start_program(slow_file_start(fixture_folder()));
	struct place all = tell("preadv");
	slow_file_wait(1);
	look();
	CU_ASSERT_EQUAL(report->reads, 1);
	CU_ASSERT_EQUAL(report->read_bytes, 2 * PAGE);
	CU_ASSERT_EQUAL(pageset_bytes(&report->doubtful), 2 * PAGE);
	CU_ASSERT_TRUE(finds((struct place){all.start, all.start + PAGE}));
	CU_ASSERT_TRUE(finds((struct place){all.start + 8 * PAGE, all.start + 9 * PAGE}));
	look_at(program->pid, true);
	CU_ASSERT_EQUAL(pageset_bytes(&report->doubtful), 2 * PAGE);
	CU_ASSERT_EQUAL(report->reads, 0);
}

static void test_packet_pipes_are_not_direct_reads(void)
{
	int ends[2], ready[2];
	char byte;
	CU_ASSERT_EQUAL_FATAL(pipe2(ends, O_DIRECT), 0);
	CU_ASSERT_EQUAL_FATAL(pipe(ready), 0);
	fflush(stdout);
	forked = fork();
	if (forked == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(ends[1]);
		if (write(ready[1], "r", 1) != 1)
			_exit(1);
		_exit(read(ends[0], &byte, 1) != 1);
	}
	CU_ASSERT_EQUAL(read(ready[0], &byte, 1), 1);
	while (process_state_letter(forked) != 'S')
		harness_pause();
	look_at(forked, false);
	CU_ASSERT_EQUAL(report->direct_descriptors, 0);
	CU_ASSERT_EQUAL(report->reads, 0);
	CU_ASSERT_EQUAL(report->doubtful.len, 0);
	for (int i = 0; i < 2; i++) {
		close(ends[i]);
		close(ready[i]);
	}
}

static void test_a_ring_that_is_locked_makes_everything_doubtful(void)
{
	start_program(slow_file_start(fixture_folder()));
	tell("ring");
	struct place buffers = tell("register 1");
	tell("ring");
	struct place file = tell("lock");
	slow_file_wait(1);
	look();
	CU_ASSERT_EQUAL(report->rings, 2);
	CU_ASSERT_PTR_NOT_NULL(report->everything);
	CU_ASSERT_TRUE(finds(buffers));
	CU_ASSERT_TRUE(finds(file));
	for (size_t i = 0; i < maps.len; i++) {
		if (maps.v[i].kind == MAPPING_ANON)
			CU_ASSERT_TRUE(finds((struct place){maps.v[i].start, maps.v[i].end}));
	}
	char note[HIDDEN_NOTE];
	hidden_report_note(report, note);
	CU_ASSERT_PTR_NOT_NULL(strstr(note, "could not be listed"));

	slow_file_answer('f');
	wait_end("lock", 0);
	look();
	CU_ASSERT_PTR_NULL(report->everything);
	CU_ASSERT_EQUAL(report->buffers, 2);
	look();
	CU_ASSERT_TRUE(finds(buffers));
	CU_ASSERT_TRUE(finds(file));
	CU_ASSERT_EQUAL(pageset_bytes(&report->doubtful),
		buffers.end - buffers.start + file.end - file.start);
}

/* The kernel's list names the old address, the writes go to the new one. */
static void test_a_buffer_that_was_moved_makes_everything_doubtful(void)
{
	start_on_plain_file();
	tell("plain");
	tell("ring");
	tell("register 1");
	struct place moved = tell("move");
	look();
	CU_ASSERT_EQUAL(report->buffers, 1);
	CU_ASSERT_PTR_NOT_NULL(report->everything);
	CU_ASSERT_TRUE(finds(moved));
}

/* All of a huge page counts as pinned, whatever part of it is registered. */
static void test_a_huge_page_is_no_pin_of_unknown_origin(void)
{
	start_on_plain_file();
	tell("plain");
	tell("ring");
	struct place buffer = tell("huge");
	look();
	CU_ASSERT_TRUE(report->pinned_bytes >= buffer.end - buffer.start);
	CU_ASSERT_EQUAL(report->unexplained_bytes, 0);
	CU_ASSERT_FALSE(is_refused());
}

static void test_a_ring_without_a_descriptor_is_found_by_what_it_pins(void)
{
	start_on_plain_file();
	tell("plain");
	look();
	tell("ring");
	tell("register 2");
	tell("hide");
	look();
	CU_ASSERT_EQUAL(report->rings, 1);
	CU_ASSERT_EQUAL(report->buffers, 0);
	CU_ASSERT_EQUAL(report->unexplained_bytes, report->pinned_bytes);
	CU_ASSERT_TRUE(report->pinned_bytes > 0);
	CU_ASSERT_TRUE(is_refused());
}

/* After the first look only a few descriptors are looked at each time, but for a reason. */
static void test_a_ring_that_came_late_is_found_at_once(void)
{
	start_on_plain_file();
	tell("plain");
	tell("open 300");
	look();
	tell("ring");
	struct place buffers = tell("register 2");
	look();
	CU_ASSERT_EQUAL(report->buffers, 2);
	CU_ASSERT_TRUE(finds(buffers));
	CU_ASSERT_EQUAL(report->unexplained_bytes, 0);
}

static void test_descriptors_are_seen_in_turn(void)
{
	start_on_plain_file();
	tell("plain");
	tell("open 100");
	look();
	CU_ASSERT_EQUAL(report->direct_descriptors, 0);
	/* The last one, where the last slice of several looks is. */
	tell("direct");
	unsigned looks = 0;
	do
		look();
	while (report->direct_descriptors == 0 && ++looks < 20);
	CU_ASSERT_EQUAL(report->direct_descriptors, 1);
	CU_ASSERT_TRUE(looks > 1);
	for (unsigned i = 0; i < 20; i++) {
		look();
		CU_ASSERT_EQUAL(report->direct_descriptors, 1);
	}
	tell("shut");
	looks = 0;
	do
		look();
	while (report->direct_descriptors && ++looks < 20);
	CU_ASSERT_EQUAL(report->direct_descriptors, 0);
}

static void test_a_ring_in_the_programs_own_memory_is_refused(void)
{
	start_on_plain_file();
	tell("plain");
	tell("unmapped");
	look();
	CU_ASSERT_EQUAL(report->rings, 1);
	CU_ASSERT_EQUAL(report->unplaced_rings, 1);
	CU_ASSERT_TRUE(is_refused());
}

static void test_a_thread_that_never_waits_leaves_a_doubt(void)
{
	start_on_plain_file();
	tell("spin");
	look();
	CU_ASSERT_EQUAL(report->unsure_threads, 1);
	tell("plain");
	/* Its descriptor is among the first few, which the next slice begins with or wraps to. */
	for (unsigned i = 0; i < 3; i++)
		look();
	CU_ASSERT_EQUAL(report->unsure_threads, 0);
}

static void test_check_names_what_refuses_and_the_way_out(void)
{
	char pid[16];
	start_program(slow_file_start(fixture_folder()));
	snprintf(pid, sizeof(pid), "%d", program->pid);
	struct child *check = child_run(0, fixture_tidemark(), "check", pid, NULL);
	CU_ASSERT_PTR_NOT_NULL(strstr(check->text, "1 file open with O_DIRECT"));

	struct place read = tell("aio");
	slow_file_wait(1);
	check = child_run(4, fixture_tidemark(), "check", pid, NULL);
	CU_ASSERT_PTR_NOT_NULL(
		strstr(check->text, "refused: it has 1 AIO context and 1 file open with O_DIRECT"));
	CU_ASSERT_PTR_NOT_NULL(strstr(check->text, "--verify-writes"));
	slow_file_answer('a');
	wait_end("aio", (long)(read.end - read.start));

	tell("plain");
	tell("ring");
	tell("register 2");
	check = child_run(0, fixture_tidemark(), "check", pid, NULL);
	CU_ASSERT_PTR_NOT_NULL(strstr(check->text, "1 io_uring ring and 1 AIO context"));
	CU_ASSERT_PTR_NOT_NULL(strstr(check->text, "2 buffers (128 KiB) registered with io_uring"));
}

static void test_send_wants_to_be_told_before_it_follows(void)
{
	char pid[16];
	start_on_plain_file();
	struct place read = tell("aio");
	wait_end("aio", (long)(read.end - read.start));
	snprintf(pid, sizeof(pid), "%d", program->pid);
	const char *to = fixture_path("sent.tide");
	struct child *send = child_start(fixture_tidemark(), "send", pid, to, NULL);
	CU_ASSERT_EQUAL(child_finish(send), 4);
	if (!strstr(send->errors, "O_DIRECT"))
		harness_skip("this kernel cannot track writes: %s", send->errors);
	CU_ASSERT_PTR_NOT_NULL(strstr(send->errors, "--verify-writes"));
	child_run(0, fixture_tidemark(), "send", "--verify-writes", pid, to, NULL);
}

static void test_requests_in_flight_are_waited_for(void)
{
	struct hidden_drain drain = {0};
	start_program(slow_file_start(fixture_folder()));
	look();
	CU_ASSERT_EQUAL(hidden_writes_drain(hidden, 0, &drain, NULL), 0);
	bool quiet = drain.settled;

	struct place read = tell("aio");
	slow_file_wait(1);
	CU_ASSERT_EQUAL(hidden_writes_drain(hidden, 5 * NS_PER_MS, &drain, NULL), 0);
	CU_ASSERT_FALSE(drain.settled);
	CU_ASSERT_TRUE(drain.waited_ns >= 5 * NS_PER_MS);
	if (drain.pins_known)
		CU_ASSERT_TRUE(drain.pinned_pages >= (read.end - read.start) / PAGE);
	slow_file_answer('a');
	wait_end("aio", (long)(read.end - read.start));
	CU_ASSERT_EQUAL(hidden_writes_drain(hidden, 10 * NS_PER_S, &drain, NULL), 0);
	/* What others have in flight counts, too: only where there was nothing can it be nothing.
	 */
	CU_ASSERT_TRUE(drain.settled || !quiet);
}

/* A read into a registered buffer that waits for a pipe writes nothing until there is something. */
static void test_requests_that_wait_for_a_pipe_are_not_in_flight(void)
{
	struct hidden_drain drain = {0};
	start_on_plain_file();
	tell("plain");
	tell("ring");
	tell("register 2");
	tell("pipe");
	look();
	CU_ASSERT_EQUAL(hidden_writes_drain(hidden, 0, &drain, NULL), 0);
	CU_ASSERT_EQUAL(drain.requests, 0);
	tell("feed");
	wait_end("pipe", 65536);
	CU_ASSERT_EQUAL(hidden_writes_drain(hidden, 0, &drain, NULL), 0);
	CU_ASSERT_EQUAL(drain.requests, 0);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static uint64_t time_looks(bool frozen)
{
	enum { LOOKS = 101 };
	uint64_t ns[LOOKS];
	struct tide_error err;
	for (size_t i = 0; i < LOOKS; i++) {
		uint64_t before = clock_now_ns();
		CU_ASSERT_EQUAL_FATAL(hidden_writes_find(hidden, &maps, frozen, &report, &err), 0);
		ns[i] = clock_now_ns() - before;
	}
	qsort(ns, LOOKS, sizeof(ns[0]), compare);
	return ns[LOOKS / 2];
}

/* With a thousand files open a later look takes a small part of what the first one does. */
static void test_the_cost_does_not_grow_with_the_descriptors(void)
{
	start_on_plain_file();
	tell("plain");
	tell("open 90");
	look();
	uint64_t few = time_looks(false);
	tell("open 900");
	uint64_t many = time_looks(false), in_freeze = time_looks(true);
	hidden_writes_close(hidden);
	hidden = NULL;
	CU_ASSERT_EQUAL_FATAL(hidden_writes_open(process, &hidden, NULL), 0);
	uint64_t before = clock_now_ns();
	look();
	uint64_t first = clock_now_ns() - before;
	printf("[look: %.0f us, with 10 times the files %.0f us, in the freeze %.0f us, the first "
	       "%.0f us] ",
		(double)few / 1e3, (double)many / 1e3, (double)in_freeze / 1e3,
		(double)first / 1e3);
	CU_ASSERT_TRUE(many < first / 4);
	CU_ASSERT_TRUE(in_freeze < many);
}

static const struct test tests[] = {
	TEST(test_registered_buffers_are_found_where_the_scan_is_blind),
	TEST(test_a_read_in_flight_is_found_now_and_once_more),
	TEST(test_a_read_issued_after_arming_is_seen_by_the_scan),
	TEST(test_a_vector_is_found_piece_by_piece),
	TEST(test_packet_pipes_are_not_direct_reads),
	TEST(test_a_ring_that_is_locked_makes_everything_doubtful),
	TEST(test_a_buffer_that_was_moved_makes_everything_doubtful),
	TEST(test_a_huge_page_is_no_pin_of_unknown_origin),
	TEST(test_a_ring_without_a_descriptor_is_found_by_what_it_pins),
	TEST(test_a_ring_that_came_late_is_found_at_once),
	TEST(test_descriptors_are_seen_in_turn),
	TEST(test_a_ring_in_the_programs_own_memory_is_refused),
	TEST(test_a_thread_that_never_waits_leaves_a_doubt),
	TEST(test_check_names_what_refuses_and_the_way_out),
	TEST(test_send_wants_to_be_told_before_it_follows),
	TEST(test_requests_in_flight_are_waited_for),
	TEST(test_requests_that_wait_for_a_pipe_are_not_in_flight),
	TEST(test_the_cost_does_not_grow_with_the_descriptors),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "direct", tests, setup, teardown);
}
