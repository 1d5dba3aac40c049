/* SPDX-License-Identifier: MIT */
/*
 * What lies between two states of a process, as the receiver will be told: which pages it has to
 * forget, which it is to be sent. No system call is made here.
 */
#ifndef TRACKER_CHANGES_H
#define TRACKER_CHANGES_H

#include <stddef.h>
#include "proto/mapping.h"
#include "proto/page_source.h"
#include "proto/pageset.h"

/* Sets of pages by space: [0] is SPACE_PRIVATE, [n] object n. All zero is empty. */
struct holdings {
	struct pageset *v;
	size_t len;
};
void holdings_release(struct holdings *h);
/* Makes room for `len` spaces. 0 or -ENOMEM. */
int holdings_grow(struct holdings *h, size_t len);
/* h = h | more. 0 or -ENOMEM. */
int holdings_merge(struct holdings *h, const struct holdings *more);
uint64_t holdings_bytes(const struct holdings *h);

/* The process at one collect, as the receiver will know it once it is acknowledged. */
struct baseline {
	struct mapping_table maps;
	struct holdings held;
	struct pageset pinned; /* ELF header pages that travel although they are the file's */
};
void baseline_release(struct baseline *b);

/* What is to be read and sent of each space. */
struct written {
	struct holdings pages;
	struct holdings doubtful; /* of the pages: not seen to be written */
	struct pageset zero;      /* of the private pages: the zero page */
};
void written_release(struct written *w);

void change_set_release(struct change_set *c);

/* Fills in mappings, drops and written spans, and what they count. 0 or -ENOMEM; release `ret` in
 * any case. */
int change_set_make(const struct baseline *from, const struct baseline *to,
	const struct written *written, uint64_t page_bytes, struct change_set *ret);

/* [run.start, run.end) of a mapping of an object, as places in the object. */
struct page_run in_object(const struct mapping *m, struct page_run run);

/*
 * A process that runs may put another mapping into the place of one between our reading of the
 * mappings and the scan: then the scan armed pages of the new one and noted what was written for
 * the old one. Or between the scan and the reading of the pages: then bytes of the new one were
 * taken for those of the old. So where the last collect, acknowledged or not, went by other
 * mappings than there are now, all that is there counts as written, and what was shown there of
 * objects, too. `ret` has them by space, `spaces` of them; held or not. 0 or -ENOMEM.
 */
int replaced_find(const struct mapping_table *last, const struct mapping_table *now, size_t spaces,
	struct holdings *ret);

#endif
