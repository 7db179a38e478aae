# SPDX-License-Identifier: MIT
"""docs/specification.md and the tests that show what it says.

A test cites the statements in its docstring: ``S8``, or ``S8-S11`` for all of these.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
SPECIFICATION = (ROOT / "docs/specification.md").read_text(encoding="utf-8")
NUMBERS = list(map(int, re.findall(r"^### S(\d+)$", SPECIFICATION, re.MULTILINE)))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LABEL = re.compile(r"(?<!noqa: )\bS([0-9]+)(?:-S([0-9]+))?\b")


def cited(text: str) -> set[int]:
    """Return the numbers of the statements that ``text`` cites."""
    return {
        number
        for first, last in LABEL.findall(text)
        for number in range(int(first), int(last or first) + 1)
    }


def docstrings() -> Iterator[str]:
    """Return the docstrings of all test functions."""
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield ast.get_docstring(node) or ""


def test_statements_are_numbered_in_order() -> None:
    """From S1, without a gap."""
    assert list(range(1, 1 + max(NUMBERS))) == NUMBERS


def test_what_is_cited_is_specified() -> None:
    """In tests and in the specification itself."""
    unknown = {
        f"{path.relative_to(ROOT)}: S{number}"
        for path in [*TESTS, ROOT / "docs/specification.md"]
        for number in cited(path.read_text(encoding="utf-8")) - set(NUMBERS)
    }
    assert sorted(unknown) == []


def test_what_is_specified_is_cited() -> None:
    """By the docstring of a test, as that of a module shows nothing."""
    missing = set(NUMBERS).difference(*map(cited, docstrings()))
    assert [f"S{number}" for number in sorted(missing)] == []
