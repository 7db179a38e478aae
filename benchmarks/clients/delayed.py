# SPDX-License-Identifier: MIT
"""The client of delay.py, for this package and for pyremctl.

Called as ``delayed.py MEASURE HOST PORT TURNS THREADS``, it prints the seconds that a
command takes.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from typing import Any, Callable

from common import HELLO, expect

import remctl

PRINCIPAL = "host/localhost"


def check(result: Any) -> None:
    """See that it is the reply to the command."""
    expect((b"hello\n", 0), (result.stdout, result.status))


def each(turns: int, call: Callable[[], object]) -> float:
    """Return the median of some calls' seconds; the first call does not count."""
    call()
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def together(turns: int, threads: int, call: Callable[[], object]) -> float:
    """Return the seconds of all calls in several threads, divided by their number."""
    ready = threading.Barrier(threads + 1)

    def work() -> None:
        call()
        ready.wait()
        for _ in range(turns):
            call()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - start) / (turns * threads)


def main(measure: str, host: str, port: int, turns: int, threads: int) -> None:
    """Measure."""

    def one() -> None:
        check(remctl.remctl(host, port, PRINCIPAL, HELLO))

    def run() -> None:
        client.command(HELLO)
        expect(b"hello\n", client.output()[1])
        expect("status", client.output()[0])

    def pooled() -> None:
        check(pool.run(HELLO))

    client: Any = remctl.Remctl()
    if measure in ("run", "noop"):
        client.open(host, port, PRINCIPAL)
    if "pool" in measure:
        pool = remctl.Pool(host, port, PRINCIPAL, size=threads)
    if measure == "threads":
        print(together(turns, threads, one))
    elif measure == "pool_threads":
        print(together(turns, threads, pooled))
    else:
        calls = {"one": one, "run": run, "pool": pooled, "noop": client.noop}
        print(each(turns, calls[measure]))


measure, host, *numbers = sys.argv[1:]
port, turns, threads = map(int, numbers)
main(measure, host, port, turns, threads)
