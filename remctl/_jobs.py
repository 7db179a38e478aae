# SPDX-License-Identifier: MIT
"""Waiting for a job: a call that may block, made by a thread of the shim."""

from __future__ import annotations

import select
from contextlib import suppress
from functools import partial

from remctl._ffi import lib, new_handle
from remctl._waiting import Deadline, Readiness

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remctl._remctl_cffi import ShimHandle
    from remctl._waiting import Steps


def finish(handle: ShimHandle, begun: int, deadline: Deadline) -> Steps[int]:
    """Wait for the job of ``handle`` and return its outcome.

    ``begun`` is the outcome of beginning it; if that has failed, it is returned.
    Raises TimeoutError if ``deadline`` passes first.  When the caller is interrupted,
    the job runs on to its end, and its result is dropped.
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
    """Wait for ``seconds``, where close() can end it."""
    handle, _owner = new_handle()
    with suppress(TimeoutError):
        yield from finish(handle, lib.shim_begin_pause(handle), Deadline(seconds))
