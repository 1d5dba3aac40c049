/* SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include "tests/harness.h"
#include "transport/address.h"

static void test_every_kind_is_read_and_written_back(void)
{
	static const struct {
		const char *text;
		enum tide_address_kind kind;
		uint16_t port;
		const char *host, *path;
	} good[] = {
		{"tcp://127.0.0.1:4711", TIDE_ADDRESS_TCP, 4711, "127.0.0.1", ""},
		{"tcp://host-1.example.org:0", TIDE_ADDRESS_TCP, 0, "host-1.example.org", ""},
		{"tcp://[::1]:65535", TIDE_ADDRESS_TCP, 65535, "::1", ""},
		{"tcp://[fe80::1%eth0]:1", TIDE_ADDRESS_TCP, 1, "fe80::1%eth0", ""},
		{"unix:/run/tidemark.sock", TIDE_ADDRESS_UNIX, 0, "", "/run/tidemark.sock"},
		{"unix:relative", TIDE_ADDRESS_UNIX, 0, "", "relative"},
		{"-", TIDE_ADDRESS_STANDARD, 0, "", ""},
		{"/tmp/x", TIDE_ADDRESS_FILE, 0, "", "/tmp/x"},
		{"stream.tide", TIDE_ADDRESS_FILE, 0, "", "stream.tide"},
		{"./tcp://x", TIDE_ADDRESS_FILE, 0, "", "./tcp://x"},
		{"./127.0.0.1:80", TIDE_ADDRESS_FILE, 0, "", "./127.0.0.1:80"},
		{"12:30 snapshot", TIDE_ADDRESS_FILE, 0, "", "12:30 snapshot"},
	};
	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		struct tide_address a;
		struct tide_error err = {0};
		CU_ASSERT_EQUAL(tide_address_parse(good[i].text, &a, &err), 0);
		CU_ASSERT_EQUAL(a.kind, good[i].kind);
		CU_ASSERT_STRING_EQUAL(a.host, good[i].host);
		CU_ASSERT_EQUAL(a.port, good[i].port);
		CU_ASSERT_STRING_EQUAL(a.path, good[i].path);
		char buf[TIDE_ADDRESS_TEXT];
		CU_ASSERT_STRING_EQUAL(tide_address_format(&a, buf), good[i].text);
	}
}

static void test_what_is_wrong_is_said_in_plain_words(void)
{
	static const struct {
		const char *text, *words;
	} bad[] = {
		{"tcp://x", "the port is missing in tcp://x"},
		{"tcp://x:", "the port is missing in tcp://x:"},
		{"tcp://[::1]", "the port is missing in tcp://[::1]"},
		{"tcp://:80", "the host is missing in tcp://:80"},
		{"tcp://", "the host is missing in tcp://"},
		{"tcp://x:65536", "the port in tcp://x:65536 is not a number up to 65535"},
		{"tcp://x:80/", "the port in tcp://x:80/ is not a number up to 65535"},
		{"tcp://x:-1", "the port in tcp://x:-1 is not a number up to 65535"},
		{"tcp://[::1]80", "the port in tcp://[::1]80 is not a number up to 65535"},
		{"tcp://::1:80", "write the IPv6 address in brackets, tcp://[ADDRESS]:PORT, in "
				 "tcp://::1:80"},
		{"tcp://[::1:80", "the closing bracket is missing in tcp://[::1:80"},
		{"tcp://[1.2.3.4]:80", "'1.2.3.4' is not an IPv6 address, in tcp://[1.2.3.4]:80"},
		{"tcp://a b:80", "'a b' is not a host's name, in tcp://a b:80"},
		{"tcp:x:80", "write tcp://HOST:PORT instead of tcp:x:80"},
		{"http://x:80", "'http://x:80' is none of tcp://HOST:PORT, unix:PATH, a file's "
				"path (./http://x:80) and -"},
		{"10.0.0.1:4711",
			"write tcp://10.0.0.1:4711, or ./10.0.0.1:4711 for a file of that name"},
		{"[::1]:80", "write tcp://[::1]:80, or ./[::1]:80 for a file of that name"},
		{"unix:", "the path is missing in 'unix:'"},
		{"", "the path is missing in ''"},
	};
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct tide_address a = {.port = 77};
		struct tide_error err = {0};
		CU_ASSERT_EQUAL(tide_address_parse(bad[i].text, &a, &err), -ECANCELED);
		CU_ASSERT_STRING_EQUAL(err.text, bad[i].words);
		CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_USAGE);
		CU_ASSERT_STRING_EQUAL(tide_error_reason(&err), "");
		CU_ASSERT_EQUAL(a.port, 77);
	}
}

static void test_lengths_are_held(void)
{
	char text[TIDE_ADDRESS_PATH_MAX + 16];
	struct tide_address a;
	memset(text, 'x', sizeof(text));

	text[TIDE_ADDRESS_PATH_MAX] = '\0';
	CU_ASSERT_EQUAL(tide_address_parse(text, &a, NULL), 0);
	text[TIDE_ADDRESS_PATH_MAX] = 'x';
	text[TIDE_ADDRESS_PATH_MAX + 1] = '\0';
	CU_ASSERT_EQUAL(tide_address_parse(text, &a, NULL), -ECANCELED);

	memcpy(text, "unix:", 5);
	text[5 + 107] = '\0';
	CU_ASSERT_EQUAL(tide_address_parse(text, &a, NULL), 0);
	text[5 + 107] = 'x';
	text[5 + 108] = '\0';
	CU_ASSERT_EQUAL(tide_address_parse(text, &a, NULL), -ECANCELED);

	memset(text, 'x', sizeof(text));
	memcpy(text, "tcp://", 6);
	memcpy(text + 6 + TIDE_ADDRESS_HOST_MAX, ":1", 3);
	CU_ASSERT_EQUAL(tide_address_parse(text, &a, NULL), 0);
	memcpy(text + 6 + TIDE_ADDRESS_HOST_MAX, "x:1", 4);
	CU_ASSERT_EQUAL(tide_address_parse(text, &a, NULL), -ECANCELED);
}

static void test_loopback_is_told_from_the_rest(void)
{
	static const struct {
		const char *text;
		int is_loopback;
	} cases[] = {{"tcp://127.0.0.1:1", 1}, {"tcp://127.8.9.10:1", 1}, {"tcp://[::1]:1", 1},
		{"tcp://[::ffff:127.0.0.1]:1", 1}, {"tcp://localhost:1", 1},
		{"tcp://LocalHost:1", 1}, {"unix:/x", 1}, {"tcp://0.0.0.0:1", 0},
		{"tcp://[::]:1", 0}, {"tcp://128.0.0.1:1", 0}, {"tcp://localhost.example.org:1", 0},
		{"tcp://127.example.org:1", 0}, {"-", 0}, {"file", 0}};
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct tide_address a;
		CU_ASSERT_EQUAL_FATAL(tide_address_parse(cases[i].text, &a, NULL), 0);
		CU_ASSERT_EQUAL(tide_address_is_loopback(&a), cases[i].is_loopback);
	}
}

static void test_a_mapped_ipv4_address_is_an_ipv4_address(void)
{
	struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_port = htons(4711)};
	inet_pton(AF_INET6, "::ffff:127.0.0.9", &sa.sin6_addr);
	struct tide_address a;
	char buf[TIDE_ADDRESS_TEXT];
	CU_ASSERT_EQUAL(address_from_sockaddr((struct sockaddr *)&sa, &a), 0);
	CU_ASSERT_STRING_EQUAL(tide_address_format(&a, buf), "tcp://127.0.0.9:4711");
	CU_ASSERT_TRUE(sockaddr_is_loopback((struct sockaddr *)&sa));

	inet_pton(AF_INET6, "2001:db8::1", &sa.sin6_addr);
	CU_ASSERT_EQUAL(address_from_sockaddr((struct sockaddr *)&sa, &a), 0);
	CU_ASSERT_STRING_EQUAL(tide_address_format(&a, buf), "tcp://[2001:db8::1]:4711");
	CU_ASSERT_FALSE(sockaddr_is_loopback((struct sockaddr *)&sa));

	struct sockaddr other = {.sa_family = AF_UNIX};
	CU_ASSERT_EQUAL(address_from_sockaddr(&other, &a), -EAFNOSUPPORT);
}

static const struct test tests[] = {
	TEST(test_every_kind_is_read_and_written_back),
	TEST(test_what_is_wrong_is_said_in_plain_words),
	TEST(test_lengths_are_held),
	TEST(test_loopback_is_told_from_the_rest),
	TEST(test_a_mapped_ipv4_address_is_an_ipv4_address),
	{NULL, NULL},
};

int main(int argc, char **argv)
{
	return harness_main(argc, argv, "address", tests, NULL, NULL);
}
