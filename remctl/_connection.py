# SPDX-License-Identifier: MIT
"""One authenticated connection to a server.

This is the only module that turns results of the C library into tokens and
exceptions.  Operations that may wait are steps: generators that remctl._waiting
drives for a blocking caller, and remctl._asyncio for an event loop.  Callers must not
drive two operations at a time, but close() may be called from any thread at any time.
"""

from __future__ import annotations

import math
import os
import select
from errno import ECONNRESET

from remctl import _explain
from remctl._arguments import message_size
from remctl._connect import (
    STAGES,
    OpeningDeadline,
    begin_connect,
    connect,
    not_connected,
    not_connected_in_time,
    not_resolved,
    not_resolved_in_time,
)
from remctl._exceptions import RemctlError, RemctlTimeoutError
from remctl._explain import (
    AUTHENTICATING,
    CONNECTING,
    EXCHANGING_NOOP,
    PROVING,
    READING,
    RESOLVING,
    SENDING,
)
from remctl._ffi import ffi, generation, lib, new_connection, to_text
from remctl._jobs import finish, pause
from remctl._log import DEBUG, Log, enabled, modules
from remctl._results import (
    ErrorCode,
    RemctlOutput,
    RemctlSimpleResult,
    Stream,
    as_error,
)
from remctl._waiting import (
    NEVER,
    UNKNOWN,
    Deadline,
    Gathering,
    IdleDeadline,
    Readiness,
    deadline_after,
    first_gathering,
    poll,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from remctl._arguments import Server
    from remctl._explain import Doing
    from remctl._remctl_cffi import CData, ShimHandle
    from remctl._stage import Stage
    from remctl._waiting import Steps, T

    # The arguments one after the other, their lengths, and how many there are.
    Packed = tuple[bytes, list[int], int]

# Module globals, as every token needs them and looking them up in lib takes longer.
SHIM_OK = lib.SHIM_OK
SHIM_WAIT = lib.SHIM_WAIT
SHIM_MORE = lib.SHIM_MORE
SHIM_BLOCKS = lib.SHIM_BLOCKS
OUTPUT = lib.REMCTL_OUT_OUTPUT
STATUS = lib.REMCTL_OUT_STATUS

# The seconds for which reading tokens keeps other tasks of an event loop waiting.
LONGEST_TURN = 0.001

# The octets of a reply for which its memory is kept for the next one.
LARGE_REPLY = 16 * 1024

DONE = RemctlOutput("done")
STREAMS = {int(stream): stream for stream in Stream}
ERROR_CODES = {int(code): code for code in ErrorCode}

# The largest command, in octets, for which a protocol 1 message has room.
MAX_COMMAND1 = 64 * 1024

# When a server is too busy to accept a connection and resets it: the longest pause, in
# seconds, before each new attempt.  remctld's queue has room for five connections.
PAUSES = [0.02 * 2**turn for turn in range(1, 8)]

# The servers, as host and port, that have spoken protocol 2 or later with this process.
# A later protocol 1 reply is refused as a downgrade: the bit that tells the protocols
# apart is not authenticated.
spoke_protocol2: set[tuple[str, int]] = set()


class Connection:
    """One connection, which is opened once.

    ``closed``: close() has been called.  ``established``: open() has succeeded.
    ``pending``: the reply to a command has not been read to its end.  ``in_flight``:
    an operation has begun and has not ended.  ``log``: what is logged about it, and the
    server's name.  ``must_finish``: whoever reads the reply
    must read it to its end, so the connection is of no use if they are interrupted.
    """

    def __init__(
        self, server: Server, ccache: str | None, source_ip: str | None
    ) -> None:
        """Keep the arguments; open() does the I/O."""
        self.established = False
        self.pending = False
        self.in_flight = True  # until open() has succeeded
        self.must_finish = False
        self._server = server
        self._ccache = ccache  # guard 29
        self._source_ip = source_ip
        self._doing: Doing = RESOLVING
        self.log = Log(server.host, server.port or lib.REMCTL_PORT)
        self._generation = generation[0]
        self.closed = False
        # After an error for a command of several tokens: the server may send an error
        # for each token, which would be read as replies to later commands.
        self._out_of_step = False
        # After any other error: the server may have more to say, even if it is silent
        # now.  Its answer to a NOOP comes after all of that.
        self._needs_noop = False
        # What is known about the next token, as the outcome of the last look for it:
        # SHIM_OK if output_in_turn() has just returned one that was there.
        self._availability = UNKNOWN
        # When other tasks have last had a turn between two tokens that were there.
        self._turn = 0.0
        # C memory, and the object that releases its contents when it is dropped.
        self._handle: ShimHandle | None = None
        self._owner: CData | None = None
        # What the caller is waiting for, so that close() can cancel it.
        self._wait: Readiness | None = None
        # With a protocol 1 server: its port, and the credential cache of open().
        self._protocol1_port: int | None = None
        self._protocol1_ccache: str | None = None

    @property
    def broken(self) -> bool:
        """True if an interrupted operation may have left half-sent or unread data.

        The caller that drives the steps must then close the connection.
        """
        return self.in_flight or (self.pending and self.must_finish)  # guard 4, 31

    @property
    def peer(self) -> str:
        """The server's host and port, as they are shown."""
        self._name_port()
        return self.log.peer

    @property
    def stage(self) -> Stage:
        """The stage at which the last operation is, or has ended."""
        return self._current()[0]

    @property
    def loss(self) -> RemctlError | None:
        """Why it cannot be used any more, if no call has failed."""
        if not self._out_of_step or self.closed:
            return None
        return RemctlError(_explain.out_of_step(self.log.peer), "reply")

    @property
    def usable(self) -> bool:
        """Whether another command may be sent, as far as is known without I/O."""
        return not (
            self.closed or self._out_of_step or self._generation != generation[0]
        )

    @property
    def in_step(self) -> bool:
        """Whether it is open, and no part of a command or a reply is left on it."""
        return self.established and self.usable and not (self.in_flight or self.pending)

    @property
    def inherited(self) -> bool:
        """Whether it was made by another process, from which this one was forked."""
        return self._generation != generation[0]

    def fileno(self) -> int:
        """Return the connection's descriptor, -1 if there is none."""
        handle = self._handle
        if handle is None or not self.established:
            return -1
        return lib.shim_fileno(handle)

    def has_input(self) -> bool:
        """Whether the server has sent something, or closed it, since the last call."""
        fd = self.fileno()
        return fd >= 0 and poll(fd, select.POLLIN, 0)

    def close(self, reason: str) -> None:
        """Close the connection without blocking.  Any thread may call this.

        An operation that is in progress raises RemctlError.  ``reason`` is logged.
        """
        closed, self.closed = self.closed, True
        wait, handle = self._wait, self._handle
        if wait is not None and not self.inherited:
            wait.cancel()
        if handle is not None:
            lib.shim_close(handle)
        if not closed and enabled(DEBUG) and not self.inherited:
            self._name_port()
            self.log.debug("closed: %s", _explain.printable_line(reason))

    def open(self, timeout: float, sock: socket.socket | None = None) -> Steps[None]:
        """Connect, or use ``sock``, and authenticate (remctl_open_fd)."""
        self._protocol1_ccache = self._ccache
        if self._ccache is None:
            self._protocol1_ccache = os.environ.get("KRB5CCNAME")
        if sock is None:
            outcome = yield from self._connect(timeout)
        else:
            outcome = yield from self._authenticate(timeout, sock)
        handle = self._open_handle()
        milliseconds = 1000 * lib.shim_stage(handle)
        port = lib.shim_port(handle) or None
        if outcome == lib.SHIM_UNSUPPORTED:
            self._become_protocol1(port)
        elif outcome == SHIM_OK:
            if port is not None:
                spoke_protocol2.add((self._server.host.lower(), port))
        else:
            raise self._failure(outcome)
        self.log.debug(
            "handshake done, protocol %s, %.1f milliseconds",
            1 if self._protocol1_port else "2 or later",
            milliseconds,
        )
        self.established = True
        self.in_flight = False

    def command_now(self, arguments: list[bytes], must_finish: bool) -> Packed | None:
        """Send a command (remctl_commandv).

        Returns it, packed, if that has to wait: the caller must then drive
        command_later().
        """
        self._check_no_reply_pending()  # guard 30
        packed = pack(arguments)
        if self._protocol1_port is not None:
            self._check_identity()  # guard 19b
            self._check_size(packed)
        self.must_finish = must_finish
        self._doing = SENDING
        self.in_flight = True  # guard 36
        if self._protocol1_port is not None or self._needs_noop:  # guard 64a
            return packed
        return None if self._send_now(packed) else packed

    def _send_now(self, command: Packed) -> bool:
        """Send a command; return False, with nothing sent, if that may block."""
        outcome = lib.shim_command(self._open_handle(), *command)
        if outcome == SHIM_BLOCKS:
            return False
        self._sent(outcome, command)
        if self.must_finish:
            # The asyncio twin's run() comes before any reply can: save the attempt.
            self._availability = SHIM_WAIT
        return True

    def command_later(self, command: Packed, timeout: float) -> Steps[None]:
        """Send the command that command_now() could not send at once."""
        if self._needs_noop:
            # A stock remctld answers some commands with an error and then something
            # else.  It handles messages in order, so its answer to a NOOP comes after
            # all of that.
            self._doing = PROVING
            self._begin_noop()
            deadline = self.idle_deadline(timeout)
            self._answered((yield from self._finish_noop(timeout, deadline)))
            self._doing = SENDING
            if self._send_now(command):
                return
        if self._protocol1_port is None:
            handle = self._open_handle()
        else:
            handle = yield from self._open_protocol1(self._protocol1_port, timeout)
            # libremctl also waits for the server's MIC of the command, and its socket
            # does not tell us when.
            self._doing = READING
        begun = lib.shim_begin_command(handle, *command)
        outcome = yield from self._in_time(
            finish(handle, begun, self.idle_deadline(timeout)), timeout
        )
        self._sent(outcome, command)

    def _sent(self, outcome: int, command: Packed) -> None:
        if outcome != SHIM_OK:
            raise self._failure(outcome)
        # Here, in _status() and in _error(), enabled() alone would cost each command
        # more.
        if "logging" in modules and enabled(DEBUG):
            octets, _, count = command
            self.log.debug("sent %d arguments, %d octets", count, len(octets))
        self._doing = READING
        self._availability = UNKNOWN
        self.pending = True
        self.in_flight = False

    def output_now(self) -> RemctlOutput | None:
        """Return the next token (remctl_output), or None if that has to wait.

        The caller must then drive output_later().
        """
        if not self.pending:  # guard 40
            return DONE
        self.in_flight = True
        if self._availability == SHIM_WAIT:
            return None
        handle = self._handle  # not _open_handle(), as each token comes here
        if handle is None:
            raise self._failure(lib.SHIM_CLOSED)
        outcome = lib.shim_output(handle)
        if outcome == SHIM_OK:
            return self._token(handle)
        if outcome in (SHIM_WAIT, SHIM_BLOCKS):
            self._availability = outcome
            return None
        raise self._failure(outcome)

    def output_in_turn(self) -> RemctlOutput | None:
        """Return what output_now() does, and note that nothing was waited for."""
        token = self.output_now()
        if token is not None:
            self._availability = SHIM_OK
        return token

    def turn_is_over(self) -> bool:
        """Whether other tasks are to run before the next token is read."""
        return (
            self._availability == SHIM_OK and lib.shim_now() - self._turn > LONGEST_TURN
        )

    def begin_turn(self) -> None:
        """Note that other tasks have run."""
        self._turn = lib.shim_now()

    def output_later(self, timeout: float) -> Steps[RemctlOutput]:
        """Return the next token, which output_now() has not found, after a wait."""
        handle = self._open_handle()
        deadline = deadline_after(timeout)
        # Held, so that close() in another thread cannot free the descriptor's number
        # while this call waits for it.
        if not lib.shim_hold(handle):
            raise self._failure(lib.SHIM_CLOSED)
        try:
            outcome, self._availability = self._availability, UNKNOWN
            while outcome == SHIM_WAIT:
                deadline = self._extend(handle, timeout, deadline)
                yield from self._wait_for(
                    Readiness(lib.shim_fileno(handle), select.POLLIN, deadline)
                )
                outcome = lib.shim_output(handle)
            if outcome == SHIM_BLOCKS:
                outcome = yield from self._read_slowly(handle, timeout)
            if outcome != SHIM_OK:
                raise self._failure(outcome)
            return self._token(handle)
        finally:
            lib.shim_release(handle)

    def reply_now(self, deadline: Deadline) -> RemctlSimpleResult | None:
        """Return the result of a command, or None if the wait for it goes on.

        The caller must then drive reply_later().
        """
        self.in_flight = True
        handle = self._open_handle()
        try:
            outcome = lib.shim_gather(handle, first_gathering(deadline))
            if outcome == SHIM_OK:
                return self._result(handle)
            self._availability = outcome
        except BaseException:
            lib.shim_forget(handle)
            raise
        return None

    def reply_later(
        self, timeout: float, deadline: Deadline
    ) -> Steps[RemctlSimpleResult]:
        """Return the result of a command, however long that takes."""
        handle = self._open_handle()
        if not lib.shim_hold(handle):
            raise self._failure(lib.SHIM_CLOSED)
        try:
            outcome, self._availability = self._availability, UNKNOWN
            while outcome != SHIM_OK:
                if outcome == UNKNOWN:
                    outcome = lib.shim_gather(handle, 0)
                elif outcome in {SHIM_WAIT, SHIM_MORE}:
                    deadline = self._extend(handle, timeout, deadline)
                    gathering = Gathering(handle, deadline)
                    yield from self._wait_for(gathering)
                    outcome = gathering.outcome
                elif outcome == SHIM_BLOCKS:
                    outcome = yield from self._read_slowly(handle, timeout)
                    if outcome == SHIM_OK:
                        outcome = lib.shim_keep(handle)
                    if outcome == SHIM_MORE:
                        outcome = UNKNOWN  # of the next token
                    deadline = deadline_after(timeout)
                else:
                    raise self._failure(outcome)
            return self._result(handle)
        except BaseException:
            lib.shim_forget(handle)
            raise
        finally:
            lib.shim_release(handle)

    def _extend(
        self, handle: ShimHandle, timeout: float, deadline: Deadline
    ) -> Deadline:
        """Return until when to wait if the server is silent from now on.

        Raises RemctlTimeoutError if it was silent for too long.
        """
        if not deadline.passed():  # guard 43
            return deadline
        silence = lib.shim_silence(handle)
        if not 0 <= silence < timeout:
            raise self._late(timeout)
        return Deadline(timeout - silence)

    def _read_slowly(self, handle: ShimHandle, timeout: float) -> Steps[int]:
        """Read a token that cannot come as a whole before something is read."""
        begun = lib.shim_begin_output(handle)
        steps = finish(handle, begun, self.idle_deadline(timeout))
        return (yield from self._in_time(steps, timeout))

    def noop_now(self, deadline: Deadline) -> bool | None:
        """Exchange NOOP messages (remctl_noop); return False if the server cannot.

        None if the wait for the answer goes on: the caller must then drive
        noop_later().
        """
        if not self._may_ask():
            return False
        handle = self._open_handle()
        try:
            self._begin_noop()
            outcome = lib.shim_finish(handle, first_gathering(deadline))
            return None if outcome == SHIM_WAIT else self._end_noop(outcome)
        except BaseException:
            lib.shim_abandon(handle)
            raise

    def noop(self, timeout: float) -> Steps[bool]:
        """Exchange NOOP messages (remctl_noop); return False if the server cannot."""
        if not self._may_ask():
            return False
        self._begin_noop()
        return (yield from self.noop_later(timeout, self.idle_deadline(timeout)))

    def noop_later(self, timeout: float, deadline: Deadline) -> Steps[bool]:
        """Wait for the answer to NOOP; return False if the server cannot."""
        return self._end_noop((yield from self._finish_noop(timeout, deadline)))

    def idle_deadline(self, timeout: float) -> Deadline:
        """Return a deadline for a call that begins now, NEVER for 0."""
        handle = self._handle  # None between two commands in protocol 1
        if handle is None or not timeout:
            return deadline_after(timeout)
        return IdleDeadline(handle, timeout)

    def _may_ask(self) -> bool:
        """Prepare for noop(); return False if the server does not know NOOP."""
        self._check_no_reply_pending()  # guard 39
        if self._protocol1_port is not None:
            return False
        self._doing = EXCHANGING_NOOP
        self.in_flight = True  # guard 21
        return True

    def _begin_noop(self) -> None:
        outcome = lib.shim_begin_noop(self._open_handle())
        if outcome != SHIM_OK:
            raise self._failure(outcome)

    def _finish_noop(self, timeout: float, deadline: Deadline) -> Steps[int]:
        steps = finish(self._open_handle(), SHIM_OK, deadline)
        return (yield from self._in_time(steps, timeout))

    def _end_noop(self, outcome: int) -> bool:
        answered = self._answered(outcome)
        self.in_flight = False
        return answered

    def _answered(self, outcome: int) -> bool:
        if outcome not in {SHIM_OK, lib.SHIM_UNSUPPORTED}:
            raise self._failure(outcome)
        self._needs_noop = False
        return bool(outcome == SHIM_OK)

    def _check_no_reply_pending(self) -> None:
        if self.pending:
            raise RemctlError("the reply to the last command is not read to its end")

    def _connect(self, timeout: float) -> Steps[int]:
        """Connect and authenticate; again if the server resets the connection.

        Returns the shim's outcome.
        """
        left, handshake = timeout, NEVER
        last: tuple[ShimHandle, CData | None] | None = None
        for longest_pause in (*PAUSES, None):
            handle = self._new_handle(-1, self._ccache)
            if last is not None:
                lib.shim_take_addresses(handle, last[0])
            begun = begin_connect(handle, self._server, self._source_ip, left)
            deadline = NEVER
            if timeout:
                deadline = OpeningDeadline(handle, left, handshake)  # guard 48, 49
            steps = connect(handle, begun, left, deadline, self.log)
            outcome = yield from self._in_time(steps, timeout)
            authenticating = self._current() is AUTHENTICATING
            if outcome != lib.SHIM_FAILED or not authenticating:
                break
            if not lib.shim_was_reset(handle):
                break
            busy = _explain.resets(self.log.peer, to_text(handle.error))
            cause = ConnectionResetError(ECONNRESET, os.strerror(ECONNRESET))
            if longest_pause is None:
                raise RemctlError(busy, "authenticate") from cause
            if timeout and last is None:
                handshake = Deadline(max(timeout - lib.shim_stage(handle), 0.001))
            # Random, so that many clients do not come back at the same moment.  (Not
            # from the module random, which takes longer to import than this one.)
            seconds = longest_pause * (1 + int.from_bytes(os.urandom(2), "big")) / 65536
            if handshake.left() <= seconds:
                late = f"timed out after {_explain.duration(timeout)}: {busy}"
                raise RemctlTimeoutError(late, None, "authenticate") from cause
            self.log.debug("reset: giving way to others for %.3f seconds", seconds)
            last = handle, self._owner
            self._drop_handle()
            yield from self._cancellable(pause(seconds))
            if timeout:
                left = max(handshake.left(), 0.001)
        return outcome

    def _authenticate(self, timeout: float, sock: socket.socket) -> Steps[int]:
        """Authenticate over the caller's socket; return the shim's outcome."""
        self.log.port = None
        handle = self._new_handle(sock.fileno(), self._ccache)
        deadline = OpeningDeadline(handle, timeout) if timeout else NEVER
        steps = finish(handle, lib.shim_begin_open(handle), deadline)
        return (yield from self._in_time(steps, timeout))

    def _current(self) -> Doing:
        """Return what the connection is doing, or did last.

        How far open() has come, the shim knows.
        """
        handle = self._handle
        if handle is not None and not self.established:
            lib.shim_stage(handle)
        return self._seen()

    def _seen(self) -> Doing:
        """Return the same, as it was when the shim was last asked."""
        handle = self._handle
        if handle is not None and not self.established:
            self._doing = STAGES[handle.stage]
            self._name_port()
        return self._doing

    def _name_port(self) -> None:
        """Have texts and the log name the port that open() has connected to."""
        handle = self._handle
        if handle is not None and not self.established:
            self.log.port = lib.shim_port(handle) or self.log.port

    def _new_handle(self, fd: int, ccache: str | None) -> ShimHandle:
        host, _, principal = self._server
        try:
            self._handle, self._owner = new_connection(
                fd, host, principal, ccache, self._source_ip
            )
        except OSError as error:
            text = f"{_explain.cannot_connect(host, self.log.port)}: {error.strerror}"
            # Its frames would keep the client until garbage is collected.
            cause = OSError(error.errno, error.strerror)
            raise RemctlError(text, "connect") from cause
        if self.closed:  # by a close() that came before there was a handle
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
        """From now on, use a new connection for each command."""
        self._drop_handle()
        if port is None:
            raise RemctlError(_explain.no_sock(self.log.peer), "authenticate")
        self._refuse_downgrade(port)  # guard 22
        self._protocol1_port = port

    def _refuse_downgrade(self, port: int) -> None:
        host = self._server.host
        if (host.lower(), port) in spoke_protocol2:
            text = _explain.downgrade(self.log.peer)
            self.log.warning("%s", text)
            raise RemctlError(text, "authenticate")

    def _check_identity(self) -> None:
        """Refuse to run a command under another identity than that of open()."""
        if self._protocol1_ccache is None and "KRB5CCNAME" in os.environ:
            raise RemctlError(_explain.other_identity(self.log.peer), "authenticate")

    def _check_size(self, command: Packed) -> None:
        """Refuse a command that has no room in a message of protocol 1."""
        octets, _, count = command
        size = message_size(count, len(octets))
        if size > MAX_COMMAND1:
            text = _explain.large_for_protocol1(self.log.peer, size, MAX_COMMAND1)
            raise RemctlError(text, "send")

    def _open_protocol1(self, port: int, timeout: float) -> Steps[ShimHandle]:
        self._doing = AUTHENTICATING
        self._refuse_downgrade(port)
        handle = self._new_handle(-1, self._protocol1_ccache)  # guard 19a
        # Later than our time-out: libremctl's own only ends calls that were abandoned.
        library_timeout = math.ceil(timeout) + 2 if 0 < timeout < 1e9 else 0
        begun = lib.shim_begin_open_protocol1(handle, port, library_timeout)
        outcome = yield from self._in_time(
            finish(handle, begun, deadline_after(timeout)), timeout
        )
        if outcome == lib.SHIM_UNSUPPORTED:
            spoke_protocol2.add((self._server.host.lower(), port))
            text = f"{self.log.peer} no longer speaks protocol 1: open() again"
            raise RemctlError(text, "authenticate")
        if outcome != SHIM_OK:
            raise self._failure(outcome)
        return handle

    def _token(self, handle: ShimHandle) -> RemctlOutput:
        """Return the token that was read, and update the connection's state."""
        kind = handle.type
        if kind == OUTPUT:
            data = ffi.unpack(handle.data, handle.length)
            stream = STREAMS[handle.stream]
            # Not RemctlOutput(), which takes twice as long.
            fields = ("output", data, stream, None, None)  # guard 14
            token = tuple.__new__(RemctlOutput, fields)
            self.in_flight = False
            return token
        if kind == STATUS:
            return RemctlOutput("status", status=self._status(handle))
        return self._error(handle)

    def _status(self, handle: ShimHandle) -> int:
        """Return the status that was read, which ends the reply."""
        status = handle.status
        if "logging" in modules and enabled(DEBUG):
            self.log.debug("received status %d", status)
        self._end_reply()
        return status

    def _error(self, handle: ShimHandle) -> RemctlOutput:
        """Return the error token that was read, which ends the reply."""
        if handle.type == lib.REMCTL_OUT_DONE:
            text = f"the reply of {self.log.peer} has no status"
            raise RemctlError(text, "reply")
        message = ffi.unpack(handle.data, handle.length)
        code = ERROR_CODES.get(handle.code, handle.code)  # guard 53a
        if "logging" in modules and enabled(DEBUG):
            self.log.debug("received error %d", code)
        self._out_of_step = bool(handle.many_tokens)  # guard 37b
        if self._out_of_step:
            self.log.warning("%s", _explain.out_of_step(self.log.peer))
        self._needs_noop = self._protocol1_port is None
        self._end_reply()
        return RemctlOutput("error", message, error=code)

    def _end_reply(self) -> None:
        self.pending = False
        if self._out_of_step or self._protocol1_port is not None:
            self._drop_handle()
        self.in_flight = False

    def _result(self, handle: ShimHandle) -> RemctlSimpleResult:
        """Return the result of the command whose reply was gathered."""
        out, err = handle.out_length, handle.err_length
        stdout = ffi.unpack(handle.out, out) if out else None  # guard 15
        stderr = ffi.unpack(handle.err, err) if err else None
        if out + err > LARGE_REPLY:
            lib.shim_forget(handle)
        if handle.type != STATUS:
            raise as_error(self._error(handle))
        return RemctlSimpleResult(stdout, stderr, self._status(handle))

    def _failure(self, outcome: int) -> Exception:
        """Return the exception for ``outcome``, which is not SHIM_OK."""
        if outcome == lib.SHIM_NO_MEMORY:
            return MemoryError()
        handle, doing = self._handle, self._current()
        if self.closed or outcome == lib.SHIM_CLOSED or handle is None:
            text = "the connection was closed during the call"
            if self.inherited:
                text = "the call was begun by another process"
            return RemctlError(text, doing[0])
        if doing is RESOLVING:
            return not_resolved(self._server.host, handle)
        if doing is CONNECTING:
            return not_connected(self._server, handle)
        text = to_text(handle.error)
        if self._protocol1_port is not None:
            doing = _explain.of_protocol1(doing, text)
        said = ffi.unpack(handle.data, handle.length) if handle.length else b""
        credentials = ""
        if doing is AUTHENTICATING:
            server, cache = self._server, self._cache(handle)
            credentials = _explain.credentials(server.host, server.principal, cache)
        text = _explain.failure(text, doing, self.log.peer, credentials, said)
        if doing is not READING and _explain.is_out_of_step(text):
            self.log.warning("out of step: %s", text)
        return RemctlError(text, doing[0])

    def _cache(self, handle: ShimHandle) -> str:
        """Return how a text names the credential cache of open()."""
        if self._protocol1_ccache is not None:
            return f"credential cache {self._protocol1_ccache}"
        if lib.shim_default_cache(handle) == SHIM_OK:
            return f"default credential cache {to_text(handle.data)}"
        return "the default credential cache"

    def _late(self, timeout: float) -> RemctlError:
        """Return the exception for a server that was silent for too long."""
        doing = self._seen()  # by the deadline: the job may have gone on
        if doing is RESOLVING:
            return not_resolved_in_time(self._server.host, timeout)
        if doing is CONNECTING:
            return not_connected_in_time(self._server, timeout)
        text = _explain.timed_out(doing, self.log.peer, timeout)
        return RemctlTimeoutError(text, None, doing[0])

    def _cancellable(self, steps: Steps[T]) -> Steps[T]:
        """Drive ``steps`` so that close() can cancel their waits."""
        try:
            while True:
                try:
                    wait = next(steps)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]  # the steps' T
                yield from self._wait_for(wait)
        finally:
            steps.close()

    def _wait_for(self, wait: Readiness) -> Steps[None]:
        """Wait in such a way that close() can cancel it."""
        try:
            self._wait = wait
            # Checked once close() can find the wait, and again after the wait: a
            # close() in another thread either cancels the wait or is noticed here.
            if not self.closed:
                yield wait
            if self.closed:
                raise self._failure(lib.SHIM_CLOSED)
        finally:
            self._wait = None

    def _in_time(self, steps: Steps[T], timeout: float) -> Steps[T]:
        """Drive ``steps`` as _cancellable() does; explain a TimeoutError."""
        try:
            return (yield from self._cancellable(steps))
        except TimeoutError:
            raise self._late(timeout) from None


def pack(arguments: list[bytes]) -> Packed:
    """Return ``arguments`` as the shim takes them."""
    return b"".join(arguments), list(map(len, arguments)), len(arguments)
