# SPDX-License-Identifier: MIT
"""Checking and converting what callers pass, before any I/O."""

from __future__ import annotations

import ipaddress
import math
import operator
import os
import re
import socket
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, Union

if TYPE_CHECKING:
    from collections.abc import Iterable

Port = Union[int, str, SupportsIndex, None]

# remctld refuses 100 MiB, with an error for each token that it did not want,
# which would be read as replies to later commands.
MAX_COMMAND = 100 * 1024 * 1024 - 1


class Server(NamedTuple):
    """A server as the caller named it; port 0 stands for the two defaults."""

    host: str
    port: int
    principal: str | None


def server(host: str, port: Port = None, principal: str | None = None) -> Server:
    """Check the arguments that name a server."""
    host = text("host", host)
    if not host:
        raise ValueError("host must not be empty")
    if principal is not None:
        principal = text("principal", principal) or None
    return Server(ascii_host(host), port_number(port), principal)


def text(name: str, value: str) -> str:
    """Check a string that C is to see: no NUL, and UTF-8 can hold it."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if "\0" in value:
        raise ValueError(f"{name} must not contain NUL")
    value.encode("utf-8", "surrogateescape")
    return value


def ascii_host(host: str) -> str:
    """Return HOST as name service and Kerberos are both to see it."""
    return host if host.isascii() else host.encode("idna").decode("ascii")


def port_number(port: Port) -> int:
    """Return the number of PORT, 0 for None."""
    if port is None:
        return 0
    if isinstance(port, str):
        if not re.fullmatch("[-+]?[0-9]{1,100}", port):
            raise TypeError(f"port must be a number: {port!r}")
        number = int(port)
    elif isinstance(port, bool):
        raise TypeError(f"port must be a number: {port!r}")
    else:
        try:
            number = operator.index(port)
        except TypeError:
            raise TypeError(f"port must be a number: {port!r}") from None
    if not 0 <= number <= 65535:
        raise ValueError(f"invalid port number: {number}")
    return number


def seconds(timeout: Any) -> float:
    """Return TIMEOUT as a finite number, which may be negative."""
    if isinstance(timeout, (bool, str, bytes, bytearray, memoryview)):
        raise TypeError(f"timeout must be a number: {timeout!r}")
    try:
        number = float(timeout)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        raise TypeError(f"timeout must be a number: {timeout!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"timeout must be finite: {timeout!r}")
    return number


def source_family(source: str) -> socket.AddressFamily:
    """Return the family of a numeric source address; ValueError if it is none."""
    if ipaddress.ip_address(source).version == 6:
        return socket.AF_INET6
    return socket.AF_INET


def connected_socket(sock: socket.socket) -> socket.socket:
    """Check a socket that a connection is to take over."""
    ssl = sys.modules.get("ssl")
    if not isinstance(sock, socket.socket) or (ssl and isinstance(sock, ssl.SSLSocket)):
        raise TypeError(f"sock must be a plain socket, not {type(sock).__name__}")
    if sock.fileno() < 0:
        raise ValueError("sock must be open")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError("sock must be a stream socket")
    try:
        sock.getpeername()
    except OSError:
        raise ValueError("sock must be connected") from None
    return sock


def command(command: Iterable[object]) -> list[bytes]:
    """Return the arguments of COMMAND, consumed once, as they go on the wire."""
    try:
        if isinstance(command, (str, bytes, bytearray, memoryview)):
            raise TypeError
        items = iter(command)
    except TypeError:
        raise TypeError("command must be a sequence or iterator") from None
    arguments = [argument(item) for item in items]
    if not arguments:
        raise ValueError("command must not be empty")
    # On the wire: the number of arguments, and each one's length.
    size = 4 + 4 * len(arguments) + sum(map(len, arguments))
    if size > MAX_COMMAND:
        raise ValueError(f"command too large: {size} octets, at most {MAX_COMMAND}")
    return arguments


def argument(item: object) -> bytes:
    """Return one argument of a command as it goes on the wire."""
    if type(item) is str:  # most are; asking for os.PathLike takes longer
        return item.encode("utf-8", "surrogateescape")
    if isinstance(item, bytes):
        return item
    if isinstance(item, (bytearray, memoryview)):
        return bytes(item)
    if isinstance(item, os.PathLike):
        return os.fsencode(item)
    if item is None:
        raise TypeError("command must not contain None")
    text = item if isinstance(item, str) else str(item)
    return text.encode("utf-8", "surrogateescape")
