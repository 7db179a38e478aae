# SPDX-License-Identifier: MIT
"""The client's log records, which -d shows."""

from __future__ import annotations

import logging
from typing import Callable


class Writer(logging.Handler):
    """A handler that passes the host and the text of each record on."""

    def __init__(self, write: Callable[[str, str], None]) -> None:
        """Pass them to ``write``."""
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one on."""
        values = vars(record)
        # Without the server and the number: a host has one connection.
        place = f", connection {values['connection']}: "
        self._write(values["host"], record.getMessage().partition(place)[2])


def show_records(write: Callable[[str, str], None]) -> None:
    """Pass all that the client logs to ``write``: the host, and the text."""
    logger = logging.getLogger("remctl")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(Writer(write))
