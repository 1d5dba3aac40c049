/* SPDX-License-Identifier: MIT */
/* The agent behind real sockets: sessions side by side, peers that misbehave, orderly ends. */
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>
#include "agent/image.h"
#include "tests/harness.h"
#include "tests/scratch.h"
#include "tests/unit/world.h"
#include "tidemark/agent.h"
#include "transport/handshake.h"

#define CLIENTS 4

/* A sender that sends a stream from memory. */
struct client {
	struct connection *conn;
	struct world world;
	const char *name;
	size_t frames; /* to send of the stream; then it waits, or goes away */
	bool leaves;   /* goes away behind them, without a word */
	bool is_ended, is_closed;
	unsigned opened, joined, acks, committed;
	uint8_t session_id;      /* its first byte */
	struct client *joins;    /* whose session; else it opens its own */
	bool by_rounds;          /* sends the next round when the last one was acknowledged */
	size_t at;               /* ... from this frame on */
	struct tide_error error; /* what the agent said, or how it ended */
};

static uv_loop_t loop;
static char folder[SCRATCH_PATH_MAX];
static char store_folder[SCRATCH_PATH_MAX + 8];
static struct tide_agent *agent;
static struct tide_address address;
static struct client clients[CLIENTS];
static struct tide_error err;
static int old_namespace; /* -1: the test is in the one that it began in */

/* What the agent told. */
static unsigned nended, nrefused, nclosed, ncommitted;
static struct tide_agent_session last_session;
static char last_name[NAME_MAX_BYTES + 1];
static struct tide_error last_error;

static void on_session_ended(
	void *arg, const struct tide_agent_session *s, const struct tide_error *e)
{
	nended++;
	ncommitted += s->committed;
	last_session = *s;
	snprintf(last_name, sizeof(last_name), "%s", s->name);
	last_error = e ? *e : (struct tide_error){0};
}

static void on_refused(void *arg, const struct tide_error *e)
{
	nrefused++;
	last_error = *e;
}

static void on_agent_closed(void *arg)
{
	nclosed++;
}

/* Runs the loop until it is true. A test that waits for what never comes is ended by its runner. */
#define WAIT_FOR(condition)                         \
	do {                                        \
		while (!(condition))                \
			uv_run(&loop, UV_RUN_ONCE); \
	} while (0)

static void setup(void)
{
	nended = nrefused = nclosed = ncommitted = 0;
	agent = NULL;
	old_namespace = -1;
	memset(clients, 0, sizeof(clients));
	for (int i = 0; i < CLIENTS; i++) {
		world_init(&clients[i].world, (uint64_t)i + 1);
		clients[i].name = (const char *[]){"one", "two", "three", "four"}[i];
		clients[i].session_id = (uint8_t)(i + 1);
	}
	scratch_make(folder);
	snprintf(store_folder, sizeof(store_folder), "%s/store", folder);
	CU_ASSERT_EQUAL_FATAL(uv_loop_init(&loop), 0);
}

static int try_start_agent(const char *text, struct tide_agent_options options)
{
	static const struct tide_agent_callbacks callbacks = {
		.session_ended = on_session_ended, .trouble = on_refused};
	CU_ASSERT_EQUAL_FATAL(tide_address_parse(text, &options.listen, &err), 0);
	options.store = store_folder;
	int r = tide_agent_start(&loop, &options, &callbacks, NULL, &agent, &err);
	if (r == 0)
		CU_ASSERT_EQUAL(tide_address_parse(tide_agent_address(agent), &address, &err), 0);
	return r;
}

static void start_agent(struct tide_agent_options options)
{
	char text[SCRATCH_PATH_MAX + 16];
	snprintf(text, sizeof(text), "unix:%s/socket", folder);
	CU_ASSERT_EQUAL_FATAL(try_start_agent(text, options), 0);
}

static void close_agent(void)
{
	if (agent)
		tide_agent_close(agent, on_agent_closed, NULL);
	agent = NULL;
}

static void on_client_closed(void *arg)
{
	((struct client *)arg)->is_closed = true;
}

static void client_close(struct client *c)
{
	if (c->conn)
		connection_close(c->conn, on_client_closed, c);
	c->conn = NULL;
}

static void teardown(void)
{
	for (int i = 0; i < CLIENTS; i++)
		client_close(&clients[i]);
	close_agent();
	uv_run(&loop, UV_RUN_DEFAULT);
	CU_ASSERT_EQUAL(uv_loop_close(&loop), 0);
	for (int i = 0; i < CLIENTS; i++)
		world_release(&clients[i].world);
	if (old_namespace >= 0) {
		umount(store_folder);
		CU_ASSERT_EQUAL(setns(old_namespace, CLONE_NEWNS), 0);
		close(old_namespace);
		old_namespace = -1;
	}
	scratch_remove(folder);
}

/* --- clients ------------------------------------------------------------------------------ */

static void client_ended(void *arg, struct connection *conn, const struct tide_error *e)
{
	struct client *c = arg;
	c->is_ended = true;
	if (e && c->error.code == 0)
		c->error = *e;
	client_close(c);
}

static void client_send(struct client *c, struct frame_buffer *b)
{
	connection_send(c->conn, b, NULL);
}

static void client_send_copy(struct client *c, const struct frame_buffer *raw)
{
	struct frame_buffer copy = {0};
	CU_ASSERT_EQUAL_FATAL(frame_buffer_reserve(&copy, raw->bytes), 0);
	memcpy(copy.data, raw->data, raw->bytes);
	copy.bytes = raw->bytes;
	client_send(c, &copy);
}

/* Up to the end of a round, or to the last frame; of PAGES frames only those of lane `lane` of
 * three. */
static size_t client_send_lane(struct client *c, struct client *from, unsigned lane)
{
	size_t i = from->at, npages = 0;
	for (bool ends = false; !ends && i < from->frames; i++) {
		struct frame f;
		struct frame_buffer raw;
		stream_frame(&from->world.stream, i, &f, &raw);
		bool is_pages = f.type == FRAME_PAGES;
		if (is_pages ? npages++ % 3 == lane : lane == 0)
			client_send_copy(c, &raw);
		ends = f.type == FRAME_ROUND_END;
	}
	return i;
}

/* The other lanes first: what they carry is there before the round is known. */
static void client_send_round(struct client *c)
{
	client_send_lane(&clients[1], c, 1);
	client_send_lane(&clients[2], c, 2);
	c->at = client_send_lane(c, c, 0);
}

static void client_send_stream(struct client *c)
{
	for (size_t i = 0; i < c->frames; i++) {
		struct frame f;
		struct frame_buffer raw;
		stream_frame(&c->world.stream, i, &f, &raw);
		client_send_copy(c, &raw);
	}
	if (c->leaves)
		connection_shutdown(c->conn);
}

static void client_frame(void *arg, struct connection *conn, const struct frame *f)
{
	struct client *c = arg;
	struct committed committed;
	switch (f->type) {
	case FRAME_OPENED:
		c->opened++;
		if (!c->by_rounds)
			client_send_stream(c);
		break;
	case FRAME_JOINED:
		c->joined++;
		break;
	case FRAME_ACK:
		c->acks++;
		if (c->by_rounds)
			client_send_round(c);
		break;
	case FRAME_COMMITTED:
		CU_ASSERT_EQUAL(committed_decode(f, &committed, &err), 0);
		CU_ASSERT_STRING_EQUAL(committed.name, c->name);
		c->committed++;
		break;
	case FRAME_ERROR:
		handshake_peer_error(conn, "agent", f, &c->error);
		break;
	default:
		CU_FAIL("an odd reply");
	}
}

static void client_greeted(void *arg, struct connection *conn,
	const struct handshake_result *result, const struct tide_error *e)
{
	struct client *c = arg;
	if (e) {
		c->error = *e;
		c->is_ended = true;
		client_close(c);
		return;
	}
	struct connection_handler handler = {
		.frame = client_frame, .ended = client_ended, .arg = c};
	connection_set_handler(conn, &handler);
	connection_resume(conn);
	struct frame_buffer b = {0};
	if (c->joins) {
		struct join_request m = {.session_id = {c->joins->session_id}};
		CU_ASSERT_EQUAL_FATAL(join_request_encode(&m, &b), 0);
	} else {
		struct open_request m = {.session_id = {c->session_id}, .sink = SINK_IMAGE};
		snprintf(m.name, sizeof(m.name), "%s", c->name);
		CU_ASSERT_EQUAL_FATAL(open_request_encode(&m, &b), 0);
	}
	client_send(c, &b);
}

static void client_connected(void *arg, struct byte_stream *s, const struct tide_error *e)
{
	struct client *c = arg;
	if (!s) {
		c->error = *e;
		c->is_ended = true;
		return;
	}
	struct connection_handler handler = {
		.frame = client_frame, .ended = client_ended, .arg = c};
	struct connection_options options = {.queue_bytes = 1 << 30};
	struct handshake_options greeting = {0};
	CU_ASSERT_EQUAL_FATAL(connection_open(&loop, s, &options, &handler, &c->conn, &err), 0);
	CU_ASSERT_EQUAL_FATAL(
		handshake_client_start(c->conn, &greeting, client_greeted, c, &err), 0);
}

/* Sends `frames` frames of its world's stream (0: all). */
static void client_start(struct client *c, size_t frames)
{
	c->frames = frames ? frames : c->world.stream.frames;
	int r = byte_stream_connect(
		&loop, &address, 10 * NS_PER_S, client_connected, c, NULL, &err);
	CU_ASSERT_EQUAL_FATAL(r, 0);
}

/* --- the store ---------------------------------------------------------------------------- */

static void check_image(struct client *c)
{
	static uint8_t buf[WORLD_PAGES * WORLD_PAGE];
	struct store *store;
	struct image *image = NULL;
	CU_ASSERT_EQUAL_FATAL(store_open(store_folder, STORE_READ, &store, &err), 0);
	CU_ASSERT_EQUAL(image_open(store, c->name, &image, &err), 0);
	for (unsigned i = 0; image && i < 2; i++) {
		const struct world_space *s = &c->world.spaces[i];
		CU_ASSERT_EQUAL(image_read(image, 1, s->space, s->base, buf, sizeof(buf), &err), 0);
		CU_ASSERT_EQUAL(memcmp(buf, s->pages, sizeof(buf)), 0);
	}
	image_close(image);
	struct image_verdict v = {.damages = 1};
	CU_ASSERT_EQUAL(image_verify(store, c->name, NULL, NULL, &v, &err), 0);
	CU_ASSERT_EQUAL(v.damages, 0);
	store_close(store);
}

/* Files in the store beside its own two. */
static unsigned files(void)
{
	unsigned n = 0;
	DIR *d = opendir(store_folder);
	CU_ASSERT_PTR_NOT_NULL_FATAL(d);
	for (struct dirent *e; (e = readdir(d));) {
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
		     strcmp(e->d_name, ".tidemark") != 0 && strcmp(e->d_name, ".secret") != 0;
	}
	closedir(d);
	return n;
}

/* --- tests -------------------------------------------------------------------------------- */

static void test_a_process_is_stored(void)
{
	start_agent((struct tide_agent_options){0});
	world_send(&clients[0].world, 5);
	client_start(&clients[0], 0);
	WAIT_FOR(nended && clients[0].is_ended);
	CU_ASSERT_EQUAL(clients[0].error.code, 0);
	CU_ASSERT_EQUAL(clients[0].opened, 1);
	CU_ASSERT_EQUAL(clients[0].acks, 5);
	CU_ASSERT_EQUAL(clients[0].committed, 1);
	CU_ASSERT_EQUAL(ncommitted, 1);
	CU_ASSERT_EQUAL(last_error.code, 0);
	CU_ASSERT_STRING_EQUAL(last_name, "one");
	CU_ASSERT_EQUAL(last_session.rounds, 5);
	CU_ASSERT_EQUAL(files(), 1);
	check_image(&clients[0]);
}

static void test_several_sessions_go_side_by_side(void)
{
	start_agent((struct tide_agent_options){0});
	for (int i = 0; i < CLIENTS; i++) {
		world_send(&clients[i].world, 4);
		client_start(&clients[i], 0);
	}
	WAIT_FOR(nended == CLIENTS);
	CU_ASSERT_EQUAL(ncommitted, CLIENTS);
	for (int i = 0; i < CLIENTS; i++)
		check_image(&clients[i]);
	CU_ASSERT_EQUAL(files(), CLIENTS);
}

static void test_a_slow_store_holds_the_sender_back(void)
{
	/* Room for hardly a frame: the connection pauses and goes on all the time. */
	start_agent((struct tide_agent_options){.queue_bytes = 1});
	world_send(&clients[0].world, 6);
	client_start(&clients[0], 0);
	WAIT_FOR(nended);
	CU_ASSERT_EQUAL(ncommitted, 1);
	check_image(&clients[0]);
}

static void test_tcp_sessions_use_the_key_that_the_agent_made(void)
{
	setenv("XDG_RUNTIME_DIR", folder, 1);
	CU_ASSERT_EQUAL_FATAL(
		try_start_agent("tcp://127.0.0.1:0", (struct tide_agent_options){0}), 0);
	CU_ASSERT_PTR_NOT_NULL(tide_agent_key_path(agent));
	CU_ASSERT_TRUE(address.port != 0);
	world_send(&clients[0].world, 2);
	client_start(&clients[0], 0);
	WAIT_FOR(nended);
	CU_ASSERT_EQUAL(ncommitted, 1);
	check_image(&clients[0]);
	unsetenv("XDG_RUNTIME_DIR");
}

/* Client 0 opens a session, clients 1 and 2 join it. */
static void start_lanes(unsigned rounds)
{
	world_send(&clients[0].world, rounds);
	clients[0].by_rounds = true;
	client_start(&clients[0], 0);
	WAIT_FOR(clients[0].opened);
	for (int i = 1; i <= 2; i++) {
		clients[i].joins = &clients[0];
		client_start(&clients[i], 0);
	}
	WAIT_FOR(clients[1].joined && clients[2].joined);
}

static void test_a_session_spreads_over_connections(void)
{
	start_agent((struct tide_agent_options){0});
	start_lanes(5);
	client_send_round(&clients[0]);
	WAIT_FOR(nended && clients[0].is_ended && clients[1].is_ended && clients[2].is_ended);
	CU_ASSERT_EQUAL(ncommitted, 1);
	CU_ASSERT_EQUAL(nended, 1);
	CU_ASSERT_EQUAL(nrefused, 0);
	CU_ASSERT_EQUAL(clients[0].acks, 5);
	CU_ASSERT_EQUAL(clients[1].error.code, 0);
	check_image(&clients[0]);
}

static void test_narrow_lanes_are_slow_and_right(void)
{
	start_agent((struct tide_agent_options){.queue_bytes = 1});
	start_lanes(4);
	client_send_round(&clients[0]);
	WAIT_FOR(nended);
	CU_ASSERT_EQUAL(ncommitted, 1);
	check_image(&clients[0]);
}

static void test_a_lane_that_vanishes_ends_the_session(void)
{
	start_agent((struct tide_agent_options){0});
	start_lanes(3);
	client_close(&clients[2]);
	WAIT_FOR(nended && clients[0].is_ended && clients[1].is_ended);
	CU_ASSERT_EQUAL(ncommitted, 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(clients[0].error.text, "closed one of its connections"));
	CU_ASSERT_PTR_NOT_NULL(strstr(clients[1].error.text, "closed one of its connections"));
	CU_ASSERT_EQUAL(files(), 0);
}

static void test_lanes_carry_pages_alone(void)
{
	struct frame_buffer b = {0};
	struct round_header m = {.number = 0};
	start_agent((struct tide_agent_options){0});
	start_lanes(3);
	CU_ASSERT_EQUAL_FATAL(round_header_encode(1, &m, &b), 0);
	client_send(&clients[1], &b);
	WAIT_FOR(nended && clients[0].is_ended);
	CU_ASSERT_EQUAL(ncommitted, 0);
	CU_ASSERT_PTR_NOT_NULL(
		strstr(clients[0].error.text, "a ROUND frame where only pages travel"));
	CU_ASSERT_EQUAL(files(), 0);
}

static void test_nobody_joins_what_is_not_there(void)
{
	start_agent((struct tide_agent_options){0});
	clients[1].joins = &clients[0];
	client_start(&clients[1], 0);
	WAIT_FOR(nrefused && clients[1].is_ended);
	CU_ASSERT_PTR_NOT_NULL(
		strstr(clients[1].error.text, "there is no session that it could join"));
	CU_ASSERT_EQUAL(nended, 0);
}

static void test_other_machines_are_not_let_in_without_a_key(void)
{
	struct tide_agent_options options = {.insecure_listen = 1};
	CU_ASSERT_EQUAL(try_start_agent("tcp://0.0.0.0:0", options), -ECANCELED);
	CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_USAGE);
	CU_ASSERT_PTR_NULL(agent);
}

static void test_a_sender_that_vanishes_leaves_nothing(void)
{
	start_agent((struct tide_agent_options){0});
	world_send(&clients[0].world, 3);
	clients[0].leaves = true;
	client_start(&clients[0], clients[0].world.stream.frames - 1);
	WAIT_FOR(nended);
	CU_ASSERT_EQUAL(ncommitted, 0);
	CU_ASSERT_NOT_EQUAL(last_error.code, 0);
	CU_ASSERT_EQUAL(files(), 0);

	/* Another one is not hurt. */
	world_send(&clients[1].world, 3);
	client_start(&clients[1], 0);
	WAIT_FOR(nended == 2);
	CU_ASSERT_EQUAL(ncommitted, 1);
	check_image(&clients[1]);
}

static void test_a_stream_that_makes_no_sense_is_answered_with_words(void)
{
	start_agent((struct tide_agent_options){0});
	world_send(&clients[0].world, 3);
	struct frame_buffer none = {0};
	stream_replace(&clients[0].world.stream, 3, &none);
	client_start(&clients[0], 0);
	world_send(&clients[1].world, 3);
	client_start(&clients[1], 0);
	WAIT_FOR(clients[0].is_ended && nended == 2);
	CU_ASSERT_EQUAL(ncommitted, 1);
	CU_ASSERT_EQUAL(clients[0].error.code, -ECANCELED);
	CU_ASSERT_PTR_NOT_NULL(strstr(clients[0].error.text, "at byte "));
	CU_ASSERT_EQUAL(files(), 1);
	check_image(&clients[1]);
}

static void test_a_name_that_is_taken_is_refused(void)
{
	start_agent((struct tide_agent_options){0});
	clients[1].name = clients[0].name;
	for (int i = 0; i < 2; i++) {
		world_send(&clients[i].world, 1);
		client_start(&clients[i], 0);
		WAIT_FOR(nended == (unsigned)i + 1 && clients[i].is_ended);
	}
	CU_ASSERT_EQUAL(clients[1].opened, 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(clients[1].error.text, "File exists"));
	check_image(&clients[0]);
}

static void test_somebody_who_says_nothing_is_no_session(void)
{
	start_agent((struct tide_agent_options){0});
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	CU_ASSERT_FATAL(strlen(address.path) < sizeof(name.sun_path));
	strcpy(name.sun_path, address.path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CU_ASSERT_EQUAL_FATAL(connect(fd, (struct sockaddr *)&name, sizeof(name)), 0);
	close(fd);
	WAIT_FOR(nrefused == 1);

	world_send(&clients[1].world, 1);
	client_start(&clients[1], 0);
	WAIT_FOR(nended);
	CU_ASSERT_EQUAL(ncommitted, 1);
	CU_ASSERT_EQUAL(nrefused, 1);
}

static void test_sessions_go_on_when_nobody_else_is_let_in(void)
{
	start_agent((struct tide_agent_options){0});
	world_send(&clients[0].world, 3);
	client_start(&clients[0], 0);
	WAIT_FOR(clients[0].opened);
	tide_agent_stop_listening(agent);
	tide_agent_stop_listening(agent);
	WAIT_FOR(nended);
	CU_ASSERT_EQUAL(ncommitted, 1);
	world_send(&clients[1].world, 1);
	client_start(&clients[1], 0);
	WAIT_FOR(clients[1].is_ended);
	CU_ASSERT_EQUAL(nended, 1);
}

static void test_closing_ends_all_sessions(void)
{
	start_agent((struct tide_agent_options){0});
	for (int i = 0; i < CLIENTS; i++) {
		world_send(&clients[i].world, 3);
		client_start(&clients[i], clients[i].world.stream.frames - 2);
	}
	WAIT_FOR(clients[0].acks && clients[1].acks && clients[2].acks && clients[3].acks);
	CU_ASSERT_EQUAL(files(), CLIENTS);
	close_agent();
	WAIT_FOR(nclosed);
	CU_ASSERT_EQUAL(nended, CLIENTS);
	CU_ASSERT_EQUAL(ncommitted, 0);
	CU_ASSERT_EQUAL(files(), 0);
	WAIT_FOR(clients[0].is_ended);
	CU_ASSERT_PTR_NOT_NULL(strstr(clients[0].error.text, "the agent ends"));
}

static void test_what_a_dead_agent_left_is_cleared(void)
{
	char path[SCRATCH_PATH_MAX + 64];
	struct store *store;
	CU_ASSERT_EQUAL_FATAL(store_open(store_folder, STORE_WRITE, &store, &err), 0);
	store_close(store);
	snprintf(path, sizeof(path), "%s/.tmp-x-0123456789abcdef", store_folder);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	CU_ASSERT_EQUAL(files(), 1);
	start_agent((struct tide_agent_options){0});
	CU_ASSERT_EQUAL(files(), 0);
}

static void test_too_many_clients_are_refused(void)
{
	start_agent((struct tide_agent_options){.clients_max = 1});
	world_send(&clients[0].world, 2);
	client_start(&clients[0], 3);
	WAIT_FOR(clients[0].opened);
	world_send(&clients[1].world, 2);
	client_start(&clients[1], 0);
	WAIT_FOR(nrefused && clients[1].is_ended);
	CU_ASSERT_NOT_EQUAL(clients[1].error.code, 0);
}

/* A file system of `size` in the place of the store, that this test alone sees. */
static void small_store(const char *size)
{
	old_namespace = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (old_namespace < 0 || unshare(CLONE_NEWNS) < 0)
		harness_skip("this user cannot make a small file system");
	CU_ASSERT_EQUAL_FATAL(mkdir(store_folder, 0700), 0);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("tmpfs", store_folder, "tmpfs", 0, size) < 0)
		harness_skip("this user cannot mount a small file system");
}

static void test_a_full_disk_ends_the_session_with_words(void)
{
	small_store("size=3m,mode=0700");
	start_agent((struct tide_agent_options){0});
	clients[0].world.codec = NULL;
	world_send(&clients[0].world, 1);
	client_start(&clients[0], 0);
	WAIT_FOR(nended && clients[0].is_ended);
	CU_ASSERT_EQUAL(ncommitted, 0);
	CU_ASSERT_PTR_NOT_NULL(strstr(clients[0].error.text, "No space left on device"));
	CU_ASSERT_PTR_NOT_NULL(strstr(clients[0].error.text, "'one'"));
	CU_ASSERT_EQUAL(files(), 0);

	/* What fits is stored. */
	world_send_little(&clients[1].world);
	client_start(&clients[1], 0);
	WAIT_FOR(nended == 2);
	CU_ASSERT_EQUAL(ncommitted, 1);
	check_image(&clients[1]);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_a_process_is_stored),
		TEST(test_several_sessions_go_side_by_side),
		TEST(test_a_slow_store_holds_the_sender_back),
		TEST(test_tcp_sessions_use_the_key_that_the_agent_made),
		TEST(test_a_session_spreads_over_connections),
		TEST(test_narrow_lanes_are_slow_and_right),
		TEST(test_a_lane_that_vanishes_ends_the_session),
		TEST(test_lanes_carry_pages_alone),
		TEST(test_nobody_joins_what_is_not_there),
		TEST(test_other_machines_are_not_let_in_without_a_key),
		TEST(test_a_sender_that_vanishes_leaves_nothing),
		TEST(test_a_stream_that_makes_no_sense_is_answered_with_words),
		TEST(test_a_name_that_is_taken_is_refused),
		TEST(test_somebody_who_says_nothing_is_no_session),
		TEST(test_sessions_go_on_when_nobody_else_is_let_in),
		TEST(test_closing_ends_all_sessions),
		TEST(test_what_a_dead_agent_left_is_cleared),
		TEST(test_too_many_clients_are_refused),
		TEST(test_a_full_disk_ends_the_session_with_words),
		{NULL, NULL},
	};
	signal(SIGPIPE, SIG_IGN);
	return harness_main(argc, argv, "agent", tests, setup, teardown);
}
