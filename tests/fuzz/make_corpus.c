/* SPDX-License-Identifier: MIT */
/*
 * Writes the inputs that fuzzing starts from, by the encoders themselves: `make_corpus FOLDER`
 * fills FOLDER/frame, FOLDER/batch and FOLDER/message. What a fuzzer found is added to those
 * folders by hand, under a name that says what it showed, and is left alone here.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
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
	if (batch_encode(1, b, pages, codec, &buffer, &stats) < 0 ||
		frame_decode(buffer.data, buffer.data + FRAME_HEADER_BYTES, &f, NULL) < 0)
		abort();
	add_batch_parts(0, f.head, f.head_bytes, f.payload, f.payload_bytes);
	frame_buffer_release(&buffer);
	free(b);
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
	return 0;
}
