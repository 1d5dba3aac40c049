/* SPDX-License-Identifier: MIT */
/*
 * Threads that wait in functions with names of their own, for backtraces; and globals with known
 * values.
 *
 *     threads     prints "ready" when every thread is where it will stay; ends when its standard
 * input does.
 */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

volatile unsigned long known_value = 0x7469646d61726bull;
const char *volatile known_text = "how long is the coast";

static pthread_barrier_t everybody;
static volatile int go_on = 1;
static volatile unsigned long spins;

__attribute__((noinline)) static void wait_for_the_end(void)
{
	char byte;
	while (read(0, &byte, 1) > 0)
		;
	__asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) static void count_waves(void)
{
	while (go_on)
		spins++;
	__asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) static void sleep_on_the_shore(void)
{
	while (go_on)
		usleep(1000000);
	__asm__ volatile("" ::: "memory");
}

__attribute__((noinline)) static void watch_the_moon(pthread_mutex_t *held)
{
	pthread_mutex_lock(held);
	pthread_mutex_unlock(held);
	__asm__ volatile("" ::: "memory");
}

static pthread_mutex_t moon = PTHREAD_MUTEX_INITIALIZER;

static void *tide_counter(void *arg)
{
	pthread_barrier_wait(&everybody);
	count_waves();
	return arg;
}

static void *tide_sleeper(void *arg)
{
	pthread_barrier_wait(&everybody);
	sleep_on_the_shore();
	return arg;
}

static void *tide_watcher(void *arg)
{
	pthread_barrier_wait(&everybody);
	watch_the_moon(&moon);
	return arg;
}

int main(void)
{
	void *(*const functions[])(void *) = {tide_counter, tide_sleeper, tide_watcher};
	pthread_t ids[3];
	pthread_barrier_init(&everybody, NULL, 4);
	pthread_mutex_lock(&moon);
	for (int i = 0; i < 3; i++)
		pthread_create(&ids[i], NULL, functions[i], NULL);
	pthread_barrier_wait(&everybody);
	printf("ready\n");
	fflush(stdout);
	wait_for_the_end();
	go_on = 0;
	pthread_mutex_unlock(&moon);
	for (int i = 0; i < 2; i++)
		pthread_join(ids[i], NULL);
	return 0;
}
