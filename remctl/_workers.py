# SPDX-License-Identifier: MIT
"""The threads in which remctl.aio runs what may block: a bounded number."""

from __future__ import annotations

import asyncio
import heapq
import os
import threading
import time
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from remctl._exceptions import RemctlError

if TYPE_CHECKING:
    from remctl._waiting import Call

# How many there are at most in a process, whatever the number of connections.
LIMIT = 64


class Place:
    """A call's place in the queue for a thread."""

    def __init__(self, order: tuple[int, int]) -> None:
        """Be behind all that have a smaller ORDER."""
        self.order = order
        self.granted = False
        # Whether nobody can be woken for it any more.
        self.lost = False
        self.loop = asyncio.get_running_loop()
        self.future = self.loop.create_future()

    def __lt__(self, other: Place) -> bool:
        """Compare by order, for heapq."""
        return self.order < other.order

    def wake(self) -> None:
        """Let the task go on; in its loop's thread."""
        if not self.future.done():
            self.future.set_result(None)

    def wake_from_anywhere(self) -> None:
        """Let the task go on; in any thread."""
        with suppress(RuntimeError):  # its loop is closed
            self.loop.call_soon_threadsafe(self.wake)


class Workers:
    """Starts Calls in threads, of which there are at most LIMIT.

    A thread counts until the function in it has ended, also when nobody waits
    for that any more.
    """

    def __init__(self) -> None:
        """Have no thread at first."""
        self.reset()

    def reset(self) -> None:
        """Forget all threads: a forked child has none of them."""
        self._lock = threading.Lock()
        self._free = LIMIT
        self._queue: list[Place] = []
        self._numbers = count()
        self._giving_way = 0

    async def start(self, call: Call) -> None:
        """Start CALL's thread when there is room for it."""
        place = Place((call.tries, next(self._numbers)))
        with self._lock:
            if self._free:
                self._free -= 1
                place.granted = True
            else:
                heapq.heappush(self._queue, place)
        if not place.granted:
            call.notify = place.wake_from_anywhere
            try:
                await place.future
            except BaseException:
                self._give_up(place)
                raise
            if not place.granted:  # the call has been cancelled
                self._give_up(place)
                return
        call.at_end = partial(self._end, call)
        try:
            call.start()
        except RuntimeError as error:
            if not call.claim():
                raise  # a signal handler's own error
            self._release()
            # Not in this thread, which is the event loop's.
            raise RemctlError(f"cannot start a thread: {error}") from error

    def must_give_way(self, call: Call) -> bool:
        """Whether CALL has been silent for too long, and another needs its thread."""
        with self._lock:
            if (
                not call.gave_way
                and time.monotonic() - call.moved >= call.patience
                and len(self._queue) > self._giving_way
            ):
                call.gave_way = True
                self._giving_way += 1
        return call.gave_way

    def _give_up(self, place: Place) -> None:
        if place.lost:
            return
        with self._lock:
            if not place.granted:
                self._queue.remove(place)
                heapq.heapify(self._queue)
                return
        self._release()

    def _end(self, call: Call) -> None:
        with self._lock:
            self._giving_way -= call.gave_way
        self._release()

    def _release(self) -> None:
        """Give a thread's place to whoever is first in the queue."""
        while True:
            with self._lock:
                if not self._queue:
                    self._free += 1
                    return
                place = heapq.heappop(self._queue)
                place.granted = True
            try:
                place.loop.call_soon_threadsafe(place.wake)
            except RuntimeError:  # its loop is closed
                place.lost = True
                # Not under the lock, where its task may come back to _give_up().
                del place
            else:
                return


workers = Workers()
os.register_at_fork(after_in_child=workers.reset)
