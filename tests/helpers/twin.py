# SPDX-License-Identifier: MIT
"""The asyncio twin behind the blocking interface, for tests of both.

An event loop in a thread of its own runs the calls, and a task that wants to run all
the time beside them, which tells whether one has kept the loop from its other tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import remctl.aio

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from typing_extensions import Self

BEAT = 0.005  # seconds


class Loop:
    """The event loop and its heartbeat."""

    def __init__(self) -> None:
        """Start the thread."""
        self.longest = 0.0
        self.loop = asyncio.new_event_loop()
        self._begin = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.run(asyncio.sleep(0))

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run ``coroutine`` to its end, from another thread."""
        with self._begin:  # cancel() comes after that
            call = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
            self._call = call
        return call.result()

    def cancel(self) -> None:
        """Cancel the call begun last."""
        with self._begin:
            self._call.cancel()

    def close(self) -> None:
        """End the thread."""
        self.loop.call_soon_threadsafe(self._beating.cancel)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self._beating = self.loop.create_task(self._beat())
        with contextlib.suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self._beating)
        self.loop.close()
        os.close(self._schedstat)

    async def _beat(self) -> None:
        """Keep the longest time that the loop was busy."""
        # One descriptor for all of the time: tests count them.
        self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        while True:
            waited = self._waited()
            start = time.monotonic()
            await asyncio.sleep(BEAT)
            late = time.monotonic() - start - BEAT
            # Not the time for which it only had no processor.
            waited = self._waited() - waited
            self.longest = max(self.longest, late - waited)

    def _waited(self) -> float:
        """Return the seconds for which this thread waited for a processor."""
        return int(os.pread(self._schedstat, 100, 0).split()[1]) / 1e9


class TwinRemctl(remctl.aio.Remctl):
    """remctl.aio.Remctl with the methods of remctl.Remctl."""

    loop: Loop

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self._server is not None:
            self.open(*self._server)

    def open(self, *arguments: Any, **options: Any) -> Any:
        return self.loop.run(super().open(*arguments, **options))

    def command(self, *arguments: Any, **options: Any) -> Any:
        return self.loop.run(super().command(*arguments, **options))

    def output(self) -> Any:
        return self.loop.run(super().output())

    def run(self, *arguments: Any, **options: Any) -> Any:
        return self.loop.run(super().run(*arguments, **options))

    def noop(self) -> Any:
        return self.loop.run(super().noop())

    def __iter__(self) -> Iterator[Any]:
        while True:
            token = self.output()
            if token.type == "done":
                return
            yield token
            if token.type != "output":
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def twin_remctl(*arguments: Any, **options: Any) -> Any:
    """remctl.aio.remctl(), blocking."""
    return TwinRemctl.loop.run(remctl.aio.remctl(*arguments, **options))
