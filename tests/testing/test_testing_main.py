# SPDX-License-Identifier: MIT
"""python -m remctl.testing, as a process: with a command, and until Ctrl-C."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import pytest
from support import HANG, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO = Path(__file__).parent.parent.parent / "scripts" / "demo.py"
ENDED = "Both servers have ended, and their files are removed.\n"
SIGNALS = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start it; its realm's directory is in tmp_path, and gone in the end."""
    processes = []

    def start(*arguments: object, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "remctl.testing", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(tmp_path), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        with process:
            process.kill()
    wait_until(lambda: not list(tmp_path.glob("remctl-realm-*")))


def environment(text: str) -> dict[str, str]:
    """Return what the lines that begin with export say."""
    exported = re.findall(r"^ *export (\w+)=(.*)$", text, re.MULTILINE)
    return {name: "".join(shlex.split(value)) for name, value in exported}


def read_until(process: subprocess.Popen[str], end: str) -> str:
    """Read what it prints until a line that ends so."""
    assert process.stdout is not None
    text = ""
    while not text.endswith(end):
        line = process.stdout.readline()
        assert line, text
        text += line
    return text


def test_a_command(start: Callable[..., Any]) -> None:
    """It has the environment; standard output and the exit status are its own."""
    script = 'echo "$REMCTL_HOST $REMCTL_PORT $REMCTL_PRINCIPAL $1 $KRB5CCNAME"; exit 7'
    process = start("--", "sh", "-c", script, "sh", "--")
    stdout, stderr = process.communicate(timeout=HANG)
    assert process.returncode == 7
    env = environment(stderr)
    names = ("REMCTL_HOST", "REMCTL_PORT", "REMCTL_PRINCIPAL", "KRB5CCNAME")
    host, port, principal, cache = (env[name] for name in names)
    assert stdout == f"{host} {port} {principal} -- {cache}\n"
    assert stderr.endswith(ENDED)


def test_no_such_command(start: Callable[..., Any]) -> None:
    """127, as a shell has it."""
    process = start("--", "no-such-program")
    _, stderr = process.communicate(timeout=HANG)
    assert process.returncode == 127
    assert "testing: no-such-program: No such file or directory\n" in stderr
    assert stderr.endswith(ENDED)


def test_a_command_that_is_killed(start: Callable[..., Any]) -> None:
    """128 and the signal's number, as a shell has it."""
    process = start("--", "sh", "-c", "kill -KILL $$")
    process.communicate(timeout=HANG)
    assert process.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_that_is_interrupted(
    start: Callable[..., Any], number: signal.Signals
) -> None:
    """Ctrl-C is the command's business; what ends us ends the command first."""
    loop = "trap 'echo INT; exit 5' INT; trap 'echo TERM; exit 6' TERM; echo here; "
    process = start("--", "sh", "-c", f"{loop} while :; do sleep 0.1; done")
    read_until(process, "here\n")
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=HANG)
    expected = ("INT\n", 5) if number == signal.SIGINT else ("TERM\n", 128 + number)
    assert (stdout, process.returncode) == expected
    assert stderr.endswith(ENDED)
    assert "Traceback" not in stderr


def test_a_command_that_has_only_just_begun(start: Callable[..., Any]) -> None:
    """Is ended all the same: nothing of it is left to keep the pipes open."""
    for _ in range(5):
        process = start("--", "sh", "-c", "kill -TERM $PPID; exec sleep 60")
        _, stderr = process.communicate(timeout=HANG)
        assert process.returncode == 128 + signal.SIGTERM
        assert stderr.endswith(ENDED)


def test_a_command_that_does_not_end(start: Callable[..., Any]) -> None:
    """As an interactive shell, for one, which ignores SIGTERM: it is killed."""
    process = start("--", "sh", "-c", "trap '' TERM; echo here; exec sleep 60")
    read_until(process, "here\n")
    process.terminate()
    stdout, stderr = process.communicate(timeout=HANG)
    assert (stdout, process.returncode) == ("", 128 + signal.SIGTERM)
    assert stderr.endswith(ENDED)


@pytest.mark.parametrize("number", SIGNALS)
def test_until_ctrl_c(
    start: Callable[..., Any], tmp_path: Path, number: signal.Signals
) -> None:
    """What it prints leads another program there; it ends in good order."""
    process = start()
    text = read_until(process, "Ctrl-C ends both servers.\n")
    env = {**os.environ, **environment(text)}
    lines = re.findall(r"^ +(\S+ -(?:c 'import|m) remctl.*)$", text, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        result = subprocess.run(
            ["sh", "-c", line],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        assert "Hello, user@KRBTEST.COM. You said: world" in result.stdout
    os.killpg(process.pid, number)
    stdout, stderr = process.communicate(timeout=HANG)
    assert process.returncode == 128 + number
    assert (stdout, stderr) == (ENDED, "")
    assert list(tmp_path.iterdir()) == []


def test_ignored_signals_stay_ignored(start: Callable[..., Any]) -> None:
    """As nohup has it, and the shell's jobs in the background; PyPy does not tell."""
    before = [signal.signal(number, signal.SIG_IGN) for number in SIGNALS[:2]]
    try:
        process = start("--", "sh", "-c", "echo here; sleep 2; echo there")
    finally:
        for number, handler in zip(SIGNALS, before):
            signal.signal(number, handler)
    read_until(process, "here\n")
    for number in SIGNALS[:2]:
        os.killpg(process.pid, number)
    stdout, _ = process.communicate(timeout=HANG)
    told = sys.implementation.name == "cpython"
    expected = (0, "there\n") if told else (128 + signal.SIGHUP, "")
    assert (process.returncode, stdout) == expected


def test_killed(start: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing is left of it either: see the fixture."""
    process = start()
    text = read_until(process, "Ctrl-C ends both servers.\n")
    (log,) = re.findall("server's log: (.*)", text)
    assert Path(log).is_relative_to(tmp_path)
    assert Path(log).is_file()
    process.kill()


def test_nobody_reads(start: Callable[..., Any]) -> None:
    """It serves all the same, and ends in silence."""
    process = start()
    process.stdout.readline()
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert (process.wait(HANG), process.stderr.read()) == (130, "")


def test_ctrl_c_while_it_starts(start: Callable[..., Any], tmp_path: Path) -> None:
    """No traceback."""
    program = tmp_path / "kdb5_util"
    program.write_text("#!/bin/sh\n>here; sleep 60\n")
    program.chmod(0o755)
    process = start(PATH=f"{tmp_path}:{os.environ['PATH']}")
    wait_until((tmp_path / "here").exists)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=HANG)
    assert (process.returncode, stdout, stderr) == (130, ENDED, "")


def test_what_cannot_start_says_why(start: Callable[..., Any], tmp_path: Path) -> None:
    """In one message."""
    program = tmp_path / "krb5kdc"
    program.write_text("#!/bin/sh\necho out of order; exit 4\n")
    program.chmod(0o755)
    process = start(PATH=f"{tmp_path}:{os.environ['PATH']}")
    stdout, stderr = process.communicate(timeout=HANG)
    text = f"{program} ended with status 4:\nout of order\n"
    assert (process.returncode, stdout) == (1, "")
    assert stderr == f"python -m remctl.testing: {text}"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["-h"], 0, "usage: python -m remctl.testing [-h] [-- COMMAND ...]"),
        (["--"], 2, "there is no COMMAND after --"),
        (["true"], 2, "unrecognized arguments: true"),
    ],
)
def test_command_line(
    start: Callable[..., Any], arguments: list[str], status: int, text: str
) -> None:
    """Nothing is started for a wrong one."""
    process = start(*arguments)
    stdout, stderr = process.communicate(timeout=HANG)
    assert process.returncode == status
    assert text in (stderr if status else stdout)


def test_the_demo(start: Callable[..., Any]) -> None:
    """scripts/demo.py shows what it says."""
    process = start("--", sys.executable, DEMO)
    stdout, stderr = process.communicate(timeout=HANG)
    assert process.returncode == 0, stderr
    for text in (
        "b'Hello, user@KRBTEST.COM. You said: a & b\\n'",
        "(b'disk: ok\\n', b'fan: too slow\\n', 3)",
        "Access denied <ErrorCode.ACCESS: 6>",
        "b'only bob may see this\\n'",
        "noop: True",
        "status=0",
        "error receiving token: timed out",
        "That was all.",
    ):
        assert text in stdout
