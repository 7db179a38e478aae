# SPDX-License-Identifier: MIT
"""From a server's name to a connected TCP socket, as steps."""

from __future__ import annotations

import os
import select
import socket
import sys
from contextlib import suppress
from errno import EAFNOSUPPORT, ECONNRESET, EINPROGRESS, ETIMEDOUT
from functools import partial
from typing import TYPE_CHECKING, Any

from remctl._arguments import source_family
from remctl._exceptions import RemctlError, RemctlTimeoutError
from remctl._ffi import lib
from remctl._waiting import Deadline, Readiness, Work, run_in_thread

if TYPE_CHECKING:
    from remctl._arguments import Server
    from remctl._waiting import Steps

    Address = tuple[socket.AddressFamily, tuple[Any, ...]]

STDERR_FILENO = 2


def resolve(
    server: Server, source_ip: str | None, timeout: float
) -> Steps[list[Address]]:
    """Return SERVER's addresses, with port 0, that can be reached from SOURCE_IP.

    TIMEOUT seconds bound the name service.  Raises RemctlError.
    """
    family = None
    if source_ip is not None:
        try:
            family = source_family(source_ip)
        except ValueError as error:
            raise RemctlError(f"{cannot_connect(server)}: {error}") from None
    found = yield from look_up(server.host, timeout)
    return [entry for entry in found if family in (None, entry[0])]


def connect(
    addresses: list[Address],
    server: Server,
    source_ip: str | None,
    timeout: float,
    sockets: list[socket.socket],
) -> Steps[int]:
    """Connect to one of SERVER's ADDRESSES; return the port.

    The connected socket is the last of SOCKETS, which the caller closes.

    For port 0 tries the registered port, then the legacy one, and reports the
    first's error when both fail.  TIMEOUT seconds bound each address's connect.
    Raises RemctlError.
    """
    port = server.port
    errors = []
    for number in (port,) if port else (lib.REMCTL_PORT, lib.REMCTL_PORT_OLD):
        try:
            yield from connect_port(addresses, number, source_ip, timeout, sockets)
        except OSError as error:
            errors.append(error)
        else:
            return number
    raise failure(cannot_connect(server), errors[0])


def cannot_connect(server: Server) -> str:
    """Return the text for it; port 0 is the registered one."""
    return f"cannot connect to {server.host} (port {server.port or lib.REMCTL_PORT})"


def look_up(host: str, timeout: float) -> Steps[list[Address]]:
    """Return the families and addresses of HOST, with port 0."""

    def get(flags: int = 0) -> list[Address]:
        # As bytes, or Python would apply its own idea of IDNA.
        name = host.encode("ascii")
        found = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM, flags=flags)
        return [(entry[0], entry[4]) for entry in found]

    try:
        return get(socket.AI_NUMERICHOST)
    except OSError:
        pass  # a name, to be looked up where it can be interrupted
    try:
        return (yield from run_in_thread(get, Work.LOOKUP, Deadline(timeout)))
    except OSError as error:
        raise failure(f"unknown host {host}", error) from None


def connect_port(
    addresses: list[Address],
    port: int,
    source_ip: str | None,
    timeout: float,
    sockets: list[socket.socket],
) -> Steps[None]:
    """Connect to PORT on the first of ADDRESSES that answers, else OSError."""
    last_error = OSError(EAFNOSUPPORT, os.strerror(EAFNOSUPPORT))
    for turn, (family, address) in enumerate(addresses, 1):
        add_socket(sockets, family)
        try:
            if source_ip is not None:
                sockets[-1].bind((source_ip, 0))
            target = (address[0], port, *address[2:])
            yield from connect_socket(sockets[-1], target, timeout)
        except OSError as error:
            if (
                error.errno == ECONNRESET
                and turn == len(addresses)
                and sys.platform == "linux"
            ):
                return  # there was a connection: it is for Connection.open() to retry
            sockets[-1].close()
            last_error = error
        else:
            return
    raise last_error


def add_socket(sockets: list[socket.socket], family: socket.AddressFamily) -> None:
    """Make a socket; in the caller's list at once, so that no interrupt can lose it."""
    sockets.append(socket.socket(family, socket.SOCK_STREAM))
    # Not in place of a standard descriptor that is closed, as a daemon's are: a C
    # library's first message would go to the server.
    while sockets[-1].fileno() <= STDERR_FILENO:
        sockets.append(sockets[-1].dup())
    for each in sockets[:-1]:
        each.close()


def connect_socket(
    sock: socket.socket, address: tuple[Any, ...], timeout: float
) -> Steps[None]:
    """Connect to one address, else OSError."""
    # Not sock.connect(): PyPy's cannot stand a signal, and close() in another
    # thread must be able to end the wait.
    sock.setblocking(False)
    # A peer that has vanished is noticed some day (Linux asks after two hours of
    # silence), also where there is no time-out, or nobody waits.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    code = sock.connect_ex(address)
    if code == EINPROGRESS:
        deadline = Deadline(timeout)
        connected = Readiness(
            sock.fileno(), select.POLLOUT, deadline, partial(shut_down, sock)
        )
        while not connected.ready:
            if deadline.passed():
                raise TimeoutError(ETIMEDOUT, os.strerror(ETIMEDOUT))
            yield connected
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def prepare(sock: socket.socket) -> None:
    """Set what libremctl needs of a connected socket."""
    sock.setblocking(True)
    with suppress(OSError):  # not TCP, but a tunnel
        # The handshake writes several times, and so do commands of many tokens.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def shut_down(sock: socket.socket) -> None:
    """End whatever waits for SOCK, from any thread."""
    with suppress(OSError):  # it may not be connected any more
        sock.shutdown(socket.SHUT_RDWR)


def failure(what: str, error: OSError) -> RemctlError:
    """Return the exception for ERROR, which happened to WHAT."""
    if isinstance(error, TimeoutError):
        return RemctlTimeoutError(f"{what}: {error.strerror or 'timed out'}")
    return RemctlError(f"{what}: {error.strerror or error}")
