# SPDX-License-Identifier: MIT
"""The guards that are marked in the package, and the package without one.

``/* guard 33 */`` in C and ``# guard 33`` in Python, at the end of a line, mark this
line as the guard of row 33 of ``hazards.py``.  A row with several guards has the marks
33a and 33b, and a line that guards against two hazards has ``guard 26, 41``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parent.parent / "remctl"
SUFFIXES = {".c", ".py"}

MARK = re.compile(r"(?:/\*|#) guard (\d+[a-z]?(?:, \d+[a-z]?)*)(?: \*/)?$")


class GuardError(Exception):
    """A mark that a row names is not where it should be; the text says what to do."""


class Removal(NamedTuple):
    """What takes a guard out of one file of the package."""

    file: str
    # For the mark of each line, what stands in place of the line.
    replacements: dict[str, str]


def marks(text: str) -> list[tuple[str, int]]:
    """Return the marks in a file's text, each with the index of its line."""
    return [
        (mark, index)
        for index, line in enumerate(text.splitlines())
        if (found := MARK.search(line)) is not None
        for mark in found[1].split(", ")
    ]


def read(file: str) -> str:
    """Return the text of a file of the package."""
    return (PACKAGE / file).read_text(encoding="utf-8")


def written(mark: str, file: str) -> str:
    """Return the mark as it is written in the file."""
    return f"/* guard {mark} */" if file.endswith(".c") else f"# guard {mark}"


def without(number: int, removal: Removal) -> str:
    """Return the text of the removal's file without the guard of the row ``number``.

    Raises GuardError if a mark is not there, or more than once.
    """
    text = read(removal.file)
    lines = text.splitlines()
    for mark, replacement in removal.replacements.items():
        places = [index for each, index in marks(text) if each == mark]
        if len(places) != 1:
            raise GuardError(explain(number, removal.file, mark, places))
        line = lines[places[0]]
        indentation = line[: len(line) - len(line.lstrip())]
        lines[places[0]] = indentation + replacement
    return "\n".join(lines) + "\n"


def explain(number: int, file: str, mark: str, places: list[int]) -> str:
    """Say where a mark is, in place of on one line, and what to do."""
    comment = written(mark, file)
    if places:
        where = " and ".join(str(index + 1) for index in places)
        return (
            f"row {number} of tests/hazards.py: {comment} is on the lines {where} of "
            f"remctl/{file}.  Leave it on the one line that is the guard, and give "
            f"another guard of the same row a mark of its own, such as {number}b, and "
            "a Removal."
        )
    return (
        f"row {number} of tests/hazards.py: {comment} is not in remctl/{file}.  Put it "
        "at the end of the line that guards against this now.  If that is another "
        "file, or needs another replacement, change the row's Removal.  Show with "
        f"nox -s guards -- {number} that a test notices when it is gone."
    )
