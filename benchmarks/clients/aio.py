# SPDX-License-Identifier: MIT
"""The client for remctl.aio."""

from __future__ import annotations

import asyncio
import time

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

import remctl.aio

RESULT = remctl.RemctlSimpleResult(b"hello\n", None, 0)

# How many connections are opened at a time: remctld's queue of them has five places.
OPENING = 4


async def command(client: remctl.aio.Remctl, given: Arguments) -> None:
    """Run small commands on one connection."""
    turns = Turns(given)
    for _ in turns.turns:
        turns.start()
        result = await client.run(HELLO)
        turns.stop()
        expect(RESULT, result)
    turns.report()


async def connect(given: Arguments) -> None:
    """Open connections."""
    turns = Turns(given)
    for _ in turns.turns:
        client = remctl.aio.Remctl()
        turns.start()
        await client.open(given.host, given.port)
        turns.stop()
        client.close()
    turns.report()


async def one(given: Arguments) -> None:
    """Run small commands, each on a connection of its own."""
    turns = Turns(given)
    for _ in turns.turns:
        turns.start()
        result = await remctl.aio.remctl(given.host, given.port, None, HELLO)
        turns.stop()
        expect(RESULT, result)
    turns.report()


async def noop(client: remctl.aio.Remctl, given: Arguments) -> None:
    """Exchange NOOP messages."""
    turns = Turns(given)
    for _ in turns.turns:
        turns.start()
        answered = await client.noop()
        turns.stop()
        expect(True, answered)
    turns.report()


async def output(client: remctl.aio.Remctl, given: Arguments) -> None:
    """Read as many octets as come, token by token."""
    turns = Turns(given)
    for _ in turns.turns:
        turns.start()
        await client.command(["head", f"-c{given.size}", "/dev/zero"])
        octets = 0
        async for token in client:
            octets += len(token.output or b"")
        turns.stop()
        expect(given.size, octets)
    turns.report(memory=peak())


async def tokens(client: remctl.aio.Remctl, given: Arguments) -> None:
    """Read small tokens, which are all there once the first one is."""
    turns = Turns(given)
    for _ in turns.turns:
        await client.command(["tokens", given.size])
        await client.output()
        turns.start()
        found = 0
        async for token in client:
            found += token.type == "output"
        turns.stop()
        expect(given.size - 1, found)
    turns.report(given.size)


async def whole_tokens(client: remctl.aio.Remctl, given: Arguments) -> None:
    """Read small tokens with run().  The client sleeps until they are there."""
    turns = Turns(given)
    for _ in turns.turns:
        turns.start()
        result = await client.run(["tokens", given.size])
        turns.stop()
        expect(8 * given.size, len(result.stdout or b""))
    turns.report(given.size)


async def whole_output(client: remctl.aio.Remctl, given: Arguments) -> None:
    """Read as many octets as come, with run()."""
    await client.run(HELLO)
    before = memory()
    turns = Turns(given)
    for _ in turns.turns:
        turns.start()
        result = await client.run(["head", f"-c{given.size}", "/dev/zero"])
        turns.stop()
        expect(given.size, len(result.stdout or b""))
        del result  # or the next one would come beside it
    turns.report(memory=peak() - before)


async def send(client: remctl.aio.Remctl, given: Arguments) -> None:
    """Send a large argument."""
    turns = Turns(given)
    argument = bytes(given.size)
    for _ in turns.turns:
        turns.start()
        result = await client.run(["wc", "-c", argument])
        turns.stop()
        expect(b"%d\n" % given.size, result.stdout)
    turns.report()


async def open_many(given: Arguments) -> tuple[list[remctl.aio.Remctl], int]:
    """Open as many connections as the command line says; count threads meanwhile."""
    clients = [remctl.aio.Remctl() for _ in range(given.size)]
    opening = asyncio.Semaphore(OPENING)

    async def open_one(client: remctl.aio.Remctl) -> int:
        async with opening:
            await client.open(given.host, given.port)
            return status("Threads")

    return clients, max(await asyncio.gather(*map(open_one, clients)))


async def sleep(given: Arguments) -> None:
    """Run one slow command on each of many connections."""
    async with remctl.aio.Remctl(given.host, given.port) as first:
        await first.run(HELLO)  # has memory for everything
    before = memory()
    clients, threads = await open_many(given)
    start = time.perf_counter()
    calls = [asyncio.ensure_future(each.run(["sleep", SECONDS])) for each in clients]
    await asyncio.sleep(SECONDS / 2)
    threads = max(threads, status("Threads"))
    size = (memory() - before) / given.size
    results = await asyncio.gather(*calls)
    seconds = time.perf_counter() - start
    expect([0] * given.size, [result.status for result in results])
    report(seconds=seconds, threads=threads, memory=size)
    for client in clients:
        client.close()


async def parallel(given: Arguments) -> None:
    """Run small commands on each of many connections."""
    clients, _ = await open_many(given)

    async def work(client: remctl.aio.Remctl) -> bool:
        return all([await client.run(HELLO) == RESULT for _ in range(given.turns)])

    for _ in range(given.warm):
        await asyncio.gather(*map(work, clients))
    start, cpu = time.perf_counter(), time.process_time()
    right = await asyncio.gather(*map(work, clients))
    total = given.size * given.turns
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    expect([True] * given.size, right)
    report(seconds=seconds / total, cpu=cpu / total)
    for client in clients:
        client.close()


# What opens its connections itself, and what is given one.
ALONE = {"connect": connect, "one": one, "sleep": sleep, "parallel": parallel}
CONNECTED = {
    "command": command,
    "noop": noop,
    "output": output,
    "tokens": tokens,
    "whole_tokens": whole_tokens,
    "whole_output": whole_output,
    "send": send,
}


async def main(given: Arguments) -> None:
    """Do what the command line says."""
    if given.measure in ALONE:
        await ALONE[given.measure](given)
    else:
        async with remctl.aio.Remctl(given.host, given.port) as client:
            await CONNECTED[given.measure](client, given)


if arguments().measure == "import":
    measure_import("import remctl.aio", arguments())
else:
    asyncio.run(main(arguments()))
