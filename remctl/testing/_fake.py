# SPDX-License-Identifier: MIT
"""A Remctl whose replies are scripted.

It is the real class with all its checks.  Only its connection, the part that talks to
a server, is replaced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Union

from remctl import (
    Remctl,
    RemctlError,
    RemctlNotOpenedError,
    RemctlOutput,
    RemctlProtocolError,
    RemctlSimpleResult,
    Stream,
    _arguments,
    _results,
)
from remctl._base import RemctlBase, check_call, without_traceback
from remctl._client import run_once
from remctl._connection import DONE, ERROR_CODES, Connection
from remctl._waiting import NEVER

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from typing_extensions import Self

    from remctl._arguments import Ccache, Port, Server
    from remctl._waiting import Deadline, Steps

Token = Union[RemctlOutput, RemctlError]
Reply = Union[RemctlSimpleResult, RemctlError, Sequence[Token]]


class Call(NamedTuple):
    """A command that a FakeRemctl was given, and where it would have gone.

    ``host``, ``port`` and ``principal`` are those of open(); the port is None for the
    default ones.  ``options`` has those of ``timeout``, ``ccache`` and ``source_ip``
    that were set, by their names: ``{"timeout": 30.0}``.  ``command`` is a list of
    bytes.
    """

    host: str
    port: int | None
    principal: str | None
    options: dict[str, Any]
    command: list[bytes]


class Script:
    """The replies that are left, and the calls that have been made."""

    def __init__(
        self,
        replies: Iterable[Reply] | Callable[[Call], Reply],
        open_errors: Iterable[RemctlError | None],
    ) -> None:
        """Check the replies, unless they are a function, and the errors of open()."""
        self.calls: list[Call] = []
        self.commands: list[list[bytes]] = []
        self._next = replies if callable(replies) else next_of(replies)
        self._open_errors = deque(open_errors)
        for error in self._open_errors:
            if error is not None and not isinstance(error, RemctlError):
                raise TypeError(f"open() raises a RemctlError or None, not {error!r}")

    def open(self) -> None:
        """Raise the next scripted error, if there is one."""
        error = self._open_errors.popleft() if self._open_errors else None
        if error is not None:
            raise error

    def reply(self, call: Call) -> deque[Token]:
        """Record a call, and return the tokens of its reply."""
        self.calls.append(call)
        self.commands.append(call.command)
        try:
            reply = self._next(call)
        except RemctlError as error:
            reply = error
        return tokens(reply)


def next_of(replies: Iterable[Reply]) -> Callable[[Call], Reply]:
    """Return a function that returns one reply after the other, which are checked."""
    left = deque(replies)
    for reply in left:
        tokens(reply)

    def take(call: Call) -> Reply:
        if not left:
            raise AssertionError(f"FakeRemctl has no reply left for {call.command}")
        return left.popleft()

    return take


class Scripted(RemctlBase):
    """A mixin that replaces the connection of the next class in the MRO."""

    calls: list[Call]
    commands: list[list[bytes]]

    def __init__(
        self,
        replies: Iterable[Reply] | Callable[[Call], Reply] = (),
        *,
        open_errors: Iterable[RemctlError | None] = (),
    ) -> None:
        """Make an object that is not open."""
        super().__init__()
        self._share(Script(replies, open_errors))

    def __call__(
        self,
        host: str | None = None,
        port: Port = None,
        principal: str | None = None,
        *,
        timeout: float | None = None,
        ccache: Ccache | None = None,
        source_ip: str | None = None,
    ) -> Self:
        """Do what calling the real class does, and return an object of the same script.

        The first call returns the fake itself, if it is not open, and each other call
        an object of its own.
        """
        first = next(self._made) == 0 and self._connection is None
        client = self if first else self._another()
        super(Scripted, client).__init__(  # type: ignore[call-arg]  # the real class's
            host,
            port,
            principal,
            timeout=timeout,
            ccache=ccache,
            source_ip=source_ip,
        )
        return client

    def _another(
        self,
        timeout: float | None = None,
        ccache: Ccache | None = None,
        source_ip: str | None = None,
    ) -> Self:
        """Return a new object with the same script and these settings."""
        client = type(self).__new__(type(self))  # a user's class may take more to make
        client._share(self._script)  # noqa: SLF001 (of this class)
        client._configure(timeout, ccache, source_ip)  # noqa: SLF001
        return client

    def _share(self, script: Script) -> None:
        self._script = script
        self._made = count()
        self.calls = script.calls
        self.commands = script.commands

    def _new_connection(self, server: Server) -> Connection:
        # These two for as long as the connection is open, unlike the time-out.
        of_open = {"ccache": self._ccache, "source_ip": self._source_ip}

        def call(command: list[bytes]) -> Call:
            settings = {"timeout": self._timeout, **of_open}
            options = {name: value for name, value in settings.items() if value}
            return Call(
                server.host, server.port or None, server.principal, options, command
            )

        return FakeConnection(server, self._script, call)


class FakeRemctl(Scripted, Remctl):
    r"""A remctl.Remctl without a server, for unit tests: its replies are scripted.

    It checks arguments, raises, iterates and closes as the real one does.  Nothing it
    does blocks, and time-outs come when the script says so.  What would be sent is in
    ``calls``, a list of Call, and in ``commands``, a list of the commands alone, each a
    list of bytes.

    Code that is given a Remctl is given a FakeRemctl, on which the test has called
    open().  Code that makes its own is given one in place of the class, as calling a
    FakeRemctl does what calling remctl.Remctl does; each call returns an object of its
    own (the first one the FakeRemctl itself), and all of them share the replies and the
    lists.  Its method remctl() stands for the function remctl.remctl()::

        fake = FakeRemctl([RemctlSimpleResult(b"hello\n", None, 0)])
        monkeypatch.setattr(remctl, "Remctl", fake)
        monkeypatch.setattr(remctl, "remctl", fake.remctl)

    A Pool uses the fake in place of the class, too, with a connection for each loan.

    Args:
        replies: The replies to the commands, in order; or a function that gets the
            Call for each command, and returns the reply to it or raises it.

            A RemctlSimpleResult becomes output tokens and a status token; a
            RemctlProtocolError with a code becomes an error token; any other
            RemctlError, such as a RemctlTimeoutError, is raised in place of the first
            token.  A list has the tokens themselves: the last must be a status token,
            an error token or an exception.  An exception without a stage, but for
            RemctlNotOpenedError, is raised as a copy with the stage "reply".  After
            an exception the object is not open.
        open_errors: For each call of open(), the exception that it raises, or None if
            it succeeds.  It has the stage that it was made with.  Further calls
            succeed.

    A command for which there is no reply left raises AssertionError, and is recorded.
    noop() returns True on an open object.  There is no descriptor: fileno() raises
    RemctlNotOpenedError, as with a server that speaks protocol 1.

    Raises:
        TypeError, ValueError: A reply is not one that a server could send.  A
            function's is checked when the command is sent.

    """

    def remctl(
        self,
        host: str,
        port: Port = None,
        principal: str | None = None,
        command: Iterable[object] = (),
        *,
        timeout: float | None = None,
        ccache: Ccache | None = None,
        source_ip: str | None = None,
    ) -> RemctlSimpleResult:
        """Do what remctl.remctl() does, with the script's next reply."""
        _arguments.server(host, port, principal)
        arguments = check_call(command, timeout, source_ip)
        make = partial(self._another, timeout, ccache, source_ip)
        return run_once(make, host, port, principal, arguments)


class FakeConnection(Connection):
    """A connection to a script."""

    def __init__(
        self,
        server: Server,
        script: Script,
        call: Callable[[list[bytes]], Call],
    ) -> None:
        """Take replies from ``script``, for what ``call`` returns for a command."""
        super().__init__(server, None, None)
        self._script = script
        self._call = call
        self._tokens: deque[Token] = deque()

    @property
    def in_step(self) -> bool:
        """Never, so that no pool keeps it for a test that comes later."""
        return False

    def open(self, timeout: float, sock: socket.socket | None = None) -> Steps[None]:
        """Succeed, or raise the next error of the script."""
        self._script.open()
        self.established = True
        self.in_flight = False
        yield from ()

    def command_now(self, arguments: list[bytes], must_finish: bool) -> None:
        """Take the next reply."""
        self._check_no_reply_pending()
        self.must_finish = must_finish
        self.in_flight = True
        self._tokens = self._script.reply(self._call(arguments))
        self.pending = True
        self.in_flight = False

    def output_now(self) -> RemctlOutput:
        """Return the reply's next token, without ever waiting."""
        if not self.pending:
            return DONE
        self.in_flight = True
        if self.closed:
            text = "the connection was closed during the call"
            raise RemctlError(text, "reply")
        token = self._tokens.popleft()
        if isinstance(token, RemctlError):
            raise token
        self.pending = bool(self._tokens)
        self.in_flight = False
        return token

    def reply_now(self, deadline: Deadline) -> RemctlSimpleResult:
        """Return the result of the whole reply, without ever waiting."""
        reply, result = _results.Reply(), None
        while result is None:
            result = reply.add(self.output_now())
        return result

    def reply_later(
        self, timeout: float, deadline: Deadline
    ) -> Steps[RemctlSimpleResult]:
        """Do the same for the asyncio twin."""
        yield from ()
        return self.reply_now(deadline)

    def idle_deadline(self, timeout: float) -> Deadline:
        """Return NEVER, as nothing waits."""
        return NEVER

    def noop_now(self, deadline: Deadline) -> bool:
        """Succeed."""
        self._check_no_reply_pending()
        return True

    def noop(self, timeout: float) -> Steps[bool]:
        """Do the same for the asyncio twin."""
        yield from ()
        return self.noop_now(NEVER)


def tokens(reply: Reply) -> deque[Token]:
    """Return a reply's tokens, checked."""
    if isinstance(reply, RemctlSimpleResult):
        pieces = {Stream.STDOUT: reply.stdout, Stream.STDERR: reply.stderr}
        reply = [
            *(RemctlOutput("output", b, each) for each, b in pieces.items() if b),
            RemctlOutput("status", status=reply.status),
        ]
    elif isinstance(reply, RemctlProtocolError) and reply.code is not None:
        reply = [RemctlOutput("error", reply.value.encode(), error=reply.code)]
    elif isinstance(reply, RemctlError):
        reply = [reply]
    elif isinstance(reply, RemctlOutput) or not isinstance(reply, Sequence):
        raise TypeError(
            "a reply is a RemctlSimpleResult, a RemctlError or a list of tokens, "
            f"not {reply!r}"
        )
    checked = deque(map(token, reply))
    last = [isinstance(each, RemctlError) or each.type != "output" for each in checked]
    if last != [False] * (len(last) - 1) + [True]:
        raise ValueError(
            "a reply is any number of output tokens, and then a status token, an "
            f"error token or an exception: {reply!r}"
        )
    return checked


def in_reply(error: RemctlError) -> RemctlError:
    """Return ``error`` with a stage, as an exception in a real reply has one."""
    if error.stage is not None or isinstance(error, RemctlNotOpenedError):
        return error
    copy = without_traceback(error)
    copy.stage = "reply"
    if type(error).__init__ in {RemctlError.__init__, RemctlProtocolError.__init__}:
        copy.args = (*error.args, "reply")  # of another class, it may be no argument
    return copy


def token(item: Token) -> Token:
    """Check one token, and return it as a connection does."""
    if isinstance(item, RemctlError):
        return in_reply(item)
    if not isinstance(item, RemctlOutput):
        raise TypeError(f"a token is a RemctlOutput or a RemctlError, not {item!r}")
    kind, output, stream, status, error = item
    if kind == "output" and isinstance(output, bytes) and stream in set(Stream):
        return RemctlOutput("output", output, Stream(stream))
    if kind == "status" and isinstance(status, int):
        return RemctlOutput("status", status=status)
    if kind == "error" and isinstance(output, bytes) and isinstance(error, int):
        return RemctlOutput("error", output, error=ERROR_CODES.get(error, error))
    raise ValueError(f"no server sends such a token: {item!r}")
