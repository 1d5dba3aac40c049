/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include "base/clock.h"
#include "base/error.h"
#include "tracker/maps.h"
#include "tracker/process.h"

/*
 * What a name that the kernel made up tells. Longest prefixes need not come first: none is the
 * beginning of another.
 */
struct known_name {
	const char *prefix;
	enum mapping_kind kind;
	const char *why;
};

#define SECRET_NAME "/secretmem (deleted)"
#define ANON_HUGE_NAME "/anon_hugepage (deleted)"

static const struct known_name known_names[] = {
	{"[vdso]", MAPPING_VDSO, NULL},
	{"[vvar", MAPPING_OPAQUE, "data of the kernel's clock"},
	{"[vsyscall]", MAPPING_OPAQUE, "a page of the kernel, the same in every process"},
	{"[uprobes]", MAPPING_OPAQUE, "breakpoints of the kernel's own"},
	{"anon_inode:", MAPPING_OPAQUE,
		"memory shared with the kernel (perf, io_uring or the like)"},
	{"socket:", MAPPING_OPAQUE, "a packet ring, which the kernel writes"},
	{"/[aio]", MAPPING_OPAQUE, "an AIO ring, which the kernel writes"},
	{SECRET_NAME, MAPPING_OPAQUE, "memfd_secret memory: nobody else may read it"},
};

/* Shared memory without a file, as it is named where map_files may not be asked. */
static const char *const object_names[] = {"/dev/zero (deleted)",
	"[anon_shmem:", "/memfd:", "/SYSV", "/dev/shm/", ANON_HUGE_NAME, NULL};

static bool starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool maps_is_secret(const struct mapping *m)
{
	return m->kind == MAPPING_OPAQUE && starts_with(m->name, SECRET_NAME);
}

static int set_opaque(struct mapping *m, const char *why)
{
	m->kind = MAPPING_OPAQUE;
	m->object = 0;
	free(m->why);
	m->why = strdup(why);
	return m->why ? 0 : -ENOMEM;
}

static int classify(struct mapping *m)
{
	for (size_t i = 0; i < sizeof(known_names) / sizeof(known_names[0]); i++) {
		if (!starts_with(m->name, known_names[i].prefix))
			continue;
		m->kind = known_names[i].kind;
		return known_names[i].why ? set_opaque(m, known_names[i].why) : 0;
	}

	bool shared = m->flags & MAPPING_SHARED;
	if (strcmp(m->name, ANON_HUGE_NAME) == 0)
		m->flags |= MAPPING_HUGETLB;
	/* Anonymous memory of huge pages has a file that is nobody's. */
	if (!shared && (m->inode == 0 || strcmp(m->name, "/dev/zero") == 0 ||
			       m->flags & MAPPING_HUGETLB)) {
		m->kind = MAPPING_ANON;
		return 0;
	}
	if (!shared) {
		m->kind = MAPPING_FILE_PRIVATE;
		return 0;
	}
	m->kind = MAPPING_FILE_SHARED;
	for (size_t i = 0; object_names[i]; i++) {
		if (!starts_with(m->name, object_names[i]))
			continue;
		m->kind = MAPPING_OBJECT;
	}
	return 0;
}

/* The kernel writes a newline in a name as \012; nothing else is escaped. */
static void unescape(char *name)
{
	char *to = name;
	for (const char *from = name; *from;) {
		if (starts_with(from, "\\012")) {
			*to++ = '\n';
			from += 4;
		} else {
			*to++ = *from++;
		}
	}
	*to = '\0';
}

static int parse_line(const char *line, size_t len, struct mapping *ret)
{
	struct mapping m = {0};
	char r, w, x, s;
	int at = 0;
	char head[128];
	size_t head_len = len < sizeof(head) - 1 ? len : sizeof(head) - 1;
	memcpy(head, line, head_len);
	head[head_len] = '\0';
	if (sscanf(head,
		    "%" SCNx64 "-%" SCNx64 " %c%c%c%c %" SCNx64 " %" SCNx32 ":%" SCNx32 " %" SCNu64
		    "%n",
		    &m.start, &m.end, &r, &w, &x, &s, &m.offset, &m.dev_major, &m.dev_minor,
		    &m.inode, &at) != 10 ||
		at == 0 || m.start >= m.end || (s != 's' && s != 'p'))
		return -EBADMSG;

	m.prot = (r == 'r' ? PROT_READ : 0) | (w == 'w' ? PROT_WRITE : 0) |
		 (x == 'x' ? PROT_EXEC : 0);
	m.flags = s == 's' ? MAPPING_SHARED : 0;
	while ((size_t)at < len && line[at] == ' ')
		at++;
	m.name = strndup(line + at, len - (size_t)at);
	if (!m.name)
		return -ENOMEM;
	unescape(m.name);
	if (strcmp(m.name, "[stack]") == 0)
		m.flags |= MAPPING_GROWSDOWN;
	int r2 = classify(&m);
	if (r2 < 0) {
		mapping_release(&m);
		return r2;
	}
	*ret = m;
	return 0;
}

/*
 * The kernel writes the file in pieces, and the process may change its mappings between two of
 * them: then the first lines of a piece can lie over the last ones of the piece before. What was
 * said first stands; where that is not so any more, it differs from the next reading. False where
 * nothing is left.
 */
static bool cut_behind(struct mapping *m, uint64_t end)
{
	if (m->end <= end)
		return false;
	if (m->start < end) {
		if (m->inode)
			m->offset += end - m->start;
		m->start = end;
	}
	return true;
}

int maps_parse(const char *text, size_t len, struct mapping_table *ret, struct tide_error *err)
{
	auto_(mapping_table_release) struct mapping_table made = {0};
	unsigned line = 1;
	for (const char *at = text, *end = text + len; at < end; line++) {
		const char *stop = memchr(at, '\n', (size_t)(end - at));
		if (!stop)
			stop = end;
		struct mapping m = {0};
		int r = parse_line(at, (size_t)(stop - at), &m);
		if (r == 0 && cut_behind(&m, made.len ? made.v[made.len - 1].end : 0))
			r = mapping_table_append(&made, &m);
		mapping_release(&m);
		if (r == -ENOMEM)
			return tide_fail(err, r, "read a table of mappings");
		if (r < 0)
			return tide_bad(err, "line %u of a table of mappings makes no sense: %.*s",
				line, (int)(stop - at > 80 ? 80 : stop - at), at);
		at = stop + 1;
	}
	*ret = made;
	made = (struct mapping_table){0};
	return 0;
}

int maps_open_file(const struct process *p, const struct mapping *m)
{
	char name[64];
	snprintf(name, sizeof(name), "map_files/%" PRIx64 "-%" PRIx64, m->start, m->end);
	int fd = openat(p->proc_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}

static int stat_mapped_file(const struct process *p, const struct mapping *m, struct stat *ret)
{
	char name[64];
	snprintf(name, sizeof(name), "map_files/%" PRIx64 "-%" PRIx64, m->start, m->end);
	if (fstatat(p->proc_fd, name, ret, 0) == 0)
		return 0;

	/* Without the right to use map_files: by path, as the process sees it, and believed only
	 * where it is the same file. */
	if (m->name[0] != '/')
		return -EPERM;
	auto_free char *path = NULL;
	if (asprintf(&path, "root%s", m->name) < 0)
		return -ENOMEM;
	if (fstatat(p->proc_fd, path, ret, 0) < 0)
		return -errno;
	return (uint64_t)ret->st_ino == m->inode ? 0 : -ESTALE;
}

static bool lives_in_memory(const struct process *p, const struct mapping *m, bool *ret_hugetlb)
{
	char name[64];
	snprintf(name, sizeof(name), "map_files/%" PRIx64 "-%" PRIx64, m->start, m->end);
	/* O_PATH cannot be had through the magic link without following it, and following it opens
	 * nothing. */
	auto_close int fd = openat(p->proc_fd, name, O_PATH | O_CLOEXEC);
	if (fd < 0) {
		auto_free char *path = NULL;
		if (asprintf(&path, "root%s", m->name) >= 0)
			fd = openat(p->proc_fd, path, O_PATH | O_CLOEXEC);
	}
	struct statfs fs;
	if (fd < 0 || fstatfs(fd, &fs) < 0)
		return m->kind == MAPPING_OBJECT;
	*ret_hugetlb = fs.f_type == HUGETLBFS_MAGIC;
	return fs.f_type == TMPFS_MAGIC || *ret_hugetlb;
}

/* Asks about the file behind a mapping what its line does not tell. */
static int inspect(const struct process *p, struct mapping *m)
{
	if (m->kind != MAPPING_FILE_PRIVATE && m->kind != MAPPING_FILE_SHARED &&
		m->kind != MAPPING_OBJECT)
		return 0;

	struct stat st;
	int r = stat_mapped_file(p, m, &st);
	if (r == -ENOMEM)
		return r;
	if (r == 0 && !S_ISREG(st.st_mode)) {
		/* Its pages are a device's; /dev/zero and /dev/mem-like ones were told apart by
		 * name before. */
		return set_opaque(m, S_ISCHR(st.st_mode) ? "device memory" : "not a regular file");
	}
	if (r == 0) {
		m->file_size = (uint64_t)st.st_size;
		m->file_mtime_ns =
			(uint64_t)st.st_mtim.tv_sec * NS_PER_S + (uint64_t)st.st_mtim.tv_nsec;
	}
	bool hugetlb = false;
	bool memory = lives_in_memory(p, m, &hugetlb);
	if (hugetlb)
		m->flags |= MAPPING_HUGETLB;
	if (m->flags & MAPPING_SHARED && memory)
		m->kind = MAPPING_OBJECT;
	return 0;
}

/* Takes over what an earlier table says of the same mapping. */
static int remember(const struct mapping *known, struct mapping *m)
{
	if (known->why) {
		int r = set_opaque(m, known->why);
		if (r < 0)
			return r;
	}
	m->kind = known->kind;
	m->flags = known->flags;
	m->object = known->object;
	m->file_size = known->file_size;
	m->file_mtime_ns = known->file_mtime_ns;
	return 0;
}

static bool same_line(const struct mapping *a, const struct mapping *b)
{
	return a->start == b->start && a->end == b->end && a->prot == b->prot &&
	       a->offset == b->offset && ((a->flags ^ b->flags) & MAPPING_SHARED) == 0 &&
	       a->dev_major == b->dev_major && a->dev_minor == b->dev_minor &&
	       a->inode == b->inode && strcmp(a->name, b->name) == 0;
}

int maps_read(const struct process *p, const struct mapping_table *known, struct mapping_table *ret,
	struct tide_error *err)
{
	auto_free char *text = NULL;
	size_t len = 0;
	int r = process_read_file(p, "maps", &text, &len, err);
	if (r < 0)
		return r;

	auto_(mapping_table_release) struct mapping_table made = {0};
	r = maps_parse(text, len, &made, err);
	if (r < 0)
		return r;

	for (size_t i = 0, j = 0; i < made.len; i++) {
		struct mapping *m = &made.v[i];
		while (known && j < known->len && known->v[j].start < m->start)
			j++;
		if (known && j < known->len && same_line(&known->v[j], m))
			r = remember(&known->v[j], m);
		else
			r = inspect(p, m);
		if (r < 0)
			return tide_fail(err, r, "look at the mappings of process %d", p->pid);
	}
	*ret = made;
	made = (struct mapping_table){0};
	return 0;
}
