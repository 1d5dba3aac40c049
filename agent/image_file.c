/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include "agent/image_file.h"
#include "base/error.h"

int image_file_init(struct image_file *f, int fd, struct tide_error *err)
{
	auto_close int owned = fd;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return tide_fail(err, -errno, "look at the file");
	if (!S_ISREG(st.st_mode))
		return tide_bad(err, "it is not a regular file");
	*f = (struct image_file){
		.fd = take_fd(&owned),
		.bytes = (uint64_t)st.st_size,
		.stored_bytes = (uint64_t)st.st_blocks * 512,
	};
	return 0;
}

void image_file_release(struct image_file *f)
{
	if (f->fd >= 0)
		close(take_fd(&f->fd));
}

int image_file_read(const struct image_file *f, uint64_t offset, void *buf, size_t bytes,
	struct tide_error *err)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t n =
			pread(f->fd, (uint8_t *)buf + done, bytes - done, (off_t)(offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return tide_fail(err, -errno, "read %zu bytes", bytes);
		if (n == 0)
			return tide_bad(err, "the file ends at byte %" PRIu64, offset + done);
		done += (size_t)n;
	}
	return 0;
}

int image_file_frame(const struct image_file *f, uint64_t offset, uint64_t end,
	struct frame_buffer *raw, struct frame *ret, struct tide_error *err)
{
	uint8_t header[FRAME_HEADER_BYTES];
	struct frame_header h;

	if (offset > end || end - offset < FRAME_HEADER_BYTES)
		return tide_bad(err, "no frame has room there");
	int r = image_file_read(f, offset, header, sizeof(header), err);
	if (r == 0)
		r = frame_header_decode(header, &frame_limits_max, &h, err);
	if (r < 0)
		return r;

	uint64_t body = (uint64_t)h.head_bytes + h.payload_bytes;
	if (body > end - offset - FRAME_HEADER_BYTES) {
		char name[16];
		return tide_bad(err, "a %s frame of %" PRIu64 " bytes has no room there",
			frame_type_name(h.type, name), body + FRAME_HEADER_BYTES);
	}
	if (frame_buffer_reserve(raw, FRAME_HEADER_BYTES + (size_t)body) < 0)
		return tide_fail(err, -ENOMEM, "read a frame");
	raw->bytes = FRAME_HEADER_BYTES + (size_t)body;
	memcpy(raw->data, header, sizeof(header));
	r = image_file_read(
		f, offset + FRAME_HEADER_BYTES, raw->data + FRAME_HEADER_BYTES, (size_t)body, err);
	if (r < 0)
		return r;
	return frame_decode(raw->data, raw->data + FRAME_HEADER_BYTES, ret, err);
}
