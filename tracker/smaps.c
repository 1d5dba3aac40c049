/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/units.h"
#include "tracker/maps.h"
#include "tracker/process.h"
#include "tracker/smaps.h"

struct field {
	const char *key;
	size_t offset;
};

static const struct field fields[] = {
	{"Rss", offsetof(struct smaps_bytes, rss)},
	{"Shared_Clean", offsetof(struct smaps_bytes, shared_clean)},
	{"Shared_Dirty", offsetof(struct smaps_bytes, shared_dirty)},
	{"Private_Clean", offsetof(struct smaps_bytes, private_clean)},
	{"Private_Dirty", offsetof(struct smaps_bytes, private_dirty)},
	{"Referenced", offsetof(struct smaps_bytes, referenced)},
	{"Anonymous", offsetof(struct smaps_bytes, anonymous)},
	{"LazyFree", offsetof(struct smaps_bytes, lazy_free)},
	{"KSM", offsetof(struct smaps_bytes, ksm)},
	{"AnonHugePages", offsetof(struct smaps_bytes, anon_huge)},
	{"ShmemPmdMapped", offsetof(struct smaps_bytes, shmem_huge)},
	{"FilePmdMapped", offsetof(struct smaps_bytes, file_huge)},
	{"Shared_Hugetlb", offsetof(struct smaps_bytes, shared_hugetlb)},
	{"Private_Hugetlb", offsetof(struct smaps_bytes, private_hugetlb)},
	{"Swap", offsetof(struct smaps_bytes, swap)},
};
#define NFIELDS (sizeof(fields) / sizeof(fields[0]))

static uint64_t *field_of(struct smaps_bytes *b, size_t field)
{
	return (uint64_t *)((char *)b + fields[field].offset);
}

void smaps_bytes_add(struct smaps_bytes *sum, const struct smaps_bytes *b)
{
	struct smaps_bytes added = *b;
	for (size_t i = 0; i < NFIELDS; i++)
		*field_of(sum, i) += *field_of(&added, i);
}

void smaps_release(struct smaps *s)
{
	for (size_t i = 0; i < s->len; i++)
		mapping_release(&s->v[i].mapping);
	free(s->v);
	*s = (struct smaps){0};
}

/* Takes over the strings of `m`. */
static int append(struct smaps *s, struct mapping *m)
{
	if (s->len == s->cap) {
		size_t cap = s->cap ? 2 * s->cap : 64;
		struct smaps_entry *v = reallocarray(s->v, cap, sizeof(*v));
		if (!v)
			return -ENOMEM;
		s->v = v;
		s->cap = cap;
	}
	s->v[s->len++] = (struct smaps_entry){
		.mapping = *m,
		.has_file = m->inode != 0 || m->dev_major != 0 || m->dev_minor != 0 ||
			    m->name[0] == '/',
		.is_hugetlb = m->flags & MAPPING_HUGETLB,
	};
	*m = (struct mapping){0};
	return 0;
}

/*
 * A mapping begins. As in maps, a piece that the kernel wrote later can lie over the end of the one
 * before; what was said first stands, and the counts of one that is hidden wholly go with it.
 */
static int begin_entry(struct smaps *s, const char *line, size_t len, struct smaps_entry **ret,
	struct tide_error *err)
{
	auto_(mapping_table_release) struct mapping_table one = {0};
	int r = maps_parse(line, len, &one, err);
	if (r < 0)
		return r;
	*ret = NULL;
	uint64_t end = s->len ? s->v[s->len - 1].mapping.end : 0;
	if (one.len != 1 || one.v[0].end <= end)
		return 0;
	if (one.v[0].start < end)
		one.v[0].start = end;
	r = append(s, &one.v[0]);
	if (r < 0)
		return tide_fail(err, r, "read a table of mappings");
	*ret = &s->v[s->len - 1];
	return 0;
}

/* "VmFlags: rd wr mr mw me ac sd" */
static void read_flags(struct smaps_entry *e, const char *value, size_t len)
{
	for (size_t i = 0; i + 1 < len; i++) {
		if (isspace((unsigned char)value[i]))
			continue;
		e->is_direct |=
			strncmp(&value[i], "pf", 2) == 0 || strncmp(&value[i], "mm", 2) == 0;
		e->is_hugetlb |= strncmp(&value[i], "ht", 2) == 0;
		while (i + 1 < len && !isspace((unsigned char)value[i + 1]))
			i++;
	}
}

/* "Rss:                 140 kB" */
static int read_count(
	struct smaps_entry *e, const char *line, size_t key_len, size_t len, struct tide_error *err)
{
	for (size_t i = 0; i < NFIELDS; i++) {
		if (strlen(fields[i].key) != key_len || strncmp(fields[i].key, line, key_len) != 0)
			continue;
		char text[32] = "";
		size_t at = key_len + 1;
		while (at < len && line[at] == ' ')
			at++;
		for (size_t n = 0; at < len && n + 1 < sizeof(text) && line[at] != ' '; n++, at++)
			text[n] = line[at];
		uint64_t kib;
		if (units_parse_count(text, 0, UINT64_MAX >> 10, &kib) < 0)
			return tide_bad(err, "'%.*s' in a smaps file is no count",
				(int)(len > 80 ? 80 : len), line);
		*field_of(&e->bytes, i) = kib << 10;
	}
	return 0;
}

int smaps_parse(const char *text, size_t len, struct smaps *ret, struct tide_error *err)
{
	auto_(smaps_release) struct smaps made = {0};
	struct smaps_entry *e = NULL;
	for (const char *at = text, *end = text + len; at < end;) {
		const char *stop = memchr(at, '\n', (size_t)(end - at));
		if (!stop)
			stop = end;
		size_t n = (size_t)(stop - at);
		const char *colon = memchr(at, ':', n);
		int r = 0;
		/* Addresses are in lower case, and no key is. */
		if (isdigit((unsigned char)*at) || islower((unsigned char)*at))
			r = begin_entry(&made, at, n, &e, err);
		else if (e && colon && colon - at == 7 && strncmp(at, "VmFlags", 7) == 0)
			read_flags(e, colon + 1, (size_t)(stop - colon - 1));
		else if (e && colon)
			r = read_count(e, at, (size_t)(colon - at), n, err);
		if (r < 0)
			return r;
		at = stop + 1;
	}
	*ret = made;
	made = (struct smaps){0};
	return 0;
}

int smaps_read(const struct process *p, struct smaps *ret, struct tide_error *err)
{
	auto_free char *text = NULL;
	size_t len = 0;
	int r = process_read_file(p, "smaps", &text, &len, err);
	return r < 0 ? r : smaps_parse(text, len, ret, err);
}
