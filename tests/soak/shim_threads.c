/* SPDX-License-Identifier: MIT
 *
 * Threads and forks that use connections at once, for sanitizers to watch.
 *
 *     shim_threads PORT PRINCIPAL ROUNDS
 *
 * tests/soak/shim_threads.py builds and runs this, with a server that has the
 * commands of tests/helpers/commands on 127.0.0.1.  The threads keep to what the
 * shim's own comments, and Remctl's lock, promise.  What they cannot leave to
 * a sanitizer they see for themselves, and exit with 1: a descriptor that is
 * not the shim's and was closed or shut down, a child that dies, and a parent
 * whose connection its child has disturbed.
 *
 * With PLANT_A_RACE there is a data race that must be reported.
 */

#include "../../remctl/_shim.c"

#include <arpa/inet.h>
#include <stdio.h>
#include <sys/wait.h>

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* How long a round, and a child, may take before it is a deadlock. */
#define LONGEST_ROUND_S 60

static unsigned short port;
static const char *principal;
static atomic_int complaints;

static void
complain(const char *what)
{
    fprintf(stderr, "shim_threads: %s\n", what);
    atomic_fetch_add(&complaints, 1);
}

static void
require(bool condition, const char *what)
{
    if (!condition) {
        perror(what);
        exit(2);
    }
}

/* Up to MICROSECONDS; where threads meet is to differ from round to round. */
static void
pause_for_up_to(long microseconds)
{
    static atomic_uint seed;
    unsigned int own = atomic_fetch_add(&seed, 1);
    const struct timespec pause = {
        0, (rand_r(&own) % (microseconds + 1)) * 1000L};

    nanosleep(&pause, NULL);
}


/* What Python does when it makes a connection over SOCKET, and when nobody has
 * its handle any more. */
static shim_handle *
create(int socket)
{
    shim_handle *h = calloc(1, sizeof(*h));

    require(h != NULL, "calloc");
    require(shim_init(h, socket, "localhost", principal, NULL, NULL),
            "shim_init");
    return h;
}

static void
finalize(shim_handle *h)
{
    shim_free(h);
}

static void
destroy(shim_handle *h)
{
    free(h);
}

/* A connection to the server, without the handshake. */
static shim_handle *
connect_to_server(void)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    shim_handle *h;

    require(fd >= 0, "socket");
    require(connect(fd, (struct sockaddr *) &address, sizeof(address)) == 0,
            "connect");
    h = create(fd);
    close(fd);
    return h;
}

/* One that nobody is at the other end of, which takes no time to make. */
static shim_handle *
connect_to_nobody(void)
{
    int pair[2];
    shim_handle *h;

    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0,
            "socketpair");
    h = create(pair[0]);
    close(pair[0]);
    close(pair[1]);
    return h;
}


/* Wait for the next token as Python does. */
static void
wait_for_token(shim_handle *h)
{
    if (shim_hold(h)) {
        struct pollfd readable = {.fd = shim_fileno(h), .events = POLLIN};

        poll(&readable, 1, 1000);
        shim_release(h);
    }
}

/* Wait for the job that has BEGUN, as Python does. */
static int
wait_for_job(shim_handle *h, int begun)
{
    int outcome;

    if (begun != SHIM_OK)
        return begun;
    do
        outcome = shim_finish(h, 1000);
    while (outcome == SHIM_WAIT || outcome == SHIM_MORE);
    return outcome;
}

/* Wait for it, or leave every now and then, as a caller that is interrupted, who
 * closes the connection. */
static atomic_bool interruptible;

static int
finish(shim_handle *h, int begun)
{
    static atomic_uint turn;

    if (begun != SHIM_OK || !atomic_load(&interruptible)
        || atomic_fetch_add(&turn, 1) % 50 != 0)
        return wait_for_job(h, begun);
    shim_abandon(h);
    shim_close(h);
    return SHIM_FAILED;
}

/* Open a connection: over its socket, or, without one, by a job that makes it. */
static int
open_connection(shim_handle *h)
{
    const unsigned short ports[2] = {port, 0};
    int outcome;

    if (shim_fileno(h) >= 0)
        return finish(h, shim_begin_open(h));
    outcome = finish(h, shim_begin_connect(h, ports, 1, "no answer", NULL, AF_UNSPEC,
                                           true));
    while (outcome == SHIM_BLOCKS)
        outcome = finish(h, shim_begin_connect_on(h));
    return outcome;
}

static int
send_words(shim_handle *h, const char *name)
{
    const uint32_t lengths[] = {4, (uint32_t) strlen(name)};
    char octets[64];
    int outcome;

    snprintf(octets, sizeof(octets), "test%s", name);
    outcome = shim_command(h, octets, lengths, 2);
    return outcome == SHIM_BLOCKS
               ? finish(h, shim_begin_command(h, octets, lengths, 2))
               : outcome;
}

static int
read_token_or_wait(shim_handle *h, bool may_block)
{
    int outcome;

    if (may_block)
        return finish(h, shim_begin_output(h));
    while ((outcome = shim_output(h)) == SHIM_WAIT)
        wait_for_token(h);
    return outcome == SHIM_BLOCKS ? finish(h, shim_begin_output(h)) : outcome;
}

static int
gather_reply(shim_handle *h)
{
    int outcome;

    do {
        outcome = shim_gather(h, 5);
        if (outcome == SHIM_BLOCKS) {
            outcome = finish(h, shim_begin_output(h));
            if (outcome == SHIM_OK)
                outcome = shim_keep(h);
        }
    } while (outcome == SHIM_WAIT || outcome == SHIM_MORE);
    return outcome;
}

/* Run a command, whose reply has two tokens, and exchange NOOPs.  Returns the
 * outcome of the first call that is not OK.  FINALIZED: shim_free() may come
 * meanwhile, and whoever wants the results, or to hold the connection, would
 * have kept it from coming. */
static int
run_command(shim_handle *h, bool finalized)
{
    static atomic_uint turn;
    volatile unsigned long long sum = 0;
    bool may_block = finalized || atomic_fetch_add(&turn, 1) % 2;
    bool gathers = atomic_fetch_add(&turn, 1) % 3 == 0;
    int outcome = send_words(h, "hello");
    int tokens;
    size_t i;

    sum += shim_silence(h) < 0;
    if (outcome == SHIM_OK && gathers) {
        outcome = gather_reply(h);
        for (i = 0; outcome == SHIM_OK && !finalized && i < h->out_length; i++)
            sum += (unsigned char) h->out[i];
        shim_forget(h);
    }
    for (tokens = 0; tokens < 2 && outcome == SHIM_OK && !gathers; tokens++) {
        outcome = read_token_or_wait(h, may_block);
        if (outcome == SHIM_OK && !finalized) {
            sum += (unsigned int) h->type;
            for (i = 0; i < h->length; i++)
                sum += (unsigned char) h->data[i];
        }
    }
    if (outcome == SHIM_OK)
        outcome = finish(h, shim_begin_noop(h));
    if (outcome == SHIM_FAILED && !finalized && h->error != NULL)
        sum += strlen(h->error);
    return outcome;
}


/* What the threads of a round share. */
struct round {
    shim_handle *h;
    pthread_mutex_t lock; /* Remctl's: one call at a time */
    pthread_barrier_t start;
    bool opened;    /* under the lock */
    bool finalized; /* by shim_free(), while it is in use */
    atomic_bool over;
    atomic_bool planted; /* the race */
    atomic_size_t ending; /* threads in begin_and_end() */
};

static void *
make_calls(void *argument)
{
    struct round *round = argument;
    int outcome;

    pthread_barrier_wait(&round->start);
    do {
        pthread_mutex_lock(&round->lock);
        if (!round->opened) {
            outcome = open_connection(round->h);
            round->opened = true;
        } else
            outcome = run_command(round->h, round->finalized);
        pthread_mutex_unlock(&round->lock);
    } while (outcome == SHIM_OK);
    return NULL;
}

/* What any thread may do at any time. */
static void *
look_on(void *argument)
{
    struct round *round = argument;
    shim_handle *h = round->h;
    volatile unsigned long long sum = 0;
#ifdef PLANT_A_RACE
    bool planter = !atomic_exchange(&round->planted, true);
    int i;
#endif

    pthread_barrier_wait(&round->start);
    while (!atomic_load(&round->over)) {
        sum += shim_fileno(h) < 0;
        shim_wake(h);
        sum += shim_progress(h);
        sum += shim_was_reset(h);
#ifdef PLANT_A_RACE
        /* One of them: it is the shim's functions that it must race with. */
        for (i = 0; i < 1000 && planter; i++)
            *(volatile int *) &h->stream = i;
#endif
        sched_yield();
    }
    return NULL;
}

/* Somebody whose descriptors get the numbers that the shim has closed. */
static void
check_descriptors(void)
{
    int pair[2];
    char octet = 'x';

    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0,
            "socketpair");
    pause_for_up_to(200);
    if (send(pair[0], &octet, 1, MSG_NOSIGNAL) != 1
        || recv(pair[1], &octet, 1, MSG_DONTWAIT) != 1
        || send(pair[1], &octet, 1, MSG_NOSIGNAL) != 1
        || recv(pair[0], &octet, 1, MSG_DONTWAIT) != 1)
        complain("a stranger's descriptor was shut down");
    if (close(pair[0]) < 0 || close(pair[1]) < 0)
        complain("a stranger's descriptor was closed");
}

static void *
be_a_stranger(void *argument)
{
    struct round *round = argument;

    pthread_barrier_wait(&round->start);
    while (!atomic_load(&round->over))
        check_descriptors();
    return NULL;
}

static void *
close_at_some_time(void *argument)
{
    struct round *round = argument;

    pthread_barrier_wait(&round->start);
    pause_for_up_to(20000);
    shim_close(round->h);
    shim_close(round->h);
    return NULL;
}

/* Calls, onlookers and shim_close() at once; and shim_free(), at some time, or
 * when all is over. */
static void
use_and_end(bool finalized)
{
    void *(*const functions[])(void *) = {
        make_calls, make_calls,    close_at_some_time, close_at_some_time,
        look_on,    be_a_stranger, look_on};
    const size_t ending = 4; /* the first of those that go on until then */
    static atomic_uint turn;
    const bool by_job = atomic_fetch_add(&turn, 1) / 2 % 2;
    pthread_t threads[LENGTH(functions)];
    struct round round = {.h = by_job ? create(-1) : connect_to_server(),
                          .lock = PTHREAD_MUTEX_INITIALIZER,
                          .finalized = finalized};
    size_t i;

    alarm(LONGEST_ROUND_S);
    atomic_store(&interruptible, true);
    pthread_barrier_init(&round.start, NULL, LENGTH(functions) + 1);
    for (i = 0; i < LENGTH(functions); i++)
        pthread_create(&threads[i], NULL, functions[i], &round);
    pthread_barrier_wait(&round.start);
    if (finalized) {
        pause_for_up_to(20000);
        finalize(round.h);
    }
    for (i = 0; i < ending; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&round.over, true);
    for (; i < LENGTH(functions); i++)
        pthread_join(threads[i], NULL);
    if (!finalized)
        finalize(round.h);
    destroy(round.h);
    pthread_barrier_destroy(&round.start);
    atomic_store(&interruptible, false);
}


/* Returns true in the child. */
static bool
fork_child(pid_t *child)
{
    *child = fork();
    require(*child >= 0, "fork");
    if (*child > 0)
        return false;
    alarm(LONGEST_ROUND_S);
    atomic_store(&complaints, 0); /* its parent's */
    return true;
}

static void
wait_for_child(pid_t child, const char *complaint)
{
    int status;

    require(waitpid(child, &status, 0) == child, "waitpid");
    if (status != 0) {
        fprintf(stderr, "shim_threads: status %#x\n", (unsigned int) status);
        complain(complaint);
    }
}

static void *
let_go_of_inherited(void *argument)
{
    struct round *round = argument;

    pthread_barrier_wait(&round->start);
    shim_close(round->h);
    if (shim_hold(round->h))
        complain("a child can hold its parent's connection");
    if (send_words(round->h, "hello") != SHIM_CLOSED)
        complain("a child can use its parent's connection");
    check_descriptors();
    shim_close(round->h);
    return NULL;
}

/* Several threads of a forked child.  (The parent has one thread only: of a fork
 * among several, the thread sanitizer cannot follow the child's.) */
static void
let_go_in_child(void)
{
    pthread_t threads[4];
    struct round round = {.h = connect_to_server()};
    pid_t child;
    size_t i;

    alarm(LONGEST_ROUND_S);
    require(wait_for_job(round.h, shim_begin_open(round.h)) == SHIM_OK,
            "shim_begin_open");
    if (fork_child(&child)) {
        pthread_barrier_init(&round.start, NULL, LENGTH(threads));
        for (i = 0; i < LENGTH(threads); i++)
            pthread_create(&threads[i], NULL, let_go_of_inherited, &round);
        for (i = 0; i < LENGTH(threads); i++)
            pthread_join(threads[i], NULL);
        finalize(round.h);
        _exit(atomic_load(&complaints) > 0);
    }
    wait_for_child(child, "a child whose threads let go of a connection");
    if (run_command(round.h, false) != SHIM_OK)
        complain("a child has disturbed its parent's connection");
    finalize(round.h);
    destroy(round.h);
}


/* The connections that begin and end while their process forks. */
static shim_handle *_Atomic fleeting[4];

static void *
begin_and_end(void *argument)
{
    struct round *round = argument;
    size_t own = atomic_fetch_add(&round->ending, 1);
    shim_handle *h;

    pthread_barrier_wait(&round->start);
    while (!atomic_load(&round->over)) {
        h = connect_to_nobody();
        atomic_store(&fleeting[own], h);
        shim_close(h);
        atomic_store(&fleeting[own], NULL);
        finalize(h);
        destroy(h);
    }
    return NULL;
}

static void *
run_commands(void *argument)
{
    struct round *round = argument;

    pthread_barrier_wait(&round->start);
    while (!atomic_load(&round->over))
        if (run_command(round->h, false) != SHIM_OK) {
            complain("a child has disturbed its parent's connection");
            break;
        }
    return NULL;
}

/* A fork while connections end, and while others are in use. */
static void
fork_meanwhile(void)
{
    pthread_t ending[LENGTH(fleeting)], running;
    struct round round = {.h = connect_to_server()};
    shim_handle *h;
    pid_t child;
    size_t i, forks;

    alarm(LONGEST_ROUND_S);
    require(wait_for_job(round.h, shim_begin_open(round.h)) == SHIM_OK,
            "shim_begin_open");
    pthread_barrier_init(&round.start, NULL, LENGTH(ending) + 2);
    for (i = 0; i < LENGTH(ending); i++)
        pthread_create(&ending[i], NULL, begin_and_end, &round);
    pthread_create(&running, NULL, run_commands, &round);
    pthread_barrier_wait(&round.start);
    for (forks = 0; forks < 20; forks++) {
        pause_for_up_to(500);
        if (fork_child(&child)) {
            for (i = 0; i < LENGTH(fleeting); i++) {
                h = atomic_load(&fleeting[i]);
                if (h != NULL) {
                    shim_close(h);
                    finalize(h);
                }
            }
            shim_close(round.h);
            if (shim_hold(round.h))
                complain("a child can hold its parent's connection");
            check_descriptors();
            finalize(round.h);
            _exit(atomic_load(&complaints) > 0);
        }
        wait_for_child(child, "a child that was made while a connection ended");
    }
    atomic_store(&round.over, true);
    for (i = 0; i < LENGTH(ending); i++)
        pthread_join(ending[i], NULL);
    pthread_join(running, NULL);
    finalize(round.h);
    destroy(round.h);
    pthread_barrier_destroy(&round.start);
}


/* An exit of a process whose threads are inside. */
static void
exit_meanwhile(void)
{
    void *(*const functions[])(void *) = {make_calls, begin_and_end, look_on};
    struct round round = {.h = connect_to_server(),
                          .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[LENGTH(functions)];
    pid_t child;
    size_t i;

    alarm(LONGEST_ROUND_S);
    if (fork_child(&child)) {
        finalize(round.h);
        round.h = connect_to_server();
        pthread_barrier_init(&round.start, NULL, LENGTH(functions) + 1);
        for (i = 0; i < LENGTH(functions); i++)
            pthread_create(&threads[i], NULL, functions[i], &round);
        pthread_barrier_wait(&round.start);
        pause_for_up_to(20000);
        exit(atomic_load(&complaints) > 0);
    }
    wait_for_child(child, "a child that exits while its threads are inside");
    finalize(round.h);
    destroy(round.h);
}


int
main(int argc, char **argv)
{
    int i, rounds;

    if (argc != 4) {
        fprintf(stderr, "usage: shim_threads PORT PRINCIPAL ROUNDS\n");
        return 2;
    }
    port = (unsigned short) atoi(argv[1]);
    principal = argv[2];
    rounds = atoi(argv[3]);
    for (i = 0; i < rounds; i++) {
        use_and_end(false);
        use_and_end(true);
        let_go_in_child();
        fork_meanwhile();
        exit_meanwhile();
    }
    return atomic_load(&complaints) > 0;
}
