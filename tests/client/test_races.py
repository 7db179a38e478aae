# SPDX-License-Identifier: MIT
"""What threads can rely on without the GIL: shared objects, lazy imports, fork.

With a GIL, threads switch as often as Python allows, and the same must hold.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from support import run_python

import remctl
from remctl._connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from remctl.testing import Server

TOGETHER = """
import os, random, sys, threading, time, traceback
from concurrent.futures import ThreadPoolExecutor
import remctl, remctl.aio, remctl.testing

sys.setswitchinterval(1e-5)
# As at the exit a thread that is importing can block the program, in CPython itself.
remctl.Remctl
here = sys.argv[1:3]

def together(*functions):
    '''Call each in a thread of its own, at the same time; exit if one fails.'''
    def work(function):
        barrier.wait()
        try:
            function()
        except BaseException:
            failed.append(traceback.format_exc())

    failed = []
    barrier = threading.Barrier(len(functions))
    threads = [threading.Thread(target=work, args=[each]) for each in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        sys.exit(failed[0])

def times(number, function):
    def repeat():
        for turn in range(number):
            function(turn)
    return repeat

def until_done(function):
    def repeat():
        while not done:
            function()
    return repeat

done = []
"""

FAKE = """
REPLIES = [remctl.RemctlSimpleResult(b"%d" % turn, None, 0) for turn in range(10000)]
"""


def check(program: str, *arguments: object) -> None:
    """Run a program that ends well and says nothing."""
    result = run_python(program, *arguments)
    assert result.stderr == ""
    assert result.stdout == ""
    assert result.returncode == 0


# One object


def test_whatever_threads_do_to_an_object(server: Server) -> None:
    """S31, S60: run() returns its own reply, and no method fails in its own way."""
    program = """
client = remctl.Remctl(*here)
counts = dict.fromkeys(["run", "fileno", "open", "close", "refused"], 0)

def run(mark):
    reply = client.run(["test", "args", mark])
    assert reply == remctl.RemctlSimpleResult(mark + b"\\0", None, 0), (mark, reply)

def refused(mark):
    # Its error comes as an error for each token, so the connection is given up.
    try:
        client.run(["nothing", mark, b"x" * 70_000])
    except remctl.RemctlProtocolError as error:
        assert error.code == remctl.ErrorCode.UNKNOWN_COMMAND

def fileno(mark):
    assert client.fileno() > 2

def look(mark):
    assert client.opened in (True, False)
    assert isinstance(client.error(), str)
    client.set_timeout(100)

def output(mark):
    token = client.output()
    assert token.type in ("output", "status", "done"), token

def work(number):
    generator = random.Random(number)
    actions = [run] * 6 + [fileno, look, refused, output, list, noop, close, open]
    for turn in range(60):
        action = generator.choice(actions)
        try:
            if action is list:
                list(client)
            else:
                action(b"%d %d" % (number, turn))
            if action.__name__ in counts:
                counts[action.__name__] += 1
        except (remctl.RemctlTimeoutError, remctl.RemctlProtocolError):
            raise
        except remctl.RemctlError:
            pass

def noop(mark):
    assert client.noop() is True

def close(mark):
    client.close()

def open(mark):
    client.open(*here)

together(*(lambda number=number: work(number) for number in range(8)))
client.open(*here)
run(b"end")
assert all(counts.values()), counts
"""
    check(TOGETHER + program, server.host, server.port)


def test_an_open_object_stays_opened_while_it_is_used() -> None:
    """S60: between two calls of another thread, too."""
    program = """
client = remctl.testing.FakeRemctl(REPLIES)
client.open("host")

def run(turn):
    assert client.run(["x"]) == REPLIES[turn]

def use():
    times(len(REPLIES), run)()
    done.append(True)

def look():
    assert client.opened

together(use, until_done(look), until_done(look))
"""
    check(TOGETHER + FAKE + program)


def test_close_finds_each_connection() -> None:
    """S44: also one that another thread is opening."""
    program = """
connections = []

class Client(remctl.testing.FakeRemctl):
    def _new_connection(self, server):
        connections.append(super()._new_connection(server))
        return connections[-1]

client = Client()

def open_often():
    times(10000, lambda turn: client.open("host"))()
    done.append(True)

together(open_often, open_often, until_done(client.close))
client.close()
assert len(connections) == 20000
left = [number for number, each in enumerate(connections) if not each.closed]
assert left == []
"""
    check(TOGETHER + program)


def test_close_in_the_moment_a_call_ends(
    client: remctl.Remctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S44: the call has its result, and error() is as after any close()."""

    read_status = Connection._status

    def ending(connection: Connection, handle: Any) -> int:
        status = read_status(connection, handle)
        in_a_thread(client.close)
        return status

    monkeypatch.setattr(Connection, "_status", ending)
    assert client.run(["test", "hello"]).stdout == b"hello world\n"
    assert not client.opened
    assert client.error() == "no currently open connection"


def test_close_in_the_moment_a_call_begins(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S44: open() raises even if there is no connection yet."""
    client = remctl.Remctl()
    new_connection = client._new_connection

    def closed_meanwhile(server: Any) -> Any:
        in_a_thread(client.close)
        return new_connection(server)

    monkeypatch.setattr(client, "_new_connection", closed_meanwhile)
    with pytest.raises(remctl.RemctlError, match="closed during the call"):
        client.open(server.host, server.port)
    assert not client.opened
    assert client.error() == "no currently open connection"
    monkeypatch.undo()
    client.open(server.host, server.port)
    assert client.run(["test", "hello"]).stdout == b"hello world\n"
    client.close()


def in_a_thread(function: Callable[[], object]) -> None:
    """Call ``function`` in another thread, and wait for it."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_two_event_loops_fight_for_an_object() -> None:
    """S63: one gets it, the other a RuntimeError, and no reply goes astray."""
    program = """
import asyncio
import remctl.testing.aio

client = remctl.testing.aio.FakeRemctl(REPLIES)
asyncio.run(client.open("host"))
ran = [0, 0]

def fight(number):
    async def run():
        while ran[number] < 5000:
            mark = b"%d %d" % (number, ran[number])
            try:
                result = await client.run([mark])
            except RuntimeError as error:
                assert str(error) == "the object is in use in another event loop"
            else:
                assert client.commands[int(result.stdout)] == [mark]
                ran[number] += 1
    asyncio.run(run())

together(lambda: fight(0), lambda: fight(1))
assert client.opened
"""
    check(TOGETHER + FAKE + program)


def test_a_call_left_in_a_stopped_loop_keeps_no_others() -> None:
    """S63: the object's memory does not grow with the calls in another loop."""
    program = """
import asyncio, gc
import remctl.testing.aio
from remctl.aio import Hold

client = remctl.testing.aio.FakeRemctl(REPLIES)

def left(call):
    # Begin a call in a loop, and stop the loop.
    loop = asyncio.new_event_loop()
    task = loop.create_task(call)
    loop.run_until_complete(asyncio.sleep(0))
    return loop, task

async def run():
    for turn in range(1000):
        await client.run(["x"])

asyncio.run(client.open("host"))
client._opened_connection().command_now = lambda *_: False
kept = left(client.run(["x"]))
asyncio.run(client.open("host"))
asyncio.run(run())
gc.collect()
assert sum(isinstance(each, Hold) for each in gc.get_objects()) < 100
kept[1].cancel()
try:
    kept[0].run_until_complete(kept[1])
except (asyncio.CancelledError, remctl.RemctlError):
    pass
kept[0].close()
"""
    check(TOGETHER + FAKE + program)


def test_two_event_loops_and_a_server(server: Server) -> None:
    """S63: the same with a real connection, which either closes, too."""
    program = """
import asyncio

client = remctl.aio.Remctl()
ran = [0, 0]

def fight(number):
    async def call():
        mark = b"%d %d" % (number, ran[number])
        try:
            if not client.opened:
                await client.open(*here)
            result = await client.run(["test", "args", mark])
        except RuntimeError as error:
            assert str(error) == "the object is in use in another event loop"
        except (remctl.RemctlTimeoutError, remctl.RemctlProtocolError):
            raise
        except remctl.RemctlError:
            pass
        else:
            assert result == remctl.RemctlSimpleResult(mark + b"\\0", None, 0), result
            ran[number] += 1
            if ran[number] % 20 == 0:
                client.close()

    async def run():
        while ran[number] < 100:
            await asyncio.gather(call(), call())
            await asyncio.sleep(random.random() / 1000)

    asyncio.run(run())

together(lambda: fight(0), lambda: fight(1))
asyncio.run(client.open(*here))
assert asyncio.run(client.run(["test", "hello"])).stdout == b"hello world\\n"
client.close()
"""
    check(TOGETHER + program, server.host, server.port)


# Many objects


def test_a_pool_of_threads(server: Server) -> None:
    """S60: objects of their own, shared ones, and ones that others drop and collect."""
    program = """
import gc, queue

shared = [remctl.Remctl(*here) for _ in range(2)]
dropped = queue.Queue()

def call(number):
    mark = b"%d" % number
    if number % 3 == 0:
        result = remctl.remctl(*here, command=["test", "args", mark])
    elif number % 3 == 1:
        result = shared[number % 2].run(["test", "args", mark])
    else:
        client = remctl.Remctl(*here)
        result = client.run(["test", "args", mark])
        client.command(["test", "bytes", 100_000])
        client.itself = client
        dropped.put(client)
    assert result == remctl.RemctlSimpleResult(mark + b"\\0", None, 0), (mark, result)

def use():
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(120)))
    done.append(True)

def drop():
    while not dropped.empty():
        dropped.get()
    gc.collect()
    time.sleep(0.01)

together(use, until_done(drop))
assert all(client.noop() for client in shared)
"""
    check(TOGETHER + program, server.host, server.port)


def test_names_are_imported_once() -> None:
    """Threads that are the first to use the names get the same ones."""
    program = """
import sys, threading
import remctl

def use(number):
    barrier.wait()
    names = sorted(remctl.__all__, reverse=number % 2)
    found[number] = {name: getattr(remctl, name) for name in names}
    if number % 3:
        found[number]["FakeRemctl"] = remctl.testing.FakeRemctl
        found[number]["aio"] = remctl.aio.Remctl
    dir(remctl)
    from remctl import RemctlTimeoutError, Stream

sys.setswitchinterval(1e-5)
found = [{} for _ in range(12)]
barrier = threading.Barrier(len(found))
threads = [threading.Thread(target=use, args=[n]) for n in range(len(found))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert all({**found[1], **each} == found[1] for each in found)
assert all(len(each) >= len(remctl.__all__) for each in found)
"""
    for _ in range(5):
        check(program)


def test_fork_while_threads_work(server: Server) -> None:
    """S62: children have what they need, and threads of the parent go on."""
    program = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads

shared = remctl.Remctl(*here)

def run(client):
    assert client.run(["test", "hello"]).stdout == b"hello world\\n"

def open_and_run():
    with remctl.Remctl(*here) as own:
        run(own)

def fork(turn):
    child = os.fork()
    if child == 0:
        try:
            assert not shared.opened
            open_and_run()
            shared.open(*here)
            run(shared)
            shared.close()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0

def fork_often():
    times(20, fork)()
    done.append(True)

together(
    fork_often,
    *[until_done(lambda: run(shared))] * 2,
    *[until_done(open_and_run)] * 2,
)
run(shared)
"""
    check(TOGETHER + program, server.host, server.port)


# Imports


def test_calls_import_nothing(server: Server) -> None:
    """A daemon thread that imports can block the exit, in CPython itself."""
    program = """
import asyncio, sys, threading
import remctl, remctl.aio

remctl.Remctl
# The codec of hosts that are not ASCII is imported with the first one.
"\u00e4".encode("idna")
# What a thread and an event loop import, they have imported then.
thread = threading.Thread(target=asyncio.run, args=[asyncio.sleep(0)])
thread.start()
thread.join()
here = sys.argv[1:3]

def refused(function):
    try:
        function()
    except remctl.RemctlError as error:
        str(error)
    else:
        raise AssertionError(function)

def blocking():
    client = remctl.Remctl(*here, timeout=30, source_ip="127.0.0.1")
    assert client.run(["test", "digest", b"x" * 3_000_000]).status == 0
    assert client.run(["test", "bytes", 3_000_000]).status == 0
    assert client.noop()
    client.command(["test", "hello"])
    list(client)
    refused(lambda: client.run(["nothing"]).check())
    refused(lambda: client.run(["test", "status", 3]).check())
    client.close()
    client.set_timeout(1)
    refused(lambda: client.open("host.invalid"))
    refused(lambda: client.open("b\\xfccher.invalid"))
    refused(lambda: client.open("127.0.0.1", 1))
    assert remctl.remctl(*here, command=["test", "hello"]).status == 0

async def waiting():
    async with remctl.aio.Remctl(*here, timeout=30) as client:
        assert (await client.run(["test", "bytes", 3_000_000])).status == 0
        await client.command(["test", "hello"])
        assert len([token async for token in client]) == 2
        assert await client.noop()
    assert (await remctl.aio.remctl(*here, command=["test", "hello"])).status == 0

before = set(sys.modules)
for function in blocking, lambda: asyncio.run(waiting()):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()
assert set(sys.modules) - before == set(), set(sys.modules) - before
"""
    check(program, server.host, server.port)


def test_import_leaves_the_gil_as_it_is() -> None:
    """A free-threaded build switches it on, with a warning, for most extensions."""
    result = run_python(
        """
        import sys

        def gil():
            return getattr(sys, "_is_gil_enabled", lambda: True)()

        before = gil()
        import remctl, remctl.aio, remctl._remctl, remctl.testing, remctl.backend
        remctl.Remctl
        print(before, gil())
        """,
        options=("-W", "error"),
    )
    assert result.stderr == ""
    assert result.stdout in ("True True\n", "False False\n")
    assert result.returncode == 0
