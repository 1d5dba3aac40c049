/* SPDX-License-Identifier: MIT */
/*
 * Who may talk to whom. A unix socket: the kernel says who is there. TCP: both sides prove that
 * they hold the same key, by an HMAC over both HELLOs, whose nonces make every proof new. No key:
 * only where the user said so.
 *
 * This authenticates the two ends of the conversation's start. It neither hides nor seals what
 * follows: TLS would.
 */
#ifndef TRANSPORT_AUTH_H
#define TRANSPORT_AUTH_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/guard.h"
#include "proto/message.h"
#include "transport/byte_stream.h"

#define AUTH_KEY_BYTES 32

struct auth_key {
	uint8_t bytes[AUTH_KEY_BYTES];
};

/* Overwrites it, so that it does not linger in memory. */
void auth_key_clear(struct auth_key *key);

/*
 * Reads a key file: 64 hexadecimal digits, at most one newline behind. It must be a regular file,
 * owned by this user or root, with no access for group and others. -EACCES, -EINVAL or what open
 * says; the words name the file and what to do.
 */
int auth_key_read(const char *path, struct auth_key *ret, struct tide_error *err);

/* A key that a loopback agent made for itself, in a file that lives as long as this. */
struct auth_key_file;

/*
 * Makes a random key and writes it as tcp-PORT.key into the user's runtime folder:
 * $XDG_RUNTIME_DIR/tidemark, else /run/user/UID/tidemark where /run/user/UID is, else
 * /tmp/tidemark-UID. The folder is 0700 and this user's, and no symlink, or it is refused. A file
 * that a dead agent left is replaced; one of a live agent (another network namespace) is refused
 * with -EADDRINUSE.
 */
int auth_key_file_make(uint16_t port, struct auth_key_file **ret, struct tide_error *err);
const char *auth_key_file_path(const struct auth_key_file *f);
const struct auth_key *auth_key_file_key(const struct auth_key_file *f);
/* Removes the file. NULL is fine. */
void auth_key_file_close(struct auth_key_file *f);
DEFINE_GUARD(struct auth_key_file, auth_key_file_close)

/* Reads the key that an agent of this user made for that port. -ENOENT where there is none. */
int auth_key_find(uint16_t port, struct auth_key *ret, struct tide_error *err);

enum auth_role {
	AUTH_CLIENT = 1,
	AUTH_AGENT = 2,
};

/* The HELLO heads as they travelled. */
struct auth_transcript {
	const uint8_t *client;
	size_t client_bytes;
	const uint8_t *agent;
	size_t agent_bytes;
};

/*
 * proof = HMAC-SHA256(key, label u32(client_bytes) client u32(agent_bytes) agent), integers
 * little-endian, label "tidemark client 1" or "tidemark agent 1" without an ending zero. The
 * lengths keep one HELLO's end from passing for the other's beginning. 0 or -ENOMEM.
 */
int auth_prove(const struct auth_key *key, enum auth_role role, const struct auth_transcript *t,
	uint8_t ret[PROOF_BYTES], struct tide_error *err);

/* Is this the proof of `role`? Takes the same time whatever differs. */
bool auth_check(const struct auth_key *key, enum auth_role role, const struct auth_transcript *t,
	const uint8_t proof[PROOF_BYTES]);

/* A process on the other end of a unix socket is trusted when it runs as this user or as root. */
bool auth_uid_is_trusted(uint32_t uid);

#endif
