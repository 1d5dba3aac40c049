/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "agent/image.h"
#include "agent/store.h"
#include "base/error.h"

static void entry_fill(struct store *s, const char *name, struct store_entry *e)
{
	auto_(image_closep) struct image *image = NULL;
	snprintf(e->name, sizeof(e->name), "%s", name);
	if (image_open(s, name, &image, &e->error) < 0) {
		/* Its size is known all the same. */
		auto_close int fd = -1;
		struct stat st;
		if (store_file_open(s, name, &fd, NULL) == 0 && fstat(fd, &st) == 0) {
			e->file_bytes = (uint64_t)st.st_size;
			e->stored_bytes = (uint64_t)st.st_blocks * 512;
		}
		return;
	}

	const struct stream_header *h = image_header(image);
	const struct process_info *p = image_process(image, 1)->info;
	struct image_info info = image_info(image);
	e->file_bytes = info.file_bytes;
	e->stored_bytes = info.stored_bytes;
	memcpy(e->id, h->stream_id, ID_BYTES);
	e->created_realtime_ns = h->created_realtime_ns;
	e->page_bytes = h->page_bytes;
	e->held_pages = info.held_pages;
	e->rounds = info.rounds;
	e->pid = p->pid;
	snprintf(e->comm, sizeof(e->comm), "%s", p->comm);
	snprintf(e->host, sizeof(e->host), "%s", h->host);
}

int store_list(
	struct store *s, struct store_entry **ret_entries, size_t *ret_len, struct tide_error *err)
{
	auto_(store_names_freep) char **names = NULL;
	size_t len;
	int r = store_names(s, &names, &len, err);
	if (r < 0)
		return r;

	auto_free struct store_entry *entries = calloc(len + 1, sizeof(*entries));
	if (!entries)
		return tide_fail(err, -ENOMEM, "list the store %s", store_path(s));
	size_t n = 0;
	for (size_t i = 0; i < len; i++) {
		entry_fill(s, names[i], &entries[n]);
		/* Removed since: not there, not damaged. */
		if (entries[n].error.code == -ENOENT)
			entries[n] = (struct store_entry){0};
		else
			n++;
	}
	*ret_entries = take(entries);
	*ret_len = n;
	return 0;
}
