# SPDX-License-Identifier: MIT
"""What is measured, how often, of whom, and in which units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from contestants import CONTESTANTS

if TYPE_CHECKING:
    from contestants import Contestant

MIB = 1024 * 1024
ALL = tuple(contestant.key for contestant in CONTESTANTS)
OURS = ("sync", "aio", "pypy", "pypy_aio")
# Net::Remctl has no threads, and pyremctl only runs one of them at a time.
THREADED = ("own", *OURS, "open")

# In each round, for what is short: a machine that others share changes its speed every
# few seconds.
PASSES = 3

# A delayed acknowledgement makes small commands this much slower.
DELAY = 25


@dataclass(frozen=True)
class Figure:
    """One of the figures of a measure: its name in the clients' output, and a unit."""

    key: str
    title: str
    unit: str
    ratio: bool = True


LATENCY = Figure("seconds", "time", "ms")
SHORT = Figure("seconds", "time", "µs")
CPU = Figure("cpu", "client CPU", "µs")
CPU_MS = Figure("cpu", "client CPU", "ms")
MEMORY = Figure("memory", "memory", "kB")
EACH = Figure("memory", "memory of each", "kB", ratio=False)
PEAK = Figure("memory", "peak resident memory", "MB")
GROWTH = Figure("memory", "more memory at the peak", "MB")
THREADS = Figure("threads", "threads", "", ratio=False)
INSTRUCTIONS = Figure("instructions", "instructions", "")


@dataclass(frozen=True)
class Measure:
    """What a client is asked for, and what it says.

    ``size`` is what the action makes of it.  ``turns`` says how often it does that, and
    ``warm`` how often before, which does not count: at most once where nothing is
    compiled meanwhile.  ``rate`` is the unit of how much goes over the wire in a
    second.  ``counted`` runs in valgrind, which counts instructions.  ``once`` is for
    what does not vary, or takes too long to be done in every round; of what varies
    most, a round has several ``passes``.
    """

    key: str
    title: str
    action: str
    figures: tuple[Figure, ...]
    contestants: tuple[str, ...] = ALL
    base: str = "own"
    size: int = 0
    turns: int = 1
    warm: int = 1
    rate: str = ""
    delayed: bool = False
    counted: bool = False
    once: bool = False
    passes: int = 1

    def arguments(self, contestant: Contestant) -> list[int]:
        """Return SIZE, TURNS and WARM for ``contestant``'s command line."""
        turns = self.turns
        if self.delayed and contestant.delayed:
            turns = max(1, turns // DELAY)
        warm = self.warm if contestant.compiles else min(self.warm, 1)
        return [self.size, turns, warm]


def full() -> list[Measure]:
    """Return the measures of the long run."""
    return [
        Measure(
            "command",
            "A small command on an open connection",
            "command",
            (LATENCY, CPU),
            contestants=(*ALL, "shim", "shim_aio"),
            turns=1000,
            warm=3000,
            delayed=True,
            passes=PASSES,
        ),
        Measure(
            "connect",
            "Connect, which includes the Kerberos handshake",
            "connect",
            (LATENCY, CPU),
            contestants=(*ALL, "threads"),
            turns=300,
            warm=2000,
            passes=PASSES,
        ),
        Measure(
            "one",
            "Connect, and run one small command",
            "one",
            (LATENCY, CPU),
            contestants=(*ALL, "threads"),
            turns=300,
            warm=2000,
            delayed=True,
            passes=PASSES,
        ),
        Measure(
            "noop",
            "noop()",
            "noop",
            (SHORT, CPU),
            contestants=(*ALL, "threads", "loop"),
            turns=3000,
            warm=10000,
            passes=PASSES,
        ),
        Measure(
            "output",
            "64 MiB of output",
            "output",
            (LATENCY, CPU_MS),
            base="open",
            size=64 * MIB,
            turns=5,
            warm=5,
            rate="MB/s",
        ),
        Measure(
            "tokens",
            "100,000 output tokens of 8 octets: figures for one token",
            "tokens",
            (SHORT, CPU),
            contestants=(*ALL, "shim", "shim_aio"),
            base="open",
            size=100_000,
            rate="tokens/s",
            passes=PASSES,
        ),
        Measure(
            "whole_tokens",
            "The same with run()",
            "whole_tokens",
            (CPU,),
            contestants=(*OURS, "pyremctl"),
            base="pyremctl",
            size=100_000,
            passes=PASSES,
        ),
        Measure(
            "whole_output",
            "64 MiB of output with run()",
            "whole_output",
            (LATENCY, CPU_MS, GROWTH),
            contestants=(*OURS, "pyremctl"),
            base="pyremctl",
            size=64 * MIB,
            turns=5,
            warm=5,
            rate="MB/s",
        ),
        *(
            Measure(
                f"memory{mib}",
                f"{mib:,} MiB of output, token by token",
                "output",
                (LATENCY, PEAK),
                contestants=contestants,
                base="open",
                size=mib * MIB,
                warm=0,
                rate="MB/s",
                once=True,
            )
            for mib, contestants in ((512, (*OURS, "open")), (1024, ALL))
        ),
        *(
            Measure(
                f"send{mib}",
                f"An argument of {mib} MiB, for the command's standard input",
                "send",
                (LATENCY, CPU_MS),
                size=mib * MIB,
                turns=64 // mib,
                warm=64 // mib,
                rate="MB/s",
            )
            for mib in (1, 16)
        ),
        *(
            Measure(
                f"sleep{size}",
                f"One-second commands, {size} at a time",
                "sleep",
                (LATENCY, THREADS, EACH),
                # One after the other, that would take minutes.
                contestants=(*THREADED, "pyremctl") if size <= 8 else THREADED,
                size=size,
            )
            for size in (1, 8, 64, 200)
        ),
        Measure(
            "sleep1000",
            "One-second commands, 1,000 at a time",
            "sleep",
            (LATENCY, THREADS, EACH),
            contestants=("aio", "pypy_aio"),
            base="aio",
            size=1000,
        ),
        *(
            Measure(
                f"parallel{size}",
                f"Small commands, {size} at a time: figures for one",
                "parallel",
                (LATENCY, CPU),
                contestants=(*THREADED, "pyremctl"),
                size=size,
                turns=1600 // size,
                warm=5,
                delayed=True,
            )
            for size in (1, 8, 64, 200)
        ),
        Measure(
            "parallel1000",
            "Small commands, 1,000 at a time: figures for one",
            "parallel",
            (LATENCY, CPU),
            contestants=("aio", "pypy_aio"),
            base="aio",
            size=1000,
            turns=2,
            warm=5,
        ),
        Measure(
            "instructions_command",
            "Instructions for a small command",
            "command",
            (INSTRUCTIONS,),
            contestants=("own", "open", "sync", "aio", "shim", "shim_aio", "loop"),
            turns=200,
            warm=0,
            counted=True,
            once=True,
        ),
        Measure(
            "instructions_one",
            "Instructions to connect, and run one small command",
            "one",
            (INSTRUCTIONS,),
            contestants=("own", "open", "sync", "aio", "threads"),
            turns=100,
            warm=0,
            counted=True,
            once=True,
        ),
        Measure(
            "instructions_noop",
            "Instructions for noop()",
            "noop",
            (INSTRUCTIONS,),
            contestants=("own", "open", "sync", "aio", "threads", "loop"),
            turns=200,
            warm=0,
            counted=True,
            once=True,
        ),
        Measure(
            "instructions_token",
            "Instructions for an output token of 8 octets",
            "tokens",
            (INSTRUCTIONS,),
            contestants=("own", "open", "sync", "aio", "pyremctl", "shim", "shim_aio"),
            size=5000,
            warm=0,
            counted=True,
            once=True,
        ),
        Measure(
            "instructions_whole_token",
            "The same with run()",
            "whole_tokens",
            (INSTRUCTIONS,),
            contestants=("sync", "aio", "pyremctl"),
            base="pyremctl",
            size=5000,
            warm=0,
            counted=True,
            once=True,
        ),
        Measure(
            "program",
            "The whole of a command line: remctl HOST COMMAND",
            "program",
            (LATENCY, CPU_MS),
            contestants=("program", "module", "pypy_module"),
            base="program",
            turns=20,
        ),
        Measure(
            "import",
            "from remctl import Remctl, import remctl.aio, import remctl of pyremctl",
            "import",
            (LATENCY, MEMORY),
            contestants=(*OURS, "pyremctl"),
            base="pyremctl",
            turns=10,
            passes=PASSES,
        ),
    ]


# What is smaller in the quick run, and what is left out of it.
QUICK_SIZES = {
    "output": 4 * MIB,
    "memory512": 2 * MIB,
    "memory1024": 4 * MIB,
    "tokens": 500,
    "whole_tokens": 500,
    "whole_output": 4 * MIB,
    "send16": 2 * MIB,
    "sleep200": 20,
    "sleep1000": 50,
    "parallel200": 20,
    "parallel1000": 50,
    "instructions_token": 20,
    "instructions_whole_token": 20,
}
QUICK_CONTESTANTS = {
    "sleep200": ("own", "sync", "pypy"),
    "instructions_command": ("own", "sync", "aio", "shim", "shim_aio", "loop"),
    "instructions_token": ("own", "sync"),
    "instructions_one": ("own",),
    "instructions_noop": ("own",),
}
NOT_QUICK = {"sleep1", "sleep8", "sleep64", "parallel1", "parallel64", "send1"}


def quick() -> list[Measure]:
    """Return measures that go through everything, but prove nothing about speed."""
    return [
        replace(
            each,
            size=QUICK_SIZES.get(each.key, each.size),
            contestants=QUICK_CONTESTANTS.get(each.key, each.contestants),
            turns=min(each.turns, 2),
            warm=0,
            passes=1,
        )
        for each in full()
        if each.key not in NOT_QUICK
    ]
