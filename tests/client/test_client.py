# SPDX-License-Identifier: MIT
"""S3, S20-S48: remctl.Remctl, a connection for many commands, on good servers."""

from __future__ import annotations

import gc
import os
import random
import select
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest
from silent import full
from stages import PRINCIPAL
from support import HANG, commands, descriptors, run_python, wait_until
from tunnel import tunnel

import remctl
from remctl import _arguments
from remctl._connection import Connection
from remctl._waiting import block

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripted import ScriptedServer

    from remctl.testing import Realm, Server

pytestmark = pytest.mark.both_twins

NOT_OPENED = "no currently open connection"
UNREAD = "the reply to the last command is not read to its end"
HELLO = remctl.RemctlSimpleResult(b"hello world\n", None, 0)
DONE = ("done", None, None, None, None)


@pytest.fixture
def bob(realm: Realm, tmp_path: Path) -> str:
    """The name of a cache with the other user's tickets."""
    return realm.kinit("bob", tmp_path / "bob")


def user(client: remctl.Remctl) -> str:
    """Return who the server takes ``client`` for, without the realm."""
    stdout = client.run(["test", "user"]).stdout
    assert stdout is not None
    return stdout.decode().partition("@")[0]


def peer(client: remctl.Remctl) -> str:
    """Return the address that the server sees ``client`` come from."""
    stdout = client.run(["test", "env", "REMOTE_ADDR"]).stdout
    assert stdout is not None
    return stdout.decode().strip()


def loopback_address() -> str:
    """Return an address of this host that nobody else uses at the moment."""
    return "127." + ".".join(str(random.randint(1, 254)) for _ in range(3))


@contextmanager
def forwarded(server: Any, address: tuple[str, int]) -> Iterator[list[object]]:
    """Pass connections to ``address`` on to ``server``, and collect them."""
    accepted: list[object] = []
    with socket.create_server(address) as listener, ExitStack() as tunnels:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    sock, peer_address = listener.accept()
                    accepted.append(peer_address)
                    target = socket.create_connection(("127.0.0.1", server.port))
                    tunnels.enter_context(tunnel(sock, target))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield accepted
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


# Opening and its arguments


def test_constructor_with_a_host_opens(server: Server) -> None:
    """S20: by position or by name."""
    with remctl.Remctl(server.host, server.port, server.principal) as client:
        assert client.opened
        assert client.run(["test", "hello"]) == HELLO
    with remctl.Remctl(
        principal=server.principal, port=server.port, host="127.0.0.1"
    ) as client:
        assert client.run(["test", "hello"]) == HELLO


def test_constructor_settings(server: Server, bob: str, tmp_path: Path) -> None:
    """S20: timeout, ccache and source_ip stand for the setters."""
    over = tmp_path / "over"
    with remctl.Remctl(
        server.host, server.port, timeout=2.0, ccache=bob, source_ip="127.0.0.9"
    ) as client:
        assert (user(client), peer(client)) == ("bob", "127.0.0.9")
        with pytest.raises(remctl.RemctlTimeoutError):
            client.run(["test", "wait-for", over])
    over.touch()


def test_empty_host_is_a_host() -> None:
    """S20: only None means that there is no host."""
    with pytest.raises(ValueError, match=r"^host must not be empty$"):
        remctl.Remctl("")


def test_constructor_without_a_host_does_nothing() -> None:
    """S21: no I/O, no descriptor, "no error"."""
    before = descriptors()
    client = remctl.Remctl()
    assert client.error() == "no error"
    assert not client.opened
    assert descriptors() == before


def test_constructor_called_twice(server: Server, client: remctl.Remctl) -> None:
    """The first connection is closed, and everything is as in a new object."""
    before = descriptors()
    client.command(["test", "hello"])
    client.set_source_ip("::1")
    client.__init__(server.host, server.port)  # type: ignore[misc]  # that is the test
    assert descriptors() == before
    assert client.run(["test", "hello"]) == HELLO
    client.__init__()  # type: ignore[misc]  # that is the test
    assert (client.opened, client.error()) == (False, "no error")


def test_open_returns_none(server: Server) -> None:
    """S26."""
    client = remctl.Remctl()
    assert client.open(server.host, server.port) is None  # type: ignore[func-returns-value]
    assert (client.opened, client.error()) == (True, "no error")
    client.close()


@pytest.mark.parametrize("port", [None, 0])
@pytest.mark.parametrize(
    ("served", "used"), [([4373], 4373), ([4444], 4444), ([4373, 4444], 4373)]
)
def test_default_ports(
    server: Server, port: int | None, served: list[int], used: int
) -> None:
    """S3: 4373, and 4444 if that fails, in both interfaces."""
    host = loopback_address()
    with ExitStack() as stack:
        accepted = {
            number: stack.enter_context(forwarded(server, (host, number)))
            for number in served
        }
        with remctl.Remctl(host, port, server.principal) as client:
            assert client.run(["test", "hello"]) == HELLO
            assert f" {host}:{used}, open>" in repr(client)
        assert remctl.remctl(host, port, server.principal, ["test", "hello"]) == HELLO
        assert {number: len(peers) for number, peers in accepted.items()} == {
            number: 2 if number == used else 0 for number in served
        }


def test_default_port_is_named_in_the_handshake(
    scripted: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """S69, S70: the one that has answered, before open() has ended."""
    caplog.set_level("DEBUG", "remctl")
    host = loopback_address()
    mute = scripted([["handshake", {"stop": ["hang", 0]}]])
    client = remctl.Remctl()

    def call() -> None:
        with pytest.raises(remctl.RemctlError, match="closed during the call"):
            client.open(host, None, PRINCIPAL)

    with forwarded(mute, (host, 4444)):
        thread = threading.Thread(target=call)
        thread.start()
        wait_until(lambda: f" {host}:4444, opening>" in repr(client))
        client.close()
        thread.join()
    assert f"{host}:4444, connection" in caplog.messages[-1]


def test_closed_before_it_has_begun() -> None:
    """S66: the stage is the first, and the server has its name."""
    connection = Connection(_arguments.server("localhost", 0, None), None, None)
    connection.close("in a test")
    with pytest.raises(remctl.RemctlError, match="closed during the call") as caught:
        block(connection.open(0))
    assert caught.value.stage == "resolve"
    assert connection.peer == "localhost:4373"


@pytest.mark.parametrize("port", [None, 0])
def test_default_ports_both_failing(port: int | None) -> None:
    """S3, S28: the first port's error is the one reported."""
    host = loopback_address()
    text = f"cannot connect to {host} (port 4373): Connection refused"
    with pytest.raises(remctl.RemctlError) as caught:
        remctl.Remctl(host, port)
    assert str(caught.value) == text
    with pytest.raises(remctl.RemctlProtocolError) as protocol_error:
        remctl.remctl(host, port, None, ["test"])
    assert str(protocol_error.value) == text


@pytest.mark.parametrize(
    ("deaf", "text"),
    [
        (4373, "Connection timed out (no answer for 0.3 seconds)"),
        (4444, "Connection refused"),
    ],
)
def test_default_ports_failing_in_different_ways(deaf: int, text: str) -> None:
    """S3: the first port's error, where the other one has another."""
    host = loopback_address()
    with full(host, deaf), pytest.raises(remctl.RemctlError) as caught:
        remctl.Remctl(host, timeout=0.3)
    assert str(caught.value) == f"cannot connect to {host} (port 4373): {text}"
    assert isinstance(caught.value, TimeoutError) == (deaf == 4373)


def test_given_port_is_the_only_one(server: Server) -> None:
    """S3: no other port is tried for an explicit one."""
    host = loopback_address()
    with forwarded(server, (host, 4444)) as accepted:
        with pytest.raises(remctl.RemctlError, match=r"\(port 4373\)"):
            remctl.Remctl(host, 4373, server.principal)
        assert not accepted


def test_ipv6(realm: Realm) -> None:
    """S23: a server with an IPv6 address, and a source address to match."""
    with realm.server(commands(realm), address="::1") as server:
        client = remctl.Remctl(source_ip="::1")
        client.open(server.host, server.port, server.principal)
        assert peer(client) == "::1"
        client.set_source_ip("127.0.0.1")
        with pytest.raises(remctl.RemctlError, match="Address family not supported"):
            client.open(server.host, server.port, server.principal)


@pytest.mark.parametrize(
    ("host", "port", "principal", "text"),
    [
        ("a..b", 1, None, "unknown host a..b: "),
        ("x" * 64, 0, None, f"unknown host {'x' * 64}: "),
        (
            "127.0.0.1",
            1,
            None,
            "cannot connect to 127.0.0.1 (port 1): Connection refused",
        ),
        (
            "localhost",
            1,
            None,
            "cannot connect to localhost (port 1): Connection refused",
        ),
        ("localhost", -1, "nobody", "GSS-API error initializing context: "),
    ],
    ids=["unknown", "too-long", "address", "name", "principal"],
)
def test_failed_open(
    server: Server,
    client: remctl.Remctl,
    *,
    host: str,
    port: int,
    principal: str | None,
    text: str,
) -> None:
    """S26, S27, S28: the text is everywhere, the object is not open, all is closed."""
    old = client.fileno()
    with pytest.raises(remctl.RemctlError) as caught:
        client.open(host, server.port if port == -1 else port, principal)
    assert type(caught.value) is remctl.RemctlError
    assert str(caught.value).startswith(text)
    assert str(caught.value) == caught.value.value == client.error()
    assert not client.opened
    with pytest.raises(OSError):
        os.fstat(old)
    for _ in range(2):
        with pytest.raises(remctl.RemctlNotOpenedError, match=f"^{NOT_OPENED}$"):
            client.command(["test", "hello"])
        assert client.error() == caught.value.value
    client.open(server.host, server.port)
    assert client.error() == "no error"
    assert client.run(["test", "hello"]) == HELLO


def test_open_replaces_the_connection(scripted: Callable[..., Any]) -> None:
    """S27: the old one is closed, with its unread reply."""
    server = scripted(["handshake", "serve"])
    client = remctl.Remctl("localhost", server.port)
    before = descriptors()
    client.command(["test", "one", "old"])
    client.open("localhost", server.port)
    # Which of the two, is a question of who is faster.
    wait_until(
        lambda: any(
            event["event"] in ("eof", "reset") and event["connection"] == 0
            for event in list(server.events)
        )
    )
    assert descriptors() == before
    assert client.output() == DONE
    assert client.run(["test", "two", "new"]).stdout == b"new"
    client.close()


# Settings


def test_ccache_is_of_one_object(server: Server, bob: str) -> None:
    """S22, S25: for this object's later open() calls, all of them."""
    client, other = remctl.Remctl(), remctl.Remctl()
    client.set_ccache(bob)
    for _ in range(2):
        client.open(server.host, server.port)
        other.open(server.host, server.port)
        assert (user(client), user(other)) == ("bob", "user")
        client.close()
    client.open(server.host, server.port)
    client.open(server.host, server.port)
    assert user(client) == "bob"
    client.close()
    other.close()


def test_ccache_is_for_later_opens(
    server: Server, client: remctl.Remctl, bob: str
) -> None:
    """S22: the open connection stays what it is."""
    client.set_ccache(bob)
    assert user(client) == "user"
    client.open(server.host, server.port)
    assert user(client) == "bob"


def test_ccache_is_a_name_or_a_path(server: Server, bob: str) -> None:
    """S22: of the constructor and of the setter."""
    with os.scandir(os.fsencode(Path(bob).parent)) as entries:
        octets = next(entry for entry in entries if entry.name == b"bob")
    for ccache in (bob, Path(bob), octets):
        client = remctl.Remctl(ccache=ccache)
        client.open(server.host, server.port)
        assert user(client) == "bob"
        client.set_ccache(os.environ["KRB5CCNAME"])
        client.set_ccache(ccache)
        client.open(server.host, server.port)
        assert user(client) == "bob"
        client.close()


@pytest.mark.parametrize("ccache", ["/no/such/cache", "no-such-type:x", ""])
def test_missing_ccache_is_noticed_by_open(
    server: Server, bob: str, ccache: str
) -> None:
    """S22: not by set_ccache()."""
    client = remctl.Remctl()
    client.set_ccache(ccache)
    assert client.error() == "no error"
    with pytest.raises(remctl.RemctlError, match="ticket cache") as caught:
        client.open(server.host, server.port)
    assert client.error() == str(caught.value)
    assert not client.opened
    client.set_ccache(bob)
    client.open(server.host, server.port)
    assert user(client) == "bob"
    client.close()


def test_krb5ccname_is_read_by_each_open(
    server: Server, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S29: as os.environ has it then; open connections do not change."""
    client = remctl.Remctl(server.host, server.port)
    monkeypatch.setenv("KRB5CCNAME", bob)
    assert user(client) == "user"
    client.open(server.host, server.port)
    monkeypatch.setenv("KRB5CCNAME", "/no/such/cache")
    assert user(client) == "bob"
    with pytest.raises(remctl.RemctlError):
        client.open(server.host, server.port)
    monkeypatch.undo()
    client.open(server.host, server.port)
    assert user(client) == "user"
    client.close()


def test_ccache_comes_before_krb5ccname(
    server: Server, bob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S22, S29: set_ccache() is not overruled by the environment."""
    monkeypatch.setenv("KRB5CCNAME", "/no/such/cache")
    with remctl.Remctl(server.host, server.port, ccache=bob) as client:
        assert user(client) == "bob"


def test_source_ip_is_for_later_opens(server: Server) -> None:
    """S23, S25: of this object, all of them; the open connection stays."""
    client = remctl.Remctl()
    client.set_source_ip("127.0.0.9")
    for _ in range(2):
        client.open("127.0.0.1", server.port, server.principal)
        assert peer(client) == "127.0.0.9"
        client.close()
    client.open("127.0.0.1", server.port, server.principal)
    client.set_source_ip("127.0.0.8")
    assert peer(client) == "127.0.0.9"
    client.open("127.0.0.1", server.port, server.principal)
    assert peer(client) == "127.0.0.8"
    client.close()


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("::1", "Address family not supported by protocol"),
        ("192.0.2.1", "Cannot assign requested address"),
        ("localhost", ""),
        ("", ""),
        ("127.0.0.1 ", ""),
        ("127.1", ""),
    ],
)
def test_source_ip_is_checked_by_open(
    server: Server, client: remctl.Remctl, source: str, text: str
) -> None:
    """S23, S26: wrong family, not ours, no address: RemctlError, and usable after."""
    client.set_source_ip(source)
    assert client.error() == "no error"
    assert client.run(["test", "hello"]) == HELLO
    with pytest.raises(remctl.RemctlError) as caught:
        client.open("127.0.0.1", server.port, server.principal)
    start = f"cannot connect to 127.0.0.1 (port {server.port}): "
    assert str(caught.value).startswith(start + text)
    assert len(str(caught.value)) > len(start)
    assert client.error() == str(caught.value)
    assert not client.opened
    client.set_source_ip("127.0.0.1")
    client.open("127.0.0.1", server.port, server.principal)
    assert client.run(["test", "hello"]) == HELLO


def test_timeout_applies_to_all_later_calls(server: Server, tmp_path: Path) -> None:
    """S24, S25, S28, S43: set before or after open(), across close(); 0 clears."""
    over = tmp_path / "over"
    client = remctl.Remctl()
    client.set_timeout(0.3)
    for _ in range(2):
        client.open(server.host, server.port)
        client.command(["test", "wait-for", over])
        assert client.output().output == b"waiting\n"
        with pytest.raises(
            remctl.RemctlTimeoutError, match=r"^error receiving token: timed out \("
        ) as caught:
            client.output()
        assert client.error() == str(caught.value)
        with pytest.raises(remctl.RemctlNotOpenedError, match=f"^{NOT_OPENED}$"):
            client.output()
        assert client.error() == str(caught.value)
        client.close()
    over.touch()
    client.open(server.host, server.port)
    client.set_timeout(0)
    assert client.run(["test", "sleep", "0.6"]).stdout == b"awake\n"
    client.set_timeout(0.2)
    with pytest.raises(remctl.RemctlTimeoutError):
        client.run(["test", "sleep", "1"])


def test_timeout_that_is_refused_changes_nothing(
    client: remctl.Remctl, tmp_path: Path
) -> None:
    """S24, S46: a negative one is a RemctlError, and the old one stays."""
    over = tmp_path / "over"
    client.set_timeout(0.3)
    for timeout in (-1, -0.5):
        with pytest.raises(remctl.RemctlError) as caught:
            client.set_timeout(timeout)
        assert str(caught.value) == client.error() == f"invalid timeout {timeout}"
    assert client.run(["test", "hello"]) == HELLO
    with pytest.raises(remctl.RemctlTimeoutError):
        client.run(["test", "wait-for", over])
    over.touch()


# Commands and their tokens


def test_output_token_is_a_named_tuple(client: remctl.Remctl) -> None:
    """S30, S32: command() returns None; tokens unpack and index."""
    assert client.command(["test", "hello"]) is None  # type: ignore[func-returns-value]
    token = client.output()
    assert isinstance(token, remctl.RemctlOutput)
    assert token._fields == ("type", "output", "stream", "status", "error")
    kind, output, stream, status, error = token
    assert (kind, output, stream, status, error) == tuple(token[i] for i in range(5))
    assert (token.type, token.output, token.stream) == ("output", b"hello world\n", 1)


def tokens(client: remctl.Remctl) -> list[tuple[object, ...]]:
    """Read the current command's tokens with output(), and three more."""
    found: list[tuple[object, ...]] = []
    while not found or found[-1][0] == "output":
        found.append(tuple(client.output()))
    return found + [tuple(client.output()) for _ in range(3)]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["hello"], [("output", b"hello world\n", 1, None, None)]),
        (["streams", "", "x"], [("output", b"x", 2, None, None)]),
        (["silent"], []),
    ],
    ids=["stdout", "stderr", "none"],
)
def test_tokens_of_a_command(
    client: remctl.Remctl, command: list[str], expected: list[tuple[object, ...]]
) -> None:
    """S33-S37, S39: n outputs and a status, then "done" for ever; before it, too."""
    assert [tuple(client.output()) for _ in range(3)] == [DONE] * 3
    for _ in range(2):
        client.command(["test", *command])
        status = ("status", None, None, 0, None)
        assert tokens(client) == [*expected, status, DONE, DONE, DONE]
    assert client.error() == "no error"


@pytest.mark.parametrize(
    ("command", "output", "error"),
    [
        (["no", "such"], b"Unknown command", 5),
        (["test", "denied"], b"Access denied", 6),
        (["test", "args", b"\0"], b"Invalid command token", 4),
        (["test", "args", *"x" * 4096], b"Too many arguments", 7),
    ],
    ids=["unknown", "denied", "nul", "many"],
)
def test_error_token(
    client: remctl.Remctl, command: list[str], output: bytes, error: int
) -> None:
    """S36, S39, S40: a server error is one token, no exception; "done" follows."""
    client.command(command)
    assert tokens(client) == [("error", output, None, None, error), DONE, DONE, DONE]
    assert client.error() == "no error"
    assert client.run(["test", "hello"]) == HELLO


def test_tokens_with_no_output(scripted: Callable[..., Any]) -> None:
    """S34: b"" for an empty output token, and each token by itself."""
    outputs = [["output", {"stream": 2}], ["output", {"text": "x"}], "output"]
    server = scripted(["handshake", "read", *outputs, "status", "wait_eof"])
    with remctl.Remctl("localhost", server.port) as client:
        client.command(["test"])
        assert tokens(client)[:-3] == [
            ("output", b"", 2, None, None),
            ("output", b"x", 1, None, None),
            ("output", b"", 1, None, None),
            ("status", None, None, 0, None),
        ]


@pytest.mark.parametrize("code", [0, 11, 4242, 2**31, 2**32 - 1])
def test_unknown_error_codes_are_ints(scripted: Callable[..., Any], code: int) -> None:
    """S41: any code of 32 bits is accepted, in both interfaces."""
    error = ["error", {"code": code, "text": "x"}]
    server = scripted(["handshake", "read", error, "serve"])
    with remctl.Remctl("localhost", server.port) as client:
        client.command(["test"])
        token = client.output()
        assert tuple(token) == ("error", b"x", None, None, code)
        assert type(token.error) is int
        assert client.run(["test", "x", "y"]).stdout == b"y"
    with pytest.raises(remctl.RemctlProtocolError) as caught:
        remctl.remctl("localhost", server.port, None, ["test"])
    assert (caught.value.code, str(caught.value)) == (code, "x")


def test_every_status(client: remctl.Remctl) -> None:
    """S16, S35, S48: all 256, as tokens, of as many commands on one connection."""
    fileno = client.fileno()
    for status in range(256):
        client.command(["test", "status", status])
        assert tokens(client)[0] == ("status", None, None, status, None)
    assert client.fileno() == fileno


def test_status_of_a_command_that_was_killed(client: remctl.Remctl) -> None:
    """S16: remctld's own -1 for it, in an octet."""
    assert client.run(["test", "signal", "KILL"]).status == 255
    assert client.run(["test", "missing"]).status == 255


def test_nul_in_arguments(client: remctl.Remctl) -> None:
    """S12: an argument may hold NUL."""
    client.command(["test", "stdin", b"a\0b\0"])
    assert client.output().output == b"a\0b\0"
    assert client.output().type == "status"


def test_large_output(client: remctl.Remctl) -> None:
    """S34: many tokens, nothing lost."""
    size = 3_000_000
    client.command(["test", "bytes", size])
    data = b"".join(token.output or b"" for token in client)
    assert data == b"0123456789abcde\n" * (size // 16)


@pytest.mark.parametrize("read", [0, 1, 2])
@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.command(["test", "hello"]),
        lambda client: client.run(["test", "hello"]),
        lambda client: client.noop(),
    ],
    ids=["command", "run", "noop"],
)
def test_reply_must_be_read_first(
    client: remctl.Remctl, call: Callable[[remctl.Remctl], object], read: int
) -> None:
    """S31: RemctlError, nothing is sent or lost, and the connection stays usable."""
    client.command(["test", "streams", "out", "err"])
    found = [client.output() for _ in range(read)]
    for _ in range(2):
        with pytest.raises(remctl.RemctlError, match=f"^{UNREAD}$") as caught:
            call(client)
        assert type(caught.value) is remctl.RemctlError
        assert client.error() == UNREAD
        assert client.opened
    found += client
    assert sorted(found[:2]) == [
        ("output", b"err", 2, None, None),
        ("output", b"out", 1, None, None),
    ]
    assert found[2:] == [("status", None, None, 0, None)]
    assert client.noop()
    assert client.run(["test", "hello"]) == HELLO
    assert client.error() == "no error"


def test_run(client: remctl.Remctl) -> None:
    """S54: a whole command: output, status, and an exception for the server's error."""
    result = client.run(iter(["test", "streams", "out", "err"]))
    assert result == remctl.RemctlSimpleResult(b"out", b"err", 0)
    assert client.run(["test", "status", "7"]).status == 7
    with pytest.raises(remctl.RemctlProtocolError, match=r"^Access denied$") as caught:
        client.run(["test", "denied"])
    assert caught.value.code is remctl.ErrorCode.ACCESS
    assert client.error() == "Access denied"
    assert client.run(["test", "hello"]) == HELLO
    assert client.error() == "no error"


def test_iteration(client: remctl.Remctl) -> None:
    """S38: iterating yields the rest of the reply, and is over after it."""
    assert list(client) == []
    client.command(["test", "streams", "out", ""])
    assert next(iter(client)).output == b"out"
    assert [token.type for token in client] == ["status"]
    assert list(client) == []
    client.command(["no", "such"])
    assert [token.type for token in client] == ["error"]
    assert list(client) == []
    client.close()
    with pytest.raises(remctl.RemctlNotOpenedError):
        list(client)


def test_noop(client: remctl.Remctl) -> None:
    """S42: True, between commands, as often as wanted."""
    for _ in range(3):
        assert client.noop() is True
        assert client.run(["test", "hello"]) == HELLO
    assert client.error() == "no error"


@pytest.mark.parametrize("protocol", [1, 2])
def test_noop_of_an_old_server(scripted: Callable[..., Any], protocol: int) -> None:
    """S42: False, and the connection is as usable as before."""
    handshake = ["handshake", {"protocol": protocol}]
    server = scripted([handshake, ["serve", {"noop": "version2"}]])
    with remctl.Remctl("localhost", server.port) as client:
        for text in ("one", "two"):
            assert client.noop() is False
            assert client.opened
            assert client.run(["test", "x", text]).stdout == text.encode()


# The end of a connection


@pytest.mark.parametrize("unread", [True, False])
def test_lost_connection(realm: Realm, unread: bool) -> None:
    """S40, S43: RemctlError, then not open, with the cause; open() works again."""
    with realm.server(commands(realm)) as server:
        client = remctl.Remctl(server.host, server.port)
        if unread:
            client.command(["test", "sleep", "60"])
        server.kill()
        with pytest.raises(remctl.RemctlError) as caught:
            client.output() if unread else client.run(["test", "hello"])
        assert "unexpected end of file" in str(caught.value)
        assert not client.opened
        for call in (remctl.Remctl.output, remctl.Remctl.noop, remctl.Remctl.fileno):
            with pytest.raises(remctl.RemctlNotOpenedError, match=f"^{NOT_OPENED}$"):
                call(client)
        assert client.error() == str(caught.value)
        server.start()
        client.open(server.host, server.port)
        assert client.error() == "no error"
        assert client.run(["test", "hello"]) == HELLO
        client.close()


def test_close(server: Server, client: remctl.Remctl) -> None:
    """S44: returns None, twice too; nothing goes without open(), which works again."""
    descriptor = client.fileno()
    for _ in range(2):
        assert client.close() is None  # type: ignore[func-returns-value]
        assert client.error() == NOT_OPENED
        assert not client.opened
    with pytest.raises(OSError):
        os.fstat(descriptor)
    client.set_timeout(HANG)
    client.set_source_ip("127.0.0.9")
    client.open(server.host, server.port)
    assert client.error() == "no error"
    assert peer(client) == "127.0.0.9"


def test_close_with_an_unread_reply(server: Server, client: remctl.Remctl) -> None:
    """S44: the reply is lost, and no later command gets it."""
    client.command(["test", "streams"])
    assert client.output().type == "output"
    client.close()
    client.open(server.host, server.port)
    assert client.output() == DONE
    assert client.run(["test", "hello"]) == HELLO


def test_context_manager(server: Server) -> None:
    """S38: with gives the object, closes it at the end and hides no exception."""
    client = remctl.Remctl()
    with client as same:
        assert same is client
        client.open(server.host, server.port)
    assert (client.opened, client.error()) == (False, NOT_OPENED)
    with pytest.raises(KeyError), client:
        client.open(server.host, server.port)
        raise KeyError
    assert not client.opened


def test_destroyed_object_closes_its_connection(scripted: Callable[..., Any]) -> None:
    """S45: the server is told, and no descriptor stays."""
    server = scripted(["handshake", "serve"])
    gc.collect()
    before = descriptors()
    client = remctl.Remctl("localhost", server.port)
    assert client.run(["test", "x", "y"]).stdout == b"y"
    del client

    def collected() -> bool:
        gc.collect()
        return descriptors() == before

    wait_until(collected)
    server.wait_for("quit", connection=0)


@pytest.mark.blocking_only
@pytest.mark.parametrize("state", ["idle", "unread"])
def test_interpreter_exit_is_silent(server: Server, state: str) -> None:
    """S45: with open connections, in a module and in a cycle."""
    program = """
        import sys, remctl
        host, port, state = sys.argv[1:]
        client = remctl.Remctl(host, port)
        class Holder: pass
        holder = Holder()
        holder.client, holder.self = remctl.Remctl(host, port), holder
        for one in (client, holder.client):
            if state == "unread":
                one.command(["test", "streams"])
            else:
                one.run(["test", "streams"])
    """
    finished = run_python(program, server.host, server.port, state)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


def test_error_is_the_last_failures_text(server: Server, client: remctl.Remctl) -> None:
    """S46: "no error" after a success; wrong arguments do not count."""
    steps: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (lambda: client.set_timeout(-1), lambda: client.set_timeout(0)),
        (lambda: client.set_timeout(-1), lambda: client.set_source_ip("127.0.0.1")),
        (lambda: client.set_timeout(-1), lambda: client.set_ccache("/none")),
        (lambda: client.set_timeout(-1), lambda: client.run(["test", "status", 1])),
        (lambda: client.run(["no", "such"]), lambda: client.command(["test"])),
        (lambda: client.run(["test"]), client.output),
        (lambda: client.run(["test"]), lambda: list(client)),
        (lambda: client.run(["no", "such"]), client.noop),
    ]
    for failing, succeeding in steps:
        with pytest.raises(remctl.RemctlError) as caught:
            failing()
        assert client.error() == str(caught.value)
        with pytest.raises(TypeError):
            client.command(5)  # type: ignore[arg-type]  # that is the test
        assert client.error() == str(caught.value)
        succeeding()
        assert client.error() == "no error"


def test_many_commands_on_one_connection(scripted: Callable[..., Any]) -> None:
    """S48: no second connection, replies in order."""
    server = scripted(["handshake", "serve"])
    with remctl.Remctl("localhost", server.port) as client:
        for number in range(50):
            result = client.run(["test", "x", number])
            assert result.stdout == str(number).encode()
    server.wait_for("quit", connection=0)
    assert [event["event"] for event in server.events].count("accepted") == 1


def test_fileno_is_what_to_wait_on(client: remctl.Remctl, tmp_path: Path) -> None:
    """S58: the descriptor is readable when output() has something to read."""
    over = tmp_path / "over"
    assert os.get_inheritable(client.fileno()) is False

    def readable(timeout: float) -> bool:
        return bool(select.select([client], [], [], timeout)[0])

    assert not readable(0)
    client.command(["test", "wait-for", over])
    assert readable(60)
    assert client.output().output == b"waiting\n"
    assert not readable(0)
    over.touch()
    assert readable(60)
    assert [token.type for token in client] == ["output", "status"]
    assert not readable(0)


def test_fileno_after_a_token_in_pieces(
    scripted: Callable[..., ScriptedServer],
) -> None:
    """The mark that waits for the whole of a large token is gone with it."""
    pieces = ["output", {"size": 9000, "chunk": 4000, "delay": 0.05}]
    server = scripted(["handshake", "read", pieces, "barrier", "status", "wait_eof"])
    with remctl.Remctl("localhost", server.port) as client:
        client.command(["x"])
        assert len(client.output().output or b"") == 9000
        server.wait_for("barrier")
        server.proceed()
        assert select.select([client], [], [], 60)[0]
        assert client.output().type == "status"


# open() without arguments


def test_open_again(server: Server, tmp_path: Path, bob: str) -> None:
    """S80: the last server, with the settings of now; open or closed."""
    with remctl.Remctl(server.host, server.port, server.principal) as client:
        assert user(client) == "user"
        client.command(["test", "wait-for", tmp_path / "file"])
        client.open()
        assert client.run(["test", "hello"]) == HELLO
        client.set_ccache(bob)
        client.set_source_ip("127.0.0.1")
        client.close()
        client.open()
        assert user(client) == "bob"
        assert peer(client) == "127.0.0.1"
    (tmp_path / "file").touch()  # the first command goes on until then


def test_open_again_after_a_failure(realm: Realm) -> None:
    """S80: what failed is tried again, with the principal of that call."""
    client = remctl.Remctl()
    with realm.server(commands(realm)) as own:
        with pytest.raises(remctl.RemctlError, match="nobody"):
            client.open(own.host, own.port, "nobody")
        with pytest.raises(remctl.RemctlError, match="nobody"):
            client.open()
        client.open(own.host, own.port)
        own.kill()
        with pytest.raises(remctl.RemctlError, match=r"cannot connect to localhost"):
            client.open()
        own.start()
        client.open()
        assert client.run(["test", "hello"]) == HELLO
        client.close()


def test_open_again_what_wrong_arguments_named(server: Server) -> None:
    """S80: wrong arguments have opened nothing."""
    with remctl.Remctl(server.host, server.port) as client:
        with pytest.raises(ValueError, match="invalid port number"):
            client.open("foo.invalid", 65536)
        client.open()
        assert client.run(["test", "hello"]) == HELLO


def test_open_again_without_a_server(server: Server) -> None:
    """S80: ValueError, and nothing has changed."""
    client = remctl.Remctl()
    with pytest.raises(ValueError, match="nothing has been opened before"):
        client.open()
    client.open(server.host, server.port)
    for arguments in ({"port": 1}, {"principal": "host/foo"}):
        with pytest.raises(ValueError, match="needs a host"):
            client.open(**arguments)
    for wrong in (None, ""):
        with pytest.raises((TypeError, ValueError), match="host must"):
            client.open(wrong)  # type: ignore[arg-type]
    assert client.run(["test", "hello"]) == HELLO
    client.close()


def test_open_again_through_a_socket(server: Server) -> None:
    """S80: not without one, as that would go another way."""
    with remctl.Remctl() as client:
        client.open("localhost", sock=connected(server))
        with pytest.raises(ValueError, match="needs a socket"):
            client.open()
        assert client.run(["test", "hello"]) == HELLO
        client.open(sock=connected(server))
        assert client.run(["test", "hello"]) == HELLO


def connected(server: Server) -> socket.socket:
    """Return a socket that is connected to ``server``."""
    return socket.create_connection(("127.0.0.1", server.port))


# A socket of the caller's


def test_sock_is_used_and_taken_over(server: Server) -> None:
    """S59: open(sock=...): host is for the principal, port for nothing."""
    before = descriptors()
    client = remctl.Remctl(source_ip="::1")
    for timeout in (None, 30.0):
        sock = socket.create_connection(("127.0.0.1", server.port), timeout=timeout)
        name = sock.getsockname()
        client.open("localhost", 1, sock=sock)
        assert sock.fileno() == -1
        with socket.socket(fileno=os.dup(client.fileno())) as copy:
            assert copy.getsockname() == name
        assert client.run(["test", "hello"]) == HELLO
    client.close()
    assert descriptors() == before


def keeps_alive(client: remctl.Remctl) -> bool:
    """Whether the kernel asks from time to time if ``client``'s peer is there."""
    with socket.socket(fileno=os.dup(client.fileno())) as copy:
        return copy.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0


def test_keepalive(server: Server) -> None:
    """On the sockets that open() makes; the caller's own stay as they are."""
    with remctl.Remctl() as client:
        client.open(server.host, server.port)
        assert keeps_alive(client)
        for wanted in (False, True):
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, wanted)
            client.open("localhost", sock=sock)
            assert keeps_alive(client) is wanted


def test_sock_with_a_principal(server: Server) -> None:
    """S59: open(sock=...): the principal, where host is no name of the server."""
    client = remctl.Remctl()
    sock = socket.create_connection(("127.0.0.1", server.port))
    client.open("far.example", None, server.principal, sock=sock)
    assert client.run(["test", "hello"]) == HELLO
    client.close()


def test_sock_is_closed_when_open_fails(server: Server) -> None:
    """S59: open(sock=...): it is the object's from there on."""
    before = descriptors()
    client = remctl.Remctl()
    sock = socket.create_connection(("127.0.0.1", server.port))
    with pytest.raises(remctl.RemctlError, match=r"\bnobody@"):
        client.open("localhost", None, "nobody", sock=sock)
    assert sock.fileno() == -1
    assert not client.opened
    assert descriptors() == before


@pytest.mark.parametrize("timeout", [0, 60])
def test_sock_may_be_a_tunnel(server: Server, timeout: float) -> None:
    """S59: open(sock=...): a UNIX socket, small and large commands, and much output."""
    ours, theirs = socket.socketpair()
    target = socket.create_connection(("127.0.0.1", server.port))
    data = random.Random(1).randbytes(1_000_000)
    with tunnel(theirs, target), remctl.Remctl(timeout=timeout) as client:
        client.open("localhost", sock=ours)
        for octets in (b"x", data):
            assert client.run(["test", "stdin", octets]).stdout == octets
        assert client.noop()
        assert client.run(["test", "bytes", 1_000_000]).status == 0
