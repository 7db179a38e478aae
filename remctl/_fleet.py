# SPDX-License-Identifier: MIT
"""``python -m remctl`` on several hosts: all in one thread, with asyncio."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from remctl import aio
from remctl._console import (
    READING,
    SERVER_ERROR,
    STDERR,
    STDOUT,
    complain,
    describe,
    exit_status,
    on_interrupt,
    one_line,
    write,
)
from remctl._exceptions import RemctlError
from remctl._waiting import SIGNAL_CHECK_INTERVAL

if TYPE_CHECKING:
    from remctl._options import Options

# How many hosts are busy at most; remctl.aio connects to as many at a time.
AT_ONCE = 64

BAR = 30  # characters


class Bar:
    """Shows on a terminal how many hosts are done."""

    def __init__(self, total: int, wanted: bool) -> None:
        """Show nothing yet, and nothing at all if it is not WANTED."""
        self._total = total
        self._done = 0
        self._shown = wanted and os.isatty(STDERR)
        self._drawn = 0

    def draw(self) -> None:
        """Draw it, where the cursor's line is empty."""
        if self._shown:
            full = BAR * self._done // self._total
            text = f"[{'#' * full:.<{BAR}}] {self._done}/{self._total} hosts"
            self._put(f"\r{text}")
            self._drawn = len(text)

    def clear(self) -> None:
        """Make its line empty again."""
        if self._drawn:
            blanks = " " * (self._drawn + len("^C"))  # of the terminal's own
            self._put(f"\r{blanks}\r")
            self._drawn = 0

    def advance(self) -> None:
        """Count one host more."""
        self._done += 1
        self.draw()

    def _put(self, text: str) -> None:
        with suppress(OSError):  # the terminal is gone
            write(STDERR, text.encode())


class Lines:
    """One stream of one host, passed on in whole lines, with the host before each."""

    def __init__(self, host: str, fd: int, bar: Bar) -> None:
        """Write to FD, around BAR."""
        self._host = one_line(host)
        self._fd = fd
        self._bar = bar
        self._pieces: list[bytes] = []  # of a line whose end has not come

    def add(self, data: bytes) -> None:
        """Write what is complete with DATA, and keep the rest."""
        lines, newline, rest = data.rpartition(b"\n")
        if newline:
            self._pieces.append(lines)
            self._write()
        if rest:
            self._pieces.append(rest)

    def end(self) -> None:
        """Write a last line that has no newline; it gets one."""
        if self._pieces:
            self._write()

    def _write(self) -> None:
        lines = b"".join(self._pieces).split(b"\n")
        self._pieces.clear()
        self._bar.clear()
        write(self._fd, b"".join(b"%s: %s\n" % (self._host, line) for line in lines))
        self._bar.draw()


async def run_host(host: str, options: Options, bar: Bar) -> int | None:
    """Run the command on HOST; return its exit status, or None after an error."""
    streams = {fd: Lines(host, fd, bar) for fd in (STDOUT, STDERR)}
    remarks = Lines(host, STDERR, bar)
    doing, problem, status = "", b"", None
    try:
        async with aio.Remctl(
            host,
            options.port,
            options.principal,
            timeout=options.timeout,
            ccache=options.ccache,
            source_ip=options.source_ip,
        ) as client:
            if options.debug:
                remarks.add(b"connected\n")
            await client.command(options.command)
            if options.debug:
                remarks.add(b"sent %d arguments\n" % len(options.command))
            doing = READING
            async for token in client:
                if options.debug:
                    remarks.add(f"{describe(token)}\n".encode())
                output = token.output or b""
                if token.type == "output":
                    streams[token.stream or STDOUT].add(output)
                elif token.type == "error":
                    problem = output
                else:
                    status = exit_status(token.status)
    except RemctlError as error:
        problem = one_line(doing + error.value)
    for stream in streams.values():
        stream.end()
    if status is None:
        remarks.add(problem + b"\n")
    bar.advance()
    return status


async def run_hosts(options: Options, bar: Bar) -> list[int | None]:
    """Run the command on all hosts; return what run_host() does for each."""
    room = asyncio.Semaphore(AT_ONCE)

    async def run_in_turn(host: str) -> int | None:
        async with room:
            return await run_host(host, options, bar)

    tasks = [asyncio.create_task(run_in_turn(host)) for host in options.hosts]
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
                task.result()  # an error in writing ends all
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def summary(hosts: list[str], outcomes: list[int | None]) -> str:
    """Return how many went well, and the names of the others by what they met."""
    parts = [f"{outcomes.count(0)} of {len(hosts)} hosts ok"]
    for kind in [*sorted({status for status in outcomes if status}), None]:
        names = [host for host, status in zip(hosts, outcomes) if status == kind]
        if names:
            what = "error" if kind is None else f"status {kind}"
            parts.append(f"{what}: {','.join(names)}")
    return "; ".join(parts)


def run_fleet(options: Options) -> int:
    """Run the command on all hosts and sum up; return the worst exit status."""
    bar = Bar(len(options.hosts), options.progress)
    on_interrupt(bar.clear)
    bar.draw()
    try:
        outcomes = asyncio.run(run_hosts(options, bar))
    finally:
        bar.clear()
    complain(summary(options.hosts, outcomes))
    return max(SERVER_ERROR if status is None else status for status in outcomes)
