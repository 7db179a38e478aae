# SPDX-License-Identifier: MIT
"""The end of all processes of a server, whatever they do to get away from it.

A command may leave the process group that it was started in, and its session, too;
when remctld is gone, nothing leads from there to it.  What it keeps is its environment,
where every server has a mark of its own.  One that has dropped both is lost to us.
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

_LOOK_AGAIN = 0.001


class Process(NamedTuple):
    """A process: its number may be another's later, but not with the same start."""

    pid: int
    start: int  # in ticks of the system's clock


class Processes:
    """The processes of a session, and those with a mark in their environment."""

    def __init__(self) -> None:
        self._mark = f"REMCTL_TESTING_SERVER={secrets.token_hex(12)}"
        # Of the session, before they were killed.
        self._known: set[Process] | None = None

    @property
    def env(self) -> dict[str, str]:
        """What is to be in their environment."""
        return dict([self._mark.split("=")])

    def end(self, leader: subprocess.Popen[bytes], timeout: float) -> list[int]:
        """Kill them, and return those that are left then: none, as a rule.

        Blocks until they have ended and their descriptors are closed.

        Args:
            leader: Of the session and of its process group.  Its number must not be
                another's yet when this is called first, even where it has ended.
            timeout: How long this blocks at most, in seconds.

        """
        find = self._find if sys.platform == "linux" else self._find_group
        deadline = time.monotonic() + timeout
        left = find(leader)
        if self._known is None:
            self._known = left
            # All at once, so that none can start another meanwhile.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader.pid, signal.SIGKILL)
        missed = 0
        # A look misses one that is just being started, or executing another program.
        while missed < 2 and time.monotonic() < deadline:
            for process in left:
                # Another user's, such as sudo's, may still end by itself.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, signal.SIGKILL)
            time.sleep(_LOOK_AGAIN)
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
            # Who is older than we are has not been started for us.
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
        return False  # it has ended, or is somebody else's

    def _find_group(self, leader: subprocess.Popen[bytes]) -> set[Process]:
        """Return the leader for all of its group, where no /proc tells more."""
        leader.poll()  # a zombie counts as well
        try:
            os.killpg(leader.pid, 0)
        except (ProcessLookupError, PermissionError):  # macOS's, for zombies
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
    # A zombie has closed its descriptors, and is its parent's to bury.  Where only its
    # first thread has ended, it is none yet.
    ended = words[0] in (b"Z", b"X") and int(words[17]) <= 1
    return _State(int(words[19]), int(words[3]), ended)
