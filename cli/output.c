/* SPDX-License-Identifier: MIT */
#include <err.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include "base/clock.h"
#include "base/units.h"
#include "cli/output.h"

struct cell {
	bool set;
	char *text; /* as shown; NULL until the row is complete, but for CELL_TEXT */
	uint64_t number;
	double real;
};

struct table {
	FILE *out;
	const struct column *columns;
	size_t ncolumns;
	bool json;
	const char *kind;
	bool immediate; /* widths are given */
	bool head_printed;
	bool turned; /* a line a column */
	const size_t *order;
	size_t norder;
	size_t *own_order;
	struct cell *cells; /* all rows kept, the one being made last */
	size_t nrows;
};

static void *must(void *p)
{
	if (!p)
		errx(1, "out of memory");
	return p;
}

/* Length of the valid UTF-8 sequence at `s`, 0 where there is none. */
static size_t utf8_length(const unsigned char *s)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	size_t n = s[0] < 0x80       ? 1
		   : s[0] >> 5 == 6  ? 2
		   : s[0] >> 4 == 14 ? 3
		   : s[0] >> 3 == 30 ? 4
				     : 0;
	if (n < 2)
		return n;
	uint32_t code = s[0] & (0xffu >> (n + 1));
	for (size_t i = 1; i < n; i++) {
		if (s[i] >> 6 != 2)
			return 0;
		code = code << 6 | (s[i] & 0x3f);
	}
	return code >= least[n] && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff) ? n : 0;
}

char *printable(const char *text)
{
	char *copy = must(malloc(strlen(text) * 4 + 1)), *to = copy;
	for (const unsigned char *s = (const unsigned char *)text; *s;) {
		size_t n = *s >= ' ' && *s != 0x7f ? utf8_length(s) : 0;
		if (n == 0) {
			to += sprintf(to, "\\x%02x", *s++);
			continue;
		}
		memcpy(to, s, n);
		to += n;
		s += n;
	}
	*to = '\0';
	return copy;
}

struct table *table_new(
	FILE *out, const struct column *columns, size_t ncolumns, bool json, const char *kind)
{
	struct table *t = must(calloc(1, sizeof(*t)));
	*t = (struct table){
		.out = out, .columns = columns, .ncolumns = ncolumns, .json = json, .kind = kind};
	t->cells = must(calloc(ncolumns, sizeof(*t->cells)));
	t->own_order = must(calloc(ncolumns, sizeof(*t->own_order)));
	for (size_t i = 0; i < ncolumns; i++) {
		t->own_order[i] = i;
		t->immediate |= columns[i].width > 0;
	}
	table_order(t, t->own_order, ncolumns);
	return t;
}

void table_order(struct table *t, const size_t *order, size_t len)
{
	t->order = order;
	t->norder = len;
}

static size_t find_column(
	const struct column *columns, size_t ncolumns, const char *name, size_t len)
{
	for (size_t i = 0; i < ncolumns; i++) {
		const char *names[] = {columns[i].key, columns[i].title};
		for (size_t k = 0; k < 2; k++) {
			if (names[k] && strlen(names[k]) == len &&
				strncasecmp(names[k], name, len) == 0)
				return i;
		}
	}
	return ncolumns;
}

/* Each column once: where it was asked for first. */
static size_t choose(size_t *order, size_t n, size_t column)
{
	for (size_t i = 0; i < n; i++) {
		if (order[i] == column)
			return n;
	}
	order[n] = column;
	return n + 1;
}

size_t columns_choose(const struct column *columns, size_t ncolumns, const size_t *usual,
	const char *text, size_t *order, char *ret_wrong)
{
	size_t n = 0, last = SIZE_MAX;
	if (*text == '+') {
		for (size_t i = 0; usual[i] != SIZE_MAX; i++) {
			last = usual[i];
			if (usual[i + 1] != SIZE_MAX)
				n = choose(order, n, last);
		}
		text++;
	}
	for (;; text++) {
		size_t len = strcspn(text, ",");
		size_t i = find_column(columns, ncolumns, text, len);
		if (i < ncolumns) {
			n = choose(order, n, i);
		} else if (len == 3 && strncasecmp(text, "all", 3) == 0) {
			for (i = 0; i < ncolumns; i++)
				n = choose(order, n, i);
		} else {
			snprintf(ret_wrong, 64, "%.*s", (int)len, text);
			return 0;
		}
		text += len;
		if (!*text)
			return last == SIZE_MAX ? n : choose(order, n, last);
	}
}

static struct cell *row_cell(struct table *t, size_t row, size_t column)
{
	return &t->cells[row * t->ncolumns + column];
}

void table_turn(struct table *t)
{
	t->turned = true;
}

void table_text(struct table *t, size_t column, const char *text)
{
	struct cell *c = row_cell(t, t->nrows, column);
	free(c->text);
	c->text = printable(text);
	c->set = true;
}

void table_number(struct table *t, size_t column, uint64_t value)
{
	struct cell *c = row_cell(t, t->nrows, column);
	c->number = value;
	c->real = (double)value;
	c->set = true;
}

void table_real(struct table *t, size_t column, double value)
{
	struct cell *c = row_cell(t, t->nrows, column);
	c->number = (uint64_t)value;
	c->real = value;
	c->set = true;
}

static void format_time_here(char *buf, uint64_t ns)
{
	time_t seconds = (time_t)(ns / NS_PER_S);
	struct tm tm;
	localtime_r(&seconds, &tm);
	strftime(buf, UNITS_TEXT, "%Y-%m-%d %H:%M:%S", &tm);
}

static void format_time_utc(char *buf, uint64_t ns)
{
	time_t seconds = (time_t)(ns / NS_PER_S);
	struct tm tm;
	gmtime_r(&seconds, &tm);
	strftime(buf, UNITS_TEXT, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static char *show(const struct column *column, struct cell *c)
{
	char buf[UNITS_TEXT];
	if (!c->set)
		return must(strdup("-"));
	switch (column->type) {
	case CELL_TEXT:
		return must(strdup(c->text));
	case CELL_COUNT:
		snprintf(buf, sizeof(buf), "%" PRIu64, c->number);
		break;
	case CELL_BYTES:
		units_format_bytes(buf, c->number);
		break;
	case CELL_SHORT:
		units_format_short(buf, c->number);
		break;
	case CELL_RATE:
		units_format_rate(buf, c->real);
		break;
	case CELL_NS:
		units_format_ns(buf, c->number);
		break;
	case CELL_ADDRESS:
		snprintf(buf, sizeof(buf), "%012" PRIx64, c->number);
		break;
	case CELL_RATIO:
		snprintf(buf, sizeof(buf), "%.2f", c->real);
		break;
	case CELL_FLAG:
		return must(strdup(c->number ? "yes" : "no"));
	case CELL_TIME:
		format_time_here(buf, c->number);
		break;
	}
	return must(strdup(buf));
}

static json_t *json_cell(const struct column *column, const struct cell *c)
{
	char buf[UNITS_TEXT];
	if (!c->set)
		return json_null();
	switch (column->type) {
	case CELL_TEXT:
		return json_string(c->text);
	case CELL_COUNT:
	case CELL_BYTES:
	case CELL_SHORT:
		return json_integer((json_int_t)c->number);
	case CELL_NS:
		return json_real(c->real / 1e6);
	case CELL_RATE:
	case CELL_RATIO:
		return json_real(c->real);
	case CELL_ADDRESS:
		snprintf(buf, sizeof(buf), "0x%" PRIx64, c->number);
		return json_string(buf);
	case CELL_FLAG:
		return json_boolean(c->number != 0);
	case CELL_TIME:
		format_time_utc(buf, c->number);
		return json_string(buf);
	}
	return json_null();
}

static void print_json(struct table *t)
{
	json_t *object = must(json_object());
	if (t->kind)
		json_object_set_new(object, "kind", json_string(t->kind));
	for (size_t k = 0; k < t->norder; k++) {
		size_t i = t->order[k];
		if (t->columns[i].key)
			json_object_set_new(object, t->columns[i].key,
				json_cell(&t->columns[i], row_cell(t, t->nrows, i)));
	}
	json_dumpf(object, t->out, JSON_REAL_PRECISION(9));
	fputc('\n', t->out);
	fflush(t->out);
	json_decref(object);
}

static bool is_left(enum cell_type type)
{
	return type == CELL_TEXT || type == CELL_FLAG || type == CELL_TIME;
}

/* What is shown in text, at that place of the order. */
static bool is_shown(const struct table *t, size_t place)
{
	return t->columns[t->order[place]].title != NULL;
}

/* Columns as characters, not bytes. */
static int shown_width(const char *text)
{
	int width = 0;
	for (; *text; text++)
		width += (*text & 0xc0) != 0x80;
	return width;
}

static void print_cell(struct table *t, size_t column, const char *text, int width, bool last)
{
	int pad = width - shown_width(text);
	if (pad < 0)
		pad = 0;
	if (is_left(t->columns[column].type))
		fprintf(t->out, "%s%*s", text, last ? 0 : pad, "");
	else
		fprintf(t->out, "%*s%s", pad, "", text);
	fputs(last ? "\n" : "  ", t->out);
}

static size_t last_shown(const struct table *t)
{
	size_t last = t->norder - 1;
	while (last && !is_shown(t, last))
		last--;
	return last;
}

static void print_head(struct table *t, const int *widths)
{
	for (size_t k = 0; k < t->norder; k++) {
		size_t i = t->order[k];
		if (is_shown(t, k))
			print_cell(t, i, t->columns[i].title, widths[i], k == last_shown(t));
	}
	t->head_printed = true;
}

static void print_text(struct table *t, size_t row, const int *widths)
{
	for (size_t k = 0; k < t->norder; k++) {
		size_t i = t->order[k];
		if (!is_shown(t, k))
			continue;
		char *text = show(&t->columns[i], row_cell(t, row, i));
		print_cell(t, i, text, widths[i], k == last_shown(t));
		free(text);
	}
}

static void clear_row(struct table *t, size_t row)
{
	for (size_t i = 0; i < t->ncolumns; i++)
		free(row_cell(t, row, i)->text);
	memset(row_cell(t, row, 0), 0, t->ncolumns * sizeof(struct cell));
}

static int *widths_given(const struct table *t)
{
	int *widths = must(calloc(t->ncolumns, sizeof(*widths)));
	for (size_t i = 0; i < t->ncolumns; i++)
		widths[i] = t->columns[i].width;
	return widths;
}

static void print_turned(struct table *t, size_t row)
{
	int width = 0;
	for (size_t k = 0; k < t->norder; k++) {
		if (is_shown(t, k) && shown_width(t->columns[t->order[k]].title) > width)
			width = shown_width(t->columns[t->order[k]].title);
	}
	for (size_t k = 0; k < t->norder; k++) {
		size_t i = t->order[k];
		if (!is_shown(t, k))
			continue;
		auto_free char *text = show(&t->columns[i], row_cell(t, row, i));
		fprintf(t->out, "%-*s  %s\n", width, t->columns[i].title, text);
	}
}

void table_row(struct table *t)
{
	if (t->json) {
		print_json(t);
		clear_row(t, t->nrows);
		return;
	}
	if (t->turned) {
		print_turned(t, t->nrows);
		clear_row(t, t->nrows);
		return;
	}
	if (t->immediate) {
		auto_free int *widths = widths_given(t);
		if (!t->head_printed)
			print_head(t, widths);
		print_text(t, t->nrows, widths);
		fflush(t->out);
		clear_row(t, t->nrows);
		return;
	}
	t->nrows++;
	t->cells = must(reallocarray(t->cells, (t->nrows + 1) * t->ncolumns, sizeof(*t->cells)));
	memset(row_cell(t, t->nrows, 0), 0, t->ncolumns * sizeof(struct cell));
}

void table_free(struct table *t)
{
	if (!t)
		return;
	if (!t->json && !t->immediate && t->nrows) {
		auto_free int *widths = must(calloc(t->ncolumns, sizeof(*widths)));
		for (size_t i = 0; i < t->ncolumns; i++) {
			if (!t->columns[i].title)
				continue;
			widths[i] = shown_width(t->columns[i].title);
			for (size_t row = 0; row < t->nrows; row++) {
				auto_free char *text = show(&t->columns[i], row_cell(t, row, i));
				if (shown_width(text) > widths[i])
					widths[i] = shown_width(text);
			}
		}
		print_head(t, widths);
		for (size_t row = 0; row < t->nrows; row++)
			print_text(t, row, widths);
	}
	for (size_t row = 0; row <= t->nrows; row++)
		clear_row(t, row);
	free(t->cells);
	free(t->own_order);
	free(t);
}
