# SPDX-License-Identifier: MIT
"""Standard input, output and error, in any locale and if they are closed, too."""

from __future__ import annotations

import os
import sys

from remctl.backend._errors import ProgramError


def use_utf8() -> None:
    """Write UTF-8 in any locale, as arguments are UTF-8."""
    # Tests may replace the streams, and a stream is None if its descriptor is closed.
    for stream, errors in ((sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors=errors)


def read_stdin() -> bytes:
    """Return all of standard input."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read()


def write(text: str = "") -> None:
    """Write ``text`` to standard output, and flush what the command has printed."""
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.write(text)
            sys.stdout.flush()
    except OSError as error:
        message = f"Cannot write to STDOUT: {error.strerror}"
        raise ProgramError(message) from error


def settle() -> None:
    """Discard what cannot be written, or Python would exit with status 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def complain(text: str) -> None:
    """Write ``text`` as one line to standard error, if that is possible."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(one_line(text) + "\n")
            sys.stderr.flush()
        except OSError:  # nobody reads it
            return


def log(text: str) -> None:
    """Send ``text`` to syslog line by line."""
    import syslog  # noqa: PLC0415  # only where something has gone wrong

    for line in text.splitlines():
        ascii_line = one_line(line).encode("ascii", "backslashreplace").decode()
        syslog.syslog(syslog.LOG_ERR, ascii_line)


def one_line(text: str) -> str:
    """Return ``text`` with unprintable characters escaped as in Python."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in text
    )
