# SPDX-License-Identifier: MIT
"""Who is compared, and how each one's client program is started."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from servers import PYTHON

ROOT = Path(__file__).parent.parent
CLIENTS = Path(__file__).parent / "clients"

# What the noxfile makes: an environment, with one for PyPy in it.
CPYTHON = Path(sys.executable)
PYPY = Path(sys.prefix) / "pypy" / "bin" / "python"
C_CLIENT = Path(sys.prefix) / "client"


@dataclass(frozen=True)
class Contestant:
    """A client program.

    ``delayed``: each small command waits for a delayed acknowledgement, of 40 ms.
    ``compiles``: it is faster after some turns.
    """

    key: str
    title: str
    command: tuple[str, ...]
    delayed: bool = False
    compiles: bool = False


def python(interpreter: str | Path, client: str) -> tuple[str, ...]:
    """Return the command line of a client in Python."""
    return str(interpreter), str(CLIENTS / client)


CONTESTANTS = [
    Contestant("own", "C, own socket", (str(C_CLIENT), "own")),
    Contestant("sync", "remctl-cffi", python(CPYTHON, "sync.py")),
    Contestant("aio", "remctl-cffi, asyncio", python(CPYTHON, "aio.py")),
    Contestant("pypy", "remctl-cffi, PyPy", python(PYPY, "sync.py"), compiles=True),
    Contestant(
        "pypy_aio", "remctl-cffi, PyPy, asyncio", python(PYPY, "aio.py"), compiles=True
    ),
    Contestant("open", "C, remctl_open()", (str(C_CLIENT), "open"), delayed=True),
    Contestant("pyremctl", "pyremctl", python(PYTHON, "pyremctl.py"), delayed=True),
    Contestant(
        "perl",
        "Net::Remctl",
        ("perl", str(CLIENTS / "net_remctl.pl")),
        delayed=True,
    ),
]
# What ours cannot do without, beside the limit: measured where that tells why.
FLOORS = [
    Contestant("threads", "C, own socket, and threads", (str(C_CLIENT), "threads")),
    Contestant("shim", "remctl-cffi's shim alone", python(CPYTHON, "shim.py")),
    Contestant(
        "shim_aio", "remctl-cffi's shim alone, asyncio", python(CPYTHON, "shim_aio.py")
    ),
    Contestant("loop", "asyncio alone, one wait", python(CPYTHON, "loop.py")),
]
# Whole programs, for which the time of an import counts.
PROGRAMS = [
    Contestant(
        "program", "remctl(1)", (*python(CPYTHON, "program.py"), "remctl"), delayed=True
    ),
    Contestant(
        "module", "python -m remctl", (*python(CPYTHON, "program.py"), str(CPYTHON))
    ),
    Contestant(
        "pypy_module",
        "python -m remctl, PyPy",
        (*python(CPYTHON, "program.py"), str(PYPY)),
    ),
]
EVERYONE = [*CONTESTANTS, *FLOORS, *PROGRAMS]
TITLES = {contestant.key: contestant.title for contestant in EVERYONE}


def compile_client() -> None:
    """Compile the C client."""
    source = CLIENTS / "client.c"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(["cc", *flags, "-o", C_CLIENT, source, "-lremctl"], check=True)
