/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "agent/image.h"
#include "tests/system/oracle.h"

enum { PAGE = 4096, CHUNK = 64, ENTRIES = 4096 };

/* Which object of the image a device and inode of the process were found to be. A SysV segment has
 * its number for an inode, which other memory may have, too. */
struct known_object {
	uint64_t inode;
	uint32_t major, minor;
	bool sysv;
	space_id object;
};

struct oracle {
	pid_t pid;
	struct image *image;
	int mem, pagemap;
	struct known_object *objects;
	size_t nobjects;
	oracle_fn fn;
	void *arg;
	struct oracle_result *result;
};

/* A line of maps, read by this file's own means. */
struct line {
	uint64_t start, end, offset, inode;
	uint32_t major, minor;
	uint32_t prot;
	bool shared;
	enum mapping_kind kind;
	int file; /* what is mapped, or -1 */
	const char *name;
	char text[4400];
};

/* --- the process's side -------------------------------------------------------------------- */

static bool starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* What maps tells of memory that nobody but the kernel, or the process itself, may look into. */
static bool is_opaque_name(const char *name)
{
	static const char *const names[] = {"[vvar", "[vsyscall]", "[uprobes]",
		"anon_inode:", "socket:", "/[aio]", "/secretmem", NULL};
	for (size_t i = 0; names[i]; i++) {
		if (starts_with(name, names[i]))
			return true;
	}
	return false;
}

/* Shared memory by name, for those who may not look behind a mapping. */
static bool is_memory_name(const char *name)
{
	static const char *const names[] = {"/dev/zero (deleted)",
		"[anon_shmem:", "/memfd:", "/SYSV", "/dev/shm/", "/anon_hugepage", NULL};
	for (size_t i = 0; names[i]; i++) {
		if (starts_with(name, names[i]))
			return true;
	}
	return false;
}

static enum mapping_kind kind_of(const struct line *l)
{
	struct statfs fs;
	struct stat st;
	if (strcmp(l->name, "[vdso]") == 0)
		return MAPPING_VDSO;
	if (is_opaque_name(l->name))
		return MAPPING_OPAQUE;
	/* The kernel keeps private huge pages of no file in one without a name of its own. */
	if (!l->shared && (l->inode == 0 || strcmp(l->name, "/dev/zero") == 0 ||
				  strcmp(l->name, "/anon_hugepage (deleted)") == 0))
		return MAPPING_ANON;
	if (l->file >= 0 && fstat(l->file, &st) == 0 && !S_ISREG(st.st_mode) &&
		!is_memory_name(l->name))
		return MAPPING_OPAQUE;
	if (!l->shared)
		return MAPPING_FILE_PRIVATE;
	if (l->file >= 0 && fstatfs(l->file, &fs) == 0)
		return fs.f_type == TMPFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC
			       ? MAPPING_OBJECT
			       : MAPPING_FILE_SHARED;
	return is_memory_name(l->name) ? MAPPING_OBJECT : MAPPING_FILE_SHARED;
}

static int open_mapped(pid_t pid, const struct line *l)
{
	char path[96];
	if (!l->inode || is_opaque_name(l->name))
		return -1;
	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, pid, l->start,
		l->end);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	return fd >= 0 || l->name[0] != '/' ? fd : open(l->name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

static bool line_parse(pid_t pid, const char *text, struct line *ret)
{
	int at = 0;
	char perms[5];
	snprintf(ret->text, sizeof(ret->text), "%s", text);
	ret->text[strcspn(ret->text, "\n")] = '\0';
	if (sscanf(ret->text,
		    "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %" SCNx32 ":%" SCNx32 " %" SCNu64
		    " %n",
		    &ret->start, &ret->end, perms, &ret->offset, &ret->major, &ret->minor,
		    &ret->inode, &at) < 7)
		return false;
	ret->prot = (perms[0] == 'r' ? PROT_READ : 0) | (perms[1] == 'w' ? PROT_WRITE : 0) |
		    (perms[2] == 'x' ? PROT_EXEC : 0);
	ret->shared = perms[3] == 's';
	ret->name = ret->text + at;
	ret->file = open_mapped(pid, ret);
	ret->kind = kind_of(ret);
	return true;
}

/* --- differences --------------------------------------------------------------------------- */

static void note(struct oracle *o, const struct line *l, struct oracle_difference d)
{
	d.mapping = l ? l->text : "";
	d.inode = l ? l->inode : 0;
	if (l && d.is_page)
		d.file_offset = d.address - l->start + l->offset;
	if (o->fn && !o->fn(o->arg, &d))
		return;
	if (o->result->different_pages + o->result->different_mappings == 0)
		snprintf(o->result->first, sizeof(o->result->first),
			"%s %#" PRIx64 " of %.300s: %s", d.is_page ? "page" : "mapping", d.address,
			d.mapping, d.what);
	if (d.is_page)
		o->result->different_pages++;
	else
		o->result->different_mappings++;
}

static void note_page(struct oracle *o, const struct line *l, const struct image_piece *piece,
	uint64_t address, const char *what)
{
	note(o, l,
		(struct oracle_difference){.what = what,
			.address = address,
			.bytes = PAGE,
			.is_page = true,
			.space = piece->space,
			.at = piece->at + (address - piece->address),
			.offset = -1,
			.image_byte = -1,
			.process_byte = -1});
}

static void note_mapping(
	struct oracle *o, const struct line *l, uint64_t start, uint64_t end, const char *what)
{
	note(o, l,
		(struct oracle_difference){
			.what = what, .address = start, .bytes = end - start, .offset = -1});
}

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

static void compare_page(struct oracle *o, const struct line *l, const struct image_piece *piece,
	uint64_t address, const uint8_t *here)
{
	uint8_t there[PAGE];
	if (pread(o->mem, there, PAGE, (off_t)address) != PAGE) {
		if (piece->content == IMAGE_HELD)
			note_page(o, l, piece, address,
				"held by the image, and cannot be read in the process");
		return;
	}
	o->result->compared_pages++;
	if (memcmp(here, there, PAGE) == 0)
		return;
	int at = 0;
	while (here[at] == there[at])
		at++;
	bool zero = is_zero(there);
	const char *what = piece->content != IMAGE_HELD
				   ? "the process wrote it, the image does not hold it"
			   : zero ? "the process has zeros, the image does not"
				  : "contents differ";
	note(o, l,
		(struct oracle_difference){.what = what,
			.address = address,
			.bytes = PAGE,
			.is_page = true,
			.space = piece->space,
			.at = piece->at + (address - piece->address),
			.offset = at,
			.image_byte = here[at],
			.process_byte = there[at],
			.process_is_zero = zero});
}

/* --- contents ------------------------------------------------------------------------------ */

static void compare_held(struct oracle *o, const struct line *l, const struct image_piece *piece)
{
	static uint8_t here[CHUNK * PAGE];
	for (uint64_t done = 0; done < piece->bytes;) {
		uint64_t bytes =
			piece->bytes - done < sizeof(here) ? piece->bytes - done : sizeof(here);
		struct tide_error err = {0};
		if (image_read(o->image, 1, piece->space, piece->at + done, here, bytes, &err) <
			0) {
			note_page(o, l, piece, piece->address + done, err.text);
			return;
		}
		for (uint64_t k = 0; k < bytes; k += PAGE)
			compare_page(o, l, piece, piece->address + done + k, here + k);
		done += bytes;
	}
}

/*
 * What the image does not hold. Of private memory only what the page table has an entry for can be
 * anything but zero, or the file's; of shared memory every page can be.
 */
static void compare_not_held(
	struct oracle *o, const struct line *l, const struct image_piece *piece)
{
	static uint64_t entries[ENTRIES];
	uint8_t here[PAGE];
	for (uint64_t at = piece->address, end = at + piece->bytes; at < end;) {
		uint64_t n = (end - at) / PAGE < ENTRIES ? (end - at) / PAGE : ENTRIES;
		ssize_t got = pread(o->pagemap, entries, n * 8, (off_t)(at / PAGE * 8));
		if (got != (ssize_t)(n * 8)) {
			note_page(o, l, piece, at, "no pagemap entry");
			return;
		}
		for (uint64_t i = 0; i < n; i++, at += PAGE) {
			if (!l->shared && !(entries[i] >> 62 & 3))
				continue;
			memset(here, 0, PAGE);
			uint64_t offset = piece->file_offset + (at - piece->address);
			/* Behind the end of the file a page is zero. */
			ssize_t in_file = piece->content != IMAGE_FILE ? PAGE
					  : l->file < 0                ? -1
							: pread(l->file, here, PAGE, (off_t)offset);
			if (in_file < 0) {
				note_page(o, l, piece, at, "the file cannot be read");
				return;
			}
			/* In the last page, what was stored behind the end of the file is nobody's:
			 * it is there while the page is in memory. */
			if (in_file > 0 && in_file < PAGE &&
				pread(o->mem, here + in_file, (size_t)(PAGE - in_file),
					(off_t)at + in_file) < 0)
				memset(here + in_file, 0, (size_t)(PAGE - in_file));
			compare_page(o, l, piece, at, here);
		}
	}
}

static void compare_contents(struct oracle *o, const struct line *l)
{
	/* A shared regular file is a reference; where the kinds differ it has been said. */
	if (l->kind == MAPPING_FILE_SHARED || l->kind == MAPPING_OPAQUE)
		return;
	for (uint64_t at = l->start; at < l->end;) {
		struct image_piece piece;
		image_find(o->image, 1, at, l->end, &piece);
		if (piece.content == IMAGE_HELD)
			compare_held(o, l, &piece);
		else if (piece.content != IMAGE_UNMAPPED && piece.content != IMAGE_ABSENT)
			compare_not_held(o, l, &piece);
		at = piece.address + piece.bytes;
	}
}

/* --- mappings ------------------------------------------------------------------------------ */

/* The same memory of the process is the same object of the image, and other memory another one. */
static const char *check_object(struct oracle *o, const struct line *l, const struct mapping *m)
{
	bool sysv = strncmp(l->name, "/SYSV", 5) == 0;
	for (size_t i = 0; i < o->nobjects; i++) {
		const struct known_object *k = &o->objects[i];
		bool same = k->inode == l->inode && k->major == l->major && k->minor == l->minor &&
			    k->sysv == sysv;
		if (same != (k->object == m->object))
			return same ? "it shows another object than other mappings of the same "
				      "memory"
				    : "it shows the object of other memory";
		if (same)
			return NULL;
	}
	struct known_object *v = realloc(o->objects, (o->nobjects + 1) * sizeof(*v));
	if (!v)
		return "out of memory";
	o->objects = v;
	v[o->nobjects++] = (struct known_object){l->inode, l->major, l->minor, sysv, m->object};
	return NULL;
}

/* What is wrong with the image's mapping at `at` of a line, or NULL. */
static const char *mapping_differs(
	struct oracle *o, const struct line *l, const struct mapping *m, uint64_t at)
{
	if (!m)
		return "the image has no mapping there";
	if (m->prot != l->prot)
		return "another protection";
	if (!(m->flags & MAPPING_SHARED) == l->shared)
		return "one is shared, the other is not";
	if (m->kind != l->kind)
		return "another kind of mapping";
	if (strcmp(m->name, l->name) != 0)
		return "another name";
	if (m->inode != l->inode || m->dev_major != l->major || m->dev_minor != l->minor)
		return "another file";
	if (l->inode && m->offset + (at - m->start) != l->offset + (at - l->start))
		return "another offset";
	return m->kind == MAPPING_OBJECT ? check_object(o, l, m) : NULL;
}

/*
 * The kernel may keep neighbours apart that are one mapping in all that maps tells, so what counts
 * is what lies at each address, not where mappings begin and end.
 */
static void compare_line(struct oracle *o, const struct line *l)
{
	const struct mapping_table *t = &image_process(o->image, 1)->mappings;
	for (uint64_t at = l->start; at < l->end;) {
		const struct mapping *m = mapping_table_find(t, at);
		uint64_t end = l->end;
		if (m && m->end < end)
			end = m->end;
		for (size_t i = 0; !m && i < t->len; i++) {
			if (t->v[i].start > at && t->v[i].start < end)
				end = t->v[i].start;
		}
		const char *what = mapping_differs(o, l, m, at);
		if (what)
			note_mapping(o, l, at, end, what);
		at = end;
	}
}

/* Mappings of the image between two of the process. */
static void compare_gap(struct oracle *o, uint64_t start, uint64_t end)
{
	const struct mapping_table *t = &image_process(o->image, 1)->mappings;
	for (size_t i = 0; i < t->len; i++) {
		const struct mapping *m = &t->v[i];
		uint64_t from = m->start > start ? m->start : start,
			 to = m->end < end ? m->end : end;
		if (from < to)
			note_mapping(o, NULL, from, to, "a mapping that the process does not have");
	}
}

static bool compare_all(struct oracle *o, FILE *maps)
{
	static struct line l;
	char text[4400];
	uint64_t behind = 0;
	while (fgets(text, sizeof(text), maps)) {
		if (!line_parse(o->pid, text, &l)) {
			printf("a line of maps makes no sense: %s\n", text);
			return false;
		}
		o->result->mappings++;
		if (behind < l.start)
			compare_gap(o, behind, l.start);
		behind = l.end;
		compare_line(o, &l);
		compare_contents(o, &l);
		if (l.file >= 0)
			close(l.file);
	}
	compare_gap(o, behind, UINT64_MAX);
	return behind != 0;
}

static int open_of(pid_t pid, const char *name)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

int oracle_compare_each(const char *store, const char *name, pid_t pid, oracle_fn fn, void *arg,
	struct oracle_result *ret)
{
	char path[4096];
	struct tide_error err = {0};
	struct oracle o = {.pid = pid, .fn = fn, .arg = arg, .result = ret};
	*ret = (struct oracle_result){0};
	snprintf(path, sizeof(path), "%s/%s", store, name);
	if (image_open_path(path, &o.image, &err) < 0) {
		printf("%s\n", err.text);
		return -1;
	}
	o.mem = open_of(pid, "mem");
	o.pagemap = open_of(pid, "pagemap");
	int maps_fd = open_of(pid, "maps");
	FILE *maps = maps_fd < 0 ? NULL : fdopen(maps_fd, "r");
	bool done = maps && o.mem >= 0 && o.pagemap >= 0 && compare_all(&o, maps);
	if (!done)
		printf("process %d cannot be looked at: %s\n", pid, strerror(errno));
	if (maps)
		fclose(maps);
	if (o.mem >= 0)
		close(o.mem);
	if (o.pagemap >= 0)
		close(o.pagemap);
	free(o.objects);
	image_close(o.image);
	return done ? 0 : -1;
}

int oracle_compare(const char *store, const char *name, pid_t pid, struct oracle_result *ret)
{
	return oracle_compare_each(store, name, pid, NULL, NULL, ret);
}
