# SPDX-License-Identifier: MIT
"""The exceptions of this package.

RemctlError
├── RemctlNotOpenedError
├── RemctlProtocolError
│   └── RemctlTimeoutError    (a TimeoutError, too)
└── RemctlStatusError         (in _results, whose RemctlSimpleResult it holds)

Wrong arguments raise TypeError or ValueError, as everywhere in Python.

``type(e)(*e.args)`` makes an equal exception, as pickle, copy and the serialisers of
task queues need it.
"""

from __future__ import annotations

import sys
from typing import Any

from remctl._public import publish


class RemctlError(Exception):
    """A remctl operation failed.

    ``value`` and ``str()`` hold the text, which is libremctl's own where it
    has one.
    """

    def __init__(self, value: str = "") -> None:
        """Keep the text of the error."""
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        """Return the text."""
        return str(self.value)  # callers may have passed something else than a str


class RemctlNotOpenedError(RemctlError):
    """There is no open connection to a server."""


class RemctlProtocolError(RemctlError):
    """The server answered with an error, or remctl.remctl() failed.

    ``code`` is the server's error code (an ErrorCode where the protocol
    specification names it, else an int), or None when it was not the server
    that reported the error.
    """

    def __init__(self, value: str = "", code: int | None = None) -> None:
        """Keep the text of the error and the server's error code."""
        super().__init__(value)
        # Not passed to __init__(): of two arguments, TimeoutError takes the first for
        # an errno.
        self.args: tuple[Any, ...] = (value, code)
        self.code = code


class RemctlTimeoutError(RemctlProtocolError, TimeoutError):
    """The server, the KDC or the name service did not answer in time."""


publish(
    "remctl",
    RemctlError,
    RemctlNotOpenedError,
    RemctlProtocolError,
    RemctlTimeoutError,
)


def __getattr__(name: str) -> Any:
    """Find RemctlStatusError, which pickles of version 1.0.0 look for here."""
    if name == "RemctlStatusError" and __package__ in sys.modules:
        return getattr(sys.modules[__package__], name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
