/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "base/background.h"

/* Beside a thread of its own kind that wants all of a processor, one with 10 more gets a tenth of
 * it. */
#define BACKGROUND 10
#define NICE_MOST 19

void background_set(pid_t tid, int own, bool background)
{
	int value = background ? own + BACKGROUND : own;
	(void)setpriority(PRIO_PROCESS, (id_t)tid, value < NICE_MOST ? value : NICE_MOST);
}

static void *go_and_return(void *arg)
{
	bool *ret = arg;
	id_t tid = (id_t)syscall(SYS_gettid);
	int own = getpriority(PRIO_PROCESS, tid);
	*ret = own < NICE_MOST && setpriority(PRIO_PROCESS, tid, own + 1) == 0 &&
	       setpriority(PRIO_PROCESS, tid, own) == 0;
	return NULL;
}

bool background_ends(void)
{
	bool ends = false;
	pthread_t thread;
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (pthread_create(&thread, NULL, go_and_return, &ends) == 0)
		pthread_join(thread, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return ends;
}
