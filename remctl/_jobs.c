/* SPDX-License-Identifier: MIT
 *
 * Jobs: what may block inside of a C library, run by threads of our own.
 *
 * The threads know nothing of Python: they have no reference to an object, never
 * take the GIL, and have all signals blocked.  When a job has ended, its descriptor
 * becomes readable, so that waiting for it is like waiting for a socket.
 *
 * A job is counted memory with two users, its caller and its thread.  The caller may
 * leave at any time; the job goes on to its end then, and whoever leaves last frees
 * it.
 */

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
#ifdef __linux__
#    include <sys/eventfd.h>
#endif

/* Descriptors 0 to 2 may be closed, as a daemon's are.  Nothing of ours takes their
 * places: the first message of a C library would go there. */
#define FIRST_DESCRIPTOR 3 /* guard 63a */

/* A handshake with MIT Kerberos, its KDC's part included, was seen to touch 24 KiB of
 * stack (x86-64).  Plugins of libkrb5 and of the name service may need more. */
#define STACK_SIZE (512 * 1024)

/* How many jobs run at a time; others wait until one ends.  A thread that waits for a
 * server or a KDC was seen to cost 35 KiB, so that this is a bound on 140 MiB.  It is
 * far above what servers that stall can take from a program with time-outs. */
#define MOST_THREADS 4096

/* How long a thread without a job stays, in seconds. */
#define PARKED_FOR 5

struct job {
    void (*run)(struct job *); /* in the thread; NULL if nothing is to be run */
    void (*free)(struct job *);
    pthread_t caller;
    atomic_int users;
    atomic_bool ended;

    /* Under the mutex of JOBS. */
    int readable; /* a descriptor, -1 when the caller has left */
    int writable; /* the same one, if it is an eventfd */
    struct stat readable_file, writable_file;
    struct job *next;              /* in the queue */
    struct job *older, *younger;   /* of those whose caller is waiting */
};

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t queued;
    struct job *first, *last; /* of the queue */
    int waiting;              /* in the queue */
    int threads;
    int parked; /* threads without a job */
    struct job *youngest;
} jobs = {.mutex = PTHREAD_MUTEX_INITIALIZER, .queued = PTHREAD_COND_INITIALIZER};


/* Return what OPEN_ONE makes, where no standard descriptor belongs, or -1.  Others are
 * in those places meanwhile: a message that comes must not land in it. */
static int
open_above_standard(int (*open_one)(void))
{
    int low[FIRST_DESCRIPTOR];
    int fd, count = 0;

    while ((fd = open_one()) >= 0 && fd < FIRST_DESCRIPTOR)
        low[count++] = fd;
    while (count > 0)
        close(low[--count]);
    return fd;
}

/* Whether FD still is what it was.  A program that closes all descriptors has its
 * files in their places: nothing is to be written there, nor closed. */
static bool
is_still(int fd, const struct stat *file)
{
    struct stat found;

    return fstat(fd, &found) == 0 && found.st_dev == file->st_dev
           && found.st_ino == file->st_ino;
}

#ifdef __linux__
static int
make_eventfd(void)
{
    return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}
#else
static int
above_standard(int fd)
{
    int copy;

    if (fd >= FIRST_DESCRIPTOR)
        return fd;
    copy = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR);
    close(fd);
    return copy;
}
#endif

static bool
make_descriptors(struct job *job)
{
#ifdef __linux__
    job->readable = open_above_standard(make_eventfd);
    job->writable = job->readable;
    return job->readable >= 0;
#else
    int ends[2];

    if (pipe(ends) < 0)
        return false;
    job->readable = above_standard(ends[0]);
    job->writable = above_standard(ends[1]);
    if (job->readable < 0 || job->writable < 0) {
        close(job->readable);
        close(job->writable);
        return false;
    }
    fcntl(job->readable, F_SETFD, FD_CLOEXEC);
    fcntl(job->writable, F_SETFD, FD_CLOEXEC);
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

/* Under the mutex. */
static void
close_descriptors(struct job *job)
{
    if (job->readable < 0)
        return;
    if (is_still(job->readable, &job->readable_file))
        close(job->readable);
    if (job->writable != job->readable
        && is_still(job->writable, &job->writable_file))
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
leave_job(struct job *job)
{
    if (atomic_fetch_sub(&job->users, 1) == 1) /* guard 66 */
        job->free(job);
}

/* For the thread: whether the caller has left. */
static bool
is_abandoned(struct job *job)
{
    return atomic_load(&job->users) < 2;
}

/* Under the mutex: wake up who waits for JOB, as it has ended or the wait shall. */
static void
wake_caller(struct job *job)
{
    const uint64_t one = 1;
    ssize_t written = 0;

    if (job->writable >= 0 && is_still(job->writable, &job->writable_file))
        written = write(job->writable, &one, sizeof(one));
    (void) written; /* one that is full is readable as well */
}

/* Under the mutex. */
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

/* Under the mutex: wait for a job, for a while. */
static bool
park_thread(void)
{
    struct timespec until;
    int error = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PARKED_FOR;
    jobs.parked++;
    while (jobs.first == NULL && error == 0)
        error = pthread_cond_timedwait(&jobs.queued, &jobs.mutex, &until);
    jobs.parked--;
    return jobs.first != NULL;
}

static void *
run_jobs(void *nothing)
{
    pthread_mutex_lock(&jobs.mutex);
    while (jobs.first != NULL || park_thread()) {
        struct job *job = take_job();

        pthread_mutex_unlock(&jobs.mutex);
        job->run(job);
        pthread_mutex_lock(&jobs.mutex);
        atomic_store(&job->ended, true);
        wake_caller(job);
        pthread_mutex_unlock(&jobs.mutex);
        leave_job(job);
        pthread_mutex_lock(&jobs.mutex);
    }
    jobs.threads--;
    pthread_mutex_unlock(&jobs.mutex);
    return nothing;
}

/* Under the mutex.  Returns 0 or an errno. */
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

/* Under the mutex: leave JOB to a thread.  Returns 0 or an errno. */
static int
queue_job(struct job *job)
{
    int error = 0;

    if (jobs.waiting >= jobs.parked && jobs.threads < MOST_THREADS)
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

/* Begin JOB, whose run, free and nothing else is set.  Returns 0, or an errno when
 * there is no descriptor or no thread to be had; the job is freed then. */
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

/* For the caller: wait no more for JOB. */
static void
abandon_job(struct job *job)
{
    pthread_mutex_lock(&jobs.mutex);
    close_descriptors(job);
    pthread_mutex_unlock(&jobs.mutex);
    leave_job(job);
}


/* Around a fork: the mutex is held, so that nothing is half done.  A child has none
 * of the threads.  It forgets the jobs: their callers, if it has them, leave them, and
 * what the threads were using stays as it is. */

static void
hold_jobs(void)
{
    pthread_mutex_lock(&jobs.mutex);
}

static void
release_jobs(void)
{
    pthread_mutex_unlock(&jobs.mutex);
}

/* The thread that forks is in the child as well, with its greenlets: what waits there
 * for the parent's descriptor wakes up, as it becomes the end of a pipe. */
static void
forget_job(struct job *job)
{
    int ends[2];

    if (!pthread_equal(job->caller, pthread_self())
        || !is_still(job->readable, &job->readable_file) || pipe(ends) < 0) {
        close_descriptors(job);
        return;
    }
    if (job->writable != job->readable
        && is_still(job->writable, &job->writable_file))
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
    jobs.waiting = jobs.threads = jobs.parked = 0; /* guard 67b */
    pthread_mutex_unlock(&jobs.mutex);
}
