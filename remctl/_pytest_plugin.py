# SPDX-License-Identifier: MIT
r"""The pytest plugin: a realm and real servers for tests of what uses remctl.

A test asks for them by their names::

    def test_hello(remctl_server):
        server = remctl_server({"test hello": "echo hello"})
        result = remctl.remctl(server.host, server.port, command=["test", "hello"])
        assert result.stdout == b"hello\n"

remctl_realm is a remctl.testing.Realm that lasts for the session.  From its first use
to the session's end os.environ has its variables, so that all that uses Kerberos uses
it.  A test that changes one, such as KRB5CCNAME for another user's tickets, restores it
itself (monkeypatch.setenv).

remctl_server starts servers in that realm: it is called as Realm.server() is, and
returns a running remctl.testing.Server, which ends with the test.  A server for many
tests is a fixture of one's own::

    @pytest.fixture(scope="session")
    def server(remctl_realm):
        with remctl_realm.server({"test hello": "echo hello"}) as server:
            yield server

Where the KDC, remctld or k5test is not installed, such tests fail, and say what to
install.  The line ``remctl_missing = skip`` in pytest's configuration has them skipped.

pytest imports this module in every run where the package is installed, so it imports
the client and its extension only when a fixture is used.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Callable, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remctl.testing import Realm, Server

T = TypeVar("T")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting to pytest's configuration."""
    parser.addini(
        "remctl_missing",
        "Tests for which the KDC or remctld is not installed: error (default) or skip",
        default="error",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Check the setting."""
    value = config.getini("remctl_missing")
    if value not in {"error", "skip"}:
        raise pytest.UsageError(f"remctl_missing is error or skip, not {value!r}")


@pytest.fixture(scope="session")
def remctl_realm(pytestconfig: pytest.Config) -> Iterator[Realm]:
    """Start a Kerberos realm for the session, with tickets for its user."""
    from remctl.testing import Realm  # noqa: PLC0415

    with ExitStack() as stack:
        realm = _start(pytestconfig, lambda: stack.enter_context(Realm()))
        stack.enter_context(realm.applied())
        yield realm


@pytest.fixture
def remctl_server(
    remctl_realm: Realm, pytestconfig: pytest.Config
) -> Iterator[Callable[..., Server]]:
    """Start servers in remctl_realm that end with the test."""
    with ExitStack() as stack:

        def start(*arguments: Any, **options: Any) -> Server:
            server = remctl_realm.server(*arguments, **options)
            return _start(pytestconfig, lambda: stack.enter_context(server))

        yield start


def _start(config: pytest.Config, start: Callable[[], T]) -> T:
    """Call ``start``; fail or skip, as is configured, if something is not installed."""
    from remctl.testing import MissingError  # noqa: PLC0415

    try:
        return start()
    except MissingError as error:
        text = str(error)
    if config.getini("remctl_missing") == "skip":
        pytest.skip(text)
    pytest.fail(text, pytrace=False)
