# SPDX-License-Identifier: MIT
"""The process's side of it: standard streams, exit statuses and Ctrl-C."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

STDOUT, STDERR = 1, 2

# Exit statuses beside the command's own: those of remctl(1), and a shell's for signals.
FAILED = 1
SERVER_ERROR = 255
INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + signal.SIGPIPE


def write(fd: int, data: bytes) -> None:
    """Write all of ``data`` to ``fd`` before returning, without a buffer."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # a process that shares it has set O_NONBLOCK
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def one_line(text: str) -> bytes:
    """Return ``text`` as one line, with the bytes that the command line had."""
    return " ".join(text.splitlines()).encode("utf-8", "surrogateescape")


def complain(text: str) -> None:
    """Write ``text`` as one line to standard error, if that is possible."""
    with suppress(OSError):
        write(STDERR, b"remctl: %s\n" % one_line(text))


def open_missing_streams() -> None:
    """Open /dev/null as standard output and error if they are closed.

    Otherwise a connection would get the descriptor's number, and then our output.
    """
    for fd in (STDOUT, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


def exit_on_interrupt(clean_up: Callable[[], object] = lambda: None) -> None:
    """Let Ctrl-C end the process at once, after ``clean_up``, unless it is ignored.

    KeyboardInterrupt is not enough: raised in a finalizer, or while the interpreter
    exits, it is printed with a traceback and the process goes on.  Nothing is lost
    by exiting here: no output is buffered, and the kernel closes what is open.
    """

    def leave(*_: object) -> None:
        clean_up()
        os._exit(INTERRUPTED)

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, leave)
