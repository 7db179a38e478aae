# SPDX-License-Identifier: MIT
"""The module that public names say they come from."""

from __future__ import annotations


def publish(module: str, *values: object) -> None:
    """Set the ``__module__`` of ``values`` to the one that users import them from.

    Tracebacks and pickles then name that module and not a private one.
    """
    for value in values:
        value.__module__ = module
        # A line number in the file of the private module, which enumerations keep.
        if "__firstlineno__" in vars(value):
            delattr(value, "__firstlineno__")
