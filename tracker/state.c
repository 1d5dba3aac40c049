/* SPDX-License-Identifier: MIT */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "tracker/process.h"
#include "tracker/state.h"
#include "tracker/tracer.h"

void clocks_read(struct clocks *ret)
{
	ret->realtime_ns = clock_read_ns(CLOCK_REALTIME);
	ret->monotonic_ns = clock_read_ns(CLOCK_MONOTONIC);
	ret->boottime_ns = clock_read_ns(CLOCK_BOOTTIME);
}

static void read_boot_id(uint8_t ret[16])
{
	auto_fclose FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
	if (!f)
		return;
	for (int i = 0; i < 16; i++) {
		unsigned byte;
		if (fscanf(f, i >= 4 && i <= 10 && i % 2 == 0 ? "-%2x" : "%2x", &byte) != 1)
			return;
		ret[i] = (uint8_t)byte;
	}
}

static size_t note_build_id(const uint8_t *notes, size_t len, uint8_t *ret, size_t size)
{
	for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= len;) {
		Elf64_Nhdr note;
		memcpy(&note, notes + at, sizeof(note));
		size_t name = at + sizeof(note);
		size_t desc = name + ((note.n_namesz + 3u) & ~3ull);
		size_t next = desc + ((note.n_descsz + 3u) & ~3ull);
		if (next > len || next <= at)
			return 0;
		if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
			memcmp(notes + name, "GNU", 4) == 0) {
			size_t n = note.n_descsz < size ? note.n_descsz : size;
			memcpy(ret, notes + desc, n);
			return n;
		}
		at = next;
	}
	return 0;
}

size_t elf_build_id(int fd, uint8_t *ret, size_t size)
{
	Elf64_Ehdr head;
	if (pread(fd, &head, sizeof(head), 0) != sizeof(head) ||
		memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_ident[EI_CLASS] != ELFCLASS64)
		return 0;

	for (unsigned i = 0; i < head.e_phnum && i < 64; i++) {
		Elf64_Phdr segment;
		if (pread(fd, &segment, sizeof(segment),
			    (off_t)(head.e_phoff + i * sizeof(segment))) != sizeof(segment))
			return 0;
		uint8_t notes[4096];
		if (segment.p_type != PT_NOTE || segment.p_filesz > sizeof(notes))
			continue;
		ssize_t n = pread(fd, notes, segment.p_filesz, (off_t)segment.p_offset);
		size_t found = n > 0 ? note_build_id(notes, (size_t)n, ret, size) : 0;
		if (found)
			return found;
	}
	return 0;
}

static void read_owner(const struct process *p, struct process_info *info)
{
	auto_free char *text = NULL;
	size_t len;
	if (process_read_file(p, "status", &text, &len, NULL) < 0)
		return;
	const char *uid = strstr(text, "\nUid:"), *gid = strstr(text, "\nGid:");
	if (uid)
		sscanf(uid, "\nUid:\t%" SCNu32, &info->uid);
	if (gid)
		sscanf(gid, "\nGid:\t%" SCNu32, &info->gid);
}

int process_describe(const struct process *p, struct process_info **ret, struct tide_error *err)
{
	auto_free char *comm = NULL;
	auto_free char *cmdline = NULL;
	size_t comm_len = 0, cmdline_len = 0;
	int r = process_read_file(p, "comm", &comm, &comm_len, err);
	if (r == 0)
		r = process_read_file(p, "cmdline", &cmdline, &cmdline_len, err);
	if (r < 0 || !comm || !cmdline)
		return r;
	char exe[4096];
	ssize_t exe_len = readlinkat(p->proc_fd, "exe", exe, sizeof(exe) - 1);
	exe[exe_len > 0 ? exe_len : 0] = '\0';

	if (comm_len && comm[comm_len - 1] == '\n')
		comm[--comm_len] = '\0';
	while (cmdline_len && cmdline[cmdline_len - 1] == '\0')
		cmdline_len--;
	if (cmdline_len > 4095)
		cmdline_len = 4095;
	for (size_t i = 0; i < cmdline_len; i++) {
		if (cmdline[i] == '\0')
			cmdline[i] = ' ';
	}

	struct process_info *info =
		calloc(1, sizeof(*info) + comm_len + cmdline_len + strlen(exe) + 3);
	if (!info)
		return tide_fail(err, -ENOMEM, "describe process %d", p->pid);
	char *at = (char *)(info + 1);
	info->comm = at;
	at = stpcpy(at, comm) + 1;
	info->command_line = at;
	memcpy(at, cmdline, cmdline_len);
	at += cmdline_len + 1;
	info->exe = at;
	memcpy(at, exe, strlen(exe));

	info->pid = p->pid;
	info->start_time = p->start_time;
	read_owner(p, info);
	read_boot_id(info->boot_id);
	clocks_read(&info->clocks);
	auto_close int fd = openat(p->proc_fd, "exe", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		info->build_id_len = elf_build_id(fd, info->build_id, sizeof(info->build_id));
	*ret = info;
	return 0;
}

static int read_relations(const struct process *p, struct process_state *s, struct tide_error *err)
{
	auto_free char *text = NULL;
	size_t len;
	int r = process_read_file(p, "stat", &text, &len, err);
	if (r < 0)
		return r;
	/* The name, in parentheses, may hold any character. */
	const char *at = strrchr(text, ')');
	int nice = 0;
	if (!at || sscanf(at,
			   ") %c %" SCNd32 " %" SCNd32 " %" SCNd32
			   " %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %d",
			   &s->state, &s->ppid, &s->pgrp, &s->sid, &nice) != 5)
		return tide_bad(err, "the stat file of process %d makes no sense", p->pid);
	s->nice = (int8_t)nice;
	return 0;
}

static int adopt_threads(struct thread_state *from, size_t n, struct process_state *s)
{
	s->threads = calloc(n, sizeof(*s->threads));
	if (!s->threads)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		struct state_thread *to = &s->threads[i];
		to->regsets = calloc(from[i].nregsets, sizeof(*to->regsets));
		if (!to->regsets && from[i].nregsets)
			return -ENOMEM;
		s->nthreads = i + 1;
		to->tid = from[i].tid;
		memcpy(to->name, from[i].name, sizeof(to->name));
		to->signal_mask = from[i].signal_mask;
		to->pending_signal = from[i].pending_signal;
		to->nregsets = from[i].nregsets;
		for (size_t k = 0; k < to->nregsets; k++) {
			to->regsets[k].note_type = from[i].regsets[k].note_type;
			to->regsets[k].size_bytes = from[i].regsets[k].size_bytes;
			to->regsets[k].data = take(from[i].regsets[k].data);
		}
	}
	return 0;
}

int process_capture(const struct process *p, struct tracer *t, struct process_state *ret,
	struct tide_error *err)
{
	struct process_state s = {.version = STATE_VERSION};
	clocks_read(&s.clocks);
	char *auxv = NULL;
	int r = process_read_file(p, "auxv", &auxv, &s.auxv_bytes, err);
	s.auxv = auxv;
	if (r == 0)
		r = read_relations(p, &s, err);

	struct thread_state *threads = NULL;
	size_t n = 0;
	if (r == 0)
		r = tracer_thread_states(t, &threads, &n, err);
	if (r == 0) {
		r = adopt_threads(threads, n, &s);
		if (r < 0)
			tide_fail(err, r, "keep the state of process %d", p->pid);
	}
	thread_states_free(threads, n);
	if (r < 0) {
		process_state_release(&s);
		return r;
	}
	*ret = s;
	return 0;
}
