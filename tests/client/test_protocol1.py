# SPDX-License-Identifier: MIT
"""Servers that speak protocol 1: a connection for each command, and the downgrade.

S16, S42 and S48.  The server's log tells how often a command
was sent, and as whom each connection came.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest
from kerberos import forget_configuration
from stages import blocked, in_use, wait_for_release
from support import HANG, run_python, wait_until

import remctl

if TYPE_CHECKING:
    from scripted import ScriptedServer

    from remctl.testing import Realm, Server

    Scripted = Callable[..., ScriptedServer]

pytestmark = pytest.mark.both_twins

HOST = "localhost"
P1 = ["handshake", {"protocol": 1}]
P2 = ["handshake"]
SERVE = [P1, "serve"]
STATUSES = [0, 1, 127, 200, 255, 256, -1, -56, 2**31 - 1, 0]
EXPECTED = [0, 1, 127, 200, 255, 256, 255, 200, 2**31 - 1, 0]


def serving(statuses: list[int]) -> list[list[Any]]:
    """Return scripts: one connection for open(), and one for each command."""
    return [SERVE, *([P1, ["serve", {"status": status}]] for status in statuses)]


def logged(server: ScriptedServer, event: str, field: str = "connection") -> list[Any]:
    """Return a field of all events of that name; end the server, to have them all.

    In the order in which the connections were made: each has a process of its own.
    """
    server.close()
    events = [entry for entry in server.events if entry["event"] == event]
    return [entry[field] for entry in sorted(events, key=lambda e: e["connection"])]


def commands(server: ScriptedServer) -> list[list[bytes]]:
    """Return all commands that the server was sent."""
    return [
        [bytes.fromhex(argument) for argument in arguments]
        for arguments in logged(server, "command", "args")
    ]


def principals(server: ScriptedServer) -> list[str]:
    """Return as whom each connection has come, without the realm."""
    return [name.split("@")[0] for name in logged(server, "handshake", "principal")]


def check_lost(
    client: remctl.Remctl, good: Server, error: BaseException | None = None
) -> None:
    """Check S43: not open, the cause kept, and open() works.  Close it then."""
    assert not client.opened
    for unusable in (lambda: client.command(["x"]), client.output, client.noop):
        with pytest.raises(remctl.RemctlNotOpenedError, match="no currently open"):
            unusable()
    if error is not None:
        assert client.error() == str(error)
    client.set_timeout(0)
    client.open(good.host, good.port)
    assert client.run(["test", "hello"]).stdout == b"hello world\n"
    client.close()


def test_a_pool(scripted: Scripted) -> None:
    """S48, S72: what the pool keeps is the connection of open(), as a Remctl does."""
    server = scripted(*serving([0, 0, 0]))
    with remctl.Pool(HOST, server.port) as pool:
        for number in range(3):
            reply = pool.run(["test", "echo", number])
            assert reply == remctl.RemctlSimpleResult(b"%d" % number, None, 0)
    assert commands(server) == [[b"test", b"echo", b"%d" % n] for n in range(3)]
    assert logged(server, "accepted") == list(range(4))


@pytest.fixture
def bob(realm: Realm, tmp_path: Path) -> str:
    """A cache with bob's tickets."""
    return realm.kinit("bob", tmp_path / "bob")


def test_each_command_has_a_connection_and_its_own_status(scripted: Scripted) -> None:
    """S48, S16: the first and every later status is right; no command runs twice."""
    server = scripted(*serving(STATUSES))
    with remctl.Remctl(HOST, server.port) as client:
        for number, expected in enumerate(EXPECTED):
            client.command(["test", "echo", str(number)])
            assert client.opened
            assert [tuple(token) for token in client] == [
                ("output", b"%d" % number, 1, None, None),
                ("status", None, None, expected, None),
            ]
            assert client.output().type == client.output().type == "done"
            assert client.error() == "no error"
    ran = [[b"test", b"echo", b"%d" % n] for n in range(len(STATUSES))]
    assert commands(server) == ran
    assert logged(server, "command") == list(range(1, len(STATUSES) + 1))
    assert logged(server, "accepted") == list(range(len(STATUSES) + 1))


def test_a_commands_connection_ends_with_its_reply(scripted: Scripted) -> None:
    """S48: nothing is left open for a later command."""
    answer = ["read", "mic", ["result1", {"text": "a"}], "wait_eof"]
    server = scripted(SERVE, [P1, *answer])
    with remctl.Remctl(HOST, server.port) as client:
        client.command(["x"])
        assert [token.type for token in client] == ["output", "status"]
        server.wait_for("eof", connection=1)
        assert client.opened


def test_run_gives_every_status_and_the_whole_output(scripted: Scripted) -> None:
    """S48, S16: run() on protocol 1; a whole argument comes back as sent."""
    server = scripted(*serving(STATUSES))
    data = bytes(range(256)) * 100
    with remctl.Remctl(HOST, server.port) as client:
        for status in EXPECTED:
            result = client.run(["test", "echo", data])
            assert result == remctl.RemctlSimpleResult(data, None, status)
    assert len(commands(server)) == len(STATUSES)


@pytest.mark.parametrize(
    ("status", "expected"), list(zip(STATUSES, EXPECTED)), ids=map(str, STATUSES)
)
def test_the_one_shot_call(scripted: Scripted, status: int, expected: int) -> None:
    """S48, S16: remctl() runs its command once and returns the right status."""
    server = scripted(*serving([status]))
    result = remctl.remctl(HOST, server.port, command=["test", "echo", "a"])
    assert result == remctl.RemctlSimpleResult(b"a", None, expected)
    assert commands(server) == [[b"test", b"echo", b"a"]]


def test_empty_output_is_no_output(scripted: Scripted) -> None:
    """S15: protocol 1 always has an output token, and an empty one makes None."""
    server = scripted(SERVE, [P1, "read", "mic", ["result1", {"status": 3}]])
    with remctl.Remctl(HOST, server.port) as client:
        assert client.run(["x"]) == remctl.RemctlSimpleResult(None, None, 3)
        client.command(["x"])
        assert [tuple(token) for token in client] == [
            ("output", b"", 1, None, None),
            ("status", None, None, 3, None),
        ]


def test_an_error_is_never_a_success(scripted: Scripted) -> None:
    """Hazard 22: protocol 1 sends errors as output with status -1."""
    denied = ["result1", {"status": -1, "text": "Access denied\n"}]
    server = scripted(SERVE, [P1, "read", "mic", denied])
    result = remctl.remctl(HOST, server.port, command=["x"])
    assert result == remctl.RemctlSimpleResult(b"Access denied\n", None, 255)


@pytest.mark.parametrize("timeout", [None, HANG])
def test_noop_is_false_and_changes_nothing(
    timeout: float | None, scripted: Scripted
) -> None:
    """S42: noop() is False, at any time and without a connection of its own."""
    server = scripted(SERVE)
    with remctl.Remctl(HOST, server.port, timeout=timeout) as client:
        assert client.noop() is False
        assert client.output().type == "done"
        client.command(["test", "echo", "a"])
        with pytest.raises(remctl.RemctlError, match="not read to its end"):
            client.noop()
        with pytest.raises(remctl.RemctlError, match="not read to its end"):
            client.command(["test", "echo", "b"])
        assert [token.type for token in client] == ["output", "status"]
        assert client.noop() is False
        assert client.error() == "no error"
        assert client.run(["test", "echo", "c"]).stdout == b"c"
    assert logged(server, "accepted") == [0, 1, 2]
    assert len(commands(server)) == 2


def test_there_is_no_descriptor_to_wait_on(scripted: Scripted) -> None:
    """S58: fileno() raises RemctlNotOpenedError, and the connection stays usable."""
    server = scripted(SERVE)
    with remctl.Remctl(HOST, server.port) as client:
        with pytest.raises(remctl.RemctlNotOpenedError):
            client.fileno()
        assert client.run(["test", "echo", "a"]).stdout == b"a"


# Identity


def set_ccache(client: remctl.Remctl, cache: str) -> None:
    client.set_ccache(cache)


def change_variable(client: remctl.Remctl, cache: str) -> None:
    os.environ["KRB5CCNAME"] = cache


@pytest.mark.parametrize("change", [set_ccache, change_variable])
def test_commands_run_as_who_opened(
    scripted: Scripted, bob: str, change: Callable[[remctl.Remctl, str], None]
) -> None:
    """S48, S22, S29: a changed identity counts from the next open() on."""
    server = scripted(SERVE)
    with remctl.Remctl(HOST, server.port) as client:
        client.run(["test", "echo"])
        change(client, bob)
        client.run(["test", "echo"])
        client.run(["test", "echo"])
        client.open(HOST, server.port)
        client.run(["test", "echo"])
    assert principals(server) == ["user"] * 4 + ["bob"] * 2


def test_the_caches_variable_may_go(scripted: Scripted) -> None:
    """S48: commands after KRB5CCNAME was removed still run as who opened."""
    server = scripted(SERVE)
    with remctl.Remctl(HOST, server.port) as client:
        del os.environ["KRB5CCNAME"]
        client.run(["test", "echo"])
    assert principals(server) == ["user"] * 2


def test_a_cache_of_the_objects_own_beats_the_variable(
    scripted: Scripted, realm: Realm, bob: str
) -> None:
    """S48: with ccache set, KRB5CCNAME never counts, wherever it is changed."""
    server = scripted(SERVE)
    user = os.environ.pop("KRB5CCNAME")
    with remctl.Remctl(HOST, server.port, ccache=bob) as client:
        os.environ["KRB5CCNAME"] = user
        client.run(["test", "echo"])
    assert principals(server) == ["bob"] * 2


@pytest.fixture
def default_cache(realm: Realm, tmp_path: Path) -> str:
    """A cache with user's tickets, the default one where KRB5CCNAME is not set."""
    cache = realm.kinit(realm.user, tmp_path / "default")
    conf = Path(os.environ["KRB5_CONFIG"]).read_text(encoding="utf-8")
    own_conf = tmp_path / "krb5.conf"
    own_conf.write_text(
        # By MIT's name, and by Heimdal's.
        f"[libdefaults]\ndefault_ccache_name = FILE:{cache}\n"
        f"default_cc_name = FILE:{cache}\n{conf}",
        encoding="utf-8",
    )
    os.environ["KRB5_CONFIG"] = str(own_conf)
    forget_configuration()
    del os.environ["KRB5CCNAME"]
    return cache


@pytest.mark.usefixtures("default_cache")
def test_a_variable_that_was_not_there_at_open(scripted: Scripted, bob: str) -> None:
    """S48: a KRB5CCNAME set after open() is refused, before anything is sent."""
    server = scripted(SERVE)
    with remctl.Remctl(HOST, server.port) as client:
        client.run(["test", "echo"])
        os.environ["KRB5CCNAME"] = bob
        with pytest.raises(remctl.RemctlError, match="KRB5CCNAME was set") as caught:
            client.run(["test", "echo"])
        assert client.error() == str(caught.value)
        del os.environ["KRB5CCNAME"]
        client.run(["test", "echo"])
        os.environ["KRB5CCNAME"] = bob
        client.open(HOST, server.port)
        client.run(["test", "echo"])
    assert principals(server) == ["user"] * 3 + ["bob"] * 2
    assert len(logged(server, "accepted")) == 5


def test_two_objects_keep_apart(scripted: Scripted, bob: str) -> None:
    """S48: two objects on one server, each with its own identity and replies."""
    server = scripted(SERVE)
    with (
        remctl.Remctl(HOST, server.port) as first,
        remctl.Remctl(HOST, server.port, ccache=bob) as second,
    ):
        for _ in range(2):
            first.command(["test", "echo", "first"])
            second.command(["test", "echo", "second"])
            assert next(iter(first)).output == b"first"
            assert next(iter(second)).output == b"second"
            assert first.output().type == second.output().type == "status"
    assert principals(server) == ["user", "bob"] * 3
    assert len(commands(server)) == 4


def test_the_source_address_is_that_of_open(scripted: Scripted) -> None:
    """S23: set_source_ip() counts from the next open() on."""
    server = scripted(SERVE)
    with remctl.Remctl(HOST, server.port, source_ip="127.0.0.2") as client:
        client.set_source_ip("127.0.0.3")
        client.run(["test", "echo"])
        client.open(HOST, server.port)
        client.run(["test", "echo"])
    assert logged(server, "accepted", "peer") == ["127.0.0.2"] * 2 + ["127.0.0.3"] * 2


# Which protocol it is


def test_a_server_known_to_speak_2_is_refused_when_it_speaks_1(
    scripted: Scripted, server: Server
) -> None:
    """S48: open() raises RemctlError, for any later object and spelling of the name."""
    old = scripted([*P2, "serve"], SERVE)
    with remctl.Remctl(HOST, old.port) as client:
        client.run(["test", "echo"])
        for host in (HOST, HOST.upper()):
            with pytest.raises(remctl.RemctlError, match="may be an attack") as caught:
                client.open(host, old.port)
            check_lost(client, server, caught.value)
    with pytest.raises(remctl.RemctlProtocolError, match="may be an attack"):
        remctl.remctl(HOST, old.port, command=["secret"])
    assert commands(old) == [[b"test", b"echo"]]


def test_a_server_known_to_speak_2_is_refused_by_an_open_object(
    scripted: Scripted, server: Server
) -> None:
    """S48: what another object has learnt counts for the next command."""
    old = scripted(SERVE, SERVE, [*P2, "serve"], SERVE)
    with remctl.Remctl(HOST, old.port) as client:
        client.run(["test", "echo"])
        remctl.Remctl(HOST, old.port).close()
        with pytest.raises(remctl.RemctlError, match="may be an attack"):
            client.run(["secret"])
        check_lost(client, server)
    assert commands(old) == [[b"test", b"echo"]]


@pytest.mark.parametrize("noop", ["reply", "version2", "error"])
def test_a_server_that_turns_from_1_to_2(
    scripted: Scripted, server: Server, noop: str
) -> None:
    """S48: the command is not sent; open() again speaks 2, and never 1 again."""
    behave = ["serve", {"noop": noop}]
    turning = scripted(SERVE, [*P2, behave], [*P2, behave], SERVE)
    with remctl.Remctl(HOST, turning.port) as client:
        with pytest.raises(remctl.RemctlError, match="no longer speaks") as no:
            client.command(["secret"])
        check_lost(client, server, no.value)
        client.open(HOST, turning.port)
        assert client.run(["test", "echo", "a"]).stdout == b"a"
        with pytest.raises(remctl.RemctlError, match="may be an attack"):
            client.open(HOST, turning.port)
    assert commands(turning) == [[b"test", b"echo", b"a"]]


def test_a_server_that_turns_from_1_to_2_and_back(scripted: Scripted) -> None:
    """S48: protocol 2 seen by a command is remembered as well."""
    turning = scripted(SERVE, [*P2, "serve"], SERVE)
    with remctl.Remctl(HOST, turning.port) as client:
        with pytest.raises(remctl.RemctlError, match="no longer speaks protocol 1"):
            client.command(["secret"])
        with pytest.raises(remctl.RemctlError, match="may be an attack"):
            client.open(HOST, turning.port)
    assert commands(turning) == []


def test_a_socket_cannot_serve_protocol_1(scripted: Scripted, server: Server) -> None:
    """S59, hazard 32: open(sock=...) says that it cannot, and closes the socket."""
    old = scripted(SERVE)
    client = remctl.Remctl()
    sock = socket.create_connection(("127.0.0.1", old.port))
    with pytest.raises(remctl.RemctlError, match="sock cannot serve it") as caught:
        client.open(HOST, sock=sock)
    assert sock.fileno() == -1
    old.wait_for("eof")
    check_lost(client, server, caught.value)
    assert commands(old) == []


# What goes wrong


@pytest.mark.parametrize(
    ("steps", "text", "sent"),
    [
        pytest.param(["close"], "unexpected end of file", 0, id="no answer"),
        pytest.param(["read", "close"], "unexpected end of file", 1, id="no MIC"),
        pytest.param(["read", "reset"], "unexpected end of file", 1, id="reset"),
        pytest.param(["read", ["mic", {"kind": "bad"}]], "MIC", 1, id="bad MIC"),
        pytest.param(
            ["read", ["mic", {"kind": "missing"}], "result1"],
            "invalid token format",
            1,
            id="missing MIC",
        ),
        pytest.param(["read", "mic", "mic", "result1"], "GSS-API", 1, id="two MICs"),
        pytest.param(["read", "mic"], "unexpected end of file", 1, id="no result"),
        pytest.param(
            ["read", "mic", ["result1", {"cut": 30}]],
            "unexpected end of file",
            1,
            id="half a result",
        ),
        pytest.param(
            ["read", "mic", ["result1", {"bitflip": True}]], "GSS-API", 1, id="bit flip"
        ),
        pytest.param(
            ["read", "mic", ["result1", {"length": 2**32 - 1}]],
            "token too large",
            1,
            id="too large",
        ),
        pytest.param(["read", "mic", "status"], "unexpected token", 1, id="protocol 2"),
    ],
)
def test_a_broken_command_is_an_error_and_not_repeated(
    scripted: Scripted, server: Server, steps: list[Any], text: str, sent: int
) -> None:
    """S43, hazard 4: no status is made up, and the command is not sent again."""
    broken = scripted(SERVE, SERVE, [P1, *steps], SERVE)
    client = remctl.Remctl(HOST, broken.port)
    assert client.run(["test", "echo", "a"]).stdout == b"a"
    with pytest.raises(remctl.RemctlError, match=text) as caught:
        client.run(["twice?"])
    check_lost(client, server, caught.value)
    client.open(HOST, broken.port)
    assert client.run(["test", "echo", "b"]).stdout == b"b"
    client.close()
    assert commands(broken).count([b"twice?"]) == sent


def test_a_server_that_has_gone(scripted: Scripted, server: Server) -> None:
    """S43: a command that cannot connect any more loses the connection."""
    old = scripted(SERVE)
    client = remctl.Remctl(HOST, old.port)
    old.close()
    with pytest.raises(remctl.RemctlError, match="cannot connect to") as caught:
        client.command(["x"])
    check_lost(client, server, caught.value)


def test_a_command_too_large_for_protocol_1(scripted: Scripted) -> None:
    """S48, hazard 40: a command has one token; a larger one is refused, unsent."""
    old = scripted(SERVE)
    client = remctl.Remctl(HOST, old.port)
    largest = b"x" * (64 * 1024 - 4 - 3 * 4 - 2)
    assert client.run(["a", "b", largest]).stdout == largest
    text = (
        f"command too large: 65537 octets, and localhost:{old.port} speaks protocol 1"
    )
    with pytest.raises(remctl.RemctlError, match=text) as caught:
        client.command(["a", "b", largest + b"x"])
    assert caught.value.stage == "send"
    assert client.run(["a", "b", largest]).stdout == largest
    client.close()
    assert len(commands(old)) == 2


# What takes too long

STAGES = [
    pytest.param([["handshake", {"stop": ["hang", 1]}]], "stopped", 0, id="handshake"),
    pytest.param([P1, "hang"], "handshake", 0, id="command"),
    pytest.param([P1, "read", "hang"], "command", 1, id="MIC"),
    pytest.param([P1, "read", "mic", "hang"], "sent", 1, id="result"),
]


@pytest.mark.parametrize(("steps", "event", "sent"), STAGES)
def test_a_time_out_bounds_each_command(
    scripted: Scripted, server: Server, steps: list[Any], event: str, sent: int
) -> None:
    """S24, S25: a silent protocol 1 server raises RemctlTimeoutError."""
    before = in_use()
    mute = scripted(SERVE, steps)
    client = remctl.Remctl(HOST, mute.port)
    client.set_timeout(0.5)
    with pytest.raises(remctl.RemctlTimeoutError, match="timed out") as caught:
        client.run(["x"])
    mute.wait_for(event, connection=1)
    check_lost(client, server, caught.value)
    assert len(commands(mute)) == sent
    wait_for_release(before)


@pytest.mark.blocking_only
def test_what_a_time_out_leaves_behind_ends_by_itself(scripted: Scripted) -> None:
    """The job, whose socket is libremctl's, where its time-outs are safe."""
    mute = scripted(SERVE, [P1, "read", "mic", "hang"])
    result = run_python(
        """
        import os, resource, sys, time, remctl
        threads = lambda: len(os.listdir("/proc/self/task"))
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        client = remctl.Remctl("localhost", sys.argv[1])
        client.set_timeout(1)
        while threads() > 1:  # that of the handshake stays for a while
            time.sleep(0.02)
        try:
            client.run(["x"])
        except remctl.RemctlTimeoutError:
            print(threads() > 1)
            while threads() > 1:
                time.sleep(0.02)
        """,
        mute.port,
    )
    assert (result.stdout, result.stderr) == ("True\n", "")
    assert result.returncode == 0


def interrupt(client: remctl.Remctl) -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def close(client: remctl.Remctl) -> None:
    client.close()


@pytest.mark.blocking_only
@pytest.mark.parametrize(
    ("action", "expected", "text"),
    [
        (interrupt, KeyboardInterrupt, "KeyboardInterrupt"),
        (close, remctl.RemctlError, "no currently open connection"),
    ],
)
@pytest.mark.parametrize(("steps", "event", "sent"), STAGES)
def test_a_command_can_be_stopped(  # noqa: PLR0917 (a table)
    scripted: Scripted,
    server: Server,
    action: Callable[[remctl.Remctl], None],
    expected: type[BaseException],
    text: str,
    steps: list[Any],
    event: str,
    sent: int,
) -> None:
    """Ctrl-C and close() end the call; with the server all it held is released."""
    before = in_use()
    mute = scripted(SERVE, steps)
    client = remctl.Remctl(HOST, mute.port)

    def act() -> None:
        mute.wait_for(event, connection=1)
        wait_until(partial(blocked, threading.main_thread()))
        action(client)

    thread = threading.Thread(target=act)
    thread.start()
    with pytest.raises(expected) as caught:
        client.run(["x"])
    thread.join()
    assert type(caught.value) is expected
    assert client.error() == text
    check_lost(client, server)
    assert len(commands(mute)) == sent
    wait_for_release(before)
