# SPDX-License-Identifier: MIT
"""The code blocks of README.md and of the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
LANGUAGES = {"python", "console", "sh", "remctl.conf", "ini"}


class Block(NamedTuple):
    """A code block: where it is, and what is in it."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str:
        """The name of the file that it is to be, if it has one."""
        match = re.match(r"(?:#!.*\n)?# ([\w-]+\.\w+)\n", self.text)
        return match[1] if match else ""


def read_blocks(page: Path) -> Iterator[Block]:
    """Read the blocks of a page; only Sphinx's own have another fence than these."""
    text = page.read_text(encoding="utf-8")
    fences = re.findall(r"^[ >]*(?:```|~~~)(.*)$", text, re.MULTILINE)
    found = list(re.finditer(r"^```(\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    name = str(page.relative_to(ROOT))
    assert fences[::2] == [match[1] for match in found], f"{name}: another fence"
    for match in found:
        language, block = match.groups()
        if language != "{eval-rst}":
            assert language in LANGUAGES, f"{name}: {language}"
            yield Block(name, text.count("\n", 0, match.start()) + 1, language, block)


PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCKS = [block for page in PAGES for block in read_blocks(page)]
