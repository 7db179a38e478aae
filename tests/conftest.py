# SPDX-License-Identifier: MIT
"""The realm, the servers and the connections that the tests use."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import hypothesis
import pytest
from kerberos import forget_configuration
from scripted import ScriptedServer, ScriptedServers
from support import UNDER_VALGRIND, commands
from twin import (
    Loop,
    MeasuringSelector,
    TwinPool,
    TwinRemctl,
    interpreter_at_rest,
    twin_remctl,
)

import remctl
from remctl._connection import spoke_protocol2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remctl.testing import Realm, Server

hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    max_examples=25,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("suite")

# What pytest's caller has set for Python, or ignores (under nohup, say), is not to
# change what the tests see.  The two that stay are set by sessions of the soak.
for name in [name for name in os.environ if name.startswith("PYTHON")]:
    if name not in ("PYTHONMALLOC", "PYTHONPATH"):
        del os.environ[name]
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # Still ignored here, but the default in the programs that tests start.
    signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_sessionstart() -> None:
    """Keep Python from colouring its help and its tracebacks, but not pytest.

    pytest has looked at the variable before.
    """
    os.environ["NO_COLOR"] = "1"


def pytest_report_header() -> str:
    """Say which package is tested, and with what."""
    return f"remctl: {Path(remctl.__file__).parent}, {sys.implementation.name}"


@pytest.fixture(scope="session", autouse=True)
def realm(remctl_realm: Realm) -> Realm:
    """The realm in whose environment all tests run, with tickets for `user`."""
    return remctl_realm


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
            if name == "KRB5_CONFIG":
                forget_configuration()


@pytest.fixture(scope="session")
def server(realm: Realm) -> Iterator[Server]:
    """A real remctld with the commands in tests/helpers/commands."""
    with realm.server(commands(realm)) as server:
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


# Seconds for which one step may keep the event loop from its other tasks.
BLOCKED = 0.05


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that is marked so with both twins.

    The asyncio twin is put into the names remctl.Remctl, remctl.remctl and remctl.Pool:
    a module that has one by a name of its own would run with the blocking twin twice.
    """
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    if "both_twins" not in marks or "blocking_only" in marks:
        return
    for name, value in vars(metafunc.module).items():
        if any(value is each for each in (remctl.Remctl, remctl.remctl, remctl.Pool)):
            message = f"{metafunc.module.__name__}.{name} is the blocking twin always"
            raise pytest.UsageError(message)
    metafunc.parametrize("_twin", ["blocking", "asyncio"], indirect=True)


@pytest.fixture(scope="session")
def measured() -> MeasuringSelector:
    """The selector of the asyncio twin's event loop."""
    return MeasuringSelector()


@pytest.fixture(scope="session")
def loop(measured: MeasuringSelector) -> Iterator[Loop]:
    """The event loop of the asyncio twin."""
    TwinRemctl.loop = Loop(asyncio.SelectorEventLoop(measured))
    yield TwinRemctl.loop
    TwinRemctl.loop.close()


@pytest.fixture(autouse=True)
def _twin(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the asyncio twin stand for the blocking one; see that no call blocks it."""
    if getattr(request, "param", "blocking") == "blocking":
        yield
        return
    loop: Loop = request.getfixturevalue("loop")
    measured: MeasuringSelector = request.getfixturevalue("measured")
    # In other modules the tests themselves keep the interpreter busy.
    measures = request.node.get_closest_marker("loop_stays_free") is not None
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(remctl, "Remctl", TwinRemctl)
        patch.setattr(remctl, "remctl", twin_remctl)
        patch.setattr(remctl, "Pool", TwinPool)
        if measures:
            stack.enter_context(interpreter_at_rest())
        measured.longest = 0.0
        yield
        loop.run(asyncio.sleep(0))  # until the last call's last step is measured, too
    if measures and not UNDER_VALGRIND:
        assert measured.longest < BLOCKED
