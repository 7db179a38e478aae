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
    assert remctl.aio.__all__ == ["Pool", "Remctl", "remctl"]


POOL_METHODS = ["__init__", "close", "connection", "run"]


def test_names_of_pools() -> None:
    """S72: each twin's pool has the same methods, with the same arguments."""
    for pool in (remctl.Pool, remctl.aio.Pool):
        public = {name for name in dir(pool) if not name.startswith("_")}
        assert {"__init__", *public} == set(POOL_METHODS)
    for name in POOL_METHODS:
        blocking, twin = (
            inspect.signature(getattr(module.Pool, name)).parameters
            for module in (remctl, remctl.aio)
        )
        assert blocking == twin


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
