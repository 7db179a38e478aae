# SPDX-License-Identifier: MIT
"""The blocking interface: remctl() for one command, Remctl for a connection."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from remctl import _arguments
from remctl._connection import Connection
from remctl._exceptions import (
    RemctlError,
    RemctlNotOpenedError,
    RemctlProtocolError,
)
from remctl._ffi import unsupported_ccache
from remctl._results import Reply
from remctl._waiting import block

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator
    from types import FrameType, TracebackType

    from typing_extensions import Self

    from remctl._arguments import Port, Server
    from remctl._results import RemctlOutput, RemctlSimpleResult

T = TypeVar("T")

NO_ERROR = "no error"
NOT_OPENED = "no currently open connection"


def remctl(
    host: str,
    port: Port = None,
    principal: str | None = None,
    command: Iterable[object] = (),
    *,
    timeout: float | None = None,
    ccache: str | None = None,
    source_ip: str | None = None,
) -> RemctlSimpleResult:
    """Run one command on a remote host and return its output and exit status.

    Opens a connection, runs the command and closes the connection.  Until it
    returns, all of the output is kept in memory; see Remctl.output() for more
    than fits there.

    Args:
        host: The host to connect to.
        port: A number, also as a string of digits.  None or 0: 4373, and if
            that fails the legacy 4444.
        principal: The server's principal.  None or "": the host-based service
            ``host`` on ``host``, as GSS-API canonicalises it.
        command: The command and its arguments: any iterable, consumed once.
            bytes, bytearray and memoryview are sent as they are, str as UTF-8
            (surrogates from sys.argv as the bytes they stand for), os.PathLike
            as os.fsencode() gives it, anything else but None as its str().
        timeout: Seconds of silence, fractions included, after which to give
            up; see Remctl.set_timeout().  None or 0: wait for ever.
        ccache: The credential cache to use.  None: the default one.
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
    arguments = _arguments.command(command)
    if timeout is not None and _arguments.seconds(timeout) < 0:
        raise ValueError(f"invalid timeout {timeout}")
    if source_ip is not None:
        _arguments.source_family(_arguments.text("source_ip", source_ip))
    try:
        with Remctl(timeout=timeout, ccache=ccache, source_ip=source_ip) as client:
            client.open(host, port, principal)
            return client.run(arguments)
    except RemctlProtocolError:
        raise
    except RemctlError as error:
        raise RemctlProtocolError(error.value) from error


class Remctl:
    """A connection to a remctl server, for any number of commands.

    With ``host`` the constructor calls open(); the other arguments are those
    of remctl.remctl() and the setters, which they stand for.  A Remctl is a
    context manager that closes the connection, and iterates over the output
    tokens of the current command.

    All methods may be called from any thread.  One call at a time has the
    connection, others wait for it, but close(), error(), opened and the
    setters never wait.  A signal handler that uses the object its own thread
    is using gets a RemctlError.  In a forked child the object is not open,
    and neither uses nor disturbs the parent's connection.

    When a call that does I/O is left by an exception, KeyboardInterrupt too,
    the connection is closed unless it is certain to be in step with the
    server.  The next call then raises RemctlNotOpenedError, and open() opens
    a new one.
    """

    # For close(), where __init__ has not been called or calls it.
    _connection: Connection | None = None
    _closes = 0

    def __init__(
        self,
        host: str | None = None,
        port: Port = None,
        principal: str | None = None,
        *,
        timeout: float | None = None,
        ccache: str | None = None,
        source_ip: str | None = None,
    ) -> None:
        """Create the object, and open a connection if there is a host."""
        self.close()
        self._start_anew()
        self._error = NO_ERROR
        self._timeout = 0.0
        self._ccache: str | None = None
        self._source_ip: str | None = None
        if timeout is not None:
            self.set_timeout(timeout)
        if ccache is not None:
            self.set_ccache(ccache)
        if source_ip is not None:
            self.set_source_ip(_arguments.text("source_ip", source_ip))
        if host is not None:
            self.open(host, port, principal)

    def set_ccache(self, ccache: str) -> None:
        """Use the credential cache CCACHE for later open() calls on this object.

        A missing cache is noticed by open(), unless there is a client keytab,
        from which Kerberos then fills it.  Without set_ccache() the default
        cache is used; what another GSS-API binding has set for its thread does
        not count.  (remctl_set_ccache; with a libremctl built without
        gss_krb5_import_cred, the whole process and all its GSS-API connections
        change their cache.)

        Raises:
            TypeError, ValueError: Not a str, or it contains NUL.
            RemctlError: The GSS-API library cannot set the cache.

        Does not block.

        """
        ccache = _arguments.text("ccache", ccache)
        reason = unsupported_ccache(ccache)
        if reason is not None:
            self._error = reason
            raise RemctlError(reason)
        self._ccache = ccache
        self._error = NO_ERROR

    def set_source_ip(self, source: str) -> None:
        """Connect from the IPv4 or IPv6 address SOURCE in later open() calls.

        open() checks that it is an address, and this host's.

        Raises:
            TypeError, ValueError: Not a str, or it contains NUL.

        Does not block.

        """
        self._source_ip = _arguments.text("source", source)
        self._error = NO_ERROR

    def set_timeout(self, timeout: float) -> None:
        """Give up after TIMEOUT seconds of silence; 0 waits for ever.

        Applies to all later calls, open() included.  Fractions count.  It is a
        bound on silence, not on the whole operation: a command may take as
        long as it likes if the server sends something every now and then.
        open() applies it to the name service, to each address it tries, and to
        the handshake as a whole, KDC included.  On a protocol 1 server it
        bounds the handshake of each command, and the command.

        Raises:
            TypeError: Not a number.
            ValueError: Not finite.
            RemctlError: Negative.

        Does not block.

        """
        seconds = _arguments.seconds(timeout)
        if seconds < 0:
            self._error = f"invalid timeout {timeout}"
            raise RemctlError(self._error)
        self._timeout = seconds
        self._error = NO_ERROR

    def open(
        self,
        host: str,
        port: Port = None,
        principal: str | None = None,
        *,
        sock: socket.socket | None = None,
    ) -> None:
        """Connect and authenticate.  An open connection is closed first.

        A server that resets the connection before it answers has no room for
        another: open() tries again then, for a few seconds (Linux only).

        Args:
            host: The host to connect to.
            port: As in remctl.remctl().
            principal: As in remctl.remctl().
            sock: A connected stream socket to use instead of connecting, for
                tunnels and proxies.  It belongs to this object from here on,
                and is closed when open() fails.  ``host`` is used for the
                default principal then, and ``port`` not at all.

        Raises:
            TypeError, ValueError: An argument is wrong; nothing has changed.
            RemctlTimeoutError: The time-out has passed.
            RemctlError: The host cannot be found or reached, or one of both
                sides does not accept the other.  The object is not open then.

        Blocks, without the GIL (remctl_open_fd).

        """
        server = _arguments.server(host, port, principal)
        if sock is not None:
            sock = _arguments.connected_socket(sock)
        self._exclusively(self._open, server, sock)

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
        self._check_process()
        self._opened_connection()
        self._exclusively(self._command, _arguments.command(command))

    def output(self) -> RemctlOutput:
        """Read the next output token of the current command.

        A command gives any number of output tokens and a status token, or an
        error token at any point before that.  After these, and before the
        first command, there are only "done" tokens.

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
        self._check_process()
        self._opened_connection()
        return self._exclusively(self._run, _arguments.command(command))

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
        return self._exclusively(self._noop)

    def close(self) -> None:
        """Close the connection, if there is one.  open() may be called again.

        Never blocks.  From another thread or a signal handler, it makes the
        call that is using the connection raise RemctlError at once.
        """
        connection, self._connection = self._connection, None
        self._closes += 1
        self._error = NOT_OPENED
        if connection is not None:
            connection.close()

    def error(self) -> str:
        """Return the text of the last failure, "no error" after a success.

        After close() it is "no currently open connection".  Wrong arguments
        do not count.  Never blocks.
        """
        self._check_process()
        return self._error

    @property
    def opened(self) -> bool:
        """Whether there is an open connection, as far as is known without I/O."""
        connection = self._connection
        return (
            connection is not None
            and connection.established
            and connection.usable
            # Else interrupts have kept us from closing it: the next call does.
            and (not connection.broken or self._in_use())
        )

    def fileno(self) -> int:
        """Return the connection's descriptor, to wait on but not to read from.

        When it is readable, there is something to read with output(), though
        perhaps not a whole token.

        Raises:
            RemctlNotOpenedError: There is no open connection, or the server
                speaks protocol 1, which opens one for each command.

        Never blocks.

        """
        fd = self._opened_connection().fileno()
        if fd < 0:
            raise RemctlNotOpenedError(NOT_OPENED)
        return fd

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

    def __reduce__(self) -> Any:
        """Refuse to be pickled or copied: a connection cannot be."""
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def _start_anew(self) -> None:
        """Forget all connections and callers: in a new object or process."""
        self._connection = None
        # An RLock because it knows whether this thread holds it, which no flag
        # of ours could say for certain: a signal may come at any moment.
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def _check_process(self) -> None:
        """In a forked child, let go of the parent's connection and lock."""
        if self._pid != os.getpid():
            connection = self._connection
            self._start_anew()
            if connection is not None:
                self._error = NOT_OPENED
                connection.close()

    def _opened_connection(self) -> Connection:
        connection = self._connection
        if connection is None or not connection.usable:
            raise RemctlNotOpenedError(NOT_OPENED)
        return connection

    def _exclusively(self, function: Callable[..., T], *arguments: object) -> T:
        """Call FUNCTION while no other thread uses the connection."""
        self._check_process()
        if self._interrupted_call():
            raise RemctlError("the object is in use by the interrupted call")
        while self._lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001
            # Left behind: on PyPy and CPython 3.9 an interrupt can come between
            # the end of a with block and the release of its lock.
            self._lock.release()
        with self._lock:
            self._drop_broken()  # where a second interrupt kept us from it
            closes = self._closes
            try:
                result = function(*arguments)
                self._error = NO_ERROR
                return result  # noqa: TRY300 (no token is lost on the way out)
            except BaseException as error:
                try:
                    if self._closes == closes:
                        self._note(error)
                finally:
                    self._drop_broken(interrupted=not isinstance(error, RemctlError))
                raise

    def _note(self, error: BaseException) -> None:
        """Keep the text of ERROR for error()."""
        if not isinstance(error, RemctlError):
            self._error = str(error) or type(error).__name__
        elif not isinstance(error, RemctlNotOpenedError):
            # That has not the text that tells why there is no connection.
            self._error = error.value

    def _interrupted_call(self) -> bool:
        """Whether a signal handler has interrupted a call on this object."""
        if not self._lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001
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

    def _in_use(self) -> bool:
        """Whether a call on this object is under way, in any thread."""
        if self._interrupted_call():
            return True
        if not self._lock.acquire(blocking=False):
            return True
        self._lock.release()
        return False

    def _drop_broken(self, interrupted: bool = False) -> None:
        """Close the connection if nobody knows what is on the wire."""
        connection = self._connection
        if connection is not None and (
            connection.broken or (interrupted and connection.pending)
        ):
            connection.close()
            self._connection = None

    def _open(self, server: Server, sock: socket.socket | None) -> None:
        if self._connection is not None:
            self._connection.close()
        connection = Connection(server, self._ccache, self._source_ip)
        self._connection = connection
        block(connection.open(self._timeout, sock))

    def _command(self, arguments: list[bytes], must_finish: bool = False) -> None:
        connection = self._opened_connection()
        if not connection.pending:
            connection.must_finish = must_finish
        block(connection.command(arguments, self._timeout))

    def _output(self) -> RemctlOutput:
        connection = self._connection
        if connection is None or not connection.alive:
            raise RemctlNotOpenedError(NOT_OPENED)
        token = connection.output_now()
        if token is None:
            token = block(connection.output(self._timeout))
        return token

    def _run(self, arguments: list[bytes]) -> RemctlSimpleResult:
        self._command(arguments, must_finish=True)
        reply = Reply()
        while True:
            result = reply.add(self._output())
            if result is not None:
                return result

    def _noop(self) -> bool:
        return block(self._opened_connection().noop(self._timeout))
