# SPDX-License-Identifier: MIT
"""The commands of a program and their groups, by name."""

from __future__ import annotations

from remctl.backend._command import Command

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Union

    Entry = Union[Command, "Tree"]


class Tree:
    """Commands and subtrees, by name.

    The name "" is for the tree itself, without a subcommand.
    """

    def __init__(self) -> None:
        """Make an empty tree."""
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> None:
        """Add ``entry`` under ``name``."""
        if not name.isprintable() or " " in name:
            raise ValueError(f"a name must be printable, and have no space: {name!r}")
        if name in self._entries:
            raise ValueError(f"the name is taken: {name!r}")
        self._entries[name] = entry

    def get(self, name: str) -> Entry | None:
        """Return the entry with this ``name``."""
        return self._entries.get(name)

    def find(self, words: list[str]) -> tuple[list[str], Command | None]:
        """Return the part of ``words`` that names a command, and the command.

        If there is no such command, that part ends with the unknown word.
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
