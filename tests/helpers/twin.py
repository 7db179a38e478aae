# SPDX-License-Identifier: MIT
"""The asyncio twin behind the blocking interface, for tests of both.

An event loop in a thread of its own runs the calls, and measures for how long each of
their steps keeps it from its other tasks.
"""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import remctl.aio

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator
    from selectors import SelectorKey

    from typing_extensions import Self

try:
    import pypyjit  # type: ignore[import-not-found]
except ImportError:
    pypyjit = None

BEAT = 0.005  # seconds


class Control(threading.Thread):
    """A thread that only counts how often it gets a processor and the GIL."""

    def __init__(self) -> None:
        """Start the thread."""
        super().__init__(daemon=True)
        self.beats = 0
        self._ended = False
        self.start()

    def run(self) -> None:
        """Count a beat every BEAT seconds, or later if the machine is busy."""
        while not self._ended:
            time.sleep(BEAT)
            self.beats += 1

    def end(self) -> None:
        """End the thread."""
        self._ended = True
        self.join()


class Reading(NamedTuple):
    """The clocks of the loop's thread, in seconds, and the control thread's count."""

    time: float
    running: float
    runnable: float
    beats: int


class MeasuringSelector(selectors.DefaultSelector):
    """An event loop's selector, which measures for how long a step blocks the loop.

    The loop runs its tasks' steps between two calls of select().  What counts is what
    a step does: the time for which the loop's thread runs, and the time for which it
    sleeps, in a system call or for a lock.  What the machine does to it does not count,
    which is the time for which the thread is runnable, but has no processor.

    A thread that waits for the GIL sleeps as well, and possibly because the thread that
    holds the GIL has no processor.  The control thread does not get the GIL then,
    either, so sleep counts only for as long as the control thread makes progress.
    """

    def __init__(self) -> None:
        """Start the control thread; the first select() begins the measurement."""
        super().__init__()
        self.longest = 0.0  # seconds
        self._control = Control()
        self._schedstat = -1
        self._returned: Reading | None = None

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Wait for events, and measure the time since the last call returned."""
        if self._schedstat < 0:
            # Opened in the loop's thread, and only once, as tests count descriptors.
            self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        if self._returned is not None:
            self.longest = max(self.longest, self._busy_since(self._returned))
        events = super().select(timeout)
        self._returned = self._read()
        return events

    def close(self) -> None:
        """Close the selector, and end the control thread."""
        super().close()
        self._control.end()
        if self._schedstat >= 0:
            os.close(self._schedstat)

    def _read(self) -> Reading:
        """Read the clocks; in the loop's thread."""
        # The fields: nanoseconds on a processor, nanoseconds of waiting for one, and
        # how often.  The first one is less exact than thread_time().
        runnable = int(os.pread(self._schedstat, 100, 0).split()[1]) / 1e9
        return Reading(
            time.monotonic(), time.thread_time(), runnable, self._control.beats
        )

    def _busy_since(self, then: Reading) -> float:
        """Return for how many seconds the loop's thread has been running or asleep."""
        now = self._read()
        running = now.running - then.running
        asleep = now.time - then.time - running - (now.runnable - then.runnable)
        return running + min(asleep, (now.beats - then.beats) * BEAT)


@contextmanager
def interpreter_at_rest() -> Iterator[None]:
    """Keep the garbage collector and PyPy's compiler from working in any thread.

    They work in the thread that happens to be running, for up to 60 ms of processor
    time at once.
    """
    gc.disable()
    if pypyjit is not None:
        pypyjit.set_param("off")  # no new loops are compiled,
        pypyjit.set_param(trace_eagerness=10**9)  # nor new branches of old ones
    try:
        yield
    finally:
        if pypyjit is not None:
            pypyjit.set_param("default")
        gc.enable()


class Loop:
    """The event loop and its thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Start the thread."""
        self.loop = loop or asyncio.new_event_loop()
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
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()


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


class TwinPool(remctl.aio.Pool):
    """remctl.aio.Pool with the methods of remctl.Pool."""

    def run(self, *arguments: Any, **options: Any) -> Any:
        return TwinRemctl.loop.run(super().run(*arguments, **options))

    @contextmanager
    def connection(self) -> Iterator[Any]:  # type: ignore[override]
        loan = super().connection()
        client = TwinRemctl.loop.run(loan.__aenter__())
        client.__class__ = TwinRemctl
        with ExitStack() as stack:

            def end(*exception: Any) -> Any:
                return TwinRemctl.loop.run(loan.__aexit__(*exception))

            stack.push(end)
            yield client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def twin_remctl(*arguments: Any, **options: Any) -> Any:
    """remctl.aio.remctl(), blocking."""
    return TwinRemctl.loop.run(remctl.aio.remctl(*arguments, **options))
