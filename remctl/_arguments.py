# SPDX-License-Identifier: MIT
"""Checking and converting what callers pass, before any I/O."""

from __future__ import annotations

import _socket
import math
import operator
import os
import sys
from collections.abc import Awaitable, Iterator
from enum import Enum, Flag
from types import MappingProxyType

from remctl._explain import printable_line
from remctl._tuples import named_tuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable
    from typing import Any, NamedTuple, SupportsIndex, Union

    Port = Union[int, str, bytes, bytearray, SupportsIndex, None]
    Ccache = Union[str, os.PathLike[str], os.PathLike[bytes]]
else:
    NamedTuple = object

# The digits that int() accepts by default since Python 3.11.  Older versions accept any
# number of them, and take very long.
LONGEST_PORT = 4300

# remctld refuses 100 MiB with an error for each token that it did not accept.  All but
# the first would be read as replies to later commands.
MAX_COMMAND = 100 * 1024 * 1024 - 1


@named_tuple
class Server(NamedTuple):
    """A server, as the caller named it.  Port 0 stands for the two defaults."""

    host: str
    port: int
    principal: str | None


def server(host: str, port: Port = None, principal: str | None = None) -> Server:
    """Check the arguments that name a server."""
    host = text("host", host)
    if not host:  # guard 10b
        raise ValueError("host must not be empty")
    if principal is not None:
        principal = text("principal", principal) or None  # guard 27
    return Server(ascii_host(host), port_number(port), principal)


def text(name: str, value: str) -> str:
    """Check a string for C: it has no NUL and can be encoded as UTF-8."""
    if not isinstance(value, str):  # guard 10a
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if "\0" in value:  # guard 20
        raise ValueError(f"{name} must not contain NUL")
    value.encode("utf-8", "surrogateescape")
    return value


def cache_name(ccache: Ccache) -> str:
    """Return the name of a credential cache, as it is given to C."""
    if isinstance(ccache, os.PathLike):
        # So that C gets the octets that the path has in the file system.
        ccache = os.fsencode(ccache).decode("utf-8", "surrogateescape")
    elif not isinstance(ccache, str):
        raise TypeError(f"ccache must be a str or a path, not {type(ccache).__name__}")
    return text("ccache", ccache)


def ascii_host(host: str) -> str:
    """Return ``host`` as it is given both to the name service and to Kerberos."""
    # The only import in a call: this codec takes as long as a third of the package.
    return host if host.isascii() else host.encode("idna").decode("ascii")  # guard 62


def port_number(port: Port) -> int:
    """Return ``port`` as a number, 0 for None."""
    if port is None:
        return 0
    if isinstance(port, (str, bytes, bytearray)):
        try:
            if len(port) > LONGEST_PORT:
                raise ValueError
            number = int(port)
        except ValueError:
            raise TypeError(f"port must be a number: {port!r}") from None
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


def seconds(value: Any, name: str = "timeout") -> float:
    """Return ``value`` as a finite number, which may be negative."""
    if isinstance(value, (bool, str, bytes, bytearray, memoryview)):
        raise TypeError(f"{name} must be a number: {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number: {value!r}") from None
    if not math.isfinite(number):  # guard 51a
        raise ValueError(f"{name} must be finite: {value!r}")
    return number


def bound(name: str, value: float | None, zero: bool = False) -> float:
    """Return a number of seconds that bounds something, infinity for None."""
    if value is None:
        return math.inf
    number = seconds(value, name)
    if number < 0 or (number == 0 and not zero):
        least = "0 or more" if zero else "positive"
        raise ValueError(f"{name} must be {least}, or None: {value!r}")
    return number


def positive_int(name: str, value: SupportsIndex) -> int:
    """Return ``value`` as an int, which counts something."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int: {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be 1 or more: {value!r}")
    return number


def source_family(source: str) -> int:
    """Return the family of a numeric address.  Raises ValueError if it is none."""
    address, percent, scope = source.partition("%")
    for family in (_socket.AF_INET6, _socket.AF_INET):
        try:
            _socket.inet_pton(family, address)
        except (OSError, ValueError):
            continue
        if not percent or (family == _socket.AF_INET6 and scope and "%" not in scope):
            return family
    raise ValueError(f"{source!r} does not appear to be an IPv4 or IPv6 address")


def connected_socket(sock: socket.socket) -> socket.socket:
    """Check a socket that a connection takes over."""
    # Both classes, as gevent and eventlet replace socket.socket by their own.  Not
    # imported: who has a socket has imported it, and it takes long.
    module = sys.modules.get("socket", _socket)
    plain = isinstance(sock, (_socket.socket, module.socket))
    if not plain or hasattr(sock, "do_handshake"):  # as all TLS sockets have
        raise TypeError(f"sock must be a plain socket, not {type(sock).__name__}")
    if sock.fileno() < 0:  # guard 11a
        raise ValueError("sock must be open")
    if sock.type != _socket.SOCK_STREAM:  # guard 11b
        raise ValueError("sock must be a stream socket")
    try:
        sock.getpeername()  # guard 11c
    except OSError:
        raise ValueError("sock must be connected") from None
    return sock


def command(command: Iterable[object]) -> list[bytes]:
    """Return the arguments of ``command``, which is consumed once, as they are sent."""
    arguments: list[bytes] = []
    octets = 0
    usual = type(command) is list or type(command) is tuple
    for item in command if usual else items_of(command):
        if type(item) is str:  # the usual case without a call
            encoded = item.encode("utf-8", "surrogateescape")
        else:
            encoded = argument(item, len(arguments))
        octets += len(encoded)
        arguments.append(encoded)
    if not arguments:  # guard 55
        raise ValueError("command must not be empty")
    size = message_size(len(arguments), octets)
    if size > MAX_COMMAND:  # guard 37a
        raise ValueError(f"command too large: {size} octets, at most {MAX_COMMAND}")
    return arguments


def items_of(command: Iterable[object]) -> Iterator[object]:
    """Return an iterator over ``command``.  Raises TypeError for a text, too."""
    try:
        if isinstance(command, (str, bytes, bytearray, memoryview)):
            raise TypeError
        return iter(command)
    except TypeError:
        text = f"command must be a sequence or iterator{meant(command)}"
        raise TypeError(text) from None


def message_size(count: int, octets: int) -> int:
    """Return the octets of a message with ``count`` arguments of ``octets`` in all."""
    # The number of arguments, and the length of each, have four octets.
    return 4 + 4 * count + octets


def meant(command: object) -> str:
    """Return what a str that was passed as a command was probably meant to be."""
    if not isinstance(command, str):
        return ""
    import shlex  # noqa: PLC0415 (only for this message)

    try:
        words = shlex.split(command)
    except ValueError:  # a quotation mark too few
        words = command.split()
    return f", not a str; perhaps {printable_line(repr(words))} was meant"


def argument(item: object, number: int) -> bytes:
    """Return a command's argument, counted by ``number`` from 0, as it is sent."""
    if type(item) is bytes:
        return item
    if isinstance(item, os.PathLike):
        item = os.fsencode(item)
    if isinstance(item, (bytes, bytearray, memoryview)):
        # Not bytes(): what a subclass says of itself, such as its length, must not
        # reach C.
        return memoryview(item).tobytes()  # guard 61
    text = value_text(item)
    if text is None:
        name = type(item).__name__
        raise TypeError(
            f"command item {number} must be a value with a text, not {name}"
        )
    return str.encode(text, "utf-8", "surrogateescape")


def value_text(item: object) -> str | None:
    """Return the text that ``item`` stands for, None if it has only a repr().

    Otherwise a list or a coroutine would be sent as Python prints it.
    """
    if isinstance(item, str):
        return item
    own = type(item).__str__
    if isinstance(item, Enum):
        if isinstance(item, int):
            # str() gives the name or the number, depending on the version of Python.
            return int.__repr__(item)
        if own in (Enum.__str__, Flag.__str__):
            return None
    elif not isinstance(item, (int, float, complex)) and (
        own is object.__str__
        or isinstance(item, (Awaitable, Iterator, MappingProxyType))
        or hasattr(type(item), "n_sequence_fields")  # PyPy's time.struct_time
        or is_array(item)
    ):
        return None
    return str(item)


def is_array(item: Any) -> bool:
    """Whether ``item`` is an array of NumPy or pandas, whose str() is for people."""
    return hasattr(type(item), "ndim") and item.ndim != 0
