# SPDX-License-Identifier: MIT
"""Run a command on many servers at once, in one thread.

    pip install tqdm
    python fleet_asyncio.py HOST[:PORT],... COMMAND [ARGUMENT ...]

Errors are printed beside results.  Exits with 1 if there was one.
"""

from __future__ import annotations

import asyncio
import sys

from tqdm.asyncio import tqdm

import remctl
import remctl.aio

AT_ONCE = 200  # connections
TIMEOUT = 30  # seconds of silence


async def run(
    server: str, command: list[str], room: asyncio.Semaphore
) -> tuple[str, remctl.RemctlSimpleResult | remctl.RemctlError]:
    """Run ``command`` on ``server``; return its name and the result or the error."""
    host, _, port = server.partition(":")
    async with room:
        try:
            result = await remctl.aio.remctl(
                host, port or None, command=command, timeout=TIMEOUT
            )
        except remctl.RemctlError as error:
            return server, error
    return server, result


async def main(servers: list[str], command: list[str]) -> int:
    """Run ``command`` on all ``servers``; return the exit status."""
    room = asyncio.Semaphore(AT_ONCE)
    outcomes = await tqdm.gather(*(run(server, command, room) for server in servers))
    failed = 0
    for server, outcome in outcomes:
        if isinstance(outcome, remctl.RemctlError):
            print(f"{server}: {outcome}")
        else:
            output = outcome.text(errors="replace").rstrip()
            print(f"{server}: {output} (status {outcome.status})")
        failed |= isinstance(outcome, remctl.RemctlError) or outcome.status != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1].split(","), sys.argv[2:])))
