# SPDX-License-Identifier: MIT
"""The client that drives this package's shim itself: what all layers above it cost."""

from __future__ import annotations

import select

from common import HELLO, Turns, arguments, expect

import remctl
from remctl._ffi import ffi, lib

given = arguments()
client = remctl.Remctl(given.host, given.port)
assert client._connection is not None  # noqa: SLF001 (there is no public way)
handle = client._connection._open_handle()  # noqa: SLF001
poll = select.poll()
poll.register(lib.shim_fileno(handle), select.POLLIN)
buffers = [ffi.from_buffer(argument.encode()) for argument in HELLO]
pointers = ffi.new("char *[]", buffers)
lengths = ffi.new("size_t[]", [len(argument) for argument in HELLO])
turns = Turns(given)
for _ in turns.turns:
    turns.start()
    lib.shim_command(handle, pointers, lengths, len(HELLO))
    output = b""
    poll.poll()
    while (outcome := lib.shim_output(handle)) != lib.SHIM_FAILED:
        if outcome == lib.SHIM_WAIT:
            poll.poll()
        elif handle.type == lib.REMCTL_OUT_OUTPUT:
            output += ffi.unpack(handle.data, handle.length)
        else:
            break
    turns.stop()
    expect(b"hello\n", output)
turns.report()
