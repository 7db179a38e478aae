# SPDX-License-Identifier: MIT
"""Load: threads run mixed commands on servers that are killed on the way.

    python tests/soak/load.py --seconds 60 --threads 64

Each call has to return its own reply, compared byte for byte, or raise a RemctlError
that says why it was lost, and none may hang.  Processes are forked meanwhile, in the
middle of a command.  Prints a summary, with what was lost by exception, and exits with
0 if nothing went wrong.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import itertools
import json
import os
import platform
import re
import resource
import select
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from contextlib import ExitStack
from random import Random
from typing import Any, Callable, NamedTuple

from support import commands, descriptors, wait_until

import remctl
from remctl import RemctlError, RemctlOutput, RemctlSimpleResult
from remctl.testing import Realm, Server

# Seconds that no call takes unless it hangs.
BOUND = 60.0

# The first one stays up.
SERVERS = 3

# The exit status of a forked child whose command was lost.
LOST = 3

# Why a command may be lost: servers are killed, objects closed, time-outs short.
RESET = "resets connections before it answers"
BROKEN = "unexpected end of file|Connection reset by peer|Broken pipe"
LOSSES = re.compile(
    "|".join(
        [
            r".*Error: cannot connect to localhost \(port N\): Connection refused",
            rf".*Error: error (receiv|send)ing token: ({BROKEN}) \(.*",
            rf".*Error: .*{RESET}.*",
            r".*Error: the connection was closed during the call",
            r".*NotOpenedError: no currently open connection",
            r".*TimeoutError: .*timed out.*",
        ]
    )
)


class Turn(NamedTuple):
    """What an action may use: its thread's client, and an address for another."""

    client: remctl.Remctl
    here: tuple[str, int]
    tag: bytes
    random: Random


# An action's reply, and what it should be.
Replies = tuple[object, object]


def text(error: RemctlError) -> str:
    return f"{type(error).__name__}: {error}"


def result(
    stdout: bytes, stderr: bytes | None = None, status: int = 0
) -> RemctlSimpleResult:
    return RemctlSimpleResult(stdout, stderr, status)


def tagged_data(turn: Turn) -> bytes:
    return turn.tag * (turn.random.randrange(1_000_000) // len(turn.tag) + 1)


def small(turn: Turn) -> Replies:
    return turn.client.run(["test", "args", turn.tag]), result(turn.tag + b"\0")


def streams(turn: Turn) -> Replies:
    reply = turn.client.run(["test", "streams", turn.tag, turn.tag[::-1]])
    return reply, result(turn.tag, turn.tag[::-1])


def large_output(turn: Turn) -> Replies:
    count = turn.random.randrange(1, 1_000_000)
    expected = (b"0123456789abcde\n" * (count // 16 + 1))[:count]
    return turn.client.run(["test", "bytes", count]), result(expected)


def large_argument(turn: Turn) -> Replies:
    data = tagged_data(turn)
    expected = f"{len(data)} {hashlib.sha256(data).hexdigest()}\n"
    return turn.client.run(["test", "digest", data]), result(expected.encode())


def large_both(turn: Turn) -> Replies:
    data = tagged_data(turn)
    return turn.client.run(["test", "stdin", data]), result(data)


def noop(turn: Turn) -> Replies:
    return turn.client.noop(), True


def one_shot(turn: Turn) -> Replies:
    reply = remctl.remctl(*turn.here, None, ["test", "args", turn.tag])
    return reply, result(turn.tag + b"\0")


def tokens(turn: Turn) -> Replies:
    with remctl.Remctl(*turn.here) as client:
        client.command(["test", "args", turn.tag])
        return list(client), tokens_of(turn.tag)


def time_out(turn: Turn) -> Replies:
    """Wait too short for a command, and sometimes for open()."""
    with remctl.Remctl(*turn.here, timeout=turn.random.uniform(0.05, 0.5)) as client:
        return client.run(["test", "sleep", "2"]), result(b"awake\n")


def tokens_of(tag: bytes) -> list[RemctlOutput]:
    return [
        RemctlOutput("output", tag + b"\0", 1, None, None),
        RemctlOutput("status", None, None, 0, None),
    ]


# With how often each is done.
ACTIONS: dict[Callable[[Turn], Replies], int] = {
    small: 8,
    streams: 4,
    large_output: 2,
    large_argument: 2,
    large_both: 2,
    noop: 4,
    one_shot: 3,
    tokens: 2,
    time_out: 1,
}


class Load:
    """The threads, and the count of what they saw."""

    def __init__(self, servers: list[Server], threads: int) -> None:
        self.servers = servers
        self.clients = [remctl.Remctl() for _ in range(threads)]
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.counts = Counter[str]()
        self.right = Counter[str]()
        self.errors = Counter[str]()
        # When each thread's call began; the last one is the forking thread.
        self.began: list[float | None] = [None] * (threads + 1)
        self.excepthook = threading.excepthook
        threading.excepthook = self.unexpected

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def count_lost(self, error: str) -> None:
        error = re.sub(r"(port |localhost:)\d+", r"\1N", error)
        with self.lock:
            self.counts["lost" if LOSSES.fullmatch(error) else "wrong"] += 1
            self.counts["resets"] += RESET in error
            self.errors[error] += 1

    def compare(self, action: str, reply: object, expected: object) -> None:
        right = reply == expected
        with self.lock:
            self.counts["right" if right else "wrong"] += 1
            self.right[action] += right
        if not right:
            print(f"{action}: {reply!r:.300}, not {expected!r:.300}", file=sys.stderr)

    def unexpected(self, arguments: Any) -> None:
        """Count an exception that nothing here expects, which ends its thread."""
        self.count("wrong")
        self.excepthook(arguments)

    # What threads do

    def work(self, number: int) -> None:
        """Act until it is over."""
        random = Random(number)
        actions, weights = list(ACTIONS), list(ACTIONS.values())
        for turn in itertools.count():
            if self.over.is_set():
                return
            # Mostly its own one; others meet on it now and then.
            client = self.clients[number]
            if random.random() < 0.2:
                client = random.choice(self.clients)
            if random.random() < 0.03:
                client.close()
                self.count("closes")
            server = random.choice(self.servers)
            here = (server.host, server.port)
            action = random.choices(actions, weights)[0]
            tag = b"%d-%d," % (number, turn)
            self.call(number, action, Turn(client, here, tag, random))

    def call(self, number: int, action: Callable[[Turn], Replies], turn: Turn) -> None:
        self.count("calls")
        self.began[number] = time.monotonic()
        try:
            if not turn.client.opened:
                turn.client.open(*turn.here)
            reply, expected = action(turn)
        except RemctlError as error:
            self.count_lost(text(error))
        else:
            self.compare(action.__name__, reply, expected)
        self.began[number] = None

    def kill(self) -> None:
        """Kill servers, and start them again."""
        for server in itertools.cycle(self.servers[1:]):
            if self.over.wait(0.5):
                return
            server.kill()
            self.count("kills")
            self.over.wait(0.2)  # connections are refused meanwhile
            server.start()

    def fork(self, client: remctl.Remctl) -> None:
        """Fork in the middle of commands, whose replies must come all the same."""
        for turn in itertools.count():
            if self.over.wait(0.05):
                client.close()
                return
            tag = b"fork %d" % turn
            self.count("calls")
            self.began[-1] = time.monotonic()
            client.command(["test", "args", tag])
            self.fork_once(tag)
            self.compare("across a fork", list(client), tokens_of(tag))
            self.began[-1] = None

    def fork_once(self, tag: bytes) -> None:
        self.count("forks")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = self.in_child(tag, writing)
            finally:
                os._exit(status)
        os.close(writing)
        # It is readable when the child has something to say, or has ended.
        poll = select.poll()
        poll.register(reading)
        if not poll.poll(BOUND / 2 * 1000):
            self.count("hung")
            os.kill(child, signal.SIGABRT)  # prints its stacks
        said = os.read(reading, 10_000).decode()
        os.close(reading)
        status = os.waitpid(child, 0)[1]
        self.count("calls")
        if os.WIFSIGNALED(status):
            self.count("died")
        elif os.WEXITSTATUS(status) == LOST:
            self.count_lost(f"in a child: {said}")
        else:
            self.compare("in a child", status, 0)

    def in_child(self, tag: bytes, pipe: int) -> int:
        """Run a command of the child's own; return the status to exit with."""
        server = self.servers[-1]
        try:
            reply = remctl.remctl(server.host, server.port, None, ["test", "args", tag])
        except RemctlError as error:
            os.write(pipe, text(error).encode())
            return LOST
        inherited = any(client.opened for client in self.clients)
        return int(reply != result(tag + b"\0") or inherited)

    def use_again(self) -> None:
        """Open every object again, and run a command with each."""
        for number, client in enumerate(self.clients):
            self.began[0] = time.monotonic()
            server = self.servers[number % len(self.servers)]
            client.open(server.host, server.port)
            self.count("calls")
            reply = client.run(["test", "args", number])
            self.compare("afterwards", reply, result(b"%d\0" % number))
            client.close()
        self.began[0] = None

    # The main thread

    def run(self, seconds: float) -> None:
        """Let the threads work for so long, then see whether all is well."""
        forking = remctl.Remctl(self.servers[0].host, self.servers[0].port)
        end = time.monotonic() + seconds
        threads = [self.start(self.work, n) for n in range(len(self.clients))]
        threads += [self.start(self.kill), self.start(self.fork, forking)]
        while time.monotonic() < end and not self.hangs():
            self.over.wait(min(1, max(0, end - time.monotonic())))
        self.over.set()
        self.join(threads)
        self.join([self.start(self.use_again)])

    def start(self, function: Callable[..., None], *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        thread.start()
        return thread

    def hangs(self) -> bool:
        """Whether a call hangs; print all stacks then."""
        oldest = time.monotonic() - BOUND
        hung = sum(began is not None and began < oldest for began in self.began)
        if hung and not self.counts["hung"]:
            self.counts["hung"] = hung
            faulthandler.dump_traceback()
        return self.counts["hung"] > 0

    def join(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            while thread.is_alive() and not self.hangs():
                thread.join(1)

    def succeeded(self) -> bool:
        counts = self.counts
        failures = counts["wrong"], counts["hung"], counts["died"]
        return (
            failures == (0, 0, 0)
            and counts["right"] > 0
            and counts["calls"] == counts["right"] + counts["lost"]
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=64)
    options = parser.parse_args()
    faulthandler.enable()
    warnings.filterwarnings(
        "ignore", "This process", DeprecationWarning
    )  # of the forks
    with Realm() as realm, realm.applied(), ExitStack() as stack:
        servers = [
            stack.enter_context(realm.server(commands(realm))) for _ in range(SERVERS)
        ]
        before = descriptors()
        load = Load(servers, options.threads)
        load.run(options.seconds)
        if load.succeeded():
            wait_until(lambda: descriptors() <= before)
    counts = ("calls", "right", "wrong", "hung", "died", "lost", "resets")
    events = ("closes", "kills", "forks")
    summary = {
        "interpreter": f"{sys.implementation.name} {platform.python_version()}",
        "threads": options.threads,
        "seconds": options.seconds,
        "memory (MiB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **{name: load.counts[name] for name in counts + events},
        "right by action": dict(load.right.most_common()),
        "lost by exception": dict(load.errors.most_common()),
    }
    print(json.dumps(summary, indent=2))
    return 0 if load.succeeded() else 1


if __name__ == "__main__":
    sys.exit(main())
