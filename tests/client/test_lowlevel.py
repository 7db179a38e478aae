# SPDX-License-Identifier: MIT
"""S49-S53: the low-level interface, remctl._remctl, also as _remctl."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
from typing import TYPE_CHECKING, Any, Callable

import pytest
from stages import blocked
from support import HANG, run_python, wait_until

import _remctl as low
import remctl
import remctl._remctl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripted import ScriptedServer

    from remctl.testing import Realm, Server

HELLO = [b"test", b"hello"]
DONE = ("done", None, 0, 0, 0)
NOT_OPENED = "no currently open connection"
PENDING = "the reply to the last command is not read to its end"

# Each function that takes a handle, with arguments that it would accept after it.
ON_HANDLES: list[tuple[Callable[..., object], tuple[object, ...]]] = [
    (low.remctl_set_ccache, ("FILE:/nonexistent",)),
    (low.remctl_set_source_ip, ("127.0.0.1",)),
    (low.remctl_set_timeout, (1,)),
    (low.remctl_open, ("localhost", 1, None)),
    (low.remctl_error, ()),
    (low.remctl_command, (HELLO,)),
    (low.remctl_commandv, (HELLO,)),
    (low.remctl_output, ()),
    (low.remctl_noop, ()),
    (low.remctl_close, ()),
]
on_handles = pytest.mark.parametrize(
    ("function", "arguments"),
    ON_HANDLES,
    ids=lambda value: getattr(value, "__name__", ""),
)


@pytest.fixture
def refused() -> Iterator[int]:
    """A port that refuses connections, as nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def handle() -> Iterator[Any]:
    """A new handle, which the test may close."""
    handle = low.remctl_new()
    yield handle
    with contextlib.suppress(ValueError):
        low.remctl_close(handle)


@pytest.fixture
def opened(handle: Any, server: Server) -> Any:
    """A handle with a connection to the real remctld."""
    assert low.remctl_open(handle, server.host, server.port) == 1
    return handle


def tokens(handle: Any) -> list[Any]:
    """Read the tokens up to status, error or failure."""
    result: list[Any] = []
    while not result or (result[-1] and result[-1][0] == "output"):
        result.append(low.remctl_output(handle))
    return result


def test_module_has_the_names_of_the_c_api() -> None:
    """S49: the functions, VERSION and the header's constants, and nothing else."""
    functions = ["remctl", "remctl_new", "remctl_open", "remctl_close", "remctl_error"]
    functions += ["remctl_command", "remctl_commandv", "remctl_output", "remctl_noop"]
    functions += ["remctl_set_ccache", "remctl_set_source_ip", "remctl_set_timeout"]
    constants = {
        "REMCTL_PORT": 4373,
        "REMCTL_PORT_OLD": 4444,
        "REMCTL_SERVICE": "remctl",
        "REMCTL_OUT_OUTPUT": 0,
        "REMCTL_OUT_STATUS": 1,
        "REMCTL_OUT_ERROR": 2,
        "REMCTL_OUT_DONE": 3,
        "VERSION": remctl.__version__,
    }
    assert sorted(remctl._remctl.__all__) == sorted([*functions, *constants])
    assert all(callable(getattr(low, name)) for name in functions)
    assert {name: getattr(low, name) for name in constants} == constants


@pytest.mark.parametrize("first", ["_remctl", "remctl._remctl", "remctl"])
def test_top_level_alias_is_the_same(first: str) -> None:
    """S53: `import _remctl` gives the same objects, whatever is imported first."""
    result = run_python(
        f"""
        import {first}
        import _remctl, remctl._remctl
        names = remctl._remctl.__all__
        assert sorted(_remctl.__all__) == sorted(names) and names
        for name in names:
            assert getattr(_remctl, name) is getattr(remctl._remctl, name), name
        print("same")
        """
    )
    assert (result.stdout, result.stderr) == ("same\n", "")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ([b"hello"], (None, b"hello world\n", None, 0)),
        ([b"streams", b"out", b"err"], (None, b"out", b"err", 0)),
        ([b"streams", b"", b"err"], (None, None, b"err", 0)),
        ([b"status", b"1"], (None, None, None, 1)),
        ([b"status", b"200"], (None, None, None, 200)),
        ([b"stdin", b"a\0b"], (None, b"a\0b", None, 0)),
        ([b"args", b"", b"\xff\xfe"], (None, b"\0\xff\xfe\0", None, 0)),
        ([b"no such"], (b"Unknown command", None, None, 0)),
        ([b"denied"], (b"Access denied", None, None, 0)),
    ],
)
def test_remctl_returns_a_tuple(
    server: Server, command: list[bytes], expected: tuple[object, ...]
) -> None:
    """S50, S12, S15, S16: error, stdout and stderr, each bytes or None; the status."""
    result = low.remctl(server.host, server.port, None, [b"test", *command])
    assert result == expected
    assert type(result) is tuple
    assert type(result[3]) is int


def test_remctl_takes_the_servers_principal(server: Server) -> None:
    """S50: the third argument is the server's principal; an unknown one fails."""
    port = server.port
    assert low.remctl("localhost", port, server.principal, HELLO)[0] is None
    error, *rest = low.remctl("localhost", port, "host/other.example.com", HELLO)
    assert b"GSS-API error" in (error or b"")
    assert rest == [None, None, 0]


@pytest.mark.parametrize(
    ("host", "error"),
    [
        ("localhost", b"cannot connect to localhost (port %d): "),
        ("nowhere.invalid", b"unknown host nowhere.invalid: "),
    ],
)
def test_remctl_returns_why_it_cannot_connect(
    refused: int, host: str, error: bytes
) -> None:
    """S50, S28: a failure is the first member, as bytes, and not an exception."""
    result = low.remctl(host, refused, None, HELLO)
    assert result[0] is not None
    assert result[0].startswith(error.replace(b"%d", str(refused).encode()))
    assert result[1:] == (None, None, 0)


@pytest.mark.parametrize("stream", [1, 2])
def test_two_empty_outputs_are_served(
    handle: Any, scripted: Callable[..., ScriptedServer], stream: int
) -> None:
    """S50: what makes C's remctl() free a buffer twice."""
    empty = ["output", {"text": "", "stream": stream, "repeat": 2}]
    server = scripted(["handshake", "read", empty, ["status", {"status": 3}]])
    assert low.remctl("localhost", server.port, None, HELLO) == (None, None, None, 3)
    assert low.remctl_open(handle, "localhost", server.port)
    assert low.remctl_commandv(handle, HELLO)
    token = ("output", b"", stream, 0, 0)
    assert tokens(handle) == [token, token, ("status", None, 0, 3, 0)]


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (["error", {"code": 99, "hex": "6f6f7073ff00"}], b"oops\xff\0"),
        ("close", b"error receiving token: unexpected end of file"),
    ],
)
def test_remctl_returns_output_before_an_error(
    scripted: Callable[..., ScriptedServer], end: object, error: bytes
) -> None:
    """S50: what came before an error is returned with it; a server's text as sent."""
    first = ["output", {"text": "out"}]
    second = ["output", {"text": "err", "stream": 2}]
    server = scripted(["handshake", "read", first, second, end])
    text, *rest = low.remctl("localhost", server.port, None, HELLO)
    assert text is not None
    assert text.partition(b" (")[0] == error
    assert rest == [b"out", b"err", 0]


def test_one_connection_from_new_to_close(handle: Any, server: Server) -> None:
    """S51: what each function returns when all goes well, with exact types."""
    results: list[Any] = [
        low.remctl_set_timeout(handle, 60),
        low.remctl_set_source_ip(handle, "127.0.0.1"),
        low.remctl_open(handle, server.host, server.port, server.principal),
        low.remctl_error(handle),
        low.remctl_commandv(handle, [b"test", b"streams", b"", b"err"]),
        low.remctl_output(handle),
        low.remctl_output(handle),
        low.remctl_output(handle),
        low.remctl_noop(handle),
        low.remctl_command(handle, [b"test", b"status", b"200"]),
        low.remctl_output(handle),
        low.remctl_output(handle),
        low.remctl_close(handle),  # type: ignore[func-returns-value]  # its None
    ]
    expected: list[Any] = [1, 1, 1, "no error", True]
    expected += [("output", b"err", 2, 0, 0), ("status", None, 0, 0, 0), DONE]
    expected += [1, True, ("status", None, 0, 200, 0), DONE, None]
    assert results == expected
    assert [type(result) for result in results] == [type(each) for each in expected]


def test_output_returns_plain_types(opened: Any) -> None:
    """S51: a plain tuple of plain members, no named tuple and no enum."""
    plain = [tuple, str, bytes, int, int, int]
    assert low.remctl_commandv(opened, HELLO)
    token: tuple[Any, ...] = low.remctl_output(opened)
    assert [type(each) for each in (token, *token)] == plain
    assert [each[0] for each in tokens(opened)] == ["status"]
    assert low.remctl_commandv(opened, [b"test", b"no such"])
    token = low.remctl_output(opened)
    assert token == ("error", b"Unknown command", 0, 0, 5)
    assert [type(each) for each in (token, *token)] == plain
    assert low.remctl_output(opened) == DONE


def test_error_code_may_be_unknown(
    handle: Any, scripted: Callable[..., ScriptedServer]
) -> None:
    """S51, S41: an error token with a code that no specification names."""
    error = ["error", {"code": 4242, "text": "?"}]
    server = scripted(["handshake", "read", error, "wait_eof"])
    assert low.remctl_open(handle, "localhost", server.port)
    assert low.remctl_commandv(handle, HELLO)
    assert tokens(handle) == [("error", b"?", 0, 0, 4242)]


def test_calls_without_a_connection_fail(handle: Any) -> None:
    """S51: True and False, 1 and 0, a token or (): statuses and no exceptions."""
    assert low.remctl_error(handle) == "no error"
    calls: list[tuple[Callable[..., object], list[object], object]] = [
        (low.remctl_command, [HELLO], False),
        (low.remctl_commandv, [HELLO], False),
        (low.remctl_output, [], ()),
        (low.remctl_noop, [], 0),
    ]
    for function, arguments, failure in calls:
        result = function(handle, *arguments)
        assert (type(result), result) == (type(failure), failure)
        assert low.remctl_error(handle) == NOT_OPENED


def test_failed_open_returns_0(handle: Any, refused: int, server: Server) -> None:
    """S51: remctl_error() tells why, and the handle can be opened afterwards."""
    result = low.remctl_open(handle, "localhost", refused)
    assert (type(result), result) == (int, 0)
    assert "cannot connect to localhost (port " in low.remctl_error(handle)
    assert low.remctl_open(handle, "nowhere.invalid", refused) == 0
    assert "unknown host nowhere.invalid" in low.remctl_error(handle)
    assert low.remctl_open(handle, server.host, server.port) == 1
    assert low.remctl_error(handle) == "no error"


def test_setters_return_0_when_refused(handle: Any) -> None:
    """S51, S24: a negative time-out."""
    result = low.remctl_set_timeout(handle, -1)
    assert (type(result), result) == (int, 0)
    assert low.remctl_error(handle) == "invalid timeout -1"
    assert low.remctl_set_timeout(handle, 0) == 1
    assert low.remctl_error(handle) == "no error"


def test_settings_take_effect(
    handle: Any, realm: Realm, server: Server, tmp_path: Path
) -> None:
    """S51: the cache that names us, a source that is not ours, the time-out."""
    cache = realm.kinit("bob", tmp_path / "bob")
    result = low.remctl_set_ccache(handle, cache)
    assert (type(result), result) == (int, 1)
    assert low.remctl_open(handle, server.host, server.port)
    assert low.remctl_commandv(handle, [b"test", b"user"])
    assert tokens(handle)[0][1] == realm.principal("bob").encode() + b"\n"
    assert low.remctl_set_timeout(handle, 0.2) == 1
    assert low.remctl_commandv(handle, [b"test", b"sleep", b"60"])
    assert low.remctl_output(handle) == ()
    assert low.remctl_error(handle).startswith("error receiving token: timed out (")
    assert low.remctl_set_source_ip(handle, "192.0.2.1") == 1
    assert low.remctl_open(handle, server.host, server.port) == 0
    assert "cannot connect to localhost" in low.remctl_error(handle)


def test_command_while_a_reply_is_unread(opened: Any) -> None:
    """S51, S31: refused, and the reply is still there."""
    assert low.remctl_commandv(opened, HELLO)
    assert low.remctl_commandv(opened, HELLO) is False
    assert low.remctl_error(opened) == PENDING
    assert low.remctl_noop(opened) == 0
    assert low.remctl_error(opened) == PENDING
    assert tokens(opened) == [
        ("output", b"hello world\n", 1, 0, 0),
        ("status", None, 0, 0, 0),
    ]
    assert low.remctl_noop(opened) == 1


def test_empty_command_is_not_sent(opened: Any, refused: int) -> None:
    """S52: a failure and no exception; nothing reaches a server."""
    assert low.remctl_commandv(opened, []) is False
    assert low.remctl_error(opened) == "command must not be empty"
    assert low.remctl_noop(opened) == 1
    result = low.remctl("localhost", refused, None, [])
    assert result == (b"command must not be empty", None, None, 0)


def test_lost_connection_stays_lost(
    handle: Any, scripted: Callable[..., ScriptedServer]
) -> None:
    """S51, S43: () tells of the loss; nothing is connected again behind one's back."""
    server = scripted(["handshake", "read", "close"], ["handshake", "serve"])
    assert low.remctl_open(handle, "localhost", server.port)
    assert low.remctl_commandv(handle, HELLO)
    assert low.remctl_output(handle) == ()
    text = "error receiving token: unexpected end of file ("
    assert low.remctl_error(handle).startswith(text)
    assert low.remctl_output(handle) == ()
    assert low.remctl_commandv(handle, HELLO) is False
    assert low.remctl_noop(handle) == 0
    assert low.remctl_error(handle) == NOT_OPENED
    assert low.remctl_open(handle, "localhost", server.port) == 1
    assert low.remctl_commandv(handle, [*HELLO, b"again"])
    assert tokens(handle)[0] == ("output", b"again", 1, 0, 0)
    server.wait_for("accepted", connection=1)
    accepted = [event for event in server.events if event["event"] == "accepted"]
    assert len(accepted) == 2


@pytest.mark.parametrize(
    ("protocol", "answer"), [(1, "reply"), (2, "version2"), (2, "error")]
)
def test_noop_on_an_old_server(
    handle: Any, scripted: Callable[..., ScriptedServer], protocol: int, answer: str
) -> None:
    """S51, S42: 0 with a reason; commands work as before."""
    handshake = ["handshake", {"protocol": protocol}]
    server = scripted([handshake, ["serve", {"noop": answer}]])
    assert low.remctl_open(handle, "localhost", server.port)
    result = low.remctl_noop(handle)
    assert (type(result), result) == (int, 0)
    assert low.remctl_error(handle) == "NOOP message not supported"
    assert low.remctl_commandv(handle, [*HELLO, b"after"])
    assert tokens(handle)[0][1] == b"after"


@pytest.mark.parametrize(
    "command",
    [
        None,
        b"test",
        "test",
        0,
        (b"test", b"hello"),
        {b"test": b"hello"},
        iter(HELLO),
        ["test", "hello"],
        [b"test", None],
        [b"test", bytearray(b"hello")],
        [b"test", memoryview(b"hello")],
        [b"test", 1],
        [[b"test"]],
    ],
)
def test_commands_are_lists_of_bytes(opened: Any, refused: int, command: Any) -> None:
    """S52, S17: else TypeError, before any I/O, and the connection stays as it was."""
    for function in (low.remctl_command, low.remctl_commandv):
        with pytest.raises(TypeError, match="command must be a list of bytes"):
            function(opened, command)
    assert low.remctl_error(opened) == "no error"
    assert low.remctl_noop(opened) == 1
    with pytest.raises(TypeError, match="command must be a list of bytes"):
        low.remctl("localhost", refused, None, command)


BAD_STRINGS: list[tuple[object, type[Exception], str]] = [
    (b"bytes", TypeError, "must be a str.*, not bytes"),
    (7, TypeError, "must be a str.*, not int"),
    ("a\0b", ValueError, "must not contain NUL"),
]
BAD_HOSTS = [
    *BAD_STRINGS,
    (None, TypeError, "host must be a str, not NoneType"),
    ("", ValueError, "host must not be empty"),
]
BAD_PORTS: list[tuple[object, type[Exception], str]] = [
    ("foo", TypeError, "port must be a number: 'foo'"),
    (1.5, TypeError, "port must be a number: 1.5"),
    (True, TypeError, "port must be a number: True"),
    (-1, ValueError, "invalid port number: -1"),
    (65536, ValueError, "invalid port number: 65536"),
]
BAD_SERVERS = [
    *(((bad, 1, None), error, text) for bad, error, text in BAD_HOSTS),
    *((("localhost", bad, None), error, text) for bad, error, text in BAD_PORTS),
    *((("localhost", 1, bad), error, text) for bad, error, text in BAD_STRINGS),
]


@pytest.mark.parametrize(("arguments", "error", "text"), BAD_SERVERS)
def test_bad_servers_are_refused(
    opened: Any, arguments: tuple[Any, Any, Any], error: type[Exception], text: str
) -> None:
    """S52, S13, S5: types and NUL raise, before the open connection is touched."""
    with pytest.raises(error, match=text):
        low.remctl(*arguments, HELLO)
    with pytest.raises(error, match=text):
        low.remctl_open(opened, *arguments)
    assert low.remctl_error(opened) == "no error"
    assert low.remctl_commandv(opened, HELLO)
    assert tokens(opened)[0][1] == b"hello world\n"


@pytest.mark.parametrize(
    ("setter", "value", "error", "text"),
    [
        *(
            (setter, *bad)
            for setter in (low.remctl_set_ccache, low.remctl_set_source_ip)
            for bad in (
                *BAD_STRINGS,
                (None, TypeError, "must be a str.*, not NoneType"),
            )
        ),
        (low.remctl_set_timeout, None, TypeError, "timeout must be a number: None"),
        (low.remctl_set_timeout, "1", TypeError, "timeout must be a number: '1'"),
        (low.remctl_set_timeout, True, TypeError, "timeout must be a number: True"),
        (low.remctl_set_timeout, float("nan"), ValueError, "timeout must be finite"),
        (low.remctl_set_timeout, float("inf"), ValueError, "timeout must be finite"),
    ],
)
def test_bad_settings_are_refused(
    opened: Any, setter: Any, value: object, error: type[Exception], text: str
) -> None:
    """S52, S13, S23: wrong types, None and NUL raise, where C would crash."""
    with pytest.raises(error, match=text):
        setter(opened, value)
    assert low.remctl_error(opened) == "no error"
    assert low.remctl_noop(opened) == 1


@on_handles
def test_closed_handle_raises(
    opened: Any, function: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    """S52: any use after remctl_close(), a second one too, is a ValueError."""
    low.remctl_close(opened)
    for _ in range(2):
        with pytest.raises(ValueError, match="the handle is closed"):
            function(opened, *arguments)


@pytest.mark.parametrize("other", [None, 0, "handle", b"", object(), remctl.Remctl()])
@on_handles
def test_what_is_no_handle_raises(
    function: Callable[..., object], arguments: tuple[object, ...], other: object
) -> None:
    """S52: anything that remctl_new() has not returned is a TypeError."""
    with pytest.raises(TypeError, match=r"not a handle from remctl_new\(\)"):
        function(other, *arguments)


def test_second_open_keeps_the_settings(
    handle: Any, scripted: Callable[..., ScriptedServer]
) -> None:
    """S52: it closes the first connection and serves from a fresh one, set up alike."""
    server = scripted(["handshake", "wait_eof"], ["handshake", "read", "hang"])
    assert low.remctl_set_source_ip(handle, "127.0.0.2")
    assert low.remctl_set_timeout(handle, 0.2)
    assert low.remctl_open(handle, "localhost", server.port) == 1
    assert low.remctl_open(handle, "localhost", server.port) == 1
    server.wait_for("eof", connection=0)
    for number in (0, 1):
        assert server.wait_for("accepted", number)["peer"] == "127.0.0.2"
    assert low.remctl_commandv(handle, HELLO)
    assert low.remctl_output(handle) == ()
    assert low.remctl_error(handle).startswith("error receiving token: timed out (")


def test_second_open_that_fails(
    handle: Any, scripted: Callable[..., ScriptedServer], refused: int
) -> None:
    """S52: the handle is not open then, is safe to use, and can be opened again."""
    server = scripted(
        ["handshake", "wait_eof"],
        # Not earlier: that may look like a reset, and open() would try again.
        [["handshake", {"stop": ["close", 2]}]],
        ["handshake", "serve"],
    )
    assert low.remctl_open(handle, "localhost", server.port) == 1
    for port in (refused, server.port):
        assert low.remctl_open(handle, "localhost", port) == 0
        assert low.remctl_error(handle) not in ("", "no error")
        assert low.remctl_commandv(handle, HELLO) is False
        assert low.remctl_output(handle) == ()
        assert low.remctl_noop(handle) == 0
    server.wait_for("eof", connection=0)
    assert low.remctl_open(handle, "localhost", server.port) == 1
    assert low.remctl_commandv(handle, [*HELLO, b"third"])
    assert tokens(handle)[0][1] == b"third"
    low.remctl_close(handle)


def test_forgotten_handle_closes_its_connection(
    scripted: Callable[..., ScriptedServer],
) -> None:
    """S45, S51: garbage collection is as good as remctl_close()."""
    server = scripted(["handshake", "wait_eof"])
    handle = low.remctl_new()
    assert low.remctl_open(handle, "localhost", server.port)
    del handle
    for _ in range(3):
        gc.collect()
    server.wait_for("eof")


def test_calls_run_in_parallel(server: Server, tmp_path: Path) -> None:
    """S50: remctl() leaves the GIL to others: some calls wait for what another does."""
    go = tmp_path / "go"
    results: list[object] = []
    waiting = [b"test", b"wait-for", str(go).encode()]

    def wait() -> None:
        results.append(low.remctl(server.host, server.port, None, waiting))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    touch = [b"test", b"append", str(go).encode(), b"now"]
    assert low.remctl(server.host, server.port, None, touch)[0] is None
    for thread in threads:
        thread.join(HANG)
    assert results == [(None, b"waiting\ndone\n", None, 0)] * 3


def test_shared_handle_loses_and_mixes_nothing(opened: Any) -> None:
    """S51: threads that share a handle get failures, but every reply just once."""
    sent: list[int] = []
    received: list[int] = []

    def use(first: int) -> None:
        for status in range(first, first + 25):
            command = [b"test", b"status", str(status).encode()]
            if low.remctl_commandv(opened, command):
                sent.append(status)
            token = low.remctl_output(opened)
            if token and token[0] == "status":
                received.append(token[3])

    threads = [threading.Thread(target=use, args=(50 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    token = low.remctl_output(opened)
    received += [token[3]] if token and token[0] == "status" else []
    assert sorted(received) == sorted(sent)
    assert sent


def test_close_ends_a_call_in_another_thread(
    handle: Any, scripted: Callable[..., ScriptedServer]
) -> None:
    """S52, S44: the blocked remctl_output() fails at once, and nothing crashes."""
    server = scripted(["handshake", "read", "hang"])
    assert low.remctl_open(handle, "localhost", server.port)
    assert low.remctl_commandv(handle, HELLO)
    results: list[object] = []
    thread = threading.Thread(
        target=lambda: results.append(low.remctl_output(handle)), daemon=True
    )
    thread.start()
    wait_until(lambda: blocked(thread))
    low.remctl_close(handle)
    thread.join(HANG)
    assert results == [()]
