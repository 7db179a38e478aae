# SPDX-License-Identifier: MIT
"""The table of hazards is whole, and about the package as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hazards import HAZARDS

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "remctl"


def test_rows() -> None:
    """None is missing."""
    assert list(HAZARDS) == list(range(1, 69))


@pytest.mark.parametrize("number", HAZARDS)
def test_hazard(number: int) -> None:
    """Its tests are there, what would be taken out is, and what is said is said."""
    hazard = HAZARDS[number]
    assert hazard.tests
    for test in hazard.tests:
        file, name = re.sub(r"\[.*", "", test).split("::")
        assert f"def {name}(" in (HERE / file).read_text(encoding="utf-8")
    for removal in hazard.removals:
        text = (PACKAGE / removal.file).read_text(encoding="utf-8")
        assert [text.count(old) for old in removal.replacements] == [1] * len(
            removal.replacements
        )
    texts = [HERE.parent / "README.md", PACKAGE / "_client.py", PACKAGE / "_base.py"]
    said = " ".join(
        " ".join(file.read_text(encoding="utf-8").split()) for file in texts
    )
    assert hazard.said in said
