# SPDX-License-Identifier: MIT
"""Driving a connection's steps in an asyncio event loop."""

from __future__ import annotations

import asyncio
import select
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from remctl._waiting import LONGEST_WAIT, Call, Pause, Readiness
from remctl._workers import pools

if TYPE_CHECKING:
    from remctl._waiting import Steps

T = TypeVar("T")

# How often, in seconds, a call in a thread looks whether others need the thread.
LOOK = 0.5


async def drive(steps: Steps[T]) -> T:
    """Drive STEPS to their end, and return their result."""
    try:
        while True:
            try:
                wait = next(steps)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]  # the generator's T
            if isinstance(wait, Readiness):
                await until_ready(wait)
            elif isinstance(wait, Call):
                if wait.begun:
                    await until_ended(wait)
                else:
                    await until_begun(wait)
            elif isinstance(wait, Pause):
                await until_woken(wait, wait.deadline.left())
            else:
                await asyncio.sleep(0)
    finally:
        steps.close()


async def until_ready(readiness: Readiness) -> None:
    """Wait with the loop's own selector."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()
    add, remove = loop.add_reader, loop.remove_reader
    if readiness.events == select.POLLOUT:
        add, remove = loop.add_writer, loop.remove_writer
    seconds = within_bounds(readiness.deadline.left())
    add(readiness.fd, finish, future, True)
    timer = loop.call_later(seconds, finish, future, False)
    try:
        readiness.ready = await future
    finally:
        timer.cancel()
        remove(readiness.fd)


async def until_begun(call: Call) -> None:
    """Have CALL run in a thread, and wait for its turn; or until it is cancelled."""
    try:
        pools[call.work].submit(call)
        while not (call.begun or call.cancelled):
            await until_woken(call, LONGEST_WAIT)
    finally:
        call.drop()  # unless it has begun


async def until_ended(call: Call) -> None:
    """Wait for a while, or until CALL has ended, unless it must give way."""
    if not pools[call.work].must_give_way(call):
        await until_woken(call, min(call.deadline.left(), LOOK))


async def until_woken(pause: Pause, seconds: float) -> None:
    """Wait for SECONDS, or until it is woken up."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()

    def notify() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, future, True)

    pause.notify = notify
    if pause.woken():  # before it could say so
        return
    timer = loop.call_later(within_bounds(seconds), finish, future, False)
    try:
        await future
    finally:
        timer.cancel()


def finish(future: asyncio.Future[bool], result: bool) -> None:
    """Give FUTURE its result, unless it has one."""
    if not future.done():
        future.set_result(result)


def within_bounds(seconds: float) -> float:
    """Return SECONDS as call_later() takes them."""
    return min(max(seconds, 0.0), LONGEST_WAIT)
