# SPDX-License-Identifier: MIT
"""Drive a connection's steps in an asyncio event loop."""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING, TypeVar

from remctl._waiting import NEVER

if TYPE_CHECKING:
    from remctl._waiting import Readiness, Steps

T = TypeVar("T")


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that runs.  Raises RuntimeError if there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "remctl.aio needs a running asyncio event loop; in trio, run the blocking "
            "interface in a thread: trio.to_thread.run_sync()"
        ) from None


async def drive(steps: Steps[T]) -> T:
    """Drive ``steps`` to their end, and return their result."""
    try:
        while True:
            try:
                wait = next(steps)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]  # the generator's T
            await until_ready(wait)
    finally:
        steps.close()


async def until_ready(readiness: Readiness) -> None:
    """Wait, as a task of the event loop, with the loop's own selector."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()
    add, remove = loop.add_reader, loop.remove_reader
    if readiness.events == select.POLLOUT:
        add, remove = loop.add_writer, loop.remove_writer
    timer = None
    add(readiness.fd, read, readiness, future)
    try:
        if readiness.deadline is not NEVER:
            seconds = readiness.deadline.longest_wait()
            timer = loop.call_later(seconds, finish, future, False)
        readiness.ready = await future
    finally:
        if timer is not None:
            timer.cancel()
        remove(readiness.fd)


def read(readiness: Readiness, future: asyncio.Future[bool]) -> None:
    """Read what has come, and end the wait if that ends it, or is interrupted."""
    if future.done():
        return
    try:
        if readiness.read():
            finish(future, True)
    except BaseException:
        finish(future, True)
        raise


def finish(future: asyncio.Future[bool], result: bool) -> None:
    """Set the result of ``future``, unless it is done already."""
    if not future.done():
        future.set_result(result)
