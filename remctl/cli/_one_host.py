# SPDX-License-Identifier: MIT
"""The command on one host, with the blocking client."""

from __future__ import annotations

from remctl import Remctl, RemctlError
from remctl.cli._output import RawOutput
from remctl.cli._process import complain
from remctl.cli._reply import ReplyPrinter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remctl.cli._options import Options
    from remctl.cli._reply import Output


def run_one_host(options: Options) -> int:
    """Run the command on the only host; return the exit status."""
    if options.debug:
        # Imports logging, which takes longer than a command.
        from remctl.cli._records import show_records  # noqa: PLC0415

        show_records(lambda _, text: complain(text))
    printer = ReplyPrinter(output(options), options)
    client = Remctl(**options.settings())
    try:
        with client:
            client.open(**options.server(options.hosts[0]))
            client.command(options.command)
            printer.sent()
            for token in client:
                printer.print(token)
    except RemctlError as error:
        printer.failed(error)
    printer.finish(client)
    return printer.exit_status()


def output(options: Options) -> Output:
    """Return what writes the reply."""
    if not options.json:
        return RawOutput()
    from remctl.cli._json import JsonOutput  # noqa: PLC0415 (imports json)
    from remctl.cli._progress import ProgressBar  # noqa: PLC0415

    return JsonOutput(options.hosts[0], ProgressBar(1, wanted=False))
