/* SPDX-License-Identifier: MIT */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "tests/system/address_model.h"

enum { PAGE = 4096, ENTRIES = 512 };
#define WALKED_WHOLE_MAX (1ull << 30)
#define ENTRY_PRESENT (1ull << 63)
#define ENTRY_SWAPPED (1ull << 62)

static struct model_page **bucket(struct address_model *m, space_id space, uint64_t at)
{
	uint64_t h = (at / PAGE + space * 0x9e3779b9u) * 0x9e3779b97f4a7c15ull;
	return &m->buckets[h >> 52];
}

static struct model_page **slot(struct address_model *m, space_id space, uint64_t at)
{
	struct model_page **p = bucket(m, space, at);
	while (*p && ((*p)->space != space || (*p)->at != at))
		p = &(*p)->next;
	return p;
}

static const uint8_t *find_page(const struct address_model *m, space_id space, uint64_t at)
{
	struct model_page *p = *slot((struct address_model *)(uintptr_t)m, space, at);
	return p ? p->bytes : NULL;
}

static void put_page(struct address_model *m, space_id space, uint64_t at, const uint8_t *bytes)
{
	struct model_page **p = slot(m, space, at);
	if (!*p) {
		*p = calloc(1, sizeof(**p));
		**p = (struct model_page){.space = space, .at = at, .bytes = malloc(PAGE)};
		m->npages++;
	}
	memcpy((*p)->bytes, bytes, PAGE);
}

static void remove_at(struct address_model *m, struct model_page **p)
{
	struct model_page *gone = *p;
	*p = gone->next;
	free(gone->bytes);
	free(gone);
	m->npages--;
}

static void drop_range(struct address_model *m, space_id space, uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < MODEL_BUCKETS; i++) {
		for (struct model_page **p = &m->buckets[i]; *p;) {
			if ((*p)->space == space && (*p)->at >= start && (*p)->at < end)
				remove_at(m, p);
			else
				p = &(*p)->next;
		}
	}
}

void model_release(struct address_model *m)
{
	for (size_t i = 0; i < MODEL_BUCKETS; i++) {
		while (m->buckets[i])
			remove_at(m, &m->buckets[i]);
	}
	mapping_table_release(&m->maps);
}

static bool say(char *why, size_t size, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static bool say(char *why, size_t size, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	vsnprintf(why, size, fmt, args);
	va_end(args);
	return false;
}

static bool take_span(struct address_model *m, struct page_source *s, struct page_span span,
	char *why, size_t size)
{
	enum { SOME = 64 * PAGE };
	static uint8_t buf[SOME];
	struct tide_error err = {0};
	while (span.bytes) {
		struct page_span part = span;
		uint64_t got = 0;
		if (part.bytes > SOME)
			part.bytes = SOME;
		if (span.zero)
			memset(buf, 0, got = part.bytes);
		else if (s->ops->read(s, &part, 1, buf, &got, &err) < 0)
			return say(why, size, "%s", err.text);
		for (uint64_t i = 0; i < got; i += PAGE)
			put_page(m, span.space, span.at + i, buf + i);
		/* What cannot be read is passed over, with the rest of its span. */
		if (got < part.bytes)
			return true;
		span.at += got;
		span.address += got;
		span.bytes -= got;
	}
	return true;
}

bool model_apply(struct address_model *m, struct page_source *s, const struct change_set *c,
	char *why, size_t size)
{
	why[0] = '\0';
	int r = mapping_table_apply(&m->maps, &c->mappings);
	if (r < 0)
		return say(why, size, "the mappings do not fit: %s", strerror(-r));
	for (size_t i = 0; i < c->ndrops; i++)
		drop_range(m, c->drops[i].space, c->drops[i].run.start, c->drops[i].run.end);
	for (size_t i = 0; i < c->nwritten; i++) {
		if (!take_span(m, s, c->written[i], why, size))
			return false;
	}
	return true;
}

void model_resolve(
	const struct mapping_table *maps, uint64_t address, space_id *ret_space, uint64_t *ret_at)
{
	const struct mapping *m = mapping_table_find(maps, address);
	bool object = m && m->kind == MAPPING_OBJECT;
	*ret_space = object ? m->object : SPACE_PRIVATE;
	*ret_at = object ? address - m->start + m->offset : address;
}

/* A line of maps, read by this file's own means. */
struct line {
	uint64_t start, end, offset, inode;
	char perms[5];
	char name[4096];
};

struct comparing {
	const struct address_model *model;
	struct model_difference *ret;
	pid_t pid;
	int mem, pagemap;
	bool objects;
	uint64_t window; /* what `entries` begins with; mappings are small and many */
	uint64_t entries[ENTRIES];
};

static void note(struct comparing *c, const struct line *l, uint64_t address, const char *what)
{
	if (c->ret->pages++ == 0 && c->ret->mappings == 0)
		snprintf(c->ret->first, sizeof(c->ret->first),
			"page %" PRIu64 " (%#" PRIx64 ") of %#" PRIx64 "-%#" PRIx64
			" %s %.200s: %s",
			(address - l->start) / PAGE, address, l->start, l->end, l->perms, l->name,
			what);
}

static void note_mapping(struct comparing *c, const struct line *l, const char *what)
{
	if (c->ret->mappings++ == 0 && c->ret->pages == 0)
		snprintf(c->ret->first, sizeof(c->ret->first),
			"mapping %#" PRIx64 "-%#" PRIx64 " %s %.200s: %s", l->start, l->end,
			l->perms, l->name, what);
}

static const uint8_t zeros[PAGE];

static void compare_private(
	struct comparing *c, const struct line *l, uint64_t address, uint64_t entry, int file)
{
	uint8_t there[PAGE], of_file[PAGE] = {0};
	const uint8_t *held = find_page(c->model, SPACE_PRIVATE, address), *here = held;
	/* Behind the end of the file, in its last page, are zeros. */
	if (file >= 0 && pread(file, of_file, PAGE, (off_t)(l->offset + address - l->start)) >= 0 &&
		!here)
		here = of_file;
	if (!here)
		here = zeros;
	if (!(entry & (ENTRY_PRESENT | ENTRY_SWAPPED))) {
		if (held && memcmp(held, of_file, PAGE) != 0)
			note(c, l, address, "held, and the process has nothing there");
		return;
	}
	if (pread(c->mem, there, PAGE, (off_t)address) != PAGE) {
		if (held)
			note(c, l, address, "held, and cannot be read in the process");
		return;
	}
	if (memcmp(here, there, PAGE) != 0)
		note(c, l, address,
			held ? "other contents are held"
			     : "not held, and the process has contents");
}

/* The pagemap entry of a page. */
static uint64_t entry_of(struct comparing *c, uint64_t address)
{
	if (c->window == 0 || address < c->window || address >= c->window + ENTRIES * PAGE) {
		memset(c->entries, 0, sizeof(c->entries));
		c->window = address;
		if (pread(c->pagemap, c->entries, sizeof(c->entries), (off_t)(address / PAGE * 8)) <
			8)
			note(c, &(struct line){.name = "pagemap"}, address, "no entry");
	}
	return c->entries[(address - c->window) / PAGE];
}

static void compare_private_mapping(struct comparing *c, const struct line *l, int file)
{
	bool sparse = l->end - l->start > WALKED_WHOLE_MAX;
	for (uint64_t at = l->start; !sparse && at < l->end; at += PAGE)
		compare_private(c, l, at, entry_of(c, at), file);
	for (size_t i = 0; sparse && i < MODEL_BUCKETS; i++) {
		for (struct model_page *p = c->model->buckets[i]; p; p = p->next) {
			if (p->space == SPACE_PRIVATE && p->at >= l->start && p->at < l->end)
				compare_private(c, l, p->at, entry_of(c, p->at), file);
		}
	}
}

/* By the object itself: not all of it need be in the process's page tables, nor be brought there.
 */
static void compare_object(
	struct comparing *c, const struct line *l, const struct mapping *m, int file)
{
	uint8_t there[PAGE];
	uint64_t from = l->offset;
	for (uint64_t at = l->start; at < l->end; at += PAGE) {
		uint64_t offset = from + (at - l->start);
		const uint8_t *held = find_page(c->model, m->object, offset);
		memset(there, 0, PAGE);
		ssize_t n = file < 0 ? pread(c->mem, there, PAGE, (off_t)at)
				     : pread(file, there, PAGE, (off_t)offset);
		if (n < 0 && errno == EINVAL) /* no reading by descriptor: SysV of huge pages */
			n = pread(c->mem, there, PAGE, (off_t)at);
		if (n <= 0 && held)
			note(c, l, at, "held, and behind the end of the object");
		else if (n > 0 && memcmp(held ? held : zeros, there, PAGE) != 0)
			note(c, l, at,
				held ? "other contents of the object are held"
				     : "not held, and the object has contents");
	}
}

static bool is_memory(const struct comparing *c, const struct line *l, int file)
{
	struct statfs fs;
	if (file >= 0 && fstatfs(file, &fs) == 0)
		return fs.f_type == TMPFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC;
	return strncmp(l->name, "/SYSV", 5) == 0 || c == NULL;
}

static int open_object(const struct comparing *c, const struct line *l)
{
	char path[128];
	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, c->pid, l->start,
		l->end);
	return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

/* Memory that is the kernel's, or that nobody else can read. */
static bool is_beyond_us(const struct line *l)
{
	static const char *const others[] = {"[vvar", "[vsyscall]",
		"anon_inode:", "socket:", "/[aio]", "/secretmem", "/dev/mem", NULL};
	for (size_t i = 0; others[i]; i++) {
		if (strncmp(l->name, others[i], strlen(others[i])) == 0)
			return true;
	}
	return false;
}

static void compare_mapping(struct comparing *c, const struct line *l)
{
	const struct mapping *m = mapping_table_find(&c->model->maps, l->start);
	/* The kernel may keep neighbours apart that are one mapping in all that maps tells. */
	uint32_t prot = (l->perms[0] == 'r' ? PROT_READ : 0) |
			(l->perms[1] == 'w' ? PROT_WRITE : 0) |
			(l->perms[2] == 'x' ? PROT_EXEC : 0);
	bool shared = l->perms[3] == 's';
	if (!m || m->end < l->end || m->prot != prot || strcmp(m->name, l->name) != 0 ||
		!(m->flags & MAPPING_SHARED) != !shared || m->inode != l->inode ||
		(l->inode && m->offset + (l->start - m->start) != l->offset)) {
		note_mapping(c, l, m ? "differs from what is held" : "is not held");
		return;
	}
	if (is_beyond_us(l) || m->kind == MAPPING_OPAQUE) {
		if (m->kind != MAPPING_OPAQUE || !is_beyond_us(l))
			note_mapping(c, l, "is taken for another kind");
		return;
	}
	/* The first SysV segment has the number 0. */
	int file = l->inode || shared ? open_object(c, l) : -1;
	if (!shared)
		compare_private_mapping(c, l, file);
	else if ((m->kind == MAPPING_OBJECT) != is_memory(c, l, file))
		note_mapping(c, l, "is taken for another kind");
	else if (m->kind == MAPPING_OBJECT && c->objects)
		compare_object(c, l, m, file);
	if (file >= 0)
		close(file);
}

/* Every page that is held is somewhere: nothing is kept that no mapping shows any more. */
static void compare_places(struct comparing *c)
{
	static const struct line nowhere = {.name = "nothing"};
	for (size_t i = 0; i < MODEL_BUCKETS; i++) {
		for (struct model_page *p = c->model->buckets[i]; p; p = p->next) {
			const struct mapping *m =
				p->space ? NULL : mapping_table_find(&c->model->maps, p->at);
			bool shown = m && m->kind != MAPPING_OBJECT;
			for (size_t k = 0; p->space && k < c->model->maps.len; k++) {
				m = &c->model->maps.v[k];
				shown |= m->kind == MAPPING_OBJECT && m->object == p->space &&
					 p->at >= m->offset &&
					 p->at < m->offset + (m->end - m->start);
			}
			if (!shown)
				note(c, &nowhere, p->at, "held, and mapped nowhere");
		}
	}
}

void model_compare(
	const struct address_model *m, pid_t pid, bool objects, struct model_difference *ret)
{
	char path[64], text[4400];
	struct comparing c = {.model = m, .ret = ret, .pid = pid, .objects = objects};
	*ret = (struct model_difference){0};
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	c.mem = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	c.pagemap = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	FILE *maps = fopen(path, "re");
	uint64_t bytes = 0, lines = 0;
	while (maps && fgets(text, sizeof(text), maps)) {
		struct line l;
		int at = 0;
		if (sscanf(text, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %*s %" SCNu64 " %n",
			    &l.start, &l.end, l.perms, &l.offset, &l.inode, &at) < 5)
			continue;
		snprintf(l.name, sizeof(l.name), "%s", text + at);
		l.name[strcspn(l.name, "\n")] = '\0';
		compare_mapping(&c, &l);
		bytes += l.end - l.start;
		lines++;
	}
	for (size_t i = 0; i < m->maps.len; i++)
		bytes -= m->maps.v[i].end - m->maps.v[i].start;
	if (bytes != 0 || lines == 0)
		note_mapping(&c, &(struct line){.name = "all of them"},
			"more or less is held than the process has");
	compare_places(&c);
	if (maps)
		fclose(maps);
	close(c.mem);
	close(c.pagemap);
}
