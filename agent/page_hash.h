/* SPDX-License-Identifier: MIT */
/*
 * 128-bit hashes of pages: XXH3-128 mixed with a random secret, so that who chooses the bytes of
 * pages cannot choose two of one hash. Each store has a secret.
 */
#ifndef AGENT_PAGE_HASH_H
#define AGENT_PAGE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include "proto/message.h"

#define HASH_BYTES 16
#define PAGE_SECRET_BYTES 192

struct page_secret {
	uint8_t id[ID_BYTES]; /* names it, in the files that use it; says nothing of the bytes */
	uint8_t bytes[PAGE_SECRET_BYTES];
};

/* A new one. -errno of getrandom. */
int page_secret_make(struct page_secret *ret);

/* The hash in XXH3's canonical form: big-endian. */
void page_secret_hash(const struct page_secret *secret, const void *page, size_t page_bytes,
	uint8_t ret[HASH_BYTES]);

/* As it lies in a file. */
#define PAGE_SECRET_FILE_BYTES (8 + ID_BYTES + PAGE_SECRET_BYTES + 8)
void page_secret_encode(const struct page_secret *secret, uint8_t buf[PAGE_SECRET_FILE_BYTES]);
/* -EBADMSG where it is not one, or is damaged. */
int page_secret_decode(const uint8_t buf[PAGE_SECRET_FILE_BYTES], struct page_secret *ret);

#endif
