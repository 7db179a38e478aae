# SPDX-License-Identifier: MIT
"""How run() reads a reply: all that is there at once, in C."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Callable

import pytest
from interrupts import Interruption, InterruptLine, handler, interrupt
from preload import library
from stages import in_use, wait_for_release
from support import HANG, descriptors, run_python, wait_until
from tunnel import tunnel

import remctl
import remctl.aio
from remctl import _asyncio, _waiting
from remctl._ffi import ffi, lib

if TYPE_CHECKING:
    from types import FrameType

    from scripted import ScriptedServer

    from remctl.testing import Server

    Scripted = Callable[..., ScriptedServer]

MIB = 1024 * 1024


@pytest.mark.both_twins
def test_small_tokens_of_both_streams(scripted: Scripted) -> None:
    """Each stream's output is in order, whatever is between its tokens."""
    steps = [
        ["output", {"text": f"{number},", "stream": 1 + number % 2}]
        for number in range(300)
    ]
    there = scripted(["handshake", "read", *steps, ["status", {"status": 7}]])
    with remctl.Remctl("localhost", there.port) as client:
        result = client.run(["test"])
    assert result.text() == "".join(f"{n}," for n in range(0, 300, 2))
    assert result.stderr == "".join(f"{n}," for n in range(1, 300, 2)).encode()
    assert result.status == 7


@pytest.mark.both_twins
def test_no_output_of_an_earlier_reply(scripted: Scripted) -> None:
    """Neither of a large one, whose memory is freed, nor of one that was an error."""
    output = ["output", {"size": 64 * 1024, "repeat": 16}]
    error = ["error", {"code": 5, "text": "no"}]
    there = scripted(
        [
            "handshake",
            *("read", output, ["output", {"text": "x", "stream": 2}], "status"),
            *("read", ["output", {"text": "y"}], error),
            *("read", "noop", "read", "status"),
        ]
    )
    with remctl.Remctl("localhost", there.port) as client:
        large = client.run(["test"])
        assert large.stdout == MIB * b"x"
        assert large.stderr == b"x"
        with pytest.raises(remctl.RemctlProtocolError, match="no"):
            client.run(["test"])
        assert client.run(["test"]) == remctl.RemctlSimpleResult(None, None, 0)


@pytest.mark.both_twins
@pytest.mark.parametrize("size", [1, 3 * MIB])
def test_run_after_tokens_were_read_one_by_one(size: int, server: Server) -> None:
    """Up to a "done": it reads its own reply, however its command was sent."""
    with remctl.Remctl(server.host, server.port) as client:
        client.command(["test", "hello"])
        assert len(list(client)) == 2
        assert client.output().type == "done"
        given = size * b"x"
        result = client.run(["test", "digest", given])
        assert hashlib.sha256(given).hexdigest() in result.text()


async def run_when_all_is_there(
    client: remctl.aio.Remctl, there: ScriptedServer
) -> remctl.RemctlSimpleResult:
    """Run a command, and hold the loop until the server has sent all of its reply."""
    call = asyncio.ensure_future(client.run(["test"]))
    await asyncio.sleep(0)  # the command is sent
    there.wait_for("barrier")
    return await call


@pytest.mark.parametrize("good", [1, 3, 20])
@pytest.mark.parametrize("size", [0, 300])
def test_each_token_that_was_seen_at_once_is_judged(
    good: int, size: int, scripted: Scripted
) -> None:
    """Hazard 74: by what itself looks like, and not the one before it."""
    first = ["output", {"text": "a", "repeat": good}]
    plaintext = f"020301{size:08x}{size * '78'}"
    signed = ["message", {"hex": plaintext, "encrypt": False}]
    there = scripted(["handshake", "read", first, signed, "status", "barrier"])

    async def main() -> None:
        async with remctl.aio.Remctl("localhost", there.port) as client:
            with pytest.raises(remctl.RemctlError, match="token that is not encrypted"):
                await run_when_all_is_there(client, there)
            assert not client.opened

    asyncio.run(main())


def test_tokens_of_all_sizes_that_were_seen_at_once(scripted: Scripted) -> None:
    """They end anywhere in what one look shows."""
    sizes = [*range(200), 5000, *range(1100, 900, -7), 0, 1]
    steps = [["output", {"size": size, "stream": 1 + size % 2}] for size in sizes]
    there = scripted(["handshake", "read", *steps, "status", "barrier"])

    async def main() -> remctl.RemctlSimpleResult:
        async with remctl.aio.Remctl("localhost", there.port) as client:
            return await run_when_all_is_there(client, there)

    result = asyncio.run(main())
    written = [sum(size for size in sizes if size % 2 == odd) for odd in (0, 1)]
    assert (result.stdout, result.stderr) == tuple(n * b"x" for n in written)


def test_memory_of_a_large_reply(server: Server) -> None:
    """It does not stay with the connection."""
    with remctl.Remctl(server.host, server.port) as client:
        client.run(["test", "bytes", 1000])
        connection = client._connection
        assert connection is not None
        handle = connection._open_handle()
        assert handle.out != ffi.NULL
        client.run(["test", "bytes", MIB])
        assert handle.out == ffi.NULL


# A child of a process with threads.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_fork_while_a_reply_grows(server: Server) -> None:
    """The child frees what it has of it, and the parent's is whole."""
    over = threading.Event()
    lengths, statuses = set(), set()

    def run() -> None:
        while not over.is_set():
            lengths.add(len(client.run(["test", "bytes", 4 * MIB]).stdout or b""))

    with remctl.Remctl(server.host, server.port) as client:
        thread = threading.Thread(target=run)
        thread.start()
        for _ in range(100):
            child = os.fork()
            if child == 0:
                client.close()
                client.__init__()  # type: ignore[misc]
                gc.collect()
                os._exit(0)
            statuses.add(os.waitpid(child, 0)[1])
        over.set()
        thread.join()
    assert (lengths, statuses) == ({4 * MIB}, {0})


@pytest.mark.parametrize("call", ["run", "output"])
def test_the_rest_of_a_token_comes_between_two_looks(
    call: str, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 73: it is encrypted, whatever the first look has seen of it."""
    slow = ["output", {"text": "hello", "chunk": 6, "delay": 0.05}]
    there = scripted(["handshake", "read", slow, "status"])
    monkeypatch.setenv("LD_PRELOAD", library("late_rest"))
    result = run_python(
        """
        import sys, remctl
        with remctl.Remctl("localhost", int(sys.argv[2])) as client:
            if sys.argv[1] == "run":
                print(client.run(["test"]).text())
            else:
                client.command(["test"])
                print(client.output().output.decode())
        """,
        call,
        there.port,
    )
    assert (result.stdout, result.stderr) == ("hello\n", "")


# What raises, and when


@pytest.mark.parametrize("delay", [0.0, 0.5])
def test_handler_that_raises_a_time_out(delay: float, scripted: Scripted) -> None:
    """The caller gets the handler's exception, at whatever time it comes."""

    def expire(*_: object) -> None:
        raise TimeoutError("the handler's own")

    mute = scripted(["handshake", "read", "hang"])
    for name in ("run", "noop"):
        with remctl.Remctl("localhost", mute.port, timeout=HANG) as client:
            calls: dict[str, Callable[[], object]] = {
                "run": lambda: client.run(["test"]),
                "noop": client.noop,
            }
            with handler(signal.SIGALRM, expire):
                signal.setitimer(signal.ITIMER_REAL, 0.1 + delay)
                with pytest.raises(TimeoutError, match="the handler's own") as caught:
                    calls[name]()
            assert not isinstance(caught.value, remctl.RemctlError)
            assert not client.opened


def raise_in(thread: threading.Thread, exception: type[BaseException]) -> None:
    """Have ``thread`` raise ``exception`` when it next runs Python code."""
    assert thread.ident is not None
    identifier = ctypes.c_ulong(thread.ident)
    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
    assert set_exception(identifier, ctypes.py_object(exception)) == 1


if sys.implementation.name == "cpython":  # PyPy has no such exceptions

    def test_exception_for_a_thread_in_a_flood(scripted: Scripted) -> None:
        """It does not wait for the end of the reply."""
        flood = scripted(["handshake", "read", ["flood", {"size": 8}]])
        ended: list[BaseException] = []

        def run() -> None:
            try:
                client.run(["test"])
            except Interruption as error:
                ended.append(error)

        with remctl.Remctl("localhost", flood.port) as client:
            thread = threading.Thread(target=run)
            thread.start()
            connection = client._connection
            assert connection is not None
            wait_until(lambda: connection.pending)
            time.sleep(0.5)  # until it waits for as long as it may
            raise_in(thread, Interruption)
            thread.join(HANG)
            assert len(ended) == 1


class InterruptCallback(InterruptLine):
    """The same in what an event loop calls when there is something to read."""

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if code.co_name == "read" or code is _asyncio.finish.__code__:
            return super().__call__(frame, event, _)
        return None


@pytest.mark.parametrize("timeout", [0, HANG])
def test_handler_that_raises_in_a_callback(timeout: float, server: Server) -> None:
    """The task goes on: the loop has logged the exception, and has lost nothing."""

    async def use(client: remctl.aio.Remctl) -> None:
        result = await client.run(["test", "args", "x"])
        assert result == remctl.RemctlSimpleResult(b"x\0", None, 0)
        assert await client.noop()

    raised: list[Any] = []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))
    client = remctl.aio.Remctl(timeout=timeout)
    with handler(signal.SIGUSR1, interrupt):
        loop.run_until_complete(client.open(server.host, server.port))
        for line in range(1, 100):
            tracer = InterruptCallback(line)
            with tracer:
                loop.run_until_complete(asyncio.wait_for(use(client), HANG))
            if tracer.left > 0:
                break
            assert isinstance(raised.pop(), Interruption), tracer.line
    assert not raised
    assert line > 8
    client.close()
    loop.close()


def test_a_failure_is_not_lost_in_a_callback(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call fails, and does not read on behind what it has refused."""
    reply = [["output", {"text": "a"}], ["message", {"hex": "0363"}], "status"]
    there = scripted(["handshake", "read", *reply])
    interrupted: list[int] = []

    class Lib:
        """Raises at the end of a call into C, as a signal handler may."""

        def __getattr__(self, name: str) -> Any:
            return getattr(lib, name)

        def shim_gather(self, *arguments: Any) -> int:
            outcome = lib.shim_gather(*arguments)
            if outcome == lib.SHIM_FAILED and not interrupted:
                interrupted.append(outcome)
                raise Interruption
            return outcome

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with remctl.aio.Remctl("localhost", there.port) as client:
            monkeypatch.setattr(_waiting, "lib", Lib())
            with pytest.raises(remctl.RemctlError, match="message type 99"):
                await client.run(["test"])

    asyncio.run(main())
    assert interrupted


# Time-outs


@pytest.mark.both_twins
def test_time_out_over_a_socket_that_is_not_tcp(server: Server) -> None:
    """It is silence there, too, and not the time of the whole reply."""
    ours, theirs = socket.socketpair()
    there = socket.create_connection(("127.0.0.1", server.port))
    with tunnel(theirs, there), remctl.Remctl(timeout=2) as client:
        client.open(server.host, sock=ours)
        assert client.run(["test", "drip", "6", "0.5"]).text().count("\n") == 6


@pytest.mark.both_twins
def test_descriptors_in_a_token(server: Server) -> None:
    """Through a UNIX socket: no look goes beyond them, although all of it is there."""
    before = descriptors()
    ours, theirs = socket.socketpair()
    there = socket.create_connection(("127.0.0.1", server.port))

    def send(target: socket.socket, octets: bytes) -> None:
        socket.send_fds(target, [octets[:6]], [there.fileno()])
        target.sendall(octets[6:])

    with tunnel(theirs, there, send), remctl.Remctl() as client:
        client.open(server.host, sock=ours)
        for _ in range(3):
            assert client.run(["test", "hello"]).text() == "hello world\n"
    assert descriptors() == before


def test_time_out_of_a_loop_that_was_held(scripted: Scripted) -> None:
    """What has come meanwhile is read before the server is called silent."""
    output = ["output", {"size": 1, "repeat": 800}]
    there = scripted(["handshake", "read", output, "status"])

    async def main() -> None:
        client = remctl.aio.Remctl("localhost", there.port, timeout=0.5)
        async with client:
            call = asyncio.ensure_future(client.run(["test"]))
            await asyncio.sleep(0.01)
            time.sleep(1.5)  # noqa: ASYNC251 (as a program that has much to do)
            assert len((await call).stdout or b"") == 800

    asyncio.run(main())


# What is left


def test_memory_of_a_reply_that_failed(scripted: Scripted) -> None:
    """What was read of it is freed, although the object still has its connection."""
    output = ["output", {"size": 64 * 1024, "repeat": 16}]
    there = scripted(["handshake", "read", output, "hang"])

    async def use() -> Any:
        async_client = remctl.aio.Remctl("localhost", there.port, timeout=0.5)
        async with async_client:
            connection = async_client._opened_connection()
            with pytest.raises(remctl.RemctlTimeoutError):
                await async_client.run(["test"])
            return connection._handle

    with remctl.Remctl("localhost", there.port, timeout=0.5) as client:
        connection = client._opened_connection()
        with pytest.raises(remctl.RemctlTimeoutError):
            client.run(["test"])
        handles = [connection._handle, asyncio.run(use())]
    assert [each is not None and each.out == ffi.NULL for each in handles] == [True] * 2


def test_interrupted_noop_leaves_nothing(scripted: Scripted) -> None:
    """Not even while the object lives on."""
    mute = scripted(["handshake", "read", "hang"])
    remctl.Remctl("localhost", mute.port).close()
    before = in_use()
    clients = []
    with handler(signal.SIGALRM, interrupt):
        for delay in (0.1, 0.1, 0.5):  # in both of its waits
            client = remctl.Remctl("localhost", mute.port)
            clients.append(client)
            signal.setitimer(signal.ITIMER_REAL, delay)
            with pytest.raises(Interruption):
                client.noop()
    wait_for_release((before[0], before[1] + 1))  # a thread waits for its next job


def test_a_child_knows_why_the_connection_was_lost(scripted: Scripted) -> None:
    """As its parent does, whose it was."""
    there = scripted(["handshake", "read", "close"])
    client = remctl.Remctl("localhost", there.port)
    with pytest.raises(remctl.RemctlError):
        client.run(["test"])
    text = client.error()
    child = os.fork()
    if child == 0:
        try:
            client.noop()
        except remctl.RemctlNotOpenedError as error:
            os._exit(0 if error.__cause__ is not None and client.error() == text else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_a_reply_that_is_there_leaves_others_their_turn(scripted: Scripted) -> None:
    """Not after each token, but after a millisecond."""
    count = 20_000
    output = ["output", {"size": 1, "repeat": count}]
    there = scripted(["handshake", "read", output, "status"])
    turns = 0

    async def main() -> None:
        nonlocal turns
        async with remctl.aio.Remctl("localhost", there.port) as client:
            call = asyncio.ensure_future(client.run(["test"]))
            await asyncio.sleep(0.01)
            time.sleep(1)  # noqa: ASYNC251 (for all of it to be there)
            while not call.done():
                turns += 1
                await asyncio.sleep(0)
            result = await call
            assert result.stdout == count * b"x"

    asyncio.run(main())
    assert turns > 10


@pytest.mark.parametrize("timeout", [0, 7200])
def test_timers_of_asyncio_calls(timeout: int, server: Server) -> None:
    """A wait has one if there is a time-out, however long that is."""
    timers: list[float] = []

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        client = remctl.aio.Remctl("localhost", server.port, timeout=timeout)
        async with client:
            call_at = loop.call_at

            def counted(when: float, *rest: Any, **named: Any) -> Any:
                timers.append(when)
                return call_at(when, *rest, **named)

            loop.call_at = counted
            await client.run(["test", "hello"])
            del loop.call_at

    asyncio.run(main())
    assert bool(timers) == bool(timeout)
