# SPDX-License-Identifier: MIT
"""docs/howto/failures.md: each message in its table, and the stage that it is under."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import pytest
from kerberos import HEIMDAL
from mistakes import CALLS, COMMAND, OPENINGS, Kit
from support import LINUX_SHIM

import remctl
from remctl._explain import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remctl.testing import Realm, Server

pytestmark = pytest.mark.both_twins

PAGE = Path(__file__).parent.parent.parent / "docs/howto/failures.md"
STAGES = ["resolve", "connect", "authenticate", "send", "reply"]


class Row(NamedTuple):
    """A row of the table: what is wrong, the exception, its text and stage."""

    name: str
    kind: str
    text: str
    stage: str | None


def rows() -> Iterator[Row]:
    """Read the table of the page, which has a heading for each stage."""
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").strip("`")
        elif row := re.fullmatch(r"\| (.+?) +\| `(\w+)` +\| `(.+)` +\|", line):
            stage = heading if heading in STAGES else None
            yield Row(row[1], row[2], row[3], stage)


ROWS = {row.name: row for row in rows()}
if HEIMDAL:
    # What is the library's own is not MIT's.
    LIBRARY = re.compile(r"(GSS-API error [a-z ]+: |ticket cache: ).*( \([^()]*\))")
    for ROW in ROWS.values():
        ROWS[ROW.name] = ROW._replace(text=LIBRARY.sub(r"\1...\2", ROW.text))
    # What it does not tell, or tells only the server.
    for NAME, TEXT in {
        "the clocks differ by an hour": "error receiving token: ... see its log)",
        "a database server": "GSS-API error initializing context: ...",
    }.items():
        ROWS[NAME] = ROWS[NAME]._replace(text=TEXT)
if not LINUX_SHIM:  # which cannot tell that it was a reset
    RESETS = "a server that resets each connection"
    HUNG_UP = ROWS["a server that hangs up in the handshake"].text
    TEXT = HUNG_UP.replace("receiving", "...")
    ROWS[RESETS] = ROWS[RESETS]._replace(text=TEXT)


def test_the_table() -> None:
    """It has what is made here, and each stage."""
    assert sorted(ROWS) == sorted([*OPENINGS, *CALLS])
    assert len(ROWS) == len(list(rows())) >= 60
    assert {row.stage for row in ROWS.values()} == {None, *STAGES}


@pytest.fixture
def kit(
    realm: Realm, server: Server, scripted: Callable[..., Any], tmp_path: Path
) -> Iterator[Kit]:
    """What the mistakes are made with."""
    with ExitStack() as stack:
        yield Kit(realm, server, scripted, tmp_path, stack)


def check(error: BaseException, row: Row, kind: str) -> None:
    """Check an exception against the page, in which "..." stands for anything."""
    text = str(error)
    shown = re.sub(r"(localhost|127\.[.\d]+):\d+", "foo.example.com:4373", text)
    shown = re.sub(r"(localhost|127\.[.\d]+) \(port \d+\)", CONNECTING, shown)
    shown = re.sub(r"localhost|127\.0\.0\.1", "foo.example.com", shown)
    shown = shown.replace("KRBTEST.COM", "EXAMPLE.COM")
    pattern = ".*".join(map(re.escape, row.text.split("...")))
    assert re.fullmatch(pattern, shown), f"{row.name}: {shown}"
    assert type(error).__name__ == kind
    assert getattr(error, "stage", None) == row.stage
    assert text.isprintable()


CONNECTING = "foo.example.com (port 4373)"


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str, kit: Kit) -> None:
    """S66, S67: the exception, its text and its stage are those of the page."""
    with pytest.raises(Exception) as caught:
        CALLS[name](kit)
    check(caught.value, ROWS[name], ROWS[name].kind)


@pytest.mark.parametrize("name", OPENINGS)
def test_openings(name: str, kit: Kit) -> None:
    """S66, S67: they are the same in both interfaces, and with a caller's socket."""
    row, arguments = ROWS[name], OPENINGS[name](kit)
    kind = row.kind if row.kind.endswith("TimeoutError") else "RemctlProtocolError"
    with pytest.raises(remctl.RemctlError) as full:
        remctl.Remctl(**arguments)
    check(full.value, row, row.kind)
    if HEIMDAL and name == "the clocks differ by an hour":
        return  # the library has noted the server's time in the cache
    with pytest.raises(remctl.RemctlError) as one_shot:
        remctl.remctl(**arguments, command=COMMAND)
    check(one_shot.value, row, kind)
    assert type(one_shot.value.__cause__) is type(full.value.__cause__)
    if row.stage == "authenticate":
        with_sock(arguments, row)


def with_sock(arguments: dict[str, Any], row: Row) -> None:
    """Check that open(sock=) fails in the same way."""
    host, port, principal, options = split(**arguments)
    sock = socket.create_connection(("127.0.0.1", port))
    with pytest.raises(remctl.RemctlError) as caught:
        remctl.Remctl(**options).open(host, port, principal, sock=sock)
    assert (type(caught.value).__name__, caught.value.stage) == (row.kind, row.stage)
    assert host in str(caught.value)
    assert f"{host}:" not in str(caught.value)


def test_the_loop_that_tries_again(kit: Kit) -> None:
    """S66: it comes through when the server starts, and repeats nothing else."""
    page = PAGE.read_text(encoding="utf-8")
    code = re.findall(r"^import random\n.*?(?=^print)", page, re.MULTILINE | re.DOTALL)
    program: dict[str, Any] = {}
    exec(code[0], program)
    server = kit.stack.enter_context(kit.realm.server({"test hello": "echo hello"}))
    server.stop()
    thread = threading.Timer(0.3, server.start)
    thread.start()
    result = program["run"]("localhost", server.port, COMMAND)
    thread.join()
    assert result.stdout == b"hello\n"
    lost = kit.scripted(["handshake", "read", "close"])
    with pytest.raises(remctl.RemctlError) as caught:
        program["run"]("localhost", lost.port, COMMAND)
    assert caught.value.stage == "reply"
    lost.close()
    events = [event["event"] for event in lost.events]
    assert (events.count("accepted"), events.count("command")) == (1, 1)


def split(
    host: str, port: int, principal: str | None = None, **options: Any
) -> tuple[str, int, str | None, dict[str, Any]]:
    """Return the arguments of open(), and the others."""
    return host, port, principal, options


@pytest.mark.blocking_only
@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "1 second"),
        (1.0004, "1 second"),
        (30, "30 seconds"),
        (0.3, "0.3 seconds"),
        (0.241563, "0.242 seconds"),
        (1.25, "1.25 seconds"),
        (1e6, "1000000 seconds"),
        (0.001, "0.001 seconds"),
        (1e-6, "less than 0.001 seconds"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    """S67: as people write them."""
    assert duration(seconds) == text
