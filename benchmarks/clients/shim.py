# SPDX-License-Identifier: MIT
"""The client that drives this package's shim itself: what all layers above it cost."""

from __future__ import annotations

import select

from common import HELLO, Turns, arguments, expect

import remctl
from remctl._connection import pack
from remctl._ffi import ffi, lib

given = arguments()
client = remctl.Remctl(given.host, given.port)
assert client._connection is not None  # noqa: SLF001 (there is no public way)
handle = client._connection._open_handle()  # noqa: SLF001
poll = select.poll()
poll.register(lib.shim_fileno(handle), select.POLLIN)


def wait_for_token() -> int:
    """Have the rest of a token read; return the outcome."""
    lib.shim_begin_output(handle)
    while (outcome := lib.shim_finish(handle, 1000)) == lib.SHIM_WAIT:
        pass
    return outcome


def read() -> bytes | None:
    """Return the next output, None at the end."""
    while (outcome := lib.shim_output(handle)) == lib.SHIM_WAIT:
        poll.poll()
    if outcome == lib.SHIM_BLOCKS:  # its receive memory is full
        outcome = wait_for_token()
    if outcome != lib.SHIM_OK or handle.type != lib.REMCTL_OUT_OUTPUT:
        return None
    return ffi.unpack(handle.data, handle.length)


def gather(milliseconds: int) -> bool:
    """Read what comes of a reply within so many milliseconds; whether that is all."""
    while (outcome := lib.shim_gather(handle, milliseconds)) != lib.SHIM_WAIT:
        if outcome == lib.SHIM_BLOCKS:
            wait_for_token()
            lib.shim_keep(handle)
        elif outcome != lib.SHIM_MORE:
            return True
    return False


def command() -> None:
    """Run small commands."""
    packed = pack([word.encode() for word in HELLO])
    turns = Turns(given)
    for _ in turns.turns:
        turns.start()
        lib.shim_command(handle, *packed)
        while not gather(1000):
            pass
        output = ffi.unpack(handle.out, handle.out_length)
        turns.stop()
        expect(b"hello\n", output)
    turns.report()


def tokens() -> None:
    """Read small tokens, which are all on their way once the first one is there."""
    packed = pack([b"tokens", b"%d" % given.size])
    turns = Turns(given)
    for _ in turns.turns:
        lib.shim_command(handle, *packed)
        read()
        turns.start()
        found = sum(1 for _ in iter(read, None))
        turns.stop()
        expect(given.size - 1, found)
    turns.report(given.size)


if __name__ == "__main__":
    {"command": command, "tokens": tokens}[given.measure]()
