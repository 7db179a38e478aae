# SPDX-License-Identifier: MIT
"""Calls that hold threads of remctl.aio's pools, for tests of what that leads to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from remctl._asyncio import drive
from remctl._waiting import Deadline, Work, run_in_thread
from remctl._workers import pools

if TYPE_CHECKING:
    import threading


def busy() -> int:
    """Return how many threads there are in the pools."""
    return sum(len(pool._threads) for pool in pools.values())


def call(
    ended: threading.Event, work: Work = Work.HANDSHAKE, patience: float = math.inf
) -> Any:
    """Hold a thread until ENDED."""
    return drive(run_in_thread(ended.wait, work, Deadline(0), patience))
