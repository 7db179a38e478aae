# SPDX-License-Identifier: MIT
"""The bounded threads of remctl.aio, and what must not keep others from them."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Callable

import pytest
from pools import busy, call
from support import wait_until

import remctl
import remctl.aio
from remctl import _connect, _connection, _workers
from remctl._asyncio import until_woken
from remctl._waiting import Call, Deadline, Work, pause
from remctl._workers import LIMIT, Pool, pools

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scripted import ScriptedServer

    from remctl.testing import Server

    Scripted = Callable[..., ScriptedServer]

HELLO = remctl.RemctlSimpleResult(b"hello world\n", None, 0)
# Seconds: the bound on a hang.
AT_ONCE = 15.0
# Servers that answer nothing to: the handshake, a noop or command, a command.
MUTE = [["handshake", {"stop": ["hang", 2]}]]
MUTE_LATER = ["handshake", "read", "hang"]
P1 = ["handshake", {"protocol": 1}]
LOOPBACK = "127.0.0.1"  # without the name service
PRINCIPAL = "host/localhost@KRBTEST.COM"


@pytest.fixture(autouse=True)
def all_end() -> Iterator[None]:
    """See that all threads end, and that the pools are as before."""
    yield
    wait_until(lambda: busy() == 0)
    for pool in pools.values():
        assert (list(pool._queue), pool._giving_way) == ([], 0)


@pytest.fixture
def ended(all_end: None) -> Iterator[threading.Event]:
    """What ends the calls that hold threads: in a test that fails, too."""
    ended = threading.Event()
    yield ended
    ended.set()


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each kind of work have two threads."""
    monkeypatch.setattr(_workers, "LIMIT", 2)


@contextmanager
def hold(pool: Pool) -> Iterator[None]:
    """Hold a pool's lock, in another thread, which is no help to this one."""
    held, enough = threading.Event(), threading.Event()

    def thread() -> None:
        with pool._lock:
            held.set()
            enough.wait(AT_ONCE)

    holder = threading.Thread(target=thread)
    holder.start()
    held.wait()
    start = time.monotonic()
    yield
    assert time.monotonic() - start < AT_ONCE / 2
    enough.set()
    holder.join()


def begin(count: int, *arguments: Any) -> list[asyncio.Future[Any]]:
    """Begin COUNT calls."""
    return [asyncio.ensure_future(call(*arguments)) for _ in range(count)]


async def hello(server: Server) -> remctl.RemctlSimpleResult:
    """Run a command, as in a program that has been waiting for nothing."""
    command = ["test", "hello"]
    return await asyncio.wait_for(
        remctl.aio.remctl(LOOPBACK, server.port, PRINCIPAL, command), AT_ONCE
    )


async def end(calls: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel all CALLS."""
    for each in calls:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


def test_stalled_handshakes_give_way(scripted: Scripted, server: Server) -> None:
    """More of them than threads, none with a time-out, and a good one."""
    mute = scripted(MUTE)

    async def main() -> None:
        stalled = [
            asyncio.ensure_future(remctl.aio.Remctl().open("localhost", mute.port))
            for _ in range(LIMIT + 20)
        ]
        await asyncio.sleep(0.5)
        assert len(pools[Work.HANDSHAKE]._threads) == LIMIT
        assert await hello(server) == HELLO
        assert not any(task.done() for task in stalled)
        await end(stalled)

    asyncio.run(main())


@pytest.mark.usefixtures("two_threads")
def test_stalled_noops_give_way_to_each_other(
    scripted: Scripted, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They say so; handshakes do not even wait for them."""
    monkeypatch.setattr(_connection, "PATIENCE", 1.0)
    mute = scripted(MUTE_LATER)

    async def main() -> None:
        clients = [remctl.aio.Remctl() for _ in range(3)]
        for client in clients:
            await client.open("localhost", mute.port)
        calls = [asyncio.ensure_future(client.noop()) for client in clients]
        await asyncio.sleep(0.1)
        assert await hello(server) == HELLO
        assert not any(call.done() for call in calls)
        ended, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(remctl.RemctlTimeoutError, match="need its thread"):
            await ended.pop()
        for client in clients:
            client.close()
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.usefixtures("two_threads")
def test_stalled_name_service(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps nobody waiting but those who ask it."""
    answered = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if options["flags"] == 0:
            answered.wait()
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def main() -> None:
        calls = [
            asyncio.ensure_future(
                remctl.aio.remctl("localhost", server.port, command=["test", "hello"])
            )
            for _ in range(3)
        ]
        await asyncio.sleep(0.1)
        assert await hello(server) == HELLO
        answered.set()
        assert await asyncio.gather(*calls) == [HELLO] * 3

    asyncio.run(main())


@pytest.mark.usefixtures("two_threads")
def test_protocol1_commands_wait_for_each_other(
    scripted: Scripted, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is given up for being slow; others do not wait for them."""
    monkeypatch.setattr(_connection, "PATIENCE", 0.1)
    reply = ["sleep", {"seconds": 1}], ["result1", {"status": 0, "text": "ok"}]
    slow = [P1, "read", "mic", *reply]
    old = scripted([P1], [P1], [P1], slow)

    async def main() -> None:
        clients = [remctl.aio.Remctl() for _ in range(3)]
        for client in clients:
            await client.open(LOOPBACK, old.port, PRINCIPAL)
        calls = [asyncio.ensure_future(client.run(["x"])) for client in clients]
        await asyncio.sleep(0.3)
        assert await hello(server) == HELLO
        results = await asyncio.gather(*calls)
        assert results == [remctl.RemctlSimpleResult(b"ok", None, 0)] * 3

    asyncio.run(main())


@pytest.mark.usefixtures("two_threads")
def test_cancelled_protocol1_commands(scripted: Scripted, server: Server) -> None:
    """Their threads stay until the server is gone, but keep only each other."""
    old = scripted([P1], [P1], [P1, "read", "hang"])

    async def main() -> None:
        clients = [remctl.aio.Remctl() for _ in range(2)]
        for client in clients:
            await client.open(LOOPBACK, old.port, PRINCIPAL)
        calls = [asyncio.ensure_future(client.run(["x"])) for client in clients]
        await asyncio.sleep(0.3)
        await end(calls)
        assert await hello(server) == HELLO
        assert len(pools[Work.PROTOCOL1]._threads) == 2

    asyncio.run(main())
    old.close()


def test_a_retry_waits_for_a_thread_outside_its_timeout(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, ended: threading.Event
) -> None:
    """And does not ask the name service again."""
    asked = []
    real = socket.getaddrinfo

    def getaddrinfo(*arguments: Any, **options: Any) -> Any:
        asked.append(options["flags"])
        return real(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    port = scripted([["handshake", {"stop": ["reset", 0]}]], ["handshake"]).port
    calls = []

    def busy_pause(seconds: float) -> Any:
        calls.extend(begin(LIMIT, ended))
        return pause(seconds)

    monkeypatch.setattr(_connection, "pause", busy_pause)

    async def main() -> None:
        client = remctl.aio.Remctl(timeout=1)
        asyncio.get_running_loop().call_later(2, ended.set)
        await client.open("localhost", port)
        client.close()
        await asyncio.gather(*calls)

    asyncio.run(main())
    assert asked == [socket.AI_NUMERICHOST, 0]


def test_dropping_a_call_takes_no_lock(ended: threading.Event) -> None:
    """A garbage collection may do it while this thread has the lock."""
    pool = pools[Work.HANDSHAKE]

    async def main() -> None:
        holding = begin(LIMIT, ended)
        waiting = call(ended)
        await asyncio.sleep(0.1)
        waiting.send(None)
        with hold(pool):
            waiting.close()
        (entry,) = pool._queue
        assert entry.taken
        ended.set()
        await asyncio.gather(*holding)

    asyncio.run(main())


def test_collected_while_another_is_queued(ended: threading.Event) -> None:
    """The same, with the collector itself."""

    async def main() -> None:
        holding = begin(LIMIT, ended)
        await asyncio.sleep(0.1)
        for threshold in range(1, 100):
            gc.disable()
            waiting = call(ended)
            waiting.send(None)
            cycle = [waiting]
            cycle.append(cycle)
            del waiting, cycle
            other = call(ended)
            if hasattr(gc, "set_threshold"):
                gc.set_threshold(threshold)
            gc.enable()
            other.send(None)
            other.close()
        ended.set()
        await asyncio.gather(*holding)

    before: Any = getattr(gc, "get_threshold", tuple)()
    try:
        asyncio.run(main())
    finally:
        gc.enable()
        if before:
            gc.set_threshold(*before)
    gc.collect()


def test_threads_serve_loops_that_run(ended: threading.Event) -> None:
    """Calls of a loop that has stopped keep nobody waiting."""

    async def stop() -> list[asyncio.Future[Any]]:
        calls = begin(2 * LIMIT, ended)
        await asyncio.sleep(0.1)
        return calls

    async def main() -> None:
        assert await asyncio.wait_for(call(ended), AT_ONCE)

    stopped = asyncio.new_event_loop()
    calls = stopped.run_until_complete(stop())
    ended.set()
    asyncio.run(main())
    assert all(stopped.run_until_complete(asyncio.gather(*calls)))
    stopped.close()


def test_close_while_a_call_is_queued(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, ended: threading.Event
) -> None:
    """In another thread, in the moment before the task waits for its turn."""
    mute = scripted(MUTE)
    client = remctl.aio.Remctl()

    async def main() -> None:
        holding = begin(LIMIT, ended)
        await asyncio.sleep(0.1)

        def submit(pool: Pool, call: Call) -> None:
            real(pool, call)
            client.close()

        monkeypatch.setattr(Pool, "submit", submit)
        with pytest.raises(remctl.RemctlError, match="closed during the call"):
            await asyncio.wait_for(client.open(LOOPBACK, mute.port), AT_ONCE)
        ended.set()
        await asyncio.gather(*holding)

    real = Pool.submit
    asyncio.run(main())


def test_who_has_ended_does_not_give_way(ended: threading.Event) -> None:
    """The count of those that do is right, whenever a call ends."""
    pool = pools[Work.HANDSHAKE]

    async def main() -> None:
        silent = Call(lambda: None, Work.HANDSHAKE, Deadline(0), patience=0)
        pool.submit(silent)
        while not silent.finished:
            await until_woken(silent, AT_ONCE)
        holding = begin(LIMIT + 1, ended)
        await asyncio.sleep(0.1)
        assert not pool.must_give_way(silent)
        assert pool._giving_way == 0
        ended.set()
        await asyncio.gather(*holding)

    asyncio.run(main())


def test_only_as_many_give_way_as_others_wait(ended: threading.Event) -> None:
    """One for one; who was dropped does not count."""
    pool = pools[Work.HANDSHAKE]

    async def main() -> None:
        holding = begin(LIMIT, ended, Work.HANDSHAKE, 0.5)
        dropped = begin(5, ended)
        await asyncio.sleep(0.05)
        await end(dropped)
        await asyncio.sleep(1)
        assert not any(call.done() for call in holding)
        waiting = begin(2, ended)
        while sum(call.done() for call in holding) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        assert sum(call.done() for call in holding) == pool._giving_way == 2
        ended.set()
        await asyncio.gather(*holding, *waiting, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.usefixtures("two_threads")
def test_handshakes_that_had_a_turn_keep_only_each_other(
    scripted: Scripted, server: Server
) -> None:
    """However long they may take by now."""
    mute = scripted(MUTE)

    async def main() -> None:
        stalled = [
            asyncio.ensure_future(remctl.aio.Remctl().open("localhost", mute.port))
            for _ in range(6)
        ]
        while len(pools[Work.RETRY]._queue) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        assert await hello(server) == HELLO
        await end(stalled)

    asyncio.run(main())


@pytest.mark.usefixtures("two_threads")
def test_a_retry_may_reach_another_port(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, ended: threading.Event
) -> None:
    """Where it finds a server of protocol 1, that port is for its commands."""
    reply = ["result1", {"status": 0, "text": "ok"}]
    old = scripted([P1], [P1, "read", "mic", reply])
    mute = socket.create_server((LOOPBACK, 0))
    ports = SimpleNamespace(REMCTL_PORT=mute.getsockname()[1], REMCTL_PORT_OLD=old.port)
    monkeypatch.setattr(_connect, "lib", ports)

    async def main() -> None:
        client = remctl.aio.Remctl()
        opening = asyncio.ensure_future(client.open(LOOPBACK, None, PRINCIPAL))
        await asyncio.sleep(0.3)
        accepted = mute.accept()[0]
        mute.close()
        holding = begin(2, ended)
        await asyncio.wait_for(opening, AT_ONCE)
        ended.set()
        await asyncio.gather(*holding)
        assert (await client.run(["x"])).stdout == b"ok"
        accepted.close()

    asyncio.run(main())


@pytest.mark.usefixtures("two_threads")
def test_stalled_tunnels(server: Server) -> None:
    """A handshake over a given socket cannot begin anew, and keeps nobody else."""
    mute = socket.create_server((LOOPBACK, 0))

    async def main() -> None:
        socks = [socket.create_connection(mute.getsockname()) for _ in range(3)]
        opening = [
            asyncio.ensure_future(remctl.aio.Remctl().open("localhost", sock=sock))
            for sock in socks
        ]
        await asyncio.sleep(0.1)
        assert await hello(server) == HELLO
        await end(opening)
        assert all(sock.fileno() == -1 for sock in socks)

    asyncio.run(main())
    mute.close()


def test_dropped_calls_do_not_pile_up(ended: threading.Event) -> None:
    """While all threads are held."""
    pool = pools[Work.HANDSHAKE]

    async def main() -> None:
        holding = begin(LIMIT + 1, ended)
        await asyncio.sleep(0.1)
        for _ in range(10 * LIMIT):
            waiting = call(ended)
            waiting.send(None)
            waiting.close()
        assert len(pool._queue) <= 2 * LIMIT
        ended.set()
        await asyncio.wait_for(asyncio.gather(*holding), AT_ONCE)

    asyncio.run(main())


def test_an_interrupt_costs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it keep the lock, which PyPy and CPython 3.9 may leave with it."""

    def start_new_thread(*_: object) -> None:
        raise KeyboardInterrupt

    pool = Pool()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("_thread.start_new_thread", start_new_thread)
        pool.submit(Call(lambda: None, Work.LOOKUP, Deadline(0)))
    assert not pool._threads
    pool._lock.acquire()
    done = threading.Event()
    pool.submit(Call(done.set, Work.LOOKUP, Deadline(0)))
    assert done.wait(AT_ONCE)
    pool._lock.acquire()
    silent = Call(lambda: None, Work.LOOKUP, Deadline(0), patience=0)
    assert not pool.must_give_way(silent)
    assert not pool._lock._is_owned()  # type: ignore[attr-defined]
    wait_until(lambda: not pool._threads)


def test_no_thread_to_be_had(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """RemctlError, not a call that blocks the event loop; nothing is kept."""

    def start_new_thread(*_: object) -> None:
        raise MemoryError("no more")

    async def main() -> None:
        client = remctl.aio.Remctl()
        threading.stack_size(1 << 46)  # more than there are addresses
        try:
            with pytest.raises(remctl.RemctlError, match="cannot start a thread: "):
                await client.open(server.host, server.port)
        finally:
            threading.stack_size(0)
        with monkeypatch.context() as patch:
            patch.setattr("_thread.start_new_thread", start_new_thread)
            with pytest.raises(remctl.RemctlError, match="start a thread: no more"):
                await client.open(server.host, server.port)
        assert busy() == 0
        async with client:
            await client.open(server.host, server.port)
            assert await client.run(["test", "hello"]) == HELLO

    asyncio.run(main())


def test_a_forked_child_has_all_threads_to_itself(ended: threading.Event) -> None:
    """Whatever the parent's are doing; a call that was queued can be dropped."""

    async def main() -> None:
        holding = begin(LIMIT, ended)
        waiting = call(ended)
        await asyncio.sleep(0.1)
        waiting.send(None)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                waiting.close()
                code = busy() + len(pools[Work.HANDSHAKE]._queue)
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 (it ends at once)
        waiting.close()
        ended.set()
        await asyncio.gather(*holding)

    asyncio.run(main())


def test_threads_are_bounded(ended: threading.Event) -> None:
    """For each kind of work by itself."""

    async def main() -> None:
        calls = [each for work in Work for each in begin(LIMIT + 5, ended, work)]
        await asyncio.sleep(0.1)
        assert [len(pool._threads) for pool in pools.values()] == [LIMIT] * len(Work)
        ended.set()
        start = time.monotonic()
        await asyncio.gather(*calls)
        assert time.monotonic() - start < AT_ONCE

    asyncio.run(main())
