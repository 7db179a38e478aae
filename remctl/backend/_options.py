# SPDX-License-Identifier: MIT
"""Options, parsed by argparse.  Imported only for commands that have options."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from remctl.backend._errors import RefusedError

if TYPE_CHECKING:
    from remctl.backend._parameters import Options

# Not an identifier, so that no option has this destination.
REST = "the rest"


class Parser(argparse.ArgumentParser):
    """A parser of options and the arguments after them; it raises its errors."""

    def __init__(self, options: Options) -> None:
        """Let ``options`` add its options."""
        super().__init__(
            prog="", usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False
        )
        options(self)
        self.add_argument(REST, nargs=argparse.REMAINDER, help=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """Raise RefusedError."""
        raise RefusedError(message)

    def names(self) -> set[str]:
        """Return the destinations that always have a value."""
        values = argparse.Namespace()
        with suppress(RefusedError):  # there may be options that are required
            self.parse_args([], values)
        return set(vars(values)) - {REST}

    def split(self, arguments: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        """Return the values of the options and the arguments after them.

        The first argument that is no option ends the options, and so does ``--``,
        which is removed.  What comes after is left as it is.
        """
        texts = [argument.decode("utf-8", "surrogateescape") for argument in arguments]
        values = vars(self.parse_args(texts))
        first = len(arguments) - len(values.pop(REST))
        for number, text in enumerate(texts[:first], 1):
            if not text.isprintable():
                raise RefusedError(f"invalid data in argument #{number}")
        if arguments[first : first + 1] == [b"--"]:
            first += 1
        return values, arguments[first:]
