/* SPDX-License-Identifier: MIT */
/*
 * The image reader and the verifier. Input: one byte of options, then the file.
 *
 *   bit 0  checksums, and the length in the trailer, are made right first
 *
 * What holds: an image that is found whole can be opened, and every page that it holds be read; a
 * refusal has words; nothing in the image that was opened contradicts what it says of itself.
 */
#include <fcntl.h>
#include "agent/image.h"
#include "agent/image_format.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/mend.h"

#define MEND 1

static char folder[64];
static struct store *store;

static void store_end(void)
{
	static const char *const files[] = {"x.tide", ".secret", ".tidemark"};
	char path[128];
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", folder, files[i]);
		unlink(path);
	}
	rmdir(folder);
	store_close(store);
}

/* One store for all inputs; on a memory file system where there is one, for a fuzzer is in a hurry.
 */
static void store_begin(void)
{
	struct tide_error err;
	if (store)
		return;
	snprintf(folder, sizeof(folder), "/dev/shm/tidemark-fuzz-XXXXXX");
	if (!mkdtemp(folder)) {
		snprintf(folder, sizeof(folder), "/tmp/tidemark-fuzz-XXXXXX");
		FUZZ_HOLDS(mkdtemp(folder));
	}
	FUZZ_HOLDS(store_open(folder, STORE_WRITE, &store, &err) == 0);
	atexit(store_end);
}

static void file_mend(uint8_t *data, size_t bytes)
{
	if (bytes < PREAMBLE_BYTES + TRAILER_BYTES)
		return;
	le64_put(data + bytes - TRAILER_HEAD_BYTES + 8, bytes);
	checksums_mend(data, bytes, PREAMBLE_BYTES);
	checksums_mend(data, bytes, bytes - TRAILER_BYTES);
}

static void file_write(const uint8_t *data, size_t bytes)
{
	char path[128];
	snprintf(path, sizeof(path), "%s/x.tide", folder);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	FUZZ_HOLDS(fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes);
	close(fd);
}

/* All pages that are held; false where some could not be read. */
static bool pages_read(struct image *image)
{
	const struct address_space *a = image_process(image, 1);
	struct tide_error err;
	uint64_t held = 0;
	bool all = true;
	for (size_t i = 0; i < a->nspaces; i++) {
		size_t len;
		const struct image_extent *e = image_extents(image, 1, a->spaces[i].space, &len);
		for (size_t k = 0; k < len; k++) {
			size_t bytes = (size_t)e[k].pages * a->page_bytes;
			auto_free uint8_t *page = malloc(bytes);
			FUZZ_HOLDS(page);
			int r = image_read(
				image, 1, a->spaces[i].space, e[k].place, page, bytes, &err);
			FUZZ_HOLDS(r == 0 || (r == err.code && err.text[0]));
			all &= r == 0;
			held += e[k].pages;
		}
	}
	FUZZ_HOLDS(held == image_info(image).held_pages && held == address_space_held_pages(a));
	return all;
}

/* Pieces follow each other and cover what was asked for. */
static void pieces_walk(const struct image *image)
{
	const struct mapping_table *t = &image_process(image, 1)->mappings;
	for (size_t i = 0; i < t->len && i < 64; i++) {
		uint64_t at = t->v[i].start;
		for (int n = 0; at < t->v[i].end && n < 64; n++) {
			struct image_piece p;
			image_find(image, 1, at, t->v[i].end, &p);
			FUZZ_HOLDS(p.address == at && p.bytes > 0 && p.mapping == &t->v[i]);
			FUZZ_HOLDS(p.bytes <= t->v[i].end - at);
			at += p.bytes;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct tide_error err = {0};
	if (bytes == 0)
		return 0;
	store_begin();
	auto_free uint8_t *copy = malloc(bytes);
	FUZZ_HOLDS(copy);
	memcpy(copy, data + 1, bytes - 1);
	if (data[0] & MEND)
		file_mend(copy, bytes - 1);
	file_write(copy, bytes - 1);

	struct image *image = NULL;
	int r = image_open(store, "x", &image, &err);
	FUZZ_HOLDS(r == 0 || (r == err.code && err.text[0]));
	bool readable = r == 0 && pages_read(image);
	if (r == 0)
		pieces_walk(image);
	image_close(image);

	struct image_verdict verdict;
	FUZZ_HOLDS(image_verify(store, "x", NULL, NULL, &verdict, &err) == 0);
	FUZZ_HOLDS(verdict.damages > 0 || readable);
	return 0;
}
