/* SPDX-License-Identifier: MIT */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>
#include "tests/harness.h"
#include "tracker/object_data.h"

enum { PAGE = 4096 };

static int file;
static off_t cut_to; /* when the end of data is asked for; -1: not */
static struct pageset data;

off_t __real_lseek64(int fd, off_t offset, int whence);
off_t __wrap_lseek64(int fd, off_t offset, int whence);

/* The file is cut off between the two questions: what its owner may do at any moment. */
off_t __wrap_lseek64(int fd, off_t offset, int whence)
{
	if (whence == SEEK_HOLE && cut_to >= 0)
		CU_ASSERT_EQUAL(ftruncate(fd, cut_to), 0);
	return __real_lseek64(fd, offset, whence);
}

static void setup(void)
{
	file = memfd_create("test_object_data", MFD_CLOEXEC);
	cut_to = -1;
	CU_ASSERT_EQUAL_FATAL(ftruncate(file, 16 * PAGE), 0);
	CU_ASSERT_EQUAL_FATAL(pwrite(file, "a", 1, 2 * PAGE), 1);
	CU_ASSERT_EQUAL_FATAL(pwrite(file, "b", 1, 8 * PAGE + 5), 1);
}

static void teardown(void)
{
	pageset_release(&data);
	close(file);
}

static void test_extents_are_found_within_the_mapping(void)
{
	struct mapping m = {.start = 0x10000, .end = 0x10000 + 8 * PAGE, .offset = 1 * PAGE};
	CU_ASSERT_EQUAL(object_data_ask(file, &m, PAGE, &data), 0);
	CU_ASSERT_EQUAL_FATAL(data.len, 2);
	CU_ASSERT_EQUAL(data.runs[0].start, 2 * PAGE);
	CU_ASSERT_EQUAL(data.runs[0].end, 3 * PAGE);
	CU_ASSERT_EQUAL(data.runs[1].start, 8 * PAGE);
	CU_ASSERT_EQUAL(data.runs[1].end, 9 * PAGE);
}

static void test_a_file_that_is_cut_off_meanwhile_has_no_data_there(void)
{
	struct mapping m = {.start = 0x10000, .end = 0x10000 + 16 * PAGE};
	cut_to = 0;
	CU_ASSERT_EQUAL(object_data_ask(file, &m, PAGE, &data), 0);
	CU_ASSERT_EQUAL(data.len, 0);
}

static const struct test tests[] = {
	TEST(test_extents_are_found_within_the_mapping),
	TEST(test_a_file_that_is_cut_off_meanwhile_has_no_data_there),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "object_data", tests, setup, teardown);
}
