/* SPDX-License-Identifier: MIT */
/*
 * Pages as what changed since the receiver got them last: 8 bytes XXH3-64 of the pages as they are
 * now (seed 0, little-endian), then one LZ4 block of the pages XOR what they were. Whoever decodes
 * has to have the same former bytes; the hash turns others into an error, never into wrong pages.
 */
#ifndef PROTO_CODEC_DELTA_H
#define PROTO_CODEC_DELTA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DELTA_HASH_BYTES 8

/* Is so little of a page changed that a delta of it may be worth its making? */
bool delta_is_likely(const uint8_t *page, const uint8_t *former, size_t bytes);

/* dst[i] = a[i] ^ b[i]; dst may be one of them. All lengths here are of whole pages. */
void delta_xor(const uint8_t *a, const uint8_t *b, uint8_t *dst, size_t bytes);

/* Makes the block of `pages`, whose XOR with the former ones is `difference`: at most `cap` bytes
 * into dst. Returns the length, or 0 where it does not fit. */
size_t delta_encode(
	const uint8_t *pages, const uint8_t *difference, size_t bytes, uint8_t *dst, size_t cap);

/* `former` is `bytes` long, as dst; the two do not overlap. 0; -EBADMSG: no such block; -ESTALE: a
 * block of other former bytes. dst is undefined then; nothing is written behind it. */
int delta_decode(
	const uint8_t *src, size_t src_bytes, const uint8_t *former, uint8_t *dst, size_t bytes);

#endif
