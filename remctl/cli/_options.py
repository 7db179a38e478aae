# SPDX-License-Identifier: MIT
"""The options of the command line, parsed and checked before anything is sent."""

from __future__ import annotations

import argparse
import os
from typing import NoReturn, TypedDict

from remctl import _arguments

DESCRIPTION = """\
Run a command on a remote host, or on several at once, authenticated with
Kerberos.  Options end at HOST: what follows COMMAND goes to it untouched.
"""

NOTES = """\
Exit status:
  The command's own, or 255 if the server refuses to run it, 1 if anything
  else fails or the usage is wrong, 130 on Ctrl-C, 141 if nobody reads the
  output any more.

Several hosts:
  At most 64 run at a time.  Each line of output has its host before it, and
  the last line on standard error sums up.  The exit status is the highest of
  the commands', or 255 if any host could not or would not run the command.
"""


class UsageError(Exception):
    """The command line is wrong; the text says how."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises its errors, as remctl(1) exits with 1 for them."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; {self.prog} -h shows the usage")


class ConnectionArguments(TypedDict):
    """The arguments of remctl.Remctl() and remctl.aio.Remctl()."""

    host: str
    port: int | None
    principal: str | None
    timeout: float
    ccache: str | None
    source_ip: str | None


class Options(argparse.Namespace):
    """A parsed command line."""

    hosts: list[str]
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
    help: bool
    version: bool

    def connection(self, host: str) -> ConnectionArguments:
        """Return the arguments for a connection to ``host``, one of the hosts."""
        return {
            "host": host,
            "port": self.port,
            "principal": self.principal,
            "timeout": self.timeout,
            "ccache": self.ccache,
            "source_ip": self.source_ip,
        }


def parser() -> Parser:
    """Return a parser of the options, which leaves all other words in ``words``."""
    result = Parser(
        prog="python -m remctl",
        usage="%(prog)s [OPTION ...] HOST[,HOST ...] COMMAND [ARGUMENT ...]",
        description=DESCRIPTION,
        epilog=NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
        "--progress",
        action="store_true",
        help="with several hosts, show on a terminal how many are done",
    )
    add("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return result


def parse(arguments: list[str]) -> Options:
    """Return the options that the command line ``arguments`` hold, or raise UsageError.

    Reads the file that -f names.
    """
    our_parser = parser()
    options = our_parser.parse_args(arguments, Options())
    if options.help or options.version:
        return options
    # Options end at the first other word, or at "--", which argparse does not remove.
    words = options.words
    if words[:1] == ["--"]:
        del words[0]
    if len(words) < 2:
        our_parser.error("a host and a command are needed")
    options.hosts = words[0].split(",")
    # The bytes that Python decoded, whatever its encoding for them was.
    options.command = [os.fsencode(word) for word in words[1:]]
    try:
        for host in options.hosts:
            _arguments.server(host, options.port, options.principal)
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
