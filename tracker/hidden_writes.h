/* SPDX-License-Identifier: MIT */
/*
 * Writes that page tables do not show: the kernel or a device holds pages of a process (it has
 * *pinned* them) and writes them at their physical place.
 *
 * Pinning for writing goes through the page table, and so marks an armed page as written. Missed is
 * only what is written, after a page was armed, through a pin that is older than that. With A(k)
 * for the moment when round k arms, L(k) > A(k) for the look that this module takes then, and the
 * pages of round k being read after L(k):
 *
 * - A pin made in round k-1's interval, after A(k-1), shows as a write in round k. If it is gone at
 *   L(k), what came through it is complete, and the page is read after that.
 * - A pin older than A(k-1) that is gone at L(k) was there at L(k-1), where it was found; what is
 *   found at one look is read again in that round and in the next one, hence after it was complete.
 * - A pin that is there at L(k) is found, and its page read again now (perhaps in the middle of
 *   being written) and in round k+1; if it is still there then, it is found again.
 * - In the freeze no thread is in a read any more, because a thread in one stands only when it is
 *   over; nothing needs to be looked for, and what the look before found is read again.
 *
 * This holds as far as a look finds every pin. It finds buffers registered with io_uring (listed by
 * the ring), and the calls that threads wait in. What it cannot list it counts, so that the process
 * can be refused, or be compared as a whole: requests of AIO and io_uring that read a file with
 * O_DIRECT into memory that was not registered; memory pinned by something that cannot be seen; the
 * memory of a ring that the program provided itself (IORING_SETUP_NO_MMAP); RDMA and VFIO. What it
 * does not see at all is in docs/kernel.md.
 */
#ifndef TRACKER_HIDDEN_WRITES_H
#define TRACKER_HIDDEN_WRITES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/guard.h"
#include "proto/mapping.h"
#include "proto/pageset.h"
#include "tidemark/error.h"

struct process;
struct hidden_writes;

/* What a look found. */
struct hidden_report {
	/* By address: what this look and the one before it found. May reach over pages that hold
	 * nothing. */
	struct pageset doubtful;
	/* Why `doubtful` is all the memory there is: a text for a person, static; or NULL. */
	const char *everything;

	size_t buffers; /* registered with io_uring, and how much that is */
	uint64_t buffer_bytes;
	size_t reads; /* of files, that threads waited in */
	uint64_t read_bytes;
	/* Threads that ran whenever looked at, in a process that has files open with O_DIRECT: they
	 * may be in such a read, where it is polled for. Stopping the process for an instant, after
	 * arming and before reading, takes the doubt away. */
	size_t unsure_threads;

	size_t rings;          /* of io_uring */
	size_t unplaced_rings; /* ... that are not mapped: they may lie in the process's own memory
				*/
	size_t ring_files; /* files registered with rings: whether with O_DIRECT cannot be seen */
	size_t aio_contexts;
	size_t direct_descriptors;  /* regular files and block devices, with O_DIRECT */
	size_t devices;             /* descriptors of RDMA and VFIO devices */
	uint64_t pinned_bytes;      /* VmPin */
	uint64_t unexplained_bytes; /* ... more than the buffers that are listed account for */
};

/* `process` is borrowed until hidden_writes_close(). 0 or -ENOMEM. */
int hidden_writes_open(
	const struct process *process, struct hidden_writes **ret, struct tide_error *err);
void hidden_writes_close(struct hidden_writes *h);
DEFINE_GUARD(struct hidden_writes, hidden_writes_close)

/*
 * Looks. After arming and before reading; `maps` is the process's, as it was about then. In the
 * freeze (`frozen`) no thread is looked at. The report is owned by `h`, until the next look or the
 * close. -ESRCH the process is gone; -EPERM, -EACCES; -ENOMEM.
 *
 * The first look goes through all descriptors. Later ones look again at the rings known by then,
 * and at 8 other descriptors, in turn; at all of them only where memory is pinned or a ring is
 * mapped that no known ring accounts for. So the cost does not grow with the number of descriptors.
 * The price: a descriptor with O_DIRECT, or a ring that pins and maps nothing, may be noticed some
 * rounds after it was opened. No write is missed by that unless the thread that reads from such a
 * new descriptor is seen running, not waiting.
 */
int hidden_writes_find(struct hidden_writes *h, const struct mapping_table *maps, bool frozen,
	const struct hidden_report **ret, struct tide_error *err);

/* For the round's line, at most 159 characters: "1 registered buffer (64 KiB) and 2 file reads in
 * flight re-read"; "" where there is nothing to tell. */
#define HIDDEN_NOTE 160
void hidden_report_note(const struct hidden_report *r, char note[HIDDEN_NOTE]);

/* What of a report a person should know before the process is followed. */
struct hidden_word {
	bool refused; /* page tables alone cannot follow it */
	char text[256];
};
#define HIDDEN_WORDS_MAX 8
/* How many there are. */
size_t hidden_report_words(const struct hidden_report *r, struct hidden_word ret[HIDDEN_WORDS_MAX]);

/* Whether what was begun is over. */
struct hidden_drain {
	/* Nothing was seen to be in flight any more. No proof: see hidden_writes_drain(). */
	bool settled;
	uint64_t requests;     /* that the rings had taken and not completed; those that wait for a
				  file to become ready aside */
	bool pins_known;       /* the kernel tells how many pages are pinned */
	uint64_t pinned_pages; /* on the whole machine, beyond what this process has registered */
	uint64_t waited_ns;
};

/*
 * In the freeze, after a look: waits until what AIO and io_uring had begun is over, at most
 * `timeout_ns`. Nothing tells for certain: completions need not be one a request; of AIO nothing is
 * listed; and the number of pinned pages is the whole machine's, is not known before Linux 5.7, and
 * leaves out kinds of direct reads in older kernels. So whoever must be sure compares all of memory
 * twice, with `settled` in between. 0; -ESRCH; -ENOMEM.
 */
int hidden_writes_drain(struct hidden_writes *h, uint64_t timeout_ns, struct hidden_drain *ret,
	struct tide_error *err);

#endif
