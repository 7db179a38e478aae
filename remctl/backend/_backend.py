# SPDX-License-Identifier: MIT
"""Declaring commands, and running the one that remctld asks for."""

from __future__ import annotations

import os
import sys

from remctl.backend._command import Command
from remctl.backend._errors import DIED, CommandError, ProgramError
from remctl.backend._streams import (
    complain,
    log,
    settle,
    use_utf8,
    write,
)
from remctl.backend._tree import Tree

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Callable, Optional, TypeVar

    from remctl.backend._parameters import Options, Pattern

    Function = TypeVar("Function", bound=Callable[..., Optional[int]])


class Group:
    """Commands under one name: see Backend.group()."""

    def __init__(self, tree: Tree) -> None:
        """Declare commands in ``tree``."""
        self._tree = tree

    def command(
        self,
        name: str | None = None,
        *,
        syntax: str | None = None,
        summary: str | None = None,
        args_match: Mapping[str, Pattern] | None = None,
        args_min: int | None = None,
        args_max: int | None = None,
        stdin: str | None = None,
        options: Options | None = None,
        hidden: bool = False,
    ) -> Callable[[Function], Function]:
        """Make the decorated function a command.  It stays an ordinary function.

        Args:
            name: What clients call it; by default, the function's own name.  The
                name "" is for the program or group without a subcommand.
            syntax: Its arguments as the help shows them, "" for none; by default,
                what the signature says.
            summary: What it does, for the help; by default, the docstring's first
                paragraph.
            args_match: Regular expressions by the names of parameters.  The whole
                argument must match; for ``*args``, each of them.  Parameters of
                type bytes have expressions of bytes.
            args_min: The least number of arguments, the data from standard input
                included, where the signature would allow fewer.
            args_max: The greatest number, where the signature would allow more.
            stdin: The name of the parameter, of type bytes and without a default,
                that gets all of standard input.  It may be keyword-only: then it
                counts as the last argument, whatever their number.
            options: A function that is called with an argparse.ArgumentParser, at
                once, to add options to it.  The command gets their values as
                keyword arguments.
            hidden: Leave it out of the help.

        Raises:
            TypeError: The function's parameters are not such as remctl.backend
                describes, or the options are not its keyword-only ones.
            ValueError: The name is taken, or not printable, or has a space; or the
                arguments do not fit the function.

        Does not block.

        """

        def declare(function: Function) -> Function:
            command = Command(
                function,
                syntax=syntax,
                summary=summary,
                args_match=args_match or {},
                args_min=args_min,
                args_max=args_max,
                stdin=stdin,
                options=options,
                hidden=hidden,
            )
            self._tree.add(function.__name__ if name is None else name, command)
            return function

        return declare

    def group(self, name: str) -> Group:
        """Return a new group, whose commands clients call as ``name`` SUBCOMMAND.

        Raises:
            ValueError: The name is taken, empty or not printable, or has a space.

        Does not block.

        """
        if not name:
            raise ValueError("a group must have a name")
        tree = Tree()
        self._tree.add(name, tree)
        return Group(tree)


class Backend(Group):
    """The commands of one program, and what runs them.

    Args:
        command: The remctl command that the program serves; the lines of the help
            and the errors begin with it.
        help_banner: The first line of the help, such as "User registry help:".
        syslog: Whether to send the tracebacks of exceptions to syslog, with priority
            LOG_ERR; syslog.openlog() sets the rest.

    """

    def __init__(
        self,
        *,
        command: str | None = None,
        help_banner: str | None = None,
        syslog: bool = False,
    ) -> None:
        """Begin without commands."""
        super().__init__(Tree())
        self._command = command
        self._help_banner = help_banner
        self._syslog = syslog

    def help(self) -> str:
        """Return the help: the banner, and a line or more for each command.

        Its lines have 79 columns at most, unless a syntax is longer.
        """
        from remctl.backend._help import overview  # noqa: PLC0415  # see there

        return overview(self._tree.walk(), self._help_banner, self._command)

    def run(self, arguments: Iterable[str | bytes] | None = None) -> int:
        """Run the command that ``arguments`` ask for, and return the exit status.

        ``arguments`` are by default the program's own, sys.argv[1:].  Standard output
        and standard error are set to UTF-8, whatever the locale is.  Blocks as long
        as the command does.

        The status is what the command returned, 0 for None; or that of the
        CommandError it raised; or 255 when it raised anything else, when there is no
        such command, when the arguments were refused, or when standard output could
        not be written to.  For each of these errors there is a line on standard
        error.  SystemExit and KeyboardInterrupt are not caught.
        """
        if arguments is None:
            arguments = map(os.fsencode, sys.argv[1:])
        data = [
            item if isinstance(item, bytes) else item.encode("utf-8", "surrogateescape")
            for item in arguments
        ]
        words = [item.decode("utf-8", "surrogateescape") for item in data]
        path, command = self._tree.find(words)
        try:
            use_utf8()
            if command is not None:
                status = command.run(data[len(path) :])
            elif words[:1] in (["help"], ["summary"]):
                status = self._print_help(words[0], words[1:])
            else:
                raise ProgramError(f"Unknown command {' '.join(path)}")
            write()
        except Exception as error:  # noqa: BLE001  # whatever the command raises
            status = self._report(" ".join(path), error)
        settle()
        return status

    def _print_help(self, word: str, about: list[str]) -> int:
        """Print what remctld asks for with help= or summary=."""
        if not about:
            write(self.help())
            return 0
        from remctl.backend._help import details, overview  # noqa: PLC0415  # see there

        path, command = self._tree.find(about)
        chosen = [
            (name, other)
            for name, other in self._tree.walk()
            if name.split(" ")[: len(path)] == path
        ]
        if not chosen:
            raise ProgramError(f"Unknown command {' '.join(path)}")
        write(overview(chosen, None, self._command))
        if word == "help" and command is not None:
            write(details(command))
        return 0

    def _report(self, name: str, error: Exception) -> int:
        """Report ``error`` on standard error and to syslog; return the exit status."""
        if isinstance(error, ProgramError):
            complain(str(error))
            return error.status
        prefix = " ".join(filter(None, (self._command, name)))
        if prefix:
            prefix += ": "
        if isinstance(error, CommandError):
            complain(f"{prefix}{error}")
            return error.status
        import traceback  # noqa: PLC0415  # only where something has gone wrong

        lines = traceback.format_exception_only(type(error), error)
        # A SyntaxError has its place in lines before this one, and notes come after it.
        line = next(line for line in lines if not line.startswith(" "))
        complain(f"{prefix}{line.strip()}")
        if self._syslog:
            lines = traceback.format_exception(type(error), error, error.__traceback__)
            log("".join(lines))
        return DIED
