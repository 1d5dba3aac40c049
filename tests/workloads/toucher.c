/* SPDX-License-Identifier: MIT */
/*
 * Uses a set number of pages of a larger piece of memory, over and over.
 *
 *     toucher PAGES
 *
 * Prints the address of the memory and "ready" when all of it is there. Then each number N on
 * standard input makes it use the first N pages from then on; "using N" is the answer, once none
 * but these will be used. "?" is answered by "passes M": how often it has been around since.
 */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096 };

static void peak(size_t pages)
{
	uint8_t *more = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (more == MAP_FAILED)
		exit(1);
	memset(more, 1, pages * PAGE);
	munmap(more, pages * PAGE);
}

int main(int argc, char **argv)
{
	size_t pages = argc == 2 ? strtoul(argv[1], NULL, 10) : 0, used = 0;
	/* Neighbours without access keep it a mapping of its own. */
	uint8_t *outer =
		mmap(NULL, (pages + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *memory = outer + PAGE;
	if (pages == 0 || outer == MAP_FAILED ||
		mprotect(memory, pages * PAGE, PROT_READ | PROT_WRITE) < 0)
		return 2;
	madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
	memset(memory, 1, pages * PAGE);
	printf("%lx ready\n", (unsigned long)(uintptr_t)memory);
	fflush(stdout);

	for (;;) {
		struct pollfd in = {.fd = 0, .events = POLLIN};
		if (poll(&in, 1, 1) > 0) {
			char line[32];
			if (!fgets(line, sizeof(line), stdin))
				return 0;
			if (line[0] == '!') {
				peak(strtoul(line + 1, NULL, 10));
				printf("peaked\n");
			} else {
				used = strtoul(line, NULL, 10);
				printf("using %zu\n", used);
			}
			fflush(stdout);
		}
		/*
		 * The processor notes a use when it walks the page tables, and does not walk them
		 * for a page that it remembers. Changing the protection makes it forget.
		 */
		mprotect(memory, pages * PAGE, PROT_READ);
		mprotect(memory, pages * PAGE, PROT_READ | PROT_WRITE);
		for (size_t i = 0; i < used && i < pages; i++)
			memory[i * PAGE]++;
	}
}
