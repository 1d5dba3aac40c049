/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/units.h"
#include "tracker/hidden_text.h"
#include "tracker/hidden_writes.h"
#include "tracker/process.h"

enum {
	SLICE_ENTRIES = 8, /* of the descriptors, in each look but the first */
	ENTRY_BYTES = 24,  /* of a directory entry with a name of up to four digits */
	RING_TRIES = 20,   /* to find a ring's lock free */
	THREAD_TRIES = 8,  /* to find a thread waiting */
	PAUSE_US = 100,    /* between them */
	DRAIN_PAUSE_US = 500,
	DRAIN_QUIET = 3, /* looks in a row that see nothing in flight */
};

#define HUGE_BYTES (UINT64_C(2) << 20)
#define GIGANTIC_BYTES (UINT64_C(1) << 30)

static const char ring_name[] = "anon_inode:[io_uring]";
static const char aio_name[] = "/[aio]";
/* Whose purpose is to have devices write into memory. */
static const char *const device_names[] = {"/dev/infiniband/uverbs", "/dev/vfio/", NULL};

enum known_kind { KNOWN_RING, KNOWN_DIRECT, KNOWN_DEVICE };

/* A descriptor of the process that is of interest. */
struct known {
	int fd;
	enum known_kind kind;
	uint64_t since; /* the number of the look that found it */
};

struct hidden_writes {
	const struct process *process;
	uint64_t page_bytes;
	struct known *known;
	size_t nknown;
	uint64_t looks; /* so far */
	bool walked;    /* once through all descriptors */
	int64_t where;  /* in the folder of descriptors: where the next slice begins */
	int after;      /* the last descriptor before it */
	struct pageset found, before; /* by this look, by the one before it */
	struct hidden_report report;
};

/* One look's own. */
struct look {
	struct hidden_writes *h;
	const struct mapping_table *maps;
	bool frozen;
	pid_t tid; /* whose files under /proc are read: a leader that is dead shows nothing */
	uint64_t explained_bytes; /* the most that the listed buffers may account for in VmPin */
	bool unlisted;            /* a ring's buffers could not be read */
	bool unmatched;           /* a ring is mapped that no descriptor shows */
	struct hidden_report *r;
};

int hidden_writes_open(
	const struct process *process, struct hidden_writes **ret, struct tide_error *err)
{
	struct hidden_writes *h = calloc(1, sizeof(*h));
	if (!h)
		return tide_fail(err, -ENOMEM, "follow process %d", process->pid);
	h->process = process;
	h->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	*ret = h;
	return 0;
}

void hidden_writes_close(struct hidden_writes *h)
{
	if (!h)
		return;
	free(h->known);
	pageset_release(&h->found);
	pageset_release(&h->before);
	pageset_release(&h->report.doubtful);
	free(h);
}

static bool starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* --- descriptors --- */

static void forget(struct hidden_writes *h, int from, int to)
{
	size_t n = 0;
	for (size_t i = 0; i < h->nknown; i++) {
		if (h->known[i].fd < from || h->known[i].fd > to)
			h->known[n++] = h->known[i];
	}
	h->nknown = n;
}

static int remember(struct hidden_writes *h, int fd, enum known_kind kind, uint64_t since)
{
	struct known *v = reallocarray(h->known, h->nknown + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	h->known = v;
	v[h->nknown++] = (struct known){.fd = fd, .kind = kind, .since = since};
	return 0;
}

/* Since which look a ring is known that has this descriptor; the current one where it is not. */
static uint64_t ring_since(const struct hidden_writes *h, int fd)
{
	for (size_t i = 0; i < h->nknown; i++) {
		if (h->known[i].fd == fd && h->known[i].kind == KNOWN_RING)
			return h->known[i].since;
	}
	return h->looks;
}

/*
 * Is it a file that a device may read into memory? A pipe may be open with O_DIRECT, too, which is
 * about packets there. The file's server is not asked: it may be the very process that is held.
 */
static bool is_file(const struct look *l, pid_t tid, int fd)
{
	char path[64];
	struct statx st;
	snprintf(path, sizeof(path), "task/%d/fd/%d", tid, fd);
	if (statx(l->h->process->proc_fd, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE,
		    &st) < 0)
		return true; /* closed meanwhile, the read goes on: who knows what it was */
	return S_ISREG(st.stx_mode) || S_ISBLK(st.stx_mode);
}

static unsigned open_flags(const struct look *l, int fd)
{
	char path[64], text[512];
	snprintf(path, sizeof(path), "task/%d/fdinfo/%d", l->tid, fd);
	auto_close int info = openat(l->h->process->proc_fd, path, O_RDONLY | O_CLOEXEC);
	ssize_t n = info < 0 ? -1 : read(info, text, sizeof(text) - 1);
	if (n < 0)
		return 0;
	text[n] = '\0';
	return fdinfo_flags(text);
}

static int note_descriptor(struct look *l, int dir_fd, const char *name, uint64_t since)
{
	char target[64];
	int fd = (int)strtol(name, NULL, 10);
	ssize_t n = readlinkat(dir_fd, name, target, sizeof(target) - 1);
	if (n < 0)
		return 0; /* closed meanwhile */
	target[n] = '\0';
	if (strcmp(target, ring_name) == 0)
		return remember(l->h, fd, KNOWN_RING, since);
	if (target[0] != '/')
		return 0;
	for (size_t i = 0; device_names[i]; i++) {
		if (starts_with(target, device_names[i]))
			return remember(l->h, fd, KNOWN_DEVICE, since);
	}
	if (open_flags(l, fd) & O_DIRECT && is_file(l, l->tid, fd))
		return remember(l->h, fd, KNOWN_DIRECT, since);
	return 0;
}

struct directory_entry {
	uint64_t inode;
	int64_t next;
	uint16_t bytes;
	uint8_t type;
	char name[];
};

/* What is known of the descriptors in these entries is found anew. */
static int note_entries(struct look *l, int dir_fd, const char *entries, size_t bytes)
{
	for (size_t at = 0; at < bytes;) {
		const struct directory_entry *e = (const void *)(entries + at);
		l->h->where = e->next;
		at += e->bytes;
		if (!isdigit((unsigned char)e->name[0]))
			continue;
		int fd = (int)strtol(e->name, NULL, 10);
		uint64_t since = ring_since(l->h, fd);
		/* In order of their numbers: what lies between two is closed. */
		forget(l->h, l->h->after + 1, fd);
		l->h->after = fd;
		int r = note_descriptor(l, dir_fd, e->name, since);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Goes through the next descriptors, or through all. */
static int walk_descriptors(struct look *l, bool all, struct tide_error *err)
{
	struct hidden_writes *h = l->h;
	_Alignas(8) char entries[4096];
	char path[32];
	snprintf(path, sizeof(path), "task/%d/fd", l->tid);
	auto_close int fd = openat(h->process->proc_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT
			       ? 0
			       : tide_fail(err, -errno, "list the descriptors of process %d",
					 h->process->pid);
	if (all || lseek(fd, h->where, SEEK_SET) < 0) {
		h->where = 0;
		h->after = -1;
	}
	size_t some = all ? sizeof(entries) : SLICE_ENTRIES * ENTRY_BYTES;
	do {
		long n = syscall(SYS_getdents64, fd, entries, some);
		if (n < 0)
			return tide_fail(
				err, -errno, "list the descriptors of process %d", h->process->pid);
		if (n == 0) {
			forget(h, h->after + 1, INT_MAX);
			h->where = 0;
			h->after = -1;
			break;
		}
		int r = note_entries(l, fd, entries, (size_t)n);
		if (r < 0)
			return tide_fail(
				err, r, "list the descriptors of process %d", h->process->pid);
	} while (all);
	h->walked = true;
	return 0;
}

/* --- rings --- */

static bool is_mapped(const struct mapping_table *maps, struct page_run run)
{
	while (run.start < run.end) {
		const struct mapping *m = mapping_table_find(maps, run.start);
		if (!m)
			return false;
		run.start = m->end;
	}
	return true;
}

/*
 * The most that these buffers may add to VmPin. A page of a huge page counts as all of that, though
 * only once a ring; whether it is one cannot be seen from here.
 */
static int add_explained(struct look *l, const struct ring_text *ring)
{
	struct pageset wide = {0};
	int r = 0;
	for (size_t i = 0; r == 0 && i < ring->buffers.len; i++) {
		struct page_run run = ring->buffers.runs[i];
		const struct mapping *m = mapping_table_find(l->maps, run.start);
		uint64_t huge = m && m->flags & MAPPING_HUGETLB ? GIGANTIC_BYTES : HUGE_BYTES;
		r = hidden_add(
			&wide, run.start & ~(huge - 1), run.end - (run.start & ~(huge - 1)), huge);
	}
	/* Each buffer's first and last page may be shared with another's. */
	l->explained_bytes +=
		ring->buffer_bytes + 2 * ring->nbuffers * l->h->page_bytes + pageset_bytes(&wide);
	pageset_release(&wide);
	return r;
}

/* Reads a ring's text until its list is there. 1 where the descriptor is none any more. */
static int read_ring(const struct look *l, int fd, struct ring_text *ret)
{
	char path[64];
	snprintf(path, sizeof(path), "task/%d/fdinfo/%d", l->tid, fd);
	for (unsigned tries = 0;; tries++) {
		auto_free char *text = NULL;
		size_t len;
		int r = process_read_file(l->h->process, path, &text, &len, NULL);
		if (r == -ENOENT || r == -ESRCH)
			return 1;
		if (r == 0)
			r = ring_text_parse(text, l->h->page_bytes, ret);
		/* A text that makes no sense is a list that is not known. */
		if (r == -EBADMSG) {
			*ret = (struct ring_text){0};
			return 0;
		}
		/* Who has pinned nothing has registered nothing. */
		if (r < 0 || ret->whole || tries == RING_TRIES || l->r->pinned_bytes == 0)
			return r;
		ring_text_release(ret);
		usleep(PAUSE_US);
	}
}

static bool is_ring_mapping(const struct mapping *m)
{
	return strcmp(m->name, ring_name) == 0;
}

static bool is_ring_placed(const struct mapping_table *maps, uint64_t inode)
{
	for (size_t i = 0; i < maps->len; i++) {
		if (is_ring_mapping(&maps->v[i]) && maps->v[i].inode == inode)
			return true;
	}
	return false;
}

static int take_ring(struct look *l, const struct known *k, const struct ring_text *ring)
{
	struct hidden_report *r = l->r;
	r->rings++;
	r->ring_files += ring->nfiles;
	r->buffers += ring->nbuffers;
	r->buffer_bytes += ring->buffer_bytes;
	/* What was opened since the maps were read is not in them; so it counts from its second
	 * look on. In the very first one there may be none to come. */
	if (ring->inode && !is_ring_placed(l->maps, ring->inode) &&
		(k->since < l->h->looks || l->h->looks == 0))
		r->unplaced_rings++;
	if (!ring->whole && r->pinned_bytes) {
		l->unlisted = true;
		r->everything = "a ring's buffers could not be listed";
	}
	for (size_t i = 0; r->pinned_bytes && i < ring->buffers.len; i++) {
		/* mremap() moved the pages away, and the kernel's list does not follow. */
		if (!is_mapped(l->maps, ring->buffers.runs[i]))
			r->everything = "a registered buffer is not where it was";
	}
	int rc = add_explained(l, ring);
	for (size_t i = 0; rc == 0 && i < ring->buffers.len; i++)
		rc = pageset_add(&l->h->found, ring->buffers.runs[i]);
	return rc;
}

/* Rings that are mapped, by inode, and that no descriptor shows. */
static void count_unmatched(struct look *l, const uint64_t *inodes, size_t n)
{
	uint64_t last = 0;
	for (size_t i = 0; i < l->maps->len; i++) {
		const struct mapping *m = &l->maps->v[i];
		if (starts_with(m->name, aio_name))
			l->r->aio_contexts++;
		if (!is_ring_mapping(m) || m->inode == last)
			continue;
		last = m->inode;
		bool matched = false;
		for (size_t k = 0; k < n; k++)
			matched |= inodes[k] == m->inode;
		l->unmatched |= !matched;
		l->r->rings += !matched;
	}
}

static int look_at_rings(struct look *l, struct tide_error *err)
{
	struct hidden_writes *h = l->h;
	struct hidden_report *r = l->r;
	r->rings = r->unplaced_rings = r->ring_files = r->buffers = r->aio_contexts = 0;
	r->buffer_bytes = r->unexplained_bytes = l->explained_bytes = 0;
	r->everything = NULL;
	l->unlisted = l->unmatched = false;
	pageset_clear(&h->found);

	auto_free uint64_t *inodes = calloc(h->nknown + 1, sizeof(*inodes));
	size_t n = 0;
	int rc = inodes ? 0 : -ENOMEM;
	for (size_t i = 0; rc == 0 && i < h->nknown; i++) {
		struct ring_text ring = {0};
		if (h->known[i].kind != KNOWN_RING)
			continue;
		rc = read_ring(l, h->known[i].fd, &ring);
		if (rc == 0) {
			inodes[n++] = ring.inode;
			rc = take_ring(l, &h->known[i], &ring);
		} else if (rc == 1) {
			rc = 0; /* closed; the next walk past it forgets it */
		}
		ring_text_release(&ring);
	}
	if (rc == 0)
		count_unmatched(l, inodes, n);
	if (rc < 0)
		return tide_fail(
			err, rc, "look at the io_uring rings of process %d", h->process->pid);
	if (!l->unlisted && r->pinned_bytes > l->explained_bytes)
		r->unexplained_bytes = r->pinned_bytes - l->explained_bytes;
	return 0;
}

/* --- threads --- */

/* Where the vector says that the read goes. 1 where it cannot be read any more. */
static int add_vector(struct look *l, const struct read_call *call)
{
	struct iovec parts[64];
	for (uint64_t i = 0; i < call->length;) {
		uint64_t some = call->length - i < 64 ? call->length - i : 64;
		size_t bytes = some * sizeof(parts[0]);
		if (call->length > IOV_MAX ||
			pread(l->h->process->mem_fd, parts, bytes,
				(off_t)(call->address + i * sizeof(parts[0]))) != (ssize_t)bytes)
			return 1;
		for (uint64_t k = 0; k < some; k++) {
			int r = hidden_add(&l->h->found, (uintptr_t)parts[k].iov_base,
				parts[k].iov_len, l->h->page_bytes);
			if (r < 0)
				return r;
			l->r->read_bytes += parts[k].iov_len;
		}
		i += some;
	}
	return 0;
}

static int note_call(struct look *l, pid_t tid, const struct call_text *call)
{
	struct read_call read;
	if (!read_call_of(call, &read) || !is_file(l, tid, read.fd))
		return 0;
	l->r->reads++;
	if (!read.vector) {
		l->r->read_bytes += read.length;
		return hidden_add(&l->h->found, read.address, read.length, l->h->page_bytes);
	}
	int r = add_vector(l, &read);
	if (r == 1)
		l->r->everything = "where a read in flight goes could not be seen";
	return r < 0 ? r : 0;
}

/* 1 where the thread has ended. */
static int read_call(const struct look *l, pid_t tid, struct call_text *ret)
{
	char path[48], text[256];
	snprintf(path, sizeof(path), "task/%d/syscall", tid);
	auto_close int fd = openat(l->h->process->proc_fd, path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return errno == ENOENT || errno == ESRCH ? 1 : -errno;
	text[n] = '\0';
	return call_text_parse(text, ret);
}

static bool has_known(const struct hidden_writes *h, enum known_kind kind)
{
	for (size_t i = 0; i < h->nknown; i++) {
		if (h->known[i].kind == kind)
			return true;
	}
	return false;
}

/*
 * A thread that runs may be on its way into a read, out of it, or between two pieces of one; so it
 * is looked at again, until it waits. One that never does may poll for its read to end.
 */
static int look_again(struct look *l, pid_t *running, size_t n)
{
	for (unsigned tries = 0; n && tries < THREAD_TRIES; tries++) {
		size_t still = 0;
		usleep(PAUSE_US);
		for (size_t i = 0; i < n; i++) {
			struct call_text call;
			int r = read_call(l, running[i], &call);
			if (r == 0 && call.running)
				running[still++] = running[i];
			else if (r == 0)
				r = note_call(l, running[i], &call);
			if (r < 0)
				return r;
		}
		n = still;
	}
	l->r->unsure_threads = n;
	return 0;
}

/*
 * Every read of a file that a thread waits in counts, O_DIRECT or not: file systems may read past
 * the page cache without being asked to (FUSE, 9p), and one that does not costs a few pages.
 */
static int look_at_threads(struct look *l, struct tide_error *err)
{
	const struct process *p = l->h->process;
	int fd = openat(p->proc_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_closedir DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (!dir)
		return tide_fail(err, -errno, "list the threads of process %d", p->pid);

	bool direct = has_known(l->h, KNOWN_DIRECT);
	auto_free pid_t *running = NULL;
	size_t nrunning = 0, nseen = 0;
	int r = 0;
	for (struct dirent *e; r >= 0 && (e = readdir(dir));) {
		struct call_text call;
		pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
		if (tid <= 0)
			continue;
		r = read_call(l, tid, &call);
		nseen += r == 0;
		if (r == 0 && !call.running) {
			r = note_call(l, tid, &call);
		} else if (r == 0 && direct) {
			pid_t *v = reallocarray(running, nrunning + 1, sizeof(*v));
			if (v) {
				running = v;
				running[nrunning++] = tid;
			} else {
				r = -ENOMEM;
			}
		}
	}
	if (r >= 0)
		r = look_again(l, running, nrunning);
	if (r >= 0 && nseen == 0) {
		r = process_check(p, err);
		if (r < 0)
			return r;
		r = -EOPNOTSUPP;
	}
	return r < 0 ? tide_fail(err, r, "see what the threads of process %d wait for", p->pid) : 0;
}

/* --- all of it --- */

static int read_pinned(struct look *l, struct tide_error *err)
{
	char text[64] = "";
	int r = process_read_status(l->h->process, l->tid, "VmPin", text, sizeof(text));
	if (r < 0 && r != -ENOENT)
		return tide_fail(err, r, "read the status of process %d", l->h->process->pid);
	l->r->pinned_bytes = strtoull(text, NULL, 10) * 1024;
	return 0;
}

/* Whatever its protection is now: what was pinned before that stays writable for the device. */
static int take_everything(struct look *l)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < l->maps->len; i++) {
		const struct mapping *m = &l->maps->v[i];
		if (m->kind == MAPPING_ANON || m->kind == MAPPING_FILE_PRIVATE ||
			m->kind == MAPPING_OBJECT)
			r = pageset_add(&l->h->found, (struct page_run){m->start, m->end});
	}
	return r;
}

static void count_known(struct look *l)
{
	for (size_t i = 0; i < l->h->nknown; i++) {
		l->r->direct_descriptors += l->h->known[i].kind == KNOWN_DIRECT;
		l->r->devices += l->h->known[i].kind == KNOWN_DEVICE;
	}
}

static int look(struct look *l, struct tide_error *err)
{
	struct hidden_writes *h = l->h;
	bool all = !h->walked;
	int r = read_pinned(l, err);
	if (r == 0 && (all || !l->frozen))
		r = walk_descriptors(l, all, err);
	if (r == 0)
		r = look_at_rings(l, err);
	if (r == 0 && !all && (l->unmatched || l->r->unexplained_bytes)) {
		r = walk_descriptors(l, true, err);
		if (r == 0)
			r = look_at_rings(l, err);
	}
	if (r == 0 && !l->frozen)
		r = look_at_threads(l, err);
	if (r < 0)
		return r;
	count_known(l);
	if (l->r->everything)
		r = take_everything(l);
	if (r == 0)
		r = pageset_union(&h->found, &h->before, &l->r->doubtful);
	return r < 0 ? tide_fail(err, r, "note what is written to process %d", h->process->pid) : 0;
}

int hidden_writes_find(struct hidden_writes *h, const struct mapping_table *maps, bool frozen,
	const struct hidden_report **ret, struct tide_error *err)
{
	pageset_release(&h->report.doubtful);
	h->report = (struct hidden_report){0};
	pageset_swap(&h->found, &h->before);
	pageset_clear(&h->found);
	struct look l = {.h = h, .maps = maps, .frozen = frozen, .r = &h->report};
	l.tid = process_find_thread(h->process);
	if (l.tid == 0)
		return tide_fail(
			err, -ESRCH, "follow process %d, which has ended", h->process->pid);
	int r = look(&l, err);
	h->looks++;
	if (r == 0)
		*ret = &h->report;
	return r;
}

/* --- waiting for the end --- */

/* A request of more than there is memory for cannot be; completions may well outnumber requests. */
static int count_requests(struct hidden_writes *h, struct look *l, uint64_t *ret)
{
	uint64_t requests = 0;
	for (size_t i = 0; i < h->nknown; i++) {
		struct ring_text ring = {0};
		if (h->known[i].kind != KNOWN_RING)
			continue;
		int r = read_ring(l, h->known[i].fd, &ring);
		if (r < 0)
			return r;
		if (r == 0) {
			int32_t left = (int32_t)(ring.submitted - ring.completed);
			uint64_t polls = ring.npolls;
			if (!ring.whole || left < 0)
				requests++;
			else if ((uint64_t)left > polls)
				requests += (uint64_t)left - polls;
		}
		ring_text_release(&ring);
	}
	*ret = requests;
	return 0;
}

/* Pages that are pinned now, on the whole machine. -EOPNOTSUPP where that is not told. */
static int count_pins(uint64_t *ret)
{
	char text[32768];
	/* Each processor counts for itself and adds up now and then; reading this has them do it.
	 */
	auto_close int refresh = open("/proc/sys/vm/stat_refresh", O_RDONLY | O_CLOEXEC);
	if (refresh < 0 || read(refresh, text, 1) < 0)
		return -EOPNOTSUPP;
	auto_close int fd = open("/proc/vmstat", O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	for (ssize_t n = 1; fd >= 0 && n > 0 && len < sizeof(text) - 1; len += (size_t)n) {
		n = read(fd, text + len, sizeof(text) - 1 - len);
		if (n < 0)
			return -EOPNOTSUPP;
	}
	text[len] = '\0';
	const char acquired_key[] = "\nnr_foll_pin_acquired ",
		   released_key[] = "\nnr_foll_pin_released ";
	const char *acquired = strstr(text, acquired_key), *released = strstr(text, released_key);
	if (!acquired || !released)
		return -EOPNOTSUPP;
	int64_t pins = (int64_t)(strtoull(acquired + strlen(acquired_key), NULL, 10) -
				 strtoull(released + strlen(released_key), NULL, 10));
	*ret = pins > 0 ? (uint64_t)pins : 0;
	return 0;
}

int hidden_writes_drain(struct hidden_writes *h, uint64_t timeout_ns, struct hidden_drain *ret,
	struct tide_error *err)
{
	struct hidden_drain d = {0};
	uint64_t began = clock_now_ns();
	struct look l = {.h = h, .frozen = true, .r = &h->report};
	l.tid = process_find_thread(h->process);
	if (l.tid == 0)
		return tide_fail(
			err, -ESRCH, "follow process %d, which has ended", h->process->pid);
	uint64_t own = h->report.pinned_bytes / h->page_bytes;
	for (unsigned quiet = 0;;) {
		uint64_t pins = 0;
		int r = count_requests(h, &l, &d.requests);
		if (r < 0)
			return tide_fail(err, r, "wait for the I/O of process %d", h->process->pid);
		d.pins_known = count_pins(&pins) == 0;
		d.pinned_pages = pins > own ? pins - own : 0;
		/* The counters of several processors are not read at one instant: a pin that came
		 * on one and another that went elsewhere may look like none, for a moment. */
		quiet = d.requests == 0 && d.pins_known && d.pinned_pages == 0 ? quiet + 1 : 0;
		d.settled = quiet == DRAIN_QUIET;
		d.waited_ns = clock_now_ns() - began;
		if (d.settled || (d.waited_ns >= timeout_ns && quiet == 0))
			break;
		usleep(DRAIN_PAUSE_US);
	}
	*ret = d;
	return 0;
}

/* --- words --- */

static const char *plural(size_t n)
{
	return n == 1 ? "" : "s";
}

void hidden_report_note(const struct hidden_report *r, char note[HIDDEN_NOTE])
{
	char size[UNITS_TEXT], buffers[80] = "", reads[48] = "";
	note[0] = '\0';
	if (r->everything) {
		snprintf(note, HIDDEN_NOTE, "all of memory re-read, as %s", r->everything);
		return;
	}
	if (r->buffers) {
		units_format_bytes(size, r->buffer_bytes);
		snprintf(buffers, sizeof(buffers), "%zu registered buffer%s (%s)", r->buffers,
			plural(r->buffers), size);
	}
	if (r->reads)
		snprintf(reads, sizeof(reads), "%zu file read%s in flight", r->reads,
			plural(r->reads));
	if (r->buffers || r->reads)
		snprintf(note, HIDDEN_NOTE, "%s%s%s re-read", buffers,
			r->buffers && r->reads ? " and " : "", reads);
	else if (r->doubtful.len)
		snprintf(note, HIDDEN_NOTE, "%s in flight in the round before re-read",
			units_format_bytes(size, pageset_bytes(&r->doubtful)));
}

static void add_word(struct hidden_word *words, size_t *n, bool refused, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static void add_word(struct hidden_word *words, size_t *n, bool refused, const char *fmt, ...)
{
	va_list args;
	struct hidden_word *w = &words[(*n)++];
	w->refused = refused;
	va_start(args, fmt);
	vsnprintf(w->text, sizeof(w->text), fmt, args);
	va_end(args);
}

#define WAY_OUT "; --verify-writes compares all of its memory instead"

size_t hidden_report_words(const struct hidden_report *r, struct hidden_word ret[HIDDEN_WORDS_MAX])
{
	size_t n = 0;
	char size[UNITS_TEXT], engines[80];
	if (r->rings && r->aio_contexts)
		snprintf(engines, sizeof(engines), "%zu io_uring ring%s and %zu AIO context%s",
			r->rings, plural(r->rings), r->aio_contexts, plural(r->aio_contexts));
	else if (r->rings)
		snprintf(engines, sizeof(engines), "%zu io_uring ring%s", r->rings,
			plural(r->rings));
	else
		snprintf(engines, sizeof(engines), "%zu AIO context%s", r->aio_contexts,
			plural(r->aio_contexts));
	bool engine = r->rings || r->aio_contexts;

	if (engine && r->direct_descriptors)
		add_word(ret, &n, true,
			"it has %s and %zu file%s open with O_DIRECT: what a disk writes into its "
			"memory may be missed" WAY_OUT,
			engines, r->direct_descriptors, plural(r->direct_descriptors));
	else if (engine && r->ring_files)
		add_word(ret, &n, true,
			"it has %s with %zu registered file%s, and whether these are read with "
			"O_DIRECT cannot be seen" WAY_OUT,
			engines, r->ring_files, plural(r->ring_files));
	else if (engine)
		add_word(ret, &n, false,
			"it has %s and no file open with O_DIRECT: what is read is seen", engines);
	else if (r->direct_descriptors)
		add_word(ret, &n, false,
			"it has %zu file%s open with O_DIRECT: memory that is being read into "
			"is read again in every round",
			r->direct_descriptors, plural(r->direct_descriptors));
	if (r->unplaced_rings)
		add_word(ret, &n, true,
			"%zu io_uring ring%s of its lie%s in memory that cannot be told, which the "
			"kernel writes" WAY_OUT,
			r->unplaced_rings, plural(r->unplaced_rings),
			r->unplaced_rings == 1 ? "s" : "");
	if (r->buffers)
		add_word(ret, &n, false,
			"%zu buffer%s (%s) registered with io_uring: read again in every round",
			r->buffers, plural(r->buffers), units_format_bytes(size, r->buffer_bytes));
	if (r->everything)
		add_word(ret, &n, false, "all of its memory is read again in every round, as %s",
			r->everything);
	if (r->unexplained_bytes)
		add_word(ret, &n, true,
			"%s of its memory are pinned by something that cannot be seen (a driver, "
			"or "
			"a ring whose descriptor is closed)" WAY_OUT,
			units_format_bytes(size, r->pinned_bytes));
	if (r->devices)
		add_word(ret, &n, true,
			"it has %zu RDMA or VFIO device%s open, which may write its memory by "
			"themselves" WAY_OUT,
			r->devices, plural(r->devices));
	return n;
}
