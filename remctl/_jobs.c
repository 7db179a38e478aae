/* SPDX-License-Identifier: MIT
 *
 * Jobs: calls that may block inside a C library, run by threads of our own.
 *
 * The threads know nothing of Python: they hold no reference to an object, never
 * take the GIL, and have all signals blocked.  When a job has ended, its descriptor
 * becomes readable, so a caller waits for it as it waits for a socket.
 *
 * A job is reference-counted and has two users, its caller and its thread.  The
 * caller may give it up at any time; the job then still runs to its end, and the
 * last user to leave frees it.
 */

/* Whether to use what only Linux has.  With -DREMCTL_PORTABLE, Linux gets the code
 * of the other systems, so that the tests can run it. */
#if defined(__linux__) && !defined(REMCTL_PORTABLE)
#    define SHIM_LINUX 1
#else
#    define SHIM_LINUX 0
#endif

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if SHIM_LINUX
#    include <sys/eventfd.h>
#endif

/* Descriptors 0 to 2 may be closed, as in a daemon.  Ours never get these numbers:
 * what a C library prints to stderr would be written into them. */
#define FIRST_DESCRIPTOR 3 /* guard 63a */

/* A handshake with MIT Kerberos, including the exchange with the KDC, was seen to
 * touch 24 KiB of stack (x86-64).  Plugins of libkrb5 and of the name service may
 * need more. */
#define STACK_SIZE (512 * 1024)

/* How many jobs run at a time; further ones wait in the queue until one ends.  A
 * thread that waits for a server or a KDC was seen to cost 35 KiB, so all of
 * them cost 140 MiB at most.  Stalled servers tie up far fewer in a program that
 * has time-outs. */
#define MAX_THREADS 4096

/* How long a thread without a job waits for the next one before it ends. */
#define IDLE_SECONDS 5

struct job {
    void (*run)(struct job *); /* in the thread; NULL: needs no thread */
    void (*free)(struct job *);
    pthread_t caller;
    atomic_int users;
    atomic_bool ended;

    /* Protected by jobs.mutex. */
    int readable; /* a descriptor, -1 once the caller has left */
    int writable; /* for an eventfd the same descriptor */
    struct stat readable_file, writable_file;
    struct job *next;            /* in the queue */
    struct job *older, *younger; /* in the list of jobs that have a caller */
};

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t queued;
    struct job *first, *last; /* of the queue */
    int waiting;              /* jobs in the queue */
    int threads;
    int idle;             /* threads without a job */
    struct job *youngest; /* of the list of jobs that have a caller */
} jobs = {.mutex = PTHREAD_MUTEX_INITIALIZER, .queued = PTHREAD_COND_INITIALIZER};


/* Held while descriptors below FIRST_DESCRIPTOR are opened or closed: nobody is to
 * take one for the program's own that is about to be closed. */
static pthread_mutex_t standard_mutex = PTHREAD_MUTEX_INITIALIZER;

/* Return a descriptor from ``open_one`` that is above the standard ones, or -1.
 * Closed standard descriptors are filled with throw-away ones first, so that
 * the result never has such a number, not even for a moment: another thread may
 * print to it. */
static int
open_above_standard(int (*open_one)(void))
{
    int low[FIRST_DESCRIPTOR];
    int fd, count = 0;

    pthread_mutex_lock(&standard_mutex);
    while ((fd = open_one()) >= 0 && fd < FIRST_DESCRIPTOR)
        low[count++] = fd;
    while (count > 0)
        close(low[--count]);
    pthread_mutex_unlock(&standard_mutex);
    return fd;
}

/* Whether ``fd`` still is the file that it was.  After a program has closed all
 * descriptors, as daemons do, its own files may have got their numbers: these
 * must not be written to or closed. */
static bool
is_same_file(int fd, const struct stat *file)
{
    struct stat found;

    return fstat(fd, &found) == 0 && found.st_dev == file->st_dev
           && found.st_ino == file->st_ino;
}

#if SHIM_LINUX
static int
make_eventfd(void)
{
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}
#endif

/* Return ``fd``, or -1 for -1, with a number above the standard ones. */
static int
above_standard(int fd)
{
    int copy;

    if (fd < 0 || fd >= FIRST_DESCRIPTOR)
        return fd;
    copy = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR);
    close(fd);
    return copy;
}

static bool
make_descriptors(struct job *job)
{
#if SHIM_LINUX
    job->readable = open_above_standard(make_eventfd);
    job->writable = job->readable;
    return job->readable >= 0;
#else
    int ends[2];
    bool made;

    pthread_mutex_lock(&standard_mutex);
    made = pipe(ends) == 0;
    if (made) {
        job->readable = above_standard(ends[0]);
        job->writable = above_standard(ends[1]);
    }
    pthread_mutex_unlock(&standard_mutex);
    if (!made)
        return false;
    if (job->readable < 0 || job->writable < 0) {
        int reason = errno;

        close(job->readable);
        close(job->writable);
        errno = reason;
        return false;
    }
    fcntl(job->readable, F_SETFD, FD_CLOEXEC);
    fcntl(job->writable, F_SETFD, FD_CLOEXEC);
    fcntl(job->readable, F_SETFL, O_NONBLOCK);
    fcntl(job->writable, F_SETFL, O_NONBLOCK);
    return true;
#endif
}

static bool
open_descriptors(struct job *job)
{
    return make_descriptors(job) && fstat(job->readable, &job->readable_file) == 0
           && fstat(job->writable, &job->writable_file) == 0;
}

/* Called with the mutex held.  Also takes the job off the list. */
static void
close_descriptors(struct job *job)
{
    if (job->readable < 0)
        return;
    if (is_same_file(job->readable, &job->readable_file))
        close(job->readable);
    if (job->writable != job->readable
        && is_same_file(job->writable, &job->writable_file))
        close(job->writable);
    job->readable = job->writable = -1;
    if (job->older != NULL)
        job->older->younger = job->younger;
    if (job->younger != NULL)
        job->younger->older = job->older;
    else
        jobs.youngest = job->older;
}

static void
release_job(struct job *job)
{
    if (atomic_fetch_sub(&job->users, 1) == 1) /* guard 66 */
        job->free(job);
}

/* Called by the thread: whether the caller has left. */
static bool
is_abandoned(struct job *job)
{
    return atomic_load(&job->users) < 2;
}

/* Called with the mutex held: end the caller's wait for the job. */
static void
wake_caller(struct job *job)
{
    const uint64_t one = 1;
    ssize_t written = 0;

    if (job->writable >= 0 && is_same_file(job->writable, &job->writable_file))
        written = write(job->writable, &one, sizeof(one));
    (void) written; /* it fails if full, and then it is readable already */
}

/* Called with the mutex held: have the caller wait again. */
static void
forget_wakes(struct job *job)
{
    char octets[64];

    if (job->readable >= 0 && is_same_file(job->readable, &job->readable_file))
        while (read(job->readable, octets, sizeof(octets)) == (ssize_t) sizeof(octets))
            ;
}

/* Called with the mutex held, and a job in the queue. */
static struct job *
take_job(void)
{
    struct job *job = jobs.first;

    jobs.first = job->next;
    if (jobs.first == NULL)
        jobs.last = NULL;
    jobs.waiting--;
    return job;
}

/* Called with the mutex held: wait a while for a job; whether there is one. */
static bool
idle_until_job(void)
{
    struct timespec until;
    int error = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += IDLE_SECONDS;
    jobs.idle++;
    while (jobs.first == NULL && error == 0)
        error = pthread_cond_timedwait(&jobs.queued, &jobs.mutex, &until);
    jobs.idle--;
    return jobs.first != NULL;
}

static void *
run_jobs(void *nothing)
{
    pthread_mutex_lock(&jobs.mutex);
    while (jobs.first != NULL || idle_until_job()) {
        struct job *job = take_job();

        pthread_mutex_unlock(&jobs.mutex);
        job->run(job);
        pthread_mutex_lock(&jobs.mutex);
        atomic_store(&job->ended, true);
        /* As good as: the caller may be there with another job before this thread is. */
        jobs.idle++;
        wake_caller(job);
        pthread_mutex_unlock(&jobs.mutex);
        release_job(job);
        pthread_mutex_lock(&jobs.mutex);
        jobs.idle--;
    }
    jobs.threads--;
    pthread_mutex_unlock(&jobs.mutex);
    return nothing;
}

/* Called with the mutex held.  Returns 0 or an errno. */
static int
start_thread(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, previous;
    int error = pthread_attr_init(&attributes);

    if (error != 0)
        return error;
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    error = pthread_create(&thread, &attributes, run_jobs, NULL);
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    pthread_attr_destroy(&attributes);
    if (error == 0)
        jobs.threads++;
    return error;
}

/* Called with the mutex held: hand the job to a thread.  Returns 0 or an errno. */
static int
queue_job(struct job *job)
{
    int error = 0;

    if (jobs.waiting >= jobs.idle && jobs.threads < MAX_THREADS)
        error = start_thread(); /* guard 68 */
    if (error != 0)
        return error;
    atomic_store(&job->users, 2);
    job->next = NULL;
    if (jobs.last != NULL)
        jobs.last->next = job;
    else
        jobs.first = job;
    jobs.last = job;
    jobs.waiting++;
    pthread_cond_signal(&jobs.queued);
    return 0;
}

/* Begin a job of which only ``run`` and ``free`` are set.  Returns 0; or an
 * errno if no descriptor or no thread can be had, and then the job has been
 * freed. */
static int
begin_job(struct job *job)
{
    int error = 0;

    atomic_init(&job->ended, false);
    atomic_init(&job->users, 1);
    job->caller = pthread_self();
    if (!open_descriptors(job)) {
        error = errno;
        job->free(job);
        return error;
    }
    pthread_mutex_lock(&jobs.mutex);
    job->younger = NULL;
    job->older = jobs.youngest;
    if (job->older != NULL)
        job->older->younger = job;
    jobs.youngest = job;
    if (job->run != NULL)
        error = queue_job(job); /* guard 26, 41 */
    if (error != 0)
        close_descriptors(job);
    pthread_mutex_unlock(&jobs.mutex);
    if (error != 0)
        job->free(job);
    return error;
}

/* Called by the caller: give the job up. */
static void
abandon_job(struct job *job)
{
    pthread_mutex_lock(&jobs.mutex);
    close_descriptors(job);
    pthread_mutex_unlock(&jobs.mutex);
    release_job(job);
}


/* The mutexes are held across a fork, so that the child sees consistent lists.  The
 * child has none of the threads and forgets the jobs.  A caller that exists in
 * the child can still give its job up; what the parent's threads were using is
 * leaked there. */

static void
lock_jobs(void)
{
    pthread_mutex_lock(&jobs.mutex);
    pthread_mutex_lock(&standard_mutex);
}

static void
unlock_jobs(void)
{
    pthread_mutex_unlock(&standard_mutex);
    pthread_mutex_unlock(&jobs.mutex);
}

/* In the child.  The forking thread exists there as well, and so do its greenlets,
 * which may be waiting for the descriptor of a job.  It is replaced by the end of a
 * pipe whose other end is closed, which wakes them up. */
static void
forget_job(struct job *job)
{
    int ends[2];

    if (!pthread_equal(job->caller, pthread_self())
        || !is_same_file(job->readable, &job->readable_file) || pipe(ends) < 0) {
        close_descriptors(job);
        return;
    }
    if (job->writable != job->readable
        && is_same_file(job->writable, &job->writable_file))
        close(job->writable);
    dup2(ends[0], job->readable);
    fcntl(job->readable, F_SETFD, FD_CLOEXEC);
    close(ends[0]);
    close(ends[1]);
    fstat(job->readable, &job->readable_file);
    job->writable = job->readable;
    job->writable_file = job->readable_file;
}

static void
forget_jobs(void)
{
    const pthread_cond_t none_waiting = PTHREAD_COND_INITIALIZER;
    struct job *job, *older;

    for (job = jobs.youngest; job != NULL; job = older) {
        older = job->older;
        forget_job(job); /* guard 67a */
    }
    jobs.queued = none_waiting;
    jobs.first = jobs.last = NULL;
    jobs.waiting = jobs.threads = jobs.idle = 0; /* guard 67b */
    unlock_jobs();
}
