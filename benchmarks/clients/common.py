# SPDX-License-Identifier: MIT
"""What the Python clients share: their command line, clocks, memory and report.

A client is called as ``CLIENT MEASURE HOST PORT SIZE TURNS WARM``, does TURNS turns of
what MEASURE names, WARM turns before them that do not count, and prints a line
"NAME VALUE" for each figure: seconds of a turn (median), seconds of this process's CPU
in a turn (mean), octets, numbers.  A turn whose result is not the right one ends it.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

HELLO = ["echo", "hello"]
SECONDS = 1  # that the commands of the measure "sleep" take

# What a process that has only just started does and says about an import.
IMPORT = """\
import os, sys, time
page = os.sysconf("SC_PAGE_SIZE")
def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * page
memory()
before, start = memory(), time.perf_counter()
exec(sys.argv[1])
print(time.perf_counter() - start, memory() - before)
"""


class Arguments(NamedTuple):
    """The command line."""

    measure: str
    host: str
    port: int
    size: int
    turns: int
    warm: int


def arguments() -> Arguments:
    """Return the command line; let the process have as many descriptors as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    measure, host, *numbers = sys.argv[1:]
    return Arguments(measure, host, *map(int, numbers))


def report(**figures: float) -> None:
    """Print figures."""
    for name, value in figures.items():
        print(name, value)


class Turns:
    """Times turns, of which the first few do not count."""

    def __init__(self, arguments: Arguments) -> None:
        """Expect as many turns as the command line says."""
        self.turns = range(arguments.warm + arguments.turns)
        self._warm = arguments.warm
        self._seconds: list[float] = []
        self._cpu: list[float] = []

    def start(self) -> None:
        """Begin a turn."""
        self._cpu.append(-time.process_time())
        self._seconds.append(-time.perf_counter())

    def stop(self) -> None:
        """End a turn."""
        self._seconds[-1] += time.perf_counter()
        self._cpu[-1] += time.process_time()

    def report(self, units: int = 1, **figures: float) -> None:
        """Print the figures of a turn that consists of ``units``."""
        seconds = statistics.median(self._seconds[self._warm :]) / units
        cpu = statistics.fmean(self._cpu[self._warm :]) / units
        report(seconds=seconds, cpu=cpu, **figures)


def status(name: str) -> int:
    """Return the number that the kernel has under ``name`` for this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(name)


def memory() -> int:
    """Return the octets of memory that this process has."""
    return status("VmRSS") * 1024


def peak() -> int:
    """Return the octets of memory that this process has had at most."""
    return status("VmHWM") * 1024


def expect(expected: object, found: object) -> None:
    """End the client unless the server did what it was asked."""
    if expected != found:
        sys.exit(f"expected {expected!r:.100}, not {found!r:.100}")


def measure_import(statement: str, arguments: Arguments) -> None:
    """Measure the import by ``statement``, in new processes of this interpreter."""
    samples = [
        subprocess.run(
            [sys.executable, "-c", IMPORT, statement],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout.split()
        for _ in range(arguments.warm + arguments.turns)
    ][arguments.warm :]
    report(
        seconds=statistics.median(float(seconds) for seconds, _ in samples),
        memory=statistics.median(int(octets) for _, octets in samples),
    )
