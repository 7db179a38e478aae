# SPDX-License-Identifier: MIT
"""Measure what an open connection saves: on loopback, and with a longer way to go.

    unshare --net python benchmarks/delay.py [ROUNDS]

Runs as root, in a network namespace of its own with ``unshare``; after ``chrt --rr 1``,
other work on the machine waits for it.  Prints a table of medians, in milliseconds,
with the least and the greatest of the rounds.

The way is a TUN device.  What is sent into it comes out again after half of the round
trip, with source and destination exchanged: the server, on this machine's own address,
and its client each see the other at an address behind the device.
"""

from __future__ import annotations

import fcntl
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import machine
from contestants import CPYTHON, TITLES, python
from report import number, table
from samples import Results
from servers import PYTHON, running_servers

if TYPE_CHECKING:
    from servers import Servers

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000

DELAYS = [0, 10, 50]  # milliseconds of a round trip
TURNS = 10
THREADS = 8
MEASURES = {
    "one": "one-shot call",
    "run": "a command on one connection",
    "pool": "the same with `pool.run()`",
    "noop": "`noop()`",
    "threads": f"one-shot calls from {THREADS} threads, each command",
    "pool_threads": f"`pool.run()` from {THREADS} threads, each command",
}
CLIENTS: dict[str, str | Path] = {"sync": CPYTHON, "pyremctl": PYTHON}


class Case(NamedTuple):
    """A row of the table."""

    measure: str
    contestant: str


CASES = [
    *(Case(measure, "sync") for measure in MEASURES),
    *(Case(measure, "pyremctl") for measure in MEASURES if "pool" not in measure),
]


def open_way(milliseconds: int) -> str:
    """Make a way of that length, and return the server's address at its other end."""
    name, network = f"way{milliseconds}", f"127.0.{milliseconds}"
    device = os.open("/dev/net/tun", os.O_RDWR)
    request = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI)
    fcntl.ioctl(device, TUNSETIFF, request)
    # IPv6 would have things of its own to say there, and 127.* would not be let in.
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    Path(f"/proc/sys/net/ipv4/conf/{name}/route_localnet").write_text("1")
    ip("link", "set", name, "up")
    ip("route", "add", f"{network}.0/24", "dev", name, "src", "127.0.0.1")
    packets: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def take() -> None:
        while True:
            packet = os.read(device, 65536)
            arrival = time.monotonic() + milliseconds / 2000
            packets.put((arrival, packet))

    def give() -> None:
        while True:
            arrival, packet = packets.get()
            time.sleep(max(0, arrival - time.monotonic()))
            # Checksums are sums: they stay right.
            source, destination = packet[12:16], packet[16:20]
            os.write(device, packet[:12] + destination + source + packet[20:])

    for function in take, give:
        threading.Thread(target=function, daemon=True).start()
    return f"{network}.1"


def ip(*arguments: str) -> None:
    """Configure the network of the namespace."""
    subprocess.run(["ip", *arguments], check=True)


def take(case: Case, host: str, servers: Servers) -> dict[str, float]:
    """Let a client measure, and return its figures."""
    numbers = map(str, [servers.port, TURNS, THREADS])
    result = subprocess.run(
        [*python(CLIENTS[case.contestant], "delayed.py"), case.measure, host, *numbers],
        env=servers.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
    )
    servers.settle()
    return {"seconds": float(result.stdout)}


def cell(results: Results, case: Case, delay: int) -> str:
    """Return a median with its spread."""
    samples = results.samples(f"{case.measure} {delay}", case.contestant)
    median = results.median(f"{case.measure} {delay}", case.contestant)
    low, high = (number(value * 1e3) for value in (min(samples), max(samples)))
    return f"{number(median * 1e3)} ({low}-{high})"


def main() -> None:
    """Run the benchmark."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    if [name for _, name in socket.if_nameindex()] != ["lo"]:
        sys.exit("delay: not in a network namespace of its own")
    # All of 127.0.0.0/8 is on loopback otherwise.
    ip("address", "add", "127.0.0.1/32", "dev", "lo")
    ip("link", "set", "lo", "up")
    ip("address", "delete", "127.0.0.1/8", "dev", "lo")
    hosts = {delay: open_way(delay) if delay else "127.0.0.1" for delay in DELAYS}
    results = Results()
    with running_servers() as servers:
        for _ in range(rounds):
            for delay, host in hosts.items():
                for case in CASES:
                    figures = take(case, host, servers)
                    results.add(f"{case.measure} {delay}", case.contestant, figures)
    head = ["", *(f"{delay} ms" if delay else "loopback" for delay in DELAYS)]
    rows = [
        [
            f"{TITLES[case.contestant]}: {MEASURES[case.measure]}",
            *(cell(results, case, delay) for delay in DELAYS),
        ]
        for case in CASES
    ]
    print("\n".join(table(head, rows)))
    facts = machine.describe()
    print(f"\nrounds: {rounds}, load: {os.getloadavg()}")
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))


if __name__ == "__main__":
    main()
