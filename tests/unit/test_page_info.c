/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include "tests/harness.h"
#include "tracker/cgroup_path.h"
#include "tracker/page_bits.h"
#include "tracker/page_info.h"
#include "tracker/uapi.h"

enum { PAGE = 4096 };
#define BIT(n) (1ull << (n))
#define PRESENT BIT(PAGEMAP_BIT_PRESENT)
#define SWAPPED BIT(PAGEMAP_BIT_SWAPPED)
#define FILES BIT(PAGEMAP_BIT_FILE)
#define EXCLUSIVE BIT(PAGEMAP_BIT_EXCLUSIVE)
#define PROTECTED BIT(PAGEMAP_BIT_WRITE_PROTECTED)

static const struct page_sources everything = {.page_bytes = PAGE,
	.scan = true,
	.frames = true,
	.flags = true,
	.ksm_flag = true,
	.maps_counted = true,
	.idle = true,
	.soft_dirty = true,
	.guard = true};
static const struct page_sources little = {.page_bytes = PAGE, .scan = true, .guard = true};
static const struct page_place private_place, shared_place = {.shared = true},
					      huge_place = {.hugetlb = true},
					      direct_place = {.direct = true};

/* The counts of one page, as a set of bits. */
static uint64_t counts_of(
	const struct page_sources *s, const struct page_place *where, const struct page_seen *page)
{
	struct page_counts c = {0};
	uint64_t bits = 0;
	page_counts_add_page(&c, s, where, page);
	for (size_t i = 0; i < PAGE_COUNTS; i++) {
		CU_ASSERT_TRUE(c.of[i] <= 1);
		bits |= c.of[i] << i;
	}
	CU_ASSERT_EQUAL(page_is_resident(s, where, page), c.of[PAGES_RESIDENT] == 1);
	CU_ASSERT_EQUAL(c.of[PAGES_PRESENT],
		c.of[PAGES_RESIDENT] + c.of[PAGES_ZERO] + c.of[PAGES_HUGETLB] + c.of[PAGES_DIRECT]);
	CU_ASSERT_EQUAL(c.of[PAGES_RESIDENT], c.of[PAGES_ANONYMOUS] + c.of[PAGES_FILE]);
	return bits;
}

static void test_every_nature_is_counted_once(void)
{
	enum { OTHER_TYPE = 25 };
	const uint64_t here = BIT(PAGES_PRESENT) | BIT(PAGES_RESIDENT);
	const struct {
		const char *what;
		const struct page_sources *s;
		const struct page_place *where;
		struct page_seen page;
		uint64_t counts;
	} cases[] = {
		{"nothing", &everything, &private_place, {0}, 0},
		{"a copy of its own", &everything, &private_place,
			{PRESENT | EXCLUSIVE | 5, 0, BIT(KPF_ANON) | BIT(KPF_SWAPBACKED), 1},
			here | BIT(PAGES_ANONYMOUS) | BIT(PAGES_EXCLUSIVE)},
		{"one that a child has too", &everything, &private_place,
			{PRESENT | 5, 0, BIT(KPF_ANON) | BIT(KPF_SWAPBACKED), 2},
			here | BIT(PAGES_ANONYMOUS) | BIT(PAGES_SHARED)},
		{"the same, seen by anybody", &little, &private_place, {PRESENT, 0, 0, 0},
			here | BIT(PAGES_ANONYMOUS)},
		{"of a library", &everything, &private_place,
			{PRESENT | FILES | 5, 0, BIT(KPF_ACTIVE), 9},
			here | BIT(PAGES_FILE) | BIT(PAGES_SHARED) | BIT(PAGES_ACTIVE)},
		{"zero, by the scan", &little, &private_place,
			{PRESENT, UAPI_PAGE_IS_PFNZERO, 0, 0},
			BIT(PAGES_PRESENT) | BIT(PAGES_ZERO)},
		{"zero, by the flags", &everything, &private_place,
			{PRESENT | 5, 0, BIT(KPF_ZERO_PAGE), 0},
			BIT(PAGES_PRESENT) | BIT(PAGES_ZERO)},
		{"huge zero, which pagemap takes for a file's", &little, &private_place,
			{PRESENT | FILES, UAPI_PAGE_IS_PFNZERO | UAPI_PAGE_IS_HUGE, 0, 0},
			BIT(PAGES_PRESENT) | BIT(PAGES_ZERO)},
		{"huge", &little, &private_place, {PRESENT | EXCLUSIVE, UAPI_PAGE_IS_HUGE, 0, 0},
			here | BIT(PAGES_ANONYMOUS) | BIT(PAGES_EXCLUSIVE) | BIT(PAGES_HUGE) |
				BIT(PAGES_ANONYMOUS_HUGE)},
		{"huge, of a file", &little, &shared_place,
			{PRESENT | FILES, UAPI_PAGE_IS_HUGE, 0, 0},
			here | BIT(PAGES_FILE) | BIT(PAGES_HUGE)},
		{"hugetlb", &everything, &huge_place,
			{PRESENT | EXCLUSIVE | 5, UAPI_PAGE_IS_HUGE, 0, 1},
			BIT(PAGES_PRESENT) | BIT(PAGES_HUGETLB) | BIT(PAGES_HUGETLB_EXCLUSIVE)},
		{"a device's", &everything, &direct_place, {PRESENT | 5, 0, 0, 0},
			BIT(PAGES_PRESENT) | BIT(PAGES_DIRECT)},
		{"a device's, seen by anybody", &little, &direct_place, {PRESENT, 0, 0, 0},
			BIT(PAGES_PRESENT) | BIT(PAGES_DIRECT)},
		{"copied from a device's", &everything, &direct_place,
			{PRESENT | 5, 0, BIT(KPF_ANON) | BIT(KPF_SWAPBACKED), 2},
			here | BIT(PAGES_ANONYMOUS) | BIT(PAGES_SHARED)},
		{"copied, seen by anybody", &little, &direct_place, {PRESENT | EXCLUSIVE, 0, 0, 0},
			here | BIT(PAGES_ANONYMOUS) | BIT(PAGES_EXCLUSIVE)},
		{"swapped", &everything, &private_place, {SWAPPED | 77 << 5, 0, 0, 0},
			BIT(PAGES_SWAPPED)},
		{"swapped, seen by anybody", &little, &private_place, {SWAPPED, 0, 0, 0},
			BIT(PAGES_SWAPPED)},
		{"armed and swapped", &everything, &private_place,
			{SWAPPED | PROTECTED | 77 << 5, 0, 0, 0},
			BIT(PAGES_SWAPPED) | BIT(PAGES_WRITE_PROTECTED)},
		{"a marker", &everything, &private_place,
			{SWAPPED | PROTECTED | 1 << 5 | SWAP_TYPE_MARKER, 0, 0, 0},
			BIT(PAGES_WRITE_PROTECTED)},
		{"a marker of shared memory, seen by anybody", &little, &shared_place,
			{SWAPPED | PROTECTED, 0, 0, 0}, BIT(PAGES_WRITE_PROTECTED)},
		{"guard", &little, &private_place, {SWAPPED | BIT(PAGEMAP_BIT_GUARD), 0, 0, 0},
			BIT(PAGES_GUARD)},
		{"guard, by its mark alone", &everything, &private_place,
			{SWAPPED | MARKER_GUARD << 5 | SWAP_TYPE_MARKER, 0, 0, 0},
			BIT(PAGES_GUARD)},
		{"on its way", &everything, &private_place,
			{SWAPPED | 77 << 5 | OTHER_TYPE, 0, BIT(KPF_DIRTY), 7},
			here | BIT(PAGES_ANONYMOUS)},
		{"soft-dirty", &everything, &private_place,
			{PRESENT | EXCLUSIVE | BIT(PAGEMAP_BIT_SOFT_DIRTY), 0,
				BIT(KPF_ANON) | BIT(KPF_SWAPBACKED), 1},
			here | BIT(PAGES_ANONYMOUS) | BIT(PAGES_EXCLUSIVE) | BIT(PAGES_SOFT_DIRTY)},
		{"new, and not there yet", &everything, &private_place,
			{BIT(PAGEMAP_BIT_SOFT_DIRTY), 0, 0, 0}, 0},
		{"merged", &everything, &private_place,
			{PRESENT | 5, 0, BIT(KPF_ANON) | BIT(KPF_KSM), 3},
			here | BIT(PAGES_ANONYMOUS) | BIT(PAGES_KSM) | BIT(PAGES_SHARED)},
		{"given up", &everything, &private_place,
			{PRESENT | EXCLUSIVE | 5, 0, BIT(KPF_ANON), 1},
			here | BIT(PAGES_ANONYMOUS) | BIT(PAGES_EXCLUSIVE) | BIT(PAGES_LAZY_FREE)},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t found = counts_of(cases[i].s, cases[i].where, &cases[i].page);
		if (found != cases[i].counts)
			printf("%s: counts %llx, not %llx\n", cases[i].what,
				(unsigned long long)found, (unsigned long long)cases[i].counts);
		CU_ASSERT_EQUAL(found, cases[i].counts);
	}
}

static void test_a_share_is_rounded_down_for_each_page(void)
{
	struct page_counts c = {0};
	struct page_seen page = {PRESENT | 5, 0, BIT(KPF_ANON), 3};
	for (int i = 0; i < 3; i++)
		page_counts_add_page(&c, &everything, &private_place, &page);
	CU_ASSERT_EQUAL(c.pss_fixed, 3 * (((uint64_t)PAGE << 12) / 3));
	page.mapped = 0;
	page_counts_add_page(&c, &everything, &private_place, &page);
	CU_ASSERT_EQUAL(c.pss_fixed >> 12, 2 * PAGE - 1);
}

static void test_what_is_not_known_is_not_zero(void)
{
	for (int i = 0; i < PAGE_COUNTS; i++)
		CU_ASSERT_TRUE(page_count_is_known(&everything, (enum page_count)i));
	const struct page_sources none = {.page_bytes = PAGE};
	CU_ASSERT_TRUE(page_count_is_known(&none, PAGES_RESIDENT));
	CU_ASSERT_TRUE(page_count_is_known(&none, PAGES_EXCLUSIVE));
	CU_ASSERT_FALSE(page_count_is_known(&none, PAGES_ZERO));
	CU_ASSERT_FALSE(page_count_is_known(&none, PAGES_SOFT_DIRTY));
	CU_ASSERT_FALSE(page_count_is_known(&none, PAGES_GUARD));
	CU_ASSERT_FALSE(page_count_is_known(&none, PAGES_SHARED));
	CU_ASSERT_FALSE(page_count_is_known(&none, PAGES_KSM));
	CU_ASSERT_FALSE(page_count_is_known(&none, PAGES_POISONED));
	struct page_sources flags = none;
	flags.flags = true;
	CU_ASSERT_TRUE(page_count_is_known(&flags, PAGES_ZERO));
	CU_ASSERT_FALSE(page_count_is_known(&flags, PAGES_IDLE));
}

static void test_a_flag_that_does_not_tell_is_not_counted(void)
{
	struct page_sources s = everything;
	struct page_seen merged = {PRESENT | 5, 0, BIT(KPF_ANON) | BIT(KPF_KSM), 3};
	CU_ASSERT_TRUE(counts_of(&everything, &private_place, &merged) & BIT(PAGES_KSM));
	s.ksm_flag = false;
	CU_ASSERT_FALSE(
		counts_of(&s, &private_place, &merged) & (BIT(PAGES_KSM) | BIT(PAGES_LAZY_FREE)));
}

static void test_nodes_are_counted_in_small_pages(void)
{
	static const struct {
		const char *line;
		int result;
		uint64_t address, on_0, on_2;
	} cases[] = {
		{"7f00 default file=/lib/x\\040N0=9 mapped=2 N0=2 kernelpagesize_kB=4", 0, 0x7f00,
			2, 0},
		{"1000 bind:0,2 anon=5 dirty=5 N0=2 N2=3 kernelpagesize_kB=4", 0, 0x1000, 2, 3},
		{"200000 default huge anon=1 N2=1 kernelpagesize_kB=2048", 0, 0x200000, 0, 512},
		{"1000 default", 0, 0x1000, 0, 0},
		{"what", -EBADMSG, 0, 0, 0},
		{"1000 default N99999999=1", -EBADMSG, 0, 0, 0},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct node_pages n = {0};
		uint64_t address = 0;
		const char *line = cases[i].line;
		CU_ASSERT_EQUAL(
			node_pages_parse(line, strlen(line), PAGE, &address, &n), cases[i].result);
		CU_ASSERT_EQUAL(address, cases[i].address);
		CU_ASSERT_EQUAL(n.len > 0 ? n.pages[0] : 0, cases[i].on_0);
		CU_ASSERT_EQUAL(n.len > 2 ? n.pages[2] : 0, cases[i].on_2);
		node_pages_release(&n);
	}
}

static void test_the_memory_controller_is_found(void)
{
	char place[256];
	cgroup_find_mount("proc /proc proc rw 0 0\n"
			  "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0\n"
			  "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"
			  "cgroup /sys/fs/cgroup/memory cgroup rw,nosuid,memory 0 0\n",
		place, sizeof(place));
	CU_ASSERT_STRING_EQUAL(place, "/sys/fs/cgroup/memory");
	cgroup_find_mount("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", place, sizeof(place));
	CU_ASSERT_STRING_EQUAL(place, "/sys/fs/cgroup");
	cgroup_find_mount("proc /proc proc rw 0 0\nbroken\n\n", place, sizeof(place));
	CU_ASSERT_STRING_EQUAL(place, "");
}

static const struct test tests[] = {
	TEST(test_every_nature_is_counted_once),
	TEST(test_a_share_is_rounded_down_for_each_page),
	TEST(test_what_is_not_known_is_not_zero),
	TEST(test_a_flag_that_does_not_tell_is_not_counted),
	TEST(test_nodes_are_counted_in_small_pages),
	TEST(test_the_memory_controller_is_found),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "page_info", tests, NULL, NULL);
}
