# SPDX-License-Identifier: MIT
"""Drive the shim by threads and forks, with sanitizers that watch its memory.

    python tests/soak/shim_threads.py --rounds 100

Builds shim_threads.c with ThreadSanitizer, and with AddressSanitizer, which knows more
of what forked children free, and runs it with a real server.  Before that, a data race
that is planted in it must be seen.  libremctl and libkrb5 are not instrumented: only
reports with frames of the shim, or of shim_threads.c, count.  Exits with 0 if there are
none, and the program itself has nothing to complain of.

Where libtsan finds no room in the address space, run it under ``setarch -R``.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from support import commands

from remctl.testing import Realm

if TYPE_CHECKING:
    from remctl.testing import Server

SOURCE = Path(__file__).with_suffix(".c")
SANITIZERS = {"thread": "thread", "address": "address,undefined"}
# The functions that the planted race is in.
PLANTED = ("look_on", "store_results")
PLANTED_ROUNDS = 3


def build(sanitizer: str, directory: Path, *options: str) -> Path:
    """Return the program, built with a sanitizer."""
    program = directory / "shim_threads"
    flags = ["-g", "-O1", "-fno-omit-frame-pointer", "-Wall", "-Wno-unused-function"]
    query = ["pkg-config", "--cflags", "--libs", "libremctl"]
    libraries = subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True)
    subprocess.run(
        ["gcc", *flags, f"-fsanitize={SANITIZERS[sanitizer]}", *options]
        + ["-o", str(program), str(SOURCE), *shlex.split(libraries.stdout)],
        check=True,
    )
    return program


def run(program: Path, server: Server, rounds: int) -> tuple[int, list[str]]:
    """Return the program's exit status, and the reports with frames of ours."""
    reports = program.parent / "reports"
    reports.mkdir()
    # Its own exit status is wanted; and a child's end is not to take a second.
    options = f"log_path={reports}/report:exitcode=0:atexit_sleep_ms=0:die_after_fork=0"
    result = subprocess.run(
        [str(program), str(server.port), server.principal, str(rounds)],
        env={
            **os.environ,
            "TSAN_OPTIONS": options,
            "ASAN_OPTIONS": f"log_path={reports}/report:detect_leaks=0",
            "UBSAN_OPTIONS": f"log_path={reports}/report:print_stacktrace=1",
        },
        check=False,
    )
    texts = [path.read_text(errors="replace") for path in sorted(reports.iterdir())]
    found = [report for text in texts for report in re.split("={18,}\n", text)]
    return result.returncode, [report for report in found if is_ours(report)]


def is_ours(report: str) -> bool:
    """Whether a report has frames of ours, but for those that made its threads."""
    stacks = re.sub(r"(?m)^  Thread T.* created by(.+\n)*", "", report)
    return re.search(r"_(shim|connect|jobs)\.c:|shim_threads\.c:", stacks) is not None


def sees_planted_race(server: Server) -> bool:
    """Whether a race that is there is reported."""
    with tempfile.TemporaryDirectory() as directory:
        program = build("thread", Path(directory), "-DPLANT_A_RACE")
        _, reports = run(program, server, PLANTED_ROUNDS)
    return any(all(name in report for name in PLANTED) for report in reports)


def passes(sanitizer: str, server: Server, rounds: int) -> bool:
    """Whether the program runs well, without reports of ours; else print those."""
    with tempfile.TemporaryDirectory() as directory:
        status, reports = run(build(sanitizer, Path(directory)), server, rounds)
    print("\n".join(reports), end="")
    print(f"{sanitizer}: status {status}, reports with our frames: {len(reports)}")
    return status == 0 and not reports


def main() -> int:
    """Run all; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    with Realm() as realm, realm.applied(), realm.server(commands(realm)) as server:
        seen = sees_planted_race(server)
        print("a planted race was", "seen" if seen else "NOT SEEN", flush=True)
        results = [passes(sanitizer, server, rounds) for sanitizer in SANITIZERS]
    return 0 if seen and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
