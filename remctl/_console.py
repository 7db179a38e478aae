# SPDX-License-Identifier: MIT
"""How ``python -m remctl`` writes, complains and ends."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from remctl._results import RemctlOutput

STDOUT, STDERR = 1, 2

# Exit statuses beside the command's own: those of remctl(1), and a shell's for signals.
FAILED = 1
SERVER_ERROR = 255
INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + signal.SIGPIPE

# What remctl(1) says before the reason when a reply breaks off.
READING = "error reading from server: "


def write(fd: int, data: bytes) -> None:
    """Write all of DATA, now: there is no buffer that could hold it back."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # another process that has it, too, made it so
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def one_line(text: str) -> bytes:
    """Return TEXT as one line to show; what came from the command line, as it came."""
    return " ".join(text.splitlines()).encode("utf-8", "surrogateescape")


def complain(text: str) -> None:
    """Write TEXT as one line to standard error, if that is possible."""
    with suppress(OSError):
        write(STDERR, b"remctl: %s\n" % one_line(text))


def keep_open() -> None:
    """Have /dev/null where there is no standard output or error.

    Else a connection would get the number, and then our output.
    """
    for fd in (STDOUT, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


def on_interrupt(clean_up: Callable[[], object]) -> None:
    """Let Ctrl-C end the process at once, after CLEAN_UP, unless it is ignored.

    KeyboardInterrupt would nearly do; but where it comes in a finalizer, or in the
    interpreter's end, Python prints a traceback and goes on.  Nothing is lost: no
    output is in a buffer, and what is open is closed by the kernel.
    """

    def leave(*_: object) -> None:
        clean_up()
        os._exit(INTERRUPTED)

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, leave)


def exit_status(status: int | None) -> int:
    """Return a command's STATUS as exit() takes it: 8 bits, 0 for success only."""
    return (status or 0) & 0xFF or int(bool(status))


def describe(token: RemctlOutput) -> str:
    """Return what -d says of TOKEN: all but what is in it."""
    if token.type == "output":
        return f"received {len(token.output or b'')} bytes for stream {token.stream}"
    if token.type == "error":
        return f"received error {token.error}"
    return f"received status {token.status}"
