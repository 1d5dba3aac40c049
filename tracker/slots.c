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
		uint32_t kind;
		uint32_t mark; /* last */
	} owner;
};
_Static_assert(sizeof(struct slot) == SLOT_BYTES, "slots are laid out back to back");

/* However many threads wait with a timeout, an injection finds room. */
#define SLOTS_FOR_INJECTIONS 4u

#define SLOT_MARK 0x6d646974u /* "tidm" */

/* A signal frame with the largest register state lies below the stack pointer that it interrupted
 * by less. */
#define FRAME_BYTES_MAX 16384u
#define STACK_BYTES_MAX (1u << 20)
/* ... and above it on an alternate stack by less than such a stack has. */
#define FRAMES_ABOVE_BYTES (256u << 10)

struct range {
	uint64_t start, end;
};

/* The mapping of that name. */
static int mapping_find(const struct process *p, const char *name, struct range *ret)
{
	auto_free char *maps = NULL;
	size_t len;
	int r = process_read_file(p, "maps", &maps, &len, NULL);
	if (r < 0)
		return r;
	const char *found = strstr(maps, name);
	if (!found)
		return -ENOENT;
	while (found > maps && found[-1] != '\n')
		found--;
	return sscanf(found, "%" SCNx64 "-%" SCNx64, &ret->start, &ret->end) == 2 ? 0 : -ENOENT;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
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
	int r = mapping_find(p, "[vdso]", &vdso);
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
 * Does a handler run on top of the stub? Then the address that it will return to is in the frame
 * that the kernel put on the thread's stack: just below the stack pointer that the thread had in
 * the stub, which itself uses no stack, or on the alternate stack that the thread is on. All doubt
 * means yes: a dead frame that still has the address, or a thread far from where it was.
 */
static bool slot_is_on_stack(const struct process *p, const struct user_regs_struct *regs,
	const struct slot *s, uint64_t address)
{
	uint64_t sp = arch_sp(regs), then = s->owner.sp;
	uint64_t low = earlier(sp, then), high = later(sp, then);
	if (high - low > STACK_BYTES_MAX || low < FRAME_BYTES_MAX)
		return true;

	uint64_t at = (low - FRAME_BYTES_MAX) & ~(uint64_t)(sizeof(uint64_t) - 1);
	while (at < high + FRAMES_ABOVE_BYTES) {
		uint64_t words[4096];
		ssize_t got = pread(p->mem_fd, words, sizeof(words), (off_t)at);
		if (got < (ssize_t)sizeof(words[0]))
			return at < high; /* or else the stack ends here */
		size_t n = (size_t)got / sizeof(words[0]);
		for (size_t i = 0; i < n; i++)
			if (words[i] >= address && words[i] < address + SLOT_BYTES)
				return true;
		at += n * sizeof(words[0]);
	}
	return false;
}

/* Does the code of another slot lead into this one? An injection into a thread that waits in a slot
 * goes back there. */
static bool slot_is_led_to(const struct slot *all, unsigned n, unsigned which, uint64_t address)
{
	for (unsigned i = 0; i < n; i++) {
		if (i == which || slot_is_free(&all[i]))
			continue;
		for (size_t at = 0; at + sizeof(uint64_t) <= sizeof(all[i].code); at++) {
			uint64_t value;
			memcpy(&value, all[i].code + at, sizeof(value));
			if (value >= address && value < address + SLOT_BYTES)
				return true;
		}
	}
	return false;
}

static bool slot_is_of(const struct slot *s, const struct process *p)
{
	return s->owner.mark == SLOT_MARK && s->owner.pid == p->pid &&
	       s->owner.start_time == p->start_time;
}

static bool slot_is_abandoned(const struct process *p, const struct slot_threads *threads,
	const struct slot *s, uint64_t address)
{
	if (!slot_is_of(s, p))
		return false;
	const struct user_regs_struct *regs = threads->regs_of(threads->context, s->owner.tid);
	/* The only other thread whose place is known is one that is no more. */
	if (!regs)
		return !process_thread_lives(p, s->owner.tid);
	uint64_t pc = arch_pc(regs);
	if (pc >= address && pc < address + SLOT_BYTES)
		return false;
	return !slot_is_on_stack(p, regs, s, address);
}

static int slots_read(const struct slots *s, const struct process *p, struct slot *ret)
{
	assert(s->n <= SLOTS_MAX);
	ssize_t len = (ssize_t)(s->n * sizeof(*ret));
	return pread(p->mem_fd, ret, (size_t)len, (off_t)s->start) == len ? 0 : -ESRCH;
}

int slots_choose(const struct slots *s, const struct process *p, enum slot_kind kind,
	const struct slot_threads *threads, uint64_t *ret)
{
	struct slot all[SLOTS_MAX];
	int r = slots_read(s, p, all);
	if (r < 0)
		return r;
	/* Injections take the last ones first, and waits get none of these. */
	unsigned n = kind == SLOT_INJECTION        ? s->n
		     : s->n > SLOTS_FOR_INJECTIONS ? s->n - SLOTS_FOR_INJECTIONS
						   : 0;
	for (unsigned i = n; i-- > 0;) {
		if (!slot_is_free(&all[i]))
			continue;
		*ret = s->start + (uint64_t)i * SLOT_BYTES;
		return 0;
	}
	for (unsigned i = n; i-- > 0;) {
		uint64_t address = s->start + (uint64_t)i * SLOT_BYTES;
		if (!slot_is_abandoned(p, threads, &all[i], address) ||
			slot_is_led_to(all, s->n, i, address))
			continue;
		*ret = address;
		return 0;
	}
	return -EBUSY;
}

int slots_read_at(const struct slots *s, const struct process *p, uint64_t pc,
	uint64_t *ret_address, enum slot_kind *ret_kind, void *ret_stub)
{
	if (!slots_contain(s, pc))
		return -ENOENT;
	uint64_t address = pc - (pc - s->start) % SLOT_BYTES;
	struct slot slot;
	if (pread(p->mem_fd, &slot, sizeof(slot), (off_t)address) != (ssize_t)sizeof(slot))
		return -ESRCH;
	if (!slot_is_of(&slot, p))
		return -ENOENT;
	*ret_address = address;
	*ret_kind = (enum slot_kind)slot.owner.kind;
	memcpy(ret_stub, slot.code, sizeof(slot.code));
	return 0;
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

int slot_fill(const struct tracee *t, uint64_t address, enum slot_kind kind, uint64_t sp,
	const void *stub)
{
	struct slot s = {.owner = {
				 .start_time = t->process->start_time,
				 .sp = sp,
				 .pid = t->process->pid,
				 .tid = t->tid,
				 .kind = kind,
				 .mark = SLOT_MARK,
			 }};
	memcpy(s.code, stub, sizeof(s.code));
	return slot_write(t, address, &s, true);
}

int slot_clear(const struct tracee *t, uint64_t address)
{
	static const struct slot zero;
	return slot_write(t, address, &zero, false);
}
