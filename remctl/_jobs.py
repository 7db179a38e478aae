# SPDX-License-Identifier: MIT
"""Waiting for a job: a call that may block, made by a thread of the shim."""

from __future__ import annotations

import select
from contextlib import suppress
from functools import partial

from remctl._ffi import lib, new_handle, to_text
from remctl._waiting import Deadline, Readiness

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from remctl._remctl_cffi import ShimHandle
    from remctl._waiting import Steps


def finish(
    handle: ShimHandle,
    begun: int,
    deadline: Deadline,
    heed: Callable[[str], None] | None = None,
) -> Steps[int]:
    """Wait for the job of ``handle`` and return its outcome.

    ``begun`` is the outcome of beginning it; if that has failed, it is returned.
    ``heed`` is called with what the job notes meanwhile.  Raises TimeoutError if
    ``deadline`` passes first.  When the caller is interrupted, the job runs on to its
    end, and its result is dropped.
    """
    if begun != lib.SHIM_OK:
        return begun
    wake = partial(lib.shim_wake, handle)
    ended = Readiness(lib.shim_job_fileno(handle), select.POLLIN, deadline, wake)
    try:
        while True:
            outcome = lib.shim_end(handle)
            if outcome == lib.SHIM_MORE:
                if heed is not None:
                    heed(to_text(handle.data))
            elif outcome != lib.SHIM_WAIT:
                return outcome
            elif deadline.passed():
                raise TimeoutError
            else:
                yield ended
    finally:
        lib.shim_abandon(handle)


def pause(seconds: float) -> Steps[None]:
    """Wait for ``seconds``, where close() can end it."""
    handle, _owner = new_handle()
    with suppress(TimeoutError):
        yield from finish(handle, lib.shim_begin_pause(handle), Deadline(seconds))
