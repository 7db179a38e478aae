# SPDX-License-Identifier: MIT
"""The asyncio twin: remctl() for one command, Remctl for a connection.

The names, arguments, results and exceptions are those of the blocking
interface.  What blocks there is a coroutine here; what does not block there is
an ordinary method here, too.

How it waits: the event loop itself watches the socket (add_reader), so a
connection that waits for a slow command, for a server to answer, or for the
rest of a token needs no thread.  A token is read in the loop's thread when all
of it is there, and a command is sent there when it fits the socket's buffer.
For what libremctl can do only by blocking there are threads in C, which never
run Python code: the name service; the handshake with the KDC and the server;
noop(), and a command or a token that is larger than the socket's buffer; and
protocol 1.  A process has as many of these threads as there are such calls,
4,096 at most; more calls wait until one ends.  If the system cannot start
another thread, the call raises RemctlError at once.

A task that is cancelled ends at once: the connection's socket is shut down, and
the object is not open any more.  This ends a thread that is inside libremctl,
too, but not always at once: a thread that waits for the name service or the KDC
ends when these answer or give up, and one that serves protocol 1 when the
server answers or hangs up, or two seconds after the time-out.

Works with any event loop that has add_reader(), uvloop's too.  In trio, the blocking
interface is to be used, in a thread.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Callable, TypeVar
from weakref import ref

from remctl import RemctlError, RemctlProtocolError, _arguments
from remctl._asyncio import drive, finish, running_loop
from remctl._base import (
    LAST_SERVER,
    NO_ERROR,
    RemctlBase,
    as_protocol_error,
    check_call,
    of_this_process,
)
from remctl._ffi import generation
from remctl._pool import Line, Place, PoolBase
from remctl._waiting import deadline_after

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Iterable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from typing_extensions import Self

    from remctl._arguments import Ccache, Port
    from remctl._connection import Connection
    from remctl._results import RemctlOutput, RemctlSimpleResult

__all__ = ["Pool", "Remctl", "remctl"]

T = TypeVar("T")


async def remctl(
    host: str,
    port: Port = None,
    principal: str | None = None,
    command: Iterable[object] = (),
    *,
    timeout: float | None = None,
    ccache: Ccache | None = None,
    source_ip: str | None = None,
) -> RemctlSimpleResult:
    """Run one command on a remote host and return its output and exit status.

    Arguments, result and exceptions are those of remctl.remctl().  Does not
    block the event loop; to run many at a time, bound their number with an
    asyncio.Semaphore.
    """
    _arguments.server(host, port, principal)
    arguments = check_call(command, timeout, source_ip)
    make = partial(Remctl, timeout=timeout, ccache=ccache, source_ip=source_ip)
    return await run_once(make, host, port, principal, arguments)


async def run_once(
    make: Callable[[], Remctl],
    host: str,
    port: Port,
    principal: str | None,
    arguments: list[bytes],
) -> RemctlSimpleResult:
    """Do what remctl() does, when all is checked, with a client that ``make`` makes."""
    try:
        async with make() as client:
            await client.open(host, port, principal)
            return await client.run(arguments)
    except RemctlProtocolError:
        raise
    except RemctlError as error:
        raise as_protocol_error(error) from error.__cause__


class Remctl(RemctlBase):
    """A connection to a remctl server, for any number of commands.

    If ``host`` is given, ``async with`` calls open() when it begins.  The other
    arguments are those of remctl.Remctl.  At its end ``async with`` closes the
    connection.  ``async for`` iterates over the output tokens of the current
    command.

    Any number of tasks may use an object.  One call at a time uses the
    connection and others wait for it, but close(), error(), opened and the
    setters never wait, and may be called from any thread.  As long as a call is
    in progress, the object belongs to that call's event loop.

    When a call ends with an exception, cancellation included, the connection is
    closed unless it is certain that no part of a command or a reply is left on
    it.  The next call then raises RemctlNotOpenedError, and open() opens a new
    connection.
    """

    # The constructor's, which ``async with`` opens.
    _server: tuple[str, Port, str | None] | None = None

    def __init__(
        self,
        host: str | None = None,
        port: Port = None,
        principal: str | None = None,
        *,
        timeout: float | None = None,
        ccache: Ccache | None = None,
        source_ip: str | None = None,
    ) -> None:
        """Create the object, and check the arguments."""
        self._configure(timeout, ccache, source_ip)
        self._server = None
        if host is not None:
            self._last_server = _arguments.server(host, port, principal)
            self._server = host, port, principal

    async def open(
        self,
        host: str = LAST_SERVER,
        port: Port = None,
        principal: str | None = None,
        *,
        sock: socket.socket | None = None,
    ) -> None:
        """Connect and authenticate.  An open connection is closed first.

        As remctl.Remctl.open().  Before the first open(), the server without
        arguments is the one that the constructor was given.
        """
        server = self._server_to_open(host, port, principal, sock)
        if sock is not None:
            sock = _arguments.connected_socket(sock)
        with sock or nullcontext():  # the connection has duplicates
            await self._exclusively(drive, self._open(server, sock))

    async def command(self, command: Iterable[object]) -> None:
        """Send a command, whose output is then read with output().

        As remctl.Remctl.command().
        """
        self._opened_connection()
        await self._exclusively(self._command, _arguments.command(command))

    async def output(self) -> RemctlOutput:
        """Read the next output token of the current command.

        As remctl.Remctl.output().
        """
        return await self._exclusively(self._output)

    async def run(self, command: Iterable[object]) -> RemctlSimpleResult:
        """Send a command, read all its output and return the result.

        As remctl.Remctl.run().  Tasks that share the object can all call this:
        each gets its own command's result.
        """
        self._opened_connection()
        return await self._exclusively(self._run, _arguments.command(command))

    async def noop(self) -> bool:
        """Keep the connection alive by exchanging NOOP messages with the server.

        As remctl.Remctl.noop().
        """
        return await self._exclusively(self._noop)

    def __aiter__(self) -> AsyncIterator[RemctlOutput]:
        """Read the current command's tokens, up to its status or error token.

        Raises what output() raises.
        """
        return Tokens(self)

    async def __aenter__(self) -> Self:
        """Open the connection, if there was a host, and return the object."""
        if self._server is not None:
            await self.open(*self._server)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    async def _command(
        self, arguments: list[bytes], must_finish: bool = False
    ) -> Connection:
        connection = self._opened_connection()
        unsent = connection.command_now(arguments, must_finish)
        if unsent is not None:
            await drive(connection.command_later(unsent, self._timeout))
        return connection

    async def _output(self) -> RemctlOutput:
        connection = self._readable_connection()
        # Not after each token, as that takes longer than the token itself.
        if connection.turn_is_over():
            await asyncio.sleep(0)
            connection.begin_turn()
        token = connection.output_in_turn()
        if token is not None:
            return token
        return await drive(connection.output_later(self._timeout))

    async def _run(self, arguments: list[bytes]) -> RemctlSimpleResult:
        # Its own connection to the end: see remctl.Remctl._run().
        connection = await self._command(arguments, must_finish=True)
        timeout = self._timeout
        deadline = deadline_after(timeout)
        return await drive(connection.reply_later(timeout, deadline))

    async def _noop(self) -> bool:
        return await drive(self._opened_connection().noop(self._timeout))

    async def _exclusively(
        self, function: Callable[..., Awaitable[T]], *arguments: object
    ) -> T:
        """Await ``function`` while no other task uses the connection."""
        loop, holds = running_loop(), self._holds
        last = holds.last()
        lock = last.lock if last.loop is loop else None
        # An interrupt may have kept the last call from releasing its lock.
        if lock is None or (last.ended and lock.locked()):
            lock = asyncio.Lock()
        # Weak, as a call that is left in a stopped loop would keep all later holds.
        seen = ref(last)
        del last
        # Not ``async with``, which makes two more coroutines for each token.
        await lock.acquire()
        try:
            hold, cut_off = holds.take(Hold(loop, lock), seen)
            try:
                if cut_off:
                    self._close("its event loop was stopped in the middle of a call")
                last_error = self._begin_call()
                try:
                    result = await function(*arguments)
                    last_error[0] = NO_ERROR
                    return result  # noqa: TRY300 (so that no token is lost)
                except BaseException as error:
                    try:
                        self._record(error, last_error)
                    finally:
                        interrupted = not isinstance(error, RemctlError)
                        self._drop_broken(last_error, interrupted)
                    raise
            finally:
                end(hold)
        finally:
            lock.release()

    def _detach(self) -> Connection | None:
        last = self._holds.last()
        if not last.ended:
            return None
        connection: Connection | None = vars(self).pop("_connection", None)
        if connection is not None and self._holds.last() is not last:
            connection.close("another event loop's call has begun")
            return None
        return connection

    def _is_left_broken(self, connection: Connection) -> bool:
        last = self._holds.last()
        return last.ended and connection.broken and self._holds.last() is last

    @property
    def _holds(self) -> Holds:
        holds: Holds | None = self._in_process.get(generation[0])
        if holds is None:
            holds = of_this_process(self._in_process, Holds)
        return holds


class Hold:
    """A call's hold on an object."""

    # The hold that has come after this one.
    next: Hold | None = None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop | None = None,
        lock: asyncio.Lock | None = None,
    ) -> None:
        """Hold it for a call in ``loop``, which has ``lock``, or for no call."""
        self.loop = loop
        self.lock = lock
        self.ended: bool = loop is None

    def goes_on(self) -> bool:
        """Whether its call has not ended, and its loop has not been stopped."""
        return not self.ended and self.loop is not None and self.loop.is_running()


def end(hold: ref[Hold]) -> None:
    """Note that the call has ended, unless its hold has been overtaken and dropped."""
    last = hold()
    if last is not None:
        last.ended = True


class Holds:
    """The holds on an object, each linked to the one after it.

    Two event loops, in two threads, may come for the object at the same time.
    """

    def __init__(self) -> None:
        """Begin with a hold that is over."""
        self._last = Hold()

    def last(self) -> Hold:
        """Return the last hold."""
        hold = self._last
        while hold.next is not None:
            hold = hold.next
        self._last = hold
        return hold

    def take(self, hold: Hold, seen: ref[Hold]) -> tuple[ref[Hold], bool]:
        """Add ``hold``; return it, and whether the call before was cut off.

        Raises RuntimeError if a call in another event loop is in progress, or there was
        one after ``seen``.
        """
        last = self.last()
        # If the last hold has our lock, its call is over, even if an interrupt has kept
        # ``ended`` from being set.
        others = last.lock is not hold.lock and (last is not seen() or last.goes_on())
        # In one step, so that one loop gets the object, and an interrupt cannot keep it
        # from all of them.
        if others or vars(last).setdefault("next", hold) is not hold:
            raise RuntimeError("the object is in use in another event loop")
        return ref(hold), not last.ended


class Tokens:
    """An iterator over the output tokens of a Remctl's current command."""

    def __init__(self, client: Remctl) -> None:
        """Read the tokens of ``client``."""
        self._client = client
        self._ended = False

    def __aiter__(self) -> Tokens:
        """Return itself."""
        return self

    async def __anext__(self) -> RemctlOutput:
        """Return the next token."""
        if self._ended:
            raise StopAsyncIteration
        token = await self._client.output()
        self._ended = token.type != "output"
        if token.type == "done":
            raise StopAsyncIteration
        return token


class Pool(PoolBase):
    """Connections to one server, for one identity, which are kept open and lent.

    As remctl.Pool.  Its tasks may run in any event loop.
    """

    async def run(self, command: Iterable[object]) -> RemctlSimpleResult:
        """Run one command on a connection of the pool, and return the result.

        As remctl.Pool.run().
        """
        self._check_open()
        arguments = _arguments.command(command)
        async with self._lend() as client:
            return await client.run(arguments)

    def connection(self) -> AbstractAsyncContextManager[Remctl]:
        """Lend an open connection, a Remctl, to an ``async with`` statement.

        As remctl.Pool.connection().
        """
        return self._lend()

    async def __aenter__(self) -> Self:
        """Return the pool itself."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the pool."""
        self.close()

    def _new_client(self) -> Remctl:
        return Remctl(**self._settings)

    @asynccontextmanager
    async def _lend(self) -> AsyncIterator[Remctl]:
        line, client = self._line(), self._new_client()
        place = line.join(client)
        try:
            if place not in line.front():
                await self._wait(place, line)
            if not self._lend_idle(client, place, line):
                await client._exclusively(  # noqa: SLF001 (as in _pool)
                    drive, self._connect(client, place, line)
                )
            self._check_open()
            yield client
        finally:
            self._give_up(client, place, line)

    async def _wait(self, place: Place, line: Line) -> None:
        """Wait until ``place`` is at the front."""
        loop = running_loop()
        woken: asyncio.Future[bool] = loop.create_future()
        place.wake = partial(loop.call_soon_threadsafe, finish, woken, True)
        timer = None
        if math.isfinite(self._wait_seconds):
            timer = loop.call_later(self._wait_seconds, finish, woken, False)
        try:
            # Asked again, as it may have come to the front before it could be woken.
            if place not in line.front() and not self._closed:
                await woken
        finally:
            if timer is not None:
                timer.cancel()
        if place not in line.front() and not self._closed:
            raise self._none_free()
        del place.wake
