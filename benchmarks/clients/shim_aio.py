# SPDX-License-Identifier: MIT
"""The client that drives this package's shim from asyncio: see shim.py."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from common import HELLO, Turns, expect
from shim import gather, given, handle, read

from remctl._connection import pack
from remctl._ffi import ffi, lib

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def read_reply(future: asyncio.Future[None]) -> None:
    """Read what has come of a reply; end the wait when it is whole."""
    if gather(0):
        future.set_result(None)


async def command() -> None:
    """Run small commands."""
    packed = pack([word.encode() for word in HELLO])
    loop, fd = asyncio.get_running_loop(), lib.shim_fileno(handle)
    turns = Turns(given)
    for _ in turns.turns:
        turns.start()
        lib.shim_command(handle, *packed)
        future = loop.create_future()
        loop.add_reader(fd, read_reply, future)
        await future
        loop.remove_reader(fd)
        result = ffi.unpack(handle.out, handle.out_length)
        turns.stop()
        expect(b"hello\n", result)
    turns.report()


async def output() -> AsyncIterator[bytes]:
    """Return the output of a command, which is there: nothing waits in the loop."""
    while (token := read()) is not None:
        yield token


async def tokens() -> None:
    """Read small tokens, which are all on their way once the first one is there."""
    packed = pack([b"tokens", b"%d" % given.size])
    turns = Turns(given)
    for _ in turns.turns:
        lib.shim_command(handle, *packed)
        read()
        turns.start()
        found = 0
        async for _token in output():
            found += 1
        turns.stop()
        expect(given.size - 1, found)
    turns.report(given.size)


asyncio.run({"command": command, "tokens": tokens}[given.measure]())
