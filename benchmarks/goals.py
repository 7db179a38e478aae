# SPDX-License-Identifier: MIT
"""What this package is to reach, as ratios within one run where that is possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from contestants import TITLES
from measures import MIB, OURS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from measures import Measure
    from samples import Results

# By how many MB the memory of a process may depend on the length of the output.
FLAT = 8

# The threads of one of remctl.aio's pools at most, and the one of the event loop.
POOL = 64 + 1

# A small command's time, of the limit.
COMMAND = {"sync": 1.1, "pypy": 1.05, "aio": 1.12, "pypy_aio": 1.1}

# Whose figure is shown beside one of ours.  Both run on CPython.
FLOOR_OF = {"sync": "shim", "pypy": "shim", "aio": "shim_aio", "pypy_aio": "shim_aio"}

# How much slower PyPy may be than CPython.
PYPY = 1.2


class Goal(NamedTuple):
    """A goal, what was measured, and whether that reaches it."""

    goal: str
    measured: str
    reached: bool


def at_most(
    text: str, value: float, limit: float, unit: str = "", remark: str = ""
) -> Goal:
    """Return a goal that ``value`` must not exceed."""
    return Goal(
        f"{text}: at most {limit:.3g}{unit}",
        f"{value:.3g}{unit}{remark}",
        value <= limit,
    )


def at_least(text: str, value: float, limit: float) -> Goal:
    """Return a goal that ``value`` must reach."""
    return Goal(f"{text}: at least {limit:g}", f"{value:.3g}", value >= limit)


def floor(key: str, value: float) -> str:
    """Return the remark that a floor's own figure is ``value``."""
    return f" ({TITLES[key]}: {value:.3g})"


def judge(results: Results, measures: list[Measure]) -> Iterator[Goal]:
    """Return all goals with what was measured."""
    median, ratio = results.median, results.ratio
    for ours, limit in COMMAND.items():
        yield at_most(
            f"A small command, of the limit, {TITLES[ours]}",
            ratio("command", ours, "own"),
            limit,
            remark=floor(FLOOR_OF[ours], ratio("command", FLOOR_OF[ours], "own")),
        )
    yield at_most(
        "A small command's client CPU, of C's with its own socket",
        ratio("command", "sync", "own", "cpu"),
        2,
        remark=floor("shim", ratio("command", "shim", "own", "cpu")),
    )
    blocking, aio, shim, shim_aio, loop = (
        median("instructions_command", key, "instructions") / 1e3
        for key in ("sync", "aio", "shim", "shim_aio", "loop")
    )
    yield at_most(
        f"Instructions for a small command, {TITLES['sync']}",
        blocking,
        95,
        " thousand",
        floor("shim", shim),
    )
    yield at_most(
        f"Instructions for a small command, {TITLES['aio']}",
        aio,
        170,
        " thousand",
        f" ({TITLES['shim_aio']}: {shim_aio:.3g}; the blocking twin's, and "
        f"{TITLES['loop']}: {blocking + loop:.3g})",
    )
    for other in ("pyremctl", "open"):
        yield at_least(
            f"A small command with {TITLES[other]}, of ours",
            ratio("command", other, "sync"),
            25,
        )
    yield at_most(
        "Connect and small command, of the limit",
        ratio("one", "sync", "own"),
        1.15,
        remark=floor("threads", ratio("one", "threads", "own")),
    )
    yield at_least(
        "Connect and small command with pyremctl, of ours",
        ratio("one", "pyremctl", "sync"),
        12,
    )
    yield at_most("noop()", median("noop", "sync") * 1e3, 0.5, " ms")
    threads = floor("threads", ratio("noop", "threads", "pyremctl"))
    for ours, noop, token in (("sync", 1.15, 1.5), ("aio", 1.6, 2.5)):
        yield at_most(
            f"noop(), of pyremctl's, {TITLES[ours]}",
            ratio("noop", ours, "pyremctl"),
            noop,
            remark=threads,
        )
        yield at_most(
            f"A small token, of pyremctl's, {TITLES[ours]}",
            ratio("tokens", ours, "pyremctl"),
            token,
            remark=floor(FLOOR_OF[ours], ratio("tokens", FLOOR_OF[ours], "pyremctl")),
        )
        counted = ratio("instructions_whole_token", ours, "pyremctl", "instructions")
        yield at_most(
            f"A small token's client CPU with run(), of pyremctl's, {TITLES[ours]}",
            ratio("whole_tokens", ours, "pyremctl", "cpu"),
            1,
            remark=f" (instructions: {counted:.3g})",
        )
    yield at_most(
        "64 MiB with run(): more memory at the peak, of the output's size",
        median("whole_output", "sync", "memory") / (64 * MIB),
        2.2,
    )
    yield at_most(
        "64 MiB of output, of the faster C program",
        median("output", "sync") / min(median("output", c) for c in ("own", "open")),
        1.05,
    )
    c_token = min(median("tokens", c, "cpu") for c in ("own", "open"))
    token, pypy_token = (
        (median("tokens", ours, "cpu") - c_token) * 1e6 for ours in ("sync", "pypy")
    )
    yield at_most(
        "A small token's client CPU, less the faster C program's", token, 3, " µs"
    )
    yield at_most("The same on PyPy", pypy_token, token, " µs")
    for ours in OURS:
        half, whole = (
            median(f"memory{mib}", ours, "memory") / 1e6 for mib in (512, 1024)
        )
        yield at_most(
            f"Peak memory with 1 GiB, less that with half, {TITLES[ours]}",
            whole - half,
            FLAT,
            " MB",
        )
    yield at_most(
        "200 threads, one-second commands", median("sleep200", "sync"), 3, " s"
    )
    yield at_most(
        "1,000 asyncio connections, threads",
        median("sleep1000", "aio", "threads"),
        POOL,
    )
    yield at_most(
        "1,000 asyncio connections, memory of each",
        median("sleep1000", "aio", "memory") / 1e3,
        20,
        " kB",
    )
    yield at_most("The import", median("import", "sync") * 1e3, 12, " ms")
    yield judge_pypy(results, measures, "pypy", "sync")
    yield judge_pypy(results, measures, "pypy_aio", "aio")


def judge_pypy(
    results: Results, measures: list[Measure], pypy: str, cpython: str
) -> Goal:
    """Compare all times of a twin that is warm: not those of imports."""
    slower = {
        f"{measure.key} {figure.title}": ratio
        for measure in measures
        if pypy in measure.contestants and measure.warm and measure.action != "import"
        for figure in measure.figures
        if figure.key in ("seconds", "cpu")
        and (ratio := results.ratio(measure.key, pypy, cpython, figure.key)) > PYPY
    }
    worst = sorted(slower.items(), key=lambda item: -item[1])
    measured = (
        ", ".join(f"{key} {ratio:.2f}" for key, ratio in worst) or "none is above"
    )
    return Goal(
        f"Each time of {TITLES[pypy]}, of CPython's: at most {PYPY}",
        measured,
        not slower,
    )
