/* SPDX-License-Identifier: MIT */
/*
 * The threads that run a session. Each takes the next frame, makes of it what needs no order
 * (decodes pages, hashes them), waits for its turn to give it to the session, and then does the
 * rest that needs no order (writes them). So frames are applied one after the other, as they came,
 * and the work is done side by side. All of a round is done before its end is told.
 */
#ifndef AGENT_CREW_H
#define AGENT_CREW_H

#include "agent/inbox.h"
#include "agent/session.h"

enum crew_end {
	CREW_DONE,    /* the session has committed */
	CREW_FAILED,  /* `err` says how */
	CREW_NO_MORE, /* no frame is to come, and the session is not done */
};

/* Runs the session, whose option `shared` is set, with frames from the inbox; on this thread and
 * `threads` - 1 others. The inbox gives nothing out afterwards. */
enum crew_end crew_run(
	struct session *s, struct inbox *inbox, unsigned threads, struct tide_error *err);

#endif
