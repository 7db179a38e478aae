# SPDX-License-Identifier: MIT
"""Take each guard of ``hazards.py`` out of the package and see its tests fail.

    python tests/soak/without_guards.py [NUMBER ...]

Builds the package without the guard beside the installed one, for each in turn, and
prints which of its tests noticed.  Exits with 0 if for every guard one did.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from guards import without
from hazards import HAZARDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from guards import Removal

TESTS = Path(__file__).parent.parent
SOURCES = ["pyproject.toml", "setup.py", "build_remctl.py", "README.md", "LICENSE"]


def build(number: int, removal: Removal, directory: Path) -> Path:
    """Return where the package is, without a guard of the row ``number``."""
    source, target = directory / "source", directory / "target"
    source.mkdir()
    for name in SOURCES:
        shutil.copy(TESTS.parent / name, source)
    for name in ("_remctl", "remctl"):
        shutil.copytree(TESTS.parent / name, source / name)
    file = source / "remctl" / removal.file
    file.write_text(without(number, removal), encoding="utf-8")
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    subprocess.run([sys.executable, *command, str(source)], check=True)
    return target


def fails(tests: Sequence[str], package: Path) -> bool:
    """Return whether one of the tests fails with this package."""
    # A test that times out counts as failed, so the limit is far above what any takes
    # on a busy machine.  By a thread: without a guard, signals may not get through.
    options = ["-qx", "--color=no", "-o", "timeout=60", "-o", "timeout_method=thread"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )
    output = result.stdout.splitlines() or ["nothing"]
    print(
        "    ", output[-1] if result.returncode >= 0 else f"signal {result.returncode}"
    )
    # A name that is not there any more would fail any test.
    if result.returncode > 1 or "NameError: " in result.stdout:
        raise SystemExit(result.stdout + result.stderr)
    return result.returncode != 0  # 1, or the signal that it died of


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("numbers", type=int, nargs="*", metavar="NUMBER")
    numbers = parser.parse_args().numbers or list(HAZARDS)
    unnoticed = []
    count = 0
    for number in numbers:
        hazard = HAZARDS[number]
        for removal in hazard.removals:
            marks = ", ".join(removal.replacements)
            print(f"{marks}: {hazard.guard} ({removal.file})", flush=True)
            count += 1
            with tempfile.TemporaryDirectory() as directory:
                if not fails(hazard.tests, build(number, removal, Path(directory))):
                    unnoticed.append(number)
    print(f"{count} guards taken out, not noticed: {unnoticed or 'none'}")
    return int(bool(unnoticed))


if __name__ == "__main__":
    sys.exit(main())
