# SPDX-License-Identifier: MIT
"""The report: a page of Markdown."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from contestants import EVERYONE, TITLES
from goals import judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from measures import Figure, Measure
    from samples import Results

FACTORS = {"ms": 1e3, "µs": 1e6, "kB": 1e-3, "MB": 1e-6, "": 1}

INTRODUCTION = """\
# Benchmarks

Made by `scripts/bench` on {date} in {rounds}:
one contestant after the other in each, and up to {passes} times over where figures vary
most. All ran on one machine with their server, over loopback. Figures are medians, with
the least and the greatest where there are several; a ratio is that of two medians. Only
the ratios are worth comparing with other machines'.

- The limit of latency is the C program with a socket of its own, which sets TCP_NODELAY
  and arms TCP_QUICKACK before each wait. With remctl_open(), on which all other
  bindings are built, the server waits for a delayed acknowledgement of 40 ms.
- Client CPU is the time of all of the client's threads, system calls included, and
  of no other process. Peak resident memory is the kernel's VmHWM.
- Small tokens come from a server of our own, as remctld merges them; all else is served
  by one remctld, which logs debugging messages, whoever asks.
- Instructions are counted by valgrind (callgrind) in user space, as what twice the work
  takes less what the work takes.
- PyPy has run everything for a while before its figures count. Its memory is mostly the
  nursery of its garbage collector, which is as large as the processor's cache suggests,
  and used up whatever a program does (PYPY_GC_NURSERY sets it).
- Four rows are no contestants, but show what a figure of ours consists of. "C, own
  socket, and threads" is the limit for a client that Ctrl-C can interrupt: it looks the
  name up, authenticates and exchanges NOOPs in a thread each, as all three can block
  without end inside their libraries. "remctl-cffi's shim alone" is the shortest Python
  loop that drives this package's C code: no time-outs, no close() from elsewhere, no
  errors, no results. With asyncio, it waits for a command's reply with add_reader(), a
  future and remove_reader(), and iterates over tokens, which are there, with async for.
  "asyncio alone, one wait" is what the wait takes for a pair of sockets, without any
  client.
- `import remctl` loads the client when one of its names is first used, so that it is
  the import of a name that is measured.
- pyremctl holds the GIL, so that its threads run one after the other.
"""


def number(value: float) -> str:
    """Return three digits, or all that are before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def times(ratio: float) -> str:
    """Return a ratio."""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def table(
    head: list[str], rows: Iterable[Iterable[str]], alignment: str = "---:"
) -> Iterator[str]:
    """Return a table's lines; ``alignment`` is that of all columns but the first."""
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'|'.join([alignment] * (len(head) - 1))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def cells(
    results: Results, measure: Measure, contestant: str, figure: Figure
) -> Iterator[str]:
    """Return a figure's cells: the median with its spread, and the ratio."""
    factor = FACTORS[figure.unit]
    samples = results.samples(measure.key, contestant, figure.key)
    text = number(results.median(measure.key, contestant, figure.key) * factor)
    if len(samples) > 1:
        text += f" ({number(min(samples) * factor)}-{number(max(samples) * factor)})"
    yield text
    if figure.ratio:
        yield times(results.ratio(measure.key, contestant, measure.base, figure.key))


def section(results: Results, measure: Measure) -> Iterator[str]:
    """Return the lines about one measure."""
    head = [""]
    for figure in measure.figures:
        unit = f", {figure.unit}" if figure.unit else ""
        head += [f"{figure.title}{unit}"]
        if figure.ratio:
            head += [f"of {TITLES[measure.base]}"]
    if measure.rate:
        head += [measure.rate]
    rows = []
    for contestant in EVERYONE:
        if contestant.key in measure.contestants:
            row = [contestant.title]
            for figure in measure.figures:
                row += cells(results, measure, contestant.key, figure)
            if measure.rate:
                seconds = results.median(measure.key, contestant.key)
                amount = 1 if measure.rate == "tokens/s" else measure.size / 1e6
                row += [number(amount / seconds)]
            rows.append(row)
    yield f"## {measure.title}"
    yield ""
    yield from table(head, rows)
    yield ""


def render(
    results: Results,
    measures: list[Measure],
    rounds: str,
    machine: dict[str, str],
    chart: str,
) -> str:
    """Return the report; ``chart`` is the name of the file beside it."""
    lines = [
        INTRODUCTION.format(
            date=dt.datetime.now(tz=dt.timezone.utc).date(),
            rounds=rounds,
            passes=max(measure.passes for measure in measures),
        ),
        f"![The times of this package and of the others, as bars]({chart})",
        "",
        "## Goals",
        "",
        *table(
            ["goal", "measured", ""],
            [
                (goal.goal, goal.measured, "reached" if goal.reached else "**missed**")
                for goal in judge(results, measures)
            ],
            alignment="---",
        ),
        "",
    ]
    for measure in measures:
        lines += section(results, measure)
    lines += ["## Machine and versions", "", *table(["", ""], machine.items(), "---")]
    return "\n".join(lines) + "\n"
