# SPDX-License-Identifier: MIT
"""What a connection waits for, and how a blocking caller waits.

A connection's steps are generators that yield what they wait for, Readiness of
a descriptor, the end of a Call or of a Pause, or a TURN for others, and look
for themselves afterwards whether it came or the deadline passed.  block()
drives them in the calling thread, remctl.aio in an event loop.
"""

from __future__ import annotations

import _thread
import enum
import math
import select
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, TypeVar, Union

if TYPE_CHECKING:
    from collections.abc import Generator

    Steps = Generator["Wait", None, "T"]

T = TypeVar("T")

# Waits are cut here, far below what poll() and locks take at most.
LONGEST_WAIT = 3600.0

# In the main thread they are cut here: Python looks for signals, and then
# begins to wait, and a Ctrl-C between the two would not end the wait.
LONGEST_DEAFNESS = 0.2


class Deadline:
    """A moment of the monotonic clock, or never."""

    def __init__(self, timeout: float) -> None:
        """Set it TIMEOUT seconds from now, 0 for never."""
        self.when = time.monotonic() + timeout if timeout else None

    def left(self) -> float:
        """Return the seconds until then, negative when it has passed."""
        return math.inf if self.when is None else self.when - time.monotonic()

    def remaining(self) -> float:
        """Return the seconds to wait at most now, 0 when it has passed."""
        in_main_thread = _thread.get_ident() == threading.main_thread().ident
        longest = LONGEST_DEAFNESS if in_main_thread else LONGEST_WAIT
        return min(max(self.left(), 0.0), longest)

    def passed(self) -> bool:
        """Whether the deadline has passed."""
        return self.left() <= 0

    def postpone(self, seconds: float) -> None:
        """Move it SECONDS on."""
        if self.when is not None:
            self.when += seconds


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
        poll = select.poll()
        poll.register(self.fd, self.events)
        self.ready = bool(poll.poll(self.deadline.remaining() * 1000))


class Pause:
    """Waits until DEADLINE."""

    def __init__(self, deadline: Deadline) -> None:
        """Wait until DEADLINE, or until cancel()."""
        self.deadline = deadline
        self.cancelled = False
        # Called, too, when the caller is woken up: in whatever thread did it.
        self.notify: Callable[[], None] = lambda: None
        self._wakeup = _thread.allocate_lock()
        self._wakeup.acquire()

    def cancel(self) -> None:
        """End the wait, from any thread or signal handler."""
        self.cancelled = True
        self.wake()

    def wake(self) -> None:
        """Wake the caller up, to look what has come."""
        try:  # noqa: SIM105 (there may be no memory for a context manager)
            self._wakeup.release()
        except RuntimeError:
            pass  # it has been woken up already
        self.notify()

    def woken(self) -> bool:
        """Whether the caller has been woken up since it asked last."""
        return self._wakeup.acquire(blocking=False)

    def block(self) -> None:
        """Wait.  Signal handlers run meanwhile."""
        self._wakeup.acquire(timeout=self.deadline.remaining())


class Work(enum.Enum):
    """What a Call is for, where each kind has a bounded number of threads."""

    LOOKUP = "name service"
    HANDSHAKE = "handshake"
    # One that has had a turn, and took too long.
    RETRY = "handshake again"
    # One over the user's own socket: it cannot begin anew.
    TUNNEL = "handshake over a given socket"
    # What does not fit the socket's buffers, too.
    TRANSFER = "noop"
    # All of a command: libremctl's own socket cannot be watched.
    PROTOCOL1 = "protocol 1"


class GaveWayError(TimeoutError):
    """A Call was silent, and other Calls waited for its thread."""


class Call(Pause):
    """Runs a function that may block in a helper thread, and waits for it.

    The first wait starts the thread, or waits for one, and does no more.  A
    caller that is interrupted just leaves: the function goes on to its end, and
    its result is dropped.

    Where threads are few, a Call that has been silent for ``patience`` seconds
    since ``moved`` may have to give its thread to others of its kind of work.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        work: Work,
        deadline: Deadline,
        patience: float = math.inf,
    ) -> None:
        """Run FUNCTION, which does WORK; wait for it until DEADLINE."""
        super().__init__(deadline)
        self.work = work
        self.patience = patience
        self.gave_way = False
        self.moved = 0.0
        self.begun = False
        self.finished = False
        self._started = False
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        self._claim = _thread.allocate_lock()

    def block(self) -> None:
        """Wait, but start it the first time."""
        if self._started:
            super().block()
            return
        self._started = True
        try:
            if sys.is_finalizing():  # CPython before 3.12 starts one, which never runs
                raise RuntimeError("the interpreter is going down")
            # Not threading.Thread, which an interrupt can leave half started.
            _thread.start_new_thread(self.run, ())
        except RuntimeError:
            # No thread to be had: the interpreter is going down, or a limit
            # is reached.  Better a call that cannot be interrupted than none.
            # Or else it is a signal handler's own error.
            if not self.run():
                raise

    @property
    def taken(self) -> bool:
        """Whether the function has begun, or never will."""
        return self._claim.locked()

    def drop(self) -> None:
        """See that the function never runs, unless it has begun."""
        if self._claim.acquire(blocking=False):
            del self._function

    def run(self) -> bool:
        """Run the function in this thread, unless it has begun or was dropped."""
        if not self._claim.acquire(blocking=False):
            return False
        try:
            # All of it: whatever fails here, for want of memory too, the caller
            # must hear of it.
            self.moved = time.monotonic()
            self.begun = True
            if not self._started:  # else nobody waits for that
                self.wake()
            self._result = self._function()
        except BaseException as error:  # noqa: BLE001 (the caller raises it)
            self._error = error
        finally:
            # What it holds, a connection say, is not to outlive the call with us.
            del self._function
            self.begun = self.finished = True
            self.wake()
        return True

    def result(self) -> Any:
        """Return what the function returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._result


class Turn:
    """Lets others have a turn, where they need the thread for it."""

    def cancel(self) -> None:
        """Do nothing: there is nothing to wait for."""

    def block(self) -> None:
        """Do nothing: other threads have their turns anyway."""


TURN = Turn()

Wait = Union[Readiness, Pause, Turn]


def pause(seconds: float) -> Steps[None]:
    """Wait SECONDS."""
    pause = Pause(Deadline(seconds))
    while not pause.deadline.passed():
        yield pause


def run_in_thread(
    function: Callable[[], T],
    work: Work,
    deadline: Deadline,
    patience: float = math.inf,
) -> Steps[T]:
    """Run FUNCTION in a helper thread; TimeoutError when DEADLINE passes first.

    Waiting for the thread itself does not count.  GaveWayError: others need it.
    """
    call = Call(function, work, deadline, patience)
    asked = time.monotonic()
    yield call
    deadline.postpone(time.monotonic() - asked)
    while not call.finished:
        if call.gave_way:
            raise GaveWayError
        if deadline.passed():
            raise TimeoutError
        yield call
    return call.result()  # type: ignore[no-any-return]  # the function's T


def block(steps: Steps[T]) -> T:
    """Drive STEPS to their end, blocking this thread, and return their result."""
    try:
        while True:
            next(steps).block()
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # the generator's T
    finally:
        steps.close()
