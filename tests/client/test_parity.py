# SPDX-License-Identifier: MIT
"""remctl.aio has the interface of the blocking one, name by name."""

from __future__ import annotations

import inspect

import pytest

import remctl
import remctl.aio

METHODS = [
    name
    for name in dir(remctl.Remctl)
    if not name.startswith("_") or name == "__init__"
]


def test_names() -> None:
    """S63: the twin has what the blocking interface has, and no more."""
    assert [name for name in dir(remctl.aio.Remctl) if not name.startswith("_")] == [
        name for name in METHODS if not name.startswith("_")
    ]
    assert remctl.aio.__all__ == ["Remctl", "remctl"]


@pytest.mark.parametrize("name", ["remctl", *METHODS])
def test_parity(name: str) -> None:
    """S63: arguments, defaults, annotations, and the first line of the docstring."""
    blocking, twin = (
        getattr(module if name == "remctl" else module.Remctl, name)
        for module in (remctl, remctl.aio)
    )
    if name == "opened":
        blocking, twin = blocking.fget, twin.fget
    assert inspect.signature(blocking) == inspect.signature(twin)
    awaited = name in {"remctl", "open", "command", "output", "run", "noop"}
    assert inspect.iscoroutinefunction(twin) == awaited
    if name != "__init__":  # which opens a connection there, and not here
        docs = [inspect.getdoc(each) or "" for each in (blocking, twin)]
        assert docs[0].split("\n\n")[0] == docs[1].split("\n\n")[0]
