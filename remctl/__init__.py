# SPDX-License-Identifier: MIT
"""Run single commands on remote hosts with remctl, authenticated with Kerberos.

    import remctl

    result = remctl.remctl("foo.example.com", command=["test", "hello"], timeout=30)
    print(result.check().text())

    remctl.aio        the same for asyncio
    remctl.testing    for tests: a Kerberos realm, real servers, and fakes
    remctl.backend    the server's side: the programs that remctld runs
    remctl._remctl    the C library's own functions, one to one
    remctl-cffi -h    the command line, also as python -m remctl

remctl() runs one command.  Remctl keeps a connection for any number of commands,
Pool several of them.  They return a RemctlSimpleResult, or RemctlOutput by token.
They raise RemctlError, or what is derived from it: RemctlProtocolError,
RemctlTimeoutError, RemctlNotOpenedError; check() raises RemctlStatusError.
Stage has the names of the stages of a call; ErrorCode and Stream are enumerations.
"""

# The names are imported when they are first used, so that importing remctl.backend does
# not import the client: its programs are started for every command.  Importing typing
# would take too long, too.
TYPE_CHECKING = False

# Also for programs such as PyInstaller, which read here what the package imports.
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
    from remctl._pool import Pool
    from remctl._results import (
        ErrorCode,
        RemctlOutput,
        RemctlSimpleResult,
        RemctlStatusError,
        Stream,
    )
    from remctl._stage import Stage

__all__ = [
    "VERSION",
    "ErrorCode",
    "Pool",
    "Remctl",
    "RemctlError",
    "RemctlNotOpenedError",
    "RemctlOutput",
    "RemctlProtocolError",
    "RemctlSimpleResult",
    "RemctlStatusError",
    "RemctlTimeoutError",
    "Stage",
    "Stream",
    "__version__",
    "remctl",
]

# pyproject.toml reads it from here, and nothing has to read the package's metadata.
__version__ = "1.0.0"
VERSION: str = __version__  # its name in pyremctl

if not TYPE_CHECKING:  # as a type checker would accept any name then
    _SUBMODULES = {"_remctl", "aio", "backend", "testing"}

    def __getattr__(name: str) -> object:
        """Import the module or the public name, and keep it."""
        if name in _SUBMODULES:
            from importlib import import_module  # noqa: PLC0415 (see above)

            return import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "Stage":
            from remctl._stage import Stage  # noqa: PLC0415 (imports typing)

            return globals().setdefault(name, Stage)
        from remctl import _client, _exceptions, _pool, _results  # noqa: PLC0415

        # All at once, as nothing can be imported any more when the interpreter exits.
        found = {
            **vars(_client),
            **vars(_exceptions),
            **vars(_results),
            "Pool": _pool.Pool,
        }
        for other in __all__:
            if other in found:
                globals().setdefault(other, found[other])
        return globals()[name]

    def __dir__() -> list[str]:
        """Include the names that have not been used yet."""
        return sorted({*globals(), *__all__, *_SUBMODULES})


del TYPE_CHECKING
