# SPDX-License-Identifier: MIT
"""``python -m remctl`` as a process, with real and scripted servers."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import pytest
from kerberos import HEIMDAL
from stages import PRINCIPAL
from support import HANG, run_python, wait_until

import remctl
from remctl._explain import UNSPECIFIED
from remctl.cli._options import parse, parser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remctl.testing import Realm, Server

    Start = Callable[..., Any]
    Finished = subprocess.CompletedProcess[bytes]
    Run = Callable[..., Finished]

OURS = [sys.executable, "-m", "remctl"]
INTERRUPTED, PIPE_CLOSED = 130, 141

# Two names of the address that the servers listen on, and one that nobody listens on.
TWO = "localhost,127.0.0.1"
NOBODY = "127.0.0.2"


def run(
    *arguments: str | bytes,
    client: tuple[str, ...] = tuple(OURS),
    env: dict[str, str] | None = None,
    **options: Any,
) -> Finished:
    """Run a client to its end."""
    options = {"stdin": subprocess.DEVNULL, **options}
    if "input" in options:
        del options["stdin"]
    for stream in ("stdout", "stderr"):
        options.setdefault(stream, subprocess.PIPE)
    return subprocess.run(
        [*client, *arguments],
        env={**os.environ, **(env or {})},
        timeout=HANG,
        check=False,
        **options,
    )


@contextmanager
def started(
    *arguments: str | bytes, client: tuple[str, ...] = tuple(OURS), **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a client, and kill it at the end."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([*client, *arguments], **{**pipes, **options}) as process:
        try:
            yield process
        finally:
            process.kill()


def outcome(finished: Finished) -> tuple[int, bytes, bytes]:
    return finished.returncode, finished.stdout, finished.stderr


@pytest.fixture
def ask(server: Server) -> Run:
    """Run the client on the real server; the options come first."""
    return partial(run, f"-p{server.port}", f"-s{server.principal}")


# Side by side with Debian's client


def on(*command: str | bytes) -> list[str | bytes]:
    return ["localhost", "test", *command]


# Where exit status, standard output and standard error are the same, to the byte.
SAME: dict[str, tuple[int, list[str | bytes]]] = {
    "output": (0, on("hello")),
    "no subcommand": (0, on()),
    "both streams": (0, on("streams")),
    "standard error": (0, on("streams", "", "x")),
    "no output": (0, on("silent")),
    "large output": (0, on("bytes", "3000000")),
    "large standard error": (0, on("bytes", "3000000", "2")),
    "status 1": (1, on("status", "1")),
    "status 127": (127, on("status", "127")),
    "status 200": (200, on("status", "200")),
    "status 255": (255, on("status", "255")),
    "output and status": (1, on("env", "REMOTE_USER", "NO_SUCH_VARIABLE")),
    "killed command": (255, on("signal", "KILL")),
    "no such program": (255, on("missing")),
    "options of the command": (0, on("args", "-x", "-h", "--", "-p", "--progress")),
    "what argparse would read": (0, on("args", "--help", "-p=1", "--progress=1", "-t")),
    "-- before the host": (0, ["--", *on("args", "--", "-v")]),
    "-- after options": (0, ["-t", "30", "--", *on("args", "-v", "--")]),
    "-- twice": (255, ["--", "localhost", "--", "test", "hello"]),
    "-- after the host": (255, ["localhost", "--", "test", "hello"]),
    "empty arguments": (0, on("args", "", "a", "")),
    "bytes": (0, on("args", b"\xff\xfe", b"\xc3", "\xfc".encode(), b"\n\t\x01")),
    "large argument": (0, on("digest", b"x" * 100_000)),
    "empty command": (255, ["localhost", ""]),
    "unknown command": (255, ["localhost", "nothing"]),
    "unknown subcommand": (255, on("nothing")),
    "denied": (255, on("denied")),
    "options after the host": (255, ["localhost", "-t", "30", "test", "hello"]),
    "options in one word": (0, ["-t30", "-b127.0.0.1", *on("hello")]),
    "last option counts": (0, ["-p", "1", "-p", "PORT", *on("hello")]),
    "nobody listens": (1, ["-p", "1", *on("hello")]),
    "not our address": (1, ["-b", "192.0.2.1", *on("hello")]),
    "unknown host": (1, ["-s", PRINCIPAL, "a..b", "test"]),
    "port 0": (1, ["-p", "0", *on("hello")]),
    "port 65536": (1, ["-p", "65536", *on("hello")]),
    "negative time-out": (1, ["-t", "-1", *on("hello")]),
}

# Where standard error differs: exit status, arguments, Debian's text and ours.
USAGE = rb"Usage: remctl <options>[^\0]*"
RECORD = rb"remctl: "
DEBUGGING = (
    # Where localhost has an IPv6 address, too, that is refused first.
    rb"(" + RECORD + rb"(trying )?\S+ port \d+(: .*)?\n)+"
    + RECORD + rb"connected to 127\.0\.0\.1 port \d+\n"
    + RECORD + rb"handshake done, protocol 2 or later, \d+\.\d milliseconds\n"
    + RECORD + rb"sent 2 arguments, 9 octets\n"
    + rb"remctl: received 12 bytes for stream 1\n"
    + RECORD + rb"received status 0\n"
    + RECORD + rb"closed: by close\(\)\n"
)  # fmt: skip
MISSING = rb"remctl: a host and a command are needed; .*\n"
DIFFERENT: dict[str, tuple[int, list[str | bytes], bytes, bytes]] = {
    # Ours is one line instead of the whole usage, and shows what was given instead
    # of the number that strtol() returned for it.
    "no arguments": (1, [], USAGE, MISSING),
    "no command": (1, ["localhost"], USAGE, MISSING),
    "unknown option": (
        1,
        ["-x", *on()],
        rb"remctl: invalid option -- 'x'\n" + USAGE,
        rb"remctl: unrecognized arguments: -x; .*\n",
    ),
    "abbreviation": (
        1,
        ["--prog", *on()],
        rb"remctl: invalid option -- '-'\n" + USAGE,
        rb"remctl: unrecognized arguments: --prog; .*\n",
    ),
    "no value": (
        1,
        ["-t"],
        rb"remctl: option requires an argument -- 't'\n" + USAGE,
        rb"remctl: argument -t: expected one argument; .*\n",
    ),
    "port": (
        1,
        ["-p", "abc", *on()],
        rb"remctl: invalid port number 0\n",
        rb"remctl: invalid port number abc\n",
    ),
    "timeout": (
        1,
        ["-t", "abc", *on()],
        rb"remctl: invalid timeout value 0\n",
        rb"remctl: invalid timeout value abc\n",
    ),
    # Ours is noticed before connecting.
    "source": (
        1,
        ["-b", "abc", *on()],
        rb"remctl: cannot connect to localhost \(port \d+\): Invalid argument\n",
        rb"remctl: invalid source address abc\n",
    ),
    "source family": (
        1,
        ["-b", "::1", "127.0.0.1", "test"],
        rb"remctl: cannot connect to .*: Invalid argument\n",
        rb"remctl: cannot connect to .*: Address family not supported by protocol\n",
    ),
    "empty host": (
        1,
        ["", "test"],
        rb"remctl: cannot resolve host : .*\n",
        rb"remctl: host must not be empty\n",
    ),
    # Ours goes on, with the server and more.
    "time-out": (
        1,
        ["-t", "2", *on("sleep", "60")],
        rb"remctl: error reading from server: error receiving token: timed out\n",
        rb"remctl: error reading from server: error receiving token: timed out \(.*\n",
    ),
    "principal unknown": (
        1,
        ["-s", "nobody", *on("hello")],
        rb"remctl: GSS-API error .*, Server nobody@KRBTEST.COM not found in \w+ \w+\n",
        rb"remctl: GSS-API error [^,]*: Server nobody@KRBTEST.COM not found in .*\n",
    ),
    "value with spaces": (
        1,
        ["-s", "no body", *on("hello")],
        rb"remctl: GSS-API error .*, Server no body@KRBTEST.COM not found in \w+ \w+\n",
        rb"remctl: GSS-API error [^,]*: Server no body@KRBTEST.COM not found in .*\n",
    ),
    # Without -s, Debian's looks the name up once more, before connecting.
    "unknown host": (
        1,
        ["a..b", "test"],
        rb"remctl: cannot resolve host (a\.\.b: .*)\n",
        rb"remctl: unknown host (a\.\.b: .*)\n",
    ),
    # Debian's client is built without these messages.
    "-d": (
        0,
        ["-d", *on("hello")],
        b"",
        DEBUGGING,
    ),
    "-d and others in one word": (0, ["-dt30", *on("hello")], b"", DEBUGGING),
}


def side_by_side(port: int, arguments: list[str | bytes], **options: Any) -> Any:
    """Run Debian's client and ours; return both outcomes."""
    port_option = ["-p", str(port)]
    words = [str(port) if word == "PORT" else word for word in arguments]
    both = [
        run(*port_option, *words, client=client, **options)
        for client in (("remctl",), tuple(OURS))
    ]
    if HEIMDAL:  # Debian's has MIT's library, which says the same in other words
        debians, ours = both
        said = re.compile(
            rb"(?m)(?<=GSS-API error initializing context: ).*?(?= \(localhost:|$)"
        )
        for text in said.findall(debians.stderr):
            shown = text.replace(UNSPECIFIED.encode(), b"").replace(b"\\", b"\\\\")
            ours.stderr = said.sub(shown, ours.stderr)
    return both


@pytest.mark.parametrize("name", SAME)
def test_same_as_debians(name: str, server: Server) -> None:
    """Exit status, standard output and standard error are Debian's, to the byte."""
    status, arguments = SAME[name]
    debians, ours = side_by_side(server.port, arguments)
    assert outcome(ours) == outcome(debians)
    assert ours.returncode == status


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_from_debians(name: str, server: Server) -> None:
    """Only the text on standard error is not Debian's."""
    status, arguments, *texts = DIFFERENT[name]
    both = side_by_side(server.port, arguments)
    for finished, text in zip(both, texts):
        assert finished.returncode == status
        assert re.fullmatch(text, finished.stderr)
    assert both[0].stdout == both[1].stdout


def test_without_tickets_as_debians(server: Server, tmp_path: Path) -> None:
    """The message of Kerberos is the same, and goes on."""
    env = {"KRB5CCNAME": str(tmp_path / "none")}
    debians, ours = side_by_side(server.port, on("hello"), env=env)
    assert ours.stderr.startswith(debians.stderr.rstrip(b"\n") + b" (localhost:")
    assert f"credential cache {tmp_path}/none)" in ours.stderr.decode()
    assert (ours.returncode, ours.stdout) == (debians.returncode, debians.stdout)
    assert ours.stderr.startswith(b"remctl: GSS-API error initializing context: ")


REPLY1 = [["handshake", {"protocol": 1}], "read", "mic"]
# For scripted servers: the exit status, and what the server does.
REPLIES: dict[str, tuple[int, list[Any]]] = {
    "closed": (1, ["handshake", "read", "close"]),
    "cut": (1, ["handshake", "read", ["output", {"text": "x", "cut": 9}], "close"]),
    "output, then closed": (1, ["handshake", "read", ["output", {"text": "x"}]]),
    "two lines": (255, ["handshake", "read", ["error", {"code": 99, "text": "a\nb"}]]),
    "any bytes": (255, ["handshake", "read", ["error", {"code": 1, "hex": "ff00"}]]),
    "protocol 1": (3, [*REPLY1, ["result1", {"status": 3, "text": "x"}]]),
    "protocol 1, -1": (255, [*REPLY1, ["result1", {"status": -1, "text": "x"}]]),
    "protocol 1, 300": (44, [*REPLY1, ["result1", {"status": 300, "text": "x"}]]),
}


@pytest.mark.parametrize("name", REPLIES)
def test_same_as_debians_on_scripted_servers(name: str, scripted: Start) -> None:
    """The same for replies that a current remctld does not send."""
    status, steps = REPLIES[name]
    port = scripted(steps).port
    debians, ours = side_by_side(port, on("x"))
    # What ours goes on with.
    hung_up = f"localhost:{port} closed the connection; the command may have run"
    stderr = ours.stderr.replace(f" ({hung_up})".encode(), b"")
    assert (ours.returncode, ours.stdout, stderr) == outcome(debians)
    assert ours.returncode == status


def test_empty_output_is_no_failure(scripted: Start) -> None:
    """Debian's client takes an empty text for an error in writing."""
    server = scripted(["handshake", "read", ["error", {"code": 1}]])
    debians, ours = side_by_side(server.port, on("x"))
    text = b"remctl: local write of command output failed"
    status, output, error = outcome(debians)
    assert (status, output) == (255, b"")
    assert error.startswith(text)  # newer ones go on with what errno says
    assert outcome(ours) == (255, b"", b"\n")


def test_no_failure_becomes_a_success(scripted: Start) -> None:
    """exit(256) exits with 0, and Debian's client calls it."""
    server = scripted([*REPLY1, ["result1", {"status": 256}]])
    debians, ours = side_by_side(server.port, on("x"))
    assert (debians.returncode, ours.returncode) == (0, 1)


@pytest.mark.parametrize("option", ["-h", "-v"])
def test_help_and_version(option: str) -> None:
    """Without a host, on standard output, with status 0, as Debian's."""
    debians, ours = run(option, client=("remctl",)), run(option)
    assert (ours.returncode, ours.stderr) == (debians.returncode, debians.stderr)
    assert (ours.returncode, ours.stderr) == (0, b"")
    if option == "-h":
        assert ours.stdout.startswith(b"usage: python -m remctl [OPTION ...] ")
        options = re.findall(rb"^ +(-\w)", debians.stdout, re.MULTILINE)
        assert len(options) == 7
        for option_of_debians in options:
            assert b"\n  %s " % option_of_debians in ours.stdout
        assert max(map(len, ours.stdout.splitlines())) < 80
        script = run(
            option, client=(str(Path(sys.executable).with_name("remctl-cffi")),)
        )
        assert script.stdout.replace(b"remctl-cffi", b"python -m remctl") == ours.stdout
    else:
        assert ours.stdout == f"remctl-cffi {remctl.__version__}\n".encode()


# Options


def test_ccache(ask: Run, realm: Realm, tmp_path: Path) -> None:
    """-c: another user's tickets, or none."""
    ccache = realm.kinit("bob", tmp_path / "bob")
    finished = ask("-c", ccache, *on("user"))
    assert outcome(finished) == (0, f"bob@{realm.name}\n".encode(), b"")
    finished = ask("-c", str(tmp_path / "none"), *on("user"))
    assert finished.returncode == 1
    assert finished.stderr.startswith(b"remctl: GSS-API error importing ticket cache")


def test_source_address(scripted: Start) -> None:
    """-b: the server sees the connection come from there."""
    server = scripted(["handshake", "serve"])
    port = f"-p{server.port}"
    assert run(port, "-b", "127.0.0.3", *on("x")).returncode == 0
    assert server.wait_for("accepted")["peer"] == "127.0.0.3"


def test_fraction_of_a_second(ask: Run) -> None:
    """-t: fractions, which Debian's client does not take."""
    finished = ask("-t", "1.5", *on("sleep", "3600"))
    assert (finished.returncode, finished.stdout) == (1, b"")
    text = (
        rb"remctl: error reading from server: error receiving token: timed out \(.*\n"
    )
    assert re.fullmatch(text, finished.stderr)


@pytest.mark.parametrize("value", ["nan", "inf", "-0.1", "", "1s"])
def test_wrong_timeout(value: str) -> None:
    """-t: wrong values are noticed before the host is looked up."""
    finished = run("-t", value, "a..b", "test")
    text = f"remctl: invalid timeout value {value}\n".encode()
    assert outcome(finished) == (1, b"", text)


EVERY_BYTE = bytes(range(256)) * 300


@pytest.mark.parametrize("data", [EVERY_BYTE, b""], ids=["every byte", "empty"])
def test_file(ask: Run, tmp_path: Path, data: bytes) -> None:
    """-f: the bytes of a file or of standard input are the last argument, unchanged."""
    path = tmp_path / os.fsdecode(b"\xff")
    path.write_bytes(data)
    assert outcome(ask("-f", bytes(path), *on("stdin"))) == (0, data, b"")
    assert outcome(ask("-f", "-", *on("stdin"), input=data)) == (0, data, b"")


def test_standard_input_is_not_read(ask: Run) -> None:
    """Without -f -: a shell's loop over its standard input keeps it."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as kept:
        os.write(writing, b"kept")
        os.close(writing)
        assert ask(*on("hello"), stdin=kept).stdout == b"hello world\n"
        assert kept.read() == b"kept"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/no/such/file", "cannot read /no/such/file: No such file or directory"),
        ("/", "cannot read /: Is a directory"),
        ("/dev/zero", "command too large: 104857616 octets, at most 104857599"),
    ],
)
def test_wrong_file(path: str, text: str) -> None:
    """-f: an unusable or endless file is noticed before the host is looked up."""
    finished = run("-f", path, "a..b", "test")
    assert outcome(finished) == (1, b"", f"remctl: {text}\n".encode())


def test_closed_standard_input() -> None:
    """-f -: a closed standard input is not taken for an empty file."""
    words = "-f", "-", "a..b", "test"
    finished = run(*words, client=("sh", "-c", '"$@" <&-', "-", *OURS))
    text = b"remctl: cannot read -: Bad file descriptor\n"
    assert outcome(finished) == (1, b"", text)


@pytest.mark.parametrize("host", ["a\nb..c", "a\nb..c,a\nb..c"])
def test_errors_are_one_line(host: str) -> None:
    """Even if the host's name has a newline."""
    finished = run(host, "test")
    assert finished.returncode == (255 if "," in host else 1)
    for line in finished.stderr.splitlines():
        assert re.match(rb"remctl: |a b\.\.c: ", line)
    assert rb"unknown host a\nb..c: " in finished.stderr


def test_arguments_in_any_locale(ask: Run) -> None:
    """Arguments that are not ASCII arrive unchanged in an ASCII locale."""
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    raw = [b"\xff\xc3", "\xfc".encode(), "\xfc".encode("latin-1")]
    finished = ask(*on("args", *raw), env=env)
    assert outcome(finished) == (0, b"".join(word + b"\0" for word in raw), b"")
    finished = run("\xfc..b", "test", env=env)
    assert finished.returncode == 1
    assert finished.stderr.startswith(b"remctl: ")


def test_debugging_tells_no_arguments(ask: Run) -> None:
    """S71: neither arguments, such as a password, nor the output are shown."""
    finished = ask("-d", *on("args", "secret"))
    assert b"sent 3 arguments" in finished.stderr
    assert b"received 7 bytes" in finished.stderr
    assert b"secret" not in finished.stderr


def test_one_host_imports_no_asyncio(server: Server) -> None:
    """Importing it would take longer than everything else."""
    program = """
        import runpy, sys
        sys.argv[1:] = ["-p", sys.argv[1], "localhost", "test", "hello"]
        try:
            runpy.run_module("remctl", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            assert end.code == 0
        assert "remctl.cli._main" in sys.modules and "asyncio" not in sys.modules
    """
    finished = run_python(program, server.port)
    assert (finished.stdout, finished.stderr) == ("hello world\n", "")


# Output


F_SETPIPE_SZ = 1031  # of Linux; Python 3.9 has no name for it
PAGE = 4096


def in_pipe(pipe: int) -> int:
    """Return how many bytes are in ``pipe``."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(count)


def read_until(text: bytes, stream: Any) -> bytes:
    """Read until ``text`` has come; the test's time-out ends it if it does not."""
    seen = b""
    while text not in seen:
        piece = os.read(stream.fileno(), 65536)
        assert piece, f"the end, after {seen!r}"
        seen += piece
    return seen


@pytest.mark.parametrize("host", ["localhost", TWO])
def test_output_comes_at_once(host: str, server: Server, tmp_path: Path) -> None:
    """The first line is printed while the command still runs, on each host."""
    go = tmp_path / "go"
    options = f"-p{server.port}", f"-s{PRINCIPAL}"
    with started(*options, host, "test", "wait-for", str(go)) as process:
        hosts = host.split(",")
        seen = b""
        while seen.count(b"waiting\n") < len(hosts):
            seen += read_until(b"\n", process.stdout)
        assert process.poll() is None
        go.touch()
        rest, errors = process.communicate(timeout=HANG)
    assert b"done" not in seen
    assert rest.count(b"done\n") == len(hosts)
    assert process.returncode == 0
    assert errors in (b"", b"remctl: 2 of 2 hosts ok\n")


def test_parts_of_lines_come_at_once(scripted: Start) -> None:
    """On both streams a prompt, say, is printed before there is a newline."""
    parts = [["output", {"text": f"part {n}", "stream": n}] for n in (1, 2)]
    server = scripted(["handshake", "read", *parts, "barrier", ["status", {}]])
    with started(f"-p{server.port}", *on("x")) as process:
        assert read_until(b"part 1", process.stdout) == b"part 1"
        assert read_until(b"part 2", process.stderr) == b"part 2"
        server.proceed()
        assert process.wait(HANG) == 0


def test_slow_reader_of_a_nonblocking_pipe(scripted: Start) -> None:
    """Nothing is lost if a process that shares our output has set O_NONBLOCK."""
    text = "0123456789abcde\n" * 4000
    large = ["output", {"text": text, "repeat": 10}]
    server = scripted(["handshake", "read", large, ["status", {}]])
    reading, writing = os.pipe()
    fcntl.fcntl(writing, F_SETPIPE_SZ, PAGE)
    os.set_blocking(writing, False)
    words = f"-p{server.port}", *on("x")
    with os.fdopen(reading, "rb") as output, started(*words, stdout=writing) as process:
        os.close(writing)
        wait_until(lambda: in_pipe(reading) == PAGE)
        assert output.read() == text.encode() * 10
        assert process.communicate(timeout=HANG)[1] == b""
    assert process.returncode == 0


@pytest.mark.parametrize("host", ["localhost", TWO])
def test_closed_pipe(host: str, server: Server) -> None:
    """If nobody reads any more: no message, and the status that a shell shows."""
    script = '"$@" | head -c 5 >/dev/null; echo "${PIPESTATUS[0]}"'
    shell = ("bash", "-c", script, "-")
    words = [f"-p{server.port}", f"-s{PRINCIPAL}", host, "test", "bytes", "3000000"]
    ours = run(*words, client=(*shell, *OURS))
    assert outcome(ours) == (0, b"%d\n" % PIPE_CLOSED, b"")
    if host == "localhost":
        debians = run(*words, client=(*shell, "remctl"))
        assert outcome(ours) == outcome(debians)


def test_closed_pipe_of_standard_error(server: Server) -> None:
    """The same if only standard output is read."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        words = f"-p{server.port}", *on("bytes", "3000000", "2")
        assert run(*words, stderr=closed).returncode == PIPE_CLOSED


@pytest.mark.parametrize("host", ["localhost", TWO])
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_no_streams(closed: str, host: str, server: Server) -> None:
    """Closed streams are like /dev/null; no connection gets their descriptors."""
    script = f'"$@" {closed}'
    words = [f"-p{server.port}", f"-s{PRINCIPAL}", host, "test", "streams", "out"]
    finished = run(*words, client=("sh", "-c", script, "-", *OURS))
    assert finished.returncode == 0
    assert (b"out" in finished.stdout) == (">&-" not in closed.replace("2>&-", ""))
    assert (b"standard error" in finished.stderr) == ("2>&-" not in closed)


@pytest.mark.parametrize("host", ["localhost", TWO])
def test_full_disk(host: str, ask: Run) -> None:
    """Failed writing is an error of one line; Debian's client exits with 0."""
    with Path("/dev/full").open("wb") as full:
        finished = ask(host, "test", "hello", stdout=full)
    text = b"remctl: local write of command output failed: No space left on device\n"
    assert (finished.returncode, finished.stderr) == (1, text)


def test_full_disk_for_both_hosts_at_once(scripted: Start) -> None:
    """One error is reported, the other dropped."""
    line = ["output", {"text": "line\n"}]
    server = scripted(["handshake", "read", "barrier", line, "hang"])
    words = f"-p{server.port}", f"-s{PRINCIPAL}", TWO, "test", "x"
    with Path("/dev/full").open("wb") as full, started(*words, stdout=full) as process:
        server.wait_for("barrier", nth=2)
        process.send_signal(signal.SIGSTOP)
        server.proceed()
        server.proceed()
        server.wait_for("sent", step="output", nth=2)
        process.send_signal(signal.SIGCONT)
        errors = process.communicate(timeout=HANG)[1]
    text = b"remctl: local write of command output failed: No space left on device\n"
    assert (process.returncode, errors) == (1, text)


def test_closed_pipe_ends_all_hosts(scripted: Start) -> None:
    """Hosts without output are ended, too."""
    line = ["output", {"text": "line\n"}]
    server = scripted(
        ["handshake", "read", "barrier", line, "hang"], ["handshake", "read", "hang"]
    )
    words = f"-p{server.port}", f"-s{PRINCIPAL}", TWO, "test", "x"
    with started(*words) as process:
        assert process.stdout
        process.stdout.close()
        server.wait_for("command", nth=2)
        server.proceed()
        assert process.wait(HANG) == PIPE_CLOSED
        assert process.stderr
        assert process.stderr.read() == b""


# Ctrl-C

SOURCE, SOURCE_HEX = "127.0.0.3", "0300007F"  # and as in /proc/net/tcp


def script(event: dict[str, Any], *steps: Any) -> Callable[..., Any]:
    """A scripted server that falls silent after ``event`` on each connection."""

    @contextmanager
    def place(scripted: Start, many: int) -> Iterator[Any]:
        server = scripted([*steps, "hang"])

        def closed() -> bool:
            ends = [e for e in server.events if e["event"] in ("eof", "reset")]
            return len(ends) >= many

        yield server.port, lambda _: server.wait_for(**event, nth=many)
        wait_until(closed)

    return place


@contextmanager
def connecting(_: Start, many: int) -> Iterator[Any]:
    """A server whose backlog is full: the kernel ignores further connections."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _turn in range(3):  # PyPy's shortest backlog is longer
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(("127.0.0.1", port))
        syn_sent = f" {SOURCE_HEX}:[0-9A-F]+ 0100007F:{port:04X} 02 "

        def arrived() -> bool:
            return len(re.findall(syn_sent, Path("/proc/net/tcp").read_text())) == many

        yield port, lambda _: wait_until(arrived)


@contextmanager
def writing(scripted: Start, many: int) -> Iterator[Any]:
    """A process that does not read our output from its pipe."""
    lines = ["output", {"text": "line\n", "size": 5000, "repeat": 100}]
    server = scripted(["handshake", "read", lines, "hang"])

    def arrived(process: Any) -> None:
        wait_until(lambda: in_pipe(process.stdout.fileno()) == PAGE)

    yield server.port, arrived


OPEN1 = ["handshake", {"protocol": 1}]
PLACES: dict[str, Any] = {
    "connecting": connecting,
    "handshake": script({"event": "stopped"}, ["handshake", {"stop": ["hang", 2]}]),
    "waiting": script({"event": "command"}, "handshake", "read"),
    "half a token": script(
        {"event": "sent", "step": "output"},
        "handshake",
        "read",
        ["output", {"size": 1000, "cut": 500}],
    ),
    "protocol 1": script({"event": "command"}, OPEN1, "read"),
    "writing": writing,
}


@pytest.mark.parametrize("host", ["localhost", TWO])
@pytest.mark.parametrize("name", PLACES)
def test_ctrl_c(name: str, host: str, scripted: Start) -> None:
    """Status 130, no message, and the connections are closed."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, F_SETPIPE_SZ, PAGE)
    with PLACES[name](scripted, len(host.split(","))) as (port, arrived):
        options = f"-p{port}", f"-s{PRINCIPAL}", f"-b{SOURCE}"
        with started(*options, host, "test", "x", stdout=writing) as process:
            os.close(writing)
            process.stdout = os.fdopen(reading, "rb")
            arrived(process)
            process.send_signal(signal.SIGINT)
            errors = process.communicate(timeout=HANG)[1]
            assert (process.returncode, errors) == (INTERRUPTED, b"")


def test_ctrl_c_while_reading_standard_input() -> None:
    """-f -: before connecting."""
    with started("-f", "-", *on("x")) as process:
        assert process.stdin
        process.stdin.write(b"x")
        process.stdin.flush()
        pipe = process.stdin.fileno()
        wait_until(lambda: in_pipe(pipe) == 0)
        process.send_signal(signal.SIGINT)
        assert process.wait(HANG) == INTERRUPTED
        assert process.communicate() == (b"", b"")


def test_ctrl_c_while_starting(tmp_path: Path) -> None:
    """In one of our first imports, which waits for ever."""
    interrupted = (
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nwhile 1: pass\n"
    )
    (tmp_path / "argparse.py").write_text(interrupted)
    finished = run("localhost", "test", env={"PYTHONPATH": str(tmp_path)})
    assert outcome(finished) == (INTERRUPTED, b"", b"")


def test_ignored_ctrl_c(scripted: Start) -> None:
    """Under nohup and in the background of a shell, Ctrl-C stays ignored."""
    server = scripted(["handshake", "read", "barrier", ["status", {}]])
    sh = ("sh", "-c", 'trap "" INT; exec "$@"', "-")
    with started(f"-p{server.port}", *on("x"), client=(*sh, *OURS)) as process:
        server.wait_for("barrier")
        process.send_signal(signal.SIGINT)
        server.proceed()
        # PyPy installs its own handler before we could see that it was ignored.
        pypy = sys.implementation.name == "pypy"
        assert process.wait(HANG) == (INTERRUPTED if pypy else 0)


# Several hosts


@pytest.fixture
def fleet(scripted: Start) -> Callable[..., tuple[Finished, Any]]:
    """Run the client on both hosts; the server serves them in any order."""

    def run_on_both(*connections: list[Any], hosts: str = TWO) -> tuple[Finished, Any]:
        server = scripted(*(["handshake", "read", *steps] for steps in connections))
        command = f"-p{server.port}", f"-s{PRINCIPAL}", hosts, "test", "x"
        return run(*command), server

    return run_on_both


def test_lines_have_their_host_before_them(ask: Run) -> None:
    """Lines keep their stream, and the last one gets a newline."""
    finished = ask(TWO, "test", "streams", "one\n\ntwo", "three\n")
    assert finished.returncode == 0
    assert sorted(finished.stdout.splitlines(keepends=True)) == sorted(
        b"%s: %s\n" % (host.encode(), line)
        for host in TWO.split(",")
        for line in (b"one", b"", b"two")
    )
    *errors, last = finished.stderr.splitlines()
    assert sorted(errors) == [b"127.0.0.1: three", b"localhost: three"]
    assert last == b"remctl: 2 of 2 hosts ok"


def test_lines_are_never_mixed(scripted: Start) -> None:
    """Both hosts have begun a line before either ends one."""
    half = [["output", {"text": "x" * 5000, "stream": n}] for n in (1, 2)]
    rest = [["output", {"text": "y\nlast", "stream": n}] for n in (1, 2)]
    steps = ["handshake", "read", *half, "barrier", *rest, ["status", {}]]
    server = scripted(steps)
    with started(f"-p{server.port}", f"-s{PRINCIPAL}", TWO, "test", "x") as process:
        server.wait_for("barrier", nth=2)
        server.proceed()
        server.proceed()
        output, errors = process.communicate(timeout=HANG)
    for stream in output, errors.replace(b"remctl: 2 of 2 hosts ok\n", b""):
        assert sorted(stream.splitlines(keepends=True)) == sorted(
            b"%s: %s\n" % (host.encode(), line)
            for host in TWO.split(",")
            for line in (b"x" * 5000 + b"y", b"last")
        )
    assert process.returncode == 0


def test_hosts_run_at_the_same_time(server: Server, tmp_path: Path) -> None:
    """Each host's command waits for a file, made when all commands have begun."""
    hosts = ",".join([TWO] * 5)
    go = tmp_path / "go"
    command = f"-p{server.port}", f"-s{PRINCIPAL}", hosts, "test", "wait-for", str(go)
    with started(*command) as process:
        seen = b""
        while seen.count(b"waiting\n") < 10:
            seen += read_until(b"\n", process.stdout)
        go.touch()
        assert process.communicate(timeout=HANG)[0].count(b"done\n") == 10


def test_64_hosts_at_a_time(scripted: Start) -> None:
    """Others begin as some end; a host that is listed 70 times runs 70 times."""
    outputs = [["output", {"text": f"{word}\n"}] for word in ("begin", "end")]
    server = scripted(
        ["handshake", "read", outputs[0], "barrier", outputs[1], ["status", {}]]
    )
    hosts = ",".join(["127.0.0.1"] * 70)
    with started(f"-p{server.port}", f"-s{PRINCIPAL}", hosts, "test", "x") as process:
        seen = b""
        while seen.count(b"begin") < 64:
            seen += read_until(b"\n", process.stdout)
        for _ in range(70):
            server.proceed()
        rest, errors = process.communicate(timeout=HANG)
    busy = most = 0
    for line in (seen + rest).splitlines():
        busy += 1 if line.endswith(b"begin") else -1
        most = max(most, busy)
    assert (most, busy) == (64, 0)
    assert errors == b"remctl: 70 of 70 hosts ok\n"


SUMMARIES: dict[str, tuple[list[Any], list[Any], int, str]] = {
    "status": ([["status", {}]], [["status", {"status": 7}]], 7, "status 7: HOST"),
    "two": (
        [["status", {"status": 7}]],
        [["status", {"status": 8}]],
        8,
        "status 7: HOST; status 8: HOST",
    ),
    "refused": (
        [["status", {}]],
        [["error", {"code": 6, "text": "no"}]],
        255,
        "error: HOST",
    ),
    "lost": (
        [["status", {"status": 200}]],
        ["close"],
        255,
        "status 200: HOST; error: HOST",
    ),
}


@pytest.mark.parametrize("name", SUMMARIES)
def test_summary_and_worst_status(name: str, fleet: Callable[..., Any]) -> None:
    """The highest status, or 255 after any error; the summary names the hosts."""
    one, other, status, text = SUMMARIES[name]
    finished, server = fleet(one, other)
    *errors, last = finished.stderr.decode().splitlines()
    assert finished.returncode == status
    last = re.sub("localhost|127.0.0.1", "HOST", last)
    expected = f"remctl: {2 - text.count('HOST')} of 2 hosts ok; {text}"
    assert last == expected, server.events
    reasons = {"refused": "no", "lost": "error reading from server: "}
    assert len(errors) == (name in reasons)
    for line in errors:
        assert re.match(f"(localhost|127.0.0.1): {reasons[name]}", line)


def test_hosts_in_the_summary(ask: Run) -> None:
    """In their order, with commas: a list of hosts for the next command line."""
    finished = ask(f"{NOBODY},localhost,{NOBODY},127.0.0.1", "test", "status", "3")
    *errors, last = finished.stderr.decode().splitlines()
    assert last == (
        "remctl: 0 of 4 hosts ok; status 3: localhost,127.0.0.1;"
        f" error: {NOBODY},{NOBODY}"
    )
    assert len(errors) == 2
    for line in errors:
        assert line.startswith(f"{NOBODY}: cannot connect to {NOBODY} (port ")
    assert (finished.returncode, finished.stdout) == (255, b"")


def test_what_came_before_an_error(scripted: Start) -> None:
    """An unfinished line is not lost with its connection, nor mixed with -d's."""
    parts = [["output", {"text": text, "stream": 2}] for text in ("pa", "rt")]
    server = scripted(["handshake", "read", *parts, "close"])
    hosts = f"127.0.0.1,{NOBODY}"
    finished = run("-d", f"-p{server.port}", f"-s{PRINCIPAL}", hosts, "test", "x")
    lines = finished.stderr.decode().splitlines()
    assert [
        re.sub(r"error receiving token: | \(.*| port \d+|, protocol.*", "", line)
        for line in lines
        if not line.startswith(NOBODY)
    ] == [
        "127.0.0.1: trying 127.0.0.1",
        "127.0.0.1: connected to 127.0.0.1",
        "127.0.0.1: handshake done",
        "127.0.0.1: sent 2 arguments, 5 octets",
        "127.0.0.1: received 2 bytes for stream 2",
        "127.0.0.1: received 2 bytes for stream 2",
        "127.0.0.1: closed: unexpected end of file",
        "127.0.0.1: part",
        "127.0.0.1: error reading from server: unexpected end of file",
        f"remctl: 0 of 2 hosts ok; error: {hosts}",
    ]


def test_options_hold_for_each_host(ask: Run, realm: Realm, tmp_path: Path) -> None:
    """-b, -c, -d, -f and -t, as for one host."""
    path = tmp_path / "file"
    path.write_bytes(b"from the file")
    ccache = realm.kinit("bob", tmp_path / "bob")
    finished = ask(
        "-b", "127.0.0.1", "-c", ccache, "-d", "-f", path, TWO, "test", "user"
    )
    assert sorted(finished.stdout.decode().splitlines()) == sorted(
        f"{host}: bob@{realm.name} from the file" for host in TWO.split(",")
    )
    assert finished.stderr.count(b": sent 3 arguments, ") == 2
    finished = ask("-t", "1.5", TWO, "test", "sleep", "3600")
    assert finished.stderr.count(b": error receiving token: timed out (") == 2
    assert finished.returncode == 255


@pytest.mark.parametrize("hosts", [",", "localhost,", ",localhost", "a,,b"])
def test_empty_hosts(hosts: str) -> None:
    """A list with an empty host runs nothing."""
    finished = run("-p1", hosts, "test")
    assert outcome(finished) == (1, b"", b"remctl: host must not be empty\n")


# Hosts with ports, and from a file


@pytest.mark.parametrize(
    ("word", "name", "port"),
    [
        ("web1", "web1", None),
        ("web1:4444", "web1", 4444),
        ("[::1]:4444", "::1", 4444),
        ("[::1]", "::1", None),
        ("::1", "::1", None),
        ("fe80::1%eth0", "fe80::1%eth0", None),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("127.0.0.1:65535", "127.0.0.1", 65535),
    ],
)
def test_hosts_with_ports(word: str, name: str, port: int | None) -> None:
    """HOST:PORT, and an IPv6 address with its brackets or alone."""
    options = parse(["-p7", f"{word},other", "test"])
    assert [options.server(host)["host"] for host in options.hosts] == [name, "other"]
    assert [options.server(host)["port"] for host in options.hosts] == [port or 7, 7]


@pytest.mark.parametrize("port", ["", "0", "x", "65536", "-1"])
def test_wrong_port_of_a_host(port: str) -> None:
    """Nothing runs, on no host."""
    finished = run(f"localhost,localhost:{port}", "test")
    assert outcome(finished) == (
        1,
        b"",
        f"remctl: invalid port number {port}\n".encode(),
    )


def test_port_of_one_host(server: Server) -> None:
    """It is not -p's, and the principal is the host's."""
    finished = run("-p1", f"localhost:{server.port}", "test", "hello")
    assert outcome(finished) == (0, b"hello world\n", b"")
    finished = run("[::1]:1", "test")
    assert (finished.returncode, finished.stdout) == (1, b"")
    assert finished.stderr.startswith(b"remctl: cannot connect to ::1 (port 1): ")


def test_hosts_of_a_file(server: Server, tmp_path: Path) -> None:
    """One a line, with comments; their words name them, also if there is only one."""
    file = tmp_path / "hosts"
    here = f"localhost:{server.port}"
    file.write_text(f"# all\n\n  {here} # the first\r\n{NOBODY}:1\n#{NOBODY}\n{here}")
    finished = run("--hosts", str(file), "test", "hello")
    assert finished.stdout.decode() == f"{here}: hello world\n" * 2
    *errors, last = finished.stderr.decode().splitlines()
    assert [line.partition(" (")[0] for line in errors] == [
        f"{NOBODY}:1: cannot connect to {NOBODY}"
    ]
    assert last == f"remctl: 2 of 3 hosts ok; error: {NOBODY}:1"
    assert finished.returncode == 255
    finished = run("--hosts", "-", "test", "hello", input=here.encode())
    text = f"{here}: hello world\n".encode()
    assert outcome(finished) == (0, text, b"remctl: 1 of 1 hosts ok\n")


@pytest.mark.parametrize(
    ("words", "given", "text"),
    [
        (["--hosts", "-", "test"], b"", "there are no hosts in -"),
        (["--hosts", "-", "test"], b" # web1\n\n", "there are no hosts in -"),
        (["--hosts", "-", "test"], b"web1\nweb2:x", "invalid port number x"),
        (["--hosts", "-", "test"], b"a\0b", "host must not contain NUL"),
        (["--hosts", "-"], b"web1", "a command is needed; "),
        (["--hosts", "-", "-f-", "a"], b"b", "standard input cannot be both"),
        (["--hosts", "/no/such", "a"], b"", "cannot read /no/such: No such file"),
        (["--at-once", "-3", "a", "b"], b"", "invalid number of hosts -3"),
        (["--at-once", "x", "a", "b"], b"", "invalid number of hosts x"),
    ],
)
def test_wrong_hosts(words: list[str], given: bytes, text: str) -> None:
    """Nothing runs."""
    finished = run(*words, input=given)
    assert (finished.returncode, finished.stdout) == (1, b"")
    assert finished.stderr.decode().startswith(f"remctl: {text}")
    assert finished.stderr.count(b"\n") == 1


def test_at_once(scripted: Start) -> None:
    """--at-once 2: a third host has to wait for one of them."""
    server = scripted(["handshake", "read", "barrier", ["status", {}]])
    options = f"-p{server.port}", f"-s{PRINCIPAL}", "--at-once", "2"
    with started(*options, ",".join(["127.0.0.1"] * 3), "test", "x") as process:
        server.wait_for("barrier", nth=2)
        assert len([e for e in server.events if e["event"] == "accepted"]) == 2
        for _ in range(3):
            server.proceed()
        assert process.communicate(timeout=HANG)[1] == b"remctl: 3 of 3 hosts ok\n"


# JSON


def test_json_of_several_hosts(server: Server) -> None:
    """A line for each host, and nothing else: no host before it, no summary."""
    here = f"localhost:{server.port}"
    finished = run("--json", f"{here},{NOBODY}:1", "test", "streams", "Zo\u00eb\n")
    assert finished.stderr == b""
    assert finished.returncode == 255
    lines = {
        value["host"]: value for value in map(json.loads, finished.stdout.splitlines())
    }
    ok, failed = lines["localhost"], lines[NOBODY]
    assert 0 <= ok.pop("seconds") < HANG
    assert 0 <= failed.pop("seconds") < HANG
    assert ok == {
        "host": "localhost",
        "port": server.port,
        "status": 0,
        "stdout": "Zo\u00eb\n",
        "stderr": "to standard error",
        "error": None,
        "stage": None,
    }
    assert list(failed) == list(ok)
    assert failed == {
        "host": NOBODY,
        "port": 1,
        "status": None,
        "stdout": "",
        "stderr": "",
        "error": f"cannot connect to {NOBODY} (port 1): Connection refused",
        "stage": "connect",
    }


@pytest.mark.parametrize(
    ("command", "expected", "status"),
    [
        (on("status", "7"), {"status": 7, "error": None, "stage": None}, 7),
        (on("nothing"), {"error": "Unknown command", "stage": "reply"}, 255),
        (on("args", b"\xff\xc3", "\u2028"), {"stdout": "\\xff\\xc3\0\u2028\0"}, 0),
        (["-t0.3", *on("sleep", "60")], {"status": None, "stage": "reply"}, 1),
        (["-p1", *on()], {"port": 1, "stage": "connect"}, 1),
    ],
    ids=["status", "refused", "bytes", "time-out", "no server"],
)
def test_json_of_one_host(
    command: list[Any], expected: dict[str, Any], status: int, ask: Run
) -> None:
    """The exit status is the one without JSON; the error has no words before it."""
    finished = ask("--json", *command)
    assert finished.stdout.count(b"\n") == 1
    value = json.loads(finished.stdout)
    assert {name: value[name] for name in expected} == expected
    assert value["host"] == "localhost"
    assert not (value["error"] or "").startswith("error reading")
    assert (finished.returncode, finished.stderr) == (status, b"")


def test_json_of_a_lost_connection(scripted: Start) -> None:
    """What had come before is there; -d still goes to standard error."""
    parts = [["output", {"text": text, "stream": 1}] for text in ("pa", "rt")]
    server = scripted(["handshake", "read", *parts, "close"])
    finished = run("-d", "--json", f"-p{server.port}", f"-s{PRINCIPAL}", *on("x"))
    value = json.loads(finished.stdout)
    assert (value["stdout"], value["status"], value["stage"]) == ("part", None, "reply")
    assert value["error"].startswith("error receiving token: unexpected end of file")
    assert finished.stderr.count(b"localhost: received 2 bytes for stream 1\n") == 2
    assert finished.returncode == 1


# On a terminal


@contextmanager
def on_terminal(
    *arguments: str, client: tuple[str, ...] = tuple(OURS)
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a client on a terminal of its own; give it and the terminal's master."""
    master, slave = pty.openpty()
    try:
        with started(
            *arguments,
            client=("setsid", "--ctty", *client),
            stdin=slave,
            stdout=slave,
            stderr=slave,
        ) as process:
            os.close(slave)
            yield process, master
    finally:
        os.close(master)


def transcript(master: int) -> bytes:
    """Return all that the programs on a terminal write, until they have exited."""
    seen = b""
    with suppress(OSError):  # EIO: no program has the terminal open any more
        while True:
            seen += os.read(master, 65536)
    return seen


def screen(text: bytes) -> list[str]:
    """Return the lines a terminal shows after ``text``, without trailing blanks."""
    lines = []
    for line in text.decode().split("\n"):
        cells: list[str] = []
        for part in line.split("\r"):
            cells[: len(part)] = part
        lines.append("".join(cells).rstrip())
    return lines


@pytest.mark.parametrize(
    "name", ["output", "large output", "status 200", "denied", "unknown command"]
)
def test_same_as_debians_on_a_terminal(name: str, server: Server) -> None:
    """The output on a terminal is Debian's, to the byte."""
    status, arguments = SAME[name]
    seen = []
    for client in ("remctl",), tuple(OURS):
        words = [f"-p{server.port}", *map(os.fsdecode, arguments)]
        with on_terminal(*words, client=client) as (process, master):
            seen.append(transcript(master))
            assert process.wait(HANG) == status
    assert seen[0] == seen[1]


def test_streams_in_order_on_a_terminal(server: Server) -> None:
    """In the server's order; Debian's client buffers standard output."""
    words = f"-p{server.port}", "localhost", "test", "streams"
    with on_terminal(*words) as (_, master):
        assert transcript(master) == b"to standard outputto standard error"


@pytest.mark.parametrize("options", [["localhost"], [TWO], ["--progress", TWO]])
def test_ctrl_c_on_a_terminal(options: list[str], scripted: Start) -> None:
    """The key itself: no traceback, nothing left of the bar."""
    server = scripted(["handshake", "read", "hang"])
    words = [f"-p{server.port}", f"-s{PRINCIPAL}", *options, "test", "x"]
    with on_terminal(*words) as (process, master):
        server.wait_for("command", nth=len(options[-1].split(",")))
        os.write(master, b"\x03")
        text = transcript(master)
        assert process.wait(HANG) == INTERRUPTED
    assert screen(text) == ["" if "--progress" in options else "^C"]


def test_progress(scripted: Start) -> None:
    """The bar grows, makes room for output, and is erased at the end."""
    output = [["output", {"text": "line\n", "stream": n}] for n in (1, 2)]
    server = scripted(["handshake", "read", *output, "barrier", ["status", {}]])
    words = "--progress", f"-p{server.port}", f"-s{PRINCIPAL}", TWO, "test", "x"
    with on_terminal(*words) as (process, master):
        text = b""
        while text.count(b"line") < 4 or not text.endswith(b"0/2 hosts"):
            text += os.read(master, 65536)
        server.proceed()
        server.proceed()
        text += transcript(master)
        assert process.wait(HANG) == 0
    assert text.startswith(b"\r[")
    for number, bar in enumerate(["." * 30, "#" * 15 + "." * 15, "#" * 30]):
        assert f"[{bar}] {number}/2 hosts".encode() in text
    lines = ["127.0.0.1: line"] * 2 + ["localhost: line"] * 2
    *shown, last, empty = screen(text)
    assert (sorted(shown), last, empty) == (lines, "remctl: 2 of 2 hosts ok", "")
    # Each line of output begins at the start of an empty line.
    for line in text.replace(b"\r\n", b"\n").split(b"\n"):
        assert re.fullmatch(rb"(.*\r *\r)?[^\r]*|\r.*", line)


@pytest.mark.parametrize("options", [[], ["--progress"]])
def test_no_progress_without_a_terminal(options: list[str], ask: Run) -> None:
    """Nor on a terminal without --progress."""
    finished = ask(*options, TWO, "test", "silent")
    assert outcome(finished) == (0, b"", b"remctl: 2 of 2 hosts ok\n")
    if not options:
        words = ["-p1", TWO, "test", "x"]
        with on_terminal(*words) as (_, master):
            assert b"/2 hosts" not in transcript(master)


# Every option, on one host and on several


class Effect(NamedTuple):
    """What an option changes: how often a pattern is on the terminal."""

    value: list[str]
    command: list[str]
    pattern: str
    on_one_host: int = 1
    on_two_hosts: int = 2


# All of them: a new option belongs here, too.
EFFECTS = {
    "-b": Effect(["127.0.0.3"], ["env", "REMOTE_ADDR"], r"127\.0\.0\.3\r\n"),
    "-c": Effect(["BOBS"], ["user"], "bob@"),
    "-d": Effect([], ["silent"], "received status 0"),
    "-f": Effect(["FILE"], ["args"], "from the file"),
    "-h": Effect([], ["silent"], "usage: python -m remctl", 1, 1),
    "-p": Effect(["1"], ["silent"], r"cannot connect to \S+ \(port 1\)"),
    "-s": Effect(["nobody"], ["silent"], "nobody@KRBTEST.COM"),
    "-t": Effect(["0.3"], ["sleep", "1"], "timed out"),
    "-v": Effect([], ["silent"], r"remctl-cffi \d", 1, 1),
    "--at-once": Effect(["0"], ["silent"], "invalid number of hosts 0", 1, 1),
    # What would be the host is then the command.
    "--hosts": Effect(["HOSTS"], ["silent"], r"\S+: Unknown command", 2, 2),
    "--json": Effect([], ["silent"], r'"status": 0', 1, 2),
    "--progress": Effect([], ["silent"], r"\[#{30}\] 2/2 hosts", 0, 1),
}


def test_effects_of_all_options() -> None:
    """The table has what the parser has."""
    options = {name for action in parser()._actions for name in action.option_strings}
    assert options == set(EFFECTS)


@pytest.mark.parametrize("hosts", ["localhost", TWO])
@pytest.mark.parametrize("option", EFFECTS)
def test_options_reach_each_host(
    option: str, hosts: str, server: Server, realm: Realm, tmp_path: Path
) -> None:
    """The effect is there for each host, and without the option it is not."""
    effect = EFFECTS[option]
    file = tmp_path / "file"
    file.write_text("from the file")
    fleet = tmp_path / "hosts"
    fleet.write_text("localhost\n127.0.0.1\n")
    bobs = realm.kinit("bob", tmp_path / "bob")
    values = {"BOBS": bobs, "FILE": str(file), "HOSTS": str(fleet)}
    words = [option, *(values.get(word, word) for word in effect.value)]
    # The last -p and -s count.
    ours = f"-p{server.port}", f"-s{PRINCIPAL}"
    counts = []
    for options in words, []:
        with on_terminal(*ours, *options, hosts, "test", *effect.command) as (_, seen):
            text = transcript(seen).decode()
        counts.append(len(re.findall(effect.pattern, text)))
    expected = effect.on_two_hosts if hosts == TWO else effect.on_one_host
    assert counts == [expected, 0]
