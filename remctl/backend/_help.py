# SPDX-License-Identifier: MIT
"""The layout of help, as Net::Remctl::Backend has it.  Imported only for help."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from remctl.backend._command import Command

WIDTH = 79
LONGEST_SYNTAX = 48  # after a longer one, the summary begins on the next line
DEFAULT_COLUMN = 40  # where summaries begin if all syntaxes are longer


def overview(
    commands: Iterable[tuple[str, Command]], banner: str | None, prefix: str | None
) -> str:
    """Return ``banner``, then a line for each command, which begins with ``prefix``."""
    indent = "  " if banner else ""
    rows = [
        (indent + " ".join(filter(None, (prefix, name, command.syntax))), command)
        for name, command in commands
    ]
    lengths = [len(syntax) for syntax, _ in rows if len(syntax) <= LONGEST_SYNTAX]
    column = max(lengths) + 2 if lengths else DEFAULT_COLUMN
    lines = [banner.removesuffix("\n")] if banner else []
    for syntax, command in rows:
        wrapped = [
            " " * column + line for line in wrap(command.summary, WIDTH - column)
        ]
        if wrapped and len(syntax) <= column - 2:
            wrapped[0] = syntax + wrapped[0][len(syntax) :]
        else:
            wrapped.insert(0, syntax)
        lines += wrapped
    return "".join(f"{line}\n" for line in lines)


def details(command: Command) -> str:
    """Return the rest of the docstring and the options, after a blank line."""
    paragraphs = inspect.cleandoc(command.description).partition("\n\n")[2].strip()
    texts = [f"\n{paragraphs}\n"] if paragraphs else []
    if command.parser is not None:
        texts.append("\n" + command.parser.format_help().strip("\n") + "\n")
    return "".join(texts)


def wrap(text: str, width: int) -> Iterator[str]:
    """Break ``text`` into lines as Perl's Text::Wrap does; textwrap breaks at hyphens.

    A word that is longer than a line begins on one of its own.
    """
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = ""
        line = f"{line} {word}" if line else word
        while len(line) > width:
            yield line[:width]
            line = line[width:]
    if line:
        yield line
