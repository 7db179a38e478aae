# SPDX-License-Identifier: MIT
"""The main function of ``python -m remctl``."""

from __future__ import annotations

import remctl
from remctl.cli._one_host import run_one_host
from remctl.cli._options import UsageError, parse, parser
from remctl.cli._process import (
    FAILED,
    PIPE_CLOSED,
    STDOUT,
    complain,
    exit_on_interrupt,
    open_missing_streams,
    write,
)


def main(arguments: list[str]) -> int:
    """Do what the command line ``arguments`` say; return the exit status."""
    exit_on_interrupt()
    open_missing_streams()
    try:
        options = parse(arguments)
        if options.help:
            write(STDOUT, parser().format_help().encode())
            return 0
        if options.version:
            write(STDOUT, f"remctl-cffi {remctl.__version__}\n".encode())
            return 0
        if len(options.hosts) == 1 and (options.json or options.hosts_file is None):
            return run_one_host(options)
        # Imports asyncio, which takes longer than everything else.
        from remctl.cli._several_hosts import run_several_hosts  # noqa: PLC0415

        return run_several_hosts(options)
    except (UsageError, remctl.RemctlError) as error:  # a cache that is not supported
        complain(str(error))
    except BrokenPipeError:
        return PIPE_CLOSED
    except OSError as error:
        complain(f"local write of command output failed: {error.strerror}")
    return FAILED
