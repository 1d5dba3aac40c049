/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <CUnit/CUnit.h>
#include "tests/unit/world.h"

uint64_t world_random(struct world *w, uint64_t below)
{
	w->seed = w->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (w->seed >> 33) % below;
}

static void add_mapping(struct world *w, struct mapping m)
{
	m.name = strdup(m.name);
	CU_ASSERT_EQUAL_FATAL(mapping_table_append(&w->mappings, &m), 0);
}

void world_init(struct world *w, uint64_t seed)
{
	*w = (struct world){.seed = seed, .codec = codec_by_name("lz4")};
	for (unsigned i = 0; i < 2; i++) {
		w->spaces[i].space = i ? WORLD_OBJECT : SPACE_PRIVATE;
		w->spaces[i].base = i ? 0 : WORLD_BASE;
		w->spaces[i].pages = calloc(WORLD_PAGES, WORLD_PAGE);
		w->spaces[i].held = calloc(WORLD_PAGES, sizeof(bool));
		CU_ASSERT_FATAL(w->spaces[i].pages && w->spaces[i].held);
	}

	const uint64_t file = WORLD_BASE + (WORLD_ANON + 1) * WORLD_PAGE;
	add_mapping(w, (struct mapping){.start = WORLD_BASE,
			       .end = WORLD_BASE + WORLD_ANON * WORLD_PAGE,
			       .prot = PROT_READ | PROT_WRITE,
			       .kind = MAPPING_ANON,
			       .name = "[heap]"});
	add_mapping(w, (struct mapping){.start = file,
			       .end = WORLD_BASE + WORLD_PAGES * WORLD_PAGE,
			       .prot = PROT_READ,
			       .kind = MAPPING_FILE_PRIVATE,
			       .offset = 3 * WORLD_PAGE,
			       .inode = 5,
			       .file_size = 1 << 20,
			       .name = "/lib/libmade.so"});
	add_mapping(w, (struct mapping){.start = WORLD_SHARED,
			       .end = WORLD_SHARED + WORLD_PAGES * WORLD_PAGE,
			       .prot = PROT_READ | PROT_WRITE,
			       .flags = MAPPING_SHARED,
			       .kind = MAPPING_OBJECT,
			       .object = WORLD_OBJECT,
			       .name = "/memfd:made"});

	w->header = (struct stream_header){
		.architecture = "x86_64",
		.byte_order = "little",
		.page_bytes = WORLD_PAGE,
		.features = FEATURE_LZ4,
		.created_realtime_ns = 1700000000000000000,
		.software = "tests",
		.host = "nowhere",
	};
	for (unsigned i = 0; i < ID_BYTES; i++)
		w->header.stream_id[i] = (uint8_t)(1 + world_random(w, 255));
}

void stream_release(struct stream *s)
{
	free(s->bytes);
	free(s->at);
	*s = (struct stream){0};
}

void world_release(struct world *w)
{
	for (unsigned i = 0; i < 2; i++) {
		free(w->spaces[i].pages);
		free(w->spaces[i].held);
	}
	mapping_table_release(&w->mappings);
	stream_release(&w->stream);
	*w = (struct world){0};
}

bool world_is_hole(unsigned space, uint32_t page)
{
	return space == 0 && page == WORLD_ANON;
}

uint64_t world_held_pages(const struct world *w)
{
	uint64_t n = 0;
	for (unsigned i = 0; i < 2; i++) {
		for (uint32_t p = 0; p < WORLD_PAGES; p++)
			n += w->spaces[i].held[p];
	}
	return n;
}

/* --- the stream --------------------------------------------------------------------------- */

static void stream_add(struct stream *s, const void *data, size_t bytes)
{
	if (s->len + bytes > s->cap) {
		s->cap = (s->len + bytes) * 2;
		s->bytes = realloc(s->bytes, s->cap);
		if (!s->bytes)
			abort();
	}
	memcpy(s->bytes + s->len, data, bytes);
	s->len += bytes;
}

/* A frame ends here. */
static void stream_mark(struct stream *s)
{
	if (s->frames + 2 > s->cap_frames) {
		s->cap_frames = (s->frames + 2) * 2;
		s->at = realloc(s->at, s->cap_frames * sizeof(*s->at));
		if (!s->at)
			abort();
	}
	s->at[++s->frames] = s->len;
}

void world_append(struct world *w, struct frame_buffer *b)
{
	stream_add(&w->stream, b->data, b->bytes);
	stream_mark(&w->stream);
	frame_buffer_release(b);
	*b = (struct frame_buffer){0};
}

static void append(struct world *w, int encoded, struct frame_buffer *b)
{
	CU_ASSERT_EQUAL_FATAL(encoded, 0);
	world_append(w, b);
}

void stream_frame(const struct stream *s, size_t i, struct frame *ret, struct frame_buffer *raw)
{
	CU_ASSERT_FATAL(i < s->frames);
	*raw = (struct frame_buffer){.data = s->bytes + s->at[i], .bytes = s->at[i + 1] - s->at[i]};
	CU_ASSERT_EQUAL_FATAL(
		frame_decode(raw->data, raw->data + FRAME_HEADER_BYTES, ret, NULL), 0);
}

void stream_replace(struct stream *s, size_t i, struct frame_buffer *b)
{
	size_t old = s->at[i + 1] - s->at[i], tail = s->len - s->at[i + 1];
	uint8_t *rest = malloc(tail + 1);
	if (!rest)
		abort();
	memcpy(rest, s->bytes + s->at[i + 1], tail);
	s->len = s->at[i];
	if (b->bytes)
		stream_add(s, b->data, b->bytes);
	stream_add(s, rest, tail);
	free(rest);

	for (size_t k = i + 1; k <= s->frames; k++)
		s->at[k] = s->at[k] - old + b->bytes;
	if (b->bytes == 0) {
		memmove(s->at + i, s->at + i + 1, (s->frames - i) * sizeof(*s->at));
		s->frames--;
	}
	frame_buffer_release(b);
	*b = (struct frame_buffer){0};
}

void world_begin(struct world *w)
{
	static const struct process_info info = {
		.pid = 4711,
		.start_time = 99,
		.uid = 1000,
		.gid = 1000,
		.comm = "made up",
		.exe = "/bin/made-up",
		.command_line = "made-up --for tests",
	};
	uint8_t preamble[PREAMBLE_BYTES];
	struct frame_buffer b = {0};

	preamble_encode(preamble);
	stream_add(&w->stream, preamble, sizeof(preamble));
	stream_mark(&w->stream);
	w->stream.frames = 0;
	w->stream.at[0] = w->stream.len;
	append(w, stream_header_encode(&w->header, &b), &b);
	append(w, process_info_encode(1, &info, &b), &b);
}

void world_round(struct world *w, bool final)
{
	struct frame_buffer b = {0};
	struct round_header m = {.number = w->round, .final = final};
	append(w, round_header_encode(1, &m, &b), &b);
	w->round_pages = w->round_frames = 0;
}

void world_mappings(struct world *w)
{
	struct mappings_message m = {.round = w->round, .diff.added = w->mappings};
	struct mappings_cursor at = {0};
	struct frame_buffer b = {0};
	append(w, mappings_encode(1, &m, &at, &b), &b);
}

void world_round_end(struct world *w)
{
	struct round_end m = {
		.number = w->round, .pages = w->round_pages, .frames = w->round_frames};
	struct frame_buffer b = {0};
	append(w, round_end_encode(1, &m, &b), &b);
	w->round++;
}

void world_state(struct world *w)
{
	uint8_t registers[216], auxv[32] = {0};
	memset(registers, 0x5a, sizeof(registers));
	struct state_regset set = {
		.note_type = 1, .size_bytes = sizeof(registers), .data = registers};
	struct state_thread threads[2] = {
		{.tid = 4711, .name = "made up", .regsets = &set, .nregsets = 1},
		{.tid = 4712, .name = "worker", .regsets = &set, .nregsets = 1},
	};
	struct process_state m = {
		.version = STATE_VERSION,
		.ppid = 1,
		.pgrp = 4711,
		.sid = 4711,
		.state = 'S',
		.auxv = auxv,
		.auxv_bytes = sizeof(auxv),
		.threads = threads,
		.nthreads = 2,
	};
	struct frame_buffer b = {0};
	size_t at = 0;
	append(w, state_encode(1, &m, &at, &b), &b);
}

void world_commit(struct world *w)
{
	struct commit m = {.rounds = w->round, .held_pages = world_held_pages(w)};
	memcpy(m.stream_id, w->header.stream_id, ID_BYTES);
	struct frame_buffer b = {0};
	append(w, commit_encode(&m, &b), &b);
}

/* --- pages -------------------------------------------------------------------------------- */

static uint8_t *page_at(struct world *w, unsigned space, uint32_t page)
{
	return w->spaces[space].pages + (size_t)page * WORLD_PAGE;
}

/* Zero, compressible or random, as memory is. */
static void page_fill(struct world *w, uint8_t *page)
{
	uint64_t kind = world_random(w, 4);
	memset(page, 0, WORLD_PAGE);
	if (kind == 0)
		return;
	for (uint32_t i = 0; i < WORLD_PAGE / 8; i++) {
		uint64_t word = world_random(w, UINT32_MAX);
		if (kind != 3)
			word &= 0x0707;
		memcpy(page + (size_t)i * 8, &word, 8);
	}
}

/* A few of its words. */
static void page_change(struct world *w, uint8_t *page)
{
	for (uint64_t n = 1 + world_random(w, 4); n; n--) {
		uint64_t word = world_random(w, UINT64_MAX);
		memcpy(page + world_random(w, WORLD_PAGE / 8) * 8, &word, 8);
	}
}

/* What the receiver has of the pages of the batch in the making, in their order. */
static uint8_t former_bytes[BATCH_PAGES_MAX][WORLD_PAGE];
static const uint8_t *former[BATCH_PAGES_MAX];

/* The frames of pages that are gathered here. */
static void batch_flush(struct world *w, unsigned space, struct batch *b)
{
	static uint8_t pages[BATCH_PAGES_MAX * WORLD_PAGE];
	struct frame_buffer buffer = {0};
	struct batch_stats stats = {0};
	uint32_t n = 0;

	if (b->nruns == 0)
		return;
	for (uint32_t i = 0; i < b->nruns; i++) {
		for (uint64_t at = b->runs[i].start; at < b->runs[i].end; at += WORLD_PAGE, n++) {
			uint64_t page = (at - w->spaces[space].base) / WORLD_PAGE;
			memcpy(pages + (size_t)n * WORLD_PAGE, page_at(w, space, (uint32_t)page),
				WORLD_PAGE);
		}
	}
	b->round = w->round;
	b->space = w->spaces[space].space;
	b->page_bytes = WORLD_PAGE;
	append(w,
		batch_encode(1, b, pages,
			&(struct batch_encoding){.codec = w->codec, .former = former}, &buffer,
			&stats),
		&buffer);
	w->delta_pages += stats.form[CODEC_DELTA].pages;
	w->round_pages += n;
	w->round_frames++;
	b->nruns = b->npages = 0;
}

static void batch_add(
	struct world *w, unsigned space, struct batch *b, uint32_t page, uint32_t n, uint32_t limit)
{
	for (uint32_t i = page; i < page + n; i++) {
		if (world_is_hole(space, i))
			continue;
		bool changes = w->has_deltas && w->spaces[space].held[i];
		former[b->npages] = changes ? former_bytes[b->npages] : NULL;
		memcpy(former_bytes[b->npages], page_at(w, space, i), WORLD_PAGE);
		(changes ? page_change : page_fill)(w, page_at(w, space, i));
		w->spaces[space].held[i] = true;
		uint64_t at = w->spaces[space].base + (uint64_t)i * WORLD_PAGE;
		if (b->nruns && b->runs[b->nruns - 1].end == at)
			b->runs[b->nruns - 1].end += WORLD_PAGE;
		else
			b->runs[b->nruns++] = (struct page_run){at, at + WORLD_PAGE};
		if (++b->npages == limit)
			batch_flush(w, space, b);
	}
}

void world_write(struct world *w, unsigned space, uint32_t page, uint32_t n, uint32_t batch)
{
	struct batch b = {0};
	batch_add(w, space, &b, page, n, batch);
	batch_flush(w, space, &b);
}

void world_write_some(struct world *w, unsigned space, uint32_t writes)
{
	struct batch b = {0};
	uint32_t page = 0, limit = 1 + (uint32_t)world_random(w, BATCH_PAGES_MAX);
	for (uint32_t i = 0; i < writes; i++) {
		page += (uint32_t)world_random(w, 2 * WORLD_PAGES / (writes + 1));
		uint32_t n = 1 + (uint32_t)world_random(w, world_random(w, 4) ? 4 : 300);
		if (page >= WORLD_PAGES)
			break;
		if (n > WORLD_PAGES - page)
			n = WORLD_PAGES - page;
		batch_add(w, space, &b, page, n, limit);
		page += n;
	}
	batch_flush(w, space, &b);
}

void world_drop(struct world *w, unsigned space, uint32_t page, uint32_t n)
{
	struct world_space *s = &w->spaces[space];
	struct page_drop drop = {
		.space = s->space,
		.run = {s->base + (uint64_t)page * WORLD_PAGE,
			s->base + (uint64_t)(page + n) * WORLD_PAGE},
		.kind = DROP_GONE,
	};
	struct drops_message m = {.round = w->round, .drops = &drop, .ndrops = 1};
	struct frame_buffer b = {0};
	size_t at = 0;
	append(w, drops_encode(1, &m, &at, &b), &b);
	for (uint32_t i = page; i < page + n; i++) {
		s->held[i] = false;
		memset(page_at(w, space, i), 0, WORLD_PAGE);
	}
}

void world_send(struct world *w, unsigned rounds)
{
	world_begin(w);
	for (unsigned r = 0; r < rounds; r++) {
		world_round(w, r + 1 == rounds);
		if (r == 0) {
			world_mappings(w);
			world_write(w, 0, 0, WORLD_PAGES - 100, 256);
			world_write(w, 1, 100, WORLD_PAGES / 2, 200);
		} else {
			for (unsigned i = 0; i < 3; i++) {
				uint32_t page = (uint32_t)world_random(w, WORLD_PAGES);
				uint32_t n = 1 + (uint32_t)world_random(w, WORLD_PAGES - page);
				world_drop(w, i & 1, page, n > 200 ? 1 + n / 8 : n);
			}
			world_write_some(w, 0, 1 + (uint32_t)world_random(w, 60));
			world_write_some(w, 1, 1 + (uint32_t)world_random(w, 60));
		}
		world_round_end(w);
	}
	world_state(w);
	world_commit(w);
}

void world_send_little(struct world *w)
{
	world_begin(w);
	for (unsigned r = 0; r < 3; r++) {
		world_round(w, r == 2);
		if (r == 0)
			world_mappings(w);
		else
			world_drop(w, r & 1, 5, 10);
		world_write(w, 0, 0, r == 2 ? 8 : 40, 16);
		world_write(w, 1, 0, r == 1 ? 40 : 12, 16);
		world_round_end(w);
	}
	world_state(w);
	world_commit(w);
}
