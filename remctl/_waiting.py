# SPDX-License-Identifier: MIT
"""What a connection waits for, and how a blocking caller waits.

A connection's steps are generators that yield what they wait for, the Readiness of
a descriptor or a TURN for others, and look for themselves afterwards whether it came
or the deadline passed.  block() drives them in the calling thread, remctl.aio in an
event loop.
"""

from __future__ import annotations

import _thread
import math
import select
import threading
from typing import TYPE_CHECKING, Callable, TypeVar, Union

from remctl._ffi import lib

if TYPE_CHECKING:
    from collections.abc import Generator

    from remctl._remctl_cffi import ShimHandle

    Steps = Generator["Wait", None, "T"]

T = TypeVar("T")

# Waits are cut here, far below what poll() takes at most.
LONGEST_WAIT = 3600.0

# In the main thread they are cut here: Python looks for signals, and then
# begins to wait, and a Ctrl-C between the two would not end the wait.
LONGEST_DEAFNESS = 0.2


class Deadline:
    """A moment of the monotonic clock, or never."""

    def __init__(self, timeout: float) -> None:
        """Set it TIMEOUT seconds from now, 0 for never."""
        # Not Python's clock, which tests of users freeze.
        self._when = lib.shim_now() + timeout if timeout else math.inf  # guard 50a

    def left(self) -> float:
        """Return the seconds until then, negative when it has passed."""
        return self._when - lib.shim_now()  # guard 50b

    def passed(self) -> bool:
        """Whether the deadline has passed."""
        return self.left() <= 0

    def wait(self) -> float:
        """Return how many seconds to wait at most, before looking again."""
        return min(max(self.left(), 0.0), LONGEST_WAIT)


class Silence(Deadline):
    """A deadline that moves on for as long as data is moving.

    It is measured to a tenth of the time-out.
    """

    def __init__(self, handle: ShimHandle, timeout: float) -> None:
        """Set it TIMEOUT seconds after the last octet over HANDLE's connection."""
        super().__init__(timeout)
        self._handle = handle
        self._timeout = timeout
        self._progress = lib.shim_progress(handle)

    def passed(self) -> bool:
        """Whether the deadline has passed."""
        progress = lib.shim_progress(self._handle)
        if self._progress != progress:
            self._progress = progress
            super().__init__(self._timeout)
        return super().passed()

    def wait(self) -> float:
        """Return how many seconds to wait at most, before looking again."""
        if not self._timeout:
            return LONGEST_WAIT
        return min(super().wait(), max(self._timeout / 10, 0.001))


class Readiness:
    """Waits until a descriptor is ready for EVENTS of select.poll()."""

    def __init__(
        self,
        fd: int,
        events: int,
        deadline: Deadline,
        cancel: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait for EVENTS on FD until DEADLINE; CANCEL makes it ready from outside."""
        self.fd = fd
        self.events = events
        self.deadline = deadline
        self.cancel = cancel
        self.ready = False

    def block(self) -> None:
        """Wait.  Signal handlers run meanwhile."""
        seconds = self.deadline.wait()
        if _thread.get_ident() == threading.main_thread().ident:
            seconds = min(seconds, LONGEST_DEAFNESS)
        self.ready = poll(self.fd, self.events, seconds)


class Turn:
    """Lets others have a turn, where they need the thread for it."""

    def cancel(self) -> None:
        """Do nothing: there is nothing to wait for."""

    def block(self) -> None:
        """Do nothing: other threads have their turns anyway."""


TURN = Turn()

Wait = Union[Readiness, Turn]


def poll(fd: int, events: int, seconds: float) -> bool:
    """Return whether FD is ready for EVENTS, within SECONDS."""
    # Looked up here: gevent puts its own in these places, and eventlet, which has
    # no poll(), its own select().
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(fd, events)
        return bool(poller.poll(seconds * 1000))
    reading, writing = ([fd], []) if events == select.POLLIN else ([], [fd])
    return any(select.select(reading, writing, [], seconds))


def block(steps: Steps[T]) -> T:
    """Drive STEPS to their end, blocking this thread, and return their result."""
    try:
        while True:
            next(steps).block()
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # the generator's T
    finally:
        steps.close()
