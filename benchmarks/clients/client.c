/* SPDX-License-Identifier: MIT
 *
 * C programs over libremctl: CLIENT HOW MEASURE HOST PORT SIZE TURNS WARM, the rest as in
 * common.py.  HOW is "open", which is remctl_open() and what it brings; "own", the limit:
 * a socket of our own, with TCP_NODELAY, and TCP_QUICKACK before each wait; or "threads",
 * the limit for a client that can be interrupted: the same, but the calls that may block
 * for long, getaddrinfo() and remctl_open_fd(), are made in a thread each.
 */

#define _GNU_SOURCE
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <remctl.h>

#define SECONDS 1 /* that the commands of the measure "sleep" take */

struct connection {
    struct remctl *remctl;
    int fd; /* where the socket is our own */
};

static bool own, in_threads;
static const char *host, *port;
static size_t size, turns, warm;

static double *seconds, *cpu;
static size_t done;

__attribute__((noreturn, format(printf, 1, 2))) static void
fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static void *
allocate(size_t number, size_t length)
{
    void *memory = calloc(number, length);

    if (memory == NULL)
        fail("out of memory");
    return memory;
}


/* Times turns, and prints them. */

static double
read_clock(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (double) now.tv_sec + (double) now.tv_nsec / 1e9;
}

static void
start(void)
{
    cpu[done] = -read_clock(CLOCK_PROCESS_CPUTIME_ID);
    seconds[done] = -read_clock(CLOCK_MONOTONIC);
}

static void
stop(void)
{
    seconds[done] += read_clock(CLOCK_MONOTONIC);
    cpu[done] += read_clock(CLOCK_PROCESS_CPUTIME_ID);
    done++;
}

static int
compare(const void *left, const void *right)
{
    double a = *(const double *) left, b = *(const double *) right;

    return (a > b) - (a < b);
}

static void
report(size_t units)
{
    double median, sum = 0;
    size_t i;

    for (i = warm; i < done; i++)
        sum += cpu[i];
    qsort(seconds + warm, turns, sizeof(*seconds), compare);
    median = (seconds[warm + (turns - 1) / 2] + seconds[warm + turns / 2]) / 2;
    printf("seconds %.9f\n", median / (double) units);
    printf("cpu %.9f\n", sum / (double) turns / (double) units);
}

/* What the kernel knows of this process under NAME. */
static long
status(const char *name)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long value = -1;

    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            value = atol(line + strlen(name) + 1);
    if (file != NULL)
        fclose(file);
    return value;
}


/* The connection. */

static void *
look_up(void *found)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};

    if (getaddrinfo(host, port, &hints, found) != 0)
        fail("getaddrinfo");
    return NULL;
}

static void *
authenticate(void *connection)
{
    const struct connection *c = connection;

    if (!remctl_open_fd(c->remctl, host, c->fd, NULL))
        fail("%s", remctl_error(c->remctl));
    return NULL;
}

/* Make a call that may block for long, and wait for its end. */
static void
call(void *(*function)(void *), void *argument)
{
    pthread_t thread;

    if (!in_threads) {
        function(argument);
        return;
    }
    if (pthread_create(&thread, NULL, function, argument) != 0)
        fail("pthread_create");
    pthread_join(thread, NULL);
}

static struct connection
connect_to_server(void)
{
    struct addrinfo *found, *each;
    struct connection c = {remctl_new(), -1};
    int on = 1;

    if (!own) {
        if (!remctl_open(c.remctl, host, (unsigned short) atoi(port), NULL))
            fail("%s", remctl_error(c.remctl));
        return c;
    }
    call(look_up, &found);
    for (each = found; each != NULL; each = each->ai_next) {
        c.fd = socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC, 0);
        if (connect(c.fd, each->ai_addr, each->ai_addrlen) == 0)
            break;
        close(c.fd);
    }
    freeaddrinfo(found);
    if (each == NULL)
        fail("connect");
    setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    call(authenticate, &c);
    return c;
}

static void
send_command(struct connection c, size_t arguments, const struct iovec *command)
{
    if (!remctl_commandv(c.remctl, command, arguments))
        fail("%s", remctl_error(c.remctl));
}

static struct remctl_output *
read_output(struct connection c)
{
    struct remctl_output *output;
    int on = 1;

    if (own)
        setsockopt(c.fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
    output = remctl_output(c.remctl);
    if (output == NULL)
        fail("%s", remctl_error(c.remctl));
    if (output->type == REMCTL_OUT_ERROR)
        fail("%.*s", (int) output->length, output->data);
    return output;
}

/* Read a command's tokens; return their number, and that of their octets. */
static size_t
read_tokens(struct connection c, size_t *octets)
{
    struct remctl_output *output;
    size_t tokens = 0;

    *octets = 0;
    while ((output = read_output(c))->type == REMCTL_OUT_OUTPUT) {
        tokens++;
        *octets += output->length;
    }
    if (output->status != 0)
        fail("status %d", output->status);
    return tokens;
}

static struct iovec
text(const char *argument)
{
    return (struct iovec){(void *) argument, strlen(argument)};
}

static void
say_hello(struct connection c)
{
    const struct iovec command[] = {text("echo"), text("hello")};
    size_t octets;

    send_command(c, 2, command);
    read_tokens(c, &octets);
    if (octets != strlen("hello\n"))
        fail("%zu octets", octets);
}


/* The measures. */

static void
measure_command(void)
{
    struct connection c = connect_to_server();

    while (done < warm + turns) {
        start();
        say_hello(c);
        stop();
    }
    remctl_close(c.remctl);
    report(1);
}

static void
measure_connect(void)
{
    while (done < warm + turns) {
        struct connection c;

        start();
        c = connect_to_server();
        stop();
        remctl_close(c.remctl);
    }
    report(1);
}

static void
measure_one(void)
{
    while (done < warm + turns) {
        struct connection c;

        start();
        c = connect_to_server();
        say_hello(c);
        remctl_close(c.remctl);
        stop();
    }
    report(1);
}

static void *
exchange_noop(void *connection)
{
    const struct connection *c = connection;

    if (!remctl_noop(c->remctl))
        fail("%s", remctl_error(c->remctl));
    return NULL;
}

static void
measure_noop(void)
{
    struct connection c = connect_to_server();

    while (done < warm + turns) {
        start();
        call(exchange_noop, &c);
        stop();
    }
    remctl_close(c.remctl);
    report(1);
}

static void
measure_output(void)
{
    struct connection c = connect_to_server();
    struct iovec command[] = {text("head"), {NULL, 0}, text("/dev/zero")};
    char option[32];
    size_t octets;

    snprintf(option, sizeof(option), "-c%zu", size);
    command[1] = text(option);
    while (done < warm + turns) {
        start();
        send_command(c, 3, command);
        read_tokens(c, &octets);
        stop();
        if (octets != size)
            fail("%zu octets", octets);
    }
    remctl_close(c.remctl);
    report(1);
    printf("memory %ld\n", 1024 * status("VmHWM"));
}

static void
measure_tokens(void)
{
    struct connection c = connect_to_server();
    struct iovec command[] = {text("tokens"), {NULL, 0}};
    char number[32];
    size_t octets, tokens;

    snprintf(number, sizeof(number), "%zu", size);
    command[1] = text(number);
    while (done < warm + turns) {
        send_command(c, 2, command);
        read_output(c);
        start();
        tokens = read_tokens(c, &octets);
        stop();
        if (tokens != size - 1)
            fail("%zu tokens", tokens);
    }
    remctl_close(c.remctl);
    report(size);
}

static void
measure_send(void)
{
    struct connection c = connect_to_server();
    const struct iovec command[] = {
        text("wc"), text("-c"), {allocate(1, size), size}};
    char expected[32];
    int length = snprintf(expected, sizeof(expected), "%zu\n", size);
    size_t octets;

    while (done < warm + turns) {
        start();
        send_command(c, 3, command);
        read_tokens(c, &octets);
        stop();
        if (octets != (size_t) length)
            fail("%zu octets", octets);
    }
    remctl_close(c.remctl);
    report(1);
}

static void *
sleep_once(void *connection)
{
    const struct iovec command[] = {text("sleep"), text("1")};
    const struct connection *c = connection;
    size_t octets;

    send_command(*c, 2, command);
    read_tokens(*c, &octets);
    return NULL;
}

static void *
say_hellos(void *connection)
{
    const struct connection *c = connection;
    size_t i;

    for (i = 0; i < turns; i++)
        say_hello(*c);
    return NULL;
}

static struct connection *
connect_many(void)
{
    struct connection *all = allocate(size, sizeof(*all));
    size_t i;

    for (i = 0; i < size; i++)
        all[i] = connect_to_server();
    return all;
}

static pthread_t *
start_threads(struct connection *all, void *(*function)(void *) )
{
    pthread_t *threads = allocate(size, sizeof(*threads));
    size_t i;

    for (i = 0; i < size; i++)
        if (pthread_create(&threads[i], NULL, function, &all[i]) != 0)
            fail("pthread_create");
    return threads;
}

static void
join_threads(pthread_t *threads)
{
    size_t i;

    for (i = 0; i < size; i++)
        pthread_join(threads[i], NULL);
    free(threads);
}

static void
close_many(struct connection *all)
{
    size_t i;

    for (i = 0; i < size; i++)
        remctl_close(all[i].remctl);
    free(all);
}

static void
measure_sleep(void)
{
    const struct timespec half = {0, SECONDS * 500000000L};
    struct connection first = connect_to_server(), *all;
    pthread_t *threads;
    double begin;
    long before;

    say_hello(first); /* has memory for everything */
    before = status("VmRSS");
    all = connect_many();
    begin = read_clock(CLOCK_MONOTONIC);
    threads = start_threads(all, sleep_once);
    nanosleep(&half, NULL);
    printf("threads %ld\n", status("Threads"));
    printf("memory %ld\n", 1024 * (status("VmRSS") - before) / (long) size);
    join_threads(threads);
    printf("seconds %.9f\n", read_clock(CLOCK_MONOTONIC) - begin);
    close_many(all);
    remctl_close(first.remctl);
}

static void
measure_parallel(void)
{
    struct connection *all = connect_many();
    double total = (double) (size * turns);
    size_t i;

    for (i = 0; i < warm; i++)
        join_threads(start_threads(all, say_hellos));
    start();
    join_threads(start_threads(all, say_hellos));
    stop();
    printf("seconds %.9f\n", seconds[0] / total);
    printf("cpu %.9f\n", cpu[0] / total);
    close_many(all);
}

static const struct {
    const char *name;
    void (*function)(void);
} measures[] = {
    {"command", measure_command},   {"connect", measure_connect},
    {"one", measure_one},           {"noop", measure_noop},
    {"output", measure_output},     {"tokens", measure_tokens},
    {"send", measure_send},         {"sleep", measure_sleep},
    {"parallel", measure_parallel},
};

int
main(int argc, char **argv)
{
    size_t i;

    if (argc != 8)
        fail("HOW MEASURE HOST PORT SIZE TURNS WARM");
    in_threads = strcmp(argv[1], "threads") == 0;
    own = in_threads || strcmp(argv[1], "own") == 0;
    host = argv[3];
    port = argv[4];
    size = (size_t) atol(argv[5]);
    turns = (size_t) atol(argv[6]);
    warm = (size_t) atol(argv[7]);
    seconds = allocate(warm + turns, sizeof(*seconds));
    cpu = allocate(warm + turns, sizeof(*cpu));
    for (i = 0; i < sizeof(measures) / sizeof(measures[0]); i++)
        if (strcmp(argv[2], measures[i].name) == 0) {
            measures[i].function();
            return 0;
        }
    fail("unknown measure %s", argv[2]);
}
