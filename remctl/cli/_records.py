# SPDX-License-Identifier: MIT
"""The client's log records, which -d shows."""

from __future__ import annotations

import logging
from typing import Callable


class Writer(logging.Handler):
    """A handler that passes the text of each record on."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """Pass them to ``write``."""
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one on."""
        self._write(record.getMessage())


def show_records(write: Callable[[str], None]) -> None:
    """Pass all that the client logs to ``write``."""
    logger = logging.getLogger("remctl")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(Writer(write))
