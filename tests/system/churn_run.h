/* SPDX-License-Identifier: MIT */
/*
 * One seed of churn from its start to its end: it is followed and sent, over several rounds, while
 * it churns; left stopped; its image held against it by the oracle; and let go on, until the time
 * is over.
 *
 * The real source, sender and agent do it, in this process. Between source and sender stands one
 * that waits, refuses and stops the helper where the seed says so, and that remembers what became
 * of each page.
 */
#ifndef TESTS_SYSTEM_CHURN_RUN_H
#define TESTS_SYSTEM_CHURN_RUN_H

#include <stdbool.h>
#include <stdint.h>

/* What the one between does wrong on purpose, to see that it is found out. */
enum churn_fault {
	CHURN_FAULT_NONE = 0,
	CHURN_FAULT_LOSE_WRITTEN, /* pages that were sent before are not sent in the last round */
	CHURN_FAULT_LOSE_DROPS,   /* nor are drops */
	CHURN_FAULT_LOSE_MAPPINGS,
};

struct churn_options {
	const char *program; /* the built churn */
	uint64_t seed;
	double seconds;
	const char *backend;                   /* NULL: auto */
	const char *only, *without;            /* operations; NULL */
	unsigned memory_mib, threads, pace_us; /* 0: as it likes */
	bool no_helper;
	const char *dir; /* for images and logs; NULL: $TMPDIR or /tmp */
	bool verbose;    /* a line for each send */
	enum churn_fault fault;
};

struct churn_result {
	uint64_t sends, cancelled, rounds, refused_rounds;
	uint64_t sent_pages, dropped_pages, reread_pages, unread_spans;
	uint64_t compared_pages, different_pages, different_mappings, lazy_pages;
	uint64_t mappings; /* of the last comparison */
	char backend[32];
	char last_words[256]; /* of churn itself */
	char trouble[700];    /* "" */
};

enum churn_verdict {
	CHURN_SAME = 0,
	CHURN_DIFFERS = 1, /* said on stdout, with the page's history */
	CHURN_TROUBLE = 2, /* `trouble` says what */
	CHURN_CANNOT = 77, /* not with this kernel, `trouble` says why */
};

enum churn_verdict churn_run(const struct churn_options *options, struct churn_result *ret);

#endif
