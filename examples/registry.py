#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A small user registry on SQLite, served by remctld.

Each entry belongs to whoever created it, who alone may give it a photo.  The file is
/var/lib/registry/registry.db, or what REGISTRY names.  In remctl.conf:

    registry photo  /usr/local/bin/registry stdin=4 help=help ANYUSER
    registry create /usr/local/bin/registry help=help /etc/remctl/acl/registrars
    registry ALL    /usr/local/bin/registry summary=summary help=help ANYUSER

stdin= counts the subcommand, here "photo", as the first argument: the data for
"registry photo upload NAME DATA" is the fourth, which "photo download" never has.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from remctl.backend import Backend, Caller, CommandError

if TYPE_CHECKING:
    import argparse

FILE = os.environ.get("REGISTRY", "/var/lib/registry/registry.db")
SCHEMA = """
    CREATE TABLE IF NOT EXISTS users (
        name TEXT PRIMARY KEY, full_name TEXT, email TEXT, owner TEXT, photo BLOB
    )
"""
NAME = "[a-z][a-z0-9]{0,15}"
EMAIL = r"[^\s@]+@[^\s@]+"

backend = Backend(
    command="registry", help_banner="User registry remctl help:", syslog=True
)
photo = backend.group("photo")


def connect() -> sqlite3.Connection:
    """Open the database; changes are committed at once."""
    database = sqlite3.connect(FILE, isolation_level=None)
    database.execute(SCHEMA)
    return database


def fetch(name: str, columns: str) -> tuple[object, ...]:
    """Return ``columns`` of ``name``'s entry."""
    with closing(connect()) as database:
        query = f"SELECT {columns} FROM users WHERE name = ?"  # noqa: S608  # ours
        row: tuple[object, ...] | None = database.execute(query, (name,)).fetchone()
    if row is None:
        raise CommandError(f"no such user: {name}")
    return row


def list_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of list."""
    parser.add_argument("-l", "--long", action="store_true", help="show full names")
    parser.add_argument("-n", "--limit", type=int, default=-1, help="at most so many")


@backend.command("list", syntax="[-l] [-n <limit>]", options=list_options)
def list_users(*, long: bool, limit: int) -> None:
    """List all users."""
    query = "SELECT name, full_name FROM users ORDER BY name LIMIT ?"
    with closing(connect()) as database:
        for name, full_name in database.execute(query, (limit,)):
            print(f"{name}: {full_name}" if long else name)


@backend.command(args_match={"name": NAME})
def show(name: str) -> None:
    """Show a user."""
    full_name, email, owner = fetch(name, "full_name, email, owner")
    print(f"name: {name}")
    print(f"full name: {full_name}")
    print(f"email: {email or 'none'}")
    print(f"owner: {owner}")


@backend.command(args_match={"name": NAME, "email": EMAIL})
def create(name: str, full_name: str, email: str | None = None) -> None:
    """Create a user, who has no photo to begin with and belongs to the caller."""
    row = (name, full_name, email, Caller.from_environ().user)
    try:
        with closing(connect()) as database:
            database.execute("INSERT INTO users VALUES (?, ?, ?, ?, NULL)", row)
    except sqlite3.IntegrityError:
        raise CommandError(f"there is such a user: {name}") from None


@backend.command("count")
def count_users(*names: str) -> int:
    """Print how many of these users there are.

    The status is 0 if all of them are there, and 1 otherwise.
    """
    with closing(connect()) as database:
        known = {name for (name,) in database.execute("SELECT name FROM users")}
    found = sum(name in known for name in names)
    print(found)
    return int(found < len(names))


@photo.command("upload", args_match={"name": NAME}, stdin="image")
def upload_photo(name: str, image: bytes) -> None:
    """Give a user of one's own a photo, from standard input."""
    (owner,) = fetch(name, "owner")
    if owner != Caller.from_environ().user:
        raise CommandError(f"the user is not yours: {name}", 2)
    with closing(connect()) as database:
        database.execute("UPDATE users SET photo = ? WHERE name = ?", (image, name))
    print(f"{len(image)} octets")


@photo.command("download", args_match={"name": NAME})
def download_photo(name: str) -> None:
    """Write a user's photo to standard output."""
    (image,) = fetch(name, "photo")
    if not isinstance(image, bytes):
        raise CommandError(f"no photo: {name}")
    sys.stdout.buffer.write(image)


if __name__ == "__main__":
    sys.exit(backend.run())
