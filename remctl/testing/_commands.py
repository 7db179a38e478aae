# SPDX-License-Identifier: MIT
"""The commands of a remctld: declared in Python, written to remctl.conf."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, Union

if TYPE_CHECKING:
    from typing import Literal

T = TypeVar("T")


@dataclass(frozen=True)
class Command:
    """A command of a server, with its settings in remctl.conf: see remctld(8).

    Args:
        program: A str is a snippet for /bin/sh.  A path, which must be absolute, is a
            program; whether it exists is not checked.  Both get the arguments as
            remctld passes them: ``"$1"`` is the subcommand, unless there is none, and
            ``"$2"`` the first argument after it.
        acl: Who may run it: ``"ANYUSER"``, ``"princ:alice@KRBTEST.COM"``,
            ``"deny:princ:..."``, and so on.  The first entry that matches decides.
        stdin: The number of the argument that is passed on standard input, the
            subcommand being 1, or ``"last"``.
        summary: What is passed as ``"$1"``, before the subcommand, when a client runs
            ``help`` alone.
        help: What is passed as ``"$1"``, before the subcommand, when a client runs
            ``help`` with the command's words.
        user: The local user that runs it, by name or number; remctld must be root.
        logmask: The arguments that are kept from the log, the subcommand being 1.

    Raises:
        TypeError, ValueError: remctl.conf cannot express it.

    """

    program: str | os.PathLike[str]
    acl: Sequence[str] = ("ANYUSER",)
    stdin: int | Literal["last"] | None = None
    summary: str | None = None
    help: str | None = None
    user: str | int | None = None
    logmask: Sequence[int] = ()

    def __post_init__(self) -> None:
        """Check all values."""
        if isinstance(self.program, str):
            if "\0" in self.program:
                raise ValueError("a snippet must not contain NUL")
        elif isinstance(self.program, os.PathLike):
            path = word("the program's path", os.fspath(self.program))
            if not Path(path).is_absolute():
                raise ValueError(f"the program's path must be absolute: {path!r}")
        else:
            raise TypeError(f"a program is a str or a path, not {self.program!r}")
        for entry in sequence("acl", self.acl):
            # remctld would take such an entry for an option.
            if re.match("[A-Za-z][A-Za-z0-9-]*=.", word("an ACL entry", entry)):
                raise ValueError(f"an ACL entry with a = needs its method: {entry!r}")
        if not self.acl:
            raise ValueError("acl must not be empty")
        if self.stdin is not None and self.stdin != "last":
            number("stdin", self.stdin)
        for name, value in (("summary", self.summary), ("help", self.help)):
            if value is not None:
                word(name, value)
        if isinstance(self.user, str):
            word("user", self.user)
        elif self.user is not None:
            number("user", self.user)
        for each in sequence("logmask", self.logmask):
            number("logmask", each)

    def options(self) -> list[str]:
        """Return the options as remctl.conf has them."""
        values = {
            "stdin": self.stdin,
            "summary": self.summary,
            "help": self.help,
            "user": self.user,
            "logmask": ",".join(map(str, self.logmask)) or None,
        }
        return [f"{key}={value}" for key, value in values.items() if value is not None]


Commands = Mapping[str, Union[str, "os.PathLike[str]", Command]]


def checked(commands: Commands) -> list[tuple[str, Command]]:
    """Check the commands, and return them with their names as in remctl.conf."""
    if not isinstance(commands, Mapping):
        raise TypeError("commands must be a mapping")
    return [
        (words(key), value if isinstance(value, Command) else Command(value))
        for key, value in commands.items()
    ]


def write(commands: list[tuple[str, Command]], directory: Path) -> str:
    """Write the snippets to ``directory``; return the text of remctl.conf."""
    lines = []
    for count, (key, command) in enumerate(commands):
        program = command.program
        if isinstance(program, str):
            script = directory / f"{count}.sh"
            program = word("the path of a snippet, see TMPDIR,", str(script))
            text = f"#!/bin/sh\n{command.program}\n"
            script.write_bytes(text.encode("utf-8", "surrogateescape"))
            script.chmod(0o755)
        # The space at the end keeps a trailing backslash from joining two lines.
        fields = [key, os.fspath(program), *command.options(), *command.acl, "\n"]
        lines.append(" ".join(fields))
    return "".join(lines)


def words(key: str) -> str:
    """Check a command and a subcommand."""
    if not isinstance(key, str):
        raise TypeError(f"a command is a str, not {key!r}")
    pair = key.split()
    if len(pair) != 2:
        raise ValueError(
            "a command is two words, the second one a subcommand, EMPTY or ALL: "
            f"{key!r}"
        )
    command, subcommand = (word("a command", each) for each in pair)
    if command.startswith("#"):
        raise ValueError(f"remctl.conf takes it for a comment: {key!r}")
    return f"{command} {subcommand}"


def word(what: str, value: str) -> str:
    """Check one word for remctl.conf, which has no quoting."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {value!r}")
    if not value or re.search(r"[\0-\x20\x7f]", value):
        raise ValueError(
            f"{what} must be one word, as remctl.conf can hold no other: {value!r}"
        )
    return value


def number(what: str, value: int) -> None:
    """Check the number of an argument or of a user."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} must be a number: {value!r}")
    if value < 1:
        raise ValueError(f"{what} must be at least 1: {value!r}")


def sequence(what: str, values: Sequence[T]) -> Sequence[T]:
    """Check that it is a sequence, and not a str."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{what} must be a sequence, not {values!r}")
    return values
