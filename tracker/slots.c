/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <unistd.h>
#include "base/error.h"
#include "base/guard.h"
#include "tracker/process.h"
#include "tracker/slots.h"
#include "tracker/tracee.h"

#define VDSO_BYTES_MAX 65536u

/* What lies in a slot. All zero is free; anything else that does not have our mark is not ours. */
struct slot {
	uint8_t code[ARCH_STUB_BYTES];
	struct slot_owner {
		/* The process too, since fork() makes a copy of the slot for which this is not the
		 * owner. */
		uint64_t start_time;
		uint64_t sp; /* the thread comes back into the stub with just this stack */
		int32_t pid, tid;
		uint32_t reserved;
		uint32_t mark; /* last */
	} owner;
};
_Static_assert(sizeof(struct slot) == SLOT_BYTES, "slots are laid out back to back");

#define SLOT_MARK 0x6d646974u /* "tidm" */

/* A signal frame with the largest register state lies below the stack pointer that it interrupted
 * by less. */
#define FRAME_BYTES_MAX 16384u
#define STACK_BYTES_MAX (64u << 20)

struct range {
	uint64_t start, end;
};

/* The mapping that holds `address`, or, where `name` is given, the one with that name. */
static int mapping_find(
	const struct process *p, uint64_t address, const char *name, struct range *ret)
{
	auto_free char *maps = NULL;
	size_t len;
	int r = process_read_file(p, "maps", &maps, &len, NULL);
	if (r < 0)
		return r;
	char *rest = NULL;
	for (char *line = strtok_r(maps, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		struct range m;
		if (sscanf(line, "%" SCNx64 "-%" SCNx64, &m.start, &m.end) != 2)
			continue;
		bool found =
			name ? strstr(line, name) != NULL : address >= m.start && address < m.end;
		if (found) {
			*ret = m;
			return 0;
		}
	}
	return -ENOENT;
}

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* The end of all that the ELF header speaks of: headers, segments, sections. */
static int image_end(const uint8_t *image, size_t len, uint64_t *ret)
{
	Elf64_Ehdr e;
	if (len < sizeof(e))
		return -EINVAL;
	memcpy(&e, image, sizeof(e));
	if (memcmp(e.e_ident, ELFMAG, SELFMAG) != 0 || e.e_ident[EI_CLASS] != ELFCLASS64)
		return -EOPNOTSUPP;

	uint64_t end = later(sizeof(e), e.e_shoff + (uint64_t)e.e_shnum * e.e_shentsize);
	end = later(end, e.e_phoff + (uint64_t)e.e_phnum * e.e_phentsize);
	for (unsigned i = 0; i < e.e_phnum; i++) {
		Elf64_Phdr ph;
		uint64_t at = e.e_phoff + (uint64_t)i * sizeof(ph);
		if (at > len || len - at < sizeof(ph))
			return -EINVAL;
		memcpy(&ph, image + at, sizeof(ph));
		end = later(end, ph.p_offset + ph.p_filesz);
	}
	*ret = end;
	return 0;
}

static bool slot_is_free(const struct slot *s)
{
	static const struct slot zero;
	return memcmp(s, &zero, sizeof(zero)) == 0;
}

static bool slot_is_ours(const struct slot *s)
{
	return slot_is_free(s) || s->owner.mark == SLOT_MARK;
}

int slots_refuse_32_bit(const struct process *p, struct tide_error *err)
{
	return tide_fail(err, -EOPNOTSUPP, "trace process %d, which runs 32-bit code", p->pid);
}

int slots_find(const struct process *p, struct slots *ret, struct tide_error *err)
{
	*ret = (struct slots){0};
	struct range vdso;
	int r = mapping_find(p, 0, "[vdso]", &vdso);
	if (r == -ENOENT)
		return tide_fail(err, -EOPNOTSUPP, "find the vDSO of process %d", p->pid);
	if (r < 0)
		return tide_fail(err, r, "read the mappings of process %d", p->pid);

	size_t len = vdso.end - vdso.start;
	auto_free uint8_t *image = len <= VDSO_BYTES_MAX ? malloc(len) : NULL;
	if (!image)
		return tide_fail(err, -ENOMEM, "read the vDSO of process %d", p->pid);
	if (pread(p->mem_fd, image, len, (off_t)vdso.start) != (ssize_t)len)
		return tide_fail(err, -ESRCH, "read the vDSO of process %d", p->pid);
	uint64_t used;
	r = image_end(image, len, &used);
	if (r == -EOPNOTSUPP) {
		ret->is_32_bit = true;
		return slots_refuse_32_bit(p, err);
	}

	unsigned n = r == 0 && used < len ? (unsigned)((len - used) / SLOT_BYTES) : 0;
	if (n > SLOTS_MAX)
		n = SLOTS_MAX;
	/* From the end, so that all who look find the same ones; down to the first that is somebody
	 * else's. */
	struct slots found = {.start = vdso.end, .n = 0};
	while (found.n < n) {
		struct slot s;
		memcpy(&s, image + (found.start - SLOT_BYTES - vdso.start), sizeof(s));
		if (!slot_is_ours(&s))
			break;
		found.start -= SLOT_BYTES;
		found.n++;
	}
	if (found.n == 0)
		return tide_fail(err, -EOPNOTSUPP, "find room in the vDSO of process %d", p->pid);
	*ret = found;
	return 0;
}

bool slots_contain(const struct slots *s, uint64_t address)
{
	return address >= s->start && address < s->start + (uint64_t)s->n * SLOT_BYTES;
}

/*
 * Can the thread still return into the slot? It can if a handler runs on top of the stub: then the
 * address is in the frame that the kernel put on its stack. The stub itself uses no stack, so that
 * frame is just below the stack pointer that the thread had in it, or on the alternate stack that
 * the thread is on. All doubt means yes: a dead frame that still has the address, or a thread on a
 * stack other than it had then.
 */
static bool slot_may_be_returned_to(const struct tracee *t, const struct user_regs_struct *regs,
	const struct slot *s, uint64_t address)
{
	struct range stack;
	uint64_t sp = arch_sp(regs), then = s->owner.sp;
	if (mapping_find(t->process, sp, NULL, &stack) < 0)
		return true;
	if (then < stack.start || then >= stack.end)
		return true;

	uint64_t from = sp < then ? sp : then;
	from = from - stack.start > FRAME_BYTES_MAX ? from - FRAME_BYTES_MAX : stack.start;
	from &= ~(uint64_t)(sizeof(uint64_t) - 1);
	if (stack.end - from > STACK_BYTES_MAX)
		return true;
	for (uint64_t at = from; at < stack.end;) {
		uint64_t words[4096];
		size_t want = stack.end - at < sizeof(words) ? stack.end - at : sizeof(words);
		ssize_t got = pread(t->process->mem_fd, words, want, (off_t)at);
		if (got < (ssize_t)sizeof(words[0]))
			return true;
		for (size_t i = 0; i < (size_t)got / sizeof(words[0]); i++)
			if (words[i] >= address && words[i] < address + SLOT_BYTES)
				return true;
		at += (size_t)got / sizeof(words[0]) * sizeof(words[0]);
	}
	return false;
}

static bool slot_is_abandoned(const struct tracee *t, const struct user_regs_struct *regs,
	const struct slot *s, uint64_t address)
{
	const struct process *p = t->process;
	if (s->owner.pid != p->pid || s->owner.start_time != p->start_time)
		return false;
	if (s->owner.tid == t->tid)
		return !slot_may_be_returned_to(t, regs, s, address);
	/* The only other thread whose place is known is one that is no more. */
	return !process_thread_lives(p, s->owner.tid);
}

int slots_choose(const struct slots *s, const struct tracee *t, const struct user_regs_struct *regs,
	uint64_t *ret)
{
	assert(s->n <= SLOTS_MAX);
	struct slot all[SLOTS_MAX];
	ssize_t len = (ssize_t)(s->n * sizeof(all[0]));
	if (pread(t->process->mem_fd, all, (size_t)len, (off_t)s->start) != len)
		return -ESRCH;
	for (unsigned i = 0; i < s->n; i++) {
		if (!slot_is_free(&all[i]))
			continue;
		*ret = s->start + (uint64_t)i * SLOT_BYTES;
		return 0;
	}
	for (unsigned i = 0; i < s->n; i++) {
		uint64_t address = s->start + (uint64_t)i * SLOT_BYTES;
		if (!slot_is_ours(&all[i]) || !slot_is_abandoned(t, regs, &all[i], address))
			continue;
		*ret = address;
		return 0;
	}
	return -EBUSY;
}

/*
 * A kernel can be told not to let /proc/PID/mem write where the program itself may not
 * (proc_mem.force_override); the way that only a tracer has stays open. It goes word by word:
 * `mark_first` keeps the slot ours all the while.
 */
static int slot_poke(
	const struct tracee *t, uint64_t address, const struct slot *s, bool mark_first)
{
	uint64_t words[sizeof(*s) / sizeof(uint64_t)];
	const size_t n = sizeof(words) / sizeof(words[0]);
	memcpy(words, s, sizeof(words));
	for (size_t turn = 0; turn < n; turn++) {
		size_t i = mark_first ? n - 1 - turn : turn;
		if (ptrace(PTRACE_POKEDATA, t->tid,
			    (void *)(uintptr_t)(address + i * sizeof(words[0])),
			    (void *)(uintptr_t)words[i]) != 0)
			return -errno;
	}
	return 0;
}

static int slot_write(
	const struct tracee *t, uint64_t address, const struct slot *s, bool mark_first)
{
	/* Slots do not cross pages, so this is one copy in the kernel: all of it or nothing. */
	if (pwrite(t->process->mem_fd, s, sizeof(*s), (off_t)address) == (ssize_t)sizeof(*s))
		return 0;
	return slot_poke(t, address, s, mark_first);
}

int slot_fill(
	const struct tracee *t, const struct user_regs_struct *regs, const struct arch_stub *stub)
{
	struct slot s = {.owner = {
				 .start_time = t->process->start_time,
				 .sp = arch_sp(regs),
				 .pid = t->process->pid,
				 .tid = t->tid,
				 .mark = SLOT_MARK,
			 }};
	memcpy(s.code, stub->code, sizeof(s.code));
	return slot_write(t, stub->address, &s, true);
}

int slot_clear(const struct tracee *t, uint64_t address)
{
	static const struct slot zero;
	return slot_write(t, address, &zero, false);
}
