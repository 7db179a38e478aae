# SPDX-License-Identifier: MIT
"""For tests of programs that use remctl: a throwaway realm, a real remctld, a fake.

Realm is a Kerberos realm with its own KDC, and Realm.server() a real remctld in
it, whose commands are given in Python.  Both are context managers::

    with Realm() as realm, realm.applied():
        with realm.server({"test hello": "echo hello"}) as server:
            remctl.remctl(server.host, server.port, command=["test", "hello"])

They need the extra ``remctl-cffi[testing]``, MIT Kerberos and remctld (Debian:
krb5-kdc, krb5-admin-server, krb5-user and remctl-server), and have been tried on
Linux.  No root is needed, and nothing but loopback is used.

Tests with pytest get them from the fixtures ``remctl_realm`` and ``remctl_server``:
see remctl._pytest_plugin.  ``python -m remctl.testing`` starts both from a shell.

FakeRemctl is a remctl.Remctl without a server, for unit tests; it needs none of these.
Call is what it records of a command.
remctl.testing.aio has the same for remctl.aio.Remctl.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from remctl import _public
from remctl.testing._commands import Command
from remctl.testing._daemon import MissingError, StartError
from remctl.testing._fake import Call, FakeRemctl
from remctl.testing._realm import Realm
from remctl.testing._server import Server

if TYPE_CHECKING:
    from remctl.testing import aio as aio

__all__ = [
    "Call",
    "Command",
    "FakeRemctl",
    "MissingError",
    "Realm",
    "Server",
    "StartError",
]

_public.publish(
    __name__, Call, Command, FakeRemctl, MissingError, Realm, Server, StartError
)

if not TYPE_CHECKING:  # else a type checker would believe in any name

    def __getattr__(name: str) -> object:
        """Import remctl.testing.aio when it is used; it brings asyncio."""
        if name == "aio":
            from importlib import import_module  # noqa: PLC0415 (not a public name)

            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        """Return also the module that has not been used yet."""
        return sorted({*globals(), "aio"})


del TYPE_CHECKING
