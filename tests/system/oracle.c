/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "agent/image.h"
#include "tests/system/oracle.h"

enum { PAGE = 4096 };

struct oracle {
	struct image *image;
	int mem, pagemap;
	struct oracle_result *result;
};

/* A line of maps, read by this file's own means. */
struct line {
	uint64_t start, end, offset, inode;
	char perms[5];
	char name[4096];
};

static bool line_parse(const char *text, struct line *ret)
{
	int at = 0;
	if (sscanf(text, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %*s %" SCNu64 " %n", &ret->start,
		    &ret->end, ret->perms, &ret->offset, &ret->inode, &at) < 5)
		return false;
	snprintf(ret->name, sizeof(ret->name), "%s", text + at);
	ret->name[strcspn(ret->name, "\n")] = '\0';
	return true;
}

static bool is_zero(const uint8_t *page)
{
	for (int i = 0; i < PAGE; i++) {
		if (page[i])
			return false;
	}
	return true;
}

static void note(struct oracle *o, const struct line *l, uint64_t address, const char *what)
{
	if (o->result->different_pages++ == 0)
		snprintf(o->result->first, sizeof(o->result->first),
			"page %#" PRIx64 " of %#" PRIx64 "-%#" PRIx64 " %s %.200s: %s", address,
			l->start, l->end, l->perms, l->name, what);
}

static void compare_page(struct oracle *o, const struct line *l, uint64_t address, int file)
{
	uint64_t entry = 0;
	struct image_piece piece;
	uint8_t there[PAGE], here[PAGE] = {0};
	bool shared = l->perms[3] == 's';
	if (pread(o->pagemap, &entry, 8, (off_t)(address / PAGE * 8)) != 8) {
		note(o, l, address, "no pagemap entry");
		return;
	}
	bool populated = entry >> 62 & 3;
	image_find(o->image, 1, address, address + PAGE, &piece);
	if (piece.content == IMAGE_ABSENT)
		return;
	if (piece.content == IMAGE_UNMAPPED) {
		note(o, l, address, "the image has no mapping there");
		return;
	}
	/* What nobody touched is zero, or the file's, on both sides. */
	if (!populated && !shared && piece.content != IMAGE_HELD)
		return;
	if (pread(o->mem, there, PAGE, (off_t)address) != PAGE) {
		if (piece.content == IMAGE_HELD)
			note(o, l, address, "held by the image, and cannot be read in the process");
		return;
	}
	if (piece.content == IMAGE_HELD) {
		struct tide_error err = {0};
		if (image_read(o->image, 1, piece.space, piece.at, here, PAGE, &err) < 0) {
			note(o, l, address, err.text);
			return;
		}
	} else if (piece.content == IMAGE_FILE) {
		/* Behind the end of the file a page is zero. */
		if (file < 0 || pread(file, here, PAGE, (off_t)piece.file_offset) < 0)
			return;
	}
	o->result->compared_pages++;
	if (memcmp(here, there, PAGE) != 0)
		note(o, l, address,
			piece.content == IMAGE_HELD
				? (is_zero(there) ? "the process has zeros" : "contents differ")
				: "the process wrote it, the image does not hold it");
}

static void compare_mapping(struct oracle *o, const struct line *l)
{
	static const char *const others[] = {
		"[vvar", "[vsyscall]", "anon_inode:", "socket:", "/[aio]", NULL};
	for (size_t i = 0; others[i]; i++) {
		if (strncmp(l->name, others[i], strlen(others[i])) == 0)
			return;
	}
	const struct mapping *m =
		mapping_table_find(&image_process(o->image, 1)->mappings, l->start);
	/* The kernel may keep neighbours apart that are one mapping in all that maps tells. */
	uint32_t prot = (l->perms[0] == 'r' ? PROT_READ : 0) |
			(l->perms[1] == 'w' ? PROT_WRITE : 0) |
			(l->perms[2] == 'x' ? PROT_EXEC : 0);
	if (!m || m->start > l->start || m->end < l->end || m->prot != prot ||
		strcmp(m->name, l->name) != 0)
		o->result->different_mappings++;
	/* A shared regular file is a reference. */
	if (m && m->kind == MAPPING_FILE_SHARED)
		return;
	int file = l->inode && l->name[0] == '/' ? open(l->name, O_RDONLY | O_CLOEXEC) : -1;
	for (uint64_t at = l->start; at < l->end; at += PAGE)
		compare_page(o, l, at, file);
	if (file >= 0)
		close(file);
}

int oracle_compare(const char *store, const char *name, pid_t pid, struct oracle_result *ret)
{
	char path[4096], text[4400];
	struct tide_error err = {0};
	struct oracle o = {.result = ret};
	*ret = (struct oracle_result){0};
	snprintf(path, sizeof(path), "%s/%s", store, name);
	if (image_open_path(path, &o.image, &err) < 0) {
		printf("%s\n", err.text);
		return -1;
	}
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	o.mem = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	o.pagemap = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	FILE *maps = fopen(path, "re");
	while (maps && fgets(text, sizeof(text), maps)) {
		struct line l;
		if (line_parse(text, &l))
			compare_mapping(&o, &l);
	}
	int r = maps && o.mem >= 0 && o.pagemap >= 0 ? 0 : -1;
	if (maps)
		fclose(maps);
	close(o.mem);
	close(o.pagemap);
	image_close(o.image);
	return r;
}
