# SPDX-License-Identifier: MIT
"""The blocking interface: remctl() for one command, Remctl for a connection."""

from __future__ import annotations

import sys
import threading
from contextlib import nullcontext, suppress
from functools import partial

from remctl import _arguments
from remctl._base import (
    LAST_SERVER,
    NO_ERROR,
    RemctlBase,
    as_protocol_error,
    check_call,
    of_this_process,
)
from remctl._exceptions import RemctlError, RemctlProtocolError
from remctl._ffi import generation
from remctl._public import publish
from remctl._waiting import block, deadline_after

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator
    from types import FrameType, TracebackType
    from typing import Any, Callable, TypeVar

    from typing_extensions import Self

    from remctl._arguments import Ccache, Port
    from remctl._connection import Connection
    from remctl._results import RemctlOutput, RemctlSimpleResult
    from remctl._waiting import Steps

    T = TypeVar("T")


def remctl(
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

    Opens a connection, runs the command and closes the connection.  Until it
    returns, all of the output is kept in memory; use Remctl.output() for more
    than fits there.

    Args:
        host: The host to connect to.
        port: A number, also as a str or bytes that int() accepts.  None or 0:
            4373, and if that fails the legacy 4444.
        principal: The server's principal.  None or "": the host-based service
            ``host`` on ``host``, as GSS-API canonicalises it.
        command: The command and its arguments: any iterable, consumed once.
            bytes, bytearray and memoryview are sent as they are, str as UTF-8
            (surrogates from sys.argv as the bytes they stand for), os.PathLike
            as os.fsencode() gives it, members of int enumerations as their
            number, anything else that has a text (numbers, UUID, dates, what
            has its own __str__) as its str().  None, containers, iterators,
            awaitables, and other objects that have only a repr() are refused.
        timeout: Seconds of silence, fractions included, after which to give
            up; see Remctl.set_timeout().  None or 0: wait for ever.
        ccache: The credential cache to use: its name, or an os.PathLike.  None:
            the default one.
        source_ip: The local address to connect from.  None: any.

    Returns:
        The output and the exit status.  A status other than 0 is not an
        exception; see RemctlSimpleResult.check().

    Raises:
        TypeError, ValueError: An argument is wrong; nothing has been sent.
        RemctlTimeoutError: The time-out has passed.
        RemctlProtocolError: Anything else has failed; ``code`` is set if it
            was the server that said so.

    Blocks, without the GIL; may be called from any thread.

    """
    _arguments.server(host, port, principal)
    arguments = check_call(command, timeout, source_ip)
    make = partial(Remctl, timeout=timeout, ccache=ccache, source_ip=source_ip)
    return run_once(make, host, port, principal, arguments)


def run_once(
    make: Callable[[], Remctl],
    host: str,
    port: Port,
    principal: str | None,
    arguments: list[bytes],
) -> RemctlSimpleResult:
    """Do what remctl() does, when all is checked, with a client that ``make`` makes."""
    try:
        with make() as client:
            client.open(host, port, principal)
            return client.run(arguments)
    except RemctlProtocolError:
        raise
    except RemctlError as error:
        raise as_protocol_error(error) from error.__cause__


class Remctl(RemctlBase):
    """A connection to a remctl server, for any number of commands.

    If ``host`` is given, the constructor calls open().  The other arguments are
    those of remctl.remctl(); those after ``principal`` stand for calls of the
    setters.  A Remctl is a context manager that closes the connection, and an
    iterable of the output tokens of the current command.

    All methods may be called from any thread.  One call at a time uses the
    connection and others wait for it, but close(), error(), opened and the
    setters never wait.  A signal handler that uses an object which its own
    thread is using gets a RemctlError.  In a forked child the object is not
    open, and it neither uses nor disturbs the parent's connection.

    When a call that does I/O ends with an exception, KeyboardInterrupt
    included, the connection is closed unless it is certain that no part of a
    command or a reply is left on it.  The next call then raises
    RemctlNotOpenedError, and open() opens a new connection.
    """

    # The generator in which the last call that had to wait does so: see _block().
    _waiting: Any = None

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
        """Create the object, and open a connection if there is a host."""
        self._configure(timeout, ccache, source_ip)
        if host is not None:
            self.open(host, port, principal)

    def open(
        self,
        host: str = LAST_SERVER,
        port: Port = None,
        principal: str | None = None,
        *,
        sock: socket.socket | None = None,
    ) -> None:
        """Connect and authenticate.  An open connection is closed first.

        If the server resets the connection before it answers, its queue of new
        connections is probably full: open() tries again, for a few seconds
        (Linux only).

        Args:
            host: The host to connect to.  Without it: the host, port and
                principal of the last open().
            port: As in remctl.remctl().
            principal: As in remctl.remctl().
            sock: A connected stream socket to use instead of connecting, for
                tunnels and proxies.  From then on it belongs to this object,
                and it is closed when open() fails.  ``host`` is then used only
                for the default principal, and ``port`` is not used.

        Raises:
            TypeError, ValueError: An argument is wrong, or there was no open()
                before, or that one had a ``sock``; nothing has changed.
            RemctlTimeoutError: The time-out has passed.
            RemctlError: The host cannot be found or reached, or one side does
                not accept the other.  The object is then not open.

        Blocks, without the GIL (remctl_open_fd).

        """
        server = self._server_to_open(host, port, principal, sock)
        if sock is not None:
            sock = _arguments.connected_socket(sock)
        with sock or nullcontext():  # the connection has duplicates
            self._drive(self._open(server, sock))

    def command(self, command: Iterable[object]) -> None:
        """Send a command, whose output is then read with output().

        Args:
            command: As in remctl.remctl().

        Raises:
            RemctlNotOpenedError: There is no open connection.
            TypeError, ValueError: The command is wrong; nothing has been sent.
            RemctlTimeoutError: The server has stopped reading.
            RemctlError: The connection is lost; or the reply to the last
                command is not read to its end, and nothing has changed.

        Blocks, without the GIL, when the server does not read a large command
        (remctl_commandv; protocol specification, MESSAGE_COMMAND).

        """
        self._opened_connection()
        arguments = _arguments.command(command)
        self._exclusively(self._command, arguments)

    def output(self) -> RemctlOutput:
        """Read the next output token of the current command.

        A command gives any number of output tokens and a status token, or an
        error token at any point before that.  After a status or error token,
        and before the first command, all tokens are of type "done".

        Raises:
            RemctlNotOpenedError: There is no open connection.
            RemctlTimeoutError: The server was silent for too long.
            RemctlError: The connection is lost.

        Blocks, without the GIL, until a token is there (remctl_output).

        """
        return self._exclusively(self._output)

    def run(self, command: Iterable[object]) -> RemctlSimpleResult:
        """Send a command, read all its output and return the result.

        Until it returns, all of the output is kept in memory.

        Threads that share the object can all call this: each gets its own
        command's result.

        Args:
            command: As in remctl.remctl().

        Raises:
            RemctlNotOpenedError: There is no open connection.
            TypeError, ValueError: The command is wrong; nothing has been sent.
            RemctlTimeoutError: The server was silent for too long.
            RemctlProtocolError: The server answered with an error, whose code
                is in ``code``.  The connection stays open.
            RemctlError: As in command().

        Blocks, without the GIL.

        """
        self._opened_connection()
        arguments = _arguments.command(command)
        return self._exclusively(self._run, arguments)

    def noop(self) -> bool:
        """Keep the connection alive by exchanging NOOP messages with the server.

        Returns:
            True if the server answered.  False if it speaks a protocol before
            3, which has no such message; the connection is as good as before.

        Raises:
            RemctlNotOpenedError: There is no open connection.
            RemctlTimeoutError: The server did not answer in time.
            RemctlError: The connection is lost; or the reply to the last
                command is not read to its end, and nothing has changed.

        Blocks, without the GIL (remctl_noop; protocol specification,
        MESSAGE_NOOP).

        """
        return self._exclusively(self._ask)

    def __iter__(self) -> Iterator[RemctlOutput]:
        """Read the current command's tokens, up to its status or error token.

        Raises what output() raises.
        """
        while True:
            token = self.output()
            if token.type == "done":
                return
            yield token
            if token.type != "output":
                return

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    @property
    def _lock(self) -> threading.RLock:
        # An RLock, as it knows whether this thread holds it.  A flag of our own could
        # be wrong, as a signal may come before or after it is set.
        lock: threading.RLock | None = self._in_process.get(generation[0])
        if lock is None:
            lock = of_this_process(self._in_process, threading.RLock)
        return lock

    def _command(self, arguments: list[bytes], must_finish: bool = False) -> Connection:
        connection = self._opened_connection()
        unsent = connection.command_now(arguments, must_finish)
        if unsent is not None:
            self._block(connection.command_later(unsent, self._timeout))
        return connection

    def _output(self) -> RemctlOutput:
        connection = self._readable_connection()
        # Fast path, without a generator: the token is usually buffered.
        token = connection.output_now()
        if token is not None:
            return token
        return self._block(connection.output_later(self._timeout))

    def _run(self, arguments: list[bytes]) -> RemctlSimpleResult:
        # Its own connection to the end, so that a close() after the command was sent is
        # an error in the reply, and not a call without a connection.
        connection = self._command(arguments, must_finish=True)
        timeout = self._timeout
        deadline = deadline_after(timeout)
        result = connection.reply_now(deadline)
        if result is not None:
            return result
        return self._block(connection.reply_later(timeout, deadline))

    def _ask(self) -> bool:
        connection, timeout = self._opened_connection(), self._timeout
        deadline = connection.idle_deadline(timeout)
        answered = connection.noop_now(deadline)
        if answered is not None:
            return answered
        return self._block(connection.noop_later(timeout, deadline))

    def _drive(self, steps: Steps[T]) -> T:
        result: T = self._exclusively(self._block, steps)
        return result

    def _block(self, steps: Steps[T]) -> T:
        # In a generator, whose gi_running tells for certain whether this call is still
        # waiting, whatever interrupts it.
        waiting = (block(each) for each in (steps,))
        self._waiting = waiting
        (result,) = waiting
        return result

    def _exclusively(self, function: Callable[..., T], *arguments: object) -> T:
        """Call ``function`` while no other thread uses the connection."""
        lock = self._lock
        while holds(lock):
            if self._interrupted_call():  # guard 59
                raise RemctlError("the object is in use by the interrupted call")
            if self._is_waiting():
                # Under gevent and eventlet, a wait switches greenlets.  A lock that was
                # made before threads were patched, or where they are not patched, takes
                # all greenlets for one thread.
                raise RemctlError(
                    "the object is in use by another greenlet, and its lock is one of "
                    "threads: patch them before its first call"
                )
            # On PyPy and CPython 3.9, an interrupt between the end of a with block and
            # the release of its lock leaves the lock held.
            lock.release()
        with lock:  # guard 6
            last_error = self._begin_call()
            try:
                result: T = function(*arguments)
                last_error[0] = NO_ERROR
                return result  # noqa: TRY300 (so that no token is lost)
            except BaseException as error:
                # Inline, here and in the twin: where a function begins, a signal may be
                # handled, and its exception would keep both from being done.
                try:
                    self._record(error, last_error)
                finally:
                    interrupted = not isinstance(error, RemctlError)
                    self._drop_broken(last_error, interrupted)
                raise

    def _interrupted_call(self) -> bool:
        """Whether a signal handler has interrupted a call on this object."""
        if not holds(self._lock):
            return False
        frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 (no other way)
        while frame is not None:
            if (
                frame.f_code is Remctl._exclusively.__code__
                and frame.f_locals["self"] is self
            ):
                return True
            frame = frame.f_back
        return False

    def _is_waiting(self) -> bool:
        """Whether a call on this object waits, in any thread or greenlet."""
        return bool(self._waiting is not None and self._waiting.gi_running)

    def _detach(self) -> Connection | None:
        lock = self._lock
        # An interrupted call of this thread may hold it.
        if holds(lock) or not lock.acquire(blocking=False):
            return None
        try:
            connection: Connection | None = vars(self).pop("_connection", None)
            return connection
        finally:
            lock.release()

    def _is_left_broken(self, connection: Connection) -> bool:
        if self._interrupted_call() or self._is_waiting():
            return False
        lock = self._lock
        if not lock.acquire(blocking=False):
            return False  # a call in another thread uses it
        try:
            return connection.broken
        finally:
            # A signal handler that has used the object has released it, as above.
            with suppress(RuntimeError):
                lock.release()


def holds(lock: threading.RLock) -> bool:
    """Whether the calling thread holds ``lock``."""
    # No public method says so.  threading.Condition uses this one, so every RLock has
    # it, those of gevent and eventlet too.
    return lock._is_owned()  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001


publish("remctl", Remctl, remctl)
