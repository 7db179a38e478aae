# SPDX-License-Identifier: MIT
"""What the blocking and the asyncio Remctl share: everything except the waiting."""

from __future__ import annotations

from remctl import _arguments
from remctl._connection import Connection
from remctl._exceptions import RemctlError, RemctlNotOpenedError, RemctlProtocolError
from remctl._explain import peer
from remctl._ffi import generation, lib, unsupported_ccache

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable
    from typing import Any, Callable, TypeVar

    from remctl._arguments import Ccache, Port, Server
    from remctl._log import Log
    from remctl._waiting import Steps

    T = TypeVar("T")

NO_ERROR = "no error"
NOT_OPENED = "no currently open connection"

# The default host of open(), which is told from a caller's by its identity.
LAST_SERVER = "the server that was opened last"


def check_call(
    command: Iterable[object], timeout: float | None, source_ip: str | None
) -> list[bytes]:
    """Check arguments of remctl() before any I/O; return those of the command."""
    arguments = _arguments.command(command)
    if timeout is not None and _arguments.seconds(timeout) < 0:
        raise ValueError(f"invalid timeout {timeout}")
    if source_ip is not None:
        _arguments.source_family(_arguments.text("source_ip", source_ip))
    return arguments


def as_protocol_error(error: RemctlError) -> RemctlProtocolError:
    """Return what remctl() raises for ``error``.

    It is raised from the cause of ``error``, and not from the error itself: a traceback
    would show the same text twice.
    """
    return RemctlProtocolError(error.value, None, error.stage)


def without_traceback(error: RemctlError) -> RemctlError:
    """Return a copy of ``error`` without its traceback, which keeps all of the call."""
    # Without __init__(), as a caller's class may have another one.
    copy = type(error).__new__(type(error))
    copy.args = error.args
    vars(copy).update(vars(error))
    copy.__cause__ = error.__cause__
    return copy


def name_of(server: Server) -> str:
    """Return the name of a server that has not been connected to."""
    return peer(server.host, server.port or lib.REMCTL_PORT)


def of_this_process(states: dict[int, T], make: Callable[[], T]) -> T:
    """Return the state of this process, as made by ``make``, and forget the parent's.

    All threads of a process get the same one.  A forked child makes its own, as locks
    held by other threads of the parent are never released in the child.
    """
    ours = generation[0]  # guard 47e
    if ours not in states:
        states.setdefault(ours, make())
        for other in list(states):
            if other != ours:
                states.pop(other, None)
    return states[ours]


class RemctlBase:
    """The settings, the connection, the last error, and the steps of each call."""

    # Here, as close() may come before __init__(), and is called by it.
    _connection: Connection | None = None
    _log: Log | None = None  # of the last connection

    # What open() opens without arguments, and whether that was reached by a socket.
    _last_server: Server | None = None
    _last_sock: bool = False

    # The last failure, or the text for error(), in a list that close() replaces: a call
    # that began before has the old list, and does not change what error() says after
    # close().
    _last_error: list[RemctlError | str]
    _last_error_of_call: list[RemctlError | str]

    def _configure(
        self, timeout: float | None, ccache: Ccache | None, source_ip: str | None
    ) -> None:
        """Close the connection, if there is one, and apply the settings."""
        self.close()
        # The object's lock, or other state: see of_this_process().
        self._in_process: dict[int, Any] = {}
        self._last_error = [NO_ERROR]
        self._log = self._last_server = None
        self._timeout = 0.0
        self._ccache: str | None = None
        self._source_ip: str | None = None
        if timeout is not None:
            self.set_timeout(timeout)
        if ccache is not None:
            self.set_ccache(ccache)
        if source_ip is not None:
            self.set_source_ip(_arguments.text("source_ip", source_ip))

    def set_ccache(self, ccache: Ccache) -> None:
        """Use another credential cache for later open() calls on this object.

        A missing cache is noticed by open(), unless there is a client keytab,
        from which Kerberos then fills it.  Without set_ccache() the default
        cache is used; what another GSS-API binding has set for its thread does
        not count.  (remctl_set_ccache; with a libremctl built without
        gss_krb5_import_cred, the whole process and all its GSS-API connections
        change their cache.)

        A KEYRING:thread: cache cannot be used: its keys belong to one thread,
        and open() authenticates in another.

        Args:
            ccache: The name of the cache, as in KRB5CCNAME, or an os.PathLike.

        Raises:
            TypeError, ValueError: Neither a str nor a path, or it contains NUL.
            RemctlError: The GSS-API library cannot set the cache.

        Does not block.

        """
        name = _arguments.cache_name(ccache)
        reason = unsupported_ccache(name)
        if reason is not None:
            self._last_error[0] = reason
            raise RemctlError(reason, "authenticate")
        self._ccache = name
        self._last_error[0] = NO_ERROR

    def set_source_ip(self, source: str) -> None:
        """Connect from another local address in later open() calls.

        Args:
            source: An IPv4 or IPv6 address.  open() checks that it is one, and
                that it belongs to this host.

        Raises:
            TypeError, ValueError: Not a str, or it contains NUL.

        Does not block.

        """
        self._source_ip = _arguments.text("source", source)
        self._last_error[0] = NO_ERROR

    def set_timeout(self, timeout: float) -> None:
        """Set how long later calls, open() included, wait for a silent server.

        The time-out is a bound on silence, not on the whole operation: a
        command may take as long as it likes if the server sends something every
        now and then.  open() applies it to the name service, to each address
        that it tries, and to the handshake as a whole, KDC included.  With a
        protocol 1 server it bounds the handshake of each command, and the
        command.

        Args:
            timeout: Seconds, fractions included.  0: wait for ever.

        Raises:
            TypeError: Not a number.
            ValueError: Not finite.
            RemctlError: Negative.

        Does not block.

        """
        seconds = _arguments.seconds(timeout)
        if seconds < 0:
            reason = f"invalid timeout {timeout}"
            self._last_error[0] = reason
            raise RemctlError(reason)
        self._timeout = seconds  # guard 51b
        self._last_error[0] = NO_ERROR

    def close(self) -> None:
        """Close the connection, if there is one.  open() may be called again.

        Never blocks, unless a handler of the program's log does.  If another
        thread is using the connection, or this is a signal handler that has
        interrupted such a call, that call raises RemctlError at once.
        """
        self._close("by close()")

    def _close(self, reason: str) -> None:
        self._last_error = [NOT_OPENED]
        # Before vars(), after which CPython is slower with all attributes of an object:
        # the constructor comes here, too.
        if self._connection is None:
            return
        # In one step, so that a connection that another thread opens is not lost.
        connection = vars(self).pop("_connection", None)
        if connection is not None:
            connection.close(reason)

    def error(self) -> str:
        """Return the text of the last failure, or "no error" after a success.

        After close() it is "no currently open connection".  Wrong arguments
        are not failures.  Never blocks.
        """
        return NOT_OPENED if self._is_inherited() else str(self._last_error[0])

    @property
    def opened(self) -> bool:
        """Whether there is an open connection, as far as is known without I/O."""
        connection = self._connection
        return (
            connection is not None
            and connection.established
            and connection.usable
            and not (connection.broken and self._is_left_broken(connection))
        )

    def fileno(self) -> int:
        """Return the connection's descriptor, to wait for but not to read from.

        When it is readable, there is something to read with output(), though
        perhaps not a whole token.  While a call of remctl.aio waits, it uses
        the event loop's add_reader() with this descriptor, so nothing else may.

        Raises:
            RemctlNotOpenedError: There is no open connection, or the server
                speaks protocol 1, which opens one for each command.

        Never blocks.

        """
        fd = self._opened_connection().fileno()
        if fd < 0:
            raise RemctlNotOpenedError(NOT_OPENED)
        return fd

    def __repr__(self) -> str:
        """Return the class, the last server, and whether there is a connection."""
        connection = self._connection
        if (
            connection is None
            or not connection.usable
            or (connection.broken and self._is_left_broken(connection))
        ):
            state = "not open"
        elif not connection.established:
            state = "opening"
        else:
            state = "open, a reply is unread" if connection.pending else "open"
        server = self._peer()
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        return f"<{name} {server}, {state}>" if server else f"<{name} {state}>"

    def _peer(self) -> str | None:
        """Return the name of the last server, or of the one to open, if any."""
        connection = self._connection
        if connection is not None:
            return connection.peer
        if self._log is not None:
            return self._log.peer
        return None if self._last_server is None else name_of(self._last_server)

    def __reduce__(self) -> Any:
        """Refuse to be pickled or copied, as a connection cannot be."""
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def _is_inherited(self) -> bool:
        """Whether the connection was opened before a fork, by the parent process."""
        connection = self._connection
        return connection is not None and not connection.closed and connection.inherited

    def _opened_connection(self) -> Connection:
        connection = self._connection
        if connection is None or not connection.usable:
            raise self._not_opened()
        return connection

    def _not_opened(self) -> RemctlNotOpenedError:
        """Return the exception for a call that needs a connection."""
        error = RemctlNotOpenedError(NOT_OPENED)
        connection, cause = self._connection, self._last_error[0]
        if self._is_inherited():
            return error
        error.__cause__ = cause if isinstance(cause, RemctlError) else None
        loss = None if connection is None else connection.loss
        if loss is not None:
            loss.__cause__, error.__cause__ = error.__cause__, loss
        return error

    def _begin_call(self) -> list[RemctlError | str]:
        """Drop a connection that cannot be used; return where to record an error."""
        connection = self._connection
        if connection is not None:
            if connection.inherited:
                if not connection.closed:
                    self.close()
            elif connection.in_flight or connection.pending:
                # If a second interrupt has kept a call from it.
                self._drop_broken(self._last_error)
        last_error = self._last_error
        self._last_error_of_call = last_error
        return last_error

    def _record(
        self, error: BaseException, last_error: list[RemctlError | str]
    ) -> None:
        """Keep an exception for error(), and as the cause of a RemctlNotOpenedError."""
        if not isinstance(error, RemctlError):
            connection = self._connection
            last_error[0] = RemctlError(
                str(error) or type(error).__name__,
                None if connection is None else connection.stage,
            )
        elif not isinstance(error, RemctlNotOpenedError):
            # Otherwise what is kept tells why there is no connection.
            last_error[0] = without_traceback(error)

    def _is_left_broken(self, connection: Connection) -> bool:
        """Whether ``connection`` is broken, and no call that uses it is in progress.

        Interrupts have kept an earlier call from closing it; the next one does that.
        """
        raise NotImplementedError

    def _drop_broken(
        self, last_error: list[RemctlError | str], interrupted: bool = False
    ) -> None:
        """Close the connection if half-sent or unread data may be left on it.

        But not if there was a close() since the call with this ``last_error`` began:
        then the connection is that of a call in another event loop.
        """
        connection = self._connection
        # In this order, and without a change of _connection, as that loop may put its
        # own there at any moment.
        if connection is None or self._last_error is not last_error:
            return
        broken = connection.broken  # guard 5, 35
        unread = interrupted and connection.pending  # guard 45
        if broken or unread:
            connection.close(str(last_error[0]))

    def _server_to_open(
        self,
        host: str,
        port: Port,
        principal: str | None,
        sock: socket.socket | None,
    ) -> Server:
        """Check the arguments of open(), and return the server that they mean."""
        if host is not LAST_SERVER:
            return _arguments.server(host, port, principal)
        if port is not None or principal is not None:
            raise ValueError("open() needs a host for this port or principal")
        if self._last_server is None:
            raise ValueError("open() needs a host: nothing has been opened before")
        if self._last_sock and sock is None:
            raise ValueError("open() needs a socket, as it had the last time")
        return self._last_server

    def _open(self, server: Server, sock: socket.socket | None) -> Steps[None]:
        self._last_server, self._last_sock = server, sock is not None
        connection = self._connection
        if connection is not None:
            connection.close("open() replaces it")
        connection = self._new_connection(server)
        self._connection = connection
        self._log = connection.log
        if self._last_error is not self._last_error_of_call:
            # A close() since the call began has not found it.
            connection.close("by close()")
        yield from connection.open(self._timeout, sock)

    def _adopt(self, connection: Connection, server: Server) -> None:
        """Use a connection to ``server`` that another object has opened."""
        self._connection, self._log = connection, connection.log
        self._last_server = server

    def _detach(self) -> Connection | None:
        """Return the connection, which is not this object's any more.

        None if there is none, or a call is using it.
        """
        raise NotImplementedError

    def _new_connection(self, server: Server) -> Connection:
        return Connection(server, self._ccache, self._source_ip)

    def _readable_connection(self) -> Connection:
        connection = self._connection
        if connection is None or connection.closed:
            raise self._not_opened()
        return connection
