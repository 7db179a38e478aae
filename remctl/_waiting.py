# SPDX-License-Identifier: MIT
"""What a connection waits for, and how a blocking caller waits.

A connection's operations are generators, called steps.  They yield what they wait for:
the Readiness of a descriptor, or the CHECKPOINT at which other tasks may run.  When
they are resumed, they check themselves whether it is there or the deadline has passed.
block() drives them in the calling thread, remctl.aio in an event loop.
"""

from __future__ import annotations

import _thread
import math
import select
import threading

from remctl._ffi import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Callable, TypeVar, Union

    from remctl._remctl_cffi import ShimHandle

    T = TypeVar("T")
    Wait = Union["Readiness", "Checkpoint"]
    Steps = Generator[Wait, None, T]

# The most that one wait takes, in seconds: far below what poll() can take.
LONGEST_WAIT = 3600.0

# The same in the main thread.  A Ctrl-C that comes after Python's last check for
# signals and before the system call does not end the wait: the next check notices it.
SIGNAL_CHECK_INTERVAL = 0.2


class Deadline:
    """A point in time on the monotonic clock, or never."""

    def __init__(self, timeout: float) -> None:
        """Expire ``timeout`` seconds from now; 0 means never."""
        # Not Python's clock: libraries that freeze it for tests must not stop ours.
        self._when = lib.shim_now() + timeout if timeout else math.inf  # guard 50a

    def left(self) -> float:
        """Return the seconds that are left, a negative number if it has passed."""
        return self._when - lib.shim_now()  # guard 50b

    def passed(self) -> bool:
        """Whether the deadline has passed."""
        return self.left() <= 0

    def longest_wait(self) -> float:
        """Return how many seconds to wait at most before the next check."""
        return min(max(self.left(), 0.0), LONGEST_WAIT)


class IdleDeadline(Deadline):
    """A deadline that starts again whenever data has been sent or received.

    It is accurate to a tenth of the time-out.
    """

    def __init__(self, handle: ShimHandle, timeout: float) -> None:
        """Expire ``timeout`` seconds after the last octet on the connection."""
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

    def longest_wait(self) -> float:
        """Return how many seconds to wait at most before the next check."""
        if not self._timeout:
            return LONGEST_WAIT
        return min(super().longest_wait(), max(self._timeout / 10, 0.001))


class Readiness:
    """A wait until a descriptor is ready."""

    def __init__(
        self,
        fd: int,
        events: int,
        deadline: Deadline,
        cancel: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait for ``events`` of select.poll() on ``fd``, until ``deadline``.

        ``cancel`` ends the wait from any thread, by making the descriptor ready.
        """
        self.fd = fd
        self.events = events
        self.deadline = deadline
        self.cancel = cancel
        self.ready = False

    def block(self) -> None:
        """Wait.  Signal handlers run in the meantime."""
        seconds = min(self.deadline.longest_wait(), longest_block())
        self.ready = poll(self.fd, self.events, seconds)


class Checkpoint:
    """A wait for nothing, so that other tasks of an event loop can run."""

    def cancel(self) -> None:
        """Do nothing: this wait ends by itself."""

    def block(self) -> None:
        """Do nothing: other threads run anyway."""


CHECKPOINT = Checkpoint()


def longest_block() -> float:
    """Return how many seconds the calling thread may wait before it looks again."""
    if _thread.get_ident() == threading.main_thread().ident:
        return SIGNAL_CHECK_INTERVAL
    return LONGEST_WAIT


def poll(fd: int, events: int, seconds: float) -> bool:
    """Wait for ``events`` on ``fd``; return whether they came within ``seconds``."""
    # Looked up at each call, as gevent and eventlet replace these functions.
    # eventlet removes poll() and has a select() of its own.
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(fd, events)
        return bool(poller.poll(seconds * 1000))
    reading, writing = ([fd], []) if events == select.POLLIN else ([], [fd])
    return any(select.select(reading, writing, [], seconds))


def block(steps: Steps[T]) -> T:
    """Drive ``steps`` to their end in this thread, and return their result."""
    try:
        while True:
            next(steps).block()
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # the generator's T
    finally:
        steps.close()
