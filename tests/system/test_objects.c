/* SPDX-License-Identifier: MIT */
/* Who else may write a shared object, and whether it was written past the page tables. */
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "tests/harness.h"
#include "tracker/maps.h"
#include "tracker/objects.h"
#include "tracker/process.h"
#include "tracker/sharers.h"

#define PAGE 4096ul

static int memory_fd;
static pid_t other, holder;
static int to_other[2], from_other[2], to_holder[2], from_holder[2];
static char path[64];
static bool alone; /* with the processes of this test */

static struct sharer_query query(void)
{
	struct stat st;
	static char name[] = "/memfd:tidemark-test (deleted)";
	CU_ASSERT_EQUAL_FATAL(fstat(memory_fd, &st), 0);
	return (struct sharer_query){.dev_major = major(st.st_dev),
		.dev_minor = minor(st.st_dev),
		.inode = st.st_ino,
		.name = name};
}

static void setup(void)
{
	other = holder = 0;
	path[0] = '\0';
	memory_fd = memfd_create("tidemark-test", MFD_CLOEXEC);
	CU_ASSERT_TRUE_FATAL(memory_fd >= 0 && ftruncate(memory_fd, 4 * PAGE) == 0);
	CU_ASSERT_TRUE_FATAL(pipe(to_other) == 0 && pipe(from_other) == 0 && pipe(to_holder) == 0 &&
			     pipe(from_holder) == 0);
}

static void end(pid_t pid)
{
	if (pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

static void teardown(void)
{
	end(other);
	end(holder);
	if (memory_fd >= 0)
		close(memory_fd);
	for (int i = 0; i < 2; i++) {
		close(to_other[i]);
		close(from_other[i]);
		close(to_holder[i]);
		close(from_holder[i]);
	}
	if (path[0])
		unlink(path);
}

static void exchange(const int to[2], const int from[2], char *byte)
{
	CU_ASSERT_EQUAL_FATAL(write(to[1], byte, 1), 1);
	CU_ASSERT_EQUAL_FATAL(read(from[0], byte, 1), 1);
}

/* A process that does to the object what it is told: 'v' attach a SysV segment, 'V' destroy it, 'm'
 * map, 'r' map for reading only, 'u' unmap, 'o' open for writing, 'O' open for reading, 'c' close,
 * 's' store, 'w' write(2). */
static void serve(int in, int out)
{
	uint8_t *at = MAP_FAILED;
	int fd = -1, segment = -1;
	char name[64];
	snprintf(name, sizeof(name), "/proc/self/fd/%d", memory_fd);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int readable = open(name, O_RDONLY | O_CLOEXEC);
	for (char what; read(in, &what, 1) == 1;) {
		switch (what) {
		case 'x':
			close(memory_fd);
			break;
		case 'm':
			at = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			break;
		case 'p':
			at = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, readable, 0);
			break;
		case 'u':
			munmap(at, 4 * PAGE);
			break;
		case 'o':
			snprintf(name, sizeof(name), "/proc/self/fd/%d", readable);
			fd = open(name, O_RDWR | O_CLOEXEC);
			break;
		case 'c':
			close(fd);
			break;
		case 's':
			at[PAGE] ^= 1;
			break;
		case 'v':
			segment = shmget(IPC_PRIVATE, 4 * PAGE, 0600);
			at = shmat(segment, NULL, 0);
			break;
		case 'V':
			shmctl(segment, IPC_RMID, NULL);
			break;
		case 'w':
			if (pwrite(fd, "x", 1, PAGE) != 1)
				_exit(1);
			break;
		default:
			_exit(0);
		}
		if (at == MAP_FAILED && what == 'm')
			_exit(1);
		if (write(out, &what, 1) != 1)
			_exit(1);
	}
	_exit(0);
}

static pid_t start(const int to[2], const int from[2])
{
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0)
		serve(to[0], from[1]);
	CU_ASSERT_TRUE_FATAL(pid > 0);
	char x = 'x';
	exchange(to, from, &x);
	return pid;
}

static void tell_other(const char *what)
{
	for (; *what; what++) {
		char byte = *what;
		exchange(to_other, from_other, &byte);
	}
}

static void tell_holder(const char *what)
{
	for (; *what; what++) {
		char byte = *what;
		exchange(to_holder, from_holder, &byte);
	}
}

static void test_a_mapping_and_a_writable_descriptor_elsewhere_are_found(void)
{
	bool unseen = false;
	other = start(to_other, from_other);
	struct sharer_query q = query();
	close(memory_fd);
	memory_fd = -1;

	CU_ASSERT_EQUAL(sharers_find(99999999, &q, 1, &unseen), 0);
	CU_ASSERT_EQUAL(q.by, 0); /* its descriptor is for reading */
	tell_other("p");
	CU_ASSERT_EQUAL(sharers_find(99999999, &q, 1, &unseen), 0);
	CU_ASSERT_EQUAL(q.by, 0); /* its mapping is private */
	tell_other("uo");
	CU_ASSERT_EQUAL(sharers_find(99999999, &q, 1, &unseen), 0);
	CU_ASSERT_EQUAL(q.by, other);
	tell_other("mc");
	CU_ASSERT_EQUAL(sharers_find(99999999, &q, 1, &unseen), 0);
	CU_ASSERT_EQUAL(q.by, other);
	CU_ASSERT_EQUAL(sharers_find(other, &q, 1, &unseen), 0);
	CU_ASSERT_EQUAL(q.by, 0); /* of itself nobody asks */
	tell_other("u");
	CU_ASSERT_EQUAL(sharers_find(99999999, &q, 1, &unseen), 0);
	CU_ASSERT_EQUAL(q.by, 0);
	if (alone)
		CU_ASSERT_FALSE(unseen);
}

static void test_whoever_does_not_answer_in_time_is_unseen(void)
{
	struct sharers *sharers = NULL;
	bool unseen = false;
	other = start(to_other, from_other);
	tell_other("om");
	struct sharer_query q = query();
	CU_ASSERT_EQUAL_FATAL(sharers_new(99999999, &sharers), 0);

	/* Over before it begins: nobody is known not to have it. */
	CU_ASSERT_EQUAL(sharers_look(sharers, &q, 1, 1, &unseen), 0);
	CU_ASSERT_TRUE(unseen || q.by);
	/* The look that was left alone does not stand in the way of the next. */
	close(memory_fd);
	memory_fd = -1;
	CU_ASSERT_EQUAL(sharers_look(sharers, &q, 1, clock_now_ns() + 60 * NS_PER_S, &unseen), 0);
	CU_ASSERT_EQUAL(q.by, other);
	tell_other("uc");
	CU_ASSERT_EQUAL(sharers_look(sharers, &q, 1, clock_now_ns() + 60 * NS_PER_S, &unseen), 0);
	CU_ASSERT_EQUAL(q.by, 0);
	CU_ASSERT_FALSE(alone && unseen);
	sharers_free(sharers);
}

/* Looks at the holder as a round does; is its first object doubtful? */
static bool look(struct objects *o, const struct process *p)
{
	struct mapping_table maps = {0};
	struct tide_error err = {0};
	bool doubtful = false;
	objects_begin_look(o);
	int r = maps_read(p, NULL, &maps, &err);
	if (r == 0)
		r = objects_look(o, p, &maps, false);
	if (r == 0)
		r = objects_look_for_others(o, p, &maps, clock_now_ns() + 60 * NS_PER_S);
	CU_ASSERT_EQUAL(r, 0);
	for (size_t i = 0; r == 0 && i < maps.len; i++) {
		if (maps.v[i].kind == MAPPING_OBJECT)
			doubtful |= objects_doubtful(o, maps.v[i].object);
	}
	mapping_table_release(&maps);
	return doubtful;
}

/* Time stamps are coarse: waits until one made now would differ from those made before. */
static void let_stamps_age(void)
{
	struct timespec t = {.tv_nsec = 25000000};
	while (nanosleep(&t, &t) < 0)
		;
}

static void test_an_object_is_doubtful_while_others_may_have_written_it(void)
{
	struct tide_error err = {0};
	struct objects o = {0};
	auto_(process_closep) struct process *p = NULL;
	if (!alone)
		harness_skip("whether others have it is certain for root alone");
	other = start(to_other, from_other);
	holder = start(to_holder, from_holder);
	tell_holder("omc");
	tell_other("o");
	close(memory_fd);
	memory_fd = -1;
	CU_ASSERT_EQUAL_FATAL(process_open(holder, &p, &err), 0);

	CU_ASSERT_TRUE(look(&o, p)); /* open for writing elsewhere */
	tell_other("mc");
	CU_ASSERT_TRUE(look(&o, p)); /* mapped elsewhere */
	tell_other("su");
	CU_ASSERT_TRUE(look(&o, p)); /* not any more, but it was since the last look */
	CU_ASSERT_FALSE(look(&o, p));
	tell_holder("s");
	CU_ASSERT_FALSE(look(&o, p)); /* what it stores itself, its page tables show */
	tell_holder("ow");
	CU_ASSERT_TRUE(look(&o, p)); /* what it writes by descriptor they do not */
	let_stamps_age();
	CU_ASSERT_TRUE(look(&o, p)); /* the call may have gone on behind the look */
	(void)look(&o, p);
	CU_ASSERT_FALSE(look(&o, p)); /* its descriptor alone says nothing */
	objects_release(&o);
}

/* The kernel gives a SysV segment its number for an inode, on the device of all memory that has no
 * name; another object can have that inode. */
static void test_a_segment_is_not_taken_for_memory_with_its_number(void)
{
	struct tide_error err = {0};
	struct objects o = {0};
	struct mapping_table maps = {0};
	auto_(process_closep) struct process *p = NULL;
	space_id segment = 0, memory = 0;
	uint64_t inodes[2] = {0};
	struct stat st;
	/* The next segment's number can be chosen, in a namespace of our own. */
	CU_ASSERT_EQUAL_FATAL(fstat(memory_fd, &st), 0);
	FILE *next = alone ? fopen("/proc/sys/kernel/shm_next_id", "we") : NULL;
	if (next) {
		fprintf(next, "%u", (unsigned)(st.st_ino & INT_MAX));
		fclose(next);
	} else {
		harness_skip("the number of a SysV segment cannot be chosen here");
	}
	holder = start(to_holder, from_holder);
	tell_holder("omv");
	CU_ASSERT_EQUAL_FATAL(process_open(holder, &p, &err), 0);
	objects_begin_look(&o);
	CU_ASSERT_EQUAL_FATAL(maps_read(p, NULL, &maps, &err), 0);
	CU_ASSERT_EQUAL(objects_look(&o, p, &maps, false), 0);
	for (size_t i = 0; i < maps.len; i++) {
		const struct mapping *m = &maps.v[i];
		bool sysv = strncmp(m->name, "/SYSV", 5) == 0;
		if (m->kind == MAPPING_OBJECT) {
			*(sysv ? &segment : &memory) = m->object;
			inodes[sysv] = m->inode;
		}
	}
	CU_ASSERT_EQUAL(inodes[0], inodes[1]);
	CU_ASSERT_NOT_EQUAL(segment, memory);
	CU_ASSERT_EQUAL(o.len, 2);
	tell_holder("V");
	mapping_table_release(&maps);
	objects_release(&o);
}

static void test_what_has_a_name_is_always_doubtful(void)
{
	struct tide_error err = {0};
	struct objects o = {0};
	auto_(process_closep) struct process *p = NULL;
	snprintf(path, sizeof(path), "/dev/shm/tidemark-test-%d", getpid());
	close(memory_fd);
	memory_fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (memory_fd < 0) {
		path[0] = '\0';
		harness_skip("no file can be made in /dev/shm");
	}
	CU_ASSERT_EQUAL_FATAL(ftruncate(memory_fd, 4 * PAGE), 0);
	holder = start(to_holder, from_holder);
	tell_holder("omc");
	close(memory_fd);
	memory_fd = -1;
	CU_ASSERT_EQUAL_FATAL(process_open(holder, &p, &err), 0);
	CU_ASSERT_TRUE(look(&o, p));
	let_stamps_age();
	CU_ASSERT_TRUE(look(&o, p));
	CU_ASSERT_TRUE(look(&o, p));
	objects_release(&o);
}

static const struct test tests[] = {
	TEST(test_a_mapping_and_a_writable_descriptor_elsewhere_are_found),
	TEST(test_whoever_does_not_answer_in_time_is_unseen),
	TEST(test_an_object_is_doubtful_while_others_may_have_written_it),
	TEST(test_a_segment_is_not_taken_for_memory_with_its_number),
	TEST(test_what_has_a_name_is_always_doubtful),
	{NULL, NULL},
};

/* In a world of its own, where every process can be looked into: elsewhere one that cannot be (init
 * in a container) makes every object doubtful. */
int main(int argc, char **argv)
{
	if (unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC) < 0)
		return harness_main(argc, argv, "objects", tests, setup, teardown);
	pid_t first = fork();
	if (first == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
			mount("proc", "/proc", "proc", 0, NULL) < 0)
			return 1;
		alone = true;
		int r = harness_main(argc, argv, "objects", tests, setup, teardown);
		fflush(NULL);
		_exit(r);
	}
	int status;
	while (waitpid(first, &status, 0) < 0)
		;
	/* The leak sanitizer looks from a process that it starts, which neither the first process
	 * of a namespace nor one whose namespace has ended can do. */
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}
