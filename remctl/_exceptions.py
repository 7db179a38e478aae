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

from remctl._public import publish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from remctl._stage import Stage


class RemctlError(Exception):
    """A remctl operation failed.

    ``value`` and ``str()`` hold the text: libremctl's own and more, where that
    has one.

    ``stage`` tells where it failed, and so whether the command may be repeated:

    - ``"resolve"``: the name service;
    - ``"connect"``: TCP;
    - ``"authenticate"``: tickets, the KDC, the handshake;
    - ``"send"``: sending the command, which may have arrived all the same;
    - ``"reply"``: waiting for the reply or reading it; the server's own errors,
      and RemctlStatusError.  The command may have run;
    - None: none of them, as in a RemctlNotOpenedError.  The call has sent
      nothing.

    Before ``"send"``, no command has been sent, and none has run.

    ``__cause__`` is the OSError, where it was one that failed.
    """

    def __init__(self, value: str = "", stage: Stage | None = None) -> None:
        """Keep the text of the error, and the stage."""
        super().__init__(value)
        self.args: tuple[Any, ...] = (value,) if stage is None else (value, stage)
        self.value = value
        self.stage: Stage | None = stage

    def __str__(self) -> str:
        """Return the text."""
        return str(self.value)  # callers may have passed something else than a str


class RemctlNotOpenedError(RemctlError):
    """There is no open connection to a server.

    If a failure has closed it, or has kept it from being opened, ``__cause__`` is
    a copy of that failure.
    """


class RemctlProtocolError(RemctlError):
    """The server answered with an error, or remctl.remctl() failed.

    ``code`` is the server's error code (an ErrorCode where the protocol
    specification names it, else an int), or None when it was not the server
    that reported the error.
    """

    def __init__(
        self, value: str = "", code: int | None = None, stage: Stage | None = None
    ) -> None:
        """Keep the text of the error, the server's error code, and the stage."""
        super().__init__(value, stage)
        # Not passed to __init__(): of two arguments, TimeoutError takes the first for
        # an errno.
        self.args: tuple[Any, ...] = (
            (value, code) if stage is None else (value, code, stage)
        )
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
