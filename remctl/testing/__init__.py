# SPDX-License-Identifier: MIT
"""For tests of what uses remctl: a throwaway realm, a real remctld, or neither.

Realm is a Kerberos realm with a KDC of its own, and Realm.server() a real remctld in
it, whose commands are given in Python.  Both are context managers::

    with Realm() as realm, realm.applied():
        with realm.server({"test hello": "echo hello"}) as server:
            remctl.remctl(server.host, server.port, command=["test", "hello"])

They need the extra ``remctl-cffi[testing]``, MIT Kerberos and remctld (Debian:
krb5-kdc, krb5-admin-server, krb5-user and remctl-server), and have been tried on
Linux.  No root is needed, and nothing but loopback is used.

Tests with pytest get them from the fixtures ``remctl_realm`` and ``remctl_server``:
see pytest_remctl.  ``python -m remctl.testing`` starts both from a shell.

FakeRemctl is a remctl.Remctl without a server, for unit tests.  It needs nothing.
That of remctl.testing.aio is a remctl.aio.Remctl.
"""

from __future__ import annotations

from remctl.testing._commands import Command
from remctl.testing._daemon import MissingError, StartError
from remctl.testing._fake import FakeRemctl
from remctl.testing._realm import Realm
from remctl.testing._server import Server

__all__ = ["Command", "FakeRemctl", "MissingError", "Realm", "Server", "StartError"]
