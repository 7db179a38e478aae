# SPDX-License-Identifier: MIT
"""What ``python -m remctl`` does, and the case of one host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import remctl
from remctl._client import Remctl
from remctl._console import (
    FAILED,
    PIPE_CLOSED,
    READING,
    SERVER_ERROR,
    STDERR,
    STDOUT,
    complain,
    describe,
    exit_status,
    keep_open,
    on_interrupt,
    write,
)
from remctl._exceptions import RemctlError
from remctl._options import UsageError, parse, parser

if TYPE_CHECKING:
    from remctl._options import Options


def main(arguments: list[str]) -> int:
    """Do what the command line ARGUMENTS say; return the exit status."""
    on_interrupt(lambda: None)
    keep_open()
    try:
        options = parse(arguments)
        if options.help:
            write(STDOUT, parser().format_help().encode())
            return 0
        if options.version:
            write(STDOUT, f"remctl-cffi {remctl.__version__}\n".encode())
            return 0
        if len(options.hosts) > 1:
            from remctl._fleet import run_fleet  # noqa: PLC0415 (brings asyncio)

            return run_fleet(options)
        return run(options)
    except UsageError as error:
        complain(str(error))
    except BrokenPipeError:
        return PIPE_CLOSED
    except OSError as error:
        complain(f"local write of command output failed: {error.strerror}")
    return FAILED


def run(options: Options) -> int:
    """Run the command on the one host; return the exit status."""
    doing = ""
    try:
        with Remctl(
            timeout=options.timeout,
            ccache=options.ccache,
            source_ip=options.source_ip,
        ) as client:
            client.open(options.hosts[0], options.port, options.principal)
            if options.debug:
                complain("connected")
            client.command(options.command)
            if options.debug:
                complain(f"sent {len(options.command)} arguments")
            doing = READING
            while True:
                token = client.output()
                if options.debug:
                    complain(describe(token))
                output = token.output or b""
                if token.type == "output":
                    write(token.stream or STDOUT, output)
                elif token.type == "error":
                    write(STDERR, output + b"\n")
                    return SERVER_ERROR
                else:
                    return exit_status(token.status)
    except RemctlError as error:
        complain(doing + error.value)
    return FAILED
