# SPDX-License-Identifier: MIT
"""The remctl client: single commands on remote hosts, authenticated with Kerberos.

remctl() runs one command.  Remctl keeps a connection for many.  The low-level
interface, the C library's own functions, is in remctl._remctl.
"""

from importlib.metadata import version as _version

from remctl._client import Remctl, remctl
from remctl._exceptions import (
    RemctlError,
    RemctlNotOpenedError,
    RemctlProtocolError,
    RemctlStatusError,
    RemctlTimeoutError,
)
from remctl._results import ErrorCode, RemctlOutput, RemctlSimpleResult, Stream

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

__version__ = _version("remctl-cffi")
