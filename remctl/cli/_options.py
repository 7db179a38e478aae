# SPDX-License-Identifier: MIT
"""The options of the command line, parsed and checked before anything is sent."""

from __future__ import annotations

import argparse
import os
import sys

from remctl import _arguments
from remctl._tuples import named_tuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple, NoReturn, TypedDict

    class ServerArguments(TypedDict):
        """The arguments of open()."""

        host: str
        port: int | None
        principal: str | None

    class Settings(TypedDict):
        """The arguments of Remctl() that are settings."""

        timeout: float
        ccache: str | None
        source_ip: str | None

else:
    NamedTuple = object

DESCRIPTION = """\
Run a command on a remote host, or on several at once, authenticated with
Kerberos.  A HOST is a name or an address, or HOST:PORT; with a port, an IPv6
address has brackets: [::1]:4373.  Options end at HOST: what follows COMMAND
goes to it untouched.
"""

NOTES = """\
Exit status:
  The command's own, or 255 if the server refuses to run it, 1 if anything
  else fails or the usage is wrong, 130 on Ctrl-C, 141 if nobody reads the
  output any more.

Several hosts:
  Each line of output has its host before it, and the last line on standard
  error sums up.  The exit status is the highest of the commands', or 255 if
  any host could not or would not run the command.
"""

# How many hosts run the command at a time.
AT_ONCE = 64

# The columns of the help.  Asking the terminal would import shutil, every time.
WIDTH = 78


class UsageError(Exception):
    """The command line is wrong; the text says how."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises its errors, as remctl(1) exits with 1 for them."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; {self.prog} -h shows the usage")


@named_tuple
class Host(NamedTuple):
    """A host: the word that names it, and what that says."""

    word: str
    name: str
    port: int | None


class Options(argparse.Namespace):
    """A parsed command line."""

    hosts: list[Host]
    hosts_file: str | None
    command: list[bytes]
    words: list[str]
    port: int | None
    principal: str | None
    timeout: float
    ccache: str | None
    source_ip: str | None
    file: str | None
    debug: bool
    progress: bool
    at_once: int
    json: bool
    help: bool
    version: bool

    def server(self, host: Host) -> ServerArguments:
        """Return the arguments of open() for ``host``, one of the hosts."""
        return {
            "host": host.name,
            "port": host.port or self.port,
            "principal": self.principal,
        }

    def settings(self) -> Settings:
        """Return the arguments for a client that is not open yet."""
        return {
            "timeout": self.timeout,
            "ccache": self.ccache,
            "source_ip": self.source_ip,
        }


def parser() -> Parser:
    """Return a parser of the options, which leaves all other words in ``words``."""
    script = sys.argv[0].rpartition("/")[2]
    result = Parser(
        prog=script if script == "remctl-cffi" else "python -m remctl",
        usage="%(prog)s [OPTION ...] HOST[,HOST ...] COMMAND [ARGUMENT ...]\n"
        "       %(prog)s [OPTION ...] --hosts FILE COMMAND [ARGUMENT ...]",
        description=DESCRIPTION,
        epilog=NOTES,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, width=WIDTH
        ),
        add_help=False,
        allow_abbrev=False,
    )
    add = result.add_argument
    add(
        "-b",
        metavar="SOURCE",
        dest="source_ip",
        type=source_address,
        help="connect from this IPv4 or IPv6 address",
    )
    add(
        "-c",
        metavar="CCACHE",
        dest="ccache",
        help="use this credential cache (default: Kerberos's own)",
    )
    add(
        "-d",
        dest="debug",
        action="store_true",
        help="say on standard error what the client does",
    )
    add(
        "-f",
        metavar="FILE",
        dest="file",
        help="pass what FILE holds as the last argument (-: standard input)",
    )
    add("-h", dest="help", action="store_true", help="display this help")
    add(
        "-p",
        metavar="PORT",
        dest="port",
        type=port_number,
        help="the server's port (default: 4373 falling back to 4444)",
    )
    add(
        "-s",
        metavar="SERVICE",
        dest="principal",
        help="the server's principal (default: host/HOST)",
    )
    add(
        "-t",
        metavar="TIMEOUT",
        dest="timeout",
        type=seconds,
        default=0.0,
        help="give up after so many seconds of silence, which may be a fraction"
        " (default: 0, never)",
    )
    add(
        "-v",
        dest="version",
        action="store_true",
        help="display the version of this package",
    )
    add(
        "--at-once",
        metavar="N",
        type=count,
        default=AT_ONCE,
        help=f"run the command on so many hosts at a time (default: {AT_ONCE})",
    )
    add(
        "--hosts",
        metavar="FILE",
        dest="hosts_file",
        help="the hosts are in FILE, one a line, with # before comments (-: standard"
        " input)",
    )
    add(
        "--json",
        action="store_true",
        help="for each host, write one line when it is done: a JSON object with host,"
        " port, status, stdout, stderr, error, stage and seconds",
    )
    add(
        "--progress",
        action="store_true",
        help="with several hosts, show on a terminal how many are done",
    )
    add("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return result


def parse(arguments: list[str]) -> Options:
    """Return the options that the command line ``arguments`` hold, or raise UsageError.

    Reads the files that -f and --hosts name.
    """
    our_parser = parser()
    options = our_parser.parse_args(arguments, Options())
    if options.help or options.version:
        return options
    # Options end at the first other word, or at "--", which argparse does not remove.
    words = options.words
    if words[:1] == ["--"]:
        del words[0]
    if options.hosts_file is not None:
        if options.hosts_file == options.file == "-":
            our_parser.error("standard input cannot be both --hosts and -f")
        if not words:
            our_parser.error("a command is needed")
        options.hosts = hosts_in(options.hosts_file)
    else:
        if len(words) < 2:
            our_parser.error("a host and a command are needed")
        options.hosts = [host(word) for word in words.pop(0).split(",")]
    # The bytes that Python decoded, whatever its encoding for them was.
    options.command = [os.fsencode(word) for word in words]
    try:
        for each in options.hosts:
            _arguments.server(each.name, each.port, options.principal)
        if options.file is not None:
            options.command.append(read_file(options.file))
        _arguments.command(options.command)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return options


def port_number(value: str) -> int:
    """Return the port number that ``value`` is."""
    try:
        number = _arguments.port_number(value)
    except (TypeError, ValueError):
        number = 0
    if not number:
        raise UsageError(f"invalid port number {value}")
    return number


def host(word: str) -> Host:
    """Return the host that ``word`` names, HOST, HOST:PORT or [ADDRESS]:PORT."""
    name, colon, port = word.rpartition(":")
    if word.startswith("[") and word.endswith("]"):
        return Host(word, word[1:-1], None)
    if colon and name.startswith("[") and name.endswith("]"):
        return Host(word, name[1:-1], port_number(port))
    if colon and ":" not in name:
        return Host(word, name, port_number(port))
    return Host(word, word, None)  # an IPv6 address, too


def hosts_in(path: str) -> list[Host]:
    """Return the hosts in the file at ``path``, of which there is at least one."""
    lines = read_file(path).decode("utf-8", "surrogateescape").splitlines()
    words = [line.partition("#")[0].strip() for line in lines]
    if not any(words):
        raise UsageError(f"there are no hosts in {path}")
    return [host(word) for word in words if word]


def count(value: str) -> int:
    """Return the positive number that ``value`` is."""
    if not value.isdecimal() or not int(value):
        raise UsageError(f"invalid number of hosts {value}")
    return int(value)


def seconds(value: str) -> float:
    """Return the time-out in seconds that ``value`` is."""
    try:
        number = _arguments.seconds(float(value))
    except ValueError:
        number = -1
    if number < 0:
        raise UsageError(f"invalid timeout value {value}")
    return number


def source_address(value: str) -> str:
    """Return ``value``, which must be a numeric address."""
    try:
        _arguments.source_family(value)
    except ValueError:
        raise UsageError(f"invalid source address {value}") from None
    return value


def read_file(path: str) -> bytes:
    """Return the content of the file at ``path``, or of standard input for "-"."""
    try:
        with open(path if path != "-" else 0, "rb", closefd=path != "-") as file:
            # No more than shows that it is too large: /dev/zero has no end.
            return file.read(_arguments.MAX_COMMAND + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
