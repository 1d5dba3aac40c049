/* SPDX-License-Identifier: MIT */
/* The messages about a process: who it is, what its rounds hold, and how it stood. */
#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include "base/error.h"
#include "proto/message.h"
#include "proto/tidemark.pb-c.h"
#include "proto/wire.h"

/*
 * Each message has one check, which its encoder and its decoder share: what the one makes the other
 * takes.
 */

/* Room for what a head holds beside its lists. */
#define HEAD_BYTES_REST 256
#define HEAD_BYTES_LISTS (HEAD_BYTES_LEAST - HEAD_BYTES_REST)

/* --- PROCESS ------------------------------------------------------------------------------ */

#define COMM_CAP 64

static int process_info_check(const struct process_info *m, struct tide_error *err)
{
	if (m->pid < 1)
		return wire_bad(err, FRAME_PROCESS, "with process id %" PRId32, m->pid);
	if (m->build_id_len > sizeof(m->build_id))
		return wire_bad(
			err, FRAME_PROCESS, "with a build id of %zu bytes", m->build_id_len);

	int r = wire_text_check(
		FRAME_PROCESS, "a process name", m->comm, COMM_CAP, TEXT_EMPTY | TEXT_RAW, err);
	if (r < 0)
		return r;
	return wire_text_check(FRAME_PROCESS, "an executable", m->exe, PATH_MAX_BYTES + 1,
		TEXT_EMPTY | TEXT_RAW, err);
}

int process_info_encode(uint32_t process, const struct process_info *m, struct frame_buffer *ret)
{
	ret->bytes = 0;
	if (process == 0 || process_info_check(m, NULL) < 0)
		return -EINVAL;

	static const uint8_t unknown[sizeof(m->boot_id)];
	bool boot_known = memcmp(m->boot_id, unknown, sizeof(unknown)) != 0;

	Tidemark__Process w = TIDEMARK__PROCESS__INIT;
	w.pid = (uint32_t)m->pid;
	w.start_time = m->start_time;
	w.uid = m->uid;
	w.gid = m->gid;
	w.comm = wire_bytes(m->comm, strlen(m->comm));
	w.exe = wire_bytes(m->exe, strlen(m->exe));
	w.command_line = wire_bytes(m->command_line, strnlen(m->command_line, COMMAND_LINE_MAX));
	w.boot_id = wire_bytes(m->boot_id, boot_known ? sizeof(m->boot_id) : 0);
	w.build_id = wire_bytes(m->build_id, m->build_id_len);
	w.realtime_ns = m->clocks.realtime_ns;
	w.monotonic_ns = m->clocks.monotonic_ns;
	w.boottime_ns = m->clocks.boottime_ns;
	return wire_encode(FRAME_PROCESS, process, &w.base, ret);
}

int process_info_decode(const struct frame *f, struct process_info **ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(
		f, FRAME_PROCESS, true, &tidemark__process__descriptor, &arena, &unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__Process *w = (const Tidemark__Process *)unpacked;
	if (w->pid > INT32_MAX)
		return wire_bad(err, FRAME_PROCESS, "with process id %" PRIu32, w->pid);
	if (w->build_id.len > sizeof(((struct process_info *)NULL)->build_id))
		return wire_bad(
			err, FRAME_PROCESS, "with a build id of %zu bytes", w->build_id.len);

	/* The texts lie behind the struct. Their lengths are bounded by the head's. */
	size_t comm_cap = w->comm.len + 1, exe_cap = w->exe.len + 1;
	size_t line_cap = w->command_line.len + 1;
	auto_free struct process_info *m = calloc(1, sizeof(*m) + comm_cap + exe_cap + line_cap);
	if (!m)
		return wire_out_of_memory(err, FRAME_PROCESS);
	char *comm = (char *)(m + 1), *exe = comm + comm_cap, *line = exe + exe_cap;
	r = wire_text_take(FRAME_PROCESS, "a process name", &w->comm, comm, comm_cap, err);
	if (r < 0)
		return r;
	r = wire_text_take(FRAME_PROCESS, "an executable", &w->exe, exe, exe_cap, err);
	if (r < 0)
		return r;
	if (line_cap > COMMAND_LINE_MAX + 1)
		line_cap = COMMAND_LINE_MAX + 1;
	r = wire_text_take(FRAME_PROCESS, "a command line", &w->command_line, line, line_cap, err);
	if (r < 0)
		return r;

	m->pid = (int32_t)w->pid;
	m->start_time = w->start_time;
	m->uid = w->uid;
	m->gid = w->gid;
	m->comm = comm;
	m->exe = exe;
	m->command_line = line;
	m->build_id_len = w->build_id.len;
	if (w->build_id.len)
		memcpy(m->build_id, w->build_id.data, w->build_id.len);
	m->clocks.realtime_ns = w->realtime_ns;
	m->clocks.monotonic_ns = w->monotonic_ns;
	m->clocks.boottime_ns = w->boottime_ns;
	r = wire_bytes_take(
		FRAME_PROCESS, "a boot id", &w->boot_id, true, m->boot_id, sizeof(m->boot_id), err);
	if (r < 0)
		return r;
	r = process_info_check(m, err);
	if (r < 0)
		return r;
	*ret = take(m);
	return 0;
}

/* --- ROUND, ROUND_END --------------------------------------------------------------------- */

int round_header_encode(uint32_t process, const struct round_header *m, struct frame_buffer *ret)
{
	ret->bytes = 0;
	if (process == 0)
		return -EINVAL;

	Tidemark__Round w = TIDEMARK__ROUND__INIT;
	w.number = m->number;
	w.final = m->final;
	return wire_encode(FRAME_ROUND, process, &w.base, ret);
}

int round_header_decode(const struct frame *f, struct round_header *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(
		f, FRAME_ROUND, true, &tidemark__round__descriptor, &arena, &unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__Round *w = (const Tidemark__Round *)unpacked;
	*ret = (struct round_header){.number = w->number, .final = w->final};
	return 0;
}

static int round_end_check(const struct round_end *m, struct tide_error *err)
{
	if (m->frames > m->pages || (m->frames == 0 && m->pages > 0))
		return wire_bad(err, FRAME_ROUND_END,
			"with %" PRIu64 " pages in %" PRIu64 " frames", m->pages, m->frames);
	return 0;
}

int round_end_encode(uint32_t process, const struct round_end *m, struct frame_buffer *ret)
{
	ret->bytes = 0;
	if (process == 0 || round_end_check(m, NULL) < 0)
		return -EINVAL;

	Tidemark__RoundEnd w = TIDEMARK__ROUND_END__INIT;
	w.number = m->number;
	w.pages = m->pages;
	w.frames = m->frames;
	return wire_encode(FRAME_ROUND_END, process, &w.base, ret);
}

int round_end_decode(const struct frame *f, struct round_end *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(
		f, FRAME_ROUND_END, true, &tidemark__round_end__descriptor, &arena, &unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__RoundEnd *w = (const Tidemark__RoundEnd *)unpacked;
	struct round_end m = {.number = w->number, .pages = w->pages, .frames = w->frames};
	r = round_end_check(&m, err);
	if (r < 0)
		return r;
	*ret = m;
	return 0;
}

/* --- runs --------------------------------------------------------------------------------- */

#define UNITS(bytes) ((bytes) / PLACE_UNIT_BYTES)

/* What is not followed may lie anywhere; only the very last page of all has no end that can be
 * said. */
#define ANYWHERE_END (UINT64_MAX - PLACE_UNIT_BYTES + 1)

static size_t varint_bytes(uint64_t v)
{
	size_t bytes = 1;
	for (; v >= 0x80; v >>= 7)
		bytes++;
	return bytes;
}

/* Is it aligned, not empty, behind `from` and within `end`? */
static bool run_valid(struct page_run run, uint64_t from, uint64_t end)
{
	return run.start % PLACE_UNIT_BYTES == 0 && run.end % PLACE_UNIT_BYTES == 0 &&
	       from <= run.start && run.start < run.end && run.end <= end;
}

/* The run that begins `gap` units behind `from`; false where it is empty or ends behind `end`. */
static bool run_make(
	uint64_t from, uint64_t gap_units, uint64_t units, uint64_t end, struct page_run *ret)
{
	if (gap_units > UNITS(end - from))
		return false;
	uint64_t start = from + gap_units * PLACE_UNIT_BYTES;
	if (units == 0 || units > UNITS(end - start))
		return false;
	*ret = (struct page_run){start, start + units * PLACE_UNIT_BYTES};
	return true;
}

/* --- MAPPINGS ----------------------------------------------------------------------------- */

_Static_assert((int)MAPPING_ANON == TIDEMARK__MAPPING_KIND__MAPPING_ANON &&
		       (int)MAPPING_FILE_PRIVATE == TIDEMARK__MAPPING_KIND__MAPPING_FILE_PRIVATE &&
		       (int)MAPPING_OBJECT == TIDEMARK__MAPPING_KIND__MAPPING_OBJECT &&
		       (int)MAPPING_FILE_SHARED == TIDEMARK__MAPPING_KIND__MAPPING_FILE_SHARED &&
		       (int)MAPPING_VDSO == TIDEMARK__MAPPING_KIND__MAPPING_VDSO &&
		       (int)MAPPING_OPAQUE == TIDEMARK__MAPPING_KIND__MAPPING_OPAQUE,
	"the numbers of mapping kinds travel");

#define MAPPING_PROT_KNOWN 7u
#define MAPPING_FLAGS_KNOWN \
	((uint32_t)(MAPPING_SHARED | MAPPING_GROWSDOWN | MAPPING_HUGETLB | MAPPING_OTHERS_WRITE))
#define WHY_CAP 256

static int mapping_refuse(const struct mapping *m, const char *why, struct tide_error *err)
{
	return wire_bad(err, FRAME_MAPPINGS, "with a mapping at 0x%" PRIx64 " %s", m->start, why);
}

static int mapping_check(const struct mapping *m, struct tide_error *err)
{
	bool opaque = m->kind == MAPPING_OPAQUE;
	struct page_run run = {m->start, m->end};

	if (!run_valid(run, 0, opaque ? ANYWHERE_END : ADDRESS_END))
		return mapping_refuse(m, "that is empty, unaligned, or too far up", err);
	if (m->kind < MAPPING_ANON || m->kind > MAPPING_OPAQUE)
		return mapping_refuse(m, "of a kind that is not known", err);
	if (m->prot & ~MAPPING_PROT_KNOWN)
		return mapping_refuse(m, "with a protection that is not known", err);
	if (m->flags & ~MAPPING_FLAGS_KNOWN)
		return mapping_refuse(m, "with flags that are not known", err);
	if ((m->object != SPACE_PRIVATE) != (m->kind == MAPPING_OBJECT))
		return mapping_refuse(m, "whose kind and object do not agree", err);
	if (m->offset % PLACE_UNIT_BYTES != 0)
		return mapping_refuse(m, "with an unaligned offset", err);
	if (!opaque && (m->offset > OFFSET_END || m->end - m->start > OFFSET_END - m->offset))
		return mapping_refuse(m, "with an offset that is too large", err);
	if (!m->name || (m->why != NULL) != opaque)
		return mapping_refuse(
			m, "without a name, or whose kind and reason do not agree", err);
	return wire_text_check(FRAME_MAPPINGS, "a mapping's name", m->name, PATH_MAX_BYTES + 1,
		TEXT_EMPTY | TEXT_RAW, err);
}

/* `why` has room for WHY_CAP bytes. */
static void mapping_fill(const struct mapping *m, char *why, Tidemark__Mapping *w)
{
	tidemark__mapping__init(w);
	w->start_units = UNITS(m->start);
	w->length_units = UNITS(m->end - m->start);
	w->prot = m->prot;
	w->flags = m->flags;
	w->kind = (Tidemark__MappingKind)m->kind;
	w->object = m->object;
	w->offset = m->offset;
	w->dev_major = m->dev_major;
	w->dev_minor = m->dev_minor;
	w->inode = m->inode;
	w->file_size = m->file_size;
	w->file_mtime_ns = m->file_mtime_ns;
	w->name = wire_bytes(m->name, strlen(m->name));
	if (m->why) {
		wire_text_clean(m->why, why, WHY_CAP);
		w->why = wire_bytes(why, strlen(why));
	}
}

/* What a MAPPINGS message points to while it is packed. */
struct mappings_parts {
	uint64_t *gap_units, *units;
	Tidemark__Mapping *members, **list;
	char (*whys)[WHY_CAP];
	size_t nremoved, nadded;
	size_t bytes; /* that they take in the head */
};

static void mappings_parts_release(struct mappings_parts *p)
{
	free(p->gap_units);
	free(p->units);
	free(p->members);
	free(p->list);
	free(p->whys);
}

static int mappings_parts_init(struct mappings_parts *p, size_t removed_cap, size_t added_cap)
{
	*p = (struct mappings_parts){
		.gap_units = calloc(removed_cap + 1, sizeof(uint64_t)),
		.units = calloc(removed_cap + 1, sizeof(uint64_t)),
		.members = calloc(added_cap + 1, sizeof(Tidemark__Mapping)),
		.list = calloc(added_cap + 1, sizeof(void *)),
		.whys = calloc(added_cap + 1, WHY_CAP),
	};
	if (p->gap_units && p->units && p->members && p->list && p->whys)
		return 0;
	mappings_parts_release(p);
	*p = (struct mappings_parts){0};
	return -ENOMEM;
}

/* Takes as many of the `n` as fit. */
static int removed_fill(struct mappings_parts *p, const struct page_run *runs, size_t n)
{
	uint64_t from = 0;
	for (size_t i = 0; i < n; i++) {
		uint64_t least = i ? from + PLACE_UNIT_BYTES : 0;
		if (!run_valid(runs[i], least, ANYWHERE_END))
			return -EINVAL;
		p->gap_units[i] = UNITS(runs[i].start - from);
		p->units[i] = UNITS(runs[i].end - runs[i].start);
		p->bytes += varint_bytes(p->gap_units[i]) + varint_bytes(p->units[i]);
		if (p->bytes > HEAD_BYTES_LISTS)
			return 0;
		p->nremoved++;
		from = runs[i].end;
	}
	return 0;
}

/* The same for mappings, none of which may begin before `from`. */
static int added_fill(struct mappings_parts *p, const struct mapping *v, size_t n, uint64_t from)
{
	for (size_t i = 0; i < n; i++) {
		if (mapping_check(&v[i], NULL) < 0 || v[i].start < from)
			return -EINVAL;
		mapping_fill(&v[i], p->whys[i], &p->members[i]);
		p->bytes += wire_member_bytes(&p->members[i].base);
		if (p->bytes > HEAD_BYTES_LISTS)
			return 0;
		p->list[p->nadded++] = &p->members[i];
		from = v[i].end;
	}
	return 0;
}

int mappings_encode(uint32_t process, const struct mappings_message *m, struct mappings_cursor *at,
	struct frame_buffer *ret)
{
	const struct pageset *removed = &m->diff.removed;
	const struct mapping_table *added = &m->diff.added;

	ret->bytes = 0;
	assert(at->removed <= removed->len && at->added <= added->len);
	if (process == 0)
		return -EINVAL;

	size_t nremoved = removed->len - at->removed, nadded = added->len - at->added;
	if (nremoved > RUNS_MAX)
		nremoved = RUNS_MAX;
	if (nadded > MAPPINGS_MAX)
		nadded = MAPPINGS_MAX;
	auto_(mappings_parts_release) struct mappings_parts p;
	int r = mappings_parts_init(&p, nremoved, nadded);
	if (r == 0 && nremoved)
		r = removed_fill(&p, removed->runs + at->removed, nremoved);
	if (r == 0 && nadded && at->removed + p.nremoved == removed->len)
		r = added_fill(&p, added->v + at->added, nadded,
			at->added ? added->v[at->added - 1].end : 0);
	if (r < 0)
		return r;

	Tidemark__Mappings w = TIDEMARK__MAPPINGS__INIT;
	w.round = m->round;
	w.removed_gap_units = p.gap_units;
	w.removed_units = p.units;
	w.n_removed_gap_units = w.n_removed_units = p.nremoved;
	w.added = p.list;
	w.n_added = p.nadded;
	r = wire_encode(FRAME_MAPPINGS, process, &w.base, ret);
	if (r < 0)
		return r;
	at->removed += p.nremoved;
	at->added += p.nadded;
	return 0;
}

static int removed_take(const Tidemark__Mappings *w, struct pageset *ret, struct tide_error *err)
{
	if (w->n_removed_gap_units != w->n_removed_units)
		return wire_bad(err, FRAME_MAPPINGS, "with lists of unequal length");
	if (w->n_removed_units > RUNS_MAX)
		return wire_bad(err, FRAME_MAPPINGS,
			"with %zu removed places, above the limit of %u", w->n_removed_units,
			RUNS_MAX);

	uint64_t from = 0;
	for (size_t i = 0; i < w->n_removed_units; i++) {
		struct page_run run;
		if (!run_make(from, w->removed_gap_units[i], w->removed_units[i], ANYWHERE_END,
			    &run) ||
			(i && run.start == from))
			return wire_bad(err, FRAME_MAPPINGS,
				"whose removed place %zu is empty, touches the "
				"one before, or reaches too far",
				i);
		if (pageset_add(ret, run) < 0)
			return wire_out_of_memory(err, FRAME_MAPPINGS);
		from = run.end;
	}
	return 0;
}

static int mapping_take(const Tidemark__Mapping *w, struct mapping *ret, struct tide_error *err)
{
	struct page_run run;
	if (!run_make(0, w->start_units, w->length_units, ANYWHERE_END, &run))
		return wire_bad(
			err, FRAME_MAPPINGS, "with a mapping that is empty or wraps around");

	*ret = (struct mapping){
		.start = run.start,
		.end = run.end,
		.prot = w->prot,
		.flags = w->flags,
		.kind = (enum mapping_kind)w->kind,
		.object = w->object,
		.offset = w->offset,
		.dev_major = w->dev_major,
		.dev_minor = w->dev_minor,
		.inode = w->inode,
		.file_size = w->file_size,
		.file_mtime_ns = w->file_mtime_ns,
	};
	int r = wire_text_dup(
		FRAME_MAPPINGS, "a mapping's name", &w->name, PATH_MAX_BYTES + 1, &ret->name, err);
	if (r < 0)
		return r;
	if (ret->kind != MAPPING_OPAQUE && w->why.len)
		return mapping_refuse(ret, "that is followed, with a reason why not", err);
	if (ret->kind == MAPPING_OPAQUE) {
		r = wire_text_dup(FRAME_MAPPINGS, "a reason", &w->why, WHY_CAP, &ret->why, err);
		if (r < 0)
			return r;
		r = wire_text_check(FRAME_MAPPINGS, "a reason", ret->why, WHY_CAP, TEXT_EMPTY, err);
		if (r < 0)
			return r;
	}
	return mapping_check(ret, err);
}

static int added_take(
	const Tidemark__Mappings *w, struct mapping_table *ret, struct tide_error *err)
{
	if (w->n_added > MAPPINGS_MAX)
		return wire_bad(err, FRAME_MAPPINGS, "with %zu mappings, above the limit of %u",
			w->n_added, MAPPINGS_MAX);

	for (size_t i = 0; i < w->n_added; i++) {
		auto_(mapping_release) struct mapping m = {0};
		int r = mapping_take(w->added[i], &m, err);
		if (r < 0)
			return r;
		if (ret->len && m.start < ret->v[ret->len - 1].end)
			return mapping_refuse(&m, "that is not behind the one before", err);
		if (mapping_table_append(ret, &m) < 0)
			return wire_out_of_memory(err, FRAME_MAPPINGS);
	}
	return 0;
}

int mappings_decode(const struct frame *f, struct mappings_message *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(
		f, FRAME_MAPPINGS, true, &tidemark__mappings__descriptor, &arena, &unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__Mappings *w = (const Tidemark__Mappings *)unpacked;
	struct mappings_message m = {.round = w->round};
	r = removed_take(w, &m.diff.removed, err);
	if (r == 0)
		r = added_take(w, &m.diff.added, err);
	if (r < 0) {
		mappings_release(&m);
		return r;
	}
	*ret = m;
	return 0;
}

void mappings_release(struct mappings_message *m)
{
	mapping_diff_release(&m->diff);
	*m = (struct mappings_message){0};
}

/* --- DROPS -------------------------------------------------------------------------------- */

_Static_assert((int)DROP_GONE == TIDEMARK__DROP_KIND__DROP_GONE &&
		       (int)DROP_BACK_TO_FILE == TIDEMARK__DROP_KIND__DROP_BACK_TO_FILE,
	"the numbers of drop kinds travel");

static bool drop_kind_valid(enum drop_kind kind)
{
	return kind >= DROP_GONE && kind <= DROP_BACK_TO_FILE;
}

static uint64_t space_end(space_id space)
{
	return space == SPACE_PRIVATE ? ADDRESS_END : OFFSET_END;
}

/* The columns of a DROPS message, each with room for as many as there are drops. */
struct drop_columns {
	uint64_t *gap_units, *units;
	uint64_t *space, *space_runs;
	uint64_t *kind_runs;
	Tidemark__DropKind *kind;
	size_t nruns, nspaces, nkinds;
};

static void drop_columns_release(struct drop_columns *c)
{
	free(c->gap_units);
	free(c->kind);
}

static int drop_columns_init(struct drop_columns *c, size_t cap)
{
	*c = (struct drop_columns){
		.gap_units = calloc(cap + 1, 5 * sizeof(*c->gap_units)),
		.kind = calloc(cap + 1, sizeof(*c->kind)),
	};
	if (!c->gap_units || !c->kind) {
		drop_columns_release(c);
		*c = (struct drop_columns){0};
		return -ENOMEM;
	}
	c->units = c->gap_units + cap;
	c->space = c->units + cap;
	c->space_runs = c->space + cap;
	c->kind_runs = c->space_runs + cap;
	return 0;
}

/* At most this many bytes for one drop, however it differs from the one before. */
#define DROP_BYTES_MAX (10 + 10 + 10 + 3 + 1 + 3)

/* Adds a drop behind `before`; returns about how many bytes it takes. */
static size_t drop_columns_add(
	struct drop_columns *c, const struct page_drop *before, const struct page_drop *d)
{
	uint64_t from = before->run.end;
	size_t i = c->nruns, bytes = 0;

	if (i == 0 || before->space != d->space) {
		from = 0;
		c->space[c->nspaces++] = d->space;
		bytes += varint_bytes(d->space) + 3;
	}
	if (i == 0 || before->kind != d->kind) {
		c->kind[c->nkinds++] = (Tidemark__DropKind)d->kind;
		bytes += 1 + 3;
	}
	c->gap_units[i] = UNITS(d->run.start - from);
	c->units[i] = UNITS(d->run.end - d->run.start);
	c->space_runs[c->nspaces - 1]++;
	c->kind_runs[c->nkinds - 1]++;
	c->nruns++;
	return bytes + varint_bytes(c->gap_units[i]) + varint_bytes(c->units[i]);
}

/* May it stand behind `before`? */
static bool drop_valid(const struct page_drop *before, const struct page_drop *d)
{
	uint64_t from = before->space == d->space ? before->run.end : 0;
	return drop_kind_valid(d->kind) && before->space <= d->space &&
	       run_valid(d->run, from, space_end(d->space));
}

int drops_encode(
	uint32_t process, const struct drops_message *m, size_t *at, struct frame_buffer *ret)
{
	ret->bytes = 0;
	assert(*at <= m->ndrops);
	if (process == 0)
		return -EINVAL;

	size_t cap = m->ndrops - *at;
	if (cap > RUNS_MAX)
		cap = RUNS_MAX;
	auto_(drop_columns_release) struct drop_columns c;
	int r = drop_columns_init(&c, cap);
	if (r < 0)
		return r;

	/* Nothing is before the first: any may stand behind that. */
	struct page_drop before = {0};
	if (*at)
		before = m->drops[*at - 1];
	for (size_t bytes = 0; c.nruns < cap && bytes + DROP_BYTES_MAX <= HEAD_BYTES_LISTS;) {
		const struct page_drop *d = &m->drops[*at + c.nruns];
		if (!drop_valid(&before, d))
			return -EINVAL;
		bytes += drop_columns_add(&c, &before, d);
		before = *d;
	}

	Tidemark__Drops w = TIDEMARK__DROPS__INIT;
	w.round = m->round;
	w.run_gap_units = c.gap_units;
	w.run_units = c.units;
	w.n_run_gap_units = w.n_run_units = c.nruns;
	w.space = c.space;
	w.space_runs = c.space_runs;
	w.n_space = w.n_space_runs = c.nspaces;
	w.kind = c.kind;
	w.kind_runs = c.kind_runs;
	w.n_kind = w.n_kind_runs = c.nkinds;
	r = wire_encode(FRAME_DROPS, process, &w.base, ret);
	if (r < 0)
		return r;
	*at += c.nruns;
	return 0;
}

/* Sets drops[...].space and .run. */
static int drop_runs_take(const Tidemark__Drops *w, struct page_drop *drops, struct tide_error *err)
{
	size_t n = 0;
	for (size_t i = 0; i < w->n_space; i++) {
		if (i && w->space[i] <= w->space[i - 1])
			return wire_bad(err, FRAME_DROPS, "whose spaces are not in order");
		if (w->space_runs[i] == 0 || w->space_runs[i] > w->n_run_units - n)
			return wire_bad(err, FRAME_DROPS, "whose spaces have other runs");

		uint64_t from = 0;
		for (uint64_t left = w->space_runs[i]; left > 0; left--, n++) {
			drops[n].space = w->space[i];
			if (!run_make(from, w->run_gap_units[n], w->run_units[n],
				    space_end(w->space[i]), &drops[n].run))
				return wire_bad(err, FRAME_DROPS,
					"whose run %zu is empty or reaches too far", n);
			from = drops[n].run.end;
		}
	}
	if (n != w->n_run_units)
		return wire_bad(err, FRAME_DROPS, "whose spaces have other runs");
	return 0;
}

static int drop_kinds_take(
	const Tidemark__Drops *w, struct page_drop *drops, struct tide_error *err)
{
	size_t n = 0;
	for (size_t i = 0; i < w->n_kind; i++) {
		enum drop_kind kind = (enum drop_kind)w->kind[i];
		if (!drop_kind_valid(kind))
			return wire_bad(err, FRAME_DROPS,
				"with drops of kind %d, which is not known", kind);
		if (w->kind_runs[i] == 0 || w->kind_runs[i] > w->n_run_units - n)
			return wire_bad(err, FRAME_DROPS, "whose kinds have other runs");
		for (uint64_t left = w->kind_runs[i]; left > 0; left--)
			drops[n++].kind = kind;
	}
	if (n != w->n_run_units)
		return wire_bad(err, FRAME_DROPS, "whose kinds have other runs");
	return 0;
}

int drops_decode(const struct frame *f, struct drops_message *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(
		f, FRAME_DROPS, true, &tidemark__drops__descriptor, &arena, &unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__Drops *w = (const Tidemark__Drops *)unpacked;
	if (w->n_run_gap_units != w->n_run_units || w->n_space != w->n_space_runs ||
		w->n_kind != w->n_kind_runs)
		return wire_bad(err, FRAME_DROPS, "with lists of unequal length");
	if (w->n_run_units > RUNS_MAX)
		return wire_bad(err, FRAME_DROPS, "with %zu runs, above the limit of %u",
			w->n_run_units, RUNS_MAX);

	auto_free struct page_drop *drops = calloc(w->n_run_units + 1, sizeof(*drops));
	if (!drops)
		return wire_out_of_memory(err, FRAME_DROPS);
	r = drop_runs_take(w, drops, err);
	if (r < 0)
		return r;
	r = drop_kinds_take(w, drops, err);
	if (r < 0)
		return r;
	*ret = (struct drops_message){
		.round = w->round, .drops = take(drops), .ndrops = w->n_run_units};
	return 0;
}

void drops_release(struct drops_message *m)
{
	free(m->drops);
	*m = (struct drops_message){0};
}

/* --- STATE -------------------------------------------------------------------------------- */

#define THREAD_NAME_CAP sizeof(((struct state_thread *)NULL)->name)
#define SIGNAL_MAX 64

static size_t thread_regset_bytes(const struct state_thread *t)
{
	size_t bytes = 0;
	for (size_t i = 0; i < t->nregsets; i++)
		bytes += t->regsets[i].size_bytes;
	return bytes;
}

/* What it takes in memory. */
static size_t thread_held_bytes(const struct state_thread *t)
{
	return sizeof(*t) + t->nregsets * sizeof(*t->regsets) + thread_regset_bytes(t);
}

static int thread_refuse(const struct state_thread *t, const char *why, struct tide_error *err)
{
	return wire_bad(err, FRAME_STATE, "with a thread, %" PRId32 ", %s", t->tid, why);
}

/* No more of its regsets than REGSETS_MAX are looked at. */
static int thread_check(const struct state_thread *t, struct tide_error *err)
{
	if (t->tid < 1)
		return thread_refuse(t, "whose id cannot be", err);
	if (t->pending_signal < 0 || t->pending_signal > SIGNAL_MAX)
		return thread_refuse(t, "with a pending signal that is none", err);
	if (t->nregsets > REGSETS_MAX)
		return thread_refuse(t, "with too many register sets", err);
	for (size_t i = 0; i < t->nregsets; i++) {
		const struct state_regset *s = &t->regsets[i];
		if (s->size_bytes == 0 || s->size_bytes > REGSET_BYTES_MAX)
			return thread_refuse(
				t, "with a register set that is empty or too large", err);
		for (size_t j = 0; j < i; j++) {
			if (t->regsets[j].note_type == s->note_type)
				return thread_refuse(t, "with a register set twice", err);
		}
	}
	if (thread_regset_bytes(t) > THREAD_BYTES_MAX)
		return thread_refuse(t, "with too many bytes of register sets", err);
	return wire_text_check(FRAME_STATE, "a thread's name", t->name, THREAD_NAME_CAP,
		TEXT_EMPTY | TEXT_RAW, err);
}

/* All but the threads. */
static int state_check(const struct process_state *m, struct tide_error *err)
{
	if (m->version != STATE_VERSION)
		return wire_bad(err, FRAME_STATE,
			"of version %" PRIu32 ", and this program knows %d", m->version,
			STATE_VERSION);
	if (m->ppid < 0 || m->pgrp < 0 || m->sid < 0)
		return wire_bad(err, FRAME_STATE, "with a negative process id");
	if (!((m->state >= 'A' && m->state <= 'Z') || (m->state >= 'a' && m->state <= 'z')))
		return wire_bad(err, FRAME_STATE, "with a run state that is no letter");
	if (m->nice < -20 || m->nice > 19)
		return wire_bad(err, FRAME_STATE, "with a nice value of %d", m->nice);
	if (m->auxv_bytes > AUXV_BYTES_MAX)
		return wire_bad(err, FRAME_STATE,
			"with an auxiliary vector of %zu bytes, above the limit of "
			"%u",
			m->auxv_bytes, AUXV_BYTES_MAX);
	return 0;
}

/* One thread of a STATE message, with what it points to. */
struct thread_member {
	Tidemark__Thread thread;
	Tidemark__Regset regsets[REGSETS_MAX];
	Tidemark__Regset *list[REGSETS_MAX];
};

static void thread_fill(const struct state_thread *t, struct thread_member *w)
{
	tidemark__thread__init(&w->thread);
	w->thread.tid = (uint32_t)t->tid;
	w->thread.name = wire_bytes(t->name, strlen(t->name));
	w->thread.signal_mask = t->signal_mask;
	w->thread.pending_signal = (uint32_t)t->pending_signal;
	w->thread.n_regsets = t->nregsets;
	w->thread.regsets = w->list;
	for (size_t i = 0; i < t->nregsets; i++) {
		tidemark__regset__init(&w->regsets[i]);
		w->regsets[i].note_type = t->regsets[i].note_type;
		w->regsets[i].data = wire_bytes(t->regsets[i].data, t->regsets[i].size_bytes);
		w->list[i] = &w->regsets[i];
	}
}

/* Is it something that the format carries? Looks at all of it, so once is enough. */
static int state_check_whole(const struct process_state *m)
{
	if (m->nthreads == 0 || state_check(m, NULL) < 0)
		return -EINVAL;
	if (m->nthreads > THREADS_MAX)
		return -EMSGSIZE;
	size_t bytes = 0;
	for (size_t i = 0; i < m->nthreads; i++) {
		if (thread_check(&m->threads[i], NULL) < 0)
			return -EINVAL;
		bytes += thread_held_bytes(&m->threads[i]);
	}
	return bytes > STATE_BYTES_MAX ? -EMSGSIZE : 0;
}

int state_encode(
	uint32_t process, const struct process_state *m, size_t *at, struct frame_buffer *ret)
{
	ret->bytes = 0;
	assert(*at <= m->nthreads);
	if (process == 0)
		return -EINVAL;
	if (*at == 0) {
		int r = state_check_whole(m);
		if (r < 0)
			return r;
	}

	size_t cap = m->nthreads - *at;
	if (cap > THREADS_PER_FRAME_MAX)
		cap = THREADS_PER_FRAME_MAX;
	auto_free struct thread_member *members = calloc(cap + 1, sizeof(*members));
	auto_free Tidemark__Thread **list = calloc(cap + 1, sizeof(void *));
	if (!members || !list)
		return -ENOMEM;

	Tidemark__State w = TIDEMARK__STATE__INIT;
	w.version = m->version;
	w.threads_total = m->nthreads;
	w.threads_before = *at;
	w.threads = list;
	if (*at == 0) {
		w.realtime_ns = m->clocks.realtime_ns;
		w.monotonic_ns = m->clocks.monotonic_ns;
		w.boottime_ns = m->clocks.boottime_ns;
		w.ppid = (uint32_t)m->ppid;
		w.pgrp = (uint32_t)m->pgrp;
		w.sid = (uint32_t)m->sid;
		w.run_state = (unsigned char)m->state;
		w.nice = (int32_t)m->nice;
		w.auxv = wire_bytes(m->auxv, m->auxv_bytes);
	}

	/* The first thread always fits: what is before it and it alone are bounded. */
	_Static_assert(AUXV_BYTES_MAX + THREAD_BYTES_MAX + 4096 < HEAD_BYTES_LISTS,
		"any thread fits with what the first frame holds besides");
	size_t bytes = w.auxv.len;
	while (w.n_threads < cap) {
		struct thread_member *member = &members[w.n_threads];
		thread_fill(&m->threads[*at + w.n_threads], member);
		bytes += wire_member_bytes(&member->thread.base);
		if (bytes > HEAD_BYTES_LISTS)
			break;
		list[w.n_threads++] = &member->thread;
	}

	int r = wire_encode(FRAME_STATE, process, &w.base, ret);
	if (r < 0)
		return r;
	*at += w.n_threads;
	return 0;
}

static int regset_take(const Tidemark__Regset *w, struct state_regset *ret, struct tide_error *err)
{
	if (w->data.len == 0 || w->data.len > REGSET_BYTES_MAX)
		return wire_bad(err, FRAME_STATE, "with a register set of %zu bytes", w->data.len);
	void *data = malloc(w->data.len);
	if (!data)
		return wire_out_of_memory(err, FRAME_STATE);
	memcpy(data, w->data.data, w->data.len);
	*ret = (struct state_regset){
		.note_type = w->note_type, .size_bytes = (uint32_t)w->data.len, .data = data};
	return 0;
}

static int thread_take(const Tidemark__Thread *w, struct state_thread *ret, struct tide_error *err)
{
	if (w->tid > INT32_MAX || w->pending_signal > SIGNAL_MAX)
		return wire_bad(err, FRAME_STATE,
			"with a thread, %" PRIu32 ", whose id or pending signal "
			"cannot be",
			w->tid);
	if (w->n_regsets > REGSETS_MAX)
		return wire_bad(err, FRAME_STATE,
			"with a thread, %" PRIu32 ", of %zu register sets, above "
			"the limit of %d",
			w->tid, w->n_regsets, REGSETS_MAX);
	int r = wire_text_take(
		FRAME_STATE, "a thread's name", &w->name, ret->name, THREAD_NAME_CAP, err);
	if (r < 0)
		return r;

	ret->tid = (int32_t)w->tid;
	ret->signal_mask = w->signal_mask;
	ret->pending_signal = (int32_t)w->pending_signal;
	if (w->n_regsets) {
		ret->regsets = calloc(w->n_regsets, sizeof(*ret->regsets));
		if (!ret->regsets)
			return wire_out_of_memory(err, FRAME_STATE);
	}
	for (size_t i = 0; i < w->n_regsets; i++) {
		r = regset_take(w->regsets[i], &ret->regsets[i], err);
		if (r < 0)
			return r;
		ret->nregsets++;
	}
	return thread_check(ret, err);
}

/* Sets the fields of the first frame. */
static int state_take(const Tidemark__State *w, struct process_state *ret, struct tide_error *err)
{
	if (w->ppid > INT32_MAX || w->pgrp > INT32_MAX || w->sid > INT32_MAX)
		return wire_bad(err, FRAME_STATE, "with a process id that cannot be");
	if (w->run_state > CHAR_MAX || w->nice < INT8_MIN || w->nice > INT8_MAX)
		return wire_bad(
			err, FRAME_STATE, "with a run state or a nice value that cannot be");

	*ret = (struct process_state){
		.version = w->version,
		.clocks = {w->realtime_ns, w->monotonic_ns, w->boottime_ns},
		.ppid = (int32_t)w->ppid,
		.pgrp = (int32_t)w->pgrp,
		.sid = (int32_t)w->sid,
		.state = (char)w->run_state,
		.nice = (int8_t)w->nice,
		.auxv_bytes = w->auxv.len,
		.threads_total = w->threads_total,
	};
	int r = state_check(ret, err);
	if (r < 0 || ret->auxv_bytes == 0)
		return r;
	ret->auxv = malloc(ret->auxv_bytes);
	if (!ret->auxv)
		return wire_out_of_memory(err, FRAME_STATE);
	memcpy(ret->auxv, w->auxv.data, ret->auxv_bytes);
	return 0;
}

/* The threads of one frame, until they have all been checked. */
struct thread_list {
	struct state_thread *v;
	size_t len;
	size_t held_bytes;
};

static void thread_list_release(struct thread_list *l)
{
	for (size_t i = 0; i < l->len; i++)
		state_thread_release(&l->v[i]);
	free(l->v);
}

static int threads_take(const Tidemark__State *w, struct thread_list *ret, struct tide_error *err)
{
	ret->v = calloc(w->n_threads, sizeof(*ret->v));
	if (!ret->v)
		return wire_out_of_memory(err, FRAME_STATE);
	for (size_t i = 0; i < w->n_threads; i++) {
		ret->len++;
		int r = thread_take(w->threads[i], &ret->v[i], err);
		if (r < 0)
			return r;
		ret->held_bytes += thread_held_bytes(&ret->v[i]);
	}
	return 0;
}

/* How many threads there is room for: the decoder alone fills the array, always like this. */
static size_t threads_cap(size_t nthreads)
{
	size_t cap = nthreads ? 64 : 0;
	while (cap < nthreads)
		cap *= 2;
	return cap;
}

static int threads_append(
	struct process_state *ret, struct thread_list *from, struct tide_error *err)
{
	size_t cap = threads_cap(ret->nthreads + from->len);
	if (!ret->threads || cap != threads_cap(ret->nthreads)) {
		struct state_thread *v = reallocarray(ret->threads, cap, sizeof(*ret->threads));
		if (!v)
			return wire_out_of_memory(err, FRAME_STATE);
		ret->threads = v;
	}
	memcpy(ret->threads + ret->nthreads, from->v, from->len * sizeof(*from->v));
	ret->nthreads += from->len;
	ret->held_bytes += from->held_bytes;
	from->len = 0;
	return 0;
}

int state_decode(const struct frame *f, struct process_state *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(
		f, FRAME_STATE, true, &tidemark__state__descriptor, &arena, &unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__State *w = (const Tidemark__State *)unpacked;
	bool first = ret->nthreads == 0;
	if (w->n_threads == 0 || w->n_threads > THREADS_PER_FRAME_MAX)
		return wire_bad(err, FRAME_STATE, "with %zu threads; it has 1 to %d", w->n_threads,
			THREADS_PER_FRAME_MAX);
	if (w->threads_total > THREADS_MAX)
		return wire_bad(err, FRAME_STATE,
			"of %" PRIu64 " threads in all, above the limit of %d", w->threads_total,
			THREADS_MAX);
	if (w->threads_before != ret->nthreads || w->n_threads > w->threads_total - ret->nthreads ||
		(!first && w->threads_total != ret->threads_total))
		return wire_bad(err, FRAME_STATE,
			"with %zu threads behind %" PRIu64 " of %" PRIu64
			", where %zu of %zu have come",
			w->n_threads, w->threads_before, w->threads_total, ret->nthreads,
			ret->threads_total);

	auto_(process_state_release) struct process_state start = {0};
	if (first) {
		r = state_take(w, &start, err);
		if (r < 0)
			return r;
	} else if (w->version != ret->version) {
		return wire_bad(err, FRAME_STATE, "of another version than the first");
	}
	auto_(thread_list_release) struct thread_list threads = {0};
	r = threads_take(w, &threads, err);
	if (r < 0)
		return r;
	if (threads.held_bytes > STATE_BYTES_MAX - ret->held_bytes)
		return wire_bad(
			err, FRAME_STATE, "with which the threads' state takes too much memory");

	r = threads_append(first ? &start : ret, &threads, err);
	if (r == 0 && first) {
		*ret = start;
		start = (struct process_state){0};
	}
	return r;
}
