/* SPDX-License-Identifier: MIT
 *
 * From a server's name to a connected socket.  A part of _shim.c.
 *
 * One job looks up the name, connects, and authenticates: handing each over to a
 * thread would take longer than most of them take.  The job waits for an address only
 * a moment, so that many servers that do not answer cannot use up all threads: the
 * caller then waits for the socket by itself, and begins another job.
 */

/* How long a job waits for an address to answer. */
#define CONNECT_WAIT_MS 50 /* guard 76 */

/* Write down what the job does, for the caller's log, and wake the caller. */
static void __attribute__((format(printf, 2, 3)))
note(struct work *work, const char *format, ...)
{
    char line[200], *moved;
    size_t length;
    va_list arguments;

    if (!work->connection->opening.noting)
        return;
    va_start(arguments, format);
    vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    length = strlen(line);
    pthread_mutex_lock(&jobs.mutex);
    moved = realloc(work->notes, work->notes_length + length + 1);
    if (moved != NULL) {
        memcpy(moved + work->notes_length, line, length + 1);
        work->notes = moved;
        work->notes_length += length;
        wake_caller(&work->job);
    }
    pthread_mutex_unlock(&jobs.mutex);
}

static void
begin_stage(shim_connection *c, enum stage stage)
{
    pthread_mutex_lock(&jobs.mutex);
    c->opening.stage = stage;
    c->opening.begun = shim_now();
    pthread_mutex_unlock(&jobs.mutex);
}

/* Put the stage that open() has reached into ``stage``.  Returns the seconds since it
 * began; each address that is tried begins it again. */
static double
shim_stage(shim_handle *h)
{
    double since = 0;

    if (!enter_handle(h))
        return since;
    if (h->connection != NULL) {
        pthread_mutex_lock(&jobs.mutex);
        since = shim_now() - h->connection->opening.begun;
        h->stage = (int) h->connection->opening.stage;
        pthread_mutex_unlock(&jobs.mutex);
    }
    leave_handle(h);
    return since;
}

static unsigned short
port_of(const struct opening *o)
{
    return o->ports[o->turn];
}

/* Return the port that shim_begin_connect() has connected to, 0 if it has not. */
static int
shim_port(shim_handle *h)
{
    int port = 0;

    if (!enter_handle(h))
        return port;
    if (h->connection != NULL) {
        const struct opening *o = &h->connection->opening;

        pthread_mutex_lock(&jobs.mutex);
        if (o->stage == AUTHENTICATING)
            port = port_of(o);
        pthread_mutex_unlock(&jobs.mutex);
    }
    leave_handle(h);
    return port;
}


/* Ask the name service.  If it fails, ``status`` is getaddrinfo()'s error code. */
static int
look_up(struct work *work)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    shim_connection *c = work->connection;
    struct addrinfo *found = NULL;
    int error;

    /* A fork waits for it, as for calls into libremctl: the name service has locks of
     * its own, which a child would never get. */
    begin_call(c); /* guard 78a */
    work->results.status = getaddrinfo(c->host, NULL, &hints, &found);
    error = errno;
    end_call(c); /* guard 78b */
    if (work->results.status == EAI_SYSTEM)
        return fail_with(&work->results, strerror(error));
    if (work->results.status != 0)
        return fail_with(&work->results, gai_strerror(work->results.status));
    c->opening.found = found;
    return SHIM_OK;
}

/* Return the first of the addresses, from ``each`` on, that may be tried. */
static const struct addrinfo *
suitable(const struct opening *o, const struct addrinfo *each)
{
    while (each != NULL
           && (o->family == AF_UNSPEC ? each->ai_family != AF_INET
                                            && each->ai_family != AF_INET6
                                      : each->ai_family != o->family))
        each = each->ai_next;
    return each;
}

/* Go on to the next address, or to the next port and the first address.  Returns
 * false if there is none. */
static bool
next_target(shim_connection *c)
{
    struct opening *o = &c->opening;

    if (o->address != NULL)
        o->address = suitable(o, o->address->ai_next);
    if (o->address == NULL && o->turn == 0 && o->ports[1] != 0) {
        pthread_mutex_lock(&jobs.mutex);
        o->turn = 1;
        pthread_mutex_unlock(&jobs.mutex);
        o->address = suitable(o, o->found);
    }
    return o->address != NULL;
}

static const char *
address_text(const struct addrinfo *address, char text[INET6_ADDRSTRLEN])
{
    const void *octets = &((struct sockaddr_in *) address->ai_addr)->sin_addr;

    if (address->ai_family == AF_INET6)
        octets = &((struct sockaddr_in6 *) address->ai_addr)->sin6_addr;
    return inet_ntop(address->ai_family, octets, text, INET6_ADDRSTRLEN);
}

static int
open_socket(int family)
{
#if SHIM_LINUX
    return socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
#else
    int fd = socket(family, SOCK_STREAM, 0), on = 1;

    if (fd >= 0) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        ioctl(fd, FIONBIO, &on);
    }
    return fd;
#endif
}

/* Whether the socket still has its number.  The program may have closed it, and have a
 * file of its own there by now. */
static bool
has_its_socket(shim_connection *c)
{
    if (is_our_socket(c, c->fd)) /* guard 77 */
        return true;
    errno = EBADF;
    return false;
}

/* Take ``fd`` over as the connection's socket.  It gets the number of the one before,
 * if there is one: another thread may be waiting for it, or shutting it down.  Under
 * the mutex, so that a forked child recognizes it. */
static bool
take_socket(shim_connection *c, int fd)
{
    struct stat file;
    bool taken = false;

    pthread_mutex_lock(&calls.mutex);
    if (fstat(fd, &file) == 0 && (c->fd < 0 || has_its_socket(c)))
        taken = c->fd < 0 || replace_descriptor(c->fd, fd);
    if (taken)
        c->file = file;
    if (taken && c->fd < 0)
        atomic_store(&c->fd, fd);
    else
        close(fd);
    pthread_mutex_unlock(&calls.mutex);
    return taken;
}

static bool
bind_source(const struct opening *o, int fd)
{
    const struct addrinfo hints = {.ai_family = o->family,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICHOST};
    struct addrinfo *source = NULL;
    bool bound;

    if (o->source == NULL)
        return true;
    if (getaddrinfo(o->source, NULL, &hints, &source) != 0) {
        errno = EADDRNOTAVAIL;
        return false;
    }
    bound = bind(fd, source->ai_addr, source->ai_addrlen) == 0;
    freeaddrinfo(source);
    return bound;
}

/* Begin to connect to the current address.  Returns 0 or an errno, which is
 * EINPROGRESS if that goes on. */
static int
begin_to_connect(shim_connection *c)
{
    struct opening *o = &c->opening;
    struct sockaddr_storage to;
    int on = 1, fd = above_standard(open_socket(o->address->ai_family));

    if (fd < 0 || !take_socket(c, fd))
        return errno;
    /* So that a peer that has vanished is noticed in the end, also without a time-out
     * or a waiting call.  Linux sends the first probe after two hours of silence. */
    setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    if (!bind_source(o, c->fd))
        return errno;
    memcpy(&to, o->address->ai_addr, o->address->ai_addrlen);
    if (o->address->ai_family == AF_INET6)
        ((struct sockaddr_in6 *) &to)->sin6_port = htons(port_of(o));
    else
        ((struct sockaddr_in *) &to)->sin_port = htons(port_of(o));
    if (connect(c->fd, (struct sockaddr *) &to, o->address->ai_addrlen) == 0)
        return 0;
    return errno;
}

/* Wait a moment for the current address to answer.  Returns as begin_to_connect(),
 * or -1 if there was no answer within the time-out. */
static int
await_answer(shim_connection *c)
{
    int error = 0, milliseconds = CONNECT_WAIT_MS;
    socklen_t length = sizeof(error);

    if (c->opening.timeout > 0) {
        /* Only this job changes when it began. */
        double left = c->opening.begun + c->opening.timeout - shim_now();

        if (left * 1000 < milliseconds)
            milliseconds = (left > 0) ? (int) (left * 1000) + 1 : 0;
    }
    if (!shim_poll(c->fd, POLLOUT, milliseconds))
        return (milliseconds < CONNECT_WAIT_MS) ? -1 : EINPROGRESS;
    if (!has_its_socket(c))
        return errno;
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
        return errno;
    return error;
}

/* Whether the error may be a server that has accepted the connection and reset it, as
 * one does whose queue is full: the handshake then fails, and open() tries again. */
static bool
may_be_a_reset(const struct opening *o, int error)
{
    return SHIM_LINUX && error == ECONNRESET
           && suitable(o, o->address->ai_next) == NULL;
}

/* Keep why the current address could not be connected to.  With two ports, the reason
 * of the first one counts. */
static void
keep_reason(struct opening *o, int error, const char *text)
{
    if (o->turn > 0)
        return;
    free(o->reason);
    o->reason = strdup(text);
    o->error = error;
}

/* Return the outcome for an open() that has nothing left to try. */
static int
fail_to_connect(struct opening *o, struct results *results)
{
    if (o->reason == NULL)
        return SHIM_NO_MEMORY;
    results->status = o->error;
    return fail_with(results, o->reason);
}

/* Connect to one of the addresses.  BLOCKS: the current one has not answered yet.
 * FAILED: ``status`` is an errno, and ``error`` its text. */
static int
connect_to_any(struct work *work)
{
    shim_connection *c = work->connection;
    struct opening *o = &c->opening;

    if (o->address == NULL) {
        keep_reason(o, EAFNOSUPPORT, strerror(EAFNOSUPPORT));
        return fail_to_connect(o, &work->results);
    }
    do {
        char buffer[INET6_ADDRSTRLEN];
        const char *address = address_text(o->address, buffer), *text;
        const int port = port_of(o);
        int error = EINPROGRESS;

        if (!is_wanted(work)) /* guard 75b */
            return SHIM_CLOSED;
        if (!o->in_progress) {
            note(work, "trying %s port %d\n", address, port);
            begin_stage(c, CONNECTING);
            error = begin_to_connect(c);
        }
        if (error == EINPROGRESS)
            error = await_answer(c);
        o->in_progress = error == EINPROGRESS;
        if (o->in_progress)
            return SHIM_BLOCKS;
        if (error == 0) {
            note(work, "connected to %s port %d\n", address, port);
            return SHIM_OK;
        }
        if (may_be_a_reset(o, error))
            return SHIM_OK;
        text = (error > 0) ? strerror(error) : o->no_answer;
        note(work, "%s port %d: %s\n", address, port, text);
        keep_reason(o, (error > 0) ? error : ETIMEDOUT, text);
    } while (next_target(c));
    return fail_to_connect(o, &work->results);
}

/* Make the duplicate that libremctl gets. */
static bool
duplicate_socket(shim_connection *c)
{
    bool duplicated;

    pthread_mutex_lock(&calls.mutex);
    duplicated = has_its_socket(c) && duplicate_for_libremctl(c);
    pthread_mutex_unlock(&calls.mutex);
    return duplicated;
}

/* Look the server up, unless that has been done, and connect to it. */
static int
find_and_connect(struct work *work)
{
    shim_connection *c = work->connection;
    struct opening *o = &c->opening;
    int outcome = (o->found == NULL) ? look_up(work) : SHIM_OK;

    if (outcome != SHIM_OK)
        return outcome;
    if (!is_wanted(work)) /* guard 75a */
        return SHIM_CLOSED;
    if (!o->in_progress) {
        begin_stage(c, CONNECTING);
        o->address = suitable(o, o->found);
    }
    outcome = connect_to_any(work);
    if (outcome == SHIM_OK && !duplicate_socket(c)) {
        work->results.status = errno;
        outcome = fail_with(&work->results, strerror(errno));
    }
    return outcome;
}

/* Connecting is not inside a call, so a fork does not wait for it. */
static void
run_opening(struct job *job)
{
    struct work *work = (struct work *) job;

    work->outcome = SHIM_CLOSED;
    if (is_wanted(work))
        call_function(work, find_and_connect);
    if (work->outcome != SHIM_OK) {
        release_connection(work->connection);
        return;
    }
    if (is_wanted(work))
        begin_stage(work->connection, AUTHENTICATING);
    run_work(job);
}

static int
shim_begin_connect_on(shim_handle *h)
{
    return begin_connection_work(h, new_work(run_opening, authenticate));
}

/* Begin to look up the connection's host, to connect to the first of the ports, and
 * then of the addresses, that answers, and to authenticate; the second port may be 0.
 * Each address gets ``timeout`` seconds, 0 for ever, and ``no_answer`` is the text for
 * one that is silent.  With ``source``, an address of ``family``, the connection comes
 * from there.  With ``noting``, shim_end() tells what happens.
 *
 * BLOCKS: an address has not answered yet.  When the descriptor is writable, or the
 * address's time is over, shim_begin_connect_on() has to be called. */
static int
shim_begin_connect(shim_handle *h, const unsigned short ports[2], double timeout,
                   const char *no_answer, const char *source, int family, int noting)
{
    shim_connection *c = enter_open_connection(h);
    struct opening *o;
    bool failed = false;

    if (c == NULL)
        return SHIM_CLOSED;
    o = &c->opening;
    begin_stage(c, (o->found == NULL) ? RESOLVING : CONNECTING);
    memcpy(o->ports, ports, sizeof(o->ports));
    o->timeout = timeout;
    o->no_answer = copy_or_null(no_answer, &failed);
    o->source = copy_or_null(source, &failed);
    o->family = family;
    o->noting = noting != 0;
    if (!leave_connection(h, c))
        return SHIM_CLOSED;
    return failed ? SHIM_NO_MEMORY : shim_begin_connect_on(h);
}

/* Use the addresses that ``from``, which is closed and has no job, has looked up.
 * Under the mutex, so that in a forked child they do not belong to both. */
static void
shim_take_addresses(shim_handle *h, shim_handle *from)
{
    if (!enter_handle(h))
        return;
    if (enter_handle(from)) {
        if (h->connection != NULL && from->connection != NULL) {
            pthread_mutex_lock(&calls.mutex);
            h->connection->opening.found = from->connection->opening.found;
            from->connection->opening.found = NULL;
            pthread_mutex_unlock(&calls.mutex);
        }
        leave_handle(from);
    }
    leave_handle(h);
}
