# SPDX-License-Identifier: MIT
"""remctl.aio: what only the asyncio twin has to show.

What both twins do, the tests of the blocking one show for this one, too: see
``conftest.py``.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import pytest
import trio
from stages import STAGES, in_use, wait_for_release
from support import AT_ONCE, collect, run_python, wait_until
from twin import Loop, TwinRemctl

import remctl
import remctl.aio

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from scripted import ScriptedServer

    from remctl.testing import Server

    Scripted = Callable[..., ScriptedServer]

HELLO = remctl.RemctlSimpleResult(b"hello world\n", None, 0)


class LoopKind(NamedTuple):
    """A library's event loops."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    new_event_loop: Callable[[], asyncio.AbstractEventLoop]


LOOPS = {"asyncio": LoopKind(asyncio.run, asyncio.new_event_loop)}
if sys.implementation.name == "cpython":
    import uvloop

    LOOPS["uvloop"] = LoopKind(uvloop.run, uvloop.new_event_loop)


@pytest.fixture(params=LOOPS)
def loops(request: pytest.FixtureRequest) -> LoopKind:
    """asyncio's own event loops, and uvloop's: each test runs with both."""
    return LOOPS[request.param]


def in_call(client: remctl.aio.Remctl) -> bool:
    """Whether a call on ``client`` has begun and has not ended."""
    return not client._holds.last().ended


@pytest.fixture
def loop(loops: LoopKind, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """An event loop of that kind in a thread, which TwinRemctl uses."""
    loop = Loop(loops.new_event_loop())
    monkeypatch.setattr(TwinRemctl, "loop", loop, raising=False)
    yield loop
    loop.close()


# Connections


def test_a_connection(server: Server, loops: LoopKind) -> None:
    """S63: enter, iterate, run, noop, leave."""

    async def main() -> None:
        async with remctl.aio.Remctl(server.host, server.port) as client:
            assert client.opened
            await client.command(["test", "hello"])
            tokens = [token async for token in client]
            assert [token.type for token in tokens] == ["output", "status"]
            assert [token async for token in client] == []
            assert await client.run(["test", "hello"]) == HELLO
            assert await client.noop()
        with pytest.raises(remctl.RemctlNotOpenedError):
            await client.output()
        command = ["test", "hello"]
        assert (
            await remctl.aio.remctl(server.host, server.port, command=command) == HELLO
        )

    loops.run(main())


def test_open_without_arguments(server: Server) -> None:
    """S80: what the constructor was given, until something else is opened."""

    async def main() -> None:
        client = remctl.aio.Remctl(server.host, server.port)
        await client.open()
        assert await client.run(["test", "hello"]) == HELLO
        with pytest.raises(remctl.RemctlError, match="port 1"):
            await client.open(server.host, 1)
        with pytest.raises(remctl.RemctlError, match="port 1"):
            await client.open()
        client.close()
        with pytest.raises(ValueError, match="nothing has been opened before"):
            await remctl.aio.Remctl().open()

    asyncio.run(main())


def test_calls_that_block_after_the_loop_has_watched(
    server: Server, loops: LoopKind
) -> None:
    """uvloop makes the sockets that it watches non-blocking, and leaves them so."""
    data = bytes(range(256)) * 12_000

    async def main() -> None:
        async with remctl.aio.Remctl(server.host, server.port) as client:
            for _ in range(20):
                assert (await client.run(["test", "sleep", "0.01"])).status == 0
                assert await client.noop()
            for _ in range(3):
                assert (await client.run(["test", "sleep", "0.01"])).status == 0
                result = await client.run(["test", "digest", data])
                assert (result.stdout or b"").startswith(b"%d " % len(data))
                size = 3_000_000
                result = await client.run(["test", "bytes", size])
                assert len(result.stdout or b"") == size

    loops.run(main())


def test_an_object_serves_one_loop_after_another(
    server: Server, loops: LoopKind
) -> None:
    """S63: as long as no call is under way."""
    client = remctl.aio.Remctl()
    loops.run(client.open(server.host, server.port))
    assert loops.run(client.run(["test", "hello"])) == HELLO
    client.close()


def test_an_object_in_use_refuses_another_loop(
    server: Server, loop: Loop, tmp_path: Path, loops: LoopKind
) -> None:
    """S63: RuntimeError, and the call goes on."""
    client = remctl.aio.Remctl()
    loop.run(client.open(server.host, server.port))
    over = tmp_path / "over"
    call = asyncio.run_coroutine_threadsafe(
        client.run(["test", "wait-for", over]), loop.loop
    )
    wait_until(lambda: in_call(client))
    with pytest.raises(RuntimeError, match="another event loop"):
        loops.run(client.noop())
    over.touch()
    assert call.result().status == 0
    client.close()


def test_a_loop_that_stopped_in_a_call(scripted: Scripted, loops: LoopKind) -> None:
    """Its connection is closed before another loop has the object."""
    noop = ["handshake", "read", ["sleep", {"seconds": 5}], "noop"]
    slow = scripted([*noop, "read", ["output", {"text": "two"}], "status", "hang"])
    client = remctl.aio.Remctl()

    async def first() -> asyncio.Future[bool]:
        await client.open("localhost", slow.port)
        call = asyncio.ensure_future(client.noop())
        await asyncio.sleep(0.3)
        return call

    stopped = loops.new_event_loop()
    call = stopped.run_until_complete(first())
    with pytest.raises(remctl.RemctlNotOpenedError):
        loops.run(client.run(["x"]))
    with pytest.raises(remctl.RemctlError, match="closed during the call"):
        stopped.run_until_complete(call)
    stopped.close()


def test_a_loop_that_stopped_between_two_tokens(server: Server) -> None:
    """What another loop's commands get is not for the call that was left there."""
    client = remctl.aio.Remctl()

    async def first() -> None:
        await client.open(server.host, server.port)
        await client.command(["test", "hello"])
        await asyncio.sleep(0.3)  # for all of the reply to be there
        while (await client.output()).type != "status":
            pass

    async def second() -> None:
        with pytest.raises(remctl.RemctlNotOpenedError):
            await client.command(["test", "hello"])
        await client.open(server.host, server.port)
        assert await client.run(["test", "hello"]) == HELLO

    stopped = asyncio.new_event_loop()
    stopped.run_until_complete(first())
    assert client._connection is not None
    client._connection._turn = 0.0  # others are to have theirs
    call = stopped.create_task(client.output())
    stopped.call_soon(stopped.stop)
    stopped.run_forever()
    assert in_call(client)
    asyncio.run(second())
    with suppress(remctl.RemctlError):
        stopped.run_until_complete(call)
    stopped.close()
    assert client.opened
    client.close()


def test_who_waited_in_a_loop_that_stopped(server: Server, loops: LoopKind) -> None:
    """Does not disturb the loop that has the object now."""
    client = remctl.aio.Remctl()

    async def first() -> list[asyncio.Future[Any]]:
        await client.open(server.host, server.port)
        calls: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(client.run(["test", "sleep", "60"])) for _ in "ab"
        ]
        await asyncio.sleep(0.1)
        return calls

    async def second() -> None:
        await client.open(server.host, server.port)
        await client.command(["test", "sleep", "0.5"])
        thread = threading.Thread(target=go_on)
        thread.start()
        assert (await client.output()).output == b"awake\n"
        thread.join()
        assert client.opened

    def go_on() -> None:
        outcome = asyncio.gather(*calls, return_exceptions=True)
        errors.extend(stopped.run_until_complete(outcome))

    errors: list[BaseException] = []
    stopped = loops.new_event_loop()
    calls = stopped.run_until_complete(first())
    loops.run(second())
    stopped.close()
    assert [str(error) for error in errors] == [
        "the connection was closed during the call",
        "the object is in use in another event loop",
    ]
    client.close()


def test_a_call_left_in_a_closed_loop(server: Server, loops: LoopKind) -> None:
    """Its end, by the garbage collector, does not touch the next connection."""
    client = remctl.aio.Remctl()

    async def first() -> Any:
        await client.open(server.host, server.port)
        task = asyncio.ensure_future(client.run(["test", "sleep", "60"]))
        await asyncio.sleep(0.1)
        return task

    async def second() -> None:
        await client.open(server.host, server.port)
        await client.command(["test", "sleep", "0.5"])
        kept.pop()._log_destroy_pending = False
        collect()
        assert client.opened
        assert (await client.output()).output == b"awake\n"
        client.close()

    abandoned = loops.new_event_loop()
    kept = [abandoned.run_until_complete(first())]
    abandoned.close()
    del abandoned
    loops.run(second())


def test_a_call_that_ends_while_another_loop_opens(
    server: Server, loops: LoopKind
) -> None:
    """S63: after its error, it does not touch the next connection, either."""
    client = remctl.aio.Remctl()

    async def first() -> Any:
        await client.open(server.host, server.port)
        task = asyncio.ensure_future(client.run(["test", "sleep", "60"]))
        await asyncio.sleep(0.1)
        return task

    async def second() -> None:
        await client.open(server.host, server.port)
        await client.command(["test", "hello"])

    def drop_late(*arguments: Any) -> None:
        del vars(client)["_drop_broken"]
        thread = threading.Thread(target=loops.run, args=[second()])
        thread.start()
        thread.join()
        client._drop_broken(*arguments)

    abandoned = loops.new_event_loop()
    call = abandoned.run_until_complete(first())
    abandoned.close()
    vars(client)["_drop_broken"] = drop_late
    call._log_destroy_pending = False
    call.get_coro().close()  # as the garbage collector does, and at this moment
    assert "_drop_broken" not in vars(client)
    assert client.opened
    assert loops.run(rest(client)) == ["output", "status"]
    client.close()


async def rest(client: remctl.aio.Remctl) -> list[str]:
    """Return the types of the tokens that are left of a reply."""
    return [token.type async for token in client]


def test_tasks_share_an_object(server: Server, loops: LoopKind) -> None:
    """S63: each gets its own command's result."""

    async def main() -> None:
        async with remctl.aio.Remctl(server.host, server.port) as client:
            results = await asyncio.gather(
                *(client.run(["test", "args", str(number)]) for number in range(50))
            )
        for number, result in enumerate(results):
            assert str(number).encode() in (result.stdout or b"")

    loops.run(main())


def test_close_ends_a_call(server: Server, loops: LoopKind) -> None:
    """With a RemctlError, at once."""

    async def main() -> None:
        async with remctl.aio.Remctl(server.host, server.port) as client:
            call = asyncio.ensure_future(client.run(["test", "sleep", "60"]))
            await asyncio.sleep(0.1)
            client.close()
            with pytest.raises(remctl.RemctlError, match="closed during the call"):
                await asyncio.wait_for(call, AT_ONCE)

    loops.run(main())


def test_outside_of_asyncio(server: Server) -> None:
    """S82: in trio, the text says what to do instead; nothing is connected."""
    client = remctl.aio.Remctl(server.host, server.port)

    async def use() -> None:
        for call in (
            remctl.aio.remctl(server.host, server.port, command=["test"]),
            client.open(server.host, server.port),
            client.noop(),
            client.output(),
            client.__aenter__(),
        ):
            with pytest.raises(RuntimeError, match=r"trio\.to_thread\.run_sync"):
                await call

    trio.run(use)
    assert not client.opened
    assert client.error() == "no error"


def test_flood_leaves_others_their_turn(scripted: Scripted, loops: LoopKind) -> None:
    """After a millisecond, also where the next token is there without waiting."""
    count = 10_000
    output = ["output", {"size": 1, "repeat": count}]
    flood = scripted(["handshake", "read", output, "status"])
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> None:
        async with remctl.aio.Remctl("localhost", flood.port) as client:
            await client.command(["test"])
            await asyncio.sleep(0.5)  # for all of it to be there
            beside = asyncio.ensure_future(others())
            tokens = [token async for token in client]
            beside.cancel()
        assert len(tokens) == count + 1
        assert turns > 10

    loops.run(main())


def test_timers_do_not_pile_up(server: Server) -> None:
    """A wait that has ended leaves nothing in the loop."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        async with remctl.aio.Remctl(server.host, server.port) as client:
            for _ in range(500):
                await client.run(["test", "hello"])
        assert len(loop._scheduled) < 250  # asyncio keeps some that were cancelled

    asyncio.run(main())


# Cancelling


@pytest.mark.parametrize("name", STAGES)
def test_cancelled(name: str, scripted: Scripted, server: Server, loop: Loop) -> None:
    """S63: at once; what the call held is released, and open() works again."""
    # For its ticket: one of the stages has a KDC that does not answer.
    remctl.remctl(server.host, server.port, command=["test", "hello"])
    with STAGES[name](scripted) as stage:
        before = in_use()
        client = TwinRemctl()
        stage.prepare(client)
        raised: list[BaseException] = []

        def call() -> None:
            try:
                stage.call(client)
            except BaseException as error:  # noqa: BLE001 (kept for the test)
                raised.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        stage.arrived()
        wait_until(lambda: in_call(client))
        loop.cancel()
        thread.join(AT_ONCE)
        assert [type(error) for error in raised] == [CancelledError]
        wait_until(lambda: not in_call(client), AT_ONCE)
        assert not client.opened
        with pytest.raises(remctl.RemctlNotOpenedError):
            client.output()
        stage.let_go()
    client.open(server.host, server.port)
    assert client.run(["test", "hello"]) == HELLO
    client.close()
    wait_for_release((before[0] + 1, before[1] + 1))


def test_cancelled_at_random_moments(server: Server, loops: LoopKind) -> None:
    """Nothing is left behind: descriptors, threads."""

    async def one(seconds: float) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(
                remctl.aio.remctl(server.host, server.port, command=["test", "hello"]),
                seconds,
            )

    async def main() -> None:
        for _ in range(3):
            await asyncio.gather(*(one(random.uniform(0, 0.5)) for _ in range(100)))

    loops.run(main())
    before = in_use()
    loops.run(main())
    wait_for_release(before)


def test_run_returns_at_once(scripted: Scripted) -> None:
    """With a handshake, a noop and a command under way, and prints nothing."""
    mute = scripted([["handshake", {"stop": ["hang", 2]}]])
    result = run_python(
        """
        import asyncio, sys, time, remctl.aio
        async def main():
            asyncio.get_running_loop().slow_callback_duration = 60  # a busy machine's
            tasks = [
                asyncio.ensure_future(
                    remctl.aio.remctl("localhost", int(sys.argv[1]), command=["x"])
                )
                for _ in range(100)
            ]
            await asyncio.sleep(0.5)
        start = time.monotonic()
        asyncio.run(main(), debug=True)
        assert time.monotonic() - start < 600
        """,
        mute.port,
        options=("-W", "error"),
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_cancelling_who_waits_for_the_connection(
    server: Server, tmp_path: Path, loops: LoopKind
) -> None:
    """The call that has it goes on."""
    over = tmp_path / "over"

    async def main() -> None:
        async with remctl.aio.Remctl(server.host, server.port) as client:
            call = asyncio.ensure_future(client.run(["test", "wait-for", over]))
            waiting = asyncio.ensure_future(client.run(["test", "hello"]))
            await asyncio.sleep(0.1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert not call.done()
            over.touch()
            assert (await call).stdout == b"waiting\ndone\n"
            assert await client.run(["test", "hello"]) == HELLO

    loops.run(main())


def test_wait_for(server: Server, loops: LoopKind) -> None:
    """It ends a call and its connection; what follows is as after any lost one."""

    async def main() -> None:
        async with remctl.aio.Remctl(server.host, server.port) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.run(["test", "sleep", "60"]), 0.2)
            assert not client.opened
            with pytest.raises(remctl.RemctlNotOpenedError):
                await client.output()
            await client.open(server.host, server.port)
            assert await asyncio.wait_for(client.run(["test", "hello"]), 60) == HELLO

    loops.run(main())


if sys.version_info >= (3, 11):

    def test_timeout(server: Server, loops: LoopKind) -> None:
        """asyncio.timeout() bounds any number of calls together."""

        async def main() -> None:
            async with remctl.aio.Remctl(server.host, server.port) as client:
                with pytest.raises(TimeoutError) as caught:
                    async with asyncio.timeout(0.2):
                        while True:
                            await client.run(["test", "sleep", "0.05"])
                assert not isinstance(caught.value, remctl.RemctlError)
                if not client.opened:  # it came in the middle of a command
                    await client.open(server.host, server.port)
                assert await client.run(["test", "hello"]) == HELLO

        loops.run(main())

    def test_task_group(server: Server, loops: LoopKind) -> None:
        """One that fails ends the others; the group tells why."""

        async def main() -> None:
            here = server.host, server.port, None
            with pytest.raises(ExceptionGroup) as caught:  # noqa: F821 (of 3.11)
                async with asyncio.TaskGroup() as group:
                    sleeping = [
                        group.create_task(
                            remctl.aio.remctl(*here, ["test", "sleep", "60"])
                        )
                        for _ in range(3)
                    ]
                    await asyncio.sleep(0.2)
                    group.create_task(remctl.aio.remctl(*here, ["test", "denied"]))
            (error,) = caught.value.exceptions
            assert isinstance(error, remctl.RemctlProtocolError)
            assert error.code == remctl.ErrorCode.ACCESS
            assert all(task.cancelled() for task in sleeping)

        loops.run(asyncio.wait_for(main(), AT_ONCE))


# Threads


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_waiting_takes_no_threads(server: Server, loops: LoopKind) -> None:
    """S63: a connection that waits for a slow command holds none."""

    async def main() -> None:
        clients = [remctl.aio.Remctl() for _ in range(20)]
        for client in clients:
            await client.open(server.host, server.port)
        before = threads()
        calls = [
            asyncio.ensure_future(client.run(["test", "sleep", "1"]))
            for client in clients
        ]
        await asyncio.sleep(0.5)
        assert threads() <= before
        results = await asyncio.gather(*calls)
        assert [result.status for result in results] == [0] * 20
        for client in clients:
            client.close()

    loops.run(main())
