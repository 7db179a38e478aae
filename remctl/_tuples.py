# SPDX-License-Identifier: MIT
"""Named tuples without typing, which takes as long to import as half the package."""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T")


def named_tuple(declared: type[T]) -> type[T]:
    """Return the named tuple that ``declared`` is for type checkers.

    At run time it is a plain class, whose annotations are the fields.
    """
    fields, values = declared.__annotations__, vars(declared)
    defaults = [values[name] for name in fields if name in values]
    made = namedtuple(declared.__name__, fields, defaults=defaults)  # type: ignore[misc]  # noqa: PYI024
    made.__doc__ = declared.__doc__
    made.__module__ = declared.__module__
    made.__annotations__ = dict(fields)
    return made  # type: ignore[return-value]
