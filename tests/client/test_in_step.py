# SPDX-License-Identifier: MIT
"""A reply belongs to the command that was sent, whatever the server said before it.

A stock remctld answers some commands with an error and, a moment later, something else.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Callable

import pytest
from relay import Relay

import remctl
from remctl.testing import Command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remctl.testing import Realm, Server

pytestmark = pytest.mark.both_twins

# An unknown command, too, after one error: for too many words.
TWICE = ["help", "a", "b", "c"]
# Its output and its status come after that error.
HELPED = ["help", "echo", "word", "c"]

ERROR = ["error", {"code": 5, "text": "Unknown command"}]


@pytest.fixture(scope="module")
def helpful(realm: Realm) -> Iterator[Server]:
    """A real remctld with a command that has help."""
    commands = {
        "echo word": Command('printf "<%s>" "$2"', help="help"),
        "echo error": Command("exit 3", acl=["deny:ANYUSER"]),
    }
    with realm.server(commands) as server:
        yield server


@pytest.fixture
def slow(helpful: Server) -> Iterator[Relay]:
    """A relay that lets 20 ms pass before each token of that server."""
    with Relay(helpful.port, lambda: 0.02) as relay:
        yield relay


@pytest.mark.parametrize("command", [TWICE, HELPED], ids=["error", "output"])
@pytest.mark.parametrize("wait", [0.0, 0.1], ids=["later", "at once"])
def test_a_command_that_is_answered_twice(
    slow: Relay, command: list[str], wait: float
) -> None:
    """S31, S43: the next command is not sent, and the connection is closed."""
    with remctl.Remctl("localhost", slow.port) as client:
        with pytest.raises(remctl.RemctlProtocolError, match="Too many") as caught:
            client.run(command)
        assert caught.value.code == remctl.ErrorCode.TOOMANY_ARGS
        time.sleep(wait)
        with pytest.raises(remctl.RemctlError, match="was not sent") as refused:
            client.run(["echo", "word", "first"])
        assert not isinstance(refused.value, remctl.RemctlProtocolError)
        assert client.error() == str(refused.value)
        assert not client.opened
        with pytest.raises(remctl.RemctlNotOpenedError):
            client.run(["echo", "word", "second"])
        client.open("localhost", slow.port)
        assert client.run(["echo", "word", "third"]).stdout == b"<third>"


def test_noop_after_it(slow: Relay) -> None:
    """S42: False is for servers that cannot do it, and this one can."""
    with remctl.Remctl("localhost", slow.port) as client:
        with pytest.raises(remctl.RemctlProtocolError):
            client.run(TWICE)
        with pytest.raises(remctl.RemctlError, match="answered the last command again"):
            client.noop()
        assert not client.opened


@pytest.mark.parametrize(
    "command", [["unknown"], ["echo", "error"]], ids=["unknown", "denied"]
)
def test_a_command_that_is_answered_once(slow: Relay, command: list[str]) -> None:
    """S39, S40: most errors are, and the connection stays as it is."""
    with remctl.Remctl("localhost", slow.port) as client:
        for word in ("first", "second"):
            with pytest.raises(remctl.RemctlProtocolError):
                client.run(command)
            assert client.run(["echo", "word", word]).stdout == f"<{word}>".encode()
        with pytest.raises(remctl.RemctlProtocolError):
            client.run(command)
        assert client.noop() is True
        client.command(["echo", "word", "last"])
        assert [token.type for token in client] == ["output", "status"]


def play(scripted: Callable[..., Any], *steps: Any, **options: Any) -> Any:
    """Have a server answer a command with an error, and go on with ``steps``."""
    server = scripted([*options.pop("first", ["handshake"]), "read", ERROR, *steps])
    client = remctl.Remctl("localhost", server.port, **options)
    with pytest.raises(remctl.RemctlProtocolError, match="Unknown command"):
        client.run(["test", "x"])
    return server, client


def count(server: Any, event: str) -> int:
    """Count events of a server that has ended, or has told of the connection's end."""
    return sum(each["event"] == event for each in server.events)


def count_asked(server: Any, client: remctl.Remctl) -> int:
    """Close the connection, and count the times that NOOP was asked on it."""
    client.close()
    server.wait_for("quit")
    return count(server, "noop")


def test_the_proof_is_asked_for_once_and_only_where_it_is_needed(
    scripted: Callable[..., Any],
) -> None:
    """S65: before the next command; who stops there pays nothing."""
    server, client = play(scripted, "wait_eof")
    assert count_asked(server, client) == 0
    server, client = play(scripted, "serve")
    for word in (b"first", b"second"):
        assert client.run(["test", "echo", word]).stdout == word
    assert count_asked(server, client) == 1
    server, client = play(scripted, "serve")
    assert client.noop() is True
    assert client.run(["test", "echo", "x"]).stdout == b"x"
    assert count_asked(server, client) == 1


@pytest.mark.parametrize("noop", ["version2", "error"])
def test_servers_without_noop(scripted: Callable[..., Any], noop: str) -> None:
    """S65: their refusal is an answer, too, and in its place."""
    server, client = play(scripted, ["serve", {"noop": noop}])
    assert client.run(["test", "echo", "x"]).stdout == b"x"
    assert client.noop() is False
    assert client.run(["test", "echo", "y"]).stdout == b"y"
    assert client.opened
    # The refusal is known after the first proof: noop() asks once.
    assert count_asked(server, client) == (1 if noop == "version2" else 16) + 1


@pytest.mark.parametrize("call", ["run", "noop"])
@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ([ERROR, "noop", "read", "noop"], "answered the last command again"),
        (
            [ERROR, ["version", {"version": 2}], "read"],
            "answered the last command again",
        ),
        (
            [ERROR, "read", ERROR, "read", ERROR, "read", "noop"],
            "answered the last command again",
        ),
        # As a stock remctld does that cannot start the programs of its summaries.
        ([ERROR, "read", ERROR, "read", "status"], "unexpected message type 4"),
        (["output", "status", "noop"], "unexpected message type 3"),
        (["status", "noop"], "unexpected message type 4"),
        ([["message", {"hex": "0263"}]], "unexpected message type 99"),
        (["close"], "unexpected end of file"),
        (["reset"], "unexpected end of file"),
    ],
    ids=[
        "error",
        "error, version",
        "errors",
        "errors, status",
        "output",
        "status",
        "type 99",
        "close",
        "reset",
    ],
)
def test_what_comes_in_place_of_the_proof(
    scripted: Callable[..., Any], answers: list[Any], text: str, call: str
) -> None:
    """S43, S65: the connection is closed, and nothing was sent."""
    server, client = play(scripted, "read", *answers, "hang")
    with pytest.raises(remctl.RemctlError, match=text) as caught:
        client.run(["test", "x"]) if call == "run" else client.noop()
    assert ("was not sent" in str(caught.value)) == (call == "run")
    assert client.error() == str(caught.value)
    assert not client.opened
    client.close()
    server.close()
    assert count(server, "command") == 1


@pytest.mark.parametrize("refusal", [ERROR, ["version", {"version": 2}]])
def test_a_server_that_has_done_noop_does_not_refuse_it(
    scripted: Callable[..., Any], refusal: list[Any]
) -> None:
    """S65: what comes in place of the answer is one more answer to the command."""
    server = scripted(
        ["handshake", "read", "noop", "read", ERROR, "read", refusal, "hang"]
    )
    with remctl.Remctl("localhost", server.port) as client:
        assert client.noop() is True
        with pytest.raises(remctl.RemctlProtocolError):
            client.run(["test", "x"])
        with pytest.raises(remctl.RemctlError, match="was not sent"):
            client.run(["test", "x"])
        assert not client.opened


def test_the_proof_times_out(scripted: Callable[..., Any]) -> None:
    """S24, S28."""
    server, client = play(scripted, "hang")
    client.set_timeout(0.3)
    with pytest.raises(
        remctl.RemctlTimeoutError, match="error receiving token: timed out"
    ):
        client.run(["test", "x"])
    assert not client.opened
    server.close()
    assert count(server, "command") == 1


def test_no_command_ever_gets_the_reply_of_another(helpful: Server) -> None:
    """S31: errors and commands in any order, any time between the server's tokens."""
    chance = random.Random(20261128)
    refused = answered = 0
    errors = [TWICE, HELPED, ["unknown"], ["echo", "error"]]
    with Relay(helpful.port, lambda: chance.choice([0, 0, 0.001, 0.003])) as relay:
        client = remctl.Remctl("localhost", relay.port)
        for turn in range(400):
            try:
                if chance.random() < 0.4:
                    with pytest.raises(remctl.RemctlProtocolError) as caught:
                        client.run(chance.choice(errors))
                    assert caught.value.code in (5, 6, 7)
                else:
                    result = client.run(["echo", "word", turn])
                    assert (result.stdout, result.status) == (b"<%d>" % turn, 0)
                    answered += 1
            except remctl.RemctlError as error:
                assert "was not sent" in str(error)
                assert not client.opened
                client.open("localhost", relay.port)
                refused += 1
        client.close()
    assert answered > 100
    assert refused > 20
