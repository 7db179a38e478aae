# SPDX-License-Identifier: MIT
"""The table of hazards is whole, and about the package as it is."""

from __future__ import annotations

import re
from pathlib import Path

import guards
import pytest
from guards import GuardError, Removal
from hazards import HAZARDS

HERE = Path(__file__).parent
FILES = sorted(
    str(path.relative_to(guards.PACKAGE))
    for path in guards.PACKAGE.rglob("*")
    if path.suffix in guards.SUFFIXES
)


def test_rows() -> None:
    """None is missing."""
    assert list(HAZARDS) == list(range(1, 79))


@pytest.mark.parametrize("number", HAZARDS)
def test_hazard(number: int) -> None:
    """Its tests are there, its guards can be taken out, and what is said is said."""
    hazard = HAZARDS[number]
    assert hazard.tests
    for test in hazard.tests:
        file, name = re.sub(r"\[.*", "", test).split("::")
        assert f"def {name}(" in (HERE / file).read_text(encoding="utf-8")
    for removal in hazard.removals:
        text = guards.without(number, removal)
        assert text != guards.read(removal.file)
        if removal.file.endswith(".py"):
            # Else the tests would fail because of that.
            compile(text, f"{removal.file} without guard {number}", "exec")
    texts = [
        (HERE.parent / "README.md").read_text(encoding="utf-8"),
        guards.read("_client.py"),
        guards.read("_base.py"),
    ]
    assert hazard.said in " ".join(" ".join(text.split()) for text in texts)


@pytest.mark.parametrize("file", FILES)
def test_marks(file: str) -> None:
    """Each mark in the package is that of a row."""
    known = {
        mark
        for number, hazard in HAZARDS.items()
        for removal in hazard.removals
        for mark in removal.replacements
        if removal.file == file and re.fullmatch(f"{number}[a-z]?", mark)
    }
    for mark, index in guards.marks(guards.read(file)):
        assert mark in known, (
            f"{guards.written(mark, file)} in line {index + 1} of remctl/{file}: no "
            "row of tests/hazards.py has a Removal with this mark and file.  Write "
            "one, or take the mark away."
        )


def test_a_mark_that_is_not_where_it_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text names the row, the file, and what to do."""
    monkeypatch.setattr(guards, "PACKAGE", tmp_path)
    source = tmp_path / "_shim.c"
    removal = Removal("_shim.c", {"33": "nothing();"})
    source.write_text("a();\n    b(); /* guard 32, 33 */\n/* A guard 33 */\n")
    assert guards.without(33, removal) == "a();\n    nothing();\n/* A guard 33 */\n"
    source.write_text("a();\nb();\n")
    with pytest.raises(
        GuardError,
        match=r"^row 33 .*: /\* guard 33 \*/ is not in remctl/_shim.c.  Put it at the "
        r"end .* nox -s guards -- 33 that",
    ):
        guards.without(33, removal)
    source.write_text("a(); /* guard 33 */\n\nb(); /* guard 33 */\n")
    with pytest.raises(
        GuardError,
        match=r"^row 33 .*: /\* guard 33 \*/ is on the lines 1 and 3 of remctl/_shim.c",
    ):
        guards.without(33, removal)
