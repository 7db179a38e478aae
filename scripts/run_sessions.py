# SPDX-License-Identifier: MIT
"""Run the default sessions of the noxfile, and sum up: "N passed, N failed".

    python scripts/run_sessions.py [-- PYTEST_ARGUMENT ...]

Tests are counted from pytest's reports; a skipped test counts as failed.  A session
that does not succeed counts as one failure at least, and so does a session of tests
without a report.  Tests are skipped as a whole where their Python is not there.
Pythons that are there, but have no classifier in pyproject.toml, are named.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import nox

ROOT = Path(__file__).resolve().parent.parent
NOX = ROOT / ".nox"
REPORT = NOX / "report.json"
RESULTS = NOX / "results"  # where the noxfile has pytest write its reports


def count(report: Path) -> tuple[int, int]:
    """Return how many tests passed, and how many did not or were skipped."""
    passed = failed = 0
    try:
        suites = list(ET.parse(report).getroot().iter("testsuite"))
    except (OSError, ET.ParseError):  # pytest has not come to its end
        return 0, 0
    for suite in suites:
        bad = sum(int(suite.get(key, 0)) for key in ("errors", "failures", "skipped"))
        passed += int(suite.get("tests", 0)) - bad
        failed += bad
    return passed, failed


def run_nox(arguments: list[str]) -> int:
    """Run nox, and return its exit status; end it in order if this is to end."""
    nox = Path(sys.executable).with_name("nox")
    command = [str(nox), "--parallel=2", f"--report={REPORT}", *arguments]
    # What runs in the background of a shell, or under nohup, ignores these; the tests
    # and what they start must not.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=ROOT) as process:
        # nox ends its sessions on SIGINT only, which a terminal sends to it, too.
        signal.signal(signal.SIGINT, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: process.send_signal(signal.SIGINT))
        return process.wait()


def untested() -> list[str]:
    """Return the Pythons on the PATH that the classifiers could name, and do not."""
    project = nox.project.load_toml(ROOT / "pyproject.toml")
    tested = nox.project.python_versions(project)
    oldest = int(tested[0].partition(".")[2])
    found = set()
    for directory in os.get_exec_path():
        for path in Path(directory).glob("python3.*"):
            version = re.fullmatch(r"python(3\.(\d+)t?)", path.name)
            if version and version[1] not in tested and int(version[2]) >= oldest:
                found.add(path.name)
    return sorted(found)


def sessions() -> list[dict[str, Any]]:
    """Return what nox reports of each session."""
    try:
        return list(json.loads(REPORT.read_text())["sessions"])
    except (OSError, ValueError):
        return []


def main() -> int:
    """Run nox, sum up, and return the exit status."""
    shutil.rmtree(RESULTS, ignore_errors=True)
    REPORT.unlink(missing_ok=True)
    status = run_nox(sys.argv[1:])
    passed = failed = 0
    for session in sessions():
        name, result = session["signatures"][-1], session["result"]
        good, bad = count(RESULTS / f"{name}.xml")
        # Only tests may be skipped, where their Python is not there.
        missing = session["name"] == "tests" and result == "skipped"
        nothing_counted = session["name"] == "tests" and not good
        if not missing and (result != "success" or nothing_counted):
            bad = max(bad, 1)
        line = f"{name:14} {result}"
        print(f"{line}: {good} tests passed, {bad} failed" if good or bad else line)
        passed += good
        failed += bad
    for python in untested():
        print(f"{python:14} not tested: pyproject.toml has no classifier for it")
    if (status or not passed) and not failed:
        failed = 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
