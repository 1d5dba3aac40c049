/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdint.h>
#include "base/error.h"
#include "base/units.h"
#include "tests/harness.h"

static void test_bytes_are_read_as_people_write_them(void)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0}, {"4096", 4096}, {"64K", 65536}, {"1.5GiB", 1610612736},
		{"2MB", 2000000}, {"64 m", 67108864}, {"1T", 1099511627776}};
	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		uint64_t bytes = 0;
		CU_ASSERT_EQUAL(units_parse_bytes(good[i].text, &bytes), 0);
		CU_ASSERT_EQUAL(bytes, good[i].bytes);
	}
}

static void test_bytes_that_make_no_sense_are_refused(void)
{
	static const char *const bad[] = {
		"", "-1", "K", "0x10", "inf", "nan", "1 2", "4Q", " 4", "+4"};
	uint64_t bytes = 77;
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CU_ASSERT_EQUAL(units_parse_bytes(bad[i], &bytes), -EINVAL);
	CU_ASSERT_EQUAL(units_parse_bytes("99999999999999999999T", &bytes), -ERANGE);
	CU_ASSERT_EQUAL(bytes, 77);
}

static void test_rates_are_read_as_links_are_rated(void)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"4096", 4096}, {"200M", 200000000}, {"200 MB/s", 200000000},
		{"1Gbit", 125000000}, {"100mbit/s", 12500000}, {"1.5GiB/S", 1610612736},
		{"2k", 2000}};
	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		uint64_t bytes = 0;
		CU_ASSERT_EQUAL(units_parse_rate(good[i].text, &bytes), 0);
		CU_ASSERT_EQUAL(bytes, good[i].bytes);
	}
	static const char *const bad[] = {"", "/s", "M", "-1M", "1Gb it", "5 M/m", "3M/s/s",
		"1000000000000000000000000000000000000000"};
	uint64_t bytes = 77;
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CU_ASSERT_EQUAL(units_parse_rate(bad[i], &bytes), -EINVAL);
	CU_ASSERT_EQUAL(units_parse_rate("99999999999999T", &bytes), -ERANGE);
	CU_ASSERT_EQUAL(bytes, 77);
}

static void test_times_are_read_as_people_write_them(void)
{
	uint64_t ns = 0;
	CU_ASSERT_EQUAL(units_parse_ns("100ms", &ns), 0);
	CU_ASSERT_EQUAL(ns, 100000000);
	CU_ASSERT_EQUAL(units_parse_ns("1.5s", &ns), 0);
	CU_ASSERT_EQUAL(ns, 1500000000);
	CU_ASSERT_EQUAL(units_parse_ns("2", &ns), 0);
	CU_ASSERT_EQUAL(ns, 2000000000);
	CU_ASSERT_EQUAL(units_parse_ns("1 fortnight", &ns), -EINVAL);
}

static void test_formats_keep_three_digits(void)
{
	char buf[UNITS_TEXT];
	CU_ASSERT_STRING_EQUAL(units_format_bytes(buf, 512), "512 B");
	CU_ASSERT_STRING_EQUAL(units_format_bytes(buf, 1572864), "1.5 MiB");
	CU_ASSERT_STRING_EQUAL(units_format_bytes(buf, 1073741823), "1.0 GiB");
	CU_ASSERT_STRING_EQUAL(units_format_short(buf, 0), "0");
	CU_ASSERT_STRING_EQUAL(units_format_short(buf, 341), "341");
	CU_ASSERT_STRING_EQUAL(units_format_short(buf, 4096), "4K");
	CU_ASSERT_STRING_EQUAL(units_format_short(buf, 5530), "5.4K");
	CU_ASSERT_STRING_EQUAL(units_format_short(buf, 1023 * 1024), "1023K");
	CU_ASSERT_STRING_EQUAL(units_format_short(buf, 1048575), "1.0M");
	CU_ASSERT_STRING_EQUAL(units_format_short(buf, 31457280), "30M");
	CU_ASSERT_STRING_EQUAL(units_format_short(buf, 1ull << 40), "1T");
	CU_ASSERT_STRING_EQUAL(units_format_short(buf, UINT64_MAX), "16E");
	CU_ASSERT_STRING_EQUAL(units_format_rate(buf, 1.6e9), "1.6 GB/s");
	CU_ASSERT_STRING_EQUAL(units_format_ns(buf, 12345678), "12.3 ms");
	CU_ASSERT_STRING_EQUAL(units_format_ns(buf, 123 * 1000000000ull), "2m03s");
}

static void test_an_error_names_the_attempt_and_adds_the_reason_once(void)
{
	struct tide_error err = {0};
	CU_ASSERT_EQUAL(tide_fail(&err, -EACCES, "open the memory of process %d", 42), -EACCES);
	CU_ASSERT_STRING_EQUAL(err.text, "open the memory of process 42");
	CU_ASSERT_STRING_EQUAL(tide_error_reason(&err), "Permission denied");
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_UNSUPPORTED);
	CU_ASSERT_EQUAL(tide_prefix(&err, -EACCES, "round %d: ", 2), -EACCES);
	CU_ASSERT_STRING_EQUAL(err.text, "round 2: open the memory of process 42");
	CU_ASSERT_EQUAL(tide_fail(NULL, -EACCES, "nobody listens"), -EACCES);
	tide_bad(&err, "a frame says %u bytes", 5u);
	CU_ASSERT_STRING_EQUAL(tide_error_reason(&err), "");
}

static const struct test tests[] = {
	TEST(test_bytes_are_read_as_people_write_them),
	TEST(test_bytes_that_make_no_sense_are_refused),
	TEST(test_rates_are_read_as_links_are_rated),
	TEST(test_times_are_read_as_people_write_them),
	TEST(test_formats_keep_three_digits),
	TEST(test_an_error_names_the_attempt_and_adds_the_reason_once),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "base", tests, NULL, NULL);
}
