# SPDX-License-Identifier: MIT
"""Servers with no room for another connection: remctld's queue has five places.

The kernel resets a connection that found none, before the server saw anything of it.
open() tries again then, a bounded number of times: no command has been sent yet.
A shim without Linux cannot tell such a reset: it ends open() at once.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any, Callable

import pytest
from stages import PRINCIPAL, open_on
from support import HANG, LINUX_SHIM

import remctl
from remctl._connection import PAUSES

if TYPE_CHECKING:
    from scripted import ScriptedServer

    from remctl.testing import Server

    Scripted = Callable[..., ScriptedServer]

pytestmark = pytest.mark.both_twins

HOST = "127.0.0.1"
RESET = ["handshake", {"stop": ["reset", 0]}]
SERVE = ["handshake", ["serve"]]
USED_UP = "resets connections before it answers: its queue of new connections may be"


def accepted(server: ScriptedServer) -> int:
    """Return how many connections the server has seen; end it."""
    server.close()
    return sum(event["event"] == "accepted" for event in server.events)


def fails_at_once(server: ScriptedServer) -> None:
    """What happens instead without Linux: one attempt, and libremctl's error."""
    text = r"error (receiv|send)ing|cannot connect"
    with pytest.raises(remctl.RemctlError, match=text) as caught:
        remctl.Remctl(HOST, server.port, PRINCIPAL)
    assert type(caught.value) is remctl.RemctlError
    assert accepted(server) == 1


def test_a_hundred_clients_at_once(server: Server) -> None:
    """Each gets its own reply, and none an error."""
    replies: dict[int, object] = {}
    start = threading.Barrier(100)

    def call(number: int) -> None:
        start.wait()
        command = ["test", "args", number]
        try:
            replies[number] = remctl.remctl(server.host, server.port, None, command)
        except remctl.RemctlError as error:
            replies[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(100):
        expected = remctl.RemctlSimpleResult(f"{number}\0".encode(), None, 0)
        refused = isinstance(replies[number], remctl.RemctlError)
        assert replies[number] == expected or (refused and not LINUX_SHIM)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_open_tries_again(scripted: Scripted, after: int) -> None:
    """S64: wherever in the handshake it is reset, if the server has said nothing."""
    reset = [["handshake", {"stop": ["reset", after]}]]
    server = scripted(reset, reset, SERVE)
    if not LINUX_SHIM:
        fails_at_once(server)
        return
    with remctl.Remctl(HOST, server.port, PRINCIPAL) as client:
        assert client.run(["test", "echo", "x"]).stdout == b"x"
        assert client.error() == "no error"
    assert accepted(server) == 3


def test_open_gives_up(scripted: Scripted) -> None:
    """S64: after a number of times, in a few seconds, with an error that says so."""
    server = scripted([RESET])
    if not LINUX_SHIM:
        fails_at_once(server)
        return
    client = remctl.Remctl()
    with pytest.raises(remctl.RemctlError, match=USED_UP) as caught:
        open_on(server.port, client)
    assert type(caught.value) is remctl.RemctlError
    assert not client.opened
    assert client.error() == str(caught.value)
    assert accepted(server) == len(PAUSES) + 1


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([["handshake", {"stop": ["close", 2]}]], id="closed"),
        pytest.param([["handshake", {"cut": 20}], "reset"], id="reset after an octet"),
        pytest.param([["handshake", {"mangle": "garbage"}]], id="garbage"),
    ],
)
def test_a_server_that_answers_is_asked_once(
    scripted: Scripted, steps: list[Any]
) -> None:
    """S64: what a server that saw the client does to it is final."""
    server = scripted(steps)
    with pytest.raises(remctl.RemctlError, match=r"error receiving|GSS-API error"):
        remctl.Remctl(HOST, server.port, PRINCIPAL)
    assert accepted(server) == 1


def test_a_socket_of_the_callers_is_used_once(scripted: Scripted) -> None:
    """S64: open(sock=...) cannot connect again."""
    server = scripted([["handshake", {"stop": ["reset", 1]}]])
    sock = socket.create_connection((HOST, server.port))
    with pytest.raises(remctl.RemctlError, match=r"error (receiv|send)ing"):
        remctl.Remctl().open(HOST, principal=PRINCIPAL, sock=sock)
    assert accepted(server) == 1


def test_the_time_out_holds_for_all_tries_together(scripted: Scripted) -> None:
    """S64: it ends them early."""
    server = scripted([RESET])
    if not LINUX_SHIM:
        fails_at_once(server)
        return
    with pytest.raises(remctl.RemctlTimeoutError, match="timed out"):
        remctl.Remctl(HOST, server.port, PRINCIPAL, timeout=0.3)
    assert accepted(server) <= len(PAUSES)


def test_close_ends_the_tries(scripted: Scripted) -> None:
    """In another thread: open() raises at once, and tries no more."""
    server = scripted([RESET])
    if not LINUX_SHIM:
        fails_at_once(server)
        return
    client = remctl.Remctl()
    errors: list[Exception] = []

    def call() -> None:
        try:
            open_on(server.port, client)
        except remctl.RemctlError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    server.wait_for("accepted", 3)
    client.close()
    thread.join(HANG)
    assert not thread.is_alive()
    assert [str(error) for error in errors] == [
        "the connection was closed during the call"
    ]
    assert accepted(server) <= 5
