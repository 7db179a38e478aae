# SPDX-License-Identifier: MIT
"""The threads in which remctl.aio runs what may block: a bounded number."""

from __future__ import annotations

import _thread
import os
import threading
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from remctl._exceptions import RemctlError
from remctl._waiting import Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remctl._waiting import Call

# How many there are at most in a process for each kind of work, whatever the
# number of connections.
LIMIT = 64


class Pool:
    """Runs Calls in threads, of which there are at most LIMIT.

    A thread that has run one takes the next, and counts until the function in
    it has ended, also when nobody waits for that any more.  A Call that is
    dropped stays in the queue for a while: so dropping takes no lock, and may
    happen anywhere, in a garbage collection too.
    """

    def __init__(self) -> None:
        """Have no thread at first."""
        self.reset()

    def reset(self) -> None:
        """Forget all threads: a forked child has none of them."""
        # An RLock because it knows whether this thread has it.
        self._lock = threading.RLock()
        self._threads: set[object] = set()
        self._queue: deque[Call] = deque()
        self._longest = LIMIT
        self._giving_way = 0

    def submit(self, call: Call) -> None:
        """Run CALL as soon as there is a thread for it, and wake it up then."""
        self._put_right()
        with self._lock:
            if len(self._queue) >= self._longest:
                self._queue = deque(self._waiting())
                self._longest = 2 * len(self._queue) + LIMIT
            self._queue.append(call)
            if len(self._threads) >= LIMIT:
                return
            thread = object()
            try:
                self._threads.add(thread)
                _thread.start_new_thread(self._work, (thread,))
            except BaseException as error:
                self._threads.discard(thread)
                if isinstance(error, (RuntimeError, MemoryError)):
                    # Not in this thread, which is the event loop's.
                    raise RemctlError(f"cannot start a thread: {error}") from error
                raise

    def must_give_way(self, call: Call) -> bool:
        """Whether CALL has been silent for too long, and another needs its thread."""
        if time.monotonic() - call.moved >= call.patience:
            self._put_right()
            with self._lock:
                if not (call.gave_way or call.finished) and any(
                    islice(self._waiting(), self._giving_way, None)
                ):
                    call.gave_way = True
                    self._giving_way += 1
        return call.gave_way

    def _waiting(self) -> Iterator[Call]:
        """Return the Calls that want a thread."""
        return (call for call in self._queue if not call.taken)

    def _put_right(self) -> None:
        """Release the lock where an exception has kept this thread from it.

        On PyPy and CPython 3.9, that of a signal handler can come between the end of
        a with block and the release.
        """
        while self._lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001
            self._lock.release()

    def _work(self, thread: object) -> None:
        call = None
        while (call := self._next(thread, call)) is not None:
            call.run()

    def _next(self, thread: object, ended: Call | None) -> Call | None:
        with self._lock:
            if ended is not None:
                self._giving_way -= ended.gave_way
            if self._queue:
                return self._queue.popleft()
            self._threads.discard(thread)
            return None


pools = {work: Pool() for work in Work}


def reset() -> None:
    """Begin anew in a forked child."""
    for pool in pools.values():
        pool.reset()


os.register_at_fork(after_in_child=reset)
