# SPDX-License-Identifier: MIT
"""Run remctl commands in a throwaway realm, and say what happens.

Every statement is printed before it is executed, with what Python makes of it.
"""

from __future__ import annotations

import doctest
import signal
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

from remctl.testing import Realm, Server, StartError

if TYPE_CHECKING:
    from pathlib import Path

REALM = """
Kerberos first. A realm is a set of users and services whose keys one server, the
KDC, knows. We start a KDC of our own, for a realm that ends with this demo.

    realm {realm.name}, KDC with process id {realm.kdc_pid}

A ticket proves to a service who we are. kinit has obtained one for {realm.user}.
Another one, for {realm.bob}, is kept in a file of its own for later.

    {realm.env[KRB5CCNAME]}
    {bob}
"""

SERVER = """
remctld is the server that runs commands for those who have a ticket and are allowed
to. Its configuration names each command, the program behind it, and who may run it:

{conf}
    remctld on {server.host}, port {server.port}
"""

# What this demo's remctld can do.
COMMANDS = {
    "hello": 'echo "Hello, $REMOTE_USER. You said: $2"',
    "check": "echo 'disk: ok'; echo 'fan: too slow' >&2; exit 3",
    "count": "for i in 1 2 3; do echo $i; sleep 0.2; done",
    "sleep": "sleep 60",
    "secret": "echo 'only bob may see this'",
}

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
That was all. Both servers have ended, and their files are removed.
"""

INTERRUPTED = """
Interrupted. Both servers have ended, and their files are removed.
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


def write_commands(realm: Realm, directory: Path) -> str:
    """Write the commands' scripts, and return the remctl.conf that names them."""
    conf = []
    for name, script in COMMANDS.items():
        path = directory / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)
        who = f"princ:{realm.bob}" if name == "secret" else "ANYUSER"
        conf.append(f"demo {name} {path} {who}\n")
    return "".join(conf)


def demo() -> None:
    """Start all servers, show everything, and stop them."""
    with Realm() as realm, realm.applied():
        bob = realm.kinit(realm.bob, realm.directory / "ccache-bob")
        say(REALM.format(realm=realm, bob=bob))
        conf = write_commands(realm, realm.directory)
        with Server(realm, conf) as server:
            say(SERVER.format(conf=textwrap.indent(conf, "    "), server=server))
            show(TOUR, {"host": server.host, "port": server.port, "bob": bob})
    say(END)


def main() -> int:
    """Run the demo; return the exit status."""
    try:
        # scripts/demo has blocked it until now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        demo()
    except KeyboardInterrupt:
        say(INTERRUPTED)
        return 130
    except StartError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
