# SPDX-License-Identifier: MIT
"""Thousands of connections, failed opens and cancelled calls: is anything left?

    python tests/soak/leaks.py --cycles 10000

Prints, for each kind of cycle, the slope of the resident memory in bytes a cycle, over
the second half of the cycles, and what descriptors and threads there are more than
before.  Exits with 0 if there are none, and the slope is below BOUND.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import platform
import resource
import signal
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from typing import Any, Callable

from scripted import ScriptedServers
from stages import PRINCIPAL, in_use, open_on
from support import commands, wait_until

import remctl
import remctl.aio
from remctl.testing import Realm, Server

# Bytes a cycle.  What a connection allocates is kilobytes: one that is lost in each
# cycle, or in each tenth, is seen; and PyPy's heap wavers by a few hundred.
BOUND = 300.0
SAMPLES = 100

Kinds = dict[str, Callable[[int], None]]


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def slope(points: list[tuple[int, int]]) -> float:
    """Return the slope of the line of least squares."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum(
        (x - mean_x) ** 2 for x, _ in points
    )


def kinds(server: Server, scripted: Callable[..., int]) -> Kinds:
    """Return the kinds of cycles: functions of the number of the cycle."""
    broken = [
        scripted([["handshake", {"stop": ["close", 2]}]]),
        scripted([["handshake", {"mangle": "garbage"}]]),
        scripted([["handshake", {"length": 2**32 - 1}]]),
    ]
    mute = scripted(["handshake", "read", "hang"])

    def open_run_close(_: int) -> None:
        with remctl.Remctl(server.host, server.port) as client:
            client.run(["test", "hello"])

    def failed_open(number: int) -> None:
        port, principal = server.port, PRINCIPAL
        if number % 4 < len(broken):
            port = broken[number % 4]
        else:
            principal = "nobody@KRBTEST.COM"
        try:
            remctl.Remctl("127.0.0.1", port, principal)
        except remctl.RemctlError:
            return
        raise AssertionError

    def cancelled_call(number: int) -> None:
        """A time-out, close() in another thread, or a signal handler that raises."""
        client = remctl.Remctl()
        open_on(mute, client)
        noop = number % 2
        if not noop:
            client.command(["test", "x"])
        call = client.noop if noop else client.output
        how = number // 2 % 3
        with suppress(remctl.RemctlError, KeyboardInterrupt):
            if how == 0:
                client.set_timeout(0.001)
            elif how == 1:
                threading.Timer(0.001, client.close).start()
            else:
                signal.setitimer(signal.ITIMER_REAL, 0.001)
            call()
            raise AssertionError
        assert how == 2 or not client.opened  # the signal may have come early
        client.close()

    random = Random(0)

    def cancelled_task(_: int) -> None:
        """A call of the asyncio twin, cancelled at a random moment, or done by then."""
        call = remctl.aio.remctl(server.host, server.port, command=["test", "hello"])
        with suppress(asyncio.TimeoutError):
            asyncio.run(asyncio.wait_for(call, random.uniform(0, 0.006)))

    return {
        "open, run, close": open_run_close,
        "failed open": failed_open,
        "cancelled call": cancelled_call,
        "cancelled task": cancelled_task,
    }


def measure(
    cycle: Callable[[int], None], cycles: int, forget_logs: Callable[[], None]
) -> tuple[float, int, int]:
    """Return the slope, and how many descriptors and threads are left."""
    for number in range(12):  # each variant once
        cycle(number)
    gc.collect()
    before = in_use()
    points = []
    for number in range(cycles):
        cycle(number)
        if number % max(cycles // 2 // SAMPLES, 1):
            continue
        forget_logs()
        if number >= cycles // 2:
            gc.collect()
            points.append((number, resident()))

    def left() -> list[int]:
        gc.collect()
        return [now - then for now, then in zip(in_use(), before)]

    with suppress(AssertionError):
        wait_until(lambda: max(left()) <= 0)
    return (slope(points), *left())  # type: ignore[return-value]  # two numbers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=10_000)
    cycles = parser.parse_args().cycles
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    failed = False
    print(platform.python_implementation(), platform.python_version(), flush=True)
    with Realm() as realm, realm.applied(), ExitStack() as stack:
        server = stack.enter_context(realm.server(commands(realm)))
        servers = stack.enter_context(ScriptedServers(realm.env))
        logs = []

        def scripted(*script: list[Any]) -> int:
            hostile = stack.enter_context(servers.start(script))
            logs.append(hostile.events)
            return hostile.port

        def forget_logs() -> None:
            for log in logs:
                log.clear()

        for name, cycle in kinds(server, scripted).items():
            began = time.monotonic()
            bytes_a_cycle, descriptors, threads = measure(cycle, cycles, forget_logs)
            took = time.monotonic() - began
            print(
                f"{name:18} {cycles} cycles, {took:.0f} s: {bytes_a_cycle:8.1f} bytes "
                f"a cycle, {descriptors:+} descriptors, {threads:+} threads",
                flush=True,
            )
            failed |= bytes_a_cycle > BOUND or descriptors > 0 or threads > 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
