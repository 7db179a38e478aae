# SPDX-License-Identifier: MIT
"""How a reply is written: as it comes, or in lines that begin with their host."""

from __future__ import annotations

from remctl.cli._process import STDERR, STDOUT, complain, one_line, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remctl import RemctlError
    from remctl.cli._progress import ProgressBar


class RawOutput:
    """Writes one host's output as it comes, byte for byte, as remctl(1) does."""

    def write(self, fd: int, data: bytes) -> None:
        """Write output of the command to standard output or standard error."""
        write(fd, data)

    def write_error(self, data: bytes) -> None:
        """Write the server's error message."""
        write(STDERR, data + b"\n")

    def write_message(self, text: str) -> None:
        """Write a message of this program."""
        complain(text)

    def write_failure(self, error: RemctlError, prefix: str) -> None:
        """Write why the reply does not come, or not to its end."""
        complain(prefix + error.value)

    def end(self) -> None:
        """Do nothing: nothing is held back."""

    def finish(self, port: int | None, status: int | None) -> None:
        """Do nothing: everything is written."""


class LabelledOutput:
    """Writes one of several hosts' output in whole lines that begin with the host."""

    def __init__(self, host: str, bar: ProgressBar) -> None:
        """Write with ``bar`` out of the way."""
        self._streams = {fd: Lines(host, fd, bar) for fd in (STDOUT, STDERR)}
        # Not the command's standard error, which may have the beginning of a line.
        self._messages = Lines(host, STDERR, bar)

    def write(self, fd: int, data: bytes) -> None:
        """Write output of the command to standard output or standard error."""
        self._streams[fd].add(data)

    def write_error(self, data: bytes) -> None:
        """Write the server's error message."""
        self._messages.add(data + b"\n")

    def write_message(self, text: str) -> None:
        """Write a message of this program."""
        self._messages.add(one_line(text) + b"\n")

    def write_failure(self, error: RemctlError, prefix: str) -> None:
        """Write why the reply does not come, or not to its end."""
        self.write_message(prefix + error.value)

    def end(self) -> None:
        """Write the last lines of the command's output if they have no newline."""
        for stream in self._streams.values():
            stream.end()

    def finish(self, port: int | None, status: int | None) -> None:
        """Do nothing: everything is written."""


class Lines:
    """One stream of one host, written in whole lines that begin with the host."""

    def __init__(self, host: str, fd: int, bar: ProgressBar) -> None:
        """Write to ``fd`` with ``bar`` out of the way."""
        self._host = one_line(host)
        self._fd = fd
        self._bar = bar
        self._pieces: list[bytes] = []  # of a line whose newline has not come

    def add(self, data: bytes) -> None:
        """Write the lines that ``data`` completes, and keep the rest."""
        lines, newline, rest = data.rpartition(b"\n")
        if newline:
            self._pieces.append(lines)
            self._write()
        if rest:
            self._pieces.append(rest)

    def end(self) -> None:
        """Write a last line that has no newline; it gets one."""
        if self._pieces:
            self._write()

    def _write(self) -> None:
        lines = b"".join(self._pieces).split(b"\n")
        self._pieces.clear()
        self._bar.clear()
        write(self._fd, b"".join(b"%s: %s\n" % (self._host, line) for line in lines))
        self._bar.draw()
