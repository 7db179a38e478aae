# SPDX-License-Identifier: MIT
"""Run remctl commands in the throwaway realm of remctl.testing, and say what happens.

Every statement is printed before it is executed, with what Python makes of it.
"""

from __future__ import annotations

import doctest
import os
import signal
import sys
import time
from typing import Any

INTRODUCTION = """
Above is what remctl.testing has started for this demo, and what ends with it.

A realm is a set of users and services whose keys one server, the KDC, knows. A ticket
proves to a service who we are. There is one for user@KRBTEST.COM in the default place,
and one for bob@KRBTEST.COM in a file of its own, for later:

    {KRB5CCNAME}
    {KRB5CCNAME_BOB}

remctld is the server that runs commands for those who have a ticket and are allowed
to. Its configuration names each command, the program behind it, and who may run it.
It listens on {REMCTL_HOST}, port {REMCTL_PORT}.
"""

TOUR = """
One call connects, proves who we are, runs one command and returns what it wrote. The
arguments need no quoting, as no shell sees them.

    >>> import remctl
    >>> result = remctl.remctl(host, port, command=["demo", "hello", "a & b"])
    >>> result.stdout
    >>> result.status

This command writes on both streams and fails. Its exit status is part of the result;
check() turns it into an exception.

    >>> result = remctl.remctl(host, port, command=["demo", "check"])
    >>> result.stdout, result.stderr, result.status
    >>> try:
    ...     result.check()
    ... except remctl.RemctlStatusError as error:
    ...     print(repr(error))

The server decides who may run what. This command is bob's, and we are not bob: the
server's refusal is an exception, which carries its error code. With bob's ticket the
same command runs.

    >>> try:
    ...     remctl.remctl(host, port, command=["demo", "secret"])
    ... except remctl.RemctlProtocolError as error:
    ...     print(error, repr(error.code))
    >>> remctl.remctl(host, port, command=["demo", "secret"], ccache=bob).stdout

A Remctl object keeps its connection for many commands, with one proof of identity for
all. run() returns the same result as the call above. noop() exchanges a message with
the server, which keeps firewalls from forgetting the connection.

    >>> with remctl.Remctl(host, port) as client:
    ...     for word in ["one", "two", "three"]:
    ...         print(client.run(["demo", "hello", word]).stdout)
    ...     print("noop:", client.noop())

Output can be read as it comes: this command writes a line every 0.2 seconds. The last
token is the exit status.

    >>> with remctl.Remctl(host, port) as client:
    ...     client.command(["demo", "count"])
    ...     for token in client:
    ...         print(token)

A server that is silent for too long is given up: this command would take a minute.

    >>> try:
    ...     remctl.remctl(host, port, command=["demo", "sleep"], timeout=0.5)
    ... except remctl.RemctlTimeoutError as error:
    ...     print(error)
"""

END = """
That was all.
"""

INTERRUPTED = """
Interrupted.
"""


def say(text: str) -> None:
    """Print a piece of text at once, also into a pipe."""
    print(text, end="", flush=True)


def show(text: str, variables: dict[str, Any]) -> None:
    """Print the text; print and execute the statements, as Python's prompt does."""
    for piece in doctest.DocTestParser().parse(text):
        if isinstance(piece, str):
            say(piece)
            continue
        first, *rest = piece.source.splitlines()
        say("\n".join([f"    >>> {first}", *(f"    ... {line}" for line in rest), ""]))
        began = time.monotonic()
        exec(compile(piece.source, "<demo>", "single", dont_inherit=True), variables)
        duration = time.monotonic() - began
        if duration > 0.25:
            say(f"({duration:.1f} seconds)\n")


def demo() -> None:
    """Show everything."""
    say(INTRODUCTION.format_map(os.environ))
    host, port = os.environ["REMCTL_HOST"], os.environ["REMCTL_PORT"]
    show(TOUR, {"host": host, "port": port, "bob": os.environ["KRB5CCNAME_BOB"]})
    say(END)


def main() -> int:
    """Run the demo; return the exit status."""
    try:
        # scripts/demo has kept it out until now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        demo()
    except KeyboardInterrupt:
        say(INTERRUPTED)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
