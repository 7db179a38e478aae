# SPDX-License-Identifier: MIT
"""What commands return: output tokens, and the result of a whole command."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

from remctl._exceptions import RemctlProtocolError, RemctlStatusError
from remctl._public import publish

Kind = Literal["output", "status", "error", "done"]


class Number(IntEnum):
    """An int with a name, which other programs see as the int."""

    # As from Python 3.11 on; before, str() is the name.
    def __str__(self) -> str:
        """Return the number's digits."""
        return int.__repr__(self)

    def __format__(self, format_spec: str) -> str:
        """Format the number."""
        return int.__format__(self, format_spec)


class Stream(Number):
    """The stream that output came on (protocol specification, MESSAGE_OUTPUT)."""

    STDOUT = 1
    STDERR = 2


class ErrorCode(Number):
    """The server's error codes (protocol specification, MESSAGE_ERROR).

    Servers may send others, which stay plain ints.
    """

    INTERNAL = 1
    BAD_TOKEN = 2
    UNKNOWN_MESSAGE = 3
    BAD_COMMAND = 4
    UNKNOWN_COMMAND = 5
    ACCESS = 6
    TOOMANY_ARGS = 7
    TOOMUCH_DATA = 8
    UNEXPECTED_MESSAGE = 9
    NO_HELP = 10


class RemctlOutput(NamedTuple):
    """One output token, as Remctl.output() returns it.

    ``type`` is "output", "status", "error" or "done".  An output token has
    ``output`` and ``stream``, a status token ``status``, an error token
    ``output`` (the message) and ``error`` (the code); all else is None.
    """

    type: Kind
    output: bytes | None = None
    stream: int | None = None
    status: int | None = None
    error: int | None = None


@dataclass
class RemctlSimpleResult:
    """What a command wrote and how it ended.

    ``stdout`` and ``stderr`` are None when nothing came on the stream.
    ``status`` is the command's exit status, 0 to 255 (32 bits on servers that
    speak protocol 1).
    """

    stdout: bytes | None = None
    stderr: bytes | None = None
    # None, as in pyremctl, only where a caller makes one and does not say.
    status: int = None  # type: ignore[assignment]

    def check(self) -> RemctlSimpleResult:
        """Return this result, or raise RemctlStatusError if status is not 0."""
        if self.status != 0:
            raise RemctlStatusError(self)
        return self


class Reply:
    """Gathers the tokens of one command into its result."""

    def __init__(self) -> None:
        """Start with no output."""
        self._pieces: dict[int | None, list[bytes]] = {1: [], 2: []}

    def add(self, token: RemctlOutput) -> RemctlSimpleResult | None:
        """Add TOKEN; return the result when it was the last.

        Raises RemctlProtocolError for an error token.
        """
        output = token.output or b""
        if token.type == "error":
            message = output.decode("utf-8", "backslashreplace")  # guard 53b
            raise RemctlProtocolError(message, token.error)
        if token.type == "output":
            self._pieces[token.stream].append(output)
            return None
        return RemctlSimpleResult(self.stdout, self.stderr, token.status or 0)

    @property
    def stdout(self) -> bytes | None:
        """The standard output so far, None when nothing came."""
        return b"".join(self._pieces[Stream.STDOUT]) or None

    @property
    def stderr(self) -> bytes | None:
        """The standard error so far, None when nothing came."""
        return b"".join(self._pieces[Stream.STDERR]) or None


publish("remctl", Stream, ErrorCode, RemctlOutput, RemctlSimpleResult)
# typing.get_type_hints() looks there for what is only here.
RemctlOutput.__annotations__["type"] = Kind
