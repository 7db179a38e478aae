/* SPDX-License-Identifier: MIT
 *
 * For programs that are started with this library in LD_PRELOAD: after a look at a
 * socket that finds only the beginning of a token, the rest comes before the next
 * look. */

#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif

#include <dlfcn.h>
#include <sys/socket.h>
#include <unistd.h>

ssize_t
recv(int fd, void *octets, size_t length, int flags)
{
    ssize_t (*real)(int, void *, size_t, int);
    ssize_t n;

    *(void **) &real = dlsym(RTLD_NEXT, "recv");
    n = real(fd, octets, length, flags);
    if ((flags & MSG_PEEK) && n >= 5 && n < 8)
        sleep(2);
    return n;
}
