/* SPDX-License-Identifier: MIT */
/* What somebody else's program looks like: public headers alone, found by pkg-config. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <tidemark/error.h>

int main(void)
{
	struct tide_error err = {
		.code = -EACCES, .kind = TIDE_ERROR_UNSUPPORTED, .text = "follow process 1"};
	printf("%s: %s\n", err.text, tide_error_reason(&err));
	return strcmp(tide_error_reason(&err), "Permission denied") == 0 ? 0 : 1;
}
