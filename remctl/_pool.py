# SPDX-License-Identifier: MIT
"""A pool of connections to one server.

A client is made for each loan, and gets a connection for as long as that lasts.  Then
the connection is taken away from it, so that whoever still has the client cannot read
the reply to another caller's command.
"""

from __future__ import annotations

import math
import threading
from contextlib import ExitStack, contextmanager, suppress
from weakref import ref

import remctl
from remctl import _arguments
from remctl._base import name_of, of_this_process
from remctl._exceptions import RemctlError, RemctlNotOpenedError, RemctlTimeoutError
from remctl._explain import duration
from remctl._ffi import lib
from remctl._public import publish
from remctl._waiting import longest_block

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Any, Callable

    from typing_extensions import Self

    from remctl._arguments import Ccache, Port
    from remctl._base import RemctlBase
    from remctl._connection import Connection
    from remctl._results import RemctlSimpleResult
    from remctl._waiting import Steps

# A connection that has been idle for more seconds is asked whether its server is there.
TRUSTED = 1.0

# The seconds that an idle connection's server has for its answer, if the time-out is
# not shorter.  A server that is there answers at once, whatever it has to do.
PATIENCE = 5.0


class Idle:
    """A connection that nobody has."""

    def __init__(self, connection: Connection, opened: float) -> None:
        """Keep the connection, and since when it has been open and idle."""
        self.connection = connection
        self.opened = opened
        self.since = lib.shim_now()


class Place(ref):  # type: ignore[type-arg]  # of a RemctlBase; no generic on Python 3.9
    """A client's place in the line: a weak reference to the client.

    ``connection``: the pool's connection that it has.  ``opened``: when that was
    opened.  ``thread``: the thread that makes the loan's only call, if there is no
    other.  ``left``: it is not in the line any more.  ``wake``: what ends its wait.
    """

    connection: Connection | None = None
    opened = math.inf
    thread: int | None = None
    left = False
    wake: Callable[[], object] = staticmethod(lambda: None)


class Line:
    """The clients that have a connection or wait for one, in the order of their coming.

    The first ``size`` may have one.  Each change is a single operation of a list, so
    neither threads nor signal handlers nor interrupts find it half made.  A client that
    an interrupt has kept from leaving leaves when it is collected.
    """

    def __init__(self, size: int) -> None:
        """Begin with nobody in it, and no connection."""
        self.idle: list[Idle] = []  # the most recently used last
        self._size = size
        self._places: list[Place] = []

    def join(self, client: RemctlBase, thread: int | None = None) -> Place:
        """Add ``client`` at the end, and return its place."""
        place = Place(client, self.leave)
        place.thread = thread
        self._places.append(place)
        return place

    def leave(self, place: Place) -> None:
        """Remove a place, and wake those who have come to the front."""
        if place.left:
            return
        with suppress(ValueError):
            self._places.remove(place)
        wake(self.front())
        place.left = True  # only now: an interrupt may come before

    def front(self) -> list[Place]:
        """Return the places of those who may have a connection."""
        places = self._places[: self._size]
        for place in places:
            if place() is None:  # an exception has kept it from leaving
                self.leave(place)
                return self.front()
        return places

    def close(self) -> None:
        """Wake those who wait, and close all connections."""
        places = list(self._places)
        wake(places)
        with ExitStack() as stack:  # whatever a handler of the log raises
            stack.callback(close_all, self.idle, "the pool was closed")
            for place in places:
                client = place()
                if client is not None:
                    stack.callback(client.close)


def wake(places: list[Place]) -> None:
    """Wake those of ``places`` that wait; the others do not notice."""
    for place in places:
        with suppress(RuntimeError):  # awake already, or the event loop is closed
            place.wake()


def close_all(idle: list[Idle], reason: str) -> None:
    """Close idle connections; another thread may be taking some of them."""
    with ExitStack() as stack, suppress(IndexError):
        while True:
            stack.callback(idle.pop().connection.close, reason)


class PoolBase:
    """What the blocking and the asyncio Pool share: everything except the waiting."""

    def __init__(
        self,
        host: str,
        port: Port = None,
        principal: str | None = None,
        *,
        timeout: float | None = None,
        ccache: Ccache | None = None,
        source_ip: str | None = None,
        size: int = 8,
        max_idle: float | None = 60.0,
        max_age: float | None = 600.0,
        wait: float | None = None,
    ) -> None:
        """Check the arguments.  No connection is opened."""
        self._server = _arguments.server(host, port, principal)
        self._settings: Any = {
            "timeout": timeout,
            "ccache": ccache,
            "source_ip": source_ip,
        }
        self._size = _arguments.positive_int("size", size)
        self._max_idle = _arguments.bound("max_idle", max_idle)
        self._max_age = _arguments.bound("max_age", max_age)
        self._wait_seconds = _arguments.bound("wait", wait, zero=True)
        self._closed = False
        self._in_process: dict[int, Line] = {}
        self._new_client()  # checks the settings

    def close(self) -> None:
        """Close all connections, those that are lent, too.  The pool stays closed.

        Calls that use a connection or wait for one raise RemctlError at once.  Never
        blocks; may be called from any thread, and in a signal handler.
        """
        self._closed = True
        self._line().close()

    def __repr__(self) -> str:
        """Return the class, the server, and the numbers of connections."""
        line = self._line()
        state = f"{len(line.front())} of {self._size} lent, {len(line.idle)} idle"
        where = name_of(self._server)
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        return f"<{name} {where}, {'closed' if self._closed else state}>"

    def __reduce__(self) -> Any:
        """Refuse to be pickled or copied, as connections cannot be."""
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def _new_client(self) -> RemctlBase:
        """Return a client with the pool's settings, which is not open."""
        raise NotImplementedError

    def _line(self) -> Line:
        """Return this process's line: a forked child begins with an empty one."""
        return of_this_process(self._in_process, lambda: Line(self._size))

    def _check_open(self) -> None:
        if self._closed:
            raise RemctlNotOpenedError("the pool is closed")

    def _none_free(self) -> RemctlTimeoutError:
        """Return the exception for a caller that has waited for too long."""
        where = name_of(self._server)
        waited = f" for {duration(self._wait_seconds)}" if self._wait_seconds else ""
        text = f"no connection to {where} was free{waited} (size {self._size})"
        return RemctlTimeoutError(text)

    def _lend_idle(self, client: RemctlBase, place: Place, line: Line) -> bool:
        """Give ``client`` the idle connection that was used last, if there is one.

        Returns whether it can be used at once.  Otherwise drive _connect().
        """
        self._check_open()
        self._close_expired(line)
        while True:
            try:
                idle = line.idle.pop()
            except IndexError:
                return False
            connection = idle.connection
            reason = self._expired(idle)
            if reason is None and not connection.in_step:
                reason = "it was closed"
            if reason is None and connection.has_input():  # guard 71b
                reason = "the server has closed it, or sent what nobody reads"
            if reason is None:
                place.connection, place.opened = connection, idle.opened
                client._adopt(connection, self._server)
                return lib.shim_now() - idle.since < TRUSTED
            connection.close(reason)

    def _connect(self, client: RemctlBase, place: Place, line: Line) -> Steps[None]:
        """Ask the connection that ``client`` has for a noop(), or open a new one."""
        self._check_open()  # later than that, a close() ends the call
        if place.connection is not None:
            try:
                # It is also the proof that nothing is left from an earlier reply.
                yield from place.connection.noop(
                    min(client._timeout or PATIENCE, PATIENCE)
                )
            except RemctlError as error:
                place.connection.close(f"idle, and then: {error}")
                # So will the others: each would have to be waited for.
                close_all(line.idle, "idle, as one that does not answer")
            else:
                return
        place.opened = lib.shim_now()
        yield from client._open(self._server, None)
        place.connection = client._connection

    def _take_back(self, client: RemctlBase, place: Place, line: Line) -> None:
        """Take the connection away from ``client``, and keep it if it is in step."""
        connection = client._detach()  # guard 69
        came_back = False
        try:
            lent = connection is place.connection  # guard 70
            if lent and connection is not None and connection.in_step:  # guard 71a
                line.idle.append(Idle(connection, place.opened))
                came_back = True
        finally:
            if connection is not None and not came_back:
                connection.close("it came back in another state than it was lent in")
        client.close()
        self._close_expired(line)
        if self._closed:
            close_all(line.idle, "the pool was closed")

    def _give_up(self, client: RemctlBase, place: Place, line: Line) -> None:
        """End a loan, and let the next one in the line have its turn."""
        try:
            self._take_back(client, place, line)
        finally:
            try:
                line.leave(place)
            finally:  # again, for what an interrupt may have kept from the first time
                line.leave(place)

    def _expired(self, idle: Idle) -> str | None:
        """Return why a connection is not lent any more, None if it is."""
        now = lib.shim_now()
        if now - idle.opened >= self._max_age:  # guard 72
            return f"open for {duration(now - idle.opened)}"
        if now - idle.since >= self._max_idle:
            return f"idle for {duration(now - idle.since)}"
        return None

    def _close_expired(self, line: Line) -> None:
        """Close the connections that are idle for too long, or too old."""
        for idle in list(line.idle):
            reason = self._expired(idle)
            if reason is None:
                continue
            try:
                line.idle.remove(idle)
            except ValueError:
                continue  # another thread has taken it
            idle.connection.close(reason)


class Pool(PoolBase):
    """Connections to one server, for one identity, which are kept open and lent.

    Connections are opened when they are needed, at most ``size`` at a time, and each is
    lent to one caller at a time.  When all are in use, callers wait, and are served in
    the order in which they came.

    A connection that comes back is lent again, the most recently used one first, if it
    is certain that no part of a command or a reply is left on it.  One that the server
    has closed meanwhile is replaced, and so is one that has been idle for a second or
    more and does not answer a noop().  Those that have been idle for ``max_idle`` or
    open for ``max_age`` are closed when the pool is used the next time: it has no
    thread of its own.

    A connection keeps the permissions with which it was opened, so ``max_age`` bounds
    for how long a user whom the server does not accept any more can go on.

    Nothing is ever sent twice: a command that fails raises, and RemctlError.stage tells
    whether it may have run.

    A Pool is a context manager that closes it.  All methods may be called from any
    thread.  In a forked child, the pool is empty, and the parent's connections are not
    disturbed.  A signal handler that finds all connections in use by the calls that it
    has interrupted gets a RemctlError; otherwise whoever holds connections and waits
    for another one may wait for ever, unless there is ``wait``.

    Args:
        host: The host to connect to.
        port: As in remctl.remctl().
        principal: As in remctl.remctl().
        timeout: As in remctl.remctl().
        ccache: As in remctl.remctl().
        source_ip: As in remctl.remctl().
        size: How many connections are open at most.
        max_idle: After how many seconds without use a connection is closed.  None:
            never.
        max_age: After how many seconds a connection is not lent again.  None: never.
        wait: How many seconds a caller waits at most when all connections are in use.
            0: not at all.  None: for as long as it takes.

    Raises:
        TypeError, ValueError: An argument is wrong.
        RemctlError: The time-out is negative, or the cache cannot be set.

    Does not block: no connection is opened yet.

    """

    def run(self, command: Iterable[object]) -> RemctlSimpleResult:
        """Run one command on a connection of the pool, and return the result.

        Args:
            command: As in remctl.remctl().

        Raises:
            RemctlNotOpenedError: The pool is closed.
            TypeError, ValueError: The command is wrong; nothing has been sent.
            RemctlTimeoutError: All connections were in use for ``wait`` seconds, and
                nothing has been sent; or as in Remctl.open() and Remctl.run().
            RemctlError: As in Remctl.open() and Remctl.run().

        Blocks, without the GIL.

        """
        self._check_open()
        arguments = _arguments.command(command)
        with self._lend(threading.get_ident()) as client:
            return client.run(arguments)

    def connection(self) -> AbstractContextManager[remctl.Remctl]:
        """Lend an open connection, a Remctl, to a ``with`` statement.

        At the end of the statement the Remctl is closed.  What has been set or opened
        on it meanwhile does not come back to the pool.

        Raises:
            RemctlNotOpenedError: The pool is closed.
            RemctlTimeoutError: All connections were in use for ``wait`` seconds; or as
                in Remctl.open().
            RemctlError: As in Remctl.open().

        Blocks, and raises these, at the beginning of the statement; without the GIL.

        """
        return self._lend(None)

    def __enter__(self) -> Self:
        """Return the pool itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the pool."""
        self.close()

    def _new_client(self) -> remctl.Remctl:
        # By its public name, where tests put a FakeRemctl.
        return remctl.Remctl(**self._settings)

    @contextmanager
    def _lend(self, thread: int | None) -> Iterator[remctl.Remctl]:
        line, client = self._line(), self._new_client()
        place = line.join(client, thread)
        try:
            if place not in line.front():
                self._wait(place, line)
            if not self._lend_idle(client, place, line):
                client._drive(self._connect(client, place, line))
            self._check_open()
            yield client
        finally:
            self._give_up(client, place, line)

    def _wait(self, place: Place, line: Line) -> None:
        """Wait until ``place`` is at the front."""
        thread = threading.get_ident()
        gate = threading.Lock()
        gate.acquire()
        place.wake = gate.release
        until = lib.shim_now() + self._wait_seconds
        # Asked again, as it may have come to the front before it could be woken.
        while place not in (front := line.front()):
            self._check_open()
            if line is not self._line():  # a signal handler has forked
                raise RemctlError("the call was begun by another process")
            if all(each.thread == thread for each in front):
                # They go on when this one has ended: it is in a signal handler.
                raise RemctlError("all connections are in use by calls of this thread")
            left = until - lib.shim_now()
            if left <= 0:
                raise self._none_free()
            gate.acquire(timeout=min(left, longest_block()))


publish("remctl", Pool)
