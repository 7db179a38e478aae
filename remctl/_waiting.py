# SPDX-License-Identifier: MIT
"""What a connection waits for, and how a blocking caller waits.

A connection's operations are generators, called steps.  They yield what they wait for:
the Readiness of a descriptor, or the Gathering of a reply.  When they are resumed, they
check themselves whether it is there or the deadline has passed.
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
    from typing import Callable, TypeVar

    from remctl._remctl_cffi import ShimHandle

    T = TypeVar("T")
    Steps = Generator["Readiness", None, T]

UNKNOWN = -1  # none of the shim's outcomes

# The most that one wait takes, in seconds: far below what poll() can take.
LONGEST_WAIT = 3600.0

# The same in the main thread.  A Ctrl-C that comes after Python's last check for
# signals and before the system call does not end the wait: the next check notices it.
SIGNAL_CHECK_INTERVAL = 0.2
FIRST_GATHERING = int(SIGNAL_CHECK_INTERVAL * 1000)

# The standard library's own, or something else if gevent or eventlet were here first.
POLL = getattr(select, "poll", None)
if getattr(POLL, "__module__", None) != "select":
    POLL = object()


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


NEVER = Deadline(0)


def deadline_after(timeout: float) -> Deadline:
    """Return the deadline after ``timeout`` seconds, NEVER for 0."""
    return Deadline(timeout) if timeout else NEVER


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

    def read(self) -> bool:
        """Read what has come to the descriptor; return whether that ends the wait."""
        return True

    def block(self) -> None:
        """Wait.  Signal handlers run in the meantime."""
        self.ready = poll(self.fd, self.events, longest_block(self.deadline))


class Gathering(Readiness):
    """A wait for the rest of a reply, which it reads.

    ``outcome`` is that of shim_gather(), UNKNOWN if an interrupt has kept it from being
    noted.
    """

    def __init__(self, handle: ShimHandle, deadline: Deadline) -> None:
        """Wait for the reply to the command that was sent on ``handle``."""
        super().__init__(lib.shim_fileno(handle), select.POLLIN, deadline)
        self._handle = handle
        self.outcome = UNKNOWN

    def read(self) -> bool:
        """Read what has come; return whether that ends the wait."""
        self.outcome = UNKNOWN
        self.outcome = lib.shim_gather(self._handle, 0)
        return self.outcome not in {lib.SHIM_WAIT, lib.SHIM_MORE}

    def block(self) -> None:
        """Wait, and read.  Signal handlers run in the meantime."""
        milliseconds = longest_gathering(self.deadline)
        if not milliseconds:
            super().block()
        self.outcome = lib.shim_gather(self._handle, milliseconds)


def longest_block(deadline: Deadline = NEVER) -> float:
    """Return how many seconds the calling thread may wait before it looks again."""
    longest = LONGEST_WAIT
    if _thread.get_ident() == threading.main_thread().ident:
        longest = SIGNAL_CHECK_INTERVAL
    return longest if deadline is NEVER else min(deadline.longest_wait(), longest)


def longest_gathering(deadline: Deadline) -> int:
    """Return the same in milliseconds for a wait in C, 0 if it must not wait there."""
    return to_milliseconds(longest_block(deadline)) if waits_in_c() else 0


def first_gathering(deadline: Deadline) -> int:
    """Return the same for any thread, without asking which one this is."""
    if getattr(select, "poll", None) is not POLL:  # without a call of waits_in_c()
        return 0
    if deadline is NEVER:
        return FIRST_GATHERING
    return to_milliseconds(min(deadline.longest_wait(), SIGNAL_CHECK_INTERVAL))


def to_milliseconds(seconds: float) -> int:
    """Return whole milliseconds, rounded up."""
    return math.ceil(seconds * 1000)


def waits_in_c() -> bool:
    """Whether a wait may keep the thread: no greenlets are to run meanwhile."""
    # gevent and eventlet replace these functions, at any time.  eventlet removes
    # poll() and has a select() of its own.
    return getattr(select, "poll", None) is POLL


def poll(fd: int, events: int, seconds: float) -> bool:
    """Wait for ``events`` on ``fd``; return whether they came within ``seconds``."""
    if waits_in_c():
        return bool(lib.shim_poll(fd, events, to_milliseconds(seconds)))
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
