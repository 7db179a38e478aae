# SPDX-License-Identifier: MIT
"""Who owns what: closing, half-made objects, garbage collection, leaks."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import socket
import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest
from names import names
from stages import PRINCIPAL, STAGES, in_use, open_on, wait_for_release
from support import HANG, collect, run_python

import remctl
from remctl._ffi import lib

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from remctl.testing import Server

    Start = Callable[..., Any]

HELLO = ["test", "hello"]


def is_not_open(client: remctl.Remctl) -> bool:
    with pytest.raises(remctl.RemctlNotOpenedError):
        client.output()
    return not client.opened


# Closing and half-made objects


def test_an_address_that_refuses_leaves_no_cycle(server: Server) -> None:
    """The client is freed when it is dropped, and so is a place in a pool."""
    with names().know("two.invalid", "::1", "127.0.0.1"):
        client = remctl.Remctl()
        client.open("two.invalid", server.port, server.principal)
    dropped = weakref.ref(client)
    gc.disable()
    try:
        del client
        if sys.implementation.name == "pypy":
            collect()
        assert dropped() is None
    finally:
        gc.enable()


def test_close_twice(server: Server) -> None:
    """S44: close() of a closed, or never opened, object does nothing."""
    client = remctl.Remctl()
    for _ in range(2):
        client.close()
        client.close()
        assert is_not_open(client)
        client.open(server.host, server.port)
        assert client.run(HELLO).stdout == b"hello world\n"
    client.close()


def test_close_twice_while_a_call_waits(server: Server) -> None:
    """Hazard 8: the descriptor stays until the call has left."""
    client = remctl.Remctl(server.host, server.port)
    handle = client._opened_connection()._open_handle()
    assert lib.shim_hold(handle)
    fd = client.fileno()
    lib.shim_close(handle)
    lib.shim_close(handle)
    os.fstat(fd)
    lib.shim_release(handle)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    client.close()


def test_close_from_many_threads(server: Server) -> None:
    """S44: any number of threads may close the object, at once and again."""
    for _ in range(20):
        client = remctl.Remctl(server.host, server.port)
        client.command(HELLO)
        barrier = threading.Barrier(4)

        def close(
            client: remctl.Remctl = client, barrier: threading.Barrier = barrier
        ) -> None:
            barrier.wait(HANG)
            client.close()
            client.close()

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert is_not_open(client)


def test_constructor_that_fails_leaves_nothing(scripted: Start) -> None:
    """S45: the object whose __init__ failed is not open, can be closed and used."""
    server = scripted([["handshake", {"stop": ["close", 2]}]], ["handshake", ["serve"]])
    before = in_use()
    client = remctl.Remctl.__new__(remctl.Remctl)
    for arguments in (["127.0.0.1", server.port, PRINCIPAL], ["127.0.0.1", -1], [7]):
        with pytest.raises((remctl.RemctlError, ValueError, TypeError)):
            client.__init__(*arguments)  # type: ignore[misc]
        assert is_not_open(client)
        client.close()
    wait_for_release(before)
    open_on(server.port, client)
    assert client.run(["test", "echo", "x"]).stdout == b"x"
    client.close()


def test_init_twice_closes_the_first_connection(scripted: Start) -> None:
    """__init__ on an open object starts it anew, settings included."""
    server = scripted(["handshake", "wait_eof"], ["handshake", ["serve"]])
    before = in_use()
    client = remctl.Remctl("127.0.0.1", server.port, PRINCIPAL)
    client.set_timeout(0.000_001)
    client.__init__("127.0.0.1", server.port, PRINCIPAL)  # type: ignore[misc]
    server.wait_for("eof", 0)
    assert client.run(["test", "echo", "x"]).stdout == b"x"
    client.__init__()  # type: ignore[misc]
    server.wait_for("quit", 1)
    assert is_not_open(client)
    assert client.error() == "no error"
    wait_for_release(before)


@pytest.mark.parametrize(
    "method",
    ["close", "output", "noop", "error", "fileno", "__iter__", "__enter__", "__repr__"],
)
def test_object_without_init_is_harmless(method: str) -> None:
    """__new__ alone gives an object that can be closed and dropped; no call crashes."""
    client = remctl.Remctl.__new__(remctl.Remctl)
    with suppress(AttributeError, remctl.RemctlError):
        getattr(client, method)()
    assert client.opened is False
    client.close()
    reference = weakref.ref(client)
    del client
    collect()
    assert reference() is None


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
        lambda client: copy.copy([client]) and client.__reduce_ex__(2),
    ],
    ids=["copy", "deepcopy", "pickle", "reduce"],
)
def test_connections_refuse_to_be_copied(
    duplicate: Callable[[object], object], client: remctl.Remctl
) -> None:
    """Two objects never share a connection; and the refusal does it no harm."""
    with pytest.raises(TypeError, match="cannot pickle 'Remctl' object"):
        duplicate(client)
    assert client.run(HELLO).stdout == b"hello world\n"


# Garbage


class Finalizer:
    """Uses the object that it refers to when it is collected."""

    def __init__(self, client: remctl.Remctl, use: Callable[[Any], object]) -> None:
        self.client = client
        self.use = use
        self.myself = self

    def __del__(self) -> None:
        self.use(self.client)


@pytest.mark.parametrize(
    ("steps", "end"),
    [
        (["handshake", "wait_eof"], "quit"),
        (["handshake", "read", "wait_eof"], "eof"),
        (["handshake", "read", ["output", {"size": 9, "cut": 20}], "wait_eof"], "eof"),
    ],
    ids=["idle", "reply unread", "half a token"],
)
@pytest.mark.parametrize("garbage", ["dropped", "cycle", "finalizer"])
def test_dropping_the_object_closes_the_connection(
    steps: list[Any], end: str, garbage: str, scripted: Start
) -> None:
    """S45: the server sees the end, in order if the connection was idle."""
    server = scripted(steps)
    before = in_use()
    client = remctl.Remctl("127.0.0.1", server.port, PRINCIPAL)
    if end == "eof":
        client.command(["test", "x"])
    if garbage == "cycle":
        cycle: list[Any] = [client]
        cycle.append(cycle)
        del cycle
    elif garbage == "finalizer":
        Finalizer(client, lambda client: client.error())
    del client
    collect()
    server.wait_for(end)
    server.wait_for("eof")
    wait_for_release(before)


@pytest.mark.parametrize(
    "use",
    [
        remctl.Remctl.close,
        lambda client: client.run(HELLO),
        lambda client: client.open("127.0.0.1", 1) if client.opened else None,
    ],
    ids=["close", "run", "failing open"],
)
def test_finalizers_may_use_the_object(
    use: Callable[[Any], object], server: Server
) -> None:
    """In whatever order the collector takes them; what they raise is theirs."""

    def use_it(client: remctl.Remctl) -> None:
        with suppress(remctl.RemctlError):
            use(client)
        used.set()

    used = threading.Event()
    before = in_use()
    for _ in range(5):
        Finalizer(remctl.Remctl(server.host, server.port), use_it)
    collect()
    assert used.is_set()
    wait_for_release(before)


@pytest.mark.parametrize("call", ["close", "output", "noop", "error", "fileno"])
def test_a_younger_finalizer_uses_what_is_finalized(call: str, server: Server) -> None:
    """The collector has ended the connection by then, but its memory is still there."""
    result = run_python(
        f"""
        import gc, ssl, sys
        import remctl

        class Finalizer:
            def __init__(self, client):
                self.client = client
                client.finalizer = self

            def __del__(self):
                ssl.create_default_context()
                junk = [bytearray(250) for _ in range(1000)]
                try:
                    self.client.{call}()
                except remctl.RemctlError:
                    pass
                self.client.close()

        for _ in range(30):
            client = remctl.Remctl(*sys.argv[1:])
            client.command(["test", "hello"])
            Finalizer(client)
            del client
            gc.collect()
        """,
        server.host,
        server.port,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)


def test_a_task_that_is_collected_with_its_closed_loop(server: Server) -> None:
    """Its steps end when the collector has ended the connection already."""
    result = run_python(
        """
        import asyncio, gc, ssl, sys
        import remctl.aio

        async def wait_for_output():
            client = remctl.aio.Remctl()
            await client.open(*sys.argv[1:])
            await client.command(["test", "sleep", 3])
            ready.set_result(None)
            await client.output()

        async def main():
            global ready
            ready = asyncio.get_running_loop().create_future()
            task = asyncio.ensure_future(wait_for_output())
            task.myself = [task]
            await ready
            await asyncio.sleep(0)

        for _ in range(10):
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda *_: None)
            loop.run_until_complete(main())
            loop.close()
            del loop, ready
            ssl.create_default_context()
            gc.collect()
        """,
        server.host,
        server.port,
        options=("-W", "ignore"),
    )
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)


def test_finalizer_in_the_middle_of_a_call(server: Server) -> None:
    """The collector may run one at any time: RemctlError, not a deadlock."""
    result = run_python(
        """
        import gc, sys
        import remctl

        class Finalizer:
            def __init__(self):
                self.myself = self

            def __del__(self):
                for call in (client.output, client.noop):
                    try:
                        call()
                    except remctl.RemctlError as error:
                        print(error)

        def trace(frame, event, argument):
            if frame.f_code.co_name == "_run":
                sys.settrace(None)
                Finalizer()
                gc.collect()

        client = remctl.Remctl(sys.argv[1], sys.argv[2])
        sys.settrace(trace)
        assert client.run(["test", "hello"]).stdout == b"hello world\\n"
        client.close()
        """,
        server.host,
        server.port,
    )
    assert (result.stderr, result.returncode) == ("", 0)
    assert result.stdout == "the object is in use by the interrupted call\n" * 2


def test_client_is_collected_while_its_job_runs(scripted: Start) -> None:
    """The job of an interrupted call keeps what it needs until it ends."""
    before = in_use()
    with STAGES["kdc"](scripted) as stage:
        client = remctl.Remctl()
        client.set_timeout(0.2)
        with pytest.raises(remctl.RemctlTimeoutError):
            stage.call(client)
        del client
        collect()
        stage.let_go()
    wait_for_release(before)


# Leaks


def open_run_close(server: Server) -> None:
    with remctl.Remctl(server.host, server.port) as client:
        client.run(HELLO)


def test_nothing_is_left_of_300_connections(server: Server) -> None:
    """Descriptors and threads are as before, whether closed or just dropped."""
    open_run_close(server)
    before = in_use()
    for turn in range(300):
        client = remctl.Remctl(server.host, server.port)
        client.run(HELLO)
        if turn % 3:
            client.close()
        elif turn % 2:
            client.command(HELLO)
        if turn % 50 == 0:
            collect()
        del client
    wait_for_release(before)


FAILING: dict[str, tuple[str, list[Any]]] = {
    "refused": ("cannot connect", []),
    "unknown host": ("unknown host", []),
    "no tickets": ("importing ticket cache", []),
    "unknown principal": ("nobody@KRBTEST.COM", []),
    "handshake broken off": (
        "unexpected end of file",
        [["handshake", {"stop": ["close", 2]}]],
    ),
    "handshake reset": ("receiving token", [["handshake", {"cut": 9}], "reset"]),
    "handshake mangled": ("GSS-API error", [["handshake", {"mangle": "garbage"}]]),
    "time-out": ("timed out", [["handshake", {"stop": ["hang", 2]}]]),
    "downgrade": ("attack", [["handshake", {"protocol": 1}], "hang"]),
}


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, and nobody else gets meanwhile."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield closed.getsockname()[1]


@pytest.mark.parametrize("name", FAILING)
def test_nothing_is_left_of_failed_opens(
    name: str, server: Server, scripted: Start, closed_port: int, tmp_path: Path
) -> None:
    """Descriptors and threads are as before."""
    text, steps = FAILING[name]
    host, port, principal = server.host, server.port, PRINCIPAL
    options: dict[str, Any] = {}
    if steps:
        host = "127.0.0.1"
        port = scripted(["handshake", ["serve"]], steps).port
        open_on(port, remctl.Remctl())
    elif name == "refused":
        port = closed_port
    elif name == "unknown host":
        host = "a..b"
    elif name == "no tickets":
        options["ccache"] = f"FILE:{tmp_path}/none"
    elif name == "unknown principal":
        principal = "nobody@KRBTEST.COM"
    if name == "time-out":
        options["timeout"] = 0.01

    def fail() -> None:
        with pytest.raises(remctl.RemctlError, match=text):
            remctl.Remctl(host, port, principal, **options)

    fail()
    collect()
    before = in_use()
    for _ in range(30):
        fail()
    wait_for_release(before)


@pytest.mark.parametrize("name", STAGES)
def test_nothing_is_left_of_calls_that_close_ended(
    name: str, server: Server, scripted: Start
) -> None:
    """Descriptors and threads are as before."""
    open_run_close(server)
    with STAGES[name](scripted) as stage:
        before = in_use()
        # That stage is its server's second connection.
        for _ in range(1 if name == "protocol 1 handshake" else 8):
            client = remctl.Remctl()
            stage.prepare(client)

            def call(client: remctl.Remctl = client) -> None:
                with pytest.raises(remctl.RemctlError):
                    stage.call(client)

            thread = threading.Thread(target=call)
            thread.start()
            stage.wait_for(thread)
            client.close()
            thread.join(HANG)
            assert not thread.is_alive()
        stage.let_go()
        wait_for_release(before)


def test_close_at_any_line_of_open_leaves_nothing(server: Server) -> None:
    """S44: as another thread's close() may come: no job, nor its socket, stays."""
    open_run_close(server)
    package = str(Path(remctl.__file__).parent)
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as silent:
        port = silent.getsockname()[1]
        before = in_use()
        for line in range(1, 1000):
            client = remctl.Remctl(timeout=0.02)
            left = line

            def trace(frame: FrameType, event: str, _: object) -> Any:
                nonlocal left
                if not frame.f_code.co_filename.startswith(package):
                    return None
                left -= event == "line"
                if left == 0 and event == "line":
                    sys.settrace(None)
                    client.close()  # noqa: B023 (called in this turn of the loop)
                return trace

            previous = sys.gettrace()
            sys.settrace(trace)
            try:
                with pytest.raises(remctl.RemctlError):
                    client.open("127.0.0.1", port, PRINCIPAL)
            finally:
                sys.settrace(previous)
            if left > 0:
                break
        assert 50 < line < 999
        # Here, before the silent server's end ends them.
        wait_for_release(before)


def test_memory_stays_bounded(server: Server, scripted: Start) -> None:
    """After a warm-up, connections and commands, good and bad, take no more memory."""
    bad = scripted([["handshake", {"mangle": "garbage"}]])
    lost = scripted(["handshake", "read", ["output", {"size": 50_000, "cut": 40_000}]])
    result = run_python(
        f"""
        import gc, resource, sys
        import remctl

        here = sys.argv[1:]

        def connection():
            with remctl.Remctl(*here) as client:
                client.run(["test", "hello"])

        def dropped():
            remctl.Remctl(*here).command(["test", "hello"])

        def failing():
            try:
                remctl.Remctl("127.0.0.1", {bad.port}, {PRINCIPAL!r})
            except remctl.RemctlError:
                return
            raise AssertionError

        def lost():
            try:
                client = remctl.Remctl("127.0.0.1", {lost.port}, {PRINCIPAL!r})
                client.run(["test", "x"])
            except remctl.RemctlError:
                return
            raise AssertionError

        def large():
            with remctl.Remctl(*here) as client:
                for _ in range(5):
                    client.run(["test", "bytes", 300_000])
                    client.run(["test", "unread", bytes(300_000)])

        def resident():
            for _ in range(3):
                gc.collect()
            with open("/proc/self/statm") as statm:
                return int(statm.read().split()[1]) * resource.getpagesize() // 1024

        for function, times in [
            (connection, 100), (dropped, 100), (failing, 100), (lost, 100), (large, 4)
        ]:
            growth = []
            for _ in range(8):  # PyPy compiles during the first half of them
                before = resident()
                for _ in range(times):
                    function()
                growth.append(resident() - before)
            # A leak is there each time, and the rest of the noise is not.
            print(function.__name__, min(growth))
        """,
        server.host,
        server.port,
    )
    assert result.stderr == ""
    growth = {
        name: int(number) for name, number in map(str.split, result.stdout.splitlines())
    }
    assert len(growth) == 5
    # KiB: a hundred contexts are more than 400, four large commands or outputs 1,200.
    assert growth.pop("large") < 600
    assert max(growth.values()) < 200, growth


def test_no_descriptor_to_be_had() -> None:
    """A connection that is half made leaves nothing, and the socket is closed."""
    result = run_python(
        """
        import os, resource, socket
        import remctl

        def in_use():
            return sorted(os.listdir("/proc/self/fd"))

        remctl.Remctl()  # imports the rest
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        here, there = socket.socketpair()
        there.settimeout(600)
        before = in_use()
        for free in (0, 1):
            filler = []
            try:
                while True:
                    filler.append(os.dup(0))
            except OSError:
                pass
            for _ in range(free):
                os.close(filler.pop())
            try:
                remctl.Remctl().open("localhost", sock=here)
            except remctl.RemctlError as error:
                print(error)
            for each in filler:
                os.close(each)
            assert there.recv(1) == b"", free
            there.close()
            here, there = socket.socketpair()
            there.settimeout(600)
            assert len(in_use()) == len(before), (free, before, in_use())
        """
    )
    assert (result.stderr, result.returncode) == ("", 0)
    assert result.stdout.count("Too many open files") == 2
