# SPDX-License-Identifier: MIT
"""Time-outs: S24 and S43.

Lower bounds say that a time-out does not come early; upper bounds are those on a hang.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Callable

import pytest
from names import names
from silent import full
from support import AT_ONCE, HANG, LINUX_SHIM, commands, run_python, wait_until

import remctl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripted import ScriptedServer

    from remctl.testing import Realm, Server

    Scripted = Callable[..., ScriptedServer]

pytestmark = pytest.mark.both_twins

HOST = "localhost"
NAME = "name.test"
TIMEOUT = 0.2

LARGE = ["test", "unread", b"x" * 20_000_000]


@contextmanager
def times_out(after: float = TIMEOUT) -> Iterator[pytest.ExceptionInfo[Any]]:
    """Check that the block raises RemctlTimeoutError, and not too early."""
    start = time.monotonic()
    with pytest.raises(remctl.RemctlTimeoutError, match="timed out") as caught:
        yield caught
    assert after <= time.monotonic() - start < after + AT_ONCE
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.code is None


def check_lost(client: remctl.Remctl, good: Server, error: BaseException) -> None:
    """Check S43: not open, the cause kept, and open() works.  Close it then."""
    assert not client.opened
    for unusable in (lambda: client.command(["x"]), client.output, client.noop):
        with pytest.raises(remctl.RemctlNotOpenedError, match="no currently open"):
            unusable()
    assert client.error() == str(error)
    client.set_timeout(HANG)
    client.open(good.host, good.port)
    assert client.run(["test", "hello"]).stdout == b"hello world\n"
    client.close()


# Connecting


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


def test_each_address_has_its_own_time(realm: Realm) -> None:
    """S24: after two addresses that do not answer the third one is tried."""
    with ExitStack() as stack:
        server = stack.enter_context(realm.server(commands(realm), address="127.0.0.4"))
        for address in ("127.0.0.2", "127.0.0.3"):
            stack.enter_context(full(address, server.port))
        addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
        stack.enter_context(names().know(NAME, *addresses))
        start = time.monotonic()
        # It has to be enough for the third one's handshake, too.
        with remctl.Remctl(timeout=10 * TIMEOUT) as client:
            client.open(NAME, server.port, server.principal)
            assert 20 * TIMEOUT <= time.monotonic() - start < AT_ONCE
            assert client.run(["test", "hello"]).stdout == b"hello world\n"


def test_all_addresses_together_time_out() -> None:
    """S24: two addresses that do not answer take twice the time."""
    with names().know(NAME, "127.0.0.2", "127.0.0.3"), full("127.0.0.2") as port:
        with full("127.0.0.3", port), times_out(2 * TIMEOUT):
            remctl.Remctl(NAME, port, timeout=TIMEOUT)


def test_the_name_service_times_out(server: Server) -> None:
    """S24: a resolver that does not answer."""
    client = remctl.Remctl(timeout=TIMEOUT)
    with names().know(NAME, mute=True):
        with times_out() as caught:
            client.open(NAME, 4373)
        assert caught.match(f"^unknown host {NAME}: ")
        check_lost(client, server, caught.value)


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


@pytest.mark.blocking_only
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
            " dns_canonicalize_hostname = false\n"
            " udp_preference_limit = 1\n large_message_size = 0\n"
            f"[realms]\n {realm.name} = {{\n  kdc = 127.0.0.1:{port}\n }}\n"
        )
        remctl.Remctl("localhost", server.port).close()  # its ticket is cached now
        # In a process of its own, as libkrb5 goes on waiting in a thread.
        result = run_python(
            """
            import os, sys, time, remctl
            port, cache, conf, timeout = sys.argv[1:]
            client = remctl.Remctl(timeout=float(timeout))
            client.set_ccache(cache)
            os.environ["KRB5_CONFIG"] = conf
            start = time.monotonic()
            try:
                client.open("localhost", port)
            except remctl.RemctlTimeoutError as error:
                print(error, client.opened, client.error() == str(error))
            print(float(timeout) <= time.monotonic() - start < 20)
            client.set_ccache(os.environ["KRB5CCNAME"])
            client.open("localhost", port)
            print(client.run(["test", "hello"]).stdout)
            """,
            server.port,
            cache,
            conf,
            TIMEOUT,
        )
        kdc.setblocking(False)
        kdc.accept()[0].close()  # it was asked
    silence = f"no answer from {HOST}:{server.port} or its KDC for {TIMEOUT:g} seconds"
    text = f"error receiving token: timed out ({silence})"
    assert result.stderr == ""
    assert result.stdout == f"{text} False True\nTrue\nb'hello world\\n'\n"
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
    client = remctl.Remctl(HOST, stalled.port)
    client.set_timeout(TIMEOUT)
    with times_out() as caught:
        call(client)
    assert str(caught.value).startswith(f"error {doing} token: timed out (")
    assert f"for {TIMEOUT:g} seconds" in str(caught.value)
    assert caught.value.stage == ("send" if doing == "sending" else "reply")
    check_lost(client, server, caught.value)
    stalled.close()
    assert [e["event"] for e in stalled.events].count("accepted") == 1


def test_half_a_token_larger_than_the_receive_memory_times_out(
    scripted: Scripted, server: Server
) -> None:
    """S24: also where a job has to read."""
    half = ["output", {"size": 1_048_500, "cut": 1_000_000}]
    stalled = scripted(["handshake", "read", half, "hang"])
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", stalled.port))
    client = remctl.Remctl()
    client.open(HOST, sock=sock)
    client.set_timeout(TIMEOUT)
    with times_out() as caught:
        reads(client)
    check_lost(client, server, caught.value)


# What does not time out

PATIENCE = 1.5


@contextmanager
def times_out_without_linux() -> Iterator[None]:
    """Expect a time-out where the shim cannot see that data moves."""
    if LINUX_SHIM:
        yield
    else:
        with times_out(PATIENCE):
            yield


@pytest.mark.parametrize(
    ("steps", "call"),
    [
        pytest.param(
            [["output", {"chunk": 4, "delay": 0.15}], "status"], reads, id="output"
        ),
        pytest.param(
            [["output", {"repeat": 10, "chunk": 40, "delay": 0.2}], "status"],
            reads,
            id="many tokens",
        ),
    ],
)
def test_slow_but_moving_answers_do_not_time_out(
    scripted: Scripted, steps: list[Any], call: Callable[[remctl.Remctl], None]
) -> None:
    """S24: a time-out bounds silence; a few bytes every now and then are none."""
    slow = scripted(["handshake", "read", *steps, "serve"])
    with remctl.Remctl(HOST, slow.port) as client:
        client.set_timeout(PATIENCE)
        start = time.monotonic()
        call(client)
        assert time.monotonic() - start > PATIENCE
        assert client.run(["x", "y", "z"]).stdout == b"z"


def test_a_slow_answer_to_noop(scripted: Scripted) -> None:
    """S24: on Linux, that does not time out, either."""
    slow = scripted(
        ["handshake", "read", ["noop", {"chunk": 4, "delay": 0.15}], "serve"]
    )
    with remctl.Remctl(HOST, slow.port) as client:
        client.set_timeout(PATIENCE)
        start = time.monotonic()
        with times_out_without_linux():
            client.noop()
            assert time.monotonic() - start > PATIENCE
            assert client.run(["x", "y", "z"]).stdout == b"z"


def test_a_slow_token_larger_than_the_receive_memory(scripted: Scripted) -> None:
    """S24: nor does it where a job has to read."""
    token = ["output", {"size": 1_048_500, "chunk": 70_000, "delay": 0.15}]
    slow = scripted(["handshake", "read", token, "status"])
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", slow.port))
    with remctl.Remctl() as client:
        client.open(HOST, sock=sock)
        client.set_timeout(PATIENCE)
        start = time.monotonic()
        result = client.run(["x"])
        assert time.monotonic() - start > PATIENCE
    assert result.stdout == b"x" * 1_048_500


def forward(source: socket.socket, target: socket.socket, pause: float) -> None:
    """Forward all that comes, with a pause after each piece, and the end."""
    with suppress(OSError):  # the other end may be gone
        while piece := source.recv(1 << 16):
            target.sendall(piece)
            time.sleep(pause)
        target.shutdown(socket.SHUT_WR)


def test_a_slow_but_moving_large_write_does_not_time_out(server: Server) -> None:
    """S24: on Linux; a tunnel that takes 3 MB in small pieces."""
    data = bytes(range(256)) * 12_000
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        sock.connect(listener.getsockname())
        near = stack.enter_context(listener.accept()[0])
        far = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        threads = [
            threading.Thread(target=forward, args=arguments)
            for arguments in ((near, far, 0.05), (far, near, 0))
        ]
        for thread in threads:
            thread.start()
        with remctl.Remctl() as client:
            client.open(HOST, sock=sock)
            client.set_timeout(PATIENCE)
            start = time.monotonic()
            with times_out_without_linux():
                client.command(["test", "digest", data])
                assert time.monotonic() - start > PATIENCE
                digest = hashlib.sha256(data).hexdigest()
                assert client.output().output == f"{len(data)} {digest}\n".encode()
        for thread in threads:
            thread.join()


def test_the_command_goes_on(realm: Realm, tmp_path: Path) -> None:
    """After a time-out, too: the server is not told."""
    go, done = tmp_path / "go", tmp_path / "done"
    wait = f"while [ ! -e '{go}' ]; do sleep 0.02; done; touch '{done}'"
    with realm.server({"test wait": wait}) as server:
        with times_out():
            remctl.remctl(
                server.host, server.port, command=["test", "wait"], timeout=TIMEOUT
            )
        assert not done.exists()
        go.touch()
        wait_until(done.exists)


@pytest.mark.parametrize("settings", [[], [0], [0.1, 0]])
def test_without_a_time_out_nothing_times_out(
    server: Server, settings: list[float]
) -> None:
    """S24: none by default, and 0 clears it."""
    with remctl.Remctl() as client:
        for seconds in settings:
            client.set_timeout(seconds)
        client.open(server.host, server.port)
        assert client.run(["test", "sleep", "0.5"]).stdout == b"awake\n"


# Settings


@pytest.mark.parametrize("seconds", [0.001, 0.25])
def test_set_timeout_applies_to_what_follows(
    scripted: Scripted, server: Server, seconds: float
) -> None:
    """S24: on an open connection and in the middle of a reply; fractions count."""
    stalled = scripted(["handshake", "read", "output", "hang"])
    client = remctl.Remctl(HOST, stalled.port)
    client.command(["x"])
    assert client.output().type == "output"
    client.set_timeout(seconds)
    with times_out(seconds) as caught:
        client.output()
    check_lost(client, server, caught.value)


def test_time_outs_stay_with_the_object(scripted: Scripted, server: Server) -> None:
    """S25: across open() and close()."""
    mute = scripted([["handshake", {"stop": ["hang", 0]}]])
    with remctl.Remctl(server.host, server.port) as client:
        client.set_timeout(TIMEOUT)
        for _ in range(2):
            with times_out():
                client.open(HOST, mute.port)
            client.close()


def test_the_wall_clock_does_not_count(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 50: one that is set back by an hour at each look changes nothing."""
    stalled = scripted(["handshake", "read", "hang"])
    with remctl.Remctl(HOST, stalled.port) as client:
        client.set_timeout(TIMEOUT)
        client.command(["x"])
        now = iter(range(2_000_000_000, 0, -3600))
        monkeypatch.setattr(time, "time", lambda: float(next(now)))
        with times_out():
            client.output()


# Under strain

MANY_DESCRIPTORS = """
import os, resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
while os.open("/dev/null", os.O_RDONLY) < 1100:
    pass
ticks = range(101)
"""
TIMER = """
import signal
ticks = []
signal.signal(signal.SIGALRM, lambda *_: ticks.append(None))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
"""
EVERY_TIME_OUT = """
import sys, time, remctl
full, mute, stalled, old, good = map(int, sys.argv[1:6])
timeout = float(sys.argv[6])

def expect_time_out(function, *arguments):
    start = time.monotonic()
    try:
        function(*arguments)
    except remctl.RemctlTimeoutError as error:
        print("timed out" in str(error), timeout <= time.monotonic() - start < 20)

client = remctl.Remctl(timeout=timeout)
expect_time_out(client.open, "localhost", full)
expect_time_out(client.open, "localhost", mute)
for call, arguments in (
    (client.run, [["x"]]),
    (client.noop, []),
    (client.command, [["x", b"y" * 20_000_000]]),
):
    client.set_timeout(600)
    client.open("localhost", stalled)
    client.set_timeout(timeout)
    expect_time_out(call, *arguments)
client.set_timeout(600)
client.open("localhost", old)
print(client.run(["x", "y", "z"]).stdout)
client.set_timeout(timeout)
expect_time_out(client.run, ["x"])
client.set_timeout(600)
client.open("localhost", good)
print(client.run(["test", "hello"]).stdout, len(ticks) > 100)
"""


@pytest.mark.blocking_only
@pytest.mark.parametrize("strain", [MANY_DESCRIPTORS, TIMER], ids=["fds", "timer"])
def test_time_outs_under_strain(
    scripted: Scripted, server: Server, strain: str
) -> None:
    """With more than 1100 descriptors, or a signal a millisecond."""
    hang = ["handshake", "hang"]
    read = ["handshake", "read", "hang"]
    old = ["handshake", {"protocol": 1}]
    with full() as port:
        result = run_python(
            strain + EVERY_TIME_OUT,
            port,
            scripted([["handshake", {"stop": ["hang", 0]}]]).port,
            scripted(read, read, hang).port,
            scripted([old, "hang"], [old, "serve"], [old, "read", "hang"]).port,
            server.port,
            TIMEOUT,
        )
    assert result.stderr == ""
    expected = ["True True"] * 5 + ["b'z'", "True True", "b'hello world\\n' True"]
    assert result.stdout.splitlines() == expected
