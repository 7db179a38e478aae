# SPDX-License-Identifier: MIT
"""Some seconds of what tests/soak/load.py does for as long as one likes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support import HANG

TESTS = Path(__file__).parent.parent
RIGHT = {"small", "streams", "noop", "one_shot", "across a fork", "afterwards"}
LOST = (
    "RemctlTimeoutError: error receiving token: timed out (",
    "RemctlError: cannot connect to localhost (port N): Connection refused",
)


def test_load() -> None:
    """Each call returns its own reply or raises, whatever happens to the servers."""
    result = subprocess.run(
        [sys.executable, TESTS / "soak/load.py", "--seconds", "15", "--threads", "16"],
        env={**os.environ, "PYTHONPATH": str(TESTS / "helpers")},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    summary = json.loads(result.stdout)
    assert (summary["wrong"], summary["hung"], summary["died"]) == (0, 0, 0)
    assert summary["calls"] == summary["right"] + summary["lost"]
    assert set(summary["right by action"]) >= RIGHT
    for text in LOST:
        assert any(error.startswith(text) for error in summary["lost by exception"])
    assert summary["kills"] > 0
