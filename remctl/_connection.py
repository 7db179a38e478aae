# SPDX-License-Identifier: MIT
"""One authenticated connection to a server, as steps.

The only place where results of the C library become tokens and exceptions.
Steps are generators; remctl._waiting drives them in a blocking caller.  One
caller at a time drives a connection; close() may come from anywhere.
"""

from __future__ import annotations

import math
import os
import random
import select
from typing import TYPE_CHECKING, Callable

from remctl._connect import connect, prepare, resolve
from remctl._exceptions import RemctlError, RemctlTimeoutError
from remctl._ffi import ffi, lib, new_connection, to_text
from remctl._jobs import finish, pause
from remctl._results import ErrorCode, RemctlOutput, Stream
from remctl._waiting import TURN, Deadline, Readiness, Silence

if TYPE_CHECKING:
    import socket

    from remctl._arguments import Server
    from remctl._connect import Address, Socket
    from remctl._remctl_cffi import CData, ShimHandle
    from remctl._waiting import Steps, T, Wait

# Looked up once: each token needs them.
SHIM_OK = lib.SHIM_OK
SHIM_WAIT = lib.SHIM_WAIT
SHIM_BLOCKS = lib.SHIM_BLOCKS
OUTPUT = lib.REMCTL_OUT_OUTPUT

DONE = RemctlOutput("done")
STREAMS = {int(stream): stream for stream in Stream}
ERROR_CODES = {int(code): code for code in ErrorCode}

# What a server that is too busy to accept a connection, and resets it, is given
# to recover: seconds at most, before each new try.  remctld's queue has five.
PAUSES = [0.02 * 2**turn for turn in range(1, 8)]

# The servers, by host and port, that have spoken protocol 2 or later with this
# process.  Which one a server speaks, a single unauthenticated bit tells.
spoke_protocol2: set[tuple[str, int]] = set()


class Connection:
    """One connection, opened once.

    ``closed``: close() has been called.  ``established``: open() has succeeded.
    ``pending``: the reply to a command is unread.  ``in_flight``: an operation
    has begun and not ended.  ``must_finish``: the reply is to be read to its end
    or not at all.
    """

    def __init__(
        self, server: Server, ccache: str | None, source_ip: str | None
    ) -> None:
        """Do no I/O."""
        self.established = False
        self.pending = False
        self.in_flight = True  # opening it
        self.must_finish = False
        self._server = server
        self._ccache = ccache  # guard 29
        self._source_ip = source_ip
        # Looked up once: a retry is not to wait for the name service again.
        self._addresses: list[Address] | None = None
        self._process = lib.shim_process()
        self.closed = False
        self._out_of_step = False
        # The server may have more to say after an error, also when it is silent.
        self._in_step = True
        # Whether the last token was there without waiting, and else why not.
        self._rushing = False
        self._missing = SHIM_WAIT
        # Whether run() has just sent a command: there cannot be an answer yet.
        self._just_sent = False
        # C memory, and what frees all that is in it when it is dropped.
        self._handle: ShimHandle | None = None
        self._owner: CData | None = None
        # What the caller waits for, for close() to cancel.
        self._wait: Wait | None = None
        # With a protocol 1 server: its port, and whose tickets to use.
        self._protocol1_port: int | None = None
        self._protocol1_ccache: str | None = None

    @property
    def broken(self) -> bool:
        """Whether an exception has left nobody knows what on the wire.

        Who drives the steps must close the connection then.
        """
        return self.in_flight or (self.pending and self.must_finish)  # guard 4, 31

    @property
    def usable(self) -> bool:
        """Whether another command may be sent, as far as is known without I/O."""
        return not (self.closed or self._out_of_step or self.inherited)

    @property
    def inherited(self) -> bool:
        """Whether it is the connection of a process that this one is a fork of."""
        return bool(self._process != lib.shim_process())

    def fileno(self) -> int:
        """Return our descriptor, -1 where there is none."""
        return -1 if self._handle is None else lib.shim_fileno(self._handle)

    def close(self) -> None:
        """End the connection, from any thread, without blocking.

        Whoever is in the middle of an operation gets a RemctlError.
        """
        self.closed = True
        wait, handle = self._wait, self._handle
        if wait is not None and not self.inherited:
            wait.cancel()
        if handle is not None:
            lib.shim_close(handle)

    def open(self, timeout: float, sock: socket.socket | None = None) -> Steps[None]:
        """Connect and authenticate (remctl_open_fd), over SOCK if there is one."""
        self._protocol1_ccache = self._ccache
        if self._ccache is None:
            self._protocol1_ccache = os.environ.get("KRB5CCNAME")
        host = self._server.host
        port = yield from self._connect(timeout, sock)
        deadline = Deadline(timeout)  # guard 48a, 49
        for longest_pause in (*PAUSES, None):
            handle = self._open_handle()
            outcome = yield from self._in_time(
                finish(handle, lib.shim_begin_open(handle), deadline),
                "receiving token: timed out "
                f"(no answer from {self._server.host} or its KDC)",
            )
            if (
                port is None
                or outcome != lib.SHIM_FAILED
                or not lib.shim_was_reset(handle)
            ):
                break
            busy = (
                f"{host} (port {port}) resets connections before it answers: its queue "
                f"of new connections may be full ({to_text(handle.error)})"
            )
            if longest_pause is None:
                raise RemctlError(busy)
            # At random, so that many clients do not come back all at once.
            seconds = random.uniform(0.001, longest_pause)  # noqa: S311 (no secret)
            if deadline.left() <= seconds:
                raise RemctlTimeoutError(f"timed out: {busy}")
            self._drop_handle()
            yield from self._within_reach(pause(seconds))
            port = yield from self._connect_again(deadline)
        if outcome == lib.SHIM_UNSUPPORTED:
            self._become_protocol1(port)
        elif outcome == SHIM_OK:
            if port is not None:
                spoke_protocol2.add((host.lower(), port))
        else:
            raise self._failure(outcome)
        self.established = True
        self.in_flight = False

    def _connect_again(self, deadline: Deadline) -> Steps[int | None]:
        left = deadline.left()
        return (yield from self._connect(0 if left == math.inf else max(left, 0.001)))

    def command_now(self, arguments: list[bytes], must_finish: bool) -> bool:
        """Send a command (remctl_commandv); False if that takes waiting."""
        self._check_no_reply_pending()  # guard 30
        self._check_identity()  # guard 19b
        self.must_finish = must_finish
        self.in_flight = True  # guard 36
        if self._protocol1_port is not None or not self._in_step:  # guard 64a
            return False
        return self._send_now(arguments)

    def _send_now(self, arguments: list[bytes]) -> bool:
        """Send a command; False if that may block."""
        outcome = send(lib.shim_command, self._open_handle(), arguments)
        if outcome == SHIM_BLOCKS:
            return False
        self._sent(outcome)
        self._just_sent = self.must_finish
        return True

    def command_later(self, arguments: list[bytes], timeout: float) -> Steps[None]:
        """Send the command that command_now() has not sent."""
        if not self._in_step:
            yield from self._get_in_step(timeout)
            if self._send_now(arguments):
                return
        if self._protocol1_port is None:
            handle = self._open_handle()
        else:
            handle = yield from self._open_protocol1(self._protocol1_port, timeout)
        begun = send(lib.shim_begin_command, handle, arguments)
        outcome = yield from self._in_time(
            finish(handle, begun, Silence(handle, timeout)), "sending token: timed out"
        )
        self._sent(outcome)

    def _sent(self, outcome: int) -> None:
        if outcome != SHIM_OK:
            raise self._failure(outcome)
        self.pending = True
        self.in_flight = False

    def output_now(self) -> RemctlOutput | None:
        """Return the next token (remctl_output), None if that takes waiting."""
        if not self.pending:  # guard 40
            return DONE
        self.in_flight = True
        if self._just_sent:
            self._just_sent = False
            self._missing = SHIM_WAIT
            return None
        handle = self._open_handle()
        outcome = lib.shim_output(handle)
        if outcome == SHIM_OK:
            return self._token(handle)
        if outcome in (SHIM_WAIT, SHIM_BLOCKS):
            self._missing = outcome
            return None
        raise self._failure(outcome)

    def output(self, timeout: float) -> Steps[RemctlOutput]:
        """Return the next token, and wait for it; others have a turn in between."""
        if self._rushing:
            yield TURN
        token = self.output_now()
        self._rushing = token is not None
        if token is not None:
            return token
        return (yield from self.output_later(timeout))

    def output_later(self, timeout: float) -> Steps[RemctlOutput]:
        """Wait for the next token, which output_now() has not found."""
        handle = self._open_handle()
        stalled = "receiving token: timed out"
        deadline = Deadline(timeout)
        # Held, so that close() elsewhere leaves us our descriptor's number.
        if not lib.shim_hold(handle):
            raise self._failure(lib.SHIM_CLOSED)
        try:
            outcome = self._missing
            while outcome == SHIM_WAIT:
                if deadline.passed():  # guard 43
                    silence = lib.shim_silence(handle)
                    if not 0 <= silence < timeout:
                        raise RemctlTimeoutError(f"error {stalled}")
                    deadline = Deadline(timeout - silence)
                self._wait = Readiness(lib.shim_fileno(handle), select.POLLIN, deadline)
                # As in _within_reach().
                if not self.closed:
                    yield self._wait
                if self.closed:
                    raise self._failure(lib.SHIM_CLOSED)
                outcome = lib.shim_output(handle)
            if outcome == SHIM_BLOCKS:
                begun = lib.shim_begin_output(handle)
                outcome = yield from self._in_time(
                    finish(handle, begun, Silence(handle, timeout)), stalled
                )
            if outcome != SHIM_OK:
                raise self._failure(outcome)
            return self._token(handle)
        finally:
            lib.shim_release(handle)
            self._wait = None

    def noop(self, timeout: float) -> Steps[bool]:
        """Exchange NOOP messages (remctl_noop); False if the server cannot."""
        self._check_no_reply_pending()  # guard 39
        if self._protocol1_port is not None:
            return False
        self.in_flight = True  # guard 21
        answered = yield from self._exchange_noop(timeout)
        self.in_flight = False
        return answered

    def _exchange_noop(self, timeout: float) -> Steps[bool]:
        handle = self._open_handle()
        begun = lib.shim_begin_noop(handle)
        outcome = yield from self._in_time(
            finish(handle, begun, Silence(handle, timeout)),
            "receiving token: timed out",
        )
        if outcome not in (SHIM_OK, lib.SHIM_UNSUPPORTED):
            raise self._failure(outcome)
        self._in_step = True
        return bool(outcome == SHIM_OK)

    def _get_in_step(self, timeout: float) -> Steps[None]:
        """See that an error was all that the server had to say to the last command.

        A stock remctld answers some commands with an error and something else.  It
        handles messages in order: its answer to a NOOP comes after all of that.
        """
        try:
            yield from self._exchange_noop(timeout)
        except RemctlTimeoutError:
            raise
        except RemctlError as error:
            raise RemctlError(
                "the command was not sent, as the server did not show that the last "
                f"error was the end of its reply: {error.value}"
            ) from None

    def _check_no_reply_pending(self) -> None:
        if self.pending:
            raise RemctlError("the reply to the last command is not read to its end")

    def _connect(
        self, timeout: float, sock: socket.socket | None = None
    ) -> Steps[int | None]:
        """Make a handle of SOCK, or of a new socket, and return its port."""
        port = None
        sockets: list[Socket] = [] if sock is None else [sock]
        try:
            if sock is None:
                source = self._source_ip
                if self._addresses is None:
                    self._addresses = yield from self._within_reach(
                        resolve(self._server, source, timeout)
                    )
                port = yield from self._within_reach(
                    connect(self._addresses, self._server, source, timeout, sockets)
                )
            prepare(sockets[-1])
            self._new_handle(sockets[-1].fileno(), self._ccache)
        finally:
            for each in sockets:
                each.close()
        return port

    def _new_handle(self, fd: int, ccache: str | None) -> ShimHandle:
        host, _, principal = self._server
        try:
            self._handle, self._owner = new_connection(
                fd, host, principal, ccache, self._source_ip
            )
        except OSError as error:
            raise RemctlError(f"cannot connect to {host}: {error.strerror}") from None
        if self.closed:  # by somebody who did not see the handle yet
            lib.shim_close(self._handle)
            raise self._failure(lib.SHIM_CLOSED)
        return self._handle

    def _open_handle(self) -> ShimHandle:
        if self._handle is None:
            raise self._failure(lib.SHIM_CLOSED)
        return self._handle

    def _drop_handle(self) -> None:
        if self._handle is not None:
            lib.shim_close(self._handle)
            self._handle = self._owner = None

    def _become_protocol1(self, port: int | None) -> None:
        """Serve each command with a connection of its own from now on."""
        self._drop_handle()
        if port is None:
            raise RemctlError(
                f"{self._server.host} speaks protocol 1, which takes a connection "
                "for each command: sock cannot serve it"
            )
        self._refuse_downgrade(port)  # guard 22
        self._protocol1_port = port

    def _refuse_downgrade(self, port: int) -> None:
        host = self._server.host
        if (host.lower(), port) in spoke_protocol2:
            raise RemctlError(
                f"{host} (port {port}) has spoken protocol 2 before and speaks "
                "protocol 1 now: refused, this may be an attack"
            )

    def _check_identity(self) -> None:
        """Refuse to run a command as somebody else than at open()."""
        if (
            self._protocol1_port is not None
            and self._protocol1_ccache is None
            and "KRB5CCNAME" in os.environ
        ):
            raise RemctlError(
                "KRB5CCNAME was set after open(), and protocol 1 authenticates "
                "again for each command: open() again to change the identity"
            )

    def _open_protocol1(self, port: int, timeout: float) -> Steps[ShimHandle]:
        self._refuse_downgrade(port)
        handle = self._new_handle(-1, self._protocol1_ccache)  # guard 19a
        # libremctl's time-out comes after ours: it only ends what we have left.
        library_timeout = math.ceil(timeout) + 2 if 0 < timeout < 1e9 else 0
        begun = lib.shim_begin_open_protocol1(handle, port, library_timeout)
        outcome = yield from self._in_time(
            finish(handle, begun, Deadline(timeout)), "receiving token: timed out"
        )
        if outcome == lib.SHIM_UNSUPPORTED:
            spoke_protocol2.add((self._server.host.lower(), port))
            raise RemctlError("server no longer speaks protocol 1: open() again")
        if outcome != SHIM_OK:
            raise self._failure(outcome)
        return handle

    def _token(self, handle: ShimHandle) -> RemctlOutput:
        """Return the token that was read, and what follows from it."""
        kind = handle.type
        if kind == lib.REMCTL_OUT_DONE:
            raise RemctlError("the server's reply has no status")
        length = handle.length
        data = ffi.unpack(handle.data, length) if length else b""  # guard 15
        if kind == OUTPUT:
            token = RemctlOutput("output", data, STREAMS[handle.stream])  # guard 14
        else:
            if kind == lib.REMCTL_OUT_STATUS:
                token = RemctlOutput("status", status=handle.status)
            else:
                code = ERROR_CODES.get(handle.code, handle.code)  # guard 53a
                token = RemctlOutput("error", data, error=code)
                # The server may have an error for each token of the command.
                self._out_of_step = bool(handle.many_tokens)  # guard 37b
                self._in_step = self._protocol1_port is not None
            self.pending = False
            if self._out_of_step or self._protocol1_port is not None:
                self._drop_handle()
        self.in_flight = False
        return token

    def _failure(self, outcome: int) -> Exception:
        """Return the exception for OUTCOME, which was not good."""
        if outcome == lib.SHIM_NO_MEMORY:
            return MemoryError()
        if self.closed or outcome == lib.SHIM_CLOSED or self._handle is None:
            return RemctlError("the connection was closed during the call")
        return RemctlError(to_text(self._handle.error))

    def _within_reach(self, steps: Steps[T]) -> Steps[T]:
        """Pass on what STEPS wait for, where close() can cancel it."""
        try:
            while True:
                try:
                    wait = next(steps)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]  # the steps' T
                self._wait = wait
                # Looked at after the wait is in close()'s sight, and again
                # after the wait: none of the two can miss the other.
                if not self.closed:
                    yield wait
                if self.closed:
                    raise self._failure(lib.SHIM_CLOSED)
        finally:
            self._wait = None
            steps.close()

    def _in_time(self, steps: Steps[T], stalled: str) -> Steps[T]:
        """Pass on STEPS within reach of close(); a TimeoutError means STALLED."""
        try:
            return (yield from self._within_reach(steps))
        except TimeoutError:
            raise RemctlTimeoutError(f"error {stalled}") from None


def send(
    function: Callable[[ShimHandle, CData, CData, int], int],
    handle: ShimHandle,
    arguments: list[bytes],
) -> int:
    """Call FUNCTION, which sends a command or begins to, with pointers to ARGUMENTS."""
    # Not joined: of megabytes, PyPy would take milliseconds to do that.
    buffers = [ffi.from_buffer(argument) for argument in arguments]
    pointers = ffi.new("char *[]", buffers)
    lengths = ffi.new("size_t[]", [len(argument) for argument in arguments])
    return function(handle, pointers, lengths, len(buffers))
