/* SPDX-License-Identifier: MIT */
/*
 * Writes the inputs that fuzzing starts from, by the encoders themselves: `make_corpus FOLDER`
 * fills FOLDER/frame, FOLDER/batch, FOLDER/message, FOLDER/session and FOLDER/image. What a fuzzer
 * found is added to those folders by hand, under a name that says what it showed, and is left alone
 * here.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agent/session.h"
#include "agent/store.h"
#include "base/le.h"
#include "proto/batch.h"
#include "proto/message.h"
#include "proto/pages.pb-c.h"
#include "tests/fuzz/fuzz.h"

#define PAGE 4096u

static const char *folder, *target;

/* An input in the making. */
static uint8_t input[1u << 20];
static size_t input_bytes;

static void add(const void *data, size_t bytes)
{
	memcpy(input + input_bytes, data, bytes);
	input_bytes += bytes;
}

static void add_byte(uint8_t byte)
{
	add(&byte, 1);
}

/* Writes what was added, and begins anew. */
static void save(const char *name)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s/%s/%s", folder, target, name);
	FILE *f = fopen(path, "wb");
	if (!f || fwrite(input, 1, input_bytes, f) != input_bytes || fclose(f) != 0) {
		fprintf(stderr, "make_corpus: %s: %s\n", path, strerror(errno));
		exit(1);
	}
	input_bytes = 0;
}

static void target_begin(const char *name)
{
	char path[4096];
	target = name;
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	mkdir(folder, 0777);
	mkdir(path, 0777);
}

/* --- frame: options, stream --------------------------------------------------------------- */

#define OPTIONS(with_preamble, mend, step) \
	((uint8_t)((with_preamble) | (mend) << 1 | ((step)-1) << 2))

static void add_preamble(void)
{
	uint8_t preamble[PREAMBLE_BYTES];
	preamble_encode(preamble);
	add(preamble, sizeof(preamble));
}

static void add_frame(uint16_t type, uint16_t flags, const char *head, const char *payload)
{
	struct frame f = {
		.type = type,
		.flags = flags,
		.process = 1,
		.head = (const uint8_t *)head,
		.head_bytes = (uint32_t)strlen(head),
		.payload = (const uint8_t *)payload,
		.payload_bytes = (uint32_t)strlen(payload),
	};
	struct frame_buffer b = {0};
	if (frame_buffer_encode(&b, &f) < 0)
		abort();
	add(b.data, b.bytes);
	frame_buffer_release(&b);
}

static void frame_corpus(void)
{
	target_begin("frame");

	add_byte(OPTIONS(1, 0, 1));
	save("empty");

	add_byte(OPTIONS(1, 0, 5));
	add_preamble();
	save("preamble");

	add_byte(OPTIONS(1, 0, 7));
	add_preamble();
	add_frame(FRAME_HELLO, FRAME_CRITICAL, "hello", "");
	add_frame(FRAME_PING, 0, "", "");
	add_frame(FRAME_PAGES, FRAME_CRITICAL, "head", "payload");
	add_frame(FRAME_COMMIT, FRAME_CRITICAL, "", "only payload");
	save("session");

	add_byte(OPTIONS(0, 0, 64));
	add_frame(FRAME_STREAM, FRAME_CRITICAL, "head", "");
	add_frame(FRAME_HOLLOW, FRAME_CRITICAL, "was head", "was payload");
	add_frame(FRAME_INDEX, 0, "", "");
	save("file");

	add_byte(OPTIONS(0, 0, 3));
	add_frame(FRAME_HOLLOW, 0, "was head", "was payload");
	memset(input + 1 + FRAME_HEADER_BYTES, 0, 19);
	save("hollow");

	add_byte(OPTIONS(0, 0, 9));
	add_frame(999, 0, "skip me", "");
	add_frame(0, 0xff00, "", "and me");
	add_frame(FRAME_PONG, 0x8000, "", "");
	save("unknown-but-not-critical");

	add_byte(OPTIONS(0, 0, 9));
	add_frame(999, FRAME_CRITICAL, "", "");
	save("unknown-critical");

	add_byte(OPTIONS(0, 0, 9));
	add_frame(FRAME_PAGES, FRAME_CRITICAL | 0x40, "head", "");
	save("unknown-strict-flag");

	add_byte(OPTIONS(1, 0, 11));
	add_preamble();
	add_frame(FRAME_PAGES, 0, "head", "payload");
	input[input_bytes - 3] ^= 0x10;
	save("checksum-wrong");

	add_byte(OPTIONS(1, 1, 11));
	add_preamble();
	add_frame(FRAME_PAGES, 0, "head", "payload");
	input[input_bytes - 3] ^= 0x10;
	save("checksum-mended");

	add_byte(OPTIONS(0, 0, 2));
	add_frame(FRAME_PAGES, 0, "head", "payload");
	le32_put(input + 1, FRAME_HEAD_MAX + 1);
	save("head-too-long");

	add_byte(OPTIONS(0, 0, 2));
	add_frame(FRAME_PAGES, 0, "head", "payload");
	le32_put(input + 1 + 4, UINT32_MAX);
	save("payload-too-long");

	/* As much as may be, and nothing behind it. */
	add_byte(OPTIONS(0, 0, 2));
	add_frame(FRAME_PAGES, 0, "head", "payload");
	le32_put(input + 1, FRAME_HEAD_MAX);
	le32_put(input + 1 + 4, FRAME_PAYLOAD_MAX);
	save("announces-most");

	add_byte(OPTIONS(1, 0, 4));
	add_preamble();
	add_frame(FRAME_PAGES, 0, "head", "payload");
	input_bytes -= 9;
	save("ends-in-body");

	add_byte(OPTIONS(1, 0, 4));
	add_preamble();
	add_frame(FRAME_PAGES, 0, "", "");
	input_bytes -= 9;
	save("ends-in-header");

	add_byte(OPTIONS(1, 0, 16));
	add("HTTP/1.1 400 Bad Request\r\n\r\n", 28);
	save("stranger");

	add_byte(OPTIONS(1, 0, 1));
	add("\x89TIDE\n\x1a\x01", 8);
	save("text-copy");

	add_byte(OPTIONS(1, 0, 6));
	add_preamble();
	input[1 + 8] = 2;
	save("major-version-2");

	add_byte(OPTIONS(1, 0, 6));
	add_preamble();
	input[1 + 15] = 2;
	save("reserved-not-zero");

	add_byte(OPTIONS(1, 0, 6));
	add_preamble();
	input[1 + 10] = 9;
	add_frame(FRAME_PING, 0, "", "");
	save("minor-version-9");
}

/* --- batch: page size, length of the head, head, payload ---------------------------------- */

static uint8_t pages[64 * PAGE];

static void fill_random(uint8_t *page)
{
	static uint32_t x = 1;
	for (size_t i = 0; i < PAGE; i++) {
		x = x * 1664525 + 1013904223;
		page[i] = (uint8_t)(x >> 24);
	}
}

static void fill_text(uint8_t *page)
{
	for (size_t i = 0; i < PAGE; i++)
		page[i] = (uint8_t) "some text "[i % 10];
}

static void add_batch_parts(
	uint8_t page_size, const uint8_t *head, size_t head_bytes, const uint8_t *payload, size_t n)
{
	uint8_t length[2];
	le16_put(length, (uint16_t)head_bytes);
	add_byte(page_size);
	add(length, 2);
	add(head, head_bytes);
	add(payload, n);
}

/* What is known at the other end; nothing mostly. */
static const uint8_t *former[BATCH_PAGES_MAX];

/* `kinds`: a letter a page: z zero, t text, r random. A blank: a gap before the next. */
static void add_batch(const char *kinds, uint64_t first_page, const struct codec *codec)
{
	struct batch *b = calloc(1, sizeof(*b));
	struct frame_buffer buffer = {0};
	struct batch_stats stats = {0};
	struct frame f;
	uint8_t *to = pages;
	uint64_t at = first_page * PAGE;

	b->round = 1;
	b->page_bytes = PAGE;
	for (; *kinds; kinds++, at += PAGE) {
		if (*kinds == ' ')
			continue;
		if (*kinds == 'z')
			memset(to, 0, PAGE);
		else
			(*kinds == 't' ? fill_text : fill_random)(to);
		to += PAGE;
		b->runs[b->nruns++] = (struct page_run){at, at + PAGE};
	}
	if (batch_encode(1, b, pages, &(struct batch_encoding){.codec = codec, .former = former},
		    &buffer, &stats) < 0 ||
		frame_decode(buffer.data, buffer.data + FRAME_HEADER_BYTES, &f, NULL) < 0)
		abort();
	add_batch_parts(0, f.head, f.head_bytes, f.payload, f.payload_bytes);
	frame_buffer_release(&buffer);
	free(b);
}

/* Every second page is known to be zero at the other end. */
static void add_delta_batch(const char *kinds)
{
	static const uint8_t zero[PAGE];
	for (size_t i = 0; i < BATCH_PAGES_MAX; i++)
		former[i] = i % 4 < 2 ? zero : NULL;
	add_batch(kinds, 16, NULL);
	memset(former, 0, sizeof(former));
}

static const Tidemark__Pages no_pages = TIDEMARK__PAGES__INIT;

static void add_batch_head(const Tidemark__Pages *m, size_t payload_bytes)
{
	static uint8_t head[BATCH_HEAD_MAX];
	memset(pages, 'x', payload_bytes);
	add_batch_parts(0, head, tidemark__pages__pack(m, head), pages, payload_bytes);
}

#define LIST(m, name, ...)                                                                  \
	((m).n_##name = sizeof((__typeof__(*(m).name)[]){__VA_ARGS__}) / sizeof(*(m).name), \
		(m).name = (__typeof__(*(m).name)[]){__VA_ARGS__})

static void batch_corpus(void)
{
	Tidemark__Pages m;
	target_begin("batch");

	add_batch("zzzz", 16, &codec_lz4);
	save("zero");
	add_batch("tttttttttttttttttttt", 16, &codec_lz4);
	save("lz4");
	add_batch("r", 16, &codec_lz4);
	save("raw");
	add_batch("zt r  ttz t", 0, &codec_lz4);
	save("mixed");
	add_batch("t", UINT64_MAX / PAGE - 1, &codec_lz4);
	save("last-page");

	add_batch("tttt r zt", 16, &codec_zstd);
	save("zstd");
	add_batch("tt", 1, &codec_zstd);
	memset(input + input_bytes - 8, 0xff, 8);
	save("zstd-damaged");
	/* One byte that is repeated, in a window of terabytes. */
	m = no_pages;
	LIST(m, run_gap_pages, 1);
	LIST(m, run_pages, 1);
	LIST(m, block_codec, CODEC_ZSTD);
	LIST(m, block_pages, 1);
	LIST(m, block_bytes, 6);
	add_batch_head(&m, 6);
	static const uint8_t tail[] = {0x00, 0xff, 0x03, 0x80, 0x00, 'x'};
	memcpy(input + input_bytes - sizeof(tail), tail, sizeof(tail));
	save("zstd-window");

	/* What changed since it was zero. */
	add_delta_batch("tttt r tt");
	save("delta");
	add_delta_batch("tt");
	input[input_bytes - 9] ^= 1;
	save("delta-damaged");

	/* 40 is pages of 4 KiB in a stream without LZ4. */
	add_batch("tt", 1, &codec_lz4);
	input[0] = 40;
	save("codec-not-announced");

	/* What LZ4 must refuse: a match before the start, a length beyond the end. */
	add_batch("tt", 1, &codec_lz4);
	memset(input + input_bytes - 8, 0xff, 8);
	save("lz4-damaged");
	m = no_pages;
	LIST(m, run_gap_pages, 1);
	LIST(m, run_pages, 1);
	LIST(m, block_codec, CODEC_LZ4);
	LIST(m, block_pages, 1);
	LIST(m, block_bytes, 4);
	add_batch_head(&m, 4);
	le32_put(input + input_bytes - 4, 0xff00010f);
	save("lz4-before-start");

	add_batch_head(&no_pages, 0);
	save("nothing");

	m = no_pages;
	LIST(m, run_gap_pages, 1, 2);
	LIST(m, run_pages, 1);
	add_batch_head(&m, 0);
	save("gaps-without-runs");

	m = no_pages;
	LIST(m, run_gap_pages, UINT64_MAX);
	LIST(m, run_pages, 2);
	add_batch_head(&m, 0);
	save("run-wraps");

	m = no_pages;
	LIST(m, run_gap_pages, 0);
	LIST(m, run_pages, UINT64_MAX);
	add_batch_head(&m, 0);
	save("run-of-all");

	m = no_pages;
	LIST(m, run_gap_pages, 3, 0);
	LIST(m, run_pages, 1, 1);
	add_batch_head(&m, 0);
	save("runs-touch");

	m = no_pages;
	LIST(m, run_gap_pages, 3);
	LIST(m, run_pages, 2);
	LIST(m, block_codec, CODEC_ZERO, CODEC_ZERO, CODEC_ZERO);
	LIST(m, block_pages, 1, 1, UINT32_MAX);
	LIST(m, block_bytes, 0, 0, 0);
	add_batch_head(&m, 0);
	save("blocks-wrap");

	m = no_pages;
	LIST(m, run_gap_pages, 3);
	LIST(m, run_pages, 1);
	LIST(m, block_codec, CODEC_RAW);
	LIST(m, block_pages, 1);
	LIST(m, block_bytes, PAGE);
	add_batch_head(&m, 100);
	save("block-beyond-payload");

	m = no_pages;
	LIST(m, run_gap_pages, 3);
	LIST(m, run_pages, 1);
	LIST(m, block_codec, 77);
	LIST(m, block_pages, 1);
	LIST(m, block_bytes, 1);
	add_batch_head(&m, 1);
	save("codec-unknown");

	/* A field of a later version, and one of a wire type that there is not. */
	add_batch_parts(0,
		(const uint8_t *)"\x1a\x01\x04\x22\x01\x01\x2a\x01\x01\x32\x01\x01"
				 "\x3a\x01\x00\x9a\x06\x03 !!",
		21, pages, 0);
	save("field-unknown");
	add_batch_parts(1, (const uint8_t *)"\x1f\x01", 2, pages, 0);
	save("wire-type-unknown");
	for (size_t i = 0; i < 4000; i += 2)
		le16_put(pages + i, 0x0118);
	add_batch_parts(0, pages, 4000, pages, 0);
	save("not-packed");
}

/* --- message: type, then heads behind their lengths --------------------------------------- */

static struct frame_buffer encoded;

/* The head of what was encoded. */
static void add_head(int r)
{
	uint8_t length[2];
	if (r < 0)
		abort();
	size_t bytes = encoded.bytes - FRAME_HEADER_BYTES;
	le16_put(length, (uint16_t)bytes);
	add(length, 2);
	add(encoded.data + FRAME_HEADER_BYTES, bytes);
}

/* A message of one head, under its name. */
static void save_message(enum frame_type type, int r, const char *name)
{
	add_byte((uint8_t)type);
	add_head(r);
	save(name);
}

static void session_messages(void)
{
	struct hello hello = {
		.version_min = 1,
		.version_max = 1,
		.features = FEATURES_KNOWN,
		.architecture = "x86_64",
		.byte_order = "little",
		.page_bytes = PAGE,
		.limits = {FRAME_HEAD_MAX, FRAME_PAYLOAD_MAX},
		.nonce = {1, 2, 3},
		.software = "tidemark 0.1.0",
		.wants_auth = true,
	};
	save_message(FRAME_HELLO, hello_encode(&hello, &encoded), "hello");
	struct auth auth = {.proof = {4, 5, 6}};
	save_message(FRAME_AUTH, auth_encode(&auth, &encoded), "auth");
	struct open_request open = {.session_id = {7}, .sink = SINK_IMAGE, .name = "image-1"};
	save_message(FRAME_OPEN, open_request_encode(&open, &encoded), "open");
	struct open_reply opened = {.session_id = {7}, .name = "image-1"};
	save_message(FRAME_OPENED, open_reply_encode(&opened, &encoded), "opened");
	struct error_message error = {.kind = TIDE_ERROR_FAILED, .text = "the disk is full"};
	save_message(FRAME_ERROR, error_message_encode(&error, &encoded), "error");
	struct round_ack ack = {.round = 3, .bytes = 1u << 30};
	save_message(FRAME_ACK, round_ack_encode(&ack, &encoded), "ack");
	struct committed committed = {.stream_id = {8}, .name = "image-1", .stored_bytes = 12345};
	save_message(FRAME_COMMITTED, committed_encode(&committed, &encoded), "committed");
	struct join_request join = {.session_id = {7}};
	save_message(FRAME_JOIN, join_request_encode(&join, &encoded), "join");
	struct join_reply joined = {.session_id = {7}};
	save_message(FRAME_JOINED, join_reply_encode(&joined, &encoded), "joined");
}

static void stream_messages(void)
{
	struct stream_header stream = {
		.stream_id = {8},
		.base_id = {9},
		.architecture = "x86_64",
		.byte_order = "little",
		.page_bytes = PAGE,
		.features = FEATURE_LZ4,
		.created_realtime_ns = 1700000000000000000u,
		.software = "tidemark 0.1.0",
		.host = "host",
	};
	save_message(FRAME_STREAM, stream_header_encode(&stream, &encoded), "stream");
	struct process_info process = {
		.pid = 42,
		.start_time = 1000,
		.comm = "prog",
		.exe = "/usr/bin/prog",
		.command_line = "prog --option \xff",
		.boot_id = {1},
		.build_id = {2},
		.build_id_len = 20,
		.clocks = {1, 2, 3},
	};
	save_message(FRAME_PROCESS, process_info_encode(1, &process, &encoded), "process");
	struct round_header round = {.number = 2, .final = true};
	save_message(FRAME_ROUND, round_header_encode(1, &round, &encoded), "round");
	struct round_end end = {.number = 2, .pages = 300, .frames = 2};
	save_message(FRAME_ROUND_END, round_end_encode(1, &end, &encoded), "round-end");
	struct commit commit = {.stream_id = {8}, .rounds = 3, .held_pages = 300};
	save_message(FRAME_COMMIT, commit_encode(&commit, &encoded), "commit");
}

static void change_messages(void)
{
	struct page_run removed[] = {{16 * PAGE, 20 * PAGE}, {1u << 30, (1u << 30) + PAGE}};
	struct mapping added[] = {
		{.start = 16 * PAGE,
			.end = 18 * PAGE,
			.prot = 3,
			.kind = MAPPING_ANON,
			.name = "[heap]"},
		{.start = 32 * PAGE,
			.end = 40 * PAGE,
			.prot = 5,
			.kind = MAPPING_FILE_PRIVATE,
			.offset = PAGE,
			.dev_major = 8,
			.dev_minor = 1,
			.inode = 99,
			.file_size = 100000,
			.file_mtime_ns = 5,
			.name = "/usr/lib/libc.so.6"},
		{.start = 64 * PAGE,
			.end = 65 * PAGE,
			.prot = 3,
			.flags = MAPPING_SHARED,
			.kind = MAPPING_OBJECT,
			.object = 1,
			.name = "/memfd:x (deleted)"},
		{.start = 128 * PAGE,
			.end = 129 * PAGE,
			.prot = 1,
			.kind = MAPPING_OPAQUE,
			.name = "[vvar]",
			.why = "the kernel writes it"},
	};
	struct mappings_message mappings = {
		.round = 2,
		.diff = {.removed = {removed, 2, 2}, .added = {added, 4, 4}},
	};
	struct mappings_cursor cursor = {0};
	save_message(FRAME_MAPPINGS, mappings_encode(1, &mappings, &cursor, &encoded), "mappings");

	struct page_drop drops[] = {
		{SPACE_PRIVATE, {PAGE, 3 * PAGE}, DROP_GONE},
		{SPACE_PRIVATE, {3 * PAGE, 4 * PAGE}, DROP_BACK_TO_FILE},
		{1, {0, PAGE}, DROP_GONE},
	};
	struct drops_message message = {.round = 2, .drops = drops, .ndrops = 3};
	size_t at = 0;
	save_message(FRAME_DROPS, drops_encode(1, &message, &at, &encoded), "drops");
}

static void state_messages(void)
{
	static uint8_t registers[832];
	for (size_t i = 0; i < sizeof(registers); i++)
		registers[i] = (uint8_t)i;
	struct state_regset sets[] = {
		{.note_type = 1, .size_bytes = 216, .data = registers},
		{.note_type = 2, .size_bytes = 512, .data = registers},
		{.note_type = 0x202, .size_bytes = 832, .data = registers},
	};
	struct state_thread threads[] = {
		{.tid = 42,
			.name = "leader",
			.signal_mask = 0x10000,
			.regsets = sets,
			.nregsets = 3},
		{.tid = 43, .name = "worker", .pending_signal = 10, .regsets = sets, .nregsets = 2},
	};
	struct process_state s = {
		.version = STATE_VERSION,
		.clocks = {1, 2, 3},
		.ppid = 1,
		.pgrp = 42,
		.sid = 42,
		.state = 'S',
		.nice = -5,
		.auxv = registers,
		.auxv_bytes = 320,
		.threads = threads,
		.nthreads = 2,
	};
	size_t at = 0;
	save_message(FRAME_STATE, state_encode(1, &s, &at, &encoded), "state");

	/* The same head twice: the second says that nothing came before it. */
	at = 0;
	add_byte(FRAME_STATE);
	add_head(state_encode(1, &s, &at, &encoded));
	at = 0;
	add_head(state_encode(1, &s, &at, &encoded));
	save("state-twice");
}

static void message_corpus(void)
{
	target_begin("message");
	session_messages();
	stream_messages();
	change_messages();
	state_messages();
	frame_buffer_release(&encoded);
}

/* --- session: options, frames; image: options, the file ----------------------------------- */

#define SPACE_AT UINT64_C(0x10000000)

static void add_encoded(int r)
{
	if (r < 0)
		abort();
	add(encoded.data, encoded.bytes);
}

static uint64_t stream_features = FEATURE_LZ4;
static bool stream_deltas; /* of pages that were zero, whatever they were */

static void add_stream_begin(void)
{
	struct stream_header header = {
		.stream_id = {1, 2, 3},
		.architecture = "x86_64",
		.byte_order = "little",
		.page_bytes = PAGE,
		.features = stream_features,
		.software = "corpus",
		.host = "here",
	};
	static const struct process_info info = {
		.pid = 42, .comm = "c", .exe = "/bin/c", .command_line = "c -x"};
	add_encoded(stream_header_encode(&header, &encoded));
	add_encoded(process_info_encode(1, &info, &encoded));
}

/* Two mappings: private memory of 64 pages, and object 5 behind it. */
static void add_stream_mappings(void)
{
	static char heap[] = "[heap]", memfd[] = "/memfd:x";
	struct mapping v[2] = {
		{.start = SPACE_AT,
			.end = SPACE_AT + 64 * PAGE,
			.prot = 3,
			.kind = MAPPING_ANON,
			.name = heap},
		{.start = SPACE_AT + 64 * PAGE,
			.end = SPACE_AT + 80 * PAGE,
			.prot = 3,
			.flags = MAPPING_SHARED,
			.kind = MAPPING_OBJECT,
			.object = 5,
			.name = memfd},
	};
	struct mappings_message m = {.diff.added = {.v = v, .len = 2}};
	struct mappings_cursor at = {0};
	add_encoded(mappings_encode(1, &m, &at, &encoded));
}

static void add_stream_drop(uint64_t round, uint64_t page, uint64_t n)
{
	struct page_drop drop = {
		.run = {SPACE_AT + page * PAGE, SPACE_AT + (page + n) * PAGE}, .kind = DROP_GONE};
	struct drops_message m = {.round = round, .drops = &drop, .ndrops = 1};
	size_t at = 0;
	add_encoded(drops_encode(1, &m, &at, &encoded));
}

static void fill_speck(uint8_t *page)
{
	memset(page, 0, PAGE);
	static const char text[] = {'s', 'o', 'm', 'e', ' ', 't', 'e', 'x', 't'};
	memcpy(page + 100, text, sizeof(text));
}

/* Pages [page, page + n) of the space, every other one zero. */
static void add_stream_pages(uint64_t round, space_id space, uint64_t page, uint32_t n)
{
	uint64_t start = (space ? 0 : SPACE_AT) + page * PAGE;
	struct batch b = {.round = round,
		.space = space,
		.page_bytes = PAGE,
		.nruns = 1,
		.runs = {{start, start + (uint64_t)n * PAGE}}};
	struct batch_stats stats = {0};
	static const uint8_t zero[PAGE];
	memset(pages, 0, sizeof(pages));
	for (uint32_t i = 0; i < n; i += 2)
		fill_speck(pages + (size_t)i * PAGE);
	for (uint32_t i = 0; i < n; i++)
		former[i] = stream_deltas && round && i < 4 ? zero : NULL;
	add_encoded(batch_encode(1, &b, pages,
		&(struct batch_encoding){.codec = codec_by_name("lz4"), .former = former}, &encoded,
		&stats));
}

static void add_stream_end(uint64_t rounds, uint64_t held_pages)
{
	uint8_t registers[32] = {1};
	struct state_regset set = {
		.note_type = 1, .size_bytes = sizeof(registers), .data = registers};
	struct state_thread thread = {.tid = 42, .name = "c", .regsets = &set, .nregsets = 1};
	struct process_state state = {
		.version = STATE_VERSION, .state = 'S', .threads = &thread, .nthreads = 1};
	struct commit commit = {.stream_id = {1, 2, 3}, .rounds = rounds, .held_pages = held_pages};
	size_t at = 0;
	add_encoded(state_encode(1, &state, &at, &encoded));
	add_encoded(commit_encode(&commit, &encoded));
}

/* The second round supersedes all pages of one frame of the first, some of another, drops more. */
static void add_stream(void)
{
	struct round_header round = {.number = 0};
	struct round_end end = {.number = 0, .pages = 36, .frames = 3};
	add_stream_begin();
	add_encoded(round_header_encode(1, &round, &encoded));
	add_stream_mappings();
	add_stream_pages(0, SPACE_PRIVATE, 0, 4);
	add_stream_pages(0, SPACE_PRIVATE, 8, 24);
	add_stream_pages(0, 5, 2, 8);
	add_encoded(round_end_encode(1, &end, &encoded));

	round = (struct round_header){.number = 1, .final = true};
	end = (struct round_end){.number = 1, .pages = 6, .frames = 1};
	add_encoded(round_header_encode(1, &round, &encoded));
	add_stream_drop(1, 20, 6);
	add_stream_pages(1, SPACE_PRIVATE, 0, 6);
	add_encoded(round_end_encode(1, &end, &encoded));
	add_stream_end(2, 6 + 18 + 8);
}

/* The image of the stream that was added last, in the place of it. */
static void store_added(void)
{
	char path[4096], name[] = "/tmp/make-corpus-XXXXXX";
	struct tide_error err;
	struct store *store;
	struct session *session;
	struct session_options options = {.from_file = true};
	struct open_request request = {.session_id = {1}, .sink = SINK_IMAGE, .name = "x"};
	FILE *f = tmpfile();
	if (!mkdtemp(name) || !f || fwrite(input, 1, input_bytes, f) != input_bytes ||
		fseek(f, 0, SEEK_SET) < 0 || store_open(name, STORE_WRITE, &store, &err) < 0)
		abort();
	options.store = store;
	if (session_new(&options, &session, &err) < 0 ||
		session_open(session, &request, &err) < 0 ||
		session_run_file(session, fileno(f), "the stream", &err) < 0) {
		fprintf(stderr, "make_corpus: %s\n", err.text);
		exit(1);
	}
	fclose(f);
	session_free(session);
	store_close(store);

	snprintf(path, sizeof(path), "%s/x.tide", name);
	f = fopen(path, "rb");
	input_bytes = f ? fread(input, 1, sizeof(input), f) : 0;
	if (input_bytes == 0)
		abort();
	fclose(f);
	unlink(path);
	snprintf(path, sizeof(path), "%s/.secret", name);
	unlink(path);
	snprintf(path, sizeof(path), "%s/.tidemark", name);
	unlink(path);
	rmdir(name);
}

/* What was added, behind a byte of options in the place of its first `skip` bytes. */
static void save_with_options(uint8_t options, size_t skip, const char *name)
{
	memmove(input + 1, input + skip, input_bytes - skip);
	input[0] = options;
	input_bytes = input_bytes - skip + 1;
	save(name);
}

static void session_corpus(void)
{
	target_begin("session");
	add_stream();
	save_with_options(0, 0, "stream");
	add_stream();
	save_with_options(1, 0, "recording");
	add_preamble();
	add_stream();
	store_added();
	save_with_options(1, PREAMBLE_BYTES, "image");
	add_stream_begin();
	save_with_options(0, 0, "begin");
	stream_features = FEATURE_LZ4 | FEATURE_DELTA;
	stream_deltas = true;
	add_stream();
	save_with_options(0, 0, "delta");
	add_stream();
	save_with_options(1, 0, "delta-recorded");
	stream_deltas = false;
	stream_features = FEATURE_ZSTD;
	add_stream();
	save_with_options(0, 0, "codec-not-announced");
	stream_features = FEATURE_LZ4;
}

static void image_corpus(void)
{
	target_begin("image");
	for (uint8_t mend = 0; mend < 2; mend++) {
		add_preamble();
		add_stream();
		store_added();
		save_with_options(mend, 0, mend ? "mended" : "image");
	}
	add_preamble();
	add_stream();
	save_with_options(0, 0, "recording");
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: make_corpus FOLDER\n");
		return 2;
	}
	folder = argv[1];
	frame_corpus();
	batch_corpus();
	message_corpus();
	session_corpus();
	image_corpus();
	frame_buffer_release(&encoded);
	return 0;
}
