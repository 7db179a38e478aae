# SPDX-License-Identifier: MIT
"""S1-S19: remctl.remctl(), one command on a connection of its own."""

from __future__ import annotations

import collections
import inspect
import os
import re
import signal
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import partial
from http import HTTPStatus
from ipaddress import ip_address, ip_network
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Callable, NamedTuple
from uuid import UUID

import pytest
from kerberos import HEIMDAL
from support import HANG, descriptors, run_python

import _remctl
import remctl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from remctl.testing import Realm, Server

pytestmark = pytest.mark.both_twins


class Colour(str, Enum):
    """A string whose str() is not its own text, on Python before 3.11 and after."""

    RED = "red"


class Legacy:
    """A sequence that has no __iter__, which iter() accepts all the same."""

    def __getitem__(self, index: int) -> str:
        return ("test", "args", "a", "b")[index]


class Bytes(bytes):
    """Octets that say wrong things of themselves."""

    def __len__(self) -> int:
        return 4000

    def __bytes__(self) -> bytes:
        return self


class Text(str):
    """A text that says wrong things of itself."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:
        return Bytes(b"wrong")


class BytesPath:
    """A path of bytes."""

    def __init__(self, path: bytes = b"/\xff") -> None:
        self._path = path

    def __fspath__(self) -> bytes:
        return self._path


class Level(int, Enum):
    """A number whose str() is its name."""

    HIGH = 3


class Size(Enum):
    """Members that have a text."""

    LARGE = 10

    def __str__(self) -> str:
        return self.name.lower()


class Version(NamedTuple):
    """A tuple that has a text."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


class Percentage(int):
    """A number that has a text."""

    def __str__(self) -> str:
        return f"{int(self)}%"


@pytest.fixture
def run(server: Server) -> Callable[..., remctl.RemctlSimpleResult]:
    """Call remctl.remctl() for the real remctld: run(command, **options)."""
    return partial(_run, server)


def _run(
    server: Server, command: Iterable[object], **options: Any
) -> remctl.RemctlSimpleResult:
    return remctl.remctl(server.host, server.port, None, command, **options)


def sent(run: Callable[..., remctl.RemctlSimpleResult], *arguments: object) -> bytes:
    """Return ``arguments`` as the command got them, each with a NUL after it."""
    return run(["test", "args", *arguments]).stdout or b""


def test_module_has_the_documented_names() -> None:
    """S1: the six names, and a separate low-level module."""
    names = {"remctl", "Remctl", "RemctlSimpleResult", "RemctlError"}
    names |= {"RemctlProtocolError", "RemctlNotOpenedError"}
    assert names <= set(remctl.__all__)
    assert all(hasattr(remctl, name) for name in remctl.__all__)
    assert vars(_remctl)["remctl"] is not remctl.remctl


@pytest.mark.blocking_only
def test_parameters() -> None:
    """S2, S20: the names, order, kinds and defaults of the arguments."""
    keywords = "*, timeout=None, ccache=None, source_ip=None"

    def parameters(function: Callable[..., Any]) -> str:
        signature = inspect.signature(function)
        bare = [
            parameter.replace(annotation=parameter.empty)
            for parameter in signature.parameters.values()
        ]
        empty = inspect.Signature.empty
        return str(signature.replace(parameters=bare, return_annotation=empty))

    assert parameters(remctl.remctl) == (
        f"(host, port=None, principal=None, command=(), {keywords})"
    )
    assert parameters(remctl.Remctl) == (
        f"(host=None, port=None, principal=None, {keywords})"
    )


def test_arguments_by_position_and_by_name(server: Server) -> None:
    """S2: the first four in that order, and by name in any order."""
    command = ("test", "hello")
    by_position = remctl.remctl(server.host, server.port, server.principal, command)
    by_name = remctl.remctl(
        command=command,
        principal=server.principal,
        port=server.port,
        host=server.host,
    )
    assert by_position == by_name
    assert by_position == remctl.RemctlSimpleResult(b"hello world\n", None, 0)


def test_ccache_is_whose_tickets_are_used(
    run: Callable[..., remctl.RemctlSimpleResult], realm: Realm, tmp_path: Path
) -> None:
    """S2: ccache, for this call only; a name, or a path."""
    name = os.fsdecode(tmp_path) + "/bob\udcff"
    realm.kinit("bob", name)
    for ccache in (name, f"FILE:{name}", Path(name), BytesPath(os.fsencode(name))):
        result = run(["test", "user"], ccache=ccache)
        assert result.stdout == b"bob@KRBTEST.COM\n"
    assert run(["test", "user"]).stdout == f"{realm.user}\n".encode()


def test_source_ip_is_where_the_connection_comes_from(
    run: Callable[..., remctl.RemctlSimpleResult],
) -> None:
    """S2: source_ip."""
    result = run(["test", "env", "REMOTE_ADDR"], source_ip="127.0.0.9")
    assert result.stdout == b"127.0.0.9\n"


def test_timeout_ends_the_call(
    run: Callable[..., remctl.RemctlSimpleResult], tmp_path: Path
) -> None:
    """S2, S17, S28: timeout, a fraction of a second too."""
    over = tmp_path / "over"
    with pytest.raises(
        remctl.RemctlTimeoutError, match=r"^error receiving token: timed out \("
    ):
        run(["test", "wait-for", over], timeout=1.5)
    over.touch()
    assert run(["test", "wait-for", over, "x"], timeout=HANG).stdout == b"x\ndone\n"


@pytest.mark.parametrize("principal", [None, ""])
def test_default_principal_is_the_host(server: Server, principal: str | None) -> None:
    """S4: None and "" stand for host@<host>."""
    result = remctl.remctl("localhost", server.port, principal, ["test", "hello"])
    assert result.status == 0
    with pytest.raises(remctl.RemctlProtocolError, match=r"\bhost/127\.0\.0\.1@"):
        remctl.remctl("127.0.0.1", server.port, principal, ["test", "hello"])


def test_principal_is_the_servers(server: Server) -> None:
    """S2, S4: the principal that the server has to be."""
    command = ("test", "hello")
    result = remctl.remctl("127.0.0.1", server.port, server.principal, command)
    assert result.status == 0
    with pytest.raises(remctl.RemctlProtocolError, match=r"\bnobody@"):
        remctl.remctl("127.0.0.1", server.port, "nobody", command)


def test_a_principal_of_another_realm(server: Server) -> None:
    """S2: Heimdal's library takes a ticket of its own realm, which the KDC offers."""
    arguments = ("localhost", server.port, "host/localhost@OTHER.REALM", ["test"])
    if HEIMDAL:
        assert remctl.remctl(*arguments).status == 0
    else:
        with pytest.raises(remctl.RemctlProtocolError, match="krbtgt/OTHER"):
            remctl.remctl(*arguments)


class Number:
    """An integer by __index__ only."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@pytest.mark.parametrize(
    "spell",
    [
        *(int, str, "+{}".format, "000{}".format, Number),
        # What int() reads, as pyremctl goes by it.
        *("{}\n".format, "\t {}".format, "{:_}".format),
        *(lambda port: b"%d\n" % port, lambda port: bytearray(b" %d" % port)),
        lambda port: "".join(chr(0x0660 + int(digit)) for digit in str(port)),
    ],
)
def test_port_is_a_number_or_its_digits(
    server: Server, spell: Callable[[int], Any]
) -> None:
    """S5: what is accepted as a port."""
    command = ("test", "hello")
    assert remctl.remctl("localhost", spell(server.port), None, command).status == 0


def test_port_is_checked_before_the_command() -> None:
    """S6: of two wrong arguments, the port is reported."""
    with pytest.raises(ValueError, match=r"^invalid port number: -1$"):
        remctl.remctl("localhost", -1, None, "no command")


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        iter,
        collections.deque,
        dict.fromkeys,
        lambda items: (item for item in items),
        lambda items: map(str, items),
        lambda _: Legacy(),
    ],
)
def test_command_is_any_iterable(
    run: Callable[..., remctl.RemctlSimpleResult], make: Callable[[Any], Any]
) -> None:
    """S7: sequences and iterators of all sorts."""
    assert run(make(["test", "args", "a", "b"])).stdout == b"a\0b\0"


def test_command_is_consumed_once(
    run: Callable[..., remctl.RemctlSimpleResult],
) -> None:
    """S7: each item is asked for once."""
    asked = []

    def items() -> Iterator[str]:
        for item in ("test", "args", "a"):
            asked.append(item)
            yield item

    assert run(items()).stdout == b"a\0"
    assert asked == ["test", "args", "a"]


def test_arguments_are_copied_at_once(
    run: Callable[..., remctl.RemctlSimpleResult],
) -> None:
    """Hazard 61: what becomes of a bytearray later is not sent."""

    def items() -> Iterator[object]:
        buffer = bytearray(b"first")
        yield from ("test", "args", buffer)
        buffer[:] = b"other"
        yield buffer

    assert run(items()).stdout == b"first\0other\0"


@pytest.mark.parametrize(
    ("argument", "octets"),
    [
        (b"\xff\xfe", b"\xff\xfe"),
        (bytearray(b"\x80"), b"\x80"),
        (memoryview(b"abcdef")[::2], b"ace"),
        ("grün \N{SNOWMAN}", b"gr\xc3\xbcn \xe2\x98\x83"),
        (Colour.RED, b"red"),
        (PurePosixPath("/tmp/ü"), os.fsencode("/tmp/ü")),
        (BytesPath(), b"/\xff"),
        (Bytes(b"ab"), b"ab"),
        (BytesPath(Bytes(b"/ab")), b"/ab"),
        (Text("ab"), b"ab"),
        (42, b"42"),
        (-1.5, b"-1.5"),
        (True, b"True"),
        (KeyError("ü"), b"'\xc3\xbc'"),
        (1 - 2j, b"(1-2j)"),
        (Decimal("1.50"), b"1.50"),
        (Fraction(1, 3), b"1/3"),
        (UUID(int=10), b"00000000-0000-0000-0000-00000000000a"),
        (date(2026, 11, 28), b"2026-11-28"),
        (datetime(2026, 1, 2, tzinfo=timezone.utc), b"2026-01-02 00:00:00+00:00"),
        (timedelta(hours=1), b"1:00:00"),
        (timezone.utc, b"UTC"),
        (ip_address("::1"), b"::1"),
        (ip_network("192.0.2.0/24"), b"192.0.2.0/24"),
        (collections.UserString("a"), b"a"),
        (signal.SIGTERM, b"15"),
        (HTTPStatus.OK, b"200"),
        (re.IGNORECASE | re.MULTILINE, b"10"),
        (remctl.ErrorCode.NO_HELP, b"10"),
        (Level.HIGH, b"3"),
        (Size.LARGE, b"large"),
        (Version(1, 2), b"1.2"),
        (Percentage(5), b"5%"),
        ("", b""),
        (b"", b""),
    ],
    ids=repr,
)
def test_arguments_are_converted(
    run: Callable[..., remctl.RemctlSimpleResult], argument: object, octets: bytes
) -> None:
    """S8: bytes, str as UTF-8, paths, int enumerations as numbers, str(x)."""
    assert sent(run, argument) == octets + b"\0"


@pytest.mark.blocking_only
def test_sys_argv_goes_through_unchanged(server: Server) -> None:
    """S11: what a program was called with, whatever its encoding, is what it sends."""
    program = """
        import sys, remctl
        host, port, *arguments = sys.argv[1:]
        result = remctl.remctl(host, port, None, ["test", "args", *arguments])
        sys.stdout.write(repr(result.stdout))
    """
    raw = [b"\xff\xc3", "ü".encode(), "ü".encode("latin-1")]
    arguments = map(os.fsdecode, raw)
    finished = run_python(program, server.host, server.port, *arguments)
    assert finished.stdout == repr(b"".join(octets + b"\0" for octets in raw))


def test_nul_is_not_the_end_of_an_argument(
    run: Callable[..., remctl.RemctlSimpleResult],
) -> None:
    """S12: an argument may hold NUL."""
    assert run(["test", "stdin", b"a\0b\0"]).stdout == b"a\0b\0"


@pytest.mark.parametrize(
    ("command", "stdout", "stderr"),
    [
        (["streams"], b"to standard output", b"to standard error"),
        (["streams", b"\xff\0".strip(b"\0"), ""], b"\xff", None),
        (["streams", "", "x"], None, b"x"),
        (["silent"], None, None),
        (["bytes", 300_000, 1], b"0123456789abcde\n" * 18_750, None),
        (["bytes", 300_000, 2], None, b"0123456789abcde\n" * 18_750),
    ],
    ids=["both", "stdout", "stderr", "none", "long-stdout", "long-stderr"],
)
def test_output_is_bytes_or_none(
    run: Callable[..., remctl.RemctlSimpleResult],
    command: list[object],
    stdout: bytes | None,
    stderr: bytes | None,
) -> None:
    """S14, S15: whole streams, None for one on which nothing came."""
    result = run(["test", *command])
    assert isinstance(result, remctl.RemctlSimpleResult)
    assert (result.stdout, result.stderr, result.status) == (stdout, stderr, 0)


def test_empty_output_is_nothing(scripted: Callable[..., Any]) -> None:
    """S15: None as well for a stream on which only empty tokens came."""
    empty = [["output", {"stream": stream, "repeat": 2}] for stream in (1, 2)]
    server = scripted(["handshake", "read", *empty, ["status", {"status": 0}]])
    result = remctl.remctl("localhost", server.port, None, ["test"])
    assert result == remctl.RemctlSimpleResult(None, None, 0)


@pytest.mark.parametrize("status", [0, 1, 127, 128, 200, 255])
def test_status_is_what_the_command_exited_with(
    run: Callable[..., remctl.RemctlSimpleResult], status: int
) -> None:
    """S16: 0 to 255, none of which raises an exception."""
    assert run(["test", "status", status]).status == status


def no_tickets(server: Server, tmp_path: Path) -> None:
    remctl.remctl(
        server.host, server.port, None, ["test"], ccache=str(tmp_path / "none")
    )


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda server, _: remctl.remctl("a..b", server.port, None, ["test"]),
            "unknown host a..b: ",
        ),
        (
            lambda *_: remctl.remctl("127.0.0.1", 1, None, ["test"]),
            "cannot connect to 127.0.0.1 (port 1): Connection refused",
        ),
        (no_tickets, "GSS-API error importing ticket cache: "),
        (
            lambda server, _: _run(server, ["test"], source_ip="::1"),
            "cannot connect to localhost (port ",
        ),
        (lambda server, _: _run(server, ["no", "such"]), "Unknown command"),
        (lambda server, _: _run(server, ["test", "denied"]), "Access denied"),
    ],
    ids=["resolve", "connect", "gss", "source", "unknown", "denied"],
)
def test_failures_are_protocol_errors(
    server: Server,
    tmp_path: Path,
    call: Callable[[Server, Path], object],
    text: str,
) -> None:
    """S17, S18, S28: whatever fails, and its text as str, in value and str()."""
    before = descriptors()
    with pytest.raises(remctl.RemctlProtocolError) as caught:
        call(server, tmp_path)
    assert type(caught.value) is remctl.RemctlProtocolError
    assert str(caught.value).startswith(text)
    assert caught.value.value == str(caught.value)
    assert descriptors() == before


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["no", "such"], remctl.ErrorCode.UNKNOWN_COMMAND),
        (["test", "denied"], remctl.ErrorCode.ACCESS),
        (["test", "args", b"\0"], remctl.ErrorCode.BAD_COMMAND),
        (["test", "args", *"x" * 4096], remctl.ErrorCode.TOOMANY_ARGS),
    ],
    ids=["unknown", "denied", "nul", "many"],
)
def test_server_errors_have_their_code(
    run: Callable[..., remctl.RemctlSimpleResult],
    command: list[object],
    code: remctl.ErrorCode,
) -> None:
    """S17: the exception for an error token has the server's code; others have none."""
    with pytest.raises(remctl.RemctlProtocolError) as caught:
        run(command)
    assert caught.value.code is code
    with pytest.raises(remctl.RemctlProtocolError) as caught:
        run(command, source_ip="::1")
    assert caught.value.code is None


def test_text_of_any_server_can_be_shown(scripted: Callable[..., Any]) -> None:
    """S18: octets that are not UTF-8 become escapes."""
    error = ["error", {"code": 5, "hex": "c3bcff00"}]
    server = scripted(["handshake", "read", error])
    with pytest.raises(remctl.RemctlProtocolError) as caught:
        remctl.remctl("localhost", server.port, None, ["test"])
    assert str(caught.value) == "ü\\xff\0"


def test_text_of_any_library_can_be_shown(server: Server) -> None:
    """Hazard 52: what is not UTF-8 in libremctl's texts becomes escapes, too."""
    with pytest.raises(remctl.RemctlProtocolError, match=r"nobody-\\xff@"):
        remctl.remctl(
            server.host, server.port, "nobody-\udcff@KRBTEST.COM", ["test", "hello"]
        )


def test_connection_is_closed(
    run: Callable[..., remctl.RemctlSimpleResult], scripted: Callable[..., Any]
) -> None:
    """A call leaves no descriptor behind, and the server is told in good order."""
    server = scripted(["handshake", "serve"])
    before = descriptors()
    assert remctl.remctl("localhost", server.port, None, ["test", "x"]).status == 0
    assert descriptors() == before
    server.wait_for("quit")


# As in pyremctl's documentation, but with print() and "except ... as", and with a host
# and a port that are there.
EXAMPLE = """
import remctl, sys
command = ('test', 'streams')
try:
    result = remctl.remctl(host = 'localhost', port = sys.argv[1], command = command)
except remctl.RemctlProtocolError as error:
    print("Error:", str(error))
    sys.exit(1)
if result.stdout:
    print("stdout:", result.stdout)
if result.stderr:
    print("stderr:", result.stderr)
print("exit status:", result.status)
"""


@pytest.mark.blocking_only
def test_example_of_the_document(server: Server) -> None:
    """S19: the example of pyremctl's documentation, once modernised."""

    good = run_python(EXAMPLE, server.port)
    assert good.stdout.splitlines() == [
        "stdout: b'to standard output'",
        "stderr: b'to standard error'",
        "exit status: 0",
    ]
    assert (good.returncode, good.stderr) == (0, "")
    failed = run_python(EXAMPLE, 1)
    text = "cannot connect to localhost (port 1): Connection refused"
    assert failed.stdout == f"Error: {text}\n"
    assert (failed.returncode, failed.stderr) == (1, "")
