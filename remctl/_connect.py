# SPDX-License-Identifier: MIT
"""From a server's name to a connected TCP socket, as steps."""

from __future__ import annotations

# The C module: gevent and eventlet replace the classes and functions of socket by their
# own, which are never blocking and cannot be connected step by step.
import _socket
import os
import select
from contextlib import suppress
from errno import EAFNOSUPPORT, ECONNRESET, EINPROGRESS, ETIMEDOUT
from functools import partial

from remctl._arguments import source_family
from remctl._exceptions import RemctlError, RemctlTimeoutError
from remctl._explain import cannot_connect, duration, printable_line
from remctl._ffi import lib, new_handle, to_text
from remctl._jobs import finish
from remctl._waiting import Readiness, deadline_after

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Union

    from remctl._arguments import Server
    from remctl._log import Log
    from remctl._stage import Stage
    from remctl._waiting import Steps

    Address = tuple[int, tuple[Any, ...]]
    Socket = Union[_socket.socket, socket.socket]

STDERR_FILENO = 2  # guard 63c


def resolve(
    server: Server, source_ip: str | None, timeout: float
) -> Steps[list[Address]]:
    """Return the server's addresses of the family of ``source_ip``, with port 0.

    The name service gets ``timeout`` seconds.  Raises RemctlError.
    """
    family = None
    if source_ip is not None:
        try:
            family = source_family(source_ip)  # guard 56
        except ValueError as error:
            where = cannot_connect(server.host, server.port or lib.REMCTL_PORT)
            text = f"{where}: {printable_line(str(error))}"
            raise RemctlError(text, "connect") from None
    found = yield from look_up(server.host, timeout)
    return [entry for entry in found if family in (None, entry[0])]


def connect(  # noqa: PLR0917 (all that it takes to connect)
    addresses: list[Address],
    server: Server,
    source_ip: str | None,
    timeout: float,
    sockets: list[Socket],
    log: Log,
) -> Steps[int]:
    """Connect to one of the server's addresses; return the port.

    The sockets are added to ``sockets``, and the caller closes them.  The last one is
    the connected one.

    For port 0, tries the registered port and then the legacy one, and reports the error
    of the first when both fail.  Each address gets ``timeout`` seconds.  Raises
    RemctlError.
    """
    port = server.port
    errors = []
    for number in (port,) if port else (lib.REMCTL_PORT, lib.REMCTL_PORT_OLD):
        error = yield from connect_port(
            addresses, number, source_ip, timeout, sockets, log
        )
        if error is None:
            return number
        errors.append(error)
    cause = errors[0]
    where = cannot_connect(server.host, port or lib.REMCTL_PORT)
    text = f"{where}: {reason(cause)}"
    raise failure(text, "connect", cause) from cause


def look_up(host: str, timeout: float) -> Steps[list[Address]]:
    """Return the families and addresses of ``host``, with port 0."""
    # As bytes: Python would encode a str with its own IDNA codec.
    name = host.encode("ascii")
    kind, numeric = _socket.SOCK_STREAM, _socket.AI_NUMERICHOST
    try:
        found = _socket.getaddrinfo(name, 0, 0, kind, 0, numeric)
        return [(entry[0], entry[4]) for entry in found]
    except OSError:
        pass  # a name: looked up below, in a way that can be interrupted
    handle, _owner = new_handle()
    begun = lib.shim_begin_look_up(handle, name)
    deadline = deadline_after(timeout)  # guard 48b
    try:
        outcome = yield from finish(handle, begun, deadline)
    except TimeoutError as error:
        text = f"unknown host {printable_line(host)}: timed out (no answer of the name "
        text += f"service for {duration(timeout)})"
        raise failure(text, "resolve", error) from None
    if outcome == lib.SHIM_NO_MEMORY:
        raise MemoryError
    if outcome == lib.SHIM_CLOSED:
        raise RemctlError("the call was begun by another process", "resolve")
    if outcome != lib.SHIM_OK and not handle.status:
        # It was not asked: there is no thread that could do it.
        text = f"cannot look up {printable_line(host)}: {to_text(handle.error)}"
        raise RemctlError(text, "resolve")
    if outcome != lib.SHIM_OK:
        cause = _socket.gaierror(handle.status, to_text(handle.error))
        text = f"unknown host {printable_line(host)}: {reason(cause)}"
        raise failure(text, "resolve", cause) from cause
    return [address(line) for line in to_text(handle.data).splitlines()]


def address(line: str) -> Address:
    """Return the address in one line of the result of shim_begin_look_up()."""
    family, host, flow, scope = line.split()
    if int(family) == _socket.AF_INET:
        return _socket.AF_INET, (host, 0)
    return _socket.AF_INET6, (host, 0, int(flow), int(scope))


def connect_port(  # noqa: PLR0917 (all that it takes to connect)
    addresses: list[Address],
    port: int,
    source_ip: str | None,
    timeout: float,
    sockets: list[Socket],
    log: Log,
) -> Steps[OSError | None]:
    """Connect to ``port`` on the first address that answers.

    Returns the last address's error if none does.
    """
    last_error = OSError(EAFNOSUPPORT, os.strerror(EAFNOSUPPORT))
    for number, (family, address) in enumerate(addresses, 1):
        log.debug("trying %s port %d", address[0], port)
        try:
            add_socket(sockets, family)
            if source_ip is not None:
                sockets[-1].bind((source_ip, 0))
            target = (address[0], port, *address[2:])
            yield from connect_socket(sockets[-1], target, timeout)
        except OSError as error:
            if (
                error.errno == ECONNRESET
                and number == len(addresses)
                and lib.SHIM_LINUX
            ):
                return None  # accepted, then reset: Connection.open() tries again
            if sockets:
                close_socket(sockets[-1])
            # Its frames would keep the client until garbage is collected.
            last_error = without_frames(error)
            log.debug("%s port %d: %s", address[0], port, reason(error))
        else:
            log.debug("connected to %s port %d", address[0], port)
            return None
    return last_error


def add_socket(sockets: list[Socket], family: int) -> None:
    """Add a new socket to the list at once, so that no interrupt can lose it."""
    sockets.append(_socket.socket(family, _socket.SOCK_STREAM))
    # Where standard descriptors are closed, as in some daemons, the socket would get
    # one of their numbers, and messages of C libraries would go to the server.
    while sockets[-1].fileno() <= STDERR_FILENO:
        copy = _socket.dup(sockets[-1].fileno())
        sockets.append(_socket.socket(family, _socket.SOCK_STREAM, 0, copy))
    for each in sockets[:-1]:
        close_socket(each)


def close_socket(sock: Socket) -> None:
    """Close a socket.  One in the place of a standard descriptor leaves no hole."""
    if 0 <= sock.fileno() <= STDERR_FILENO:
        lib.shim_vacate(sock.detach())
    else:
        sock.close()


def connect_socket(
    sock: Socket, address: tuple[Any, ...], timeout: float
) -> Steps[None]:
    """Connect to one address.  Raises OSError."""
    # Not with sock.connect(): PyPy's fails if a signal interrupts it, and close() in
    # another thread must be able to end the wait.
    sock.setblocking(False)
    # So that a peer that has vanished is noticed in the end, also without a time-out or
    # a waiting call.  Linux sends the first probe after two hours of silence.
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    code = sock.connect_ex(address)
    if code == EINPROGRESS:
        deadline = deadline_after(timeout)
        connected = Readiness(
            sock.fileno(), select.POLLOUT, deadline, partial(shut_down, sock)
        )
        while not connected.ready:
            if deadline.passed():
                text = f"{os.strerror(ETIMEDOUT)} (no answer for {duration(timeout)})"
                raise TimeoutError(ETIMEDOUT, text)
            yield connected
        code = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def prepare(sock: Socket) -> None:
    """Set the options of a connected socket."""
    with suppress(OSError):  # a tunnel need not be TCP
        # libremctl writes the handshake, and commands of many tokens, in several small
        # pieces, each of which would wait for the acknowledgement of the one before.
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)


def shut_down(sock: Socket) -> None:
    """End all waits for ``sock``.  Any thread may call this."""
    with suppress(OSError):  # it may not be connected any more
        sock.shutdown(_socket.SHUT_RDWR)


def without_frames(error: OSError) -> OSError:
    """Return ``error`` without what keeps the frames of callers alive."""
    error.__context__ = None
    return error.with_traceback(None)


def reason(error: OSError) -> str:
    """Return the text of ``error`` without its number."""
    return printable_line(error.strerror or str(error))


def failure(text: str, stage: Stage, cause: OSError) -> RemctlError:
    """Return the exception for a failure that is due to ``cause``."""
    if isinstance(cause, TimeoutError):
        return RemctlTimeoutError(text, None, stage)
    return RemctlError(text, stage)
