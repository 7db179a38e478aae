# SPDX-License-Identifier: MIT
"""The exceptions that this package raises.

RemctlError
├── RemctlNotOpenedError
├── RemctlProtocolError
│   └── RemctlTimeoutError    (a TimeoutError, too)
└── RemctlStatusError         (in _results, whose RemctlSimpleResult it holds)

Wrong arguments raise TypeError or ValueError, as everywhere in Python.

``type(e)(*e.args)`` is an equal exception: pickle, copy and the serialisers of
task queues make one so.
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
        return str(self.value)  # a caller's may be none: better that than an error


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
        # Not through the constructors: TimeoutError would read an errno there.
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
    if name == "RemctlStatusError":
        return getattr(sys.modules[__package__], name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
