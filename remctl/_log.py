# SPDX-License-Identifier: MIT
"""The logger "remctl", for programs that have imported logging.

A program that has not imported it has no handler either.  So the client does not import
it: that takes longer than a command.
"""

from __future__ import annotations

import sys
from itertools import count

from remctl._explain import peer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any

DEBUG = 10  # logging.DEBUG
WARNING = 30

# For callers, too, to whom a call of enabled() costs too much: in a program without
# logging, looking here saves 2,686 instructions of each command.
modules = sys.modules
found: list[logging.Logger] = []  # the logger, once it has been looked for
numbers = count(1)


def enabled(level: int) -> bool:
    """Whether a record of this level would go anywhere."""
    if "logging" not in modules:
        return False
    if not found:
        # Another thread may be importing it just now.
        logging = modules["logging"]
        if not hasattr(logging, "NullHandler"):
            return False
        logger = logging.getLogger("remctl")
        # Without a handler of the program's, warnings would go to standard error.
        logger.addHandler(logging.NullHandler())
        found.append(logger)
    return found[0].isEnabledFor(level)


class Log:
    """What is logged about one connection: each record names it and its server."""

    def __init__(self, host: str, port: int | None) -> None:
        """Log about a connection to this server, which gets a number."""
        self.host = host
        self.port = port
        self._number = next(numbers)

    @property
    def peer(self) -> str:
        """The server's host and port, as they are shown."""
        return peer(self.host, self.port)

    def debug(self, message: str, *arguments: Any) -> None:
        """Make a DEBUG record.  ``arguments`` must have no control characters."""
        self._log(DEBUG, message, arguments)

    def warning(self, message: str, *arguments: Any) -> None:
        """Make a WARNING record, as debug() does."""
        self._log(WARNING, message, arguments)

    def _log(self, level: int, message: str, arguments: tuple[Any, ...]) -> None:
        if not enabled(level):
            return
        logger = found[0]
        text = f"%s, connection %d: {message}"
        values = (self.peer, self._number, *arguments)
        file, line, function, _ = logger.findCaller(stacklevel=3)
        record = logger.makeRecord(
            logger.name, level, file, line, text, values, None, function
        )
        # Not with extra=, which refuses names that a program's record factory has set.
        vars(record).update(host=self.host, port=self.port, connection=self._number)
        logger.handle(record)
