# SPDX-License-Identifier: MIT
"""The command on one host, with the blocking client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remctl import Remctl, RemctlError
from remctl.cli._output import RawOutput
from remctl.cli._process import complain
from remctl.cli._reply import ReplyPrinter

if TYPE_CHECKING:
    from remctl.cli._options import Options


def run_one_host(options: Options) -> int:
    """Run the command on the only host; return the exit status."""
    if options.debug:
        # Imports logging, which takes longer than a command.
        from remctl.cli._records import show_records  # noqa: PLC0415

        show_records(lambda _, text: complain(text))
    printer = ReplyPrinter(RawOutput(), options)
    try:
        with Remctl(**options.connection(options.hosts[0])) as client:
            client.command(options.command)
            printer.sent()
            for token in client:
                printer.print(token)
    except RemctlError as error:
        printer.failed(error)
    return printer.exit_status()
