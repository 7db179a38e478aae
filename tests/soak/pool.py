# SPDX-License-Identifier: MIT
"""Load: threads and tasks share a pool, while its server is stopped and started.

    python tests/soak/pool.py --commands 10000

Each command has to return its own reply or raise a RemctlError, and the server must
not have more connections than the pool may open.  Prints a summary for the blocking
pool and one for the asyncio one, with what was lost by exception, and exits with 0 if
nothing went wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import itertools
import json
import platform
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from support import collect, commands, descriptors, wait_until

import remctl
import remctl.aio
from remctl.testing import Realm

if TYPE_CHECKING:
    from remctl.testing import Server

SIZE = 8
THREADS = 16
TASKS = 64

# Seconds before whoever has lost a command goes on.
PAUSE = 0.1

ESTABLISHED = "01"  # in /proc/net/tcp


class Counts:
    """What has become of the commands, and of the server."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.right = 0
        self.wrong = 0
        self.lost = Counter[str]()
        self.most_connections = 0
        self.disturbances = Counter[str]()

    def reply(self, number: int, result: remctl.RemctlSimpleResult) -> None:
        """Count a command that has come back."""
        right = (result.stdout, result.status) == (b"%d\0" % number, 0)
        self.right += right
        self.wrong += not right

    def loss(self, error: remctl.RemctlError) -> None:
        """Count a command that was lost."""
        text = re.sub(r"(port |localhost:)\d+", r"\1N", str(error))
        self.lost[f"{type(error).__name__} ({error.stage}): {text}"] += 1


def connections(port: int) -> set[str]:
    """Return the other ends of the connections that the kernel has for a server."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    local = f":{port:04X}"
    fields = [line.split() for line in lines]
    return {
        each[2] for each in fields if each[1].endswith(local) and each[3] == ESTABLISHED
    }


def disturb(
    server: Server, realm: Realm, counts: Counts, over: threading.Event
) -> None:
    """Stop, kill and reload the server, and start it again."""

    def restart(end: Callable[[], None]) -> None:
        end()
        over.wait(0.2)  # connections are refused meanwhile
        server.start()

    ways: dict[str, Callable[[], None]] = {
        "stop": lambda: restart(server.stop),
        "kill": lambda: restart(server.kill),
        "reload": lambda: server.reload(commands(realm)),
    }
    for name in itertools.cycle(ways):
        if over.wait(1):
            return
        ways[name]()
        counts.disturbances[name] += 1


def count_connections(server: Server, counts: Counts, over: threading.Event) -> None:
    """Note the largest number of connections that there were at the same time."""
    port = server.port
    before: set[str] = set()
    while not over.wait(0.01):
        # Reading the table takes a while, in which connections end and others begin.
        # Those that are there twice were all there between the two times.
        now = connections(port)
        counts.most_connections = max(counts.most_connections, len(before & now))
        before = now


def run_threads(server: Server, number: int, counts: Counts) -> None:
    """Run the commands in threads."""
    numbers = iter(range(number))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                mine = next(numbers, None)
            if mine is None:
                return
            try:
                result = pool.run(["test", "args", mine])
            except remctl.RemctlError as error:
                with lock:
                    counts.loss(error)
                time.sleep(PAUSE)
            else:
                with lock:
                    counts.reply(mine, result)

    with remctl.Pool(server.host, server.port, size=SIZE, timeout=60) as pool:
        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def run_tasks(server: Server, number: int, counts: Counts) -> None:
    """Run the commands in tasks."""

    async def main() -> None:
        numbers = iter(range(number))
        async with remctl.aio.Pool(
            server.host, server.port, size=SIZE, timeout=60
        ) as pool:

            async def work() -> None:
                for mine in numbers:
                    try:
                        counts.reply(mine, await pool.run(["test", "args", mine]))
                    except remctl.RemctlError as error:
                        counts.loss(error)
                        await asyncio.sleep(PAUSE)

            await asyncio.gather(*(work() for _ in range(TASKS)))

    asyncio.run(main())


def main() -> int:
    """Run both pools, and print what became of their commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=10_000)
    options = parser.parse_args()
    faulthandler.enable()
    good = True
    with Realm() as realm, realm.applied(), realm.server(commands(realm)) as server:
        remctl.remctl(server.host, server.port, None, ["test", "hello"])
        for run in (run_threads, run_tasks):
            before = descriptors()
            counts, over = Counts(), threading.Event()
            helpers = [
                threading.Thread(target=disturb, args=(server, realm, counts, over)),
                threading.Thread(target=count_connections, args=(server, counts, over)),
            ]
            for helper in helpers:
                helper.start()
            run(server, options.commands, counts)
            over.set()
            for helper in helpers:
                helper.join()
            collect()
            wait_until(lambda before=before: descriptors() <= before)  # type: ignore[misc]
            lost = sum(counts.lost.values())
            summary = {
                "interpreter": f"{sys.implementation.name} {platform.python_version()}",
                "pool": run.__name__,
                "commands": options.commands,
                "right": counts.right,
                "wrong": counts.wrong,
                "lost": lost,
                "most connections": counts.most_connections,
                "disturbances": counts.disturbances,
                "lost by exception": dict(counts.lost.most_common()),
            }
            print(json.dumps(summary, indent=2))
            good &= counts.wrong == 0 and counts.right > 0
            good &= counts.right + lost == options.commands
            good &= 0 < counts.most_connections <= SIZE
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
