# SPDX-License-Identifier: MIT
"""The output of --json: one line for each host, when it is done."""

from __future__ import annotations

import json
import time

from remctl.cli._output import Lines
from remctl.cli._process import STDERR, STDOUT, one_line, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remctl import RemctlError
    from remctl.cli._options import Host
    from remctl.cli._progress import ProgressBar


class JsonOutput:
    """Keeps one host's reply, and writes it as one JSON object."""

    def __init__(self, host: Host, bar: ProgressBar) -> None:
        """Begin with an empty reply; write with ``bar`` out of the way."""
        self._host = host.name
        self._bar = bar
        self._pieces: dict[int, list[bytes]] = {STDOUT: [], STDERR: []}
        self._messages = Lines(host.word, STDERR, bar)
        self._error: str | None = None
        self._stage: str | None = None
        self._start = time.monotonic()

    def write(self, fd: int, data: bytes) -> None:
        """Keep output of the command."""
        self._pieces[fd].append(data)

    def write_error(self, data: bytes) -> None:
        """Keep the server's error message."""
        self._error = decode(data)
        self._stage = "reply"

    def write_message(self, text: str) -> None:
        """Write a message of this program to standard error, as without JSON."""
        self._messages.add(one_line(text) + b"\n")

    def write_failure(self, error: RemctlError, _prefix: str) -> None:
        """Keep why the reply does not come, or not to its end."""
        self._error = error.value
        self._stage = error.stage

    def end(self) -> None:
        """Do nothing: finish() writes everything."""

    def finish(self, port: int | None, status: int | None) -> None:
        """Write the line, with the server's port and the command's exit status."""
        value = {
            "host": self._host,
            "port": port,
            "status": status,
            "stdout": decode(b"".join(self._pieces[STDOUT])),
            "stderr": decode(b"".join(self._pieces[STDERR])),
            "error": self._error,
            "stage": self._stage,
            "seconds": round(time.monotonic() - self._start, 3),
        }
        self._bar.clear()
        write(STDOUT, json.dumps(value).encode() + b"\n")
        self._bar.draw()


def decode(data: bytes) -> str:
    """Return ``data`` as text; octets that are not UTF-8 become escapes."""
    return data.decode("utf-8", "backslashreplace")
