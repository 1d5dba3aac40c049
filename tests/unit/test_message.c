/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "proto/message.h"
#include "tests/harness.h"

#define PAGE 4096ull
#define LAST_PLACE (UINT64_MAX - PAGE + 1) /* the last multiple of a page */

static struct frame_buffer buffer, again;
static struct tide_error err;
static uint8_t *head;
static size_t head_bytes, head_cap;
static struct mapping_diff diff;
static struct mapping_table table, table_got;
static struct mappings_message mappings;
static struct drops_message drops;
static struct process_state state, state_got;
static struct process_info *info;
static FILE *file;

static void setup(void)
{
	buffer = again = (struct frame_buffer){0};
	err = (struct tide_error){0};
	head = NULL;
	head_bytes = head_cap = 0;
	diff = (struct mapping_diff){0};
	table = table_got = (struct mapping_table){0};
	mappings = (struct mappings_message){0};
	drops = (struct drops_message){0};
	state = state_got = (struct process_state){0};
	info = NULL;
	file = NULL;
}

static void teardown(void)
{
	frame_buffer_release(&buffer);
	frame_buffer_release(&again);
	free(head);
	mapping_diff_release(&diff);
	mapping_table_release(&table);
	mapping_table_release(&table_got);
	mappings_release(&mappings);
	drops_release(&drops);
	process_state_release(&state);
	process_state_release(&state_got);
	free(info);
	if (file)
		fclose(file);
}

/* --- help --------------------------------------------------------------------------------- */

/* The frame in a buffer, with its checksum checked. */
static struct frame frame_in(const struct frame_buffer *b)
{
	struct frame f;
	CU_ASSERT_FATAL(b->bytes >= FRAME_HEADER_BYTES);
	CU_ASSERT_EQUAL_FATAL(frame_decode(b->data, b->data + FRAME_HEADER_BYTES, &f, &err), 0);
	CU_ASSERT_EQUAL(b->bytes, FRAME_HEADER_BYTES + f.head_bytes + f.payload_bytes);
	return f;
}

/*
 * A writer of heads that shares nothing with the one under test, for what that one would refuse to
 * write.
 */
static void put(const void *data, size_t bytes)
{
	if (head_bytes + bytes > head_cap) {
		head_cap = 2 * (head_bytes + bytes);
		uint8_t *larger = realloc(head, head_cap);
		CU_ASSERT_PTR_NOT_NULL_FATAL(larger);
		head = larger;
	}
	memcpy(head + head_bytes, data, bytes);
	head_bytes += bytes;
}

static void put_varint(uint64_t v)
{
	uint8_t byte;
	for (; v >= 0x80; v >>= 7) {
		byte = (uint8_t)(v | 0x80);
		put(&byte, 1);
	}
	byte = (uint8_t)v;
	put(&byte, 1);
}

static void put_uint(unsigned field, uint64_t v)
{
	put_varint(field << 3);
	put_varint(v);
}

static void put_bytes(unsigned field, const void *data, size_t bytes)
{
	put_varint(field << 3 | 2);
	put_varint(bytes);
	put(data, bytes);
}

static void put_text(unsigned field, const char *text)
{
	put_bytes(field, text, strlen(text));
}

/* As many bytes of `fill`. */
static void put_filled(unsigned field, int fill, size_t bytes)
{
	put_varint(field << 3 | 2);
	put_varint(bytes);
	for (size_t i = 0; i < bytes; i++)
		put(&(uint8_t){(uint8_t)fill}, 1);
}

/* A packed list. The numbers stay below 128. */
static void put_list(unsigned field, size_t n, const uint8_t *numbers)
{
	put_bytes(field, numbers, n);
}
#define PUT_LIST(field, ...) \
	put_list(field, sizeof((uint8_t[]){__VA_ARGS__}), (uint8_t[]){__VA_ARGS__})

static struct frame frame_of(enum frame_type type)
{
	bool of_process = type >= FRAME_PROCESS && type <= FRAME_STATE;
	return (struct frame){.type = type,
		.flags = FRAME_CRITICAL,
		.process = of_process ? 1 : 0,
		.head = head,
		.head_bytes = (uint32_t)head_bytes};
}

static uint8_t id[ID_BYTES] = "stream id, 16 b", other_id[ID_BYTES] = "another stream";
static const uint8_t zero_id[ID_BYTES];

/* --- one of each -------------------------------------------------------------------------- */

static struct hello some_hello(void)
{
	struct hello m = {
		.version_min = 1,
		.version_max = 3,
		.features = 1ull << 63 | 1,
		.architecture = "x86_64",
		.byte_order = "little",
		.page_bytes = 4096,
		.limits = {1 << 20, 4 << 20},
		.software = "tidemark 0.1.0",
		.wants_auth = true,
	};
	memset(m.nonce, 0x5a, sizeof(m.nonce));
	return m;
}

static struct auth some_auth(void)
{
	struct auth m;
	memset(m.proof, 0xa5, sizeof(m.proof));
	return m;
}

static struct open_request some_open_request(void)
{
	struct open_request m = {.sink = SINK_SNAPSHOT, .name = "redis-1.2_x"};
	memcpy(m.session_id, id, ID_BYTES);
	memcpy(m.base_id, other_id, ID_BYTES);
	return m;
}

static struct open_reply some_open_reply(void)
{
	struct open_reply m = {.name = "redis"};
	memcpy(m.session_id, id, ID_BYTES);
	return m;
}

static struct join_request some_join_request(void)
{
	struct join_request m;
	memcpy(m.session_id, id, ID_BYTES);
	return m;
}

static struct join_reply some_join_reply(void)
{
	struct join_reply m;
	memcpy(m.session_id, id, ID_BYTES);
	return m;
}

static struct error_message some_error_message(void)
{
	return (struct error_message){
		.kind = TIDE_ERROR_TARGET_GONE, .text = "no space left on the agent"};
}

static struct round_ack some_round_ack(void)
{
	return (struct round_ack){.round = 7, .bytes = UINT64_MAX};
}

static struct committed some_committed(void)
{
	struct committed m = {.name = "redis", .stored_bytes = 1ull << 40};
	memcpy(m.stream_id, id, ID_BYTES);
	return m;
}

static struct stream_header some_stream_header(void)
{
	struct stream_header m = {
		.architecture = "aarch64",
		.byte_order = "big",
		.page_bytes = 65536,
		.features = FEATURE_LZ4,
		.created_realtime_ns = 1234567890123456789ull,
		.software = "tidemark 0.1.0",
		.host = "source.example",
	};
	memcpy(m.stream_id, id, ID_BYTES);
	memcpy(m.base_id, other_id, ID_BYTES);
	return m;
}

static struct commit some_commit(void)
{
	struct commit m = {.rounds = 3, .held_pages = 123456};
	memcpy(m.stream_id, id, ID_BYTES);
	return m;
}

static struct process_info some_process_info(void)
{
	struct process_info m = {
		.pid = INT32_MAX,
		.start_time = 1ull << 40,
		.uid = UINT32_MAX,
		.gid = 1000,
		.comm = "a\nb",
		.exe = "/usr/bin/\xff\x01",
		.command_line = "redis-server *:6379",
		.build_id_len = 20,
		.clocks = {1, 2, 3},
	};
	memset(m.boot_id, 0xb0, sizeof(m.boot_id));
	memset(m.build_id, 0xbd, m.build_id_len);
	return m;
}

static void add_mapping(struct mapping_table *t, struct mapping m)
{
	m.name = strdup(m.name ? m.name : "");
	m.why = m.why ? strdup(m.why) : NULL;
	CU_ASSERT_EQUAL_FATAL(mapping_table_append(t, &m), 0);
}

static void fill_mapping_diff(void)
{
	pageset_add(&diff.removed, (struct page_run){0, 16 * PAGE});
	pageset_add(&diff.removed, (struct page_run){20 * PAGE, 21 * PAGE});
	pageset_add(&diff.removed, (struct page_run){ADDRESS_END - PAGE, ADDRESS_END});
	pageset_add(&diff.removed, (struct page_run){LAST_PLACE - 8 * PAGE, LAST_PLACE});

	add_mapping(&diff.added, (struct mapping){.start = 0,
					 .end = PAGE,
					 .prot = 7,
					 .kind = MAPPING_FILE_PRIVATE,
					 .offset = 5 * PAGE,
					 .dev_major = 8,
					 .dev_minor = 1,
					 .inode = UINT64_MAX,
					 .file_size = 77,
					 .file_mtime_ns = 88,
					 .name = "/lib/x\n(deleted)"});
	add_mapping(&diff.added,
		(struct mapping){
			.start = PAGE, .end = 9 * PAGE, .kind = MAPPING_ANON, .name = "[heap]"});
	add_mapping(&diff.added, (struct mapping){.start = 16 * PAGE,
					 .end = 17 * PAGE,
					 .prot = 3,
					 .flags = MAPPING_SHARED,
					 .kind = MAPPING_OBJECT,
					 .object = 3,
					 .offset = OFFSET_END - PAGE});
	add_mapping(&diff.added, (struct mapping){.start = ADDRESS_END - PAGE,
					 .end = ADDRESS_END,
					 .kind = MAPPING_ANON,
					 .flags = MAPPING_GROWSDOWN | MAPPING_HUGETLB});
	add_mapping(&diff.added, (struct mapping){.start = 0xffffffffff600000,
					 .end = 0xffffffffff601000,
					 .prot = 4,
					 .kind = MAPPING_OPAQUE,
					 .offset = LAST_PLACE,
					 .name = "[vsyscall]",
					 .why = "the kernel's"});
}

static struct page_drop some_drops[] = {
	{SPACE_PRIVATE, {0, PAGE}, DROP_GONE},
	{SPACE_PRIVATE, {PAGE, 2 * PAGE}, DROP_BACK_TO_FILE},
	{SPACE_PRIVATE, {7 * PAGE, 300 * PAGE}, DROP_BACK_TO_FILE},
	{SPACE_PRIVATE, {ADDRESS_END - PAGE, ADDRESS_END}, DROP_GONE},
	{3, {0, PAGE}, DROP_GONE},
	{UINT64_MAX, {5 * PAGE, OFFSET_END}, DROP_GONE},
};

static struct state_regset *new_regsets(size_t n, uint32_t size_bytes)
{
	struct state_regset *sets = calloc(n, sizeof(*sets));
	for (size_t i = 0; i < n; i++) {
		sets[i] = (struct state_regset){
			.note_type = (uint32_t)(i + 1),
			.size_bytes = size_bytes,
			.data = malloc(size_bytes),
		};
		memset(sets[i].data, (int)i, size_bytes);
	}
	return sets;
}

static void fill_state(size_t nthreads, size_t nregsets, uint32_t regset_bytes)
{
	state = (struct process_state){
		.version = STATE_VERSION,
		.clocks = {11, 22, 33},
		.ppid = 1,
		.pgrp = 44,
		.sid = INT32_MAX,
		.state = 'S',
		.nice = -20,
		.auxv = malloc(336),
		.auxv_bytes = 336,
		.threads = calloc(nthreads, sizeof(*state.threads)),
		.nthreads = nthreads,
	};
	memset(state.auxv, 6, state.auxv_bytes);
	for (size_t i = 0; i < nthreads; i++) {
		state.threads[i] = (struct state_thread){
			.tid = (int32_t)(i + 1),
			.name = "worker \n 15char",
			.signal_mask = UINT64_MAX - i,
			.pending_signal = (int32_t)(i % 65),
			.regsets = new_regsets(nregsets, regset_bytes),
			.nregsets = nregsets,
		};
	}
}

/* --- what holds for each message ---------------------------------------------------------- */

/*
 * Decodes; what the decoder takes, the encoder must make again, and the same once more. A decoder's
 * result goes to the caller.
 */
#define REVISIT_PLAIN(message, ...)                                                  \
	static int message##_revisit(const struct frame *f)                          \
	{                                                                            \
		struct message m, m2;                                                \
		int r = message##_decode(f, &m, &err);                               \
		if (r < 0)                                                           \
			return r;                                                    \
		CU_ASSERT_EQUAL_FATAL(message##_encode(__VA_ARGS__ &m, &buffer), 0); \
		struct frame f2 = frame_in(&buffer);                                 \
		CU_ASSERT_EQUAL_FATAL(message##_decode(&f2, &m2, &err), 0);          \
		CU_ASSERT_EQUAL_FATAL(message##_encode(__VA_ARGS__ &m2, &again), 0); \
		CU_ASSERT_EQUAL_FATAL(buffer.bytes, again.bytes);                    \
		CU_ASSERT_EQUAL(memcmp(buffer.data, again.data, again.bytes), 0);    \
		return 0;                                                            \
	}
#define PROCESS_NUMBER f->process,
REVISIT_PLAIN(hello)
REVISIT_PLAIN(auth)
REVISIT_PLAIN(open_request)
REVISIT_PLAIN(open_reply)
REVISIT_PLAIN(join_request)
REVISIT_PLAIN(join_reply)
REVISIT_PLAIN(error_message)
REVISIT_PLAIN(round_ack)
REVISIT_PLAIN(committed)
REVISIT_PLAIN(stream_header)
REVISIT_PLAIN(commit)
REVISIT_PLAIN(round_header, PROCESS_NUMBER)
REVISIT_PLAIN(round_end, PROCESS_NUMBER)

static int process_info_revisit(const struct frame *f)
{
	free(take(info));
	int r = process_info_decode(f, &info, &err);
	if (r < 0)
		return r;
	CU_ASSERT_EQUAL_FATAL(process_info_encode(f->process, info, &buffer), 0);
	free(take(info));
	struct frame f2 = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(process_info_decode(&f2, &info, &err), 0);
	CU_ASSERT_EQUAL_FATAL(process_info_encode(f->process, info, &again), 0);
	CU_ASSERT_EQUAL_FATAL(buffer.bytes, again.bytes);
	CU_ASSERT_EQUAL(memcmp(buffer.data, again.data, again.bytes), 0);
	return 0;
}

static int mappings_revisit(const struct frame *f)
{
	mappings_release(&mappings);
	int r = mappings_decode(f, &mappings, &err);
	if (r < 0)
		return r;
	struct mappings_cursor at = {0};
	do {
		CU_ASSERT_EQUAL_FATAL(mappings_encode(f->process, &mappings, &at, &buffer), 0);
		struct frame f2 = frame_in(&buffer);
		struct mappings_message got;
		CU_ASSERT_EQUAL_FATAL(mappings_decode(&f2, &got, &err), 0);
		mappings_release(&got);
	} while (at.removed < mappings.diff.removed.len || at.added < mappings.diff.added.len);
	return 0;
}

static int drops_revisit(const struct frame *f)
{
	drops_release(&drops);
	int r = drops_decode(f, &drops, &err);
	if (r < 0)
		return r;
	size_t at = 0;
	do {
		CU_ASSERT_EQUAL_FATAL(drops_encode(f->process, &drops, &at, &buffer), 0);
		struct frame f2 = frame_in(&buffer);
		struct drops_message got;
		CU_ASSERT_EQUAL_FATAL(drops_decode(&f2, &got, &err), 0);
		drops_release(&got);
	} while (at < drops.ndrops);
	return 0;
}

static int state_revisit(const struct frame *f)
{
	process_state_release(&state_got);
	int r = state_decode(f, &state_got, &err);
	if (r < 0)
		return r;
	size_t at = 0;
	do {
		CU_ASSERT_EQUAL_FATAL(state_encode(f->process, &state_got, &at, &buffer), 0);
	} while (at < state_got.nthreads);
	return 0;
}

static const struct revisit {
	enum frame_type type;
	int (*fn)(const struct frame *f);
} revisits[] = {
	{FRAME_HELLO, hello_revisit},
	{FRAME_AUTH, auth_revisit},
	{FRAME_OPEN, open_request_revisit},
	{FRAME_OPENED, open_reply_revisit},
	{FRAME_JOIN, join_request_revisit},
	{FRAME_JOINED, join_reply_revisit},
	{FRAME_ERROR, error_message_revisit},
	{FRAME_ACK, round_ack_revisit},
	{FRAME_COMMITTED, committed_revisit},
	{FRAME_STREAM, stream_header_revisit},
	{FRAME_COMMIT, commit_revisit},
	{FRAME_PROCESS, process_info_revisit},
	{FRAME_ROUND, round_header_revisit},
	{FRAME_MAPPINGS, mappings_revisit},
	{FRAME_DROPS, drops_revisit},
	{FRAME_ROUND_END, round_end_revisit},
	{FRAME_STATE, state_revisit},
};
#define NREVISITS (sizeof(revisits) / sizeof(revisits[0]))

/* Encodes the sample of this type into `buffer`. */
static void encode_sample(enum frame_type type)
{
	struct hello hello = some_hello();
	struct auth auth = some_auth();
	struct open_request open_request = some_open_request();
	struct open_reply open_reply = some_open_reply();
	struct join_request join_request = some_join_request();
	struct join_reply join_reply = some_join_reply();
	struct error_message error_message = some_error_message();
	struct round_ack round_ack = some_round_ack();
	struct committed committed = some_committed();
	struct stream_header stream_header = some_stream_header();
	struct commit commit = some_commit();
	struct process_info process_info = some_process_info();
	struct mappings_cursor at = {0};
	size_t first = 0;
	int r = -EINVAL;

	switch (type) {
	case FRAME_HELLO:
		r = hello_encode(&hello, &buffer);
		break;
	case FRAME_AUTH:
		r = auth_encode(&auth, &buffer);
		break;
	case FRAME_OPEN:
		r = open_request_encode(&open_request, &buffer);
		break;
	case FRAME_OPENED:
		r = open_reply_encode(&open_reply, &buffer);
		break;
	case FRAME_JOIN:
		r = join_request_encode(&join_request, &buffer);
		break;
	case FRAME_JOINED:
		r = join_reply_encode(&join_reply, &buffer);
		break;
	case FRAME_ERROR:
		r = error_message_encode(&error_message, &buffer);
		break;
	case FRAME_ACK:
		r = round_ack_encode(&round_ack, &buffer);
		break;
	case FRAME_COMMITTED:
		r = committed_encode(&committed, &buffer);
		break;
	case FRAME_STREAM:
		r = stream_header_encode(&stream_header, &buffer);
		break;
	case FRAME_COMMIT:
		r = commit_encode(&commit, &buffer);
		break;
	case FRAME_PROCESS:
		r = process_info_encode(1, &process_info, &buffer);
		break;
	case FRAME_ROUND:
		r = round_header_encode(
			1, &(struct round_header){.number = 5, .final = true}, &buffer);
		break;
	case FRAME_MAPPINGS:
		mapping_diff_release(&diff);
		diff = (struct mapping_diff){0};
		fill_mapping_diff();
		r = mappings_encode(
			1, &(struct mappings_message){.round = 2, .diff = diff}, &at, &buffer);
		CU_ASSERT_EQUAL(at.removed, diff.removed.len);
		CU_ASSERT_EQUAL(at.added, diff.added.len);
		break;
	case FRAME_DROPS:
		r = drops_encode(1,
			&(struct drops_message){.round = 2, .drops = some_drops, .ndrops = 6},
			&first, &buffer);
		break;
	case FRAME_ROUND_END:
		r = round_end_encode(
			1, &(struct round_end){.number = 5, .pages = 300, .frames = 2}, &buffer);
		break;
	case FRAME_STATE:
		process_state_release(&state);
		fill_state(3, 2, 100);
		r = state_encode(1, &state, &first, &buffer);
		break;
	default:
		break;
	}
	CU_ASSERT_EQUAL_FATAL(r, 0);
}

/* The sample's head in `head`, where it may be meddled with. */
static struct frame sample(enum frame_type type)
{
	encode_sample(type);
	struct frame f = frame_in(&buffer);
	head_bytes = 0;
	put(f.head, f.head_bytes);
	f.head = head;
	return f;
}

static void test_the_frame_carries_type_process_and_flags(void)
{
	for (size_t i = 0; i < NREVISITS; i++) {
		struct frame f = sample(revisits[i].type);
		CU_ASSERT_EQUAL(f.type, revisits[i].type);
		CU_ASSERT_EQUAL(f.flags, FRAME_CRITICAL);
		CU_ASSERT_EQUAL(f.process, frame_of(revisits[i].type).process);
		CU_ASSERT_EQUAL(revisits[i].fn(&f), 0);
	}
}

static void test_another_type_payload_or_process_is_refused(void)
{
	for (size_t i = 0; i < NREVISITS; i++) {
		struct frame good = sample(revisits[i].type);

		struct frame f = good;
		f.type = f.type == FRAME_HELLO ? FRAME_AUTH : FRAME_HELLO;
		CU_ASSERT_EQUAL(revisits[i].fn(&f), -EBADMSG);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, " where "));
		f = good;
		f.payload = (const uint8_t *)"x";
		f.payload_bytes = 1;
		CU_ASSERT_EQUAL(revisits[i].fn(&f), -EBADMSG);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "with a payload"));
		f = good;
		f.process = !f.process;
		CU_ASSERT_EQUAL(revisits[i].fn(&f), -EBADMSG);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "process"));
	}
}

static void test_unknown_fields_are_passed_over(void)
{
	for (size_t i = 0; i < NREVISITS; i++) {
		struct frame f = sample(revisits[i].type);
		put_uint(1000, 5);
		put_text(1001, "of a later version");
		f.head = head;
		f.head_bytes = (uint32_t)head_bytes;
		CU_ASSERT_EQUAL(revisits[i].fn(&f), 0);
	}
}

static void test_heads_that_are_cut_are_refused_or_make_sense(void)
{
	for (size_t i = 0; i < NREVISITS; i++) {
		struct frame whole = sample(revisits[i].type);
		for (uint32_t bytes = 0; bytes < whole.head_bytes; bytes++) {
			/* In memory of its own, so that a read behind the end shows. */
			struct frame f = whole;
			uint8_t *copy = malloc(bytes ? bytes : 1);
			memcpy(copy, head, bytes);
			f.head = copy;
			f.head_bytes = bytes;
			int r = revisits[i].fn(&f);
			free(copy);
			CU_ASSERT_TRUE(r == 0 || r == -EBADMSG);
		}
	}
}

static void test_heads_changed_at_random_are_refused_or_make_sense(void)
{
	unsigned seed = 42;
	size_t taken = 0, refused = 0;
	for (size_t i = 0; i < NREVISITS; i++) {
		for (int n = 0; n < 1000; n++) {
			struct frame f = sample(revisits[i].type);
			for (int changes = 1 + rand_r(&seed) % 3; changes > 0; changes--) {
				size_t at = (size_t)rand_r(&seed) % head_bytes;
				head[at] = rand_r(&seed) % 2 ? (uint8_t)rand_r(&seed)
							     : head[at] ^ 1u << rand_r(&seed) % 8;
			}
			f.head = head;
			int r = revisits[i].fn(&f);
			CU_ASSERT_TRUE(r == 0 || r == -EBADMSG);
			taken += r == 0;
			refused += r != 0;
		}
	}
	CU_ASSERT_TRUE(taken > 100 && refused > 100);
}

static void test_noise_is_refused(void)
{
	unsigned seed = 43;
	for (int n = 0; n < 2000; n++) {
		head_bytes = 0;
		for (int bytes = 1 + rand_r(&seed) % 200; bytes > 0; bytes--)
			put(&(uint8_t){(uint8_t)rand_r(&seed)}, 1);
		for (size_t i = 0; i < NREVISITS; i++) {
			struct frame f = frame_of(revisits[i].type);
			int r = revisits[i].fn(&f);
			CU_ASSERT_TRUE(r == 0 || r == -EBADMSG);
		}
	}
}

/* Many times larger in memory than on the wire: each of these must be refused by its cost. */
static void test_a_head_cannot_ask_for_memory_out_of_proportion(void)
{
	/* Empty mappings, empty threads, and numbers of a list that stand alone. */
	static const struct {
		enum frame_type type;
		uint8_t member[2];
	} bombs[] = {
		{FRAME_MAPPINGS, {4 << 3 | 2, 0}},
		{FRAME_STATE, {4 << 3 | 2, 0}},
		{FRAME_DROPS, {2 << 3, 1}},
		{FRAME_ROUND, {15 << 3, 1}},
		{FRAME_ROUND, {15 << 3 | 2, 0}},
	};
	for (size_t i = 0; i < sizeof(bombs) / sizeof(bombs[0]); i++) {
		head_bytes = 0;
		while (head_bytes < FRAME_HEAD_MAX)
			put(bombs[i].member, 2);
		struct frame f = frame_of(bombs[i].type);
		for (size_t k = 0; k < NREVISITS; k++) {
			if (revisits[k].type == bombs[i].type)
				CU_ASSERT_EQUAL(revisits[k].fn(&f), -EBADMSG);
		}
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "bytes of memory"));
	}
}

/* --- HELLO, AUTH -------------------------------------------------------------------------- */

static void test_hello(void)
{
	struct hello want = some_hello(), got;
	CU_ASSERT_EQUAL_FATAL(hello_encode(&want, &buffer), 0);
	struct frame f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(hello_decode(&f, &got, &err), 0);
	CU_ASSERT_EQUAL(got.version_min, 1);
	CU_ASSERT_EQUAL(got.version_max, 3);
	CU_ASSERT_EQUAL(got.features, want.features);
	CU_ASSERT_STRING_EQUAL(got.architecture, "x86_64");
	CU_ASSERT_STRING_EQUAL(got.byte_order, "little");
	CU_ASSERT_EQUAL(got.page_bytes, 4096);
	CU_ASSERT_EQUAL(got.limits.head_bytes, 1 << 20);
	CU_ASSERT_EQUAL(got.limits.payload_bytes, 4 << 20);
	CU_ASSERT_EQUAL(memcmp(got.nonce, want.nonce, NONCE_BYTES), 0);
	CU_ASSERT_STRING_EQUAL(got.software, "tidemark 0.1.0");
	CU_ASSERT_TRUE(got.wants_auth);
}

static void hello_refused(struct hello m)
{
	CU_ASSERT_EQUAL(hello_encode(&m, &buffer), -EINVAL);
	CU_ASSERT_EQUAL(buffer.bytes, 0);

	head_bytes = 0;
	put_uint(1, m.version_min);
	put_uint(2, m.version_max);
	put_uint(3, m.features);
	put_bytes(4, m.architecture, strnlen(m.architecture, sizeof(m.architecture)));
	put_bytes(5, m.byte_order, strnlen(m.byte_order, sizeof(m.byte_order)));
	put_uint(6, m.page_bytes);
	put_uint(7, m.limits.head_bytes);
	put_uint(8, m.limits.payload_bytes);
	put_bytes(9, m.nonce, NONCE_BYTES);
	put_bytes(10, m.software, strnlen(m.software, sizeof(m.software)));
	struct frame f = frame_of(FRAME_HELLO);
	struct hello got;
	CU_ASSERT_EQUAL(hello_decode(&f, &got, &err), -EBADMSG);
}

static void test_hello_limits(void)
{
	struct hello m;
#define HELLO_REFUSED(change)     \
	do {                      \
		m = some_hello(); \
		change;           \
		hello_refused(m); \
	} while (0)
	HELLO_REFUSED(m.version_min = 0);
	HELLO_REFUSED(m.version_min = 4);
	HELLO_REFUSED(m.architecture[0] = '\0');
	HELLO_REFUSED(m.architecture[0] = '\n');
	HELLO_REFUSED(m.architecture[0] = 0x7f);
	HELLO_REFUSED(memset(m.architecture, 'x', sizeof(m.architecture)));
	HELLO_REFUSED(m.byte_order[0] = 'L');
	HELLO_REFUSED(m.page_bytes = 0);
	HELLO_REFUSED(m.page_bytes = 2048);
	HELLO_REFUSED(m.page_bytes = 12288);
	HELLO_REFUSED(m.page_bytes = 131072);
	HELLO_REFUSED(m.limits.head_bytes = HEAD_BYTES_LEAST - 1);
	HELLO_REFUSED(m.limits.payload_bytes = PAYLOAD_BYTES_LEAST - 1);
	HELLO_REFUSED(m.software[3] = '\x1b');
	HELLO_REFUSED(memset(m.software, 'x', sizeof(m.software)));
}

static void test_hello_of_odd_lengths(void)
{
	struct hello got;
	sample(FRAME_HELLO);
	put_filled(9, 1, NONCE_BYTES - 1); /* the last of a field counts */
	struct frame f = frame_of(FRAME_HELLO);
	CU_ASSERT_EQUAL(hello_decode(&f, &got, &err), -EBADMSG);
	CU_ASSERT_STRING_EQUAL(
		err.text, "a HELLO frame with a nonce of 31 bytes, which should be 32");

	sample(FRAME_HELLO);
	put_bytes(10, "a\0b", 3);
	f = frame_of(FRAME_HELLO);
	CU_ASSERT_EQUAL(hello_decode(&f, &got, &err), -EBADMSG);

	sample(FRAME_HELLO);
	put_uint(2, 65537); /* would be 1 in 16 bits */
	f = frame_of(FRAME_HELLO);
	CU_ASSERT_EQUAL(hello_decode(&f, &got, &err), -EBADMSG);
}

static void test_hello_of_this_machine(void)
{
	struct hello a, b;
	struct agreement agreed;
	CU_ASSERT_EQUAL_FATAL(hello_init(&a, &err), 0);
	CU_ASSERT_EQUAL_FATAL(hello_init(&b, &err), 0);
	CU_ASSERT_NOT_EQUAL(memcmp(a.nonce, b.nonce, NONCE_BYTES), 0);
	CU_ASSERT_FALSE(a.wants_auth);
	CU_ASSERT_EQUAL(a.page_bytes, (uint32_t)sysconf(_SC_PAGESIZE));
	CU_ASSERT_EQUAL(hello_encode(&a, &buffer), 0);
	CU_ASSERT_EQUAL(hello_agree(&a, &b, &agreed, &err), 0);
	CU_ASSERT_EQUAL(agreed.version, FORMAT_MAJOR);
	CU_ASSERT_EQUAL(agreed.features, FEATURES_KNOWN);
	CU_ASSERT_EQUAL(agreed.limits.head_bytes, FRAME_HEAD_MAX);
	CU_ASSERT_EQUAL(agreed.limits.payload_bytes, FRAME_PAYLOAD_MAX);
}

static void test_agreement_is_what_both_know(void)
{
	struct hello ours = some_hello(), theirs = some_hello();
	struct agreement got;
	ours.version_max = 2;
	ours.features = 1;
	theirs.features = 1ull << 40 | 1;
	theirs.limits = (struct frame_limits){300 << 10, UINT32_MAX};
	CU_ASSERT_EQUAL_FATAL(hello_agree(&ours, &theirs, &got, &err), 0);
	CU_ASSERT_EQUAL(got.version, 2);
	CU_ASSERT_EQUAL(got.features, 1);
	CU_ASSERT_EQUAL(got.limits.head_bytes, 300 << 10);
	CU_ASSERT_EQUAL(got.limits.payload_bytes, 4 << 20);

#define DISAGREE(change, word)                                                      \
	do {                                                                        \
		theirs = some_hello();                                              \
		change;                                                             \
		CU_ASSERT_EQUAL(hello_agree(&ours, &theirs, &got, &err), -EBADMSG); \
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, word));                     \
	} while (0)
	DISAGREE(theirs.version_min = 3, "versions 3 to 3");
	DISAGREE(strcpy(theirs.architecture, "aarch64"), "aarch64");
	DISAGREE(strcpy(theirs.byte_order, "big"), "byte order");
	DISAGREE(theirs.page_bytes = 16384, "16384");
}

static void test_auth(void)
{
	struct auth want = some_auth(), got;
	CU_ASSERT_EQUAL_FATAL(auth_encode(&want, &buffer), 0);
	struct frame f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(auth_decode(&f, &got, &err), 0);
	CU_ASSERT_EQUAL(memcmp(&got, &want, sizeof(want)), 0);

	put_filled(1, 7, PROOF_BYTES + 1);
	f = frame_of(FRAME_AUTH);
	CU_ASSERT_EQUAL(auth_decode(&f, &got, &err), -EBADMSG);
	head_bytes = 0;
	f = frame_of(FRAME_AUTH);
	CU_ASSERT_EQUAL(auth_decode(&f, &got, &err), -EBADMSG);
}

/* --- the session -------------------------------------------------------------------------- */

static void test_image_names(void)
{
	char long_name[NAME_MAX_BYTES + 2];
	memset(long_name, 'x', sizeof(long_name));
	long_name[NAME_MAX_BYTES + 1] = '\0';
	CU_ASSERT_FALSE(image_name_valid(long_name));
	long_name[NAME_MAX_BYTES] = '\0';
	CU_ASSERT_TRUE(image_name_valid(long_name));

	static const char *const good[] = {"a", "0", "Z", "a.b", "redis-6.0_x", "a..", "9-"};
	static const char *const bad[] = {
		"", ".", "..", ".a", "-a", "_a", "a/b", "a b", "a\n", "\xc3\xa4", "a\xff", "a:b"};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		CU_ASSERT_TRUE(image_name_valid(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CU_ASSERT_FALSE(image_name_valid(bad[i]));
}

static void test_open(void)
{
	struct open_request want = some_open_request(), got;
	CU_ASSERT_EQUAL_FATAL(open_request_encode(&want, &buffer), 0);
	struct frame f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(open_request_decode(&f, &got, &err), 0);
	CU_ASSERT_EQUAL(memcmp(got.session_id, id, ID_BYTES), 0);
	CU_ASSERT_EQUAL(got.sink, SINK_SNAPSHOT);
	CU_ASSERT_STRING_EQUAL(got.name, want.name);
	CU_ASSERT_EQUAL(memcmp(got.base_id, other_id, ID_BYTES), 0);

	want.sink = SINK_IMAGE;
	CU_ASSERT_EQUAL(open_request_encode(&want, &buffer), -EINVAL);
	memset(want.base_id, 0, ID_BYTES);
	CU_ASSERT_EQUAL(open_request_encode(&want, &buffer), 0);
	f = frame_in(&buffer);
	CU_ASSERT_EQUAL(open_request_decode(&f, &got, &err), 0);
	CU_ASSERT_EQUAL(memcmp(got.base_id, zero_id, ID_BYTES), 0);
	want.sink = 4;
	CU_ASSERT_EQUAL(open_request_encode(&want, &buffer), -EINVAL);
	want = some_open_request();
	memset(want.session_id, 0, ID_BYTES);
	CU_ASSERT_EQUAL(open_request_encode(&want, &buffer), -EINVAL);
	want = some_open_request();
	memset(want.name, 'x', sizeof(want.name));
	CU_ASSERT_EQUAL(open_request_encode(&want, &buffer), -EINVAL);
}

/* An OPEN head of these parts. */
static int open_decode(
	const uint8_t *session, size_t session_bytes, uint64_t sink, const char *name)
{
	struct open_request got;
	head_bytes = 0;
	put_bytes(1, session, session_bytes);
	put_uint(2, sink);
	put_text(3, name);
	struct frame f = frame_of(FRAME_OPEN);
	return open_request_decode(&f, &got, &err);
}

static void test_open_that_is_wrong_is_refused(void)
{
	CU_ASSERT_EQUAL(open_decode(id, ID_BYTES, SINK_IMAGE, "x"), 0);
	CU_ASSERT_EQUAL(open_decode(id, ID_BYTES - 1, SINK_IMAGE, "x"), -EBADMSG);
	CU_ASSERT_EQUAL(open_decode(id, 0, SINK_IMAGE, "x"), -EBADMSG);
	CU_ASSERT_EQUAL(open_decode(zero_id, ID_BYTES, SINK_IMAGE, "x"), -EBADMSG);
	CU_ASSERT_EQUAL(open_decode(id, ID_BYTES, 0, "x"), -EBADMSG);
	CU_ASSERT_EQUAL(open_decode(id, ID_BYTES, 4, "x"), -EBADMSG);
	CU_ASSERT_EQUAL(open_decode(id, ID_BYTES, UINT64_MAX, "x"), -EBADMSG);
	CU_ASSERT_EQUAL(open_decode(id, ID_BYTES, SINK_IMAGE, ""), -EBADMSG);
	CU_ASSERT_EQUAL(open_decode(id, ID_BYTES, SINK_IMAGE, "../x"), -EBADMSG);

	/* A base without being a snapshot. */
	put_text(3, "x");
	put_bytes(4, other_id, ID_BYTES);
	struct frame f = frame_of(FRAME_OPEN);
	struct open_request got;
	CU_ASSERT_EQUAL(open_request_decode(&f, &got, &err), -EBADMSG);
	CU_ASSERT_STRING_EQUAL(err.text, "an OPEN frame with a base, which only a snapshot has");
}

static void test_replies(void)
{
	struct open_reply opened = some_open_reply(), opened_got;
	CU_ASSERT_EQUAL_FATAL(open_reply_encode(&opened, &buffer), 0);
	struct frame f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(open_reply_decode(&f, &opened_got, &err), 0);
	CU_ASSERT_EQUAL(memcmp(opened_got.session_id, id, ID_BYTES), 0);
	CU_ASSERT_STRING_EQUAL(opened_got.name, "redis");
	strcpy(opened.name, "-");
	CU_ASSERT_EQUAL(open_reply_encode(&opened, &buffer), -EINVAL);

	struct join_request join = some_join_request(), join_got;
	CU_ASSERT_EQUAL_FATAL(join_request_encode(&join, &buffer), 0);
	f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(join_request_decode(&f, &join_got, &err), 0);
	CU_ASSERT_EQUAL(memcmp(join_got.session_id, id, ID_BYTES), 0);
	memset(join.session_id, 0, ID_BYTES);
	CU_ASSERT_EQUAL(join_request_encode(&join, &buffer), -EINVAL);

	struct round_ack ack = some_round_ack(), ack_got;
	CU_ASSERT_EQUAL_FATAL(round_ack_encode(&ack, &buffer), 0);
	f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(round_ack_decode(&f, &ack_got, &err), 0);
	CU_ASSERT_EQUAL(ack_got.round, 7);
	CU_ASSERT_EQUAL(ack_got.bytes, UINT64_MAX);

	struct committed committed = some_committed(), committed_got;
	CU_ASSERT_EQUAL_FATAL(committed_encode(&committed, &buffer), 0);
	f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(committed_decode(&f, &committed_got, &err), 0);
	CU_ASSERT_EQUAL(memcmp(committed_got.stream_id, id, ID_BYTES), 0);
	CU_ASSERT_STRING_EQUAL(committed_got.name, "redis");
	CU_ASSERT_EQUAL(committed_got.stored_bytes, 1ull << 40);
	memset(committed.stream_id, 0, ID_BYTES);
	CU_ASSERT_EQUAL(committed_encode(&committed, &buffer), -EINVAL);
}

static void test_errors_carry_what_a_terminal_may_show(void)
{
	struct error_message m = {
		.kind = TIDE_ERROR_UNSUPPORTED, .text = "write /a\x1b[2J\nb: \xc3\xa4"};
	struct error_message got;
	CU_ASSERT_EQUAL_FATAL(error_message_encode(&m, &buffer), 0);
	struct frame f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(error_message_decode(&f, &got, &err), 0);
	CU_ASSERT_EQUAL(got.kind, TIDE_ERROR_UNSUPPORTED);
	CU_ASSERT_STRING_EQUAL(got.text, "write /a?[2J?b: \xc3\xa4");

	memset(m.text, 'x', sizeof(m.text));
	CU_ASSERT_EQUAL_FATAL(error_message_encode(&m, &buffer), 0);
	f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(error_message_decode(&f, &got, &err), 0);
	CU_ASSERT_EQUAL(strlen(got.text), ERROR_TEXT_MAX - 1);
	m.kind = 5;
	CU_ASSERT_EQUAL(error_message_encode(&m, &buffer), -EINVAL);

	put_uint(1, 1);
	put_text(2, "evil \x1b[2J");
	f = frame_of(FRAME_ERROR);
	CU_ASSERT_EQUAL(error_message_decode(&f, &got, &err), -EBADMSG);
	CU_ASSERT_STRING_EQUAL(err.text, "an ERROR frame with a text that holds the byte 0x1b");
	put_filled(2, 'x', ERROR_TEXT_MAX);
	f = frame_of(FRAME_ERROR);
	CU_ASSERT_EQUAL(error_message_decode(&f, &got, &err), -EBADMSG);
	put_text(2, "fine");
	put_uint(1, 5);
	f = frame_of(FRAME_ERROR);
	CU_ASSERT_EQUAL(error_message_decode(&f, &got, &err), -EBADMSG);
}

static void test_pings_have_no_body_and_may_be_skipped(void)
{
	CU_ASSERT_EQUAL_FATAL(ping_encode(false, &buffer), 0);
	struct frame f = frame_in(&buffer);
	CU_ASSERT_EQUAL(f.type, FRAME_PING);
	CU_ASSERT_EQUAL(f.head_bytes + f.payload_bytes, 0);
	CU_ASSERT_EQUAL(f.flags, 0);
	CU_ASSERT_EQUAL(f.process, 0);
	CU_ASSERT_EQUAL_FATAL(ping_encode(true, &buffer), 0);
	f = frame_in(&buffer);
	CU_ASSERT_EQUAL(f.type, FRAME_PONG);
}

/* --- the stream --------------------------------------------------------------------------- */

static void test_stream_header(void)
{
	struct stream_header want = some_stream_header(), got;
	CU_ASSERT_EQUAL_FATAL(stream_header_encode(&want, &buffer), 0);
	struct frame f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(stream_header_decode(&f, &got, &err), 0);
	CU_ASSERT_EQUAL(memcmp(got.stream_id, id, ID_BYTES), 0);
	CU_ASSERT_EQUAL(memcmp(got.base_id, other_id, ID_BYTES), 0);
	CU_ASSERT_STRING_EQUAL(got.architecture, "aarch64");
	CU_ASSERT_STRING_EQUAL(got.byte_order, "big");
	CU_ASSERT_EQUAL(got.page_bytes, 65536);
	CU_ASSERT_EQUAL(got.features, FEATURE_LZ4);
	CU_ASSERT_EQUAL(got.created_realtime_ns, want.created_realtime_ns);
	CU_ASSERT_STRING_EQUAL(got.software, "tidemark 0.1.0");
	CU_ASSERT_STRING_EQUAL(got.host, "source.example");

	want.features = 1ull << 50;
	CU_ASSERT_EQUAL(stream_header_encode(&want, &buffer), -EINVAL);
	sample(FRAME_STREAM);
	put_uint(6, 1ull << 50 | 1);
	f = frame_of(FRAME_STREAM);
	CU_ASSERT_EQUAL(stream_header_decode(&f, &got, &err), -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "0x4000000000000"));

	want = some_stream_header();
	memcpy(want.base_id, id, ID_BYTES);
	CU_ASSERT_EQUAL(stream_header_encode(&want, &buffer), -EINVAL);
	memset(want.stream_id, 0, ID_BYTES);
	CU_ASSERT_EQUAL(stream_header_encode(&want, &buffer), -EINVAL);
	want = some_stream_header();
	want.host[0] = '\t';
	CU_ASSERT_EQUAL(stream_header_encode(&want, &buffer), -EINVAL);
}

static void test_commit(void)
{
	struct commit want = some_commit(), got;
	CU_ASSERT_EQUAL_FATAL(commit_encode(&want, &buffer), 0);
	struct frame f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(commit_decode(&f, &got, &err), 0);
	CU_ASSERT_EQUAL(memcmp(got.stream_id, id, ID_BYTES), 0);
	CU_ASSERT_EQUAL(got.rounds, 3);
	CU_ASSERT_EQUAL(got.held_pages, 123456);
	want.rounds = 0;
	CU_ASSERT_EQUAL(commit_encode(&want, &buffer), -EINVAL);
}

static void test_process_info(void)
{
	struct process_info want = some_process_info();
	CU_ASSERT_EQUAL_FATAL(process_info_encode(9, &want, &buffer), 0);
	struct frame f = frame_in(&buffer);
	CU_ASSERT_EQUAL(f.process, 9);
	CU_ASSERT_EQUAL_FATAL(process_info_decode(&f, &info, &err), 0);
	CU_ASSERT_EQUAL(info->pid, INT32_MAX);
	CU_ASSERT_EQUAL(info->start_time, 1ull << 40);
	CU_ASSERT_EQUAL(info->uid, UINT32_MAX);
	CU_ASSERT_EQUAL(info->gid, 1000);
	CU_ASSERT_STRING_EQUAL(info->comm, want.comm);
	CU_ASSERT_STRING_EQUAL(info->exe, want.exe);
	CU_ASSERT_STRING_EQUAL(info->command_line, want.command_line);
	CU_ASSERT_EQUAL(memcmp(info->boot_id, want.boot_id, 16), 0);
	CU_ASSERT_EQUAL(info->build_id_len, 20);
	CU_ASSERT_EQUAL(memcmp(info->build_id, want.build_id, 32), 0);
	CU_ASSERT_EQUAL(memcmp(&info->clocks, &want.clocks, sizeof(want.clocks)), 0);

	CU_ASSERT_EQUAL(process_info_encode(0, &want, &buffer), -EINVAL);
	want.pid = 0;
	CU_ASSERT_EQUAL(process_info_encode(1, &want, &buffer), -EINVAL);
	want.pid = 1;
	want.build_id_len = 33;
	CU_ASSERT_EQUAL(process_info_encode(1, &want, &buffer), -EINVAL);
}

static void test_process_info_of_which_little_is_known(void)
{
	struct process_info want = {.pid = 1, .comm = "", .exe = "", .command_line = ""};
	CU_ASSERT_EQUAL_FATAL(process_info_encode(1, &want, &buffer), 0);
	struct frame f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(process_info_decode(&f, &info, &err), 0);
	CU_ASSERT_STRING_EQUAL(info->comm, "");
	CU_ASSERT_STRING_EQUAL(info->exe, "");
	CU_ASSERT_STRING_EQUAL(info->command_line, "");
	CU_ASSERT_EQUAL(info->build_id_len, 0);
}

static void test_long_command_lines_are_cut(void)
{
	struct process_info want = some_process_info();
	char *line = malloc(COMMAND_LINE_MAX + 100);
	memset(line, 'x', COMMAND_LINE_MAX + 99);
	line[COMMAND_LINE_MAX + 99] = '\0';
	want.command_line = line;
	int r = process_info_encode(1, &want, &buffer);
	free(line);
	CU_ASSERT_EQUAL_FATAL(r, 0);
	struct frame f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(process_info_decode(&f, &info, &err), 0);
	CU_ASSERT_EQUAL(strlen(info->command_line), COMMAND_LINE_MAX);

	sample(FRAME_PROCESS);
	put_filled(7, 'x', COMMAND_LINE_MAX + 1);
	f = frame_of(FRAME_PROCESS);
	CU_ASSERT_EQUAL(process_info_revisit(&f), -EBADMSG);
}

static void test_process_info_limits(void)
{
	static const struct {
		unsigned field;
		size_t bytes;
	} too_long[] = {{5, 64}, {6, PATH_MAX_BYTES + 1}, {8, 15}, {9, 33}};
	for (size_t i = 0; i < 4; i++) {
		sample(FRAME_PROCESS);
		put_filled(too_long[i].field, 'x', too_long[i].bytes);
		struct frame f = frame_of(FRAME_PROCESS);
		CU_ASSERT_EQUAL(process_info_revisit(&f), -EBADMSG);
	}
	sample(FRAME_PROCESS);
	put_uint(1, 1u << 31);
	struct frame f = frame_of(FRAME_PROCESS);
	CU_ASSERT_EQUAL(process_info_revisit(&f), -EBADMSG);
	sample(FRAME_PROCESS);
	put_bytes(6, "/a\0b", 4);
	f = frame_of(FRAME_PROCESS);
	CU_ASSERT_EQUAL(process_info_revisit(&f), -EBADMSG);
}

static void test_rounds(void)
{
	struct round_header round;
	CU_ASSERT_EQUAL_FATAL(
		round_header_encode(
			2, &(struct round_header){.number = UINT64_MAX, .final = true}, &buffer),
		0);
	struct frame f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(round_header_decode(&f, &round, &err), 0);
	CU_ASSERT_EQUAL(round.number, UINT64_MAX);
	CU_ASSERT_TRUE(round.final);
	CU_ASSERT_EQUAL(round_header_encode(0, &round, &buffer), -EINVAL);

	struct round_end end;
	CU_ASSERT_EQUAL_FATAL(
		round_end_encode(
			2, &(struct round_end){.number = 1, .pages = 300, .frames = 2}, &buffer),
		0);
	f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(round_end_decode(&f, &end, &err), 0);
	CU_ASSERT_EQUAL(end.number, 1);
	CU_ASSERT_EQUAL(end.pages, 300);
	CU_ASSERT_EQUAL(end.frames, 2);
	CU_ASSERT_EQUAL(round_end_encode(1, &(struct round_end){0}, &buffer), 0);
	CU_ASSERT_EQUAL(round_end_encode(1, &(struct round_end){.pages = 1}, &buffer), -EINVAL);
	CU_ASSERT_EQUAL(round_end_encode(1, &(struct round_end){.frames = 1}, &buffer), -EINVAL);
}

/* --- MAPPINGS ----------------------------------------------------------------------------- */

static void expect_mapping(const struct mapping *got, const struct mapping *want)
{
	CU_ASSERT_TRUE(mapping_equal(got, want));
	CU_ASSERT_EQUAL(got->file_size, want->file_size);
	CU_ASSERT_EQUAL(got->file_mtime_ns, want->file_mtime_ns);
	CU_ASSERT_EQUAL(!got->why, !want->why);
	if (got->why && want->why)
		CU_ASSERT_STRING_EQUAL(got->why, want->why);
}

static void test_mappings(void)
{
	struct frame f = sample(FRAME_MAPPINGS);
	CU_ASSERT_EQUAL_FATAL(mappings_decode(&f, &mappings, &err), 0);
	CU_ASSERT_EQUAL(mappings.round, 2);
	CU_ASSERT_EQUAL_FATAL(mappings.diff.removed.len, diff.removed.len);
	CU_ASSERT_EQUAL(memcmp(mappings.diff.removed.runs, diff.removed.runs,
				diff.removed.len * sizeof(*diff.removed.runs)),
		0);
	CU_ASSERT_EQUAL_FATAL(mappings.diff.added.len, diff.added.len);
	for (size_t i = 0; i < diff.added.len; i++)
		expect_mapping(&mappings.diff.added.v[i], &diff.added.v[i]);
}

static void test_no_mappings_at_all(void)
{
	struct mappings_cursor at = {0};
	CU_ASSERT_EQUAL_FATAL(
		mappings_encode(1, &(struct mappings_message){.round = 1}, &at, &buffer), 0);
	struct frame f = frame_in(&buffer);
	CU_ASSERT_EQUAL_FATAL(mappings_decode(&f, &mappings, &err), 0);
	CU_ASSERT_EQUAL(mappings.diff.removed.len + mappings.diff.added.len, 0);
}

static void test_mappings_that_the_format_cannot_say_are_refused(void)
{
	static const struct mapping bad[] = {
		{.start = 1, .end = PAGE, .kind = MAPPING_ANON, .name = ""},
		{.start = 0, .end = PAGE + 1, .kind = MAPPING_ANON, .name = ""},
		{.end = ADDRESS_END + PAGE, .kind = MAPPING_ANON, .name = ""},
		{.end = PAGE, .name = ""},
		{.end = PAGE, .kind = 7, .name = ""},
		{.end = PAGE, .kind = MAPPING_ANON, .prot = 8, .name = ""},
		{.end = PAGE, .kind = MAPPING_ANON, .flags = 16, .name = ""},
		{.end = PAGE, .kind = MAPPING_ANON, .object = 1, .name = ""},
		{.end = PAGE, .kind = MAPPING_OBJECT, .name = ""},
		{.end = PAGE, .kind = MAPPING_FILE_PRIVATE, .offset = 1, .name = ""},
		{.end = 2 * PAGE,
			.kind = MAPPING_FILE_PRIVATE,
			.offset = OFFSET_END - PAGE,
			.name = ""},
		{.end = PAGE, .kind = MAPPING_ANON, .why = "x", .name = ""},
		{.end = PAGE, .kind = MAPPING_OPAQUE, .name = ""},
		{.end = PAGE, .kind = MAPPING_ANON},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct mapping m = bad[i];
		struct mappings_cursor at = {0};
		struct mappings_message message = {.diff.added = {&m, 1, 1}};
		CU_ASSERT_EQUAL(mappings_encode(1, &message, &at, &buffer), -EINVAL);
		CU_ASSERT_EQUAL(at.added, 0);
		CU_ASSERT_EQUAL(buffer.bytes, 0);
	}

	char *name = malloc(PATH_MAX_BYTES + 2);
	memset(name, 'x', PATH_MAX_BYTES + 1);
	name[PATH_MAX_BYTES + 1] = '\0';
	struct mapping m = {.end = PAGE, .kind = MAPPING_ANON, .name = name};
	struct mappings_message message = {.diff.added = {&m, 1, 1}};
	struct mappings_cursor at = {0};
	CU_ASSERT_EQUAL(mappings_encode(1, &message, &at, &buffer), -EINVAL);
	name[PATH_MAX_BYTES] = '\0';
	CU_ASSERT_EQUAL(mappings_encode(1, &message, &at, &buffer), 0);
	free(name);
}

/* One field of a mapping, changed behind those of a good one. */
static int mapping_decode_with(unsigned field, uint64_t v)
{
	head_bytes = 0;
	put_uint(1, 0x100);
	put_uint(2, 2);
	put_uint(5, MAPPING_FILE_PRIVATE);
	put_uint(field, v);
	size_t bytes = head_bytes;
	uint8_t member[100];
	memcpy(member, head, bytes);
	head_bytes = 0;
	put_bytes(4, member, bytes);
	struct frame f = frame_of(FRAME_MAPPINGS);
	return mappings_revisit(&f);
}

static void test_mappings_that_are_wrong_are_refused(void)
{
	CU_ASSERT_EQUAL(mapping_decode_with(3, 7), 0);
	CU_ASSERT_EQUAL(mapping_decode_with(1, ADDRESS_END / PAGE - 2), 0);
	CU_ASSERT_EQUAL(mapping_decode_with(1, ADDRESS_END / PAGE - 1), -EBADMSG);
	CU_ASSERT_EQUAL(mapping_decode_with(1, 1ull << 52), -EBADMSG);
	CU_ASSERT_EQUAL(mapping_decode_with(1, UINT64_MAX), -EBADMSG);
	CU_ASSERT_EQUAL(mapping_decode_with(2, 0), -EBADMSG);
	CU_ASSERT_EQUAL(mapping_decode_with(2, UINT64_MAX), -EBADMSG);
	CU_ASSERT_EQUAL(mapping_decode_with(2, 1ull << 52), -EBADMSG);
	CU_ASSERT_EQUAL(mapping_decode_with(3, 8), -EBADMSG);
	CU_ASSERT_EQUAL(mapping_decode_with(4, 16), -EBADMSG);
	CU_ASSERT_EQUAL(mapping_decode_with(5, 0), -EBADMSG);
	CU_ASSERT_EQUAL(mapping_decode_with(5, 7), -EBADMSG);
	CU_ASSERT_EQUAL(mapping_decode_with(5, MAPPING_OBJECT), -EBADMSG);
	CU_ASSERT_EQUAL(mapping_decode_with(6, 1), -EBADMSG);
	CU_ASSERT_EQUAL(mapping_decode_with(7, 17), -EBADMSG);
	CU_ASSERT_EQUAL(mapping_decode_with(7, OFFSET_END - 2 * PAGE), 0);
	CU_ASSERT_EQUAL(mapping_decode_with(7, OFFSET_END - PAGE), -EBADMSG);
	CU_ASSERT_EQUAL(mapping_decode_with(7, LAST_PLACE), -EBADMSG);
}

static void put_small_mapping(uint8_t start_units, uint8_t units)
{
	uint8_t member[] = {1 << 3, start_units, 2 << 3, units, 5 << 3, MAPPING_ANON};
	put_bytes(4, member, sizeof(member));
}

static void test_mappings_out_of_order_are_refused(void)
{
	put_small_mapping(1, 3);
	put_small_mapping(4, 3);
	struct frame f = frame_of(FRAME_MAPPINGS);
	CU_ASSERT_EQUAL(mappings_revisit(&f), 0);
	put_small_mapping(6, 3);
	f = frame_of(FRAME_MAPPINGS);
	CU_ASSERT_EQUAL(mappings_revisit(&f), -EBADMSG);
	CU_ASSERT_STRING_EQUAL(err.text,
		"a MAPPINGS frame with a mapping at 0x6000 that is not behind the one before");
}

static void test_removed_places_that_are_wrong_are_refused(void)
{
	PUT_LIST(2, 0, 1);
	PUT_LIST(3, 5, 5);
	struct frame f = frame_of(FRAME_MAPPINGS);
	CU_ASSERT_EQUAL_FATAL(mappings_decode(&f, &mappings, &err), 0);
	CU_ASSERT_EQUAL_FATAL(mappings.diff.removed.len, 2);
	CU_ASSERT_EQUAL(mappings.diff.removed.runs[1].start, 6 * PAGE);
	CU_ASSERT_EQUAL(mappings.diff.removed.runs[1].end, 11 * PAGE);

	head_bytes = 0; /* they touch */
	PUT_LIST(2, 0, 0);
	PUT_LIST(3, 5, 5);
	f = frame_of(FRAME_MAPPINGS);
	CU_ASSERT_EQUAL(mappings_revisit(&f), -EBADMSG);
	head_bytes = 0; /* one is empty */
	PUT_LIST(2, 0, 1);
	PUT_LIST(3, 5, 0);
	f = frame_of(FRAME_MAPPINGS);
	CU_ASSERT_EQUAL(mappings_revisit(&f), -EBADMSG);
	head_bytes = 0; /* lists that do not go together */
	PUT_LIST(2, 0, 1);
	PUT_LIST(3, 5);
	f = frame_of(FRAME_MAPPINGS);
	CU_ASSERT_EQUAL(mappings_revisit(&f), -EBADMSG);
	head_bytes = 0; /* wraps around */
	PUT_LIST(2, 1);
	put_bytes(3, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10);
	f = frame_of(FRAME_MAPPINGS);
	CU_ASSERT_EQUAL(mappings_revisit(&f), -EBADMSG);
}

static void test_too_many_in_one_message_are_refused(void)
{
	for (int i = 0; i <= MAPPINGS_MAX; i++) {
		uint8_t member[] = {1 << 3, (uint8_t)(i | 0x80), (uint8_t)(i >> 7), 2 << 3, 1,
			5 << 3, MAPPING_ANON};
		put_bytes(4, member, sizeof(member));
		struct frame f = frame_of(FRAME_MAPPINGS);
		if (i == MAPPINGS_MAX - 1)
			CU_ASSERT_EQUAL(mappings_revisit(&f), 0);
	}
	struct frame f = frame_of(FRAME_MAPPINGS);
	CU_ASSERT_EQUAL(mappings_revisit(&f), -EBADMSG);
	CU_ASSERT_STRING_EQUAL(
		err.text, "a MAPPINGS frame with 4097 mappings, above the limit of 4096");

	head_bytes = 0;
	put_filled(2, 1, RUNS_MAX);
	put_filled(3, 1, RUNS_MAX);
	f = frame_of(FRAME_MAPPINGS);
	CU_ASSERT_EQUAL(mappings_revisit(&f), 0);
	head_bytes = 0;
	put_filled(2, 1, RUNS_MAX + 1);
	put_filled(3, 1, RUNS_MAX + 1);
	f = frame_of(FRAME_MAPPINGS);
	CU_ASSERT_EQUAL(mappings_revisit(&f), -EBADMSG);

	head_bytes = 0;
	put_filled(2, 1, RUNS_MAX + 1);
	put_filled(3, 1, RUNS_MAX + 1);
	f = frame_of(FRAME_DROPS);
	CU_ASSERT_EQUAL(drops_revisit(&f), -EBADMSG);
}

/* Far more than a frame holds: what arrives, applied in order, is what was sent. */
static void test_large_differences_take_several_frames(void)
{
	char name[2000];
	unsigned seed = 5;
	memset(name, 'n', sizeof(name));
	for (uint64_t i = 0; i < 100000; i++) {
		uint64_t at = (i << 20) + rand_r(&seed) % 200 * PAGE;
		pageset_add(&diff.removed, (struct page_run){at, at + PAGE});
	}
	for (uint64_t i = 0; i < 9000; i++) {
		name[sizeof(name) - 1 - rand_r(&seed) % 100] = '\0';
		add_mapping(&diff.added, (struct mapping){.start = i * PAGE,
						 .end = (i + 1) * PAGE,
						 .kind = MAPPING_ANON,
						 .name = i % 7 ? "[heap]" : name});
	}
	struct mappings_message message = {.round = 3, .diff = diff};
	struct pageset removed = {0};
	struct mappings_cursor at = {0};
	size_t frames = 0;
	while (at.removed < diff.removed.len || at.added < diff.added.len) {
		CU_ASSERT_EQUAL_FATAL(mappings_encode(1, &message, &at, &buffer), 0);
		struct frame f = frame_in(&buffer);
		CU_ASSERT_FATAL(f.head_bytes <= HEAD_BYTES_LEAST);
		mappings_release(&mappings);
		CU_ASSERT_EQUAL_FATAL(mappings_decode(&f, &mappings, &err), 0);
		/* No place is removed once something was added. */
		CU_ASSERT_TRUE(table_got.len == 0 || mappings.diff.removed.len == 0);
		for (size_t i = 0; i < mappings.diff.removed.len; i++)
			pageset_add(&removed, mappings.diff.removed.runs[i]);
		CU_ASSERT_EQUAL_FATAL(mapping_table_apply(&table_got, &mappings.diff), 0);
		frames++;
	}
	CU_ASSERT_TRUE(frames > 3 && frames < 100);
	CU_ASSERT_EQUAL(removed.len, diff.removed.len);
	CU_ASSERT_EQUAL(
		memcmp(removed.runs, diff.removed.runs, removed.len * sizeof(*removed.runs)), 0);
	pageset_release(&removed);
	CU_ASSERT_EQUAL_FATAL(table_got.len, diff.added.len);
	for (size_t i = 0; i < diff.added.len; i++)
		CU_ASSERT_TRUE(mapping_equal(&table_got.v[i], &diff.added.v[i]));
}

/* --- DROPS -------------------------------------------------------------------------------- */

static void expect_drops(const struct page_drop *got, const struct page_drop *want, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		CU_ASSERT_EQUAL_FATAL(got[i].space, want[i].space);
		CU_ASSERT_EQUAL_FATAL(got[i].run.start, want[i].run.start);
		CU_ASSERT_EQUAL_FATAL(got[i].run.end, want[i].run.end);
		CU_ASSERT_EQUAL_FATAL(got[i].kind, want[i].kind);
	}
}

static void test_drops(void)
{
	struct frame f = sample(FRAME_DROPS);
	CU_ASSERT_EQUAL_FATAL(drops_decode(&f, &drops, &err), 0);
	CU_ASSERT_EQUAL(drops.round, 2);
	CU_ASSERT_EQUAL_FATAL(drops.ndrops, 6);
	expect_drops(drops.drops, some_drops, 6);
}

static void test_drops_that_are_not_in_order_are_refused(void)
{
	static struct page_drop bad[][2] = {
		{{0, {PAGE, 2 * PAGE}, DROP_GONE}, {0, {0, PAGE}, DROP_GONE}},
		{{0, {0, 2 * PAGE}, DROP_GONE}, {0, {PAGE, 3 * PAGE}, DROP_BACK_TO_FILE}},
		{{1, {0, PAGE}, DROP_GONE}, {0, {PAGE, 2 * PAGE}, DROP_GONE}},
		{{0, {0, PAGE}, 3}, {0, {PAGE, 2 * PAGE}, DROP_GONE}},
		{{0, {0, PAGE}, DROP_GONE}, {0, {PAGE, PAGE}, DROP_GONE}},
		{{0, {0, PAGE}, DROP_GONE}, {0, {PAGE, PAGE + 1}, DROP_GONE}},
		{{0, {0, PAGE}, DROP_GONE}, {0, {PAGE, ADDRESS_END + PAGE}, DROP_GONE}},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct drops_message m = {.drops = bad[i], .ndrops = 2};
		size_t at = 0;
		CU_ASSERT_EQUAL(drops_encode(1, &m, &at, &buffer), -EINVAL);
		CU_ASSERT_EQUAL(at, 0);
	}
}

static int drops_decode_lists(
	const char *gaps, const char *units, const char *spaces, const char *kinds)
{
	/* Pairs of (space or kind, runs), as digits. */
	head_bytes = 0;
	uint8_t list[16];
	const char *digits[] = {gaps, units};
	for (unsigned i = 0; i < 2; i++) {
		for (size_t k = 0; k < strlen(digits[i]); k++)
			list[k] = (uint8_t)(digits[i][k] - '0');
		put_bytes(2 + i, list, strlen(digits[i]));
	}
	const char *pairs[] = {spaces, kinds};
	for (unsigned i = 0; i < 4; i++) {
		size_t n = 0;
		for (size_t k = i % 2; k < strlen(pairs[i / 2]); k += 2)
			list[n++] = (uint8_t)(pairs[i / 2][k] - '0');
		put_bytes(4 + i, list, n);
	}
	struct frame f = frame_of(FRAME_DROPS);
	return drops_revisit(&f);
}

static void test_drops_that_are_wrong_are_refused(void)
{
	CU_ASSERT_EQUAL(drops_decode_lists("", "", "", ""), 0);
	CU_ASSERT_EQUAL_FATAL(drops_decode_lists("012", "111", "0251", "1122"), 0);
	CU_ASSERT_EQUAL_FATAL(drops.ndrops, 3);
	CU_ASSERT_EQUAL(drops.drops[1].run.start, 2 * PAGE);
	CU_ASSERT_EQUAL(drops.drops[2].run.start, 2 * PAGE);
	CU_ASSERT_EQUAL(drops.drops[2].space, 5);
	CU_ASSERT_EQUAL(drops.drops[1].kind, DROP_BACK_TO_FILE);

	CU_ASSERT_EQUAL(drops_decode_lists("01", "111", "03", "13"), -EBADMSG);
	CU_ASSERT_EQUAL(drops_decode_lists("012", "101", "03", "13"), -EBADMSG);
	CU_ASSERT_EQUAL(drops_decode_lists("012", "111", "02", "13"), -EBADMSG);
	CU_ASSERT_EQUAL(drops_decode_lists("012", "111", "04", "13"), -EBADMSG);
	CU_ASSERT_EQUAL(drops_decode_lists("012", "111", "0350", "13"), -EBADMSG);
	CU_ASSERT_EQUAL(drops_decode_lists("012", "111", "0102", "13"), -EBADMSG);
	CU_ASSERT_EQUAL(drops_decode_lists("012", "111", "5102", "13"), -EBADMSG);
	CU_ASSERT_EQUAL(drops_decode_lists("012", "111", "035", "13"), -EBADMSG);
	CU_ASSERT_EQUAL(drops_decode_lists("012", "111", "03", "12"), -EBADMSG);
	CU_ASSERT_EQUAL(drops_decode_lists("012", "111", "03", "14"), -EBADMSG);
	CU_ASSERT_EQUAL(drops_decode_lists("012", "111", "03", "1320"), -EBADMSG);
	CU_ASSERT_EQUAL(drops_decode_lists("012", "111", "03", "03"), -EBADMSG);
	CU_ASSERT_EQUAL(drops_decode_lists("012", "111", "03", "33"), -EBADMSG);
	CU_ASSERT_EQUAL(drops_decode_lists("012", "111", "03", "1"), -EBADMSG);
	CU_ASSERT_EQUAL(drops_decode_lists("", "", "01", ""), -EBADMSG);
}

static void test_many_drops_take_several_frames(void)
{
	enum { N = 200000 };
	struct page_drop *many = calloc(N, sizeof(*many)), *got = calloc(N, sizeof(*got));
	unsigned seed = 6;
	uint64_t from = 0;
	for (size_t i = 0; i < N; i++) {
		/* At first far apart, then close together, then each in a space of its own. */
		uint64_t gap = i < 50000 ? (uint64_t)rand_r(&seed) >> 3 : rand_r(&seed) % 3u;
		many[i].space = i < 100000 ? 0 : i < 150000 ? 1 : i;
		if (i && many[i].space != many[i - 1].space)
			from = 0;
		many[i].run.start = from + gap * PAGE;
		many[i].run.end = many[i].run.start + (1 + rand_r(&seed) % 200u) * PAGE;
		many[i].kind = rand_r(&seed) % 2 ? DROP_GONE : DROP_BACK_TO_FILE;
		from = many[i].run.end;
	}
	struct drops_message message = {.round = 1, .drops = many, .ndrops = N};
	size_t at = 0, received = 0, frames = 0;
	while (at < N) {
		CU_ASSERT_EQUAL_FATAL(drops_encode(1, &message, &at, &buffer), 0);
		struct frame f = frame_in(&buffer);
		CU_ASSERT_FATAL(f.head_bytes <= HEAD_BYTES_LEAST);
		drops_release(&drops);
		CU_ASSERT_EQUAL_FATAL(drops_decode(&f, &drops, &err), 0);
		CU_ASSERT_FATAL(drops.ndrops <= RUNS_MAX && received + drops.ndrops == at);
		memcpy(got + received, drops.drops, drops.ndrops * sizeof(*got));
		received = at;
		frames++;
	}
	expect_drops(got, many, N);
	free(many);
	free(got);
	CU_ASSERT_TRUE(frames < 20);
}

/* --- STATE -------------------------------------------------------------------------------- */

static void expect_state(const struct process_state *got, const struct process_state *want)
{
	CU_ASSERT_EQUAL(got->version, want->version);
	CU_ASSERT_EQUAL(memcmp(&got->clocks, &want->clocks, sizeof(want->clocks)), 0);
	CU_ASSERT_EQUAL(got->ppid, want->ppid);
	CU_ASSERT_EQUAL(got->pgrp, want->pgrp);
	CU_ASSERT_EQUAL(got->sid, want->sid);
	CU_ASSERT_EQUAL(got->state, want->state);
	CU_ASSERT_EQUAL(got->nice, want->nice);
	CU_ASSERT_EQUAL_FATAL(got->auxv_bytes, want->auxv_bytes);
	CU_ASSERT_EQUAL(memcmp(got->auxv, want->auxv, want->auxv_bytes), 0);
	CU_ASSERT_EQUAL_FATAL(got->nthreads, want->nthreads);
	for (size_t i = 0; i < want->nthreads; i++) {
		const struct state_thread *g = &got->threads[i], *w = &want->threads[i];
		CU_ASSERT_EQUAL(g->tid, w->tid);
		CU_ASSERT_STRING_EQUAL(g->name, w->name);
		CU_ASSERT_EQUAL(g->signal_mask, w->signal_mask);
		CU_ASSERT_EQUAL(g->pending_signal, w->pending_signal);
		CU_ASSERT_EQUAL_FATAL(g->nregsets, w->nregsets);
		for (size_t k = 0; k < w->nregsets; k++) {
			CU_ASSERT_EQUAL(g->regsets[k].note_type, w->regsets[k].note_type);
			CU_ASSERT_EQUAL_FATAL(g->regsets[k].size_bytes, w->regsets[k].size_bytes);
			CU_ASSERT_EQUAL(memcmp(g->regsets[k].data, w->regsets[k].data,
						w->regsets[k].size_bytes),
				0);
		}
	}
}

/* All frames of `state`, into `state_got`. */
static size_t state_travel(void)
{
	size_t frames = 0;
	for (size_t at = 0; at < state.nthreads; frames++) {
		CU_ASSERT_EQUAL_FATAL(state_encode(1, &state, &at, &buffer), 0);
		struct frame f = frame_in(&buffer);
		CU_ASSERT_FATAL(f.head_bytes <= HEAD_BYTES_LEAST);
		CU_ASSERT_FALSE(process_state_complete(&state_got));
		CU_ASSERT_EQUAL_FATAL(state_decode(&f, &state_got, &err), 0);
		CU_ASSERT_EQUAL_FATAL(state_got.nthreads, at);
	}
	CU_ASSERT_TRUE(process_state_complete(&state_got));
	return frames;
}

static void test_state(void)
{
	fill_state(3, 2, 100);
	CU_ASSERT_EQUAL(state_travel(), 1);
	expect_state(&state_got, &state);
}

static void test_state_of_many_threads_takes_several_frames(void)
{
	fill_state(5000, 3, 300);
	CU_ASSERT_TRUE(state_travel() > 10);
	expect_state(&state_got, &state);
}

static void test_state_of_threads_without_registers(void)
{
	fill_state(3 * THREADS_PER_FRAME_MAX, 0, 0);
	CU_ASSERT_TRUE(state_travel() >= 3);
	expect_state(&state_got, &state);
}

static void test_the_largest_threads_fit(void)
{
	fill_state(3, 2, REGSET_BYTES_MAX);
	free(state.auxv);
	state.auxv = calloc(1, AUXV_BYTES_MAX);
	state.auxv_bytes = AUXV_BYTES_MAX;
	CU_ASSERT_EQUAL(state_travel(), 3);
	expect_state(&state_got, &state);
}

static int state_encode_start(void)
{
	size_t at = 0;
	return state_encode(1, &state, &at, &buffer);
}

static void test_state_that_the_format_cannot_say_is_refused(void)
{
	fill_state(2, 2, 10);
	state.version = 2;
	CU_ASSERT_EQUAL(state_encode_start(), -EINVAL);
	state.version = 1;
	state.state = ' ';
	CU_ASSERT_EQUAL(state_encode_start(), -EINVAL);
	state.state = 'R';
	state.nice = 20;
	CU_ASSERT_EQUAL(state_encode_start(), -EINVAL);
	state.nice = 19;
	state.pgrp = -1;
	CU_ASSERT_EQUAL(state_encode_start(), -EINVAL);
	state.pgrp = 0;
	state.auxv_bytes = AUXV_BYTES_MAX + 1;
	CU_ASSERT_EQUAL(state_encode_start(), -EINVAL);
	state.auxv_bytes = 1;
	state.threads[1].tid = 0;
	CU_ASSERT_EQUAL(state_encode_start(), -EINVAL);
	state.threads[1].tid = 1;
	state.threads[1].pending_signal = 65;
	CU_ASSERT_EQUAL(state_encode_start(), -EINVAL);
	state.threads[1].pending_signal = 64;
	state.threads[1].regsets[0].note_type = 2;
	CU_ASSERT_EQUAL(state_encode_start(), -EINVAL);
	state.threads[1].regsets[0].note_type = 0x202;
	memset(state.threads[1].name, 'x', 16);
	CU_ASSERT_EQUAL(state_encode_start(), -EINVAL);
	state.threads[1].name[15] = '\0';
	CU_ASSERT_EQUAL(state_encode_start(), 0);
	size_t nthreads = state.nthreads;
	state.nthreads = 0;
	CU_ASSERT_EQUAL(state_encode_start(), -EINVAL);
	state.nthreads = nthreads;

	process_state_release(&state);
	fill_state(1, 3, REGSET_BYTES_MAX);
	CU_ASSERT_EQUAL(state_encode_start(), -EINVAL);
	process_state_release(&state);
	fill_state(1, REGSETS_MAX + 1, 1);
	CU_ASSERT_EQUAL(state_encode_start(), -EINVAL);
	process_state_release(&state);
	fill_state(1, 1, REGSET_BYTES_MAX + 1);
	CU_ASSERT_EQUAL(state_encode_start(), -EINVAL);
}

/* A STATE head: what comes first, and so many threads of one byte of registers each. */
static int state_decode_of(uint64_t version, uint64_t total, uint64_t before, unsigned nthreads)
{
	static const uint8_t member[] = {1 << 3, 5, 5 << 3 | 2, 5, 1 << 3, 1, 2 << 3 | 2, 1, 7};
	head_bytes = 0;
	put_uint(1, version);
	put_uint(2, total);
	put_uint(3, before);
	for (unsigned i = 0; i < nthreads; i++)
		put_bytes(4, member, sizeof(member));
	put_uint(11, 'S');
	struct frame f = frame_of(FRAME_STATE);
	return state_decode(&f, &state_got, &err);
}

static void test_state_frames_must_follow(void)
{
	CU_ASSERT_EQUAL(state_decode_of(2, 4, 0, 2), -EBADMSG);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "version 2"));
	CU_ASSERT_EQUAL(state_decode_of(1, 4, 2, 2), -EBADMSG);
	CU_ASSERT_EQUAL(state_decode_of(1, 4, 0, 5), -EBADMSG);
	CU_ASSERT_EQUAL(state_decode_of(1, 4, 0, 0), -EBADMSG);
	CU_ASSERT_EQUAL(state_decode_of(1, 0, 0, 0), -EBADMSG);
	CU_ASSERT_EQUAL(state_decode_of(1, THREADS_MAX + 1, 0, 1), -EBADMSG);
	CU_ASSERT_EQUAL(state_decode_of(1, THREADS_MAX, 0, THREADS_PER_FRAME_MAX + 1), -EBADMSG);
	CU_ASSERT_EQUAL(state_got.nthreads, 0);
	CU_ASSERT_PTR_NULL(state_got.threads);

	CU_ASSERT_EQUAL_FATAL(state_decode_of(1, 4, 0, 2), 0);
	CU_ASSERT_EQUAL(state_decode_of(1, 4, 0, 2), -EBADMSG);
	CU_ASSERT_EQUAL(state_decode_of(1, 4, 1, 2), -EBADMSG);
	CU_ASSERT_EQUAL(state_decode_of(1, 4, 2, 3), -EBADMSG);
	CU_ASSERT_EQUAL(state_decode_of(1, 5, 2, 3), -EBADMSG);
	CU_ASSERT_EQUAL(state_decode_of(1, 1, 2, 1), -EBADMSG);
	CU_ASSERT_EQUAL(state_got.nthreads, 2);
	CU_ASSERT_FALSE(process_state_complete(&state_got));
	CU_ASSERT_EQUAL_FATAL(state_decode_of(1, 4, 2, 2), 0);
	CU_ASSERT_TRUE(process_state_complete(&state_got));
	CU_ASSERT_EQUAL(state_decode_of(1, 4, 4, 1), -EBADMSG);
	CU_ASSERT_EQUAL(state_got.threads[3].regsets[0].size_bytes, 1);
}

/* A peer that says that there is ever more to come is stopped by what it costs. */
static void test_state_is_bounded_over_all_frames(void)
{
	fill_state(1, 2, REGSET_BYTES_MAX);
	state.nthreads = 1;
	int r = 0;
	for (uint64_t before = 0; r == 0; before++) {
		CU_ASSERT_FATAL(before < 2000);
		/* The same thread again and again, behind the number that came. */
		size_t at = 0;
		CU_ASSERT_EQUAL_FATAL(state_encode(1, &state, &at, &buffer), 0);
		struct frame f = frame_in(&buffer);
		head_bytes = 0;
		put(f.head, f.head_bytes);
		put_uint(2, THREADS_MAX);
		put_uint(3, before);
		f = frame_of(FRAME_STATE);
		r = state_decode(&f, &state_got, &err);
	}
	CU_ASSERT_EQUAL(r, -EBADMSG);
	CU_ASSERT_TRUE(state_got.held_bytes <= STATE_BYTES_MAX);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "memory"));
}

/* --- the specification -------------------------------------------------------------------- */

/* Reads the hexadecimal bytes of the next ```hex block of the specification; a # begins a comment.
 */
static size_t next_hex_block(uint8_t *bytes, size_t cap)
{
	char line[256];
	size_t n = 0;
	bool inside = false;
	while (fgets(line, sizeof(line), file)) {
		if (!inside) {
			inside = strcmp(line, "```hex\n") == 0;
			continue;
		}
		if (strcmp(line, "```\n") == 0)
			break;
		line[strcspn(line, "#\n")] = '\0';
		unsigned byte;
		int used;
		for (const char *p = line; sscanf(p, " %2x%n", &byte, &used) == 1; p += used) {
			CU_ASSERT_FATAL(n < cap);
			bytes[n++] = (uint8_t)byte;
		}
	}
	return n;
}

static void test_the_frame_in_the_specification(void)
{
	uint8_t bytes[256];
	file = fopen(TIDEMARK_SOURCE_DIR "/docs/stream-format.md", "r");
	CU_ASSERT_PTR_NOT_NULL_FATAL(file);

	uint16_t minor;
	CU_ASSERT_EQUAL_FATAL(next_hex_block(bytes, sizeof(bytes)), PREAMBLE_BYTES);
	CU_ASSERT_EQUAL(preamble_decode(bytes, &minor, &err), 0);
	CU_ASSERT_EQUAL(minor, FORMAT_MINOR);

	/* It says what the text beside it says, and is what we write ourselves. */
	struct page_drop want[] = {
		{SPACE_PRIVATE, {0x7f0000000000, 0x7f0000003000}, DROP_GONE},
		{SPACE_PRIVATE, {0x7f0000004000, 0x7f0000005000}, DROP_BACK_TO_FILE},
		{3, {0, 0x200000}, DROP_GONE},
	};
	size_t n = next_hex_block(bytes, sizeof(bytes)), at = 0;
	CU_ASSERT_FATAL(n > FRAME_HEADER_BYTES);
	struct frame f;
	CU_ASSERT_EQUAL_FATAL(frame_decode(bytes, bytes + FRAME_HEADER_BYTES, &f, &err), 0);
	CU_ASSERT_EQUAL(f.process, 1);
	CU_ASSERT_EQUAL_FATAL(drops_decode(&f, &drops, &err), 0);
	CU_ASSERT_EQUAL(drops.round, 2);
	CU_ASSERT_EQUAL_FATAL(drops.ndrops, 3);
	expect_drops(drops.drops, want, 3);
	CU_ASSERT_EQUAL_FATAL(
		drops_encode(1, &(struct drops_message){.round = 2, .drops = want, .ndrops = 3},
			&at, &buffer),
		0);
	CU_ASSERT_EQUAL_FATAL(buffer.bytes, n);
	CU_ASSERT_EQUAL(memcmp(buffer.data, bytes, n), 0);
}

static const struct test tests[] = {
	TEST(test_the_frame_carries_type_process_and_flags),
	TEST(test_another_type_payload_or_process_is_refused),
	TEST(test_unknown_fields_are_passed_over),
	TEST(test_heads_that_are_cut_are_refused_or_make_sense),
	TEST(test_heads_changed_at_random_are_refused_or_make_sense),
	TEST(test_noise_is_refused),
	TEST(test_a_head_cannot_ask_for_memory_out_of_proportion),
	TEST(test_hello),
	TEST(test_hello_limits),
	TEST(test_hello_of_odd_lengths),
	TEST(test_hello_of_this_machine),
	TEST(test_agreement_is_what_both_know),
	TEST(test_auth),
	TEST(test_image_names),
	TEST(test_open),
	TEST(test_open_that_is_wrong_is_refused),
	TEST(test_replies),
	TEST(test_errors_carry_what_a_terminal_may_show),
	TEST(test_pings_have_no_body_and_may_be_skipped),
	TEST(test_stream_header),
	TEST(test_commit),
	TEST(test_process_info),
	TEST(test_process_info_of_which_little_is_known),
	TEST(test_long_command_lines_are_cut),
	TEST(test_process_info_limits),
	TEST(test_rounds),
	TEST(test_mappings),
	TEST(test_no_mappings_at_all),
	TEST(test_mappings_that_the_format_cannot_say_are_refused),
	TEST(test_mappings_that_are_wrong_are_refused),
	TEST(test_mappings_out_of_order_are_refused),
	TEST(test_removed_places_that_are_wrong_are_refused),
	TEST(test_too_many_in_one_message_are_refused),
	TEST(test_large_differences_take_several_frames),
	TEST(test_drops),
	TEST(test_drops_that_are_not_in_order_are_refused),
	TEST(test_drops_that_are_wrong_are_refused),
	TEST(test_many_drops_take_several_frames),
	TEST(test_state),
	TEST(test_state_of_many_threads_takes_several_frames),
	TEST(test_state_of_threads_without_registers),
	TEST(test_the_largest_threads_fit),
	TEST(test_state_that_the_format_cannot_say_is_refused),
	TEST(test_state_frames_must_follow),
	TEST(test_state_is_bounded_over_all_frames),
	TEST(test_the_frame_in_the_specification),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "message", tests, setup, teardown);
}
