/* SPDX-License-Identifier: MIT */
/*
 * Results, for people and for programs, from one table of columns. Text is aligned; with --json
 * each row is one object on a line: addresses as hex strings, counts as numbers.
 */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "base/guard.h"

enum cell_type {
	CELL_TEXT,
	CELL_COUNT,   /* 1234 */
	CELL_BYTES,   /* "1.5 MiB"; JSON: bytes */
	CELL_SHORT,   /* "1.5M"; JSON: bytes */
	CELL_RATE,    /* "12.5 MB/s"; JSON: bytes a second */
	CELL_NS,      /* "12.3 ms"; JSON: milliseconds */
	CELL_ADDRESS, /* hexadecimal */
	CELL_RATIO,   /* "2.31" */
	CELL_FLAG,    /* "yes", "no" */
	CELL_TIME,    /* ns since 1970; "2026-11-21 12:00:00"; JSON: RFC 3339, UTC */
};

struct column {
	const char *key;   /* in JSON; NULL: not there */
	const char *title; /* of the column; NULL: not in text */
	enum cell_type type;
	int width; /* > 0: the row is printed at once, this wide; 0: as wide as the widest, once all
		      are known */
};

struct table;

/* `kind` becomes the key "kind" of every JSON object where it is not NULL. `columns` are borrowed.
 * Never fails: out of memory ends the program. */
struct table *table_new(
	FILE *out, const struct column *columns, size_t ncolumns, bool json, const char *kind);
/* What is shown, and in which order: indexes of columns, borrowed. Without it, all as they stand;
 * that is for what has a title (text) or a key (JSON). */
void table_order(struct table *t, const size_t *order, size_t len);
/* Text of the one row there will be: a line for each column, its title in front. */
void table_turn(struct table *t);
/* Prints what is still to be printed, and frees. */
void table_free(struct table *t);
DEFINE_GUARD(struct table, table_free)

/* Cells of the row that is being made; what is not set is "-" and null. */
void table_text(struct table *t, size_t column, const char *text);
void table_number(struct table *t, size_t column, uint64_t value);
void table_real(struct table *t, size_t column, double value);
void table_row(struct table *t);

/*
 * Reads what a person asks to see ("name,MAPPED": keys or titles in any case, with commas between;
 * "all"; a "+" in front adds to `usual` (ended by SIZE_MAX), whose last stays the last) into
 * `order`, which holds `ncolumns`. Returns how many, or 0 with the text that is no column in
 * `ret_wrong` (64 bytes).
 */
size_t columns_choose(const struct column *columns, size_t ncolumns, const size_t *usual,
	const char *text, size_t *order, char *ret_wrong);

/* A copy that can be shown on a terminal and put into JSON: control characters and what is not
 * UTF-8 become \xNN. The caller frees. */
char *printable(const char *text);

#endif
