/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/units.h"

struct unit {
	const char *name;
	double factor;
};

static const struct unit byte_units[] = {
	{"", 1},
	{"b", 1},
	{"k", 0x1p10},
	{"m", 0x1p20},
	{"g", 0x1p30},
	{"t", 0x1p40},
	{"kib", 0x1p10},
	{"mib", 0x1p20},
	{"gib", 0x1p30},
	{"tib", 0x1p40},
	{"kb", 1e3},
	{"mb", 1e6},
	{"gb", 1e9},
	{"tb", 1e12},
	{NULL, 0},
};

/* Of links and disks: powers of 1000 unless they say otherwise, and bits by their whole name alone.
 */
static const struct unit rate_units[] = {
	{"", 1},
	{"b", 1},
	{"k", 1e3},
	{"m", 1e6},
	{"g", 1e9},
	{"t", 1e12},
	{"kb", 1e3},
	{"mb", 1e6},
	{"gb", 1e9},
	{"tb", 1e12},
	{"kib", 0x1p10},
	{"mib", 0x1p20},
	{"gib", 0x1p30},
	{"tib", 0x1p40},
	{"bit", 1.0 / 8},
	{"kbit", 1e3 / 8},
	{"mbit", 1e6 / 8},
	{"gbit", 1e9 / 8},
	{"tbit", 1e12 / 8},
	{NULL, 0},
};

static const struct unit time_units[] = {
	{"", 1e9},
	{"ns", 1},
	{"us", 1e3},
	{"ms", 1e6},
	{"s", 1e9},
	{"m", 60e9},
	{"h", 3600e9},
	{"d", 86400e9},
	{NULL, 0},
};

static int parse(const char *text, const struct unit *units, uint64_t *ret)
{
	/* strtod would also take "inf", "nan", "0x1p3", a sign and leading blanks. */
	if (!isdigit((unsigned char)text[0]) || tolower((unsigned char)text[1]) == 'x')
		return -EINVAL;

	char *end;
	errno = 0;
	double value = strtod(text, &end);
	if (errno == ERANGE)
		return -ERANGE;
	while (*end == ' ')
		end++;

	for (const struct unit *u = units; u->name; u++) {
		if (strcasecmp(end, u->name) != 0)
			continue;
		double scaled = value * u->factor;
		if (!(scaled < 0x1p63))
			return -ERANGE;
		*ret = (uint64_t)llround(scaled);
		return 0;
	}
	return -EINVAL;
}

int units_parse_bytes(const char *text, uint64_t *ret)
{
	return parse(text, byte_units, ret);
}

int units_parse_rate(const char *text, uint64_t *ret)
{
	char quantity[UNITS_TEXT];
	size_t len = strlen(text);
	if (len > 2 && strcasecmp(text + len - 2, "/s") == 0)
		len -= 2;
	if (len >= sizeof(quantity))
		return -EINVAL;
	memcpy(quantity, text, len);
	quantity[len] = '\0';
	return parse(quantity, rate_units, ret);
}

int units_parse_ns(const char *text, uint64_t *ret)
{
	return parse(text, time_units, ret);
}

int units_parse_count(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;

	char *end;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (*end)
		return -EINVAL;
	if (errno == ERANGE || value < min || value > max)
		return -ERANGE;
	*ret = value;
	return 0;
}

static char *format_scaled(char *buf, double value, double step, const char *const *names)
{
	int i = 0;
	while (value >= step * 0.9995 && names[i + 1]) {
		value /= step;
		i++;
	}
	snprintf(
		buf, UNITS_TEXT, i == 0 || value >= 99.95 ? "%.0f %s" : "%.1f %s", value, names[i]);
	return buf;
}

char *units_format_bytes(char *buf, uint64_t bytes)
{
	static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", NULL};
	return format_scaled(buf, (double)bytes, 1024, names);
}

char *units_format_short(char *buf, uint64_t bytes)
{
	static const char names[] = "KMGTPE";
	double value = (double)bytes;
	int i = -1;
	while (value >= 1024 * 0.9995 && names[i + 1]) {
		value /= 1024;
		i++;
	}
	if (i < 0)
		snprintf(buf, UNITS_TEXT, "%llu", (unsigned long long)bytes);
	else
		snprintf(buf, UNITS_TEXT,
			value < 9.95 && bytes % (1ull << (10 * (i + 1))) ? "%.1f%c" : "%.0f%c",
			value, names[i]);
	return buf;
}

char *units_format_rate(char *buf, double bytes_per_second)
{
	static const char *const names[] = {"B/s", "kB/s", "MB/s", "GB/s", "TB/s", NULL};
	return format_scaled(buf, bytes_per_second, 1000, names);
}

char *units_format_ns(char *buf, uint64_t ns)
{
	double s = (double)ns / 1e9;
	if (ns < 1000)
		snprintf(buf, UNITS_TEXT, "%llu ns", (unsigned long long)ns);
	else if (s < 999.5e-6)
		snprintf(buf, UNITS_TEXT, "%.3g us", s * 1e6);
	else if (s < 999.5e-3)
		snprintf(buf, UNITS_TEXT, "%.3g ms", s * 1e3);
	else if (s < 60)
		snprintf(buf, UNITS_TEXT, "%.3g s", s);
	else
		snprintf(buf, UNITS_TEXT, "%llum%02llus", (unsigned long long)(s / 60),
			(unsigned long long)s % 60);
	return buf;
}
