# SPDX-License-Identifier: MIT
"""A throwaway Kerberos realm and a real remctld, as context managers.

Private for now: this package's own tests and its demo use it, and its interface
may change in any release.  It runs on Linux with MIT Kerberos and needs the extra
``test``.
"""

from __future__ import annotations

from remctl.testing._daemon import StartError
from remctl.testing._realm import Realm
from remctl.testing._server import Server

__all__ = ["Realm", "Server", "StartError"]
