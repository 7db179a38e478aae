# SPDX-License-Identifier: MIT
"""The server's side: programs that remctld runs, written in Python.

A program declares its commands with functions, and runs the one it is asked for::

    import sys
    from remctl.backend import Backend, Caller, CommandError

    backend = Backend(command="user", help_banner="User remctl help:")

    @backend.command(args_match={"name": "[a-z]+"})
    def show(name: str, field: str | None = None) -> None:
        '''Show a user, or one field of the entry.'''
        if name not in users:
            raise CommandError(f"no such user: {name}")
        print(...)

    if __name__ == "__main__":
        sys.exit(backend.run())

With this line in remctl.conf, ``remctl HOST user show jane`` runs it, ``remctl HOST
help`` prints a line for each command, and ``remctl HOST help user show`` all that is
known of one::

    user ALL /usr/local/bin/user summary=summary help=help ANYUSER

**Arguments** are the function's parameters, as many as it says: optional ones have
defaults, and ``*names`` takes any number.  An annotation says what each takes; it may
be ``| None`` or Optional.

``str``, or none
    Printable text in UTF-8, as str.isprintable() has it: no control characters.
``int``
    A decimal number of at most 100 ASCII digits, perhaps with a sign.
``bytes``
    Any bytes that remctld passes: without NUL, and at most about 128 KiB, except on
    standard input.

``args_match`` has regular expressions for them.  What does not fit is refused before
the function is called, with the messages of Perl's Net::Remctl::Backend and status
255.

**Data** that is large or binary comes on standard input: the client sends it as an
argument like any other, and remctld's ``stdin=`` takes it out.  ``stdin="image"``
makes all of it an argument again, of type bytes::

    @backend.command(stdin="image")
    def upload(name: str, image: bytes) -> None:

    user upload /usr/local/bin/user stdin=last ANYUSER

**Options** are argparse's.  They stand before the arguments, the first of which ends
them.  Their values are keyword-only parameters of the same names::

    def list_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-l", "--long", action="store_true")

    @backend.command("list", options=list_options)
    def list_users(*, long: bool) -> None:

**Nested commands** belong to a group; ``group.command("")`` is for the group's name
alone::

    photo = backend.group("photo")

    @photo.command()
    def upload(...):

**The caller** is ``Caller.from_environ()``: the principal, the address, and when the
ticket expires.

**Failing**: a command returns its exit status, or None for 0.  ``raise
CommandError("no such user: jane")`` writes ``user show: no such user: jane`` and exits
with 1, or the status it is given.  Any other exception is a bug: one line on standard
error, status 255, and with ``Backend(syslog=True)`` its traceback in syslog.

A program is started for each command, so this package imports little: neither
the client, nor cffi, nor typing or inspect; re only where a pattern is used, and
argparse only in programs that have options.
"""

from remctl.backend._backend import Backend, Group
from remctl.backend._caller import Caller
from remctl.backend._errors import CommandError

__all__ = ["Backend", "Caller", "CommandError", "Group"]

# As remctl._public does it, but without another import.
for _class in (Backend, Caller, CommandError, Group):
    _class.__module__ = __name__
