# SPDX-License-Identifier: MIT
"""The threads in which remctl.aio runs what may block: a bounded number."""

from __future__ import annotations

import _thread
import heapq
import os
import threading
import time
from itertools import count
from typing import TYPE_CHECKING

from remctl._exceptions import RemctlError
from remctl._waiting import Work

if TYPE_CHECKING:
    from remctl._waiting import Call

# How many there are at most in a process for each kind of work, whatever the
# number of connections.
LIMIT = 64

# How many of those that come after it a Call lets pass for each of its tries.
LATER = 256


class Pool:
    """Runs Calls in threads, of which there are at most LIMIT.

    A thread that has run one takes the next, and counts until the function in
    it has ended, also when nobody waits for that any more.  A Call that is
    dropped stays in the queue until a thread finds it there: so dropping takes
    no lock, and may happen anywhere, in a garbage collection too.
    """

    def __init__(self) -> None:
        """Have no thread at first."""
        self.reset()

    def reset(self) -> None:
        """Forget all threads: a forked child has none of them."""
        self._lock = threading.Lock()
        self._threads: set[object] = set()
        self._queue: list[tuple[int, int, Call]] = []
        self._numbers = count()
        self._giving_way = 0

    def submit(self, call: Call) -> None:
        """Run CALL as soon as there is a thread for it, and wake it up then."""
        with self._lock:
            number = next(self._numbers)
            place = number + LATER * call.tries, number, call
            heapq.heappush(self._queue, place)
            if len(self._threads) >= LIMIT:
                return
            thread = object()
            self._threads.add(thread)
            try:
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
            with self._lock:
                if not (call.gave_way or call.finished) and (
                    sum(not waiting.taken for _, _, waiting in self._queue)
                    > self._giving_way
                ):
                    call.gave_way = True
                    self._giving_way += 1
        return call.gave_way

    def _work(self, thread: object) -> None:
        call = None
        while (call := self._next(thread, call)) is not None:
            call.run()

    def _next(self, thread: object, ended: Call | None) -> Call | None:
        with self._lock:
            if ended is not None:
                self._giving_way -= ended.gave_way
            if self._queue:
                return heapq.heappop(self._queue)[-1]
            self._threads.discard(thread)
            return None


pools = {work: Pool() for work in Work}


def reset() -> None:
    """Begin anew in a forked child."""
    for pool in pools.values():
        pool.reset()


os.register_at_fork(after_in_child=reset)
