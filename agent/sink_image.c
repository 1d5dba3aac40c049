/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include "agent/former_pages.h"
#include "agent/image_format.h"
#include "agent/image_index.h"
#include "agent/sink_image.h"
#include "base/error.h"

/*
 * Of what was written at most so much is not on its way to the disk yet, and so much is not there
 * yet: the sync of the commit, for which the frozen process may wait, then has little left to do.
 */
#define WRITEBACK_STEP_BYTES ((uint64_t)8 << 20)
#define WRITEBACK_BEHIND_BYTES ((uint64_t)64 << 20)

struct image_sink {
	struct sink base;
	struct store_file file;
	const struct page_secret *secret;
	struct image_index *index;
	struct former_pages *former;

	uint64_t end;     /* of what was written, or has its place */
	uint64_t started; /* up to here it is on its way to the disk */
	uint64_t waited;  /* up to here it is there */

	uint8_t zero_hash[HASH_BYTES];
	/* Held for a write of pages: the kernel lets one write a file at a time, and who waits for
	 * that lock of its spins. */
	pthread_mutex_t writing;
};

/* A PAGES frame and the HASHES frame behind it, as they will be stored. */
struct sink_work {
	uint8_t page_hashes[BATCH_PAGES_MAX][HASH_BYTES];
	uint8_t hashes[HASHES_BYTES_MAX];
	size_t hashes_bytes;
	struct frame_buffer again; /* where the frame is not stored as it came */
	int made;                  /* 0, or why it could not be made again */
	uint64_t place;            /* in the file */
};

static struct image_sink *image_sink(struct sink *s)
{
	return (struct image_sink *)s;
}

static int fail(struct image_sink *s, int code, const char *what, struct tide_error *err)
{
	return tide_fail(err, code, "%s the image '%s' of the store %s", what, s->file.name,
		store_path(s->file.store));
}

/* --- writing ------------------------------------------------------------------------------ */

static int write_at(
	struct image_sink *s, uint64_t place, struct iovec *iov, int n, struct tide_error *err)
{
	while (n > 0) {
		ssize_t written = pwritev(s->file.fd, iov, n, (off_t)place);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return fail(s, written < 0 ? -errno : -ENOSPC, "write", err);
		place += (uint64_t)written;
		for (; n > 0 && (size_t)written >= iov->iov_len; iov++, n--)
			written -= (ssize_t)iov->iov_len;
		if (n > 0) {
			iov->iov_base = (uint8_t *)iov->iov_base + written;
			iov->iov_len -= (size_t)written;
		}
	}
	return 0;
}

static int append(struct image_sink *s, const void *data, size_t bytes, struct tide_error *err)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = bytes};
	int r = write_at(s, s->end, &iov, 1, err);
	if (r == 0)
		s->end += bytes;
	return r;
}

static int sync_range(
	struct image_sink *s, uint64_t from, uint64_t to, unsigned flags, struct tide_error *err)
{
	if (to <= from)
		return 0;
	/* Advice where a file system cannot; an error of the disk itself must not be lost: it is
	 * reported once. */
	if (sync_file_range(s->file.fd, (off_t)from, (off_t)(to - from), flags) < 0 &&
		errno != EINVAL && errno != ENOSYS && errno != ESPIPE)
		return fail(s, -errno, "write", err);
	return 0;
}

/*
 * Sends what was written up to `end` on its way, and waits for the disk where it falls behind. What
 * is being written just now, a few frames, may be missed: it is left to the sync of the commit.
 */
static int writeback(struct image_sink *s, uint64_t end, uint64_t step, struct tide_error *err)
{
	if (end < s->started + step)
		return 0;
	int r = sync_range(s, s->started, end, SYNC_FILE_RANGE_WRITE, err);
	if (r < 0)
		return r;
	s->started = end;

	uint64_t until = end > WRITEBACK_BEHIND_BYTES ? end - WRITEBACK_BEHIND_BYTES : 0;
	if (until < s->waited + step)
		return 0;
	r = sync_range(s, s->waited, until,
		SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER,
		err);
	s->waited = until;
	return r;
}

/* --- pages -------------------------------------------------------------------------------- */

static int image_sink_work_new(struct sink *base, struct sink_work **ret)
{
	(void)base;
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : -ENOMEM;
}

static void image_sink_work_free(struct sink_work *w)
{
	frame_buffer_release(&w->again);
	free(w);
}

static void hash_pages(
	const struct image_sink *s, const struct sink_input *in, uint8_t ret[][HASH_BYTES])
{
	const struct batch *b = in->batch;
	uint32_t page = 0;
	for (uint32_t i = 0; i < b->nblocks; i++) {
		for (uint32_t end = page + b->blocks[i].pages; page < end; page++) {
			if (b->blocks[i].codec == CODEC_ZERO)
				memcpy(ret[page], s->zero_hash, HASH_BYTES);
			else
				page_secret_hash(s->secret,
					in->pages + (size_t)page * b->page_bytes, b->page_bytes,
					ret[page]);
		}
	}
}

/*
 * What an image says must not depend on pages that it does not hold any more, so deltas are not
 * stored: the frame is made anew. Its pages are likely to be written again, and each is a block of
 * its own, so that reading it back for the next delta costs one page.
 */
static int encode_again(const struct sink_input *in, struct frame_buffer *ret)
{
	static const struct batch_encoding how = {.codec = &codec_lz4, .block_pages = 1};
	struct batch_stats stats = {0};
	return batch_encode(in->frame->process, in->batch, in->pages, &how, ret, &stats);
}

static void image_sink_prepare(struct sink *base, const struct sink_input *in)
{
	struct image_sink *s = image_sink(base);
	struct sink_work *w = in->work;
	w->made = batch_has_delta(in->batch) ? encode_again(in, &w->again) : 0;
	hash_pages(s, in, w->page_hashes);
	w->hashes_bytes = hashes_encode(
		in->frame->process, s->secret->id, w->page_hashes, in->batch->npages, w->hashes);
}

static const struct frame_buffer *stored_frame(const struct sink_input *in)
{
	return batch_has_delta(in->batch) ? &in->work->again : in->raw;
}

/* Gives the frame its place. It is written by finish(). */
static int place_pages(struct image_sink *s, const struct sink_input *in, struct tide_error *err)
{
	struct sink_work *w = in->work;
	if (w->made < 0)
		return fail(s, w->made, "encode pages for", err);
	w->place = s->end;
	s->end += stored_frame(in)->bytes + w->hashes_bytes;
	uint64_t settled = s->end > WRITEBACK_STEP_BYTES ? s->end - WRITEBACK_STEP_BYTES : 0;
	int r = writeback(s, settled, WRITEBACK_STEP_BYTES, err);
	return r < 0 ? r : 1;
}

static int image_sink_finish(struct sink *base, const struct sink_input *in, struct tide_error *err)
{
	struct sink_work *w = in->work;
	const struct frame_buffer *stored = stored_frame(in);
	struct iovec iov[2] = {
		{.iov_base = stored->data, .iov_len = stored->bytes},
		{.iov_base = w->hashes, .iov_len = w->hashes_bytes},
	};
	struct image_sink *s = image_sink(base);
	pthread_mutex_lock(&s->writing);
	int r = write_at(s, w->place, iov, 2, err);
	pthread_mutex_unlock(&s->writing);
	return r;
}

/* --- hollow frames ------------------------------------------------------------------------ */

/* [from, to) reads as zero from now on, if it can be without taking room. */
static int punch(struct image_sink *s, uint64_t from, uint64_t to, struct tide_error *err)
{
	static const uint8_t zeros[64 << 10];
	if (fallocate(s->file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
		    (off_t)(to - from)) == 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS)
		return fail(s, -errno, "punch a hole into", err);

	while (from < to) {
		size_t bytes = to - from < sizeof(zeros) ? (size_t)(to - from) : sizeof(zeros);
		ssize_t n = pwrite(s->file.fd, zeros, bytes, (off_t)from);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return fail(s, n < 0 ? -errno : -ENOSPC, "write", err);
		from += (uint64_t)n;
	}
	return 0;
}

/* Our own file, read back: what does not come is a fault of the disk. */
static int read_header(
	struct image_sink *s, uint64_t offset, struct frame_header *ret, struct tide_error *err)
{
	uint8_t buf[FRAME_HEADER_BYTES];
	ssize_t n;
	do {
		n = pread(s->file.fd, buf, sizeof(buf), (off_t)offset);
	} while (n < 0 && errno == EINTR);
	if (n != sizeof(buf))
		return fail(s, n < 0 ? -errno : -EIO, "read back", err);
	return frame_header_decode(buf, &frame_limits_max, ret, err);
}

/*
 * Makes one frame of a PAGES frame and the HASHES frame behind it, whose body is zero bytes. The
 * file has no name yet, so it does not matter which of the writes a crash leaves behind.
 */
static int make_hollow(struct image_sink *s, uint64_t offset, struct tide_error *err)
{
	struct frame_header pages, hashes;
	int r = read_header(s, offset, &pages, err);
	if (r < 0)
		return r;
	uint64_t body = offset + FRAME_HEADER_BYTES;
	uint64_t behind = body + pages.head_bytes + pages.payload_bytes;
	r = read_header(s, behind, &hashes, err);
	if (r < 0)
		return r;
	uint64_t end = behind + FRAME_HEADER_BYTES + hashes.head_bytes + hashes.payload_bytes;
	uint64_t head_bytes = end - body - pages.payload_bytes;
	if (pages.type != FRAME_PAGES || hashes.type != FRAME_HASHES || head_bytes > FRAME_HEAD_MAX)
		return fail(s, -EIO, "read back", err);

	uint8_t buf[FRAME_HEADER_BYTES];
	struct frame hollow = {
		.type = FRAME_HOLLOW,
		.flags = pages.flags,
		.process = pages.process,
		.head_bytes = (uint32_t)head_bytes,
		.payload_bytes = pages.payload_bytes,
	};
	frame_header_encode(&hollow, buf);
	ssize_t n;
	do {
		n = pwrite(s->file.fd, buf, sizeof(buf), (off_t)offset);
	} while (n < 0 && errno == EINTR);
	if (n != sizeof(buf))
		return fail(s, n < 0 ? -errno : -ENOSPC, "write", err);
	return punch(s, body, end, err);
}

/* Only between rounds: many small punches are slow. */
static int hollow_out(struct image_sink *s, struct tide_error *err)
{
	int r = 0;
	for (uint64_t offset; r == 0 && image_index_dead(s->index, &offset);)
		r = make_hollow(s, offset, err);
	return r;
}

/* --- the sink ----------------------------------------------------------------------------- */

static int stream_begin(struct image_sink *s, const struct stream_header *h, struct tide_error *err)
{
	auto_free uint8_t *zeros = calloc(1, h->page_bytes);
	if (!zeros)
		return fail(s, -ENOMEM, "begin", err);
	page_secret_hash(s->secret, zeros, h->page_bytes, s->zero_hash);

	uint8_t preamble[PREAMBLE_BYTES];
	preamble_encode(preamble);
	if (former_pages_new(h->page_bytes, &s->former) < 0)
		return fail(s, -ENOMEM, "begin", err);
	return append(s, preamble, sizeof(preamble), err);
}

/* Says what a reader of the image must know: not the deltas that came, but the codec of what is
 * stored in their place. */
static int put_stream(struct image_sink *s, const struct sink_input *in, struct tide_error *err)
{
	if (!(in->stream->features & FEATURE_DELTA))
		return append(s, in->raw->data, in->raw->bytes, err);
	struct stream_header h = *in->stream;
	h.features = (h.features & ~(uint64_t)FEATURE_DELTA) | FEATURE_LZ4;
	auto_(frame_buffer_release) struct frame_buffer again = {0};
	int r = stream_header_encode(&h, &again);
	return r < 0 ? fail(s, r, "begin", err) : append(s, again.data, again.bytes, err);
}

static int image_sink_frame(struct sink *base, const struct sink_input *in, struct tide_error *err)
{
	struct image_sink *s = image_sink(base);
	int r = 0;

	if (in->frame->type == FRAME_STREAM)
		r = stream_begin(s, in->stream, err);
	if (r == 0)
		r = image_index_frame(s->index, s->end, in, err);
	if (r < 0)
		return r;

	if (in->frame->type == FRAME_STREAM)
		return put_stream(s, in, err);
	if (in->frame->type == FRAME_PAGES)
		return place_pages(s, in, err);
	if (in->frame->type == FRAME_HOLLOW) {
		/* It was in another image: a hole here too. Something always follows it. */
		r = append(s, in->raw->data, FRAME_HEADER_BYTES, err);
		s->end += in->raw->bytes - FRAME_HEADER_BYTES;
		return r;
	}
	return append(s, in->raw->data, in->raw->bytes, err);
}

static int image_sink_former(struct sink *base, uint32_t process, space_id space,
	struct page_run run, uint8_t *dst, struct tide_error *err)
{
	struct image_sink *s = image_sink(base);
	return former_pages_read(s->former, s->file.fd, s->index, space, run, dst, err);
}

static int image_sink_round_end(struct sink *base, uint64_t round, struct tide_error *err)
{
	struct image_sink *s = image_sink(base);
	int r = hollow_out(s, err);
	return r < 0 ? r : writeback(s, s->end, 0, err);
}

static int append_index(void *arg, const void *data, size_t bytes, struct tide_error *err)
{
	return append(arg, data, bytes, err);
}

static int image_sink_commit(struct sink *base, struct committed *ret, struct tide_error *err)
{
	struct image_sink *s = image_sink(base);
	int r = hollow_out(s, err);
	if (r == 0)
		r = image_index_write(s->index, s->end, append_index, s, err);
	if (r < 0)
		return r;

	struct stat st;
	if (fstat(s->file.fd, &st) < 0)
		return fail(s, -errno, "look at", err);
	r = store_file_commit(&s->file, err);
	if (r < 0)
		return r;
	snprintf(ret->name, sizeof(ret->name), "%s", s->file.name);
	ret->stored_bytes = (uint64_t)st.st_blocks * 512;
	return 0;
}

static void image_sink_close(struct sink *base)
{
	struct image_sink *s = image_sink(base);
	store_file_abandon(&s->file);
	image_index_free(s->index);
	former_pages_free(s->former);
	pthread_mutex_destroy(&s->writing);
	free(s);
}

static const struct sink_ops image_sink_ops = {
	.work_new = image_sink_work_new,
	.work_free = image_sink_work_free,
	.prepare = image_sink_prepare,
	.finish = image_sink_finish,
	.frame = image_sink_frame,
	.former = image_sink_former,
	.round_end = image_sink_round_end,
	.commit = image_sink_commit,
	.close = image_sink_close,
};

int sink_image_open(
	struct store *store, const char *name, struct sink **ret, struct tide_error *err)
{
	auto_free struct image_sink *s = calloc(1, sizeof(*s));
	auto_(image_index_freep) struct image_index *index = NULL;
	uint8_t preamble[PREAMBLE_BYTES];
	preamble_encode(preamble);
	if (!s || image_index_new(preamble, &index) < 0)
		return tide_fail(err, -ENOMEM, "add the image '%s' to the store %s", name,
			store_path(store));
	s->base.ops = &image_sink_ops;
	pthread_mutex_init(&s->writing, NULL);
	s->secret = store_secret(store);
	if (!s->secret)
		return tide_say(err, "the store %s was opened to be read only", store_path(store));
	int r = store_file_create(store, name, &s->file, err);
	if (r < 0)
		return r;
	s->index = take(index);
	*ret = &take(s)->base;
	return 0;
}
