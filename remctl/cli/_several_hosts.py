# SPDX-License-Identifier: MIT
"""The command on several hosts, with the asyncio client: all in one thread."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from remctl import RemctlError, aio
from remctl._waiting import SIGNAL_CHECK_INTERVAL
from remctl.cli._json import JsonOutput
from remctl.cli._output import LabelledOutput
from remctl.cli._process import SERVER_ERROR, complain, exit_on_interrupt
from remctl.cli._progress import ProgressBar
from remctl.cli._records import show_records
from remctl.cli._reply import ReplyPrinter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from remctl.cli._options import Host, Options


async def run_host(host: Host, options: Options, bar: ProgressBar) -> int | None:
    """Run the command on ``host``; return its exit status, or None after an error."""
    output = JsonOutput(host, bar) if options.json else LabelledOutput(host.word, bar)
    printer = ReplyPrinter(output, options)
    client = aio.Remctl(**options.settings())
    try:
        async with client:
            await client.open(**options.server(host))
            await client.command(options.command)
            printer.sent()
            async for token in client:
                printer.print(token)
    except RemctlError as error:
        printer.failed(error)
    printer.finish(client)
    bar.advance()
    return printer.status


async def run_hosts(options: Options, bar: ProgressBar) -> list[int | None]:
    """Run the command on all hosts; return what run_host() returns for each."""
    slots = asyncio.Semaphore(options.at_once)

    async def run_in_slot(host: Host) -> int | None:
        async with slots:
            return await run_host(host, options, bar)

    tasks = [asyncio.create_task(run_in_slot(host)) for host in options.hosts]
    try:
        pending = set(tasks)
        while pending:
            # With a time-out: a Ctrl-C just before the loop waits would not end it.
            done, pending = await asyncio.wait(
                pending,
                timeout=SIGNAL_CHECK_INTERVAL,
                return_when=asyncio.FIRST_EXCEPTION,
            )
            for task in done:
                task.result()  # raises what ends all hosts: output cannot be written
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def summary(hosts: list[Host], statuses: list[int | None]) -> str:
    """Return how many hosts succeeded, and the others' names for each kind of end."""
    parts = [f"{statuses.count(0)} of {len(hosts)} hosts ok"]
    for kind in [*sorted({status for status in statuses if status}), None]:
        names = [host.word for host, status in zip(hosts, statuses) if status == kind]
        if names:
            label = "error" if kind is None else f"status {kind}"
            parts.append(f"{label}: {','.join(names)}")
    return "; ".join(parts)


def run_several_hosts(options: Options) -> int:
    """Run the command on all hosts and sum up; return the worst exit status."""
    bar = ProgressBar(len(options.hosts), options.progress)
    exit_on_interrupt(bar.clear)
    if options.debug:

        def show(host: str, text: str) -> None:
            with suppress(OSError):  # a record that cannot be written ends no call
                LabelledOutput(host, bar).write_message(text)

        show_records(show)
    bar.draw()
    try:
        statuses = asyncio.run(run_hosts(options, bar))
    finally:
        bar.clear()
    if not options.json:
        complain(summary(options.hosts, statuses))
    return max(SERVER_ERROR if status is None else status for status in statuses)
