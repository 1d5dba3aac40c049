/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include "agent/page_hash.h"
#include "base/le.h"
#include "base/xxh3.h"

static const uint8_t file_magic[8] = {0x89, 't', 'i', 'd', 's', 'e', 'c', '1'};

int page_secret_make(struct page_secret *ret)
{
	_Static_assert(sizeof(*ret) <= 256, "getrandom gives so much at once");
	_Static_assert(PAGE_SECRET_BYTES >= XXH3_SECRET_SIZE_MIN, "what the hash wants");
	if (getrandom(ret, sizeof(*ret), 0) != sizeof(*ret))
		return -errno;
	return 0;
}

void page_secret_hash(const struct page_secret *secret, const void *page, size_t page_bytes,
	uint8_t ret[HASH_BYTES])
{
	XXH128_hash_t hash =
		XXH3_128bits_withSecret(page, page_bytes, secret->bytes, sizeof(secret->bytes));
	XXH128_canonical_t canonical;
	XXH128_canonicalFromHash(&canonical, hash);
	memcpy(ret, canonical.digest, HASH_BYTES);
}

void page_secret_encode(const struct page_secret *secret, uint8_t buf[PAGE_SECRET_FILE_BYTES])
{
	memcpy(buf, file_magic, 8);
	memcpy(buf + 8, secret->id, ID_BYTES);
	memcpy(buf + 8 + ID_BYTES, secret->bytes, PAGE_SECRET_BYTES);
	le64_put(buf + PAGE_SECRET_FILE_BYTES - 8, XXH3_64bits(buf, PAGE_SECRET_FILE_BYTES - 8));
}

int page_secret_decode(const uint8_t buf[PAGE_SECRET_FILE_BYTES], struct page_secret *ret)
{
	uint64_t sum = XXH3_64bits(buf, PAGE_SECRET_FILE_BYTES - 8);
	if (memcmp(buf, file_magic, 8) != 0 || sum != le64_get(buf + PAGE_SECRET_FILE_BYTES - 8))
		return -EBADMSG;
	memcpy(ret->id, buf + 8, ID_BYTES);
	memcpy(ret->bytes, buf + 8 + ID_BYTES, PAGE_SECRET_BYTES);
	return 0;
}
