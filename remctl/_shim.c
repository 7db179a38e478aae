/* SPDX-License-Identifier: MIT
 *
 * The C side of a connection: what must happen in one call without the GIL,
 * or cannot be said from Python.
 *
 * A shim_connection owns all that C has of one connection: the struct remctl,
 * the host and principal strings that libremctl keeps pointers to, the two
 * descriptors, and the text and data that the last call left.  The memory of
 * the struct itself is Python's, and stays as long as anybody there can name
 * it; shim_free() frees what it owns, and shim_close() ends the connection
 * before that.
 *
 * Only one thread at a time may call shim_open*, shim_command, shim_output
 * and shim_noop on a connection (Remctl's lock sees to that).  Any thread may
 * call the others at any time: shim_close() shuts the connection down at once,
 * and whoever leaves it last frees it.  Whatever calls into libremctl, or
 * changes what a connection owns, does so between begin_call() and end_call().
 */

#ifndef _GNU_SOURCE
#    define _GNU_SOURCE /* memfd_create() */
#endif

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
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
#ifdef __linux__
#    include <linux/sockios.h> /* SIOCOUTQ */
#    include <linux/tcp.h>     /* the whole struct tcp_info */
#    define TCP_STATE_CLOSE 7  /* in a header that this one excludes */
#else
#    include <netinet/tcp.h>
#endif

#include <remctl.h>

#ifndef POLLRDHUP
#    define POLLRDHUP 0
#endif

/* From the protocol specification, 2.1 and 3: a token on the wire is one octet
 * of flags, four of length, then the payload. */
#define TOKEN_HEADER     5
#define TOKEN_MAX_LENGTH (1024 * 1024)
#define TOKEN_SEND_MIC   0x20
#define TOKEN_PROTOCOL   0x40

/* What GSS-API and the token header add to a token, generously. */
#define TOKEN_OVERHEAD 256
#define TOKEN_MAX_DATA (64 * 1024)

/* What each token of a command has before the number of arguments, or some
 * part of what follows that. */
#define COMMAND_HEADER 4

/* The types of two messages that may come in place of the answer to a NOOP. */
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
    SHIM_FAILED,      /* error says why; the connection is finished */
    SHIM_OK,          /* done */
    SHIM_WAIT,        /* call again when the descriptor is readable */
    SHIM_BLOCKS,      /* this may block: call again so, in a helper thread */
    SHIM_CLOSED,      /* closed, or opened by another process */
    SHIM_UNSUPPORTED, /* the server speaks another protocol than this needs */
    SHIM_NO_MEMORY
};

typedef struct shim_connection {
    /* The results of the last call: for the one thread that makes calls. */
    int type; /* enum remctl_output_type */
    int stream;
    int status;
    unsigned int code;
    char *data;
    size_t length;
    char *error;
    int many_tokens; /* whether the last command was sent in several */

    /* The state of the connection: for that thread, and whoever ends it. */
    bool handed_over; /* library_fd is libremctl's */
    bool idle;        /* no reply outstanding and nothing failed */
    bool does_noop;   /* the server has answered a NOOP */
    int mark;         /* SO_RCVLOWAT as we set it last */
    struct token_head next_token;

    /* What it owns, until take_belongings().  The descriptor is read by any
     * thread, which must count as a user as long as it uses the number. */
    struct remctl *remctl;
    char *host;      /* libremctl keeps pointers to these two */
    char *principal; /* for as long as it lives */
    atomic_int fd;   /* ours; -1 where libremctl connects for itself */
    int library_fd;  /* the duplicate that libremctl owns once opened */

    /* Set once, before any other thread sees the connection. */
    pid_t pid; /* the process that may use it ... */
    unsigned int generation;
    dev_t device; /* ... and the socket, by which a descriptor is known */
    ino_t inode;

    /* Who is here: for all threads. */
    atomic_int users; /* one for being open, one for each call inside */
    atomic_bool closing;
    atomic_int inside;     /* calls between step_in() and step_out() */
    atomic_bool finalized; /* the last to leave frees all that is left */
    atomic_bool results_freed;

    struct shim_connection *previous, *next; /* of CALLS, under its mutex */
} shim_connection;


/* exit() tears libkrb5 down under threads that are still inside.  So our
 * destructor, which comes before libkrb5's, ends their calls, and no thread
 * comes in, or back to an interpreter that is gone, any more. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t forked;
    shim_connection *first;
    bool exiting;
    int forks; /* under way */
} calls = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, false, 0};

/* How many forks lie between the process that loaded us and this one.  A child
 * in a PID namespace of its own may have its parent's process id. */
static unsigned int generation;

/* How long a call may hold up the exit: one that is waiting for the KDC cannot
 * be ended, and does no harm asleep. */
#define LONGEST_EXIT_MS 200

static void
park(void)
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
        park();
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
        park();
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
end_calls(void)
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
    for (i = 0; i < LONGEST_EXIT_MS && calls_left(); i++)
        nanosleep(&millisecond, NULL);
}

/* A forked child inherits the locks of libkrb5, and for ever those that threads
 * which it does not have were holding.  So a fork keeps calls out and waits for
 * those inside, for a while: who waits for the network holds no such lock. */
#define LONGEST_FORK_MS 200

static void
before_fork(void)
{
    const struct timespec millisecond = {0, 1000000};
    int i;

    pthread_mutex_lock(&calls.mutex);
    calls.forks++;
    for (i = 0; i < LONGEST_FORK_MS && calls.first != NULL; i++) {
        pthread_mutex_unlock(&calls.mutex);
        nanosleep(&millisecond, NULL);
        pthread_mutex_lock(&calls.mutex);
    }
}

static void
after_fork_in_parent(void)
{
    calls.forks--;
    pthread_cond_broadcast(&calls.forked);
    pthread_mutex_unlock(&calls.mutex);
}

static void
after_fork_in_child(void)
{
    const pthread_cond_t none_waiting = PTHREAD_COND_INITIALIZER;

    generation++;
    calls.first = NULL;
    calls.forks = 0;
    calls.forked = none_waiting;
    pthread_mutex_unlock(&calls.mutex);
}

__attribute__((constructor)) static void
watch_forks(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}


/* A number that a forked child does not share with its parent. */
static unsigned long long
shim_process(void)
{
    return (unsigned long long) generation << 32 | (unsigned int) getpid();
}

static bool
belongs_to_this_process(const shim_connection *c)
{
    return c->generation == generation && c->pid == getpid();
}


/* Keep every signal away from this thread while libremctl writes or blocks:
 * it gives up a write after ten interruptions and a read after a hundred,
 * and its writes raise SIGPIPE, which kills programs that set SIG_DFL. */
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
hold_signals(struct signal_guard *guard)
{
    sigset_t all;

    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGSEGV);
    pthread_sigmask(SIG_SETMASK, &all, &guard->previous);
    guard->sigpipe_was_pending = sigpipe_pending();
}

static void
release_signals(const struct signal_guard *guard)
{
    if (!guard->sigpipe_was_pending && sigpipe_pending()) {
        sigset_t sigpipe;

        sigemptyset(&sigpipe);
        sigaddset(&sigpipe, SIGPIPE);
#ifdef __APPLE__
        int taken;

        sigwait(&sigpipe, &taken);
#else
        const struct timespec now = {0, 0};

        sigtimedwait(&sigpipe, NULL, &now);
#endif
    }
    pthread_sigmask(SIG_SETMASK, &guard->previous, NULL);
}


/* The connection's text and data are copies or taken over, never pointers
 * into the struct remctl, which another thread's shim_close() may free. */
static int
fail(shim_connection *c, const char *text)
{
    free(c->error);
    c->error = strdup(text);
    c->idle = false;
    return c->error == NULL ? SHIM_NO_MEMORY : SHIM_FAILED;
}

static int
fail_as_libremctl(shim_connection *c)
{
    return fail(c, remctl_error(c->remctl));
}

static void
drop_data(shim_connection *c)
{
    free(c->data);
    c->data = NULL;
    c->length = 0;
}


/* Whether LENGTH octets more can be written without blocking.  Half of the
 * buffer, since the kernel counts its own overhead as well. */
static bool
fits_send_buffer(int fd, size_t length)
{
#ifdef SIOCOUTQ
    int queued, size;
    socklen_t size_length = sizeof(size);

    if (ioctl(fd, SIOCOUTQ, &queued) < 0)
        return false;
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &size_length) < 0)
        return false;
    return (size_t) queued + length <= (size_t) size / 2;
#else
    (void) fd;
    (void) length;
    return false;
#endif
}


/* What outlives the connection, for the caller to read. */
static void
free_results(shim_connection *c)
{
    if (atomic_exchange(&c->results_freed, true))
        return;
    begin_call(c);
    drop_data(c);
    free(c->error);
    c->error = NULL;
    end_call(c);
}

/* What one thread takes out of a connection, to free it. */
struct belongings {
    struct remctl *remctl;
    char *host;
    char *principal;
    int fd;
    int library_fd;
};

/* Take all at once, under the mutex that a fork and our destructor hold: none
 * of them meets half of it, and no two threads the same. */
static struct belongings
take_belongings(shim_connection *c)
{
    struct belongings taken;

    pthread_mutex_lock(&calls.mutex);
    taken.remctl = c->remctl;
    taken.host = c->host;
    taken.principal = c->principal;
    taken.fd = atomic_load(&c->fd);
    taken.library_fd = c->library_fd;
    c->remctl = NULL;
    c->host = c->principal = NULL;
    atomic_store(&c->fd, -1);
    c->library_fd = -1;
    pthread_mutex_unlock(&calls.mutex);
    return taken;
}

/* Whether FD is still the connection's.  A program that turns into a daemon
 * closes all descriptors, and their numbers become those of its files. */
static bool
is_our_socket(const shim_connection *c, int fd)
{
    struct stat found;

    return fd >= 0 && fstat(fd, &found) == 0 && found.st_dev == c->device
           && found.st_ino == c->inode;
}

/* Let go of a connection without a word to the server.  The struct remctl is
 * leaked on purpose: remctl_close() would shut the socket down, or whatever has
 * its number now. */
static void
let_go(const shim_connection *c, const struct belongings *taken)
{
    free(taken->host);
    free(taken->principal);
    if (is_our_socket(c, taken->library_fd))
        close(taken->library_fd);
    if (is_our_socket(c, taken->fd))
        close(taken->fd);
}

/* In a forked child, by any number of its threads. */
static void
forget_connection(shim_connection *c)
{
    struct belongings taken = take_belongings(c);

    let_go(c, &taken);
}

/* Free what the connection holds of libremctl and of the kernel.  Called when
 * nobody is inside any more.  remctl_close() says QUIT: politely where that
 * cannot block, else into a socket that is shut down already. */
static void
end_connection(shim_connection *c)
{
    struct signal_guard guard;
    struct belongings taken;

    if (!belongs_to_this_process(c)) {
        forget_connection(c);
        return;
    }
    begin_call(c);
    taken = take_belongings(c);
    if (taken.fd >= 0 && !is_our_socket(c, taken.fd)) {
        let_go(c, &taken);
        end_call(c);
        return;
    }
    if (taken.fd >= 0
        && !(c->idle && fits_send_buffer(taken.fd, TOKEN_OVERHEAD)))
        shutdown(taken.fd, SHUT_RDWR);
    hold_signals(&guard);
    remctl_close(taken.remctl);
    release_signals(&guard);
    free(taken.host);
    free(taken.principal);
    if (!c->handed_over && taken.library_fd >= 0)
        close(taken.library_fd);
    if (taken.fd >= 0)
        close(taken.fd);
    end_call(c);
}


/* Keep the connection from being freed until shim_release().  Fails when it
 * is closed.  Python holds a connection while it polls the descriptor, so
 * that the number cannot become somebody else's meanwhile. */
static int
shim_hold(shim_connection *c)
{
    int users = atomic_load(&c->users);

    if (!belongs_to_this_process(c))
        return 0;
    do {
        if (users <= 0)
            return 0;
    } while (!atomic_compare_exchange_weak(&c->users, &users, users + 1));
    return 1;
}

/* Undo shim_hold(); the last one out ends a closed connection. */
static void
shim_release(shim_connection *c)
{
    if (atomic_fetch_sub(&c->users, 1) == 1)
        end_connection(c);
}

/* Count as inside no more.  The last one frees what a finalized connection has
 * left: users may be left over, as interrupts make Python forget to release.
 * Returns false then. */
static bool
step_away(shim_connection *c)
{
    if (atomic_fetch_sub(&c->inside, 1) != 1 || !atomic_load(&c->finalized))
        return true;
    if (atomic_exchange(&c->users, 0) > 0)
        end_connection(c);
    free_results(c);
    return false;
}

/* Count as inside.  shim_free() leaves the connection to those. */
static bool
step_in(shim_connection *c)
{
    atomic_fetch_add(&c->inside, 1);
    if (shim_hold(c))
        return true;
    step_away(c);
    return false;
}

/* Undo step_in(), and return OUTCOME if its results are still there. */
static int
step_out(shim_connection *c, int outcome)
{
    shim_release(c);
    return step_away(c) ? outcome : SHIM_CLOSED;
}

/* Enter a call. */
static bool
enter(shim_connection *c)
{
    if (!step_in(c))
        return false;
    if (atomic_load(&c->closing)) {
        step_out(c, SHIM_CLOSED);
        return false;
    }
    begin_call(c);
    return true;
}

/* Leave a call, and return its OUTCOME if its results are still there. */
static int
leave(shim_connection *c, int outcome)
{
    end_call(c);
    return step_out(c, outcome);
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

/* The standard descriptors may be closed, as a daemon's are.  A connection must
 * not take their places: a C library's first message would break it. */
#define FIRST_DESCRIPTOR 3

static int
duplicate(int fd, bool *failed)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR);

    if (copy < 0)
        *failed = true;
    return copy;
}

/* Make a connection out of a connected socket, which stays the caller's: the
 * connection has two duplicates of it, one for libremctl.  A SOCKET of -1 is
 * for protocol 1.  C is all zero, and has its finalizer, so that no interrupt
 * can come between.  Returns 0, with errno set, when out of memory or
 * descriptors, or with an error when CCACHE cannot be used. */
static int
shim_init(shim_connection *c, int socket, const char *host,
          const char *principal, const char *ccache, const char *source)
{
    struct stat found;
    bool failed = false;

    atomic_init(&c->fd, -1);
    c->library_fd = -1;
    c->mark = 1;
    c->generation = generation;
    c->pid = getpid();
    atomic_init(&c->users, 1);
    atomic_init(&c->closing, false);
    errno = ENOMEM;
    begin_call(c);
    c->host = copy_or_null(host, &failed);
    c->principal = copy_or_null(principal, &failed);
    c->remctl = remctl_new();
    if (c->remctl == NULL)
        failed = true;
    if (!failed && ccache != NULL && !remctl_set_ccache(c->remctl, ccache)) {
        fail_as_libremctl(c);
        failed = true;
    }
    if (!failed && source != NULL)
        failed = !remctl_set_source_ip(c->remctl, source);
    if (!failed && socket >= 0) {
        atomic_store(&c->fd, duplicate(socket, &failed));
        c->library_fd = duplicate(socket, &failed);
        if (!failed && fstat(c->fd, &found) < 0)
            failed = true;
    }
    if (!failed && socket >= 0) {
        c->device = found.st_dev;
        c->inode = found.st_ino;
    }
    end_call(c);
    return !failed;
}

/* End the connection, from any thread, without blocking.  Whoever is inside
 * finds the socket shut down, and frees it on the way out. */
static void
shim_close(shim_connection *c)
{
    if (!belongs_to_this_process(c)) {
        forget_connection(c);
        return;
    }
    atomic_fetch_add(&c->inside, 1);
    if (!atomic_exchange(&c->closing, true)) {
        if (atomic_load(&c->users) > 1 && c->fd >= 0)
            shutdown(c->fd, SHUT_RDWR);
        shim_release(c);
    }
    step_away(c);
}

/* The finalizer.  Takes no lock of Python's, never blocks, runs no Python.  In
 * a garbage collection the finalizers of other objects may use the connection
 * after this, and threads that these started may be inside. */
static void
shim_free(shim_connection *c)
{
    if (c->pid == 0)
        return; /* an interrupt has kept shim_init() from being called */
    if (!belongs_to_this_process(c)) {
        forget_connection(c);
        free_results(c);
        return;
    }
    atomic_fetch_add(&c->inside, 1);
    atomic_store(&c->finalized, true);
    shim_close(c);
    step_away(c);
}

/* Return our descriptor's number, -1 where there is none. */
static int
shim_fileno(shim_connection *c)
{
    return atomic_load(&c->fd);
}

/* Called, with 0, before any call that may block: event loops, libuv's for one,
 * make what they watch non-blocking, and libremctl takes that for end of file. */
static void
set_nonblocking(shim_connection *c, int on)
{
    if (c->fd >= 0)
        ioctl(c->fd, FIONBIO, &on);
}

/* Whether the server chose protocol 1, which libremctl does not tell.  Before
 * the first command remctl_output() returns DONE without I/O in protocol 2
 * and later, but reads in protocol 1: on a non-blocking socket it gives up at
 * once.  (That spoils the connection, of no use in protocol 1 anyway.) */
static bool
speaks_protocol1(shim_connection *c)
{
    struct remctl_output *output;

    set_nonblocking(c, 1);
    output = remctl_output(c->remctl);
    set_nonblocking(c, 0);
    return output == NULL || output->type != REMCTL_OUT_DONE;
}

/* Authenticate over our socket.  Blocks, in the KDC and the name service too:
 * for a helper thread.  UNSUPPORTED: the server speaks protocol 1. */
static int
shim_open(shim_connection *c)
{
    struct signal_guard guard;
    int outcome;

    if (!enter(c))
        return SHIM_CLOSED;
    set_nonblocking(c, 0);
    hold_signals(&guard);
    c->handed_over = true;
    if (!remctl_open_fd(c->remctl, c->host, c->library_fd, c->principal))
        outcome = fail_as_libremctl(c);
    else if (speaks_protocol1(c))
        outcome = SHIM_UNSUPPORTED;
    else {
        c->idle = true;
        outcome = SHIM_OK;
    }
    release_signals(&guard);
    return leave(c, outcome);
}

#ifdef __linux__
static bool
get_tcp_info(shim_connection *c, struct tcp_info *info)
{
    socklen_t length = sizeof(*info);

    memset(info, 0, sizeof(*info));
    return getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, info, &length) == 0;
}
#endif

/* Whether the connection was reset before the server sent an octet, as by one
 * that had no room for it in its queue.  False where the platform cannot
 * tell. */
static int
shim_was_reset(shim_connection *c)
{
    int reset = 0;

#ifdef __linux__
    if (step_in(c)) {
        struct tcp_info info;

        reset = c->fd >= 0 && get_tcp_info(c, &info)
                && info.tcpi_state == TCP_STATE_CLOSE
                && info.tcpi_bytes_received == 0;
        step_out(c, SHIM_OK);
    }
#else
    (void) c;
#endif
    return reset;
}

/* libremctl's own socket must not take a standard descriptor's place, either:
 * these are /dev/null where they are closed, while it makes one. */
static void
take_standard_descriptors(int taken[FIRST_DESCRIPTOR])
{
    int i, fd;

    for (i = 0; i < FIRST_DESCRIPTOR; i++)
        taken[i] = -1;
    for (i = 0; i < FIRST_DESCRIPTOR; i++) {
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (fd >= FIRST_DESCRIPTOR)
            close(fd);
        if (fd < 0 || fd >= FIRST_DESCRIPTOR)
            return;
        taken[i] = fd;
    }
}

static void
leave_standard_descriptors(const int taken[FIRST_DESCRIPTOR])
{
    int i;

    for (i = 0; i < FIRST_DESCRIPTOR; i++)
        if (taken[i] >= 0)
            close(taken[i]);
}

/* Connect and authenticate to a protocol 1 server, for one command: only
 * after remctl_open() does libremctl give its exit status.  Its socket is out
 * of our reach, so that TIMEOUT seconds (0 for none) end a call whose caller
 * has gone, where no descriptor can be too large for libremctl's select().
 * Blocks: for a helper thread.  UNSUPPORTED: it speaks protocol 1 no more. */
static int
shim_open_protocol1(shim_connection *c, unsigned short port, time_t timeout)
{
    struct signal_guard guard;
    struct rlimit limit;
    int taken[FIRST_DESCRIPTOR];
    int outcome;

    if (!enter(c))
        return SHIM_CLOSED;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur <= FD_SETSIZE)
        remctl_set_timeout(c->remctl, timeout);
    take_standard_descriptors(taken);
    hold_signals(&guard);
    if (!remctl_open(c->remctl, c->host, port, c->principal))
        outcome = fail_as_libremctl(c);
    else if (remctl_noop(c->remctl)
             || strcmp(remctl_error(c->remctl), "NOOP message not supported"))
        outcome = SHIM_UNSUPPORTED;
    else
        outcome = SHIM_OK;
    release_signals(&guard);
    leave_standard_descriptors(taken);
    return leave(c, outcome);
}


/* Tell the kernel when to call the socket readable. */
static void
set_mark(shim_connection *c, int mark)
{
    if (c->mark != mark
        && setsockopt(c->fd, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof(mark))
               == 0)
        c->mark = mark;
}

/* Have the next segment acknowledged at once: the server sends a reply in two
 * small writes, and its Nagle algorithm waits for the acknowledgement. */
static void
quick_ack(shim_connection *c)
{
#ifdef TCP_QUICKACK
    int on = 1;

    setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
#else
    (void) c;
#endif
}

/* Before a wait for a token, or the rest of one: until OCTETS are there. */
static void
expect_token(shim_connection *c, int octets)
{
    set_mark(c, octets);
    quick_ack(c);
}


/* Nothing may have come from the server between a reply and the next
 * command: it would be taken for the next reply. */
static int
check_quiet(shim_connection *c)
{
    char octet;
    ssize_t n = recv(c->fd, &octet, 1, MSG_PEEK | MSG_DONTWAIT);

    if (n > 0)
        return fail(c, "unexpected token from server");
    if (n == 0)
        return fail(c, "error sending token: unexpected end of file");
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
        return SHIM_OK;
    return fail(c, errno == ECONNRESET
                       ? "error sending token: unexpected end of file"
                       : strerror(errno));
}

/* Send a command of COUNT arguments: DATA and LENGTHS have one entry for each.
 * BLOCKS, with nothing sent, unless it fits the send buffer or MAY_BLOCK. */
static int
shim_command(shim_connection *c, char *const *data, const size_t *lengths,
             size_t count, int may_block)
{
    struct signal_guard guard;
    struct iovec *vector;
    size_t i, size = 4, size_on_wire;
    int outcome = SHIM_OK;

    for (i = 0; i < count; i++)
        size += 4 + lengths[i];
    size_on_wire = size + (size / TOKEN_MAX_DATA + 1) * TOKEN_OVERHEAD;
    if (!enter(c))
        return SHIM_CLOSED;
    if (c->fd >= 0)
        outcome = check_quiet(c);
    if (outcome == SHIM_OK && !may_block
        && (c->fd < 0 || !fits_send_buffer(c->fd, size_on_wire)))
        outcome = SHIM_BLOCKS;
    if (outcome != SHIM_OK) {
        return leave(c, outcome);
    }
    vector = calloc(count, sizeof(*vector));
    if (vector == NULL) {
        return leave(c, SHIM_NO_MEMORY);
    }
    for (i = 0; i < count; i++) {
        vector[i].iov_base = data[i];
        vector[i].iov_len = lengths[i];
    }
    c->idle = false;
    c->many_tokens = size > TOKEN_MAX_DATA - COMMAND_HEADER;
    set_nonblocking(c, 0);
    hold_signals(&guard);
    if (!remctl_commandv(c->remctl, vector, count))
        outcome = fail_as_libremctl(c);
    else if (c->fd >= 0)
        expect_token(c, TOKEN_HEADER);
    release_signals(&guard);
    free(vector);
    return leave(c, outcome);
}


/* Whether a token is encrypted, as far as it can be told from its beginning: by
 * the flags of an RFC 4121 token, or the seal algorithm of an older one (RFC
 * 1964, RFC 4757), which comes after a DER length and the mechanism. */
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
    return (token[i + 4] == 0xff && token[i + 5] == 0xff) ? SIGNED : SEALED;
}

/* Keep what the first N octets of a token tell of it. */
static void
look_at_head(shim_connection *c, const unsigned char *head, ssize_t n)
{
    c->next_token.flags = (n > 0) ? head[0] : 0;
    c->next_token.protection =
        (n > TOKEN_HEADER)
            ? protection_of(head + TOKEN_HEADER, (size_t) n - TOKEN_HEADER)
            : UNKNOWN;
}

static uint32_t
token_length(const unsigned char *header)
{
    uint32_t length;

    memcpy(&length, header + 1, sizeof(length));
    return ntohl(length);
}

/* How many octets must be there before a read cannot block: 0 if enough are,
 * or if there will be no more and libremctl shall find out. */
static int
octets_wanted(shim_connection *c)
{
    unsigned char head[1024];
    uint32_t length;
    int available;
    ssize_t n = recv(c->fd, head, sizeof(head), MSG_PEEK | MSG_DONTWAIT);

    look_at_head(c, head, n);
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    if (n == 0)
        return 0;
    if (n < TOKEN_HEADER)
        return TOKEN_HEADER;
    length = token_length(head);
    if (length > TOKEN_MAX_LENGTH || n >= TOKEN_HEADER + (ssize_t) length)
        return 0;
    if (ioctl(c->fd, FIONREAD, &available) == 0
        && available >= TOKEN_HEADER + (int) length)
        return 0;
    return TOKEN_HEADER + (int) length;
}

/* OK if the next token can be read without blocking, WAIT if more must come,
 * BLOCKS if only reading can bring more: the kernel reports the socket
 * readable below the mark when its receive memory is full. */
static int
token_ready(shim_connection *c)
{
    struct pollfd readable = {.fd = c->fd, .events = POLLIN | POLLRDHUP};
    int wanted, wanted_before = 0;

    if (c->fd < 0)
        return SHIM_BLOCKS;
    while ((wanted = octets_wanted(c)) != 0) {
        if (wanted == wanted_before)
            return SHIM_BLOCKS;
        wanted_before = wanted;
        expect_token(c, wanted);
        if (poll(&readable, 1, 0) <= 0)
            return SHIM_WAIT;
        if (readable.revents & ~POLLIN) {
            octets_wanted(c); /* more may have come, and no more will */
            return SHIM_OK;
        }
    }
    return SHIM_OK;
}

/* A server can make libremctl answer a token with a MIC, as in protocol 1: a
 * write that may block.  No such token is due after a protocol 2 handshake. */
static bool
demands_mic(struct token_head token)
{
    return (token.flags & TOKEN_SEND_MIC) && !(token.flags & TOKEN_PROTOCOL);
}

#define NOT_ENCRYPTED "the server has sent a token that is not encrypted"

/* Read the token whose head we have seen.  libremctl does not tell whether it was
 * encrypted; one that we cannot tell it of is for libremctl to refuse. */
static int
read_token(shim_connection *c)
{
    struct remctl_output *output;

    if (c->fd >= 0 && demands_mic(c->next_token))
        return fail(c, "unexpected token from server");
    if (c->fd >= 0 && c->next_token.protection == SIGNED)
        return fail(c, NOT_ENCRYPTED);
    output = remctl_output(c->remctl);
    if (output == NULL)
        return fail_as_libremctl(c);
    if (c->fd >= 0 && c->next_token.protection == UNKNOWN)
        return fail(c, NOT_ENCRYPTED);
    c->type = (int) output->type;
    c->stream = output->stream;
    /* libremctl reads the octet through a char, signed on most machines. */
    c->status = output->status;
    if (c->status >= -128 && c->status < 0)
        c->status += 256;
    c->code = (unsigned int) output->error;
    /* Taken over instead of copied: libremctl frees NULL happily. */
    c->data = output->data;
    c->length = output->length;
    output->data = NULL;
    output->length = 0;
    if (output->type == REMCTL_OUT_STATUS || output->type == REMCTL_OUT_ERROR)
        c->idle = true;
    return SHIM_OK;
}

static int
open_memory_file(void)
{
#ifdef __linux__
    return memfd_create("remctl", MFD_CLOEXEC);
#else
    FILE *file = tmpfile();
    int fd;

    if (file == NULL)
        return -1;
    fd = fcntl(fileno(file), F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR);
    fclose(file);
    return fd;
#endif
}

/* Read until LENGTH octets have come, or no more will. */
static size_t
receive(int fd, unsigned char *octets, size_t length)
{
    size_t received = 0;

    while (received < length) {
        ssize_t n = recv(fd, octets + received, length - received, MSG_WAITALL);

        if (n <= 0)
            break;
        received += (size_t) n;
    }
    return received;
}

/* Make FD, which stays the caller's, what libremctl reads from. */
static bool
connect_library(const shim_connection *c, int fd)
{
    return dup2(fd, c->library_fd) >= 0
           && fcntl(c->library_fd, F_SETFD, FD_CLOEXEC) == 0;
}

static int
read_from_memory(shim_connection *c, const unsigned char *token, size_t length)
{
    int file = open_memory_file();
    int outcome = SHIM_OK;

    if (file < 0)
        return fail(c, strerror(errno));
    if (write(file, token, length) != (ssize_t) length
        || lseek(file, 0, SEEK_SET) != 0 || !connect_library(c, file))
        outcome = fail(c, strerror(errno));
    close(file);
    if (outcome == SHIM_OK)
        outcome = read_token(c);
    /* After a failure libremctl may have closed its descriptor. */
    if (outcome == SHIM_OK && !connect_library(c, c->fd))
        outcome = fail(c, strerror(errno));
    return outcome;
}

/* Read a token of which not all is there.  We read it first, and libremctl from
 * memory: the kernel may have no room for more, were we to wait for enough to see
 * whether it is encrypted. */
static int
read_slow_token(shim_connection *c)
{
    unsigned char header[TOKEN_HEADER], *token;
    size_t received, length = 0;
    int outcome;

    received = receive(c->fd, header, TOKEN_HEADER);
    if (received == TOKEN_HEADER && token_length(header) <= TOKEN_MAX_LENGTH)
        length = token_length(header);
    token = malloc(TOKEN_HEADER + length);
    if (token == NULL)
        return SHIM_NO_MEMORY;
    memcpy(token, header, received);
    received += receive(c->fd, token + received, length);
    look_at_head(c, token, (ssize_t) received);
    outcome = read_from_memory(c, token, received);
    free(token);
    return outcome;
}

/* Read one output token into type, stream, status, code, data and length.
 * Unless MAY_BLOCK, only if it is there as a whole. */
static int
shim_output(shim_connection *c, int may_block)
{
    struct signal_guard guard;
    int outcome;

    if (!enter(c))
        return SHIM_CLOSED;
    drop_data(c);
    if (may_block) {
        set_nonblocking(c, 0);
        hold_signals(&guard);
        if (c->fd >= 0) {
            set_mark(c, 1);
            outcome = read_slow_token(c);
        } else
            outcome = read_token(c);
        release_signals(&guard);
    } else {
        outcome = token_ready(c);
        if (outcome == SHIM_OK)
            outcome = read_token(c);
    }
    /* For those who watch the descriptor, before they ask for the next one. */
    if (outcome == SHIM_OK && c->fd >= 0)
        set_mark(c, TOKEN_HEADER);
    return leave(c, outcome);
}


/* Send NOOP, and return the type of the message that comes next: the answer, or
 * what old servers have in its place.  Each is one token, so that the connection
 * is in step.  0 for a failure.  Only libremctl's text tells. */
static int
exchange_noop(shim_connection *c)
{
    const char *text;

    if (remctl_noop(c->remctl))
        return MESSAGE_NOOP;
    text = remctl_error(c->remctl);
    if (strcmp(text, "unexpected message type 5 from server") == 0)
        return MESSAGE_ERROR;
    if (strcmp(text, "unexpected message type 6 from server") == 0)
        return MESSAGE_VERSION;
    fail_as_libremctl(c);
    return 0;
}

/* Send NOOP and read the answer.  Blocks: for a helper thread.  UNSUPPORTED:
 * the server is too old, and the connection as good as before.
 *
 * Servers answer in order, so that this also proves that there is nothing left
 * of the last reply.  An error token may be left of it, or may be an old server's
 * answer to NOOP.  Asking again tells: what was left shifts the answers by one. */
static int
shim_noop(shim_connection *c)
{
    struct signal_guard guard;
    int outcome, answer;

    if (!enter(c))
        return SHIM_CLOSED;
    outcome = check_quiet(c);
    if (outcome != SHIM_OK)
        return leave(c, outcome);
    set_mark(c, 1);
    set_nonblocking(c, 0);
    c->idle = false;
    hold_signals(&guard);
    answer = exchange_noop(c);
    if (answer == MESSAGE_ERROR) {
        answer = c->does_noop ? MESSAGE_NOOP : exchange_noop(c);
        if (answer == MESSAGE_ERROR)
            outcome = SHIM_UNSUPPORTED;
        else if (answer != 0)
            outcome = fail(c, "the server has answered the last command again");
    } else if (answer == MESSAGE_VERSION)
        outcome = SHIM_UNSUPPORTED;
    else if (answer == MESSAGE_NOOP)
        c->does_noop = true;
    if (answer == 0)
        outcome = SHIM_FAILED;
    release_signals(&guard);
    if (outcome == SHIM_OK || outcome == SHIM_UNSUPPORTED)
        c->idle = true;
    return leave(c, outcome);
}


/* Seconds since the server last sent something, or -1 where the platform
 * cannot tell.  poll() does not wake up below the mark, so this tells a slow
 * token from a stalled one. */
static double
shim_silence(shim_connection *c)
{
    double silence = -1;

#ifdef __linux__
    if (step_in(c)) {
        struct tcp_info info;

        if (c->fd >= 0 && get_tcp_info(c, &info))
            silence = info.tcpi_last_data_recv / 1000.0;
        step_out(c, SHIM_OK);
    }
#else
    (void) c;
#endif
    return silence;
}

/* A number that changes whenever the server has acknowledged or sent
 * something, or 0 for ever where the platform cannot tell.  It tells a slow
 * transfer from a stalled one. */
static unsigned long long
shim_progress(shim_connection *c)
{
    unsigned long long progress = 0;

#ifdef __linux__
    if (step_in(c)) {
        struct tcp_info info;

        if (c->fd >= 0 && get_tcp_info(c, &info))
            progress = info.tcpi_bytes_acked + info.tcpi_bytes_received;
        step_out(c, SHIM_OK);
    }
#else
    (void) c;
#endif
    return progress;
}
