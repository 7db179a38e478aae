# SPDX-License-Identifier: MIT
"""What is measured of a blocking interface: this package's, and pyremctl's.

Both have a function remctl(), and a class whose objects have command(), output() and
noop() in common; run() and iteration are this package's.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

from common import (
    HELLO,
    SECONDS,
    Arguments,
    Turns,
    arguments,
    expect,
    measure_import,
    memory,
    peak,
    report,
    status,
)


class Blocking:
    """The measures, by name, of a function and a class."""

    def __init__(
        self, statement: str, remctl: Callable[..., Any], client: Callable[..., Any]
    ) -> None:
        """Measure an import, ``remctl()``, and the objects that ``client`` makes."""
        self._import = statement
        self._remctl = remctl
        self._client = client

    def main(self) -> None:
        """Do what the command line says."""
        given = arguments()
        if given.measure == "import":
            measure_import(self._import, given)
        else:
            getattr(self, given.measure)(given)

    def command(self, given: Arguments) -> None:
        """Run small commands on one connection."""
        client = self._client(given.host, given.port)
        turns = Turns(given)
        for _ in turns.turns:
            turns.start()
            result = client.run(HELLO)
            turns.stop()
            expect(b"hello\n", result.stdout)
        turns.report()

    def connect(self, given: Arguments) -> None:
        """Open connections."""
        turns = Turns(given)
        for _ in turns.turns:
            turns.start()
            client = self._client(given.host, given.port)
            turns.stop()
            client.close()
        turns.report()

    def one(self, given: Arguments) -> None:
        """Run small commands, each on a connection of its own."""
        turns = Turns(given)
        for _ in turns.turns:
            turns.start()
            result = self._remctl(given.host, given.port, None, HELLO)
            turns.stop()
            expect(b"hello\n", result.stdout)
        turns.report()

    def noop(self, given: Arguments) -> None:
        """Exchange NOOP messages."""
        client = self._client(given.host, given.port)
        turns = Turns(given)
        for _ in turns.turns:
            turns.start()
            answered = client.noop()
            turns.stop()
            expect(True, answered is not False)  # pyremctl's returns nothing
        turns.report()

    def output(self, given: Arguments) -> None:
        """Read as many octets as come, token by token."""
        client = self._client(given.host, given.port)
        turns = Turns(given)
        for _ in turns.turns:
            turns.start()
            client.command(["head", f"-c{given.size}", "/dev/zero"])
            octets = sum(len(token[1] or b"") for token in client)
            turns.stop()
            expect(given.size, octets)
        turns.report(memory=peak())

    def tokens(self, given: Arguments) -> None:
        """Read small tokens, which are all on their way once the first one is there."""
        client = self._client(given.host, given.port)
        turns = Turns(given)
        for _ in turns.turns:
            client.command(["tokens", str(given.size)])
            client.output()
            turns.start()
            found = sum(token[0] == "output" for token in client)
            turns.stop()
            expect(given.size - 1, found)
        turns.report(given.size)

    def whole_tokens(self, given: Arguments) -> None:
        """Read small tokens with run().  The client sleeps until they are there."""
        client = self._client(given.host, given.port)
        turns = Turns(given)
        for _ in turns.turns:
            turns.start()
            result = client.run(["tokens", str(given.size)])
            turns.stop()
            expect(8 * given.size, len(result.stdout))
        turns.report(given.size)

    def whole_output(self, given: Arguments) -> None:
        """Read as many octets as come, with run()."""
        client = self._client(given.host, given.port)
        client.run(HELLO)
        before = memory()
        turns = Turns(given)
        for _ in turns.turns:
            turns.start()
            result = client.run(["head", f"-c{given.size}", "/dev/zero"])
            turns.stop()
            expect(given.size, len(result.stdout))
            del result  # or the next one would come beside it
        turns.report(memory=peak() - before)

    def send(self, given: Arguments) -> None:
        """Send a large argument."""
        client = self._client(given.host, given.port)
        turns = Turns(given)
        argument = bytes(given.size)
        for _ in turns.turns:
            turns.start()
            result = client.run(["wc", "-c", argument])
            turns.stop()
            expect(b"%d\n" % given.size, result.stdout)
        turns.report()

    def sleep(self, given: Arguments) -> None:
        """Run one slow command in each of many threads."""
        self._client(given.host, given.port).run(HELLO)  # has memory for everything
        before = memory()
        clients = self._clients(given)
        done = []
        ends = []

        def work(client: Any) -> None:
            done.append(client.run(["sleep", str(SECONDS)]).status)
            ends.append(time.perf_counter())

        start = time.perf_counter()
        threads = in_threads(clients, work)
        time.sleep(SECONDS / 2)
        count, size = status("Threads"), memory() - before
        for thread in threads:
            thread.join()
        expect([0] * given.size, done)
        report(seconds=max(ends) - start, threads=count, memory=size / given.size)

    def parallel(self, given: Arguments) -> None:
        """Run small commands in each of many threads."""
        clients = self._clients(given)
        done: list[bytes] = []

        def work(client: Any) -> None:
            done.extend(client.run(HELLO).stdout for _ in range(given.turns))

        for _ in range(given.warm):
            for thread in in_threads(clients, work):
                thread.join()
        done.clear()
        start, cpu = time.perf_counter(), time.process_time()
        for thread in in_threads(clients, work):
            thread.join()
        total = given.size * given.turns
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        expect([b"hello\n"] * total, done)
        report(seconds=seconds / total, cpu=cpu / total)

    def _clients(self, given: Arguments) -> list[Any]:
        return [self._client(given.host, given.port) for _ in range(given.size)]


def in_threads(
    clients: list[Any], work: Callable[[Any], None]
) -> list[threading.Thread]:
    """Start ``work`` with each client in a thread of its own."""
    threads = [threading.Thread(target=work, args=[client]) for client in clients]
    for thread in threads:
        thread.start()
    return threads
