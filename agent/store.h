/* SPDX-License-Identifier: MIT */
/*
 * A store: a folder (0700) of images (0600).
 *
 *   .tidemark      "tidemark store 1": the layout's version
 *   .secret        what hashes of pages are mixed with
 *   NAME.tide      an image: complete since it has this name, and never changed
 *   .tmp-NAME-ID   one that is being written; its writer holds a lock (flock) on it
 *
 * A store is used by many threads and programs at once: after store_open() nothing changes but the
 * folder itself. The words of every error name the store and the file.
 */
#ifndef AGENT_STORE_H
#define AGENT_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/page_hash.h"
#include "base/guard.h"
#include "proto/message.h"
#include "tidemark/error.h"

#define STORE_VERSION 1
#define IMAGE_SUFFIX ".tide"

struct store;

enum store_mode {
	STORE_READ = 1,
	/* The folder is made where it is missing, and one that is empty becomes a store; one that
	 * others may enter or that is another user's is refused. */
	STORE_WRITE,
};

/* -ENOENT; -ENOTDIR; -EBADMSG for a folder that is not a store or of a version that is not known;
 * -ECANCELED for one that must not be written to. */
int store_open(const char *path, enum store_mode mode, struct store **ret, struct tide_error *err);
/* NULL is fine. Images that were opened from it stay good. */
void store_close(struct store *s);
DEFINE_GUARD(struct store, store_close)

/* As it was given to store_open(). */
const char *store_path(const struct store *s);

/* Removes the temporary files that dead writers left. *ret_removed may be NULL. */
int store_sweep(struct store *s, size_t *ret_removed, struct tide_error *err);

/* What hashes of pages are made with. NULL where a store that is only read has lost it. */
const struct page_secret *store_secret(const struct store *s);

/* A file under a temporary name. */
struct store_file {
	struct store *store; /* borrowed */
	int fd;              /* read and written freely; -1 when it is over */
	char name[NAME_MAX_BYTES + 1];
	char temp[NAME_MAX_BYTES + 48];
};

/* -ECANCELED (kind USAGE) for a name that is not one; -EEXIST where the store has it. */
int store_file_create(
	struct store *s, const char *name, struct store_file *ret, struct tide_error *err);
/* Syncs the file, gives it its name, syncs the folder, closes it. -EEXIST where the name was taken
 * meanwhile. On failure it is still under its temporary name, to be abandoned. */
int store_file_commit(struct store_file *f, struct tide_error *err);
/* Removes it. Nothing where it was committed or abandoned before. */
void store_file_abandon(struct store_file *f);

/* Opens an image's file to read. -ECANCELED for a name that is not one, -ENOENT. */
int store_file_open(struct store *s, const char *name, int *ret_fd, struct tide_error *err);

/* Removes an image. The same errors. */
int store_remove(struct store *s, const char *name, struct tide_error *err);

/* The names of all images, sorted and ended by NULL (or NULL where there are none). */
int store_names(struct store *s, char ***ret, size_t *ret_len, struct tide_error *err);
void store_names_free(char **names);
DEFINE_GUARD(char *, store_names_free)

/* One image of a list. */
struct store_entry {
	char name[NAME_MAX_BYTES + 1];
	uint64_t file_bytes;
	uint64_t stored_bytes; /* on the disk: holes do not count */
	/* Why it cannot be opened, or code 0; what follows is unset then. */
	struct tide_error error;
	uint8_t id[ID_BYTES];
	uint64_t created_realtime_ns;
	uint32_t page_bytes;
	uint64_t held_pages;
	uint64_t rounds;
	int32_t pid;
	char comm[32];
	char host[65];
};

/* All images, by name. free() *ret_entries. A damaged image is in the list, with its error. */
int store_list(
	struct store *s, struct store_entry **ret_entries, size_t *ret_len, struct tide_error *err);

#endif
