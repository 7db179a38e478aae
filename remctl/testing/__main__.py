# SPDX-License-Identifier: MIT
"""Start a throwaway Kerberos realm and a real remctld, and say how to reach them.

With a COMMAND, run it in that environment, and end with its exit status.  Without
one, wait for Ctrl-C.  Both servers end then, and their files are removed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TextIO

from remctl.testing import Command, Realm, StartError

if TYPE_CHECKING:
    from remctl.testing import Server

PROGRAM = "python -m remctl.testing"

# These end the program after it has cleaned up.
SIGNALS = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM]

# Seconds that COMMAND has to end when this program is ended.
PATIENCE = 5.0

TEXT = """\
A Kerberos realm, {realm.name}, and a remctld are running, with this environment:

{exports}

The tickets in $KRB5CCNAME are those of {realm.user}. What the server can do:

{commands}

The last one is for {bob}, whose tickets are in $KRB5CCNAME_BOB.
To try it, in this environment:

    {python}
    {client}

The server's log: {server.log}
"""
WAITING = "Ctrl-C ends both servers."
ENDED = "Both servers have ended, and their files are removed."


def commands(bob: str) -> dict[str, str | Command]:
    """Return the server's commands, one of them for ``bob`` only."""
    return {
        "demo hello": 'echo "Hello, $REMOTE_USER. You said: $2"',
        "demo check": "echo 'disk: ok'; echo 'fan: too slow' >&2; exit 3",
        "demo count": "for i in 1 2 3; do echo $i; sleep 0.2; done",
        "demo sleep": "sleep 60",
        "demo secret": Command("echo 'only bob may see this'", acl=[f"princ:{bob}"]),
    }


def environment(realm: Realm, server: Server) -> dict[str, str]:
    """Return the variables for the realm, the server, and the tickets of bob."""
    return {
        **realm.env,
        "KRB5CCNAME_BOB": realm.kinit("bob", realm.directory / "ccache-bob"),
        "REMCTL_HOST": server.host,
        "REMCTL_PORT": str(server.port),
        "REMCTL_PRINCIPAL": server.principal,
    }


def describe(realm: Realm, server: Server, env: dict[str, str]) -> str:
    """Return how to reach the realm and the server."""
    bob = realm.principal("bob")
    snippets = {
        key: value.program if isinstance(value, Command) else value
        for key, value in commands(bob).items()
    }
    call = (
        f'import remctl; print(remctl.remctl("{server.host}", {server.port}, '
        'command=["demo", "hello", "world"]))'
    )
    return TEXT.format(
        realm=realm,
        server=server,
        bob=bob,
        exports="\n".join(f"    export {k}={shlex.quote(v)}" for k, v in env.items()),
        commands="\n".join(f"    {k:13}{v}" for k, v in snippets.items()),
        python=shlex.join([sys.executable, "-c", call]),
        client=f"{shlex.join([sys.executable, '-m', 'remctl'])} "
        f"-p {server.port} {server.host} demo hello world",
    )


def say(text: str, output: TextIO) -> None:
    """Print ``text`` at once; go on if nobody reads the output any more."""
    try:
        print(text, file=output, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())


def leave(number: int, _: object) -> NoReturn:
    """Exit, ignoring further signals while the servers are ended."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def run(command: list[str], env: dict[str, str]) -> int:
    """Run ``command``, and return its exit status as a shell has it."""
    # A terminal sends Ctrl-C to the command, too, which decides what it does.
    if signal.getsignal(signal.SIGINT) == leave:
        signal.signal(signal.SIGINT, lambda *_: None)
    # Blocked, so that no signal comes between its start and the try block.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    unblock = partial(signal.pthread_sigmask, signal.SIG_SETMASK, before)
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, **env},
            preexec_fn=unblock,  # noqa: PLW1509 (there are no threads)
        )
    except OSError as error:
        unblock()
        print(f"{PROGRAM}: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    try:
        unblock()
        status = process.wait()
    finally:
        if process.returncode is None:
            end(process)
    return status if status >= 0 else 128 - status


def end(process: subprocess.Popen[bytes]) -> None:
    """End the command, with SIGKILL if it ignores SIGTERM, as interactive shells do."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait() -> NoReturn:
    """Wait for a signal."""
    while True:
        time.sleep(1)  # not longer: the signal may come just before this begins


def serve(command: list[str]) -> int:
    """Start both servers, run ``command`` or wait, and return the exit status."""
    # With a command, standard output is the command's alone.
    output = sys.stderr if command else sys.stdout
    try:
        with ExitStack() as stack:
            realm = stack.enter_context(Realm())
            bob = realm.principal("bob")
            server = stack.enter_context(realm.server(commands(bob)))
            env = environment(realm, server)
            say(describe(realm, server, env), output)
            if command:
                status = run(command, env)
            else:
                say(WAITING, output)
                wait()
    except SystemExit:
        say(ENDED, output)
        raise
    say(ENDED, output)
    return status


def main() -> int:
    """Do what the command line says; return the exit status."""
    arguments, separator, command = sys.argv[1:], False, list[str]()
    if "--" in arguments:
        at = arguments.index("--")
        arguments, separator, command = arguments[:at], True, arguments[at + 1 :]
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [-h] [-- COMMAND ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    if separator and not command:
        parser.error("there is no COMMAND after --")
    for number in SIGNALS:
        # Under nohup, SIGHUP stays ignored.  (PyPy does not tell that it is.)
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, leave)
    # scripts/demo blocks Ctrl-C until this program can clean up after it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    try:
        return serve(command)
    except StartError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
