# SPDX-License-Identifier: MIT
"""Ctrl-C, and what other signals and their handlers do to a call."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Callable

import pytest
from interrupts import Interruption, InterruptLine, handler, interrupt
from stages import PRINCIPAL, STAGES, Stage, in_use, wait_for_release
from support import AT_ONCE, HANG, run_python

import remctl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from remctl.testing import Server

    Start = Callable[..., Any]


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, scripted: Start) -> Iterator[Stage]:
    """Each place where a call can block."""
    with STAGES[request.param](scripted) as stage:
        yield stage


@pytest.fixture
def _warm(server: Server) -> None:
    """Have Kerberos open what it keeps open."""
    remctl.remctl(server.host, server.port, None, ["test", "hello"])


@contextmanager
def signal_once_in(stage: Stage, number: int) -> Iterator[list[float]]:
    """Send a signal when the main thread is at ``stage``; yield the time."""
    sent: list[float] = []

    def send() -> None:
        stage.wait_for(threading.main_thread())
        sent.append(time.monotonic())
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        thread.join()


# Ctrl-C


def own_reply(client: remctl.Remctl, mark: object) -> bool:
    return client.run(["test", "args", mark]).stdout == f"{mark}\0".encode()


def test_ctrl_c_ends_a_call_at_once(stage: Stage, server: Server, _warm: None) -> None:
    """S43: KeyboardInterrupt at once; not open then; open() works; nothing leaks."""
    before = in_use()
    client = remctl.Remctl()
    stage.prepare(client)
    with signal_once_in(stage, signal.SIGINT) as sent:
        with pytest.raises(KeyboardInterrupt):
            stage.call(client)
        took = time.monotonic() - sent[0]
    assert took < AT_ONCE
    assert not client.opened
    assert client.error() == "KeyboardInterrupt"
    with pytest.raises(remctl.RemctlNotOpenedError):
        client.output()
    with pytest.raises(remctl.RemctlNotOpenedError):
        client.run(["test", "hello"])
    client.open(server.host, server.port)
    assert own_reply(client, "again")
    client.close()
    stage.let_go()
    wait_for_release(before)


def test_ctrl_c_that_another_thread_takes(stage: Stage) -> None:
    """The kernel gives it to any thread; the wait of the main one goes on then."""
    client = remctl.Remctl()
    stage.prepare(client)

    def take() -> None:
        stage.wait_for(threading.main_thread())
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    thread = threading.Thread(target=take)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        stage.call(client)
    thread.join()
    assert not client.opened


@pytest.mark.parametrize("options", [(), ("-X", "dev")])
def test_ctrl_c_ends_a_program(options: tuple[str, ...], scripted: Start) -> None:
    """S61: a program in remctl() dies of SIGINT, with Python's own traceback."""
    server = scripted(["handshake", "read", "hang"])
    program = f"""if True:
        import remctl
        remctl.remctl("127.0.0.1", {server.port}, {PRINCIPAL!r}, ["test", "x"])
    """
    with subprocess.Popen(
        [sys.executable, *options, "-c", program],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        server.wait_for("command")
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=HANG)[1]
    assert process.returncode in (-signal.SIGINT, 1)  # PyPy: 1
    assert errors.endswith("KeyboardInterrupt\n")
    assert errors.count("Traceback") == 1
    assert "Warning" not in errors


# Handlers that return


# Signals from outside: a child's own goes to the thread that started it.
STORMS = {
    "children": "os.kill(pid, signal.SIGCHLD)",
    # Helper threads get none of what is sent to the process as a whole.
    "threads": "for thread in os.listdir(f'/proc/{pid}/task'):"
    " libc.tgkill(pid, int(thread), signal.SIGCHLD)",
}


@pytest.fixture(params=["timer", *STORMS])
def storm(request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    """A signal a millisecond: a profiler's timer, children that end, or each thread's.

    The handler pops a function off the list, and calls it, at each 300th signal.
    """
    then: list[Callable[[], object]] = []
    count = 0

    def handle(*_: object) -> None:
        nonlocal count
        count += 1
        if count % 300 == 0 and then:
            then.pop()()

    if request.param == "timer":
        with handler(signal.SIGALRM, handle):
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            yield then
            signal.setitimer(signal.ITIMER_REAL, 0)
        return
    program = f"""if True:
        import ctypes, os, signal, time
        pid, libc = {os.getpid()}, ctypes.CDLL(None)
        while True:
            {STORMS[request.param]}
            time.sleep(0.001)
    """
    with handler(signal.SIGCHLD, handle):
        with subprocess.Popen([sys.executable, "-c", program]) as process:
            yield then
            process.kill()


# pytest-timeout's default method has SIGALRM for itself.
own_timer = pytest.mark.timeout(method="thread")

LARGE = b"x" * 3_000_000


@own_timer
def test_signals_do_not_disturb_a_wait(
    storm: list[Any], server: Server, tmp_path: Path
) -> None:
    """S61: a command that takes 300 signals gives its reply."""
    file = tmp_path / "file"
    storm.append(file.touch)
    with remctl.Remctl(server.host, server.port) as client:
        result = client.run(["test", "wait-for", file])
        assert result == remctl.RemctlSimpleResult(b"waiting\ndone\n", None, 0)
        assert client.opened


@own_timer
def test_signals_do_not_disturb_large_transfers(
    storm: list[Any], server: Server
) -> None:
    """Megabytes go and come as they are, and connections open."""
    for _ in range(3):
        with remctl.Remctl(server.host, server.port) as client:
            sent = client.run(["test", "digest", LARGE])
            digest = f"{len(LARGE)} {hashlib.sha256(LARGE).hexdigest()}\n"
            assert sent.stdout == digest.encode()
            received = client.run(["test", "bytes", len(LARGE)])
            assert received.stdout == (b"0123456789abcde\n" * len(LARGE))[: len(LARGE)]
            assert client.noop()


@own_timer
@pytest.mark.parametrize(
    ("script", "call"),
    [
        (["barrier", "handshake", "hang"], lambda _: True),
        (["handshake", "barrier", ["serve"]], remctl.Remctl.noop),
        (
            ["handshake", "barrier", ["serve"]],
            lambda client: client.run(["test", "echo", LARGE]).stdout == LARGE,
        ),
        (
            [
                "handshake",
                "read",
                ["output", {"text": "1234", "chunk": 8, "delay": 0.02}],
            ]
            + ["barrier", ["status", {"status": 7}], "hang"],
            lambda client: client.run(["test", "x"]).stdout == b"1234",
        ),
    ],
    ids=["handshake", "noop", "large write", "half a token"],
)
def test_signals_do_not_disturb_a_slow_server(
    storm: list[Any], scripted: Start, script: list[Any], call: Callable[..., bool]
) -> None:
    """A call that the server stalls for 300 signals goes on and ends well."""
    server = scripted(script)
    storm.append(server.proceed)
    with remctl.Remctl("127.0.0.1", server.port, PRINCIPAL) as client:
        assert call(client)
        assert client.opened
    assert not storm


@own_timer
@pytest.mark.parametrize("storm", ["timer"], indirect=True)
def test_signals_do_not_put_time_outs_off(storm: list[Any], stage: Stage) -> None:
    """S24: the time-out ends a call in time, not earlier and not never."""
    client = remctl.Remctl()
    stage.prepare(client)
    client.set_timeout(0.3)
    start = time.monotonic()
    with pytest.raises(remctl.RemctlTimeoutError, match="timed out"):
        stage.call(client)
    assert 0.25 < time.monotonic() - start < AT_ONCE
    assert not client.opened
    stage.let_go()


# Handlers that raise


@pytest.mark.parametrize("name", ["open", "run", "command", "output", "noop", "close"])
# A socket that no variable has yet is closed by its finalizer.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")
def test_handler_that_raises_at_any_line_leaves_nothing_behind(
    name: str, server: Server
) -> None:
    """Not opened, or in step: the next run() gives its own reply; open() works."""
    before = in_use()
    client = remctl.Remctl()
    here = (server.host, server.port)
    calls: dict[str, Callable[[], object]] = {
        "open": lambda: client.open(*here),
        "run": lambda: client.run(["test", "args", "interrupted"]),
        "command": lambda: client.command(["test", "args", "interrupted"]),
        "output": client.output,
        "noop": client.noop,
        "close": client.close,
    }
    with handler(signal.SIGUSR1, interrupt):
        for line in range(1, 1000):
            if not client.opened:
                client.open(*here)
            if name == "output":
                client.command(["test", "args", "interrupted"])
            tracer = InterruptLine(line)
            with suppress(Interruption, remctl.RemctlError), tracer:
                calls[name]()
            if client.opened:
                tokens: list[remctl.RemctlOutput] = []
                with suppress(remctl.RemctlNotOpenedError):
                    tokens.extend(client)
                # None is lost, unless it was returned; or the lock was just being
                # released, when the connection may be another thread's already.
                if name == "output" and not tracer.line.startswith("with lock:"):
                    assert len(tokens) == (1 if tracer.left > 0 else 2)
            assert not client.opened or own_reply(client, line)
            if tracer.left > 0:
                break
        else:
            pytest.fail("the call never came to its end")
    client.open(*here)
    assert own_reply(client, "end")
    client.close()
    wait_for_release(before)


def test_handler_that_raises_at_random_leaves_nothing_behind(server: Server) -> None:
    """After each: not opened, or the next run() gives its own reply."""
    result = run_python(
        """
        import gc, os, random, signal, sys, time
        from pathlib import Path
        import remctl

        class Interruption(Exception):
            pass

        package = str(Path(remctl.__file__).parent)
        shots = 0

        def interrupt(_, frame):
            global shots
            # Only there, so that the test itself is not interrupted.
            inside = False
            while frame is not None and not inside:
                inside = frame.f_code.co_filename.startswith(package)
                frame = frame.f_back
            if shots:
                shots -= inside
                # The next signal.  A periodic timer would leave no time for anything
                # but this handler, where that takes as long as a period.
                signal.setitimer(signal.ITIMER_REAL, 50e-6 if shots else 0)
                if inside:
                    raise Interruption

        def in_use():
            return [len(os.listdir(f"/proc/self/{what}")) for what in ("fd", "task")]

        # An exception in a finalizer is lost, as always in Python.
        sys.unraisablehook = lambda _: None
        signal.signal(signal.SIGALRM, interrupt)
        generator = random.Random(1)
        here = sys.argv[1], int(sys.argv[2])
        client = remctl.Remctl(*here)
        start = time.monotonic()
        for _ in range(20):
            client.run(["test", "args", "warm"])
        duration = (time.monotonic() - start) / 20
        client.close()
        before = in_use()
        seen = {"in step": 0, "not open": 0}
        for turn in range(250):
            shots = generator.choice([1, 1, 2, 3])
            # Sometimes late: the machine may be busier now than it was before.
            latest = generator.choice([2, 2, 2, 20]) * duration
            moment = generator.uniform(1e-6, latest)
            signal.setitimer(signal.ITIMER_REAL, moment)
            try:
                if not client.opened:
                    client.open(*here)
                if generator.random() < 0.8:
                    client.run(["test", "args", f"interrupted {turn}"])
                else:
                    client.noop()
            except (Interruption, remctl.RemctlNotOpenedError):
                pass
            shots = 0  # the handler does nothing from now on
            signal.setitimer(signal.ITIMER_REAL, 0)
            try:
                result = client.run(["test", "args", f"next {turn}"])
                assert result.stdout == b"next %d\\0" % turn, result
                seen["in step"] += 1
            except remctl.RemctlNotOpenedError:
                seen["not open"] += 1
        assert min(seen.values()) > 5, seen
        client.open(*here)
        client.close()
        deadline = time.monotonic() + 600
        while any(
            now > then for now, then in zip((gc.collect(), in_use())[1], before)
        ):
            assert time.monotonic() < deadline, (before, in_use())
            time.sleep(0.01)
        print("good")
        """,
        server.host,
        server.port,
    )
    assert result.stderr == ""
    assert result.stdout == "good\n"


# Handlers that use the object


@pytest.mark.parametrize("method", ["command", "output", "run", "open", "noop"])
def test_handler_cannot_use_the_object_of_its_own_thread(
    method: str, server: Server, tmp_path: Path
) -> None:
    """S61: it gets a RemctlError and no deadlock; the interrupted call goes on."""
    file = tmp_path / "file"
    client = remctl.Remctl(server.host, server.port)
    arguments: dict[str, list[Any]] = {
        "command": [["test", "hello"]],
        "run": [["test", "hello"]],
        "open": [server.host, server.port],
    }
    errors: list[str] = []

    def use(*_: object) -> None:
        assert client.opened
        try:
            getattr(client, method)(*arguments.get(method, []))
        except remctl.RemctlError as error:
            errors.append(str(error))
        file.touch()

    client.command(["test", "wait-for", file])
    assert client.output().output == b"waiting\n"
    waiting = Stage(*[lambda *_: None] * 4)
    with handler(signal.SIGUSR1, use), signal_once_in(waiting, signal.SIGUSR1):
        token = client.output()
    assert errors == ["the object is in use by the interrupted call"]
    assert token.output == b"done\n"
    assert client.output().status == 0
    assert own_reply(client, "next")
    client.close()


def test_close_in_a_handler_ends_the_interrupted_call(stage: Stage) -> None:
    """S44: it raises RemctlError, and the object is as after any close()."""
    client = remctl.Remctl()
    stage.prepare(client)
    with handler(signal.SIGUSR1, lambda *_: client.close()):
        with signal_once_in(stage, signal.SIGUSR1):
            with pytest.raises(remctl.RemctlError, match="closed during the call"):
                stage.call(client)
    assert not client.opened
    assert client.error() == "no currently open connection"
    stage.let_go()


def test_handler_may_use_another_object(
    server: Server, client: remctl.Remctl, tmp_path: Path
) -> None:
    """S61: connections are independent, also in one thread."""
    file = tmp_path / "file"

    def use(*_: object) -> None:
        remctl.remctl(server.host, server.port, None, ["test", "append", file, "x"])

    waiting = Stage(*[lambda *_: None] * 4)
    with handler(signal.SIGUSR1, use), signal_once_in(waiting, signal.SIGUSR1):
        result = client.run(["test", "wait-for", file])
    assert result.stdout == b"waiting\ndone\n"


# SIGPIPE

# The server's steps before it ends the connection, and what the program does then.
LOST: dict[str, tuple[list[Any], str]] = {
    "close": ([], "lost(); client.close()"),
    "drop": ([], "lost(); del client; gc.collect(); gc.collect()"),
    "close with a reply unread": (["read"], "command(); lost(); client.close()"),
    "command": ([], "lost(); fails(command)"),
    "noop": ([], "lost(); fails(client.noop)"),
    "output": (["read"], "command(); lost(); fails(client.output)"),
    "large write": ([["sleep", {"seconds": 0.2}]], "fails(command, b'x' * 16_000_000)"),
    "open": ([], "lost(); fails(client.open, '127.0.0.1', 1)"),
    "exit": ([], "lost()"),
}


@pytest.mark.parametrize("end", ["close", "reset"])
def test_lost_connection_does_not_kill(end: str, scripted: Start) -> None:
    """S61: a program that has set SIGPIPE to SIG_DFL survives a lost connection."""
    server = scripted(*(["handshake", *steps, end] for steps, _ in LOST.values()))
    program = [
        """if True:
        import gc, select, signal
        import remctl
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)

        def lost():
            poll = select.poll()
            poll.register(client.fileno(), select.POLLIN)
            poll.poll()

        def command(argument="x"):
            client.command(["test", "x", argument])

        def fails(function, *arguments):
            try:
                function(*arguments)
            except remctl.RemctlError:
                return
            print("no error")
        """
    ]
    for name, (_, code) in LOST.items():
        program += [
            f"print({name!r}, flush=True)",
            f"client = remctl.Remctl('127.0.0.1', {server.port}, {PRINCIPAL!r})",
            code,
        ]
    result = run_python("\n".join(program))
    assert result.stdout.splitlines() == list(LOST)
    assert (result.stderr, result.returncode) == ("", 0)


@pytest.mark.parametrize("pending", [True, False])
def test_blocked_signals_stay_as_they_are(pending: bool, scripted: Start) -> None:
    """A SIGPIPE of the program's own stays pending; no mask changes."""
    server = scripted(["handshake", "reset"])
    result = run_python(
        f"""
        import select, signal, threading
        import remctl
        mine = {{signal.SIGPIPE, signal.SIGUSR1}}
        signal.pthread_sigmask(signal.SIG_BLOCK, mine)
        client = remctl.Remctl("127.0.0.1", {server.port}, {PRINCIPAL!r})
        poll = select.poll()
        poll.register(client.fileno(), select.POLLIN)
        poll.poll()
        if {pending}:
            signal.pthread_kill(threading.get_ident(), signal.SIGPIPE)
        client.close()
        assert (signal.SIGPIPE in signal.sigpending()) is {pending}
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mine
        """
    )
    assert (result.stderr, result.returncode) == ("", 0)


def test_a_handler_that_uses_the_object_while_opened_looks(
    client: remctl.Remctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S61: neither of the two fails."""

    def interrupted(_: object) -> bool:
        if not used:
            used.append(True)
            used.append(client.run(["test", "hello"]).status == 0)
        return True

    used: list[bool] = []
    connection = client._opened_connection()
    monkeypatch.setattr(type(connection), "broken", property(interrupted))
    monkeypatch.setattr(client, "_drop_broken", lambda *_: None)
    assert client._is_left_broken(connection)
    assert used == [True, True]
