# SPDX-License-Identifier: MIT
"""From a server's name to an authenticated connection, as steps."""

from __future__ import annotations

# The C module: importing socket takes long.
import _socket
import os
import select
from errno import ETIMEDOUT
from functools import partial

from remctl._arguments import source_family
from remctl._exceptions import RemctlError, RemctlTimeoutError
from remctl._explain import (
    AUTHENTICATING,
    CONNECTING,
    RESOLVING,
    cannot_connect,
    duration,
    printable_line,
)
from remctl._ffi import lib, to_c, to_text
from remctl._jobs import finish
from remctl._log import DEBUG, enabled
from remctl._waiting import NEVER, Deadline, Readiness

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remctl._arguments import Server
    from remctl._log import Log
    from remctl._remctl_cffi import ShimHandle
    from remctl._stage import Stage
    from remctl._waiting import Steps

# In the order of the shim's enum stage.
STAGES = (RESOLVING, CONNECTING, AUTHENTICATING)

# A job looks after the time of each address itself.  By so many seconds it may be late,
# as when all threads are busy.
LATE_JOB = 1.0


class OpeningDeadline(Deadline):
    """The deadline of open(), which begins anew when open() reaches another stage.

    The handle's ``stage`` is then the one that was reached when it was last asked.
    """

    def __init__(
        self, handle: ShimHandle, timeout: float, handshake: Deadline = NEVER
    ) -> None:
        """Give each stage ``timeout`` seconds.

        ``handshake`` is the deadline of an earlier attempt's handshake.
        """
        self._handle = handle
        self._timeout = timeout
        self._handshake = handshake

    def left(self) -> float:
        """Return the seconds that are left, a negative number if it has passed."""
        since = lib.shim_stage(self._handle)
        if STAGES[self._handle.stage] is CONNECTING:
            return self._timeout + LATE_JOB - since
        return min(self._timeout - since, self._handshake.left())

    def longest_wait(self) -> float:
        """Return how many seconds to wait at most before the next check."""
        # The next stage may begin, and end, in the meantime.
        return min(super().longest_wait(), self._timeout)


def begin_connect(
    handle: ShimHandle, server: Server, source_ip: str | None, timeout: float
) -> int:
    """Begin to look the server up, to connect and to authenticate.

    For port 0, tries the registered port and then the legacy one, and reports the error
    of the first when both fail.  Each address gets ``timeout`` seconds.  Returns the
    shim's outcome.  Raises RemctlError if ``source_ip`` is no address.
    """
    family: int = _socket.AF_UNSPEC
    if source_ip is not None:
        try:
            family = source_family(source_ip)  # guard 56
        except ValueError as error:
            where = cannot_connect(server.host, server.port or lib.REMCTL_PORT)
            text = f"{where}: {printable_line(str(error))}"
            raise RemctlError(text, "connect") from None
    ports = [server.port, 0] if server.port else [lib.REMCTL_PORT, lib.REMCTL_PORT_OLD]
    silence = to_c(no_answer(timeout) if timeout else None)
    source, noting = to_c(source_ip), enabled(DEBUG)
    return lib.shim_begin_connect(
        handle, ports, timeout, silence, source, family, noting
    )


def connect(
    handle: ShimHandle, begun: int, timeout: float, deadline: Deadline, log: Log
) -> Steps[int]:
    """Wait until open() has succeeded or failed; return the shim's outcome.

    ``begun`` is what begin_connect() has returned.  Raises TimeoutError if ``deadline``
    passes first.
    """
    heed = partial(log_notes, log)
    while True:
        outcome = yield from finish(handle, begun, deadline, heed)
        if outcome != lib.SHIM_BLOCKS:
            return outcome
        yield from await_answer(handle, timeout)
        begun = lib.shim_begin_connect_on(handle)


def await_answer(handle: ShimHandle, timeout: float) -> Steps[None]:
    """Wait for the address that is being connected to, until its time is over."""
    deadline = NEVER
    if timeout:
        deadline = Deadline(max(timeout - lib.shim_stage(handle), 0.001))
    # Held, so that close() in another thread cannot free the descriptor's number while
    # this call waits for it.
    if not lib.shim_hold(handle):
        return
    try:
        answer = Readiness(lib.shim_fileno(handle), select.POLLOUT, deadline)
        while not (answer.ready or deadline.passed()):
            yield answer
    finally:
        lib.shim_release(handle)


def log_notes(log: Log, notes: str) -> None:
    """Log what the shim has done, which it has noted in lines."""
    for line in notes.splitlines():
        log.debug("%s", line)


def not_resolved(host: str, handle: ShimHandle) -> RemctlError:
    """Return the exception for a host that could not be looked up."""
    if not handle.status:
        # It was not asked: there is no thread that could do it.
        text = f"cannot look up {printable_line(host)}: {to_text(handle.error)}"
        return RemctlError(text, "resolve")
    cause = _socket.gaierror(handle.status, to_text(handle.error))
    text = f"unknown host {printable_line(host)}: {cause.strerror}"
    return failure(text, "resolve", cause)


def not_resolved_in_time(host: str, timeout: float) -> RemctlTimeoutError:
    """Return the exception for a name service that does not answer."""
    text = f"unknown host {printable_line(host)}: timed out (no answer of the name "
    text += f"service for {duration(timeout)})"
    return RemctlTimeoutError(text, None, "resolve")


def not_connected(server: Server, handle: ShimHandle) -> RemctlError:
    """Return the exception for a server that could not be connected to."""
    where = cannot_connect(server.host, server.port or lib.REMCTL_PORT)
    text = f"{where}: {to_text(handle.error)}"
    if not handle.status:
        return RemctlError(text, "connect")  # there was no thread, as above
    return failure(text, "connect", OSError(handle.status, to_text(handle.error)))


def not_connected_in_time(server: Server, timeout: float) -> RemctlError:
    """Return the exception for addresses that could not be tried in time."""
    where = cannot_connect(server.host, server.port or lib.REMCTL_PORT)
    cause = TimeoutError(ETIMEDOUT, no_answer(timeout))
    return failure(f"{where}: {cause.strerror}", "connect", cause)


def no_answer(timeout: float) -> str:
    """Return the text for an address that was silent for so many seconds."""
    return f"{os.strerror(ETIMEDOUT)} (no answer for {duration(timeout)})"


def failure(text: str, stage: Stage, cause: OSError) -> RemctlError:
    """Return the exception for a failure that is due to ``cause``."""
    error = RemctlError(text, stage)
    if isinstance(cause, TimeoutError):
        error = RemctlTimeoutError(text, None, stage)
    error.__cause__ = cause
    return error
