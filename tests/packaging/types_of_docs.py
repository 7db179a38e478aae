# SPDX-License-Identifier: MIT
"""Check the types of all Python code in README.md and in the site.

With ``mypy --strict`` and with pyright, as its readers may do.  Not a test for pytest,
as these two do not run on all Pythons: ``nox -s lint`` runs it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from blocks import BLOCKS, ROOT, Block

SHOWN = ROOT / "examples" / "fleet_asyncio.py"  # in the site; mypy's anyway


def module(block: Block) -> str:
    """Return the name of the file in which the code is checked; all have another."""
    page = re.sub(r"\W", "_", block.page.removesuffix(".md"))
    return block.file or f"{page}_{block.line}.py"


def main() -> int:
    """Check all of them; return the exit status."""
    blocks = {module(block): block for block in BLOCKS if block.language == "python"}
    assert len(blocks) == sum(block.language == "python" for block in BLOCKS)
    with tempfile.TemporaryDirectory() as directory:
        for name, block in blocks.items():
            (Path(directory) / name).write_text(block.text, encoding="utf-8")
        # It is compiled where it is installed, which takes minutes.
        stub = "from typing import Any\ndef __getattr__(name: str) -> Any: ...\n"
        (Path(directory) / "gssapi.pyi").write_text(stub)
        # Otherwise each would find the configuration of whoever runs this.
        config = Path(directory) / "pyrightconfig.json"
        settings = {
            "include": [".", os.path.relpath(SHOWN, directory)],
            "extraPaths": [str(ROOT)],
        }
        config.write_text(json.dumps(settings))
        strict = ["--strict", "--config-file=", "--python-executable", sys.executable]
        commands = [
            ["mypy", *strict, *sorted(blocks)],
            ["pyright", "--project", directory, "--pythonpath", sys.executable],
        ]
        env = {**os.environ, "MYPYPATH": str(ROOT)}
        statuses = [
            subprocess.run(command, cwd=directory, env=env, check=False).returncode
            for command in commands
        ]
    print(f"{len(blocks)} blocks")
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
