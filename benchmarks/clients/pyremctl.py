# SPDX-License-Identifier: MIT
"""The client for pyremctl, with two methods that its users write for themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from blocking import Blocking

import remctl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Client(remctl.Remctl):
    """pyremctl's Remctl."""

    def run(self, command: Iterable[object]) -> Any:
        """Run a command whose output is on standard output, and return its result."""
        self.command(command)
        pieces = []
        while True:
            token = self.output()
            if token[0] != "output":
                break
            pieces.append(token[1] or b"")
        return SimpleNamespace(stdout=b"".join(pieces), status=token[3])

    def __iter__(self) -> Iterator[Any]:
        """Read the command's tokens."""
        while True:
            token = self.output()
            yield token
            if token[0] != "output":
                return


Blocking("import remctl", remctl.remctl, Client).main()
