/* SPDX-License-Identifier: MIT */
/* Images that were cut, changed or forged: never a wrong byte, never a fall, always found. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agent/image.h"
#include "agent/image_format.h"
#include "agent/session.h"
#include "tests/harness.h"
#include "tests/scratch.h"
#include "tests/unit/world.h"

static char folder[SCRATCH_PATH_MAX];
static char image_file[SCRATCH_PATH_MAX + 32];
static struct store *store;
static struct world world;
static struct tide_error err;
static int fd;
static uint8_t *bytes; /* of the image, as it should be */
static size_t nbytes;
static struct {
	size_t at, end;
	struct frame_header header;
} frames[256];
static size_t nframes;

static char last_damage[1024];
static uint64_t last_offset;

static void note_damage(void *arg, const struct image_damage *d)
{
	if (!last_damage[0]) {
		snprintf(last_damage, sizeof(last_damage), "%s", d->what);
		last_offset = d->offset;
	}
}

/* The damages that are found; -1 where it could not be looked at. */
static int verify(struct image_verdict *ret)
{
	struct image_verdict v;
	last_damage[0] = '\0';
	int r = image_verify(store, "a", note_damage, NULL, &v, &err);
	if (ret)
		*ret = v;
	return r < 0 ? -1 : (int)v.damages;
}

/* Reads all pages: true where what is given is right, or nothing is. */
static bool reads_right(void)
{
	static uint8_t buf[WORLD_PAGES * WORLD_PAGE];
	struct image *image;
	bool right = true;
	int r = image_open(store, "a", &image, &err);
	if (r < 0) {
		CU_ASSERT_EQUAL(r, -EBADMSG);
		return true;
	}
	for (unsigned i = 0; i < 2; i++) {
		const struct world_space *s = &world.spaces[i];
		for (size_t at = 0; right && at < sizeof(buf); at += 64 * WORLD_PAGE) {
			r = image_read(
				image, 1, s->space, s->base + at, buf, 64 * WORLD_PAGE, &err);
			right = r == -EBADMSG ||
				(r == 0 && memcmp(buf, s->pages + at, 64 * WORLD_PAGE) == 0);
		}
	}
	image_close(image);
	return right;
}

static void put(size_t at, const void *data, size_t n)
{
	CU_ASSERT_EQUAL_FATAL(pwrite(fd, data, n, (off_t)at), (ssize_t)n);
}

static void read_frames(void)
{
	nframes = 0;
	for (size_t at = PREAMBLE_BYTES; at < nbytes; nframes++) {
		CU_ASSERT_FATAL(nframes < sizeof(frames) / sizeof(frames[0]));
		struct frame_header *h = &frames[nframes].header;
		CU_ASSERT_EQUAL_FATAL(
			frame_header_decode(bytes + at, &frame_limits_max, h, &err), 0);
		frames[nframes].at = at;
		at += FRAME_HEADER_BYTES + h->head_bytes + h->payload_bytes;
		frames[nframes].end = at;
	}
}

static void setup(void)
{
	store = NULL;
	bytes = NULL;
	fd = -1;
	memset(&world, 0, sizeof(world));
	char path[SCRATCH_PATH_MAX + 8];
	scratch_make(folder);
	snprintf(path, sizeof(path), "%s/store", folder);
	snprintf(image_file, sizeof(image_file), "%s/store/a.tide", folder);
	CU_ASSERT_EQUAL_FATAL(store_open(path, STORE_WRITE, &store, &err), 0);
	world_init(&world, 3);
	world_send_little(&world);

	struct session *session;
	struct session_options options = {.store = store};
	struct open_request m = {.session_id = {1}, .sink = SINK_IMAGE, .name = "a"};
	CU_ASSERT_EQUAL_FATAL(session_new(&options, &session, &err), 0);
	CU_ASSERT_EQUAL_FATAL(session_open(session, &m, &err), 0);
	for (size_t i = 0; i < world.stream.frames; i++) {
		struct frame f;
		struct frame_buffer raw;
		stream_frame(&world.stream, i, &f, &raw);
		CU_ASSERT_EQUAL_FATAL(session_frame(session, &f, &raw, 0, &err), 0);
	}
	session_free(session);

	fd = open(image_file, O_RDWR | O_CLOEXEC);
	CU_ASSERT_FATAL(fd >= 0);
	nbytes = (size_t)lseek(fd, 0, SEEK_END);
	bytes = malloc(nbytes);
	CU_ASSERT_PTR_NOT_NULL_FATAL(bytes);
	CU_ASSERT_EQUAL_FATAL(pread(fd, bytes, nbytes, 0), (ssize_t)nbytes);
	read_frames();
}

static void teardown(void)
{
	if (fd >= 0)
		close(fd);
	free(bytes);
	store_close(store);
	world_release(&world);
	scratch_remove(folder);
}

static void check_flip(size_t at, unsigned bit)
{
	uint8_t changed = bytes[at] ^ (uint8_t)(1u << bit);
	put(at, &changed, 1);
	int damages = verify(NULL);
	bool right = reads_right();
	if (damages <= 0 || !right)
		printf("byte %zu, bit %u: %d damages, read %s\n", at, bit, damages,
			right ? "right" : "wrong");
	CU_ASSERT_TRUE(damages > 0);
	CU_ASSERT_TRUE(right);
	put(at, &bytes[at], 1);
}

static void test_the_image_is_whole_before(void)
{
	struct image_verdict v;
	CU_ASSERT_EQUAL(verify(&v), 0);
	CU_ASSERT_EQUAL(v.frames, nframes);
	CU_ASSERT_EQUAL(v.bytes_read, nbytes);
	CU_ASSERT_TRUE(reads_right());
	unsigned hollow = 0;
	for (size_t i = 0; i < nframes; i++)
		hollow += frames[i].header.type == FRAME_HOLLOW;
	CU_ASSERT_TRUE(hollow > 0);
}

static void test_a_flipped_bit_in_the_preamble_is_found(void)
{
	for (size_t at = 0; at < PREAMBLE_BYTES; at++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			struct image *image = NULL;
			uint8_t changed = bytes[at] ^ (uint8_t)(1u << bit);
			put(at, &changed, 1);
			CU_ASSERT_EQUAL(image_open(store, "a", &image, &err), -EBADMSG);
			image_close(image);
			check_flip(at, bit);
		}
	}
}

static void test_a_flipped_bit_in_a_header_is_found(void)
{
	for (size_t i = 0; i < nframes; i++) {
		for (size_t at = frames[i].at; at < frames[i].at + FRAME_HEADER_BYTES; at++)
			check_flip(at, (unsigned)(at + i) % 8);
	}
}

static void test_a_flipped_bit_in_a_body_is_found(void)
{
	for (size_t i = 0; i < nframes; i++) {
		size_t at = frames[i].at + FRAME_HEADER_BYTES, end = frames[i].end;
		size_t step = 1 + (end - at) / 30;
		for (; at < end; at += step)
			check_flip(at, (unsigned)(at / 3) % 8);
		if (end > frames[i].at + FRAME_HEADER_BYTES)
			check_flip(end - 1, 7);
	}
}

static void test_damage_is_named_with_what_it_hits(void)
{
	for (size_t i = 0; i < nframes; i++) {
		if (frames[i].header.type != FRAME_PAGES)
			continue;
		struct image_verdict v;
		uint8_t changed = bytes[frames[i].end - 1] ^ 1;
		put(frames[i].end - 1, &changed, 1);
		CU_ASSERT_EQUAL(verify(&v), 1);
		CU_ASSERT_EQUAL(last_offset, frames[i].at);
		CU_ASSERT_TRUE(v.lost_pages > 0 && v.lost_pages < world_held_pages(&world));
		CU_ASSERT_PTR_NOT_NULL(strstr(last_damage, "pages, the first"));
		put(frames[i].end - 1, &bytes[frames[i].end - 1], 1);
	}
	CU_ASSERT_EQUAL(verify(NULL), 0);
}

static void test_each_damage_is_told_once(void)
{
	struct image_verdict v;
	unsigned n = 0;
	/* In every other frame of pages, so that verifying has to find its way on. */
	for (size_t i = 0, k = 0; i < nframes; i++) {
		if (frames[i].header.type != FRAME_PAGES || k++ % 2)
			continue;
		/* Its length, so that where it ends is lost too. */
		uint8_t changed = bytes[frames[i].at] ^ 0x40;
		put(frames[i].at, &changed, 1);
		n++;
	}
	CU_ASSERT_TRUE(n > 1);
	CU_ASSERT_EQUAL(verify(&v), (int)n);
}

static void test_an_image_that_was_cut_is_refused(void)
{
	for (size_t i = 0; i <= nframes + 40; i++) {
		size_t cut = i < nframes ? frames[i].at : world_random(&world, nbytes);
		CU_ASSERT_EQUAL_FATAL(ftruncate(fd, (off_t)cut), 0);
		CU_ASSERT_TRUE(verify(NULL) > 0);
		struct image *image = NULL;
		CU_ASSERT_EQUAL(image_open(store, "a", &image, &err), -EBADMSG);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "/a"));
		put(0, bytes, nbytes);
	}
	CU_ASSERT_EQUAL(verify(NULL), 0);
}

static void test_an_image_with_something_behind_it_is_refused(void)
{
	struct image *image = NULL;
	put(nbytes, "more", 4);
	CU_ASSERT_TRUE(verify(NULL) > 0);
	CU_ASSERT_EQUAL(image_open(store, "a", &image, &err), -EBADMSG);
	/* A second trailer finds the first's index, which does not end where it should. */
	put(nbytes, bytes + nbytes - TRAILER_BYTES, TRAILER_BYTES);
	CU_ASSERT_TRUE(verify(NULL) > 0);
	CU_ASSERT_EQUAL(image_open(store, "a", &image, &err), -EBADMSG);
}

static void test_noise_is_no_image(void)
{
	struct image *image = NULL;
	for (int i = 0; i < 100; i++) {
		uint8_t noise[512];
		for (size_t k = 0; k < sizeof(noise); k++)
			noise[k] = (uint8_t)world_random(&world, 256);
		CU_ASSERT_EQUAL_FATAL(ftruncate(fd, 0), 0);
		put(0, noise, world_random(&world, sizeof(noise)));
		CU_ASSERT_EQUAL(image_open(store, "a", &image, &err), -EBADMSG);
		CU_ASSERT_TRUE(verify(NULL) > 0);
	}
	unlink(image_file);
	CU_ASSERT_EQUAL_FATAL(mkfifo(image_file, 0600), 0);
	CU_ASSERT_EQUAL(image_open(store, "a", &image, &err), -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "not a regular file"));
}

/* Two frames that are whole, in each other's place: only the stream and the index tell. */
static void test_frames_in_each_others_place_are_found(void)
{
	unsigned n = 0;
	for (size_t i = 0; i + 1 < nframes; i++) {
		size_t a = frames[i].end - frames[i].at;
		size_t b = frames[i + 1].end - frames[i + 1].at;
		/* In which order hollow ones lie says nothing. */
		if (frames[i].header.type == FRAME_HOLLOW &&
			frames[i + 1].header.type == FRAME_HOLLOW)
			continue;
		put(frames[i].at, bytes + frames[i + 1].at, b);
		put(frames[i].at + b, bytes + frames[i].at, a);
		CU_ASSERT_TRUE(verify(NULL) > 0);
		CU_ASSERT_TRUE(reads_right());
		put(frames[i].at, bytes + frames[i].at, a + b);
		n++;
	}
	CU_ASSERT_TRUE(n > 10);
}

/* Changes frame i at `at` behind its header, with a checksum that is right. */
static void forge(size_t i, size_t at, uint8_t flip)
{
	size_t n = frames[i].end - frames[i].at;
	uint8_t *whole = malloc(n);
	CU_ASSERT_PTR_NOT_NULL_FATAL(whole);
	memcpy(whole, bytes + frames[i].at, n);
	whole[FRAME_HEADER_BYTES + at] ^= flip;
	const struct frame_header *h = &frames[i].header;
	struct frame f = {
		.type = h->type,
		.flags = h->flags,
		.process = h->process,
		.head = whole + FRAME_HEADER_BYTES,
		.head_bytes = h->head_bytes,
		.payload = whole + FRAME_HEADER_BYTES + h->head_bytes,
		.payload_bytes = h->payload_bytes,
	};
	frame_header_encode(&f, whole);
	put(frames[i].at, whole, n);
	free(whole);
}

static void test_a_page_that_was_forged_has_another_hash(void)
{
	unsigned by_hash = 0;
	for (size_t i = 0; i < nframes; i++) {
		const struct frame_header *h = &frames[i].header;
		if (h->type != FRAME_PAGES)
			continue;
		for (uint32_t at = 0; at < h->payload_bytes; at += 1 + h->payload_bytes / 20) {
			forge(i, h->head_bytes + at, 1);
			/* A block may say the same pages in other bytes. */
			CU_ASSERT_TRUE(verify(NULL) > 0 || reads_right());
			by_hash += strstr(last_damage, "another hash") != NULL;
			put(frames[i].at, bytes + frames[i].at, frames[i].end - frames[i].at);
		}
	}
	CU_ASSERT_TRUE(by_hash > 10);
}

static void test_an_index_that_was_forged_is_found(void)
{
	for (size_t i = 0; i < nframes; i++) {
		size_t head = frames[i].header.head_bytes;
		size_t body = frames[i].end - frames[i].at - FRAME_HEADER_BYTES;
		bool extents = bytes[frames[i].at + FRAME_HEADER_BYTES + 4] == INDEX_EXTENTS;
		if (frames[i].header.type != FRAME_INDEX)
			continue;
		for (size_t at = 0; at < body; at++) {
			forge(i, at, (uint8_t)(1u << at % 8));
			CU_ASSERT_TRUE(verify(NULL) > 0);
			/* An extent that points at other pages gives none. */
			size_t field = (at - head) % INDEX_EXTENT_BYTES;
			if (extents && at >= head && field >= 8 && field < 20)
				CU_ASSERT_TRUE(reads_right());
			put(frames[i].at, bytes + frames[i].at, frames[i].end - frames[i].at);
		}
	}
}

/* Has the PAGES frame at `at` a page of that place? */
static bool frame_has(uint64_t at, uint64_t place)
{
	struct batch b;
	struct frame f;
	CU_ASSERT_EQUAL_FATAL(
		frame_decode(bytes + at, bytes + at + FRAME_HEADER_BYTES, &f, &err), 0);
	CU_ASSERT_EQUAL_FATAL(batch_decode(&f, WORLD_PAGE, FEATURES_KNOWN, &b, &err), 0);
	for (uint32_t i = 0; i < b.nruns; i++) {
		if (place >= b.runs[i].start && place < b.runs[i].end)
			return true;
	}
	return false;
}

/* An extent that points at another frame. (That another one has an older copy of the page only the
 * whole tells: verify.) */
static void test_pages_of_another_place_are_not_given(void)
{
	uint64_t offsets[256];
	size_t n = 0;
	for (size_t i = 0; i < nframes; i++) {
		if (frames[i].header.type == FRAME_PAGES)
			offsets[n++] = frames[i].at;
	}
	CU_ASSERT_TRUE(n > 2);
	for (size_t i = 0; i < nframes; i++) {
		size_t at = frames[i].at + FRAME_HEADER_BYTES;
		if (frames[i].header.type != FRAME_INDEX || bytes[at + 4] != INDEX_EXTENTS)
			continue;
		size_t entries = frames[i].header.payload_bytes / INDEX_EXTENT_BYTES;
		for (size_t k = 0; k < entries * n; k++) {
			uint8_t entry[INDEX_EXTENT_BYTES];
			struct index_extent e;
			uint8_t *to = bytes + at + INDEX_HEAD_BYTES + k / n * INDEX_EXTENT_BYTES;
			memcpy(entry, to, sizeof(entry));
			index_extent_decode(entry, &e);
			e.frame_offset = offsets[k % n];
			index_extent_encode(&e, to);
			forge(i, 0, 0);
			if (!frame_has(e.frame_offset, e.place))
				CU_ASSERT_TRUE(reads_right());
			memcpy(to, entry, sizeof(entry));
			put(frames[i].at, bytes + frames[i].at, frames[i].end - frames[i].at);
		}
	}
}

/* Changed bytes under checksums that were made right again: what a forger would do. Whatever comes
 * of it, nothing falls over. */
static void test_forged_images_do_no_harm(void)
{
	static uint8_t page[70000];
	for (int n = 0; n < 3000; n++) {
		/* Mostly the index, where a reader believes most. */
		size_t i = world_random(&world, 3) ? nframes - 1 - world_random(&world, 5)
						   : world_random(&world, nframes);
		size_t head = frames[i].header.head_bytes,
		       body = frames[i].end - frames[i].at - FRAME_HEADER_BYTES;
		size_t reach = world_random(&world, 2) ? head : body;
		if (reach == 0)
			continue;
		uint8_t *whole = malloc(frames[i].end - frames[i].at);
		memcpy(whole, bytes + frames[i].at, frames[i].end - frames[i].at);
		for (uint64_t k = 1 + world_random(&world, 3); k > 0; k--) {
			size_t at = FRAME_HEADER_BYTES + world_random(&world, reach);
			whole[at] = (uint8_t)(world_random(&world, 2)
						      ? whole[at] ^ (1u << world_random(&world, 8))
						      : world_random(&world, 256));
		}
		struct frame f = {
			.type = frames[i].header.type,
			.flags = frames[i].header.flags,
			.process = frames[i].header.process,
			.head = whole + FRAME_HEADER_BYTES,
			.head_bytes = frames[i].header.head_bytes,
			.payload = whole + FRAME_HEADER_BYTES + head,
			.payload_bytes = frames[i].header.payload_bytes,
		};
		frame_header_encode(&f, whole);
		put(frames[i].at, whole, frames[i].end - frames[i].at);

		struct image *image = NULL;
		if (image_open(store, "a", &image, &err) == 0) {
			const struct address_space *a = image_process(image, 1);
			for (size_t k = 0; k < a->nspaces; k++) {
				const struct pageset *held = &a->spaces[k].held;
				for (size_t m = 0; m < held->len; m++)
					image_read(image, 1, a->spaces[k].space,
						held->runs[m].start, page, sizeof(page), NULL);
			}
			image_close(image);
		}
		CU_ASSERT_TRUE(verify(NULL) >= 0);
		put(frames[i].at, bytes + frames[i].at, frames[i].end - frames[i].at);
		free(whole);
	}
	CU_ASSERT_EQUAL(verify(NULL), 0);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_the_image_is_whole_before),
		TEST(test_a_flipped_bit_in_the_preamble_is_found),
		TEST(test_a_flipped_bit_in_a_header_is_found),
		TEST(test_a_flipped_bit_in_a_body_is_found),
		TEST(test_damage_is_named_with_what_it_hits),
		TEST(test_each_damage_is_told_once),
		TEST(test_an_image_that_was_cut_is_refused),
		TEST(test_an_image_with_something_behind_it_is_refused),
		TEST(test_noise_is_no_image),
		TEST(test_frames_in_each_others_place_are_found),
		TEST(test_a_page_that_was_forged_has_another_hash),
		TEST(test_an_index_that_was_forged_is_found),
		TEST(test_pages_of_another_place_are_not_given),
		TEST(test_forged_images_do_no_harm),
		{NULL, NULL},
	};
	return harness_main(argc, argv, "damage", tests, setup, teardown);
}
