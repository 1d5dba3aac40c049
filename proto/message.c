/* SPDX-License-Identifier: MIT */
/* The messages about a session and about a stream; those about a process are in message_process.c.
 */
#include <inttypes.h>
#include <string.h>
#include <sys/random.h>
#include <sys/utsname.h>
#include "base/error.h"
#include "proto/message.h"
#include "proto/tidemark.pb-c.h"
#include "proto/wire.h"

/*
 * Each message has one check, which its encoder and its decoder share: what the one makes the other
 * takes.
 */

/* --- what several have -------------------------------------------------------------------- */

#define ALPHANUMERIC "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

bool image_name_valid(const char *name)
{
	size_t len = strnlen(name, NAME_MAX_BYTES + 1);
	return len <= NAME_MAX_BYTES && strspn(name, ALPHANUMERIC) > 0 &&
	       strspn(name, ALPHANUMERIC "._-") == len;
}

static int name_check(enum frame_type type, const char *name, struct tide_error *err)
{
	if (image_name_valid(name))
		return 0;
	return wire_bad(err, type, "with a name that no image may have");
}

static int name_take(
	enum frame_type type, const ProtobufCBinaryData *from, char *dst, struct tide_error *err)
{
	return wire_text_take(type, "a name", from, dst, NAME_MAX_BYTES + 1, err);
}

static int id_check(
	enum frame_type type, const char *what, const uint8_t *id, struct tide_error *err)
{
	if (!wire_bytes_zero(id, ID_BYTES))
		return 0;
	return wire_bad(err, type, "with %s of zeros", what);
}

static ProtobufCBinaryData id_bytes(const uint8_t *id)
{
	/* Zero means that there is none, and is left out. */
	return wire_bytes(id, wire_bytes_zero(id, ID_BYTES) ? 0 : ID_BYTES);
}

static int id_take(enum frame_type type, const char *what, const ProtobufCBinaryData *from,
	uint8_t *dst, struct tide_error *err)
{
	return wire_bytes_take(type, what, from, true, dst, ID_BYTES, err);
}

static ProtobufCBinaryData text_bytes(const char *text)
{
	return wire_bytes(text, strlen(text));
}

/* The machine that pages come from, in HELLO and in STREAM. */
static int machine_check(enum frame_type type, const char architecture[32],
	const char byte_order[16], uint32_t page_bytes, struct tide_error *err)
{
	int r = wire_text_check(type, "an architecture", architecture, 32, 0, err);
	if (r < 0)
		return r;
	r = wire_text_check(type, "a byte order", byte_order, 16, 0, err);
	if (r < 0)
		return r;
	if (strcmp(byte_order, "little") != 0 && strcmp(byte_order, "big") != 0)
		return wire_bad(err, type, "with a byte order that is neither little nor big");
	if (page_bytes < PLACE_UNIT_BYTES || page_bytes > PAGE_BYTES_MAX ||
		(page_bytes & (page_bytes - 1)) != 0)
		return wire_bad(err, type, "with pages of %" PRIu32 " bytes", page_bytes);
	return 0;
}

static int machine_take(enum frame_type type, const ProtobufCBinaryData *architecture,
	char architecture_ret[32], const ProtobufCBinaryData *byte_order, char byte_order_ret[16],
	struct tide_error *err)
{
	int r = wire_text_take(type, "an architecture", architecture, architecture_ret, 32, err);
	if (r < 0)
		return r;
	return wire_text_take(type, "a byte order", byte_order, byte_order_ret, 16, err);
}

/* --- HELLO -------------------------------------------------------------------------------- */

static int hello_check(const struct hello *m, struct tide_error *err)
{
	if (m->version_min == 0 || m->version_min > m->version_max)
		return wire_bad(err, FRAME_HELLO, "with versions from %u to %u", m->version_min,
			m->version_max);
	if (m->limits.head_bytes < HEAD_BYTES_LEAST)
		return wire_bad(err, FRAME_HELLO,
			"with a limit of %" PRIu32 " bytes for heads, below the least of %u",
			m->limits.head_bytes, HEAD_BYTES_LEAST);
	if (m->limits.payload_bytes < PAYLOAD_BYTES_LEAST)
		return wire_bad(err, FRAME_HELLO,
			"with a limit of %" PRIu32 " bytes for payloads, below the least of %u",
			m->limits.payload_bytes, PAYLOAD_BYTES_LEAST);

	int r = machine_check(FRAME_HELLO, m->architecture, m->byte_order, m->page_bytes, err);
	if (r < 0)
		return r;
	return wire_text_check(
		FRAME_HELLO, "a software name", m->software, sizeof(m->software), TEXT_EMPTY, err);
}

int hello_encode(const struct hello *m, struct frame_buffer *ret)
{
	ret->bytes = 0;
	if (hello_check(m, NULL) < 0)
		return -EINVAL;

	Tidemark__Hello w = TIDEMARK__HELLO__INIT;
	w.version_min = m->version_min;
	w.version_max = m->version_max;
	w.features = m->features;
	w.architecture = text_bytes(m->architecture);
	w.byte_order = text_bytes(m->byte_order);
	w.page_bytes = m->page_bytes;
	w.head_bytes_max = m->limits.head_bytes;
	w.payload_bytes_max = m->limits.payload_bytes;
	w.nonce = wire_bytes(m->nonce, NONCE_BYTES);
	w.software = text_bytes(m->software);
	w.wants_auth = m->wants_auth;
	return wire_encode(FRAME_HELLO, 0, &w.base, ret);
}

int hello_decode(const struct frame *f, struct hello *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(
		f, FRAME_HELLO, false, &tidemark__hello__descriptor, &arena, &unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__Hello *w = (const Tidemark__Hello *)unpacked;
	if (w->version_min > UINT16_MAX || w->version_max > UINT16_MAX)
		return wire_bad(err, FRAME_HELLO, "with versions from %" PRIu32 " to %" PRIu32,
			w->version_min, w->version_max);
	struct hello m = {
		.version_min = (uint16_t)w->version_min,
		.version_max = (uint16_t)w->version_max,
		.features = w->features,
		.page_bytes = w->page_bytes,
		.limits = {w->head_bytes_max, w->payload_bytes_max},
		.wants_auth = w->wants_auth,
	};
	r = machine_take(
		FRAME_HELLO, &w->architecture, m.architecture, &w->byte_order, m.byte_order, err);
	if (r < 0)
		return r;
	r = wire_text_take(
		FRAME_HELLO, "a software name", &w->software, m.software, sizeof(m.software), err);
	if (r < 0)
		return r;
	r = wire_bytes_take(FRAME_HELLO, "a nonce", &w->nonce, false, m.nonce, NONCE_BYTES, err);
	if (r < 0)
		return r;
	r = hello_check(&m, err);
	if (r < 0)
		return r;
	*ret = m;
	return 0;
}

int hello_init(struct hello *m, struct tide_error *err)
{
	bool little = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
	struct hello made = {
		.version_min = FORMAT_MAJOR,
		.version_max = FORMAT_MAJOR,
		.features = FEATURES_KNOWN,
		.page_bytes = (uint32_t)sysconf(_SC_PAGESIZE),
		.limits = frame_limits_max,
		.software = "tidemark " TIDEMARK_VERSION,
	};

	struct utsname machine;
	if (uname(&machine) < 0)
		return tide_fail(err, -errno, "ask for this machine's architecture");
	if (strlen(machine.machine) >= sizeof(made.architecture))
		return tide_say(err, "this machine's architecture has an unusual name, %s",
			machine.machine);
	strcpy(made.architecture, machine.machine);
	strcpy(made.byte_order, little ? "little" : "big");

	/* As many as these come whole, whatever signals do. */
	if (getrandom(made.nonce, sizeof(made.nonce), 0) != (ssize_t)sizeof(made.nonce))
		return tide_fail(err, -errno, "get random bytes");
	*m = made;
	return 0;
}

int hello_agree(const struct hello *ours, const struct hello *theirs, struct agreement *ret,
	struct tide_error *err)
{
	uint16_t version =
		ours->version_max < theirs->version_max ? ours->version_max : theirs->version_max;
	if (version < ours->version_min || version < theirs->version_min)
		return tide_bad(err,
			"the peer (%s) speaks versions %u to %u of the format, this program %u to "
			"%u",
			theirs->software, theirs->version_min, theirs->version_max,
			ours->version_min, ours->version_max);
	if (strcmp(ours->architecture, theirs->architecture) != 0)
		return tide_bad(err, "the peer is a machine of architecture %s, this one is %s",
			theirs->architecture, ours->architecture);
	if (strcmp(ours->byte_order, theirs->byte_order) != 0)
		return tide_bad(err, "the peer's byte order is %s, this machine's %s",
			theirs->byte_order, ours->byte_order);
	if (ours->page_bytes != theirs->page_bytes)
		return tide_bad(err,
			"the peer's pages have %" PRIu32 " bytes, this machine's %" PRIu32,
			theirs->page_bytes, ours->page_bytes);

	struct frame_limits limits = ours->limits;
	if (limits.head_bytes > theirs->limits.head_bytes)
		limits.head_bytes = theirs->limits.head_bytes;
	if (limits.payload_bytes > theirs->limits.payload_bytes)
		limits.payload_bytes = theirs->limits.payload_bytes;
	*ret = (struct agreement){
		.version = version,
		.features = ours->features & theirs->features,
		.limits = limits,
	};
	return 0;
}

/* --- AUTH --------------------------------------------------------------------------------- */

int auth_encode(const struct auth *m, struct frame_buffer *ret)
{
	Tidemark__Auth w = TIDEMARK__AUTH__INIT;
	w.proof = wire_bytes(m->proof, PROOF_BYTES);
	return wire_encode(FRAME_AUTH, 0, &w.base, ret);
}

int auth_decode(const struct frame *f, struct auth *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(
		f, FRAME_AUTH, false, &tidemark__auth__descriptor, &arena, &unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__Auth *w = (const Tidemark__Auth *)unpacked;
	return wire_bytes_take(
		FRAME_AUTH, "a proof", &w->proof, false, ret->proof, PROOF_BYTES, err);
}

/* --- OPEN, OPENED ------------------------------------------------------------------------- */

_Static_assert((int)SINK_IMAGE == TIDEMARK__SINK_KIND__SINK_IMAGE &&
		       (int)SINK_SNAPSHOT == TIDEMARK__SINK_KIND__SINK_SNAPSHOT &&
		       (int)SINK_SHELL == TIDEMARK__SINK_KIND__SINK_SHELL,
	"the numbers of sinks travel");

static int open_request_check(const struct open_request *m, struct tide_error *err)
{
	if (m->sink < SINK_IMAGE || m->sink > SINK_SHELL)
		return wire_bad(err, FRAME_OPEN, "with sink %d, which is not known", m->sink);
	if (m->sink != SINK_SNAPSHOT && !wire_bytes_zero(m->base_id, ID_BYTES))
		return wire_bad(err, FRAME_OPEN, "with a base, which only a snapshot has");
	int r = id_check(FRAME_OPEN, "a session id", m->session_id, err);
	if (r < 0)
		return r;
	return name_check(FRAME_OPEN, m->name, err);
}

int open_request_encode(const struct open_request *m, struct frame_buffer *ret)
{
	ret->bytes = 0;
	if (open_request_check(m, NULL) < 0)
		return -EINVAL;

	Tidemark__Open w = TIDEMARK__OPEN__INIT;
	w.session_id = wire_bytes(m->session_id, ID_BYTES);
	w.sink = (Tidemark__SinkKind)m->sink;
	w.name = text_bytes(m->name);
	w.base_id = id_bytes(m->base_id);
	return wire_encode(FRAME_OPEN, 0, &w.base, ret);
}

int open_request_decode(const struct frame *f, struct open_request *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(
		f, FRAME_OPEN, false, &tidemark__open__descriptor, &arena, &unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__Open *w = (const Tidemark__Open *)unpacked;
	struct open_request m = {.sink = (enum sink_kind)w->sink};
	r = id_take(FRAME_OPEN, "a session id", &w->session_id, m.session_id, err);
	if (r < 0)
		return r;
	r = id_take(FRAME_OPEN, "a base id", &w->base_id, m.base_id, err);
	if (r < 0)
		return r;
	r = name_take(FRAME_OPEN, &w->name, m.name, err);
	if (r < 0)
		return r;
	r = open_request_check(&m, err);
	if (r < 0)
		return r;
	*ret = m;
	return 0;
}

static int open_reply_check(const struct open_reply *m, struct tide_error *err)
{
	int r = id_check(FRAME_OPENED, "a session id", m->session_id, err);
	if (r < 0)
		return r;
	return name_check(FRAME_OPENED, m->name, err);
}

int open_reply_encode(const struct open_reply *m, struct frame_buffer *ret)
{
	ret->bytes = 0;
	if (open_reply_check(m, NULL) < 0)
		return -EINVAL;

	Tidemark__Opened w = TIDEMARK__OPENED__INIT;
	w.session_id = wire_bytes(m->session_id, ID_BYTES);
	w.name = text_bytes(m->name);
	return wire_encode(FRAME_OPENED, 0, &w.base, ret);
}

int open_reply_decode(const struct frame *f, struct open_reply *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(
		f, FRAME_OPENED, false, &tidemark__opened__descriptor, &arena, &unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__Opened *w = (const Tidemark__Opened *)unpacked;
	struct open_reply m = {0};
	r = id_take(FRAME_OPENED, "a session id", &w->session_id, m.session_id, err);
	if (r < 0)
		return r;
	r = name_take(FRAME_OPENED, &w->name, m.name, err);
	if (r < 0)
		return r;
	r = open_reply_check(&m, err);
	if (r < 0)
		return r;
	*ret = m;
	return 0;
}

/* --- JOIN, JOINED ------------------------------------------------------------------------- */

int join_request_encode(const struct join_request *m, struct frame_buffer *ret)
{
	ret->bytes = 0;
	if (id_check(FRAME_JOIN, "a session id", m->session_id, NULL) < 0)
		return -EINVAL;
	Tidemark__Join w = TIDEMARK__JOIN__INIT;
	w.session_id = wire_bytes(m->session_id, ID_BYTES);
	return wire_encode(FRAME_JOIN, 0, &w.base, ret);
}

int join_request_decode(const struct frame *f, struct join_request *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	struct join_request m = {0};
	int r = wire_decode(
		f, FRAME_JOIN, false, &tidemark__join__descriptor, &arena, &unpacked, err);
	if (r == 0)
		r = id_take(FRAME_JOIN, "a session id",
			&((const Tidemark__Join *)unpacked)->session_id, m.session_id, err);
	if (r == 0)
		r = id_check(FRAME_JOIN, "a session id", m.session_id, err);
	if (r == 0)
		*ret = m;
	return r;
}

int join_reply_encode(const struct join_reply *m, struct frame_buffer *ret)
{
	ret->bytes = 0;
	if (id_check(FRAME_JOINED, "a session id", m->session_id, NULL) < 0)
		return -EINVAL;
	Tidemark__Joined w = TIDEMARK__JOINED__INIT;
	w.session_id = wire_bytes(m->session_id, ID_BYTES);
	return wire_encode(FRAME_JOINED, 0, &w.base, ret);
}

int join_reply_decode(const struct frame *f, struct join_reply *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	struct join_reply m = {0};
	int r = wire_decode(
		f, FRAME_JOINED, false, &tidemark__joined__descriptor, &arena, &unpacked, err);
	if (r == 0)
		r = id_take(FRAME_JOINED, "a session id",
			&((const Tidemark__Joined *)unpacked)->session_id, m.session_id, err);
	if (r == 0)
		r = id_check(FRAME_JOINED, "a session id", m.session_id, err);
	if (r == 0)
		*ret = m;
	return r;
}

/* --- ERROR -------------------------------------------------------------------------------- */

_Static_assert((int)TIDE_ERROR_FAILED == TIDEMARK__ERROR_KIND__ERROR_FAILED &&
		       (int)TIDE_ERROR_USAGE == TIDEMARK__ERROR_KIND__ERROR_USAGE &&
		       (int)TIDE_ERROR_TARGET_GONE == TIDEMARK__ERROR_KIND__ERROR_TARGET_GONE &&
		       (int)TIDE_ERROR_UNSUPPORTED == TIDEMARK__ERROR_KIND__ERROR_UNSUPPORTED,
	"the numbers of error kinds travel");

static int error_message_check(const struct error_message *m, struct tide_error *err)
{
	if (m->kind < TIDE_ERROR_FAILED || m->kind > TIDE_ERROR_UNSUPPORTED)
		return wire_bad(err, FRAME_ERROR, "of kind %d, which is not known", m->kind);
	return wire_text_check(FRAME_ERROR, "a text", m->text, ERROR_TEXT_MAX, TEXT_EMPTY, err);
}

int error_message_encode(const struct error_message *m, struct frame_buffer *ret)
{
	struct error_message clean = {.kind = m->kind};
	wire_text_clean(m->text, clean.text, sizeof(clean.text));
	ret->bytes = 0;
	if (error_message_check(&clean, NULL) < 0)
		return -EINVAL;

	Tidemark__Error w = TIDEMARK__ERROR__INIT;
	w.kind = (Tidemark__ErrorKind)clean.kind;
	w.text = text_bytes(clean.text);
	return wire_encode(FRAME_ERROR, 0, &w.base, ret);
}

int error_message_decode(const struct frame *f, struct error_message *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(
		f, FRAME_ERROR, false, &tidemark__error__descriptor, &arena, &unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__Error *w = (const Tidemark__Error *)unpacked;
	struct error_message m = {.kind = (enum tide_error_kind)w->kind};
	r = wire_text_take(FRAME_ERROR, "a text", &w->text, m.text, sizeof(m.text), err);
	if (r < 0)
		return r;
	r = error_message_check(&m, err);
	if (r < 0)
		return r;
	*ret = m;
	return 0;
}

/* --- ACK, COMMITTED, PING ----------------------------------------------------------------- */

int round_ack_encode(const struct round_ack *m, struct frame_buffer *ret)
{
	Tidemark__Ack w = TIDEMARK__ACK__INIT;
	w.round = m->round;
	w.bytes = m->bytes;
	return wire_encode(FRAME_ACK, 0, &w.base, ret);
}

int round_ack_decode(const struct frame *f, struct round_ack *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(
		f, FRAME_ACK, false, &tidemark__ack__descriptor, &arena, &unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__Ack *w = (const Tidemark__Ack *)unpacked;
	*ret = (struct round_ack){.round = w->round, .bytes = w->bytes};
	return 0;
}

static int committed_check(const struct committed *m, struct tide_error *err)
{
	int r = id_check(FRAME_COMMITTED, "a stream id", m->stream_id, err);
	if (r < 0)
		return r;
	return name_check(FRAME_COMMITTED, m->name, err);
}

int committed_encode(const struct committed *m, struct frame_buffer *ret)
{
	ret->bytes = 0;
	if (committed_check(m, NULL) < 0)
		return -EINVAL;

	Tidemark__Committed w = TIDEMARK__COMMITTED__INIT;
	w.stream_id = wire_bytes(m->stream_id, ID_BYTES);
	w.name = text_bytes(m->name);
	w.stored_bytes = m->stored_bytes;
	return wire_encode(FRAME_COMMITTED, 0, &w.base, ret);
}

int committed_decode(const struct frame *f, struct committed *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(f, FRAME_COMMITTED, false, &tidemark__committed__descriptor, &arena,
		&unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__Committed *w = (const Tidemark__Committed *)unpacked;
	struct committed m = {.stored_bytes = w->stored_bytes};
	r = id_take(FRAME_COMMITTED, "a stream id", &w->stream_id, m.stream_id, err);
	if (r < 0)
		return r;
	r = name_take(FRAME_COMMITTED, &w->name, m.name, err);
	if (r < 0)
		return r;
	r = committed_check(&m, err);
	if (r < 0)
		return r;
	*ret = m;
	return 0;
}

int ping_encode(bool pong, struct frame_buffer *ret)
{
	return wire_encode(pong ? FRAME_PONG : FRAME_PING, 0, NULL, ret);
}

/* --- STREAM, COMMIT ----------------------------------------------------------------------- */

static int stream_header_check(const struct stream_header *m, struct tide_error *err)
{
	uint64_t unknown = m->features & ~FEATURES_KNOWN;
	if (unknown)
		return wire_bad(err, FRAME_STREAM,
			"that needs features 0x%" PRIx64
			", which are not known here: the stream is of a newer version",
			unknown);
	if (memcmp(m->stream_id, m->base_id, ID_BYTES) == 0)
		return wire_bad(err, FRAME_STREAM, "that names no stream, or itself as its base");

	int r = id_check(FRAME_STREAM, "a stream id", m->stream_id, err);
	if (r < 0)
		return r;
	r = machine_check(FRAME_STREAM, m->architecture, m->byte_order, m->page_bytes, err);
	if (r < 0)
		return r;
	r = wire_text_check(
		FRAME_STREAM, "a software name", m->software, sizeof(m->software), TEXT_EMPTY, err);
	if (r < 0)
		return r;
	return wire_text_check(
		FRAME_STREAM, "a host name", m->host, sizeof(m->host), TEXT_EMPTY, err);
}

int stream_header_encode(const struct stream_header *m, struct frame_buffer *ret)
{
	ret->bytes = 0;
	if (stream_header_check(m, NULL) < 0)
		return -EINVAL;

	Tidemark__Stream w = TIDEMARK__STREAM__INIT;
	w.stream_id = wire_bytes(m->stream_id, ID_BYTES);
	w.base_id = id_bytes(m->base_id);
	w.architecture = text_bytes(m->architecture);
	w.byte_order = text_bytes(m->byte_order);
	w.page_bytes = m->page_bytes;
	w.features = m->features;
	w.created_realtime_ns = m->created_realtime_ns;
	w.software = text_bytes(m->software);
	w.host = text_bytes(m->host);
	return wire_encode(FRAME_STREAM, 0, &w.base, ret);
}

int stream_header_decode(const struct frame *f, struct stream_header *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(
		f, FRAME_STREAM, false, &tidemark__stream__descriptor, &arena, &unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__Stream *w = (const Tidemark__Stream *)unpacked;
	struct stream_header m = {
		.page_bytes = w->page_bytes,
		.features = w->features,
		.created_realtime_ns = w->created_realtime_ns,
	};
	r = id_take(FRAME_STREAM, "a stream id", &w->stream_id, m.stream_id, err);
	if (r < 0)
		return r;
	r = id_take(FRAME_STREAM, "a base id", &w->base_id, m.base_id, err);
	if (r < 0)
		return r;
	r = machine_take(
		FRAME_STREAM, &w->architecture, m.architecture, &w->byte_order, m.byte_order, err);
	if (r < 0)
		return r;
	r = wire_text_take(
		FRAME_STREAM, "a software name", &w->software, m.software, sizeof(m.software), err);
	if (r < 0)
		return r;
	r = wire_text_take(FRAME_STREAM, "a host name", &w->host, m.host, sizeof(m.host), err);
	if (r < 0)
		return r;
	r = stream_header_check(&m, err);
	if (r < 0)
		return r;
	*ret = m;
	return 0;
}

static int commit_check(const struct commit *m, struct tide_error *err)
{
	if (m->rounds == 0)
		return wire_bad(err, FRAME_COMMIT, "of no rounds");
	return id_check(FRAME_COMMIT, "a stream id", m->stream_id, err);
}

int commit_encode(const struct commit *m, struct frame_buffer *ret)
{
	ret->bytes = 0;
	if (commit_check(m, NULL) < 0)
		return -EINVAL;

	Tidemark__Commit w = TIDEMARK__COMMIT__INIT;
	w.stream_id = wire_bytes(m->stream_id, ID_BYTES);
	w.rounds = m->rounds;
	w.held_pages = m->held_pages;
	return wire_encode(FRAME_COMMIT, 0, &w.base, ret);
}

int commit_decode(const struct frame *f, struct commit *ret, struct tide_error *err)
{
	auto_arena struct wire_arena arena;
	ProtobufCMessage *unpacked;
	int r = wire_decode(
		f, FRAME_COMMIT, false, &tidemark__commit__descriptor, &arena, &unpacked, err);
	if (r < 0)
		return r;

	const Tidemark__Commit *w = (const Tidemark__Commit *)unpacked;
	struct commit m = {.rounds = w->rounds, .held_pages = w->held_pages};
	r = id_take(FRAME_COMMIT, "a stream id", &w->stream_id, m.stream_id, err);
	if (r < 0)
		return r;
	r = commit_check(&m, err);
	if (r < 0)
		return r;
	*ret = m;
	return 0;
}
