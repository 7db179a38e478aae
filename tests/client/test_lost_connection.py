# SPDX-License-Identifier: MIT
"""What a lost connection leaves behind, and servers that are odd, old or busy.

S43, S42 and hazards 30 to 39.  What else can be wrong on the wire: hostile.py.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import socket
import struct
import subprocess
import termios
import threading
from typing import TYPE_CHECKING, Any, Callable

import pytest
from kerberos import applied
from scripted import ScriptedServers
from support import commands, wait_until

import remctl
from remctl._connection import Connection
from remctl.testing import Realm
from remctl.testing._k5 import K5Realm

if TYPE_CHECKING:
    from scripted import ScriptedServer

    from remctl.testing import Server

    Scripted = Callable[..., ScriptedServer]

pytestmark = pytest.mark.both_twins

HOST = "localhost"
EOF = "unexpected end of file"
SURPLUS = "unexpected token from server"


def lost(client: remctl.Remctl, good: Server, call: Callable[[], object]) -> str:
    """Check that ``call`` loses the connection, and S43; close, and return the text."""
    with pytest.raises(remctl.RemctlError) as caught:
        call()
    assert type(caught.value) is remctl.RemctlError
    assert not client.opened
    for unusable in (lambda: client.command(["x"]), client.output, client.noop):
        with pytest.raises(remctl.RemctlNotOpenedError, match="no currently open"):
            unusable()
    cause = client.error()
    assert cause == str(caught.value) == caught.value.value
    client.open(good.host, good.port)
    assert client.error() == "no error"
    assert client.run(["test", "hello"]).stdout == b"hello world\n"
    client.close()
    return cause


def logged(server: ScriptedServer, name: str) -> list[dict[str, Any]]:
    """Return the events of that name; end the server, to have them all."""
    server.close()
    return [event for event in server.events if event["event"] == name]


def gone(server: ScriptedServer) -> None:
    """Wait until the server sees that the connection has ended."""
    wait_until(
        lambda: any(event["event"] in ("eof", "reset") for event in server.events)
    )


def ioctl(fd: int, request: int) -> int:
    """Return how many bytes are queued: TIOCOUTQ to send, FIONREAD to read."""
    (number,) = struct.unpack("i", fcntl.ioctl(fd, request, bytes(4)))
    return int(number)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "call", [lambda client: client.command(["x"]), lambda client: client.noop()]
)
def test_the_end_between_two_commands(
    scripted: Scripted, server: Server, how: str, call: Callable[[remctl.Remctl], None]
) -> None:
    """S43: an idle connection that the server has ended is not used any more."""
    broken = scripted(["handshake", "read", "echo", how])
    client = remctl.Remctl(HOST, broken.port)
    assert client.run(["x", "y", "whole"]).stdout == b"whole"
    select.select([client], [], [])
    assert EOF in lost(client, server, lambda: call(client))
    assert len(logged(broken, "accepted")) == 1


def test_a_token_that_demands_a_mic_gets_none(
    scripted: Scripted, server: Server
) -> None:
    """Protocol 1's flags after a protocol 2 handshake make us write nothing."""
    demand = ["output", {"text": "x", "flags": 0x24}]
    broken = scripted(["handshake", "read", demand, "wait_eof"])
    client = remctl.Remctl(HOST, broken.port)
    client.command(["x"])
    assert SURPLUS in lost(client, server, client.output)
    assert broken.wait_for("eof") == {
        "event": "eof",
        "connection": 0,
        "step": "wait_eof",
    }


@pytest.mark.parametrize(
    "steps", [[["output", {"text": "x"}]], [["error", {"code": 1, "cut": 20}]]]
)
def test_run_makes_no_result_without_a_status(
    scripted: Scripted, server: Server, steps: list[Any]
) -> None:
    """Hazard 35: run() and remctl() raise, and S17: remctl() a RemctlProtocolError."""
    broken = scripted(["handshake", "read", *steps])
    client = remctl.Remctl(HOST, broken.port)
    assert EOF in lost(client, server, lambda: client.run(["x"]))
    with pytest.raises(remctl.RemctlProtocolError, match=EOF) as caught:
        remctl.remctl(HOST, broken.port, command=["x"])
    assert caught.value.code is None


# The answers to noop()


@pytest.mark.parametrize("answer", ["version2", "error"])
def test_a_server_that_refuses_noop(scripted: Scripted, answer: str) -> None:
    """S42: noop() is False, no failure, and the connection as usable as before."""
    old = scripted(["handshake", ["serve", {"noop": answer}]])
    with remctl.Remctl(HOST, old.port) as client:
        for text in (b"a", b"b"):
            assert client.noop() is False
            assert client.opened
            assert client.error() == "no error"
            assert client.run(["x", "y", text]).stdout == text
    assert len(logged(old, "accepted")) == 1


def test_a_server_that_answers_noop(client: remctl.Remctl) -> None:
    """S42: noop() is True on a real remctld, between commands too."""
    assert client.noop() is True
    assert client.run(["test", "hello"]).stdout == b"hello world\n"
    assert client.noop() is True
    assert client.error() == "no error"


def test_commands_wait_for_the_end_of_the_reply(client: remctl.Remctl) -> None:
    """S31, hazards 30 and 39: an unread reply is not lost, nor mixed up."""
    client.command(["test", "lines", "3"])
    for early in (lambda: client.command(["test", "hello"]), client.noop):
        with pytest.raises(remctl.RemctlError, match="not read to its end") as caught:
            early()
        assert client.error() == str(caught.value)
        assert client.opened
    lines = b"".join(token.output or b"" for token in client)
    assert lines == b"line 1\nline 2\nline 3\n"
    assert client.run(["test", "hello"]).stdout == b"hello world\n"


# Errors of the server


@pytest.mark.parametrize("run", [False, True])
def test_an_error_for_a_command_of_several_tokens(
    scripted: Scripted, server: Server, *, run: bool
) -> None:
    """S65, hazard 37: it is delivered; as there may be more, the connection is lost."""
    error = ["error", {"code": 8, "text": "Too much data"}]
    strict = scripted(["handshake", "read", error, "barrier", error, "hang"])
    client = remctl.Remctl(HOST, strict.port)
    command = ["x", b"y" * 70_000]
    if run:
        with pytest.raises(remctl.RemctlProtocolError, match="Too much data") as caught:
            client.run(command)
        assert caught.value.code is remctl.ErrorCode.TOOMUCH_DATA
    else:
        client.command(command)
        assert client.opened
        assert client.output() == ("error", b"Too much data", None, None, 8)
    assert not client.opened
    assert client.output().type == client.output().type == "done"
    strict.proceed()
    for unusable in (lambda: client.command(["x"]), client.noop, client.fileno):
        with pytest.raises(remctl.RemctlNotOpenedError, match="no currently open"):
            unusable()
    gone(strict)
    assert [event["tokens"] for event in logged(strict, "command")] == [2]
    client.open(server.host, server.port)
    assert client.run(["test", "hello"]).stdout == b"hello world\n"
    client.close()


@pytest.mark.parametrize(("size", "tokens"), [(65_515, 1), (65_516, 2)])
def test_an_error_at_the_limit_of_one_token(
    scripted: Scripted, size: int, tokens: int
) -> None:
    """Hazard 37: one token has one error, and the connection stays usable then."""
    error = ["error", {"code": 5, "text": "no"}]
    strict = scripted(["handshake", "read", "echo", "read", error, "serve"])
    command = ["x", "", b"x" * size]
    with remctl.Remctl(HOST, strict.port) as client:
        assert client.run(command).stdout == command[2]
        client.command(command)
        assert tuple(client.output()) == ("error", b"no", None, None, 5)
        assert client.opened == (tokens == 1)
    assert [event["tokens"] for event in logged(strict, "command")] == [tokens] * 2


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, b"zero"),
        (5, b"Unknown command"),
        (11, b""),
        (2**31, b"sign bit"),
        (2**32 - 1, b"all bits"),
        (6, b"before\0after"),
        (6, "caf\u00e9".encode("latin-1")),
        (6, "caf\u00e9".encode()),
        (6, b"x" * 1_000_000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_errors_of_any_code_and_text(
    scripted: Scripted, code: int, text: bytes
) -> None:
    """S36, S41, S18: code and text arrive as sent; the connection stays usable."""
    error = ["error", {"code": code, "hex": text.hex(), "size": len(text)}]
    noop = ["read", "noop"]
    odd = scripted(["handshake", "read", error, *noop, "read", error, "serve"])
    with remctl.Remctl(HOST, odd.port) as client:
        client.command(["x"])
        token = client.output()
        assert tuple(token) == ("error", text, None, None, code)
        assert isinstance(token.error, remctl.ErrorCode) == (1 <= code <= 10)
        assert client.output().type == "done"
        assert client.opened
        with pytest.raises(remctl.RemctlProtocolError) as caught:
            client.run(["x"])
        assert caught.value.code == code
        assert str(caught.value) == text.decode("utf-8", "backslashreplace")
        assert client.error() == caught.value.value == str(caught.value)
        assert client.run(["x", "y", "z"]).stdout == b"z"


@pytest.mark.parametrize("stream", [1, 2])
def test_two_empty_outputs(scripted: Scripted, stream: int) -> None:
    """Hazard 1, S15, S34: they crash libremctl's own remctl(); here they are tokens."""
    empty = ["output", {"stream": stream, "repeat": 2}]
    odd = scripted(["handshake", "read", empty, "status"])
    with remctl.Remctl(HOST, odd.port) as client:
        client.command(["x"])
        assert [tuple(token) for token in client] == [
            ("output", b"", stream, None, None),
            ("output", b"", stream, None, None),
            ("status", None, None, 0, None),
        ]
    result = remctl.remctl(HOST, odd.port, command=["x"])
    assert result == remctl.RemctlSimpleResult(None, None, 0)


def test_replies_that_are_not_encrypted(scripted: Scripted) -> None:
    """S65, hazard 28: libremctl accepts what is only signed, and does not tell."""
    output = ["message", {"hex": "0203010000000178", "encrypt": False}]
    odd = scripted(["handshake", "read", ["output", {"text": "a"}], output, "hang"])
    with remctl.Remctl(HOST, odd.port) as client:
        client.command(["x"])
        assert client.output().output == b"a"
        with pytest.raises(remctl.RemctlError, match="token that is not encrypted"):
            client.output()
        assert not client.opened


@pytest.mark.parametrize("memory", [4096, None])
def test_large_tokens_that_are_not_encrypted(
    scripted: Scripted, memory: int | None
) -> None:
    """Hazard 28: also where not all of a token fits the receive memory."""
    good = ["output", {"size": 60_000}]
    bad = ["message", {"size": 60_000, "encrypt": False}]
    odd = scripted(["handshake", "read", good, bad, "hang"])
    sock = socket.socket()
    if memory is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, memory)
    sock.connect((HOST, odd.port))
    with remctl.Remctl() as client:
        client.open(HOST, sock=sock)
        client.command(["x"])
        assert client.output().output == b"x" * 60_000
        with pytest.raises(remctl.RemctlError, match="token that is not encrypted"):
            client.output()
        assert not client.opened


@pytest.mark.parametrize("encrypt", [True, False])
@pytest.mark.parametrize("enctype", ["des3-cbc-sha1", "arcfour-hmac"])
def test_replies_with_an_old_encryption_type(
    monkeypatch: pytest.MonkeyPatch, enctype: str, encrypt: bool
) -> None:
    """Hazard 28: those tokens say in another place whether they are encrypted."""
    configure = K5Realm._create_conf

    def allow(self: K5Realm, profile: dict[str, Any], filename: str) -> None:
        libdefaults = profile.setdefault("libdefaults", {})
        libdefaults.update(dict.fromkeys(["allow_des3", "allow_rc4"], "true"))
        libdefaults["default_tgs_enctypes"] = enctype
        # Heimdal's names; it skips the one that it does not know.
        libdefaults["default_tgs_etypes"] = f"{enctype} {enctype}-md5"
        libdefaults["default_tkt_enctypes"] = f"{enctype} aes256-cts"
        configure(self, profile, filename)

    monkeypatch.setattr(K5Realm, "_create_conf", allow)
    with Realm("OLD.TEST") as old, applied(old):
        for name in (f"krbtgt/{old.name}", "host/localhost"):
            attribute = ["session_enctypes", f"aes256-cts {enctype}"]
            subprocess.run(["kadmin.local", "set_string", name, *attribute], check=True)
        old.kinit("user")
        status = ["message", {"hex": "020407", "encrypt": encrypt}]
        steps = ["handshake", "read", status, "serve"]
        with ScriptedServers(old.env) as servers, servers.start([steps]) as odd:
            client = remctl.Remctl(HOST, odd.port)
            if encrypt:
                assert client.run(["x"]).status == 7
            else:
                with pytest.raises(remctl.RemctlError, match="is not encrypted"):
                    client.run(["x"])
            client.close()
        tickets = subprocess.check_output(["klist", "-e"], text=True)
        assert tickets.count(f"skey, tkt): DEPRECATED:{enctype}") == 2


def test_a_number_that_libremctl_has_closed(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 12: it is a stranger's by then, and stays open for them."""
    broken = scripted(["handshake", "read", "close"])
    strangers: list[int] = []
    explain = Connection._failure

    def failure(self: Connection, outcome: int) -> Exception:
        """Have files opened before the connection is closed."""
        strangers.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(10))
        return explain(self, outcome)

    monkeypatch.setattr(Connection, "_failure", failure)
    with remctl.Remctl(HOST, broken.port) as client:
        client.command(["x"])
        with pytest.raises(remctl.RemctlError, match=EOF):
            client.output()
        assert not client.opened
    assert len(strangers) == 10
    for fd in strangers:
        os.close(fd)


@pytest.mark.parametrize("end", ["close", "finalizer"])
def test_the_end_does_not_wait_for_room_to_write(scripted: Scripted, end: str) -> None:
    """Hazard 46, S44: where QUIT does not fit the send buffer, it is not sent."""
    full = scripted(["handshake", "stop_reading"])
    with socket.create_connection(("127.0.0.1", full.port)) as sock, sock.dup() as same:
        client = remctl.Remctl()
        client.open(HOST, sock=sock)
        with pytest.raises(BlockingIOError):
            while True:
                same.send(bytes(100_000), socket.MSG_DONTWAIT)
        if end == "close":
            client.close()
        del client
        gc.collect()
        assert same.recv(1) == b""  # shut down


# Commands that do not get through


def test_a_reset_in_the_middle_of_a_large_command(
    scripted: Scripted, server: Server
) -> None:
    """Hazard 36: after half a command no other goes the same way."""
    broken = scripted(["handshake", "barrier", "reset"])
    client = remctl.Remctl(HOST, broken.port)
    fd = client.fileno()

    def reset_when_stuck() -> None:
        wait_until(lambda: ioctl(fd, termios.TIOCOUTQ) > 0)
        broken.proceed()

    thread = threading.Thread(target=reset_when_stuck)
    thread.start()
    text = lost(client, server, lambda: client.command(["x", b"y" * 50_000_000]))
    thread.join()
    assert text.startswith("error sending token: ")


def test_a_command_that_no_server_takes_is_not_sent(scripted: Scripted) -> None:
    """Hazard 37, S17: above 100 MiB there is a ValueError, and nothing has changed."""
    behaved = scripted(["handshake", "serve"])
    with remctl.Remctl(HOST, behaved.port) as client:
        with pytest.raises(ValueError, match="command too large"):
            client.command([b"x" * (100 * 1024 * 1024)])
        assert client.error() == "no error"
        assert client.run(["x", "y", "z"]).stdout == b"z"
    assert len(logged(behaved, "command")) == 1


def test_a_server_that_is_restarted(realm: Realm, server: Server) -> None:
    """S43: no call connects again by itself, an explicit open() does."""
    with realm.server(commands(realm)) as own:
        client = remctl.Remctl(own.host, own.port)
        client.command(["test", "sleep", "60"])
        own.kill()
        own.start()
        assert EOF in lost(client, server, client.output)
        client.open(own.host, own.port)
        assert client.run(["test", "hello"]).stdout == b"hello world\n"
        own.kill()
        with pytest.raises(remctl.RemctlError, match="cannot connect to") as caught:
            client.open(own.host, own.port)
        assert not client.opened
        assert client.error() == str(caught.value)


# More than the receive memory holds

TOTAL = 3_000_000


@pytest.mark.parametrize("memory", [4096, 65536, None])
@pytest.mark.parametrize("tokens", ["remctld's", "64 KiB", "1 MiB"])
def test_more_output_than_the_receive_memory_holds(
    scripted: Scripted, server: Server, tokens: str, memory: int | None
) -> None:
    """A slow reader gets all of it, where the kernel has no room for whole tokens."""
    line = b"0123456789abcde\n"
    size = {"64 KiB": 65_529, "1 MiB": 1_048_500}.get(tokens)
    port = server.port
    if size is not None:
        content = {"text": line.decode(), "size": size, "repeat": TOTAL // size}
        port = scripted(["handshake", "read", ["output", content], "status"]).port
    sock = socket.socket()
    if memory is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, memory)
    sock.connect(("127.0.0.1", port))
    with remctl.Remctl() as client:
        client.open(HOST, sock=sock)
        client.command(["test", "bytes", str(TOTAL)])
        queued = -1
        while queued != (queued := ioctl(client.fileno(), termios.FIONREAD)):
            select.select([], [], [], 0.05)  # until no more comes
        *outputs, status = client
    assert tuple(status) == ("status", None, None, 0, None)
    pieces = [token.output for token in outputs]
    if size is None:
        assert b"".join(filter(None, pieces)) == line * (TOTAL // len(line))
    else:
        assert pieces == [(line * size)[:size]] * (TOTAL // size)
