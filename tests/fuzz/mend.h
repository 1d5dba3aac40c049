/* SPDX-License-Identifier: MIT */
/* Making checksums right: a fuzzer does not find one, and what lies behind them must stand hostile
 * frames with right ones. */
#ifndef TESTS_FUZZ_MEND_H
#define TESTS_FUZZ_MEND_H

#include <string.h>
#include "base/le.h"
#include "proto/frame.h"

/* Of the frame at `at`; moves behind it and returns true, unless it is not whole there. */
static inline bool checksum_mend(uint8_t *data, size_t bytes, size_t *at)
{
	if (bytes < *at || bytes - *at < FRAME_HEADER_BYTES)
		return false;
	uint8_t *header = data + *at;
	struct frame f = {
		.head_bytes = le32_get(header),
		.payload_bytes = le32_get(header + 4),
		.type = le16_get(header + 8),
		.flags = le16_get(header + 10),
		.process = le32_get(header + 12),
		.head = header + FRAME_HEADER_BYTES,
	};
	if (f.head_bytes > FRAME_HEAD_MAX || f.payload_bytes > FRAME_PAYLOAD_MAX ||
		f.head_bytes + f.payload_bytes > bytes - *at - FRAME_HEADER_BYTES)
		return false;
	f.payload = f.head + f.head_bytes;
	frame_header_encode(&f, header);
	*at += FRAME_HEADER_BYTES + f.head_bytes + f.payload_bytes;
	return true;
}

static inline void checksums_mend(uint8_t *data, size_t bytes, size_t at)
{
	while (checksum_mend(data, bytes, &at))
		;
}

#endif
