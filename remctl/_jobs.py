# SPDX-License-Identifier: MIT
"""Waiting for a job: what may block, and a thread of the shim does."""

from __future__ import annotations

import select
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from remctl._ffi import lib, new_handle
from remctl._waiting import Deadline, Readiness

if TYPE_CHECKING:
    from remctl._remctl_cffi import ShimHandle
    from remctl._waiting import Steps


def finish(handle: ShimHandle, begun: int, deadline: Deadline) -> Steps[int]:
    """Wait for HANDLE's job, which has BEGUN with that outcome; return its own.

    TimeoutError when DEADLINE passes first.  A caller that is interrupted just
    leaves: the job goes on to its end, and what it returns is dropped.
    """
    if begun != lib.SHIM_OK:
        return begun
    wake = partial(lib.shim_wake, handle)
    ended = Readiness(lib.shim_job_fileno(handle), select.POLLIN, deadline, wake)
    try:
        while (outcome := lib.shim_end(handle)) == lib.SHIM_WAIT:
            if deadline.passed():
                raise TimeoutError
            yield ended
        return outcome
    finally:
        lib.shim_abandon(handle)


def pause(seconds: float) -> Steps[None]:
    """Wait SECONDS."""
    handle, _owner = new_handle()
    with suppress(TimeoutError):
        yield from finish(handle, lib.shim_begin_pause(handle), Deadline(seconds))
