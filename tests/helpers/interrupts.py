# SPDX-License-Identifier: MIT
"""Signal handlers that interrupt the package's code wherever a test wants it."""

from __future__ import annotations

import linecache
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import remctl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class Interruption(Exception):
    """What the tests' signal handlers raise."""


@contextmanager
def handler(number: int, function: Callable[..., object]) -> Iterator[None]:
    """Handle a signal with ``function``."""
    previous = signal.signal(number, function)
    try:
        yield
    finally:
        signal.signal(number, previous)


class InterruptLine:
    """Sends SIGUSR1 when the main thread comes to the Nth line of the package."""

    def __init__(self, nth: int) -> None:
        self.left = nth
        self.line = ""
        self.package = str(Path(remctl.__file__).parent)

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename.startswith(self.package):
            if event == "line":
                self.left -= 1
                if self.left == 0:
                    file = frame.f_code.co_filename
                    self.line = linecache.getline(file, frame.f_lineno).strip()
                    signal.raise_signal(signal.SIGUSR1)
            return self
        return None

    def __enter__(self) -> None:
        self.previous = sys.gettrace()
        sys.settrace(self)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.previous)


def interrupt(*_: object) -> None:
    raise Interruption
