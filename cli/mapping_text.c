/* SPDX-License-Identifier: MIT */
#include <sys/mman.h>
#include "cli/mapping_text.h"

char *mapping_protection(const struct mapping *m, char buf[5])
{
	buf[0] = m->prot & PROT_READ ? 'r' : '-';
	buf[1] = m->prot & PROT_WRITE ? 'w' : '-';
	buf[2] = m->prot & PROT_EXEC ? 'x' : '-';
	buf[3] = m->flags & MAPPING_SHARED ? 's' : 'p';
	buf[4] = '\0';
	return buf;
}

const char *mapping_kind_text(const struct mapping *m)
{
	static const char *const names[] = {
		[MAPPING_ANON] = "anonymous",
		[MAPPING_FILE_PRIVATE] = "private file",
		[MAPPING_OBJECT] = "shared memory",
		[MAPPING_FILE_SHARED] = "shared file",
		[MAPPING_VDSO] = "vdso",
		[MAPPING_OPAQUE] = "opaque",
	};
	if (m->kind == MAPPING_OBJECT && m->flags & MAPPING_OTHERS_WRITE)
		return "shared memory, others write";
	return names[m->kind];
}
