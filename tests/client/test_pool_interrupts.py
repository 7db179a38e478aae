# SPDX-License-Identifier: MIT
"""S78, S79: what interrupts a pool: signals, cancelled tasks, forks, the end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

import pytest
from interrupts import Interruption, InterruptLine, handler, interrupt
from stages import in_use, wait_for_release
from support import HANG, collect, run_python, wait_until

import remctl
import remctl.aio

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripted import ScriptedServer

    from remctl.testing import Server

    Scripted = Callable[..., ScriptedServer]

PYPY = sys.implementation.name == "pypy"
HELLO = remctl.RemctlSimpleResult(b"hello world\n", None, 0)


def places(pool: remctl.Pool | remctl.aio.Pool) -> list[Any]:
    """Return the places of all who have a connection or wait for one."""
    return list(pool._line()._places)


# Signals


def test_ctrl_c_ends_a_wait(server: Server) -> None:
    """S78: at once, and whoever comes later is served."""
    with remctl.Pool(server.host, server.port, size=1) as pool:

        def send() -> None:
            wait_until(lambda: len(places(pool)) == 2)
            os.kill(os.getpid(), signal.SIGINT)

        with pool.connection():
            thread = threading.Thread(target=send)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                pool.run(["test", "hello"])
            thread.join()
            assert len(places(pool)) == 1
        assert pool.run(["test", "hello"]) == HELLO


@pytest.mark.parametrize("idle", [False, True])
# A socket that no variable has yet is closed by its finalizer.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")
def test_handler_that_raises_at_any_line_leaves_nothing_behind(
    idle: bool, server: Server
) -> None:
    """S78: the pool can lend as many as before, and each gets its own reply."""
    pool = remctl.Pool(server.host, server.port, size=1)
    pool.run(["test", "hello"])
    before = in_use()
    with handler(signal.SIGUSR1, interrupt):
        for line in range(1, 1500):
            if not idle:
                for each in pool._line().idle:
                    each.opened = 0.0
            tracer = InterruptLine(line)
            with suppress(Interruption, remctl.RemctlError), tracer:
                pool.run(["test", "args", "interrupted"])
            if places(pool):
                collect()  # as an interrupt may have kept it from leaving
                assert places(pool) == []
            assert pool.run(["test", "args", line]).stdout == f"{line}\0".encode()
            if tracer.left > 0:
                break
        else:
            pytest.fail("the call never came to its end")
    collect()
    wait_for_release(before)
    pool.close()


def has_ended(thread: threading.Thread) -> bool:
    """Whether ``thread`` has ended; on PyPy it may wait for the garbage collector."""
    if PYPY:
        collect()
    thread.join(0.05)
    return not thread.is_alive()


# What is raised while the garbage collector takes the client.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_handler_that_raises_at_the_end_of_a_loan(server: Server) -> None:
    """S78: at any line of it; who waits for the connection is served."""
    pool = remctl.Pool(server.host, server.port, size=1, timeout=HANG)
    with handler(signal.SIGUSR1, interrupt):
        for line in range(1, 1000):
            loan = pool.connection()
            loan.__enter__()
            results: list[object] = []
            thread = threading.Thread(
                target=lambda: results.append(pool.run(["test", "hello"])),  # noqa: B023
                daemon=True,
            )
            thread.start()
            wait_until(lambda: len(places(pool)) == 2)
            tracer = InterruptLine(line)
            with suppress(Interruption), tracer:
                loan.__exit__(None, None, None)
            wait_until(partial(has_ended, thread))
            assert results == [HELLO], tracer.line
            if tracer.left > 0:
                break
        else:
            pytest.fail("the loan never came to its end")
    pool.close()


def test_a_turn_that_comes_in_the_last_moment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S78: the caller at the front does not take itself for an interrupted call."""
    with remctl.Pool(server.host, server.port, size=1) as pool:
        loan = pool.connection()
        loan.__enter__()
        wait = pool._wait

        def end_loan_and_wait(*arguments: Any) -> None:
            loan.__exit__(None, None, None)
            wait(*arguments)

        monkeypatch.setattr(pool, "_wait", end_loan_and_wait)
        assert pool.run(["test", "hello"]) == HELLO


def test_handler_that_interrupts_a_wait(server: Server) -> None:
    """S78: the connection that it waits for comes to the interrupted call."""
    errors: list[str] = []

    def use(*_: object) -> None:
        try:
            pool.run(["test", "hello"])
        except remctl.RemctlError as error:
            errors.append(str(error))

    with remctl.Pool(server.host, server.port, size=1) as pool:
        held = threading.Event()

        def hold() -> None:
            with pool.connection():
                held.set()
                wait_until(lambda: len(places(pool)) == 2)
                os.kill(os.getpid(), signal.SIGUSR1)
                wait_until(lambda: len(places(pool)) == 3)

        thread = threading.Thread(target=hold)
        with handler(signal.SIGUSR1, use):
            thread.start()
            held.wait()
            assert pool.run(["test", "hello"]) == HELLO
            thread.join()
        assert errors == ["all connections are in use by calls of this thread"]


@contextmanager
def signal_in_a_run(
    pool: remctl.Pool, function: Callable[..., object]
) -> Iterator[None]:
    """Have ``function`` handle a signal, which comes when a reply is waited for."""

    def reads() -> bool:
        clients = [place() for place in places(pool)]
        connections = [client and client._connection for client in clients]
        return any(connection and connection.pending for connection in connections)

    def send() -> None:
        wait_until(reads)
        os.kill(os.getpid(), signal.SIGUSR1)

    pool.run(["test", "hello"])
    thread = threading.Thread(target=send)
    with handler(signal.SIGUSR1, function):
        thread.start()
        yield
        thread.join()


def test_handler_that_finds_all_in_use(server: Server, tmp_path: Path) -> None:
    """S78: by the calls that it has interrupted: a RemctlError, not a deadlock."""
    file = tmp_path / "file"
    errors: list[str] = []

    def use(*_: object) -> None:
        try:
            pool.run(["test", "hello"])
        except remctl.RemctlError as error:
            errors.append(str(error))
        file.touch()

    with remctl.Pool(server.host, server.port, size=1) as pool:
        with signal_in_a_run(pool, use):
            result = pool.run(["test", "wait-for", file])
        assert errors == ["all connections are in use by calls of this thread"]
        assert result.stdout == b"waiting\ndone\n"
        assert places(pool) == []


def test_handler_that_finds_a_connection(server: Server, tmp_path: Path) -> None:
    """S78: it may use it."""
    file = tmp_path / "file"
    results = []

    def use(*_: object) -> None:
        results.append(pool.run(["test", "hello"]))
        file.touch()

    with remctl.Pool(server.host, server.port, size=2) as pool:
        with signal_in_a_run(pool, use):
            assert pool.run(["test", "wait-for", file]).stdout == b"waiting\ndone\n"
        assert results == [HELLO]


def test_close_in_a_handler(server: Server, tmp_path: Path) -> None:
    """S77: it ends the interrupted call, and that is the last one."""
    pool = remctl.Pool(server.host, server.port)
    with signal_in_a_run(pool, lambda *_: pool.close()):
        with pytest.raises(remctl.RemctlError, match="closed during the call"):
            pool.run(["test", "wait-for", tmp_path / "file"])
    (tmp_path / "file").touch()  # the command goes on until then
    with pytest.raises(remctl.RemctlNotOpenedError):
        pool.run(["test", "hello"])


# Tasks


def test_tasks(server: Server) -> None:
    """S72: 200 tasks and 8 connections: each gets its own reply."""

    async def main() -> None:
        async with remctl.aio.Pool(server.host, server.port) as pool:
            calls = [pool.run(["test", "args", number]) for number in range(200)]
            results = await asyncio.gather(*calls)
            assert [each.stdout for each in results] == [
                f"{number}\0".encode() for number in range(200)
            ]
            assert len(pool._line().idle) == 8

    asyncio.run(main())


def test_a_task_that_is_cancelled_while_it_waits(server: Server) -> None:
    """S78: the others are served as if it had never been there."""

    async def main() -> None:
        async with remctl.aio.Pool(server.host, server.port, size=1) as pool:
            async with pool.connection():
                calls = [
                    asyncio.ensure_future(pool.run(["test", "hello"])) for _ in range(3)
                ]
                await asyncio.sleep(0)
                assert len(places(pool)) == 4
                calls[0].cancel()
                with pytest.raises(asyncio.CancelledError):
                    await calls[0]
                assert len(places(pool)) == 3
            assert await calls[1] == HELLO
            assert await calls[2] == HELLO

    asyncio.run(main())


@pytest.mark.parametrize("how", ["woken", "cancelled first"])
def test_a_task_that_is_cancelled_when_it_is_its_turn(how: str, server: Server) -> None:
    """S78: the turn is the next one's."""

    async def main() -> None:
        async with remctl.aio.Pool(server.host, server.port, size=1) as pool:
            async with pool.connection():
                calls = [
                    asyncio.ensure_future(pool.run(["test", "hello"])) for _ in range(2)
                ]
                await asyncio.sleep(0)
                if how == "cancelled first":
                    calls[0].cancel()
            calls[0].cancel()  # has come to the front, and does not know it yet
            assert await calls[1] == HELLO
            assert places(pool) == []
            with pytest.raises(asyncio.CancelledError):
                await calls[0]

    asyncio.run(main())


@pytest.mark.parametrize("turns", range(0, 60, 3))
def test_a_task_that_is_cancelled_after_some_turns(turns: int, server: Server) -> None:
    """S78: wherever that is, the next command gets its own reply."""

    async def main() -> None:
        async with remctl.aio.Pool(server.host, server.port, size=1) as pool:
            for idle in (False, True):
                call = asyncio.ensure_future(pool.run(["test", "args", "cancelled"]))
                for _ in range(turns):
                    await asyncio.sleep(0.0005 if idle else 0.002)
                call.cancel()
                with suppress(asyncio.CancelledError):
                    await call
                assert places(pool) == []
                result = await pool.run(["test", "args", "next"])
                assert result.stdout == b"next\0"

    asyncio.run(main())


def test_one_event_loop_after_another(server: Server) -> None:
    """S78: the connections stay, and nothing waits for a loop that has ended."""
    pool = remctl.aio.Pool(server.host, server.port, size=1)

    async def hold() -> None:
        async with pool.connection():
            left = asyncio.ensure_future(pool.run(["test", "hello"]))
            await asyncio.sleep(0)
            assert len(places(pool)) == 2
            assert not left.done()

    for _ in range(3):
        asyncio.run(hold())
        assert places(pool) == []
        assert asyncio.run(pool.run(["test", "hello"])) == HELLO
    (idle,) = pool._line().idle
    assert asyncio.run(pool.run(["test", "hello"])) == HELLO
    assert pool._line().idle[0].connection is idle.connection
    pool.close()


def test_close_from_another_thread(server: Server) -> None:
    """S77: tasks that wait, too, get their RemctlError."""
    pool = remctl.aio.Pool(server.host, server.port, size=1)

    async def main() -> None:
        async with pool.connection():
            call = asyncio.ensure_future(pool.run(["test", "hello"]))
            await asyncio.sleep(0)
            thread = threading.Thread(target=pool.close)
            thread.start()
            with pytest.raises(remctl.RemctlNotOpenedError, match="the pool is closed"):
                await call
            thread.join()

    asyncio.run(main())


# Processes

PROGRAM = """
import gc, os, signal, sys, threading, time, weakref
from pathlib import Path
import remctl
from remctl import Pool

host, port, file = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
HELLO = remctl.RemctlSimpleResult(b"hello world\\n", None, 0)
pool = Pool(host, port, size=2)

def hello():
    assert pool.run(["test", "hello"]) == HELLO

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def fork(function):
    child = os.fork()
    signal.alarm(500 if child else 400)  # a bound on a hang
    if child == 0:
        function()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0, status
"""


def check(program: str, server: Server, file: Path) -> None:
    """Run a program that ends well and says nothing."""
    options = ("-W", "ignore:This process:DeprecationWarning")
    arguments = (server.host, server.port, file)
    result = run_python(PROGRAM + program, *arguments, options=options)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_child_begins_with_an_empty_pool(server: Server, tmp_path: Path) -> None:
    """S79: it opens its own connections, and the parent goes on with its own."""
    program = """
before = descriptors()
hello()
parents = weakref.ref(pool._line().idle[0].connection)
taken = descriptors() - before
def child():
    assert repr(pool).endswith("0 of 2 lent, 0 idle>"), pool
    for _ in range(3):
        gc.collect()
    assert parents() is None
    assert descriptors() == before, "the child keeps the parent's descriptors"
    hello()
    assert descriptors() - before == taken
    fork(hello)
    hello()
    pool.close()
for _ in range(3):
    fork(child)
    hello()
    assert pool._line().idle[0].connection is parents()
"""
    check(program, server, tmp_path / "file")


def test_a_child_of_the_middle_of_a_loan(server: Server, tmp_path: Path) -> None:
    """S79: the loan is the parent's, which reads its reply to the end."""
    program = """
with pool.connection() as r, pool.connection():
    r.command(["test", "hello"])
    def child():
        try:
            r.output()
        except remctl.RemctlNotOpenedError:
            pass
        hello()
        hello()
    fork(child)
    assert r.output().output == b"hello world\\n"
    assert r.output().status == 0
    def leave():
        raise SystemExit(0)
    child = os.fork()
    if child == 0:
        sys.exit()  # leaves the with statement
    assert os.waitpid(child, 0)[1] == 0
    r.noop()
hello()
"""
    check(program, server, tmp_path / "file")


def test_fork_while_threads_wait_and_work(server: Server, tmp_path: Path) -> None:
    """S79: the child waits for none of them."""
    program = """
ended = False
def work():
    while not ended:
        hello()
threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads:
    thread.start()
for _ in range(10):
    fork(hello)
ended = True
for thread in threads:
    thread.join()
hello()
"""
    check(program, server, tmp_path / "file")


def test_a_handler_that_forks_in_a_wait(server: Server, tmp_path: Path) -> None:
    """S79: the child does not wait for what its parent's threads have."""
    program = """
children = []
def child(*_):
    children.append(os.fork())
    signal.alarm(400)  # a bound on a hang

signal.signal(signal.SIGUSR1, child)
parent = os.getpid()
held = threading.Event()

def hold():
    with pool.connection(), pool.connection():
        held.set()
        while len(pool._line()._places) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)
        while not children:
            time.sleep(0.01)
        assert os.waitpid(children[0], 0)[1] == 0

thread = threading.Thread(target=hold)
thread.start()
held.wait()
try:
    hello()
except remctl.RemctlError as error:
    assert os.getpid() != parent
    assert str(error) == "the call was begun by another process", error
    hello()
    os._exit(0)
assert os.getpid() == parent
thread.join()
"""
    check(program, server, tmp_path / "file")


def test_exit_while_threads_wait_and_work(server: Server, tmp_path: Path) -> None:
    """S79: nobody keeps the interpreter from its end, and nothing is printed."""
    program = """
def work():
    while True:
        pool.run(["test", "wait-for", file])
for _ in range(6):
    threading.Thread(target=work, daemon=True).start()
while len(pool._line()._places) < 6:
    time.sleep(0.01)
"""
    check(program, server, tmp_path / "file")
