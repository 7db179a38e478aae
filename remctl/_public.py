# SPDX-License-Identifier: MIT
"""Where public names say that they come from."""

from __future__ import annotations


def publish(module: str, *values: object) -> None:
    """Have VALUES say that they are MODULE's, where users import them from.

    Tracebacks and pickles name it, and not one of the private modules.
    """
    for value in values:
        value.__module__ = module
        # A line of the private one's file, which only enumerations keep.
        if "__firstlineno__" in vars(value):
            delattr(value, "__firstlineno__")
