/* SPDX-License-Identifier: MIT */
/* The kernel's texts about rings and system calls, as several kernels write them. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include "tests/harness.h"
#include "tracker/hidden_text.h"

enum { PAGE = 4096 };

static struct ring_text ring;

static void setup(void)
{
	ring = (struct ring_text){0};
}

static void teardown(void)
{
	ring_text_release(&ring);
}

static int parse(const char *text)
{
	ring_text_release(&ring);
	return ring_text_parse(text, PAGE, &ring);
}

/* Linux 6.18, two buffers, the first not on a page's boundary; one read waits for a pipe. */
static const char text_6_18[] = "pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t1028388\n"
				"SqMask:\t0x7\nSqHead:\t3\nSqTail:\t3\nCachedSqHead:\t3\n"
				"CqMask:\t0xf\nCqHead:\t2\nCqTail:\t2\nCachedCqTail:\t2\n"
				"SQEs:\t0\nCQEs:\t0\nSqThread:\t-1\nSqThreadCpu:\t-1\n"
				"SqTotalTime:\t0\nSqWorkTime:\t0\n"
				"UserFiles:\t4\n    0: /srv/data.db\n    2: socket:[1234]\n"
				"    3: anon_inode:[eventfd]\n"
				"UserBufs:\t3\n    0: 0x7f6793a00064/8192\n    1: <none>\n"
				"    2: 0x7f6793a10000/65536\n"
				"PollList:\n  op=4, task_works=0\n"
				"CqOverflowList:\nNAPI:\tdisabled\n";

/* The same kernel while the ring's lock is held: not a word of the ring. */
static const char text_6_18_locked[] = "pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t1028388\n";

/* Linux 6.1: names without their folders, no inode for a reader without the right, a sparse table's
 * empty slot. */
static const char text_6_1[] = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t9303\n"
			       "SqMask:\t0x7\nSqHead:\t0\nSqTail:\t0\nCachedSqHead:\t0\n"
			       "CqMask:\t0xf\nCqHead:\t0\nCqTail:\t0\nCachedCqTail:\t0\n"
			       "SQEs:\t0\nCQEs:\t0\nSqThread:\t-1\nSqThreadCpu:\t-1\n"
			       "UserFiles:\t4\n    0: data.db\n    1: <none>\n    2: \n"
			       "    3: [eventfd]\n"
			       "UserBufs:\t2\n    0: 0x7f0000001000/4096\n"
			       "    1: 0xffffffffffffffff/1\n"
			       "PollList:\nCqOverflowList:\n";

/* Linux 6.1 and 6.12 while the lock is held: the number, and no line. */
static const char text_6_12_locked[] = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t9303\n"
				       "SqMask:\t0x7\nSqHead:\t0\nSqTail:\t0\nCachedSqHead:\t0\n"
				       "UserFiles:\t1\nUserBufs:\t2\nPollList:\nCqOverflowList:\n";

static void test_buffers_are_found_whole_pages(void)
{
	CU_ASSERT_EQUAL_FATAL(parse(text_6_18), 0);
	CU_ASSERT_TRUE(ring.whole);
	CU_ASSERT_EQUAL(ring.inode, 1028388);
	CU_ASSERT_EQUAL(ring.nbuffers, 2);
	CU_ASSERT_EQUAL(ring.buffer_bytes, 8192 + 65536);
	CU_ASSERT_EQUAL_FATAL(ring.buffers.len, 2);
	CU_ASSERT_EQUAL(ring.buffers.runs[0].start, 0x7f6793a00000);
	CU_ASSERT_EQUAL(ring.buffers.runs[0].end, 0x7f6793a03000);
	CU_ASSERT_EQUAL(ring.buffers.runs[1].start, 0x7f6793a10000);
	CU_ASSERT_EQUAL(ring.buffers.runs[1].end, 0x7f6793a20000);
	CU_ASSERT_EQUAL(ring.nfiles, 1);
	CU_ASSERT_EQUAL(ring.submitted, 3);
	CU_ASSERT_EQUAL(ring.completed, 2);
	CU_ASSERT_EQUAL(ring.npolls, 1);
}

static void test_an_older_kernel_says_it_otherwise(void)
{
	CU_ASSERT_EQUAL_FATAL(parse(text_6_1), 0);
	CU_ASSERT_TRUE(ring.whole);
	CU_ASSERT_EQUAL(ring.nbuffers, 1);
	CU_ASSERT_EQUAL_FATAL(ring.buffers.len, 1);
	CU_ASSERT_EQUAL(ring.buffers.runs[0].start, 0x7f0000001000);
	CU_ASSERT_EQUAL(ring.buffers.runs[0].end, 0x7f0000002000);
	CU_ASSERT_EQUAL(ring.nfiles, 1);
}

static void test_a_ring_that_is_locked_is_not_a_ring_without_buffers(void)
{
	CU_ASSERT_EQUAL_FATAL(parse(text_6_18_locked), 0);
	CU_ASSERT_FALSE(ring.whole);
	CU_ASSERT_EQUAL(ring.inode, 1028388);
	CU_ASSERT_EQUAL_FATAL(parse(text_6_12_locked), 0);
	CU_ASSERT_FALSE(ring.whole);
	CU_ASSERT_EQUAL_FATAL(parse("ino:\t1\nUserBufs:\t0\nPollList:\n"), 0);
	CU_ASSERT_TRUE(ring.whole);
}

static void test_a_name_cannot_pose_as_the_list(void)
{
	CU_ASSERT_EQUAL_FATAL(parse("ino:\t1\nUserFiles:\t1\n    0: x\nUserBufs:\t0\nPollList:\n\n"
				    "UserBufs:\t1\n    0: 0x10000/4096\nPollList:\n"),
		0);
	CU_ASSERT_TRUE(ring.whole);
	CU_ASSERT_EQUAL(ring.nbuffers, 1);
}

static void test_memory_of_the_kernel_does_not_count(void)
{
	CU_ASSERT_EQUAL_FATAL(parse("UserBufs:\t2\n    0: 0x0/1048576\n"
				    "    1: 0xffffffffffffffff/4294967295\nPollList:\n"),
		0);
	CU_ASSERT_TRUE(ring.whole);
	CU_ASSERT_EQUAL(ring.nbuffers, 0);
	CU_ASSERT_EQUAL(ring.buffers.len, 0);
}

static void test_garbage_is_refused(void)
{
	static const char *const texts[] = {
		"UserBufs:\t1\n    0: 4096/0x1000\n",
		"UserBufs:\t1\n    0: 0x1000\n",
		"UserBufs:\t1\n    0: 0x/4096\n",
		"UserBufs:\t1\n    0: 0x1000/\n",
		"UserBufs:\t1\n    0: 0x1000/12x\n",
		"UserBufs:\t1\n    1: 0x1000/4096\n",
		"UserBufs:\t2\n    0: 0x1000/4096\nPollList:\n",
		"UserBufs:\t2\n    0: 0x1000/4096\n",
		"UserBufs:\t18446744073709551615\n    0: 0x1000/4096\n",
		"UserBufs:\t1\n    0: 0x1000/4096",
	};
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		CU_ASSERT_EQUAL(parse(texts[i]), -EBADMSG);
		CU_ASSERT_EQUAL(ring.nbuffers, 0);
	}
	CU_ASSERT_EQUAL(parse(""), 0);
	CU_ASSERT_FALSE(ring.whole);
}

/* Every text that was cut off is read without reaching beyond it (the sanitizers look). */
static void test_cut_texts_never_say_more(void)
{
	for (size_t len = 0; len < sizeof(text_6_18); len++) {
		char *text = strndup(text_6_18, len);
		CU_ASSERT_PTR_NOT_NULL_FATAL(text);
		(void)parse(text);
		CU_ASSERT_TRUE(ring.nbuffers <= 2);
		free(text);
	}
}

static void test_ranges_do_not_wrap(void)
{
	struct pageset set = {0};
	CU_ASSERT_EQUAL(hidden_add(&set, UINT64_MAX - 10, 4096, PAGE), 0);
	CU_ASSERT_EQUAL(set.len, 0);
	CU_ASSERT_EQUAL(hidden_add(&set, 0x1234, UINT64_MAX, PAGE), 0);
	CU_ASSERT_EQUAL_FATAL(set.len, 1);
	CU_ASSERT_EQUAL(set.runs[0].start, 0x1000);
	CU_ASSERT_EQUAL(set.runs[0].end, UINT64_C(1) << 63);
	pageset_clear(&set);
	CU_ASSERT_EQUAL(hidden_add(&set, 0x1fff, 2, PAGE), 0);
	CU_ASSERT_EQUAL(pageset_bytes(&set), 2 * PAGE);
	pageset_clear(&set);
	CU_ASSERT_EQUAL(hidden_add(&set, 0x1000, 0, PAGE), 0);
	CU_ASSERT_EQUAL(set.len, 0);
	pageset_release(&set);
}

static void test_open_flags(void)
{
	CU_ASSERT_EQUAL(fdinfo_flags("pos:\t0\nflags:\t02140000\nmnt_id:\t1\n"), 02140000);
	CU_ASSERT_EQUAL(fdinfo_flags("pos:\t0\n"), 0);
	CU_ASSERT_EQUAL(fdinfo_flags(""), 0);
}

static void call_line(char line[256], long nr)
{
	snprintf(line, 256,
		"%ld 0x3 0x7f5b2418f010 0x10000 0x0 0x0 0x7ffca598dd17 0x7f5b2418dea0 "
		"0x7f5b24298417\n",
		nr);
}

static void test_calls_that_read(void)
{
	static const long plain[] = {SYS_read, SYS_pread64},
			  vectors[] = {SYS_readv, SYS_preadv, SYS_preadv2},
			  others[] = {SYS_write, SYS_pwrite64, SYS_close, SYS_ioctl};
	char line[256];
	struct call_text call;
	struct read_call read;
	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
		call_line(line, plain[i]);
		CU_ASSERT_EQUAL_FATAL(call_text_parse(line, &call), 0);
		CU_ASSERT_TRUE_FATAL(read_call_of(&call, &read));
		CU_ASSERT_EQUAL(read.fd, 3);
		CU_ASSERT_EQUAL(read.address, 0x7f5b2418f010);
		CU_ASSERT_EQUAL(read.length, 0x10000);
		CU_ASSERT_FALSE(read.vector);
	}
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		call_line(line, vectors[i]);
		CU_ASSERT_EQUAL_FATAL(call_text_parse(line, &call), 0);
		CU_ASSERT_TRUE_FATAL(read_call_of(&call, &read));
		CU_ASSERT_TRUE(read.vector);
	}
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		call_line(line, others[i]);
		CU_ASSERT_EQUAL_FATAL(call_text_parse(line, &call), 0);
		CU_ASSERT_FALSE(read_call_of(&call, &read));
	}
}

static void test_threads_in_no_call(void)
{
	struct call_text call;
	struct read_call read;
	CU_ASSERT_EQUAL(call_text_parse("running\n", &call), 0);
	CU_ASSERT_TRUE(call.running);
	CU_ASSERT_FALSE(read_call_of(&call, &read));
	CU_ASSERT_EQUAL(call_text_parse("-1 0x7ffca598dcf0 0x7f5b2429a2ec\n", &call), 0);
	CU_ASSERT_FALSE(call.running);
	CU_ASSERT_FALSE(read_call_of(&call, &read));
	/* What a kernel thread of io_uring's says. */
	CU_ASSERT_EQUAL(call_text_parse("0 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0\n", &call), 0);
	CU_ASSERT_FALSE(read_call_of(&call, &read));

	static const char *const garbage[] = {"", "\n", "17", "17 0x3 0x7f 0x10", "read 0x3", "-1"};
	for (size_t i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++)
		CU_ASSERT_EQUAL(call_text_parse(garbage[i], &call), -EBADMSG);
}

static const struct test tests[] = {
	TEST(test_buffers_are_found_whole_pages),
	TEST(test_an_older_kernel_says_it_otherwise),
	TEST(test_a_ring_that_is_locked_is_not_a_ring_without_buffers),
	TEST(test_a_name_cannot_pose_as_the_list),
	TEST(test_memory_of_the_kernel_does_not_count),
	TEST(test_garbage_is_refused),
	TEST(test_cut_texts_never_say_more),
	TEST(test_ranges_do_not_wrap),
	TEST(test_open_flags),
	TEST(test_calls_that_read),
	TEST(test_threads_in_no_call),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "hidden_writes", tests, setup, teardown);
}
