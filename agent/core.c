/* SPDX-License-Identifier: MIT */
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/procfs.h>
#include <sys/user.h>
#include <unistd.h>
#include "agent/core.h"
#include "base/error.h"

#define COPY_BYTES (1u << 20)

/*
 * Anonymous memory that was never touched reads as zero. gdb cannot read what a core leaves out, so
 * it becomes a hole of the file; but not where a program reserved more than a file system takes (a
 * sanitizer's 20 TB).
 */
#define ZERO_HOLE_MAX (1ull << 30)

/* A stretch of addresses with one PT_LOAD. */
struct segment {
	uint64_t address, bytes;
	uint64_t offset;     /* in the file */
	uint64_t file_bytes; /* `bytes`, or 0: left out */
	uint32_t flags;      /* PF_* */
	bool zero;           /* a hole of the file */
	space_id space;
	uint64_t at; /* in the space */
};

struct core {
	struct core_source source;
	struct segment *segments;
	size_t nsegments, cap;
	uint8_t *head; /* ELF header, program headers, notes */
	size_t head_bytes;
	uint64_t bytes;
};

/* A growing piece of memory. */
struct buffer {
	uint8_t *data;
	size_t len, cap;
};

static int buffer_add(struct buffer *b, const void *data, size_t len)
{
	if (b->len + len > b->cap) {
		size_t cap = (b->len + len) * 2;
		uint8_t *grown = realloc(b->data, cap);
		if (!grown)
			return -ENOMEM;
		b->data = grown;
		b->cap = cap;
	}
	if (data)
		memcpy(b->data + b->len, data, len);
	else
		memset(b->data + b->len, 0, len);
	b->len += len;
	return 0;
}

static int note_add(
	struct buffer *b, const char *owner, uint32_t type, const void *data, size_t len)
{
	Elf64_Nhdr head = {
		.n_namesz = (uint32_t)strlen(owner) + 1, .n_descsz = (uint32_t)len, .n_type = type};
	int r = buffer_add(b, &head, sizeof(head));
	if (r == 0)
		r = buffer_add(b, owner, head.n_namesz);
	if (r == 0)
		r = buffer_add(b, NULL, -head.n_namesz & 3);
	if (r == 0)
		r = buffer_add(b, data, len);
	return r == 0 ? buffer_add(b, NULL, -len & 3) : r;
}

static const struct state_regset *find_regset(const struct state_thread *t, uint32_t type)
{
	for (size_t i = 0; i < t->nregsets; i++) {
		if (t->regsets[i].note_type == type)
			return &t->regsets[i];
	}
	return NULL;
}

static int add_prstatus(struct buffer *b, const struct core_source *s, const struct state_thread *t)
{
	struct elf_prstatus status = {
		.pr_pid = t->tid,
		.pr_ppid = s->state->ppid,
		.pr_pgrp = s->state->pgrp,
		.pr_sid = s->state->sid,
		.pr_sighold = t->signal_mask,
		.pr_cursig = (short)t->pending_signal,
		.pr_fpvalid = find_regset(t, NT_PRFPREG) != NULL,
	};
	status.pr_info.si_signo = t->pending_signal;
	const struct state_regset *regs = find_regset(t, NT_PRSTATUS);
	if (regs)
		memcpy(&status.pr_reg, regs->data,
			regs->size_bytes < sizeof(status.pr_reg) ? regs->size_bytes
								 : sizeof(status.pr_reg));
	return note_add(b, "CORE", NT_PRSTATUS, &status, sizeof(status));
}

static int add_prpsinfo(struct buffer *b, const struct core_source *s)
{
	static const char states[] = "RSDTZW";
	struct elf_prpsinfo info = {
		.pr_sname = s->state->state,
		.pr_zomb = s->state->state == 'Z',
		.pr_nice = s->state->nice,
		.pr_uid = s->info->uid,
		.pr_gid = s->info->gid,
		.pr_pid = s->info->pid,
		.pr_ppid = s->state->ppid,
		.pr_pgrp = s->state->pgrp,
		.pr_sid = s->state->sid,
	};
	const char *state = strchr(states, s->state->state ? s->state->state : 'R');
	info.pr_state = state ? (char)(state - states) : 0;
	strncpy(info.pr_fname, s->info->comm, sizeof(info.pr_fname) - 1);
	strncpy(info.pr_psargs, s->info->command_line, sizeof(info.pr_psargs) - 1);
	return note_add(b, "CORE", NT_PRPSINFO, &info, sizeof(info));
}

static bool is_file(const struct mapping *m)
{
	return (m->kind == MAPPING_FILE_PRIVATE || m->kind == MAPPING_FILE_SHARED) &&
	       m->name[0] == '/';
}

/* count, page size, then start, end and offset in pages of each, then the names. */
static int add_files(struct buffer *b, const struct core_source *s)
{
	struct buffer table = {0}, names = {0};
	uint64_t head[2] = {0, s->page_bytes};
	int r = buffer_add(&table, head, sizeof(head));
	for (size_t i = 0; r == 0 && i < s->maps->len; i++) {
		const struct mapping *m = &s->maps->v[i];
		if (!is_file(m))
			continue;
		uint64_t entry[3] = {m->start, m->end, m->offset / s->page_bytes};
		r = buffer_add(&table, entry, sizeof(entry));
		if (r == 0)
			r = buffer_add(&names, m->name, strlen(m->name) + 1);
		head[0]++;
	}
	if (r == 0)
		memcpy(table.data, head, sizeof(head));
	if (r == 0 && names.len)
		r = buffer_add(&table, names.data, names.len);
	if (r == 0)
		r = note_add(b, "CORE", NT_FILE, table.data, table.len);
	free(table.data);
	free(names.data);
	return r;
}

static int add_regsets(struct buffer *b, const struct state_thread *t)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < t->nregsets; i++) {
		const struct state_regset *set = &t->regsets[i];
		if (set->note_type == NT_PRSTATUS)
			continue;
		r = note_add(b, set->note_type == NT_PRFPREG ? "CORE" : "LINUX", set->note_type,
			set->data, set->size_bytes);
	}
	return r;
}

/* In the order that the kernel writes them: what belongs to the process stands within the first
 * thread. */
static int add_notes(struct buffer *b, const struct core_source *s)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < s->state->nthreads; i++) {
		r = add_prstatus(b, s, &s->state->threads[i]);
		if (r == 0 && i == 0)
			r = add_prpsinfo(b, s);
		if (r == 0 && i == 0)
			r = note_add(b, "CORE", NT_AUXV, s->state->auxv, s->state->auxv_bytes);
		if (r == 0 && i == 0)
			r = add_files(b, s);
		if (r == 0)
			r = add_regsets(b, &s->state->threads[i]);
	}
	return r;
}

static int add_segment(
	struct core *c, const struct mapping *m, uint64_t start, uint64_t end, bool held)
{
	if (c->nsegments == c->cap) {
		size_t cap = c->cap ? c->cap * 2 : 64;
		struct segment *v = reallocarray(c->segments, cap, sizeof(*v));
		if (!v)
			return -ENOMEM;
		c->segments = v;
		c->cap = cap;
	}
	bool memory = m->kind == MAPPING_ANON || m->kind == MAPPING_OBJECT;
	bool zero = !held && memory && m->prot & PROT_READ && end - start <= ZERO_HOLE_MAX;
	c->segments[c->nsegments++] = (struct segment){
		.address = start,
		.bytes = end - start,
		.file_bytes = held || zero ? end - start : 0,
		.flags = (m->prot & PROT_READ ? PF_R : 0) | (m->prot & PROT_WRITE ? PF_W : 0) |
			 (m->prot & PROT_EXEC ? PF_X : 0),
		.zero = zero,
		.space = m->kind == MAPPING_OBJECT ? m->object : SPACE_PRIVATE,
		.at = m->kind == MAPPING_OBJECT ? start - m->start + m->offset : start,
	};
	return 0;
}

/* A mapping is cut where held and other pages meet. */
static int add_mapping(struct core *c, const struct mapping *m)
{
	const struct pageset *held = NULL;
	uint64_t shift = 0; /* from address to place in the space */
	if (m->kind == MAPPING_OBJECT) {
		held = c->source.held(c->source.arg, m->object);
		shift = m->offset - m->start;
	} else if (m->kind != MAPPING_FILE_SHARED && m->kind != MAPPING_OPAQUE) {
		held = c->source.held(c->source.arg, SPACE_PRIVATE);
	}

	int r = 0;
	uint64_t at = m->start;
	for (size_t i = held ? pageset_find(held, at + shift) : 0;
		held && r == 0 && at < m->end && i < held->len &&
		held->runs[i].start - shift < m->end;
		i++) {
		uint64_t start = held->runs[i].start - shift, end = held->runs[i].end - shift;
		if (held->runs[i].start < at + shift)
			start = at;
		if (end > m->end)
			end = m->end;
		if (at < start)
			r = add_segment(c, m, at, start, false);
		if (r == 0)
			r = add_segment(c, m, start, end, true);
		at = end;
	}
	return r == 0 && at < m->end ? add_segment(c, m, at, m->end, false) : r;
}

static void put_program_headers(struct core *c, size_t notes_bytes, uint8_t *to)
{
	size_t n = c->nsegments + 1;
	uint64_t notes_at = sizeof(Elf64_Ehdr) + n * sizeof(Elf64_Phdr) +
			    (n >= PN_XNUM ? sizeof(Elf64_Shdr) : 0);
	Elf64_Phdr note = {
		.p_type = PT_NOTE, .p_offset = notes_at, .p_filesz = notes_bytes, .p_align = 4};
	memcpy(to, &note, sizeof(note));
	to += sizeof(note);
	for (size_t i = 0; i < c->nsegments; i++, to += sizeof(Elf64_Phdr)) {
		const struct segment *s = &c->segments[i];
		Elf64_Phdr load = {
			.p_type = PT_LOAD,
			.p_flags = s->flags,
			.p_offset = s->offset,
			.p_vaddr = s->address,
			.p_filesz = s->file_bytes,
			.p_memsz = s->bytes,
			.p_align = c->source.page_bytes,
		};
		memcpy(to, &load, sizeof(load));
	}
}

static int make_head(struct core *c, const struct buffer *notes)
{
	size_t n = c->nsegments + 1;
	/* More program headers than their 16-bit count holds: the count stands in the first section
	 * header. */
	bool many = n >= PN_XNUM;
	size_t table = n * sizeof(Elf64_Phdr), section = many ? sizeof(Elf64_Shdr) : 0;
	c->head_bytes = sizeof(Elf64_Ehdr) + table + section + notes->len;
	c->head = calloc(1, c->head_bytes);
	if (!c->head)
		return -ENOMEM;

	uint64_t align = c->source.page_bytes;
	uint64_t offset = (c->head_bytes + align - 1) & ~(align - 1);
	for (size_t i = 0; i < c->nsegments; i++) {
		c->segments[i].offset = offset;
		offset += c->segments[i].file_bytes;
	}
	c->bytes = offset;

	Elf64_Ehdr head = {
		.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
			EV_CURRENT},
		.e_type = ET_CORE,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_phoff = sizeof(Elf64_Ehdr),
		.e_ehsize = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = many ? PN_XNUM : (uint16_t)n,
		.e_shoff = many ? sizeof(Elf64_Ehdr) + table : 0,
		.e_shentsize = many ? sizeof(Elf64_Shdr) : 0,
		.e_shnum = many,
	};
	memcpy(c->head, &head, sizeof(head));
	put_program_headers(c, notes->len, c->head + sizeof(head));
	if (many) {
		Elf64_Shdr count = {.sh_type = SHT_NULL, .sh_size = 1, .sh_info = (uint32_t)n};
		memcpy(c->head + sizeof(head) + table, &count, sizeof(count));
	}
	if (notes->len)
		memcpy(c->head + sizeof(head) + table + section, notes->data, notes->len);
	return 0;
}

int core_new(const struct core_source *source, struct core **ret, struct tide_error *err)
{
	struct core *c = calloc(1, sizeof(*c));
	struct buffer notes = {0};
	int r = c ? 0 : -ENOMEM;
	if (r == 0) {
		c->source = *source;
		r = add_notes(&notes, source);
	}
	for (size_t i = 0; r == 0 && i < source->maps->len; i++)
		r = add_mapping(c, &source->maps->v[i]);
	if (r == 0)
		r = make_head(c, &notes);
	free(notes.data);
	if (r < 0) {
		core_free(c);
		return tide_fail(err, r, "lay out the core file");
	}
	*ret = c;
	return 0;
}

void core_free(struct core *c)
{
	if (!c)
		return;
	free(c->segments);
	free(c->head);
	free(c);
}

uint64_t core_bytes(const struct core *c)
{
	return c->bytes;
}

/* The index of the first segment whose file part ends behind `offset`. */
static size_t find_segment(const struct core *c, uint64_t offset)
{
	size_t lo = 0, hi = c->nsegments;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (c->segments[mid].offset + c->segments[mid].file_bytes <= offset)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int core_read(struct core *c, uint64_t offset, void *buf, size_t bytes, struct tide_error *err)
{
	uint8_t *to = buf;
	while (bytes) {
		size_t part = bytes;
		if (offset < c->head_bytes) {
			if (part > c->head_bytes - offset)
				part = c->head_bytes - offset;
			memcpy(to, c->head + offset, part);
		} else {
			size_t i = find_segment(c, offset);
			const struct segment *s = i < c->nsegments ? &c->segments[i] : NULL;
			bool inside = s && s->offset <= offset;
			uint64_t end = inside ? s->offset + s->file_bytes
				       : s    ? s->offset
					      : UINT64_MAX;
			if (part > end - offset)
				part = end - offset;
			if (inside && !s->zero) {
				int r = c->source.read(c->source.arg, s->space,
					s->at + (offset - s->offset), to, part, err);
				if (r < 0)
					return r;
			} else {
				memset(to, 0, part);
			}
		}
		offset += part;
		to += part;
		bytes -= part;
	}
	return 0;
}

bool core_next_data(const struct core *c, uint64_t offset, uint64_t *ret_start, uint64_t *ret_end)
{
	if (offset < c->head_bytes) {
		*ret_start = offset;
		*ret_end = c->head_bytes;
		return true;
	}
	for (size_t i = find_segment(c, offset); i < c->nsegments; i++) {
		const struct segment *s = &c->segments[i];
		if (s->zero || s->file_bytes == 0)
			continue;
		*ret_start = s->offset > offset ? s->offset : offset;
		*ret_end = s->offset + s->file_bytes;
		return true;
	}
	return false;
}

static int write_all(int fd, const uint8_t *data, size_t bytes, uint64_t offset)
{
	while (bytes) {
		ssize_t n = pwrite(fd, data, bytes, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		bytes -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int core_write(struct core *c, int fd, struct tide_error *err)
{
	auto_free uint8_t *buf = malloc(COPY_BYTES);
	if (!buf)
		return tide_fail(err, -ENOMEM, "write the core file");
	if (ftruncate(fd, (off_t)c->bytes) < 0)
		return tide_fail(err, -errno, "make room for a core file of %llu bytes",
			(unsigned long long)c->bytes);

	uint64_t start, end;
	for (uint64_t at = 0; core_next_data(c, at, &start, &end); at = end) {
		if (end - start > COPY_BYTES)
			end = start + COPY_BYTES;
		int r = core_read(c, start, buf, end - start, err);
		if (r < 0)
			return r;
		r = write_all(fd, buf, end - start, start);
		if (r < 0)
			return tide_fail(err, r, "write the core file");
	}
	return 0;
}
