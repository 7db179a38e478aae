# SPDX-License-Identifier: MIT
"""Run all benchmarks in interleaved rounds, and write the report and the chart.

No figure makes it fail; a client that fails, or says something else than its figures,
does.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import machine
import measures
from chart import draw
from contestants import CLIENTS, EVERYONE, compile_client
from report import render
from samples import Results
from servers import Servers, running_servers

from remctl.testing import StartError

if TYPE_CHECKING:
    from contestants import Contestant
    from measures import Measure

HERE = Path(__file__).parent
QUICK = Path(sys.prefix)  # the environment's directory

# Seconds that a client may take, as a bound on hangs.
LONGEST = 300
VALGRIND = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]


class ClientError(Exception):
    """A client did not do its work."""


def run(
    command: list[str], servers: Servers, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a client to its end, and wait until the server has noticed that."""
    try:
        result = subprocess.run(
            command,
            env={**servers.env, **variables},
            cwd=CLIENTS,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST,
        )
        servers.settle()
    except (OSError, subprocess.TimeoutExpired, TimeoutError) as error:
        raise ClientError(f"{' '.join(command)}: {error}") from error
    if result.returncode != 0:
        raise ClientError(
            f"{' '.join(command)} ended with {result.returncode}:\n"
            f"{result.stdout}{result.stderr}"
        )
    return result


def command_line(
    contestant: Contestant, measure: Measure, servers: Servers, arguments: list[int]
) -> list[str]:
    """Return the command line of a client."""
    small = measure.action in {"tokens", "whole_tokens"}
    port = servers.token_port if small else servers.port
    numbers = map(str, [port, *arguments])
    return [*contestant.command, measure.action, servers.host, *numbers]


def take(
    contestant: Contestant, measure: Measure, servers: Servers
) -> dict[str, float]:
    """Let a client measure, and return its figures."""
    arguments = measure.arguments(contestant)
    result = run(command_line(contestant, measure, servers, arguments), servers)
    try:
        figures = {
            name: float(value)
            for name, value in (line.split() for line in result.stdout.splitlines())
        }
    except ValueError:
        figures = {}
    missing = {figure.key for figure in measure.figures} - figures.keys()
    wrong = [value for value in figures.values() if not 0 <= value < math.inf]
    if missing or wrong or result.stderr:
        raise ClientError(
            f"{contestant.title}, {measure.key}: no figures, or more than these:\n"
            f"{result.stdout}{result.stderr}"
        )
    return figures


def count(
    contestant: Contestant, measure: Measure, servers: Servers
) -> dict[str, float]:
    """Count a client's instructions, as the difference to half of the work."""
    size, turns, _ = measure.arguments(contestant)
    units = size or turns
    counts = []
    for factor in (1, 2):
        arguments = [size * factor, turns * (1 if size else factor), 0]
        client = command_line(contestant, measure, servers, arguments)
        # Another seed changes the count by up to 4 %.
        result = run(VALGRIND + client, servers, PYTHONHASHSEED="0")
        found = re.search(r"Collected : (\d+)$", result.stderr, re.MULTILINE)
        if found is None:
            raise ClientError(f"valgrind has not counted:\n{result.stderr}")
        counts.append(int(found[1]))
    return {"instructions": (counts[1] - counts[0]) / units}


def run_all(
    servers: Servers, chosen: list[Measure], rounds: int, results: Results
) -> None:
    """Run all measures, round by round."""
    for turn in range(rounds):
        for measure in chosen:
            if measure.once and turn > 0:
                continue
            began = time.monotonic()
            for contestant in EVERYONE * measure.passes:
                if contestant.key in measure.contestants:
                    method = count if measure.counted else take
                    figures = method(contestant, measure, servers)
                    results.add(measure.key, contestant.key, figures)
            print(
                f"round {turn + 1} of {rounds}, {measure.title}: "
                f"{time.monotonic() - began:.1f} s",
                flush=True,
            )


def rounds_in_words(rounds: int, *, quick: bool) -> str:
    """Return how often everything was measured, as the report says it."""
    text = f"{rounds} interleaved rounds" if rounds > 1 else "one round"
    if quick:
        text += " of a **quick run, whose figures mean nothing**"
    return text


def main() -> int:
    """Run the benchmarks; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only see that everything works, and write into the environment",
    )
    parser.add_argument("--rounds", type=int, default=0, help="5, or 1 with --quick")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 5)
    chosen = measures.quick() if options.quick else measures.full()
    directory = QUICK if options.quick else HERE
    report, chart = directory / "results.md", directory / "results.svg"
    results = Results()
    try:
        compile_client()
        with running_servers() as servers:
            run_all(servers, chosen, rounds, results)
    except (ClientError, StartError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    # Both before either is written, as the report says whether anything was changed.
    text = render(
        results,
        chosen,
        rounds_in_words(rounds, quick=options.quick),
        machine.describe(),
        chart.name,
    )
    chart.write_text(draw(results), encoding="utf-8")
    report.write_text(text, encoding="utf-8")
    print(f"{report}\n{chart}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
