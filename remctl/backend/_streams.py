# SPDX-License-Identifier: MIT
"""Standard input, output and error, whatever remctld and its locale made of them."""

from __future__ import annotations

import os
import sys

from remctl.backend._errors import ProgramError


def use_utf8() -> None:
    """Write UTF-8, as arguments are UTF-8, in any locale."""
    # The streams may be others' in tests, and None where the descriptor is closed.
    for stream, errors in ((sys.stdout, "strict"), (sys.stderr, "backslashreplace")):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors=errors)


def read_stdin() -> bytes:
    """Return all of standard input."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read()


def write(text: str = "") -> None:
    """Write TEXT to standard output, and all that the command has printed."""
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.write(text)
            sys.stdout.flush()
    except OSError as error:
        message = f"Cannot write to STDOUT: {error.strerror}"
        raise ProgramError(message) from error


def settle() -> None:
    """Give up what cannot be written: else Python tries again, and exits with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def complain(text: str) -> None:
    """Write TEXT as one line to standard error, if it can be."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(one_line(text) + "\n")
            sys.stderr.flush()
        except OSError:  # nobody reads it
            return


def log(text: str) -> None:
    """Send TEXT to syslog line by line."""
    import syslog  # noqa: PLC0415  # only where something has gone wrong

    for line in text.splitlines():
        ascii_line = one_line(line).encode("ascii", "backslashreplace").decode()
        syslog.syslog(syslog.LOG_ERR, ascii_line)


def one_line(text: str) -> str:
    """Return TEXT with all that does not print in Python's notation."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in text
    )
