# SPDX-License-Identifier: MIT
"""The realm, the servers and the connections that the tests use."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import hypothesis
import pytest
from scripted import ScriptedServer, ScriptedServers
from support import remctl_conf

import remctl
from remctl._connection import spoke_protocol2
from remctl.testing import Realm, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    max_examples=25,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("suite")


def pytest_report_header() -> str:
    """Say which package is tested, and with what."""
    return f"remctl: {Path(remctl.__file__).parent}, {sys.implementation.name}"


@pytest.fixture(scope="session", autouse=True)
def realm() -> Iterator[Realm]:
    """A realm, in whose environment all tests run, with tickets for `user`."""
    with Realm() as realm, realm.applied():
        yield realm


@pytest.fixture(autouse=True)
def _environment(realm: Realm) -> Iterator[None]:
    """Undo what a test does to the environment, and to what servers are known for.

    The kernel gives a port that a protocol 2 server had to one of protocol 1.
    """
    spoke_protocol2.clear()
    before = dict(os.environ)
    yield
    for name in set(os.environ) | set(before):
        if name.startswith("KRB5") and os.environ.get(name) != before.get(name):
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


@pytest.fixture(scope="session")
def server(realm: Realm) -> Iterator[Server]:
    """A real remctld with the commands in tests/commands."""
    with Server(realm, remctl_conf(realm)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[remctl.Remctl]:
    """An open connection to the real remctld."""
    with remctl.Remctl(server.host, server.port) as client:
        yield client


@pytest.fixture(scope="session")
def scripted_servers(realm: Realm) -> Iterator[ScriptedServers]:
    """What starts the scripted servers."""
    with ScriptedServers(realm.env) as servers:
        yield servers


@pytest.fixture
def scripted(
    scripted_servers: ScriptedServers,
) -> Iterator[Callable[..., ScriptedServer]]:
    """Start servers that do as they are told: a list of steps for each connection."""
    with ExitStack() as stack:

        def start(*connections: list[Any], **options: Any) -> ScriptedServer:
            server = scripted_servers.start(connections, **options)
            return stack.enter_context(server)

        yield start
