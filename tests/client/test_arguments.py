# SPDX-License-Identifier: MIT
"""Bad input, call by call, and arguments that come back as sent.

Bad input raises TypeError or ValueError, before any I/O: no socket is opened, an open
connection stays usable, and error() stays what it was.
"""

from __future__ import annotations

import array
import asyncio
import collections
import concurrent.futures
import hashlib
import inspect
import io
import math
import os
import re
import socket
import ssl
import sys
import time
from decimal import Decimal
from enum import Enum, Flag
from pathlib import Path
from random import Random
from reprlib import repr as shorten
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import HANG, descriptors

import remctl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from remctl.testing import Server

NOT_OPENED = "no currently open connection"
HELLO = remctl.RemctlSimpleResult(b"hello world\n", None, 0)

# The table.  For each argument: a value, the exception's class, and its text; None
# where the text is Python's own.
Row = tuple[Any, type[Exception], Optional[str]]


def rows(error: type[Exception], text: str | None, *values: Any) -> list[Row]:
    """Return a row for each of ``values``, which ``text`` may mention."""
    return [(value, error, text and text.format(value)) for value in values]


def strings(name: str, kind: str = "a str") -> list[Row]:
    """Return what is wrong for the string argument ``name``, which must be ``kind``."""
    paths = (Path("path"),) if kind == "a str" else ()
    return [
        *(
            (value, TypeError, f"{name} must be {kind}, not {type(value).__name__}")
            for value in (b"bytes", 5, True, ["list"], *paths)
        ),
        *rows(ValueError, f"{name} must not contain NUL", "nul\0nul", "\0"),
        *rows(UnicodeEncodeError, None, "\ud800"),
    ]


NOT_NONE = "must be a str, not NoneType"
CCACHE = [
    *strings("ccache", "a str or a path"),
    *rows(ValueError, "ccache must not contain NUL", Path("nul\0nul")),
]

HOST = [
    *strings("host"),
    *rows(ValueError, "host must not be empty", ""),
    *rows(UnicodeError, None, "\udc80", "\u00e9" * 70, "\u00e9..x"),
]
PORT = [
    *rows(ValueError, "invalid port number: {}", -1, 65536, 2**64),
    *rows(ValueError, "invalid port number: {}", "-1", "65536", "9" * 4300),
    *rows(ValueError, "invalid port number: 65536", " 65536\n", b"65536", "6_5536"),
    *rows(TypeError, "port must be a number: {!r}", "foo", "", " ", "1 2", "1__0"),
    *rows(TypeError, "port must be a number: {!r}", "1.0", "0x10", "1\0", "\u00b2"),
    *rows(TypeError, "port must be a number: {!r}", b"foo", b"", bytearray(b"1.0")),
    *rows(TypeError, "port must be a number: {!r}", "9" * 4301, b"9" * 10**6),
    *rows(TypeError, "port must be a number: {!r}", True, False, memoryview(b"1")),
    *rows(TypeError, "port must be a number: {!r}", 1.0, math.nan, Decimal(1), [1]),
]
NO_TEXT = "must be a value with a text"
NO_COMMAND = "command must be a sequence or iterator"
MEANT = ", not a str; perhaps %s was meant"
COMMAND = [
    *rows(TypeError, NO_COMMAND, b"test hello", bytearray(b"test")),
    *rows(TypeError, f"{NO_COMMAND}{MEANT % ['test', 'hello']}", "test hello"),
    *rows(TypeError, f"{NO_COMMAND}{MEANT % ['ls', 'a b']}", "ls 'a b'", 'ls "a b"'),
    *rows(TypeError, f"{NO_COMMAND}{MEANT % ['ls', chr(34)]}", 'ls "'),
    *rows(TypeError, f"{NO_COMMAND}{MEANT % []}", ""),
    *rows(TypeError, NO_COMMAND, memoryview(b"test"), True, False, 5, 1.5, None),
    *rows(TypeError, NO_COMMAND, object, Path("test")),
    *rows(ValueError, "command must not be empty", [], (), {}, set(), range(0)),
    *rows(TypeError, f"command item 0 {NO_TEXT}, not NoneType", [None], [None, None]),
    *rows(TypeError, f"command item 1 {NO_TEXT}, not NoneType", ["test", None]),
    *rows(UnicodeEncodeError, None, ["test", "hello", "\ud800"], ["\udfff\udc00"]),
    *rows(
        ValueError,
        f"command too large: {100 * 2**20 + 6404} octets, at most {100 * 2**20 - 1}",
        [bytes(2**16)] * 1600,
    ),
]
TIMEOUT = [
    *rows(TypeError, "timeout must be a number: {!r}", "5", "", b"5", bytearray(b"5")),
    *rows(TypeError, "timeout must be a number: {!r}", True, False, [5], 1j, object),
    *rows(ValueError, "timeout must be finite: {!r}", math.nan, math.inf, -math.inf),
    *rows(ValueError, "timeout must be finite: {!r}", Decimal("NaN"), 10**400),
]
NO_ADDRESS = rows(
    ValueError, None, "", "junk", "localhost", "127.0.0.1 ", "127.1", "::1::"
)

SETTINGS: dict[str, list[Row]] = {
    "timeout": TIMEOUT,
    "ccache": CCACHE,
    "source_ip": strings("source_ip"),
}
SERVER: dict[str, list[Row]] = {
    "host": HOST,
    "port": PORT,
    "principal": strings("principal"),
}
# Each call's arguments and what is wrong for them, one at a time.
CALLS: dict[str, dict[str, list[Row]]] = {
    "remctl": {
        **SERVER,
        **SETTINGS,
        "host": [*HOST, *rows(TypeError, f"host {NOT_NONE}", None)],
        "command": COMMAND,
        "timeout": [*TIMEOUT, *rows(ValueError, "invalid timeout {}", -1, -0.5)],
        "source_ip": [*SETTINGS["source_ip"], *NO_ADDRESS],
    },
    "Remctl": {
        **SERVER,
        **SETTINGS,
        "timeout": [
            *TIMEOUT,
            *rows(remctl.RemctlError, "invalid timeout {}", -1, -0.5),
        ],
    },
    "open": {**SERVER, "host": [*HOST, *rows(TypeError, f"host {NOT_NONE}", None)]},
    "command": {"command": COMMAND},
    "run": {"command": COMMAND},
    "set_ccache": {
        "ccache": [
            *CCACHE,
            *rows(TypeError, "ccache must be a str or a path, not NoneType", None),
        ]
    },
    "set_source_ip": {
        "source": [*strings("source"), *rows(TypeError, f"source {NOT_NONE}", None)]
    },
    "set_timeout": {
        "timeout": [*TIMEOUT, *rows(TypeError, "timeout must be a number: None", None)]
    },
}
TABLE = [
    pytest.param(call, argument, *row, id=f"{call}-{argument}-{shorten(row[0]):.30}")
    for call, arguments in CALLS.items()
    for argument, wrong in arguments.items()
    for row in wrong
]


@pytest.fixture(scope="module")
def open_client(server: Server) -> Iterator[remctl.Remctl]:
    """An open connection, which all bad input leaves as it is."""
    with remctl.Remctl(server.host, server.port, timeout=HANG) as client:
        yield client


@pytest.fixture
def unchanged(open_client: remctl.Remctl) -> Iterator[tuple[remctl.Remctl, int]]:
    """An open client, and a port nobody may connect to; afterwards all is as before."""
    with pytest.raises(remctl.RemctlError):
        open_client.set_timeout(-7)
    connection = open_client.fileno()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = descriptors()
        yield open_client, listener.getsockname()[1]
        assert descriptors() == before
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert open_client.error() == "invalid timeout -7"
    assert open_client.fileno() == connection
    assert open_client.run(["test", "hello"]) == HELLO
    assert open_client.error() == "no error"


@pytest.mark.parametrize(("call", "argument", "value", "error", "text"), TABLE)
def test_bad_input(
    unchanged: tuple[remctl.Remctl, int],
    *,
    call: str,
    argument: str,
    value: object,
    error: type[Exception],
    text: str | None,
) -> None:
    """S5, S8-S11, S13, S17, S24, S26, S46: the exception and its text, no effect."""
    client, port = unchanged
    arguments: dict[str, object] = {"host": "127.0.0.1", "port": port}
    arguments |= {"principal": "host/localhost", "command": ["test", "hello"]}
    arguments = {name: arguments[name] for name in CALLS[call] if name in arguments}
    arguments[argument] = value
    function = getattr(client if hasattr(client, call) else remctl, call)
    with pytest.raises(error) as caught:
        function(**arguments)
    if text is None:
        assert isinstance(caught.value, ValueError)
    else:
        assert type(caught.value) is error
        assert str(caught.value) == text


@pytest.mark.parametrize(
    "wrong",
    [
        {"command": []},
        {"command": "test"},
        {"timeout": -1},
        {"timeout": "5"},
        {"ccache": "\0"},
        {"source_ip": "junk"},
    ],
    ids=repr,
)
def test_bad_input_is_found_before_the_host_is_looked_up(
    wrong: dict[str, Any],
) -> None:
    """S17: before any I/O, of one call that has a host that nobody knows, too."""
    with pytest.raises((TypeError, ValueError)):
        remctl.remctl("a..b", **{"command": ["test"], **wrong})


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("remctl", ()),
        ("remctl", ("localhost", 1, None, ["test"], 5)),
        ("Remctl", ("localhost", 1, None, 5)),
        ("open", ("localhost", 1, None, 5)),
        ("command", ()),
        ("command", ("test", "hello")),
        ("set_ccache", ()),
        ("set_source_ip", ()),
        ("set_timeout", ()),
        ("output", (1,)),
        ("noop", (1,)),
        ("close", (1,)),
    ],
)
def test_wrong_number_of_arguments(
    unchanged: tuple[remctl.Remctl, int], call: str, arguments: tuple[object, ...]
) -> None:
    """S2, S20, S46: too few, or the keyword-only ones by position: TypeError."""
    client, _ = unchanged
    function = getattr(client if hasattr(client, call) else remctl, call)
    with pytest.raises(TypeError, match="argument"):
        function(*arguments)


class BadText:
    """An object with no text."""

    def __str__(self) -> str:
        raise LookupError("no text")


def broken_command() -> Iterator[str]:
    """A command whose source breaks half way."""
    yield "test"
    raise LookupError("no more")


@pytest.mark.parametrize("call", ["remctl", "command", "run"])
@pytest.mark.parametrize(
    ("make", "text"),
    [(broken_command, "no more"), (lambda: ["test", BadText()], "no text")],
    ids=["iterator", "item"],
)
def test_callers_exceptions_come_through(
    unchanged: tuple[remctl.Remctl, int],
    call: str,
    make: Callable[[], Any],
    text: str,
) -> None:
    """S7, S8, S46: what the command itself raises is raised, and nothing is sent."""
    client, port = unchanged
    with pytest.raises(LookupError, match=f"^{text}$"):
        if call == "remctl":
            remctl.remctl("127.0.0.1", port, "host/localhost", make())
        else:
            getattr(client, call)(make())


class Pair(NamedTuple):
    """A tuple with a repr()."""

    one: int
    other: int


class Vector:
    """An array with a text, as NumPy's have: "[0 1 ... 998 999]" of a thousand."""

    def __init__(self, ndim: int) -> None:
        self._ndim = ndim

    @property
    def ndim(self) -> int:
        """The number of dimensions; scalars are arrays that have none."""
        return self._ndim

    def __str__(self) -> str:
        return "[0 1 ... 998 999]"


class Later:
    """An awaitable."""

    def __await__(self) -> Iterator[None]:
        yield


class Weight(float, Enum):
    """A number whose str() is its name, on all versions of Python."""

    HEAVY = 1.5


Colour = Enum("Colour", "RED")
Access = Flag("Access", "READ WRITE")


async def coroutine() -> None:
    """What somebody forgot to await."""


async def async_generator() -> AsyncIterator[str]:
    """What somebody forgot to iterate over."""
    yield "x"


def future() -> object:
    """Return a pending future of asyncio."""
    loop = asyncio.new_event_loop()
    loop.close()
    return loop.create_future()


class Deferred(Later):
    """An awaitable whose str() is for people, as Twisted's is."""

    def __str__(self) -> str:
        return "<Deferred>"


# Things that have no text, made when they are needed.
WITHOUT_A_TEXT: dict[str, Callable[[], Any]] = {
    "NoneType": lambda: None,
    "ellipsis": lambda: ...,
    "list": lambda: ["a", "b"],
    "tuple": lambda: (),
    "Pair": lambda: Pair(1, 2),
    "RemctlOutput": lambda: remctl.RemctlOutput("done"),
    "dict": lambda: {"a": 1},
    "set": lambda: {1},
    "frozenset": lambda: frozenset("a"),
    "range": lambda: range(3),
    "deque": collections.deque,
    "Counter": collections.Counter,
    "OrderedDict": collections.OrderedDict,
    "ChainMap": collections.ChainMap,
    "UserList": collections.UserList,
    "UserDict": collections.UserDict,
    "mappingproxy": lambda: MappingProxyType({"a": "b"}),
    "dict_keys": {"a": 1}.keys,
    "dict_values": {"a": 1}.values,
    "dict_items": {"a": 1}.items,
    "iterator": lambda: iter(["a"]),
    "generator": lambda: (item for item in "ab"),
    "map": lambda: map(str, "ab"),
    "BytesIO": io.BytesIO,
    "array": lambda: array.array("B", b"a"),
    "Vector": lambda: Vector(1),
    "coroutine": coroutine,
    "async_generator": async_generator,
    "Later": Later,
    "Deferred": Deferred,
    "struct_time": time.gmtime,
    "stat_result": Path("/").stat,
    "Future": future,
    "Future of a thread": concurrent.futures.Future,
    "function": lambda: future,
    "type": lambda: Later,
    "object": object,
    "Colour": lambda: Colour.RED,
    "Access": lambda: Access.READ | Access.WRITE,
    "Weight": lambda: Weight.HEAVY,
}


@pytest.mark.parametrize("call", ["remctl", "command", "run"])
@pytest.mark.parametrize("name", WITHOUT_A_TEXT)
def test_what_has_no_text(
    unchanged: tuple[remctl.Remctl, int], call: str, name: str
) -> None:
    """S8: TypeError that names the position and the type, and nothing is sent."""
    client, port = unchanged
    item = WITHOUT_A_TEXT[name]()
    command = iter(["test", "args", item, "x"])
    with pytest.raises(TypeError) as caught:
        if call == "remctl":
            remctl.remctl("127.0.0.1", port, "host/localhost", command, timeout=1)
        else:
            getattr(client, call)(command)
    kind = type(item).__name__
    assert str(caught.value) == f"command item 2 {NO_TEXT}, not {kind}"
    if inspect.iscoroutine(item):
        item.close()


def udp_socket(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", port))
    return sock


def closed_socket(_: int) -> socket.socket:
    sock = socket.socket()
    sock.close()
    return sock


def tls_socket(_: int) -> socket.socket:
    sock, other = socket.socketpair()
    other.close()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return context.wrap_socket(sock, do_handshake_on_connect=False)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda _: 5, TypeError, "sock must be a plain socket, not int"),
        (lambda _: "sock", TypeError, "sock must be a plain socket, not str"),
        (tls_socket, TypeError, "sock must be a plain socket, not SSLSocket"),
        (closed_socket, ValueError, "sock must be open"),
        (udp_socket, ValueError, "sock must be a stream socket"),
        (lambda _: socket.socket(), ValueError, "sock must be connected"),
        (
            lambda _: socket.create_server(("127.0.0.1", 0)),
            ValueError,
            "sock must be connected",
        ),
    ],
    ids=["int", "str", "tls", "closed", "udp", "unconnected", "listening"],
)
def test_bad_sock(
    unchanged: tuple[remctl.Remctl, int],
    make: Callable[[int], Any],
    error: type[Exception],
    text: str,
) -> None:
    """S59: only a connected stream socket; another stays the caller's."""
    client, port = unchanged
    sock = make(port)
    before = descriptors()
    with pytest.raises(error) as caught:
        client.open("127.0.0.1", port, sock=sock)
    assert type(caught.value) is error
    assert str(caught.value) == text
    assert descriptors() == before
    if isinstance(sock, socket.socket):
        sock.close()


def test_bad_host_leaves_the_sock(unchanged: tuple[remctl.Remctl, int]) -> None:
    """open(sock=...): with another argument wrong, it stays the caller's."""
    client, _ = unchanged
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(ValueError, match=r"^invalid port number: -1$"):
            client.open("localhost", -1, sock=ours)
        assert ours.fileno() >= 0
        assert ours.send(b"x") == 1


# Calls in a wrong order


def new(_: Server) -> remctl.Remctl:
    return remctl.Remctl()


def closed(server: Server) -> remctl.Remctl:
    client = remctl.Remctl(server.host, server.port)
    client.close()
    return client


def failed(_: Server) -> remctl.Remctl:
    client = remctl.Remctl()
    with pytest.raises(remctl.RemctlError):
        client.open("127.0.0.1", 1)
    return client


def timed_out(server: Server) -> remctl.Remctl:
    client = remctl.Remctl(server.host, server.port)
    client.set_timeout(0.05)
    with pytest.raises(remctl.RemctlTimeoutError):
        client.run(["test", "sleep", "5"])
    client.set_timeout(0)
    return client


REFUSED = "cannot connect to 127.0.0.1 (port 1): Connection refused"


@pytest.mark.parametrize(
    ("state", "cause"),
    [(new, "no error"), (closed, NOT_OPENED), (failed, REFUSED), (timed_out, None)],
)
def test_calls_without_a_connection(
    server: Server, state: Callable[[Server], remctl.Remctl], cause: str | None
) -> None:
    """S27, S30, S39, S40, S42-S44, S46: RemctlNotOpenedError, and nothing changes."""
    client = state(server)
    before = descriptors()
    cause = client.error() if cause is None else cause
    untouched = broken_command()
    for call in (
        lambda: client.command(["test", "hello"]),
        lambda: client.command(untouched),
        lambda: client.command(5),  # type: ignore[arg-type]  # the command comes second
        lambda: client.run(["test", "hello"]),
        lambda: client.run([]),
        client.output,
        client.noop,
        client.fileno,
        lambda: next(iter(client)),
    ):
        with pytest.raises(remctl.RemctlNotOpenedError) as caught:
            call()
        assert str(caught.value) == caught.value.value == NOT_OPENED
        assert client.error() == cause
        assert not client.opened
    assert next(untouched) == "test"
    assert descriptors() == before
    client.set_source_ip("127.0.0.1")
    client.set_ccache(os.environ["KRB5CCNAME"])
    client.set_timeout(HANG)
    client.open(server.host, server.port)
    assert client.run(["test", "hello"]) == HELLO
    client.close()


# Arguments that come back as sent

binary = st.binary(max_size=300)
without_nul = binary.filter(lambda octets: b"\0" not in octets)
# Any octets, as the str that sys.argv would have for them.
argv = without_nul.map(lambda octets: octets.decode("utf-8", "surrogateescape"))
run_either = pytest.mark.parametrize("one_shot", [False, True])


def run(
    server: Server, client: remctl.Remctl, one_shot: bool, command: list[Any]
) -> bytes:
    """Run ``command`` in one of both interfaces and return its standard output."""
    if one_shot:
        result = remctl.remctl(server.host, server.port, None, command)
    else:
        result = client.run(command)
    assert (result.stderr, result.status) == (None, 0)
    return result.stdout or b""


@run_either
@given(st.lists(without_nul, max_size=40))
@example([b""] * 2000)
def test_any_arguments_come_back(
    server: Server, client: remctl.Remctl, one_shot: bool, arguments: list[bytes]
) -> None:
    """S8, S12: any bytes but NUL, in any number, as the command's arguments."""
    stdout = run(server, client, one_shot, ["test", "args", *arguments])
    assert stdout == b"".join(argument + b"\0" for argument in arguments)


@run_either
@given(binary)
@example(b"\0")
@example(bytes(range(256)) * 600)
def test_any_octets_come_back(
    server: Server, client: remctl.Remctl, one_shot: bool, data: bytes
) -> None:
    """S12: any bytes, NUL too, as the command's standard input."""
    for form in (data, bytearray(data), memoryview(data)):
        assert run(server, client, one_shot, ["test", "stdin", form]) == data


@given(st.lists(argv, max_size=10))
def test_strings_stand_for_their_octets(
    client: remctl.Remctl, arguments: list[str]
) -> None:
    """S8, S11: str is sent as the system's own octets, lone surrogates undone."""
    stdout = client.run(["test", "args", *arguments]).stdout or b""
    assert stdout == b"".join(os.fsencode(item) + b"\0" for item in arguments)


@given(
    st.lists(
        st.one_of(st.integers(), st.floats(), st.booleans(), st.decimals()), max_size=10
    )
)
def test_numbers_are_sent_as_their_text(
    client: remctl.Remctl, arguments: list[object]
) -> None:
    """S8: str(x)."""
    stdout = client.run(["test", "args", *arguments]).stdout or b""
    assert stdout.decode() == "".join(f"{item}\0" for item in arguments)


@given(
    st.text(st.characters(categories=["Cs"]), min_size=1).filter(
        lambda text: re.search("[^\udc80-\udcff]", text)
    ),
    st.text(),
)
def test_what_cannot_be_encoded_is_refused(
    open_client: remctl.Remctl, surrogates: str, text: str
) -> None:
    """S11: a ValueError, and the connection is as it was."""
    with pytest.raises(UnicodeEncodeError):
        open_client.command(["test", "args", text + surrogates])
    with pytest.raises(UnicodeEncodeError):
        remctl.remctl("127.0.0.1", 1, None, ["test", surrogates + text])
    assert open_client.output().type == "done"


def test_scalars_of_arrays(client: remctl.Remctl) -> None:
    """S8: NumPy's numbers are arrays of no dimension, and have a text."""
    stdout = client.run(["test", "args", Vector(0)]).stdout
    assert stdout == f"{Vector(0)}\0".encode()


def digest(data: bytes) -> bytes:
    """Return what the command "digest" prints for ``data``."""
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}\n".encode()


# "test", "digest" and DATA: a message of the protocol's header (four octets), then the
# count and each argument with its length before it.  64 KiB is the largest.
OVERHEAD = 4 + 4 + (4 + 4) + (4 + 6) + 4


@pytest.mark.parametrize("messages", [1, 2, 3, 16])
@pytest.mark.parametrize("delta", [-5, -4, -1, 0, 1, 2, 4, 5])
def test_sizes_around_64_kib(client: remctl.Remctl, messages: int, delta: int) -> None:
    """S12, S48: commands that just fit so many messages, and just do not."""
    # The later messages' headers take four octets as well.
    size = messages * 65536 - OVERHEAD - 4 * (messages - 1) + delta
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    assert client.run(["test", "digest", data]).stdout == digest(data)
    assert client.run(["test", "hello"]) == HELLO


@given(
    st.lists(st.integers(0, 20_000), max_size=8),
    st.integers(0, 300_000),
)
@example([20_000] * 50, 2_000_000)
def test_any_sizes_arrive(client: remctl.Remctl, sizes: list[int], size: int) -> None:
    """S12: small and large arguments, split above 64 KiB anywhere."""
    data = Random(size).randbytes(size)
    arguments = ["x" * length for length in sizes]
    result = client.run(["test", "digest", *arguments, data])
    assert result.stdout == digest(data)


@pytest.mark.parametrize("count", [2, 100, 4096])
def test_any_number_of_arguments_arrives(client: remctl.Remctl, count: int) -> None:
    """S12: as many as remctld takes, in several messages."""
    arguments = [f"{number:030}" for number in range(count - 2)]
    stdout = client.run(["test", "args", *arguments]).stdout or b""
    assert stdout.decode() == "".join(f"{item}\0" for item in arguments)


def test_largest_command() -> None:
    """S17: what remctld refuses (100 MiB, server-v2.c) is refused before any I/O."""
    largest = [bytes(2**20)] * 99 + [bytes(2**20 - 4 - 4 * 100 - 1)]
    with pytest.raises(remctl.RemctlProtocolError, match=r"^cannot connect to "):
        remctl.remctl("127.0.0.1", 1, None, largest)
    largest[-1] += b"x"
    with pytest.raises(ValueError, match=r"^command too large: 104857600 octets"):
        remctl.remctl("127.0.0.1", 1, None, largest)


@pytest.mark.parametrize(("delta", "tokens"), [(0, 1), (1, 2)])
def test_error_for_a_command_of_several_messages(
    server: Server, scripted: Callable[..., Any], delta: int, tokens: int
) -> None:
    """S31, S36: an error for each message may come, so that there is no next command.

    The reply is whole, to the end; after a command of one message the object is open.
    """
    data = b"x" * (65536 - OVERHEAD + delta)
    counting = scripted(["handshake", "serve"])
    remctl.remctl("localhost", counting.port, None, ["test", "digest", data])
    assert counting.wait_for("command")["tokens"] == tokens
    client = remctl.Remctl(server.host, server.port)
    client.command(["none", "digest", data])
    assert client.output().error == remctl.ErrorCode.UNKNOWN_COMMAND
    assert client.output().type == "done"
    assert client.error() == "no error"
    if tokens == 1:
        assert client.run(["test", "hello"]) == HELLO
    else:
        with pytest.raises(remctl.RemctlNotOpenedError, match=f"^{NOT_OPENED}$"):
            client.command(["test", "hello"])
    client.close()


# Servers


@given(st.integers().filter(lambda number: not 0 <= number <= 65535))
@example(-1)
@example(65536)
def test_numbers_that_are_no_port(open_client: remctl.Remctl, number: int) -> None:
    """S5: ValueError, as a number and as its digits."""
    for port in (number, str(number)):
        with pytest.raises(ValueError, match=f"^invalid port number: {number}$"):
            open_client.open("127.0.0.1", port)
        with pytest.raises(ValueError, match=f"^invalid port number: {number}$"):
            remctl.remctl("127.0.0.1", port, None, ["test"])
    assert open_client.opened


@pytest.fixture
def any_digits() -> Iterator[None]:
    """Let int() read any number of digits, as it did before Python 3.11."""
    if not hasattr(sys, "set_int_max_str_digits"):
        yield
        return
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(limit)


@pytest.mark.usefixtures("any_digits")
def test_no_port_is_read_for_long(open_client: remctl.Remctl) -> None:
    """S5: a text that would keep int() busy is no number."""
    with pytest.raises(TypeError, match=r"^port must be a number: '999"):
        open_client.open("127.0.0.1", "9" * 10**5)


def is_number(text: str) -> bool:
    """Whether int() takes ``text`` for a number."""
    try:
        int(text)
    except ValueError:
        return False
    return True


@given(
    st.one_of(st.text(), st.from_regex(r"[-+_ 0-9]+", fullmatch=True)).filter(
        lambda text: not is_number(text)
    )
)
@example("4373 0")
@example("4373.0")
def test_texts_that_are_no_port(open_client: remctl.Remctl, text: str) -> None:
    """S5: TypeError, with the value in its text."""
    for port in (text, text.encode("utf-8")):
        with pytest.raises(TypeError) as caught:
            open_client.open("127.0.0.1", port)
        assert str(caught.value) == f"port must be a number: {port!r}"
    assert open_client.opened


@given(st.text(), st.text())
def test_nul_in_any_string(open_client: remctl.Remctl, start: str, end: str) -> None:
    """S13: ValueError, wherever it is; nothing is cut off there."""
    text = f"{start}\0{end}"
    calls: dict[str, Callable[[], None]] = {
        "host": lambda: open_client.open(text, 1),
        "principal": lambda: open_client.open("127.0.0.1", 1, text),
        "ccache": lambda: open_client.set_ccache(text),
        "source": lambda: open_client.set_source_ip(text),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"^{name} must not contain NUL$"):
            call()
    assert open_client.opened


@given(st.ip_addresses(v=4, network="127.0.0.0/8"), st.integers(1, 3))
def test_addresses_are_connected_to_as_given(address: Any, port: int) -> None:
    """S28: the text has the host and port as the caller gave them."""
    with pytest.raises(remctl.RemctlError) as caught:
        remctl.Remctl(str(address), port)
    text = f"cannot connect to {address} (port {port}): "
    assert str(caught.value).startswith(text)


@given(st.from_regex(r"[a-z]{1,9}\.\.[ -~]{0,9}", fullmatch=True))
def test_names_that_nobody_has(host: str) -> None:
    """S28: the text has the name as the caller gave it."""
    with pytest.raises(remctl.RemctlError) as caught:
        remctl.Remctl(host)
    assert str(caught.value).startswith(f"unknown host {host}: ")


def test_names_that_are_not_ascii() -> None:
    """S13, hazard 62: name service and Kerberos see the same, IDNA."""
    with pytest.raises(remctl.RemctlError, match="unknown host xn--bcher-kva"):
        remctl.Remctl("b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.invalid")
