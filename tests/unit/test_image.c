/* SPDX-License-Identifier: MIT */
/* The image sink and the image reader against plain arrays. */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agent/image.h"
#include "agent/image_format.h"
#include "agent/session.h"
#include "agent/sink_image.h"
#include "tests/harness.h"
#include "tests/scratch.h"
#include "tests/unit/world.h"

static char folder[SCRATCH_PATH_MAX];
static char store_folder[SCRATCH_PATH_MAX + 8];
static struct store *store;
static struct session *session;
static struct image *image;
static struct world world;
static struct tide_error err;

static void setup(void)
{
	memset(&world, 0, sizeof(world));
	store = NULL;
	session = NULL;
	image = NULL;
	scratch_make(folder);
	snprintf(store_folder, sizeof(store_folder), "%s/store", folder);
	CU_ASSERT_EQUAL_FATAL(store_open(store_folder, STORE_WRITE, &store, &err), 0);
	world_init(&world, 1);
}

static void teardown(void)
{
	image_close(image);
	session_free(session);
	store_close(store);
	world_release(&world);
	scratch_remove(folder);
}

static void new_world(uint64_t seed)
{
	image_close(image);
	image = NULL;
	world_release(&world);
	world_init(&world, seed);
}

static void store_stream(const char *name)
{
	struct session_options options = {.store = store};
	struct open_request m = {.session_id = {1}, .sink = SINK_IMAGE};
	snprintf(m.name, sizeof(m.name), "%s", name);
	session_free(session);
	CU_ASSERT_EQUAL_FATAL(session_new(&options, &session, &err), 0);
	CU_ASSERT_EQUAL_FATAL(session_open(session, &m, &err), 0);
	for (size_t i = 0; i < world.stream.frames; i++) {
		struct frame f;
		struct frame_buffer raw;
		stream_frame(&world.stream, i, &f, &raw);
		CU_ASSERT_EQUAL_FATAL(
			session_frame(session, &f, &raw, world.stream.at[i], &err), 0);
	}
}

static void open_image(const char *name)
{
	image_close(image);
	image = NULL;
	int r = image_open(store, name, &image, &err);
	if (r < 0)
		printf("%s\n", err.text);
	CU_ASSERT_EQUAL_FATAL(r, 0);
}

static void print_damage(void *arg, const struct image_damage *d)
{
	printf("damage at %llu: %s\n", (unsigned long long)d->offset, d->what);
}

static void verify(const char *name)
{
	struct image_verdict v;
	CU_ASSERT_EQUAL_FATAL(image_verify(store, name, print_damage, NULL, &v, &err), 0);
	CU_ASSERT_EQUAL(v.damages, 0);
	CU_ASSERT_EQUAL(v.held_pages, world_held_pages(&world));
	CU_ASSERT_TRUE(v.hashes_checked);
}

/* Every page of every space, by several roads. */
static void check_pages(void)
{
	static uint8_t buf[WORLD_PAGES * WORLD_PAGE];
	const struct address_space *a = image_process(image, 1);
	CU_ASSERT_EQUAL(address_space_held_pages(a), world_held_pages(&world));
	for (unsigned i = 0; i < 2; i++) {
		const struct world_space *s = &world.spaces[i];
		/* All at once. */
		memset(buf, 0xee, sizeof(buf));
		CU_ASSERT_EQUAL_FATAL(
			image_read(image, 1, s->space, s->base, buf, sizeof(buf), &err), 0);
		CU_ASSERT_EQUAL(memcmp(buf, s->pages, sizeof(buf)), 0);
		/* In odd pieces. */
		for (size_t at = 0, n; at < sizeof(buf); at += n) {
			n = 1 + world_random(&world, 70000);
			if (n > sizeof(buf) - at)
				n = sizeof(buf) - at;
			CU_ASSERT_EQUAL_FATAL(
				image_read(image, 1, s->space, s->base + at, buf, n, &err), 0);
			CU_ASSERT_EQUAL_FATAL(memcmp(buf, s->pages + at, n), 0);
		}
		for (uint32_t p = 0; p < WORLD_PAGES; p++) {
			uint64_t at = s->base + (uint64_t)p * WORLD_PAGE;
			const struct pageset *held = address_space_held(a, s->space);
			CU_ASSERT_EQUAL_FATAL(
				held && pageset_covers(
						held, (struct page_run){at, at + WORLD_PAGE}),
				s->held[p]);
		}
	}
}

static unsigned count_frames(const char *name, uint16_t type)
{
	int fd;
	unsigned n = 0;
	CU_ASSERT_EQUAL_FATAL(store_file_open(store, name, &fd, &err), 0);
	uint8_t header[FRAME_HEADER_BYTES];
	struct frame_header h;
	for (off_t at = PREAMBLE_BYTES; pread(fd, header, sizeof(header), at) == sizeof(header);
		at += FRAME_HEADER_BYTES + h.head_bytes + h.payload_bytes) {
		CU_ASSERT_EQUAL_FATAL(frame_header_decode(header, &frame_limits_max, &h, &err), 0);
		n += h.type == type;
	}
	close(fd);
	return n;
}

static void test_an_image_equals_what_was_sent(void)
{
	world_send(&world, 1);
	store_stream("a");
	open_image("a");
	check_pages();
	verify("a");

	CU_ASSERT_STRING_EQUAL(image_name(image), "a");
	CU_ASSERT_EQUAL(
		memcmp(image_header(image)->stream_id, world.header.stream_id, ID_BYTES), 0);
	CU_ASSERT_EQUAL(image_header(image)->created_realtime_ns, world.header.created_realtime_ns);
	CU_ASSERT_STRING_EQUAL(image_header(image)->host, world.header.host);
	const struct address_space *a = image_process(image, 1);
	CU_ASSERT_EQUAL(a->info->pid, 4711);
	CU_ASSERT_EQUAL(a->state.nthreads, 2);
	CU_ASSERT_EQUAL(a->mappings.len, 3);
	for (size_t i = 0; i < a->mappings.len; i++)
		CU_ASSERT_TRUE(mapping_equal(&a->mappings.v[i], &world.mappings.v[i]));
	CU_ASSERT_PTR_NULL(image_process(image, 2));
	struct image_info info = image_info(image);
	CU_ASSERT_EQUAL(info.rounds, 1);
	CU_ASSERT_EQUAL(info.held_pages, world_held_pages(&world));
}

static void test_images_of_random_rounds_equal_the_model(void)
{
	unsigned hollow = 0;
	for (uint64_t seed = 1; seed <= 25; seed++) {
		char name[32];
		snprintf(name, sizeof(name), "seed%d", (int)seed);
		new_world(seed);
		if (seed % 3 == 0)
			world.codec = NULL;
		world_send(&world, 1 + (unsigned)world_random(&world, 12));
		store_stream(name);
		open_image(name);
		check_pages();
		verify(name);
		hollow += count_frames(name, FRAME_HOLLOW);
	}
	CU_ASSERT_TRUE(hollow > 25);
}

static void test_superseded_frames_take_no_room(void)
{
	world.codec = NULL;
	world_begin(&world);
	for (unsigned r = 0; r < 20; r++) {
		world_round(&world, r == 19);
		if (r == 0)
			world_mappings(&world);
		world_write(&world, 0, 0, 900, 256);
		world_round_end(&world);
	}
	world_state(&world);
	world_commit(&world);
	store_stream("a");
	open_image("a");
	check_pages();
	verify("a");
	CU_ASSERT_EQUAL(count_frames("a", FRAME_HOLLOW), 19 * 4);
	CU_ASSERT_EQUAL(count_frames("a", FRAME_PAGES), 4);
	struct image_info info = image_info(image);
	CU_ASSERT_TRUE(info.file_bytes > 10 * 900 * WORLD_PAGE);
	CU_ASSERT_TRUE(info.stored_bytes < 3 * 900 * WORLD_PAGE);
}

static void test_what_was_dropped_is_not_held(void)
{
	world_begin(&world);
	world_round(&world, false);
	world_mappings(&world);
	world_write(&world, 0, 0, WORLD_PAGES, 256);
	world_round_end(&world);
	world_round(&world, true);
	world_drop(&world, 0, 0, WORLD_PAGES);
	world_round_end(&world);
	world_state(&world);
	world_commit(&world);
	store_stream("a");
	open_image("a");
	CU_ASSERT_EQUAL(image_info(image).held_pages, 0);
	CU_ASSERT_EQUAL(count_frames("a", FRAME_PAGES), 0);
	check_pages();
	verify("a");
}

/* The whole address space, piece by piece. */
static void test_every_address_has_an_owner(void)
{
	world_send(&world, 5);
	store_stream("a");
	open_image("a");

	uint64_t at = WORLD_BASE - 5 * WORLD_PAGE,
		 end = WORLD_SHARED + (WORLD_PAGES + 5) * WORLD_PAGE;
	uint64_t unmapped = 0;
	while (at < end) {
		struct image_piece p;
		image_find(image, 1, at, end, &p);
		CU_ASSERT_FATAL(p.address == at && p.bytes > 0 && p.bytes <= end - at);
		CU_ASSERT_EQUAL((p.mapping == NULL), (p.content == IMAGE_UNMAPPED));
		if (!p.mapping) {
			unmapped += p.bytes;
		} else {
			unsigned space = p.mapping->kind == MAPPING_OBJECT;
			const struct world_space *s = &world.spaces[space];
			uint64_t base = space ? WORLD_SHARED : WORLD_BASE;
			bool file = p.mapping->kind == MAPPING_FILE_PRIVATE;
			CU_ASSERT_FATAL(at >= p.mapping->start && at + p.bytes <= p.mapping->end);
			CU_ASSERT_EQUAL(p.space, s->space);
			CU_ASSERT_EQUAL(p.at, at - base + s->base);
			for (uint64_t k = 0; k < p.bytes; k += WORLD_PAGE) {
				bool held = s->held[(at + k - base) / WORLD_PAGE];
				CU_ASSERT_EQUAL_FATAL(p.content, held   ? IMAGE_HELD
								 : file ? IMAGE_FILE
									: IMAGE_ZERO);
			}
			if (p.content == IMAGE_FILE)
				CU_ASSERT_EQUAL(
					p.file_offset, 3 * WORLD_PAGE + at - p.mapping->start);
		}
		at += p.bytes;
	}
	CU_ASSERT_EQUAL(unmapped, 5 * WORLD_PAGE + WORLD_PAGE +
					  (WORLD_SHARED - WORLD_BASE - WORLD_PAGES * WORLD_PAGE) +
					  5 * WORLD_PAGE);
	struct image_piece p;
	image_find(image, 2, WORLD_BASE, WORLD_BASE + 100, &p);
	CU_ASSERT_EQUAL(p.content, IMAGE_UNMAPPED);
	CU_ASSERT_EQUAL(p.bytes, 100);
	image_find(image, 1, UINT64_MAX - 10, UINT64_MAX, &p);
	CU_ASSERT_EQUAL(p.content, IMAGE_UNMAPPED);
}

static void test_what_no_one_holds_reads_as_zero(void)
{
	uint8_t buf[100];
	world_send(&world, 1);
	store_stream("a");
	open_image("a");
	memset(buf, 1, sizeof(buf));
	CU_ASSERT_EQUAL(image_read(image, 1, 99, 5, buf, sizeof(buf), &err), 0);
	for (size_t i = 0; i < sizeof(buf); i++)
		CU_ASSERT_EQUAL(buf[i], 0);
	memset(buf, 1, sizeof(buf));
	CU_ASSERT_EQUAL(image_read(image, 3, SPACE_PRIVATE, WORLD_BASE, buf, sizeof(buf), &err), 0);
	CU_ASSERT_EQUAL(buf[7], 0);
	CU_ASSERT_EQUAL(image_read(image, 1, SPACE_PRIVATE, UINT64_MAX - 9, buf, 9, &err), 0);
	CU_ASSERT_NOT_EQUAL(image_read(image, 1, SPACE_PRIVATE, UINT64_MAX - 9, buf, 11, &err), 0);
}

/* An image is a stream: it can be stored again, elsewhere, and is the same process. */
static void test_an_image_can_be_read_from_front_to_end(void)
{
	world_send(&world, 8);
	store_stream("a");
	CU_ASSERT_TRUE(count_frames("a", FRAME_HOLLOW) > 0);

	int fd;
	CU_ASSERT_EQUAL_FATAL(store_file_open(store, "a", &fd, &err), 0);
	struct session_options options = {.store = store, .from_file = true};
	struct open_request m = {.session_id = {1}, .sink = SINK_IMAGE, .name = "b"};
	session_free(session);
	CU_ASSERT_EQUAL_FATAL(session_new(&options, &session, &err), 0);
	CU_ASSERT_EQUAL_FATAL(session_open(session, &m, &err), 0);
	int r = session_run_file(session, fd, "a", &err);
	close(fd);
	if (r < 0)
		printf("%s\n", err.text);
	CU_ASSERT_EQUAL_FATAL(r, 0);
	open_image("b");
	check_pages();
	verify("b");
	CU_ASSERT_EQUAL(count_frames("b", FRAME_HOLLOW), count_frames("a", FRAME_HOLLOW));
}

static void test_frames_of_later_versions_are_kept(void)
{
	struct frame_buffer b = {0};
	struct frame later = {
		.type = 30, .process = 1, .head = (const uint8_t *)"hi", .head_bytes = 2};
	struct frame talk = {.type = 99};
	world_begin(&world);
	world_round(&world, true);
	world_mappings(&world);
	CU_ASSERT_EQUAL_FATAL(frame_buffer_encode(&b, &later), 0);
	world_append(&world, &b);
	CU_ASSERT_EQUAL_FATAL(frame_buffer_encode(&b, &talk), 0);
	world_append(&world, &b);
	world_write(&world, 0, 0, 100, 256);
	world_round_end(&world);
	world_state(&world);
	world_commit(&world);
	store_stream("a");
	open_image("a");
	check_pages();
	verify("a");
	CU_ASSERT_EQUAL(count_frames("a", 30), 1);
	CU_ASSERT_EQUAL(count_frames("a", 99), 0);
}

static void *read_pieces(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;
	uint8_t *buf = malloc(40000);
	bool right = buf != NULL;
	for (int n = 0; right && n < 300; n++) {
		seed = seed * UINT64_C(6364136223846793005) + 1;
		const struct world_space *s = &world.spaces[seed >> 63];
		size_t at = (seed >> 20) % (WORLD_PAGES * WORLD_PAGE - 40000);
		right = image_read(image, 1, s->space, s->base + at, buf, 40000, NULL) == 0 &&
			memcmp(buf, s->pages + at, 40000) == 0;
	}
	free(buf);
	return (void *)(uintptr_t)right;
}

static void test_several_threads_read_one_image(void)
{
	pthread_t threads[4];
	world_send(&world, 6);
	store_stream("a");
	open_image("a");
	for (uintptr_t i = 0; i < 4; i++)
		CU_ASSERT_EQUAL_FATAL(
			pthread_create(&threads[i], NULL, read_pieces, (void *)(i + 1)), 0);
	for (int i = 0; i < 4; i++) {
		void *right = NULL;
		pthread_join(threads[i], &right);
		CU_ASSERT_PTR_NOT_NULL(right);
	}
}

static void test_images_are_private(void)
{
	struct stat st;
	char path[2 * SCRATCH_PATH_MAX];
	world_send(&world, 1);
	store_stream("a");
	snprintf(path, sizeof(path), "%s/a.tide", store_folder);
	CU_ASSERT_EQUAL_FATAL(stat(path, &st), 0);
	CU_ASSERT_EQUAL(st.st_mode & 07777, 0600);
}

static void test_an_image_is_found_by_its_path(void)
{
	char path[2 * SCRATCH_PATH_MAX];
	world_send(&world, 1);
	store_stream("a");
	snprintf(path, sizeof(path), "%s/a", store_folder);
	CU_ASSERT_EQUAL(image_open_path(path, &image, &err), 0);
	CU_ASSERT_STRING_EQUAL(image_path(image), path);
	image_close(image);
	image = NULL;
	strcat(path, ".tide");
	CU_ASSERT_EQUAL(image_open_path(path, &image, &err), 0);
	image_close(image);
	image = NULL;
	CU_ASSERT_EQUAL(image_open_path("a", &image, &err), -ECANCELED);
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_USAGE);
	snprintf(path, sizeof(path), "%s/none", store_folder);
	CU_ASSERT_EQUAL(image_open_path(path, &image, &err), -ENOENT);
	CU_ASSERT_EQUAL(image_open_path("/nonexistent/a", &image, &err), -ENOENT);
}

static void test_a_list_tells_of_every_image(void)
{
	struct store_entry *entries = NULL;
	size_t n;
	CU_ASSERT_EQUAL_FATAL(store_list(store, &entries, &n, &err), 0);
	CU_ASSERT_EQUAL(n, 0);
	free(entries);

	world_send(&world, 2);
	store_stream("b");
	store_stream("a");
	store_stream("c");
	char path[2 * SCRATCH_PATH_MAX];
	snprintf(path, sizeof(path), "%s/b.tide", store_folder);
	CU_ASSERT_EQUAL_FATAL(truncate(path, 5000), 0);
	CU_ASSERT_EQUAL_FATAL(store_list(store, &entries, &n, &err), 0);
	CU_ASSERT_EQUAL_FATAL(n, 3);
	CU_ASSERT_STRING_EQUAL(entries[0].name, "a");
	CU_ASSERT_EQUAL(entries[0].error.code, 0);
	CU_ASSERT_EQUAL(entries[0].pid, 4711);
	CU_ASSERT_EQUAL(entries[0].rounds, 2);
	CU_ASSERT_EQUAL(entries[0].held_pages, world_held_pages(&world));
	CU_ASSERT_STRING_EQUAL(entries[0].comm, "made up");
	CU_ASSERT_STRING_EQUAL(entries[0].host, "nowhere");
	CU_ASSERT_STRING_EQUAL(entries[1].name, "b");
	CU_ASSERT_EQUAL(entries[1].error.code, -EBADMSG);
	CU_ASSERT_EQUAL(entries[1].file_bytes, 5000);
	CU_ASSERT_STRING_EQUAL(entries[2].name, "c");
	free(entries);
}

static void test_hashes_of_another_store_are_not_checked(void)
{
	char other[SCRATCH_PATH_MAX + 16], from[2 * SCRATCH_PATH_MAX], to[2 * SCRATCH_PATH_MAX];
	struct store *second;
	struct image_verdict v;
	world_send(&world, 2);
	store_stream("a");
	snprintf(other, sizeof(other), "%s/other", folder);
	CU_ASSERT_EQUAL_FATAL(store_open(other, STORE_WRITE, &second, &err), 0);
	snprintf(from, sizeof(from), "%s/a.tide", store_folder);
	snprintf(to, sizeof(to), "%s/a.tide", other);
	CU_ASSERT_EQUAL_FATAL(rename(from, to), 0);
	CU_ASSERT_EQUAL(image_verify(second, "a", print_damage, NULL, &v, &err), 0);
	CU_ASSERT_EQUAL(v.damages, 0);
	CU_ASSERT_FALSE(v.hashes_checked);
	store_close(second);
}

/* --- deltas ------------------------------------------------------------------------------- */

/* An image says all by itself, whatever it was made from. */
static void test_deltas_are_stored_as_whole_pages(void)
{
	for (uint64_t seed = 1; seed <= 6; seed++) {
		struct image_verdict verdict;
		char name[16];
		new_world(seed);
		world.has_deltas = true;
		world.header.features = seed % 2 ? FEATURE_DELTA | FEATURE_LZ4 : FEATURE_DELTA;
		if (!(seed % 2))
			world.codec = NULL;
		world_send(&world, 6);
		CU_ASSERT(world.delta_pages > 100);
		snprintf(name, sizeof(name), "deltas-%d", (int)seed);
		store_stream(name);
		open_image(name);
		CU_ASSERT_EQUAL(image_header(image)->features, FEATURE_LZ4);
		check_pages();
		CU_ASSERT_EQUAL(image_verify(store, name, NULL, NULL, &verdict, &err), 0);
		CU_ASSERT_EQUAL(verdict.damages, 0);
		CU_ASSERT_TRUE(verdict.hashes_checked);
	}
}

/* ... and so it can be applied again. */
static void test_an_image_of_deltas_is_a_recorded_stream(void)
{
	world.has_deltas = true;
	world.header.features |= FEATURE_DELTA;
	world_send(&world, 4);
	store_stream("first");
	session_free(session);
	session = NULL;
	struct session_options options = {.store = store, .from_file = true};
	struct open_request m = {.session_id = {1}, .sink = SINK_IMAGE, .name = "second"};
	int fd;
	CU_ASSERT_EQUAL_FATAL(store_file_open(store, "first", &fd, &err), 0);
	CU_ASSERT_EQUAL_FATAL(session_new(&options, &session, &err), 0);
	CU_ASSERT_EQUAL_FATAL(session_open(session, &m, &err), 0);
	CU_ASSERT_EQUAL(session_run_file(session, fd, "first", &err), 0);
	close(fd);
	open_image("second");
	check_pages();
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_an_image_equals_what_was_sent),
		TEST(test_images_of_random_rounds_equal_the_model),
		TEST(test_superseded_frames_take_no_room),
		TEST(test_what_was_dropped_is_not_held),
		TEST(test_every_address_has_an_owner),
		TEST(test_what_no_one_holds_reads_as_zero),
		TEST(test_an_image_can_be_read_from_front_to_end),
		TEST(test_frames_of_later_versions_are_kept),
		TEST(test_several_threads_read_one_image),
		TEST(test_images_are_private),
		TEST(test_an_image_is_found_by_its_path),
		TEST(test_a_list_tells_of_every_image),
		TEST(test_hashes_of_another_store_are_not_checked),
		TEST(test_deltas_are_stored_as_whole_pages),
		TEST(test_an_image_of_deltas_is_a_recorded_stream),
		{NULL, NULL},
	};
	return harness_main(argc, argv, "image", tests, setup, teardown);
}
