# SPDX-License-Identifier: MIT
"""Time-outs: S24, S43 and item 6 of the issue.

Lower bounds say that a time-out does not come early; upper bounds are those on a hang.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest
from support import descriptors, run_python

import remctl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remctl.testing import Realm, Server
    from scripted import ScriptedServer

    Scripted = Callable[..., ScriptedServer]

HOST = "localhost"
TIMEOUT = 0.3
HANG = 20.0  # what is slower than that has not timed out

DRIBBLE: dict[str, object] = {"chunk": 3, "delay": 0.05}
LARGE = ["test", "unread", b"x" * 20_000_000]


@contextmanager
def times_out(after: float = TIMEOUT) -> Iterator[pytest.ExceptionInfo[Any]]:
    """Check that the block raises RemctlTimeoutError, and not too early."""
    start = time.monotonic()
    with pytest.raises(remctl.RemctlTimeoutError, match="timed out") as caught:
        yield caught
    assert after <= time.monotonic() - start < HANG
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.code is None


def check_lost(client: remctl.Remctl, good: Server, error: BaseException) -> None:
    """Check S43: not open, the cause kept, and open() works.  Close it then."""
    assert not client.opened
    for unusable in (lambda: client.command(["x"]), client.output, client.noop):
        with pytest.raises(remctl.RemctlNotOpenedError, match="no currently open"):
            unusable()
    assert client.error() == str(error)
    client.open(good.host, good.port)
    assert client.run(["test", "hello"]).stdout == b"hello world\n"
    client.close()


# Connecting


@contextmanager
def full(address: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Listen on a port that answers no more connections: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)  # noqa: FBT003
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_connecting_times_out(server: Server) -> None:
    """S24, S28: an address that does not answer."""
    client = remctl.Remctl(timeout=TIMEOUT)
    with full() as port:
        with times_out() as caught:
            client.open(HOST, port)
        assert caught.match(rf"^cannot connect to {HOST} \(port {port}\): ")
        check_lost(client, server, caught.value)


def test_the_one_shot_call_times_out() -> None:
    """S2, S24: so does remctl(timeout=...)."""
    with full() as port, times_out():
        remctl.remctl(HOST, port, command=["x"], timeout=TIMEOUT)


def test_the_constructor_times_out() -> None:
    """S20, S24: so does Remctl(host, timeout=...)."""
    with full() as port, times_out():
        remctl.Remctl(HOST, port, timeout=TIMEOUT)


def addresses_of(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Give a name several addresses: the resolver's files are not ours to write."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 0)) for a in addresses]
    own = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, flags: int = 0, **options: Any) -> Any:
        if host in ("many.test", b"many.test") and not flags & socket.AI_NUMERICHOST:
            return found
        return own(host, *rest, flags=flags, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_each_address_has_its_own_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S24: after two addresses that do not answer the third one is tried."""
    addresses_of(monkeypatch, "127.0.0.2", "127.0.0.3", "127.0.0.1")
    with full("127.0.0.2", server.port), full("127.0.0.3", server.port):
        start = time.monotonic()
        with remctl.Remctl(timeout=TIMEOUT) as client:
            client.open("many.test", server.port, server.principal)
            assert 2 * TIMEOUT <= time.monotonic() - start < HANG
            assert client.run(["test", "hello"]).stdout == b"hello world\n"


def test_all_addresses_together_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """S24: two addresses that do not answer take twice the time."""
    addresses_of(monkeypatch, "127.0.0.2", "127.0.0.3")
    with full("127.0.0.2") as port, full("127.0.0.3", port), times_out(2 * TIMEOUT):
        remctl.Remctl("many.test", port, timeout=TIMEOUT)


def test_the_name_service_times_out(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver that does not answer; only root could make the real one do so."""
    answer = threading.Event()
    own = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, flags: int = 0, **options: Any) -> Any:
        if host == b"mute.test" and not flags & socket.AI_NUMERICHOST:
            answer.wait()
        return own(host, *rest, flags=flags, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    client = remctl.Remctl(timeout=TIMEOUT)
    try:
        with times_out() as caught:
            client.open("mute.test", 4373)
        assert caught.match("^unknown host mute.test: ")
        check_lost(client, server, caught.value)
    finally:
        answer.set()


# The handshake


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"stop": ["hang", 0]}, id="mute"),
        pytest.param({"stop": ["hang", 1]}, id="mute after the first token"),
        pytest.param({"stop": ["hang", 2]}, id="mute after the second token"),
        pytest.param({"cut": 3, "stop": ["hang", 3]}, id="half a header"),
        pytest.param({"chunk": 1, "delay": 0.05}, id="dribbling"),
    ],
)
def test_the_handshake_times_out_as_a_whole(
    scripted: Scripted, server: Server, options: dict[str, object]
) -> None:
    """S24: a server that is mute or dribbles during the handshake."""
    mute = scripted([["handshake", options], "hang"])
    client = remctl.Remctl(timeout=TIMEOUT)
    with times_out() as caught:
        client.open(HOST, mute.port)
    check_lost(client, server, caught.value)


def test_a_mute_kdc_times_out(realm: Realm, server: Server, tmp_path: Path) -> None:
    """S24: libremctl alone waits for a mute KDC for 27 s, whatever was set."""
    cache = realm.kinit(realm.user, tmp_path / "cache")
    with ExitStack() as stack:
        kdc = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = kdc.getsockname()[1]
        udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", port))
        conf = tmp_path / "krb5.conf"
        conf.write_text(
            f"[libdefaults]\n default_realm = {realm.name}\n"
            " dns_canonicalize_hostname = false\n udp_preference_limit = 1\n"
            f"[realms]\n {realm.name} = {{\n  kdc = 127.0.0.1:{port}\n }}\n"
        )
        # In a process of its own, as libkrb5 goes on waiting in a helper thread.
        result = run_python(
            """
            import os, sys, time, remctl
            port, cache, conf, timeout, good = sys.argv[1:]
            client = remctl.Remctl(timeout=float(timeout), ccache=cache)
            os.environ["KRB5_CONFIG"], good = conf, os.environ["KRB5_CONFIG"]
            start = time.monotonic()
            try:
                client.open("localhost", int(port))
            except remctl.RemctlTimeoutError as error:
                print(error, client.opened, client.error() == str(error))
            print(float(timeout) <= time.monotonic() - start < 20)
            """,
            server.port,
            cache,
            conf,
            TIMEOUT,
            "",
            timeout=40,
        )
        kdc.setblocking(False)  # noqa: FBT003
        kdc.accept()[0].close()  # it was asked
    text = "error receiving token: timed out (no answer from localhost or its KDC)"
    assert (result.stdout, result.stderr) == (f"{text} False True\nTrue\n", "")
    assert result.returncode == 0


# After the handshake


def reads(client: remctl.Remctl) -> None:
    client.command(["x"])
    while client.output().type == "output":
        pass


STALLS = [
    pytest.param(["read"], reads, "receiving", id="no answer"),
    pytest.param(["read", "output"], reads, "receiving", id="no more answer"),
    pytest.param(
        ["read", ["output", {"cut": 3}]], reads, "receiving", id="half a header"
    ),
    pytest.param(
        ["read", ["output", {"cut": 30}]], reads, "receiving", id="half a token"
    ),
    pytest.param(
        ["read", ["output", {"size": 1_048_500, "cut": 1_000_000}]],
        reads,
        "receiving",
        id="half a large token",
    ),
    pytest.param([], lambda client: client.command(LARGE), "sending", id="large write"),
    pytest.param(["read"], lambda client: client.noop(), "receiving", id="noop"),
    pytest.param(
        ["read", ["noop", {"cut": 20}]],
        lambda client: client.noop(),
        "receiving",
        id="half a noop",
    ),
]


@pytest.mark.parametrize(("steps", "call", "doing"), STALLS)
def test_a_stalled_server_times_out(
    scripted: Scripted,
    server: Server,
    steps: list[Any],
    call: Callable[[remctl.Remctl], None],
    doing: str,
) -> None:
    """S24, S28, S43: silence after the handshake, at any point."""
    stalled = scripted(["handshake", *steps, "hang"])
    client = remctl.Remctl(HOST, stalled.port, timeout=TIMEOUT)
    with times_out() as caught:
        call(client)
    assert str(caught.value) == f"error {doing} token: timed out"
    check_lost(client, server, caught.value)
    assert len([e for e in stalled.events if e["event"] == "accepted"]) == 1


def test_half_a_token_larger_than_the_receive_memory_times_out(
    scripted: Scripted, server: Server
) -> None:
    """S24: also where the helper thread has to read."""
    half = ["output", {"size": 1_048_500, "cut": 1_000_000}]
    stalled = scripted(["handshake", "read", half, "hang"])
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", stalled.port))
    client = remctl.Remctl(timeout=TIMEOUT)
    client.open(HOST, sock=sock)
    with times_out() as caught:
        reads(client)
    check_lost(client, server, caught.value)
