# SPDX-License-Identifier: MIT
"""The low-level interface: libremctl's functions, with status codes.

It has the functions of pyremctl's C module _remctl, with the same results, but
reports the exit status that the command really ended with (libremctl turns 200 into
-56).  The functions use Remctl instead of calling libremctl directly, because the C
functions can crash, block Ctrl-C, or run a command under another identity.

Functions raise TypeError for arguments of a wrong type, and ValueError for a closed
handle or a value that C cannot take: a string with NUL, a port out of range.  Other
failures are in the returned status, with the reason in remctl_error().  Any thread
may call any function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Union

from remctl import VERSION, _arguments
from remctl._base import NO_ERROR
from remctl._client import Remctl
from remctl._exceptions import RemctlError
from remctl._ffi import lib, to_text
from remctl._results import Reply

if TYPE_CHECKING:
    from remctl._arguments import Port

    RemctlOutputTuple = Union[tuple[str, Any, int, int, int], tuple[()]]

__all__ = [
    "REMCTL_OUT_DONE",
    "REMCTL_OUT_ERROR",
    "REMCTL_OUT_OUTPUT",
    "REMCTL_OUT_STATUS",
    "REMCTL_PORT",
    "REMCTL_PORT_OLD",
    "REMCTL_SERVICE",
    "VERSION",
    "remctl",
    "remctl_close",
    "remctl_command",
    "remctl_commandv",
    "remctl_error",
    "remctl_new",
    "remctl_noop",
    "remctl_open",
    "remctl_output",
    "remctl_set_ccache",
    "remctl_set_source_ip",
    "remctl_set_timeout",
]

REMCTL_PORT = lib.REMCTL_PORT
REMCTL_PORT_OLD = lib.REMCTL_PORT_OLD
REMCTL_SERVICE = to_text(lib.REMCTL_SERVICE)
REMCTL_OUT_OUTPUT = lib.REMCTL_OUT_OUTPUT
REMCTL_OUT_STATUS = lib.REMCTL_OUT_STATUS
REMCTL_OUT_ERROR = lib.REMCTL_OUT_ERROR
REMCTL_OUT_DONE = lib.REMCTL_OUT_DONE


class Handle:
    """The handle that remctl_new() returns; its attributes are private."""

    __slots__ = ("client", "error")

    def __init__(self) -> None:
        """Create a handle without a connection."""
        self.client: Remctl | None = Remctl()
        self.error: str = NO_ERROR


def remctl(
    host: str, port: Port, principal: str | None, command: list[bytes]
) -> tuple[bytes | None, bytes | None, bytes | None, int]:
    """Run one command; return error, standard output, standard error and status."""
    refusal = _refusal(command)
    if refusal is not None:
        return refusal.encode(), None, None, 0
    handle = remctl_new()
    client = _client(handle)
    reply = Reply()
    with client:
        if remctl_open(handle, host, port, principal) and remctl_commandv(
            handle, command
        ):
            try:
                for token in client:
                    if token.type == "error":
                        return token.output, reply.stdout, reply.stderr, 0
                    result = reply.add(token)
                    if result is not None:
                        return None, result.stdout, result.stderr, result.status
            except RemctlError as error:
                handle.error = error.value
    return handle.error.encode(), reply.stdout, reply.stderr, 0


def remctl_new() -> Handle:
    """Return a new handle, for the functions below."""
    return Handle()


def remctl_set_ccache(handle: Handle, ccache: str) -> int:
    """Set the credential cache for later remctl_open() calls; return 1 on success."""
    return int(_succeeds(handle, _client(handle).set_ccache, ccache))


def remctl_set_source_ip(handle: Handle, source: str) -> int:
    """Set the local address for later remctl_open() calls; return 1."""
    return int(_succeeds(handle, _client(handle).set_source_ip, source))


def remctl_set_timeout(handle: Handle, timeout: float) -> int:
    """Set the time-out in seconds, 0 for none; return 1, or 0 if it is negative."""
    return int(_succeeds(handle, _client(handle).set_timeout, timeout))


def remctl_open(
    handle: Handle, host: str, port: Port = 0, principal: str | None = None
) -> int:
    """Connect and authenticate, closing an open connection; return 1 on success."""
    return int(_succeeds(handle, _client(handle).open, host, port, principal))


def remctl_close(handle: Handle) -> None:
    """Close the connection and the handle, which cannot be used after that."""
    client = _client(handle)
    handle.client = None
    client.close()


def remctl_error(handle: Handle) -> str:
    """Return the text of the last failure, "no error" after a success."""
    _client(handle)
    return handle.error


def remctl_command(handle: Handle, command: list[bytes]) -> bool:
    """Send a command; return True on success."""
    return remctl_commandv(handle, command)


def remctl_commandv(handle: Handle, command: list[bytes]) -> bool:
    """Send a command; return True on success."""
    client = _client(handle)
    refusal = _refusal(command)
    if refusal is not None:
        handle.error = refusal
        return False
    return _succeeds(handle, client.command, command)


def remctl_output(handle: Handle) -> RemctlOutputTuple:
    """Return the next token's five members, unused ones 0; () on failure."""
    client = _client(handle)
    try:
        token = client.output()
    except RemctlError as error:
        handle.error = error.value
        return ()
    handle.error = NO_ERROR
    return (
        token.type,
        token.output,
        int(token.stream or 0),
        token.status or 0,
        int(token.error or 0),
    )


def remctl_noop(handle: Handle) -> int:
    """Exchange NOOP messages with the server; return 1 on success."""
    client = _client(handle)
    try:
        answered = client.noop()
    except RemctlError as error:
        handle.error = error.value
        return 0
    handle.error = NO_ERROR if answered else "NOOP message not supported"
    return int(answered)


def _refusal(command: list[bytes]) -> str | None:
    """Return why the command cannot be sent, or None if it can."""
    if not isinstance(command, list) or not all(
        isinstance(argument, bytes) for argument in command
    ):
        raise TypeError("command must be a list of bytes")
    try:
        _arguments.command(command)
    except ValueError as error:
        return str(error)
    return None


def _client(handle: Handle) -> Remctl:
    if not isinstance(handle, Handle):
        raise TypeError("not a handle from remctl_new()")
    client = handle.client
    if client is None:
        raise ValueError("the handle is closed")
    return client


def _succeeds(
    handle: Handle, function: Callable[..., object], *arguments: object
) -> bool:
    try:
        function(*arguments)
    except RemctlError as error:
        handle.error = error.value
        return False
    handle.error = NO_ERROR
    return True
