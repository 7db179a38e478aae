# SPDX-License-Identifier: MIT
"""The blocking twin under gevent and eventlet, which make greenlets of threads.

Each test is a program in an interpreter of its own, as the patches are for ever.
"""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import textwrap
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest
from stages import OPEN, PRINCIPAL, STAGES
from support import HANG, LINUX_SHIM, run_python, wait_until

import remctl

if TYPE_CHECKING:
    from scripted import ScriptedServer

    from remctl.testing import Server

    Scripted = Callable[..., ScriptedServer]
    Run = Callable[..., list[str]]

GEVENT = "from gevent import Timeout, kill, sleep, spawn, spawn_later, wait"
# It says that it is deprecated.
EVENTLET = """\
import warnings
warnings.simplefilter("ignore")
import eventlet
from eventlet import Timeout, kill, sleep, spawn, spawn_after as spawn_later
def wait(greenlets):
    for each in greenlets:
        each.wait()
"""
PATCH_GEVENT = "import gevent.monkey; gevent.monkey.patch_all()"
PATCH_EVENTLET = "eventlet.monkey_patch()"
IMPORT = "import remctl"

ORDERS = {
    "gevent, import last": [PATCH_GEVENT, IMPORT, GEVENT],
    "gevent, import first": [IMPORT, PATCH_GEVENT, GEVENT],
    "eventlet, import last": [EVENTLET, PATCH_EVENTLET, IMPORT],
    "eventlet, import first": [IMPORT, EVENTLET, PATCH_EVENTLET],
}

# What all programs have: a greenlet that counts, and takes a hundredth of a second.
COUNT = """
import sys, time

ticks = 0
def count():
    global ticks
    while True:
        sleep(0.01)
        ticks += 1
counting = spawn(count)
"""


def run(
    prologue: list[str], code: str, *arguments: object, stderr: str = ""
) -> list[str]:
    """Run ``code`` after ``prologue``, and return the lines that it prints."""
    program = "\n".join([*prologue, COUNT, textwrap.dedent(code)])
    result = run_python(program, *arguments)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(stderr, result.stderr)
    return result.stdout.splitlines()


@pytest.fixture(autouse=True)
def _gil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs have the GIL: they would warn that greenlets switch it on."""
    monkeypatch.setenv("PYTHON_GIL", "1")


@pytest.fixture(params=ORDERS)
def run_green(request: pytest.FixtureRequest) -> Run:
    """Run a program under gevent or eventlet."""
    return partial(run, ORDERS[request.param])


def test_calls(run_green: Run, server: Server, tmp_path: Path) -> None:
    """All of them, and the name service; others run meanwhile."""
    code = """
    from pathlib import Path
    host, port = sys.argv[1], int(sys.argv[2])
    with remctl.Remctl(host, port, timeout=600) as r:
        print(r.run(["test", "hello"]).stdout)
        r.command(["test", "lines", 1])
        print([token.type for token in r], r.output().type)
        print(len(r.run(["test", "digest", b"x" * 8_000_000]).stdout))
        print(r.noop(), r.opened)
        before = ticks
        def touch():
            while ticks < before + 20:
                sleep(0.01)
            Path(sys.argv[3]).touch()
        spawn(touch)
        print(r.run(["test", "wait-for", sys.argv[3]]).stdout)
    print(remctl.remctl(host, port, None, ["test", "status", 3]).status)
    """
    assert run_green(code, server.host, server.port, tmp_path / "file") == [
        "b'hello world\\n'",
        "['output', 'status'] done",
        "73",
        "True True",
        "b'waiting\\ndone\\n'",
        "3",
    ]


# A call that blocks, in every stage


class Recorder:
    """Stands for a Remctl, and keeps the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.calls.append((name, arguments))


WAYS_OUT = """
import pickle

with open(sys.argv[1], "rb") as file:
    stages = pickle.load(file)

class Own(BaseException):
    pass

def leave(name, calls, way):
    global inside, most
    client = remctl.Remctl(timeout=1 if way == "timeout" else None)
    if way == "close":
        spawn_later(1, client.close)
    inside += 1
    most = max(most, inside)
    try:
        with Timeout(1 if way == "Timeout" else None, Own):
            for method, arguments in calls:
                getattr(client, method)(*arguments)
    except BaseException as error:
        print(name, way, type(error).__name__, client.opened, sep=", ")
    inside -= 1

inside = most = 0  # greenlets in calls
greenlets = []
for name, calls in stages.items():
    for way in "timeout", "close", "kill", "Timeout":
        greenlets.append(spawn(leave, name, calls, way))
        if way == "kill":
            spawn_later(1, kill, greenlets[-1])
wait(greenlets)
print(ticks >= 5, most > 1)
"""

EXCEPTIONS = {
    "timeout": "RemctlTimeoutError",
    "close": "RemctlError",
    "kill": "GreenletExit",
    "Timeout": "Own",
}

# The whole process asks one KDC, and the name service is not that of another process.
TOGETHER = [name for name in STAGES if name not in ("kdc", "name service")]


@pytest.mark.parametrize("names", [TOGETHER, ["kdc"]], ids=["servers", "kdc"])
def test_ways_out_of_a_call(
    run_green: Run, scripted: Scripted, tmp_path: Path, names: list[str]
) -> None:
    """S43: the time-out, close(), kill() and the framework's own time-out, at once."""
    calls = {}
    with ExitStack() as stack:
        for name in names:
            stage = stack.enter_context(STAGES[name](scripted))
            recorder: Any = Recorder()
            stage.prepare(recorder)
            stage.call(recorder)
            calls[name] = recorder.calls
        file = tmp_path / "stages"
        file.write_bytes(pickle.dumps(calls))
        *lines, last = run_green(WAYS_OUT, file)
    assert sorted(lines) == sorted(
        f"{name}, {way}, {exception}, False"
        for name in names
        for way, exception in EXCEPTIONS.items()
    )
    assert last == "True True"


def test_a_mute_name_service(run_green: Run, tmp_path: Path) -> None:
    """It blocks nobody, and each way out is one."""
    file = tmp_path / "stages"
    file.write_bytes(pickle.dumps({"names": [("open", ("mute.invalid", 1))]}))
    helpers = Path(__file__).parent.parent / "helpers"
    code = f"""
    sys.path.insert(0, {str(helpers)!r})
    from names import names
    with names().know("mute.invalid", mute=True):
    """
    program = textwrap.dedent(code) + textwrap.indent(WAYS_OUT, "    ")
    *lines, last = run_green(program, file)
    assert sorted(lines) == sorted(
        f"names, {way}, {exception}, False" for way, exception in EXCEPTIONS.items()
    )
    assert last == "True True"


def test_ctrl_c(run_green: Run, server: Server) -> None:
    """It ends a call of the main greenlet at once."""
    code = """
    import os
    r = remctl.Remctl(sys.argv[1], int(sys.argv[2]))
    kill(counting)  # or it may be the one that is interrupted
    os.system("(sleep 0.5; kill -INT $PPID) &")
    start = time.monotonic()
    try:
        r.run(["test", "sleep", 1000])
    except KeyboardInterrupt:
        print(r.opened, time.monotonic() - start < 600)
    """
    # gevent says where, and when it came.
    stderr = r"(?s)(.*KeyboardInterrupt\n[\w:-]+\n)?"
    result = run_green(code, server.host, server.port, stderr=stderr)
    assert result == ["False True"]


CONNECT = "import socket, sys; sock = socket.create_connection(sys.argv[1:3])"


@pytest.mark.parametrize(
    "prologue",
    [
        [PATCH_GEVENT, IMPORT, CONNECT, GEVENT],
        [IMPORT, CONNECT, PATCH_GEVENT, GEVENT],
        [EVENTLET, PATCH_EVENTLET, IMPORT, CONNECT],
        [IMPORT, CONNECT, EVENTLET, PATCH_EVENTLET],
    ],
    ids=["gevent", "before gevent", "eventlet", "before eventlet"],
)
def test_sockets(server: Server, prologue: list[str]) -> None:
    """open() takes a socket of theirs, which never blocks, and one of before."""
    code = """
    r = remctl.Remctl(timeout=600)
    r.open("localhost", sock=sock)
    print(sock.fileno() < 0, r.run(["test", "hello"]).stdout)
    """
    expected = ["True b'hello world\\n'"]
    assert run(prologue, code, server.host, server.port) == expected


WRAP = """\
import socket, ssl
plain, other = socket.socketpair()
sock = ssl.create_default_context().wrap_socket(
    plain, server_hostname="localhost", do_handshake_on_connect=False
)
"""


@pytest.mark.parametrize(
    "prologue",
    [
        [PATCH_GEVENT, IMPORT, WRAP, GEVENT],
        [IMPORT, WRAP, PATCH_GEVENT, GEVENT],
        [EVENTLET, PATCH_EVENTLET, IMPORT, WRAP],
        [IMPORT, WRAP, EVENTLET, PATCH_EVENTLET],
    ],
    ids=["gevent", "before gevent", "eventlet", "before eventlet"],
)
def test_tls_sockets(prologue: list[str]) -> None:
    """Nor are theirs for open()."""
    code = """
    try:
        remctl.Remctl().open("localhost", sock=sock)
    except TypeError as error:
        print(str(error).replace("Green", ""), sock.fileno() >= 0)
    """
    expected = ["sock must be a plain socket, not SSLSocket True"]
    assert run(prologue, code) == expected


# Many greenlets


def test_sharing_an_object(run_green: Run, server: Server) -> None:
    """S60: each greenlet gets its own reply."""
    code = """
    r = remctl.Remctl(sys.argv[1], int(sys.argv[2]), timeout=600)
    replies = {}
    def call(number):
        command = ["test", "args", number] if number % 5 else ["test", "sleep", 0.1]
        replies[number] = r.run(command).stdout.decode().strip("\\0\\n")
        r.noop()
    wait([spawn(call, number) for number in range(20)])
    for number, reply in sorted(replies.items()):
        print(number, reply)
    """
    assert run_green(code, server.host, server.port) == [
        f"{number} {number if number % 5 else 'awake'}" for number in range(20)
    ]


def test_objects_of_their_own(run_green: Run, server: Server, tmp_path: Path) -> None:
    """They run at the same time: no command ends before the last one has begun."""
    # Off Linux, open() fails when the server's queue of five is full.
    total = 20 if LINUX_SHIM else 5
    code = """
    from pathlib import Path
    total, begun = int(sys.argv[4]), []
    def call(number):
        with remctl.Remctl(sys.argv[1], int(sys.argv[2]), timeout=600) as r:
            r.command(["test", "wait-for", sys.argv[3]])
            r.output()
            begun.append(number)
            if len(begun) == total:
                Path(sys.argv[3]).touch()
            print(b"".join(token.output or b"" for token in r))
            print(r.run(["test", "args", number]).stdout.decode().strip("\\0"))
    wait([spawn(call, number) for number in range(total)])
    """
    lines = run_green(code, server.host, server.port, tmp_path / "file", total)
    assert lines.count("b'done\\n'") == total
    numbers = [int(line) for line in lines if line.isdecimal()]
    assert sorted(numbers) == list(range(total))


def test_a_pool(run_green: Run, server: Server) -> None:
    """S78: greenlets that wait for a connection leave the others their turn."""
    code = """
    pool = remctl.Pool(sys.argv[1], int(sys.argv[2]), timeout=600, size=3)
    replies = {}
    def call(number):
        command = ["test", "args", number] if number % 5 else ["test", "sleep", 0.1]
        replies[number] = pool.run(command).stdout.decode().strip("\\0\\n")
    wait([spawn(call, number) for number in range(20)])
    for number, reply in sorted(replies.items()):
        print(number, reply)
    print(len(pool._line().idle), ticks > 10)
    """
    lines = run_green(code, server.host, server.port)
    assert lines[:-1] == [
        f"{number} {number if number % 5 else 'awake'}" for number in range(20)
    ]
    assert lines[-1] == "3 True"


NATIVE_LOCKS = {
    "gevent, import last": [
        "import gevent.monkey; gevent.monkey.patch_all(thread=False)",
        IMPORT,
        GEVENT,
    ],
    "eventlet, import last": [EVENTLET, "eventlet.monkey_patch(thread=False)", IMPORT],
    "gevent, call first": [
        IMPORT,
        "import sys; r = remctl.Remctl(sys.argv[1], int(sys.argv[2]))",
        PATCH_GEVENT,
        GEVENT,
    ],
}


@pytest.mark.parametrize("order", NATIVE_LOCKS)
def test_a_lock_of_threads(server: Server, order: str, tmp_path: Path) -> None:
    """Where greenlets are all one thread for it, there is one call at a time still."""
    code = """
    from pathlib import Path
    r = globals().get("r") or remctl.Remctl(sys.argv[1], int(sys.argv[2]))
    def call(*command):
        try:
            print(r.run(["test", *command]).stdout, r.opened)
        except remctl.RemctlError as error:
            print(error, r.opened)
    greenlet = spawn(call, "wait-for", sys.argv[3])
    sleep(0.2)
    call("hello")
    Path(sys.argv[3]).touch()
    wait([greenlet])
    call("hello")
    """
    arguments = server.host, server.port, tmp_path / "file"
    refused, *others = run(NATIVE_LOCKS[order], code, *arguments)
    assert refused == (
        "the object is in use by another greenlet, and its lock is one of threads: "
        "patch them before its first call True"
    )
    assert others == ["b'waiting\\ndone\\n' True", "b'hello world\\n' True"]


def test_a_pool_with_locks_of_threads(server: Server, tmp_path: Path) -> None:
    """S78: greenlets that cannot wait for each other are told so, and do not hang."""
    code = """
    from pathlib import Path
    pool = remctl.Pool(sys.argv[1], int(sys.argv[2]), size=1)
    def call(*command):
        try:
            print(pool.run(["test", *command]).stdout)
        except remctl.RemctlError as error:
            print(error)
    greenlet = spawn(call, "wait-for", sys.argv[3])
    sleep(0.2)
    call("hello")
    Path(sys.argv[3]).touch()
    wait([greenlet])
    call("hello")
    """
    arguments = server.host, server.port, tmp_path / "file"
    assert run(NATIVE_LOCKS["gevent, import last"], code, *arguments) == [
        "all connections are in use by calls of this thread",
        "b'waiting\\ndone\\n'",
        "b'hello world\\n'",
    ]


# What a fork leaves


@pytest.mark.parametrize("order", ["gevent, import last", "gevent, import first"])
def test_a_fork_beside_waiting_greenlets(
    server: Server, scripted: Scripted, order: str
) -> None:
    """S45: they are in the child as well, where a handshake ends at once."""
    mute = scripted([OPEN])
    code = """
    import os
    parent = os.getpid()
    r, s = remctl.Remctl(*sys.argv[1:3]), remctl.Remctl(timeout=600)
    def call(function, *arguments):
        try:
            result = function(*arguments)
        except remctl.RemctlError as error:
            result = error
        print("parent:" if os.getpid() == parent else "child:", result, flush=True)
    greenlets = [
        spawn(call, r.run, ["test", "sleep", 2]),
        spawn(call, s.open, "127.0.0.1", sys.argv[3], sys.argv[4]),
    ]
    sleep(0.5)
    child = os.fork()
    if child == 0:
        wait(greenlets[1:])
        r = remctl.Remctl(*sys.argv[1:3])
        call(r.run, ["test", "hello"])
        os._exit(0)
    wait(greenlets[:1])
    os.waitpid(child, 0)
    s.close()
    wait(greenlets)
    call(r.run, ["test", "hello"])
    """
    arguments = server.host, server.port, mute.port, PRINCIPAL
    lines = run(ORDERS[order], code, *arguments)
    closed = "the connection was closed during the call"
    hello, awake = (
        str(remctl.RemctlSimpleResult(text, None, 0))
        for text in (b"hello world\n", b"awake\n")
    )
    child = [line[7:] for line in lines if line.startswith("child: ")]
    assert child == ["the call was begun by another process", hello]
    parent = [line[8:] for line in lines if line.startswith("parent: ")]
    assert parent == [awake, closed, hello]


# In a web server

WAYS = ["own", "shared"]

SERVICE = """\
import remctl

HOST, PORT = {host!r}, {port}
# With --preload, the connection is that of the worker's parent.
shared = remctl.Remctl(HOST, PORT, timeout=600)


def application(environ, start_response):
    how, *command = environ["PATH_INFO"][1:].split("/")
    if how == "own":
        result = remctl.remctl(HOST, PORT, None, command, timeout=600)
    else:
        if not shared.opened:
            shared.open(HOST, PORT)
        result = shared.run(command)
    start_response("200 OK", [])
    return [result.check().stdout]
"""


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["", "preload"])
def test_gunicorn(server: Server, tmp_path: Path, options: list[str]) -> None:
    """200 requests, 10 at a time, one worker: each gets its own answer."""
    service = SERVICE.format(host=server.host, port=server.port)
    (tmp_path / "service.py").write_text(service)
    log = tmp_path / "log"
    with ExitStack() as stack:
        command = ["gunicorn", "-k", "gevent", "-b", "127.0.0.1:0", *options]
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", *command, "service:application"],
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=stack.enter_context(log.open("w")),
                stderr=subprocess.STDOUT,
            )
        )
        stack.callback(process.kill)
        wait_until(lambda: "Booting worker" in log.read_text())
        address = re.findall(r"Listening at: (\S+)", log.read_text())[0]

        def get(path: str) -> bytes:
            url = f"{address}/{path}"
            with urllib.request.urlopen(url, timeout=HANG) as response:
                body: bytes = response.read()
                return body

        with ThreadPoolExecutor(10) as pool:
            paths = [f"{way}/test/args/{n}" for n in range(100) for way in WAYS]
            bodies = list(pool.map(get, paths))
            start = time.monotonic()
            assert list(pool.map(get, ["own/test/sleep/4"] * 10)) == [b"awake\n"] * 10
            # One after the other, they would take 40 s.
            assert time.monotonic() - start < 35
        process.terminate()
        assert process.wait(timeout=HANG) == 0, log.read_text()
    assert bodies == [f"{n}\0".encode() for n in range(100) for _ in WAYS]
    assert "Traceback" not in log.read_text()
