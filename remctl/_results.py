# SPDX-License-Identifier: MIT
"""What commands return: output tokens, and the result of a whole command."""

from __future__ import annotations

from enum import IntEnum

from remctl._exceptions import RemctlError, RemctlProtocolError
from remctl._explain import printable_line
from remctl._public import publish
from remctl._tuples import named_tuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import Field
    from typing import Any, ClassVar, Literal, NamedTuple

    from typing_extensions import Self

    Kind = Literal["output", "status", "error", "done"]
else:
    NamedTuple = object

# The octets of standard error in which a RemctlStatusError looks for its first line.
LONGEST_COMPLAINT = 4000

# The octets of an output that a result shows.
LONGEST_SHOWN = 4000


class Number(IntEnum):
    """An int with a name, which other programs see as the int."""

    # As IntEnum does it since Python 3.11.  In older versions str() gives the name.
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


@named_tuple
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


class Fields:
    """Makes a dataclass of the class that has it, when something looks for its fields.

    Importing dataclasses takes longer than importing all of this package.
    """

    def __get__(
        self, _instance: object, _owner: type[RemctlSimpleResult]
    ) -> dict[str, Field[Any]]:
        """Return the fields."""
        from dataclasses import dataclass  # noqa: PLC0415 (see above)

        return dataclass(RemctlSimpleResult).__dataclass_fields__


class RemctlSimpleResult:
    """The output and the exit status of a command.

    ``stdout`` and ``stderr`` are None if nothing was written there.
    ``status`` is the command's exit status, 0 to 255 (32 bits on servers that
    speak protocol 1).
    """

    stdout: bytes | None = None
    stderr: bytes | None = None
    # None only in results that a caller makes without one, as in pyremctl.
    status: int = None  # type: ignore[assignment]

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
        __hash__: ClassVar[None]  # type: ignore[assignment]
    else:
        __hash__ = None  # as the attributes can be set
        __dataclass_fields__ = Fields()  # not annotated, or it would be one of them
    __match_args__ = ("stdout", "stderr", "status")

    def __init__(
        self,
        stdout: bytes | None = None,
        stderr: bytes | None = None,
        status: int = None,  # type: ignore[assignment]  # noqa: RUF013 (as above)
    ) -> None:
        """Keep the output and the status."""
        self.stdout = stdout
        self.stderr = stderr
        self.status = status

    def __repr__(self) -> str:
        """Return what makes an equal result, unless the output is very long."""
        return (
            f"{type(self).__qualname__}(stdout={shown(self.stdout)}, "
            f"stderr={shown(self.stderr)}, status={self.status!r})"
        )

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Show the output as lines, in IPython and in notebooks."""
        printer.text(f"status {self.status}")
        for name in ("stdout", "stderr"):
            output = getattr(self, name) or b""
            text = output[:LONGEST_SHOWN].decode("utf-8", "backslashreplace")
            lines = [printable_line(line.expandtabs()) for line in text.split("\n")]
            if not lines[-1]:
                del lines[-1]
            if len(output) > LONGEST_SHOWN:
                lines.append(f"... ({len(output)} bytes)")
            if lines:
                printer.text("\n  ".join([f"\n{name}:", *lines]))

    def __eq__(self, other: object) -> bool:
        """Whether it is of the same class, and equal in all three attributes."""
        if type(other) is not type(self):
            return NotImplemented
        ours = (self.stdout, self.stderr, self.status)
        return ours == (other.stdout, other.stderr, other.status)

    def __replace__(self, /, **changes: Any) -> Self:
        """Return a copy with other attributes, for copy.replace()."""
        from dataclasses import replace  # noqa: PLC0415 (see Fields)

        return replace(self, **changes)

    def check(self) -> RemctlSimpleResult:
        """Return this result, or raise RemctlStatusError if status is not 0."""
        if self.status != 0:
            raise RemctlStatusError(self)
        return self

    def text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the standard output as text, "" if nothing was written there.

        Args:
            encoding: The text's encoding.
            errors: What to do with octets that are not text in this encoding, as
                in bytes.decode().

        Raises:
            UnicodeDecodeError: A ValueError: it is not text.
            LookupError: There is no such encoding.

        """
        return (self.stdout or b"").decode(encoding, errors)

    def json(self) -> Any:
        """Return the value that the standard output has as JSON.

        Raises:
            ValueError: It is not JSON, or empty: a json.JSONDecodeError, or a
                UnicodeDecodeError.

        """
        import json  # noqa: PLC0415 (takes a while, and most programs do not need it)

        return json.loads(self.stdout or b"")


class RemctlStatusError(RemctlError):
    """A command ended with a status other than 0: see RemctlSimpleResult.check().

    ``result`` is the RemctlSimpleResult.  The text has the status, and the first
    line of standard error.
    """

    def __init__(self, result: RemctlSimpleResult) -> None:
        """Keep the result; the text tells its status."""
        text = f"command exited with status {result.status}"
        if isinstance(result.stderr, (bytes, bytearray)):
            head = result.stderr[:LONGEST_COMPLAINT].strip()
            complaint = head.partition(b"\n")[0].rstrip()
            if complaint:
                shown = complaint.decode("utf-8", "backslashreplace")
                text += f": {printable_line(shown)}"
        super().__init__(text, "reply")
        self.args: tuple[Any, ...] = (result,)
        self.result = result

    def __repr__(self) -> str:
        """Return the text without the result: output in a log may be very long."""
        return f"{type(self).__name__}({self.value!r})"


def shown(output: object) -> str:
    """Return how an output is shown by repr()."""
    if isinstance(output, bytes) and len(output) > LONGEST_SHOWN:
        return f"<{len(output)} bytes, {output[:LONGEST_SHOWN]!r}...>"
    return repr(output)


def as_error(token: RemctlOutput) -> RemctlProtocolError:
    """Return the exception for an error token."""
    message = (token.output or b"").decode("utf-8", "backslashreplace")  # guard 53b
    return RemctlProtocolError(message, token.error, "reply")


class Reply:
    """Collects the output tokens of one command and makes the result of them."""

    def __init__(self) -> None:
        """Begin with no output."""
        self._pieces: dict[int | None, list[bytes]] = {1: [], 2: []}

    def add(self, token: RemctlOutput) -> RemctlSimpleResult | None:
        """Add ``token``; return the result if it was the last.

        Raises RemctlProtocolError for an error token.
        """
        if token.type == "error":
            raise as_error(token)
        if token.type == "output":
            self._pieces[token.stream].append(token.output or b"")
            return None
        return RemctlSimpleResult(self.stdout, self.stderr, token.status or 0)

    @property
    def stdout(self) -> bytes | None:
        """The standard output so far, None if there is none."""
        return b"".join(self._pieces[Stream.STDOUT]) or None

    @property
    def stderr(self) -> bytes | None:
        """The standard error so far, None if there is none."""
        return b"".join(self._pieces[Stream.STDERR]) or None


publish(
    "remctl", Stream, ErrorCode, RemctlOutput, RemctlSimpleResult, RemctlStatusError
)
# typing.get_type_hints() looks for names in remctl, where neither Kind nor Literal is.
RemctlOutput.__annotations__["type"] = (
    "__import__('typing').Literal['output', 'status', 'error', 'done']"
)
