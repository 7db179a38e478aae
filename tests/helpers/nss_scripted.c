/* SPDX-License-Identifier: MIT
 *
 * A name service that does as a test says: a module of glibc's name service switch.
 * See names.py.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <nss.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The name that it knows, and what for: addresses with a space after each. */
char scripted_name[256];
char scripted_addresses[1024];
/* Whether it is mute, and how often it has been asked. */
atomic_int scripted_mute;
atomic_int scripted_asked;
/* Whether it holds a lock while it answers, as glibc and its other modules do. */
atomic_int scripted_locks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void
take_a_while(void)
{
    if (scripted_locks)
        pthread_mutex_lock(&lock);
    scripted_asked++;
    while (scripted_mute)
        usleep(1000);
    if (scripted_locks) {
        /* A fork that began when it was not mute any more would be over by then. */
        usleep(50000);
        pthread_mutex_unlock(&lock);
    }
}

enum nss_status
_nss_scripted_gethostbyname4_r(const char *name, struct gaih_addrtuple **found,
                               char *buffer, size_t length, int *error,
                               int *host_error, int32_t *ttl)
{
    struct gaih_addrtuple *tuples = NULL, **end = &tuples;
    char addresses[sizeof(scripted_addresses)], *rest = addresses, *address;

    (void) ttl;
    *error = ENOENT;
    *host_error = HOST_NOT_FOUND;
    if (strcmp(name, scripted_name) != 0)
        return NSS_STATUS_NOTFOUND;
    take_a_while();
    strcpy(addresses, scripted_addresses);
    while ((address = strsep(&rest, " ")) != NULL && *address != '\0') {
        struct gaih_addrtuple *tuple = (struct gaih_addrtuple *) buffer;

        if (length < sizeof(*tuple)) {
            *error = ERANGE;
            *host_error = NETDB_INTERNAL;
            return NSS_STATUS_TRYAGAIN;
        }
        memset(tuple, 0, sizeof(*tuple));
        tuple->name = scripted_name;
        tuple->family = (strchr(address, ':') == NULL) ? AF_INET : AF_INET6;
        inet_pton(tuple->family, address, tuple->addr);
        *end = tuple;
        end = &tuple->next;
        buffer += sizeof(*tuple);
        length -= sizeof(*tuple);
    }
    if (tuples == NULL)
        return NSS_STATUS_NOTFOUND;
    if (*found == NULL)
        *found = tuples;
    else
        **found = *tuples;
    *host_error = NETDB_SUCCESS;
    return NSS_STATUS_SUCCESS;
}
