# SPDX-License-Identifier: MIT
"""The recipes in examples/, run as a reader would."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import HANG, commands

if TYPE_CHECKING:
    from remctl.testing import Realm

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

FLEETS = ["asyncio", "threads"]
if sys.implementation.name == "cpython":
    FLEETS.append("dask")  # distributed wants gc.callbacks, which PyPy has not


@pytest.mark.parametrize("name", FLEETS)
def test_fleet(name: str, realm: Realm) -> None:
    """Three servers and one that is not there: results and errors, and a bar."""
    with ExitStack() as stack:
        fleet = [stack.enter_context(realm.server(commands(realm))) for _ in range(3)]
        servers = [f"{server.host}:{server.port}" for server in fleet]
        dead = "localhost:1"
        result = subprocess.run(
            [
                sys.executable,
                str(EXAMPLES / f"fleet_{name}.py"),
                ",".join([*servers, dead, *servers]),
                "test",
                "hello",
            ],
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=HANG,
            check=False,
        )
    lines = result.stdout.splitlines()
    good = [f"{server}: hello world (status 0)" for server in servers]
    assert lines[:3] == lines[4:] == good, result.stderr
    assert lines[3].startswith(f"{dead}: cannot connect to localhost")
    assert result.returncode == 1
    assert "7/7" in result.stderr
