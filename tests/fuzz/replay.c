/* SPDX-License-Identifier: MIT */
/*
 * Runs a fuzz target over the files, and those in the folders, that it is given: so the corpus is a
 * test in every build, whichever the compiler.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include "base/guard.h"
#include "tests/fuzz/fuzz.h"

static unsigned replayed;

static int replay_file(const char *path)
{
	auto_fclose FILE *f = fopen(path, "rb");
	struct stat st;
	if (!f || fstat(fileno(f), &st) < 0)
		return -errno;

	/* Of exactly the size, so that a sanitizer sees a byte beyond. */
	size_t bytes = (size_t)st.st_size;
	auto_free uint8_t *data = malloc(bytes ? bytes : 1);
	if (!data)
		return -ENOMEM;
	if (fread(data, 1, bytes, f) != bytes)
		return -EIO;
	LLVMFuzzerTestOneInput(data, bytes);
	replayed++;
	return 0;
}

static int replay(const char *path)
{
	auto_closedir DIR *dir = opendir(path);
	if (!dir && errno == ENOTDIR)
		return replay_file(path);
	if (!dir)
		return -errno;

	struct dirent *e;
	int r = 0;
	while (r == 0 && (e = readdir(dir))) {
		char file[4096];
		if (e->d_name[0] == '.')
			continue;
		snprintf(file, sizeof(file), "%s/%s", path, e->d_name);
		r = replay_file(file);
	}
	return r;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		int r = replay(argv[i]);
		if (r < 0) {
			fprintf(stderr, "%s: %s: %s\n", argv[0], argv[i], strerror(-r));
			return 1;
		}
	}
	printf("%u inputs\n", replayed);
	/* A corpus that went missing must not pass. */
	return replayed == 0;
}
