# SPDX-License-Identifier: MIT
"""Run the default sessions of the noxfile, and sum up: "N passed, N failed".

    python scripts/run_sessions.py [-- PYTEST_ARGUMENT ...]

Tests are counted from pytest's reports; a skipped test counts as failed.  A session
that fails without a failed test in a report counts as one failure, and so does a
session of tests that ends well without a report.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent
NOX = ROOT / ".nox"
REPORT = NOX / "report.json"
RESULTS = NOX / "results"  # where the noxfile has pytest write its reports


def count(report: Path) -> tuple[int, int]:
    """Return how many tests passed, and how many did not or were skipped."""
    passed = failed = 0
    for suite in ET.parse(report).getroot().iter("testsuite"):
        bad = sum(int(suite.get(key, 0)) for key in ("errors", "failures", "skipped"))
        passed += int(suite.get("tests", 0)) - bad
        failed += bad
    return passed, failed


def main() -> int:
    """Run nox and return the exit status."""
    shutil.rmtree(RESULTS, ignore_errors=True)
    REPORT.unlink(missing_ok=True)
    # What runs in the background of a shell, or under nohup, ignores these; the tests
    # and what they start must not.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    nox = Path(sys.executable).with_name("nox")
    status = subprocess.run(
        [nox, "--parallel=2", f"--report={REPORT}", *sys.argv[1:]],
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
        check=False,
    ).returncode
    passed = failed = 0
    sessions = json.loads(REPORT.read_text())["sessions"] if REPORT.exists() else []
    for session in sessions:
        name, result = session["signatures"][-1], session["result"]
        report = RESULTS / f"{name}.xml"
        good, bad = count(report) if report.exists() else (0, 0)
        nothing_counted = session["name"] == "tests" and not good
        if result == "failed" or (result == "success" and nothing_counted):
            bad = max(bad, 1)
        line = f"{name:14} {result}"
        print(f"{line}: {good} tests passed, {bad} failed" if good or bad else line)
        passed += good
        failed += bad
    if status and not failed:
        failed = 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
