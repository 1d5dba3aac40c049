/* SPDX-License-Identifier: MIT */
/* Sizes, rates and times as people write and read them. */
#ifndef BASE_UNITS_H
#define BASE_UNITS_H

#include <stddef.h>
#include <stdint.h>

#define UNITS_TEXT 32

/* "4096", "64K", "1.5GiB", "2MB": K, M, G, T are powers of 1024, and so are KiB...; KB, MB... are
 * powers of 1000. Returns 0, -EINVAL or -ERANGE. */
int units_parse_bytes(const char *text, uint64_t *ret);

/* Bytes a second: "200M", "200MB/s", "1.5GiB", and "1Gbit", "100Mbit/s", which are bits. K, M, G, T
 * and KB, MB... are powers of 1000 here, as links are rated. Returns 0, -EINVAL or -ERANGE. */
int units_parse_rate(const char *text, uint64_t *ret);

/* "100ms", "1.5s", "2m", "1h", "10us", "5ns"; a bare number is seconds. Returns 0, -EINVAL or
 * -ERANGE. */
int units_parse_ns(const char *text, uint64_t *ret);

/* A whole decimal number in [min, max]. Returns 0, -EINVAL or -ERANGE. */
int units_parse_count(const char *text, uint64_t min, uint64_t max, uint64_t *ret);

/* "512 B", "1.5 MiB", "3.2 GiB". `buf` holds UNITS_TEXT bytes; returned. */
char *units_format_bytes(char *buf, uint64_t bytes);

/* The same in little room, as tables want it: "512", "64K", "1.5M", "320G". */
char *units_format_short(char *buf, uint64_t bytes);

/* "3.1 MB/s" (powers of 1000, as links are rated). */
char *units_format_rate(char *buf, double bytes_per_second);

/* "850 ns", "12.3 ms", "4.56 s", "2m03s". */
char *units_format_ns(char *buf, uint64_t ns);

#endif
