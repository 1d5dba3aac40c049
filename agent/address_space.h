/* SPDX-License-Identifier: MIT */
/*
 * One process as a stream of page sets has described it so far: who it is, what is mapped, which
 * pages are held, how it stood at the freeze. Which bytes the pages hold is the sink's business.
 */
#ifndef AGENT_ADDRESS_SPACE_H
#define AGENT_ADDRESS_SPACE_H

#include "proto/batch.h"
#include "proto/message.h"

/* What no process exceeds, whatever a peer or a file says. */
#define ADDRESS_SPACE_MAPPINGS_MAX ((size_t)1 << 20)
#define ADDRESS_SPACE_TEXT_MAX ((size_t)64 << 20) /* names and reasons of all mappings, bytes */
#define ADDRESS_SPACE_SPACES_MAX ((size_t)1 << 16)
#define ADDRESS_SPACE_RUNS_MAX ((size_t)1 << 24) /* held runs over all spaces */

/* The pages of one space. */
struct space_pages {
	space_id space;
	struct pageset held;  /* after the last round that ended */
	struct pageset round; /* that came in the round under way */
	struct pageset fresh; /* of those, in frames of which some page was not held before */
};

/* All zero but for `process` is one of which nothing is known yet. Fields are read by anyone,
 * changed by the functions below. */
struct address_space {
	uint32_t process; /* its number in the stream, from 1 */
	uint32_t page_bytes;
	struct process_info *info; /* NULL until PROCESS came */
	struct mapping_table mappings;
	struct space_pages *spaces; /* by number */
	size_t nspaces, cap_spaces;
	size_t runs;                /* of all spaces together */
	struct process_state state; /* version 0 until STATE came */
};

void address_space_release(struct address_space *a);

/* Mappings change first, then drops, then pages come; _round_end() makes the pages of a round held.
 */

/* -EBADMSG where an added mapping lies over another one, where places are not of whole pages, or
 * where there are too many mappings; `a` can then
 * only be released. */
int address_space_map(
	struct address_space *a, const struct mapping_diff *d, struct tide_error *err);
/* What is not held may be dropped too. -EBADMSG where places are not of whole pages. */
int address_space_drop(struct address_space *a, const struct page_drop *drops, size_t ndrops,
	struct tide_error *err);
/* -EBADMSG for a page that came already in this round. */
int address_space_hold(struct address_space *a, const struct batch *b, struct tide_error *err);
int address_space_round_end(struct address_space *a, struct tide_error *err);

/* The pages held in a space, or NULL where none ever were. */
const struct pageset *address_space_held(const struct address_space *a, space_id space);
uint64_t address_space_held_pages(const struct address_space *a);

/*
 * Does every held page lie in a mapping that can hold it: those of SPACE_PRIVATE in one that is
 * anonymous, of a private file, or the vDSO; those of an object in a part of it that is mapped?
 * -EBADMSG names the first that does not.
 */
int address_space_check(const struct address_space *a, struct tide_error *err);

#endif
