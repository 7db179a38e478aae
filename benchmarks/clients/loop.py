# SPDX-License-Identifier: MIT
"""What asyncio itself takes for one wait: no client, but what one in it consists of.

A turn sends an octet through a pair of sockets and waits for it, as remctl.aio waits.
"""

from __future__ import annotations

import asyncio
import select
import socket

from common import Turns, arguments

from remctl._asyncio import until_ready
from remctl._waiting import NEVER, Readiness


async def main() -> None:
    """Do the turns that the command line asks for."""
    turns = Turns(arguments())
    ours, theirs = socket.socketpair()
    for _ in turns.turns:
        turns.start()
        theirs.send(b"x")
        await until_ready(Readiness(ours.fileno(), select.POLLIN, NEVER))
        ours.recv(1)
        turns.stop()
    turns.report()


asyncio.run(main())
