# SPDX-License-Identifier: MIT
"""A server process that ends when it is stopped, or when this process ends.

A server started by tests must not outlive them, however they end.  ``finally`` and
``atexit`` do not run when a process is killed, and PR_SET_PDEATHSIG cannot be used
from pure Python and depends on the thread that forked.  So the shell that becomes the
server first starts a guard process, which reads from a pipe whose other end only this
process holds.  When this process ends, for whatever reason, the guard reads end of
file, kills the process group and removes the directory, if there is one to remove.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from remctl.testing._processes import Processes

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

# Programs for administrators may be missing from the PATH of other users.
_SBIN = ["/usr/local/sbin", "/usr/sbin", "/sbin"]

# $1 is the directory to remove, the rest is the command.  exec keeps the process id,
# so that the server is our own child and the leader of its session and group.  The
# guard ignores SIGTERM, as it sends that to its own group first.  Removing the
# directory is tried again, as processes that are ending may still write to it.
_GUARD = """
directory=$1
shift
exec 3<&0 </dev/null
(
    trap '' TERM
    read -r _ <&3
    kill -TERM 0
    for _ in 1 2 3 4 5 6 7 8 9; do
        [ -n "$directory" ] && ! rm -rf -- "$directory" || break
        sleep 1
    done
    kill -KILL 0
) >/dev/null 2>&1 &
exec 3<&-
exec "$@"
"""

_START_TIMEOUT = 30.0
_TERMINATE_TIMEOUT = 2.0
_KILL_TIMEOUT = 10.0
_SIGNAL_INTERVAL = 0.02


class StartError(RuntimeError):
    """A program that the realm or a server needs failed, did not start or does not end.

    The text has what the program said.
    """


class MissingError(StartError):
    """A program or a Python package is not installed.

    The text names what is missing, and the packages that have it.
    """


def programs(packages: Mapping[str, str]) -> dict[str, str]:
    """Find the programs named by the keys; the values are their Debian packages.

    Raises MissingError, which names all that is missing and where it comes from.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN])
    found = {name: shutil.which(name, path=path) for name in packages}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        wanted = sorted({packages[name] for name in missing})
        raise MissingError(
            f"not found: {', '.join(missing)}; "
            f"on Debian and Ubuntu: apt-get install {' '.join(wanted)}"
        )
    return {name: path for name, path in found.items() if path is not None}


class Port:
    """A TCP port of a loopback address, reserved until it is released.

    A bound socket that never listens keeps the kernel from handing the number to
    another process, whereas Linux lets a server that sets SO_REUSEADDR (both krb5kdc
    and remctld do) bind to the same number.  Other systems do not; there the number
    is free again at once, and another process might take it first.
    """

    def __init__(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((address, 0))
            self.number: int = self._socket.getsockname()[1]
        except OSError as error:
            self._socket.close()
            raise StartError(f"no port on {address}: {error.strerror}") from None
        if sys.platform != "linux":
            self._socket.close()

    def release(self) -> None:
        """Give the number back."""
        self._socket.close()


class Daemon:
    """One server process, with the processes that it starts.

    Raises StartError, with the server's output in it, when the process ends before
    ``ready()`` is true, or when that takes too long.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        output: Path,
        ready: Callable[[], bool],
        remove: Path | None = None,
    ) -> None:
        self._owner = os.getpid()
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._name = command[0]
        self._output = output
        self._processes = Processes()
        try:
            with output.open("ab") as log:
                start = log.tell()
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _GUARD, "sh", str(remove or ""), *command],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env={**env, **self._processes.env},
                    start_new_session=True,
                )
            self.pid = self._process.pid
            self._wait_until(ready, start)
        except BaseException:
            self.stop()
            raise

    def signal_until(
        self, number: signal.Signals, answered: Callable[[], bool]
    ) -> None:
        """Send the server a signal, again and again until ``answered()`` is true.

        Raises StartError, with the server's output since then, when it ends instead.
        """

        def ask() -> bool:
            if answered():
                return True
            assert self._process is not None
            self._process.send_signal(number)
            time.sleep(_SIGNAL_INTERVAL)
            return False

        self._wait_until(ask, self._output.stat().st_size)

    def _wait_until(self, ready: Callable[[], bool], start: int) -> None:
        """Wait for ``ready()``; output from ``start`` on is for the error's text."""
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT
        problem = ""
        while not ready():
            status = self._process.poll()
            if status is not None:
                problem = f"ended with status {status}"
            elif time.monotonic() > deadline:
                problem = f"was not ready after {_START_TIMEOUT:.0f} seconds"
            if problem:
                said = self._output.read_bytes()[start:]
                text = said.decode(errors="replace").strip() or "(no output)"
                raise StartError(f"{self._name} {problem}:\n{text}")
            time.sleep(0.002)

    def stop(self) -> None:
        """End the server: asked first, then killed, along with what it started."""
        if self._process is None or self._stopped or self._owner != os.getpid():
            return  # a forked child must leave its parent's server alone
        deadline = time.monotonic() + _TERMINATE_TIMEOUT
        # remctld loses a SIGTERM that comes just before it waits, so send it again.
        try:
            while self._process.poll() is None and time.monotonic() < deadline:
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.2)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the server and all that it started with SIGKILL.

        Returns when no process of it is left.  Raises StartError when some are after
        10 seconds; another call tries again.
        """
        if self._process is None or self._stopped or self._owner != os.getpid():
            return
        # The group exists as long as its guard does, so its number has not been
        # reused, even if the server itself ended long ago.
        left = self._processes.end(self._process, _KILL_TIMEOUT)
        if left:
            pids = ", ".join(map(str, left))
            raise StartError(f"{self._name} was killed, but does not end: {pids}")
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._stopped = True


def start_on_free_port(
    address: str, start: Callable[[int], Daemon]
) -> tuple[Port, Daemon]:
    """Start a server on a port that is free; the caller releases the port."""
    port = Port(address)
    try:
        return port, start(port.number)
    except BaseException:
        port.release()
        raise
