/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "tests/harness.h"
#include "tracker/maps.h"

static struct mapping_table maps;

static void teardown(void)
{
	mapping_table_release(&maps);
}

static const struct mapping *parse_one(const char *line)
{
	struct tide_error err;
	mapping_table_release(&maps);
	CU_ASSERT_EQUAL_FATAL(maps_parse(line, strlen(line), &maps, &err), 0);
	CU_ASSERT_EQUAL_FATAL(maps.len, 1);
	return &maps.v[0];
}

static void test_a_line_gives_all_its_fields(void)
{
	const struct mapping *m = parse_one("55d0c8a00000-55d0c8a21000 r-xp 00002000 fe:01 1234    "
					    "                   /usr/bin/with space\n");
	CU_ASSERT_EQUAL(m->start, 0x55d0c8a00000);
	CU_ASSERT_EQUAL(m->end, 0x55d0c8a21000);
	CU_ASSERT_EQUAL(m->prot, PROT_READ | PROT_EXEC);
	CU_ASSERT_EQUAL(m->flags, 0);
	CU_ASSERT_EQUAL(m->offset, 0x2000);
	CU_ASSERT_EQUAL(m->dev_major, 0xfe);
	CU_ASSERT_EQUAL(m->dev_minor, 1);
	CU_ASSERT_EQUAL(m->inode, 1234);
	CU_ASSERT_EQUAL(m->kind, MAPPING_FILE_PRIVATE);
	CU_ASSERT_STRING_EQUAL(m->name, "/usr/bin/with space");
}

static void test_kinds_follow_from_the_line(void)
{
	static const struct {
		const char *line;
		enum mapping_kind kind;
	} cases[] = {
		{"1000-2000 rw-p 00000000 00:00 0 ", MAPPING_ANON},
		{"1000-2000 rw-p 00000000 00:00 0 [heap]", MAPPING_ANON},
		{"1000-2000 rw-p 00000000 00:00 0 [anon:some name]", MAPPING_ANON},
		{"1000-2000 rw-s 00000000 00:01 77 /dev/zero (deleted)", MAPPING_OBJECT},
		{"1000-2000 rw-s 00000000 00:01 78 /memfd:x (deleted)", MAPPING_OBJECT},
		{"1000-2000 rw-s 00000000 00:01 79 /SYSV00000000 (deleted)", MAPPING_OBJECT},
		{"1000-2000 rw-p 00000000 00:05 4 /dev/zero", MAPPING_ANON},
		{"1000-2000 rw-s 00000000 fe:01 80 /data/file", MAPPING_FILE_SHARED},
		{"1000-2000 r-xp 00000000 00:00 0 [vdso]", MAPPING_VDSO},
		{"1000-2000 r--p 00000000 00:00 0 [vvar]", MAPPING_OPAQUE},
		{"1000-2000 r--p 00000000 00:00 0 [vvar_vclock]", MAPPING_OPAQUE},
		{"1000-2000 rw-s 00000000 00:0f 81 anon_inode:[io_uring]", MAPPING_OPAQUE},
		{"1000-2000 rw-s 00000000 00:0f 82 /[aio] (deleted)", MAPPING_OPAQUE},
		{"1000-2000 rw-s 00000000 00:10 83 /secretmem (deleted)", MAPPING_OPAQUE},
		{"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]",
			MAPPING_OPAQUE},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct mapping *m = parse_one(cases[i].line);
		CU_ASSERT_EQUAL(m->kind, cases[i].kind);
		CU_ASSERT_EQUAL(m->why != NULL, m->kind == MAPPING_OPAQUE);
	}
}

static void test_the_stack_grows_down(void)
{
	CU_ASSERT_EQUAL(
		parse_one("1000-2000 rw-p 00000000 00:00 0 [stack]")->flags, MAPPING_GROWSDOWN);
}

static void test_a_newline_in_a_name_is_one_again(void)
{
	CU_ASSERT_STRING_EQUAL(
		parse_one("1000-2000 r--p 00000000 fe:01 9 /a\\012b")->name, "/a\nb");
}

static void test_lines_that_make_no_sense_are_named(void)
{
	static const char *const bad[] = {"1000-2000 rw-p 00000000 00:00\n",
		"2000-1000 rw-p 0 00:00 0 \n", "hello\n", "1000-2000 rw-p 0 00:00 0 \nhello\n"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct tide_error err = {0};
		CU_ASSERT_EQUAL(maps_parse(bad[i], strlen(bad[i]), &maps, &err), -EBADMSG);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, i == 3 ? "line 2" : "line 1"));
		CU_ASSERT_EQUAL(maps.len, 0);
	}
}

/* As the kernel writes it while the process maps and unmaps. */
static void test_lines_over_each_other_are_cut(void)
{
	static const char text[] = "1000-3000 rw-p 00000000 00:00 0 \n"
				   "1000-2000 rw-p 00000000 00:00 0 \n"
				   "2000-5000 rw-p 00001000 fe:01 9 /file\n";
	struct tide_error err;
	CU_ASSERT_EQUAL_FATAL(maps_parse(text, strlen(text), &maps, &err), 0);
	CU_ASSERT_EQUAL_FATAL(maps.len, 2);
	CU_ASSERT_EQUAL(maps.v[1].start, 0x3000);
	CU_ASSERT_EQUAL(maps.v[1].end, 0x5000);
	CU_ASSERT_EQUAL(maps.v[1].offset, 0x2000);
}

static const struct test tests[] = {
	TEST(test_a_line_gives_all_its_fields),
	TEST(test_kinds_follow_from_the_line),
	TEST(test_the_stack_grows_down),
	TEST(test_a_newline_in_a_name_is_one_again),
	TEST(test_lines_that_make_no_sense_are_named),
	TEST(test_lines_over_each_other_are_cut),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "maps", tests, NULL, teardown);
}
