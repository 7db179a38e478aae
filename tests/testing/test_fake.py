# SPDX-License-Identifier: MIT
"""FakeRemctl, of both twins: code sees of it what it sees of the real Remctl."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest
from twin import TwinRemctl

import remctl
import remctl.aio
import remctl.testing
import remctl.testing.aio
from remctl import (
    ErrorCode,
    RemctlError,
    RemctlNotOpenedError,
    RemctlOutput,
    RemctlProtocolError,
    RemctlSimpleResult,
    RemctlTimeoutError,
    Stream,
)

if TYPE_CHECKING:
    from remctl.testing import Call, Server

pytestmark = pytest.mark.both_twins

HELLO = RemctlSimpleResult(b"hello world\n", None, 0)
TIMED_OUT = "error receiving token: timed out"


class TwinFake(TwinRemctl, remctl.testing.aio.FakeRemctl):
    """The asyncio twin's, with the methods of the blocking one."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        client = super().__call__(*arguments, **options)
        if client._server is not None:
            client.open(*client._server)
        return client

    def remctl(self, *arguments: Any, **options: Any) -> Any:
        awaited = remctl.testing.aio.FakeRemctl()
        awaited._share(self._script)
        return self.loop.run(awaited.remctl(*arguments, **options))


def fake_remctl(*arguments: Any, **options: Any) -> Any:
    """Return the FakeRemctl of the twin that is tested."""
    twin = issubclass(remctl.Remctl, TwinRemctl)
    return (TwinFake if twin else remctl.testing.FakeRemctl)(*arguments, **options)


# The same interface


def public(of: Any) -> list[str]:
    """Return the names without an underscore."""
    return [name for name in dir(of) if not name.startswith("_")]


@pytest.mark.blocking_only
@pytest.mark.parametrize(
    ("real", "fake"),
    [
        (remctl.Remctl, remctl.testing.FakeRemctl),
        (remctl.aio.Remctl, remctl.testing.aio.FakeRemctl),
    ],
)
def test_parity(real: Any, fake: Any) -> None:
    """The names and signatures of the real class; calling it is calling the class."""
    assert public(fake) == sorted([*public(real), "remctl"])
    assert public(fake()) == sorted([*public(real()), "calls", "commands", "remctl"])
    assert issubclass(fake, real)
    for name in public(real):
        ours, theirs = getattr(fake, name), getattr(real, name)
        if callable(theirs):
            assert inspect.signature(ours) == inspect.signature(theirs)
            assert inspect.getdoc(ours) == inspect.getdoc(theirs)
    signature = inspect.signature(fake.__call__)
    constructor = inspect.signature(real.__init__)
    assert signature.parameters == constructor.parameters
    function = sys.modules[real.__module__].remctl
    assert inspect.signature(fake().remctl) == inspect.signature(function)
    assert inspect.iscoroutinefunction(fake.remctl) == (real is remctl.aio.Remctl)


# The same behaviour: a scenario is run with both.


def outcome(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what a call comes to: its result, or the exception's type and text."""
    try:
        return call(*arguments, **options)
    except Exception as error:  # noqa: BLE001 (that is what is compared)
        # Without the name of the server, which goes on in parentheses.
        text, stage = str(error).partition(" (")[0], getattr(error, "stage", None)
        return type(error), text, getattr(error, "code", None), stage


def whole_results(client: remctl.Remctl) -> Any:
    """run(), with and without output, failure and error token."""
    yield client.opened
    yield client.run(["test", "hello"])
    yield client.run(["test", "streams"])
    yield client.run(("test", "status", 3))
    yield outcome(client.run, ["no", "such"])
    yield client.error(), client.opened
    yield client.run(["test", "silent"]), client.error()


def token_by_token(client: remctl.Remctl) -> Any:
    """command(), output(), iteration, noop(), and replies left unread."""
    yield client.output()
    client.command(["test", "hello"])
    yield outcome(client.command, ["test", "hello"]), client.error()
    yield outcome(client.run, ["test", "hello"]), outcome(client.noop)
    yield [client.output() for _ in range(3)]
    yield client.noop()
    client.command(["test", "status", 3])
    yield list(client), list(client)
    client.command(["no", "such"])
    yield list(client), client.opened, client.error()


def wrong_arguments(client: remctl.Remctl) -> Any:
    """Nothing of it counts."""
    for command in ("test", [], [None], ["\ud800"], 7, ["test", ["a"]]):
        for call in (client.run, client.command):
            yield outcome(call, command)
    yield outcome(client.open, "")
    yield outcome(client.open, "host", -1)
    yield outcome(client.open, "host", "x"), outcome(client.open, "host", b"x")
    yield outcome(client.open, "host", sock=7)
    yield outcome(client.set_timeout, -1), client.error()
    yield outcome(client.set_timeout, "x"), outcome(client.set_ccache, "\0")
    yield outcome(client.set_ccache, b"x"), outcome(client.set_ccache, Path("x"))
    yield client.opened


def not_open(client: remctl.Remctl) -> Any:
    """After close(), and after the block."""
    client.close()
    for call in (client.output, client.noop, client.fileno, client.__iter__().__next__):
        yield outcome(call), client.error()
    for command in (["test"], "wrong"):
        yield outcome(client.command, command), outcome(client.run, command)
    yield client.opened
    client.set_timeout(5)
    yield client.error()
    with client as entered:
        yield entered is client
    yield client.opened, client.error()
    yield outcome(client.__reduce__)[0]


def time_outs(client: remctl.Remctl) -> Any:
    """The object is not open then, and says why it is not."""
    client.set_timeout(0.2)
    client.command(["test", "sleep", 60])
    yield outcome(client.output), client.opened
    yield outcome(client.run, ["test"]), TIMED_OUT in client.error()


def time_outs_in_run(client: remctl.Remctl) -> Any:
    """As well."""
    client.set_timeout(0.2)
    yield outcome(client.run, ["test", "sleep", 60]), client.opened
    yield TIMED_OUT in client.error()


HELLO_TOKENS = [
    RemctlOutput("output", b"hello world\n", 1),
    RemctlOutput("status", status=0),
]
UNKNOWN = RemctlProtocolError("Unknown command", 5)
LATE = RemctlTimeoutError(TIMED_OUT, stage="reply")
SCENARIOS: list[tuple[Callable[[remctl.Remctl], Any], list[Any], int]] = [
    (
        whole_results,
        [
            HELLO,
            RemctlSimpleResult(b"to standard output", b"to standard error", 0),
            RemctlSimpleResult(None, None, 3),
            UNKNOWN,
            RemctlSimpleResult(b"", None, 0),
        ],
        7,
    ),
    (
        token_by_token,
        [
            HELLO_TOKENS,
            RemctlSimpleResult(None, None, 3),
            [RemctlOutput("error", b"Unknown command", error=5)],
        ],
        7,
    ),
    (wrong_arguments, [], 20),
    (not_open, [], 11),
    (time_outs, [LATE], 2),
    (time_outs_in_run, [[LATE]], 2),
]


@pytest.mark.parametrize(
    ("scenario", "replies", "steps"),
    SCENARIOS,
    ids=[scenario.__name__ for scenario, *_ in SCENARIOS],
)
def test_same_outcomes(
    server: Server,
    scenario: Callable[[remctl.Remctl], Any],
    replies: list[Any],
    steps: int,
) -> None:
    """On the real server, and with a script of what it says."""
    with remctl.Remctl(server.host, server.port) as client:
        real = list(scenario(client))
    fake = list(scenario(fake_remctl(replies)("no.such.host.invalid")))
    assert fake == real
    assert len(real) == steps


def one_shot(call: Callable[..., Any], host: str, port: int) -> Any:
    """remctl(), with a result, the server's error, silence, and wrong arguments."""
    yield call(host, port, command=["test", "hello"], timeout=30)
    yield call(host, port, None, iter(["test", "status", 3]))
    yield outcome(call, host, port, command=["no", "such"])
    yield outcome(call, host, port, command=["test", "sleep", 60], timeout=0.2)
    for options in ({}, {"command": ["a"], "timeout": -1}, {"command": "a"}):
        yield outcome(call, host, port, **options)
    yield outcome(call, "", command=["a"]), outcome(call, "a", "x", command="a")
    yield outcome(call, host, port, command=["a"], source_ip="eth0")


def test_same_outcomes_of_one_call(server: Server) -> None:
    """On the real server, and with a script of what it says."""
    real = list(one_shot(remctl.remctl, server.host, server.port))
    fake = fake_remctl([HELLO, RemctlSimpleResult(None, None, 3), UNKNOWN, LATE])
    assert list(one_shot(fake.remctl, "no.such.host.invalid", 0)) == real
    assert len(real) == 9
    assert not fake.opened


def test_one_call_that_cannot_connect() -> None:
    """remctl() has another exception for it than open(), with the same cause."""
    refused = RemctlError("cannot connect", "connect")
    refused.__cause__ = ConnectionRefusedError(111, "Connection refused")
    fake = fake_remctl([HELLO], open_errors=[refused])
    with pytest.raises(RemctlProtocolError, match=r"^cannot connect$") as caught:
        fake.remctl("host", command=["a"])
    assert (caught.value.stage, caught.value.code) == ("connect", None)
    assert caught.value.__cause__ is refused.__cause__
    assert fake.remctl("host", command=["a"]) == HELLO


# What only the fake has


def test_each_call_is_an_object_of_its_own() -> None:
    """All go through the script together, and neither closes another's connection."""
    fake = fake_remctl([HELLO, RemctlSimpleResult(b"2", None, 0), HELLO, HELLO])
    one, two, three = (fake(f"web{number}") for number in (1, 2, 3))
    assert len({id(client) for client in (one, two, three)}) == 3
    assert isinstance(two, type(fake))
    one.command(["a"])
    assert two.run(["b"]).text() == "2"
    three.close()
    assert (one.opened, two.opened, three.opened) == (True, True, False)
    assert [token.type for token in one] == ["output", "status"]
    assert three("web4").run(["c"]) == HELLO
    assert [call.host for call in fake.calls] == ["web1", "web2", "web4"]
    assert two.commands is fake.commands
    assert two.calls is fake.calls


def test_a_fake_that_is_open_is_left_alone() -> None:
    """The first call has it only where nobody else has."""
    fake = fake_remctl([HELLO])
    fake.open("a")
    assert fake("b") is not fake
    assert fake.opened
    assert fake.run(["x"]) == HELLO
    assert fake.calls[0].host == "a"


def test_calls(tmp_path: Path) -> None:
    """Where each command went, as whom, and which one it was."""
    fake = fake_remctl([HELLO] * 5)
    client = fake("web1", "4373", "host/web1", timeout=30, ccache=tmp_path)
    client.run(["a", b"\xff", 3])
    client.set_timeout(0.5)
    client.set_ccache("FILE:/x")  # for later open() calls, as the next one
    client.command(["b"])
    client.open("bücher.example")
    client.run(["c"])
    fake.remctl("web2", None, "", ["d"], source_ip="::1")
    fake("web3", 0).run(["e"])
    arguments = [b"a", b"\xff", b"3"]
    first = {"timeout": 30, "ccache": str(tmp_path)}
    assert fake.calls == [
        ("web1", 4373, "host/web1", first, arguments),
        ("web1", 4373, "host/web1", {"timeout": 0.5, "ccache": str(tmp_path)}, [b"b"]),
        (
            "xn--bcher-kva.example",
            None,
            None,
            {"timeout": 0.5, "ccache": "FILE:/x"},
            [b"c"],
        ),
        ("web2", None, None, {"source_ip": "::1"}, [b"d"]),
        ("web3", None, None, {}, [b"e"]),
    ]
    assert fake.commands == [call.command for call in fake.calls]
    assert fake.calls[0]._fields == (
        "host",
        "port",
        "principal",
        "options",
        "command",
    )


def test_replies_of_a_function() -> None:
    """It sees the call; what it raises is as good as what it returns."""

    def reply(call: Call) -> Any:
        if call.command == [b"late"]:
            raise LATE
        if call.host == "web2":
            return UNKNOWN
        if call.command == [b"tokens"]:
            return HELLO_TOKENS
        return RemctlSimpleResult(b" ".join(call.command), None, len(call.command))

    fake = fake_remctl(reply)
    one, two = fake("web1"), fake("web2")
    for _ in range(2):
        assert one.run(["a", 1]) == RemctlSimpleResult(b"a 1", None, 2)
        with pytest.raises(RemctlProtocolError, match="Unknown command"):
            two.run(["a"])
    one.command(["tokens"])
    assert list(one) == HELLO_TOKENS
    one.command(["late"])  # as a server that is silent
    with pytest.raises(RemctlTimeoutError):
        one.output()
    assert fake.remctl("web3", command=["b"]).text() == "b"
    assert len(fake.calls) == 7


def test_wrong_replies_of_a_function() -> None:
    """Are refused when they are given; its own exceptions go through."""
    with pytest.raises(TypeError, match="a reply is a RemctlSimpleResult"):
        fake_remctl(lambda _: None)("host").run(["a"])
    with pytest.raises(ZeroDivisionError):
        fake_remctl(lambda _: 1 // 0).remctl("host", command=["a"])


@pytest.mark.blocking_only
def test_tasks_do_not_get_in_each_others_way() -> None:
    """Each with an object, one after the other and all at once, as on a real fleet."""
    fake = remctl.testing.aio.FakeRemctl(
        lambda call: RemctlSimpleResult(call.host.encode(), None, 0)
    )

    async def work(host: str) -> str:
        async with fake(host, timeout=3) as client:
            await asyncio.sleep(0)
            assert client.opened
            return (await client.run(["name"])).text()

    async def main() -> list[str]:
        return await asyncio.gather(*(work(host) for host in "abc"))

    assert asyncio.run(main()) == ["a", "b", "c"]
    assert sorted(call.host for call in fake.calls) == ["a", "b", "c"]


def test_record_of_commands() -> None:
    """As they go on the wire; what was refused did not go there."""
    fake = fake_remctl([HELLO, HELLO])
    fake.open("host")
    assert fake.commands == []
    fake.run(["a", b"\xff", 3])
    fake.command(iter(["b", ""]))
    for wrong in (["c"], [], [None]):
        with pytest.raises((RemctlError, ValueError, TypeError)):
            fake.run(wrong)
    assert fake.commands == [[b"a", b"\xff", b"3"], [b"b", b""]]


def test_it_stands_for_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies and commands go on from one object to the next."""
    fake = fake_remctl([HELLO, RemctlSimpleResult(None, None, 1)])
    monkeypatch.setattr(remctl, "Remctl", fake)
    with remctl.Remctl("host", timeout=3) as client:
        assert client.run(["a"]) == HELLO
    assert not client.opened
    with remctl.Remctl() as client:
        with pytest.raises(RemctlNotOpenedError):
            client.run(["b"])
        client.open("host")
        assert client.run(["b"]).status == 1
    assert fake.commands == [[b"a"], [b"b"]]
    with pytest.raises(ValueError, match="invalid port number"):
        remctl.Remctl("host", -1)


@pytest.mark.blocking_only
def test_it_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of remctl.aio.Remctl."""
    fake = remctl.testing.aio.FakeRemctl([HELLO, HELLO_TOKENS, UNKNOWN])
    monkeypatch.setattr(remctl.aio, "Remctl", fake)

    async def main() -> None:
        async with remctl.aio.Remctl("host") as client:
            assert await client.run(["a"]) == HELLO
            await client.command(["b"])
            assert [token async for token in client] == HELLO_TOKENS
            with pytest.raises(RemctlProtocolError, match="Unknown command"):
                await client.run(["c"])
        assert not client.opened

    asyncio.run(main())
    assert fake.commands == [[b"a"], [b"b"], [b"c"]]


def test_open_errors() -> None:
    """In their order; the object is not open then, and error() says why."""
    text = "cannot connect to host (port 4373): Connection refused"
    refused = RemctlError(text, "connect")
    fake = fake_remctl([HELLO], open_errors=[refused, None, RemctlTimeoutError("late")])
    with pytest.raises(RemctlError, match="Connection refused") as caught:
        fake("host")
    assert caught.value.stage == "connect"
    assert (fake.opened, fake.error()) == (False, refused.value)
    with pytest.raises(RemctlNotOpenedError) as not_opened:
        fake.run(["x"])
    assert repr(not_opened.value.__cause__) == repr(refused)
    fake.open("host")
    with pytest.raises(RemctlTimeoutError):
        fake.open("host")
    assert not fake.opened
    fake.open("host")
    assert fake.run(["x"]) == HELLO


def test_a_connection_lost_in_the_middle() -> None:
    """The tokens before are there, and a later open() goes on with the next reply."""
    lost = RemctlError("error receiving token: end of file", "reply")
    first = RemctlOutput("output", b"half", 2)
    fake = fake_remctl([[first, lost], HELLO])("host")
    fake.command(["x"])
    token = fake.output()
    assert token == first
    assert token.stream is Stream.STDERR
    with pytest.raises(RemctlError, match="end of file") as caught:
        fake.output()
    assert caught.value.stage == "reply"
    assert (fake.opened, fake.error()) == (False, lost.value)
    fake.open("host")
    assert fake.run(["y"]) == HELLO


class OfHost(RemctlError):
    """An exception of the program's own, with other arguments."""

    def __init__(self, host: str, number: int) -> None:
        super().__init__(f"{host} {number}")
        self.args = (host, number)
        self.number = number


@pytest.mark.parametrize(
    ("error", "args"),
    [
        (RemctlError("a"), ("a", "reply")),
        (RemctlProtocolError("a"), ("a", None, "reply")),
        (RemctlTimeoutError("a"), ("a", None, "reply")),
        (RemctlTimeoutError("a", None, "send"), ("a", None, "send")),
        (RemctlNotOpenedError("a"), ("a",)),
        (OfHost("b", 3), ("b", 3)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("before", [[], [HELLO_TOKENS[0]]])
def test_stage_in_a_reply(
    error: RemctlError, args: tuple[Any, ...], before: list[Any]
) -> None:
    """S66: "reply" where the script has none; the script's own stays as it is."""
    stage = error.stage
    fake = fake_remctl([[*before, error]])("host")
    with pytest.raises(type(error)) as caught:
        fake.run(["x"])
    not_opened = isinstance(error, RemctlNotOpenedError)
    expected = None if not_opened else stage or "reply"
    assert (caught.value.stage, caught.value.args) == (expected, args)
    assert (str(caught.value), error.stage) == (str(error), stage)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.stage, vars(again)) == (expected, vars(caught.value))


def test_error_codes() -> None:
    """Those that have a name are it, others stay numbers."""
    fake = fake_remctl([RemctlProtocolError("a", 6), RemctlProtocolError("ü", 99)])("h")
    for code, text in ((ErrorCode.ACCESS, "a"), (99, "ü")):
        with pytest.raises(RemctlProtocolError, match=text) as caught:
            fake.run(["x"])
        assert caught.value.code == code
        assert type(caught.value.code) is type(code)
        assert caught.value.stage == "reply"


def test_no_reply_left() -> None:
    """Is a failure that no handler of RemctlError hides; the command is recorded."""
    fake = fake_remctl()("host")
    with pytest.raises(AssertionError, match=r"no reply left for \[b'x'\]"):
        fake.run(["x"])
    assert fake.commands == [[b"x"]]
    assert not fake.opened


def test_there_is_no_descriptor() -> None:
    """As with a server that speaks protocol 1; a socket is taken over and closed."""
    ours, theirs = socket.socketpair()
    with theirs:
        fake = fake_remctl()
        fake.open("host", sock=ours)
        assert ours.fileno() == -1
    with pytest.raises(RemctlNotOpenedError):
        fake.fileno()


@pytest.mark.parametrize(
    ("reply", "error", "text"),
    [
        (None, TypeError, "a reply is a RemctlSimpleResult"),
        (b"hello", TypeError, "a token is a RemctlOutput"),
        (RemctlOutput("status", status=0), TypeError, "or a list of tokens, not Rem"),
        (OSError("x"), TypeError, "a reply is a RemctlSimpleResult"),
        (RemctlSimpleResult("x", None, 0), ValueError, "no server sends"),  # type: ignore[arg-type]
        ([], ValueError, "and then a status token"),
        ([HELLO_TOKENS[0]], ValueError, "and then a status token"),
        ([HELLO_TOKENS[1], HELLO_TOKENS[1]], ValueError, "and then a status token"),
        ([RemctlError("x"), HELLO_TOKENS[1]], ValueError, "and then a status token"),
        ([("status", 0)], TypeError, "a token is a RemctlOutput"),
        ([RemctlOutput("output", b"x")], ValueError, "no server sends"),
        ([RemctlOutput("output", b"x", 3)], ValueError, "no server sends"),
        ([RemctlOutput("status")], ValueError, "no server sends"),
        ([RemctlOutput("error", b"x")], ValueError, "no server sends"),
        ([RemctlOutput("done")], ValueError, "no server sends"),
    ],
    ids=repr,
)
def test_wrong_replies(reply: Any, error: type[Exception], text: str) -> None:
    """Are refused where they are written."""
    with pytest.raises(error, match=text):
        fake_remctl([HELLO, reply])


def test_wrong_open_errors() -> None:
    """As well."""
    with pytest.raises(TypeError, match="open\\(\\) raises a RemctlError or None"):
        fake_remctl(open_errors=[OSError()])


# Pools


@pytest.mark.blocking_only
def test_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """S72: it lends fakes, also if it was made before; none stays for the next test."""
    pool = remctl.Pool("foo.example.com", timeout=30, size=2)
    for number in range(2):
        with monkeypatch.context() as patch:
            reply = RemctlSimpleResult(b"%d" % number, None, 0)
            fake = remctl.testing.FakeRemctl([reply] * 3)
            patch.setattr(remctl, "Remctl", fake)
            assert pool.run(["a"]) == reply
            with pool.connection() as one, pool.connection() as two:
                assert one.run(["b"]) == two.run(["c"]) == reply
            assert fake.commands == [[b"a"], [b"b"], [b"c"]]
            assert {call.options["timeout"] for call in fake.calls} == {30.0}
        assert pool._line().idle == []


@pytest.mark.blocking_only
def test_a_pool_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """S72: the same for remctl.aio.Pool, with tasks at the same time."""
    fake = remctl.testing.aio.FakeRemctl(
        lambda call: RemctlSimpleResult(call.command[0], None, 0)
    )
    monkeypatch.setattr(remctl.aio, "Remctl", fake)

    async def main() -> None:
        async with remctl.aio.Pool("foo.example.com", size=2) as pool:
            results = await asyncio.gather(*(pool.run([n]) for n in range(9)))
            assert [each.text() for each in results] == list("012345678")
            assert len(fake.calls) == 9

    asyncio.run(main())


@pytest.mark.blocking_only
def test_a_pool_whose_connections_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """S75: a fake's failures are a pool's."""
    fake = remctl.testing.FakeRemctl(
        [RemctlTimeoutError(TIMED_OUT), HELLO],
        open_errors=[RemctlError("no", "connect")],
    )
    monkeypatch.setattr(remctl, "Remctl", fake)
    with remctl.Pool("foo.example.com", size=1) as pool:
        with pytest.raises(RemctlError, match="no"):
            pool.run(["a"])
        with pytest.raises(RemctlTimeoutError):
            pool.run(["a"])
        assert pool.run(["a"]) == HELLO
