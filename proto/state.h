/* SPDX-License-Identifier: MIT */
/* Who a process is and how it stood at the freeze, as it travels. The state section has a version
 * of its own. */
#ifndef PROTO_STATE_H
#define PROTO_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STATE_VERSION 1

/* The clocks of the source's machine, at one moment. */
struct clocks {
	uint64_t realtime_ns, monotonic_ns, boottime_ns;
};

struct process_info {
	int32_t pid;
	uint64_t start_time; /* clock ticks since boot */
	uint32_t uid, gid;
	const char *comm;         /* never NULL, as the other strings */
	const char *exe;          /* path, "" where it cannot be read */
	const char *command_line; /* arguments joined by blanks */
	uint8_t boot_id[16];
	uint8_t build_id[32]; /* of exe, GNU build-id */
	size_t build_id_len;  /* 0 where there is none */
	struct clocks clocks;
};

/* One register set of a thread, as PTRACE_GETREGSET gives it. */
struct state_regset {
	uint32_t note_type; /* NT_PRSTATUS: struct user_regs_struct; NT_PRFPREG; NT_X86_XSTATE; ...
			     */
	uint32_t size_bytes;
	void *data;
};

struct state_thread {
	int32_t tid;
	char name[16];
	uint64_t signal_mask;
	int32_t pending_signal; /* the one being delivered, or 0 */
	struct state_regset *regsets;
	size_t nregsets;
};

/* All that is needed for an ELF core today. Owns what it points to. */
struct process_state {
	uint32_t version;
	struct clocks clocks; /* in the freeze */
	int32_t ppid, pgrp, sid;
	char state; /* as in /proc/PID/stat before the freeze: 'R', 'S', 'T', ... */
	int8_t nice;
	void *auxv; /* as in /proc/PID/auxv */
	size_t auxv_bytes;
	struct state_thread *threads; /* the leader first */
	size_t nthreads;

	/* Decoding only; a source leaves them zero. */
	size_t threads_total; /* that there will be once all frames have come */
	size_t held_bytes;    /* that the threads take in memory */
};

void state_thread_release(struct state_thread *t);
void process_state_release(struct process_state *s);
/* Decoding: has every thread come? */
bool process_state_complete(const struct process_state *s);

#endif
