# SPDX-License-Identifier: MIT
"""The commands of a program, by their names, and groups of them."""

from __future__ import annotations

from remctl.backend._command import Command

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Union

    Entry = Union[Command, "Tree"]


class Tree:
    """Commands and further trees, by their names.

    The name "" is for the tree itself, without a subcommand.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> None:
        """Let ENTRY have NAME."""
        if not name.isprintable() or " " in name:
            raise ValueError(f"a name must be printable, and have no space: {name!r}")
        if name in self._entries:
            raise ValueError(f"the name is taken: {name!r}")
        self._entries[name] = entry

    def get(self, name: str) -> Entry | None:
        """Return what has NAME."""
        return self._entries.get(name)

    def find(self, words: list[str]) -> tuple[list[str], Command | None]:
        """Return what of WORDS is a name, and the command that has it.

        Without such a command, the name ends with the word that is not known.
        """
        entry: Entry | None = self
        for used, word in enumerate(words):
            if not isinstance(entry, Tree):
                return words[:used], entry
            entry = entry.get(word) if word else None
        if isinstance(entry, Tree):
            entry = entry.get("")
        return words, entry if isinstance(entry, Command) else None

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Command]]:
        """Yield all commands that are not hidden with their names, in order."""
        for name, entry in sorted(self._entries.items()):
            own = (*path, name) if name else path
            if isinstance(entry, Tree):
                yield from entry.walk(own)
            elif not entry.hidden:
                yield " ".join(own), entry
