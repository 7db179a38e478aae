# SPDX-License-Identifier: MIT
"""Killing all processes of a server, also those that have left its process group.

A command may leave the process group and the session in which it was started.  After
remctld has ended, only its environment still tells which server started it, so each
server puts a mark there.  A process that has left the session and dropped the
environment is not found.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import subprocess

_POLL_INTERVAL = 0.001


class Process(NamedTuple):
    """A process.  A pid may be reused, but not with the same start time."""

    pid: int
    start: int  # in ticks of the system's clock


class Processes:
    """The processes of a session, and those with a mark in their environment."""

    def __init__(self) -> None:
        self._mark = f"REMCTL_TESTING_SERVER={secrets.token_hex(12)}"
        # The processes of the session, as they were before any was killed.
        self._known: set[Process] | None = None

    @property
    def env(self) -> dict[str, str]:
        """The variable that marks the environment of the processes."""
        return dict([self._mark.split("=")])

    def end(self, leader: subprocess.Popen[bytes], timeout: float) -> list[int]:
        """Kill them, and return the pids of those that are left; normally none are.

        Blocks until they have ended and their descriptors are closed.

        Args:
            leader: The leader of the session and of its process group.  If it has
                ended, its pid must not have been reused when this is called first.
            timeout: How long this blocks at most, in seconds.

        """
        find = self._find if sys.platform == "linux" else self._find_group
        deadline = time.monotonic() + timeout
        left = find(leader)
        if self._known is None:
            self._known = left
            # All at once, so that none can start another process meanwhile.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader.pid, signal.SIGKILL)
        missed = 0
        # A scan can miss a process that is just starting or executing a program.
        while missed < 2 and time.monotonic() < deadline:
            for process in left:
                # A process of another user, such as sudo, may still end by itself.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, signal.SIGKILL)
            time.sleep(_POLL_INTERVAL)
            left = find(leader)
            missed = 0 if left else missed + 1
        return sorted(process.pid for process in left)

    def _find(self, leader: subprocess.Popen[bytes]) -> set[Process]:
        myself = _state(os.getpid())
        assert myself is not None
        found = set()
        for path in Path("/proc").glob("[0-9]*"):
            pid = int(path.name)
            state = _state(pid)
            # A process that is older than this one was not started by the server.
            if state is None or state.ended or state.start < myself.start:
                continue
            process = Process(pid, state.start)
            if self._known is None:
                known = state.session == leader.pid
            else:
                known = process in self._known
            if known or self._has_mark(pid):
                found.add(process)
        return found

    def _has_mark(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            return self._mark.encode() in environment
        return False  # it has ended, or belongs to another user

    def _find_group(self, leader: subprocess.Popen[bytes]) -> set[Process]:
        """Return the leader if a process of its group is left; needs no /proc."""
        leader.poll()  # a zombie counts as well
        try:
            os.killpg(leader.pid, 0)
        except (
            ProcessLookupError,
            PermissionError,
        ):  # the latter on macOS, for zombies
            return set()
        return {Process(leader.pid, 0)}


class _State(NamedTuple):
    start: int
    session: int
    ended: bool


def _state(pid: int) -> _State | None:
    """Return what /proc knows of a process, None if there is none."""
    try:
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A zombie has closed its descriptors; its parent removes it.  A process of which
    # only the first thread has ended is shown as a zombie, too, but still runs.
    ended = words[0] in (b"Z", b"X") and int(words[17]) <= 1
    return _State(int(words[19]), int(words[3]), ended)
