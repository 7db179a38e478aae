# SPDX-License-Identifier: MIT
"""The remctl client: single commands on remote hosts, authenticated with Kerberos.

remctl() runs one command.  Remctl keeps a connection for many.  Their twins for
asyncio are in remctl.aio, and what tests need is in remctl.testing.  The low-level
interface, the C library's own functions, is in remctl._remctl.  The server's
side, programs that remctld runs, is in remctl.backend.
"""

# The names are imported when they are first used: remctl.backend, whose programs
# are started for every command, must not wait for the client.  Nor for typing.
TYPE_CHECKING = False

# Also for programs that look through this one for what it imports, as PyInstaller
# does to take it along.
if TYPE_CHECKING:
    from remctl import _remctl as _remctl
    from remctl import aio as aio
    from remctl import backend as backend
    from remctl import testing as testing
    from remctl._client import Remctl, remctl
    from remctl._exceptions import (
        RemctlError,
        RemctlNotOpenedError,
        RemctlProtocolError,
        RemctlTimeoutError,
    )
    from remctl._results import (
        ErrorCode,
        RemctlOutput,
        RemctlSimpleResult,
        RemctlStatusError,
        Stream,
    )

__all__ = [
    "VERSION",
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

# Here and nowhere else, so that it needs no metadata: pyproject.toml reads it.
__version__ = "1.0.0"
VERSION: str = __version__  # pyremctl's name

if not TYPE_CHECKING:  # else a type checker would believe in any name
    _SUBMODULES = {"_remctl", "aio", "backend", "testing"}

    def __getattr__(name: str) -> object:
        """Import what NAME stands for, and keep it."""
        if name in _SUBMODULES:
            from importlib import import_module  # noqa: PLC0415 (see above)

            return import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from remctl import _client, _exceptions, _results  # noqa: PLC0415

        # All at once: at the interpreter's exit nothing can be imported any more.
        found = {**vars(_client), **vars(_exceptions), **vars(_results)}
        for other in __all__:
            if other in found:
                globals().setdefault(other, found[other])
        return globals()[name]

    def __dir__() -> list[str]:
        """Return also the names that have not been used yet."""
        return sorted({*globals(), *__all__, *_SUBMODULES})


del TYPE_CHECKING
