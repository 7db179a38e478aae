# SPDX-License-Identifier: MIT
"""What is logged, repr(), and the causes of exceptions."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable

import pytest
from silent import full
from support import LINUX_SHIM, run_python, wait_until

import remctl

if TYPE_CHECKING:
    from scripted import ScriptedServer

    from remctl.testing import Server

    Scripted = Callable[..., ScriptedServer]

pytestmark = pytest.mark.both_twins

COMMAND = ["test", "args", "secret"]
OLD = ["handshake", {"protocol": 1}]
LARGE = ["test", b"x" * 100_000]
INTERNAL = ["error", {"code": 1, "text": "Internal failure"}]


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the texts of the client's records so far, as they are in the log."""
    caplog.set_level(logging.DEBUG, "remctl")

    def texts() -> list[str]:
        found = [record for record in caplog.records if record.name == "remctl"]
        for record in found:
            place = f"{record.host}:{record.port}, connection {record.connection}: "  # type: ignore[attr-defined]
            assert record.getMessage().startswith(place)
            assert record.getMessage().isprintable()
        return [f"{r.levelname} {r.getMessage().partition(': ')[2]}" for r in found]

    return texts


def test_records_of_a_command(server: Server, records: Callable[[], list[str]]) -> None:
    """S69: from the first address to close(), and nothing of what is secret."""
    with remctl.Remctl("127.0.0.1", server.port, server.principal) as client:
        assert client.run(COMMAND).stdout == b"secret\0"
    *connecting, handshake, sent, status, closed = records()
    assert connecting == [
        f"DEBUG trying 127.0.0.1 port {server.port}",
        f"DEBUG connected to 127.0.0.1 port {server.port}",
    ]
    pattern = r"DEBUG handshake done, protocol 2 or later, \d+\.\d milliseconds"
    assert re.fullmatch(pattern, handshake)
    assert sent == "DEBUG sent 3 arguments, 14 octets"
    assert status == "DEBUG received status 0"
    assert closed == "DEBUG closed: by close()"


def test_records_of_each_connection_have_its_number(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """S69: which is another one for each."""
    caplog.set_level(logging.DEBUG, "remctl")
    for _ in range(2):
        remctl.remctl(server.host, server.port, command=COMMAND)
    numbers = [record.connection for record in caplog.records]  # type: ignore[attr-defined]
    assert len(set(numbers)) == 2
    assert numbers == sorted(numbers)


def test_records_of_addresses(records: Callable[[], list[str]]) -> None:
    """S69: each that is tried, and why it was not the one."""
    with pytest.raises(remctl.RemctlError):
        remctl.Remctl("127.99.98.97")
    tried = [
        text
        for port in (4373, 4444)
        for text in (
            f"DEBUG trying 127.99.98.97 port {port}",
            f"DEBUG 127.99.98.97 port {port}: Connection refused",
        )
    ]
    text = "cannot connect to 127.99.98.97 (port 4373): Connection refused"
    assert records() == [*tried, f"DEBUG closed: {text}"]


def test_records_come_at_once(
    client: remctl.Remctl, records: Callable[[], list[str]]
) -> None:
    """S69: an address that is silent is in the log before it is given up."""

    def call() -> None:
        with pytest.raises(remctl.RemctlError, match="closed during the call"):
            client.open("127.0.0.1", port)

    with full() as port:
        thread = threading.Thread(target=call)
        thread.start()
        wait_until(lambda: f"DEBUG trying 127.0.0.1 port {port}" in records())
        assert thread.is_alive()
        client.close()
        thread.join()


def test_records_of_a_server_that_resets(
    scripted: Scripted, records: Callable[[], list[str]]
) -> None:
    """S69: each new attempt."""
    reset = [["handshake", {"stop": ["reset", 0]}]]
    server = scripted(reset, reset, ["handshake", "serve"])
    try:
        remctl.Remctl("localhost", server.port).close()
    except remctl.RemctlError:
        assert not LINUX_SHIM  # which tries again
    again = [text for text in records() if "reset" in text]
    assert len(again) == (2 if LINUX_SHIM else 0)
    for text in again:
        pattern = r"DEBUG reset: giving way to others for 0\.\d{3} seconds"
        assert re.fullmatch(pattern, text)


def test_records_of_protocol_1(
    scripted: Scripted, records: Callable[[], list[str]]
) -> None:
    """S69: it is in that of the handshake."""
    server = scripted([OLD, "serve"])
    with remctl.Remctl("localhost", server.port) as client:
        client.run(COMMAND)
    assert re.search(r"handshake done, protocol 1, [\d.]+ millisec", "".join(records()))
    assert "DEBUG sent 3 arguments, 14 octets" in records()


def test_warnings(scripted: Scripted, records: Callable[[], list[str]]) -> None:
    """S69: of a downgrade, and of connections that are out of step."""
    server = scripted(["handshake", "serve"], [OLD, "serve"])
    remctl.remctl("localhost", server.port, command=COMMAND)
    with pytest.raises(remctl.RemctlError):
        remctl.Remctl("localhost", server.port)
    surplus = scripted(["handshake", "output", "hang"])
    client = remctl.Remctl("localhost", surplus.port)
    surplus.wait_for("sent", 0)
    with pytest.raises(remctl.RemctlError):
        client.run(COMMAND)
    many = scripted(["handshake", "read", INTERNAL, "hang"])
    client.open("localhost", many.port)
    with pytest.raises(remctl.RemctlProtocolError):
        client.run(LARGE)
    twice = scripted(["handshake", "read", INTERNAL, "read", INTERNAL, "read", "noop"])
    client.open("localhost", twice.port)
    for _ in range(2):
        with pytest.raises(remctl.RemctlError):
            client.run(COMMAND)
    warnings = [text for text in records() if text.startswith("WARNING")]
    for text, pattern in zip(
        warnings,
        [
            "has spoken protocol 2 before and speaks protocol 1 now",
            "out of step: unexpected token from server",
            "out of step: .* may have an error for each part of the last command",
            "out of step: the server has answered the last command again",
        ],
    ):
        assert re.search(pattern, text)
    assert len(warnings) == 4


@pytest.mark.blocking_only
def test_an_exceptions_text_is_one_line_in_the_log(
    records: Callable[[], list[str]],
) -> None:
    """S69: whoever has made it, here a script for a fake."""
    error = remctl.RemctlError("no\n\x1b[31mred" + 2000 * "x")
    fake = remctl.testing.FakeRemctl([error])("host")
    with pytest.raises(remctl.RemctlError):
        fake.run(COMMAND)
    assert records() == [rf"DEBUG closed: no\n\x1b[31mred{(1000 - 11) * 'x'}..."]


@pytest.mark.blocking_only
def test_logging_is_not_imported(server: Server) -> None:
    """S69: nor is anything written where it is imported, but has no handler."""
    program = """
        import sys, remctl
        host, port = sys.argv[1:]
        print(remctl.remctl(host, port, command=["test", "hello"]).status)
        assert "logging" not in sys.modules
        import logging
        client = remctl.Remctl(host, port)
        client._connection.log.warning("this is for handlers")
        client.close()
        print([type(each).__name__ for each in logging.getLogger("remctl").handlers])
        """
    result = run_python(program, server.host, server.port)
    assert (result.stdout, result.stderr) == ("0\n['NullHandler']\n", "")


@pytest.mark.blocking_only
def test_logging_that_is_being_imported(server: Server) -> None:
    """S69: by another thread, has no functions yet."""
    program = """
        import sys, types, remctl
        host, port = sys.argv[1:]
        sys.modules["logging"] = types.ModuleType("logging")
        print(remctl.remctl(host, port, command=["test", "hello"]).status)
        """
    result = run_python(program, server.host, server.port)
    assert (result.stdout, result.stderr) == ("0\n", "")


@pytest.mark.parametrize(
    "wanted", ["connected to", "handshake done", "sent 3", "received status"]
)
def test_a_handler_that_interrupts(
    server: Server, caplog: pytest.LogCaptureFixture, wanted: str
) -> None:
    """S43: what a handler raises ends the call, and nothing is left on the wire."""
    logger = logging.getLogger("remctl")

    def interrupt(record: logging.LogRecord) -> bool:
        if wanted in record.getMessage():
            raise KeyError(wanted)
        return True

    caplog.set_level(logging.DEBUG, "remctl")
    client = remctl.Remctl()
    logger.addFilter(interrupt)
    try:
        with pytest.raises(KeyError):
            client.open(server.host, server.port)
            client.run(COMMAND)
    finally:
        logger.removeFilter(interrupt)
    assert not client.opened
    client.open(server.host, server.port)
    assert client.run(["test", "hello"]).stdout == b"hello world\n"
    client.close()


@pytest.mark.blocking_only
def test_the_record_of_a_call_in_a_stopped_loop(
    scripted: Scripted, records: Callable[[], list[str]]
) -> None:
    """S69: nobody has called close()."""
    port = scripted(["handshake", "read", "hang"]).port
    client = remctl.aio.Remctl()
    stopped = asyncio.new_event_loop()
    stopped.run_until_complete(client.open("localhost", port))
    call = stopped.create_task(client.noop())
    stopped.run_until_complete(asyncio.sleep(0))
    with pytest.raises(remctl.RemctlNotOpenedError):
        asyncio.run(client.noop())
    assert records()[-1] == (
        "DEBUG closed: its event loop was stopped in the middle of a call"
    )
    with pytest.raises(remctl.RemctlError):
        stopped.run_until_complete(call)
    stopped.close()


def test_repr(server: Server, scripted: Scripted) -> None:
    """S70: class, host, port and state."""
    client = remctl.Remctl()
    name = f"{type(client).__module__}.{type(client).__qualname__}"
    assert repr(client) == f"<{name} not open>"
    client.open(server.host, server.port)
    here = f"<{name} {server.host}:{server.port}"
    assert repr(client) == f"{here}, open>"
    client.command(["test", "hello"])
    assert repr(client) == f"{here}, open, a reply is unread>"
    assert len(list(client)) == 2
    client.close()
    assert repr(client) == f"{here}, not open>"
    old = scripted([OLD, "serve"])
    client.open("127.0.0.1", old.port, server.principal)
    assert repr(client) == f"<{name} 127.0.0.1:{old.port}, open>"
    client.close()
    sock = socket.create_connection(("127.0.0.1", server.port))
    client.open("localhost", sock=sock)
    assert repr(client) == f"<{name} localhost, open>"
    client.close()
    with suppress(remctl.RemctlError):
        client.open("127.99.98.97")
    assert repr(client) == f"<{name} 127.99.98.97:4373, not open>"


@pytest.mark.blocking_only
def test_repr_before_open() -> None:
    """S70: what ``async with`` will open."""
    twin = remctl.aio.Remctl
    assert repr(twin("foo")) == "<remctl.aio.Remctl foo:4373, not open>"
    assert repr(twin("::1", "44")) == "<remctl.aio.Remctl [::1]:44, not open>"
    assert repr(twin()) == "<remctl.aio.Remctl not open>"
    fake = remctl.testing.aio.FakeRemctl()
    asyncio.run(fake.open("foo"))
    name = "<remctl.testing.aio.FakeRemctl"
    assert repr(fake("bar")) == f"{name} bar:4373, not open>"


@pytest.mark.blocking_only
def test_repr_of_what_is_being_opened(scripted: Scripted) -> None:
    """S70: it does not wait for the call."""
    server = scripted([["handshake", {"stop": ["hang", 1]}]])
    client = remctl.Remctl()
    seen = []

    def look() -> None:
        server.wait_for("stopped")
        seen.append(repr(client))
        client.close()

    thread = threading.Thread(target=look)
    thread.start()
    with pytest.raises(remctl.RemctlError):
        client.open("localhost", server.port)
    thread.join()
    assert seen == [f"<remctl.Remctl localhost:{server.port}, opening>"]


def test_cause_of_not_being_open(server: Server, scripted: Scripted) -> None:
    """S68: a copy of the failure, until open() or close()."""
    lost = scripted(["handshake", "read", "close"])
    client = remctl.Remctl("localhost", lost.port)
    with pytest.raises(remctl.RemctlError) as loss:
        client.run(COMMAND)
    for call in (client.output, client.noop, lambda: client.run(COMMAND)):
        with pytest.raises(remctl.RemctlNotOpenedError) as caught:
            call()
        assert (str(caught.value), caught.value.stage) == (NOT_OPENED, None)
        cause = caught.value.__cause__
        assert cause is not loss.value and repr(cause) == repr(loss.value)
        assert isinstance(cause, remctl.RemctlError)
        assert (cause.stage, cause.__traceback__) == ("reply", None)
    with pytest.raises(remctl.RemctlError) as failed:
        client.open("127.99.98.97")
    with pytest.raises(remctl.RemctlNotOpenedError) as caught:
        client.run(COMMAND)
    cause = caught.value.__cause__
    assert repr(cause) == repr(failed.value)
    assert cause is not None and cause.__cause__ is failed.value.__cause__
    client.open(server.host, server.port)
    client.close()
    with pytest.raises(remctl.RemctlNotOpenedError) as caught:
        client.run(COMMAND)
    assert caught.value.__cause__ is None


NOT_OPENED = "no currently open connection"


def test_cause_of_not_being_open_any_more(scripted: Scripted) -> None:
    """S68: after an error token for a command of several messages."""
    many = scripted(["handshake", "read", INTERNAL, "hang"])
    client = remctl.Remctl("localhost", many.port)
    client.command(LARGE)
    assert client.output().type == "error"
    with pytest.raises(remctl.RemctlNotOpenedError) as caught:
        client.command(COMMAND)
    assert "may have an error for each part" in str(caught.value.__cause__)
    assert getattr(caught.value.__cause__, "stage", None) == "reply"
    client.close()
    with pytest.raises(remctl.RemctlNotOpenedError) as caught:
        client.command(COMMAND)
    assert caught.value.__cause__ is None


class OfHost(remctl.RemctlError):
    """A caller's own exception, which a fake may raise."""

    def __init__(self, host: str, number: int) -> None:
        super().__init__(f"{host} {number}", "reply")
        self.number = number


@pytest.mark.blocking_only
def test_cause_of_a_class_with_other_arguments() -> None:
    """S68: it is copied without its constructor."""
    error: Any = OfHost("host", 5)
    fake = remctl.testing.FakeRemctl([error])("host")
    with pytest.raises(OfHost):
        fake.run(COMMAND)
    with pytest.raises(remctl.RemctlNotOpenedError) as caught:
        fake.run(COMMAND)
    cause: Any = caught.value.__cause__
    assert (type(cause), str(cause), cause.number) == (OfHost, "host 5", 5)


# What a review found


def test_close_between_the_command_and_its_reply(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S66: the command may have run, so it is an error in the reply."""
    client = remctl.Remctl(server.host, server.port)
    connection = client._opened_connection()
    command_now = connection.command_now

    def closed_then(*arguments: Any) -> object:
        unsent = command_now(*arguments)
        client.close()
        return unsent

    monkeypatch.setattr(connection, "command_now", closed_then)
    with pytest.raises(remctl.RemctlError, match="closed during the call") as caught:
        client.run(COMMAND)
    assert caught.value.stage == "reply"


def test_the_cause_after_an_interrupt(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S68: it is named, and the stage that it has ended."""

    class Stop(BaseException):
        pass

    def stop() -> None:
        raise Stop

    client = remctl.Remctl(server.host, server.port)
    monkeypatch.setattr(client._opened_connection(), "output_now", stop)
    client.command(COMMAND)
    with pytest.raises(Stop):
        client.output()
    assert client.error() == "Stop"
    with pytest.raises(remctl.RemctlNotOpenedError) as caught:
        client.run(COMMAND)
    cause = caught.value.__cause__
    assert isinstance(cause, remctl.RemctlError)
    assert (str(cause), cause.stage) == ("Stop", "reply")


def test_the_cause_after_an_error_for_a_large_command(scripted: Scripted) -> None:
    """S68: that it may have been one of several, and the error itself."""
    server = scripted(["handshake", "read", INTERNAL])
    client = remctl.Remctl("localhost", server.port)
    with pytest.raises(remctl.RemctlProtocolError):
        client.run(LARGE)
    with pytest.raises(remctl.RemctlNotOpenedError) as caught:
        client.run(COMMAND)
    cause = caught.value.__cause__
    assert cause is not None
    assert "out of step" in str(cause)
    assert isinstance(cause.__cause__, remctl.RemctlProtocolError)
    client.close()


def test_a_program_whose_records_have_a_host(
    server: Server, records: Callable[[], list[str]]
) -> None:
    """S69: the record factory of a program may set the same names."""
    former = logging.getLogRecordFactory()

    def factory(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = former(*arguments, **options)
        record.host = "here"
        return record

    logging.setLogRecordFactory(factory)
    try:
        remctl.Remctl(server.host, server.port).close()
    finally:
        logging.setLogRecordFactory(former)
    assert records()[-1] == "DEBUG closed: by close()"
