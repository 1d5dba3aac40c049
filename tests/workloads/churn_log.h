/* SPDX-License-Identifier: MIT */
/*
 * What churn did, and where: a ring of records in a file, which outlives it and can be read while
 * it is stopped. Written by every thread of churn and by its helper process.
 */
#ifndef TESTS_WORKLOADS_CHURN_LOG_H
#define TESTS_WORKLOADS_CHURN_LOG_H

#include <stdint.h>

enum {
	CHURN_OPS_MAX = 96,
	CHURN_OBJECTS_MAX = 128,
	CHURN_RECORDS = 1 << 15,
	CHURN_NO_OBJECT = 255
};

struct churn_record {
	uint64_t number;             /* from 1; 0: never used */
	uint64_t began_ns, ended_ns; /* CLOCK_MONOTONIC; ended 0: still under way */
	uint64_t address, bytes;     /* 0, 0: of an object alone */
	uint64_t at;                 /* in the object, bytes */
	uint8_t op, thread;          /* thread 255: the helper */
	uint8_t object;              /* CHURN_NO_OBJECT: private memory */
	uint8_t failed;              /* the call said no, whatever it did before that */
	uint32_t value;              /* of what was written, or an argument */
};

struct churn_object_name {
	uint64_t inode; /* as in maps */
	char name[24];
};

struct churn_log {
	char magic[8]; /* "churnlog" */
	uint64_t seed;
	char ops[CHURN_OPS_MAX][16];
	struct churn_object_name objects[CHURN_OBJECTS_MAX];
	uint64_t next;                              /* the number of the latest record */
	struct churn_record records[CHURN_RECORDS]; /* record n at n % CHURN_RECORDS */
};

#endif
