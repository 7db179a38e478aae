# SPDX-License-Identifier: MIT
"""S72-S79: remctl.Pool, connections that are kept open and lent."""

from __future__ import annotations

import logging
import pickle
import re
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest
from support import AT_ONCE, collect, commands, descriptors, wait_until

import remctl
from remctl import _pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripted import ScriptedServer

    from remctl.testing import Realm, Server

    Scripted = Callable[..., ScriptedServer]

pytestmark = pytest.mark.both_twins

HELLO = remctl.RemctlSimpleResult(b"hello world\n", None, 0)


@pytest.fixture
def make(server: Server) -> Iterator[Callable[..., remctl.Pool]]:
    """Make pools, by default for the real remctld, and close them at the end."""
    with ExitStack() as stack:

        def make(port: int | None = None, **options: Any) -> remctl.Pool:
            port = server.port if port is None else port
            return stack.enter_context(remctl.Pool(server.host, port, **options))

        yield make


@pytest.fixture
def own_server(realm: Realm) -> Iterator[Server]:
    """A remctld for the test alone, which it may stop."""
    with realm.server(commands(realm)) as server:
        yield server


Make = Callable[..., remctl.Pool]


class Call(threading.Thread):
    """A call in a thread; ``result`` is what it returns or raises."""

    def __init__(self, function: Callable[[], object]) -> None:
        """Start the thread."""
        super().__init__(daemon=True)
        self._function = function
        self.result: Any = None
        self.start()

    def run(self) -> None:
        """Make the call."""
        try:
            self.result = self._function()
        except Exception as error:  # noqa: BLE001 (whatever it is)
            self.result = error


class BrokenHandler(logging.Handler):
    """A log handler that raises."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raise."""
        raise LookupError(record.getMessage())


def places(pool: remctl.Pool) -> list[Any]:
    """Return the places of all who have a connection or wait for one."""
    return list(pool._line()._places)


def connection(pool: remctl.Pool) -> object:
    """Return the connection that runs the next command."""
    with pool.connection() as client:
        assert client.run(["test", "hello"]) == HELLO
        return client._connection


def served(server: Server) -> int:
    """Return how many connections the server has: each has a process."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    count = 0
    for child in children.split():
        with suppress(OSError):  # it has ended
            name, state = Path(f"/proc/{child}/stat").read_text().split()[1:3]
            count += name == "(remctld)" and state != "Z"
    return count


def logged(server: ScriptedServer, *events: str) -> list[str]:
    """Return all events of these names in a server's log; end it, to have them all."""
    server.close()
    return [each["event"] for each in server.events if each["event"] in events]


def reads(client: Any) -> bool:
    """Whether a command has been sent, and its reply is not there yet."""
    connection = client and client._connection
    return connection is not None and connection.pending


# Lending


def test_the_first_call_opens_a_connection(make: Make) -> None:
    """S72: the constructor opens none; run() runs a command."""
    before = descriptors()
    pool = make()
    assert descriptors() == before
    assert pool.run(["test", "hello"]) == HELLO
    assert pool.run(iter(["test", "hello"])) == HELLO


def test_a_connection_is_lent_again(make: Make) -> None:
    """S72: one after the other, all use the same connection."""
    pool = make()
    first = connection(pool)
    for _ in range(5):
        assert connection(pool) is first


def test_the_connection_used_last_is_lent_first(make: Make) -> None:
    """S73."""
    pool = make()
    with ExitStack() as one, ExitStack() as two:
        client = one.enter_context(pool.connection())
        first = client._connection
        other = two.enter_context(pool.connection())._connection
        assert other is not first
        two.close()
    assert connection(pool) is first


def test_no_more_connections_than_size(
    make: Make, own_server: Server, tmp_path: Path
) -> None:
    """S73: as many as needed, but not more; the server counts them."""
    pool = make(own_server.port, size=3)
    file = tmp_path / "file"
    calls = [Call(lambda: pool.run(["test", "wait-for", file])) for _ in range(16)]
    wait_until(lambda: len(places(pool)) == 16 and served(own_server) == 3)
    file.touch()
    for call in calls:
        call.join()
        assert call.result.stdout == b"waiting\ndone\n"
    assert served(own_server) == 3
    assert places(pool) == []


def test_who_comes_first_is_served_first(make: Make, tmp_path: Path) -> None:
    """S73: nobody overtakes, not even a call that comes when a connection is free."""
    pool = make(size=1)
    file = tmp_path / "order"
    calls = []
    with pool.connection():
        for number in range(10):
            command = ["test", "append", file, number]
            calls.append(Call(lambda command=command: pool.run(command)))  # type: ignore[misc]
            wait_until(lambda count=number + 2: len(places(pool)) == count)  # type: ignore[misc]
    pool.run(["test", "append", file, "last"])
    for call in calls:
        call.join()
    assert file.read_text().split() == [*map(str, range(10)), "last"]


def test_each_caller_gets_the_reply_to_its_own_command(make: Make) -> None:
    """S72: many callers at a time."""
    pool = make(size=4)

    def call(number: int) -> None:
        for turn in range(5):
            stdout = pool.run(["test", "args", number, turn]).stdout
            assert stdout == f"{number}\0{turn}\0".encode()

    calls = [Call(lambda number=number: call(number)) for number in range(12)]  # type: ignore[misc]
    for each in calls:
        each.join()
        assert each.result is None


@pytest.mark.parametrize(("wait", "text"), [(0, ""), (0.2, " for 0.2 seconds")])
def test_waiting_ends(wait: float, text: str, make: Make, tmp_path: Path) -> None:
    """S73: with RemctlTimeoutError; nothing has been sent."""
    pool = make(size=1, wait=wait)
    file = tmp_path / "file"
    with pool.connection():
        begin = time.monotonic()
        with pytest.raises(remctl.RemctlTimeoutError) as caught:
            pool.run(["test", "append", file, "again"])
        assert time.monotonic() - begin >= wait
    assert re.fullmatch(
        rf"no connection to localhost:\d+ was free{text} \(size 1\)",
        str(caught.value),
    )
    assert caught.value.stage is None
    assert not file.exists()
    assert places(pool) == []
    assert pool.run(["test", "hello"]) == HELLO


def test_a_loan_has_the_settings_of_the_pool(make: Make) -> None:
    """S72: and open() without arguments opens the same server."""
    pool = make(timeout=17.5, source_ip="127.0.0.1")
    with pool.connection() as client:
        assert client._timeout == 17.5
        assert client.run(["test", "env", "REMOTE_ADDR"]).stdout == b"127.0.0.1\n"
        client.close()
        client.open()
        assert client.run(["test", "hello"]) == HELLO


# What comes back, and what does not


def test_a_loan_that_has_ended_is_over(make: Make) -> None:
    """S74: whoever kept the object cannot read another caller's reply."""
    pool = make(size=1)
    with pool.connection() as kept:
        first = kept._connection
    with pool.connection() as client:
        assert client._connection is first
        client.command(["test", "hello"])
        for call in (kept.output, kept.noop, lambda: kept.run(["test", "hello"])):
            with pytest.raises(remctl.RemctlNotOpenedError):
                call()
        kept.close()
        assert client.output().output == b"hello world\n"
        assert client.output().status == 0


def unread(client: remctl.Remctl, _: Server) -> None:
    client.command(["test", "hello"])


def half_read(client: remctl.Remctl, _: Server) -> None:
    client.command(["test", "hello"])
    client.output()


def closed(client: remctl.Remctl, _: Server) -> None:
    client.close()


def opened_elsewhere(client: remctl.Remctl, server: Server) -> None:
    client.open("localhost", server.port)


def opened_again(client: remctl.Remctl, _: Server) -> None:
    client.set_timeout(1)
    client.open()


@pytest.mark.parametrize(
    "change", [unread, half_read, closed, opened_elsewhere, opened_again]
)
def test_a_connection_in_another_state_does_not_come_back(
    change: Callable[[remctl.Remctl, Server], None],
    make: Make,
    server: Server,
    own_server: Server,
) -> None:
    """S74: only the pool's own connections, and only in step."""
    pool = make(own_server.port)
    with pool.connection() as client:
        first = client._connection
        change(client, server)
    assert pool._line().idle == []
    with pool.connection() as client:
        assert client._connection is not first
        assert client._timeout == 0
        assert client.run(["test", "hello"]) == HELLO
    wait_until(lambda: served(own_server) == 1)


def test_a_loan_that_another_thread_still_uses(
    make: Make, own_server: Server, tmp_path: Path
) -> None:
    """S74: its call ends, and the connection does not come back."""
    pool = make(own_server.port)
    with pool.connection() as client:
        call = Call(lambda: client.run(["test", "wait-for", tmp_path / "file"]))
        wait_until(lambda: client._connection.pending)  # type: ignore[union-attr]
    call.join(AT_ONCE)
    assert isinstance(call.result, remctl.RemctlError)
    assert pool._line().idle == []
    assert pool.run(["test", "hello"]) == HELLO


@pytest.mark.parametrize("own", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_exception_in_the_with_statement(
    own: type[BaseException], make: Make
) -> None:
    """S74: the connection comes back if it is in step."""
    pool = make()
    with pytest.raises(own), pool.connection() as client:
        first = client._connection
        raise own
    assert connection(pool) is first


def test_what_the_server_says_is_raised_and_the_connection_kept(make: Make) -> None:
    """S72, S74: an error of the server comes as from Remctl.run()."""
    pool = make()
    first = connection(pool)
    with pytest.raises(remctl.RemctlProtocolError) as caught:
        pool.run(["test", "denied"])
    assert caught.value.code == remctl.ErrorCode.ACCESS
    assert connection(pool) is first


# Connections that are lost, or too old


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_server_is_started_again(end: str, make: Make, own_server: Server) -> None:
    """S75: what it has closed is not lent; nobody notices."""
    pool = make(own_server.port)
    with pool.connection(), pool.connection():
        pass
    getattr(own_server, end)()
    own_server.start()
    assert pool.run(["test", "hello"]) == HELLO


def test_the_server_is_gone(make: Make, own_server: Server) -> None:
    """S75: open() fails, nothing has been sent, and the next call tries again."""
    pool = make(own_server.port, size=1)
    assert pool.run(["test", "hello"]) == HELLO
    own_server.kill()
    for _ in range(3):
        with pytest.raises(remctl.RemctlError, match="cannot connect") as caught:
            pool.run(["test", "hello"])
        assert caught.value.stage == "connect"
    own_server.start()
    assert pool.run(["test", "hello"]) == HELLO


def test_a_command_is_not_sent_twice(make: Make, scripted: Scripted) -> None:
    """S75: whatever becomes of its connection."""
    server = scripted(
        ["handshake", "read", "echo", "read", "close"], ["handshake", "serve"]
    )
    pool = make(server.port, principal="host/localhost")
    assert pool.run(["test", "echo", "1"]).stdout == b"1"
    with pytest.raises(remctl.RemctlError, match="the command may have run") as caught:
        pool.run(["test", "echo", "2"])
    assert caught.value.stage == "reply"
    assert pool.run(["test", "echo", "3"]).stdout == b"3"
    assert logged(server, "command") == ["command"] * 3


@pytest.mark.parametrize("answers", [True, False])
def test_an_idle_connection_is_asked(
    answers: bool, make: Make, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S75: with noop(); it is replaced if no answer comes, and so are the others."""
    monkeypatch.setattr(_pool, "TRUSTED", 0)
    monkeypatch.setattr(_pool, "PATIENCE", 30 if answers else 0.3)
    serve = ["handshake", "serve"]
    first = serve if answers else ["handshake", "read", "echo", "hang"]
    server = scripted(first, first, serve)
    pool = make(server.port, principal="host/localhost")
    with pool.connection() as one, pool.connection() as two:
        for client in (one, two):
            assert client.run(["test", "echo", "1"]).stdout == b"1"
    assert pool.run(["test", "echo", "2"]).stdout == b"2"
    assert len(pool._line().idle) == (2 if answers else 1)
    assert len(logged(server, "accepted")) == (2 if answers else 3)


def test_a_connection_used_a_moment_ago_is_not_asked(
    make: Make, scripted: Scripted
) -> None:
    """S75: a command is one round trip."""
    server = scripted(["handshake", "serve"])
    pool = make(server.port, principal="host/localhost")
    for number in range(3):
        assert pool.run(["test", "echo", number]).stdout == str(number).encode()
    wait_until(lambda: pool._line().idle[0].since + _pool.TRUSTED < time.monotonic())
    assert pool.run(["test", "echo", 3]).stdout == b"3"
    expected = ["command"] * 3 + ["noop", "command"]
    assert logged(server, "command", "noop") == expected


@pytest.mark.parametrize("late", ["more", "a status", "the end"])
def test_what_comes_to_an_idle_connection(
    late: str, make: Make, scripted: Scripted
) -> None:
    """S74: it is not lent again, so nobody reads that as a reply."""
    steps = {
        "more": ["output", {"text": "late"}],
        "a status": ["status", {"status": 7}],
        "the end": ["close"],
    }
    server = scripted(
        ["handshake", "read", "echo", "barrier", steps[late], "wait_eof"],
        ["handshake", "serve"],
    )
    pool = make(server.port, principal="host/localhost")
    assert pool.run(["test", "echo", "1"]).stdout == b"1"
    server.proceed()
    (idle,) = pool._line().idle
    wait_until(idle.connection.has_input)
    assert pool.run(["test", "echo", "2"]).stdout == b"2"


@pytest.mark.parametrize("option", ["max_age", "max_idle"])
def test_an_old_connection_is_closed(
    option: str, make: Make, own_server: Server
) -> None:
    """S76: when the pool is used, not only when its own turn comes."""
    pool = make(own_server.port, **{option: 0.2})
    with pool.connection() as one, pool.connection() as two:
        first = {one._connection, two._connection}
    time.sleep(0.2)
    assert connection(pool) not in first
    wait_until(lambda: served(own_server) == 1)


@pytest.mark.parametrize("why", ["too old", "closed"])
def test_a_connection_is_looked_at_when_it_is_taken(
    why: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S74, S76: it may have come back since the last look at all of them."""
    pool = make(max_age=3600)
    pool.run(["test", "hello"])
    monkeypatch.setattr(pool, "_close_expired", lambda _: None)
    (idle,) = pool._line().idle
    if why == "closed":
        idle.connection.close("by the test")
    else:
        idle.opened -= 3600
    assert connection(pool) is not idle.connection


def test_an_old_connection_that_comes_back(make: Make, own_server: Server) -> None:
    """S76: it is closed at once, and no call was disturbed."""
    pool = make(own_server.port, max_age=0.1)
    with pool.connection() as client:
        time.sleep(0.1)
        assert client.run(["test", "hello"]) == HELLO
    wait_until(lambda: served(own_server) == 0)


def test_bounds_can_be_taken_away(make: Make) -> None:
    """S76: None: however late it is."""
    pool = make(max_age=None, max_idle=None)
    first = connection(pool)
    (idle,) = pool._line().idle
    idle.since = idle.opened = time.monotonic() - 1e9
    assert connection(pool) is first


# The end of a pool


def test_close(make: Make, own_server: Server) -> None:
    """S77: idle connections are closed, and the pool stays closed."""
    pool = make(own_server.port)
    assert pool.run(["test", "hello"]) == HELLO
    for _ in range(2):
        pool.close()
    wait_until(lambda: served(own_server) == 0)
    for call in (lambda: pool.run(7), lambda: pool.connection().__enter__()):  # type: ignore[arg-type]
        with pytest.raises(remctl.RemctlNotOpenedError, match=r"^the pool is closed$"):
            call()
    assert places(pool) == []


def test_close_while_others_wait_and_work(
    make: Make, own_server: Server, tmp_path: Path
) -> None:
    """S77: each of them gets a RemctlError at once."""
    pool = make(own_server.port, size=2)
    command = ["test", "wait-for", tmp_path / "file"]
    calls = [Call(lambda: pool.run(command)) for _ in range(6)]
    wait_until(lambda: len(places(pool)) == 6 and served(own_server) == 2)
    wait_until(lambda: all(reads(place()) for place in places(pool)[:2]))
    pool.close()
    for call in calls:
        call.join(AT_ONCE)
        assert isinstance(call.result, remctl.RemctlError)
    texts = sorted(str(call.result) for call in calls)
    during = "the connection was closed during the call"
    assert texts == [during] * 2 + ["the pool is closed"] * 4
    assert places(pool) == []


@pytest.mark.parametrize("method", ["_lend_idle", "_take_back"])
@pytest.mark.parametrize("idle", [False, True])
def test_close_in_between(
    method: str,
    idle: bool,
    make: Make,
    own_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S77: in the moment in which nobody can find a connection, nothing stays open."""
    pool = make(own_server.port)
    if idle:
        pool.run(["test", "hello"])
    client = type(pool._new_client())
    detach, lend = client._detach, pool._lend_idle

    def detach_and_close(self: remctl.Remctl) -> object:
        connection = detach(self)
        pool.close()
        return connection

    def lend_and_close(*arguments: Any) -> bool:
        lent = lend(*arguments)
        pool.close()
        return lent

    if method == "_take_back":
        monkeypatch.setattr(client, "_detach", detach_and_close)
        assert pool.run(["test", "hello"]) == HELLO
    else:
        monkeypatch.setattr(pool, "_lend_idle", lend_and_close)
        with pytest.raises(remctl.RemctlNotOpenedError, match="the pool is closed"):
            pool.run(["test", "hello"])
    assert (places(pool), pool._line().idle) == ([], [])
    wait_until(lambda: served(own_server) == 0)


def test_close_whatever_a_log_handler_raises(make: Make, own_server: Server) -> None:
    """S77: all connections are closed, and those who wait are woken."""
    pool = make(own_server.port, size=2)
    logger = logging.getLogger("remctl")
    with ExitStack() as stack:
        loans = [stack.enter_context(pool.connection()) for _ in range(2)]
        call = Call(lambda: pool.run(["test", "hello"]))
        wait_until(lambda: len(places(pool)) == 3)
        handler = BrokenHandler()
        logger.addHandler(handler)
        stack.callback(logger.removeHandler, handler)
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.DEBUG)
        with pytest.raises(LookupError):
            pool.close()
        assert not any(client.opened for client in loans)
        call.join(AT_ONCE)
        assert isinstance(call.result, remctl.RemctlNotOpenedError)


def test_close_while_a_connection_is_opened(make: Make, scripted: Scripted) -> None:
    """S77: the call that opens it ends at once."""
    server = scripted([["handshake", {"stop": ["hang", 0]}]])
    pool = make(server.port, principal="host/localhost")
    call = Call(lambda: pool.run(["test", "hello"]))
    server.wait_for("accepted")
    pool.close()
    call.join(AT_ONCE)
    assert isinstance(call.result, remctl.RemctlError)


def test_a_loan_ends_with_the_pool(server: Server) -> None:
    """S77: the end of the pool's with statement closes it."""
    with remctl.Pool(server.host, server.port) as pool:
        loan = pool.connection()
        client = loan.__enter__()
    with pytest.raises(remctl.RemctlNotOpenedError):
        client.run(["test", "hello"])
    loan.__exit__(None, None, None)
    assert pool._line().idle == []


def test_pools_that_are_dropped(own_server: Server) -> None:
    """S77: a pool that is collected closes its connections."""
    pool = remctl.Pool(own_server.host, own_server.port)
    assert pool.run(["test", "hello"]) == HELLO
    del pool
    collect()
    wait_until(lambda: served(own_server) == 0)


# Arguments


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 0}, "size must be 1 or more: 0"),
        ({"size": -1}, "size must be 1 or more: -1"),
        ({"max_idle": 0}, "max_idle must be positive, or None: 0"),
        ({"max_age": 0}, "max_age must be positive, or None: 0"),
        ({"max_age": float("nan")}, "max_age must be finite: nan"),
        ({"max_idle": float("inf")}, "max_idle must be finite: inf"),
        ({"wait": -1}, "wait must be 0 or more, or None: -1"),
        ({"host": ""}, "host must not be empty"),
        ({"port": 65536}, "invalid port number: 65536"),
        ({"ccache": "a\0b"}, "ccache must not contain NUL"),
    ],
)
def test_wrong_values(options: dict[str, Any], text: str) -> None:
    """S72: ValueError from the constructor."""
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        remctl.Pool(**{"host": "localhost", **options})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": 1.5}, "size must be an int: 1.5"),
        ({"size": True}, "size must be an int: True"),
        ({"size": None}, "size must be an int: None"),
        ({"max_age": "1"}, "max_age must be a number: '1'"),
        ({"wait": "1"}, "wait must be a number: '1'"),
        ({"timeout": "1"}, "timeout must be a number: '1'"),
        ({"host": None}, "host must be a str, not NoneType"),
    ],
)
def test_wrong_types(options: dict[str, Any], text: str) -> None:
    """S72: TypeError from the constructor."""
    with pytest.raises(TypeError, match=f"^{re.escape(text)}$"):
        remctl.Pool(**{"host": "localhost", **options})


def test_a_negative_time_out() -> None:
    """S72: as in Remctl()."""
    with pytest.raises(remctl.RemctlError, match=r"^invalid timeout -1$"):
        remctl.Pool("localhost", timeout=-1)


def test_a_wrong_command_takes_no_connection(make: Make) -> None:
    """S72: TypeError, before anything is opened or waited for."""
    pool = make(1, size=1)
    with pytest.raises(TypeError, match="command must be a sequence"):
        pool.run("test hello")
    with pytest.raises(ValueError, match="command must not be empty"):
        pool.run([])


def test_repr(make: Make) -> None:
    """S72: the server, and how many connections there are."""
    pool = make(4373, size=5)
    name = f"{type(pool).__module__}.{type(pool).__qualname__}"
    assert repr(pool) == f"<{name} localhost:4373, 0 of 5 lent, 0 idle>"
    pool.close()
    assert repr(pool) == f"<{name} localhost:4373, closed>"
    assert "::1]:4373" in repr(remctl.Pool("::1"))


def test_pools_cannot_be_pickled(make: Make) -> None:
    """S72: TypeError, as for connections."""
    pool = make()
    with pytest.raises(TypeError, match=f"cannot pickle '{type(pool).__name__}'"):
        pickle.dumps(pool)
