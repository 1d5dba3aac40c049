/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <elf.h>
#include <errno.h>
#include <linux/audit.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include "tracker/arch.h"

#define CODE_SEGMENT_64 0x33
#define EFLAGS_TF 0x100u

const uint32_t arch_audit = AUDIT_ARCH_X86_64;
const unsigned arch_syscall_bytes = 2;
const uint32_t arch_regsets[] = {NT_PRSTATUS, NT_PRFPREG, NT_X86_XSTATE, 0};

uint64_t arch_pc(const struct user_regs_struct *regs)
{
	return regs->rip;
}

void arch_set_pc(struct user_regs_struct *regs, uint64_t pc)
{
	regs->rip = pc;
}

uint64_t arch_sp(const struct user_regs_struct *regs)
{
	return regs->rsp;
}

long arch_syscall(const struct user_regs_struct *regs)
{
	return (long)regs->orig_rax;
}

long arch_result(const struct user_regs_struct *regs)
{
	return (long)regs->rax;
}

void arch_set_result(struct user_regs_struct *regs, long result)
{
	regs->rax = (unsigned long)result;
}

/* Where argument `i` of a system call is. */
static unsigned long long *argument_at(struct user_regs_struct *regs, unsigned i)
{
	unsigned long long *const args[] = {
		&regs->rdi, &regs->rsi, &regs->rdx, &regs->r10, &regs->r8, &regs->r9};
	assert(i < sizeof(args) / sizeof(args[0]));
	return args[i];
}

uint64_t arch_argument(const struct user_regs_struct *regs, unsigned i)
{
	struct user_regs_struct copy = *regs;
	return *argument_at(&copy, i);
}

void arch_set_argument(struct user_regs_struct *regs, unsigned i, uint64_t value)
{
	*argument_at(regs, i) = value;
}

void arch_set_syscall(struct user_regs_struct *regs, long nr, uint64_t arg0)
{
	regs->orig_rax = (unsigned long)nr;
	regs->rdi = arg0;
}

int arch_check(const struct user_regs_struct *regs)
{
	if (regs->cs != CODE_SEGMENT_64)
		return -EOPNOTSUPP;
	/* Its own debugger would see our instructions. */
	if (regs->eflags & EFLAGS_TF)
		return -EBUSY;
	return 0;
}

static bool result_is_restart(long result)
{
	return result == -ERESTARTSYS || result == -ERESTARTNOINTR || result == -ERESTARTNOHAND ||
	       result == -ERESTART_RESTARTBLOCK;
}

struct code {
	uint8_t *bytes;
	size_t len;
};

static void code_add(struct code *c, const void *bytes, size_t len)
{
	assert(c->len + len <= ARCH_STUB_BYTES);
	memcpy(c->bytes + c->len, bytes, len);
	c->len += len;
}

#define EMIT(c, ...) \
	code_add((c), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void code_add_u32(struct code *c, uint32_t value)
{
	code_add(c, &value, sizeof(value));
}

static void code_add_u64(struct code *c, uint64_t value)
{
	code_add(c, &value, sizeof(value));
}

/* jmp *(%rip) with the address behind it: the only jump to anywhere that needs no register. */
static void code_jump(struct code *c, uint64_t to)
{
	EMIT(c, 0xff, 0x25);
	code_add_u32(c, 0);
	code_add_u64(c, to);
}

/*
 * Only mov, syscall and jmp: none touches the flags, the stack or the red zone below it. A system
 * call itself spoils rax, rcx and r11, its argument takes rdi; these four are loaded again from the
 * code.
 *
 * A thread that was waiting in a system call goes in at behind_restart with its restart result
 * still in place. The kernel then does to the stub what it would have done to the program's own
 * system call instruction: it goes back two bytes, to the start, to begin the call again; or it
 * runs a handler, makes the result EINTR and returns to behind_restart. So the first jump, two
 * bytes long, leads into the body, which ends at the program's system call instruction, and what
 * follows it leads straight behind that. This holds when nobody is left to look on.
 */
void arch_stub_build(struct arch_stub *stub, uint64_t address, const struct user_regs_struct *regs)
{
	/* As the thread shall be when the stub is done. */
	struct user_regs_struct done = *regs;
	struct user_regs_struct commit = *regs;
	long result = arch_result(regs);
	if (arch_syscall(regs) >= 0 && result_is_restart(result)) {
		done.rip -= arch_syscall_bytes;
		done.rax = result == -ERESTART_RESTARTBLOCK ? SYS_restart_syscall : regs->orig_rax;
		commit.rip = address + arch_syscall_bytes;
	} else {
		commit.rip = address;
		/* Out of its call already; or else some result that looks like a restart would be
		 * taken for one. */
		commit.orig_rax = (unsigned long)-1;
	}

	memset(stub->code, 0, sizeof(stub->code));
	struct code c = {.bytes = stub->code};
	EMIT(&c, 0xeb, 14);       /*     jmp body */
	code_jump(&c, regs->rip); /*     behind_restart: jmp *original */
	EMIT(&c, 0xb8);           /* body: mov $close, %eax */
	code_add_u32(&c, SYS_close);
	EMIT(&c, 0xbf); /*     mov $-1, %edi */
	code_add_u32(&c, UINT32_MAX);
	EMIT(&c, 0x0f, 0x05); /*     syscall */
	stub->after_first = address + c.len;
	EMIT(&c, 0x89, 0xc7); /*     mov %eax, %edi */
	EMIT(&c, 0xb8);       /*     mov $close, %eax */
	code_add_u32(&c, SYS_close);
	EMIT(&c, 0x0f, 0x05); /*     syscall */
	stub->after_second = address + c.len;
	EMIT(&c, 0x48, 0xbf); /*     mov $..., %rdi */
	code_add_u64(&c, done.rdi);
	EMIT(&c, 0x48, 0xb8); /*     mov $..., %rax */
	code_add_u64(&c, done.rax);
	EMIT(&c, 0x48, 0xb9); /*     mov $..., %rcx */
	code_add_u64(&c, done.rcx);
	EMIT(&c, 0x49, 0xbb); /*     mov $..., %r11 */
	code_add_u64(&c, done.r11);
	code_jump(&c, done.rip); /*     jmp *done */

	stub->address = address;
	stub->commit = commit;
}

bool arch_stub_not_begun(const struct arch_stub *stub, const struct user_regs_struct *regs)
{
	return regs->rip == stub->address || regs->rip == stub->address + arch_syscall_bytes;
}

/* An instruction's address of a field of the stub, from where the instruction that refers to it
 * ends. */
static void code_add_field(struct code *c, size_t field)
{
	code_add_u32(c, (uint32_t)(field - (c->len + sizeof(uint32_t))));
}

void arch_wait_stub_build(struct arch_wait_stub *stub, unsigned argument)
{
	/* mov field(%rip), to rdx, r10 and r8 */
	static const uint8_t loads[][3] = {
		[2] = {0x48, 0x8b, 0x15}, [3] = {0x4c, 0x8b, 0x15}, [4] = {0x4c, 0x8b, 0x05}};
	assert(argument >= 2 && argument <= 4);

	memset(stub->code, 0, sizeof(stub->code));
	struct code c = {.bytes = stub->code};
	EMIT(&c, 0x0f, 0x05); /* syscall */
	code_add(&c, loads[argument], sizeof(loads[argument]));
	code_add_field(&c, offsetof(struct arch_wait_stub, argument));
	EMIT(&c, 0x48, 0x8b,
		0x0d); /* mov pc(%rip), %rcx: as the program's own instruction leaves it */
	code_add_field(&c, offsetof(struct arch_wait_stub, pc));
	EMIT(&c, 0xff, 0x25); /* jmp *pc(%rip) */
	code_add_field(&c, offsetof(struct arch_wait_stub, pc));
	assert(c.len <= sizeof(stub->code));
}

void arch_wait_stub_leave(
	const struct arch_wait_stub *stub, uint64_t address, struct user_regs_struct *regs)
{
	regs->rcx = stub->pc;
	regs->rip = regs->rip == address ? stub->pc - arch_syscall_bytes : stub->pc;
}
