/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include "tracker/hidden_text.h"

/* No process has memory from here on; what is said to be there stands for something else. */
#define ADDRESS_END (UINT64_C(1) << 63)

int hidden_add(struct pageset *set, uint64_t address, uint64_t bytes, uint64_t page_bytes)
{
	if (bytes == 0 || address >= ADDRESS_END)
		return 0;
	if (bytes > ADDRESS_END - address)
		bytes = ADDRESS_END - address;
	uint64_t start = address & ~(page_bytes - 1);
	uint64_t end = (address + bytes + page_bytes - 1) & ~(page_bytes - 1);
	return pageset_add(set, (struct page_run){start, end});
}

static const char *next_line(const char *line)
{
	const char *end = strchr(line, '\n');
	return end ? end + 1 : line + strlen(line);
}

/* The line that begins with `key`, and nothing but what follows it; or NULL. */
static const char *find_value(const char *text, const char *key)
{
	size_t len = strlen(key);
	for (const char *at = text; *at; at = next_line(at)) {
		if (strncmp(at, key, len) == 0)
			return at + len;
	}
	return NULL;
}

/*
 * The same from behind. The names of registered files come before the list of buffers, and what a
 * file is called is up to whoever made it: a name may hold line ends and look like anything. Behind
 * the list no names come any more.
 */
static const char *find_last_value(const char *text, const char *key)
{
	const char *last = NULL;
	for (const char *at = text; (at = find_value(at, key));)
		last = at;
	return last;
}

static uint64_t number_at(const char *value, int base)
{
	return value ? strtoull(value, NULL, base) : 0;
}

unsigned fdinfo_flags(const char *text)
{
	return (unsigned)number_at(find_value(text, "flags:"), 8);
}

/* "    0: 0x7f6793a00064/8192" or "    1: <none>" */
static int parse_buffer(const char *line, size_t index, uint64_t page_bytes, struct ring_text *r)
{
	char *at;
	unsigned long long n = strtoull(line, &at, 10);
	if (at == line || n != index || strncmp(at, ": ", 2) != 0)
		return -EBADMSG;
	at += 2;
	if (strncmp(at, "<none>", 6) == 0)
		return 0;

	char *slash, *end;
	uint64_t address = strtoull(at, &slash, 16);
	if (strncmp(at, "0x", 2) != 0 || slash == at + 2 || *slash != '/')
		return -EBADMSG;
	uint64_t bytes = strtoull(slash + 1, &end, 10);
	if (end == slash + 1 || *end != '\n')
		return -EBADMSG;
	/* An empty slot is at -1 in Linux up to 6.12; memory of the kernel's own (ublk) is at 0. */
	if (address == 0 || address >= ADDRESS_END)
		return 0;
	r->nbuffers++;
	r->buffer_bytes += bytes;
	return hidden_add(&r->buffers, address, bytes, page_bytes);
}

static int parse_buffers(const char *text, uint64_t page_bytes, struct ring_text *r)
{
	const char *value = find_last_value(text, "UserBufs:");
	if (!value)
		return 0;
	uint64_t count = number_at(value, 10);
	const char *line = next_line(value);
	/* Without the lock there is no line. */
	if (count && *line != ' ' && (*line < '0' || *line > '9'))
		return 0;
	for (uint64_t i = 0; i < count; i++, line = next_line(line)) {
		int rc = parse_buffer(line, i, page_bytes, r);
		if (rc < 0)
			return rc;
	}
	r->whole = true;
	return 0;
}

/*
 * "    3: data.db", "    4: /srv/data.db", "    5: socket:[1234]", "    6: [eventfd]", "    7:
 * <none>", and nothing behind the colon for what has no name. In Linux up to 6.12 it is the last
 * part of the path alone.
 */
static void count_files(const char *text, struct ring_text *r)
{
	static const char *const others[] = {
		"<none>", "socket:", "pipe:", "anon_inode:", "[", "\n", NULL};
	const char *value = find_value(text, "UserFiles:");
	if (!value)
		return;
	for (const char *line = next_line(value); *line && strncmp(line, "UserBufs:", 9) != 0;
		line = next_line(line)) {
		char *at;
		(void)strtoull(line, &at, 10);
		if (at == line || *at != ':')
			continue;
		at += at[1] == ' ' ? 2 : 1;
		bool file = true;
		for (size_t i = 0; others[i]; i++)
			file &= strncmp(at, others[i], strlen(others[i])) != 0;
		r->nfiles += file;
	}
}

static void count_polls(const char *text, struct ring_text *r)
{
	const char *value = find_last_value(text, "PollList:");
	if (!value)
		return;
	for (const char *line = next_line(value); strncmp(line, "  op=", 5) == 0;
		line = next_line(line))
		r->npolls++;
}

int ring_text_parse(const char *text, uint64_t page_bytes, struct ring_text *ret)
{
	struct ring_text r = {
		.inode = number_at(find_value(text, "ino:"), 10),
		.submitted = (uint32_t)number_at(find_value(text, "CachedSqHead:"), 10),
		.completed = (uint32_t)number_at(find_value(text, "CachedCqTail:"), 10),
	};
	int rc = parse_buffers(text, page_bytes, &r);
	if (rc < 0) {
		ring_text_release(&r);
		return rc;
	}
	count_files(text, &r);
	count_polls(text, &r);
	*ret = r;
	return 0;
}

void ring_text_release(struct ring_text *r)
{
	pageset_release(&r->buffers);
	*r = (struct ring_text){0};
}

int call_text_parse(const char *text, struct call_text *ret)
{
	struct call_text c = {.nr = -1};
	if (strncmp(text, "running", 7) == 0) {
		c.running = true;
		*ret = c;
		return 0;
	}
	int n = sscanf(text,
		"%ld %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64, &c.nr,
		&c.args[0], &c.args[1], &c.args[2], &c.args[3], &c.args[4], &c.args[5]);
	/* Outside a call there are but the stack and the place in the program. */
	if (n < 3 || (c.nr >= 0 && n != 7))
		return -EBADMSG;
	*ret = c;
	return 0;
}

bool read_call_of(const struct call_text *call, struct read_call *ret)
{
	static const struct {
		long nr;
		bool vector;
	} calls[] = {
		{SYS_read, false},
		{SYS_pread64, false},
		{SYS_readv, true},
		{SYS_preadv, true},
		{SYS_preadv2, true},
	};
	for (size_t i = 0; !call->running && i < sizeof(calls) / sizeof(calls[0]); i++) {
		if (calls[i].nr != call->nr || call->args[2] == 0)
			continue;
		*ret = (struct read_call){.fd = (int)call->args[0],
			.address = call->args[1],
			.length = call->args[2],
			.vector = calls[i].vector};
		return true;
	}
	return false;
}
