# SPDX-License-Identifier: MIT
"""The remctl client: single commands on remote hosts, authenticated with Kerberos.

remctl() runs one command.  Remctl keeps a connection for many.  The low-level
interface, the C library's own functions, is in remctl._remctl.  The server's
side, programs that remctld runs, is in remctl.backend.
"""

# The names are imported when they are first used: remctl.backend, whose programs
# are started for every command, must not wait for the client.  Nor for typing.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from remctl._client import Remctl, remctl
    from remctl._exceptions import (
        RemctlError,
        RemctlNotOpenedError,
        RemctlProtocolError,
        RemctlStatusError,
        RemctlTimeoutError,
    )
    from remctl._results import ErrorCode, RemctlOutput, RemctlSimpleResult, Stream

    __version__: str

__all__ = [
    "ErrorCode",
    "Remctl",
    "RemctlError",
    "RemctlNotOpenedError",
    "RemctlOutput",
    "RemctlProtocolError",
    "RemctlSimpleResult",
    "RemctlStatusError",
    "RemctlTimeoutError",
    "Stream",
    "__version__",
    "remctl",
]

if not TYPE_CHECKING:  # else a type checker would believe in any name

    def __getattr__(name: str) -> object:
        """Import what NAME stands for, and keep it."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415 (see above)

            value: object = version("remctl-cffi")
        else:
            from remctl import _client, _exceptions, _results  # noqa: PLC0415

            value = {**vars(_client), **vars(_exceptions), **vars(_results)}[name]
        return globals().setdefault(name, value)

    def __dir__() -> list[str]:
        """Return also the names that have not been used yet."""
        return sorted({*globals(), *__all__})


del TYPE_CHECKING
