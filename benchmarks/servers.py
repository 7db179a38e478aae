# SPDX-License-Identifier: MIT
"""The realm and the servers; the only user of remctl.testing here."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from remctl.testing import Command, Realm, StartError

if TYPE_CHECKING:
    from collections.abc import Iterator

# The interpreter that has Debian's GSS-API module.
PYTHON = "/usr/bin/python3"
TOKEN_SERVER = Path(__file__).with_name("token_server.py")

# What remctld runs: the programs themselves, as a shell would take longer to start than
# they take to run.
COMMANDS = {
    "echo ALL": Command(Path("/bin/echo")),
    "head ALL": Command(Path("/usr/bin/head")),
    "sleep ALL": Command(Path("/bin/sleep")),
    "wc ALL": Command(Path("/usr/bin/wc"), stdin="last"),
}

# Seconds for the processes of former connections to end.
PATIENCE = 60


class Servers(NamedTuple):
    """The environment for clients, and where the servers are."""

    env: dict[str, str]
    host: str
    port: int
    token_port: int
    pid: int  # remctld's
    idle: set[str]  # the processes that it has when there is no connection

    def settle(self) -> None:
        """Wait until remctld has no connection left of clients that have ended."""
        deadline = time.monotonic() + PATIENCE
        while children(self.pid) != self.idle:
            if time.monotonic() > deadline:
                raise TimeoutError("remctld still serves clients that have ended")
            time.sleep(0.002)


def children(pid: int) -> set[str]:
    """Return the processes that a process has started and that have not ended."""
    return {
        child
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not ended(child)
    }


def ended(pid: str) -> bool:
    """Whether a process has ended: remctld may learn of that much later."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        )
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextmanager
def running_servers() -> Iterator[Servers]:
    """Start a realm, a remctld and the server of small tokens."""
    with ExitStack() as stack:
        realm = stack.enter_context(Realm())
        server = stack.enter_context(realm.server(COMMANDS))
        env = {**os.environ, **realm.env}
        tokens = subprocess.Popen(
            # -I: settings for other interpreters must not reach this one.
            [PYTHON, "-I", str(TOKEN_SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
        )
        stack.enter_context(tokens)  # closes its input, and waits
        assert tokens.stdout is not None
        port = tokens.stdout.readline()
        if not port:
            raise StartError("the server of small tokens has not started")
        pid = server.pid
        yield Servers(env, server.host, server.port, int(port), pid, children(pid))
