/* SPDX-License-Identifier: MIT
 *
 * The C side of a connection: what must happen in one call without the GIL, or
 * cannot be written in Python.
 *
 * A shim_connection owns all C resources of one connection: the struct remctl,
 * the host and principal strings that libremctl keeps pointers to, and the two
 * descriptors.  It is reference-counted, as a job may need it longer than Python
 * does.  Python has a shim_handle, whose memory belongs to Python and lives as
 * long as any Python object refers to it.  The handle refers to the connection,
 * the job under way, and the results of the last call; shim_free() releases all
 * three.
 *
 * Only one thread at a time may call shim_command, shim_gather, shim_forget,
 * shim_output, shim_keep, shim_silence, shim_begin_*, shim_take_addresses,
 * shim_stage, shim_end, shim_finish, shim_default_cache, shim_hold and shim_release
 * on a handle (Remctl's lock ensures it).
 * Any thread may call the other functions at any time: shim_close() shuts the
 * connection down at once, and its last user frees it.  All calls into libremctl,
 * and all changes of what a connection owns, are made between begin_call() and
 * end_call(), or under the mutex of these.
 *
 * A comment such as "guard 33" marks the line that prevents hazard 33 of
 * tests/hazards.py.
 */

#ifndef _GNU_SOURCE
#    define _GNU_SOURCE /* memfd_create() */
#endif

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <remctl.h>

#include "_jobs.c"

#if SHIM_LINUX
#    include <linux/sockios.h> /* SIOCOUTQ */
#    include <linux/tcp.h>     /* the whole struct tcp_info */
#    define TCP_STATE_CLOSE 7  /* in a header that this one excludes */
#else
#    include <netinet/tcp.h> /* TCP_NODELAY */
#    undef POLLRDHUP
#    define POLLRDHUP 0
#endif

/* From the protocol specification, 2.1 and 3: a token on the wire is one octet
 * of flags, four of length, then the payload. */
#define TOKEN_HEADER     5
#define TOKEN_MAX_LENGTH (1024 * 1024)
#define TOKEN_SEND_MIC   0x20
#define TOKEN_PROTOCOL   0x40

/* More than GSS-API and the token header add to a token. */
#define TOKEN_OVERHEAD 256
#define TOKEN_MAX_DATA (64 * 1024)

/* The protocol's own octets at the start of each token of a command, before
 * the data. */
#define COMMAND_HEADER 4

/* The types of the messages that may answer a NOOP. */
#define MESSAGE_ERROR   5
#define MESSAGE_VERSION 6
#define MESSAGE_NOOP    7

enum protection { UNKNOWN, SIGNED, SEALED };

/* What can be seen of a token before libremctl reads it. */
struct token_head {
    unsigned char flags;
    enum protection protection;
};

enum shim_outcome {
    SHIM_FAILED,      /* ``error`` says why; the connection cannot be used again */
    SHIM_OK,          /* done */
    SHIM_WAIT,        /* call again when the descriptor is readable */
    SHIM_MORE,        /* call again: the reply goes on */
    SHIM_BLOCKS,      /* not done, as it may block: begin a job for it */
    SHIM_CLOSED,      /* the connection is closed, or belongs to another process */
    SHIM_UNSUPPORTED, /* the server speaks another protocol version than needed */
    SHIM_NO_MEMORY
};

/* The results of a call. */
struct results {
    int type; /* enum remctl_output_type */
    int stream;
    int status;
    unsigned int code;
    char *data;
    size_t length;
    char *error;
};

enum stage { RESOLVING, CONNECTING, AUTHENTICATING };

/* What shim_begin_connect() is to do, and how far it has come. */
struct opening {
    /* Protected by jobs.mutex, as others ask for it while the job runs. */
    enum stage stage;
    double begun; /* the stage, or to try an address, by shim_now() */
    int turn;     /* which of the ports is tried; only the job changes it */

    /* Set before there is a job. */
    unsigned short ports[2]; /* to try; the second may be 0 */
    double timeout;          /* for each address */
    char *no_answer;
    char *source;
    int family;
    bool noting;

    /* Used by the job. */
    struct addrinfo *found;         /* what the name service has answered */
    const struct addrinfo *address; /* the one of these that is tried */
    bool in_progress;               /* the socket is being connected to it */
    int error;                      /* why that did not succeed, an errno */
    char *reason;                   /* and its text */
};

typedef struct shim_connection {
    /* State.  Used by the one call that is under way, and by the thread that ends
     * the connection. */
    bool handed_over; /* libremctl owns library_fd */
    bool idle;        /* no reply is outstanding, and nothing has failed */
    enum { UNTRIED, ANSWERED, REFUSED } noop; /* what the server did with NOOP */
    int low_water_mark; /* SO_RCVLOWAT, as we last set it */
    struct token_head next_token;
    struct opening opening;

    /* What it owns, until take_resources().  Any thread may read the descriptor,
     * and must count as a user for as long as it uses the number. */
    struct remctl *remctl;
    char *host;      /* the struct remctl keeps pointers to this */
    char *principal; /* and this */
    atomic_int fd;   /* ours; -1 before it is made, and if libremctl makes its own
                      * socket (protocol 1) */
    int library_fd;  /* the duplicate that libremctl owns once opened */

    /* The socket's, to recognize its descriptors.  Changed with them. */
    struct stat file;

    /* Set once, before any other thread sees the connection. */
    pid_t pid; /* with generation: the process that may use it */
    unsigned int generation;

    /* For all threads.  The connection is ended when it has no users, and its
     * memory is freed when there are no references. */
    atomic_int users;      /* being open, shim_hold(), each call and job */
    atomic_int references; /* the handle's, and one for each job */
    atomic_bool closing;
    atomic_ulong received; /* octets that receive() has read */
    double heard;          /* when a token was last read, by shim_now() */

    struct shim_connection *previous, *next; /* in calls, under its mutex */
} shim_connection;

typedef struct shim_handle {
    /* The results of the last call: for the one thread that makes calls. */
    int type;
    int stream;
    int status;
    unsigned int code;
    char *data;
    size_t length;
    char *error;
    int many_tokens; /* whether the last command was sent as several tokens */
    int stage;       /* from shim_stage() */

    /* The output that shim_gather() has read of the reply, on both streams. */
    char *out;
    size_t out_length;
    char *err;
    size_t err_length;
    size_t out_room, err_room;
    bool gathered;        /* to its end, or to a failure */
    int gathered_outcome; /* of which this is the outcome */

    bool held; /* by shim_hold(); an interrupt may have prevented shim_release() */
    shim_connection *connection; /* set once, NULL after free_handle() */
    struct work *work; /* the job under way; protected by jobs.mutex */

    /* How many calls are between enter_handle() and leave_handle(), in any thread;
     * FREED is added when the contents have been freed. */
    atomic_int inside;
    atomic_bool finalized; /* the last call to leave frees the contents */
} shim_handle;

#define FREED (1 << 30)


/* The calls that are inside libremctl or the name service.  exit() runs
 * libkrb5's destructors while threads may still be using it.  Our destructor
 * runs before those: it ends the calls, keeps new ones out, and lets no thread
 * return to an interpreter that is gone. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t forked;
    shim_connection *first;
    bool exiting;
    int forks; /* how many are under way */
} calls = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, false, 0};

/* How many forks there were between the process that loaded us and this one.
 * The process id is not enough: a child in a PID namespace of its own may
 * have its parent's. */
static unsigned int shim_generation;

/* How long calls may delay the exit.  A call that waits for the KDC cannot
 * be ended, but does no harm while it sleeps. */
#define MAX_EXIT_DELAY_MS 200

static void
sleep_forever(void)
{
    for (;;)
        pause();
}

static void
begin_call(shim_connection *c)
{
    bool exiting;

    pthread_mutex_lock(&calls.mutex);
    while (calls.forks > 0)
        pthread_cond_wait(&calls.forked, &calls.mutex);
    exiting = calls.exiting;
    if (!exiting) {
        c->previous = NULL;
        c->next = calls.first;
        if (c->next != NULL)
            c->next->previous = c;
        calls.first = c;
    }
    pthread_mutex_unlock(&calls.mutex);
    if (exiting)
        sleep_forever();
}

static void
end_call(shim_connection *c)
{
    bool exiting;

    pthread_mutex_lock(&calls.mutex);
    exiting = calls.exiting;
    if (c->next != NULL)
        c->next->previous = c->previous;
    if (c->previous != NULL)
        c->previous->next = c->next;
    else
        calls.first = c->next;
    pthread_mutex_unlock(&calls.mutex);
    if (exiting)
        sleep_forever();
}

static bool
calls_left(void)
{
    bool left;

    pthread_mutex_lock(&calls.mutex);
    left = calls.first != NULL;
    pthread_mutex_unlock(&calls.mutex);
    return left;
}

__attribute__((destructor)) static void
end_calls_at_exit(void)
{
    const struct timespec millisecond = {0, 1000000};
    shim_connection *c;
    int i;

    pthread_mutex_lock(&calls.mutex);
    calls.exiting = true;
    for (c = calls.first; c != NULL; c = c->next)
        if (atomic_load(&c->fd) >= 0)
            shutdown(c->fd, SHUT_RDWR);
    pthread_mutex_unlock(&calls.mutex);
    for (i = 0; i < MAX_EXIT_DELAY_MS && calls_left(); i++)
        nanosleep(&millisecond, NULL);
}

static int
open_memory_file(void)
{
#if SHIM_LINUX
    return memfd_create("remctl", MFD_CLOEXEC);
#else
    char name[] = "/tmp/remctl-XXXXXX";
    int fd = mkstemp(name);

    if (fd >= 0) {
        unlink(name);
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    return fd;
#endif
}

/* The sockets that libraries make must not become standard descriptors, either:
 * libremctl's own, and those that libkrb5 and the name service ask with.  So
 * closed ones are filled with empty files while jobs run.  Under
 * standard_mutex. */
static struct {
    int jobs;
    bool filled[FIRST_DESCRIPTOR];
    struct stat files[FIRST_DESCRIPTOR];
} standard_descriptors;

static bool
are_standard_descriptors_open(void)
{
    int fd;

    for (fd = 0; fd < FIRST_DESCRIPTOR; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            return false;
    return true;
}

static void
fill_standard_descriptors(void)
{
    int fd;

    while (!are_standard_descriptors_open()) {
        fd = open_memory_file();
        if (fd < 0)
            return;
        if (fd >= FIRST_DESCRIPTOR
            || fstat(fd, &standard_descriptors.files[fd]) < 0) {
            close(fd);
            return;
        }
        standard_descriptors.filled[fd] = true;
    }
}

/* Does not close files that the program has meanwhile opened at these
 * numbers. */
static void
empty_standard_descriptors(void)
{
    int fd;

    for (fd = 0; fd < FIRST_DESCRIPTOR; fd++) {
        if (standard_descriptors.filled[fd]
            && is_same_file(fd, &standard_descriptors.files[fd]))
            close(fd);
        standard_descriptors.filled[fd] = false;
    }
    standard_descriptors.jobs = 0;
}

static void
enter_standard_descriptors(void)
{
    pthread_mutex_lock(&standard_mutex);
    standard_descriptors.jobs++;
    fill_standard_descriptors();
    pthread_mutex_unlock(&standard_mutex);
}

/* Make ``fd`` another number for what ``file`` is. */
static bool
replace_descriptor(int fd, int file)
{
#if SHIM_LINUX
    return dup3(file, fd, O_CLOEXEC) >= 0;
#else
    return dup2(file, fd) >= 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
#endif
}

static void
leave_standard_descriptors(void)
{
    pthread_mutex_lock(&standard_mutex);
    if (--standard_descriptors.jobs == 0)
        empty_standard_descriptors();
    pthread_mutex_unlock(&standard_mutex);
}

/* A forked child inherits the locks of libkrb5 and of the name service as they
 * are; those held by other threads are never released in the child.  So a fork
 * keeps new calls out and waits for those inside, but not for long: a call that
 * waits for the network rarely holds such a lock. */
#define MAX_FORK_DELAY_MS 200

static void
before_fork(void)
{
    const struct timespec millisecond = {0, 1000000};
    int i;

    pthread_mutex_lock(&calls.mutex);
    calls.forks++;
    for (i = 0; i < MAX_FORK_DELAY_MS && calls.first != NULL; i++) {
        pthread_mutex_unlock(&calls.mutex);
        nanosleep(&millisecond, NULL);
        pthread_mutex_lock(&calls.mutex);
    }
    lock_jobs();
}

static void
after_fork_in_parent(void)
{
    unlock_jobs();
    calls.forks--;
    pthread_cond_broadcast(&calls.forked);
    pthread_mutex_unlock(&calls.mutex);
}

static void
after_fork_in_child(void)
{
    const pthread_cond_t none_waiting = PTHREAD_COND_INITIALIZER;

    forget_jobs();
    empty_standard_descriptors();
    shim_generation++;
    calls.first = NULL;
    calls.forks = 0;
    calls.forked = none_waiting;
    pthread_mutex_unlock(&calls.mutex);
}

__attribute__((constructor)) static void
register_fork_handlers(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}


/* Return the monotonic clock's time in seconds. */
static double
shim_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double) now.tv_sec + (double) now.tv_nsec / 1e9;
}

/* Wait until one of the ``events`` of poll() comes on a descriptor: 1, or 0 when the
 * milliseconds are over or a signal has come. */
static int
shim_poll(int fd, int events, int milliseconds)
{
    struct pollfd wanted = {.fd = fd, .events = (short) events};

    return poll(&wanted, 1, milliseconds) > 0;
}

static bool
belongs_to_this_process(const shim_connection *c)
{
    if (c->generation != shim_generation) /* guard 47a */
        return false;
    return c->pid == getpid(); /* guard 47b */
}


/* Blocks all signals in this thread while libremctl writes or waits: it
 * gives up a write after ten interruptions and a read after a hundred, and
 * its writes raise SIGPIPE, which kills programs that have set it to
 * SIG_DFL. */
struct signal_guard {
    sigset_t previous;
    bool sigpipe_was_pending;
};

static bool
sigpipe_pending(void)
{
    sigset_t pending;

    return sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1;
}

static void
block_signals(struct signal_guard *guard)
{
    sigset_t all;

    sigfillset(&all); /* guard 42 */
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGSEGV);
    pthread_sigmask(SIG_SETMASK, &all, &guard->previous);
    guard->sigpipe_was_pending = sigpipe_pending();
}

static void
restore_signals(const struct signal_guard *guard)
{
    if (!guard->sigpipe_was_pending && sigpipe_pending()) { /* guard 44 */
        sigset_t sigpipe;

        sigemptyset(&sigpipe);
        sigaddset(&sigpipe, SIGPIPE);
#if defined(__APPLE__) || defined(__OpenBSD__) /* have no sigtimedwait() */
        int taken;

        sigwait(&sigpipe, &taken);
#else
        const struct timespec now = {0, 0};

        sigtimedwait(&sigpipe, NULL, &now);
#endif
    }
    pthread_sigmask(SIG_SETMASK, &guard->previous, NULL);
}


/* Results are copied or taken over.  They never point into the struct
 * remctl, which shim_close() in another thread may free. */
static int
fail_with(struct results *results, const char *text)
{
    free(results->error);
    results->error = strdup(text); /* guard 9b */
    return results->error == NULL ? SHIM_NO_MEMORY : SHIM_FAILED;
}

static int
fail(shim_connection *c, struct results *results, const char *text)
{
    c->idle = false;
    return fail_with(results, text);
}

static int
fail_as_libremctl(shim_connection *c, struct results *results)
{
    return fail(c, results, remctl_error(c->remctl));
}


/* Whether ``length`` more octets can be written without blocking.  Only half
 * of the buffer is used, as the kernel counts its own overhead as well. */
static bool
fits_send_buffer(int fd, size_t length)
{
#if SHIM_LINUX
    int queued, size;
    socklen_t size_length = sizeof(size);

    if (ioctl(fd, SIOCOUTQ, &queued) < 0)
        return false;
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &size_length) < 0)
        return false;
    return (size_t) queued + length <= (size_t) size / 2;
#else
    /* Where poll() reports a socket as writable, it has room for SO_SNDLOWAT
     * octets: by default 2048 in the BSDs and macOS. */
    struct pollfd writable = {.fd = fd, .events = POLLOUT};

    return length <= 2048 && poll(&writable, 1, 0) == 1
           && writable.revents == POLLOUT;
#endif
}


/* What a connection owns, when a thread has taken it out to free it. */
struct resources {
    struct remctl *remctl;
    char *host;
    char *principal;
    int fd;
    int library_fd;
};

/* Take everything out at once, under the mutex that a fork and our
 * destructor hold: they never see half of it, and no two threads free the
 * same. */
static struct resources
take_resources(shim_connection *c)
{
    struct resources taken;

    pthread_mutex_lock(&calls.mutex);
    taken.remctl = c->remctl;
    taken.host = c->host;
    taken.principal = c->principal;
    taken.fd = atomic_load(&c->fd);
    taken.library_fd = c->library_fd;
    c->remctl = NULL;
    c->host = c->principal = NULL; /* guard 47d */
    atomic_store(&c->fd, -1);
    c->library_fd = -1;
    pthread_mutex_unlock(&calls.mutex);
    return taken;
}

/* Whether ``fd`` still is the connection's socket.  A program that becomes a
 * daemon closes all descriptors, and its files may get their numbers. */
static bool
is_our_socket(const shim_connection *c, int fd)
{
    return is_same_file(fd, &c->file);
}

/* Close our descriptors without sending anything to the server.  The struct
 * remctl is leaked on purpose: remctl_close() would send QUIT and shut down
 * the socket, which a parent process may be using, or whatever file now has
 * its number. */
static void
close_without_quit(const shim_connection *c, const struct resources *taken)
{
    free(taken->host);
    free(taken->principal);
    if (is_our_socket(c, taken->library_fd))
        close(taken->library_fd);
    if (is_our_socket(c, taken->fd)) /* guard 47c */
        close(taken->fd);
}

/* For a forked child; any number of its threads may call this. */
static void
forget_connection(shim_connection *c)
{
    struct resources taken = take_resources(c);

    close_without_quit(c, &taken);
}

/* Free the resources of a connection, which has no users any more.
 * remctl_close() sends QUIT.  Unless that cannot block, the socket is shut
 * down first, so that the write fails at once. */
static void
end_connection(shim_connection *c)
{
    struct signal_guard guard;
    struct resources taken;

    if (!belongs_to_this_process(c)) {
        forget_connection(c);
        return;
    }
    begin_call(c);
    taken = take_resources(c);
    if (taken.fd >= 0 && !is_our_socket(c, taken.fd)) { /* guard 12b */
        close_without_quit(c, &taken);
        end_call(c);
        return;
    }
    if (taken.fd >= 0
        && !(c->idle && fits_send_buffer(taken.fd, TOKEN_OVERHEAD)))
        shutdown(taken.fd, SHUT_RDWR); /* guard 46 */
    block_signals(&guard);
    remctl_close(taken.remctl); /* guard 16 */
    restore_signals(&guard);
    free(taken.host);
    free(taken.principal); /* guard 18b */
    if (!c->handed_over && taken.library_fd >= 0)
        close(taken.library_fd);
    if (taken.fd >= 0)
        close(taken.fd);
    end_call(c);
}


static bool
hold_connection(shim_connection *c)
{
    int users = atomic_load(&c->users);

    if (!belongs_to_this_process(c))
        return false;
    do {
        if (users <= 0)
            return false;
    } while (!atomic_compare_exchange_weak(&c->users, &users, users + 1));
    return true;
}

static void
release_connection(shim_connection *c)
{
    if (atomic_fetch_sub(&c->users, 1) == 1)
        end_connection(c);
}

static void
drop_reference(shim_connection *c)
{
    if (atomic_fetch_sub(&c->references, 1) != 1)
        return;
    if (c->opening.found != NULL)
        freeaddrinfo(c->opening.found);
    free(c->opening.no_answer);
    free(c->opening.source);
    free(c->opening.reason);
    free(c);
}


/* A job that uses a connection, of which it is a user. */
struct work {
    struct job job;
    int (*function)(struct work *);
    shim_connection *connection;
    unsigned int generation; /* the process whose thread runs it */
    int outcome;
    struct results results;

    char *notes; /* what it has done, in lines; protected by jobs.mutex */
    size_t notes_length;

    unsigned short port;
    time_t timeout;
    struct iovec *command; /* points into the octets */
    char *octets;
    size_t count;
};

static void
call_function(struct work *work, int (*function)(struct work *))
{
    enter_standard_descriptors(); /* guard 63b */
    work->outcome = function(work);
    leave_standard_descriptors();
}

/* Whether the caller of the job still waits for it, and has not closed the
 * connection. */
static bool
is_wanted(struct work *work)
{
    return !is_abandoned(&work->job) && !atomic_load(&work->connection->closing);
}

/* Call the function in a thread, unless the caller has left or closed the
 * connection while the job was in the queue.  In protocol 1 there is no
 * socket that close() could have shut down, so a command would still be run. */
static void
run_work(struct job *job)
{
    struct work *work = (struct work *) job;
    shim_connection *c = work->connection;

    work->outcome = SHIM_CLOSED;
    begin_call(c);
    if (is_wanted(work))
        call_function(work, work->function);
    end_call(c);
    release_connection(c);
}

static void
free_work(struct job *job)
{
    struct work *work = (struct work *) job;

    if (work->connection != NULL)
        drop_reference(work->connection);
    free(work->results.data);
    free(work->results.error);
    free(work->notes);
    free(work->command);
    free(work->octets);
    free(work);
}

/* Give up the job under way, if there is one. */
static void
abandon_work(shim_handle *h)
{
    struct work *work;

    pthread_mutex_lock(&jobs.mutex);
    work = h->work;
    h->work = NULL;
    pthread_mutex_unlock(&jobs.mutex);
    if (work != NULL)
        abandon_job(&work->job);
}

/* End the wait for the job under way, from any thread. */
static void
shim_wake(shim_handle *h)
{
    pthread_mutex_lock(&jobs.mutex);
    if (h->work != NULL)
        wake_caller(&h->work->job);
    pthread_mutex_unlock(&jobs.mutex);
}


/* Replace the results of the last call.  All at once under the mutex, so
 * that a forked child never has half of them. */
static void
store_results(shim_handle *h, const struct results *results)
{
    char *data, *error;

    pthread_mutex_lock(&jobs.mutex);
    data = h->data;
    error = h->error;
    h->type = results->type;
    h->stream = results->stream;
    h->status = results->status;
    h->code = results->code;
    h->data = results->data;
    h->length = results->length;
    h->error = results->error;
    pthread_mutex_unlock(&jobs.mutex);
    free(data);
    free(error);
}

/* The same for the output of a reply. */
static void
free_output(shim_handle *h)
{
    char *out, *err;

    pthread_mutex_lock(&jobs.mutex);
    out = h->out;
    err = h->err;
    h->out = h->err = NULL;
    h->out_length = h->err_length = h->out_room = h->err_room = 0;
    pthread_mutex_unlock(&jobs.mutex);
    free(out);
    free(err);
}

/* Free what the handle refers to.  Called once, by the last call that leaves
 * it. */
static void
free_handle(shim_handle *h)
{
    shim_connection *c = h->connection;
    const struct results none = {0};

    abandon_work(h);
    store_results(h, &none);
    free_output(h);
    h->connection = NULL;
    if (c == NULL)
        return;
    if (h->held) {
        h->held = false;
        release_connection(c);
    }
    drop_reference(c);
}

/* Undo enter_handle().  Returns false if the handle has been freed. */
static bool
leave_handle(shim_handle *h)
{
    int nobody = 0;

    if (atomic_fetch_sub(&h->inside, 1) != 1 || !atomic_load(&h->finalized))
        return true;
    /* If another call enters before this exchange, that one frees the handle. */
    if (atomic_compare_exchange_strong(&h->inside, &nobody, FREED))
        free_handle(h);
    return false;
}

/* Keep the handle from being freed.  Returns false if it has been freed. */
static bool
enter_handle(shim_handle *h)
{
    if (atomic_fetch_add(&h->inside, 1) < FREED)
        return true;
    atomic_fetch_sub(&h->inside, 1);
    return false;
}

/* Enter the handle and become a user of its connection.  NULL if it is
 * closed. */
static shim_connection *
enter_connection(shim_handle *h)
{
    shim_connection *c;

    if (!enter_handle(h))
        return NULL;
    c = h->connection;
    if (c != NULL && hold_connection(c))
        return c;
    leave_handle(h);
    return NULL;
}

/* Undo enter_connection().  Returns false if the handle has been freed. */
static bool
leave_connection(shim_handle *h, shim_connection *c)
{
    release_connection(c);
    return leave_handle(h);
}

/* The same, but also NULL if another thread has closed the connection and
 * the call that still uses it has not ended yet. */
static shim_connection *
enter_open_connection(shim_handle *h)
{
    shim_connection *c = enter_connection(h);

    if (c == NULL || !atomic_load(&c->closing))
        return c;
    leave_connection(h, c);
    return NULL;
}

/* Store the results of a call, and leave the connection.  Returns the
 * outcome, or CLOSED if the handle has been freed. */
static int
finish_call(shim_handle *h, shim_connection *c, int outcome,
            struct results *results)
{
    end_call(c);
    store_results(h, results);
    return leave_connection(h, c) ? outcome : SHIM_CLOSED;
}

/* Keep the connection from being ended until shim_release().  Returns 0 if
 * it is closed.  Python holds a connection while it polls the descriptor, so
 * that no other file can get its number meanwhile. */
static int
shim_hold(shim_handle *h)
{
    shim_connection *c = enter_connection(h);

    if (c == NULL)
        return 0;
    if (!h->held && hold_connection(c))
        h->held = true;
    leave_connection(h, c);
    return h->held;
}

static void
shim_release(shim_handle *h)
{
    if (!h->held)
        return;
    h->held = false;
    release_connection(h->connection);
}


static char *
copy_or_null(const char *text, bool *failed)
{
    char *copy;

    if (text == NULL)
        return NULL;
    copy = strdup(text);
    if (copy == NULL)
        *failed = true;
    return copy;
}

static int
duplicate(int fd, bool *failed)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR); /* guard 57 */

    if (copy < 0)
        *failed = true;
    return copy;
}

/* libremctl closes the descriptor that it gets when it likes. */
static bool
duplicate_for_libremctl(shim_connection *c)
{
    bool failed = false;

    c->library_fd = duplicate(c->fd, &failed); /* guard 12a */
    return !failed;
}

/* Make a connection from a connected socket, which stays the caller's: the
 * connection gets two duplicates, one of them for libremctl.  ``socket`` is -1 for
 * shim_begin_connect() and for protocol 1.  ``h`` is all zero and already has its
 * finalizer, so that an interrupt cannot come between the two and leak the connection.
 * Returns 0 on failure: errno is set if there is no memory or descriptor,
 * and ``error`` is set if ``ccache`` cannot be used. */
static int
shim_init(shim_handle *h, int socket, const char *host, const char *principal,
          const char *ccache, const char *source)
{
    struct results results = {0};
    shim_connection *c = calloc(1, sizeof(*c));
    bool failed = false;

    errno = ENOMEM;
    if (c == NULL)
        return 0;
    /* Before there are duplicates: is_our_socket() needs it to close them. */
    if (socket >= 0 && fstat(socket, &c->file) < 0) {
        free(c);
        return 0;
    }
    atomic_init(&c->fd, -1);
    c->library_fd = -1;
    c->opening.stage = (socket >= 0) ? AUTHENTICATING : RESOLVING;
    c->opening.begun = shim_now();
    c->low_water_mark = 1;
    atomic_init(&c->received, 0);
    c->generation = shim_generation;
    c->pid = getpid();
    atomic_init(&c->users, 1);
    atomic_init(&c->references, 1);
    begin_call(c);
    h->connection = c;
    c->host = copy_or_null(host, &failed);
    c->principal = copy_or_null(principal, &failed); /* guard 18a */
    c->remctl = remctl_new();
    if (c->remctl == NULL)
        failed = true;
    if (!failed && ccache != NULL && !remctl_set_ccache(c->remctl, ccache)) {
        fail_as_libremctl(c, &results);
        store_results(h, &results);
        failed = true;
    }
    if (!failed && source != NULL)
        failed = !remctl_set_source_ip(c->remctl, source);
    if (!failed && socket >= 0) {
        atomic_store(&c->fd, duplicate(socket, &failed));
        failed = failed || !duplicate_for_libremctl(c);
    }
    end_call(c);
    return !failed;
}

static void
close_connection(shim_connection *c)
{
    if (!belongs_to_this_process(c)) {
        forget_connection(c);
        return;
    }
    if (atomic_exchange(&c->closing, true))
        return; /* guard 8 */
    if (atomic_load(&c->users) > 1 && c->fd >= 0)
        shutdown(c->fd, SHUT_RDWR); /* guard 7b */
    release_connection(c); /* guard 7a */
}

/* Close the connection, from any thread, without blocking.  A call that is
 * using it finds the socket shut down, and the last user frees it; a caller
 * that waits for a job is woken up. */
static void
shim_close(shim_handle *h)
{
    if (!enter_handle(h))
        return;
    if (h->connection != NULL)
        close_connection(h->connection);
    shim_wake(h);
    leave_handle(h);
}

/* The finalizer.  Takes no Python lock, does not block, and runs no Python
 * code.  In a garbage collection the finalizers of other objects may still
 * use the handle after this, and so may threads that these have started. */
static void
shim_free(shim_handle *h)
{
    atomic_fetch_add(&h->inside, 1);
    atomic_store(&h->finalized, true); /* guard 58 */
    shim_close(h);
    leave_handle(h);
}

/* Return the number of our descriptor, -1 if there is none. */
static int
shim_fileno(shim_handle *h)
{
    shim_connection *c = enter_connection(h);
    int fd = -1;

    if (c != NULL) {
        fd = atomic_load(&c->fd);
        leave_connection(h, c);
    }
    return fd;
}


/* Jobs */

/* Return the work of a job that calls ``run`` in a thread, and this ``function``.
 * Without them, the job only ends when it is given up. */
static struct work *
new_work(void (*run)(struct job *), int (*function)(struct work *))
{
    struct work *work = calloc(1, sizeof(*work));

    if (work != NULL) {
        work->job.run = run;
        work->job.free = free_work;
        work->function = function;
    }
    return work;
}

/* Begin a job of the handle.  Takes ``work`` over, and frees it on failure. */
static int
begin_work(shim_handle *h, struct work *work)
{
    struct results results = {0};
    char text[200];
    int error, outcome;

    work->generation = shim_generation;
    abandon_work(h);
    error = begin_job(&work->job);
    if (error == 0) {
        pthread_mutex_lock(&jobs.mutex);
        h->work = work;
        pthread_mutex_unlock(&jobs.mutex);
        return SHIM_OK;
    }
    snprintf(text, sizeof(text), "%s: %s",
             (error == EMFILE || error == ENFILE) ? "cannot wait for a job"
                                                  : "cannot start a thread",
             strerror(error));
    outcome = fail_with(&results, text);
    store_results(h, &results);
    return outcome;
}

/* The same for a job that uses the handle's connection. */
static int
begin_connection_work(shim_handle *h, struct work *work)
{
    shim_connection *c;
    int outcome;

    if (work == NULL)
        return SHIM_NO_MEMORY;
    c = enter_open_connection(h);
    if (c == NULL) {
        free_work(&work->job);
        return SHIM_CLOSED;
    }
    work->connection = c;
    atomic_fetch_add(&c->references, 1);
    hold_connection(c); /* for the job, which releases it at its end */
    outcome = begin_work(h, work);
    if (outcome != SHIM_OK)
        release_connection(c);
    return leave_connection(h, c) ? outcome : SHIM_CLOSED;
}

/* Return the descriptor that becomes readable when the job under way ends,
 * or -1. */
static int
shim_job_fileno(shim_handle *h)
{
    int fd = -1;

    pthread_mutex_lock(&jobs.mutex);
    if (h->work != NULL)
        fd = h->work->job.readable;
    pthread_mutex_unlock(&jobs.mutex);
    return fd;
}

/* Take over what the job has noted; whether there is anything. */
static bool
take_notes(shim_handle *h, struct work *work)
{
    struct results results = {0};

    pthread_mutex_lock(&jobs.mutex);
    results.data = work->notes;
    results.length = work->notes_length;
    work->notes = NULL;
    work->notes_length = 0;
    if (results.data != NULL)
        forget_wakes(&work->job);
    pthread_mutex_unlock(&jobs.mutex);
    if (results.data != NULL)
        store_results(h, &results);
    return results.data != NULL;
}

/* Take over the results of the job under way and return its outcome, or WAIT
 * if it has not ended.  MORE: ``data`` is what it has noted, and the call has to be
 * made again. */
static int
shim_end(shim_handle *h)
{
    struct work *work;
    int outcome = SHIM_CLOSED;

    if (!enter_handle(h))
        return SHIM_CLOSED;
    work = h->work;
    if (work != NULL && work->generation == shim_generation) {
        const bool ended = atomic_load(&work->job.ended);

        outcome = SHIM_WAIT;
        if (take_notes(h, work))
            outcome = SHIM_MORE;
        else if (ended) {
            outcome = work->outcome;
            store_results(h, &work->results);
            work->results.data = work->results.error = NULL;
            abandon_work(h);
        }
    }
    return leave_handle(h) ? outcome : SHIM_CLOSED;
}

/* The same, after a wait of at most so many milliseconds. */
static int
shim_finish(shim_handle *h, int milliseconds)
{
    int outcome = shim_end(h);

    if (outcome != SHIM_WAIT || milliseconds == 0)
        return outcome;
    shim_poll(shim_job_fileno(h), POLLIN, milliseconds);
    return shim_end(h);
}

/* Give up the job under way, if there is one. */
static void
shim_abandon(shim_handle *h)
{
    if (!enter_handle(h))
        return;
    abandon_work(h);
    leave_handle(h);
}

/* Begin a job that never ends, for a wait that only a deadline or
 * shim_wake() ends. */
static int
shim_begin_pause(shim_handle *h)
{
    struct work *work = new_work(NULL, NULL);
    int outcome;

    if (work == NULL)
        return SHIM_NO_MEMORY;
    if (!enter_handle(h)) {
        free_work(&work->job);
        return SHIM_CLOSED;
    }
    outcome = begin_work(h, work);
    return leave_handle(h) ? outcome : SHIM_CLOSED;
}


/* Called with 0 before any call that may block: event loops such as libuv
 * make the sockets that they watch non-blocking, which libremctl takes for
 * end of file. */
static void
set_nonblocking(shim_connection *c, int on)
{
    if (c->fd >= 0)
        ioctl(c->fd, FIONBIO, &on);
}

/* Whether the server chose protocol 1, which libremctl does not report.
 * Before the first command, remctl_output() returns DONE without I/O in
 * protocol 2 and later, but in protocol 1 it reads, and on a non-blocking
 * socket fails at once.  (The connection cannot be used after that, but
 * protocol 1 does not use it anyway.) */
static bool
speaks_protocol1(shim_connection *c)
{
    struct remctl_output *output;

    set_nonblocking(c, 1);
    output = remctl_output(c->remctl);
    set_nonblocking(c, 0);
    return output == NULL || output->type != REMCTL_OUT_DONE;
}

/* What a server that speaks another protocol has said: libremctl has read no
 * more of it than the header of a token. */
#define GREETING_LENGTH 80

static void
keep_greeting(shim_connection *c, struct results *results)
{
    char octets[GREETING_LENGTH];
    ssize_t n = recv(c->fd, octets, sizeof(octets), MSG_PEEK | MSG_DONTWAIT);

    if (n <= 0)
        return;
    results->data = malloc((size_t) n);
    if (results->data == NULL)
        return;
    memcpy(results->data, octets, (size_t) n);
    results->length = (size_t) n;
}

static int
authenticate(struct work *work)
{
    shim_connection *c = work->connection;
    struct signal_guard guard;
    int outcome, on = 1;

    /* libremctl writes the handshake, and commands of many tokens, in several small
     * pieces, each of which would wait for the acknowledgement of the one before.
     * It fails for a tunnel that is not TCP. */
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    set_nonblocking(c, 0); /* guard 13 */
    block_signals(&guard);
    c->handed_over = true;
    if (!remctl_open_fd(c->remctl, c->host, c->library_fd, c->principal)) {
        outcome = fail_as_libremctl(c, &work->results);
        keep_greeting(c, &work->results);
    } else if (speaks_protocol1(c)) /* guard 32 */
        outcome = SHIM_UNSUPPORTED;
    else {
        c->idle = true;
        outcome = SHIM_OK;
    }
    restore_signals(&guard);
    return outcome;
}

/* Begin the handshake over the caller's socket, which also asks the KDC and the name
 * service.  UNSUPPORTED: the server speaks protocol 1. */
static int
shim_begin_open(shim_handle *h)
{
    return begin_connection_work(h, new_work(run_work, authenticate));
}

#include "_connect.c"

/* Of the libkrb5 that libremctl is linked with.  Weak, as its header files are
 * not needed otherwise, and a libremctl may be linked with something else. */
__attribute__((weak)) int krb5_init_context(void **context);
__attribute__((weak)) const char *krb5_cc_default_name(void *context);
__attribute__((weak)) void krb5_free_context(void *context);

/* Put the name of the default credential cache into ``data``, for the text of a
 * failure.  FAILED: libkrb5 does not tell. */
static int
shim_default_cache(shim_handle *h)
{
    struct results results = {0};
    shim_connection *c = enter_open_connection(h);
    void *context = NULL;
    const char *name = NULL;

    if (c == NULL)
        return SHIM_CLOSED;
    begin_call(c);
    if (krb5_init_context != NULL && krb5_cc_default_name != NULL
        && krb5_free_context != NULL && krb5_init_context(&context) == 0) {
        name = krb5_cc_default_name(context);
        if (name != NULL)
            results.data = strdup(name);
        krb5_free_context(context);
    }
    return finish_call(h, c, results.data == NULL ? SHIM_FAILED : SHIM_OK,
                       &results);
}

#if SHIM_LINUX
static bool
get_tcp_info(shim_connection *c, struct tcp_info *info)
{
    socklen_t length = sizeof(*info);

    memset(info, 0, sizeof(*info));
    return getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, info, &length) == 0;
}
#endif

/* Whether the connection was reset before the server sent anything, as a
 * server does whose queue of new connections is full.  False where the
 * platform cannot tell. */
static int
shim_was_reset(shim_handle *h)
{
    int reset = 0;

#if SHIM_LINUX
    shim_connection *c = enter_connection(h);

    if (c != NULL) {
        struct tcp_info info;

        reset = c->fd >= 0 && get_tcp_info(c, &info)
                && info.tcpi_state == TCP_STATE_CLOSE
                && info.tcpi_bytes_received == 0;
        leave_connection(h, c);
    }
#else
    (void) h;
#endif
    return reset;
}

/* Whether select(), which libremctl uses for time-outs, takes all
 * descriptors that this process can have: it overflows its sets with larger
 * ones. */
static bool
select_takes_any_descriptor(void)
{
    struct rlimit limit;

    return getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur <= FD_SETSIZE;
}

/* Connect and authenticate to a protocol 1 server, for one command.
 * libremctl reports the exit status only after remctl_open().  Its socket
 * is out of our reach, so only libremctl's own time-out can end a call whose
 * caller has left. */
static int
open_protocol1(struct work *work)
{
    shim_connection *c = work->connection;
    struct signal_guard guard;
    int outcome;

    if (select_takes_any_descriptor()) /* guard 3 */
        remctl_set_timeout(c->remctl, work->timeout);
    block_signals(&guard);
    if (!remctl_open(c->remctl, c->host, work->port, c->principal))
        outcome = fail_as_libremctl(c, &work->results);
    else if (remctl_noop(c->remctl)
             || strcmp(remctl_error(c->remctl), "NOOP message not supported"))
        outcome = SHIM_UNSUPPORTED;
    else
        outcome = SHIM_OK;
    restore_signals(&guard);
    return outcome;
}

/* Begin that, with a time-out in seconds, 0 for none.  UNSUPPORTED: the
 * server no longer speaks protocol 1. */
static int
shim_begin_open_protocol1(shim_handle *h, unsigned short port, time_t timeout)
{
    struct work *work = new_work(run_work, open_protocol1);

    if (work != NULL) {
        work->port = port;
        work->timeout = timeout;
    }
    return begin_connection_work(h, work);
}


/* Tell the kernel at how many octets to report the socket as readable.  Only
 * on Linux: not every system has SO_RCVLOWAT, and shim_silence() is needed
 * with it.  Elsewhere, a job reads a token of which a part has come. */
static void
set_low_water_mark(shim_connection *c, int mark)
{
#if SHIM_LINUX
    if (c->low_water_mark != mark
        && setsockopt(c->fd, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof(mark)) == 0)
        c->low_water_mark = mark;
#else
    (void) c;
    (void) mark;
#endif
}

/* Have the next segment acknowledged at once: a server sends a reply in two
 * small writes, and its Nagle algorithm delays the second until the first is
 * acknowledged. */
static void
quick_ack(shim_connection *c)
{
#if SHIM_LINUX
    int on = 1;

    setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
#else
    (void) c;
#endif
}

/* Prepare to wait for a token, or the rest of one, until so many octets are
 * there. */
static void
expect_token(shim_connection *c, int octets)
{
    set_low_water_mark(c, octets);
    quick_ack(c);
}


/* Fail if anything has come from the server between a reply and the next
 * command: it would be taken for the next reply. */
static int
check_quiet(shim_connection *c, struct results *results)
{
    char octet;
    ssize_t n = recv(c->fd, &octet, 1, MSG_PEEK | MSG_DONTWAIT);

    if (n > 0)
        return fail(c, results, "unexpected token from server"); /* guard 38 */
    if (n == 0)
        return fail(c, results, "error sending token: unexpected end of file");
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        return SHIM_OK;
    return fail(c, results,
                errno == ECONNRESET
                    ? "error sending token: unexpected end of file"
                    : strerror(errno));
}

static int
send_command(shim_connection *c, struct results *results,
             const struct iovec *command, size_t count)
{
    struct signal_guard guard;
    int outcome = SHIM_OK;

    c->idle = false;
    set_nonblocking(c, 0);
    block_signals(&guard);
    if (!remctl_commandv(c->remctl, command, count))
        outcome = fail_as_libremctl(c, results);
    else if (c->fd >= 0)
        expect_token(c, TOKEN_HEADER);
    restore_signals(&guard);
    return outcome;
}

/* The size of a command on the wire, without the headers of its tokens. */
static size_t
command_size(const struct iovec *command, size_t count)
{
    size_t i, size = 4;

    for (i = 0; i < count; i++)
        size += 4 + command[i].iov_len;
    return size;
}

/* Return a command's arguments, whose octets are one after the other, or NULL. */
static struct iovec *
split_command(const char *octets, const uint32_t *lengths, size_t count)
{
    struct iovec *command = malloc(count * sizeof(*command));
    size_t i;

    for (i = 0; command != NULL && i < count; i++) {
        command[i].iov_base = (char *) octets;
        command[i].iov_len = lengths[i];
        octets += lengths[i];
    }
    return command;
}

/* Prepare for shim_gather(). */
static void
begin_reply(shim_handle *h)
{
    h->out_length = h->err_length = 0;
    h->gathered = false;
}

/* Send a command of ``count`` arguments, as in split_command().  BLOCKS, and nothing
 * has been sent, if it does not fit into the send buffer. */
static int
shim_command(shim_handle *h, const char *octets, const uint32_t *lengths,
             size_t count)
{
    struct results results = {0};
    struct iovec *command = split_command(octets, lengths, count);
    shim_connection *c;
    size_t size;
    int outcome = SHIM_OK;

    if (command == NULL)
        return SHIM_NO_MEMORY;
    c = enter_open_connection(h);
    if (c == NULL) {
        free(command);
        return SHIM_CLOSED;
    }
    begin_call(c);
    begin_reply(h);
    size = command_size(command, count);
    h->many_tokens = size > TOKEN_MAX_DATA - COMMAND_HEADER;
    size += (size / TOKEN_MAX_DATA + 1) * TOKEN_OVERHEAD;
    if (c->fd < 0)
        outcome = SHIM_BLOCKS;
    else
        outcome = check_quiet(c, &results);
    if (outcome == SHIM_OK && !fits_send_buffer(c->fd, size))
        outcome = SHIM_BLOCKS;
    if (outcome == SHIM_OK)
        outcome = send_command(c, &results, command, count);
    free(command);
    return finish_call(h, c, outcome, &results);
}

static int
send_large_command(struct work *work)
{
    return send_command(work->connection, &work->results, work->command,
                        work->count);
}

/* Begin to send a command, which may block.  It is copied, as the caller may
 * leave before the job ends. */
static int
shim_begin_command(shim_handle *h, const char *octets, const uint32_t *lengths,
                   size_t count)
{
    struct work *work = new_work(run_work, send_large_command);
    size_t i, size = 0;

    if (work == NULL)
        return SHIM_NO_MEMORY;
    work->count = count;
    work->command = split_command(octets, lengths, count);
    for (i = 0; work->command != NULL && i < count; i++)
        size += work->command[i].iov_len;
    work->octets = malloc(size + 1);
    if (work->command == NULL || work->octets == NULL) {
        free(work->command);
        free(work->octets);
        free(work);
        return SHIM_NO_MEMORY;
    }
    memcpy(work->octets, octets, size);
    for (i = 0; i < count; i++)
        work->command[i].iov_base =
            work->octets + ((char *) work->command[i].iov_base - octets);
    return begin_connection_work(h, work);
}


/* Tell from the beginning of a token whether it is encrypted: from the flags
 * of an RFC 4121 token, or the seal algorithm of an older one (RFC 1964, RFC
 * 4757), which comes after a DER length and the mechanism. */
static enum protection
protection_of(const unsigned char *token, size_t length)
{
    size_t i;

    if (length >= 3 && token[0] == 0x05 && token[1] == 0x04)
        return (token[2] & 0x02) ? SEALED : SIGNED;
    if (length < 2 || token[0] != 0x60)
        return UNKNOWN;
    i = (token[1] < 0x80) ? 2 : 2 + (token[1] & 0x7f);
    if (length < i + 2 || token[i] != 0x06)
        return UNKNOWN;
    i += 2 + token[i + 1];
    if (length < i + 6 || token[i] != 0x02 || token[i + 1] != 0x01)
        return UNKNOWN;
    if (token[i + 4] == 0xff && token[i + 5] == 0xff)
        return SIGNED; /* guard 28b */
    return SEALED;
}

/* Remember what the first ``n`` octets of a token, its header included, tell
 * of it. */
static void
inspect_head(shim_connection *c, const unsigned char *head, size_t n)
{
    c->next_token.flags = (n > 0) ? head[0] : 0;
    c->next_token.protection =
        (n > TOKEN_HEADER) ? protection_of(head + TOKEN_HEADER, n - TOKEN_HEADER)
                           : UNKNOWN;
}

static uint32_t
token_length(const unsigned char *header)
{
    uint32_t length;

    memcpy(&length, header + 1, sizeof(length));
    return ntohl(length);
}

/* What a look at the socket has shown of octets that nobody has read yet.  One look
 * serves for all the small tokens in it. */
struct view {
    const unsigned char *next; /* the next token */
    size_t seen;               /* so many octets from there on, 0 at first */
    unsigned char octets[1024];
};

/* The size of the next token if the view has all of it, else 0. */
static size_t
whole_token(const struct view *view)
{
    uint32_t length;

    if (view->seen < TOKEN_HEADER)
        return 0;
    length = token_length(view->next);
    return length <= view->seen - TOKEN_HEADER ? TOKEN_HEADER + length : 0;
}

/* Look at what is there, and has not been read.  Returns what recv() does. */
static ssize_t
look(shim_connection *c, struct view *view)
{
    ssize_t n =
        recv(c->fd, view->octets, sizeof(view->octets), MSG_PEEK | MSG_DONTWAIT);

    view->next = view->octets;
    view->seen = (n > 0) ? (size_t) n : 0;
    return n;
}

/* How many octets must be there until reading the next token cannot block.
 * 0 if there are enough, or if no more will come: libremctl then reports
 * the error.  Looks again if the view does not have all of the token. */
static int
octets_wanted(shim_connection *c, struct view *view)
{
    uint32_t length;
    int available, wanted;
    size_t whole = whole_token(view);
    ssize_t n = 1;

    if (whole == 0) {
        n = look(c, view);
        whole = whole_token(view);
    }
    inspect_head(c, view->next, (whole > 0) ? whole : view->seen);
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    if (n == 0 || whole > 0)
        return 0;
    if (view->seen < TOKEN_HEADER)
        return TOKEN_HEADER;
    length = token_length(view->next);
    if (length > TOKEN_MAX_LENGTH)
        return 0;
    wanted = TOKEN_HEADER + (int) length;
    if (ioctl(c->fd, FIONREAD, &available) < 0 || available < wanted)
        return wanted;
    /* The rest came after the look, which has not seen enough of the head. */
    if (view->seen < sizeof(view->octets))
        return wanted; /* guard 73 */
    return 0;
}

/* OK if the next token can be read without blocking, WAIT if more must come,
 * BLOCKS if no more can come until something is read: when its receive
 * memory is full, the kernel reports the socket as readable below the
 * low-water mark. */
static int
token_ready(shim_connection *c, struct view *view)
{
    struct pollfd readable = {.fd = c->fd, .events = POLLIN | POLLRDHUP};
    int wanted, wanted_before = 0;

    if (c->fd < 0)
        return SHIM_BLOCKS;
    while ((wanted = octets_wanted(c, view)) != 0) {
        if (wanted == wanted_before)
            return SHIM_BLOCKS;
        wanted_before = wanted;
        expect_token(c, wanted);
        if (poll(&readable, 1, 0) <= 0)
            return SHIM_WAIT;
        if (readable.revents & ~POLLIN) {
            octets_wanted(c, view); /* for the head: this is all that will come */
            return SHIM_OK;
        }
    }
    return SHIM_OK;
}

/* Whether libremctl would answer the token with a MIC, as in protocol 1:
 * that write may block.  After a protocol 2 handshake a server has no reason
 * to send such a token. */
static bool
demands_mic(struct token_head token)
{
    return (token.flags & TOKEN_SEND_MIC) && !(token.flags & TOKEN_PROTOCOL);
}

#define NOT_ENCRYPTED "the server has sent a token that is not encrypted"

/* Read the token that inspect_head() has seen.  libremctl does not report
 * whether a token was encrypted.  One that we do not recognize is given to
 * libremctl first, for its error if the token is malformed; if libremctl
 * accepts it, we refuse it. */
static int
read_token(shim_connection *c, struct results *results)
{
    struct remctl_output *output;

    if (c->fd >= 0 && demands_mic(c->next_token))
        return fail(c, results, "unexpected token from server");
    if (c->fd >= 0 && c->next_token.protection == SIGNED) /* guard 28a */
        return fail(c, results, NOT_ENCRYPTED);
    output = remctl_output(c->remctl);
    if (output == NULL)
        return fail_as_libremctl(c, results);
    if (c->fd >= 0 && c->next_token.protection == UNKNOWN)
        return fail(c, results, NOT_ENCRYPTED);
    results->type = (int) output->type;
    results->stream = output->stream;
    /* libremctl reads the octet as a char, which is signed on most machines. */
    results->status = output->status;
    if (results->status >= -128 && results->status < 0)
        results->status += 256; /* guard 33 */
    results->code = (unsigned int) output->error;
    /* Taken over, not copied: libremctl then frees NULL, which does nothing. */
    results->data = output->data;
    results->length = output->length;
    output->data = NULL; /* guard 9a */
    output->length = 0;
    if (output->type == REMCTL_OUT_STATUS || output->type == REMCTL_OUT_ERROR)
        c->idle = true;
    c->heard = shim_now();
    return SHIM_OK;
}

/* Have the descriptor reported as readable again when the next token begins:
 * users may watch it between calls. */
static void
after_token(shim_connection *c, int outcome)
{
    if ((outcome == SHIM_OK || outcome == SHIM_MORE) && c->fd >= 0)
        set_low_water_mark(c, TOKEN_HEADER);
}

/* Read one output token, if all of it is there, into type, stream, status,
 * code, data and length. */
static int
shim_output(shim_handle *h)
{
    struct results results = {0};
    struct view view;
    shim_connection *c = enter_open_connection(h);
    int outcome;

    if (c == NULL)
        return SHIM_CLOSED;
    begin_call(c);
    view.seen = 0;
    outcome = token_ready(c, &view);
    if (outcome == SHIM_OK)
        outcome = read_token(c, &results);
    after_token(c, outcome);
    return finish_call(h, c, outcome, &results);
}

/* Add octets to the output of a reply.  Under the mutex when memory moves, so that
 * a forked child never has a pointer to what has been freed. */
static bool
append(char **data, size_t *length, size_t *room, const char *octets, size_t n)
{
    if (*length + n > *room) {
        size_t larger = (*length + n) * 2;
        char *moved;

        pthread_mutex_lock(&jobs.mutex);
        moved = realloc(*data, larger);
        if (moved != NULL) {
            *data = moved;
            *room = larger;
        }
        pthread_mutex_unlock(&jobs.mutex);
        if (moved == NULL)
            return false;
    }
    if (n > 0)
        memcpy(*data + *length, octets, n);
    *length += n;
    return true;
}

/* Add a token to the reply.  OK: it is the last; MORE: it is not. */
static int
keep_token(shim_handle *h, const struct results *token)
{
    bool kept;

    if (token->type != REMCTL_OUT_OUTPUT)
        return SHIM_OK;
    if (token->stream == 1)
        kept = append(&h->out, &h->out_length, &h->out_room, token->data,
                      token->length);
    else
        kept = append(&h->err, &h->err_length, &h->err_room, token->data,
                      token->length);
    return kept ? SHIM_MORE : SHIM_NO_MEMORY;
}

/* Nothing more is read of this reply. */
static void
end_reply(shim_handle *h, int outcome)
{
    h->gathered_outcome = outcome;
    h->gathered = true;
}

/* Read the tokens that are there, but for no longer than until ``enough``.  The last
 * one of a reply, or an error, is put into ``results``. */
static int
gather_tokens(shim_handle *h, shim_connection *c, struct results *results,
              double enough)
{
    struct view view;
    int outcome;

    view.seen = 0;
    while ((outcome = token_ready(c, &view)) == SHIM_OK) {
        const size_t size = whole_token(&view);

        outcome = read_token(c, results);
        if (outcome == SHIM_OK)
            outcome = keep_token(h, results);
        if (outcome != SHIM_MORE)
            break;
        free(results->data);
        memset(results, 0, sizeof(*results));
        view.next += size; /* guard 74 */
        view.seen -= size;
        if (c->heard >= enough)
            break;
    }
    after_token(c, outcome);
    return outcome;
}

/* Wait until something can be read.  False if that was not by ``until``, or a
 * signal has come. */
static bool
wait_for_input(shim_connection *c, double until)
{
    double left = until - shim_now();

    return left > 0 && shim_poll(c->fd, POLLIN, (int) (left * 1000) + 1);
}

/* How long a call may read what a server goes on sending, in seconds: one that must
 * not wait, and one that may.  A fork waits for it. */
#define SHORT_READING 0.001
#define LONG_READING  0.1

/* Read the reply to a command, as far as it comes within so many milliseconds; with
 * 0, as far as it is there.  OK: all of it, with the output in ``out`` and ``err``
 * and the last token as from shim_output().  WAIT: no more has come, or a signal
 * has.  MORE: the server goes on sending, and the caller has other things to look
 * after.  The outcome of the last call for a reply, a failure too, is returned again
 * until the next command: an interrupt may have kept the caller from noting it.
 *
 * The wait is not inside libremctl, so a fork does not wait for it. */
static int
shim_gather(shim_handle *h, int milliseconds)
{
    struct results results = {0};
    const double reading = (milliseconds > 0) ? LONG_READING : SHORT_READING;
    const double until = shim_now() + milliseconds / 1e3;
    double enough = 0;
    shim_connection *c;
    int outcome;

    if (h->gathered)
        return h->gathered_outcome;
    c = enter_open_connection(h);
    if (c == NULL)
        return SHIM_CLOSED;
    do {
        if (milliseconds > 0 && c->fd >= 0 && !wait_for_input(c, until)) {
            outcome = SHIM_WAIT;
            break;
        }
        if (enough == 0)
            enough = shim_now() + reading;
        begin_call(c);
        outcome = gather_tokens(h, c, &results, enough);
        end_call(c);
    } while (outcome == SHIM_WAIT && milliseconds > 0 && shim_now() < enough);
    if (outcome == SHIM_OK || outcome == SHIM_FAILED || outcome == SHIM_NO_MEMORY) {
        store_results(h, &results);
        end_reply(h, outcome);
    }
    return leave_connection(h, c) ? outcome : SHIM_CLOSED;
}

/* Add the token that a job has read to the reply: OK or MORE, as from
 * shim_gather(). */
static int
shim_keep(shim_handle *h)
{
    const struct results token = {
        .type = h->type, .stream = h->stream, .data = h->data, .length = h->length};
    int outcome;

    if (!enter_handle(h))
        return SHIM_CLOSED;
    outcome = keep_token(h, &token);
    if (outcome != SHIM_MORE)
        end_reply(h, outcome);
    return leave_handle(h) ? outcome : SHIM_CLOSED;
}

/* Forget the reply, of which the caller has copies or wants none. */
static void
shim_forget(shim_handle *h)
{
    if (!enter_handle(h))
        return;
    free_output(h);
    leave_handle(h);
}

/* Read ``length`` octets, or fewer if no more will come. */
static size_t
receive(shim_connection *c, unsigned char *octets, size_t length)
{
    size_t received = 0;

    while (received < length) {
        ssize_t n = recv(c->fd, octets + received, length - received, 0);

        if (n <= 0)
            break;
        received += (size_t) n;
        atomic_fetch_add(&c->received, (unsigned long) n);
    }
    return received;
}

static int
read_from_memory(shim_connection *c, struct results *results,
                 const unsigned char *token, size_t length)
{
    int file = open_above_standard(open_memory_file);
    int outcome = SHIM_OK;

    if (file < 0)
        return fail(c, results, strerror(errno));
    errno = EFBIG; /* for a short write, which does not set it */
    if (pwrite(file, token, length, 0) != (ssize_t) length
        || lseek(file, 0, SEEK_SET) != 0
        || !replace_descriptor(c->library_fd, file))
        outcome = fail(c, results, strerror(errno));
    close(file);
    if (outcome == SHIM_OK)
        outcome = read_token(c, results);
    /* Not after a failure: libremctl may have closed its descriptor. */
    if (outcome == SHIM_OK && !replace_descriptor(c->library_fd, c->fd))
        outcome = fail(c, results, strerror(errno));
    return outcome;
}

/* Read a token of which not all is there yet, into memory, from where
 * libremctl then reads it.  We must see the head to tell whether it is
 * encrypted, and the kernel may have no room for that much until something
 * is read. */
static int
read_slow_token(shim_connection *c, struct results *results)
{
    unsigned char header[TOKEN_HEADER], *token;
    size_t received, length = 0;
    int outcome;

    received = receive(c, header, TOKEN_HEADER);
    if (received == TOKEN_HEADER && token_length(header) <= TOKEN_MAX_LENGTH)
        length = token_length(header);
    token = malloc(TOKEN_HEADER + length);
    if (token == NULL)
        return SHIM_NO_MEMORY;
    memcpy(token, header, received);
    received += receive(c, token + received, length);
    inspect_head(c, token, received);
    outcome = read_from_memory(c, results, token, received);
    free(token);
    return outcome;
}

static int
read_output(struct work *work)
{
    shim_connection *c = work->connection;
    struct signal_guard guard;
    int outcome;

    set_nonblocking(c, 0);
    block_signals(&guard);
    if (c->fd >= 0) {
        set_low_water_mark(c, 1);
        outcome = read_slow_token(c, &work->results);
    } else
        outcome = read_token(c, &work->results);
    restore_signals(&guard);
    after_token(c, outcome);
    return outcome;
}

/* Begin to read a token for which shim_output() or shim_gather() returned
 * BLOCKS. */
static int
shim_begin_output(shim_handle *h)
{
    return begin_connection_work(h, new_work(run_work, read_output));
}


/* Send NOOP and return the type of the next message: the answer, or what old
 * servers send instead, which only libremctl's error text tells.  Either is
 * one token, so the connection stays in step.  Returns 0 on failure. */
static int
exchange_noop(shim_connection *c, struct results *results)
{
    const char *text;

    if (remctl_noop(c->remctl))
        return MESSAGE_NOOP;
    text = remctl_error(c->remctl);
    if (strcmp(text, "unexpected message type 5 from server") == 0)
        return MESSAGE_ERROR;
    if (strcmp(text, "unexpected message type 6 from server") == 0)
        return MESSAGE_VERSION;
    fail_as_libremctl(c, results);
    return 0;
}

/* After so many NOOPs that were all answered by errors, the server is one
 * that refuses NOOP.  Some of the errors may be left of the last reply: a
 * stock remctld that cannot start a process sends one for each summary that
 * "help" asks for. */
#define MAX_NOOPS 16 /* guard 64b */

static int
ask_for_noop(struct work *work)
{
    shim_connection *c = work->connection;
    struct results *results = &work->results;
    struct signal_guard guard;
    int answer, sent = 0, outcome = check_quiet(c, results);

    if (outcome != SHIM_OK)
        return outcome;
    set_low_water_mark(c, 1);
    set_nonblocking(c, 0);
    c->idle = false;
    block_signals(&guard);
    do {
        answer = exchange_noop(c, results);
        sent++;
    } while (answer == MESSAGE_ERROR && c->noop == UNTRIED
             && sent < MAX_NOOPS);
    restore_signals(&guard);
    if (answer == 0)
        return SHIM_FAILED;
    if ((answer != MESSAGE_ERROR && sent > 1)
        || (answer != MESSAGE_NOOP && c->noop == ANSWERED))
        return fail(c, results,
                    "the server has answered the last command again");
    c->noop = (answer == MESSAGE_NOOP) ? ANSWERED : REFUSED;
    c->idle = true;
    return (answer == MESSAGE_NOOP) ? SHIM_OK : SHIM_UNSUPPORTED;
}

/* Begin to send NOOP and read the answer.  UNSUPPORTED: the server is too old
 * for NOOP, and the connection can still be used.
 *
 * Servers answer in order, so the answer also proves that nothing is left of
 * the last reply.  An error token may be left of that reply, or may be an
 * old server's answer to NOOP.  Sending more NOOPs tells which: after
 * leftovers, another answer comes at last. */
static int
shim_begin_noop(shim_handle *h)
{
    return begin_connection_work(h, new_work(run_work, ask_for_noop));
}


/* Return the seconds since the server last sent something, or a token was last read;
 * -1 if the connection is closed.  As poll() does not wake up below the low-water
 * mark, only TCP_INFO tells a slow token from a stalled one. */
static double
shim_silence(shim_handle *h)
{
    double silence = -1;
    shim_connection *c = enter_connection(h);

    if (c == NULL)
        return silence;
    silence = shim_now() - c->heard;
#if SHIM_LINUX
    {
        struct tcp_info info;
        double of_tcp;

        if (c->fd >= 0 && get_tcp_info(c, &info)) {
            of_tcp = info.tcpi_last_data_recv / 1000.0;
            silence = of_tcp < silence ? of_tcp : silence;
        }
    }
#endif
    leave_connection(h, c);
    return silence;
}

/* Return a number that changes whenever the server has acknowledged or sent
 * something, which tells a slow transfer from a stalled one.  Elsewhere than
 * on Linux, only while a job reads output. */
static unsigned long long
shim_progress(shim_handle *h)
{
    unsigned long long progress = 0;
    shim_connection *c = enter_connection(h);

    if (c != NULL) {
#if SHIM_LINUX
        struct tcp_info info;

        if (c->fd >= 0 && get_tcp_info(c, &info))
            progress = info.tcpi_bytes_acked + info.tcpi_bytes_received;
#else
        progress = atomic_load(&c->received);
#endif
        leave_connection(h, c);
    }
    return progress;
}
