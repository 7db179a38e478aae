# SPDX-License-Identifier: MIT
"""Threads that share an object, and threads that have one each."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

import pytest
from stages import (
    PRINCIPAL,
    STAGES,
    Stage,
    blocked,
    in_use,
    nothing,
    open_on,
    wait_for_release,
)
from support import AT_ONCE, HANG, run_python, wait_until

import remctl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from remctl.testing import Server

    Start = Callable[..., Any]

LARGE = b"x" * 3_000_000


class Thread(threading.Thread):
    """A thread whose result() is what its function returned or raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.function = function
        self.start()

    def run(self) -> None:
        try:
            self.returned = self.function()
        except BaseException as error:  # noqa: BLE001  (raised in result())
            self.raised = error
        self.ended = time.monotonic()

    def result(self) -> Any:
        self.join(HANG)
        assert not self.is_alive()
        if hasattr(self, "raised"):
            raise self.raised
        return self.returned


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, scripted: Start) -> Iterator[Stage]:
    """Each place where a call can block."""
    with STAGES[request.param](scripted) as stage:
        yield stage


@contextmanager
def blocked_call(stage: Stage) -> Iterator[tuple[remctl.Remctl, Thread]]:
    """Have a thread that blocks at ``stage``."""
    client = remctl.Remctl()
    stage.prepare(client)
    thread = Thread(lambda: stage.call(client))
    try:
        stage.wait_for(thread)
        yield client, thread
    finally:
        client.close()
        thread.join(HANG)
        stage.let_go()


# While a call blocks


def test_close_ends_a_blocked_call_at_once(stage: Stage, server: Server) -> None:
    """S44: it raises RemctlError, error() is as after any close(), nothing leaks."""
    remctl.remctl(server.host, server.port, None, ["test", "hello"])
    before = in_use()
    with blocked_call(stage) as (client, thread):
        start = time.monotonic()
        client.close()
        assert client.error() == "no currently open connection"
        with pytest.raises(remctl.RemctlError, match="closed during the call") as error:
            thread.result()
        assert thread.ended - start < AT_ONCE
        assert error.type is remctl.RemctlError
        assert not client.opened
        assert client.error() == "no currently open connection"
        with pytest.raises(remctl.RemctlNotOpenedError):
            client.output()
        client.open(server.host, server.port)
        assert client.run(["test", "hello"]).stdout == b"hello world\n"
    del error, thread
    wait_for_release(before)


def test_some_methods_never_wait(stage: Stage) -> None:
    """S57, S60: error(), opened and the setters return while a call blocks."""
    with blocked_call(stage) as (client, thread):
        start = time.monotonic()
        client.set_timeout(100)
        client.set_ccache("FILE:/nonexistent")
        client.set_source_ip("127.0.0.1")
        assert client.error() == "no error"
        assert client.opened is (stage.prepare is not nothing)
        assert time.monotonic() - start < AT_ONCE
        assert blocked(thread)


@pytest.mark.parametrize(
    ("steps", "call"),
    [
        ([["barrier"], ["handshake"], ["serve"]], None),
        ([["handshake"], ["barrier"], ["serve"]], remctl.Remctl.noop),
        (
            [["handshake"], ["barrier"], ["serve"]],
            lambda client: client.run(["test", "echo", LARGE]).stdout == LARGE,
        ),
        (
            [["handshake"], ["read"], ["barrier"], ["echo"], ["hang"]],
            lambda client: client.run(["test", "echo", "x"]).stdout == b"x",
        ),
    ],
    ids=["open", "noop", "large write", "output"],
)
def test_other_threads_run_while_a_call_blocks(
    steps: list[Any], call: Callable[[remctl.Remctl], object] | None, scripted: Start
) -> None:
    """S60: the GIL is free: a thread in Python makes the server go on."""
    server = scripted(steps)
    client = remctl.Remctl()
    # So that the test ends, and fails, if nobody can.
    client.set_timeout(HANG)
    if call is not None:
        open_on(server.port, client)
    thread = Thread(lambda: call(client) if call else open_on(server.port, client))
    server.wait_for("barrier")
    wait_until(partial(blocked, thread))
    server.proceed()
    assert thread.result() in (True, None)
    assert client.opened
    client.close()


# One object


def test_each_thread_gets_its_own_reply(client: remctl.Remctl) -> None:
    """S60: 64 threads call run() on one object."""

    def run(number: int) -> list[bytes | None]:
        return [client.run(["test", "args", number, i]).stdout for i in range(3)]

    with ThreadPoolExecutor(64) as pool:
        replies = list(pool.map(run, range(64)))
    assert replies == [[b"%d\0%d\0" % (n, i) for i in range(3)] for n in range(64)]


def test_threads_wait_for_each_other(client: remctl.Remctl, tmp_path: Path) -> None:
    """S60: a call that comes during another's run() waits, and is served then."""
    file = tmp_path / "file"
    first = Thread(lambda: client.run(["test", "wait-for", file]))
    wait_until(partial(blocked, first))
    second = Thread(lambda: client.run(["test", "hello"]))
    third = Thread(client.noop)
    assert first.is_alive()
    file.touch()
    assert first.result().stdout == b"waiting\ndone\n"
    assert second.result().stdout == b"hello world\n"
    assert third.result() is True


def test_mixed_calls_corrupt_nothing(server: Server) -> None:
    """S31: whatever threads do to an object, run() returns its own reply."""
    result = run_python(
        """
        import random, sys, threading
        import remctl

        here = sys.argv[1], int(sys.argv[2])
        client = remctl.Remctl(*here)
        wrong, done, known = [], [], set(b"0123456789 \\0")

        def work(number):
            generator = random.Random(number)
            for turn in range(60):
                mark = b"%d %d" % (number, turn)
                action = generator.choice(
                    ["run", "run", "command", "output", "drain", "noop", "set", "open"]
                    + ["close"] * (turn % 5 == 0)
                )
                try:
                    if action == "run":
                        reply = client.run(["test", "args", mark])
                        done.append(mark)
                        if reply != remctl.RemctlSimpleResult(mark + b"\\0", None, 0):
                            wrong.append((mark, reply))
                    elif action == "command":
                        client.command(["test", "args", mark])
                    elif action == "output":
                        token = client.output()
                        if token.output is not None and not known >= set(token.output):
                            wrong.append(token)
                    elif action == "drain":
                        list(client)
                    elif action == "noop":
                        if client.noop() is not True:
                            wrong.append("noop")
                    elif action == "set":
                        client.set_timeout(generator.uniform(20, 30))
                        client.error()
                    elif action == "close":
                        client.close()
                    elif not client.opened:
                        client.open(*here)
                except remctl.RemctlTimeoutError:
                    raise
                except remctl.RemctlError:
                    pass

        threads = [threading.Thread(target=work, args=[n]) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.open(*here)
        assert client.run(["test", "args", "end"]).stdout == b"end\\0"
        assert wrong == [], wrong
        assert len(done) > 10, len(done)
        """,
        server.host,
        server.port,
    )
    assert result.stderr == ""
    assert result.returncode == 0


# Many objects


def test_objects_in_threads_run_in_parallel(server: Server, tmp_path: Path) -> None:
    """S60: commands that wait for a file are all in the server before there is one."""
    file = tmp_path / "file"
    number = 8
    barrier = threading.Barrier(number + 1, timeout=HANG)

    def work() -> bytes | None:
        with remctl.Remctl(server.host, server.port) as client:
            client.command(["test", "wait-for", file])
            assert client.output().output == b"waiting\n"
            barrier.wait()
            return client.output().output

    threads = [Thread(work) for _ in range(number)]
    barrier.wait()
    file.touch()
    assert [thread.result() for thread in threads] == [b"done\n"] * number


def test_one_shot_calls_run_in_parallel(server: Server) -> None:
    """S60: remctl() from 16 threads, each with its own arguments."""

    def call(number: int) -> bytes | None:
        arguments = ["test", "args", number]
        return remctl.remctl(server.host, server.port, PRINCIPAL, arguments).stdout

    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(call, range(32)))
    assert replies == [b"%d\0" % n for n in range(32)]


def test_handshakes_run_in_parallel(scripted: Start) -> None:
    """An open() that a mute server holds up holds up no other."""
    stage_of = STAGES["handshake"]
    server = scripted(["handshake", ["serve"]])
    with stage_of(scripted) as stage, blocked_call(stage):
        client = remctl.Remctl("127.0.0.1", server.port, PRINCIPAL)
        assert client.run(["test", "echo", "x"]).stdout == b"x"
        client.close()
