# SPDX-License-Identifier: MIT
"""Fork, multiprocessing, programs started, and the interpreter's end."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any, Callable

import pytest
from stages import PRINCIPAL
from support import HANG, run_python

import remctl

if TYPE_CHECKING:
    from remctl.testing import Server

    Start = Callable[..., Any]

# Python 3.12 warns of a fork where there are threads.
QUIET = ("-W", "ignore:This process:DeprecationWarning")

FORK = """
import atexit, gc, os, signal, sys, threading, time
from pathlib import Path
import remctl

# Its module is imported now: a daemon thread that imports can block the exit.
remctl.Remctl
host, port, file = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])

# At its exit a forked child would wait for its parent's watchdog.
faulthandler.cancel_dump_traceback_later()
faulthandler.register(signal.SIGALRM, chain=True)

def fork():
    child = os.fork()
    # Bounds on a hang, below run_python()'s, so that the stacks are printed.
    signal.alarm(500 if child else 400)
    return child

def wait(child):
    status = os.waitpid(child, 0)[1]
    assert status == 0, status

def refused(function, *arguments):
    try:
        function(*arguments)
    except remctl.RemctlNotOpenedError as error:
        assert str(error) == "no currently open connection", error
    else:
        raise AssertionError(function)

def open_and_run():
    with remctl.Remctl(host, port) as own:
        assert own.run(["test", "hello"]).stdout == b"hello world\\n"

def background(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    while thread.is_alive():
        frame = sys._current_frames().get(thread.ident)
        if frame and frame.f_code.co_filename.endswith("_waiting.py"):
            return thread
        time.sleep(0.01)
"""

# What a child does with its parent's connection.
USES = {
    "nothing": "",
    "methods": """
        assert client.opened is False
        for call in (client.output, client.noop, client.fileno, list):
            refused(call, *([client] if call is list else []))
        refused(client.command, ["test", "hello"])
        refused(client.run, ["test", "hello"])
        assert client.error() == "no currently open connection"
        client.set_timeout(5)
    """,
    "close": """
        client.close()
        client.close()
        assert client.error() == "no currently open connection"
    """,
    "drop": "del client; gc.collect(); gc.collect()",
    "with": "client.__exit__(None, None, None)",
    "init": "client.__init__()",
    "open": """
        client.open(host, port)
        assert client.run(["test", "hello"]).stdout == b"hello world\\n"
        assert client.noop()
    """,
    "own": "open_and_run()",
    "one-shot": "assert remctl.remctl(host, port, None, ['test', 'hello']).status == 0",
}


def check(
    program: str,
    *arguments: object,
    output: str = "",
    options: tuple[str, ...] = QUIET,
) -> None:
    """Run a program that ends well and says nothing else, nor do its children."""
    result = run_python(program, *arguments, options=options)
    assert result.stderr == ""
    assert result.stdout == output
    assert result.returncode == 0


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit()"])
def test_forked_child_neither_uses_nor_disturbs_the_connection(
    end: str, server: Server, tmp_path: Path
) -> None:
    """S45: the parent reads on in the middle of a reply, whatever children do."""
    program = FORK + "client = remctl.Remctl(host, port)\n"
    for name, use in USES.items():
        program += f"""
client.command(["test", "wait-for", file, {name!r}])
assert client.output().output == {(name + chr(10)).encode()!r}
child = fork()
if child == 0:
    exec({dedent(use)!r})
    {end}
wait(child)
file.touch()
assert client.output().output == b"done\\n"
assert client.output().type == "status"
assert client.run(["test", "hello"]).stdout == b"hello world\\n"
assert client.noop()
file.unlink()
"""
    check(program, server.host, server.port, tmp_path / "file")


def test_forked_child_leaves_an_idle_connection_alone(scripted: Start) -> None:
    """S45: the server hears nothing of a child that closes, drops and exits."""
    server = scripted(["handshake", "wait_eof"])
    program = f"""
{FORK}
client = remctl.Remctl(host, port, {PRINCIPAL!r})
child = fork()
if child == 0:
    client.close()
    del client
    gc.collect()
    sys.exit()
wait(child)
print("child has ended", flush=True)
client.command(["test", "x"])
client.close()
"""
    check(program, "127.0.0.1", server.port, "", output="child has ended\n")
    server.wait_for("eof")
    events = [event["event"] for event in server.events]
    assert events == ["listening", "accepted", "handshake", "command", "eof"]


def test_forked_child_knows_of_a_loss_before_the_fork(scripted: Start) -> None:
    """S68: error() and the cause are those that its parent has."""
    server = scripted(["handshake", "read", "close"])
    program = f"""
{FORK}
client = remctl.Remctl(host, port, {PRINCIPAL!r})
try:
    client.run(["x"])
except remctl.RemctlError as error:
    loss = error
child = fork()
assert client.error() == str(loss)
try:
    client.run(["x"])
except remctl.RemctlNotOpenedError as error:
    assert repr(error.__cause__) == repr(loss)
if child == 0:
    os._exit(0)
wait(child)
"""
    check(program, "127.0.0.1", server.port, "")


def test_connection_ends_when_the_parent_closes_it(scripted: Start) -> None:
    """S62: a child that has not touched the object does not keep it open."""
    server = scripted(["handshake", "wait_eof"], ["handshake", "wait_eof"])
    script = f"""if True:
        import os, sys
        import remctl
        client = remctl.Remctl("127.0.0.1", {server.port}, {PRINCIPAL!r})
        if os.fork() == 0:
            sys.stdin.read()
            os._exit(0)
        client.close()
        os.wait()
    """
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, cwd="/"
    ) as process:
        server.wait_for("quit", 0)
        server.wait_for("eof", 0)
        process.communicate(timeout=HANG)


def test_fork_while_another_thread_uses_the_object(
    server: Server, tmp_path: Path
) -> None:
    """S62: a lock that another thread holds at the fork stays behind."""
    program = (
        FORK
        + """
client = remctl.Remctl(host, port)
client.command(["test", "wait-for", file])
client.output()
tokens = []
thread = background(lambda: tokens.extend(client))
child = fork()
if child == 0:
    refused(client.output)
    client.open(host, port)
    assert client.run(["test", "hello"]).stdout == b"hello world\\n"
    client.close()
    open_and_run()
    sys.exit()
wait(child)
file.touch()
thread.join()
assert [token.type for token in tokens] == ["output", "status"], tokens
assert client.run(["test", "hello"]).status == 0
"""
    )
    check(program, server.host, server.port, tmp_path / "file")


def test_threads_of_a_child_that_touch_an_inherited_object(server: Server) -> None:
    """Each is let go of once, and what one of them opens stays open."""
    program = (
        FORK
        + """
def touch(number):
    start.wait()
    if number == 0:
        client.open(host, port)
        assert client.run(["test", "hello"]).stdout == b"hello world\\n"
    else:
        for _ in range(20):
            client.error()
            client.opened
        try:
            client.set_timeout(0)
            assert client.run(["test", "hello"]).stdout == b"hello world\\n"
        except remctl.RemctlNotOpenedError:
            pass

sys.setswitchinterval(1e-6)
for _ in range(40):
    client = remctl.Remctl(host, port)
    child = fork()
    if child == 0:
        failed = []
        threading.excepthook = failed.append
        start = threading.Barrier(4)
        threads = [threading.Thread(target=touch, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed
        assert client.run(["test", "hello"]).status == 0
        os._exit(0)
    wait(child)
    assert client.noop()
"""
    )
    check(program, server.host, server.port, "")


def test_fork_while_another_thread_looks_a_name_up(server: Server) -> None:
    """Hazard 78: the name service's locks are free when the child begins."""
    helpers = Path(__file__).parent.parent / "helpers"
    program = (
        FORK
        + """
sys.path.insert(0, str(file))
from names import names

def look_up(client):
    client.open("slow.invalid", port, "host/localhost")

client = remctl.Remctl()
with names().know("slow.invalid", "127.0.0.1", mute=True, locks=True) as service:
    thread = background(look_up, client)
    service.wait_until_asked()
    os.register_at_fork(before=service.answer)
    child = fork()
    if child == 0:
        own = remctl.Remctl(timeout=30)  # a bound on a hang
        look_up(own)
        assert own.noop()
        os._exit(0)
    wait(child)
    thread.join()
assert client.noop()
"""
    )
    check(program, server.host, server.port, helpers)


def test_fork_while_a_connection_ends(server: Server) -> None:
    """What the parent is freeing, the child does not free again."""
    program = (
        FORK
        + """
def open_again():
    while not done:
        client.open(host, port)

done = False
client = remctl.Remctl(host, port)
thread = threading.Thread(target=open_again)
thread.start()
for _ in range(100):
    child = fork()
    if child == 0:
        client.error()
        client.close()
        del client
        os._exit(0)
    wait(child)
done = True
thread.join()
assert client.noop()
"""
    )
    check(program, server.host, server.port, "")


def test_a_child_that_closes_all_descriptors(server: Server, tmp_path: Path) -> None:
    """Hazard 47: their numbers are those of its files by then, and stay theirs."""
    program = (
        FORK
        + """
client = remctl.Remctl(host, port)
number = client.fileno()
for use in (lambda: None, client.close, client.error, lambda: client.open(host, port)):
    child = fork()
    if child == 0:
        os.closerange(3, number + 10)
        files = [os.open(file, os.O_RDWR | os.O_CREAT) for _ in range(number + 5)]
        assert number in files
        use()
        if use == client.open:
            assert client.noop()
        del client, use
        gc.collect()
        for fd in files:
            os.fstat(fd)
        os._exit(0)
    wait(child)
    assert client.noop()
os.closerange(3, number + 10)
files = [os.open(file, os.O_RDWR | os.O_CREAT) for _ in range(number + 5)]
client.close()
for fd in files:
    os.fstat(fd)
assert file.read_bytes() == b""
"""
    )
    check(program, server.host, server.port, tmp_path / "file")


def test_a_child_with_its_parents_process_id(server: Server) -> None:
    """Hazard 47: each is the first process of a PID namespace."""
    program = (
        FORK
        + """
import ctypes

def fork_into_namespace():
    libc = ctypes.CDLL(None, use_errno=True)
    # CLONE_NEWPID; who is not root needs CLONE_NEWUSER for that.
    if libc.unshare(0x20000000 | (0 if os.geteuid() == 0 else 0x10000000)):
        raise OSError(ctypes.get_errno(), "unshare")
    return os.fork()

child = fork_into_namespace()
if child == 0:
    assert os.getpid() == 1
    client = remctl.Remctl(host, port)
    child = fork_into_namespace()
    if child == 0:
        assert os.getpid() == 1
        assert not client.opened
        refused(client.run, ["test", "hello"])
        refused(client.noop)
        client.open(host, port)
        assert client.run(["test", "hello"]).stdout == b"hello world\\n"
        os._exit(0)
    wait(child)
    assert client.run(["test", "hello"]).stdout == b"hello world\\n"
    os._exit(0)
wait(child)
"""
    )
    check(program, server.host, server.port, "")


def test_child_of_a_child(server: Server, tmp_path: Path) -> None:
    """S62: a connection belongs to the process that opened it, down the line."""
    program = (
        FORK
        + """
first = remctl.Remctl(host, port)
child = fork()
if child == 0:
    second = remctl.Remctl(host, port)
    child = fork()
    if child == 0:
        refused(first.noop)
        refused(second.noop)
        first.open(host, port)
        assert first.noop()
        sys.exit()
    wait(child)
    refused(first.noop)
    assert second.noop()
    sys.exit()
wait(child)
assert first.noop()
"""
    )
    check(program, server.host, server.port, tmp_path / "file")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, server: Server) -> None:
    """Results and exceptions come back from processes; connections do not go there."""
    results = [
        remctl.RemctlSimpleResult(None, None, 7),
        remctl.RemctlSimpleResult(b"x\0", None, 0),
    ]
    code = remctl.ErrorCode(5)
    error = remctl.RemctlProtocolError("Unknown command", code, "reply")
    refusal = "cannot pickle 'Remctl' object"
    check(
        """
        import multiprocessing, sys
        import remctl

        if __name__ == "__main__":
            host, port = sys.argv[1], int(sys.argv[2])
            client = remctl.Remctl(host, port)
            with multiprocessing.get_context(sys.argv[3]).Pool(2) as pool:
                calls = [
                    pool.apply_async(remctl.remctl, [host, port, None, command])
                    for command in (["test", "status", "7"], ["test", "args", "x"])
                ]
                print([call.get(600) for call in calls])
                try:
                    pool.apply(remctl.remctl, [host, port, None, ["unknown"]])
                except remctl.RemctlProtocolError as error:
                    print(repr(error), int(error.code))
                try:
                    pool.apply(remctl.Remctl.noop, [client])
                except TypeError as error:
                    print(error)
            assert client.run(["test", "hello"]).stdout == b"hello world\\n"
        """,
        server.host,
        server.port,
        method,
        output=f"{results}\n{error!r} {int(error.code or 0)}\n{refusal}\n",
    )


def test_programs_started_do_not_inherit_the_connection(server: Server) -> None:
    """S62: its descriptors are closed on exec, so that close() is the end of it."""
    listing = ["ls", "/proc/self/fd"]

    def inherited() -> bytes:
        return subprocess.run(
            listing, close_fds=False, capture_output=True, check=True
        ).stdout

    before = inherited()
    with remctl.Remctl(server.host, server.port) as client:
        assert inherited() == before
        client.command(["test", "hello"])
        assert inherited() == before


def run_without_streams(program: str, directory: Path, *arguments: object) -> str:
    """Run a program without standard streams; return what it writes into a file.

    The file's name is its last argument.
    """
    file = directory / "result"
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program]
    command = [*shell, *map(str, arguments), str(file)]
    subprocess.run(command, cwd=directory, check=True, timeout=HANG)
    return file.read_text()


# How programs begin that open() connections to a server that says nothing.
OPEN_MUTE = """
import os, sys, threading, time, remctl

def open_mute(client):
    try:
        client.open("127.0.0.1", port, "host/localhost")
    except remctl.RemctlError:
        pass

port, file = int(sys.argv[1]), sys.argv[2]
for name in range(3):  # what Python has opened in their places
    try:
        os.close(name)
    except OSError:
        pass
"""


def test_programs_without_standard_streams(
    server: Server, scripted: Start, tmp_path: Path
) -> None:
    """Hazard 63: descriptors 0, 1 and 2 are not taken, and messages go nowhere."""
    old = scripted([["handshake", {"protocol": 1}], "serve"])
    program = """
import os, sys, threading, remctl

def write(fd):
    try:
        os.write(fd, b"a message of a C library")
    except OSError:
        pass

def taken():
    return b"%d" % sum(os.path.exists(f"/proc/self/fd/{fd}") for fd in range(3))

def trace(frame, event, argument):
    # At each step of connecting, and while another thread is inside libremctl.
    if "remctl" in frame.f_code.co_filename:
        for fd in range(3):
            write(fd)
    return trace

host, port, old, file = sys.argv[1:]
for name in range(3):  # what Python has opened in their places
    try:
        os.close(name)
    except OSError:
        pass
sys.settrace(trace)
with remctl.Remctl(host, port) as client:
    result = client.run(["test", "hello"]).stdout
    result += taken()
with remctl.Remctl("127.0.0.1", old, "host/localhost") as client:
    result += client.run(["test", "echo", "old"]).stdout
    client.command(["test", "echo", "old"])
    result += taken()
sys.settrace(None)
with open(file, "wb") as stream:
    stream.write(result)
"""
    servers = (server.host, server.port, old.port)
    assert run_without_streams(program, tmp_path, *servers) == "hello world\n0old0"


def test_jobs_without_standard_streams(scripted: Start, tmp_path: Path) -> None:
    """Hazard 63: the first of two jobs to end does not free what both need."""
    mute = scripted(*[[["handshake", {"stop": ["hang", 2]}]]] * 2)
    program = f"""{OPEN_MUTE}
def taken():
    return sum(os.path.exists(f"/proc/self/fd/{{fd}}") for fd in range(3))

first, second = remctl.Remctl(timeout=1), remctl.Remctl()
threads = [
    threading.Thread(target=open_mute, args=[client]) for client in (first, second)
]
for thread in threads:
    thread.start()
threads[0].join()
time.sleep(0.1)  # until its job has ended, too
result = [taken()]
child = os.fork()
if child == 0:
    os._exit(taken())
result.append(os.waitpid(child, 0)[1])
second.close()
threads[1].join()
while taken():  # until its job has ended
    time.sleep(0.01)
with open(file, "w") as stream:
    stream.write(str(result))
"""
    assert run_without_streams(program, tmp_path, mute.port) == "[3, 0]"


def test_slow_tokens_without_standard_streams(server: Server, tmp_path: Path) -> None:
    """The memory that such a token goes through is not where messages go, either."""
    program = """
import fcntl, os, socket, sys, threading, remctl

def write():
    while not done:
        for fd in range(3):
            try:
                os.write(fd, b"a message of a C library")
            except OSError:
                pass

done = False
host, port, file = sys.argv[1:]
for name in range(3):
    try:
        os.close(name)
    except OSError:
        pass
with socket.socket() as low:
    sock = socket.socket(fileno=fcntl.fcntl(low, fcntl.F_DUPFD, 3))
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
sock.connect((host, int(port)))
with remctl.Remctl() as client:
    client.open(host, sock=sock)
    writer = threading.Thread(target=write)
    writer.start()
    lengths = [len(client.run(["test", "bytes", 300_000]).stdout) for _ in range(8)]
    done = True
    writer.join()  # the file may be in one of those places
with open(file, "w") as stream:
    print(set(lengths), file=stream)
os._exit(0)  # with nothing to say
"""
    text = run_without_streams(program, tmp_path, server.host, server.port)
    assert text == "{300000}\n"


# The interpreter's end

ENDINGS = {
    "open": "client.run(['test', 'hello'])",
    "reply unread": "client.command(['test', 'bytes', 1_000_000]); client.output()",
    "command running": "client.command(['test', 'wait-for', file])",
    "closed": "client.close()",
    "object in a cycle": "cycle = [client]; cycle.append(cycle); del client, cycle",
    "object in a module": "remctl.client = sys.client = client",
    "thread in output()": "client.command(['test', 'wait-for', file]);"
    "background(list, client)",
    "thread in a large write": "background(mute.command, ['test', b'x' * 16_000_000])",
    "thread in noop()": "background(mute.noop)",
    "thread in open()": f"background(client.open, '127.0.0.1', silent, {PRINCIPAL!r})",
    "command at exit": "atexit.register(client.run, ['test', 'append', log, name])",
    "one-shot at exit": "atexit.register("
    "remctl.remctl, host, port, None, ['test', 'append', log, name])",
    "close at exit": "atexit.register(client.close)",
    "open at exit": "atexit.register(client.open, host, port)",
    "own finalizer": "own = Own(); own.client = client; own.own = own; del own, client",
    "exception": "raise SystemExit(0)",
}


@pytest.mark.parametrize("options", [(), ("-X", "dev"), ("-W", "error")], ids=" ".join)
def test_interpreter_exit_is_silent(
    options: tuple[str, ...], server: Server, scripted: Start, tmp_path: Path
) -> None:
    """S45: status 0 and nothing on stderr, whatever is open and whoever is blocked."""
    mute_server = scripted(["handshake", "stop_reading"])
    file, log = tmp_path / "file", tmp_path / "log"
    program = f"""
{FORK}

mute_port, silent, log = sys.argv[4:]

class Own:
    def __del__(self):
        self.client.close()

for name, ending in {ENDINGS!r}.items():
    reader, writer = os.pipe()
    if fork() == 0:
        # Like a program of its own, but for the time that starting it takes.
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(reader)
        os.close(writer)
        client = remctl.Remctl(host, port)
        mute = remctl.Remctl("127.0.0.1", mute_port, {PRINCIPAL!r})
        exec(ending)
        sys.exit()
    os.close(writer)
    with open(reader) as output:
        text = output.read()
    status = os.wait()[1]
    if text or status:
        print(name, status, text, flush=True)
"""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = (mute_server.port, silent.getsockname()[1])
        arguments = (server.host, server.port, file, *ports, log)
        check(program, *arguments, options=(*options, *QUIET))
    assert log.read_text().splitlines() == ["command at exit", "one-shot at exit"]
    file.touch()


def test_exit_while_threads_are_busy(server: Server, tmp_path: Path) -> None:
    """S45: daemon threads that never stop calling do not disturb the exit."""
    check(
        f"""
{FORK}
import random

def work():
    while True:
        remctl.Remctl(host, port).run(["test", "digest", bytes(5_000_000)])

# CPython's own: a thread that starts in the moment of the exit runs on memory that is
# freed (_PyThreadState_Init), once in more than a thousand of these exits.
own = 0
for turn in range(40):
    if fork() == 0:
        for _ in range(2):
            threading.Thread(target=work, daemon=True).start()
        time.sleep(random.random() / 20)
        sys.exit()
    status = os.wait()[1]
    crashed = status == signal.SIGSEGV and sys.implementation.name == "cpython"
    assert crashed or status == 0, status
    own += crashed
assert own < 2, own
""",
        server.host,
        server.port,
        tmp_path,
    )


def test_exit_of_a_program_that_never_forked(server: Server) -> None:
    """S45: an open connection and an unread reply, under all of Python's checks."""
    check(
        """
        import sys
        import remctl
        idle = remctl.Remctl(sys.argv[1], sys.argv[2])
        assert idle.run(["test", "hello"]).status == 0
        busy = remctl.Remctl(sys.argv[1], sys.argv[2])
        busy.command(["test", "bytes", 1_000_000])
        """,
        server.host,
        server.port,
        options=("-X", "dev", "-W", "error"),
    )
