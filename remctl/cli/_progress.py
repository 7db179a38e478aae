# SPDX-License-Identifier: MIT
"""The progress bar of --progress."""

from __future__ import annotations

import os
from contextlib import suppress

from remctl.cli._process import STDERR, write

WIDTH = 30  # characters between the brackets


class ProgressBar:
    """Shows on a terminal how many hosts are done."""

    def __init__(self, total: int, wanted: bool) -> None:
        """Draw nothing yet, and nothing at all unless ``wanted`` and on a terminal."""
        self._total = total
        self._done = 0
        self._enabled = wanted and os.isatty(STDERR)
        self._drawn = 0  # characters that are on the terminal

    def draw(self) -> None:
        """Draw the bar; the cursor must be on an empty line."""
        if self._enabled:
            full = WIDTH * self._done // self._total
            text = f"[{'#' * full:.<{WIDTH}}] {self._done}/{self._total} hosts"
            self._write(f"\r{text}")
            self._drawn = len(text)

    def clear(self) -> None:
        """Make the cursor's line empty again."""
        if self._drawn:
            blanks = " " * (self._drawn + len("^C"))  # which the terminal echoes
            self._write(f"\r{blanks}\r")
            self._drawn = 0

    def advance(self) -> None:
        """Count one more host as done."""
        self._done += 1
        self.draw()

    def _write(self, text: str) -> None:
        with suppress(OSError):  # the terminal is gone
            write(STDERR, text.encode())
