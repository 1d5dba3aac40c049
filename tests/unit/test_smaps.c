/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include "tests/harness.h"
#include "tracker/smaps.h"
#include "tracker/working_set.h"

static struct smaps maps;

static void teardown(void)
{
	smaps_release(&maps);
}

static int parse(const char *text)
{
	struct tide_error err = {0};
	smaps_release(&maps);
	return smaps_parse(text, strlen(text), &maps, &err);
}

static const char two[] = "55d0c8a00000-55d0c8a21000 rw-p 00000000 00:00 0     [heap]\n"
			  "Size:                132 kB\n"
			  "KernelPageSize:        4 kB\n"
			  "Rss:                 100 kB\n"
			  "Pss:                  90 kB\n"
			  "Pss_Dirty:            80 kB\n"
			  "Shared_Clean:          1 kB\n"
			  "Shared_Dirty:          2 kB\n"
			  "Private_Clean:         3 kB\n"
			  "Private_Dirty:         4 kB\n"
			  "Referenced:           60 kB\n"
			  "Anonymous:            99 kB\n"
			  "KSM:                   5 kB\n"
			  "AnonHugePages:         6 kB\n"
			  "ShmemPmdMapped:        7 kB\n"
			  "FilePmdMapped:         8 kB\n"
			  "Shared_Hugetlb:        9 kB\n"
			  "Private_Hugetlb:      10 kB\n"
			  "Swap:                 11 kB\n"
			  "SwapPss:              12 kB\n"
			  "Newly_Thought_Of:     13 furlongs\n"
			  "THPeligible:           0\n"
			  "VmFlags: rd wr mr mw me ac sd \n"
			  "7f0000000000-7f0000002000 r-xp 00001000 fe:01 42      /lib/x\n"
			  "Rss:                   8 kB\n"
			  "Referenced:            4 kB\n"
			  "VmFlags: rd ex mr mw me pf io\n";

static void test_fields_go_to_their_mapping(void)
{
	CU_ASSERT_EQUAL_FATAL(parse(two), 0);
	CU_ASSERT_EQUAL_FATAL(maps.len, 2);
	const struct smaps_bytes *b = &maps.v[0].bytes;
	CU_ASSERT_EQUAL(maps.v[0].mapping.start, 0x55d0c8a00000);
	CU_ASSERT_STRING_EQUAL(maps.v[0].mapping.name, "[heap]");
	CU_ASSERT_EQUAL(b->rss, 100 << 10);
	CU_ASSERT_EQUAL(b->shared_clean, 1 << 10);
	CU_ASSERT_EQUAL(b->shared_dirty, 2 << 10);
	CU_ASSERT_EQUAL(b->private_clean, 3 << 10);
	CU_ASSERT_EQUAL(b->private_dirty, 4 << 10);
	CU_ASSERT_EQUAL(b->referenced, 60 << 10);
	CU_ASSERT_EQUAL(b->anonymous, 99 << 10);
	CU_ASSERT_EQUAL(b->ksm, 5 << 10);
	CU_ASSERT_EQUAL(b->anon_huge, 6 << 10);
	CU_ASSERT_EQUAL(b->shmem_huge, 7 << 10);
	CU_ASSERT_EQUAL(b->file_huge, 8 << 10);
	CU_ASSERT_EQUAL(b->shared_hugetlb, 9 << 10);
	CU_ASSERT_EQUAL(b->private_hugetlb, 10 << 10);
	CU_ASSERT_EQUAL(b->swap, 11 << 10);
	CU_ASSERT_EQUAL(maps.v[1].bytes.rss, 8 << 10);
	CU_ASSERT_EQUAL(maps.v[1].bytes.swap, 0);
}

static void test_flags_are_whole_words(void)
{
	CU_ASSERT_EQUAL_FATAL(parse(two), 0);
	CU_ASSERT_FALSE(maps.v[0].is_direct);
	CU_ASSERT_TRUE(maps.v[1].is_direct);
	CU_ASSERT_EQUAL_FATAL(parse("1000-2000 rw-p 0 00:00 0\nVmFlags: xpf ht\n"), 0);
	CU_ASSERT_FALSE(maps.v[0].is_direct);
	CU_ASSERT_TRUE(maps.v[0].is_hugetlb);
	CU_ASSERT_EQUAL_FATAL(parse("1000-2000 rw-p 0 00:00 0\nVmFlags: rd mm"), 0);
	CU_ASSERT_TRUE(maps.v[0].is_direct);
	CU_ASSERT_FALSE(maps.v[0].is_hugetlb);
}

static void test_files_are_what_the_kernel_takes_for_files(void)
{
	static const struct {
		const char *line;
		bool file;
	} cases[] = {
		{"1000-2000 rw-p 0 00:00 0", false},
		{"1000-2000 rw-p 0 00:00 0 [stack]", false},
		{"1000-2000 r-xp 0 00:00 0 [vdso]", false},
		{"1000-2000 rw-s 0 00:01 7 /dev/zero (deleted)", true},
		{"1000-2000 rw-s 0 00:01 8 [anon_shmem:x]", true},
		{"1000-2000 rw-s 0 00:0f 9 anon_inode:[io_uring]", true},
		{"1000-2000 r--p 0 fe:01 9 /lib/x", true},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		CU_ASSERT_EQUAL_FATAL(parse(cases[i].line), 0);
		CU_ASSERT_EQUAL_FATAL(maps.len, 1);
		CU_ASSERT_EQUAL(maps.v[0].has_file, cases[i].file);
	}
}

static void test_what_a_later_piece_repeats_is_left_out(void)
{
	CU_ASSERT_EQUAL_FATAL(parse("1000-5000 rw-p 0 00:00 0\nRss: 4 kB\n"
				    "2000-4000 rw-p 0 00:00 0\nRss: 8 kB\n"
				    "4000-7000 rw-p 0 00:00 0\nRss: 12 kB\n"),
		0);
	CU_ASSERT_EQUAL_FATAL(maps.len, 2);
	CU_ASSERT_EQUAL(maps.v[0].bytes.rss, 4 << 10);
	CU_ASSERT_EQUAL(maps.v[1].mapping.start, 0x5000);
	CU_ASSERT_EQUAL(maps.v[1].bytes.rss, 12 << 10);
}

static void test_nonsense_is_refused(void)
{
	CU_ASSERT_EQUAL(parse(""), 0);
	CU_ASSERT_EQUAL(maps.len, 0);
	CU_ASSERT_EQUAL(parse("Rss: 4 kB\n"), 0);
	CU_ASSERT_EQUAL(maps.len, 0);
	CU_ASSERT_EQUAL(parse("1000-2000 what\n"), -EBADMSG);
	CU_ASSERT_EQUAL(parse("deadbeef\n"), -EBADMSG);
	CU_ASSERT_EQUAL(parse("1000-2000 rw-p 0 00:00 0\nRss: -4 kB\n"), -EBADMSG);
	CU_ASSERT_EQUAL(parse("1000-2000 rw-p 0 00:00 0\nRss:\n"), -EBADMSG);
	CU_ASSERT_EQUAL(
		parse("1000-2000 rw-p 0 00:00 0\nRss: 99999999999999999999 kB\n"), -EBADMSG);
	CU_ASSERT_EQUAL(parse("1000-2000 rw-p 0 00:00 0\nRss: 18014398509481984 kB\n"), -EBADMSG);
	/* Cut anywhere, it gives an error or a table, and nothing else. */
	char cut[sizeof(two)];
	for (size_t len = 0; len < sizeof(two); len++) {
		memcpy(cut, two, len);
		cut[len] = '\0';
		CU_ASSERT_TRUE(parse(cut) <= 0 && maps.len <= 2);
	}
}

static void test_a_working_set_is_the_sum_of_its_kind(void)
{
	struct working_set set;
	CU_ASSERT_EQUAL_FATAL(parse(two), 0);
	working_set_sum(&maps, WORKING_SET_ALL, &set);
	CU_ASSERT_EQUAL(set.rss_bytes, 108 << 10);
	CU_ASSERT_EQUAL(set.referenced_bytes, 64 << 10);
	CU_ASSERT_EQUAL(set.anonymous_bytes, 60 << 10);
	CU_ASSERT_EQUAL(set.file_bytes, 4 << 10);
	working_set_sum(&maps, WORKING_SET_ANONYMOUS, &set);
	CU_ASSERT_EQUAL(set.rss_bytes, 100 << 10);
	CU_ASSERT_EQUAL(set.referenced_bytes, 60 << 10);
	CU_ASSERT_EQUAL(set.file_bytes, 0);
	working_set_sum(&maps, WORKING_SET_FILE, &set);
	CU_ASSERT_EQUAL(set.rss_bytes, 8 << 10);
	CU_ASSERT_EQUAL(set.referenced_bytes, 4 << 10);
	CU_ASSERT_EQUAL(set.anonymous_bytes, 0);
}

static const struct test tests[] = {
	TEST(test_fields_go_to_their_mapping),
	TEST(test_flags_are_whole_words),
	TEST(test_files_are_what_the_kernel_takes_for_files),
	TEST(test_what_a_later_piece_repeats_is_left_out),
	TEST(test_nonsense_is_refused),
	TEST(test_a_working_set_is_the_sum_of_its_kind),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "smaps", tests, NULL, teardown);
}
