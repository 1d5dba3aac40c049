/* SPDX-License-Identifier: MIT */
/* Keys, proofs, and the handshake that they serve. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/error.h"
#include "tests/sockets.h"
#include "transport/auth.h"
#include "transport/handshake.h"

#define KEY_TEXT "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F"

static void setup(void)
{
	loop_setup();
	setenv("XDG_RUNTIME_DIR", folder, 1);
}

static const char *in_folder(const char *name)
{
	static char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

static struct auth_key key_of(uint8_t first)
{
	struct auth_key key;
	for (size_t i = 0; i < AUTH_KEY_BYTES; i++)
		key.bytes[i] = (uint8_t)(first + i);
	return key;
}

/* --- key files --------------------------------------------------------------- */

static const char *write_key(const char *text, mode_t mode)
{
	const char *path = in_folder("key");
	unlink(path);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
	CU_ASSERT_EQUAL(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	fchmod(fd, mode);
	close(fd);
	return path;
}

static void test_a_key_file_is_64_digits(void)
{
	static const char *const good[] = {KEY_TEXT, KEY_TEXT "\n"};
	static const char *const bad[] = {"", "\n", "00", KEY_TEXT "\n\n", KEY_TEXT "00",
		KEY_TEXT " ", "g00102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F",
		"00010203"};
	struct auth_key key, expected = key_of(0);
	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		memset(&key, 0xff, sizeof(key));
		CU_ASSERT_EQUAL(auth_key_read(write_key(good[i], 0600), &key, NULL), 0);
		CU_ASSERT_EQUAL(memcmp(&key, &expected, sizeof(key)), 0);
	}
	CU_ASSERT_EQUAL(auth_key_read(write_key(KEY_TEXT, 0400), &key, NULL), 0);

	memset(&key, 0xff, sizeof(key));
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct tide_error err = {0};
		CU_ASSERT_EQUAL(auth_key_read(write_key(bad[i], 0600), &key, &err), -EINVAL);
		CU_ASSERT_PTR_NOT_NULL(strstr(err.text, in_folder("key")));
		/* What might have been meant as a key is not shown. */
		CU_ASSERT_PTR_NULL(strstr(err.text, "00010203"));
	}
	CU_ASSERT_EQUAL(key.bytes[0], 0xff);
}

static void test_a_key_that_others_can_get_at_is_refused(void)
{
	static const mode_t modes[] = {0640, 0604, 0620, 0601, 0666};
	struct auth_key key;
	struct tide_error err = {0};
	for (unsigned i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		CU_ASSERT_EQUAL(auth_key_read(write_key(KEY_TEXT, modes[i]), &key, &err), -EACCES);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "chmod 600"));

	CU_ASSERT_EQUAL(auth_key_read(in_folder("missing"), &key, &err), -ENOENT);
	CU_ASSERT_EQUAL(auth_key_read(folder, &key, &err), -EACCES);
	mkfifo(in_folder("fifo"), 0600);
	CU_ASSERT_EQUAL(auth_key_read(in_folder("fifo"), &key, &err), -EACCES);
	CU_ASSERT_EQUAL(auth_key_read("/dev/null", &key, &err), -EACCES);
}

static void test_a_key_of_another_user_is_refused(void)
{
	if (geteuid() != 0)
		harness_skip("only root can give a file to another user");
	struct auth_key key;
	struct tide_error err = {0};
	const char *path = write_key(KEY_TEXT, 0600);
	CU_ASSERT_EQUAL_FATAL(chown(path, 12345, 12345), 0);
	CU_ASSERT_EQUAL(auth_key_read(path, &key, &err), -EACCES);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "belongs to user 12345"));
}

/* --- keys that agents make ------------------------------------------------------------------- */

static void test_a_made_key_is_found_by_its_port_while_the_agent_lives(void)
{
	struct auth_key_file *f, *other;
	struct auth_key key;
	struct tide_error err = {0};
	CU_ASSERT_EQUAL(auth_key_find(4711, &key, &err), -ENOENT);
	CU_ASSERT_EQUAL_FATAL(auth_key_file_make(4711, &f, &err), 0);
	CU_ASSERT_STRING_EQUAL(auth_key_file_path(f), in_folder("tidemark/tcp-4711.key"));
	struct stat st;
	CU_ASSERT_EQUAL(stat(auth_key_file_path(f), &st), 0);
	CU_ASSERT_EQUAL(st.st_mode & 07777, 0600);
	CU_ASSERT_EQUAL(stat(in_folder("tidemark"), &st), 0);
	CU_ASSERT_EQUAL(st.st_mode & 07777, 0700);

	CU_ASSERT_EQUAL(auth_key_find(4711, &key, &err), 0);
	CU_ASSERT_EQUAL(memcmp(&key, auth_key_file_key(f), sizeof(key)), 0);
	CU_ASSERT_EQUAL(auth_key_read(auth_key_file_path(f), &key, &err), 0);
	CU_ASSERT_EQUAL(auth_key_find(4712, &key, &err), -ENOENT);

	/* Another port has another key; the same port, none. */
	CU_ASSERT_EQUAL_FATAL(auth_key_file_make(4712, &other, &err), 0);
	CU_ASSERT_NOT_EQUAL(memcmp(auth_key_file_key(other), auth_key_file_key(f), sizeof(key)), 0);
	auth_key_file_close(other);
	CU_ASSERT_EQUAL(auth_key_file_make(4711, &other, &err), -EADDRINUSE);
	CU_ASSERT_EQUAL(auth_key_find(4711, &key, &err), 0);

	auth_key_file_close(f);
	CU_ASSERT_EQUAL(auth_key_find(4711, &key, &err), -ENOENT);
	CU_ASSERT_EQUAL(rmdir(in_folder("tidemark")), 0); /* nothing was left in it */
	auth_key_file_close(NULL);
}

static void test_the_key_of_a_dead_agent_is_not_used_and_is_replaced(void)
{
	struct auth_key key, old;
	struct auth_key_file *f;
	struct tide_error err = {0};
	mkdir(in_folder("tidemark"), 0700);
	char dead[PATH_MAX];
	snprintf(dead, sizeof(dead), "%s/tidemark/tcp-4711.key", folder);
	CU_ASSERT_EQUAL_FATAL(rename(write_key(KEY_TEXT, 0600), dead), 0);
	CU_ASSERT_EQUAL(auth_key_read(dead, &old, NULL), 0);
	CU_ASSERT_EQUAL(auth_key_find(4711, &key, &err), -ENOENT);

	CU_ASSERT_EQUAL_FATAL(auth_key_file_make(4711, &f, &err), 0);
	CU_ASSERT_EQUAL(auth_key_find(4711, &key, &err), 0);
	CU_ASSERT_NOT_EQUAL(memcmp(&key, &old, sizeof(key)), 0);

	/* One that somebody put in its place is not ours to remove. */
	unlink(dead);
	close(open(dead, O_WRONLY | O_CREAT, 0600));
	auth_key_file_close(f);
	CU_ASSERT_EQUAL(access(dead, F_OK), 0);
}

static void test_a_folder_that_is_not_private_is_refused(void)
{
	struct auth_key_file *f;
	struct auth_key key;
	struct tide_error err = {0};
	mkdir(in_folder("tidemark"), 0700);
	chmod(in_folder("tidemark"), 0755);
	CU_ASSERT_EQUAL(auth_key_file_make(4711, &f, &err), -EACCES);
	CU_ASSERT_EQUAL(auth_key_find(4711, &key, &err), -EACCES);
	chmod(in_folder("tidemark"), 0700);
	if (geteuid() == 0) {
		CU_ASSERT_EQUAL(chown(in_folder("tidemark"), 12345, 12345), 0);
		CU_ASSERT_EQUAL(auth_key_file_make(4711, &f, &err), -EACCES);
	}
	rmdir(in_folder("tidemark"));

	char elsewhere[PATH_MAX];
	snprintf(elsewhere, sizeof(elsewhere), "%s/elsewhere", folder);
	mkdir(elsewhere, 0700);
	CU_ASSERT_EQUAL(symlink(elsewhere, in_folder("tidemark")), 0);
	CU_ASSERT_TRUE(auth_key_file_make(4711, &f, &err) < 0);
	CU_ASSERT_TRUE(auth_key_find(4711, &key, &err) < 0);
}

/* --- proofs --------------------------------------------------------------- */

static void hex(char *text, const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sprintf(text + 2 * i, "%02x", bytes[i]);
}

static struct auth_transcript transcript_of(const char *client, const char *agent)
{
	return (struct auth_transcript){.client = (const uint8_t *)client,
		.client_bytes = strlen(client),
		.agent = (const uint8_t *)agent,
		.agent_bytes = strlen(agent)};
}

static void test_proofs_are_what_the_format_says(void)
{
	/* Computed by another program from the description alone. */
	static const char *const expected[] = {
		"d1bc43bb201f895ca53550f49966b5695812ad4b1d1b50ba053bd9a180f514f8",
		"02a97f9d778b9132d6a42e51b494eb8551a6e0f3171b8d699688c0c0cdf48ad3",
	};
	struct auth_key key = key_of(0);
	struct auth_transcript t = transcript_of("client hello", "agent hello!!");
	for (int i = 0; i < 2; i++) {
		uint8_t proof[PROOF_BYTES];
		char text[2 * PROOF_BYTES + 1];
		enum auth_role role = i ? AUTH_AGENT : AUTH_CLIENT;
		CU_ASSERT_EQUAL(auth_prove(&key, role, &t, proof, NULL), 0);
		hex(text, proof, sizeof(proof));
		CU_ASSERT_STRING_EQUAL(text, expected[i]);
		CU_ASSERT_TRUE(auth_check(&key, role, &t, proof));
	}
}

static void test_a_proof_is_of_one_key_one_role_and_one_conversation(void)
{
	struct auth_key key = key_of(0), other = key_of(1);
	struct auth_transcript t = transcript_of("ab", "cd");
	uint8_t proof[PROOF_BYTES];
	CU_ASSERT_EQUAL(auth_prove(&key, AUTH_CLIENT, &t, proof, NULL), 0);
	CU_ASSERT_FALSE(auth_check(&other, AUTH_CLIENT, &t, proof));
	CU_ASSERT_FALSE(auth_check(&key, AUTH_AGENT, &t, proof));
	static const char *const others[][2] = {
		{"ab", "ce"}, {"bb", "cd"}, {"abc", "d"}, {"a", "bcd"}, {"cd", "ab"}, {"", "abcd"}};
	for (unsigned i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		struct auth_transcript u = transcript_of(others[i][0], others[i][1]);
		CU_ASSERT_FALSE(auth_check(&key, AUTH_CLIENT, &u, proof));
	}
	for (unsigned bit = 0; bit < PROOF_BYTES * 8; bit++) {
		proof[bit / 8] ^= (uint8_t)(1 << bit % 8);
		CU_ASSERT_FALSE(auth_check(&key, AUTH_CLIENT, &t, proof));
		proof[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
}

static void test_this_user_and_root_are_trusted(void)
{
	CU_ASSERT_TRUE(auth_uid_is_trusted(geteuid()));
	CU_ASSERT_TRUE(auth_uid_is_trusted(0));
	CU_ASSERT_FALSE(auth_uid_is_trusted(geteuid() + 1));
	CU_ASSERT_FALSE(auth_uid_is_trusted(UINT32_MAX));
}

/* --- handshakes --------------------------------------------------------------- */

struct end {
	struct connection *c;
	struct handshake_options options;
	bool done, has_error, closed, has_frame, ended;
	struct handshake_result result;
	struct tide_error error;
};
static struct end client, agent;

static void on_frame(void *arg, struct connection *c, const struct frame *f)
{
	((struct end *)arg)->has_frame = true;
}

static void on_ended(void *arg, struct connection *c, const struct tide_error *err)
{
	struct end *e = arg;
	e->ended = true;
}

static void on_done(void *arg, struct connection *c, const struct handshake_result *result,
	const struct tide_error *err)
{
	struct end *e = arg;
	CU_ASSERT_FALSE(e->done);
	CU_ASSERT_PTR_EQUAL(e->c, c);
	e->done = true;
	e->has_error = err;
	if (err)
		e->error = *err;
	else
		e->result = *result;
}

static void end_open(struct end *e, struct byte_stream *s)
{
	static const struct connection_options none;
	struct connection_handler h = {.frame = on_frame, .ended = on_ended, .arg = e};
	*e = (struct end){0};
	CU_ASSERT_EQUAL_FATAL(connection_open(&loop, s, &none, &h, &e->c, NULL), 0);
}

static void ends_open(bool is_tcp)
{
	int fds[2];
	enum stream_uv_kind kind = is_tcp ? STREAM_UV_TCP : STREAM_UV_UNIX;
	if (is_tcp)
		tcp_pair(fds);
	else
		CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	end_open(&client, stream_over(fds[0], kind));
	end_open(&agent, stream_over(fds[1], kind));
}

static void end_close(struct end *e)
{
	connection_close(e->c, loop_set_flag, &e->closed);
	e->c = NULL;
	loop_until(&e->closed);
}

static void ends_close(void)
{
	end_close(&client);
	end_close(&agent);
}

static void ends_start(void)
{
	CU_ASSERT_EQUAL(
		handshake_client_start(client.c, &client.options, on_done, &client, NULL), 0);
	CU_ASSERT_EQUAL(handshake_agent_start(agent.c, &agent.options, on_done, &agent, NULL), 0);
	CU_ASSERT_FALSE(client.done || agent.done);
}

/* An end that was refused is closed, as its owner would: the other one waits for that. */
static void close_if_refused(struct end *e)
{
	if (e->done && e->has_error && e->c)
		end_close(e);
}

static void ends_shake(void)
{
	ends_start();
	while (!(client.done && agent.done) && uv_run(&loop, UV_RUN_ONCE)) {
		close_if_refused(&client);
		close_if_refused(&agent);
	}
	CU_ASSERT_TRUE(client.done && agent.done);
	close_if_refused(&client);
	close_if_refused(&agent);
}

/* After a success: what the other sends arrives when its reader wants it, not before. */
static void expect_agreed(void)
{
	CU_ASSERT_FALSE(client.has_error || agent.has_error);
	CU_ASSERT_EQUAL(client.result.agreement.features, FEATURES_KNOWN);
	CU_ASSERT_EQUAL(agent.result.agreement.features, FEATURES_KNOWN);
	CU_ASSERT_TRUE(client.result.agreement.limits.payload_bytes > 0);

	uint8_t *payload = calloc(1, 100000);
	struct frame f = {.type = FRAME_PAGES, .payload = payload, .payload_bytes = 100000};
	struct frame_buffer b = {0};
	CU_ASSERT_EQUAL(frame_buffer_encode(&b, &f), 0);
	free(payload);
	CU_ASSERT_EQUAL(connection_send(client.c, &b, NULL), 0);
	loop_settle();
	struct connection_handler h = {.frame = on_frame, .ended = on_ended, .arg = &agent};
	CU_ASSERT_FALSE(agent.has_frame);
	connection_set_handler(agent.c, &h);
	connection_resume(agent.c);
	loop_until(&agent.has_frame);
	ends_close();
}

static void expect_refused(const char *client_words, const char *agent_words)
{
	ends_shake();
	CU_ASSERT_TRUE(client.has_error && agent.has_error);
	if (!strstr(client.error.text, client_words) || !strstr(agent.error.text, agent_words))
		printf("client: %s\nagent: %s\n", client.error.text, agent.error.text);
	CU_ASSERT_PTR_NOT_NULL(strstr(client.error.text, client_words));
	CU_ASSERT_PTR_NOT_NULL(strstr(agent.error.text, agent_words));
}

/* The agent was satisfied: it learns as a session that the client is not, and closes. */
static void expect_client_to_refuse(const char *words)
{
	ends_start();
	loop_until(&agent.done);
	CU_ASSERT_FALSE(agent.has_error);
	struct connection_handler h = {.frame = on_frame, .ended = on_ended, .arg = &agent};
	connection_set_handler(agent.c, &h);
	connection_resume(agent.c);
	loop_until(&agent.has_frame);
	end_close(&agent);

	loop_until(&client.done);
	CU_ASSERT_TRUE(client.has_error);
	CU_ASSERT_EQUAL(client.error.code, -EACCES);
	CU_ASSERT_PTR_NOT_NULL(strstr(client.error.text, words));
	end_close(&client);
}

static void test_the_same_key_on_both_sides_agrees(void)
{
	struct auth_key key = key_of(0);
	ends_open(true);
	client.options.key = agent.options.key = &key;
	ends_shake();
	CU_ASSERT_TRUE(client.result.peer.wants_auth);
	expect_agreed();
}

static void test_a_unix_socket_of_the_same_user_needs_no_key(void)
{
	ends_open(false);
	ends_shake();
	CU_ASSERT_FALSE(client.result.peer.wants_auth);
	expect_agreed();
}

static void test_a_wrong_key_is_refused_and_both_are_told(void)
{
	struct auth_key key = key_of(0), other = key_of(1);
	ends_open(true);
	client.options.key = &other;
	agent.options.key = &key;
	expect_refused("says: let in tcp://", "whose key is not the agent's");
	CU_ASSERT_EQUAL(agent.error.code, -EACCES);
}

static void test_a_missing_key_is_named(void)
{
	struct auth_key key = key_of(0);
	ends_open(true);
	agent.options.key = &key;
	expect_refused("which wants a key (--key-file)", "which wants a key");
	CU_ASSERT_EQUAL(client.error.code, -EACCES);
}

static void test_a_client_finds_the_key_of_an_agent_on_loopback(void)
{
	struct auth_key_file *f;
	ends_open(true);
	CU_ASSERT_EQUAL_FATAL(auth_key_file_make(connection_peer(client.c)->port, &f, NULL), 0);
	agent.options.key = auth_key_file_key(f);
	ends_shake();
	CU_ASSERT_TRUE(client.result.peer.wants_auth);
	expect_agreed();
	auth_key_file_close(f);
}

static void test_without_any_key_both_sides_must_have_said_so(void)
{
	ends_open(true);
	expect_refused("says: let in tcp://", "without a key");

	ends_open(true);
	client.options.insecure_no_auth = true;
	expect_refused("says: let in tcp://", "without a key");

	ends_open(true);
	agent.options.insecure_no_auth = true;
	expect_client_to_refuse("asks for no key and could be anyone");

	ends_open(true);
	client.options.insecure_no_auth = agent.options.insecure_no_auth = true;
	ends_shake();
	expect_agreed();
}

static void test_a_key_is_not_given_up_by_an_agent_that_says_it_wants_none(void)
{
	struct auth_key key = key_of(0);
	ends_open(true);
	client.options.key = &key;
	agent.options.insecure_no_auth = true;
	expect_client_to_refuse("asks for no key and could be anyone");
}

/* A peer on a unix socket that runs as another user: the stream says so in the test's place. */
static void test_another_user_on_a_unix_socket_is_refused(void)
{
	int fds[2];
	for (int insecure = 0; insecure < 2; insecure++) {
		CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
		struct byte_stream *s = stream_over(fds[1], STREAM_UV_UNIX);
		s->peer.uid = geteuid() + 1;
		end_open(&client, stream_over(fds[0], STREAM_UV_UNIX));
		end_open(&agent, s);
		agent.options.insecure_no_auth = insecure;
		if (insecure) {
			ends_shake();
			expect_agreed();
		} else {
			expect_refused("let in user", "who is not the agent's");
		}
	}

	CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	struct byte_stream *s = stream_over(fds[0], STREAM_UV_UNIX);
	s->peer.uid = geteuid() + 1;
	end_open(&client, s);
	end_open(&agent, stream_over(fds[1], STREAM_UV_UNIX));
	expect_client_to_refuse("which runs as user");
}

static void test_other_machines_are_told_apart(void)
{
	struct auth_key key = key_of(0);
	ends_open(true);
	agent.options.key = &key;
	CU_ASSERT_EQUAL(handshake_agent_start(agent.c, &agent.options, on_done, &agent, NULL), 0);
	struct hello hello;
	struct frame_buffer b = {0};
	CU_ASSERT_EQUAL(hello_init(&hello, NULL), 0);
	snprintf(hello.architecture, sizeof(hello.architecture), "riscv64");
	CU_ASSERT_EQUAL(hello_encode(&hello, &b), 0);
	CU_ASSERT_EQUAL(connection_send(client.c, &b, NULL), 0);
	end_close(&client); /* it goes without reading, and the agent knows why it refused all the
			       same */
	loop_until(&agent.done);
	CU_ASSERT_TRUE(agent.has_error);
	end_close(&agent);
}

/* --- a client that does as it likes ---------------------------------------------------------- */

static void agent_alone(const struct handshake_options *options)
{
	ends_open(true);
	agent.options = *options;
	CU_ASSERT_EQUAL(handshake_agent_start(agent.c, &agent.options, on_done, &agent, NULL), 0);
}

static void client_says(const struct frame *f)
{
	struct frame_buffer b = {0};
	CU_ASSERT_EQUAL(frame_buffer_encode(&b, f), 0);
	CU_ASSERT_EQUAL(connection_send(client.c, &b, NULL), 0);
}

static void client_says_hello(void)
{
	struct hello hello;
	struct frame_buffer b = {0};
	CU_ASSERT_EQUAL(hello_init(&hello, NULL), 0);
	CU_ASSERT_EQUAL(hello_encode(&hello, &b), 0);
	CU_ASSERT_EQUAL(connection_send(client.c, &b, NULL), 0);
}

/* The client has nothing more to say, so that the agent need not wait for it. */
static void expect_agent_to_refuse(const char *words)
{
	loop_until(&client.ended);
	end_close(&client);
	loop_until(&agent.done);
	CU_ASSERT_TRUE(agent.has_error);
	if (!strstr(agent.error.text, words))
		printf("agent: %s\n", agent.error.text);
	CU_ASSERT_PTR_NOT_NULL(strstr(agent.error.text, words));
	end_close(&agent);
}

static void test_what_does_not_belong_there_is_refused(void)
{
	struct auth_key key = key_of(0);
	struct handshake_options options = {.key = &key};
	uint8_t bytes[20000] = {0};

	agent_alone(&options);
	client_says(&(struct frame){.type = FRAME_STREAM, .flags = FRAME_CRITICAL});
	expect_agent_to_refuse("sent STREAM where HELLO was to come");

	/* Skipping the proof. */
	agent_alone(&options);
	client_says_hello();
	client_says(&(struct frame){.type = FRAME_OPEN, .flags = FRAME_CRITICAL});
	expect_agent_to_refuse("sent OPEN where AUTH was to come");

	/* Twice. */
	agent_alone(&options);
	client_says_hello();
	client_says_hello();
	expect_agent_to_refuse("sent HELLO where AUTH was to come");

	/* A HELLO that is none. */
	agent_alone(&options);
	client_says(&(struct frame){
		.type = FRAME_HELLO, .flags = FRAME_CRITICAL, .head = bytes, .head_bytes = 100});
	expect_agent_to_refuse("");

	/* More than somebody unknown may say. */
	agent_alone(&options);
	client_says(&(struct frame){.type = FRAME_HELLO,
		.flags = FRAME_CRITICAL,
		.head = bytes,
		.head_bytes = sizeof(bytes)});
	expect_agent_to_refuse("");
	agent_alone(&options);
	client_says(&(struct frame){.type = 999, .payload = bytes, .payload_bytes = 1});
	expect_agent_to_refuse("");
}

static void test_a_proof_that_is_an_echo_is_refused(void)
{
	struct auth_key key = key_of(0);
	struct handshake_options options = {.key = &key};
	agent_alone(&options);
	client_says_hello();
	struct auth zero = {0};
	struct frame_buffer b = {0};
	CU_ASSERT_EQUAL(auth_encode(&zero, &b), 0);
	CU_ASSERT_EQUAL(connection_send(client.c, &b, NULL), 0);
	expect_agent_to_refuse("whose key is not the agent's");
}

static void test_a_truncated_handshake_ends_with_an_error(void)
{
	struct auth_key key = key_of(0);
	struct handshake_options options = {.key = &key};

	agent_alone(&options);
	end_close(&client);
	loop_until(&agent.done);
	CU_ASSERT_TRUE(agent.has_error);
	end_close(&agent);

	/* Between two messages. */
	agent_alone(&options);
	client_says_hello();
	while (connection_stats(agent.c).bytes_received <= PREAMBLE_BYTES)
		uv_run(&loop, UV_RUN_ONCE);
	loop_settle();
	end_close(&client);
	loop_until(&agent.done);
	CU_ASSERT_TRUE(agent.has_error);
	end_close(&agent);
}

/* Cut behind every byte, then with every byte altered: always an error, and never more than that.
 */
static void test_no_byte_of_a_greeting_matters_little(void)
{
	struct auth_key key = key_of(0);
	struct hello hello;
	auto_(frame_buffer_release) struct frame_buffer b = {0};
	CU_ASSERT_EQUAL_FATAL(hello_init(&hello, NULL), 0);
	CU_ASSERT_EQUAL_FATAL(hello_encode(&hello, &b), 0);
	uint8_t bytes[PREAMBLE_BYTES + 1024];
	size_t n = PREAMBLE_BYTES + b.bytes;
	CU_ASSERT_TRUE_FATAL(n <= sizeof(bytes));
	preamble_encode(bytes);
	memcpy(bytes + PREAMBLE_BYTES, b.data, b.bytes);

	for (size_t i = 0; i < 2 * n; i++) {
		int fds[2];
		size_t flipped = i < n ? n : i - n;
		CU_ASSERT_EQUAL_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
		struct byte_stream *s = stream_over(fds[1], STREAM_UV_UNIX);
		s->peer.has_uid = 0; /* as over TCP: a proof is wanted */
		end_open(&agent, s);
		agent.options.key = &key;
		CU_ASSERT_EQUAL(
			handshake_agent_start(agent.c, &agent.options, on_done, &agent, NULL), 0);
		if (flipped < n)
			bytes[flipped] ^= 0x21;
		CU_ASSERT_EQUAL(write(fds[0], bytes, i < n ? i : n), (ssize_t)(i < n ? i : n));
		if (flipped < n)
			bytes[flipped] ^= 0x21;
		close(fds[0]);
		loop_until(&agent.done);
		CU_ASSERT_TRUE(agent.has_error);
		end_close(&agent);
	}
}

static void test_a_client_that_never_gets_to_the_point_is_put_out(void)
{
	struct auth_key key = key_of(0);
	agent_alone(&(struct handshake_options){.key = &key, .timeout_ns = 30 * NS_PER_MS});
	loop_until(&client.ended);
	end_close(&client);
	loop_until(&agent.done);
	CU_ASSERT_TRUE(agent.has_error);
	CU_ASSERT_EQUAL(agent.error.code, -ETIMEDOUT);
	CU_ASSERT_PTR_NOT_NULL(strstr(agent.error.text, "within 30 ms"));
	end_close(&agent);
}

static void test_closing_in_the_middle_calls_nobody(void)
{
	ends_open(true);
	ends_start();
	ends_close();
	CU_ASSERT_FALSE(client.done);
}

static const struct test tests[] = {
	TEST(test_a_key_file_is_64_digits),
	TEST(test_a_key_that_others_can_get_at_is_refused),
	TEST(test_a_key_of_another_user_is_refused),
	TEST(test_a_made_key_is_found_by_its_port_while_the_agent_lives),
	TEST(test_the_key_of_a_dead_agent_is_not_used_and_is_replaced),
	TEST(test_a_folder_that_is_not_private_is_refused),
	TEST(test_proofs_are_what_the_format_says),
	TEST(test_a_proof_is_of_one_key_one_role_and_one_conversation),
	TEST(test_this_user_and_root_are_trusted),
	TEST(test_the_same_key_on_both_sides_agrees),
	TEST(test_a_unix_socket_of_the_same_user_needs_no_key),
	TEST(test_a_wrong_key_is_refused_and_both_are_told),
	TEST(test_a_missing_key_is_named),
	TEST(test_a_client_finds_the_key_of_an_agent_on_loopback),
	TEST(test_without_any_key_both_sides_must_have_said_so),
	TEST(test_a_key_is_not_given_up_by_an_agent_that_says_it_wants_none),
	TEST(test_another_user_on_a_unix_socket_is_refused),
	TEST(test_other_machines_are_told_apart),
	TEST(test_what_does_not_belong_there_is_refused),
	TEST(test_a_proof_that_is_an_echo_is_refused),
	TEST(test_a_truncated_handshake_ends_with_an_error),
	TEST(test_no_byte_of_a_greeting_matters_little),
	TEST(test_a_client_that_never_gets_to_the_point_is_put_out),
	TEST(test_closing_in_the_middle_calls_nobody),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "auth", tests, setup, loop_teardown);
}
