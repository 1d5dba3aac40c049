/* SPDX-License-Identifier: MIT */
/*
 * A made-up process and the stream that a sender would make of it, for tests of what receives
 * streams: two mappings of private memory (one of them of a file) and a shared object, whose pages
 * are written and dropped as a test likes, and kept in plain arrays to compare with.
 */
#ifndef TESTS_UNIT_WORLD_H
#define TESTS_UNIT_WORLD_H

#include <stdbool.h>
#include "proto/batch.h"
#include "proto/message.h"

#define WORLD_PAGE 4096u
#define WORLD_PAGES 1536u /* of each space */
#define WORLD_OBJECT ((space_id)7)

/* Pages from WORLD_BASE on: the first WORLD_ANON anonymous, a hole of one page, then a file's. */
#define WORLD_BASE UINT64_C(0x7f0000100000)
#define WORLD_ANON 1000u
/* The object is mapped here, from its offset 0. */
#define WORLD_SHARED UINT64_C(0x7f0010000000)

struct world_space {
	space_id space;
	uint64_t base; /* place of page 0 */
	uint8_t *pages;
	bool *held;
};

/* A stream in memory. `at[i]` is where frame i begins; at[frames] is the end. */
struct stream {
	uint8_t *bytes;
	size_t len, cap;
	size_t *at;
	size_t frames, cap_frames;
};

struct world {
	struct world_space spaces[2]; /* the private one, the object */
	struct mapping_table mappings;
	struct stream stream;
	struct stream_header header;
	const struct codec *codec;
	/* Pages that are held change a little only, and travel as that. Set it, and FEATURE_DELTA
	 * in the header, before the first frame. */
	bool has_deltas;
	uint64_t delta_pages; /* sent */
	uint64_t round;       /* under way, or the next */
	uint64_t round_pages, round_frames;
	uint64_t seed;
};

/* Nothing held; the same seed gives the same contents. */
void world_init(struct world *w, uint64_t seed);
void world_release(struct world *w);

uint64_t world_random(struct world *w, uint64_t below);
uint64_t world_held_pages(const struct world *w);

/* Frames, appended to the stream one by one. */
void world_begin(struct world *w); /* preamble, STREAM, PROCESS */
void world_round(struct world *w, bool final);
void world_mappings(struct world *w); /* all of them, as the first round does */
void world_round_end(struct world *w);
void world_state(struct world *w);
void world_commit(struct world *w);
/* Any other frame; `b` is emptied. */
void world_append(struct world *w, struct frame_buffer *b);

/* Writes new contents to pages [page, page + n) of a space (0 or 1) and sends them, in frames of at
 * most `batch` pages. */
void world_write(struct world *w, unsigned space, uint32_t page, uint32_t n, uint32_t batch);
/* Writes about `writes` random runs and sends them, in order. */
void world_write_some(struct world *w, unsigned space, uint32_t writes);
/* Drops pages, in one message of the round. */
void world_drop(struct world *w, unsigned space, uint32_t page, uint32_t n);

/* A whole stream of `rounds` rounds, with drops and writes all over. */
void world_send(struct world *w, unsigned rounds);
/* The same with few pages, all kinds of frames in it: for tests that read it very often. */
void world_send_little(struct world *w);

/* Pages of the private space that no mapping has room for. */
bool world_is_hole(unsigned space, uint32_t page);

void stream_release(struct stream *s);
/* Frame i as it lies in the stream; borrowed. */
void stream_frame(const struct stream *s, size_t i, struct frame *ret, struct frame_buffer *raw);
/* Puts a frame in the place of frame i (`b` empty: takes it out). */
void stream_replace(struct stream *s, size_t i, struct frame_buffer *b);

#endif
