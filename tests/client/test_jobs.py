# SPDX-License-Identifier: MIT
"""The shim's threads: what they are, how many, and that they keep nobody waiting."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import signal
import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Callable

import pytest
from names import names
from silent import full
from stages import STAGES, Stage, in_use, wait_for_release
from support import AT_ONCE, LINUX_SHIM, descriptors, run_python, wait_until

import remctl
import remctl.aio
from remctl import _arguments, _connect
from remctl._connect import OpeningDeadline, begin_connect
from remctl._ffi import lib, new_connection
from remctl._jobs import finish
from remctl._waiting import NEVER, block

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scripted import ScriptedServer

    from remctl.testing import Server

    Scripted = Callable[..., ScriptedServer]

HELLO = remctl.RemctlSimpleResult(b"hello world\n", None, 0)
# Servers that answer nothing to: the handshake, a noop or command, a command.
MUTE = [["handshake", {"stop": ["hang", 2]}]]
MUTE_LATER = ["handshake", "read", "hang"]
P1 = ["handshake", {"protocol": 1}]
LOOPBACK = "127.0.0.1"  # without the name service
PRINCIPAL = "host/localhost@KRBTEST.COM"


async def hello(server: Server) -> remctl.RemctlSimpleResult:
    """Run a command, as in a program that has been waiting for nothing."""
    command = ["test", "hello"]
    return await asyncio.wait_for(
        remctl.aio.remctl("localhost", server.port, PRINCIPAL, command), AT_ONCE
    )


async def end(calls: Sequence[asyncio.Future[Any]]) -> None:
    """Cancel all ``calls``."""
    for each in calls:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


def begin(count: int, call: Callable[[], Any]) -> list[asyncio.Future[Any]]:
    """Begin ``count`` calls."""
    return [asyncio.ensure_future(call()) for _ in range(count)]


def tasks() -> set[Path]:
    """Return the threads of this process, C's too."""
    return set(Path("/proc/self/task").iterdir())


def sockets() -> set[int]:
    """Return the descriptors of this process that are sockets."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the directory's own
            if str(each.readlink()).startswith("socket:"):
                found.add(int(each.name))
    return found


@pytest.fixture(params=["name service", "kdc", "handshake", "noop"])
def stage(request: pytest.FixtureRequest, scripted: Scripted) -> Iterator[Stage]:
    """Each kind of job."""
    with STAGES[request.param](scripted) as stage:
        yield stage


def test_a_jobs_thread(stage: Stage) -> None:
    """It is none of Python's, and no signal is for it."""
    before, threads = tasks(), set(threading.enumerate())
    client = remctl.Remctl()
    stage.prepare(client)

    def call() -> None:
        with pytest.raises(remctl.RemctlError):
            stage.call(client)

    caller = threading.Thread(target=call)
    caller.start()
    stage.wait_for(caller)
    assert set(threading.enumerate()) - threads <= {caller}
    ours = [
        task
        for task in tasks()
        if task not in before and int(task.name) != caller.native_id
    ]
    for task in ours or before:
        try:
            status = (task / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread of an earlier job has ended meanwhile
        (blocked,) = re.findall(r"SigBlk:\s+([0-9a-f]+)", status)
        if task in ours or int(blocked, 16):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
                assert int(blocked, 16) & 1 << (number - 1)
    client.close()
    caller.join(AT_ONCE)
    stage.let_go()
    assert not caller.is_alive()


def test_threads_are_used_again(server: Server) -> None:
    """They stay for a while, and there are as many as jobs at a time."""
    with remctl.Remctl(server.host, server.port) as client:
        before = tasks()
        for _ in range(100):
            assert client.noop()
        assert len(tasks() - before) <= 1


@pytest.mark.parametrize("call", ["open", "noop"])
def test_stalled_servers_keep_nobody_waiting(
    scripted: Scripted, server: Server, call: str
) -> None:
    """A hundred of them, without a time-out, and good ones."""
    mute = scripted(MUTE if call == "open" else MUTE_LATER)

    async def stall() -> None:
        client = remctl.aio.Remctl()
        await client.open("localhost", mute.port)
        await client.noop()

    async def main() -> None:
        stalled = begin(100, stall)
        await asyncio.sleep(0.5)
        assert await asyncio.gather(*begin(10, lambda: hello(server))) == [HELLO] * 10
        assert not any(task.done() for task in stalled)
        await end(stalled)

    asyncio.run(main())


def test_a_stalled_name_service(server: Server) -> None:
    """It keeps nobody waiting but those who ask it."""

    def ask() -> Any:
        return remctl.aio.remctl(
            "asked.invalid", server.port, PRINCIPAL, ["test", "hello"]
        )

    async def main() -> None:
        with names().know("asked.invalid", LOOPBACK, mute=True) as service:
            calls = begin(3, ask)
            await asyncio.to_thread(wait_until, lambda: service.asked == 3)
            assert await hello(server) == HELLO
            service.answer()
            assert await asyncio.gather(*calls) == [HELLO] * 3

    asyncio.run(main())


def test_cancelled_protocol1_commands(scripted: Scripted, server: Server) -> None:
    """Their threads stay until the server is gone, but keep nobody waiting."""
    old = scripted([P1], [P1], [P1, "read", "hang"])

    async def main() -> None:
        clients = [remctl.aio.Remctl() for _ in range(2)]
        for client in clients:
            await client.open(LOOPBACK, old.port, PRINCIPAL)
        calls = [asyncio.ensure_future(client.run(["x"])) for client in clients]
        await asyncio.sleep(0.3)
        await end(calls)
        assert await hello(server) == HELLO

    asyncio.run(main())
    old.close()


def test_stalled_tunnels(server: Server) -> None:
    """A handshake over a given socket, too."""
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


def test_a_retry_asks_the_name_service_once(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does its time-out begin anew."""
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    port = scripted([["handshake", {"stop": ["reset", 0]}]], ["handshake"]).port
    with names().know("busy.invalid", LOOPBACK) as service, remctl.Remctl() as client:
        try:
            client.open("busy.invalid", port, PRINCIPAL)
        except remctl.RemctlError:
            assert not LINUX_SHIM  # which tries again
        assert service.asked == 1


def test_a_retry_may_reach_another_port(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it finds a server of protocol 1, that port is for its commands."""
    reply = ["result1", {"status": 0, "text": "ok"}]
    old = scripted([P1], [P1, "read", "mic", reply])
    resets = scripted([["handshake", {"stop": ["reset", 0]}]])
    ports = SimpleNamespace(**{name: getattr(lib, name) for name in dir(lib)})
    ports.REMCTL_PORT, ports.REMCTL_PORT_OLD = resets.port, old.port
    monkeypatch.setattr(_connect, "lib", ports)

    def end_it() -> None:
        resets.wait_for("closed")
        resets.close()

    thread = threading.Thread(target=end_it)
    thread.start()
    with remctl.Remctl() as client:
        try:
            client.open(LOOPBACK, None, PRINCIPAL)
        except remctl.RemctlError:
            assert not LINUX_SHIM  # which tries again
        else:
            assert client.run(["x"]).stdout == b"ok"
    thread.join()


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "::1", "two.invalid", "scoped.invalid"]
)
def test_addresses_are_those_of_the_system(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the same order."""
    known = {
        "two.invalid": ["127.0.0.3", "127.0.0.2", "::1"],
        "scoped.invalid": ["fe80::1"],
    }
    with names().know(host, *known.get(host, [])):
        found = socket.getaddrinfo(host, 1, type=socket.SOCK_STREAM)
        caplog.set_level(logging.DEBUG, "remctl")
        with pytest.raises(remctl.RemctlError):
            remctl.Remctl(host, 1)
    tried = [each for each in caplog.messages if "trying" in each]
    assert [each.partition(": trying ")[2] for each in tried] == [
        f"{entry[4][0]} port 1" for entry in found
    ]


def test_addresses_that_are_silent_keep_no_threads() -> None:
    """A thread waits for them for a moment only, and then the caller does."""
    with full() as port:
        # In a program of its own: here, other tests' threads may still be idle.
        result = run_python(
            """
            import asyncio, os, sys, time
            import remctl.aio

            def threads():
                return len(os.listdir("/proc/self/task"))

            async def main():
                before = threads() + 1  # a sanitizer's own thread never ends
                opens = [remctl.aio.Remctl().open("127.0.0.1", port) for _ in range(20)]
                waiting = [asyncio.ensure_future(each) for each in opens]
                await asyncio.sleep(0.5)
                longest = time.monotonic() + 60
                assert threads() > before
                while threads() > before:  # they end when they have been idle
                    assert time.monotonic() < longest
                    await asyncio.sleep(0.1)
                assert not any(each.done() for each in waiting)
                for each in waiting:
                    each.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)

            port = int(sys.argv[1])
            asyncio.run(main())
            """,
            port,
        )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("leave", ["close", "time out"])
def test_a_job_that_was_left_does_not_connect(leave: str) -> None:
    """When the name service answers at last, nobody wants the connection any more."""
    client = remctl.Remctl(timeout=0.2 if leave == "time out" else 0)

    def call() -> None:
        with pytest.raises(remctl.RemctlError):
            client.open("late.invalid", port)

    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        with names().know("late.invalid", LOOPBACK, mute=True) as service:
            caller = threading.Thread(target=call)
            caller.start()
            service.wait_until_asked()
            if leave == "close":
                client.close()
            caller.join()
            service.answer()
            time.sleep(0.5)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_silent_socket_that_the_program_has_closed(tmp_path: Path) -> None:
    """Its number is a file's by then, and stays the file's: the next address fails."""
    known = names().know("two.invalid", "127.0.0.2", "127.0.0.3")
    with full("127.0.0.2") as port, full("127.0.0.3", port), known:
        client = remctl.Remctl(timeout=1)
        errors = []

        def call() -> None:
            with pytest.raises(remctl.RemctlError) as caught:
                client.open("two.invalid", port)
            errors.append(str(caught.value))

        before = sockets()
        caller = threading.Thread(target=call)
        caller.start()
        time.sleep(0.3)
        ours = sockets() - before
        path = tmp_path / "file"
        with path.open("wb") as file:
            for fd in ours:
                os.dup2(file.fileno(), fd)
            caller.join()
            for fd in ours:
                assert os.fstat(fd).st_ino == path.stat().st_ino
                os.close(fd)
    assert len(ours) == 1
    where = f"cannot connect to two.invalid (port {port})"
    assert errors == [f"{where}: Bad file descriptor"]


def test_a_silent_socket_that_is_another_by_now() -> None:
    """Nor is the handshake sent over a socket of the program's."""
    with full() as port, ExitStack() as stack:
        client = remctl.Remctl(timeout=5)
        errors = []

        def call() -> None:
            with pytest.raises(remctl.RemctlError) as caught:
                client.open(LOOPBACK, port)
            errors.append(str(caught.value))

        before = sockets()
        caller = threading.Thread(target=call)
        caller.start()
        time.sleep(0.3)
        (ours,) = sockets() - before
        one, other = map(stack.enter_context, socket.socketpair())
        os.dup2(one.fileno(), ours)
        caller.join()
        os.close(ours)
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)
    where = f"cannot connect to {LOOPBACK} (port {port})"
    assert errors == [f"{where}: Bad file descriptor"]


def test_a_job_that_is_late_does_not_keep_its_caller() -> None:
    """If no thread comes to look after an address's time, the deadline passes, too."""
    with full() as port:
        handle, _owner = new_connection(-1, LOOPBACK, None, None, None)
        server = _arguments.server(LOOPBACK, port, None)
        outcome = block(finish(handle, begin_connect(handle, server, None, 0), NEVER))
        assert outcome == lib.SHIM_BLOCKS
        deadline = OpeningDeadline(handle, 0.1)
        assert not deadline.passed()
        assert deadline.longest_wait() <= 0.1
        wait_until(deadline.passed)
        lib.shim_close(handle)


@pytest.mark.parametrize("call", ["open", "noop", "sock"])
def test_no_thread_to_be_had(server: Server, call: str) -> None:
    """RemctlError at once, with the reason, and nothing is left; SIGTERM works."""
    before = descriptors()
    result = run_python(
        """
        import os, resource, signal, socket, sys, threading, time
        import remctl

        host, port, call = sys.argv[1:]
        client = remctl.Remctl(timeout=600)
        if call == "noop":
            client.open(host, port)
            # Until no thread is parked any more; a sanitizer's own never ends.
            longest = time.monotonic() + 60
            while len(os.listdir("/proc/self/task")) > 1:
                if time.monotonic() > longest:
                    break
                time.sleep(0.1)
        before = sorted(os.listdir("/proc/self/fd"))
        sock = socket.create_connection((host, port)) if call == "sock" else None
        if os.geteuid() == 0:
            os.setuid(65534)  # for root there is no limit
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        start = time.monotonic()
        try:
            if call == "noop":
                client.noop()
            else:
                client.open(host, port, sock=sock)
        except remctl.RemctlError as error:
            print(error, error.stage, flush=True)
        assert time.monotonic() - start < 20
        assert not client.opened
        client.close()
        if call != "noop":
            assert sorted(os.listdir("/proc/self/fd")) == before
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)
        """,
        server.host,
        server.port,
        call,
    )
    assert result.stderr == ""
    reason = "cannot start a thread: Resource temporarily unavailable"
    texts = {
        "open": f"cannot look up localhost: {reason} resolve\n",
        "noop": f"{reason} (localhost:{server.port}) reply\n",
        "sock": f"{reason} (localhost) authenticate\n",
    }
    assert result.stdout == texts[call]
    assert result.returncode == -signal.SIGTERM
    wait_until(lambda: descriptors() == before)


def test_time_outs_at_exit(scripted: Scripted) -> None:
    """Where Python starts no threads any more, the shim does."""
    mute = scripted(MUTE)
    result = run_python(
        f"""
        import atexit, time
        import remctl

        def open_at_exit():
            start = time.monotonic()
            try:
                remctl.Remctl("127.0.0.1", {mute.port}, {PRINCIPAL!r}, timeout=0.5)
            except remctl.RemctlTimeoutError as error:
                print(type(error).__name__, 0.5 <= time.monotonic() - start < 20)

        atexit.register(open_at_exit)
        """
    )
    assert result.stderr == ""
    assert result.stdout == "RemctlTimeoutError True\n"


def test_a_frozen_clock(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of users freeze Python's clocks, and must not hang for it."""
    mute = scripted(MUTE_LATER)
    with remctl.Remctl("localhost", mute.port) as client:
        client.set_timeout(0.3)
        client.command(["x"])
        monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
        monkeypatch.setattr(time, "time", lambda: 1000.0)
        with pytest.raises(remctl.RemctlTimeoutError):
            client.output()


def test_a_child_forgets_the_jobs(scripted: Scripted, server: Server) -> None:
    """Its parent's go on; it has neither their threads nor their descriptors."""
    mute = scripted(MUTE)
    result = run_python(
        f"""
        import os, sys, threading, time
        import remctl

        def stall(client):
            try:
                client.open("127.0.0.1", {mute.port}, {PRINCIPAL!r})
            except remctl.RemctlError as error:
                ended.append(str(error))

        def events():
            targets = []  # eventfds or, without Linux, pipes
            for fd in os.listdir("/proc/self/fd"):
                try:
                    targets.append(os.readlink(f"/proc/self/fd/{{fd}}"))
                except OSError:
                    pass
            pipes = {{target for target in targets if target.startswith("pipe:")}}
            return targets.count("anon_inode:[eventfd]") + len(pipes)

        ended = []
        before = events()
        clients = [remctl.Remctl() for _ in range(3)]
        threads = [threading.Thread(target=stall, args=(c,)) for c in clients]
        for thread in threads:
            thread.start()
        while events() < before + 3:
            time.sleep(0.01)
        time.sleep(0.2)
        # It leaves a thread without a job, which the child must not count on.
        remctl.Remctl(*sys.argv[1:]).close()
        child = os.fork()
        if child == 0:
            assert events() == before, events()
            assert len(os.listdir("/proc/self/task")) == 1
            with remctl.Remctl(*sys.argv[1:]) as client:
                assert client.run(["test", "hello"]).status == 0
            for client in clients:
                client.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert events() == before + 3
        for client in clients:
            client.close()
        for thread in threads:
            thread.join()
        assert ended == ["the connection was closed during the call"] * 3, ended
        assert events() == before
        """,
        server.host,
        server.port,
        options=("-W", "ignore:This process:DeprecationWarning"),
    )
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)


def test_nothing_is_left_of_jobs_that_were_left(stage: Stage) -> None:
    """Their callers go at once, the jobs end by themselves."""
    before = in_use()
    client = remctl.Remctl()
    stage.prepare(client)
    client.set_timeout(0.2)
    with pytest.raises(remctl.RemctlTimeoutError):
        stage.call(client)
    stage.let_go()
    wait_for_release(before)
