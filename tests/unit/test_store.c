/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agent/store.h"
#include "tests/harness.h"
#include "tests/scratch.h"

#define PATH_MAX_BYTES_HERE (SCRATCH_PATH_MAX + 300)

static char folder[SCRATCH_PATH_MAX];
static char path[PATH_MAX_BYTES_HERE]; /* of the store */
static struct store *store;
static struct store_file file;
static struct tide_error err;

static void setup(void)
{
	store = NULL;
	file.fd = -1;
	scratch_make(folder);
	snprintf(path, sizeof(path), "%s/store", folder);
}

static void teardown(void)
{
	store_file_abandon(&file);
	store_close(store);
	scratch_remove(folder);
}

static void open_store(void)
{
	store_close(store);
	store = NULL;
	int r = store_open(path, STORE_WRITE, &store, &err);
	if (r < 0)
		printf("%s\n", err.text);
	CU_ASSERT_EQUAL_FATAL(r, 0);
}

/* A path in the store's folder; good until the next call. */
static const char *in_store(const char *name)
{
	static char text[2 * PATH_MAX_BYTES_HERE];
	snprintf(text, sizeof(text), "%s/%s", path, name);
	return text;
}

static void put_file(const char *at, const char *text)
{
	int fd = open(at, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
	CU_ASSERT_FATAL(fd >= 0);
	CU_ASSERT_EQUAL(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static bool exists(const char *name)
{
	return access(in_store(name), F_OK) == 0;
}

static void check_says(int r, int code, const char *words)
{
	CU_ASSERT_EQUAL(r, code);
	if (!strstr(err.text, words))
		printf("expected '%s' in '%s'\n", words, err.text);
	CU_ASSERT_PTR_NOT_NULL(strstr(err.text, words));
}

static unsigned mode_of(const char *at)
{
	struct stat st;
	CU_ASSERT_EQUAL_FATAL(stat(at, &st), 0);
	return st.st_mode & 07777;
}

/* --- the folder --------------------------------------------------------------------------- */

static void test_a_store_is_made_where_it_is_missing(void)
{
	mode_t old = umask(0);
	open_store();
	umask(old);
	CU_ASSERT_EQUAL(mode_of(path), 0700);
	CU_ASSERT_EQUAL(mode_of(in_store(".tidemark")), 0600);
	CU_ASSERT_EQUAL(mode_of(in_store(".secret")), 0600);
	CU_ASSERT_STRING_EQUAL(store_path(store), path);
	struct page_secret first = *store_secret(store);
	open_store();
	CU_ASSERT_EQUAL(memcmp(&first, store_secret(store), sizeof(first)), 0);
}

static void test_stores_have_secrets_of_their_own(void)
{
	open_store();
	struct page_secret first = *store_secret(store);
	snprintf(path, sizeof(path), "%s/other", folder);
	open_store();
	CU_ASSERT_NOT_EQUAL(memcmp(first.bytes, store_secret(store)->bytes, 32), 0);
	CU_ASSERT_NOT_EQUAL(memcmp(first.id, store_secret(store)->id, ID_BYTES), 0);
}

static void test_an_empty_folder_becomes_a_store(void)
{
	CU_ASSERT_EQUAL_FATAL(mkdir(path, 0755), 0);
	open_store();
	CU_ASSERT_EQUAL(mode_of(path), 0700);
}

static void test_a_folder_with_other_things_is_refused(void)
{
	CU_ASSERT_EQUAL_FATAL(mkdir(path, 0755), 0);
	put_file(in_store("thesis.tex"), "x");
	check_says(store_open(path, STORE_WRITE, &store, &err), -EBADMSG, "not a store");
	CU_ASSERT_EQUAL(mode_of(path), 0755);
	CU_ASSERT_FALSE(exists(".tidemark"));
}

static void test_a_store_that_is_only_read_is_not_made(void)
{
	CU_ASSERT_EQUAL(store_open(path, STORE_READ, &store, &err), -ENOENT);
	CU_ASSERT_NOT_EQUAL(access(path, F_OK), 0);
	CU_ASSERT_EQUAL_FATAL(mkdir(path, 0700), 0);
	check_says(store_open(path, STORE_READ, &store, &err), -EBADMSG, "not a store");
	put_file(in_store("file"), "x");
	CU_ASSERT_EQUAL(store_open(in_store("file"), STORE_READ, &store, &err), -ENOTDIR);
}

static void test_an_opening_that_was_interrupted_is_gone_on_with(void)
{
	open_store();
	CU_ASSERT_EQUAL_FATAL(unlink(in_store(".tidemark")), 0);
	put_file(in_store(".tmp-.tidemark-0011223344556677"), "tide");
	open_store();
	CU_ASSERT_TRUE(exists(".tidemark"));
}

static void test_other_versions_are_refused(void)
{
	open_store();
	put_file(in_store(".tidemark"), "tidemark store 2\n");
	check_says(store_open(path, STORE_READ, &store, &err), -EBADMSG, "version 2");
	static const char *const damaged[] = {
		"", "tidemark store", "tidemark store 1", "tidemark store 1x\n", "something\n"};
	for (size_t i = 0; i < sizeof(damaged) / sizeof(damaged[0]); i++) {
		put_file(in_store(".tidemark"), damaged[i]);
		struct store *s;
		check_says(store_open(path, STORE_WRITE, &s, &err), -EBADMSG, "damaged");
	}
}

static void test_a_store_that_is_open_to_others_is_not_written_to(void)
{
	open_store();
	CU_ASSERT_EQUAL_FATAL(chmod(path, 0750), 0);
	struct store *s;
	check_says(store_open(path, STORE_WRITE, &s, &err), -ECANCELED, "open to others");
	CU_ASSERT_EQUAL_FATAL(store_open(path, STORE_READ, &s, &err), 0);
	store_close(s);
}

static void test_another_users_store_is_not_written_to(void)
{
	if (geteuid() != 0)
		harness_skip("only root can give a folder away");
	open_store();
	CU_ASSERT_EQUAL_FATAL(chown(path, 12345, 12345), 0);
	struct store *s;
	check_says(store_open(path, STORE_WRITE, &s, &err), -ECANCELED, "another user (12345)");
}

static void test_a_lost_secret_hinders_no_reader(void)
{
	open_store();
	put_file(in_store(".secret"), "short");
	struct store *s;
	check_says(store_open(path, STORE_WRITE, &s, &err), -EBADMSG, ".secret");
	CU_ASSERT_EQUAL_FATAL(store_open(path, STORE_READ, &s, &err), 0);
	CU_ASSERT_PTR_NULL(store_secret(s));
	store_close(s);

	CU_ASSERT_EQUAL_FATAL(unlink(in_store(".secret")), 0);
	CU_ASSERT_EQUAL_FATAL(store_open(path, STORE_READ, &s, &err), 0);
	CU_ASSERT_PTR_NULL(store_secret(s));
	store_close(s);
	open_store();
	CU_ASSERT_PTR_NOT_NULL(store_secret(store));
}

/* --- files -------------------------------------------------------------------------------- */

static void test_a_file_appears_when_it_is_committed(void)
{
	open_store();
	CU_ASSERT_EQUAL_FATAL(store_file_create(store, "a", &file, &err), 0);
	CU_ASSERT_EQUAL(write(file.fd, "hello", 5), 5);
	CU_ASSERT_FALSE(exists("a.tide"));
	CU_ASSERT_TRUE(exists(file.temp));
	CU_ASSERT_EQUAL(mode_of(in_store(file.temp)), 0600);
	CU_ASSERT_EQUAL(store_file_commit(&file, &err), 0);
	CU_ASSERT_TRUE(exists("a.tide"));
	CU_ASSERT_FALSE(exists(file.temp));
	store_file_abandon(&file);
	CU_ASSERT_TRUE(exists("a.tide"));

	char buf[8];
	int fd;
	CU_ASSERT_EQUAL_FATAL(store_file_open(store, "a", &fd, &err), 0);
	CU_ASSERT_EQUAL(read(fd, buf, sizeof(buf)), 5);
	close(fd);
}

static void test_an_abandoned_file_is_gone(void)
{
	open_store();
	CU_ASSERT_EQUAL_FATAL(store_file_create(store, "a", &file, &err), 0);
	store_file_abandon(&file);
	CU_ASSERT_FALSE(exists(file.temp));
	CU_ASSERT_FALSE(exists("a.tide"));
	store_file_abandon(&file);
}

static void test_names_that_are_none_are_refused(void)
{
	static const char *const bad[] = {"", ".", "..", ".hidden", "a/b", "-x", "a b", "ä", "a\n"};
	char too_long[NAME_MAX_BYTES + 2];
	int fd;
	open_store();
	memset(too_long, 'a', sizeof(too_long));
	too_long[NAME_MAX_BYTES + 1] = '\0';
	CU_ASSERT_EQUAL(store_file_create(store, too_long, &file, &err), -ECANCELED);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		CU_ASSERT_EQUAL(store_file_create(store, bad[i], &file, &err), -ECANCELED);
		CU_ASSERT_EQUAL(err.kind, TIDE_ERROR_USAGE);
		CU_ASSERT_EQUAL(store_file_open(store, bad[i], &fd, &err), -ECANCELED);
		CU_ASSERT_EQUAL(store_remove(store, bad[i], &err), -ECANCELED);
	}
	too_long[NAME_MAX_BYTES] = '\0';
	CU_ASSERT_EQUAL(store_file_create(store, too_long, &file, &err), 0);
	CU_ASSERT_EQUAL(store_file_commit(&file, &err), 0);
}

static void test_a_name_is_given_once(void)
{
	open_store();
	struct store_file second = {.fd = -1};
	CU_ASSERT_EQUAL_FATAL(store_file_create(store, "a", &file, &err), 0);
	CU_ASSERT_EQUAL_FATAL(store_file_create(store, "a", &second, &err), 0);
	CU_ASSERT_EQUAL(store_file_commit(&file, &err), 0);
	check_says(store_file_commit(&second, &err), -EEXIST, "'a'");
	store_file_abandon(&second);
	CU_ASSERT_EQUAL(store_file_create(store, "a", &second, &err), -EEXIST);
	CU_ASSERT_EQUAL(store_remove(store, "a", &err), 0);
	CU_ASSERT_EQUAL(store_remove(store, "a", &err), -ENOENT);
	CU_ASSERT_EQUAL_FATAL(store_file_create(store, "a", &file, &err), 0);
}

static void test_links_are_not_followed(void)
{
	int fd;
	open_store();
	put_file(in_store("target"), "x");
	CU_ASSERT_EQUAL_FATAL(symlink("target", in_store("a.tide")), 0);
	CU_ASSERT_EQUAL(store_file_open(store, "a", &fd, &err), -ELOOP);
	CU_ASSERT_EQUAL(store_file_create(store, "a", &file, &err), -EEXIST);
}

/* --- sweeping ----------------------------------------------------------------------------- */

static void test_a_sweep_takes_what_dead_writers_left(void)
{
	size_t removed;
	open_store();
	CU_ASSERT_EQUAL_FATAL(store_file_create(store, "alive", &file, &err), 0);
	put_file(in_store(".tmp-dead-0123456789abcdef"), "x");
	put_file(in_store("kept.tide"), "x");
	CU_ASSERT_EQUAL(store_sweep(store, &removed, &err), 0);
	CU_ASSERT_EQUAL(removed, 1);
	CU_ASSERT_TRUE(exists(file.temp));
	CU_ASSERT_TRUE(exists("kept.tide"));
	CU_ASSERT_TRUE(exists(".tidemark"));
	CU_ASSERT_FALSE(exists(".tmp-dead-0123456789abcdef"));
	CU_ASSERT_EQUAL(store_file_commit(&file, &err), 0);
}

static void test_names_are_listed_in_order(void)
{
	char **names;
	size_t n;
	open_store();
	CU_ASSERT_EQUAL_FATAL(store_names(store, &names, &n, &err), 0);
	CU_ASSERT_EQUAL(n, 0);
	store_names_free(names);
	static const char *const files[] = {
		"b.tide", "a.tide", "c.tide.tide", "d.txt", ".tide", "e e.tide", "f"};
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		put_file(in_store(files[i]), "");
	CU_ASSERT_EQUAL_FATAL(store_names(store, &names, &n, &err), 0);
	CU_ASSERT_EQUAL_FATAL(n, 3);
	CU_ASSERT_STRING_EQUAL(names[0], "a");
	CU_ASSERT_STRING_EQUAL(names[1], "b");
	CU_ASSERT_STRING_EQUAL(names[2], "c.tide");
	CU_ASSERT_PTR_NULL(names[3]);
	store_names_free(names);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		TEST(test_a_store_is_made_where_it_is_missing),
		TEST(test_stores_have_secrets_of_their_own),
		TEST(test_an_empty_folder_becomes_a_store),
		TEST(test_a_folder_with_other_things_is_refused),
		TEST(test_a_store_that_is_only_read_is_not_made),
		TEST(test_an_opening_that_was_interrupted_is_gone_on_with),
		TEST(test_other_versions_are_refused),
		TEST(test_a_store_that_is_open_to_others_is_not_written_to),
		TEST(test_another_users_store_is_not_written_to),
		TEST(test_a_lost_secret_hinders_no_reader),
		TEST(test_a_file_appears_when_it_is_committed),
		TEST(test_an_abandoned_file_is_gone),
		TEST(test_names_that_are_none_are_refused),
		TEST(test_a_name_is_given_once),
		TEST(test_links_are_not_followed),
		TEST(test_a_sweep_takes_what_dead_writers_left),
		TEST(test_names_are_listed_in_order),
		{NULL, NULL},
	};
	return harness_main(argc, argv, "store", tests, setup, teardown);
}
