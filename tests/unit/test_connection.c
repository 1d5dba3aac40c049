/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "base/error.h"
#include "proto/message.h"
#include "tests/sockets.h"
#include "transport/connection.h"

/* --- two ends --------------------------------------------------------------------------------- */

#define SENDERS 2

/* One end of a connection, and what happened to it. */
struct side {
	struct connection *c;
	uint64_t frames, frames_of[SENDERS]; /* received, in all and of each sender */
	uint64_t payload_bytes;
	uint64_t want;        /* `has_all` once there are as many frames */
	uint64_t pause_after; /* this many frames; 0: never */
	uint64_t frames_after_pause;
	struct frame_buffer taken;
	struct tide_error error;
	struct error_message told; /* the last ERROR frame */
	bool is_in_order, is_right, has_all, takes;
	bool ended, has_error, closed;
};

/* What a test frame says in its head. */
struct tag {
	uint32_t sender;
	uint32_t bytes;
	uint64_t number;
};

static uint8_t payload_byte(const struct tag *t, size_t i)
{
	return (uint8_t)(t->number * 31 + t->sender * 7 + i);
}

static void frame_make(struct frame_buffer *b, uint32_t sender, uint64_t number, uint32_t bytes)
{
	struct tag t = {.sender = sender, .number = number, .bytes = bytes};
	uint8_t *payload = malloc(bytes + 1);
	for (size_t i = 0; i < bytes; i++)
		payload[i] = payload_byte(&t, i);
	struct frame f = {.type = FRAME_PAGES,
		.flags = FRAME_CRITICAL,
		.process = 1,
		.head = (const uint8_t *)&t,
		.head_bytes = sizeof(t),
		.payload = payload,
		.payload_bytes = bytes};
	if (frame_buffer_encode(b, &f) < 0)
		abort();
	free(payload);
}

static void note_frame(struct side *s, const struct frame *f)
{
	struct tag t;
	if (f->type == FRAME_ERROR) {
		CU_ASSERT_EQUAL(error_message_decode(f, &s->told, NULL), 0);
		return;
	}
	CU_ASSERT_EQUAL_FATAL(f->head_bytes, sizeof(t));
	memcpy(&t, f->head, sizeof(t));
	CU_ASSERT_TRUE_FATAL(t.sender < SENDERS);
	s->is_in_order &= t.number == s->frames_of[t.sender]++;
	s->is_right &= f->payload_bytes == t.bytes;
	for (size_t i = 0; i < f->payload_bytes; i++)
		s->is_right &= f->payload[i] == payload_byte(&t, i);
	s->payload_bytes += f->payload_bytes;
	s->frames++;
	s->has_all = s->want && s->frames >= s->want;
}

static void on_frame(void *arg, struct connection *c, const struct frame *f)
{
	struct side *s = arg;
	note_frame(s, f);
	if (s->takes) {
		frame_buffer_release(&s->taken);
		connection_take(c, &s->taken);
	}
	if (s->pause_after && s->frames > s->pause_after)
		s->frames_after_pause++;
	if (s->pause_after && s->frames == s->pause_after)
		connection_pause(c);
}

static void on_ended(void *arg, struct connection *c, const struct tide_error *err)
{
	struct side *s = arg;
	CU_ASSERT_FALSE(s->ended);
	s->ended = true;
	s->has_error = err;
	if (err)
		s->error = *err;
}

static void side_open(struct side *s, struct byte_stream *stream, struct connection_options options)
{
	*s = (struct side){.is_in_order = true, .is_right = true};
	struct connection_handler h = {.frame = on_frame, .ended = on_ended, .arg = s};
	CU_ASSERT_EQUAL_FATAL(connection_open(&loop, stream, &options, &h, &s->c, NULL), 0);
}

static void side_close(struct side *s)
{
	if (s->c)
		connection_close(s->c, loop_set_flag, &s->closed);
	s->c = NULL;
	loop_until(&s->closed);
	frame_buffer_release(&s->taken);
}

static void sides_open(struct side s[2], size_t step, struct connection_options options)
{
	struct byte_stream *ends[2];
	CU_ASSERT_EQUAL_FATAL(byte_stream_memory_pair(&loop, 65536, step, ends), 0);
	side_open(&s[0], ends[0], options);
	side_open(&s[1], ends[1], options);
}

static void sides_close(struct side s[2])
{
	side_close(&s[0]);
	side_close(&s[1]);
}

static void send_frame(struct side *s, uint64_t number, uint32_t bytes)
{
	struct frame_buffer b = {0};
	frame_make(&b, 0, number, bytes);
	CU_ASSERT_EQUAL(connection_send(s->c, &b, NULL), 0);
	CU_ASSERT_PTR_NULL(b.data);
}

static struct side sides[2];

/* --- frames through --------------------------------------------------------------- */

static void test_frames_arrive_whole_however_the_bytes_are_cut(void)
{
	static const size_t steps[] = {0, 1, 23, 24, 25, 4096};
	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		sides_open(sides, steps[i], (struct connection_options){0});
		sides[1].want = 40;
		for (uint64_t n = 0; n < 40; n++)
			send_frame(&sides[0], n, (uint32_t)(n * n * 3 % 5000));
		loop_until(&sides[1].has_all);
		CU_ASSERT_TRUE(sides[1].is_in_order && sides[1].is_right);
		struct connection_stats sent = connection_stats(sides[0].c);
		struct connection_stats got = connection_stats(sides[1].c);
		CU_ASSERT_EQUAL(sent.bytes_sent, got.bytes_received);
		CU_ASSERT_EQUAL(sent.queued_bytes, 0);
		sides_close(sides);
	}
}

static void test_both_sides_send_at_once(void)
{
	sides_open(sides, 997, (struct connection_options){0});
	for (int i = 0; i < 2; i++) {
		sides[i].want = 100;
		for (uint64_t n = 0; n < 100; n++)
			send_frame(&sides[i], n, 3000);
	}
	loop_until(&sides[0].has_all);
	loop_until(&sides[1].has_all);
	CU_ASSERT_TRUE(sides[0].is_right && sides[1].is_right);
	sides_close(sides);
}

static void test_the_largest_frame_passes_and_a_lower_limit_refuses_it(void)
{
	struct frame_buffer b = {0};
	sides_open(sides, 0, (struct connection_options){0});
	sides[1].want = 1;
	send_frame(&sides[0], 0, FRAME_PAYLOAD_MAX);
	loop_until(&sides[1].has_all);
	CU_ASSERT_TRUE(sides[1].is_right);

	connection_limit(
		sides[1].c, (struct frame_limits){.head_bytes = 64, .payload_bytes = 1000});
	frame_make(&b, 0, 1, 1001);
	CU_ASSERT_EQUAL(connection_send(sides[0].c, &b, NULL), 0);
	loop_until(&sides[0].ended);
	side_close(&sides[0]);
	loop_until(&sides[1].ended);
	CU_ASSERT_TRUE(sides[1].has_error);
	CU_ASSERT_EQUAL(sides[1].error.code, -EBADMSG);
	side_close(&sides[1]);
}

static void test_a_frame_can_be_taken_over(void)
{
	sides_open(sides, 100, (struct connection_options){0});
	sides[1].takes = true;
	sides[1].want = 2;
	send_frame(&sides[0], 0, 1000);
	send_frame(&sides[0], 1, 2000);
	loop_until(&sides[1].has_all);
	CU_ASSERT_TRUE(sides[1].is_right);

	struct frame_buffer expected = {0};
	frame_make(&expected, 0, 1, 2000);
	CU_ASSERT_EQUAL_FATAL(sides[1].taken.bytes, expected.bytes);
	CU_ASSERT_EQUAL(memcmp(sides[1].taken.data, expected.data, expected.bytes), 0);
	frame_buffer_release(&expected);
	sides_close(sides);
}

static void test_pausing_stops_at_once_and_loses_nothing(void)
{
	sides_open(sides, 0, (struct connection_options){0});
	sides[1].pause_after = 5;
	for (uint64_t n = 0; n < 20; n++)
		send_frame(&sides[0], n, 100);
	while (sides[1].frames < 5)
		uv_run(&loop, UV_RUN_ONCE);
	loop_settle();
	CU_ASSERT_EQUAL(sides[1].frames, 5);
	CU_ASSERT_EQUAL(sides[1].frames_after_pause, 0);

	sides[1].want = 20;
	sides[1].pause_after = 0;
	connection_resume(sides[1].c);
	loop_until(&sides[1].has_all);
	CU_ASSERT_TRUE(sides[1].is_in_order && sides[1].is_right);
	sides_close(sides);
}

static void test_another_handler_gets_the_next_frame(void)
{
	sides_open(sides, 0, (struct connection_options){0});
	struct side other = {.is_in_order = true, .is_right = true, .want = 1, .frames_of = {1}};
	sides[1].pause_after = 1;
	send_frame(&sides[0], 0, 10);
	send_frame(&sides[0], 1, 10);
	while (sides[1].frames < 1)
		uv_run(&loop, UV_RUN_ONCE);
	struct connection_handler h = {.frame = on_frame, .ended = on_ended, .arg = &other};
	connection_set_handler(sides[1].c, &h);
	connection_resume(sides[1].c);
	loop_until(&other.has_all);
	CU_ASSERT_EQUAL(sides[1].frames, 1);
	CU_ASSERT_TRUE(other.is_in_order);
	sides_close(sides);
}

/* --- the queue --------------------------------------------------------------- */

struct sender {
	pthread_t thread;
	struct connection *c;
	uint32_t number;
	uint64_t frames, sent;
	uint32_t bytes;
	int status;
	struct tide_error error;
	bool flushes;
};

static void *sender_run(void *arg)
{
	struct sender *s = arg;
	for (; s->sent < s->frames; s->sent++) {
		struct frame_buffer b;
		connection_buffer_get(s->c, &b);
		frame_make(&b, s->number, s->sent, s->bytes);
		s->status = connection_send(s->c, &b, &s->error);
		if (s->status < 0)
			break;
	}
	if (s->status == 0 && s->flushes)
		s->status = connection_flush(s->c, &s->error);
	connection_unref(s->c);
	return NULL;
}

static void sender_begin(struct sender *s, struct side *side)
{
	s->c = connection_ref(side->c);
	CU_ASSERT_EQUAL_FATAL(pthread_create(&s->thread, NULL, sender_run, s), 0);
}

static void sender_start(
	struct sender *s, struct side *side, uint32_t number, uint64_t frames, uint32_t bytes)
{
	*s = (struct sender){.number = number, .frames = frames, .bytes = bytes};
	sender_begin(s, side);
}

static void sender_start_with_flush(
	struct sender *s, struct side *side, uint64_t frames, uint32_t bytes)
{
	*s = (struct sender){.frames = frames, .bytes = bytes, .flushes = true};
	sender_begin(s, side);
}

static void test_two_threads_send_each_in_order(void)
{
	struct sender senders[SENDERS];
	sides_open(sides, 0, (struct connection_options){.queue_bytes = 100000});
	sides[1].want = SENDERS * 300;
	for (uint32_t i = 0; i < SENDERS; i++)
		sender_start(&senders[i], &sides[0], i, 300, 4000);
	loop_until(&sides[1].has_all);
	for (uint32_t i = 0; i < SENDERS; i++) {
		pthread_join(senders[i].thread, NULL);
		CU_ASSERT_EQUAL(senders[i].status, 0);
		CU_ASSERT_EQUAL(sides[1].frames_of[i], 300);
	}
	CU_ASSERT_TRUE(sides[1].is_in_order && sides[1].is_right);
	sides_close(sides);
}

/* Runs the loop until the peer's pause has filled everything: the queue has no room for another
 * frame of that size. */
static void fill(struct side *s, uint32_t bytes)
{
	int r = 0;
	for (unsigned quiet = 0; quiet < 3;) {
		struct frame_buffer b = {0};
		frame_make(&b, 1, s->want, bytes);
		r = connection_try_send(s->c, &b, NULL);
		CU_ASSERT_TRUE(r == 0 || r == -EAGAIN);
		CU_ASSERT_EQUAL(b.data == NULL, r == 0);
		frame_buffer_release(&b);
		s->want += r == 0;
		quiet = r == 0 ? 0 : quiet + 1;
		loop_settle();
	}
}

static void test_the_queue_stays_within_its_bound_while_the_peer_does_not_read(void)
{
	enum { BOUND = 1 << 20, FRAME_BYTES = 60000 };
	struct sender senders[SENDERS];
	sides_open(sides, 0, (struct connection_options){.queue_bytes = BOUND});
	connection_pause(sides[1].c);
	fill(&sides[0], FRAME_BYTES);
	uint64_t before = sides[0].want; /* sent as sender 1's */
	CU_ASSERT_TRUE(connection_stats(sides[0].c).queued_bytes > BOUND / 2);

	/* Threads wait now; nothing that they do gets it over the bound. */
	sides[0].want = 0;
	sender_start(&senders[0], &sides[0], 0, 200, FRAME_BYTES);
	for (int i = 0; i < 50; i++) {
		loop_settle();
		CU_ASSERT_TRUE(connection_stats(sides[0].c).queued_bytes <= BOUND);
	}
	CU_ASSERT_TRUE(__atomic_load_n(&senders[0].sent, __ATOMIC_RELAXED) < 200);

	sides[1].want = before + 200;
	connection_resume(sides[1].c);
	while (!sides[1].has_all && uv_run(&loop, UV_RUN_ONCE))
		CU_ASSERT_TRUE(connection_stats(sides[0].c).queued_bytes <= BOUND);
	pthread_join(senders[0].thread, NULL);
	CU_ASSERT_EQUAL(senders[0].status, 0);
	CU_ASSERT_TRUE(sides[1].is_in_order && sides[1].is_right);
	sides_close(sides);
}

static void test_a_frame_larger_than_the_bound_goes_alone(void)
{
	sides_open(sides, 0, (struct connection_options){.queue_bytes = 1000});
	struct sender sender;
	sides[1].want = 20;
	sender_start(&sender, &sides[0], 0, 20, 50000);
	loop_until(&sides[1].has_all);
	pthread_join(sender.thread, NULL);
	CU_ASSERT_EQUAL(sender.status, 0);
	sides_close(sides);
}

static void test_storage_is_used_again(void)
{
	sides_open(sides, 0, (struct connection_options){0});
	sides[1].want = 1;
	struct frame_buffer b = {0};
	frame_make(&b, 0, 0, 1 << 20);
	const void *storage = b.storage;
	CU_ASSERT_EQUAL(connection_send(sides[0].c, &b, NULL), 0);
	loop_until(&sides[1].has_all);
	loop_settle();
	connection_buffer_get(sides[0].c, &b);
	CU_ASSERT_PTR_EQUAL(b.storage, storage);
	CU_ASSERT_EQUAL(b.bytes, 0);
	frame_make(&b, 0, 1, 1 << 20);
	CU_ASSERT_PTR_EQUAL(b.storage, storage);
	connection_buffer_put(sides[0].c, &b);
	CU_ASSERT_PTR_NULL(b.storage);
	connection_buffer_get(sides[0].c, &b);
	CU_ASSERT_PTR_EQUAL(b.storage, storage);
	frame_buffer_release(&b);
	sides_close(sides);
}

static void test_closing_wakes_those_who_wait(void)
{
	struct sender senders[SENDERS];
	sides_open(sides, 0, (struct connection_options){.queue_bytes = 200000});
	connection_pause(sides[1].c);
	fill(&sides[0], 50000);
	for (uint32_t i = 0; i < SENDERS; i++)
		sender_start(&senders[i], &sides[0], i, 10, 50000);
	loop_settle();
	side_close(&sides[0]);
	for (uint32_t i = 0; i < SENDERS; i++) {
		pthread_join(senders[i].thread, NULL);
		CU_ASSERT_EQUAL(senders[i].status, -EPIPE);
		CU_ASSERT_EQUAL(senders[i].error.code, -EPIPE);
		CU_ASSERT_STRING_EQUAL(
			senders[i].error.text, "the connection to memory was closed");
	}
	side_close(&sides[1]);
}

static void test_a_reference_outlives_the_close(void)
{
	sides_open(sides, 0, (struct connection_options){0});
	struct connection *c = connection_ref(sides[0].c);
	sides_close(sides);
	struct frame_buffer b = {0};
	frame_make(&b, 0, 0, 10);
	CU_ASSERT_EQUAL(connection_send(c, &b, NULL), -EPIPE);
	CU_ASSERT_PTR_NULL(b.data);
	frame_make(&b, 0, 0, 10);
	CU_ASSERT_EQUAL(connection_try_send(c, &b, NULL), -EPIPE);
	CU_ASSERT_PTR_NULL(b.data);
	connection_shutdown(c);
	connection_fail(c, &(struct tide_error){.code = -EIO});
	CU_ASSERT_STRING_EQUAL(connection_peer(c)->name, "memory");
	connection_unref(c);
}

struct flushed {
	bool done, failed;
};

static void on_flushed(void *arg, const struct tide_error *err)
{
	struct flushed *f = arg;
	CU_ASSERT_FALSE(f->done);
	f->done = true;
	f->failed = err;
}

static void test_a_flush_waits_for_what_was_queued_before(void)
{
	sides_open(sides, 0, (struct connection_options){0});
	struct sender sender;
	sender_start_with_flush(&sender, &sides[0], 100, 5000);
	for (struct connection_stats s = {0}; s.bytes_sent < 100 * 5000;
		s = connection_stats(sides[0].c))
		uv_run(&loop, UV_RUN_ONCE);

	struct flushed f = {0};
	send_frame(&sides[0], 100, 5000);
	CU_ASSERT_EQUAL(connection_flush_then(sides[0].c, on_flushed, &f), 0);
	CU_ASSERT_FALSE(f.done);
	loop_until(&f.done);
	CU_ASSERT_FALSE(f.failed);
	CU_ASSERT_EQUAL(connection_stats(sides[0].c).queued_bytes, 0);
	pthread_join(sender.thread, NULL);
	CU_ASSERT_EQUAL(sender.status, 0);
	sides_close(sides);
}

static void test_a_flush_that_cannot_be_is_told(void)
{
	struct sender sender;
	struct flushed f = {0};
	sides_open(sides, 0, (struct connection_options){0});
	connection_pause(sides[1].c);
	for (uint64_t n = 0; n < 40; n++)
		send_frame(&sides[0], n, 5000);
	CU_ASSERT_EQUAL(connection_flush_then(sides[0].c, on_flushed, &f), 0);
	sender_start_with_flush(&sender, &sides[0], 0, 0);
	loop_settle();
	CU_ASSERT_FALSE(f.done);
	side_close(&sides[1]);
	loop_until(&f.done);
	CU_ASSERT_TRUE(f.failed);
	loop_until(&sides[0].ended);
	pthread_join(sender.thread, NULL);
	CU_ASSERT_EQUAL(sender.status, -EPIPE);
	side_close(&sides[0]);

	/* Closed by ourselves. */
	struct flushed late = {0};
	sides_open(sides, 0, (struct connection_options){0});
	connection_pause(sides[1].c);
	for (uint64_t n = 0; n < 40; n++)
		send_frame(&sides[0], n, 5000);
	loop_settle();
	CU_ASSERT_EQUAL(connection_flush_then(sides[0].c, on_flushed, &late), 0);
	side_close(&sides[0]);
	CU_ASSERT_TRUE(late.done && late.failed);
	side_close(&sides[1]);
}

/* --- a peer that is one of ours, byte by byte ------------------------------------------------ */

struct raw {
	struct byte_stream *s;
	uint8_t read[1 << 16];
	size_t nread;
	bool ended, closed;
	bool in_write;
};

static void raw_space(void *arg, uint8_t **ret, size_t *ret_bytes)
{
	struct raw *r = arg;
	*ret = r->read;
	*ret_bytes = sizeof(r->read);
}

static void raw_read(void *arg, ssize_t bytes)
{
	struct raw *r = arg;
	if (bytes > 0)
		r->nread += (size_t)bytes;
	else
		r->ended = true;
}

static void raw_written(void *arg, int status)
{
	((struct raw *)arg)->in_write = false;
}

static void raw_write(struct raw *r, const void *bytes, size_t n)
{
	uv_buf_t buf = uv_buf_init((char *)bytes, (unsigned)n);
	r->in_write = true;
	CU_ASSERT_EQUAL_FATAL(r->s->ops->write(r->s, &buf, 1, raw_written, r), 0);
	while (r->in_write)
		uv_run(&loop, UV_RUN_ONCE);
}

static void raw_write_preamble(struct raw *r)
{
	uint8_t preamble[PREAMBLE_BYTES];
	preamble_encode(preamble);
	raw_write(r, preamble, sizeof(preamble));
}

static void raw_close(struct raw *r)
{
	byte_stream_close(r->s, loop_set_flag, &r->closed);
	loop_until(&r->closed);
}

/* sides[0] against a raw peer, which reads where asked to. */
static void raw_open(struct raw *r, bool reads, struct connection_options options)
{
	struct byte_stream *ends[2];
	memset(r, 0, sizeof(*r));
	CU_ASSERT_EQUAL_FATAL(byte_stream_memory_pair(&loop, 4096, 0, ends), 0);
	side_open(&sides[0], ends[0], options);
	r->s = ends[1];
	if (!reads)
		return;
	CU_ASSERT_EQUAL(r->s->ops->read_start(r->s, raw_space, raw_read, r), 0);
	while (r->nread < PREAMBLE_BYTES && uv_run(&loop, UV_RUN_ONCE))
		;
}

static struct raw raw;

static void test_an_end_between_frames_is_clean(void)
{
	struct frame_buffer b = {0};
	frame_make(&b, 0, 0, 100);
	raw_open(&raw, true, (struct connection_options){0});
	raw_write_preamble(&raw);
	raw_write(&raw, b.data, b.bytes);
	raw_close(&raw);
	loop_until(&sides[0].ended);
	CU_ASSERT_FALSE(sides[0].has_error);
	CU_ASSERT_EQUAL(sides[0].frames, 1);

	struct tide_error err = {0};
	CU_ASSERT_EQUAL(connection_send(sides[0].c, &b, &err), -EPIPE);
	CU_ASSERT_STRING_EQUAL(err.text, "memory closed the connection");
	side_close(&sides[0]);
}

static void test_an_end_within_a_frame_is_an_error_that_says_where(void)
{
	struct frame_buffer b = {0};
	frame_make(&b, 0, 0, 100);
	/* In the preamble, in a header, in a head, in a payload. */
	size_t cuts[] = {1, PREAMBLE_BYTES - 1, PREAMBLE_BYTES + 1, PREAMBLE_BYTES + 30,
		PREAMBLE_BYTES + b.bytes - 1};
	uint8_t bytes[512];
	preamble_encode(bytes);
	memcpy(bytes + PREAMBLE_BYTES, b.data, b.bytes);
	for (unsigned i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		raw_open(&raw, true, (struct connection_options){0});
		raw_write(&raw, bytes, cuts[i]);
		raw_close(&raw);
		loop_until(&sides[0].ended);
		CU_ASSERT_TRUE(sides[0].has_error);
		CU_ASSERT_EQUAL(sides[0].error.code, -EBADMSG);
		CU_ASSERT_EQUAL(strncmp(sides[0].error.text, "memory: ", 8), 0);
		side_close(&sides[0]);
	}
	frame_buffer_release(&b);
}

static void test_silence_ends_it(void)
{
	raw_open(&raw, true, (struct connection_options){.timeout_ns = 30 * NS_PER_MS});
	loop_until(&sides[0].ended);
	CU_ASSERT_TRUE(sides[0].has_error);
	CU_ASSERT_EQUAL(sides[0].error.code, -ETIMEDOUT);
	CU_ASSERT_STRING_EQUAL(sides[0].error.text, "memory sent nothing for 30 ms");
	/* It was asked before it was given up: the preamble, and PINGs. */
	CU_ASSERT_TRUE(raw.nread >= PREAMBLE_BYTES + FRAME_HEADER_BYTES);
	side_close(&sides[0]);
	raw_close(&raw);
}

static void on_chatter(uv_timer_t *timer)
{
	struct raw *r = timer->data;
	static uint8_t ping[FRAME_HEADER_BYTES];
	frame_header_encode(&(struct frame){.type = FRAME_PING}, ping);
	uv_buf_t buf = uv_buf_init((char *)ping, sizeof(ping));
	if (!r->in_write)
		r->in_write = r->s->ops->write(r->s, &buf, 1, raw_written, r) == 0;
}

/* It says that it lives, and takes nothing. */
static void test_a_peer_that_takes_nothing_is_dead_too(void)
{
	raw_open(&raw, false, (struct connection_options){.timeout_ns = 60 * NS_PER_MS});
	raw_write_preamble(&raw);
	uv_timer_t chatter;
	uv_timer_init(&loop, &chatter);
	chatter.data = &raw;
	uv_timer_start(&chatter, on_chatter, 0, 5);
	send_frame(&sides[0], 0, 100000);
	loop_until(&sides[0].ended);
	CU_ASSERT_TRUE(sides[0].has_error);
	CU_ASSERT_EQUAL(sides[0].error.code, -ETIMEDOUT);
	CU_ASSERT_STRING_EQUAL(sides[0].error.text, "memory took nothing for 60 ms");
	uv_close((uv_handle_t *)&chatter, NULL);
	side_close(&sides[0]);
	raw_close(&raw);
}

/* It says nothing, but takes what it is sent, more slowly than the timeout allows for all of it. */
static void test_a_slow_peer_is_not_dead(void)
{
	enum { STEP = 4096 };
	raw_open(&raw, false, (struct connection_options){.timeout_ns = 60 * NS_PER_MS});
	raw_write_preamble(&raw);
	send_frame(&sides[0], 0, 40 * STEP);
	uint64_t begin = clock_now_ns();
	while (clock_now_ns() - begin < 240 * NS_PER_MS && !sides[0].ended) {
		size_t before = raw.nread;
		CU_ASSERT_EQUAL(raw.s->ops->read_start(raw.s, raw_space, raw_read, &raw), 0);
		while (raw.nread == before && uv_run(&loop, UV_RUN_ONCE))
			;
		raw.s->ops->read_stop(raw.s);
		uint64_t until = clock_now_ns() + 5 * NS_PER_MS;
		while (clock_now_ns() < until)
			uv_run(&loop, UV_RUN_NOWAIT);
	}
	CU_ASSERT_FALSE(sides[0].ended);
	side_close(&sides[0]);
	raw_close(&raw);
}

static void test_two_idle_ends_keep_each_other_alive(void)
{
	sides_open(sides, 0, (struct connection_options){.timeout_ns = 40 * NS_PER_MS});
	/* Ten PINGs take more than three timeouts. */
	while (connection_stats(sides[0].c).bytes_received <
			PREAMBLE_BYTES + 10 * FRAME_HEADER_BYTES &&
		uv_run(&loop, UV_RUN_ONCE))
		;
	CU_ASSERT_FALSE(sides[0].ended || sides[1].ended);
	CU_ASSERT_EQUAL(sides[0].frames + sides[1].frames, 0);
	sides_close(sides);
}

static void test_silence_while_paused_does_not_count(void)
{
	raw_open(&raw, true, (struct connection_options){.timeout_ns = 20 * NS_PER_MS});
	connection_pause(sides[0].c);
	uint64_t begin = clock_now_ns();
	while (clock_now_ns() - begin < 100 * NS_PER_MS)
		uv_run(&loop, UV_RUN_ONCE);
	CU_ASSERT_FALSE(sides[0].ended);

	connection_resume(sides[0].c);
	loop_until(&sides[0].ended);
	CU_ASSERT_EQUAL(sides[0].error.code, -ETIMEDOUT);
	side_close(&sides[0]);
	raw_close(&raw);
}

static void test_another_protocol_is_told_by_what_it_sent(void)
{
	static const struct {
		const char *sent, *quoted;
	} strangers[] = {
		{"HTTP/1.1 400 Bad Request\r\n\r\n", "\"HTTP/1.1 400 Bad"},
		{"-ERR unknown command\r\n", "\"-ERR unknown com"},
		{"220 x\r\n", "\"220 x"}, /* less than our preamble, and it waits for an answer */
	};
	for (unsigned i = 0; i < sizeof(strangers) / sizeof(strangers[0]); i++) {
		raw_open(&raw, true, (struct connection_options){0});
		raw_write(&raw, strangers[i].sent, strlen(strangers[i].sent));
		loop_until(&sides[0].ended);
		CU_ASSERT_TRUE(sides[0].has_error);
		CU_ASSERT_EQUAL(strncmp(sides[0].error.text, "memory: ", 8), 0);
		CU_ASSERT_PTR_NOT_NULL(strstr(sides[0].error.text, strangers[i].quoted));
		/* It got our preamble at most, no words of ours. */
		loop_settle();
		CU_ASSERT_TRUE(raw.nread <= PREAMBLE_BYTES);
		side_close(&sides[0]);
		raw_close(&raw);
	}
}

static void test_a_peer_that_only_closes_is_told_as_such(void)
{
	raw_open(&raw, true, (struct connection_options){0});
	loop_settle();
	raw_close(&raw);
	loop_until(&sides[0].ended);
	CU_ASSERT_TRUE(sides[0].has_error);
	CU_ASSERT_STRING_EQUAL(sides[0].error.text, "memory closed the connection without a word");
	side_close(&sides[0]);
}

static void test_a_damaged_frame_ends_it_and_the_peer_is_told_why(void)
{
	struct frame_buffer b = {0};
	frame_make(&b, 0, 0, 100);
	b.data[b.bytes - 1] ^= 1;
	sides_open(sides, 0, (struct connection_options){0});
	CU_ASSERT_EQUAL(connection_send(sides[0].c, &b, NULL), 0);
	loop_until(&sides[0].ended);
	side_close(&sides[0]);
	loop_until(&sides[1].ended);
	CU_ASSERT_EQUAL(sides[1].frames, 0);
	CU_ASSERT_TRUE(sides[1].has_error);
	CU_ASSERT_EQUAL(sides[1].error.code, -EBADMSG);
	CU_ASSERT_STRING_EQUAL(sides[0].told.text, sides[1].error.text);
	CU_ASSERT_FALSE(sides[0].has_error);
	side_close(&sides[1]);
}

/* --- ends --------------------------------------------------------------- */

static void test_a_shutdown_comes_after_all_that_was_queued(void)
{
	sides_open(sides, 997, (struct connection_options){0});
	for (uint64_t n = 0; n < 50; n++)
		send_frame(&sides[0], n, 4000);
	connection_shutdown(sides[0].c);
	struct frame_buffer b = {0};
	frame_make(&b, 0, 0, 10);
	struct tide_error err = {0};
	CU_ASSERT_EQUAL(connection_send(sides[0].c, &b, &err), -EPIPE);
	CU_ASSERT_STRING_EQUAL(err.text, "memory was shut down");
	loop_until(&sides[1].ended);
	CU_ASSERT_FALSE(sides[1].has_error);
	CU_ASSERT_EQUAL(sides[1].frames, 50);
	CU_ASSERT_FALSE(sides[0].ended);
	side_close(&sides[1]);
	loop_until(&sides[0].ended);
	CU_ASSERT_FALSE(sides[0].has_error);
	side_close(&sides[0]);
}

static void test_a_peer_that_does_not_close_after_a_shutdown_is_not_waited_for(void)
{
	raw_open(&raw, true, (struct connection_options){.timeout_ns = 30 * NS_PER_MS});
	connection_shutdown(sides[0].c);
	loop_until(&sides[0].ended);
	CU_ASSERT_FALSE(sides[0].has_error);
	side_close(&sides[0]);
	raw_close(&raw);
}

/* A peer that is in the middle of sending would, were we just to close, lose what we said last to
 * the reset that its bytes cause. */
static void test_last_words_reach_a_peer_that_is_sending(void)
{
	for (int i = 0; i < 10; i++) {
		int fds[2];
		tcp_pair(fds);
		side_open(&sides[0], stream_over(fds[0], STREAM_UV_TCP),
			(struct connection_options){0});
		side_open(&sides[1], stream_over(fds[1], STREAM_UV_TCP),
			(struct connection_options){0});
		struct sender sender;
		sender_start(&sender, &sides[0], 0, 1000, 1 << 20);
		sides[1].want = 3;
		loop_until(&sides[1].has_all);
		struct tide_error why = {.code = -ENOSPC, .kind = TIDE_ERROR_FAILED};
		snprintf(why.text, sizeof(why.text), "write the image");
		connection_fail(sides[1].c, &why);
		loop_until(&sides[0].ended);
		CU_ASSERT_STRING_EQUAL(
			sides[0].told.text, "write the image: No space left on device");
		pthread_join(sender.thread, NULL);
		CU_ASSERT_EQUAL(sender.status, -EPIPE);
		side_close(&sides[0]);
		loop_until(&sides[1].ended);
		CU_ASSERT_EQUAL(sides[1].error.code, -ENOSPC);
		side_close(&sides[1]);
	}
}

/* The other way round: the peer just says why and is gone, with our bytes unread. */
static void test_the_words_of_a_peer_that_is_gone_are_still_read(void)
{
	int fds[2];
	tcp_pair(fds);
	side_open(&sides[0], stream_over(fds[0], STREAM_UV_TCP), (struct connection_options){0});
	struct sender sender;
	sender_start(&sender, &sides[0], 0, 1000, 1 << 20);
	/* Until bytes lie unread at the peer. (How much of a write the kernel takes is its own
	 * affair.) */
	int unread = 0;
	while (ioctl(fds[1], FIONREAD, &unread) == 0 && unread < 1 << 16)
		uv_run(&loop, UV_RUN_NOWAIT);
	uint8_t preamble[PREAMBLE_BYTES];
	preamble_encode(preamble);
	struct frame_buffer b = {0};
	struct error_message m = {.kind = TIDE_ERROR_FAILED, .text = "no more"};
	CU_ASSERT_EQUAL_FATAL(error_message_encode(&m, &b), 0);
	CU_ASSERT_EQUAL(write(fds[1], preamble, sizeof(preamble)), PREAMBLE_BYTES);
	CU_ASSERT_EQUAL(write(fds[1], b.data, b.bytes), (ssize_t)b.bytes);
	frame_buffer_release(&b);
	close(fds[1]);
	loop_until(&sides[0].ended);
	/* Whether its end shows as a reset or as an end depends on when the kernel says what. */
	if (sides[0].has_error)
		CU_ASSERT_EQUAL(
			strncmp(sides[0].error.text, "lost the connection to tcp://", 29), 0);
	CU_ASSERT_STRING_EQUAL(sides[0].told.text, "no more");
	pthread_join(sender.thread, NULL);
	CU_ASSERT_EQUAL(sender.status, -EPIPE);
	side_close(&sides[0]);
}

static void on_frame_close(void *arg, struct connection *c, const struct frame *f)
{
	struct side *s = arg;
	s->frames++;
	connection_close(s->c, loop_set_flag, &s->closed);
	s->c = NULL;
}

static void test_it_can_be_closed_from_its_own_callbacks(void)
{
	sides_open(sides, 0, (struct connection_options){0});
	struct connection_handler h = {
		.frame = on_frame_close, .ended = on_ended, .arg = &sides[1]};
	connection_set_handler(sides[1].c, &h);
	send_frame(&sides[0], 0, 10);
	send_frame(&sides[0], 1, 10);
	loop_until(&sides[1].closed);
	CU_ASSERT_EQUAL(sides[1].frames, 1);
	CU_ASSERT_FALSE(sides[1].ended);
	loop_until(&sides[0].ended);
	side_close(&sides[0]);
}

static void test_closing_before_anything_has_happened_is_fine(void)
{
	sides_open(sides, 0, (struct connection_options){0});
	send_frame(&sides[0], 0, 10);
	connection_fail(sides[0].c, &(struct tide_error){.code = -EIO});
	sides_close(sides);
	CU_ASSERT_FALSE(sides[0].ended);
	connection_close(NULL, NULL, NULL);
	connection_unref(NULL);
}

/* --- recordings --------------------------------------------------------------- */

static struct tide_address recording(void)
{
	struct tide_address at = {.kind = TIDE_ADDRESS_FILE};
	snprintf(at.path, sizeof(at.path), "%s/recording", folder);
	return at;
}

static void record_open(void)
{
	struct tide_address at = recording();
	struct byte_stream *s;
	CU_ASSERT_EQUAL_FATAL(byte_stream_open(&loop, &at, BYTE_STREAM_WRITE, &s, NULL), 0);
	side_open(&sides[0], s, (struct connection_options){.direction = CONNECTION_SEND});
}

static void test_a_recording_is_read_back(void)
{
	struct tide_address at = recording();
	struct sender sender;
	record_open();
	sender_start_with_flush(&sender, &sides[0], 50, 100000);
	for (struct connection_stats s = {0}; s.bytes_sent < 50 * 100000;
		s = connection_stats(sides[0].c))
		uv_run(&loop, UV_RUN_ONCE);
	CU_ASSERT_EQUAL(access(at.path, F_OK), -1);
	connection_shutdown(sides[0].c);
	loop_until(&sides[0].ended);
	CU_ASSERT_FALSE(sides[0].has_error);
	pthread_join(sender.thread, NULL);
	side_close(&sides[0]);

	struct byte_stream *s;
	CU_ASSERT_EQUAL_FATAL(byte_stream_open(&loop, &at, BYTE_STREAM_READ, &s, NULL), 0);
	side_open(&sides[1], s, (struct connection_options){.direction = CONNECTION_RECEIVE});
	sides[1].pause_after = 10;
	while (sides[1].frames < 10)
		uv_run(&loop, UV_RUN_ONCE);
	loop_settle();
	CU_ASSERT_EQUAL(sides[1].frames, 10);
	connection_resume(sides[1].c);
	loop_until(&sides[1].ended);
	CU_ASSERT_FALSE(sides[1].has_error);
	CU_ASSERT_EQUAL(sides[1].frames, 50);
	CU_ASSERT_TRUE(sides[1].is_in_order && sides[1].is_right);
	side_close(&sides[1]);
}

static void test_a_recording_that_was_not_shut_down_does_not_appear(void)
{
	struct tide_address at = recording();
	record_open();
	send_frame(&sides[0], 0, 100000);
	while (connection_stats(sides[0].c).bytes_sent < 100000)
		uv_run(&loop, UV_RUN_ONCE);
	side_close(&sides[0]);
	CU_ASSERT_EQUAL(access(at.path, F_OK), -1);

	/* Nor one that failed, which tells nobody but us. */
	record_open();
	send_frame(&sides[0], 0, 1000);
	struct tide_error why = {.code = -ESRCH, .text = "the target went away"};
	connection_fail(sides[0].c, &why);
	loop_until(&sides[0].ended);
	CU_ASSERT_STRING_EQUAL(sides[0].error.text, "the target went away");
	side_close(&sides[0]);
	CU_ASSERT_EQUAL(access(at.path, F_OK), -1);
}

static void test_a_recording_whose_name_is_taken_meanwhile_fails(void)
{
	struct tide_address at = recording();
	record_open();
	send_frame(&sides[0], 0, 1000);
	close(open(at.path, O_CREAT | O_WRONLY, 0600));
	connection_shutdown(sides[0].c);
	loop_until(&sides[0].ended);
	CU_ASSERT_TRUE(sides[0].has_error);
	CU_ASSERT_EQUAL(sides[0].error.code, -EEXIST);
	CU_ASSERT_EQUAL(strncmp(sides[0].error.text, "finish file /tmp/", 17), 0);
	side_close(&sides[0]);
}

static void test_a_full_disk_is_told_to_the_sender(void)
{
	struct tide_address full = {.kind = TIDE_ADDRESS_FILE, .path = "/dev/full"};
	struct byte_stream *s;
	CU_ASSERT_EQUAL_FATAL(byte_stream_open(&loop, &full, BYTE_STREAM_WRITE, &s, NULL), 0);
	side_open(&sides[0], s, (struct connection_options){.direction = CONNECTION_SEND});
	struct sender sender;
	sender_start(&sender, &sides[0], 0, 10000, 1 << 16);
	loop_until(&sides[0].ended);
	CU_ASSERT_EQUAL(sides[0].error.code, -ENOSPC);
	CU_ASSERT_STRING_EQUAL(sides[0].error.text, "write to file /dev/full");
	pthread_join(sender.thread, NULL);
	CU_ASSERT_EQUAL(sender.status, -EPIPE);
	CU_ASSERT_STRING_EQUAL(sender.error.text, "write to file /dev/full");
	side_close(&sides[0]);
}

static void test_a_file_that_is_no_recording_is_refused(void)
{
	static const struct {
		const char *content, *words;
	} files[] = {{"", "recording is empty"}, {"#!/bin/sh\necho no recording\n", "\"#!/bin/sh"}};
	struct tide_address at = recording();
	for (unsigned i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		FILE *f = fopen(at.path, "w");
		fputs(files[i].content, f);
		fclose(f);
		struct byte_stream *s;
		CU_ASSERT_EQUAL_FATAL(byte_stream_open(&loop, &at, BYTE_STREAM_READ, &s, NULL), 0);
		side_open(
			&sides[0], s, (struct connection_options){.direction = CONNECTION_RECEIVE});
		loop_until(&sides[0].ended);
		CU_ASSERT_TRUE(sides[0].has_error);
		CU_ASSERT_PTR_NOT_NULL(strstr(sides[0].error.text, files[i].words));
		side_close(&sides[0]);
	}
}

static const struct test tests[] = {
	TEST(test_frames_arrive_whole_however_the_bytes_are_cut),
	TEST(test_both_sides_send_at_once),
	TEST(test_the_largest_frame_passes_and_a_lower_limit_refuses_it),
	TEST(test_a_frame_can_be_taken_over),
	TEST(test_pausing_stops_at_once_and_loses_nothing),
	TEST(test_another_handler_gets_the_next_frame),
	TEST(test_two_threads_send_each_in_order),
	TEST(test_the_queue_stays_within_its_bound_while_the_peer_does_not_read),
	TEST(test_a_frame_larger_than_the_bound_goes_alone),
	TEST(test_storage_is_used_again),
	TEST(test_closing_wakes_those_who_wait),
	TEST(test_a_reference_outlives_the_close),
	TEST(test_a_flush_waits_for_what_was_queued_before),
	TEST(test_a_flush_that_cannot_be_is_told),
	TEST(test_an_end_between_frames_is_clean),
	TEST(test_an_end_within_a_frame_is_an_error_that_says_where),
	TEST(test_silence_ends_it),
	TEST(test_a_peer_that_takes_nothing_is_dead_too),
	TEST(test_a_slow_peer_is_not_dead),
	TEST(test_two_idle_ends_keep_each_other_alive),
	TEST(test_silence_while_paused_does_not_count),
	TEST(test_another_protocol_is_told_by_what_it_sent),
	TEST(test_a_peer_that_only_closes_is_told_as_such),
	TEST(test_a_damaged_frame_ends_it_and_the_peer_is_told_why),
	TEST(test_a_shutdown_comes_after_all_that_was_queued),
	TEST(test_a_peer_that_does_not_close_after_a_shutdown_is_not_waited_for),
	TEST(test_last_words_reach_a_peer_that_is_sending),
	TEST(test_the_words_of_a_peer_that_is_gone_are_still_read),
	TEST(test_it_can_be_closed_from_its_own_callbacks),
	TEST(test_closing_before_anything_has_happened_is_fine),
	TEST(test_a_recording_is_read_back),
	TEST(test_a_recording_that_was_not_shut_down_does_not_appear),
	TEST(test_a_recording_whose_name_is_taken_meanwhile_fails),
	TEST(test_a_full_disk_is_told_to_the_sender),
	TEST(test_a_file_that_is_no_recording_is_refused),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "connection", tests, loop_setup, loop_teardown);
}
