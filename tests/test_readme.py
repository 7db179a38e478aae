# SPDX-License-Identifier: MIT
"""The Python blocks of README.md, run as they stand against a real remctld.

The convention: each block is a program of its own that talks to "foo.example.com",
written just so, as the first argument of remctl.remctl() or remctl.Remctl() and with
no port after it.  The test puts "localhost" and our port in its place, and changes
nothing else.  A block may run the commands below (see tests/commands), uses at least
one of them, and prints what they say.  A block with test functions is a module for
pytest.  The shell's blocks name scripts that exist.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import run_python

if TYPE_CHECKING:
    from remctl.testing import Server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
HOST = '"foo.example.com"'
TEST = "def test_"

# What a block must print when it runs a command.
PRINTED = {
    '"test", "hello"': "hello world",
    '"test", "lines", 3': "line 3",
    ".status": "exit status: 0",
}


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of README.md in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_both_interfaces_are_shown() -> None:
    """One block at least for each, and none that the test below would not find."""
    programs = blocks("python")
    assert any("remctl.remctl(" in program for program in programs)
    assert any("remctl.Remctl(" in program for program in programs)
    fences = re.findall("^ *(?:```|~~~)(.*)$", README, re.MULTILINE)
    assert fences[1::2] == [""] * (len(fences) // 2)
    assert fences[::2].count("python") == len(programs)
    assert set(fences[::2]) <= {"python", "sh"}


@pytest.mark.parametrize("program", [b for b in blocks("python") if TEST not in b])
def test_python_block_runs(server: Server, program: str) -> None:
    """It ends well, warns of nothing, and prints what its commands say."""
    assert HOST in program
    here = program.replace(HOST, f'"{server.host}", {server.port}')
    result = run_python(here, options=("-W", "error"))
    assert (result.returncode, result.stderr) == (0, "")
    expected = [text for source, text in PRINTED.items() if source in program]
    assert expected
    assert [text for text in expected if text not in result.stdout] == []


@pytest.mark.parametrize("module", [b for b in blocks("python") if TEST in b])
def test_test_block_passes(module: str, tmp_path: Path) -> None:
    """In a project of its own, with nothing but this package's fixtures."""
    (tmp_path / "test_block.py").write_text(module)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert f"{module.count(TEST)} passed" in result.stdout


def test_scripts_of_shell_blocks_exist() -> None:
    """The two commands that a newcomer types."""
    scripts = re.findall(r"^(scripts/\S+)", "".join(blocks("sh")), re.MULTILINE)
    assert {"scripts/demo", "scripts/test"} <= set(scripts)
    assert [name for name in scripts if not os.access(ROOT / name, os.X_OK)] == []
