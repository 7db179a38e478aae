# SPDX-License-Identifier: MIT
"""The asyncio twin: remctl() for one command, Remctl for a connection.

The names, arguments, results and exceptions are those of the blocking
interface.  What blocks there is awaited here; what does not block there is an
ordinary method here, too.

How it waits: the socket is watched by the event loop itself (add_reader), so
that a connection that waits for a slow command, for a server to answer, or for
the rest of a token holds no thread.  A token is read in the loop's thread when
all of it is there, and a command is sent there when it fits the socket's
buffer.  What libremctl can only do by blocking is done by threads of C, which
know nothing of Python: the name service; the handshake with the KDC and the
server; noop(), and a command or a token that is larger than the socket's
buffer; and protocol 1.  A process has as many of them as such calls are under
way, 4,096 at most, beyond which calls wait for one to end.  When the system has
no thread left to give, a call raises RemctlError at once.

A task that is cancelled leaves at once.  The connection's socket is shut down,
the object is not open, and a thread that is inside libremctl ends by itself;
one that waits for the name service or the KDC when these do, and one that
serves protocol 1 when the server does, or two seconds after the time-out.

Works with any event loop that has add_reader(), uvloop's too.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Callable, TypeVar

from remctl import RemctlError, RemctlProtocolError, _arguments
from remctl._asyncio import drive
from remctl._base import NO_ERROR, RemctlBase, check_call
from remctl._results import Reply

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Iterable
    from types import TracebackType

    from typing_extensions import Self

    from remctl._arguments import Ccache, Port
    from remctl._results import RemctlOutput, RemctlSimpleResult
    from remctl._waiting import Steps

__all__ = ["Remctl", "remctl"]

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
    try:
        async with Remctl(timeout=timeout, ccache=ccache, source_ip=source_ip) as r:
            await r.open(host, port, principal)
            return await r.run(arguments)
    except RemctlProtocolError:
        raise
    except RemctlError as error:
        # Not from the error itself, which would be shown with the same text.
        raise RemctlProtocolError(error.value) from error.__cause__


class Remctl(RemctlBase):
    """A connection to a remctl server, for any number of commands.

    With ``host``, entering it with ``async with`` calls open(); the other
    arguments are those of remctl.Remctl.  It closes the connection at the end,
    and iterates over the output tokens of the current command with ``async
    for``.

    Any number of tasks may use an object: one call at a time has the
    connection, others wait for it, but close(), error(), opened and the
    setters never wait, and may be called from any thread.  While a call is
    under way, the object belongs to that call's event loop.

    When a call is left by an exception, by being cancelled too, the connection
    is closed unless it is certain to be in step with the server.  The next
    call then raises RemctlNotOpenedError, and open() opens a new one.
    """

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
        self._server: tuple[str, Port, str | None] | None = None
        if host is not None:
            _arguments.server(host, port, principal)
            self._server = host, port, principal

    async def open(
        self,
        host: str,
        port: Port = None,
        principal: str | None = None,
        *,
        sock: socket.socket | None = None,
    ) -> None:
        """Connect and authenticate.  An open connection is closed first.

        As remctl.Remctl.open().
        """
        server = _arguments.server(host, port, principal)
        if sock is not None:
            sock = _arguments.connected_socket(sock)
        with sock or nullcontext():  # the connection has duplicates
            await self._exclusively(self._open, server, sock)

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

    def _command(
        self, arguments: list[bytes], must_finish: bool = False
    ) -> Steps[None]:
        connection = self._opened_connection()
        if not connection.command_now(arguments, must_finish):
            yield from connection.command_later(arguments, self._timeout)

    def _output(self) -> Steps[RemctlOutput]:
        return (yield from self._readable_connection().output(self._timeout))

    def _run(self, arguments: list[bytes]) -> Steps[RemctlSimpleResult]:
        yield from self._command(arguments, must_finish=True)
        reply = Reply()
        while True:
            result = reply.add((yield from self._output()))
            if result is not None:
                return result

    async def _exclusively(
        self, function: Callable[..., Steps[T]], *arguments: object
    ) -> T:
        """Drive FUNCTION's steps while no other task uses the connection."""
        home = self._home
        lock = self._lock_of_this_loop()
        async with lock:
            if home.lock is not lock:
                raise RuntimeError("another event loop has taken the object over")
            self._drop_inherited()
            closes = self._closes
            try:
                result = await drive(function(*arguments))
            except BaseException as error:
                if home.lock is lock:  # else the connection is another loop's
                    if self._closes == closes:
                        self._note(error)
                    self._drop_broken(interrupted=not isinstance(error, RemctlError))
                raise
            self._error = NO_ERROR
            return result

    def _lock_of_this_loop(self) -> asyncio.Lock:
        loop, home = asyncio.get_running_loop(), self._home
        if home.lock is None or home.loop is not loop:
            if self._in_use():
                if home.loop is not None and home.loop.is_running():
                    raise RuntimeError("the object is in use in another event loop")
                self.close()  # its loop was stopped in the middle of a call
            home.loop, home.lock = loop, asyncio.Lock()
        return home.lock

    def _in_use(self) -> bool:
        """Whether a call on this object is under way."""
        lock = self._home.lock
        return lock is not None and lock.locked()

    @property
    def _home(self) -> Home:
        return self._of_this_process(Home)


class Home:
    """The event loop in which an object was used last, and its lock for calls."""

    def __init__(self) -> None:
        """Belong to no loop."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.lock: asyncio.Lock | None = None


class Tokens:
    """The tokens of a Remctl's current command."""

    def __init__(self, client: Remctl) -> None:
        """Read CLIENT's tokens."""
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
