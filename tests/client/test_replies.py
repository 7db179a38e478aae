# SPDX-License-Identifier: MIT
"""How a reply is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

import pytest
from preload import library
from support import run_python

if TYPE_CHECKING:
    from scripted import ScriptedServer

    Scripted = Callable[..., ScriptedServer]


@pytest.mark.parametrize("call", ["run", "output"])
def test_the_rest_of_a_token_comes_between_two_looks(
    call: str, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 73: it is encrypted, whatever the first look has seen of it."""
    slow = ["output", {"text": "hello", "chunk": 6, "delay": 0.05}]
    there = scripted(["handshake", "read", slow, "status"])
    monkeypatch.setenv("LD_PRELOAD", library("late_rest"))
    result = run_python(
        """
        import sys, remctl
        with remctl.Remctl("localhost", int(sys.argv[2])) as client:
            if sys.argv[1] == "run":
                print(client.run(["test"]).text())
            else:
                client.command(["test"])
                print(client.output().output.decode())
        """,
        call,
        there.port,
    )
    assert (result.stdout, result.stderr) == ("hello\n", "")
