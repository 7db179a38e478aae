# SPDX-License-Identifier: MIT
"""The tests of somebody's project, with nothing but the plugin's fixtures."""

from collections.abc import Callable

import remctl
from remctl.testing import Server


def test_greeting(remctl_server: Callable[..., Server]) -> None:
    """A command and its argument, on a real server."""
    server = remctl_server({"greet world": 'echo "hello, $2"'})
    result = remctl.remctl(server.host, server.port, command=["greet", "world", "you"])
    assert result == remctl.RemctlSimpleResult(b"hello, you\n", None, 0)
