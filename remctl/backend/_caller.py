# SPDX-License-Identifier: MIT
"""Who runs the command, as remctld tells it in the environment."""

from __future__ import annotations

import os

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class Caller:
    """Who runs the command, and from where.  It cannot be changed.

    ``user`` is the authenticated Kerberos principal (REMOTE_USER), ``addr`` the
    client's IPv4 or IPv6 address (REMOTE_ADDR), and ``command`` the remctl command
    (REMCTL_COMMAND), which is "help" or the word of ``summary=`` when remctld asks
    for these.

    ``host`` is the name that the client's address has in the reverse DNS
    (REMOTE_HOST), or None.  Whoever runs that DNS chooses it: use it for logging
    only.  ``expires`` is when the session ends, which is when the client's ticket
    does (REMOTE_EXPIRES), in UTC, or None where remctld does not know.
    """

    # Not a dataclass: importing dataclasses takes twice as long as starting Python.

    user: str
    addr: str
    command: str
    host: str | None
    expires: datetime | None

    def __init__(
        self,
        user: str,
        addr: str,
        command: str,
        host: str | None = None,
        expires: datetime | None = None,
    ) -> None:
        """Describe a caller, for tests of a program; see from_environ()."""
        vars(self).update(
            user=user, addr=addr, command=command, host=host, expires=expires
        )

    def __setattr__(self, name: str, value: object) -> None:
        """Raise AttributeError."""
        raise AttributeError(f"a Caller cannot be changed: {name!r}")

    def __eq__(self, other: object) -> bool:
        """Compare all attributes."""
        return isinstance(other, Caller) and vars(self) == vars(other)

    def __hash__(self) -> int:
        """Return the same for equal callers."""
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        """Return the expression that makes it."""
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"Caller({values})"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Caller:
        """Return the caller that ``environ``, by default os.environ, describes.

        Raises:
            LookupError: REMOTE_USER, REMOTE_ADDR or REMCTL_COMMAND is missing: it
                was not remctld that ran this program.
            ValueError, OverflowError: REMOTE_EXPIRES is no time.

        Does not block.

        """
        from datetime import datetime, timezone  # noqa: PLC0415  # only programs that ask for the caller need it

        for name in ("REMOTE_USER", "REMOTE_ADDR", "REMCTL_COMMAND"):
            if not environ.get(name):
                raise LookupError(f"{name} is not set: this is not run by remctld")
        seconds = int(environ.get("REMOTE_EXPIRES", "0"))
        return cls(
            user=environ["REMOTE_USER"],
            addr=environ["REMOTE_ADDR"],
            command=environ["REMCTL_COMMAND"],
            host=environ.get("REMOTE_HOST"),
            expires=datetime.fromtimestamp(seconds, timezone.utc) if seconds else None,
        )
