/* SPDX-License-Identifier: MIT */
/*
 * How fast an agent's session takes what is sent and what memory that costs, without the network:
 * `bench_session [--json] [--size BYTES] [STORE]`. The frames of a first round of so much memory
 * (4 GiB unless said), of a round of 1 % of its pages at random, and of one of every other page,
 * which leaves the image in as many pieces as there are pages; then commit, opening, reading,
 * verifying. Making the frames is not counted. STORE is a folder that is made and removed, under
 * /dev/shm unless said.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agent/image.h"
#include "agent/session.h"
#include "base/clock.h"
#include "base/units.h"
#include "proto/batch.h"

#define PAGE 4096u
#define BATCH_BYTES ((size_t)BATCH_PAGES_MAX * PAGE)
#define BASE UINT64_C(0x7f0000000000)

static uint64_t random_next(void)
{
	static uint64_t x = 88172645463325252u;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

static void fill_random(uint8_t *p, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += 8) {
		uint64_t v = random_next();
		memcpy(p + i, &v, 8);
	}
}

static void page_zero(uint8_t *page)
{
	memset(page, 0, PAGE);
}

static void page_random(uint8_t *page)
{
	fill_random(page, PAGE);
}

static void page_half(uint8_t *page)
{
	fill_random(page, PAGE / 2);
	memset(page + PAGE / 2, 0, PAGE / 2);
}

static const struct kind {
	const char *name;
	void (*fill)(uint8_t *page);
} kinds[] = {
	{"zero", page_zero},
	{"random", page_random},
	{"half-compressible", page_half},
};

struct bench {
	const struct kind *kind;
	uint64_t bytes; /* of memory that is sent */
	bool json;
	struct store *store;
	struct session *session;
	uint8_t *pages; /* a batch of them */
	struct batch batch;
	struct frame_buffer frame;
	uint64_t round, round_pages, round_frames;
	uint64_t session_ns; /* in session_frame() */
	struct tide_error err;
};

static void die(const struct bench *b, const char *what)
{
	fprintf(stderr, "bench_session: %s: %s %s\n", what, b->err.text,
		tide_error_reason(&b->err));
	exit(1);
}

static void feed(struct bench *b, int encoded)
{
	struct frame f;
	if (encoded < 0 ||
		frame_decode(b->frame.data, b->frame.data + FRAME_HEADER_BYTES, &f, &b->err) < 0)
		die(b, "make a frame");
	uint64_t start = clock_now_ns();
	if (session_frame(b->session, &f, &b->frame, 0, &b->err) < 0)
		die(b, "session");
	b->session_ns += clock_now_ns() - start;
}

static void flush(struct bench *b)
{
	struct batch_stats stats = {0};
	if (b->batch.nruns == 0)
		return;
	b->batch.round = b->round;
	b->batch.page_bytes = PAGE;
	feed(b, batch_encode(1, &b->batch, b->pages,
			&(struct batch_encoding){.codec = codec_by_name("lz4")}, &b->frame,
			&stats));
	b->round_pages += b->batch.npages;
	b->round_frames++;
	b->batch.nruns = b->batch.npages = 0;
}

static void put_page(struct bench *b, uint64_t page)
{
	uint64_t at = BASE + page * PAGE;
	if (b->batch.nruns && b->batch.runs[b->batch.nruns - 1].end == at)
		b->batch.runs[b->batch.nruns - 1].end += PAGE;
	else
		b->batch.runs[b->batch.nruns++] = (struct page_run){at, at + PAGE};
	if (++b->batch.npages == BATCH_PAGES_MAX)
		flush(b);
}

static void report(const struct bench *b, const char *what, uint64_t bytes, uint64_t ns)
{
	double mb_per_second = ns ? (double)bytes * 1e3 / (double)ns : 0;
	printf(b->json ? "{\"memory\": \"%s\", \"what\": \"%s\", \"ms\": %.1f, \"mb_per_second\": "
			 "%.0f}\n"
		       : "%-18s %-22s %10.1f %9.0f\n",
		b->kind->name, what, (double)ns / 1e6, mb_per_second);
}

static void round_begin(struct bench *b, bool final)
{
	struct round_header m = {.number = b->round, .final = final};
	b->session_ns = b->round_pages = b->round_frames = 0;
	feed(b, round_header_encode(1, &m, &b->frame));
}

static void round_end(struct bench *b, const char *what)
{
	flush(b);
	struct round_end m = {
		.number = b->round, .pages = b->round_pages, .frames = b->round_frames};
	feed(b, round_end_encode(1, &m, &b->frame));
	b->round++;
	report(b, what, b->round_pages * PAGE, b->session_ns);
}

static void begin(struct bench *b)
{
	static const struct stream_header header = {.stream_id = {1},
		.architecture = "x86_64",
		.byte_order = "little",
		.page_bytes = PAGE,
		.features = FEATURE_LZ4,
		.software = "bench",
		.host = "here"};
	static const struct process_info info = {
		.pid = 1, .comm = "bench", .exe = "", .command_line = ""};
	struct session_options options = {.store = b->store};
	struct open_request request = {.session_id = {1}, .sink = SINK_IMAGE, .name = "bench"};
	static char name[] = "";
	struct mapping mapping = {.start = BASE,
		.end = BASE + b->bytes,
		.prot = 3,
		.kind = MAPPING_ANON,
		.name = name};
	struct mappings_message mappings = {.diff.added = {.v = &mapping, .len = 1}};
	struct mappings_cursor at = {0};

	if (session_new(&options, &b->session, &b->err) < 0 ||
		session_open(b->session, &request, &b->err) < 0)
		die(b, "open a session");
	feed(b, stream_header_encode(&header, &b->frame));
	feed(b, process_info_encode(1, &info, &b->frame));
	round_begin(b, false);
	feed(b, mappings_encode(1, &mappings, &at, &b->frame));
}

static void commit(struct bench *b)
{
	uint8_t registers[216] = {0};
	struct state_regset set = {
		.note_type = 1, .size_bytes = sizeof(registers), .data = registers};
	struct state_thread thread = {.tid = 1, .name = "bench", .regsets = &set, .nregsets = 1};
	struct process_state state = {
		.version = STATE_VERSION, .state = 'S', .threads = &thread, .nthreads = 1};
	struct commit m = {.stream_id = {1}, .rounds = b->round, .held_pages = b->bytes / PAGE};
	size_t at = 0;
	b->session_ns = 0;
	feed(b, state_encode(1, &state, &at, &b->frame));
	feed(b, commit_encode(&m, &b->frame));
	report(b, "commit", 0, b->session_ns);
	session_free(b->session);
	b->session = NULL;
}

static void read_back(struct bench *b)
{
	struct image *image;
	struct image_verdict verdict;
	uint64_t start = clock_now_ns();
	if (image_open(b->store, "bench", &image, &b->err) < 0)
		die(b, "open the image");
	report(b, "open", 0, clock_now_ns() - start);

	start = clock_now_ns();
	for (uint64_t at = 0; at < b->bytes; at += BATCH_BYTES) {
		if (image_read(image, 1, SPACE_PRIVATE, BASE + at, b->pages, BATCH_BYTES, &b->err) <
			0)
			die(b, "read the image");
	}
	report(b, "read all", b->bytes, clock_now_ns() - start);
	image_close(image);

	start = clock_now_ns();
	if (image_verify(b->store, "bench", NULL, NULL, &verdict, &b->err) < 0)
		die(b, "verify the image");
	if (verdict.damages) {
		fprintf(stderr, "bench_session: the image is damaged\n");
		exit(1);
	}
	report(b, "verify", b->bytes, clock_now_ns() - start);
}

/* Most memory that this process ever had, without the pages of files. */
static uint64_t peak_bytes(void)
{
	char line[256];
	uint64_t kib = 0;
	auto_fclose FILE *f = fopen("/proc/self/status", "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "VmHWM: %" SCNu64 " kB", &kib) == 1)
			break;
	}
	return kib << 10;
}

static void run(struct bench *b)
{
	uint64_t npages = b->bytes / PAGE;
	for (size_t i = 0; i < BATCH_PAGES_MAX; i++)
		b->kind->fill(b->pages + i * PAGE);
	begin(b);
	for (uint64_t p = 0; p < npages; p++)
		put_page(b, p);
	round_end(b, "first round");

	/* In ascending order, as a source sends: one of each hundred. */
	round_begin(b, false);
	for (uint64_t p = 0; p + 100 <= npages; p += 100)
		put_page(b, p + random_next() % 100);
	round_end(b, "1 % at random");

	round_begin(b, true);
	for (uint64_t p = 0; p < npages; p += 2)
		put_page(b, p);
	round_end(b, "every other page");
	commit(b);
	char text[UNITS_TEXT];
	if (b->json)
		printf("{\"memory\": \"%s\", \"what\": \"peak\", \"bytes\": %" PRIu64 "}\n",
			b->kind->name, peak_bytes());
	else
		printf("%-18s %-22s %10s\n", b->kind->name, "peak memory until here",
			units_format_bytes(text, peak_bytes()));
	read_back(b);
	if (store_remove(b->store, "bench", &b->err) < 0)
		die(b, "remove the image");
	b->round = 0;
}

int main(int argc, char **argv)
{
	static struct bench b = {.bytes = UINT64_C(4) << 30};
	char folder[4096] = "/dev/shm/tidemark-bench-session";
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--json") == 0) {
			b.json = true;
		} else if (strcmp(argv[i], "--size") == 0 && i + 1 < argc &&
			   units_parse_bytes(argv[++i], &b.bytes) == 0) {
			b.bytes -= b.bytes % BATCH_BYTES;
		} else if (argv[i][0] != '-') {
			snprintf(folder, sizeof(folder), "%s", argv[i]);
		} else {
			fprintf(stderr, "usage: %s [--json] [--size BYTES] [STORE]\n", argv[0]);
			return 2;
		}
	}

	b.pages = malloc(BATCH_BYTES);
	if (!b.pages || b.bytes == 0) {
		fprintf(stderr, "%s: nothing to send\n", argv[0]);
		return 1;
	}
	if (mkdir(folder, 0700) < 0 || store_open(folder, STORE_WRITE, &b.store, &b.err) < 0) {
		fprintf(stderr, "%s: cannot make %s\n", argv[0], folder);
		return 1;
	}
	if (!b.json)
		printf("%-18s %-22s %10s %9s\n", "memory", "", "ms", "MB/s");
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		b.kind = &kinds[i];
		run(&b);
	}

	static const char *const ours[] = {".tidemark", ".secret"};
	store_close(b.store);
	for (size_t i = 0; i < 2; i++) {
		char path[4200];
		snprintf(path, sizeof(path), "%s/%s", folder, ours[i]);
		unlink(path);
	}
	rmdir(folder);
	frame_buffer_release(&b.frame);
	free(b.pages);
	return 0;
}
