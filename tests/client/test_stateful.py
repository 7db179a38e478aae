# SPDX-License-Identifier: MIT
"""Calls in any order, on good and bad servers, against a small model (S20 to S48)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import remctl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from remctl.testing import Realm, Server

pytestmark = pytest.mark.both_twins

NO_ERROR = "no error"
NOT_OPENED = "no currently open connection"
UNREAD = "the reply to the last command is not read to its end"
EOF = "error receiving token: unexpected end of file"
MANGLED = "GSS-API error receiving token"

# Commands for the real server.
KINDS = st.sampled_from(["user", "args", "unknown"])

STATUS = ("status", None, None, 0, None)
UNKNOWN = ("error", b"Unknown command", None, None, 5)

# What the scripted servers do with each connection.
TWO = [["output", {"text": "one"}], ["output", {"text": "two", "stream": 2}]]
SCRIPTS: dict[str, list[Any]] = {
    "serves": ["handshake", "serve"],
    "old": ["handshake", ["serve", {"noop": "version2"}]],
    "protocol 1": [["handshake", {"protocol": 1}], "serve"],
    "ends": ["handshake", "read", "echo", "read", ["output", {"text": "-"}], "close"],
    "mangles": ["handshake", "read", "echo", "read"]
    + [*TWO, ["status", {"bitflip": True}]],
    "both streams": ["handshake", *["read", *TWO, "status"] * 40],
}
NOOP = {"remctld": True, "serves": True, "old": False, "protocol 1": False}


def output(data: bytes, stream: int = 1) -> tuple[object, ...]:
    return ("output", data, stream, None, None)


def joined(reply: list[Any], stream: int) -> bytes | None:
    """What a result has of this stream."""
    return b"".join(token[1] for token in reply if token[2] == stream) or None


class Model(RuleBasedStateMachine):
    """An object, and what it should be like."""

    ports: dict[str, int]
    caches: dict[str, str]  # by user
    default_user: str

    def __init__(self) -> None:
        super().__init__()
        self.client = remctl.Remctl()
        self.server: str | None = None  # whom it is connected to
        self.next_user = self.user = self.default_user  # of the next open(), and now
        self.error = NO_ERROR
        # What is left of the reply: tokens, and the text of how it breaks off.
        self.reply: list[Any] = []
        self.commands = 0  # in all, and the tags that tell their replies apart
        self.number = 0  # on this connection
        self.iterator: Iterator[remctl.RemctlOutput] | None = None

    def teardown(self) -> None:
        self.client.close()

    @invariant()
    def agrees(self) -> None:
        assert self.client.opened == (self.server is not None)
        assert self.client.error() == self.error

    # What the model expects

    def raises(self, function: Callable[[], object], text: str) -> None:
        """A failure that leaves the connection as it is."""
        with pytest.raises(remctl.RemctlError) as caught:
            function()
        assert type(caught.value) is remctl.RemctlError
        assert text in str(caught.value)
        self.error = str(caught.value)

    def loses(self, function: Callable[[], object], text: str) -> None:
        """A failure that ends it."""
        self.raises(function, text)
        self.server, self.reply = None, []

    def is_not_open(self, function: Callable[[], object]) -> bool:
        if self.server is not None:
            return False
        with pytest.raises(remctl.RemctlNotOpenedError, match=NOT_OPENED):
            function()
        return True

    def is_unread(self, function: Callable[[], object]) -> bool:
        if not self.reply:
            return False
        self.raises(function, UNREAD)
        return True

    def next_command(self, kind: str) -> tuple[list[object], list[Any]]:
        """Return a command, and its reply."""
        self.commands += 1
        self.number += 1
        if self.server == "remctld" and kind == "unknown":
            return ["unknown", self.commands], [UNKNOWN]
        tag = str(self.commands).encode()
        if self.server == "remctld" and kind == "user":
            reply = output(f"{self.user} {self.commands}\n".encode())
            return ["test", "user", self.commands], [reply, STATUS]
        two = [output(b"one"), output(b"two", 2)]
        if self.server == "both streams":
            return ["test", "x"], [*two, STATUS]
        command = ["test", "args", self.commands]
        if self.number > 1 and self.server == "ends":
            return command, [output(b"-"), EOF]
        if self.number > 1 and self.server == "mangles":
            return command, [*two, MANGLED]
        end = b"\0" if self.server == "remctld" else b""
        return command, [output(tag + end), STATUS]

    # What the object does

    @rule(name=st.sampled_from([*["remctld"] * 4, *SCRIPTS]))
    def open(self, name: str) -> None:
        self.client.open("localhost", self.ports[name])
        self.server, self.reply, self.number, self.error = name, [], 0, NO_ERROR
        self.user = self.next_user

    @rule()
    def open_closed_port(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # so that nobody else gets the port
            address = closed.getsockname()
            self.loses(lambda: self.client.open(*address), "cannot connect to")

    @rule()
    def open_as_unknown_principal(self) -> None:
        port = self.ports["remctld"]
        self.loses(
            lambda: self.client.open("localhost", port, "nobody@KRBTEST.COM"),
            "nobody@KRBTEST.COM",
        )

    @rule(kind=KINDS)
    def command(self, kind: str) -> None:
        command: list[object] = ["test"]
        if self.server and not self.reply:
            command, reply = self.next_command(kind)
        if self.is_not_open(lambda: self.client.command(command)):
            return
        if self.is_unread(lambda: self.client.command(command)):
            return
        self.client.command(command)
        self.reply, self.error = reply, NO_ERROR

    @rule()
    def output(self) -> None:
        if self.is_not_open(self.client.output):
            return
        if not self.reply:
            assert self.client.output().type == "done"
        elif isinstance(self.reply[0], str):
            self.loses(self.client.output, self.reply[0])
            return
        else:
            assert tuple(self.client.output()) == self.reply.pop(0)
        self.error = NO_ERROR

    @rule()
    def iterate(self) -> None:
        """One step of an iterator, which is then abandoned, or goes on later."""
        if self.iterator is None:
            self.iterator = iter(self.client)
        iterator = self.iterator
        if self.is_not_open(lambda: next(iterator)):
            self.iterator = None
        elif not self.reply:
            assert next(iterator, None) is None
            self.iterator, self.error = None, NO_ERROR
        elif isinstance(self.reply[0], str):
            self.loses(lambda: next(iterator), self.reply[0])
            self.iterator = None
        else:
            assert tuple(next(iterator)) == self.reply.pop(0)
            self.error = NO_ERROR
            if not self.reply:  # it gives no more, whatever comes
                assert next(iterator, None) is None
                self.iterator = None

    @rule()
    def abandon_iterator(self) -> None:
        self.iterator = None

    @rule(kind=KINDS)
    def run(self, kind: str) -> None:
        command: list[object] = ["test"]
        if self.server and not self.reply:
            command, reply = self.next_command(kind)
        if self.is_not_open(lambda: self.client.run(command)):
            return
        if self.is_unread(lambda: self.client.run(command)):
            return
        if isinstance(reply[-1], str):
            self.loses(lambda: self.client.run(command), reply[-1])
        elif reply == [UNKNOWN]:
            with pytest.raises(remctl.RemctlProtocolError) as caught:
                self.client.run(command)
            assert caught.value.code is remctl.ErrorCode.UNKNOWN_COMMAND
            self.error = "Unknown command"
        else:
            result = self.client.run(command)
            outputs = joined(reply, 1), joined(reply, 2)
            assert result == remctl.RemctlSimpleResult(*outputs, 0)
            self.error = NO_ERROR

    @rule()
    def noop(self) -> None:
        if self.is_not_open(self.client.noop) or self.is_unread(self.client.noop):
            return
        if self.server in NOOP:  # the others have no answer to it
            assert self.client.noop() is NOOP[self.server]
            self.error = NO_ERROR

    @rule()
    def fileno(self) -> None:
        if self.server == "protocol 1":
            with pytest.raises(remctl.RemctlNotOpenedError):
                self.client.fileno()
        elif not self.is_not_open(self.client.fileno):
            assert self.client.fileno() >= 0

    @rule()
    def close(self) -> None:
        self.client.close()
        self.server, self.reply, self.error = None, [], NOT_OPENED

    @rule(timeout=st.sampled_from([0, 30, 20.5]))
    def set_timeout(self, timeout: float) -> None:
        self.client.set_timeout(timeout)
        self.error = NO_ERROR

    @rule()
    def set_timeout_negative(self) -> None:
        self.raises(lambda: self.client.set_timeout(-1), "invalid timeout -1")

    @rule(other=st.booleans())
    def set_ccache(self, *, other: bool) -> None:
        user, bob = self.caches
        self.next_user = bob if other else user
        self.client.set_ccache(self.caches[self.next_user])
        self.error = NO_ERROR

    @rule()
    def set_source_ip(self) -> None:
        self.client.set_source_ip("127.0.0.1")
        self.error = NO_ERROR

    @rule(
        call=st.sampled_from(
            [
                lambda client: client.open(7),
                lambda client: client.open("localhost", -1),
                lambda client: client.open("localhost", sock=7),
                lambda client: client.set_timeout("1"),
                lambda client: client.set_ccache(None),
                lambda client: client.set_source_ip("127.0.0.1\0"),
            ]
        )
    )
    def bad_argument(self, call: Callable[[remctl.Remctl], object]) -> None:
        with pytest.raises((TypeError, ValueError)):
            call(self.client)

    @precondition(lambda self: self.server is not None)
    @rule(command=st.sampled_from(["test", [], [None], 7, ["x", None]]))
    def bad_command(self, command: Any) -> None:
        for call in (self.client.command, self.client.run):
            with pytest.raises((TypeError, ValueError)):
                call(command)


def test_calls_in_any_order(
    server: Server, realm: Realm, scripted: Callable[..., Any], tmp_path: Path
) -> None:
    """Each call does what the model says, and no other."""
    Model.default_user = realm.user
    Model.caches = {
        user: realm.kinit(user, tmp_path / user)
        for user in (realm.user, realm.principal("bob"))
    }
    servers = {name: scripted(script) for name, script in SCRIPTS.items()}
    Model.ports = {name: each.port for name, each in servers.items()}
    Model.ports["remctld"] = server.port
    run_state_machine_as_test(
        Model, settings=settings(max_examples=200, stateful_step_count=40)
    )
