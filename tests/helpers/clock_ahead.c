/* SPDX-License-Identifier: MIT
 *
 * A wall clock that is an hour ahead, for programs that are started with this
 * library in LD_PRELOAD. */

#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif

#include <dlfcn.h>
#include <stddef.h>
#include <sys/time.h>
#include <time.h>

#define AHEAD 3600

time_t
time(time_t *result)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (result != NULL)
        *result = now.tv_sec;
    return now.tv_sec;
}

int
gettimeofday(struct timeval *restrict result, void *restrict zone)
{
    struct timespec now;

    (void) zone;
    clock_gettime(CLOCK_REALTIME, &now);
    result->tv_sec = now.tv_sec;
    result->tv_usec = now.tv_nsec / 1000;
    return 0;
}

int
clock_gettime(clockid_t clock, struct timespec *result)
{
    int (*real)(clockid_t, struct timespec *);
    int status;

    *(void **) &real = dlsym(RTLD_NEXT, "clock_gettime");
    status = real(clock, result);
    if (status == 0 && clock == CLOCK_REALTIME)
        result->tv_sec += AHEAD;
    return status;
}
